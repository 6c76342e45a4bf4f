"""Predictions on the scales on which ``verify`` compares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from theory.recursion import predict
from theory.results import Prediction
from theory.specs.inputs import Inputs
from theory.specs.networks import Network

__all__ = ["Theory", "theory_of"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Theory:
    """A prediction on the scales of ``margins.QUANTITIES``: arrays over depth, absolute errors, routes."""

    value: Mapping[str, FloatArray]
    error: Mapping[str, FloatArray]
    route: Mapping[str, str]
    status: str


def theory_of(network: Network, inputs: Inputs) -> Theory:
    """``predict`` on the scales of the comparison; logarithms of everything but the similarity."""
    prediction: Prediction = predict(network, inputs)
    error = prediction.error
    assert prediction.log_gradient_norm is not None
    rank, gap = prediction.stable_rank, prediction.gap
    moment, moment_error = prediction.log_second_moment, error["log_second_moment"]
    gradient = 2.0 * prediction.log_gradient_norm
    gradient_error = 2.0 * np.abs(error["log_gradient_norm"])
    forward = {name: prediction.route[name][-1] for name in ("second_moment", "similarity")}
    backward = prediction.route["log_gradient_norm"][0]
    # At h^l of residual networks; elsewhere nothing asks for it.
    branch, branch_error = gradient, gradient_error
    if prediction.log_branch_gradient_norm is not None:
        branch = 2.0 * prediction.log_branch_gradient_norm
        branch_error = 2.0 * np.abs(error["log_branch_gradient_norm"])
    with np.errstate(divide="ignore", invalid="ignore"):
        log_gap, gap_error = np.log(gap), error["gap"] / gap
    return Theory(
        value={
            "second_moment": moment,
            "growth": moment,
            "similarity": prediction.similarity,
            "gap": log_gap,
            "stable_rank": np.log(rank),
            "gradient": gradient,
            "gradient_total": gradient,
            "branch_gradient": branch,
        },
        error={
            "second_moment": moment_error,
            "growth": moment_error,
            "similarity": error["similarity"],
            "gap": gap_error,
            "stable_rank": error["stable_rank"] / rank,
            "gradient": gradient_error,
            "gradient_total": gradient_error,
            "branch_gradient": branch_error,
        },
        route={
            "second_moment": forward["second_moment"],
            "growth": forward["second_moment"],
            "similarity": forward["similarity"],
            "gap": forward["similarity"],
            "stable_rank": prediction.route["stable_rank"][-1],
            "gradient": backward,
            "gradient_total": backward,
            "branch_gradient": backward,
        },
        status=prediction.regime.status if math.isfinite(prediction.regime.rank) else "regular",
    )
