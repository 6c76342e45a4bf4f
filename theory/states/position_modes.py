r"""Second moments of channels over samples and positions that are alike, and Gaussian fields with them.

With q = E[x^2], w (same sample, other position), b (other sample, same position) and x (both other)
the covariance has four eigenvalues, by contrasts of samples, of positions, of both and of neither:

    common  q + (S-1) w + (B-1)(b + (S-1) x),      places  q - w + (B-1)(b - x),
    rows    q - b + (S-1)(w - x),                  both    q - w - b + x.

Source: theory notes, sections 1 and 3; ``routes.positions_spectrum`` has the same numbers for two samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.routes.positions_spectrum import PositionSpectrum

__all__ = ["PositionModes", "position_field", "position_modes"]

FloatArray = NDArray[np.float64]


class PositionModes(NamedTuple):
    """The eigenvalues, one of each per population; those of contrasts that do not exist are 0."""

    common: FloatArray
    places: FloatArray
    rows: FloatArray
    both: FloatArray
    batch: int
    positions: int

    @classmethod
    def of_spectrum(
        cls, spectrum: PositionSpectrum, ones: FloatArray, *, batch: int, mean: float
    ) -> PositionModes:
        """The spectrum's second moments, less what ``mean`` has of them, times ``ones``."""
        s, contrast, level, far, level_far = spectrum
        common = level + (batch - 1) * (level - level_far) - batch * s * mean * mean
        values = common, contrast + (batch - 1) * (contrast - far), level_far, far
        alive = _freedoms(batch, s)
        # Differences of eigenvalues round.
        kept = [max(v, 0.0) * (n > 0) * ones for v, n in zip(values, alive, strict=True)]
        return cls(kept[0], kept[1], kept[2], kept[3], batch, s)

    @property
    def second_moment(self) -> FloatArray:
        """q, the trace by B S."""
        b, s = self.batch, self.positions
        total = sum(n * v for n, v in zip(_freedoms(b, s), self[:4], strict=True))
        return np.asarray(total / (b * s))

    @property
    def contrast(self) -> FloatArray:
        """q - b."""
        return (self.rows + (self.positions - 1) * self.both) / self.positions

    @property
    def gap(self) -> FloatArray:
        """1 - b/q: other sample, same position."""
        q = self.second_moment
        return np.divide(self.contrast, q, out=np.zeros_like(q), where=q > 0.0)

    @property
    def spectrum(self) -> FloatArray:
        """The numbers of ``PositionSpectrum``, of shape (4, P)."""
        b = self.batch
        own = [
            (v + (b - 1) * d) / b for v, d in ((self.places, self.both), (self.common, self.rows))
        ]
        return np.array([*own, self.both, self.rows])

    @property
    def distances(self) -> FloatArray:
        """(q - w, q - b, q - x), of shape (3, P)."""
        b, s = self.batch, self.positions
        beside, same = (self.places + (b - 1) * self.both) / b, self.contrast
        return np.array([beside, same, (beside - self.both / s) + self.rows / s])

    def scaled(self, factor: float) -> PositionModes:
        """The same of a covariance times ``factor``."""
        common, places, rows, both = (factor * v for v in self[:4])
        return PositionModes(common, places, rows, both, self.batch, self.positions)


def position_modes(values: FloatArray) -> PositionModes:
    """Eigenvalues of the second moments of ``values``, (P, B, S, M)."""
    _, batch, positions, channels = values.shape
    common, places, rows, both = (
        _squares(part, values.shape) / (channels * freedom) if freedom else np.zeros(len(values))
        for part, freedom in zip(_parts(values), _freedoms(batch, positions), strict=True)
    )
    return PositionModes(common, places, rows, both, batch, positions)


def position_field(
    covariance: PositionModes,
    *,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    beside: FloatArray | None = None,
) -> FloatArray:
    """``gaussian_field`` over positions: four modes brought to ``covariance`` instead of two.

    Parameters
    ----------
    covariance
        Eigenvalues per population.
    shape
        (P, B, S, M), M even.
    beside
        Array of that shape, or None: every mode is uncorrelated with its own.
    """
    channels = shape[3]
    half = rng.standard_normal((*shape[:3], channels // 2))
    parts = _parts(np.concatenate((half, -half), axis=3))
    streams: tuple[FloatArray | None, ...] = (None,) * 4
    if beside is not None:
        streams = _parts(beside - beside.mean(axis=3, keepdims=True))
    field = np.zeros(shape)
    for part, stream, wanted, freedom in zip(
        parts, streams, covariance[:4], _freedoms(*shape[1:3]), strict=True
    ):
        if not freedom:
            continue
        if stream is not None:
            overlap, size = _sum(stream, part), _sum(stream, stream)
            share = np.divide(overlap, size, out=np.zeros_like(size), where=size > 0.0)
            part -= share[:, None, None, None] * stream
        factor = np.sqrt(wanted * (channels * freedom) / _squares(part, shape))
        part *= factor[:, None, None, None]
        field += part
    return field


def _freedoms(batch: int, positions: int) -> tuple[int, int, int, int]:
    """Directions of each mode."""
    return 1, positions - 1, batch - 1, (batch - 1) * (positions - 1)


def _parts(values: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Mean over all, and what positions, samples and both add to it: they sum to ``values``."""
    common = values.mean(axis=(1, 2), keepdims=True)
    places = values.mean(axis=1, keepdims=True)
    rows = values.mean(axis=2, keepdims=True)
    # Nearly equal samples: contrasts of samples first, which loses nothing.
    both = values - places
    rows -= common
    both -= rows
    return common, places - common, rows, both


def _squares(part: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """Sum of squares of a part, counted at every sample and position."""
    repeated = (shape[1] * shape[2]) // (part.shape[1] * part.shape[2])
    return repeated * _sum(part, part)


def _sum(one: FloatArray, other: FloatArray) -> FloatArray:
    return np.asarray(np.einsum("pbsm,pbsm->p", one, other))
