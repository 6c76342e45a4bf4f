r"""Denominators shared by a batch, forward: E[phi(d_a) phi(d_b)/R^2] as a one-dimensional integral.

    K_ab = int_0^inf ds e^{-s eps} det(I + 2 s Sigma M/N)^{-1/2} V_phi(A Sigma_s A')_ab,
    m_a  = int_0^inf ds s^{-1/2}/Gamma(1/2) e^{-s eps} det(...)^{-1/2} (a+b) sqrt(V_aa(s)/(2 pi)),

for positively homogeneous phi(x) = a relu(x) + b relu(-x), any covariance, eps >= 0 (theory notes,
section 3, "Laplace route"): BatchNorm, VarianceNorm, and rms over the batch.  ``exchangeable_forward``
is the same at a cost that does not depend on B.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.errors import HypothesisError
from theory.routes import arccosine
from theory.routes.laplace_core import (
    Modes,
    Nodes,
    modes,
    pool_rank,
    quadrature,
    quadrature_error,
    relative_change,
    shaken_modes,
    tilted_deviation,
    tilted_gap_row,
)
from theory.specs.normalizers import Normalizer
from theory.specs.shifts import spread

__all__ = ["exchangeable_forward", "forward", "pool_rank"]

FloatArray = NDArray[np.float64]
Slopes = tuple[float, float]

_ROUNDING = 4e-15


def forward(
    second_moment: ArrayLike,
    gap: ArrayLike,
    *,
    norm: Normalizer,
    slopes: Slopes,
    average: bool = False,
    torus: tuple[int, ...] | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray, float]:
    """K = E[phi(N(h)) phi(N(h))'] and m = E[phi(N(h))] for h ~ N(0, Sigma) over the batch.

    Source: theory notes, section 3, "Laplace route".

    Parameters
    ----------
    second_moment
        q_a = Sigma_aa, shape (B,).
    gap
        1 - Sigma_ab/sqrt(q_a q_b), shape (B, B), zero diagonal.
    norm
        Couples samples, denominator ``"std"`` or ``"rms"``, no gate; any eps and ddof.
    slopes
        (a, b) of phi.
    average
        State the error relative to averages over samples and pairs where these are larger: among many
        positions some are parallel up to rounding, and nobody looks at one pair.
    torus
        Rows are (sample, position) and shifts of these sides change nothing: pairs of position 0 with
        every row are all that is integrated.

    Returns
    -------
    (second_moment (B,), gap (B, B), mean (B,), relative error).
        The gap is computed as E[(phi_a/sqrt K_aa - phi_b/sqrt K_bb)^2]/2: no cancellation.  Where the
        second moment is infinite (VN, eps = 0, pool of rank <= 2) it is ``inf`` and the gap is its
        limit 0; the mean is infinite as well for rank 1.  A sample that always sits at the batch mean
        has second moment 0 and gap 1.

    Raises
    ------
    HypothesisError
        The pool variance is zero at eps = 0, or ``norm`` is of another kind.
    """
    q, gap = np.asarray(second_moment, dtype=np.float64), np.asarray(gap, dtype=np.float64)
    pool = modes(q, gap, norm=norm)
    batch = q.size
    if pool.eps == 0.0 and pool.residual > 0.0 and pool.rank <= 2:
        mean = np.full(batch, math.inf if slopes[0] + slopes[1] else 0.0)
        if pool.rank == 2 and slopes[0] + slopes[1]:
            mean = _means(pool, _nodes(pool, power=-0.5), slopes=slopes)[0]
        return np.full(batch, math.inf), np.zeros((batch, batch)), mean, _ROUNDING
    floor = float(gap.mean()) if average else 0.0
    shared: dict[str, Any] = {"slopes": slopes, "floor": floor, "torus": torus}
    values, error = _integrals(pool, **shared)
    shaken, _ = _integrals(shaken_modes(pool, q, gap, norm=norm), **shared)
    for value, other in zip(values, shaken, strict=True):
        least = float(np.abs(value).mean()) if average else 0.0
        error = max(error, relative_change(value, other, floor=least))
    return *values, error + _ROUNDING


def _integrals(
    pool: Modes, *, slopes: Slopes, floor: float, torus: tuple[int, ...] | None
) -> tuple[tuple[FloatArray, FloatArray, FloatArray], float]:
    """((K_aa, gap, mean), relative error of the quadrature)."""
    # The kernel of two nearly equal samples falls off only beyond 1/lambda of their small mode, so that
    # s^-1 would cut it short; where that is too slow to converge (rank 2), s^-1 it is.
    slow = pool.residual > 0.0 or len(pool.variance) > 2
    nodes = _nodes(pool, power=0.0 if slow else -1.0)
    deviation = tilted_deviation(pool, nodes)
    variance = deviation**2
    square = variance @ nodes.weight
    error = quadrature_error(square, variance @ nodes.coarse(), square)
    mean, mean_error = _means(pool, nodes, slopes=slopes)
    gap, gap_error = _gaps(pool, nodes, deviation, square, slopes=slopes, floor=floor, torus=torus)
    values = arccosine.ray_second_moment(square, slopes=slopes), gap, mean
    return values, max(error, mean_error, gap_error)


def _nodes(pool: Modes, *, power: float) -> Nodes:
    return quadrature(pool.variance, divisor=pool.divisor, eps=pool.eps, power=power)


def _means(pool: Modes, nodes: Nodes, *, slopes: Slopes) -> tuple[FloatArray, float]:
    """(E[phi(d)/R], relative error of the quadrature)."""
    a, b = slopes
    deviation = tilted_deviation(pool, nodes)
    root = (a + b) / (math.pi * math.sqrt(2.0)) / np.sqrt(nodes.s)
    mean = deviation @ (nodes.weight * root)
    return mean, quadrature_error(mean, deviation @ (nodes.coarse() * root), np.abs(mean))


def _gaps(
    pool: Modes,
    nodes: Nodes,
    deviation: FloatArray,
    square: FloatArray,
    *,
    slopes: Slopes,
    floor: float,
    torus: tuple[int, ...] | None,
) -> tuple[FloatArray, float]:
    """gap_ab = int w E_s[(phi(d_a) - phi(t d_b))^2]/(2 int w sigma_a^2), t^2 = K_aa/K_bb.

    phi is homogeneous, so E_s[...] = (sigma_a - t sigma_b)^2 + 2 t sigma_a sigma_b ray_gap(gap_s):
    positive terms only.
    """
    batch = square.size
    result = np.zeros((batch, batch))
    error = 0.0
    weights = np.stack([nodes.weight, nodes.coarse()], axis=1)
    chosen = range(batch - 1) if torus is None else range(0, batch, math.prod(torus))
    for sample in chosen:
        first = sample + 1 if torus is None else 0
        rest = slice(first, batch)
        if square[sample] == 0.0:
            result[sample, rest] = 1.0
            continue
        gap = tilted_gap_row(pool, nodes, deviation, sample=sample, first=first)
        own = deviation[sample]
        ratio = np.sqrt(
            np.divide(square[sample], square[rest], out=np.ones(batch - first),
                      where=square[rest] > 0.0)
        )  # fmt: skip
        other = ratio[:, None] * deviation[rest]
        apart = (own - other) ** 2
        apart += 2.0 * own * other * arccosine.ray_gap(gap, slopes=slopes)
        both = (apart @ weights) / (2.0 * square[sample])
        both[square[rest] == 0.0] = 1.0
        both[pool.distance[sample, rest] == 0.0] = 0.0
        result[sample, rest] = both[:, 0]
        error = max(error, quadrature_error(both[:, 0], both[:, 1], np.maximum(both[:, 0], floor)))
    if torus is not None:
        np.fill_diagonal(result, 0.0)
        return np.minimum(spread(result[:: math.prod(torus)], torus), 2.0), error
    result += result.T
    return np.minimum(result, 2.0), error


def exchangeable_forward(
    second_moment: float, gap: float, *, batch: float, norm: Normalizer, slopes: Slopes
) -> tuple[float, float, float, float]:
    """E[x^2], 1 - cosine, E[x] of x = phi(N(h)) for an exchangeable batch, at a cost O(1) in B.

    Source: theory notes, sections 3 and 4.  All contrasts have variance lambda = q gap, and
    V_aa(s) = Var(mean) + (1 - 1/B) lambda(s) (the first term for raw numerators only).  VN at eps = 0:
    E[N(h)^2] = (B/gap - 2)/(B-3), in closed form.

    Parameters
    ----------
    second_moment, gap
        q > 0 and 1 - c of the pre-activations.
    batch
        B >= 2 or ``math.inf``.
    norm, slopes
        As in ``forward``; denominator ``"std"``.

    Returns
    -------
    (second_moment, gap, mean, relative error).
        ``inf`` and its limits as in ``forward``.
    """
    check_exchangeable(second_moment, gap, batch=batch, norm=norm)
    eps, raw = norm.eps / second_moment, not norm.centered
    a, b = slopes
    if batch == math.inf:
        level = (1.0 if raw else gap) / (gap + eps)
        new_gap = arccosine.ray_gap_scalar(gap if raw else 1.0, slopes=slopes)
        mean = (a + b) * math.sqrt(level / (2.0 * math.pi))
        return 0.5 * (a * a + b * b) * level, new_gap, mean, _ROUNDING
    of_mean = mean_variance(gap, batch=batch) if raw else 0.0
    if of_mean and eps == 0.0 and batch <= 3:
        mean = math.inf if a + b else 0.0
        if batch == 3 and a + b:
            nodes = exchangeable_nodes(gap, batch=batch, norm=norm, eps=eps, power=-0.5)
            deviation = np.sqrt(of_mean + (1.0 - 1.0 / batch) * nodes.tilted[:, 0])
            mean = _exchangeable_mean(nodes, nodes.weight, deviation, slopes=slopes)
        return math.inf, 0.0, mean, _ROUNDING
    nodes = exchangeable_nodes(gap, batch=batch, norm=norm, eps=eps, power=0.0 if of_mean else -1.0)
    inner = nodes.tilted[:, 0]
    variance = of_mean + (1.0 - 1.0 / batch) * inner
    # At gap = 0 centered samples are zero: their direction is that of any small gap.
    limit = np.full_like(inner, 1.0 / (1.0 - 1.0 / batch))
    ratio = np.divide(inner, variance, out=limit, where=variance > 0.0)
    tilted_gap = np.minimum(ratio, 2.0)
    kernel = variance * arccosine.ray_gap(tilted_gap, slopes=slopes)
    values = np.empty((2, 3))
    for row, weight in enumerate((nodes.weight, nodes.coarse())):
        square = float(weight @ variance)
        values[row] = (
            square,
            float(weight @ kernel) / square if square else 1.0,
            _exchangeable_mean(nodes, weight, np.sqrt(variance), slopes=slopes),
        )
    error = quadrature_error(values[0], values[1], np.abs(values[0])) + _ROUNDING
    square, new_gap, mean = (float(value) for value in values[0])
    if eps == 0.0 and raw and batch > 3:
        share = norm.divisor(batch=batch, positions=1) / batch
        square = share * (batch / gap - 2.0) / (batch - 3.0)
    return 0.5 * (a * a + b * b) * square, new_gap, mean, error


def mean_variance(gap: float, *, batch: float) -> float:
    """Variance of the batch mean in units of q, 1 - gap (B-1)/B; zero when that is a rounding error."""
    value = 1.0 - gap * (1.0 - 1.0 / batch)
    return value if value > 4e-15 else 0.0


def _exchangeable_mean(
    nodes: Nodes, weight: FloatArray, deviation: FloatArray, *, slopes: Slopes
) -> float:
    a, b = slopes
    return (a + b) / (math.pi * math.sqrt(2.0)) * float((weight / np.sqrt(nodes.s)) @ deviation)


def exchangeable_nodes(
    gap: float, *, batch: float, norm: Normalizer, eps: float, power: float
) -> Nodes:
    """Nodes for the B - 1 contrasts of variance gap, in units of q (eps too)."""
    return quadrature(
        np.array([gap]),
        multiplicity=batch - 1.0,
        divisor=norm.divisor(batch=batch, positions=1),
        eps=eps,
        power=power,
    )


def check_exchangeable(second_moment: float, gap: float, *, batch: float, norm: Normalizer) -> None:
    if not norm.couples_samples or norm.denominator != "std" or norm.gate is not None:
        raise HypothesisError(
            f"{norm.name} does not divide by a standard deviation over samples; use another route"
        )
    if not batch >= 2:
        raise HypothesisError(f"batch = {batch}: {norm.name} needs two samples; add samples")
    if norm.eps == 0.0 and not second_moment * gap > 0.0:
        raise HypothesisError(
            f"second_moment = {second_moment}, gap = {gap}: the variance over the batch is zero and "
            "eps = 0; use distinct samples or eps > 0"
        )
