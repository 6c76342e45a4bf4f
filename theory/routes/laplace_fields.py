r"""Pools over the positions of G channels of one sample, any covariance: Laplace integrals (GN, IN, FRN).

One sample: the G S entries of a group are a batch of that many rows, I_G x Sigma, whose pool is BatchNorm's
or an rms; ``laplace`` and ``laplace_backward`` serve.  Two samples, a = 2 s/N and b = 2 t/N:

    E[phi(d_p) phi(d'_r)/(R R')] = (1/pi) int int ds dt (s t)^(-1/2) e^(-(s+t) eps)
                                   prod_i det(I + Sigma_i D)^(-m_i/2) V_phi(Sigma_st)_pr,
    Sigma_st = sum_i w_i Sigma_i (I + D Sigma_i)^-1,   D = a I + b I (direct sum),

over the parts i of the pool: all of Sigma for an rms, m = G, w = 1; about the mean the G - 1 contrasts
of channels, m = G - 1, w = 1 - 1/G, and the channels' mean, P Sigma P, m = 1, w = 1/G.  Tilting by s
first leaves one eigendecomposition per s, in which the tilt by t is diagonal.  Source: theory notes,
section 3.

Digits: cross-sample covariances are known to the quadrature's absolute error, 1e-10 or so, which the
gaps of nearly equal samples inherit.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.routes import arccosine, laplace, laplace_backward
from theory.routes.laplace_core import quadrature_error, right_end
from theory.specs.normalizers import Normalizer, Pool
from theory.specs.shifts import spread

__all__ = ["forward", "pullback", "seconds"]

FloatArray = NDArray[np.float64]
Slopes = tuple[float, float]

# Spacing in x, s = scale exp(x - e^-x): error e^(-2 pi 1.07/h) = 2e-12, and 1e-6 at twice that.
_SPACING = 0.25
_LEFT = -4.5
_ROUNDING = 1e-13
_EPSILON = float(np.finfo(np.float64).eps)
# Seconds, measured: per pair of samples and pair of positions, and per sample and cube of 256 rows.
_PLANE, _CUBE = 1e-4, 0.3


class _Part(NamedTuple):
    """One part of the pool: covariances within and between the two samples, m and w."""

    first: FloatArray
    second: FloatArray
    cross: FloatArray
    multiplicity: float
    share: float


def seconds(rows: int, *, batch: int, channels: int, backward: bool, by_lag: bool) -> float:
    """Estimated time of a layer on one core; ``by_lag``: spectra and one position only."""
    positions = rows // batch
    alone = batch * _CUBE * (channels * positions / 256.0) ** 3
    if by_lag:
        alone *= 0.25
    if backward:
        return 3.0 * alone
    pairs = batch * (batch - 1) / 2
    return alone + pairs * _PLANE * positions**2


def forward(
    second_moment: FloatArray,
    gap: FloatArray,
    *,
    norm: Normalizer,
    slopes: Slopes,
    batch: int,
    torus: tuple[int, ...] | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray, float]:
    """(second moments, gaps, means, error relative to mean second moments and gaps).

    Parameters
    ----------
    second_moment, gap
        Over rows (sample, position), samples outermost.
    norm
        Pools the positions of finitely many channels of one sample, ``"std"`` centered or ``"rms"``.
    slopes
        (a, b) of phi.
    batch
        Samples.
    torus
        Shifts of these sides change nothing: two samples are compared at position 0 of the first.
    """
    rows = len(second_moment)
    size = rows // batch
    q, mean, result = np.empty(rows), np.empty(rows), np.zeros((rows, rows))
    worst = 0.0
    parts = [slice(low, low + size) for low in range(0, rows, size)]
    for own in parts:
        group_q, group_gap = _group(second_moment[own], gap[own, own], norm)
        found = laplace.forward(
            group_q, group_gap, norm=_over_rows(norm), slopes=slopes, average=True, torus=torus
        )
        q[own], result[own, own], mean[own] = (
            found[0][:size],
            found[1][:size, :size],
            found[2][:size],
        )
        worst = max(worst, found[3])
    root, new_root = np.sqrt(second_moment), np.sqrt(q)
    covariance = np.outer(root, root) * (1.0 - gap)
    error = 0.0
    for k, one in enumerate(parts):
        for other in parts[k + 1 :]:
            blocks = covariance[one, one], covariance[other, other], covariance[one, other]
            moment, inaccuracy = _pair(
                *blocks, norm=norm, slopes=slopes, kept=size if torus is None else 1
            )
            if torus is not None:
                moment = spread(moment, torus)
            scale = np.outer(new_root[one], new_root[other])
            cosine = np.divide(moment, scale, out=np.zeros_like(moment), where=scale > 0.0)
            result[one, other] = np.clip(1.0 - cosine, 0.0, 2.0)
            result[other, one] = result[one, other].T
            error = max(error, inaccuracy)
    typical = _typical(result, batch=batch)
    if error and typical > 0.0:
        error = (error + 8.0 * _EPSILON) / typical
    return q, result, mean, worst + error + _ROUNDING


def _typical(gap: FloatArray, *, batch: int) -> float:
    """Mean gap of all rows, or of two samples at one position where that is smaller."""
    size = len(gap) // batch
    between = np.einsum("apbp->ab", gap.reshape(batch, size, batch, size)) / size
    pairs = batch * (batch - 1)
    return min(float(gap.mean()), float(between.sum()) / pairs if pairs else math.inf)


def pullback(
    second_moment: FloatArray,
    gap: FloatArray,
    gradient: FloatArray,
    *,
    norm: Normalizer,
    slopes: Slopes,
    batch: int,
    torus: tuple[int, ...] | None = None,
) -> tuple[FloatArray, float]:
    """(E[J' Pi J], error relative to its largest entry) for Pi without blocks across samples.

    Parameters as ``forward``; ``gradient`` is Pi over the same rows.
    """
    rows = len(second_moment)
    size, channels = rows // batch, int(norm.pool.channels)
    result, worst = np.zeros((rows, rows)), 0.0
    for low in range(0, rows, size):
        own = slice(low, low + size)
        group_q, group_gap = _group(second_moment[own], gap[own, own], norm)
        found, error = laplace_backward.pullback(
            group_q,
            group_gap,
            np.kron(np.eye(channels), gradient[own, own]),
            norm=_over_rows(norm),
            slopes=slopes,
            torus=torus,
        )
        blocks = found.reshape(channels, size, channels, size)
        result[own, own] = np.einsum("gigj->ij", blocks) / channels
        worst = max(worst, error)
    return result, worst


def _group(
    second_moment: FloatArray, gap: FloatArray, norm: Normalizer
) -> tuple[FloatArray, FloatArray]:
    """G independent channels of one sample as rows of a batch."""
    channels = int(norm.pool.channels)
    independent = np.kron(1.0 - np.eye(channels), np.ones_like(gap))
    return np.tile(second_moment, channels), np.kron(np.eye(channels), gap) + independent


def _over_rows(norm: Normalizer) -> Normalizer:
    """The same statistic over the rows of a batch."""
    return dataclasses.replace(norm, pool=Pool(samples=True, positions=True, channels=1))


def _pair(
    first: FloatArray,
    second: FloatArray,
    cross: FloatArray,
    *,
    norm: Normalizer,
    slopes: Slopes,
    kept: int,
) -> tuple[FloatArray, float]:
    """(E[phi(d) phi(d')'/(R R')], absolute error) for the first ``kept`` positions of d."""
    channels = int(norm.pool.channels)
    if not norm.centered:
        parts = [_Part(first, second, cross, channels, 1.0)]
    else:
        about = [_project(block) for block in (first, second, cross)]
        parts = [_Part(about[0], about[1], about[2], 1.0, 1.0 / channels)]
        if channels > 1:
            parts.append(_Part(first, second, cross, channels - 1.0, 1.0 - 1.0 / channels))
    divisor = norm.divisor(batch=1, positions=len(first))
    s, s_weight = _nodes([(p.first, p.multiplicity) for p in parts], divisor, norm.eps)
    t, t_weight = _nodes([(p.second, p.multiplicity) for p in parts], divisor, norm.eps)
    spectra = [np.linalg.eigh(part.first) for part in parts]
    fine, coarse = np.zeros_like(cross[:kept]), np.zeros_like(cross[:kept])
    b = 2.0 * t / divisor
    for index, (point, weight) in enumerate(zip(s, s_weight, strict=True)):
        log_det = np.zeros_like(t)
        left = np.zeros((len(t), kept))
        right = np.zeros((len(t), len(second)))
        between = np.zeros((len(t), *fine.shape))
        for part, spectrum in zip(parts, spectra, strict=True):
            tilted = _tilted(part, spectrum, 2.0 * point / divisor, b, kept)
            log_det += part.multiplicity * tilted.log_det
            left += part.share * tilted.first
            right += part.share * tilted.second
            between += part.share * tilted.cross
        density = weight * t_weight * np.exp(-0.5 * log_det - (point + t) * norm.eps)
        value = _dual(left, right, between, slopes)
        fine += np.tensordot(density, value, axes=1)
        if index % 2 == 0:
            coarse += 4.0 * np.tensordot(density[::2], value[::2], axes=1)
    fine, coarse = fine / math.pi, coarse / math.pi
    scale = float(np.abs(fine).max()) or 1.0
    return fine, scale * quadrature_error(fine, coarse, scale)


class _Tilted(NamedTuple):
    """Variances and cross-covariance under e^(-s R^2 - t R'^2), for every t; log det(I + Sigma D)."""

    first: FloatArray
    second: FloatArray
    cross: FloatArray
    log_det: FloatArray


def _tilted(
    part: _Part, spectrum: tuple[FloatArray, FloatArray], a: float, b: FloatArray, kept: int
) -> _Tilted:
    value, vector = spectrum
    value = np.maximum(value, 0.0)
    shrink = 1.0 / (1.0 + a * value)
    turned = vector.T @ part.cross
    between = (vector[:kept] * shrink) @ turned
    after = part.second - turned.T @ (turned * (a * shrink)[:, None])
    mu, basis = np.linalg.eigh(0.5 * (after + after.T))
    mu = np.maximum(mu, 0.0)
    # The tilt by t, diagonal in ``basis``.
    keep = 1.0 / (1.0 + np.multiply.outer(b, mu))
    mixed = between @ basis
    first = (vector[:kept] ** 2) @ (value * shrink) - (b[:, None] * keep) @ (mixed**2).T
    second = (mu * keep) @ (basis**2).T
    cross = (mixed[None] * keep[:, None, :]) @ basis.T
    log_det = np.log1p(a * value).sum() - np.log(keep).sum(axis=1)
    return _Tilted(np.maximum(first, 0.0), second, cross, log_det)


def _dual(first: FloatArray, second: FloatArray, cross: FloatArray, slopes: Slopes) -> FloatArray:
    """V_phi: E[phi(u) phi(v)] = (a^2 + b^2)/2 sqrt(E u^2 E v^2) (1 - ray gap)."""
    a, b = slopes
    scale = np.sqrt(first)[:, :, None] * np.sqrt(second)[:, None, :]
    cosine = np.divide(cross, scale, out=np.zeros_like(cross), where=scale > 0.0)
    gap = np.clip(1.0 - cosine, 0.0, 2.0)
    return np.asarray(0.5 * (a * a + b * b) * scale * (1.0 - arccosine.ray_gap(gap, slopes=slopes)))


def _nodes(
    parts: list[tuple[FloatArray, float]], divisor: float, eps: float
) -> tuple[FloatArray, FloatArray]:
    """s and ds/sqrt(s) of the trapezoidal rule in x; the determinants are the integrand's."""
    rates = []
    for covariance, multiplicity in parts:
        value = np.maximum(np.linalg.eigvalsh(covariance), 0.0)
        value = value[value > 1e-14 * value[-1]]
        rates.append(np.repeat(2.0 * value / divisor, round(multiplicity)))
    rate = np.concatenate(rates)
    scale = 1.0 / (float(rate.sum()) + eps)
    limit = right_end(rate * scale, 1.0, eps * scale, -0.5)
    count = math.ceil((limit - _LEFT) / (2.0 * _SPACING))
    x = _LEFT + _SPACING * np.arange(2 * count + 1)
    shrink = np.exp(-x)
    s = scale * np.exp(x - shrink)
    return s, _SPACING * np.sqrt(s) * (1.0 + shrink)


def _project(block: FloatArray) -> FloatArray:
    rows = block - block.mean(axis=0, keepdims=True)
    return np.asarray(rows - rows.mean(axis=1, keepdims=True))
