"""Run independent jobs: in this process, in processes of this machine, or on a Dask cluster.

Jobs are pure functions of their description, so that where they run, in which order, and how often
they are started again after a worker died decides nothing but the time they take.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.resource_tracker
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cache, partial
from itertools import islice
from typing import Any, TypeVar

import joblib
from joblib.externals.loky.backend import resource_tracker
from joblib.externals.loky.process_executor import TerminatedWorkerError
from joblib.parallel import get_active_backend

from montecarlo.threads import one_blas_thread
from theory.errors import NormcompassError, SpecificationError, out_of_domain
from theory.specs._check import integer

__all__ = ["ExecutionError", "execute", "worker_count"]

J = TypeVar("J")
R = TypeVar("R")

# Jobs with the scheduler per thread of a cluster: enough that none waits, few enough for memory.
_AHEAD = 4

# joblib keeps results that nobody has taken yet, however many; so it gets this many jobs per worker
# at a time.  Workers that are done early wait once in so many jobs.
_SEGMENT = 256

_CONNECT_SECONDS = 10.0
_FIRST_JOBS_SECONDS = 0.2

# What joblib says when its results are not all wanted, which is no mistake here.
_UNUSED_RESULTS = r"\d+ tasks (have been successfully executed|which were still being processed)"

_KEPT = "results stored so far are kept"


class ExecutionError(NormcompassError):
    """Workers were lost and their jobs with them; the jobs are not to blame, and can be run again."""


def execute(
    function: Callable[[J], R],
    jobs: Sequence[J],
    *,
    workers: int,
    client: Any | None = None,
) -> Generator[tuple[int, R], None, None]:
    """Yield (i, function(jobs[i])) for every i, as the jobs are done.

    Closing the iterator, an exception in its consumer included, cancels the jobs that are left; local
    processes are stopped, jobs that run on a cluster run to their end and are forgotten.

    Parameters
    ----------
    function, jobs
        Both travel to the workers by pickle (cloudpickle for what has no importable name).  Workers
        of the cluster need this package, in the same version.
    workers
        Processes of this machine; 1 runs the jobs here, one after the other, as they are asked for.
        Inside a worker of joblib, multiprocessing or Dask it counts as 1: those workers have the
        cores already.  Only one iterator with processes may be open at a time.
    client
        A ``distributed.Client``, or the address of a Dask scheduler: the jobs run on its cluster
        (``workers`` has no say), and wait for workers if there are none yet.  Jobs have one
        BLAS thread each.

    Raises
    ------
    SpecificationError
        ``client`` is no client or cannot be reached, or distributed is not installed.
    ExecutionError
        A local worker died, a job killed every Dask worker it was given to (the scheduler tries
        ``distributed.scheduler.allowed-failures`` more of them), or the scheduler went away.
    Exception
        Whatever a job raises, as it is; the other jobs are cancelled.
    """
    if client is not None:
        return _on_cluster(function, jobs, client)
    workers = min(worker_count(workers), len(jobs))
    if workers > 1:
        return _in_processes(function, jobs, workers)
    return ((index, function(job)) for index, job in enumerate(jobs))


def worker_count(workers: int | None) -> int:
    """``workers``, by default all cores this process may use; 1 inside somebody else's worker.

    Raises
    ------
    SpecificationError
        ``workers`` is not a positive integer.
    """
    if workers is not None:
        workers = integer("workers", workers, low=1, remedy="None uses all cores")
    if _inside_a_worker():
        return 1
    return joblib.cpu_count() if workers is None else workers


def _inside_a_worker() -> bool:
    """Whether this code is itself a job of joblib, of multiprocessing or of Dask."""
    backend, _ = get_active_backend()
    if (backend.nesting_level or 0) > 0 or multiprocessing.current_process().daemon:
        return True
    if "distributed.worker" in sys.modules:
        with contextlib.suppress(ValueError):  # says that there is none
            return sys.modules["distributed.worker"].get_worker() is not None
    return False


def _in_processes(
    function: Callable[[J], R], jobs: Sequence[J], workers: int
) -> Generator[tuple[int, R], None, None]:
    for start in range(0, len(jobs), _SEGMENT * workers):
        segment = range(start, min(start + _SEGMENT * workers, len(jobs)))
        pool = joblib.Parallel(
            n_jobs=workers,
            backend="loky",
            return_as="generator_unordered",
            batch_size=1,
            pre_dispatch=2 * workers,  # more than loky's queue holds breaks its way to stop
            max_nbytes=None,  # memory maps are read-only: jobs would see other arrays than here
        )
        run = joblib.delayed(partial(_numbered, function, parent=os.getpid()))
        results = None
        try:
            with _deaf_to_interrupts():
                results = pool(run(i, jobs[i]) for i in segment)
            # Not `yield from`, which would close `results` before its warning is silenced.
            for result in results:  # noqa: UP028
                yield result
        except TerminatedWorkerError as error:
            raise ExecutionError(
                f"one of {workers} worker processes died, most likely because memory ran out: take "
                f"fewer workers or a lower memory_limit and run it again; {_KEPT}."
            ) from error
        finally:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", _UNUSED_RESULTS, UserWarning)
                if results is not None:
                    results.close()


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started within never see Ctrl-C, not even while they import: they inherit that it is blocked.

    This process hears of it at the end: starting workers takes a moment, seconds where old ones stop first.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    for tracker in (resource_tracker, multiprocessing.resource_tracker):
        tracker.ensure_running()  # lifts the mask when it starts
    main = threading.current_thread() is threading.main_thread()  # elsewhere handlers cannot be set
    heard: list[int] = []
    # Another thread, which is not masked, may take the signal: this one would raise all the same.
    handler = signal.signal(signal.SIGINT, lambda number, _: heard.append(number)) if main else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if main:
            signal.signal(signal.SIGINT, signal.SIG_DFL if handler is None else handler)
        if heard:
            # Loky's thread fills its queue at first, and would fail where that is taken away.
            time.sleep(_FIRST_JOBS_SECONDS)
            signal.raise_signal(signal.SIGINT)


def _numbered(function: Callable[[J], R], index: int, job: J, *, parent: int) -> tuple[int, R]:
    if os.getpid() != parent:
        _settle_in()
    return index, function(job)


@cache
def _settle_in() -> None:
    """Once per worker process: leave Ctrl-C to the parent, and do not outlive it."""
    # A terminal sends Ctrl-C to all its processes, but only the parent knows what to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _on_cluster(
    function: Callable[[J], R], jobs: Sequence[J], client: Any
) -> Generator[tuple[int, R], None, None]:
    try:
        import distributed
        from distributed.client import ClosedClientError
        from distributed.comm.core import CommClosedError
    except ImportError as error:
        raise SpecificationError(
            "client needs Dask, which is missing: run `pip install 'normcompass[cluster]'`."
        ) from error

    with _session(client) as session:
        try:
            yield from _through_a_window(function, jobs, session)
        except distributed.KilledWorker as error:
            raise ExecutionError(
                f"{error.allowed_failures + 1} Dask workers died of one job, most likely because "
                "memory ran out: give them more memory or fewer threads, or take a lower "
                f"memory_limit, and run it again; {_KEPT}."
            ) from error
        except (distributed.CancelledError, CommClosedError, ClosedClientError) as error:
            raise ExecutionError(
                "the Dask scheduler went away, or somebody cancelled the jobs: look at its logs and "
                f"run it again; {_KEPT}."
            ) from error


@contextlib.contextmanager
def _session(client: Any) -> Iterator[Any]:
    """The client itself, or one of our own for an address, closed at the end."""
    import distributed

    if isinstance(client, distributed.Client) and not client.asynchronous:
        yield client
        return
    domain = "the address of a running Dask scheduler, or a synchronous distributed.Client"
    if not isinstance(client, str):
        raise out_of_domain("client", client, domain, "connect with distributed.Client(address)")

    class Session(distributed.Client):  # type: ignore[misc]  # Dask has no types
        """A client that closes, with the thread of its event loop, where it cannot connect."""

        def start(self, **kwargs: Any) -> None:
            try:
                super().start(**kwargs)
            except BaseException:
                self.close()
                # Where the time ran out Dask has closed the client already, but not its loop.
                self._loop_runner.stop()
                raise

    # Dask draws how long it waits between attempts from the user's generator.
    drawn = random.getstate()
    try:
        session = Session(client, timeout=_CONNECT_SECONDS, set_as_default=False)
    except Exception as error:  # besides OSError and ValueError, assertions and tls without keys
        remedy = "start a scheduler with `dask scheduler`, or check host and port"
        raise out_of_domain("client", client, domain, remedy) from error
    finally:
        random.setstate(drawn)
    with contextlib.closing(session):
        yield session


def _through_a_window(
    function: Callable[[J], R], jobs: Sequence[J], session: Any
) -> Generator[tuple[int, R], None, None]:
    """Keep a few jobs per thread with the scheduler, which a million at once would choke."""
    import distributed

    waiting = iter(enumerate(jobs))
    indices: dict[Any, int] = {}
    completed = distributed.as_completed(loop=session.loop)
    ready: list[tuple[int, R]] = []
    window = done = 0
    try:
        while True:
            if done >= window:  # clusters grow and shrink
                window, done = _AHEAD * max(1, sum(session.nthreads().values())), 0
            for index, job in islice(waiting, max(0, window - len(indices))):
                # A partial, because Dask looks for its own keys and tasks inside of arguments.
                future = session.submit(partial(_with_one_blas_thread, function, job), pure=False)
                indices[future] = index
                completed.add(future)
            yield from ready
            if not indices:
                return
            batch = completed.next_batch()
            results = session.gather(batch)
            ready = [(indices.pop(f), result) for f, result in zip(batch, results, strict=True)]
            done += len(ready)
    finally:
        if indices and session.status == "running":
            session.cancel(list(indices))


def _with_one_blas_thread(function: Callable[[J], R], job: J) -> R:
    with one_blas_thread():
        return function(job)
