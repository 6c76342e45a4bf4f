r"""What every Laplace integral over a batch needs: modes of the pool, tilted Gaussians, nodes.

With the pool's modes eta_k ~ N(0, lambda_k) independent (theory notes, section 3, "Laplace route"),

    R^2 = sum_k eta_k^2/N + eps,     d = A h = e 1 + W eta,     M h = U eta,

e ~ N(0, residual) the part of the batch mean that the pool does not see (VN only).  Under the weight
e^{-s R^2} the modes stay independent, lambda_k(s) = lambda_k/(1 + 2 s lambda_k/N), and

    E[F/R^(2 alpha)] = int_0^inf ds s^(alpha-1)/Gamma(alpha) e^{-s eps} det(s)^{-1/2} E_s[F].

Variances and squared distances are sums of positive terms: they keep relative precision where
I - Sigma(...) would not.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.errors import HypothesisError, NumericalError
from theory.specs.normalizers import Normalizer
from theory.states.full import squared_distances

__all__ = [
    "Modes",
    "Nodes",
    "modes",
    "pool_rank",
    "quadrature",
    "quadrature_error",
    "relative_change",
    "right_end",
    "shaken_modes",
    "tilted_deviation",
    "tilted_gap_row",
]

FloatArray = NDArray[np.float64]

_EPSILON = float(np.finfo(np.float64).eps)
# Spacing of the trapezoidal rule in x, s = scale exp(x - e^{-x}).  The integrand is analytic for
# |arg s| < pi/2 and near s = 0, hence in |Im x| < 1.07: error e^{-2 pi 1.07/h} = 5e-24, and 2e-12
# on the grid of every other node, which is where the error estimate comes from.
_SPACING = 0.125
_LEFT = -4.5
_SHAKE = 32.0 * _EPSILON
# Square of the relative distance to the mean that counts as zero: above the effect of _SHAKE.
_STILL = 1e-26
# Terms below e^{-_DROP} of the largest one are left out.
_DROP = 44.0


class Modes(NamedTuple):
    """Spectral form of one pool over the batch; see the module docstring.

    ``variance`` (K,) are the lambda_k > 0, ``pooled`` (B, K) is U, ``numerator`` (B, K) is W,
    ``residual`` Var(e), ``distance`` (B, B) E[(h_a - h_b)^2], ``divisor`` N, ``eps``, ``centered``.
    All in units of ``scale``, a power of two near the largest second moment.
    """

    variance: FloatArray
    pooled: FloatArray
    numerator: FloatArray
    residual: float
    distance: FloatArray
    divisor: float
    eps: float
    centered: bool
    scale: float

    @property
    def rank(self) -> int:
        """Rank of the pooled quadratic form."""
        return self.variance.size


class Nodes(NamedTuple):
    """Quadrature nodes: ``s`` (Q,), ``tilted`` (Q, K) the lambda_k(s), ``weight`` (Q,) for alpha = 1."""

    s: FloatArray
    tilted: FloatArray
    weight: FloatArray

    def coarse(self) -> FloatArray:
        """Weights of the same rule with twice the spacing (zero on every other node)."""
        weight = 2.0 * self.weight
        weight[1::2] = 0.0
        return weight


def pool_rank(second_moment: FloatArray, gap: FloatArray, *, centered: bool = True) -> int:
    """Numerical rank of P Sigma P (or of Sigma): it decides which moments are finite.

    E[1/R^2] is finite iff the rank exceeds 2 (eps = 0; theory notes, "Heavy tails").
    """
    variance, _, _ = _pool(np.asarray(second_moment), np.asarray(gap), centered=centered)
    return int(np.count_nonzero(variance > _threshold(variance)))


def _pool(
    second_moment: FloatArray, gap: FloatArray, *, centered: bool
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(eigenvalues, eigenvectors, distances) of the pooled covariance, in its own subspace."""
    distance = squared_distances(second_moment, gap)
    if centered:
        # The contrasts see a covariance through its squared distances: Q'Sigma Q = -Q'D Q/2.
        basis = _contrasts(second_moment.size)
        covariance = -0.5 * (basis.T @ distance @ basis)
    else:
        basis = np.eye(second_moment.size)
        covariance = 0.5 * (second_moment[:, None] + second_moment[None, :] - distance)
    variance, vectors = np.linalg.eigh(0.5 * (covariance + covariance.T))
    return variance, basis @ vectors, distance


@lru_cache(maxsize=32)
def _contrasts(batch: int) -> FloatArray:
    """Orthonormal contrasts (B, B-1): column k compares sample k+1 with the mean of those before it."""
    count = np.arange(1.0, batch)
    basis = np.triu(np.ones((batch, batch - 1)))
    basis[np.arange(1, batch), np.arange(batch - 1)] = -count
    return np.asarray(basis / np.sqrt(count * (count + 1.0)))


def _threshold(variance: FloatArray) -> float:
    """Eigenvalues up to here may be rounding errors of zero."""
    return 8.0 * _EPSILON * variance.size * max(float(variance[-1]), 0.0)


def shaken_modes(
    pool: Modes, second_moment: FloatArray, gap: FloatArray, *, norm: Normalizer
) -> Modes:
    """``pool`` with its covariance perturbed by a fixed pattern, some times its rounding errors.

    Eigenvalues that count as zero are raised to the largest such value.  The difference that all this
    makes to a result is the result's rounding error.  What is exactly zero in ``pool`` stays so.
    """
    moved = modes(second_moment, gap, norm=norm, shaken=True)
    still = np.abs(pool.numerator).sum(axis=1, keepdims=True) == 0.0
    numerator = np.where(still, 0.0, moved.numerator)
    return moved._replace(numerator=numerator, residual=pool.residual)


def modes(
    second_moment: FloatArray, gap: FloatArray, *, norm: Normalizer, shaken: bool = False
) -> Modes:
    """Modes of the pool of ``norm`` over a batch with these second moments (B,) and gaps (B, B).

    ``shaken`` is for ``shaken_modes``.

    Raises
    ------
    HypothesisError
        ``norm`` is not a denominator over samples, or the pool variance is zero at eps = 0.
    """
    if not norm.couples_samples or norm.denominator not in ("std", "rms") or norm.gate is not None:
        raise HypothesisError(
            f"{norm.name} does not divide by a standard deviation over samples; use another route"
        )
    q = np.asarray(second_moment, dtype=np.float64)
    gap = np.asarray(gap, dtype=np.float64)
    batch, top = q.size, float(q.max())
    if not 0.0 < top < math.inf:
        raise NumericalError(f"second_moment: the largest is {top}; rescale the inputs")
    # A power of two: differences of second moments stay exact.
    scale = math.ldexp(1.0, math.frexp(top)[1])
    q = q / scale
    pools_mean = norm.denominator == "rms"
    variance, vectors, distance = _pool(q, gap, centered=not pools_mean)
    floor = _threshold(variance)
    keep = variance > floor
    if not keep.any() and norm.eps == 0.0:
        raise HypothesisError(
            "gap: all samples are identical, so the variance over the batch is zero and eps = 0; "
            "use distinct samples or eps > 0"
        )
    if shaken and keep.any():
        variance, vectors = _shake(np.maximum(variance, floor), vectors)
    else:
        variance, vectors = variance[keep], vectors[:, keep]
    numerator, residual = vectors, 0.0
    if pools_mean and norm.centered:
        numerator = vectors - vectors.mean(axis=0, keepdims=True)
    if not pools_mean and not norm.centered:
        # d = m + P h: regress the mean m on the modes.
        rows = distance.mean(axis=1)
        with_mean = 0.5 * ((q - q.mean()) - (rows - rows.mean()))
        coupling = (vectors.T @ with_mean) / variance
        of_mean = float(q.mean() - 0.5 * distance.mean())
        residual = of_mean - float(coupling @ (variance * coupling))
        rounding = 8.0 * _EPSILON * batch * max(of_mean, float(variance.sum()) / batch)
        if residual <= rounding or not q.all():  # a row that is zero leaves e nothing to be
            residual = 0.0
        numerator = vectors + coupling[None, :]
    # A sample at the mean of the batch, up to rounding, has no direction.
    own = residual + numerator**2 @ variance
    still = own <= _STILL * own.max(initial=0.0)
    if not norm.centered:
        still |= q == 0.0
    numerator = np.where(still[:, None], 0.0, numerator)
    return Modes(
        variance,
        vectors,
        numerator,
        residual,
        distance,
        norm.divisor(batch=batch, positions=1),
        norm.eps / scale,
        norm.centered,
        scale,
    )


def _shake(variance: FloatArray, vectors: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Modes of U (Lambda + E) U', E symmetric with norm about 32 epsilon lambda_max."""
    pattern = np.random.default_rng(20240229).standard_normal((variance.size, variance.size))
    pattern *= _SHAKE * float(variance[-1]) / math.sqrt(2.0 * variance.size)
    shaken, turn = np.linalg.eigh(np.diag(variance) + 0.5 * (pattern + pattern.T))
    return np.maximum(shaken, 0.1 * variance), vectors @ turn


def quadrature(
    variance: FloatArray,
    *,
    multiplicity: float = 1.0,
    divisor: float,
    eps: float,
    power: float,
) -> Nodes:
    """Nodes of int ds e^{-s eps} prod_k (1 + 2 s lambda_k/N)^{-multiplicity/2} ...

    Parameters
    ----------
    variance
        lambda_k (K,).
    multiplicity
        Of every mode (B - 1 for an exchangeable batch).
    divisor, eps
        N and eps of the denominator.
    power
        The rest of the integrand grows at most as s^power for s -> inf (and s^{-1/2} for s -> 0).
    """
    rate = 2.0 * variance / divisor
    scale = 1.0 / (multiplicity * float(rate.sum()) + eps)
    limit = right_end(rate * scale, multiplicity, eps * scale, power)
    x = np.arange(math.floor(_LEFT / _SPACING), math.ceil(limit / _SPACING) + 1) * _SPACING
    shrink = np.exp(-x)
    sigma = np.exp(x - shrink)
    s = scale * sigma
    growth = 1.0 + s[:, None] * rate[None, :]
    log_det = multiplicity * np.log1p(s[:, None] * rate[None, :]).sum(axis=1)
    weight = _SPACING * s * (1.0 + shrink) * np.exp(-0.5 * log_det - s * eps)
    return Nodes(s, variance[None, :] / growth, weight)


def right_end(rate: FloatArray, multiplicity: float, eps: float, power: float) -> float:
    """Smallest integer x at which the integrand has dropped by e^{-_DROP} for good (sigma = e^x)."""
    if eps == 0.0 and 1.0 + power - 0.5 * multiplicity * rate.size >= 0.0:
        raise HypothesisError("the integral diverges: the pool's rank is too small and eps = 0")
    x = np.arange(-4.0, 1500.0)
    # sigma overflows beyond x = 709: by then only eps > 0 matters, and it has long since cut off.
    sigma = np.exp(np.minimum(x, 700.0))
    log_growth = np.log1p(sigma[:, None] * rate[None, :]).sum(axis=1)
    log_value = (1.0 + power) * x - 0.5 * multiplicity * log_growth - sigma * eps
    peak = np.maximum.accumulate(log_value)
    small = np.flatnonzero(log_value < peak - _DROP)
    if small.size == 0:
        raise NumericalError(
            "the Laplace integrand decays too slowly: the pool's covariance spans more orders of "
            "magnitude than floating point; drop nearly identical samples or bring eps nearer to 1"
        )
    return float(x[small[0]])


def tilted_deviation(pool: Modes, nodes: Nodes) -> FloatArray:
    """sigma_a(s) = sqrt(residual + sum_k W_ak^2 lambda_k(s)), shape (B, Q)."""
    return np.sqrt(pool.residual + pool.numerator**2 @ nodes.tilted.T)


def tilted_gap_row(
    pool: Modes, nodes: Nodes, deviation: FloatArray, *, sample: int, first: int = 0
) -> FloatArray:
    """1 - correlation of d_a and d_b at every node, for a = ``sample`` and b >= ``first``; (B - first, Q).

    From E_s[(d_a - d_b)^2] = sum_k (U_ak - U_bk)^2 lambda_k(s).  At s = 0 the distance is known
    exactly; what the eigenvectors miss of it belongs to eigenvalues of its own size, so it is
    carried along as such.
    """
    square = (pool.pooled[first:] - pool.pooled[sample]) ** 2
    exact = pool.distance[first:, sample, None]
    missed = exact - (square @ pool.variance)[:, None]
    distance = square @ nodes.tilted.T
    distance += missed / (1.0 + exact * (nodes.s / pool.divisor)) ** 2
    distance[exact[:, 0] == 0.0] = 0.0
    own, other = deviation[sample], deviation[first:]
    product = 2.0 * own * other
    excess = distance - (own - other) ** 2
    gap = np.divide(excess, product, out=np.ones_like(excess), where=product > 0.0)
    return np.clip(gap, 0.0, 2.0)


def relative_change(value: FloatArray, other: FloatArray, *, floor: float = 0.0) -> float:
    """max |value - other|/max(|value|, floor) over the entries where that is not zero."""
    scale = np.maximum(np.abs(value), floor)
    known = scale > 0.0
    return float(np.max(np.abs(value - other)[known] / scale[known], initial=0.0))


def quadrature_error(fine: FloatArray, coarse: FloatArray, scale: FloatArray | float) -> float:
    """Relative error of the fine rule: its coarse twin's error to the power 3/2.

    The rules converge geometrically, so halving the spacing squares the error; 3/2 is the safe side.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.abs(fine - coarse) / scale
    worst = float(np.max(ratio[np.isfinite(ratio)], initial=0.0))
    return worst * math.sqrt(worst)
