"""Normalizer-free scaling: each branch sees its stream divided by the predicted root mean square."""

from __future__ import annotations

import dataclasses
import math

from theory.errors import HypothesisError, out_of_domain
from theory.folds import schedule
from theory.laws import non_gaussian
from theory.numerics import within_range
from theory.operators import bind_push
from theory.population.walks import nf_scales
from theory.program import Scale
from theory.recursion import initial_state
from theory.specs.compatibility import check
from theory.specs.grids import needs_grid
from theory.specs.inputs import ExchangeableInputs, Inputs
from theory.specs.residual import Residual

__all__ = ["nf_scaled"]


@within_range
def nf_scaled(network: Residual, inputs: Inputs) -> Residual:
    """scale_l = 1/sqrt(q_l), q_l = E[x_l^2] as theory predicts it: F(x_l / sqrt(q_l)) in every branch.

    The constants enter the returned network as data (``scales``); predicting or simulating it needs no
    normalizer.  With real data q_l is the mean over samples.  Reflected streams (post-activation, relu)
    have the walk's q_l.
    Source: Brock, De & Smith 2021 (2101.08692), section 3; theory notes, section 5.

    Parameters
    ----------
    network
        Without a normalizer; scales it has already are replaced.
    inputs
        What it will see.

    Raises
    ------
    SpecificationError
        Not a residual network, or one with a normalizer.
    HypothesisError
        An activation acts on something that is not Gaussian, and the stream is no reflected walk.
    """
    if not isinstance(network, Residual):
        raise out_of_domain("network", network, "a residual network", "build it with Residual(...)")
    if network.layer.norm is not None:
        raise out_of_domain(
            "network",
            network.layer.norm.name,
            "a layer without normalizer",
            "NF scaling stands in for it: Layer(norm=None)",
        )
    check(network, inputs)
    reason = non_gaussian(network, inputs)
    if reason is not None and isinstance(inputs, ExchangeableInputs):
        return dataclasses.replace(network, scales=nf_scales(network, inputs))
    if reason is not None:
        raise HypothesisError(f"{reason}: no scale is predicted for it; choose another order")
    template = dataclasses.replace(network, scales=(1.0,) * network.depth)
    state, scales, kept = (
        initial_state(inputs, grid=needs_grid(network, inputs)),
        [],
        list[object](),
    )
    for op in schedule(template).ops:
        if isinstance(op, Scale):
            scales.append(math.exp(-0.5 * _log_second_moment(state)))
            op = Scale(scales[-1])
        push, _ = bind_push(op, state, kept)
        state = push(state)
    return dataclasses.replace(network, scales=tuple(scales))


def _log_second_moment(state: object) -> float:
    return float(type(state).observe([state]).log_second_moment[0])  # type: ignore[attr-defined]
