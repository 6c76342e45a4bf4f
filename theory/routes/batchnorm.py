r"""BatchNorm of an exchangeable batch at eps = 0: closed for homogeneous phi, spherical for the others.

h is Gaussian with Sigma = q (1-gap) 11' + q gap I, so P h is isotropic in the B-1 contrasts.  With
R^2 = h'P h/(B-ddof), v = P h/|P h| uniform on their unit sphere and independent of R,

    N(h) = sqrt(B-ddof) v,     J = diag(phi'(N)) (P - v v')/R,
    E[1/R^2] = (B-ddof)/((B-3) q gap).

Coordinates of v have correlation rho = -1/(B-1): moments do not depend on q, gap.  J 1 = 0, so
E[J' Pi J] = t P, and with Pi = (same - pair) I + pair 11'

    (B-1) t = E[1/R^2] ((same - pair) A + pair C),
    A = E tr D^2 (P - v v'),   C = E 1'D (P - v v') D 1,   D = diag(phi'(N)).

For phi = a relu(x) + b relu(-x): A = (B-2)(a^2+b^2)/2, the odd part of phi drops out of C (in
floating point only if it is left out), and with r = 1/(B-1)

    C = ((a+b)/2)^2 [(B-1)(1 - (2/pi)(sqrt(1-r^2) + r asin r - asin r)) - 1].

relu: A = (B-2)/2, C = D - Q of theory notes, section 4, where the ratio of contrasts is lambda_B.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from theory.errors import HypothesisError
from theory.routes import arccosine
from theory.specs.activations import Activation

__all__ = [
    "BatchFactors",
    "batch_factors",
    "batch_moments",
    "batch_pullback",
    "batch_status",
    "chi_mean",
    "cross_batch_similarity",
]

# A handful of roundings in closed forms; the Gamma ratio of the mean has a few more.
_ROUNDING = 2e-15
# Gamma(x + 1/2)/(Gamma(x) sqrt(x)) in powers of 1/x, for x >= _LARGE.
_LARGE = 80.0
_RATIO = (1.0, -1 / 8, 1 / 128, 5 / 1024, -21 / 32768, -399 / 262144, 869 / 4194304)


class BatchFactors(NamedTuple):
    """What BN(B) does to any exchangeable batch, q and gap apart.

    ``second_moment, gap, mean`` of phi(N(h)); ``spread, shared`` such that E[J' Pi J] = t P with
    t = (spread (same - pair) + shared pair)/(q gap); ``error`` relative.
    """

    second_moment: float
    gap: float
    mean: float
    spread: float
    shared: float
    error: float


def batch_status(batch: float) -> str:
    """``"degenerate"`` (B = 2: N(h) = +-1, zero gradient), ``"infinite"`` (B = 3) or ``"finite"``.

    The pool has rank B - 1 and E[1/R^2] is finite iff the rank exceeds 2 (theory notes, "Heavy tails").
    """
    return {2: "degenerate", 3: "infinite"}.get(int(min(batch, 4)), "finite")


def chi_mean(rank: float) -> float:
    """E[chi_n] = sqrt(2) Gamma((n+1)/2)/Gamma(n/2), relative error below 2e-15 for n >= 1."""
    x = rank / 2.0
    if x < _LARGE:
        return math.sqrt(2.0) * math.gamma(x + 0.5) / math.gamma(x)
    series = 0.0
    for coefficient in reversed(_RATIO):
        series = series / x + coefficient
    return math.sqrt(rank) * series


@lru_cache(maxsize=1024)
def batch_factors(activation: Activation, *, batch: float, ddof: int = 0) -> BatchFactors:
    """Constants of BN(B) followed by ``activation.base`` at eps = 0.

    Parameters
    ----------
    activation
        Its base function is used.
    batch
        B >= 2, or ``math.inf``.
    ddof
        0 or 1.

    Raises
    ------
    HypothesisError
        B < 2.
    """
    if not batch >= 2:
        raise HypothesisError(
            f"batch = {batch}: BN needs two samples, one sample has zero variance; add samples"
        )
    slopes = activation.ray_slopes
    if slopes is not None:
        return _homogeneous(slopes, batch=batch, ddof=ddof)
    if batch == math.inf:
        return _independent(activation.base)
    return _spherical(activation.base, batch=int(batch), ddof=ddof)


def batch_moments(
    activation: Activation, *, batch: float, ddof: int = 0
) -> tuple[float, float, float, float]:
    """(E[x^2], 1 - E[x x']/E[x^2], E[x], relative error) of x = base(N(h)); the same for all q, gap > 0.

    Source: theory notes, section 4 (BN row).  Domain: eps = 0, B >= 2 or ``math.inf``.
    """
    factors = batch_factors(activation, batch=batch, ddof=ddof)
    return factors.second_moment, factors.gap, factors.mean, factors.error


def batch_pullback(
    activation: Activation,
    same: float,
    pair: float,
    *,
    batch: float,
    ddof: int = 0,
    second_moment: float,
    gap: float,
) -> tuple[float, float, float]:
    """E[J' Pi J] = t P as (t (B-1)/B, -t/B, relative error), for Pi = (same - pair) I + pair 11'.

    Source: theory notes, section 4, "BN backward".  B = 2 gives zeros, B = 3 (inf, -inf); see
    ``batch_status``.

    Parameters
    ----------
    same, pair
        Covariance of the cotangent at x: of one sample, of two samples.
    second_moment, gap
        Of the pre-activations h, both > 0.

    Raises
    ------
    HypothesisError
        The pool variance q gap is zero.
    """
    if not second_moment * gap > 0.0:
        raise HypothesisError(
            f"second_moment = {second_moment}, gap = {gap}: the variance over the batch is zero and "
            "eps = 0; use distinct samples or eps > 0"
        )
    factors = batch_factors(activation, batch=batch, ddof=ddof)
    if batch == 3:
        # E[1/R^2] is infinite; what it multiplies is positive unless Pi = 11' meets a linear phi.
        drive = math.inf if same != pair or (pair and factors.shared) else 0.0
    else:
        drive = factors.spread * (same - pair) + factors.shared * pair
    level = drive / (second_moment * gap)
    share = 1.0 / batch
    return level * (1.0 - share), -level * share, factors.error


def cross_batch_similarity(
    activation: Activation, *, batch: float, ddof: int = 0
) -> tuple[float, float]:
    """E[x]^2/E[x^2]: cosine of two samples normalized in *different* exchangeable mini-batches.

    If all samples of one batch have the same covariance with all samples of the other, centering
    removes it: P (c 11') P = 0, the two batches are independent after N.  The general case is
    ``laplace_pools.two_pool_similarity``.

    Returns
    -------
    (similarity, relative error).
    """
    factors = batch_factors(activation, batch=batch, ddof=ddof)
    return factors.mean**2 / factors.second_moment, 3.0 * factors.error


def _homogeneous(slopes: tuple[float, float], *, batch: float, ddof: int) -> BatchFactors:
    a, b = slopes
    square = 0.5 * (a * a + b * b)
    even = 0.25 * (a + b) ** 2
    if batch == math.inf:
        mean = (a + b) / math.sqrt(2.0 * math.pi)
        gap = arccosine.ray_gap_scalar(1.0, slopes=slopes)
        return BatchFactors(square, gap, mean, square, even * (1.0 - 2.0 / math.pi), _ROUNDING)
    r = 1.0 / (batch - 1.0)
    gap = arccosine.ray_gap_scalar(min(1.0 + r, 2.0), slopes=slopes)
    second_moment = square * (batch - ddof) / batch
    radius = math.sqrt((batch - ddof) * (batch - 1.0) / batch)
    mean = (a + b) / math.sqrt(2.0 * math.pi) * radius / chi_mean(batch - 1.0)
    arc = math.asin(r)
    lens = (2.0 / math.pi) * (math.sqrt((1.0 - r) * (1.0 + r)) + r * arc - arc)
    spread = square * (batch - 2.0)
    shared = even * ((batch - 1.0) * (1.0 - lens) - 1.0)
    return _assemble(second_moment, gap, mean, spread, shared, batch, ddof, _ROUNDING)


def _assemble(
    second_moment: float,
    gap: float,
    mean: float,
    spread: float,
    shared: float,
    batch: float,
    ddof: int,
    error: float,
) -> BatchFactors:
    """Multiply A and C by q gap E[1/R^2]/(B-1)."""
    if batch == 2:
        spread = shared = 0.0
    elif batch == 3:
        spread, shared = math.inf, math.inf if abs(shared) > 1e-12 * abs(spread) else 0.0
    else:
        inverse = (batch - ddof) / ((batch - 3.0) * (batch - 1.0))
        spread, shared = spread * inverse, shared * inverse
    return BatchFactors(second_moment, gap, mean, spread, shared, error)


def _spherical(activation: Activation, *, batch: int, ddof: int) -> BatchFactors:
    """Any phi: N_k = radius x_k, x_k first coordinate of a uniform unit vector of R^(B-1)."""
    from theory.routes import spherical

    rank, b = batch - 1, float(batch)
    radius = math.sqrt((b - ddof) * (b - 1.0) / b)
    one = spherical.sphere_moments(activation, rank=rank, radius=radius)
    two = spherical.sphere_pair(activation, rank=rank, radius=radius, correlation=-1.0 / (b - 1.0))
    # v_k = x_k sqrt((B-1)/B), hence the factors (B-1)/B on the moments with x.
    inward = (b - 1.0) / b
    spread = (b - 1.0) * one.slope2 - b * inward * one.slope2_x2
    shared = (b - 1.0) * (one.slope2 - two.slope) - inward * b * one.slope2_x2
    shared -= b * (b - 1.0) * inward * two.slope_xy
    error = float(max(one.error, two.error)) + _ROUNDING
    return _assemble(one.second_moment, two.gap, one.mean, spread, shared, b, ddof, error)


def _independent(activation: Activation) -> BatchFactors:
    """B = inf: samples are independent unit Gaussians z; A/(B-1) = E phi'^2, C/(B-1) = Var minus regression.

    C/(B-1) = E[phi'^2] - E[phi']^2 - E[z phi']^2.
    """
    from theory.routes.functions import base_function

    function = base_function(activation)
    nodes, weights = _half_normal()
    right, left = function.value(nodes), function.value(-nodes)
    right_slope, left_slope = function.derivative(nodes), function.derivative(-nodes)
    second_moment = float(weights @ (right**2 + left**2))
    mean = float(weights @ (right + left))
    slope2 = float(weights @ (right_slope**2 + left_slope**2))
    slope = float(weights @ (right_slope + left_slope))
    bend = float(weights @ (nodes * (right_slope - left_slope)))
    gap = 1.0 - mean * mean / second_moment
    return BatchFactors(
        second_moment, gap, mean, slope2, slope2 - slope**2 - bend**2, 10.0 * _ROUNDING
    )


@lru_cache(maxsize=1)
def _half_normal() -> tuple[np.ndarray, np.ndarray]:
    """Nodes x > 0 and weights of E f(z) = sum w (f(x) + f(-x)): Gauss-Legendre panels on [0, 12].

    Half-lines because phi may have a kink at 0; twelve panels of 20 nodes resolve every base
    function (strip of analyticity >= pi/2) to rounding; P(|z| > 12) < 1e-32.
    """
    points, weights = np.polynomial.legendre.leggauss(20)
    nodes = (np.arange(12)[:, None] + 0.5 * (points + 1.0)).ravel()
    density = np.exp(-0.5 * nodes**2) / math.sqrt(2.0 * math.pi)
    return nodes, np.tile(0.5 * weights, 12) * density
