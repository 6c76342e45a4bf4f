r"""What a kink at 0 makes of two samples on a cylinder, x = rho 1 + sqrt(D) u, as sums of Gaussians in rho.

For phi(x) = alpha x + beta |x| products of two samples differ from those of a line where signs differ. With
< f > = 4 E[f; x_i > 0 > x_j] over u, uniform on the sphere of the n contrasts of B = n + 1 samples,

    E|x_i x_j| = E[x_i x_j] + < -x_i x_j >,     E[sgn_i sgn_j] = 1 - <1>,
    E[u_i u_j sgn_i sgn_j] = -1/(B n) - < u_i u_j >,

even functions of rho that end where |rho| = sqrt(D n/B).  u_i, u_j = sqrt(1/2 - 1/B) y +- z/sqrt(2), y and
z two coordinates of a point of the sphere: an incomplete Beta over z, a quadrature over y.  Sums of
exp(-rho^2/(2 tau)) stay such sums when rho goes through a block (``scale_mixtures``).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from theory.population.scale_mixtures import SPACING

__all__ = ["Crossings", "crossing_moments", "crossings"]

FloatArray = NDArray[np.float64]

_NODES, _POINTS = 96, 300
# Deviations of rho at which means are fitted, over that of the narrowest Gaussian and over the end.
_NARROW, _WIDE = 0.15, 100.0
# The widest Gaussian's deviations that the fit sees.
_FAR = 8.0
# Deviations of y that are kept.
_REACH = 9.5
# Weight of a mean in the fit, that of a value being 1.
_MEANS = 1e3
# Errors between the scales of means that were looked at.
_BETWEEN = 1e-8
# Directions of the fit that rounding would fill.
_RIDGE = 1e-10


class Crossings(NamedTuple):
    """Coefficients of exp(-rho^2/(2 tau)), tau = exp(SPACING (first + 0, 1, ...)).

    ``product`` is of < -x_i x_j >, ``sign`` of <1>, ``along`` of <1/B + u_i u_j>; ``errors`` are the
    relative errors of their means over rho of ``variances``.
    """

    first: int
    product: FloatArray
    sign: FloatArray
    along: FloatArray
    variances: FloatArray
    errors: FloatArray

    @property
    def tau(self) -> FloatArray:
        """Variances of the Gaussians."""
        return np.asarray(np.exp(SPACING * (self.first + np.arange(float(len(self.sign))))))

    def error(self, variances: FloatArray, weight: FloatArray) -> float:
        """Relative error of a mean over rho of these variances, ``weight`` that of each in the mean."""
        found = np.interp(np.log(variances), np.log(self.variances), self.errors)
        return float(weight @ found / weight.sum())


@lru_cache(maxsize=32)
def crossings(dimensions: int, radius2: float) -> Crossings:
    """Fits for n >= 3 and D = ``radius2``."""
    n = dimensions
    end = math.sqrt(radius2 * n / (n + 1.0))
    first = math.floor(math.log(end * end / (8.0 * n)) / SPACING)
    last = math.ceil(math.log(6.0 * end * end / math.sqrt(n)) / SPACING)
    tau = np.exp(SPACING * np.arange(first, last + 1.0))
    # Graded towards the end, where powers of n/2 stop.
    node, weight = np.polynomial.legendre.leggauss(_POINTS)
    short = 0.5 * (1.0 - node)
    inside = end * (1.0 - short * short)
    beyond = np.linspace(end, max(_FAR * math.sqrt(tau[-1]), 2.0 * end), _POINTS)
    values = crossing_moments(inside, dimensions=n, radius2=radius2)
    # Means over N(0, V), relative to that of signs, beside values: they are what will be asked.
    scales = np.geomspace(_NARROW * math.sqrt(tau[0]), _WIDE * end, 80)
    density = np.exp(-0.5 * (inside / scales[:, None]) ** 2) / scales[:, None]
    means = values @ (end * short * weight * density * math.sqrt(2.0 / math.pi)).T
    asked = np.hstack((values, np.zeros((3, _POINTS)), _MEANS * means / means[1]))
    over = np.sqrt(tau / (tau + scales[:, None] ** 2))
    rho = np.concatenate((inside, beyond))
    basis = np.vstack((np.exp(-0.5 * rho[:, None] ** 2 / tau), _MEANS * over / means[1][:, None]))
    left, size, right = np.linalg.svd(basis, full_matrices=False)
    kept = size > _RIDGE * size[0]
    fits = (asked @ left[:, kept] / size[kept]) @ right[kept]
    worst = np.abs(fits @ over.T / means - 1.0).max(axis=0)
    # Between two scales three times the larger of theirs, and a little.
    worst = np.maximum(worst, np.maximum(np.append(worst[1:], 0.0), np.append(0.0, worst[:-1])))
    product, sign, along = fits
    return Crossings(first, product, sign, along, scales * scales, 3.0 * worst + _BETWEEN)


def crossing_moments(rho: FloatArray, *, dimensions: int, radius2: float) -> FloatArray:
    """(< -x_i x_j >, <1>, <1/B + u_i u_j>) at |rho| < sqrt(D n/B); shape (3, len(rho))."""
    n, size = dimensions, dimensions + 1.0
    a, c = math.sqrt(0.5 - 1.0 / size), math.sqrt(0.5)
    shift = (rho / math.sqrt(radius2))[:, None]
    # x_i > 0 > x_j where z > |shift + a y|/c, for y between the roots; a kink where that is 0.
    square = a * a + c * c
    root = np.sqrt(np.maximum(c * c * (square - shift * shift), 0.0))
    reach = min(1.0, _REACH / math.sqrt(n))
    low, high = (
        np.clip((-shift * a + sign * root) / square, -reach, reach) for sign in (-1.0, 1.0)
    )
    kink = np.clip(-shift / a, low, high)
    node, weight = np.polynomial.legendre.leggauss(_NODES)
    half = 0.5 * (node + 1.0)
    # Graded towards both ends, where powers of n/2 start.
    place = half**3 * (10.0 - 15.0 * half + 6.0 * half * half)
    weight = 15.0 * half**2 * (1.0 - half) ** 2 * weight
    found = np.zeros((3, len(rho)))
    for start, stop in ((low, kink), (kink, high)):
        y = start + (stop - start) * place
        rest = np.maximum(1.0 - y * y, 1e-300)
        least = np.minimum((shift + a * y) ** 2 / (c * c * rest), 1.0)
        # z^2/(1 - y^2) ~ Beta(1/2, (n-2)/2).
        chance = 0.5 * special.betaincc(0.5, 0.5 * (n - 2.0), least)
        square_z = 0.5 * rest * special.betaincc(1.5, 0.5 * (n - 2.0), least) / (n - 1.0)
        logs = 0.5 * (n - 3.0) * np.log(rest) - special.betaln(0.5, 0.5 * (n - 1.0))
        density = 4.0 * (stop - start) * weight * np.exp(logs)
        level = radius2 * (shift + a * y) ** 2
        found[0] += (density * (radius2 * c * c * square_z - level * chance)).sum(axis=1)
        found[1] += (density * chance).sum(axis=1)
        along = (1.0 / size + a * a * y * y) * chance - c * c * square_z
        found[2] += (density * along).sum(axis=1)
    return found
