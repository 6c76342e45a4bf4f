"""``normcompass verify``: theory against simulation."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from montecarlo.commands.output import progress_bar, screen
from montecarlo.options import QUIET, SEED, WORKERS, InputChoice
from theory.errors import SpecificationError
from theory.forecast import announce, in_words
from theory.specs._check import integer

__all__ = ["BudgetChoice", "verify"]


class BudgetChoice(StrEnum):
    """How much to spend."""

    quick = "quick"
    default = "default"
    long = "long"


def verify(
    budget: Annotated[
        BudgetChoice,
        typer.Option(
            "--budget", help="On two cores: a minute, ten, or up to six hours (half the margins)."
        ),
    ] = BudgetChoice.default,
    quick: Annotated[bool, typer.Option("--quick", help="The same as --budget quick.")] = False,
    inputs: Annotated[InputChoice, typer.Option("--inputs", help="Batches.")] = InputChoice.all,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the report.")] = Path(
        "normcompass-report"
    ),
    controls: Annotated[
        bool,
        typer.Option(
            "--controls/--no-controls",
            help="Also judge wrong theories, all of which must be rejected.",
        ),
    ] = True,
    seed: SEED = 0,
    workers: WORKERS = None,
    store: Annotated[
        Path | None,
        typer.Option(
            "--store",
            metavar="FILE",
            help="SQLite file that keeps every network: the next run starts from them.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="Only this case or claim; repeatable."),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option("--skip", metavar="NAME", help="Not this case or claim; repeatable."),
    ] = None,
    quiet: QUIET = False,
) -> None:
    """Check theory against simulation for every normalizer, with a known error rate.

    Simulates random networks at several widths, extrapolates to infinite width, and compares with
    the predictions. The report folder holds index.html, verify.json, verify.csv and junit.xml.

    Exit status: 0 all confirmed (and all wrong theories are rejected); 1 something is rejected; 2 bad
    usage; 3 nothing is rejected but something is inconclusive.
    """
    from montecarlo import console, report
    from montecarlo import verify as verification
    from montecarlo.budgets import BUDGETS

    if quick and budget not in (BudgetChoice.default, BudgetChoice.quick):
        raise SpecificationError(f"--quick and --budget {budget.value} exclude each other.")
    started = time.perf_counter()
    chosen = verification.select(inputs.value, only=only or (), skip=skip or ())
    integer("seed", seed, low=0, remedy="pass an integer")
    if workers is not None:
        integer("workers", workers, low=1, remedy="leave it out to use all cores")
    report.require_folder(out)
    tables = screen()
    spent = BUDGETS["quick" if quick else budget.value]
    wanted, chosen = chosen, verification.affordable(chosen, spent)
    verification.require_tests(only or (), wanted, spent)
    console.print_margins(tables, spent)
    total = verification.step_count(chosen, budget=spent, controls=controls)
    least, most = verification.cost(chosen, budget=spent, seed=seed, workers=workers)
    if not quiet:
        announce(
            most,
            what=f"Simulations, {in_words(least)} for the pilots, and at most",
            remedy="--budget quick, --only and --inputs take less, --store FILE keeps what is done",
        )
    try:
        with progress_bar(total, quiet=quiet) as advance:
            run = verification.run(
                chosen,
                budget=spent,
                inputs=inputs.value,
                controls=controls,
                seed=seed,
                workers=workers,
                store=store,
                advance=advance,
            )
    except KeyboardInterrupt:
        kept = "with --store FILE finished networks are kept and taken up again."
        if store is not None:
            kept = f"finished networks are kept in {store}; the same command goes on from there."
        raise KeyboardInterrupt(f"no report was written; {kept}") from None
    left_out = [case.id for case in wanted if case not in chosen]
    if left_out:
        note = f"in larger budgets than {spent.name} only: {', '.join(left_out)}"
        run = replace(run, skipped=(*run.skipped, note))
    console.print_run(tables, run)
    simulated = time.perf_counter()
    timings = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(simulated - started, 2),
    }
    path = report.write(run, out, timings=timings)
    console.print_summary(tables, run, path=path, seconds=time.perf_counter() - started)
    raise typer.Exit(run.exit_status)
