"""Start workers, watch over them, collect what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.files import as_anybody

__all__ = ["Report", "run_calls"]

ROOT = Path(__file__).parents[2]


@dataclass
class Report:
    """Number of calls by outcome, and (reproducer, complaint) of those that are not allowed."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)
    names: Counter[str] = field(default_factory=Counter)

    def fail(self, reproducer: str, complaint: str) -> None:
        """Keep it, and say so at once: a run takes minutes."""
        self.failures.append((reproducer, complaint))
        sys.stdout.write(f"\n{reproducer}\n    {complaint}\n")
        sys.stdout.flush()

    @property
    def total(self) -> int:
        """Calls made."""
        return self.outcomes.total()


def run_calls(*, seed: int, first: int, count: int, report: Report) -> None:
    """Calls ``first`` ... in a process of their own; another one goes on where one died."""
    end = first + count
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        while first < end:
            first = _watch(seed, first, end - first, Path(folder), report)


def _watch(seed: int, first: int, count: int, folder: Path, report: Report) -> int:
    """The first call that is left to be made."""
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.worker",
        *map(str, (seed, first, count)),
        str(folder),
    ]
    # Two BLAS threads: one that a call leaves behind is noticed.
    threads = {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2", "MPLBACKEND": "Agg"}
    environment = os.environ | threads | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}
    errors = folder / "stderr"
    with (
        errors.open("w") as stream,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=stream, text=True,
            preexec_fn=as_anybody,
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        begun: tuple[int, str] | None = None
        done = first
        for line in process.stdout:
            said = json.loads(line)
            if "text" in said:
                begun = (said["call"], said["text"])
                continue
            assert begun is not None
            done = said["call"] + 1
            report.outcomes[said["said"]] += 1
            report.names[said["name"]] += 1
            if said["complaint"]:
                report.fail(f"--seed {seed} --call {begun[0]}: {begun[1]}", said["complaint"])
            begun = None
    if process.returncode == 0:
        return done
    last = errors.read_text(errors="replace").strip().splitlines()
    reason = f"the process ended with {process.returncode}: {' | '.join(last[:3] + last[-3:])}"
    if begun is None:
        raise SystemExit(f"the worker failed, {reason}")
    report.outcomes["process died"] += 1
    report.fail(f"--seed {seed} --call {begun[0]}: {begun[1]}", reason)
    return begun[0] + 1
