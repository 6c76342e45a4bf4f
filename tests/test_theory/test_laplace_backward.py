"""E[J' Pi J] through a shared denominator: closed forms, angular integrals, brute-force simulation."""

import math

import mpmath as mp
import numpy as np
import pool_oracles as oracle
import pytest

from theory.errors import HypothesisError
from theory.routes import laplace_backward
from theory.routes.batchnorm import batch_pullback
from theory.routes.laplace import exchangeable_forward, forward
from theory.routes.laplace_backward import exchangeable_pullback, pullback
from theory.specs.activations import abs as absolute
from theory.specs.activations import identity, leaky_relu, relu
from theory.specs.normalizers import Normalizer, Pool, batch_norm, variance_norm

_POOL = Pool(samples=True, positions=True, channels=1)
RMS = Normalizer(name="rms", pool=_POOL, centered=False, denominator="rms", eps=0.1)
CENTERED_RMS = Normalizer(name="P h/rms", pool=_POOL, centered=True, denominator="rms", eps=0.02)
ACTIVATIONS = {"relu": relu, "leaky": leaky_relu(0.3), "identity": identity, "abs": absolute}


def _flags(norm, batch):
    return {
        "centered": norm.centered,
        "pooled_mean": norm.denominator == "rms",
        "divisor": norm.divisor(batch=batch, positions=1),
        "eps": norm.eps,
    }


def _exchangeable(batch, gap, same, pair):
    gaps = np.full((batch, batch), gap)
    np.fill_diagonal(gaps, 0.0)
    cotangent = np.full((batch, batch), pair)
    np.fill_diagonal(cotangent, same)
    return gaps, cotangent


@pytest.mark.parametrize("batch", [4, 5, 8, 32])
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("ddof", [0, 1])
def test_exchangeable_batchnorm_is_the_closed_form(batch, name, ddof):
    activation = ACTIVATIONS[name]
    norm, off = batch_norm(ddof=ddof), ~np.eye(batch, dtype=bool)
    for gap in (1.0, 1e-8):
        for same, pair in ((1.0, 0.0), (1.0, -1.0 / (batch - 1)), (1.0, 0.9)):
            exact = batch_pullback(
                activation, same, pair, batch=batch, ddof=ddof, second_moment=1.7, gap=gap
            )
            gaps, cotangent = _exchangeable(batch, gap, same, pair)
            slopes = activation.ray_slopes
            full, error = pullback(np.full(batch, 1.7), gaps, cotangent, norm=norm, slopes=slopes)
            short = exchangeable_pullback(
                1.7, gap, same, pair, batch=batch, norm=norm, slopes=slopes
            )
            scale = abs(exact[0])
            assert np.abs(np.diag(full) - exact[0]).max() <= scale * (10.0 * error + 1e-13)
            assert np.abs(full[off] - exact[1]).max() <= scale * (10.0 * error + 1e-13)
            assert abs(short[0] - exact[0]) <= scale * (10.0 * short[2] + 1e-13)
            assert abs(short[1] - exact[1]) <= scale * (10.0 * short[2] + 1e-13)
            assert error < 1e-12


@pytest.mark.parametrize("batch", [4, 64, 1_000_000])
def test_lambda_b_in_constant_time(batch):
    gap = exchangeable_forward(1.0, 0.5, batch=batch, norm=batch_norm(), slopes=(1.0, 0.0))[1]
    same, pair, _ = exchangeable_pullback(
        1.0, gap, 2.0, 0.0, batch=batch, norm=batch_norm(), slopes=(1.0, 0.0)
    )
    exact = batch_pullback(relu, 2.0, 0.0, batch=batch, second_moment=1.0, gap=gap)
    assert same == pytest.approx(exact[0], rel=1e-12)
    assert pair == pytest.approx(exact[1], rel=1e-12)


@pytest.mark.parametrize("batch", [2, 3, 6, 16])
@pytest.mark.parametrize("norm", [variance_norm(), variance_norm(eps=1e-3), batch_norm(eps=0.1)])
@pytest.mark.parametrize("gap", [1.0, 1e-6])
def test_exchangeable_and_full_agree(batch, norm, gap):
    if norm.eps == 0.0 and batch < 6:
        pytest.skip("infinite: see test_infinite_gradients")
    for same, pair in ((1.0, 0.0), (1.0, -1.0 / (batch - 1)), (1.0, 0.9)):
        gaps, cotangent = _exchangeable(batch, gap, same, pair)
        full, error = pullback(np.full(batch, 0.3), gaps, cotangent, norm=norm, slopes=(1.0, -0.3))
        short = exchangeable_pullback(
            0.3, gap, same, pair, batch=batch, norm=norm, slopes=(1.0, -0.3)
        )
        exact = np.full((batch, batch), short[1])
        np.fill_diagonal(exact, short[0])
        wrong = np.abs(full - exact).max() / np.abs(exact).max()
        assert wrong <= 10.0 * (error + short[2]) + 1e-13


def test_a_thousand_random_pools_of_rank_two():
    """True error <= 10 x stated + 1e-13; the truth is an integral over one angle."""
    rng = np.random.default_rng(1)
    kinds = [batch_norm(eps=0.05, ddof=1), batch_norm(eps=0.3), RMS, CENTERED_RMS]
    for case in range(1000):
        norm = kinds[case % len(kinds)]
        batch = int(rng.integers(3, 7))
        z = rng.standard_normal((batch, 2)) + 0.5 * rng.standard_normal(2)
        cotangent = rng.standard_normal((batch, batch))
        cotangent = cotangent + cotangent.T
        slopes = (1.0, float(rng.uniform(-1.0, 1.0)))
        value, error = pullback(*oracle.inputs(z), cotangent, norm=norm, slopes=slopes)
        exact = oracle.backward(z, cotangent, slopes=slopes, **_flags(norm, batch))
        wrong = np.abs(value - exact).max() / np.abs(exact).max()
        assert wrong <= 10.0 * error + 1e-13, (case, norm.name)


@pytest.mark.parametrize("ranks", [(3, 4), (4, 9), (10, 20)])
@pytest.mark.parametrize("ratio", [0.5, 1e-3])
def test_two_groups_of_modes_are_a_beta_integral(ranks, ratio):
    """Identity after BN, Pi = I: T = E[(P - v v')/R^2], by the Beta law of the groups' shares."""
    p, q = ranks
    batch = p + q + 1
    rng = np.random.default_rng(2)
    basis, _ = np.linalg.qr(
        np.concatenate([np.ones((batch, 1)), rng.standard_normal((batch, p + q))], axis=1)
    )
    u = basis[:, 1:]
    factor = u * np.sqrt([1.0] * p + [ratio] * q) + 0.7
    with mp.workdps(30):
        a, b = mp.mpf(p) / 2, mp.mpf(q) / 2

        def level(x, which):
            total = x + ratio * (1 - x)
            own = x / p if which == 0 else ratio * (1 - x) / q
            density = x ** (a - 1) * (1 - x) ** (b - 1) / mp.beta(a, b)
            return density / total * (1 - own / total)

        edges = [0, ratio**2, ratio, mp.sqrt(ratio), 0.7, 1]
        one, two = (mp.quad(lambda x, w=w: level(x, w), edges) for w in (0, 1))
    scale = batch / (p + q - 2.0)
    exact = scale * (u[:, :p] @ u[:, :p].T * float(one) + u[:, p:] @ u[:, p:].T * float(two))
    value, error = pullback(
        *oracle.inputs(factor), np.eye(batch), norm=batch_norm(), slopes=(1.0, -1.0)
    )
    wrong = np.abs(value - exact).max() / np.abs(exact).max()
    assert wrong <= 10.0 * error + 1e-13
    assert wrong < 1e-10


@pytest.mark.parametrize(
    "norm", [batch_norm(ddof=1), variance_norm(eps=0.05), RMS, CENTERED_RMS], ids=lambda n: n.name
)
def test_any_covariance_agrees_with_simulation(norm):
    """60,000 draws of J' Pi J, 64 |z| below 5.5 (36 independent): false alarm below 3e-6.

    The pools have rank >= 7, so the variance is finite.
    """
    batch = 8
    rng = np.random.default_rng(4)
    z = rng.standard_normal((batch, 11)) + 0.4
    root = rng.standard_normal((batch, batch))
    cotangent = root @ root.T
    mean, sem = oracle.pullback_samples(
        oracle.sample(z @ z.T / 11, 60_000, seed=7),
        cotangent,
        slopes=(1.0, -0.2),
        **_flags(norm, batch),
    )
    value, _ = pullback(*oracle.inputs(z / math.sqrt(11)), cotangent, norm=norm, slopes=(1.0, -0.2))
    assert np.abs((mean - value) / sem).max() < 5.5


def test_batchnorm_pullback_is_positive_and_has_no_mean():
    """T = E[J' Pi J] >= 0, and J 1 = 0: a constant added to the batch changes nothing."""
    z = np.random.default_rng(0).standard_normal((6, 9)) + 1.0
    value, _ = pullback(*oracle.inputs(z), np.eye(6), norm=batch_norm(), slopes=(1.0, 0.0))
    assert np.abs(value.sum(axis=0)).max() < 1e-13 * np.abs(value).max()
    assert np.linalg.eigvalsh(value)[0] > -1e-13 * np.abs(value).max()


def test_pullback_is_the_derivative_of_forward_along_the_batch_mean():
    """B = inf: R is a number, and the pair factor is dK/dp (Price) at fixed second moments and R."""
    gap, eps, step = 0.3, 0.2, 1e-5
    norm = variance_norm(eps=eps)

    def covariance(inner_gap):
        # R^2 = q gap + eps is held at its value: undo what the step changes in it.
        q, new_gap, _, _ = exchangeable_forward(
            1.0, inner_gap, batch=math.inf, norm=norm, slopes=(1.0, -0.2)
        )
        return q * (1.0 - new_gap) * (inner_gap + eps) / (gap + eps)

    slope = -(covariance(gap + step) - covariance(gap - step)) / (2.0 * step)
    _, pair, _ = exchangeable_pullback(
        1.0, gap, 0.0, 1.0, batch=math.inf, norm=norm, slopes=(1.0, -0.2)
    )
    assert pair == pytest.approx(slope, rel=1e-9)


@pytest.mark.parametrize("norm", [batch_norm(eps=0.1), variance_norm(eps=0.1), variance_norm()])
def test_limits_of_large_batches(norm):
    for same, pair in ((1.0, 0.0), (0.0, 1.0), (1.0, 0.3)):
        limit = exchangeable_pullback(
            1.3, 0.4, same, pair, batch=math.inf, norm=norm, slopes=(1.0, -0.2)
        )
        near = exchangeable_pullback(
            1.3, 0.4, same, pair, batch=1_000_000, norm=norm, slopes=(1.0, -0.2)
        )
        # Corrections are O(1/B).
        assert near[:2] == pytest.approx(limit[:2], abs=30.0 / 1_000_000)


def test_variance_norm_modes_at_large_batch():
    """Notes, section 4: T on (contrast, mean) modes as samples collapse."""
    batch, gap = 200, 1e-8
    contrast = exchangeable_pullback(
        1.0, gap, 1.0, -1.0 / (batch - 1), batch=batch, norm=variance_norm(), slopes=(1.0, 0.0)
    )
    own = (contrast[0] - contrast[1]) / (1.0 + 1.0 / (batch - 1))
    # In depth q gap = [B/((B-3) gap)] [gap (B-3)/(B-1)] = B/(B-1); sigma_w^2 = 2.
    growth = 2.0 * own * gap / (batch / (batch - 1.0))
    assert growth == pytest.approx((batch - 2.0) / (batch - 3.0), rel=1e-4)


def test_infinite_gradients():
    slopes = (1.0, 0.0)
    for batch, norm in ((3, batch_norm()), (5, variance_norm()), (4, variance_norm())):
        gaps, cotangent = _exchangeable(batch, 0.5, 1.0, 0.0)
        assert np.isinf(
            pullback(np.ones(batch), gaps, cotangent, norm=norm, slopes=slopes)[0]
        ).all()
        short = exchangeable_pullback(1.0, 0.5, 1.0, 0.0, batch=batch, norm=norm, slopes=slopes)
        assert math.isinf(short[0])
    for batch, norm in ((4, batch_norm()), (6, variance_norm())):
        assert math.isfinite(
            exchangeable_pullback(1.0, 0.5, 1.0, 0.0, batch=batch, norm=norm, slopes=slopes)[0]
        )
    gaps, cotangent = _exchangeable(2, 0.5, 1.0, 0.0)
    value, _ = pullback(np.ones(2), gaps, cotangent, norm=batch_norm(), slopes=slopes)
    assert (value == 0.0).all()
    with pytest.raises(HypothesisError, match="eps > 0"):
        exchangeable_pullback(1.0, 0.0, 1.0, 0.0, batch=4, norm=batch_norm(), slopes=slopes)


def test_batchnorm_of_two_diverges_like_one_over_root_eps():
    """Theory notes, "Heavy tails": rank 1, zero at eps = 0 and eps^{-1/2} for eps -> 0."""
    values = [
        exchangeable_pullback(
            1.0, 0.5, 1.0, 0.0, batch=2, norm=batch_norm(eps=eps), slopes=(1.0, 0.0)
        )[0]
        for eps in (1e-10, 1e-12)
    ]
    assert values[1] / values[0] == pytest.approx(10.0, rel=1e-4)


def test_forward_and_backward_see_the_same_mean_square():
    """Pi = 11' and phi = identity after a raw numerator: 1'T 1 = B^2 E[1/R^2] with y'1 = 0."""
    z = np.random.default_rng(3).standard_normal((7, 10))
    q, gap = oracle.inputs(z)
    norm = variance_norm(eps=0.1)
    value, _ = pullback(q, gap, np.ones((7, 7)), norm=norm, slopes=(1.0, -1.0))
    # A constant added to h passes through N unchanged but for 1/R: E[1/R^2] from two forward passes.
    extra = 0.37
    covariance = np.sqrt(np.outer(q, q)) * (1.0 - gap) + extra
    moved = forward(np.diag(covariance).copy(), oracle.gap_of(covariance), norm=norm,
                    slopes=(1.0, -1.0))  # fmt: skip
    base = forward(q, gap, norm=norm, slopes=(1.0, -1.0))
    inverse = (moved[0] - base[0]) / extra
    assert inverse == pytest.approx(value.sum() / 49.0, rel=1e-11)


def test_rounding_is_measured_by_what_cancels():
    """Sizes add up, whatever the signs of the cotangents."""
    norm, slopes = batch_norm(eps=0.1), (1.0, -0.2)
    nodes = laplace_backward.exchangeable_nodes(0.4, batch=6.0, norm=norm, eps=0.1, power=0.0)

    def size(same, pair):
        return laplace_backward._exchangeable_integrands(
            nodes, 0.0, same, pair, batch=6.0, norm=norm, slopes=slopes
        )[2]

    assert (size(1.0, 0.0) > 0.0).all()
    assert (size(0.0, 1.0) > 0.0).all()
    np.testing.assert_allclose(size(1.0, -0.5), size(1.0, 0.0) + 0.5 * size(0.0, 1.0), rtol=1e-14)
    np.testing.assert_allclose(size(0.0, 1.0), 5.0 * size(1.0, 0.0), rtol=1e-14)


def test_the_coarse_rule_is_another_one():
    """Its distance from the fine one is the stated error; both are near the exact Gaussian integral."""
    z = np.random.default_rng(2).standard_normal((6, 6))
    pool = laplace_backward.modes(*oracle.inputs(z), norm=variance_norm(eps=0.1))
    nodes = laplace_backward.quadrature(
        pool.variance, divisor=pool.divisor, eps=pool.eps, power=1.0 if pool.residual > 0.0 else 0.0
    )
    fine, coarse = laplace_backward._accumulate(
        pool, nodes, np.eye(6), slopes=(1.0, 0.0), torus=None
    )
    assert not np.array_equal(fine, coarse)
    np.testing.assert_allclose(fine, coarse, rtol=0, atol=1e-4 * np.abs(fine).max())
