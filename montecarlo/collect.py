"""Carry out experiments: look up what is stored, compute the rest, keep it.

Everything that may vary from run to run is here (workers, order, restarts, memory); none of it can
change a number, because network r is a function of its experiment and r.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from montecarlo.costs import network_bytes, network_seconds, physical_memory
from montecarlo.execution import execute, worker_count
from montecarlo.experiment import Experiment
from montecarlo.jobs import Job, compile_kernels, run_job
from montecarlo.progress import progress_bar
from montecarlo.records import environment
from theory.errors import out_of_domain
from theory.forecast import announce
from theory.specs._check import file_path, flag, integer

if TYPE_CHECKING:
    from montecarlo.store import Store

__all__ = ["Resources", "collect", "opened"]

FloatArray = NDArray[np.float64]

# Starting processes costs a second or two.
_WORTH_PROCESSES = 4.0
# A job is long enough that its overhead does not matter, and short enough that little is lost.
_JOB_SECONDS = 0.5
# Share of the machine's memory that networks may take without being asked to.
_SHARE = 0.8


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Where to compute and what to keep; see ``simulate``."""

    workers: int | None = None
    client: Any = None
    store: str | Path | Store | None = None
    memory_limit: int | None = None
    progress: bool = False
    # Whether to say beforehand what takes long.
    forecast: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None:
            integer("workers", self.workers, low=1, remedy="None uses all cores")
        if self.memory_limit is not None:
            integer("memory_limit", self.memory_limit, low=1, remedy="give it in bytes")
        flag("progress", self.progress)


def collect(
    wanted: Sequence[tuple[Experiment, int]],
    resources: Resources,
    *,
    begun: Sequence[FloatArray] | None = None,
) -> tuple[list[FloatArray], list[int]]:
    """Networks 0 ... R-1 of every (experiment, R).

    Parameters
    ----------
    wanted
        Experiments with the numbers of networks.
    resources
        Where to compute, what to keep.
    begun
        The first networks of each experiment, if they are known already.

    Returns
    -------
    (tables, computed)
        Arrays of shape (R, observables, depth), and how many networks were not there before.

    Raises
    ------
    SpecificationError
        A network that does not fit into the memory limit.
    ExecutionError, StoreError
        Workers were lost, or the store cannot be used; what was stored so far is kept.
    """
    for experiment, count in wanted:
        _require_room(experiment, count)
    tables = [
        np.empty((count, len(experiment.observables), experiment.network.depth))
        for experiment, count in wanted
    ]
    with opened(resources.store) as store:
        missing = []
        for index, (experiment, count) in enumerate(wanted):
            known = begun[index] if begun else tables[index][:0]
            tables[index][: len(known)] = known
            left = range(len(known), count)
            present = sorted(set(left) & set(store.indices(experiment))) if store else []
            if store and present:
                tables[index][present] = store.read(experiment, present)
            missing.append(sorted(set(left) - set(present)))
        _compute(wanted, missing, tables, store, resources)
    computed = [len(left) for left in missing]
    return tables, computed


def _require_room(experiment: Experiment, replicates: int) -> None:
    """The observables of every network are held in memory."""
    each = 8 * len(experiment.observables) * experiment.network.depth
    most = int(min(_SHARE * physical_memory(), 2.0**62)) // each
    if replicates > most:
        raise out_of_domain(
            "replicates",
            replicates,
            f"at most {most} of depth {experiment.network.depth} in this machine's memory",
            "simulate fewer networks, or with other seeds in several calls",
        )


def _compute(
    wanted: Sequence[tuple[Experiment, int]],
    missing: Sequence[Sequence[int]],
    tables: Sequence[FloatArray],
    store: Store | None,
    resources: Resources,
) -> None:
    work = [(experiment, left) for (experiment, _), left in zip(wanted, missing, strict=True)]
    seconds = sum(network_seconds(experiment) * len(left) for experiment, left in work)
    workers = resources.workers
    networks = sum(map(len, missing))
    if workers is None:
        workers = worker_count(None) if seconds > _WORTH_PROCESSES else 1
    workers = max(1, min(workers, networks))
    if resources.forecast and resources.client is None:
        announce(
            seconds / workers,
            what=f"{networks} networks",
            remedy="fewer replicates or a smaller width take less, a store keeps what is done",
        )
    jobs: list[Job] = []
    owner: list[int] = []
    for index, (experiment, left) in enumerate(work):
        if left:
            keep = _keeps_factors(experiment, workers, resources)
            chunks = _chunks(experiment, left, keep=keep, workers=workers)
            jobs += chunks
            owner += [index] * len(chunks)
    if workers > 1 and resources.client is None:
        # Compiled here, once, so that workers find the machine code on disk.
        for dtype in sorted({job.experiment.dtype for job in jobs}):
            compile_kernels(dtype)
    results = execute(_signed, jobs, workers=workers, client=resources.client)
    with (
        contextlib.closing(results),
        progress_bar(networks=networks, seconds=seconds, shown=resources.progress) as advance,
    ):
        for number, (values, origin) in results:
            job = jobs[number]
            if store is not None:
                store.add(job.experiment, job.indices, values, computed_in=origin)
            tables[owner[number]][list(job.indices)] = values
            advance(len(job.indices), job.seconds)


def _signed(job: Job) -> tuple[FloatArray, Mapping[str, str]]:
    """The values, and the environment that computed them: on a cluster it may be another."""
    return run_job(job), environment()


def _chunks(
    experiment: Experiment, indices: Sequence[int], *, keep: bool, workers: int
) -> list[Job]:
    """Consecutive networks, several jobs per worker so that all finish together."""
    size = round(_JOB_SECONDS / network_seconds(experiment))
    size = max(1, min(size, len(indices) // (4 * workers)))
    return [
        Job(experiment, tuple(indices[low : low + size]), keep)
        for low in range(0, len(indices), size)
    ]


def _keeps_factors(experiment: Experiment, workers: int, resources: Resources) -> bool:
    """Whether random factors fit into memory; else they are drawn twice, if that is enough."""
    limit: float
    if resources.memory_limit is not None:
        limit = resources.memory_limit
    elif resources.client is None:
        limit = _SHARE * physical_memory() / workers
    else:
        limit = math.inf
    if network_bytes(experiment, keep=True) <= limit:
        return True
    least = network_bytes(experiment, keep=False)
    if least <= limit:
        return False
    other = ' method="collapsed",' if experiment.method == "direct" else ""
    raise out_of_domain(
        "memory_limit",
        f"{limit / 2**20:.4g} MiB per process",
        f"at least {least / 2**20:.4g} MiB for {experiment.method} networks of width "
        f"{experiment.width}, depth {experiment.network.depth}, batch {experiment.inputs.batch}",
        f'take{other} a smaller width or batch, fewer workers, dtype="float32", or backward=False',
    )


@contextlib.contextmanager
def opened(store: str | Path | Store | None) -> Iterator[Store | None]:
    """The store itself; a path is opened, checked from end to end, and closed again."""
    if store is None:
        yield None
        return
    from montecarlo.store import Store

    if isinstance(store, Store):
        yield store
        return
    with Store(file_path("store", store)) as opened:
        yield opened
