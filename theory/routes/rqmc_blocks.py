"""RQMC over one channel of a batch: BN, VN, MC, EvoNorm-B0 and their relatives, any phi, at S = 1.

    K = E[x x'],  gap_ab = E[(x_a/s_a - x_b/s_b)^2]/2,  T(Pi) = E[J' Pi J],  x = phi(N(h)), s^2 = diag K

for a full covariance, or for an exchangeable batch by two scalars.  J = diag(a) A - b w' (see
``rqmc_pool``), so T is made of matrix products over the sample points.

Factorization.  Only differences of samples reach a centered pool, so its covariance is built from
E(h_a - h_b)^2 = (sqrt q_a - sqrt q_b)^2 + 2 sqrt(q_a q_b) gap_ab and never from correlations, by a
symmetric eigendecomposition that allows rank deficiency; the batch mean follows by regression.

Errors are standard errors over scrambles.  Digits are lost where gaps within one batch differ by
more than about 1e10: the eigendecomposition then knows the small ones only to 1e-15 of the large
ones, which the stated error includes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.errors import HypothesisError
from theory.routes.functions import BaseFunction, base_function
from theory.routes.rqmc import Sampling, average, summarize
from theory.routes.rqmc_pool import Pooled, Want, contrasts, infinite_mean, normalize, power
from theory.specs.activations import Activation
from theory.specs.normalizers import Normalizer
from theory.states.full import squared_distances

__all__ = [
    "batch_forward",
    "batch_pullback",
    "exchangeable_forward",
    "exchangeable_pullback",
    "factorized",
    "sampled_distances",
]

FloatArray = NDArray[np.float64]
# (pooled sample, weights, phi) -> the sum over sample points of what is wanted
Statistic = Callable[[Pooled, FloatArray, BaseFunction], FloatArray]

_ROUNDING = 1e-15
_DEFAULT = Sampling()


def batch_forward(
    second_moment: ArrayLike,
    gap: ArrayLike,
    *,
    norm: Normalizer,
    activation: Activation,
    sampling: Sampling = _DEFAULT,
) -> tuple[FloatArray, FloatArray, FloatArray, float, float]:
    """K = E[phi(N(h)) phi(N(h))'] of a batch, as second moments and gaps.

    Parameters
    ----------
    second_moment, gap
        E[h_a^2], shape (B,), and 1 - correlation of h_a and h_b, shape (B, B).

    Returns
    -------
    second_moment (B,), gap (B, B), mean (B,), rel_error, mean_rel_error
        ``rel_error`` is relative to each second moment and each gap; for the mean to the root of
        the second moment.  ``mean_rel_error`` is that of their averages over samples and pairs,
        which is what observables are made of.

    Raises
    ------
    HypothesisError
        The pool's variance is zero, or the moment infinite, at eps = 0.
    """
    q = np.asarray(second_moment, dtype=float)
    gaps = np.asarray(gap, dtype=float)
    batch = len(q)
    means = _average(_second_moments, factorized(q, gaps), norm, activation, "forward", sampling)
    odd = _is_odd(norm, activation)

    def moments(raw: FloatArray) -> FloatArray:
        return raw[:batch]

    def mean(raw: FloatArray) -> FloatArray:
        return np.zeros(batch) if odd else raw[batch : 2 * batch]

    same = np.where(gaps == 0.0, q[:, None] == q[None, :], False)

    def new_gap(raw: FloatArray) -> FloatArray:
        size = raw[:batch]
        distance = sampled_distances(raw)
        root = np.sqrt(size)
        excess = (size[:, None] - size) / (root[:, None] + root)
        value = np.maximum(distance - excess**2, 0.0) / (2.0 * np.outer(root, root))
        value[same] = 0.0
        np.fill_diagonal(value, 0.0)
        return value

    size = summarize(moments, means, sampling=sampling)
    gap_summary = summarize(new_gap, means, sampling=sampling)
    mean_summary = summarize(mean, means, sampling=sampling)
    rounding = _rounding(gaps, gap_summary.value)
    error = max(
        size.relative(),
        gap_summary.relative() + rounding,
        mean_summary.relative(np.sqrt(size.value)),
    )

    def averages(raw: FloatArray) -> FloatArray:
        return np.array([moments(raw).mean(), new_gap(raw).mean()])

    observed = summarize(averages, means, sampling=sampling).relative() + rounding
    return size.value, gap_summary.value, mean_summary.value, error, observed


def batch_pullback(
    second_moment: ArrayLike,
    gap: ArrayLike,
    gradient: ArrayLike,
    *,
    norm: Normalizer,
    activation: Activation,
    sampling: Sampling = _DEFAULT,
) -> tuple[FloatArray, float, float]:
    """T(Pi) = E[J' Pi J], J = d phi(N(h))/dh.

    Parameters
    ----------
    second_moment, gap
        As in ``batch_forward``.
    gradient
        Pi, shape (B, B), symmetric positive semidefinite.

    Returns
    -------
    T (B, B), rel_error, trace_rel_error
        ``rel_error`` of T_ij is relative to sqrt(T_ii T_jj); ``trace_rel_error`` that of tr T, the
        squared gradient norm.
    """
    q = np.asarray(second_moment, dtype=float)
    pi = np.asarray(gradient, dtype=float)

    def statistic(pool: Pooled, weight: FloatArray, base: BaseFunction) -> FloatArray:
        slope = base.derivative(pool.normalized)
        a = slope * pool.local
        weighted = weight[:, None] * a
        result = _project((weighted.T @ a) * pi, norm)
        if pool.shared is None or pool.direction is None:
            return result
        b = slope * pool.shared
        through = b @ pi
        cross = _project((weighted * through).T @ pool.direction, norm, left_only=True)
        strength = weight * np.einsum("pi,pi->p", b, through)
        rank_one = (strength[:, None] * pool.direction).T @ pool.direction
        return result - cross - cross.T + rank_one

    factor = factorized(q, np.asarray(gap, dtype=float))
    means = _average(statistic, factor, norm, activation, "backward", sampling)
    summary = summarize(lambda raw: 0.5 * (raw + raw.T), means, sampling=sampling)
    root = np.sqrt(np.maximum(np.diagonal(summary.value), 0.0))
    trace = summarize(lambda raw: np.array([np.trace(raw)]), means, sampling=sampling)
    return summary.value, summary.relative(np.outer(root, root)), trace.relative()


def exchangeable_forward(
    second_moment: float,
    gap: float,
    *,
    batch: int,
    norm: Normalizer,
    activation: Activation,
    sampling: Sampling = _DEFAULT,
) -> tuple[float, float, float, float]:
    """(second moment, gap, mean, rel_error) of phi(N(h)) for an exchangeable batch.

    As ``batch_forward``, averaged over samples and pairs; full relative precision in the gap.
    """
    factor = _exchangeable_factor(float(second_moment), float(gap), int(batch))
    means = _average(_exchangeable_moments, factor, norm, activation, "forward", sampling)
    odd = _is_odd(norm, activation)

    def values(raw: FloatArray) -> FloatArray:
        size, deviation, mean = raw / batch
        return np.array([size, deviation * batch / ((batch - 1) * size), 0.0 if odd else mean])

    summary = summarize(values, means, sampling=sampling)
    size, new_gap, mean = (float(value) for value in summary.value)
    scale = np.array([size, new_gap, math.sqrt(size)])
    return size, new_gap, mean, summary.relative(scale) + _ROUNDING / math.sqrt(gap or 1.0)


def exchangeable_pullback(
    second_moment: float,
    gap: float,
    same: float,
    pair: float,
    *,
    batch: int,
    norm: Normalizer,
    activation: Activation,
    sampling: Sampling = _DEFAULT,
) -> tuple[float, float, float]:
    """(same, pair, rel_error) of E[J' Pi J] for Pi = (same - pair) I + pair 1 1'.

    From |J|^2, |J 1|^2, |J' 1|^2 and (1' J 1)^2 alone.  ``rel_error`` is relative to the new same.
    """
    difference = float(same) - float(pair)

    def statistic(pool: Pooled, weight: FloatArray, base: BaseFunction) -> FloatArray:
        slope = base.derivative(pool.normalized)
        a = slope * pool.local
        kept = 1.0 - 1.0 / batch if norm.centered else 1.0
        trace = kept * np.einsum("pi,pi->p", a, a)
        row = np.zeros_like(a) if norm.centered else a  # J 1
        column = a - a.mean(axis=1, keepdims=True) if norm.centered else a  # J' 1
        if pool.shared is not None and pool.direction is not None:
            b, w = slope * pool.shared, pool.direction
            total_b = b.sum(axis=1, keepdims=True)
            total_w = w.sum(axis=1, keepdims=True) if norm.denominator == "rms" else 0.0
            projected = w - total_w / batch if norm.centered else w
            trace = trace - 2.0 * np.einsum("pi,pi,pi->p", a, b, projected)
            trace = trace + np.einsum("pi,pi->p", b, b) * np.einsum("pi,pi->p", w, w)
            row = row - b * total_w
            column = column - total_b * w
        total = row.sum(axis=1)
        new_trace = difference * trace + pair * np.einsum("pi,pi->p", column, column)
        new_sum = difference * np.einsum("pi,pi->p", row, row) + pair * total**2
        return np.array([weight @ new_trace, weight @ new_sum])

    factor = _exchangeable_factor(float(second_moment), float(gap), int(batch))
    means = _average(statistic, factor, norm, activation, "backward", sampling)

    def values(raw: FloatArray) -> FloatArray:
        trace, total = raw
        return np.array([trace / batch, (total - trace) / (batch * (batch - 1.0))])

    summary = summarize(values, means, sampling=sampling)
    new_same, new_pair = (float(value) for value in summary.value)
    return new_same, new_pair, summary.relative(new_same)


def _second_moments(pool: Pooled, weight: FloatArray, base: BaseFunction) -> FloatArray:
    """Rows E[x_a^2], E[x_a], then E[y y'] with y = x minus its batch mean; shape (B + 2) B."""
    x = base.value(pool.normalized)
    y = x - x.mean(axis=1, keepdims=True)
    gram = (weight[:, None] * y).T @ y
    return np.concatenate([weight @ (x * x), weight @ x, gram.ravel()])


def _exchangeable_moments(pool: Pooled, weight: FloatArray, base: BaseFunction) -> FloatArray:
    """Sums over the batch of E[x^2], E[(x - batch mean)^2], E[x]."""
    x = base.value(pool.normalized)
    y = x - x.mean(axis=1, keepdims=True)
    square = np.einsum("pi,pi->p", x, x)
    deviation = np.einsum("pi,pi->p", y, y)
    return np.array([weight @ square, weight @ deviation, weight @ x.sum(axis=1)])


def sampled_distances(raw: FloatArray) -> FloatArray:
    """E(x_a - x_b)^2 from the Gram matrix of deviations."""
    batch = math.isqrt(len(raw) + 1) - 1
    gram = raw[2 * batch :].reshape(batch, batch)
    diagonal = np.diagonal(gram)
    return np.asarray(diagonal[:, None] + diagonal - gram - gram.T)


def _rounding(gap: FloatArray, new_gap: FloatArray) -> float:
    """Relative error of the smallest gap: eigendecomposition before, Gram matrix after."""
    worst = 0.0
    for values in (gap, new_gap):
        off = values[values > 0.0]
        if off.size:
            worst = max(worst, off.max() / off.min())
    smallest = gap[gap > 0.0].min(initial=1.0)
    return float(_ROUNDING * (len(gap) * worst + 1.0 / math.sqrt(smallest)))


def _project(matrix: FloatArray, norm: Normalizer, *, left_only: bool = False) -> FloatArray:
    """A X A, or A X."""
    if not norm.centered:
        return matrix
    left = matrix - matrix.mean(axis=0)
    return left if left_only else left - left.mean(axis=1, keepdims=True)


def _is_odd(norm: Normalizer, activation: Activation) -> bool:
    """Whether phi(N(-h)) = -phi(N(h)), so that the mean is zero."""
    return norm.gate is None and base_function(activation.base).odd


@dataclass(frozen=True)
class Factor:
    """h = z_pool @ deviation + (z_pool @ loading + residual z_mean) 1."""

    deviation: FloatArray
    loading: FloatArray
    residual: float

    def sample(self, z: FloatArray, *, uses_mean: bool) -> tuple[FloatArray, FloatArray]:
        """h and its deviation from the batch mean, each (P, B)."""
        rank = len(self.deviation)
        deviation = z[:, :rank] @ self.deviation
        if not uses_mean:
            return deviation, deviation
        mean = z[:, :rank] @ self.loading + self.residual * z[:, rank]
        return deviation + mean[:, None], deviation


def factorized(second_moment: FloatArray, gap: FloatArray) -> Factor:
    """Factor the covariance of a batch: deviations from the batch mean, then the mean given them."""
    batch = len(second_moment)
    distance = squared_distances(second_moment, gap)
    row = distance.mean(axis=1)
    # P Sigma P = -(1/2) P E(h_a - h_b)^2 P
    centered = -0.5 * (distance - row[:, None] - row + row.mean())
    eigenvalue, vector = np.linalg.eigh(centered)
    keep = eigenvalue > 1e-14 * batch * max(eigenvalue[-1], 0.0)
    # Leading eigenvectors first: the first Sobol' coordinates are the most even ones.
    eigenvalue, vector = eigenvalue[keep][::-1], vector[:, keep][:, ::-1]
    vector = vector - vector.mean(axis=0)
    # Cov(h_a, batch mean) = (q_a - row_a + mean of q)/2 ... up to a constant, and its variance.
    moment = 0.5 * (second_moment - row)
    loading = vector.T @ (moment - moment.mean()) / np.sqrt(eigenvalue)
    variance = float(second_moment.mean() - 0.5 * row.mean())
    residual = math.sqrt(max(variance - float(loading @ loading), 0.0))
    return Factor(np.sqrt(eigenvalue)[:, None] * vector.T, loading, residual)


def _exchangeable_factor(second_moment: float, gap: float, batch: int) -> Factor:
    """Deviations have variance q gap in every direction, the batch mean q (1 - gap + gap/B)."""
    scale = math.sqrt(second_moment * gap)
    mean = second_moment * max(1.0 - gap + gap / batch, 0.0)
    rank = batch - 1 if scale > 0.0 else 0
    return Factor(scale * contrasts(batch)[:rank], np.zeros(rank), math.sqrt(mean))


def _average(
    statistic: Statistic,
    factor: Factor,
    norm: Normalizer,
    activation: Activation,
    want: Want,
    sampling: Sampling,
) -> FloatArray:
    """Averages of ``statistic`` over one channel's batch, one row per scramble."""
    rank, batch = factor.deviation.shape
    uses_mean = not norm.centered or norm.denominator == "rms"
    dimension = rank + (1 if uses_mean else 0)
    pool = dimension if norm.denominator == "rms" else rank
    if norm.denominator != "none" and norm.eps == 0.0:
        if pool == 0:
            raise HypothesisError(
                f"the pool of {norm.name} has zero variance and eps = 0: all samples of the batch "
                "are the same; use eps > 0 or distinct samples."
            )
        reason = infinite_mean(norm, activation, rank=pool, want=want)
        if reason is not None:
            raise HypothesisError(f"{reason} at eps = 0; use eps > 0 or more distinct samples.")
    divisor = norm.divisor(batch=batch, positions=1)
    base = base_function(activation.base)

    def integrand(z: FloatArray, weight: FloatArray) -> FloatArray:
        h, deviation = factor.sample(z, uses_mean=uses_mean)
        return statistic(normalize(h, deviation, norm, divisor=divisor), weight, base)

    return average(
        integrand,
        dimension=max(dimension, 1),
        pool=pool,
        power=power(norm, want) if pool else 0.0,
        sampling=sampling,
    )
