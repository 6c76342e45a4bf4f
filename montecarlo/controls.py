"""Wrong theories on the same data: a verdict is worth something if it rejects these."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from montecarlo.case import Case, Control
from montecarlo.predictions import Theory
from montecarlo.statistics import half_width, p_value
from montecarlo.verdicts import Check, Curve, Row

__all__ = ["EFFECT", "ControlRow", "control_row"]

EFFECT = 2.0
"""Margins by which a wrong theory must differ from the true one."""


@dataclass(frozen=True, kw_only=True)
class ControlRow:
    """One wrong theory, on the test where it differs most from the true one.

    ``effect`` is its distance from the true prediction in margins, at least two for a control that
    shows anything.  ``rejected`` is the verdict a prediction would get, decided at alpha/m, the
    strictest step of Holm's procedure.
    """

    case: str
    inputs: str
    control: str
    statement: str
    quantity: str
    layer: int
    layers: int
    wrong: float
    theory: float
    simulation: float
    sem: float
    effect: float
    p: float
    rejected: bool


def control_row(
    case: Case,
    control: Control,
    pairs: Sequence[tuple[Check, Row]],
    theories: Mapping[tuple[str, str, int], Theory],
    curves: Mapping[tuple[str, str], Curve],
    *,
    level: float,
) -> ControlRow:
    """The wrong theory on that of the tests of its case where it is furthest from the true one."""

    def wrong_of(test: Check) -> tuple[float, float]:
        depth, name, index = test.part.grid.depth, test.quantity.name, test.layer - 1
        theory = theories[case.id, control.name if control.law is None else "", depth]
        if control.law is not None:
            wrong = control.law(case.batch, theory.value[name])
            return float(wrong[index]), float(theory.error[name][index])
        return float(theory.value[name][index]), float(theory.error[name][index])

    def effect(pair: tuple[Check, Row]) -> float:
        value, _ = wrong_of(pair[0])
        return abs(value - pair[1].theory) / pair[1].margin if math.isfinite(value) else 0.0

    test, row = best = max(pairs, key=effect)
    value, error = wrong_of(test)
    bound = error + float(curves[test.place].bound[1:, test.layer - 1].sum())
    p = float(p_value(row.simulation - value, sem=row.sem, dof=row.dof, bound=bound))
    half = float(half_width(sem=row.sem, dof=row.dof, level=level, bound=bound))
    size = effect(best)
    return ControlRow(
        case=case.name,
        inputs=case.kind,
        control=control.name,
        statement=control.statement,
        quantity=row.quantity,
        layer=row.layer,
        layers=row.layers,
        wrong=value,
        theory=row.theory,
        simulation=row.simulation,
        sem=row.sem,
        effect=size,
        p=p,
        rejected=p <= level and abs(row.simulation - value) + half > row.margin and size >= EFFECT,
    )
