"""Cases that only claims ask for: small images with zero and with circular padding; groups without relu.

Each removes one cause.  Borders make samples alike, and circular padding takes them away; relu's mean
holds the stable rank down, and the identity has none.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from montecarlo.budgets import Budget
from montecarlo.case import Case, Control, Part
from montecarlo.digits import digits
from theory.specs.activations import identity
from theory.specs.images import ImageInputs, images
from theory.specs.inputs import Inputs
from theory.specs.networks import Layer, Padding
from theory.specs.normalizers import group_norm
from theory.specs.weights import gaussian
from theory.zoo import zoo

__all__ = ["LINEAR", "PADDED", "ImageCase"]

_BATCH, _SIDE, _KERNEL = 4, 4, 3
_DEEP = 10


def _small_digits() -> ImageInputs:
    """The first digits, 2 x 2 pixels averaged: 4 x 4 positions, mean second moment 1."""
    blocks = digits(batch=_BATCH).reshape(_BATCH, 1, _SIDE, 2, _SIDE, 2)
    pixels = blocks.mean(axis=(3, 5))
    return images(pixels / math.sqrt(float(np.mean(pixels**2))))


@dataclass(frozen=True, kw_only=True)
class ImageCase(Case):
    """Convolutions over small images; every pair of positions has a covariance of its own."""

    @property
    def inputs(self) -> Inputs:
        """The batch of images."""
        return _small_digits()

    def parts(self, budget: Budget) -> tuple[Part, ...]:
        """Similarity and gradients of the same networks; E[x^2] where it is set afresh."""
        if budget.images is None:
            return ()
        scale = ("second_moment",) if self.stationary else ()
        names = (*scale, "similarity", "gap", "gradient")
        return (self._part("network", budget.images, names),)


def _padded(layer: Layer, padding: Padding) -> Layer:
    return dataclasses.replace(layer, kernel=_KERNEL, padding=padding)


def _image_case(name: str, padding: Padding, other: Padding, mistake: str) -> ImageCase:
    layer = zoo[name]
    wrong = Control(f"{other} for {padding}", mistake, _padded(layer, other), quantity="similarity")
    statement = {
        "zero": "Zeros beyond the border draw the same frame into every image: samples grow alike.",
        "circular": "Without a border nothing is common to the images but what relu adds.",
    }[padding]
    return ImageCase(
        name=f"{name}, {padding} padding",
        statement=statement,
        layer=_padded(layer, padding),
        kind="images",
        batch=_BATCH,
        controls=(wrong,),
    )


_MISTAKES: tuple[tuple[Padding, Padding, str], ...] = (
    ("zero", "circular", "a theory without borders"),
    ("circular", "zero", "puts a border where there is none"),
)
PADDED: tuple[Case, ...] = tuple(
    _image_case(name, padding, other, mistake)
    for name in ("BN", "SWS")
    for padding, other, mistake in _MISTAKES
)


@dataclass(frozen=True, kw_only=True)
class _DeepCase(Case):
    """Something that shows only after many layers."""

    def parts(self, budget: Budget) -> tuple[Part, ...]:
        """As any case, where the budget is deep enough."""
        return super().parts(budget) if budget.wide.depth >= _DEEP else ()


LINEAR = _DeepCase(
    name="GN(6), linear",
    statement="Without relu nothing draws samples together: similarity decays, and the rank rises to B.",
    layer=Layer(weights=gaussian(weight_variance=1.0), norm=group_norm(6), activation=identity),
    kind="synthetic",
    batch=8,
    deepest=_DEEP,
    controls=(
        Control("relu for identity", "relu's mean holds the rank down", Layer(norm=group_norm(6))),
    ),
)
"""The layer of "GN(6)" with the identity in place of relu, on the same batch."""
