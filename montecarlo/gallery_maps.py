"""Two figures of the gallery: layers as maps with the frontier of group sizes, and finite width.

Lines are theory, points are simulations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from montecarlo.ensemble import simulate
from montecarlo.extrapolation import extrapolate
from montecarlo.grid import simulate_many
from theory.frontiers import frontier
from theory.layer_maps import correlation_map
from theory.plotting import style
from theory.recursion import predict
from theory.specs.inputs import exchangeable
from theory.specs.networks import FeedForward, Layer
from theory.specs.normalizers import group_norm
from theory.zoo import zoo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["maps", "width"]

_SETTINGS: dict[Any, Any] = {"font.size": 9.0, "axes.spines.top": False, "axes.spines.right": False}
_LAYERS = {
    "LN": zoo["LN"],
    "GN(4)": Layer(norm=group_norm(4)),
    "SWS": zoo["SWS"],
    "BN": zoo["BN"],
}
_BATCH, _WIDTH, _REPLICATES = 16, 1024, 32
_WIDTHS, _EXTRAPOLATED = (128, 256, 512, 1024, 4096), 200


def maps(seed: int, workers: int | None) -> Figure:
    """Left: correlation maps, c' over c of two layers in succession.  Right: lambda over c* for each G."""
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(10.0, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for name, layer in _LAYERS.items():
            # BN's map at the simulated batch size, where its contrasts have correlation -1/(B-1).
            batch = _BATCH if name == "BN" else None
            network = FeedForward(layer, depth=8)
            drawn = correlation_map(network, batch=batch).plot(left)
            drawn["map"].set_zorder(2)
            inputs = exchangeable(batch=_BATCH, correlation=0.9 if name == "SWS" else 0.1)
            found = simulate(
                network, inputs, width=_WIDTH, replicates=_REPLICATES, seed=seed, workers=workers,
                backward=False,
            ).preactivation_correlation  # fmt: skip
            look = style(name)
            left.errorbar(
                found.mean[:-1], found.mean[1:], xerr=2.0 * found.sem[:-1], yerr=2.0 * found.sem[1:],
                color=look["color"], marker=".", markersize=5.0, linestyle="none", elinewidth=0.8,
            )  # fmt: skip
        left.legend(frameon=False)
        frontier(group_sizes=(4, 5, 6, 8, 12, 16, 32, 64)).plot(right)
        for name, batch in (("BN", _BATCH), ("SWS", None)):
            look = style(name)
            map_ = correlation_map(FeedForward(_LAYERS[name], depth=1), batch=batch)
            point = map_.points[-1]
            right.plot(
                point.similarity, point.gradient_growth, color=look["color"], marker=look["marker"],
                linestyle="none",
            )  # fmt: skip
            text = f"BN, $B = {_BATCH}$" if name == "BN" else name
            right.annotate(
                text, (point.similarity, point.gradient_growth), (7, -3),
                textcoords="offset points", fontsize="small",
            )  # fmt: skip
        right.set_xlabel("similarity $s^*$ of two samples, infinite depth")
    return figure


def width(seed: int, workers: int | None) -> Figure:
    """Gradient norm at layer 1 of 10 layers over 1/n and over n^(-1/2), with theory at infinite width."""
    from matplotlib.figure import Figure

    inputs = exchangeable(batch=8, correlation=0.5)
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(10.0, 3.8), layout="constrained")
        for ax, size in zip(figure.subplots(1, 2), (8, 4), strict=True):
            name = f"GN({size})"
            network = FeedForward(Layer(norm=group_norm(size)), depth=10)
            prediction = predict(network, inputs)
            grid = simulate_many(
                {name: network},
                inputs,
                widths=_WIDTHS,
                replicates=_EXTRAPOLATED,
                seed=seed,
                workers=workers,
            )
            fit = extrapolate(
                grid.values(), observable="log_gradient_norm", layer=1, rank=prediction.regime.rank
            )
            assert prediction.log_gradient_norm is not None
            fit.plot(ax, theory=float(prediction.log_gradient_norm[0]), label=name)
            ax.set_ylabel(r"$E\,\log(\|g^1\| / \|g^L\|)$, $L = 10$")
            ax.legend(frameon=False)
    return figure
