"""Observables over depth: theory as lines, simulations as points with error bars.

A normalizer has the same color, line and marker in every figure.  The hues are those of Okabe & Ito
(2008), which readers with any common color vision tell apart; line style and marker repeat the
distinction for print without color.  Moments and gradient norms are drawn as log10 from the
logarithms that a prediction carries, so that depth never overflows.  Matplotlib is imported when a
figure is drawn, and its global settings are left alone.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from theory.errors import out_of_domain
from theory.labels import drawable
from theory.specs._check import instance, member

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "PANELS",
    "Drawn",
    "new_axes",
    "plot_comparison",
    "plot_prediction",
    "plot_predictions",
    "plot_simulation",
    "style",
]

FloatArray = NDArray[np.float64]

PANELS = ("variance", "similarity", "stable_rank", "gradient_norm")
"""The paper's four observables."""

_LOGARITHMIC = {
    "second_moment": r"$\log_{10}\,E[x^2]$",
    "variance": r"$\log_{10}\,\mathrm{Var}(x)$",
    "gradient_norm": r"$\log_{10}\,\|g^l\| / \|g^L\|$",
}
_LINEAR = {
    "similarity": "mean cosine similarity",
    "stable_rank": "stable rank",
    "preactivation_second_moment": r"$E[h^2]$",
    "preactivation_correlation": "pre-activation correlation",
}

_HUES = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
}
_STYLES = {
    "plain": ("black", "-", "o"),
    "BN": ("blue", "-", "s"),
    "VN": ("blue", "--", "D"),
    "MC": ("blue", ":", "x"),
    "LN": ("vermilion", "-", "^"),
    "RMSNorm": ("vermilion", "--", "v"),
    "IN": ("purple", "-", "<"),
    "FRN": ("purple", "--", ">"),
    "EvoNorm-S0": ("sky", "-", "P"),
    "EvoNorm-B0": ("sky", "--", "X"),
    "WN": ("green", "-", "p"),
    "SWS": ("green", "--", "h"),
    "WC": ("green", ":", "+"),
}
_SIZED = {"GN": "orange", "EvoNorm-S0": "sky"}
# By log2 of the size, so that neighbors differ without color too.
_SIZED_LINES: tuple[Any, ...] = (
    ":",
    (0, (1, 1, 4, 1)),
    "--",
    "-.",
    (0, (6, 1)),
    (0, (4, 1, 1, 1, 1, 1)),
)
_SIZED_MARKERS = "*dPXv>"


class Prediction(Protocol):
    """What is read of a prediction: an array per observable, or its logarithm, by name."""

    @property
    def depth(self) -> int:
        """Number of layers."""
        ...

    @property
    def label(self) -> str:
        """Name in the legend."""
        ...

    @property
    def error(self) -> Mapping[str, FloatArray]:
        """Absolute error per observable and layer."""
        ...


@dataclass(frozen=True, repr=False)
class Drawn:
    """What a plotting function drew: the axes, and the artists by name."""

    ax: Axes
    artists: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        """Artist, or list of artists, of this name."""
        return self.artists[name]

    def __repr__(self) -> str:
        return f"Drawn({', '.join(self.artists)})"


def new_axes(ax: Axes | None) -> Axes:
    """``ax``, or new axes in a figure of their own."""
    if ax is not None:
        from matplotlib.axes import Axes

        instance("ax", ax, Axes, "matplotlib Axes or None", "pass what plt.subplots() returns")
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]


def style(label: str) -> dict[str, Any]:
    """Color, line style and marker of a normalizer's name, the same in every figure.

    Parameters
    ----------
    label
        A name of ``theory.zoo``; a sized name, such as GN(32), in which the hue darkens and line and
        marker change with the logarithm of the size; either with something after a comma, an order of
        a residual network, which changes nothing; any other name gets one of the hues, by a hash of
        the name.

    Returns
    -------
    dict
        Keywords ``color``, ``linestyle``, ``marker`` of matplotlib's ``Axes.plot``.
    """
    label = drawable(label).partition(",")[0]
    if label in _STYLES:
        hue, line, marker = _STYLES[label]
        return {"color": _HUES[hue], "linestyle": line, "marker": marker}
    sized = re.fullmatch(r"(GN|EvoNorm-S0)\((\d+)\)", label)
    if sized:
        octaves = math.log2(max(int(sized[2]), 1))
        index = round(octaves) % len(_SIZED_LINES)
        return {
            "color": _darker(_HUES[_SIZED[sized[1]]], min(octaves / 8.0, 1.0)),
            "linestyle": _SIZED_LINES[index],
            "marker": _SIZED_MARKERS[index],
        }
    digest = hashlib.sha256(label.encode()).digest()
    hue = tuple(_HUES)[digest[0] % len(_HUES)]
    return {"color": _HUES[hue], "linestyle": "-.", "marker": "osD^v<>pP"[digest[1] % 9]}


def plot_prediction(
    prediction: Prediction,
    ax: Axes | None = None,
    *,
    observable: str = "similarity",
    label: str | None = None,
) -> Drawn:
    """Draw one observable over the layers 1, ..., L.

    Parameters
    ----------
    prediction
        What ``predict`` returned.
    ax
        Axes to draw into; new ones if None.
    observable
        One of variance, second_moment, similarity, stable_rank, gradient_norm,
        preactivation_second_moment, preactivation_correlation.
    label
        Name in the legend and for the color; by default the prediction's own.

    Returns
    -------
    Drawn
        ``line``, and ``band``: the stated error, where it is wide enough to be seen.  Axes of its own
        have the prediction's name as their title.

    Raises
    ------
    SpecificationError
        Unknown observable.
    """
    axis_label = _axis_label(observable)
    name = prediction.label if label is None else label
    if ax is None:
        ax = new_axes(ax)
        ax.set_title(drawable(name))
    ax = new_axes(ax)
    look = style(name)
    layers = np.arange(1, prediction.depth + 1)
    value, error = _theory(prediction, observable)
    (line,) = ax.plot(layers, value, color=look["color"], linestyle=look["linestyle"], label=name)
    with np.errstate(invalid="ignore"):  # an infinite moment has no band
        low, high = value - error, value + error
    band = ax.fill_between(layers, low, high, color=look["color"], alpha=0.2, lw=0)
    ax.locator_params(axis="x", integer=True)
    ax.set_xlabel("layer")
    ax.set_ylabel(axis_label)
    return Drawn(ax, {"line": line, "band": band})


def plot_simulation(
    simulation: Any,
    ax: Axes | None = None,
    *,
    observable: str = "similarity",
    label: str,
) -> Drawn:
    """Draw one observable's means over the networks, with bars of two standard errors.

    Parameters
    ----------
    simulation
        What ``simulate`` returned.
    ax, observable
        As for ``plot_prediction``.
    label
        Name for the color.

    Returns
    -------
    Drawn
        ``points``: means and bars.

    Raises
    ------
    SpecificationError
        Unknown observable.
    """
    axis_label = _axis_label(observable)
    ax = new_axes(ax)
    estimate = getattr(simulation, observable)
    mean = np.asarray(estimate.mean, dtype=np.float64)
    half_width = 2.0 * np.asarray(estimate.sem, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        low, high = mean - half_width, mean + half_width
    if observable in _LOGARITHMIC:
        # A bar that reaches below zero has no logarithm: it is drawn as NaN, that is, not drawn.
        low, mean, high = (_log10(value) for value in (low, mean, high))
    look = style(label)
    with np.errstate(invalid="ignore"):
        bars = np.stack([mean - low, high - mean])
    points = ax.errorbar(
        np.arange(1, len(mean) + 1),
        mean,
        yerr=bars,
        color=look["color"],
        marker=look["marker"],
        markersize=3.5,
        linestyle="none",
        elinewidth=0.8,
    )
    ax.locator_params(axis="x", integer=True)
    ax.set_xlabel("layer")
    ax.set_ylabel(axis_label)
    return Drawn(ax, {"points": points})


def plot_predictions(
    predictions: Mapping[str, Prediction],
    simulations: Mapping[str, Any] | None = None,
    *,
    observables: Sequence[str] = PANELS,
) -> Figure:
    """Draw several networks in one panel per observable.

    Parameters
    ----------
    predictions
        By label, which decides the color.
    simulations
        By label too, for some or all of the predictions: drawn as points, means of the networks,
        with bars of two standard errors.
    observables
        One panel each, in this order, two in a row.

    Raises
    ------
    SpecificationError
        Unknown observable.
    """
    import matplotlib.pyplot as plt

    if not isinstance(observables, list | tuple) or not observables:
        domain, remedy = "a sequence of at least one observable", 'pass ["similarity"], say'
        raise out_of_domain("observables", observables, domain, remedy)
    if simulations is not None:
        instance("simulations", simulations, Mapping, "simulations by label", 'pass {"BN": sim}')
        for simulation in simulations.values():
            if not isinstance(getattr(simulation, "samples", None), Mapping):
                raise out_of_domain(
                    "simulations", simulation, "simulations by label", "use simulate"
                )
    for observable in observables:
        _axis_label(observable)
    columns = min(2, len(observables))
    rows = -(-len(observables) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(4.6 * columns, 3.2 * rows), layout="constrained", squeeze=False
    )
    for unused in panels.flat[len(observables) :]:
        unused.set_visible(False)
    for ax, observable in zip(panels.flat, observables, strict=False):
        for label, prediction in predictions.items():
            plot_prediction(prediction, ax, observable=observable, label=label)
        for label, simulation in (simulations or {}).items():
            plot_simulation(simulation, ax, observable=observable, label=label)
    panels.flat[0].legend(
        handles=_legend_handles(predictions, simulations or {}), frameon=False, fontsize="small"
    )
    return figure


def plot_comparison(
    prediction: Prediction, simulation: Any, *, observables: Sequence[str] = PANELS
) -> Figure:
    """Draw a prediction as lines and a simulation of the same network as points, in four panels.

    Parameters
    ----------
    prediction, simulation
        What ``predict`` and ``simulate`` returned.
    observables
        As for ``plot_predictions``.
    """
    label = prediction.label
    return plot_predictions({label: prediction}, {label: simulation}, observables=observables)


def _axis_label(observable: str) -> str:
    labels = _LOGARITHMIC | _LINEAR
    member("observable", observable, tuple(labels))
    return labels[observable]


def _theory(prediction: Prediction, observable: str) -> tuple[FloatArray, FloatArray]:
    """Value to draw and its error: NaN where nothing was predicted, 0 where no error is stated."""
    logarithmic = observable in _LOGARITHMIC
    name = f"log_{observable}" if logarithmic else observable
    unit = math.log(10.0) if logarithmic else 1.0
    predicted = getattr(prediction, name)
    if predicted is None:
        predicted = np.full(prediction.depth, math.nan)
    value = np.asarray(predicted, dtype=np.float64) / unit
    error = np.asarray(prediction.error.get(name, 0.0), dtype=np.float64) / unit
    return value, np.broadcast_to(error, value.shape)


def _legend_handles(predictions: Mapping[str, Any], simulations: Mapping[str, Any]) -> list[Any]:
    """One entry per name: its line where there is theory, its marker where there is a simulation."""
    from matplotlib.lines import Line2D

    handles = []
    for name in dict.fromkeys([*predictions, *simulations]):
        look = style(name)
        line: Any = look["linestyle"] if name in predictions else "none"
        marker = look["marker"] if name in simulations else ""
        handles.append(
            Line2D(
                [],
                [],
                color=look["color"],
                linestyle=line,
                marker=marker,
                markersize=3.5,
                label=name,
            )
        )
    return handles


def _log10(value: FloatArray) -> FloatArray:
    return np.log10(value, where=value > 0.0, out=np.full_like(value, np.nan))


def _darker(color: str, amount: float) -> str:
    """Return ``color`` with its channels reduced by up to 70 %: ``amount`` runs from 0 to 1."""
    channels = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(channel * (1.0 - 0.7 * amount)):02X}" for channel in channels)
