r"""N(a x + b F(x)) with EvoNorm-S0 over all channels: one channel is a walk, its law a density on a grid.

R is a number of the layer and F(x) Gaussian, so that moments and gradients need no population
(``routes.gated_walk``).  Two samples jointly are chains of draws: given the correlation of what their
branches add, a mean over the chains of one population, pairs (x, x') are independent.

Chains are sorted by x + x' and, among those that are near in it, by x - x'; chain i takes point i of a
lattice (array-RQMC, as in ``sphere_pairs``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from theory.errors import NumericalError
from theory.forecast import Pace
from theory.operators import pulled_through, pushed_through
from theory.population.sphere_pairs import lattice, lattice_normals
from theory.population.spheres import initial, measured
from theory.program import Linear, NormAct, branch_operations, first_map
from theory.routes.gated_walk import gated_walk
from theory.specs.inputs import ExchangeableInputs
from theory.specs.networks import Network
from theory.specs.residual import Residual
from theory.states.base import Gradient
from theory.states.exchangeable import Exchangeable

__all__ = ["GatedLaw", "gated_growth", "gated_law", "gated_refusal", "gated_states"]

FloatArray = NDArray[np.float64]

# Of sums over the grid, relative.
ERROR = 1e-10
# Of steps of log E[g^2] and of E[x^2].
_SETTLED = 1e-9


class GatedLaw(NamedTuple):
    """E[x^2], E[x], and log E[g^2] at the stream and at h^l relative to the last stream."""

    second_moment: FloatArray
    mean: FloatArray
    log_gradient: FloatArray
    log_branch_gradient: FloatArray


def gated_refusal(network: Network) -> str | None:
    """None if one channel of ``network`` is a walk through EvoNorm-S0's gate, else why not."""
    if not isinstance(network, Residual) or network.order not in ("post_norm", "deep_norm"):
        return "only post-norm streams go through a gate"
    norm, activation = network.layer.norm, network.layer.activation
    if norm is None or norm.gate is None or norm.denominator != "std":
        return "the sum goes through no gate"
    if norm.pool.samples or norm.pool.channels != math.inf:
        return f"{norm.name} divides by a number that fluctuates"
    if network.maps == 1 and (activation.name != "identity" or activation.shift != 0.0):
        return f"{activation.name} bends between nodes"
    if network.scales or network.factors[1] == 0.0:
        return "branches that are scaled or 0"
    return None


def gated_law(
    network: Residual, inputs: ExchangeableInputs, *, depth: int | None = None
) -> GatedLaw:
    """What ``gated_refusal`` lets pass; ``depth`` other blocks of the same kind.

    Raises
    ------
    HypothesisError
        As ``gated_walk``: the walk does not fit on its grid.
    """
    norm, start = network.layer.norm, initial(network, inputs).unscaled()
    assert norm is not None
    assert norm.gate is not None
    skip, factor = network.factors
    ops = branch_operations(network)
    behind = first_map(ops)
    at_maps: list[float] = []

    def branch(second_moment: float, mean: float) -> tuple[float, float]:
        state = Exchangeable(2, second_moment, 0.5, mean)
        seen = pushed_through(ops, state)
        to_map = _returned(ops[behind:], seen[behind:])
        at_maps.append(math.log(factor * factor * to_map))
        step = abs(factor) * math.sqrt(seen[-1].unscaled().second_moment)
        return step, factor * factor * to_map * _returned(ops[:behind], seen[: behind + 1])

    walk = gated_walk(
        depth or network.depth,
        second_moment=start.second_moment,
        mean=start.mean,
        skip=skip,
        gate=norm.gate,
        eps=norm.eps,
        branch=branch,
    )
    return GatedLaw(
        walk.second_moment, walk.mean, walk.log_gradient, walk.log_sum_gradient + np.array(at_maps)
    )


def gated_growth(network: Residual) -> tuple[float, float]:
    """(E[x^2], the factor of squared gradients per block) where the walk has settled.

    Raises
    ------
    HypothesisError
        As ``gated_law``.
    NumericalError
        Not settled after 2,000 blocks.
    """
    inputs = ExchangeableInputs(batch=2, gap=0.5)
    for depth in (125, 500, 2000):
        law = gated_law(network, inputs, depth=depth)
        # Gradients settle backwards as moments do forwards: both have in the middle.
        steps = -np.diff(law.log_gradient)[2 * depth // 5 : 3 * depth // 5]
        moments = law.second_moment[2 * depth // 5 :]
        if max(np.ptp(steps), np.ptp(moments) / moments[-1]) < _SETTLED:
            return float(moments[-1]), float(np.exp(steps.mean()))
    raise NumericalError("the walk through the gate does not settle; predict it at its depth")


def gated_states(
    network: Residual,
    inputs: ExchangeableInputs,
    law: GatedLaw,
    *,
    populations: int,
    chains: int,
    seed: int,
) -> tuple[list[Exchangeable], list[Exchangeable]]:
    """States of x^l and of h^l, every l; their gaps are sampled.

    Parameters
    ----------
    network, inputs, law
        What ``gated_refusal`` lets pass, and its ``gated_law``.
    populations, chains, seed
        P, M (a power of four or twice one) and the seed.
    """
    norm, start = network.layer.norm, initial(network, inputs).unscaled()
    assert norm is not None
    assert norm.gate is not None
    skip, factor = network.factors
    ops = branch_operations(network)
    at = first_map(ops)
    rng, points = np.random.default_rng(seed), lattice(chains)[:2]
    second, mean, gaps = start.second_moment, start.mean, np.full(populations, start.gap)
    pair: tuple[FloatArray, FloatArray] | None = None
    streams, maps = [], []
    pace = Pace(
        network.depth,
        what="Pairs of samples",
        remedy="a smaller refine takes its square less, and fewer layers proportionally less",
    )
    for k in range(network.depth):
        pace.step()
        inner = [pushed_through(ops, Exchangeable(2, second, gap, mean)) for gap in gaps.tolist()]
        mapped = inner[0][at]._replace(batch=inputs.batch, second_moment_error=ERROR)
        maps.append(measured(mapped, np.array([states[at].gap for states in inner])))
        added = factor * factor * inner[0][-1].unscaled().second_moment
        apart = np.array([states[-1].gap for states in inner])
        carried = skip * skip * (second - mean * mean)
        normals = lattice_normals(points, populations, rng)
        if pair is None:
            # A Gaussian sum: pure noise about its mean.
            apart = (skip * skip * second * start.gap + added * apart) / (carried + added)
            h = [skip * mean + d for d in _apart(normals, carried + added, apart)]
        else:
            h = [skip * x + d for x, d in zip(pair, _apart(normals, added, apart), strict=True)]
        root = math.sqrt(carried + added + norm.eps)
        x, other = (part * special.expit(norm.gate * part) / root for part in h)
        difference = x - other
        # A ratio of the same draws fluctuates less.
        gaps = (difference * difference).mean(axis=1) / (x * x + other * other).mean(axis=1)
        second, mean = float(law.second_moment[k]), float(law.mean[k])
        state = Exchangeable(inputs.batch, second, 0.0, mean, 0, ERROR)
        streams.append(measured(state, gaps))
        pair = _sorted(x, other)
    return streams, maps


def _apart(normals: FloatArray, variance: float, gap: FloatArray) -> list[FloatArray]:
    """Two Gaussians of correlation 1 - gap."""
    common = np.sqrt(variance * (1.0 - 0.5 * gap))[:, None] * normals[0]
    half = np.sqrt(variance * 0.5 * gap)[:, None] * normals[1]
    return [common + half, common - half]


def _sorted(x: FloatArray, other: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Pairs by x + x', and in each of some sqrt(M) strips by x - x', to and fro."""
    populations, chains = x.shape
    order = np.argsort(x + other, axis=1)
    strips = 1 << (chains.bit_length() - 1) // 2
    across = np.take_along_axis(x - other, order, 1).reshape(populations, strips, -1)
    within = np.argsort(across, axis=2)
    within[:, 1::2] = within[:, 1::2, ::-1]
    order = np.take_along_axis(order.reshape(across.shape), within, 2).reshape(populations, -1)
    return np.take_along_axis(x, order, 1), np.take_along_axis(other, order, 1)


def _returned(ops: Sequence[Linear | NormAct], states: Sequence[Exchangeable]) -> float:
    """E[g^2] in front of ``ops``, which made ``states``, for 1 behind them."""
    gradient = pulled_through(ops, states, Gradient((1.0, 0.0), 0, 0.0))[0]
    return math.ldexp(gradient.value[0], 2 * gradient.exponent)
