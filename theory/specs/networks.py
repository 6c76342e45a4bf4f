"""Networks as values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TypeVar

from theory.errors import out_of_domain
from theory.specs._check import integer
from theory.specs.activations import Activation, relu
from theory.specs.normalizers import Normalizer
from theory.specs.weights import Weights, gaussian

__all__ = ["FeedForward", "Layer", "Network", "torch_defaults"]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """x -> phi(N(W x)): weights, normalizer, activation, in the paper's order.

    Parameters
    ----------
    weights
        Law of the rows of W.
    norm
        None is a layer without normalizer.
    activation
        phi.
    kernel
        Positions that each position sees in every direction: W is a convolution with circular padding
        and stride 1; 1 acts on each position apart.

    Raises
    ------
    SpecificationError
        A part of the wrong kind, or a kernel below 1.
    """

    weights: Weights = field(default_factory=gaussian)
    norm: Normalizer | None = None
    activation: Activation = relu
    kernel: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.weights, Weights):
            raise out_of_domain("weights", self.weights, "Weights", "use gaussian(), say")
        if self.norm is not None and not isinstance(self.norm, Normalizer):
            raise out_of_domain(
                "norm", self.norm, "a Normalizer or None", "call the constructor: batch_norm()"
            )
        if not isinstance(self.activation, Activation):
            raise out_of_domain(
                "activation", self.activation, "an Activation", "use relu or leaky_relu(0.1), say"
            )
        kernel = integer("kernel", self.kernel, low=1, remedy="use 3, say")
        object.__setattr__(self, "kernel", kernel)


class Network:
    """What every network has: the layer it is built of, and how many layers or blocks there are."""

    layer: Layer
    depth: int


N = TypeVar("N", bound=Network)


@dataclass(frozen=True)
class FeedForward(Network):
    """``depth`` copies of one layer, with independent weights: h^l = W^l x^{l-1}, x^l = phi(N(h^l))."""

    layer: Layer
    _: dataclasses.KW_ONLY
    depth: int

    def __post_init__(self) -> None:
        if not isinstance(self.layer, Layer):
            raise out_of_domain("layer", self.layer, "a Layer", "wrap it: Layer(norm=...)")
        depth = integer("depth", self.depth, low=1, remedy="count the linear maps")
        object.__setattr__(self, "depth", depth)


def torch_defaults(network: N) -> N:
    """The same network with PyTorch's eps = 1e-5 and ddof = 0 in every normalizer that divides."""
    if not isinstance(network, Network):
        raise out_of_domain("network", network, "a network", "build it with FeedForward(...)")
    norm = network.layer.norm
    if norm is None or norm.denominator == "none":
        return network
    norm = dataclasses.replace(norm, eps=1e-5, ddof=0)
    layer = dataclasses.replace(network.layer, norm=norm)
    return dataclasses.replace(network, layer=layer)  # type: ignore[type-var]
