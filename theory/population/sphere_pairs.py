r"""Two samples of a post-norm stream with GN: the cosine of x and x' on their sphere, as a chain of draws.

Rotations of the pool's n dimensions leave everything but r = cos(x, x') out of sight (``sphere_walk``).
With x = sqrt(D) e_1, x' = sqrt(D) (r e_1 + sqrt(1 - r^2) e_2) and noise of correlation rho,

    y = a x + s u,   y' = a x' + s (rho u + sqrt(1 - rho^2) v),   r' = cos(y, y'),

takes five normals and two chi-squares (Bartlett: what u and v have beyond e_1 and e_2 spans two more
directions).  rho is a mean over the chains of one population, which are independent otherwise, so the
error is that of populations.  1 - r is what is carried, with its digits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["pair_step", "relu_gap"]

FloatArray = NDArray[np.float64]


def pair_step(
    far: FloatArray,
    *,
    dimensions: int,
    skip: float,
    noise: float,
    noise_gap: FloatArray,
    rng: np.random.Generator,
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
    rng
        Source of the draws.
    """
    shape, n = far.shape, dimensions
    gap = noise_gap[:, None]
    between = np.sqrt(gap * (2.0 - gap))
    u1, u2, v1, v2 = rng.standard_normal((4, *shape))
    # Distances y - y' and sums y + y' of four coordinates, differences without cancellation.
    first = 2.0 * skip - skip * far
    second = skip * np.sqrt(far * (2.0 - far))
    difference = [skip * far + noise * (gap * u1 - between * v1)]
    total = [first + noise * ((2.0 - gap) * u1 + between * v1)]
    difference.append(noise * (gap * u2 - between * v2) - second)
    total.append(noise * ((2.0 - gap) * u2 + between * v2) + second)
    if n > 2:
        length = np.sqrt(rng.chisquare(n - 2, shape))
        along = rng.standard_normal(shape)
        difference.append(noise * (gap * length - between * along))
        total.append(noise * ((2.0 - gap) * length + between * along))
    if n > 3:
        across = noise * between * np.sqrt(rng.chisquare(n - 3, shape))
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
