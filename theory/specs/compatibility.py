"""Do a network and its inputs fit together?  Asked once, before theory or simulation starts."""

from __future__ import annotations

import math
from typing import Any

from theory.errors import out_of_domain
from theory.specs.grids import layers_on
from theory.specs.images import ImageInputs
from theory.specs.inputs import (
    CovarianceInputs,
    DataInputs,
    ExchangeableInputs,
    Inputs,
    SpatialInputs,
    position_shape_of,
)
from theory.specs.networks import Network
from theory.specs.normalizers import Normalizer
from theory.specs.residual import Residual

__all__ = ["check"]


def check(network: Any, inputs: Any) -> None:
    """Raise SpecificationError if the normalizer is not defined for these inputs.

    A pool about its mean needs two activations: BN two samples, IN two positions, GN two channels
    or positions.  FRN over a single position would only keep the sign.
    """
    if not isinstance(network, Network):
        raise out_of_domain("network", network, "a network", "build it with FeedForward(...)")
    kinds = ExchangeableInputs | SpatialInputs | DataInputs | CovarianceInputs | ImageInputs
    if not isinstance(inputs, kinds):
        raise out_of_domain(
            "inputs", type(inputs).__name__, "inputs", "use exchangeable(...) or from_data(X)"
        )
    if isinstance(network, Residual) and network.layer.stride > 1:
        raise out_of_domain(
            "stride",
            network.layer.stride,
            "1 in a residual network, whose skip keeps every position",
            "put the strides in a Sequential network",
        )
    for layer, shape in layers_on(network, position_shape_of(inputs)):
        if layer.norm is not None:
            _check_pool(layer.norm, inputs, math.prod(shape))


def _check_pool(norm: Normalizer, inputs: Inputs, positions: int) -> None:
    size = norm.pool.size(batch=inputs.batch, positions=positions)
    what = f"batch {inputs.batch}, {positions} position(s)"
    if norm.pool.samples and inputs.batch < 2 and positions == 1:
        raise out_of_domain("batch", inputs.batch, f"at least 2 for {norm.name}", "add samples")
    if size < 2:
        raise out_of_domain(
            "norm",
            f"{norm.name} with {what}",
            "a pool of at least two activations",
            "pool more channels (group_norm) or give inputs with positions",
        )
