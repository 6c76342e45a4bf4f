"""Post-norm streams and sandwiches with VN: walks on a cylinder, raised flights, and what they are made of.

Random comparisons: fixed seeds.  Populations state five stretched standard errors over sixteen
populations, which some 250 figures, of which few are independent, exceed with probability below 1 %;
plain averages of draws stay within five deviations, twenty of them: below 1e-4.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.testing import assert_allclose

import theory as th
from theory.errors import NumericalError
from theory.population import bent_cylinders, bent_flights, crossings, scale_mixtures
from theory.population.bent_cylinders import bent_cylinder_law, bent_cylinder_refusal
from theory.population.bent_flights import bent_flight_law, bent_flight_refusal
from theory.population.crossings import crossing_moments
from theory.population.cylinders import cylinder_law, cylinder_refusal
from theory.population.exchanged import StreamLaw
from theory.population.raised_flights import raised_flight_law, raised_flight_refusal
from theory.population.result import population
from theory.population.scale_mixtures import spread
from theory.routes.cylinder_nodes import cylinder_nodes
from theory.routes.cylinder_step import cylinder_step
from theory.routes.fourth_flight import fourth_powers
from theory.routes.gaussian import slope
from theory.routes.slope_drop import slope_drop

WAYS: tuple[Any, ...] = (
    (cylinder_refusal, cylinder_law),
    (bent_cylinder_refusal, bent_cylinder_law),
    (raised_flight_refusal, raised_flight_law),
    (bent_flight_refusal, bent_flight_law),
)


def residual(order: Any, *, ddof: int = 0, **options: Any) -> th.Residual:
    layer = {name: options.pop(name) for name in ("activation", "weights") if name in options}
    return th.Residual(th.Layer(norm=th.variance_norm(ddof=ddof), **layer), order=order, **options)


def law(network: th.Residual, inputs: Any) -> StreamLaw:
    (way,) = (way for refusal, way in WAYS if refusal(network, inputs) is None)
    return way(network, inputs, backward=True)


def columns(found: StreamLaw) -> dict[str, np.ndarray]:
    return {
        "q": np.array([state.unscaled().second_moment for state in found.streams]),
        "gap": np.array([state.gap for state in found.streams]),
        "map": np.array([state.unscaled().second_moment for state in found.maps]),
        "map gap": np.array([state.gap for state in found.maps]),
        "gradient": np.exp(found.log_gradient - found.log_gradient.mean()),
        "branch": np.exp(found.log_branch_gradient - found.log_branch_gradient.mean()),
    }


@pytest.mark.parametrize(("n", "nu"), [(5, 0.0), (5, 3.0), (15, 40.0), (63, 400.0), (7, 9e5)])
def test_moments_of_a_step(n: int, nu: float) -> None:
    """Poisson sums in mpmath; the rule in log s^2; and Laguerre's, taken over at large nu."""
    radius2, skip = n + 1.0, 0.7
    noise = skip * skip * radius2 / nu if nu else 1.3
    options = {"dimensions": n, "radius2": radius2, "skip": skip if nu else 0.0, "noise": noise}
    step = cylinder_step(**options)
    with mpmath.workdps(30):
        scale, half = mpmath.mpf(radius2) / noise, mpmath.mpf(skip * skip * radius2) / noise / 2
        half = half if nu else mpmath.mpf(0)
        low, high = (int(half + s * 14 * math.sqrt(half + 30)) for s in (-1, 1))
        sums = [mpmath.mpf(0)] * 4
        for j in range(max(low, 0), high if nu else 1):
            chance = mpmath.exp(-half + (j * mpmath.log(half) if j else 0) - mpmath.loggamma(j + 1))
            m = n + 2 * j
            sums[0] += chance * scale / (m - 2)
            sums[1] += chance * scale**2 / ((m - 2) * (m - 4))
            sums[2] += chance * scale / (m * (m - 2))
            sums[3] += chance * scale**2 / (m * (m - 2) * (m - 4))
    assert_allclose(step, [float(value) for value in sums], rtol=2e-12)
    nodes = cylinder_nodes(**options)
    inverse, turned = 1.0 / nodes.square, nodes.turned / (n - 1.0)
    found = [nodes.weight @ f for f in (inverse, inverse**2, turned * inverse, turned * inverse**2)]
    assert_allclose(found, step, rtol=3e-7 if n == 5 else 1e-8)


def test_the_rule_of_large_noncentralities_continues_the_sum() -> None:
    found = [
        cylinder_step(dimensions=9, radius2=1.0, skip=1.0, noise=1.0 / nu)
        for nu in (1e6 * (1.0 - 1e-9), 1e6 * (1.0 + 1e-9))
    ]
    assert_allclose(found[0], found[1], rtol=1e-8)


def test_inverse_fourth_powers_of_a_flight() -> None:
    n, start, length = 7, 0.6, 1.8
    found = fourth_powers(3, dimensions=n, start=start, length=length)
    half = mpmath.mpf(length) ** 2 / start / 2
    inverse = along = mpmath.mpf(0)
    for j in range(200):
        term = mpmath.exp(-half) * half**j / mpmath.factorial(j) / mpmath.mpf(start) ** 2
        term /= (n - 2 + 2 * j) * (n - 4 + 2 * j)
        inverse += term
        along += term * (2 * j + 1) / (2 * j + n)
    assert found.inverse[1] == pytest.approx(float(inverse), rel=1e-10)
    assert found.along[1] == pytest.approx(float(along), rel=1e-10)
    assert found.inverse[0] == pytest.approx(1.0 / (start * start * 15.0), rel=1e-14)
    assert fourth_powers(1, dimensions=4, start=1.0, length=1.0).inverse[1] == math.inf


@pytest.mark.parametrize("activation", [th.relu, th.gelu, th.tanh, th.selu, th.scaled_relu])
def test_drops_of_slopes(activation: th.Activation) -> None:
    """Against E[phi'(u) phi'(v)], and where samples collapse as (gap q) E[phi''^2]."""
    q, gap = 1.7, 0.4
    found = slope_drop(activation, second_moment=q, gap=gap)
    if activation.ray_slopes is None:
        pair = activation.scale**2 * float(slope(activation, q, q, gap)[0])
        assert found.same - found.drop == pytest.approx(pair, rel=1e-9)
    else:
        pair = activation.scale**2 * (0.5 - math.acos(1.0 - gap) / (2.0 * math.pi))
        assert found.same - found.drop == pytest.approx(pair, rel=1e-13)
    if activation in (th.tanh, th.gelu):
        tiny = slope_drop(activation, second_moment=q, gap=1e-18)

        def bend(z: Any) -> Any:
            x = mpmath.sqrt(q) * z
            if activation == th.tanh:
                return mpmath.npdf(z) * (2 * mpmath.tanh(x) / mpmath.cosh(x) ** 2) ** 2
            return mpmath.npdf(z) * (mpmath.npdf(x) * (2 - x * x)) ** 2

        second = float(mpmath.quad(bend, [-9, -3, 0, 3, 9]))
        assert tiny.drop == pytest.approx(1e-18 * q * second, rel=max(1e-6, 3.0 * tiny.error))
        assert tiny.error < 1e-5


def test_crossings_by_draws() -> None:
    rng = np.random.default_rng(0)
    n, radius2, draws = 7, 8.0, 200_000
    size = n + 1
    u = rng.standard_normal((draws, size))
    u -= u.mean(axis=1, keepdims=True)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    for rho in (0.0, 0.8, 1.9):
        x = rho + math.sqrt(radius2) * u
        crossed = 4.0 * ((x[:, 0] > 0.0) & (x[:, 1] < 0.0))
        exact = crossing_moments(np.array([rho]), dimensions=n, radius2=radius2)[:, 0]
        parts = (-x[:, 0] * x[:, 1], np.ones(draws), 1.0 / size + u[:, 0] * u[:, 1])
        for value, part in zip(exact, parts, strict=True):
            drawn = crossed * part
            assert abs(drawn.mean() - value) < 5.0 * drawn.std() / math.sqrt(draws)


@pytest.mark.parametrize(("n", "most"), [(4, 5e-5), (7, 3e-6), (15, 1e-7), (255, 1e-7)])
def test_sums_of_gaussians_have_the_means_of_crossings(n: int, most: float) -> None:
    radius2 = n + 1.0
    found = crossings.crossings(n, radius2)
    # Tanh-sinh beside the fit's own rule.
    t = np.linspace(-3.3, 3.3, 500)
    rho = math.sqrt(n) / (1.0 + np.exp(math.pi * np.sinh(t)))
    weight = math.pi * np.cosh(t) * (t[1] - t[0]) * rho * (1.0 - rho / math.sqrt(n))
    values = crossing_moments(rho, dimensions=n, radius2=radius2)
    for variance in (0.02, 0.3, 4.0, 1e3, 1e9):
        direct = values @ (weight * np.exp(-0.5 * rho * rho / variance))
        direct *= 2.0 / math.sqrt(2.0 * math.pi * variance)
        over = np.sqrt(found.tau / (found.tau + variance))
        off = np.array([found.product @ over, found.sign @ over, found.along @ over]) / direct
        stated = found.error(np.array([variance]), np.ones(1))
        assert np.abs(off - 1.0).max() < stated
        assert stated < most


def test_weights_on_the_grid_keep_means_over_gaussians() -> None:
    rng = np.random.default_rng(1)
    variances, rows = np.exp(rng.normal(size=50)), rng.standard_normal((2, 50))
    grid = spread(variances, rows)
    for tau in (0.01, 1.0, 100.0):
        exact = rows @ np.sqrt(tau / (tau + variances))
        found = grid.rows @ np.sqrt(tau / (tau + grid.variances))
        assert_allclose(found, exact, atol=1e-7)
    assert_allclose(grid.rows.sum(axis=1), rows.sum(axis=1), atol=1e-12)


@pytest.mark.parametrize("order", ["post_norm", "sandwich"])
def test_one_map_and_two_agree_without_an_activation(order: Any) -> None:
    inputs = th.exchangeable(batch=12, correlation=0.6, second_moment=0.3)
    one, two = (
        columns(
            law(
                residual(
                    order,
                    depth=40,
                    maps=maps,
                    branch=0.7,
                    ddof=1,
                    activation=th.identity,
                    weights=th.gaussian(weight_variance=1.0),
                ),
                inputs,
            )
        )
        for maps in (1, 2)
    )
    for name, values in one.items():
        assert_allclose(values, two[name], rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("order", ["post_norm", "deep_norm", "sandwich"])
@pytest.mark.parametrize("maps", [1, 2])
def test_one_block_is_that_of_gaussian_states(order: Any, maps: int) -> None:
    network = residual(order, depth=1, maps=maps)
    inputs = th.exchangeable(batch=9, correlation=0.4)
    found, exact = law(network, inputs), th.predict(network, inputs)
    ours = columns(found)
    assert exact.route["second_moment"] != ("cylinder walk",)
    rtol = 1e-9 if maps == 2 else 1e-6
    assert_allclose(ours["q"], exact.second_moment, rtol=rtol)
    assert_allclose(ours["gap"], exact.gap, rtol=rtol)
    assert_allclose(ours["map"], exact.preactivation_second_moment, rtol=rtol)
    assert_allclose(ours["map gap"], exact.preactivation_gap, rtol=rtol)
    assert exact.log_branch_gradient_norm is not None
    assert_allclose(0.5 * found.log_branch_gradient, exact.log_branch_gradient_norm, atol=1e-8)


CASES: dict[str, tuple[th.Residual, Any]] = {
    "post_norm": (residual("post_norm", depth=6), th.exchangeable(batch=16, gap=0.5)),
    "deep_norm gelu": (
        residual("deep_norm", depth=6, activation=th.gelu, ddof=1),
        th.exchangeable(batch=24, gap=0.1),
    ),
    "post_norm centered": (
        residual(
            "post_norm",
            depth=6,
            skip=-0.5,
            weights=th.centered_weights(weight_variance=2.0),
            stem=th.gaussian(),
        ),
        th.exchangeable(batch=16, gap=0.7, feature_mean=0.4),
    ),
    "sandwich": (residual("sandwich", depth=6), th.exchangeable(batch=16, gap=0.5)),
    "sandwich tanh": (
        residual("sandwich", depth=6, activation=th.tanh, branch=0.4, ddof=1),
        th.exchangeable(batch=24, gap=0.3),
    ),
    "post_norm one map": (
        residual("post_norm", depth=6, maps=1),
        th.exchangeable(batch=16, gap=0.5),
    ),
    "deep_norm one map": (
        residual("deep_norm", depth=6, maps=1, activation=th.leaky_relu(-0.4), ddof=1),
        th.exchangeable(batch=24, gap=1.02),
    ),
    "sandwich one map": (
        residual("sandwich", depth=6, maps=1),
        th.exchangeable(batch=16, gap=0.5),
    ),
    "sandwich abs": (
        residual("sandwich", depth=6, maps=1, activation=th.abs, branch=1.5, ddof=1),
        th.exchangeable(batch=24, gap=0.3, second_moment=0.5),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_streams_are_those_of_populations(name: str) -> None:
    network, inputs = CASES[name]
    exact = th.predict(network, inputs)
    found = population(network, inputs, channels=2048, seed=3)
    route = "raised flight" if network.order == "sandwich" else "cylinder walk"
    assert set(exact.route["gradient_norm"]) == set(exact.route["gap"]) == {route}
    assert found.preactivation is not None
    for ours, theirs in (
        (exact.activation, found.stream),
        (exact.preactivation, found.preactivation),
    ):
        far = np.abs(theirs.log_second_moment - ours.log_second_moment)
        assert np.all(far < 5.0 * theirs.second_moment_error + 1e-9)
        assert np.all(np.abs(theirs.gap / ours.gap - 1.0) < 5.0 * theirs.gap_error + 1e-9)
        assert ours.second_moment_error.max() < 1e-6
    for log, theirs in (
        (exact.log_gradient_norm, found.gradient),
        (exact.log_branch_gradient_norm, found.branch_gradient),
    ):
        assert theirs is not None
        assert log is not None
        far = np.abs(theirs.log_second_moment - 2.0 * log)
        assert np.all(far < 5.0 * theirs.second_moment_error + 1e-9)
        assert theirs.second_moment_error.max() < 0.1


@pytest.mark.parametrize("order", ["post_norm", "deep_norm", "sandwich"])
@pytest.mark.parametrize("batch", [6, 16])
def test_errors_hold_on_another_grid(
    order: Any, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One map, 100 blocks: other fits and another interpolation, within what is stated."""
    network = residual(order, depth=100, maps=1)
    inputs = th.exchangeable(batch=batch, correlation=0.3)
    coarse = law(network, inputs)
    for module in (scale_mixtures, crossings, bent_flights):
        monkeypatch.setattr(module, "SPACING", 0.11)
    for module in (bent_cylinders, bent_flights):
        monkeypatch.setattr(module, "_LEAST", 1e-15)
    crossings.crossings.cache_clear()
    fine = law(network, inputs)
    crossings.crossings.cache_clear()
    for ours, theirs in ((coarse.streams, fine.streams), (coarse.maps, fine.maps)):
        for one, other in zip(ours, theirs, strict=True):
            assert abs(one.second_moment / other.second_moment - 1.0) < one.second_moment_error
            assert abs(one.gap / other.gap - 1.0) < one.gap_error
    for one, other in (
        (coarse.log_gradient, fine.log_gradient),
        (coarse.log_branch_gradient, fine.log_branch_gradient),
    ):
        assert np.all(np.abs(one - other) < coarse.gradient_error)


@pytest.mark.parametrize("maps", [1, 2])
def test_collapsed_streams_grow_at_one_rate(maps: int) -> None:
    """Samples that agree: phi is a line, h has the contrasts of x and maps times its square."""
    network, inputs = (
        residual("post_norm", depth=1000, maps=maps),
        th.exchangeable(batch=16, gap=0.5),
    )
    found = th.predict(network, inputs)
    rate = (1.0 + maps) * cylinder_step(
        dimensions=15, radius2=16.0, skip=1.0, noise=maps * 16.0 / 15.0
    ).inverse
    assert np.diff(found.log_second_moment)[-1] == pytest.approx(math.log(rate), rel=1e-9)
    assert_allclose(found.gap * found.second_moment, 16.0 / 15.0, rtol=1e-12)
    assert np.isfinite(found.log_gradient_norm).all()
    assert found.error["second_moment"].max() == 0.0 or np.all(
        found.error["second_moment"] < 1e-5 * found.second_moment
    )
    assert found.gradient_error is not None
    assert found.gradient_error.max() < 1e-3


@pytest.mark.parametrize("order", ["post_norm", "deep_norm", "sandwich"])
@pytest.mark.parametrize("maps", [1, 2])
def test_large_batches_tend_to_gaussian_streams(order: Any, maps: int) -> None:
    """2 f(2B) - f(B) against B = inf, whose stream is Gaussian: errors of O(1/B^2)."""

    def read(batch: float) -> np.ndarray:
        found = th.predict(
            residual(order, depth=20, maps=maps), th.exchangeable(batch=batch, gap=0.7)
        )
        assert found.log_gradient_norm is not None
        assert found.log_branch_gradient_norm is not None
        return np.array(
            [
                found.log_second_moment,
                np.log(found.gap),
                np.log(found.preactivation_gap),
                found.log_gradient_norm,
                found.log_branch_gradient_norm,
            ]
        )

    once, twice, limit = (read(batch) for batch in (10_000, 20_000, math.inf))
    assert np.abs(once - limit).max() > 1e-4
    assert_allclose(2.0 * twice - once, limit, atol=2e-6)


def test_what_is_infinite_and_what_runs_away() -> None:
    inputs = th.exchangeable(batch=5, correlation=0.3)
    for order in ("post_norm", "sandwich"):
        for maps in (1, 2):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", th.RegimeWarning)
                found = th.predict(residual(order, depth=4, maps=maps), inputs)
            assert np.isfinite(found.second_moment).all()
            assert found.log_gradient_norm is not None
            assert found.log_gradient_norm.tolist() == [math.inf] * 3 + [0.0]
    with pytest.raises(NumericalError, match="ran away"):
        th.predict(residual("post_norm", depth=2000), th.exchangeable(batch=6, correlation=0.3))


def test_everything_else_is_refused() -> None:
    inputs = th.exchangeable(batch=8, correlation=0.3)
    bare = th.Layer(norm=th.variance_norm(eps=1e-5))
    for network in (
        residual("post_norm", depth=2, maps=1, activation=th.tanh),
        residual("sandwich", depth=2, maps=1, weights=th.centered_weights(weight_variance=2.0)),
        residual("sandwich", depth=2, skip=0.5),
        residual("branch_end_norm", depth=2, maps=1),
        residual("post_norm", depth=2, branch=0.0),
        th.Residual(th.Layer(norm=th.batch_norm()), depth=2, order="post_norm"),
        th.Residual(bare, depth=2, order="post_norm"),
        th.Residual(bare, depth=2, order="sandwich", maps=1),
    ):
        assert all(isinstance(refusal(network, inputs), str) for refusal, _ in WAYS)
    raised = th.exchangeable(batch=8, correlation=0.3, feature_mean=0.3)
    for order in ("post_norm", "sandwich"):
        for options in ({"maps": 1}, {"weights": th.centered_weights(weight_variance=2.0)}):
            network = residual(order, depth=2, **options)
            assert all(refusal(network, raised) is not None for refusal, _ in WAYS)
