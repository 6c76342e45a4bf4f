"""Predictions for streams that are not Gaussian, with an error for every number: who gives which.

``spheres`` give post-norm streams of GN and BN, without a population; ``cylinders``, ``raised_flights`` and
their bent kin post-norm streams and sandwiches of VN; ``gated`` post-norm streams of EvoNorm-S0.  Else
populations of channels give everything, or chains of two samples (``pair_streams``), and what ``known`` says
of second moments, gaps and gradients takes the place of averages.
``over_positions`` does the same over positions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.errors import HypothesisError
from theory.population import readings
from theory.population.bent_cylinders import bent_cylinder_law, bent_cylinder_refusal
from theory.population.bent_flights import bent_flight_law, bent_flight_refusal
from theory.population.contrasts import controlled_gaps
from theory.population.cylinders import CYLINDER_WALK, cylinder_law, cylinder_refusal
from theory.population.gated import ERROR, gated_law, gated_refusal, gated_states
from theory.population.known import Known, known
from theory.population.over_positions import over_positions
from theory.population.pair_paths import pair_gradients, pairs_refusal
from theory.population.pair_streams import pair_population, pair_streams_refusal
from theory.population.raised_flights import (
    RAISED_FLIGHT,
    raised_flight_law,
    raised_flight_refusal,
)
from theory.population.result import PopulationResult, population
from theory.population.spheres import (
    SPHERE_WALK,
    initial,
    sphere_law,
    sphere_refusal,
    sphere_states,
)
from theory.population.walks import WALK_DENSITY
from theory.regimes import Regime
from theory.results import Prediction
from theory.specs.inputs import ExchangeableInputs, Inputs, SpatialInputs
from theory.specs.networks import Network
from theory.specs.residual import Residual
from theory.states.base import Observables
from theory.states.exchangeable import Exchangeable

__all__ = ["POPULATIONS", "SEED", "predict_population"]

FloatArray = NDArray[np.float64]

SEED = 0
SAMPLED = "sampled sphere walk"
PAIRS = "sampled pairs"
POPULATIONS = 16
_OF_PAIRS = (
    *("gap", "similarity", "stable_rank", "variance"),
    *("preactivation_gap", "preactivation_correlation"),
)
_RAISED = (
    (cylinder_refusal, cylinder_law, CYLINDER_WALK),
    (bent_cylinder_refusal, bent_cylinder_law, CYLINDER_WALK),
    (raised_flight_refusal, raised_flight_law, RAISED_FLIGHT),
    (bent_flight_refusal, bent_flight_law, RAISED_FLIGHT),
)


def predict_population(
    network: Network,
    inputs: Inputs,
    kind: Regime,
    *,
    departure: str,
    backward: bool,
    refine: int = 1,
) -> Prediction:
    """Predict a network whose stream is not Gaussian, with a standard error over populations.

    Parameters
    ----------
    network, inputs, backward, refine
        As for ``predict``.
    kind
        The regime.
    departure
        Why the stream is not Gaussian; it opens the message of a refusal.

    Raises
    ------
    HypothesisError
        Data, covariances, zero padding, an infinite batch that a normalizer couples, pools over samples
        and channels.
    """
    if isinstance(inputs, SpatialInputs) and not network.layer.moves_positions:
        return _over_positions(
            network, inputs, kind, departure=departure, backward=backward, refine=refine
        )
    if not isinstance(inputs, ExchangeableInputs) or network.layer.kernel != 1:
        raise HypothesisError(
            f"{departure}: its law takes a population of channels, which carries exchangeable samples, "
            "over positions where a kernel is circular; use exchangeable(..., positions=...) or "
            "kernel=1, an order whose stream is Gaussian "
            '(order="pre_activation"; with data also a stem), or simulate it'
        )
    walks = sphere_refusal(network, feature_mean=inputs.feature_mean) is None
    if isinstance(network, Residual) and walks:
        return _sphere(network, inputs, kind, backward=backward, refine=refine)
    if isinstance(network, Residual) and gated_refusal(network) is None:
        # Where steps are so small against the stream that no grid fits, populations answer.
        with contextlib.suppress(HypothesisError):
            return _gated(network, inputs, kind, backward=backward, refine=refine)
    endless = kind.status == "infinite"
    if isinstance(network, Residual):
        raised = _raised(network, inputs, kind, backward=backward)
        if raised is not None:
            return raised
    exact = known(network, inputs, backward=backward and not endless)
    sampled = backward and not endless and exact.log_gradient is None
    paired = sampled and pairs_refusal(network, inputs) is None
    if exact.gap is not None and exact.map_gap is not None and not sampled:
        # Every figure is known.
        return _settled(network, inputs, kind, exact, backward=backward)
    chains = pair_streams_refusal(network, inputs) is None
    route = PAIRS if chains else "population"
    try:
        if isinstance(network, Residual) and chains:
            found = pair_population(
                network,
                inputs,
                populations=POPULATIONS,
                seed=SEED,
                backward=sampled,
                refine=refine,
                log_second_moment=exact.log_second_moment,
            )
        else:
            found = population(
                _one_map(network) if paired else network,
                inputs,
                populations=POPULATIONS,
                seed=SEED,
                backward=sampled and not paired,
                refine=refine,
            )
    except HypothesisError as error:
        raise HypothesisError(f"{departure}: {error}") from error
    assert found.preactivation is not None
    stream = found.stream.observables(inputs.batch)
    observed = found.preactivation.observables(inputs.batch)
    gaps = controlled_gaps(network, inputs, exact, found)
    if gaps is not None:
        stream = readings.with_gaps(stream, gaps.stream, gaps.stream_error, inputs.batch)
        observed = readings.with_gaps(
            observed, gaps.preactivation, gaps.preactivation_error, inputs.batch
        )
    stream = readings.with_moments(stream, exact, inputs.batch)
    observed = readings.with_maps(observed, exact, inputs.batch)
    signal: Any = (None,) * 4
    if paired:
        signal = _paired(network, inputs, found)
    elif backward:
        signal = readings.gradient_norms(found, exact, kind, depth=len(stream.gap))
    return _assembled(
        network,
        inputs,
        kind,
        (stream, observed),
        signal,
        forward_route=route,
        backward_route=route if backward else None,
        states=readings.exchangeable_states(stream, found.stream.mean, inputs.batch),
        routes=exact.routes(),
        settings=_settings(refine, **{"chains" if chains else "channels": found.channels}),
    )


def _over_positions(
    network: Network,
    inputs: SpatialInputs,
    kind: Regime,
    *,
    departure: str,
    backward: bool,
    refine: int,
) -> Prediction:
    """Samples and positions that are alike."""
    assert isinstance(network, Residual)
    try:
        found = over_positions(
            network,
            inputs,
            kind,
            backward=backward,
            populations=POPULATIONS,
            seed=SEED,
            refine=refine,
        )
    except HypothesisError as error:
        raise HypothesisError(f"{departure}: {error}") from error
    return _assembled(
        network,
        inputs,
        kind,
        found.read,
        found.signal,
        forward_route="population",
        backward_route="population" if backward else None,
        states=found.states,
        routes=found.routes,
        settings=_settings(refine, channels=found.population.channels),
    )


def _sphere(
    network: Residual, inputs: ExchangeableInputs, kind: Regime, *, backward: bool, refine: int
) -> Prediction:
    """Post-norm with GN or BN: exact but for the gaps of GN, which are sampled."""
    # A few seconds however deep; lattices have powers of two.
    wanted = refine * min(max(2_500_000 / network.depth, 2048.0), 16384.0)
    chains = 1 << int(math.log2(wanted))
    populations = refine * POPULATIONS
    streams, maps = sphere_states(
        network, inputs, populations=populations, chains=chains, seed=SEED
    )
    depth = network.depth
    signal = readings.endless_norms(kind, depth=depth) if backward else (None,) * 4
    if backward and signal is None:
        law = sphere_law(network, inputs)
        signal = readings.norms(law.log_gradient, law.log_branch_gradient, np.full(depth, 2e-11))
    sampled = any(state.gap_error for state in streams)
    return _assembled(
        network,
        inputs,
        kind,
        _read(streams, maps),
        signal,
        forward_route=SPHERE_WALK,
        backward_route=SPHERE_WALK if backward else None,
        states=streams,
        routes=dict.fromkeys(_OF_PAIRS, SAMPLED) if sampled else {},
        settings=_settings(refine, chains=chains) if sampled else {},
    )


def _gated(
    network: Residual, inputs: ExchangeableInputs, kind: Regime, *, backward: bool, refine: int
) -> Prediction:
    """Post-norm with EvoNorm-S0 over all channels: exact but for gaps, which are sampled."""
    law = gated_law(network, inputs)
    wanted = refine * min(max(6_600_000 / network.depth, 4096.0), 65536.0)
    chains, populations = 1 << int(math.log2(wanted)), refine * POPULATIONS
    streams, maps = gated_states(
        network, inputs, law, populations=populations, chains=chains, seed=SEED
    )
    signal: Any = (None,) * 4
    if backward:
        error = np.full(network.depth, 2.0 * ERROR)
        signal = readings.norms(law.log_gradient, law.log_branch_gradient, error)
    return _assembled(
        network,
        inputs,
        kind,
        _read(streams, maps),
        signal,
        forward_route=WALK_DENSITY,
        backward_route=WALK_DENSITY if backward else None,
        states=streams,
        routes=dict.fromkeys(_OF_PAIRS, "sampled walk"),
        settings=_settings(refine, chains=chains),
    )


def _raised(
    network: Residual, inputs: ExchangeableInputs, kind: Regime, *, backward: bool
) -> Prediction | None:
    """Post-norm and sandwiches with VN, None if they are neither."""
    signal = readings.endless_norms(kind, depth=network.depth) if backward else (None,) * 4
    follow = backward and signal is None
    chosen = next((way for way in _RAISED if way[0](network, inputs) is None), None)
    if chosen is None:
        return None
    _, law_of, route = chosen
    law = law_of(network, inputs, backward=follow)
    if follow:
        signal = readings.norms(law.log_gradient, law.log_branch_gradient, law.gradient_error)
    return _assembled(
        network,
        inputs,
        kind,
        _read(law.streams, law.maps),
        signal,
        forward_route=route,
        backward_route=route if backward else None,
        states=law.streams,
        routes={},
    )


def _settings(refine: int, **drawn: int) -> dict[str, str]:
    """What sampled figures depend on: the seed, populations, and ``drawn`` of each."""
    sizes = {"populations": refine * POPULATIONS, **drawn, "seed": SEED}
    return {name: str(size) for name, size in sizes.items()}


def _read(streams: list[Exchangeable], maps: list[Exchangeable]) -> tuple[Observables, ...]:
    """Observables of x^l and of h^l."""
    observed, depth = Exchangeable.observe(streams + maps), len(streams)
    return tuple(
        Observables(*(values[part] for values in observed))
        for part in (slice(depth), slice(depth, None))
    )


def _settled(
    network: Network, inputs: ExchangeableInputs, kind: Regime, exact: Known, *, backward: bool
) -> Prediction:
    """Everything is known; unless a mean is, what a norm adds has none and the stream's is the start's."""
    assert isinstance(network, Residual)
    assert exact.log_second_moment is not None
    blank = Observables(*np.zeros((len(Observables._fields), network.depth)))
    stream = readings.with_moments(blank, exact, inputs.batch)
    observed = readings.with_maps(blank, exact, inputs.batch)
    start, skip = initial(network, inputs), network.factors[0]
    blocks = np.arange(1.0, network.depth + 1.0)
    carried = np.exp(blocks * math.log(abs(skip)) - 0.5 * exact.log_second_moment)
    mean = start.mean * np.sign(skip) ** blocks * carried if exact.mean is None else exact.mean
    signal: Any = (None,) * 4
    if backward:
        signal = readings.gradient_norms(None, exact, kind, depth=network.depth)
    return _assembled(
        network,
        inputs,
        kind,
        (stream, observed),
        signal,
        forward_route=exact.route,
        backward_route=(exact.gradient_route or exact.route) if backward else None,
        states=readings.exchangeable_states(stream, mean, inputs.batch),
        routes=exact.routes(),
    )


def _assembled(
    network: Network,
    inputs: Inputs,
    kind: Regime,
    observed: tuple[Observables, ...],
    signal: Any,
    **rest: Any,
) -> Prediction:
    """Observables of x^l and of h^l, what ``gradient_norms`` says, and routes, states and settings."""
    for values in chain(*observed):
        values.flags.writeable = False
    return Prediction(
        network=network,
        inputs=inputs,
        regime=kind,
        activation=observed[0],
        preactivation=observed[1],
        log_gradient_norm=signal[0],
        gradient_error=signal[1],
        log_branch_gradient_norm=signal[2],
        branch_gradient_error=signal[3],
        **rest,
    )


def _one_map(network: Network) -> Residual:
    """Steps behind a pool's norm do not know how many maps came before."""
    assert isinstance(network, Residual)
    return dataclasses.replace(network, maps=1)


def _paired(network: Network, inputs: ExchangeableInputs, found: PopulationResult) -> Any:
    """(log norm, error) at the stream and at h^l of BN behind a reflected walk."""
    assert isinstance(network, Residual)
    law = pair_gradients(network, inputs, found, seed=SEED)
    return tuple(0.5 * values for values in law)
