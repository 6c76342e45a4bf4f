"""Lowering: an architecture becomes a short list of operations.

Theory and simulation interpret the same list, so an architecture is added here once.  ``Fork`` keeps
the stream, ``Merge`` adds a branch to what the last ``Fork`` kept.  The markers ``Observe`` say where
h^l and x^l are read; they compute nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from theory.errors import out_of_domain
from theory.specs.activations import Activation, identity
from theory.specs.networks import (
    AveragePool,
    FeedForward,
    Flatten,
    GlobalAveragePool,
    Layer,
    Network,
    Padding,
    Sequential,
)
from theory.specs.normalizers import Normalizer
from theory.specs.residual import Residual
from theory.specs.weights import Weights

__all__ = [
    "AveragePool",
    "Computation",
    "Conv",
    "Flatten",
    "Fork",
    "GlobalAveragePool",
    "Linear",
    "Merge",
    "NormAct",
    "Observe",
    "Operation",
    "Scale",
    "branch_operations",
    "first_map",
    "lower",
    "plain_activation",
]

# Layers that are followed one by one.
LONGEST = 10**6


@dataclass(frozen=True)
class Linear:
    """h = W x with fresh weights; ``channels`` of the output in units of the width."""

    weights: Weights
    channels: float = 1.0


@dataclass(frozen=True)
class Conv:
    """h = W * x with fresh weights: every ``stride``-th position sees k^d positions around it."""

    weights: Weights
    kernel: int
    padding: Padding = "circular"
    stride: int = 1
    channels: float = 1.0


@dataclass(frozen=True)
class NormAct:
    """x = phi(N(h)); one operation because the joint law of a pool is what theory integrates."""

    norm: Normalizer | None
    activation: Activation


@dataclass(frozen=True)
class Scale:
    """x -> factor x."""

    factor: float


@dataclass(frozen=True)
class Fork:
    """Keep x for the next ``Merge`` and go on with it."""


@dataclass(frozen=True)
class Merge:
    """x -> skip (what the last ``Fork`` kept) + branch x."""

    skip: float
    branch: float


@dataclass(frozen=True)
class Observe:
    """Read here: ``"preactivation"`` is h^l, ``"activation"`` x^l, ``"stream"`` a residual block's output.

    Gradients are read at the stream if there is one, else at h^l.
    """

    what: Literal["preactivation", "activation", "stream"]


Computation = (
    Linear | Conv | NormAct | Scale | Fork | Merge | AveragePool | GlobalAveragePool | Flatten
)
Operation = Computation | Observe


def plain_activation(activation: Activation) -> NormAct:
    """The activation alone, without a normalizer."""
    return NormAct(None, activation)


@lru_cache(maxsize=256)
def lower(network: Network) -> tuple[Operation, ...]:
    """List the operations of ``network`` in forward order.

    Raises
    ------
    SpecificationError
        Not a network, or one of more than a million layers.
    """
    depth = getattr(network, "depth", 0)
    if depth > LONGEST:
        raise out_of_domain(
            "depth", depth, f"at most {LONGEST}", "fixed_point() says where it settles"
        )
    match network:
        case FeedForward():
            return _feed_forward(network)
        case Residual():
            return _residual(network)
        case Sequential():
            parts = (_layer(part) if isinstance(part, Layer) else (part,) for part in network.parts)
            return tuple(op for part in parts for op in part)
    raise out_of_domain("network", network, "a network", "build it with FeedForward(...)")


def _feed_forward(network: FeedForward) -> tuple[Operation, ...]:
    if network.layer.stride == 1:
        # One set of objects for all layers: interpreters prepare each once.
        return _layer(network.layer) * network.depth
    return tuple(op for _ in range(network.depth) for op in _layer(network.layer))


def _layer(layer: Layer) -> tuple[Operation, ...]:
    return (
        _map(layer.weights, layer),
        Observe("preactivation"),
        NormAct(layer.norm, layer.activation),
        Observe("activation"),
    )


def _residual(network: Residual) -> tuple[Operation, ...]:
    stem = () if network.stem is None else (Linear(network.stem),)
    fork, merge = Fork(), Merge(*network.factors)
    # One set of objects for all blocks: interpreters prepare each once.
    end = (*_observed(_branch(network)), merge, *_after(network), Observe("stream"))
    if not network.scales:
        return stem + (fork, *end) * network.depth
    blocks = [(fork, Scale(scale), *end) for scale in network.scales]
    return stem + tuple(op for block in blocks for op in block)


def _branch(network: Residual) -> tuple[Linear | Conv | NormAct, ...]:
    """F, with the normalizers in it."""
    norm, activation = network.layer.norm, network.layer.activation
    linear = _map(network.weights, network.layer)
    normact, act = NormAct(norm, activation), plain_activation(activation)
    alone = _normalizer(norm)
    one = network.maps == 1
    # phi follows N at once where one map leaves nothing between them: their law is a joint one.
    entered = (normact, linear) if one else (*alone, linear, act, linear)
    feed_forward = (act, linear) if one else (linear, act, linear)
    match network.order:
        case "pre_activation":
            return (normact, linear) if one else (normact, linear) * 2
        case "post_activation":
            return (linear, *alone) if one else (linear, normact, linear, *alone)
        case "activation_before_addition":
            return (linear, normact) if one else (linear, normact) * 2
        case "pre_norm":
            return entered
        case "post_norm" | "deep_norm":
            return feed_forward
        case "branch_end_norm":
            return (*feed_forward, *alone)
        case "sandwich":
            return (*entered, *alone)


def _after(network: Residual) -> tuple[NormAct, ...]:
    """What acts on the sum."""
    match network.order:
        case "post_activation":
            return (plain_activation(network.layer.activation),)
        case "post_norm" | "deep_norm":
            return _normalizer(network.layer.norm)
        case _:
            return ()


def _observed(branch: tuple[Linear | Conv | NormAct, ...]) -> tuple[Operation, ...]:
    """The branch, with h^l read behind its first linear map."""
    first = next(k for k, op in enumerate(branch) if not isinstance(op, NormAct))
    return (*branch[: first + 1], Observe("preactivation"), *branch[first + 1 :])


def _normalizer(norm: Normalizer | None) -> tuple[NormAct, ...]:
    return () if norm is None else (NormAct(norm, identity),)


def _map(weights: Weights, layer: Layer) -> Linear | Conv:
    if layer.kernel == 1 and layer.stride == 1:
        return Linear(weights, layer.channels)
    return Conv(weights, layer.kernel, layer.padding, layer.stride, layer.channels)


def branch_operations(network: Network) -> list[Linear | NormAct]:
    """Maps and layers between Fork and Merge of the first block of a residual network."""
    ops = lower(network)
    fork = next(k for k, op in enumerate(ops) if isinstance(op, Fork))
    merge = next(k for k, op in enumerate(ops) if isinstance(op, Merge))
    return [op for op in ops[fork + 1 : merge] if isinstance(op, Linear | NormAct)]


def first_map(operations: Sequence[Linear | NormAct]) -> int:
    """How many operations end with the first linear map: h^l is what they make."""
    return next(k for k, op in enumerate(operations) if isinstance(op, Linear)) + 1
