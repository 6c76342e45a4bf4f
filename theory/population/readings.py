"""What predictions read: observables with what is known, states, gradients as norms with errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.population.known import Known
from theory.population.result import PopulationResult
from theory.regimes import Regime
from theory.states.base import Observables
from theory.states.exchangeable import Exchangeable

__all__ = [
    "endless_norms",
    "exchangeable_states",
    "gradient_norms",
    "norms",
    "with_gaps",
    "with_maps",
    "with_moments",
]

FloatArray = NDArray[np.float64]


def norms(gradient: FloatArray, branch: FloatArray, error: FloatArray) -> Any:
    """(log norm, error) at the stream and at h^l, of log E[g^2] and its relative ``error``."""
    return 0.5 * gradient, 0.5 * error, 0.5 * branch, 0.5 * error


def gradient_norms(
    found: PopulationResult | None, exact: Known, kind: Regime, *, depth: int
) -> Any:
    """(log norm, error) at the stream and at h^l, relative to the last stream.

    Drawn squares without a variance have no standard error: theirs is infinite.  (Paths of pairs do not
    draw them: what has a heavy tail, 1/R^2, is integrated there.)
    """
    if exact.log_gradient is not None:
        assert exact.log_branch_gradient is not None
        return norms(exact.log_gradient, exact.log_branch_gradient, np.full(depth, exact.error))
    if found is None or found.gradient is None:
        endless = np.full(depth, math.inf)
        endless[-1] = 0.0
        return endless, np.zeros(depth), np.full(depth, math.inf), np.zeros(depth)
    branch = found.branch_gradient
    assert branch is not None
    reference = found.gradient.log_second_moment[-1]
    error, branch_error = found.gradient.second_moment_error, branch.second_moment_error
    if kind.status == "heavy_tail":
        branch_error = np.full(depth, math.inf)
        # The last stream is the reference.
        error = np.append(branch_error[1:], 0.0)
    return (
        0.5 * (found.gradient.log_second_moment - reference),
        0.5 * error,
        0.5 * (branch.log_second_moment - reference),
        0.5 * branch_error,
    )


def endless_norms(kind: Regime, *, depth: int) -> Any:
    """What ``gradient_norms`` says where squares are infinite, or zero: None where they are neither."""
    if kind.status not in ("infinite", "degenerate"):
        return None
    ends = np.full(depth, math.inf if kind.status == "infinite" else -math.inf)
    return np.append(ends[1:], 0.0), np.zeros(depth), ends, np.zeros(depth)


def with_moments(stream: Observables, exact: Known, batch: float) -> Observables:
    """The observables with what is known exactly in place of averages."""
    if exact.log_second_moment is not None:
        error = np.full(len(stream.gap), exact.error)
        stream = stream._replace(
            log_second_moment=exact.log_second_moment, second_moment_error=error
        )
    if exact.gap is not None:
        stream = stream._replace(gap=exact.gap, gap_error=np.full(len(stream.gap), exact.error))
    return with_gaps(stream, stream.gap, stream.gap_error, batch)


def with_maps(observed: Observables, exact: Known, batch: float) -> Observables:
    """The observables of h^l with what is known exactly in place of averages."""
    if exact.log_map_second_moment is None or exact.map_gap is None:
        return observed
    error = np.full(len(observed.gap), exact.error)
    observed = observed._replace(
        log_second_moment=exact.log_map_second_moment, second_moment_error=error
    )
    return with_gaps(observed, exact.map_gap, error, batch)


def with_gaps(
    found: Observables, gap: FloatArray, gap_error: FloatArray, batch: float
) -> Observables:
    """The observables with these gaps, and what follows from them."""
    with np.errstate(divide="ignore"):
        log_variance = found.log_second_moment + np.log(gap * (1.0 - 1.0 / batch))
    return found._replace(
        log_variance=log_variance, similarity=1.0 - gap, gap=gap, gap_error=gap_error
    )


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
