"""The padding figure: its table has theory and networks side by side, and the figure draws them."""

from __future__ import annotations

import numpy as np

import theory as th
from montecarlo import gallery
from montecarlo.padding_figure import digit_images, draw_padding, padding_table


def test_table_and_figure():
    table = padding_table(
        layers={"BN": th.zoo["BN"], "WN": th.zoo["WN"]},
        depth=2,
        batch=3,
        width=16,
        replicates=4,
        workers=1,
    )
    assert list(table["padding"].unique()) == ["circular", "zero"]
    assert len(table) == 2 * 2 * 2
    assert np.isfinite(table[["theory", "error", "mean", "sem"]]).all(axis=None)
    network = th.FeedForward(th.Layer(norm=th.batch_norm(), kernel=3, padding="zero"), depth=2)
    expected = th.predict(network, digit_images(batch=3)).similarity
    chosen = table[(table["normalizer"] == "BN") & (table["padding"] == "zero")]
    np.testing.assert_array_equal(chosen["theory"], expected)
    figure = draw_padding(table)
    assert [panel.get_title() for panel in figure.axes] == ["circular padding", "zero padding"]
    (line, *_) = figure.axes[1].lines
    np.testing.assert_array_equal(line.get_ydata(), chosen["theory"])
    assert "padding" in gallery.FIGURES
