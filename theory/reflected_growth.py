"""Growth laws of phi(a x + b N(F(x))) with relu: walks reflected at 0.

Source: theory notes, section 5; ``theory.growth`` (survival equation) and ``routes.scaled_walk``.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from theory.errors import HypothesisError
from theory.growth import FAR, GrowthLaw, reflected_exponent
from theory.routes.scaled_walk import ScaledWalk, scaled_walk
from theory.routes.scaled_walk_law import scaled_walk_law
from theory.specs.activations import relu
from theory.specs.residual import Residual
from theory.states.exchangeable import Exchangeable

__all__ = ["reflected_gradient", "reflected_variance"]

# Two independent walks reflected at 0 have E[x x']/E[x^2] = (sqrt(2/pi))^2.
_INDEPENDENT_WALKS = 1.0 - 2.0 / math.pi
# Blocks after which a scaled walk has settled at both ends.
_SETTLED = 200


class Branch(Protocol):
    """What is asked of a network's branch; see ``residual_growth``."""

    batch: float

    def output(self, q: float, gap: float, mean: float = 0.0) -> Exchangeable:
        """F(x) at E[x^2] = q."""
        ...

    def added(self, q: float, gap: float) -> float:
        """E[F(x)^2]."""
        ...

    def pulled(self, q: float, gap: float) -> float:
        """Factor on squared gradients."""
        ...


def reflected_variance(network: Residual, branch: Branch) -> GrowthLaw:
    """Linear with slope b^2 E[N^2], or exponential where nothing divides by the stream."""
    if network.layer.norm is None:
        rate = _scaled(network, branch).second_moment
        route = f"reflected walk with steps proportional to it: q'/q -> {rate:.6g}"
        return GrowthLaw(kind="exponential", rate=rate, route=route)
    added = _slope(network, branch)
    route = f"reflected random walk with steps of variance {added:.6g}"
    return GrowthLaw(kind="linear", rate=added, route=route)


def reflected_gradient(network: Residual, branch: Branch, *, coupled: bool) -> GrowthLaw:
    """L^g with g of the survival equation, or the eigenvalue of the scaled walk's operator."""
    if network.layer.norm is None:
        rate = _scaled(network, branch).gradient
        route = f"eigenvalue of the gradient's operator along the scaled walk: {rate:.6g}"
        return GrowthLaw(kind="exponential", rate=rate, route=route)
    slope = _slope(network, branch)
    gap = 0.5
    if coupled:
        if branch.batch != math.inf:
            raise HypothesisError(
                f"batch = {branch.batch}: masks of several samples of a channel act together on the "
                "gradient through a normalizer over samples; take batch = inf or a population"
            )
        gap = _INDEPENDENT_WALKS
    share = network.factors[1] ** 2 * branch.pulled(FAR, gap) * FAR / slope
    exponent = reflected_exponent(share)
    route = f"walks reflected at 0, branches add {share:.6g}/l: root of the survival equation"
    return GrowthLaw(kind="polynomial", rate=exponent, route=route)


def _slope(network: Residual, branch: Branch) -> float:
    """Slope b^2 E[N^2] of relu(x + b N(W x)), or why this is no reflected walk."""
    skip, factor = network.factors
    norm = network.layer.norm
    if norm is None or network.layer.activation != relu or skip != 1.0:
        raise HypothesisError(
            "normalized post-activation streams have a derived law with relu and skip = 1; follow "
            "others as a population"
        )
    near, far = branch.output(FAR, 0.5), branch.output(16.0 * FAR, 0.5)
    if abs(far.second_moment / near.second_moment - 1.0) > 1e-9:
        raise HypothesisError(f"{norm.name} leaves the stream's scale in the branch: no walk")
    return factor * factor * near.second_moment


def _scaled(network: Residual, branch: Branch) -> ScaledWalk:
    """Rates per block without a normalizer."""
    skip, factor = network.factors
    activation = network.layer.activation
    if activation.base != relu or activation.scale <= 0.0 or network.scales:
        raise HypothesisError(
            "post-activation streams without a normalizer have a derived law with relu (scaled and "
            "shifted, maybe) and no scales; follow others as a population"
        )
    returned = factor * factor * branch.pulled(FAR, 0.5)
    if network.weights.centered:
        walk = _centered(network, branch, returned)
    else:
        step = abs(factor) * math.sqrt(branch.added(FAR, 0.5) / FAR)
        walk = scaled_walk(step, skip=skip, branch_gradient=returned)
    square = activation.scale**2
    if activation.shift != 0.0 and square * walk.second_moment <= 1.0:
        raise HypothesisError(
            "a shift decides where a stream that fades ends; follow it as a population"
        )
    # Beside a stream that grows a shift is nothing.
    return ScaledWalk(square * walk.second_moment, square * walk.gradient)


def _centered(network: Residual, branch: Branch, returned: float) -> ScaledWalk:
    """Rows that are centered see q - m^2, m the walk's own mean: the law is followed until it settles."""
    skip, factor = network.factors

    def step(mean: float, _: float) -> float:
        seen = branch.output(FAR, 0.0, mean * math.sqrt(FAR)).unscaled().second_moment
        return abs(factor) * math.sqrt(seen / FAR)

    law = scaled_walk_law(_SETTLED, step=step, skip=skip, branch_gradient=returned)
    assert law.log_gradient is not None
    forward, backward = np.diff(law.log_second_moment), -np.diff(law.log_gradient)
    half = _SETTLED // 2
    if abs(forward[-1] - forward[half]) > 1e-9 or abs(backward[half] - backward[half // 2]) > 1e-9:
        raise HypothesisError("the law of the scaled walk does not settle; take a larger branch")
    return ScaledWalk(math.exp(forward[-1]), math.exp(backward[half]))
