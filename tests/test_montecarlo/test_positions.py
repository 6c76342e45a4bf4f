"""Simulated networks with positions: written by hand in PyTorch, in law, and beside the theory."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import two_sample
from scipy import stats

import montecarlo as mc
import theory as th
from montecarlo.linear import DirectSampler
from montecarlo.network import run
from montecarlo.observables import OBSERVABLES
from montecarlo.sampling import realize_inputs
from theory.errors import RegimeWarning, SpecificationError
from theory.program import lower
from theory.specs.normalizers import Normalizer, Pool

AT_EACH_POSITION = Normalizer(
    name="LN at each position",
    pool=Pool(samples=False, positions=False, channels=math.inf),
    centered=True,
    denominator="std",
    eps=0.01,
)


def network(norm=None, *, depth=3, **layer):
    return th.FeedForward(th.Layer(norm=norm, **layer), depth=depth)


def batch(samples, positions, *, gap=0.4, position_gap=0.7, **numbers):
    return th.exchangeable(
        batch=samples, gap=gap, positions=positions, position_gap=position_gap, **numbers
    )


# --- Inputs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 2, 7, 64])
@pytest.mark.parametrize(
    "inputs",
    [
        batch(3, 4),
        batch(2, (3, 2), gap=0.2, position_gap=0.5, cross_gap=0.6, second_moment=2.5),
        batch(3, 5, feature_mean=0.3),
        batch(4, 3, gap=0.0),
        batch(2, 4, position_gap=0.0),
        th.exchangeable(batch=1, positions=6, position_correlation=-0.2),
        batch(3, 4, gap=1.5, position_gap=0.2, cross_gap=1.4),
    ],
    ids=repr,
)
def test_realized_inputs_have_the_four_numbers(inputs, width):
    """Exact Gram matrix over (sample, position) and exact feature means, at every width."""
    x = realize_inputs(inputs, width=width, seed=3, dtype="float64")
    samples, places = inputs.batch, inputs.positions
    assert x.shape[1] == samples * places
    assert len(x) >= width
    gram = (x.T @ x / len(x)).reshape(samples, places, samples, places)
    q = inputs.second_moment
    w = q * (1.0 - inputs.position_gap)
    b = q * (1.0 - inputs.gap)
    cross = inputs.cross_gap
    both = (
        q * (1.0 - inputs.gap) * (1.0 - inputs.position_gap) if cross is None else q * (1 - cross)
    )
    for (a, p, c, r), value in np.ndenumerate(gram):
        expected = {(1, 1): q, (1, 0): w, (0, 1): b, (0, 0): both}[a == c, p == r]
        assert value == pytest.approx(expected, abs=1e-13 * q)
    np.testing.assert_allclose(x.mean(axis=0), inputs.feature_mean, atol=1e-14)


def test_realized_samples_keep_a_small_distance():
    x = realize_inputs(batch(2, 4, gap=1e-12), width=50, seed=0, dtype="float64")
    samples = x.reshape(len(x), 2, 4)
    apart = np.mean((samples[:, 0] - samples[:, 1]) ** 2) / 2.0
    assert apart == pytest.approx(1e-12, rel=1e-3, abs=0.0)


def test_measured_inputs_come_back_from_their_realization():
    inputs = batch(3, (2, 3), gap=0.2, position_gap=0.5, cross_gap=0.6, feature_mean=0.2)
    x = realize_inputs(inputs, width=40, seed=1, dtype="float64")
    again = th.exchangeable_from_data(np.moveaxis(x.reshape(-1, 3, 2, 3), 1, 0))
    for field in ("gap", "position_gap", "cross_gap", "second_moment", "feature_mean"):
        assert getattr(again, field) == pytest.approx(getattr(inputs, field), rel=1e-12)
    assert again.shape == (2, 3)


# --- Whole networks by hand -----------------------------------------------------------------------


class Recording:
    """Draws like ``sampler`` and keeps the matrices."""

    def __init__(self, sampler):
        self.sampler, self.matrices = sampler, []

    def draw(self, weights, **shape):
        drawn = self.sampler.draw(weights, **shape)
        self.matrices.append(drawn.matrix().copy())
        return drawn


def by_hand(torch, net, x, matrices, cotangent, shape):
    """(h^l, x^l, g^l) as arrays (samples, channels, positions): conv, normalizer, phi and autograd."""
    functional, layer = torch.nn.functional, net.layer
    dimensions, kernel, width = len(shape), layer.kernel, len(matrices[0])
    convolve = getattr(functional, f"conv{dimensions}d")
    space = tuple(range(2, 2 + dimensions))

    def images(values):
        values = values.reshape(len(values), -1, *shape)
        return torch.tensor(np.moveaxis(values, 0, 1).copy())

    def normalize(h):
        norm = layer.norm
        if norm is None:
            return h
        axes = ((0,) if norm.pool.samples else ()) + (space if norm.pool.positions else ())
        many = norm.pool.channels > 1
        size = h.shape
        if many:
            group = width if norm.pool.channels == math.inf else norm.pool.channels
            h = h.reshape(size[0], -1, group, *shape)
            axes = (*(axis + 1 if axis > 1 else axis for axis in axes), 2)
        d = h - h.mean(axes, keepdim=True) if norm.centered else h
        match norm.denominator:
            case "none":
                return d.reshape(size)
            case "std":
                square = h.var(axes, keepdim=True, correction=norm.ddof)
            case _:
                square = (h * h).mean(axes, keepdim=True)
        return (d / torch.sqrt(square + norm.eps)).reshape(size)

    def activate(h):
        phi = layer.activation
        base = {"relu": torch.relu, "tanh": torch.tanh}[phi.name]
        return phi.scale * base(h) + phi.shift

    pre, post, stream = [], [], images(x)
    for matrix in matrices:
        weight = torch.tensor(matrix).reshape(width, -1, *(kernel,) * dimensions)
        padding = ((kernel - 1) // 2, kernel // 2) * dimensions
        h = convolve(functional.pad(stream, padding, mode="circular"), weight)
        h.requires_grad_()
        h.retain_grad()
        stream = activate(normalize(h))
        pre.append(h)
        post.append(stream)
    (stream * images(cotangent)).sum().backward()

    def flat(tensor):
        return tensor.detach().numpy().reshape(*tensor.shape[:2], -1)

    return [(flat(h), flat(y), flat(h.grad)) for h, y in zip(pre, post, strict=True)]


def observe(h, x, g):
    """The paper's observables of one layer from arrays (samples, channels, positions)."""
    samples = len(x)

    def gap(values):
        flat = values.reshape(samples, -1)
        flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
        pairs = [(a, c) for a in range(samples) for c in range(samples) if a != c]
        return np.mean([1.0 - flat[a] @ flat[c] for a, c in pairs]), flat @ flat.T

    gap_x, gram = gap(x)
    return {
        "second_moment": np.mean(x**2),
        "variance": np.mean([x[:, channel].var() for channel in range(x.shape[1])]),
        "similarity": 1.0 - gap_x,
        "stable_rank": np.trace(gram) / np.linalg.norm(gram, 2),
        "preactivation_second_moment": np.mean(h**2),
        "preactivation_correlation": 1.0 - gap(h)[0],
        "squared_gradient": np.sum(g**2),
    }


NORMS = {
    "plain": None,
    "BN": th.batch_norm(),
    "BN, eps, ddof": th.batch_norm(eps=0.1, ddof=1),
    "VN": th.variance_norm(),
    "MC": th.mean_centering(),
    "LN": th.layer_norm(),
    "RMSNorm": th.rms_norm(),
    "LN at each position": AT_EACH_POSITION,
    "GN(4)": th.group_norm(4),
    "IN": th.instance_norm(),
    "FRN": th.filter_response_norm(),
}
RING = [(name, (5,), 3, th.gaussian(), th.relu) for name in NORMS]
TORUS = [(name, (3, 4), 3, th.gaussian(), th.relu) for name in ("BN", "GN(4)", "IN", "FRN", "LN")]
KERNELS = [("IN", (4,), kernel, th.gaussian(), th.relu) for kernel in (1, 2, 4)]
FLAT = [("GN(4)", (2, 3), kernel, th.gaussian(), th.relu) for kernel in (1, 2)]
SCHEMES = [
    (None, shape, 2, weights, th.scaled_relu)
    for shape in ((6,), (2, 3))
    for weights in (th.weight_norm(), th.scaled_weight_standardization(), th.centered_weights())
]
SCHEMES += [
    ("BN", (6,), 3, th.scaled_weight_standardization(), th.tanh),
    ("GN(4)", (6,), 3, th.weight_norm(), th.scaled_relu),
]


@pytest.mark.parametrize(
    ("name", "shape", "kernel", "weights", "activation"),
    [*RING, *TORUS, *KERNELS, *FLAT, *SCHEMES],
    ids=lambda value: getattr(value, "name", value) if not isinstance(value, tuple) else str(value),
)
def test_whole_networks_by_hand(name, shape, kernel, weights, activation):
    """Three layers, forward to rounding and backward by autograd, of what ``simulate`` returns."""
    torch = pytest.importorskip("torch")
    norm = NORMS.get(name)
    net = network(norm, kernel=kernel, weights=weights, activation=activation)
    inputs, width, seed, samples = batch(3, shape, feature_mean=0.2), 16, 11, 3
    sim = mc.simulate(net, inputs, width=width, replicates=2, seed=seed, method="direct", workers=1)
    x = realize_inputs(inputs, width=width, seed=seed, dtype="float64")
    assert len(x) >= width
    sampler = Recording(DirectSampler(seed, (width, 1), "float64"))
    cotangent = np.random.default_rng(0).standard_normal((width, samples * inputs.positions))
    table = run(
        lower(net), x, width=width, sampler=sampler, cotangent=cotangent, shape=inputs.shape
    )
    assert sampler.matrices[0].shape == (width, len(x) * kernel ** len(shape))
    assert sampler.matrices[1].shape == (width, width * kernel ** len(shape))
    hand = by_hand(torch, net, x, sampler.matrices, cotangent, shape)
    rows = dict(zip(OBSERVABLES, table, strict=True))
    for layer, tensors in enumerate(hand):
        for observable, value in observe(*tensors).items():
            assert rows[observable][layer] == pytest.approx(value, rel=1e-9), observable
            if observable != "squared_gradient":
                # Network 1 of the ensemble is this one, its cotangent apart.
                assert sim.samples[observable][1, layer] == rows[observable][layer]
    logs = np.log([np.sum(g**2) for _, _, g in hand])
    np.testing.assert_allclose(rows["log_gradient_ratio"], logs - logs[-1], atol=1e-9)


def test_weights_have_their_rows():
    """fan_in is channels x offsets: unit rows (WN), centered rows (WC, SWS) of the right size."""
    net = network(weights=th.scaled_weight_standardization(), kernel=3, depth=2)
    sampler = Recording(DirectSampler(0, (8, 0), "float64"))
    x = realize_inputs(batch(2, (3, 3)), width=8, seed=0, dtype="float64")
    run(lower(net), x, width=8, sampler=sampler, cotangent=None, shape=(3, 3))
    first, second = sampler.matrices
    assert first.shape == (8, len(x) * 9)
    assert second.shape == (8, 72)
    np.testing.assert_allclose(second.mean(axis=1), 0.0, atol=1e-15)
    gain = net.layer.weights.weight_variance
    np.testing.assert_allclose((second**2).sum(axis=1), gain, rtol=1e-12)


def test_methods_and_their_reasons():
    inputs = batch(2, 6)
    conv = network(th.group_norm(4), kernel=3)
    sim = mc.simulate(conv, inputs, width=64, replicates=1, seed=0, method="auto", workers=1)
    assert sim.provenance["method"] in ("direct", "collapsed")
    # At width 4 only the first layer has more inputs (14 channels, 3 offsets) than there are columns.
    for width in (4, 16):
        sim = mc.simulate(
            conv, inputs, width=width, replicates=1, seed=0, method="collapsed", workers=1
        )
        assert sim.provenance["method"] == "collapsed"
    with pytest.raises(SpecificationError, match="method"):
        mc.simulate(
            network(weights=th.weight_norm(), kernel=3),
            inputs, width=64, replicates=1, seed=0, method="collapsed", workers=1,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_do_not_depend_on_the_other_networks(dtype):
    net = network(th.instance_norm(), kernel=3)
    settings = {"width": 12, "seed": 5, "dtype": dtype, "workers": 1, "method": "direct"}
    some = mc.simulate(net, batch(2, (3, 3)), replicates=2, **settings)
    more = mc.simulate(net, batch(2, (3, 3)), replicates=5, **settings)
    for name, values in some.samples.items():
        np.testing.assert_array_equal(values, more.samples[name][:2])


def test_kernels_and_shapes_are_part_of_an_experiment(tmp_path):
    """A store must not hand a ring's networks to a torus, nor one kernel's to another."""
    store = tmp_path / "runs.sqlite"
    settings = {"width": 12, "replicates": 2, "seed": 5, "workers": 1, "store": store}
    found = [
        mc.simulate(network(th.group_norm(4), kernel=kernel), batch(2, shape), **settings)
        for kernel in (1, 3)
        for shape in ((12,), (3, 4))
    ]
    again = mc.simulate(network(th.group_norm(4), kernel=3), batch(2, (3, 4)), **settings)
    np.testing.assert_array_equal(again.samples["variance"], found[-1].samples["variance"])
    last = {float(sim.samples["variance"][0, -1]) for sim in found}
    # One position apart from the others: ring and torus are the same, and only then.
    assert len(last) == 3


@pytest.mark.parametrize(
    ("net", "inputs", "message"),
    [
        (network(kernel=5), batch(2, 4), r"kernel = 5 .*at most 4"),
        (network(kernel=3), batch(2, (2, 9)), r"kernel = 3 .*at most 2"),
        (network(kernel=3), th.exchangeable(batch=2, gap=0.5), r"kernel = 3 .*at most 1"),
        (network(th.group_norm(5)), batch(2, 4), r"width = 12 .*GN\(5\)"),
        (network(th.instance_norm()), th.exchangeable(batch=2, gap=0.5), r"IN .*1 position"),
        (
            network(th.filter_response_norm()),
            th.exchangeable(batch=2, gap=0.5),
            r"FRN .*1 position",
        ),
        (network(th.instance_norm()), batch(math.inf, 4), r"batch = inf"),
        (network(kernel=3), th.from_data(np.eye(6)), r"kernel = 3 .*at most 1"),
    ],
    ids=str,
)
def test_what_cannot_be_simulated(net, inputs, message):
    with pytest.raises(SpecificationError, match=message):
        mc.simulate(net, inputs, width=12, replicates=1, seed=0, workers=1)


def test_group_norm_needs_no_second_channel_with_positions():
    """One channel over positions is a pool; without them it is not."""
    sim = mc.simulate(
        network(th.layer_norm()), batch(2, 4), width=1, replicates=1, seed=0, workers=1,
        backward=False,
    )  # fmt: skip
    assert np.isfinite(sim.samples["second_moment"]).all()
    with pytest.raises(SpecificationError, match="width = 1"):
        mc.simulate(
            network(th.layer_norm()),
            th.exchangeable(batch=2, gap=0.5),
            width=1,
            replicates=1,
            seed=0,
        )


# --- In law ---------------------------------------------------------------------------------------

FAMILY = 1e-4  # false-alarm probability of everything below together
LAW = {
    "BN": (th.batch_norm(), (6,), 3),
    "IN": (th.instance_norm(), (3, 3), 2),
    "GN(4)": (th.group_norm(4), (6,), 3),
    "plain": (None, (6,), 2),
    "FRN": (th.filter_response_norm(), (8,), 3),
}
LAYERS, OBSERVED = (0, 3), ("variance", "similarity", "stable_rank", "log_gradient_ratio")


@pytest.mark.parametrize("name", LAW)
def test_collapsed_convolutions_have_the_law_of_direct_ones(name):
    """Kolmogorov-Smirnov on four observables at two layers; 1 - FAMILY/2 for all cases together."""
    norm, shape, kernel = LAW[name]
    net = network(norm, kernel=kernel, depth=4)
    columns = []
    for method, seed in (("direct", 21), ("collapsed", 22)):
        sim = mc.simulate(
            net, batch(2, shape), width=16, replicates=250, seed=seed, method=method, workers=1
        )
        assert sim.provenance["method"] == method
        values = np.stack([sim.samples[what][:, at] for what in OBSERVED for at in LAYERS], axis=1)
        columns.append(values)
    p = two_sample.ks(*columns)
    assert p.min() > 0.5 * FAMILY / (len(LAW) * len(OBSERVED) * len(LAYERS)), p


# --- Beside the theory ----------------------------------------------------------------------------

DEPTH = 4
WIDTHS = (128, 256)
BESIDE = {
    "BN": (th.batch_norm(), (8,), 3, {}),
    "VN": (th.variance_norm(), (8,), 3, {}),
    "MC": (th.mean_centering(), (8,), 3, {}),
    "LN": (th.layer_norm(), (8,), 3, {}),
    "RMSNorm": (th.rms_norm(), (3, 3), 3, {}),
    "GN(2)": (th.group_norm(2), (8,), 3, {}),
    "GN(8)": (th.group_norm(8, eps=0.1), (3, 3), 2, {}),
    "IN": (th.instance_norm(), (16,), 3, {}),
    "FRN": (th.filter_response_norm(), (12,), 3, {}),
    "plain": (None, (8,), 3, {}),
    "scaled relu, BN": (th.batch_norm(), (8,), 3, {"activation": th.scaled_relu}),
    "SWS": (None, (6,), 3, {"weights": th.scaled_weight_standardization()}),
    "WN": (None, (6,), 3, {"weights": th.weight_norm(), "activation": th.scaled_relu}),
    "WC": (None, (6,), 3, {"weights": th.centered_weights()}),
}
COMPARED = ("log_second_moment", "variance", "similarity", "log_gradient_norm")


@pytest.mark.parametrize("name", BESIDE)
def test_simulation_beside_theory(name):
    """Two widths extrapolated, 2 y(2n) - y(n): the finite-width bias a/n cancels and O(1/n^2) is left.

    All pools have rank > 6, so that squared gradients have variances and the bias is of that order
    (theory notes, section 6).  z-scores at every layer, with FAMILY/2 for all of them together.
    """
    norm, shape, kernel, layer = BESIDE[name]
    net = network(norm, kernel=kernel, depth=DEPTH, **layer)
    inputs = batch(2, shape, gap=0.5, position_gap=0.6, cross_gap=0.75)
    pred = th.predict(net, inputs)
    narrow, wide = (
        mc.simulate(net, inputs, width=width, replicates=count, seed=31, workers=1)
        for width, count in zip(WIDTHS, (48, 64), strict=True)
    )
    limit = float(stats.norm.isf(0.5 * FAMILY / (2 * len(BESIDE) * len(COMPARED) * DEPTH)))
    for observable in COMPARED:
        one, two = (
            (getattr(sim, observable) for sim in (narrow, wide))
            if (observable == "log_gradient_norm")
            else (mc.results.Estimate.of(sim.samples[observable]) for sim in (narrow, wide))
        )
        value = 2.0 * two.mean - one.mean
        sem = np.sqrt(4.0 * two.sem**2 + one.sem**2)
        # What a normalizer fixes has no spread: the gradient's last layer, q behind an rms.
        moves = sem > 1e-12
        expected = np.asarray(getattr(pred, observable))
        np.testing.assert_allclose(value[~moves], expected[~moves], rtol=1e-9, atol=1e-9)
        z = (value - expected)[moves] / sem[moves]
        assert np.abs(z).max(initial=0.0) < limit, (observable, z)


def test_the_comparison_sees_a_wrong_theory():
    """Eight positions taken for ten: the gradient tells."""
    net = network(th.instance_norm(), kernel=3, depth=DEPTH)
    wrong = th.predict(net, batch(2, 10, gap=0.5, position_gap=0.6, cross_gap=0.75))
    sim = mc.simulate(
        net,
        batch(2, 8, gap=0.5, position_gap=0.6, cross_gap=0.75),
        width=256, replicates=64, seed=32, workers=1,
    )  # fmt: skip
    gradient = sim.log_gradient_norm
    assert (gradient.mean - wrong.log_gradient_norm)[0] > 10.0 * gradient.sem[0]


def test_heavy_tails_are_announced():
    """IN over four positions pools a form of rank three: no standard error of the squared gradient."""
    pred = th.predict(network(th.instance_norm()), batch(2, 4))
    assert pred.regime.status == "heavy_tail"
    assert dataclasses.asdict(pred.regime)["rank"] == 3
    with pytest.warns(RegimeWarning):
        mc.simulate(
            network(th.instance_norm()), batch(2, 2), width=16, replicates=2, seed=0, workers=1
        )
