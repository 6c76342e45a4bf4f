"""Covariance over (sample, position), of every pair or, where shifts leave it alone, of every lag."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.errors import HypothesisError, out_of_domain
from theory.specs.images import ImageInputs
from theory.specs.inputs import (
    CovarianceInputs,
    DataInputs,
    Inputs,
    position_shape_of,
)
from theory.specs.shifts import is_stationary, shift_average, spread
from theory.specs.spatial import SpatialInputs
from theory.specs.weights import Weights
from theory.states.base import Block, Gradient, Moments, Observables
from theory.states.full import DISTANCE_FLOOR, Full, centered_rows
from theory.windows import averaged, pooled, pooled_back, pooling, scattered, windows

__all__ = ["Grid"]

FloatArray = NDArray[np.float64]

# Rows (sample, position): a matrix of 128 MB, of which there are a dozen.
_LARGEST = 4096
# Below this q, in units of its sample's largest, a row only sees zeros or rows of vanishing size.
_DARK = 1e-30


@dataclass(frozen=True, eq=False, slots=True)
class Grid:
    """``rows``: every (sample, position) as a row, samples outermost, on positions of ``shape``.

    Two samples are compared over all channels and positions: their cosine is that of the covariances
    averaged over positions, which is what a flattened sample has.

    ``features``: channels, finite for data, where a normalized row of weights is a direction in few
    dimensions instead of a Gaussian: ``directions`` of them before the activation (inf: Gaussian).

    ``stationary``: shifts of the ring or torus leave the rows alone.  Then routes take expectations for
    position 0 and every lag only, and gradients are averages over shifts, whose norm is the same.
    Circular convolutions and strides and poolings that divide the sides keep it; zero padding does not,
    and from there on every pair is followed.

    ``chance``: of rows of vanishing size (``theory.dark_windows``) to be there, and not zeros, in a network.
    Gradients are followed as if they were, which is so wherever anything passes the layer that made
    them; readings of the layers behind it need the chance.
    """

    rows: Full
    shape: tuple[int, ...]
    features: float = math.inf
    directions: float = math.inf
    stationary: bool = False
    chance: float = 1.0

    @staticmethod
    def of_inputs(inputs: Inputs) -> Grid:
        """x^0 with every pair of (sample, position) of its own."""
        shape = position_shape_of(inputs)
        if inputs.batch * inputs.positions > _LARGEST:
            raise out_of_domain(
                "batch",
                f"{inputs.batch:g} samples of {inputs.positions} positions",
                f"at most {_LARGEST} altogether where positions are not alike",
                "take fewer samples or pool the images: every pair has its own covariance",
            )
        if isinstance(inputs, DataInputs | CovarianceInputs | ImageInputs):
            rows = Full(inputs.second_moment, inputs.gap, inputs.feature_mean)
            channels = inputs.channels if isinstance(inputs, ImageInputs) else math.inf
            alike = isinstance(inputs, CovarianceInputs) and is_stationary(
                rows.second_moment, rows.gap, rows.mean, shape
            )
            return Grid(rows, shape, channels, stationary=alike)
        samples, places = int(inputs.batch), math.prod(shape)
        beside, cross = (0.0, inputs.gap)
        if isinstance(inputs, SpatialInputs):
            *_, far, mean_far = inputs.eigenvalues
            beside = inputs.position_gap
            # gap_x = gap_w + (mean_far - far)/S, without what the product of correlations would round.
            given = inputs.cross_gap
            cross = beside + (mean_far - far) / places if given is None else given
        own, other = np.eye(samples), np.eye(places)
        gap = np.kron(own, beside * (1.0 - other)) + np.kron(
            1.0 - own, inputs.gap * other + cross * (1.0 - other)
        )
        ones = np.ones(samples * places)
        rows = Full(inputs.second_moment * ones, gap, inputs.feature_mean * ones)
        return Grid(rows, shape, stationary=places > 1)

    @property
    def positions(self) -> int:
        """S: positions of a sample."""
        return math.prod(self.shape)

    @property
    def batch(self) -> int:
        """B: samples."""
        return self.rows.batch // self.positions

    @property
    def second_moment(self) -> FloatArray:
        """q of every row, in units of 4**exponent."""
        return self.rows.second_moment

    @property
    def gap(self) -> FloatArray:
        """1 - correlation of every pair of rows."""
        return self.rows.gap

    @property
    def mean(self) -> FloatArray:
        """m of every row, in units of 2**exponent."""
        return self.rows.mean

    @property
    def exponent(self) -> int:
        """Of the units."""
        return self.rows.exponent

    @property
    def second_moment_error(self) -> float:
        """Accumulated relative error of q."""
        return self.rows.second_moment_error

    @property
    def gap_error(self) -> float:
        """Accumulated relative error of the gaps."""
        return self.rows.gap_error

    def covariance(self) -> FloatArray:
        """Matrix over (sample, position), in units of 4**exponent."""
        return self.rows.covariance()

    def block(self) -> Block:
        """The rows, and how many of them are positions of one sample."""
        torus = self.shape if self.stationary else None
        return self.rows.block()._replace(positions=self.positions, torus=torus)

    def linear(self, weight_variance: float, *, centered: bool) -> Grid:
        """sigma_w^2 K, or sigma_w^2 (K - m m')."""
        rows = self.rows
        if centered and rows.mean.any():
            rows = centered_rows(rows, constant=self._constant)
        return replace(self, rows=rows.linear(weight_variance, centered=False))

    def convolved(self, weights: Weights, *, kernel: int, padding: str, stride: int) -> Grid:
        """sigma_w^2 A[K], or sigma_w^2 (A[K] - (A m)(A m)'): rows centered over (channel, offset).

        A normalized row of n = k^d features entries, less one if centered, is uniform on a sphere of
        that many dimensions: its variance is sigma_w^2/(n - 1) if centered, not sigma_w^2/n.
        """
        table = windows(self.shape, kernel=kernel, padding=padding, stride=stride)
        sides = tuple(-(-side // stride) for side in self.shape)
        alike = self.stationary and padding == "circular" and self._divides(stride)
        # All offsets see the same lags where shifts change nothing.
        seen = table[:1] if alike else table
        still = stride == 1 and len(seen) == 1
        moved = self if still else self._averaged(seen, sides, stationary=alike)
        variance, directions = weights.weight_variance, math.inf
        if weights.normalized and self.features < math.inf:
            entries = self.features * len(table)
            directions = entries - weights.centered
            variance *= entries / directions
        moved = moved.linear(variance, centered=weights.centered)
        return replace(moved, features=math.inf, directions=directions)

    @property
    def mean_factor(self) -> float:
        """E over a direction of |u| sqrt(n), relative to a Gaussian's: sqrt(n)/E[chi_n] (1 for inf)."""
        n = self.directions
        if n == math.inf:
            return 1.0
        return math.sqrt(n / 2.0) * math.exp(math.lgamma(n / 2.0) - math.lgamma((n + 1.0) / 2.0))

    def flattened(self) -> Grid:
        """Positions as features: covariances averaged over positions."""
        every = np.arange(self.positions)[:, None]
        flat = self._averaged(every[:1] if self.stationary else every, (1,))
        return replace(flat, features=self.features * self.positions)

    def average_pooled(self, size: int | None) -> Grid:
        """P K P'; over all positions for None."""
        rows = self.rows
        matrix = pooling(self.shape, size)
        q, gap, mean, rounding = pooled(
            rows.second_moment, rows.gap, rows.mean, matrix, batch=self.batch
        )
        sides = (1,) if size is None else tuple(side // size for side in self.shape)
        moved = replace(
            rows, second_moment=q, gap=gap, mean=mean, gap_error=rows.gap_error + rounding
        )
        alike = self.stationary and math.prod(sides) > 1 and size is not None
        alike = alike and self._divides(size or 1)
        return Grid(moved, sides, self.features, stationary=alike, chance=self.chance)

    def _divides(self, step: int) -> bool:
        return all(side % step == 0 for side in self.shape)

    def _averaged(
        self, table: NDArray[np.int64], sides: tuple[int, ...], *, stationary: bool = False
    ) -> Grid:
        rows = self.rows
        q, gap, mean, rounding = averaged(
            rows.second_moment, rows.gap, rows.mean, table, batch=self.batch
        )
        rows = replace(
            rows, second_moment=q, gap=gap, mean=mean, gap_error=rows.gap_error + rounding
        )
        alike = stationary and math.prod(sides) > 1
        return Grid(rows, sides, self.features, stationary=alike, chance=self.chance)

    def _constant(self, still: NDArray[np.bool_]) -> None:
        """Raise if a sample has nothing left after centering."""
        gone = np.flatnonzero(still.reshape(self.batch, -1).all(axis=1))
        if gone.size:
            raise HypothesisError(
                f"sample {gone[0]} has the same value in every feature, so nothing is left once the "
                "weights' rows are centered; drop it, or use inputs with feature variance"
            )

    def convolved_back(
        self, gradient: FloatArray, *, kernel: int, padding: str, stride: int
    ) -> Any:
        """Adjoint of A, from the outputs to this state's positions."""
        if self.stationary and padding == "circular" and stride == 1:
            return self.without_shifts(gradient)
        table = windows(self.shape, kernel=kernel, padding=padding, stride=stride)
        return scattered(gradient, table, batch=self.batch, positions=self.positions)

    def without_shifts(self, gradient: FloatArray) -> FloatArray:
        """The average over shifts, whose trace all layers before keep, if these rows are stationary."""
        if not self.stationary:
            return gradient
        return spread(shift_average(gradient, self.shape), self.shape)

    @property
    def dark(self) -> NDArray[np.bool_]:
        """Rows that only see zeros: exactly 0, or of vanishing size (``theory.dark_windows``)."""
        return np.asarray(self.second_moment <= _DARK * self.brightest)

    @property
    def brightest(self) -> FloatArray:
        """The largest q of the sample of every row."""
        q = self.second_moment.reshape(-1, self.positions)
        return np.repeat(q.max(axis=1), self.positions)

    def flattened_back(self, gradient: FloatArray) -> FloatArray:
        """Adjoint of the average over positions."""
        table = np.arange(self.positions)[:, None]
        return scattered(gradient, table, batch=self.batch, positions=self.positions)

    def average_pooled_back(self, gradient: FloatArray, size: int | None) -> FloatArray:
        """P' Pi P."""
        return pooled_back(gradient, pooling(self.shape, size), batch=self.batch)

    def rebuilt(self, moments: Moments, *, exponent: int, local_error: float) -> Grid:
        """Same rows, new moments; behind a nonlinearity channels are as many as one likes."""
        q_error, gap_error = moments.error
        # Distances are known to the squared rounding of the sqrt(q), gaps are averaged over pairs.
        typical = float(moments.gap.mean())
        q, gap, mean = moments.second_moment, moments.gap, moments.mean
        if self.stationary:
            # What sampling has made of equal positions becomes equal again.
            q, mean = (
                np.repeat(np.reshape(value, (-1, self.positions)).mean(axis=1), self.positions)
                for value in (q, np.broadcast_to(mean, q.shape))
            )
            gap = self.without_shifts(gap)
        rows = Full(
            q,
            gap,
            mean,
            exponent,
            q_error,
            self.gap_error + gap_error + (DISTANCE_FLOOR / typical if typical > 0.0 else 0.0),
            local_error,
        )
        return Grid(rows, self.shape, stationary=self.stationary, chance=self.chance)

    def unscaled(self) -> Grid:
        """Fold 4**exponent into q and m."""
        return replace(self, rows=self.rows.unscaled())

    def position_similarity(self) -> float:
        """Mean cosine of two positions of one sample; NaN if there is one position."""
        s, b = self.positions, self.batch
        # Zeros have no cosine: 0 by convention, and for rows of vanishing size alike.
        own = self.gap.reshape(b, s, b, s)[np.arange(b), :, np.arange(b)].copy()
        dark = self.dark.reshape(b, s)
        own[dark[:, :, None] | dark[:, None, :]] = 1.0
        own[:, np.arange(s), np.arange(s)] = 0.0
        return 1.0 - float(own.sum()) / (b * s * (s - 1)) if s > 1 else math.nan

    @staticmethod
    def observe(states: Sequence[Grid]) -> Observables:
        """Of flattened samples; the variance is over samples and positions."""
        flat = Full.observe([state.flattened().rows for state in states])
        # Full's variance over its rows, state by state because the number of positions changes.
        variance = [Full.observe([state.rows]).log_variance[0] for state in states]
        return flat._replace(log_variance=np.array(variance))

    @staticmethod
    def stable_rank(states: Sequence[Grid]) -> FloatArray:
        """B / largest eigenvalue of the cosine matrix of flattened samples."""
        return Full.stable_rank([state.flattened().rows for state in states])

    @staticmethod
    def log_squared_norm(gradients: Sequence[Gradient]) -> FloatArray:
        """log tr (n Pi): of all channels and positions, whose numbers may change."""
        trace = np.array([np.trace(g.value) * (1.0 - g.absent) for g in gradients])
        exponent = np.array([g.exponent for g in gradients])
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(trace) + exponent * math.log(4.0))

    def cotangent(self) -> Gradient:
        """Pi = I."""
        return self.rows.cotangent()
