"""The gallery's own figures show the numbers that theory and simulation give."""

from __future__ import annotations

import numpy as np
import pytest

import montecarlo as mc
import theory as th
from montecarlo import gallery, gallery_maps


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(gallery_maps, "_REPLICATES", 2)
    monkeypatch.setattr(gallery_maps, "_WIDTH", 64)
    monkeypatch.setattr(gallery_maps, "_WIDTHS", (64, 128, 256))
    monkeypatch.setattr(gallery_maps, "_EXTRAPOLATED", 4)


def test_maps():
    left, right = gallery.FIGURES["maps"](3, 1).axes
    points = [container[0] for container in left.containers]
    network = th.FeedForward(th.zoo["LN"], depth=8)
    sim = mc.simulate(
        network, th.exchangeable(batch=16, correlation=0.1), width=64, replicates=2, seed=3,
        workers=1, backward=False,
    )  # fmt: skip
    c = sim.preactivation_correlation.mean
    np.testing.assert_array_equal(points[0].get_xdata(), c[:-1])
    np.testing.assert_array_equal(points[0].get_ydata(), c[1:])
    # SWS and BN(16), from the README's table.
    drawn = [tuple(np.ravel(line.get_xydata())) for line in right.lines]
    assert any(np.allclose(xy, (1 / np.pi, np.pi / (np.pi - 1))) for xy in drawn if len(xy) == 2)
    assert any(np.allclose(xy, (0.285684, 1.589950), atol=1e-6) for xy in drawn if len(xy) == 2)


def test_width():
    figure = gallery.FIGURES["width"](0, 1)
    for ax, size in zip(figure.axes, (8, 4), strict=True):
        network = th.FeedForward(th.Layer(norm=th.group_norm(size)), depth=10)
        theory = th.predict(network, th.exchangeable(batch=8, correlation=0.5)).log_gradient_norm[0]
        cross = next(line for line in ax.lines if line.get_marker() == "x")
        assert cross.get_ydata() == [theory]
