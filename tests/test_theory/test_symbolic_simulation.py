"""Symbolic = numerical = simulation: every closed form in one table.

False alarms: all rows of a table share a family-wise error of 1e-3 (Holm, Student's t).  ``-s`` prints
the table.  Symbolic = numerical holds to each row's own tolerance, as in test_symbolic_numbers.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from form_simulations import NETWORKS, NOT_SIMULATED, POOLS, simulated, transformed
from scipy import special

from montecarlo.statistics import holm
from theory import symbolic

FAMILY_WISE = 1e-3
# Rounding of a simulation that has no noise: equal samples stay equal.
ROUNDING = 1e-12
# Standard errors above this would not see a wrong formula: a share of the value, absolute where it is 0.
SHARP = 0.06

QUICK = (
    "kappa_1",
    "SWS: slope at c*",
    "GN(2): map",
    "GN(8): map",
    "GN(4): slope",
    "GN(8): lambda",
    "BN(16), relu: s*",
    "BN(4), relu: lambda",
    "BN(16), relu: lambda",
    "BN(16) stream: contrasts' gradient",
    "MC(16): factor on q gap",
    "VN(16): contraction as c -> 1",
    "post-activation stream: second moment",
)


def check(names, **effort):
    forms = {form.name: form for form in symbolic.closed_forms()}
    rows, p = [], []
    for name in names:
        form = forms[name]
        assert form.discrepancy() <= form.tolerance, name
        value = transformed(name, form.symbolic())
        found = simulated(name, **effort)
        z = (found.value - value) / math.hypot(found.sem, ROUNDING)
        p.append(2.0 * float(special.stdtr(found.dof, -abs(z))))
        rows.append((name, value, transformed(name, form.numerical()), found, z))
    for (name, value, numerical, found, z), adjusted in zip(rows, holm(np.array(p)), strict=True):
        print(
            f"{name:48} {value:12.6g} {numerical:12.6g} {found.value:12.6g} +- {found.sem:8.2g}"
            f" {z:+6.2f} {adjusted:.2g}"
        )
        assert adjusted > FAMILY_WISE, name
        assert found.sem <= SHARP * (abs(value) or 1.0), name


def test_every_form_is_simulated_or_says_why_not():
    names = [form.name for form in symbolic.closed_forms()]
    assert sorted([*POOLS, *NETWORKS, *NOT_SIMULATED]) == sorted(names)
    assert len(NOT_SIMULATED) <= 0.12 * len(names)
    assert all(len(reason) > 10 for reason in NOT_SIMULATED.values())


def test_quick_table():
    check(QUICK, draws=20_000)


@pytest.mark.slow
def test_table():
    check([*POOLS, *NETWORKS], draws=400_000, replicates=150)


@pytest.mark.slow
def test_the_table_finds_wrong_formulas():
    """Each pool's estimate tells its value from one that is 10 % larger."""
    forms = {form.name: form for form in symbolic.closed_forms()}
    for name in QUICK:
        found = simulated(name, draws=400_000)
        wrong = 1.1 * forms[name].symbolic()
        assert abs(found.value - wrong) > 5.0 * found.sem, name
