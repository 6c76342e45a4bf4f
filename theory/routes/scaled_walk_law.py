r"""x_{l+1} = e relu(a x_l + s_l sqrt(q_l) z_l) + t, q_l = E[x_l^2], block by block.

Post-activation without a normalizer.  In units of sqrt(q_l) the density of y = a x + s z > 0 and the
gradient given the place obey (e = 1, t = 0)

    f_{l+1}(y) = P(x_l = 0) k(y, 0) + int k(y, x/sqrt(r_l)) f_l(x) dx,     r_l = E[relu(y)^2],
    v_l(x) = int_{y>0} k(y, x) (a^2 v_{l+1}(y)) dy + c E[v_{l+1}; x_{l+1} > 0],      v_L = 1,

k(y, x) the Gaussian density about a x with deviation s, and q_{l+1} = r_{l+1} q_l.  A scaled and shifted
relu (Weight Norm's) moves places to e y + t/sqrt(q_l) and multiplies gradients by e^2.  Weights with centered
rows make s depend on E[x_l]^2/q_l, a shift inside the branch on t/sqrt(q_l).  Rates in the limit are
``scaled_walk``; panels as in ``walk_density``.  Derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.errors import HypothesisError

__all__ = ["ScaledWalkLaw", "scaled_walk_law"]

FloatArray = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_MOST_PANELS = 120
# A kernel whose parameters moved by less is kept.
_SAME = 1e-14


class ScaledWalkLaw(NamedTuple):
    """log q_l/q_0, log E[g_l^2] with E[g_L^2] = 1, and the log of what branches return to x_{l-1}."""

    log_second_moment: FloatArray
    log_gradient: FloatArray | None
    log_shared: FloatArray | None


class _Kernel:
    """k(y_j, x_i) at nodes, kept while its parameters stay."""

    def __init__(self, skip: float, scale: float, end: float, panels: int) -> None:
        half = 0.5 * end / panels
        self.skip, self.scale = skip, scale
        self.y = ((2.0 * np.arange(panels) + 1.0)[:, None] * half + half * _NODES).ravel()
        self.w = np.tile(half * _WEIGHTS, panels)
        self._at, self._values = (math.inf,) * 3, np.empty(0)

    def __call__(self, r: float, s: float, shift: float) -> FloatArray:
        """Rows: places (e y_i + t)/sqrt(r), y = 0 first; columns y_j."""
        old, at = self._at, (r, s, shift)
        if abs(r / old[0] - 1.0) + abs(s / old[1] - 1.0) + abs(shift - old[2]) > _SAME:
            places = self.scale * np.concatenate(([0.0], self.y)) + shift
            places *= self.skip / math.sqrt(r)
            self._values = _normal(self.y[None, :] - places[:, None], s)
            self._at = at
        return self._values


def scaled_walk_law(
    depth: int,
    *,
    step: Callable[[float, float], float],
    skip: float = 1.0,
    mean: float = 0.0,
    branch_gradient: float | None = None,
    scale: float = 1.0,
    shift: float = 0.0,
    fine: int = 1,
) -> ScaledWalkLaw:
    """Law of x_{l+1} = e relu(a x_l + s_l sqrt(q_l) z_l) + t from a Gaussian x_0, for l = 1 ... depth.

    Parameters
    ----------
    depth
        Blocks.
    step
        s as a function of E[x_l]/sqrt(q_l) and t/sqrt(q_l).
    skip
        a > 0.
    mean
        E[x_0]/sqrt(q_0).
    branch_gradient
        c, or None to leave gradients out.
    scale, shift
        e > 0, and t/sqrt(q_0).
    fine
        Panels are that many times narrower.

    Raises
    ------
    HypothesisError
        Steps too small for the grid.
    """
    # Streams of one sign lose most to centering: E[x]^2/E[x^2] stays below 0.9.  Shifts fade as streams grow.
    fading = shift * np.linspace(0.0, 1.0, 9 if shift else 1)
    bounds = [step(m, t) for m in (0.0, math.sqrt(0.9)) for t in fading.tolist()]
    smallest, largest = min(bounds), max(bounds)
    end = 9.5 * math.sqrt(skip * skip + largest * largest) + 9.5
    panels = fine * max(20, math.ceil(0.5 * end / smallest))
    if panels > fine * _MOST_PANELS:
        raise HypothesisError(
            f"steps of {smallest:.2g} of the stream's size are too small for a grid"
        )
    kernel = _Kernel(skip, scale, end, panels)
    y, w = kernel.y, kernel.w
    steps, ratios = np.empty(depth), np.empty(depth)
    masses, shifts = np.empty((depth, len(y))), np.empty(depth)
    for k in range(depth):
        steps[k] = step(mean, shift)
        if k == 0:
            spread = math.sqrt(skip * skip * (1.0 - mean * mean) + steps[0] ** 2)
            density = _normal(y - skip * mean, spread)
        else:
            before = np.concatenate(([1.0 - masses[k - 1].sum()], masses[k - 1]))
            density = before @ kernel(ratios[k - 1], steps[k], shifts[k - 1])
        masses[k], shifts[k] = w * density, shift
        first, second = float(masses[k] @ y), float(masses[k] @ (y * y))
        ratios[k] = scale * scale * second + 2.0 * scale * shift * first + shift * shift
        mean = (scale * first + shift) / math.sqrt(ratios[k])
        shift /= math.sqrt(ratios[k])
    grown = np.cumsum(np.log(ratios))
    if branch_gradient is None:
        return ScaledWalkLaw(grown, None, None)
    gradient, shared = np.empty(depth), np.empty(depth)
    value, size = np.ones(len(y) + 1), 0.0
    for k in range(depth - 1, -1, -1):
        alive = float(masses[k] @ value[1:])
        gradient[k] = math.log(alive + (1.0 - masses[k].sum()) * value[0]) + size
        returned = scale * scale * branch_gradient * alive
        shared[k] = math.log(returned) + size
        if k == 0:
            break
        kept = kernel(ratios[k - 1], steps[k], shifts[k - 1]) @ (w * value[1:])
        value = (skip * scale) ** 2 * kept + returned
        largest = float(value.max())
        value, size = value / largest, size + math.log(largest)
    return ScaledWalkLaw(grown, gradient, shared)


def _normal(x: FloatArray, spread: float) -> FloatArray:
    """Density of a centered Gaussian."""
    return np.asarray(np.exp(-0.5 * (x / spread) ** 2) / (spread * math.sqrt(2.0 * math.pi)))
