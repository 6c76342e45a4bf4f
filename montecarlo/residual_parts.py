"""What cases of residual networks are put together from."""

from __future__ import annotations

from typing import Any

from montecarlo.case import Architecture, Control, ResidualCase
from theory.specs.inputs import Inputs, exchangeable
from theory.specs.networks import FeedForward, Layer, Network
from theory.specs.normalizers import group_norm
from theory.specs.residual import Order, Residual
from theory.specs.weights import gaussian
from theory.zoo import zoo

__all__ = ["BN", "GN6", "LN", "PLAIN", "SAMPLES", "STEM", "blocks", "case", "without_skip", "wrong"]

STEM = gaussian(weight_variance=1.0)
SAMPLES = exchangeable(batch=8, correlation=0.3)
PLAIN, BN, LN = zoo["plain"], zoo["BN"], zoo["LN"]
GN6 = Layer(norm=group_norm(6))


def blocks(order: Order = "pre_activation", **options: Any) -> Architecture:
    """Residual networks behind a stem."""

    def build(layer: Layer, depth: int, _: Inputs) -> Network:
        return Residual(layer, depth=depth, order=order, stem=STEM, **options)

    return build


def wrong(
    name: str, statement: str, layer: Layer, architecture: Architecture | None = None
) -> Control:
    """The theory of ``layer``, or of another architecture, taken for the case's own."""
    return Control(name, statement, layer, architecture or blocks())


def without_skip(layer: Layer, statement: str, quantity: str) -> Control:
    """The theory of the same layers without skips, where it is about ``quantity``."""

    def build(layer: Layer, depth: int, _: Inputs) -> Network:
        return FeedForward(layer, depth=depth)

    return Control("feed-forward theory", statement, layer, build, quantity)


def case(
    name: str,
    statement: str,
    layer: Layer,
    *controls: Control,
    architecture: Architecture | None = None,
    given: Inputs = SAMPLES,
    **marks: Any,
) -> ResidualCase:
    """A case: pre-activation with one map, on eight samples, where nothing else is given."""
    return ResidualCase(
        name=name,
        statement=statement,
        layer=layer,
        kind="residual",
        batch=int(given.batch),
        controls=controls,
        architecture=architecture or blocks(),
        given=given,
        **marks,
    )
