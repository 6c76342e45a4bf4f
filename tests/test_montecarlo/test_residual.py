"""Residual networks: every order by hand, backwards by differences and autograd, against theory."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

import montecarlo as mc
import theory as th
from montecarlo.collapsed import CollapsedSampler
from montecarlo.costs import choose_method, network_bytes, network_seconds
from montecarlo.experiment import Experiment
from montecarlo.linear import DirectSampler
from montecarlo.network import run
from montecarlo.observables import OBSERVABLES
from montecarlo.sampling import realize_inputs
from theory.errors import NumericalError, SpecificationError
from theory.program import lower

WIDTH, BATCH, DEPTH, SEED = 12, 4, 2, 7
INPUTS = th.exchangeable(batch=BATCH, correlation=0.3)
SKIP, BRANCH = 0.8, 1.3


# --- by hand: the same text in NumPy and in PyTorch ------------------------------------------------


def relu(x):
    return x * (x > 0)


def standardized(x, axis):
    centered = x - x.mean(axis=axis, keepdims=True)
    return centered / (centered**2).mean(axis=axis, keepdims=True) ** 0.5


NORMS = {
    "BN": (th.batch_norm(), lambda x: standardized(x, 1)),
    "LN": (th.layer_norm(), lambda x: standardized(x, 0)),
    "GN(4)": (th.group_norm(4), lambda x: standardized(x.reshape(3, 4, BATCH), 1).reshape(12, BATCH)),
    "plain": (None, lambda x: x),
}  # fmt: skip

# (x, N, weights of the block) -> (output stream, h); a and b are the factors of the addition.
BLOCKS = {
    ("pre_activation", 1): lambda x, n, w, a, b: (a * x + b * (h := w[0] @ relu(n(x))), h),
    ("pre_activation", 2): lambda x, n, w, a, b: (
        a * x + b * (w[1] @ relu(n(h := w[0] @ relu(n(x))))),
        h,
    ),
    ("post_activation", 1): lambda x, n, w, a, b: (relu(a * x + b * n(h := w[0] @ x)), h),
    ("post_activation", 2): lambda x, n, w, a, b: (
        relu(a * x + b * n(w[1] @ relu(n(h := w[0] @ x)))),
        h,
    ),
    ("activation_before_addition", 1): lambda x, n, w, a, b: (
        a * x + b * relu(n(h := w[0] @ x)),
        h,
    ),
    ("activation_before_addition", 2): lambda x, n, w, a, b: (
        a * x + b * relu(n(w[1] @ relu(n(h := w[0] @ x)))),
        h,
    ),
    ("pre_norm", 1): lambda x, n, w, a, b: (a * x + b * (h := w[0] @ relu(n(x))), h),
    ("pre_norm", 2): lambda x, n, w, a, b: (a * x + b * (w[1] @ relu(h := w[0] @ n(x))), h),
    ("post_norm", 1): lambda x, n, w, a, b: (n(a * x + b * (h := w[0] @ relu(x))), h),
    ("post_norm", 2): lambda x, n, w, a, b: (n(a * x + b * (w[1] @ relu(h := w[0] @ x))), h),
    ("branch_end_norm", 1): lambda x, n, w, a, b: (a * x + b * n(h := w[0] @ relu(x)), h),
    ("branch_end_norm", 2): lambda x, n, w, a, b: (a * x + b * n(w[1] @ relu(h := w[0] @ x)), h),
    ("sandwich", 1): lambda x, n, w, a, b: (a * x + b * n(h := w[0] @ relu(n(x))), h),
    ("sandwich", 2): lambda x, n, w, a, b: (a * x + b * n(w[1] @ relu(h := w[0] @ n(x))), h),
    ("deep_norm", 1): lambda x, n, w, a, b: (
        n(DEPTH**0.25 * a * x + b * (h := w[0] @ relu(x))),
        h,
    ),
    ("deep_norm", 2): lambda x, n, w, a, b: (
        n(DEPTH**0.25 * a * x + b * (w[1] @ relu(h := w[0] @ x))),
        h,
    ),
}


def drawn(order, maps, *, layer):
    """W of map ``layer``: the stream (seed, layer), each map with its own, He's variance."""
    bits = np.random.SFC64(np.random.SeedSequence(entropy=SEED, spawn_key=(layer,)))
    z = np.random.Generator(bits).standard_normal((WIDTH, WIDTH))
    gain = (4 * DEPTH) ** -0.25 if order == "deep_norm" else 1.0
    return gain * math.sqrt(2 / WIDTH) * z


def case(order, maps, name):
    """The network, its input, a cotangent, and each block as a function of its input stream."""
    norm, n = NORMS[name]
    network = th.Residual(
        th.Layer(norm=norm), depth=DEPTH, order=order, maps=maps, skip=SKIP, branch=BRANCH
    )
    x0 = realize_inputs(INPUTS, width=WIDTH, seed=SEED, dtype="float64")
    cotangent = np.random.default_rng(1).standard_normal((WIDTH, BATCH))

    def block(k, x, convert=lambda w: w):
        first = k * maps
        w = [convert(drawn(order, maps, layer=first + i)) for i in range(maps)]
        return BLOCKS[order, maps](x, n, w, SKIP, BRANCH)

    return SimpleNamespace(network=network, x0=x0, cotangent=cotangent, block=block)


def table(network, x0, cotangent, **sampling):
    sampler = DirectSampler(SEED, (), "float64", **sampling)
    values = run(lower(network), x0, width=WIDTH, sampler=sampler, cotangent=cotangent)
    return dict(zip(OBSERVABLES, values, strict=True))


def mean_gap(x):
    unit = x / np.linalg.norm(x, axis=0)
    gram = unit.T @ unit
    return 1 - (gram.sum() - BATCH) / (BATCH * (BATCH - 1))


ALL = [(order, maps, name) for order, maps in BLOCKS for name in NORMS]


@pytest.mark.parametrize(("order", "maps", "name"), ALL)
def test_every_order_by_hand(order, maps, name):
    c = case(order, maps, name)
    x, expected = c.x0, {key: [] for key in ("second_moment", "variance", "gap")}
    expected |= {f"preactivation_{key}": [] for key in ("second_moment", "gap")}
    for k in range(DEPTH):
        x, h = c.block(k, x)
        expected["second_moment"].append(np.mean(x**2))
        expected["variance"].append(np.mean(np.var(x, axis=1)))
        expected["gap"].append(mean_gap(x))
        expected["preactivation_second_moment"].append(np.mean(h**2))
        expected["preactivation_gap"].append(mean_gap(h))
    found = table(c.network, c.x0, c.cotangent)
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-10, err_msg=key)
    # Drawing W again for the backward pass gives the same numbers.
    again = table(c.network, c.x0, c.cotangent, keep=False)
    for key, values in found.items():
        np.testing.assert_array_equal(again[key], values, err_msg=key)


@pytest.mark.parametrize(("order", "maps", "name"), ALL)
def test_backward_by_finite_differences(order, maps, name):
    """g^1 = d <cotangent, x^2>/d x^1 by central differences, entry by entry."""
    c = case(order, maps, name)
    stream, _ = c.block(0, c.x0)
    step, gradient = 1e-6, np.empty_like(stream)
    for i in np.ndindex(stream.shape):
        ends = []
        for sign in (1, -1):
            moved = stream.copy()
            moved[i] += sign * step
            ends.append(np.sum(c.cotangent * c.block(1, moved)[0]))
        gradient[i] = (ends[0] - ends[1]) / (2 * step)
    found = table(c.network, c.x0, c.cotangent)["squared_gradient"]
    np.testing.assert_allclose(found[0], np.sum(gradient**2), rtol=1e-6)
    np.testing.assert_allclose(found[1], np.sum(c.cotangent**2), rtol=1e-12)


@pytest.mark.parametrize(("order", "maps", "name"), ALL)
def test_backward_by_autograd(order, maps, name):
    torch = pytest.importorskip("torch")
    c = case(order, maps, name)
    streams = [torch.tensor(c.x0, requires_grad=True)]
    for k in range(DEPTH):
        x, _ = c.block(k, streams[-1], convert=torch.tensor)
        x.retain_grad()
        streams.append(x)
    streams[-1].backward(torch.tensor(c.cotangent))
    squares = [float((x.grad**2).sum()) for x in streams[1:]]
    found = table(c.network, c.x0, c.cotangent)
    np.testing.assert_allclose(found["squared_gradient"], squares, rtol=1e-10)
    ratio = np.log(squares[0] / squares[1])
    np.testing.assert_allclose(found["log_gradient_ratio"], [ratio, 0], atol=1e-10)


def test_stem_and_scales_by_hand():
    """x^1 = W x^0, x^{l+1} = x^l + W relu(scale_l x^l) of data with other features than the width."""
    features = np.random.default_rng(5).normal(size=(BATCH, 5))
    network = th.Residual(
        th.Layer(), depth=2, stem=th.gaussian(weight_variance=1.0), scales=(0.9, 0.4)
    )
    bits = np.random.SFC64(np.random.SeedSequence(entropy=SEED, spawn_key=(0,)))
    x = np.random.Generator(bits).standard_normal((WIDTH, 5)) / math.sqrt(5) @ features.T
    expected = []
    for layer, scale in ((1, 0.9), (2, 0.4)):
        x = x + drawn("pre_activation", 1, layer=layer) @ relu(scale * x)
        expected.append(np.mean(x**2))
    found = table(network, np.ascontiguousarray(features.T), None)
    np.testing.assert_allclose(found["second_moment"], expected, rtol=1e-12)
    with pytest.raises(SpecificationError, match="a stem"):
        mc.simulate(th.Residual(th.Layer(), depth=2), th.from_data(features), width=8, replicates=1)


def test_float32_stays_float32_and_growth_is_caught():
    network = th.Residual(th.Layer(), depth=3, skip=0.3, branch=0.7, scales=(0.1, 0.2, 0.3))
    single = mc.simulate(network, INPUTS, width=64, replicates=2, dtype="float32", workers=1)
    double = mc.simulate(network, INPUTS, width=64, replicates=2, workers=1)
    assert single.provenance["dtype"] == "float32"
    # Streams of normals differ between the formats: only the order of magnitude is common.
    np.testing.assert_allclose(single.second_moment.mean, double.second_moment.mean, rtol=0.5)
    explosive = th.Residual(th.Layer(), depth=140, skip=2.0)
    with pytest.raises(NumericalError, match="overflow float32"):
        mc.simulate(explosive, INPUTS, width=16, replicates=1, dtype="float32", workers=1)


def test_gradients_leave_the_range_of_floating_point_numbers():
    """BN and a skip below 1: the stream settles, so that gradients grow by a factor per block."""
    network = th.Residual(th.Layer(norm=th.batch_norm()), depth=1500, skip=0.5, maps=2)
    simulation = mc.simulate(network, INPUTS, width=32, replicates=1, workers=1)
    ratio = simulation.samples["log_gradient_ratio"][0]
    assert np.isfinite(ratio).all()
    assert ratio[0] > 2 * math.log(np.finfo(np.float64).max)
    assert np.isfinite(simulation.samples["second_moment"]).all()


# --- two methods -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "maps"), [("post_activation", 2), ("sandwich", 2), ("pre_activation", 1)]
)
def test_collapsed_blocks_have_the_law_of_direct_ones(order, maps):
    """Kolmogorov-Smirnov on three observables; false alarms: 9 tests in all at 1e-4 each."""
    network = th.Residual(
        th.Layer(norm=th.group_norm(4)), depth=4, order=order, maps=maps, stem=th.gaussian()
    )
    direct, collapsed = (
        mc.simulate(network, INPUTS, width=24, replicates=400, seed=s, method=m, workers=1)
        for s, m in ((1, "direct"), (2, "collapsed"))
    )
    for name in ("log_second_moment", "similarity", "log_gradient_ratio"):
        one, two = direct.samples[name][:, 0], collapsed.samples[name][:, 0]
        assert stats.ks_2samp(one, two).pvalue > 1e-4, name


def test_collapsed_draws_each_map_from_its_own_stream():
    network = th.Residual(th.Layer(norm=th.layer_norm()), depth=3, maps=2)
    x0 = realize_inputs(INPUTS, width=WIDTH, seed=SEED, dtype="float64")
    layers = []

    class Spy:
        def draw(self, weights, *, fan_in, fan_out, layer):
            layers.append(layer)
            real = CollapsedSampler(SEED, (), "float64", BATCH)
            return real.draw(weights, fan_in=fan_in, fan_out=fan_out, layer=layer)

    run(lower(network), x0, width=WIDTH, sampler=Spy(), cotangent=None)
    assert layers == [0, 1, 2, 3, 4, 5]


def test_costs_count_every_map():
    one, two = (
        th.Residual(th.Layer(norm=th.layer_norm()), depth=8, maps=m, stem=th.gaussian())
        for m in (1, 2)
    )
    assert choose_method(two, INPUTS, method="auto", width=2048, backward=True)[0] == "collapsed"
    experiments = [
        Experiment(network=n, inputs=INPUTS, width=512, seed=0, dtype="float64", method="direct")
        for n in (one, two)
    ]
    seconds = [network_seconds(experiment) for experiment in experiments]
    np.testing.assert_allclose(seconds[1] / seconds[0], 17 / 9, rtol=1e-9)
    assert network_bytes(experiments[1], keep=True) > network_bytes(experiments[0], keep=True)


# --- against theory --------------------------------------------------------------------------------

LAYERS = {
    "plain": th.Layer(),
    "LN": th.Layer(norm=th.layer_norm()),
    "BN": th.Layer(norm=th.batch_norm()),
    "GN(8)": th.Layer(norm=th.group_norm(8)),
    "SWS": th.Layer(weights=th.scaled_weight_standardization()),
    "WN": th.Layer(weights=th.weight_norm(), activation=th.scaled_relu),
    "WC": th.Layer(weights=th.centered_weights()),
}
GAUSSIAN = [
    *((order, 1, name) for order in ("pre_activation", "activation_before_addition") for name in LAYERS),
    *(("pre_activation", 2, name) for name in ("LN", "BN", "GN(8)", "plain")),
    *(("activation_before_addition", 2, name) for name in ("BN", "GN(8)")),
    *(("pre_norm", 2, name) for name in ("LN", "BN", "GN(8)", "WC")),
    *((order, maps, "LN") for order in ("post_norm", "deep_norm", "sandwich") for maps in (1, 2)),
    ("branch_end_norm", 1, "LN"),
    *(("branch_end_norm", 2, name) for name in ("LN", "BN", "GN(8)")),
]  # fmt: skip
FAMILY_WISE = 1e-3
COMPARED = (
    "second_moment",
    "variance",
    "similarity",
    "preactivation_second_moment",
    "gradient_norm",
)


def scores(network, inputs, *, width, replicates, **options):
    prediction = th.predict(network, inputs)
    simulation = mc.simulate(
        network, inputs, width=width, replicates=replicates, workers=1, **options
    )
    entries = mc.compare(prediction, simulation).entries
    return {(e.observable, e.layer): e for e in entries if e.observable in COMPARED}


@pytest.mark.parametrize(("order", "maps", "name"), GAUSSIAN)
def test_theory_within_error(order, maps, name):
    """Student's t, Bonferroni over all entries of all cases: family-wise error 0.1 %."""
    network = th.Residual(LAYERS[name], depth=6, order=order, maps=maps, stem=th.gaussian())
    normalized = network.layer.weights.normalized
    inputs = th.exchangeable(batch=8, correlation=0.3)
    width, replicates = (512, 16) if normalized else (1024, 24)
    found = scores(network, inputs, width=width, replicates=replicates, seed=3)
    number = len(GAUSSIAN) * len(COMPARED) * 6
    for key, entry in found.items():
        assert math.isnan(entry.p) or entry.p > FAMILY_WISE / number, (key, entry)


def test_remedies_within_error():
    """SkipInit, 1/sqrt(L), a small constant, NF scaling and Fixup; family-wise error 0.1 %."""
    inputs = th.exchangeable(batch=8, correlation=0.3)
    plain = th.Residual(th.Layer(), depth=8, stem=th.gaussian())
    sws = th.Residual(LAYERS["SWS"], depth=8, stem=th.gaussian())
    networks = {
        "SkipInit": th.Residual(th.Layer(), depth=8, branch=0.0, stem=th.gaussian()),
        "1/sqrt(L)": th.Residual(th.Layer(), depth=8, branch="1/sqrt(L)", stem=th.gaussian()),
        "LayerScale": th.Residual(LAYERS["BN"], depth=8, branch=0.1, stem=th.gaussian()),
        "NF": th.nf_scaled(plain, inputs),
        "NF, SWS": th.nf_scaled(sws, inputs),
        "Fixup": th.fixup(th.Layer(), depth=8),
    }
    number = len(networks) * len(COMPARED) * 8
    for name, network in networks.items():
        found = scores(network, inputs, width=512, replicates=24, seed=4)
        for key, entry in found.items():
            # Fixup's h^1 reads x^0 itself, whose frame all networks share.
            if name == "Fixup" and key[0].startswith("preactivation"):
                continue
            assert math.isnan(entry.p) or entry.p > FAMILY_WISE / number, (name, key, entry)


@pytest.mark.parametrize(
    ("order", "norm"),
    [
        ("pre_activation", th.group_norm(4)),
        ("pre_activation", th.batch_norm()),
        ("pre_activation", th.instance_norm()),
        ("activation_before_addition", th.group_norm(4)),
        ("branch_end_norm", th.instance_norm()),
    ],
    ids=["GN(4)", "BN", "IN", "GN(4), before addition", "IN, branch end"],
)
def test_positions_within_error(order, norm):
    """Circular convolutions over 8 positions; family-wise error 0.1 %."""
    inputs = th.exchangeable(batch=4, correlation=0.3, positions=8, position_correlation=0.5)
    layer = th.Layer(norm=norm, kernel=3)
    network = th.Residual(layer, depth=4, order=order, stem=th.gaussian())
    found = scores(network, inputs, width=256, replicates=24, seed=5)
    for key, entry in found.items():
        assert entry.p > FAMILY_WISE / (5 * len(COMPARED) * 4), (key, entry)


def test_data_within_error():
    """Unequal samples behind a stem: a full covariance; family-wise error 0.1 %."""
    sizes = np.array([1, 2, 1, 0.5, 1, 3])
    features = sizes[:, None] * np.random.default_rng(2).normal(size=(6, 20)) + 0.5
    inputs = th.from_data(features)
    cases = (
        ("pre_activation", th.batch_norm()),
        ("pre_norm", th.layer_norm()),
        ("activation_before_addition", None),
    )
    for order, norm in cases:
        network = th.Residual(th.Layer(norm=norm), depth=4, order=order, stem=th.centered_weights())
        found = scores(network, inputs, width=1024, replicates=24, seed=6)
        for key, entry in found.items():
            assert entry.p > FAMILY_WISE / (3 * len(COMPARED) * 4), (key, entry)


@pytest.mark.parametrize(
    ("order", "maps", "name"), [("pre_activation", 2, "BN"), ("branch_end_norm", 2, "LN")]
)
def test_branch_gradients_within_error(order, maps, name):
    """d loss/d h^l by autograd in 32 networks by hand; Bonferroni over 4 entries, 0.1 % in all."""
    torch = pytest.importorskip("torch")
    width, depth, batch, networks = 192, 2, 8, 32
    norm, n = NORMS[name]
    network = th.Residual(
        th.Layer(norm=norm), depth=depth, order=order, maps=maps, skip=SKIP, branch=BRANCH,
        stem=th.gaussian(),
    )  # fmt: skip
    inputs = th.exchangeable(batch=batch, correlation=0.3)
    prediction = th.predict(network, inputs)
    x0 = torch.tensor(realize_inputs(inputs, width=width, seed=1, dtype="float64"))
    normals = np.random.default_rng(2).standard_normal

    def he():
        return torch.tensor(math.sqrt(2 / width) * normals((width, width)))

    squares = np.empty((networks, depth))
    for row in squares:
        x, inside = he() @ x0, []
        for _ in range(depth):
            w = [he() for _ in range(maps)]
            x, h = BLOCKS[order, maps](x.requires_grad_(), n, w, SKIP, BRANCH)
            h.retain_grad()
            inside.append(h)
        cotangent = torch.tensor(normals((width, batch)))
        x.backward(cotangent)
        row[:] = [float((h.grad**2).sum() / (cotangent**2).sum()) for h in inside]
    mean, sem = squares.mean(axis=0), squares.std(axis=0, ddof=1) / math.sqrt(networks)
    z = (mean - prediction.branch_gradient_norm**2) / sem
    assert np.all(2 * stats.t.sf(np.abs(z), networks - 1) > FAMILY_WISE / 4), z
