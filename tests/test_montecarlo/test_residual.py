"""Residual networks: every order by hand, backwards by differences and autograd, against theory."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

import montecarlo as mc
import theory as th
from montecarlo.cli import app
from montecarlo.collapsed import CollapsedSampler
from montecarlo.costs import choose_method, network_bytes, network_seconds
from montecarlo.experiment import Experiment
from montecarlo.linear import DirectSampler
from montecarlo.network import run
from montecarlo.observables import OBSERVABLES, observables_of
from montecarlo.sampling import realize_inputs
from montecarlo.store import Store
from theory.errors import NumericalError, SpecificationError, StoreError
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
    return dict(zip(observables_of(network), values, strict=True))


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
    streams, inside = [torch.tensor(c.x0, requires_grad=True)], []
    for k in range(DEPTH):
        x, h = c.block(k, streams[-1], convert=torch.tensor)
        for tensor in (x, h):
            tensor.retain_grad()
        streams.append(x)
        inside.append(h)
    streams[-1].backward(torch.tensor(c.cotangent))
    squares = [float((x.grad**2).sum()) for x in streams[1:]]
    found = table(c.network, c.x0, c.cotangent)
    np.testing.assert_allclose(found["squared_gradient"], squares, rtol=1e-10)
    ratio = np.log(squares[0] / squares[1])
    np.testing.assert_allclose(found["log_gradient_ratio"], [ratio, 0], atol=1e-10)
    ratios = [np.log(float((h.grad**2).sum()) / squares[1]) for h in inside]
    np.testing.assert_allclose(found["log_branch_gradient_ratio"], ratios, atol=1e-10)


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
    "branch_gradient_norm",
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


def test_branch_gradients_are_kept(tmp_path):
    """Saved, stored, exported; zero where the branch is multiplied by 0; absent without branches."""
    network = th.Residual(LAYERS["LN"], depth=3, stem=th.gaussian())
    run = partial(mc.simulate, inputs=INPUTS, width=16, replicates=3, workers=1)
    first = run(network, store=tmp_path / "runs.db")
    again = run(network, store=tmp_path / "runs.db")
    assert again.provenance["from_store"] == 3
    first.save(tmp_path / "sim.json")
    loaded = mc.load(tmp_path / "sim.json")
    for other in (again, loaded):
        np.testing.assert_array_equal(
            other.branch_gradient_norm.mean, first.branch_gradient_norm.mean
        )
    assert {"branch_gradient_norm", "log_branch_gradient_norm"} <= set(first.estimates())
    closed = run(dataclasses.replace(network, branch=0.0)).branch_gradient_norm
    np.testing.assert_array_equal([closed.mean, closed.sem], 0.0)
    plain = run(th.FeedForward(LAYERS["LN"], depth=3))
    assert "branch_gradient_norm" not in plain.estimates()
    with pytest.raises(AttributeError, match="branch_gradient_norm"):
        _ = plain.branch_gradient_norm
    forward = run(network, backward=False)
    assert not {name for name in forward.samples if "gradient" in name}


def test_a_run_without_branch_gradients_can_still_be_read(tmp_path, monkeypatch):
    """A store of before: listed and exported as it was; not continued, because a name is missing."""
    network = th.Residual(LAYERS["LN"], depth=2, stem=th.gaussian())
    experiment = Experiment(
        network=network, inputs=INPUTS, width=16, seed=0, dtype="float64", method="direct"
    )
    with monkeypatch.context() as before, Store(tmp_path / "runs.db") as opened:
        before.setattr("montecarlo.experiment.observables_of", lambda _: OBSERVABLES)
        values = np.random.default_rng(0).random((2, len(OBSERVABLES), 2))
        opened.add(experiment, [0, 1], values)
    with Store(tmp_path / "runs.db") as opened:
        (run,) = opened.runs()
        assert run.observables == OBSERVABLES
        np.testing.assert_array_equal(
            opened.samples(run)["gap"], values[:, OBSERVABLES.index("gap")]
        )
        with pytest.raises(StoreError, match="simulate into a new file"):
            opened.read(experiment, [0])
    main = ["runs", "export", str(tmp_path / "runs.db"), run.id, "--out", str(tmp_path / "a.csv")]
    result = CliRunner().invoke(app, main)
    assert result.exit_code == 0, result.output
    assert "log_gradient_ratio" in (tmp_path / "a.csv").read_text()


def test_networks_without_a_stem_are_independent():
    """phi acts on the entries of x^0 itself: shared by all networks, their mean would depend on the seed.

    Eight seeds of 100 networks: variance between seeds over variance within, F(7, 792).  False alarm
    1e-6; with a shared x^0 the ratio is 18, p = 1e-22.
    """
    network = th.Residual(th.Layer(norm=th.layer_norm()), depth=2, order="post_activation")
    assert network.stem is None
    runs = [
        mc.simulate(network, INPUTS, width=64, replicates=100, seed=seed, backward=False, workers=1)
        for seed in range(8)
    ]
    groups = [run.samples["similarity"][:, 0] for run in runs]
    assert stats.f_oneway(*groups).pvalue > 1e-6
