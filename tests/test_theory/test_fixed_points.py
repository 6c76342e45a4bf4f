"""Fixed points: closed values, asymptotics, evidence, and iteration as the oracle."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

import theory as th

PI = math.pi


def layer(**parts: object) -> th.FeedForward:
    return th.FeedForward(th.Layer(**parts), depth=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", [None, th.layer_norm(), th.rms_norm()])
def test_relu_collapses_marginally(norm: th.Normalizer | None) -> None:
    found = th.fixed_point(layer(norm=norm))
    assert (found.correlation, found.slope, found.gradient_growth) == (1.0, 1.0, 1.0)
    assert found.depth_scale == math.inf
    assert found.status == "marginal"


@pytest.mark.parametrize(
    ("net", "similarity"),
    [
        (layer(weights=th.scaled_weight_standardization()), 1 / PI),
        (layer(weights=th.centered_weights(weight_variance=2 * PI / (PI - 1))), 1 / PI),
        (layer(weights=th.weight_norm(), activation=th.scaled_relu), 0.0),
    ],
)
def test_centered_weights_keep_samples_apart(net: th.FeedForward, similarity: float) -> None:
    found = th.fixed_point(net)
    assert found.correlation == pytest.approx(0.0, abs=10 * found.bound)
    assert found.similarity == pytest.approx(similarity, abs=1e-14)
    # chi(c* = 0) = E[phi']^2 / E[phi^2]-ish = (1/2)(pi/(pi-1)); chi(1) is the other root's.
    assert found.slope == pytest.approx(0.5 * PI / (PI - 1), rel=1e-13)
    assert found.gradient_growth == pytest.approx(PI / (PI - 1), rel=1e-13)
    at_one, inner = th.fixed_points(net)
    assert at_one.slope == pytest.approx(PI / (PI - 1), rel=1e-13)
    assert at_one.status == "repelling"
    assert repr(inner) == repr(found)  # nan, the positions' correlation, is not equal to itself


@pytest.mark.parametrize("size", [4, 6, 8, 32, 256, 4096])
def test_group_norm_growth_and_slope_at_one(size: int) -> None:
    found = th.fixed_point(layer(norm=th.group_norm(size)))
    assert found.gradient_growth == pytest.approx((size - 2) / (size - 3), rel=1e-13)
    assert 0 < found.slope < 1
    at_one = th.fixed_points(layer(norm=th.group_norm(size)))[0]
    assert at_one.slope == pytest.approx((size - 2) / (size - 3), rel=1e-13)


def test_group_norm_gap_asymptotics() -> None:
    # 1 - c* ~ (9 pi^2/8) [(n-3)/(n(n-2))]^2 with the ratios of the theory notes.
    for size, ratio in ((8, 1.39), (16, 1.13), (32, 1.03)):
        n = size - 1
        law = 9 * PI**2 / 8 * ((n - 3) / (n * (n - 2))) ** 2
        assert law / th.fixed_point(layer(norm=th.group_norm(size))).gap == pytest.approx(
            ratio, abs=0.006
        )


@pytest.mark.parametrize("batch", [4, 5, 16, 1000, 10**6])
def test_batch_norm(batch: int) -> None:
    found = th.fixed_point(layer(norm=th.batch_norm()), batch=batch)
    with mpmath.workdps(60):
        b = mpmath.mpf(batch)
        rho = -1 / (b - 1)
        kappa1 = (mpmath.sqrt(1 - rho**2) + rho * (mpmath.pi - mpmath.acos(rho))) / mpmath.pi
        a = 1 - kappa1
        p2 = mpmath.mpf(1) / 4 + mpmath.asin(rho) / (2 * mpmath.pi)
        d = b / 2 - (mpmath.mpf(1) / 2 + (b - 1) * p2)
        q = mpmath.mpf(1) / 2 + (b - 1) * kappa1 / 2
        growth = 2 * b / ((b - 1) * (b - 3) * a) * ((b - 2) / 2 - (d - q) / b)
    assert abs(mpmath.mpf(found.gradient_growth) / growth - 1) < 1e-12
    assert found.similarity == pytest.approx(float(kappa1), rel=1e-13)
    assert (found.slope, found.depth_scale) == (0.0, 0.0)


def test_batch_norm_without_a_batch_says_so() -> None:
    found = th.fixed_point(layer(norm=th.batch_norm()))
    assert found.gradient_growth == pytest.approx(PI / (PI - 1), rel=1e-14)
    assert "batch = infinity" in found.note


def test_variance_norm_collapses_geometrically() -> None:
    found = th.fixed_point(layer(norm=th.variance_norm()), batch=16)
    assert found.correlation == 1.0
    assert found.slope == pytest.approx(13 / 15, rel=1e-6)
    assert found.second_moment == math.inf


@pytest.mark.parametrize(
    "net",
    [
        layer(activation=th.tanh, weights=th.gaussian(weight_variance=2.5)),
        layer(norm=th.layer_norm(), activation=th.gelu),
        layer(norm=th.group_norm(5), activation=th.leaky_relu(0.1)),
        layer(norm=th.layer_norm(eps=0.3), activation=th.silu),
        layer(norm=th.group_norm(8), activation=th.softplus),
    ],
)
def test_iteration_ends_there(net: th.FeedForward) -> None:
    inputs = th.exchangeable(batch=2, correlation=0.1)
    found = th.fixed_point(net, inputs)
    # Deep enough for slopes near 0.97 to forget where they started.
    deep = th.predict(th.FeedForward(net.layer, depth=1000), inputs)
    assert deep.preactivation_correlation[-1] == pytest.approx(found.correlation, abs=1e-9)
    assert deep.similarity[-1] == pytest.approx(found.similarity, abs=1e-9)
    assert deep.preactivation_second_moment[-1] == pytest.approx(found.second_moment, rel=1e-9)
    # The slope is what the last approach shows, where it can still be seen.
    distance = np.abs(deep.preactivation_gap - found.gap)
    seen = np.flatnonzero((distance < 1e-3) & (distance > 1e-6))
    if len(seen) > 2:
        ratio = distance[seen[-1]] / distance[seen[-2]]
        assert ratio == pytest.approx(abs(found.slope), rel=2e-2)
    assert deep.log_gradient_norm is not None
    growth = 2 * (deep.log_gradient_norm[400] - deep.log_gradient_norm[401])
    assert growth == pytest.approx(math.log(found.gradient_growth), abs=1e-7)


def test_degenerate_groups() -> None:
    found = th.fixed_point(layer(norm=th.group_norm(2)))
    assert found.regime.status == "degenerate"
    assert found.gradient_growth == 0.0
    # c' = 1 - theta/pi: its slope is 1/(pi sqrt(1 - c^2)).
    expected = 1 / (PI * math.sqrt(1 - found.correlation**2))
    assert found.slope == pytest.approx(expected, rel=1e-8)
    assert th.fixed_point(layer(norm=th.group_norm(3))).gradient_growth == math.inf


def test_runaway_second_moments_are_said() -> None:
    found = th.fixed_point(layer(weights=th.gaussian(weight_variance=3.0)))
    assert found.second_moment == math.inf
    assert found.gradient_growth == pytest.approx(1.5, rel=1e-14)
    assert "1.5 per layer" in found.note
    found = th.fixed_point(layer(activation=th.tanh, weights=th.gaussian(weight_variance=0.8)))
    assert found.second_moment == 0.0
    assert found.gradient_growth == pytest.approx(0.8, rel=1e-9)


def test_all_roots_of_a_tanh_network() -> None:
    net = layer(activation=th.tanh, weights=th.gaussian(weight_variance=2.0))
    roots = th.fixed_points(net)
    assert [root.status for root in roots] == ["repelling", "attracting"]
    assert roots[0].slope > 1 > roots[1].slope


def test_bad_arguments() -> None:
    net = layer(norm=th.batch_norm())
    with pytest.raises(th.SpecificationError, match="positions"):
        th.fixed_point(net, positions=0)
    with pytest.raises(th.SpecificationError, match="batch"):
        th.fixed_point(net, th.exchangeable(batch=4, gap=0.5), batch=8)
    with pytest.raises(th.SpecificationError, match="batch"):
        th.fixed_point(net, batch=1)
    with pytest.raises(th.SpecificationError, match="two activations"):
        th.fixed_point(layer(norm=th.instance_norm()))


def test_variance_norm_of_an_infinite_batch_telescopes() -> None:
    found = th.fixed_point(layer(norm=th.variance_norm()))
    assert (found.correlation, found.slope, found.status) == (1.0, 1.0, "marginal")
    assert found.gradient_growth == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(
    "net",
    [
        layer(activation=th.softplus),
        layer(activation=th.gelu, weights=th.scaled_weight_standardization()),
        layer(activation=th.silu, weights=th.scaled_weight_standardization()),
        layer(activation=th.elu),
    ],
)
def test_no_fixed_point_is_made_of_rounding(net: th.FeedForward) -> None:
    found = th.fixed_point(net)
    assert found.second_moment == math.inf
    assert "without bound" in found.note
    deep = th.predict(th.FeedForward(net.layer, depth=60), th.exchangeable(batch=2, gap=0.5))
    assert (np.diff(deep.preactivation_second_moment[20:]) > 0).all()


def test_neutral_maps_keep_every_correlation() -> None:
    for norm in (None, th.layer_norm()):
        inputs = th.exchangeable(batch=2, correlation=0.2)
        found = th.fixed_point(layer(norm=norm, activation=th.identity), inputs)
        assert found.correlation == pytest.approx(0.2, rel=1e-12)
        assert "every correlation" in found.note


def test_depth_scales_are_lengths() -> None:
    for root in th.fixed_points(layer(norm=th.group_norm(8))):
        assert root.depth_scale > 0


@pytest.mark.parametrize(
    "net",
    [
        layer(norm=th.variance_norm(), activation=th.tanh),
        layer(norm=th.batch_norm(eps=1e-5), activation=th.gelu),
        layer(norm=th.mean_centering(), activation=th.tanh),
    ],
)
def test_every_coupled_normalizer_has_a_limit_of_large_batches(net: th.FeedForward) -> None:
    assert "batch = infinity" in th.fixed_point(net).note


@pytest.mark.parametrize("batch", [3, 6])
def test_mean_centering_changes_the_second_moment_by_its_own_factor(batch: int) -> None:
    """q' = sigma_w^2/2 (1 - 1/B) gap q; from the second layer on gap = 1 - kappa1(-1/(B-1))."""
    rho = -1.0 / (batch - 1)
    gap = 1.0 - (math.sqrt(1.0 - rho * rho) + rho * (PI - math.acos(rho))) / PI
    ratio = gap * (1.0 - 1.0 / batch)
    shrinking = th.fixed_point(layer(norm=th.mean_centering()), batch=batch)
    assert shrinking.gap == pytest.approx(gap, rel=1e-12)
    assert shrinking.second_moment == 0.0
    assert f"changes by {ratio:.6g} per layer" in shrinking.note
    # With this variance q stays where the first layer, of another gap, has put it.
    steady = th.gaussian(weight_variance=2.0 / ratio)
    inputs = th.exchangeable(batch=batch, correlation=0.3)
    found = th.fixed_point(layer(norm=th.mean_centering(), weights=steady), inputs)
    assert found.second_moment == pytest.approx(2.0 / ratio * 0.7 / gap, rel=1e-12)
    deep = th.predict(
        th.FeedForward(th.Layer(norm=th.mean_centering(), weights=steady), depth=9), inputs
    )
    assert deep.preactivation_second_moment[-1] == pytest.approx(found.second_moment, rel=1e-12)


def test_a_double_root_is_approached_algebraically() -> None:
    # q' = q + (sqrt q - 1)^2/(pi - 1): attracting from below, like 1/depth.
    net = layer(weights=th.weight_norm(), activation=th.scaled_relu)
    found = th.fixed_point(net, th.exchangeable(batch=4, correlation=0.3, second_moment=0.5))
    assert found.second_moment == pytest.approx(1.0, abs=1e-6)
    assert "algebraically" in found.note
    assert found.gap == pytest.approx(1.0, rel=1e-12)
    above = th.fixed_point(net, th.exchangeable(batch=4, correlation=0.3, second_moment=1.5))
    assert above.second_moment == math.inf


@pytest.mark.parametrize("batch", [4, 16])
def test_batch_norm_has_one_root(batch: int) -> None:
    # theory notes, section 4: lambda_4 = 3.08406, lambda_16 = 1.58995; s* = kappa1(-1/(B-1)).
    (found,) = th.fixed_points(layer(norm=th.batch_norm()), batch=batch)
    assert found.gradient_growth == pytest.approx({4: 3.08406, 16: 1.58995}[batch], abs=5e-6)
    angle = math.acos(-1.0 / (batch - 1))
    assert found.similarity == pytest.approx(
        (math.sin(angle) - (PI - angle) / (batch - 1)) / PI, rel=1e-12
    )


@pytest.mark.parametrize("size", [8, 256, 4096])
def test_bounds_grow_as_slopes_near_one(size: int) -> None:
    # An error e of the map moves its root by e/(1 - slope), and c itself has half a unit of rounding.
    found = th.fixed_point(layer(norm=th.group_norm(size)))
    assert found.bound >= 2.0**-54 / (1.0 - found.slope)


def test_sampled_maps_are_iterated_until_they_settle() -> None:
    # tanh and the pool are odd, so c = 0 stays; no closed form, hence RQMC.
    found = th.fixed_point(layer(norm=th.group_norm(4, eps=0.1), activation=th.tanh))
    assert "not converged" not in found.note
    assert found.bound < 0.01
    assert abs(found.gap - 1.0) <= 5.0 * found.bound
