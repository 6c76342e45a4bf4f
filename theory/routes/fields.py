r"""RQMC over one group of channels at every sample and position: any normalizer, any phi.

    K = E[x x'],   gap_ij = E[(x_i/s_i - x_j/s_j)^2]/2,   T(Pi) = E[J' Pi J],   x = phi(N(h)),

h ~ N(0, Sigma) over the rows (sample, position), independent in the G channels of a group.  With
J = diag(a) A - sum_k b_k w_k' (``field_pools``) and means over the group's channels,

    T = A (Pi o E[a a']) A - sum_k (E[A(a o Pi b_k) w_k'] + transposed) + sum_kl E[(b_k' Pi b_l) w_k w_l'],

matrix products over the sample points; the last sums over the group before the product.  Errors are
standard errors over scrambles, of averages over rows and pairs: what observables are made of.

Heavy tails.  Where N(a h) = N(h) the Jacobian falls as 1/r along every ray: with whitened coordinates
eta of what a pool's R sees, |eta|^2 ~ chi^2_n, each point may take the mean over its ray,

    E[J' Pi J] = E[|eta|^2 J' Pi J] E[1/|eta|^2],   E[1/|eta|^2] = 1/(n - 2),

which is bounded near R = 0: the standard error is honest for n = 3 already.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from theory.routes.field_pools import FieldPool, normalize_field, project, projected
from theory.routes.functions import BaseFunction, base_function
from theory.routes.rqmc import Sampling, average, summarize
from theory.routes.rqmc_blocks import factorized, sampled_distances
from theory.specs.activations import Activation
from theory.specs.normalizers import Normalizer

__all__ = ["Field", "block_diagonal", "field_forward", "field_pullback", "sampling_for"]

FloatArray = NDArray[np.float64]
# (pool, phi, h) -> the sum over sample points of what is wanted
Statistic = Callable[[FieldPool, BaseFunction, FloatArray], FloatArray]

_SCRAMBLES = 8
# Multiplications of one matrix product over all sample points.
_BUDGET = 8e9
_LEAST, _MOST = 9, 13
# Eigenvalues below this share of the largest are directions that h does not have.
_NULL = 1e-11
# Of a row of zeros.
_VANISHING = 1e-100


@dataclass(frozen=True, kw_only=True)
class Field:
    """What is averaged: ``batch`` samples of equally many positions through phi(N(h))."""

    norm: Normalizer | None
    activation: Activation
    batch: int

    @property
    def channels(self) -> int:
        """G channels that are sampled together."""
        size = math.inf if self.norm is None else self.norm.pool.channels
        return 1 if size == math.inf else int(size)

    def level(self, second_moment: FloatArray) -> FloatArray | None:
        """R^2 of every row for pools over all channels: the mean of q over positions, plus eps."""
        norm = self.norm
        if norm is None or norm.denominator == "none" or norm.pool.channels != math.inf:
            return None
        q = second_moment.reshape(self.batch, -1)
        if norm.pool.positions:
            q = np.broadcast_to(q.mean(axis=1, keepdims=True), q.shape)
        return np.asarray(q.ravel() + norm.eps)


def sampling_for(rows: int, channels: int) -> Sampling:
    """As many Sobol' points as a few seconds pay for."""
    points = _BUDGET / (_SCRAMBLES * channels * rows**2)
    log2_points = min(max(math.floor(math.log2(max(points, 1.0))), _LEAST), _MOST)
    return Sampling(log2_points=log2_points, scrambles=_SCRAMBLES)


def field_forward(
    second_moment: FloatArray, gap: FloatArray, field: Field, *, sampling: Sampling | None = None
) -> tuple[FloatArray, FloatArray, FloatArray, tuple[float, float]]:
    """(second moments, gaps, means, relative errors of mean q and of the mean gap of samples).

    Parameters
    ----------
    second_moment, gap
        Of the pre-activations, shape (rows,) and (rows, rows).
    field
        Normalizer, activation, number of samples.
    sampling
        Points and scrambles; by default ``sampling_for``.
    """
    rows = len(second_moment)

    def statistic(pool: FieldPool, base: BaseFunction, h: FloatArray) -> FloatArray:
        x = base.value(pool.normalized).reshape(-1, rows)
        y = x - x.mean(axis=1, keepdims=True)
        sums = np.concatenate([np.einsum("pi,pi->i", x, x), x.sum(axis=0), (y.T @ y).ravel()])
        return sums / field.channels

    means = _average(statistic, second_moment, gap, field, sampling)
    raw = means.mean(axis=0)
    q, mean = raw[:rows], raw[rows : 2 * rows]
    if base_function(field.activation.base).odd and (field.norm is None or field.norm.gate is None):
        mean = np.zeros(rows)
    alike = (gap == 0.0) & (second_moment[:, None] == second_moment)
    distance = np.where(alike, 0.0, sampled_distances(raw))
    root = np.sqrt(q)
    excess = np.maximum(distance - np.subtract.outer(root, root) ** 2, 0.0)
    product = 2.0 * np.outer(root, root)
    new_gap = np.divide(excess, product, out=np.ones_like(excess), where=product > 0.0)
    np.fill_diagonal(new_gap, 0.0)
    used = sampling or sampling_for(rows, field.channels)
    observed = summarize(lambda each: _observed(each, rows, field.batch), means, sampling=used)
    size, apart, drift = observed.error / np.maximum(np.abs(observed.value), 1e-300)
    drift *= abs(float(observed.value[2])) / math.sqrt(float(observed.value[0]))
    return q, new_gap, mean, (float(max(size, drift)), float(apart) + float(size))


def field_pullback(
    second_moment: FloatArray,
    gap: FloatArray,
    gradient: FloatArray,
    field: Field,
    *,
    sampling: Sampling | None = None,
) -> tuple[FloatArray, float]:
    """(T(Pi), relative error of its trace); parameters as ``field_forward``, Pi over the same rows."""
    rows, channels = len(second_moment), field.channels
    separate = block_diagonal(gradient, field.batch)

    rays = _rays(second_moment, gap, field, separate=separate)

    def statistic(pool: FieldPool, base: BaseFunction, h: FloatArray) -> FloatArray:
        slope = base.derivative(pool.normalized)
        if rays is not None:
            slope = slope * rays(h)
        a = slope * pool.local
        flat = a.reshape(-1, rows)
        result = project(
            gradient * (flat.T @ flat), field.norm, batch=field.batch, channels=channels
        )
        b = [slope[:, :, term.rows] * term.strength for term in pool.terms]
        for term, own in zip(pool.terms, b, strict=True):
            # Gradients of different samples that are independent stay so if statistics do.
            whole = len(pool.terms) == 1 or not separate or term.rows.stop - term.rows.start == rows
            seen = slice(0, rows) if whole else term.rows
            pulled = np.zeros_like(a)
            pulled[:, :, seen] = a[:, :, seen] * (own @ gradient[term.rows, seen])
            u = projected(pulled, field.norm, batch=field.batch)[:, :, seen]
            w = term.direction
            cross = _product(u, w)
            result[seen, term.rows] -= cross
            result[term.rows, seen] -= cross.T
        for i, (first, b1) in enumerate(zip(pool.terms, b, strict=True)):
            for j, (second, b2) in enumerate(zip(pool.terms, b, strict=True)):
                block = gradient[first.rows, second.rows]
                if i != j and not block.any():
                    continue
                strength = np.einsum("pgi,pgi->p", b1 @ block, b2)
                weighted = strength[:, None, None] * first.direction
                result[first.rows, second.rows] += _product(weighted, second.direction)
        return result / channels

    means = _average(statistic, second_moment, gap, field, sampling)
    used = sampling or sampling_for(rows, channels)
    value = means.mean(axis=0)
    trace = summarize(lambda raw: np.array([np.trace(raw)]), means, sampling=used)
    return 0.5 * (value + value.T), trace.relative()


def _rays(
    second_moment: FloatArray, gap: FloatArray, field: Field, *, separate: bool
) -> Callable[[FloatArray], FloatArray] | None:
    """h -> |eta|/sqrt(n - 2) of the pool of every row, or None where that would be another mean.

    Pools of several samples have several rays; for cotangents that join samples their product is no
    mean over either.  Over a std with a raw numerator the tail is not along rays.
    """
    norm = field.norm
    if norm is None or norm.eps > 0.0 or norm.gate is not None or norm.pool.channels == math.inf:
        return None
    if norm.denominator == "none" or (norm.denominator == "std" and not norm.centered):
        return None
    batch = 1 if norm.pool.samples else field.batch
    if batch > 1 and not separate:
        return None
    root = np.sqrt(second_moment)
    covariance = np.outer(root, root) * (1.0 - gap)
    size = len(second_moment) // batch
    whitening = np.zeros((batch, size, size))
    dimensions = np.zeros(batch)
    for b in range(batch):
        own = covariance[b * size : (b + 1) * size, b * size : (b + 1) * size]
        if norm.denominator == "std" and field.channels == 1:
            own = own - own.mean(axis=0)
            own = own - own.mean(axis=1, keepdims=True)
        value, vector = np.linalg.eigh(0.5 * (own + own.T))
        kept = value > _NULL * value[-1]
        whitening[b, :, : kept.sum()] = vector[:, kept] / np.sqrt(value[kept])
        dimensions[b] = kept.sum() * field.channels
    if (dimensions <= 2).any():
        return None

    def factors(h: FloatArray) -> FloatArray:
        split = h.reshape(*h.shape[:2], batch, size)
        eta = np.einsum("pgbs,bst->pgbt", split, whitening, optimize=True)
        square = np.einsum("pgbt,pgbt->pb", eta, eta) / (dimensions - 2.0)
        return np.repeat(np.sqrt(square)[:, None, :], size, axis=2)

    return factors


def _product(first: FloatArray, second: FloatArray) -> FloatArray:
    """Sum over points and channels of u_i w_j."""
    return np.asarray(first.reshape(-1, first.shape[2]).T @ second.reshape(-1, second.shape[2]))


def _average(
    statistic: Statistic,
    second_moment: FloatArray,
    gap: FloatArray,
    field: Field,
    sampling: Sampling | None,
) -> FloatArray:
    """Means of ``statistic`` over the points of every scramble."""
    rows, channels = len(second_moment), field.channels
    factor = factorized(second_moment, gap)
    rank = len(factor.deviation) + 1
    base = base_function(field.activation.base)
    level = field.level(second_moment)
    zero = second_moment == 0.0

    def integrand(z: FloatArray, weight: FloatArray) -> FloatArray:
        # The leading directions of all channels come first: Sobol' fills these best.
        split = z.reshape(len(z), rank, channels).transpose(0, 2, 1).reshape(-1, rank)
        h, _ = factor.sample(np.ascontiguousarray(split), uses_mean=True)
        h = h.reshape(len(z), channels, rows)
        # Zeros come out as rounding errors; as routes do, of either sign and the same (dark_windows).
        h[:, :, zero] = _VANISHING * split[:, -1].reshape(len(z), channels, 1)
        pool = normalize_field(h, field.norm, batch=field.batch, level=level)
        return statistic(pool, base, h)

    return average(
        integrand,
        dimension=rank * channels,
        pool=0,
        power=0.0,
        sampling=sampling or sampling_for(rows, channels),
    )


def _observed(raw: FloatArray, rows: int, batch: int) -> FloatArray:
    """Mean q; mean gap of flattened samples (of positions, for one sample); mean of m."""
    q, distance = raw[:rows], sampled_distances(raw)
    positions = rows // batch
    if batch == 1:
        gap = distance.mean() / (2.0 * q.mean())
    else:
        size = np.sqrt(q.reshape(batch, positions).sum(axis=1))
        blocks = distance.reshape(batch, positions, batch, positions)
        apart = np.einsum("apbp->ab", blocks)
        excess = apart - np.subtract.outer(size, size) ** 2
        gap = float((excess / (2.0 * np.outer(size, size))).sum()) / (batch * (batch - 1))
    return np.array([q.mean(), gap, raw[rows : 2 * rows].mean()])


def block_diagonal(gradient: FloatArray, batch: int) -> bool:
    """Whether Pi has no entries across samples."""
    blocks = gradient.reshape(batch, len(gradient) // batch, batch, -1)
    return all(not blocks[a, :, b].any() for a in range(batch) for b in range(batch) if a != b)
