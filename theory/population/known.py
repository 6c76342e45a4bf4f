r"""What is known of a stream that is not Gaussian without a population, beside one.

walk
    relu(a x + b N(W x)): moments and gradients of one channel with the steps of a unit Gaussian (LN,
    RMSNorm), of a sphere's coordinate (GN), or in proportion to the stream (no normalizer); with BN
    moments (gradients: ``pair_paths``).
pair density
    Everything behind mean centering, or where weights have centered rows: see ``pair_laws``.
closed form
    a x + b N(F(x)), whatever the law of x: N(F(x)) is uncorrelated with x and E[N^2] = D/N_pool, so
    q' = a^2 q + b^2 D/N_pool; what BN adds has no mean over samples, so that q - p gains B/(B-1) of it.
    With GN and one map x -> W phi(x), phi positively homogeneous, also gradients: the process is symmetric
    under x -> -x, so that E[phi'(x)^2 | |x|, |N|, ...] is its mean, and gradients of different channels
    are uncorrelated over the skip; each block multiplies by a^2 + b^2 T/q as if x were Gaussian.
random flight
    Gradients of x + b N(F(N(x))), N over a finite pool (sandwich): see ``flights``; with BN also of
    x + b N(W phi(x)): see ``branch_ends``.  With VN everything of the latter: see ``shared_ends``.

Everything else is left to populations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.errors import HypothesisError, SpecificationError
from theory.operators import pushed_through
from theory.population.branch_ends import end_law, end_refusal
from theory.population.flights import behind, flight_law, flight_refusal
from theory.population.pair_laws import PAIR_DENSITY, pair_law, pair_law_refusal
from theory.population.shared_ends import shared_law, shared_refusal
from theory.population.spheres import initial
from theory.population.walks import (
    WALK_DENSITY,
    branch_gradient,
    scaled,
    scaled_refusal,
    sphere_steps,
    sphere_steps_refusal,
    walk,
    walk_refusal,
)
from theory.program import first_map
from theory.specs.inputs import ExchangeableInputs, SpatialInputs
from theory.specs.networks import Network
from theory.specs.residual import Residual
from theory.states.exchangeable import Exchangeable

__all__ = ["Known", "known", "second_moments"]

FloatArray = NDArray[np.float64]

FLIGHT = "random flight"

# Sums over grids and Poisson weights; recursions of closed forms.
_GRID, _ROUNDING = 1e-11, 1e-13


class Known(NamedTuple):
    """Numbers per layer, None where populations are asked; ``error`` is relative.

    ``log_map_second_moment`` and ``map_gap`` are those of h^l, ``mean`` is E[x^l] in units of its root mean
    square.
    """

    route: str = ""
    log_second_moment: FloatArray | None = None
    gap: FloatArray | None = None
    log_gradient: FloatArray | None = None
    log_branch_gradient: FloatArray | None = None
    error: float = 0.0
    gradient_route: str = ""
    log_map_second_moment: FloatArray | None = None
    map_gap: FloatArray | None = None
    map_route: str = ""
    mean: FloatArray | None = None

    def routes(self) -> Mapping[str, str]:
        """Route by observable."""
        found = {}
        if self.log_second_moment is not None:
            found["second_moment"] = self.route
        if self.map_gap is not None:
            names = ("second_moment", "gap", "correlation")
            found |= dict.fromkeys((f"preactivation_{name}" for name in names), self.map_route)
        if self.gap is not None:
            found |= dict.fromkeys(("gap", "similarity", "stable_rank", "variance"), self.route)
        if self.log_gradient is not None:
            found |= dict.fromkeys(
                ("gradient_norm", "branch_gradient_norm"), self.gradient_route or self.route
            )
        return found


def known(network: Network, inputs: ExchangeableInputs, *, backward: bool) -> Known:
    """What needs no population."""
    if not isinstance(network, Residual):
        return Known()
    if walk_refusal(network, inputs) is None:
        return _walk(network, inputs, backward=backward)
    if sphere_steps_refusal(network, inputs) is None:
        return _sphere_steps(network, inputs, backward=backward)
    if pair_law_refusal(network, inputs) is None:
        law = _pair_law(network, inputs, backward=backward)
        if law is not None:
            return law
    if scaled_refusal(network) is None:
        return _scaled(network, inputs, backward=backward)
    if shared_refusal(network, inputs) is None:
        return _shared(network, inputs, backward=backward)
    return _added(network, inputs, backward=backward)


def _walk(network: Residual, inputs: ExchangeableInputs, *, backward: bool) -> Known:
    try:
        law, route = walk(network, inputs, backward=backward)
    except SpecificationError:
        # Steps so small against the start, or so many, that the grid would not fit.
        return Known()
    gradient = branch = None
    if law.gradient is not None and law.shared is not None:
        gradient = np.log(law.gradient)
        branch = np.log(law.shared / network.weights.weight_variance)
    return Known(route, np.log(law.second_moment), None, gradient, branch, _GRID)


def _sphere_steps(network: Residual, inputs: ExchangeableInputs, *, backward: bool) -> Known:
    try:
        law, error = sphere_steps(network, inputs, backward=backward)
    except HypothesisError:
        # A start that is narrow against a step.
        return Known()
    gradient = branch = None
    if law.gradient is not None and law.shared is not None:
        # What the last stream has, exactly 1, shows what the grid leaves off in odd dimensions.
        gradient = np.log(law.gradient / law.gradient[-1])
        branch = np.log(law.shared / (law.gradient[-1] * network.weights.weight_variance))
    return Known(WALK_DENSITY, np.log(law.second_moment), None, gradient, branch, error)


def _pair_law(network: Residual, inputs: ExchangeableInputs, *, backward: bool) -> Known | None:
    try:
        law = pair_law(network, inputs, backward=backward)
    except HypothesisError:
        # Samples too much alike, or steps too small, for its nodes.
        return None
    return Known(
        PAIR_DENSITY,
        law.log_second_moment,
        law.gap,
        law.log_gradient,
        law.log_branch_gradient,
        law.error,
        log_map_second_moment=law.log_map_second_moment,
        map_gap=law.map_gap,
        map_route=PAIR_DENSITY,
        mean=law.mean,
    )


def _scaled(network: Residual, inputs: ExchangeableInputs, *, backward: bool) -> Known:
    try:
        law = scaled(network, inputs, backward=backward)
    except HypothesisError:
        # Steps so small against the stream that the grid would not fit.
        return Known()
    branch = law.log_shared
    if branch is not None:
        branch = branch - math.log(network.weights.weight_variance)
    return Known(WALK_DENSITY, law.log_second_moment, None, law.log_gradient, branch, _GRID)


def _shared(network: Residual, inputs: ExchangeableInputs, *, backward: bool) -> Known:
    """Everything of x + b VN(W phi(x))."""
    law = shared_law(network, inputs, backward=backward)
    found = Known(
        FLIGHT,
        np.log(law.second_moment),
        law.gap,
        error=law.error,
        log_map_second_moment=np.log(law.end.map_second_moment),
        map_gap=law.end.map_gap,
        map_route=FLIGHT,
    )
    if not backward:
        return found
    return found._replace(
        log_gradient=np.log(law.end.gradient), log_branch_gradient=np.log(law.end.branch_gradient)
    )


def _added(network: Residual, inputs: ExchangeableInputs, *, backward: bool) -> Known:
    """Moments of a x + b N(F(x)), and the law that knows more of it."""
    found = second_moments(network, inputs)
    if found.log_second_moment is None:
        return found
    if backward and flight_refusal(network, inputs) is None:
        return _with_flight(network, inputs, found)
    if end_refusal(network, inputs) is None:
        return _with_end(network, inputs, found, backward=backward)
    if backward and _is_symmetric(network, inputs):
        return _with_products(network, inputs, found)
    return found


def second_moments(network: Residual, inputs: ExchangeableInputs | SpatialInputs) -> Known:
    """q' = a^2 q + b^2 E[N^2] and, for BN without positions, q - p."""
    norm = network.layer.norm
    if norm is None or network.order not in ("branch_end_norm", "sandwich"):
        return Known()
    if not norm.centered or norm.denominator != "std" or norm.eps != 0.0 or norm.gate is not None:
        return Known()
    a, b = network.factors
    sizes = {"batch": inputs.batch, "positions": inputs.positions}
    size = norm.pool.size(**sizes)
    added = b * b * (1.0 if size == math.inf else norm.divisor(**sizes) / size)
    start = initial(network, inputs)
    blocks = np.arange(1.0, network.depth + 1.0)
    with np.errstate(over="ignore", under="ignore"):
        fading = a ** (2.0 * blocks)
        steps = blocks if a * a == 1.0 else (fading - 1.0) / (a * a - 1.0)
        second = fading * start.second_moment + added * steps
    if not np.isfinite(second).all() or not np.all(second > 0.0):
        return Known()
    gap = None
    if norm.pool.samples and inputs.positions == 1:
        contrast = fading * start.second_moment * start.gap
        gap = (contrast + added * steps * inputs.batch / (inputs.batch - 1.0)) / second
    found = Known("closed form", np.log(second), gap, error=_ROUNDING * network.depth)
    return found if gap is None else _maps(network, inputs, found)


def _with_flight(network: Residual, inputs: ExchangeableInputs, found: Known) -> Known:
    """Gradients of x + b N(F(N(x)))."""
    law = flight_law(network, inputs)
    return found._replace(
        log_gradient=np.log(law.gradient),
        log_branch_gradient=np.log(law.branch_gradient),
        error=max(found.error, law.error),
        gradient_route=FLIGHT,
    )


def _with_end(
    network: Residual, inputs: ExchangeableInputs, found: Known, *, backward: bool
) -> Known:
    """h^l and gradients of x + b N(W phi(x)), N over samples."""
    law = end_law(network, inputs)
    found = found._replace(
        log_map_second_moment=np.log(law.map_second_moment),
        map_gap=law.map_gap,
        map_route=FLIGHT,
        error=max(found.error, _GRID),
    )
    if not backward:
        return found
    return found._replace(
        log_gradient=np.log(law.gradient),
        log_branch_gradient=np.log(law.branch_gradient),
        gradient_route=FLIGHT,
    )


def _is_symmetric(network: Residual, inputs: ExchangeableInputs) -> bool:
    """Whether x + b N(W phi(x)) treats samples apart and is symmetric under x -> -x."""
    norm, activation = network.layer.norm, network.layer.activation
    assert norm is not None
    symmetric = activation.ray_slopes is not None and activation.shift == 0.0
    alone = network.order == "branch_end_norm" and network.maps == 1 and not norm.pool.samples
    return (
        symmetric
        and alone
        and not initial(network, inputs).mean
        and not network.scales
        and norm.pool.size(batch=inputs.batch, positions=1) > 3
    )


def _with_products(network: Residual, inputs: ExchangeableInputs, found: Known) -> Known:
    """E[g_l^2] = (a^2 + b^2 T/q_l) E[g_{l+1}^2], as if x were Gaussian."""
    activation, (a, b) = network.layer.activation, network.factors
    assert activation.ray_slopes is not None
    assert found.log_second_moment is not None
    # E[phi'^2] is what the mask passes between h and x.
    passed = 0.5 * activation.scale**2 * sum(slope * slope for slope in activation.ray_slopes)
    start = initial(network, inputs).unscaled()
    seen = np.concatenate(([start.second_moment], np.exp(found.log_second_moment[:-1])))
    share = b * b * branch_gradient(network) / seen
    gradient = np.append(np.cumsum(np.log(a * a + share[1:])[::-1])[::-1], 0.0)
    branch = gradient + np.log(share / (passed * network.weights.weight_variance))
    return found._replace(log_gradient=gradient, log_branch_gradient=branch)


def _maps(network: Residual, inputs: ExchangeableInputs | SpatialInputs, found: Known) -> Known:
    """h^l behind N over samples: uniform on a sphere, whatever the stream."""
    activation, norm = network.layer.activation, network.layer.norm
    assert norm is not None
    ray = activation.ray_slopes is not None and activation.shift == 0.0
    if network.order != "sandwich" or network.scales:
        return found
    if network.maps == 1 and (not ray or network.weights.centered):
        return found
    gap = inputs.batch / (inputs.batch - 1.0)
    divisor = norm.divisor(batch=inputs.batch, positions=1)
    state = Exchangeable(inputs.batch, divisor / inputs.batch, gap)
    ops = behind(network)
    state = pushed_through(ops[: first_map(ops)], state)[-1]
    ones = np.ones(network.depth)
    return found._replace(
        log_map_second_moment=math.log(state.unscaled().second_moment) * ones,
        map_gap=state.gap * ones,
        map_route=found.route,
    )
