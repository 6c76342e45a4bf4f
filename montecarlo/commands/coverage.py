"""``normcompass table --coverage``: which route takes which expectation, asked of the code."""

from __future__ import annotations

import csv
import dataclasses
import sys

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from montecarlo.commands.output import screen, write_json
from theory.coverage import STATES, Cell, coverage
from theory.specs.activations import tanh

__all__ = ["show_coverage"]

_SHORT = {"closed form": "closed", "quadrature": "quad.", "RQMC": "RQMC"}
_EPS = 1e-5


def show_coverage(*, as_json: bool, as_csv: bool) -> None:
    """Print the matrix for the layers' own activations and for tanh, at eps = 0 and at 1e-5."""
    found = {
        (label, eps): coverage(activation=phi, eps=eps)
        for label, phi in (("own", None), ("tanh", tanh))
        for eps in (0.0, _EPS)
    }
    rows = [
        {"eps": eps, **dataclasses.asdict(cell), "reason": cell.reason}
        for (_, eps), cells in found.items()
        for cell in cells
    ]
    if as_json:
        write_json({"schema": 1, "kind": "coverage", "rows": rows})
    elif as_csv:
        names = [name for name in rows[0] if name != "refusals"]
        writer = csv.DictWriter(sys.stdout, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        _print(found)


def _print(found: dict[tuple[str, float], tuple[Cell, ...]]) -> None:
    tables = screen()
    reasons: dict[str, int] = {}
    for (label, eps), cells in found.items():
        phi = "the layers' own activations (relu, EvoNorm's identity)" if label == "own" else label
        block = Table(
            title=f"phi: {phi}, eps = {eps:g}; forward | backward",
            title_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
            show_edge=False,
            padding=(0, 2, 0, 0),
        )
        block.add_column("", no_wrap=True)
        for state in STATES:
            block.add_column(state.name, no_wrap=True)
        lines: dict[str, dict[str, list[str]]] = {}
        for cell in cells:
            words = lines.setdefault(cell.normalizer, {}).setdefault(cell.state, [])
            words.append(_word(cell, reasons))
        for name, line in lines.items():
            block.add_row(name, *(Text(" | ".join(line[state.name])) for state in STATES))
        tables.print(block)
    for reason, number in reasons.items():
        tables.print(f"[{number}] {reason}", style="dim", highlight=False, markup=False)
    tables.print(
        "States: covariances of samples, or of samples and positions, alike or each pair its own. "
        "--json names every route and why it refuses.",
        style="dim",
        highlight=False,
    )


def _word(cell: Cell, reasons: dict[str, int]) -> str:
    """The route, or the number of the reason why there is none."""
    if cell.route is not None:
        return _SHORT[cell.route]
    return f"[{reasons.setdefault(cell.reason, len(reasons) + 1)}]"
