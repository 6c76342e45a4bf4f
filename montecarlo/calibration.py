"""Measure the error rates of ``verify``: what its verdicts are worth.

Two experiments here, with a limit that is known by construction (``calibration_networks`` has real ones):

    synthetic_runs   per-network values a + b f(n) + c/n^2 + noise of known a, with spread and skewness
                     of real networks; thousands of whole runs, vectorized
    power_curve      the same, judged against predictions that are wrong

Noise is a shifted gamma variable of the skewness of real log gradients (Gaussian where that is 0).  Sums of
gamma variables are gamma variables, so that the mean of any number of further networks is one draw.

The statistics under test are an argument (``Methods``): the tests put mutants in their place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from montecarlo import statistics
from montecarlo.margins import ASSURANCE
from montecarlo.statistics import Fit, Term

__all__ = [
    "CONSISTENT",
    "METHODS",
    "RATES",
    "Methods",
    "Power",
    "Rate",
    "Scenario",
    "Synthetic",
    "binomial_interval",
    "power_curve",
    "rate_of",
    "synthetic_runs",
]

FloatArray = NDArray[np.float64]

RATES = (0.05, 0.01, 0.001)
"""Nominal false-alarm rates that are measured."""

_CHUNK = 1 << 22
"""Values drawn at once: 32 MB."""

CONSISTENT = 1e-3
"""A measured rate is called inconsistent if chance does so less often than this."""


class Methods(NamedTuple):
    """The statistics under test; a mutant replaces one of them."""

    estimate: Callable[..., tuple[FloatArray, FloatArray]]
    weighted_fit: Callable[..., Fit]
    p_value: Callable[..., FloatArray]
    holm: Callable[..., FloatArray]


METHODS = Methods(statistics.estimate, statistics.weighted_fit, statistics.p_value, statistics.holm)


class Scenario(NamedTuple):
    """What synthetic networks are drawn from.

    Attributes
    ----------
    name
        For people.
    widths, networks
        Widths, and networks at every width (of the pilot, with a ``margin``).
    spreads, skews
        Standard deviation and skewness of one network at every width.
    terms, slopes, curvature
        Corrections b_j f_j(n) that are fitted, and c of c/n^2 that is not.
    margin
        Room that decides the number of networks (two stages); None takes ``networks`` as they are.
    largest
        At most so many networks.
    decay
        Of the variance over widths, as the weights assume it.
    """

    name: str
    widths: tuple[int, ...]
    networks: int
    spreads: tuple[float, ...]
    skews: tuple[float, ...]
    terms: tuple[Term, ...] = ((1.0, 0),)
    slopes: tuple[float, ...] = (0.0,)
    curvature: float = 0.0
    margin: float | None = None
    largest: int = 100_000
    decay: float = 1.0


@dataclass(frozen=True)
class Rate:
    """``count`` false alarms of ``trials``, where ``expected`` is the exact probability."""

    nominal: float
    expected: float
    count: int
    trials: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 % for the probability (Clopper and Pearson)."""
        return binomial_interval(self.count, self.trials)

    @property
    def consistent(self) -> bool:
        """Whether chance explains the difference from ``expected``."""
        test = stats.binomtest(self.count, self.trials, self.expected)
        return bool(test.pvalue > CONSISTENT)


def binomial_interval(count: int, trials: int, *, level: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson: beta quantiles, never shorter than nominal."""
    tail = 0.5 * (1.0 - level)
    low = float(special.betaincinv(count, trials - count + 1, tail)) if count else 0.0
    high = (
        float(special.betaincinv(count + 1, trials - count, 1.0 - tail)) if count < trials else 1.0
    )
    return low, high


def rate_of(p: FloatArray, nominal: float, *, tests: int = 1) -> Rate:
    """How often p <= ``nominal``; of the smallest of ``tests`` independent ones after Holm, exactly
    1 - (1 - nominal/m)^m.
    """  # noqa: D205
    expected = -math.expm1(tests * math.log1p(-nominal / tests))
    return Rate(nominal, expected, int(np.count_nonzero(p <= nominal)), p.size)


@dataclass(frozen=True)
class Synthetic:
    """Runs of one scenario: p-values (runs, tests), Holm's (runs, tests), networks used (runs,)."""

    scenario: Scenario
    p: FloatArray
    p_holm: FloatArray
    networks: FloatArray

    @property
    def uniformity(self) -> float:
        """p-value of Kolmogorov and Smirnov's test that all p-values are uniform."""
        return float(stats.kstest(self.p.ravel(), "uniform").pvalue)

    @property
    def per_test(self) -> tuple[Rate, ...]:
        """False alarms test by test."""
        return tuple(rate_of(self.p.ravel(), nominal) for nominal in RATES)

    @property
    def per_run(self) -> tuple[Rate, ...]:
        """Runs with any false alarm after Holm."""
        smallest = self.p_holm.min(axis=1)
        return tuple(rate_of(smallest, nominal, tests=self.p.shape[1]) for nominal in RATES)

    @property
    def consistent(self) -> bool:
        """Uniform p-values, and every rate its nominal one."""
        rates = (*self.per_test, *self.per_run)
        return self.uniformity > CONSISTENT and all(rate.consistent for rate in rates)


def synthetic_runs(
    scenario: Scenario,
    *,
    runs: int = 20_000,
    tests: int = 6,
    level: float = 1e-5,
    seed: int = 0,
    methods: Methods = METHODS,
) -> Synthetic:
    """``runs`` whole runs of ``tests`` independent tests each, all of whose predictions are exact.

    Parameters
    ----------
    scenario
        Where values come from; with a margin the number of networks is decided as ``verify`` does,
        one number for all tests of a run.
    level
        Per-test level that the plan of two stages aims at.
    """
    fit, networks = _fits(scenario, runs=runs, tests=tests, level=level, seed=seed, methods=methods)
    p = methods.p_value(fit.intercept, sem=fit.sem, dof=fit.dof)
    return Synthetic(scenario, p, methods.holm(p), networks)


def _fits(
    scenario: Scenario, *, runs: int, tests: int, level: float, seed: int, methods: Methods
) -> tuple[Fit, FloatArray]:
    """Fits of shape (runs, tests), whose intercept is truly 0; and the networks of every run."""
    rng = np.random.default_rng(seed)
    pilot = scenario.networks
    counts = [pilot] * len(scenario.widths)

    def fit(y: FloatArray, s: FloatArray) -> Fit:
        form = {"terms": scenario.terms, "decay": scenario.decay}
        return methods.weighted_fit(scenario.widths, y, s, counts, **form)

    size = max(1, _CHUNK // (tests * pilot))
    blocks = [min(size, runs - start) for start in range(0, runs, size)]
    means, sems = [], []
    for index in range(len(scenario.widths)):
        parts = [
            methods.estimate(_noise(rng, scenario, index, (block, tests, pilot)))
            for block in blocks
        ]
        means.append(np.concatenate([mean for mean, _ in parts]))
        sems.append(np.concatenate([sem for _, sem in parts]))
    y, s = np.stack(means, axis=-1), np.stack(sems, axis=-1)
    total: FloatArray = np.full(runs, float(pilot))
    if scenario.margin is not None:
        first = fit(y, s)
        needed = statistics.networks_needed(
            networks=pilot,
            sem=first.sem,
            dof=first.dof,
            level=level,
            room=scenario.margin,
            assurance=ASSURANCE,
        )
        total = np.clip(needed.max(axis=1), pilot, scenario.largest)
        more = np.broadcast_to((total - pilot)[:, None], (runs, tests))
        rest = [_noise_mean(rng, scenario, k, more) for k in range(len(scenario.widths))]
        share = (pilot / total)[:, None, None]
        y = share * y + (1.0 - share) * np.stack(rest, axis=-1)
        s = s * np.sqrt(share)
    y = y + _expansion(scenario)
    return fit(y, s), total


def _expansion(scenario: Scenario) -> FloatArray:
    """b_j f_j(n) + c/n^2 at every width: the mean of a quantity whose limit is 0."""
    n = np.asarray(scenario.widths, dtype=np.float64)
    fitted = [
        b * n**-power * np.log(n) ** logs
        for b, (power, logs) in zip(scenario.slopes, scenario.terms, strict=True)
    ]
    return np.asarray(sum(fitted) + scenario.curvature / n**2)


def _noise(
    rng: np.random.Generator, scenario: Scenario, index: int, shape: tuple[int, ...]
) -> FloatArray:
    """spread * (Gamma(k) - k)/sqrt(k), k = 4/skewness^2: one value per network."""
    spread, skew = scenario.spreads[index], scenario.skews[index]
    if skew == 0.0:
        return spread * rng.standard_normal(shape)
    k = 4.0 / skew**2
    return math.copysign(spread, skew) * (rng.standard_gamma(k, shape) - k) / math.sqrt(k)


def _noise_mean(
    rng: np.random.Generator, scenario: Scenario, index: int, networks: FloatArray
) -> FloatArray:
    """Mean of ``networks`` such values, in one draw; 0 of none."""
    spread, skew = scenario.spreads[index], scenario.skews[index]
    many = np.maximum(networks, 1.0)
    if skew == 0.0:
        mean = spread * rng.standard_normal(networks.shape) / np.sqrt(many)
    else:
        k = 4.0 / skew**2
        total = rng.standard_gamma(k * many)
        mean = math.copysign(spread, skew) * (total / many - k) / math.sqrt(k)
    return np.where(networks > 0.0, mean, 0.0)


@dataclass(frozen=True)
class Power:
    """Detection of wrong predictions in one scenario.

    ``errors`` and ``formula`` are in units of the comparison (for a log gradient ratio: totals);
    ``found`` counts detections of ``runs`` at every error, ``at_formula`` at the formula's.
    """

    scenario: Scenario
    level: float
    runs: int
    errors: FloatArray
    found: NDArray[np.int64]
    formula: float
    at_formula: int
    networks: float

    @property
    def simulated(self) -> float:
        """Error found with 95 % power, interpolated."""
        return float(np.interp(0.95, self.found / self.runs, self.errors))


def power_curve(
    scenario: Scenario,
    *,
    level: float,
    runs: int = 4000,
    seed: int = 0,
    methods: Methods = METHODS,
) -> Power:
    """How often a prediction wrong by e is found at ``level``, for e around ``detectable``.

    The formula is evaluated at the typical standard error (root mean square) and degrees of freedom
    (median), as a report of ``verify`` shows them.
    """
    fit, networks = _fits(scenario, runs=runs, tests=1, level=level, seed=seed, methods=methods)
    intercept, sem, dof = (column[:, 0] for column in fit[:3])
    typical = math.sqrt(float((sem**2).mean()))
    formula = float(
        statistics.detectable(sem=typical, dof=float(np.median(dof)), level=level, power=0.95)
    )
    errors = formula * np.linspace(0.5, 1.3, 17)

    def found(error: float) -> int:
        p = methods.p_value(intercept - error, sem=sem, dof=dof)
        return int(np.count_nonzero(p <= level))

    return Power(
        scenario=scenario,
        level=level,
        runs=runs,
        errors=errors,
        found=np.array([found(float(error)) for error in errors]),
        formula=formula,
        at_formula=found(formula),
        networks=float(networks.mean()),
    )
