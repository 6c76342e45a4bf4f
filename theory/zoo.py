"""The paper's complete layers by name (Lubana, Tanaka & Dick 2021): zoo["BN"], zoo["SWS"], ...

Each name has one weight distribution, one normalizer and one activation (theory notes, section 2);
a normalizer's entry carries the normalizer's own name.  Other sizes are constructor calls:
Layer(norm=group_norm(4)).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from theory.specs.activations import identity, scaled_relu
from theory.specs.networks import Layer
from theory.specs.normalizers import (
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
from theory.specs.weights import centered_weights, scaled_weight_standardization, weight_norm

__all__ = ["zoo"]

zoo: Mapping[str, Layer] = MappingProxyType(
    {
        "plain": Layer(),
        "BN": Layer(norm=batch_norm()),
        "VN": Layer(norm=variance_norm()),
        "MC": Layer(norm=mean_centering()),
        "LN": Layer(norm=layer_norm()),
        "RMSNorm": Layer(norm=rms_norm()),
        "GN(8)": Layer(norm=group_norm(8)),
        "IN": Layer(norm=instance_norm()),
        "FRN": Layer(norm=filter_response_norm()),
        # EvoNorm brings its own nonlinearity.
        "EvoNorm-S0": Layer(norm=evonorm_s0(), activation=identity),
        "EvoNorm-B0": Layer(norm=evonorm_b0(), activation=identity),
        "WN": Layer(weights=weight_norm(), activation=scaled_relu),
        "SWS": Layer(weights=scaled_weight_standardization()),
        # 2 pi / (pi - 1), the variance that SWS realizes exactly, keeps q fixed with relu.
        "WC": Layer(weights=centered_weights(weight_variance=2.0 * math.pi / (math.pi - 1.0))),
    }
)
