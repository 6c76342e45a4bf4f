"""A verification as files for machines: JSON (schema 3), CSV and JUnit XML.

The documentation has a JSON Schema of the first (reference, "Reports of verify").
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import platform
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numba
import numpy as np
import scipy

from montecarlo.claim import ClaimResult
from montecarlo.departure import Measured
from montecarlo.margins import ASSURANCE, POWER, QUANTITIES
from montecarlo.report_claims import again
from montecarlo.verdicts import Row
from montecarlo.verify import Run
from theory.provenance import version_of

__all__ = ["SCHEMA", "csv_text", "finite", "json_document", "junit_text", "provenance"]

SCHEMA = 3


def json_document(run: Run, *, command: str, any_claim: str) -> dict[str, Any]:
    """Everything as JSON values: {"schema": 3, "kind": "verification", ...}; NaN and inf are null.

    Parameters
    ----------
    run
        What is written.
    command, any_claim
        Reproduces the run; the same without its choice of cases.
    """
    document = {
        "schema": SCHEMA,
        "kind": "verification",
        "command": command,
        "exit_status": run.exit_status,
        "counts": run.counts,
        "alpha": run.alpha,
        "power": POWER,
        "assurance": ASSURANCE,
        "tests": len(run.rows),
        "level": run.level,
        "seed": run.seed,
        "inputs": run.inputs,
        "budget": dataclasses.asdict(run.budget),
        "margins": [dataclasses.asdict(q) for q in QUANTITIES.values()],
        "claims": [_claim(result, command=any_claim) for result in run.claims],
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
        "provenance": provenance(),
    }
    plain = finite(document)
    assert isinstance(plain, dict)
    return plain


def _claim(result: ClaimResult, *, command: str) -> dict[str, Any]:
    claim, departure = result.claim, result.departure
    deviation = claim.deviation and {
        "paper": claim.deviation.paper,
        "why": claim.deviation.why,
        "change": claim.deviation.change,
        "effect": _measured(departure.effect if departure else None),
        "intervention": _measured(departure.intervention if departure else None),
    }
    return {
        "id": claim.id,
        "finding": claim.finding,
        "statement": claim.statement,
        "source": claim.source,
        "exact": claim.exact,
        "number": None if claim.number is None else claim.number(),
        "deviation": deviation,
        "verdict": result.verdict,
        "judged": result.judged,
        "again": again(claim, command=command),
        "cases": list(claim.cases),
        "quantities": list(claim.quantities),
        "rows": [dataclasses.asdict(row) for row in result.rows],
        "controls": [dataclasses.asdict(control) for control in result.controls],
    }


def _measured(value: Measured | None) -> dict[str, Any] | None:
    return None if value is None else {**dataclasses.asdict(value), "effect": value.effect}


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


def junit_text(run: Run) -> str:
    """JUnit XML: a test case per claim and per wrong theory; REJECTED fails, INCONCLUSIVE is skipped."""
    suite = ElementTree.Element("testsuite", name="normcompass verify")
    failures = skipped = 0
    for result in run.claims:
        claim = result.claim
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"claims.{claim.finding}", name=claim.id
        )
        if result.verdict == "REJECTED":
            failures += 1
            ElementTree.SubElement(case, "failure", message=claim.statement)
        elif result.verdict == "INCONCLUSIVE":
            skipped += 1
            ElementTree.SubElement(case, "skipped", message="inconclusive: more networks needed")
        ElementTree.SubElement(case, "system-out").text = f"{result.judged}: {claim.statement}"
    for control in run.controls:
        name = f"{control.control} ({control.case}/{control.inputs})"
        case = ElementTree.SubElement(suite, "testcase", classname="controls", name=name)
        if not control.rejected:
            failures += 1
            ElementTree.SubElement(case, "failure", message="a wrong theory was not rejected")
    counts = {"tests": len(suite), "failures": failures, "errors": 0, "skipped": skipped}
    for name, count in counts.items():
        suite.set(name, str(count))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def provenance() -> dict[str, str]:
    """Versions and machine: what else the bytes depend on."""
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
