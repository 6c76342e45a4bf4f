"""A claim, and what a run of ``verify`` says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from montecarlo.case import Case
from montecarlo.controls import EFFECT, ControlRow, control_row
from montecarlo.departure import Departure, Deviation, departure
from montecarlo.predictions import Theory
from montecarlo.verdicts import Check, Curve, Row, Verdict

__all__ = ["Claim", "ClaimResult", "Finding", "results_of"]

Finding = Literal["i", "ii", "iii", "ours"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Something that can turn out false.

    Attributes
    ----------
    id
        ``finding.name``: "i", "ii" and "iii" are the paper's findings, "ours" goes beyond it.
    statement, source
        In words; section of the paper, or of the theory notes.
    exact
        What theory says exactly.
    number
        A value of it, from the library or the formula's constants; None where it is a whole sequence.
    cases
        Ids of cases of ``verify``.
    quantities
        Names of ``margins.QUANTITIES`` that decide.
    deviation
        Where and why theory departs from the paper; None where it does not.
    """

    id: str
    statement: str
    source: str
    exact: str
    cases: tuple[str, ...]
    quantities: tuple[str, ...]
    number: Callable[[], float] | None = None
    deviation: Deviation | None = None

    @property
    def finding(self) -> Finding:
        """The part of ``id`` before the dot."""
        head = self.id.partition(".")[0]
        assert head in ("i", "ii", "iii", "ours")
        return head  # type: ignore[return-value]

    @property
    def wanted(self) -> tuple[str, ...]:
        """``cases``, and the one that a deviation intervenes with."""
        if self.deviation is None:
            return self.cases
        return tuple(dict.fromkeys((*self.cases, self.deviation.intervention.case)))


@dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """A claim with the tests that bear on it, and its wrong theories on those very tests.

    Controls whose effect on these tests is below two margins show nothing here and are left out.
    """

    claim: Claim
    rows: tuple[Row, ...]
    controls: tuple[ControlRow, ...]
    departure: Departure | None = None

    @property
    def verdict(self) -> Verdict:
        """REJECTED if any test is, CONFIRMED if all are, else INCONCLUSIVE."""
        found = {row.verdict for row in self.rows}
        if "REJECTED" in found:
            return "REJECTED"
        return "CONFIRMED" if found == {"CONFIRMED"} else "INCONCLUSIVE"

    @property
    def judged(self) -> str:
        """The verdict, and on how many of the claim's cases it rests if not on all."""
        there = len({(row.case, row.inputs) for row in self.rows})
        total = len(self.claim.cases)
        return self.verdict if there == total else f"{self.verdict} on {there} of {total} cases"


def results_of(
    claims: Iterable[Claim],
    chosen: Sequence[Case],
    tests: Sequence[Check],
    rows: Sequence[Row],
    theories: Mapping[tuple[str, str, int], Theory],
    curves: Mapping[tuple[str, str], Curve],
    *,
    controls: bool,
    level: float,
) -> tuple[ClaimResult, ...]:
    """The claims that the chosen cases bear on; parameters as of ``verdicts`` and ``controls``."""
    found = []
    for claim in claims:
        pairs = [
            (test, row)
            for test, row in zip(tests, rows, strict=True)
            if test.case.id in claim.cases and test.quantity.name in claim.quantities
        ]
        if not pairs:
            continue
        judged = []
        for case in chosen:
            mine = [pair for pair in pairs if pair[0].case is case]
            for control in case.controls if controls else ():
                about = [p for p in mine if control.quantity in (None, p[0].quantity.name)]
                if about:
                    row = control_row(case, control, about, theories, curves, level=level)
                    judged.append(row)
        shown = tuple(row for row in judged if row.effect >= EFFECT)
        measured = None
        if claim.deviation is not None:
            measured = departure(claim.deviation, rows, judged, curves, level=level)
        found.append(
            ClaimResult(
                claim=claim,
                rows=tuple(row for _, row in pairs),
                controls=shown,
                departure=measured,
            )
        )
    return tuple(found)
