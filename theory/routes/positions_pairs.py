r"""LN, GN, IN, FRN and their kin over exchangeable positions: moments of one sample and of a pair.

In units q = 1, with W = e^{-cutoff u} prod_k Delta_k^{-n_k/2}, A, B, C the tilted variances and covariance
of two coordinates (positions_core), S~ = sqrt(AB), g = 1 - C/S~, r(g) = g - kappa lens(g) and
kappa = (a+b)^2/(a^2+b^2),

    E[phi(d_p) phi(d_p')/R^2]    = V(1) (N/2) int du W_0 A_0 (1 - r(g_w)),
    E[phi(d_p) phi(d'_p')/(RR')] = V(1) (N/2) (1/pi) iint da db (ab)^{-1/2} W S~ (1 - r(g))

(theory notes, section 3, "Laplace route").  Cross-sample moments come as the difference from the
integrand at equal samples: with E_k = L_k/A_0 - C_k/S~ >= 0 and 1 + growth = W S~/(W_0 A_0) the gaps are
g_b = (E_m + (S-1) E_p)/S and g_x = g_w + (E_m - E_p)/S, and the new distances

    D_p' ~ E_p - kappa [lens(g_b) - lens(g_x) + lens(g_w)] + growth (r(g_b) - r(g_x)),
    D_m' ~ E_m - kappa [lens(g_b) + (S-1)(lens(g_x) - lens(g_w))] - growth (S - r(g_b) - (S-1) r(g_x)),

where nothing cancels but what has to.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.routes.positions_core import (
    Mode,
    PairNodes,
    PositionPool,
    RayNodes,
    equal_tilt,
    position_pool,
    tilted_mode,
)
from theory.routes.positions_lens import AngleStep, Half, half_angle, lens
from theory.routes.positions_spectrum import PositionSpectrum
from theory.specs.normalizers import Normalizer

__all__ = ["PairTilt", "PushedSpectrum", "pair_tilt", "position_push", "sum_error"]

FloatArray = NDArray[np.float64]
Slopes = tuple[float, float]

_ROUNDING = 1e-14
_EPSILON = float(np.finfo(np.float64).eps)


class PushedSpectrum(NamedTuple):
    """Moments of x = phi(N(h)); ``errors`` are relative, one for each number of ``spectrum``, then E[x]."""

    spectrum: PositionSpectrum
    activation_mean: float
    errors: tuple[float, float, float, float, float]

    def gap_errors(self) -> tuple[float, float, float, float]:
        """Relative errors of E[x^2] and of the three gaps that ``spectrum.gaps()`` returns."""
        s, *values = self.spectrum
        own, mean, far, mean_far = (
            abs(value) * error for value, error in zip(values, self.errors, strict=False)
        )
        q = self.spectrum.second_moment
        level = ((s - 1) * own + mean) / (s * q)
        beside, same, across = (q * gap for gap in self.spectrum.gaps())
        off_same = ((s - 1) * far + mean_far) / s
        off_across = own + (far + mean_far) / s if s > 1 else off_same
        offs = ((beside, own), (same, off_same), (across, off_across))
        gap_w, gap_b, gap_x = (level + off / gap if gap else 0.0 for gap, off in offs)
        return level, gap_w, gap_b, gap_x


def position_push(
    spectrum: PositionSpectrum, *, norm: Normalizer, slopes: Slopes
) -> PushedSpectrum:
    """Spectrum of x = phi(N(h)) and E[x], for h with ``spectrum``; see the module docstring.

    Source: theory notes, section 3, "Laplace route".

    Parameters
    ----------
    spectrum
        Of the pre-activations; gaps of x are ``result.spectrum.gaps()``.
    norm
        Sample-wise over positions and G < inf channels, ``"std"`` or ``"rms"``, numerator centered or
        not, any eps and ddof.
    slopes
        (a, b) of phi(x) = a relu(x) + b relu(-x).

    Raises
    ------
    HypothesisError
        Another kind of normalizer; zero pool variance at eps = 0; numerator identically zero; infinite
        second moment (raw numerator over the deviation of a pool of rank <= 2).
    """
    pool, unit = position_pool(spectrum, norm=norm, slopes=slopes)
    contrast, mean, first, same_errors = _one_sample(pool, unit)
    far, mean_far, pair_errors = _two_samples(pool, unit)
    pushed = PositionSpectrum(spectrum.positions, contrast, mean, far, mean_far)
    own, own_mean, own_first = map(float, same_errors)
    errors = (own, own_mean, *pair_errors, own_first)
    return PushedSpectrum(pushed, first, errors)


def _one_sample(
    pool: PositionPool, spectrum: PositionSpectrum
) -> tuple[float, float, float, FloatArray]:
    """(K_q - K_w, K_q + (S-1) K_w, E[phi(d)/R], their relative errors)."""
    s, (a, b) = spectrum.positions, pool.slopes
    nodes = RayNodes.of(pool, spectrum, backward=False)
    tilt = equal_tilt(pool, spectrum, nodes.u)
    taken = pool.curvature * tilt.variance * lens(tilt.gap, half_angle(tilt.gap))
    scale = 0.5 * pool.divisor
    root = (a + b) / (math.pi * pool.square * math.sqrt(2.0 * scale)) if pool.square else 0.0
    terms = np.stack(
        [
            tilt.contrast - taken,
            tilt.mean + (s - 1) * taken,
            root * np.sqrt(tilt.variance / nodes.u),
        ]
    )
    sums = nodes.sums(terms)
    contrast, mean, first = pool.square * scale * sums[0]
    size = np.array([tilt.contrast + taken, terms[1], np.abs(terms[2])])
    return float(contrast), float(mean), float(first), sum_error(*sums[:2], nodes.sums(size)[2])


def _two_samples(
    pool: PositionPool, spectrum: PositionSpectrum
) -> tuple[float, float, tuple[float, float]]:
    """(D_p', D_m', their relative errors)."""
    if not spectrum.contrast_distance and not spectrum.mean_distance:
        return 0.0, 0.0, (0.0, 0.0)
    s, bend = spectrum.positions, pool.curvature
    nodes = PairNodes.of(pool, spectrum)
    tilt = pair_tilt(pool, spectrum, nodes)
    same, beside, across = tilt.same, tilt.beside, tilt.across
    lens_b, lens_w = lens(tilt.gap_b, same), lens(tilt.gap_w, beside)
    from_beside = AngleStep.between(beside, across, tilt.step).lens()
    from_same = AngleStep.between(same, across, tilt.side).lens()
    taken = np.where(tilt.gap_b < tilt.gap_w, lens_b - from_beside, lens_w - from_same)
    taken_mean = lens_b + (s - 1) * from_beside
    level = tilt.mean_share + bend * (taken_mean + (s - 1) * lens_w)
    terms = np.stack(
        [
            tilt.lost,
            -bend * taken,
            tilt.growth * (bend * from_same - tilt.side),
            tilt.mean_lost,
            -bend * taken_mean,
            -tilt.growth * level,
        ]
    )
    fine, coarse, size = nodes.sums(terms * tilt.variance)
    total = fine.reshape(2, 3).sum(axis=1)
    errors = sum_error(total, coarse.reshape(2, 3).sum(axis=1), size.reshape(2, 3).sum(axis=1))
    far, mean_far = 0.5 * pool.square * pool.divisor * total
    return float(far), float(mean_far), (float(errors[0]), float(errors[1]))


def sum_error(fine: FloatArray, coarse: FloatArray, size: FloatArray) -> FloatArray:
    """Relative errors of the fine rule: its coarse twin's to the power 3/2, and rounding.

    The rules converge geometrically, so halving the spacing squares the error; 3/2 is the safe side.
    ``size`` is the sum of the absolute values of what was added up.
    """
    known = fine != 0.0
    scale = np.where(known, np.abs(fine), 1.0)
    ratio = np.abs(fine - coarse) / scale
    return np.where(known, ratio * np.sqrt(ratio) + _ROUNDING + 4.0 * _EPSILON * size / scale, 0.0)


class PairTilt(NamedTuple):
    """Two tilted samples; see the module docstrings for the symbols.

    ``variance`` A_0, ``root`` S~, ``damping`` log(W_0/W); ``rise`` and ``second_rise`` A/A_0 - 1 and
    B/A_0 - 1; ``lost`` and
    ``mean_lost`` E_p and E_m; ``mean_share`` C_m/S~; ``side`` g_x - g_b and ``step`` g_x - g_w;
    ``same``, ``beside`` and ``across`` the half angles of g_b, g_w and g_x.
    """

    contrast: Mode
    mean: Mode
    variance: FloatArray
    root: FloatArray
    rise: FloatArray
    second_rise: FloatArray
    damping: FloatArray
    growth: FloatArray
    lost: FloatArray
    mean_lost: FloatArray
    mean_share: FloatArray
    gap_b: FloatArray
    gap_w: FloatArray
    side: FloatArray
    step: FloatArray
    same: Half
    beside: Half
    across: Half


def pair_tilt(pool: PositionPool, spectrum: PositionSpectrum, nodes: PairNodes) -> PairTilt:
    """Gaps and weights of a tilted pair, without cancellation."""
    s = spectrum.positions
    contrast = tilted_mode(spectrum.contrast, spectrum.contrast_distance, nodes)
    mean = tilted_mode(spectrum.mean, spectrum.mean_distance, nodes)
    mean_own = pool.tilted * mean.own + pool.untilted * spectrum.mean
    mean_cross = pool.tilted * mean.cross
    mean_cross += pool.untilted * (spectrum.mean - spectrum.mean_distance)
    mean_gone = pool.tilted * mean.lost + pool.untilted * spectrum.mean_distance
    variance = ((s - 1) * contrast.own + mean_own) / s
    over = 1.0 / (s * variance)
    rise = ((s - 1) * contrast.first + pool.tilted * mean.first) * over
    second_rise = ((s - 1) * contrast.second + pool.tilted * mean.second) * over
    stretch = 0.5 * (np.log1p(rise) + np.log1p(second_rise))
    wider = np.expm1(stretch)
    root = variance * (1.0 + wider)
    lost = _lost(contrast.own, contrast.cross, contrast.lost, variance, wider, root)
    mean_lost = _lost(mean_own, mean_cross, mean_gone, variance, wider, root)
    damping = (0.5 * pool.contrast_rank) * np.log1p(contrast.excess)
    damping += (0.5 * pool.mean_rank) * np.log1p(mean.excess)
    gap_w = np.minimum(contrast.own / variance, 2.0)
    gap_b = np.minimum((mean_lost + (s - 1) * lost) / s, 2.0)
    step = (mean_lost - lost) / s
    return PairTilt(
        contrast=contrast,
        mean=mean,
        variance=variance,
        root=root,
        rise=rise,
        second_rise=second_rise,
        damping=damping,
        growth=np.expm1(stretch - damping),
        lost=lost,
        mean_lost=mean_lost,
        mean_share=mean_cross / root,
        gap_b=gap_b,
        gap_w=gap_w,
        side=contrast.cross / root,
        step=step,
        same=half_angle(gap_b),
        beside=half_angle(gap_w),
        across=half_angle(np.clip(gap_w + step, 0.0, 2.0)),
    )


def _lost(
    own: FloatArray,
    cross: FloatArray,
    gone: FloatArray,
    variance: FloatArray,
    wider: FloatArray,
    root: FloatArray,
) -> FloatArray:
    """L/A_0 - C/S~ = (L - C)/A_0 + C (1/A_0 - 1/S~), without cancellation for C of either sign."""
    return np.where(
        cross > 0.0, gone / variance + cross * wider / root, own / variance - cross / root
    )
