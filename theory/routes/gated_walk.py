r"""x' = N(a x + b F(x)), N EvoNorm-S0 over all channels: the law of one channel on a grid.

What a branch adds is Gaussian of deviation s and independent of x, R a number, n(h) = h sigmoid(v h):

    f'(h) = int f(t) G_s(h - a n(t)/R) dt,       R^2 = Var h + eps,
    G_l = (n'(h)/R)^2 v_l,       v_{l-1}(t) = a^2 int G_s(h - a n(t)/R) G_l(h) dh + k E[G_l],

f the density of the sum h, v_l = E[g_l^2 | h], v_L = 1, k what the branch returns.  Densities are as smooth
as G_s, so that trapezoidal sums converge like exp(-pi^2 s^2/spacing^2).

Source: derived here, as ``routes.walk_density``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from theory.errors import HypothesisError

__all__ = ["GatedWalk", "gated_walk"]

FloatArray = NDArray[np.float64]

# Nodes per deviation of a step, and per 1/v: sigmoid(v h) has poles at v h = +-i pi.
_PER_STEP, _PER_GATE = 2.5, 3.0
# Steps reach that many deviations; ends that weigh less than that of the heaviest node are left out:
# gradients may be those of rare channels.
_REACH, _FAINT = 9.0, 1e-20
# Nodes of all blocks together, and of one: some ten seconds.
_MOST, _WIDEST = 12_000_000, 300_000


class GatedWalk(NamedTuple):
    """Per block: E[x^2], E[x], log E[g^2] relative to the last stream at x and at the sum h."""

    second_moment: FloatArray
    mean: FloatArray
    log_gradient: FloatArray
    log_sum_gradient: FloatArray


class _Block(NamedTuple):
    """Nodes h with their weights f dh, n(h)/R and (n'/R)^2, and the step that led there."""

    nodes: FloatArray
    weights: FloatArray
    out: FloatArray
    slope: FloatArray
    step: float
    returned: float


def gated_walk(
    depth: int,
    *,
    second_moment: float,
    mean: float,
    skip: float,
    gate: float,
    eps: float,
    branch: Callable[[float, float], tuple[float, float]],
    fine: float = 1.0,
) -> GatedWalk:
    """The walk of one channel from a Gaussian start, and E[g^2] along it.

    Parameters
    ----------
    depth
        Blocks.
    second_moment, mean
        Of the start.
    skip, gate, eps
        a, v and what N adds to the variance.
    branch
        (E[x^2], E[x]) -> (s, k): deviation of b F(x), and mean square that b F returns of a gradient 1.
    fine
        This many times as many nodes.

    Raises
    ------
    HypothesisError
        Branches so small, gates so steep, or blocks so many that the grid would not fit.
    """
    step, returned = branch(second_moment, mean)
    centre = skip * mean
    spread = math.sqrt(skip * skip * (second_moment - mean * mean) + step * step)
    nodes = _grid(centre - _REACH * spread, centre + _REACH * spread, step, gate, fine)
    weights = _normal(nodes - centre, spread) * (nodes[1] - nodes[0])
    blocks = [_block(nodes, weights, gate, eps, step, returned)]
    moments = [_moments(blocks[0])]
    size = len(nodes)
    for _ in range(depth - 1):
        last = blocks[-1]
        step, returned = branch(*moments[-1])
        centres = skip * last.out
        nodes = _grid(float(centres.min()), float(centres.max()), step, gate, fine)
        size += len(nodes)
        if size > _MOST:
            raise HypothesisError(
                f"steps of {step:.2g} take more than {_MOST} nodes; use fewer blocks"
            )
        at, kernel = _kernel(nodes, centres, step)
        reached = (last.weights[:, None] * kernel).ravel()
        weights = np.asarray(np.bincount(at.ravel(), reached, len(nodes)), dtype=np.float64)
        blocks.append(_block(nodes, weights, gate, eps, step, returned))
        moments.append(_moments(blocks[-1]))
    values = np.array(moments)
    return GatedWalk(values[:, 0], values[:, 1], *_gradients(blocks, skip))


def _gradients(blocks: list[_Block], skip: float) -> tuple[FloatArray, FloatArray]:
    stream, total = np.empty(len(blocks)), np.empty(len(blocks))
    v, log = np.ones(len(blocks[-1].nodes)), 0.0
    for k in range(len(blocks) - 1, -1, -1):
        block = blocks[k]
        stream[k] = math.log(block.weights @ v) + log
        passed = block.slope * v
        mean = float(block.weights @ passed)
        total[k] = math.log(mean) + log
        if k:
            at, kernel = _kernel(block.nodes, skip * blocks[k - 1].out, block.step)
            v = skip * skip * np.einsum("ij,ij->i", kernel, passed[at]) + block.returned * mean
            largest = float(v.max())
            v, log = v / largest, log + math.log(largest)
    return stream, total


def _grid(low: float, high: float, step: float, gate: float, fine: float) -> FloatArray:
    spacing = min(step / _PER_STEP, 1.0 / (_PER_GATE * max(abs(gate), 1e-300))) / fine
    if not 0.0 < spacing < math.inf or (high - low + 2.0 * _REACH * step) / spacing > _WIDEST:
        raise HypothesisError(f"steps of {step:.2g} over {high - low:.2g} do not fit on a grid")
    first = math.floor((low - _REACH * step) / spacing)
    last = math.ceil((high + _REACH * step) / spacing)
    return np.asarray(np.arange(first, last + 1) * spacing)


def _block(
    nodes: FloatArray, weights: FloatArray, gate: float, eps: float, step: float, returned: float
) -> _Block:
    ends = np.flatnonzero(weights > _FAINT * weights.max())[[0, -1]]
    kept = slice(int(ends[0]), int(ends[1]) + 1)
    nodes, weights = nodes[kept], weights[kept] / weights[kept].sum()
    mean = weights @ nodes
    root = math.sqrt(float(weights @ (nodes - mean) ** 2) + eps)
    t = gate * nodes
    opened = special.expit(t)
    slope = opened * (1.0 + t * special.expit(-t)) / root
    return _Block(nodes, weights, nodes * opened / root, slope * slope, step, returned)


def _moments(block: _Block) -> tuple[float, float]:
    return float(block.weights @ block.out**2), float(block.weights @ block.out)


def _kernel(
    nodes: FloatArray, centres: FloatArray, step: float
) -> tuple[NDArray[np.intp], FloatArray]:
    """(places around every centre, G_s there times the spacing)."""
    spacing = float(nodes[1] - nodes[0])
    reach = math.ceil(_REACH * step / spacing)
    nearest = np.rint((centres - nodes[0]) / spacing).astype(np.intp)
    at = np.clip(nearest[:, None] + np.arange(-reach, reach + 1), 0, len(nodes) - 1)
    away = nodes[0] + spacing * (nearest[:, None] + np.arange(-reach, reach + 1)) - centres[:, None]
    return at, _normal(away, step) * spacing


def _normal(away: FloatArray, deviation: float) -> FloatArray:
    density = np.exp(-0.5 * (away / deviation) ** 2) / (math.sqrt(2.0 * math.pi) * deviation)
    return np.asarray(density)
