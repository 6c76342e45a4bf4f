r"""x_{l+1} = relu(x_l + L t_l), t a coordinate of the unit sphere in n dimensions.

Post-activation streams of GN and BN: whatever the stream, N(W x) over a finite centered pool is uniform
on a sphere and independent from block to block, so that one channel of one sample is a reflected walk
with the steps L t,

    p_n(t) = Gamma(n/2)/(sqrt(pi) Gamma((n-1)/2)) (1 - t^2)^((n-3)/2),      L^2 = b^2 D (1 - 1/N_pool),

n = G - 1 for GN(G), B - 1 for BN(B).  Its law has an atom at 0 and a density, as in ``walk_density``.

Gradients behind GN.  J J' = (P - u u'/D)/R^2 with R independent of u = N(h), and cotangents of a group's
channels are uncorrelated given the path (W'd is Gaussian): the branch returns the mean of
(1 - t^2) g^2 over what the mask leaves, relative to its mean (n-1)/n.  That weight turns p_n into p_{n+2}:

    v_l(x) = int_{y>0} p_n v_{l+1}(y) + (c b^2/q_l) E[int_{y>0} p_{n+2} v_{l+1}(y)],      v_L = 1.

Behind BN two samples share gradients: a term of pairs of samples is taken from the second integral, and c
is relative to q - p (``Coupling``; see ``theory.population.pair_paths``).

The density breaks at multiples of L, where panels end: Gauss-Legendre panels carry polynomials between,
and t = sin(theta) integrates them against p_n.  Even n leave half-integer powers at x = L: errors there
are estimated by halving the panels.
Derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from theory.errors import HypothesisError
from theory.routes.walk_density import WalkLaw

__all__ = ["Coupling", "sphere_step_walk"]

FloatArray = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
# On (0, 1), and a rule for polynomials of that degree against powers of a cosine.
_PLACES, _PARTS = 0.5 * (1.0 + _NODES), 0.5 * _WEIGHTS
_INNER, _INNER_WEIGHTS = np.polynomial.legendre.leggauss(48)
_CIRCLE, _CIRCLE_WEIGHTS = np.polynomial.legendre.leggauss(400)
# Gaussians, and sums of bounded steps, end here.
_TAIL = 9.5
# Laws of all blocks are kept for the way back: 240 MB.
_LARGEST_TABLE = 30_000_000


class Coupling(NamedTuple):
    """What pools over samples change on the way back.

    ``gap`` is 1 - p/q of what each block's branch sees, which is q - p; ``across(block, returned)`` is
    called from the last block (index depth - 1) to the first with what the next one returned (0 behind
    the last), and is taken from E[(1 - t^2) g^2] n/(n - 1).
    """

    gap: FloatArray
    across: Callable[[int, float], float]


class _Grid(NamedTuple):
    """m panels to a step of length L; ``panels`` of them."""

    length: float
    parts: int
    panels: int

    @property
    def width(self) -> float:
        return self.length / self.parts

    @property
    def x(self) -> FloatArray:
        """Nodes, panel by panel."""
        return self.width * (np.arange(self.panels)[:, None] + _PLACES)


def sphere_step_walk(
    depth: int,
    *,
    dimensions: int,
    length: float,
    second_moment: float,
    mean: float = 0.0,
    branch_gradient: float | None = None,
    centered: bool = False,
    coupling: Coupling | None = None,
    fine: int = 1,
) -> WalkLaw:
    """Law of x_{l+1} = relu(x_l + L t_l) from a Gaussian x_0, for l = 1 ... depth, and E[g_l^2].

    Parameters
    ----------
    depth
        Blocks.
    dimensions
        n >= 3 of the sphere.
    length
        L > 0.
    second_moment, mean
        Of x_0: a deviation of at least a quarter of a step's and 0.03 L, or the point 0.
    branch_gradient
        c b^2 of the module's equation, what a branch returns of squared gradients times the second moment
        that it sees, or None to leave gradients out.
    centered
        Whether the rows of W are: they see q - m^2.
    coupling
        Of a pool over samples.
    fine
        Panels are that many times narrower.

    Raises
    ------
    HypothesisError
        A start that is narrow against a step, or a grid that does not fit.
    """
    deviation = math.sqrt(max(second_moment - mean * mean, 0.0))
    step = length / math.sqrt(dimensions)
    if 0.0 < deviation < max(0.25 * step, 0.03 * length):
        raise HypothesisError("the start is narrow against a step; follow it as a population")
    finest = min(step, deviation) if deviation else step
    parts = fine * math.ceil(0.5 * length / finest)
    reach = max(mean, 0.0) + _TAIL * math.sqrt(deviation**2 + depth * step * step) + length
    grid = _Grid(length, parts, math.ceil(reach * parts / length))
    if depth * grid.panels * len(_NODES) > _LARGEST_TABLE:
        raise HypothesisError("so many blocks do not fit on a grid; follow them as a population")
    kernel, from_zero = _kernel(grid, dimensions), _kernel_at_zero(grid, dimensions)
    x, w = grid.x, grid.width * np.broadcast_to(_PARTS, (grid.panels, len(_PARTS)))
    stay = _below(x / length, dimensions)
    masses, at_zero = np.empty((depth, *x.shape)), np.empty(depth)
    density, zero = _first(grid, dimensions, mean, deviation)
    for k in range(depth):
        masses[k], at_zero[k] = w * density, zero
        density, zero = (
            _apply(kernel, density) + zero * from_zero,
            0.5 * zero + float(np.sum(stay * masses[k])),
        )
    first, second = (np.einsum("lpk,pk->l", masses, power) for power in (x, x * x))
    if branch_gradient is None:
        return WalkLaw(first, second, at_zero, None, None)
    seen = np.concatenate(([second_moment], second[:-1]))
    if centered:
        seen = seen - np.concatenate(([mean], first[:-1])) ** 2
    if coupling is not None:
        seen = seen * coupling.gap
    with np.errstate(divide="ignore"):
        share = branch_gradient / seen
    # Two dimensions more: the weight 1 - t^2.
    wide, wide_from_zero = _kernel(grid, dimensions + 2), _kernel_at_zero(grid, dimensions + 2)
    wide_first = _first(grid, dimensions + 2, mean, deviation)[0] * w
    gradient, shared = np.ones(depth), np.empty(depth)
    value, value_at_zero = np.ones_like(x), 1.0
    for k in range(depth - 1, -1, -1):
        gradient[k] = np.sum(masses[k] * value) + at_zero[k] * value_at_zero
        if k == 0:
            weighted = float(np.sum(wide_first * value))
        else:
            weighted = float(np.sum(masses[k - 1] * _apply(wide, value)))
            weighted += at_zero[k - 1] * float(np.sum(w * wide_from_zero * value))
        if coupling is not None:
            weighted -= coupling.across(k, shared[k + 1] if k + 1 < depth else 0.0)
        shared[k] = share[k] * weighted
        value_at_zero = float(np.sum(w * from_zero * value)) + shared[k]
        value = _apply(kernel, value) + shared[k]
    return WalkLaw(first, second, at_zero, gradient, shared)


def _constant(n: int) -> float:
    """p_n(sin theta) cos(theta) = constant * cos(theta)^(n-2)."""
    return math.exp(math.lgamma(0.5 * n) - math.lgamma(0.5 * (n - 1))) / math.sqrt(math.pi)


def _below(t: FloatArray, n: int) -> FloatArray:
    """P(t_l < -t) for t >= 0."""
    rest = np.clip(1.0 - t * t, 0.0, 1.0)
    return np.asarray(0.5 * special.betainc(0.5 * (n - 1), 0.5, rest))


def _lagrange(s: FloatArray) -> FloatArray:
    """The 16 polynomials of the nodes at s in (0, 1); shape (*s.shape, 16)."""
    legendre = np.polynomial.legendre.legvander(2.0 * s - 1.0, len(_NODES) - 1)
    at_nodes = np.polynomial.legendre.legvander(_NODES, len(_NODES) - 1)
    return np.asarray(legendre @ np.linalg.inv(at_nodes))


def _kernel(grid: _Grid, n: int) -> FloatArray:
    """Density of x' at nodes of a panel from that of x at nodes of the panels -m ... m around it."""
    m = grid.parts
    blocks = []
    for d in range(m, -m - 1, -1):
        # Source panel d below: (s + d - s') of m steps' parts, s' in (0, 1).
        high = np.arcsin(np.clip((_PLACES + d) / m, -1.0, 1.0))
        low = np.arcsin(np.clip((_PLACES + d - 1.0) / m, -1.0, 1.0))
        half = 0.5 * (high - low)
        theta = 0.5 * (high + low)[:, None] + half[:, None] * _INNER
        s = _PLACES[:, None] + d - m * np.sin(theta)
        weight = half[:, None] * _INNER_WEIGHTS * np.cos(theta) ** (n - 2)
        blocks.append(_constant(n) * np.einsum("ij,ijk->ik", weight, _lagrange(s)))
    return np.concatenate(blocks, axis=1)


def _kernel_at_zero(grid: _Grid, n: int) -> FloatArray:
    """p_n(x/L)/L at the nodes: the density that leaves 0."""
    rest = np.clip(1.0 - (grid.x / grid.length) ** 2, 0.0, None)
    return np.asarray(
        np.where(rest > 0.0, _constant(n) / grid.length * rest ** (0.5 * (n - 3)), 0.0)
    )


def _apply(kernel: FloatArray, density: FloatArray) -> FloatArray:
    """int k(y - x) f(x) dx over x > 0, at the nodes."""
    count, nodes = density.shape
    m = (kernel.shape[1] // nodes - 1) // 2
    padded = np.zeros((count + 2 * m, nodes))
    padded[m : m + count] = density
    windows = np.lib.stride_tricks.sliding_window_view(padded.ravel(), (2 * m + 1) * nodes)
    return np.asarray(windows[::nodes] @ kernel.T)


def _first(grid: _Grid, n: int, mean: float, deviation: float) -> tuple[FloatArray, float]:
    """Density of x_1 at the nodes and P(x_1 = 0)."""
    if deviation == 0.0 and mean == 0.0:
        return _kernel_at_zero(grid, n), 0.5
    theta = 0.5 * math.pi * _CIRCLE
    weight = 0.5 * math.pi * _CIRCLE_WEIGHTS * _constant(n) * np.cos(theta) ** (n - 2)
    centers = mean + grid.length * np.sin(theta)
    z = (grid.x[..., None] - centers) / deviation
    density = np.exp(-0.5 * z * z) @ weight / (deviation * math.sqrt(2.0 * math.pi))
    return density, float(special.ndtr(-centers / deviation) @ weight)
