"""What the modules of claims share: ids of cases, and values of the library."""

from __future__ import annotations

from theory.fixed_points import fixed_point
from theory.specs.networks import FeedForward, Layer

__all__ = [
    "ALIKE",
    "BEFORE",
    "EXPLODE",
    "NOTES",
    "SIMILAR",
    "growth",
    "on_batches",
    "residual",
    "ring",
    "settled",
]

SIMILAR = ("similarity", "gap")
BEFORE = "paper, finding (i): stable forward propagation"
ALIKE = "paper, finding (ii): informative forward propagation"
EXPLODE = "paper, finding (iii): stable backward propagation"
NOTES = "ours, theory notes, section "


def on_batches(*names: str) -> tuple[str, ...]:
    """Cases of these names on the synthetic batch and on digits."""
    return tuple(f"{name}/{kind}" for name in names for kind in ("synthetic", "digits"))


def residual(*names: str) -> tuple[str, ...]:
    """Cases of residual networks."""
    return tuple(f"{name}/residual" for name in names)


def ring(*names: str) -> tuple[str, ...]:
    """Cases on a ring of 16 positions."""
    return tuple(f"{name}/ring" for name in names)


def settled(layer: Layer, *, batch: float | None = None, positions: int = 1) -> float:
    """s* of a layer."""
    network = FeedForward(layer, depth=1)
    return fixed_point(network, batch=batch, positions=positions).similarity


def growth(layer: Layer, *, batch: float | None = None, positions: int = 1) -> float:
    """lambda of a layer."""
    network = FeedForward(layer, depth=1)
    return fixed_point(network, batch=batch, positions=positions).gradient_growth
