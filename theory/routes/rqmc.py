"""E[f(z)] over a Gaussian vector z by scrambled Sobol' points, with an error bar.

Points of a scrambled Sobol' sequence are uniform one by one and even as a set, so the average over
each scramble is unbiased and averages over independent scrambles are independent: their scatter is
the error bar (Owen 1997; theory notes, section 3, "RQMC").  What is averaged is in ``rqmc_blocks``.

Heavy tails.  A denominator R makes integrands grow as |z_pool|^-k near zero, where the mean may
exist while the variance does not.  With ``power`` k the radius of the first ``pool`` coordinates is
drawn from the chi distribution with nu = pool - k degrees of freedom instead of pool, and every point
carries the density ratio

    w = |z_pool|^(pool - nu) / E_nu[|z_pool|^(pool - nu)],

so w f is bounded near zero.  nu >= 1/4 keeps the radius a random variable where pool <= k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from theory.errors import out_of_domain

__all__ = ["Sampling", "Summary", "average", "log_tilt", "summarize"]

FloatArray = NDArray[np.float64]

# 30 bits per coordinate is what scipy's Sobol' engine draws; half a cell keeps ndtri finite.
_BITS = 30
_HALF_CELL = 0.5 ** (_BITS + 1)
# Rows times coordinates handed to an integrand at once: 4 MB per temporary array.
_CHUNK = 1 << 19
_ROUNDING = 4e-15
_LEAST_DOF = 0.25


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """``scrambles`` independent scrambles of 2^``log2_points`` Sobol' points, from ``seed``.

    Raises
    ------
    SpecificationError
        Fewer than 4 scrambles (no error bar worth the name), or more than 2^22 points.
    """

    log2_points: int = 13
    scrambles: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if not 4 <= self.scrambles <= 1024:
            raise out_of_domain(
                "scrambles",
                self.scrambles,
                "an integer in [4, 1024]",
                "use 16: they are the error bar",
            )
        if not 1 <= self.log2_points <= 22:
            raise out_of_domain(
                "log2_points", self.log2_points, "an integer in [1, 22]", "use 13, then more"
            )

    @property
    def inflation(self) -> float:
        """Student's t over Gaussian quantile at three standard errors, both sides.

        An error bar from few scrambles is itself uncertain; stretched by this factor it is exceeded
        threefold as rarely (0.27 %) as a known standard error.
        """
        tail = float(special.ndtr(-3.0))
        return -float(special.stdtrit(self.scrambles - 1, tail)) / 3.0


@dataclass(frozen=True)
class Summary:
    """Values and their standard errors (inflated for few scrambles), elementwise."""

    value: FloatArray
    error: FloatArray

    def relative(self, scale: FloatArray | float | None = None) -> float:
        """Largest error / |scale| (scale: the values themselves), at least a few roundings."""
        size = np.abs(self.value if scale is None else np.broadcast_to(scale, self.value.shape))
        with np.errstate(divide="ignore"):
            ratio = np.where(self.error > 0.0, self.error / np.maximum(size, 5e-324), 0.0)
        return float(np.max(ratio, initial=0.0)) + _ROUNDING


def average(
    integrand: Callable[[FloatArray, FloatArray], FloatArray],
    *,
    dimension: int,
    pool: int,
    power: float,
    sampling: Sampling,
) -> FloatArray:
    """(1/P) sum_i integrand(z_i, r_i) for each scramble.

    Parameters
    ----------
    integrand
        Maps points (P, dimension) and the nominal weight of each, (P,), to an array: the *sum* over
        the points.  Weights average to 1.
    dimension
        Coordinates of z, independent standard normal ones.
    pool
        The first ``pool`` coordinates make the denominator.
    power
        k: w * integrand is bounded where the integrand grows as |z_pool|^-k.

    Returns
    -------
    array of shape (scrambles, ...)
    """
    rows = max(256, _CHUNK // max(dimension, 1))
    means = []
    for points in _scrambles(dimension, sampling):
        total: FloatArray | None = None
        for start in range(0, len(points), rows):
            z, weight = _tilt(points[start : start + rows], pool=pool, power=power)
            part = integrand(z, weight)
            total = part if total is None else total + part
        assert total is not None
        means.append(total / len(points))
    return np.array(means)


def summarize(
    function: Callable[[FloatArray], FloatArray], means: FloatArray, *, sampling: Sampling
) -> Summary:
    """function(mean over scrambles), with the scatter of function(scramble) as its error."""
    each = np.array([function(mean) for mean in means])
    error = sampling.inflation * np.std(each, axis=0, ddof=1) / math.sqrt(len(means))
    return Summary(np.asarray(function(means.mean(axis=0))), np.asarray(error))


def log_tilt(*, pool: int, power: float) -> tuple[float, float]:
    """(nu, log E_nu[r^(pool - nu)]) with r chi-distributed, nu degrees of freedom."""
    dof = max(pool - power, _LEAST_DOF)
    excess = pool - dof
    log_mean = excess / 2.0 * math.log(2.0) + math.lgamma(pool / 2.0) - math.lgamma(dof / 2.0)
    return dof, log_mean


def _scrambles(dimension: int, sampling: Sampling) -> Iterator[FloatArray]:
    """Standard normal points (2^m, dimension), one scramble after the other."""
    from scipy.stats import qmc

    for seed in np.random.SeedSequence(sampling.seed).spawn(sampling.scrambles):
        engine = qmc.Sobol(dimension, scramble=True, bits=_BITS, rng=np.random.default_rng(seed))
        uniform = engine.random_base2(sampling.log2_points)
        uniform += _HALF_CELL
        yield special.ndtri(uniform)


def _tilt(z: FloatArray, *, pool: int, power: float) -> tuple[FloatArray, FloatArray]:
    """Rescale the pool's coordinates to chi_nu radii; return points and density ratios."""
    if power == 0.0 or pool == 0:
        return z, np.ones(len(z))
    dof, log_mean = log_tilt(pool=pool, power=power)
    half_square = 0.5 * np.einsum("pi,pi->p", z[:, :pool], z[:, :pool])
    lower = special.gammainc(pool / 2.0, half_square)
    # Invert from the nearer end: the upper tail of `lower` has no digits left.
    near = lower < 0.5
    upper = special.gammaincc(pool / 2.0, half_square[~near])
    new_half_square = np.empty_like(half_square)
    new_half_square[near] = special.gammaincinv(dof / 2.0, lower[near])
    new_half_square[~near] = special.gammainccinv(dof / 2.0, upper)
    # nu = 1/4 sends radii below 1e-30 once in 1e7; they carry no weight, but R^-4 must not overflow.
    new_half_square = np.maximum(new_half_square, 1e-60)
    tilted = z.copy()
    tilted[:, :pool] *= np.sqrt(new_half_square / half_square)[:, None]
    log_weight = (pool - dof) / 2.0 * np.log(2.0 * new_half_square) - log_mean
    return tilted, np.exp(log_weight)
