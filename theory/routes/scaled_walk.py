r"""x' = relu(a x + s sqrt(q) z), q = E[x^2]: a reflected walk whose steps grow with it.

Post-activation without a normalizer: the branch is proportional to the stream.  In units of sqrt(q) the
law of a channel settles at the fixed point of

    y = a x + s z,      r = E[relu(y)^2],      x' = relu(y)/sqrt(r),

and q grows by r per block.  Squared gradients given the place, v(x) = E[g^2 | x], obey

    v(x) = E[a^2 1_{y>0} v'(y/sqrt(r)) | x] + c E[1_{y>0} v'(y/sqrt(r))],

c what the branch returns; their growth is that operator's largest eigenvalue.  Gauss-Legendre panels, as
in ``walk_density``; derived here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from theory.errors import HypothesisError
from theory.specs._check import real

__all__ = ["ScaledWalk", "scaled_walk"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
# Panels two deviations of a step wide, as long as the kernel stays a small matrix.
_MOST_PANELS = 120
_ITERATIONS = 20_000


class ScaledWalk(NamedTuple):
    """Factors per block on the second moment and on squared gradients."""

    second_moment: float
    gradient: float


def scaled_walk(step: float, *, skip: float = 1.0, branch_gradient: float = 0.0) -> ScaledWalk:
    """(r, largest eigenvalue) of x' = relu(a x + s sqrt(q) z).

    Parameters
    ----------
    step
        s > 0: deviation that the branch adds to a stream of second moment 1.
    skip
        a > 0.
    branch_gradient
        c: what the branch returns of squared gradients.

    Raises
    ------
    HypothesisError
        Steps too small for the grid, or a law that does not settle.
    """
    s = real("step", step, low=0.0, open_low=True, remedy="without a branch nothing is reflected")
    a = real("skip", skip, low=0.0, open_low=True, remedy="1 is the usual choice")
    # y ends 9.5 deviations out; x, y/sqrt(r) with r > s^2/2, not beyond sqrt(2)/s times that.
    end = 9.5 * math.sqrt(a * a + s * s) + 9.5
    panels = max(20, math.ceil(0.5 * end / s))
    if panels > _MOST_PANELS:
        raise HypothesisError(
            f"steps of {step:.2g} of the stream's size are too small for the grid; take a branch that "
            f"adds {0.5 * end / _MOST_PANELS:.2g} or more, or fit predict's slope"
        )
    half = 0.5 * end / panels
    y = ((2.0 * np.arange(panels) + 1.0)[:, None] * half + half * _NODES).ravel()
    w = np.tile(half * _WEIGHTS, panels)
    # The law of y > 0 on the nodes, the atom of x at 0; first x = 0.
    mass, r = _normal(y, s) * w, 0.5 * s * s
    for _ in range(_ITERATIONS):
        kernel = _normal(y[:, None] - a / math.sqrt(r) * y[None, :], s)
        new = w * (kernel @ mass + (1.0 - mass.sum()) * _normal(y, s))
        second = float(new @ (y * y))
        settled = abs(second / r - 1.0) < 1e-13 and np.abs(new - mass).sum() < 1e-11
        mass, r = new, second
        if settled:
            break
    else:
        raise HypothesisError("the law of the scaled walk does not settle; take a larger branch")
    # v at 0 and at the nodes, where x = y/sqrt(r).
    places = np.concatenate(([0.0], a / math.sqrt(r) * y))
    forward = w * _normal(y[None, :] - places[:, None], s)
    value, rate = np.ones(len(places)), 0.0
    for _ in range(_ITERATIONS):
        new = a * a * (forward @ value[1:]) + branch_gradient * float(mass @ value[1:])
        size = float(new.max())
        value = new / size
        if abs(size - rate) < 1e-13 * size:
            return ScaledWalk(r, size)
        rate = size
    raise HypothesisError("the gradient's operator does not settle; take a larger branch")


def _normal(x: np.ndarray, spread: float) -> np.ndarray:
    return np.asarray(np.exp(-0.5 * (x / spread) ** 2) / (spread * math.sqrt(2.0 * math.pi)))
