r"""Two mini-batches normalized separately: cosine of phi(N(h))_a and phi(N(h'))_b across them.

    K_ab = (1/pi) iint ds dt (st)^{-1/2} e^{-(s+t) eps} det(I + Sigma D)^{-1/2} V_phi(Sigma_st)_ab,
    Sigma_st = Sigma (I + D Sigma)^{-1},

Sigma the covariance of both batches after centering each, D = (2s/N) I + (2t/N') I (theory notes,
section 3, second Laplace integral, "with two centered blocks").  For every s the second pool is
diagonalized once; all t then cost products.  If all samples of one batch have the same covariance with
all of the other, centering removes it and ``batchnorm.cross_batch_similarity`` is the closed form.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.errors import HypothesisError, out_of_domain
from theory.routes import arccosine
from theory.routes.laplace import forward
from theory.routes.laplace_core import (
    modes,
    quadrature,
    quadrature_error,
)
from theory.specs.normalizers import Normalizer
from theory.states.full import squared_distances

__all__ = ["two_pool_similarity"]

FloatArray = NDArray[np.float64]
Slopes = tuple[float, float]

_ROUNDING = 1e-14


def two_pool_similarity(
    second_moment: ArrayLike,
    gap: ArrayLike,
    *,
    first: int,
    norm: Normalizer,
    slopes: Slopes,
) -> tuple[FloatArray, float]:
    """K_ab/sqrt(K_aa K_bb) for a in the first mini-batch and b in the second.

    Parameters
    ----------
    second_moment, gap
        Of all B1 + B2 samples, the first batch first: shapes (B1 + B2,), (B1 + B2, B1 + B2).
    first
        B1; both batches need two samples.
    norm
        Centered, denominator ``"std"`` over samples; any eps and ddof.
    slopes
        (a, b) of phi(x) = a relu(x) + b relu(-x).

    Returns
    -------
    (similarity (B1, B2), error relative to 1).

    Raises
    ------
    HypothesisError
        Another normalizer, or zero variance over one of the batches at eps = 0.
    """
    q = np.asarray(second_moment, dtype=np.float64)
    gap = np.asarray(gap, dtype=np.float64)
    if not norm.centered or norm.denominator != "std":
        raise HypothesisError(
            f"{norm.name} is not centered with a standard deviation: two pools are only computed for "
            "BatchNorm; use batch_norm()"
        )
    if not 2 <= first <= q.size - 2:
        raise out_of_domain(
            "first", first, f"in [2, {q.size - 2}]", "each mini-batch needs two samples"
        )
    similarity, error = _similarity(q, gap, first=first, norm=norm, slopes=slopes)
    shaken, _ = _similarity(q, gap, first=first, norm=norm, slopes=slopes, shaken=True)
    return similarity, error + float(np.abs(similarity - shaken).max()) + _ROUNDING


def _similarity(
    q: FloatArray,
    gap: FloatArray,
    *,
    first: int,
    norm: Normalizer,
    slopes: Slopes,
    shaken: bool = False,
) -> tuple[FloatArray, float]:
    """(similarity, error of the quadratures); ``shaken`` as in ``laplace_core.modes``."""
    one, two = slice(0, first), slice(first, None)
    left = modes(q[one], gap[one, one], norm=norm, shaken=shaken)
    right = modes(q[two], gap[two, two], norm=norm, shaken=shaken)
    distance = squared_distances(q, gap)[one, two]
    rows = distance - distance.mean(axis=0, keepdims=True)
    cross = -0.5 * (rows - rows.mean(axis=1, keepdims=True)) / math.sqrt(left.scale * right.scale)
    coupling = left.pooled.T @ cross @ right.pooled

    outer = quadrature(left.variance, divisor=left.divisor, eps=left.eps, power=-1.0)
    inner = quadrature(right.variance, divisor=right.divisor, eps=right.eps, power=-1.0)
    b = 2.0 * inner.s / right.divisor
    # The determinant in the weights of t is that of the second pool alone: take it out again.
    alone = np.exp(0.5 * np.log1p(b[:, None] * right.variance).sum(axis=1)) / np.sqrt(inner.s)
    own = np.stack([outer.weight, outer.coarse()]) / np.sqrt(outer.s)
    other = np.stack([inner.weight, inner.coarse()]) * alone
    totals = np.zeros((2, first, q.size - first))
    for index, s in enumerate(outer.s):
        a = 2.0 * s / left.divisor
        tilted = outer.tilted[index]
        # After the weight of the first pool: Cov(eta) = tilted, Cov(eta, zeta), Cov(zeta).
        moved = coupling / (1.0 + a * left.variance)[:, None]
        covariance = np.diag(right.variance) - coupling.T @ (a * moved)
        theta, turn = np.linalg.eigh(0.5 * (covariance + covariance.T))
        theta = np.maximum(theta, 0.0)
        growth = 1.0 + b[:, None] * theta
        weight = own[:, index, None] * other * np.exp(-0.5 * np.log(growth).sum(axis=1))
        mixed, seen = left.pooled @ moved @ turn, right.pooled @ turn
        variance1 = left.pooled**2 @ tilted - (b[:, None] / growth) @ (mixed**2).T
        variance2 = (theta / growth) @ (seen**2).T
        product = np.einsum("am,bm,qm->qab", mixed, seen, 1.0 / growth, optimize=True)
        size = np.sqrt(np.maximum(variance1, 0.0)[:, :, None] * variance2[:, None, :])
        cosine = np.divide(product, size, out=np.zeros_like(product), where=size > 0.0)
        kernel = size * (1.0 - arccosine.ray_gap(np.clip(1.0 - cosine, 0.0, 2.0), slopes=slopes))
        totals += np.einsum("rq,qab->rab", weight, kernel)
    totals *= 0.5 * (slopes[0] ** 2 + slopes[1] ** 2) / math.pi
    first_moments, _, _, error1 = forward(q[one], gap[one, one], norm=norm, slopes=slopes)
    second_moments, _, _, error2 = forward(q[two], gap[two, two], norm=norm, slopes=slopes)
    scale = np.sqrt(np.outer(first_moments, second_moments))
    similarity = totals / np.where(scale > 0.0, scale, 1.0)
    return similarity[0], quadrature_error(similarity[0], similarity[1], 1.0) + error1 + error2
