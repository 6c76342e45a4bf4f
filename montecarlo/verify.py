"""Run every case at several widths, and judge what was found.

Predictions and blocks of networks are independent pieces of work, spread over processes.  Every
block has its own random stream, from the seed, the case and the block, so that results depend
neither on the number of workers nor on which cases are chosen.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray

from montecarlo.claims import (
    Budget,
    Case,
    Theory,
    cases,
    theory_of,
)
from montecarlo.ensemble import simulate
from montecarlo.jobs import compile_kernels
from montecarlo.margins import ALPHA
from montecarlo.verdicts import DTYPE, ControlRow, Curve, Row, control_row, curves_of, judge
from theory.errors import NormcompassError, RegimeWarning, out_of_domain
from theory.specs._check import integer
from theory.specs.inputs import Inputs
from theory.specs.networks import FeedForward

__all__ = ["Run", "block_count", "run", "select"]

FloatArray = NDArray[np.float64]
Advance = Callable[[str], None]

# A block of networks takes about half a second: one weight costs some 5 ns, drawn and used twice.
_BLOCK_WEIGHTS = 1e8


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything a verification found; identical for a seed, whatever the number of workers."""

    budget: Budget
    inputs: str
    seed: int
    cases: tuple[Case, ...]
    rows: tuple[Row, ...]
    controls: tuple[ControlRow, ...]
    curves: Mapping[str, Mapping[str, Curve]]
    skipped: tuple[str, ...]

    @property
    def level(self) -> float:
        """Level of a single test: alpha/m."""
        return ALPHA / max(len(self.rows), 1)

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows by verdict."""
        verdicts = [row.verdict for row in self.rows]
        return {name: verdicts.count(name) for name in ("AGREE", "REJECTED", "INCONCLUSIVE")}

    @property
    def exit_status(self) -> int:
        """0 all agree (and all controls are rejected), 1 something rejected (or a control stands), 3 else."""
        counts = self.counts
        if counts["REJECTED"] or any(not control.rejected for control in self.controls):
            return 1
        return 3 if counts["INCONCLUSIVE"] else 0


def select(inputs: str, *, only: Sequence[str] = (), skip: Sequence[str] = ()) -> tuple[Case, ...]:
    """Choose cases by name ("BN", both batches) or id ("BN/digits").

    Raises
    ------
    SpecificationError
        A name that no case has, or nothing left.
    """
    available = cases(inputs)
    known = {name for case in available for name in (case.name, case.id)}
    for argument, names in (("only", only), ("skip", skip)):
        for name in names:
            if name not in known:
                listed = ", ".join(dict.fromkeys(case.name for case in available))
                raise out_of_domain(argument, name, f"one of {listed}", "check the spelling")
    chosen = tuple(
        case
        for case in available
        if (not only or {case.name, case.id} & set(only)) and not {case.name, case.id} & set(skip)
    )
    if not chosen:
        raise out_of_domain("only, skip", (list(only), list(skip)), "a choice of cases", "drop one")
    return chosen


def run(
    chosen: Sequence[Case],
    *,
    budget: Budget,
    inputs: str = "all",
    controls: bool = False,
    seed: int = 0,
    workers: int | None = None,
    advance: Advance | None = None,
) -> Run:
    """Simulate and judge the chosen cases.

    Parameters
    ----------
    chosen
        From ``select``.
    budget
        Depth, widths and numbers of networks: ``QUICK`` or ``FULL``.
    inputs
        Only recorded.
    controls
        Also judge the wrong theories.
    seed
        Every block of networks has its own stream, from the seed, the case and the block.
    workers
        Processes; None uses all cores.  The result does not depend on it.
    advance
        Called with the id of a case whenever one of its blocks is done; see ``block_count``.

    Raises
    ------
    NormcompassError
        A prediction or simulation failed; a note says in which case.
    """
    seed = integer("seed", seed, low=0, remedy="pass an integer")
    if workers is not None:
        workers = integer("workers", workers, low=1, remedy="None uses all cores")
    wanted = _predictions(chosen, budget, controls)
    jobs = [
        _Job(case, width, block, count)
        for case in chosen
        for width, block, count in _blocks(case, budget)
    ]
    results = _execute(wanted, jobs, budget=budget, seed=seed, workers=workers, advance=advance)
    theories = dict(zip(wanted, results[: len(wanted)], strict=True))
    samples: dict[tuple[str, int], list[FloatArray]] = {}
    for job, values in zip(jobs, results[len(wanted) :], strict=True):
        samples.setdefault((job.case.id, job.width), []).append(values)

    curves = {case.id: curves_of(case, budget, theories[case.id, ""], samples) for case in chosen}
    rows, skipped = judge(chosen, budget, theories, curves)
    found: tuple[ControlRow, ...] = ()
    if controls:
        level = ALPHA / len(rows)
        found = tuple(
            control_row(case, control, theories[case.id, control.name], rows, curves, level)
            for case in chosen
            for control in case.controls
        )
    return Run(
        budget=budget,
        inputs=inputs,
        seed=seed,
        cases=tuple(chosen),
        rows=tuple(rows),
        controls=found,
        curves=curves,
        skipped=tuple(skipped),
    )


def block_count(chosen: Sequence[Case], *, budget: Budget, controls: bool) -> int:
    """Number of calls of ``advance`` that a run makes."""
    simulated = sum(len(list(_blocks(case, budget))) for case in chosen)
    return simulated + len(_predictions(chosen, budget, controls))


@dataclass(frozen=True)
class _Job:
    case: Case
    width: int
    block: int
    count: int


def _blocks(case: Case, budget: Budget) -> Iterator[tuple[int, int, int]]:
    """(width, block, networks): fixed pieces of work, so that seeds do not depend on workers."""
    for width, networks in case.plan(budget):
        size = max(2, round(_BLOCK_WEIGHTS / (budget.depth * width**2)))
        for block, start in enumerate(range(0, networks, size)):
            yield width, block, min(size, networks - start)


def _predictions(
    chosen: Sequence[Case], budget: Budget, controls: bool
) -> dict[tuple[str, str], tuple[FeedForward, Inputs]]:
    """(case id, control or "") -> what to predict."""
    wanted = {}
    for case in chosen:
        wanted[case.id, ""] = (case.network(budget.depth), case.inputs)
        for control in case.controls if controls else ():
            wanted[case.id, control.name] = (
                FeedForward(control.layer, depth=budget.depth),
                case.inputs,
            )
    return wanted


def _execute(
    wanted: Mapping[tuple[str, str], tuple[FeedForward, Inputs]],
    jobs: Sequence[_Job],
    *,
    budget: Budget,
    seed: int,
    workers: int | None,
    advance: Advance | None,
) -> list[Any]:
    """Predictions, then blocks of networks, in this order, serially or in processes."""
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (_predict, (case, *what)) for (case, _), what in wanted.items()
    ]
    calls += [
        (_simulate, (job.case, budget.depth, job.width, job.count, _seed(seed, job)))
        for job in jobs
    ]
    compile_kernels(DTYPE)  # once, before workers start: they find the machine code on disk
    workers = joblib.cpu_count() if workers is None else workers
    if workers > 1 and len(calls) > 1:
        pool = joblib.Parallel(n_jobs=workers, return_as="generator", batch_size=1)
        results = pool(joblib.delayed(function)(*arguments) for function, arguments in calls)
    else:
        results = (function(*arguments) for function, arguments in calls)
    collected = []
    for (_, arguments), result in zip(calls, results, strict=True):
        collected.append(result)
        if advance is not None:
            first = arguments[0]
            advance(first if isinstance(first, str) else first.id)
    return collected


def _seed(seed: int, job: _Job) -> int:
    """128 bits from the run's seed, the case and the block; ``simulate`` adds width and network."""
    entropy = [seed, job.block, *job.case.id.encode()]
    state = np.random.SeedSequence(entropy).generate_state(2, np.uint64)
    return int(state[0]) << 64 | int(state[1])


def _predict(case: str, network: FeedForward, inputs: Inputs) -> Theory:
    try:
        return theory_of(network, inputs)
    except NormcompassError as error:
        error.add_note(f"while predicting {case}")
        raise


def _simulate(case: Case, depth: int, width: int, count: int, seed: int) -> FloatArray:
    """Per-network values on the scales of the comparison, shape (quantities, count, depth)."""
    try:
        with warnings.catch_warnings():
            # A dead network makes its means infinite, and the verdict INCONCLUSIVE.
            warnings.simplefilter("ignore", RegimeWarning)
            simulation = simulate(
                case.network(depth),
                case.inputs,
                width=width,
                replicates=count,
                seed=seed,
                dtype=DTYPE,
                workers=1,
            )
    except NormcompassError as error:
        error.add_note(f"while simulating {case.id} at width {width}")
        raise
    samples = simulation.samples
    return np.stack(
        [
            samples["log_second_moment"],
            samples["similarity"],
            np.log(samples["stable_rank"]),
            samples["log_gradient_ratio"],
        ]
    )
