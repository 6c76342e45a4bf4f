"""Networks as values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

from theory.errors import out_of_domain
from theory.specs._check import DEEPEST, LARGEST, integer, member, real
from theory.specs.activations import Activation, relu
from theory.specs.normalizers import Normalizer
from theory.specs.weights import Weights, gaussian

__all__ = [
    "AveragePool",
    "FeedForward",
    "Flatten",
    "GlobalAveragePool",
    "Layer",
    "Network",
    "Padding",
    "Part",
    "Sequential",
    "torch_defaults",
]

Padding = Literal["circular", "zero"]


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
        Positions that each position sees in every direction: W is a convolution; 1 acts on each
        position apart.
    padding
        ``"circular"``: positions lie on a ring or torus; ``"zero"``: beyond the border is 0, as many
        zeros as keep the sides at stride 1.
    stride
        Every ``stride``-th position is an output, in every direction: sides become ceil(side/stride).
    channels
        Channels of the output in units of the simulation's ``width``; theory does not see it.

    Raises
    ------
    SpecificationError
        A part of the wrong kind, or a value outside its domain.
    """

    weights: Weights = field(default_factory=gaussian)
    norm: Normalizer | None = None
    activation: Activation = relu
    kernel: int = 1
    padding: Padding = "circular"
    stride: int = 1
    channels: float = 1.0

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
        kernel = integer("kernel", self.kernel, low=1, high=LARGEST, remedy="use 3, say")
        object.__setattr__(self, "kernel", kernel)
        member("padding", self.padding, get_args(Padding))
        stride = integer(
            "stride", self.stride, low=1, high=LARGEST, remedy="1 keeps every position"
        )
        object.__setattr__(self, "stride", stride)
        remedy = "1.0 is as many channels as the simulation's width, 2.0 twice as many"
        channels = real("channels", self.channels, low=0.0, high=1e6, open_low=True, remedy=remedy)
        object.__setattr__(self, "channels", channels)

    @property
    def moves_positions(self) -> bool:
        """Whether positions stop being alike, or as many: zero padding or a stride."""
        return self.stride > 1 or (self.padding == "zero" and self.kernel > 1)


@dataclass(frozen=True)
class AveragePool:
    """Mean over windows of ``size`` positions in every direction, side by side; the rest is dropped."""

    size: int = 2

    def __post_init__(self) -> None:
        size = integer("size", self.size, low=2, remedy="2 halves every side")
        object.__setattr__(self, "size", size)


@dataclass(frozen=True)
class GlobalAveragePool:
    """Mean over all positions of a sample."""


@dataclass(frozen=True)
class Flatten:
    """Every position of every channel becomes a feature of the next linear map."""


class Network:
    """What every network has: the layer it is built of, and how many layers or blocks there are."""

    layer: Layer
    depth: int

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The different layers it is built of."""
        return (self.layer,)


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
        depth = integer("depth", self.depth, low=1, high=DEEPEST, remedy="count the linear maps")
        object.__setattr__(self, "depth", depth)


Part = Layer | AveragePool | GlobalAveragePool | Flatten


@dataclass(frozen=True)
class Sequential(Network):
    """Layers that differ, with poolings and a flattening between them, in forward order.

    Layer l is the l-th ``Layer`` among ``parts``; x^l is read behind its activation, before a pooling.

    Parameters
    ----------
    parts
        ``Layer``, ``AveragePool``, ``GlobalAveragePool`` or ``Flatten``, at least one layer.

    Raises
    ------
    SpecificationError
        Another kind of part, no layer, or a pooling behind the last layer, which nothing reads.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.parts, tuple | list):
            raise out_of_domain("parts", self.parts, "a tuple of parts", "write (Layer(...), ...)")
        for part in self.parts:
            if not isinstance(part, Part):
                raise out_of_domain(
                    "parts",
                    part,
                    "Layer, AveragePool, GlobalAveragePool or Flatten",
                    "call the constructor: GlobalAveragePool()",
                )
        if not self.parts or not isinstance(self.parts[-1], Layer):
            raise out_of_domain(
                "parts",
                self.parts[-1:],
                "a Layer at the end",
                "observables are read at layers: end with Layer(activation=identity), say",
            )
        object.__setattr__(self, "parts", tuple(self.parts))

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in forward order."""
        return tuple(part for part in self.parts if isinstance(part, Layer))

    @property
    def layer(self) -> Layer:  # type: ignore[override]
        """The first layer."""
        return self.layers[0]

    @property
    def depth(self) -> int:  # type: ignore[override]
        """Number of layers."""
        return len(self.layers)


def torch_defaults(network: N) -> N:
    """The same network with PyTorch's eps = 1e-5 and ddof = 0 in every normalizer that divides."""
    if not isinstance(network, Network):
        raise out_of_domain("network", network, "a network", "build it with FeedForward(...)")
    if isinstance(network, Sequential):
        parts = tuple(_torch_layer(p) if isinstance(p, Layer) else p for p in network.parts)
        return dataclasses.replace(network, parts=parts)  # type: ignore[return-value]
    return dataclasses.replace(network, layer=_torch_layer(network.layer))  # type: ignore[type-var]


def _torch_layer(layer: Layer) -> Layer:
    if layer.norm is None or layer.norm.denominator == "none":
        return layer
    return dataclasses.replace(layer, norm=dataclasses.replace(layer.norm, eps=1e-5, ddof=0))
