"""Do a network and its inputs fit together?  Asked once, before theory or simulation starts."""

from __future__ import annotations

from typing import Any

from theory.errors import out_of_domain
from theory.specs.inputs import (
    CovarianceInputs,
    DataInputs,
    ExchangeableInputs,
    SpatialInputs,
    position_shape_of,
)
from theory.specs.networks import Network

__all__ = ["check"]


def check(network: Any, inputs: Any) -> None:
    """Raise SpecificationError if the normalizer is not defined for these inputs.

    A pool about its mean needs two activations: BN two samples, IN two positions, GN two channels
    or positions.  FRN over a single position would only keep the sign.
    """
    if not isinstance(network, Network):
        raise out_of_domain("network", network, "a network", "build it with FeedForward(...)")
    if not isinstance(inputs, ExchangeableInputs | SpatialInputs | DataInputs | CovarianceInputs):
        raise out_of_domain(
            "inputs", type(inputs).__name__, "inputs", "use exchangeable(...) or from_data(X)"
        )
    kernel = network.layer.kernel
    sides = position_shape_of(inputs)
    if kernel > min(sides):
        raise out_of_domain(
            "kernel",
            kernel,
            f"at most {min(sides)}, the shortest side of positions {sides}",
            "shorten it, or give inputs with more positions: exchangeable(..., positions=16, ...)",
        )
    norm = network.layer.norm
    if norm is None:
        return
    size = norm.pool.size(batch=inputs.batch, positions=inputs.positions)
    what = f"batch {inputs.batch}, {inputs.positions} position(s)"
    if norm.pool.samples and inputs.batch < 2 and inputs.positions == 1:
        raise out_of_domain("batch", inputs.batch, f"at least 2 for {norm.name}", "add samples")
    if size < 2:
        raise out_of_domain(
            "norm",
            f"{norm.name} with {what}",
            "a pool of at least two activations",
            "pool more channels (group_norm) or give inputs with positions",
        )
