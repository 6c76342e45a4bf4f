"""Do two samples have the same law?  Kolmogorov-Smirnov by coordinate, energy distance jointly.

Rows are independent draws.  Neither test assumes a shape of the law; both are valid at every sample
size, Kolmogorov-Smirnov if the law is continuous (with ties it only loses power).
"""

from __future__ import annotations

import math

import numpy as np
from scipy import spatial, stats


def ks(first, second):
    """P-values, one per column, exact."""
    columns = zip(first.T, second.T, strict=True)
    return np.array([stats.ks_2samp(a, b, method="exact").pvalue for a, b in columns])


def energy(first, second, *, level, seed, hits=20):
    """P-value of 2 E|X - Y| - E|X - X'| - E|Y - Y'| against random relabelings of the rows.

    Rows are first brought to the unit covariance of the pooled sample, which no relabeling changes:
    differences of dependence weigh as much as differences of size.  Labels are drawn until ``hits``
    of them did at least as well as the true ones, or 1/level of them: p-values down to ``level`` can
    be told, and those that are not small come cheap (Besag & Clifford 1991: P(p <= a) <= a).
    """
    pooled = np.concatenate([first, second])
    pooled = pooled[:, np.ptp(pooled, axis=0) > 0.0]
    spread, directions = np.linalg.eigh(np.corrcoef(pooled.T))
    pooled = (pooled / pooled.std(axis=0)) @ (directions / np.sqrt(spread))
    distance = spatial.distance.squareform(spatial.distance.pdist(pooled))
    # Centered, so that float32 does not subtract large numbers.
    mean = distance.mean(axis=0)
    kernel = (mean[:, None] + mean - mean.mean() - distance).astype(np.float32)
    labels = np.repeat([1.0 / len(first), -1.0 / len(second)], [len(first), len(second)])
    labels = labels.astype(np.float32)[None]

    def statistic(signs):
        return np.einsum("pi,pi->p", signs @ kernel, signs)

    observed = statistic(labels)[0]
    rng = np.random.default_rng(seed)
    limit = math.ceil(1.0 / level)
    drawn = exceeding = 0
    block = 64
    while drawn < limit:
        signs = np.repeat(labels, min(block, limit - drawn), axis=0)
        rng.permuted(signs, axis=1, out=signs)
        count = exceeding + np.cumsum(statistic(signs) >= observed)
        if count[-1] >= hits:
            return hits / (drawn + 1 + int(np.argmax(count >= hits)))
        drawn, exceeding, block = drawn + len(signs), int(count[-1]), 1024
    return (exceeding + 1) / (drawn + 1)
