"""execute: the same results wherever jobs run; errors, early ends and dead workers leave no mess."""

from __future__ import annotations

import builtins
import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial

import joblib
import psutil
import pytest

from montecarlo import execution
from montecarlo.execution import ExecutionError, execute, worker_count
from theory.errors import HypothesisError, SpecificationError

distributed = pytest.importorskip("distributed")

JOBS = range(40)
EXPECTED = [(i, math.sqrt(i)) for i in JOBS]

# Three quick jobs, of which it tells, and then minutes of work.
LONG_RUN = """
import time
from montecarlo.execution import execute
for index, _ in execute(time.sleep, [0.01] * 3 + [60.0] * 20, workers=2):
    print(index, flush=True)
"""


@contextlib.contextmanager
def cluster_of(**options):
    """A Dask cluster of this machine, on free ports."""
    with distributed.LocalCluster(
        threads_per_worker=1, dashboard_address=":0", worker_dashboard_address=":0", **options
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client():
    """A client of two worker processes with one thread each."""
    with (
        cluster_of(n_workers=2, processes=True) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(params=["serial", "processes", "cluster"])
def place(request):
    """Keyword arguments of execute: all three places."""
    if request.param == "cluster":
        return {"workers": 1, "client": request.getfixturevalue("client")}
    return {"workers": 1 if request.param == "serial" else 2}


class Unpackable:
    def __reduce__(self):
        return int, ("no number",)


def loky_workers():
    """Process ids of the loky workers of this process; its resource tracker is none."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any("popen_loky" in word for word in child.cmdline()):
                found.append(child.pid)
    return found


class TestResults:
    def test_all_jobs_once_and_the_same_everywhere(self, place):
        assert sorted(execute(math.sqrt, JOBS, **place)) == EXPECTED

    def test_no_jobs(self, place):
        assert list(execute(math.sqrt, [], **place)) == []

    def test_functions_without_a_name(self, place):
        assert sorted(execute(lambda i: i + 1, range(5), **place)) == [(i, i + 1) for i in range(5)]

    def test_serial_is_lazy_and_in_order(self):
        done = []
        results = execute(done.append, JOBS, workers=1)
        assert done == []
        assert [next(results)[0], next(results)[0]] == [0, 1]
        assert done == [0, 1]

    def test_arguments_that_look_like_a_task_of_dask_are_left_alone(self, place):
        jobs = [(abs, -3), ["sum", (sum, [1, 2])]]
        assert sorted(execute(len, jobs, **place)) == [(0, 2), (1, 2)]

    def test_more_jobs_than_joblib_or_the_scheduler_get_at_once(self, place, monkeypatch):
        monkeypatch.setattr(execution, "_SEGMENT", 7)
        assert sorted(execute(math.sqrt, JOBS, **place)) == EXPECTED

    def test_the_cluster_gets_a_few_jobs_per_thread(self, client):
        asked = []

        class Jobs(list):
            def __iter__(self):
                for job in super().__iter__():
                    asked.append(job)
                    yield job

        results = execute(abs, Jobs(range(120)), workers=1, client=client)
        for taken, _ in enumerate(results, start=1):
            # One window with the scheduler, one here waiting to be taken; two threads.
            assert len(asked) - taken < 2 * execution._AHEAD * 2
        assert taken == 120

    def test_an_address_serves_as_client(self, client):
        address = client.scheduler.address
        assert sorted(execute(math.sqrt, JOBS, workers=1, client=address)) == EXPECTED


class TestErrors:
    def test_an_error_in_a_job_arrives_as_it_is(self, place):
        def fail(job):
            if job == 3:
                error = HypothesisError("no variance")
                error.add_note("while simulating BN")
                raise error
            return job

        with pytest.raises(HypothesisError, match="no variance") as caught:
            list(execute(fail, JOBS, **place))
        assert "while simulating BN" in caught.value.__notes__
        assert sorted(execute(math.sqrt, JOBS, **place)) == EXPECTED

    def test_unreachable_scheduler(self, monkeypatch):
        monkeypatch.setattr(execution, "_CONNECT_SECONDS", 0.5)
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
            with pytest.raises(SpecificationError, match=f"client = '{address}' is not valid"):
                next(execute(abs, JOBS, workers=1, client=address))

    @pytest.mark.parametrize("wrong", ["what://nowhere", "tcp://127.0.0.1:none", 3, object()])
    def test_no_client(self, wrong, monkeypatch):
        monkeypatch.setattr(execution, "_CONNECT_SECONDS", 0.5)
        with pytest.raises(SpecificationError, match="client = "):
            next(execute(abs, JOBS, workers=1, client=wrong))

    def test_without_distributed(self, monkeypatch):
        original = builtins.__import__

        def missing(name, *args, **kwargs):
            if name.startswith("distributed"):
                raise ImportError(name)
            return original(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", missing)
        with pytest.raises(SpecificationError, match=r"pip install 'normcompass\[cluster\]'"):
            next(execute(abs, JOBS, workers=1, client="tcp://127.0.0.1:8786"))

    def test_distributed_is_imported_only_when_used(self):
        code = "import sys, montecarlo.execution; sys.exit('distributed' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestEarlyEnd:
    def test_closing_cancels_what_is_left(self, place):
        results = execute(time.sleep, [0.01, 0.01] + [0.5] * 60, **place)
        next(results)
        start = time.perf_counter()
        results.close()
        # 60 jobs on two workers would take 15 s.
        assert time.perf_counter() - start < 5
        assert sorted(execute(math.sqrt, JOBS, **place)) == EXPECTED

    def test_closing_leaves_no_processes(self):
        results = execute(time.sleep, [0.01, 0.01] + [60.0] * 20, workers=2)
        next(results)
        assert len(loky_workers()) == 2
        results.close()
        deadline = time.perf_counter() + 5
        while loky_workers() and time.perf_counter() < deadline:
            time.sleep(0.05)
        assert loky_workers() == []

    def test_closing_leaves_nothing_with_the_scheduler(self, client):
        results = execute(time.sleep, [0.01] + [0.2] * 50, workers=1, client=client)
        next(results)
        results.close()
        # What already ran ends, and is forgotten.
        tasks = partial(client.run_on_scheduler, lambda dask_scheduler: len(dask_scheduler.tasks))
        deadline = time.perf_counter() + 10
        while tasks() and time.perf_counter() < deadline:
            time.sleep(0.05)
        assert tasks() == 0

    @pytest.mark.skipif(os.name != "posix", reason="signals to a process group")
    def test_ctrl_c(self):
        process = subprocess.Popen(
            [sys.executable, "-W", "always", "-c", LONG_RUN],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for _ in range(3):
            process.stdout.readline()
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        _, complaints = process.communicate(timeout=20)
        assert process.returncode == -signal.SIGINT
        assert complaints.count("Traceback") == 1
        assert complaints.rstrip().endswith("KeyboardInterrupt")
        assert psutil.wait_procs(children, timeout=5)[1] == []

    @pytest.mark.skipif(os.name != "posix", reason="signals")
    def test_workers_do_not_outlive_a_killed_parent(self):
        command = [sys.executable, "-c", LONG_RUN]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(3):
            process.stdout.readline()
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.communicate(timeout=20)
        assert psutil.wait_procs(children, timeout=10)[1] == []


class TestDeadWorkers:
    def test_a_dead_process_of_this_machine(self):
        def die(job):
            if job == 20:
                os.kill(os.getpid(), signal.SIGKILL)
            return job

        with pytest.raises(ExecutionError, match=r"memory ran out.*results stored so far are kept"):
            list(execute(die, JOBS, workers=2))
        assert sorted(execute(math.sqrt, JOBS, workers=2)) == EXPECTED

    def test_what_a_process_cannot_unpack_is_not_taken_for_a_dead_one(self):
        with pytest.raises(Exception, match="un-serialize") as caught:
            list(execute(abs, [Unpackable()] * 4, workers=2))
        assert not isinstance(caught.value, ExecutionError)

    def test_a_cluster_goes_on_without_the_dead_worker(self, client):
        def slow_root(job):
            time.sleep(0.03)
            return math.sqrt(job)

        client.wait_for_workers(2, timeout=30)
        before = set(client.run(os.getpid).values())
        results = []
        for result in execute(slow_root, JOBS, workers=1, client=client):
            results.append(result)
            if len(results) == 8:
                os.kill(min(before), signal.SIGKILL)
        assert sorted(results) == EXPECTED
        client.wait_for_workers(2, timeout=30)
        assert set(client.run(os.getpid).values()) != before

    def test_a_job_that_kills_every_worker(self, client):
        def die(job):
            if job == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return job

        client.wait_for_workers(2, timeout=30)

        def allow(failures, dask_scheduler):
            before, dask_scheduler.allowed_failures = dask_scheduler.allowed_failures, failures
            return before

        before = client.run_on_scheduler(allow, 0)
        try:
            with pytest.raises(ExecutionError, match=r"1 Dask workers died.*memory ran out"):
                list(execute(die, range(4), workers=1, client=client))
        finally:
            client.run_on_scheduler(allow, before)
        client.wait_for_workers(2, timeout=30)
        assert sorted(execute(math.sqrt, JOBS, workers=1, client=client)) == EXPECTED

    def test_a_scheduler_that_goes_away(self):
        with cluster_of(n_workers=1, processes=False) as cluster:
            results = execute(time.sleep, [0.05] * 99, workers=1, client=cluster.scheduler_address)
            next(results)
            cluster.close()
            with pytest.raises(ExecutionError, match="scheduler went away"):
                list(results)


class TestNesting:
    def test_default_is_all_cores(self):
        assert worker_count(None) == joblib.cpu_count()
        assert worker_count(3) == 3

    @pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "2"])
    def test_domain(self, wrong):
        with pytest.raises(SpecificationError, match="workers"):
            worker_count(wrong)

    @pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
    def test_one_inside_a_worker_of_joblib(self, backend):
        pool = joblib.Parallel(n_jobs=2, backend=backend)
        assert pool(joblib.delayed(worker_count)(workers) for workers in (None, 4)) == [1, 1]

    def test_one_inside_a_worker_of_dask(self, client):
        assert client.submit(worker_count, None, pure=False).result() == 1
        with (
            cluster_of(n_workers=1, processes=False) as cluster,
            distributed.Client(cluster, set_as_default=False) as inside,
        ):
            assert inside.submit(worker_count, None, pure=False).result() == 1

    @pytest.mark.parametrize("place", ["processes", "cluster"], indirect=True)
    def test_execute_inside_execute_stays_in_its_process(self, place):
        def roots(count):
            inner = execute(lambda i: (os.getpid(), math.sqrt(i)), range(count), workers=2)
            return [(index, pid == os.getpid(), root) for index, (pid, root) in inner]

        expected = [(i, True, root) for i, root in EXPECTED[:3]]
        assert sorted(execute(roots, [3, 3], **place)) == [(0, expected), (1, expected)]

    def test_jobs_in_threads_of_one_process_leave_blas_at_one_thread(self):
        # In a process of its own, because it lasts.
        code = """
import threading
import numpy
from threadpoolctl import threadpool_info, threadpool_limits
from montecarlo.execution import _with_one_blas_thread

def job(last):
    with threadpool_limits(limits=1):
        both.wait()
    if last:
        first.join()  # by now the first job has given back its own limit
    seen.append({pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"})

seen = []
both = threading.Barrier(2, timeout=10)
first, second = (
    threading.Thread(target=_with_one_blas_thread, args=(job, last)) for last in (False, True)
)
second.start(), first.start(), second.join()
assert seen == [{1}, {1}], seen
"""
        threads = {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
        subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | threads)
