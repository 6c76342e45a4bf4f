"""predict where the stream is not Gaussian: routes, errors, exact parts, what is kept and refused.

Random comparisons: five stretched standard errors over eight populations are exceeded with
probability below 2e-4; about 20 nearly independent figures are compared: false alarm of the file
below 1 %.  Seeds are fixed.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.testing import assert_allclose

import montecarlo as mc
import theory as th
from theory.population import result
from theory.population.known import known
from theory.population.prediction import SEED
from theory.population.result import population
from theory.population.sphere_pairs import NORMALS, pair_step, relu_gap
from theory.routes.sphere_walk import sphere_step

INPUTS = th.exchangeable(batch=4, correlation=0.5)
TRUTH = json.loads((Path(__file__).parents[1] / "reference_values.json").read_text())
NORMS: dict[str, th.Normalizer | None] = {
    "plain": None, "LN": th.layer_norm(), "BN": th.batch_norm(), "GN(8)": th.group_norm(8),
}  # fmt: skip


def residual(norm: th.Normalizer | None, order: Any, **options: Any) -> th.Residual:
    weights = options.pop("weights", th.gaussian())
    return th.Residual(th.Layer(norm=norm, weights=weights), order=order, **options)


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("order", th.ORDERS)
@pytest.mark.parametrize("maps", [1, 2])
def test_every_order_is_predicted(order: Any, norm: th.Normalizer | None, maps: int) -> None:
    inputs = th.exchangeable(batch=8, correlation=0.5)
    found = th.predict(residual(norm, order, depth=2, maps=maps), inputs)
    for name in (*th.OBSERVABLES, "branch_gradient_norm"):
        values, error = getattr(found, name), found.error[name]
        assert np.isfinite(values).all()
        assert np.all(error >= 0.0)
        assert len(found.route[name]) == 2
        if found.route[name][0] == "population" and name.endswith("gradient_norm"):
            assert np.all(error < 0.1 * values)


def test_moments_of_a_walk_from_zero_are_spitzers() -> None:
    """From (nearly) x_0 = 0: E[x_l^2] of reference_values.json, to 1e-12."""
    inputs = th.exchangeable(batch=2, correlation=0.5, second_moment=1e-60)
    found = th.predict(residual(th.layer_norm(), "post_activation", depth=3), inputs)
    assert set(found.route["second_moment"]) == {"reflected walk"}
    assert set(found.route["gradient_norm"]) == {"reflected walk"}
    assert set(found.route["similarity"]) == {"sampled pairs"}
    assert np.all(found.error["second_moment"] < 1e-9)
    # Deeper without the population beside it.
    walk = known(residual(th.layer_norm(), "post_activation", depth=50), inputs, backward=True)
    assert walk.route == "reflected walk"
    assert walk.log_second_moment is not None
    assert_allclose(walk.log_second_moment[:3], found.log_second_moment, rtol=1e-12)
    exact = TRUTH["postactivation_resnet_mean_and_second_moment"]
    for layer in (1, 2, 5, 20, 50):
        value = float(exact[f"l={layer}"][1])
        assert_allclose(np.exp(walk.log_second_moment[layer - 1]), value, rtol=1e-12)


@pytest.mark.parametrize(
    ("norm", "options"),
    [
        (th.layer_norm(), {"maps": 1}),
        (th.rms_norm(), {"maps": 2, "skip": 0.9, "branch": 1.3}),
        (th.layer_norm(), {"weights": th.scaled_weight_standardization(), "stem": th.gaussian()}),
    ],
    ids=["LN", "two maps", "SWS behind a stem"],
)
def test_walks_agree_with_populations(norm: th.Normalizer, options: dict[str, Any]) -> None:
    network = residual(norm, "post_activation", depth=12, **options)
    exact = known(network, INPUTS, backward=True)
    assert exact.route == "walk density"
    assert exact.error < 1e-10
    found = population(network, INPUTS, channels=16384, seed=7)
    assert found.gradient is not None
    assert found.branch_gradient is not None
    for value, ours in (
        (exact.log_second_moment, found.stream),
        (exact.log_gradient, found.gradient),
        (exact.log_branch_gradient, found.branch_gradient),
    ):
        assert value is not None
        far = np.abs(ours.log_second_moment - value)
        assert np.all(far < 5.0 * ours.second_moment_error + 1e-11)


@pytest.mark.parametrize("order", ["post_norm", "deep_norm"])
@pytest.mark.parametrize(
    ("norm", "batch"),
    [(th.group_norm(8), 3), (th.group_norm(4, ddof=1), 2), (th.batch_norm(), 8)],
    ids=["GN(8)", "GN(4) ddof", "BN"],
)
@pytest.mark.parametrize("options", [{"maps": 1}, {"maps": 2, "skip": 1.3, "stem": th.gaussian()}])
def test_sphere_walks_agree_with_populations(
    order: Any, norm: th.Normalizer, batch: int, options: dict[str, Any]
) -> None:
    """Post-norm without a population, against one: gradients, gaps, pre-activations."""
    network = residual(norm, order, depth=5, branch=0.7, **options)
    inputs = th.exchangeable(batch=batch, correlation=0.5, second_moment=1.7)
    exact = th.predict(network, inputs)
    assert set(exact.route["gradient_norm"]) == {"sphere walk"}
    found = population(network, inputs, seed=11)
    assert found.gradient is not None
    assert found.branch_gradient is not None
    assert found.preactivation is not None
    for name, ours in (
        ("log_gradient_norm", found.gradient),
        ("log_branch_gradient_norm", found.branch_gradient),
    ):
        far = np.abs(0.5 * ours.log_second_moment - getattr(exact, name))
        assert np.all(far < 5.0 * 0.5 * ours.second_moment_error + 1e-10)
        assert np.all(exact.error[name] < 1e-10)
    assert_allclose(found.stream.log_second_moment, exact.log_second_moment, atol=1e-12)
    assert_allclose(
        found.preactivation.log_second_moment, exact.log_preactivation_second_moment, atol=1e-10
    )
    for name, ours in (("gap", found.stream), ("preactivation_gap", found.preactivation)):
        values, error = getattr(exact, name), exact.error[name]
        scatter = np.hypot(values * ours.gap_error, error)
        assert np.all(np.abs(ours.gap - values) < 5.0 * scatter + 1e-12)


def test_a_thousand_post_norm_blocks_of_batch_norm_leave_no_range() -> None:
    """E|g_l|^2 multiplies by one number per block: exactly exponential, 1e308 and beyond."""
    found = th.predict(residual(th.batch_norm(), "post_norm", depth=20_000), INPUTS)
    assert found.log_gradient_norm is not None
    assert found.log_gradient_norm[0] > 710.0
    assert_allclose(np.diff(found.log_gradient_norm, 2)[:-2], 0.0, atol=1e-9)
    assert_allclose(found.gap, 4.0 / 3.0, rtol=1e-14)


@pytest.mark.parametrize("dimensions", [3, 7])
def test_steps_of_a_sphere_walk_by_drawing_them(dimensions: int) -> None:
    """E[1/R^2] and E[tr(P_x P_y)/R^2], y = a x + noise in n dimensions: 4.5 standard errors."""
    rng, a, noise, n = np.random.default_rng(3), 0.8, 0.6, dimensions
    radius2 = n + 1.0
    y = rng.standard_normal((400_000, n)) * math.sqrt(noise)
    y[:, 0] += a * math.sqrt(radius2)
    square = np.einsum("ij,ij->i", y, y)
    inverse = radius2 / square
    tangential = a * a * inverse * (n - 2.0 + y[:, 0] ** 2 / square) / (n - 1.0)
    step = sphere_step(dimensions=n, radius2=radius2, skip=a, noise=noise)
    for found, draws in zip(step, (inverse, tangential), strict=True):
        # At n = 3 the variance of 1/|y|^2 is infinite: only the finite one is compared there.
        if n > 4:
            assert abs(found - draws.mean()) < 4.5 * draws.std() / math.sqrt(len(draws))
        else:
            assert found == pytest.approx(draws.mean(), rel=0.02)


@pytest.mark.parametrize("noise", [1e-12, 1e-6, 0.7, 50.0])
def test_steps_of_a_sphere_walk_in_high_precision(noise: float) -> None:
    """n = 7: E[1/|y|^2] = int_0^1 t^4 exp(-nu (1 - t^2)/2) dt; small noise leaves 1 - O(noise)."""
    a, n, radius2 = 0.8, 7, 8.0
    step = sphere_step(dimensions=n, radius2=radius2, skip=a, noise=noise)
    nu = mpmath.mpf(a) ** 2 * radius2 / mpmath.mpf(noise)
    if noise < 1e-3:
        assert step.skip == pytest.approx(1.0, abs=10.0 * noise)
        assert step.inverse == pytest.approx(a**-2, rel=10.0 * noise + 1e-13)
        return
    # E[exp(-s Q)] integrated over s, with t^2 = 1/(1 + 2 s).
    integral = mpmath.quad(lambda t: t ** (n - 3) * mpmath.exp(-nu * (1 - t * t) / 2), [0, 1])
    assert step.inverse == pytest.approx(float(radius2 / noise * integral), rel=1e-12)


@pytest.mark.parametrize(("far", "gap"), [(0.3, 0.6), (1e-9, 1e-9), (1.7, 0.1)])
def test_cosines_of_pairs_by_drawing_vectors(far: float, gap: float) -> None:
    """1 - cos of a x + s u and a x' + s u' in 7 dimensions, in full: 4.5 standard errors."""
    rng, n, count, a, s = np.random.default_rng(5), 7, 100_000, 1.2, 0.8
    w = pair_step(
        np.full((1, count), far), dimensions=n, skip=a, noise=s,
        noise_gap=np.array([gap]), normals=rng.standard_normal((NORMALS, 1, count)),
    )[0]  # fmt: skip
    u, v = rng.standard_normal((2, count, n))
    apart = s * (gap * u - math.sqrt(gap * (2.0 - gap)) * v)
    apart[:, 0] += a * far
    apart[:, 1] -= a * math.sqrt(far * (2.0 - far))
    y = s * u
    y[:, 0] += a
    other = y - apart
    length, lengths = np.linalg.norm(y, axis=1), np.linalg.norm(other, axis=1)
    shrunk = np.einsum("ij,ij->i", apart, y + other) / (length + lengths)
    direct = (np.einsum("ij,ij->i", apart, apart) - shrunk**2) / (2.0 * length * lengths)
    error = math.sqrt((w.var() + direct.var()) / count)
    assert abs(w.mean() - direct.mean()) < 4.5 * error


def test_relu_of_a_cosine_keeps_its_digits() -> None:
    for far in (1e-12, 1e-5, 4.4e-4, 4.6e-4, 0.3, 1.0, 1.9):
        with mpmath.workdps(50):
            c = 1 - mpmath.mpf(far)
            theta = mpmath.acos(c)
            exact = float(1 - (mpmath.sin(theta) + c * (mpmath.pi - theta)) / mpmath.pi)
        assert_allclose(relu_gap(np.array([far])), exact, rtol=1e-11)


def test_sums_of_norms_are_known_beside_a_population() -> None:
    """x + BN(W relu(x)): q = a^2 q + b^2 and the mean over samples a^2 of what it was."""
    network = residual(th.batch_norm(), "branch_end_norm", depth=6, maps=1, skip=0.9, branch=1.2)
    exact = th.predict(network, INPUTS, backward=False)
    assert set(exact.route["gap"]) == {"closed form"}
    q, mean = 1.0, 2.5
    for layer in range(6):
        q, mean = 0.81 * q + 1.44, 0.81 * mean
        assert exact.second_moment[layer] == pytest.approx(q, rel=1e-12)
        assert exact.similarity[layer] == pytest.approx((mean / q - 1.0) / 3.0, rel=1e-10)
    group = residual(th.group_norm(8, ddof=1), "sandwich", depth=4)
    grown = th.predict(group, INPUTS, backward=False)
    assert_allclose(grown.second_moment, 1.0 + 7.0 / 8.0 * np.arange(1, 5), rtol=1e-12)


@pytest.mark.parametrize("activation", [th.relu, th.leaky_relu(0.3)], ids=["relu", "leaky"])
def test_gradients_of_group_norm_at_the_branch_end(activation: th.Activation) -> None:
    """Symmetry makes them those of a Gaussian stream: against a population, which it is not."""
    layer = th.Layer(norm=th.group_norm(5), activation=activation)
    network = th.Residual(
        layer, depth=8, order="branch_end_norm", maps=1, skip=0.9, branch=1.2, stem=th.gaussian()
    )
    exact, found = th.predict(network, INPUTS), population(network, INPUTS, seed=2)
    assert set(exact.route["gradient_norm"]) == {"closed form"}
    assert found.gradient is not None
    assert found.branch_gradient is not None
    for name, ours in (
        ("log_gradient_norm", found.gradient),
        ("log_branch_gradient_norm", found.branch_gradient),
    ):
        far = np.abs(0.5 * ours.log_second_moment - getattr(exact, name))
        assert np.all(far < 5.0 * 0.5 * ours.second_moment_error + 1e-10)
    assert_allclose(found.stream.log_second_moment[0], exact.log_second_moment[0], atol=0.02)


def test_the_variance_of_a_walk_joins_both_routes() -> None:
    """Var = q (1 - s) (B - 1)/B, q from the walk and s from pairs."""
    found = th.predict(residual(th.layer_norm(), "post_activation", depth=6), INPUTS)
    assert_allclose(found.variance, 0.75 * found.second_moment * found.gap, rtol=1e-12)
    assert set(found.route["variance"]) == {"sampled pairs"}


def test_predictions_are_deterministic_and_say_how_they_were_made() -> None:
    network = residual(th.batch_norm(), "post_activation", depth=3)
    one, two = th.predict(network, INPUTS), th.predict(network, INPUTS)
    assert_allclose(one.gap, two.gap, rtol=0.0)
    assert_allclose(one.log_gradient_norm, two.log_gradient_norm, rtol=0.0)  # type: ignore[arg-type]
    assert one.provenance["seed"] == str(SEED)
    assert int(one.provenance["populations"]) >= 8
    assert int(one.provenance["channels"]) > 0


def test_they_are_kept_tabulated_and_drawn(tmp_path: Path) -> None:
    network = residual(th.layer_norm(), "post_activation", depth=3)
    found = th.predict(network, INPUTS)
    found.save(tmp_path / "walk.json")
    again = th.Prediction.load(tmp_path / "walk.json")
    assert again.route == found.route
    assert again.provenance["seed"] == found.provenance["seed"]
    for name in (*th.OBSERVABLES, "branch_gradient_norm", "covariance"):
        assert_allclose(getattr(again, name), getattr(found, name), rtol=0.0)
        if name in found.error:
            assert_allclose(again.error[name], found.error[name], rtol=0.0)
    table = found.to_frame().set_index(["observable", "layer"])
    assert table.loc[("gradient_norm", 1), "route"] == "walk density"
    assert table.loc[("similarity", 1), "route"] == "sampled pairs"
    assert "walk" not in found.to_latex()
    assert found.plot(observable="gradient_norm") is not None
    matrix = found.covariance[-1]
    assert_allclose(np.diag(matrix), found.second_moment[-1], rtol=1e-12)
    assert_allclose(matrix[0, 1], found.second_moment[-1] * found.similarity[-1], rtol=1e-12)


def test_they_compare_with_simulations() -> None:
    network = residual(th.layer_norm(), "post_activation", depth=2)
    simulated = mc.simulate(network, INPUTS, width=512, replicates=4, seed=0)
    comparison = mc.compare(th.predict(network, INPUTS), simulated)
    assert {e.observable for e in comparison.entries} >= {"similarity", "gradient_norm"}
    assert not comparison.rejected(level=1e-3)


def test_streams_beyond_floating_point_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """relu(x + W x) with large weights grows by 1e6: 60 blocks leave 1e308."""
    monkeypatch.setattr(result, "_ACTIVATIONS", 256)
    network = residual(None, "post_activation", depth=60, weights=th.gaussian(weight_variance=2e6))
    found = th.predict(network, th.exchangeable(batch=2, correlation=0.5), backward=False)
    steps = np.diff(found.log_second_moment)
    assert found.log_second_moment[-1] > 715.0
    assert_allclose(steps[10:], steps[-1], atol=0.05)
    assert found.states[-1].exponent > 490


def test_two_samples_of_batch_norm_pass_gradients_over_the_skip() -> None:
    network = residual(th.batch_norm(), "branch_end_norm", depth=3, maps=1, skip=2.0)
    found = th.predict(network, th.exchangeable(batch=2, correlation=0.5))
    assert found.regime.status == "degenerate"
    assert_allclose(np.asarray(found.gradient_norm) ** 2, [16.0, 4.0, 1.0], rtol=1e-9)
    endless = th.predict(network, th.exchangeable(batch=3, correlation=0.5))
    assert endless.regime.status == "infinite"
    assert_allclose(endless.gradient_norm, [math.inf, math.inf, 1.0])


@pytest.mark.parametrize(
    ("network", "inputs", "message"),
    [
        (
            residual(th.layer_norm(), "post_activation", depth=2),
            th.from_data(np.random.default_rng(0).normal(size=(4, 9))),
            "exchangeable samples",
        ),
        (
            residual(
                dataclasses.replace(
                    th.batch_norm(), pool=th.Pool(samples=True, positions=True, channels=2)
                ),
                "post_activation",
                depth=2,
            ),
            INPUTS,
            "not Gaussian: .*does not carry BN: its pool spans samples and channels",
        ),
        (
            residual(th.batch_norm(), "post_activation", depth=2),
            th.exchangeable(batch=math.inf, correlation=0.5),
            "finite batch",
        ),
        (
            th.Residual(th.Layer(kernel=3, padding="zero"), depth=2, order="post_activation"),
            th.exchangeable(batch=2, correlation=0.5, positions=4, position_correlation=0.1),
            "over positions where a kernel is circular",
        ),
    ],
    ids=["data", "samples and channels", "infinite batch", "zero padding"],
)
def test_refusals(network: th.Residual, inputs: Any, message: str) -> None:
    with pytest.raises(th.HypothesisError, match=message):
        th.predict(network, inputs)


def test_relu_that_bends_beside_zero_does_not_reflect_there() -> None:
    """tlu(0.5) - 0.5 = relu(x - 0.5) has neither scale nor shift, and was taken for relu."""
    bent = th.tlu(0.5).affine(shift=-0.5)
    net = th.Residual(
        th.Layer(norm=th.layer_norm(), activation=bent), depth=4, order="post_activation"
    )
    pred = th.predict(net, th.exchangeable(batch=4, correlation=0.3))
    rng, draws = np.random.default_rng(0), 400_000
    x = rng.standard_normal(draws)
    for layer in range(4):
        x = np.maximum(x + rng.standard_normal(draws) - 0.5, 0.0)
        sem = (x**2).std() / math.sqrt(draws)
        far = abs(pred.second_moment[layer] - (x**2).mean())
        assert far < 5.0 * (sem + pred.error["second_moment"][layer])


def test_drawn_gradients_with_heavy_tails_have_no_finite_error() -> None:
    """VN over 6 samples: squares without a variance, so that an average has no standard error."""
    network = th.Residual(th.Layer(norm=th.variance_norm()), depth=3, order="post_activation")
    found = th.predict(network, th.exchangeable(batch=6, correlation=0.5))
    assert found.regime.status == "heavy_tail"
    error = np.asarray(found.error["gradient_norm"])
    assert np.isinf(error[:-1]).all()
    assert error[-1] == 0.0
    assert np.isfinite(found.error["second_moment"]).all()


def test_the_last_stream_is_the_reference_in_odd_dimensions() -> None:
    network = th.Residual(th.Layer(norm=th.group_norm(5)), depth=8, order="post_activation")
    found = th.predict(network, th.exchangeable(batch=2, correlation=0.5))
    assert found.gradient_norm is not None
    assert found.gradient_norm[-1] == 1.0
