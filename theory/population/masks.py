r"""What phi' leaves of squared gradients where phi sees a direction: relu and its kin behind a pool.

phi' of a positively homogeneous phi is m(x) = a + b sgn(x).  Even functions of a uniform direction e of
n dimensions with coordinates of correlation rho have the moments of degree 0 and 2 of Gaussians:

    E[m_j^2] = a^2 + b^2,                  E[sgn e_j sgn e_k] = (2/pi) arcsin rho,
    E|e_j e_k| = E[e_j^2] (2/pi) (sqrt(1 - rho^2) + rho arcsin rho).
"""

from __future__ import annotations

import math

from theory.specs.activations import Activation

__all__ = ["slope_parts", "tangential_trace"]


def slope_parts(activation: Activation) -> tuple[float, float]:
    """(a, b) of phi'(x) = a + b sgn(x), for a positively homogeneous phi."""
    assert activation.ray_slopes is not None
    up, down = activation.ray_slopes
    return 0.5 * activation.scale * (up - down), 0.5 * activation.scale * (up + down)


def tangential_trace(
    activation: Activation, *, same: float, pair: float, size: float, coupled: bool
) -> float:
    """E[tr(P_x M Pi M)]/(n - 1), M = diag phi'(x), P_x = I - 11'/N - x x'/|x|^2, n = N - 1.

    Parameters
    ----------
    activation
        phi, positively homogeneous.
    same, pair
        Entries of Pi: E[g_j^2] and, if ``coupled``, E[g_j g_k] over the pool's N = ``size``.
    size
        N >= 3; x is uniform on the sphere of its n dimensions.
    coupled
        Whether the pool is over samples: gradients of a group's channels are uncorrelated.
    """
    a, b = slope_parts(activation)
    own = same * (a * a + b * b)
    if not coupled:
        return own
    n = size - 1.0
    rho = -1.0 / n
    sine = math.asin(rho)
    signs = sine + math.sqrt(1.0 - rho * rho) + rho * sine
    across = a * a * (1.0 - 1.0 / n) + b * b * 2.0 / math.pi * signs
    return own - n * pair * across / (n - 1.0)
