"""Where a claim departs from the paper: the measured effect, and its cause shown by an intervention."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from montecarlo.controls import ControlRow
from montecarlo.margins import QUANTITIES
from montecarlo.statistics import half_width
from montecarlo.verdicts import Curve, Row

__all__ = [
    "Agrees",
    "Departure",
    "Deviation",
    "Measured",
    "PowerOfWidth",
    "PutInPlace",
    "departure",
]


@dataclass(frozen=True, kw_only=True)
class PutInPlace:
    """Simulation minus the value of a control: what the paper (or the cause) would predict."""

    case: str
    control: str


@dataclass(frozen=True, kw_only=True)
class Agrees:
    """Simulation minus theory at a case's last layer: no effect is left."""

    case: str
    quantity: str


@dataclass(frozen=True, kw_only=True)
class PowerOfWidth:
    """d log E[x] / d log n between the narrowest and the widest networks, against ``power``."""

    case: str
    quantity: str
    layer: int
    power: float


Source = PutInPlace | Agrees | PowerOfWidth


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """A departure from the paper, as data.

    Attributes
    ----------
    paper
        What the paper says.
    why
        What is found instead, and the cause: a paragraph.
    effect
        Where a run measures how far the paper's statement is from what is simulated.
    change
        What the intervention takes away or puts in, in words.
    intervention
        Where a run measures what is left after it.
    """

    paper: str
    why: str
    effect: Source
    change: str
    intervention: Source


@dataclass(frozen=True, kw_only=True)
class Measured:
    """``found`` with the run's interval, beside the value that it is held against."""

    what: str
    reference: float
    found: float
    half_width: float

    @property
    def effect(self) -> float:
        """Found minus reference."""
        return self.found - self.reference


@dataclass(frozen=True, kw_only=True)
class Departure:
    """What a run measured of a deviation; None where its choice of cases or controls leaves it out."""

    effect: Measured | None
    intervention: Measured | None


def departure(
    deviation: Deviation,
    rows: Sequence[Row],
    controls: Sequence[ControlRow],
    curves: Mapping[tuple[str, str], Curve],
    *,
    level: float,
) -> Departure:
    """Measure a deviation on a claim's rows and controls; ``level`` is that of a single test."""

    def measured(source: Source) -> Measured | None:
        match source:
            case PutInPlace():
                return _put_in_place(source, rows, controls)
            case Agrees():
                return _agrees(source, rows)
            case PowerOfWidth():
                return _power_of_width(source, curves, level=level)

    return Departure(
        effect=measured(deviation.effect), intervention=measured(deviation.intervention)
    )


def _put_in_place(
    source: PutInPlace, rows: Sequence[Row], controls: Sequence[ControlRow]
) -> Measured | None:
    for control in controls:
        if (f"{control.case}/{control.inputs}", control.control) == (source.case, source.control):
            place = (control.case, control.inputs, control.quantity, control.layer)
            (half,) = (
                row.half_width
                for row in rows
                if (row.case, row.inputs, row.quantity, row.layer) == place
            )
            return Measured(
                what=f"{_where(source.case, control.quantity, control.layer)}: simulation, "
                f"minus “{control.control}”",
                reference=control.wrong,
                found=control.simulation,
                half_width=half,
            )
    return None


def _agrees(source: Agrees, rows: Sequence[Row]) -> Measured | None:
    mine = [
        row
        for row in rows
        if f"{row.case}/{row.inputs}" == source.case and row.quantity == source.quantity
    ]
    if not mine:
        return None
    row = max(mine, key=lambda row: row.layer)
    return Measured(
        what=f"{_where(source.case, row.quantity, row.layer)}: simulation, minus theory",
        reference=row.theory,
        found=row.simulation,
        half_width=row.half_width,
    )


def _power_of_width(
    source: PowerOfWidth, curves: Mapping[tuple[str, str], Curve], *, level: float
) -> Measured | None:
    curve = curves.get((source.case, source.quantity))
    if curve is None or source.layer > len(curve.theory):
        return None
    index, (narrow, *_, wide) = source.layer - 1, curve.widths
    span = math.log(wide / narrow)
    sem = math.hypot(curve.sems[0, index], curve.sems[-1, index]) / span
    half = half_width(sem=sem, dof=curve.networks - 1.0, level=level, bound=0.0)
    return Measured(
        what=f"{_where(source.case, source.quantity, source.layer)}: power of the width between "
        f"{narrow} and {wide}, minus {source.power:g}",
        reference=source.power,
        found=float(curve.means[-1, index] - curve.means[0, index]) / span,
        half_width=float(half),
    )


def _where(case: str, quantity: str, layer: int) -> str:
    return f"{case}, {QUANTITIES[quantity].label}, layer {layer}"
