r"""Growth laws of residual networks: ``theory.growth`` with F and T from the network's own operators.

F(q) and T(q) are pushes and pulls of one branch at a stream of second moment q far out; T is the
spectral radius on (same sample, pair of samples).  What enters besides, order by order:

additive (pre-activation, pre-norm, branch-end norm, sandwich)
    branches are uncorrelated with the stream, whose normalized law tends to a Gaussian; with a
    normalizer over samples the gap settles where stream and branch agree.  Branches that end in a
    mean other than 0 (EvoNorm-S0) add up means, whose gradients are not derived.  Behind VN samples
    grow alike, and it divides by what tells them apart: a power above 1.
activation before addition
    means add up as well, whatever the skip (``residual_means``); without a normalizer, for relu
    r = 1 + 2 a mu + sigma_w^2/2 with mu (sqrt(r) - 1) = a.
post-activation with relu
    a walk reflected at 0: slope b^2 E[N^2], and gradients by ``reflected_exponent``; without a
    normalizer its steps grow with it and rates are eigenvalues (``routes.scaled_walk``).
post-norm, DeepNorm
    T_N (a^2 + b^2 T) at the fixed point of N(a x + b F(x)); finite pools walk on a sphere
    (``routes.sphere_walk``); mean centering divides by nothing and leaves rates per block.
branch = 0
    nothing is drawn: ``residual_still``.

Source: theory notes, section 5.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from theory.errors import HypothesisError, NumericalError, out_of_domain
from theory.evidence import assumed_batch
from theory.growth import FAR, GrowthLaw, gradient_growth, stream_growth
from theory.numerics import within_range
from theory.population.gated import gated_growth, gated_refusal
from theory.population.spheres import Sphere, sphere_refusal
from theory.program import Linear, NormAct
from theory.reflected_growth import reflected_gradient, reflected_variance
from theory.residual_branch import ADDITIVE, Branch, couples, has_mean, spectral_radius
from theory.residual_means import added_activations, added_means, contrast_growth
from theory.residual_still import still_laws
from theory.routes.cylinder_step import cylinder_step
from theory.specs._check import samples
from theory.specs.activations import identity
from theory.specs.residual import Residual
from theory.states.exchangeable import Exchangeable
from theory.streams import merge

__all__ = ["ResidualGrowth", "growth_law"]


@dataclass(frozen=True, kw_only=True)
class ResidualGrowth:
    """Laws of E[x_l^2] and of E|g_l|^2/E|g_L|^2 at the stream; None with the reason where underived.

    ``batch`` is that which a normalizer pools, None where samples are treated apart.
    """

    variance: GrowthLaw | None
    gradient: GrowthLaw | None
    reasons: tuple[str, ...] = ()
    batch: float | None = None


@within_range
def growth_law(network: Residual, *, batch: float | None = None) -> ResidualGrowth:
    """How variance and gradient of ``network`` grow with depth, derived from its operators.

    Parameters
    ----------
    network
        Residual, fully connected.
    batch
        Samples that a normalizer over samples pools; ``math.inf`` if not given: of ``predict``'s inputs
        and on the command line it is theirs.

    Raises
    ------
    SpecificationError
        Not a residual network, or one with a kernel.
    """
    if not isinstance(network, Residual) or network.layer.kernel != 1:
        raise out_of_domain(
            "network", network, "a fully connected residual network", "build it with Residual(...)"
        )
    size = assumed_batch(network.layer.norm) if batch is None else samples(batch)
    if network.order == "post_activation" and network.layer.activation == identity:
        # Nothing is reflected.
        network = dataclasses.replace(network, order="activation_before_addition")
    found = _derived(network, size)
    return dataclasses.replace(found, batch=size) if couples(network) else found


def _derived(network: Residual, size: float) -> ResidualGrowth:
    if network.factors[1] == 0.0:
        try:
            still = still_laws(network, size)
        except HypothesisError as error:
            return ResidualGrowth(variance=None, gradient=None, reasons=(str(error),))
        if still is not None:
            return ResidualGrowth(variance=still[0], gradient=still[1])
    branch = Branch(network, size)
    reasons: list[str] = []
    laws: list[GrowthLaw | None] = []
    for derive in (_variance, _gradient):
        try:
            if derive is _gradient or not _vn_on_rays(network, branch):
                _require_settled_scale(network)
            law = derive(network, branch)
            if law is not None and law.kind != "bounded" and math.isnan(law.rate):
                raise NumericalError("its rate is no number: for these factors no law is derived")
            laws.append(law)
        except (HypothesisError, NumericalError) as error:
            laws.append(None)
            reasons.append(str(error))
    return ResidualGrowth(variance=laws[0], gradient=laws[1], reasons=tuple(reasons))


def _variance(network: Residual, branch: Branch) -> GrowthLaw:
    skip, factor = network.factors
    order = network.order
    if _vn_on_rays(network, branch):
        return _alike(branch) if order in ADDITIVE else _collapsing(network, branch)
    if branch.after and order != "post_activation":
        return _normalized_sum(network, branch)[0]
    if order == "post_activation":
        return reflected_variance(network, branch)
    gap = branch.settled_gap() if math.isfinite(branch.batch) and couples(network) else 0.5
    if order == "activation_before_addition":
        norm = network.layer.norm
        if norm is not None and norm.couples_samples and norm.denominator == "none":
            # Means that add up follow the contrasts of samples, which is all that branches see.
            return contrast_growth(network, branch)
        return added_activations(network, branch, gap)
    if order in ADDITIVE and has_mean(branch.output(FAR, gap)):
        if abs(skip) < 1.0:
            raise HypothesisError(
                "branches whose mean is not 0 meet a bounded stream that is neither centered nor "
                "Gaussian; follow it as a population"
            )
        return added_means(network, branch, gap)
    bounded = _per_depth(network, branch.added(FAR, gap) / FAR)
    return bounded or stream_growth(lambda q: branch.added(q, gap), skip=skip, factor=factor)


def _gradient(network: Residual, branch: Branch) -> GrowthLaw:
    skip, factor = network.factors
    if branch.after and network.order != "post_activation":
        return _normalized_sum(network, branch)[1]
    if network.order == "post_activation":
        return reflected_gradient(network, branch, coupled=couples(network))
    coupled = couples(network)
    if network.order in ADDITIVE:
        _require_gaussian_limit(network, branch)
        gap = branch.settled_gap() if coupled else 0.5
        if has_mean(branch.output(FAR, gap)):
            raise HypothesisError(
                "branches whose mean is not 0 add up to a stream whose mean the first operation of "
                "a branch sees, and its gradient there is not derived; follow it as a population"
            )
        stream = _variance(network, branch)
    elif coupled:
        # Means of all samples agree, so that what a norm over samples sees is q - p, not q.
        stream = contrast_growth(network, branch)
        gap = 0.5
        return gradient_growth(
            lambda apart: branch.pulled(2.0 * apart, gap),
            stream=stream,
            skip=skip,
            factor=factor,
        )
    else:
        gap, stream = 0.5, _variance(network, branch)
        if network.weights.centered and network.layer.norm is not None:
            # Centered rows do not see the mean that adds up.
            stream = contrast_growth(network, branch, about_mean=True)
    bounded = _per_depth(network, branch.pulled(FAR, gap))
    return bounded or gradient_growth(
        lambda q: branch.pulled(q, gap), stream=stream, skip=skip, factor=factor
    )


def _vn_on_rays(network: Residual, branch: Branch) -> bool:
    """VN over 3 < B < inf samples where ``_alike`` or ``_collapsing`` is derived."""
    norm, activation = network.layer.norm, network.layer.activation
    if (
        norm is None
        or (norm.pool.samples, norm.pool.channels, norm.gate) != (True, 1, None)
        or (norm.denominator, norm.centered) != ("std", False)
        or activation.ray_slopes is None
        or activation.shift != 0.0
        or network.weights.centered
        or not 3.0 < branch.batch < math.inf
    ):
        return False
    if network.order == "post_norm":
        return not network.scales and norm.eps == 0.0
    # b = 1/sqrt(L) leaves the samples where they are.
    per_depth = network.depth > 1 and network.factors[1] == 1.0 / math.sqrt(network.depth)
    return network.order in ADDITIVE and abs(network.factors[0]) == 1.0 and not per_depth


def _alike(branch: Branch) -> GrowthLaw:
    """q' - q ~ c r q/d and d' - d ~ c with d = q - p -> 0 beside q: q ~ l^r, r = ((B-1)/(B-3))^N.

    Behind VN contrasts of samples are B/(B-1) and E[N^2] ~ B/(B-3) q/d (N of them in a branch, before phi,
    at its end, or both), and samples that are alike have one sign, so that phi scales both.  Derived here.
    """
    size = branch.batch
    norms = sum(isinstance(op, NormAct) and op.norm is not None for op in branch.ops)
    power = ((size - 1.0) / (size - 3.0)) ** norms
    slow = 0.5 * (power - 1.0)
    route = f"q' - q ~ {power:.6g} c q/(q - p), q - p ~ c l; approached as slowly as l^-{slow:.3g}"
    return GrowthLaw(kind="polynomial", rate=power, route=route)


def _collapsing(network: Residual, branch: Branch) -> GrowthLaw:
    """VN(a x + b F(x)) of samples that are alike: q'/q -> (a^2 + b^2 f) E[1/s^2].

    Contrasts of x stay D/(B-1), and a branch whose samples have one sign makes f of them as of q, so that
    s is that of a walk on a cylinder (``routes.cylinder_step``).  Derived here.
    """
    norm = network.layer.norm
    assert norm is not None
    skip, factor = network.factors
    radius2 = norm.divisor(batch=branch.batch, positions=1)
    added = factor * factor * branch.added(1.0, 0.5)
    step = cylinder_step(
        dimensions=int(branch.batch) - 1,
        radius2=radius2,
        skip=skip,
        noise=added * radius2 / (branch.batch - 1.0),
    )
    base = (skip * skip + added) * step.inverse
    if not base > 1.0:
        raise HypothesisError(
            f"samples that are alike would shrink to {base:.6g} of their second moment in each block, "
            "so they do not stay alike, and no law is derived; predict it at the depth in question"
        )
    route = f"q'/q -> (a^2 + b^2 f) E[1/s^2] = {base:.6g} as samples become alike"
    return GrowthLaw(kind="exponential", rate=base, route=route)


def _normalized_sum(network: Residual, branch: Branch) -> tuple[GrowthLaw, GrowthLaw]:
    """N(a x + b F(x)): bounded, and the factor T_N (a^2 + b^2 T) at its fixed point."""
    norm = network.layer.norm
    if norm is None:
        raise HypothesisError("nothing normalizes the sum; choose an order without post-norm")
    if norm.denominator == "none":
        return _centered_sum(network, branch)
    if norm.gate is not None:
        return _gated_sum(network)
    if norm.pool.channels != math.inf and branch.batch != math.inf:
        return _on_a_sphere(network, branch)
    skip, factor = network.factors
    state = Exchangeable(branch.batch, 1.0, 0.5)
    for _ in range(500):
        inner = branch.states(state.second_moment, state.gap, branch.ops)
        total = merge(state, inner[-1], skip=skip, branch=factor)
        outer = branch.states(total.second_moment, total.gap, list(branch.after))
        new = outer[-1].unscaled()
        settled = abs(new.gap - state.gap) < 1e-13 and new.second_moment == state.second_moment
        state = new
        # A gap that creeps to 0 concerns pairs only, unless the normalizer pools samples.
        if settled:
            break
    matrix = skip * skip * np.eye(2) + factor * factor * branch.transfer(inner)
    base = spectral_radius(matrix @ branch.transfer(outer, list(branch.after)))
    variance = GrowthLaw(
        kind="bounded", rate=state.second_moment, route="the last operation of a block normalizes"
    )
    constant = GrowthLaw(kind="bounded", rate=1.0, route="")
    return variance, gradient_growth(lambda _: base, stream=constant, skip=0.0, factor=1.0)


def _on_a_sphere(network: Residual, branch: Branch) -> tuple[GrowthLaw, GrowthLaw]:
    """Finite pools: exact, although no stream is Gaussian (``routes.sphere_walk``)."""
    refusal = sphere_refusal(network)
    if refusal is not None:
        raise HypothesisError(
            f"the norm of a sum that it made itself is not Gaussian, and {refusal}; follow it as a "
            "population"
        )
    sphere = Sphere(network, branch.batch)
    route = "the last operation of a block brings it to a sphere"
    size = sphere.settled.second_moment
    variance = GrowthLaw(kind="bounded", rate=size, route=route)
    constant = GrowthLaw(kind="bounded", rate=1.0, route="")
    base = sphere.factor()
    return variance, gradient_growth(lambda _: base, stream=constant, skip=0.0, factor=1.0)


def _gated_sum(network: Residual) -> tuple[GrowthLaw, GrowthLaw]:
    """N(a x + b F(x)) with EvoNorm: streams are not Gaussian, one channel's law is a density."""
    refusal = gated_refusal(network)
    if refusal is not None:
        raise HypothesisError(
            f"the gate of a sum that it made itself acts on no Gaussian, and {refusal}; follow it as a "
            "population"
        )
    size, base = gated_growth(network)
    route = "the last operation of a block divides by a number: a walk through its gate"
    variance = GrowthLaw(kind="bounded", rate=size, route=route)
    constant = GrowthLaw(kind="bounded", rate=1.0, route="")
    return variance, gradient_growth(lambda _: base, stream=constant, skip=0.0, factor=1.0)


def _centered_sum(network: Residual, branch: Branch) -> tuple[GrowthLaw, GrowthLaw]:
    """P(a x + b F(x)): nothing divides, so that q'/q and the gradient's factor are per block."""
    skip, factor = network.factors
    gap = 1.0 if branch.batch == math.inf else branch.batch / (branch.batch - 1.0)

    def block(q: float) -> list[Exchangeable]:
        inner = branch.states(q, gap, branch.ops)
        total = merge(inner[0], inner[-1], skip=skip, branch=factor).unscaled()
        return branch.states(total.second_moment, total.gap, list(branch.after))

    def grown(q: float) -> float:
        return block(q)[-1].unscaled().second_moment - skip * skip * q

    def returned(q: float) -> float:
        inner = branch.transfer(branch.states(q, gap, branch.ops))
        outer = branch.transfer(block(q), list(branch.after))
        return spectral_radius((skip * skip * np.eye(2) + factor * factor * inner) @ outer)

    variance = stream_growth(grown, skip=skip)
    return variance, gradient_growth(returned, stream=variance, skip=0.0, factor=1.0)


def _per_depth(network: Residual, share: float) -> GrowthLaw | None:
    """b = 1/sqrt(L): (1 + t/L)^L -> e^t, where t is the branch's share."""
    if network.depth < 2 or network.factors != (1.0, 1.0 / math.sqrt(network.depth)):
        return None
    if share < 1e-9:
        return GrowthLaw(kind="bounded", rate=math.nan, route="L blocks add O(1/L) each")
    route = f"(1 + {share:.6g}/L)^L -> e^{share:.6g}"
    return GrowthLaw(kind="bounded", rate=math.exp(share), route=route)


def _require_settled_scale(network: Residual) -> None:
    """VN keeps means and divides by the deviation over samples, which vanishes beside them."""
    norm = network.layer.norm
    if norm is None or not norm.couples_samples or norm.denominator == "none" or norm.centered:
        return
    if network.factors[1] != 0.0 or network.order in ("post_norm", "deep_norm"):
        raise HypothesisError(
            f"{norm.name} divides by the deviation over samples: a branch adds in proportion to "
            "(B q/(q - p) - 2)/(B - 3), more the more alike samples become (q/(q - p) at B = inf), and "
            "no law is derived for it; predict it at the depth in question"
        )


def _require_gaussian_limit(network: Residual, branch: Branch) -> None:
    """Ends with a finite pool: only sums of many such branches are Gaussian."""
    last = branch.ops[-1]
    if isinstance(last, Linear) or last.norm is None or last.norm.pool.channels == math.inf:
        return
    if abs(network.factors[0]) != 1.0:
        raise HypothesisError(
            f"with skip = {network.factors[0]} few branches that end in {last.norm.name} make up the "
            "stream, which is not Gaussian; follow it as a population"
        )
