"""Populations of channels against closed forms, other routes, and direct networks written here.

Random comparisons: the stated error is stretched so that three of them are exceeded with probability
0.27 %; five, with 16 populations, once in 40,000, and with some 100 nearly independent figures a false
alarm of the file has probability below 1 %.  Seeds are fixed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import theory as th
from theory.errors import HypothesisError, NumericalError, SpecificationError
from theory.population import gradients
from theory.population import propagate as interpreter
from theory.population.normact import normact, pullback
from theory.population.propagate import Start
from theory.population.result import Averages, population, propagate
from theory.program import Fork, Linear, Merge, NormAct, Observe, Operation
from theory.routes.reflected_walk import added_activations, reflected_walk
from theory.routes.walk_density import walk_law
from theory.specs.networks import Layer
from theory.specs.residual import Residual
from theory.states.population import Modes, Population, gaussian_field, modes

FloatArray = np.ndarray[Any, np.dtype[np.float64]]

WEIGHTS = th.gaussian()
ACROSS = dataclasses.replace(
    th.batch_norm(), pool=th.Pool(samples=True, positions=True, channels=2)
)


def deviations(found: Averages, log_q: FloatArray, gap: FloatArray | None = None) -> float:
    """Largest deviation in stated errors (and a rounding) of second moment and gap."""
    worst = np.abs(found.log_second_moment - log_q) / (found.second_moment_error + 1e-12)
    if gap is not None:
        far = np.abs(found.gap / gap - 1.0) / (found.gap_error + 1e-12)
        worst = np.maximum(worst, far)
    return float(worst.max())


def within(error: FloatArray, bound: float) -> bool:
    return float(error.max()) < bound


# The state


@pytest.mark.parametrize("beside", [False, True])
def test_fields_have_exactly_their_covariance(beside: bool) -> None:
    rng = np.random.default_rng(0)
    stream = rng.standard_normal((3, 4, 500)) + 0.7
    wanted = Modes(np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.1, 1e-9]), 4)
    h = gaussian_field(wanted, shape=stream.shape, rng=rng, beside=stream if beside else None)
    found = modes(h)
    np.testing.assert_allclose(found.mean, wanted.mean, rtol=1e-12)
    np.testing.assert_allclose(found.contrast, wanted.contrast, rtol=1e-12)
    np.testing.assert_allclose(h.mean(axis=2), 0.0, atol=1e-13)
    if beside:
        product = np.einsum("pbm,pbm->p", stream, h) / 500
        np.testing.assert_allclose(product, 0.0, atol=1e-12)


def test_modes_are_those_of_the_averaged_second_moments() -> None:
    x = np.random.default_rng(1).standard_normal((2, 3, 50)) + 1.0
    for k in range(2):
        second = x[k] @ x[k].T / 50
        q = np.trace(second) / 3
        p = (second.sum() - np.trace(second)) / 6
        found = modes(x)
        assert found.mean[k] == pytest.approx(q + 2 * p, rel=1e-13)
        assert found.contrast[k] == pytest.approx(q - p, rel=1e-12)
        assert found.gap[k] == pytest.approx(1 - p / q, rel=1e-12)


def test_small_gaps_keep_their_digits() -> None:
    start = Start(batch=2, gap=1e-20)
    ops: tuple[Operation, ...] = (Linear(WEIGHTS), Observe("activation"))
    found = propagate(ops, start, channels=64, populations=2)
    assert found.stream.gap[0] == pytest.approx(1e-20, rel=1e-3)
    start = Start(batch=2, gap=1e-9)
    assert propagate(ops, start, channels=64, populations=2).stream.gap[0] == pytest.approx(
        1e-9, rel=1e-6
    )


# Normalizers

NORMS = {
    "none": None,
    "BN": th.batch_norm(),
    "BN, eps, ddof": th.batch_norm(eps=0.3, ddof=1),
    "VN": th.variance_norm(eps=0.1),
    "MC": th.mean_centering(),
    "GN(4)": th.group_norm(4),
    "GN(4), eps, ddof": th.group_norm(4, eps=0.2, ddof=1),
    "S0(4)": th.evonorm_s0(4),
    "S0(4), eps, ddof": th.evonorm_s0(4, gate=-0.7, eps=0.2, ddof=1),
    "B0": th.evonorm_b0(),
    "B0, eps, ddof": th.evonorm_b0(gate=1.6, eps=0.2, ddof=1),
    "B0, v < 0": th.evonorm_b0(gate=-0.5, eps=0.05),
}


@pytest.mark.parametrize("activation", [th.relu, th.tanh, th.leaky_relu(0.3), th.scaled_relu])
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
def test_gradients_of_normalizers_by_finite_differences(
    norm: th.Normalizer | None, activation: th.Activation
) -> None:
    rng = np.random.default_rng(4)
    x, g, direction = (rng.standard_normal((1, 4, 8)) for _ in range(3))
    op = NormAct(norm, activation)
    _, tape = normact(op, Population(x))
    analytic = float(np.sum(pullback(op, tape, Population(g)).values * direction))
    step = 1e-6
    ends = [normact(op, Population(x + s * step * direction))[0].values for s in (1.0, -1.0)]
    numeric = float(np.sum(g * (ends[0] - ends[1]))) / (2.0 * step)
    assert analytic == pytest.approx(numeric, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
def test_units_do_not_matter(norm: th.Normalizer | None) -> None:
    rng = np.random.default_rng(5)
    x, g = rng.standard_normal((1, 4, 8)), rng.standard_normal((1, 4, 8))
    for activation in (th.scaled_relu, th.tanh):
        op = NormAct(norm, activation)
        direct, tape = normact(op, Population(8.0 * x))
        shifted, other = normact(op, Population(x, 3))
        np.testing.assert_allclose(
            np.ldexp(shifted.values, shifted.exponent), direct.values, rtol=1e-13
        )
        back, again = pullback(op, tape, Population(g)), pullback(op, other, Population(g))
        np.testing.assert_allclose(
            np.ldexp(again.values, again.exponent), back.values, rtol=1e-12, atol=1e-14
        )


# Against other routes


@pytest.mark.parametrize(
    ("layer", "batch"),
    [
        (Layer(norm=th.layer_norm()), 2),
        (Layer(norm=th.group_norm(8)), 2),
        (Layer(norm=th.batch_norm()), 8),
        (Layer(norm=th.rms_norm(eps=0.1), activation=th.tanh), 3),
        (Layer(weights=th.scaled_weight_standardization()), 2),
    ],
    ids=["LN", "GN(8)", "BN", "RMSNorm tanh", "SWS"],
)
def test_feed_forward_networks(layer: th.Layer, batch: int) -> None:
    net = th.FeedForward(layer, depth=6)
    inputs = th.exchangeable(batch=batch, correlation=0.3)
    exact = th.predict(net, inputs)
    found = population(net, inputs, channels=8192, populations=16)
    assert deviations(found.stream, exact.log_second_moment, exact.gap) < 5.0
    assert found.preactivation is not None
    assert (
        deviations(
            found.preactivation,
            np.log(exact.preactivation_second_moment),
            1.0 - exact.preactivation_correlation,
        )
        < 5.0
    )
    assert exact.log_gradient_norm is not None
    assert found.branch_gradient is not None
    ratio = found.branch_gradient.log_second_moment - found.branch_gradient.log_second_moment[-1]
    error = (
        found.branch_gradient.second_moment_error + found.branch_gradient.second_moment_error[-1]
    )
    assert np.all(np.abs(2.0 * exact.log_gradient_norm - ratio) < 5.0 * error + 1e-12)
    assert within(error, 0.1)


@pytest.mark.parametrize(
    ("layer", "batch", "order"),
    [
        (Layer(norm=th.layer_norm()), 2, "pre_activation"),
        (Layer(norm=th.group_norm(8)), 2, "pre_activation"),
        (Layer(norm=th.batch_norm()), 8, "pre_activation"),
        (Layer(), 2, "pre_activation"),
        (Layer(norm=th.batch_norm()), 8, "activation_before_addition"),
        (Layer(norm=th.layer_norm()), 2, "post_norm"),
        (Layer(norm=th.layer_norm()), 2, "sandwich"),
    ],
)
def test_gaussian_residual_streams(layer: th.Layer, batch: int, order: Any) -> None:
    net = Residual(layer, depth=10, order=order)
    inputs = th.exchangeable(batch=batch, correlation=0.3)
    exact = th.predict(net, inputs)
    found = population(net, inputs, channels=2048, populations=16)
    assert deviations(found.stream, exact.log_second_moment, exact.gap) < 5.0
    assert found.gradient is not None
    assert exact.log_gradient_norm is not None
    assert deviations(found.gradient, 2.0 * exact.log_gradient_norm) < 5.0
    assert within(found.gradient.second_moment_error, 0.05)


def test_reflected_walk_from_zero() -> None:
    # The first activation is the first step of a walk from x_0 = 0.
    act, norm = NormAct(None, th.relu), NormAct(th.layer_norm(), th.identity)
    block: tuple[Operation, ...] = (
        Fork(),
        Linear(WEIGHTS),
        norm,
        Merge(1.0, 1.0),
        act,
        Observe("stream"),
    )
    first: tuple[Operation, ...] = (Linear(WEIGHTS), norm, act, Observe("stream"))
    found = propagate(first + block * 39, Start(batch=1), channels=4096, populations=16)
    exact = reflected_walk(40)
    assert deviations(found.stream, np.log(exact.second_moment[1:])) < 5.0
    mean = exact.mean[1:] / np.sqrt(exact.second_moment[1:])
    assert np.all(np.abs(found.stream.mean - mean) < 5.0 * found.stream.mean_error + 1e-12)
    law = walk_law(40, branch_gradient=1.0)
    assert law.gradient is not None
    assert found.gradient is not None
    assert deviations(found.gradient, np.log(law.gradient)) < 5.0
    # A thousandth for 40 blocks, as asked for 100: see the slow test.
    assert within(found.stream.second_moment_error, 1e-3)
    assert within(found.gradient.second_moment_error, 2e-2)


def test_activation_before_addition_in_closed_form() -> None:
    net = Residual(Layer(norm=th.rms_norm()), depth=30, order="activation_before_addition")
    found = population(net, th.exchangeable(batch=2, correlation=0.5), channels=4096)
    exact = added_activations(
        30,
        mean=1.0 / math.sqrt(2.0 * math.pi),
        second_moment=0.5,
        products=0.0,
        start=(0.0, 1.0, 0.5),
    )
    assert deviations(found.stream, np.log(exact.second_moment[1:])) < 5.0
    assert found.gradient is not None
    factors = 1.0 + 0.5 / exact.second_moment[1:-1]
    growth = np.append(np.cumprod(factors[::-1])[::-1], 1.0)
    assert deviations(found.gradient, np.log(growth)) < 5.0


# Against direct networks


def batch_step(h: FloatArray) -> tuple[FloatArray, Callable[[FloatArray], FloatArray]]:
    """BatchNorm over axis 1 and its gradient."""
    d = h - h.mean(axis=1, keepdims=True)
    r = np.sqrt(np.mean(d * d, axis=1, keepdims=True))
    u = d / r

    def back(g: FloatArray) -> FloatArray:
        g = g - g.mean(axis=1, keepdims=True)
        return (g - u * np.mean(u * g, axis=1, keepdims=True)) / r

    return u, back


def group_step(h: FloatArray) -> tuple[FloatArray, Callable[[FloatArray], FloatArray]]:
    """GroupNorm over eight channels: BatchNorm of another arrangement."""

    def turned(x: FloatArray) -> FloatArray:
        return x.reshape(-1, 8, x.shape[1]).swapaxes(1, 2).reshape(-1, 8)

    def returned(x: FloatArray, samples: int) -> FloatArray:
        return x.reshape(-1, samples, 8).swapaxes(1, 2).reshape(-1, samples)

    u, back = batch_step(turned(h))
    return returned(u, h.shape[1]), lambda g: returned(back(turned(g)), h.shape[1])


def direct(order: str, norm: str, width: int, depth: int, batch: int, seed: int) -> list[float]:
    """(q_L, gap_L, squared gradient at x^1 over that at x^L) of one network."""
    rng = np.random.default_rng(seed)
    step = batch_step if norm == "batch" else group_step
    common, own = rng.standard_normal((width, 1)), rng.standard_normal((width, batch))
    x = math.sqrt(0.3) * common + math.sqrt(0.7) * own
    tape: list[tuple[Any, ...]] = []
    for _ in range(depth):
        w = rng.standard_normal((width, width)) * math.sqrt(2.0 / width)
        if order == "post_activation":
            n, back = step(w @ x)
            mask = x + n > 0.0
            x = np.maximum(x + n, 0.0)
        elif order == "post_norm":
            mask = x > 0.0
            x, back = step(x + w @ np.maximum(x, 0.0))
        else:
            mask = x > 0.0
            n, back = step(w @ np.maximum(x, 0.0))
            x = x + n
        tape.append((w, back, mask))
    gram = x.T @ x / width
    q = float(np.trace(gram)) / batch
    p = (float(gram.sum()) - batch * q) / (batch * (batch - 1))
    g = rng.standard_normal(x.shape)
    last = float(np.sum(g * g))
    for w, back, mask in reversed(tape[1:]):
        if order == "post_activation":
            g = mask * g
            g = g + w.T @ back(g)
        elif order == "post_norm":
            g = back(g)
            g = g + mask * (w.T @ g)
        else:
            g = g + mask * (w.T @ back(g))
    return [q, 1.0 - p / q, float(np.sum(g * g)) / last]


@pytest.mark.parametrize(
    ("order", "norm"),
    [
        ("post_activation", "batch"),
        ("post_norm", "group"),
        ("post_norm", "batch"),
        ("branch_end_norm", "group"),
    ],
)
def test_direct_networks(order: Any, norm: str) -> None:
    depth, batch, networks = 4, 8, 28
    values = {}
    for width in (192, 384):
        runs = [direct(order, norm, width, depth, batch, 1000 * width + k) for k in range(networks)]
        values[width] = np.log(np.array(runs))
    # Mean logarithms would see fluctuations: logarithms of means, extrapolated in 1/width.
    means = {w: np.log(np.exp(v).mean(axis=0)) for w, v in values.items()}
    errors = {
        w: np.exp(v).std(axis=0, ddof=1) / np.exp(v).mean(axis=0) / math.sqrt(networks)
        for w, v in values.items()
    }
    limit = 2.0 * means[384] - means[192]
    error = np.sqrt(4.0 * errors[384] ** 2 + errors[192] ** 2)
    normalizer = th.batch_norm() if norm == "batch" else th.group_norm(8)
    net = Residual(Layer(norm=normalizer), depth=depth, order=order, maps=1)
    inputs = th.exchangeable(batch=batch, correlation=0.3)
    found = population(net, inputs, channels=4096)
    assert found.gradient is not None
    ours = [
        found.stream.log_second_moment[-1],
        np.log(found.stream.gap[-1]),
        found.gradient.log_second_moment[0],
    ]
    own = [
        found.stream.second_moment_error[-1],
        found.stream.gap_error[-1],
        found.gradient.second_moment_error[0],
    ]
    # 27 degrees of freedom: 4.5 is exceeded with probability 1.2e-4.
    assert np.all(np.abs(np.array(ours) - limit) < 4.5 * np.hypot(error, own) + 1e-9)


# The interpreter


def test_results_depend_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Residual(Layer(norm=th.batch_norm()), depth=7, order="post_activation")
    inputs = th.exchangeable(batch=4, correlation=0.3)

    def run(seed: int) -> Any:
        return population(net, inputs, channels=128, seed=seed)

    first, again, other = run(0), run(0), run(1)
    monkeypatch.setattr(interpreter, "_TAPE_BYTES", 30_000)
    recomputed = run(0)
    for result in (again, recomputed):
        np.testing.assert_array_equal(
            first.gradient.log_second_moment, result.gradient.log_second_moment
        )
        np.testing.assert_array_equal(first.stream.gap, result.stream.gap)
    assert first.stream.gap[-1] != other.stream.gap[-1]


def test_mean_squares_given_the_path_agree_with_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Layer(norm=th.layer_norm(), activation=th.leaky_relu(0.2))
    net = Residual(layer, depth=20, order="post_activation", skip=0.9, branch=1.3)
    inputs = th.exchangeable(batch=2, correlation=0.3)
    squares = population(net, inputs, channels=4096)
    monkeypatch.setattr(gradients, "has_finite_pool", lambda norm: True)
    draws = population(net, inputs, channels=8192)
    for ours, theirs in (
        (squares.gradient, draws.gradient),
        (squares.branch_gradient, draws.branch_gradient),
    ):
        assert ours is not None
        assert theirs is not None
        error = np.hypot(ours.second_moment_error, theirs.second_moment_error)
        far = np.abs(ours.log_second_moment - theirs.log_second_moment)
        assert np.all(far < 5.0 * error + 1e-12)
        assert within(error, 0.02)


def test_three_thousand_blocks_of_an_exponential_law() -> None:
    """2.47^3000 is 1e1177; closed forms go on to 10,000 blocks in ``test_residual``."""
    net = Residual(Layer(weights=th.weight_norm(), activation=th.scaled_relu), depth=3000)
    found = population(net, th.exchangeable(batch=1, correlation=0.0), channels=64, populations=2)
    assert found.gradient is not None
    assert np.isfinite(found.stream.log_second_moment).all()
    rate = math.log(1.0 + math.pi / (math.pi - 1.0))
    # 64 channels fluctuate: a random walk of steps 0.1, of either sign.
    assert found.stream.log_second_moment[-1] / 3000 == pytest.approx(rate, rel=0.02)
    assert found.gradient.log_second_moment[0] / 3000 == pytest.approx(rate, rel=0.02)


@pytest.mark.parametrize(
    ("layer", "order", "batch"),
    [
        (Layer(norm=th.group_norm(8)), "sandwich", 2),
        (Layer(weights=th.scaled_weight_standardization()), "post_activation", 2),
        (Layer(norm=th.variance_norm()), "post_activation", 8),
    ],
    ids=["GN(8) sandwich", "SWS post-activation", "VN post-activation"],
)
def test_inner_maps_need_no_draws(
    layer: th.Layer, order: Any, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Residual(layer, depth=8, order=order, maps=2)
    inputs = th.exchangeable(batch=batch, gap=0.6)
    lean = population(net, inputs, channels=2048, seed=3, backward=False)
    monkeypatch.setattr(interpreter, "undrawn_maps", lambda operations, batch: set())
    drawn = population(net, inputs, channels=4096, seed=4, backward=False)
    for ours, theirs in ((lean.stream, drawn.stream), (lean.preactivation, drawn.preactivation)):
        assert ours is not None
        assert theirs is not None
        error = np.hypot(ours.second_moment_error, theirs.second_moment_error)
        assert np.all(
            np.abs(ours.log_second_moment - theirs.log_second_moment) < 5.0 * error + 1e-9
        )
        error = np.hypot(ours.gap_error, theirs.gap_error)
        assert np.all(np.abs(ours.gap / theirs.gap - 1.0) < 5.0 * error + 1e-9)


def test_zero_branches_leave_the_stream() -> None:
    net = Residual(Layer(norm=th.layer_norm()), depth=3, branch=0.0)
    found = population(net, th.exchangeable(batch=2, correlation=0.5), channels=64)
    np.testing.assert_allclose(found.stream.log_second_moment, 0.0, atol=1e-13)
    np.testing.assert_allclose(found.stream.gap, 0.5, rtol=1e-12)
    assert found.gradient is not None
    np.testing.assert_allclose(found.gradient.log_second_moment, 0.0, atol=1e-13)


def test_forward_alone() -> None:
    net = Residual(Layer(norm=th.layer_norm()), depth=3, order="post_activation")
    found = population(net, th.exchangeable(batch=2, gap=0.5), channels=64, backward=False)
    assert found.gradient is None
    assert found.log_gradient_norm is None
    observed = found.stream.observables(2)
    np.testing.assert_allclose(
        observed.log_variance, found.stream.log_second_moment + np.log(found.stream.gap / 2)
    )


@pytest.mark.parametrize(
    ("layer", "batch", "error"),
    [
        (Layer(norm=ACROSS), 4, HypothesisError),
        (Layer(norm=th.batch_norm()), th.inf, HypothesisError),
        (Layer(norm=th.group_norm(24)), 2, SpecificationError),
    ],
)
def test_refusals(layer: th.Layer, batch: float, error: type[Exception]) -> None:
    net = Residual(layer, depth=2, order="post_activation")
    with pytest.raises(error):
        population(net, th.exchangeable(batch=batch, correlation=0.5), channels=128)


def test_identical_samples_have_no_batch_variance() -> None:
    net = Residual(Layer(norm=th.batch_norm()), depth=2, order="post_activation")
    with pytest.raises(HypothesisError, match="zero variance"):
        population(net, th.exchangeable(batch=4, gap=0.0), channels=128)


def test_runaway_without_scale_freedom() -> None:
    layer = Layer(weights=th.gaussian(weight_variance=1e200), activation=th.tanh)
    ops: tuple[Operation, ...] = (Linear(layer.weights),) * 4 + (
        NormAct(None, th.tanh),
        Observe("activation"),
    )
    with pytest.raises(NumericalError):
        propagate(ops, Start(batch=1), channels=64, populations=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "batch", "depth", "bound"),
    [(th.layer_norm(), 2, 1000, 1e-2), (th.batch_norm(), 16, 1000, 1e-2)],
)
def test_budget(norm: th.Normalizer, batch: int, depth: int, bound: float) -> None:
    import time

    net = Residual(Layer(norm=norm), depth=depth, order="post_activation")
    start = time.process_time()
    found = population(net, th.exchangeable(batch=batch, correlation=0.5))
    assert time.process_time() - start < 12.0
    assert found.gradient is not None
    assert within(found.stream.second_moment_error, bound)
    # Of the norm: half of the square's.
    assert within(0.5 * found.gradient.second_moment_error, 2.0 * bound)


@pytest.mark.parametrize("order", ["post_norm", "deep_norm", "sandwich", "post_activation"])
@pytest.mark.parametrize("pair", ["GN(2)", "BN of two samples"])
def test_pools_of_two_return_no_gradient(order: Any, pair: str) -> None:
    """N(h) = +-1 is locally constant: exactly zero, where roundings over 1/R stood before."""
    norm = th.group_norm(2) if pair == "GN(2)" else th.batch_norm()
    network = Residual(Layer(norm=norm), depth=3, order=order)
    found = th.predict(network, th.exchangeable(batch=2, correlation=0.5))
    assert found.regime.status == "degenerate"
    assert found.branch_gradient_norm.tolist() == [0.0] * 3
    assert np.all(found.error["branch_gradient_norm"] == 0.0)
    if order in ("post_norm", "deep_norm"):
        assert found.gradient_norm.tolist() == [0.0, 0.0, 1.0]
