"""Gaps of x + N(F(x)) with GN, and what finitely many channels bias, against draws written here.

Random comparisons: five combined standard errors, about 30 nearly independent figures: a false alarm
of the file has probability below 1e-4 (Gaussian; below 1 % with Student's t).  Seeds are fixed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import theory as th
from theory.population.contrasts import controlled_gaps
from theory.population.known import known
from theory.population.result import population, relative_error

FloatArray = np.ndarray[Any, np.dtype[np.float64]]

INPUTS = th.exchangeable(batch=2, correlation=0.3)
GROUP = 8


def network(order: Any, *, maps: int, depth: int, norm: th.Normalizer | None = None) -> th.Residual:
    layer = th.Layer(norm=norm or th.group_norm(GROUP))
    return th.Residual(layer, order=order, maps=maps, depth=depth)


def kappa(rho: float) -> float:
    """E[relu(u) relu(v)]/E[relu(u)^2] of unit Gaussians with correlation rho."""
    return rho * (1.0 - math.acos(rho) / math.pi) + math.sqrt(1.0 - rho * rho) / math.pi


def grouped(h: FloatArray) -> FloatArray:
    """GN of an array (samples, channels)."""
    split = h.reshape(len(h), -1, GROUP)
    centered = split - split.mean(axis=2, keepdims=True)
    return np.asarray(
        (centered / np.sqrt((centered**2).mean(axis=2, keepdims=True))).reshape(h.shape)
    )


def mapped(x: FloatArray, rng: np.random.Generator) -> FloatArray:
    """W x: independent draws with the covariance of x over channels, nothing mirrored or matched."""
    root = np.linalg.cholesky(x @ x.T / x.shape[1])
    return np.asarray(root @ rng.standard_normal(x.shape))


def drawn(order: str, maps: int, *, depth: int, channels: int, seed: int) -> FloatArray:
    """Cosine of two samples behind every block of one population of independent draws."""
    rng = np.random.default_rng(seed)
    x = np.linalg.cholesky([[1.0, 0.3], [0.3, 1.0]]) @ rng.standard_normal((2, channels))
    found = np.empty(depth)
    for k in range(depth):
        h = mapped(grouped(x) if order == "sandwich" else np.maximum(x, 0.0), rng)
        if order == "sandwich":
            h = np.maximum(grouped(h) if maps == 2 else h, 0.0)
            h = mapped(h, rng) if maps == 2 else h
        x = x + grouped(h)
        second = x @ x.T
        found[k] = 2.0 * second[0, 1] / (second[0, 0] + second[1, 1])
    return found


@pytest.mark.parametrize(("order", "maps"), [("branch_end_norm", 1), ("sandwich", 2)])
def test_controlled_gaps_agree_with_independent_draws(order: Any, maps: int) -> None:
    depth = 6
    runs = np.array([drawn(order, maps, depth=depth, channels=16384, seed=s) for s in range(16)])
    error = runs.std(axis=0, ddof=1) / 4.0
    found = th.predict(network(order, maps=maps, depth=depth), INPUTS, backward=False)
    far = np.abs(found.similarity - runs.mean(axis=0))
    assert np.all(far < 5.0 * np.hypot(error, found.error["similarity"]))


@pytest.mark.parametrize(("order", "maps"), [("branch_end_norm", 1), ("sandwich", 2)])
def test_control_leaves_the_first_block_exact_and_lowers_the_error(order: Any, maps: int) -> None:
    """The first block adds a Gaussian, so that its gap is as a closed form says."""
    net = network(order, maps=maps, depth=12)
    found = population(net, INPUTS, channels=3072, backward=False)
    gaps = controlled_gaps(net, INPUTS, known(net, INPUTS, backward=False), found)
    assert gaps is not None
    assert gaps.stream_error[0] < 1e-6
    assert np.all(gaps.stream_error[1:] < 0.5 * found.stream.gap_error[1:])
    far = np.abs(gaps.stream / found.stream.gap - 1.0)
    assert np.all(far < 5.0 * found.stream.gap_error)


def test_the_first_gap_of_a_branch_end_norm_of_the_layer() -> None:
    """LN of W relu(x) is Gaussian with cosine kappa(0.3): the sum of two equal second moments."""
    net = network("branch_end_norm", maps=1, depth=2, norm=th.layer_norm())
    found = th.predict(net, INPUTS, backward=False)
    assert_allclose(found.similarity[0], 0.5 * (0.3 + kappa(0.3)), rtol=1e-6)
    assert found.error["similarity"][0] < 1e-5


def test_controls_are_declined_where_contrasts_do_not_add_up() -> None:
    for net in (
        network("post_activation", maps=1, depth=2),
        network("branch_end_norm", maps=1, depth=2, norm=th.batch_norm()),
        network("branch_end_norm", maps=1, depth=2, norm=th.rms_norm()),
    ):
        found = population(net, INPUTS, channels=256, backward=False)
        assert controlled_gaps(net, INPUTS, known(net, INPUTS, backward=False), found) is None


# Finitely many channels


@pytest.mark.parametrize("channels", [64, 256])
def test_what_few_channels_bias_is_no_more_than_one_in_channels(channels: int) -> None:
    """relu(x + LN(W x)): cosine kappa(0.3) behind the first block, second moments by the walk."""
    net = network("post_activation", maps=1, depth=3, norm=th.layer_norm())
    found = population(net, INPUTS, channels=channels, populations=4096, backward=False).stream
    walk = known(net, INPUTS, backward=False).log_second_moment
    assert walk is not None
    far = np.abs(found.log_second_moment - walk)
    assert np.all(far < 1.0 / channels + 5.0 * found.second_moment_error)
    assert abs(1.0 - found.gap[0] - kappa(0.3)) < 1.0 / channels + 5.0 * float(
        found.gap_error[0] * found.gap[0]
    )


def test_defaults_leave_the_bias_below_the_error() -> None:
    """The mean of sixteen seeds would show a bias of 1.25 stated errors."""
    net = network("post_activation", maps=1, depth=3, norm=th.layer_norm())
    runs = [population(net, INPUTS, channels=6144, seed=s, backward=False) for s in range(16)]
    stated = float(np.mean([r.stream.gap_error[0] for r in runs]))
    mean = float(np.mean([r.stream.gap[0] for r in runs]))
    assert abs(mean / (1.0 - kappa(0.3)) - 1.0) < 5.0 * stated / 4.0


def test_relative_errors_carry_a_second_order() -> None:
    found = relative_error(np.array([0.02, 0.1]), np.array([2.0, 0.0]), 16)
    assert_allclose(found, [0.01 + 8.0 * 1e-4, 0.0], rtol=1e-14)
