"""Claims in a report: the table that it opens with, departures from the paper, a section each."""

from __future__ import annotations

from collections.abc import Iterable

from montecarlo.claim import Claim, ClaimResult
from montecarlo.claim_figures import evidence
from montecarlo.claim_pictures import PICTURES
from montecarlo.claims import CLAIMS
from montecarlo.controls import ControlRow
from montecarlo.departure import Measured
from montecarlo.margins import QUANTITIES
from montecarlo.pieces import escape, figure, folded, table
from montecarlo.verdicts import Row, remarks
from montecarlo.verify import Run

__all__ = [
    "again",
    "claims_left_out",
    "claims_overview",
    "claims_sections",
    "controls_table",
    "departures",
    "picture",
    "value_text",
]

AGAIN = (
    "A claim run alone has fewer tests than the whole run: each is judged at a higher level, and "
    "fewer networks may do. Those that both runs simulate are the same, bit by bit."
)


def value_text(claim: Claim) -> str:
    """What theory says exactly, with its number if there is one."""
    if claim.number is None:
        return claim.exact
    return f"{claim.exact}: {claim.number():.6g}"


def again(claim: Claim, *, command: str) -> str:
    """The command that tests this claim alone; ``command`` has everything but the choice."""
    return f"{command} --only {claim.id}"


def _controls_text(run: Run, result: ClaimResult) -> str:
    caught, count = sum(control.rejected for control in result.controls), len(result.controls)
    if count:
        return f"{caught} of {count} rejected"
    return "none on these cases" if run.controls else "not judged"


def claims_overview(run: Run) -> str:
    """One line per claim."""
    rows = [
        (
            result.claim.id,
            result.claim.statement + " (Departs from the paper.)" * bool(result.claim.deviation),
            value_text(result.claim),
            str(len(result.rows)),
            result.judged,
            _controls_text(run, result),
        )
        for result in run.claims
    ]
    header = ("claim", "statement", "theory says", "tests", "verdict", "wrong theories")
    return table(header, rows, words=(0, 5), text=(1, 2, 4), linked=True)


def claims_left_out(run: Run) -> str:
    """The claims of which a run tests nothing, so that what is not there is not taken for confirmed."""
    there = {result.claim.id for result in run.claims}
    absent = [claim.id for claim in CLAIMS if claim.id not in there]
    if not absent:
        return ""
    return f"<p>Without a test in this run: {escape(', '.join(absent))}.</p>"


def _measured(value: Measured | None) -> tuple[str, str, str, str]:
    if value is None:
        return "not measured in this run", "", "", ""
    effect = f"{value.effect:+.4f} ± {value.half_width:.4f}"
    return value.what, f"{value.found:.4f}", f"{value.reference:.4f}", effect


def departures(results: Iterable[ClaimResult]) -> str:
    """Every departure from the paper: its measured effect, and what an intervention leaves of it."""
    rows = []
    for result in results:
        deviation, found = result.claim.deviation, result.departure
        if deviation is None or found is None:
            continue
        rows.append((result.claim.id, deviation.paper, *_measured(found.effect)))
        rows.append(("", f"Intervention: {deviation.change}", *_measured(found.intervention)))
    if not rows:
        return ""
    header = ("claim", "the paper; the intervention", "measured", "simulated", "against", "effect")
    return table(header, rows, words=(0,), text=(1, 2))


def picture(run: Run, claim: str) -> str:
    """The picture of a claim as a whole, where there is one and the run has points for it."""
    if claim not in PICTURES:
        return ""
    draw, caption = PICTURES[claim]
    drawn = [draw(run, result) for result in run.claims if result.claim.id == claim]
    return "".join(figure(png, caption) for png in drawn if png is not None)


def claims_sections(run: Run, *, command: str, opened: tuple[str, ...] = ()) -> list[str]:
    """Statement, evidence over widths, tests and controls of every claim.

    Parameters
    ----------
    run
        What is reported.
    command
        Reproduces it but for the choice of cases.
    opened
        Claims whose picture stands elsewhere.
    """
    body = []
    for result in run.claims:
        claim = result.claim
        body.append(
            f'<h3 id="{escape(claim.id)}">{escape(claim.id)}: {escape(claim.statement)}</h3>'
            f"<p>{escape(claim.source)}. Theory: {escape(value_text(claim))}. "
            f'<span class="{result.verdict}">{escape(result.judged)}</span>; wrong theories: '
            f"{escape(_controls_text(run, result))}; seed {run.seed}; again: "
            f"<code>{escape(again(claim, command=command))}</code></p>"
        )
        if claim.deviation:
            body.append(
                f"<p><b>Departs from the paper.</b> {escape(claim.deviation.paper)} "
                f"<b>Found:</b> {escape(claim.deviation.why)}</p>"
            )
            body.append(departures([result]))
        if claim.id not in opened:
            body.append(picture(run, claim.id))
        body.append(
            figure(
                evidence(run, result),
                "Means over networks at several widths, extrapolated to infinite width, with the interval "
                "at the run's per-test level. Dotted: wrong theories nearby."
                + _SCALE
                * any("gradient" in row.quantity for row in result.rows),
            )
        )
        body += [_tests(run, result), _wrong(result)]
    return body


_SCALE = (
    " Logarithms of gradients compare a layer with the last one: λ is the factor of the layers between, and "
    "the first ones, which have not settled, have factors of their own."
)


def _tests(run: Run, result: ClaimResult) -> str:
    rows = []
    for row in result.rows:
        show = QUANTITIES[row.quantity].show
        rows.append(
            (
                f"{row.case}/{row.inputs}",
                QUANTITIES[row.quantity].label,
                str(row.layer),
                _over_widths(run, row),
                f"{row.simulation:.5f} ± {row.half_width:.5f}",
                f"{row.theory:.5f}",
                show(row.margin / row.layers),
                " ".join((row.verdict, *remarks(row))),
            )
        )
    header = (
        "case",
        "quantity",
        "layer",
        "simulation at each width, ± 2 s.e.",
        "extrapolated, interval",
        "theory",
        "margin",
        "verdict",
    )
    body = table(header, rows, words=(0, 1, 7), text=(3,))
    return folded(f"{len(rows)} test{'s' * (len(rows) > 1)}", body, lines=len(rows))


def _over_widths(run: Run, row: Row) -> str:
    curve, index = run.curves[f"{row.case}/{row.inputs}", row.quantity], row.layer - 1
    return "; ".join(
        f"{width}: {mean:.4f} ± {2.0 * sem:.4f}"
        for width, mean, sem in zip(
            curve.widths, curve.means[:, index], curve.sems[:, index], strict=True
        )
    )


def _wrong(result: ClaimResult) -> str:
    count = len(result.controls)
    if not count:
        return ""
    summary = f"{count} wrong theories" if count > 1 else "1 wrong theory"
    return folded(summary, controls_table(result.controls), lines=count)


def controls_table(controls: Iterable[ControlRow]) -> str:
    """Wrong theories, each where it is furthest from the true one."""
    header = (
        "case",
        "wrong theory",
        "mistake",
        "shows in",
        "layer",
        "wrong",
        "true",
        "simulation",
        "effect / margin",
        "p",
        "verdict",
    )
    rows = [
        (
            f"{control.case}/{control.inputs}",
            control.control,
            control.statement,
            QUANTITIES[control.quantity].label,
            str(control.layer),
            f"{control.wrong:.4f}",
            f"{control.theory:.4f}",
            f"{control.simulation:.4f}",
            f"{control.effect:.1f}",
            f"{control.p:.1e}" if control.p > 0.0 else "< 1e-300",
            "rejected" if control.rejected else "NOT REJECTED",
        )
        for control in controls
    ]
    return table(header, rows, words=(3, 9, 10), text=(0, 1, 2))
