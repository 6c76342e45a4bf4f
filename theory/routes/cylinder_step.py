r"""x' = VN(a x + b h), VN(y) = y/s over n + 1 samples: a walk on a cylinder, a sphere with its axis.

x = rho 1 + sqrt(D) u, u a direction of the n contrasts.  h is Gaussian, of variance t per contrast, so that
s = |a sqrt(D) u + b P h|/sqrt(D) and the angle theta between u and u' depend neither on rho nor on the mean
of h.  With nu = a^2 D/(b^2 t) and J ~ Poisson(nu/2), W = s^2 D/(b^2 t) is chi-square with n + 2J degrees of
freedom and sin^2 theta is Beta((n-1)/2, J + 1/2), independently, so that

    E[1/W] = E_J[1/(n-2+2J)],                        E[1/W^2] = E_J[1/((n-2+2J) (n-4+2J))],
    E[sin^2/W] = (n-1) E_J[1/((n+2J) (n-2+2J))],     E[sin^2/W^2] = (n-1) E_J[1/((n+2J) (n-2+2J) (n-4+2J))].

Derived here; on the sphere alone (``sphere_walk``) the first two of 1/W suffice.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from theory.errors import HypothesisError
from theory.routes.sphere_walk import mean_inverse

__all__ = ["CylinderStep", "cylinder_step"]


class CylinderStep(NamedTuple):
    """E[s^-2], E[s^-4], and E[sin^2 theta s^-2], E[sin^2 theta s^-4] over n - 1.

    Moments that are infinite are inf: the second and the fourth for n < 5.
    """

    inverse: float
    inverse2: float
    turned: float
    turned2: float


def cylinder_step(*, dimensions: int, radius2: float, skip: float, noise: float) -> CylinderStep:
    """Moments of s and theta.

    Parameters
    ----------
    dimensions
        n >= 3.
    radius2
        D.
    skip
        a; 0 where what the skip carries is Gaussian and part of the noise.
    noise
        b^2 t > 0: variance of the branch per contrast.

    Raises
    ------
    HypothesisError
        n < 3: E[1/s^2] is infinite.
    """
    n = dimensions
    if n < 3:
        raise HypothesisError(
            f"a pool of rank {n} has an infinite E[1/R^2]; enlarge the pool to rank 3 or more"
        )
    nu = skip * skip * radius2 / noise
    scale = radius2 / noise
    inverse, turned = mean_inverse(nu, n - 2, 1), mean_inverse(nu, n, 2)
    inverse2 = turned2 = math.inf
    if n > 4:
        inverse2, turned2 = mean_inverse(nu, n - 2, 2), mean_inverse(nu, n, 3)
    return CylinderStep(
        scale * inverse, scale * scale * inverse2, scale * turned, scale * scale * turned2
    )
