r"""Gaps of a x + b N(F(x)) where pools treat samples apart: populations correct the maps of Gaussians.

N(F(x)) is uncorrelated with x and h = W G(x) exactly Gaussian, so that contrasts c = q gap obey

    c_l = a^2 c_{l-1} + b^2 E[N^2] f(gap_h),      gap_h = H(c_{l-1}/q_{l-1}) [gap_h / H(gap)]_population,

f and H the maps of Gaussian fields.  Populations are asked only how far the stream's law takes gap_h
from H: their own gaps are the control variate, which removes most of their noise and of their bias.

Source: theory notes, section 5; the control variate is derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from theory.operators import pushed_through
from theory.population.known import Known
from theory.population.result import PopulationResult, averaged, relative_error
from theory.population.spheres import initial
from theory.program import Linear, NormAct, branch_operations, first_map
from theory.specs.inputs import ExchangeableInputs
from theory.specs.networks import Network
from theory.specs.residual import Residual
from theory.states.exchangeable import Exchangeable

__all__ = ["Gaps", "controlled_gaps"]

FloatArray = NDArray[np.float64]
Map = Callable[[FloatArray], FloatArray]

# Points of the Chebyshev polynomials through f and H, and what they may be off by.
_NODES, _SMOOTH = 32, 1e-7
# Gaps that the recursion may reach beyond the populations' own.
_BEYOND = 1.25


class Gaps(NamedTuple):
    """Gaps of x^l and of h^l, with relative errors as populations state them."""

    stream: FloatArray
    stream_error: FloatArray
    preactivation: FloatArray
    preactivation_error: FloatArray


def controlled_gaps(
    network: Network, inputs: ExchangeableInputs, exact: Known, found: PopulationResult
) -> Gaps | None:
    """The gaps of ``network``, or None where its contrasts do not just add up.

    Parameters
    ----------
    network, inputs
        What was followed.
    exact
        Second moments by closed form.
    found
        The populations.
    """
    norm, activation = network.layer.norm, network.layer.activation
    if not isinstance(network, Residual) or norm is None or norm.pool.samples:
        return None
    if network.order not in ("branch_end_norm", "sandwich") or exact.log_second_moment is None:
        return None
    # f must not depend on the scale of h, nor H on a mean.
    start = initial(network, inputs)
    if activation.ray_slopes is None or activation.shift != 0.0 or start.mean:
        return None
    assert found.preactivation is not None
    seen, read = found.stream.gaps, found.preactivation.gaps
    low = min(float(seen.min()), float(read.min()), start.gap) / _BEYOND
    high = max(float(seen.max()), float(read.max()), start.gap) * _BEYOND
    if not 0.0 < low < high < 2.0:
        return None
    operations = branch_operations(network)
    at = first_map(operations)
    (to_map, error), (behind, other) = (
        _gap_map(ops, low=low, high=high) for ops in (operations[:at], operations[at:])
    )
    if max(error, other) > _SMOOTH:
        return None
    a = network.factors[0]
    q = np.concatenate(([start.unscaled().second_moment], np.exp(exact.log_second_moment)))
    # What enters the first block is Gaussian.
    law = np.ones_like(read)
    law[1:] = read[1:] / to_map(seen[:-1])
    # b^2 E[N^2], of the first block as of any.
    added = q[1] - a * a * q[0]
    contrast = np.full(seen.shape[1], q[0] * start.gap)
    streams, maps = np.empty_like(seen), np.empty_like(read)
    for k in range(network.depth):
        maps[k] = to_map(contrast / q[k]) * law[k]
        contrast = a * a * contrast + added * behind(maps[k])
        streams[k] = contrast / q[k + 1]
    spread = 2.0 * network.depth * (error + other)
    return Gaps(*_stated(streams, spread), *_stated(maps, spread))


def _stated(values: FloatArray, spread: float) -> tuple[FloatArray, FloatArray]:
    mean, error = averaged(values)
    return mean, relative_error(error, mean, values.shape[1]) + spread


def _gap_map(
    operations: Sequence[Linear | NormAct], *, low: float, high: float
) -> tuple[Map, float]:
    """(gap -> gap of a Gaussian field behind ``operations``, its relative error).

    gap'/gap is smooth in the root of the gap, which is an angle.
    """
    bottom, top = math.sqrt(low), math.sqrt(high)
    nodes = np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)
    roots = bottom + (top - bottom) * (nodes + 1.0) / 2.0
    ratios = np.array([_pushed(operations, r * r) / (r * r) for r in roots.tolist()])
    coefficients = chebyshev.chebfit(nodes, ratios, _NODES - 1)
    error = float(np.abs(coefficients[-4:]).sum() / np.abs(ratios).min())

    def mapped(gap: FloatArray) -> FloatArray:
        place = 2.0 * (np.sqrt(gap) - bottom) / (top - bottom) - 1.0
        return np.asarray(gap * chebyshev.chebval(place, coefficients))

    return mapped, error


def _pushed(operations: Sequence[Linear | NormAct], gap: float) -> float:
    return float(pushed_through(operations, Exchangeable(2, 1.0, gap))[-1].gap)
