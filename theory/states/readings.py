"""Readings that states whose samples are alike share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from theory.states.base import Gradient

__all__ = ["log_own_variance", "stable_rank_of_equals"]

FloatArray = NDArray[np.float64]


def stable_rank_of_equals(batch: float, gap: FloatArray) -> FloatArray:
    """B / max(1 + (B-1)s, 1 - s), s = 1 - gap (theory notes, section 1); 1/s as B -> inf."""
    if batch == math.inf:
        # s <= 0 leaves every direction alive.
        return np.where(gap < 1.0, 1.0 / np.where(gap < 1.0, 1.0 - gap, 1.0), math.inf)
    return np.asarray(batch / np.maximum(batch - (batch - 1.0) * gap, gap))


def log_own_variance(gradients: Sequence[Gradient]) -> FloatArray:
    """log of Pi at the same sample (and position), the first number of each gradient."""
    same = np.array([g.value[0] for g in gradients])
    exponent = np.array([g.exponent for g in gradients])
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(same) + exponent * math.log(4.0))
