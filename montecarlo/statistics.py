"""From per-network values at several widths to a verdict: functions only, each body its formula.

A finite network's mean is a + b n^(-p) + ... (theory notes, section 6).  ``weighted_fit`` gives the
intercept a with its standard error, ``p_value`` tests it against a prediction, ``holm`` keeps the
family-wise error over a run, and ``detectable`` says which error the run could have seen.

Two kinds of uncertainty are kept apart.  Sampling noise has a standard error and degrees of
freedom.  What does not average out (numerical error of the prediction, truncation of the width
expansion, rounding) is a *bound*: it shifts the null hypothesis to an interval, so that p-values
err on the safe side.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from theory.errors import out_of_domain

__all__ = ["Fit", "detectable", "half_width", "holm", "p_value", "weighted_fit", "width_powers"]

FloatArray = NDArray[np.float64]


class Fit(NamedTuple):
    """a + sum_j b_j n^(-p_j); see ``weighted_fit``.

    Attributes
    ----------
    intercept, sem, dof
        a, its standard error and its effective degrees of freedom.
    slopes
        b_j, one for each power.
    lack_of_fit
        p-value of chi^2 = sum ((y_k - fit_k)/s_k)^2; NaN without spare widths.
    shares
        w_k with a = sum w_k y_k.
    """

    intercept: float
    sem: float
    dof: float
    slopes: tuple[float, ...]
    lack_of_fit: float
    shares: FloatArray


def weighted_fit(
    widths: ArrayLike,
    means: ArrayLike,
    sems: ArrayLike,
    counts: ArrayLike,
    *,
    powers: tuple[float, ...] = (1.0,),
) -> Fit:
    """(X'S^-1 X)^-1 X'S^-1 y with X = (1, n^-p_1, ...), S = diag(s_k^2): means over widths to n = inf.

    The standard error is sqrt(sum w_k^2 s_k^2).  Its degrees of freedom are Welch-Satterthwaite's,
    (sum v_k)^2 / sum(v_k^2/(R_k - 1)) with v_k = w_k^2 s_k^2, because every s_k is itself estimated
    from R_k networks.

    Parameters
    ----------
    widths, means, sems, counts
        n_k, y_k, s_k, R_k; one entry per width, at least as many widths as coefficients.
    powers
        Exponents p_j of the corrections; see ``width_powers``.

    Returns
    -------
    Fit
        NaN throughout if a mean or standard error is not finite.

    Raises
    ------
    SpecificationError
        Fewer distinct widths than coefficients, or a width with fewer than two networks.
    """
    n = np.asarray(widths, dtype=np.float64)
    y, s = np.asarray(means, dtype=np.float64), np.asarray(sems, dtype=np.float64)
    freedom = np.asarray(counts, dtype=np.float64) - 1.0
    unknowns = 1 + len(powers)
    if len(np.unique(n)) < unknowns:
        raise out_of_domain(
            "widths", n.tolist(), f"at least {unknowns} different widths", "simulate more widths"
        )
    if (freedom < 1.0).any():
        raise out_of_domain("counts", np.asarray(counts).tolist(), "at least 2", "add networks")
    if not (np.isfinite(y).all() and np.isfinite(s).all()):
        nothing = math.nan
        return Fit(
            nothing, nothing, nothing, (nothing,) * len(powers), nothing, np.full(n.shape, nothing)
        )
    # A quantity without randomness at some width still has a finite weight.
    largest = float(s.max())
    scale = np.maximum(s, 1e-6 * largest) if largest > 0.0 else np.ones_like(s)
    design = np.stack([np.ones_like(n), *(n**-p for p in powers)], axis=1)
    solution = np.linalg.pinv(design / scale[:, None]) / scale
    coefficients = solution @ y
    shares = solution[0]
    variances = (shares * s) ** 2
    total = float(variances.sum())
    dof = total**2 / float((variances**2 / freedom).sum()) if total > 0.0 else float(freedom.sum())
    spare = len(n) - unknowns
    residual = float((((y - design @ coefficients) / scale) ** 2).sum())
    lack = float(special.chdtrc(spare, residual)) if spare and largest > 0.0 else math.nan
    slopes = tuple(float(b) for b in coefficients[1:])
    return Fit(float(coefficients[0]), math.sqrt(total), dof, slopes, lack, shares)


def width_powers(rank: float) -> tuple[float, ...]:
    """(1,) for a pool of rank r > 4, (r/2 - 1, 1) for r <= 4: exponents of a gradient's corrections.

    Theory notes, section 6: 1/R^2 has a mean but no variance for 2 < r <= 4, and a mean of its
    logarithm approaches the limit as n^-(r/2 - 1); r = 4 has log(n)/n, which no power describes,
    so r = 4 must not be fitted.

    Parameters
    ----------
    rank
        Rank of the pool, ``math.inf`` without a finite pool; larger than 2.

    Raises
    ------
    SpecificationError
        Rank 4, or at most 2, where the mean squared gradient is infinite.
    """
    if rank <= 2.0 or rank == 4.0:
        raise out_of_domain(
            "rank", rank, "larger than 2 and not 4", "change the group or batch size by one"
        )
    return (1.0,) if rank > 4.0 else (rank / 2.0 - 1.0, 1.0)


def p_value(difference: float, *, sem: float, dof: float, bound: float = 0.0) -> float:
    """P(|T| >= (|d| - bound)+ / s.e.), T Student with ``dof``: two-sided, for the null |mean d| <= bound.

    Parameters
    ----------
    difference
        d = intercept - prediction.
    sem, dof
        From ``weighted_fit``.
    bound
        Size of what does not average out; 0 gives the exact t-test.
    """
    excess = abs(difference) - bound
    if math.isnan(excess) or math.isnan(sem):
        return math.nan
    if excess <= 0.0:
        return 1.0
    if sem == 0.0:
        return 0.0
    return float(min(1.0, 2.0 * special.stdtr(dof, -excess / sem)))


def holm(p_values: ArrayLike) -> FloatArray:
    """max_{j <= i} min(1, (m - j + 1) p_(j)), p sorted: adjusted p-values (Holm 1979).

    Rejecting where the result is at most alpha keeps the probability of any false rejection in
    the family below alpha, however the tests depend on each other.  NaN stays NaN, but counts in m.
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, math.nan)
    order = np.argsort(p)[: int(np.count_nonzero(~np.isnan(p)))]  # NaN sorts last
    factors = len(p) - np.arange(len(order))
    adjusted[order] = np.maximum.accumulate(np.minimum(factors * p[order], 1.0))
    return adjusted


def half_width(*, sem: float, dof: float, level: float, bound: float = 0.0) -> float:
    """t_{1 - level/2} s.e. + bound: half the confidence interval of a difference."""
    return float(special.stdtrit(dof, 1.0 - 0.5 * level)) * sem + bound


def detectable(
    *, sem: float, dof: float, level: float, power: float = 0.95, bound: float = 0.0
) -> float:
    """(t_{1 - level/2} + t_{power}) s.e. + 2 bound: the smallest error found with probability ``power``.

    A prediction that is wrong by this much is rejected at ``level`` with at least that probability:
    the bound counts twice, once because it may hide the error and once because the null is an
    interval of that half-width.

    Parameters
    ----------
    sem, dof
        From ``weighted_fit``.
    level
        Per-test level: family-wise alpha over the number of tests.
    power
        Wanted probability of detection.
    bound
        As for ``p_value``.
    """
    noise = float(special.stdtrit(dof, 1.0 - 0.5 * level) + special.stdtrit(dof, power)) * sem
    return noise + 2.0 * bound
