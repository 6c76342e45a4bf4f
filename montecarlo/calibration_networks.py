"""The calibration's real networks: what they look like, and whole runs of ``verify`` on small ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from montecarlo import statistics, verify
from montecarlo.budgets import Budget, Grid
from montecarlo.calibration import CONSISTENT, Rate, Scenario
from montecarlo.case import Case, Part
from montecarlo.collect import Resources, collect
from montecarlo.execution import execute
from montecarlo.margins import QUANTITIES

__all__ = ["RealRuns", "real_runs", "scenario_of"]

FloatArray = NDArray[np.float64]


def scenario_of(
    case: Case, budget: Budget, *, networks: int = 200, seed: int = 0, workers: int = 1
) -> Scenario:
    """Spread, skewness and slope of the log gradient ratio of real networks, at layer 1.

    Parameters
    ----------
    case
        Whose networks.
    budget
        Whose widths and margin.
    networks
        Real networks at every width.
    """
    (part,) = (part for part in case.parts(budget) if "gradient" in part.quantities)
    values = _real_gradients(case, part, networks=networks, seed=seed, workers=workers)
    grid = part.grid
    terms = statistics.width_terms(case.rank, curved=grid.curved)
    moments = [statistics.estimate(v) for v in values]
    means, sems = ([float(pair[i]) for pair in moments] for i in (0, 1))
    counts = [networks] * len(values)
    decay = statistics.variance_decay(case.rank)
    fit = statistics.weighted_fit(grid.widths, means, sems, counts, terms=terms, decay=decay)
    gradient = QUANTITIES["gradient"]
    margin = gradient.margin * budget.tightening * gradient.layers(1, grid.depth)
    slopes = tuple(float(b) for b in fit.slopes)
    return Scenario(
        name=f"{case.id}, {budget.name}",
        widths=grid.widths,
        networks=grid.pilot,
        spreads=tuple(float(v.std(ddof=1)) for v in values),
        skews=tuple(float(stats.skew(v, bias=False)) for v in values),
        terms=terms,
        slopes=slopes,
        # exp(b/n) has c = b^2/2; with slower terms in the fit, 1/n^2 is beyond what matters.
        curvature=0.5 * slopes[0] ** 2 if len(terms) == 1 else 0.0,
        margin=0.9 * margin if grid.largest > grid.pilot else None,
        largest=grid.largest,
        decay=decay,
    )


def _real_gradients(
    case: Case, part: Part, *, networks: int, seed: int, workers: int
) -> list[FloatArray]:
    wanted = [
        (verify.experiment_of(case, part, width, seed), networks) for width in part.grid.widths
    ]
    tables, _ = collect(wanted, Resources(workers=workers))
    return [verify.quantities_of(part, table)[-1, :, 0] for table in tables]


_GRID = Grid(depth=2, forward=(1,), backward=(1,), widths=(48, 96, 192), pilot=32, largest=32)
_SMALL = Budget(
    name="small",
    first=replace(_GRID, depth=1, backward=()),
    wide=_GRID,
    direct=_GRID,
    heavy=None,
)
_SMALL_CASES = ("plain", "BN", "MC")


@dataclass(frozen=True)
class RealRuns:
    """Whole runs of ``verify``: runs with any false alarm, and all p-values (runs, tests).

    ``p`` are the p-values of ``verify``, whose bounds make them larger; ``p_exact`` are without bounds.
    """

    alarms: Rate
    p: FloatArray
    p_exact: FloatArray

    @property
    def alarms_exact(self) -> Rate:
        """Runs with any false alarm if the bounds are left out."""
        p_holm = statistics.holm(self.p_exact)
        count = int(np.count_nonzero(p_holm.min(axis=1) <= self.alarms.nominal))
        return Rate(self.alarms.nominal, self.alarms.expected, count, len(p_holm))

    @property
    def single(self) -> tuple[float, float]:
        """(rate, standard error over runs) of single tests without bounds at the level alpha."""
        share = (self.p_exact <= self.alarms.nominal).mean(axis=1)
        return float(share.mean()), float(share.std(ddof=1)) / math.sqrt(len(share))

    @property
    def consistent(self) -> bool:
        """Runs with a false alarm no more frequent than alpha, single tests as frequent as alpha.

        Tests of one network depend on each other, so that Holm's procedure may alarm less often; single
        tests may not.
        """
        worst = max(self.alarms.count, self.alarms_exact.count)
        more = stats.binom.sf(worst - 1, self.alarms.trials, self.alarms.nominal)
        rate, sem = self.single
        apart = abs(rate - self.alarms.nominal) / sem if sem else math.inf
        return bool(more > CONSISTENT and 2.0 * stats.norm.sf(apart) > CONSISTENT)


def real_runs(*, runs: int = 200, alpha: float = 0.05, seed: int = 0, workers: int = 1) -> RealRuns:
    """``verify`` on small networks whose limits are known beyond doubt.

    In the first layer h = W x^0 with Gaussian W: its channels are independent draws from the limit's
    Gaussian process at *every* width.  Averages over channels therefore have exactly the limit as
    mean, logarithms and cosines of them an expansion in 1/n, and for plain networks, BN and MC the
    limits are elementary (1, 1/2, kappa_1(-1/(B-1)), ...).  The gradient adds one layer that is not
    exact, so that b/n has work to do.  Other seeds, other networks: runs are independent.
    """
    jobs = [(seed * 1_000_003 + run, alpha) for run in range(runs)]
    found: dict[int, tuple[FloatArray, ...]] = dict(execute(_real_run, jobs, workers=workers))
    p, p_holm, p_exact = (np.stack([found[i][k] for i in range(runs)]) for k in range(3))
    count = int(np.count_nonzero(p_holm.min(axis=1) <= alpha))
    return RealRuns(Rate(alpha, alpha, count, runs), p, p_exact)


def _real_run(job: tuple[int, float]) -> tuple[FloatArray, FloatArray, FloatArray]:
    seed, alpha = job
    chosen = verify.select("synthetic", only=_SMALL_CASES)
    rows: Sequence[Any] = verify.run(
        chosen, budget=_SMALL, inputs="synthetic", seed=seed, workers=1, alpha=alpha
    ).rows
    exact = [float(statistics.p_value(row.difference, sem=row.sem, dof=row.dof)) for row in rows]
    return (
        np.array([row.p for row in rows]),
        np.array([row.p_holm for row in rows]),
        np.array(exact),
    )
