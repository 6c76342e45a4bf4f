"""Variance Normalization behind a branch of one map: samples take a random flight and share steps.

Random comparisons: fixed seeds, five standard errors; some 300 figures, of which few are independent: a
false alarm has probability below 1 %.
"""

from __future__ import annotations

import math
import time
from typing import Any

import mpmath
import numpy as np
import pytest

import theory as th
from theory.errors import SpecificationError
from theory.operators import bind_pull, bind_push
from theory.population.result import population
from theory.population.shared_ends import shared_law, shared_refusal
from theory.program import Linear, NormAct
from theory.routes.flight_signs import flight_signs
from theory.routes.random_flight import sphere_series
from theory.routes.shared_flight import LARGEST_POOL, SharedFlight, student
from theory.specs.networks import Layer
from theory.specs.residual import Residual
from theory.states.base import Gradient
from theory.states.exchangeable import Exchangeable


def ends(
    norm: th.Normalizer | None = None,
    *,
    depth: int = 10,
    activation: th.Activation = th.relu,
    **options: Any,
) -> Residual:
    layer = Layer(norm=norm or th.variance_norm(), activation=activation)
    return Residual(layer, depth=depth, **({"order": "branch_end_norm", "maps": 1} | options))


@pytest.mark.parametrize("order", [1.5, 7.5, 32.0, 41.0, 257.5, 5000.0])
def test_characteristic_function_of_a_sphere(order: float) -> None:
    w = order * np.array([0.0, 1e-13, 1e-6, 0.03, 1.0, 2.0, 7.0, 30.0, 100.0])
    with mpmath.workdps(200):
        exact = [float(mpmath.hyp0f1(order, -mpmath.mpf(x))) for x in w]
    np.testing.assert_allclose(sphere_series(order, w), exact, rtol=0.0, atol=1e-13)


@pytest.mark.parametrize("degrees", [5, 6, 8, 15, 100, 1023])
def test_characteristic_function_of_student(degrees: int) -> None:
    """Given c = chi^2_n, t is Gaussian of variance 1/c: averages of Hermite polynomials over c."""
    y = np.array([1e-6, 0.1, 4.0, 30.0])
    found = student(y, degrees)

    def average(factor: Any, x: Any) -> Any:
        def integrand(s: Any) -> Any:
            # c = e^s.
            c = mpmath.exp(s)
            density = mpmath.exp(mpmath.mpf(degrees) / 2 * s - c / 2 - x * x / (2 * c))
            return density * factor(1 / c, x * x / c**2)

        return mpmath.quad(integrand, [-70, -30, -12, -6, -3, -1, 0, *range(1, 13)])

    with mpmath.workdps(25):
        for k, x in enumerate(map(mpmath.mpf, y.tolist())):
            size = 2 ** (mpmath.mpf(degrees) / 2) * mpmath.gamma(mpmath.mpf(degrees) / 2)
            value = average(lambda v, w: 1, x)
            slope, second, fourth = (
                average(factor, x) / value
                for factor in (
                    lambda v, w, x=x: x * v,
                    lambda v, w: v - w,
                    lambda v, w: 3 * v * v - 6 * v * w + w * w,
                )
            )
            assert found.log[k] == pytest.approx(
                float(mpmath.log(value / size)), rel=1e-9, abs=1e-9
            )
            assert found.slope[k] == pytest.approx(float(slope), rel=1e-9)
            # Differences of numbers near 1, and behind Debye's expansion of logarithms of size n.
            digits = 1e-13 + 3e-15 * degrees
            assert found.second[k] == pytest.approx(float(second), rel=1e-9, abs=digits)
            assert found.fourth[k] == pytest.approx(float(fourth), rel=1e-9, abs=digits)


@pytest.mark.parametrize(
    ("size", "q", "p", "length"), [(16, 1.0, 0.3, 4.0), (5, 1.0, -0.2, 1.0), (6, 2.0, 1.8, 2.0)]
)
def test_without_shared_steps_it_is_a_flight(size: int, q: float, p: float, length: float) -> None:
    """Shared steps of 1e-7: E t^2 = 1/(n-2), E t^4 = 3/((n-2)(n-4)) beside the signs of a flight."""
    steps, n, rng = 6, size - 1.0, np.random.default_rng(0)
    exact = flight_signs(steps, size=size, second_moment=q, product=p, length=length)
    flight = SharedFlight(
        size=size, second_moment=q, product=p, length=length, steps=steps, gap=0.1
    )
    for k in range(steps):
        assert flight.products() == pytest.approx(exact.products[k], rel=1e-11)
        flight.step(1e-7)
    assert flight.products() == pytest.approx(exact.products[steps], rel=1e-11)
    weights = rng.standard_normal(steps + 1)
    once = (n - 1.0) / (n - 2.0)
    for k in reversed(range(steps)):
        flight.weigh(weights[k + 1])
        signs, along, apart = flight.back(1e-7)
        behind = slice(k + 1, None)
        total = once * np.sum(weights[behind] * exact.signs[behind])
        assert signs == pytest.approx(total, rel=1e-9)
        assert apart == pytest.approx(
            once * np.sum(weights[behind] * exact.steps[behind]), rel=1e-9
        )
        if n > 4.0:
            # E|t|^5 is infinite at n = 5: what the steps' size changes is of its first order.
            assert along == pytest.approx(total / (n - 4.0), rel=1e-5)


def test_shared_steps_by_draws() -> None:
    """One's own steps and shared ones, which their signs remember: N = 8, four steps."""
    rng, draws, size, length = np.random.default_rng(2), 200_000, 8, 1.5
    n, scales = size - 1, (0.8, 1.3, 0.5, 2.0)
    flight = SharedFlight(
        size=size, second_moment=1.0, product=0.4, length=length, steps=4, gap=0.1
    )
    x = math.sqrt(0.6) * rng.standard_normal((draws, size))
    x += math.sqrt(0.4) * rng.standard_normal((draws, 1))
    steps, signs = [], []

    def near(drawn: Any, exact: float) -> bool:
        return bool(abs(drawn.mean() - exact) < 5.0 * drawn.std() / math.sqrt(draws))

    def pairs(values: Any) -> Any:
        return (np.sum(values, axis=1) ** 2 - np.sum(values**2, axis=1)) / (size * n)

    for scale in scales:
        v = rng.standard_normal((draws, size))
        v -= v.mean(axis=1, keepdims=True)
        v /= np.linalg.norm(v, axis=1, keepdims=True)
        t = rng.standard_normal((draws, 1)) / np.sqrt(rng.chisquare(n, (draws, 1)))
        x = x + length * (v + scale * t)
        flight.step(scale)
        steps.append((v, t[:, 0]))
        signs.append(np.sign(x))
        assert near(pairs(np.abs(x)), flight.products())
    weights = (0.0, 1.0, -0.5, 2.0)
    for k in reversed(range(4)):
        flight.weigh(weights[k])
        found = flight.back(scales[k])
        v, t = steps[k]
        behind = range(k, 4)
        both = sum(weights[m] * pairs(signs[m]) for m in behind)
        along = sum(weights[m] * pairs(v * signs[m]) for m in behind)
        for drawn, exact in zip(
            ((1.0 + t**2) * both, (t**2 + t**4) * both, (1.0 + t**2) * along), found, strict=True
        ):
            assert near(drawn, exact)


def test_a_line_in_place_of_relu_is_a_recursion_of_operators() -> None:
    """phi = identity: W's inputs are the stream, and masks are 1; ``predict`` takes operators then."""
    network, inputs = ends(depth=12, activation=th.identity), th.exchangeable(batch=8, gap=0.5)
    exact = shared_law(network, inputs, backward=True)
    ops = (Linear(th.gaussian()), NormAct(network.layer.norm, th.identity))
    states, state = [], Exchangeable(8, 1.0, 0.5)
    for k in range(12):
        states.append([state])
        for op in ops:
            states[-1].append(bind_push(op, states[-1][-1])[0](states[-1][-1]))
        added = states[-1][-1].unscaled()
        contrast = state.second_moment * state.gap + added.second_moment * added.gap
        total = state.second_moment + added.second_moment
        state = Exchangeable(8, total, contrast / total)
        assert exact.second_moment[k] == pytest.approx(total, rel=1e-9)
        assert exact.gap[k] == pytest.approx(contrast / total, rel=1e-9)
    same, pair = 1.0, 0.0
    for k in reversed(range(12)):
        assert exact.end.gradient[k] == pytest.approx(same, rel=1e-9)
        gradient = Gradient((same, pair), 0, 0.0)
        gradient = bind_pull(ops[1], states[k][1])[0](states[k][1], gradient)
        at_map = gradient.value[0] * 4.0**gradient.exponent
        assert exact.end.branch_gradient[k] == pytest.approx(at_map, rel=1e-9)
        gradient = bind_pull(ops[0], states[k][0])[0](states[k][0], gradient)
        same += gradient.value[0] * 4.0**gradient.exponent
        pair += gradient.value[1] * 4.0**gradient.exponent


@pytest.mark.parametrize(
    ("norm", "batch", "options"),
    [
        (th.variance_norm(), 12, {}),
        (
            th.variance_norm(ddof=1),
            11,
            {"branch": 2.0, "stem": th.gaussian(), "activation": th.leaky_relu(0.3)},
        ),
    ],
)
def test_agrees_with_populations(norm: th.Normalizer, batch: int, options: dict[str, Any]) -> None:
    network, inputs = ends(norm, **options), th.exchangeable(batch=batch, gap=0.5)
    exact, found = th.predict(network, inputs), population(network, inputs, seed=7)
    assert set().union(*exact.route.values()) == {"random flight"}
    assert found.gradient is not None
    assert found.branch_gradient is not None
    assert found.preactivation is not None
    for ours, theirs in (
        (exact.log_second_moment, found.stream),
        (exact.log_preactivation_second_moment, found.preactivation),
        (2.0 * np.asarray(exact.log_gradient_norm), found.gradient),
        (2.0 * np.asarray(exact.log_branch_gradient_norm), found.branch_gradient),
    ):
        far = np.abs(theirs.log_second_moment - ours)
        assert np.all(far < 5.0 * theirs.second_moment_error + 1e-9)
        assert theirs.second_moment_error.max() < 0.05
    for ours, theirs in ((exact.gap, found.stream), (exact.preactivation_gap, found.preactivation)):
        assert np.all(np.abs(theirs.gap / ours - 1.0) < 5.0 * theirs.gap_error + 1e-9)


def test_small_batches() -> None:
    """E|J'g|^2 is infinite below six samples; moments exist from four."""
    for batch in (4, 5):
        found = th.predict(ends(), th.exchangeable(batch=batch, correlation=0.3))
        assert found.regime.status == "infinite"
        assert np.isposinf(np.asarray(found.gradient_norm)[:-1]).all()
        assert found.forward_route == "random flight"


def test_a_thousand_blocks_without_a_population() -> None:
    start = time.process_time()
    found = th.predict(ends(depth=1000), th.exchangeable(batch=16, correlation=0.3))
    assert time.process_time() - start < 4.0
    assert set().union(*found.route.values()) == {"random flight"}
    assert found.activation.gap_error.max() < 1e-8
    assert np.asarray(found.gradient_error).max() < 1e-8
    # Samples apart grow by B/(B - 1) per block.
    apart = 0.7 + 16.0 / 15.0 * np.arange(1.0, 1001.0)
    np.testing.assert_allclose(found.gap * found.second_moment, apart, rtol=1e-12)


@pytest.mark.parametrize(
    ("norm", "order", "batch"),
    [
        (th.batch_norm(), "sandwich", 300),
        (th.batch_norm(), "branch_end_norm", 600),
        (th.group_norm(256), "sandwich", 2),
        (th.variance_norm(), "branch_end_norm", LARGEST_POOL),
    ],
)
def test_large_pools(norm: th.Normalizer, order: str, batch: int) -> None:
    """Bessel functions of high order underflow; a pool of 300 is nearly one without fluctuations."""
    network, inputs = (
        ends(norm, order=order, depth=3),
        th.exchangeable(batch=batch, correlation=0.3),
    )
    found = th.predict(network, inputs)
    assert set(found.route["gradient_norm"]) == {"random flight"}
    theirs = population(network, inputs, seed=3, channels=512)
    assert theirs.gradient is not None
    far = theirs.gradient.log_second_moment - 2.0 * np.asarray(found.log_gradient_norm)
    assert np.all(np.abs(far) < 5.0 * theirs.gradient.second_moment_error + 1e-10)


def test_refusals() -> None:
    inputs = th.exchangeable(batch=8, gap=0.5)
    assert shared_refusal(ends(), inputs) is None
    for network in (
        ends(th.batch_norm()),
        ends(th.variance_norm(eps=0.1)),
        ends(skip=0.9),
        ends(activation=th.tanh),
        ends(maps=2),
        ends(order="sandwich"),
    ):
        assert shared_refusal(network, inputs) is not None
    for other in (
        th.exchangeable(batch=8, gap=1e-12),
        th.exchangeable(batch=LARGEST_POOL + 1, gap=0.5),
        th.exchangeable(batch=3, gap=0.5),
    ):
        assert shared_refusal(ends(), other) is not None
    for size, product in ((8, 1.0), (LARGEST_POOL + 1, 0.0)):
        with pytest.raises(SpecificationError):
            SharedFlight(
                size=size, second_moment=1.0, product=product, length=1.0, steps=1, gap=0.1
            )
