"""Exchangeable positions from specification to prediction: values, laws, and a naive simulation.

Oracles: the notes' table, closed forms, one-position predictions (another route), full matrices, and
one layer simulated in NumPy with its backward pass written from N(h) = A h / R alone.
"""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import stats

import montecarlo as mc
import theory as th
from theory import storage
from theory.errors import HypothesisError, NumericalError, SpecificationError, StoreError
from theory.operators import bind_pull, bind_push
from theory.program import NormAct, Observe, lower
from theory.recursion import initial_state
from theory.routes.positions_spectrum import PositionSpectrum
from theory.specs import serialize
from theory.specs.normalizers import Normalizer, Pool
from theory.states.base import Gradient
from theory.states.spatial import Spatial

INF = math.inf
CHANNELS_ONLY = Normalizer(
    name="GN(5) at each position",
    pool=Pool(samples=False, positions=False, channels=5),
    centered=True,
    denominator="std",
)


def network(norm=None, *, depth=1, **layer):
    return th.FeedForward(th.Layer(norm=norm, **layer), depth=depth)


def batch(samples=3, positions=4, *, gap=0.4, position_gap=0.6, **numbers):
    return th.exchangeable(
        batch=samples, gap=gap, positions=positions, position_gap=position_gap, **numbers
    )


def batchnorm_growth(pool):
    """lambda_B (theory notes, section 4, "BN backward")."""
    rho = -1.0 / (pool - 1)
    kappa = (math.sqrt(1.0 - rho**2) + rho * (math.pi - math.acos(rho))) / math.pi
    both = 0.25 + math.asin(rho) / (2.0 * math.pi)
    d = pool / 2 - (0.5 + (pool - 1) * both)
    q = 0.5 + (pool - 1) * kappa / 2
    return (
        2.0 * pool / ((pool - 1) * (pool - 3) * (1.0 - kappa)) * ((pool - 2) / 2 - (d - q) / pool)
    )


# --- Fixed points ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "beside", "growth"),
    [
        (1, 0.28568417, 1.58995042),
        (2, 0.40570527, 1.42369365),
        (4, 0.54178510, 1.31788903),
        (8, 0.68906636, 1.23005255),
    ],
)
def test_groups_over_sixteen_positions(group, beside, growth):
    """Theory notes, section 4, "With positions": to the digits given."""
    found = th.fixed_point(network(th.group_norm(group)), positions=16)
    assert found.position_correlation == pytest.approx(beside, abs=5.1e-9)
    assert found.gradient_growth == pytest.approx(growth, abs=5.1e-9)
    assert found.status == "attracting"
    assert found.bound < 1e-12


@pytest.mark.parametrize(
    ("positions", "beside", "growth"),
    [(4, 0.47967, 1.86428), (8, 0.49839, 1.50943), (16, 0.50840, 1.41077), (32, 0.51353, 1.37183)],
)
def test_filter_response_over_positions(positions, beside, growth):
    found = th.fixed_point(network(th.filter_response_norm()), positions=positions)
    assert found.position_correlation == pytest.approx(beside, abs=5.1e-6)
    assert found.gradient_growth == pytest.approx(growth, abs=5.1e-6)


@pytest.mark.parametrize(
    ("norm", "similarity"),
    [
        (th.instance_norm(), 0.32909),
        (th.group_norm(4), 0.56189),
        (th.filter_response_norm(), 0.53478),
    ],
)
def test_pairs_of_samples_settle_where_positions_no_longer_matter(norm, similarity):
    found = th.fixed_point(network(norm), positions=16)
    assert found.similarity == pytest.approx(similarity, abs=5.1e-6)
    deep = th.predict(network(norm, depth=150), batch(2, 16), backward=False)
    assert deep.similarity[-1] == pytest.approx(found.similarity, abs=1e-10)
    _, gap_b, gap_x = deep.states[-1].spectrum.gaps()
    assert gap_x == pytest.approx(gap_b, rel=1e-10)


def test_pairs_of_instances_settle_at_the_closed_value():
    """E kappa_1(r) at c = 0 over n = S - 1 directions (theory notes, section 3)."""
    n = 15
    ratio = math.exp(2.0 * (math.lgamma(n / 2) - math.lgamma((n + 1) / 2)))
    found = th.fixed_point(network(th.instance_norm()), positions=16)
    assert found.similarity == pytest.approx(n * ratio / (2.0 * math.pi), abs=1e-12)


@pytest.mark.parametrize("norm", [th.instance_norm(), th.group_norm(3), th.filter_response_norm()])
def test_slope_and_growth_are_those_of_deep_networks(norm):
    found = th.fixed_point(network(norm), positions=8)
    deep = th.predict(network(norm, depth=80), batch(2, 8))
    one, two, three = deep.gap[39:42]
    assert (three - two) / (two - one) == pytest.approx(found.slope, rel=1e-3)
    steps = -2.0 * np.diff(deep.log_gradient_norm)
    # Both ends relax: the cotangent above, the inputs below.
    assert steps[40] == pytest.approx(math.log(found.gradient_growth), abs=1e-6)


@pytest.mark.parametrize("positions", [4, 8, 16, 64])
def test_instances_explode_as_batches_of_as_many_samples(positions):
    found = th.fixed_point(network(th.instance_norm()), positions=positions)
    assert found.gradient_growth == pytest.approx(batchnorm_growth(positions), abs=1e-9)


@pytest.mark.parametrize(("samples", "positions"), [(2, 2), (4, 4), (2, 8), (16, 64), (INF, 3)])
def test_batch_norm_pools_samples_and_positions_alike(samples, positions):
    norm = th.batch_norm()
    found = th.fixed_point(network(norm), batch=samples, positions=positions)
    pooled = th.fixed_point(network(norm), batch=samples * positions)
    assert found.gradient_growth == pytest.approx(pooled.gradient_growth, abs=1e-9)
    assert found.similarity == pytest.approx(pooled.similarity, abs=1e-12)
    assert found.position_correlation == pytest.approx(pooled.correlation, abs=1e-12)
    assert found.slope == pytest.approx(pooled.slope, abs=1e-9)


@pytest.mark.parametrize("norm", [th.batch_norm(eps=0.1), th.mean_centering()])
def test_pools_that_are_not_scale_free_pool_alike(norm):
    found = th.fixed_point(network(norm), batch=4, positions=4)
    pooled = th.fixed_point(network(norm), batch=16)
    assert found.gradient_growth == pytest.approx(pooled.gradient_growth, abs=1e-9)
    assert found.second_moment == pytest.approx(pooled.second_moment, rel=1e-9)


@pytest.mark.parametrize("samples", [4, INF])
def test_collapse_under_variance_norm(samples):
    """Theory notes, section 4, "VN": 1 - c shrinks by (B-3)/(B-1), B the pool; never at B = inf."""
    found = th.fixed_point(network(th.variance_norm()), batch=samples, positions=4)
    pool = 4 * samples
    assert (found.gap, found.similarity, found.second_moment) == (0.0, 1.0, INF)
    assert found.slope == pytest.approx((pool - 3) / (pool - 1) if pool < INF else 1.0, abs=1e-9)
    assert found.gradient_growth == pytest.approx(INF if samples < INF else 1.0)


FREE = {
    "plain": {},
    "plain, growing": {"weights": th.gaussian(weight_variance=3.0)},
    "plain, vanishing": {"weights": th.gaussian(weight_variance=1.0)},
    "tanh": {"activation": th.tanh},
    "ordered tanh": {"activation": th.tanh, "weights": th.gaussian(weight_variance=1.2)},
    "gelu": {"activation": th.gelu},
    "WN": {"weights": th.weight_norm(), "activation": th.scaled_relu},
    "SWS": {"weights": th.scaled_weight_standardization()},
    "WC": {"weights": th.centered_weights()},
    "LN": {"norm": th.layer_norm()},
    "LN, tanh": {"norm": th.layer_norm(), "activation": th.tanh},
    "LN, eps": {"norm": th.layer_norm(eps=0.1), "activation": th.scaled_relu},
    "RMSNorm": {"norm": th.rms_norm()},
    "GN(5) at each position": {"norm": CHANNELS_ONLY},
}


@pytest.mark.parametrize("layer", FREE.values(), ids=FREE)
def test_fixed_points_without_pools_over_positions(layer):
    found = th.fixed_point(th.FeedForward(th.Layer(**layer), depth=1), positions=9)
    alone = th.fixed_point(th.FeedForward(th.Layer(**layer), depth=1))
    for name in ("gap", "similarity", "second_moment", "slope", "gradient_growth", "depth_scale"):
        assert getattr(found, name) == pytest.approx(getattr(alone, name), abs=1e-12), name
    assert (found.status, found.note) == (alone.status, alone.note)
    assert found.position_correlation == pytest.approx(alone.correlation, abs=1e-12)


def test_second_moments_that_run_away_or_settle():
    vanishing = th.fixed_point(network(th.mean_centering()), batch=4, positions=4)
    assert vanishing.second_moment == 0.0
    assert "0.669671 per layer" in vanishing.note
    growing = th.fixed_point(
        network(th.mean_centering(), weights=th.gaussian(weight_variance=4.0)), batch=4, positions=4
    )
    assert growing.second_moment == INF
    # With eps, q moves although the gaps of BatchNorm stand from the second layer on.
    soft = network(th.batch_norm(eps=0.1), depth=60)
    found = th.fixed_point(soft, batch=4, positions=4)
    deep = th.predict(soft, batch(4, 4))
    assert found.second_moment == pytest.approx(deep.preactivation_second_moment[-1], rel=1e-10)
    steps = -2.0 * np.diff(deep.log_gradient_norm)
    assert math.log(found.gradient_growth) == pytest.approx(steps[30], abs=1e-6)
    # Below the critical gain eps decides, and every scale is left behind.
    lost = th.fixed_point(network(th.instance_norm(eps=1.0)), positions=4)
    assert lost.second_moment == 0.0
    deep = th.predict(network(th.instance_norm(eps=1.0), depth=90), batch(2, 4))
    one, two, three = deep.gap[57:60]
    assert (three - two) / (two - one) == pytest.approx(lost.slope, rel=1e-3)
    steps = -2.0 * np.diff(deep.log_gradient_norm)
    assert math.log(lost.gradient_growth) == pytest.approx(steps[60], abs=1e-5)


def test_fixed_points_of_given_inputs():
    inputs = batch(5, 6, gap=0.2)
    norm = th.batch_norm()
    assert th.fixed_point(network(norm), inputs) == th.fixed_points(network(norm), inputs)[0]
    assert th.fixed_point(network(norm), inputs, batch=5, positions=6).similarity == pytest.approx(
        th.fixed_point(network(norm), batch=30).similarity, abs=1e-12
    )
    for wrong in ({"batch": 4}, {"positions": 7}):
        with pytest.raises(SpecificationError, match=r"batch, positions = .*5 and 6; give either"):
            th.fixed_point(network(norm), inputs, **wrong)
    for positions in (0, -1, 2.5):
        with pytest.raises(SpecificationError, match=r"positions = .*an integer >= 1"):
            th.fixed_point(network(norm), positions=positions)


@pytest.mark.parametrize("norm", [th.instance_norm(), th.group_norm(2), th.batch_norm()])
def test_positions_of_equal_samples_settle(norm):
    """One sample, or equal ones: w* and lambda as of any, and BatchNorm over them is InstanceNorm."""
    inputs = [batch(3, 8, gap=0.0)]
    if not norm.couples_samples:
        inputs.append(th.exchangeable(batch=1, positions=8, position_gap=0.5))
    alone = th.instance_norm() if norm.couples_samples else norm
    expected = th.fixed_point(network(alone), positions=8)
    for given in inputs:
        found = th.fixed_point(network(norm), given)
        assert (found.gap, found.similarity) == (0.0, 1.0)
        assert found.position_correlation == pytest.approx(expected.position_correlation, rel=1e-11)
        assert found.second_moment == pytest.approx(expected.second_moment, rel=1e-12)
        if norm.couples_samples:
            continue
        assert found.gradient_growth == pytest.approx(expected.gradient_growth, rel=1e-11)
        # Two samples that differ a little part: at equal samples b and w have one map.
        assert found.slope == pytest.approx(found.gradient_growth, rel=1e-9)
        assert found.status == "repelling"


def test_fixed_points_do_not_ask_whether_a_kernel_fits():
    assert th.fixed_point(network(th.group_norm(2), kernel=9), positions=4).similarity == (
        th.fixed_point(network(th.group_norm(2)), positions=4).similarity
    )


# --- Laws -----------------------------------------------------------------------------------------


def fold(net, state, *, backward):
    """States of every x^l, and Pi at every h^l, through the spatial operators."""
    ops = [op for op in lower(net) if not isinstance(op, Observe)]
    states = [state]
    for op in ops:
        push, _ = bind_push(op, states[-1])
        states.append(push(states[-1]))
    gradient = Gradient((1.0, 0.0, 0.0, 0.0), 0, 0.0)
    gradients = []
    for op, at in zip(reversed(ops), reversed(states[:-1]), strict=True):
        if not backward:
            break
        pull, _ = bind_pull(op, at)
        gradient = pull(at, gradient)
        if isinstance(op, NormAct):
            gradients.append(gradient)
    return states[2::2], gradients[::-1]


ONE_POSITION = {
    "GN(3)": th.group_norm(3),
    "GN(4)": th.group_norm(4),
    "GN(8)": th.group_norm(8),
    "GN(8), eps": th.group_norm(8, eps=0.2, ddof=1),
    "BN": th.batch_norm(),
    "BN, eps": th.batch_norm(eps=0.3),
    "VN": th.variance_norm(),
    "MC": th.mean_centering(),
    "LN": th.layer_norm(),
    "RMSNorm": th.rms_norm(eps=0.1),
    "plain": None,
}


@pytest.mark.parametrize("activation", [th.relu, th.leaky_relu(0.3), th.scaled_relu], ids=repr)
@pytest.mark.parametrize("norm", ONE_POSITION.values(), ids=ONE_POSITION)
def test_one_position_is_the_state_without_positions(norm, activation):
    """S = 1 by hand through the routes over positions; the other side is Pearson's route for GN."""
    net = network(norm, depth=4, activation=activation)
    gap, q = 0.35, 1.7
    pred = th.predict(net, th.exchangeable(batch=9, gap=gap, second_moment=q), backward=False)
    start = Spatial(9, PositionSpectrum(1, 0.0, q, 0.0, q * gap))
    infinite = norm is not None and norm.name == "GN(3)"
    states, gradients = fold(net, start, backward=not infinite)
    np.testing.assert_allclose([s.gap for s in states], pred.gap, rtol=1e-10)
    q_found = [s.second_moment * 4.0**s.exponent for s in states]
    np.testing.assert_allclose(q_found, pred.second_moment, rtol=1e-10)
    if infinite:
        return
    pred = th.predict(net, th.exchangeable(batch=9, gap=gap, second_moment=q))
    logs = Spatial.log_squared_norm(gradients)
    np.testing.assert_allclose(0.5 * (logs - logs[-1]), pred.log_gradient_norm, atol=1e-10)


def test_many_channels_in_a_group_are_layer_norm():
    """GN(G) - LN goes as 1/G: Richardson's value of two large groups is LN to second order."""
    inputs = batch(3, 4)
    layer = th.predict(network(th.layer_norm(), depth=5), inputs)
    first, second = (
        th.predict(network(th.group_norm(size), depth=5), inputs) for size in (2**13, 2**14)
    )
    for name in ("gap", "position_similarity", "log_gradient_norm", "variance"):
        ln, a, b = (np.asarray(getattr(p, name)) for p in (layer, first, second))
        off = np.abs(a - ln) > 1e-9
        np.testing.assert_allclose((a - ln)[off], 2.0 * (b - ln)[off], rtol=2e-3)
        np.testing.assert_allclose(2.0 * b - a, ln, atol=2e-8)


def test_instances_are_groups_of_one_channel():
    inputs = batch(4, 5, gap=0.1)
    one, two = (
        th.predict(network(norm, depth=10), inputs)
        for norm in (th.instance_norm(), th.group_norm(1))
    )
    for name in ("second_moment", "gap", "variance", "stable_rank", "log_gradient_norm"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("layer", FREE.values(), ids=FREE)
def test_networks_that_ignore_positions(layer, kernel):
    """Same-position pairs as without positions; two positions of one sample as two samples would."""
    net = th.FeedForward(th.Layer(**layer, kernel=kernel), depth=6)
    alone = th.FeedForward(th.Layer(**layer), depth=6)
    inputs = batch(4, 6, gap=0.3, position_gap=0.7, cross_gap=0.8, second_moment=1.3)
    pred = th.predict(net, inputs)
    samples, places, both = (
        th.predict(alone, th.exchangeable(batch=2, gap=gap, second_moment=1.3))
        for gap in (0.3, 0.7, 0.8)
    )
    np.testing.assert_allclose(pred.second_moment, samples.second_moment, rtol=1e-13)
    np.testing.assert_allclose(pred.gap, samples.gap, rtol=1e-12)
    np.testing.assert_allclose(pred.position_similarity, places.similarity, atol=1e-12)
    crosses = [state.spectrum.gaps()[2] for state in pred.states]
    np.testing.assert_allclose(crosses, both.gap, rtol=1e-12)
    np.testing.assert_allclose(pred.log_gradient_norm, samples.log_gradient_norm, atol=1e-12)
    assert pred.regime.status == samples.regime.status


def test_batch_norm_from_any_inputs_settles_in_the_closed_form():
    """Theory notes, section 4: from covariances alike at all pairs, kappa_1(-1/(B S - 1)) at once."""
    rho = -1.0 / 11
    kappa = (math.sqrt(1.0 - rho**2) + rho * (math.pi - math.acos(rho))) / math.pi
    pred = th.predict(
        network(th.batch_norm(), depth=3), batch(3, 4, gap=0.4, position_gap=0.4, cross_gap=0.4)
    )
    np.testing.assert_allclose(pred.similarity, kappa, rtol=1e-13)
    np.testing.assert_allclose(pred.position_similarity, kappa, rtol=1e-13)
    growth = math.log(batchnorm_growth(12))
    np.testing.assert_allclose(-2.0 * np.diff(pred.log_gradient_norm)[1:], growth, atol=1e-12)


@pytest.mark.parametrize("norm", [th.batch_norm(), th.variance_norm(), th.mean_centering()])
def test_large_batches_tend_to_the_infinite_one(norm):
    net = network(norm, depth=3)
    limit = th.predict(net, batch(INF, 4))
    first, second = (th.predict(net, batch(size, 4)) for size in (2**12, 2**13))
    for name in ("gap", "position_similarity", "log_gradient_norm", "variance"):
        ends = (np.asarray(getattr(p, name)) for p in (first, second, limit))
        a, b, c = ends
        assert np.abs(b - c).max() < 5e-3
        np.testing.assert_allclose(2.0 * b - a, c, atol=1e-5)
    np.testing.assert_allclose(limit.stable_rank, 1.0 / limit.similarity)


@pytest.mark.parametrize("norm", [th.group_norm(2), th.instance_norm(), th.filter_response_norm()])
def test_sample_wise_normalizers_do_not_count_samples(norm):
    few, many, all_ = (th.predict(network(norm, depth=4), batch(size, 5)) for size in (2, 50, INF))
    for other in (many, all_):
        np.testing.assert_array_equal(few.gap, other.gap)
        np.testing.assert_array_equal(few.log_gradient_norm, other.log_gradient_norm)


SPANNING = {
    "BN": th.batch_norm(),
    "BN, eps": th.batch_norm(eps=0.2, ddof=1),
    "VN": th.variance_norm(),
    "MC": th.mean_centering(),
    "LN": th.layer_norm(),
    "GN(2)": th.group_norm(2),
    "GN(3), eps": th.group_norm(3, eps=0.1),
    "IN": th.instance_norm(),
    "FRN": th.filter_response_norm(eps=0.05),
}


@pytest.mark.parametrize("norm", SPANNING.values(), ids=SPANNING)
def test_layers_compose(norm):
    """Layer l + 1 of a deep network is layer 1 of a network started from the covariances of x^l."""
    net = network(norm, depth=3, activation=th.leaky_relu(0.1))
    pred = th.predict(net, batch(4, 5, gap=0.2, position_gap=0.5, cross_gap=0.6))
    for layer in range(2):
        state = pred.states[layer]
        gap_w, gap_b, gap_x = state.spectrum.gaps()
        again = th.predict(
            network(norm, activation=th.leaky_relu(0.1)),
            batch(
                4,
                5,
                gap=gap_b,
                position_gap=gap_w,
                cross_gap=gap_x,
                second_moment=pred.second_moment[layer],
            ),
        )
        for name in ("second_moment", "gap", "variance", "stable_rank", "position_similarity"):
            assert getattr(again, name)[0] == pytest.approx(
                getattr(pred, name)[layer + 1], rel=1e-9
            )


@pytest.mark.parametrize("norm", SPANNING.values(), ids=SPANNING)
def test_observables_are_those_of_the_matrix(norm):
    pred = th.predict(network(norm, depth=2), batch(3, 4, gap=0.2, position_gap=0.7))
    for layer, matrix in enumerate(pred.covariance):
        assert matrix.shape == (12, 12)
        np.testing.assert_allclose(matrix, matrix.T)
        assert np.linalg.eigvalsh(matrix).min() > 0.0
        assert np.trace(matrix) / 12 == pytest.approx(pred.second_moment[layer], rel=1e-13)
        spread = np.trace(matrix) / 12 - matrix.mean()
        assert pred.variance[layer] == pytest.approx(spread, rel=1e-12)
        blocks = matrix.reshape(3, 4, 3, 4)
        gram = np.einsum("apbp->ab", blocks)
        gram /= gram[0, 0]
        assert pred.similarity[layer] == pytest.approx(gram[0, 1], rel=1e-13)
        rank = np.trace(gram) / np.linalg.eigvalsh(gram)[-1]
        assert pred.stable_rank[layer] == pytest.approx(rank, rel=1e-12)
        beside = blocks[0, 0, 0, 1] / blocks[0, 0, 0, 0]
        assert pred.position_similarity[layer] == pytest.approx(beside, rel=1e-13)


def test_position_similarity_needs_positions():
    pred = th.predict(network(th.layer_norm()), th.exchangeable(batch=9, gap=0.5))
    assert pred.position_similarity is None


# --- One layer against a naive simulation ---------------------------------------------------------

FAMILY = 1e-4  # false-alarm probability of all z-scores below together (seeds are fixed)
SAMPLES, PLACES = 2, 10


@dataclasses.dataclass(frozen=True)
class Naive:
    """N(h) = A h / R for h of shape (draws, B, S, G), and its transposed Jacobian, from axes alone."""

    axes: tuple[int, ...]
    centered: bool
    form: str | None
    eps: float = 0.0
    lost: int = 0
    level: float | None = None

    def center(self, h):
        return h - h.mean(self.axes, keepdims=True)

    def parts(self, h):
        d = self.center(h) if self.centered else h
        if self.form is None:
            return d, np.ones(1), np.zeros_like(h), 1.0
        if self.level is not None:  # R is a number: a pool over infinitely many channels
            return d, np.full(1, math.sqrt(self.level + self.eps)), np.zeros_like(h), 1.0
        m = self.center(h) if self.form == "std" else h
        count = math.prod(h.shape[axis] for axis in self.axes) - self.lost
        square = (m * m).sum(self.axes, keepdims=True) / count + self.eps
        return d, np.sqrt(square), m, count

    def forward(self, h, slope):
        d, root, _, _ = self.parts(h)
        return np.where(d > 0.0, d, slope * d) / root

    def backward(self, h, delta, slope):
        d, root, m, count = self.parts(h)
        gated = np.where(d > 0.0, delta, slope * delta) / root
        direct = self.center(gated) if self.centered else gated
        if self.form is None or self.level is not None:
            return direct
        shared = (gated * d).sum(self.axes, keepdims=True) / (count * root**2)
        return direct - shared * m


Q = 1.4
ALL, SPACE, GROUP = (1, 2), (2,), (2, 3)
# Name -> (normalizer, the naive one, channels per draw).
CASES = {
    "BN": (th.batch_norm(), Naive(ALL, True, "std"), 1),
    "BN, eps, ddof": (th.batch_norm(eps=0.3, ddof=1), Naive(ALL, True, "std", 0.3, 1), 1),
    "VN": (th.variance_norm(), Naive(ALL, False, "std"), 1),
    "MC": (th.mean_centering(), Naive(ALL, True, None), 1),
    "IN": (th.instance_norm(), Naive(SPACE, True, "std"), 1),
    "FRN": (th.filter_response_norm(), Naive(SPACE, False, "rms"), 1),
    "FRN, eps": (th.filter_response_norm(eps=0.2), Naive(SPACE, False, "rms", 0.2), 1),
    "GN(2)": (th.group_norm(2), Naive(GROUP, True, "std"), 2),
    "GN(3), eps": (th.group_norm(3, eps=0.1), Naive(GROUP, True, "std", 0.1), 3),
    "GN(5) at each position": (CHANNELS_ONLY, Naive((3,), True, "std"), 5),
    "LN": (th.layer_norm(), Naive(GROUP, False, "std", level=2 * Q), 1),
    "RMSNorm": (th.rms_norm(eps=0.3), Naive(GROUP, False, "rms", 0.3, level=2 * Q), 1),
    "plain": (None, Naive(ALL, False, None), 1),
}
AFFINE = {"relu": th.relu, "leaky": th.leaky_relu(0.3), "scaled": th.scaled_relu}
CODES = [
    (name, kind)
    for name in CASES
    for kind in AFFINE
    if kind == "relu" or name in ("BN", "VN", "GN(2)", "FRN", "LN", "plain")
]
# q, w, b, x and the mean forwards, q, w, b, x backwards.
LIMIT = float(stats.norm.isf(FAMILY / (2 * 9 * len(CODES))))


def four_means(values):
    """Means over (same, other position, other sample, both other), per draw; (draws, B, S, G) twice."""
    first, second = values
    _, b, s, channels = first.shape
    total = np.einsum("dbsg,dbsg->d", first, second)
    over_sample = np.einsum("dbg,dbg->d", first.sum(2), second.sum(2))
    over_place = np.einsum("dsg,dsg->d", first.sum(1), second.sum(1))
    every = np.einsum("dg,dg->d", first.sum((1, 2)), second.sum((1, 2)))
    size = b * s * channels
    return np.stack(
        [
            total / size,
            (over_sample - total) / (size * (s - 1)),
            (over_place - total) / (size * (b - 1)),
            (every - over_sample - over_place + total) / (size * (b - 1) * (s - 1)),
        ],
        axis=1,
    )


def draws_of(entries, count, channels, rng):
    """(count, B, S, channels) Gaussians with covariance (q, w, b, x) over (sample, position)."""
    q, w, b, x = entries
    same, other = np.full((PLACES, PLACES), w), np.full((PLACES, PLACES), x)
    np.fill_diagonal(same, q)
    np.fill_diagonal(other, b)
    eye = np.eye(SAMPLES)
    values, vectors = np.linalg.eigh(np.kron(eye, same) + np.kron(1.0 - eye, other))
    assert values.min() > -1e-12
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    normal = rng.standard_normal((count * channels, SAMPLES * PLACES)) @ root.T
    return normal.reshape(count, channels, SAMPLES, PLACES).transpose(0, 2, 3, 1)


def test_the_naive_backward_pass_is_the_derivative():
    rng = np.random.default_rng(0)
    for name, (_, naive, channels) in CASES.items():
        h = rng.standard_normal((3, SAMPLES, PLACES, channels))
        delta, step = rng.standard_normal((2, *h.shape))
        slope, tiny = 0.3, 1e-6
        up, down = (naive.forward(h + sign * tiny * step, slope) for sign in (1, -1))
        numeric = ((up - down) / (2.0 * tiny) * delta).sum()
        exact = (naive.backward(h, delta, slope) * step).sum()
        assert exact == pytest.approx(numeric, rel=1e-6), name


@pytest.mark.parametrize(("name", "kind"), CODES)
def test_one_layer_against_simulation(name, kind):
    """All four moments, the mean and E[J' Pi J], as z-scores; pools of rank >= 4 at each position."""
    norm, naive, channels = CASES[name]
    activation = AFFINE[kind]
    slope = activation.base.ray_slopes[1] * -1.0
    rng = np.random.default_rng([7, CODES.index((name, kind))])
    count = 30_000
    gaps = {"gap": 0.3, "position_gap": 0.8, "cross_gap": 0.85}
    inputs = batch(SAMPLES, PLACES, **gaps, second_moment=Q)
    state = initial_state(inputs).linear(2.0, centered=False)
    op = NormAct(norm, activation)
    pi = (1.0, 0.3, -0.4, -0.1)
    push, _ = bind_push(op, state)
    pull, _ = bind_pull(op, state)
    pushed, pulled = push(state), pull(state, Gradient(pi, 0, 0.0))
    assert pushed.gap_error < 1e-11
    q, (gap_w, gap_b, gap_x) = pushed.second_moment, pushed.spectrum.gaps()
    expected = [q, q * (1 - gap_w), q * (1 - gap_b), q * (1 - gap_x), pushed.mean]

    h = draws_of([2 * Q, 0.2 * 2 * Q, 0.7 * 2 * Q, 0.15 * 2 * Q], count, channels, rng)
    x = activation.scale * naive.forward(h, slope) + activation.shift
    delta = draws_of(pi, count, channels, rng)
    g = activation.scale * naive.backward(h, delta, slope)
    columns = [four_means((x, x)), x.mean((1, 2, 3))[:, None], four_means((g, g))]
    seen = np.concatenate(columns, axis=1)
    sem = seen.std(axis=0, ddof=1) / math.sqrt(count)
    # A rms of relu's homogeneous image is a number: nothing to test but equality.
    fixed = sem < 1e-12
    difference = seen.mean(axis=0) - np.array([*expected, *pulled.value])
    np.testing.assert_allclose(difference[fixed], 0.0, atol=1e-10)
    z = difference[~fixed] / sem[~fixed]
    assert np.abs(z).max() < LIMIT, z


# --- Ranges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", [1.0, 3.0])
def test_five_thousand_plain_layers(variance):
    depth = 5000
    net = network(weights=th.gaussian(weight_variance=variance), kernel=3, depth=depth)
    pred = th.predict(net, batch(3, 5))
    step = math.log(variance / 2.0)
    layers = np.arange(1, depth + 1)
    np.testing.assert_allclose(pred.log_second_moment, layers * step, rtol=1e-12)
    np.testing.assert_allclose(pred.log_gradient_norm, 0.5 * step * (depth - layers), rtol=1e-12)
    # 1 - c -> 9 pi^2/(2 l^2), ratio .988 at l = 3000 (theory notes, section 4).
    assert pred.gap[2999] * 2 * 3000**2 / (9 * math.pi**2) == pytest.approx(0.988, abs=2e-3)
    assert np.isfinite(pred.log_variance).all()
    assert np.isfinite(pred.log_gradient_norm).all()


def test_deep_networks_through_shared_statistics():
    """BatchNorm's gradients leave the floating-point range after 700 layers: their logarithm stays."""
    pred = th.predict(network(th.batch_norm(), depth=800), batch(2, 2))
    steps = -2.0 * np.diff(pred.log_gradient_norm)
    np.testing.assert_allclose(steps[30:-30], math.log(batchnorm_growth(4)), atol=1e-11)
    centered = th.predict(network(th.mean_centering(), depth=2000), batch(2, 2), backward=False)
    assert centered.log_second_moment[-1] < -700.0
    np.testing.assert_allclose(centered.similarity[-1], pred.similarity[-1], rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-250, 1e250])
@pytest.mark.parametrize(
    "norm", [th.batch_norm(), th.group_norm(2), th.layer_norm(), None], ids=repr
)
def test_any_scale_of_inputs_and_weights(norm, scale):
    """Scale-free normalizers see no scale, not even beside a shift; plain networks pass it on."""
    activation = th.relu if norm is None else th.scaled_relu
    one, other, heavy = (
        th.predict(
            network(
                norm, activation=activation, depth=3, weights=th.gaussian(weight_variance=variance)
            ),
            batch(3, 4, second_moment=second_moment),
        )
        for variance, second_moment in ((2.0, 1.0), (2.0, scale), (2.0 * scale**0.25, 1.0))
    )
    for pred in (other, heavy):
        np.testing.assert_allclose(pred.gap, one.gap, rtol=1e-12)
        np.testing.assert_allclose(pred.position_similarity, one.position_similarity, rtol=1e-12)
    if norm is None:
        grown = one.log_second_moment + math.log(scale)
        np.testing.assert_allclose(other.log_second_moment, grown, rtol=1e-12)
        np.testing.assert_allclose(other.log_gradient_norm, one.log_gradient_norm, atol=1e-12)
        return
    for pred in (other, heavy):
        np.testing.assert_allclose(pred.second_moment, one.second_moment, rtol=1e-12)
        np.testing.assert_allclose(pred.variance, one.variance, rtol=1e-12)
    # The first pre-activation alone has the inputs' scale, and its gradient the inverse.
    ratio = np.array([-0.5 * math.log(scale), 0.0, 0.0])
    np.testing.assert_allclose(
        other.log_gradient_norm, one.log_gradient_norm + ratio, rtol=1e-12, atol=1e-12
    )


NEAR = {
    "plain": None,
    "LN": th.layer_norm(),
    "GN(1)": th.instance_norm(),
    "GN(2)": th.group_norm(2),
    "GN(8)": th.group_norm(8),
    "FRN": th.filter_response_norm(),
    "GN(5) at each position": CHANNELS_ONLY,
}


@pytest.mark.parametrize("position_gap", [0.9, 1e-6])
@pytest.mark.parametrize("norm", NEAR.values(), ids=NEAR)
def test_nearly_equal_samples_keep_relative_precision(norm, position_gap):
    """gap'/gap = a + b sqrt(gap) + O(gap): equal ratios of differences, and a from the backward route.

    With product covariances the distances start as gap (lambda_p, lambda_m), and a is a row of the
    matrix that is adjoint to the gradient's (theory notes, section 4).
    """
    positions = 6
    # Samples near each other on the scale of the distance of positions.
    sizes = 1e-10 * (1.0 if position_gap > 0.1 else position_gap) * np.array([1.0, 4.0, 16.0])
    shrink = []
    for gap in sizes:
        pred = th.predict(
            network(norm), batch(2, positions, gap=gap, position_gap=position_gap), backward=False
        )
        shrink.append(pred.gap[0] / gap)
        # 1 - c of the printed prediction is honest: its stated error is relative.
        assert pred.activation.gap_error[0] < 1e-9
    one, two, three = shrink
    assert three - two == pytest.approx(2.0 * (two - one), rel=1e-3, abs=1e-11 * one)
    start = 2.0 * one - two

    q, w = 2.0, 2.0 * (1.0 - position_gap)
    state = initial_state(batch(2, positions, gap=0.0, position_gap=position_gap))
    state = state.linear(2.0, centered=False)
    pull, _ = bind_pull(NormAct(norm, th.relu), state)
    same = pull(state, Gradient((0.0, 0.0, 1.0, 0.0), 0, 0.0)).value[2:]
    push, _ = bind_push(NormAct(norm, th.relu), state)
    # d b' = same . (d b, d x) weighted (S, S(S-1)); K' changes by -gap (q, w).
    expected = (same[0] * q + (positions - 1) * same[1] * w) / push(state).second_moment
    assert start == pytest.approx(expected, rel=1e-6)


def test_nearly_equal_samples_many_layers_down():
    """Layer norm against kappa_1 in mpmath, from 1 - c = 1e-10 through 30 layers."""
    mpmath = pytest.importorskip("mpmath")
    pred = th.predict(network(th.layer_norm(), depth=30), batch(2, 4, gap=1e-10), backward=False)
    with mpmath.workdps(50):
        gap = mpmath.mpf("1e-10")
        for layer in range(30):
            angle = mpmath.acos(1 - gap)
            gap = 1 - (mpmath.sin(angle) + (mpmath.pi - angle) * mpmath.cos(angle)) / mpmath.pi
            assert pred.gap[layer] == pytest.approx(float(gap), rel=1e-12, abs=0.0)


def test_identical_samples_stay_identical():
    for norm in (None, th.layer_norm(), th.group_norm(2), th.instance_norm(), CHANNELS_ONLY):
        pred = th.predict(network(norm, depth=4), batch(3, 6, gap=0.0))
        np.testing.assert_array_equal(pred.gap, 0.0)
        assert (pred.variance > 0.0).all()
    # Samples that differ by constants are the same to InstanceNorm, which subtracts them.
    shifted = batch(3, 6, gap=0.25, position_gap=0.5, cross_gap=0.75)
    alike = th.predict(network(th.instance_norm()), shifted)
    # The difference of gaps that says so is known up to rounding.
    assert alike.gap[0] <= alike.error["gap"][0] < 1e-14
    assert th.predict(network(th.filter_response_norm()), shifted).gap[0] > 0.1


def test_batch_norm_over_identical_samples_is_instance_norm():
    """One sample's positions are all there is to pool; the gradient of B equal samples splits."""
    inputs = batch(5, 8, gap=0.0)
    shared = th.predict(network(th.batch_norm(), depth=4), inputs)
    alone = th.predict(network(th.instance_norm(), depth=4), inputs)
    np.testing.assert_array_equal(shared.gap, 0.0)
    np.testing.assert_allclose(shared.position_similarity, alone.position_similarity, rtol=1e-12)


def test_one_sample():
    single = th.exchangeable(batch=1, positions=6, position_gap=0.5)
    assert single.cross_gap is None
    several = batch(3, 6, gap=0.9, position_gap=0.5)
    for norm in (None, th.layer_norm(), th.group_norm(2), th.instance_norm()):
        one = th.predict(network(norm, depth=3), single)
        more = th.predict(network(norm, depth=3), several)
        np.testing.assert_allclose(one.position_similarity, more.position_similarity)
        np.testing.assert_allclose(one.log_gradient_norm, more.log_gradient_norm, atol=1e-13)
        np.testing.assert_array_equal(one.gap, 0.0)
        q, w = one.second_moment, one.position_similarity
        np.testing.assert_allclose(one.variance, q * (1.0 - w) * 5 / 6, rtol=1e-12)
    # The positions of a single sample are BN's pool too, as they are IN's.
    one = th.predict(network(th.batch_norm(), depth=3), single)
    instance = th.predict(network(th.instance_norm(), depth=3), single)
    np.testing.assert_allclose(one.position_similarity, instance.position_similarity, rtol=1e-12)
    np.testing.assert_allclose(one.log_gradient_norm, instance.log_gradient_norm, atol=1e-12)
    with pytest.raises(SpecificationError, match=r"batch = 1 .*at least 2 for BN"):
        th.predict(network(th.batch_norm()), th.exchangeable(batch=1, gap=0.0))


# --- Regimes and refusals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "samples", "positions", "status"),
    [
        (th.instance_norm(), 3, 2, "degenerate"),
        (th.instance_norm(), 3, 3, "infinite"),
        (th.instance_norm(), 3, 5, "heavy_tail"),
        (th.instance_norm(), 3, 6, "regular"),
        (th.filter_response_norm(), 3, 2, "infinite"),
        (th.filter_response_norm(), 3, 4, "heavy_tail"),
        (th.group_norm(2), 2, 2, "heavy_tail"),
        (th.batch_norm(), 2, 2, "heavy_tail"),
        (th.batch_norm(), 2, 3, "regular"),
        (th.variance_norm(), 2, 2, "infinite"),
        (th.variance_norm(), 2, 4, "heavy_tail"),
    ],
)
def test_which_moments_exist(norm, samples, positions, status):
    pred = th.predict(network(norm, depth=3), batch(samples, positions))
    assert pred.regime.status == status
    assert np.isfinite(pred.log_gradient_norm[:-1]).all() == (status in ("regular", "heavy_tail"))
    if status == "infinite":
        assert np.isposinf(pred.log_gradient_norm[:-1]).all()
    assert np.isfinite(pred.similarity).all()


@pytest.mark.parametrize(
    ("norm", "samples", "status"),
    [
        (th.group_norm(2), 3, "infinite"),
        (th.group_norm(3), 3, "infinite"),
        (th.group_norm(4), 3, "heavy_tail"),
        (th.filter_response_norm(), 3, "infinite"),
        (th.batch_norm(), 2, "infinite"),
        (th.batch_norm(), 3, "infinite"),
        (th.batch_norm(), 4, "heavy_tail"),
    ],
)
def test_identical_positions_count_once(norm, samples, status):
    """Forwards; cotangents differ between positions and pass through pools of rank 1 as well."""
    inputs = batch(samples, 4, position_gap=0.0)
    pred = th.predict(network(norm, depth=3), inputs)
    assert pred.regime.status == status
    np.testing.assert_array_equal(pred.position_similarity, 1.0)


@pytest.mark.parametrize("norm", [th.group_norm(2), th.filter_response_norm()])
def test_gradients_pass_through_identical_positions(norm):
    """An infinite mean, not zeros: every simulated network has a gradient."""
    inputs = batch(2, 3, position_gap=0.0)
    found = mc.simulate(network(norm, depth=2), inputs, width=64, replicates=4)
    assert np.isfinite(found.samples["log_gradient_ratio"]).all()


@pytest.mark.parametrize("norm", [th.batch_norm(), th.instance_norm(), th.group_norm(2)])
def test_every_activation_has_a_route_over_positions(norm):
    assert th.predict(network(norm, activation=th.tanh), batch()).forward_route == "RQMC"
    for activation in (th.relu, th.leaky_relu(0.2), th.abs, th.identity, th.scaled_relu):
        assert th.predict(network(norm, activation=activation), batch()).forward_route != "RQMC"


def test_sampled_pools_beside_the_integrals(monkeypatch):
    """The sampled route against Laplace's where both apply, in stated errors; false alarm < 1e-4."""
    from theory.routes import spatial

    for norm in (th.batch_norm(), th.variance_norm(), th.instance_norm(), th.group_norm(2)):
        exact = th.predict(network(norm, depth=2), batch())
        with monkeypatch.context() as patch:
            patch.setattr(spatial, "spatial_routes", lambda: (spatial.SpatialSobol(),))
            sampled = th.predict(network(norm, depth=2), batch())
        for name in th.OBSERVABLES:
            error = sampled.error[name] + 1e-12
            score = (getattr(sampled, name) - getattr(exact, name)) / error
            assert np.abs(score).max() < 5.0, (norm.name, name)


def test_what_cannot_be_sampled_says_so():
    huge = batch(samples=2, positions=600)
    with pytest.raises(HypothesisError, match=r"RQMC takes up to 1024 .*change the"):
        th.predict(network(th.instance_norm(), activation=th.tanh), huge)


@pytest.mark.parametrize(
    ("norm", "numbers", "message"),
    [
        (th.instance_norm(), {"position_gap": 0.0}, "identical samples, or positions"),
        (th.instance_norm(eps=0.1), {"position_gap": 0.0}, "which leaves nothing"),
        (th.batch_norm(), {"position_gap": 0.0, "gap": 0.0}, "identical samples"),
        (th.variance_norm(), {"position_gap": 0.0, "gap": 0.0}, "identical samples"),
    ],
)
def test_pools_without_variance(norm, numbers, message):
    with pytest.raises(HypothesisError, match=message):
        th.predict(network(norm), batch(**numbers))


@pytest.mark.parametrize(
    ("layer", "inputs", "message"),
    [
        (
            {"kernel": 5},
            batch(3, 4),
            r"kernel = 5 .*at most 4, the shortest side of positions \(4,\)",
        ),
        ({"kernel": 3}, batch(3, (2, 8)), r"kernel = 3 .*at most 2.*\(2, 8\)"),
        ({"kernel": 3}, th.exchangeable(batch=3, gap=0.5), r"kernel = 3 .*at most 1.*positions=16"),
        ({"norm": th.instance_norm()}, th.exchangeable(batch=3, gap=0.5), r"IN .*1 position"),
        (
            {"norm": th.filter_response_norm()},
            th.exchangeable(batch=3, gap=0.5),
            r"FRN .*1 position",
        ),
    ],
)
def test_networks_that_do_not_fit_their_inputs(layer, inputs, message):
    with pytest.raises(SpecificationError, match=message):
        th.predict(th.FeedForward(th.Layer(**layer), depth=1), inputs)


@pytest.mark.parametrize("kernel", [0, -3, 2.5, True, "3", None])
def test_kernels_that_are_no_number_of_positions(kernel):
    with pytest.raises(SpecificationError, match=r"kernel = .*an integer >= 1"):
        th.Layer(kernel=kernel)


# --- Inputs ---------------------------------------------------------------------------------------


def test_inputs_default_to_the_product():
    inputs = th.exchangeable(batch=4, correlation=0.3, positions=5, position_correlation=0.6)
    assert inputs.cross_gap is None
    state = initial_state(inputs)
    np.testing.assert_allclose(state.spectrum.gaps(), (0.4, 0.7, 1.0 - 0.18), rtol=1e-14)
    explicit = th.exchangeable(
        batch=4, correlation=0.3, positions=5, position_gap=0.4, cross_correlation=0.18
    )
    np.testing.assert_allclose(explicit.eigenvalues, inputs.eigenvalues, rtol=1e-13)
    assert (inputs.positions, inputs.shape) == (5, (5,))
    torus = th.exchangeable(batch=4, gap=0.5, positions=[2, 3], position_gap=0.5)
    assert (torus.positions, torus.shape) == (6, (2, 3))
    assert hash(torus) == hash(
        th.exchangeable(batch=4, gap=0.5, positions=(2, 3), position_gap=0.5)
    )
    assert isinstance(th.exchangeable(batch=4, gap=0.5, positions=1), th.ExchangeableInputs)
    assert repr(torus).startswith("SpatialInputs(")
    assert eval(repr(torus), {"SpatialInputs": th.SpatialInputs}) == torus


def test_eigenvalues_are_those_of_the_matrix():
    inputs = batch(3, 4, gap=0.2, position_gap=0.7, cross_gap=0.75, second_moment=2.5)
    contrast, mean, far, mean_far = inputs.eigenvalues
    expected = sorted(
        2.5 * value
        for value, times in (
            (far, 6),
            (mean_far, 2),
            (3 * contrast - 2 * far, 3),
            (3 * mean - 2 * mean_far, 1),
        )
        for _ in range(times)
    )
    matrix = initial_state(inputs).covariance()
    np.testing.assert_allclose(np.linalg.eigvalsh(matrix), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("numbers", "contrasts"),
    [
        ({"gap": 0.5, "position_gap": 0.5, "cross_gap": 1.2}, "samples and positions"),
        ({"gap": 0.1, "position_gap": 0.9, "cross_gap": 0.2}, "samples"),
        ({"gap": 1.4, "position_gap": 0.2, "cross_gap": 0.5}, "positions"),
        ({"gap": 1.6, "position_gap": 0.5, "cross_gap": 1.6}, "all"),
        ({"gap": 0.0, "position_gap": 1.5, "cross_gap": 1.5}, "all"),
        ({"gap": 0.5, "position_gap": 0.5, "feature_mean": 0.9}, "all"),
    ],
)
def test_numbers_that_are_no_covariance(numbers, contrasts):
    message = f"along contrasts of {contrasts} would be negative; measure all of them"
    with pytest.raises(SpecificationError, match=message):
        batch(4, 5, **numbers)


def test_refused_exactly_where_the_matrix_is_indefinite():
    """Random numbers: accepted if and only if the smallest eigenvalue of the full matrix allows it."""
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(300):
        b, s = (int(n) for n in rng.integers(2, 5, size=2))
        gap_w, gap_b, gap_x = rng.uniform(0.0, 1.6, size=3)
        m = float(rng.uniform(0.0, 0.8))
        same, other = np.full((s, s), 1 - gap_w), np.full((s, s), 1 - gap_x)
        np.fill_diagonal(same, 1.0)
        np.fill_diagonal(other, 1 - gap_b)
        matrix = np.kron(np.eye(b), same) + np.kron(1 - np.eye(b), other)
        smallest = np.linalg.eigvalsh(matrix - m * m).min()
        if abs(smallest) < 1e-9:
            continue
        arguments = {"gap": gap_b, "position_gap": gap_w, "cross_gap": gap_x, "feature_mean": m}
        seen.add(smallest > 0)
        if smallest > 0.0:
            batch(b, s, **arguments)
        else:
            with pytest.raises(SpecificationError, match="those of a covariance"):
                batch(b, s, **arguments)
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positions": 0}, r"positions = 0 .*an integer >= 1"),
        ({"positions": -4}, r"positions = -4"),
        ({"positions": 2.5}, r"positions = 2\.5 .*S for a ring or \(H, W\)"),
        ({"positions": (2, 3, 4)}, r"positions = \(2, 3, 4\)"),
        ({"positions": ()}, r"positions = \(\)"),
        ({"positions": (4, 0)}, r"positions = 0"),
        ({"positions": (4, 2.0)}, r"positions = 2\.0"),
        ({"positions": True}, r"positions = True"),
        ({"positions": "4"}, r"positions = '4'"),
        ({"positions": 4}, r"position_correlation, position_gap = \(None, None\).*exactly one"),
        ({"positions": 4, "position_gap": 0.5, "position_correlation": 0.5}, "give exactly one"),
        (
            {"positions": 4, "position_gap": 0.5, "cross_gap": 0.5, "cross_correlation": 0.5},
            r"cross_correlation, cross_gap = .*exactly one",
        ),
        ({"positions": 4, "position_gap": 0.5, "gap": 0.1, "correlation": 0.1}, "give exactly one"),
        ({"positions": 4, "position_gap": 2.5}, r"position_gap = 2\.5 .*1 - correlation"),
        ({"positions": 4, "position_gap": math.nan}, r"position_gap = nan"),
        ({"positions": 4, "position_correlation": 1.5}, r"position_correlation = 1\.5"),
        ({"positions": 4, "position_gap": 0.5, "second_moment": 0.0}, r"second_moment = 0\.0"),
        ({"positions": 4, "position_gap": 0.5, "batch": 0}, r"batch = 0"),
        ({"position_gap": 0.5}, r"None at one position; give positions"),
        ({"positions": 1, "cross_correlation": 0.5}, r"None at one position; give positions"),
    ],
)
def test_inputs_that_make_no_sense(arguments, message):
    values = {"batch": 3, **arguments}
    if "correlation" not in values:
        values.setdefault("gap", 0.5)
    with pytest.raises(SpecificationError, match=message):
        th.exchangeable(**values)


def test_extreme_correlations_are_covariances():
    """-1/(S-1) and -1/(B-1) as a user computes them, and equal positions."""
    for count in (2, 3, 7, 10):
        inputs = th.exchangeable(
            batch=3, correlation=0.5, positions=count, position_correlation=-1.0 / (count - 1)
        )
        state = initial_state(inputs)
        assert state.spectrum.mean == pytest.approx(0.0, abs=1e-14)
        assert state.spectrum.mean >= 0.0
        th.exchangeable(batch=count, correlation=-1.0 / (count - 1), positions=4, position_gap=0.3)
        th.exchangeable(batch=count, correlation=1.0, positions=4, position_correlation=1.0)
    with pytest.raises(SpecificationError, match="would be negative; measure all"):
        th.exchangeable(batch=3, correlation=0.5, positions=4, position_correlation=-0.4)


@pytest.mark.parametrize("shape", [(4, 3, 5), (2, 3, 2), (1, 3, 4), (5, 2, 2, 3), (3, 1, 6)])
def test_measured_from_data(shape):
    rng = np.random.default_rng(shape)
    x = rng.standard_normal(shape) + rng.standard_normal((shape[0], *(1,) * (len(shape) - 1))) + 0.3
    inputs = th.exchangeable_from_data(x)
    flat = x.reshape(shape[0], shape[1], -1)
    b, channels, s = flat.shape
    sums, counts = dict.fromkeys("qwbx", 0.0), dict.fromkeys("qwbx", 0)
    for a in range(b):
        for c in range(b):
            for p in range(s):
                for r in range(s):
                    which = {(1, 1): "q", (1, 0): "w", (0, 1): "b", (0, 0): "x"}[a == c, p == r]
                    sums[which] += float(flat[a, :, p] @ flat[c, :, r]) / channels
                    counts[which] += 1
    q, w, between, cross = (sums[k] / counts[k] if counts[k] else math.nan for k in "qwbx")
    assert inputs.shape == shape[2:]
    assert inputs.batch == b
    assert inputs.second_moment == pytest.approx(q, rel=1e-13)
    assert inputs.position_gap == pytest.approx(1 - w / q, rel=1e-11)
    assert inputs.feature_mean == pytest.approx(x.mean(), rel=1e-12)
    if b > 1:
        assert inputs.gap == pytest.approx(1 - between / q, rel=1e-11)
        assert inputs.cross_gap == pytest.approx(1 - cross / q, rel=1e-11)
    else:
        assert (inputs.gap, inputs.cross_gap) == (0.0, None)
    th.predict(network(th.group_norm(2), depth=2, weights=th.centered_weights()), inputs)


def test_measured_from_nearly_equal_samples():
    """The gap of two samples that differ by 1e-7 of their size: 1 - c would have seven digits left."""
    rng = np.random.default_rng(5)
    base, noise = rng.standard_normal((2, 3, 8, 6))
    x = base[:1] + 1e-7 * noise
    inputs = th.exchangeable_from_data(x)
    apart = np.mean([(x[a] - x[c]) ** 2 for a in range(3) for c in range(3) if a != c]) / 2.0
    assert inputs.gap == pytest.approx(apart / np.mean(x**2), rel=1e-7, abs=0.0)


def test_measured_contrasts_of_nearly_equal_samples():
    """InstanceNorm sees q - w - b + x alone, of which 1e-4 are left at gap 1e-12: so the error says."""
    rng = np.random.default_rng(5)
    base, noise = rng.standard_normal((2, 4, 64, 9))
    x = base[:1] + 1e-6 * noise
    measured = th.exchangeable_from_data(x)
    apart = x - x.mean(axis=0)
    apart -= apart.mean(axis=2, keepdims=True)
    far = np.mean(apart**2) * (4 / 3) * (9 / 8) / measured.second_moment
    stated = th.predict(network(th.instance_norm()), measured).preactivation.gap_error[0]
    assert measured.eigenvalues[2] == pytest.approx(far, rel=1e-9 + stated, abs=0.0)


def test_distances_lost_to_rounding_are_not_called_exact():
    """Below eps the contrasts' distance, a difference of gaps, is only known to be this small."""
    given = {"batch": 4, "gap": 1e-17, "positions": 16, "position_gap": 0.5}
    exact = th.predict(network(th.instance_norm()), th.exchangeable(**given))
    lost = th.predict(network(th.instance_norm()), th.exchangeable(**given, cross_gap=0.5))
    assert 0.0 < exact.gap[0] < 1e-16
    assert abs(lost.gap[0] - exact.gap[0]) < lost.error["gap"][0]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.ones((3, 4)), r"features = \(3, 4\) .*X\[:, None\]"),
        (np.ones(5), r"features = \(5,\)"),
        (np.ones((2, 2, 2, 2, 2)), r"features = \(2, 2, 2, 2, 2\)"),
        (np.ones((0, 3, 4)), r"features = \(0, 3, 4\)"),
        (np.ones((2, 3, 4)) * 1j, r"features = "),
        ("text", r"features = 'str'"),
        (np.full((2, 3, 4), np.nan), "NaN or inf"),
        (np.zeros((2, 3, 4)), "magnitude 0"),
        (np.full((2, 3, 4), 1e200), r"magnitude 1e\+200'.*rescale"),
        (np.full((2, 3, 4), 1e-200), "magnitude 1e-200'.*rescale"),
        (np.ones((2, 3, 1)), r"features = \(2, 3, 1\) .*at least 2 positions"),
        (np.ones((1, 4, 1)), r"features = \(1, 4, 1\) .*at least 2 positions"),
    ],
)
def test_data_that_cannot_be_measured(features, message):
    with pytest.raises(SpecificationError, match=message):
        th.exchangeable_from_data(features)


# --- Serialization and storage --------------------------------------------------------------------

SPATIAL = [
    batch(),
    batch(INF, (3, 4)),
    batch(3, (4, 4), gap=0.2, position_gap=0.5, cross_gap=0.6),
    batch(3, 7, second_moment=2.5, feature_mean=0.1),
    th.exchangeable(batch=1, positions=4, position_gap=0.3),
]


@pytest.mark.parametrize("inputs", SPATIAL, ids=repr)
def test_inputs_survive_json(inputs):
    again = th.from_json(th.to_json(inputs))
    assert again == inputs
    assert again.shape == inputs.shape
    assert type(again.batch) is type(inputs.batch)
    assert th.key(again) == th.key(inputs)


def test_different_inputs_have_different_keys():
    assert len({th.key(inputs) for inputs in SPATIAL}) == len(SPATIAL)
    assert th.key(batch(3, (2, 6))) != th.key(batch(3, 12))


def test_keys_of_older_specifications_stand():
    """As before layers had kernels: what stores hold under these keys is found again."""
    old = {
        network(
            th.batch_norm(), depth=3
        ): "ceee5cb6508a667ac946ba4cabdd4fd04fc49841a226f0aeff663db03a379647",
        network(
            weights=th.weight_norm(), activation=th.scaled_relu, depth=7
        ): "13e0fd98c6401c9c06fe3dc73c58591c64b61c144a1d5626e6f7ef71015ffe5e",
        th.exchangeable(
            batch=4, correlation=0.25
        ): "5fdaa41d8e7c19738d23e445d63cb62b18895e8ec5c490d20a6b6442543e4c25",
    }
    for spec, key in old.items():
        assert th.key(spec) == key
    assert th.key(network(th.batch_norm(), depth=3, kernel=1)) == th.key(
        network(th.batch_norm(), depth=3)
    )
    assert th.key(network(th.batch_norm(), depth=3, kernel=2)) != th.key(
        network(th.batch_norm(), depth=3)
    )


def test_kernels_survive_json():
    net = network(th.group_norm(4), depth=2, kernel=3)
    document = serialize.to_dict(net)
    assert document["layer"]["kernel"] == 3
    assert "kernel" not in serialize.to_dict(network())["layer"]
    assert th.from_json(th.to_json(net)) == net
    assert th.from_json(th.to_json(network())) == network()
    document["layer"]["dilation"] = 2
    with pytest.raises(StoreError, match="dilation"):
        th.from_json(json.dumps(document))
    del document["layer"]["dilation"], document["layer"]["norm"]
    with pytest.raises(StoreError, match="norm"):
        th.from_json(json.dumps(document))
    document = serialize.to_dict(SPATIAL[0])
    for wrong in (
        {"shape": [4, 4, 4]},
        {"shape": 4.5},
        {"position_gap": "inf"},
        {"cross_gap": 1.9},
    ):
        with pytest.raises((StoreError, SpecificationError)):
            th.from_json(json.dumps(document | wrong))


@pytest.mark.parametrize("samples", [3, INF])
@pytest.mark.parametrize(
    "layer", [{"norm": th.batch_norm()}, {"activation": th.tanh}, {}], ids=repr
)
def test_predictions_survive_a_file(layer, samples, tmp_path):
    net = th.FeedForward(th.Layer(**layer, kernel=3), depth=6)
    pred = th.predict(net, batch(samples, (3, 4), gap=1e-3))
    pred.save(tmp_path / "spatial.json")
    again = storage.load_prediction(tmp_path / "spatial.json")
    assert again.states == pred.states
    assert [type(s.batch) for s in again.states] == [type(s.batch) for s in pred.states]
    assert (again.network, again.inputs, again.regime) == (pred.network, pred.inputs, pred.regime)
    for name in ("second_moment", "gap", "variance", "stable_rank", "log_gradient_norm"):
        np.testing.assert_array_equal(getattr(again, name), getattr(pred, name))
    np.testing.assert_array_equal(again.position_similarity, pred.position_similarity)
    for name, values in pred.error.items():
        np.testing.assert_array_equal(again.error[name], values)
    if samples < INF:
        np.testing.assert_array_equal(again.covariance, pred.covariance)


def test_plain_networks_survive_a_file_in_their_exponents(tmp_path):
    net = network(weights=th.gaussian(weight_variance=4.0), depth=1500)
    pred = th.predict(net, batch(2, 3))
    assert pred.states[-1].exponent > 0
    pred.save(tmp_path / "deep.json")
    again = storage.load_prediction(tmp_path / "deep.json")
    assert again.states == pred.states
    assert again.log_second_moment[-1] == pred.log_second_moment[-1] > 1000.0


def test_matrices_of_many_samples_and_positions_are_refused():
    pred = th.predict(network(th.layer_norm()), batch(65, 64))
    with pytest.raises(SpecificationError, match="at most 4096 rows"):
        _ = pred.covariance
    assert th.predict(network(th.layer_norm()), batch(4, 64)).covariance[0].shape == (256, 256)


def test_tables_of_predictions_with_positions():
    preds = th.predict_many({"IN": network(th.instance_norm(), depth=3)}, batch(3, 6))
    assert set(preds["IN"].to_frame()["layer"]) == {1, 2, 3}
    assert repr(preds["IN"]).startswith("Prediction(IN, depth=3")


def test_weights_centered_over_channels():
    """SWS, WC: sigma_w^2 (K - m m') entry by entry, for inputs with a mean."""
    inputs = batch(3, 4, feature_mean=0.4, second_moment=1.2)
    for weights in (th.centered_weights(), th.scaled_weight_standardization()):
        net = network(weights=weights, depth=1, kernel=3)
        pred = th.predict(net, inputs)
        matrix = initial_state(inputs).covariance() - 0.16
        q = weights.weight_variance * matrix[0, 0]
        assert pred.preactivation_second_moment[0] == pytest.approx(q, rel=1e-13)
        cosine = matrix[0, 4] / matrix[0, 0]
        assert pred.preactivation_correlation[0] == pytest.approx(cosine, rel=1e-12)
    constant = batch(2, 3, gap=0.0, position_gap=0.0, feature_mean=1.0)
    with pytest.raises(
        HypothesisError, match="nothing is left once the weights' rows are centered"
    ):
        th.predict(network(weights=th.centered_weights()), constant)


def test_saturating_networks_that_leave_the_range():
    net = network(activation=th.softplus, weights=th.gaussian(weight_variance=1e200), depth=40)
    with pytest.raises(NumericalError, match="use fewer layers"):
        th.predict(net, batch(2, 3))


def test_centering_inflates_what_q_is_known_to() -> None:
    # q = 1 to 1e-10 and m^2 = 0.9 leave 0.1 to 1e-9.
    spectrum = PositionSpectrum(4, 1.0, 1.0 + 4.0 * 0.9, 0.5, 0.5)
    q = spectrum.second_moment
    state = Spatial(
        3, spectrum, math.sqrt(0.9 * q), second_moment_error=1e-10, gap_error=0.0, local_error=1e-10
    )
    found = state.linear(1.0, centered=True)
    assert found.second_moment_error == pytest.approx(1e-9, rel=0.01)
    assert found.gap_error >= 0.9e-9
