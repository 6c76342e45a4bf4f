"""Predictions for streams that are not Gaussian: which route gives which number.

Everything has a route through populations of channels.  What one channel alone decides (moments and
gradients of a reflected walk) is taken from its law instead, where ``walks`` does not refuse.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from theory.errors import HypothesisError, SpecificationError
from theory.population.result import Averages, PopulationResult, population
from theory.population.walks import walk, walk_refusal
from theory.regimes import Regime
from theory.results import Prediction
from theory.routes.walk_density import WalkLaw
from theory.specs.inputs import ExchangeableInputs, Inputs
from theory.specs.networks import Network
from theory.specs.residual import Residual
from theory.states.base import Observables
from theory.states.exchangeable import Exchangeable

__all__ = ["SEED", "predict_population"]

SEED = 0
POPULATIONS = 8

# Laws on a grid: 1e-12 against Spitzer's moments, and the sums of a few hundred nodes.
_GRID_ERROR = 1e-11


def predict_population(
    network: Network, inputs: Inputs, kind: Regime, *, departure: str, backward: bool
) -> Prediction:
    """Predict a network whose stream is not Gaussian, with a standard error over populations.

    Parameters
    ----------
    network, inputs, backward
        As for ``predict``.
    kind
        The regime.
    departure
        Why the stream is not Gaussian; it opens the message of a refusal.

    Raises
    ------
    HypothesisError
        Data, covariances, positions, an infinite batch that a normalizer couples, gates.
    """
    if not isinstance(inputs, ExchangeableInputs) or network.layer.kernel != 1:
        raise HypothesisError(
            f"{departure}: its law takes a population of channels, which carries exchangeable samples "
            "without positions; use exchangeable(...) and kernel=1, an order whose stream is Gaussian "
            '(order="pre_activation"; with data also a stem), or simulate it'
        )
    moments = kind.status not in ("infinite", "degenerate") or _over_skips(network, kind)
    try:
        found = population(
            network, inputs, populations=POPULATIONS, seed=SEED, backward=backward and moments
        )
    except HypothesisError as error:
        raise HypothesisError(f"{departure}: {error}") from error
    pre = _required(found.preactivation)
    stream, routes = found.stream.observables(inputs.batch), {}
    law, route = _walk(network, inputs, backward=backward)
    if law is not None:
        routes["second_moment"] = route
        stream = _with_second_moment(stream, law.second_moment, inputs.batch)
    signal = _gradients(found, kind, depth=len(stream.gap), backward=backward)
    if law is not None and law.gradient is not None and law.shared is not None:
        assert isinstance(network, Residual)
        routes["gradient_norm"] = routes["branch_gradient_norm"] = route
        at_map = law.shared / network.weights.weight_variance
        signal = (*_exact(law.gradient), *_exact(at_map))
    log_gradient, gradient_error, log_branch, branch_error = signal
    for values in (*stream, *pre.observables(inputs.batch)):
        values.flags.writeable = False
    return Prediction(
        network=network,
        inputs=inputs,
        regime=kind,
        activation=stream,
        preactivation=pre.observables(inputs.batch),
        log_gradient_norm=log_gradient,
        gradient_error=gradient_error,
        log_branch_gradient_norm=log_branch,
        branch_gradient_error=branch_error,
        forward_route="population",
        backward_route="population" if backward else None,
        states=_states(stream, found.stream.mean, inputs.batch),
        routes=routes,
        settings={
            "seed": str(SEED),
            "populations": str(POPULATIONS),
            "channels": str(found.channels),
        },
    )


def _walk(
    network: Network, inputs: ExchangeableInputs, *, backward: bool
) -> tuple[WalkLaw | None, str]:
    """Law of one channel and its route; None where the channel is no walk or leaves the grid."""
    if walk_refusal(network, inputs) is not None:
        return None, ""
    assert isinstance(network, Residual)
    try:
        return walk(network, inputs, backward=backward)
    except SpecificationError:
        return None, ""


def _with_second_moment(stream: Observables, second: Any, batch: float) -> Observables:
    """The same gaps with E[x^2] from the law of a channel."""
    error = np.full(len(second), _GRID_ERROR)
    log_q = np.log(second)
    log_variance = stream.log_variance - stream.log_second_moment + log_q
    return stream._replace(
        log_second_moment=log_q, log_variance=log_variance, second_moment_error=error
    )


def _gradients(found: PopulationResult, kind: Regime, *, depth: int, backward: bool) -> Any:
    """(log norm, error) at the stream and at h^l, relative to the last stream."""
    if not backward:
        return None, None, None, None
    if found.gradient is None:
        endless = np.full(depth, math.inf)
        endless[-1] = 0.0
        return endless, np.zeros(depth), np.full(depth, math.inf), np.zeros(depth)
    branch = _required(found.branch_gradient)
    reference = found.gradient.log_second_moment[-1]
    return (
        0.5 * (found.gradient.log_second_moment - reference),
        0.5 * found.gradient.second_moment_error,
        0.5 * (branch.log_second_moment - reference),
        0.5 * branch.second_moment_error,
    )


def _exact(square: Any) -> tuple[Any, Any]:
    with np.errstate(divide="ignore"):
        return 0.5 * np.log(square), np.full(len(square), 0.5 * _GRID_ERROR)


def _over_skips(network: Network, kind: Regime) -> bool:
    """Whether gradients exist although N passes none: BN over two samples, beside a skip."""
    return kind.status == "degenerate" and isinstance(network, Residual)


def _states(stream: Observables, mean: Any, batch: float) -> list[Exchangeable]:
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


def _required(averages: Averages | None) -> Averages:
    assert averages is not None
    return averages
