"""Simulate an ensemble of independent finite networks; parallel or not, the same numbers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from montecarlo.collect import Resources, collect, opened
from montecarlo.costs import choose_method
from montecarlo.experiment import Experiment
from montecarlo.precision import PILOT, Target, networks_needed
from montecarlo.records import environment
from montecarlo.results import Simulation
from montecarlo.sampling import require_finite_batch
from theory.errors import RegimeWarning, out_of_domain
from theory.specs import serialize
from theory.specs._check import LARGEST, flag, integer, member
from theory.specs.compatibility import check
from theory.specs.grids import channels_of, layers_on
from theory.specs.images import ImageInputs
from theory.specs.inputs import (
    DataInputs,
    Inputs,
    position_shape_of,
)
from theory.specs.networks import Network
from theory.specs.normalizers import Normalizer

if TYPE_CHECKING:
    from montecarlo.store import Store

__all__ = ["places_of", "plan", "simulate", "summarize"]

FloatArray = NDArray[np.float64]

DTYPES = ("float64", "float32")
METHODS = ("auto", "direct", "collapsed")


def simulate(
    network: Network,
    inputs: Inputs,
    *,
    width: int,
    replicates: int | None = None,
    seed: int = 0,
    dtype: str = "float64",
    method: str = "auto",
    backward: bool = True,
    target_sem: float | Mapping[str, float] | None = None,
    max_replicates: int | None = None,
    workers: int | None = None,
    client: Any = None,
    store: str | Path | Store | None = None,
    memory_limit: int | None = None,
    progress: bool = False,
) -> Simulation:
    """x^l = phi(N(W^l x^{l-1})) with random finite W^l, ``replicates`` times, forward and backward.

    Parameters
    ----------
    network, inputs
        Specifications.  Exchangeable and covariance inputs are realised at n_0 = width with exact
        Gram matrix and feature means; data are used as they are.
    width
        Channels of every layer.
    replicates
        Number of independent networks; with ``target_sem`` the least, 32 if not given.
    seed
        Network r uses ``SeedSequence(seed, spawn_key=(width, r, layer, ...))``: its numbers depend
        neither on ``workers`` nor on ``replicates``.
    dtype
        ``"float64"`` or ``"float32"``; sums and observables are float64 in both.
    method
        ``"direct"``: explicit weight matrices.  ``"collapsed"``: exactly the same law without them,
        O(n B^2) operations a layer instead of O(n^2 B) (theory notes, section 7).  ``"auto"``: the
        cheaper one; ``provenance["method_reason"]`` says why.
    backward
        Whether gradients are propagated; False leaves their observables out.
    target_sem, max_replicates
        Add networks, beyond ``replicates`` and up to ``max_replicates`` (10,000), until the standard error
        is at most ``target_sem`` at every layer: of log second moment, similarity and log gradient
        norm, or of the observables of a mapping.  The stopping rule is Chow and Robbins': it looks
        at variances alone, so that the mean stays unbiased (``montecarlo.precision``).
    workers
        Processes, each with one BLAS thread; None uses all cores when the work is worth starting them.
    client
        A Dask ``distributed.Client`` or a scheduler's address: its cluster does the work.
    store
        SQLite file (or open ``Store``) that keeps every network: the same call goes on where an
        interrupted one stopped, and adds to it when it asks for more.
    memory_limit
        Bytes for each process; by default its share of this machine's memory (no limit on a
        cluster).  Where it binds, random factors are drawn a second time instead of being kept; the
        numbers do not change.
    progress
        Show a progress bar on standard error.

    Returns
    -------
    Simulation
        Per-network observables, estimates with standard errors, provenance.

    Raises
    ------
    SpecificationError
        An argument outside its domain, or a network that does not fit the inputs, width or memory.
    HypothesisError
        A pool has zero variance while eps = 0.
    NumericalError
        The network leaves the range of the floating-point format.
    ExecutionError, StoreError
        Workers were lost, or the store cannot be used; what was stored so far is kept.
    """
    experiment, reason = plan(
        network, inputs, width=width, seed=seed, dtype=dtype, method=method, backward=backward
    )
    if replicates is None and target_sem is not None:
        replicates = PILOT
    replicates = integer("replicates", replicates, low=1, remedy="count the networks, 64 say")
    target = Target.of(
        target_sem, replicates=replicates, max_replicates=max_replicates, backward=backward
    )
    resources = Resources(
        workers=workers,
        client=client,
        store=store,
        memory_limit=memory_limit,
        progress=progress,
        forecast=True,
    )
    with opened(resources.store) as networks:
        resources = replace(resources, store=networks)
        (table,), (computed,) = collect([(experiment, replicates)], resources)
        while target is not None:
            more = networks_needed(_named(table, experiment), target)
            if more <= len(table):
                break
            (table,), (added,) = collect([(experiment, more)], resources, begun=[table])
            computed += added
        origins = places_of(experiment, networks if computed < len(table) else None)
    return summarize(experiment, table, reason=reason, computed=computed, origins=origins)


def places_of(experiment: Experiment, store: Store | None) -> list[dict[str, str]]:
    """Environments (versions, BLAS, processor) that computed the networks: here, or as stored."""
    if store is None:
        return [dict(environment())]
    return [dict(place) for place in store.find(experiment.key).environments]


def plan(
    network: Network,
    inputs: Inputs,
    *,
    width: int,
    seed: int,
    dtype: str,
    method: str,
    backward: bool,
) -> tuple[Experiment, str]:
    """Check the arguments of one simulation and choose its method: (experiment, reason)."""
    check(network, inputs)
    width = integer("width", width, low=1, high=LARGEST, remedy="count the channels, 1024 say")
    seed = integer("seed", seed, low=0, remedy="pass an integer")
    flag("backward", backward)
    member("dtype", dtype, DTYPES)
    member("method", method, METHODS)
    require_finite_batch(inputs)
    _check_width(network, inputs, width)
    chosen, reason = choose_method(network, inputs, method=method, width=width, backward=backward)
    experiment = Experiment(
        network=network,
        inputs=inputs,
        width=width,
        seed=seed,
        dtype=dtype,
        method=chosen,
        backward=backward,
    )
    return experiment, reason


def summarize(
    experiment: Experiment,
    table: FloatArray,
    *,
    reason: str,
    computed: int,
    origins: list[dict[str, str]],
) -> Simulation:
    """Per-network observables with their provenance, and warnings where a regime deserves one."""
    samples = _named(table, experiment)
    _warn_if_dead(samples["second_moment"])
    if experiment.backward:
        _warn_if_degenerate(samples["squared_gradient"], samples["second_moment"])
    _warn_if_undefined(samples)
    arguments = {
        "width": experiment.width,
        "replicates": len(table),
        "seed": experiment.seed,
        "dtype": experiment.dtype,
        "method": experiment.method,
        "method_reason": reason,
        "from_store": len(table) - computed,
        "experiment_key": experiment.key,
        "environments": origins,
    }
    return Simulation(samples, arguments | _specifications(experiment.network, experiment.inputs))


def _named(table: FloatArray, experiment: Experiment) -> dict[str, FloatArray]:
    return {
        name: np.ascontiguousarray(table[:, i])
        for i, name in enumerate(experiment.observables)
        if experiment.backward or "gradient" not in name
    }


def _check_width(network: Network, inputs: Inputs, width: int) -> None:
    """Raise if pools or weights make no sense at this width."""
    fan_in = width
    if isinstance(inputs, DataInputs):
        fan_in = inputs.features.shape[1]
    elif isinstance(inputs, ImageInputs):
        fan_in = inputs.channels
    dimensions = len(position_shape_of(inputs))
    for layer, shape in layers_on(network, position_shape_of(inputs)):
        channels = channels_of(width, layer.channels)
        _check_pool(layer.norm, channels, inputs.batch, math.prod(shape))
        fan_in = min(fan_in, width)
        if layer.weights.centered and fan_in * layer.kernel**dimensions < 2:
            raise out_of_domain(
                "width",
                fan_in,
                "at least 2 inputs per row for centered weights",
                "a centered row with one entry is zero; widen the network or give more features",
            )
        fan_in = channels


def _check_pool(norm: Normalizer | None, channels: int, batch: float, positions: int) -> None:
    if norm is None:
        return
    if norm.pool.channels != math.inf:
        group = int(norm.pool.channels)
        if channels % group:
            raise out_of_domain(
                "width",
                channels,
                f"a multiple of the group size {group} of {norm.name}",
                f"take {group * max(1, round(channels / group))}, say",
            )
    if norm.denominator == "std":
        per_sample = min(norm.pool.channels, channels) * (positions if norm.pool.positions else 1)
        if per_sample * (batch if norm.pool.samples else 1) < 2:
            raise out_of_domain("width", channels, "at least 2 for this pool", "widen the network")


def _warn_if_dead(second_moment: FloatArray) -> None:
    dead = int((second_moment[:, -1] == 0.0).sum())
    if dead:
        warnings.warn(
            f"{dead} of {len(second_moment)} networks died: the activations of the last layer are "
            "all 0, so logarithms are -inf and angles NaN.  Widen the network.",
            RegimeWarning,
            stacklevel=3,
        )


def _warn_if_undefined(samples: Mapping[str, FloatArray]) -> None:
    """Vectors that are 0 before the last layer, where the other warnings do not look."""
    last = samples["second_moment"][:, -1]
    forward = [name for name in samples if "gradient" not in name]
    undefined = [name for name in forward if np.isnan(samples[name][last > 0.0]).any()]
    if undefined:
        warnings.warn(
            f"{', '.join(undefined)} are NaN in some layers: vectors there are exactly 0 and have no angle. "
            "Lower eps, or do not center weights that see equal channels.",
            RegimeWarning,
            stacklevel=3,
        )


def _warn_if_degenerate(squared_gradient: FloatArray, second_moment: FloatArray) -> None:
    if ((squared_gradient[:, -1] == 0.0) & (second_moment[:, -1] > 0.0)).any():
        warnings.warn(
            "the gradient of the last layer is exactly 0, so gradient ratios are NaN: a pool of two "
            "activations about their mean only keeps a sign.  Use larger groups or batches.",
            RegimeWarning,
            stacklevel=3,
        )


def _specifications(network: Network, inputs: Inputs) -> dict[str, Any]:
    """What was simulated, as JSON-compatible values."""
    return {
        "network": repr(network),
        "network_spec": serialize.to_dict(network),
        "network_key": serialize.key(network),
        "inputs": repr(inputs),
        "inputs_key": serialize.key(inputs),
    }
