"""Windows that only see zeros: what a finite network makes of them, in the limit of its width.

A row of zeros has h = 0 in every channel.  A kink has the slope of x < 0 there.  A pool over all channels
and positions about the mean moves zeros by minus a mean of order n^(-1/2): of no size, but with a sign,
one coin for all channels of a sample.  Where relu lets it through, windows of such rows are Gaussian in
the next layer.  They are followed as rows of vanishing size, ``_FAINT`` of their sample's largest.

The diagonal of Pi, and with it every gradient norm that no pool below mixes, is exact; entries between
two such rows behind several layers are not.  Pools over finitely many channels, and smooth activations
without a pool of that kind, make zeros of them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.program import NormAct
from theory.routes.functions import base_function
from theory.specs.activations import Activation
from theory.states.grid import Grid

__all__ = [
    "absent_share",
    "at_zeros",
    "follows_faint_rows",
    "kinked",
    "keeps_zeros",
    "moves_zeros",
    "with_faint_rows",
    "without_faint_rows",
    "zeros_at_the_mean",
]

FloatArray = NDArray[np.float64]

# q of rows of vanishing size in units of their sample's largest: lost beside a row that is alive, and
# in range of every quadrature.
_FAINT = 1e-40


def moves_zeros(op: NormAct) -> bool:
    """Whether zeros among other positions come out as minus the mean: of no size, but of either sign."""
    norm = op.norm
    return (
        norm is not None
        and norm.centered
        and norm.pool.positions
        and norm.pool.channels == math.inf
    )


def keeps_zeros(op: NormAct) -> bool:
    """Whether rows of zeros come out as zeros, up to what vanishes."""
    return op.norm is None or not op.norm.centered or op.norm.pool.channels == math.inf


def kinked(activation: Activation) -> bool:
    """Whether phi' jumps at 0; else zeros and what vanishes have one slope."""
    right, left = _slopes(activation)
    return right != left


def _slopes(activation: Activation) -> tuple[float, float]:
    """phi' of the base just above and below 0."""
    derivative = base_function(activation.base).derivative
    return float(derivative(1e-300)), float(derivative(-1e-300))


def follows_faint_rows(op: NormAct) -> bool:
    """Whether what vanishes keeps its correlations: integrals over other pools and phi round them away."""
    pooled = op.norm is not None and op.norm.pool.channels != math.inf
    return op.activation.ray_slopes is not None and not pooled


def at_zeros(op: NormAct, state: Grid, value: Any) -> tuple[Grid, Any]:
    """Rows where a phi with a kink sees exactly 0, whose slope there is that of x < 0, and Pi for them.

    Routes take them for Gaussians: E[phi'] = (right + left)/2 beside rows that are alive, and among
    themselves, being the same 0, E[phi'^2] = (right^2 + left^2)/2.
    """
    zero = state.second_moment == 0.0
    if not (kinked(op.activation) and keeps_zeros(op) and zero.any()):
        return state, value
    right, left = _slopes(op.activation)
    alone = 2.0 * left / (right + left) if left != -right else 0.0
    factor = np.where(zero, alone, 1.0)
    both = left**2 / (0.5 * (right**2 + left**2))
    among = np.outer(zero, zero)
    rows = replace(state.rows, gap=np.where(among, 0.0, state.gap))
    weighed = value * np.where(among, both, np.outer(factor, factor))
    return replace(state, rows=rows), weighed


def _share_through(activation: Activation) -> float:
    """Chance that phi keeps a vanishing number of either sign: 1/2 if one of its slopes is 0."""
    return 0.5 if 0.0 in _slopes(activation) else 1.0


def absent_share(op: NormAct, state: Grid, value: Any) -> float:
    """The share of tr Pi that is of rows of vanishing size where there are none, only zeros."""
    if state.chance == 1.0 or not keeps_zeros(op) or moves_zeros(op):
        return 0.0
    faint = state.dark & (state.second_moment > 0.0)
    if not faint.any():
        return 0.0
    right, left = _slopes(op.activation)
    fewer = 1.0 - left**2 / (0.5 * (right**2 + left**2))
    diagonal = np.diagonal(value)
    total = float(diagonal.sum())
    return (1.0 - state.chance) * fewer * float(diagonal[faint].sum()) / total if total else 0.0


def _mean_cosines(state: Grid) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Cosine of the means over positions of the samples of two rows, and whether rows have one."""
    covariance = state.covariance()
    sums = covariance.reshape(state.batch, state.positions, state.batch, state.positions).sum(
        (1, 3)
    )
    size = np.sqrt(np.maximum(np.diagonal(sums), 0.0))
    # What is left of sums that cancel is not a mean.
    known = size**2 > 1e-12 * state.positions * np.trace(covariance) / state.batch
    cosine = np.divide(
        sums, np.outer(size, size), out=np.zeros_like(sums), where=np.outer(known, known)
    )
    samples = np.repeat(np.arange(state.batch), state.positions)
    return np.clip(cosine, -1.0, 1.0)[np.ix_(samples, samples)], known[samples]


def zeros_at_the_mean(state: Grid) -> Grid:
    """Dark rows replaced by minus the mean over positions of their sample, of vanishing size.

    In a finite network a pool over channels and positions has a mean of order n^(-1/2), which a row
    of zeros gets with the other sign in every channel: it is independent of the rows that are
    alive, and shared by the zeros of a sample.  (Exact in the first layer; in later ones these rows
    are of that order themselves, and only each one's own sign is known: as likely + as -.)  Where
    the mean vanishes zeros stay zeros.
    """
    dark = state.dark
    if not dark.any():
        return state
    cosine, known = _mean_cosines(state)
    moved = dark & known
    q, gap = state.second_moment.copy(), state.gap.copy()
    q[dark] = np.where(known, _FAINT * state.brightest, 0.0)[dark]
    gap[dark], gap[:, dark] = 1.0, 1.0
    gap[np.ix_(moved, moved)] = (1.0 - cosine)[np.ix_(moved, moved)]
    np.fill_diagonal(gap, 0.0)
    return replace(state, rows=replace(state.rows, second_moment=q, gap=gap))


def with_faint_rows(state: Grid, before: Grid, activation: Activation) -> Grid:
    """Dark rows behind such a pool of ``before`` as the same vanishing number in every channel.

    Where relu lets minus the mean through it is one positive number, and windows of nothing else are
    Gaussian in the next layer, not zero: their slope is that of any Gaussian.  Where it does not,
    nothing passes this layer anyway, which its own pull-back counts.  So the number is followed as if
    it were there, too small to be seen beside anything else.  ``before``: the rows that the pool saw.
    """
    dark = state.dark
    if not dark.any():
        return state
    _, moved = _mean_cosines(before)
    faint = dark & moved
    if not faint.any():
        return state
    sign, chance = math.copysign(1.0, activation.scale), _share_through(activation)
    q, mean, gap = state.second_moment.copy(), state.mean.copy(), state.gap.copy()
    q[dark], mean[dark] = 0.0, 0.0
    q[faint] = (_FAINT * state.brightest)[faint]
    mean[faint] = sign * np.sqrt(q[faint])
    angle = np.divide(sign * mean, np.sqrt(q), out=np.zeros_like(q), where=q > 0.0)
    gap[faint], gap[:, faint] = 1.0 - angle, (1.0 - angle)[:, None]
    np.fill_diagonal(gap, 0.0)
    # A number that was there is another one in every channel, which no mean takes from all of them.
    there = before.chance if (before.dark & (before.second_moment > 0.0)).any() else 0.0
    rows = replace(state.rows, second_moment=q, gap=gap, mean=mean)
    return replace(state, rows=rows, chance=there + (1.0 - there) * chance)


def without_faint_rows(state: Grid) -> Grid:
    """Dark rows as zeros, for operations that move them by something that does not vanish."""
    faint = state.dark & (state.second_moment > 0.0)
    if not faint.any():
        return state
    q, gap, mean = state.second_moment.copy(), state.gap.copy(), state.mean.copy()
    q[faint], mean[faint], gap[faint], gap[:, faint] = 0.0, 0.0, 1.0, 1.0
    np.fill_diagonal(gap, 0.0)
    return replace(state, rows=replace(state.rows, second_moment=q, gap=gap, mean=mean))
