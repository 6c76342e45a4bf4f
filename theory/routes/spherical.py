r"""E f(u), E f(u, v) for (u, v) = radius (x, y): coordinates of uniform unit vectors of R^n, any phi.

A normalized pool is uniform on a sphere of dimension n = rank (theory notes, section 3).  Two of them
at angle theta span a plane; a coordinate meets that plane in a vector of length rho = sin(chi) at a
uniform angle psi,

    x = rho cos psi,   y = rho cos(psi - theta),   p(chi) = (n-2) sin(chi) cos(chi)^(n-3).

For any phi only the kinks cos psi = 0 and cos(psi - theta) = 0 break smoothness, and the poles of phi
are nearest there: Gauss-Legendre between them converges geometrically.  Expanding phi in Gegenbauer
polynomials, whose derivatives belong to the sphere of dimension n + 2, gives K(r) = E[phi(u) phi(v)]

    K'(r) = (radius^2/n) E_{n+2}[phi'(u) phi'(v)],      K(1) - K(r) = int_r^1 K',

so gaps are integrals of a smooth function: nothing cancels as r -> 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.errors import NumericalError, out_of_domain
from theory.routes.functions import BaseFunction, base_function
from theory.specs.activations import Activation

__all__ = [
    "GapFunction",
    "SphereMoments",
    "SpherePair",
    "sphere_gap_function",
    "sphere_moments",
    "sphere_pair",
]

FloatArray = NDArray[np.float64]

_LOG_TOLERANCE = 41.0
_ROUNDING = 2e-15
_TARGET = 2e-15
_ORDERS = (24, 36, 54, 80, 120, 180)
_DEGREES = (24, 48, 96, 192)
_AVERAGE_ORDER = 48
_PROBES = np.array([0.2, 1.2, 2.2, 3.0])


@dataclass(frozen=True)
class SphereMoments:
    """E phi^2, E phi, E phi'^2, E[phi'^2 x^2] at u = radius x.

    ``error`` is relative; that of the mean to sqrt(E phi^2).
    """

    second_moment: float
    mean: float
    slope2: float
    slope2_x2: float
    error: float


@dataclass(frozen=True)
class SpherePair:
    """1 - E[phi(u)phi(v)]/E phi^2, E[phi'(u)phi'(v)], E[phi'(u)phi'(v) x y].

    ``error`` is relative to the gap, to E phi'^2 and to E[phi'^2 x^2].
    """

    gap: float
    slope: float
    slope_xy: float
    error: float


@dataclass(frozen=True, eq=False)
class GapFunction:
    """D(r) = 1 - K(r)/K(1) = (1 - r) H(theta) and D' = dD/d(1-r), as Chebyshev series in theta.

    ``error`` bounds the error of both, relative to D'(0) (1 - r) and to D'(0).
    """

    mean_slope: FloatArray
    slope: FloatArray
    error: float

    def __call__(self, one_minus_r: FloatArray, theta: FloatArray) -> FloatArray:
        """D = (1 - r) H(theta)."""
        return one_minus_r * _chebyshev(self.mean_slope, theta)

    def derivative(self, one_minus_r: FloatArray, theta: FloatArray) -> FloatArray:
        """dD/d(1 - r) = (radius^2/n) E_{n+2}[phi'(u) phi'(v)] / E phi^2."""
        return _chebyshev(self.slope, theta)


def sphere_moments(activation: Activation, *, rank: int, radius: float) -> SphereMoments:
    """E f(radius x), p(x) ~ (1 - x^2)^((n-3)/2): the moments of one coordinate.

    Source: theory notes, section 3.

    Parameters
    ----------
    activation
        Its base function is used.
    rank
        Dimension n >= 1 of the sphere's space; n = 1 is x = +-1.
    radius
        Length of the vector whose coordinate is u, > 0.
    """
    _check(rank, radius)
    return _sphere_moments(activation.base, rank, float(radius))


@lru_cache(maxsize=1024)
def _sphere_moments(activation: Activation, rank: int, radius: float) -> SphereMoments:
    phi = base_function(activation)
    value, error = _refined(lambda order: _single(phi, rank, radius, order))
    second_moment, mean, slope2, slope2_x2 = (float(moment) for moment in value)
    return SphereMoments(second_moment, mean, slope2, slope2_x2, error)


def _single(
    phi: BaseFunction, rank: int, radius: float, order: int
) -> tuple[FloatArray, FloatArray]:
    """Moments and their scales, x = +-sin(delta) with density cos(delta)^(n-2)."""
    if rank == 1:
        x, weight = np.ones(1), np.ones(1)
    else:
        delta, weight = _legendre(0.0, _reach(rank - 2), order)
        x = np.sin(delta)
        weight = weight * _cos_power(delta, rank - 2)
        weight = weight / weight.sum()
    x = np.concatenate((-x, x))
    weight = 0.5 * np.concatenate((weight, weight))
    value, slope = phi.value(radius * x), phi.derivative(radius * x)
    second, slope2 = weight @ value**2, weight @ slope**2
    moments = np.array([second, weight @ value, slope2, weight @ (slope * x) ** 2])
    return moments, np.array([second, math.sqrt(second), slope2, moments[3]])


def sphere_pair(
    activation: Activation, *, rank: int, radius: float, correlation: float
) -> SpherePair:
    """Gap of E[phi(u) phi(v)], E[phi'(u) phi'(v)] and E[phi'(u) phi'(v) x y] at cos(theta) = r.

    Source: theory notes, section 3 (spherical dual).

    Parameters
    ----------
    activation
        Its base function is used.
    rank, radius
        As in ``sphere_moments``.
    correlation
        r in [-1, 1]; -1 or 1 if the rank is 1.
    """
    _check(rank, radius)
    if not -1.0 <= correlation <= 1.0 or (rank == 1 and abs(correlation) != 1.0):
        domain = "in [-1, 1], and -1 or 1 for rank 1"
        raise out_of_domain("correlation", correlation, domain, "check the pool")
    return _sphere_pair(activation.base, rank, float(radius), float(correlation))


@lru_cache(maxsize=1024)
def _sphere_pair(
    activation: Activation, rank: int, radius: float, correlation: float
) -> SpherePair:
    phi = base_function(activation)
    one_minus_r = 1.0 - correlation
    theta = 2.0 * math.atan2(math.sqrt(one_minus_r), math.sqrt(1.0 + correlation))
    one = sphere_moments(activation, rank=rank, radius=radius)
    if rank == 1:
        sign = math.copysign(1.0, correlation)
        at = np.array([radius, -radius])
        slope = float(np.mean(phi.derivative(at) * phi.derivative(sign * at)))
        return SpherePair(
            _opposite_gap(phi, radius) * 0.5 * one_minus_r, slope, sign * slope, _ROUNDING
        )

    def both(order: int) -> tuple[FloatArray, FloatArray]:
        slope, slope_xy = _slopes(phi, rank, radius, np.array([theta]), order)
        return np.array([slope[0], slope_xy[0]]), np.array([one.slope2, one.slope2_x2])

    def gap_of(order: int) -> tuple[FloatArray, FloatArray]:
        part, weight = _average_rule(theta)
        slopes, _ = _slopes(phi, rank + 2, radius, part, order)
        value = radius**2 / rank * one_minus_r * (weight @ slopes) / one.second_moment
        return np.array([value]), np.array([value])

    (slope, slope_xy), error = _refined(both)
    (gap,), gap_error = _refined(gap_of)
    return SpherePair(float(gap), float(slope), float(slope_xy), max(error, gap_error) + one.error)


def sphere_gap_function(activation: Activation, *, rank: int, radius: float) -> GapFunction:
    """D(r) = 1 - K(r)/K(1) as a vectorized function (one_minus_r, theta) -> D, tabulated once.

    Source: theory notes, section 3 (spherical dual); K' from the sphere of dimension n + 2.
    Full relative precision as r -> 1.  Parameters as in ``sphere_moments``.

    Raises
    ------
    NumericalError
        phi varies too fast on this radius to be tabulated.
    """
    _check(rank, radius)
    return _gap_function(activation.base, rank, float(radius))


@lru_cache(maxsize=256)
def _gap_function(activation: Activation, rank: int, radius: float) -> GapFunction:
    phi = base_function(activation)
    if rank == 1:
        # Only r = 1 and r = -1 occur.
        half = np.array([0.5 * _opposite_gap(phi, radius)])
        return GapFunction(half, half, _ROUNDING)
    one = sphere_moments(activation, rank=rank, radius=radius)
    factor = radius**2 / rank / one.second_moment
    scale = factor * sphere_moments(activation, rank=rank + 2, radius=radius).slope2

    def probe(order: int) -> tuple[FloatArray, FloatArray]:
        value = factor * _slopes(phi, rank + 2, radius, _PROBES, order)[0]
        return value, np.full_like(value, scale)

    _, quadrature_error, order = _refined_at(probe)
    for degree in _DEGREES:
        theta = 0.5 * np.pi * (1.0 + _points(degree))
        slopes = factor * _slopes(phi, rank + 2, radius, theta, order)[0]
        slope = _coefficients(slopes)
        tail = float(np.abs(slope[-3:]).max()) / scale
        if tail < 1e-15 or degree == _DEGREES[-1]:
            break
    if tail > 1e-6:
        raise NumericalError(
            f"{activation.name} on a sphere of rank {rank}, radius {radius:g}: the dual does not "
            "resolve; use a smaller radius or the RQMC route"
        )
    average = _coefficients(_average_matrix(degree) @ slope)
    error = quadrature_error + 10.0 * tail + one.error
    return GapFunction(_trimmed(average, scale), _trimmed(slope, scale), error)


def _opposite_gap(phi: BaseFunction, radius: float) -> float:
    """D(-1) for x = +-1: (phi(R) - phi(-R))^2 / (phi(R)^2 + phi(-R)^2)."""
    right, left = phi.value(np.array([radius, -radius]))
    return float((right - left) ** 2 / (right**2 + left**2))


def _check(rank: int, radius: float) -> None:
    if rank < 1:
        raise out_of_domain("rank", rank, "an integer >= 1", "pool more activations")
    if not 0.0 < radius < math.inf:
        raise out_of_domain("radius", radius, "a finite number > 0", "see group_norm's divisor")


def _slopes(
    phi: BaseFunction, dimension: int, radius: float, theta: FloatArray, order: int
) -> tuple[FloatArray, FloatArray]:
    """E[phi'(u) phi'(v)] and E[phi'(u) phi'(v) x y] in R^dimension, dimension >= 2, for each theta."""
    if dimension == 2:
        rho, radial = np.ones(1), np.ones(1)
    else:
        chi, radial = _legendre(0.0, _reach(dimension - 3), order)
        rho = np.sin(chi)
        radial = radial * rho * _cos_power(chi, dimension - 3)
        radial = radial / radial.sum()
    # x and y swap under psi -> theta - psi: half of the two sectors of equal signs, one of the others.
    half = 0.5 * theta
    quarter = np.full_like(theta, 0.5 * np.pi)
    starts = np.stack((half, quarter, np.pi + half), axis=-1)
    lengths = np.stack((quarter - half, theta, quarter - half), axis=-1)
    node, weight = _legendre(0.0, 1.0, order)
    psi = (starts[..., None] + lengths[..., None] * node).reshape(len(theta), -1)
    angular = (lengths[..., None] * weight).reshape(len(theta), -1) / np.pi
    x, y = np.cos(psi), np.cos(psi - theta[:, None])
    product = phi.derivative(radius * x[..., None] * rho) * phi.derivative(
        radius * y[..., None] * rho
    )
    return np.sum(angular * (product @ radial), axis=-1), np.sum(
        angular * x * y * (product @ (radial * rho**2)), axis=-1
    )


def _reach(power: int) -> float:
    """Angle at which cos^power has fallen to e^-41."""
    return 0.5 * math.pi if power < 1 else math.acos(math.exp(-_LOG_TOLERANCE / power))


def _cos_power(angle: FloatArray, power: int) -> FloatArray:
    """cos(angle)^power; through log1p because large powers meet small angles."""
    if power < 1:
        return np.ones_like(angle)
    return np.exp(0.5 * power * np.log1p(-(np.sin(angle) ** 2)))


@lru_cache(maxsize=64)
def _gauss(order: int) -> tuple[FloatArray, FloatArray]:
    return np.polynomial.legendre.leggauss(order)


def _legendre(low: float, high: float, order: int) -> tuple[FloatArray, FloatArray]:
    node, weight = _gauss(order)
    return low + 0.5 * (high - low) * (1.0 + node), 0.5 * (high - low) * weight


def _refined_at(
    rule: Callable[[int], tuple[FloatArray, FloatArray]],
) -> tuple[FloatArray, float, int]:
    """Raise the order until two successive ones agree relative to the scales."""
    previous, _ = rule(_ORDERS[0])
    best: tuple[FloatArray, float, int] | None = None
    for order in _ORDERS[1:]:
        value, scale = rule(order)
        change = float(np.max(np.abs(value - previous) / np.where(scale > 0.0, scale, 1.0)))
        best, previous = (value, change + _ROUNDING, order), value
        if change < _TARGET:
            break
    assert best is not None
    return best


def _refined(rule: Callable[[int], tuple[FloatArray, FloatArray]]) -> tuple[Any, float]:
    value, error, _ = _refined_at(rule)
    return value, error


def _average_rule(theta: float) -> tuple[FloatArray, FloatArray]:
    """Angles and weights of H = int_0^theta D'(t) sin t dt / (1 - cos theta)."""
    node, weight = _legendre(0.0, 1.0, _AVERAGE_ORDER)
    if theta == 0.0:
        return np.zeros_like(node), 2.0 * node * weight
    part = theta * node
    return part, weight * np.sin(part) * theta / (2.0 * math.sin(0.5 * theta) ** 2)


@lru_cache(maxsize=8)
def _average_matrix(degree: int) -> FloatArray:
    """Values of H at Chebyshev points of [0, pi] from the Chebyshev coefficients of D'."""
    rows = []
    for point in _points(degree):
        theta = 0.5 * np.pi * (1.0 + point)
        node, weight = _legendre(0.0, theta, degree)
        weight = weight * np.sin(node) / (2.0 * math.sin(0.5 * theta) ** 2)
        rows.append(weight @ _basis(node, degree))
    return np.stack(rows)


def _points(degree: int) -> FloatArray:
    return np.cos(np.pi / (2 * degree) * (2 * np.arange(degree) + 1))


def _coefficients(values: FloatArray) -> FloatArray:
    """Chebyshev coefficients from values at ``_points``; angles reduced as integers to stay exact."""
    size = len(values)
    turns = np.outer(np.arange(size), 2 * np.arange(size) + 1) % (4 * size)
    result: FloatArray = 2.0 / size * (np.cos(np.pi / (2 * size) * turns) @ values)
    result[0] *= 0.5
    return result


def _trimmed(coefficients: FloatArray, scale: float) -> FloatArray:
    kept = np.flatnonzero(np.abs(coefficients) > 2e-17 * scale)[-1] + 1
    return coefficients[:kept]


def _basis(theta: FloatArray, size: int) -> FloatArray:
    """T_k(2 theta/pi - 1) for k < size, on a last axis."""
    turn = np.arccos(np.clip(2.0 / np.pi * theta - 1.0, -1.0, 1.0))
    return np.cos(turn[..., None] * np.arange(size))


def _chebyshev(coefficients: FloatArray, theta: FloatArray) -> FloatArray:
    result: FloatArray = _basis(theta, len(coefficients)) @ coefficients
    return result
