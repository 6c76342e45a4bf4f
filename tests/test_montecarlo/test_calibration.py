"""The error rates of verify are nominal, and a mutation of its statistics shows.

Seeds are fixed; over seeds every assertion about a rate of the true statistics fails with probability
of about 1e-3 (that is where ``Rate.consistent`` draws the line), seven rates to a scenario.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import special, stats

from montecarlo import calibration, cli, statistics
from montecarlo.budgets import DEFAULT
from montecarlo.calibration import (
    METHODS,
    Rate,
    Scenario,
    binomial_interval,
    power_curve,
    rate_of,
    synthetic_runs,
)
from montecarlo.calibration_networks import real_runs, scenario_of
from montecarlo.verify import select

# Log gradient ratio of BN over 19 layers: spread 7.3/sqrt(n), skewness 6/sqrt(n), slope -20.
FIXED = Scenario(
    name="24 networks",
    widths=(408, 1632, 6528),
    networks=24,
    spreads=(0.36, 0.18, 0.09),
    skews=(0.3, 0.15, 0.075),
    slopes=(-20.0,),
    curvature=200.0,
)
STAGES = FIXED._replace(name="two stages", networks=64, margin=0.05)
# GN(4) at the widths of the default budget: skewness as measured, far from Gaussian.
HEAVY = Scenario(
    name="heavy",
    widths=(256, 1024, 8192, 32_768),
    networks=400,
    spreads=(0.9, 0.6, 0.35, 0.25),
    skews=(1.0, 1.0, 1.5, 2.5),
    terms=((0.5, 0), (1.0, 0)),
    slopes=(-8.0, -100.0),
    decay=0.5,
)


def describe(result) -> str:
    rates = [(r.nominal, r.count, r.expected * r.trials) for r in result.per_test + result.per_run]
    return f"uniformity {result.uniformity:.2g}; (nominal, found, expected): {rates}"


@pytest.mark.parametrize(
    ("scenario", "tests", "runs"),
    [(FIXED, 6, 20_000), (STAGES, 6, 10_000), (HEAVY, 1, 10_000)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_false_alarms_are_nominal(scenario, tests, runs):
    result = synthetic_runs(scenario, runs=runs, tests=tests, level=1e-5)
    assert result.consistent, describe(result)
    assert (result.networks.min() < result.networks.max()) == (scenario.margin is not None)


def without_root(values, **_):
    x = np.asarray(values)
    return x.mean(axis=-1), x.std(axis=-1, ddof=1)


def with_ddof_zero(values, **_):
    x = np.asarray(values)
    return x.mean(axis=-1), x.std(axis=-1) / math.sqrt(x.shape[-1])


def one_sided(difference, *, sem, dof, bound=0.0):
    return special.stdtr(dof, -(np.abs(difference) - bound) / sem)


def gaussian(difference, *, sem, dof, bound=0.0):
    return 2.0 * special.ndtr(-(np.abs(difference) - bound) / sem)


def holm_off_by_one(p_values):
    p = np.asarray(p_values)
    order = np.argsort(p, axis=-1)
    factors = p.shape[-1] - 1 - np.arange(p.shape[-1])
    ordered = np.minimum(factors * np.take_along_axis(p, order, axis=-1), 1.0)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.maximum.accumulate(ordered, axis=-1), axis=-1)
    return adjusted


def not_adjusted(p_values):
    return np.asarray(p_values)


def without_inflation(widths, means, sems, counts, **form):
    """Standard error of a weighted mean over the widths, not of the intercept."""
    fit = statistics.weighted_fit(widths, means, sems, counts, **form)
    return fit._replace(sem=(np.asarray(sems) ** -2).sum(axis=-1) ** -0.5)


def without_the_width(widths, means, sems, counts, **form):
    """The widest networks as they are, without an extrapolation."""
    fit = statistics.weighted_fit(widths, means, sems, counts, **form)
    return fit._replace(intercept=np.asarray(means)[..., -1], sem=np.asarray(sems)[..., -1])


def weights_from_the_data(widths, means, sems, counts, **form):
    """1/s_k^2: what this project did before the calibration told it."""
    n, s = np.asarray(widths, dtype=float), np.asarray(sems)
    design = np.stack([np.ones_like(n), 1.0 / n], axis=1)
    shares = (np.linalg.pinv(design / s[..., None]) / s[..., None, :])[..., 0, :]
    v = (shares * s) ** 2
    fit = statistics.weighted_fit(widths, means, sems, counts, **form)
    return fit._replace(
        intercept=(shares * means).sum(axis=-1),
        sem=np.sqrt(v.sum(axis=-1)),
        dof=v.sum(axis=-1) ** 2 / (v**2 / (np.asarray(counts) - 1.0)).sum(axis=-1),
    )


MUTANTS = {
    "sem without sqrt(n)": METHODS._replace(estimate=without_root),
    "n instead of n - 1": METHODS._replace(estimate=with_ddof_zero),
    "one-sided p": METHODS._replace(p_value=one_sided),
    "normal instead of Student": METHODS._replace(p_value=gaussian),
    "Holm off by one": METHODS._replace(holm=holm_off_by_one),
    "Holm left out": METHODS._replace(holm=not_adjusted),
    "intercept's inflation ignored": METHODS._replace(weighted_fit=without_inflation),
    "no extrapolation": METHODS._replace(weighted_fit=without_the_width),
    "weights from the same data": METHODS._replace(weighted_fit=weights_from_the_data),
}


@pytest.mark.parametrize("methods", MUTANTS.values(), ids=MUTANTS)
def test_a_mutation_of_the_statistics_is_caught(methods):
    result = synthetic_runs(FIXED, runs=20_000, methods=methods)
    assert not result.consistent, describe(result)


def test_the_true_statistics_in_the_mutants_place():
    assert synthetic_runs(FIXED, runs=20_000, methods=METHODS).consistent


@pytest.mark.parametrize("scenario", [FIXED, STAGES], ids=lambda s: s.name)
def test_power_is_that_of_the_formula(scenario):
    # Where its own variance decides the number of networks, a test detects a little more than the
    # formula says, up to 96.5 %.  A binomial interval with false-alarm probability 1e-4.
    power = power_curve(scenario, level=1e-5, runs=4000)
    low, high = binomial_interval(power.at_formula, power.runs, level=0.9999)
    assert low < 0.965
    assert high > 0.95
    assert power.simulated == pytest.approx(power.formula, rel=0.04)
    assert (np.diff(power.found) >= 0).all()


def test_a_wrong_standard_error_shows_in_the_power():
    power = power_curve(FIXED, level=1e-5, runs=2000, methods=MUTANTS["sem without sqrt(n)"])
    assert binomial_interval(power.at_formula, power.runs, level=0.9999)[0] > 0.97


def test_synthetic_networks_have_the_stated_moments():
    # 4e5 draws: standard errors of mean, deviation and skewness .0016, .0015, .012 (five of each).
    rng = np.random.default_rng(0)
    scenario = FIXED._replace(spreads=(1.0, 1.0, 1.0), skews=(1.0, -0.5, 0.0))
    for index, skew in enumerate(scenario.skews):
        x = calibration._noise(rng, scenario, index, (400_000,))
        assert abs(x.mean()) < 0.008
        assert abs(x.std() - 1.0) < 0.009
        assert abs(stats.skew(x) - skew) < 0.06
    means = calibration._noise_mean(rng, scenario, 0, np.full(400_000, 9.0))
    assert abs(means.mean()) < 0.003
    assert abs(means.std() - 1 / 3) < 0.003
    assert abs(stats.skew(means) - 1 / 3) < 0.03
    assert (calibration._noise_mean(rng, scenario, 0, np.zeros(5)) == 0.0).all()


def test_binomial_interval_against_scipy():
    for count, trials in ((0, 50), (3, 200), (20, 20_000), (50, 50)):
        exact = stats.binomtest(count, trials).proportion_ci(method="exact")
        assert binomial_interval(count, trials) == pytest.approx(tuple(exact), abs=1e-12)


def test_rates():
    rate = rate_of(np.array([0.04, 0.2, 0.05]), 0.05)
    assert (rate.count, rate.trials, rate.expected) == (2, 3, pytest.approx(0.05))
    assert rate_of(np.ones(4), 0.05, tests=10).expected == pytest.approx(1 - 0.995**10)
    assert Rate(0.001, 0.001, 20, 20_000).consistent
    assert not Rate(0.001, 0.001, 40, 20_000).consistent


def test_real_networks_give_a_scenario():
    (case,) = select("synthetic", only=["BN"])
    small = DEFAULT.wide.__class__(
        depth=3, forward=(3,), backward=(1,), widths=(60, 120, 240), pilot=20, largest=50
    )
    budget = DEFAULT.__class__(name="small", first=small, wide=small, direct=small, heavy=None)
    scenario = scenario_of(case, budget, networks=60)
    assert scenario.widths == (60, 120, 240)
    assert scenario.margin == pytest.approx(0.9 * 0.02)
    # sd ~ sqrt(2 layers * about 2.2)/sqrt(n), good to a third with 60 networks.
    assert np.array(scenario.spreads) == pytest.approx(2.1 / np.sqrt(scenario.widths), rel=0.4)


def test_a_few_real_runs():
    # The first layer samples the limit: with 12 runs P(more than 4 alarms) is below 3e-4.
    found = real_runs(runs=12, workers=1)
    assert found.alarms.trials == 12
    assert found.alarms.count <= 4
    assert (found.p >= found.p_exact).all()


@pytest.mark.slow
def test_real_runs_keep_alpha():
    found = real_runs(runs=200, workers=2)
    assert found.consistent
    # Single tests without bounds: near .05; tests of one network depend on each other, so the
    # standard error is that of the runs' shares.
    shares = (found.p_exact <= 0.05).mean(axis=1)
    assert abs(shares.mean() - 0.05) < 4.0 * shares.std(ddof=1) / math.sqrt(len(shares))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_command(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["calibrate", "--out", str(tmp_path), "--quiet"])
    assert end.value.code == 0, capsys.readouterr().out
    document = json.loads((tmp_path / "calibration.json").read_text())
    assert all(entry["consistent"] for entry in document["synthetic"])
    for entry in document["power"]:
        assert entry["simulated"] == pytest.approx(entry["formula"], rel=0.04)
    for name in ("p_values.png", "power.png"):
        assert (tmp_path / name).stat().st_size > 10_000
