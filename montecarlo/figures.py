"""Figures of a verification report, as PNG bytes that depend on the results alone.

Lines are theory.  Points are intercepts a of the fits a + b/n, that is, simulations extrapolated to
infinite width; bars are the intervals at the run's per-test level, bounds included.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from montecarlo.case import INPUTS, Case
from montecarlo.margins import QUANTITIES
from montecarlo.statistics import half_width
from montecarlo.verdicts import Curve, Row
from montecarlo.verify import Run
from theory.plotting import style

__all__ = [
    "LOOK",
    "agreement",
    "figure_of",
    "legend_below",
    "normalizer",
    "overview",
    "p_values",
    "png",
    "row_of",
    "styled",
]

_VERDICT_COLORS = {"CONFIRMED": "#0072B2", "REJECTED": "#D55E00", "INCONCLUSIVE": "#888888"}
_INPUT_STYLES = {
    "synthetic": ("#0072B2", "-", "o"),
    "digits": ("#D55E00", "--", "s"),
    "ring": ("#009E73", "-.", "^"),
    "torus": ("#CC79A7", ":", "D"),
    "images": ("#E69F00", "--", "P"),
    "padding": ("#999999", "--", "X"),
    "residual": ("#56B4E9", "-", "v"),
}
_MARKERS = "os^Dv"
# The same numbers with another margin.
_SAME = {"second_moment": "growth", "gradient": "gradient_total"}
# Gradients inside a branch have no panel of their own beside those of the stream.
_DRAWN = tuple(name for name in QUANTITIES if name not in (*_SAME.values(), "branch_gradient"))
LOOK: dict[Any, Any] = {
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


Arguments = ParamSpec("Arguments")
Drawn = TypeVar("Drawn")


def styled(draw: Callable[Arguments, Drawn]) -> Callable[Arguments, Drawn]:
    """Draw with this report's settings; matplotlib's global ones are left alone."""

    @wraps(draw)
    def styled(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Drawn:
        with matplotlib.rc_context(LOOK):
            return draw(*args, **kwargs)

    return styled


@styled
def agreement(run: Run) -> bytes:
    """Every test's difference in units of its margin: theory is 0, the margin is 1."""
    names = list(dict.fromkeys((row.case, row.inputs) for row in run.rows))
    position = {name: len(names) - 1 - i for i, name in enumerate(names)}
    figure = figure_of(12.0, 1.4 + 0.21 * len(names))
    judged = {row.quantity for row in run.rows}
    quantities = [quantity for name, quantity in QUANTITIES.items() if name in judged]
    (panels,) = figure.subplots(1, len(quantities), sharey=True, sharex=True, squeeze=False)
    for ax, quantity in zip(panels, quantities, strict=True):
        rows = [row for row in run.rows if row.quantity == quantity.name]
        layers = sorted({row.layer for row in rows})
        for row in rows:
            index = layers.index(row.layer)
            offset = 0.6 * (index - (len(layers) - 1) / 2.0) / max(len(layers), 1)
            ax.errorbar(
                row.difference / row.margin,
                position[row.case, row.inputs] - offset,
                xerr=row.half_width / row.margin,
                color=_VERDICT_COLORS[row.verdict],
                marker=_MARKERS[index % len(_MARKERS)],
                markersize=3.0,
                elinewidth=0.8,
            )
        for edge in (-1.0, 1.0):
            ax.axvline(edge, color="0.4", linestyle=":", linewidth=0.8)
        ax.axvline(0.0, color="0.8", linewidth=0.8, zorder=0)
        margin = quantity.margin * run.budget.tightening
        ax.set_title(f"{quantity.label}\nmargin {quantity.show(margin)}")
        downward = ", ".join(map(str, layers))
        ax.set_xlabel(f"difference / margin\nlayers, downward:\n{downward}", fontsize=6.5)
        ax.set_ylim(-0.6, len(names) - 0.4)
    panels[0].set_xlim(-1.6, 1.6)
    panels[0].set_yticks(list(position.values()), [f"{case}, {kind}" for case, kind in names])
    return png(figure)


@styled
def p_values(run: Run) -> bytes:
    """Sorted p-values beside the uniform law, and the curve below which Holm rejects."""
    p = np.sort([row.p for row in run.rows if np.isfinite(row.p)])
    figure = figure_of(4.6, 3.4)
    ax = figure.subplots()
    if len(p):
        rank = np.arange(1, len(p) + 1)
        expected = (rank - 0.5) / len(p)
        floor = 1e-2 * run.level
        ax.loglog(
            expected, np.maximum(p, floor), "o", markersize=2.5, color="#0072B2", label="tests"
        )
        ax.loglog(expected, expected, color="0.6", linewidth=0.8, label="uniform")
        ax.loglog(
            expected,
            run.alpha / (len(run.rows) - rank + 1),
            color="#D55E00",
            linewidth=0.8,
            linestyle="--",
            label=f"Holm, family-wise {run.alpha:g}",
        )
        ax.set_ylim(0.5 * floor, 1.5)
    ax.set_xlabel("expected quantile")
    ax.set_ylabel("p-value (bounds make it larger)")
    ax.legend(frameon=False)
    return png(figure)


@styled
def overview(run: Run, kind: str) -> bytes:
    """All normalizers on one batch, the paper's observables over the layers."""
    chosen = [case for case in run.cases if case.kind == kind]
    figure = figure_of(12.0, 6.4)
    panels = figure.subplots(2, 3).ravel()
    for ax, name in zip(panels, _DRAWN, strict=False):
        for case in chosen:
            look = style(case.name)
            curve = _curve(run, case, name)
            if curve is not None:
                _draw(ax, curve, run, look["color"], look["linestyle"], look["marker"], case.name)
        ax.set_title(_title(name))
        ax.set_xlabel("layer")
        _integer_ticks(ax, run)
    handles, labels = panels[0].get_legend_handles_labels()
    panels[-1].axis("off")
    panels[-1].legend(handles, labels, loc="center", ncols=2, frameon=False)
    return png(figure)


@styled
def normalizer(run: Run, name: str) -> bytes:
    """One normalizer on its batches: five quantities over layers, and one extrapolation."""
    chosen = [case for case in run.cases if case.name == name]
    figure, panels = row_of(len(_DRAWN) + 1, size=2.25)
    for ax, quantity in zip(panels, _DRAWN, strict=False):
        for case in chosen:
            color, line, marker = _INPUT_STYLES[case.kind]
            curve = _curve(run, case, quantity)
            if curve is not None:
                _draw(ax, curve, run, color, line, marker, case.kind)
        if not ax.has_data():
            ax.axis("off")
            continue
        ax.set_title(_title(quantity))
        ax.set_xlabel("layer")
        _integer_ticks(ax, run)
    legend_below(figure, panels[0], columns=len(chosen))
    _extrapolation(panels[-1], run, chosen)
    return png(figure)


def _extrapolation(ax: Any, run: Run, chosen: Sequence[Case]) -> None:
    """Log gradient ratio of the first layer against 1/width: means, fit, and theory at 0."""
    for case in chosen:
        color, line, marker = _INPUT_STYLES[case.kind]
        curve = _curve(run, case, "gradient")
        if curve is None:
            continue
        theory = curve.theory[0]
        widths = np.asarray(curve.widths, dtype=np.float64)
        ax.errorbar(
            1000.0 / widths,
            curve.means[:, 0] - theory,
            yerr=2.0 * curve.sems[:, 0],
            color=color,
            marker=marker,
            markersize=3.0,
            linestyle="none",
            elinewidth=0.8,
        )
        fine = np.geomspace(0.95 * widths.min(), 100.0 * widths.max(), 200)
        fitted = curve.fitted(fine, layer=1)
        ax.plot(1000.0 / fine, fitted - theory, color=color, linestyle=line, linewidth=0.8)
        ax.errorbar(
            0.0,
            curve.fit.intercept[0] - theory,
            yerr=2.0 * curve.fit.sem[0],
            color=color,
            marker="_",
        )
    ax.axhline(0.0, color="0.8", linewidth=0.8, zorder=0)
    ax.locator_params(axis="x", nbins=4)
    ax.set_title("gradient, layer 1:\nsimulation − theory")
    ax.set_xlabel("1000 / width (bars: 2 s.e.)")


def _draw(ax: Any, curve: Curve, run: Run, color: str, line: str, marker: str, label: str) -> None:
    layers = np.arange(1, len(curve.theory) + 1)
    ax.plot(layers, curve.theory, color=color, linestyle=line, linewidth=0.9)
    bars = half_width(
        sem=curve.fit.sem, dof=curve.fit.dof, level=run.level, bound=curve.bound.sum(axis=0)
    )
    ax.errorbar(
        layers,
        curve.fit.intercept,
        yerr=bars,
        color=color,
        marker=marker,
        markersize=3.0,
        linestyle="none",
        elinewidth=0.8,
        label=label,
    )


def _curve(run: Run, case: Case, name: str) -> Curve | None:
    """The curve of a quantity; of log E[x^2] the deeper one."""
    other = run.curves.get((case.id, _SAME[name])) if name in _SAME else None
    return other or run.curves.get((case.id, name))


def _title(name: str) -> str:
    return {
        "second_moment": "log second moment",
        "similarity": "mean cosine similarity",
        "gap": "log (1 − similarity)",
        "stable_rank": "log stable rank",
        "gradient": r"$\log(\|g^l\|^2 / \|g^L\|^2)$",
    }[name]


def _integer_ticks(ax: Any, run: Run) -> None:
    depth = max(len(curve.theory) for curve in run.curves.values())
    ax.set_xticks(range(1, depth + 1, max(1, depth // 6)))


def figure_of(width: float, height: float) -> Figure:
    """An empty figure that needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def row_of(count: int, *, size: float) -> tuple[Figure, Any]:
    """``count`` panels side by side, ``size`` inches wide each, with room for a legend below them.

    A layout engine would draw everything twice, and a report has a figure per claim and case.
    """
    width, height = size * count, 2.8
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(
        left=0.62 / width,
        right=1.0 - 0.1 / width,
        bottom=0.77 / height,
        top=1.0 - 0.42 / height,
        wspace=0.62 / (size - 0.62),
    )
    return figure, np.atleast_1d(figure.subplots(1, count))


def legend_below(figure: Figure, ax: Any, *, columns: int) -> None:
    """What the panel ``ax`` shows, in the strip that ``row_of`` leaves: no legend covers data."""
    figure.legend(
        *ax.get_legend_handles_labels(),
        loc="lower center",
        ncols=columns,
        frameon=False,
        fontsize=7.0,
        borderaxespad=0.1,
    )


def png(figure: Figure) -> bytes:
    """The figure as a file: the same results give the same bytes."""
    buffer = io.BytesIO()
    # No date and no version in the file: the same results give the same bytes.
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def rows_of(run: Run, case: str) -> list[Row]:
    """Rows of one normalizer."""
    return [row for row in run.rows if row.case == case]


def kinds_of(run: Run) -> list[str]:
    """Input kinds of a run, in the order of the report."""
    present = {case.kind for case in run.cases}
    return [kind for kind in INPUTS if kind in present]
