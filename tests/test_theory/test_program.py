"""Lowering, against forward passes written by hand; the coverage of the zoo."""

from __future__ import annotations

import math

import numpy as np
import pytest

import theory as th
from theory.program import Linear, NormAct, Observe, lower
from theory.routes.dispatch import routes, select
from theory.states.base import Block


def test_feed_forward_is_its_layers() -> None:
    layer = th.Layer(norm=th.layer_norm(), activation=th.tanh)
    program = lower(th.FeedForward(layer, depth=3))
    one = (
        Linear(layer.weights),
        Observe("preactivation"),
        NormAct(layer.norm, layer.activation),
        Observe("activation"),
    )
    assert program == one * 3


def test_covariance_recursion_by_hand() -> None:
    """Two layers of relu: Sigma' = 2 V(Sigma), V by sampling-free angles, in plain NumPy."""
    features = np.random.default_rng(0).normal(size=(4, 7))
    sigma = 2.0 * features @ features.T / 7
    for _ in range(2):
        root = np.sqrt(np.diag(sigma))
        cosine = np.clip(sigma / np.outer(root, root), -1.0, 1.0)
        theta = np.arccos(cosine)
        kappa = (np.sin(theta) + cosine * (math.pi - theta)) / math.pi
        post = np.outer(root, root) * kappa / 2.0
        sigma = 2.0 * post
    pred = th.predict(th.FeedForward(th.Layer(), depth=2), th.from_data(features))
    np.testing.assert_allclose(pred.covariance[-1], post, rtol=1e-7)


def test_gradient_recursion_by_hand() -> None:
    """Pi = (2 kappa_0(c)/2) o Pi' back through two relu layers from Pi = I: the diagonal stays 1."""
    pred = th.predict(
        th.FeedForward(th.Layer(weights=th.gaussian(weight_variance=3.0)), depth=3),
        th.from_data(np.random.default_rng(1).normal(size=(3, 5))),
    )
    assert pred.gradient_norm is not None
    np.testing.assert_allclose(pred.gradient_norm**2, [1.5**2, 1.5, 1.0], rtol=1e-13)


@pytest.mark.parametrize("name", [n for n in th.zoo if n not in ("IN", "FRN")])
@pytest.mark.parametrize("exchangeable", [True, False], ids=["exchangeable", "full"])
def test_every_layer_of_the_zoo_has_a_route(name: str, exchangeable: bool) -> None:
    layer = th.zoo[name]
    op = NormAct(layer.norm, layer.activation)
    block = (
        Block(1.0, 0.5, 12, True)
        if exchangeable
        else Block(np.ones(12), 0.5 * (1.0 - np.eye(12)), 12, False)
    )
    for want in ("forward", "backward"):
        assert select(op, block, want) in routes()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["IN", "FRN"])
def test_normalizers_over_positions_say_what_they_need(name: str) -> None:
    with pytest.raises(th.SpecificationError, match="pool of at least two activations"):
        th.predict(th.FeedForward(th.zoo[name], depth=1), th.exchangeable(batch=4, correlation=0.5))


def test_refusals_are_kept_for_the_user() -> None:
    wide = th.Normalizer(
        name="mine", pool=th.Pool(samples=True, positions=True, channels=2), centered=True,
        denominator="std",
    )  # fmt: skip
    net = th.FeedForward(th.Layer(norm=wide), depth=1)
    with pytest.raises(th.HypothesisError, match="SobolBatch: mine pools samples and 2 channels"):
        th.predict(net, th.exchangeable(batch=4, correlation=0.5))
