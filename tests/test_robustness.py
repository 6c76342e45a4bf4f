"""Hostile arguments, files and moments: pinned findings of ``tests.fuzz``, and a small run of it."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from fuzz.files import WHOLE, as_anybody, damage, make_whole
from fuzz.state import snapshot
from fuzz.targets import BATCH, NET, enumerate_targets
from threadpoolctl import threadpool_info, threadpool_limits

import montecarlo as mc
import theory as th
from montecarlo import entry
from montecarlo.commands.output import hushed
from theory.errors import NormcompassError
from theory.forecast import announce, in_words, paced

ROOT = Path(__file__).parents[1]
ARRAY = np.ones((2, 3))
MASKED = np.ma.array([[1.0, 2.0], [2.0, 1e9]], mask=[[False, False], [False, True]])
SIMULATION = mc.simulate(NET, BATCH, width=8, replicates=2, workers=1)
GRID = mc.simulate_many({"GN": NET}, BATCH, widths=[8, 16, 32], replicates=2, workers=1)
PREDICTION = th.predict(NET, BATCH)
FIT = mc.extrapolate(GRID.values(), observable="similarity", layer=1)
FORMULA = th.symbolic.similarity_map(th.Layer())

# (call, word of the sentence): each was once a TypeError, an IndexError, a NaN or worse.
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "batch is an array": (lambda: th.fixed_point(NET, batch=ARRAY), "batch"),
    "positions are an array": (lambda: th.fixed_point(NET, positions=ARRAY), "positions"),
    "inputs are a number": (lambda: th.fixed_point(NET, 3.0), "inputs"),
    "batch beyond exact floats": (lambda: th.exchangeable(batch=10**400, gap=1.0), "batch"),
    "backward is an array": (lambda: th.predict(NET, BATCH, backward=ARRAY), "backward"),
    "depth nobody follows": (lambda: th.predict(th.FeedForward(NET.layer, depth=10**8), BATCH), "depth"),
    "regime of a string": (lambda: th.regime("BN", BATCH), "network"),
    "correlations are text": (lambda: th.correlation_map(NET, "ab"), "correlations"),
    "moments are a dict": (lambda: th.phase_portrait(NET, {}, [0.5]), "second_moments"),
    "trajectory from text": (lambda: th.correlation_map(NET, [0.5]).trajectory("a", steps=2), "correlation"),
    "order is an array": (lambda: th.Residual(th.Layer(), depth=2, order=ARRAY), "order"),
    "branch is an array": (lambda: th.Residual(th.Layer(), depth=2, branch=ARRAY), "branch"),
    "channels are an array": (lambda: th.Pool(samples=True, positions=True, channels=ARRAY), "channels"),
    "no number of blocks": (lambda: th.deep_norm_constants(float("nan")), "blocks"),
    "scale is text": (lambda: th.relu.affine(scale="a"), "scale"),
    "threshold is None": (lambda: th.tlu(None), "threshold"),
    "rank of NaN samples": (lambda: th.batch_norm().rank(batch=float("nan"), positions=1), "batch"),
    "first is a set": (
        lambda: th.cross_batch_similarity(th.Layer(norm=th.batch_norm()), th.from_data(ARRAY), first=set()), "first"
    ),
    "indent is a number of inf": (lambda: th.to_json(NET, indent=1e300), "indent"),
    "sizes without an end": (lambda: th.frontier(group_sizes=...), "group_sizes"),
    "branches are added as a dict": (lambda: th.branch_end_second_moment(3, added={}), "added"),
    "a set of no predictions": (lambda: th.PredictionSet(1.0), "predictions"),
    "axes are a number": (lambda: PREDICTION.plot(3.0), "ax"),
    "label is a number": (lambda: SIMULATION.plot(label=3.0), "label"),
    "layers are text": (lambda: PREDICTION.plot_spectrum(layers="ab"), "layers"),
    "no such observable": (lambda: mc.extrapolate(GRID.values(), observable="nothing", layer=1), "observable"),
    "simulations are numbers": (lambda: mc.extrapolate([1.0], observable="gap", layer=1), "simulations"),
    "curved is a number": (lambda: mc.extrapolate(GRID.values(), observable="gap", layer=1, curved=2), "curved"),
    "width below zero": (lambda: FIT.at(-1.0), "width"),
    "tolerance of nothing": (lambda: FIT.width_for(1e-300), "tolerance"),
    "means of nothing": (lambda: mc.Estimate.of(np.empty((0, 3))), "samples"),
    "networks without room": (lambda: mc.simulate(NET, BATCH, width=8, replicates=2**53), "replicates"),
    "widths are an array": (lambda: mc.simulate_many({"a": NET}, BATCH, widths=ARRAY, replicates=1), "widths"),
    "store is a list": (lambda: mc.Store([]), "path"),
    "path with a zero byte": (lambda: mc.Store("a\0b"), "path"),
    "loading a list": (lambda: mc.load([]), "path"),
    "loading a device": (lambda: th.Prediction.load("/dev/zero"), "not a file"),
    "saving nowhere": (lambda: SIMULATION.save("/nowhere/a.json"), "cannot write"),
    "method is an array": (lambda: mc.simulate(NET, BATCH, width=8, replicates=1, method=ARRAY), "method"),
    "symbol is a dict": (lambda: FORMULA.at(c={}), "c = "),
    "symbol is NaN": (lambda: FORMULA.at(c=float("nan")), "c = "),
    "digits are text": (lambda: FORMULA.value(digits="ab", c=0.5), "digits"),
    "mean beyond its square": (lambda: th.exchangeable(batch=3, gap=0.5, feature_mean=1e300), "feature_mean"),
    "mean beyond its square, over positions": (
        lambda: th.exchangeable(batch=3, gap=0.5, positions=4, position_correlation=0.5, feature_mean=1e300),
        "feature_mean",
    ),
    "images of uneven rows": (lambda: th.exchangeable_from_data([[1.0, 2.0], [3.0]]), "features"),
    "eps beyond the map's range": (
        lambda: th.fixed_point(th.FeedForward(th.Layer(norm=th.rms_norm(eps=1e300)), depth=2)), "outside the range"
    ),
    "a fixed point of infinite moment": (
        lambda: th.fixed_point(th.FeedForward(th.Layer(weights=th.gaussian(weight_variance=1e300)), depth=2)),
        "weight_variance",
    ),
    "width beyond exact floats": (lambda: mc.simulate(NET, BATCH, width=10**400, replicates=1), "width"),
    "simulations of no dimension": (
        lambda: mc.extrapolate(np.array(0.5), observable="gap", layer=1), "simulations"
    ),
    "points of nothing": (lambda: th.PredictionSet({"a": PREDICTION}).plot(simulations={"a": None}), "simulations"),
    "weights beyond one layer's range": (
        lambda: th.predict(
            th.FeedForward(th.Layer(weights=th.centered_weights(weight_variance=1e300)), depth=3), BATCH
        ),
        "weight_variance",
    ),
    "a profile of NaN examples": (lambda: th.testing.Profile("a", 1, float("nan"), 1.0), "per_name"),
    "groups whose factorials take minutes": (
        lambda: th.symbolic.similarity_map(th.Layer(norm=th.group_norm(10**6))), "norm"
    ),
    "numbers of hundreds of digits": (
        lambda: th.symbolic.fixed_point(th.Layer(weights=th.gaussian(weight_variance=5e-324))), "weight_variance"
    ),
    "path is this folder": (lambda: mc.Store("."), "not a file"),
    "loading this folder": (lambda: th.Prediction.load("."), "not a file"),
    "path is half a character": (lambda: mc.Store("\ud800"), "path"),
    "a scheduler of no address": (
        lambda: mc.simulate(NET, BATCH, width=8, replicates=2, client="$\\frac{$"), "client"
    ),
    "masked features": (lambda: th.from_data(MASKED), "masked"),
    "masked covariance": (lambda: th.from_covariance(np.ma.array(np.eye(2), mask=np.eye(2))), "masked"),
    "masked images": (lambda: th.images(np.ma.array(np.ones((2, 1, 3, 3)), mask=True)), "masked"),
    "masked images, measured": (
        lambda: th.exchangeable_from_data(np.ma.array(np.ones((2, 1, 3, 3)), mask=True)), "masked"
    ),
    "masked correlations": (
        lambda: th.correlation_map(NET, np.ma.array([0.0, 0.5], mask=[True, False])), "masked"
    ),
    "masked samples": (lambda: mc.Estimate.of(MASKED), "masked"),
    "affine is an array": (lambda: th.testing.activations(affine=np.eye(2)), "affine"),
    "width of 5e-324": (lambda: FIT.at(5e-324), "width"),
    "label is half a character": (lambda: FIT.plot(label="ä☃\udcff"), "label"),
    "label is a wrong formula": (lambda: FIT.plot(label="$\\frac{$"), "label"),
    "curve's label is half a character": (lambda: th.frontier(group_sizes=(4,)).plot(label="\udcff"), "label"),
    "normalizer's name is half a character": (
        lambda: dataclasses.replace(th.batch_norm(), name="\udcff"), "name"
    ),
    "weights' name in JSON is half a character": (
        lambda: th.from_json(th.to_json(th.gaussian()).replace("gaussian", "\\udcff")), "name"
    ),
    "a network's name is half a character": (lambda: th.predict_many({"\udcff": NET}, BATCH), "networks"),
    "a simulated network's name is half a character": (
        lambda: mc.simulate_many({"\udcff": NET}, BATCH, widths=8, replicates=1), "networks"
    ),
    "an inputs' name is half a character": (
        lambda: mc.simulate_many({"a": NET}, {"\udcff": BATCH}, widths=8, replicates=1), "inputs"
    ),
    "a prediction's name is no text": (lambda: th.PredictionSet({3: PREDICTION}), "predictions"),
    "no predictions": (lambda: th.PredictionSet({}), "predictions"),
    "no observables": (lambda: th.PredictionSet({"a": PREDICTION}).plot(observables=[]), "observables"),
    "no layers": (lambda: PREDICTION.plot_spectrum(layers=[]), "layers"),
    "no group sizes": (lambda: th.frontier(group_sizes=()), "group_sizes"),
    "no such formula": (lambda: th.symbolic.derivation(3), "name"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_a_sentence(name: str) -> None:
    call, word = REFUSED[name]
    with pytest.raises(NormcompassError, match=word) as caught:
        call()
    assert 30 < len(str(caught.value)) < 1500


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["pipe.json", "pipe.npz"])
@pytest.mark.parametrize("result", [PREDICTION, SIMULATION], ids=lambda r: type(r).__name__)
def test_a_pipe_that_nobody_reads_is_not_waited_for(
    tmp_path: Path, result: th.Prediction | mc.Simulation, name: str
) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(th.StoreError, match="it is a pipe; name a file"):
        result.save(tmp_path / "pipe.json")


def test_networks_that_died_have_an_infinite_error() -> None:
    found = mc.Estimate.of(np.array([[-np.inf, 1.0], [0.0, 2.0]]))
    assert found.mean.tolist() == [-np.inf, 1.5]
    assert found.sem.tolist() == [np.inf, 0.5]


def test_squares_that_overflow_have_an_infinite_error() -> None:
    assert mc.Estimate.of(np.array([[0.0], [1e300]])).sem == np.inf


def test_a_bar_leaves_the_random_state() -> None:
    """Rich draws from it when it is imported first, so in a process of its own."""
    code = """
import random
import montecarlo as mc
from tests.fuzz.targets import BATCH, NET
before = random.getstate()
mc.simulate(NET, BATCH, width=8, replicates=2, workers=1, progress=True)
assert random.getstate() == before
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_a_long_id_is_shortened(tmp_path: Path) -> None:
    with mc.Store(tmp_path / "runs.db") as store, pytest.raises(th.StoreError) as caught:
        store.find("x" * 2000)
    assert len(str(caught.value)) < 300


def test_replicates_in_uneven_rows(tmp_path: Path) -> None:
    with mc.Store(tmp_path / "runs.db") as store:
        mc.simulate(NET, BATCH, width=8, replicates=2, workers=1, store=store)
        (run,) = store.runs()
        for indices in ([[1.0, 2.0], [3.0]], np.ones((2, 2)), np.array(1)):
            with pytest.raises(th.SpecificationError, match="indices"):
                store.read(run, indices)  # type: ignore[arg-type]
        assert store.read(run, np.array([1, 0])).shape[0] == 2


@pytest.mark.parametrize(
    "label", ["_x", "a\0b", "$x", r"\$\frac{\$", "x\ny", "\N{GRINNING FACE}", "<b>&%_"]
)
@pytest.mark.filterwarnings("ignore:Glyph")
def test_any_other_name_is_drawn_and_written(label: str) -> None:
    norm = dataclasses.replace(th.batch_norm(), name=label)
    found = th.predict_many({label: th.FeedForward(th.Layer(norm=norm), depth=2)}, BATCH)
    found.to_frame().to_csv().encode()
    found.plot(simulations={label: SIMULATION}).canvas.draw()
    found[label].plot().ax.figure.canvas.draw()
    assert th.from_json(th.to_json(norm)) == norm
    plt.close("all")


@pytest.mark.parametrize("sizes", [(3,), (10**9,)])
def test_a_frontier_of_one_point_or_none_is_drawn(sizes: tuple[int, ...]) -> None:
    """Of an infinite growth there is no point; of 10^9 channels it is at the corner."""
    th.frontier(group_sizes=sizes).plot().ax.figure.canvas.draw()
    plt.close("all")


def test_an_error_of_1e_300_is_not_reached() -> None:
    with pytest.warns(UserWarning, match="do not reach target_sem"):
        mc.simulate(
            NET, BATCH, width=8, replicates=2, workers=1, target_sem=1e-300, max_replicates=4
        )


def test_sides_may_be_numbers_of_numpy() -> None:
    side = np.int64(4)
    inputs = th.exchangeable(batch=3, gap=0.5, positions=(side, side), position_correlation=0.5)
    assert inputs == th.exchangeable(batch=3, gap=0.5, positions=(4, 4), position_correlation=0.5)


# Whatever these networks are on, no NaN and no error of NumPy: numbers, or a sentence.
EXTREME = {
    "weights of 5e-324": th.Layer(weights=th.gaussian(weight_variance=5e-324)),
    "weights of 1e300": th.Layer(weights=th.gaussian(weight_variance=1e300), norm=th.group_norm(4)),
    "eps of 1e300": th.Layer(norm=th.batch_norm(eps=1e300)),
    "scale of 1e300": th.Layer(activation=th.relu.affine(scale=1e300)),
    "shift of 1e300": th.Layer(activation=th.tanh.affine(shift=1e300), norm=th.batch_norm()),
    "groups of 2**53": th.Layer(norm=th.group_norm(2**53)),
}


@pytest.mark.parametrize("name", EXTREME)
def test_extreme_networks_have_numbers_or_a_sentence(name: str) -> None:
    sentences: list[str] = []
    for inputs in (
        BATCH,
        th.exchangeable(batch=2**53, gap=5e-324),
        th.from_covariance(np.diag([1e-150, 1e150])),
    ):
        try:
            found = th.predict(th.FeedForward(EXTREME[name], depth=3), inputs)
        except NormcompassError as error:
            sentences.append(str(error))
            continue
        for observable in th.OBSERVABLES:
            assert not np.isnan(getattr(found, observable)).any()
    assert all(len(sentence) > 30 for sentence in sentences)


def test_every_public_name_is_fuzzed() -> None:
    assert len(enumerate_targets()) > 130


def test_a_small_fuzz() -> None:
    """Every public name once, and more of the frequent ones (no random failure: the seed is fixed)."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--seed", "0", "--calls", "200", "--commands", "0"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 undocumented outcomes" in done.stdout


def test_global_state_stays() -> None:
    """NumPy's, Matplotlib's and BLAS's settings, filters, random states, files and threads."""
    calls: tuple[Callable[[], Any], ...] = (
        lambda: th.predict(NET, BATCH),
        lambda: th.predict(th.FeedForward(th.Layer(norm=th.evonorm_s0(4), activation=th.identity), depth=1), BATCH),
        lambda: th.fixed_point(NET),
        lambda: mc.simulate(NET, BATCH, width=8, replicates=2, workers=1),
        lambda: PREDICTION.plot(),
        lambda: mc.compare(PREDICTION, SIMULATION).plot(),
        lambda: FORMULA.value(c=0.5, digits=40),
        lambda: th.symbolic.similarity_map(th.Layer(norm=th.group_norm(4))).lambdify(),
        lambda: PREDICTION.to_frame(),
    )  # fmt: skip
    for call in calls:
        call()
        plt.close("all")
        before = snapshot()
        call()
        plt.close("all")
        after = snapshot()
        assert {name for name in before if before[name] != after[name]} == set()


def _blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_threads_share_the_limit_of_blas_and_give_it_back() -> None:
    """Two simulations at once, one ending while the other computes: 2 threads before, 2 after."""
    with threadpool_limits(limits=2):
        before = _blas_threads()
        jobs = [
            threading.Thread(
                target=mc.simulate, args=(NET, BATCH), kwargs={"width": 64, "replicates": r, "workers": 1}
            )
            for r in (3, 40, 20)
        ]  # fmt: skip
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()
        assert _blas_threads() == before


def test_inside_a_users_own_workers_nothing_is_started() -> None:
    """Each of two joblib workers: no process of ours, one thread of BLAS while it draws."""
    code = """
import joblib, json, os, threading
from threadpoolctl import threadpool_info
import montecarlo as mc, montecarlo.jobs as jobs
from tests.fuzz.targets import NET, BATCH

def work(_):
    import montecarlo.jobs as jobs
    from threadpoolctl import threadpool_info
    seen, run = [], jobs.interpreter.run
    def watched(*a, **k):
        seen.append(max(p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"))
        return run(*a, **k)
    jobs.interpreter.run = watched
    mc.simulate(NET, BATCH, width=256, replicates=4, workers=4)
    children = [p for p in os.listdir("/proc") if p.isdigit() and _parent(p) == os.getpid()]
    return max(seen), len(children), threading.active_count()

def _parent(pid):
    try:
        return int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1])
    except OSError:
        return -1

if __name__ == "__main__":
    print(json.dumps(joblib.Parallel(2)(joblib.delayed(work)(i) for i in range(2))))
"""
    if not Path("/proc").exists():
        pytest.skip("counts processes in /proc")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for threads, children, alive in json.loads(done.stdout):
        assert threads == 1
        assert children == 0
        assert alive <= 4


def _peak(**arguments: Any) -> int:
    """Peak resident bytes of a process that simulates."""
    code = (
        "import montecarlo as mc, theory as th\n"
        "net = th.FeedForward(th.Layer(norm=th.batch_norm()), depth=20)\n"
        f"mc.simulate(net, th.exchangeable(batch=8, correlation=0.5), replicates=2, workers=1, **{arguments!r})\n"
        "status = open('/proc/self/status').read()\n"
        "print(status.partition('VmHWM:')[2].split()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return int(done.stdout) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak in /proc")
def test_memory_limit_is_kept() -> None:
    """20 layers of 1024 x 1024: 160 MiB of weights; under 240 MiB per process they are drawn twice."""
    limit = 240 * 2**20
    assert _peak(width=1024, method="direct", memory_limit=2**31) > limit
    assert _peak(width=1024, method="direct", memory_limit=limit) < limit
    with pytest.raises(
        th.SpecificationError, match=r"memory_limit = '100 MiB per process' .* at least"
    ):
        mc.simulate(NET, BATCH, width=1024, replicates=1, memory_limit=100 * 2**20)


class _Enough(Exception):
    """What was awaited has been said."""


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sentences of the logger; long work ends with the first."""
    sentences: list[str] = []

    def stop(record: logging.LogRecord) -> bool:
        sentences.append(record.getMessage())
        raise _Enough

    logger = logging.getLogger("normcompass")
    monkeypatch.setattr(logger, "filters", [stop])
    monkeypatch.setattr(logger, "level", logging.INFO)
    monkeypatch.setattr(logger, "_cache", {})
    return sentences


def test_costs_are_said_on_standard_error_beyond_a_minute(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "normcompass"):
        for seconds in (5.0, 30.0, 2400.0):
            announce(seconds, what="Prediction", remedy="fewer layers take less")
        with hushed(True):
            announce(2400.0, what="Prediction", remedy="less")
    assert caplog.messages == [
        "Prediction: about 30 s; fewer layers take less.",
        "Prediction: about 40 min; fewer layers take less.",
    ]
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert [in_words(s) for s in (61.0, 600.0, 7200.0, 1e6)] == ["61 s", "10 min", "2 h", "12 days"]
    code = """
from theory.forecast import announce
announce(30.0, what="a", remedy="b")
announce(2400.0, what="Prediction", remedy="fewer layers take less")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "Prediction: about 40 min; fewer layers take less.\n")


def test_a_long_loop_is_announced_once_without_its_slow_beginning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By a clock of ours: 5 s to prepare, then 0.5 s for each of 200 items."""
    now = [0.0]
    monkeypatch.setattr("theory.forecast.time.perf_counter", lambda: now[0])
    with caplog.at_level(logging.INFO, "normcompass"):
        for k in paced(range(200), what="Work", remedy="less takes less"):
            now[0] += 0.5 if k else 5.0
        for _ in paced(range(200), what="Short work", remedy="less"):
            now[0] += 0.01
    assert caplog.messages == ["Work: about 2 min; less takes less."]


LONG: dict[str, tuple[Callable[[], Any], str]] = {
    "EvoNorm-B0, 2,000 blocks": (
        lambda: th.predict(
            th.Residual(th.Layer(norm=th.evonorm_b0(), activation=th.identity), depth=2000),
            th.exchangeable(batch=8, correlation=0.3),
        ),
        "Prediction, forwards: about",
    ),
    "a map of sampled groups": (
        lambda: th.phase_portrait(
            th.FeedForward(th.Layer(norm=th.evonorm_s0(4), activation=th.identity), depth=1),
            np.linspace(0.5, 2.0, 50),
            np.linspace(0.0, 0.9, 50),
        ),
        "Phase portrait: about",
    ),
    "populations, 32 times as many of 32 times as many channels": (
        lambda: th.predict(
            th.Residual(th.Layer(norm=th.group_norm(8)), depth=100, order="post_activation"), BATCH, refine=32
        ),
        "Populations: about",
    ),
    "pairs of samples, 32 times as many of 32 times as many chains": (
        lambda: th.predict(
            th.Residual(th.Layer(norm=th.layer_norm()), depth=100, order="post_activation"), BATCH, refine=32
        ),
        "Pairs of samples: about",
    ),
    "10,000 networks": (
        lambda: mc.simulate(NET, BATCH, width=4096, replicates=10_000, method="direct", workers=1),
        "10000 networks: about",
    ),
    "10,000 networks of two kinds": (
        lambda: mc.simulate_many({"a": NET}, BATCH, widths=[2048, 4096], replicates=10_000, workers=1, method="direct"),
        "20000 networks: about",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LONG)
def test_what_takes_long_says_so_at_its_beginning(name: str, said: list[str]) -> None:
    """From Python as on the command line, which calls the same functions."""
    call, words = LONG[name]
    begun = time.process_time()
    with pytest.raises(_Enough):
        call()
    assert said[0].startswith(words)
    assert time.process_time() - begun < 30.0


def _run(words: list[str], cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "montecarlo", *words], cwd=cwd, env=environment, stderr=subprocess.PIPE,
        text=True, **options,
    )  # fmt: skip


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="drops capabilities of Linux")
def test_a_store_is_listed_where_nothing_can_be_written(tmp_path: Path) -> None:
    mc.simulate(NET, BATCH, width=8, replicates=2, workers=1, store=tmp_path / "runs.db")
    (tmp_path / "runs.db").chmod(0o444)
    tmp_path.chmod(0o555)
    done = _run(
        ["runs", "list", "runs.db"], tmp_path, stdout=subprocess.PIPE, preexec_fn=as_anybody
    )
    tmp_path.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert "1 runs" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["runs.db"]


def test_ctrl_c_before_a_command_begins_ends_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While options are read, Typer would end with 130 and no word."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("typer.core.TyperCommand.parse_args", interrupted)
    monkeypatch.setattr(sys, "argv", ["normcompass", "predict"])
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as end:
        entry.main()
    signal.signal(signal.SIGINT, before)
    assert end.value.code == 130
    assert capsys.readouterr().err.startswith("Interrupted: ")


def _heard(code: str) -> subprocess.CompletedProcess[str]:
    """Run the program, which a Ctrl-C of its own reaches whatever the tests were started behind."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows has no signal masks")
def test_ctrl_c_while_workers_start_is_heard_once_they_run() -> None:
    """Not lost, not seen by the workers, nothing said by joblib; mask and handler as before."""
    code = """
import os, signal
import montecarlo as mc, montecarlo.execution as execution
from tests.fuzz.targets import BATCH, NET

def mask(_):
    return sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, [])))

if __name__ == "__main__":
    print({tuple(found) for _, found in execution.execute(mask, range(4), workers=2)})
    start = execution.joblib.Parallel.__call__
    def interrupted(self, *a, **k):
        results = start(self, *a, **k)
        os.kill(os.getpid(), signal.SIGINT)
        print("started")
        return results
    execution.joblib.Parallel.__call__ = interrupted
    try:
        mc.simulate(NET, BATCH, width=64, replicates=400, workers=2)
    except KeyboardInterrupt:
        print("heard")
    print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, mask(0))
"""
    done = _heard(code)
    assert done.stdout.split("\n")[:-1] == ["{(2,)}", "started", "heard", "True []"], done.stderr
    assert done.stderr == ""


def test_ctrl_c_in_an_import_waits_for_its_end(tmp_path: Path) -> None:
    """A library that catches everything while it is imported does not swallow it; the status is 130."""
    (tmp_path / "swallow.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException:\n    pass\n"
    )
    code = """
import signal, sys, time
from montecarlo import cli, entry
def run():
    import swallow
    print("imported", flush=True)
    time.sleep(30)
    print("not heard")
cli.main = run
entry.main()
"""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (130, "imported\n")
    assert done.stderr == "Interrupted: nothing was begun.\n"
    assert time.monotonic() - begun < 20.0


def test_ctrl_c_in_a_finalizer_is_not_dropped() -> None:
    """Python would print that it ignores the exception, and go on."""
    code = """
import os, signal, time
from montecarlo import cli, entry
class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
def run():
    late = Finalized()
    del late
    time.sleep(30)
    print("not heard")
cli.main = run
entry.main()
"""
    done = _heard(code)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "Interrupted: nothing was begun.\n"


def test_ctrl_c_after_the_end_changes_nothing() -> None:
    """While Python ends: its default would be to die of the signal, silently, after the whole output."""
    code = """
import atexit, os, signal
from montecarlo import cli, entry
cli.main = lambda: print("done")
class Late:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
entry.late = Late()
atexit.register(os.kill, os.getpid(), signal.SIGINT)
entry.main()
"""
    done = _heard(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_ctrl_c_in_the_making_of_a_dataclass_ends_with_130() -> None:
    """CPython remembers a KeyboardInterrupt that left an exec of text, and would end by the signal."""
    code = """
import signal
from montecarlo import cli, entry
cli.main = lambda: exec("import os, signal; os.kill(os.getpid(), signal.SIGINT)\\nfor _ in range(10**9): pass")
entry.main()
"""
    done = _heard(code)
    assert (done.returncode, done.stderr) == (130, "Interrupted: nothing was begun.\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = _run(["predict", "--norm", "LN", "--depth", "2", "--json"], tmp_path, stdout=full)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "No space left" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a shell that closes streams")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("norm", "status"), [("BN", 0), ("nonsense", 2)])
def test_closed_streams_change_no_exit_status(closed: str, norm: str, status: int) -> None:
    command = f"{sys.executable} -m montecarlo predict --norm {norm} --depth 2 {closed}"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == status
    assert "Traceback" not in done.stderr


def test_damaged_files_are_read_whole_or_refused(tmp_path: Path) -> None:
    """Single bits, bytes, ends: a sentence, or what was saved up to text that means nothing to numbers."""
    make_whole(tmp_path / "whole")
    rng = random.Random(7)
    sentences: list[str] = []
    for number in range(150):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", folder)
        name = rng.choice(WHOLE)
        damage(rng, folder / name)
        try:
            if name == "runs.db":
                with mc.Store(folder / name) as store:
                    for run in store.runs():
                        assert np.isfinite(store.read(run, store.indices(run))).all()
            elif "simulation" in name:
                simulation = mc.load(folder / "simulation.json")
                assert simulation.width == 8
                assert repr(simulation)
            else:
                assert repr(th.Prediction.load(folder / "prediction.json"))
        except th.StoreError as error:
            sentences.append(str(error))
    assert len(sentences) > 75
    assert all(30 < len(sentence) < 1500 for sentence in sentences)


def test_text_of_a_store_that_is_none(tmp_path: Path) -> None:
    """A byte of the declarations that is no UTF-8, in a file whose pages are sound."""
    make_whole(tmp_path / "whole")
    path = tmp_path / "whole" / "runs.db"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"CREATE TABLE", b"CREATE\xa9TABLE", 1))
    with pytest.raises(th.StoreError, match="its text is none"):
        mc.Store(path)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nan"])
def test_a_scheduler_that_is_not_there_leaves_no_trace(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dask itself leaves its event loop behind, and draws from the user's generator how long it waits."""
    pytest.importorskip("distributed")
    monkeypatch.setattr("montecarlo.execution._CONNECT_SECONDS", 0.5)
    drawn = random.getstate()
    with pytest.raises(th.SpecificationError, match="client = "):
        mc.simulate(NET, BATCH, width=8, replicates=2, client=address)
    assert [thread.name for thread in threading.enumerate() if thread.name == "IO loop"] == []
    assert random.getstate() == drawn
