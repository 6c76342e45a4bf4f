"""A verification's report: index.html (self-contained), verify.json, verify.csv, junit.xml, timings.json.

The first four have the same bytes for the same seed on one machine and set of versions, whatever
the number of workers; what differs from run to run (dates, durations) is in timings.json alone.
All text is escaped.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numba
import numpy as np
import scipy

from montecarlo import figures, residual_figures
from montecarlo.budgets import DEFAULT, Budget
from montecarlo.cases import cases
from montecarlo.controls import ControlRow
from montecarlo.margins import ASSURANCE, POWER, QUANTITIES
from montecarlo.pieces import escape, figure, table
from montecarlo.report_claims import claims_json, claims_overview, claims_sections, junit_text
from montecarlo.report_text import INPUTS, METHOD, STYLE
from montecarlo.verdicts import Row, remarks
from montecarlo.verify import Run
from theory.errors import StoreError, out_of_domain
from theory.provenance import version_of

__all__ = [
    "command",
    "csv_text",
    "finite",
    "json_document",
    "margins_table",
    "require_folder",
    "write",
]

SCHEMA = 2


def write(run: Run, folder: Path, *, timings: Mapping[str, Any] | None = None) -> Path:
    """Write the report into ``folder`` and return the path of its index.html.

    Raises
    ------
    StoreError
        The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        document = json.dumps(json_document(run), indent=1, allow_nan=False) + "\n"
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


def json_document(run: Run) -> dict[str, Any]:
    """Everything as JSON values: {"schema": 2, "kind": "verification", ...}; NaN and inf are null."""
    document = {
        "schema": SCHEMA,
        "kind": "verification",
        "command": command(run),
        "exit_status": run.exit_status,
        "counts": run.counts,
        "alpha": run.alpha,
        "power": POWER,
        "assurance": ASSURANCE,
        "tests": len(run.rows),
        "level": run.level,
        "seed": run.seed,
        "budget": dataclasses.asdict(run.budget),
        "margins": [dataclasses.asdict(q) for q in QUANTITIES.values()],
        "claims": claims_json(run),
        "rows": [dataclasses.asdict(row) for row in run.rows],
        "controls": [dataclasses.asdict(control) for control in run.controls],
        "skipped": list(run.skipped),
        "curves": [
            {
                "case": case,
                "quantity": name,
                "widths": curve.widths,
                "networks": curve.networks,
                "theory": curve.theory.tolist(),
                "intercept": curve.fit.intercept.tolist(),
                "sem": curve.fit.sem.tolist(),
                "means": curve.means.tolist(),
                "sems": curve.sems.tolist(),
            }
            for (case, name), curve in run.curves.items()
        ],
        "provenance": _provenance(),
    }
    plain = finite(document)
    assert isinstance(plain, dict)
    return plain


def csv_text(run: Run) -> str:
    """One line per test, with the fields of ``Row``."""
    buffer = io.StringIO()
    names = [field.name for field in dataclasses.fields(Row)]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    for row in run.rows:
        values = [getattr(row, name) for name in names]
        writer.writerow([" ".join(v) if isinstance(v, tuple) else v for v in values])
    return buffer.getvalue()


def _provenance() -> dict[str, str]:
    return {
        "normcompass": version_of("normcompass"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "numba": numba.__version__,
        "matplotlib": matplotlib.__version__,
        "processor": platform.machine(),
        "system": platform.system(),
    }


def finite(value: Any) -> Any:
    """Strict JSON: no NaN, no infinity."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _page(run: Run) -> str:
    counts = run.counts
    badges = "".join(
        f'<span class="count {name}">{count} {name}</span>' for name, count in counts.items()
    )
    if run.controls:
        caught = sum(control.rejected for control in run.controls)
        badges += (
            f'<span class="count">{caught} of {len(run.controls)} wrong theories rejected</span>'
        )
    kinds = figures.kinds_of(run)
    names = list(dict.fromkeys(case.name for case in run.cases))
    body = [
        "<h1>normcompass: theory against simulation</h1>",
        f"<p>{badges}</p>",
        f"<p>{len(run.rows)} tests, family-wise error {run.alpha:g} (Holm), "
        f"{100 * POWER:g} % power at the detectable error. "
        f"Reproduce with <code>{escape(command(run))}</code> (exit status {run.exit_status}).</p>",
        figure(
            figures.agreement(run),
            "Every test: simulation minus theory in units of the margin (dotted), with intervals at "
            "the per-test level.",
        ),
        *(
            figure(
                figures.overview(run, kind),
                f"{kind}: theory (lines) and simulation extrapolated to infinite width (points).",
            )
            for kind in kinds
            if kind != "residual"
        ),
        *(
            figure(
                figures.png(residual_figures.draw(growths, quantity)),
                f"residual, {quantity}: theory (lines) and simulation extrapolated to infinite width "
                "(points), both axes logarithmic.",
            )
            for quantity in residual_figures.QUANTITIES
            if (growths := residual_figures.growths_of(run, quantity))
        ),
        figure(figures.p_values(run), "p-values of all tests against the uniform law."),
        *_claims(run),
        "<h2>Margins</h2>",
        table(("quantity", "margin", "why this scale"), margins_table(run.budget), text=(0, 2)),
        f"<h2>Method</h2><p>{escape(METHOD)}</p><p>{escape(INPUTS)}</p>",
        _budget(run),
    ]
    if run.controls:
        body += ["<h2>Wrong theories</h2>", _controls(run.controls)]
    for name in names:
        body += _section(run, name)
    if run.skipped:
        items = "".join(f"<li>{escape(item)}</li>" for item in run.skipped)
        body.append(f"<h2>Not tested</h2><ul>{items}</ul>")
    versions = ", ".join(f"{key} {value}" for key, value in _provenance().items())
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
    sections = claims_sections(run, command=command(run, chosen=False))
    return ["<h2>Claims</h2>", claims_overview(run), *sections]


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
        table(header, rows, text=(0, 1, 11, 12)),
    ]


def _controls(controls: Iterable[ControlRow]) -> str:
    header = (
        "layer under test",
        "input",
        "wrong theory",
        "mistake",
        "shows in",
        "at layer",
        "wrong",
        "true",
        "simulation",
        "effect / margin",
        "p",
        "verdict",
    )
    rows = [
        (
            c.case,
            c.inputs,
            c.control,
            c.statement,
            QUANTITIES[c.quantity].label,
            str(c.layer),
            f"{c.wrong:.4f}",
            f"{c.theory:.4f}",
            f"{c.simulation:.4f}",
            f"{c.effect:.1f}",
            f"{c.p:.1e}",
            "REJECTED" if c.rejected else "NOT REJECTED",
        )
        for c in controls
    ]
    return table(header, rows, text=(0, 1, 2, 3, 4, 11))


def _budget(run: Run) -> str:
    rows = []
    for case in run.cases:
        for part in case.parts(run.budget):
            networks = run.curves[case.id, part.quantities[0]].networks
            widths = ", ".join(map(str, part.grid.widths))
            cells = (case.id, part.name, str(case.batch), str(part.grid.depth), widths)
            rows.append((*cells, f"{part.grid.pilot} + {networks - part.grid.pilot}"))
    header = ("case", "what", "batch", "depth", "widths", "networks of each (pilot + more)")
    return table(header, rows, text=(0, 1, 4, 5))


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
