"""compare: z-scores with the stated errors, Holm, what cannot be compared; the plots it draws.

The simulations compared here have fixed seeds; at width 512 and depth 3 their finite-width bias is far
below a standard error, and |z| < 5 over fewer than 200 entries fails with probability below 2e-4.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

import montecarlo as mc
import theory as th
from montecarlo.gallery import overview

mpl.use("Agg")
INPUTS = th.exchangeable(batch=6, correlation=0.4)


def net(norm: th.Normalizer | None, depth: int = 3) -> th.FeedForward:
    return th.FeedForward(th.Layer(norm=norm), depth=depth)


@pytest.fixture(scope="module")
def comparison() -> mc.Comparison:
    network = net(th.batch_norm())
    sim = mc.simulate(network, INPUTS, width=512, replicates=12, seed=1)
    return mc.compare(th.predict(network, INPUTS), sim)


def test_agreement_of_a_right_theory(comparison: mc.Comparison) -> None:
    scores = comparison.to_frame()["z"].to_numpy()
    assert np.isfinite(scores).all()
    assert np.abs(scores).max() < 5.0
    assert "verify" in repr(comparison)


def test_a_wrong_theory_is_rejected() -> None:
    sim = mc.simulate(net(th.batch_norm()), INPUTS, width=256, replicates=12, seed=1)
    claimed = dataclasses.replace(
        th.predict(net(th.layer_norm()), INPUTS), network=net(th.batch_norm())
    )
    wrong = mc.compare(claimed, sim)
    rejected = {entry.observable for entry in wrong.rejected(level=1e-3)}
    assert {"similarity", "gradient_norm"} <= rejected


def test_heavy_tails_are_not_compared() -> None:
    network = net(th.group_norm(4))
    sim = mc.simulate(network, INPUTS, width=64, replicates=4, seed=1)
    frame = mc.compare(th.predict(network, INPUTS), sim).to_frame()
    assert frame[frame["observable"] == "gradient_norm"]["z"].isna().all()


def test_depths_must_match(comparison: mc.Comparison) -> None:
    with pytest.raises(th.SpecificationError, match="depth"):
        mc.compare(th.predict(net(None, depth=2), INPUTS), comparison.simulation)


def test_other_networks_and_swapped_arguments_are_refused(comparison: mc.Comparison) -> None:
    with pytest.raises(th.SpecificationError, match="prediction's network"):
        mc.compare(th.predict(net(th.layer_norm()), INPUTS), comparison.simulation)
    other = th.predict(net(th.batch_norm()), th.exchangeable(batch=5, correlation=0.4))
    with pytest.raises(th.SpecificationError, match="prediction's inputs"):
        mc.compare(other, comparison.simulation)
    with pytest.raises(th.SpecificationError, match="in this order"):
        mc.compare(comparison.simulation, comparison.prediction)


def test_plots(comparison: mc.Comparison, tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    figure = comparison.plot()
    assert len(figure.axes) == 4
    figure = th.predict_many(
        {"BN": net(th.batch_norm()), "LN": net(th.layer_norm())}, INPUTS
    ).plot()
    assert len(figure.axes[0].lines) == 2
    drawn = comparison.prediction.plot(observable="gradient_norm")
    assert drawn.ax.get_xlabel() == "layer"
    with pytest.raises(th.SpecificationError, match="observable"):
        comparison.prediction.plot(observable="nonsense")
    assert dict(mpl.rcParams) == before


@pytest.mark.slow
def test_overview_is_reproducible(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        overview(tmp_path / name, workers=1)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
