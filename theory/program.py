"""Lowering: an architecture becomes a short list of operations.

Theory and simulation interpret the same list, so an architecture is added here once.  The markers
``Observe`` say where h^l and x^l are read; they compute nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from theory.specs.activations import Activation
from theory.specs.networks import FeedForward
from theory.specs.normalizers import Normalizer
from theory.specs.weights import Weights

__all__ = ["Conv", "Linear", "NormAct", "Observe", "Operation", "lower", "plain_activation"]


@dataclass(frozen=True)
class Linear:
    """h = W x with fresh weights."""

    weights: Weights


@dataclass(frozen=True)
class Conv:
    """h = W * x with fresh weights: every position sees k^d positions around it, circular padding."""

    weights: Weights
    kernel: int


@dataclass(frozen=True)
class NormAct:
    """x = phi(N(h)); one operation because the joint law of a pool is what theory integrates."""

    norm: Normalizer | None
    activation: Activation


@dataclass(frozen=True)
class Observe:
    """Read the stream here: ``"preactivation"`` is h^l, ``"activation"`` is x^l."""

    what: Literal["preactivation", "activation"]


Operation = Linear | Conv | NormAct | Observe


def plain_activation(activation: Activation) -> NormAct:
    """The activation alone, without a normalizer."""
    return NormAct(None, activation)


@lru_cache(maxsize=256)
def lower(network: FeedForward) -> tuple[Operation, ...]:
    """List the operations of ``network`` in forward order."""
    layer = network.layer
    linear = Linear(layer.weights) if layer.kernel == 1 else Conv(layer.weights, layer.kernel)
    body = (
        linear,
        Observe("preactivation"),
        NormAct(layer.norm, layer.activation),
        Observe("activation"),
    )
    return body * network.depth
