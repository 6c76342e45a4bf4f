"""Covariances by lag: the full covariance, the exchangeable state, shifts by hand."""

from __future__ import annotations

import dataclasses
import math
from time import process_time

import numpy as np
import pytest

import theory as th
from theory import recursion
from theory.errors import SpecificationError
from theory.folds import fold, follow_gradient, schedule
from theory.specs.shifts import is_stationary, shift_average, spread
from theory.states.grid import Grid

NORMS = {
    "plain": None,
    "LN": th.layer_norm(),
    "RMSNorm": th.rms_norm(),
    "BN": th.batch_norm(),
    "VN": th.variance_norm(),
    "MC": th.mean_centering(),
    "IN": th.instance_norm(),
    "GN(2)": th.group_norm(2),
    "GN(4)": th.group_norm(4),
    "FRN": th.filter_response_norm(),
}
LAYERS = {name: th.Layer(norm=norm, kernel=3) for name, norm in NORMS.items()}
LAYERS |= {name: dataclasses.replace(th.zoo[name], kernel=3) for name in ("WN", "SWS", "WC")}
OBSERVED = ("log_second_moment", "log_variance", "similarity", "stable_rank", "log_gradient_norm")


def images_of(shape, *, batch=2, channels=2, seed=0):
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((1, channels, *shape))
    return rng.standard_normal((batch, channels, *shape)) + 0.7 * common + 0.3


def whole(inputs):
    """The state of x^0 that does not know about shifts."""
    return dataclasses.replace(Grid.of_inputs(inputs), stationary=False)


def assert_equal(one, other):
    for name in OBSERVED:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(5,), (6,), (2, 3), (3, 4)])
def test_lags_are_those_of_shifted_arrays(shape):
    x = images_of(shape)
    places = list(np.ndindex(*shape))
    axes = tuple(range(2, x.ndim))
    x = np.concatenate([x, x[:1] ** 2])
    lags = np.empty((3, 3, *shape))
    for place in places:
        moved = np.roll(x, [-p for p in place], axis=axes)
        lags[(..., *place)] = np.einsum("acs,bcs->ab", x.reshape(3, 2, -1), moved.reshape(3, 2, -1))
    lags /= x[0].size
    measured, given = th.stationary_from_data(x), th.stationary(lags)
    np.testing.assert_allclose(measured.covariance, given.covariance, atol=1e-14)
    size = math.prod(shape)
    for a, b in np.ndindex(3, 3):
        for i, p in enumerate(places):
            for j, r in enumerate(places):
                lag = tuple((s - t) % side for s, t, side in zip(r, p, shape, strict=True))
                entry = given.covariance[a * size + i, b * size + j]
                assert entry == pytest.approx(lags[(a, b, *lag)], rel=1e-12)
    assert given.positions == size
    assert Grid.of_inputs(measured).stationary


def test_averages_over_shifts_are_projections():
    shape = (2, 3)
    matrix = np.random.default_rng(1).standard_normal((12, 12))
    matrix += matrix.T
    rows = shift_average(matrix, shape)
    np.testing.assert_allclose(shift_average(spread(rows, shape), shape), rows, atol=1e-15)
    assert np.trace(spread(rows, shape)) == pytest.approx(np.trace(matrix), rel=1e-12)
    moved = np.zeros_like(matrix)
    for shift in np.ndindex(*shape):
        order = np.roll(np.arange(12).reshape(2, *shape), shift, axis=(1, 2)).ravel()
        moved += matrix[np.ix_(order, order)] / 6
    np.testing.assert_allclose(spread(rows, shape), moved, atol=1e-14)
    assert not is_stationary(np.ones(12), np.abs(matrix), np.zeros(12), shape)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", [(8,), (2, 4)])
def test_equals_the_full_covariance(name, shape, monkeypatch):
    inputs = th.stationary_from_data(images_of(shape, channels=9))
    network = th.FeedForward(dataclasses.replace(LAYERS[name], kernel=2), depth=2)
    fast = th.predict(network, inputs)
    assert all(state.stationary for state in fast.states)
    monkeypatch.setattr(recursion, "initial_state", lambda inputs, *, grid: whole(inputs))
    slow = th.predict(network, inputs)
    assert not any(state.stationary for state in slow.states)
    assert_equal(fast, slow)


@pytest.mark.parametrize("name", LAYERS)
def test_equals_the_exchangeable_state(name):
    """Equal correlations of all positions are stationary too."""
    alike = th.exchangeable(
        batch=3,
        correlation=0.4,
        positions=8,
        position_correlation=0.3,
        cross_correlation=0.2,
        feature_mean=0.1,
    )
    beside = np.r_[1.0, np.full(7, 0.3)]
    across = np.r_[0.4, np.full(7, 0.2)]
    lags = np.where(np.eye(3)[:, :, None] == 1.0, beside, across)
    by_lag = th.stationary(lags, feature_mean=0.1)
    network = th.FeedForward(LAYERS[name], depth=2)
    one, other = th.predict(network, by_lag), th.predict(network, alike)
    assert type(other.states[0]).__name__ == "Spatial"
    assert all(state.stationary for state in one.states)
    assert_equal(one, other)


PARTS = {
    "stride": (th.Layer(kernel=3, stride=2), True),
    "odd stride": (th.Layer(kernel=2, stride=3), False),
    "zero padding": (th.Layer(kernel=3, padding="zero"), False),
    "pooling": (th.AveragePool(2), True),
    "uneven pooling": (th.AveragePool(3), False),
}


@pytest.mark.parametrize("name", PARTS)
def test_what_keeps_lags_and_what_falls_back(name, monkeypatch):
    """Shifts survive a circular convolution whose stride divides the sides; then gradients still agree."""
    part, kept = PARTS[name]
    inputs = th.stationary_from_data(images_of((8,), channels=9))
    network = th.Sequential(
        (
            th.Layer(norm=th.batch_norm(), kernel=3),
            part,
            th.Layer(norm=th.batch_norm(), kernel=2),
            th.GlobalAveragePool(),
            th.Layer(),
        )
    )
    fast = th.predict(network, inputs)
    assert fast.states[0].stationary
    assert fast.states[-2].stationary == kept
    monkeypatch.setattr(recursion, "initial_state", lambda inputs, *, grid: whole(inputs))
    assert_equal(fast, th.predict(network, inputs))


@pytest.mark.parametrize("norm", [th.evonorm_b0(), th.evonorm_s0(2)])
def test_sampled_positions_stay_alike(norm, monkeypatch):
    inputs = th.stationary_from_data(images_of((4,), channels=9))
    network = th.FeedForward(th.Layer(norm=norm, activation=th.identity, kernel=3), depth=2)
    fast = th.predict(network, inputs)
    assert set(fast.route["similarity"]) == {"RQMC"}
    q, gap = fast.states[-1].second_moment, fast.states[-1].gap
    assert is_stationary(q, gap, fast.states[-1].mean, (4,))
    monkeypatch.setattr(recursion, "initial_state", lambda inputs, *, grid: whole(inputs))
    slow = th.predict(network, inputs)
    for name in ("second_moment", "similarity", "gradient_norm"):
        a, b = getattr(fast, name), getattr(slow, name)
        # Stated errors are standard errors over 8 scrambles of the same points.
        bound = 6.0 * (fast.error[name] + slow.error[name]) * np.abs(b) + 1e-12
        assert (np.abs(a - b) <= bound).all()


def test_simulated_at_once():
    """A ring of 6, BN: 64 networks of width 64; a false alarm (|z| > 5) once in 10^5 runs."""
    import montecarlo as mc

    inputs = th.stationary_from_data(images_of((6,), channels=9))
    network = th.FeedForward(th.Layer(norm=th.batch_norm(), kernel=3), depth=1)
    found = mc.simulate(network, inputs, width=64, replicates=64, seed=3, workers=1)
    z = (found.similarity.mean - th.predict(network, inputs).similarity) / found.similarity.sem
    assert abs(z[0]) < 5.0


def test_costs_less_than_all_pairs():
    inputs = th.stationary_from_data(images_of((8, 4), batch=4, channels=9))
    network = th.FeedForward(th.Layer(norm=th.batch_norm(), kernel=3), depth=2)
    states = recursion.initial_state(inputs, grid=True), whole(inputs)
    seconds = []
    for state in states:
        begin = process_time()
        program = schedule(network)
        followed, _ = fold(program.ops, state)
        follow_gradient(program, followed, th.regime(network, inputs))
        seconds.append(process_time() - begin)
    assert seconds[0] < 0.5 * seconds[1]


def test_refusals_name_what_is_wrong():
    with pytest.raises(SpecificationError, match=r"covariance = \(3, 3\).*\(B, B, S\)"):
        th.stationary(np.eye(3))
    with pytest.raises(SpecificationError, match="symmetric"):
        th.stationary(np.array([[[1.0, 0.5, 0.2]]]))
    with pytest.raises(SpecificationError, match="positive semidefinite"):
        th.stationary(np.array([[[1.0, 0.9, -0.9, 0.9]]]))
    with pytest.raises(SpecificationError, match=r"feature_mean = \(2,\)"):
        th.stationary(np.array([[[1.0, 0.5, 0.5]]]), feature_mean=[0.0, 0.0])
    with pytest.raises(SpecificationError, match="features"):
        th.stationary_from_data(np.ones((2, 3)))
