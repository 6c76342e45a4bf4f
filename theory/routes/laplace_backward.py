r"""Denominators shared by a batch, backward: T(Pi) = E[J' Pi J] in Stein's form, matrix products only.

J_ki = phi'(d_k) A_ki/R - phi(d_k) y_i/(N R^3),  y = M h,  so with f = phi, f' and f'' = (a+b) delta,

    T = A'(Pi o E[f'f'/R^2]) A - (T2 + T2')/N + T3/N^2,
    T2_ij = sum_kl Pi_kl A_ki E[f'_k f_l y_j/R^4],     T3_ij = sum_kl Pi_kl E[f_k f_l y_i y_j/R^6].

Under e^{-s R^2} everything is Gaussian; with Y = Cov(y, d), C = Cov(y, y) Stein's lemma gives

    E[f'_k f_l y_j]     = Y_jk E[f''_k f_l] + Y_jl E[f'_k f'_l],
    E[f_k f_l y_i y_j]  = C_ij E[f_k f_l] + (Y_ik Y_jl + Y_il Y_jk) E[f'_k f'_l]
                          + Y_ik Y_jk E[f''_k f_l] + Y_il Y_jl E[f_k f''_l],
    E[f''_k f_l]        = (a+b)^2/(2 pi) (sigma_l/sigma_k) sqrt(1 - c_kl^2).

In the pool's modes Y = U Lambda W', C = U Lambda U' (``laplace_core``).  The three powers of 1/R carry
the weights 1, s, s^2/2.  Source: theory notes, section 3, "Backward through a shared denominator".
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.routes import arccosine
from theory.routes.laplace import check_exchangeable, exchangeable_nodes, mean_variance
from theory.routes.laplace_core import (
    Modes,
    Nodes,
    modes,
    quadrature,
    quadrature_error,
    shaken_modes,
    tilted_deviation,
    tilted_gap_row,
)
from theory.specs.normalizers import Normalizer
from theory.specs.shifts import shift_average, spread

__all__ = ["exchangeable_pullback", "pullback"]

FloatArray = NDArray[np.float64]
Slopes = tuple[float, float]

_ROUNDING = 1e-14
_EPSILON = float(np.finfo(np.float64).eps)
# Numbers held at once per array of (nodes, B, B): many nodes at a time, or a row's squared differences,
# which are the same at every node, cost more than what is done with them.
_CHUNK = 8_000_000


def pullback(
    second_moment: ArrayLike,
    gap: ArrayLike,
    gradient: ArrayLike,
    *,
    norm: Normalizer,
    slopes: Slopes,
    torus: tuple[int, ...] | None = None,
) -> tuple[FloatArray, float]:
    """T(Pi) = E[J' Pi J] for a symmetric Pi, J = d phi(N(h))/dh.

    Parameters
    ----------
    second_moment, gap, norm, slopes
        As in ``laplace.forward``.
    gradient
        Pi, shape (B, B).
    torus
        Rows are (sample, position) and shifts of these sides change nothing, in Pi neither.

    Returns
    -------
    (T (B, B), error relative to the largest entry of T).
        eps = 0: all entries are ``inf`` where E[1/R^2] is infinite (pool of rank <= 2; raw numerator:
        rank <= 4), but zero for B = 2 centered, whose N(h) = +-1 (theory notes, "Heavy tails").

    Raises
    ------
    HypothesisError
        As ``laplace.forward``.
    """
    pool = modes(np.asarray(second_moment), np.asarray(gap), norm=norm)
    cotangent = np.asarray(gradient, dtype=np.float64)
    batch = cotangent.shape[0]
    heavy = pool.residual > 0.0
    if pool.eps == 0.0 and (batch == 2 and pool.centered and norm.denominator == "std"):
        return np.zeros((batch, batch)), 0.0
    if not cotangent.any():
        return np.zeros((batch, batch)), 0.0
    if pool.eps == 0.0 and pool.rank <= (4 if heavy else 2):
        return np.full((batch, batch), math.inf), 0.0
    value, error = _transform(pool, cotangent, slopes=slopes, torus=torus)
    moved = shaken_modes(pool, np.asarray(second_moment), np.asarray(gap), norm=norm)
    shaken, _ = _transform(moved, cotangent, slopes=slopes, torus=torus)
    top = float(np.abs(value).max()) or 1.0
    error += float(np.abs(value - shaken).max()) / top + _ROUNDING
    return value / pool.scale, error


def _transform(
    pool: Modes, cotangent: FloatArray, *, slopes: Slopes, torus: tuple[int, ...] | None
) -> tuple[FloatArray, float]:
    """(T, its error relative to the largest entry: quadrature and cancellation)."""
    power = 1.0 if pool.residual > 0.0 else 0.0
    nodes = quadrature(pool.variance, divisor=pool.divisor, eps=pool.eps, power=power)
    fine, coarse = _accumulate(pool, nodes, cotangent, slopes=slopes, torus=torus)
    top = float(np.abs(fine).max()) or 1.0
    error = quadrature_error(fine, coarse, top)
    return fine, error + _EPSILON * _cancelled(pool, nodes, cotangent, slopes=slopes) / top


def _accumulate(
    pool: Modes,
    nodes: Nodes,
    cotangent: FloatArray,
    *,
    slopes: Slopes,
    torus: tuple[int, ...] | None,
) -> tuple[FloatArray, FloatArray]:
    """T by the fine and by the coarse rule.

    On a torus k runs over the rows at position 0; sums over its shifts are taken of the result.
    """
    batch, rank = pool.pooled.shape
    places = 1 if torus is None else math.prod(torus)
    rows = np.arange(0, batch, places)
    deviation = tilted_deviation(pool, nodes)
    both = np.stack([nodes.weight, nodes.coarse()])
    direct = np.zeros((2, len(rows), batch))
    mixed = np.zeros((2, len(rows), rank))
    inner = np.zeros((2, rank, rank))
    step = max(_CHUNK // (len(rows) * batch), 1)
    for start in range(0, nodes.s.size, step):
        part = slice(start, start + step)
        some = Nodes(nodes.s[part], nodes.tilted[part], nodes.weight[part])
        first, row, total = _moments(
            pool, some, deviation[:, part], cotangent, slopes=slopes, rows=rows
        )
        weight, s = both[:, part], some.s
        # s Y' = W s Lambda(s) U'; U is applied at the end.  s Lambda(s) is bounded, s^2 is not.
        share = some.tilted * s[:, None]
        outer = pool.numerator[None] * share[:, None, :]
        own = outer[:, rows]
        product = first @ outer + row[:, :, None] * own
        direct += np.einsum("rq,qkl->rkl", weight, first)
        mixed += np.einsum("rq,qkm->rkm", weight, product)
        square = 2.0 * (own.transpose(0, 2, 1) @ product)
        index = np.arange(rank)
        square[:, index, index] += share * (s * total)[:, None]
        inner += np.einsum("rq,qmn->rmn", 0.5 * weight, square)
    results = []
    for direct_r, mixed_r, inner_r in zip(direct, mixed, inner, strict=True):
        second = mixed_r @ pool.pooled.T
        third = pool.pooled @ inner_r @ pool.pooled.T
        if torus is not None:
            direct_r, second = spread(direct_r, torus), spread(second, torus)
            third = places * spread(shift_average(third, torus), torus)
        if pool.centered:
            direct_r = _project(direct_r)
            second = second - second.mean(axis=0, keepdims=True)
        value = direct_r - (second + second.T) / pool.divisor
        value += third / pool.divisor**2
        results.append(0.5 * (value + value.T))
    return results[0], results[1]


def _cancelled(pool: Modes, nodes: Nodes, cotangent: FloatArray, *, slopes: Slopes) -> float:
    """Size of the terms C_ij E[f_k f_l] without their signs: contrasts of Pi cancel them as gap -> 0."""
    a, b = slopes
    deviation = tilted_deviation(pool, nodes)
    size = np.einsum("kq,kl,lq->q", deviation, np.abs(cotangent), deviation, optimize=True)
    share = nodes.s / pool.divisor
    scale = 0.5 * share * (share * nodes.tilted.max(axis=1, initial=0.0))
    return float(nodes.weight @ (scale * size)) * (0.5 * (a * a + b * b))


def _moments(
    pool: Modes,
    nodes: Nodes,
    deviation: FloatArray,
    cotangent: FloatArray,
    *,
    slopes: Slopes,
    rows: NDArray[np.int64],
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Pi o E[f'f'] (Q, k, B), sum_l Pi_kl E[f''_k f_l] (Q, k), sum_kl Pi_kl E[f_k f_l] (Q,), k in rows."""
    a, b = slopes
    batch, count = deviation.shape
    first = np.empty((count, len(rows), batch))
    row = np.empty((count, len(rows)))
    total = np.zeros(count)
    for k, sample in enumerate(rows):
        gap = tilted_gap_row(pool, nodes, deviation, sample=sample)
        gap[sample] = 0.0
        weight = cotangent[sample][:, None]
        first[:, k, :] = (weight * arccosine.ray_slope(gap, slopes=slopes)).T
        own = deviation[sample]
        total += own * (weight * deviation * (1.0 - arccosine.ray_gap(gap, slopes=slopes))).sum(
            axis=0
        )
        sine = np.sqrt(gap * (2.0 - gap))
        kink = (weight * deviation * sine).sum(axis=0)
        row[:, k] = np.divide(kink, own, out=np.zeros_like(kink), where=own > 0.0)
    return first, row * ((a + b) ** 2 / (2.0 * math.pi)), total * (0.5 * (a * a + b * b))


def _project(matrix: FloatArray) -> FloatArray:
    """P X P with P = I - 11'/B."""
    rows = matrix - matrix.mean(axis=0, keepdims=True)
    return np.asarray(rows - rows.mean(axis=1, keepdims=True))


def exchangeable_pullback(
    second_moment: float,
    gap: float,
    same: float,
    pair: float,
    *,
    batch: float,
    norm: Normalizer,
    slopes: Slopes,
) -> tuple[float, float, float]:
    """T(Pi) for an exchangeable batch and Pi = (same - pair) I + pair 11', at a cost O(1) in B.

    T is exchangeable too: its trace and its sum over all entries say everything, and y'1 = 0 leaves
    only the first term of T in the sum.  B = inf: R is a number, and a cross-sample cotangent of
    order one (not 1/B) adds to ``same`` what it pulls through R.

    Parameters
    ----------
    second_moment, gap, batch, norm, slopes
        As in ``laplace.exchangeable_forward``.
    same, pair
        Pi_aa and Pi_ab.

    Returns
    -------
    (same, pair, error relative to the larger of the two).
        ``inf`` as in ``pullback``: at eps = 0 for B = 3 (BN) and B <= 5 (VN); zeros for BN(2).
    """
    check_exchangeable(second_moment, gap, batch=batch, norm=norm)
    q, eps, raw = second_moment, norm.eps / second_moment, not norm.centered
    if same == 0.0 and pair == 0.0:
        return 0.0, 0.0, 0.0
    if batch == math.inf:
        same, pair, error = _infinite_batch(gap, same, pair, eps=eps, raw=raw, slopes=slopes)
        return same / q, pair / q, error
    if eps == 0.0 and batch == 2 and not raw:
        return 0.0, 0.0, 0.0
    b = float(batch)
    of_mean = mean_variance(gap, batch=b) if raw else 0.0
    if eps == 0.0 and b - 1.0 <= (4.0 if of_mean else 2.0):
        return math.inf, math.inf, 0.0
    power = 1.0 if of_mean else 0.0
    nodes = exchangeable_nodes(gap, batch=batch, norm=norm, eps=eps, power=power)
    trace, total, absolute = _exchangeable_integrands(
        nodes, of_mean, same, pair, batch=b, norm=norm, slopes=slopes
    )
    result = []
    for weight in (nodes.weight, nodes.coarse()):
        new_same = float(weight @ trace) / b
        new_sum = float(weight @ total) / b if raw else 0.0
        result.append((new_same, (new_sum - new_same) / (b - 1.0)))
    fine, coarse = np.array(result[0]), np.array(result[1])
    top = float(np.abs(fine).max()) or 1.0
    # Contrasts cancel the terms C E[f_k f_l]: their size without signs bounds the rounding.
    error = quadrature_error(fine, coarse, top)
    error += 2.0 * _EPSILON * float(nodes.weight @ absolute) / (b * top)
    return result[0][0] / q, result[0][1] / q, error + _ROUNDING


def _exchangeable_integrands(
    nodes: Nodes,
    of_mean: float,
    same: float,
    pair: float,
    *,
    batch: float,
    norm: Normalizer,
    slopes: Slopes,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """tr T, 1'T 1 and the size of tr C E[f f] in tr T, before the integral over s."""
    a, b = slopes
    divisor = norm.divisor(batch=batch, positions=1)
    s, inner = nodes.s, nodes.tilted[:, 0]
    others = batch - 1.0
    inward = 1.0 - 1.0 / batch
    variance = of_mean + inward * inner
    ratio = np.divide(inner, variance, out=np.full_like(inner, 1.0 / inward), where=variance > 0.0)
    gap = np.minimum(ratio, 2.0)
    square = 0.5 * (a * a + b * b)
    slope = arccosine.ray_slope(gap, slopes=slopes)
    kink = (a + b) ** 2 / (2.0 * math.pi) * np.sqrt(gap * (2.0 - gap))
    moment = square * variance * (1.0 - arccosine.ray_gap(gap, slopes=slopes))
    if norm.centered:
        first = others * (same * square - pair * slope)
    else:
        first = np.full(s.shape, batch * same * square)
    # tr T2, then tr T3: Cov(y_k, d_k) = (1 - 1/B) inner, Cov(y_k, d_l) = -inner/B.
    share = (s / divisor) * inner
    stein = others * share * (same * square + pair * (others * kink - slope))
    scalar = batch * (same * square * variance + others * pair * moment)
    trace = first - 2.0 * stein + share * (0.5 * others * (s / divisor) * scalar + stein)
    total = batch * (same * square + others * pair * slope)
    size = batch * square * variance * (abs(same) + others * abs(pair))
    return trace, total, 0.5 * share * others * (s / divisor) * size


def _infinite_batch(
    gap: float, same: float, pair: float, *, eps: float, raw: bool, slopes: Slopes
) -> tuple[float, float, float]:
    """R is a number; all in units of q."""
    a, b = slopes
    square, kink = 0.5 * (a * a + b * b), (a + b) ** 2 / (2.0 * math.pi)
    inner, denominator = gap, gap + eps
    variance, gap = (1.0, gap) if raw else (inner, 1.0)
    slope = arccosine.ray_slope_scalar(gap, slopes=slopes)
    ratio = inner / denominator
    bend = kink * math.sqrt(gap * (2.0 - gap))
    moment = square * variance / denominator * (1.0 - arccosine.ray_gap_scalar(gap, slopes=slopes))
    new_same = same * square - 2.0 * pair * ratio * bend + pair * ratio * moment
    if raw:
        return new_same / denominator, pair * slope / denominator, _ROUNDING
    return (new_same - pair * slope) / denominator, 0.0, _ROUNDING
