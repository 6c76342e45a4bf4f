"""Correlation maps with cobwebs, phase portraits, the frontier of group sizes, spectra.

Every function draws into ``ax`` (new axes if None) and returns ``Drawn``: the axes and the artists by
name.  Colors, lines and markers are those of ``theory.plotting.style``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from theory.errors import out_of_domain
from theory.labels import drawable
from theory.plotting import Drawn, new_axes, style
from theory.specs._check import integer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from theory.frontiers import Frontier
    from theory.layer_maps import CorrelationMap, PhasePortrait
    from theory.results import Prediction

__all__ = ["plot_correlation_map", "plot_frontier", "plot_phase_portrait", "plot_spectrum"]

_GRAY = "0.55"


def plot_correlation_map(
    correlation_map: CorrelationMap,
    ax: Axes | None = None,
    *,
    start: float | None = None,
    steps: int = 8,
    label: str | None = None,
) -> Drawn:
    """Draw c' over c, the diagonal c' = c, the fixed points, and a cobweb.

    Parameters
    ----------
    correlation_map
        What ``correlation_map`` returned.
    ax
        Axes to draw into; new ones if None.  The diagonal is drawn once for several maps.
    start
        Correlation at which the cobweb starts; None draws no cobweb.
    steps
        Layers in the cobweb.
    label
        Name in the legend and for the color; by default the layer's.

    Returns
    -------
    Drawn
        ``map``, ``fixed_points`` (filled where attracting), ``diagonal`` and ``cobweb`` where drawn.
    """
    ax = new_axes(ax)
    name = _name(correlation_map.layer) if label is None else label
    look = style(name)
    color = look["color"]
    artists: dict[str, Any] = {}
    if not any(line.get_gid() == "diagonal" for line in ax.lines):
        (artists["diagonal"],) = ax.plot(
            [0.0, 1.0], [0.0, 1.0], color=_GRAY, lw=0.8, gid="diagonal", transform=ax.transData
        )
    c = correlation_map.correlation
    (artists["map"],) = ax.plot(
        c, correlation_map.image, color=color, linestyle=look["linestyle"], label=name
    )
    points = [point.correlation for point in correlation_map.points]
    stable = [point.status != "repelling" for point in correlation_map.points]
    artists["fixed_points"] = ax.scatter(
        points,
        points,
        s=26,
        marker=look["marker"] if look["marker"] not in "x+" else "o",
        facecolors=[color if attracting else "white" for attracting in stable],
        edgecolors=color,
        zorder=3,
    )
    if start is not None:
        x = correlation_map.trajectory(start, steps=steps)
        # (c, c) -> (c, c') -> (c', c') -> ...
        corners = np.repeat(x, 2)
        artists["cobweb"] = ax.plot(
            corners[:-1],
            np.concatenate([[start], corners[2:]]),
            color=color,
            lw=0.7,
            alpha=0.8,
        )[0]
    ax.set_aspect("equal")
    ax.set_xlabel("correlation $c$ of two samples at layer $l$")
    ax.set_ylabel("correlation $c'$ at layer $l + 1$")
    return Drawn(ax, artists)


def plot_phase_portrait(
    portrait: PhasePortrait, ax: Axes | None = None, *, steps: int = 30
) -> Drawn:
    """Draw where one layer moves (log q, c): arrows on the grid, trajectories from its left and right.

    Parameters
    ----------
    portrait
        What ``phase_portrait`` returned.
    ax
        Axes to draw into; new ones if None.
    steps
        Layers in each trajectory.

    Returns
    -------
    Drawn
        ``arrows`` of equal length (the direction of one layer's move on the axes as drawn), and
        ``trajectories``, whose points are layers.
    """
    ax = new_axes(ax)
    look = style(_name(portrait.layer))
    log_q, c = np.log10(portrait.second_moment), portrait.correlation
    x, y = np.meshgrid(log_q, c, indexing="ij")
    # In units of the axes' lengths, so that an arrow's slope is the one seen.
    width, height = np.ptp(log_q) or 1.0, np.ptp(c) or 1.0
    u = (np.log10(portrait.next_second_moment) - x) / width
    v = (portrait.next_correlation - y) / height
    length = np.hypot(u, v)
    moving = length > 1e-12
    scale = np.where(moving, length, 1.0)
    artists: dict[str, Any] = {
        "arrows": ax.quiver(
            x, y, np.where(moving, u / scale, 0.0), np.where(moving, v / scale, 0.0),
            color=_GRAY, pivot="tail", scale=28.0, width=0.0035,
        ),
        "trajectories": [],
    }  # fmt: skip
    low, high = portrait.second_moment.min(), portrait.second_moment.max()
    for q in (low, high):
        for start in (c.min(), c[len(c) // 2], c.max()):
            path_q, path_c = portrait.trajectory(float(q), float(start), steps=steps)
            artists["trajectories"] += ax.plot(
                np.log10(path_q), path_c, color=look["color"], lw=1.0, marker="o", markersize=2.2
            )
    ax.set_xlim(log_q.min() - 0.05 * width, log_q.max() + 0.05 * width)
    ax.set_ylim(c.min() - 0.05 * height, c.max() + 0.05 * height)
    ax.set_xlabel(r"$\log_{10} q$, $q = E[h^2]$")
    ax.set_ylabel("correlation $c$ of two samples")
    return Drawn(ax, artists)


def plot_frontier(frontier: Frontier, ax: Axes | None = None, *, label: str | None = None) -> Drawn:
    """Draw lambda over c*, one point per group size: explosion against indistinguishable samples.

    Parameters
    ----------
    frontier
        What ``frontier`` returned.  Group sizes with an infinite lambda have no point.
    ax
        Axes to draw into; new ones if None.
    label
        Name of the curve in the legend.

    Returns
    -------
    Drawn
        ``curve``, ``points``, ``labels`` (the group sizes) and ``layer_norm``, the end G = infinity.
    """
    ax = new_axes(ax)
    if label is not None:
        drawable(label)
    c, growth = frontier.correlation, frontier.gradient_growth
    drawn = np.isfinite(growth)
    looks = [style(f"GN({size})") for size in frontier.group_size]
    (curve,) = ax.plot(c[drawn], growth[drawn], color=_GRAY, lw=1.0, zorder=1, label=label)
    points: list[Any] = []
    labels: list[Any] = []
    # From LayerNorm's end backwards, a label only where there is room beside the last one.
    corner = np.array([1.0, 1.0])
    ends = 1.0 - c[drawn].min(initial=1.0), growth[drawn].max(initial=1.0) - 1.0
    extent = np.maximum(ends, 1e-300)  # no size drawn, or all of them at LayerNorm's end
    for size, x, y, look in reversed(list(zip(frontier.group_size, c, growth, looks, strict=True))):
        if not np.isfinite(y):
            continue
        (point,) = ax.plot(x, y, color=look["color"], marker=look["marker"], linestyle="none")
        points.insert(0, point)
        if np.abs((np.array([x, y]) - corner) / extent).max() > 0.12:
            corner = np.array([x, y])
            labels.append(
                ax.annotate(
                    f"$G = {size}$", (x, y), (6, 4), textcoords="offset points", fontsize="small"
                )
            )
    look = style("LN")
    (end,) = ax.plot(
        1.0,
        1.0,
        color=look["color"],
        marker=look["marker"],
        linestyle="none",
        markerfacecolor="none",
    )
    labels.append(
        ax.annotate(
            "LN", (1.0, 1.0), (0, -13), textcoords="offset points", ha="center", fontsize="small"
        )
    )
    ax.margins(x=0.14, y=0.12)
    ax.set_xlabel("correlation $c^*$ of two samples, infinite depth")
    ax.set_ylabel(r"growth $\lambda$ of $\|g\|^2$ per layer")
    return Drawn(ax, {"curve": curve, "points": points, "labels": labels, "layer_norm": end})


def plot_spectrum(
    prediction: Prediction, ax: Axes | None = None, *, layers: Sequence[int] | None = None
) -> Drawn:
    """Draw the eigenvalues of the samples' cosine matrix M, largest first, for several layers.

    Parameters
    ----------
    prediction
        What ``predict`` returned.
    ax
        Axes to draw into; new ones if None.
    layers
        Layers, counted from 1; by default the first, the middle and the last.

    Returns
    -------
    Drawn
        ``lines``, one per layer, darker with depth.

    Raises
    ------
    SpecificationError
        A layer that the network does not have.
    """
    ax = new_axes(ax)
    depth = prediction.depth
    chosen = sorted({1, (depth + 1) // 2, depth})
    if layers is not None:
        if not isinstance(layers, Sequence) or not layers:
            raise out_of_domain("layers", layers, "a list of layers", "pass [1, 2], say")
        remedy = "count layers from 1"
        chosen = [integer("layers", layer, low=1, high=depth, remedy=remedy) for layer in layers]
    look = style(prediction.label)
    spectrum = prediction.spectrum
    rank = np.arange(1, spectrum.shape[1] + 1)
    lines = []
    for number, layer in enumerate(chosen):
        lines += ax.plot(
            rank,
            spectrum[layer - 1],
            color=look["color"],
            alpha=0.35 + 0.65 * (number + 1) / len(chosen),
            marker="os^Dv<>p"[number % 8],
            markersize=3.5,
            linestyle=("-", "--", "-.", ":")[number % 4],
            label=f"{prediction.label}, layer {layer}",
        )
    ax.set_yscale("log")
    ax.locator_params(axis="x", integer=True)
    ax.set_xlabel("number of the eigenvalue, largest first")
    ax.set_ylabel("eigenvalue of the cosine matrix $M$")
    return Drawn(ax, {"lines": lines})


def _name(layer: Any) -> str:
    if layer.norm is not None:
        return str(layer.norm.name)
    return "plain" if layer.weights.name == "gaussian" else str(layer.weights.name)
