r"""Closed duals of positively homogeneous activations, in terms of gap = 1 - c.

base(x) = a relu(x) + b relu(-x), slopes = (a, b).  With kappa_0, kappa_1 the arc-cosine kernels
(Cho & Saul 2009; theory notes, section 3) and V(c) = E[base(u) base(v)] at unit variances,

    V(c)        = [(a + b)^2 kappa_1(c) - 2 a b c] / 2,          V(1) = (a^2 + b^2) / 2,
    1 - V(c)/V(1) = [(a + b)^2 (1 - kappa_1(c)) - 2 a b gap] / (a^2 + b^2).

Everything keeps full relative precision as gap -> 0.  ``*_scalar`` are the same functions for Python
floats: a call costs a fraction of a microsecond, which is what deep exchangeable networks need.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "angle",
    "angle_scalar",
    "kappa0",
    "one_minus_kappa1",
    "one_minus_kappa1_scalar",
    "ray_gap",
    "ray_gap_scalar",
    "ray_mean",
    "ray_second_moment",
    "ray_slope",
    "ray_slope_scalar",
]

FloatArray = NDArray[np.float64]
Slopes = tuple[float, float]

# (sin t - t cos t)/(pi t^3) = sum_k (-1)^k 2(k+1)/((2k+3)! pi) t^(2k); below this angle six terms
# leave 1e-16 of the gap.
_SMALL_ANGLE = 0.4
_SMALL_GAP = 1.0 - math.cos(_SMALL_ANGLE)
_SERIES = tuple((-1) ** k * 2.0 * (k + 1) / math.factorial(2 * k + 3) / math.pi for k in range(6))


def angle(gap: ArrayLike) -> FloatArray:
    """theta = arccos(1 - gap) = 2 arctan(sqrt(gap/(2 - gap))), well conditioned on all of [0, 2]."""
    gap = np.asarray(gap, dtype=np.float64)
    return 2.0 * np.arctan2(np.sqrt(gap), np.sqrt(2.0 - gap))


def angle_scalar(gap: float) -> float:
    """theta = arccos(1 - gap) for one float."""
    return 2.0 * math.atan2(math.sqrt(gap), math.sqrt(2.0 - gap))


def kappa0(gap: ArrayLike) -> FloatArray:
    """kappa_0 = 1 - theta/pi, the derivative of kappa_1; gap in [0, 2]."""
    return 1.0 - angle(gap) / np.pi


def one_minus_kappa1(gap: ArrayLike) -> FloatArray:
    """1 - kappa_1 = gap - (sin theta - theta cos theta)/pi; gap in [0, 2]."""
    gap = np.asarray(gap, dtype=np.float64)
    small = gap < _SMALL_GAP
    count = np.count_nonzero(small)
    if count == gap.size:
        return np.asarray(gap - _small_lens(gap))
    low, high = np.sqrt(gap), np.sqrt(2.0 - gap)
    lens = (low * high - 2.0 * np.arctan2(low, high) * (1.0 - gap)) / np.pi
    if count:
        lens[small] = _small_lens(gap[small])
    return np.asarray(gap - lens)


def _small_lens(gap: FloatArray) -> FloatArray:
    theta = 2.0 * np.arcsin(np.sqrt(0.5 * gap))
    square = theta * theta
    return np.asarray(_series(square) * (square * theta))


def one_minus_kappa1_scalar(gap: float) -> float:
    """1 - kappa_1 for one float."""
    theta = 2.0 * math.atan2(math.sqrt(gap), math.sqrt(2.0 - gap))
    if theta < _SMALL_ANGLE:
        square = theta * theta
        return gap - _series(square) * square * theta
    return gap - (math.sqrt(gap * (2.0 - gap)) - theta * (1.0 - gap)) / math.pi


def _series(square: Any) -> Any:
    k = _SERIES
    inner = k[3] + square * (k[4] + square * k[5])
    return k[0] + square * (k[1] + square * (k[2] + square * inner))


def ray_gap(gap: ArrayLike, *, slopes: Slopes) -> FloatArray:
    """1 - V(c)/V(1): gap of the post-activations.

    For relu this is 1 - kappa_1(c), for the identity gap itself, for abs 2 (1 - kappa_1) - gap.
    """
    a, b = slopes
    gap = np.asarray(gap, dtype=np.float64)
    curved = (a + b) ** 2 / (a * a + b * b)
    straight = -2.0 * a * b / (a * a + b * b)
    if curved == 0.0:
        return straight * gap
    if straight == 0.0:
        return one_minus_kappa1(gap)
    return curved * one_minus_kappa1(gap) + straight * gap


def ray_gap_scalar(gap: float, *, slopes: Slopes) -> float:
    """1 - V(c)/V(1) for one float."""
    a, b = slopes
    norm = a * a + b * b
    return (a + b) ** 2 / norm * one_minus_kappa1_scalar(gap) - 2.0 * a * b / norm * gap


def ray_slope(gap: ArrayLike, *, slopes: Slopes) -> FloatArray:
    """E[base'(u) base'(v)] = (a^2 + b^2)/2 - (a + b)^2 theta/(2 pi)."""
    a, b = slopes
    return 0.5 * (a * a + b * b) - (a + b) ** 2 * angle(gap) / (2.0 * np.pi)


def ray_slope_scalar(gap: float, *, slopes: Slopes) -> float:
    """E[base'(u) base'(v)] for one float."""
    a, b = slopes
    return 0.5 * (a * a + b * b) - (a + b) ** 2 * angle_scalar(gap) / (2.0 * math.pi)


def ray_second_moment(q: ArrayLike, *, slopes: Slopes) -> FloatArray:
    """E[base(sqrt(q) z)^2] = q (a^2 + b^2)/2."""
    a, b = slopes
    return np.asarray(q, dtype=np.float64) * (0.5 * (a * a + b * b))


def ray_mean(q: ArrayLike, *, slopes: Slopes) -> FloatArray:
    """E[base(sqrt(q) z)] = (a + b) sqrt(q/(2 pi))."""
    a, b = slopes
    return (a + b) * np.sqrt(np.asarray(q, dtype=np.float64) / (2.0 * np.pi))
