r"""GroupNorm over G channels with eps >= 0: two samples, hence a two-dimensional Laplace integral.

The G channels are independent pairs with covariance [[q1, p], [p, q2]], p = (1-gap) sqrt(q1 q2); the
pool has n modes (n = G - 1 about the mean, n = G otherwise) and a coordinate has the weight
w = 1 - 1/G (centered numerator) or 1.  With N = G - ddof, eps_i = N eps/(2 q_i),
alpha = 2 q1 s/N, beta = 2 q2 t/N, delta = gap (2 - gap) and v(c) = V_phi(c)/V_phi(1),

    K_12 = w V(1) (N/2) (1/pi) iint dalpha dbeta (alpha beta)^{-1/2} e^{-eps_1 alpha - eps_2 beta}
                                    Delta^{-n/2-1} S v((1-gap)/S),
    Delta = 1 + alpha + beta + delta alpha beta,   S^2 = (1 + delta alpha)(1 + delta beta),
    K_ii = w V(1) (N/2) int du e^{-eps_i u} (1+u)^{-n/2-1}

(theory notes, section 3, second Laplace integral, with D = (2s/N) I + (2t/N) I and a mode's determinant
written as 1 + a lambda + b lambda' + (lambda lambda' - mu^2) a b).  At gap = 0 the integrand depends on
alpha + beta alone; the gap is the integral of the difference, so it keeps its relative precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.errors import HypothesisError
from theory.routes import arccosine
from theory.routes.laplace_core import right_end

__all__ = ["group_eps_gap", "group_eps_moments", "group_eps_slope"]

FloatArray = NDArray[np.float64]
Slopes = tuple[float, float]

_ROUNDING = 1e-14
_EPSILON = float(np.finfo(np.float64).eps)
# alpha = scale exp(x - e^{-x}); error e^{-2 pi 1.07/h} = 3e-18, 2e-9 on every other node
# (laplace_core has the reasons).
_SPACING = 1.0 / 6.0
_LEFT = -4.5


class _Group(NamedTuple):
    """Everything about the normalizer and phi that the integrals need."""

    rank: int
    weight: float
    divisor: float
    eps: float
    slopes: Slopes

    @property
    def power(self) -> float:
        """n/2 + 1."""
        return 0.5 * self.rank + 1.0

    def cutoff(self, q: float) -> float:
        """eps_i = N eps/(2 q_i)."""
        return 0.5 * self.divisor * self.eps / q


def _group(*, group_size: int, centered: bool, ddof: int, eps: float, slopes: Slopes) -> _Group:
    rank = group_size - 1 if centered else group_size
    if rank < 1:
        raise HypothesisError(
            f"group_size = {group_size}: one channel has no variance about its own mean; "
            "use group_size >= 2 or positions"
        )
    if not eps >= 0.0:
        raise HypothesisError(f"eps = {eps}: it is added to a variance; use eps >= 0")
    weight = 1.0 - 1.0 / group_size if centered else 1.0
    return _Group(rank, weight, float(group_size - ddof), float(eps), slopes)


def group_eps_moments(
    q: ArrayLike, *, group_size: int, centered: bool, ddof: int, eps: float, slopes: Slopes
) -> tuple[FloatArray, FloatArray, float]:
    """K_ii = w V(1) (N/2) int du e^{-eps_i u} (1+u)^{-n/2-1} and E[x], x = phi(N(h)).

    Source: theory notes, section 3, first Laplace integral.

    Parameters
    ----------
    q
        Second moment of h, > 0, any shape.
    group_size, centered, ddof, eps
        G; whether mean and variance are about the group's mean; N = G - ddof; eps >= 0.
    slopes
        (a, b) of phi(x) = a relu(x) + b relu(-x).

    Returns
    -------
    (second moment, mean, relative error), the first two shaped as ``q``.
    """
    group = _group(group_size=group_size, centered=centered, ddof=ddof, eps=eps, slopes=slopes)
    q = np.asarray(q, dtype=np.float64)
    distinct, index = np.unique(q, return_inverse=True)
    table = np.array([_moments(group, float(value)) for value in distinct]).reshape(-1, 3)
    square, mean, error = table[index.reshape(-1)].T
    return square.reshape(q.shape), mean.reshape(q.shape), float(error.max(initial=0.0))


def group_eps_gap(
    q1: ArrayLike,
    q2: ArrayLike,
    gap: ArrayLike,
    *,
    group_size: int,
    centered: bool,
    ddof: int,
    eps: float,
    slopes: Slopes,
) -> tuple[FloatArray, float]:
    """1 - K_12/sqrt(K_11 K_22), the gap of phi(N(h)) and phi(N(h')), elementwise.

    The sum of what remains at gap = 0 (unequal q: eps normalizes them differently) and of the integral
    of K_12(0) - K_12(gap), each without cancellation.

    Parameters
    ----------
    q1, q2, gap
        Second moments and 1 - correlation of the pre-activations, of one shape.
    group_size, centered, ddof, eps, slopes
        As in ``group_eps_moments``.

    Returns
    -------
    (gap, relative error).
    """
    group = _group(group_size=group_size, centered=centered, ddof=ddof, eps=eps, slopes=slopes)
    return _elementwise(lambda a, b, g: _gap(group, a, b, g), q1, q2, gap)


def group_eps_slope(
    q1: ArrayLike,
    q2: ArrayLike,
    gap: ArrayLike,
    *,
    group_size: int,
    centered: bool,
    ddof: int,
    eps: float,
    slopes: Slopes,
) -> tuple[FloatArray, float]:
    """dK_12/dp at fixed q1, q2: the factor on the gradient covariance of two samples, elementwise.

    At gap = 0 and equal q it is E[tr J'J]/G, the factor on squared gradients (theory notes, section 4,
    "Adjoint rule"), by the one-dimensional integral

        w V(1) (N/2q) int du e^{-eps u} [(1+u)^{-n/2-1} + (n+2)/8 u^2 (1+u)^{-n/2-2}].

    Parameters and returns as in ``group_eps_gap``.  eps = 0: rank 2 is infinite and rank 1 zero at
    gap = 0 (theory notes, "Heavy tails").
    """
    group = _group(group_size=group_size, centered=centered, ddof=ddof, eps=eps, slopes=slopes)
    return _elementwise(lambda a, b, g: _slope(group, a, b, g), q1, q2, gap)


def _elementwise(
    function: Callable[[float, float, float], tuple[float, float]],
    q1: ArrayLike,
    q2: ArrayLike,
    gap: ArrayLike,
) -> tuple[FloatArray, float]:
    arrays = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (q1, q2, gap)))
    rows = np.stack([x.reshape(-1) for x in arrays], axis=1)
    distinct, index = np.unique(rows, axis=0, return_inverse=True)
    table = np.array([function(*map(float, row)) for row in distinct]).reshape(-1, 2)
    value, error = table[index.reshape(-1)].T
    return value.reshape(arrays[0].shape), float(error.max(initial=0.0))


def _ray(
    group: _Group, cutoff: float, *, power: float, extra: float = 0.0
) -> tuple[FloatArray, FloatArray]:
    """Nodes u and weights of int du; the integrand falls off like e^{-cutoff u} (1+u)^{power-n/2-1}.

    ``extra`` lengthens the range of log u.
    """
    scale = 1.0 / (group.power + cutoff)
    limit = right_end(np.array([scale]), 2.0 * group.power, cutoff * scale, power)
    x = (
        np.arange(math.floor(_LEFT / _SPACING), math.ceil((limit + extra) / _SPACING) + 1)
        * _SPACING
    )
    shrink = np.exp(-x)
    u = scale * np.exp(x - shrink)
    # With eps far above q the first nodes underflow, and so do their weights.
    there = u > 0.0
    return u[there], _SPACING * (u * (1.0 + shrink))[there]


def _converged(fine: float, coarse: float) -> float:
    """Relative error of the fine rule from its coarse twin (``laplace_core.quadrature_error``)."""
    ratio = abs(fine - coarse) / abs(fine) if fine else 0.0
    return ratio * math.sqrt(ratio) + _ROUNDING


def _along_ray(group: _Group, cutoff: float, *, power: float, other: float) -> tuple[float, float]:
    """int du u^power e^{-cutoff u} (1+u)^{-other} and its relative error."""
    u, weight = _ray(group, cutoff, power=power + group.power - other)
    value = weight * u**power * np.exp(-cutoff * u - other * np.log1p(u))
    fine, coarse = float(value.sum()), 2.0 * float(value[::2].sum())
    return fine, _converged(fine, coarse)


@lru_cache(maxsize=4096)
def _moments(group: _Group, q: float) -> tuple[float, float, float]:
    a, b = group.slopes
    cutoff = group.cutoff(q)
    square, error = _along_ray(group, cutoff, power=0.0, other=group.power)
    root, root_error = _along_ray(group, cutoff, power=-0.5, other=group.power - 0.5)
    scale = 0.5 * group.weight * group.divisor
    return (
        0.5 * (a * a + b * b) * scale * square,
        (a + b) / (math.pi * math.sqrt(2.0)) * math.sqrt(scale) * root,
        max(error, root_error),
    )


def _gap(group: _Group, q1: float, q2: float, gap: float) -> tuple[float, float]:
    first, second = group.cutoff(q1), group.cutoff(q2)
    floor = _floor(group, q1, q2) if first != second else 0.0
    # It is proportional to (q1 - q2)^2, and of each q the last bits are roundings.
    slip = 8.0 * _EPSILON * floor * max(q1, q2) / abs(q1 - q2) if floor else 0.0
    if gap == 0.0:
        return floor, _ROUNDING + (slip / floor if floor else 0.0)
    delta = gap * (2.0 - gap)
    alpha, beta, weight = _difference_grid(group, first, second, delta, short=group.rank <= 2)
    total = alpha + beta
    stretch = 0.5 * (np.log1p(delta * alpha) + np.log1p(delta * beta))
    log_ratio = stretch - group.power * np.log1p(delta * alpha * beta / (1.0 + total))
    spread = np.expm1(stretch)
    inner = np.minimum((spread + gap) / (spread + 1.0), 2.0)
    lost = arccosine.ray_gap(inner, slopes=group.slopes)
    growth = np.expm1(log_ratio)
    weight *= np.exp(-first * alpha - second * beta - group.power * np.log1p(total))
    value = weight * ((1.0 + growth) * lost - growth)
    size = float((weight * ((1.0 + growth) * lost + np.abs(growth))).sum())
    fine, coarse = float(value.sum()), 4.0 * float(value[::2, ::2].sum())
    # Root by root: with eps in units of a tiny q the product would underflow.
    norm = math.sqrt(_along_ray(group, first, power=0.0, other=group.power)[0])
    norm *= math.sqrt(_along_ray(group, second, power=0.0, other=group.power)[0])
    error = _converged(fine, coarse) + (4.0 * _EPSILON * size / abs(fine) if fine else 0.0)
    total_gap = min(floor + fine / norm, 2.0)
    return total_gap, error + (slip / total_gap if slip else 0.0)


def _slope(group: _Group, q1: float, q2: float, gap: float) -> tuple[float, float]:
    a, b = group.slopes
    square = 0.5 * (a * a + b * b)
    first, second = group.cutoff(q1), group.cutoff(q2)
    scale = 0.5 * group.weight * group.divisor / (math.sqrt(q1) * math.sqrt(q2))
    if group.eps == 0.0 and gap == 0.0 and group.rank <= 2:
        return (0.0 if group.rank == 1 else math.inf), _ROUNDING
    m = group.power
    if gap == 0.0 and first == second:
        one, error = _along_ray(group, first, power=0.0, other=m)
        two, error2 = _along_ray(group, first, power=2.0, other=m + 1.0)
        return scale * square * (one + 0.25 * m * two), max(error, error2)
    delta, c = gap * (2.0 - gap), 1.0 - gap
    short = group.eps == 0.0 and group.rank <= 2
    alpha, beta, weight = _difference_grid(group, first, second, delta, short=short)
    stretch = 0.5 * (np.log1p(delta * alpha) + np.log1p(delta * beta))
    spread = np.expm1(stretch)
    s = spread + 1.0
    inner = np.minimum((spread + gap) / s, 2.0)
    growth = 1.0 + alpha + beta + delta * alpha * beta
    # d/dc of S v(c/S): v' directly, and dS/dc times v - (c/S) v' = (a+b)^2/(2 pi) sqrt(1 - c^2/S^2).
    lean = (a + b) ** 2 / (2.0 * math.pi) * np.sqrt(inner * (2.0 - inner))
    widen = -c * (alpha * (1.0 + delta * beta) + beta * (1.0 + delta * alpha)) / s
    direct = arccosine.ray_slope(inner, slopes=group.slopes) + widen * lean
    kernel = s * square * (1.0 - arccosine.ray_gap(inner, slopes=group.slopes))
    shrink = 2.0 * m * c * alpha * beta / growth * kernel
    weight *= np.exp(-first * alpha - second * beta - m * np.log(growth))
    value = weight * (direct + shrink)
    fine, coarse = float(value.sum()), 4.0 * float(value[::2, ::2].sum())
    size = float((weight * (np.abs(direct) + np.abs(shrink))).sum())
    error = _converged(fine, coarse) + (4.0 * _EPSILON * size / abs(fine) if fine else 0.0)
    return scale * fine, error


def _difference_grid(
    group: _Group, first: float, second: float, delta: float, *, short: bool
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """alpha (X, 1), beta (1, Y) and weights of (1/pi) iint dalpha dbeta (alpha beta)^{-1/2}.

    A derivative, like the difference from equal samples, brings a factor u = alpha = beta; that of the
    difference ends at u = 1/delta, which is what bounds the range where the rest does not decay
    (``short``).
    """
    # Opposite samples have delta = 0 too, and no difference that would reach further.
    reach = max(-math.log(delta), 0.0) if delta > 0.0 else 0.0
    power, extra = (0.0, reach) if short else (1.0, 0.0)
    alpha, alpha_weight = _ray(group, first, power=power, extra=extra)
    beta, beta_weight = _ray(group, second, power=power, extra=extra)
    weight = np.outer(alpha_weight / np.sqrt(alpha), beta_weight / np.sqrt(beta)) / math.pi
    return alpha[:, None], beta[None, :], weight


def _floor(group: _Group, q1: float, q2: float) -> float:
    """Gap of parallel samples, 1 - E[x y]/sqrt(E[x^2] E[y^2]), x^2 = X/(X + 2 eps_1), X ~ chi^2_n.

    = 1 - (1 + v)^{-1/2}, v = Var(z)/E[z]^2 under the weight y^2, with z proportional to x/y:

        z^2 = 1 + 2 (eps_1 - eps_2)(X - n)/((n + 2 eps_2)(X + 2 eps_1)),

    so the gap keeps its relative precision for nearly equal q.  Trapezoidal rule in log X over the part
    of the density above e^{-44}.
    """
    rank, half = group.rank, 0.5 * group.rank
    first, second = group.cutoff(q1), group.cutoff(q2)
    left = -44.0 / half - 9.4 / math.sqrt(half) - 1.0
    right = math.log1p(44.0 / half) + 9.4 / math.sqrt(half)
    w = np.linspace(left, right, 801)
    chi = rank * np.exp(w)
    weight = np.exp(half * (w - np.expm1(w))) * chi / (chi + 2.0 * second)
    weight /= weight.sum()
    spread = 2.0 * first * ((q2 - q1) / q2) * rank * np.expm1(w)
    z = np.expm1(0.5 * np.log1p(spread / ((rank + 2.0 * second) * (chi + 2.0 * first))))
    mean = float(weight @ z)
    v = float(weight @ (z - mean) ** 2) / (1.0 + mean) ** 2
    return -math.expm1(-0.5 * math.log1p(v))
