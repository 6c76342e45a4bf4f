"""The process in which hostile calls are made, one line of JSON before and after each.

``python -m tests.fuzz.worker SEED FIRST COUNT FOLDER``: call i is a function of (SEED, i).
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from tests.fuzz.files import WHOLE, damage, furnish, make_whole
from tests.fuzz.judge import complaint_about_error, complaint_about_result
from tests.fuzz.state import snapshot
from tests.fuzz.targets import Target, enumerate_targets
from tests.fuzz.values import JUNK, hostile

ADDRESS_SPACE = 6 * 2**30


class Hang(BaseException):
    """A call took longer than its target may; no handler of Exception may take it."""


class Planned(NamedTuple):
    """A call with its arguments, and the argument that is wrong if there is just one."""

    target: Target
    arguments: dict[str, Any]
    junk: str | None
    text: str


def plan(seed: int, number: int, targets: list[Target], whole: Path, folder: Path) -> Planned:
    """Valid arguments, one or two of them replaced."""
    rng = Random(f"{seed}, {number}")
    # Every name comes first once, then by weight.
    target = targets[number] if number < len(targets) else None
    if target is None:
        (target,) = rng.choices(targets, [t.weight for t in targets])
    furnish(rng, whole, folder)
    arguments = dict(target.arguments(folder))
    read = [
        str(name) for value in arguments.values() if (name := getattr(value, "name", None)) in WHOLE
    ]
    if read and rng.random() < 0.4:
        # Nothing wrong with the arguments: the file that they name is damaged, or its companion.
        twins = [name for name in WHOLE if name.split(".")[0] == read[0].split(".")[0]]
        path = folder / rng.choice(twins)
        if path.exists():  # it may be damaged already
            damage(rng, path)
        return Planned(target, arguments, None, f"{target.name}(...) of a damaged {path.name}")
    names = rng.sample(sorted(arguments), k=min(len(arguments), rng.choice([1, 1, 1, 2])))
    for name in names:
        arguments[name] = hostile(rng, name, arguments[name], folder)
    junk = None
    if len(names) == 1 and any(arguments[names[0]] is value for value in JUNK):
        junk = names[0]
    shown = ", ".join(f"{name}={_shown(arguments[name])}" for name in names)
    return Planned(target, arguments, junk, f"{target.name}(..., {shown})")


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(error).__name__} in repr>"
    text = " ".join(text.encode("ascii", "backslashreplace").decode().split())
    return text if len(text) <= 200 else text[:200] + "..."


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """At most so much processor time; after three times as much on the clock the process ends."""

    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    faulthandler.dump_traceback_later(3 * seconds, exit=True)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGVTALRM, before)


def outcome(planned: Planned, *, scratch: Path) -> tuple[str, str | None]:
    """(what happened, why that is not allowed)."""
    before, files = snapshot(), set(os.listdir(scratch))
    complaint: str | None
    result: Any = None
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        inside = list(warnings.filters)
        try:
            with limited(planned.target.seconds):
                result = planned.target.call(**planned.arguments)
                said, complaint = "result", complaint_about_result(result, raised)
        except Hang:
            said, complaint = "hang", f"took more than {planned.target.seconds} s"
        except Exception as error:
            said = type(error).__name__
            complaint = complaint_about_error(error, planned.target.call, planned.junk)
            result = error
        if list(warnings.filters) != inside:
            complaint = complaint or "changed warnings.filters"
    del result
    _close_figures()
    after = snapshot()
    changed = [name for name in before if before[name] != after[name]]
    if changed and said != "hang":
        what = "; ".join(f"{n}: {_shown(before[n])} -> {_shown(after[n])}" for n in changed)
        complaint = complaint or f"changed {what[:600]}"
    left = set(os.listdir(scratch)) - files
    if left:
        complaint = complaint or f"left temporary files: {sorted(left)[:3]}"
    return said, complaint


def _close_figures() -> None:
    # The caller's to close: plots hand them over.
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def main(seed: int, first: int, count: int, folder: Path) -> None:
    """Make the calls ``first`` ... ``first + count - 1``, and say so."""
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
    whole = folder / "whole"
    if not whole.exists():
        make_whole(whole)
    targets = enumerate_targets()
    _warm_up(targets, whole, folder)
    for number in range(first, first + count):
        place = Path(tempfile.mkdtemp(dir=folder)) / "files"
        planned = plan(seed, number, targets, whole, place)
        _tell({"call": number, "text": planned.text})
        os.chdir(folder)
        said, complaint = outcome(planned, scratch=scratch)
        _tell({"call": number, "name": planned.target.name, "said": said, "complaint": complaint})
        del planned
        if number % 100 == 0:
            gc.collect()
        shutil.rmtree(place.parent, ignore_errors=True)


def _warm_up(targets: list[Target], whole: Path, folder: Path) -> None:
    """Every call as it should be, so that what is imported once is no change; it has to succeed."""
    for target in targets:
        place = Path(tempfile.mkdtemp(dir=folder)) / "files"
        shutil.copytree(whole, place)
        try:
            target.call(**target.arguments(place))
        except Exception as error:
            raise SystemExit(f"{target.name} fails with its valid arguments: {error!r}") from error
        shutil.rmtree(place.parent)
    _close_figures()


def _tell(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    import matplotlib

    matplotlib.use("Agg")
    main(*map(int, sys.argv[1:4]), Path(sys.argv[4]))
