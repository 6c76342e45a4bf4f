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
from theory.errors import SpecificationError

WIDTHS = np.array([96.0, 192.0, 384.0])
COUNTS = np.array([40, 20, 20])


def draws(rng, *, a, b, runs, counts=COUNTS):
    """Means and standard errors of ``runs`` synthetic runs: y_k ~ a + b/n + noise/sqrt(n)."""
    found = [
        estimate(a + b / n + rng.standard_normal((runs, r)) / math.sqrt(n))
        for n, r in zip(WIDTHS, counts, strict=True)
    ]
    means, sems = zip(*found, strict=True)
    return np.stack(means, axis=1), np.stack(sems, axis=1)


def test_estimate_by_hand():
    # 1, 2, 3, 6: mean 3, variance (4 + 1 + 0 + 9)/3; the pilot 1, 2 has variance 1/2.
    mean, sem = estimate([1.0, 2.0, 3.0, 6.0])
    assert mean == 3.0
    assert sem == pytest.approx(math.sqrt(14 / 3 / 4))
    mean, sem = estimate([1.0, 2.0, 3.0, 6.0], pilot=2)
    assert mean == 3.0
    assert sem == pytest.approx(math.sqrt(0.5 / 4))


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
    terms = ((0.5, 0), (1.0, 0))
    fit = weighted_fit(widths, y, np.full(4, 0.1), np.full(4, 9), terms=terms)
    assert fit.intercept == pytest.approx(19.41, rel=1e-12)
    assert fit.slopes == pytest.approx((-3.0, 11.0), rel=1e-9)
    y = 19.41 - 3.0 * np.log(widths) / widths + 11.0 / widths
    fit = weighted_fit(widths, y, np.full(4, 0.1), np.full(4, 9), terms=width_terms(4))
    assert fit.intercept == pytest.approx(19.41, rel=1e-11)
    assert fit.slopes == pytest.approx((-3.0, 11.0), rel=1e-7)


def test_two_widths_by_hand():
    # n = 1, 2: a = 2 y_2 - y_1, variance 4 s_2^2 + s_1^2 = 4 * 0.09 + 0.16 = 0.52.
    fit = weighted_fit([1, 2], [3.0, 5.0], [0.4, 0.3], [11, 21])
    assert fit.intercept == pytest.approx(7.0)
    assert fit.sem == pytest.approx(math.sqrt(0.52))
    assert fit.dof == pytest.approx(0.52**2 / (0.16**2 / 10 + 0.36**2 / 20))
    assert math.isnan(fit.lack_of_fit)


def test_sem_agrees_with_generalized_least_squares():
    # Where the variances are those that the weights assume, 1/(R n), weighted least squares is the best.
    s = 0.3 / np.sqrt(COUNTS * WIDTHS)
    design = np.stack([np.ones(3), 1.0 / WIDTHS], axis=1)
    covariance = np.linalg.inv(design.T @ np.diag(s**-2) @ design)
    fit = weighted_fit(WIDTHS, [1.0, 2.0, 1.5], s, COUNTS)
    assert fit.sem == pytest.approx(math.sqrt(covariance[0, 0]), rel=1e-12)


def test_other_variances_change_the_standard_error_and_not_the_weights():
    s = np.array([0.3, 0.1, 0.2])
    fit = weighted_fit(WIDTHS, [1.0, 2.0, 1.5], s, COUNTS)
    assert fit.shares == pytest.approx(weighted_fit(WIDTHS, np.ones(3), 2.0 * s, COUNTS).shares)
    assert fit.sem == pytest.approx(math.sqrt(((fit.shares * s) ** 2).sum()))


def test_lack_of_fit_is_that_of_generalized_least_squares():
    widths = np.array([64.0, 128.0, 256.0, 512.0])
    y, s = np.array([1.0, 1.3, 1.1, 1.4]), np.array([0.2, 0.1, 0.15, 0.05])
    design = np.stack([np.ones(4), 1.0 / widths], axis=1)
    _, residual, *_ = np.linalg.lstsq(design / s[:, None], y / s, rcond=None)
    fit = weighted_fit(widths, y, s, np.full(4, 30))
    assert fit.lack_of_fit == pytest.approx(stats.f.sf(residual[0] / 2, 2, 29), rel=1e-10)


def test_many_fits_at_once():
    rng = np.random.default_rng(0)
    means, sems = draws(rng, a=1.0, b=2.0, runs=6)
    together = weighted_fit(WIDTHS, means.reshape(2, 3, 3), sems.reshape(2, 3, 3), COUNTS)
    for i in range(6):
        alone = weighted_fit(WIDTHS, means[i], sems[i], COUNTS)
        assert together.intercept.ravel()[i] == pytest.approx(alone.intercept, rel=1e-13)
        assert together.sem.ravel()[i] == pytest.approx(alone.sem, rel=1e-13)
        assert together.dof.ravel()[i] == pytest.approx(alone.dof, rel=1e-13)
        assert together.lack_of_fit.ravel()[i] == pytest.approx(alone.lack_of_fit, rel=1e-9)


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
    for rank in (1, 2):
        with pytest.raises(SpecificationError, match="rank"):
            width_terms(rank)


def test_exponents_of_the_theory_notes():
    # Section 6: n^-1/2 at rank 3, log n/n at rank 4, 1/n beyond; the tail index of 1/R^2 is rank/2.
    assert width_terms(3) == ((0.5, 0), (1.0, 0))
    assert width_terms(4) == ((1.0, 1), (1.0, 0))
    assert width_terms(5) == width_terms(math.inf) == ((1.0, 0),)
    assert width_terms(curved=True) == ((1.0, 0), (2.0, 0))
    assert variance_decay(3) == 0.5
    assert variance_decay(4) == variance_decay(math.inf) == 1.0


def test_the_variance_of_a_heavy_tailed_mean_decays_as_stated():
    # 1/R^2 of rank 3: log of a mean of n of them, n = 64 and 4096.  Over seeds the measured exponent
    # is .51 +- .045: false-alarm probability 1e-3.
    rng = np.random.default_rng(1)
    spread = [np.log((1 / rng.chisquare(3, (2000, n))).mean(axis=1)).var() for n in (64, 4096)]
    assert abs(math.log(spread[0] / spread[1]) / math.log(64) - variance_decay(3)) < 0.15


def test_the_next_term_is_allowed_for():
    # a = 0 in exp(-20/n) - 1: the fit of a + b/n errs, by less than the allowance.
    widths = np.array([408.0, 1632.0, 6528.0])
    fit = weighted_fit(widths, np.expm1(-20 / widths), np.full(3, 1e-3), COUNTS)
    allowed = neglected(fit, widths, ((1.0, 0),))
    assert 0.1 * allowed < abs(fit.intercept) < allowed


def test_p_values_are_uniform_under_the_null():
    # Kolmogorov-Smirnov at 1e-3: false-alarm probability 0.001.
    means, sems = draws(np.random.default_rng(11), a=1.7, b=-4.0, runs=4000)
    fit = weighted_fit(WIDTHS, means, sems, COUNTS)
    p = p_value(fit.intercept - 1.7, sem=fit.sem, dof=fit.dof)
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_lack_of_fit_sees_curvature():
    # Power, not level: the curvature raises F to about 150, far beyond its 1e-6 quantile of 24.
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
    rate = np.mean((holm(p) <= 0.05).any(axis=1))
    exact = 1 - (1 - 0.05 / 20) ** 20
    assert abs(rate - exact) < 4.9 * math.sqrt(exact * (1 - exact) / 20_000)


def test_detectable_error_is_detected_with_its_power():
    # `detectable` approximates the non-central t, good to 0.005 in the power; the interval is that
    # widened by 4.9 binomial standard deviations (false alarm 1e-6).
    level, power, runs = 1e-3, 0.95, 4000
    means, sems = draws(np.random.default_rng(7), a=0.0, b=3.0, runs=runs)
    fit = weighted_fit(WIDTHS, means, sems, COUNTS)
    typical = weighted_fit(WIDTHS, means, 1.0 / np.sqrt(WIDTHS * COUNTS), COUNTS)
    wrong = detectable(sem=typical.sem, dof=fit.dof, level=level, power=power)
    found = p_value(fit.intercept - wrong, sem=fit.sem, dof=fit.dof) <= level
    slack = 4.9 * math.sqrt(power * (1 - power) / runs)
    assert 0.945 - slack < found.mean() < 0.955 + slack


def test_detectable_error_against_the_non_central_t():
    for dof, level in ((28, 1e-5), (110, 3e-6), (1000, 1e-3)):
        e = detectable(sem=1.0, dof=dof, level=level)
        critical = stats.t.isf(level / 2, dof)
        assert stats.nct.sf(critical, dof, e) == pytest.approx(0.95, abs=0.005)


def test_half_width_is_the_interval_of_the_test():
    width = half_width(sem=0.3, dof=12, level=0.01, bound=0.05)
    assert p_value(width, sem=0.3, dof=12, bound=0.05) == pytest.approx(0.01, rel=1e-9)
    assert detectable(sem=0.3, dof=12, level=0.01, bound=0.05) > width


def test_the_planned_networks_confirm_an_exact_prediction():
    # Intervals within +-room with probability 99.5 %: one standard error then is room/(t + t').
    quantiles = stats.t.ppf(1 - 0.5e-5, 40) + stats.t.ppf(0.9975, 40)
    found = networks_needed(
        networks=50, sem=0.2, dof=40, level=1e-5, room=[0.5, 0.0, -1.0], assurance=0.995
    )
    assert found[0] == math.ceil(50 * (quantiles * 0.2 / 0.5) ** 2)
    assert np.isinf(found[1:]).all()
