"""Walks reflected at 0 with the steps of a sphere's coordinate: post-activation streams of GN and BN."""

from __future__ import annotations

import math
from typing import Any

import mpmath as mp
import numpy as np
import pytest

import theory as th
from theory.errors import HypothesisError
from theory.growth import reflected_exponent
from theory.population.known import known
from theory.population.result import population
from theory.routes.sphere_step_walk import sphere_step_walk
from theory.routes.walk_density import walk_law


def spitzer_mean(n: int, depth: int) -> float:
    """E[x_l] = sum E[S_k^+]/k, E[S_k^+] = (1/pi) int (1 - phi^k)/t^2 dt, steps sqrt(n) times a coordinate."""
    order, end = mp.mpf(n) / 2 - 1, 40 * mp.pi

    def phi(t: Any) -> Any:
        return mp.gamma(order + 1) * (2 / t) ** order * mp.besselj(order, t)

    total = mp.mpf(0)
    cuts = [mp.mpf(10) ** -9, *[mp.pi * j for j in range(1, 41)]]
    for k in range(2, depth + 1):
        # Beyond the end phi^k is nothing for k >= 2 and n > 6.
        total += (mp.quad(lambda t, k=k: (1 - phi(t) ** k) / t**2, cuts) + 1 / end) / (mp.pi * k)
    one = mp.quad(lambda t: t * (1 - t * t) ** (mp.mpf(n - 3) / 2), [0, 1])
    half = mp.quad(lambda t: (1 - t * t) ** (mp.mpf(n - 3) / 2), [0, 1])
    return float(mp.sqrt(n) * (total + one / (2 * half)))


@pytest.mark.parametrize("n", [7, 15])
def test_spitzer(n: int) -> None:
    found = sphere_step_walk(4, dimensions=n, length=math.sqrt(n), second_moment=0.0)
    assert found.mean[-1] == pytest.approx(spitzer_mean(n, 4), rel=1e-8)
    assert found.second_moment[0] == pytest.approx(0.5, rel=1e-13)
    assert found.zero[0] == 0.5


def test_walks_of_bounded_steps_never_meet_sparre_andersens_exception() -> None:
    # P(x_l = 0) = C(2l, l)/4^l for every symmetric continuous step.
    found = sphere_step_walk(300, dimensions=3, length=1.7, second_moment=0.0)
    steps = np.arange(1, 301)
    np.testing.assert_allclose(found.zero, np.cumprod(1.0 - 0.5 / steps), rtol=1e-12)


def test_large_groups_walk_like_layer_norm() -> None:
    """Differences fall as 1/n: twice as large a sphere is twice as near."""
    exact = walk_law(50, second_moment=1.0, branch_gradient=1.0)
    assert exact.gradient is not None
    far = []
    for n in (127, 255):
        found = sphere_step_walk(
            50, dimensions=n, length=math.sqrt(n), second_moment=1.0, branch_gradient=1.0
        )
        assert found.gradient is not None
        far.append(
            (
                found.second_moment[-1] / exact.second_moment[-1] - 1.0,
                found.gradient[0] / exact.gradient[0] - 1.0,
            )
        )
    np.testing.assert_allclose(np.divide(*far), 2.0, rtol=0.05)
    assert np.abs(far).max() < 0.01


@pytest.mark.parametrize(
    ("norm", "batch", "options"),
    [
        (th.group_norm(8), 2, {"branch": 0.7}),
        (th.group_norm(8), 2, {"maps": 2}),
        (th.group_norm(5), 2, {"stem": th.gaussian(weight_variance=2.0)}),
        (th.batch_norm(), 8, {}),
    ],
    ids=["GN(8)", "GN(8), two maps", "GN(5)", "BN"],
)
def test_walks_agree_with_populations(
    norm: th.Normalizer, batch: int, options: dict[str, Any]
) -> None:
    """Five standard errors of populations at every block: about 1e-4 per test, at fixed seeds."""
    net = th.Residual(th.Layer(norm=norm), depth=30, order="post_activation", **options)
    inputs = th.exchangeable(batch=batch, correlation=0.3, second_moment=1.3)
    exact = known(net, inputs, backward=True)
    assert exact.route == "walk density"
    channels = 10_240 if batch == 2 else 4096
    found = population(net, inputs, channels=channels, backward=not norm.couples_samples)
    assert exact.log_second_moment is not None
    far = np.abs(exact.log_second_moment - found.stream.log_second_moment)
    assert np.all(far < 5.0 * found.stream.second_moment_error)
    if norm.couples_samples:
        assert exact.log_gradient is None
        return
    assert found.gradient is not None
    assert found.branch_gradient is not None
    for ours, theirs in (
        (exact.log_gradient, found.gradient),
        (exact.log_branch_gradient, found.branch_gradient),
    ):
        assert ours is not None
        relative = theirs.log_second_moment - found.gradient.log_second_moment[-1]
        error = np.hypot(theirs.second_moment_error, found.gradient.second_moment_error[-1])
        assert np.all(np.abs(ours - relative) < 5.0 * error + exact.error)


def test_gradients_grow_by_the_survival_equation() -> None:
    # As for Gaussian steps: local exponents freed from l^-1/2 and (l/L)^(g + 1/2).
    depth, c = 2000, 1.2
    g = reflected_exponent(c)
    law = sphere_step_walk(
        depth, dimensions=7, length=math.sqrt(7), second_moment=0.0, branch_gradient=c
    )
    assert law.gradient is not None
    at = np.unique(np.geomspace(16, depth / 6, 12).astype(int))
    local = np.log2(law.gradient[at - 1] / law.gradient[2 * at - 1])
    columns = [np.ones(len(at)), at**-0.5, 1.0 / at, (at / depth) ** (0.5 + g)]
    fitted = np.linalg.lstsq(np.stack(columns, axis=1), local, rcond=None)[0][0]
    assert fitted == pytest.approx(g, abs=0.03)


def test_odd_groups_state_what_half_integer_powers_cost() -> None:
    net = th.Residual(th.Layer(norm=th.group_norm(5)), depth=20, order="post_activation")
    inputs = th.exchangeable(batch=2, correlation=0.3)
    found = known(net, inputs, backward=False)
    assert found.log_second_moment is not None
    fine = sphere_step_walk(
        20, dimensions=4, length=2.0, second_moment=1.0, branch_gradient=2.0, fine=16
    )
    far = np.abs(np.exp(found.log_second_moment) / fine.second_moment - 1.0)
    assert np.all(far < found.error)
    assert far.max() < 1e-4


def test_narrow_starts_are_left_to_populations() -> None:
    with pytest.raises(HypothesisError, match="narrow"):
        sphere_step_walk(3, dimensions=7, length=2.0, second_moment=1e-4)
    net = th.Residual(th.Layer(norm=th.group_norm(8)), depth=3, order="post_activation")
    found = th.predict(net, th.exchangeable(batch=2, correlation=0.3, second_moment=1e-4))
    assert set(found.route["second_moment"]) == {"population"}


@pytest.mark.slow
def test_a_thousand_blocks_of_group_norm() -> None:
    """Issue: 1e-2 within 10 s for 1,000 blocks; the walk is exact, populations carry the similarity."""
    import time

    net = th.Residual(th.Layer(norm=th.group_norm(8)), depth=1000, order="post_activation")
    start = time.process_time()
    found = th.predict(net, th.exchangeable(batch=2, correlation=0.5))
    assert time.process_time() - start < 10.0
    assert found.gradient_norm is not None
    assert np.all(found.error["gradient_norm"] < 1e-9 * found.gradient_norm)
    assert np.all(found.error["second_moment"] < 1e-9 * found.second_moment)
    assert np.all(found.error["similarity"] < 1e-2 * found.similarity)
