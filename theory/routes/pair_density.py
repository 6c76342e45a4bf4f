r"""(x_i, x_j) -> relu(a x + sqrt(q) f), f a pair of Gaussians: the density of two samples, block by block.

What a branch adds, (f_i, f_j) of variance v and covariance c at q = E[x^2] = 1, is independent given one
common normal z:  f_i = s_1 z_i + s_0 z and f_j = s_1 z_j +- s_0 z with s_0^2 = |c|, s_1^2 = v - |c|.  Masses
M_mn of (x_i, x_j) on nodes, the first of which is x = 0, and functions of the pair then obey

    M' = E_z[T(z) M T(+-z)'],        T_mk(z) = w_m k(x_m; a x_k + s_0 z, s_1),  T_0k the mass below 0,
    C_l(x) = a^2 E_z[T_+(z)' C_{l+1} T_+(+-z)] + what the branch returns,

C = E[g_i g_j | x_i, x_j], and V = E[g_i^2 | x_i] by the same kernels of one sample; T_+ leaves x' = 0 out,
where relu passes no gradient.  Densities behind a step are analytic, so that Gauss's nodes converge fast;
units of sqrt(q_l) keep exponential laws in range.  Derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from theory.errors import HypothesisError

__all__ = ["PairDensityLaw", "pair_density_law"]

FloatArray = NDArray[np.float64]

# Relu of a Gaussian has 8.5 deviations up to here, in units of its root mean square.
_END = 12.5
# Gauss's nodes are pi/2 times as far apart in the middle as on average: there s_1/2.5.
_NODES_PER_DEVIATION, _FEWEST, _MOST = 4.0, 32, 256
# Trapezoids of the common normal, in its narrowest deviations, and how far they reach.
_COMMON, _REACH = 1.2, 8.4


Returned = Callable[[float, float, float, float], tuple[float, float, float]]


class PairDensityLaw(NamedTuple):
    """log q_l/q_0, 1 - E[x_i x_j]/q_l, E[x]/sqrt(q_l), l = 1 ...; log E[g^2] with E[g_L^2] = 1.

    ``log_branch`` is that of h^l.
    """

    log_second_moment: FloatArray
    gap: FloatArray
    mean: FloatArray
    log_gradient: FloatArray | None
    log_branch: FloatArray | None


class _Block(NamedTuple):
    """One block: means of y at the nodes before, nodes behind, their weights and unit; s_0, s_1, the sign.

    ``gap`` and ``mean`` are those of the stream before, ``masses`` those behind.
    """

    centers: FloatArray
    behind: FloatArray
    weights: FloatArray
    unit: float
    common: float
    own: float
    sign: float
    gap: float
    mean: float
    masses: FloatArray

    def kernel(self, shift: float, deviation: float) -> FloatArray:
        """T(z) of a shift and a deviation: rows x' = 0 and nodes, columns nodes before."""
        centers = self.centers + shift
        places = (self.unit * self.behind[1:, None] - centers) / deviation
        found = np.empty((len(self.behind), len(self.centers)))
        np.exp(-0.5 * places * places, out=found[1:])
        found[1:] *= (self.unit / (deviation * math.sqrt(2.0 * math.pi)) * self.weights)[:, None]
        found[0] = special.ndtr(-centers / deviation)
        return found

    def kernels(self) -> list[tuple[float, FloatArray, FloatArray]]:
        """(weight, T(z), T(+-z)) over the common normal, z > 0 and 0: the rest is the transpose."""
        width = 1.0 / math.sqrt(1.0 + 2.0 * (self.common / self.own) ** 2)
        count = math.ceil(_REACH * _COMMON * math.sqrt(2.0) / width)
        z = np.arange(count + 1) * (_REACH / count)
        weights = np.exp(-0.5 * z * z)
        weights[1:] *= 2.0
        weights /= weights.sum()
        found = []
        for weight, level in zip(weights.tolist(), (self.common * z).tolist(), strict=True):
            one = self.kernel(level, self.own)
            found.append((weight, one, self.kernel(-level, self.own)))
        return found

    def pushed(self, masses: FloatArray) -> FloatArray:
        """M'."""
        total = np.zeros((len(self.behind),) * 2)
        for weight, up, down in self.kernels():
            if self.sign < 0.0:
                part = up @ masses @ down.T
                total += 0.5 * weight * (part + part.T)
            else:
                total += 0.5 * weight * (up @ masses @ up.T + down @ masses @ down.T)
        return total

    def pulled(self, values: FloatArray) -> FloatArray:
        """E[values(x'); x' > 0 | x], as a function of both."""
        inner = values[1:, 1:]
        total = np.zeros((len(self.centers),) * 2)
        for weight, up, down in self.kernels():
            up, down = up[1:], down[1:]
            if self.sign < 0.0:
                part = up.T @ inner @ down
                total += 0.5 * weight * (part + part.T)
            else:
                total += 0.5 * weight * (up.T @ inner @ up + down.T @ inner @ down)
        return total


def pair_density_law(
    depth: int,
    *,
    step: Callable[[float, float], tuple[float, float]],
    gap: float,
    mean: float = 0.0,
    skip: float = 1.0,
    returned: Returned | None = None,
    fine: float = 1.0,
) -> PairDensityLaw:
    """Law of pairs and squared gradients from a Gaussian x_0 with E[x^2] = 1.

    Parameters
    ----------
    depth
        Blocks.
    step
        (gap, mean) of a stream with E[x^2] = 1 -> (v, c) of what the branch adds.
    gap, mean
        1 - E[x_i x_j] and E[x] of x_0.
    skip
        a > 0.
    returned
        (gap, mean, E[Delta_ii], E[Delta_ij]) at the sum -> what the branch returns: (same, pair, at h).
    fine
        That many times as many nodes.

    Raises
    ------
    HypothesisError
        Steps too small, or too much alike in both samples, for the nodes.
    """
    masses, nodes, size = np.ones((1, 1)), np.zeros(1), 0.0
    logs, gaps, means = (np.empty(depth) for _ in range(3))
    blocks: list[_Block] = []
    for k in range(depth):
        (variance, covariance), centers = step(gap, mean), skip * nodes
        if k == 0:
            # x_0 is one Gaussian more.
            centers = centers + skip * mean
            variance += skip * skip * (1.0 - mean * mean)
            covariance += skip * skip * (1.0 - gap - mean * mean)
        block, q = _block(centers, masses.sum(axis=1), variance, covariance, fine)
        masses, nodes = block.pushed(masses), block.behind
        masses /= masses.sum()
        blocks.append(block._replace(gap=gap, mean=mean, masses=masses))
        one = masses.sum(axis=1)
        apart = (nodes[:, None] - nodes) ** 2
        size += math.log(q)
        gap, mean = 0.5 * float(np.vdot(masses, apart) / (one @ nodes**2)), float(one @ nodes)
        logs[k], gaps[k], means[k] = size, gap, mean
    law = PairDensityLaw(logs, gaps, means, None, None)
    if returned is None:
        return law
    gradient, branch = _gradients(blocks, skip, returned)
    return law._replace(log_gradient=gradient, log_branch=branch)


def _gradients(blocks: list[_Block], skip: float, returned: Returned) -> tuple[FloatArray, ...]:
    """log E[g^2] at every stream and at every h."""
    gradient, branch = np.empty(len(blocks)), np.empty(len(blocks))
    nodes, unit = len(blocks[-1].behind), 0.0
    own, shared = np.ones(nodes), np.zeros((nodes, nodes))
    for k in reversed(range(len(blocks))):
        block = blocks[k]
        one = block.masses.sum(axis=1)
        gradient[k] = unit + math.log(one @ own)
        # Where relu is 0 it passes nothing.
        passed = float(one[1:] @ own[1:])
        between = float(np.vdot(block.masses[1:, 1:], shared[1:, 1:]))
        same, pair, at_map = returned(block.gap, block.mean, passed, between)
        branch[k] = unit + math.log(at_map)
        deviation = math.hypot(block.common, block.own)
        own = skip * skip * (own[1:] @ block.kernel(0.0, deviation)[1:]) + same
        shared = skip * skip * block.pulled(shared) + pair
        unit += math.log(same)
        own, shared = own / same, shared / same
    return gradient, branch


def _block(
    centers: FloatArray, one: FloatArray, variance: float, covariance: float, fine: float
) -> tuple[_Block, float]:
    """A block without masses, and E[relu(y)^2]."""
    deviation = math.sqrt(variance)
    at = centers / deviation
    normal = np.exp(-0.5 * at * at) / math.sqrt(2.0 * math.pi)
    q = variance * float(one @ ((at * at + 1.0) * special.ndtr(at) + at * normal))
    unit = math.sqrt(q)
    common, own = math.sqrt(abs(covariance)), math.sqrt(max(variance - abs(covariance), 0.0))
    wanted = _NODES_PER_DEVIATION * _END * unit / own if own > 0.0 else math.inf
    if wanted > _MOST:
        raise HypothesisError(
            f"steps of {own / unit:.2g} of the stream's size in one sample alone are too small"
        )
    count = 16 * math.ceil(fine * max(wanted, _FEWEST) / 16.0)
    nodes, weights = _gauss(count)
    behind = np.concatenate(([0.0], _END * nodes))
    sign = math.copysign(1.0, covariance)
    blank = np.empty((0, 0))
    return _Block(centers, behind, _END * weights, unit, common, own, sign, 0.0, 0.0, blank), q


@lru_cache(maxsize=64)
def _gauss(count: int) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights on (0, 1)."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return 0.5 * (nodes + 1.0), 0.5 * weights
