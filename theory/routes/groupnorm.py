r"""GroupNorm over one pool of G channels at eps = 0: gap' = E[D(r)], r ~ Hotelling(c, n).

A normalized group is a uniform vector of length sqrt(G - ddof) in n = G - 1 dimensions (about the
mean) or n = G (rms), whatever the second moment of h; a coordinate of it is

    u = radius x,   radius^2 = (G - ddof) (G - 1)/G  or  G,   x a coordinate of a uniform unit vector.

Two groups at channel correlation c = 1 - gap make an angle theta with cos theta = r ~ Hotelling(c, n),
and D(r) = 1 - K(r)/K(1) is the gap of phi at that angle (theory notes, section 3): the arc-cosine
kernel for positively homogeneous phi, the spherical dual for the others.  Backwards, by the adjoint
rule, the factor is q dE[phi phi']/dp = E[phi^2] dgap'/dgap, p = c q; at gap = 0 it is q E||J_a||^2 with
J = diag(phi'(u)) (P - u u'/(G - ddof))/R, that is radius^2/(n-2) E[phi'(u)^2 (1 - x^2)]; for relu
(G-2)/(2(G-3)).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.errors import out_of_domain
from theory.routes import arccosine, hotelling
from theory.specs.activations import Activation

__all__ = ["group_gap", "group_moments", "group_slope"]

FloatArray = NDArray[np.float64]

_ROUNDING = 2e-15
# Gamma(m + 1/2)/(Gamma(m) sqrt(m)) in powers of 1/m, for m >= _LARGE.
_LARGE = 80.0
_RATIO = (1.0, -1 / 8, 1 / 128, 5 / 1024, -21 / 32768, -399 / 262144, 869 / 4194304)


class _Dual(NamedTuple):
    """What depends on the layer alone: the pool's rank, moments of phi(u), D and its derivative."""

    rank: int
    second_moment: float
    mean: float
    gap: hotelling.Function
    derivative: hotelling.Function
    moment_error: float
    gap_error: float  # absolute error of D, relative to D'(0) (1 - r)
    own_slope: float  # q E||J_a||^2


def group_moments(
    activation: Activation, *, group_size: int, centered: bool, ddof: int = 0
) -> tuple[float, float, float]:
    """(E phi(u)^2, E phi(u), relative error), u a coordinate of a normalized group; free of q.

    Source: theory notes, section 3.  The error of the mean is relative to sqrt(E phi(u)^2).

    Parameters
    ----------
    activation
        Its base function is used.
    group_size
        G >= 2 if centered, else >= 1.
    centered
        True: (h - mean)/std, R^2 = h'P h/(G - ddof).  False: h/rms.
    ddof
        0 or 1; 0 for rms.

    Raises
    ------
    SpecificationError
        A parameter outside its domain.
    """
    dual = _dual(activation, group_size, centered, ddof)
    return dual.second_moment, dual.mean, dual.moment_error


def group_gap(
    activation: Activation, gap: ArrayLike, *, group_size: int, centered: bool, ddof: int = 0
) -> tuple[FloatArray, FloatArray]:
    """gap' = 1 - E[phi phi']/E[phi^2] = E[D(r)], r ~ Hotelling(1 - gap, rank).

    Source: theory notes, sections 3 and 4 (GN).  Full relative precision as gap -> 0.

    Parameters
    ----------
    gap
        1 - correlation of the pre-activations, in [0, 2], any shape.

    Returns
    -------
    gap', rel_error
        Arrays of the shape of ``gap``.  The error is relative to gap'; for an even phi (abs), whose gap'
        vanishes at c = -1 too, to ``gap``.
    """
    dual = _dual(activation, group_size, centered, ddof)
    value, error = hotelling.expect(dual.gap, gap, rank=dual.rank)
    return value, error + dual.gap_error


def group_slope(
    activation: Activation, gap: ArrayLike, *, group_size: int, centered: bool, ddof: int = 0
) -> tuple[FloatArray, FloatArray]:
    """q dE[phi phi']/dp = E[phi^2] dgap'/dgap, p = (1 - gap) q; at gap = 0 q E||J_a||^2.

    The gradient covariance of two samples is multiplied by sigma_w^2 * value / sqrt(q1 q2).
    Source: theory notes, section 4 ("Adjoint rule", "GN"); relu at gap = 0: (G-2)/(2(G-3)).

    Parameters
    ----------
    gap
        1 - correlation of the pre-activations, in [0, 2], any shape.

    Returns
    -------
    value, rel_error
        Arrays of the shape of ``gap``; the error is relative to the value.  A pool of rank 2 gives inf at
        gap = 0; one of rank 1 (u = +-radius, the gradient is zero almost surely) gives 0 everywhere.
    """
    dual = _dual(activation, group_size, centered, ddof)
    gaps = np.asarray(gap, dtype=np.float64)
    if dual.rank == 1 or not gaps.any():
        own = 0.0 if dual.rank == 1 else dual.own_slope
        return np.full(gaps.shape, own), np.full(gaps.shape, dual.moment_error + _ROUNDING)
    value, error = hotelling.expect_slope(dual.gap, dual.derivative, gaps, rank=dual.rank)
    # Errors of D' are relative to its size at r = 1, where its mean is largest.
    steepest = max(dual.rank - 1.0, 1.0) / max(dual.rank - 2.0, 1.0) * _slope_at_one(dual)
    with np.errstate(invalid="ignore"):
        share = np.maximum(1.0, steepest / np.maximum(np.abs(value), 1e-300))
    error = error + (dual.gap_error + _ROUNDING) * np.where(np.isinf(value), 1.0, share)
    return dual.second_moment * value, error + dual.moment_error


def _slope_at_one(dual: _Dual) -> float:
    return float(dual.derivative(np.zeros(1), np.zeros(1))[0])


@lru_cache(maxsize=1024)
def _dual(activation: Activation, group_size: int, centered: bool, ddof: int) -> _Dual:
    rank, radius = _pool(group_size, centered, ddof)
    slopes = activation.ray_slopes
    if slopes is not None:
        return _homogeneous(slopes, rank, radius)
    # Imported when used: SciPy's special functions take time to load.
    from theory.routes import spherical

    base = activation.base
    one = spherical.sphere_moments(base, rank=rank, radius=radius)
    function = spherical.sphere_gap_function(base, rank=rank, radius=radius)
    tangent = radius**2 * (one.slope2 - one.slope2_x2)
    return _Dual(
        rank=rank,
        second_moment=one.second_moment,
        mean=one.mean,
        gap=function,
        derivative=function.derivative,
        moment_error=one.error,
        gap_error=function.error,
        own_slope=_over_tail(tangent, rank),
    )


def _homogeneous(slopes: tuple[float, float], rank: int, radius: float) -> _Dual:
    a, b = slopes
    square = 0.5 * (a * a + b * b)
    # E|x| = Gamma(n/2)/(sqrt(pi) Gamma((n+1)/2)).
    size = 1.0 / (math.sqrt(math.pi) * _half_step(0.5 * rank))
    return _Dual(
        rank=rank,
        second_moment=square * radius**2 / rank,
        mean=0.5 * (a + b) * radius * size,
        gap=lambda one_minus_r, theta: arccosine.ray_gap(one_minus_r, slopes=slopes),
        derivative=lambda one_minus_r, theta: (
            arccosine.ray_slope(one_minus_r, slopes=slopes) / square
        ),
        moment_error=_ROUNDING,
        gap_error=0.0,
        own_slope=_over_tail(square * radius**2 * (1.0 - 1.0 / rank), rank),
    )


def _over_tail(value: float, rank: int) -> float:
    """E[1/R^2] brings 1/(n - 2): infinite for n = 2; for n = 1 the gradient is zero."""
    if rank <= 2:
        return math.inf if rank == 2 else 0.0
    return value / (rank - 2.0)


def _pool(group_size: int, centered: bool, ddof: int) -> tuple[int, float]:
    """Rank n and radius of one coordinate."""
    if ddof not in (0, 1) or (ddof == 1 and not centered):
        raise out_of_domain("ddof", ddof, "0 or 1, and 0 for an rms", "use ddof=0")
    least = 2 if centered else 1
    if not least <= group_size < math.inf:
        remedy = "a finite group; use the LayerNorm limit for all channels"
        raise out_of_domain("group_size", group_size, f"an integer >= {least}", remedy)
    size = int(group_size)
    if not centered:
        return size, math.sqrt(size)
    return size - 1, math.sqrt((size - ddof) * (size - 1.0) / size)


def _half_step(m: float) -> float:
    """Gamma(m + 1/2)/Gamma(m), relative error below 2e-15 for m >= 1/2."""
    if m < _LARGE:
        return math.gamma(m + 0.5) / math.gamma(m)
    series = 0.0
    for coefficient in reversed(_RATIO):
        series = series / m + coefficient
    return math.sqrt(m) * series
