"""Simulate an ensemble of independent finite networks; parallel or not, the same numbers."""

from __future__ import annotations

import contextlib
import os
import platform
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import joblib
import numba
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

from montecarlo import network as interpreter
from montecarlo.linear import DirectSampler
from montecarlo.normals import fill_standard_normal
from montecarlo.observables import OBSERVABLES
from montecarlo.results import Simulation
from montecarlo.sampling import realize_inputs, seed_sequence
from theory.errors import RegimeWarning, out_of_domain
from theory.program import Operation, lower
from theory.specs import serialize
from theory.specs._check import flag, integer
from theory.specs.compatibility import check
from theory.specs.inputs import DataInputs, ExchangeableInputs, Inputs
from theory.specs.networks import FeedForward, Layer
from theory.specs.normalizers import batch_norm
from theory.specs.weights import weight_norm

__all__ = ["compile_kernels", "simulate"]

FloatArray = NDArray[np.float64]

# Starting processes costs a second or two; a weight, drawn and used twice, some 5 ns.
_WORTH_PROCESSES = 1e9

DTYPES = ("float64", "float32")
METHODS = ("auto", "direct")


def simulate(
    network: FeedForward,
    inputs: Inputs,
    *,
    width: int,
    replicates: int,
    seed: int = 0,
    dtype: str = "float64",
    workers: int | None = None,
    progress: bool = False,
    method: str = "auto",
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
        Number of independent networks.
    seed
        Network r uses ``SeedSequence(seed, spawn_key=(width, r, layer))``: its numbers depend
        neither on ``workers`` nor on ``replicates``.
    dtype
        ``"float64"`` or ``"float32"``; sums and observables are float64 in both.
    workers
        Processes, each with one BLAS thread; None uses all cores when the work is worth starting them.
    progress
        Show a progress bar on standard error.
    method
        ``"direct"``: explicit weight matrices.  ``"auto"`` is the same in this version.

    Returns
    -------
    Simulation
        Per-network observables, estimates with standard errors, provenance.

    Raises
    ------
    SpecificationError
        An argument outside its domain, or a network that does not fit the inputs or the width.
    HypothesisError
        A pool has zero variance while eps = 0.
    NumericalError
        The network leaves the range of the floating-point format.
    """
    check(network, inputs)
    width = integer("width", width, low=1, remedy="count the channels, 1024 say")
    replicates = integer("replicates", replicates, low=1, remedy="count the networks, 64 say")
    seed = integer("seed", seed, low=0, remedy="pass an integer")
    flag("progress", progress)
    _require_member("dtype", dtype, DTYPES)
    _require_member("method", method, METHODS)
    workers = _worker_count(workers, weights=replicates * network.depth * width * width)
    _check_width(network, inputs, width)
    x = realize_inputs(inputs, width=width, seed=seed, dtype=dtype)

    program = lower(network)
    chunks = _chunks(replicates, workers)
    run = partial(_run_chunk, program, x, width=width, seed=seed, dtype=dtype)
    if len(chunks) > 1 and workers > 1:
        # Compiled here, once, so that workers find the machine code on disk.
        compile_kernels(dtype)
        pool = joblib.Parallel(n_jobs=workers, return_as="generator")
        tables = pool(joblib.delayed(run)(chunk) for chunk in chunks)
    else:
        tables = (run(chunk) for chunk in chunks)
    with _progress_bar(replicates, shown=progress) as advance:
        collected = []
        for table in tables:
            collected.append(table)
            advance(len(table))
    values = np.concatenate(collected)
    samples = {name: np.ascontiguousarray(values[:, i]) for i, name in enumerate(OBSERVABLES)}
    _warn_if_dead(samples["second_moment"])
    _warn_if_degenerate(samples["squared_gradient"], samples["second_moment"])
    arguments = {
        "width": width,
        "replicates": replicates,
        "seed": seed,
        "dtype": dtype,
        "method": "direct",
    }
    return Simulation(samples, arguments | _provenance(network, inputs))


def compile_kernels(dtype: str) -> None:
    """Compile every kernel for ``dtype``, or load it from the cache on disk."""
    program = lower(FeedForward(Layer(norm=batch_norm(), weights=weight_norm()), depth=1))
    x = np.arange(12.0, dtype=dtype).reshape(4, 3)
    _run_chunk(program, x, range(1), width=4, seed=0, dtype=dtype)


def _run_chunk(
    program: tuple[Operation, ...],
    inputs: NDArray[Any],
    indices: range,
    *,
    width: int,
    seed: int,
    dtype: str,
) -> FloatArray:
    """Observables of networks ``indices``, shape (len(indices), len(OBSERVABLES), depth)."""
    # Layers count from 0, so the number of operations is a key that no layer has.
    cotangent_key = len(program)
    buffers: dict[int, NDArray[Any]] = {}
    tables = []
    # Two BLAS threads do not help products this thin, and workers would fight over the cores.
    with threadpool_limits(limits=1):
        for r in indices:
            sampler = DirectSampler(seed, (width, r), dtype, buffers)
            cotangent = np.empty((width, inputs.shape[1]), dtype=dtype)
            fill_standard_normal(seed_sequence(seed, width, r, cotangent_key), cotangent)
            tables.append(
                interpreter.run(program, inputs, width=width, sampler=sampler, cotangent=cotangent)
            )
    return np.stack(tables)


def _chunks(replicates: int, workers: int) -> list[range]:
    """Consecutive networks, several chunks per worker so that all finish together."""
    size = max(1, min(16, replicates // (4 * workers)))
    return [range(low, min(low + size, replicates)) for low in range(0, replicates, size)]


@contextlib.contextmanager
def _progress_bar(total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of networks that have just finished."""
    if not shown:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("networks", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("networks", total=total)
        yield lambda count: bar.advance(task, count)


def _require_member(argument: str, value: object, members: tuple[str, ...]) -> None:
    if value not in members:
        raise out_of_domain(argument, value, f"one of {', '.join(members)}", "check the spelling")


def _worker_count(workers: int | None, *, weights: float) -> int:
    if workers is None:
        return joblib.cpu_count() if weights > _WORTH_PROCESSES else 1
    return integer("workers", workers, low=1, remedy="None uses all cores")


def _check_width(network: FeedForward, inputs: Inputs, width: int) -> None:
    """Raise if pools or weights make no sense at this width."""
    layer = network.layer
    if layer.norm is not None and layer.norm.pool.channels != float("inf"):
        group = int(layer.norm.pool.channels)
        if width % group:
            raise out_of_domain(
                "width",
                width,
                f"a multiple of the group size {group} of {layer.norm.name}",
                f"take {group * max(1, round(width / group))}, say",
            )
    if layer.norm is not None and layer.norm.denominator == "std":
        per_sample = min(layer.norm.pool.channels, width)
        if per_sample * (inputs.batch if layer.norm.pool.samples else 1) < 2:
            raise out_of_domain("width", width, "at least 2 for this pool", "widen the network")
    fan_in = inputs.features.shape[1] if isinstance(inputs, DataInputs) else width
    if layer.weights.centered and min(fan_in, width) < 2:
        raise out_of_domain(
            "width",
            min(fan_in, width),
            "at least 2 inputs per row for centered weights",
            "a centered row with one entry is zero; widen the network or give more features",
        )


def _warn_if_dead(second_moment: FloatArray) -> None:
    dead = int((second_moment[:, -1] == 0.0).sum())
    if dead:
        warnings.warn(
            f"{dead} of {len(second_moment)} networks died: the activations of the last layer are "
            "all 0, so logarithms are -inf and angles NaN.  Widen the network.",
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


def _provenance(network: FeedForward, inputs: Inputs) -> dict[str, Any]:
    """What is needed to run it again, as JSON-compatible values."""
    blas = [
        f"{pool['internal_api']} {pool['version']} ({pool.get('architecture', 'unknown')})"
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    ]
    return {
        "network": repr(network),
        "network_spec": serialize.to_dict(network),
        "network_key": serialize.key(network),
        "inputs": _describe(inputs),
        "inputs_key": serialize.key(inputs),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "numba": numba.__version__,
        },
        "blas": sorted(set(blas)),
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def _describe(inputs: Inputs) -> str:
    """Repr of the inputs; of arrays only the shape, their key says the rest."""
    if isinstance(inputs, ExchangeableInputs):
        return repr(inputs)
    array = inputs.features if isinstance(inputs, DataInputs) else inputs.covariance
    return f"{type(inputs).__name__}(shape={array.shape})"
