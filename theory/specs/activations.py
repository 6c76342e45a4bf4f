"""Activations as values: a base function, an affine output map, nothing that computes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from theory.errors import out_of_domain
from theory.specs._check import member, real

__all__ = [
    "ACTIVATION_NAMES",
    "Activation",
    "abs",
    "elu",
    "erf",
    "gelu",
    "identity",
    "leaky_relu",
    "relu",
    "scaled_relu",
    "selu",
    "silu",
    "sin",
    "softplus",
    "tanh",
    "tlu",
]

ACTIVATION_NAMES = (
    "relu",
    "leaky_relu",
    "identity",
    "abs",
    "tanh",
    "erf",
    "gelu",
    "silu",
    "elu",
    "selu",
    "softplus",
    "sin",
)


@dataclass(frozen=True, kw_only=True)
class Activation:
    """phi(x) = scale * base(x - threshold) + shift.

    Parameters
    ----------
    name
        Base function, one of ``ACTIVATION_NAMES``.  ``gelu`` is x Phi(x) (exact), ``elu`` has
        alpha = 1, ``selu`` the constants of Klambauer et al. 2017, ``silu`` is x / (1 + exp(-x)).
    negative_slope
        Slope for x < 0; ``leaky_relu`` only, in [-1, 1].
    scale, shift
        Affine map of the output; scale is not 0.
    threshold
        Where relu starts, ``relu`` only: see ``tlu``.

    Raises
    ------
    SpecificationError
        Unknown name, or a parameter outside its domain.
    """

    name: str
    negative_slope: float | None = None
    scale: float = 1.0
    shift: float = 0.0
    threshold: float = 0.0

    def __post_init__(self) -> None:
        member("name", self.name, ACTIVATION_NAMES)
        if self.name == "leaky_relu":
            slope = real(
                "negative_slope",
                self.negative_slope,
                low=-1.0,
                high=1.0,
                remedy="leaky_relu(0.01) is the usual choice",
            )
            object.__setattr__(self, "negative_slope", slope)
        elif self.negative_slope is not None:
            raise out_of_domain(
                "negative_slope",
                self.negative_slope,
                f"None for {self.name}",
                "only leaky_relu has a slope",
            )
        scale = real("scale", self.scale, remedy="use a non-zero number")
        if scale == 0.0:
            raise out_of_domain("scale", self.scale, "a non-zero number", "drop the layer instead")
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "shift", real("shift", self.shift, remedy="use a finite number"))
        threshold = real("threshold", self.threshold, remedy="FRN's starts at 0")
        if threshold != 0.0 and self.name != "relu":
            raise out_of_domain("threshold", threshold, f"0 for {self.name}", "use tlu(threshold)")
        object.__setattr__(self, "threshold", threshold + 0.0)

    def affine(self, *, scale: float = 1.0, shift: float = 0.0) -> Activation:
        """Return x -> scale * phi(x) + shift."""
        scale = real("scale", scale, remedy="use a non-zero number")
        shift = real("shift", shift, remedy="use a finite number")
        return dataclasses.replace(self, scale=self.scale * scale, shift=self.shift * scale + shift)

    @property
    def base(self) -> Activation:
        """The activation without its affine output map."""
        if self.scale == 1.0 and self.shift == 0.0:
            return self
        return dataclasses.replace(self, scale=1.0, shift=0.0)

    @property
    def ray_slopes(self) -> tuple[float, float] | None:
        """(a, b) with base(x) = a relu(x) + b relu(-x), or None if base is not positively homogeneous."""
        match self.name:
            case "relu":
                return (1.0, 0.0) if self.threshold == 0.0 else None
            case "leaky_relu":
                assert self.negative_slope is not None
                return (1.0, -self.negative_slope)
            case "identity":
                return (1.0, -1.0)
            case "abs":
                return (1.0, 1.0)
            case _:
                return None


relu = Activation(name="relu")
identity = Activation(name="identity")
abs = Activation(name="abs")
tanh = Activation(name="tanh")
erf = Activation(name="erf")
gelu = Activation(name="gelu")
silu = Activation(name="silu")
elu = Activation(name="elu")
selu = Activation(name="selu")
softplus = Activation(name="softplus")
sin = Activation(name="sin")


def leaky_relu(negative_slope: float) -> Activation:
    """phi(x) = x for x > 0, negative_slope * x otherwise; slope in [-1, 1]."""
    return Activation(name="leaky_relu", negative_slope=negative_slope)


def tlu(threshold: float) -> Activation:
    """max(x, threshold): FRN's thresholded linear unit (Singh & Krishnan 2019); relu at 0."""
    threshold = real("threshold", threshold, remedy="FRN's starts at 0")
    return Activation(name="relu", threshold=threshold, shift=threshold)


# Zero mean and unit second moment for a unit Gaussian (Arpit et al. 2016, "Normalization Propagation").
_GAIN = math.sqrt(2.0 * math.pi / (math.pi - 1.0))
scaled_relu = relu.affine(scale=_GAIN, shift=-_GAIN / math.sqrt(2.0 * math.pi))
