"""Weight distributions as values: Gaussian, Weight Norm, Scaled Weight Standardization, centered."""

from __future__ import annotations

import math
from dataclasses import dataclass

from theory.specs._check import flag, real, text

__all__ = [
    "Weights",
    "centered_weights",
    "gaussian",
    "scaled_weight_standardization",
    "weight_norm",
]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Rows of W: Gaussian, then optionally centered, then optionally brought to a fixed norm.

    Parameters
    ----------
    name
        For labels.
    weight_variance
        sigma_w^2 = Var(W_ij) * fan_in, > 0.  With ``normalized`` the squared norm of each row is
        exactly sigma_w^2.
    centered
        Whether each row has its mean over the fan-in subtracted.
    normalized
        Whether each row is divided by its norm.
    """

    name: str
    weight_variance: float
    centered: bool = False
    normalized: bool = False

    def __post_init__(self) -> None:
        text("name", self.name)
        variance = real(
            "weight_variance",
            self.weight_variance,
            low=0.0,
            open_low=True,
            remedy="He initialization is 2.0",
        )
        object.__setattr__(self, "weight_variance", variance)
        flag("centered", self.centered)
        flag("normalized", self.normalized)


def gaussian(*, weight_variance: float = 2.0) -> Weights:
    """W_ij ~ N(0, weight_variance / fan_in), independent."""
    return Weights(name="gaussian", weight_variance=weight_variance)


def weight_norm() -> Weights:
    """Rows of unit norm, uniform on the sphere (Salimans & Kingma 2016); use with ``scaled_relu``."""
    return Weights(name="WN", weight_variance=1.0, normalized=True)


def scaled_weight_standardization(
    *, gain: float = math.sqrt(2.0 * math.pi / (math.pi - 1.0))
) -> Weights:
    """Rows centered, with standard deviation gain / sqrt(fan_in) (Brock, De & Smith 2021).

    ``gain`` multiplies the standard deviation; its default keeps q fixed with relu.
    """
    gain = real("gain", gain, low=0.0, open_low=True, remedy="relu's is sqrt(2 pi / (pi - 1))")
    return Weights(name="SWS", weight_variance=gain * gain, centered=True, normalized=True)


def centered_weights(*, weight_variance: float = 2.0) -> Weights:
    """Gaussian rows with their mean subtracted, no normalization."""
    return Weights(name="WC", weight_variance=weight_variance, centered=True)
