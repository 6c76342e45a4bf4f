r"""T(Pi) = E[J' Pi J] through a denominator shared by samples and positions: four numbers to four numbers.

The Stein form of ``laplace_backward`` holds matrix products and Hadamard products only, so on matrices
that are invariant under permutations of samples and of positions it is arithmetic of components
(``rectangle``).  With s the Laplace variable, f = phi, A_k and M_k in {0, 1} the modes of d and of R^2,

    T_k = int ds e^{-s eps} det(s)^{-1/2} [A_k (1 - al_k)^2 P_k - A_k al_k (2 - al_k) n_k r
                                           + s^2 a_k(s) t/2],        al_k = s a_k(s)/n_k,

al, a(s) only of modes that R^2 sees (zero for the mean of VN; for d = P h over an rms A_0 = 0 but the
last term stays), and averages over all N = B S entries j of a row of

    P = Pi o E_s[f'f'],     r = mean_j Pi_ij E_s[f''_i f_j],     t = mean_j Pi_ij E_s[f_i f_j].

With c_1 = (a^2+b^2)/2, c_2 = (a+b)^2/(2 pi), angles theta_ij and variances v of d under the weight,

    P_k = c_1 Pi_k - c_2 (Pi o theta)_k,   r = c_2 mean Pi sin theta,   t = c_1 v (Pi_0 - mean Pi ray_gap):

Pi_k is exact, so contrasts of Pi do not cancel against each other.  Every term has a limit for B = inf
(n_k = inf: al_k = 0, al_k n_k = s a_k): entries of order one between samples add what they pull through
R.  Without a denominator (MC) T_k = A_k P_k.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from theory.routes import arccosine
from theory.routes.laplace_core import quadrature_error
from theory.routes.positions_batch import (
    LOG_GRID,
    Nodes,
    Pool,
    geometry,
    pools,
    quadrature,
    untilted,
)
from theory.routes.rectangle import exact_components
from theory.specs.normalizers import Normalizer

__all__ = ["pullback"]

FloatArray = NDArray[np.float64]
Slopes = tuple[float, float]
Entries = tuple[float, float, float, float]

_ROUNDING = 1e-14
_EPSILON = float(np.finfo(np.float64).eps)


def pullback(
    q: float,
    gap_w: float,
    gap_b: float,
    gap_x: float,
    gradient: Entries,
    *,
    batch: float,
    positions: float,
    norm: Normalizer,
    slopes: Slopes,
) -> tuple[Entries, float]:
    """T(Pi) = E[J' Pi J], J = d phi(N(h))/dh, for Pi with entries (q, w, b, x), in the same order.

    Source: theory notes, section 3, "Backward through a shared denominator".

    Parameters
    ----------
    q, gap_w, gap_b, gap_x, batch, positions, norm, slopes
        As in ``positions_batch.forward``.
    gradient
        Pi: same sample and position, other position, other sample, both other.  Entries that do not
        exist (one sample or one position) are ignored and come back as 0.

    Returns
    -------
    (T, error relative to its largest entry).
        eps = 0: all ``inf`` where E[1/R^2] is infinite (pool of rank <= 2; VN: rank <= 4), but zero for
        a centered pool of two activations, whose N(h) = +-1 (theory notes, "Heavy tails").

    Raises
    ------
    HypothesisError, SpecificationError
        As ``positions_batch.forward``.
    """
    options = pools(q, gap_w, gap_b, gap_x, batch=batch, positions=positions, norm=norm)
    pool = options[0]
    exists = pool.shape.exists
    cotangent = np.where(exists, gradient, 0.0)
    signed = norm.denominator == "std" and norm.centered and batch * positions == 2
    if not cotangent.any() or (signed and pool.drift == 0.0):
        return (0.0, 0.0, 0.0, 0.0), 0.0
    divides = norm.denominator != "none"
    heavy = divides and pool.rank <= (4 if pool.heavy else 2)
    if heavy or not np.isfinite(cotangent).all():
        return _entries(np.full(4, math.inf), exists), 0.0
    results = [
        _integrals(one, cotangent, slopes=slopes)
        if divides
        else _gaussian(one, cotangent, slopes=slopes)
        for one in options
    ]
    value, error = results[0]
    top = float(np.abs(value).max()) or 1.0
    for other, _ in results[1:]:
        error += float(np.abs(other - value).max()) / top
    return _entries(value / q if divides else value, exists), error + _ROUNDING


def _entries(value: FloatArray, exists: tuple[bool, bool, bool, bool]) -> Entries:
    q, w, b, x = (
        float(entry) if there else 0.0 for entry, there in zip(value, exists, strict=True)
    )
    return q, w, b, x


def _integrals(pool: Pool, cotangent: FloatArray, *, slopes: Slopes) -> tuple[FloatArray, float]:
    """(T in units of 1/q, its error relative to the largest entry: quadrature and cancellation)."""
    shape, component = pool.shape, pool.components.value
    there = component * shape.inward > 0.0
    inner, outer = there & (pool.pooled > 0.0), there & (pool.numerator > 0.0)

    def tails(log_tilted: FloatArray) -> FloatArray:
        size = log_tilted[inner][:, None] + log_tilted[outer][None]
        flat = size.reshape(-1, log_tilted.shape[1])
        still = np.zeros((1, log_tilted.shape[1]))
        return np.concatenate([still, 2.0 * LOG_GRID + flat])

    nodes = quadrature(pool, tails=tails)
    both = nodes.both()
    first, row, total, size = _moments(pool, nodes, cotangent, slopes=slopes)
    # s a_k(s), with s^2 a_k(s) t as (s a_k(s)) (s t): neither overflows.
    pull = pool.pooled[:, None] * nodes.s * nodes.tilted
    lean = pull / shape.copies[:, None]
    chained = (1.0 - lean) ** 2 * first - (2.0 - lean) * pull * row
    integrand = pool.numerator[:, None] * chained + 0.5 * pull * (nodes.s * total)
    fine, coarse = pool.share * (shape.to_entries @ (integrand @ both.T)).T
    # The same without signs bounds the rounding errors of what cancels.
    rough = size[0] + 2.0 * pull * size[1] + 0.5 * pull * (nodes.s * size[2])
    lost = pool.share * float(shape.inward @ (rough @ nodes.weight))
    top = float(np.abs(fine).max()) or 1.0
    return fine, quadrature_error(fine, coarse, top) + 2.0 * _EPSILON * lost / top


def _gaussian(pool: Pool, cotangent: FloatArray, *, slopes: Slopes) -> tuple[FloatArray, float]:
    """(A (Pi o E[f'f']) A, its error): no denominator."""
    first, _, _, size = _moments(pool, untilted(pool), cotangent, slopes=slopes)
    value = pool.shape.to_entries @ (pool.numerator * first[:, 0])
    top = float(np.abs(value).max()) or 1.0
    return value, 2.0 * _EPSILON * float(pool.shape.inward @ size[0][:, 0]) / top


def _moments(
    pool: Pool, nodes: Nodes, cotangent: FloatArray, *, slopes: Slopes
) -> tuple[FloatArray, FloatArray, FloatArray, tuple[FloatArray, FloatArray, FloatArray]]:
    """P_k (4, Q), r (Q,), t (Q,) at the nodes; and the sums of their terms without signs."""
    a, b = slopes
    square, kink = 0.5 * (a * a + b * b), (a + b) ** 2 / (2.0 * math.pi)
    shape = pool.shape
    variance, gaps, rest = geometry(pool, nodes)
    weighted = cotangent[1:, None]
    low, high = np.sqrt(gaps), np.sqrt(rest)
    angles = weighted * (2.0 * np.arctan2(low, high))
    sines = weighted * (low * high)
    curved = weighted * arccosine.ray_gap(gaps, slopes=slopes)
    mean = shape.to_components[0, 1:]
    component = exact_components(tuple(cotangent.tolist()), shape=shape)[:, None]
    turn = shape.to_components[:, 1:]
    first = square * component - kink * (turn @ angles)
    row = kink * (mean @ sines)
    total = square * variance * (component[0] - mean @ curved)
    size = (
        square * np.abs(component) + kink * (np.abs(turn) @ np.abs(angles)),
        kink * (mean @ np.abs(sines)),
        square * variance * (np.abs(component[0]) + mean @ np.abs(curved)),
    )
    return first, row, total, size
