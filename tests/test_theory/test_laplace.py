"""Forward Laplace integrals against exact angular integrals, Beta integrals, closed forms, simulation."""

import math
import time

import mpmath as mp
import numpy as np
import pool_oracles as oracle
import pytest

from theory.errors import HypothesisError
from theory.routes.batchnorm import batch_moments
from theory.routes.laplace import exchangeable_forward, forward, pool_rank
from theory.specs.activations import leaky_relu, relu
from theory.specs.normalizers import (
    Normalizer,
    Pool,
    batch_norm,
    group_norm,
    variance_norm,
)

_POOL = Pool(samples=True, positions=True, channels=1)
RMS = Normalizer(name="rms", pool=_POOL, centered=False, denominator="rms", eps=0.1)
CENTERED_RMS = Normalizer(name="P h/rms", pool=_POOL, centered=True, denominator="rms", eps=0.02)
KINDS = [
    batch_norm(),
    batch_norm(eps=0.05, ddof=1),
    batch_norm(eps=0.3),
    RMS,
    CENTERED_RMS,
]


def _flags(norm, batch):
    return {
        "centered": norm.centered,
        "pooled_mean": norm.denominator == "rms",
        "divisor": norm.divisor(batch=batch, positions=1),
        "eps": norm.eps,
    }


def _covariance(second_moment, gap):
    return np.sqrt(np.outer(second_moment, second_moment)) * (1.0 - gap)


def _exchangeable(batch, gap, q=1.0):
    gaps = np.full((batch, batch), gap)
    np.fill_diagonal(gaps, 0.0)
    return np.full(batch, q), gaps


def test_a_thousand_random_pools_of_rank_two():
    """True error <= 10 x stated + 1e-13; the truth is an integral over one angle."""
    rng = np.random.default_rng(1)
    for case in range(1000):
        norm = KINDS[case % len(KINDS)]
        batch = int(rng.integers(3, 8))
        z = rng.standard_normal((batch, 2)) + 0.5 * rng.standard_normal(2)
        slopes = (1.0, float(rng.uniform(-1.0, 1.0)))
        second_moment, gap, _, error = forward(*oracle.inputs(z), norm=norm, slopes=slopes)
        exact = oracle.forward(z, slopes=slopes, **_flags(norm, batch))
        root = np.sqrt(np.diag(exact))
        wrong = np.abs(_covariance(second_moment, gap) - exact) / np.outer(root, root)
        assert wrong.max() <= 10.0 * error + 1e-13, (case, norm.name)


HARD = {
    "plain": lambda z: z,
    "flat": lambda z: z * [1.0, 1e-3],
    "flatter": lambda z: z * [1.0, 1e-6],
    "pair at 1e-3": lambda z: np.stack([z[0], z[0] + 1e-3 * z[1], z[2]]),
    "pair at 1e-5": lambda z: np.stack([z[0], z[0] + 1e-5 * z[1], z[2]]),
    "pair at 1e-7": lambda z: np.stack([z[0], z[0] + 1e-7 * z[1], z[2]]),
    "collapsed": lambda z: 1.0 + 1e-4 * z,
    "nearly collapsed": lambda z: 1.0 + 1e-7 * z,
    "scales": lambda z: z * np.array([[1.0], [1e-3], [1e3]]),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("eps", [0.0, 1e-5, 0.3])
def test_hard_cases_against_mpmath(name, eps):
    """Two draws of each of 27 hard families; second moments, *relative* gaps and means."""
    for seed in range(2):
        z = HARD[name](np.random.default_rng(seed).standard_normal((3, 2)))
        q, gaps = oracle.inputs(z)
        norm = batch_norm(eps=eps * q.mean())
        second_moment, gap, mean, error = forward(q, gaps, norm=norm, slopes=(1.0, -0.1))
        exact = oracle.hard_forward(q, gaps, divisor=3, eps=norm.eps, slopes=(1.0, -0.1))
        off = ~np.eye(3, dtype=bool)
        bound = 10.0 * error + 1e-13
        assert np.abs(second_moment / exact[0] - 1.0).max() <= bound
        assert np.abs(gap[off] / exact[1][off] - 1.0).max() <= bound
        assert np.abs(mean / exact[2] - 1.0).max() <= bound


@pytest.mark.parametrize("batch", [2, 3, 4, 8, 33])
@pytest.mark.parametrize("gap", [1.0, 0.3, 1e-10])
def test_exchangeable_batchnorm_is_the_closed_form(batch, gap):
    off = ~np.eye(batch, dtype=bool)
    for activation in (relu, leaky_relu(-0.5)):
        exact = batch_moments(activation, batch=batch, ddof=1)
        slopes = activation.ray_slopes
        full = forward(*_exchangeable(batch, gap, 1.7), norm=batch_norm(ddof=1), slopes=slopes)
        short = exchangeable_forward(1.7, gap, batch=batch, norm=batch_norm(ddof=1), slopes=slopes)
        assert full[0] == pytest.approx(exact[0], rel=1e-13)
        assert full[1][off] == pytest.approx(exact[1], rel=1e-13)
        assert full[2] == pytest.approx(exact[2], rel=1e-13)
        assert short[:3] == pytest.approx(exact[:3], rel=1e-13)
        assert full[3] < 1e-12


@pytest.mark.parametrize("batch", [4, 5, 16])
@pytest.mark.parametrize("gap", [1.0, 0.3, 1e-13])
@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_variance_norm_full_and_exchangeable_agree(batch, gap, eps):
    norm = variance_norm(eps=eps, ddof=1)
    off = ~np.eye(batch, dtype=bool)
    full = forward(*_exchangeable(batch, gap), norm=norm, slopes=(1.0, 0.0))
    short = exchangeable_forward(1.0, gap, batch=batch, norm=norm, slopes=(1.0, 0.0))
    assert full[0] == pytest.approx(short[0], rel=1e-13)
    assert full[1][off] == pytest.approx(short[1], rel=1e-13)
    assert full[2] == pytest.approx(short[2], rel=1e-13)
    if eps == 0.0:
        exact = 0.5 * (batch - 1) / batch * (batch / gap - 2.0) / (batch - 3.0)
        assert short[0] == pytest.approx(exact, rel=1e-13)


def test_variance_norm_against_nested_quadrature():
    """Mpmath: pool radius by chi^2, direction by its Beta law, then the pair's Gaussian remainder."""
    batch, gap, eps = 3, 0.4, 0.2
    # Identity: E[h_a h_b/R^2] = Var(mean) E[1/R^2] + E[d_a d_b/R^2], R^2 = gap chi^2_2/3 + eps.
    with mp.workdps(30):
        half = mp.mpf(gap) / 3

        def moment(power):
            return mp.quad(
                lambda x: mp.exp(-x / 2) / 2 * x**power / (half * x + eps), [0, 1, 10, 60, 200]
            )

        of_mean = 1 - mp.mpf(gap) * 2 / 3
        same = of_mean * moment(0) + gap * moment(1) / 3
        pair = of_mean * moment(0) - gap * moment(1) / 6
    norm = variance_norm(eps=eps)
    second_moment, new_gap, mean, error = exchangeable_forward(
        1.0, gap, batch=batch, norm=norm, slopes=(1.0, -1.0)
    )
    assert second_moment == pytest.approx(float(same), rel=10 * error + 1e-13)
    assert new_gap == pytest.approx(float(1 - pair / same), rel=10 * error + 1e-13)
    assert mean == 0.0


@pytest.mark.parametrize("ranks", [(3, 4), (1, 9), (10, 20)])
@pytest.mark.parametrize("ratio", [0.5, 1e-3, 1e-8])
def test_two_groups_of_modes_are_a_beta_integral(ranks, ratio):
    """Identity after BN: E[eta^2/R^2] by the Beta law of the share of the first group."""
    p, q = ranks
    batch = p + q + 1
    rng = np.random.default_rng(2)
    basis, _ = np.linalg.qr(
        np.concatenate([np.ones((batch, 1)), rng.standard_normal((batch, p + q))], axis=1)
    )
    u = basis[:, 1:]
    factor = u * np.sqrt([1.0] * p + [ratio] * q) + 0.7
    inputs = oracle.inputs(factor)
    with mp.workdps(30):
        a, b = mp.mpf(p) / 2, mp.mpf(q) / 2

        def share(x):
            return x ** (a - 1) * (1 - x) ** (b - 1) / mp.beta(a, b) * x / (x + ratio * (1 - x))

        first = mp.quad(share, [0, ratio**2, ratio, mp.sqrt(ratio), 0.5, 1])
    exact = batch * (
        u[:, :p] @ u[:, :p].T * float(first / p) + u[:, p:] @ u[:, p:].T * float((1 - first) / q)
    )
    second_moment, gap, _, error = forward(*inputs, norm=batch_norm(), slopes=(1.0, -1.0))
    root = np.sqrt(np.diag(exact))
    wrong = np.abs(_covariance(second_moment, gap) - exact) / np.outer(root, root)
    assert wrong.max() <= 10.0 * error + 1e-13
    if ratio > 1e-4:
        assert wrong.max() < 1e-10


@pytest.mark.parametrize("kind", ["BN", "VN"])
def test_any_covariance_agrees_with_simulation(kind):
    """100,000 draws, B = 8 samples in 11 dimensions; 44 |z| below 5.5: false alarm below 3e-6."""
    norm = batch_norm(eps=0.01) if kind == "BN" else variance_norm(eps=0.05)
    rng = np.random.default_rng(4)
    z = rng.standard_normal((8, 11)) + 0.4
    h = oracle.sample(z @ z.T / 11, 100_000, seed=7)
    d = h - h.mean(axis=1, keepdims=True)
    r = np.sqrt((d**2).mean(axis=1) + norm.eps)
    x = (d if kind == "BN" else h) / r[:, None]
    x = np.where(x > 0.0, x, 0.2 * x)
    second_moment, gap, mean, _ = forward(
        *oracle.inputs(z / math.sqrt(11)), norm=norm, slopes=(1.0, -0.2)
    )
    products = np.einsum("na,nb->nab", x, x)
    sem = products.std(axis=0) / math.sqrt(len(x))
    assert np.abs((products.mean(axis=0) - _covariance(second_moment, gap)) / sem).max() < 5.5
    assert np.abs((x.mean(axis=0) - mean) / (x.std(axis=0) / math.sqrt(len(x)))).max() < 5.5


def test_limits_of_large_batches():
    for norm in (batch_norm(eps=0.1), variance_norm(), variance_norm(eps=0.3)):
        limit = exchangeable_forward(1.3, 0.4, batch=math.inf, norm=norm, slopes=(1.0, -0.2))
        near = exchangeable_forward(1.3, 0.4, batch=1_000_000, norm=norm, slopes=(1.0, -0.2))
        assert near[:3] == pytest.approx(limit[:3], rel=3e-5)


def test_variance_norm_collapses_at_the_known_rate():
    for batch in (4, 8, 100, 1_000_000):
        gap = exchangeable_forward(
            1.0, 1e-24, batch=batch, norm=variance_norm(), slopes=(1.0, 0.0)
        )[1]
        assert gap / 1e-24 == pytest.approx((batch - 3) / (batch - 1), rel=1e-9)


def test_infinite_moments_and_zero_variance():
    second_moment, gap, mean, _ = forward(
        *_exchangeable(3, 0.5), norm=variance_norm(), slopes=(1.0, 0.0)
    )
    assert np.isinf(second_moment).all()
    assert (gap == 0.0).all()
    assert np.isfinite(mean).all()
    short = exchangeable_forward(1.0, 0.5, batch=3, norm=variance_norm(), slopes=(1.0, 0.0))
    assert short[0] == math.inf
    assert short[2] == pytest.approx(mean[0], rel=1e-13)
    assert exchangeable_forward(1.0, 0.5, batch=2, norm=variance_norm(), slopes=(1.0, 0.0))[2] == (
        math.inf
    )
    with pytest.raises(HypothesisError, match="identical"):
        forward(*_exchangeable(4, 0.0), norm=batch_norm(), slopes=(1.0, 0.0))
    with pytest.raises(HypothesisError, match="distinct samples or eps > 0"):
        exchangeable_forward(1.0, 0.0, batch=4, norm=batch_norm(), slopes=(1.0, 0.0))
    with pytest.raises(HypothesisError, match="another route"):
        forward(*_exchangeable(4, 0.5), norm=group_norm(4), slopes=(1.0, 0.0))
    # With eps > 0 identical samples are allowed: N(h) = 0 (BN) or h/sqrt(eps) (VN).
    assert (
        forward(*_exchangeable(4, 0.0), norm=batch_norm(eps=0.1), slopes=(1.0, 0.0))[0] == 0
    ).all()
    raw = forward(*_exchangeable(4, 0.0), norm=variance_norm(eps=0.1), slopes=(1.0, 0.0))
    assert raw[0] == pytest.approx(5.0, rel=1e-13)


def test_rank_deficient_batches():
    """Two clusters of identical samples, and a sample at the mean of the batch."""
    corners = np.array([[1.0, 0.0], [0.0, 1.0]])
    second_moment, gap, mean, _ = forward(
        *oracle.inputs(corners[[0, 0, 1, 1]]), norm=batch_norm(), slopes=(1.0, 0.0)
    )
    assert second_moment == pytest.approx(0.5, rel=1e-13)
    assert gap[0] == pytest.approx([0.0, 0.0, 1.0, 1.0], abs=1e-13)
    assert mean == pytest.approx(0.5, rel=1e-13)
    line = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    second_moment, gap, _, _ = forward(*oracle.inputs(line), norm=batch_norm(), slopes=(1.0, 0.0))
    assert second_moment == pytest.approx([0.75, 0.0, 0.75], abs=1e-13)
    assert gap[0] == pytest.approx([0.0, 1.0, 1.0], rel=1e-13)
    z = np.random.default_rng(0).standard_normal((12, 5))
    assert pool_rank(*oracle.inputs(z)) == 5
    assert pool_rank(*_exchangeable(6, 0.3)) == 5
    assert pool_rank(*_exchangeable(6, 0.3), centered=False) == 6


def test_scale_does_not_matter():
    z = np.random.default_rng(0).standard_normal((6, 9))
    base = forward(*oracle.inputs(z), norm=batch_norm(eps=0.1), slopes=(1.0, 0.0))
    for power in (-400, 400):
        scale = 2.0**power
        q, gap = oracle.inputs(z)
        other = forward(q * scale, gap, norm=batch_norm(eps=0.1 * scale), slopes=(1.0, 0.0))
        for value, same in zip(other[:3], base[:3], strict=True):
            assert np.array_equal(value, same)


def test_thirty_two_samples_and_ten_layers_take_less_than_a_second():
    z = np.abs(np.random.default_rng(0).standard_normal((32, 64)))
    q, gap = oracle.inputs(z)
    start = time.process_time()
    for _ in range(10):
        q, gap, _, error = forward(2.0 * q, gap, norm=batch_norm(), slopes=(1.0, 0.0))
        assert error < 1e-10
    assert time.process_time() - start < 5.0  # 0.1 s on a quiet machine


@pytest.mark.parametrize("tiny", [1e-6, 1e-10, 1e-14])
def test_pairs_of_nearly_equal_samples(tiny):
    """Five pairs, each ``tiny`` apart: the rule must reach beyond the inverse of their small mode.

    The oracle is the exchangeable route over 5 samples x 2 positions, whose nodes are laid out per mode.
    """
    from theory.routes import positions_batch

    gap = np.full((10, 10), 0.5)
    for first in range(0, 10, 2):
        gap[first : first + 2, first : first + 2] = tiny
    np.fill_diagonal(gap, 0.0)
    norm, slopes = batch_norm(), (1.0, 0.0)
    _, found, _, error = forward(np.ones(10), gap, norm=norm, slopes=slopes)
    _, expected, *_, other = positions_batch.forward(
        1.0, tiny, 0.5, 0.5, batch=5, positions=2, norm=norm, slopes=slopes
    )
    assert abs(found[0, 1] / expected - 1.0) <= error + other


def test_means_of_rank_two_by_symmetry():
    """E[phi(d)/R] of three samples, R about the mean, d not: E|d|/R = 2 E[relu(d)/R], E[d/R] = 0."""
    q, gap = np.array([1.0, 1.3, 0.8]), 0.6 * (1.0 - np.eye(3))
    relu_mean, abs_mean, none = (
        forward(q, gap, norm=variance_norm(), slopes=slopes)[2]
        for slopes in ((1.0, 0.0), (1.0, 1.0), (1.0, -1.0))
    )
    assert np.isfinite(relu_mean).all()
    np.testing.assert_allclose(abs_mean, 2.0 * relu_mean, rtol=1e-13)
    np.testing.assert_array_equal(none, 0.0)
