"""Quantities that ``normcompass verify`` compares, each with its margin; and the run's error rates.

Margins belong to the quantity and were fixed before results were looked at: 1 % of a rate per layer,
1 % of second moments and of the stable rank, 0.01 on the similarity, 5 % of 1 - s down to layer 10, 5 % of
a squared gradient ratio that grows less than exponentially.  The last was 2 % at first and was widened for
its cost, after a run that had confirmed every case at 2 %.
A budget may tighten all of them by one factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["ALPHA", "ASSURANCE", "POWER", "QUANTITIES", "Quantity"]

ALPHA = 0.001
"""Family-wise error of a run: the probability of any false rejection if every prediction is true."""

POWER = 0.95
"""The detectable error is found with this probability."""

ASSURANCE = 0.995
"""Probability, test by test, that the planned networks suffice to confirm an exact prediction."""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Something compared: its scale and its margin.

    Attributes
    ----------
    name, label
        Identifier and heading.
    margin
        Largest error that still counts as agreement, on the scale of the comparison: for
        logarithms a relative error.
    per_layer
        Whether the margin is a rate, multiplied by the number of layers that lie in between.
    logarithmic
        Whether the scale is a logarithm, so that 100 times the margin reads as percent.
    deepest
        Last layer at which the margin applies.
    """

    name: str
    label: str
    margin: float
    per_layer: bool = False
    logarithmic: bool = True
    deepest: float = math.inf
    reason: str

    @property
    def backward(self) -> bool:
        """Whether it belongs to gradients."""
        return "gradient" in self.name

    def layers(self, layer: int, depth: int) -> int:
        """Layers over which a rate accumulates: from the input, or for gradients from layer L."""
        if not self.per_layer:
            return 1
        return depth - layer if self.backward else layer

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
                margin=0.01,
                reason="E[x²]: relative error; at any layer where the normalizer sets the scale afresh "
                "(BN, LN, RMSNorm, GN), at the first layers elsewhere",
            ),
            Quantity(
                name="growth",
                label="log growth",
                margin=0.01,
                per_layer=True,
                reason="log E[x²] of deeper layers where the scale accumulates: relative error of the "
                "factor per layer",
            ),
            Quantity(
                name="similarity",
                label="similarity",
                margin=0.01,
                logarithmic=False,
                reason="mean cosine of two samples, absolute",
            ),
            Quantity(
                name="gap",
                label="log (1 − similarity)",
                margin=0.05,
                deepest=10,
                reason="relative error of 1 − s, down to layer 10",
            ),
            Quantity(
                name="stable_rank",
                label="log stable rank",
                margin=0.01,
                reason="relative error of tr M / ‖M‖₂",
            ),
            Quantity(
                name="gradient",
                label="log gradient ratio",
                margin=0.01,
                per_layer=True,
                reason="log(‖g^l‖²/‖g^L‖²): relative error of λ, the factor per layer",
            ),
            Quantity(
                name="gradient_total",
                label="log gradient growth",
                margin=0.05,
                reason="log(‖g^l‖²/‖g^L‖²) of residual networks whose gradients grow as a power of depth "
                "or stay bounded: relative error of the whole ratio; over 16 blocks 0.02 on the exponent",
            ),
            Quantity(
                name="branch_gradient",
                label="log branch gradient",
                margin=0.05,
                reason="log(‖∂loss/∂h^l‖²/‖g^L‖²) at the first map of a residual branch: relative error of "
                "the whole ratio",
            ),
        )
    }
)
