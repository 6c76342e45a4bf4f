"""Duals of activations that are not homogeneous, over a bivariate normal (theory notes, section 3).

With (u, v) ~ N(0), E u^2 = q1, E v^2 = q2, correlation 1 - gap:

    second_moment_and_mean: E phi(u)^2, E phi(u)
    pair_gap:               1 - E[phi(u) phi(v)] / sqrt(E phi(u)^2 E phi(v)^2)
    slope:                  E[phi'(u) phi'(v)]

sin and erf are closed; the others (and erf at unequal q) use the rules of ``bivariate``.  A gap is
the mean square of a difference, (1/2) E[(phi(u)/n1 - phi(v)/n2)^2] with n^2 = E phi^2, which keeps
its relative precision for any gap because phi(u) - phi(v) comes from ``BaseFunction.spread``.

Errors come from a second, coarser rule plus rounding.  Base activations only: an affine output map
is the caller's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.errors import NumericalError, out_of_domain
from theory.routes.bivariate import line_rule, plane_rule
from theory.routes.functions import BaseFunction, base_function
from theory.specs.activations import Activation

__all__ = ["pair_gap", "second_moment_and_mean", "slope"]

FloatArray = NDArray[np.float64]

_EPSILON = 2.0**-52
_COARSE = 0.9
# Outside, squares and products of the scales leave the range of double precision.
_SMALLEST, _LARGEST = 1e-60, 1e30
# A mean square below this has lost digits to underflow.
_TINY = 1e-280


def second_moment_and_mean(
    activation: Activation, q: Any
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """E phi(sqrt(q) z)^2 and E phi(sqrt(q) z), z ~ N(0, 1).

    Parameters
    ----------
    activation
        Its base function is used; not positively homogeneous.
    q
        Second moments, any shape.

    Returns
    -------
    second_moment, mean, rel_error
        Shape of ``q``; ``rel_error`` is relative to the second moment, and for the mean relative
        to the root of the second moment.

    Raises
    ------
    SpecificationError
        ``q`` is not a positive number in the range of the rules.
    NumericalError
        No finite answer.
    """
    q = _positive("q", q)
    flat = [_moments(activation.base, value) for value in q.ravel().tolist()]
    table = np.array(flat, dtype=float).reshape(-1, 3).T
    return table[0].reshape(q.shape), table[1].reshape(q.shape), table[2].reshape(q.shape)


def pair_gap(activation: Activation, q1: Any, q2: Any, gap: Any) -> tuple[FloatArray, FloatArray]:
    """1 - E[phi(u) phi(v)] / sqrt(E phi(u)^2 E phi(v)^2), with full relative precision.

    Parameters
    ----------
    activation
        Its base function is used; not positively homogeneous.
    q1, q2, gap
        Second moments and 1 - correlation, broadcast; gap in [0, 2].

    Returns
    -------
    gap, rel_error
        Broadcast shape.  Where q1 and q2 differ the gap is positive even at equal directions.

    Raises
    ------
    SpecificationError, NumericalError
        As ``second_moment_and_mean``.
    """
    return _each_pair(_gap, activation.base, q1, q2, gap)


def slope(activation: Activation, q1: Any, q2: Any, gap: Any) -> tuple[FloatArray, FloatArray]:
    """E[phi'(u) phi'(v)], the derivative of E[phi(u) phi(v)] by E[u v] (Price's theorem).

    Parameters and shapes as ``pair_gap``; ``rel_error`` is relative to
    sqrt(E phi'(u)^2 E phi'(v)^2).
    """
    return _each_pair(_slope, activation.base, q1, q2, gap)


def _each_pair(
    scalar: Callable[[Activation, float, float, float], tuple[float, float]],
    activation: Activation,
    q1: Any,
    q2: Any,
    gap: Any,
) -> tuple[FloatArray, FloatArray]:
    """Broadcast; evaluate each distinct pair once, the larger second moment first."""
    gap = np.asarray(gap, dtype=float)
    if not np.all((gap >= -1e-14) & (gap <= 2.0 + 1e-14)):
        raise out_of_domain("gap", gap, "1 - correlation in [0, 2]", "pass 1 - c, not c")
    q1, q2, gap = np.broadcast_arrays(
        _positive("q1", q1), _positive("q2", q2), np.clip(gap, 0.0, 2.0)
    )
    keys = np.stack([np.maximum(q1, q2).ravel(), np.minimum(q1, q2).ravel(), gap.ravel()], axis=1)
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    table = np.array([scalar(activation, *key) for key in unique.tolist()], dtype=float)
    table = table.reshape(-1, 2)[inverse.ravel()]
    return table[:, 0].reshape(gap.shape), table[:, 1].reshape(gap.shape)


def _positive(argument: str, value: Any) -> FloatArray:
    array = np.asarray(value, dtype=float)
    if not np.all((array >= _SMALLEST) & (array <= _LARGEST)):
        domain = f"second moments in [{_SMALLEST:g}, {_LARGEST:g}]"
        raise out_of_domain(argument, value, domain, "check for an overflow or a dead layer before")
    return array


def _stated(fine: float, coarse: float, scale: float) -> float:
    """Distance of the two rules relative to ``scale``: the coarse rule's error, so pessimistic."""
    if not (math.isfinite(fine) and math.isfinite(coarse) and scale > 0.0):
        raise NumericalError(
            f"a Gaussian dual is {fine!r} with scale {scale!r}: no finite answer; "
            "bring the second moments closer to 1."
        )
    return abs(fine - coarse) / scale


@lru_cache(maxsize=4096)
def _moments(activation: Activation, q: float) -> tuple[float, float, float]:
    """(E phi^2, E phi, relative error)."""
    if activation.name == "sin":
        return -0.5 * math.expm1(-2.0 * q), 0.0, 4.0 * _EPSILON
    if activation.name == "erf":
        return (2.0 / math.pi) * _arc(q), 0.0, 4.0 * _EPSILON
    function = base_function(activation)
    (fine, mean), (coarse, coarse_mean) = (
        _line_moments(function, q, resolution) for resolution in (1.0, _COARSE)
    )
    error = _stated(fine, coarse, fine) + _stated(mean, coarse_mean, math.sqrt(fine))
    return fine, mean, error + 8.0 * _EPSILON


def _line_moments(function: BaseFunction, q: float, resolution: float) -> tuple[float, float]:
    scale = math.sqrt(q)
    z, weight = line_rule(function, scale, resolution=resolution)
    value = function.value(scale * z)
    mean = 0.0 if function.odd else float(weight @ value)
    return float(weight @ (value * value)), mean


@lru_cache(maxsize=4096)
def _gap(activation: Activation, q1: float, q2: float, gap: float) -> tuple[float, float]:
    """(gap of the dual, relative error) for q1 >= q2."""
    if gap == 0.0 and q1 == q2:
        return 0.0, 0.0
    if activation.name == "sin":
        value = _sin_gap(q1, q2, gap)
        floor = _sin_gap(q1, q2, 0.0) if q1 != q2 else 0.0
        return value, 32.0 * _EPSILON + _slip(q1, q2, floor, value)
    if activation.name == "erf" and q1 == q2:
        return _erf_gap(q1, gap), 16.0 * _EPSILON
    function = base_function(activation)
    fine, coarse = (_gap_once(function, q1, q2, gap, level) for level in (1.0, _COARSE))
    error = _EPSILON * (8.0 + 4.0 * fine[1])
    if fine[0] >= _TINY:
        error += _stated(fine[0], coarse[0], fine[0])
    if fine[0] < _TINY or error > 0.1:
        # Rounding may then exceed the gap by any factor, so that no relative error is honest.
        raise NumericalError(
            f"1 - cosine after {activation.name} is lost in rounding at gap = {gap!r}, second "
            f"moments {q1!r} and {q2!r}: it must exceed about 1e-31; treat the pair as identical."
        )
    return fine[0], error + _slip(q1, q2, fine[2], fine[0])


def _slip(q1: float, q2: float, floor: float, value: float) -> float:
    """Roundings of q1 and q2 in ``floor``, the gap of parallel samples, which is as (q1 - q2)^2."""
    return 8.0 * _EPSILON * q1 / (q1 - q2) * floor / value if floor > 0.0 else 0.0


def _gap_once(
    function: BaseFunction, q1: float, q2: float, gap: float, resolution: float
) -> tuple[float, float, float]:
    """(1/2) E[((phi(u) - phi(v))/n1 + phi(v)(1/n1 - 1/n2))^2], how much the terms cancel; at gap 0."""
    first, second = math.sqrt(q1), math.sqrt(q2)
    z, line = line_rule(function, first, resolution=resolution)
    square = float(line @ function.value(first * z) ** 2)
    excess = 0.0
    if q1 != q2:
        separation = (q1 - q2) / (first + second)
        more = function.spread(0.5 * (first + second) * z, 0.5 * separation * z)
        excess = float(line @ (more * (function.value(first * z) + function.value(second * z))))
    norm = math.sqrt(square)
    other = (
        math.sqrt(square - excess)
        if excess < 0.5 * square
        else math.sqrt(float(line @ function.value(second * z) ** 2))
    )
    v, half, weight = plane_rule(function, q1, q2, gap, resolution=resolution)
    difference = function.spread(v + half, half) / norm
    lost = floor = 0.0
    if q1 != q2:
        # 1/n1 - 1/n2 with n1^2 - n2^2 = excess.
        tilt = -excess / (norm * other * (norm + other))
        difference = difference + tilt * function.value(v)
        lost = abs(tilt) * other
        floor = 0.5 * float(line @ (more / norm + tilt * function.value(second * z)) ** 2)
    result = 0.5 * float(weight @ (difference * difference))
    return result, lost / math.sqrt(result) if result > 0.0 else 0.0, floor


@lru_cache(maxsize=4096)
def _slope(activation: Activation, q1: float, q2: float, gap: float) -> tuple[float, float]:
    """(E[phi'(u) phi'(v)], error relative to the root of the two mean squares) for q1 >= q2."""
    lift = 2.0 * math.sqrt(q1) * math.sqrt(q2)
    if activation.name == "sin":
        near, far = _sin_exponents(q1, q2, gap)
        return 0.5 * (math.exp(-near) + math.exp(-far)), 8.0 * _EPSILON
    if activation.name == "erf":
        determinant = 1.0 + 2.0 * (q1 + q2) + lift * lift * gap * (2.0 - gap)
        return (4.0 / math.pi) / math.sqrt(determinant), 8.0 * _EPSILON
    function = base_function(activation)
    fine, coarse = (_slope_once(function, q1, q2, gap, level) for level in (1.0, _COARSE))
    first, second = (_slope_square(function, math.sqrt(q)) for q in (q1, q2))
    scale = math.sqrt(first * second)
    return fine, _stated(fine, coarse, scale) + 16.0 * _EPSILON


def _slope_once(
    function: BaseFunction, q1: float, q2: float, gap: float, resolution: float
) -> float:
    v, half, weight = plane_rule(function, q1, q2, gap, resolution=resolution)
    return float(weight @ (function.derivative(v + 2.0 * half) * function.derivative(v)))


def _slope_square(function: BaseFunction, scale: float) -> float:
    z, weight = line_rule(function, scale)
    return float(weight @ function.derivative(scale * z) ** 2)


def _arc(q: float) -> float:
    """arcsin(2q / (1 + 2q)) = atan(2q / sqrt(1 + 4q)); (2/pi) times it is E erf(u)^2."""
    return math.atan2(2.0 * q, math.sqrt(1.0 + 4.0 * q))


def _erf_gap(q: float, gap: float) -> float:
    """1 - arcsin(2qc/(1+2q)) / arcsin(2q/(1+2q)): the sine and cosine of the arcs' difference."""
    tall = math.sqrt(1.0 + 4.0 * q)
    step = 4.0 * q * q * gap * (2.0 - gap)
    wide = math.hypot(tall, math.sqrt(step))
    sine = 2.0 * q * (step / (wide + tall) + gap * tall)
    cosine = tall * wide + 4.0 * q * q * (1.0 - gap)
    return math.atan2(sine, cosine) / _arc(q)


def _sin_exponents(q1: float, q2: float, gap: float) -> tuple[float, float]:
    """(q1 + q2)/2 -/+ p with p = sqrt(q1 q2)(1 - gap), the exponents of E sin sin, E cos cos."""
    root = math.sqrt(q1) * math.sqrt(q2)
    apart = 0.5 * ((q1 - q2) / (math.sqrt(q1) + math.sqrt(q2))) ** 2
    return apart + root * gap, apart + root * (2.0 - gap)


def _sin_gap(q1: float, q2: float, gap: float) -> float:
    """1 - sinh(p) / sqrt(sinh(q1) sinh(q2)), from 1 - square = (sinh X sinh Y - sinh^2 Z)/(...).

    X, Y = (q1 + q2)/2 +/- p and Z = (q1 - q2)/2.
    """
    near, far = _sin_exponents(q1, q2, gap)
    total = math.expm1(-2.0 * q1) * math.expm1(-2.0 * q2)
    if q1 + q2 > 6.0:
        unequal = math.exp(-2.0 * q2) * math.expm1(-(q1 - q2)) ** 2
        rest = (math.expm1(-2.0 * near) * math.expm1(-2.0 * far) - unequal) / total
    else:
        rest = _sin_series(q1, q2, gap) / (math.sinh(q1) * math.sinh(q2))
    # far - near = 2p.
    ratio = (
        math.exp(-near) * -math.expm1(near - far) / math.sqrt(total)
        if far > near
        else (math.exp(-far) * math.expm1(far - near) / math.sqrt(total))
    )
    # Far from 1 the plain difference is exact, and rest may cancel (q1 much larger than q2).
    return rest / (1.0 + ratio) if ratio > 0.5 else 1.0 - ratio


def _sin_series(q1: float, q2: float, gap: float) -> float:
    """sinh X sinh Y - sinh^2 Z as a power series whose terms are all non-negative."""
    # With A = (X + Y)^2, B = (X - Y)^2, C = (2 Z)^2 = A - 4 q1 q2 and X Y = Z^2 + opening:
    # sinh X sinh Y = X Y sum_n 2 T_n / (2n)!,  T_n = sum_k A^k B^(n-1-k);  sinh^2 Z has C^(n-1).
    product = q1 * q2
    a, b, c = (q1 + q2) ** 2, 4.0 * product * (1.0 - gap) ** 2, (q1 - q2) ** 2
    opening = product * gap * (2.0 - gap)
    power, tower, previous, shared, factor, result = 1.0, 1.0, 0.0, 0.0, 1.0, 0.0
    for order in range(1, 40):
        factor *= (2 * order - 1) * (2 * order)
        # T_n - C^(n-1) = (A - C) sum_j A^j C^(n-2-j) + B T_(n-1).
        rise = 4.0 * product * shared + b * previous
        term = 2.0 * (opening * tower + 0.25 * c * rise) / factor
        result += term
        shared = shared * c + power
        power *= a
        previous, tower = tower, power + b * tower
        if order > 2 and term < 1e-18 * result:
            break
    return result
