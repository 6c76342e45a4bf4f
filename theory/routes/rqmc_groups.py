"""RQMC over groups of G channels of one or two samples: any phi, any group normalizer, at S = 1.

    K_11 = E[phi(N(h))^2],   gap' = E[(x/s_1 - y/s_2)^2]/2,
    dK_12/dp = E tr(J J')/G          (adjoint rule, theory notes, section 4),

with x, y the same channel of two samples, s^2 their second moments, p = Cov(h_1, h_2) and
J = diag(a) A - b w' as in ``rqmc_pool``.  Averaging over the channels of the group is part of the
integrand, so every sample point counts G times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from theory.routes.functions import base_function
from theory.routes.rqmc import Sampling, Summary, average, log_tilt, summarize
from theory.routes.rqmc_pool import Pooled, Want, contrasts, normalize, power
from theory.specs.activations import Activation
from theory.specs.normalizers import Normalizer

__all__ = ["group_moments", "group_pair_gap", "group_slope"]

FloatArray = NDArray[np.float64]
_DEFAULT = Sampling()


def group_moments(
    q: float, *, norm: Normalizer, activation: Activation, sampling: Sampling = _DEFAULT
) -> tuple[float, float, float]:
    """(E[x^2], E[x], relative error) of one channel of a group with E[h^2] = q.

    The error of the mean is relative to sqrt(E[x^2]).
    """
    base = base_function(activation.base)

    def integrand(first: Pooled, _: Pooled, weight: FloatArray) -> FloatArray:
        x = base.value(first.normalized)
        return np.array([weight @ (x * x).mean(axis=1), weight @ x.mean(axis=1)])

    means = _average(integrand, (q, q, 0.0), norm, "forward", sampling)
    summary = summarize(lambda raw: raw, means, sampling=sampling)
    size = float(summary.value[0])
    scale = np.array([size, math.sqrt(size)])
    return size, float(summary.value[1]), summary.relative(scale)


def group_pair_gap(
    q1: float,
    q2: float,
    gap: float,
    *,
    norm: Normalizer,
    activation: Activation,
    sampling: Sampling = _DEFAULT,
) -> tuple[float, float]:
    """(gap of the post-activations of two samples, relative error); 0 at gap = 0 and q1 = q2."""
    if gap == 0.0 and q1 == q2:
        return 0.0, 0.0
    base = base_function(activation.base)

    def integrand(first: Pooled, second: Pooled, weight: FloatArray) -> FloatArray:
        x, y = base.value(first.normalized), base.value(second.normalized)
        products = ((x * x), (y * y), (x - y) ** 2)
        return np.array([weight @ product.mean(axis=1) for product in products])

    def value(raw: FloatArray) -> FloatArray:
        # 1 - E[xy]/(s t) from the mean squared distance, which small gaps do not cancel.
        xx, yy, distance = raw
        s, t = math.sqrt(xx), math.sqrt(yy)
        return np.array([(distance - (s - t) ** 2) / (2.0 * s * t)])

    means = _average(integrand, (q1, q2, gap), norm, "forward", sampling)
    summary = summarize(value, means, sampling=sampling)
    return float(summary.value[0]), summary.relative() + 1e-15 / math.sqrt(gap or 1.0)


def group_slope(
    q1: float,
    q2: float,
    gap: float,
    *,
    norm: Normalizer,
    activation: Activation,
    sampling: Sampling = _DEFAULT,
) -> tuple[float, float]:
    """(dK_12/dp, relative error); at gap = 0 and q1 = q2 this is E||J_a||^2.

    The error is relative to sqrt(E||J||^2 E||J'||^2).
    """
    base = base_function(activation.base)
    kept = 1.0 - 1.0 / norm.pool.channels if norm.centered else 1.0

    def overlap(one: Pooled, other: Pooled) -> FloatArray:
        """tr(J J')/G for every sample point."""
        slope, other_slope = base.derivative(one.normalized), base.derivative(other.normalized)
        a, c = slope * one.local, other_slope * other.local
        total = kept * np.einsum("pi,pi->p", a, c)
        if one.shared is not None and other.shared is not None:
            assert one.direction is not None
            assert other.direction is not None
            b, d = slope * one.shared, other_slope * other.shared
            w, v = one.direction, other.direction
            total -= np.einsum("pi,pi,pi->p", a, d, _projected(v, norm))
            total -= np.einsum("pi,pi,pi->p", c, b, _projected(w, norm))
            total += np.einsum("pi,pi->p", b, d) * np.einsum("pi,pi->p", w, v)
        return np.asarray(total / a.shape[1])

    def integrand(first: Pooled, second: Pooled, weight: FloatArray) -> FloatArray:
        pairs = ((first, second), (first, first), (second, second))
        return np.array([weight @ overlap(*pair) for pair in pairs])

    means = _average(integrand, (q1, q2, gap), norm, "backward", sampling)
    summary = summarize(lambda raw: raw, means, sampling=sampling)
    scale = math.sqrt(summary.value[1] * summary.value[2])
    error = Summary(summary.value[:1], summary.error[:1]).relative(scale)
    return float(summary.value[0]), error


def _projected(direction: FloatArray, norm: Normalizer) -> FloatArray:
    """A w: w itself for a raw numerator, or when w is about the mean already."""
    if not norm.centered or norm.denominator != "rms":
        return direction
    return direction - direction.mean(axis=1, keepdims=True)


def _average(
    integrand: Callable[[Pooled, Pooled, FloatArray], FloatArray],
    covariance: tuple[float, float, float],
    norm: Normalizer,
    want: Want,
    sampling: Sampling,
) -> FloatArray:
    """Averages over both samples' groups, one row per scramble.

    Coordinates: G - 1 contrasts and the mean of the first sample's group, then the same for what
    the second sample has of its own.
    """
    q1, q2, gap = covariance
    size = int(norm.pool.channels)
    basis = np.vstack([contrasts(size), np.full((1, size), 1.0 / math.sqrt(size))])
    own = math.sqrt(max(gap * (2.0 - gap), 0.0))
    single = own == 0.0
    divisor = norm.divisor(batch=1, positions=1)

    pool = size if norm.denominator == "rms" else size - 1
    exponent = power(norm, want)
    excess = pool - log_tilt(pool=pool, power=exponent)[0] if exponent else 0.0

    def evaluate(both: Sequence[FloatArray], weight: FloatArray) -> FloatArray:
        pools = []
        for coordinates, q in zip(both, (q1, q2), strict=True):
            scaled = math.sqrt(q) * coordinates
            h, deviation = scaled @ basis, scaled[:, :-1] @ basis[:-1]
            pools.append(normalize(h, deviation, norm, divisor=divisor))
        return integrand(pools[0], pools[1], weight)

    def sample(z: FloatArray, weight: FloatArray) -> FloatArray:
        first = z[:, :size]
        if single:
            return evaluate((first, (1.0 - gap) * first), weight)
        second = (1.0 - gap) * first + own * z[:, size:]
        if not excess:
            return evaluate((first, second), weight)
        # Only the first radius is tilted, but either denominator may vanish: the balance heuristic
        # (Veach & Guibas 1995), 2/(1/w_1 + 1/w_2), with the samples' roles exchanged for half.
        squares = [np.einsum("pi,pi->p", x[:, :pool], x[:, :pool]) for x in (first, second)]
        ratio = (squares[1] / squares[0]) ** (0.5 * excess)
        balanced = weight * 2.0 * ratio / (1.0 + ratio)
        one, other = evaluate((first, second), balanced), evaluate((second, first), balanced)
        return np.asarray(0.5 * (one + other))

    return average(
        sample,
        dimension=size if single else 2 * size,
        pool=pool,
        power=exponent,
        sampling=sampling,
    )
