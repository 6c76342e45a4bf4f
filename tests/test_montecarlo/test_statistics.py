"""The statistics of verify, against hand-computed numbers and synthetic draws.

Every random test has a fixed seed; false-alarm probabilities (over seeds) are stated.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from montecarlo.statistics import (
    detectable,
    half_width,
    holm,
    p_value,
    weighted_fit,
    width_powers,
)
from theory.errors import SpecificationError

WIDTHS = np.array([96.0, 192.0, 384.0])
COUNTS = np.array([40, 20, 20])


def draws(rng, *, a, b, runs, counts=COUNTS):
    """Means and standard errors of ``runs`` synthetic runs: y_k ~ a + b/n + noise/sqrt(n)."""
    means, sems = [], []
    for n, r in zip(WIDTHS, counts, strict=True):
        x = a + b / n + rng.standard_normal((runs, r)) / math.sqrt(n)
        means.append(x.mean(axis=1))
        sems.append(x.std(axis=1, ddof=1) / math.sqrt(r))
    return np.stack(means, axis=1), np.stack(sems, axis=1)


def test_fit_recovers_an_exact_expansion():
    y = 2.5 - 7.0 / WIDTHS
    fit = weighted_fit(WIDTHS, y, [0.1, 0.2, 0.05], COUNTS)
    assert fit.intercept == pytest.approx(2.5, rel=1e-13)
    assert fit.slopes[0] == pytest.approx(-7.0, rel=1e-12)
    assert fit.shares.sum() == pytest.approx(1.0, rel=1e-13)
    assert (fit.shares / WIDTHS).sum() == pytest.approx(0.0, abs=1e-15)
    assert fit.lack_of_fit == pytest.approx(1.0)


def test_fit_recovers_another_exponent():
    widths = np.array([64.0, 256.0, 1024.0, 4096.0])
    y = 19.41 - 3.0 * widths**-0.5 + 11.0 / widths
    fit = weighted_fit(widths, y, np.full(4, 0.1), np.full(4, 9), powers=(0.5, 1.0))
    assert fit.intercept == pytest.approx(19.41, rel=1e-12)
    assert fit.slopes == pytest.approx((-3.0, 11.0), rel=1e-9)


def test_two_widths_by_hand():
    # n = 1, 2: a = 2 y_2 - y_1, variance 4 s_2^2 + s_1^2 = 4 * 0.09 + 0.16 = 0.52.
    fit = weighted_fit([1, 2], [3.0, 5.0], [0.4, 0.3], [11, 21])
    assert fit.intercept == pytest.approx(7.0)
    assert fit.sem == pytest.approx(math.sqrt(0.52))
    assert fit.dof == pytest.approx(0.52**2 / (0.16**2 / 10 + 0.36**2 / 20))
    assert math.isnan(fit.lack_of_fit)


def test_sem_agrees_with_generalized_least_squares():
    s = np.array([0.3, 0.1, 0.2])
    design = np.stack([np.ones(3), 1.0 / WIDTHS], axis=1)
    covariance = np.linalg.inv(design.T @ np.diag(s**-2) @ design)
    fit = weighted_fit(WIDTHS, [1.0, 2.0, 1.5], s, COUNTS)
    assert fit.sem == pytest.approx(math.sqrt(covariance[0, 0]), rel=1e-12)


def test_without_randomness_the_fit_is_exact():
    fit = weighted_fit(WIDTHS, 0.5 + 1.0 / WIDTHS, np.zeros(3), COUNTS)
    assert fit.intercept == pytest.approx(0.5, rel=1e-12)
    assert fit.sem == 0.0
    assert p_value(0.0, sem=fit.sem, dof=fit.dof) == 1.0
    assert p_value(1e-9, sem=fit.sem, dof=fit.dof) == 0.0


def test_a_dead_network_gives_nan_not_a_verdict():
    fit = weighted_fit(WIDTHS, [-math.inf, 1.0, 1.0], [math.nan, 0.1, 0.1], COUNTS)
    assert math.isnan(fit.intercept)
    assert math.isnan(p_value(fit.intercept - 1.0, sem=fit.sem, dof=fit.dof))


def test_refusals():
    with pytest.raises(SpecificationError, match="widths"):
        weighted_fit([64, 64], [1, 1], [1, 1], [5, 5])
    with pytest.raises(SpecificationError, match="counts"):
        weighted_fit([64, 128], [1, 1], [1, 1], [5, 1])
    for rank in (1, 2, 4):
        with pytest.raises(SpecificationError, match="rank"):
            width_powers(rank)
    assert width_powers(3) == (0.5, 1.0)
    assert width_powers(5) == width_powers(math.inf) == (1.0,)


def test_p_values_are_uniform_under_the_null():
    # Kolmogorov-Smirnov at 1e-3: false-alarm probability 0.001.
    means, sems = draws(np.random.default_rng(11), a=1.7, b=-4.0, runs=4000)
    p = []
    for y, s in zip(means, sems, strict=True):
        fit = weighted_fit(WIDTHS, y, s, COUNTS)
        p.append(p_value(fit.intercept - 1.7, sem=fit.sem, dof=fit.dof))
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_lack_of_fit_sees_curvature():
    # Power, not level: the curvature raises chi^2 to about 150, far beyond its 1e-6 quantile of 24.
    rng = np.random.default_rng(5)
    means, sems = draws(rng, a=1.0, b=2.0, runs=1, counts=np.array([4000, 2000, 2000]))
    fit = weighted_fit(WIDTHS, means[0] + 1500.0 / WIDTHS**2, sems[0], [4000, 2000, 2000])
    assert fit.lack_of_fit < 1e-6


def test_a_bound_makes_p_conservative():
    plain = p_value(0.5, sem=0.2, dof=30)
    assert plain == pytest.approx(2 * stats.t.sf(2.5, 30), rel=1e-12)
    assert p_value(0.5, sem=0.2, dof=30, bound=0.1) == pytest.approx(2 * stats.t.sf(2.0, 30))
    assert p_value(-0.5, sem=0.2, dof=30, bound=0.6) == 1.0


def test_holm_by_hand():
    # Sorted .001 .01 .02 .04 times 4 3 2 1 = .004 .03 .04 .04.
    assert holm([0.02, 0.001, 0.04, 0.01]) == pytest.approx([0.04, 0.004, 0.04, 0.03])
    # The running maximum: .01*3, .011*2 -> .03, not .022.
    assert holm([0.01, 0.011, 0.9]) == pytest.approx([0.03, 0.03, 0.9])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([]).size == 0


def test_holm_counts_tests_without_an_answer():
    adjusted = holm([0.01, math.nan, 0.5])
    assert adjusted[0] == pytest.approx(0.03)
    assert math.isnan(adjusted[1])


def test_holm_keeps_the_family_wise_error():
    # 20,000 families of 20 true nulls at alpha = .05: P(any) = 1 - (1 - .05/20)^20 = .04884.
    # A binomial interval of 4.9 standard deviations: false-alarm probability 1e-6.
    p = np.random.default_rng(3).random((20_000, 20))
    rate = np.mean([(holm(row) <= 0.05).any() for row in p])
    exact = 1 - (1 - 0.05 / 20) ** 20
    assert abs(rate - exact) < 4.9 * math.sqrt(exact * (1 - exact) / 20_000)


def test_detectable_error_is_detected_with_its_power():
    # The non-central t differs a little from the shifted t that `detectable` uses, hence an
    # interval of 0.94 to 0.96 widened by 4.9 binomial standard deviations (false alarm 1e-6).
    level, power, runs = 1e-3, 0.95, 4000
    means, sems = draws(np.random.default_rng(7), a=0.0, b=3.0, runs=runs)
    found = 0
    for y, s in zip(means, sems, strict=True):
        fit = weighted_fit(WIDTHS, y, s, COUNTS)
        typical = weighted_fit(WIDTHS, y, 1.0 / np.sqrt(WIDTHS * COUNTS), COUNTS)
        wrong = detectable(sem=typical.sem, dof=fit.dof, level=level, power=power)
        found += p_value(fit.intercept - wrong, sem=fit.sem, dof=fit.dof) <= level
    slack = 4.9 * math.sqrt(power * (1 - power) / runs)
    assert 0.94 - slack < found / runs < 0.96 + slack


def test_half_width_is_the_interval_of_the_test():
    width = half_width(sem=0.3, dof=12, level=0.01, bound=0.05)
    assert p_value(width, sem=0.3, dof=12, bound=0.05) == pytest.approx(0.01, rel=1e-9)
    assert detectable(sem=0.3, dof=12, level=0.01, bound=0.05) > width
