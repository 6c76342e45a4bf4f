"""Reflected walks: Spitzer's moments, the law on a grid, and the gradient along it.

The Monte Carlo tests compare with 4.5 standard errors: a false alarm in 7e-6 of seeds each.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest
from scipy import integrate, stats

from theory.errors import SpecificationError
from theory.routes.reflected_walk import added_activations, reflected_walk
from theory.routes.walk_density import walk_law

REFERENCE = json.loads((Path(__file__).parents[1] / "reference_values.json").read_text())


@pytest.mark.parametrize(
    ("case", "values"), REFERENCE["postactivation_resnet_mean_and_second_moment"].items()
)
def test_reference_values(case: str, values: list[str]) -> None:
    depth = int(case.removeprefix("l="))
    walk = reflected_walk(50)
    assert walk.mean[depth] == pytest.approx(float(values[0]), rel=2e-15)
    assert walk.second_moment[depth] == pytest.approx(float(values[1]), rel=2e-15)


@pytest.mark.parametrize("depth", [1, 2, 37, 200])
def test_spitzer_in_high_precision(depth: int) -> None:
    with mp.workdps(30):
        a = [1 / mp.sqrt(2 * mp.pi * k) for k in range(1, depth + 1)]
        mean = mp.fsum(a)
        pairs = mp.fsum(a[j] * mp.fsum(a[: depth - j - 1]) for j in range(depth))
        zero = mp.binomial(2 * depth, depth) / mp.mpf(4) ** depth
        walk = reflected_walk(depth, scale=0.5)
        assert abs(walk.mean[depth] / (mean / 2) - 1) < 1e-14
        assert abs(walk.second_moment[depth] / ((mp.mpf(depth) / 2 + pairs) / 4) - 1) < 1e-14
        assert abs(walk.zero[depth] / zero - 1) < 1e-13


def test_spitzer_by_quadrature_of_two_steps() -> None:
    # x_1 = relu(z): 0 or half-normal; E[x_2^k] over the second step in closed form.
    def second(x: float) -> float:
        return (x * x + 1.0) * stats.norm.cdf(x) + x * stats.norm.pdf(x)

    inner, _ = integrate.quad(lambda x: second(x) * stats.norm.pdf(x), 0.0, 12.0, epsabs=1e-13)
    assert reflected_walk(2).second_moment[2] == pytest.approx(0.5 * second(0.0) + inner, rel=1e-12)


def test_walk_by_simulation() -> None:
    rng = np.random.default_rng(1)
    x = np.zeros(200_000)
    for _ in range(12):
        x = np.maximum(x + rng.standard_normal(len(x)), 0.0)
    walk = reflected_walk(12)
    for exact, sample in (
        (walk.mean[12], x),
        (walk.second_moment[12], x * x),
        (walk.zero[12], x == 0.0),
    ):
        assert abs(np.mean(sample) - exact) < 4.5 * np.std(sample) / math.sqrt(len(x))


def test_transform_agrees_with_the_sum_and_with_the_asymptote() -> None:
    long, short = reflected_walk(10_000), reflected_walk(4_000)
    np.testing.assert_allclose(long.second_moment[:4001], short.second_moment, rtol=1e-14)
    # E[x_l] = sqrt(2l/pi) + zeta(1/2)/sqrt(2 pi) + O(l^-1/2); E[x_l^2] ~ l.
    offset = float(mp.zeta(0.5)) / math.sqrt(2.0 * math.pi)
    assert long.mean[-1] == pytest.approx(math.sqrt(2e4 / math.pi) + offset, abs=3e-3)
    assert long.second_moment[-1] / 1e4 == pytest.approx(1.0, abs=0.02)


def test_a_thousand_blocks_take_milliseconds() -> None:
    reflected_walk(1000)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        reflected_walk(1000)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.02


@pytest.mark.parametrize("branch", [1.0, 0.3])
def test_grid_reproduces_spitzer(branch: float) -> None:
    exact, found = reflected_walk(300, scale=branch), walk_law(300, branch=branch)
    np.testing.assert_allclose(found.mean, exact.mean[1:], rtol=1e-12)
    np.testing.assert_allclose(found.second_moment, exact.second_moment[1:], rtol=1e-12)
    np.testing.assert_allclose(found.zero, exact.zero[1:], rtol=1e-12)


@pytest.mark.parametrize(("a", "b", "q", "m"), [(1.0, 1.0, 1.0, 0.0), (0.7, 0.5, 2.0, 0.4)])
def test_two_steps_from_a_gaussian(a: float, b: float, q: float, m: float) -> None:
    found = walk_law(2, skip=a, branch=b, second_moment=q, mean=m)
    first = stats.norm(a * m, math.sqrt(a * a * (q - m * m) + b * b))

    def lifted(x: float, power: int) -> float:
        u = a * x / b
        if power == 1:
            return b * (u * stats.norm.cdf(u) + stats.norm.pdf(u))
        return b * b * ((u * u + 1.0) * stats.norm.cdf(u) + u * stats.norm.pdf(u))

    for power, value in ((1, found.mean[1]), (2, found.second_moment[1])):
        inner, _ = integrate.quad(
            lambda x, k=power: lifted(x, k) * first.pdf(x), 0.0, 20.0, epsabs=1e-13, limit=200
        )
        assert value == pytest.approx(first.cdf(0.0) * lifted(0.0, power) + inner, rel=1e-11)


def test_gradient_over_two_blocks_in_closed_form() -> None:
    # g_1 = a 1[x_2 > 0] g_2 + W'(b 1[x_2 > 0] g_2)/R, R^2 = sigma_w^2 q_1.
    found = walk_law(2, skip=0.9, branch=0.6, second_moment=1.3, branch_gradient=1.0)
    assert found.gradient is not None
    alive = 1.0 - found.zero[1]
    assert found.gradient[0] == pytest.approx(
        alive * (0.81 + 0.36 / found.second_moment[0]), rel=1e-12
    )
    assert found.gradient[1] == 1.0


def test_gradient_by_simulated_paths() -> None:
    rng, depth, paths = np.random.default_rng(2), 12, 100_000
    found = walk_law(depth, second_moment=1.0, branch_gradient=1.0)
    assert found.gradient is not None
    growth = []
    for _ in range(8):
        x, steps = rng.standard_normal(paths), []
        for _ in range(depth):
            x = np.maximum(x + rng.standard_normal(paths), 0.0)
            steps.append((x > 0.0, np.mean(x * x)))
        given_path = np.ones(paths)
        for k in range(depth - 1, 0, -1):
            masked = steps[k][0] * given_path
            given_path = masked + masked.mean() / steps[k - 1][1]
        growth.append(given_path.mean())
    error = np.std(growth, ddof=1) / math.sqrt(8)
    # Student's t with 7 degrees of freedom exceeds 8 with probability 9e-5.
    assert abs(np.mean(growth) - found.gradient[0]) < 8.0 * error
    assert error < 5e-3 * found.gradient[0]


def test_added_activations() -> None:
    mu, v, product = 1.0 / math.sqrt(2.0 * math.pi), 0.5, 0.5 * 0.60899778104422935809
    found = added_activations(
        100, mean=mu, second_moment=v, products=product, start=(0.0, 1.0, 0.4)
    )
    steps = np.arange(101)
    np.testing.assert_allclose(found.mean, steps * mu, rtol=1e-13)
    np.testing.assert_allclose(
        found.second_moment,
        1.0 + steps * (0.5 - 0.5 / math.pi) + steps * steps / (2.0 * math.pi),
        rtol=1e-13,
    )
    np.testing.assert_allclose(
        found.product, 0.4 + steps * (product - mu * mu) + steps * steps * mu * mu, rtol=1e-13
    )


def test_added_activations_with_factors_by_simulation() -> None:
    rng, a, b = np.random.default_rng(3), 0.8, 0.5
    x = np.zeros((2, 200_000))
    for _ in range(6):
        z = rng.standard_normal(x.shape)
        z[1] = 0.5 * z[0] + math.sqrt(0.75) * z[1]
        x = a * x + b * np.maximum(z, 0.0)
    found = added_activations(
        6,
        mean=1.0 / math.sqrt(2.0 * math.pi),
        second_moment=0.5,
        products=0.5 * 0.60899778104422935809,
        skip=a,
        branch=b,
    )
    for exact, sample in (
        (found.mean[6], x[0]),
        (found.second_moment[6], x[0] ** 2),
        (found.product[6], x[0] * x[1]),
    ):
        assert abs(sample.mean() - exact) < 4.5 * sample.std() / math.sqrt(sample.size)


@pytest.mark.parametrize(
    "call",
    [
        lambda: reflected_walk(-1),
        lambda: reflected_walk(3, scale=0.0),
        lambda: walk_law(0),
        lambda: walk_law(3, skip=0.0),
        lambda: walk_law(3, second_moment=0.1, mean=1.0),
        lambda: walk_law(300, skip=1.5),
        lambda: added_activations(3, mean=1.0, second_moment=0.5, products=0.0),
    ],
)
def test_out_of_domain(call: object) -> None:
    with pytest.raises(SpecificationError):
        call()  # type: ignore[operator]
