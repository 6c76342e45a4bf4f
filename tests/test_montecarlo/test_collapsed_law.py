"""Collapsed networks have the law of direct ones, and wrong ways to collapse are found out.

Every case compares independent ensembles: Kolmogorov-Smirnov on single quantities at several layers,
and the energy distance on four of them jointly.  A family-wise false-alarm probability of 1e-3 is
shared by Bonferroni over everything in this file: equally by all cases, half of a case's share for
the joint test, the other half equally for its marginal tests.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import two_sample
from scipy import stats

import montecarlo as mc
from montecarlo import jobs
from montecarlo.collapsed import CollapsedSampler
from theory.errors import RegimeWarning
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

DEPTH = 8
LAYERS = (0, 3, 7)
FAMILY = 1e-3
WIDTHS = (16, 64, 256)
NETWORKS = 1500
FEW = 300

BATCH_RMS = nm.Normalizer(
    name="batch rms",
    pool=nm.Pool(samples=True, positions=True, channels=1),
    centered=False,
    denominator="rms",
)

# Name -> (layer, batch).  Activations are such that second moments have continuous laws (relu(LN),
# not abs(LN), whose mean square is 1) and that no sample dies at width 16.
CASES = {
    "plain": (Layer(activation=act.gelu), 5),
    "one sample": (Layer(weights=gaussian(weight_variance=1.0), activation=act.identity), 1),
    "two samples": (Layer(weights=gaussian(weight_variance=1.0), activation=act.identity), 2),
    "BN": (Layer(norm=nm.batch_norm()), 6),
    "VN": (Layer(norm=nm.variance_norm(), activation=act.leaky_relu(0.2)), 6),
    "MC": (Layer(norm=nm.mean_centering(), activation=act.tanh), 5),
    "LN": (Layer(norm=nm.layer_norm()), 4),
    "RMSNorm": (Layer(norm=nm.rms_norm(), activation=act.tanh), 7),
    "GN(2)": (Layer(norm=nm.group_norm(2, eps=0.1), activation=act.silu), 4),
    "GN(4)": (Layer(norm=nm.group_norm(4)), 5),
    "GN(8)": (Layer(norm=nm.group_norm(8), activation=act.erf), 4),
    "EvoNorm-S0": (Layer(norm=nm.evonorm_s0(), activation=act.identity), 6),
    "EvoNorm-B0": (Layer(norm=nm.evonorm_b0(), activation=act.identity), 7),
    "own": (Layer(norm=BATCH_RMS, activation=act.gelu), 5),
    "centered": (Layer(weights=centered_weights(), activation=act.softplus), 4),
    "centered BN": (Layer(weights=centered_weights(), norm=nm.batch_norm()), 6),
    # At width 16 one direction is left, or two.
    "crowded": (Layer(norm=nm.layer_norm(), activation=act.silu), 14),
    "crowded BN": (Layer(weights=centered_weights(), norm=nm.batch_norm()), 14),
}
FORWARD = {
    "WN": (Layer(weights=weight_norm(), activation=act.scaled_relu), 6),
    "SWS": (Layer(weights=scaled_weight_standardization(), activation=act.gelu), 6),
    "crowded SWS": (Layer(weights=scaled_weight_standardization(), activation=act.silu), 14),
}
QUICK = (
    ("BN", 16),
    ("LN", 64),
    ("GN(4)", 16),
    ("EvoNorm-B0", 16),
    ("centered", 16),
    ("WN", 16),
    ("crowded", 16),
)
# Over all tests here, slow and quick: cases, quick subset, dependent samples, signs, float32.
SHARE = FAMILY / (len(WIDTHS) * (len(CASES) + len(FORWARD)) + len(QUICK) + 5)


def ensemble(method, layer, inputs, *, width, networks, **arguments):
    """Networks of either method; different seeds, so that not even cotangents are shared."""
    seed = {"direct": 1, "collapsed": 2}[method]
    network = FeedForward(layer, depth=DEPTH)
    sim = mc.simulate(
        network, inputs, width=width, replicates=networks, seed=seed, method=method, **arguments
    )
    assert sim.provenance["method"] == method
    return sim.samples


def marginals(samples):
    """Name -> one value per network."""
    values = {}
    for layer in LAYERS:
        values[f"similarity {layer + 1}"] = samples["similarity"][:, layer]
        values[f"log second moment {layer + 1}"] = samples["log_second_moment"][:, layer]
    if "squared_gradient" in samples:
        for layer in range(DEPTH):
            values[f"log gradient {layer + 1}"] = np.log(samples["squared_gradient"][:, layer])
        # Narrow where forward and backward fluctuations are the same ones.
        values["log ratio of growths"] = (
            samples["log_gradient_ratio"][:, 0] - samples["log_second_moment"][:, -1]
        )
    return values


def joint(samples):
    columns = [samples["similarity"][:, -1], samples["log_second_moment"][:, -1]]
    if "squared_gradient" in samples:
        columns += [samples["log_gradient_ratio"][:, 0], np.log(samples["squared_gradient"][:, -1])]
    else:
        columns += [samples["similarity"][:, 0], samples["log_second_moment"][:, 0]]
    return np.stack(columns, axis=1)


def marginal_p(first, second):
    """Smallest p-value of single quantities, times their number and 2."""
    columns = [np.stack(list(marginals(s).values()), axis=1) for s in (first, second)]
    assert all(np.isfinite(values).all() for values in columns)
    p = two_sample.ks(*columns)
    return min(1.0, 2.0 * len(p) * float(p.min()))


def joint_p(first, second):
    """P-value of the energy distance, times 2; exact down to SHARE."""
    return min(1.0, 2.0 * two_sample.energy(joint(first), joint(second), level=SHARE / 3, seed=0))


def equal(first, second):
    return min(marginal_p(first, second), joint_p(first, second)) > SHARE


def inputs_for(batch):
    return exchangeable(batch=batch, correlation=0.4, feature_mean=0.3)


def direct_and_collapsed(name, *, width, networks, **arguments):
    layer, batch = (CASES | FORWARD)[name]
    arguments |= {"width": width, "networks": networks, "backward": name not in FORWARD}
    return [
        ensemble(method, layer, inputs_for(batch), **arguments)
        for method in ("direct", "collapsed")
    ]


@pytest.mark.parametrize(("name", "width"), QUICK)
def test_equal_in_law_quickly(name, width):
    assert equal(*direct_and_collapsed(name, width=width, networks=FEW))


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", CASES | FORWARD)
def test_equal_in_law(name, width):
    assert equal(*direct_and_collapsed(name, width=width, networks=NETWORKS))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BN", "LN"])
def test_equal_in_law_in_float32(name):
    assert equal(*direct_and_collapsed(name, width=64, networks=NETWORKS, dtype="float32"))


@pytest.mark.slow
@pytest.mark.parametrize("width", [16, 64])
def test_equal_in_law_on_dependent_samples(width):
    """Rank two of five: a sample twice, its negative, and a combination; 24 features."""
    x = np.random.default_rng(0).standard_normal((5, 24))
    x[2], x[3], x[4] = x[0], -x[0], x[0] + x[1]
    layer = Layer(activation=act.gelu)
    assert equal(
        *(
            ensemble(method, layer, from_data(x), width=width, networks=NETWORKS)
            for method in ("direct", "collapsed")
        )
    )


def test_signs_have_the_same_law():
    """GN(2) at eps = 0 only keeps signs: no gradient, second moment 1/2, similarities k/n.

    Similarities are rounded to 1e-9, so that equal ones are ties and not ordered by rounding.
    """
    layer = Layer(norm=nm.group_norm(2))
    ensembles = []
    for method in ("direct", "collapsed"):
        with pytest.warns(RegimeWarning, match="exactly 0"):
            ensembles.append(ensemble(method, layer, inputs_for(4), width=32, networks=FEW))
    for samples in ensembles:
        assert (samples["squared_gradient"] == 0.0).all()
        np.testing.assert_allclose(samples["second_moment"], 0.5, rtol=1e-12)
    first, second = (samples["similarity"].round(9) for samples in ensembles)
    assert DEPTH * two_sample.ks(first, second).min() > SHARE


# Mistakes, made behind a correct map and from its outside.


class Mistaken:
    """A Gaussian map with one mistake of ``MISTAKES``."""

    def __init__(self, linear, weights, mistake, rng):
        self._linear, self._weights = linear, weights
        self._mistake, self._rng = mistake, rng

    def forward(self, x):
        if self._weights.centered:
            x = x - x.mean(axis=0)
        self._q, self._r = np.linalg.qr(x)
        h = self._linear.forward(x)
        sigma = math.sqrt(self._weights.weight_variance)
        # Z, or with normalized rows Z / |g|.
        self._scale = sigma if self._weights.normalized else sigma / math.sqrt(len(x))
        self._z = np.linalg.solve(self._r.T, h.T).T / self._scale
        if self._mistake == "no remainder":
            return h / np.linalg.norm(self._z, axis=1, keepdims=True)
        return h

    def backward(self, delta):
        exact = self._linear.backward(delta)
        q, z = self._q, self._z
        if self._mistake == "no seen part":
            return exact - q @ (q.T @ exact)
        triangle = np.linalg.qr(delta)[1]
        if self._mistake == "reused":
            y = self._scale * z @ triangle
            if self._weights.centered:
                y -= y.mean(axis=0)
            return y + q @ (q.T @ (exact - y))
        # Q Q' N R_delta was not taken out; Q' N is independent of the rest.
        unprojected = self._rng.standard_normal(triangle.shape) @ triangle
        return exact + self._scale * q @ unprojected


MISTAKES = {
    "no projection": "W' delta = Q Z' delta + N R_delta",
    "reused": "W' delta = Q Z' delta + (I - Q Q') Z R_delta",
    "no seen part": "W' delta = (I - Q Q') N R_delta",
    "no remainder": "|g| = |g Q|",
}


def mistaken_ensemble(monkeypatch, mistake, name, *, width, networks):
    class Sampler(CollapsedSampler):
        def draw(self, weights, *, fan_in, fan_out, layer):
            linear = super().draw(weights, fan_in=fan_in, fan_out=fan_out, layer=layer)
            rng = np.random.default_rng([*self.key, layer])
            return Mistaken(linear, weights, mistake, rng)

    layer, batch = (CASES | FORWARD)[name]
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "CollapsedSampler", Sampler)
        return ensemble(
            "collapsed",
            layer,
            inputs_for(batch),
            width=width,
            networks=networks,
            backward=name not in FORWARD,
            workers=1,
        )


@pytest.mark.parametrize(
    ("mistake", "name"),
    [
        ("no projection", "BN"),
        ("no seen part", "BN"),
        ("reused", "one sample"),
        ("no remainder", "WN"),
    ],
)
def test_mistakes_are_found_quickly(monkeypatch, mistake, name):
    """300 networks of width 64 do."""
    direct, _ = direct_and_collapsed(name, width=64, networks=FEW)
    wrong = mistaken_ensemble(monkeypatch, mistake, name, width=64, networks=FEW)
    assert marginal_p(direct, wrong) < SHARE


# What is missing or left in is a part of about B/n of the gradient's square in each layer: the wider
# the network, the more networks it takes.  A reused Z keeps the right law given x and delta: it is
# standard normal and independent of x.  Only its fluctuations |Z R|^2 and |Z R_delta|^2 are shared,
# O(n^-1/2) both forwards and backwards, at every width.  A single sample without a normalizer shows
# them as they are, RMSNorm and LN divide them out of each other; over several samples R and R_delta
# weigh different directions, and pools of a few channels (BN, GN) average them away: there, reuse is
# not told from the truth with 1,500 networks.
FOUND = [
    (mistake, name, width, NETWORKS)
    for mistake in ("no projection", "no seen part")
    for name in ("BN", "LN", "GN(4)", "centered")
    for width in (64, 256)
]
FOUND += [("reused", "one sample", width, FEW) for width in WIDTHS]
FOUND += [("reused", "two samples", 256, NETWORKS), ("reused", "RMSNorm", 64, NETWORKS)]
FOUND += [("no remainder", name, width, FEW) for name in FORWARD for width in WIDTHS]


@pytest.mark.slow
@pytest.mark.parametrize(("mistake", "name", "width", "networks"), FOUND)
def test_mistakes_are_found(monkeypatch, mistake, name, width, networks):
    direct, _ = direct_and_collapsed(name, width=width, networks=networks)
    wrong = mistaken_ensemble(monkeypatch, mistake, name, width=width, networks=networks)
    assert marginal_p(direct, wrong) < SHARE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mistake", "name", "networks"),
    [
        ("no projection", "BN", FEW),
        ("no seen part", "BN", FEW),
        ("reused", "one sample", 2 * FEW),
        ("no remainder", "WN", FEW),
    ],
)
def test_mistakes_are_found_jointly(monkeypatch, mistake, name, networks):
    """The energy distance finds them too, at width 64."""
    direct, _ = direct_and_collapsed(name, width=64, networks=networks)
    wrong = mistaken_ensemble(monkeypatch, mistake, name, width=64, networks=networks)
    assert joint_p(direct, wrong) < SHARE


# The energy test itself.


def test_energy_p_values_are_valid():
    """P(p <= a) <= a under equal laws; each line fails with probability < 1e-5."""
    rng = np.random.default_rng(0)
    p = np.array(
        [
            two_sample.energy(
                rng.standard_cauchy((12, 2)), rng.standard_cauchy((12, 2)), level=0.01, seed=seed
            )
            for seed in range(400)
        ]
    )
    for level in (0.05, 0.2, 0.5):
        assert stats.binom.sf((p <= level).sum() - 1, len(p), level) > 1e-5
    assert p.min() < 0.1


def test_energy_sees_what_marginals_hide():
    """Normal coordinates with correlation 0 and 0.9; a correct test says so with p <= 2e-4."""
    rng = np.random.default_rng(1)
    first, second = rng.standard_normal((2, FEW, 2))
    second[:, 1] = 0.9 * second[:, 0] + math.sqrt(1 - 0.81) * second[:, 1]
    assert two_sample.energy(first, second, level=2e-4, seed=0) <= 2e-4
    assert two_sample.ks(first, second).min() > 1e-3
