"""What a fixed point is reported with."""

from __future__ import annotations

import math
from dataclasses import dataclass

from theory.regimes import Regime
from theory.specs.normalizers import Normalizer

__all__ = ["MARGINAL", "FixedPoint", "assumed_batch", "batch_without_inputs", "stability"]

# Slopes this near 1 are 1: the maps are known to a few roundings.
MARGINAL = 1e-9


def assumed_batch(norm: Normalizer | None) -> float:
    """Return the batch where none is given: inf if samples share statistics, else 2, a pair."""
    return math.inf if norm is not None and norm.couples_samples else 2


def batch_without_inputs(network: object, batch: float | None) -> tuple[float, str]:
    """Return the batch and a note; ``network`` may not have been checked yet."""
    if batch is not None:
        return batch, ""
    assumed = assumed_batch(getattr(getattr(network, "layer", None), "norm", None))
    return assumed, "taken at batch = infinity" if assumed == math.inf else ""


@dataclass(frozen=True, kw_only=True)
class FixedPoint:
    """Where a deep network settles, with evidence.

    correlation, gap
        c* of pre-activations and 1 - c* in full relative precision.
    similarity
        s* of post-activations.
    second_moment
        q* of pre-activations; 0 or ``math.inf`` when it runs away (homogeneous networks only, whose
        correlation map does not depend on q).
    slope
        dc'/dc at c*; with positions, the spectral radius of the derivative of the map of (b, x).
    depth_scale
        1/|log|slope||: layers per factor e, towards c* or away from it; ``math.inf`` at slope 1, 0 at
        slope 0.
    gradient_growth
        lambda, factor per layer on the squared gradient norm, backwards.
    bound
        Bound on the numerical error of ``correlation``.
    status
        ``"attracting"`` (|slope| < 1), ``"marginal"`` (slope 1) or ``"repelling"``.
    regime
        Which moments of the squared gradient exist.
    note
        What the reader should know: the batch that was assumed, what runs away.
    position_correlation
        w*/q*, of two positions of one sample; NaN without positions.
    """

    correlation: float
    gap: float
    similarity: float
    second_moment: float
    slope: float
    depth_scale: float
    gradient_growth: float
    bound: float
    status: str
    regime: Regime
    note: str
    position_correlation: float = math.nan


def stability(slope: float, tolerance: float) -> tuple[float, str, float]:
    """(slope, status, depth scale); slopes within ``tolerance`` of 1 are 1."""
    if abs(slope - 1.0) <= tolerance:
        return 1.0, "marginal", math.inf
    status = "attracting" if abs(slope) < 1.0 else "repelling"
    return slope, status, 0.0 if slope == 0.0 else 1.0 / abs(math.log(abs(slope)))
