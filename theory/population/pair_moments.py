r"""What relu makes of pairs before their steps are drawn: E[x'^2] and E[(x_i' - x_j')^2]/2 given (x_i, x_j).

With mu the mean of a x_i and a x_j, S the mean of their Gaussian steps and eta half the difference of y,

    E[(relu(y_i) - relu(y_j))^2]/2 = int_{-h}^{h} (h + t) P(mu + S > t) dt,     h = |eta|, given eta.

eta = h_0 + w enters as drawn, less 2 (eta^2 - h_0^2 - E[w^2]) P(mu + S > 0), whose mean is 0: what is left
of the draws is of third order in h.  Where the stream's growth is its own (no normalizer), populations that
are brought to these moments keep a few times less of every block's noise.  Derived here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = ["Expected", "brought_to", "expected_moments"]

FloatArray = NDArray[np.float64]

# Gauss's rules to 1e-7 where h is up to 2 deviations of S, and to 1e-6 up to a quarter of one.
_WIDE, _NARROW = (np.polynomial.legendre.leggauss(nodes) for nodes in (8, 3))
# Probabilities are tabulated up to 12 deviations, linear between: to 1e-8.
_REACH, _CELLS = 12.0, 2**15
_PROBABILITIES = special.ndtr(np.linspace(-_REACH, _REACH, _CELLS + 1))


class Expected(NamedTuple):
    """E[relu(y)^2] and E[(relu(y_i) - relu(y_j))^2]/2, one per population."""

    second_moment: FloatArray
    contrast: FloatArray


def expected_moments(
    x: FloatArray, steps: FloatArray, *, variance: FloatArray, gap: FloatArray
) -> Expected:
    """Moments of relu(y), y = x + f.

    Parameters
    ----------
    x, steps
        Rows (``pair_chains``) of what the skip carries and of the draws.
    variance, gap
        E[f^2] and one minus the cosine of f, one per population.
    """
    alone = np.sqrt(variance)[:, None]
    mu, half, apart = 0.5 * (x[0] + x[1]), x[2], steps[2]
    square = 0.5 * (_second(x[0], alone) + _second(x[1], alone))
    scale = np.sqrt(0.5 * variance * (2.0 - gap))[:, None]
    height = np.abs(half + apart)
    seen = _contrast(mu, height, scale)
    known = apart * (2.0 * half + apart) - (0.5 * variance * gap)[:, None]
    seen -= 2.0 * known * _probability(mu / scale)
    return Expected(square.mean(axis=1), seen.mean(axis=1))


def brought_to(values: FloatArray, expected: Expected) -> FloatArray:
    """Rows of relu's values, means and differences scaled to the moments expected."""
    apart = 0.5 * expected.contrast
    middle, half = 0.5 * (values[0] + values[1]), values[2]
    middle *= _ratio(expected.second_moment - apart, middle)
    half = half * _ratio(apart, half)
    return np.stack((middle + half, middle - half, half))


def _contrast(mu: FloatArray, height: FloatArray, scale: FloatArray) -> FloatArray:
    """int_{-h}^{h} (h + t) P(mu + S > t) dt, S of deviation ``scale``."""
    seen, largest = np.zeros_like(height), float((height / scale).max())
    for node, weight in zip(*(_WIDE if largest > 0.25 else _NARROW), strict=True):
        seen += weight * (1.0 + node) * _probability((mu - node * height) / scale)
    seen *= height * height
    if largest > 2.0:
        wide = height > 2.0 * scale
        # Partial moments, which cancel where h is small.
        m, h, s = mu[wide], height[wide], np.broadcast_to(scale, mu.shape)[wide]
        first = (m - h) * special.ndtr((m - h) / s) + s * _density((m - h) / s)
        seen[wide] = 0.5 * (_second(m + h, s) - _second(m - h, s)) - 2.0 * h * first
    return seen


def _second(b: FloatArray, scale: FloatArray) -> FloatArray:
    """E[relu(b + S)^2]."""
    at = b / scale
    return np.asarray(scale * scale * ((at * at + 1.0) * special.ndtr(at) + at * _density(at)))


def _density(at: FloatArray) -> FloatArray:
    return np.asarray(np.exp(-0.5 * at * at) / math.sqrt(2.0 * math.pi))


def _probability(at: FloatArray) -> FloatArray:
    """P(Z < at)."""
    place = (at + _REACH) * (_CELLS / (2.0 * _REACH))
    np.clip(place, 0.0, _CELLS - 0.5, out=place)
    cell = place.astype(np.intp)
    low = _PROBABILITIES[cell]
    return np.asarray(low + (place - cell) * (_PROBABILITIES[cell + 1] - low))


def _ratio(wanted: FloatArray, values: FloatArray) -> FloatArray:
    found = np.einsum("pm,pm->p", values, values) / values.shape[1]
    usable = (wanted > 0.0) & (found > 0.0)
    return np.sqrt(np.divide(wanted, found, out=np.ones_like(found), where=usable))[:, None]
