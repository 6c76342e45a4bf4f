r"""Growth laws with the branch at 0 (SkipInit, ReZero, Fixup at the start): x -> a x, phi(a x) or N(a x).

phi(a x) maps rays to rays: with a > 0 and phi(x) = u x on x > 0 the positive one grows by a u per block, and
phi(x) = v x on x < 0 keeps the negative one if v > 0.  N at eps = 0 is a projection up to scale, N(N(x)) =
N(x), and so is its Jacobian behind the first block.  Nothing is drawn, so that no law of large depth enters.
"""

from __future__ import annotations

import math

from theory.errors import HypothesisError
from theory.growth import GrowthLaw, gradient_growth, stream_growth
from theory.specs.residual import Residual

__all__ = ["still_laws"]


def still_laws(network: Residual, batch: float) -> tuple[GrowthLaw, GrowthLaw] | None:
    """Laws of variance and gradient with branch = 0, or None where the norm of a layer with eps decides.

    Raises
    ------
    HypothesisError
        phi that is not positively homogeneous, or that turns rays around; N with a gate, or finite pools with
        eps > 0.
    """
    norm = network.layer.norm
    if network.order == "post_activation":
        return _per_block(_ray_factor(network))
    if network.order not in ("post_norm", "deep_norm") or norm is None:
        return _per_block(abs(network.factors[0]))
    if norm.denominator == "none":
        # A projection between blocks.
        return _per_block(abs(network.factors[0]))
    size = norm.pool.size(batch=batch, positions=1)
    if norm.gate is not None or (norm.eps != 0.0 and size != math.inf):
        raise HypothesisError(
            f"with branch = 0 a block is {norm.name} of the last one's output, which is not Gaussian, and "
            "with a gate or eps > 0 no projection; predict it at the depth in question"
        )
    if norm.eps != 0.0:
        return None
    settled = math.nan
    if norm.centered and norm.denominator == "std":
        settled = 1.0 if size == math.inf else norm.divisor(batch=batch, positions=1) / size
    elif norm.denominator == "rms":
        settled = 1.0
    route = f"branch = 0: {norm.name} of its own output changes nothing"
    variance = GrowthLaw(kind="bounded", rate=settled, route=route)
    return variance, GrowthLaw(kind="bounded", rate=1.0, route=route)


def _per_block(factor: float) -> tuple[GrowthLaw, GrowthLaw]:
    """x' = factor x wherever anything is left."""
    variance = stream_growth(lambda _: 0.0, skip=factor, factor=0.0)
    constant = GrowthLaw(kind="bounded", rate=1.0, route="")
    return variance, gradient_growth(lambda _: 0.0, stream=constant, skip=factor, factor=0.0)


def _ray_factor(network: Residual) -> float:
    """The larger of the factors on rays that phi(a x) maps to themselves."""
    activation, skip = network.layer.activation, network.factors[0]
    slopes = activation.ray_slopes
    if slopes is None or activation.shift != 0.0 or not skip > 0.0:
        raise HypothesisError(
            f"with branch = 0 and skip = {skip} a block is {activation.name}(skip x) of the last one's "
            "output, which has no law of the four but for relu and its kin without a shift and skip > 0; "
            "predict it at the depth in question"
        )
    up, down = activation.scale * slopes[0], -activation.scale * slopes[1]
    if not up > 0.0:
        raise HypothesisError(
            f"with branch = 0 {activation.name} turns x > 0 around; use a positive scale"
        )
    return skip * max(up, down)
