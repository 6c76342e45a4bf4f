"""Verdicts: CONFIRMED, REJECTED or INCONCLUSIVE, from per-network values at several widths.

For a quantity at a layer, d = a - theory, where a + b/n (``statistics.width_terms``) fits the means at
widths n.  With the level alpha/m of the m tests of the run and the interval d +- h (``half_width``):

    CONFIRMED      the interval lies inside +-margin; flag ``deviation`` if zero is excluded
    REJECTED       zero is excluded (Holm at alpha), and the interval is not inside the margin
    INCONCLUSIVE   otherwise, with the number of networks that would decide if d stays where it is

An error that is smaller than the margin can so be REJECTED by intervals that reach beyond the margin,
and is CONFIRMED with ``deviation`` by more networks.
A fit that the means refuse (lack of fit at alpha/m, flag ``curvature``) has no intercept to judge.
All intervals of a run hold together with probability 1 - alpha, so that a wrong CONFIRMED is as
rare as a wrong REJECTED.

What does not average out is added as a bound on both sides: the prediction's stated error, rounding,
and the next term of the expansion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from montecarlo.budgets import Budget
from montecarlo.case import Case, Part
from montecarlo.margins import ASSURANCE, POWER, QUANTITIES, Quantity
from montecarlo.predictions import Theory
from montecarlo.statistics import (
    Fit,
    Term,
    detectable,
    estimate,
    half_width,
    holm,
    neglected,
    networks_needed,
    p_value,
    variance_decay,
    weighted_fit,
    width_terms,
)

__all__ = [
    "DTYPE",
    "VERDICTS",
    "Curve",
    "Row",
    "Check",
    "Verdict",
    "curves_of",
    "judge",
    "networks_wanted",
    "checks_of",
    "remarks",
]

FloatArray = NDArray[np.float64]
Verdict = Literal["CONFIRMED", "REJECTED", "INCONCLUSIVE"]
VERDICTS: tuple[Verdict, ...] = ("CONFIRMED", "REJECTED", "INCONCLUSIVE")

_RESERVE = 0.1
"""Share of a margin that the plan leaves to the truncation, known only after the means are."""

DTYPE = "float32"
"""Arithmetic of the simulations; its rounding enters the bounds."""


@dataclass(frozen=True)
class Check:
    """One quantity of one case at one layer; ``margin`` is the total over ``layers``."""

    case: Case
    part: Part
    quantity: Quantity
    layer: int
    margin: float

    @property
    def layers(self) -> int:
        """Layers over which a rate accumulates."""
        return self.quantity.layers(self.layer, self.part.grid.depth)

    @property
    def place(self) -> tuple[str, str]:
        """Key of its curve."""
        return self.case.id, self.quantity.name


@dataclass(frozen=True, kw_only=True)
class Row:
    """The result of one test.

    ``margin``, ``detectable``, ``difference`` and ``half_width`` are totals; divided by ``layers``
    they are per layer for rates.  ``detectable_relative`` is relative to the prediction; for a
    logarithmic quantity, to the number (or factor per layer) of which it is the logarithm.
    ``networks`` were simulated at every width; ``networks_needed`` would bring the interval inside the
    margin or away from zero, whichever is nearer; infinite if what does not average out forbids both.
    """

    case: str
    inputs: str
    quantity: str
    layer: int
    depth: int
    layers: int
    theory: float
    theory_error: float
    route: str
    simulation: float
    sem: float
    dof: float
    slope: float
    truncation: float
    lack_of_fit: float
    networks: int
    networks_needed: float
    difference: float
    half_width: float
    p: float
    p_holm: float
    detectable: float
    detectable_relative: float
    margin: float
    verdict: Verdict
    flags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One quantity of one case over all layers: prediction, fits, and the means behind them.

    ``bound`` has shape (3, depth): stated error, truncation, rounding.  ``means`` and ``sems`` have
    shape (widths, depth).  ``dead`` networks have a value that is not finite.
    """

    theory: FloatArray
    bound: FloatArray
    fit: Fit
    terms: tuple[Term, ...]
    widths: tuple[int, ...]
    networks: int
    means: FloatArray
    sems: FloatArray
    dead: int = 0

    def fitted(self, widths: FloatArray, *, layer: int) -> FloatArray:
        """a + sum_j b_j f_j(n) at ``widths``, for a layer counted from 1."""
        corrections = [widths**-power * np.log(widths) ** logs for power, logs in self.terms]
        return np.asarray(self.fit.intercept[layer - 1] + self.fit.slopes[layer - 1] @ corrections)


def checks_of(
    chosen: Sequence[Case], budget: Budget, theories: Mapping[tuple[str, str, int], Theory]
) -> tuple[list[Check], list[str]]:
    """Everything a run compares; and what was left out, with the reason.  No simulation decides it."""
    tests, skipped = [], []
    for case in chosen:
        parts = case.parts(budget)
        if not any(part.backward for part in parts):
            skipped.append(f"{case.id}, gradients: their heavy tail needs a larger budget")
        for part in parts:
            theory = theories[case.id, "", part.grid.depth]
            for quantity, layer in part.tests:
                reason = _untestable(case, part, quantity, layer, theory)
                if reason:
                    skipped.append(f"{case.id}, {quantity.label}, layer {layer}: {reason}")
                    continue
                layers = quantity.layers(layer, part.grid.depth)
                margin = quantity.margin * budget.tightening * layers
                tests.append(Check(case, part, quantity, layer, margin))
    return tests, skipped


def _untestable(
    case: Case, part: Part, quantity: Quantity, layer: int, theory: Theory
) -> str | None:
    """Why the prediction says that the expansion does not describe this quantity, or None."""
    if not np.isfinite(theory.value[quantity.name][layer - 1]):
        return f"the prediction is not finite ({theory.status})"
    if quantity.name == "stable_rank":
        # The largest eigenvalue is smooth in the Gram matrix only while B s exceeds the spread
        # sqrt(B/n) of the eigenvalues; else it has corrections n^(-1/2).
        similarity = theory.value["similarity"][layer - 1]
        if case.batch * similarity < 4.0 * math.sqrt(case.batch / min(part.grid.widths)):
            return "the leading eigenvalue is not separated, so corrections are not in 1/n"
    return None


def curves_of(
    case: Case, part: Part, theory: Theory, values: Sequence[FloatArray]
) -> dict[str, Curve]:
    """Fits of every quantity of a part at every layer.

    Parameters
    ----------
    values
        For every width, shape (quantities, networks, depth).
    """
    widths, pilot = part.grid.widths, part.grid.pilot
    found = [estimate(np.moveaxis(v, 1, -1), pilot=pilot) for v in values]
    means, sems = (np.stack(column) for column in zip(*found, strict=True))
    counts = [min(pilot, v.shape[1]) for v in values]
    curves = {}
    for index, name in enumerate(part.quantities):
        rank = case.rank if QUANTITIES[name].backward else math.inf
        terms = width_terms(rank, curved=part.grid.curved)
        fit = weighted_fit(
            widths,
            means[:, index].T,
            sems[:, index].T,
            counts,
            terms=terms,
            decay=variance_decay(rank),
        )
        value, error = theory.value[name], theory.error[name]
        truncation = neglected(fit, widths, terms) / _scale(name, value)
        rounding = part.grid.depth * float(np.finfo(DTYPE).eps) * (1.0 + np.abs(value))
        curves[name] = Curve(
            theory=value,
            bound=np.stack([error, truncation, rounding]),
            fit=fit,
            terms=terms,
            widths=widths,
            networks=values[0].shape[1],
            means=means[:, index],
            sems=sems[:, index],
            dead=sum(int((~np.isfinite(v[index]).all(axis=-1)).sum()) for v in values),
        )
    return curves


def _scale(name: str, value: FloatArray) -> FloatArray:
    """Size to which a correction of relative order one amounts: 1 - s, the log rank if small, or 1."""
    if name == "similarity":
        return 1.0 - value
    return np.minimum(np.abs(value), 1.0) if name == "stable_rank" else np.ones_like(value)


def networks_wanted(
    tests: Sequence[Check], curves: Mapping[str, Curve], part: Part, *, level: float
) -> int:
    """Networks at every width that confirm what is true; standard deviations alone decide.

    No mean enters: neither a difference from theory nor a slope, for which a share of the margin is
    reserved.  Where the stated error leaves no room, networks do not help and none are asked for.
    """
    wanted = part.grid.pilot
    for test in tests:
        curve, index = curves[test.quantity.name], test.layer - 1
        fixed = float(curve.bound[0, index] + curve.bound[2, index])
        needed = networks_needed(
            networks=curve.networks,
            sem=curve.fit.sem[index],
            dof=curve.fit.dof[index],
            level=level,
            room=(1.0 - _RESERVE) * test.margin - fixed,
            assurance=ASSURANCE,
        )
        if math.isfinite(needed):
            wanted = max(wanted, min(int(needed), part.grid.largest))
    return wanted


def judge(
    tests: Sequence[Check],
    theories: Mapping[tuple[str, str, int], Theory],
    curves: Mapping[tuple[str, str], Curve],
    *,
    alpha: float,
) -> list[Row]:
    """Verdicts of all tests together."""
    p_values = [float(_p(curves[test.place], test.layer)) for test in tests]
    return [
        _row(
            test,
            theories[test.case.id, "", test.part.grid.depth],
            curves[test.place],
            alpha=alpha,
            level=alpha / len(tests),
            p=p,
            p_holm=float(adjusted),
        )
        for test, p, adjusted in zip(tests, p_values, holm(p_values), strict=True)
    ]


def _p(curve: Curve, layer: int) -> FloatArray:
    index = layer - 1
    return p_value(
        curve.fit.intercept[index] - curve.theory[index],
        sem=curve.fit.sem[index],
        dof=curve.fit.dof[index],
        bound=curve.bound[:, index].sum(),
    )


def _row(
    test: Check,
    theory: Theory,
    curve: Curve,
    *,
    alpha: float,
    level: float,
    p: float,
    p_holm: float,
) -> Row:
    index, layers, margin = test.layer - 1, test.layers, test.margin
    intercept, sem, dof = (float(column[index]) for column in curve.fit[:3])
    lack, predicted = float(curve.fit.lack_of_fit[index]), float(curve.theory[index])
    bound = float(curve.bound[:, index].sum())
    difference = intercept - predicted
    half = float(half_width(sem=sem, dof=dof, level=level, bound=bound))
    smallest = float(detectable(sem=sem, dof=dof, level=level, power=POWER, bound=bound))
    needed = networks_needed(
        networks=curve.networks,
        sem=sem,
        dof=dof,
        level=level,
        room=max(abs(difference), margin - abs(difference)) - bound,
        assurance=ASSURANCE,
    )
    verdict, flags = _verdict(
        difference,
        half=half,
        margin=margin,
        bound=bound,
        excluded=p_holm <= alpha,
        curved=lack <= level,
        dead=curve.dead,
    )
    logarithmic = test.quantity.logarithmic
    return Row(
        case=test.case.name,
        inputs=test.case.kind,
        quantity=test.quantity.name,
        layer=test.layer,
        depth=test.part.grid.depth,
        layers=layers,
        theory=predicted,
        theory_error=float(curve.bound[0, index]),
        route=theory.route[test.quantity.name],
        simulation=intercept,
        sem=sem,
        dof=dof,
        slope=float(curve.fit.slopes[index, 0]),
        truncation=float(curve.bound[1, index]),
        lack_of_fit=lack,
        networks=curve.networks,
        networks_needed=float(needed),
        difference=difference,
        half_width=half,
        p=p,
        p_holm=p_holm,
        detectable=smallest,
        detectable_relative=math.expm1(smallest / layers)
        if logarithmic
        else smallest / (abs(predicted) or math.nan),
        margin=margin,
        verdict=verdict,
        flags=flags,
    )


def _verdict(
    difference: float,
    *,
    half: float,
    margin: float,
    bound: float,
    excluded: bool,
    curved: bool,
    dead: int = 0,
) -> tuple[Verdict, tuple[str, ...]]:
    """The definitions at the head of this module."""
    if dead or math.isnan(difference + half):
        return "INCONCLUSIVE", (f"no estimate: {dead} networks have no finite value",)
    if curved:
        return "INCONCLUSIVE", ("curvature",)
    if abs(difference) + half <= margin:
        return "CONFIRMED", ("deviation",) if excluded else ()
    if excluded:
        return "REJECTED", ()
    return "INCONCLUSIVE", ("underpowered" if bound < margin else "bound exceeds margin",)


def remarks(row: Row) -> tuple[str, ...]:
    """Flags for people: of an underpowered test, how many networks would decide it."""
    if "underpowered" in row.flags and math.isfinite(row.networks_needed):
        return (f"({row.networks_needed:,.0f} networks needed)",)
    return row.flags
