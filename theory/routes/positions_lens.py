r"""lens(g) = (sin t - t cos t)/pi, cos t = 1 - g, and its differences: what an activation's kink takes off.

For phi(x) = a relu(x) + b relu(-x), with kappa = (a+b)^2/(a^2+b^2),

    1 - V(c)/V(1) = gap - kappa lens(gap),                       (arccosine.ray_gap)
    lens(g2) - lens(g1) = (2/pi) [cos m (sin h - h cos h) + m (g2 - g1)/2],

m and h half the sum and half the difference of the two angles, 2 sin m sin h = g2 - g1.  Given g2 - g1 to
full relative precision, so is the difference, however near the two are.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["AngleStep", "Half", "half_angle", "lens"]

FloatArray = NDArray[np.float64]

# sin h - h cos h = sum_k (-1)^k 2(k+1)/(2k+3)! h^(2k+3); six terms leave 1e-16 of it below _SMALL.
_SMALL = 0.4
_SERIES = tuple((-1) ** k * 2.0 * (k + 1) / math.factorial(2 * k + 3) for k in range(6))


class Half(NamedTuple):
    """sqrt(2) times sine and cosine of half the angle t, cos t = 1 - gap."""

    low: FloatArray
    high: FloatArray

    @property
    def angle(self) -> FloatArray:
        """t in [0, pi]."""
        return 2.0 * np.arctan2(self.low, self.high)

    @property
    def sine(self) -> FloatArray:
        """sin t."""
        return self.low * self.high


def half_angle(gap: FloatArray) -> Half:
    """(sqrt(gap), sqrt(2 - gap)), gap in [0, 2]."""
    return Half(np.sqrt(gap), np.sqrt(2.0 - gap))


def lens(gap: FloatArray, half: Half) -> FloatArray:
    """(sin t - t cos t)/pi with full relative precision as gap -> 0."""
    return _defect(half.angle, half.sine, 1.0 - gap) / math.pi


class AngleStep(NamedTuple):
    """Half the difference h and half the sum m of two angles t1, t2, and step = cos t1 - cos t2."""

    step: FloatArray
    h: FloatArray
    m: FloatArray
    sin_h: FloatArray
    cos_h: FloatArray
    cos_m: FloatArray

    @classmethod
    def between(cls, first: Half, second: Half, step: FloatArray) -> AngleStep:
        """From the two half angles and the exact difference of the gaps."""
        cross = first.low * second.high + second.low * first.high
        along, across = first.high * second.high, first.low * second.low
        # Both angles 0, or both pi: no difference.
        sin_h = np.divide(step, cross, out=np.zeros_like(step), where=cross > 0.0)
        cos_h, cos_m = 0.5 * (along + across), 0.5 * (along - across)
        h, m = np.arctan2(sin_h, cos_h), np.arctan2(0.5 * cross, cos_m)
        return cls(step, h, m, sin_h, cos_h, cos_m)

    def lens(self) -> FloatArray:
        """lens(g2) - lens(g1)."""
        curved = self.cos_m * _defect(self.h, self.sin_h, self.cos_h)
        return (2.0 / math.pi) * (curved + 0.5 * self.m * self.step)

    def sine(self) -> FloatArray:
        """sin t2 - sin t1."""
        return 2.0 * self.cos_m * self.sin_h


def _defect(angle: FloatArray, sine: FloatArray, cosine: FloatArray) -> FloatArray:
    """Sin t - t cos t."""
    value = sine - angle * cosine
    small = np.abs(angle) < _SMALL
    if small.any():
        t = angle[small]
        square = t * t
        k = _SERIES
        inner = k[3] + square * (k[4] + square * k[5])
        value[small] = (k[0] + square * (k[1] + square * (k[2] + square * inner))) * square * t
    return value
