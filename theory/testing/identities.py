"""Laws that tie specifications to each other: identities, limits, residual networks, and JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from theory.errors import SpecificationError
from theory.recursion import predict
from theory.specs.activations import relu
from theory.specs.inputs import ExchangeableInputs, exchangeable, from_covariance
from theory.specs.networks import FeedForward, Layer
from theory.specs.normalizers import Normalizer, filter_response_norm, group_norm, instance_norm
from theory.specs.residual import Residual
from theory.specs.serialize import from_json, key, to_json
from theory.specs.spatial import SpatialInputs
from theory.specs.weights import gaussian
from theory.testing import strategies as draw
from theory.testing.cases import Case, cases, predictable_layers
from theory.testing.checks import (
    RARE,
    ROUNDING,
    SECOND_ORDER,
    Layers,
    agree,
    close,
    corner_gaps,
    law,
    shallow_corners,
    stated,
)
from theory.testing.runner import NotApplicable

__all__: list[str] = []

IDENTITY_AT_ZERO = (
    "pre_activation",
    "activation_before_addition",
    "pre_norm",
    "branch_end_norm",
    "sandwich",
)


def _with_norm(case: Case, norm: Normalizer | None) -> FeedForward:
    layer = dataclasses.replace(case.layer, norm=norm)
    return FeedForward(layer, depth=case.network.depth)


def _with_pool(norm: Normalizer, **changes: Any) -> Normalizer:
    return dataclasses.replace(norm, pool=dataclasses.replace(norm.pool, **changes))


@st.composite
def ring_layers(pick: DrawFn, channels: Sequence[int] = (1,)) -> Layer:
    """A pool over the positions of few channels, and an activation with a route for it."""
    norm = pick(draw.ratios(samples=False, channels=channels, equal=True))
    phi = pick(draw.activations(names=draw.HOMOGENEOUS))
    return Layer(weights=pick(draw.weights()), norm=norm, activation=phi)


@st.composite
def ring_cases(pick: DrawFn, layers: Layers) -> Case:
    """One sample with 3 to 6 positions."""
    size = pick(st.integers(3, 6))
    top = 1.0 + 1.0 / (size - 1)
    inputs = exchangeable(
        batch=1, positions=size, position_gap=pick(st.just(1.0) | st.floats(0.05, top))
    )
    return Case(FeedForward(pick(layers), depth=pick(st.integers(1, 3))), inputs)


def ring_corners() -> list[Case]:
    """One sample at 2, 3 or 4 positions, correlated like the samples of ``corners``."""
    return [
        Case(
            FeedForward(Layer(norm=norm), depth=2),
            exchangeable(batch=1, positions=size, position_gap=gap),
        )
        for norm in (instance_norm(), filter_response_norm())
        for size in (2, 3, 4)
        for gap in corner_gaps(size)
    ]


@law(
    "pooling the positions of one sample is pooling samples (IN of one sample is BN)",
    layers=ring_layers,
    subjects=ring_cases,
    corners=ring_corners,
)
def positions_of_one_sample_are_samples(case: Case) -> None:
    """N over S positions at B = 1, and the same N over B = S samples at one position."""
    norm, ring = case.layer.norm, case.inputs
    if norm is None or norm.pool.samples or norm.pool.channels != 1 or not norm.pool.positions:
        raise NotApplicable
    if case.layer.activation.ray_slopes is None or not isinstance(ring, SpatialInputs):
        raise NotApplicable
    if norm.denominator == "rms" and ring.position_gap < RARE:
        raise NotApplicable  # an rms over samples is sampled
    batch = exchangeable(batch=ring.positions, gap=ring.position_gap)
    one = predict(case.network, ring)
    other = predict(_with_norm(case, _with_pool(norm, samples=True)), batch)
    assert one.position_similarity is not None
    error = stated(one, other, name="gap") + ROUNDING
    close("similarity", one.position_similarity, other.similarity, error)
    for name in ("log_second_moment", "log_gradient_norm"):
        error = stated(one, other, name=name) + ROUNDING
        close(name, getattr(one, name), getattr(other, name), error)


def _whole_layer() -> Layers:
    norms = draw.ratios(samples=False, channels=[math.inf])
    return draw.layers(norms=norms)


@law(
    "over infinitely many channels LN is RMSNorm, and positions may be pooled or not",
    layers=_whole_layer,
    subjects=lambda layers: cases(layers, positions=False),
)
def whole_layers_have_no_mean(case: Case) -> None:
    """The mean over the channels of W x vanishes."""
    norm = case.layer.norm
    if norm is None or norm.couples_samples or norm.pool.channels != math.inf or norm.gate:
        raise NotApplicable
    if norm.denominator == "none":
        raise NotApplicable
    one = predict(case.network, case.inputs)
    for centered in (True, False):
        for positions in (True, False):
            same = _with_pool(norm, positions=positions)
            same = dataclasses.replace(same, centered=centered, denominator="rms", ddof=0)
            agree(one, predict(_with_norm(case, same), case.inputs))


def _groups() -> Layers:
    norms = draw.ratios(samples=False, channels=[2, 3, 4], equal=True)
    return st.builds(
        Layer,
        norm=norms.map(lambda norm: dataclasses.replace(norm, eps=0.0)),
        activation=draw.activations(),
    )


@law(
    "GN(1) is IN; GN(G) tends to LN as 1/G",
    layers=_groups,
    subjects=lambda layers: cases(layers, largest_depth=1, exchangeable_only=True),
    corners=shallow_corners,
)
def large_groups_are_layers(case: Case) -> None:
    """2 D(1024) - D(512) is D(inf) up to 1/512^2, the gap's relative error of second order."""
    for ddof in (0, 1):
        one, other = group_norm(1, eps=0.1, ddof=ddof), instance_norm(eps=0.1, ddof=ddof)
        assert dataclasses.replace(one, name=other.name) == other
    norm = case.layer.norm
    if norm is None or norm.couples_samples or norm.denominator == "none" or norm.gate is not None:
        raise NotApplicable
    nets = [_with_norm(case, _with_pool(norm, channels=size)) for size in (512, 1024, math.inf)]
    preds = [predict(net, case.inputs, backward=False) for net in nets]
    first, second, limit = (pred.gap for pred in preds)
    error = 3.0 * stated(*preds, name="gap") + 0.5 * SECOND_ORDER / 512**2 * limit
    close("gap", 2.0 * second - first, limit, error)


@st.composite
def batch_layers(pick: DrawFn) -> Layer:
    """Batch normalizers about their mean at eps = 0."""
    norm = pick(draw.ratios(samples=True, channels=[1], equal=True))
    norm = dataclasses.replace(norm, centered=True, denominator="std", eps=0.0)
    phi = pick(draw.activations())
    return Layer(weights=pick(draw.weights()), norm=norm, activation=phi)


@law(
    "BN(B) tends to its limit as 1/B",
    layers=batch_layers,
    subjects=lambda layers: cases(layers, largest_depth=2, positions=False, exchangeable_only=True),
)
def large_batches_have_a_limit(case: Case) -> None:
    """2 f(1024) - f(512) is f(inf) up to 1/512^2, for f of order 1."""
    norm, inputs = case.layer.norm, case.inputs
    if norm is None or not norm.couples_samples or norm.gate is not None:
        raise NotApplicable
    if not norm.centered or not isinstance(inputs, ExchangeableInputs):
        raise NotApplicable
    gap = min(inputs.gap, 1.0)
    preds = [predict(case.network, exchangeable(batch=b, gap=gap)) for b in (512, 1024, math.inf)]
    for name in ("gap", "log_second_moment", "log_gradient_norm"):
        first, second, limit = (np.asarray(getattr(p, name)) for p in preds)
        error = 3.0 * stated(*preds, name=name) + 0.5 * SECOND_ORDER / 512**2
        close(name, 2.0 * second - first, limit, error)


@st.composite
def ring_pairs(pick: DrawFn, layers: Layers) -> Case:
    """Two samples over 256 positions, neither equal nor opposite."""
    inputs = exchangeable(
        batch=2,
        gap=pick(st.just(1.0) | st.floats(0.01, 1.5)),
        positions=256,
        position_gap=pick(st.just(1.0) | st.floats(0.05, 1.0)),
    )
    return Case(FeedForward(pick(layers), depth=pick(st.integers(1, 2))), inputs)


def many_positions() -> list[Case]:
    """Two samples over 256 positions in pools of 1 to 5 channels."""
    return [
        Case(
            FeedForward(Layer(norm=group_norm(size)), depth=1),
            exchangeable(batch=2, gap=gap, positions=256, position_gap=0.5),
        )
        for size in (1, 2, 3, 4, 5)
        for gap in corner_gaps(2)
    ]


@law(
    "pools over S positions tend to a limit as 1/S",
    layers=lambda: ring_layers(channels=[1, 2, 4]),
    subjects=ring_pairs,
    corners=many_positions,
)
def many_positions_have_a_limit(case: Case) -> None:
    """2 f(1024) - f(512) and 2 f(512) - f(256) differ by (3/8) b/256^2."""
    norm, inputs = case.layer.norm, case.inputs
    if norm is None or norm.pool.samples or not norm.pool.positions or norm.gate is not None:
        raise NotApplicable
    if norm.pool.channels == math.inf or not isinstance(inputs, SpatialInputs):
        raise NotApplicable
    if case.layer.activation.ray_slopes is None:
        raise NotApplicable  # sampled: no 1/S is seen behind its standard errors
    sizes = [dataclasses.replace(inputs, shape=(size,)) for size in (256, 512, 1024)]
    preds = [predict(case.network, given) for given in sizes]
    for name in ("gap", "log_second_moment", "log_gradient_norm"):
        first, second, third = (np.asarray(getattr(pred, name)) for pred in preds)
        error = 3.0 * stated(*preds, name=name) + 0.375 * SECOND_ORDER / 256**2
        close(name, 2.0 * third - second, 2.0 * second - first, error)


def _over_std() -> Layers:
    sizes = [math.inf, 5, 8]
    groups = draw.ratios(samples=False, channels=sizes, equal=True)
    rows = draw.ratios(samples=True, channels=[1], equal=True).map(
        lambda norm: dataclasses.replace(norm, centered=True, denominator="std")
    )
    phis = draw.activations(names=draw.HOMOGENEOUS, affine=False)
    return st.builds(Layer, weights=draw.weights(), norm=groups | rows, activation=phis)


@law(
    "eps -> 0 is eps = 0, and eps -> inf only divides by sqrt(eps)",
    layers=_over_std,
    subjects=lambda layers: cases(layers, largest_depth=1, positions=False, exchangeable_only=True),
    corners=shallow_corners,
)
def eps_has_both_limits(case: Case) -> None:
    """Relative to the pool's variance v; rank 4 and more, so that E[1/R^2] has no cut-off.

    E[1/(R^2 + eps)] = E[1/R^2] (1 - O(eps/v log(v/eps))), with the logarithm at rank 4: 2e-8 for 1e-9; and
    = (1 - O(v/eps))/eps: 1e-7.
    """
    norm, inputs = case.layer.norm, case.inputs
    if norm is None or norm.denominator == "none" or norm.gate is not None:
        raise NotApplicable
    if norm.rank(batch=inputs.batch, positions=1) < 4 or case.layer.activation.shift:
        raise NotApplicable
    if norm.couples_samples and isinstance(inputs, ExchangeableInputs):
        inputs = exchangeable(batch=inputs.batch, gap=max(inputs.gap, 0.1))
    scale = case.layer.weights.weight_variance * float(np.mean(inputs.second_moment))

    def at(eps: float) -> Any:
        return predict(_with_norm(case, dataclasses.replace(norm, eps=eps)), inputs, backward=False)

    none, small = at(0.0), at(1e-9 * scale)
    close("gap at eps -> 0", small.gap, none.gap, 1e-6 * none.gap + 1e-15)
    close("E[x^2] at eps -> 0", small.second_moment, none.second_moment, 1e-6 * none.second_moment)
    if case.layer.activation.ray_slopes is None:
        return  # phi bends: N(h) is not small enough for its slope alone
    large, larger = at(1e7 * scale), at(4e7 * scale)
    close("gap at eps -> inf", large.gap, larger.gap, 1e-6 * large.gap + 1e-15)
    close("E[x^2] eps", large.second_moment, 4.0 * larger.second_moment, 1e-6 * large.second_moment)


def _opposite() -> list[Case]:
    """Found by the thorough profile: gaps of opposite samples were above 2 by a rounding."""
    inputs = from_covariance([[1.0, -1.0], [-1.0, 1.0]])
    norm = group_norm(2, eps=1e-5)
    return [
        Case(FeedForward(Layer(norm=norm, activation=phi), depth=1), inputs, seed=order)
        for phi in (relu, relu.affine(shift=1.0))
        for order in range(len(IDENTITY_AT_ZERO))
    ]


@law(
    "a branch times 0 is the identity",
    subjects=lambda layers: cases(layers, positions=False),
    found=_opposite,
)
def no_branch_is_the_identity(case: Case) -> None:
    """x^l = x^{l-1} and g^l = g^{l-1} in every order whose stream passes nothing else."""
    order: Any = IDENTITY_AT_ZERO[case.seed % len(IDENTITY_AT_ZERO)]
    stem = gaussian(weight_variance=1.0)
    network = Residual(case.layer, depth=case.network.depth, order=order, branch=0.0, stem=stem)
    pred = predict(network, case.inputs)
    start = np.mean(case.inputs.second_moment)
    close("E[x^2]", pred.second_moment, start, ROUNDING * start)
    close("gap", pred.gap, pred.gap[0], ROUNDING * pred.gap[0])
    if isinstance(case.inputs, ExchangeableInputs):
        close("gap", pred.gap, case.inputs.gap, ROUNDING * case.inputs.gap)
    assert pred.log_gradient_norm is not None
    close("gradient", pred.log_gradient_norm, 0.0, ROUNDING)


@law(
    "a skip that vanishes leaves the feed-forward network",
    subjects=lambda layers: cases(layers, positions=False, exchangeable_only=True),
)
def no_skip_is_feed_forward(case: Case) -> None:
    """x^l = alpha x^{l-1} + W phi(N(x^{l-1})) tends to h^{l+1} of the feed-forward network."""
    depth = case.network.depth
    residual = Residual(case.layer, depth=depth, skip=1e-10, stem=case.layer.weights)
    forward = FeedForward(case.layer, depth=depth + 1)
    stream = predict(residual, case.inputs, backward=False)
    plain = predict(forward, case.inputs, backward=False)
    error = stream.error["log_second_moment"] + plain.error["log_second_moment"][:-1]
    log_q = plain.log_preactivation_second_moment[1:]
    error += plain.error["log_preactivation_second_moment"][1:]
    # What the skip adds is alpha^2 = 1e-20 of the second moment, and of the distance of samples.
    close("E[x^2]", stream.log_second_moment, log_q, error + ROUNDING)
    error = stream.error["gap"] + plain.error["preactivation_gap"][1:]
    gap = plain.preactivation_gap[1:]
    close("gap", stream.gap, gap, error + ROUNDING * gap + 1e-18)


@st.composite
def any_cases(pick: DrawFn, layers: Layers) -> Case:
    """Any network, residual ones included, and any inputs: they need not fit together."""
    of = st.just(pick(layers))
    network = pick(draw.networks(of) | draw.residual_networks(of))
    return Case(
        network,
        pick(draw.batches() | draw.covariances() | draw.nearly_equal() | draw.over_positions()),
    )


def _any_layers() -> Layers:
    return draw.layers() | predictable_layers()


@law(
    "spec -> JSON -> spec is the identity, and keeps the key",
    layers=_any_layers,
    subjects=any_cases,
)
def specs_survive_json(case: Case) -> None:
    """from_json(to_json(spec)) == spec."""
    for spec in (case.network, case.inputs):
        try:
            again = from_json(to_json(spec))
        except SpecificationError as error:
            raise AssertionError(f"it cannot be stored: {error}") from error
        assert again == spec
        assert key(again) == key(spec)
