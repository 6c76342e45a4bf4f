"""Populations over positions, and what is known without one: positions of one sample are a batch.

InstanceNorm over S positions of one sample is BatchNorm over a batch of S samples, and where no pool
couples anything positions are samples as any.  So of one sample's positions ``known``, ``spheres`` and
``pair_paths`` say what they say of such a batch: second moments, 1 - w/q, squared gradients.  Two
samples, and pools of several channels or samples, are left to populations but for the second moment
behind a norm at the branch's end.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.population.known import Known, known, second_moments
from theory.population.normact import has_finite_pool
from theory.population.pair_paths import pair_gradients, pairs_refusal
from theory.population.readings import gradient_norms
from theory.population.result import Averages, PopulationResult, population
from theory.population.spheres import SPHERE_WALK, sphere_law, sphere_refusal
from theory.regimes import Regime
from theory.specs.inputs import ExchangeableInputs, SpatialInputs
from theory.specs.normalizers import Pool
from theory.specs.residual import Residual
from theory.states.base import Observables
from theory.states.spatial import Spatial

__all__ = ["OverPositions", "over_positions"]

FloatArray = NDArray[np.float64]

# Sums of logarithms.
_SPHERE = 1e-11


class OverPositions(NamedTuple):
    """What was found: states of x^l, observables of x^l and of h^l, gradients, routes by observable.

    ``signal`` is (log norm, error) at the stream and at h^l.
    """

    population: PopulationResult
    states: list[Spatial]
    read: tuple[Observables, Observables]
    signal: Any
    routes: dict[str, str]


def over_positions(
    network: Residual,
    inputs: SpatialInputs,
    kind: Regime,
    *,
    backward: bool,
    populations: int,
    seed: int,
    refine: int,
) -> OverPositions:
    """Follow ``network`` over samples and positions that are alike.

    Parameters
    ----------
    network, inputs, populations, seed, refine
        As for ``population``.
    kind
        The regime.
    backward
        Whether gradients are asked.

    Raises
    ------
    HypothesisError
        As ``population``.
    """
    # Nothing is known of gradients that do not pass, nor drawn of those without a mean.
    alive = backward and kind.status not in ("infinite", "degenerate")
    exact = _known_of_one_sample(network, inputs, backward=alive)
    sampled = backward and kind.status != "infinite" and exact.log_gradient is None
    paired = sampled and alive and _has_paths(network, inputs)
    found = population(
        network,
        inputs,
        populations=populations,
        seed=seed,
        backward=sampled and not paired,
        refine=refine,
    )
    assert found.preactivation is not None
    known_map = exact.log_map_second_moment
    stream = _with_known(found.stream, exact.log_second_moment, exact.gap, error=exact.error)
    seen = _with_known(found.preactivation, known_map, exact.map_gap, error=exact.error)
    states = stream.spatial(inputs)
    # Of two positions gaps are known, of two samples they are not.
    routes = dict(exact._replace(gap=None, map_gap=None).routes())
    if known_map is not None:
        routes["preactivation_second_moment"] = exact.map_route
    signal: Any = (None,) * 4
    if paired:
        signal = _paths_of_one_sample(network, inputs, found, seed=seed)
    elif backward:
        signal = gradient_norms(found, exact, kind, depth=len(states))
    read = Spatial.observe(states), Spatial.observe(seen.spatial(inputs))
    return OverPositions(found, states, read, signal, routes)


def _known_of_one_sample(network: Residual, inputs: SpatialInputs, *, backward: bool) -> Known:
    """Numbers of one sample; ``gap`` and ``map_gap`` are those of two of its positions."""
    alone = _as_batch(network, inputs)
    if alone is None:
        return second_moments(network, inputs)
    if sphere_refusal(alone[0], feature_mean=inputs.feature_mean) is not None:
        return known(*alone, backward=backward)
    if not backward:
        return Known()
    law = sphere_law(*alone)
    return Known(
        SPHERE_WALK,
        log_gradient=law.log_gradient,
        log_branch_gradient=law.log_branch_gradient,
        error=_SPHERE,
    )


def _has_paths(network: Residual, inputs: SpatialInputs) -> bool:
    """Whether ``_paths_of_one_sample`` gives the gradients."""
    alone = _as_batch(network, inputs)
    return alone is not None and pairs_refusal(*alone) is None


def _paths_of_one_sample(
    network: Residual, inputs: SpatialInputs, found: PopulationResult, *, seed: int
) -> tuple[FloatArray, ...]:
    """(log norm, error) by paths of pairs of positions, one estimate per population of ``found``."""
    alone = _as_batch(network, inputs)
    assert alone is not None
    assert found.stream.position_gaps is not None
    stream = dataclasses.replace(found.stream, gaps=found.stream.position_gaps)
    law = pair_gradients(*alone, dataclasses.replace(found, stream=stream), seed=seed)
    return tuple(0.5 * values for values in law)


def _with_known(
    found: Averages, log_second_moment: FloatArray | None, gap: FloatArray | None, *, error: float
) -> Averages:
    """The averages with what is known of one sample, ``gap`` that of two positions, in their place."""
    if log_second_moment is not None:
        found = dataclasses.replace(
            found,
            log_second_moment=log_second_moment,
            second_moment_error=np.full(len(log_second_moment), error),
        )
    if gap is None:
        return found
    spectra = tuple(
        s._replace(contrast=one, mean=s.positions - (s.positions - 1) * one).tidied()
        for s, one in zip(found.spectra, gap.tolist(), strict=True)
    )
    return dataclasses.replace(found, spectra=spectra)


def _as_batch(
    network: Residual, inputs: SpatialInputs
) -> tuple[Residual, ExchangeableInputs] | None:
    """The network in which one sample's positions are the samples, if pools know no other."""
    norm = network.layer.norm
    if norm is not None and has_finite_pool(norm):
        pool = norm.pool
        if pool.samples or not pool.positions or pool.channels != 1 or norm.gate is not None:
            return None
        norm = dataclasses.replace(norm, pool=Pool(samples=True, positions=True, channels=1))
    layer = dataclasses.replace(network.layer, norm=norm, kernel=1)
    batch = ExchangeableInputs(
        batch=inputs.positions,
        gap=inputs.position_gap,
        second_moment=inputs.second_moment,
        feature_mean=inputs.feature_mean,
    )
    return dataclasses.replace(network, layer=layer), batch
