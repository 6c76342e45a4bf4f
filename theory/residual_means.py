r"""Growth of streams whose branches have a mean: E[y] != 0 adds up beside the variances.

With y = F(x) uncorrelated with x beyond the means (fresh weights), m = E[x] and v = q - m^2,

    m' = a m + b E[y],      v' = a^2 v + b^2 Var[y].

If y forgets the scale of x: q_l ~ (b E[y] l)^2 at a = 1; linear with slope b^2 Var[y] at a = -1, where
means alternate; for |a| < 1 the fixed point b^2 Var[y]/(1 - a^2) + (b E[y]/(1 - a))^2; a^2 per block
beyond.  If y is homogeneous in x (no normalizer), (m, sqrt(q)) has a map of degree 1 and the rate is
its eigenvalue.

Source: theory notes, section 5 (activation before addition with a = 1); else derived here.
"""

from __future__ import annotations

import math

from theory.errors import HypothesisError
from theory.growth import FAR, GrowthLaw, stream_growth
from theory.residual_branch import Branch
from theory.specs.residual import Residual

__all__ = ["added_activations", "added_means", "contrast_growth"]


def added_activations(network: Residual, branch: Branch, gap: float) -> GrowthLaw:
    """x + phi(N(W x)): q_l ~ (b mu l)^2, or the eigenvalue of (m, q) -> (m', q')."""
    near, far = branch.output(FAR, gap), branch.output(16.0 * FAR, gap)
    if abs(math.log(far.second_moment / near.second_moment)) > 1e-9:
        rate = _homogeneous_rate(network, branch, gap)
        if rate < 1.0:
            return _settled_means(network, branch, gap)
        route = f"eigenvalue of the homogeneous map of (m, q): q'/q -> {rate:.6g}"
        return GrowthLaw(kind="exponential", rate=rate, route=route)
    return added_means(network, branch, gap)


def added_means(network: Residual, branch: Branch, gap: float) -> GrowthLaw:
    """m' = a m + b E[y] and v' = a^2 v + b^2 Var[y] with q = m^2 + v, where y forgets the scale."""
    skip, factor = network.factors
    if abs(skip) < 1.0:
        return _settled_means(network, branch, gap)
    near, far = branch.output(FAR, gap), branch.output(16.0 * FAR, gap)
    if abs(math.log(far.second_moment / near.second_moment)) > 1e-9:
        raise HypothesisError(
            "branches whose mean is not 0 and that grow with the stream have no derived law in this "
            "order; follow it as a population"
        )
    step = factor * near.mean
    if skip != 1.0 or abs(step) < 1e-12:
        # Means alternate at a = -1, so that twice their product takes E[y]^2 off in two blocks.
        spread = near.second_moment - near.mean**2
        return stream_growth(lambda _: spread, skip=skip, factor=factor)
    return GrowthLaw(
        kind="polynomial",
        rate=2.0,
        coefficient=step * step,
        route=f"E[x_l] = {step:.6g} l adds up, q_l ~ E[x_l]^2",
    )


def _settled_means(network: Residual, branch: Branch, gap: float) -> GrowthLaw:
    """Fixed point of (m, q) with |a| < 1."""
    a, b = network.factors
    mean, q = 0.0, 1.0
    for _ in range(10_000):
        y = branch.output(q, gap, mean)
        new = a * a * q + 2.0 * a * b * mean * y.mean + b * b * y.second_moment
        new_mean = a * mean + b * y.mean
        if abs(new - q) <= 1e-14 * q and abs(new_mean - mean) <= 1e-14 * math.sqrt(q):
            return GrowthLaw(
                kind="bounded", rate=new, route=f"fixed point, with E[x] = {new_mean:.6g}"
            )
        mean, q = new_mean, new
        if q < 1e-200:
            return GrowthLaw(kind="bounded", rate=0.0, route="fixed point of q'")
    raise HypothesisError(
        "mean and second moment have no fixed point within reach; is skip near 1?"
    )


def _homogeneous_rate(network: Residual, branch: Branch, gap: float) -> float:
    """lim q'/q of m' = a m + b E[y], q' = a^2 q + 2ab m E[y] + b^2 E[y^2]."""
    a, b = network.factors
    root, mean, rate = math.sqrt(FAR), 0.0, 0.0
    for _ in range(10_000):
        y = branch.output(FAR, gap, mean * root)
        y_mean, y_square = y.mean / root, y.second_moment / FAR
        new = a * a + 2.0 * a * b * mean * y_mean + b * b * y_square
        mean = (a * mean + b * y_mean) / math.sqrt(new)
        if abs(new - rate) <= 1e-14 * new:
            return new
        rate = new
    raise HypothesisError("the map of mean and second moment has no limiting direction")


def contrast_growth(network: Residual, branch: Branch, *, about_mean: bool = False) -> GrowthLaw:
    """Law of q - p = E[(x - x')^2]/2, or of q - m^2, where branches do not see the scale."""
    skip, factor = network.factors

    def added(apart: float) -> float:
        y = branch.output(2.0 * apart, 0.5)
        return y.second_moment - y.mean**2 if about_mean else y.second_moment * y.gap

    return stream_growth(added, skip=skip, factor=factor)
