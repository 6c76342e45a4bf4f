"""Two mini-batches: the same batch twice, independent batches, brute-force simulation."""

import math

import numpy as np
import pool_oracles as oracle
import pytest

from theory.errors import HypothesisError, SpecificationError
from theory.routes.batchnorm import cross_batch_similarity
from theory.routes.laplace import forward
from theory.routes.laplace_pools import two_pool_similarity
from theory.specs.activations import relu
from theory.specs.normalizers import batch_norm, variance_norm


@pytest.mark.parametrize("norm", [batch_norm(), batch_norm(eps=0.1, ddof=1)])
@pytest.mark.parametrize("batch", [3, 5, 8])
def test_the_same_batch_twice_is_one_batch(norm, batch):
    z = np.random.default_rng(batch).standard_normal((batch, 12)) + 0.3
    q, gap = oracle.inputs(np.concatenate([z, z]))
    value, error = two_pool_similarity(q, gap, first=batch, norm=norm, slopes=(1.0, -0.1))
    exact = 1.0 - forward(q[:batch], gap[:batch, :batch], norm=norm, slopes=(1.0, -0.1))[1]
    assert np.abs(value - exact).max() <= 10.0 * error + 1e-13
    assert error < 1e-11


def test_exchangeable_batches_are_independent():
    for across in (0.7, 0.41):
        gap = np.full((12, 12), 0.4)
        gap[:6, 6:] = gap[6:, :6] = across
        np.fill_diagonal(gap, 0.0)
        value, _ = two_pool_similarity(
            np.ones(12), gap, first=6, norm=batch_norm(), slopes=(1.0, 0.0)
        )
        assert value == pytest.approx(cross_batch_similarity(relu, batch=6)[0], rel=1e-12)


def test_agrees_with_simulation():
    """150,000 draws, 24 |z| below 5.5: false alarm below 1e-6."""
    z = np.random.default_rng(1).standard_normal((10, 13)) + 0.3
    norm = batch_norm(eps=0.05, ddof=1)
    h = oracle.sample(z @ z.T / 13, 150_000, seed=2)
    x, y = (_normalized(part, norm.eps) for part in (h[:, :4], h[:, 4:]))
    value, _ = two_pool_similarity(
        *oracle.inputs(z / math.sqrt(13)), first=4, norm=norm, slopes=(1.0, -0.1)
    )
    scale = np.sqrt(np.outer((x * x).mean(axis=0), (y * y).mean(axis=0)))
    products = np.einsum("na,nb->nab", x, y)
    sem = products.std(axis=0) / math.sqrt(len(h))
    assert np.abs((products.mean(axis=0) - value * scale) / sem).max() < 5.5


def test_refusals():
    q, gap = oracle.inputs(np.random.default_rng(0).standard_normal((6, 8)))
    with pytest.raises(HypothesisError, match="batch_norm"):
        two_pool_similarity(q, gap, first=3, norm=variance_norm(), slopes=(1.0, 0.0))
    with pytest.raises(SpecificationError, match="first"):
        two_pool_similarity(q, gap, first=5, norm=batch_norm(), slopes=(1.0, 0.0))


def _normalized(h, eps):
    d = h - h.mean(axis=1, keepdims=True)
    d = d / np.sqrt((d**2).sum(axis=1, keepdims=True) / (h.shape[1] - 1) + eps)
    return np.where(d > 0.0, d, 0.1 * d)
