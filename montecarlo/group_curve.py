"""LayerNorm -> GroupNorm -> InstanceNorm as one curve over the group size, drawn.

Similarity s and gradient growth lambda against G, and one against the other: the frontier from which
a group size is chosen.  Hues of Okabe & Ito (2008); line styles and markers repeat the distinction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.specs.networks import Layer
from theory.specs.normalizers import group_norm, instance_norm, layer_norm

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LINE", "draw"]

FloatArray = NDArray[np.float64]

LINE: Mapping[str, Layer] = MappingProxyType(
    {"IN": Layer(norm=instance_norm())}
    | {f"GN({g})": Layer(norm=group_norm(g)) for g in (2, 3, 4, 5, 6, 8, 11, 16, 23, 32, 64)}
    | {"LN": Layer(norm=layer_norm())}
)
"""Normalizers through which the lines are drawn."""


class _Look(NamedTuple):
    color: str
    marker: str
    width: float


# For each number of positions, in their order; of curves that coincide the thick one shows below.
_LOOKS = (
    _Look("#000000", "o", 1.3),
    _Look("#E69F00", "s", 2.8),
    _Look("#0072B2", "^", 1.1),
    _Look("#009E73", "D", 1.1),
)
# Where G = infinity is drawn on the logarithmic axis, after a break.
_LAYER_NORM = 256.0
_TICKS = (1, 2, 4, 8, 16, 32, 64)
_DASHES: Any = (0, (4, 2))
_SETTINGS: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(line: pd.DataFrame, points: pd.DataFrame | None, *, depth: int) -> Figure:
    """Three panels: s(G), lambda(G), lambda(s).

    Parameters
    ----------
    line
        ``zoo_table`` of ``LINE``: solid at the last layer and over the middle ones, dashed at
        infinite depth.
    points
        ``zoo_table`` with a simulation, whose means are drawn with bars of two standard errors; None
        draws theory alone.
    depth
        Of both, for the legend.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(11.5, 4.2), layout="constrained")
        panels = figure.subplots(1, 3)
        counts = sorted(set(line["positions"]))
        for look, count in zip(_LOOKS, counts, strict=False):
            _draw_lines(panels, line[line["positions"] == count], look)
            if points is not None:
                _draw_points(panels, points[points["positions"] == count], look)
        _label(panels)
        _annotate_infinite(panels[1], line)
        _annotate_sizes(panels[2], line)
        _legend(figure, counts, depth, simulated=points is not None)
    return figure


def group_size(name: str) -> float:
    """G of IN, GN(G), LN; NaN for another normalizer."""
    if name.startswith("GN("):
        return float(name[3:-1])
    return {"IN": 1.0, "LN": math.inf}.get(name, math.nan)


def _curve(table: pd.DataFrame, observable: str, column: str) -> tuple[FloatArray, FloatArray]:
    """(place on the axis, value) by ascending G; NaN where there is no number."""
    chosen = table[table["observable"] == observable]
    sizes = np.array([group_size(name) for name in chosen["normalizer"]])
    values = chosen[column].to_numpy(dtype=np.float64)
    order = np.argsort(sizes)
    order = order[~np.isnan(sizes[order])]
    return np.minimum(sizes[order], _LAYER_NORM), values[order]


def _draw_lines(panels: Any, table: pd.DataFrame, look: _Look) -> None:
    for names, style in (
        (("similarity", "gradient_growth"), "-"),
        (("fixed_similarity", "fixed_growth"), _DASHES),
    ):
        (place, s), (_, growth) = (_curve(table, name, "theory") for name in names)
        drawn = {"color": look.color, "linestyle": style, "linewidth": look.width}
        panels[0].plot(place, s, **drawn)
        panels[1].plot(place, growth, **drawn)
        panels[2].plot(s, growth, **drawn)


def _draw_points(panels: Any, table: pd.DataFrame, look: _Look) -> None:
    place, s = _curve(table, "similarity", "mean")
    _, s_bar = _curve(table, "similarity", "sem")
    _, growth = _curve(table, "gradient_growth", "mean")
    _, growth_bar = _curve(table, "gradient_growth", "sem")
    drawn = {
        "color": look.color,
        "marker": look.marker,
        "markersize": 4.0,
        "markerfacecolor": "white",
        "linestyle": "none",
        "elinewidth": 0.9,
        "zorder": 3,
    }
    panels[0].errorbar(place, s, yerr=2.0 * s_bar, **drawn)
    panels[1].errorbar(place, growth, yerr=2.0 * growth_bar, **drawn)
    panels[2].errorbar(s, growth, xerr=2.0 * s_bar, yerr=2.0 * growth_bar, **drawn)


def _label(panels: Any) -> None:
    for ax in panels[:2]:
        ax.set_xscale("log")
        ax.set_xticks([*_TICKS, _LAYER_NORM], ["1\nIN", *map(str, _TICKS[1:]), "∞\nLN"])
        ax.minorticks_off()
        ax.set_xlabel("group size $G$ (channels)")
        # The axis is broken between the last group size and infinity.
        ax.plot(128.0, 0.0, marker="$/\\!/$", color="0.3", clip_on=False, zorder=5,
                transform=ax.get_xaxis_transform(), markersize=9.0)  # fmt: skip
    panels[0].set_ylabel("similarity $s$ of two samples")
    panels[0].set_title("(a) similarity")
    panels[1].set_ylabel(r"growth $\lambda$ of $\|g\|^2$ per layer")
    panels[1].set_title("(b) gradient growth")
    panels[2].set_xlabel("similarity $s$ of two samples")
    panels[2].set_ylabel(r"growth $\lambda$ of $\|g\|^2$ per layer")
    panels[2].set_title("(c) the frontier")
    for ax in panels[1:]:
        ax.set_ylim(bottom=min(0.93, ax.get_ylim()[0]))


def _annotate_infinite(ax: Axes, line: pd.DataFrame) -> None:
    """Where a curve begins because smaller groups have an infinite mean."""
    rows = line[line["observable"] == "gradient_growth"]
    for count, table in rows.groupby("positions"):
        infinite = table[table["theory_reason"].str.startswith("inf. mean")]
        if infinite.empty:
            continue
        largest = max(map(group_size, infinite["normalizer"]))
        place, growth = _curve(table, "gradient_growth", "theory")
        first = int(np.argmax(np.isfinite(growth)))
        text = f"$S = {count}$: infinite\nat $G = {largest:g}$"
        ax.annotate(text, (place[first], growth[first]), (6, -2), textcoords="offset points",
                    ha="left", va="top", fontsize="small", color="0.3")  # fmt: skip


def _annotate_sizes(ax: Axes, line: pd.DataFrame) -> None:
    """Group sizes beside the frontier, at the smallest number of positions with all of them."""
    counts = [count for count in sorted(set(line["positions"])) if count > 1]
    if not counts:
        return
    table = line[line["positions"] == counts[0]]
    (place, s), (_, growth) = (
        _curve(table, n, "theory") for n in ("similarity", "gradient_growth")
    )
    for g, x, y in zip(place, s, growth, strict=True):
        # GN(64) is too near LayerNorm for a label of its own.
        if g in (*_TICKS[:-1], _LAYER_NORM) and math.isfinite(x) and math.isfinite(y):
            text = {1.0: "IN", _LAYER_NORM: "LN"}.get(g, f"{g:g}")
            ax.annotate(text, (x, y), (-4, -5), textcoords="offset points", ha="right", va="top",
                        fontsize="small", color="0.3")  # fmt: skip


def _legend(figure: Figure, counts: list[int], depth: int, *, simulated: bool) -> None:
    """Below the panels, so that it covers no data."""
    from matplotlib.lines import Line2D

    points: dict[str, Any] = {"markersize": 4.0, "markerfacecolor": "white"}
    handles = [
        Line2D([], [], color=look.color, linewidth=look.width, label=f"$S = {count}$",
               marker=look.marker if simulated else "", **points)
        for look, count in zip(_LOOKS, counts, strict=False)
    ]  # fmt: skip
    theory: dict[str, Any] = {f"theory, {depth} layers": "-", "theory, depth → ∞": _DASHES}
    for label, style in theory.items():
        handles.append(Line2D([], [], color="0.4", linewidth=1.4, linestyle=style, label=label))
    if simulated:
        label = "simulation, bars: 2 s.e."
        handles.append(
            Line2D([], [], color="0.4", linestyle="none", marker="o", label=label, **points)
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
