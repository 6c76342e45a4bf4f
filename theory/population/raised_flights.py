r"""Sandwiches with VN, x + b VN(F(VN(x))): a random flight, and a sum of independent heights beside it.

VN(h) = T 1 + sqrt(D) v, v uniform on the sphere of the n = B - 1 contrasts, T = hbar/s, s^2 = |P h|^2/D.
Neither knows of the other nor of the stream, so that x_k = A_k 1 + d_k, d_k a flight of steps b sqrt(D) v
(``routes.random_flight``) and A_k = A_0 + b (T_0 + ... + T_{k-1}), independent of it.  What the branch
sees is VN(x_k) = (A_k 1 + d_k) sqrt(D)/|d_k|, of second moments D E[A^2] E|d|^-2 on the mean.

Block m returns i_m = J'e_m to x_m, e_m Gaussian and independent of the path: eps on contrasts and eta on
the mean give D eta/|d|^2 on the mean, A^2 B D eta/|d|^4 along d and D eps/|d|^2 on what is across.  What the
norm at the end of block k takes of g, everything returned behind it, is

    E[(1.g)^2/B s^-2],        E[(|P g|^2 - (v_k.g)^2) s^-2] + E[T_k^2 s^-2 (1.g)^2]/D,

where A_m^2 knows of s through T_k alone, E[A_m^2 s^-2] = (E[A_m^2] - b^2 E[T^2]) E[s^-2] + b^2 E[hbar^2]
E[s^-4], and d_m of v_k.  Derived here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.operators import pushed_through
from theory.population.exchanged import (
    StreamLaw,
    exchanged,
    mean_of,
    pulled,
    raw_refusal,
)
from theory.population.flights import behind
from theory.population.spheres import initial
from theory.program import first_map
from theory.routes.fourth_flight import FourthPowers, fourth_powers
from theory.routes.random_flight import RandomFlight, flight_fits, random_flight
from theory.specs.inputs import ExchangeableInputs
from theory.specs.networks import Network
from theory.specs.residual import Residual
from theory.states.exchangeable import Exchangeable

__all__ = ["RAISED_FLIGHT", "raised_flight_law", "raised_flight_refusal"]

RAISED_FLIGHT = "raised flight"

FloatArray = NDArray[np.float64]

# The flight's integrals.
_INTEGRALS = 1e-11


class _Block(NamedTuple):
    """What the maps of a branch make of VN(x); E[A^2], E[s^-2], E[hbar^2 s^-4] and E[T^2]."""

    states: list[Exchangeable]
    height: float
    inverse: float
    leant: float
    lift: float


def raised_flight_refusal(network: Network, inputs: ExchangeableInputs) -> str | None:
    """None if second moments describe the raised flight of ``network``, else why not."""
    if not isinstance(network, Residual) or network.order != "sandwich":
        return "only sandwiches add steps of one length"
    if network.maps != 2:
        return "an activation sees more of the stream than second moments"
    if network.factors[0] != 1.0 or not network.factors[1] or network.scales:
        return "skips that forget, or branches that are scaled or 0"
    start = initial(network, inputs).unscaled()
    if network.weights.centered and start.mean:
        return "the mean over channels, which centered rows see, is not followed"
    norm = network.layer.norm
    refusal = raw_refusal(norm, batch=inputs.batch)
    if refusal is not None or norm is None:
        return refusal
    length = abs(network.factors[1]) * math.sqrt(norm.divisor(batch=inputs.batch, positions=1))
    if not flight_fits(start=start.second_moment * start.gap, length=length):
        return "a start that is narrow against a step"
    return None


def raised_flight_law(
    network: Residual, inputs: ExchangeableInputs, *, backward: bool
) -> StreamLaw:
    """Moments of ``network``, which ``raised_flight_refusal`` lets pass; no gradients, no ``backward``."""
    norm, size, depth = network.layer.norm, int(inputs.batch), network.depth
    assert norm is not None
    n, radius2, b2 = size - 1, norm.divisor(batch=size, positions=1), network.factors[1] ** 2
    start = initial(network, inputs).unscaled()
    narrow = start.second_moment * start.gap
    length = math.sqrt(b2 * radius2)
    flight = random_flight(depth - 1, dimensions=n, start=narrow, length=length)
    inner = behind(network)
    height, error = mean_of(start) / size, _INTEGRALS
    blocks, streams = list[_Block](), list[Exchangeable]()
    for k in range(depth):
        seen = size * radius2 * height * float(flight.inverse[k])
        states = pushed_through(inner, exchanged(size, seen, radius2 / n, error=error))
        end = states[-1].unscaled()
        contrast, level = end.second_moment * end.gap, mean_of(end) / size
        inverse = radius2 / (contrast * (n - 2.0))
        leant = level * inverse * radius2 / (contrast * (n - 4.0)) if n > 4 else math.inf
        blocks.append(_Block(states, height, inverse, leant, level * inverse))
        height += b2 * level * inverse
        # Heights add up with their errors, of which the last is the largest.
        error = max(error, end.second_moment_error, end.gap_error)
        spread = narrow + (k + 1) * b2 * radius2 / n
        streams.append(exchanged(size, size * height, spread, error=error))
    at = first_map(inner)
    maps = [block.states[at] for block in blocks]
    zeros = np.zeros(depth)
    if not backward:
        return StreamLaw(streams, maps, zeros, zeros, zeros)
    fourth = fourth_powers(depth - 1, dimensions=n, start=narrow, length=length)
    return StreamLaw(streams, maps, *_backward(network, blocks, flight, fourth))


def _backward(
    network: Residual, blocks: list[_Block], flight: RandomFlight, fourth: FourthPowers
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(log E[g^2] at the stream, at h, relative error)."""
    norm, inner = network.layer.norm, behind(network)
    assert norm is not None
    size, b2 = blocks[0].states[0].batch, network.factors[1] ** 2
    n, radius2 = size - 1.0, norm.divisor(batch=size, positions=1)
    gradient, branch, errors = np.empty((3, len(blocks)))
    # (1.g)^2/B; |P g|^2; |P g|^2 - (v.g)^2 without and per E[A^2] - E[A_m^2].
    mean, whole, across, raised = 1.0, n, n - 1.0, 0.0
    error, log_unit = _INTEGRALS, 0.0
    for k in reversed(range(len(blocks))):
        states, height, inverse, leant, lift = blocks[k]
        gradient[k] = math.log((mean + whole) / size) + log_unit
        passed = across * inverse + raised * b2 * (leant - lift * inverse)
        passed += leant * mean * size / radius2
        found = pulled(inner, states, mean=b2 * mean * inverse, contrast=b2 * passed / n)
        branch[k] = math.log(found.at_map) + log_unit
        error += found.error
        errors[k] = error
        flat, bent = radius2 * found.contrast, size * radius2 * found.mean
        mean += radius2 * found.mean * flight.inverse[k]
        whole += flat * (n - 1.0) * flight.inverse[k] + bent * height * fourth.inverse[k]
        turned = bent * (fourth.inverse[k] - fourth.along[k])
        across += flat * ((n - 2.0) * flight.inverse[k] + flight.along[k]) + turned * height
        raised += turned
        unit = mean + whole
        mean, whole, across, raised = (value / unit for value in (mean, whole, across, raised))
        log_unit += math.log(unit)
    return gradient, branch, errors
