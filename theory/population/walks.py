r"""When one channel of a stream is a reflected walk: relu(a x + b N(W x)) with N(W x) exactly Gaussian.

Normalizers that divide by one number of the layer (LN, RMSNorm) leave W x a unit Gaussian at eps = 0:
the channel's law needs no population.  From x_0 = 0 Spitzer's identity gives it, else its density on a
grid.  Behind finite pools (GN, BN) N(W x) is uniform on a sphere and steps are its coordinates; without
a normalizer they grow with the stream.  Gradients of BN see all samples of a channel at once: the grid
gives one sample's part, ``pair_paths`` what two share.  Two samples jointly are left to populations:
their walks agree the more the closer they are.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from theory.errors import HypothesisError
from theory.laws import only_rescales
from theory.operators import bind_push, pulled_through, pushed_through
from theory.program import NormAct, branch_operations
from theory.routes.reflected_walk import reflected_walk
from theory.routes.scaled_walk_law import ScaledWalkLaw, scaled_walk_law
from theory.routes.sphere_step_walk import sphere_step_walk
from theory.routes.walk_density import WalkLaw, walk_law
from theory.specs.activations import identity, relu
from theory.specs.inputs import ExchangeableInputs
from theory.specs.networks import Network
from theory.specs.residual import Residual
from theory.states.base import Gradient
from theory.states.exchangeable import Exchangeable

__all__ = [
    "REFLECTED_WALK",
    "WALK_DENSITY",
    "branch_gradient",
    "nf_scales",
    "scaled",
    "scaled_refusal",
    "sphere_steps",
    "sphere_steps_refusal",
    "walk",
    "walk_refusal",
]

REFLECTED_WALK = "reflected walk"
WALK_DENSITY = "walk density"

# A start this small against the first step is x_0 = 0 to rounding.
_NO_START = 2.0**-106
# The laws of all blocks are kept for the way back: 150 MB.
_DEEPEST = 4000
# Sums over panels of a step's length.
_SMOOTH = 1e-11


def walk_refusal(network: Network, inputs: ExchangeableInputs) -> str | None:
    """None if a channel of ``network`` is a reflected walk with unit Gaussian steps, else why not."""
    if not isinstance(network, Residual) or network.order != "post_activation":
        return "only post-activation streams are reflected"
    activation, norm = network.layer.activation, network.layer.norm
    if activation != relu:
        return f"{activation.name} does not reflect a walk at 0"
    if norm is None or norm.eps != 0.0 or not only_rescales(NormAct(norm, identity)):
        name = "no normalizer" if norm is None else norm.name
        return f"{name} leaves steps that are not unit Gaussians"
    skip, branch = network.factors
    if not 0.0 < skip <= 1.0 or not branch > 0.0 or network.depth > _DEEPEST:
        return f"the grid takes 0 < skip <= 1, branch > 0 and up to {_DEEPEST} blocks"
    return "a factor for each branch" if network.scales else None


def walk(network: Residual, inputs: ExchangeableInputs, *, backward: bool) -> tuple[WalkLaw, str]:
    """Law of a channel and E[g^2] along it, and the route of its moments."""
    start = _start(network, inputs)
    skip, branch = network.factors
    centered = network.weights.centered
    law = walk_law(
        network.depth,
        second_moment=start.second_moment,
        mean=start.mean,
        skip=skip,
        branch=branch,
        branch_gradient=branch_gradient(network) if backward else None,
        centered=centered,
    )
    if skip != 1.0 or start.second_moment > _NO_START * branch * branch:
        return law, WALK_DENSITY
    exact = reflected_walk(network.depth, scale=branch)
    found = law._replace(mean=exact.mean[1:], second_moment=exact.second_moment[1:])
    return found._replace(zero=exact.zero[1:]), REFLECTED_WALK


def sphere_steps_refusal(network: Network, inputs: ExchangeableInputs) -> str | None:
    """None if a channel of ``network`` is a reflected walk whose steps are those of a sphere."""
    if not isinstance(network, Residual) or network.order != "post_activation":
        return "only post-activation streams are reflected"
    activation, norm = network.layer.activation, network.layer.norm
    if activation != relu:
        return f"{activation.name} does not reflect a walk at 0"
    if norm is None or norm.eps != 0.0 or norm.gate is not None or norm.denominator != "std":
        return "steps that are not on a sphere"
    if not norm.centered or (norm.pool.samples and norm.pool.channels != 1):
        return "pools that are not centered, or span samples and channels"
    if not 4 <= norm.pool.size(batch=inputs.batch, positions=1) < math.inf:
        return "a pool without fluctuations, or with an infinite E[1/R^2]"
    if network.factors[0] != 1.0 or network.factors[1] == 0.0 or network.depth > _DEEPEST:
        return f"the grid takes skip = 1, branch != 0 and up to {_DEEPEST} blocks"
    return "a factor for each branch" if network.scales else None


def sphere_steps(
    network: Residual, inputs: ExchangeableInputs, *, backward: bool
) -> tuple[WalkLaw, float]:
    """Law of a channel, E[g^2] along it if a pool treats samples apart, and the relative error."""
    norm, start = network.layer.norm, _start(network, inputs)
    assert norm is not None
    size = norm.pool.size(batch=inputs.batch, positions=1)
    squared = network.factors[1] ** 2
    divisor = norm.divisor(batch=inputs.batch, positions=1)

    def law(fine: int) -> WalkLaw:
        return sphere_step_walk(
            network.depth,
            dimensions=int(size) - 1,
            length=math.sqrt(squared * divisor * (1.0 - 1.0 / size)),
            second_moment=0.0 if start.second_moment < _NO_START * squared else start.second_moment,
            mean=start.mean,
            branch_gradient=(
                squared * branch_gradient(network) if backward and not norm.pool.samples else None
            ),
            centered=network.weights.centered,
            fine=fine,
        )

    if size % 2 == 0:
        return law(1), _SMOOTH
    # Half-integer powers where densities break.
    rough, found = law(1), law(2)
    pairs = ((rough.second_moment, found.second_moment), (rough.gradient, found.gradient))
    far = [float(np.max(np.abs(r / f - 1.0))) for r, f in pairs if r is not None and f is not None]
    return found, max(*far, _SMOOTH)


def scaled_refusal(network: Network) -> str | None:
    """None if a channel of ``network`` is a reflected walk whose steps grow with the stream."""
    if not isinstance(network, Residual) or network.order != "post_activation":
        return "only post-activation streams are reflected"
    activation = network.layer.activation
    if activation.base != relu or activation.scale <= 0.0:
        return f"{activation.name} does not reflect a walk"
    if network.layer.norm is not None:
        return f"steps behind {network.layer.norm.name} are not those of the stream"
    if not network.factors[0] > 0.0 or network.factors[1] == 0.0 or network.depth > _DEEPEST:
        return f"the grid takes skip > 0, branch != 0 and up to {_DEEPEST} blocks"
    return "a factor for each branch" if network.scales else None


def scaled(network: Residual, inputs: ExchangeableInputs, *, backward: bool) -> ScaledWalkLaw:
    """log E[x^2] of a channel and log E[g^2] along it, without a normalizer."""
    start, ops = _start(network, inputs), branch_operations(network)
    skip, branch = network.factors
    size = math.sqrt(start.second_moment)

    def step(mean: float, shift: float) -> float:
        state = Exchangeable(2, 1.0, 0.0, mean)
        for op in ops:
            if isinstance(op, NormAct):
                activation = dataclasses.replace(op.activation, shift=shift)
                op = dataclasses.replace(op, activation=activation)
            state = bind_push(op, state)[0](state)
        return abs(branch) * math.sqrt(state.unscaled().second_moment)

    law = scaled_walk_law(
        network.depth,
        step=step,
        skip=skip,
        mean=start.mean / size,
        branch_gradient=branch * branch * branch_gradient(network) if backward else None,
        scale=network.layer.activation.scale,
        shift=network.layer.activation.shift / size,
    )
    return law._replace(log_second_moment=law.log_second_moment + 2.0 * math.log(size))


def nf_scales(network: Residual, inputs: ExchangeableInputs) -> tuple[float, ...]:
    """1/sqrt(q_l) along relu(a x + b F(x/sqrt(q_l))): without a normalizer F(x/sqrt(q_l)) is one Gaussian.

    Raises
    ------
    HypothesisError
        Rows are centered (steps follow the mean), or the walk does not fit on its grid.
    """
    refusal = scaled_refusal(dataclasses.replace(network, scales=()))
    if refusal is None and network.layer.activation != relu:
        refusal = "the walk's grid is that of relu without scale and shift"
    if refusal is None and network.weights.centered:
        refusal = "weights with centered rows make steps follow the stream's mean"
    if refusal is not None:
        raise HypothesisError(f"no scale is predicted: {refusal}; choose another order")
    start = _start(network, inputs)
    ops = branch_operations(dataclasses.replace(network, scales=()))
    state = pushed_through(ops, Exchangeable(2, 1.0, 0.0))[-1]
    skip, branch = network.factors
    law = walk_law(
        network.depth,
        second_moment=start.second_moment,
        mean=start.mean,
        skip=skip,
        branch=abs(branch) * math.sqrt(state.unscaled().second_moment),
    )
    seen = np.concatenate(([start.second_moment], law.second_moment[:-1]))
    return tuple((1.0 / np.sqrt(seen)).tolist())


def _start(network: Residual, inputs: ExchangeableInputs) -> Exchangeable:
    start = Exchangeable(2, inputs.second_moment, 1.0, inputs.feature_mean)
    if network.stem is None:
        return start
    return start.linear(network.stem.weight_variance, centered=network.stem.centered)


def branch_gradient(network: Residual, *, batch: float = 2) -> float:
    """c: what a branch returns of squared gradients, times the second moment that it sees.

    Behind a pool over ``batch`` samples: times E[x^2] - E[xx'].
    """
    ops = branch_operations(network)
    states = pushed_through(ops, Exchangeable(batch, 1.0, 1.0))
    gradient = pulled_through(ops, states, Gradient((1.0, 0.0), 0, 0.0))[0]
    return math.ldexp(gradient.value[0], 2 * gradient.exponent)
