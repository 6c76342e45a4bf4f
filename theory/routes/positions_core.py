r"""What sample-wise pools over exchangeable positions need: pools, nodes, tilted pairs.

A pool of G channels has N = GS - ddof and tilts D = a I + b I, a = 2s/N, b = 2t/N.  With
delta_k = D_k (2 lambda_k - D_k) and u = a + b, mode k of the spectrum (positions_spectrum) has (theory
notes, section 3, "Laplace route")

    L_k = lambda_k/(1 + lambda_k u)                                   at equal samples,
    Delta_k = (1 + lambda_k u)(1 + e_k),   e_k = delta_k ab/(1 + lambda_k u),
    A_k - L_k = delta_k b (1 + lambda_k b)/(Delta_k (1 + lambda_k u)),    B_k likewise with a,
    C_k = mu_k/Delta_k,   L_k - C_k = (D_k + lambda_k e_k)/Delta_k >= 0.

A coordinate of the numerator has variance [(S-1) A_p + A_m]/S; A_m stands for
omega A_m + omega_0 lambda_m, omega the share of the position mean that the pool tilts, omega_0 the share
that it does not see (raw numerator over a variance).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.errors import HypothesisError, NumericalError
from theory.routes.positions_spectrum import PositionSpectrum
from theory.specs.normalizers import Normalizer

__all__ = [
    "EqualTilt",
    "Mode",
    "PairNodes",
    "PositionPool",
    "RayNodes",
    "equal_tilt",
    "position_pool",
    "tilted_mode",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.intp]
Slopes = tuple[float, float]

# a = scale exp(x - e^{-x}); trapezoidal error e^{-2 pi 1.07/h} = 3e-18, 2e-9 on every other node, which
# is where the error estimate comes from (laplace_core has the reasons).
_SPACING = 1.0 / 6.0
_LEFT = -4.5
# Terms below e^{-_DROP} of the largest one are left out.
_DROP = 44.0
_LAST = 500.0


class PositionPool(NamedTuple):
    """The normalizer and phi as the integrals see them, in units where q = 1.

    ``contrast_rank`` G(S-1) and ``mean_rank`` are the multiplicities of the two modes in the pool,
    ``tilted`` and ``untilted`` the shares omega and omega_0 of the position mean in the numerator,
    ``cutoff`` N eps/(2q); ``unit`` is q.
    """

    contrast_rank: float
    mean_rank: float
    tilted: float
    untilted: float
    divisor: float
    cutoff: float
    slopes: Slopes
    unit: float

    @property
    def square(self) -> float:
        """V_phi(1) = (a^2 + b^2)/2."""
        a, b = self.slopes
        return 0.5 * (a * a + b * b)

    @property
    def curvature(self) -> float:
        """(a + b)^2/(a^2 + b^2): 1 - V(c)/V(1) = gap - curvature lens(gap)."""
        a, b = self.slopes
        return (a + b) ** 2 / (a * a + b * b) if a or b else 0.0

    def rank(self, spectrum: PositionSpectrum) -> float:
        """Rank of the pooled quadratic form."""
        contrast = self.contrast_rank if spectrum.contrast > 0.0 else 0.0
        return contrast + (self.mean_rank if spectrum.mean > 0.0 else 0.0)


def position_pool(
    spectrum: PositionSpectrum, *, norm: Normalizer, slopes: Slopes
) -> tuple[PositionPool, PositionSpectrum]:
    """(pool, spectrum/q) for a sample-wise normalizer over positions and G channels.

    Raises
    ------
    HypothesisError
        Another kind of normalizer, a single activation centered on itself, or a pool variance of zero
        at eps = 0.
    NumericalError
        The second moment is zero or not finite.
    """
    size = norm.pool.channels * spectrum.positions
    if (
        norm.couples_samples
        or norm.denominator not in ("std", "rms")
        or norm.gate is not None
        or not (norm.pool.positions or spectrum.positions == 1)
        or size == math.inf
    ):
        raise HypothesisError(
            f"{norm.name} does not divide each sample by a standard deviation over positions and "
            "finitely many channels; use another route"
        )
    q = spectrum.second_moment
    if not 0.0 < q < math.inf:
        raise NumericalError(f"second_moment = {q}; rescale the inputs")
    rms = norm.denominator == "rms"
    if size == 1 and (norm.centered or not rms):
        raise HypothesisError(
            f"positions = 1: {norm.name} over one position of one channel has no variance; "
            "use two positions or a group of channels"
        )
    g = float(norm.pool.channels)
    contrasts = 1.0 - 1.0 / g
    whole = not norm.centered
    pool = PositionPool(
        contrast_rank=g * (spectrum.positions - 1),
        mean_rank=g if rms else g - 1.0,
        tilted=1.0 if whole and rms else contrasts,
        untilted=1.0 / g if whole and not rms else 0.0,
        divisor=float(size - norm.ddof),
        cutoff=0.5 * (size - norm.ddof) * norm.eps / q,
        slopes=slopes,
        unit=q,
    )
    spectrum = spectrum.scaled(1.0 / q).tidied()
    rank = pool.rank(spectrum)
    if rank == 0.0 and norm.eps == 0.0:
        raise HypothesisError(
            "gap_w: all positions are identical, so the variance of the pool is zero and eps = 0; "
            "use distinct positions, a group of channels or eps > 0"
        )
    if not spectrum.contrast and not spectrum.mean * (pool.tilted + pool.untilted):
        raise HypothesisError(
            f"gap_w: all positions are identical and {norm.name} subtracts their mean, which leaves "
            "nothing; use distinct positions or a group of channels"
        )
    if pool.untilted * spectrum.mean and rank <= 2.0 and norm.eps == 0.0:
        raise HypothesisError(
            f"{norm.name} divides the uncentered activations by the deviation of a pool of rank "
            f"{rank:g}: the second moment is infinite at eps = 0; use eps > 0 or a larger pool"
        )
    return pool, spectrum


class RayNodes(NamedTuple):
    """Nodes u of int du; ``weight`` includes e^{-cutoff u} prod_k (1 + lambda_k u)^{-n_k/2}."""

    u: FloatArray
    weight: FloatArray

    @classmethod
    def of(cls, pool: PositionPool, spectrum: PositionSpectrum, *, backward: bool) -> RayNodes:
        """Nodes for moments, or (``backward``) for E||J||^2, which brings a factor u."""
        cap = math.inf if backward else 0.0
        u, weight = _ray(pool, spectrum, log_caps=(cap, cap))
        return cls(u, weight * np.exp(-_log_damping(pool, spectrum, u)))

    def sums(self, terms: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(fine, coarse, absolute) sums of weight * terms over the last axis."""
        value = self.weight * terms
        return value.sum(axis=-1), 2.0 * value[..., ::2].sum(axis=-1), np.abs(value).sum(axis=-1)


class PairNodes(NamedTuple):
    """Nodes of (1/pi) iint da db (ab)^{-1/2}, a <= b: the integrands are symmetric.

    ``weight`` includes what ``RayNodes.weight`` does, at u = a + b.
    """

    a: FloatArray
    b: FloatArray
    weight: FloatArray
    even: IntArray

    @classmethod
    def of(cls, pool: PositionPool, spectrum: PositionSpectrum) -> PairNodes:
        """Nodes that resolve differences from equal samples, and derivatives."""
        caps = (
            _log_ratio(spectrum.contrast, spectrum.contrast_distance),
            _log_ratio(spectrum.mean, spectrum.mean_distance),
        )
        node, weight = _ray(pool, spectrum, log_caps=caps)
        weight = weight / np.sqrt(node)
        first, second, doubled, even = _triangle(node.size)
        a, b = node[first], node[second]
        pair = doubled * weight[first] * weight[second]
        return cls(a, b, pair * np.exp(-_log_damping(pool, spectrum, a + b)), even)

    def sums(self, terms: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(fine, coarse, absolute) sums of weight * terms over the last axis."""
        value = self.weight * terms
        coarse = 4.0 * value[..., self.even].sum(axis=-1)
        return value.sum(axis=-1), coarse, np.abs(value).sum(axis=-1)


@lru_cache(maxsize=64)
def _triangle(size: int) -> tuple[IntArray, IntArray, FloatArray, IntArray]:
    """Pairs i <= j, their multiplicity over pi, and which of them every other node keeps."""
    first, second = np.triu_indices(size)
    doubled = np.where(first == second, 1.0, 2.0) / math.pi
    even = np.flatnonzero((first % 2 == 0) & (second % 2 == 0))
    return first, second, doubled, even


def _log_damping(pool: PositionPool, spectrum: PositionSpectrum, u: FloatArray) -> FloatArray:
    """Cutoff u + sum_k (n_k/2) log(1 + lambda_k u)."""
    contrast = (0.5 * pool.contrast_rank) * np.log1p(spectrum.contrast * u)
    return pool.cutoff * u + contrast + (0.5 * pool.mean_rank) * np.log1p(spectrum.mean * u)


def _log_ratio(size: float, distance: float) -> float:
    """log(2 lambda/D), 0 for a mode that does not tell the samples apart."""
    return math.log(2.0 * size / distance) if size > 0.0 and distance > 0.0 else 0.0


def _ray(
    pool: PositionPool, spectrum: PositionSpectrum, *, log_caps: tuple[float, float]
) -> tuple[FloatArray, FloatArray]:
    """Nodes u and weights of int du.

    The integrands are like prod_k (1 + lambda_k u)^{-n_k/2} L_j min(1 + lambda_i u, e^cap_i), for any i
    and j: J'J brings a factor u, and so does the difference of two samples in a mode until u is the
    inverse of their distance.
    """
    total = pool.contrast_rank * spectrum.contrast + pool.mean_rank * spectrum.mean
    scale = 1.0 / (0.5 * total + pool.cutoff)
    x = np.arange(-4.0, _LAST)
    u = scale * np.exp(x)
    log_contrast, log_mean = np.log1p(spectrum.contrast * u), np.log1p(spectrum.mean * u)
    log_value = x - _log_damping(pool, spectrum, u)
    sizes = []
    if spectrum.contrast > 0.0:
        sizes.append(log_value - log_contrast)
    if pool.tilted * spectrum.mean > 0.0:
        sizes.append(log_value - log_mean)
    if pool.untilted * spectrum.mean > 0.0:
        sizes.append(log_value)
    growths = [np.zeros_like(x)]
    if pool.contrast_rank:
        growths.append(np.minimum(log_contrast, log_caps[0]))
    if pool.mean_rank:
        growths.append(np.minimum(log_mean, log_caps[1]))
    end = max(_last_above(x, size + growth) for size in sizes for growth in growths)
    grid = np.arange(math.floor(_LEFT / _SPACING), math.ceil(end / _SPACING) + 1) * _SPACING
    shrink = np.exp(-grid)
    u = scale * np.exp(grid - shrink)
    return u, _SPACING * u * (1.0 + shrink)


def _last_above(x: FloatArray, log_value: FloatArray) -> float:
    """Return the x from which the integrand stays below e^{-_DROP} of its maximum."""
    last = int(np.flatnonzero(log_value > log_value.max() - _DROP)[-1])
    if last + 1 >= x.size:
        raise NumericalError(
            "the Laplace integrand decays too slowly: the spectrum over positions spans more orders of "
            "magnitude than floating point; raise eps or drop nearly identical positions"
        )
    return float(x[last + 1])


class EqualTilt(NamedTuple):
    """Tilted numerator of one sample: L_p, L_m (with its share), L_p + ..., 1 - correlation."""

    contrast: FloatArray
    mean: FloatArray
    variance: FloatArray
    gap: FloatArray


def equal_tilt(pool: PositionPool, spectrum: PositionSpectrum, u: FloatArray) -> EqualTilt:
    """L_p, omega L_m + omega_0 lambda_m, the variance A_0 of a coordinate and L_p/A_0, at tilt u."""
    s = spectrum.positions
    contrast = spectrum.contrast / (1.0 + spectrum.contrast * u)
    mean = pool.tilted * spectrum.mean / (1.0 + spectrum.mean * u) + pool.untilted * spectrum.mean
    variance = ((s - 1) * contrast + mean) / s
    return EqualTilt(contrast, mean, variance, np.minimum(contrast / variance, 2.0))


class Mode(NamedTuple):
    """One mode of a tilted pair of samples; see the module docstring for the symbols.

    ``own`` is L, ``cross`` C, ``lost`` L - C, ``first`` and ``second`` A - L and B - L, ``det`` Delta
    and ``excess`` e.
    """

    own: FloatArray
    cross: FloatArray
    lost: FloatArray
    first: FloatArray
    second: FloatArray
    det: FloatArray
    excess: FloatArray


def tilted_mode(size: float, distance: float, nodes: PairNodes) -> Mode:
    """Mode with eigenvalues lambda = ``size`` and mu = size - distance under the tilts of ``nodes``."""
    a, b = nodes.a, nodes.b
    plain = 1.0 + size * (a + b)
    delta = distance * (2.0 * size - distance)
    excess = delta * (a * b) / plain
    det = plain * (1.0 + excess)
    share: Any = delta / (det * plain)
    return Mode(
        own=size / plain,
        cross=(size - distance) / det,
        lost=(distance + size * excess) / det,
        first=share * b * (1.0 + size * b),
        second=share * a * (1.0 + size * a),
        det=det,
        excess=excess,
    )
