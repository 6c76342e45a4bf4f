"""From values of networks to verdicts: the statistics as ``verify`` wires them, on made-up values.

The formulas are written a second time here, with SciPy's distributions and NumPy's least squares.
"""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from montecarlo import verify
from montecarlo.budgets import Budget, Grid
from montecarlo.predictions import Theory
from montecarlo.verdicts import Check, curves_of, judge, networks_wanted, remarks

PILOT, NETWORKS, DEPTH = 12, 40, 3
WIDTHS = (64, 128, 256, 512)
GRID = Grid(depth=DEPTH, forward=(2, 3), backward=(1,), widths=WIDTHS, pilot=PILOT, largest=500)
BUDGET = Budget(name="made up", first=GRID, wide=GRID, direct=GRID, heavy=GRID)
ALPHA, MARGIN = 0.01, 0.3


def setting(name, part_name, quantity):
    """(case, part, index of the quantity) of a case that ``verify`` has."""
    (case,) = verify.select("synthetic", only=[name])
    part = {part.name: part for part in case.parts(BUDGET)}[part_name]
    return case, part, part.quantities.index(quantity)


def made_up(part, *, seed=3, spread=0.2, shift=0.0, slope=4.0, power=1.0):
    """a + b n^-p + noise of variance 1/n, whose pilot is three times as wide as the rest."""
    rng = np.random.default_rng(seed)
    values = []
    for width in part.grid.widths:
        noise = rng.standard_normal((len(part.quantities), NETWORKS, DEPTH))
        noise[:, :PILOT] *= 3.0
        values.append(shift + slope * width**-power + spread * noise * math.sqrt(64 / width))
    return values


def theory_of(part, *, error=0.0):
    names = part.quantities
    return Theory(
        # A stable rank of 1 has no correction at all.
        value={name: np.full(DEPTH, 0.5 * (name == "stable_rank")) for name in names},
        error={name: np.full(DEPTH, error) for name in names},
        route=dict.fromkeys(names, "made up"),
        status="regular",
    )


def verdicts(name, part_name, quantity, *, error=0.0, tests=8, **options):
    """(rows, values of the quantity at layer 1): the same test ``tests`` times, as in a run of as many."""
    case, part, index = setting(name, part_name, quantity)
    values, theory = made_up(part, **options), theory_of(part, error=error)
    found = curves_of(case, part, theory, values)
    curves = {(case.id, key): curve for key, curve in found.items()}
    chosen = next(q for q, _ in part.tests if q.name == quantity)
    checks = [Check(case, part, chosen, 1, MARGIN)] * tests
    rows = judge(checks, {(case.id, "", DEPTH): theory}, curves, alpha=ALPHA)
    return rows, [v[index, :, 0] for v in values], found[quantity]


def by_hand(values, design, decay=1.0):
    """(intercept, s.e., dof, weights): only the pilot gives s, all networks give the mean."""
    weight = np.sqrt(np.array([PILOT * n**decay for n in WIDTHS]))
    solution = np.linalg.lstsq(design * weight[:, None], np.diag(weight), rcond=None)[0][0]
    means = np.array([v.mean() for v in values])
    sems = np.array([v[:PILOT].std(ddof=1) for v in values]) / math.sqrt(NETWORKS)
    parts = (solution * sems) ** 2
    dof = parts.sum() ** 2 / (parts**2 / (PILOT - 1)).sum()
    return solution @ means, math.sqrt(parts.sum()), dof, solution


ORDINARY = ("BN", "network", "gradient")
HEAVY = ("GN(4)", "gradients", "gradient")


@pytest.mark.parametrize("place", [ORDINARY, HEAVY], ids=["1/n", "rank 3"])
def test_pilot_width_law_and_level(place):
    rows, values, _ = verdicts(*place)
    n = np.array(WIDTHS, dtype=float)
    terms = [1 / n] if place is ORDINARY else [n**-0.5, 1 / n]
    design = np.stack([np.ones_like(n), *terms], axis=1)
    intercept, sem, dof, _ = by_hand(values, design, decay=1.0 if place is ORDINARY else 0.5)
    row = rows[0]
    assert row.simulation == pytest.approx(intercept, rel=1e-10)
    assert row.sem == pytest.approx(sem, rel=1e-10)
    assert row.dof == pytest.approx(dof, rel=1e-10)
    bound = row.truncation + DEPTH * np.finfo(np.float32).eps
    student = stats.t(dof)
    assert row.half_width == pytest.approx(student.isf(ALPHA / 8 / 2) * sem + bound, rel=1e-9)
    p = 2 * student.sf(max(abs(intercept) - bound, 0.0) / sem)
    assert row.p == pytest.approx(min(p, 1.0), rel=1e-7)
    assert row.p_holm == pytest.approx(min(8 * p, 1.0), rel=1e-7)


def test_the_stated_error_of_the_prediction_enters():
    (exact, *_), _, _ = verdicts(*ORDINARY, shift=0.1)
    (stated, *_), _, _ = verdicts(*ORDINARY, shift=0.1, error=0.05)
    assert stated.half_width == pytest.approx(exact.half_width + 0.05, rel=1e-12)
    assert stated.p > exact.p
    assert stated.detectable == pytest.approx(exact.detectable + 0.1, rel=1e-12)


def test_more_networks_where_the_pilot_is_wide():
    """Planned from the pilot's standard error, for the margin less what networks cannot mend."""
    case, part, _ = setting(*ORDINARY)
    curves = curves_of(case, part, theory_of(part), made_up(part))
    quantity = next(q for q, _ in part.tests if q.name == "gradient")

    def wanted(margin):
        return networks_wanted([Check(case, part, quantity, 1, margin)], curves, part, level=1e-3)

    assert wanted(10.0) == PILOT
    fit = curves["gradient"].fit
    student = stats.t(fit.dof[0])
    rounding = DEPTH * np.finfo(np.float32).eps
    steps = (student.isf(5e-4) + student.isf(0.0025)) * fit.sem[0] / (0.9 * 0.4 - rounding)
    assert wanted(0.4) == math.ceil(NETWORKS * steps**2)
    assert wanted(1e-3) == GRID.largest


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.15, 0.2, 0.28])
def test_what_is_needed_is_more_than_what_there_was(shift):
    for seed in range(12):
        (row, *_), _, _ = verdicts(*ORDINARY, shift=shift, seed=seed, spread=0.35)
        if "underpowered" in row.flags:
            assert row.networks < row.networks_needed
            assert "networks needed" in remarks(row)[0]


def test_dead_networks_are_counted():
    case, part, _ = setting(*ORDINARY)
    values, theory = made_up(part), theory_of(part)
    values[1][:, 5] = -math.inf
    values[2][:, 7] = -math.inf
    curves = {(case.id, key): c for key, c in curves_of(case, part, theory, values).items()}
    quantity = next(q for q, _ in part.tests if q.name == "gradient")
    check = Check(case, part, quantity, 1, MARGIN)
    (row,) = judge([check], {(case.id, "", DEPTH): theory}, curves, alpha=ALPHA)
    assert row.verdict == "INCONCLUSIVE"
    assert row.flags == ("no estimate: 2 networks have no finite value",)


def test_a_prediction_of_zero_has_no_relative_error():
    case, part, _ = setting("BN", "network", "similarity")
    theory = theory_of(part)
    curves = {(case.id, key): c for key, c in curves_of(case, part, theory, made_up(part)).items()}
    quantity = next(q for q, _ in part.tests if q.name == "similarity")
    check = dataclasses.replace(Check(case, part, quantity, 2, MARGIN))
    (row,) = judge([check], {(case.id, "", DEPTH): theory}, curves, alpha=ALPHA)
    assert math.isnan(row.detectable_relative)
