"""The command line as subprocesses: bad options, damaged files, full disks, closed pipes, Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

from tests.fuzz.calls import ROOT, Report
from tests.fuzz.files import as_anybody, furnish, make_whole

__all__ = ["run_commands"]

SECONDS = 120
"""On a busy machine; an idle one needs three."""

# Python's own start, before the program's first line, ends in Python's own words: a twentieth of a second,
# more where two commands share a busy processor.  After that Ctrl-C has to be heard by the program.
_START = 0.6

WORDS = (
    "nan", "inf", "-inf", "-1", "0", "1e300", "1e-300", "5e-324", "99999999999999999999", "", " ", "ä☃", "x" * 3000,
    "BN", "GN(8)", "GN(0)", "GN(99999999999)", "GN(-1)", "GN(8", "IN", "EvoNorm-B0", "--", "--json", "0x10", "1_000",
    "runs.db", "sealed.db", "empty.db", "text.json", "missing/x.db", "sealed/new.db", "sealed/runs.db", ".", "/dev/full",
    "loop.db", "x" * 300, "relu", "leaky_relu(nan)", "leaky_relu(1e300)", "tanh", "4x4", "0x0", "1/sqrt(L)", "SWS",
    "figure.png", "figure.xyz", "sealed/figure.png", "foreign.db", "pre-activation", "2GiB", "1B", "__class__",
)  # fmt: skip

BASES: tuple[tuple[str, ...], ...] = (
    ("predict", "--norm", "GN(4)", "--depth", "2", "--batch", "3"),
    ("predict", "--norm", "BN", "--depth", "2", "--batch", "4", "--json"),
    ("predict", "--norm", "LN", "--residual", "pre-activation", "--depth", "2", "--batch", "3", "--csv"),
    ("predict", "--norm", "IN", "--positions", "4", "--kernel", "3", "--depth", "2", "--batch", "2"),
    ("simulate", "--norm", "LN", "--depth", "2", "--width", "8", "--replicates", "2", "--batch", "3"),
    ("simulate", "--norm", "BN", "--depth", "2", "--width", "8", "--replicates", "2", "--store", "runs.db", "--json"),
    ("simulate", "--norm", "BN", "--depth", "2", "--width", "8", "--replicates", "2", "--store", "new.db"),
    ("simulate", "--norm", "LN", "--depth", "2", "--width", "8", "--replicates", "2", "--memory-limit", "1GiB"),
    ("simulate", "--norm", "LN", "--depth", "2", "--width", "8", "--replicates", "2", "--workers", "1", "--csv"),
    ("runs", "list", "runs.db"),
    ("runs", "show", "runs.db", ""),
    ("runs", "export", "runs.db", "", "--out", "out.csv"),
    ("runs", "export", "runs.db", "", "--per-network"),
    ("runs", "list", "sealed.db", "--json"),
    ("runs", "list", "sealed/runs.db", "--json"),
    ("--version",),
    ("verify", "--quick", "--only", "iii.batch-norm", "--inputs", "synthetic", "--out", "report"),
    ("figures", "--only", "maps", "--out", "figures"),
)  # fmt: skip
LONG = (
    ("simulate", "--norm", "BN", "--depth", "20", "--width", "512", "--replicates", "5000", "--workers", "2"),
    ("simulate", "--norm", "BN", "--depth", "20", "--width", "512", "--replicates", "5000", "--store", "new.db"),
    ("verify", "--quick", "--inputs", "digits", "--out", "report"),
    ("table",),
    ("claims",),
    ("figures", "--out", "figures"),
    ("calibrate",),
)  # fmt: skip
MODES = (
    "plain",
    "plain",
    "plain",
    "plain",
    "closed pipe",
    "full output",
    "Ctrl-C",
    "Ctrl-C",
    "small files",
    "sealed",
)


def run_commands(*, seed: int, first: int, count: int, report: Report) -> None:
    """Commands ``first`` ..., two at a time."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        make_whole(folder / "whole")

        def one(number: int) -> tuple[str, str, str | None]:
            return _run(seed, number, folder)

        with ThreadPoolExecutor(2) as pool:
            for text, said, complaint in pool.map(one, range(first, first + count)):
                report.outcomes[said] += 1
                if complaint:
                    report.fail(text, complaint)


def _run(seed: int, number: int, folder: Path) -> tuple[str, str, str | None]:
    """(reproducer, what happened, why that is not allowed)."""
    rng = Random(f"command {seed}, {number}")
    mode = rng.choice(MODES)
    words = list(rng.choice(LONG if mode == "Ctrl-C" else BASES))
    if mode != "Ctrl-C":
        for _ in range(rng.choice([0, 1, 1, 2])):
            _mutate(rng, words)
    place = folder / f"command-{number}"
    furnish(rng, folder / "whole", place)
    scratch = folder / f"scratch-{number}"
    scratch.mkdir()
    delay = rng.choice([0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.5, 4.0]) if mode == "Ctrl-C" else None
    after = f", Ctrl-C after {delay} s" if delay else ""
    shown = " ".join(word if len(word) < 50 else word[:50] + "..." for word in words)
    text = f"--seed {seed} --command {number}: ({mode}{after}) normcompass {shown}"
    status, errors = _execute(words, mode, delay, place, scratch)
    # Joblib removes its folders when it is imported next, if it was stopped before it could.
    left = [
        path.name
        for path in scratch.iterdir()
        if not path.name.startswith(("joblib", "loky", "pymp"))
    ]
    complaint = _complaint(words, status, errors, delay) or (
        f"left temporary files {left}" if left else None
    )
    return text, f"exit {status}", complaint


def _mutate(rng: Random, words: list[str]) -> None:
    values = [i for i, word in enumerate(words) if i and not word.startswith("--")]
    if values and rng.random() < 0.7:
        words[rng.choice(values)] = rng.choice(WORDS)
    elif rng.random() < 0.5:
        options = ("--eps", "--activation", "--weights", "--weight-variance", "--plot", "--correlation", "--skip",
                   "--branch", "--maps", "--seed", "--target-sem", "--stem", "--nonsense", "--json", "--csv",
                   "--inputs", "--dtype", "--method", "--workers", "--cross-correlation")  # fmt: skip
        words += [rng.choice(options), rng.choice(WORDS)]
    elif words:
        del words[rng.randrange(len(words))]


def _execute(
    words: list[str], mode: str, delay: float | None, place: Path, scratch: Path
) -> tuple[int | str, str]:
    """(exit status or "hang", standard error)."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg", "PYTHONFAULTHANDLER": "1",
    }  # fmt: skip
    output: int = subprocess.PIPE
    opened = -1
    if mode == "full output":
        output = opened = os.open("/dev/full", os.O_WRONLY)

    def prepare() -> None:
        as_anybody()
        os.setsid()
        # Behind nohup or a shell's & it would be ignored, and inherited as such.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if mode == "small files":
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    where = place / "sealed" if mode == "sealed" else place
    process = subprocess.Popen(
        [sys.executable, "-m", "montecarlo", *[word.replace("\0", "") for word in words]], cwd=where, env=environment,
        stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE, text=True, errors="replace",
        preexec_fn=prepare,
    )  # fmt: skip
    if opened >= 0:
        os.close(opened)
    if mode == "closed pipe":
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
    try:
        if delay is not None:
            time.sleep(delay)
            # A terminal's Ctrl-C reaches every process of the group.
            _quietly(lambda: os.killpg(process.pid, signal.SIGINT))
        _, errors = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        _quietly(lambda: os.killpg(process.pid, signal.SIGKILL))
        _, errors = process.communicate()
        return "hang", errors
    return process.returncode, errors


def _quietly(action: Callable[[], None]) -> None:
    with contextlib.suppress(ProcessLookupError):
        action()


def _complaint(words: list[str], status: int | str, errors: str, delay: float | None) -> str | None:
    """Statuses are documented, and every status but 0 and 1 comes with a sentence."""
    last = " | ".join(errors.strip().splitlines()[-3:])[:600]
    ours = "Interrupted" in errors or any(f"/{n}/" in errors for n in ("montecarlo", "theory"))
    if delay is not None and delay <= _START and status in (-signal.SIGINT, 1) and not ours:
        return None
    if status not in (0, 1, 2, 3, 130):
        return f"exit status {status}: {last}"
    if "Traceback" in errors or "Exception ignored" in errors:
        return f"traceback: {last}"
    # Without a command there is help, on standard output.
    if status in (2, 3, 130) and words and len(errors.strip()) < 20:
        return f"exit status {status} without a sentence: {errors!r}"
    return None
