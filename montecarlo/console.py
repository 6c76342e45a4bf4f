"""Tables of a verification for the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from montecarlo.budgets import Budget
from montecarlo.claims import CLAIMS
from montecarlo.margins import POWER, QUANTITIES
from montecarlo.report import command, margins_table
from montecarlo.verdicts import remarks
from montecarlo.verify import Run

__all__ = ["print_margins", "print_run", "print_summary"]

_STYLES = {"CONFIRMED": "green", "REJECTED": "bold red", "INCONCLUSIVE": "yellow"}


def print_margins(screen: Console, budget: Budget) -> None:
    """The margin of every quantity, before anything is simulated."""
    table = Table(title="Margins, fixed beforehand", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("quantity")
    table.add_column("margin", justify="right")
    table.add_column("scale")
    for row in margins_table(budget):
        table.add_row(*map(Text, row))
    screen.print(table)


def print_run(screen: Console, run: Run) -> None:
    """Every test, and every wrong theory if there are any."""
    table = Table(
        title=f"{len(run.rows)} tests, family-wise error {run.alpha:g}; detectable: smallest relative error "
        f"found with {100 * POWER:g} % power; of margin: where the interval ends",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in ("case", "quantity"):
        table.add_column(name, no_wrap=True)
    for name in ("layer", "theory", "simulation ± s.e.", "networks", "detectable", "of margin"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    previous = None
    for row in run.rows:
        case = f"{row.case}/{row.inputs}"
        if previous not in (None, case):
            table.add_section()
        table.add_row(
            "" if previous == case else case,
            Text(_short(row.quantity)),
            str(row.layer),
            f"{row.theory:.4f}",
            f"{row.simulation:.4f} ± {row.sem:.4f}",
            str(row.networks),
            f"{100 * row.detectable_relative:.2f} %",
            f"{100 * (abs(row.difference) + row.half_width) / row.margin:.0f} %",
            Text(" ".join((row.verdict, *remarks(row))), style=_STYLES[row.verdict]),
        )
        previous = case
    screen.print(table)
    if run.controls:
        _print_controls(screen, run)
    _print_claims(screen, run)
    for reason in run.skipped:
        screen.print(Text(f"Not tested: {reason}."), style="dim")


def _short(quantity: str) -> str:
    return (
        QUANTITIES[quantity].label.replace("second moment", "E[x²]").replace("gradient ", "grad ")
    )


def _print_claims(screen: Console, run: Run) -> None:
    table = Table(
        title=f"Claims, {len(run.claims)} of {len(CLAIMS)}",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("claim", no_wrap=True)
    table.add_column("statement")
    table.add_column("tests", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for result in run.claims:
        verdict = Text(result.judged, style=_STYLES[result.verdict])
        claim = result.claim
        table.add_row(claim.id, Text(claim.statement), str(len(result.rows)), verdict)
    if run.claims:
        screen.print(table)


def _print_controls(screen: Console, run: Run) -> None:
    table = Table(
        title="Wrong theories, each of which must be rejected; effect in margins",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in ("case", "wrong theory", "shows in"):
        table.add_column(name, no_wrap=True)
    for name in ("layer", "true", "wrong", "simulation", "effect"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for control in run.controls:
        table.add_row(
            f"{control.case}/{control.inputs}",
            Text(control.control),
            Text(_short(control.quantity)),
            str(control.layer),
            f"{control.theory:.4f}",
            f"{control.wrong:.4f}",
            f"{control.simulation:.4f}",
            f"{control.effect:.1f}",
            Text("REJECTED", style="green")
            if control.rejected
            else Text("NOT REJECTED", style="bold red"),
        )
    screen.print(table)


def print_summary(screen: Console, run: Run, *, path: Path, seconds: float) -> None:
    """Counts, the report's path, and how to run it again."""
    text = Text()
    for name, count in run.counts.items():
        text.append(f"{count} {name}  ", style=_STYLES[name] if count else "dim")
    if run.controls:
        caught = sum(control.rejected for control in run.controls)
        text.append(f"{caught} of {len(run.controls)} wrong theories rejected  ")
    text.append(f"({seconds:.0f} s)")
    screen.print(text)
    screen.print(Text(f"Report: {path}"))
    screen.print(Text(f"Again:  {command(run)}"))
