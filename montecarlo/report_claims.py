"""Claims in a report: the table that it opens with, a section each, JSON, and JUnit XML."""

from __future__ import annotations

import dataclasses
from typing import Any
from xml.etree import ElementTree

from montecarlo.claim import Claim, ClaimResult
from montecarlo.claim_figures import evidence
from montecarlo.margins import QUANTITIES
from montecarlo.pieces import escape, figure, table
from montecarlo.verdicts import remarks
from montecarlo.verify import Run

__all__ = ["claims_json", "claims_overview", "claims_sections", "junit_text", "value_text"]


def value_text(claim: Claim) -> str:
    """What theory says exactly, with its number if there is one."""
    if claim.number is None:
        return claim.exact
    return f"{claim.exact}: {claim.number():.6g}"


def _controls_text(result: ClaimResult) -> str:
    caught = sum(control.rejected for control in result.controls)
    return f"{caught} of {len(result.controls)} rejected" if result.controls else "not judged"


def claims_overview(run: Run) -> str:
    """One line per claim."""
    rows = [
        (
            result.claim.id,
            result.claim.statement + (" (deviates from the paper)" * bool(result.claim.deviation)),
            value_text(result.claim),
            str(len(result.rows)),
            result.judged,
            _controls_text(result),
        )
        for result in run.claims
    ]
    header = ("claim", "statement", "theory says", "tests", "verdict", "wrong theories")
    return table(header, rows, text=(0, 1, 2, 4, 5))


def claims_sections(run: Run, *, command: str) -> list[str]:
    """Statement, evidence over widths, tests and controls of every claim."""
    body = []
    for result in run.claims:
        claim = result.claim
        body.append(
            f'<h3 id="{escape(claim.id)}">{escape(claim.id)}: {escape(claim.statement)}</h3>'
            f"<p>{escape(claim.source)}. Theory: {escape(value_text(claim))}. "
            f'<span class="{result.verdict}">{result.judged}</span>; seed {run.seed}; again: '
            f"<code>{escape(f'{command} --only {claim.id}')}</code></p>"
        )
        if claim.deviation:
            body.append(f"<p><b>Departs from the paper.</b> {escape(claim.deviation)}</p>")
        body.append(
            figure(
                evidence(run, result),
                "Means over networks at several widths, extrapolated to infinite width; the interval "
                "there holds at the run's per-test level. Dotted: wrong theories. Logarithms of gradients "
                "compare a layer with the last one: λ is the factor of the layers between, and the "
                "first ones, which have not settled, have factors of their own.",
            )
        )
        body += [_tests(result), _wrong(result)]
    return body


def _tests(result: ClaimResult) -> str:
    rows = []
    for row in result.rows:
        show = QUANTITIES[row.quantity].show
        rows.append(
            (
                f"{row.case}/{row.inputs}",
                QUANTITIES[row.quantity].label,
                str(row.layer),
                f"{row.theory:.5f}",
                f"{row.simulation:.5f} ± {row.half_width:.5f}",
                show(row.margin / row.layers),
                " ".join((row.verdict, *remarks(row))),
            )
        )
    header = ("case", "quantity", "layer", "theory", "simulation, interval", "margin", "verdict")
    return table(header, rows, text=(0, 1, 6))


def _wrong(result: ClaimResult) -> str:
    if not result.controls:
        return ""
    rows = [
        (
            f"{control.case}/{control.inputs}",
            control.control,
            control.statement,
            QUANTITIES[control.quantity].label,
            f"{control.wrong:.4f}",
            f"{control.theory:.4f}",
            f"{control.effect:.1f}",
            "REJECTED" if control.rejected else "NOT REJECTED",
        )
        for control in result.controls
    ]
    header = ("case", "wrong theory", "mistake", "shows in", "wrong", "true", "margins", "verdict")
    return table(header, rows, text=(0, 1, 2, 3, 7))


def claims_json(run: Run) -> list[dict[str, Any]]:
    """Claims as JSON values; ``rows`` and ``controls`` as in the rest of the document."""
    return [
        {
            "id": result.claim.id,
            "finding": result.claim.finding,
            "statement": result.claim.statement,
            "source": result.claim.source,
            "exact": result.claim.exact,
            "number": None if result.claim.number is None else result.claim.number(),
            "deviation": result.claim.deviation,
            "verdict": result.verdict,
            "judged": result.judged,
            "cases": list(result.claim.cases),
            "quantities": list(result.claim.quantities),
            "rows": [dataclasses.asdict(row) for row in result.rows],
            "controls": [dataclasses.asdict(control) for control in result.controls],
        }
        for result in run.claims
    ]


def junit_text(run: Run) -> str:
    """JUnit XML: a test case per claim and per wrong theory; REJECTED fails, INCONCLUSIVE is skipped."""
    suite = ElementTree.Element("testsuite", name="normcompass verify")
    failures = skipped = 0
    for result in run.claims:
        claim = result.claim
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"claims.{claim.finding}", name=claim.id
        )
        ElementTree.SubElement(case, "system-out").text = f"{result.judged}: {claim.statement}"
        if result.verdict == "REJECTED":
            failures += 1
            ElementTree.SubElement(case, "failure", message=claim.statement)
        elif result.verdict == "INCONCLUSIVE":
            skipped += 1
            ElementTree.SubElement(case, "skipped", message="inconclusive: more networks needed")
    for control in run.controls:
        name = f"{control.control} ({control.case}/{control.inputs})"
        case = ElementTree.SubElement(suite, "testcase", classname="controls", name=name)
        if not control.rejected:
            failures += 1
            ElementTree.SubElement(case, "failure", message="a wrong theory was not rejected")
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(failures))
    suite.set("skipped", str(skipped))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
