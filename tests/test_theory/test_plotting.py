"""Figures show the computed numbers, in the colors of ``style``, and leave matplotlib's settings alone."""

from __future__ import annotations

import itertools
import math

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

import theory as th
from theory.plotting import plot_prediction, plot_simulation, style

BATCH = th.exchangeable(batch=6, correlation=0.3)


@pytest.fixture(autouse=True)
def settings():
    """Figures are closed, and rcParams are what they were."""
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


def network(name: str, depth: int = 6) -> th.FeedForward:
    return th.FeedForward(th.zoo[name], depth=depth)


def luminance(color: str) -> float:
    """Relative luminance (WCAG) of #RRGGBB."""
    channels = [int(color[i : i + 2], 16) / 255.0 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("observable", ["similarity", "stable_rank", "variance", "gradient_norm"])
def test_prediction(observable):
    prediction = th.predict(network("GN(8)"), BATCH)
    ax = plt.figure().subplots()
    drawn = prediction.plot(ax, observable=observable)
    assert drawn.ax is ax
    values = getattr(prediction, observable)
    logarithmic = observable in ("variance", "gradient_norm")
    np.testing.assert_array_equal(drawn["line"].get_xdata(), np.arange(1, 7))
    np.testing.assert_allclose(
        drawn["line"].get_ydata(),
        np.log10(values) if logarithmic else values,
        rtol=1e-12,
        atol=1e-15,
    )
    assert drawn["line"].get_color() == style("GN(8)")["color"]
    assert ax.get_xlabel()
    assert ax.get_ylabel()


def test_own_axes_say_which_network():
    network = th.Residual(th.zoo["LN"], depth=2, order="pre_norm")
    prediction = th.predict(network, BATCH)
    assert prediction.plot().ax.get_title() == "LN, pre norm"
    ax = plt.figure().subplots()
    assert prediction.plot(ax).ax.get_title() == ""


def test_band_is_the_stated_error():
    network = th.FeedForward(th.Layer(norm=th.batch_norm(), activation=th.gelu), depth=2)
    prediction = th.predict(network, BATCH, backward=False)
    drawn = plot_prediction(prediction, observable="similarity")
    heights = drawn["band"].get_paths()[0].vertices[:, 1]
    error = prediction.error["similarity"]
    assert heights.max() == (prediction.similarity + error).max()
    assert heights.min() == (prediction.similarity - error).min()


class Constant:
    """A simulation as plotting sees it."""

    def __init__(self, mean, sem):
        self.similarity = self.variance = self
        self.mean, self.sem = np.array(mean), np.array(sem)


def test_simulation():
    drawn = plot_simulation(Constant([0.2, 0.4], [0.01, 0.02]), label="BN")
    line, _, (bars,) = drawn["points"]
    np.testing.assert_allclose(line.get_ydata(), [0.2, 0.4])
    np.testing.assert_allclose(
        [bar[:, 1] for bar in bars.get_segments()], [[0.18, 0.22], [0.36, 0.44]]
    )
    drawn = plot_simulation(Constant([1.0, 10.0], [0.0, 20.0]), label="BN", observable="variance")
    np.testing.assert_allclose(drawn["points"][0].get_ydata(), [0.0, 1.0])


def test_correlation_map():
    found = th.correlation_map(network("GN(8)"), [0.0, 0.5, 0.9])
    expected = [
        th.predict(network("GN(8)", 2), th.exchangeable(batch=2, correlation=c))
        .preactivation_correlation[1]
        for c in (0.0, 0.5, 0.9)
    ]  # fmt: skip
    np.testing.assert_allclose(found.image, expected, rtol=1e-13)
    drawn = found.plot(start=0.0, steps=3)
    np.testing.assert_array_equal(drawn["map"].get_xdata(), found.correlation)
    np.testing.assert_array_equal(drawn["map"].get_ydata(), found.image)
    path = th.predict(network("GN(8)", 4), th.exchangeable(batch=2, correlation=0.0))
    c = path.preactivation_correlation
    np.testing.assert_allclose(drawn["cobweb"].get_xdata(), np.repeat(c, 2)[:-1], atol=1e-14)
    np.testing.assert_allclose(
        drawn["cobweb"].get_ydata(), [c[0], c[1], c[1], c[2], c[2], c[3], c[3]], atol=1e-14
    )
    points = drawn["fixed_points"].get_offsets()
    np.testing.assert_allclose(points[:, 0], [1.0, 0.89547043763578], rtol=1e-12)
    np.testing.assert_array_equal(points[:, 0], points[:, 1])
    again = th.correlation_map(network("LN"), [0.0, 1.0]).plot(drawn.ax)
    assert "diagonal" in drawn.artists
    assert "diagonal" not in again.artists


@pytest.mark.parametrize("name", ["BN", "VN", "MC", "WN", "SWS", "WC", "EvoNorm-B0", "plain"])
def test_layer_maps_start_where_they_say(name):
    """The first entry of a trajectory is the given state, for centered weights too."""
    portrait = th.phase_portrait(network(name), [0.5, 2.0], [0.1, 0.8])
    q, c = portrait.trajectory(0.5, 0.8, steps=1)
    np.testing.assert_allclose([q[0], c[0]], [0.5, 0.8], rtol=1e-13)
    assert q[1] == pytest.approx(portrait.next_second_moment[0, 1], rel=1e-13)
    assert c[1] == pytest.approx(portrait.next_correlation[0, 1], rel=1e-12, abs=1e-15)


def test_phase_portrait():
    axis_q, axis_c = np.array([0.5, 1.0, 2.0]), np.array([0.0, 0.6])
    portrait = th.phase_portrait(
        th.FeedForward(th.Layer(activation=th.tanh), depth=1), axis_q, axis_c
    )
    drawn = portrait.plot(steps=4)
    arrows = drawn["arrows"]
    np.testing.assert_allclose(arrows.X, np.repeat(np.log10(axis_q), 2))
    u = (np.log10(portrait.next_second_moment) - np.log10(axis_q)[:, None]) / math.log10(4.0)
    v = (portrait.next_correlation - axis_c) / 0.6
    np.testing.assert_allclose(np.arctan2(arrows.V, arrows.U), np.arctan2(v, u).ravel())
    q, c = portrait.trajectory(0.5, 0.0, steps=4)
    np.testing.assert_allclose(drawn["trajectories"][0].get_xdata(), np.log10(q))
    np.testing.assert_allclose(drawn["trajectories"][0].get_ydata(), c)


def test_frontier():
    found = th.frontier(group_sizes=(3, 4, 8, 16))
    # lambda = (G - 2)/(G - 3), and c* from the reference values.
    np.testing.assert_allclose(found.gradient_growth, [np.inf, 2.0, 6 / 5, 14 / 13], rtol=1e-12)
    np.testing.assert_allclose(
        found.correlation, [0.777385, 0.803970, 0.895470, 0.962776], atol=1e-6
    )
    drawn = found.plot()
    np.testing.assert_array_equal(drawn["curve"].get_xdata(), found.correlation[1:])
    np.testing.assert_array_equal(drawn["curve"].get_ydata(), found.gradient_growth[1:])
    assert [point.get_color() for point in drawn["points"]] == [
        style(f"GN({size})")["color"] for size in (4, 8, 16)
    ]
    assert found.to_frame()["group_size"].tolist() == [3, 4, 8, 16]
    with pytest.raises(th.SpecificationError, match="group_sizes"):
        th.frontier(group_sizes=(0,))


@pytest.mark.parametrize("name", ["LN", "BN", "GN(8)"])
def test_spectrum(name):
    inputs = th.exchangeable(batch=6, correlation=0.3)
    prediction = th.predict(network(name), inputs)
    drawn = prediction.plot_spectrum(layers=(1, 6))
    for line, layer in zip(drawn["lines"], (1, 6), strict=True):
        matrix = prediction.covariance[layer - 1]
        scale = np.sqrt(np.diag(matrix))
        expected = np.linalg.eigvalsh(matrix / np.outer(scale, scale))[::-1]
        np.testing.assert_allclose(line.get_ydata(), expected, atol=1e-13)
    np.testing.assert_allclose(6.0 / prediction.spectrum[:, 0], prediction.stable_rank, rtol=1e-13)
    with pytest.raises(th.SpecificationError, match="layers"):
        prediction.plot_spectrum(layers=(7,))


def test_spectrum_of_data():
    rows = np.random.default_rng(5).standard_normal((5, 8))
    prediction = th.predict(network("LN", 3), th.from_data(rows))
    np.testing.assert_allclose(prediction.spectrum.sum(axis=1), 5.0, rtol=1e-13)
    np.testing.assert_allclose(5.0 / prediction.spectrum[:, 0], prediction.stable_rank, rtol=1e-13)


def test_normalizers_differ_without_color():
    """Every two names differ in (line, marker)."""
    names = [*th.zoo, "GN(2)", "GN(4)", "GN(16)", "GN(32)", "GN(64)"]
    assert len({(str(style(n)["linestyle"]), style(n)["marker"]) for n in names}) == len(names)


def test_sizes_darken():
    values = [luminance(style(f"GN({2**k})")["color"]) for k in range(1, 7)]
    assert all(later < earlier - 0.02 for earlier, later in itertools.pairwise(values))
