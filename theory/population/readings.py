"""States, and gradients relative to the last stream as logarithms of norms with errors, for predictions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from theory.population.known import Known
from theory.population.result import PopulationResult
from theory.regimes import Regime
from theory.states.base import Observables
from theory.states.exchangeable import Exchangeable

__all__ = ["endless_norms", "exchangeable_states", "gradient_norms", "heavy_tailed"]


def gradient_norms(found: PopulationResult | None, exact: Known, *, depth: int) -> Any:
    """(log norm, error) at the stream and at h^l, relative to the last stream."""
    if exact.log_gradient is not None:
        assert exact.log_branch_gradient is not None
        error = np.full(depth, 0.5 * exact.error)
        return 0.5 * exact.log_gradient, error, 0.5 * exact.log_branch_gradient, error
    if found is None or found.gradient is None:
        endless = np.full(depth, math.inf)
        endless[-1] = 0.0
        return endless, np.zeros(depth), np.full(depth, math.inf), np.zeros(depth)
    branch = found.branch_gradient
    assert branch is not None
    reference = found.gradient.log_second_moment[-1]
    return (
        0.5 * (found.gradient.log_second_moment - reference),
        0.5 * found.gradient.second_moment_error,
        0.5 * (branch.log_second_moment - reference),
        0.5 * branch.second_moment_error,
    )


def endless_norms(kind: Regime, *, depth: int) -> Any:
    """What ``gradient_norms`` says where squares are infinite, or zero: None where they are neither."""
    if kind.status not in ("infinite", "degenerate"):
        return None
    ends = np.full(depth, math.inf if kind.status == "infinite" else -math.inf)
    return np.append(ends[1:], 0.0), np.zeros(depth), ends, np.zeros(depth)


def heavy_tailed(signal: Any) -> Any:
    """The norms with infinite errors: drawn squares without a variance have no standard error.

    Paths of pairs do not draw them: what has a heavy tail, 1/R^2, is integrated there.
    """
    gradient, _, branch, _ = signal
    error = np.full(len(gradient), math.inf)
    # The last stream is the reference.
    return gradient, np.append(error[1:], 0.0), branch, error


def exchangeable_states(stream: Observables, mean: Any, batch: float) -> list[Exchangeable]:
    """What the observables say, as states: covariance and stable rank are read off them."""
    exponents = np.floor(stream.log_second_moment / math.log(4.0))
    second = np.exp(stream.log_second_moment - exponents * math.log(4.0))
    columns = (
        second,
        stream.gap,
        mean * np.sqrt(second),
        exponents.astype(int),
        stream.second_moment_error,
        stream.gap_error,
    )
    return [Exchangeable(batch, *row) for row in zip(*(c.tolist() for c in columns), strict=True)]
