"""Positions along a network: the sides behind every part, and which networks move positions."""

from __future__ import annotations

from collections.abc import Iterator

from theory.errors import out_of_domain
from theory.specs.images import ImageInputs
from theory.specs.inputs import CovarianceInputs, Inputs, position_shape_of
from theory.specs.networks import (
    AveragePool,
    Flatten,
    GlobalAveragePool,
    Layer,
    Network,
    Part,
    Sequential,
)

__all__ = ["channels_of", "last_layer", "layers_on", "needs_grid", "shape_behind"]


def shape_behind(part: Part, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Sides behind ``part``: ceil(side/stride) of a convolution, floor(side/size) of a pooling.

    Raises
    ------
    SpecificationError
        A kernel or pooling window longer than a side.
    """
    match part:
        case Layer(kernel=kernel, padding=padding, stride=stride):
            if padding == "circular" and kernel > min(shape):
                raise out_of_domain(
                    "kernel",
                    kernel,
                    f"at most {min(shape)}, the shortest side of positions {shape}",
                    "shorten it, or give inputs with more positions: exchangeable(..., positions=16, "
                    "...)",
                )
            if kernel > 2 * min(shape) + 1:
                raise out_of_domain(
                    "kernel",
                    kernel,
                    f"at most {2 * min(shape) + 1} on positions {shape}",
                    "shorten it: its ends would only see zeros",
                )
            return tuple(-(-side // stride) for side in shape)
        case AveragePool(size):
            if size > min(shape):
                raise out_of_domain(
                    "size",
                    size,
                    f"at most {min(shape)}, the shortest side of positions {shape}",
                    "pool less, or use GlobalAveragePool()",
                )
            return tuple(side // size for side in shape)
        case GlobalAveragePool() | Flatten():
            return (1,)


def layers_on(network: Network, shape: tuple[int, ...]) -> Iterator[tuple[Layer, tuple[int, ...]]]:
    """Every layer with the sides of its h^l, in forward order (a residual network's layer once).

    Raises
    ------
    SpecificationError
        As ``shape_behind``; a residual network with a stride.
    """
    if isinstance(network, Sequential):
        parts: tuple[Part, ...] = network.parts
    else:
        parts = (network.layer,) * (network.depth if network.layer.stride > 1 else 1)
    for part in parts:
        shape = shape_behind(part, shape)
        if isinstance(part, Layer):
            yield part, shape


def last_layer(network: Network, inputs: Inputs) -> tuple[Layer, tuple[int, ...]]:
    """The layer that puts out x^L, and its sides."""
    *_, last = layers_on(network, position_shape_of(inputs))
    return last


def channels_of(width: int, channels: float) -> int:
    """Channels of a layer in a simulation of that width."""
    return max(round(width * channels), 1)


def needs_grid(network: Network, inputs: Inputs) -> bool:
    """Whether the covariance over every pair of (sample, position) has to be followed."""
    if isinstance(inputs, ImageInputs):
        return True
    if isinstance(inputs, CovarianceInputs) and inputs.positions > 1:
        return True
    if isinstance(network, Sequential) and len(network.layers) < len(network.parts):
        return True
    return any(layer.moves_positions for layer in network.layers)
