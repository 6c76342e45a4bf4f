"""Collapsed simulation: against PyTorch and our direct one, at width 10^6, and on two workers.

    pytest benchmarks/test_collapsed.py -s                 # the targets, pass or fail, with their figures

One thread on each side.  PyTorch's side is the bare pass with explicit float32 weights, their drawing
included; ours includes every observable.
"""

from __future__ import annotations

import math
import resource
import subprocess
import sys
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import montecarlo as mc
from benchmarks.rivals import Torchs, alternate
from montecarlo.costs import network_bytes
from montecarlo.experiment import Experiment
from montecarlo.jobs import Job, run_job
from montecarlo.normals import fill_standard_normal
from theory.specs.inputs import exchangeable
from theory.specs.networks import FeedForward, Layer
from theory.specs.normalizers import batch_norm

DEPTH = 20
NETWORK = FeedForward(Layer(norm=batch_norm()), depth=DEPTH)


@pytest.fixture(autouse=True)
def one_thread():
    with threadpool_limits(limits=1):
        yield


def experiment(*, width, batch, method):
    inputs = exchangeable(batch=batch, correlation=0.5)
    return Experiment(
        network=NETWORK, inputs=inputs, width=width, seed=0, dtype="float32", method=method
    )


@pytest.mark.parametrize("width", [256, 1024, 4096])
def test_network(benchmark, width):
    benchmark(lambda: run_job(Job(experiment(width=width, batch=16, method="collapsed"), (0,))))


@pytest.mark.parametrize(("width", "at_least"), [(1024, 12.0), (4096, 80.0)])
def test_target_pytorch(width, at_least):
    """Batch 16, depth 20, BN + relu, forward and backward."""
    ours, direct = (
        experiment(width=width, batch=16, method=method) for method in ("collapsed", "direct")
    )
    torchs = Torchs(batch_norm(), width=width, batch=16, depth=DEPTH, redraw=True)
    # Several networks a call, as in an ensemble; the inputs are realized once.
    few = tuple(range(16 if width == 1024 else 4))
    sides = (lambda: run_job(Job(ours, few)), torchs, lambda: run_job(Job(direct, (0,))))
    alternate(*sides, rounds=1)
    collapsed, pytorch, explicit = alternate(*sides, rounds=12 if width == 1024 else 4)
    collapsed /= len(few)
    print(
        f"\nwidth {width}: collapsed {1e3 * collapsed:.2f} ms, PyTorch {1e3 * pytorch:.0f} ms "
        f"({pytorch / collapsed:.0f} x), our direct {1e3 * explicit:.0f} ms ({explicit / collapsed:.0f} x)"
    )
    assert pytorch >= at_least * collapsed


WIDEST = 10**6


def test_target_million():
    """Width 10^6, batch 8, depth 20, forward and backward: at most 60 s and 8 GiB."""
    code = (
        "import sys; sys.path.insert(0, '.');"
        "from benchmarks.test_collapsed import one_million; one_million()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, peak, growth = map(float, done.stdout.split())
    floor = normals_seconds(2 * DEPTH * WIDEST * 8) + traffic_seconds()
    estimate = network_bytes(experiment(width=WIDEST, batch=8, method="collapsed"), keep=True)
    print(
        f"\nwidth 10^6: {seconds:.1f} s, {peak / 2**30:.2f} GiB (estimated {estimate / 2**30:.2f}); "
        f"floor (random numbers + memory traffic) {floor:.1f} s; log gradient growth {growth:.4f}"
    )
    assert seconds <= 60
    assert peak <= 8 * 2**30


def one_million():
    """Print seconds, peak bytes and the result of one network; in a process of its own."""
    job = Job(experiment(width=WIDEST, batch=8, method="collapsed"), (0,))
    run_job(Job(experiment(width=64, batch=8, method="collapsed"), (0,)))  # compile
    start = time.perf_counter()
    table = run_job(job)
    seconds = time.perf_counter() - start
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(seconds, peak, table[0, -1, 0])


def normals_seconds(count):
    out = np.empty(10**7, dtype=np.float32)
    start = time.perf_counter()
    fill_standard_normal(np.random.SeedSequence(0), out)
    return (time.perf_counter() - start) * count / out.size


def traffic_seconds():
    """h, x, x rotated and Z written forwards; these, the gradients and N read or written backwards."""
    array = np.ones((WIDEST, 8), dtype=np.float32)
    target = np.empty_like(array)
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, array)  # one read, one write
        best = min(best, time.perf_counter() - start)
    return DEPTH * 8 * best


def test_target_two_workers():
    """Two workers at least 1.8 times as fast as one, on two idle cores."""
    inputs = exchangeable(batch=16, correlation=0.5)

    def networks(workers, seed):
        mc.simulate(
            NETWORK, inputs, width=1024, replicates=600, seed=seed, dtype="float32", workers=workers
        )

    networks(2, 1)  # starts the processes, compiles
    one, two = alternate(lambda: networks(1, 0), lambda: networks(2, 0), rounds=3)
    print(f"\n600 networks: one worker {one:.2f} s, two {two:.2f} s, {one / two:.2f} x")
    assert one >= 1.8 * two
