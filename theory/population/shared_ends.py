r"""x + b VN(W phi(x)): moments and gradients, exact, by the flight of x whose samples share steps.

h = W phi(x) is Gaussian and independent of the stream, so that N adds b sqrt(D) (u + r t 1): u uniform on the
unit sphere of the n = B - 1 contrasts, t = z/sqrt(chi^2_n), r^2 the variance of the mean of h over samples
relative to that of a contrast,

    q' - p' = q - p + b^2 D/n,      q' = q + b^2 D (1/B + r^2/(n - 2)),
    E[h^2] - E[h h'] = c = sigma_w^2 ((alpha^2 + beta^2) q - alpha^2 p - beta^2 E|x x'|),

phi'(x) = alpha + beta sgn(x).  Backwards N passes, given that block's u and t,

    |J'g|^2 = (|g|^2 - (u g)^2 + r^2 t^2 (1'g)^2)/s^2,    (1'J'g)^2 = (1'g)^2/s^2,

with E[s^-2 | t] = D (1 + t^2)/((n - 1) c).  g_l is the cotangent and the sum of M e_m, m >= l: M = diag
phi'(x_m), e_m Gaussian and independent of the path.  What is odd under x -> -x drops out, and signs are
those of ``routes.shared_flight``.  Derived here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.forecast import paced
from theory.population.branch_ends import EndLaw, end_refusal
from theory.population.masks import slope_parts
from theory.population.spheres import initial
from theory.routes.shared_flight import LARGEST_POOL, SharedFlight
from theory.specs.inputs import ExchangeableInputs
from theory.specs.networks import Network
from theory.specs.residual import Residual

__all__ = ["SharedLaw", "shared_law", "shared_refusal"]

FloatArray = NDArray[np.float64]

# What roundings and nodes leave of E|x x'|, of which c is the small difference from q, of 100 samples.
_INTEGRALS = 1e-11
# A grid of two dimensions takes memory: a quarter of the panels that one dimension may have.
_MARGIN = 4.0


class SharedLaw(NamedTuple):
    """E[x^2] and 1 - E[xx']/E[x^2] of the stream, what ``EndLaw`` says, and a relative error."""

    second_moment: FloatArray
    gap: FloatArray
    end: EndLaw
    error: float


def shared_refusal(network: Network, inputs: ExchangeableInputs) -> str | None:
    """None if one channel's samples of ``network`` are a flight that shares steps, else why not."""
    norm = network.layer.norm
    if norm is not None and norm.centered:
        return "centered pools share no steps"
    if inputs.batch > LARGEST_POOL:
        return "a pool that is too large"
    return end_refusal(network, inputs, centered=False, margin=_MARGIN)


def shared_law(network: Residual, inputs: ExchangeableInputs, *, backward: bool) -> SharedLaw:
    """What ``shared_refusal`` lets pass; gradients (B >= 6) are NaN without ``backward``."""
    norm, depth, size = network.layer.norm, network.depth, int(inputs.batch)
    assert norm is not None
    n, divisor = size - 1.0, norm.divisor(batch=size, positions=1)
    squared, variance = network.factors[1] ** 2, network.weights.weight_variance
    rho2 = squared * divisor
    straight, bent = (part * part for part in slope_parts(network.layer.activation))
    passed = straight + bent
    start = initial(network, inputs).unscaled()
    first = start.second_moment
    # Contrasts of x_0, x_1, ...
    apart = first * start.gap + np.arange(depth + 1.0) * rho2 / n
    flight = SharedFlight(
        size=size,
        second_moment=first,
        product=first - apart[0],
        length=math.sqrt(rho2),
        steps=depth,
        gap=_last_gap(first, apart, rho2=rho2, size=size),
    )
    q, h, contrast, scale = np.full(depth + 1, first), *np.empty((3, depth))
    what, remedy = "Prediction, forwards", "fewer blocks take proportionally less"
    for k in paced(range(depth), what=what, remedy=remedy):
        h[k] = variance * passed * q[k]
        alike = straight * (q[k] - apart[k]) + bent * flight.products()
        contrast[k] = h[k] - variance * alike
        scale[k] = math.sqrt((h[k] - contrast[k]) / contrast[k] + 1.0 / size)
        q[k + 1] = q[k] + rho2 * (1.0 / size + scale[k] ** 2 / (n - 2.0))
        flight.step(scale[k])
    gradient, branch = np.full((2, depth), math.nan)
    # E[e^2] and E[e e'] of all blocks behind; E[1 + t^2] and E[t^2 + t^4].
    own = pair = 0.0
    once = (n - 1.0) / (n - 2.0)
    for k in reversed(range(depth)) if backward else ():
        signs, signs_along, signs_apart = flight.back(scale[k])
        twice, pairs = once / (n - 4.0), size * n * bent
        gradient[k] = 1.0 + passed * own
        whole = size * (gradient[k] + straight * n * pair)
        spread = once * (n * gradient[k] + straight * pair) - pairs * signs_apart
        along = scale[k] ** 2 * (twice * whole + pairs * signs_along)
        unit = rho2 / ((n - 1.0) * contrast[k])
        # Of b J'g: the mean square, and that of its sum over samples.
        total, summed = unit * (spread + along), unit * (once * whole + pairs * signs)
        branch[k] = total / size
        across = variance * (summed - total) / (size * n)
        own, pair = own + variance * branch[k], pair + across
        flight.weigh(across)
    gap = apart[1:] / q[1:]
    end = EndLaw(h, contrast / h, gradient, branch)
    error = _INTEGRALS * max(1.0, size / 100.0) / min(float(gap.min()), start.gap)
    return SharedLaw(q[1:], gap, end, error)


def _last_gap(first: float, apart: FloatArray, *, rho2: float, size: int) -> float:
    """1 - p/q at the end, were samples so alike that all signs agree."""
    q, n = first, size - 1.0
    for contrast in apart[:-1].tolist():
        q += rho2 * (1.0 / size + q / (contrast * (n - 2.0)))
    return min(float(apart[-1] / q), 1.0)
