r"""Gradients of x + b N(F(N(x))), N over a finite pool (sandwich): exact, by the random flight of x.

Pooled and centered, N(F(.)) adds vectors rho v, v uniform on the sphere of n dimensions and independent
of the stream (GN: n = G - 1, BN: n = B - 1; rho^2 = b^2 D), so that x_k is a random flight.  Block k + 1
returns i_k = P_x e_k sqrt(D)/|x_k| to x_k: e_k is Gaussian, isotropic with variance eps_k and independent
of the path, P_x projects onto what is tangential.  What skips is left alone, so that the contrasts of
g_l are those of Pi = I at the end and the sum of i_k, k >= l.  The last norm of block l takes

    b^2 D E[|h|^-2] (E|g_l|^2 - E(v_l g_l)^2)/n   per dimension,
    E|i_k|^2 = eps_k D (n - 1) E|x_k|^-2,   E(v_l i_k)^2 = eps_k D (E|x_k|^-2 - E[(v_l x_k)^2 |x_k|^-4]),

and what lies between the norms acts on Gaussians.  The pool's mean passes over the skip alone.
One map puts phi behind the first norm: i_k = P_x M e_k sqrt(D)/|x_k|, M = diag phi'(P x_k).  Given x_k the
step v_l is uniform around it, so that eps_k becomes E[tr(P_x M Pi M)]/(n - 1) in both (``masks``).
Derived here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.operators import pulled_through, pushed_through
from theory.population.masks import tangential_trace
from theory.population.spheres import initial
from theory.program import Linear, NormAct, branch_operations, first_map, plain_activation
from theory.routes.random_flight import flight_fits, random_flight
from theory.specs.activations import identity
from theory.specs.inputs import ExchangeableInputs
from theory.specs.networks import Network
from theory.specs.residual import Residual
from theory.states.base import Gradient
from theory.states.exchangeable import Exchangeable

__all__ = ["FlightLaw", "behind", "flight_law", "flight_refusal"]

FloatArray = NDArray[np.float64]

# The flight's integrals.
_INTEGRALS = 1e-11


class FlightLaw(NamedTuple):
    """E[g_l^2] at the stream and at h^l, relative to the last stream; ``error`` is relative."""

    gradient: FloatArray
    branch_gradient: FloatArray
    error: float


def flight_refusal(network: Network, inputs: ExchangeableInputs) -> str | None:
    """None if the pools of ``network`` are random flights, else why not."""
    if not isinstance(network, Residual) or network.order != "sandwich":
        return "only sandwiches add steps of one length"
    norm = network.layer.norm
    if norm is None or norm.eps != 0.0 or norm.gate is not None or norm.denominator != "std":
        return "steps that vary in length"
    if not norm.centered or (norm.pool.samples and norm.pool.channels != 1):
        return "pools that are not centered, or span samples and channels"
    size = norm.pool.size(batch=inputs.batch, positions=1)
    if not 4 <= size < math.inf:
        return "a pool without fluctuations, or with an infinite E[1/R^2]"
    activation = network.layer.activation
    if network.maps == 1 and (activation.ray_slopes is None or activation.shift != 0.0):
        return f"{activation.name} sees more than the direction"
    if network.maps == 1 and network.weights.centered:
        return "the mean of an activation of a sphere is not that of a Gaussian"
    if network.factors[0] != 1.0 or not network.factors[1] or network.scales:
        return "skips that forget, or branches that are scaled or 0"
    length = abs(network.factors[1]) * math.sqrt(norm.divisor(batch=inputs.batch, positions=1))
    coupled = norm.pool.samples
    start = _variance(initial(network, inputs), coupled)
    if not flight_fits(start=start, length=length):
        return "a start that is narrow against a step"
    return None


def flight_law(network: Residual, inputs: ExchangeableInputs) -> FlightLaw:
    """Squared gradients of ``network``, which ``flight_refusal`` lets pass."""
    norm = network.layer.norm
    assert norm is not None
    coupled, depth, factor = norm.pool.samples, network.depth, network.factors[1] ** 2
    pool = norm.pool.size(batch=inputs.batch, positions=1)
    divisor = norm.divisor(batch=inputs.batch, positions=1)
    n, start = int(pool) - 1, initial(network, inputs)
    flight = random_flight(
        depth - 1,
        dimensions=n,
        start=_variance(start, coupled),
        length=math.sqrt(factor * divisor),
    )
    # Behind the first norm all blocks are alike; of two samples of GN the gap does not matter.
    inner = behind(network)
    seen = Exchangeable(inputs.batch, divisor / pool, pool / n if coupled else 0.5)
    states = pushed_through(inner, seen)
    passed = divisor / ((n - 2.0) * _variance(states[-1], coupled))
    between, at_map, error = _returned(network, inner, states, pool=pool, coupled=coupled)
    gradient, branch = np.empty(depth), np.empty(depth)
    total, along = float(n), 1.0
    for k in reversed(range(depth)):
        # The stream behind block k + 1, then what that block returns to x_k.
        gradient[k] = (1.0 + total) / pool
        contrast = factor * passed * (total - along) / n
        branch[k] = at_map * contrast
        returned = between * contrast * divisor
        total += returned * (n - 1.0) * flight.inverse[k]
        along += returned * (flight.inverse[k] - flight.along[k])
    return FlightLaw(gradient, branch, _INTEGRALS + depth * error)


def behind(network: Residual) -> list[Linear | NormAct]:
    """The operations of a branch behind its first N and before its last."""
    first, *body, last = branch_operations(network)
    assert isinstance(first, NormAct)
    assert first.norm == network.layer.norm
    assert last == NormAct(network.layer.norm, identity)
    entered = [] if first.activation == identity else [plain_activation(first.activation)]
    return [*entered, *body]


def _returned(
    network: Residual,
    inner: list[Linear | NormAct],
    states: list[Exchangeable],
    *,
    pool: float,
    coupled: bool,
) -> tuple[float, float, float]:
    """(eps behind the first norm, E[g^2] at h^l, error) of a unit contrast at the second norm."""
    pair = -1.0 / pool if coupled else 0.0
    unit_contrast = Gradient(((pool - 1.0) / pool, pair), 0, 0.0)
    gradients = pulled_through(inner, states, unit_contrast)
    gradient, behind, at_map = gradients[0], gradients[1], gradients[first_map(inner)]
    unit = 4.0**gradient.exponent
    same, other = (value * unit for value in gradient.value)
    back = same - other if coupled else same
    if network.maps == 1:
        same, other = (value * 4.0**behind.exponent for value in behind.value)
        back = tangential_trace(
            network.layer.activation, same=same, pair=other, size=pool, coupled=coupled
        )
    return back, at_map.value[0] * 4.0**at_map.exponent, gradient.error


def _variance(state: Exchangeable, coupled: bool) -> float:
    """Per dimension of the pool: of contrasts of samples, or of one sample's channels."""
    state = state.unscaled()
    if coupled:
        return state.second_moment * state.gap
    return state.second_moment - state.mean * state.mean
