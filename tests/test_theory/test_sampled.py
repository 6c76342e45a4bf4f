"""RQMC: calibrated error bars, known special cases, Jacobians by finite differences.

False alarms: the calibration counts |z| > 3 in 500 cases.  Stated errors are exceeded threefold with
probability 0.0027, so more than 10 exceedances (2 %) happen with probability below 1e-6.  The other
comparisons allow 5 stated errors (probability 6e-7 each, fewer than 100 comparisons).
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import theory as th
from theory.routes import batchnorm, groupnorm, laplace, laplace_backward, rqmc_blocks, rqmc_groups
from theory.routes.rqmc import Sampling
from theory.routes.rqmc_pool import normalize

QUICK = Sampling(log2_points=9, scrambles=16, seed=3)


def test_calibration() -> None:
    generator = np.random.default_rng(11)
    beyond, cases = 0, 500
    for case in range(cases):
        sampling = Sampling(log2_points=7, scrambles=16, seed=case)
        slope = float(generator.uniform(-0.9, 0.9))
        activation = th.leaky_relu(slope)
        gap = float(generator.uniform(0.05, 1.0))
        kind = case % 4
        if kind == 0:
            batch = int(generator.integers(4, 12))
            _, value, _, error = rqmc_blocks.exchangeable_forward(
                1.0,
                gap,
                batch=batch,
                norm=th.batch_norm(),
                activation=activation,
                sampling=sampling,
            )
            truth = batchnorm.batch_moments(activation, batch=batch)[1]
        elif kind == 1:
            batch = int(generator.integers(8, 12))
            value, _, error = rqmc_blocks.exchangeable_pullback(
                1.0, gap, 1.0, 0.2, batch=batch, norm=th.batch_norm(), activation=activation,
                sampling=sampling,
            )  # fmt: skip
            truth = batchnorm.batch_pullback(
                activation, 1.0, 0.2, batch=batch, second_moment=1.0, gap=gap
            )[0]
        elif kind == 2:
            size = int(generator.integers(5, 12))
            value, error = rqmc_groups.group_pair_gap(
                1.0, 1.0, gap, norm=th.group_norm(size), activation=activation, sampling=sampling
            )
            truth = float(groupnorm.group_gap(activation, gap, group_size=size, centered=True)[0])
        else:
            size = int(generator.integers(8, 12))
            value, error = rqmc_groups.group_slope(
                1.0, 1.0, 0.0, norm=th.group_norm(size), activation=activation, sampling=sampling
            )
            truth = float(groupnorm.group_slope(activation, 0.0, group_size=size, centered=True)[0])
        beyond += abs(value - truth) > 3.0 * error * abs(truth)
    assert beyond < 0.02 * cases


@pytest.mark.parametrize(
    "norm", [th.batch_norm(), th.batch_norm(eps=0.1, ddof=1), th.variance_norm()]
)
def test_full_covariance_against_the_laplace_route(norm: th.Normalizer) -> None:
    features = np.random.default_rng(4).normal(size=(10, 14)) + 0.4
    inputs = th.from_data(features)
    q, gap = inputs.second_moment, inputs.gap
    slopes = (1.0, 0.0)
    exact_q, exact_gap, exact_mean, _ = laplace.forward(q, gap, norm=norm, slopes=slopes)
    got_q, got_gap, got_mean, error, observed = rqmc_blocks.batch_forward(
        q, gap, norm=norm, activation=th.relu
    )
    np.testing.assert_allclose(got_q, exact_q, rtol=5 * error)
    np.testing.assert_allclose(got_gap, exact_gap, rtol=5 * error, atol=1e-12)
    np.testing.assert_allclose(
        got_mean, exact_mean, rtol=0, atol=5 * error * math.sqrt(max(exact_q))
    )
    assert observed < error
    assert got_gap.mean() == pytest.approx(exact_gap.mean(), rel=5 * observed)
    gradient = np.eye(10) + 0.1
    exact, _ = laplace_backward.pullback(q, gap, gradient, norm=norm, slopes=slopes)
    got, error, trace = rqmc_blocks.batch_pullback(q, gap, gradient, norm=norm, activation=th.relu)
    assert np.trace(got) == pytest.approx(np.trace(exact), rel=5 * trace)
    scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    assert np.max(np.abs(got - exact) / scale) < 5 * error


def test_tanh_after_batch_norm_on_data_is_close_to_the_spherical_route() -> None:
    # An exchangeable covariance given as data: the full route must find the exchangeable answer.
    matrix = 0.7 * np.eye(9) + 0.3
    net = th.FeedForward(th.Layer(norm=th.batch_norm(), activation=th.tanh), depth=2)
    full = th.predict(net, th.from_covariance(matrix))
    one = th.predict(net, th.exchangeable(batch=9, correlation=0.3))
    assert full.route["similarity"][0] == "RQMC"
    assert one.route["similarity"][0] == "quadrature"
    for name in ("second_moment", "similarity", "log_gradient_norm"):
        difference = np.abs(getattr(full, name) - getattr(one, name))
        assert (difference <= 5 * full.error[name] + 1e-12).all(), name


INVENTED = {
    "raw over the group's std": th.Normalizer(
        name="raw/std", pool=th.Pool(samples=False, positions=True, channels=12), centered=False,
        denominator="std",
    ),
    "centered over the group's rms": th.Normalizer(
        name="centered/rms", pool=th.Pool(samples=False, positions=True, channels=6), centered=True,
        denominator="rms", eps=0.2,
    ),
    "EvoNorm-S0 in groups": th.evonorm_s0(10),
    "batch, centered over rms": th.Normalizer(
        name="batch/rms", pool=th.Pool(samples=True, positions=True, channels=1), centered=True,
        denominator="rms",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INVENTED)
@pytest.mark.parametrize("activation", [th.relu, th.tanh], ids=lambda a: a.name)
def test_user_normalizers_against_plain_sampling(name: str, activation: th.Activation) -> None:
    """A hand-written forward pass with central differences, 40,000 independent draws, z < 5."""
    norm = INVENTED[name]
    batch, coupled = 8, norm.couples_samples
    correlation, draws, step = 0.35, 40_000, 1e-5
    size = batch if coupled else int(norm.pool.channels)
    generator = np.random.default_rng(17)

    def phi(x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0.0) if activation is th.relu else np.tanh(x)

    def forward(h: np.ndarray) -> np.ndarray:
        deviation = h - h.mean(axis=1, keepdims=True)
        source = h if norm.denominator == "rms" else deviation
        root = np.sqrt((source**2).mean(axis=1, keepdims=True) + norm.eps)
        value = deviation if norm.centered else h
        if norm.gate is not None:
            value = value / (1.0 + np.exp(-norm.gate * value))
        return phi(value / root)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        common = generator.normal(size=(draws, 1 if coupled else size))
        scale = math.sqrt(correlation), math.sqrt(1.0 - correlation)
        own = [generator.normal(size=(draws, size)) for _ in range(2)]
        return scale[0] * common + scale[1] * own[0], scale[0] * common + scale[1] * own[1]

    h, other = draw()
    x = forward(h)
    layer = th.Layer(norm=norm, activation=activation, weights=th.gaussian(weight_variance=1.0))
    inputs = th.exchangeable(batch=batch, correlation=correlation)
    pred = th.predict(th.FeedForward(layer, depth=2), inputs)
    square = (x**2).mean(axis=1)
    _agree(square, pred.second_moment[0], pred.error["second_moment"][0])
    if coupled:
        cross = (x.sum(axis=1) ** 2 - (x**2).sum(axis=1)) / (batch * (batch - 1))
    else:
        cross = (x * forward(other)).mean(axis=1)
    ratio = pred.similarity[0]
    _agree(cross - ratio * square, 0.0, pred.error["similarity"][0] * square.mean())
    # One layer backwards from independent cotangents: E|J|^2 per coordinate.
    total = np.zeros(draws)
    for k in range(size):
        up, down = h.copy(), h.copy()
        up[:, k] += step
        down[:, k] -= step
        total += (((forward(up) - forward(down)) / (2.0 * step)) ** 2).sum(axis=1)
    state = th.predict(th.FeedForward(layer, depth=1), inputs)
    assert state.log_gradient_norm is not None
    from theory.operators import bind_pull
    from theory.program import NormAct
    from theory.states.exchangeable import Exchangeable

    start = Exchangeable(batch, 1.0, 1.0 - correlation)
    pull, _ = bind_pull(NormAct(norm, activation), start)
    gradient = pull(start, start.cotangent())
    _agree(total / size, gradient.value[0], gradient.error * gradient.value[0])


def _agree(samples: np.ndarray, value: float, error: float) -> None:
    sem = samples.std(ddof=1) / math.sqrt(len(samples))
    assert abs(samples.mean() - value) < 5.0 * math.hypot(sem, error)


def test_infinite_moments_are_refused_with_a_reason() -> None:
    net = th.FeedForward(th.Layer(norm=th.evonorm_s0(3), activation=th.identity), depth=1)
    with pytest.raises(th.HypothesisError, match="rank"):
        th.predict(net, th.exchangeable(batch=2, correlation=0.5))
    wide = th.Normalizer(
        name="both", pool=th.Pool(samples=True, positions=True, channels=4), centered=True,
        denominator="std",
    )  # fmt: skip
    net = th.FeedForward(th.Layer(norm=wide), depth=1)
    with pytest.raises(th.HypothesisError, match="no route"):
        th.predict(net, th.exchangeable(batch=4, correlation=0.5))


def test_error_bars_under_heavy_tails() -> None:
    """Small groups, 20 seeds each against 64 times as many points: at most 2 of 60 beyond |z| = 3.

    Stated errors are exceeded threefold with probability 0.0027, more than 2 of 60 below 1e-3.
    """
    fine = Sampling(log2_points=14, scrambles=32, seed=999)
    beyond = 0
    tanh = {"norm": th.group_norm(4, eps=1e-5), "activation": th.tanh}
    small = {"norm": th.evonorm_s0(4), "activation": th.identity}
    for function, arguments, parts in (
        (rqmc_groups.group_pair_gap, (1.0, 1.0, 0.2), small),
        (rqmc_groups.group_pair_gap, (1.0, 1.0, 0.8), small),
        (rqmc_groups.group_slope, (1.0, 1.0, 0.0), tanh),
    ):
        truth, error = function(*arguments, **parts, sampling=fine)  # type: ignore[arg-type]
        for seed in range(20):
            sampling = Sampling(log2_points=9, scrambles=16, seed=seed)
            value, stated = function(*arguments, **parts, sampling=sampling)  # type: ignore[arg-type]
            beyond += abs(value - truth) > 3.0 * math.hypot(stated, error) * abs(truth)
    assert beyond <= 2


def test_slope_errors_are_standard_errors_of_unlike_samples() -> None:
    """Relative to sqrt(E||J||^2 E||J'||^2), which at gap = 0.9 is a few times the slope itself.

    60 seeds: the root mean square of the standardized errors is within [0.6, 1.4] but for a probability
    below 1e-4 (chi-square; errors of 16 scrambles, inflated by 8 %).
    """
    norm, gap = th.group_norm(8), 0.9
    exact, _ = groupnorm.group_slope(th.relu, gap, group_size=8, centered=True)
    own, _ = groupnorm.group_slope(th.relu, 0.0, group_size=8, centered=True)
    scores = []
    for seed in range(60):
        sampling = Sampling(log2_points=6, scrambles=16, seed=seed)
        value, error = rqmc_groups.group_slope(
            1.0, 1.0, gap, norm=norm, activation=th.relu, sampling=sampling
        )
        scores.append((value - float(exact)) / (error * float(own)))
    assert 0.6 < math.sqrt(np.mean(np.square(scores))) < 1.4


@pytest.mark.parametrize("batch", [8, 12])
def test_gradients_of_an_rms_in_closed_form(batch: int) -> None:
    """N = sqrt(B) h/|h| of independent samples: J = sqrt(B)/|h| (I - u u'), u uniform and free of |h|."""
    norm = th.Normalizer(
        name="rms",
        pool=th.Pool(samples=True, positions=True, channels=1),
        centered=False,
        denominator="rms",
    )
    q, same, pair = 1.7, 1.0, 0.6
    # E[1/|h|^2] = 1/(q (B - 2)); E[(u'1)^2 u u'] = (B I + 2 11')/(B (B + 2)).
    moment = np.eye(batch) / (batch + 2) + 2.0 / (batch * (batch + 2))
    pulled = (same - pair) * (1.0 - 1.0 / batch) * np.eye(batch)
    pulled += pair * ((1.0 - 2.0 / batch) + moment)
    pulled *= batch / (q * (batch - 2))
    new_same, new_pair, error = rqmc_blocks.exchangeable_pullback(
        q, 1.0, same, pair, batch=batch, norm=norm, activation=th.identity, sampling=QUICK
    )
    assert new_same == pytest.approx(pulled[0, 0], rel=5.0 * error)
    assert new_pair == pytest.approx(pulled[0, 1], abs=5.0 * error * pulled[0, 0])
    assert error < 0.01


@pytest.mark.parametrize("norm", [th.evonorm_b0(eps=0.3), th.evonorm_b0(eps=0.0, gate=0.7)])
def test_gates_and_their_derivatives_by_hand(norm: th.Normalizer) -> None:
    """h/max(std, v h + sqrt(eps)) at one position, J by central differences."""
    h = np.random.default_rng(4).standard_normal(6)

    def value(x: np.ndarray) -> np.ndarray:
        std = math.sqrt(np.mean((x - x.mean()) ** 2) + norm.eps)
        return x / np.maximum(std, norm.gate * x + math.sqrt(norm.eps))

    pool = normalize(h[None], (h - h.mean())[None], norm, divisor=6.0)
    np.testing.assert_allclose(pool.normalized[0], value(h), rtol=1e-13)
    # local * I - shared w'
    found = np.diag(pool.local[0]) - np.outer(pool.shared[0], pool.direction[0])
    step = 1e-5 * np.eye(6)
    exact = np.array([(value(h + e) - value(h - e)) / 2e-5 for e in step]).T
    np.testing.assert_allclose(found, exact, atol=1e-8)
