"""Covariances over (sample, position): dense algebra by hand, exchangeable states, finite differences."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

import montecarlo as mc
import theory as th
from theory.errors import HypothesisError, SpecificationError
from theory.program import NormAct
from theory.routes import arccosine, grid, laplace, laplace_backward, laplace_fields
from theory.routes.fields import Field, field_forward, field_pullback
from theory.routes.grid import select_grid
from theory.routes.rqmc import Sampling
from theory.states.full import Full
from theory.states.grid import Grid
from theory.windows import averaged, pooled, pooled_back, pooling, scattered, windows

BATCH = 2


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def rows_of(points):
    """q, gap and mean of the columns of ``points`` (features, rows)."""
    q = (points**2).mean(axis=0)
    unit = points / np.linalg.norm(points, axis=0)
    gap = 0.5 * ((unit[:, :, None] - unit[:, None, :]) ** 2).sum(axis=0)
    return q, gap, points.mean(axis=0)


def covariance(q, gap):
    root = np.sqrt(q)
    return np.outer(root, root) * (1.0 - gap)


def patches(x, shape, kernel, padding, stride):
    """Windows by loops: (features * offsets, batch * outputs)."""
    margin = (kernel - 1) // 2
    sides = [range(0, side, stride) for side in shape]
    places = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, len(shape))
    steps = np.stack(np.meshgrid(*[range(kernel)] * len(shape), indexing="ij"), -1)
    field = x.reshape(len(x), -1, *shape)
    columns = []
    for b in range(field.shape[1]):
        for place in places:
            window = []
            for step in steps.reshape(-1, len(shape)):
                at = place + step - margin
                if padding == "circular":
                    at = at % shape
                inside = all(0 <= a < side for a, side in zip(at, shape, strict=True))
                window.append(field[(slice(None), b, *at)] if inside else np.zeros(len(x)))
            columns.append(np.concatenate(window))
    return np.array(columns).T


CASES = [
    ((5,), 3, "zero", 1),
    ((6,), 3, "circular", 2),
    ((4, 3), 3, "zero", 2),
    ((4, 3), 2, "zero", 1),
    ((3, 4), 3, "circular", 1),
    ((2, 2), 5, "zero", 1),
]


@pytest.mark.parametrize(("shape", "kernel", "padding", "stride"), CASES)
def test_averages_over_offsets_are_those_of_patches(shape, kernel, padding, stride):
    x = draw(1, 7, BATCH * math.prod(shape)) + 0.4
    table = windows(shape, kernel=kernel, padding=padding, stride=stride)
    q, gap, mean, _ = averaged(*rows_of(x), table, batch=BATCH)
    seen = patches(x, shape, kernel, padding, stride)
    np.testing.assert_allclose(covariance(q, gap), seen.T @ seen / len(seen), atol=1e-14)
    np.testing.assert_allclose(mean, seen.mean(axis=0), atol=1e-15)


@pytest.mark.parametrize(("shape", "kernel", "padding", "stride"), CASES)
def test_the_way_back_is_the_adjoint(shape, kernel, padding, stride):
    """<Pi, A[K]> = <A*[Pi], K> for symmetric Pi and K."""
    rows = BATCH * math.prod(shape)
    table = windows(shape, kernel=kernel, padding=padding, stride=stride)
    x = draw(2, 9, rows)
    q, gap, mean = rows_of(x)
    new_q, new_gap, *_ = averaged(q, gap, mean, table, batch=BATCH)
    pi = draw(3, len(new_q), len(new_q))
    pi = pi + pi.T
    back = scattered(pi, table, batch=BATCH, positions=math.prod(shape))
    forward = float((pi * covariance(new_q, new_gap)).sum())
    assert float((back * covariance(q, gap)).sum()) == pytest.approx(forward, rel=1e-12)


def test_gaps_keep_their_digits_through_a_convolution():
    """Two samples that differ by 1e-12 of a field: gaps of 1e-24 to 12 digits, in extended precision."""
    shape, table = (4,), windows((4,), kernel=3, padding="zero", stride=1)
    first, drift = draw(4, 6, 4), draw(5, 6, 4)
    q = np.tile((first**2).mean(axis=0), 2)
    unit = np.asarray(first / np.linalg.norm(first, axis=0), dtype=np.longdouble)
    moved = unit + np.longdouble(1e-12) * drift
    moved /= np.sqrt((moved**2).sum(axis=0))
    both = np.concatenate([unit, moved], axis=1)
    gap = 0.5 * ((both[:, :, None] - both[:, None, :]) ** 2).sum(axis=0)
    _, new_gap, *_ = averaged(q, gap.astype(float), np.zeros(8), table, batch=2)
    x = both * np.sqrt(np.asarray(q, dtype=np.longdouble) * 6)
    seen = patches(x, shape, 3, "zero", 1)
    seen = seen / np.sqrt((seen**2).sum(axis=0))
    expected = 0.5 * ((seen[:, :, None] - seen[:, None, :]) ** 2).sum(axis=0).astype(float)
    pairs = [(t, 4 + t) for t in range(4)]
    for pair in pairs:
        assert new_gap[pair] == pytest.approx(expected[pair], rel=1e-6)


@pytest.mark.parametrize(("shape", "size"), [((6,), 2), ((4, 5), 2), ((3, 3), None)])
def test_pooling_mixes_positions(shape, size):
    x = draw(6, 8, BATCH * math.prod(shape)) + 0.2
    matrix = pooling(shape, size)
    q, gap, mean, _ = pooled(*rows_of(x), matrix, batch=BATCH)
    mixed = x @ np.kron(np.eye(BATCH), matrix).T
    np.testing.assert_allclose(covariance(q, gap), mixed.T @ mixed / 8, atol=1e-14)
    np.testing.assert_allclose(mean, mixed.mean(axis=0), atol=1e-15)
    pi = np.eye(len(q))
    every = np.kron(np.eye(BATCH), matrix)
    np.testing.assert_allclose(pooled_back(pi, matrix, batch=BATCH), every.T @ every, atol=1e-15)


LAYERS = {
    **{name: layer for name, layer in th.zoo.items() if not name.startswith("EvoNorm")},
    "GN(3) eps ddof": th.Layer(norm=th.group_norm(3, eps=0.1, ddof=1)),
    "FRN eps abs": th.Layer(norm=th.filter_response_norm(eps=0.2), activation=th.abs),
}


@pytest.mark.parametrize("shape", [(8,), (3, 4)], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_positions_that_are_alike(name, shape):
    """Full covariance over (sample, position) against the exchangeable state, to 1e-9 (met: 1e-14)."""
    inputs = th.exchangeable(
        batch=3,
        correlation=0.3,
        positions=shape,
        position_correlation=0.5,
        cross_correlation=0.2,
        feature_mean=0.1,
    )
    network = th.FeedForward(dataclasses.replace(LAYERS[name], kernel=3), depth=3)
    alike = th.predict(network, inputs)
    one = th.FeedForward(
        th.Layer(weights=th.gaussian(weight_variance=1.0), activation=th.identity), depth=1
    )
    matrix = th.predict(one, inputs).covariance[0]
    full = th.predict(network, th.from_covariance(matrix, feature_mean=0.1, positions=shape))
    for observable in (*th.OBSERVABLES, "position_similarity"):
        expected, found = getattr(alike, observable), getattr(full, observable)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12, err_msg=observable)


@pytest.mark.parametrize("name", ["IN", "GN(4)", "FRN"])
def test_sampled_pools_where_positions_are_alike(name, monkeypatch):
    """Every observable within 5 stated errors of the Laplace integrals: false alarm < 1e-4 in all."""
    layer = th.Layer(norm=th.group_norm(4)) if name == "GN(4)" else th.zoo[name]
    network = th.FeedForward(dataclasses.replace(layer, kernel=3), depth=2)
    matrix = 0.5 * np.eye(24) + 0.3 * np.kron(np.eye(3), np.ones((8, 8))) + 0.2
    inputs = th.exchangeable(
        batch=3, correlation=0.2, positions=8, position_correlation=0.5, cross_correlation=0.2
    )
    alike = th.predict(network, inputs)
    monkeypatch.setattr(grid, "grid_routes", lambda: (grid.SobolField(),))
    full = th.predict(network, th.from_covariance(matrix, positions=8))
    assert full.forward_route == full.backward_route == "RQMC"
    for observable in th.OBSERVABLES:
        error = full.error[observable] + 1e-12
        score = (getattr(full, observable) - getattr(alike, observable)) / error
        assert np.abs(score).max() < 5.0, observable


POOLS = [
    th.batch_norm(),
    th.variance_norm(eps=0.1),
    th.mean_centering(),
    th.instance_norm(ddof=1),
    th.filter_response_norm(eps=0.01),
    th.group_norm(3),
    th.evonorm_s0(2),
    th.evonorm_s0(),
    th.evonorm_b0(),
    th.evonorm_b0(gate=-0.7, eps=0.05, ddof=1),
    None,
]


def by_autograd(torch, norm, h, batch, level):
    """N(h), h of shape (channels, rows)."""
    channels, rows = h.shape
    field = h.reshape(channels, batch, rows // batch)
    if norm is None:
        return h
    if norm.pool.channels == math.inf:
        return h * torch.sigmoid(norm.gate * h) / torch.sqrt(torch.tensor(level))
    axes = (1, 2) if norm.pool.samples else (0, 2)
    centered = field - field.mean(axes, keepdim=True)
    if norm.denominator == "none":
        return centered.reshape(h.shape)
    source = field if norm.denominator == "rms" else centered
    divisor = norm.divisor(batch=batch, positions=rows // batch)
    root = torch.sqrt((source**2).sum(axes, keepdim=True) / divisor + norm.eps)
    if norm.denominator == "evonorm_b0":
        own = field.var(2, keepdim=True, correction=norm.ddof)
        out = field / torch.maximum(root, norm.gate * field + torch.sqrt(own + norm.eps))
    elif norm.gate is not None:
        out = field * torch.sigmoid(norm.gate * field) / root
    else:
        out = (centered if norm.centered else field) / root
    return out.reshape(h.shape)


@pytest.mark.parametrize("norm", POOLS, ids=repr)
def test_sampled_jacobians_against_autograd(norm, monkeypatch):
    """T(Pi) of four fixed points h, against J' Pi J from PyTorch's Jacobians: no sampling error."""
    torch = pytest.importorskip("torch")
    from theory.routes import fields

    rows, batch = 6, 2
    field = Field(norm=norm, activation=th.tanh, batch=batch)
    points = draw(7, 4, field.channels, rows)
    pi = draw(8, rows, rows)
    pi = pi @ pi.T
    for gradient in (pi, pi * np.kron(np.eye(2), np.ones((3, 3)))):
        level = field.level(np.ones(rows))

        def average(statistic, q, gap, field, sampling, level=level):
            from theory.routes.field_pools import normalize_field
            from theory.routes.functions import base_function

            pool = normalize_field(points, field.norm, batch=field.batch, level=level)
            return np.array([statistic(pool, base_function(th.tanh), points)] * 8)

        monkeypatch.setattr(fields, "_average", average)
        monkeypatch.setattr(fields, "_rays", lambda *_, **__: None)
        found, _ = field_pullback(np.ones(rows), np.zeros((rows,) * 2), gradient, field)
        expected = np.zeros((rows, rows))
        for h in points:
            jacobian = torch.autograd.functional.jacobian(
                lambda value, level=level: torch.tanh(
                    by_autograd(torch, norm, value, batch, level)
                ),
                torch.tensor(h),
            ).numpy()
            for g in range(field.channels):
                for other in range(field.channels):
                    block = jacobian[other, :, g, :]
                    expected += block.T @ gradient @ block / field.channels
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "norm",
    [th.instance_norm(), th.filter_response_norm(eps=0.1), th.group_norm(2, ddof=1)],
    ids=repr,
)
def test_laplace_integrals_of_positions_that_differ(norm):
    """Second moments, means, gaps and T(Pi) against 2^17 sampled fields: five stated errors (1e-5)."""
    rows, batch = 12, 2
    q, gap, _ = rows_of(draw(12, 20, rows) * np.linspace(0.5, 2.0, rows) + 0.3)
    shared = {"norm": norm, "slopes": (1.0, 0.0), "batch": batch}
    exact_q, exact_gap, exact_mean, error = laplace_fields.forward(q, gap, **shared)
    assert error < 1e-10
    field = Field(norm=norm, activation=th.relu, batch=batch)
    sampling = Sampling(log2_points=14, scrambles=8)
    found_q, found_gap, found_mean, stated = field_forward(q, gap, field, sampling=sampling)
    # Single entries are less exact than the averages that errors are stated for.
    np.testing.assert_allclose(found_q, exact_q, rtol=2e-3)
    np.testing.assert_allclose(found_mean, exact_mean, rtol=2e-3)
    np.testing.assert_allclose(found_gap, exact_gap, atol=3e-3)
    assert abs(found_q.mean() / exact_q.mean() - 1.0) < 5.0 * stated[0] + 1e-12
    assert abs(found_gap.mean() / exact_gap.mean() - 1.0) < 5.0 * stated[1] + 1e-12
    pi = np.kron(np.eye(batch), np.ones((6, 6))) * (draw(13, rows, rows) + 4.0)
    pi = pi @ pi.T
    exact, inaccuracy = laplace_fields.pullback(q, gap, pi, **shared)
    assert inaccuracy < 1e-9
    found, _ = field_pullback(q, gap, pi, field, sampling=sampling)
    np.testing.assert_allclose(found, exact, atol=1e-2 * np.abs(exact).max())


def test_gradients_that_samples_share_are_sampled():
    """IN behind BN: the cotangent has entries across samples, which the Laplace integrals do not take."""
    first, second = (
        th.Layer(norm=norm, kernel=3, padding="zero")
        for norm in (th.instance_norm(), th.batch_norm())
    )
    pred = th.predict(th.Sequential((first, second)), th.images(draw(14, 2, 3, 4, 4)))
    assert pred.gradient_norm is not None
    assert pred.error["gradient_norm"][0] > 1e-6


def test_first_layer_of_few_channels():
    """Normalized rows of 9 weights are directions: E x^2 and E x of relu(w . x) by sampling w.

    One million directions; five standard errors of each: false alarm below 1e-5.
    """
    rng = np.random.default_rng(3)
    data = np.abs(draw(9, 2, 1, 3, 3))
    network = th.FeedForward(
        th.Layer(weights=th.scaled_weight_standardization(), kernel=3, padding="zero"), depth=2
    )
    state = Grid.of_inputs(th.images(data))
    weights = network.layer.weights
    h = state.convolved(weights, kernel=3, padding="zero", stride=1)
    w = rng.standard_normal((1_000_000, 9))
    w -= w.mean(axis=1, keepdims=True)
    w *= math.sqrt(weights.weight_variance) / np.linalg.norm(w, axis=1, keepdims=True)
    x = np.maximum(w @ patches(np.moveaxis(data, 1, 0).reshape(1, -1), (3, 3), 3, "zero", 1), 0.0)
    prediction = th.predict(network, th.images(data))
    post = prediction.states[0]
    assert isinstance(post, Grid)
    for value, sample in ((post.second_moment, x**2), (post.mean, x)):
        error = sample.std(axis=0) / 1e3
        assert (np.abs(sample.mean(axis=0) - value) < 5.0 * error + 1e-15).all()
    assert h.directions == 8


def test_zero_pixels_pass_nothing():
    """A window of zeros has h = 0, where relu's slope is 0: its share of the gradient is missing."""
    data = np.ones((2, 1, 6))
    data[0, 0, :4] = 0.0
    data[1, 0, ::2] = -1.0
    network = th.FeedForward(th.Layer(kernel=3, padding="zero"), depth=1)
    pred = th.predict(network, th.images(data))
    assert pred.states[0].second_moment[:3] == pytest.approx(0.0, abs=0.0)
    deep = th.predict(dataclasses.replace(network, depth=2), th.images(data))
    assert deep.gradient_norm is not None
    # The first layer's rows 0, 1, 2 (sample 0) see zeros only.  Pi = 1/2 A*[1] elsewhere, by hand:
    # a position within is seen by three outputs, one at the border by two, each with weight 1/3;
    # x 2 (variance) x 1/2 (relu' at layer 2, where all rows are alive but those that see dead ones).
    alive = deep.states[1].second_moment.reshape(2, 6) > 0.0
    seen = np.array([[sum(alive[b, max(p - 1, 0) : p + 2]) for p in range(6)] for b in range(2)])
    seen[0, :3] = 0
    # 2 * (1/3) * seen * 1/2, then relu' once more at layer 1: both are rows of h^1 before the slope.
    before = (seen / 3.0 * 0.5 * (deep.states[0].second_moment.reshape(2, 6) > 0)).sum()
    assert deep.gradient_norm[0] ** 2 == pytest.approx(before / (0.5 * alive.sum()), rel=1e-12)


def test_a_network_with_every_operation():
    layer = th.Layer(norm=th.layer_norm(), kernel=3, padding="zero")
    network = th.Sequential(
        (
            layer,
            th.AveragePool(2),
            dataclasses.replace(layer, stride=2, channels=2.0),
            th.Flatten(),
            th.Layer(norm=th.layer_norm()),
            th.Layer(),
        )
    )
    pred = th.predict(network, th.images(draw(1, 3, 2, 8, 8)))
    assert [state.shape for state in pred.states] == [(8, 8), (2, 2), (1,), (1,)]
    assert pred.gradient_norm is not None
    assert np.isfinite(pred.gradient_norm).all()
    pooled_last = th.Sequential((layer, th.GlobalAveragePool(), th.Layer()))
    assert th.predict(pooled_last, th.images(draw(1, 3, 2, 8, 8))).states[-1].shape == (1,)


def test_predictions_are_kept(tmp_path):
    layer = th.Layer(norm=th.batch_norm(), kernel=3, padding="zero", stride=2)
    pred = th.predict(th.FeedForward(layer, depth=2), th.images(draw(2, 3, 1, 4, 4)))
    pred.save(tmp_path / "grid.json")
    again = th.Prediction.load(tmp_path / "grid.json")
    for observable in (*th.OBSERVABLES, "position_similarity"):
        np.testing.assert_array_equal(getattr(pred, observable), getattr(again, observable))
    np.testing.assert_array_equal(pred.covariance[1], again.covariance[1])


SPECS = [
    th.Sequential((th.Layer(channels=0.5), th.Flatten(), th.Layer())),
    th.Sequential((th.Layer(), th.AveragePool(3), th.GlobalAveragePool(), th.Layer())),
    th.FeedForward(th.Layer(kernel=3, padding="zero", stride=2), depth=2),
    th.images(draw(1, 2, 3, 4)),
    th.from_covariance(np.eye(6), positions=(3,), feature_mean=np.arange(6) * 0.01),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: type(s).__name__)
def test_specifications_come_back(spec):
    assert th.from_json(th.to_json(spec)) == spec
    assert th.key(th.from_json(th.to_json(spec))) == th.key(spec)


def test_old_keys_stay():
    """Later fields at their defaults are not written: documents from before them keep their keys."""
    text = th.to_json(th.Layer(kernel=3))
    for name in ("padding", "stride", "channels", "shape"):
        assert name not in text
    assert '"shape"' not in th.to_json(th.from_covariance(np.eye(2)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: th.Layer(kernel=3, padding="same"), r"padding = 'same' .*circular, zero"),
        (lambda: th.Layer(stride=0), r"stride = 0 .*>= 1"),
        (lambda: th.Layer(channels=0.0), r"channels = 0.0 .*\(0"),
        (lambda: th.AveragePool(1), r"size = 1 .*>= 2"),
        (lambda: th.Sequential(()), r"parts = .*a Layer at the end"),
        (lambda: th.Sequential((th.Layer(), th.Flatten())), r"a Layer at the end"),
        (lambda: th.Sequential((3, th.Layer())), r"parts = 3 .*AveragePool"),
        (lambda: th.images(np.ones((2, 3))), r"features = \(2, 3\) .*\(B, channels, S\)"),
        (lambda: th.images(np.zeros((2, 1, 3))), r"sample 0 is zero"),
        (lambda: th.from_covariance(np.eye(5), positions=2), r"a multiple of 2 rows"),
    ],
)
def test_impossible_specifications(build, message):
    with pytest.raises(SpecificationError, match=message):
        build()


def test_what_does_not_fit_the_positions():
    inputs = th.images(draw(3, 2, 1, 4, 4))
    short = th.Sequential((th.Layer(), th.AveragePool(5), th.Layer()))
    with pytest.raises(SpecificationError, match=r"size = 5 .*at most 4"):
        th.predict(short, inputs)
    with pytest.raises(SpecificationError, match=r"stride = 2 .*residual"):
        th.predict(th.Residual(th.Layer(kernel=3, stride=2), depth=2), inputs)
    endless = th.exchangeable(
        batch=math.inf, correlation=0.5, positions=4, position_correlation=0.5
    )
    with pytest.raises(SpecificationError, match=r"at most 4096 altogether"):
        th.predict(th.FeedForward(th.Layer(kernel=3, padding="zero"), depth=1), endless)
    still = th.images(np.ones((2, 3, 4)))
    centered = th.FeedForward(th.Layer(weights=th.centered_weights(), kernel=3), depth=1)
    with pytest.raises(HypothesisError, match="sample 0 has the same value"):
        th.predict(centered, still)


def test_layers_that_differ_without_positions():
    """Fully connected, the covariance of samples is enough; the regime is that of the worst layer."""
    network = th.Sequential(
        (th.Layer(norm=th.layer_norm(), channels=2.0), th.Layer(norm=th.batch_norm()), th.Layer())
    )
    features = draw(4, 5, 7)
    pred = th.predict(network, th.from_data(features))
    assert type(pred.states[-1]) is Full
    one = th.predict(
        th.FeedForward(th.Layer(norm=th.layer_norm()), depth=1), th.from_data(features)
    )
    two = th.predict(
        th.FeedForward(th.Layer(norm=th.batch_norm()), depth=1),
        th.from_covariance(one.covariance[0]),
    )
    np.testing.assert_allclose(pred.covariance[1], two.covariance[0], rtol=1e-12)
    assert pred.regime.status == "heavy_tail"
    assert pred.label == "LN, BN, plain"
    flattened = th.Sequential((th.Layer(), th.Flatten(), th.Layer()))
    deep = th.predict(th.FeedForward(th.Layer(), depth=2), th.from_data(features))
    np.testing.assert_allclose(
        th.predict(flattened, th.from_data(features)).similarity, deep.similarity, rtol=1e-14
    )


def test_one_sample_over_positions():
    """BN over one image pools its positions: as IN."""
    image = th.images(draw(5, 1, 2, 4, 4))
    batch, instance = (
        th.predict(
            th.FeedForward(th.Layer(norm=norm, kernel=3, padding="zero"), depth=2),
            image,
            backward=False,
        )
        for norm in (th.batch_norm(), th.instance_norm())
    )
    np.testing.assert_allclose(batch.second_moment, instance.second_moment, rtol=2e-3)
    cosines = instance.position_similarity
    assert cosines is not None
    np.testing.assert_allclose(batch.position_similarity, cosines, atol=5e-3)


def test_fixed_points_are_of_positions_that_are_alike():
    padded = th.FeedForward(th.Layer(norm=th.batch_norm(), kernel=3, padding="zero"), depth=2)
    with pytest.raises(SpecificationError, match=r'padding, stride = .*"circular" and 1'):
        th.fixed_point(padded, batch=4, positions=16)
    circular = dataclasses.replace(padded, layer=th.Layer(norm=th.batch_norm(), kernel=3))
    with pytest.raises(
        SpecificationError, match=r"inputs = 'ImageInputs' .*exchangeable_from_data"
    ):
        th.fixed_point(circular, th.images(draw(1, 3, 1, 4, 4)))
    with pytest.raises(SpecificationError, match=r"a FeedForward network"):
        th.fixed_point(th.Sequential((th.Layer(),)), batch=4)


def test_routes_say_why_not():
    block = Grid(Full(np.ones(8), 1.0 - np.eye(8), np.zeros(8)), (4,)).block()
    wide = NormAct(th.group_norm(5000), th.relu)
    with pytest.raises(HypothesisError, match=r"dimensions of a Sobol.*change the normalizer"):
        select_grid(wide, block, "forward")
    route, name = select_grid(NormAct(th.batch_norm(), th.relu), block, "forward")
    assert (type(route).__name__, name) == ("GridRows", "quadrature")


def test_residual_streams_with_zero_padding():
    """A plain pre-activation block doubles q where nothing is lost at a border (kernel 1)."""
    inputs = th.from_covariance(np.eye(8) + 1.0, positions=4)
    pred = th.predict(th.Residual(th.Layer(), depth=3), inputs)
    np.testing.assert_allclose(pred.second_moment, 2.0 * 2.0 ** np.arange(1, 4), rtol=1e-14)
    padded = th.Residual(th.Layer(kernel=3, padding="zero"), depth=3)
    assert (th.predict(padded, inputs).second_moment < pred.second_moment).all()


@pytest.mark.slow
def test_calibration_of_sampling():
    """|z| > 3 in fewer than 2 % of 500 numbers known otherwise: 100 random BN and IN fields.

    With honest errors 0.27 % are expected; more than 10 of 500 then have probability 1e-7.
    """
    rng = np.random.default_rng(11)
    exceeded = total = 0
    for case in range(100):
        batch, positions = int(rng.integers(2, 4)), int(rng.integers(4, 7))
        rows = batch * positions
        x = rng.standard_normal((rows, rows + int(rng.integers(0, 8)))) + rng.normal()
        q, gap, _ = rows_of(x.T)
        sampling = Sampling(log2_points=10, scrambles=8, seed=case)
        field = Field(norm=th.batch_norm(), activation=th.relu, batch=batch)
        found_q, found_gap, _, error = field_forward(q, gap, field, sampling=sampling)
        exact_q, exact_gap, _, _ = laplace.forward(q, gap, norm=th.batch_norm(), slopes=(1.0, 0.0))
        trace, trace_error = field_pullback(q, gap, np.eye(rows), field, sampling=sampling)
        exact, _ = laplace_backward.pullback(
            q, gap, np.eye(rows), norm=th.batch_norm(), slopes=(1.0, 0.0)
        )
        flat = [
            Grid(Full(a, b, np.zeros(rows)), (positions,)).flattened().rows.gap.sum()
            for a, b in ((found_q, found_gap), (exact_q, exact_gap))
        ]
        scores = [
            (found_q.mean() / exact_q.mean() - 1.0) / (error[0] + 1e-14),
            (flat[0] / flat[1] - 1.0) / error[1],
            (np.trace(trace) / np.trace(exact) - 1.0) / trace_error,
        ]
        plain = Field(norm=None, activation=th.relu, batch=batch)
        plain_q, plain_gap, _, plain_error = field_forward(q, gap, plain, sampling=sampling)
        flat_plain = Grid(Full(plain_q, plain_gap, np.zeros(rows)), (positions,)).flattened()
        kernel = arccosine.ray_gap(gap, slopes=(1.0, 0.0))
        flat_exact = Grid(Full(0.5 * q, kernel, np.zeros(rows)), (positions,)).flattened()
        scores.append((plain_q.mean() / (0.5 * q.mean()) - 1.0) / plain_error[0])
        scores.append((flat_plain.gap.sum() / flat_exact.gap.sum() - 1.0) / plain_error[1])
        exceeded += sum(abs(score) > 3.0 for score in scores)
        total += len(scores)
    assert total == 500
    assert exceeded < 10


@pytest.mark.slow
def test_calibration_of_sampled_pools():
    """The same of IN, GN, FRN and VN where positions are alike: more than 800 numbers, ranks from 3."""
    from theory.routes.positions_spectrum import PositionSpectrum
    from theory.routes.spatial import select_spatial
    from theory.states.base import Block

    rng = np.random.default_rng(5)
    scores = []
    for case in range(60):
        s = int(rng.integers(4, 9))
        beside, same = rng.uniform(0.1, 0.9), rng.uniform(0.0, 0.95)
        contrast, mean = 1.0 - beside, 1.0 + (s - 1) * beside
        spectrum = PositionSpectrum(s, contrast, mean, (1 - same) * contrast, (1 - same) * mean)
        matrix = np.kron((1 - same) * np.eye(2) + same, (1 - beside) * np.eye(s) + beside)
        q, gap = np.ones(2 * s), 1.0 - matrix
        np.fill_diagonal(gap, 0.0)
        for norm in (
            th.instance_norm(),
            th.group_norm(int(rng.integers(2, 5))),
            th.filter_response_norm(),
            th.variance_norm(),
            th.group_norm(2, eps=0.1),
        ):
            if norm.name == "VN" and s < 6:
                continue  # 1/R^4 has no variance below a rank of 10
            op, block = NormAct(norm, th.relu), Block(1.0, same, 2, True, spectrum)
            route = select_spatial(op, block, "forward")
            exact = route.push(op, spectrum, 2)
            (exact_same, *_), _ = route.pull(op, spectrum, 2, (1.0, 0.0, 0.0, 0.0))
            field = Field(norm=norm, activation=th.relu, batch=2)
            sampling = Sampling(log2_points=10, scrambles=8, seed=case)
            found_q, found_gap, _, error = field_forward(q, gap, field, sampling=sampling)
            pulled, pulled_error = field_pullback(q, gap, np.eye(2 * s), field, sampling=sampling)
            flat = Grid(Full(found_q, found_gap, np.zeros(2 * s)), (s,)).flattened().gap[0, 1]
            scores += [
                (found_q.mean() / exact.spectrum.second_moment - 1.0) / error[0],
                (flat / exact.spectrum.gaps()[1] - 1.0) / error[1],
                (np.trace(pulled) / (2 * s) / exact_same - 1.0) / pulled_error,
            ]
    assert len(scores) > 800
    assert np.mean(np.abs(scores) > 3.0) < 0.02


def test_the_route_of_a_gradient_that_joins_samples_is_sampling():
    """BN's gradient has blocks across samples: GN below it is sampled, and the label says so."""
    inputs = th.images(draw(5, BATCH, 3, 4))
    layers = [th.Layer(norm=norm, kernel=3) for norm in (th.group_norm(4), th.batch_norm())]
    apart, joined = th.Sequential(layers[:1] * 2), th.Sequential(layers)
    assert th.predict(apart, inputs).route["gradient_norm"][0] == "quadrature"
    pred = th.predict(joined, inputs)
    assert pred.route["gradient_norm"][0] == "RQMC"
    assert pred.route["similarity"][0] == "quadrature"


@pytest.mark.parametrize("name", ["SWS", "WN"])
def test_vectors_as_images_of_one_position_have_rows_of_few_entries(name):
    """64 networks of width 256: |z| < 5, a false alarm once in 10^5; ``from_data`` says it ignores this."""

    x = draw(6, 4, 9) + 0.3
    network = th.FeedForward(th.zoo[name], depth=1)
    given, exact = th.from_data(x), th.images(x[:, :, None])
    found = mc.simulate(network, given, width=256, replicates=64, seed=2, workers=1)
    error = found.second_moment.sem[0]
    assert (
        abs(found.second_moment.mean[0] - th.predict(network, exact).second_moment[0]) < 5 * error
    )
    ratio = (
        th.predict(network, exact).second_moment[0] / th.predict(network, given).second_moment[0]
    )
    if name == "SWS":
        assert ratio == pytest.approx(9 / 8, rel=1e-12)


def dark_images() -> np.ndarray:
    """Two samples, most of whose windows only see zeros."""
    data = draw(7, 2, 2, 12)
    data[0, :, :8], data[1, :, 4:] = 0.0, 0.0
    return data


@pytest.mark.parametrize(
    ("norms", "slope"),
    [
        ("LN plain plain", 0.0),
        ("RMSNorm LN RMSNorm", 0.0),
        ("LN LN plain LN plain", 0.0),
        ("LN plain IN", 0.2),
        ("LN FRN", 0.0),
        ("plain plain", 0.5),
        ("plain plain", -1.0),
        ("FRN FRN", 0.5),
    ],
)
def test_dark_windows_against_networks(norms: str, slope: float) -> None:
    """Rows of zeros have the slope of x < 0; behind LN they are Gaussian if relu let its mean through.

    144 networks of width 256; with zeros whose slope is 0 everywhere as many as 30 standard errors
    away.  16 numbers, |z| < 5: false alarm 1e-5.
    """
    layers = []
    for name in norms.split():
        layer = dataclasses.replace(th.zoo[name], kernel=3, padding="zero")
        layers.append(dataclasses.replace(layer, activation=th.leaky_relu(slope)))
    if slope == 0.0:
        layers = [dataclasses.replace(layer, activation=th.relu) for layer in layers]
    network, inputs = th.Sequential(tuple(layers)), th.images(dark_images())
    norm = th.predict(network, inputs).gradient_norm
    assert norm is not None
    squares = mc.simulate(network, inputs, width=256, replicates=144, seed=4, workers=1).samples[
        "squared_gradient"
    ]
    difference = squares[:, :-1] - (norm[:-1] / norm[-1]) ** 2 * squares[:, -1:]
    assert (np.abs(difference.mean(axis=0)) < 5.0 * difference.std(axis=0, ddof=1) / 12.0).all()


@pytest.mark.parametrize("norm", [None, "LN", "FRN"])
@pytest.mark.parametrize("activation", [th.tanh, th.selu, th.tlu(-0.3)])
def test_dark_windows_with_any_activation(norm: str | None, activation: th.Activation) -> None:
    """Found as a user: tanh refused dark windows, tlu(-0.3) said NaN, selu passed zeros with a mean slope.

    64 networks of width 256.  27 numbers, |z| < 5: false alarm 2e-5.
    """
    layer = dataclasses.replace(th.zoo[norm or "plain"], kernel=3, padding="zero")
    network = th.FeedForward(dataclasses.replace(layer, activation=activation), depth=2)
    inputs = th.images(dark_images())
    pred = th.predict(network, inputs)
    assert pred.gradient_norm is not None
    found = mc.simulate(network, inputs, width=256, replicates=64, seed=5, workers=1)
    difference = found.similarity.mean - pred.similarity
    assert (np.abs(difference) < 5.0 * found.similarity.sem + pred.error["similarity"]).all()
    squares = found.samples["squared_gradient"]
    ratio = squares[:, 0] - pred.gradient_norm[0] ** 2 * squares[:, 1]
    assert abs(ratio.mean()) < 5.0 * ratio.std(ddof=1) / 8.0


def test_zeros_among_sampled_rows() -> None:
    """RQMC and the Laplace integrals agree where rows are zeros: E[phi'^2]/R^2 within five errors."""
    q, gap = np.array([1.0, 1.0, 2.0, 1.5, 0.0, 0.0]), 1.0 - np.eye(6)
    gap[4, 5] = gap[5, 4] = 0.0
    norm, activation = th.filter_response_norm(), th.leaky_relu(0.3)
    field = Field(norm=norm, activation=activation, batch=1)
    sampled, error = field_pullback(q, gap, np.eye(6), field)
    slopes = activation.ray_slopes
    assert slopes is not None
    exact, _ = laplace_fields.pullback(q, gap, np.eye(6), norm=norm, slopes=slopes, batch=1)
    difference = np.diagonal(sampled) - np.diagonal(exact)
    assert (np.abs(difference) < 5.0 * error * np.trace(exact)).all()


def test_a_position_of_zeros_has_no_rms_of_its_own() -> None:
    network = th.FeedForward(
        th.Layer(norm=th.rms_norm(positions=False), kernel=3, padding="zero"), depth=2
    )
    with pytest.raises(th.HypothesisError, match=r"only sees zeros has none; use eps > 0"):
        th.predict(network, th.images(dark_images()))


@pytest.mark.parametrize("pooled", [False, True])
def test_zero_pixels_and_the_mean_of_the_layer(pooled: bool) -> None:
    """Found by verify: LN takes a mean of order n^(-1/2) from zeros, so that relu passes them half the time.

    The pool joins positions, where the zeros of a sample share their sign.  400 networks of width 512;
    a slope of 0 would be more than 15 standard errors away.  False alarm 1e-6.
    """
    data = np.ones((2, 1, 12))
    data[0, 0, :8], data[1, 0, 3:], data[1, 0, 0] = 0.0, 0.0, -0.5
    layer = th.Layer(norm=th.layer_norm(), kernel=3)
    tail = (th.GlobalAveragePool(), th.Layer()) if pooled else (layer,)
    network, inputs = th.Sequential((layer, *tail)), th.images(data)
    norms = th.predict(network, inputs).gradient_norm
    assert norms is not None
    squares = mc.simulate(network, inputs, width=512, replicates=400, seed=3, workers=1).samples[
        "squared_gradient"
    ]
    # Of means, not of logarithms: whether zeros pass is one coin for all channels of a sample.
    difference = squares[:, 0] - (norms[0] / norms[-1]) ** 2 * squares[:, -1]
    assert abs(difference.mean()) < 4.9 * difference.std(ddof=1) / 20.0
