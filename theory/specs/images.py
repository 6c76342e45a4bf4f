"""Real images: a batch with positions, as values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.errors import out_of_domain
from theory.specs._arrays import ArrayInputs, frozen, numeric, require_nonzero
from theory.specs._gaps import row_gaps

__all__ = ["ImageInputs", "images"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class ImageInputs(ArrayInputs):
    """A real batch with positions; see ``images``."""

    features: FloatArray

    def __post_init__(self) -> None:
        array = numeric("features", self.features)
        if array.ndim not in (3, 4) or array.size == 0:
            raise out_of_domain(
                "features",
                array.shape,
                "an array of shape (B, channels, S) or (B, channels, H, W)",
                "add an axis for the channels: X[:, None]",
            )
        require_nonzero(array)
        largest = float(np.abs(array).max())
        if not 1e-140 < largest < 1e140:
            raise out_of_domain(
                "features", f"magnitude {largest:.3g}", "within 1e-140 to 1e140", "rescale the data"
            )
        object.__setattr__(self, "features", frozen(array))

    def _content(self) -> tuple[bytes, ...]:
        return (repr(self.features.shape).encode(), self.features.tobytes())

    @property
    def batch(self) -> int:
        """Number of samples."""
        return int(self.features.shape[0])

    @property
    def channels(self) -> int:
        """Channels of the data."""
        return int(self.features.shape[1])

    @property
    def shape(self) -> tuple[int, ...]:
        """(S,) or (H, W)."""
        return self.features.shape[2:]

    @property
    def positions(self) -> int:
        """Positions per sample."""
        return math.prod(self.shape)

    @cached_property
    def points(self) -> FloatArray:
        """Channels of every (sample, position), samples outermost; shape (B S, channels)."""
        batch, channels = self.features.shape[:2]
        points = self.features.reshape(batch, channels, -1).transpose(0, 2, 1)
        return frozen(np.ascontiguousarray(points.reshape(-1, channels)))

    @cached_property
    def second_moment(self) -> FloatArray:
        """Mean square over the channels of each (sample, position), shape (B S,); it may be 0."""
        return frozen(np.mean(self.points**2, axis=1))

    @cached_property
    def feature_mean(self) -> FloatArray:
        """Mean over the channels of each (sample, position), shape (B S,)."""
        return frozen(np.mean(self.points, axis=1))

    @cached_property
    def gap(self) -> FloatArray:
        """1 - cosine of every pair of points, (B S, B S); 1 where one of two is zero."""
        return frozen(row_gaps(self.points))


def images(features: Any) -> ImageInputs:
    """Real images x^0: covariance over (sample, position), averaged over the channels, and means.

    Pixels may be zero.  A simulation convolves the images as they are.

    Parameters
    ----------
    features
        Array of shape (B, channels, S) or (B, channels, H, W).

    Raises
    ------
    SpecificationError
        Not a finite real array of that shape, or a sample that is zero.
    """
    return ImageInputs(features)
