"""Quantities that ``normcompass verify`` compares, each with its margin; and the run's error rates.

One table, fixed before results were looked at, and such that direct simulation reaches it in its budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["ALPHA", "POWER", "QUANTITIES", "Quantity"]

ALPHA = 0.001
"""Family-wise error of a run: the probability of any false rejection if every prediction is true."""

POWER = 0.95
"""The detectable error is found with this probability."""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Something compared: its scale and its margin.

    Attributes
    ----------
    name, label, unit
        Identifier, heading, and what one unit of the margin is.
    margin
        Largest error that still counts as agreement, on the scale of the comparison: for
        logarithms a relative error.
    per_layer
        Whether the margin is a rate, multiplied by the number of layers that lie in between.
    logarithmic
        Whether the scale is a logarithm, so that 100 times the margin reads as percent.
    """

    name: str
    label: str
    margin: float
    per_layer: bool
    logarithmic: bool
    reason: str

    def layers(self, layer: int, depth: int, *, stationary: bool) -> int:
        """Layers over which a rate accumulates: from the input, or for gradients from layer L.

        Of a stationary network (its normalizer sets the scale afresh) log E[x^2] accumulates nothing.
        """
        if not self.per_layer:
            return 1
        if self.name == "gradient":
            return depth - layer
        return 1 if stationary else layer

    def show(self, value: float) -> str:
        """``value`` per unit of the margin, for people."""
        if not self.logarithmic:
            return f"{value:.4f}"
        return f"{100 * value:.2f} %" + (" / layer" if self.per_layer else "")


QUANTITIES: Mapping[str, Quantity] = MappingProxyType(
    {
        q.name: q
        for q in (
            Quantity(
                name="second_moment",
                label="log second moment",
                margin=0.03,
                per_layer=True,
                logarithmic=True,
                reason="log E[x²]: one rate per layer where the scale accumulates, "
                "once where the normalizer sets it afresh (BN, LN, RMSNorm, GN)",
            ),
            Quantity(
                name="similarity",
                label="similarity",
                margin=0.03,
                per_layer=False,
                logarithmic=False,
                reason="mean cosine of two samples, absolute",
            ),
            Quantity(
                name="stable_rank",
                label="log stable rank",
                margin=0.05,
                per_layer=False,
                logarithmic=True,
                reason="relative error of tr M / ‖M‖₂",
            ),
            Quantity(
                name="gradient",
                label="log gradient ratio",
                margin=0.03,
                per_layer=True,
                logarithmic=True,
                reason="log(‖g^l‖²/‖g^L‖²): relative error of λ, the factor per layer",
            ),
        )
    }
)
