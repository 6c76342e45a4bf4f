r"""Infinite-width theory of normalization layers at initialization.

A layer maps x^{l-1} to h^l = W^l x^{l-1} and then to x^l = phi(N(h^l)): weights, normalizer,
activation.  ``predict`` propagates second moments and gradients through a network; ``fixed_point``
says where a deep one settles.

Notation, one name per quantity
-------------------------------
=============================  ==================  =====================================================
name                           symbol              meaning
=============================  ==================  =====================================================
second_moment                  q                   E[x^2] (``preactivation_second_moment``: E[h^2])
variance                                           variance over samples (ddof = 0) of a channel
correlation                    c                   of two samples' pre-activations
similarity                     s                   cosine of two samples' post-activations
gap                            1 - c, 1 - s        kept in full relative precision
stable_rank                    tr M / ||M||_2      M: cosine matrix of the samples
slope                          chi = dc'/dc        of the correlation map
depth_scale                    xi = -1/log|chi|    layers per factor e
gradient_norm                  ||g^l||/||g^L||     sqrt(E||g^l||^2 / E||g^L||^2), g^l at h^l
gradient_growth                lambda              factor per layer on the squared gradient norm
weight_variance                sigma_w^2           Var(W_ij) * fan_in
gain                                               multiplies a standard deviation (SWS only)
batch, group_size, positions   B, G, S             samples per batch, channels per group, positions
position_correlation           w/q                 of two positions of one sample
eps, ddof                                          R^2 = h'M h/(N_pool - ddof) + eps
skip, branch                   alpha, beta         x' = alpha x + beta F(x) of a residual network
branch_gradient_norm                               at h^l, inside a branch, relative to ||g^L||
=============================  ==================  =====================================================

Per-layer arrays have length ``depth``; index 0 is layer 1.  Inputs describe x^0, so
q^1 = sigma_w^2 * second_moment.  The cotangent at x^L is independent standard Gaussian.  Layer l of a
residual network is block l: x^l is the stream behind it, g^l the gradient there.
"""

from math import inf
from typing import Any

from theory.cross_batch import CrossBatchSimilarity, cross_batch_similarity
from theory.errors import (
    HypothesisError,
    NormcompassError,
    NumericalError,
    RegimeWarning,
    SpecificationError,
    StoreError,
)
from theory.fixed_points import FixedPoint, fixed_point, fixed_points
from theory.frontiers import Frontier, frontier
from theory.growth import GrowthLaw, branch_end_second_moment
from theory.layer_maps import CorrelationMap, PhasePortrait, correlation_map, phase_portrait
from theory.nf_scaling import nf_scaled
from theory.recursion import predict, predict_many
from theory.regimes import Regime, regime
from theory.residual_growth import ResidualGrowth, growth_law
from theory.results import OBSERVABLES, Prediction, PredictionSet
from theory.specs.activations import (
    Activation,
    abs,
    elu,
    erf,
    gelu,
    identity,
    leaky_relu,
    relu,
    scaled_relu,
    selu,
    silu,
    sin,
    softplus,
    tanh,
    tlu,
)
from theory.specs.images import ImageInputs, images
from theory.specs.inputs import (
    CovarianceInputs,
    DataInputs,
    ExchangeableInputs,
    SpatialInputs,
    exchangeable,
    from_covariance,
    from_data,
)
from theory.specs.networks import (
    AveragePool,
    FeedForward,
    Flatten,
    GlobalAveragePool,
    Layer,
    Sequential,
    torch_defaults,
)
from theory.specs.normalizers import (
    Normalizer,
    Pool,
    batch_norm,
    evonorm_b0,
    evonorm_s0,
    filter_response_norm,
    group_norm,
    instance_norm,
    layer_norm,
    mean_centering,
    rms_norm,
    variance_norm,
)
from theory.specs.residual import ORDERS, Residual, deep_norm_constants, fixup
from theory.specs.serialize import from_json, key, to_json
from theory.specs.spatial import exchangeable_from_data
from theory.specs.stationary import stationary, stationary_from_data
from theory.specs.weights import (
    Weights,
    centered_weights,
    gaussian,
    scaled_weight_standardization,
    weight_norm,
)
from theory.zoo import zoo

__all__ = [
    "OBSERVABLES",
    "ORDERS",
    "Activation",
    "AveragePool",
    "CorrelationMap",
    "CovarianceInputs",
    "CrossBatchSimilarity",
    "DataInputs",
    "ExchangeableInputs",
    "SpatialInputs",
    "FeedForward",
    "FixedPoint",
    "Flatten",
    "GlobalAveragePool",
    "Frontier",
    "HypothesisError",
    "ImageInputs",
    "Layer",
    "NormcompassError",
    "Normalizer",
    "NumericalError",
    "PhasePortrait",
    "Pool",
    "Prediction",
    "PredictionSet",
    "Regime",
    "RegimeWarning",
    "Residual",
    "Sequential",
    "SpecificationError",
    "StoreError",
    "Weights",
    "abs",
    "batch_norm",
    "centered_weights",
    "correlation_map",
    "cross_batch_similarity",
    "deep_norm_constants",
    "elu",
    "erf",
    "evonorm_b0",
    "evonorm_s0",
    "exchangeable",
    "exchangeable_from_data",
    "filter_response_norm",
    "fixed_point",
    "fixed_points",
    "fixup",
    "from_covariance",
    "from_data",
    "from_json",
    "frontier",
    "gaussian",
    "gelu",
    "group_norm",
    "identity",
    "images",
    "inf",
    "instance_norm",
    "key",
    "layer_norm",
    "leaky_relu",
    "mean_centering",
    "nf_scaled",
    "phase_portrait",
    "predict",
    "predict_many",
    "regime",
    "relu",
    "rms_norm",
    "scaled_relu",
    "scaled_weight_standardization",
    "selu",
    "silu",
    "sin",
    "softplus",
    "stationary",
    "stationary_from_data",
    "tanh",
    "tlu",
    "to_json",
    "torch_defaults",
    "variance_norm",
    "weight_norm",
    "zoo",
    "GrowthLaw",
    "ResidualGrowth",
    "branch_end_second_moment",
    "growth_law",
]


def __getattr__(name: str) -> Any:
    # SymPy takes a second to import: only where it is used.
    if name == "symbolic":
        import importlib

        return importlib.import_module("theory.symbolic")
    raise AttributeError(f"module 'theory' has no attribute {name!r}")
