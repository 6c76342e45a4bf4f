"""BN of an exchangeable batch: closed forms against mpmath, the spherical dual and simulation."""

import math

import mpmath as mp
import numpy as np
import pytest
from pool_oracles import gap_of, pullback_samples, sample

import theory as th
from theory.errors import HypothesisError
from theory.routes import batchnorm
from theory.routes.batchnorm import (
    batch_factors,
    batch_moments,
    batch_pullback,
    batch_status,
    chi_mean,
    cross_batch_similarity,
)
from theory.specs.activations import abs as absolute
from theory.specs.activations import identity, leaky_relu, relu, tanh

HOMOGENEOUS = {"relu": relu, "leaky": leaky_relu(0.2), "identity": identity, "abs": absolute}
BATCHES = [4, 5, 6, 8, 16, 64, 100, 1000, 10_000, 1_000_000]


def _kernels(rho, slopes):
    """V(rho) and V'(rho) of a relu(x) + b relu(-x), from the arc-cosine kernels in mp."""
    a, b = (mp.mpf(float(x)) for x in slopes)
    turn = mp.pi - mp.acos(rho)
    kappa1 = (mp.sqrt(1 - rho**2) + rho * turn) / mp.pi
    value = ((a + b) ** 2 * kappa1 - 2 * a * b * rho) / 2
    slope = ((a + b) ** 2 * turn / mp.pi - 2 * a * b) / 2
    return value, slope, (a * a + b * b) / 2


def _exact(batch, slopes, ddof):
    """(second moment, gap, mean, spread, shared) as the notes write them, at 60 digits."""
    b = mp.mpf(batch)
    value, slope, square = _kernels(-1 / (b - 1), slopes)
    mean = mp.mpf(float(slopes[0]) + float(slopes[1])) / mp.sqrt(2 * mp.pi)
    n = b - 1
    chi = mp.sqrt(2) * mp.exp(mp.loggamma((n + 1) / 2) - mp.loggamma(n / 2))
    mean *= mp.sqrt((b - ddof) * n / b) / chi
    d = b * square - (square + (b - 1) * slope)
    q = square + (b - 1) * value
    inverse = (b - ddof) / ((b - 3) * (b - 1))
    return (
        square * (b - ddof) / b,
        1 - value / square,
        mean,
        (b - 2) * square * inverse,
        (d - q) * inverse,
    )


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", HOMOGENEOUS)
@pytest.mark.parametrize("ddof", [0, 1])
def test_closed_forms_match_mpmath(batch, name, ddof):
    activation = HOMOGENEOUS[name]
    with mp.workdps(60):
        exact = _exact(batch, activation.ray_slopes, ddof)
        factors = batch_factors(activation, batch=batch, ddof=ddof)
        spread = float(exact[3])
        for value, truth in zip(factors[:4], exact[:4], strict=True):
            assert abs(value - truth) <= 1e-13 * abs(truth) + 1e-15
        assert abs(factors.shared - exact[4]) <= 1e-13 * (abs(exact[4]) or spread)


@pytest.mark.parametrize("batch", BATCHES)
def test_gradient_growth_is_lambda_b(batch):
    with mp.workdps(60):
        b = mp.mpf(batch)
        value, slope, _ = _kernels(-1 / (b - 1), (1, 0))
        a = 1 - 2 * value
        d, q = b / 2 - (mp.mpf(1) / 2 + (b - 1) * slope), mp.mpf(1) / 2 + (b - 1) * value
        growth = 2 * b / ((b - 1) * (b - 3) * a) * ((b - 2) / 2 - (d - q) / b)
        gap = batch_moments(relu, batch=batch)[1]
        # Pi = P, the fixed point of a contrast; sigma_w^2 = 2 and q = 1.
        same, pair, error = batch_pullback(
            relu, 2.0 - 2.0 / batch, -2.0 / batch, batch=batch, second_moment=1.0, gap=gap
        )
        assert abs((same - pair) / growth - 1) < 1e-13
        assert error < 1e-13


def test_reference_values():
    growth = {4: 3.0840609480877326875, 8: 1.7881899766587481291, 16: 1.589950416765165454}
    similarity = {4: 0.16949658804216626646, 16: 0.28568417048653942302}
    for batch, value in growth.items():
        gap = batch_moments(relu, batch=batch)[1]
        same, pair, _ = batch_pullback(
            relu, 2.0 - 2.0 / batch, -2.0 / batch, batch=batch, second_moment=1.0, gap=gap
        )
        assert same - pair == pytest.approx(value, rel=1e-13)
    for batch, value in similarity.items():
        assert 1.0 - batch_moments(relu, batch=batch)[1] == pytest.approx(value, rel=1e-13)


def test_identity_has_lambda_b_minus_2_over_b_minus_3():
    for batch in (4, 7, 100):
        gap = batch / (batch - 1.0)
        # E[N(h)^2] = 1, so q = 1 and the contrasts have variance q gap.
        same, pair, _ = batch_pullback(identity, 1.0, 0.0, batch=batch, second_moment=1.0, gap=gap)
        assert (same - pair) * gap * (batch - 1) / batch == pytest.approx(
            (batch - 2) / (batch - 3), rel=1e-14
        )
        assert batch_pullback(identity, 1.0, 1.0, batch=batch, second_moment=1.0, gap=gap)[0] == 0.0


def test_infinite_batch_is_the_limit():
    for activation in (*HOMOGENEOUS.values(), tanh):
        limit = batch_factors(activation, batch=math.inf)
        near = batch_factors(activation, batch=1_000_000)
        for value, other in zip(near, limit, strict=True):
            assert value == pytest.approx(other, abs=2e-5)
    same, pair, _ = batch_pullback(
        relu, 2.0, 0.0, batch=math.inf, second_moment=1.0, gap=1.0 - 1.0 / math.pi
    )
    assert same == pytest.approx(math.pi / (math.pi - 1.0), rel=1e-14)
    assert pair == 0.0


def test_small_batches_have_no_finite_gradient():
    assert batch_status(2) == "degenerate"
    assert batch_status(3) == "infinite"
    assert batch_status(4) == batch_status(math.inf) == "finite"
    assert batch_pullback(relu, 1.0, 0.0, batch=2, second_moment=1.0, gap=0.5)[:2] == (0.0, 0.0)
    assert batch_pullback(relu, 1.0, 0.3, batch=3, second_moment=1.0, gap=0.5)[:2] == (
        math.inf,
        -math.inf,
    )
    assert batch_pullback(tanh, 1.0, 0.0, batch=3, second_moment=1.0, gap=0.5)[0] == math.inf
    # N(h) = +-1.
    second_moment, gap, mean, _ = batch_moments(tanh, batch=2)
    assert second_moment == pytest.approx(math.tanh(1.0) ** 2, rel=1e-14)
    assert gap == pytest.approx(2.0, rel=1e-14)
    assert mean == pytest.approx(0.0, abs=1e-15)


def test_errors_are_explained():
    with pytest.raises(HypothesisError, match="two samples"):
        batch_moments(relu, batch=1)
    with pytest.raises(HypothesisError, match="variance over the batch is zero"):
        batch_pullback(relu, 1.0, 0.0, batch=8, second_moment=1.0, gap=0.0)


@pytest.mark.parametrize("batch", [2, 4, 5, 16, 1000])
@pytest.mark.parametrize("name", HOMOGENEOUS)
def test_spherical_dual_is_the_numerical_twin(batch, name):
    activation = HOMOGENEOUS[name]
    closed = batch_factors(activation, batch=batch, ddof=1)
    twin = batchnorm._spherical(activation, batch=batch, ddof=1)
    scales = (closed.second_moment, closed.gap, math.sqrt(closed.second_moment))
    for value, other, scale in zip(twin[:3], closed[:3], scales, strict=True):
        assert abs(value - other) <= scale * (10.0 * twin.error + 1e-13)
    for value, other in ((twin.spread, closed.spread), (twin.shared, closed.shared)):
        assert abs(value - other) <= closed.spread * (10.0 * twin.error + 1e-13)


def test_chi_mean_matches_mpmath():
    with mp.workdps(40):
        for rank in (1, 2, 3, 10, 150, 159, 160, 161, 200, 4096, 999_999):
            n = mp.mpf(rank)
            exact = mp.sqrt(2) * mp.exp(mp.loggamma((n + 1) / 2) - mp.loggamma(n / 2))
            assert abs(chi_mean(rank) / exact - 1) < 2e-15


def test_smooth_activation_agrees_with_simulation():
    """120,000 draws, largest of 4 |z| below 5: false alarm below 3e-6."""
    batch, ddof = 7, 1
    rng = np.random.default_rng(5)
    x = rng.standard_normal((120_000, batch))
    d = x - x.mean(axis=1, keepdims=True)
    r = np.sqrt((d**2).sum(axis=1) / (batch - ddof))
    u = d / r[:, None]
    phi, slope = np.tanh(u), 1.0 - np.tanh(u) ** 2
    second_moment, gap, _, _ = batch_moments(tanh, batch=batch, ddof=ddof)
    pair = (phi.sum(axis=1) ** 2 - (phi**2).sum(axis=1)) / (batch * (batch - 1))
    _close((phi**2).mean(axis=1), second_moment)
    _close(pair, second_moment * (1.0 - gap))
    # tr J'Pi J = tr Pi D (P - v v') D/R^2, Pi = (1 - c) I + c 11'.
    v = d / np.linalg.norm(d, axis=1)[:, None]
    alone = (slope**2 * (1.0 - 1.0 / batch - v**2)).sum(axis=1)
    total = (slope**2).sum(axis=1) - slope.sum(axis=1) ** 2 / batch - (slope * v).sum(axis=1) ** 2
    for same, cross in ((1.0, 0.0), (1.0, 0.6)):
        trace = ((same - cross) * alone + cross * total) / r**2
        new_same, new_pair, _ = batch_pullback(
            tanh, same, cross, batch=batch, ddof=ddof, second_moment=1.0, gap=1.0
        )
        _close(trace, batch * new_same)
        assert new_pair == pytest.approx(-new_same / (batch - 1), rel=1e-14)


def test_homogeneous_pullback_agrees_with_simulation():
    """E[J' Pi J] by brute force, 100,000 draws, 49 |z| below 5.5: false alarm below 3e-6."""
    batch = 7
    covariance = np.full((batch, batch), 0.7) + 0.8 * np.eye(batch)
    cotangent = np.full((batch, batch), -0.3) + 1.3 * np.eye(batch)
    mean, sem = pullback_samples(
        sample(covariance, 100_000, seed=3),
        cotangent,
        centered=True,
        pooled_mean=False,
        divisor=batch - 1,
        eps=0.0,
        slopes=(1.0, -0.2),
    )
    same, pair, _ = batch_pullback(
        leaky_relu(0.2),
        1.0,
        -0.3,
        batch=batch,
        ddof=1,
        second_moment=1.5,
        gap=gap_of(covariance)[0, 1],
    )
    theory = np.full((batch, batch), pair) + (same - pair) * np.eye(batch)
    assert np.abs((mean - theory) / sem).max() < 5.5


def test_different_mini_batches_are_independent():
    similarity, error = cross_batch_similarity(relu, batch=math.inf)
    assert similarity == pytest.approx(1.0 / math.pi, rel=10 * error + 1e-14)
    rng = np.random.default_rng(8)
    x = rng.standard_normal((200_000, 6))
    d = x - x.mean(axis=1, keepdims=True)
    phi = np.maximum(d / d.std(axis=1, keepdims=True), 0.0)
    similarity, _ = cross_batch_similarity(relu, batch=6)
    _close(phi.mean(axis=1), math.sqrt(similarity * 0.5))


def _close(draws, theory, limit=5.0):
    sem = draws.std() / math.sqrt(draws.size)
    assert abs(draws.mean() - theory) < limit * sem


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_an_infinite_batch_keeps_the_mean_of_any_activation(shift):
    """Samples are independent unit Gaussians: similarity = E[phi]^2/E[phi^2], in 30 digits."""
    with mp.workdps(30):

        def phi(z):
            return mp.log1p(mp.exp(z)) + mp.mpf(shift)

        def mean(power):
            density = lambda z: phi(z) ** power * mp.npdf(z)  # noqa: E731
            return mp.quad(density, [-12, -6, -2, 0, 2, 6, 12])

        exact = mean(1) ** 2 / mean(2)
    network = th.FeedForward(
        th.Layer(norm=th.batch_norm(), activation=th.softplus.affine(shift=shift)), depth=1
    )
    predicted = th.predict(network, th.exchangeable(batch=math.inf, correlation=0.2))
    assert predicted.similarity[0] == pytest.approx(float(exact), rel=1e-12)
    if shift == 0.0:
        _, gap, _, _ = batchnorm.batch_moments(th.softplus, batch=math.inf)
        assert gap == pytest.approx(float(1 - exact), rel=1e-12)
