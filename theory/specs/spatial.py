"""Batches with positions: exchangeable over samples and over positions, given or measured.

The number of positions is that of a ring or torus, on which convolutions act.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.errors import out_of_domain
from theory.specs._arrays import require_unmasked
from theory.specs._check import LARGEST, integer, real, samples

__all__ = ["SpatialInputs", "exchangeable_from_data", "position_shape"]

FloatArray = NDArray[np.float64]

_SLACK = 1e-12


@dataclass(frozen=True, kw_only=True)
class SpatialInputs:
    """Every sample, position, pair of samples and pair of positions looks alike; see ``exchangeable``.

    ``shape``: (S,) or (H, W).  ``gap``: other sample, same position; ``position_gap``: same sample,
    other position; ``cross_gap``: both other, or None for the product of the two correlations,
    (1 - gap)(1 - position_gap).
    """

    batch: float
    gap: float
    shape: tuple[int, ...]
    position_gap: float
    cross_gap: float | None = None
    second_moment: float = 1.0
    feature_mean: float = 0.0

    def __post_init__(self) -> None:
        shape = position_shape(self.shape)
        if math.prod(shape) < 2:
            raise out_of_domain("positions", shape, "at least 2 altogether", "leave it out for 1")
        batch = samples(self.batch)
        remedy = "gap is 1 - correlation"
        gap = 0.0 if batch == 1 else real("gap", self.gap, low=0.0, high=2.0, remedy=remedy)
        beside = real("position_gap", self.position_gap, low=0.0, high=2.0, remedy=remedy)
        cross = self.cross_gap
        if batch == 1 or cross is None:
            cross = None
        else:
            cross = real("cross_gap", cross, low=0.0, high=2.0, remedy=remedy)
        q = real(
            "second_moment",
            self.second_moment,
            low=0.0,
            open_low=True,
            remedy="a zero sample has no angle",
        )
        mean = real("feature_mean", self.feature_mean, remedy="use a finite number")
        values = {
            "batch": batch,
            "gap": gap,
            "shape": shape,
            "position_gap": beside,
            "cross_gap": cross,
            "second_moment": q,
            "feature_mean": mean,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._require_covariance()

    @property
    def positions(self) -> int:
        """S: number of positions."""
        return math.prod(self.shape)

    @property
    def correlation(self) -> float:
        """Cosine of two samples at one position, and over all of them, 1 - gap."""
        return 1.0 - self.gap

    @property
    def eigenvalues(self) -> tuple[float, float, float, float]:
        """In units of q: same-sample q - w and q + (S-1) w; how much the cross-sample ones fall short.

        Of the product (1 - gap)(1 - position_gap) they are products too, and lose nothing.
        """
        s, gap, beside = self.positions, self.gap, self.position_gap
        contrast, mean = beside, s - (s - 1) * beside
        if self.cross_gap is None:
            return contrast, mean, gap * contrast, gap * mean
        far = beside + gap - self.cross_gap
        mean_far = gap + (s - 1) * (self.cross_gap - beside)
        if gap == 0.0:
            return contrast, mean, far, mean_far
        # A difference of given gaps that rounds to nothing is only known to be this small.
        return contrast, mean, max(far, self._rounding), max(mean_far, self._rounding)

    @property
    def _rounding(self) -> float:
        size = self.gap + self.position_gap + (self.cross_gap or 0.0)
        return float(np.finfo(np.float64).eps) * size

    @property
    def resolution(self) -> float:
        """Relative error of the smaller cross-sample distance, if it is a difference of given gaps."""
        if self.cross_gap is None or self.gap == 0.0:
            return 0.0
        *_, far, mean_far = self.eigenvalues
        return self._rounding / min(far, mean_far)

    def _require_covariance(self) -> None:
        """Every eigenvalue of K - m m' over (sample, position) is at least 0."""
        s, b, beside, cross = self.positions, self.batch, self.position_gap, self.cross_gap
        contrast, mean, far, mean_far = self.eigenvalues
        if cross is not None:
            far, mean_far = beside + self.gap - cross, self.gap + (s - 1) * (cross - beside)
        # A product is inf where a power would be an OverflowError.
        m2 = self.feature_mean * self.feature_mean / self.second_moment
        # Over samples: lambda - mu of the contrasts, lambda + (B-1) mu of the mean (per B, if infinite).
        limits = {"samples and positions": far, "samples": mean_far}
        if b == math.inf:
            limits["positions"] = contrast - far
            limits["all"] = mean - mean_far - s * m2
        else:
            limits["positions"] = b * contrast - (b - 1) * far
            limits["all"] = b * mean - (b - 1) * mean_far - b * s * m2
        for which, value in limits.items():
            if b == 1 and "samples" in which:
                continue
            if value < -_SLACK * s:
                raise out_of_domain(
                    "gap, position_gap, cross_gap, feature_mean",
                    (self.gap, self.position_gap, self.cross_gap, self.feature_mean),
                    f"those of a covariance: the variance along contrasts of {which} would be negative",
                    "measure all of them from the same data (exchangeable_from_data)",
                )


def position_shape(positions: Any) -> tuple[int, ...]:
    """(S,) for an integer; sequences of one or two integers as they are."""
    sides = (positions,) if isinstance(positions, numbers.Integral) else positions
    if not isinstance(sides, tuple | list) or len(sides) not in (1, 2):
        raise out_of_domain(
            "positions", positions, "S for a ring or (H, W) for a torus", "give integers"
        )
    return tuple(
        integer("positions", side, low=1, high=LARGEST, remedy="count them") for side in sides
    )


def exchangeable_from_data(features: Any) -> SpatialInputs:
    """The four numbers of a real batch: means of x x' over pairs of samples and positions.

    q over all, w over pairs of positions of one sample, b over pairs of samples at one position, x over
    pairs that differ in both, each per channel; the mean over everything.  A convolution's covariance
    is not exchangeable over positions in general: this is its nearest exchangeable one.

    Parameters
    ----------
    features
        Array of shape (B, channels, S) or (B, channels, H, W); B >= 1 and S >= 2.

    Raises
    ------
    SpecificationError
        Not a finite real array of that shape, or all (nearly) zero.
    """
    require_unmasked("features", features)
    try:
        array = np.asarray(features)
    except ValueError:
        array = np.empty(())  # rows of different lengths
    if array.dtype.kind not in "biuf" or array.ndim not in (3, 4) or array.size == 0:
        raise out_of_domain(
            "features",
            getattr(features, "shape", type(features).__name__),
            "a real array of shape (B, channels, S) or (B, channels, H, W)",
            "add an axis for the channels: X[:, None]",
        )
    x = array.astype(np.float64)
    batch, channels, shape = x.shape[0], x.shape[1], x.shape[2:]
    if math.prod(shape) < 2:
        raise out_of_domain(
            "features", array.shape, "at least 2 positions", "use from_data for a single one"
        )
    if not np.isfinite(x).all():
        raise out_of_domain("features", "NaN or inf", "finite numbers", "clean the data")
    largest = float(np.abs(x).max())
    if not 1e-140 < largest < 1e140:
        raise out_of_domain(
            "features", f"magnitude {largest:.3g}", "within 1e-140 to 1e140", "rescale the data"
        )
    # (samples, positions, channels); two points of the batch differ by the mean of their squares.
    points = np.moveaxis(x.reshape(batch, channels, -1), 1, 2)
    size = points.shape[1]
    q = float(np.mean(points**2))
    beside = _mean_gap(points, axis=1) / q
    same = _mean_gap(points, axis=0) / q if batch > 1 else 0.0
    pairs = batch * size * (batch * size - 1)
    every = _mean_gap(points.reshape(1, -1, channels), axis=1) / q * pairs
    both = pairs - batch * size * ((size - 1) + (batch - 1))
    rest = every - batch * size * ((size - 1) * beside + (batch - 1) * same)
    return SpatialInputs(
        batch=batch,
        gap=same,
        shape=shape,
        position_gap=beside,
        cross_gap=max(rest / both, 0.0) if both else None,
        second_moment=q,
        feature_mean=float(np.mean(points)),
    )


def _mean_gap(points: FloatArray, *, axis: int) -> float:
    """Mean of |u - v|^2/(2 channels) over pairs along ``axis``: variance about the mean, n/(n-1)."""
    count = points.shape[axis]
    deviations = points - points.mean(axis=axis, keepdims=True)
    return float(np.mean(deviations**2)) * count / (count - 1)
