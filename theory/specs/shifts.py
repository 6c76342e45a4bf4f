r"""Covariances that shifts of a ring or torus leave alone: a block per lag instead of one per pair.

    K_(a,p)(b,p') = k_ab(p' - p),      k_ab(l) = k_ba(-l),

so a matrix over (sample, position), samples outermost, is known by its rows at position 0.  A circular
convolution looks at both positions with the same offset, so it averages K over shifts: nothing changes.
Where the covariance of h is stationary, T(Pi) commutes with shifts, and its trace is that of the
shift-average of Pi.  Source: theory notes, section 1.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["is_stationary", "origins", "shift_average", "spread"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def origins(batch: int, shape: tuple[int, ...]) -> IntArray:
    """Rows of position 0, (B,)."""
    return math.prod(shape) * np.arange(batch)


def spread(rows: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """The matrix (B S, B S) whose rows at position 0 are these, (B, B S)."""
    batch, size = len(rows), math.prod(shape)
    blocks = rows.reshape(batch, batch, size)[:, :, _lags(shape)]
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3)).reshape(batch * size, batch * size)


def shift_average(matrix: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """Mean over all shifts of both positions, as the rows at position 0, (B, B S)."""
    size = math.prod(shape)
    batch = len(matrix) // size
    blocks = matrix.reshape(batch, size, batch, size)
    # (position, lag, sample, sample)
    moved = blocks[:, np.arange(size)[:, None], :, np.argsort(_lags(shape), axis=1)]
    return np.ascontiguousarray(moved.mean(axis=0).transpose(1, 2, 0)).reshape(batch, batch * size)


def is_stationary(
    second_moment: FloatArray, gap: FloatArray, mean: FloatArray, shape: tuple[int, ...]
) -> bool:
    """Whether all positions of a sample are alike and every pair depends on its lag, to the last bit."""
    size = math.prod(shape)
    if size == 1:
        return False
    for value in (second_moment, mean):
        if (value[::size] != value.reshape(-1, size).T).any():
            return False
    return np.array_equal(gap, spread(gap[::size], shape))


@lru_cache(maxsize=64)
def _lags(shape: tuple[int, ...]) -> IntArray:
    """Index of the lag p' - p, (S, S)."""
    places = np.stack(np.unravel_index(np.arange(math.prod(shape)), shape))
    sides = np.array(shape)[:, None, None]
    lag = (places[:, None, :] - places[:, :, None]) % sides
    table = np.ravel_multi_index(tuple(lag), shape)
    table.flags.writeable = False
    return table
