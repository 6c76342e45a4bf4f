"""predict: fold the operations forwards, then backwards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from theory.errors import NumericalError, out_of_domain
from theory.operators import LOST_GRADIENT, Pull, bind_pull, bind_push
from theory.program import Conv, Linear, NormAct, Observe, lower
from theory.regimes import Regime, regime
from theory.results import Prediction, PredictionSet
from theory.routes.positions_spectrum import PositionSpectrum
from theory.specs.compatibility import check
from theory.specs.inputs import ExchangeableInputs, Inputs
from theory.specs.networks import FeedForward
from theory.specs.spatial import SpatialInputs
from theory.states.base import Gradient, Observables
from theory.states.exchangeable import Exchangeable
from theory.states.full import Full
from theory.states.spatial import Spatial

# A layer whose inputs span too few directions, although the pool would allow more.
_INFINITE_LAYER = (
    "the samples of a layer span at most two directions about their mean, so E[1/R^2] and with it "
    "the mean squared gradient there and before is infinite; later layers are finite"
)

__all__ = ["initial_state", "predict", "predict_many"]


def initial_state(inputs: Inputs) -> Exchangeable | Spatial | Full:
    """The state of x^0."""
    if isinstance(inputs, SpatialInputs):
        q = inputs.second_moment
        spectrum = PositionSpectrum(inputs.positions, *(q * value for value in inputs.eigenvalues))
        resolution = inputs.resolution
        return Spatial(inputs.batch, spectrum.tidied(), inputs.feature_mean, gap_error=resolution)
    if isinstance(inputs, ExchangeableInputs):
        return Exchangeable(inputs.batch, inputs.second_moment, inputs.gap, inputs.feature_mean)
    return Full(inputs.second_moment, inputs.gap, inputs.feature_mean)


def predict(network: FeedForward, inputs: Inputs, *, backward: bool = True) -> Prediction:
    """Infinite-width prediction of every layer's observables.

    Folds Sigma^{l+1} = sigma_w^2 V(Sigma^l) forwards and Pi^l = T(sigma_w^2 Pi^{l+1}) backwards
    (theory notes, sections 1 and 3), from a cotangent of independent standard Gaussians at x^L.

    Parameters
    ----------
    network
        What to predict.
    inputs
        Exchangeable batch, real data or a covariance.
    backward
        Whether to follow the gradient as well.

    Returns
    -------
    Prediction
        Arrays of length ``depth``, with route and error per observable and layer.

    Raises
    ------
    SpecificationError
        The normalizer is not defined on these inputs.
    HypothesisError
        A formula's hypothesis is violated: zero pool variance at eps = 0, an infinite second
        moment, or an expectation that no route takes.
    NumericalError
        Overflow of a network that is not scale free, or no convergence.
    """
    check(network, inputs)
    kind = regime(network, inputs)
    ops, reads = _schedule(network)
    state = initial_state(inputs)

    states: list[Any] = [state]
    pushes: dict[int, Any] = {}
    forward_route = "closed form"
    for op in ops:
        try:
            push = pushes[id(op)]
        except KeyError:
            push, route = bind_push(op, state)
            pushes[id(op)] = push
            if type(op) is NormAct:
                forward_route = route
        state = push(state)
        states.append(state)

    log_gradient, gradient_error, backward_route = None, None, None
    if backward:
        log_gradient, gradient_error, backward_route = _backward(
            ops, states, reads["preactivation"], kind
        )
        if kind.status not in ("infinite", "degenerate") and np.isposinf(log_gradient).any():
            kind = replace(kind, status="infinite", reason=_INFINITE_LAYER)
    pre, post = ([states[k] for k in reads[what]] for what in ("preactivation", "activation"))
    # One reading for both: half the cost of reading a deep network.
    observed = type(post[0]).observe(pre + post)
    for values in observed:
        values.flags.writeable = False
    split = len(pre)
    return Prediction(
        network=network,
        inputs=inputs,
        regime=kind,
        activation=Observables(*(values[split:] for values in observed)),
        preactivation=Observables(*(values[:split] for values in observed)),
        log_gradient_norm=log_gradient,
        gradient_error=gradient_error,
        forward_route=forward_route,
        backward_route=backward_route,
        states=post,
    )


@lru_cache(maxsize=256)
def _schedule(
    network: FeedForward,
) -> tuple[tuple[Linear | Conv | NormAct, ...], dict[str, tuple[int, ...]]]:
    """The operations that compute, and after how many of them h^l and x^l are read."""
    ops: list[Linear | Conv | NormAct] = []
    reads: dict[str, list[int]] = {"preactivation": [], "activation": []}
    for op in lower(network):
        if isinstance(op, Observe):
            reads[op.what].append(len(ops))
        else:
            ops.append(op)
    return tuple(ops), {what: tuple(places) for what, places in reads.items()}


def _backward(
    ops: tuple[Linear | Conv | NormAct, ...],
    states: list[Any],
    reads: tuple[int, ...],
    kind: Regime,
) -> tuple[Any, Any, str]:
    """log gradient norm at every h^l relative to h^L, its error, and the route."""
    depth = len(reads)
    if kind.status in ("infinite", "degenerate"):
        # The ratio to the last layer is taken of numbers that are all infinite, or all zero.
        value = math.inf if kind.status == "infinite" else -math.inf
        log_ratio = np.full(depth, value)
        log_ratio[-1] = 0.0
        return log_ratio, np.zeros(depth), "closed form"
    gradient: Gradient = states[-1].cotangent()
    exchangeable = type(states[-1]) is not Full
    pulls: dict[int, Pull] = {}
    route = "closed form"
    gradients: list[Gradient] = [gradient]
    for op, state in zip(reversed(ops), reversed(states[:-1]), strict=True):
        try:
            pull = pulls[id(op)]
        except KeyError:
            pull, name = bind_pull(op, state)
            pulls[id(op)] = pull
            if type(op) is NormAct:
                route = name
        gradient = pull(state, gradient)
        if exchangeable:
            if not gradient.value[0] < math.inf:
                # The regime says beforehand where moments are infinite: this one overflowed.
                raise NumericalError(LOST_GRADIENT)
        elif type(op) is NormAct and not np.isfinite(gradient.value).all():
            break
        gradients.append(gradient)
    # gradients[k] belongs to the state k operations before the end.
    last = len(ops)
    read = [gradients[last - k] for k in reads if last - k < len(gradients)]
    log_ratio = np.full(depth, math.inf)
    error = np.zeros(depth)
    if read:
        log_square = type(states[-1]).log_squared_norm(read)
        log_ratio[-len(read) :] = 0.5 * (log_square - log_square[-1])
        stated = np.array([g.error for g in read])
        error[-len(read) :] = 0.5 * (stated - stated[-1])
    log_ratio[-1] = 0.0
    return log_ratio, error, route


def predict_many(
    networks: Mapping[str, FeedForward], inputs: Inputs, *, backward: bool = True
) -> PredictionSet:
    """``predict`` for several networks on the same inputs, kept by name for tables and plots.

    Parameters
    ----------
    networks
        Name -> network.
    inputs, backward
        As for ``predict``.
    """
    if not isinstance(networks, Mapping) or not networks:
        raise out_of_domain(
            "networks", networks, "a non-empty mapping of names to networks", 'pass {"BN": network}'
        )
    return PredictionSet(
        {name: predict(net, inputs, backward=backward) for name, net in networks.items()}
    )
