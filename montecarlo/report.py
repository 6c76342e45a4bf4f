"""A verification's report: index.html (self-contained), verify.json, verify.csv, junit.xml, timings.json.

The first four have the same bytes for the same seed on one machine and set of versions, whatever
the number of workers; what differs from run to run (dates, durations) is in timings.json alone.
All text is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from montecarlo import figures, residual_figures
from montecarlo.budgets import DEFAULT, Budget
from montecarlo.cases import cases
from montecarlo.margins import POWER, QUANTITIES
from montecarlo.pieces import escape, figure, folded, table
from montecarlo.report_claims import (
    AGAIN,
    claims_left_out,
    claims_overview,
    claims_sections,
    controls_table,
    departures,
    picture,
)
from montecarlo.report_files import csv_text, json_document, junit_text, provenance
from montecarlo.report_text import INPUTS, METHOD, STYLE
from montecarlo.verdicts import remarks
from montecarlo.verify import Run
from theory.errors import StoreError, out_of_domain

__all__ = ["command", "margins_table", "require_folder", "write"]

_OPENING = "iii.trade-off"
"""The claim whose picture a report opens with."""


def write(run: Run, folder: Path, *, timings: Mapping[str, Any] | None = None) -> Path:
    """Write the report into ``folder`` and return the path of its index.html.

    Raises
    ------
    StoreError
        The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        document = json.dumps(_document(run), indent=1, allow_nan=False) + "\n"
        (folder / "verify.json").write_text(document, encoding="utf-8")
        (folder / "verify.csv").write_text(csv_text(run), encoding="utf-8", newline="")
        (folder / "junit.xml").write_text(junit_text(run), encoding="utf-8")
        (folder / "index.html").write_text(_page(run), encoding="utf-8")
        if timings is not None:
            text = json.dumps(dict(timings), indent=1) + "\n"
            (folder / "timings.json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"out = {str(folder)!r} cannot be written ({error.strerror}); choose another folder "
            "with --out."
        ) from error
    return folder / "index.html"


def command(run: Run, *, chosen: bool = True) -> str:
    """The command that reproduces a run, with its choice of cases or without."""
    present = {case.id for case in run.cases}
    everything = [case.id for case in cases(run.inputs) if case.parts(run.budget)]
    absent = [name for name in everything if name not in present]
    parts = ["normcompass verify"]
    if run.budget.name != DEFAULT.name:
        parts.append(f"--budget {run.budget.name}")
    parts.append(f"--inputs {run.inputs}")
    if not run.controls:
        parts.append("--no-controls")
    if chosen:
        shorter = len(absent) <= len(present)
        parts += [f"--skip '{name}'" for name in absent] if shorter else []
        parts += [] if shorter else [f"--only '{case.id}'" for case in run.cases]
    return " ".join([*parts, f"--seed {run.seed}"])


def margins_table(budget: Budget) -> list[tuple[str, str, str]]:
    """(quantity, margin, reason): fixed in ``margins.QUANTITIES``, tightened by the budget."""
    return [(q.label, q.show(q.margin * budget.tightening), q.reason) for q in QUANTITIES.values()]


def _document(run: Run) -> dict[str, Any]:
    return json_document(run, command=command(run), any_claim=command(run, chosen=False))


def _page(run: Run) -> str:
    counts = run.counts
    badges = "".join(
        f'<span class="count {name if count else ""}">{count} {name}</span>'
        for name, count in counts.items()
    )
    if run.controls:
        caught = sum(control.rejected for control in run.controls)
        badges += (
            f'<span class="count">{caught} of {len(run.controls)} wrong theories rejected</span>'
        )
    body = [
        "<h1>normcompass: theory against simulation</h1>",
        f"<p>{badges}</p>",
        f"<p>{len(run.rows)} tests, family-wise error {run.alpha:g} (Holm), "
        f"{100 * POWER:g} % power at the detectable error. "
        f"Reproduce with <code>{escape(command(run))}</code> (exit status {run.exit_status}).</p>",
        picture(run, _OPENING),
        *_growths(run, "variance"),
        figure(
            figures.agreement(run),
            "Every test: simulation minus theory in units of the margin (dotted), with intervals at "
            "the per-test level.",
        ),
        *_claims(run),
        *_layers(run),
        "<h2>Margins</h2>",
        table(("quantity", "margin", "why this scale"), margins_table(run.budget), text=(0, 2)),
        f"<h2>Method</h2><p>{escape(METHOD)}</p><p>{escape(INPUTS)}</p>",
        figure(figures.p_values(run), "p-values of all tests against the uniform law."),
        _budget(run),
    ]
    if run.controls:
        lines = len(run.controls)
        body.append("<h2>Wrong theories</h2>")
        body.append(folded(f"All {lines}", controls_table(run.controls), lines=lines))
    for name in dict.fromkeys(case.name for case in run.cases):
        body += _section(run, name)
    if run.skipped:
        items = "".join(f"<li>{escape(item)}</li>" for item in run.skipped)
        body.append(f"<h2>Not tested</h2><ul>{items}</ul>")
    versions = ", ".join(f"{key} {value}" for key, value in provenance().items())
    body.append(f"<h2>Provenance</h2><p>seed {run.seed}; {escape(versions)}</p>")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<title>normcompass verify</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _claims(run: Run) -> list[str]:
    if not run.claims:
        return []
    body = ["<h2>Claims</h2>", claims_overview(run), claims_left_out(run)]
    departed = departures(run.claims)
    if departed:
        body += [
            "<h2>Departures from the paper</h2>",
            "<p>Each with its effect as measured in this run, at the per-test level, and with an "
            "intervention that takes the cause away.</p>",
            departed,
        ]
    sections = claims_sections(run, command=command(run, chosen=False), opened=(_OPENING,))
    return [*body, f"<h2>Claim by claim</h2><p>{escape(AGAIN)}</p>", *sections]


def _layers(run: Run) -> list[str]:
    body = [
        figure(
            figures.overview(run, kind),
            f"{kind}: theory (lines) and simulation extrapolated to infinite width (points). Stable ranks "
            "whose largest eigenvalue is not separated are drawn and not compared.",
        )
        for kind in figures.kinds_of(run)
        if kind != "residual"
    ]
    return ["<h2>Layer by layer</h2>", *body, *_growths(run, "gradient")]


def _growths(run: Run, quantity: residual_figures.Quantity) -> list[str]:
    growths = residual_figures.growths_of(run, quantity)
    if not growths:
        return []
    caption = (
        f"Residual networks, {quantity}: theory (lines) and simulation extrapolated to infinite width "
        "(points), both axes logarithmic."
    )
    return [figure(figures.png(residual_figures.draw(growths, quantity)), caption)]


def _section(run: Run, name: str) -> list[str]:
    statement = next(case.statement for case in run.cases if case.name == name)
    header = (
        "input",
        "quantity",
        "layer",
        "theory",
        "simulation",
        "s.e.",
        "difference",
        "detectable",
        "margin",
        "networks",
        "p (Holm)",
        "verdict",
        "route",
    )
    rows = []
    for row in figures.rows_of(run, name):
        show = QUANTITIES[row.quantity].show
        rows.append(
            (
                row.inputs,
                QUANTITIES[row.quantity].label,
                str(row.layer),
                f"{row.theory:.5f}",
                f"{row.simulation:.5f}",
                f"{row.sem:.1e}",
                show(row.difference / row.layers),
                show(row.detectable / row.layers),
                show(row.margin / row.layers),
                str(row.networks),
                f"{row.p_holm:.3g}",
                " ".join((row.verdict, *remarks(row))),
                row.route,
            )
        )
    caption = (
        "Points: intercepts with intervals at the per-test level; lines: theory. Right: the means "
        "behind the first layer's gradient, over 1/width."
    )
    return [
        f"<h2>{escape(name)}</h2><p>{escape(statement)}</p>",
        figure(figures.normalizer(run, name), caption),
        folded(f"{len(rows)} tests", table(header, rows, words=(0, 1, 11, 12)), lines=len(rows)),
    ]


def _budget(run: Run) -> str:
    rows = []
    for case in run.cases:
        for part in case.parts(run.budget):
            networks = run.curves[case.id, part.quantities[0]].networks
            widths = ", ".join(map(str, part.grid.widths))
            cells = (case.id, part.name, str(case.batch), str(part.grid.depth), widths)
            rows.append((*cells, f"{part.grid.pilot} + {networks - part.grid.pilot}"))
    header = ("case", "what", "batch", "depth", "widths", "networks of each (pilot + more)")
    return table(header, rows, words=(0, 1, 4, 5))


def require_folder(out: Path) -> None:
    """Raise SpecificationError if the report could not be written: before the work, not at its end."""
    created = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
        if created:
            out.rmdir()
    except OSError as error:
        raise out_of_domain(
            "out", str(out), f"a folder that can be written ({error.strerror})", "choose another"
        ) from None
