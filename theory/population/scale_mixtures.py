r"""Weights on a logarithmic grid of variances: Gaussians of random variance, and sums of exp(-rho^2/(2 tau)).

Means over Gaussians, and Gaussians themselves, are smooth in the logarithm of their variance, so that a
weight between two points of the grid is as good as weights on the points around it, by Lagrange's
interpolation of the functions that it will meet; weights may be negative.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["SPACING", "Weights", "spread"]

FloatArray = NDArray[np.float64]

SPACING = 0.15
_ORDER = 8
# prod_{j != i} (i - j) of the points around.
_OFFSETS = np.arange(_ORDER) - (_ORDER // 2 - 1)
_SCALES = np.array(
    [math.prod(int(i - j) for j in _OFFSETS if j != i) for i in _OFFSETS], dtype=float
)


class Weights(NamedTuple):
    """Weights at variances exp(SPACING (first + 0, 1, ...)), one row for each kind."""

    first: int
    rows: FloatArray

    @property
    def variances(self) -> FloatArray:
        """Of the columns."""
        return np.asarray(np.exp(SPACING * (self.first + np.arange(float(self.rows.shape[1])))))

    def trimmed(self, size: FloatArray, *, least: float) -> Weights:
        """Without ends where ``size``, per column, is below ``least`` times its sum."""
        kept = np.flatnonzero(size > least * size.sum())
        if not kept.size:
            return self
        low, high = int(kept[0]), int(kept[-1]) + 1
        return Weights(self.first + low, self.rows[:, low:high])


def spread(variances: FloatArray, rows: FloatArray) -> Weights:
    """Weights ``rows``, shape (kinds, N), at any N ``variances``, on the grid."""
    place = np.log(variances) / SPACING
    base = np.floor(place)
    part = place - base
    columns = base.astype(np.intp)
    first = int(columns.min()) + int(_OFFSETS[0])
    columns -= int(columns.min())
    count = int(columns.max()) + _ORDER
    found = np.zeros((len(rows), count))
    gaps = part - _OFFSETS[:, None]
    for k in range(_ORDER):
        factor = np.prod(np.delete(gaps, k, axis=0), axis=0) / _SCALES[k]
        for row, target in zip(rows, found, strict=True):
            target += np.bincount(columns + k, weights=factor * row, minlength=count)
    return Weights(first, found)
