"""The recursion: closed solutions, limits, hand-written folds, states that agree."""

from __future__ import annotations

import math
import time

import mpmath
import numpy as np
import pytest

import theory as th
from theory.operators import bind_pull
from theory.program import NormAct
from theory.states.base import Gradient
from theory.states.exchangeable import Exchangeable

PI = math.pi


def feed_forward(depth: int = 10, **layer: object) -> th.FeedForward:
    return th.FeedForward(th.Layer(**layer), depth=depth)  # type: ignore[arg-type]


def mp_plain_gap(gap: str, depth: int) -> mpmath.mpf:
    """1 - kappa_1 iterated in 50 digits."""
    with mpmath.workdps(50):
        u = mpmath.mpf(gap)
        for _ in range(depth):
            theta = 2 * mpmath.asin(mpmath.sqrt(u / 2))
            u = u - (mpmath.sin(theta) - theta * mpmath.cos(theta)) / mpmath.pi
        return u


def test_thousand_plain_layers_keep_eleven_digits() -> None:
    pred = th.predict(feed_forward(1000), th.exchangeable(batch=2, gap=1e-14))
    truth = mp_plain_gap(repr(1e-14), 1000)
    assert abs(mpmath.mpf(float(pred.gap[-1])) / truth - 1) < 1e-11
    assert abs(float(mpmath.mpf(float(pred.gap[-1])) - truth)) <= 10 * pred.error["gap"][-1]


def test_plain_collapse_law() -> None:
    # 1 - c_l -> 9 pi^2/(2 l^2), with the finite-depth ratios of the theory notes.
    pred = th.predict(feed_forward(3000), th.exchangeable(batch=2, correlation=0.5))
    for depth, ratio in ((100, 0.776), (1000, 0.967), (3000, 0.988)):
        law = 9 * PI**2 / (2 * depth**2)
        assert pred.gap[depth - 1] / law == pytest.approx(ratio, abs=2e-3)


@pytest.mark.parametrize("variance", [1.0, 2.0, 3.7])
def test_plain_second_moment_and_gradient(variance: float) -> None:
    net = feed_forward(7, weights=th.gaussian(weight_variance=variance))
    pred = th.predict(net, th.exchangeable(batch=3, correlation=0.2, second_moment=1.5))
    layers = np.arange(1, 8)
    np.testing.assert_allclose(pred.second_moment, 1.5 * (variance / 2) ** layers, rtol=1e-14)
    assert pred.gradient_norm is not None
    np.testing.assert_allclose(pred.gradient_norm**2, (variance / 2) ** (7 - layers), rtol=1e-13)
    np.testing.assert_allclose(
        pred.variance, pred.second_moment * (1 - pred.similarity) * 2 / 3, rtol=1e-14
    )


def test_conventions_of_the_first_layer() -> None:
    pred = th.predict(
        feed_forward(3), th.exchangeable(batch=2, correlation=0.25, second_moment=3.0)
    )
    assert pred.preactivation_second_moment[0] == 6.0
    assert pred.preactivation_correlation[0] == 0.25
    assert len(pred.similarity) == 3
    assert pred.gradient_norm is not None
    assert pred.gradient_norm[-1] == 1.0


def test_ten_thousand_layers_do_not_overflow() -> None:
    net = feed_forward(10_000, weights=th.gaussian(weight_variance=4.0))
    pred = th.predict(net, th.exchangeable(batch=2, correlation=0.0))
    assert pred.log_second_moment[-1] == pytest.approx(10_000 * math.log(2.0), rel=1e-13)
    assert pred.log_gradient_norm is not None
    assert pred.log_gradient_norm[0] == pytest.approx(0.5 * 9_999 * math.log(2.0), rel=1e-13)
    assert pred.second_moment[-1] == math.inf


def test_layer_norm_forgets_the_scale() -> None:
    small = th.predict(
        feed_forward(norm=th.layer_norm()), th.exchangeable(batch=2, correlation=0.3)
    )
    large = th.predict(
        feed_forward(norm=th.rms_norm()),
        th.exchangeable(batch=2, correlation=0.3, second_moment=1e9),
    )
    np.testing.assert_allclose(small.second_moment, 0.5, rtol=1e-15)
    np.testing.assert_array_equal(small.similarity, large.similarity)


def test_sws_is_batch_norm_of_an_infinite_batch() -> None:
    sws = feed_forward(60, weights=th.scaled_weight_standardization())
    pred = th.predict(sws, th.exchangeable(batch=4, correlation=0.5))
    assert pred.similarity[-1] == pytest.approx(1 / PI, abs=1e-8)
    # q_l = q_1 at every layer, and lambda = pi/(pi - 1).
    np.testing.assert_allclose(
        pred.preactivation_second_moment, pred.preactivation_second_moment[0], rtol=1e-13
    )
    assert pred.log_gradient_norm is not None
    np.testing.assert_allclose(
        -2 * np.diff(pred.log_gradient_norm), math.log(PI / (PI - 1)), rtol=1e-12
    )
    batch = th.predict(feed_forward(norm=th.batch_norm()), th.exchangeable(batch=math.inf, gap=0.5))
    assert batch.similarity[-1] == pytest.approx(1 / PI, rel=1e-14)
    assert batch.log_gradient_norm is not None
    # The first layers feel q_1 = 2 and the cotangent; in between the ratio is lambda.
    assert -2 * (batch.log_gradient_norm[5] - batch.log_gradient_norm[4]) == pytest.approx(
        math.log(PI / (PI - 1)), rel=1e-12
    )


def test_sws_map_by_hand() -> None:
    # c' = (kappa_1(c) - 1/pi)/(1 - 1/pi), in 30 digits.
    net = feed_forward(2, weights=th.scaled_weight_standardization())
    for c in (-0.5, 0.0, 0.3, 0.99):
        pred = th.predict(net, th.exchangeable(batch=2, correlation=c))
        with mpmath.workdps(30):
            x = mpmath.mpf(c)
            k1 = (mpmath.sqrt(1 - x * x) + x * (mpmath.pi - mpmath.acos(x))) / mpmath.pi
            truth = (k1 - 1 / mpmath.pi) / (1 - 1 / mpmath.pi)
        assert pred.preactivation_correlation[1] == pytest.approx(
            float(truth), rel=1e-13, abs=1e-15
        )


def test_weight_norm_second_moment_is_marginal() -> None:
    # q' = q + (sqrt(q) - 1)^2/(pi - 1): attracting from below, repelling from above.
    net = feed_forward(6, weights=th.weight_norm(), activation=th.scaled_relu)
    for start in (0.25, 1.0, 2.25):
        pred = th.predict(net, th.exchangeable(batch=2, correlation=0.1, second_moment=start))
        q, expected = start, []
        for _ in range(6):
            q = q + (math.sqrt(q) - 1.0) ** 2 / (PI - 1.0)
            expected.append(q)
        np.testing.assert_allclose(pred.second_moment, expected, rtol=1e-13)


def test_input_feature_mean_is_removed_by_centered_weights() -> None:
    net = feed_forward(1, weights=th.centered_weights(weight_variance=2.0))
    inputs = th.exchangeable(batch=3, correlation=0.5, second_moment=2.0, feature_mean=0.6)
    pred = th.predict(net, inputs)
    assert pred.preactivation_second_moment[0] == pytest.approx(2 * (2 - 0.36), rel=1e-15)
    expected = (1.0 - 0.36) / (2.0 - 0.36)
    assert pred.preactivation_correlation[0] == pytest.approx(expected, rel=1e-14)


LAYERS = {
    "plain": th.Layer(),
    "tanh": th.Layer(activation=th.tanh),
    "LN eps": th.Layer(norm=th.layer_norm(eps=0.1)),
    "LN gelu": th.Layer(norm=th.layer_norm(), activation=th.gelu),
    "GN(4)": th.Layer(norm=th.group_norm(4)),
    "GN(6) ddof": th.Layer(norm=th.group_norm(6, ddof=1)),
    "BN": th.Layer(norm=th.batch_norm()),
    "BN eps": th.Layer(norm=th.batch_norm(eps=0.05)),
    "BN ddof": th.Layer(norm=th.batch_norm(ddof=1)),
    "VN": th.Layer(norm=th.variance_norm()),
    "MC": th.Layer(norm=th.mean_centering()),
    "MC tanh": th.Layer(norm=th.mean_centering(), activation=th.tanh),
    "WN": th.Layer(weights=th.weight_norm(), activation=th.scaled_relu),
    "SWS": th.Layer(weights=th.scaled_weight_standardization()),
    "WC leaky": th.Layer(weights=th.centered_weights(), activation=th.leaky_relu(0.3)),
    "affine": th.Layer(activation=th.relu.affine(scale=0.8, shift=0.3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_full_state_equals_exchangeable_state(name: str) -> None:
    net = th.FeedForward(LAYERS[name], depth=4)
    exchangeable = th.exchangeable(batch=8, correlation=0.4, second_moment=1.3)
    matrix = 1.3 * (0.6 * np.eye(8) + 0.4)
    one = th.predict(net, exchangeable)
    other = th.predict(net, th.from_covariance(matrix))
    for observable in th.OBSERVABLES:
        np.testing.assert_allclose(
            getattr(other, observable), getattr(one, observable), rtol=1e-9, err_msg=observable
        )
    np.testing.assert_allclose(other.covariance[-1], one.covariance[-1], rtol=1e-9)


@pytest.mark.parametrize("name", LAYERS)
def test_depth_is_a_semigroup(name: str) -> None:
    # Layers 3, 4 of a deep network are layers 1, 2 of one that starts at its second activations.
    layer = LAYERS[name]
    first = th.predict(th.FeedForward(layer, depth=2), th.exchangeable(batch=8, correlation=0.4))
    deep = th.predict(th.FeedForward(layer, depth=4), th.exchangeable(batch=8, correlation=0.4))
    state = first.states[-1]
    inputs = th.exchangeable(
        batch=8, gap=state.gap, second_moment=state.second_moment, feature_mean=state.mean
    )
    rest = th.predict(th.FeedForward(layer, depth=2), inputs)
    np.testing.assert_allclose(rest.similarity, deep.similarity[2:], rtol=1e-12)
    np.testing.assert_allclose(rest.second_moment, deep.second_moment[2:], rtol=1e-12)


def test_permuting_samples_permutes_the_covariance() -> None:
    generator = np.random.default_rng(5)
    features = generator.normal(size=(6, 9)) + 0.3
    order = generator.permutation(6)
    for layer in (LAYERS["BN"], LAYERS["GN(4)"], LAYERS["VN"], LAYERS["SWS"]):
        net = th.FeedForward(layer, depth=3)
        one = th.predict(net, th.from_data(features))
        other = th.predict(net, th.from_data(features[order]))
        np.testing.assert_allclose(
            other.covariance[-1], one.covariance[-1][np.ix_(order, order)], rtol=1e-8
        )


def test_identity_network_is_linear_algebra() -> None:
    generator = np.random.default_rng(2)
    features = generator.normal(size=(5, 30)) * np.arange(1, 6)[:, None]
    pred = th.predict(feed_forward(3, activation=th.identity), th.from_data(features))
    gram = features @ features.T / 30
    np.testing.assert_allclose(pred.covariance[-1], 8.0 * gram, rtol=1e-12)
    cosine = gram / np.sqrt(np.outer(np.diag(gram), np.diag(gram)))
    off = (cosine.sum() - 5) / 20
    assert pred.similarity[-1] == pytest.approx(off, rel=1e-12)
    assert pred.stable_rank[-1] == pytest.approx(5 / np.linalg.eigvalsh(cosine)[-1], rel=1e-12)
    assert pred.variance[-1] == pytest.approx(8 * features.var(axis=0).mean(), rel=1e-12)


def test_nearly_equal_real_samples_keep_their_gap() -> None:
    generator = np.random.default_rng(3)
    base = generator.normal(size=64)
    features = np.stack([base, base + 1e-7 * generator.normal(size=64)])
    with mpmath.workdps(40):
        x, y = (mpmath.matrix([mpmath.mpf(v) for v in row]) for row in features)
        dot = mpmath.fdot(x, y) / mpmath.sqrt(mpmath.fdot(x, x) * mpmath.fdot(y, y))
        gap = 1 - dot
    for layer, factor in ((th.Layer(), 1.0), (th.Layer(norm=th.layer_norm()), 1.0)):
        pred = th.predict(th.FeedForward(layer, depth=1), th.from_data(features))
        truth = float(mp_plain_gap(mpmath.nstr(gap, 30), 1)) * factor
        assert pred.gap[0] == pytest.approx(truth, rel=1e-8)


def test_digits_lost_to_centering_are_stated() -> None:
    """Two samples of unlike length: centered rows subtract squared differences of lengths and means."""
    generator = np.random.default_rng(5)
    for apart in (1e-2, 1e-4, 1e-6):
        base = generator.normal(size=16) + 0.5
        features = np.stack([base, base + apart * generator.normal(size=16)])
        layer = th.Layer(
            weights=th.centered_weights(weight_variance=1.25), norm=th.layer_norm(eps=0.75)
        )
        pred = th.predict(th.FeedForward(layer, depth=2), th.from_data(features))
        with mpmath.workdps(50):
            x = [[mpmath.mpf(v) for v in row] for row in features]
            mean = [mpmath.fsum(row) / 16 for row in x]
            k = [[mpmath.fdot(u, v) / 16 for v in x] for u in x]
            for layer_index in range(2):
                q, other, cross = (
                    1.25 * (k[i][j] - mean[i] * mean[j]) for i, j in ((0, 0), (1, 1), (0, 1))
                )
                c, scale = cross / mpmath.sqrt(q * other), mpmath.sqrt((q + 0.75) * (other + 0.75))
                theta, root = mpmath.acos(c), mpmath.sqrt(q * other) / scale
                dual = (mpmath.sin(theta) + (mpmath.pi - theta) * c) / (2 * mpmath.pi)
                truth = float(1 - 2 * dual)
                error = pred.error["gap"][layer_index]
                assert abs(pred.gap[layer_index] - truth) <= error + 1e-14 * truth
                assert error < 1e-2 * truth
                mean = [mpmath.sqrt(v / (v + 0.75) / (2 * mpmath.pi)) for v in (q, other)]
                k = [[q / (q + 0.75) / 2, root * dual], [0, other / (other + 0.75) / 2]]


def test_degenerate_and_infinite_moments() -> None:
    inputs = th.exchangeable(batch=2, correlation=0.1)
    pred = th.predict(feed_forward(3, norm=th.group_norm(2)), inputs)
    assert pred.regime.status == "degenerate"
    assert pred.gradient_norm is not None
    np.testing.assert_array_equal(pred.gradient_norm, [0.0, 0.0, 1.0])
    pred = th.predict(feed_forward(3, norm=th.group_norm(3)), inputs)
    assert pred.regime.status == "infinite"
    assert "rank 2" in pred.regime.reason
    assert pred.gradient_norm is not None
    np.testing.assert_array_equal(pred.gradient_norm, [np.inf, np.inf, 1.0])
    assert np.isfinite(pred.similarity).all()
    for size, status in ((4, "heavy_tail"), (5, "heavy_tail"), (6, "regular")):
        assert th.predict(feed_forward(2, norm=th.group_norm(size)), inputs).regime.status == status
    for batch, status in ((2, "degenerate"), (3, "infinite"), (5, "heavy_tail"), (6, "regular")):
        net = feed_forward(2, norm=th.batch_norm())
        pred = th.predict(net, th.exchangeable(batch=batch, correlation=0.1))
        assert pred.regime.status == status
    for batch, status in ((4, "infinite"), (6, "heavy_tail"), (9, "heavy_tail"), (10, "regular")):
        net = feed_forward(2, norm=th.variance_norm())
        pred = th.predict(net, th.exchangeable(batch=batch, correlation=0.1))
        assert pred.regime.status == status
    with pytest.raises(th.HypothesisError, match="rank > 2"):
        th.predict(feed_forward(2, norm=th.variance_norm()), th.exchangeable(batch=3, gap=0.5))


def test_zero_pool_variance_raises() -> None:
    for inputs in (th.exchangeable(batch=4, gap=0.0), th.from_data(np.ones((4, 3)))):
        with pytest.raises(th.HypothesisError, match="identical samples"):
            th.predict(feed_forward(norm=th.batch_norm()), inputs)
    # With eps the answer is that everything is zero: nothing to take a logarithm of, so LN instead.
    pred = th.predict(feed_forward(norm=th.layer_norm()), th.exchangeable(batch=4, gap=0.0))
    np.testing.assert_array_equal(pred.similarity, 1.0)


def test_routes_and_errors_are_stated() -> None:
    pred = th.predict(feed_forward(4, norm=th.group_norm(8)), th.exchangeable(batch=4, gap=0.5))
    assert pred.route["similarity"] == ("quadrature",) * 4
    assert pred.route["preactivation_correlation"][0] == "closed form"
    for observable in th.OBSERVABLES:
        assert pred.error[observable].shape == (4,)
        assert (pred.error[observable] >= 0).all()
    assert th.predict(feed_forward(2), th.exchangeable(batch=2, gap=0.5)).route["similarity"][
        0
    ] == ("closed form")


def test_backward_can_be_left_out() -> None:
    pred = th.predict(feed_forward(3), th.exchangeable(batch=2, gap=0.5), backward=False)
    assert pred.gradient_norm is None
    assert "gradient_norm" not in pred.error
    assert set(pred.to_frame()["observable"]) == set(th.OBSERVABLES) - {"gradient_norm"}


def test_saving_to_the_name_of_the_arrays_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """p.npz would hold the JSON, and then the arrays in its place."""
    pred = th.predict(
        th.FeedForward(th.Layer(), depth=2), th.exchangeable(batch=2, correlation=0.5)
    )
    with pytest.raises(th.SpecificationError, match="arrays go beside it"):
        pred.save(tmp_path / "p.npz")
    assert not list(tmp_path.iterdir())


def test_save_and_load(tmp_path) -> None:  # type: ignore[no-untyped-def]
    features = np.random.default_rng(0).normal(size=(4, 6))
    for inputs in (th.exchangeable(batch=math.inf, gap=0.5), th.from_data(features)):
        pred = th.predict(feed_forward(3, norm=th.layer_norm()), inputs)
        pred.save(tmp_path / "p.json")
        again = th.Prediction.load(tmp_path / "p.json")
        assert again.network == pred.network
        assert again.inputs == pred.inputs
        assert again.regime == pred.regime
        for observable in th.OBSERVABLES:
            np.testing.assert_array_equal(getattr(again, observable), getattr(pred, observable))
            np.testing.assert_array_equal(again.error[observable], pred.error[observable])
    (tmp_path / "p.npz").write_bytes(b"broken")
    with pytest.raises(th.StoreError, match="predict again"):
        th.Prediction.load(tmp_path / "p.json")
    (tmp_path / "q.json").write_text('{"kind": "prediction", "schema": 99}')
    with pytest.raises(th.StoreError, match="schema 99"):
        th.Prediction.load(tmp_path / "q.json")


def test_tables() -> None:
    predictions = th.predict_many(
        {"plain": feed_forward(2), "LN": feed_forward(2, norm=th.layer_norm())},
        th.exchangeable(batch=2, gap=0.5),
    )
    frame = predictions.to_frame()
    assert list(frame["network"].unique()) == ["plain", "LN"]
    assert len(frame) == 2 * 2 * len(th.OBSERVABLES)
    latex = predictions["LN"].to_latex()
    assert latex.startswith(r"\begin{tabular}")
    assert "stable rank" in latex


def test_digits_sized_batch_is_fast() -> None:
    # The bound is 1 s for 32 samples and 10 layers; the point here is not to be far off.
    features = np.random.default_rng(1).random(size=(32, 64))
    net = feed_forward(10, norm=th.batch_norm())
    th.predict(net, th.from_data(features), backward=False)
    start = time.process_time()
    pred = th.predict(net, th.from_data(features), backward=False)
    assert time.process_time() - start < 1.0
    assert (pred.error["similarity"] < 1e-10).all()


@pytest.mark.parametrize("name", ["WN", "SWS", "WC"])
def test_stated_errors_do_not_explode_with_depth(name: str) -> None:
    # Centering used to inflate inherited errors by 1.467 per layer.
    for inputs in (
        th.exchangeable(batch=6, correlation=0.3),
        th.from_data(np.random.default_rng(0).normal(size=(6, 30))),
    ):
        pred = th.predict(th.FeedForward(th.zoo[name], depth=1000), inputs)
        for observable in th.OBSERVABLES:
            value = getattr(pred, observable)
            error = pred.error[observable]
            assert (error <= 1e-8 * np.maximum(np.abs(value), 1.0)).all(), observable


def test_weight_norm_errors_are_honest_at_depth() -> None:
    net = th.FeedForward(th.zoo["WN"], depth=300)
    pred = th.predict(net, th.exchangeable(batch=2, gap=0.5, second_moment=1.3))
    with mpmath.workdps(40):
        q = mpmath.mpf(1.3)
        for layer in range(300):
            q = q + (mpmath.sqrt(q) - 1) ** 2 / (mpmath.pi - 1)
            truth = float(mpmath.log(q))
            allowed = 10 * pred.error["log_second_moment"][layer] + 1e-13
            assert abs(pred.log_second_moment[layer] - truth) <= allowed


def test_data_of_few_dimensions_after_batch_norm() -> None:
    # Only layers whose samples span at most two directions about their mean have infinite gradients.
    net = feed_forward(4, norm=th.batch_norm())
    features = np.random.default_rng(0).normal(size=(16, 3))
    for dimensions, infinite in ((1, 2), (2, 1), (3, 0)):
        pred = th.predict(net, th.from_data(features[:, :dimensions]))
        assert pred.log_gradient_norm is not None
        assert np.isposinf(pred.log_gradient_norm).sum() == infinite
        assert np.isfinite(pred.log_gradient_norm[infinite:]).all()
        assert (pred.regime.status == "infinite") == (infinite > 0)
    # Samples that are equal stay equal: the pool has rank 1 at every layer.
    pred = th.predict(net, th.from_data(np.repeat(features[:2], 8, axis=0)))
    assert pred.regime.status == "infinite"


def test_collapse_below_the_floating_point_range_is_an_error() -> None:
    inputs = th.exchangeable(batch=8, correlation=0.3)
    with pytest.raises(th.NumericalError, match="fewer layers"):
        th.predict(feed_forward(1000, norm=th.variance_norm()), inputs)
    with pytest.raises(th.NumericalError, match="fewer layers"):
        th.predict(feed_forward(10_000, norm=th.variance_norm()), inputs, backward=False)


def test_collapsing_data_state_their_error() -> None:
    # Distances of data are known to the squared rounding of their norms: at depth 300 nothing is left.
    data = th.from_data(np.random.default_rng(0).standard_normal((6, 30)))
    pred = th.predict(feed_forward(300, norm=th.variance_norm()), data, backward=False)
    twin = th.predict(
        feed_forward(300, norm=th.variance_norm()),
        th.exchangeable(batch=6, gap=float(data.gap.sum()) / 30),
        backward=False,
    )
    offset = pred.log_second_moment - twin.log_second_moment
    # The samples' differences in length are forgotten by layer 60, up to 1e-8.
    drift = np.abs(offset - offset[60])
    assert (drift[60:] <= 10 * pred.error["log_second_moment"][60:] + 1e-7).all()
    assert pred.error["log_second_moment"][-1] > 1.0


def test_a_dying_signal_is_a_numerical_error() -> None:
    with pytest.raises(th.NumericalError, match="died or run away"):
        th.predict(feed_forward(250, activation=th.gelu), th.exchangeable(batch=2, gap=0.5))


def test_infinite_batches_with_any_activation() -> None:
    # N(h) is Gaussian there: BN's samples are independent, VN keeps their correlation.
    inputs = th.exchangeable(batch=math.inf, correlation=0.4)
    for norm in (th.batch_norm(eps=1e-9), th.variance_norm()):
        pred = th.predict(feed_forward(1, norm=norm, activation=th.tanh), inputs)
        large = th.predict(
            feed_forward(1, norm=norm, activation=th.tanh),
            th.exchangeable(batch=200, correlation=0.4),
        )
        assert pred.second_moment[0] == pytest.approx(large.second_moment[0], abs=0.02)
        assert pred.similarity[0] == pytest.approx(large.similarity[0], abs=0.02)
        assert pred.route["similarity"] == ("quadrature",)


def test_predictions_are_values() -> None:
    import copy
    import pickle

    pred = th.predict(feed_forward(2, norm=th.layer_norm()), th.exchangeable(batch=th.inf, gap=0.5))
    assert pred.error is not None
    assert pred.provenance["network_key"]
    for again in (pickle.loads(pickle.dumps(pred)), copy.deepcopy(pred)):
        np.testing.assert_array_equal(again.similarity, pred.similarity)
    with pytest.raises(ValueError, match="read-only"):
        pred.similarity[0] = 9.0
    assert eval(repr(pred.network), vars(th)) == pred.network
    assert eval(repr(pred.inputs), vars(th)) == pred.inputs


def test_identical_samples_are_refused_by_every_centering() -> None:
    inputs = th.exchangeable(batch=8, correlation=1.0)
    for norm in (th.mean_centering(), th.batch_norm(), th.batch_norm(eps=1e-5)):
        with pytest.raises(th.HypothesisError, match="identical samples"):
            th.predict(feed_forward(2, norm=norm), inputs)


@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize("activation", [th.relu, th.identity, th.tanh])
def test_centering_a_group_takes_its_share(size: int, activation: th.Activation) -> None:
    """h minus the mean of its group of G is Gaussian with 1 - 1/G of the variance, same correlations."""
    pool = th.Pool(samples=False, positions=True, channels=size)
    norm = th.Normalizer(name="centered", pool=pool, centered=True, denominator="none")
    inputs = th.exchangeable(batch=4, correlation=0.3)
    one = th.predict(th.FeedForward(th.Layer(norm=norm, activation=activation), depth=1), inputs)
    smaller = th.gaussian(weight_variance=2.0 * (1.0 - 1.0 / size))
    plain = th.FeedForward(th.Layer(weights=smaller, activation=activation), depth=1)
    other = th.predict(plain, inputs)
    for name in ("second_moment", "gap", "variance"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-13)


@pytest.mark.parametrize("gap", [0.0, 1e-20, 1e-9, 0.4, 1.9])
@pytest.mark.parametrize("means", [(0.5, 0.5 * math.sqrt(3.0)), (0.5, 0.6), (0.5, -0.6)])
def test_centered_rows_of_different_size(gap: float, means: tuple[float, float]) -> None:
    """The gap of x - m in 50 digits, for second moments 1 and 3."""
    from theory.states.full import Full

    q = np.array([1.0, 3.0])
    state = Full(q, np.array([[0.0, gap], [gap, 0.0]]), np.array(means)).linear(1.0, centered=True)
    with mpmath.workdps(50):
        m, n = (mpmath.mpf(mean) for mean in means)
        root = mpmath.sqrt((1 - m**2) * (3 - n**2))
        expected = 1 - (mpmath.sqrt(3) * (1 - mpmath.mpf(gap)) - m * n) / root
    # Equal angles are equal to the rounding of the means, 1e-16, squared; a covariance outside of
    # what rows can have is cut off at 0 and 2.
    assert state.gap[0, 1] == pytest.approx(
        min(max(float(expected), 0.0), 2.0), rel=1e-13, abs=1e-31
    )


def test_proportional_samples_stay_alike() -> None:
    """Found by a law: gap 5e-19 where it is 0, because the samples' sizes were subtracted."""
    layer = th.Layer(weights=th.centered_weights(), norm=th.layer_norm(eps=0.01))
    inputs = th.from_covariance(np.array([[1.0, 2.0], [2.0, 4.0]]))
    assert (th.predict(th.FeedForward(layer, depth=3), inputs).gap <= 1e-30).all()


def test_errors_of_the_way_back_add_up() -> None:
    """A layer adds a rounding, and what the second moment by which it divides is known to."""
    exact = Exchangeable(4, 2.0, 0.3)
    rough = exact._replace(second_moment_error=1e-3)
    start = Gradient((1.0, 0.5), 0, 1e-5)
    for norm, share in ((None, 0.0), (th.layer_norm(), 1.0)):
        pull, _ = bind_pull(NormAct(norm, th.relu), exact)
        fine, coarse = pull(exact, start).error, pull(rough, start).error
        assert fine > 1e-5
        assert coarse - fine == pytest.approx(share * 1e-3, rel=1e-6, abs=1e-18)


@pytest.mark.parametrize(
    "inputs",
    [th.exchangeable(batch=3, gap=0.4), th.from_covariance(np.eye(3) + 0.5)],
    ids=["exchangeable", "matrix"],
)
@pytest.mark.parametrize("norm", [None, th.layer_norm(), th.layer_norm(eps=0.1), th.group_norm(8)])
def test_every_layer_states_a_rounding_at_least(
    norm: th.Normalizer | None, inputs: th.Inputs
) -> None:
    prediction = th.predict(th.FeedForward(th.Layer(norm=norm), depth=4), inputs)
    relative = prediction.error["gap"] / prediction.gap
    assert np.all(np.diff(relative) >= 2.0**-53)
    assert relative[0] >= 2.0**-53


@pytest.mark.parametrize(
    ("lengths", "depth"), [((1.0, 1.3), 20), ((1.0, 40.0), 400), ((0.7, 0.7 + 1e-9), 20)]
)
def test_weight_norm_of_samples_of_unlike_length(lengths: tuple[float, float], depth: int) -> None:
    """Lengths part by 10^78; the smaller one's cosine was 1 or -1 by cancellation."""
    layer = th.zoo["WN"]
    rows = np.array([[1.0, 0.0], [0.6, 0.8]]) * np.array(lengths)[:, None]
    pred = th.predict(th.FeedForward(layer, depth=depth), th.from_data(rows), backward=False)
    with mpmath.workdps(120):
        a, b = mpmath.mpf(layer.activation.scale), mpmath.mpf(layer.activation.shift)
        x = mpmath.matrix(rows.tolist())
        p, q, r = (sum(x[i, k] * x[j, k] for k in (0, 1)) / 2 for i, j in ((0, 0), (1, 1), (0, 1)))
        for _ in range(depth):
            c = r / mpmath.sqrt(p * q)
            dual = (mpmath.sqrt(1 - c * c) + c * (mpmath.pi - mpmath.acos(c))) / mpmath.pi
            m, n = mpmath.sqrt(p / (2 * mpmath.pi)), mpmath.sqrt(q / (2 * mpmath.pi))
            r = a * a * mpmath.sqrt(p * q) * dual / 2 + a * b * (m + n) + b * b
            p, q = (a * a * v / 2 + 2 * a * b * w + b * b for v, w in ((p, m), (q, n)))
        exact = float(1 - r / mpmath.sqrt(p * q))
    assert pred.error["gap"][-1] < 1e-7 * exact
    assert abs(pred.gap[-1] - exact) <= pred.error["gap"][-1]
