"""From per-network values at several widths to a verdict: functions only, each body its formula.

A finite network's mean is a + b n^(-p) + ... (theory notes, section 6).  ``estimate`` summarizes the
networks of one width, ``weighted_fit`` gives the intercept a with its standard error, ``p_value`` tests
it against a prediction, ``holm`` keeps the family-wise error over a run, ``detectable`` says which
error the run could have seen, and ``networks_needed`` how many networks decide.

Two kinds of uncertainty are kept apart.  Sampling noise has a standard error and degrees of
freedom.  What does not average out (numerical error of the prediction, truncation of the width
expansion, rounding) is a *bound*: it shifts the null hypothesis to an interval, so that p-values
err on the safe side.

Sequential runs are Stein's (1945) two stages.  The first ``pilot`` networks of every width give the
standard deviations; they decide how many networks there are and they alone enter the standard error,
while all networks enter the mean.  For Gaussian values the means are independent of the pilot's
variances, so that at a single width the t-test keeps its level exactly, whatever the number of networks
becomes: no look at a mean decides anything.  Over several widths the degrees of freedom are
Welch-Satterthwaite's.  The calibration measures what that, and values that are not Gaussian, cost.

Every function works on arrays of any shape; widths, or networks, or tests, are the last axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from theory.errors import out_of_domain

__all__ = [
    "Fit",
    "Term",
    "detectable",
    "estimate",
    "half_width",
    "holm",
    "networks_needed",
    "neglected",
    "p_value",
    "variance_decay",
    "weighted_fit",
    "width_terms",
]

FloatArray = NDArray[np.float64]
Term = tuple[float, int]
"""(p, q) stands for n^(-p) log(n)^q."""


class Fit(NamedTuple):
    """a + sum_j b_j f_j(n); see ``weighted_fit``.

    Attributes
    ----------
    intercept, sem, dof
        a, its standard error and its effective degrees of freedom, shape (...).
    slopes
        b_j, shape (..., terms).
    lack_of_fit
        p-value of sum ((y_k - fit_k)/s_k)^2, an F distribution with the fewest degrees of freedom
        of any s_k; NaN without spare widths.
    shares
        w_k with a = sum w_k y_k, shape (widths,): the same for all.
    """

    intercept: FloatArray
    sem: FloatArray
    dof: FloatArray
    slopes: FloatArray
    lack_of_fit: FloatArray
    shares: FloatArray


def estimate(values: ArrayLike, *, pilot: int | None = None) -> tuple[FloatArray, FloatArray]:
    """(mean of all N, s_pilot / sqrt(N)): networks on the last axis, s with ddof = 1.

    Parameters
    ----------
    values
        One value per network.
    pilot
        The first networks, which alone give s (Stein 1945) and have decided N; by default all of them.
        The standard error then has ``pilot`` - 1 degrees of freedom.
    """
    x = np.asarray(values, dtype=np.float64)
    # Networks that died have log = -inf: their mean is -inf, its error NaN.
    with np.errstate(invalid="ignore"):
        spread = x[..., :pilot].std(axis=-1, ddof=1)
        return x.mean(axis=-1), spread / math.sqrt(x.shape[-1])


def weighted_fit(
    widths: ArrayLike,
    means: ArrayLike,
    sems: ArrayLike,
    counts: ArrayLike,
    *,
    terms: Sequence[Term] = ((1.0, 0),),
    decay: float = 1.0,
) -> Fit:
    """(X'WX)^-1 X'W y, X = (1, f_1(n), ...), W = diag(R_k n_k^decay): means over widths to n = inf.

    The weights are what theory says of the variance, n^-decay over R networks, and not 1/s_k^2: weights that
    are estimated from the same networks make false alarms more frequent than nominal (by 8 % with 24
    networks of each width, ``normcompass calibrate``).  Wrong weights only cost precision, because the
    standard error is the estimated one, sqrt(sum w_k^2 s_k^2).  Its degrees of freedom are
    Welch-Satterthwaite's, (sum v_k)^2 / sum(v_k^2/(R_k - 1)) with v_k = w_k^2 s_k^2.

    Parameters
    ----------
    widths
        n_k; at least as many different ones as coefficients.
    means, sems
        y_k, s_k, shape (..., widths): many fits at once.
    counts
        R_k, the networks behind s_k.
    terms
        The corrections f_j; see ``width_terms``.
    decay
        See ``variance_decay``.

    Returns
    -------
    Fit
        NaN throughout where a mean or standard error is not finite.

    Raises
    ------
    SpecificationError
        Fewer distinct widths than coefficients, or a width with fewer than two networks.
    """
    n = np.asarray(widths, dtype=np.float64)
    y, s = np.asarray(means, dtype=np.float64), np.asarray(sems, dtype=np.float64)
    networks = np.asarray(counts, dtype=np.float64)
    unknowns = 1 + len(terms)
    if len(np.unique(n)) < unknowns:
        raise out_of_domain(
            "widths", n.tolist(), f"at least {unknowns} different widths", "simulate more widths"
        )
    if (networks < 2.0).any():
        raise out_of_domain("counts", networks.tolist(), "at least 2", "add networks")
    known = np.isfinite(y).all(axis=-1, keepdims=True) & np.isfinite(s).all(axis=-1, keepdims=True)
    y, s = (np.where(known, array, math.nan) for array in (y, s))
    design = np.stack([np.ones_like(n), *(_term(n, term) for term in terms)], axis=1)
    size = np.abs(design).max(axis=0)  # columns of equal size
    root = np.sqrt(networks * n**decay)
    solution = np.linalg.pinv(root[:, None] * design / size) * root / size[:, None]
    shares = solution[0]
    variances = (shares * s) ** 2
    total = variances.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        dof = total**2 / (variances**2 / (networks - 1.0)).sum(axis=-1)
    # Without randomness there is nothing to estimate.
    dof = np.where(total > 0.0, dof, np.where(total == 0.0, (networks - 1.0).sum(), math.nan))
    lack = _lack_of_fit(design / size, y, s, float(networks.min()) - 1.0)
    return Fit(y @ shares, np.sqrt(total), dof, y @ solution[1:].T, lack, shares)


def _lack_of_fit(design: FloatArray, y: FloatArray, s: FloatArray, dof: float) -> FloatArray:
    """P(F > r'(C'SC)^-1 r / spare), r = C'y: contrasts C that every expansion leaves at zero."""
    contrasts = np.linalg.svd(design)[0][:, design.shape[1] :]
    spare = contrasts.shape[1]
    random = np.asarray((s > 0.0).any(axis=-1))
    if not spare or not random.any():
        return np.full(random.shape, math.nan)
    # A width without randomness among others still has a finite weight.
    floor = np.maximum(s, 1e-6 * s.max(axis=-1, keepdims=True))
    covariance = np.einsum("kc,...k,kd->...cd", contrasts, floor**2, contrasts)
    covariance = np.where(random[..., None, None], covariance, np.eye(spare))
    residual = y @ contrasts
    scaled = np.linalg.solve(covariance, residual[..., None])[..., 0]
    tail = special.fdtrc(spare, dof, (residual * scaled).sum(axis=-1) / spare)
    return np.where(random, tail, math.nan)


def variance_decay(rank: float = math.inf) -> float:
    """Variance of the log of a mean over n channels: n^-1, or n^-(r/2 - 1) for a pool of rank r < 4.

    1/R^2 has the tail index r/2 < 2: one value of the size of the whole sum, which moves the logarithm
    by order one, comes with probability n P(1/R^2 > n) ~ n^(1 - r/2).
    """
    return min(1.0, rank / 2.0 - 1.0)


def _term(widths: FloatArray, term: Term) -> FloatArray:
    """n^(-p) log(n)^q."""
    power, logarithms = term
    return np.asarray(widths**-power * np.log(widths) ** logarithms)


def width_terms(rank: float = math.inf, *, curved: bool = False) -> tuple[Term, ...]:
    """1/n for a pool of rank r > 4; n^-(r/2 - 1) and 1/n for r < 4; log(n)/n and 1/n for r = 4.

    Theory notes, section 6: 1/R^2 has a mean but no variance for 2 < r <= 4, and a mean of its
    logarithm (whose variance is finite) approaches the limit that slowly.

    Parameters
    ----------
    rank
        Rank of the pool, ``math.inf`` without a finite pool; larger than 2.
    curved
        Add c/n^2: where depth/width exceeds 0.05.

    Raises
    ------
    SpecificationError
        Rank at most 2, where the mean squared gradient is infinite.
    """
    if rank <= 2.0:
        raise out_of_domain("rank", rank, "larger than 2", "enlarge the group or batch")
    leading: tuple[Term, ...] = ()
    if rank <= 4.0:
        leading = ((1.0, 1),) if rank == 4.0 else ((rank / 2.0 - 1.0, 0),)
    return (*leading, (1.0, 0), *(((2.0, 0),) if curved else ()))


def neglected(fit: Fit, widths: ArrayLike, terms: Sequence[Term]) -> FloatArray:
    """|sum_k w_k 2 b_1 b_J f_1(n_k) f_J(n_k)|: what the next term does to the intercept.

    The expansions are those of products and exponentials, whose next term is about the product of
    the first and the last one fitted (b^2/2n^2 for exp(b/n)); four times that is allowed for.
    """
    n = np.asarray(widths, dtype=np.float64)
    first, last = terms[0], terms[-1]
    size = 2.0 * np.abs(fit.slopes[..., 0] * fit.slopes[..., -1])
    return np.asarray(size * np.abs((fit.shares * _term(n, first) * _term(n, last)).sum(axis=-1)))


def p_value(
    difference: ArrayLike, *, sem: ArrayLike, dof: ArrayLike, bound: ArrayLike = 0.0
) -> FloatArray:
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
    excess = np.abs(difference) - np.asarray(bound, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2.0 * special.stdtr(dof, -excess / np.asarray(sem, dtype=np.float64))
    p = np.where(excess <= 0.0, 1.0, p)
    return np.where(np.isnan(excess) | np.isnan(sem), math.nan, np.minimum(p, 1.0))


def holm(p_values: ArrayLike) -> FloatArray:
    """max_{j <= i} min(1, (m - j + 1) p_(j)), p sorted on the last axis: adjusted p-values (Holm 1979).

    Rejecting where the result is at most alpha keeps the probability of any false rejection in
    the family below alpha, however the tests depend on each other.  NaN stays NaN, but counts in m.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, axis=-1)  # NaN sorts last
    tests = p.shape[-1]
    factors = tests - np.arange(tests)
    ordered = np.minimum(factors * np.take_along_axis(p, order, axis=-1), 1.0)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.maximum.accumulate(ordered, axis=-1), axis=-1)
    return adjusted


def half_width(
    *, sem: ArrayLike, dof: ArrayLike, level: float, bound: ArrayLike = 0.0
) -> FloatArray:
    """t_{1 - level/2} s.e. + bound: half the confidence interval of a difference."""
    return np.asarray(special.stdtrit(dof, 1.0 - 0.5 * level) * sem + bound)


def detectable(
    *, sem: ArrayLike, dof: ArrayLike, level: float, power: float = 0.95, bound: ArrayLike = 0.0
) -> FloatArray:
    """(t + z sqrt(1 + t^2/2 dof)) s.e. + 2 bound: the smallest error found with probability ``power``.

    t = t_{1 - level/2} and z the normal quantile of ``power``; the root is the noise of the standard
    error itself, which decides where t standard errors end (non-central t).  A prediction that is
    wrong by this much is rejected at ``level`` with at least that probability: the bound counts twice,
    once because it may hide the error and once because the null is an interval of that half-width.

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
    student = special.stdtrit(dof, 1.0 - 0.5 * level)
    spread = np.sqrt(1.0 + student**2 / (2.0 * np.asarray(dof)))
    return np.asarray((student + special.ndtri(power) * spread) * sem + 2.0 * np.asarray(bound))


def networks_needed(
    *,
    networks: int,
    sem: ArrayLike,
    dof: ArrayLike,
    level: float,
    room: ArrayLike,
    assurance: float,
) -> FloatArray:
    """R [(t_{1 - level/2} + t_{(1 + assurance)/2}) s.e. / room]^2: networks until intervals fit.

    With so many networks a true prediction's interval lies within +-``room`` of zero with probability
    ``assurance``; infinite without room.

    Parameters
    ----------
    networks
        R, the networks at every width behind ``sem``.
    sem, dof
        From ``weighted_fit``.
    level
        As for ``detectable``.
    room
        Margin less everything that does not average out.
    """
    quantiles = special.stdtrit(dof, 1.0 - 0.5 * level) + special.stdtrit(
        dof, 0.5 + 0.5 * assurance
    )
    space = np.asarray(room, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = np.ceil(networks * (quantiles * sem / space) ** 2)
    return np.where(space > 0.0, needed, math.inf)
