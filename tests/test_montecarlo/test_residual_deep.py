"""Deep residual networks against theory: 200 reflected steps, 100 blocks of the orders made for depth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

import montecarlo as mc
import theory as th

FAMILY_WISE = 1e-3


def spitzer(depth):
    """E[x_l^2] = l/2 + sum_{j+k<=l} a_j a_k, a_k = 1/sqrt(2 pi k), of a Gaussian walk reflected at 0."""
    a = 1 / np.sqrt(2 * np.pi * np.arange(1, depth + 1))
    pairs = [sum(a[j] * a[: k - j - 1].sum() for j in range(k)) for k in range(1, depth + 1)]
    return np.arange(1, depth + 1) / 2 + pairs


@pytest.mark.parametrize("norm", [th.layer_norm(), th.rms_norm()], ids=["LN", "RMSNorm"])
def test_post_activation_streams_are_reflected_walks(norm):
    """E[x_l^2] at every depth 1, ..., 200; Bonferroni over 2 x 200 tests, false alarms 0.1 % in all.

    The input is small: the normalizer sees its direction, the walk starts at 0.
    """
    depth, networks = 200, 12
    network = th.Residual(th.Layer(norm=norm), depth=depth, order="post_activation")
    inputs = th.exchangeable(batch=2, correlation=0.0, second_moment=1e-16)
    found = mc.simulate(
        network, inputs, width=8192, replicates=networks, seed=1, backward=False, workers=1
    )
    estimate = found.second_moment
    z = (estimate.mean - spitzer(depth)) / estimate.sem
    worst = 2 * stats.t.sf(np.abs(z).max(), networks - 1)
    assert worst > FAMILY_WISE / (2 * depth), (z[[0, 1, 9, 49, 199]], worst)
    # And the bars are short: 1 % and less.
    assert (estimate.sem < 0.01 * estimate.mean).all()


ORDERS = ("deep_norm", "sandwich", "branch_end_norm", "post_norm", "post_activation")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("order", ORDERS)
def test_a_hundred_blocks_within_error(order):
    """Four observables at 7 depths; Bonferroni over 5 x 4 x 7 tests, false alarms 0.1 % in all.

    LN treats samples apart: three of them have every pair there is, at a fifth of the cost of eight.
    """
    network = th.Residual(
        th.Layer(norm=th.layer_norm()),
        depth=100,
        order=order,
        stem=th.gaussian(weight_variance=1.0),
    )
    inputs = th.exchangeable(batch=3, correlation=0.3)
    prediction = th.predict(network, inputs)
    found = mc.simulate(network, inputs, width=8192, replicates=12, seed=2, workers=2)
    names = ("second_moment", "similarity", "gradient_norm", "branch_gradient_norm")
    entries = [
        entry
        for entry in mc.compare(prediction, found).entries
        if entry.observable in names and entry.layer in (1, 2, 5, 10, 30, 60, 100)
    ]
    assert len(entries) == 28
    for entry in entries:
        assert math.isnan(entry.p) or entry.p > FAMILY_WISE / 140, entry
