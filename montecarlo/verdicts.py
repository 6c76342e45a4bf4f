"""Verdicts: AGREE, REJECTED or INCONCLUSIVE, from per-network values at several widths.

For a quantity at a layer, d = a - theory, where a + b/n fits the means at widths n.  With the level
alpha/m of the m tests of the run, interval d +- h (``half_width``), detectable error delta:

    REJECTED       Holm rejects d = 0 at alpha, and the interval is not inside the margin
    INCONCLUSIVE   not rejected, but delta exceeds the margin: the run could not have seen it
    AGREE          otherwise; flag ``deviation`` if Holm rejects but the interval is inside the margin

What does not average out is added as a bound on both sides: the prediction's stated error, rounding,
and the neglected c/n^2, taken as twice b^2 relative to the scale of the quantity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from montecarlo.claims import (
    Budget,
    Case,
    Control,
    Theory,
)
from montecarlo.margins import ALPHA, POWER, QUANTITIES, Quantity
from montecarlo.statistics import (
    Fit,
    detectable,
    half_width,
    holm,
    p_value,
    weighted_fit,
    width_powers,
)

__all__ = ["DTYPE", "ControlRow", "Curve", "Row", "Verdict", "control_row", "curves_of", "judge"]

FloatArray = NDArray[np.float64]
Verdict = Literal["AGREE", "REJECTED", "INCONCLUSIVE"]

_EFFECT = 2.0
"""Margins by which a wrong theory must differ from the true one."""

DTYPE = "float32"
"""Arithmetic of the simulations; its rounding enters the bounds."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One test: a quantity of one case at one layer.

    ``margin``, ``detectable``, ``difference`` and ``half_width`` are totals; divided by ``layers``
    they are per layer for rates.  ``detectable_relative`` is relative to the prediction; for a
    logarithmic quantity, to the number (or factor per layer) of which it is the logarithm.
    """

    case: str
    inputs: str
    quantity: str
    layer: int
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


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One quantity of one case over all layers: prediction, intercepts, and the means behind them."""

    theory: FloatArray
    intercept: FloatArray
    sem: FloatArray
    bound: FloatArray
    widths: tuple[int, ...]
    networks: tuple[int, ...]
    means: FloatArray
    sems: FloatArray
    fits: tuple[Fit, ...]


def curves_of(
    case: Case,
    budget: Budget,
    theory: Theory,
    samples: Mapping[tuple[str, int], list[FloatArray]],
) -> dict[str, Curve]:
    """Intercepts of every quantity at every layer."""
    plan = case.plan(budget)
    widths, networks = tuple(w for w, _ in plan), tuple(n for _, n in plan)
    values = [np.concatenate(samples[case.id, width], axis=1) for width in widths]
    with np.errstate(invalid="ignore"):
        means = np.stack([v.mean(axis=1) for v in values])  # (widths, quantities, depth)
        sems = np.stack([v.std(axis=1, ddof=1) / math.sqrt(v.shape[1]) for v in values])
    curves = {}
    for index, name in enumerate(QUANTITIES):
        powers = width_powers(case.rank) if name == "gradient" else (1.0,)
        fits = tuple(
            weighted_fit(widths, means[:, index, k], sems[:, index, k], networks, powers=powers)
            for k in range(budget.depth)
        )
        value, error = theory.value[name], theory.error[name]
        scale = _scale(name, value)
        truncation = np.array([_truncation(fit, widths) for fit in fits]) / scale
        rounding = budget.depth * float(np.finfo(DTYPE).eps) * (1.0 + np.abs(value))
        curves[name] = Curve(
            theory=value,
            intercept=np.array([fit.intercept for fit in fits]),
            sem=np.array([fit.sem for fit in fits]),
            bound=np.stack([error, truncation, rounding]),
            widths=widths,
            networks=networks,
            means=means[:, index],
            sems=sems[:, index],
            fits=fits,
        )
    return curves


def _scale(name: str, value: FloatArray) -> FloatArray:
    """Size to which a correction of relative order one amounts: 1 - s, the log rank if small, or 1."""
    if name == "similarity":
        return 1.0 - value
    return np.minimum(np.abs(value), 1.0) if name == "stable_rank" else np.ones_like(value)


def _truncation(fit: Fit, widths: Sequence[int]) -> float:
    """|sum w_k 2 b^2/n_k^2|: what a neglected term c/n^2, |c| <= 2 b^2, does to the intercept."""
    n = np.asarray(widths, dtype=np.float64)
    return 2.0 * fit.slopes[-1] ** 2 * abs(float((fit.shares / n**2).sum()))


def judge(
    chosen: Sequence[Case],
    budget: Budget,
    theories: Mapping[tuple[str, str], Theory],
    curves: Mapping[str, Mapping[str, Curve]],
) -> tuple[list[Row], list[str]]:
    """Tests and verdicts; and what was left out, with the reason."""
    tests: list[tuple[Case, Quantity, int]] = []
    skipped = []
    for case in chosen:
        for quantity in QUANTITIES.values():
            backward = quantity.name == "gradient"
            for layer in budget.backward if backward else budget.forward:
                reason = _untestable(case, budget, quantity, layer, theories[case.id, ""])
                if reason:
                    skipped.append(f"{case.id}, {quantity.label}, layer {layer}: {reason}")
                else:
                    tests.append((case, quantity, layer))
    level = ALPHA / len(tests)
    p_values = [_p(curves[case.id][quantity.name], layer) for case, quantity, layer in tests]
    rows = [
        _row(
            case,
            quantity,
            layer,
            theories[case.id, ""],
            curves[case.id][quantity.name],
            budget=budget,
            level=level,
            p=p,
            p_holm=float(adjusted),
        )
        for (case, quantity, layer), p, adjusted in zip(
            tests, p_values, holm(p_values), strict=True
        )
    ]
    return rows, skipped


def _untestable(
    case: Case, budget: Budget, quantity: Quantity, layer: int, theory: Theory
) -> str | None:
    """Why the prediction says that a + b/n does not describe this quantity, or None."""
    if not np.isfinite(theory.value[quantity.name][layer - 1]):
        return f"the prediction is not finite ({theory.status})"
    if quantity.name != "gradient" and layer > case.deepest:
        return "its corrections in 1/n are too large at these widths"
    if quantity.name == "stable_rank":
        # The largest eigenvalue is smooth in the Gram matrix only while B s exceeds the spread
        # sqrt(B/n) of the eigenvalues; else it has corrections n^(-1/2).
        similarity = theory.value["similarity"][layer - 1]
        if case.batch * similarity < 4.0 * math.sqrt(case.batch / case.plan(budget)[0][0]):
            return "the leading eigenvalue is not separated, so corrections are not in 1/n"
    return None


def _p(curve: Curve, layer: int) -> float:
    fit = curve.fits[layer - 1]
    return p_value(
        fit.intercept - float(curve.theory[layer - 1]),
        sem=fit.sem,
        dof=fit.dof,
        bound=float(curve.bound[:, layer - 1].sum()),
    )


def _row(
    case: Case,
    quantity: Quantity,
    layer: int,
    theory: Theory,
    curve: Curve,
    *,
    budget: Budget,
    level: float,
    p: float,
    p_holm: float,
) -> Row:
    index = layer - 1
    fit, predicted = curve.fits[index], float(curve.theory[index])
    layers = quantity.layers(layer, budget.depth, stationary=case.stationary)
    margin = quantity.margin * layers
    bound = float(curve.bound[:, index].sum())
    difference = fit.intercept - predicted
    half = half_width(sem=fit.sem, dof=fit.dof, level=level, bound=bound)
    smallest = detectable(sem=fit.sem, dof=fit.dof, level=level, power=POWER, bound=bound)
    verdict, flags = _verdict(
        difference, half=half, smallest=smallest, margin=margin, p_holm=p_holm
    )
    if fit.lack_of_fit < level:
        flags = (*flags, "curvature")
    relative = math.expm1(smallest / layers) if quantity.logarithmic else smallest / abs(predicted)
    return Row(
        case=case.name,
        inputs=case.kind,
        quantity=quantity.name,
        layer=layer,
        layers=layers,
        theory=predicted,
        theory_error=float(curve.bound[0, index]),
        route=theory.route[quantity.name],
        simulation=fit.intercept,
        sem=fit.sem,
        dof=fit.dof,
        slope=fit.slopes[-1],
        truncation=float(curve.bound[1, index]),
        lack_of_fit=fit.lack_of_fit,
        networks=sum(curve.networks),
        difference=difference,
        half_width=half,
        p=p,
        p_holm=p_holm,
        detectable=smallest,
        detectable_relative=relative,
        margin=margin,
        verdict=verdict,
        flags=flags,
    )


def _verdict(
    difference: float, *, half: float, smallest: float, margin: float, p_holm: float
) -> tuple[Verdict, tuple[str, ...]]:
    """The definitions at the head of this module."""
    if math.isnan(p_holm):
        return "INCONCLUSIVE", ("no estimate",)
    inside = abs(difference) + half <= margin
    if p_holm <= ALPHA:
        return ("AGREE", ("deviation",)) if inside else ("REJECTED", ())
    if smallest > margin:
        return "INCONCLUSIVE", ("underpowered",)
    return "AGREE", ()


def control_row(
    case: Case,
    control: Control,
    wrong: Theory,
    rows: Sequence[Row],
    curves: Mapping[str, Mapping[str, Curve]],
    level: float,
) -> ControlRow:
    """The wrong theory on the test of this case where it is furthest from the true one."""

    def effect(row: Row) -> float:
        value = float(wrong.value[row.quantity][row.layer - 1])
        return abs(value - row.theory) / row.margin if math.isfinite(value) else 0.0

    tests = [row for row in rows if (row.case, row.inputs) == (case.name, case.kind)]
    row = max(tests, key=effect)
    curve, index = curves[case.id][row.quantity], row.layer - 1
    value = float(wrong.value[row.quantity][index])
    bound = float(curve.bound[1:, index].sum() + wrong.error[row.quantity][index])
    p = p_value(row.simulation - value, sem=row.sem, dof=row.dof, bound=bound)
    half = half_width(sem=row.sem, dof=row.dof, level=level, bound=bound)
    size = effect(row)
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
        rejected=p <= level and abs(row.simulation - value) + half > row.margin and size >= _EFFECT,
    )
