"""Hostile calls and commands: ``python -m tests.fuzz --seed N --calls 9800 --commands 200``.

Exit status 0: every outcome was a correct result or a documented error with a helpful sentence.
``--seed N --call I`` makes call I again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.fuzz.calls import Report, run_calls
from tests.fuzz.commands import run_commands


def main() -> int:
    """Run, print, and say whether everything was allowed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calls", type=int, default=9800)
    parser.add_argument("--commands", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first call")
    parser.add_argument("--call", type=int, help="only this call")
    parser.add_argument("--command", type=int, help="only this command")
    options = parser.parse_args()
    single = options.call is not None or options.command is not None
    first, calls = (options.first, options.calls) if options.call is None else (options.call, 1)
    begin, commands = (0, options.commands) if options.command is None else (options.command, 1)
    report, start = Report(), time.monotonic()
    if options.command is None:
        run_calls(seed=options.seed, first=first, count=calls, report=report)
    calls_made = report.total
    if options.call is None:
        run_commands(seed=options.seed, first=begin, count=commands, report=report)
    outcomes = ", ".join(f"{n} {name}" for name, n in report.outcomes.most_common())
    sys.stdout.write(
        f"\nseed {options.seed}: {calls_made} calls of {len(report.names)} public names, "
        f"{report.total - calls_made} commands: {outcomes}\n"
        f"{len(report.failures)} undocumented outcomes, {time.monotonic() - start:.0f} s\n"
    )
    if single and not report.failures:
        sys.stdout.write("allowed\n")
    kinds = Counter(complaint[:60] for _, complaint in report.failures)
    for kind, n in kinds.most_common(10 if len(report.failures) > 3 else 0):
        sys.stdout.write(f"  {n} x {kind}\n")
    return 1 if report.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
