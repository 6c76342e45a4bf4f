r"""Denominators shared by samples and positions, forward, at a cost that does not depend on B and S.

    E[phi(d_i) phi(d_j)/R^2] = int_0^inf ds e^{-s eps} prod_k (1 + 2 s a_k/n_k)^{-m_k/2} V_phi(s)_ij,
    E[phi(d_i)/R]            = int_0^inf ds s^{-1/2}/Gamma(1/2) ... (a+b) sqrt(V_ii(s)/(2 pi))

for BN, VN, rms over (samples, positions) of one channel, positively homogeneous phi with slopes (a, b),
covariances exchangeable over samples and over positions (theory notes, section 3, "Laplace route";
modes, components a_k and the entries q, w, b, x: ``rectangle``).  Under the weight e^{-s R^2}

    a_k(s) = a_k/(1 + 2 s a_k/n_k)   of the modes that R^2 = sum_k a_k chi^2_{m_k}/n_k + eps sees.

B = inf: modes with infinitely many copies are numbers in R^2 (they count as eps) and keep their
variance; the S-1 contrasts of b-x stay random, and R is a number iff b = x.  ddof: N(h) is that of
ddof = 0 and eps (1 - ddof/N), times sqrt(1 - ddof/N).  Mean centering has no integral.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.errors import HypothesisError, NumericalError, out_of_domain
from theory.routes import arccosine
from theory.routes.laplace_core import quadrature_error
from theory.routes.rectangle import Components, Rectangle, components_of_gaps, rectangle
from theory.specs.normalizers import Normalizer

__all__ = [
    "LOG_GRID",
    "Nodes",
    "Pool",
    "forward",
    "geometry",
    "moment_nodes",
    "pools",
    "quadrature",
    "untilted",
]

FloatArray = NDArray[np.float64]
Slopes = tuple[float, float]

_ROUNDING = 8e-15
# As in laplace_core: s = scale exp(x - e^{-x}), geometric convergence in the spacing of x.
_SPACING = 0.125
_LEFT = -4.5
# Terms below e^{-_DROP} of the largest one are left out.
_DROP = 44.0
# Squares of Laplace variables beyond the inverse of this may overflow.
_TINY = 1e-100
LOG_GRID = np.arange(-4.0, 701.0)
_GRID = np.exp(LOG_GRID)


class Pool(NamedTuple):
    """One channel over B x S activations in units of q; arrays over mean, position, sample, both.

    ``numerator``, ``pooled``: 1 for the modes of d, of R^2, else 0.  ``rate`` 2 a_k/n_k of the pooled
    modes.  ``drift``: what is a number in R^2.  ``share`` 1 - ddof/N.
    """

    shape: Rectangle
    components: Components
    numerator: FloatArray
    pooled: FloatArray
    rate: FloatArray
    drift: float
    share: float

    @property
    def rank(self) -> float:
        """Rank of the quadratic form in R^2 (it decides which moments are finite)."""
        if self.drift > 0.0:
            return math.inf
        return float(self.shape.multiplicity[self.rate > 0.0].sum())

    @property
    def heavy(self) -> bool:
        """Whether d has a part that R does not see: the mean, for VN."""
        unseen = self.numerator * (1.0 - self.pooled) * self.components.value
        return bool(unseen.any())


class Nodes(NamedTuple):
    """Quadrature nodes: ``s`` (Q,), ``growth`` (4, Q) = 1 + s rate, ``tilted`` (4, Q), ``weight`` (Q,)."""

    s: FloatArray
    growth: FloatArray
    tilted: FloatArray
    weight: FloatArray

    def both(self) -> FloatArray:
        """Weights of the rule and of the one with twice the spacing, (2, Q)."""
        coarse = 2.0 * self.weight
        coarse[1::2] = 0.0
        return np.stack([self.weight, coarse])


def forward(
    q: float,
    gap_w: float,
    gap_b: float,
    gap_x: float,
    *,
    batch: float,
    positions: float,
    norm: Normalizer,
    slopes: Slopes,
) -> tuple[float, float, float, float, float, float]:
    """E[x^2], the three gaps and E[x] of x = phi(N(h)).

    Source: theory notes, section 3.  Every gap keeps full relative precision as it goes to 0.

    Parameters
    ----------
    q
        Second moment of h, > 0.
    gap_w, gap_b, gap_x
        1 - correlation with the other position of the same sample, with the same position of another
        sample, with both other.  Without a second position gap_w and gap_x are ignored, without a
        second sample gap_b and gap_x.
    batch, positions
        B and S, integers >= 1 or ``math.inf``; B S >= 2.
    norm
        Pools samples and positions of one channel; denominator ``"std"``, ``"rms"`` or ``"none"``, no
        gate; any eps and ddof.
    slopes
        (a, b) of phi(x) = a relu(x) + b relu(-x).

    Returns
    -------
    (second_moment, gap_w, gap_b, gap_x, mean, error).
        ``error`` bounds the relative error of each.  Gaps that do not exist are as in ``rectangle``:
        0 and the existing one.  VN at eps = 0 with a pool of rank <= 2: second moment ``inf``, gaps at
        their limit 0, and mean ``inf`` as well for rank 1.  If d = 0 the gaps are 1.

    Raises
    ------
    HypothesisError
        The pool variance is zero at eps = 0, or ``norm`` is of another kind.
    SpecificationError
        The numbers are no covariance, or B, S no counts.
    """
    options = pools(q, gap_w, gap_b, gap_x, batch=batch, positions=positions, norm=norm)
    if norm.denominator == "none":
        values = _centered(options[0], q=q, slopes=slopes)
        return *_ordered(values), _ROUNDING
    results = [_integrals(pool, slopes=slopes) for pool in options]
    values, error = results[0]
    for other, _ in results[1:]:
        with np.errstate(invalid="ignore", divide="ignore"):
            change = np.abs(other - values) / np.abs(values)
        error += float(np.max(change[np.isfinite(change)], initial=0.0))
    return *_ordered(values), error + _ROUNDING


def _ordered(values: FloatArray) -> tuple[float, float, float, float, float]:
    square, mean, gap_w, gap_b, gap_x = (float(value) for value in values)
    return square, gap_w, gap_b, gap_x, mean


def _integrals(pool: Pool, *, slopes: Slopes) -> tuple[FloatArray, float]:
    """((E[x^2], E[x], gaps), relative error of the quadrature)."""
    a, b = slopes
    infinite = pool.heavy and pool.rank <= 2
    if infinite and (pool.rank <= 1 or a + b == 0.0):
        return np.array([math.inf, math.inf if a + b else 0.0, 0.0, 0.0, 0.0]), 0.0
    nodes = moment_nodes(pool, square=not infinite)
    both = nodes.both()
    variance, gaps, _ = geometry(pool, nodes)
    root = (a + b) / (math.pi * math.sqrt(2.0)) * math.sqrt(pool.share)
    means = root * (both @ np.sqrt(variance / nodes.s))
    if infinite:
        values = np.array([math.inf, means[0], 0.0, 0.0, 0.0])
        return values, quadrature_error(means[:1], means[1:], np.abs(means[:1]))
    table = np.empty((2, 5))
    table[:, 0] = both @ variance
    table[:, 1] = means
    kernel = variance * arccosine.ray_gap(gaps, slopes=slopes)
    if variance.any():
        # Not a matrix product: equal rows must give equal sums, so that b = x stays b = x.
        table[:, 2:] = (both[:, None, :] * kernel).sum(axis=2) / table[:, :1]
    else:
        table[:, 2:] = _no_direction(pool)
    table[:, 0] *= 0.5 * (a * a + b * b) * pool.share
    return table[0], quadrature_error(table[0], table[1], np.abs(table[0]))


def moment_nodes(pool: Pool, *, square: bool = True) -> Nodes:
    """Nodes for E[phi/R] and, unless it is infinite, E[phi phi/R^2] with every distance in it."""
    seen = pool.numerator * pool.components.value * pool.shape.inward > 0.0

    def tails(log_tilted: FloatArray) -> FloatArray:
        terms = log_tilted[seen]
        means = 0.5 * (terms - LOG_GRID)
        return np.concatenate([terms, means]) if square else means

    return quadrature(pool, tails=tails)


def _centered(pool: Pool, *, q: float, slopes: Slopes) -> FloatArray:
    """Without a denominator: (E[x^2], E[x], gaps) from the Gaussian duals."""
    a, b = slopes
    spread, gaps, _ = geometry(pool, untilted(pool))
    variance = float(spread[0])
    new_gaps = arccosine.ray_gap(gaps[:, 0], slopes=slopes) if variance else _no_direction(pool)
    mean = (a + b) * math.sqrt(q * variance / (2.0 * math.pi))
    return np.array([0.5 * (a * a + b * b) * q * variance, mean, *new_gaps])


def _no_direction(pool: Pool) -> FloatArray:
    """Gaps of zeros: 1 where there is a gap."""
    _, w, b, _ = pool.shape.exists
    return np.array([float(w), float(b), 1.0])


def pools(
    q: float,
    gap_w: float,
    gap_b: float,
    gap_x: float,
    *,
    batch: float,
    positions: float,
    norm: Normalizer,
) -> tuple[Pool, ...]:
    """The pool; and a second one where rounding decides whether a mode is there, for the error."""
    pool, gate = norm.pool, norm.gate
    if not (pool.samples and pool.positions and pool.channels == 1) or gate is not None:
        raise HypothesisError(
            f"{norm.name} does not pool samples and positions of one channel; use another route"
        )
    if norm.denominator not in ("std", "rms", "none"):
        raise HypothesisError(f"{norm.name} has the denominator {norm.denominator}; use RQMC")
    if not 0.0 < q < math.inf:
        raise out_of_domain("q", q, "a positive finite second moment", "rescale the inputs")
    shape = rectangle(batch, positions)
    both = components_of_gaps(gap_w, gap_b, gap_x, shape=shape)
    found = tuple(
        _pool(components, shape=shape, norm=norm, eps=norm.eps / q)
        for components in both
        if components is not None
    )
    if norm.denominator != "none" and found[0].rank == 0:
        raise HypothesisError(
            f"gap_w = {gap_w}, gap_b = {gap_b}, gap_x = {gap_x}: the variance over the pool is zero "
            "and eps = 0; use distinct samples or eps > 0"
        )
    return found


def _pool(components: Components, *, shape: Rectangle, norm: Normalizer, eps: float) -> Pool:
    numerator, pooled = np.ones(4), np.ones(4)
    numerator[0] = not norm.centered
    pooled[0] = norm.denominator == "rms"
    there = pooled * (shape.multiplicity > 0.0)
    constant = np.isinf(shape.copies)
    share = 1.0 - norm.ddof / (shape.batch * shape.positions)
    drift = share * eps + float((there * shape.inward * components.value)[constant].sum())
    rate = 2.0 * there * components.value / shape.copies
    return Pool(shape, components, numerator, pooled, rate, drift, share)


def quadrature(pool: Pool, *, tails: Callable[[FloatArray], FloatArray]) -> Nodes:
    """Nodes of int ds e^{-s drift} prod_k (1 + s rate_k)^{-m_k/2} ...

    ``tails`` gets log a_k(s) (4, X) on the grid log s + const = ``LOG_GRID``, units of s arbitrary,
    and gives the logarithms of the terms (T, X) of the rest of the integrand up to constants: the
    right end is where each has dropped to e^{-44} of its largest value.
    """
    finite = pool.rate > 0.0
    multiplicity = pool.shape.multiplicity[finite][:, None]
    rate = pool.rate[finite][:, None]
    size = float((multiplicity * rate).sum()) + pool.drift
    if size < _TINY:
        raise NumericalError(
            f"gap_w, gap_b, gap_x: the variance of the pool is {0.5 * size:.3g} of the second moment, "
            "too small for floating point; raise eps"
        )
    scale = 1.0 / size
    log_growth = np.zeros((4, _GRID.size))
    log_growth[finite] = np.log1p(rate * scale * _GRID)
    log_weight = LOG_GRID - 0.5 * (multiplicity * log_growth[finite]).sum(axis=0)
    log_weight -= (pool.drift * scale) * _GRID
    with np.errstate(divide="ignore"):
        log_tilted = np.log(pool.components.value)[:, None] - log_growth
    # The first row: what decays like 1/R^2, if d is zero.
    terms = log_weight + np.concatenate([-LOG_GRID[None], tails(log_tilted)])
    # Each term is log-concave in x: it does not come back.
    alive = (terms >= terms.max(axis=1, keepdims=True) - _DROP).any(axis=0)
    last = int(np.flatnonzero(alive)[-1]) + 1
    if last >= _GRID.size:
        raise NumericalError(
            "the Laplace integrand decays too slowly: the pool's covariance spans more orders of "
            "magnitude than floating point; raise eps"
        )
    x = np.arange(_LEFT, LOG_GRID[last] + _SPACING, _SPACING)
    shrink = np.exp(-x)
    s = scale * np.exp(x - shrink)
    growth = 1.0 + pool.rate[:, None] * s
    log_det = (multiplicity * np.log1p(rate * s)).sum(axis=0)
    weight = _SPACING * s * (1.0 + shrink) * np.exp(-0.5 * log_det - s * pool.drift)
    return Nodes(s, growth, pool.components.value[:, None] / growth, weight)


def untilted(pool: Pool) -> Nodes:
    """One node s = 0: the Gaussian itself."""
    one = np.ones(1)
    return Nodes(0.0 * one, np.ones((4, 1)), pool.components.value[:, None], one)


def geometry(pool: Pool, nodes: Nodes) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Variances of d (Q,); 1 - c and 1 + c, c the correlation of d_i and d_j of kind w, b, x, (3, Q).

    E[(d_i -/+ d_j)^2]/2 over the variance, sums of positive terms: full relative precision at both
    ends.  q-w = a_ps + (b-x) and so on; tilted, b-x becomes (b-x)/((1 + s rate_p)(1 + s rate_ps)).  If
    d = 0 the directions are those of independent noise.
    """
    shape = pool.shape
    i, j = 1.0 / shape.batch, 1.0 / shape.positions
    tilted, growth = nodes.tilted * pool.numerator[:, None], nodes.growth
    variance = shape.inward @ tilted
    by_position, by_sample = pool.components.by_position, pool.components.by_sample
    if not variance.any():
        tilted = tilted + np.array([0.0, i, j, 1.0])[:, None]
    size = shape.inward @ tilted
    _, position, sample, both = tilted
    shared, own = by_position / (growth[1] * growth[3]), by_sample / (growth[2] * growth[3])
    other_position = both + shared if by_position >= 0.0 else position + (1.0 - i) * both
    other_sample = both + own if by_sample >= 0.0 else sample + (1.0 - j) * both
    if by_position >= 0.0:
        all_other = other_sample + shared
    elif by_sample >= 0.0:
        all_other = other_position + own
    else:
        all_other = position + sample + (1.0 - i - j) * both
    difference = np.stack([other_position, other_sample, all_other])
    total = np.maximum(shape.to_entries[:1] + shape.to_entries[1:], 0.0) @ tilted
    return variance, np.minimum(difference / size, 2.0), np.minimum(total / size, 2.0)
