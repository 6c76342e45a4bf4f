"""Affine output maps of activations: moments of scale * base + shift, with the digits that rows lose."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from theory.specs.activations import Activation
from theory.states.base import Moments
from theory.states.full import squared_distances

__all__ = ["affine"]

FloatArray = NDArray[np.float64]

_EPSILON = float(np.finfo(np.float64).eps)


def affine(
    moments: Moments, activation: Activation, exponent: int, inherited: float
) -> tuple[Moments, float]:
    """Moments of scale * base + shift, K' = a^2 K + a b (m_a + m_b) + b^2, and the local error.

    For homogeneous bases q ~ Q and m ~ sqrt(Q) of the incoming Q, so that an inherited error is
    multiplied by d log q'/d log Q = (a^2 q + a b m)/q'; the route's own is inflated by a^2 q/q'.
    """
    a, b = activation.scale, math.ldexp(activation.shift, -exponent)
    q, gap, mean, (local, gap_error) = moments
    if b == 0.0:
        errors = (inherited + local, gap_error)
        return Moments(a * a * q, gap, a * mean, errors), local
    new_q = a * a * q + 2.0 * a * b * mean + b * b
    # Zeros that phi moves to the shift's negative (tlu) are zeros again.
    alive = new_q > 8.0 * _EPSILON * b * b
    size = np.where(alive, new_q, math.inf)
    inflation = float(np.max(a * a * q / size))
    elasticity = inflation
    if activation.ray_slopes is not None:
        elasticity = float(np.max(np.abs(a * a * q + a * b * mean) / size))
    if np.ndim(gap) == 0:
        new_gap = a * a * q * gap / new_q
    else:
        new_q = np.where(alive, new_q, 0.0)
        before = np.broadcast_to(q, len(gap))
        means = a * b * np.broadcast_to(mean, len(gap))
        new_gap, lost = _gaps(a * a * before, gap, means, b * b, new_q)
        gap_error += lost
    local *= max(inflation, 1.0)
    errors = (elasticity * inherited + local, gap_error + abs(1.0 - elasticity) * inherited + local)
    return Moments(new_q, new_gap, a * mean + b, errors), local


def _gaps(
    q: FloatArray, gap: FloatArray, mixed: FloatArray, shifted: float, new_q: FloatArray
) -> tuple[FloatArray, float]:
    """1 - cosine of rows of a base + b, and its roundings: q, gap of a base, a b m, and b^2.

    By what a shift keeps, distances, for rows of like length,
    gap' = (E[(x_a - x_b)^2] - (r_a - r_b)^2)/(2 r_a r_b), whose second term has the roundings of the
    lengths r; for others by gap' = 1 - E[x_a x_b]/(r_a r_b), whichever loses less.
    """
    root, before = np.sqrt(new_q), np.sqrt(q)
    product = np.outer(root, root)
    alive = product > 0.0
    apart = np.subtract.outer(root, root)
    kept = squared_distances(q, gap)
    lost = np.abs(np.subtract.outer(before, before)) * np.maximum.outer(before, before)
    lost += np.abs(apart) * np.maximum.outer(root, root) + np.where(apart != 0.0, kept, 0.0)
    straight = np.outer(before, before)
    sums = np.add.outer(mixed, mixed)
    cosine = np.divide(
        straight * (1.0 - gap) + sums + shifted, product, where=alive, out=1.0 - alive
    )
    lost_by_cosine = straight + np.abs(sums) + shifted
    by_cosine = lost_by_cosine < lost
    half = np.divide(0.5 * (kept - apart**2), product, where=alive, out=np.ones_like(product))
    result = np.clip(np.where(by_cosine, 1.0 - cosine, half), 0.0, 2.0)
    np.fill_diagonal(result, 0.0)
    lost = np.where(by_cosine, lost_by_cosine, 0.5 * lost)
    some = alive & (result > 0.0)
    return result, 4.0 * _EPSILON * float((lost[some] / (product * result)[some]).max(initial=0.0))
