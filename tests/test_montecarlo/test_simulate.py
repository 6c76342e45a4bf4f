"""mc.simulate: networks by hand, the same for any workers, errors, exact finite-width laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import montecarlo as mc
from montecarlo.linear import DirectSampler, direct_map
from montecarlo.network import run
from montecarlo.observables import OBSERVABLES
from montecarlo.sampling import realize_inputs, seed_sequence
from theory.errors import HypothesisError, NumericalError, RegimeWarning, SpecificationError
from theory.program import lower
from theory.specs import activations as act
from theory.specs import normalizers as nm
from theory.specs.inputs import exchangeable, from_data
from theory.specs.networks import FeedForward, Layer
from theory.specs.weights import (
    centered_weights,
    gaussian,
    scaled_weight_standardization,
    weight_norm,
)

INPUTS = exchangeable(batch=5, correlation=0.3)
WIDTH, DEPTH = 12, 4


def normals(seed, *key, shape):
    """What network, layer ``key`` draws: NumPy's own SFC64 and ziggurat."""
    bits = np.random.SFC64(np.random.SeedSequence(entropy=seed, spawn_key=key))
    return np.random.Generator(bits).standard_normal(shape)


def mean_cosine(x):
    unit = x / np.linalg.norm(x, axis=0)
    gram = unit.T @ unit
    batch = len(gram)
    return (gram.sum() - np.trace(gram)) / (batch * (batch - 1)), gram


def observe(h, x):
    cosine, gram = mean_cosine(x)
    return {
        "second_moment": np.mean(x**2),
        "log_second_moment": np.log(np.mean(x**2)),
        "variance": np.mean(np.var(x, axis=1)),
        "similarity": cosine,
        "gap": 1 - cosine,
        "stable_rank": np.trace(gram) / np.linalg.norm(gram, 2),
        "preactivation_second_moment": np.mean(h**2),
        "preactivation_correlation": mean_cosine(h)[0],
        "preactivation_gap": 1 - mean_cosine(h)[0],
    }


def batch_norm_relu(h):
    return np.maximum((h - h.mean(axis=1, keepdims=True)) / h.std(axis=1, keepdims=True), 0)


def layer_norm_tanh(h):
    return np.tanh((h - h.mean(axis=0)) / h.std(axis=0))


def group_norm_relu(h):
    y = h.reshape(-1, 4, h.shape[1])
    y = (y - y.mean(axis=1, keepdims=True)) / y.std(axis=1, keepdims=True)
    return np.maximum(y.reshape(h.shape), 0)


def variance_norm_abs(h):
    return np.abs(h / np.sqrt(h.var(axis=1, keepdims=True) + 0.1))


def rms_norm_silu(h):
    y = h / np.sqrt(np.mean(h**2, axis=0))
    return y / (1 + np.exp(-y))


def evonorm_b0(h):
    return h / np.maximum(h.std(axis=1, keepdims=True), h)


def scaled_relu(h):
    gain = math.sqrt(2 * math.pi / (math.pi - 1))
    return gain * (np.maximum(h, 0) - 1 / math.sqrt(2 * math.pi))


def he(z):
    return z * math.sqrt(2 / z.shape[1])


def unit_rows(z):
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def standardized_rows(z):
    centered = z - z.mean(axis=1, keepdims=True)
    deviation = z.std(axis=1, keepdims=True) * math.sqrt(z.shape[1])
    return math.sqrt(2 * math.pi / (math.pi - 1)) * centered / deviation


def centered_rows(z):
    return he(z - z.mean(axis=1, keepdims=True))


BY_HAND = {
    "plain": (Layer(), he, lambda h: np.maximum(h, 0)),
    "BN": (Layer(norm=nm.batch_norm()), he, batch_norm_relu),
    "LN tanh": (Layer(norm=nm.layer_norm(), activation=act.tanh), he, layer_norm_tanh),
    "GN": (Layer(norm=nm.group_norm(4)), he, group_norm_relu),
    "VN abs": (Layer(norm=nm.variance_norm(eps=0.1), activation=act.abs), he, variance_norm_abs),
    "RMS silu": (Layer(norm=nm.rms_norm(), activation=act.silu), he, rms_norm_silu),
    "B0": (Layer(norm=nm.evonorm_b0(), activation=act.identity), he, evonorm_b0),
    "WN": (Layer(weights=weight_norm(), activation=act.scaled_relu), unit_rows, scaled_relu),
    "SWS": (
        Layer(weights=scaled_weight_standardization()),
        standardized_rows,
        lambda h: np.maximum(h, 0),
    ),
    "WC": (Layer(weights=centered_weights()), centered_rows, lambda h: np.maximum(h, 0)),
}


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("data", [False, True], ids=["exchangeable", "data"])
def test_networks_written_by_hand(name, data):
    """Forward observables to rounding; gradients by finite differences through the rest of the net."""
    layer, weights, normalize = BY_HAND[name]
    inputs = INPUTS
    if data:
        inputs = from_data(np.random.default_rng(3).standard_normal((5, 7)) + 0.2)
    sim = mc.simulate(FeedForward(layer, depth=DEPTH), inputs, width=WIDTH, replicates=2, seed=9)
    x = realize_inputs(inputs, width=WIDTH, seed=9, dtype="float64")
    matrices, pre, post = [], [], []
    for depth in range(DEPTH):
        matrices.append(weights(normals(9, WIDTH, 1, depth, shape=(WIDTH, len(x)))))
        h = matrices[-1] @ x
        x = normalize(h)
        pre.append(h)
        post.append(x)
        for observable, value in observe(h, x).items():
            assert sim.samples[observable][1, depth] == pytest.approx(value, rel=1e-9, abs=1e-12), (
                observable
            )

    cotangent = normals(9, WIDTH, 1, 4 * DEPTH, shape=x.shape)

    def loss(h, start):
        for matrix in matrices[start + 1 :]:
            h = matrix @ normalize(h)
        return np.sum(cotangent * normalize(h))

    for depth in range(DEPTH):
        gradient = np.empty_like(x)
        for index in np.ndindex(x.shape):
            step = np.zeros_like(x)
            step[index] = 1e-6
            gradient[index] = (
                loss(pre[depth] + step, depth) - loss(pre[depth] - step, depth)
            ) / 2e-6
        assert sim.samples["squared_gradient"][1, depth] == pytest.approx(
            np.sum(gradient**2), rel=1e-6
        )
    squared = sim.samples["squared_gradient"]
    np.testing.assert_allclose(
        sim.samples["log_gradient_ratio"], np.log(squared / squared[:, -1:]), rtol=0, atol=1e-12
    )


def test_whole_network_against_autograd():
    """Deep BatchNorm network, predrawn weights: every gradient norm from PyTorch."""
    torch = pytest.importorskip("torch")
    depth, width, batch = 12, 32, 6
    network = FeedForward(Layer(norm=nm.batch_norm(eps=1e-5)), depth=depth)
    rng = np.random.default_rng(0)
    maps = [direct_map(gaussian(), rng.standard_normal((width, width))) for _ in range(depth)]

    class Predrawn:
        def draw(self, weights, *, fan_in, fan_out, layer):
            return maps[layer]

    x0, cotangent = rng.standard_normal((width, batch)), rng.standard_normal((width, batch))
    table = run(lower(network), x0, width=width, sampler=Predrawn(), cotangent=cotangent)
    hidden, x = [], torch.tensor(x0.T.copy())
    for linear in maps:
        h = (x @ torch.tensor(linear.matrix().T)).requires_grad_()
        h.retain_grad()
        hidden.append(h)
        x = torch.relu(torch.nn.functional.batch_norm(h, None, None, training=True, eps=1e-5))
    x.backward(torch.tensor(cotangent.T.copy()))
    expected = [float((h.grad**2).sum()) for h in hidden]
    np.testing.assert_allclose(table[OBSERVABLES.index("squared_gradient")], expected, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_result_does_not_depend_on_workers_or_replicates(dtype):
    network = FeedForward(Layer(norm=nm.group_norm(4)), depth=3)
    arguments = {"width": 16, "seed": 4, "dtype": dtype}
    serial = mc.simulate(network, INPUTS, replicates=11, **arguments)
    parallel = mc.simulate(network, INPUTS, replicates=11, workers=2, **arguments)
    fewer = mc.simulate(network, INPUTS, replicates=3, **arguments)
    for name in OBSERVABLES:
        np.testing.assert_array_equal(serial.samples[name], parallel.samples[name], err_msg=name)
        np.testing.assert_array_equal(serial.samples[name][:3], fewer.samples[name], err_msg=name)


def test_networks_differ_between_seeds_and_widths():
    network = FeedForward(Layer(), depth=2)

    def moment(**arguments):
        return mc.simulate(network, INPUTS, replicates=1, **arguments).samples["second_moment"][
            0, 0
        ]

    values = {moment(width=16, seed=0), moment(width=16, seed=1), moment(width=17, seed=0)}
    assert len(values) == 3


def test_global_state_is_untouched():
    before = [pool["num_threads"] for pool in threadpool_info()]
    random_state = np.random.get_state()[1].copy()  # noqa: NPY002  (the state to protect)
    mc.simulate(FeedForward(Layer(), depth=2), INPUTS, width=16, replicates=2)
    assert [pool["num_threads"] for pool in threadpool_info()] == before
    np.testing.assert_array_equal(np.random.get_state()[1], random_state)  # noqa: NPY002


def test_progress_goes_to_standard_error(capfd):
    mc.simulate(FeedForward(Layer(), depth=2), INPUTS, width=16, replicates=2, progress=True)
    assert capfd.readouterr().out == ""


BAD = {
    "group": ({"width": 16}, Layer(norm=nm.group_norm(5)), "group size 5"),
    "width": ({"width": 0}, Layer(), "width = 0"),
    "width type": ({"width": 16.5}, Layer(), "width = 16.5"),
    "replicates": ({"replicates": 0}, Layer(), "replicates = 0"),
    "seed": ({"seed": 0.5}, Layer(), "seed = 0.5"),
    "negative seed": ({"seed": -1}, Layer(), "seed = -1"),
    "dtype": ({"dtype": "float16"}, Layer(), "dtype = 'float16'"),
    "method": ({"method": "guess"}, Layer(), "method = 'guess'"),
    "workers": ({"workers": 0}, Layer(), "workers = 0"),
    "instance norm": ({}, Layer(norm=nm.instance_norm()), "norm = 'IN"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    arguments, layer, message = BAD[case]
    arguments = {"width": 16, "replicates": 1} | arguments
    with pytest.raises(SpecificationError, match=message):
        mc.simulate(FeedForward(layer, depth=2), INPUTS, **arguments)


def test_bad_inputs():
    network = FeedForward(Layer(norm=nm.batch_norm()), depth=2)
    with pytest.raises(SpecificationError, match="batch = inf"):
        mc.simulate(network, exchangeable(batch=math.inf, correlation=0.5), width=16, replicates=1)
    with pytest.raises(SpecificationError, match="batch = 1"):
        mc.simulate(network, exchangeable(batch=1), width=16, replicates=1)
    with pytest.raises(SpecificationError, match="network"):
        mc.simulate("relu", INPUTS, width=16, replicates=1)
    with pytest.raises(SpecificationError, match="centered"):
        mc.simulate(
            FeedForward(Layer(weights=centered_weights()), depth=1),
            from_data([[1.0], [2.0]]),
            width=16,
            replicates=1,
        )


@pytest.mark.parametrize("workers", [1, 2])
def test_identical_samples_under_batch_norm(workers):
    network = FeedForward(Layer(norm=nm.batch_norm()), depth=1)
    data = from_data(np.ones((3, 4)))
    with pytest.raises(HypothesisError, match="zero variance"):
        mc.simulate(network, data, width=16, replicates=4, workers=workers)


@pytest.mark.parametrize("gap", [0.0, 1e-13])
def test_nearly_identical_samples(gap):
    """Without a pool over samples the gap survives to relative precision; exactly 0 stays about 0."""
    inputs = exchangeable(batch=3, gap=gap)
    sim = mc.simulate(FeedForward(Layer(), depth=3), inputs, width=64, replicates=1)
    first = sim.samples["preactivation_gap"][0, 0]
    assert first == pytest.approx(gap, rel=0.5, abs=1e-28)
    assert (sim.samples["gap"] < 10 * gap + 1e-28).all()


def test_overflow_is_an_error():
    network = FeedForward(Layer(weights=gaussian(weight_variance=1e6)), depth=40)
    with pytest.raises(NumericalError, match="overflow float32"):
        mc.simulate(network, INPUTS, width=16, replicates=1, dtype="float32")


def test_steep_gradients_do_not_overflow():
    """BatchNorm over four samples, 400 layers: |g^1| lies far beyond float32, its logarithm does not."""
    network = FeedForward(Layer(norm=nm.batch_norm()), depth=400)
    inputs = exchangeable(batch=4, correlation=0.5)
    sim = mc.simulate(network, inputs, width=32, replicates=2, dtype="float32")
    logs = sim.samples["log_gradient_ratio"][:, 0] / 2
    assert (logs > np.log(np.finfo(np.float32).max)).all()
    assert np.isfinite(logs).all()


def test_sums_run_in_float64():
    """Numbers whose squares do not fit float32."""
    inputs = exchangeable(batch=4, correlation=0.5, second_moment=1e44)
    sims = [
        mc.simulate(FeedForward(Layer(), depth=2), inputs, width=32, replicates=1, dtype=dtype)
        for dtype in ("float32", "float64")
    ]
    for name in OBSERVABLES:
        np.testing.assert_allclose(
            sims[0].samples[name], sims[1].samples[name], rtol=1e-5, atol=1e-6
        )


def test_dead_networks_are_announced():
    network = FeedForward(Layer(), depth=60)
    with pytest.warns(RegimeWarning, match="died"):
        sim = mc.simulate(network, exchangeable(batch=1), width=3, replicates=20)
    assert (sim.samples["second_moment"][:, -1] == 0).any()


# Exact laws at finite width.  Each |z| < 5 fails a correct program with probability < 1e-6.


@pytest.fixture(scope="module")
def plain():
    network = FeedForward(Layer(), depth=4)
    return mc.simulate(network, exchangeable(batch=1), width=32, replicates=4000, seed=1)


def z_score(samples, expected):
    return (samples.mean(axis=0) - expected) / (samples.std(axis=0, ddof=1) / len(samples) ** 0.5)


def test_relu_preserves_the_second_moment(plain):
    assert np.abs(z_score(plain.samples["second_moment"], 1.0)).max() < 5
    assert np.abs(z_score(plain.samples["preactivation_second_moment"], 2.0)).max() < 5


def test_relu_fluctuations(plain):
    """E[q_L^2]/E[q_L]^2 = prod (1 + 5/n) after relu, (1 + 2/n) prod_{l<L} (1 + 5/n) before."""
    layer = np.arange(4)
    after = (1 + 5 / 32) ** (layer + 1)
    before = 4 * (1 + 2 / 32) * (1 + 5 / 32) ** layer
    assert np.abs(z_score(plain.samples["second_moment"] ** 2, after)).max() < 5
    assert np.abs(z_score(plain.samples["preactivation_second_moment"] ** 2, before)).max() < 5


def test_relu_preserves_the_gradient(plain):
    """E|g^l|^2 = n/2 at every layer: half the units are on (Hanin 2018)."""
    assert np.abs(z_score(plain.samples["squared_gradient"], 16.0)).max() < 5


@pytest.mark.parametrize("weights", [gaussian(), weight_norm(), scaled_weight_standardization()])
def test_weight_variance_is_exact(weights):
    """E[h_1^2] = sigma_w^2 E[x_0^2], times n/(n-1) for rows and x_0 both about their means."""
    network = FeedForward(Layer(weights=weights, activation=act.identity), depth=1)
    sim = mc.simulate(network, exchangeable(batch=1), width=8, replicates=2000, seed=2)
    # Rows and x_0 in n - 1 dimensions: E[(w.x)^2] = |w|^2 |x|^2 / (n - 1).
    expected = weights.weight_variance * (8 / 7 if weights.centered else 1.0)
    assert abs(z_score(sim.samples["preactivation_second_moment"][:, 0], expected)) < 5


def test_seeds_are_documented():
    sequence = seed_sequence(5, 16, 2)
    assert sequence.entropy == 5
    assert sequence.spawn_key == (16, 2)
    sampler = DirectSampler(5, (16, 2), "float64")
    drawn = sampler.draw(gaussian(), fan_in=4, fan_out=3, layer=1)
    np.testing.assert_allclose(drawn.normal, normals(5, 16, 2, 1, shape=(3, 4)), rtol=1e-13)
