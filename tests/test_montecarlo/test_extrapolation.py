"""Extrapolation over widths: coefficients that were put in, an independent fit, and the drawing."""

from __future__ import annotations

import math

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

import montecarlo as mc
import theory as th
from montecarlo.results import Simulation

WIDTHS = (64, 128, 256, 512)


def synthetic(function, spread=1e-3):
    """Four networks of each width with the mean function(n), and a known standard error."""
    pattern = spread * np.array([-1.0, -1.0, 1.0, 1.0])[:, None]
    return [
        Simulation(
            {"second_moment": function(n) + pattern, "gap": function(n) + pattern}, {"width": n}
        )
        for n in WIDTHS
    ]


def test_recovers_coefficients():
    found = mc.extrapolate(synthetic(lambda n: 2.0 - 3.0 / n), observable="gap", layer=1)
    assert found.intercept == pytest.approx(2.0, abs=1e-13)
    np.testing.assert_allclose(found.at(np.array([100.0, 1e6])), [1.97, 2.0 - 3e-6], rtol=1e-12)
    assert found.width_for(0.01) == pytest.approx(300.0, rel=1e-9)
    assert found.width_for(1e9) == math.e


def test_agrees_with_least_squares():
    """np.polyfit with the weights that theory gives the means, sqrt(n)."""
    noise = dict(zip(WIDTHS, (0.01, -0.02, 0.005, 0.0), strict=True))
    sims = synthetic(lambda n: 1.0 + 2.0 / n + noise[n])
    found = mc.extrapolate(sims, observable="gap", layer=1)
    n = np.array(WIDTHS, dtype=float)
    slope, intercept = np.polyfit(1.0 / n, [s.gap.mean[0] for s in sims], 1, w=np.sqrt(n))
    assert found.intercept == pytest.approx(intercept, rel=1e-12)
    assert float(found.fit.slopes[0]) == pytest.approx(slope, rel=1e-10)


def test_small_pools_converge_slowly():
    """Rank 3: n^(-1/2) and 1/n."""
    sims = synthetic(lambda n: 1.0 - 4.0 * n**-0.5 + 2.0 / n)
    found = mc.extrapolate(sims, observable="gap", layer=1, rank=3.0)
    assert found.intercept == pytest.approx(1.0, abs=1e-11)
    n = found.width_for(0.1)
    assert 4.0 * n**-0.5 + 2.0 / n == pytest.approx(0.1, rel=1e-9)


def test_a_real_run_and_its_figure():
    """Four standard errors: a false alarm in 1e-3 of all seeds, with about 60 degrees of freedom."""
    before = dict(mpl.rcParams)
    net = th.FeedForward(th.zoo["BN"], depth=3)
    inputs = th.exchangeable(batch=8, correlation=0.5)
    prediction = th.predict(net, inputs)
    grid = mc.simulate_many({"BN": net}, inputs, widths=[64, 128, 256], replicates=40, workers=1)
    found = mc.extrapolate(
        grid.values(), observable="similarity", layer=3, rank=prediction.regime.rank
    )
    theory = float(prediction.similarity[2])
    assert abs(found.intercept - theory) < 4.0 * found.sem
    drawn = found.plot(theory=theory, label="BN")
    np.testing.assert_array_equal(drawn["points"][0].get_xdata(), 1.0 / found.widths)
    np.testing.assert_array_equal(drawn["points"][0].get_ydata(), found.means)
    np.testing.assert_array_equal(drawn["intercept"][0].get_ydata(), [found.intercept])
    np.testing.assert_array_equal(drawn["theory"].get_ydata(), [theory])
    x = drawn["curve"].get_xdata()
    np.testing.assert_allclose(drawn["curve"].get_ydata(), found.at(1.0 / x), rtol=1e-14)
    sim = grid["BN", "inputs", 256]
    points = sim.plot(label="BN")["points"]
    np.testing.assert_array_equal(points[0].get_ydata(), sim.similarity.mean)
    plt.close("all")
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": 2}, "layer"),
        ({"layer": 1, "rank": 2.0}, "rank"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(th.SpecificationError, match=message):
        mc.extrapolate(synthetic(lambda n: 1.0), observable="gap", **arguments)
    with pytest.raises(th.SpecificationError, match="simulations"):
        mc.extrapolate([], observable="gap", layer=1)
    with pytest.raises(th.SpecificationError, match="tolerance"):
        mc.extrapolate(synthetic(lambda n: 1.0), observable="gap", layer=1).width_for(0.0)
