"""The fuzz harness finds what is planted, and allows what it may: every kind of fault once."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import mpmath
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import montecarlo as mc
import theory as th
from tests.fuzz import calls, commands
from tests.fuzz.commands import _complaint, _execute
from tests.fuzz.judge import complaint_about_error, complaint_about_result
from tests.fuzz.targets import BATCH, NET, Target
from tests.fuzz.worker import Planned, outcome

PREDICTION = th.predict(NET, BATCH)
SIMULATION = mc.simulate(NET, BATCH, width=8, replicates=2, workers=1)


@pytest.fixture(autouse=True)
def _no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a worker of its own too long on the clock ends the process; here that would be pytest."""
    monkeypatch.setattr(
        "tests.fuzz.worker.faulthandler.dump_traceback_later", lambda *_, **__: None
    )


def judged(call: Callable[[], Any], folder: Path) -> str | None:
    """The harness's complaint about one call."""
    target = Target("planted", call, lambda _: {}, seconds=1)
    return outcome(Planned(target, {}, None, "planted()"), scratch=folder)[1]


def sample(name: str, value: float) -> mc.Simulation:
    found = np.array(SIMULATION.samples[name])
    found[0, 0] = value
    return dataclasses.replace(SIMULATION, samples={**SIMULATION.samples, name: found})


def observed(field: str, value: float) -> th.Prediction:
    changed = np.array(getattr(PREDICTION.activation, field))
    changed[0] = value
    return dataclasses.replace(
        PREDICTION, activation=PREDICTION.activation._replace(**{field: changed})
    )


def titled() -> Any:
    drawn = PREDICTION.plot()
    drawn.ax.set_title("$\\frac{$")
    return drawn


# What a call may return, and a word of the complaint.
RESULTS: dict[str, tuple[Callable[[], Any], str]] = {
    "a NaN": (lambda: float("nan"), "NaN in result"),
    "a NaN deep inside": (lambda: {"a": [(1.0, np.array([0.0, np.nan]))]}, "NaN in result.a.0.1"),
    "a NaN in a tuple's field": (
        lambda: th.fixed_point(NET).__class__ and dataclasses.replace(th.fixed_point(NET), slope=np.nan),
        "NaN in result.slope",
    ),
    "a NaN in a prediction": (lambda: observed("similarity", np.nan), "NaN in similarity"),
    "a similarity of 2": (lambda: observed("similarity", 2.0), "similarity beyond 1"),
    "a stable rank of 0.5": (lambda: observed("similarity", 1.5), ""),
    "an error that is NaN": (lambda: observed("gap_error", np.nan), "error of"),
    "a NaN in a simulation": (lambda: sample("variance", np.nan), "NaN in samples.variance"),
    "a NaN in a grid": (lambda: mc.Grid({("a", "b", 8): sample("variance", np.nan)}), "NaN in samples"),
    "a figure that cannot be drawn": (titled, "undocumented ValueError"),
}  # fmt: skip


@pytest.mark.parametrize("name", RESULTS)
def test_a_wrong_result_is_found(name: str, tmp_path: Path) -> None:
    call, word = RESULTS[name]
    complaint = judged(call, tmp_path)
    assert complaint is not None
    assert word in complaint


def test_a_nan_that_is_documented_or_announced_is_allowed() -> None:
    point = th.fixed_point(NET)
    assert np.isnan(point.position_correlation)
    assert complaint_about_result(point, []) is None
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        warnings.warn("2 networks died: angles are NaN.", th.RegimeWarning, stacklevel=1)
    assert complaint_about_result(sample("similarity", np.nan), raised) is None
    assert complaint_about_result(mc.Grid({("a", "b", 8): sample("gap", np.nan)}), raised) is None
    # A warning that speaks of something else announces nothing.
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        warnings.warn("heavy tails", th.RegimeWarning, stacklevel=1)
    assert complaint_about_result(sample("similarity", np.nan), raised) is not None


def raising(error: BaseException) -> Callable[[], Any]:
    def call() -> None:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (IndexError("list index out of range"), "undocumented IndexError"),
        (ZeroDivisionError("division by zero"), "undocumented ZeroDivisionError"),
        (ValueError("no"), "undocumented ValueError"),
        (AssertionError(), "undocumented AssertionError"),
        (th.SpecificationError("no"), "says too little"),
        (th.StoreError("x" * 2000), "says too"),
        (th.NumericalError("the answer of this network came out as nan"), "without a remedy"),
    ],
)
def test_a_wrong_error_is_found(error: Exception, word: str, tmp_path: Path) -> None:
    complaint = judged(raising(error), tmp_path)
    assert complaint is not None
    assert word in complaint


def test_an_error_names_the_argument_that_was_junk() -> None:
    error = th.SpecificationError("batch = None is not valid: it must be an integer; count.")
    assert complaint_about_error(error, th.predict, "batch") is None
    assert "does not name width" in str(complaint_about_error(error, th.predict, "width"))


def endless() -> None:
    while True:
        pass


def swallowing() -> None:
    """Not even a handler of every Exception takes the end of the time."""
    while True:
        with contextlib.suppress(Exception):
            endless()


@pytest.mark.parametrize("call", [endless, swallowing])
def test_a_hang_is_found(call: Callable[[], Any], tmp_path: Path) -> None:
    assert judged(call, tmp_path) == "took more than 1 s"


def test_a_warning_is_found(tmp_path: Path) -> None:
    def overflows() -> Any:
        return float(np.array(1e300) * np.array([1e300])[0] * 0.0 + 1.0) and np.exp([1000.0])[0]

    assert "RuntimeWarning" in str(judged(overflows, tmp_path))
    assert "UserWarning" in str(judged(lambda: warnings.warn("a", stacklevel=1), tmp_path))


# What a call may leave changed, what says so, and how to put it right.
CHANGES: dict[str, tuple[Callable[[], Any], str, Callable[[], Any]]] = {
    "NumPy's error state": (lambda: np.seterr(over="ignore"), "np.geterr", lambda: np.seterr(over="warn")),
    "print options": (
        lambda: np.set_printoptions(precision=3), "printoptions", lambda: np.set_printoptions(precision=8)
    ),
    "np.random": (lambda: np.random.rand(), "np.random", lambda: None),  # noqa: NPY002
    "random": (lambda: random.random(), "random", lambda: None),
    "rcParams": (lambda: mpl.rcParams.update({"lines.linewidth": 7.0}), "rcParams", mpl.rcdefaults),
    "filters": (lambda: warnings.simplefilter("ignore"), "warnings.filters", lambda: None),
    "mpmath": (lambda: setattr(mpmath.mp, "prec", 99), "mpmath", lambda: setattr(mpmath.mp, "prec", 53)),
    "environment": (lambda: os.environ.update(A_PLANT="1"), "environment", lambda: os.environ.pop("A_PLANT")),
    "folder": (lambda: os.chdir("/"), "folder", lambda: None),
    "signals": (
        lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN), "signals",
        lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    ),
    "recursion": (
        lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 1), "recursion",
        lambda: sys.setrecursionlimit(sys.getrecursionlimit() - 1),
    ),
    "log handlers": (
        lambda: logging.getLogger().addHandler(PLANTED), "log handlers",
        lambda: logging.getLogger().removeHandler(PLANTED),
    ),
    "hooks": (
        lambda: setattr(sys, "excepthook", print), "hooks",
        lambda: setattr(sys, "excepthook", sys.__excepthook__),
    ),
}  # fmt: skip
PLANTED = logging.NullHandler()
LIMITS: list[Any] = []  # restored where they are collected


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_global_state_is_found(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    change, word, undo = CHANGES[name]
    try:
        complaint = judged(change, tmp_path)
    finally:
        undo()
    assert complaint is not None
    assert "changed" in complaint
    assert word in complaint
    assert judged(lambda: None, tmp_path) is None


def test_a_thread_that_stays_is_found(tmp_path: Path) -> None:
    stop = threading.Event()
    staying = threading.Thread(target=stop.wait, name="IO loop", daemon=True)
    complaint = judged(staying.start, tmp_path)
    stop.set()
    staying.join()
    assert "IO loop" in str(complaint)


def test_a_limit_of_blas_that_stays_is_found(tmp_path: Path) -> None:
    with threadpool_limits(limits=2):
        complaint = judged(lambda: LIMITS.append(threadpool_limits(limits=1)), tmp_path)
    assert "BLAS threads" in str(complaint)


def test_a_temporary_file_that_stays_is_found(tmp_path: Path) -> None:
    def leaves() -> None:
        tempfile.mkstemp(dir=tmp_path)[0]

    assert "left temporary files" in str(judged(leaves, tmp_path))


def test_figures_are_the_callers(tmp_path: Path) -> None:
    assert judged(PREDICTION.plot, tmp_path) is None
    assert plt.get_fignums() == []


def test_a_process_that_dies_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a segmentation fault, or of too much time spent where no signal is heard."""
    worker = tmp_path / "python"
    worker.write_text(
        '#!/bin/sh\necho \'{"call": 3, "text": "planted()"}\'\necho died of it >&2\nkill -SEGV $$\n'
    )
    worker.chmod(0o755)
    monkeypatch.setattr(calls.sys, "executable", str(worker))
    report = calls.Report()
    assert calls._watch(0, 3, 5, tmp_path, report) == 4
    ((reproducer, complaint),) = report.failures
    assert reproducer == "--seed 0 --call 3: planted()"
    assert "ended with -11: died of it" in complaint


# (status, standard error, seconds until Ctrl-C) of a command, and a word of the complaint, if there is one.
STARTING = 'Traceback (most recent call last):\n  File "<frozen runpy>"\nKeyboardInterrupt\n'
OURS = (
    'Traceback (most recent call last):\n  File "/a/montecarlo/cli.py", line 1\nKeyboardInterrupt\n'
)
STATUSES: list[tuple[int | str, str, float | None, str | None]] = [
    (0, "", None, None),
    (2, "Error: eps = -1 is not valid: it must be positive.", None, None),
    (2, "", None, "without a sentence"),
    (3, "no\n", None, "without a sentence"),
    (1, OURS, None, "traceback"),
    (0, "Exception ignored in: <function a>\n", None, "traceback"),
    (-11, "", None, "exit status -11"),
    (4, "Error: this is a whole sentence.", None, "exit status 4"),
    ("hang", "", None, "exit status hang"),
    ("hang", "", 4.0, "exit status hang"),
    (130, "Interrupted: nothing was begun.\n", 4.0, None),
    (130, "", 4.0, "without a sentence"),
    (-2, "Interrupted: nothing was begun.\n", 0.2, "exit status -2"),
    (-2, "Interrupted: nothing was begun.\n", 4.0, "exit status -2"),
    (-2, OURS, 0.2, "exit status -2"),
    (-2, STARTING, 4.0, "exit status -2"),
    (-2, "", 4.0, "exit status -2"),
    (-2, "", None, "exit status -2"),
    (-2, STARTING, 0.2, None),
    (-2, "", 0.2, None),
]


@pytest.mark.parametrize(("status", "errors", "delay", "word"), STATUSES)
def test_the_end_of_a_command_is_judged(
    status: int | str, errors: str, delay: float | None, word: str | None
) -> None:
    complaint = _complaint(["predict"], status, errors, delay)
    assert complaint is None if word is None else word in str(complaint)


PROGRAMS = {
    "hang": ("import time; time.sleep(60)", "plain", None, "hang"),
    "deaf": (
        "import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(60)",
        "Ctrl-C",
        1.0,
        "hang",
    ),
    "fault": ("import os; os.abort()", "plain", None, "exit status -6"),
    "traceback": ("1/0", "plain", None, "traceback"),
    "full disk": ("print('a' * 10**6)", "full output", None, "traceback"),
    "large file": (
        "open('a', 'w').write('a' * 10**6)",
        "small files",
        None,
        "traceback",
    ),
    "closed pipe": ("import time; time.sleep(0.3); print('a' * 10**6)", "closed pipe", None, "traceback"),
    "sealed": ("open('a', 'w')", "sealed", None, "traceback"),
}  # fmt: skip


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="drops capabilities of Linux")
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_with_a_fault_is_found(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, mode, delay, word = PROGRAMS[name]
    root, place, scratch = tmp_path / "root", tmp_path / "place", tmp_path / "scratch"
    (root / "montecarlo").mkdir(parents=True)
    (root / "montecarlo" / "__init__.py").write_text("")
    (root / "montecarlo" / "__main__.py").write_text(source)
    (place / "sealed").mkdir(parents=True)
    (place / "sealed").chmod(0o555)
    scratch.mkdir()
    monkeypatch.setattr(commands, "ROOT", root)
    monkeypatch.setattr(commands, "SECONDS", 3)
    begun = time.monotonic()
    status, errors = _execute(["predict"], mode, delay, place, scratch)
    assert word in str(_complaint(["predict"], status, errors, delay))
    assert time.monotonic() - begun < 30.0
