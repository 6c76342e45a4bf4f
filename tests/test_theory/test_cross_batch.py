"""Similarity across mini-batches, against closed values and plain sampling."""

from __future__ import annotations

import math

import numpy as np
import pytest

import theory as th

BN = th.Layer(norm=th.batch_norm())


def test_exchangeable_relu() -> None:
    # E[relu(u)]^2/E[relu(u)^2] for coordinates u of a vector on the sphere; 1/pi as B -> inf.
    found = th.cross_batch_similarity(BN, th.exchangeable(batch=math.inf, correlation=0.7))
    assert found.similarity == pytest.approx(1 / math.pi, rel=1e-14)
    batch = 6
    n = batch - 1
    # E|x| of one coordinate of a unit vector in n dimensions.
    absolute = math.gamma(n / 2) / (math.sqrt(math.pi) * math.gamma((n + 1) / 2))
    truth = n * (absolute / 2) ** 2 / 0.5
    found = th.cross_batch_similarity(BN, th.exchangeable(batch=batch, correlation=0.7))
    assert found.similarity == pytest.approx(truth, rel=1e-13)


def test_data_against_sampling() -> None:
    """200,000 draws, 5 standard errors on each of 12 pairs: false alarms below 1e-5."""
    generator = np.random.default_rng(8)
    features = generator.normal(size=(7, 5)) + 0.5
    inputs = th.from_data(features)
    found = th.cross_batch_similarity(BN, inputs, first=3)
    assert found.error < 1e-8
    h = generator.normal(size=(200_000, 5)) @ features.T
    parts = [h[:, :3], h[:, 3:]]
    x, y = (
        np.maximum((p - p.mean(axis=1, keepdims=True)) / p.std(axis=1, keepdims=True), 0.0)
        for p in parts
    )
    scale = np.sqrt(np.outer((x**2).mean(axis=0), (y**2).mean(axis=0)))
    products = x[:, :, None] * y[:, None, :] / scale
    sem = products.std(axis=0) / math.sqrt(len(h))
    assert (np.abs(products.mean(axis=0) - found.similarity) < 5 * sem).all()


def test_shift_of_the_activation() -> None:
    shifted = th.Layer(norm=th.batch_norm(), activation=th.relu.affine(scale=2.0, shift=-0.3))
    inputs = th.exchangeable(batch=8, correlation=0.2)
    pred = th.predict(th.FeedForward(shifted, depth=1), inputs)
    mean = pred.states[-1].mean
    found = th.cross_batch_similarity(shifted, inputs)
    assert found.similarity == pytest.approx(mean**2 / pred.second_moment[0], rel=1e-12)


def test_refusals() -> None:
    inputs = th.exchangeable(batch=4, correlation=0.2)
    with pytest.raises(th.HypothesisError, match="batch_norm"):
        th.cross_batch_similarity(th.Layer(norm=th.layer_norm()), inputs)
    with pytest.raises(th.HypothesisError, match="not centered"):
        th.cross_batch_similarity(
            th.Layer(norm=th.batch_norm(), weights=th.centered_weights()), inputs
        )
    with pytest.raises(th.SpecificationError, match="first"):
        th.cross_batch_similarity(BN, th.from_covariance(np.eye(6)))
    with pytest.raises(th.SpecificationError, match="two samples"):
        th.cross_batch_similarity(BN, th.from_covariance(np.eye(6)), first=5)
    with pytest.raises(th.HypothesisError, match="homogeneous"):
        th.cross_batch_similarity(
            th.Layer(norm=th.batch_norm(), activation=th.tanh),
            th.from_covariance(np.eye(6)),
            first=3,
        )
