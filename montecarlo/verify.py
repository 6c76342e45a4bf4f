"""Run every case at several widths, and judge what was found.

Two stages (``statistics``): a pilot at every width, whose standard deviations decide the number of
networks, and then the rest.  Network r of a case is a function of the seed, the case, the width and
r, so that results depend neither on the number of workers nor on which other cases are chosen (except
that the level of a test, and with it the number of networks, follows from the number of tests).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from montecarlo.budgets import BUDGETS, Budget
from montecarlo.case import Case, Part
from montecarlo.cases import cases
from montecarlo.claim import Claim, ClaimResult, results_of
from montecarlo.claims import CLAIMS
from montecarlo.collect import Resources, collect, opened
from montecarlo.controls import ControlRow, control_row
from montecarlo.costs import network_seconds
from montecarlo.ensemble import plan
from montecarlo.execution import execute, worker_count
from montecarlo.experiment import Experiment
from montecarlo.margins import ALPHA
from montecarlo.observables import BRANCH_GRADIENT, OBSERVABLES
from montecarlo.predictions import Theory, theory_of
from montecarlo.verdicts import (
    DTYPE,
    VERDICTS,
    Check,
    Curve,
    Row,
    checks_of,
    curves_of,
    judge,
    networks_wanted,
)
from theory.errors import NormcompassError, out_of_domain
from theory.specs._check import integer
from theory.specs.inputs import Inputs
from theory.specs.networks import Network

if TYPE_CHECKING:
    from montecarlo.store import Store

__all__ = ["Run", "affordable", "require_tests", "run", "select", "step_count"]

FloatArray = NDArray[np.float64]
Advance = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything a verification found; identical for a seed, whatever the number of workers."""

    budget: Budget
    inputs: str
    seed: int
    alpha: float
    cases: tuple[Case, ...]
    rows: tuple[Row, ...]
    controls: tuple[ControlRow, ...]
    claims: tuple[ClaimResult, ...]
    curves: Mapping[tuple[str, str], Curve]
    skipped: tuple[str, ...]

    @property
    def level(self) -> float:
        """Level of a single test: alpha/m."""
        return self.alpha / max(len(self.rows), 1)

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows by verdict."""
        verdicts = [row.verdict for row in self.rows]
        return {name: verdicts.count(name) for name in VERDICTS}

    @property
    def exit_status(self) -> int:
        """0 all confirmed (and all controls rejected), 1 something rejected (or a control stands), 3 else."""
        counts = self.counts
        if counts["REJECTED"] or any(not control.rejected for control in self.controls):
            return 1
        return 3 if counts["INCONCLUSIVE"] else 0


def select(inputs: str, *, only: Sequence[str] = (), skip: Sequence[str] = ()) -> tuple[Case, ...]:
    """Choose cases by name ("BN", both batches), id ("BN/digits") or claim ("iii.batch-norm").

    Raises
    ------
    SpecificationError
        A name that no case has, or nothing left.
    """
    available = cases(inputs)
    of_claim = {claim.id: set(claim.wanted) for claim in CLAIMS}
    known = {name for case in available for name in (case.name, case.id)} | set(of_claim)
    for argument, names in (("only", only), ("skip", skip)):
        for name in names:
            if name not in known:
                listed = "; ".join(dict.fromkeys(case.name for case in available))
                remedy = "check the spelling; claims are listed by `normcompass claims`"
                raise out_of_domain(argument, name, f"a claim or one of: {listed}", remedy)

    def named(case: Case, names: Sequence[str]) -> bool:
        ids = set().union(*(of_claim.get(name, {name}) for name in names))
        return bool({case.name, case.id} & ids)

    chosen = tuple(
        case for case in available if (not only or named(case, only)) and not named(case, skip)
    )
    if not chosen:
        raise out_of_domain(
            "only, skip",
            (list(only), list(skip)),
            f"something that has cases among the inputs {inputs!r}",
            "drop one, or choose other --inputs",
        )
    return chosen


def run(
    chosen: Sequence[Case],
    *,
    budget: Budget,
    inputs: str = "all",
    controls: bool = False,
    seed: int = 0,
    workers: int | None = None,
    alpha: float = ALPHA,
    store: str | Path | Store | None = None,
    advance: Advance | None = None,
) -> Run:
    """Simulate and judge the chosen cases.

    Parameters
    ----------
    chosen
        From ``select``.
    budget
        Depth, widths and numbers of networks: one of ``budgets.BUDGETS``.
    inputs
        Only recorded.
    controls
        Also judge the wrong theories.
    seed
        Of all networks.
    workers
        Processes; None uses all cores.  The result does not depend on it.
    alpha
        Family-wise error.
    store
        Keeps every network, so that an interrupted or repeated run starts from them; see ``simulate``.
    advance
        Called with the id of a case after each of its predictions and parts; see ``step_count``.

    Raises
    ------
    NormcompassError
        A prediction or simulation failed; a note says in which case.
    """
    seed = integer("seed", seed, low=0, remedy="pass an integer")
    workers = worker_count(workers)
    report = advance or (lambda _: None)
    theories = _predict_all(chosen, budget, controls, workers=workers, advance=report)
    tests, skipped = checks_of(chosen, budget, theories)
    level = alpha / max(len(tests), 1)
    curves: dict[tuple[str, str], Curve] = {}
    with opened(store) as networks:
        resources = Resources(workers=workers, store=networks)
        for case in chosen:
            for part in case.parts(budget):
                mine = [test for test in tests if test.case is case and test.part == part]
                theory = theories[case.id, "", part.grid.depth]
                found = _simulate(case, part, theory, mine, resources, level=level, seed=seed)
                curves |= {(case.id, name): curve for name, curve in found.items()}
                report(case.id)
    rows = judge(tests, theories, curves, alpha=alpha)
    judged = [
        control_row(case, control, pairs, theories, curves, level=level)
        for case in chosen
        for control in (case.controls if controls else ())
        if (pairs := _pairs(tests, rows, case, control.quantity))
    ]
    claims = results_of(
        CLAIMS, chosen, tests, rows, theories, curves, controls=controls, level=level
    )
    return Run(
        budget=budget,
        inputs=inputs,
        seed=seed,
        alpha=alpha,
        cases=tuple(chosen),
        rows=tuple(rows),
        controls=tuple(judged),
        claims=claims,
        curves=curves,
        skipped=tuple(skipped),
    )


def _pairs(
    tests: Sequence[Check], rows: Sequence[Row], case: Case, quantity: str | None
) -> list[tuple[Check, Row]]:
    """Tests of a case with their results, of one quantity or of all."""
    return [
        (test, row)
        for test, row in zip(tests, rows, strict=True)
        if test.case is case and quantity in (None, test.quantity.name)
    ]


def affordable(chosen: Sequence[Case], budget: Budget) -> tuple[Case, ...]:
    """The cases that ``budget`` has networks for.

    Raises
    ------
    SpecificationError
        None of them.
    """
    kept = tuple(case for case in chosen if case.parts(budget))
    if not kept:
        names = "; ".join(case.id for case in chosen)
        enough = next(b.name for b in BUDGETS.values() if all(case.parts(b) for case in chosen))
        raise out_of_domain(
            "budget", budget.name, f"one with networks for {names}", f"take --budget {enough}"
        )
    return kept


def require_tests(only: Sequence[str], chosen: Sequence[Case], budget: Budget) -> None:
    """Refuse a budget that tests nothing of a claim that was asked for, and would confirm the rest.

    What other inputs or a skip leave out is the user's choice; the report names it.

    Raises
    ------
    SpecificationError
        Of the chosen cases a larger budget alone tests a claim of ``only``.
    """
    for claim in (claim for claim in CLAIMS if claim.id in only):
        enough = [b.name for b in BUDGETS.values() if _tested(claim, chosen, b)]
        if enough and not _tested(claim, chosen, budget):
            raise out_of_domain(
                "budget", budget.name, f"one that tests {claim.id}", f"take --budget {enough[0]}"
            )


def _tested(claim: Claim, chosen: Sequence[Case], budget: Budget) -> bool:
    mine = (case for case in chosen if case.id in claim.cases)
    tests = (test for case in mine for part in case.parts(budget) for test in part.tests)
    return any(quantity.name in claim.quantities for quantity, _ in tests)


def cost(
    chosen: Sequence[Case], *, budget: Budget, seed: int, workers: int | None
) -> tuple[float, float]:
    """Estimated seconds of the simulations: of the pilots alone, and of as many networks as may be."""
    least = most = 0.0
    for case in chosen:
        for part in case.parts(budget):
            seconds = sum(
                network_seconds(experiment_of(case, part, w, seed)) for w in part.grid.widths
            )
            least += seconds * part.grid.pilot
            most += seconds * part.grid.largest
    share = worker_count(workers)
    return least / share, most / share


def step_count(chosen: Sequence[Case], *, budget: Budget, controls: bool) -> int:
    """Number of calls of ``advance`` that a run makes."""
    parts = sum(len(case.parts(budget)) for case in chosen)
    return parts + len(_wanted(chosen, budget, controls))


def _simulate(
    case: Case,
    part: Part,
    theory: Theory,
    tests: Sequence[Check],
    resources: Resources,
    *,
    level: float,
    seed: int,
) -> dict[str, Curve]:
    """Both stages of one part."""
    try:
        experiments = [experiment_of(case, part, width, seed) for width in part.grid.widths]
        names = experiments[0].observables
        pilot = [(experiment, part.grid.pilot) for experiment in experiments]
        tables, _ = collect(pilot, resources)
        values = [quantities_of(part, table, names=names) for table in tables]
        curves = curves_of(case, part, theory, values)
        wanted = networks_wanted(tests, curves, part, level=level)
        if wanted > part.grid.pilot:
            everything = [(experiment, wanted) for experiment in experiments]
            tables, _ = collect(everything, resources, begun=tables)
            values = [quantities_of(part, table, names=names) for table in tables]
            curves = curves_of(case, part, theory, values)
    except NormcompassError as error:
        error.add_note(f"while simulating {case.id}")
        raise
    return curves


def experiment_of(case: Case, part: Part, width: int, seed: int) -> Experiment:
    """Gaussian weights collapse; explicit ones only where the backward pass needs them."""
    entropy = [seed, *part.name.encode(), 0, *case.id.encode()]
    state = np.random.SeedSequence(entropy).generate_state(2, np.uint64)
    experiment, _ = plan(
        case.network(part.grid.depth),
        case.inputs,
        width=width,
        seed=int(state[0]) << 64 | int(state[1]),
        dtype=DTYPE,
        method="auto",
        backward=part.backward,
    )
    return experiment


def quantities_of(
    part: Part, table: FloatArray, *, names: Sequence[str] = OBSERVABLES
) -> FloatArray:
    """(networks, observables, depth) -> (quantities, networks, depth), on the scales compared."""
    observed = dict(zip(names, np.moveaxis(table, 1, 0), strict=True))
    # A dead network makes its means infinite, and the verdict INCONCLUSIVE.
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = {
            "second_moment": observed["log_second_moment"],
            "growth": observed["log_second_moment"],
            "similarity": observed["similarity"],
            "gap": np.log(observed["gap"]),
            "stable_rank": np.log(observed["stable_rank"]),
            "gradient": observed["log_gradient_ratio"],
            "gradient_total": observed["log_gradient_ratio"],
            "branch_gradient": observed.get(BRANCH_GRADIENT),
        }
    return np.stack([scales[name] for name in part.quantities])


_Prediction = tuple[str, str, int]
"""Case id, control or "", depth."""


def _wanted(
    chosen: Sequence[Case], budget: Budget, controls: bool
) -> dict[_Prediction, tuple[Network, Inputs]]:
    """What to predict."""
    wanted = {}
    for case in chosen:
        for part in case.parts(budget):
            depth = part.grid.depth
            wanted[case.id, "", depth] = (case.network(depth), case.inputs)
            for control in case.controls if controls else ():
                if control.law is not None:
                    continue
                wrong = control.network(depth, case.inputs)
                wanted[case.id, control.name, depth] = (wrong, case.inputs)
    return wanted


def _predict_all(
    chosen: Sequence[Case], budget: Budget, controls: bool, *, workers: int, advance: Advance
) -> dict[_Prediction, Theory]:
    wanted = _wanted(chosen, budget, controls)
    keys = list(wanted)
    jobs = [(key[0], *wanted[key]) for key in keys]
    found: dict[_Prediction, Theory] = {}
    for index, theory in execute(_predict, jobs, workers=workers):
        found[keys[index]] = theory
        advance(keys[index][0])
    return found


def _predict(job: tuple[str, Network, Inputs]) -> Theory:
    case, network, inputs = job
    try:
        return theory_of(network, inputs)
    except NormcompassError as error:
        error.add_note(f"while predicting {case}")
        raise
