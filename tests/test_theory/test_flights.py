"""Random flights and refined populations.

Random comparisons: fixed seeds, five standard errors; some 100 figures, of which few are independent: a
false alarm has probability below 1 %.
"""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest

import theory as th
from theory.errors import HypothesisError, SpecificationError
from theory.population.flights import flight_refusal
from theory.population.result import population
from theory.routes.random_flight import random_flight
from theory.specs.networks import Layer
from theory.specs.residual import Residual


def sandwich(norm: th.Normalizer, *, depth: int = 20, **options: Any) -> Residual:
    return Residual(Layer(norm=norm), depth=depth, order="sandwich", **options)


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
    ],
)
def test_gradients_of_sandwiches(norm: th.Normalizer, batch: int, options: dict[str, Any]) -> None:
    network, inputs = sandwich(norm, depth=12, **options), th.exchangeable(batch=batch, gap=0.5)
    exact, found = th.predict(network, inputs), population(network, inputs, populations=16, seed=5)
    assert exact.route["gradient_norm"] == ("random flight",) * 12
    assert exact.error["gradient_norm"].max() < 1e-8
    for name, ours in (
        ("log_gradient_norm", found.gradient),
        ("log_branch_gradient_norm", found.branch_gradient),
    ):
        assert ours is not None
        far = np.abs(0.5 * ours.log_second_moment - getattr(exact, name))
        assert np.all(far < 5.0 * 0.5 * ours.second_moment_error + 1e-10)
        assert ours.second_moment_error.max() < 0.1


def test_refusals() -> None:
    inputs = th.exchangeable(batch=8, gap=0.5)
    assert flight_refusal(sandwich(th.batch_norm()), inputs) is None
    for network in (
        sandwich(th.batch_norm(eps=0.1)),
        sandwich(th.layer_norm()),
        sandwich(th.batch_norm(), skip=0.9),
        sandwich(th.batch_norm(), maps=1),
        Residual(Layer(norm=th.batch_norm()), depth=3),
    ):
        assert flight_refusal(network, inputs) is not None
    with pytest.raises(HypothesisError):
        random_flight(1, dimensions=2, start=1.0, length=1.0)
    with pytest.raises(SpecificationError):
        random_flight(1, dimensions=3, start=1e-9, length=1.0)


# Refined populations


def test_errors_fall_with_refinement_and_stay_honest() -> None:
    network = Residual(Layer(norm=th.batch_norm()), depth=8, order="post_activation")
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
