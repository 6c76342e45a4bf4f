"""Similarity across mini-batches: two samples that BatchNorm normalizes with different statistics."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.errors import HypothesisError, out_of_domain
from theory.numerics import within_range
from theory.routes.positions_spectrum import PositionSpectrum
from theory.specs._check import integer
from theory.specs.compatibility import check
from theory.specs.inputs import ExchangeableInputs, Inputs
from theory.specs.networks import FeedForward, Layer
from theory.specs.spatial import SpatialInputs

__all__ = ["CrossBatchSimilarity", "cross_batch_similarity"]

FloatArray = NDArray[np.float64]


class CrossBatchSimilarity(NamedTuple):
    """Cosines of post-activations across two mini-batches.

    ``similarity`` is a number for exchangeable inputs, else shape (B1, B2); ``error`` is absolute,
    ``route`` says what gave it.
    """

    similarity: float | FloatArray
    error: float
    route: str


@within_range
def cross_batch_similarity(
    layer: Layer, inputs: Inputs, *, first: int | None = None
) -> CrossBatchSimilarity:
    """E[phi(N(h))_a phi(N(h'))_b]/sqrt(K_aa K_bb), a and b in mini-batches normalized separately.

    Parameters
    ----------
    layer
        A layer with ``batch_norm``; its weights are uncentered.
    inputs
        Exchangeable: one mini-batch, the other is like it and every pair across has the same
        correlation, which centering removes, so the answer is E[x]^2/E[x^2].  With positions the
        contrasts of positions remain, as two samples share them.  Data or a covariance: both
        mini-batches, one after the other.
    first
        Number of samples in the first mini-batch; for data and covariances only.

    Returns
    -------
    CrossBatchSimilarity

    Raises
    ------
    SpecificationError
        ``first`` outside [2, B - 2], or not given for data.
    HypothesisError
        Another normalizer, centered weights, or for data an activation that is not positively
        homogeneous.

    Notes
    -----
    Source: theory notes, section 3 (second Laplace integral with two centered blocks).
    """
    from theory.routes import batchnorm, laplace_pools, positions_batch_pools

    check(FeedForward(layer, depth=1), inputs)
    if first is not None:
        first = integer("first", first, low=2, remedy="count the samples of the first mini-batch")
    norm = layer.norm
    if norm is None or not norm.couples_samples or not norm.centered or norm.denominator != "std":
        raise HypothesisError(
            "similarity across mini-batches is worked out for (h - mean)/std over samples; "
            "use batch_norm(), or predict() for normalizers that treat samples apart"
        )
    if layer.weights.centered:
        raise HypothesisError(
            "similarity across mini-batches is worked out for weights whose rows are not centered; "
            "use gaussian()"
        )
    if isinstance(inputs, ExchangeableInputs):
        if norm.eps != 0.0:
            raise HypothesisError(
                "for an exchangeable batch the closed form needs eps = 0; pass a covariance instead"
            )
        value, error = batchnorm.cross_batch_similarity(
            layer.activation.base, batch=inputs.batch, ddof=norm.ddof
        )
        return _affine(layer, value, error, inputs.batch, norm.ddof)
    slopes = layer.activation.ray_slopes
    if isinstance(inputs, SpatialInputs) and slopes is not None:
        if layer.activation.shift != 0.0:
            raise HypothesisError(
                f"{layer.activation.name} has a shift; over positions use an activation without one"
            )
        q = inputs.second_moment
        spectrum = PositionSpectrum(inputs.positions, *inputs.eigenvalues)
        gap_w, gap_b, gap_x = spectrum.gaps()
        same, _, error = positions_batch_pools.two_pool_similarity(
            layer.weights.weight_variance * q,
            gap_w,
            gap_b,
            gap_x,
            batch=inputs.batch,
            positions=inputs.positions,
            norm=norm,
            slopes=slopes,
        )
        return CrossBatchSimilarity(same, error, "quadrature")
    if slopes is None or layer.activation.shift != 0.0:
        raise HypothesisError(
            f"{layer.activation.name} with shift {layer.activation.shift:g} is not positively "
            "homogeneous; use relu, leaky_relu, abs or identity without a shift"
        )
    if first is None:
        raise out_of_domain(
            "first", first, "the size of the first mini-batch", "say where the second one starts"
        )
    variance = layer.weights.weight_variance
    matrix, error = laplace_pools.two_pool_similarity(
        variance * inputs.second_moment, inputs.gap, first=first, norm=norm, slopes=slopes
    )
    return CrossBatchSimilarity(matrix, error, "quadrature")


def _affine(
    layer: Layer, similarity: float, error: float, batch: float, ddof: int
) -> CrossBatchSimilarity:
    """(a m + b)^2/(a^2 q + 2 a b m + b^2) from m^2/q."""
    from theory.routes import batchnorm

    activation = layer.activation
    route = "closed form" if activation.ray_slopes is not None else "quadrature"
    if activation.shift == 0.0:
        return CrossBatchSimilarity(similarity, error * similarity, route)
    q, _, mean, _ = batchnorm.batch_moments(activation.base, batch=batch, ddof=ddof)
    a, b = activation.scale, activation.shift
    value = (a * mean + b) ** 2 / (a * a * q + 2.0 * a * b * mean + b * b)
    return CrossBatchSimilarity(value, 4.0 * error, route)
