"""Post-activation without a normalizer: reflected walks whose steps grow with the stream."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest

import theory as th
from theory.errors import HypothesisError
from theory.population.known import known
from theory.population.result import population
from theory.routes.scaled_walk import scaled_walk
from theory.routes.scaled_walk_law import scaled_walk_law

SWS = th.scaled_weight_standardization()


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (th.Layer(), {}),
        (th.Layer(), {"maps": 2, "branch": 0.5, "skip": 0.9}),
        (th.Layer(weights=SWS), {}),
        (th.Layer(weights=SWS), {"maps": 2, "stem": th.gaussian(weight_variance=2.0)}),
        (th.zoo["WN"], {}),
        (th.zoo["WN"], {"branch": 1.4, "skip": 0.8, "stem": th.gaussian()}),
        (th.zoo["WN"], {"maps": 2}),
    ],
    ids=["plain", "plain, two maps", "SWS", "SWS, two maps", "WN", "WN, stem", "WN, two maps"],
)
def test_walks_agree_with_populations(layer: th.Layer, options: dict[str, Any]) -> None:
    """Five standard errors of populations at every block: about 1e-4 per test, at fixed seeds."""
    net = th.Residual(layer, depth=20, order="post_activation", **options)
    inputs = th.exchangeable(batch=2, correlation=0.3, second_moment=1.3, feature_mean=0.4)
    exact = known(net, inputs, backward=True)
    assert exact.route == ("pair density" if net.weights.centered else "walk density")
    found = population(net, inputs, channels=8192)
    assert exact.log_second_moment is not None
    far = np.abs(exact.log_second_moment - found.stream.log_second_moment)
    assert np.all(far < 5.0 * found.stream.second_moment_error)
    assert found.gradient is not None
    assert found.branch_gradient is not None
    for ours, theirs in (
        (exact.log_gradient, found.gradient),
        (exact.log_branch_gradient, found.branch_gradient),
    ):
        assert ours is not None
        relative = theirs.log_second_moment - found.gradient.log_second_moment[-1]
        assert np.all(np.abs(ours - relative) < 5.0 * theirs.second_moment_error + 1e-10)


@pytest.mark.parametrize("step", [0.6, math.sqrt(2.0)])
def test_rates_settle_at_the_limits(step: float) -> None:
    limit = scaled_walk(step, branch_gradient=step * step)
    law = scaled_walk_law(400, step=lambda *_: step, branch_gradient=step * step)
    assert law.log_gradient is not None
    middle = math.exp(law.log_gradient[200] - law.log_gradient[201])
    assert math.exp(law.log_second_moment[-1] - law.log_second_moment[-2]) == pytest.approx(
        limit.second_moment, rel=1e-10
    )
    assert middle == pytest.approx(limit.gradient, rel=1e-9)


def test_panels_half_as_wide_change_nothing() -> None:
    for step in (lambda *_: 0.3, lambda mean, _: 1.7 * math.sqrt(1.0 - mean * mean)):
        once, twice = (
            scaled_walk_law(40, step=step, mean=0.2, branch_gradient=2.0, fine=f) for f in (1, 2)
        )
        np.testing.assert_allclose(once.log_second_moment, twice.log_second_moment, atol=1e-12)
        assert once.log_gradient is not None
        np.testing.assert_allclose(once.log_gradient, twice.log_gradient, atol=1e-12)


def test_first_block_in_closed_form() -> None:
    # x_1 = relu(sqrt(a^2 + s^2) z): half the variance.
    law = scaled_walk_law(1, step=lambda *_: 1.2, skip=0.7)
    assert law.log_second_moment[0] == pytest.approx(math.log(0.5 * (0.49 + 1.44)), rel=1e-12)


def test_nf_scaling_of_a_reflected_stream() -> None:
    """Steps of one size: q_l of the walk, as a population of the scaled network has it."""
    inputs = th.exchangeable(batch=2, correlation=0.3, second_moment=1.3)
    for maps in (1, 2):
        net = th.Residual(th.Layer(), depth=30, order="post_activation", branch=0.8, maps=maps)
        scaled = th.nf_scaled(net, inputs)
        found = th.predict(scaled, inputs)
        assert scaled.scales[0] == pytest.approx(1.3**-0.5, rel=1e-12)
        expected = np.array(scaled.scales[1:]) ** -2
        far = np.abs(found.second_moment[:-1] - expected)
        assert np.all(far < 5.0 * found.error["second_moment"][:-1])
    sws = th.Residual(th.Layer(weights=SWS), depth=3, order="post_activation")
    with pytest.raises(HypothesisError, match="centered"):
        th.nf_scaled(sws, inputs)


def test_steps_too_small_for_a_grid_are_left_to_pairs() -> None:
    with pytest.raises(HypothesisError, match="too small"):
        scaled_walk_law(3, step=lambda *_: 0.01)
    net = th.Residual(th.Layer(), depth=3, order="post_activation", branch=0.01)
    found = th.predict(net, th.exchangeable(batch=2, correlation=0.3))
    assert set(found.route["second_moment"]) == {"sampled pairs"}


def test_a_thousand_blocks_take_seconds_at_most() -> None:
    net = th.Residual(th.Layer(), depth=1000, order="post_activation")
    start = time.process_time()
    law = scaled_walk_law(1000, step=lambda *_: math.sqrt(2.0), branch_gradient=2.0)
    assert time.process_time() - start < 2.0
    # No overflow at 2.4^1000.
    assert law.log_second_moment[-1] > 800.0
    assert th.growth_law(net).variance is not None
