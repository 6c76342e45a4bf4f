r"""Signs of two coordinates of a random flight: E[f sgn x_1 sgn x_2] for f = 1, v_1 v_2 and x_1 x_2.

x_k = x_0 + rho (v_1 + ... + v_k), v_j uniform on the unit sphere of the n = N - 1 dimensions orthogonal
to 1 in N, x_0 Gaussian and exchangeable with covariance q, p.  With P = I - 11'/N,

    phi_k(t) = exp(-(q |t|^2 + 2 p t_1 t_2)/2) Lambda(rho |P t|)^k,      Lambda(z) = 0F1(n/2; -z^2/4),
    E[v_1 v_2 e^{i t x_k}] = -rho^{-2} d_1 d_2 Lambda(rho |P t|) phi_{k-1}(t),
    E[x_1 x_2 e^{i t x_k}] = -d_1 d_2 phi_k(t),

and sgn x = (1/pi) int sin(t x) dt/t, so that with t = r (cos u, +-sin u) and s = sin 2u

    E[f sgn x_1 sgn x_2] = (8/pi^2) int_0^{pi/4} du/s int_0^inf dr/r (E[f e^{itx}]_- - E[f e^{itx}]_+):

no singularity is left.  Any v_j, j <= k, is as good as any other: steps are exchangeable given x_k.
Derived here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.errors import out_of_domain
from theory.routes.random_flight import flight_fits, radial_nodes, sphere_series

__all__ = ["FlightSigns", "flight_signs"]

FloatArray = NDArray[np.float64]

_ANGLES = 24


class FlightSigns(NamedTuple):
    """E[sgn x_1 sgn x_2], E[v_1 v_2 sgn x_1 sgn x_2] (0 at k = 0) and E|x_1 x_2|, k = 0 ... steps."""

    signs: FloatArray
    steps: FloatArray
    products: FloatArray


def flight_signs(
    steps: int, *, size: int, second_moment: float, product: float, length: float
) -> FlightSigns:
    """The three along the flight, to about 1e-12.

    Parameters
    ----------
    steps
        Largest k.
    size
        N >= 3.
    second_moment, product
        q > |p| of x_0.
    length
        rho > 0.

    Raises
    ------
    SpecificationError
        A start without width, or too narrow against a step for the integrals.
    """
    n, q, p = size - 1, second_moment, product
    if not flight_fits(start=q - abs(p), length=length):
        raise out_of_domain("product", p, "well below second_moment", "use a population")
    r, weight = radial_nodes(q - abs(p), length, steps)
    u, part = np.polynomial.legendre.leggauss(_ANGLES)
    u, part = 0.125 * math.pi * (u[:, None] + 1.0), 0.125 * math.pi * part[:, None]
    # Axes: sign of t_2, angle, radius; the weight takes E_- - E_+.
    side = np.array([-1.0, 1.0])[:, None, None]
    s = side * np.sin(2.0 * u)
    first, second = r * np.cos(u), side * r * np.sin(u)
    measure = -(8.0 / math.pi**2) / s * part * (weight / r)
    # P t, and Lambda with its derivatives.
    one, two = (t - (first + second) / size for t in (first, second))
    z2 = (length * r) ** 2 * (1.0 - (1.0 + s) / size)
    factor, once, twice = (sphere_series(0.5 * n + j, 0.25 * z2) for j in range(3))
    curved = once / (n * size) + length**2 * one * two * twice / (n * (n + 2.0))
    down_one, down_two = (-(length**2) / n * once * t for t in (one, two))
    # The Gaussian's.
    slope_one, slope_two = -(q * first + p * second), -(q * second + p * first)
    base = measure * np.exp(-0.5 * r * r * (q + p * s))
    bent = slope_one * slope_two - p
    mixed = slope_one * down_two + slope_two * down_one + length**2 * curved
    square = down_one * down_two
    both, moved, sizes = np.empty(steps + 1), np.zeros(steps + 1), np.empty(steps + 1)
    # base Lambda^k and the two before.
    now, before, earlier = base, np.zeros_like(base), np.zeros_like(base)
    for k in range(steps + 1):
        both[k] = now.sum()
        moved[k] = -np.vdot(before, curved)
        sizes[k] = -np.vdot(now, bent) - k * (
            np.vdot(before, mixed) + (k - 1.0) * np.vdot(earlier, square)
        )
        now, before, earlier = now * factor, now, before
    return FlightSigns(both, moved, sizes)
