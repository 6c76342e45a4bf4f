"""Input batches x^0 as values: exchangeable, measured from data, or given by a covariance.

Every kind says the same three things: the second moment of each sample per feature, the gaps
1 - cosine between samples (kept in full relative precision), and the mean over features of each
sample, which centered weights need.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.errors import out_of_domain
from theory.specs._arrays import ArrayInputs, frozen, numeric, require_nonzero
from theory.specs._check import real, samples
from theory.specs._gaps import covariance_gaps, row_gaps
from theory.specs.images import ImageInputs
from theory.specs.spatial import SpatialInputs, position_shape

__all__ = [
    "CovarianceInputs",
    "DataInputs",
    "ExchangeableInputs",
    "Inputs",
    "SpatialInputs",
    "exchangeable",
    "from_covariance",
    "from_data",
    "position_shape_of",
]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ExchangeableInputs:
    """A batch in which every sample and every pair of samples look alike; see ``exchangeable``."""

    batch: float
    gap: float
    second_moment: float = 1.0
    feature_mean: float = 0.0

    def __post_init__(self) -> None:
        batch = samples(self.batch)
        largest = 1.0 if batch == math.inf else 1.0 + 1.0 / max(batch - 1, 1)
        gap = real("gap", self.gap, low=0.0, high=largest, remedy="gap is 1 - correlation")
        q = real(
            "second_moment",
            self.second_moment,
            low=0.0,
            open_low=True,
            remedy="a zero sample has no angle",
        )
        mean = real("feature_mean", self.feature_mean, remedy="use a finite number")
        # K - m m' must be positive semidefinite; its eigenvalue along (1, ..., 1) is the one at stake.
        along_mean = max(q * ((1.0 - gap) + gap / batch), 0.0)
        if mean * mean > along_mean * (1.0 + 1e-12):
            raise out_of_domain(
                "feature_mean",
                mean,
                f"at most {math.sqrt(along_mean):.6g} in size for this covariance",
                "lower it, or raise the correlation",
            )
        values = {
            "batch": batch,
            "gap": 0.0 if batch == 1 else gap,
            "second_moment": q,
            "feature_mean": mean,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def correlation(self) -> float:
        """Cosine of two samples, 1 - gap."""
        return 1.0 - self.gap

    @property
    def positions(self) -> int:
        """Positions per sample."""
        return 1


def exchangeable(
    *,
    batch: float,
    correlation: float | None = None,
    gap: float | None = None,
    second_moment: float = 1.0,
    feature_mean: float = 0.0,
    positions: int | tuple[int, ...] = 1,
    position_correlation: float | None = None,
    position_gap: float | None = None,
    cross_correlation: float | None = None,
    cross_gap: float | None = None,
) -> ExchangeableInputs | SpatialInputs:
    """Exchangeable batch x^0: <x_a, x_a>/n = second_moment, <x_a, x_b>/n = correlation * second_moment.

    With positions, four numbers: q = second_moment at the same sample and position, w = q
    position_correlation in the same sample, b = q correlation at the same position, and
    x = q cross_correlation where both differ (theory notes, section 3).

    Parameters
    ----------
    batch
        Number of samples B >= 1; ``math.inf`` for the limit of large batches.
    correlation
        Cosine of two samples, in [-1/(B-1), 1].
    gap
        1 - correlation, instead of ``correlation``, when samples are so alike that 1 - c would
        lose digits: ``gap=1e-14``.
    second_moment
        Per feature, > 0.
    feature_mean
        Mean over the features of each sample (the same for all); only centered weights see it.
    positions
        S positions on a ring, or (H, W) on a torus; each has its own n features.
    position_correlation, position_gap
        Cosine of two positions of one sample, or one minus it; needed with positions.
    cross_correlation, cross_gap
        Cosine where sample and position differ, or one minus it; without them the product
        correlation * position_correlation.

    Raises
    ------
    SpecificationError
        A value outside its domain, or numbers that are no covariance.
    """
    batch = samples(batch)
    if (correlation is None) == (gap is None):
        if batch != 1 or correlation is not None:
            raise out_of_domain(
                "correlation, gap", (correlation, gap), "one of the two", "give exactly one"
            )
        gap = 0.0
    if position_shape(positions) != (1,):
        gap = _one("correlation", correlation, gap)
        beside = _one("position_correlation", position_correlation, position_gap)
        cross = None
        if cross_correlation is not None or cross_gap is not None:
            cross = _one("cross_correlation", cross_correlation, cross_gap)
        return SpatialInputs(
            batch=batch,
            gap=gap,
            shape=position_shape(positions),
            position_gap=beside,
            cross_gap=cross,
            second_moment=second_moment,
            feature_mean=feature_mean,
        )
    extra = (position_correlation, position_gap, cross_correlation, cross_gap)
    if any(value is not None for value in extra):
        raise out_of_domain(
            "position_correlation, cross_correlation",
            extra,
            "None at one position",
            "give positions",
        )
    if gap is None:
        low = -1.0 / (batch - 1) if isinstance(batch, int) and batch > 1 else -1.0
        remedy = f"B samples cannot be more dissimilar than -1/(B-1) = {low:.6g}"
        # One rounding below the bound is the bound itself as a user computes it.
        value = real("correlation", correlation, low=low - 1e-15, high=1.0, remedy=remedy)
        gap = min(1.0 - value, 1.0 - low)
    return ExchangeableInputs(
        batch=batch, gap=gap, second_moment=second_moment, feature_mean=feature_mean
    )


def _one(argument: str, correlation: float | None, gap: float | None) -> float:
    """1 - correlation, or the gap: exactly one of them."""
    other = argument.replace("correlation", "gap")
    if (correlation is None) == (gap is None):
        raise out_of_domain(
            f"{argument}, {other}", (correlation, gap), "one of the two", "give exactly one"
        )
    if gap is not None:
        return gap
    return 1.0 - real(argument, correlation, low=-1.0, high=1.0, remedy="a cosine")


@dataclass(frozen=True, eq=False, repr=False)
class DataInputs(ArrayInputs):
    """A real batch; see ``from_data``."""

    features: FloatArray

    def __post_init__(self) -> None:
        array = numeric("features", self.features)
        if array.ndim < 2 or array.size == 0:
            raise out_of_domain(
                "features", array.shape, "an array of shape (B, d) with B, d >= 1", "use X[None, :]"
            )
        array = array.reshape(array.shape[0], -1)
        require_nonzero(array)
        size = np.abs(array).max(axis=1)
        if size.max() > 1e140 or size.min() < 1e-140:
            raise out_of_domain(
                "features",
                f"magnitude {size.min():.3g} to {size.max():.3g}",
                "within 1e-140 to 1e140",
                "rescale the data",
            )
        object.__setattr__(self, "features", frozen(array))

    def _content(self) -> tuple[bytes, ...]:
        return (repr(self.features.shape).encode(), self.features.tobytes())

    @property
    def batch(self) -> int:
        """Number of samples."""
        return int(self.features.shape[0])

    @property
    def positions(self) -> int:
        """Positions per sample."""
        return 1

    @cached_property
    def second_moment(self) -> FloatArray:
        """Mean square of each sample's features, shape (B,)."""
        return frozen(np.mean(self.features**2, axis=1))

    @cached_property
    def feature_mean(self) -> FloatArray:
        """Mean over each sample's features, shape (B,)."""
        return frozen(np.mean(self.features, axis=1))

    @cached_property
    def gap(self) -> FloatArray:
        """1 - cosine of every pair, to full relative precision; shape (B, B)."""
        return frozen(row_gaps(self.features))

    @cached_property
    def covariance(self) -> FloatArray:
        """X X' / d, shape (B, B)."""
        return frozen(self.features @ self.features.T / self.features.shape[1])


def from_data(features: Any) -> DataInputs:
    """A real batch x^0: full covariance X X'/d and the feature mean of each sample.

    Normalized rows (WN, SWS) of a first layer are taken as Gaussian, as over infinitely many features.
    Over d of them they are directions: SWS has d/(d-1) times the second moment (1.6 % more for 64 pixels),
    and the mean of phi, which the next centered layer subtracts, is larger by about 1/(4 d).
    ``images(X[:, :, None])`` takes that into account.

    Parameters
    ----------
    features
        Array of shape (B, d) or (B, ...); further axes are flattened to d features.

    Raises
    ------
    SpecificationError
        Not numeric, fewer than two dimensions, empty, NaN or infinite, or a sample that is zero.
    """
    return DataInputs(features)


@dataclass(frozen=True, eq=False, repr=False)
class CovarianceInputs(ArrayInputs):
    """A batch known by its second moments; see ``from_covariance``."""

    covariance: FloatArray
    feature_mean: FloatArray
    shape: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        shape = position_shape(self.shape)
        object.__setattr__(self, "shape", shape)
        matrix = numeric("covariance", self.covariance)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
            raise out_of_domain(
                "covariance", matrix.shape, "a square array", "pass K of shape (B, B)"
            )
        if len(matrix) % math.prod(shape):
            raise out_of_domain(
                "covariance",
                matrix.shape,
                f"a multiple of {math.prod(shape)} rows for positions {shape}",
                "order the rows by sample, the positions of one sample side by side",
            )
        diagonal = np.diagonal(matrix)
        if not (diagonal > 0).all():
            raise out_of_domain(
                "covariance", diagonal.min(), "positive on the diagonal", "drop zero samples"
            )
        root = np.sqrt(diagonal)
        scaled = matrix / np.outer(root, root)
        if np.abs(scaled - scaled.T).max() > 1e-10:
            raise out_of_domain("covariance", "asymmetric", "symmetric", "pass (K + K.T) / 2")
        try:
            means = numeric("feature_mean", self.feature_mean)
            if np.abs(means).max(initial=0.0) > 1e150:
                raise ValueError
            mean = np.broadcast_to(means, diagonal.shape).copy()
        except ValueError:
            raise out_of_domain(
                "feature_mean",
                self.feature_mean,
                f"a number or shape ({len(root)},), at most 1e150",
                "one mean per sample",
            ) from None
        lowest = np.linalg.eigvalsh((scaled + scaled.T) / 2 - np.outer(mean / root, mean / root))[0]
        if lowest < -1e-10 * len(root):
            raise out_of_domain(
                "covariance",
                f"lowest eigenvalue {lowest:.3g} of the normalized K - m m'",
                "positive semidefinite",
                "check the covariance and feature_mean",
            )
        object.__setattr__(self, "covariance", frozen((matrix + matrix.T) / 2))
        object.__setattr__(self, "feature_mean", frozen(mean))

    def _content(self) -> tuple[bytes, ...]:
        shape = repr(self.shape).encode()
        return (self.covariance.tobytes(), self.feature_mean.tobytes(), shape)

    @property
    def batch(self) -> int:
        """Number of samples."""
        return int(self.covariance.shape[0]) // self.positions

    @property
    def positions(self) -> int:
        """Positions per sample."""
        return math.prod(self.shape)

    @cached_property
    def second_moment(self) -> FloatArray:
        """Diagonal of the covariance, shape (B,), with positions (B S,)."""
        return frozen(np.diagonal(self.covariance).copy())

    @cached_property
    def gap(self) -> FloatArray:
        """1 - cosine of every pair of rows, to full relative precision of the given covariance."""
        return frozen(covariance_gaps(self.covariance))


def from_covariance(
    covariance: Any, *, feature_mean: Any = 0.0, positions: int | tuple[int, ...] = 1
) -> CovarianceInputs:
    """A batch x^0 given by K = <x_a, x_b>/n and the feature mean of each sample.

    A simulation realises it exactly at every width larger than the batch.

    Parameters
    ----------
    covariance
        Symmetric positive semidefinite array of shape (B, B) with a positive diagonal; with S
        positions (B S, B S), the positions of one sample side by side.
    feature_mean
        Number or array with one mean per row; K - m m' must be positive semidefinite.
    positions
        S, or (H, W) in C order.

    Raises
    ------
    SpecificationError
        Not symmetric, not positive semidefinite, NaN, or a zero sample.
    """
    return CovarianceInputs(covariance, feature_mean, position_shape(positions))


Inputs = ExchangeableInputs | SpatialInputs | DataInputs | CovarianceInputs | ImageInputs


def position_shape_of(inputs: Inputs) -> tuple[int, ...]:
    """(S,) or (H, W); (1,) without positions."""
    if isinstance(inputs, SpatialInputs | CovarianceInputs | ImageInputs):
        return inputs.shape
    return (1,)
