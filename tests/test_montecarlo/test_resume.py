"""SIGKILL at any moment, then the same call again: the table is the uninterrupted one, bit by bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pandas as pd
import pytest

import montecarlo as mc
from theory.specs.inputs import exchangeable
from theory.specs.networks import FeedForward, Layer
from theory.specs.normalizers import batch_norm, layer_norm

SEED = 20261121
NETWORKS = {
    "BN": FeedForward(Layer(norm=batch_norm()), depth=6),
    "LN": FeedForward(Layer(norm=layer_norm()), depth=6),
}
INPUTS = exchangeable(batch=6, correlation=0.5)
WIDTHS = [256, 512]
REPLICATES = 400

# The same grid in a process that can be killed; it says when its imports are done, and when it is.
SCRIPT = """
    import sys
    sys.path[:0] = {path!r}
    import montecarlo.store
    from montecarlo import collect
    from theory.specs.inputs import exchangeable
    from theory.specs.networks import FeedForward, Layer
    from theory.specs.normalizers import batch_norm, layer_norm
    import montecarlo as mc

    networks = {{
        "BN": FeedForward(Layer(norm=batch_norm()), depth=6),
        "LN": FeedForward(Layer(norm=layer_norm()), depth=6),
    }}
    collect._JOB_SECONDS = 0.02  # many commits
    {hook}
    print("ready", flush=True)
    mc.simulate_many(
        networks, exchangeable(batch=6, correlation=0.5), widths={widths}, replicates={replicates},
        store={store!r}, workers={workers},
    )
    print("done", flush=True)
"""


def start(store, *, workers=1, hook=""):
    code = SCRIPT.format(
        path=sys.path,
        hook=textwrap.indent(textwrap.dedent(hook), "    ").strip(),
        widths=WIDTHS,
        replicates=REPLICATES,
        store=str(store),
        workers=workers,
    )
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def grid(store=None):
    return mc.simulate_many(NETWORKS, INPUTS, widths=WIDTHS, replicates=REPLICATES, store=store)


@pytest.fixture(scope="module")
def uninterrupted():
    return grid()


@pytest.fixture(scope="module")
def durations(tmp_path_factory):
    """Seconds of an uninterrupted run by its number of workers (which take time to start)."""
    seconds = {}
    for workers in (1, 2):
        child = start(tmp_path_factory.mktemp("whole") / "runs.db", workers=workers)
        started = time.perf_counter()
        child.communicate()
        seconds[workers] = time.perf_counter() - started
    return seconds


def assert_resumes(store, uninterrupted):
    """Finish the run; return how many networks the killed process had stored."""
    rest = grid(store)
    pd.testing.assert_frame_equal(rest.to_frame(), uninterrupted.to_frame(), check_exact=True)
    for cell, simulation in uninterrupted.items():
        for name, values in simulation.samples.items():
            np.testing.assert_array_equal(rest[cell].samples[name], values)
    with mc.Store(store) as opened:
        assert [run.replicates for run in opened.runs()] == [REPLICATES] * len(uninterrupted)
    return sum(simulation.provenance["from_store"] for simulation in rest.values())


def kill_after(seconds, store, *, workers=1):
    child = start(store, workers=workers)
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()  # its workers, orphans now, hold the other end for a moment


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_once(tmp_path, uninterrupted, durations, workers):
    moment = np.random.default_rng(SEED + workers).uniform(0.2, 0.8)
    store = tmp_path / "runs.db"
    kill_after(moment * durations[workers], store, workers=workers)
    kept = assert_resumes(store, uninterrupted)
    print(f"killed at {moment:.2f} of the run, {kept} networks kept")


@pytest.mark.parametrize("commit", [1, 2, 7])
def test_killed_inside_a_commit(tmp_path, uninterrupted, commit):
    """The rows are written, COMMIT is not: the transaction never happened."""
    hook = f"""
        import itertools, os, signal
        count = itertools.count(1)
        def die():
            if next(count) == {commit}:
                os.kill(os.getpid(), signal.SIGKILL)
        montecarlo.database._before_commit = die
    """
    store = tmp_path / "runs.db"
    child = start(store, hook=hook)
    output, _ = child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert "done" not in output
    assert_resumes(store, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(20))
def test_killed_at_a_uniform_moment(tmp_path, uninterrupted, durations, index):
    """20 moments, uniform over the run: ``default_rng((SEED, index))``."""
    moment = np.random.default_rng((SEED, index)).uniform()
    workers = 1 + index % 2
    store = tmp_path / "runs.db"
    kill_after(moment * durations[workers], store, workers=workers)
    kept = assert_resumes(store, uninterrupted)
    print(
        f"seed {(SEED, index)}, {workers} worker(s): killed at {moment:.3f} of "
        f"{durations[workers]:.2f} s, {kept} of {4 * REPLICATES} networks kept"
    )


def test_resumed_run_computes_nothing_twice(tmp_path, monkeypatch):
    """A second call with more networks asks only for the new ones."""
    from montecarlo import collect

    asked = []
    original = collect.run_job
    monkeypatch.setattr(collect, "run_job", lambda job: asked.extend(job.indices) or original(job))
    store = tmp_path / "runs.db"
    arguments = {"width": 64, "seed": 3, "store": store, "workers": 1}
    mc.simulate(NETWORKS["BN"], INPUTS, replicates=20, **arguments)
    more = mc.simulate(NETWORKS["BN"], INPUTS, replicates=50, **arguments)
    assert sorted(asked) == list(range(50))
    assert more.provenance["from_store"] == 20
    assert os.path.getsize(store) > 0
