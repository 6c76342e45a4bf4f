r"""Two samples of a post-norm stream with GN: the cosine of x and x' on their sphere, as a chain of draws.

Rotations of the pool's n dimensions leave everything but r = cos(x, x') out of sight (``sphere_walk``).
With x = sqrt(D) e_1, x' = sqrt(D) (r e_1 + sqrt(1 - r^2) e_2) and noise of correlation rho,

    y = a x + s u,   y' = a x' + s (rho u + sqrt(1 - rho^2) v),   r' = cos(y, y'),

takes five normals and two chi-squares (Bartlett: what u and v have beyond e_1 and e_2 spans two more
directions).  rho is a mean over the chains of one population, which are independent otherwise, so the
error is that of populations.  1 - r is what is carried, with its digits.

Chains have one number each: sorted by it, chain i takes point i of a lattice whose first coordinate is
i/M (array-RQMC; L'Ecuyer, Lecot & Tuffin 2008), shifted at random in every block and population.  Each
chain's draws stay exact, and the law of all chains fluctuates far less than that of independent ones.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = ["NORMALS", "lattice", "lattice_normals", "pair_step", "relu_gap"]

FloatArray = NDArray[np.float64]

NORMALS = 7
# Cools, Kuo & Nuyens 2006, a lattice sequence in base 2 of order 2: its first coordinates.
_GENERATOR = (1, 182667, 469891, 498753, 110745, 446247, 250185, 118627)
# Chi quantiles are tabulated at 2^12 normals up to 9 deviations, linear between: to some 1e-6.
_REACH, _CELLS = 9.0, 4096


def lattice(chains: int) -> FloatArray:
    """Coordinates 2, 3, ... of the points whose first is i/M, M = ``chains``; shape (7, M)."""
    generator = np.array(_GENERATOR[1:])[:, None]
    return np.asarray(generator * np.arange(chains) % chains / chains)


def lattice_normals(points: FloatArray, populations: int, rng: np.random.Generator) -> FloatArray:
    """Normals at ``points``, shifted and folded (periodic integrands); shape (7, populations, M)."""
    shifted = points[:, None, :] + rng.random((len(points), populations, 1))
    shifted -= np.floor(shifted)
    # A tent; the ends of (0, 1) are cut at 8.2 deviations.
    shifted = 1.0 - np.abs(2.0 * shifted - 1.0)
    return np.asarray(special.ndtri(np.clip(shifted, 2.0**-53, 1.0 - 2.0**-53)))


def pair_step(
    far: FloatArray,
    *,
    dimensions: int,
    skip: float,
    noise: float,
    noise_gap: FloatArray,
    normals: FloatArray,
) -> FloatArray:
    """1 - r' of every chain.

    Parameters
    ----------
    far
        1 - r, shape (populations, chains).
    dimensions
        n >= 2.
    skip
        a sqrt(D): length of what the skip carries.
    noise
        s: deviation of the branch per dimension, > 0.
    noise_gap
        1 - rho per population.
    normals
        Seven standard normals per chain, shape (7, populations, chains).
    """
    n = dimensions
    gap = noise_gap[:, None]
    between = np.sqrt(gap * (2.0 - gap))
    u1, u2, v1, v2, beyond, along, rest = normals
    # Distances y - y' and sums y + y' of four coordinates, differences without cancellation.
    first = 2.0 * skip - skip * far
    second = skip * np.sqrt(far * (2.0 - far))
    difference = [skip * far + noise * (gap * u1 - between * v1)]
    total = [first + noise * ((2.0 - gap) * u1 + between * v1)]
    difference.append(noise * (gap * u2 - between * v2) - second)
    total.append(noise * ((2.0 - gap) * u2 + between * v2) + second)
    if n > 2:
        length = _chi(beyond, n - 2)
        difference.append(noise * (gap * length - between * along))
        total.append(noise * ((2.0 - gap) * length + between * along))
    if n > 3:
        across = noise * between * _chi(rest, n - 3)
        difference.append(-across)
        total.append(across)
    apart = sum(d * d for d in difference)
    mixed = sum(d * t for d, t in zip(difference, total, strict=True))
    size = sum(t * t for t in total)
    # |y|^2, |y'|^2 = (|y + y'|^2 + |y - y'|^2)/4 +- (y + y')(y - y')/2.
    middle = 0.25 * (size + apart)
    product = np.sqrt(np.maximum((middle - 0.5 * mixed) * (middle + 0.5 * mixed), 0.0))
    along_both = mixed * mixed / (2.0 * (middle + product))
    # 1 - cos = (|y - y'|^2 - (|y| - |y'|)^2)/(2 |y||y'|), |y|^2 - |y'|^2 = mixed.
    return np.asarray(np.clip((apart - along_both) / (2.0 * product), 0.0, 2.0))


def relu_gap(far: FloatArray) -> FloatArray:
    """1 - kappa_1(1 - far): the gap of relu(x) and relu(x') at cosine 1 - far."""
    theta = 2.0 * np.arcsin(np.sqrt(0.5 * far))
    # kappa_1(cos t) = cos t + (sin t - t cos t)/pi.
    direct = np.sin(theta) - theta * np.cos(theta)
    series = theta**3 * (1.0 / 3.0 - theta**2 / 30.0 + theta**4 / 840.0)
    return np.asarray(far - np.where(theta < 0.03, series, direct) / np.pi)


def _chi(normal: FloatArray, degrees: int) -> FloatArray:
    """The chi variable with the normal's rank."""
    place = (normal + _REACH) * (_CELLS / (2.0 * _REACH))
    cell = place.astype(np.intp)
    table = _chi_table(degrees)
    low = table[cell]
    return np.asarray(low + (place - cell) * (table[cell + 1] - low))


@lru_cache(maxsize=32)
def _chi_table(degrees: int) -> FloatArray:
    z = np.linspace(-_REACH, _REACH, _CELLS + 1)
    lower = special.gammaincinv(0.5 * degrees, special.ndtr(z))
    upper = special.gammainccinv(0.5 * degrees, special.ndtr(-z))
    return np.asarray(np.sqrt(2.0 * np.where(z < 0.0, lower, upper)))
