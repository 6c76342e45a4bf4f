r"""Growth laws of residual networks: ``theory.growth`` with F and T from the network's own operators.

F(q) and T(q) are pushes and pulls of one branch at a stream of second moment q far out; T is the
spectral radius on (same sample, pair of samples).  What enters besides, order by order:

additive (pre-activation, pre-norm, branch-end norm, sandwich)
    branches are uncorrelated with the stream, whose normalized law tends to a Gaussian; with a
    normalizer over samples the gap settles where stream and branch agree.
activation before addition
    means add up as well: q_l ~ (b mu l)^2; without a normalizer (m, sqrt(q)) is mapped by a function
    homogeneous of degree 1 whose eigenvalue is the rate, for relu r = 1 + 2 a mu + sigma_w^2/2 with
    mu (sqrt(r) - 1) = a.
post-activation with relu
    a walk reflected at 0: slope b^2 E[N^2], and gradients by ``reflected_exponent``; without a
    normalizer its steps grow with it and rates are eigenvalues (``routes.scaled_walk``).
post-norm, DeepNorm
    T_N (a^2 + b^2 T) at the fixed point of N(a x + b F(x)); finite pools walk on a sphere
    (``routes.sphere_walk``); mean centering divides by nothing and leaves rates per block.

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
from theory.operators import bind_pull, bind_push
from theory.population.spheres import Sphere, sphere_refusal
from theory.program import Fork, Linear, Merge, NormAct, lower
from theory.reflected_growth import reflected_gradient, reflected_variance
from theory.specs.residual import Residual
from theory.states.base import Gradient
from theory.states.exchangeable import Exchangeable
from theory.streams import merge

__all__ = ["ResidualGrowth", "growth_law"]

_ADDITIVE = ("pre_activation", "pre_norm", "branch_end_norm", "sandwich")


@dataclass(frozen=True, kw_only=True)
class ResidualGrowth:
    """Laws of E[x_l^2] and of E|g_l|^2/E|g_L|^2 at the stream; None with the reason where underived."""

    variance: GrowthLaw | None
    gradient: GrowthLaw | None
    reasons: tuple[str, ...] = ()


def growth_law(network: Residual, *, batch: float | None = None) -> ResidualGrowth:
    """How variance and gradient of ``network`` grow with depth, derived from its operators.

    Parameters
    ----------
    network
        Residual, fully connected.
    batch
        Samples that a normalizer over samples pools; ``math.inf`` if not given.

    Raises
    ------
    SpecificationError
        Not a residual network, or one with a kernel.
    """
    if not isinstance(network, Residual) or network.layer.kernel != 1:
        raise out_of_domain(
            "network", network, "a fully connected residual network", "build it with Residual(...)"
        )
    size = assumed_batch(network.layer.norm) if batch is None else batch
    branch = _Branch(network, size)
    reasons: list[str] = []
    laws: list[GrowthLaw | None] = []
    for derive in (_variance, _gradient):
        try:
            _require_settled_scale(network)
            _require_means_that_count(network, branch)
            laws.append(derive(network, branch))
        except (HypothesisError, NumericalError) as error:
            laws.append(None)
            reasons.append(str(error))
    return ResidualGrowth(variance=laws[0], gradient=laws[1], reasons=tuple(reasons))


class _Branch:
    """F and what follows the sum, as operators on exchangeable states."""

    def __init__(self, network: Residual, batch: float) -> None:
        one = dataclasses.replace(network, depth=1, scales=(), stem=None)
        # DeepNorm's constants belong to the true depth.
        ops = lower(network if network.order == "deep_norm" else one)
        start = next(k for k, op in enumerate(ops) if isinstance(op, Fork))
        end = next(k for k, op in enumerate(ops) if isinstance(op, Merge))
        rest = next((k for k, op in enumerate(ops[end:]) if isinstance(op, Fork)), len(ops) - end)
        self.ops = [op for op in ops[start:end] if isinstance(op, Linear | NormAct)]
        self.after = [op for op in ops[end : end + rest] if isinstance(op, NormAct)]
        self.batch = batch
        self.scale = _feedback(network)

    def states(
        self, q: float, gap: float, ops: list[Linear | NormAct], mean: float = 0.0
    ) -> list[Exchangeable]:
        """The stream and what every operation makes of it."""
        found = [Exchangeable(self.batch, q, gap, mean)]
        for op in ops:
            push, _ = bind_push(op, found[-1])
            found.append(push(found[-1]))
        return found

    def output(self, q: float, gap: float, mean: float = 0.0) -> Exchangeable:
        """y = F(x), in units of 1."""
        if self.scale is not None:
            return self.states(self.scale, gap, self.ops)[-1].unscaled()
        return self.states(q, gap, self.ops, mean)[-1].unscaled()

    def added(self, q: float, gap: float) -> float:
        """F(q) = E[y^2]."""
        return self.output(q, gap).second_moment

    def pulled(self, q: float, gap: float) -> float:
        """T(q): spectral radius on (same, pair)."""
        if self.scale is not None:
            return self.scale / q * _radius(self.transfer(self.states(self.scale, gap, self.ops)))
        return _radius(self.transfer(self.states(q, gap, self.ops)))

    def transfer(
        self, states: list[Exchangeable], ops: list[Linear | NormAct] | None = None
    ) -> np.ndarray:
        """(same', pair') as a matrix times (same, pair)."""
        columns = []
        for value in ((1.0, 0.0), (1.0, 1.0)):
            gradient = Gradient(value, 0, 0.0)
            for op, state in zip(
                reversed(self.ops if ops is None else ops), reversed(states[:-1]), strict=True
            ):
                pull, _ = bind_pull(op, state)
                gradient = pull(state, gradient)
            columns.append(np.array(gradient.value) * 4.0**gradient.exponent)
        if not np.isfinite(columns).all():
            raise HypothesisError(
                "the mean squared gradient of a branch is infinite; pool more activations"
            )
        # (0, 1) = (1, 1) - (1, 0): operators take covariances.
        return np.stack([columns[0], columns[1] - columns[0]], axis=1)

    def settled_gap(self) -> float:
        """Gap of a sum of branches, where the branch at that gap has the same one."""
        gap = 0.5
        for step in range(200):
            state = self.output(FAR, gap)
            # Relative: a gap that vanishes has no limit.
            if abs(state.gap - gap) <= max(1e-12, state.gap_error) * gap:
                return state.gap
            gap = state.gap
            # A sampled branch takes a third of a second, and ten steps would settle to its error.
            if step >= 10 and state.gap_error > 1e-9:
                break
        raise HypothesisError(
            "samples collapse without a limit that a normalizer over samples needs"
        )


def _variance(network: Residual, branch: _Branch) -> GrowthLaw:
    skip, factor = network.factors
    order = network.order
    if branch.after and order != "post_activation":
        return _normalized_sum(network, branch)[0]
    if order == "post_activation":
        return reflected_variance(network, branch)
    gap = branch.settled_gap() if math.isfinite(branch.batch) and _couples(network) else 0.5
    if order == "activation_before_addition" and factor != 0.0:
        norm = network.layer.norm
        if norm is not None and norm.couples_samples and norm.denominator == "none":
            # Means that add up follow the contrasts of samples, which is all that branches see.
            return _contrast(network, branch)
        return _added_activations(network, branch, gap)
    bounded = _per_depth(network, branch.added(FAR, gap) / FAR)
    return bounded or stream_growth(lambda q: branch.added(q, gap), skip=skip, factor=factor)


def _gradient(network: Residual, branch: _Branch) -> GrowthLaw:
    skip, factor = network.factors
    if branch.after and network.order != "post_activation":
        return _normalized_sum(network, branch)[1]
    if factor == 0.0:
        return _per_block_of_skip(skip)
    if network.order == "post_activation":
        return reflected_gradient(network, branch, coupled=_couples(network))
    coupled = _couples(network)
    if network.order in _ADDITIVE:
        _require_gaussian_limit(network, branch)
        gap = branch.settled_gap() if coupled else 0.5
        stream = _variance(network, branch)
    elif coupled:
        # Means of all samples agree, so that what a norm over samples sees is q - p, not q.
        stream = _contrast(network, branch)
        gap = 0.5
        return gradient_growth(
            lambda contrast: branch.pulled(2.0 * contrast, gap),
            stream=stream,
            skip=skip,
            factor=factor,
        )
    else:
        gap, stream = 0.5, _variance(network, branch)
    bounded = _per_depth(network, branch.pulled(FAR, gap))
    return bounded or gradient_growth(
        lambda q: branch.pulled(q, gap), stream=stream, skip=skip, factor=factor
    )


def _added_activations(network: Residual, branch: _Branch, gap: float) -> GrowthLaw:
    """x + phi(N(W x)): q_l ~ (b mu l)^2, or the eigenvalue of (m, q) -> (m', q')."""
    skip, factor = network.factors
    near, far = branch.output(FAR, gap), branch.output(16.0 * FAR, gap)
    if abs(math.log(far.second_moment / near.second_moment)) > 1e-9:
        rate = _homogeneous_rate(network, branch, gap)
        route = f"eigenvalue of the homogeneous map of (m, q): q'/q -> {rate:.6g}"
        return GrowthLaw(kind="exponential", rate=rate, route=route)
    step = factor * near.mean
    if skip != 1.0 or abs(step) < 1e-12:
        return stream_growth(lambda q: branch.added(q, gap), skip=skip, factor=factor)
    return GrowthLaw(
        kind="polynomial",
        rate=2.0,
        coefficient=step * step,
        route=f"E[x_l] = {step:.6g} l adds up, q_l ~ E[x_l]^2",
    )


def _homogeneous_rate(network: Residual, branch: _Branch, gap: float) -> float:
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


def _contrast(network: Residual, branch: _Branch) -> GrowthLaw:
    """Law of q - p = E[(x - x')^2]/2 where branches do not see the scale."""
    skip, factor = network.factors

    def added(contrast: float) -> float:
        y = branch.output(2.0 * contrast, 0.5)
        return y.second_moment * y.gap

    return stream_growth(added, skip=skip, factor=factor)


def _normalized_sum(network: Residual, branch: _Branch) -> tuple[GrowthLaw, GrowthLaw]:
    """N(a x + b F(x)): bounded, and the factor T_N (a^2 + b^2 T) at its fixed point."""
    norm = network.layer.norm
    if norm is None:
        raise HypothesisError("nothing normalizes the sum; choose an order without post-norm")
    if norm.denominator == "none":
        return _centered_sum(network, branch)
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
    base = _radius(matrix @ branch.transfer(outer, list(branch.after)))
    variance = GrowthLaw(
        kind="bounded", rate=state.second_moment, route="the last operation of a block normalizes"
    )
    constant = GrowthLaw(kind="bounded", rate=1.0, route="")
    return variance, gradient_growth(lambda _: base, stream=constant, skip=0.0, factor=1.0)


def _on_a_sphere(network: Residual, branch: _Branch) -> tuple[GrowthLaw, GrowthLaw]:
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


def _centered_sum(network: Residual, branch: _Branch) -> tuple[GrowthLaw, GrowthLaw]:
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
        return _radius((skip * skip * np.eye(2) + factor * factor * inner) @ outer)

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
            f"{norm.name} adds the more the more alike samples have become, and they go on becoming so: "
            "no law is derived for it; predict it at the depth in question"
        )


def _require_means_that_count(network: Residual, branch: _Branch) -> None:
    """Branches with E[y] != 0 add up means beside variances, which only skip = 1 with phi last knows."""
    skip, factor = network.factors
    norm = network.layer.norm
    added = network.order == "activation_before_addition"
    if norm is None or norm.denominator == "none" or factor == 0.0:
        return
    if not (network.order in _ADDITIVE or (added and skip != 1.0)):
        return
    y = branch.output(FAR, 0.5)
    if abs(y.mean) > 1e-9 * math.sqrt(y.second_moment):
        raise HypothesisError(
            f"branches that end in {norm.name} and an activation have a mean, which adds up along the stream "
            f"with skip = {skip}: no law is derived for it; predict it at the depth in question"
        )


def _per_block_of_skip(skip: float) -> GrowthLaw:
    constant = GrowthLaw(kind="bounded", rate=1.0, route="")
    return gradient_growth(lambda _: 0.0, stream=constant, skip=skip, factor=0.0)


def _require_gaussian_limit(network: Residual, branch: _Branch) -> None:
    """Ends with a finite pool: only sums of many such branches are Gaussian."""
    last = branch.ops[-1]
    if isinstance(last, Linear) or last.norm is None or last.norm.pool.channels == math.inf:
        return
    if abs(network.factors[0]) != 1.0:
        raise HypothesisError(
            f"with skip = {network.factors[0]} few branches that end in {last.norm.name} make up the "
            "stream, which is not Gaussian; follow it as a population"
        )


def _feedback(network: Residual) -> float | None:
    """E[(scale_l x_l)^2] if the scales keep it fixed (NF scaling), None without scales."""
    if not network.scales:
        return None
    bare = _Branch(dataclasses.replace(network, scales=()), 2)
    skip, factor = network.factors
    s = np.array(network.scales)
    # NF scaling keeps s_l^2 q_l = k, hence q' = a^2 q + b^2 F(k) along 1/s_l^2.
    k = 1.0
    expected = skip * skip / s[:-1] ** 2 + factor * factor * bare.added(k, 0.5)
    if not np.allclose(expected * s[1:] ** 2, 1.0, rtol=1e-6, atol=0.0):
        raise HypothesisError(
            "scales that do not follow the stream's predicted root mean square have no law of growth; "
            "let nf_scaled compute them"
        )
    return k


def _couples(network: Residual) -> bool:
    norm = network.layer.norm
    return norm is not None and norm.couples_samples


def _radius(matrix: np.ndarray) -> float:
    return float(np.max(np.abs(np.linalg.eigvals(matrix))))
