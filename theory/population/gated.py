r"""N(a x + b F(x)) with EvoNorm-S0 over all channels: one channel is a walk, its law a density on a grid.

R is a number of the layer and F(x) Gaussian, so that moments and gradients need no population
(``routes.gated_walk``).  Two samples jointly are left to populations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.operators import bind_pull, bind_push
from theory.population.spheres import initial
from theory.program import Linear, NormAct, branch_operations
from theory.routes.gated_walk import gated_walk
from theory.specs.inputs import ExchangeableInputs
from theory.specs.networks import Network
from theory.specs.residual import Residual
from theory.states.base import Gradient
from theory.states.exchangeable import Exchangeable

__all__ = ["GatedLaw", "gated_law", "gated_refusal"]

FloatArray = NDArray[np.float64]


class GatedLaw(NamedTuple):
    """log E[x^2], and log E[g^2] at the stream and at h^l relative to the last stream."""

    log_second_moment: FloatArray
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


def gated_law(network: Residual, inputs: ExchangeableInputs) -> GatedLaw:
    """What ``gated_refusal`` lets pass.

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
    behind = next(k for k, op in enumerate(ops) if isinstance(op, Linear)) + 1
    at_maps: list[float] = []

    def branch(second_moment: float, mean: float) -> tuple[float, float]:
        state = Exchangeable(2, second_moment, 0.5, mean)
        seen = []
        for op in ops:
            seen.append(state)
            state = bind_push(op, state)[0](state)
        to_map = _returned(ops[behind:], seen[behind:])
        at_maps.append(math.log(factor * factor * to_map))
        step = abs(factor) * math.sqrt(state.unscaled().second_moment)
        return step, factor * factor * to_map * _returned(ops[:behind], seen[:behind])

    walk = gated_walk(
        network.depth,
        second_moment=start.second_moment,
        mean=start.mean,
        skip=skip,
        gate=norm.gate,
        eps=norm.eps,
        branch=branch,
    )
    # Relative to E[g^2] = 1 behind the last block.
    return GatedLaw(
        np.log(walk.second_moment), walk.log_gradient, walk.log_sum_gradient + np.array(at_maps)
    )


def _returned(ops: Sequence[Linear | NormAct], states: Sequence[Exchangeable]) -> float:
    """E[g^2] in front of ``ops`` for 1 behind them."""
    gradient = Gradient((1.0, 0.0), 0, 0.0)
    for op, state in zip(reversed(ops), reversed(states), strict=True):
        gradient = bind_pull(op, state)[0](state, gradient)
    return math.ldexp(gradient.value[0], 2 * gradient.exponent)
