r"""Gradients and pre-activations of x + b N(W phi(x)), N over samples: exact, by the random flight of x.

BN adds rho v, v uniform on the sphere of the n = B - 1 contrasts and independent of the stream (rho^2 =
b^2 D), so that one channel's samples x_k are a random flight.  W phi(x) is Gaussian with

    E[h^2] - E[h h'] = sigma_w^2 ((alpha^2 + beta^2) q - alpha^2 p - beta^2 E|x x'|),

phi'(x) = alpha + beta sgn(x).  Block k + 1 returns M e_k to x_k: M = diag phi'(x_k), e_k Gaussian and
independent of the path, eps_k per contrast and nothing on the mean over samples.  The contrasts of g_l
are those of Pi = I at the end and the sum of M e_k, k >= l; N passes b^2 D E|h|^-2 (E|P g|^2 - E(v g)^2)/n
per contrast, v that block's own step, and

    E|P M e|^2 = eps ((alpha^2 + beta^2) n^2/B + (n/B) (alpha^2 + beta^2 E[sgn sgn'])),
    E(v M e)^2 = eps ((alpha^2 + beta^2) n/B + alpha^2/B - n beta^2 E[v v' sgn sgn']).

Derived here; expectations over the flight: ``routes.flight_signs``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.population.masks import slope_parts
from theory.population.spheres import initial
from theory.routes.flight_signs import flight_signs
from theory.routes.random_flight import flight_fits
from theory.specs.inputs import ExchangeableInputs
from theory.specs.networks import Network
from theory.specs.residual import Residual

__all__ = ["EndLaw", "end_law", "end_refusal"]

FloatArray = NDArray[np.float64]


class EndLaw(NamedTuple):
    """E[h^2] and 1 - E[hh']/E[h^2]; E[g^2] at the stream and at h, relative to the last stream."""

    map_second_moment: FloatArray
    map_gap: FloatArray
    gradient: FloatArray
    branch_gradient: FloatArray


def end_refusal(
    network: Network, inputs: ExchangeableInputs, *, centered: bool = True, margin: float = 1.0
) -> str | None:
    """None if one channel's samples of ``network`` are a random flight, else why not.

    Of norms that are not ``centered`` that holds for contrasts of samples.  The start shall be ``margin``
    times as wide as the integrals ask.
    """
    if not isinstance(network, Residual) or network.order != "branch_end_norm" or network.maps != 1:
        return "only norms behind a branch of one map add steps to what phi sees"
    norm, activation = network.layer.norm, network.layer.activation
    if norm is None or norm.eps != 0.0 or norm.gate is not None or norm.denominator != "std":
        return "steps that vary in length"
    if norm.centered != centered or not norm.pool.samples or norm.pool.channels != 1:
        return "pools that are not centered, or not over samples alone"
    if not 4 <= inputs.batch < math.inf:
        return "a pool without fluctuations, or with an infinite E[1/R^2]"
    if activation.ray_slopes is None or activation.shift != 0.0 or network.weights.centered:
        return "maps that see more than signs and sizes"
    if network.factors[0] != 1.0 or not network.factors[1] or network.scales:
        return "skips that forget, or branches that are scaled or 0"
    start = initial(network, inputs).unscaled()
    q, p = start.second_moment, start.second_moment * (1.0 - start.gap)
    length = abs(network.factors[1]) * math.sqrt(norm.divisor(batch=inputs.batch, positions=1))
    if start.mean or not flight_fits(start=q - abs(p), length=margin * length):
        return "a start with a mean, or narrow against a step"
    return None


def end_law(network: Residual, inputs: ExchangeableInputs) -> EndLaw:
    """What ``end_refusal`` lets pass."""
    norm, depth, size = network.layer.norm, network.depth, int(inputs.batch)
    assert norm is not None
    n = size - 1.0
    rho2 = network.factors[1] ** 2 * norm.divisor(batch=size, positions=1)
    start = initial(network, inputs).unscaled()
    product = start.second_moment * (1.0 - start.gap)
    flight = flight_signs(
        depth - 1,
        size=size,
        second_moment=start.second_moment,
        product=product,
        length=math.sqrt(rho2),
    )
    straight, bent = (part * part for part in slope_parts(network.layer.activation))
    passed, variance = straight + bent, network.weights.weight_variance
    k = np.arange(depth)
    q = start.second_moment + k * rho2 / size
    p = product - k * rho2 / (size * n)
    h = variance * passed * q
    contrast = variance * (passed * q - straight * p - bent * flight.products)
    outer = passed * n * n / size + n / size * (straight + bent * flight.signs)
    along = passed * n / size + straight / size - n * bent * flight.steps
    gradient, branch = np.empty(depth), np.empty(depth)
    whole, total, own = float(size), n, 1.0
    for j in reversed(range(depth)):
        # The stream behind block j + 1, then what that block returns to x_j.
        gradient[j] = whole / size
        reached = rho2 / ((n - 2.0) * contrast[j]) * (total - own) / n
        branch[j] = reached * n / size
        returned = variance * reached
        whole += returned * passed * n
        total += returned * outer[j]
        own += returned * along[j]
    return EndLaw(h, contrast / h, gradient, branch)
