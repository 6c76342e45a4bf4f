r"""x_k = x_0 + rho (v_1 + ... + v_k), v_j uniform on the unit sphere of n dimensions, x_0 ~ N(0, s^2 I).

The characteristic function is radial, phi_k(t) = exp(-s^2 t^2/2) Lambda(rho t)^k with
Lambda(z) = 0F1(n/2; -z^2/4), and inverse squares are integrals over it:

    E[|x_k|^-2] = 1/(n - 2) int_0^inf t phi_k(t) dt,
    E[(v_j x_k)^2 |x_k|^-4] = (E[|x_k|^-2] + int_0^inf t Lambda''(rho t) phi_{k-1}(t) dt)/2,   j <= k.

The first averages |x|^-2 = int exp(-w |x|^2) dw, whose integrand is phi_k at a Gaussian point.  The
second takes d^2/d rho^2 of E log|x_{k-1} + rho v| = const - int phi_k(t) dt/t, since
d^2 log|x + rho v|/d rho^2 = |x|^-2 - 2 (v x)^2 |x|^-4; steps are exchangeable given x_k.  Derived here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from theory.errors import HypothesisError, out_of_domain

__all__ = [
    "RandomFlight",
    "flight_fits",
    "radial_nodes",
    "random_flight",
    "sphere_series",
]

FloatArray = NDArray[np.float64]

# exp(-x^2/2) is below rounding.
_REACH = 8.8
_MOST_PANELS = 2000
_NODES = 16
# Orders of Bessel functions; nodes of what takes their place, and w/order where it ends.
_BESSEL, _SINES, _NOTHING = 40.0, 64, 40.0


class RandomFlight(NamedTuple):
    """E[|x_k|^-2], and E[(v x_k)^2 |x_k|^-4] of a step v behind it, k = 0 ... steps (0 at k = 0)."""

    inverse: FloatArray
    along: FloatArray


def flight_fits(*, start: float, length: float) -> bool:
    """Whether the start is wide enough against a step for the integrals' panels."""
    return start > 0.0 and _REACH * length / math.sqrt(start) <= _MOST_PANELS


def sphere_series(order: float, w: FloatArray) -> FloatArray:
    """0F1(order; -w) = E cos(2 sqrt(w) u), u a coordinate on the unit sphere of n = 2 order dimensions.

    SciPy's multiplies a Bessel function that underflows by a power that overflows: beyond order 40 by the
    trapezoidal rule in asin u, whose density cos^(n - 2) is all but a Gaussian, to 1e-13 or so.
    """
    if order <= _BESSEL:
        return np.asarray(special.hyp0f1(order, -w))
    n = 2.0 * order
    sines = np.sin(np.linspace(0.0, 9.0 / math.sqrt(n), _SINES))
    weights = np.exp((0.5 * n - 1.0) * np.log1p(-sines * sines))
    weights[0] *= 0.5
    weights /= weights.sum()
    reach = 2.0 * np.sqrt(w)
    total = np.zeros_like(w)
    for sine, weight in zip(sines.tolist(), weights.tolist(), strict=True):
        total += weight * np.cos(sine * reach)
    # exp(-w/order) or so: nothing, where 64 points no longer tell the waves apart.
    return np.where(w < _NOTHING * order, total, 0.0)


def random_flight(steps: int, *, dimensions: int, start: float, length: float) -> RandomFlight:
    """Inverse squares along the flight, to about 1e-12 relative.

    Parameters
    ----------
    steps
        Largest k.
    dimensions
        n >= 3.
    start
        s^2 > 0.
    length
        rho > 0.

    Raises
    ------
    HypothesisError
        n < 3: E[|x|^-2] is infinite.
    SpecificationError
        A start too narrow for the integrals.
    """
    n = dimensions
    if n < 3:
        raise HypothesisError(
            f"a pool of rank {n} has an infinite E[1/R^2]; enlarge the pool to rank 3 or more"
        )
    if not flight_fits(start=start, length=length):
        raise out_of_domain("start", start, "at least 2e-5 length^2", "use a population")
    t, weight = radial_nodes(start, length, steps)
    z = length * t
    factor = sphere_series(0.5 * n, 0.25 * z * z)
    # Lambda'' from Bessel's equation and Lambda'(z) = -z/n 0F1(n/2 + 1; -z^2/4).
    bend = (n - 1.0) / n * sphere_series(0.5 * n + 1.0, 0.25 * z * z) - factor
    measure = weight * t * np.exp(-0.5 * start * t * t)
    inverse, curved = np.empty(steps + 1), np.zeros(steps + 1)
    inverse[0] = 1.0 / (start * (n - 2.0))
    for k in range(1, steps + 1):
        curved[k] = measure @ bend
        measure = measure * factor
        inverse[k] = measure.sum() / (n - 2.0)
    along = 0.5 * (inverse + curved)
    along[0] = 0.0
    return RandomFlight(inverse, along)


def radial_nodes(start: float, length: float, steps: int) -> tuple[FloatArray, FloatArray]:
    """Gauss-Legendre over panels that double from far inside the narrowest phi, up to 1/rho wide."""
    end = _REACH / math.sqrt(start)
    width = min(1.0 / length, end)
    first = 2.0 ** -(10 + math.ceil(0.5 * math.log2(steps + 1.0)))
    doubling = width * 2.0 ** np.arange(math.log2(first), 1.0)
    rest = np.linspace(width, end, max(2, math.ceil((end - width) / width) + 1))
    edges = np.concatenate(([0.0], doubling, rest[1:] if end > width else []))
    x, w = np.polynomial.legendre.leggauss(_NODES)
    half = 0.5 * np.diff(edges)[:, None]
    middle = 0.5 * (edges[1:] + edges[:-1])[:, None]
    return (middle + half * x).ravel(), (half * w).ravel()
