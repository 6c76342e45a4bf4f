"""Residual networks: specification, program, and the covariance recursion against closed forms."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.testing import assert_allclose

import theory as th
from theory import streams
from theory.laws import non_gaussian
from theory.program import Fork, Linear, Merge, NormAct, Observe, Scale, lower
from theory.specs.activations import Activation
from theory.specs.normalizers import Normalizer, Pool
from theory.specs.weights import Weights

INPUTS = th.exchangeable(batch=16, correlation=0.5)
GROWTH = math.pi / (math.pi - 1.0)  # lambda of scaled weight standardization, weight norm, BN(inf)


def residual(norm: th.Normalizer | None = None, **fields: Any) -> th.Residual:
    layer = {n: fields.pop(n) for n in ("weights", "activation", "kernel") if n in fields}
    return th.Residual(th.Layer(norm=norm, **layer), **fields)


def kappa1(c: float) -> float:
    return (math.sqrt(1.0 - c * c) + c * (math.pi - math.acos(c))) / math.pi


def squared(norm: Any) -> Any:
    return np.asarray(norm) ** 2


def steps(prediction: th.Prediction) -> Any:
    """Factor of the squared gradient norm over each block but the first."""
    square = squared(prediction.gradient_norm)
    return square[:-1] / square[1:]


# --- specification ---------------------------------------------------------------------------------

NETWORKS = {
    "default": residual(depth=3),
    "transformer": residual(th.rms_norm(), depth=2, order="sandwich", stem=th.gaussian()),
    "remedies": residual(depth=4, skip=0.5, branch="1/sqrt(L)", maps=2, kernel=3),
    "scales": residual(depth=2, scales=(1.0, 0.5)),
    "fixup": th.fixup(th.Layer(), depth=9),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_repr_and_json_recreate_the_network(network: th.Residual) -> None:
    names = {
        "Residual": th.Residual, "Layer": th.Layer, "Weights": Weights, "Normalizer": Normalizer,
        "Pool": Pool, "Activation": Activation, "inf": math.inf,
    }  # fmt: skip
    assert eval(repr(network), names) == network
    assert th.from_json(th.to_json(network)) == network
    assert hash(th.from_json(th.to_json(network))) == hash(network)


def test_keys_of_other_networks_did_not_change() -> None:
    network = th.FeedForward(th.zoo["GN(8)"], depth=50)
    assert th.key(network) == "60fb1e4aeb6c0ccacf9becaa7f8d9ee2c7dc295341f47ae7cc6d30b3c86edb58"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 0}, "depth"),
        ({"depth": 2, "order": "v3"}, "order = 'v3'"),
        ({"depth": 2, "skip": 0.0}, "FeedForward"),
        ({"depth": 2, "skip": math.nan}, "skip"),
        ({"depth": 2, "branch": "1/L"}, "branch"),
        ({"depth": 2, "maps": 3}, "maps"),
        ({"depth": 2, "stem": 2.0}, "stem"),
        ({"depth": 2, "scales": (1.0,)}, "scales"),
        ({"depth": 1, "scales": (0.0,)}, "scales"),
    ],
)
def test_arguments_outside_their_domain(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(th.SpecificationError, match=message):
        residual(**fields)


def test_maps_follow_the_order_and_branch_the_depth() -> None:
    assert [residual(depth=1, order=order).maps for order in th.ORDERS] == [1, 1, 1, 2, 2, 2, 2, 2]
    assert residual(depth=16, branch="1/sqrt(L)").branch == 0.25
    assert th.torch_defaults(residual(th.batch_norm(), depth=1)).layer.norm == th.batch_norm(
        eps=1e-5
    )


def test_fixup_scales_all_maps_and_closes_the_branch() -> None:
    network = th.fixup(th.Layer(), depth=9)
    assert network.branch == 0.0
    assert_allclose(network.layer.weights.weight_variance, 2.0 / 9.0, rtol=1e-15)
    with pytest.raises(th.SpecificationError, match="Fixup replaces it"):
        th.fixup(th.Layer(norm=th.batch_norm()), depth=9)


# --- program ---------------------------------------------------------------------------------------

WORDS = {
    ("pre_activation", 1): "fork N+phi W h merge x",
    ("pre_activation", 2): "fork N+phi W h N+phi W merge x",
    ("post_activation", 1): "fork W h N merge phi x",
    ("post_activation", 2): "fork W h N+phi W N merge phi x",
    ("activation_before_addition", 1): "fork W h N+phi merge x",
    ("activation_before_addition", 2): "fork W h N+phi W N+phi merge x",
    ("pre_norm", 1): "fork N+phi W h merge x",
    ("pre_norm", 2): "fork N W h phi W merge x",
    ("post_norm", 1): "fork phi W h merge N x",
    ("post_norm", 2): "fork W h phi W merge N x",
    ("branch_end_norm", 1): "fork phi W h N merge x",
    ("branch_end_norm", 2): "fork W h phi W N merge x",
    ("sandwich", 1): "fork N+phi W h N merge x",
    ("sandwich", 2): "fork N W h phi W N merge x",
    ("deep_norm", 1): "fork phi W h merge N x",
    ("deep_norm", 2): "fork W h phi W merge N x",
}


def word(op: Any) -> str:
    match op:
        case NormAct(norm, activation):
            parts = ["N"] * (norm is not None) + ["phi"] * (activation != th.identity)
            return "+".join(parts)
        case Linear():
            return "W"
        case Observe(what):
            return {"preactivation": "h", "stream": "x"}[what]
        case _:
            return type(op).__name__.lower()


@pytest.mark.parametrize(("order", "maps"), WORDS)
def test_every_order_in_words(order: Any, maps: int) -> None:
    network = residual(th.group_norm(4), depth=2, order=order, maps=maps)
    assert " ".join(map(word, lower(network))) == " ".join([WORDS[order, maps]] * 2)
    bare = dataclasses.replace(network, layer=th.Layer())
    alone = WORDS[order, maps].replace("N+phi", "phi").replace("N ", "")
    assert " ".join(map(word, lower(bare))) == " ".join([alone] * 2)


def test_stem_factors_and_scales_in_the_program() -> None:
    network = residual(depth=1, skip=2.0, branch=0.5, scales=(0.1,), stem=th.weight_norm())
    assert lower(network) == (
        Linear(th.weight_norm()), Fork(), Scale(0.1), NormAct(None, th.relu), Linear(th.gaussian()),
        Observe("preactivation"), Merge(2.0, 0.5), Observe("stream"),
    )  # fmt: skip


def test_deep_norm_constants() -> None:
    """12 layers of two blocks each: a = 24^(1/4), and deviations of W times 96^(-1/4)."""
    program = lower(residual(th.layer_norm(), depth=24, order="deep_norm"))
    merge = next(op for op in program if isinstance(op, Merge))
    linear = next(op for op in program if isinstance(op, Linear))
    assert_allclose(merge.skip, 24**0.25, rtol=1e-15)
    assert_allclose(linear.weights.weight_variance, 2.0 / math.sqrt(96.0), rtol=1e-14)


# --- closed forms of theory notes, section 5 -------------------------------------------------------


def test_plain_doubles_both_ways() -> None:
    prediction = th.predict(residual(depth=20), INPUTS)
    assert_allclose(prediction.second_moment, 2.0 ** np.arange(1, 21), rtol=1e-12)
    assert_allclose(steps(prediction), 2.0, rtol=1e-12)


@pytest.mark.parametrize("batch", [16, 64])
def test_batch_norm_is_linear_forwards_and_a_product_backwards(batch: int) -> None:
    depth, layers = 31, np.arange(1, 32)
    inputs = th.exchangeable(batch=batch, correlation=0.5)
    prediction = th.predict(residual(th.batch_norm(), depth=depth), inputs)
    off = kappa1(-1.0 / (batch - 1))
    q, p = 1.0 + layers, 0.5 + layers * off
    assert_allclose(prediction.second_moment, q, rtol=1e-12)
    assert_allclose(prediction.second_moment * prediction.similarity, p, rtol=1e-12)

    # Pi = pi_c P + pi_m 11'/B, from the cotangent Pi = I.
    rho = -1.0 / (batch - 1)
    a = 1.0 - off
    p2 = 0.25 + math.asin(rho) / (2.0 * math.pi)
    d = batch / 2.0 - (0.5 + (batch - 1) * p2)
    capital_q = 0.5 + (batch - 1) * off / 2.0
    growth = (
        2.0 * batch / ((batch - 1) * (batch - 3) * a)
        * ((batch - 2) / 2.0 - (d - capital_q) / batch)
    )  # fmt: skip
    contrast, mean = 1.0, 1.0
    total = [batch * 1.0]
    for spread in (q - p)[-2::-1]:
        contrast += contrast * growth * a / spread + mean * 2.0 * (d - capital_q) / (
            (batch - 3) * (batch - 1) * spread
        )
        total.append((batch - 1) * contrast + mean)
    assert_allclose(squared(prediction.gradient_norm), np.array(total[::-1]) / batch, rtol=1e-12)


@pytest.mark.parametrize(
    ("norm", "share"),
    [(th.batch_norm(ddof=1), 15 / 16), (th.group_norm(8, ddof=1), 7 / 8)],
    ids=["BN", "GN(8)"],
)
def test_degrees_of_freedom_are_seen_by_the_stream(norm: th.Normalizer, share: float) -> None:
    prediction = th.predict(residual(norm, depth=20), INPUTS)
    assert_allclose(prediction.second_moment, 1.0 + share * np.arange(1, 21), rtol=1e-12)


@pytest.mark.parametrize(
    ("norm", "growth"),
    [(th.layer_norm(), 1.0), (th.rms_norm(), 1.0), (th.group_norm(8), 6 / 5), (th.group_norm(16), 14 / 13)],
    ids=["LN", "RMS", "GN(8)", "GN(16)"],
)  # fmt: skip
@pytest.mark.parametrize("maps", [1, 2])
def test_samplewise_normalizers_grow_as_a_power(
    norm: th.Normalizer, growth: float, maps: int
) -> None:
    """1 + lambda^m/q_l: a ratio of Gamma functions, ~ L^(lambda^m)."""
    depth = 40
    prediction = th.predict(residual(norm, depth=depth, maps=maps), INPUTS)
    assert_allclose(prediction.second_moment, 2.0 + np.arange(depth), rtol=1e-12)
    power = growth if maps == 1 else growth * growth / 2.0
    if maps == 1:
        gamma = mpmath.gamma
        exact = gamma(depth + 1 + power) * gamma(2) / (gamma(depth + 1) * gamma(2 + power))
        assert_allclose(squared(prediction.gradient_norm)[0], float(exact), rtol=1e-12)
    else:
        # The second normalizer sees q = 2, the first map's variance, not 1: lambda (lambda 2/2)/q.
        expected = 1.0 + growth * growth / (1.0 + np.arange(1, depth))
        assert_allclose(steps(prediction), expected, rtol=1e-12)


def test_weight_schemes_without_remedy() -> None:
    standardized = th.predict(
        residual(depth=17, weights=th.scaled_weight_standardization()), INPUTS
    )
    assert_allclose(standardized.second_moment, 2.0 ** np.arange(1, 18), rtol=1e-12)
    assert_allclose(steps(standardized), 1.0 + GROWTH, rtol=1e-12)

    normed = th.predict(
        residual(depth=17, weights=th.weight_norm(), activation=th.scaled_relu), INPUTS
    )
    q = [1.0]
    for _ in range(17):
        q.append(2.0 * q[-1] + (math.sqrt(q[-1]) - 1.0) ** 2 / (math.pi - 1.0))
    assert_allclose(normed.second_moment, q[1:], rtol=1e-12)
    ratios = np.array(q[1:]) / q[:-1]
    assert_allclose(ratios[[0, 1, 3, 7, 15]], [2.00, 2.04, 2.20, 2.41, 2.465], atol=0.005)
    assert_allclose(steps(normed), 1.0 + GROWTH, rtol=1e-12)


@pytest.mark.parametrize(
    ("weights", "growth"),
    [(th.gaussian(), 1.0), (th.scaled_weight_standardization(), GROWTH)],
    ids=["plain", "SWS"],
)
def test_inverse_root_of_depth_bounds_both(weights: th.Weights, growth: float) -> None:
    depth = 2000
    prediction = th.predict(residual(depth=depth, weights=weights, branch="1/sqrt(L)"), INPUTS)
    assert_allclose(prediction.second_moment[-1], (1.0 + 1.0 / depth) ** depth, rtol=1e-12)
    backwards = (1.0 + growth / depth) ** (depth - 1)
    assert_allclose(squared(prediction.gradient_norm)[0], backwards, rtol=1e-12)
    # The limits e and e^(pi/(pi-1)), approached as 1/L.
    assert_allclose(backwards, math.exp(growth), rtol=3.0 / depth)


@pytest.mark.parametrize(
    ("norm", "batch"), [(None, 16), (th.batch_norm(), 16), (th.batch_norm(), 3)], ids=str
)
def test_skip_init_is_constant(norm: th.Normalizer | None, batch: int) -> None:
    """Even where E[1/R^2] is infinite, as for BN over three samples: nothing passes the branch."""
    inputs = th.exchangeable(batch=batch, correlation=0.5)
    prediction = th.predict(residual(norm, depth=5, branch=0.0), inputs)
    assert_allclose(prediction.second_moment, 1.0, rtol=1e-15)
    assert_allclose(prediction.gradient_norm, 1.0, rtol=1e-15)
    assert_allclose(prediction.branch_gradient_norm, 0.0, atol=0.0)
    assert prediction.regime.status == "regular"


@pytest.mark.parametrize("norm", [th.batch_norm(), th.group_norm(8), th.variance_norm()])
def test_no_population_where_branches_are_0(norm: th.Normalizer) -> None:
    """h^l is W phi(N(a^l x_0)), and N does not see a: block after block the first one's."""
    inputs = th.exchangeable(batch=8, correlation=0.3)
    network = residual(norm, depth=4, order="sandwich", branch=0.0, skip=0.5, maps=1)
    prediction = th.predict(network, inputs)
    assert "population" not in (prediction.forward_route, prediction.backward_route)
    assert_allclose(prediction.second_moment, 0.25 ** np.arange(1.0, 5.0), rtol=1e-15)
    assert_allclose(prediction.gap, 0.7, rtol=1e-14)
    one = th.predict(th.FeedForward(th.Layer(norm=norm), depth=2), inputs)
    assert_allclose(prediction.preactivation_gap, one.preactivation_gap[1], rtol=1e-13)
    assert_allclose(prediction.gradient_norm, 0.5 ** np.arange(3.0, -1.0, -1.0), rtol=1e-15)
    assert_allclose(prediction.branch_gradient_norm, 0.0, atol=0.0)


@pytest.mark.parametrize("branch", [0.0, 1e-170])
def test_skip_init_is_constant_over_positions(branch: float) -> None:
    """A branch whose second moment is 0, or underflows to it, has gaps nevertheless."""
    inputs = th.exchangeable(batch=2, correlation=0.3, positions=3, position_correlation=0.2)
    prediction = th.predict(residual(depth=2, branch=branch, stem=th.gaussian()), inputs)
    assert_allclose(prediction.gap, 0.7, rtol=1e-15)
    assert_allclose(prediction.gradient_norm, 1.0, rtol=1e-15)


def test_batch_norm_of_two_samples_passes_gradients_over_the_skip_alone() -> None:
    prediction = th.predict(
        residual(th.batch_norm(), depth=3, skip=2.0), th.exchangeable(batch=2, correlation=0.5)
    )
    assert prediction.regime.status == "degenerate"
    assert_allclose(squared(prediction.gradient_norm), [16.0, 4.0, 1.0], rtol=1e-15)


@pytest.mark.parametrize(
    ("weights", "growth"),
    [(th.gaussian(), 1.0), (th.scaled_weight_standardization(), GROWTH)],
    ids=["plain", "SWS"],
)
def test_normalizer_free_scaling(weights: th.Weights, growth: float) -> None:
    network = th.nf_scaled(residual(depth=30, weights=weights), INPUTS)
    q = 1.0 + np.arange(30)
    assert_allclose(network.scales, 1.0 / np.sqrt(q), rtol=1e-12)
    prediction = th.predict(network, INPUTS)
    assert_allclose(prediction.second_moment, q + 1.0, rtol=1e-12)
    assert_allclose(steps(prediction), 1.0 + growth / q[1:], rtol=1e-12)
    assert th.from_json(th.to_json(network)) == network


def test_normalizer_free_scaling_refuses() -> None:
    with pytest.raises(th.SpecificationError, match="stands in for it"):
        th.nf_scaled(residual(th.batch_norm(), depth=2), INPUTS)
    with pytest.raises(th.SpecificationError, match="a residual network"):
        th.nf_scaled(th.FeedForward(th.Layer(), depth=2), INPUTS)  # type: ignore[arg-type]
    tanh = th.Residual(th.Layer(activation=th.tanh), depth=3, order="post_activation")
    with pytest.raises(th.HypothesisError, match="tanh does not reflect"):
        th.nf_scaled(tanh, INPUTS)
    data = th.from_data(np.eye(3, 4))
    with pytest.raises(th.HypothesisError, match="not Gaussian"):
        th.nf_scaled(residual(depth=3, order="post_activation"), data)


@pytest.mark.parametrize(
    ("norm", "growth"), [(th.layer_norm(), 1.0), (th.group_norm(8), 6 / 5)], ids=["LN", "GN(8)"]
)
def test_norm_at_the_end_of_the_branch_adds_one_per_block(
    norm: th.Normalizer, growth: float
) -> None:
    """Swin v2, OLMo 2: the variance of x + N(F(x)) keeps growing, by one per block."""
    prediction = th.predict(residual(norm, depth=30, order="branch_end_norm"), INPUTS)
    assert_allclose(prediction.second_moment, 2.0 + np.arange(30), rtol=1e-12)
    assert_allclose(steps(prediction), 1.0 + growth / (1.0 + np.arange(1, 30)), rtol=1e-12)


def test_batch_norm_at_the_end_of_the_branch() -> None:
    prediction = th.predict(residual(th.batch_norm(), depth=30, order="branch_end_norm"), INPUTS)
    layers = np.arange(1, 31)
    assert_allclose(prediction.second_moment, 1.0 + layers, rtol=1e-12)
    off = prediction.second_moment * prediction.similarity
    assert_allclose(off, 0.5 - layers / 15.0, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("norm", [th.layer_norm(), th.rms_norm()], ids=["LN", "RMS"])
@pytest.mark.parametrize("order", ["post_norm", "deep_norm"])
def test_post_norm(norm: th.Normalizer, order: Any) -> None:
    """q = 1 behind the norm; p' = (a^2 p + v kappa_1(p))/(a^2 + v), v = 2 of two relu maps; lambda = 1."""
    depth, skip = 12, 1.5
    prediction = th.predict(residual(norm, depth=depth, order=order, skip=skip), INPUTS)
    assert_allclose(prediction.second_moment, 1.0, rtol=1e-12)
    assert_allclose(prediction.gradient_norm, 1.0, rtol=1e-12)
    a, v = skip, 2.0
    if order == "deep_norm":
        a, v = skip * depth**0.25, 2.0 * (4.0 * depth) ** -1.0
    pair = 0.5
    for similarity in prediction.similarity:
        pair = (a * a * pair + v * kappa1(pair)) / (a * a + v)
        assert_allclose(similarity, pair, rtol=1e-12)


def test_activation_before_addition() -> None:
    """x + relu(LN(W x)): E[x] = l/sqrt(2 pi), E[x^2] = q_0 + l (1/2 - 1/2pi) + l^2/2pi, and E[x x']."""
    depth = 50
    prediction = th.predict(
        residual(th.layer_norm(), depth=depth, order="activation_before_addition"), INPUTS
    )
    step = 1.0 / (2.0 * math.pi)
    q, p = 1.0, 0.5
    pairs, c = [], 0.5
    for layer in range(1, depth + 1):
        pairs.append(kappa1(c) / 2.0 - step)
        q = 1.0 + layer * (0.5 - step) + layer**2 * step
        p = 0.5 + layer**2 * step + sum(pairs)
        c = p / q
        assert_allclose(prediction.second_moment[layer - 1], q, rtol=1e-12)
        assert_allclose(prediction.similarity[layer - 1], c, rtol=1e-12)
    means = [state.mean for state in prediction.states]
    assert_allclose(means, np.arange(1, depth + 1) / math.sqrt(2.0 * math.pi), rtol=1e-12)


@pytest.mark.parametrize("name", ["plain", "SWS"])
def test_stated_errors_of_streams_with_a_mean(name: str) -> None:
    """x + relu(W x), 100 blocks, against 60 digits: errors are stated, and stay near rounding."""
    layer, depth = th.zoo[name], 100
    net = th.Residual(layer, depth=depth, order="activation_before_addition")
    prediction = th.predict(net, INPUTS)
    errors = prediction.activation.second_moment_error, prediction.activation.gap_error
    with mpmath.workdps(60):
        q, p, mean = mpmath.mpf(1), mpmath.mpf("0.5"), mpmath.mpf(0)
        for block in range(depth):
            # E[relu(W x)^2] is sigma_w^2/2 of the second moment that W sees.
            seen = mean * mean if layer.weights.centered else 0
            gain = mpmath.mpf(layer.weights.weight_variance) / 2
            own, pair = gain * (q - seen), gain * (p - seen)
            angle, m = mpmath.acos(pair / own), mpmath.sqrt(own / mpmath.pi)
            added = own * (mpmath.sin(angle) + (mpmath.pi - angle) * pair / own) / mpmath.pi
            q, p, mean = q + own + 2 * mean * m, p + added + 2 * mean * m, mean + m
            for value, found, error in (
                (q, prediction.second_moment[block], errors[0][block]),
                (1 - p / q, prediction.gap[block], errors[1][block]),
            ):
                assert abs(found / value - 1) < error < 1e-11


@pytest.mark.parametrize("order", ["post_activation", "branch_end_norm"])
@pytest.mark.parametrize("norm", [th.evonorm_s0(), th.evonorm_b0()], ids=["S0", "B0"])
def test_identity_is_no_layer(norm: Normalizer, order: Any) -> None:
    """EvoNorm brings its own nonlinearity: identity(x + N(W x)), x + N(W identity(x)) are one network."""
    inputs = th.exchangeable(batch=4, correlation=0.5)
    found, expected = (
        th.predict(residual(norm, depth=3, order=o, maps=1, activation=th.identity), inputs)
        for o in (order, "activation_before_addition")
    )
    assert_allclose(found.second_moment, expected.second_moment, rtol=1e-15)
    assert_allclose(found.similarity, expected.similarity, rtol=1e-15)
    assert_allclose(squared(found.gradient_norm), squared(expected.gradient_norm), rtol=1e-15)


def test_gradients_inside_the_branch() -> None:
    """x + W2 phi(W1 LN(x)), sigma_w^2 = 3, beta = 1/2: at h, E phi'^2 3 beta^2 of the stream's."""
    network = residual(
        th.layer_norm(), depth=6, order="pre_norm", weights=th.gaussian(weight_variance=3.0),
        branch=0.5,
    )  # fmt: skip
    prediction = th.predict(network, INPUTS)
    expected = squared(prediction.gradient_norm) * 0.25 * 3.0 / 2.0
    assert_allclose(squared(prediction.branch_gradient_norm), expected, rtol=1e-12)
    one = th.predict(residual(th.layer_norm(), depth=6, branch=0.5), INPUTS)
    assert_allclose(one.branch_gradient_norm, 0.5 * np.asarray(one.gradient_norm), rtol=1e-12)


# --- other states, scales, precision ---------------------------------------------------------------


def test_exponential_growth_over_ten_thousand_blocks() -> None:
    prediction = th.predict(residual(depth=10_000), INPUTS)
    assert_allclose(prediction.log_second_moment[-1], 10_000 * math.log(2.0), rtol=1e-14)
    assert_allclose(prediction.log_gradient_norm[0], 0.5 * 9_999 * math.log(2.0), rtol=1e-13)  # type: ignore[index]
    shrinking = th.predict(residual(depth=10_000, skip=0.1, branch=0.1), INPUTS)
    assert_allclose(shrinking.log_second_moment[-1], 10_000 * math.log(0.02), rtol=1e-13)


@pytest.mark.parametrize("positions", [1, 4], ids=["matrix", "positions"])
def test_exponential_growth_of_other_states(positions: int) -> None:
    inputs: Any = th.from_covariance(np.full((3, 3), 0.5) + 0.5 * np.eye(3))
    if positions > 1:
        inputs = th.exchangeable(
            batch=3, correlation=0.5, positions=positions, position_correlation=0.5
        )
    prediction = th.predict(residual(depth=700), inputs)
    assert_allclose(prediction.log_second_moment[-1], 700 * math.log(2.0), rtol=1e-13)
    assert_allclose(prediction.log_gradient_norm[0], 349.5 * math.log(2.0), rtol=1e-13)  # type: ignore[index]
    reference = th.predict(residual(depth=700), th.exchangeable(batch=3, correlation=0.5))
    assert_allclose(prediction.gap, reference.gap, rtol=1e-10)


@pytest.mark.parametrize("gap", [1e-14, 1e-4, 0.7])
def test_nearly_equal_samples_keep_relative_precision(gap: float) -> None:
    """p' = p + q (kappa_1(c)) in 60 digits."""
    with mpmath.workdps(60):
        c = 1 - mpmath.mpf(gap)
        exact = []
        for _ in range(30):
            theta = mpmath.acos(c)
            kernel = (mpmath.sin(theta) + c * (mpmath.pi - theta)) / mpmath.pi
            c = (c + kernel) / 2
            exact.append(float(1 - c))
    inputs = th.exchangeable(batch=3, gap=gap)
    prediction = th.predict(residual(depth=30), inputs)
    assert_allclose(prediction.gap, exact, rtol=1e-12)
    assert np.all(np.abs(prediction.gap - exact) <= prediction.error["gap"])


ROUTED = {
    "plain": None, "LN": th.layer_norm(), "BN": th.batch_norm(), "GN(8)": th.group_norm(8),
    "MC": th.mean_centering(), "VN": th.variance_norm(),
}  # fmt: skip


@pytest.mark.parametrize("norm", ROUTED.values(), ids=ROUTED)
@pytest.mark.parametrize("order", ["pre_activation", "activation_before_addition"])
@pytest.mark.parametrize("weights", [th.gaussian(), th.scaled_weight_standardization()], ids=str)
def test_a_matrix_agrees_with_exchangeable_samples(
    norm: th.Normalizer | None, order: Any, weights: th.Weights
) -> None:
    network = residual(norm, depth=3, order=order, weights=weights)
    matrix = th.from_covariance(np.full((8, 8), 0.3) + 0.7 * np.eye(8))
    one = th.predict(network, th.exchangeable(batch=8, correlation=0.3))
    other = th.predict(network, matrix)
    for name in ("second_moment", "gap", "variance", "gradient_norm", "branch_gradient_norm"):
        assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-12)


@pytest.mark.parametrize("norm", [None, th.layer_norm()], ids=["plain", "LN"])
def test_matrix_recursion_by_hand(norm: th.Normalizer | None) -> None:
    """Sigma' = a^2 Sigma + b^2 2 V(Sigma) for unequal samples behind a stem, in plain NumPy."""
    features = np.random.default_rng(0).normal(size=(4, 7)) * np.array([[1.0], [2.0], [0.5], [1.0]])
    sigma = 2.0 * features @ features.T / 7
    network = residual(norm, depth=3, skip=0.7, branch=1.3, stem=th.gaussian())
    prediction = th.predict(network, th.from_data(features))
    for covariance in prediction.covariance:
        root = np.sqrt(np.diag(sigma))
        cosine = np.clip(sigma / np.outer(root, root), -1.0, 1.0)
        theta = np.arccos(cosine)
        kernel = (np.sin(theta) + cosine * (math.pi - theta)) / math.pi
        size = np.outer(root, root) if norm is None else 1.0
        sigma = 0.49 * sigma + 1.69 * size * kernel
        # arccos of a rounded 1 on the diagonal is known to 1e-8.
        assert_allclose(covariance, sigma, rtol=1e-7)


def test_means_stay_in_the_stream_and_centered_weights_do_not_see_them() -> None:
    """x + W2 relu(W1 x), rows centered: h has 2 (q - m^2), and m stays where it is."""
    mean, features = 0.6, np.random.default_rng(3).normal(size=(3, 50))
    features = features - features.mean(axis=1, keepdims=True) + mean
    covariance = features @ features.T / 50
    network = residual(depth=2, order="pre_norm", weights=th.centered_weights())
    prediction = th.predict(network, th.from_data(features))
    contrast = 2.0 * (np.diag(covariance) - mean**2)
    assert_allclose(prediction.preactivation_second_moment[0], contrast.mean(), rtol=1e-12)
    for state in prediction.states:
        assert_allclose(state.mean, mean, rtol=1e-12)


def test_layer_norm_removes_the_mean_of_any_stream() -> None:
    """x + W2 relu(W1 LN(x)) of data as they are: LN divides by the deviation over the features."""
    features = np.random.default_rng(4).normal(size=(3, 50)) + 1.0
    network = residual(th.layer_norm(), depth=1, order="pre_norm")
    prediction = th.predict(network, th.from_data(features))
    normalized = (features - features.mean(axis=1, keepdims=True)) / features.std(
        axis=1, keepdims=True
    )
    pair = normalized @ normalized.T / 50
    assert_allclose(prediction.preactivation_second_moment, 2.0, rtol=1e-12)
    mean_pair = (pair.sum() - 3.0) / 6.0
    assert_allclose(prediction.preactivation_correlation, mean_pair, rtol=1e-12)
    root_mean_square = residual(th.rms_norm(), depth=1, order="pre_norm")
    with pytest.raises(th.HypothesisError, match="keeps the mean"):
        th.predict(root_mean_square, th.from_data(features))


POSITIONS = th.exchangeable(batch=4, correlation=0.3, positions=8, position_correlation=0.5)


@pytest.mark.parametrize(
    "norm", [th.batch_norm(), th.group_norm(4), th.instance_norm(), th.filter_response_norm(), None],
    ids=["BN", "GN(4)", "IN", "FRN", "plain"],
)  # fmt: skip
def test_positions(norm: th.Normalizer | None) -> None:
    """q_l = q_0 + l behind a denominator; the first block is x^0 and one layer on it."""
    network = residual(norm, depth=4, kernel=3)
    prediction = th.predict(network, POSITIONS)
    layers = np.arange(1, 5)
    expected = 1.0 + layers if norm is not None else 2.0**layers
    assert_allclose(prediction.second_moment, expected, rtol=1e-10)
    layer = th.Layer(norm=norm, weights=th.gaussian(weight_variance=1.0))
    one = th.predict(th.FeedForward(layer, depth=1), POSITIONS)
    first = prediction.covariance[0]
    start = np.kron(0.7 * np.eye(4) + 0.3, 0.5 * np.eye(8) + 0.5)
    assert_allclose(first, start + 2.0 * one.covariance[0], rtol=1e-10)


# --- streams that are not Gaussian -----------------------------------------------------------------

OTHER = [
    residual(depth=2, order="post_activation"),
    residual(th.batch_norm(), depth=2, order="post_norm"),
    residual(th.group_norm(4), depth=2, order="sandwich"),
    residual(th.batch_norm(), depth=2, order="branch_end_norm", maps=1),
]


@pytest.mark.parametrize("network", OTHER, ids=lambda n: n.order)
def test_other_streams_are_recognized(network: th.Residual) -> None:
    reason = non_gaussian(network, INPUTS)
    assert reason is not None
    assert "acts on a stream that is not Gaussian" in reason
    # A branch that opens with a linear map needs second moments of the stream alone.
    assert non_gaussian(residual(th.batch_norm(), depth=2, order="branch_end_norm"), INPUTS) is None


def test_data_need_a_stem_where_an_activation_meets_them() -> None:
    data = th.from_data(np.random.default_rng(0).normal(size=(4, 9)))
    reason = non_gaussian(residual(depth=2), data)
    assert reason is not None
    assert "stem" in reason
    assert non_gaussian(residual(depth=2, stem=th.gaussian()), data) is None
    shifted = th.exchangeable(batch=4, correlation=0.9, feature_mean=0.5)
    assert non_gaussian(residual(depth=2), shifted) is not None


def test_predictions_are_kept(tmp_path: Path) -> None:
    prediction = th.predict(residual(th.batch_norm(), depth=3, order="pre_norm"), INPUTS)
    prediction.save(tmp_path / "stream.json")
    again = th.Prediction.load(tmp_path / "stream.json")
    assert again.network == prediction.network
    assert again.label == "BN, pre norm"
    for name in ("second_moment", "gradient_norm", "branch_gradient_norm"):
        assert_allclose(getattr(again, name), getattr(prediction, name), rtol=0.0)
    assert "branch_gradient_norm" in set(prediction.to_frame()["observable"])


def test_errors_of_a_sum_are_at_least_a_rounding():
    """Equal samples included; shares weigh what the parts state: 3 parts of 1e-3 and 1 of 5e-3."""
    q_error, gap_error = streams._errors(3.0, 1.0, 0.0, 0.0, 0.0, 1e-3, 5e-3, 1e-4, 2e-4)
    assert q_error == pytest.approx(2e-3, rel=1e-9)
    assert gap_error > 2e-4
    assert min(streams._errors(1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)) > 0.0
    # The same share of q and of the squared distance: no error of q moves the gap.
    _, gap_error = streams._errors(3.0, 1.0, 0.0, 0.3, 0.1, 1e-3, 5e-3, 1e-4, 5e-4)
    assert gap_error == pytest.approx(2e-4, rel=1e-9)
    _, gap_error = streams._errors(3.0, 1.0, 0.0, 0.1, 0.1, 1e-3, 5e-3, 0.0, 0.0)
    assert gap_error == pytest.approx(0.25 * 1e-3 + 0.25 * 5e-3, rel=1e-9)
