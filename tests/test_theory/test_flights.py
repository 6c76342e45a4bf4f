"""Random flights and refined populations.

Random comparisons: fixed seeds, five standard errors; some 100 figures, of which few are independent: a
false alarm has probability below 1 %.
"""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import mpmath
import numpy as np
import pytest

import theory as th
from theory.errors import HypothesisError, SpecificationError
from theory.population.branch_ends import end_law, end_refusal
from theory.population.flights import flight_refusal
from theory.population.result import population
from theory.routes.flight_signs import flight_signs
from theory.routes.random_flight import random_flight
from theory.specs.networks import Layer
from theory.specs.residual import Residual


def sandwich(
    norm: th.Normalizer,
    *,
    depth: int = 20,
    order: Any = "sandwich",
    activation: th.Activation = th.relu,
    **options: Any,
) -> Residual:
    return Residual(Layer(norm=norm, activation=activation), depth=depth, order=order, **options)


@pytest.mark.parametrize(("n", "start", "length"), [(3, 1.0, 1.0), (7, 0.3, 2.8), (63, 0.5, 8.0)])
def test_one_step_is_a_noncentral_chi_square(n: int, start: float, length: float) -> None:
    found = random_flight(1, dimensions=n, start=start, length=length)
    assert found.inverse[0] == pytest.approx(1.0 / ((n - 2) * start), rel=1e-14)
    half = mpmath.mpf(length) ** 2 / start / 2
    inverse = along = mpmath.mpf(0)
    for j in range(1000):
        # |x|^2/start has n + 2 J degrees of freedom, cos^2 of x and v is Beta(J + 1/2, (n-1)/2).
        term = mpmath.exp(-half) * half**j / mpmath.factorial(j) / (start * (n - 2 + 2 * j))
        inverse += term
        along += term * (2 * j + 1) / (2 * j + n)
    assert found.inverse[1] == pytest.approx(float(inverse), rel=1e-11)
    assert found.along[1] == pytest.approx(float(along), rel=1e-11)


def test_flights_by_draws() -> None:
    rng = np.random.default_rng(0)
    n, start, length, draws = 7, 1.0, 2.0, 200_000
    found = random_flight(5, dimensions=n, start=start, length=length)
    x = rng.standard_normal((draws, n)) * math.sqrt(start)
    first = None
    for k in range(1, 6):
        v = rng.standard_normal((draws, n))
        v /= np.linalg.norm(v, axis=1, keepdims=True)
        first = v if first is None else first
        x = x + length * v
        inverse = 1.0 / np.sum(x * x, axis=1)
        for step in (first, v):
            along = (np.sum(step * x, axis=1) * inverse) ** 2
            assert abs(along.mean() - found.along[k]) < 5.0 * along.std() / math.sqrt(draws)
        assert abs(inverse.mean() - found.inverse[k]) < 5.0 * inverse.std() / math.sqrt(draws)


def test_long_flights_approach_gaussians() -> None:
    found = random_flight(10_000, dimensions=7, start=1.0, length=2.0)
    variance = 1.0 + 4.0 * np.arange(10_001) / 7.0
    np.testing.assert_allclose(found.inverse[5000:] * 5.0 * variance[5000:], 1.0, atol=1e-3)


@pytest.mark.parametrize(
    ("norm", "batch", "options"),
    [
        (th.batch_norm(), 8, {}),
        (th.batch_norm(ddof=1), 6, {"branch": 0.5}),
        (th.group_norm(8), 2, {}),
        (th.group_norm(16, ddof=1), 2, {"branch": 2.0, "stem": th.gaussian()}),
        (th.batch_norm(), 8, {"maps": 1}),
        (th.group_norm(6), 2, {"maps": 1, "branch": 2.0}),
        (th.batch_norm(ddof=1), 6, {"maps": 1, "activation": th.leaky_relu(0.3)}),
    ],
)
def test_gradients_of_sandwiches(norm: th.Normalizer, batch: int, options: dict[str, Any]) -> None:
    network, inputs = sandwich(norm, depth=12, **options), th.exchangeable(batch=batch, gap=0.5)
    exact = th.predict(network, inputs)
    found = population(network, inputs, channels=2048 if batch > 2 else 6144, seed=5)
    assert exact.route["gradient_norm"] == ("random flight",) * 12
    assert found.preactivation is not None
    far = np.abs(found.preactivation.gap / exact.preactivation_gap - 1.0)
    assert np.all(far < 5.0 * (found.preactivation.gap_error + exact.preactivation.gap_error))
    assert exact.error["gradient_norm"].max() < 1e-8
    for name, ours in (
        ("log_gradient_norm", found.gradient),
        ("log_branch_gradient_norm", found.branch_gradient),
    ):
        assert ours is not None
        far = np.abs(0.5 * ours.log_second_moment - getattr(exact, name))
        assert np.all(far < 5.0 * 0.5 * ours.second_moment_error + 1e-10)
        assert ours.second_moment_error.max() < 0.1


def signs_on_a_circle(steps: int, *, q: float, p: float, length: float, angles: int) -> list[float]:
    """(E sgn sgn, E v_1 v_2 sgn sgn, E|x_1 x_2|), N = 3: steps on the circle in the plane orthogonal to 1.

    Angles by the trapezoidal rule, which converges geometrically; x_1 by Gauss; x_2 given it, in closed form.
    """
    q, p, rho = map(mpmath.mpf, (q, p, length))
    root, far = mpmath.sqrt(q), mpmath.sqrt(q - p * p / q)
    turns = [2 * mpmath.pi * j / angles for j in range(angles)]
    circle = [
        (
            mpmath.sqrt(mpmath.mpf(2) / 3) * mpmath.cos(t),
            mpmath.sqrt(mpmath.mpf(2) / 3) * mpmath.cos(t - 2 * mpmath.pi / 3),
        )
        for t in turns
    ]
    sums = [mpmath.mpf(0)] * 3
    for path in itertools.product(circle, repeat=steps):
        one, two = (rho * mpmath.fsum(v[i] for v in path) for i in (0, 1))

        def signs(z, one=one, two=two):
            even = mpmath.erf((two + p / root * z) / (far * mpmath.sqrt(2)))
            return mpmath.npdf(z) * mpmath.sign(one + root * z) * even

        def sizes(z, one=one, two=two):
            mean = two + p / root * z
            folded = mean * mpmath.erf(mean / (far * mpmath.sqrt(2))) + 2 * far * mpmath.npdf(
                mean / far
            )
            return mpmath.npdf(z) * abs(one + root * z) * folded

        ends = [-10, -one / root, 10]
        both, size = (
            mpmath.quad(f, ends, method="gauss-legendre", maxdegree=5) for f in (signs, sizes)
        )
        step = path[0][0] * path[0][1] if steps else 0
        sums = [a + b for a, b in zip(sums, (both, step * both, size), strict=True)]
    return [float(a / angles**steps) for a in sums]


@pytest.mark.parametrize(
    ("steps", "angles", "error"), [(0, 1, 1e-13), (1, 24, 1e-13), (2, 12, 1e-11)]
)
def test_signs_after_steps_on_a_circle(steps: int, angles: int, error: float) -> None:
    # 18 angles change the values after two steps by 1.3e-12.
    with mpmath.workdps(20):
        exact = signs_on_a_circle(steps, q=1.3, p=0.4, length=0.6, angles=angles)
    found = flight_signs(2, size=3, second_moment=1.3, product=0.4, length=0.6)
    assert [row[steps] for row in found] == pytest.approx(exact, abs=error)


@pytest.mark.parametrize(
    ("size", "q", "p", "length"), [(16, 1.0, 0.3, 4.0), (4, 1.0, -0.2, 1.0), (6, 2.0, 1.8, 2.0)]
)
def test_signs_along_a_flight(size: int, q: float, p: float, length: float) -> None:
    found = flight_signs(4, size=size, second_moment=q, product=p, length=length)
    # Two Gaussians at first.
    assert found.signs[0] == pytest.approx(2.0 / math.pi * math.asin(p / q), abs=1e-13)
    mixed = math.sqrt(q * q - p * p) + p * math.asin(p / q)
    assert found.products[0] == pytest.approx(2.0 / math.pi * mixed, rel=1e-12)
    rng, draws = np.random.default_rng(1), 60_000
    x = rng.standard_normal((draws, size)) * math.sqrt(q - p) if p >= 0.0 else None
    if x is None:
        # Negative correlation: contrasts of variance q - p, mean over samples of q + (N-1) p.
        x = rng.standard_normal((draws, size)) * math.sqrt(q - p)
        own = x.mean(axis=1, keepdims=True)
        x += (math.sqrt((q + (size - 1) * p) / (q - p)) - 1.0) * own
    else:
        x += math.sqrt(p) * rng.standard_normal((draws, 1))
    pairs = size * (size - 1)
    for k in range(1, 5):
        v = rng.standard_normal((draws, size))
        v -= v.mean(axis=1, keepdims=True)
        v /= np.linalg.norm(v, axis=1, keepdims=True)
        x += length * v
        signs, sizes = np.sign(x), np.abs(x)
        for drawn, exact in (
            ((np.sum(signs, axis=1) ** 2 - size) / pairs, found.signs[k]),
            ((np.sum(v * signs, axis=1) ** 2 - 1.0) / pairs, found.steps[k]),
            ((np.sum(sizes, axis=1) ** 2 - np.sum(x * x, axis=1)) / pairs, found.products[k]),
        ):
            assert abs(drawn.mean() - exact) < 5.0 * drawn.std() / math.sqrt(draws)


@pytest.mark.parametrize(
    ("norm", "batch", "options"),
    [
        (th.batch_norm(), 8, {}),
        (
            th.batch_norm(ddof=1),
            6,
            {"branch": 2.0, "stem": th.gaussian(), "activation": th.leaky_relu(0.3)},
        ),
    ],
)
def test_norms_over_samples_at_the_branch_end(
    norm: th.Normalizer, batch: int, options: dict[str, Any]
) -> None:
    network = sandwich(norm, depth=10, order="branch_end_norm", maps=1, **options)
    inputs = th.exchangeable(batch=batch, gap=0.5)
    exact, found = th.predict(network, inputs), population(network, inputs, seed=6)
    assert set(exact.route["gradient_norm"]) == {"random flight"}
    assert found.gradient is not None
    assert found.branch_gradient is not None
    assert found.preactivation is not None
    for ours, theirs in (
        (2.0 * np.asarray(exact.log_gradient_norm), found.gradient),
        (2.0 * np.asarray(exact.log_branch_gradient_norm), found.branch_gradient),
        (exact.log_preactivation_second_moment, found.preactivation),
    ):
        far = np.abs(theirs.log_second_moment - ours)
        assert np.all(far < 5.0 * theirs.second_moment_error + 1e-10)
    far = np.abs(found.preactivation.gap / exact.preactivation_gap - 1.0)
    assert np.all(far < 5.0 * found.preactivation.gap_error + 1e-10)


def test_a_line_in_place_of_relu_leaves_sums_of_squares() -> None:
    """phi = identity: W phi(x) sees the stream's covariance, and J'g no signs: a Gaussian's recursion."""
    network = sandwich(
        th.batch_norm(), depth=30, order="branch_end_norm", maps=1, activation=th.identity
    )
    inputs = th.exchangeable(batch=8, gap=0.5)
    # ``predict`` takes operators then.
    exact = end_law(network, inputs)
    total, own, log = 7.0, 1.0, []
    for k in reversed(range(30)):
        log.append(1.0 / 8.0 + total / 8.0)
        # Contrasts of x_k: 0.5 of the start and 8/7 of each block; weights of variance 2 cancel.
        returned = 8.0 / (5.0 * (0.5 + k * 8.0 / 7.0)) * (total - own) / 7.0
        total, own = total + 7.0 * returned, own + returned
    np.testing.assert_allclose(exact.gradient, np.array(log[::-1]), rtol=1e-9)


def test_a_thousand_blocks_that_need_no_population() -> None:
    for order, maps in (("sandwich", 1), ("sandwich", 2), ("branch_end_norm", 1)):
        network = sandwich(th.batch_norm(), depth=1000, order=order, maps=maps)
        start = time.process_time()
        found = th.predict(network, th.exchangeable(batch=16, correlation=0.3))
        assert time.process_time() - start < 2.0
        assert "population" not in {route[-1] for route in found.route.values()}
        assert found.activation.gap_error.max() < 1e-8
        assert np.asarray(found.gradient_error).max() < 1e-8


def test_refusals() -> None:
    inputs = th.exchangeable(batch=8, gap=0.5)
    assert flight_refusal(sandwich(th.batch_norm()), inputs) is None
    for network in (
        sandwich(th.batch_norm(eps=0.1)),
        sandwich(th.layer_norm()),
        sandwich(th.batch_norm(), skip=0.9),
        sandwich(th.batch_norm(), maps=1, activation=th.tanh),
        sandwich(th.batch_norm(), maps=1, activation=th.scaled_relu),
        Residual(Layer(norm=th.batch_norm()), depth=3),
    ):
        assert flight_refusal(network, inputs) is not None
    end = {"order": "branch_end_norm", "maps": 1}
    assert end_refusal(sandwich(th.batch_norm(), **end), inputs) is None
    for network in (
        sandwich(th.batch_norm(eps=0.1), **end),
        sandwich(th.variance_norm(), **end),
        sandwich(th.group_norm(8), **end),
        sandwich(th.batch_norm(), skip=0.9, **end),
        sandwich(th.batch_norm(), activation=th.tanh, **end),
        sandwich(th.batch_norm(), order="branch_end_norm"),
    ):
        assert end_refusal(network, inputs) is not None
    narrow = th.exchangeable(batch=8, gap=1e-12)
    assert end_refusal(sandwich(th.batch_norm(), **end), narrow) is not None
    with pytest.raises(SpecificationError):
        flight_signs(1, size=8, second_moment=1.0, product=1.0, length=1.0)
    with pytest.raises(HypothesisError):
        random_flight(1, dimensions=2, start=1.0, length=1.0)
    with pytest.raises(SpecificationError):
        random_flight(1, dimensions=3, start=1e-9, length=1.0)


# Refined populations


def test_errors_fall_with_refinement_and_stay_honest() -> None:
    network = Residual(Layer(norm=th.batch_norm()), depth=3, order="post_activation")
    inputs = th.exchangeable(batch=4, gap=0.5)
    coarse, fine = th.predict(network, inputs), th.predict(network, inputs, refine=3)
    assert int(fine.provenance["populations"]) == 3 * int(coarse.provenance["populations"])
    assert int(fine.provenance["channels"]) == 3 * int(coarse.provenance["channels"])
    for name in ("similarity", "gradient_norm"):  # the second moment is exact
        before, after = coarse.error[name], fine.error[name]
        # Root mean squares over layers of errors with 15 and 47 degrees of freedom.
        assert np.sqrt(np.mean(after**2)) < 0.6 * np.sqrt(np.mean(before**2))
        far = np.abs(getattr(coarse, name) - getattr(fine, name))
        assert np.all(far < 5.0 * np.hypot(before, after) + 1e-12)


@pytest.mark.parametrize("refine", [0, 1.5, 100])
def test_refine_has_a_domain(refine: Any) -> None:
    network = Residual(Layer(norm=th.batch_norm()), depth=2, order="post_activation")
    with pytest.raises(SpecificationError, match="refine"):
        th.predict(network, th.exchangeable(batch=4, gap=0.5), refine=refine)
