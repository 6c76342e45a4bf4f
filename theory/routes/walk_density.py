r"""x_{l+1} = relu(a x_l + b z_l): the law of one channel on a grid, forwards, and its gradient back.

The law of x_l is an atom p_l at 0 and a smooth density f_l on (0, inf),

    f_{l+1}(y) = p_l k(y, 0) + int k(y, x) f_l(x) dx,   k(y, x) = exp(-(y - a x)^2/2b^2)/(b sqrt(2 pi)),

and the mean squared gradient given the channel's place, v_l(x) = E[g_l^2 | x_l = x], obeys the adjoint

    v_l(x) = a^2 int k(y, x) v_{l+1}(y) dy + c (b^2/q_l) E[g_{l+1}^2; x_{l+1} > 0],      v_L = 1:

the mask of the activation multiplies what runs along the skip, and the branch spreads over all channels
(W'd is Gaussian), with R^2 = sigma_w^2 q_l.  c = 1 for LN and RMSNorm.  Weights with centered rows see
q_l - m_l^2 for q_l.

Gauss-Legendre panels a few b wide take Gaussians of that width to rounding; no population, no noise.
Source: theory notes, section 5 (post-activation); the gradient's equation is derived here.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from theory.errors import out_of_domain
from theory.specs._check import integer, real

__all__ = ["WalkLaw", "walk_law"]

FloatArray = NDArray[np.float64]

# Gaussians end here: exp(-9.5^2/2) = 3e-20.
_TAIL = 9.5
# 16 nodes on panels of 2 b leave 1e-16 of exp(-x^2/2).
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_PANEL = 2.0
_LARGEST_GRID = 60_000


class WalkLaw(NamedTuple):
    """Moments of x_l for l = 1 ... L, and E[g_l^2] with E[g_L^2] = 1.

    ``zero`` is P(x_l = 0); ``gradient`` and ``shared``, what arrives through the branch of block l at
    its input x_{l-1}, are None unless asked for.
    """

    mean: FloatArray
    second_moment: FloatArray
    zero: FloatArray
    gradient: FloatArray | None
    shared: FloatArray | None


def walk_law(
    depth: int,
    *,
    second_moment: float = 0.0,
    mean: float = 0.0,
    skip: float = 1.0,
    branch: float = 1.0,
    branch_gradient: float | None = None,
    centered: bool = False,
) -> WalkLaw:
    """Law of x_{l+1} = relu(a x_l + b z_l) from a Gaussian x_0, for l = 1 ... L.

    Accuracy 1e-12 for L <= 1,000 (against Spitzer's moments at a = b = 1, x_0 = 0).

    Parameters
    ----------
    depth
        L >= 1.
    second_moment, mean
        E[x_0^2] and E[x_0]; both 0 is the point x_0 = 0.
    skip, branch
        a in (0, 1.5], b > 0.
    branch_gradient
        c of the module's equation (1 for LN, RMSNorm), or None to leave gradients out.
    centered
        Whether the rows of W are.

    Raises
    ------
    SpecificationError
        Out of range, or so deep that the grid would not fit.
    """
    count = integer("depth", depth, low=1, remedy="count the blocks")
    a = real("skip", skip, low=0.0, high=1.5, open_low=True, remedy="1 is the usual choice")
    b = real("branch", branch, low=0.0, open_low=True, remedy="1 is the usual choice")
    variance = second_moment - mean * mean
    if not variance >= 0.0:
        raise out_of_domain("second_moment", second_moment, "at least mean^2", "check both")
    x, w = _grid(count, a, b, variance, mean)
    kernel = _kernel(x, w, a, b)
    from_zero = w * _normal(x, 0.0, b)
    # First step in closed form: whatever the start, a x_0 + b z_0 is Gaussian.
    spread = math.sqrt(a * a * variance + b * b)
    mass = w * _normal(x, a * mean, spread)
    zero = float(special.ndtr(-a * mean / spread))
    masses, zeros = [mass], [zero]
    stay = special.ndtr(-a * x / b)
    for _ in range(count - 1):
        mass, zero = kernel @ mass + zero * from_zero, 0.5 * zero + float(stay @ mass)
        masses.append(mass)
        zeros.append(zero)
    table = np.array(masses)
    first, second = table @ x, table @ (x * x)
    if branch_gradient is None:
        return WalkLaw(first, second, np.array(zeros), None, None)
    # What the branch of block k sees: x_0 first.
    seen = np.concatenate(([second_moment], second[:-1]))
    if centered:
        seen = seen - np.concatenate(([mean], first[:-1])) ** 2
    with np.errstate(divide="ignore"):
        # From x_0 = 0 the first branch divides by 0: there shared is infinite.
        share = branch_gradient * b * b / seen
    gradient, shared = np.ones(count), np.empty(count)
    back, value, at_zero = kernel.T.tocsr(), np.ones(len(x)), 1.0
    for k in range(count - 1, -1, -1):
        gradient[k] = table[k] @ value + zeros[k] * at_zero
        shared[k] = share[k] * float(table[k] @ value)
        at_zero = a * a * float(from_zero @ value) + shared[k]
        value = a * a * (back @ value) + shared[k]
    return WalkLaw(first, second, np.array(zeros), gradient, shared)


def _grid(
    depth: int, a: float, b: float, variance: float, mean: float
) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights on (0, end), end beyond reach of every x_l."""
    growth = np.cumsum(a ** (2.0 * np.arange(depth)))
    reach = a ** np.arange(1, depth + 1) * max(mean, 0.0) + _TAIL * np.sqrt(
        a ** (2.0 * np.arange(1, depth + 1)) * variance + b * b * growth
    )
    panels = math.ceil(float(np.max(reach)) / (_PANEL * b))
    if not panels * len(_NODES) <= _LARGEST_GRID:
        raise out_of_domain(
            "depth", depth, "such that the walk stays on a grid", "use a population"
        )
    centers = _PANEL * b * (np.arange(panels) + 0.5)
    half = 0.5 * _PANEL * b
    return (centers[:, None] + half * _NODES).ravel(), np.tile(half * _WEIGHTS, panels)


def _kernel(x: FloatArray, w: FloatArray, a: float, b: float) -> Any:
    """w_j k(y_j, x_i): masses to masses, as a band."""
    from scipy import sparse

    low = np.searchsorted(x, a * x - _TAIL * b)
    high = np.searchsorted(x, a * x + _TAIL * b)
    counts = high - low
    column = np.repeat(np.arange(len(x)), counts)
    first = np.cumsum(counts) - counts
    row = np.arange(counts.sum()) - np.repeat(first - low, counts)
    values = w[row] * _normal(x[row], a * x[column], b)
    return sparse.csr_array((values, (row, column)), shape=(len(x), len(x)))


def _normal(y: FloatArray, center: FloatArray | float, spread: float) -> FloatArray:
    z = (y - center) / spread
    return np.asarray(np.exp(-0.5 * z * z) / (spread * math.sqrt(2.0 * math.pi)))
