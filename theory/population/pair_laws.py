r"""relu(a x + b N(F(x))) where two samples have a density on a grid: mean centering, or centered weights.

Every map is homogeneous, so that q_l only sets units, and what the branch adds is Gaussian.  Both remedies
keep two samples apart at every depth, as the nodes of ``routes.pair_density`` ask; behind plain weights,
Weight Norm or LN samples become alike, or steps small beside the stream: left to ``pair_streams``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.operators import pulled_through, pushed_through
from theory.population.spheres import initial
from theory.program import branch_operations, first_map
from theory.routes.pair_density import PairDensityLaw, pair_density_law
from theory.specs.activations import relu
from theory.specs.inputs import ExchangeableInputs
from theory.specs.networks import Network
from theory.specs.residual import Residual
from theory.states.base import Gradient
from theory.states.exchangeable import Exchangeable

__all__ = ["PAIR_DENSITY", "PairLaw", "pair_law", "pair_law_refusal"]

PAIR_DENSITY = "pair density"

FloatArray = NDArray[np.float64]

# The laws of all blocks are kept for the way back: 150 MB.
_DEEPEST = 4000
# Blocks that are done again on fewer nodes, and how many fewer; roundings per block.
_COMPARED, _ROUGH, _ROUNDING = 64, 0.75, 1e-14


class PairLaw(NamedTuple):
    """Observables of x^l and h^l, logs of E[g_l^2] relative to the last stream, and the relative error."""

    log_second_moment: FloatArray
    gap: FloatArray
    mean: FloatArray
    log_map_second_moment: FloatArray
    map_gap: FloatArray
    log_gradient: FloatArray | None
    log_branch_gradient: FloatArray | None
    error: float


def pair_law_refusal(network: Network, inputs: ExchangeableInputs) -> str | None:
    """None if two samples of ``network`` stay apart and see Gaussian steps, else why not."""
    if not isinstance(network, Residual) or network.order != "post_activation":
        return "only what follows the sum has a density in pairs"
    layer, (skip, branch) = network.layer, network.factors
    norm = layer.norm
    if layer.activation != relu:
        return f"{layer.activation.name} does not reflect a walk at 0"
    if not skip > 0.0 or branch == 0.0 or network.scales or network.depth > _DEEPEST:
        return f"the grid takes skip > 0, branch != 0, no scales and up to {_DEEPEST} blocks"
    if norm is None:
        apart = network.weights.centered and inputs.batch != 1
        return None if apart else "samples become alike"
    if norm.denominator != "none" or norm.pool.channels != 1 or norm.gate is not None:
        return f"steps of {norm.name} are not those of the stream"
    return None if 3 <= inputs.batch < math.inf else "samples that mirror each other, or endless"


def pair_law(network: Residual, inputs: ExchangeableInputs, *, backward: bool) -> PairLaw:
    """What ``pair_law_refusal`` lets pass.

    Raises
    ------
    HypothesisError
        Samples of the start too much alike, or steps too small, for the nodes.
    """
    branch = _Branch(network, inputs)
    start = initial(network, inputs).unscaled()
    root = math.sqrt(start.second_moment)

    def law(depth: int, fine: float) -> PairDensityLaw:
        return pair_density_law(
            depth,
            step=branch.step,
            gap=start.gap,
            mean=start.mean / root,
            skip=network.factors[0],
            returned=branch.returned if backward else None,
            fine=fine,
        )

    found = law(network.depth, 1.0)
    compared = min(network.depth, _COMPARED)
    short = found if compared == network.depth else law(compared, 1.0)
    far = 0.0
    for one, other in zip(short, law(compared, _ROUGH), strict=True):
        if one is not None and other is not None:
            far = max(far, float(np.max(np.abs(one - other) / np.maximum(1.0, np.abs(one)))))
    log_q = found.log_second_moment + 2.0 * math.log(root)
    seen = np.concatenate(([2.0 * math.log(root)], log_q[:-1]))
    gaps = np.concatenate(([start.gap], found.gap[:-1]))
    means = np.concatenate(([start.mean / root], found.mean[:-1]))
    maps = [
        branch.states(g, m)[branch.read] for g, m in zip(gaps.tolist(), means.tolist(), strict=True)
    ]
    sizes = np.array([state.unscaled().second_moment for state in maps])
    return PairLaw(
        log_q,
        found.gap,
        found.mean,
        seen + np.log(sizes),
        np.array([state.gap for state in maps]),
        found.log_gradient,
        found.log_branch,
        (far + _ROUNDING) * network.depth / compared * 2.0,
    )


class _Branch:
    """b N(F(x)) at E[x^2] = 1."""

    def __init__(self, network: Residual, inputs: ExchangeableInputs) -> None:
        norm = network.layer.norm
        self.ops = branch_operations(network)
        self.read = first_map(self.ops)
        self.size = 2 if norm is None else int(inputs.batch)
        self.squared = network.factors[1] ** 2

    def states(self, gap: float, mean: float) -> list[Exchangeable]:
        """The stream and what each operation makes of it."""
        return pushed_through(self.ops, Exchangeable(self.size, 1.0, gap, mean))

    def step(self, gap: float, mean: float) -> tuple[float, float]:
        """Variance and covariance of what is added."""
        state = self.states(gap, mean)[-1].unscaled()
        variance = self.squared * state.second_moment
        return variance, variance * (1.0 - state.gap)

    def returned(
        self, gap: float, mean: float, same: float, pair: float
    ) -> tuple[float, float, float]:
        """E[g_i^2] and E[g_i g_j] at the stream, E[g_i^2] at h."""
        gradient = Gradient((self.squared * same, self.squared * pair), 0, 0.0)
        gradients = pulled_through(self.ops, self.states(gap, mean), gradient)
        gradient, at_map = gradients[0], gradients[self.read]
        unit = 4.0**gradient.exponent
        return (
            gradient.value[0] * unit,
            gradient.value[1] * unit,
            at_map.value[0] * 4.0**at_map.exponent,
        )
