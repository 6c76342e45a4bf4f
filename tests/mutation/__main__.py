"""Are the tests able to fail?  ``python -m tests.mutation`` changes formulas and counts who notices.

A seeded sample of mutants, each against its module's fast tests and then the laws, stopped at the first
failure.  Writes a table; survivors come with the reasons kept in ``survivors.json``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutation.formulas import COMPILED_AFRESH, FORMULAS, LAWS, PLAIN
from tests.mutation.operators import OPERATORS, Mutant, mutants

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
# Seconds of processor time: a mutant that does not come to an end has been noticed, on a busy machine too.
LIMIT = 90


def every_mutant(paths: list[str]) -> list[Mutant]:
    """All mutants of all formulas."""
    return [m for path in paths for m in mutants(path, (ROOT / path).read_text(encoding="utf-8"))]


def draw(everything: list[Mutant], *, sample: int, seed: int) -> list[Mutant]:
    """``sample`` of them at random: those with the smallest hashes, so that edits change few of them."""

    def place(mutant: Mutant) -> bytes:
        return hashlib.sha256(f"{seed} {mutant.key}".encode()).digest()

    return sorted(everything, key=place)[:sample]


def run(mutant: Mutant) -> tuple[str, float]:
    """(killed by which test, or "survived"; seconds)."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "mutant.py"
        source.write_text(mutant.source, encoding="utf-8")
        for tests in (FORMULAS[mutant.path], (LAWS,)):
            killer = _run_tests(mutant.path, source, tests)
            if killer is not None:
                return killer, time.monotonic() - start
    return "survived", time.monotonic() - start


def _run_tests(path: str, source: Path | None, tests: tuple[str, ...]) -> str | None:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    if source is not None:
        module = path.removesuffix(".py").replace("/", ".")
        environment |= {"MUTANT_MODULE": module, "MUTANT_SOURCE": str(source)}
    if path in PLAIN:
        environment["NUMBA_DISABLE_JIT"] = "1"
    if path in COMPILED_AFRESH and source is not None:
        environment["NUMBA_CACHE_DIR"] = str(source.parent)
    command = [
        *(
            sys.executable,
            "-m",
            "pytest",
            "-n",
            "0",
            "-x",
            "-q",
            "--no-header",
            "--tb=no",
            "-p",
            "mutant_loader",
        ),
        *("-p", "no:cacheprovider", *tests),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, preexec_fn=_limit
    )
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return "time limit"
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0] if failed else f"exit status {done.returncode}"


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))


def check_baseline(paths: list[str], jobs: int) -> None:
    """Without a mutant all tests pass, or nothing that follows means anything."""
    everything = sorted({(FORMULAS[path], path in PLAIN) for path in paths})
    named = {key: next(p for p in paths if (FORMULAS[p], p in PLAIN) == key) for key in everything}
    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(lambda key: _run_tests(named[key], None, key[0]), everything))
    for (tests, _), killer in zip(everything, results, strict=True):
        if killer is not None:
            raise SystemExit(f"{', '.join(tests)} fail without a mutant: {killer}")


def main() -> None:
    """Sample, run, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--sample", type=int, default=300, help="how many mutants (default: 300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default: 2)")
    parser.add_argument("--only", default="", help="modules whose path contains this")
    parser.add_argument("--no-baseline", action="store_true", help="trust that the tests pass")
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    parser.add_argument("--again", type=Path, help="only what survived according to this file")
    options = parser.parse_args()
    paths = [path for path in FORMULAS if options.only in path]
    everything = every_mutant(paths)
    chosen = draw(everything, sample=options.sample, seed=options.seed)
    if options.again:
        rows = json.loads(options.again.read_text(encoding="utf-8"))
        alive = {row["key"] for row in rows if row["killer"] == "survived"}
        chosen = [mutant for mutant in everything if mutant.key in alive]
    print(f"{len(everything)} mutants of {len(paths)} modules, {len(chosen)} drawn", flush=True)
    if not options.no_baseline:
        check_baseline(paths, options.jobs)
    results = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for mutant, (killer, seconds) in zip(chosen, pool.map(run, chosen), strict=True):
            results.append((mutant, killer, seconds))
            print(f"{seconds:5.0f} s  {killer:<60.60}  {mutant.key[:160]}", flush=True)
            if options.out:
                save(results, options.out)
    report(results)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"\n{(spent.ru_utime + spent.ru_stime) / 60:.0f} processor minutes")


def save(results: list[tuple[Mutant, str, float]], path: Path) -> None:
    """As JSON, after every mutant."""
    keys = ("key", "operator", "line")
    rows = [
        {k: getattr(m, k) for k in keys} | {"killer": killer, "seconds": round(seconds, 1)}
        for m, killer, seconds in results
    ]
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def report(results: list[tuple[Mutant, str, float]]) -> None:
    """The table by operator, and the survivors with their reasons."""
    reasons: dict[str, dict[str, str]] = json.loads((HERE / "survivors.json").read_text("utf-8"))
    survivors = [mutant for mutant, killer, _ in results if killer == "survived"]
    drawn = Counter(mutant.operator for mutant, _, _ in results)
    left = Counter(mutant.operator for mutant in survivors)
    equivalent = [m for m in survivors if reasons.get(m.key, {}).get("verdict") == "equivalent"]
    same = Counter(mutant.operator for mutant in equivalent)
    print(f"\n{'operator':<14} drawn  killed  equivalent  survived")
    for operator in OPERATORS:
        killed = drawn[operator] - left[operator]
        alive = left[operator] - same[operator]
        print(f"{operator:<14} {drawn[operator]:5}  {killed:6}  {same[operator]:10}  {alive:8}")
    counted = len(results) - len(equivalent)
    killed = len(results) - len(survivors)
    print(
        f"{killed} of {counted} non-equivalent mutants killed: {100 * killed / max(counted, 1):.1f} %"
    )
    for mutant in survivors:
        known = reasons.get(mutant.key, {"verdict": "unexplained", "reason": "write a test"})
        print(f"\n{mutant.path}:{mutant.line} {mutant.function}, {mutant.operator}")
        print(f"    {mutant.before}  ->  {mutant.after}\n    {known['verdict']}: {known['reason']}")


if __name__ == "__main__":
    main()
