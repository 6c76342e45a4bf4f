"""RQMC over exchangeable positions: one field of representative samples, symmetric entries averaged.

Samples that are treated apart need two of them, pools over samples all B.  Whatever phi, gate or eps.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.program import NormAct
from theory.routes import rqmc_pool
from theory.routes.base import Want
from theory.routes.positions_spectrum import PositionSpectrum
from theory.routes.rqmc import Sampling
from theory.states.base import Block

__all__ = ["SpatialSobol"]

FloatArray = NDArray[np.float64]
Entries = tuple[float, float, float, float]

# Every entry is a mean over many that are equal by symmetry.
_SAMPLING = Sampling(log2_points=11, scrambles=8)
_LARGEST = 1024
_SOBOL_DIMENSIONS = 21201


class SpatialSobol:
    """Scrambled Sobol' points of a group of channels at every position of some samples."""

    name = "RQMC"

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        """None if this route applies, else the reason why not."""
        norm = op.norm
        spectrum = block.spectrum
        assert spectrum is not None
        samples = _samples(op, block.batch)
        rows = samples * spectrum.positions
        if rows > _LARGEST:
            return f"RQMC takes up to {_LARGEST} samples times positions, these are {rows:g}"
        if norm is None:
            return None
        if norm.pool.samples and (norm.pool.channels != 1 or not norm.pool.positions):
            return f"{norm.name} pools samples of several channels, or at one position"
        if norm.pool.channels == math.inf:
            return None
        if not norm.pool.positions:
            return f"{norm.name} treats positions apart"
        if norm.pool.channels * (rows + 1) > _SOBOL_DIMENSIONS:
            return f"more than the {_SOBOL_DIMENSIONS} dimensions of a Sobol' sequence"
        if norm.eps > 0.0 or norm.denominator == "none":
            return None
        rank = norm.rank(batch=block.batch, positions=spectrum.positions)
        return rqmc_pool.infinite_mean(norm, op.activation, rank=rank, want=want)

    def push(self, op: NormAct, spectrum: PositionSpectrum, batch: float) -> Any:
        """Four moments of the *base* activation, and its mean."""
        from theory.routes.fields import field_forward
        from theory.routes.spatial import from_gaps

        samples = int(_samples(op, batch))
        q, gap = _rows(spectrum, samples)
        new_q, new_gap, mean, error = field_forward(q, gap, _field(op, samples), sampling=_SAMPLING)
        # Equal rows in law: second moments averaged first, then distances in units of the average.
        size = float(new_q.mean())
        root = np.sqrt(new_q)
        excess = np.subtract.outer(root, root) ** 2 + 2.0 * np.outer(root, root) * new_gap
        _, beside, same, cross = _entries(excess / (2.0 * size), samples)
        if spectrum.contrast_distance == spectrum.mean_distance == 0.0:
            same, cross = 0.0, beside  # equal samples stay equal: what differs is rounding
        entries = (size, beside, same, cross)
        q_error, gap_error = error
        return from_gaps(
            entries, float(mean.mean()), spectrum.positions, q_error, gap_error, cross - beside
        )

    def pull(
        self, op: NormAct, spectrum: PositionSpectrum, batch: float, value: Entries
    ) -> tuple[Entries, float]:
        """E[J' Pi J], averaged over equal entries."""
        from theory.routes.fields import field_pullback

        samples = int(_samples(op, batch))
        q, gap = _rows(spectrum, samples)
        gradient = _matrix(value, samples, spectrum.positions)
        found, error = field_pullback(q, gap, gradient, _field(op, samples), sampling=_SAMPLING)
        return _entries(found, samples), error


def _samples(op: NormAct, batch: float) -> float:
    """How many samples stand for all: pairs, unless a pool couples them."""
    coupled = op.norm is not None and op.norm.couples_samples
    return batch if coupled else min(batch, 2)


def _field(op: NormAct, samples: int) -> Any:
    from theory.routes.fields import Field

    return Field(norm=op.norm, activation=op.activation, batch=samples)


def _rows(spectrum: PositionSpectrum, samples: int) -> tuple[FloatArray, FloatArray]:
    """q and gaps of every (sample, position)."""
    beside, same, cross = spectrum.gaps()
    gap = _matrix((0.0, beside, same, cross), samples, spectrum.positions)
    return np.full(len(gap), spectrum.second_moment), gap


def _matrix(value: Entries, samples: int, positions: int) -> FloatArray:
    own, place = np.eye(samples), np.eye(positions)
    same, beside, other, cross = value
    block = same * place + beside * (1.0 - place)
    across = other * place + cross * (1.0 - place)
    return np.asarray(np.kron(own, block) + np.kron(1.0 - own, across))


def _entries(matrix: FloatArray, samples: int) -> Entries:
    """Means over the same or another sample and position; 0 where there is no other."""
    blocks = matrix.reshape(samples, len(matrix) // samples, samples, -1)
    positions = blocks.shape[1]
    traces, sums = np.einsum("asbs->ab", blocks), blocks.sum(axis=(1, 3))
    same, total = float(np.trace(traces)), float(np.trace(sums))
    other, cross = float(traces.sum()) - same, float(sums.sum()) - total
    pairs, rest = samples * (samples - 1), positions * (positions - 1)
    return (
        same / (samples * positions),
        (total - same) / (samples * rest) if rest else 0.0,
        other / (pairs * positions) if pairs else 0.0,
        (cross - other) / (pairs * rest) if pairs and rest else 0.0,
    )
