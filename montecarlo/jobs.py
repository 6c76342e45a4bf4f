"""Pieces of work: some networks of one experiment, what they cost, and how to run them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from montecarlo import network as interpreter
from montecarlo.collapsed import CollapsedSampler, collapses, collapses_backward
from montecarlo.experiment import Experiment, Method
from montecarlo.linear import DirectSampler, Sampler
from montecarlo.normals import fill_standard_normal
from montecarlo.observables import OBSERVABLES
from montecarlo.sampling import realize_inputs, seed_sequence
from theory.errors import out_of_domain
from theory.program import lower
from theory.specs.inputs import exchangeable
from theory.specs.networks import FeedForward, Layer
from theory.specs.normalizers import batch_norm
from theory.specs.weights import weight_norm

__all__ = [
    "Job",
    "choose_method",
    "compile_kernels",
    "network_bytes",
    "network_seconds",
    "physical_memory",
    "run_job",
]

FloatArray = NDArray[np.float64]


# An interpreter with its libraries.
_PROCESS = 200 * 2**20


@dataclass(frozen=True)
class Job:
    """Networks ``indices`` of an experiment.

    ``keep`` holds random weights and factors in memory from the forward to the backward pass;
    without it they are drawn a second time.  The numbers do not depend on it.
    """

    experiment: Experiment
    indices: tuple[int, ...]
    keep: bool = True

    @property
    def seconds(self) -> float:
        """Estimated time on one core."""
        return len(self.indices) * network_seconds(self.experiment)


def choose_method(
    network: FeedForward, *, method: str, width: int, batch: int, backward: bool
) -> tuple[Method, str]:
    """The method and why, as half a sentence.

    Raises
    ------
    SpecificationError
        ``"collapsed"`` where the law of the backward pass would not be exact.
    """
    weights = network.layer.weights
    exact = collapses_backward(weights) or not backward
    if method == "direct":
        return "direct", "as asked"
    if not exact:
        reason = f"the backward pass of {weights.name} does not collapse"
        if method == "collapsed":
            raise out_of_domain(
                "method",
                method,
                f'"direct" or "auto" for {weights.name} with gradients',
                f"{reason}: given W x, the rest of each row has a prescribed norm; pass "
                "backward=False for the forward pass alone",
            )
        return "direct", reason
    if not collapses(width, batch):
        if method == "collapsed":
            raise out_of_domain(
                "method",
                method,
                f'"direct" or "auto" at width {width} with batch {batch}',
                "a layer collapses if its width is larger than batch + 1",
            )
        return "direct", "the batch spans the whole width"
    if method == "collapsed":
        return "collapsed", "as asked"
    direct, collapsed = (_layer_seconds(m, width, batch) for m in ("direct", "collapsed"))
    chosen: Method = "collapsed" if collapsed < direct else "direct"
    low, high = sorted((network.depth * direct, network.depth * collapsed))
    other = "direct" if chosen == "collapsed" else "collapsed"
    return chosen, f"about {_short(low)} a network instead of {_short(high)} {other}"


def network_seconds(experiment: Experiment) -> float:
    """Estimated time of one network on one core, good to a factor of two."""
    batch = int(experiment.inputs.batch)
    seconds = _layer_seconds(experiment.method, experiment.width, batch)
    return experiment.network.depth * seconds


def network_bytes(experiment: Experiment, *, keep: bool) -> int:
    """Memory of one network at its peak: what the backward pass needs of every layer, and scratch."""
    n = experiment.width
    columns = n * int(experiment.inputs.batch)
    item = np.dtype(experiment.dtype).itemsize
    layers = experiment.network.depth if experiment.backward else 1
    # Every layer has h and x (rotated, where it collapses), and W or Z.
    drawn = n * n if experiment.method == "direct" else columns
    numbers = layers * 2 * columns + (layers if keep else 1) * drawn
    # Scratch: a dozen arrays like h; inputs and observables in float64.
    return _PROCESS + item * (numbers + 12 * columns) + 8 * 7 * columns


def physical_memory() -> float:
    """Bytes of the machine; infinite where the system does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return float("inf")


def run_job(job: Job) -> FloatArray:
    """Observables, shape (len(indices), len(OBSERVABLES), depth)."""
    experiment = job.experiment
    program = lower(experiment.network)
    width, seed, dtype = experiment.width, experiment.seed, experiment.dtype
    x = realize_inputs(experiment.inputs, width=width, seed=seed, dtype=dtype)
    # Layers count from 0, so the number of operations is a key that no layer has.
    cotangent_key = len(program)
    buffers: dict[int, NDArray[Any]] = {}
    tables = np.empty((len(job.indices), len(OBSERVABLES), experiment.network.depth))
    # Two BLAS threads do not help products this thin, and workers would fight over the cores.
    with threadpool_limits(limits=1):
        for table, r in zip(tables, job.indices, strict=True):
            sampler: Sampler
            if experiment.method == "direct":
                sampler = DirectSampler(seed, (width, r), dtype, buffers, job.keep)
            else:
                sampler = CollapsedSampler(seed, (width, r), dtype, x.shape[1], job.keep)
            cotangent = None
            if experiment.backward:
                cotangent = np.empty((width, x.shape[1]), dtype=dtype)
                fill_standard_normal(seed_sequence(seed, width, r, cotangent_key), cotangent)
            table[:] = interpreter.run(
                program, x, width=width, sampler=sampler, cotangent=cotangent
            )
    return tables


def compile_kernels(dtype: str) -> None:
    """Compile every kernel for ``dtype``, or load it from the cache on disk."""
    network = FeedForward(Layer(norm=batch_norm(), weights=weight_norm()), depth=1)
    inputs = exchangeable(batch=3, correlation=0.0)
    gaussian = FeedForward(Layer(norm=batch_norm()), depth=2)
    examples: tuple[tuple[Method, FeedForward], ...]
    examples = (("direct", network), ("collapsed", gaussian))
    for method, example in examples:
        experiment = Experiment(
            network=example, inputs=inputs, width=8, seed=0, dtype=dtype, method=method
        )
        run_job(Job(experiment, (0,)))


def _layer_seconds(method: str, width: int, batch: int) -> float:
    """Measured on one core, forward and backward with all observables, widths 64 to 8192."""
    entries = width * batch
    if method == "direct":
        return 1e-6 * (40 + 0.01 * entries + width**2 * (0.0023 + 0.00007 * batch))
    return 1e-6 * (50 + 4 * batch + entries * (0.009 + 0.00025 * batch))


def _short(seconds: float) -> str:
    """Two digits with a unit."""
    rounded = float(f"{seconds:.2g}")
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if rounded >= size:
            return f"{rounded / size:g} {unit}"
    return f"{rounded / 1e-6:.0f} µs"
