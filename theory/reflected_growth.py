"""Growth laws of phi(a x + b N(F(x))) with relu: walks reflected at 0.

Source: theory notes, section 5; ``theory.growth`` (survival equation) and ``routes.scaled_walk``.
"""

from __future__ import annotations

import math
from typing import Protocol

from theory.errors import HypothesisError
from theory.growth import FAR, GrowthLaw, reflected_exponent
from theory.routes.scaled_walk import ScaledWalk, scaled_walk
from theory.specs.activations import relu
from theory.specs.residual import Residual
from theory.states.exchangeable import Exchangeable

__all__ = ["reflected_gradient", "reflected_variance"]

# Two independent walks reflected at 0 have E[x x']/E[x^2] = (sqrt(2/pi))^2.
_INDEPENDENT_WALKS = 1.0 - 2.0 / math.pi


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
    if network.layer.activation != relu or network.weights.centered or network.scales:
        raise HypothesisError(
            "post-activation streams without a normalizer have a derived law with relu, "
            "weights that are not centered and no scales; follow others as a population"
        )
    step = abs(factor) * math.sqrt(branch.added(FAR, 0.5) / FAR)
    return scaled_walk(step, skip=skip, branch_gradient=factor * factor * branch.pulled(FAR, 0.5))
