r"""x' = N(a x + b F(x)), N over a finite pool: a walk on a sphere, forwards and backwards.

Pooled and centered, y = P(a x + b F(x)) lives in n dimensions (GN: G - 1, BN: B - 1) and x' = sqrt(D) y/|y|
on a sphere of radius sqrt(D), D = G or B.  F ends in a linear map, so that P F is an isotropic Gaussian of
variance t per dimension; if x is uniform on the sphere so is x', at every depth, although no stream is
Gaussian.  With nu = a^2 D/(b^2 t) and J ~ Poisson(nu/2), |y|^2/(b^2 t) is chi-square with n + 2J degrees of
freedom and cos^2 of the angle between y and x is Beta(J + 1/2, (n-1)/2), independently, so that

    E[1/R^2]   = D/(b^2 t) I_{n-2},                               I_m = E_J[1/(m + 2J)],
    E[tr(P_x P_y)/R^2]/(n - 1) = D/(b^2 t) E_J[(n - 2 + (2J + 1)/(2J + n))/(n - 2 + 2J)]/(n - 1)
                               = D/(b^2 t) (I_{n-2} + I_n)/2,

P_x and P_y projecting onto the tangents at x and y.  J'g = P_y g/R: gradients are tangential, and what is
tangential at x, alpha per dimension, is one number,

    alpha = a^2 E[tr(P_x P_y)/R^2]/(n-1) alpha' + b^2 (tangential part of T),

with T what the branch returns of E[g g'] at the sum.  Derived here from the rotations of the pool's n
dimensions: they leave the joint law of x, y and of all later blocks as it is.
Two samples of GN have one number more, the cosine of x and x'; that is left to populations.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from theory.errors import HypothesisError

__all__ = ["SphereStep", "mean_inverse", "poisson", "sphere_step"]

# Where Laguerre's rule takes over: m beside it must be small.
_LARGE, _NODES = 1e6, 48


class SphereStep(NamedTuple):
    """E[1/R^2] and the factor on tangential squared gradients over the skip."""

    inverse: float
    skip: float


def sphere_step(*, dimensions: int, radius2: float, skip: float, noise: float) -> SphereStep:
    """E[1/R^2] and a^2 E[tr(P_x P_y)/R^2]/(n - 1) of y = a x + noise, R^2 = |y|^2/D.

    Parameters
    ----------
    dimensions
        n >= 3.
    radius2
        D = |x|^2.
    skip
        a.
    noise
        b^2 t: variance of the branch per dimension, > 0.

    Raises
    ------
    HypothesisError
        n < 3: E[1/R^2] is infinite.
    """
    n = dimensions
    if n < 3:
        raise HypothesisError(
            f"a pool of rank {n} has an infinite E[1/R^2]; enlarge the pool to rank 3 or more"
        )
    noncentrality = skip * skip * radius2 / noise
    inverse, beyond = (mean_inverse(noncentrality, m, 1) for m in (n - 2, n))
    scale = radius2 / noise
    return SphereStep(scale * inverse, skip * skip * scale * 0.5 * (inverse + beyond))


def mean_inverse(nu: float, m: int, factors: int) -> float:
    r"""E_J[1/((m+2J) (m-2+2J) ...)], so many factors, J ~ Poisson(nu/2).

    1/((m+2J) (m-2+2J) ...) = int_0^1 t^(m-2k-1+2J) ((1-t^2)/2)^k/k! dt with k + 1 factors: at large nu
    an integral over w = (1-t^2) nu/2.
    """
    k = factors - 1
    if nu < _LARGE:
        j, weight = poisson(0.5 * nu) if nu > 0.0 else (np.zeros(1), np.ones(1))
        product = np.ones_like(j)
        for down in range(factors):
            product *= m - 2 * down + 2.0 * j
        return float(weight @ (1.0 / product))
    w, weight = _laguerre()
    # Beyond nu/2 the weight is nothing.
    rest = np.maximum(1.0 - 2.0 * w / nu, 0.0)
    bent = rest ** (0.5 * m - k - 1.0) * (w / nu) ** k / math.factorial(k)
    return float(weight @ bent) / nu


@lru_cache(maxsize=1)
def _laguerre() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.laguerre.laggauss(_NODES)


def poisson(mean: float) -> tuple[np.ndarray, np.ndarray]:
    """(j, P(J = j)) up to tails of 1e-18, from P(j)/P(j - 1) = mean/j: no cancellation."""
    reach = 9.0 * np.sqrt(mean + 20.0)
    j = np.arange(max(0.0, np.floor(mean - reach)), np.ceil(mean + reach) + 1.0)
    logs = np.concatenate(([0.0], np.cumsum(np.log(mean / j[1:]))))
    weight = np.exp(logs - logs.max())
    return j, weight / weight.sum()
