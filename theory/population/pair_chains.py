r"""Chains of pairs of samples (x_i, x_j) on sorted lattices, and the steps that normalizers add to them.

Where samples are exchangeable, second moments and squared gradients ask of a stream x' = phi(a x + b N(h))
only the law of two samples: chains of two numbers each, kept as rows (x_i, x_j, (x_i - x_j)/2), the last for
the digits of samples that become alike.  Before every block those of a population are ordered, by x_i + x_j
into sqrt(M) stretches and by x_i - x_j within each, and chain k takes point k of a net of M points whose
first two coordinates were ordered likewise (array-RQMC with a batch sort; L'Ecuyer, Lecot & Tuffin 2008).
Nets are shifted at random in every block and population: each chain's draws are exact, and populations, whose
spread is the error, fluctuate far less than those of independent chains.

Steps, h Gaussian with the eigenvalues ``mean`` = q + (B-1)p and ``contrast`` = q - p over samples:

Gaussian        (f_i, f_j) of variance v and cosine 1 - gap.
VN              h/s, s^2 = |P h|^2/D, is T + sqrt(D) u with u uniform on the unit sphere of the n = B - 1
                contrasts and T = r tau sqrt(D), tau = t_n/sqrt(n), r^2 = mean/(B contrast), independent of
                each other; (u_i, u_j) are two coordinates, of correlation -1/n.

Behind VN a gradient delta returns J'delta = (delta - u (u.delta) - u (T/sqrt(D)) 1'delta)/s, and s^2 given T
and u has E[1/s^2] = D (1 + tau^2)/((n - 1) contrast): see ``VarianceSteps.returned``.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = [
    "VarianceSteps",
    "gaussian_steps",
    "normals",
    "ordered",
    "pair_net",
    "placed",
    "relu_of",
    "variance_steps",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]

# t quantiles are tabulated at 2^14 normals up to 9 deviations, linear between: to some 1e-7.
_REACH, _CELLS = 9.0, 16384


@lru_cache(maxsize=16)
def pair_net(chains: int, coordinates: int) -> FloatArray:
    """Coordinates 3, 4, ... of Sobol points whose first two follow ``ordered``; shape (coordinates, M).

    Parameters
    ----------
    chains
        M, a power of two >= 4.
    coordinates
        How many a step takes.
    """
    from scipy.stats import qmc

    points = qmc.Sobol(2 + coordinates, scramble=False).random(chains).T
    found = points[2:, _batch_order(points[:2, None])[0]]
    found.flags.writeable = False
    return np.asarray(found)


def ordered(pairs: FloatArray) -> IntArray:
    """Chains of every population in the order of ``pair_net``'s points; shape (P, M).

    Chain ``order[p, k]`` takes point k, as ``placed`` does: a path keeps its name.

    Parameters
    ----------
    pairs
        Rows, shape (3, P, M).
    """
    return _batch_order(np.stack((pairs[0] + pairs[1], pairs[2])))


def placed(net: FloatArray, order: IntArray, rng: np.random.Generator) -> FloatArray:
    """Points of (0, 1) for every chain: ``net`` shifted and folded (periodic integrands).

    Parameters
    ----------
    net
        Of ``pair_net``, shape (coordinates, M).
    order
        Of ``ordered``.

    Returns
    -------
    Shape (coordinates, P, M).
    """
    shifted = net[:, None, :] + rng.random((len(net), len(order), 1))
    shifted -= np.floor(shifted)
    # A tent; the ends of (0, 1) are cut at 8.2 deviations.
    shifted = np.clip(1.0 - np.abs(2.0 * shifted - 1.0), 2.0**-53, 1.0 - 2.0**-53)
    points = np.empty_like(shifted)
    for p, places in enumerate(order):
        points[:, p, places] = shifted[:, p]
    return points


def normals(points: FloatArray) -> FloatArray:
    """Standard normals at points of (0, 1)."""
    return np.asarray(special.ndtri(points))


def gaussian_steps(points: FloatArray, *, variance: FloatArray, gap: FloatArray) -> FloatArray:
    """Rows of f with E[f^2] = ``variance`` and cosine 1 - ``gap``; shape (3, P, M).

    Parameters
    ----------
    points
        Two per chain.
    variance, gap
        One number per population.
    """
    common, apart = normals(points[:2])
    common *= np.sqrt(0.5 * variance * (2.0 - gap))[:, None]
    apart *= np.sqrt(0.5 * variance * gap)[:, None]
    return np.stack((common + apart, common - apart, apart))


def relu_of(pairs: FloatArray) -> FloatArray:
    """Rows of relu(y) from those of y."""
    ends = np.maximum(pairs[:2], 0.0)
    both = (pairs[:2] > 0.0).all(axis=0)
    half = np.where(both, pairs[2], 0.5 * (ends[0] - ends[1]))
    return np.concatenate((ends, half[None]))


class VarianceSteps(NamedTuple):
    """Steps of VN: tau, shape (P, M), and (u_i, u_j), shape (2, P, M), with r and ``contrast`` of h.

    ``size`` is B, ``radius2`` is D.
    """

    tau: NDArray[Any]
    u: NDArray[Any]
    level: FloatArray
    contrast: FloatArray
    size: int
    radius2: float

    def values(self) -> FloatArray:
        """Rows of N(h) = sqrt(D) (r tau + u); shape (3, P, M)."""
        ends = self.level[:, None] * self.tau + self.u
        half = 0.5 * (self.u[0] - self.u[1])
        return np.asarray(math.sqrt(self.radius2) * np.concatenate((ends, half[None])))

    def rounded(self) -> VarianceSteps:
        """The same in half the memory."""
        tau, u = (np.asarray(values, dtype=np.float32) for values in (self.tau, self.u))
        return self._replace(tau=tau, u=u)

    def returned(self, own: FloatArray, shared: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(E[(J'delta)_i^2], E[(J'delta)_i (J'delta)_j]) over chains, one per population.

        tr(J'Delta J) = (tr Delta - u'Delta u + r^2 tau^2 1'Delta 1)/s^2, 1'J'Delta J 1 = 1'Delta 1/s^2;
        B terms of the diagonal and B (B-1) of pairs, all alike on average.  Finite for B >= 6.

        Parameters
        ----------
        own, shared
            Delta_ii (averaged over i and j: shape (2, P, M), one per sample) and Delta_ij, shape (P, M):
            second moments of delta given the chain's path, T and u included.
        """
        size, n = self.size, self.size - 1
        inverse = (1.0 + self.tau**2) * (self.radius2 / ((n - 1.0) * self.contrast))[:, None]
        lift = (self.level[:, None] * self.tau) ** 2
        whole = 0.5 * (own[0] + own[1]) + n * shared
        kept = 0.5 * (own[0] * (1.0 - self.u[0] ** 2) + own[1] * (1.0 - self.u[1] ** 2))
        kept += lift * whole - n * self.u[0] * self.u[1] * shared
        chains = self.tau.shape[1]
        same = np.einsum("pm,pm->p", inverse, kept) / chains
        total = np.einsum("pm,pm->p", inverse, whole) / chains
        return same, (total - same) / (size - 1.0)


def variance_steps(
    points: FloatArray, *, mean: FloatArray, contrast: FloatArray, size: int, radius2: float
) -> VarianceSteps:
    """Steps of VN of a Gaussian field h over B samples.

    Parameters
    ----------
    points
        Three per chain.
    mean, contrast
        Eigenvalues of h over samples, one per population.
    size
        B >= 3.
    radius2
        D: B, or B - 1 with ``ddof = 1``.
    """
    n = size - 1
    common, apart, between = normals(points)
    tau = _looked_up(common, _student_table(n)) / math.sqrt(n)
    # Coordinates i and j of a unit contrast: (e +- f)/sqrt(2); f first, what two samples differ by.
    f = _looked_up(apart, _coordinate_table(n))
    e = np.sqrt(1.0 - f * f) * _looked_up(between, _coordinate_table(n - 1))
    e *= math.sqrt(0.5 * (1.0 - 2.0 / size))
    f *= math.sqrt(0.5)
    level = np.sqrt(np.maximum(mean, 0.0) / (size * contrast))
    return VarianceSteps(tau, np.stack((e + f, e - f)), level, contrast, size, radius2)


def _batch_order(keys: FloatArray) -> IntArray:
    """By the first key into about sqrt(M) stretches, by the second within each; shape (P, M)."""
    populations, chains = keys.shape[1:]
    stretches = 1 << ((chains.bit_length() - 1) // 2)
    order = np.argsort(keys[0], axis=1)
    inner = np.take_along_axis(keys[1], order, axis=1).reshape(populations, stretches, -1)
    within = np.argsort(inner, axis=2)
    split = order.reshape(populations, stretches, -1)
    return np.asarray(np.take_along_axis(split, within, axis=2).reshape(populations, chains))


def _looked_up(normal: FloatArray, table: FloatArray) -> FloatArray:
    """The variable with the normal's rank."""
    place = (normal + _REACH) * (_CELLS / (2.0 * _REACH))
    cell = place.astype(np.intp)
    low = table[cell]
    return np.asarray(low + (place - cell) * (table[cell + 1] - low))


@lru_cache(maxsize=32)
def _student_table(degrees: int) -> FloatArray:
    """Quantiles of Student's t."""
    z = np.linspace(-_REACH, 0.0, _CELLS // 2 + 1)
    lower = special.stdtrit(degrees, special.ndtr(z))
    lower[-1] = 0.0
    return np.concatenate((lower, -lower[-2::-1]))


@lru_cache(maxsize=32)
def _coordinate_table(dimensions: int) -> FloatArray:
    """Quantiles of a coordinate of a unit vector: t/sqrt(k - 1 + t^2), t with k - 1 degrees of freedom."""
    if dimensions == 1:
        return np.sign(np.linspace(-1.0, 1.0, _CELLS + 1) + 0.5 / _CELLS)
    t = _student_table(dimensions - 1)
    return np.asarray(t / np.sqrt(dimensions - 1.0 + t * t))
