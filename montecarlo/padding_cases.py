"""What ``verify`` checks of real convolutions: zero padding and a stride on 8 x 8 digits.

The wrong theory is that of circular padding, which differs at the borders alone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from montecarlo.budgets import Budget
from montecarlo.case import Case, Control, Part
from montecarlo.padding_figure import digit_images
from theory.specs.inputs import Inputs
from theory.specs.networks import Layer, Network, Padding, Sequential
from theory.specs.normalizers import group_norm
from theory.zoo import zoo

__all__ = ["CASES", "PaddingCase"]

_BATCH, _KERNEL, _STRIDE = 4, 3, 2


def _strided(layer: Layer, depth: int, padding: Padding) -> Network:
    """3 x 3 convolutions; the second layer halves the sides."""
    first = dataclasses.replace(layer, kernel=_KERNEL, padding=padding)
    second = dataclasses.replace(first, stride=_STRIDE)
    return Sequential((first, second, *[first] * (depth - 2)))


def _circular(layer: Layer, depth: int, _: Inputs) -> Network:
    return _strided(layer, depth, "circular")


@dataclass(frozen=True, kw_only=True)
class PaddingCase(Case):
    """One layer, zero-padded with a stride, on images."""

    @property
    def inputs(self) -> Inputs:
        """The images with their positions."""
        return digit_images(batch=self.batch)

    def network(self, depth: int) -> Network:
        """The network of this depth, at least 2."""
        return _strided(self.layer, max(depth, 2), "zero")

    def parts(self, budget: Budget) -> tuple[Part, ...]:
        """Signals and gradients together: weights are explicit."""
        if budget.padding is None:
            return ()
        scale = "second_moment" if self.stationary else "growth"
        names = (scale, "similarity", "gap", "stable_rank", "gradient")
        return (self._part("network", budget.padding, names),)


def _case(name: str, statement: str, layer: Layer) -> PaddingCase:
    what = "forgets that the borders see zeros"
    control = Control("circular padding", what, layer, architecture=_circular)
    return PaddingCase(
        name=name,
        statement=statement,
        layer=layer,
        kind="padding",
        batch=_BATCH,
        controls=(control,),
    )


CASES = (
    _case("BN", "Zeros at the borders raise BN's similarity.", zoo["BN"]),
    _case("LN", "The pool over positions is a number: rows at the borders are smaller.", zoo["LN"]),
    _case("GN(4)", "Four channels of every position, borders included.", Layer(norm=group_norm(4))),
    _case("WN", "Rows over channels and offsets: borders see shorter inputs.", zoo["WN"]),
    _case("SWS", "Centering over offsets: E[x]² at the borders is not removed.", zoo["SWS"]),
)
