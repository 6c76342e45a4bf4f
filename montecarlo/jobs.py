"""Pieces of work: some networks of one experiment, and how to run them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from montecarlo import network as interpreter
from montecarlo.collapsed import CollapsedSampler
from montecarlo.costs import network_seconds
from montecarlo.experiment import Experiment, Method
from montecarlo.linear import DirectSampler, Sampler
from montecarlo.normals import fill_standard_normal
from montecarlo.sampling import realize_inputs, seed_sequence
from montecarlo.threads import one_blas_thread
from theory.program import lower
from theory.specs.grids import channels_of, last_layer
from theory.specs.inputs import exchangeable, position_shape_of
from theory.specs.networks import FeedForward, Layer, Network
from theory.specs.normalizers import batch_norm
from theory.specs.residual import Residual
from theory.specs.weights import weight_norm

__all__ = [
    "Job",
    "compile_kernels",
    "run_job",
]

FloatArray = NDArray[np.float64]


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


def run_job(job: Job) -> FloatArray:
    """Observables, shape (len(indices), observables, depth)."""
    experiment = job.experiment
    program = lower(experiment.network)
    width, seed, dtype = experiment.width, experiment.seed, experiment.dtype
    # Layers count from 0, so the number of operations and the next one are keys that no layer has.
    cotangent_key, inputs_key = len(program), len(program) + 1
    buffers: dict[int, NDArray[Any]] = {}
    shape = (len(job.indices), len(experiment.observables), experiment.network.depth)
    tables = np.empty(shape)
    # Two BLAS threads do not help products this thin, workers would fight over the cores, and the
    # last bits of a product depend on how many there are: the inputs' too.
    with one_blas_thread():
        x = realize_inputs(experiment.inputs, width=width, seed=seed, dtype=dtype)
        for table, r in zip(tables, job.indices, strict=True):
            if _meets_entries(experiment.network):
                x = realize_inputs(
                    experiment.inputs, width=width, seed=seed, dtype=dtype, key=(r, inputs_key)
                )
            sampler: Sampler
            if experiment.method == "direct":
                sampler = DirectSampler(seed, (width, r), dtype, buffers, job.keep)
            else:
                sampler = CollapsedSampler(seed, (width, r), dtype, x.shape[1], job.keep)
            cotangent = None
            if experiment.backward:
                cotangent = np.empty(_last_shape(experiment), dtype=dtype)
                fill_standard_normal(seed_sequence(seed, width, r, cotangent_key), cotangent)
            table[:] = interpreter.run(
                program,
                x,
                width=width,
                sampler=sampler,
                cotangent=cotangent,
                shape=position_shape_of(experiment.inputs),
            )
    return tables


def _meets_entries(network: Network) -> bool:
    """Whether more than the covariance of x^0 matters: without a stem phi acts on its very entries.

    Networks that shared them would not be independent.
    """
    return isinstance(network, Residual) and network.stem is None


def _last_shape(experiment: Experiment) -> tuple[int, int]:
    """Of x^L."""
    layer, shape = last_layer(experiment.network, experiment.inputs)
    columns = int(experiment.inputs.batch) * math.prod(shape)
    return channels_of(experiment.width, layer.channels), columns


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
