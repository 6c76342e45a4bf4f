r"""Fourth inverse powers along a random flight: E[|x_k|^-4] and E[(v_j x_k)^2 |x_k|^-6], j <= k.

As the squares of ``random_flight``, from its characteristic function phi_k and Lambda of one step:

    E[|x_k|^-4] = 1/(2 (n - 2) (n - 4)) int_0^inf t^3 phi_k(t) dt,
    E[(v_j x_k)^2 |x_k|^-6] = (2 E[|x_k|^-4] + 1/(n - 2) int_0^inf t^3 Lambda''(rho t) phi_{k-1}(t) dt)/8,

the second by d^2 |x + rho v|^-2/d rho^2 = 8 (v x)^2 |x|^-6 - 2 |x|^-4.  Derived here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.routes.random_flight import radial_nodes, sphere_series

__all__ = ["FourthPowers", "fourth_powers"]

FloatArray = NDArray[np.float64]


class FourthPowers(NamedTuple):
    """The two expectations for k = 0 ... steps (the second 0 at k = 0); inf where n < 5."""

    inverse: FloatArray
    along: FloatArray


def fourth_powers(steps: int, *, dimensions: int, start: float, length: float) -> FourthPowers:
    """Along the flight, to about 1e-12 relative.

    Parameters
    ----------
    steps, dimensions, start, length
        As for ``random_flight``, which checks them.
    """
    n = dimensions
    if n < 5:
        return FourthPowers(*np.full((2, steps + 1), math.inf))
    t, weight = radial_nodes(start, length, steps)
    w = 0.25 * (length * t) ** 2
    factor = sphere_series(0.5 * n, w)
    bend = (n - 1.0) / n * sphere_series(0.5 * n + 1.0, w) - factor
    measure = weight * t**3 * np.exp(-0.5 * start * t * t)
    whole, curved = np.empty(steps + 1), np.zeros(steps + 1)
    whole[0] = 2.0 / (start * start)
    for k in range(1, steps + 1):
        curved[k] = measure @ bend
        measure = measure * factor
        whole[k] = measure.sum()
    inverse = whole / (2.0 * (n - 2.0) * (n - 4.0))
    along = 0.25 * inverse + curved / (8.0 * (n - 2.0))
    along[0] = 0.0
    return FourthPowers(inverse, along)
