r"""Gradients through LN, GN, IN, FRN over exchangeable positions, by Price's theorem.

Pi_pp' <- sum_aa' Pi_aa' dK_aa'/dC_pp', C the cross-covariance that the G channels share, K the moments of
positions_pairs (theory notes, section 4, "Adjoint rule").  In the eigenvalues mu_k of C, with omega_k the
weight of mode k on a coordinate and omega'_k between two positions, an integrand of K has the derivative

    d/dmu_k [W S~ v(c)] = W { n_k mu_k ab/Delta_k S~ v(c)
                              - omega_k mu_k [b(1 + lambda_k b)/A + a(1 + lambda_k a)/B]/Delta_k^2 S~ lean
                              + omega'_k (Delta_k + 2 mu_k^2 ab)/Delta_k^2 v'(c) },

v(c) = V(1)(1 - r), lean = v - c v' = (a+b)^2 sin t/(2 pi), c = cos t.  At equal samples one integral is left:
(1/pi) iint (ab)^{-1/2} f(a+b) = int f du, and a or b, b^2, ab bring 1/2, 3/8, 1/8 of u, u^2, u^2.

The matrices act on (pi_b, pi_x): same position and other position.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from theory.routes.positions_core import (
    Mode,
    PairNodes,
    PositionPool,
    RayNodes,
    equal_tilt,
    position_pool,
)
from theory.routes.positions_lens import AngleStep, half_angle, lens
from theory.routes.positions_pairs import PairTilt, pair_tilt, sum_error
from theory.routes.positions_spectrum import PositionSpectrum
from theory.specs.normalizers import Normalizer

__all__ = ["position_pull", "position_pull_same", "spectral_radius"]

FloatArray = NDArray[np.float64]
Slopes = tuple[float, float]

_ROUNDING = 1e-14


def position_pull(
    spectrum: PositionSpectrum, *, norm: Normalizer, slopes: Slopes
) -> tuple[FloatArray, float]:
    """T (2, 2), the step (pi_b, pi_x) <- T (pi_b, pi_x) for two samples, and its relative error.

    Source: theory notes, section 4, "Adjoint rule".  Units: 1/h^2; sigma_w^2 is not included.

    Parameters
    ----------
    spectrum, norm, slopes
        As in ``position_push``.

    Returns
    -------
    (T, relative error).
        The error is relative to the norm of T in orthonormal coordinates.  S = 1: only T[0, 0] is not
        zero.  A pool of rank 1 at eps = 0 (N(h) = +-1, whose gradient is zero almost surely) gives 0.
    """
    if not spectrum.contrast_distance and not spectrum.mean_distance:
        return position_pull_same(spectrum, norm=norm, slopes=slopes)
    pool, unit = position_pool(spectrum, norm=norm, slopes=slopes)
    if pool.cutoff == 0.0 and pool.rank(unit) == 1.0:
        return np.zeros((2, 2)), 0.0
    nodes = PairNodes.of(pool, unit)
    tilt = pair_tilt(pool, unit, nodes)
    terms = _pair_terms(pool, unit, nodes, tilt) * np.exp(-tilt.damping)
    return _matrix(pool, unit, nodes.sums(terms))


def position_pull_same(
    spectrum: PositionSpectrum, *, norm: Normalizer, slopes: Slopes
) -> tuple[FloatArray, float]:
    """T (2, 2), the step (pi_q, pi_w) <- T (pi_q, pi_w) within one sample: E[J' Pi J].

    sigma_w^2 times its ``spectral_radius`` is lambda.  Parameters and returns as for ``position_pull``;
    only the same-sample part of ``spectrum`` counts.  At eps = 0, a pool of rank 2 (rank <= 4 with a raw
    numerator over a deviation) gives inf (theory notes, "Heavy tails").
    """
    pool, unit = position_pool(spectrum, norm=norm, slopes=slopes)
    if pool.cutoff == 0.0:
        rank = pool.rank(unit)
        if rank == 1.0:
            return np.zeros((2, 2)), 0.0
        if rank <= (4.0 if pool.untilted * unit.mean else 2.0):
            infinite = np.full((2, 2), math.inf)
            if unit.positions == 1:
                infinite[[0, 1, 1], [1, 0, 1]] = 0.0
            return infinite, _ROUNDING
    nodes = RayNodes.of(pool, unit, backward=True)
    return _matrix(pool, unit, nodes.sums(_equal_terms(pool, unit, nodes.u)))


def spectral_radius(matrix: FloatArray) -> float:
    """Return the largest modulus of the eigenvalues of a real 2x2 matrix; inf if an entry is."""
    if np.isinf(matrix).any():
        return math.inf
    half = 0.5 * (matrix[0, 0] + matrix[1, 1])
    apart = 0.5 * (matrix[0, 0] - matrix[1, 1])
    square = float(apart * apart + matrix[0, 1] * matrix[1, 0])
    if square >= 0.0:
        return float(abs(half) + math.sqrt(square))
    return math.sqrt(float(half * half) - square)


def _matrix(
    pool: PositionPool,
    spectrum: PositionSpectrum,
    sums: tuple[FloatArray, FloatArray, FloatArray],
) -> tuple[FloatArray, float]:
    """From the sums of the derivatives (term, output mode, input mode), terms still apart, to T."""
    s = spectrum.positions
    fine, coarse, size = (part.sum(axis=0) for part in sums)
    scale = 0.5 * pool.divisor / pool.unit
    if s == 1:
        step = np.zeros((2, 2))
        step[0, 0] = scale * fine[1, 1]
        return step, float(sum_error(fine[1:, 1], coarse[1:, 1], size[1:, 1])[0])
    # <Pi, K> = (S-1) pi_p K_p + pi_m K_m: the adjoint of dK_j/dmu_k.
    weight = np.array([[1.0, 1.0 / (s - 1)], [s - 1.0, 1.0]])
    modes = weight * fine.T
    normal = np.array([[1.0, math.sqrt(s - 1)], [1.0 / math.sqrt(s - 1), 1.0]])
    # In units of the largest entry, whose square may underflow.
    share = np.abs(normal * fine)
    share /= share.max()
    errors = sum_error(fine, coarse, size) * share
    error = float(np.linalg.norm(errors) / np.linalg.norm(share))
    into = np.array([[1.0, -1.0], [1.0, s - 1.0]])
    out = np.array([[s - 1.0, 1.0], [-1.0, 1.0]]) / s
    return scale * (out @ modes @ into), error


def _equal_terms(pool: PositionPool, spectrum: PositionSpectrum, u: FloatArray) -> FloatArray:
    """Derivatives at equal samples: (determinant, variances, covariance; K_p, K_m; mu_p, mu_m; nodes)."""
    s = spectrum.positions
    tilt = equal_tilt(pool, spectrum, u)
    half = half_angle(tilt.gap)
    r = tilt.gap - pool.curvature * lens(tilt.gap, half)
    kink = _kink(pool)
    slope, lean = pool.square - kink * half.angle, kink * half.sine
    value = pool.square * tilt.variance * np.stack([r, s - (s - 1) * r])
    leans = np.stack([-lean, (s - 1) * lean])
    terms = np.zeros((3, 2, 2, u.size))
    for k, (size, rank, weight) in enumerate(_modes(pool, spectrum)):
        det = 1.0 + size * u
        terms[0, :, k] = 0.125 * rank * size * u * u / det * value
        terms[1, :, k] = -weight * size * u * (1.0 + 0.75 * size * u) / det**2 * leans
        direct = (1.0 + 0.25 * size * u * (size * u / det)) / det
        terms[2, :, k] = direct * weight * _through(k, s, pool.square, slope, kink * half.angle)
    terms[2, :, 1] += pool.untilted / s * _through(1, s, pool.square, slope, kink * half.angle)
    return terms


def _pair_terms(
    pool: PositionPool, spectrum: PositionSpectrum, nodes: PairNodes, tilt: PairTilt
) -> FloatArray:
    """Derivatives over W, laid out as in ``_equal_terms``."""
    s, bend = spectrum.positions, pool.curvature
    kink = _kink(pool)
    turn = AngleStep.between(tilt.same, tilt.across, tilt.side)
    lens_b = lens(tilt.gap_b, tilt.same)
    r_b = tilt.gap_b - bend * lens_b
    apart = tilt.side - bend * turn.lens()
    value = pool.square * tilt.root * np.stack([apart, s * (1.0 - r_b) - (s - 1) * apart])
    lean, lean_step = kink * tilt.same.sine, kink * turn.sine()
    leans = np.stack([-lean_step, s * lean + (s - 1) * lean_step])
    slope_b = pool.square - kink * tilt.same.angle
    slope_x = pool.square - kink * tilt.across.angle
    falls = 2.0 * kink * turn.h
    terms = np.zeros((3, 2, 2, nodes.a.size))
    product = nodes.a * nodes.b
    shrink_first = tilt.root / (tilt.variance * (1.0 + tilt.rise))
    shrink_second = tilt.root / (tilt.variance * (1.0 + tilt.second_rise))
    distances = (spectrum.contrast_distance, spectrum.mean_distance)
    tilted: tuple[Mode, Mode] = (tilt.contrast, tilt.mean)
    for k, (size, rank, weight) in enumerate(_modes(pool, spectrum)):
        mu, det = size - distances[k], tilted[k].det
        terms[0, :, k] = rank * mu * product / det * value
        narrow = nodes.b * (1.0 + size * nodes.b) * shrink_first
        narrow += nodes.a * (1.0 + size * nodes.a) * shrink_second
        terms[1, :, k] = -weight * mu * narrow / det**2 * leans
        direct = (1.0 + 2.0 * mu * mu * product / det) / det
        terms[2, :, k] = direct * weight * _through(k, s, slope_b, slope_x, falls)
    terms[2, :, 1] += pool.untilted / s * _through(1, s, slope_b, slope_x, falls)
    return terms


def _kink(pool: PositionPool) -> float:
    """(a + b)^2/(2 pi): v' falls by this much per radian."""
    a, b = pool.slopes
    return (a + b) ** 2 / (2.0 * math.pi)


def _modes(
    pool: PositionPool, spectrum: PositionSpectrum
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """(lambda_k, n_k, omega_k) of the contrasts and of the tilted mean."""
    s = spectrum.positions
    return (
        (spectrum.contrast, pool.contrast_rank, 1.0 - 1.0 / s),
        (spectrum.mean, pool.mean_rank, pool.tilted / s),
    )


def _through(
    mode: int, s: int, slope_b: FloatArray | float, slope_x: FloatArray, falls: FloatArray
) -> FloatArray:
    """(K_p, K_m) of omega'_k v' over omega_k, for contrasts and mean; ``falls`` is slope_b - slope_x."""
    if mode == 0:
        # omega_p = 1 - 1/S on a coordinate, -1/S between two.
        return np.stack([slope_b + slope_x / max(s - 1, 1), falls])
    return np.stack([falls, slope_b + (s - 1) * slope_x])
