"""Populations over positions against closed routes, simulated networks and finite differences.

Random comparisons: as in ``test_population``, five stated errors, with 16 populations exceeded once in
40,000; with some 150 nearly independent figures a false alarm of the file has probability below 1 %.
Seeds are fixed.  Comparisons with simulated networks state their own.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import montecarlo as mc
import theory as th
from theory.population.normact import normact, pullback
from theory.population.propagate import Start
from theory.population.result import Averages, population, propagate
from theory.program import NormAct, lower
from theory.routes.positions_spectrum import PositionSpectrum
from theory.specs.networks import Layer
from theory.specs.residual import Residual
from theory.states.population import Population, gaussian_field, modes
from theory.states.position_modes import PositionModes
from theory.states.spatial import Spatial

FAMILY_WISE = 1e-3


def inputs(positions: Any = 8, batch: float = 3, **more: Any) -> Any:
    return th.exchangeable(
        batch=batch,
        correlation=0.3,
        positions=positions,
        position_correlation=0.25,
        cross_correlation=0.1,
        **more,
    )


# The state


def pairs(x: np.ndarray[Any, Any]) -> tuple[float, float, float, float]:
    """q, w, b and x of one population (B, S, M), pair by pair."""
    batch, positions, channels = x.shape
    kinds: dict[tuple[bool, bool], list[float]] = {}
    for a in range(batch):
        for s in range(positions):
            for c in range(batch):
                for t in range(positions):
                    product = float(x[a, s] @ x[c, t]) / channels
                    kinds.setdefault((a == c, s == t), []).append(product)
    keys = (True, True), (True, False), (False, True), (False, False)
    q, w, b, both = (float(np.mean(kinds[key])) for key in keys)
    return q, w, b, both


def test_modes_are_those_of_the_averaged_second_moments() -> None:
    values = np.random.default_rng(0).standard_normal((2, 3, 4, 20)) + 0.5
    found = modes(values)
    assert isinstance(found, PositionModes)
    for k in range(2):
        q, w, b, x = pairs(values[k])
        assert found.second_moment[k] == pytest.approx(q, rel=1e-12)
        np.testing.assert_allclose(found.distances[:, k], [q - w, q - b, q - x], rtol=1e-10)
        spectrum = PositionSpectrum.from_gaps(q, 1 - w / q, 1 - b / q, 1 - x / q, positions=4)
        np.testing.assert_allclose(found.spectrum[:, k], spectrum[1:], rtol=1e-10)
        assert found.gap[k] == pytest.approx(1 - b / q, rel=1e-12)


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_fields_have_exactly_their_covariance(beside: bool, batch: int) -> None:
    rng = np.random.default_rng(1)
    stream = rng.standard_normal((2, batch, 5, 200)) + 0.7
    spectrum = PositionSpectrum(5, 0.3, 2.0, 0.1 * (batch > 1), 1e-9 * (batch > 1))
    wanted = PositionModes.of_spectrum(spectrum, np.array([1.0, 4.0]), batch=batch, mean=0.0)
    h = gaussian_field(wanted, shape=stream.shape, rng=rng, beside=stream if beside else None)
    found = modes(h)
    np.testing.assert_allclose(found[:4], wanted[:4], rtol=1e-12, atol=1e-25)
    np.testing.assert_allclose(h.mean(axis=3), 0.0, atol=1e-13)
    if beside:
        product = np.einsum("pbsm,pbsm->p", stream, h) / 200
        np.testing.assert_allclose(product, 0.0, atol=1e-12)


def test_another_number_of_positions_keeps_the_covariances() -> None:
    spectrum = PositionSpectrum.from_gaps(1.3, 0.6, 0.4, 0.8, positions=7)
    for positions in (2, 7, 30):
        other = spectrum.over(positions)
        assert other.second_moment == pytest.approx(1.3, rel=1e-14)
        np.testing.assert_allclose(other.gaps(), spectrum.gaps(), rtol=1e-13)


def test_small_gaps_keep_their_digits() -> None:
    x = th.exchangeable(batch=2, gap=1e-18, positions=3, position_gap=1e-12)
    net = Residual(Layer(norm=th.layer_norm()), depth=2, order="post_activation")
    found = population(net, x, channels=64, populations=2)
    gaps = np.array([spectrum.gaps() for spectrum in found.stream.spectra])
    assert np.all((gaps[:, 1] > 1e-19) & (gaps[:, 1] < 1e-17))
    assert np.all((gaps[:, 0] > 1e-13) & (gaps[:, 0] < 1e-11))


# Normalizers

_PLACES = th.Pool(samples=False, positions=False, channels=4)
_ROWS = th.Pool(samples=True, positions=False, channels=1)
NORMS = {
    "IN": th.instance_norm(),
    "IN, eps, ddof": th.instance_norm(eps=0.2, ddof=1),
    "FRN": th.filter_response_norm(),
    "BN": th.batch_norm(),
    "BN, eps, ddof": th.batch_norm(eps=0.3, ddof=1),
    "VN": th.variance_norm(),
    "MC": th.mean_centering(),
    "GN(2)": th.group_norm(2),
    "GN(4), eps, ddof": th.group_norm(4, eps=0.2, ddof=1),
    "S0(2)": th.evonorm_s0(2),
    "S0(4), eps, ddof": th.evonorm_s0(4, gate=-0.7, eps=0.2, ddof=1),
    "GN(4), positions apart": th.Normalizer(
        name="GN", pool=_PLACES, centered=True, denominator="std"
    ),
    "BN, positions apart": th.Normalizer(name="BN", pool=_ROWS, centered=True, denominator="std"),
}


@pytest.mark.parametrize("activation", [th.relu, th.tanh, th.leaky_relu(0.3)])
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
def test_gradients_of_normalizers_by_finite_differences(
    norm: th.Normalizer, activation: th.Activation
) -> None:
    rng = np.random.default_rng(4)
    x, g, direction = (rng.standard_normal((1, 3, 5, 8)) for _ in range(3))
    op = NormAct(norm, activation)
    _, tape = normact(op, Population(x))
    analytic = float(np.sum(pullback(op, tape, Population(g)).values * direction))
    step = 1e-6
    ends = [normact(op, Population(x + s * step * direction))[0].values for s in (1.0, -1.0)]
    numeric = float(np.sum(g * (ends[0] - ends[1]))) / (2.0 * step)
    assert analytic == pytest.approx(numeric, rel=1e-6, abs=1e-7)


def test_pools_are_what_they_say() -> None:
    """Written out for every pool: BN of the rearranged axes."""
    x = np.random.default_rng(5).standard_normal((1, 3, 5, 8))
    grouped = x.reshape(1, 3, 5, 4, 2)
    for norm, values, axes in (
        (th.instance_norm(), x, (2,)),
        (th.batch_norm(), x, (1, 2)),
        (th.group_norm(2), grouped, (2, 4)),
        (th.layer_norm(), x, (1, 2, 3)),
        (NORMS["BN, positions apart"], x, (1,)),
    ):
        d = values - values.mean(axis=axes, keepdims=True)
        wanted = d / np.sqrt((d * d).mean(axis=axes, keepdims=True))
        found, _ = normact(NormAct(norm, th.identity), Population(x))
        np.testing.assert_allclose(found.values, wanted.reshape(x.shape), rtol=1e-12, atol=1e-14)


# One position


@pytest.mark.parametrize("norm", [th.batch_norm(), th.group_norm(4), th.layer_norm(eps=0.1)])
@pytest.mark.parametrize("order", ["post_activation", "sandwich"])
def test_one_position_is_none(norm: th.Normalizer, order: Any) -> None:
    """The same draws, brought to the same modes: equal to roundings."""
    net = Residual(Layer(norm=norm), depth=4, order=order)
    operations, sizes = lower(net), {"channels": 256, "populations": 4, "seed": 3}
    q, gap, mean = 1.3, 0.6, 0.2
    without = propagate(operations, Start(4, q, gap, mean), **sizes)
    spectrum = PositionSpectrum(1, 0.0, q, 0.0, q * gap)
    along = propagate(operations, Start(4, q, gap, mean, spectrum), **sizes)
    for name in ("stream", "preactivation", "gradient", "branch_gradient"):
        ours, theirs = getattr(along, name), getattr(without, name)
        np.testing.assert_allclose(ours.log_second_moment, theirs.log_second_moment, atol=1e-9)
        np.testing.assert_allclose(ours.gap, theirs.gap, rtol=1e-8)
        np.testing.assert_allclose(ours.mean, theirs.mean, atol=1e-9)
    assert along.stream.gap_error == pytest.approx(without.stream.gap_error, rel=1e-5)


def test_two_positions_stand_for_any_number_where_none_are_coupled() -> None:
    x = inputs(9, batch=4)
    net = Residual(Layer(norm=th.rms_norm(), activation=th.tanh), depth=4, order="post_activation")
    pred = th.predict(net, x)
    spectrum = PositionSpectrum(9, *x.eigenvalues)
    every = propagate(lower(net), Start(4, spectrum=spectrum), channels=512, seed=9)
    states = every.stream.spatial(x)
    for k, (ours, theirs) in enumerate(zip(pred.states, states, strict=True)):
        assert ours.spectrum.positions == 9
        error = math.hypot(ours.gap_error, theirs.gap_error)
        gaps = np.array(ours.spectrum.gaps()) / theirs.spectrum.gaps() - 1.0
        assert np.all(np.abs(gaps) < 5.0 * error), (k, gaps, error)
    assert pred.log_gradient_norm is not None
    assert every.gradient is not None
    far = np.abs(2.0 * pred.log_gradient_norm - every.gradient.log_second_moment)
    assert np.all(far < 5.0 * (pred.gradient_error + every.gradient.second_moment_error) + 1e-12)


# Against closed routes


def deviations(found: Averages, x: Any, exact: list[Spatial], log_q: np.ndarray[Any, Any]) -> float:
    """Largest deviation in stated errors (and a rounding) of second moment and all gaps."""
    worst = np.abs(found.log_second_moment - log_q) / (found.second_moment_error + 1e-11)
    gaps = np.array([state.spectrum.gaps() for state in found.spatial(x)])
    wanted = np.array([state.spectrum.gaps() for state in exact])
    far = np.abs(gaps / wanted - 1.0) / (found.gap_error[:, None] + 1e-11)
    return float(max(worst.max(), far.max()))


@pytest.mark.parametrize("positions", [4, 16])
@pytest.mark.parametrize(
    ("norm", "order"),
    [
        (th.instance_norm(), "pre_activation"),
        (th.batch_norm(), "pre_activation"),
        (th.group_norm(2), "pre_activation"),
        (th.filter_response_norm(), "activation_before_addition"),
        (th.rms_norm(), "activation_before_addition"),
    ],
    ids=["IN", "BN", "GN(2)", "FRN", "RMSNorm"],
)
def test_gaussian_streams(norm: th.Normalizer, order: Any, positions: int) -> None:
    """Forward and backward; gradients of IN over four positions have no variance: see the regime."""
    net = Residual(Layer(norm=norm, kernel=3), depth=5, order=order)
    x = inputs(positions, second_moment=1.3)
    exact = th.predict(net, x)
    found = population(net, x, channels=1024 if positions == 4 else 384)
    assert deviations(found.stream, x, list(exact.states), exact.log_second_moment) < 5.0
    assert found.preactivation is not None
    far = np.abs(found.preactivation.gap / exact.preactivation_gap - 1.0)
    assert np.all(far < 5.0 * found.preactivation.gap_error + 1e-11)
    assert exact.log_gradient_norm is not None
    assert exact.log_branch_gradient_norm is not None
    for part, log in (
        (found.gradient, exact.log_gradient_norm),
        (found.branch_gradient, exact.log_branch_gradient_norm),
    ):
        assert part is not None
        assert found.gradient is not None
        apart = np.abs(part.log_second_moment - found.gradient.log_second_moment[-1] - 2.0 * log)
        assert np.all(apart < 5.0 * part.second_moment_error + 1e-11)
    if exact.regime.status == "regular":
        assert float(found.gradient.second_moment_error.max()) < 0.05


@pytest.mark.parametrize(
    ("norm", "order"),
    [
        (th.instance_norm(), "post_activation"),
        (th.instance_norm(), "sandwich"),
        (th.instance_norm(), "branch_end_norm"),
        (th.instance_norm(), "post_norm"),
        (th.layer_norm(), "post_activation"),
        (th.group_norm(2), "sandwich"),
        (None, "post_activation"),
    ],
    ids=["IN v1", "IN sandwich", "IN branch end", "IN post-norm", "LN v1", "GN(2) sandwich", "v1"],
)
def test_what_is_known_agrees_with_populations(norm: th.Normalizer | None, order: Any) -> None:
    """``predict`` knows of one sample what a batch of its positions knows; populations count."""
    maps = 1 if order == "branch_end_norm" else None
    net = Residual(Layer(norm=norm), depth=5, order=order, maps=maps)
    x = inputs(9, feature_mean=0.1 if order == "post_activation" else 0.0)
    pred = th.predict(net, x)
    found = population(net, x, channels=768, seed=21)
    assert "population" in pred.route["similarity"]
    apart = np.abs(pred.log_second_moment - found.stream.log_second_moment)
    error = pred.error["log_second_moment"] + found.stream.second_moment_error
    assert np.all(apart < 5.0 * error + 1e-11)
    gaps = np.array([state.spectrum.gaps() for state in pred.states])
    wanted = np.array([state.spectrum.gaps() for state in found.stream.spatial(x)])
    error = np.array([state.gap_error for state in pred.states]) + found.stream.gap_error
    assert np.all(np.abs(gaps / wanted - 1.0) < 5.0 * error[:, None] + 1e-11)
    assert pred.log_gradient_norm is not None
    assert pred.log_branch_gradient_norm is not None
    assert found.gradient is not None
    last = found.gradient.log_second_moment[-1]
    for part, name in ((found.gradient, "gradient"), (found.branch_gradient, "branch_gradient")):
        assert part is not None
        log = 2.0 * getattr(pred, f"log_{name}_norm")
        error = 2.0 * pred.error[f"log_{name}_norm"] + part.second_moment_error
        assert np.all(np.abs(part.log_second_moment - last - log) < 5.0 * error + 1e-11)


# Against simulated networks

SIMULATED = [
    ("post_activation", th.instance_norm()),
    ("post_activation", th.filter_response_norm()),
    ("post_activation", th.batch_norm()),
    ("post_activation", th.group_norm(2)),
    ("sandwich", th.instance_norm()),
    ("sandwich", th.group_norm(2)),
    ("post_norm", th.instance_norm()),
    ("post_norm", th.group_norm(2)),
    ("post_activation", th.evonorm_s0(2)),
    ("sandwich", th.evonorm_s0()),
]


@pytest.mark.parametrize(
    ("order", "norm"),
    [
        pytest.param(*case, marks=() if k in (0, 5) else pytest.mark.slow)
        for k, case in enumerate(SIMULATED)
    ],
    ids=[f"{order} {norm.name}" for order, norm in SIMULATED],
)
def test_simulated_networks(order: Any, norm: th.Normalizer) -> None:
    """All observables at four blocks; Bonferroni over 10 x 32 tests, false alarms 0.1 % in all."""
    net, x = Residual(Layer(norm=norm), depth=4, order=order), inputs(8)
    pred = th.predict(net, x)
    assert pred.forward_route == "population"
    found = mc.simulate(net, x, width=2048, replicates=24, seed=11, workers=1)
    entries = mc.compare(pred, found).entries
    assert len(entries) == 32
    for entry in entries:
        assert math.isnan(entry.p) or entry.p > FAMILY_WISE / (32 * len(SIMULATED)), entry


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("order", ["post_activation", "sandwich", "deep_norm"])
@pytest.mark.parametrize("norm", [th.instance_norm(), th.variance_norm(eps=0.01)])
def test_convolutions_with_explicit_weights(order: Any, norm: th.Normalizer) -> None:
    """Kernels of 3 on a torus, feature means, other weights; false alarms 0.1 % of 6 x 40 tests."""
    layer = Layer(norm=norm, kernel=3, weights=th.scaled_weight_standardization())
    net, x = Residual(layer, depth=5, order=order), inputs((3, 4), feature_mean=0.2)
    found = mc.simulate(
        net, x, width=1024, replicates=24, seed=12, workers=1, method="direct", dtype="float32"
    )
    for entry in mc.compare(th.predict(net, x), found).entries:
        assert math.isnan(entry.p) or entry.p > FAMILY_WISE / 240, entry


# Predictions


def test_errors_are_honest() -> None:
    """Spread of 8 seeds against the stated error: chi-square with 7 degrees exceeds 36 once in 10^5."""
    x = inputs(4)
    net = Residual(Layer(norm=th.group_norm(2)), depth=4, order="post_activation")
    found = [population(net, x, channels=256, seed=seed) for seed in range(8)]
    for part in ("stream", "preactivation", "gradient", "branch_gradient"):
        read = [getattr(one, part) for one in found]
        figures = [(np.array([one.log_second_moment for one in read]), "second_moment_error")]
        if "gradient" not in part:
            figures.append((np.log(np.array([one.gap for one in read])), "gap_error"))
        for values, name in figures:
            stated = np.mean([getattr(one, name) ** 2 for one in read], axis=0)
            spread = values.var(axis=0, ddof=1)
            assert np.all(7.0 * spread < 36.0 * stated + 1e-25), (part, name)


def test_everything_downstream_works(tmp_path: Path) -> None:
    net = Residual(Layer(norm=th.instance_norm(), kernel=2), depth=3, order="post_activation")
    x = inputs((2, 3), batch=4)
    pred = th.predict(net, x)
    q, gap_b = pred.second_moment, pred.gap
    assert pred.position_similarity is not None
    for k, matrix in enumerate(pred.covariance):
        assert matrix.shape == (24, 24)
        assert np.trace(matrix) / 24 == pytest.approx(q[k], rel=1e-12)
        variance = np.trace(matrix) / 24 - matrix.mean()
        assert pred.variance[k] == pytest.approx(variance, rel=1e-9)
        assert matrix[0, 6] == pytest.approx(q[k] * (1.0 - gap_b[k]), rel=1e-9)
        assert matrix[0, 1] == pytest.approx(q[k] * pred.position_similarity[k], rel=1e-9)
    np.testing.assert_allclose(pred.stable_rank, 4 / (1 + 3 * (1 - gap_b)), rtol=1e-12)
    assert set(pred.to_frame()["route"]) == {"population", "walk density"}
    pred.save(tmp_path / "p.json")
    again = th.Prediction.load(tmp_path / "p.json")
    np.testing.assert_array_equal(again.gap, pred.gap)
    np.testing.assert_array_equal(again.position_similarity, pred.position_similarity)
    forward = th.predict(net, x, backward=False)
    assert forward.log_gradient_norm is None
    assert forward.gap == pytest.approx(gap_b, rel=0.02)


@pytest.mark.parametrize(
    ("norm", "batch"),
    [(th.instance_norm(), math.inf), (th.instance_norm(), 1), (th.batch_norm(), 1), (None, 1)],
)
def test_extreme_batches(norm: th.Normalizer | None, batch: float) -> None:
    net = Residual(Layer(norm=norm), depth=2, order="post_activation", skip=0.5)
    x = th.exchangeable(
        batch=batch,
        correlation=None if batch == 1 else 0.3,
        positions=6,
        position_correlation=0.2,
    )
    pred = th.predict(net, x)
    assert np.isfinite(pred.log_variance).all()
    assert pred.log_gradient_norm is not None
    assert np.isfinite(pred.log_gradient_norm).all()


def test_moments_that_do_not_exist() -> None:
    net = Residual(Layer(norm=th.instance_norm()), depth=3, order="post_activation")
    endless = th.predict(net, inputs(3))
    assert endless.regime.status == "infinite"
    np.testing.assert_array_equal(endless.gradient_norm, [math.inf, math.inf, 1.0])
    still = th.predict(net, inputs(2))
    assert still.regime.status == "degenerate"
    assert still.log_branch_gradient_norm is not None
    assert np.all(still.log_branch_gradient_norm == -math.inf)


LAYER = Layer(norm=th.instance_norm(), kernel=3)


@pytest.mark.parametrize(
    ("layer", "x", "message"),
    [
        (dataclasses.replace(LAYER, padding="zero"), inputs(4), "circular"),
        (LAYER, th.from_covariance(np.eye(8) + 0.5, positions=4), "exchangeable"),
        (Layer(norm=th.evonorm_b0()), inputs(4), "does not carry EvoNorm-B0 over positions"),
        (Layer(norm=th.batch_norm()), inputs(4, batch=math.inf), "finite batch"),
        (Layer(norm=th.instance_norm()), inputs(4096), "use fewer positions"),
    ],
    ids=["zero padding", "covariance", "gate", "infinite batch", "too many"],
)
def test_refusals(layer: th.Layer, x: Any, message: str) -> None:
    with pytest.raises(th.HypothesisError, match=message):
        th.predict(Residual(layer, depth=2, order="post_activation"), x)
