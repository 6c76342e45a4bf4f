"""Collapsed layers: x = Q R revealing the rank, W rebuilt from its streams, memory, refusals.

Laws of whole networks are in test_collapsed_law.py.
"""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from scipy import stats

import montecarlo as mc
from montecarlo import collapsed, jobs
from montecarlo.collapsed import CollapsedMap, CollapsedSampler, factorize
from montecarlo.costs import network_bytes
from montecarlo.experiment import Experiment
from montecarlo.jobs import Job, run_job
from montecarlo.linear import DirectMap
from montecarlo.normals import fill_standard_normal
from montecarlo.observables import OBSERVABLES
from theory.errors import HypothesisError, NumericalError, SpecificationError
from theory.specs import normalizers as nm
from theory.specs.activations import sin
from theory.specs.inputs import exchangeable, from_data
from theory.specs.networks import FeedForward, Layer
from theory.specs.weights import (
    centered_weights,
    gaussian,
    scaled_weight_standardization,
    weight_norm,
)

FAN_IN, FAN_OUT, BATCH = 40, 30, 5
SEED, KEY = 11, (64, 3, 2)
INPUTS = exchangeable(batch=BATCH, correlation=0.3)
GAUSSIAN_ROWS = {"gaussian": gaussian(), "centered": centered_weights(weight_variance=3.0)}
UNIT_ROWS = {"WN": weight_norm(), "SWS": scaled_weight_standardization()}


def samples(seed=0, *, rows=FAN_IN, batch=BATCH):
    return np.random.default_rng(seed).standard_normal((rows, batch)) + 0.2


def normals(*key, shape, dtype="float64"):
    """NumPy's own SFC64 and ziggurat; in float32 our own, which has no twin."""
    sequence = np.random.SeedSequence(entropy=SEED, spawn_key=key)
    if dtype == "float64":
        return np.random.Generator(np.random.SFC64(sequence)).standard_normal(shape)
    out = np.empty(shape, dtype=dtype)
    fill_standard_normal(sequence, out)
    return out


def rotation(batch):
    """Symmetric and orthogonal, first column 1/sqrt(B)."""
    if batch == 1:
        return np.eye(1)
    v = np.eye(batch)[0] - 1 / math.sqrt(batch)
    return np.eye(batch) - 2 * np.outer(v, v) / (v @ v)


def duplicated():
    x = samples()
    return x[:, [0, 1, 1, 2, 0]]


def sign_flipped():
    x = samples()
    return np.stack([x[:, 0], -x[:, 0], x[:, 1], -x[:, 1], x[:, 2]], axis=1)


def combined():
    x = samples()
    x[:, 3] = x[:, 0] - 2 * x[:, 1]
    x[:, 4] = x[:, 0] + x[:, 2]
    return x


def with_zeros():
    x = samples()
    x[:, [1, 4]] = 0.0
    return x


def near_duplicate():
    """Two samples with 1 - cosine = 1e-14."""
    x = samples()
    away = samples(1)[:, 0]
    away -= x[:, 0] * (away @ x[:, 0]) / (x[:, 0] @ x[:, 0])
    away *= math.sqrt(2e-14) * np.linalg.norm(x[:, 0]) / np.linalg.norm(away)
    x[:, 2] = x[:, 0] + away
    return x


def batch_norm_gradient():
    """Integers whose samples add up to exactly zero."""
    x = np.random.default_rng(2).integers(-9, 10, size=(FAN_IN, BATCH)).astype(float)
    x[:, -1] = -x[:, :-1].sum(axis=1)
    return x


# Name -> (x, rank).
BATCHES = {
    "generic": (samples, 5),
    "one sample": (lambda: samples(batch=1), 1),
    "one zero sample": (lambda: np.zeros((FAN_IN, 1)), 0),
    "identical": (lambda: np.repeat(samples(batch=1), BATCH, axis=1), 1),
    "duplicated": (duplicated, 3),
    "sign-flipped": (sign_flipped, 3),
    "combined": (combined, 3),
    "zero samples": (with_zeros, 3),
    "all zero": (lambda: np.zeros((FAN_IN, BATCH)), 0),
    "near duplicate": (near_duplicate, 5),
    "sum to zero": (batch_norm_gradient, 4),
    "large": (lambda: 1e100 * samples(), 5),
    "small": (lambda: 1e-100 * samples(), 5),
    "mixed sizes": (lambda: samples() * [1e100, 1.0, 1e-100, 1e-50, 1e50], 5),
    "duplicates of mixed sizes": (lambda: duplicated() * [1e100, 1.0, 1e-100, 1e-50, 1e50], 3),
}


def orthonormal(frame):
    return frame.basis.astype(float) @ frame.coefficients.astype(float)


# factorize


@pytest.mark.parametrize("name", BATCHES)
def test_factorization(name):
    make, rank = BATCHES[name]
    x = make()
    frame = factorize(x)
    q = orthonormal(frame)
    assert frame.rank == rank
    assert q.shape == (FAN_IN, rank)
    np.testing.assert_allclose(q.T @ q, np.eye(rank), rtol=0, atol=2e-14)
    size = np.abs(x).max(axis=0)
    size[size == 0] = 1.0
    np.testing.assert_allclose((q @ frame.triangle) / size, x / size, rtol=0, atol=2e-14)


@pytest.mark.parametrize("name", ["generic", "one sample", "identical", "sign-flipped", "combined"])
@pytest.mark.parametrize("size", [1.0, 1e-12, 1e12])
def test_factorization_in_float32(name, size):
    make, rank = BATCHES[name]
    x = (size * make()).astype(np.float32)
    frame = factorize(x)
    q = orthonormal(frame)
    assert frame.basis.dtype == frame.coefficients.dtype == np.float32
    assert frame.rank == rank
    np.testing.assert_allclose(q.T @ q, np.eye(rank), rtol=0, atol=3e-6)
    np.testing.assert_allclose((q @ frame.triangle) / size, x / size, rtol=0, atol=3e-6)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_nothing_is_lost_on_the_way_to_dependence(dtype):
    """One sample at an angle t to the span of the others, from t = 1 to rounding.

    Cholesky of a Gram matrix has an orthogonality of eps/t^2; the pivoted factorization takes over
    before that costs more than half the digits.
    """
    eps = float(np.finfo(dtype).eps)
    x = samples()
    away = np.linalg.qr(x)[0][:, 4] * np.linalg.norm(x[:, 0])
    for angle in np.geomspace(1.0, 1e2 * eps, 40):
        x[:, 4] = x[:, 0] + x[:, 1] + angle * away
        cast = x.astype(dtype)
        frame = factorize(cast)
        q = orthonormal(frame)
        assert frame.rank == 5
        np.testing.assert_allclose(q.T @ q, np.eye(5), rtol=0, atol=math.sqrt(eps) / 10)
        np.testing.assert_allclose(q @ frame.triangle, cast, rtol=0, atol=100 * eps)


@pytest.mark.parametrize("size", [1e-30, 1e-22, 1e19, 1e30])
def test_squares_beyond_float32(size):
    """The direct simulation sums squares in float64, so these sizes are no reason to stop."""
    x = samples().astype(np.float32) * np.float32(size)
    frame = factorize(x)
    q = orthonormal(frame)
    np.testing.assert_allclose(q.T @ q, np.eye(5), rtol=0, atol=3e-6)
    np.testing.assert_allclose((q @ frame.triangle) / size, x / size, rtol=0, atol=3e-6)


# One map


@pytest.fixture
def factorized(monkeypatch):
    """What the map factorizes, in order: (samples, frame)."""
    seen = []

    def spy(x):
        frame = factorize(x)
        seen.append((x.copy(), frame))
        return frame

    monkeypatch.setattr(collapsed, "factorize", spy)
    return seen


def layer_map(weights, *, fan_out=FAN_OUT, keep=True):
    return CollapsedMap(weights, FAN_IN, fan_out, SEED, KEY, keep)


def explicit(weights, x, delta, dtype="float64"):
    """W = scale (Z Q' + M C (I - Q Q')); M agrees with N on the span of delta, is free elsewhere."""
    q, q_delta = orthonormal(x), orthonormal(delta)
    z = normals(*KEY, 0, shape=(FAN_OUT, x.rank), dtype=dtype)
    n = normals(*KEY, 1, shape=(FAN_IN, delta.rank), dtype=dtype)
    free = np.random.default_rng(99).standard_normal((FAN_OUT, FAN_IN))
    m = q_delta @ n.T + free - q_delta @ (q_delta.T @ free)
    c = np.eye(FAN_IN) - (1 / FAN_IN if weights.centered else 0.0)
    return math.sqrt(weights.weight_variance / FAN_IN) * (
        z @ q.T + m @ c @ (np.eye(FAN_IN) - q @ q.T)
    )


@pytest.mark.parametrize("scheme", GAUSSIAN_ROWS)
@pytest.mark.parametrize("name", BATCHES)
def test_map_is_one_matrix(name, scheme, factorized):
    """forward = W x and backward = W' delta with the same W, whatever the ranks of x and delta."""
    weights = GAUSSIAN_ROWS[scheme]
    x = BATCHES[name][0]()
    batch = x.shape[1]
    gradients = [samples(5, rows=FAN_OUT, batch=batch), BATCHES[name][0]()[:FAN_OUT]]
    for delta in gradients:
        factorized.clear()
        linear = layer_map(weights)
        h = linear.forward(x)
        back = linear.backward(delta)
        # Equal samples are factorized once: then there is a frame of the distinct ones as well.
        (of_x, x_frame), *distinct, (of_delta, delta_frame) = factorized
        if distinct:
            ((_, x_frame),) = distinct
        mean = x.mean(axis=0) if weights.centered else 0.0
        size = np.abs(x).max()
        np.testing.assert_allclose(of_x, (x - mean) @ rotation(batch), rtol=0, atol=4e-15 * size)
        size_delta = np.abs(delta).max()
        np.testing.assert_allclose(
            of_delta, delta @ rotation(batch), rtol=0, atol=4e-15 * size_delta
        )
        matrix = explicit(weights, x_frame, delta_frame)
        if weights.centered:
            # Rounded samples 1e-7 apart tell a direction, and that it is centered, to 1e-9.
            lost = 1e-8 if name == "near duplicate" else 1e-13
            np.testing.assert_allclose(matrix.sum(axis=1), 0.0, atol=lost)
        np.testing.assert_allclose(h, matrix @ (x - mean), rtol=0, atol=1e-13 * size)
        np.testing.assert_allclose(back, matrix.T @ delta, rtol=0, atol=1e-13 * size_delta)


@pytest.mark.parametrize("scheme", GAUSSIAN_ROWS)
def test_map_in_float32(scheme, factorized):
    weights = GAUSSIAN_ROWS[scheme]
    x, delta = samples().astype("float32"), samples(5, rows=FAN_OUT).astype("float32")
    linear = layer_map(weights)
    h, back = linear.forward(x), linear.backward(delta)
    assert h.dtype == back.dtype == np.float32
    matrix = explicit(weights, factorized[0][1], factorized[1][1], "float32")
    np.testing.assert_allclose(h, matrix @ x, rtol=0, atol=1e-5)
    np.testing.assert_allclose(back, matrix.T @ delta, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scheme", GAUSSIAN_ROWS)
def test_contrasts_keep_their_relative_precision(scheme, factorized):
    """h_a - h_b = W (x_a - x_b) for two samples with 1 - cosine = 1e-14."""
    x = near_duplicate()
    linear = layer_map(GAUSSIAN_ROWS[scheme])
    h = linear.forward(x)
    linear.backward(samples(5, rows=FAN_OUT))
    matrix = explicit(GAUSSIAN_ROWS[scheme], factorized[0][1], factorized[1][1])
    expected = matrix @ (x[:, 2] - x[:, 0])
    # h carries errors of 1e-16 of itself; its contrast is 1e-7 of it.
    np.testing.assert_allclose(
        h[:, 2] - h[:, 0], expected, rtol=0, atol=3e-8 * np.abs(expected).max()
    )


def test_equal_samples_stay_equal():
    h = layer_map(gaussian()).forward(np.repeat(samples(batch=1), BATCH, axis=1))
    np.testing.assert_allclose(h[:, 1:], np.repeat(h[:, :1], BATCH - 1, axis=1), rtol=1e-15)


def test_all_contrasts_tiny(factorized):
    """Every sample within 1e-14 of the others, as in a collapsed network: contrasts to 1e-8."""
    x = samples(batch=1) * (1 + 1e-7 * samples(3))
    linear = layer_map(gaussian())
    h = linear.forward(x)
    linear.backward(samples(5, rows=FAN_OUT))
    matrix = explicit(gaussian(), factorized[0][1], factorized[1][1])
    expected = matrix @ (x[:, 1:] - x[:, :1])
    np.testing.assert_allclose(
        h[:, 1:] - h[:, :1], expected, rtol=0, atol=3e-8 * np.abs(expected).max()
    )


@pytest.mark.parametrize("scheme", GAUSSIAN_ROWS)
def test_gradients_that_sum_to_zero_stay_so(scheme):
    linear = layer_map(GAUSSIAN_ROWS[scheme])
    linear.forward(samples())
    back = linear.backward(batch_norm_gradient()[:FAN_OUT])
    assert np.abs(back).max() > 1.0
    np.testing.assert_allclose(back.sum(axis=1), 0.0, atol=1e-13)


@pytest.mark.parametrize("scheme", UNIT_ROWS)
@pytest.mark.parametrize("name", ["generic", "identical", "duplicated", "zero samples"])
def test_normalized_rows(name, scheme, factorized):
    """|g|^2 is chi^2 with n (centered: n - 1) degrees; the seen share |g Q|^2/|g|^2 is Beta.

    Each test fails a correct program with probability 1e-6.
    """
    weights = UNIT_ROWS[scheme]
    x = BATCHES[name][0]()
    h = layer_map(weights, fan_out=4000).forward(x)
    _, frame = factorized[-1]
    columns = frame.triangle.shape[1]
    if columns < BATCH:
        h = h[:, np.sort(np.unique(np.abs(x), axis=1, return_index=True)[1])]
    z = normals(*KEY, 0, shape=(4000, frame.rank))
    # h H = sigma Z R / |g|: the coordinates of each row of W in the frame are Z / |g|.
    rotated = h @ rotation(columns) / math.sqrt(weights.weight_variance)
    seen = np.linalg.lstsq(frame.triangle.T, rotated.T, rcond=None)[0].T
    norm = np.linalg.norm(z, axis=1) / np.linalg.norm(seen, axis=1)
    np.testing.assert_allclose(seen * norm[:, None], z, rtol=1e-9, atol=1e-12)
    degrees = FAN_IN - weights.centered
    assert stats.kstest(norm**2, stats.chi2(degrees).cdf).pvalue > 1e-6
    share = stats.beta(frame.rank / 2, (degrees - frame.rank) / 2)
    assert stats.kstest((seen**2).sum(axis=1), share.cdf).pvalue > 1e-6


@pytest.mark.parametrize("scheme", UNIT_ROWS)
def test_normalized_rows_have_no_backward(scheme):
    linear = layer_map(UNIT_ROWS[scheme])
    linear.forward(samples())
    with pytest.raises(HypothesisError, match='method="direct", or backward=False'):
        linear.backward(samples(5, rows=FAN_OUT))


# Networks


def experiment(layer, *, width=24, dtype="float64", backward=True):
    return Experiment(
        network=FeedForward(layer, depth=4),
        inputs=INPUTS,
        width=width,
        seed=3,
        dtype=dtype,
        method="collapsed",
        backward=backward,
    )


LAYERS = {
    "BN": Layer(norm=nm.batch_norm()),
    "GN(4)": Layer(norm=nm.group_norm(4)),
    "WC": Layer(weights=centered_weights()),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", LAYERS)
def test_factors_drawn_twice_give_the_same_bits(name, dtype):
    of = experiment(LAYERS[name], dtype=dtype)
    tables = [run_job(Job(of, (0, 5), keep)) for keep in (True, False)]
    assert np.isfinite(tables[0]).all()
    np.testing.assert_array_equal(*tables)


def test_networks_do_not_depend_on_their_company():
    of = experiment(LAYERS["BN"])
    np.testing.assert_array_equal(run_job(Job(of, (2, 7)))[1], run_job(Job(of, (7,)))[0])


@pytest.mark.parametrize(("fan_in", "direct"), [(BATCH + 1, True), (BATCH + 2, False)])
def test_inputs_that_a_batch_spans_are_drawn_directly(fan_in, direct):
    linear = CollapsedSampler(SEED, KEY, "float64", BATCH).draw(
        gaussian(), fan_in=fan_in, fan_out=50, layer=0
    )
    assert isinstance(linear, DirectMap) == direct


def test_narrow_networks_do_not_collapse():
    data = from_data(samples(rows=20, batch=5))
    network = FeedForward(LAYERS["GN(4)"], depth=2)
    with pytest.raises(SpecificationError, match=r"method = 'collapsed'.*more than these \+ 1"):
        mc.simulate(network, data, width=20, replicates=1, method="collapsed")
    sim = mc.simulate(network, data, width=20, replicates=1)
    assert sim.provenance["method"] == "direct"


@pytest.mark.parametrize("shape", [(3, 500), (9, 7), (3, 4)], ids=["wide", "square", "narrow"])
def test_data_of_any_shape(shape):
    """Features differ from the width: layer 1 has its own fan-in, collapsed or not."""
    data = from_data(np.random.default_rng(0).standard_normal(shape))
    network = FeedForward(LAYERS["BN"], depth=3)
    sim = mc.simulate(network, data, width=24, replicates=2, method="collapsed")
    assert all(np.isfinite(values).all() for values in sim.samples.values())


@pytest.mark.parametrize("scheme", UNIT_ROWS)
def test_unit_rows_only_forwards(scheme):
    network = FeedForward(Layer(weights=UNIT_ROWS[scheme]), depth=2)
    arguments = {"width": 24, "replicates": 2}
    with pytest.raises(SpecificationError, match="method = 'collapsed'") as caught:
        mc.simulate(network, INPUTS, method="collapsed", **arguments)
    assert scheme in str(caught.value)
    assert "backward=False" in str(caught.value)
    sim = mc.simulate(network, INPUTS, method="collapsed", backward=False, **arguments)
    assert sim.provenance["method"] == "collapsed"
    assert not any("gradient" in name for name in sim.samples)


@pytest.mark.parametrize("kind", ["float64", "float32"])
@pytest.mark.parametrize("size", [1e-60, 1e-30, 1e44])
def test_sizes_do_not_matter(kind, size):
    """relu is homogeneous: inputs of any size give the same network, scaled."""
    sims = [
        mc.simulate(
            FeedForward(Layer(), depth=3),
            exchangeable(batch=4, correlation=0.5, second_moment=q),
            width=32,
            replicates=2,
            dtype=kind,
            method="collapsed",
        )
        for q in (1.0, size)
    ]
    for name, factor in (("second_moment", size), ("gap", 1.0), ("squared_gradient", 1.0)):
        expected, values = (sim.samples[name] for sim in sims)
        np.testing.assert_allclose(
            values / factor, expected, rtol=1e-3 if kind == "float32" else 1e-9
        )


@pytest.mark.parametrize("method", ["direct", "collapsed"])
def test_overflow_is_an_error(method):
    """Inputs of 1e38 fit float32, sixteen of them added up do not."""
    inputs = exchangeable(batch=16, correlation=0.9, second_moment=1e76)
    with pytest.raises(NumericalError, match="overflow float32"):
        mc.simulate(
            FeedForward(Layer(), depth=2),
            inputs,
            width=64,
            replicates=1,
            dtype="float32",
            method=method,
        )


CHOICES = {
    "narrow": ({"width": 16}, Layer(), "direct", "instead of .* collapsed"),
    "wide": ({"width": 4096}, Layer(), "collapsed", "instead of .* direct"),
    "WN": ({"width": 512}, Layer(weights=weight_norm()), "direct", "WN does not collapse"),
    "WN forward": (
        {"width": 4096, "backward": False},
        Layer(weights=weight_norm()),
        "collapsed",
        "instead of .* direct",
    ),
    "asked": ({"width": 64, "method": "direct"}, Layer(), "direct", "as asked"),
    "asked collapsed": ({"width": 64, "method": "collapsed"}, Layer(), "collapsed", "as asked"),
}


@pytest.mark.parametrize("case", CHOICES)
def test_choice_of_method(case):
    arguments, layer, method, reason = CHOICES[case]
    sim = mc.simulate(FeedForward(layer, depth=1), INPUTS, replicates=1, **arguments)
    assert sim.provenance["method"] == method
    assert re.search(reason, sim.provenance["method_reason"])


def test_memory_limit_changes_no_number(monkeypatch):
    of = experiment(LAYERS["BN"], width=64)
    bytes_kept, bytes_least = (network_bytes(of, keep=keep) for keep in (True, False))
    assert bytes_least < bytes_kept
    kept = []

    def spy(*arguments):
        kept.append(arguments[-1])
        return CollapsedSampler(*arguments)

    monkeypatch.setattr(jobs, "CollapsedSampler", spy)

    def simulate(limit):
        return mc.simulate(
            of.network,
            INPUTS,
            width=64,
            replicates=2,
            seed=3,
            method="collapsed",
            workers=1,
            memory_limit=limit,
        )

    sims = [simulate(limit) for limit in (bytes_kept, bytes_kept - 1, bytes_least)]
    assert kept == [True] * 2 + [False] * 4
    for name in OBSERVABLES:
        for sim in sims[1:]:
            np.testing.assert_array_equal(sims[0].samples[name], sim.samples[name], err_msg=name)
    with pytest.raises(SpecificationError, match=r"memory_limit = .* per process"):
        simulate(bytes_least - 1)


def test_identical_samples_stay_identical():
    """200 layers of LayerNorm on equal samples: rank one throughout, forwards exactly."""
    sim = mc.simulate(
        FeedForward(Layer(norm=nm.layer_norm()), depth=200),
        exchangeable(batch=3, gap=0.0),
        width=24,
        replicates=2,
        method="collapsed",
    )
    assert (sim.samples["gap"] < 1e-28).all()
    assert all(np.isfinite(values).all() for values in sim.samples.values())


def test_collapsed_layer_norm_drifts_as_the_direct_one():
    """log gap of nearly equal samples: a random walk over 200 layers, the same for both methods.

    Kolmogorov-Smirnov at three layers, each failing a correct program with probability 1e-4.
    """
    log_gaps = [
        np.log(
            mc.simulate(
                FeedForward(Layer(norm=nm.layer_norm()), depth=200),
                exchangeable(batch=3, gap=1e-14),
                width=24,
                replicates=40,
                seed=seed,
                method=method,
                workers=1,
            ).samples["gap"]
        )
        for seed, method in enumerate(("direct", "collapsed"))
    ]
    assert log_gaps[0][:, -1].std() > 0.1
    for layer in (9, 49, 199):
        direct, other = (values[:, layer] for values in log_gaps)
        assert stats.ks_2samp(direct, other).pvalue > 1e-4


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_some_equal_samples_stay_equal_in_an_expanding_network(sign):
    """Direct products of equal columns are equal; sin at weight variance 60 would pull others apart."""
    x = np.random.default_rng(0).standard_normal((3, 50))
    x[1] = sign * x[0]
    network = FeedForward(Layer(weights=gaussian(weight_variance=60.0), activation=sin), depth=40)
    sim = mc.simulate(network, from_data(x), width=128, replicates=2, method="collapsed")
    # One pair of three has cosine +-1, the other two cosines are opposite or equal.
    direct = mc.simulate(network, from_data(x), width=128, replicates=200, method="direct")
    spread = direct.samples["similarity"].std(axis=0) + 1e-12
    assert (np.abs(sim.similarity.mean - direct.similarity.mean) < 6 * spread).all()
    pair = mc.simulate(network, from_data(x[:2]), width=128, replicates=2, method="collapsed")
    np.testing.assert_allclose(pair.samples["similarity"], sign, rtol=1e-12)


def test_pairs_of_equal_samples_in_a_deep_batch_norm_network():
    """Rounding errors between equal samples would add gradient where there is none: 140 for 102."""
    x = np.random.default_rng(0).standard_normal((6, 50))
    x[1], x[4] = x[0], x[3]
    network = FeedForward(LAYERS["BN"], depth=100)
    sims = [
        mc.simulate(network, from_data(x), width=64, replicates=60, method=method)
        for method in ("direct", "collapsed")
    ]
    first, second = (sim.log_gradient_norm for sim in sims)
    # |z| < 5 fails with probability 6e-7 where the laws are equal.
    assert abs(first.mean[0] - second.mean[0]) < 5 * math.hypot(first.sem[0], second.sem[0])
