"""How residual streams and their gradients grow with depth: theory as lines, simulation as points.

Both axes are logarithmic: a power of depth is a straight line, an exponential bends away from it.  One
panel for each family of ``residual_cases``; the color is the normalizer's, line and marker tell apart
what has the same color.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from montecarlo.ensemble import simulate
from montecarlo.residual_cases import CASES, FAMILIES
from montecarlo.statistics import half_width
from theory.plotting import style
from theory.recursion import predict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from montecarlo.verify import Run

__all__ = ["QUANTITIES", "Growth", "Quantity", "draw", "growths_of", "simulated"]

FloatArray = NDArray[np.float64]
Quantity = Literal["variance", "gradient"]
QUANTITIES: tuple[Quantity, ...] = ("variance", "gradient")

_LABELS: Mapping[Quantity, str] = {
    "variance": r"second moment  $E[x_l^2]$",
    "gradient": r"squared gradient  $\|g_l\|^2 / \|g_L\|^2$",
}
_LINES = ("-", "--", ":", "-.", (0, (3, 1, 1, 1, 1, 1)), (0, (6, 2)), (0, (1, 3)))
_MARKERS = "os^Dv<>pPX*"
_DEPTH, _WIDTH, _REPLICATES = 32, 384, 16


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Logarithms of one quantity of one case at blocks 1, ..., L.

    ``low`` and ``high`` are the ends of the error bars of ``mean``.
    """

    name: str
    theory: FloatArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray


def draw(growths: Sequence[Growth], quantity: Quantity) -> Figure:
    """One panel per family, log-log, with its legend beside it.

    Parameters
    ----------
    growths
        Names as in ``residual_cases``.
    quantity
        Which one they show.
    """
    # Not pyplot: a figure in a report must not need a display nor stay in memory.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    by_name = {growth.name: growth for growth in growths}
    families = {
        title: present
        for title, cases in FAMILIES.items()
        if (present := [by_name[case.name] for case in cases if case.name in by_name])
    }
    rows = -(-len(families) // 2)
    figure = Figure(figsize=(12.6, 3.7 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    # A legend beside each panel, in axes of its own: it can cover nothing.
    axes = figure.subplots(rows, 4, squeeze=False, width_ratios=(3.2, 1.6, 3.2, 1.6)).reshape(-1, 2)
    for ax, beside in axes[len(families) :]:
        ax.axis("off")
        beside.axis("off")
    for (ax, beside), (title, chosen) in zip(axes, families.items(), strict=False):
        for growth in chosen:
            _draw_one(ax, growth, [other.name for other in chosen])
        ax.set(xscale="log", yscale="log", title=title, xlabel="block  $l$")
        ax.set_ylabel(_LABELS[quantity])
        _plain_ticks(ax, max(len(growth.theory) for growth in chosen))
        _short_ticks(ax)
        ax.grid(alpha=0.25, linewidth=0.5)
        beside.axis("off")
        handles, labels = ax.get_legend_handles_labels()
        beside.legend(handles, labels, loc="center left", frameon=False, fontsize=7.5)
    return figure


def _draw_one(ax: Axes, growth: Growth, names: Sequence[str]) -> None:
    color = style(growth.name)["color"]
    alike = [name for name in names if style(name)["color"] == color]
    place = alike.index(growth.name)
    blocks = np.arange(1, len(growth.theory) + 1)
    with np.errstate(over="ignore", invalid="ignore"):
        theory, mean, low, high = map(np.exp, (growth.theory, growth.mean, growth.low, growth.high))
    shown = _spread(len(blocks))
    ax.plot(blocks, theory, color=color, linestyle=_LINES[place % len(_LINES)], linewidth=1.0)
    ax.errorbar(
        blocks[shown],
        mean[shown],
        yerr=np.abs(np.stack([mean - low, high - mean]))[:, shown],
        color=color,
        linestyle="none",
        marker=_MARKERS[names.index(growth.name) % len(_MARKERS)],
        markersize=3.5,
        markerfacecolor="none" if place % 2 else color,
        elinewidth=0.8,
    )
    ax.plot(
        [],
        [],
        color=color,
        linestyle=_LINES[place % len(_LINES)],
        marker=_MARKERS[names.index(growth.name) % len(_MARKERS)],
        markersize=3.5,
        markerfacecolor="none" if place % 2 else color,
        linewidth=1.0,
        label=growth.name,
    )


def _spread(depth: int) -> NDArray[np.intp]:
    """Indices of about ten blocks, evenly on a logarithmic axis."""
    return np.unique(np.round(np.geomspace(1, depth, 10)).astype(np.intp)) - 1


def _plain_ticks(ax: Any, depth: int) -> None:
    from matplotlib.ticker import NullLocator

    ticks = [2**k for k in range(depth.bit_length()) if 2**k <= depth]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())


def _short_ticks(ax: Any) -> None:
    """Over little more than two decades numbers are read more easily than powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = ax.get_ylim()
    if high > 300.0 * low:
        return
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def growths_of(run: Run, quantity: Quantity) -> list[Growth]:
    """What a verification found: intercepts at infinite width, bars at its per-test level."""
    names = {"variance": ("growth", "second_moment"), "gradient": ("gradient", "gradient_total")}
    found = []
    for case in run.cases:
        curve = next(
            (c for n in names[quantity] if (c := run.curves.get((case.id, n))) is not None), None
        )
        if case.kind != "residual" or curve is None:
            continue
        bars = half_width(
            sem=curve.fit.sem, dof=curve.fit.dof, level=run.level, bound=curve.bound.sum(axis=0)
        )
        mean = curve.fit.intercept
        found.append(
            Growth(
                name=case.name, theory=curve.theory, mean=mean, low=mean - bars, high=mean + bars
            )
        )
    return found


@lru_cache(maxsize=2)
def simulated(*, seed: int = 0, workers: int | None = None) -> Mapping[Quantity, list[Growth]]:
    """Every case at 32 blocks and one width, 16 networks each: means of logarithms, two s.e."""
    found: dict[Quantity, list[Growth]] = {"variance": [], "gradient": []}
    for case in CASES:
        depth = min(_DEPTH, case.deepest or _DEPTH)
        network = case.network(depth)
        prediction = predict(network, case.inputs)
        simulation = simulate(
            network, case.inputs, width=_WIDTH, replicates=_REPLICATES, seed=seed, workers=workers
        )
        assert prediction.log_gradient_norm is not None
        pairs: dict[Quantity, tuple[FloatArray, Any]] = {
            "variance": (prediction.log_second_moment, simulation.log_second_moment),
            "gradient": (2.0 * prediction.log_gradient_norm, simulation.log_gradient_ratio),
        }
        for quantity, (theory, estimate) in pairs.items():
            mean, bars = estimate.mean, 2.0 * estimate.sem
            found[quantity].append(
                Growth(name=case.name, theory=theory, mean=mean, low=mean - bars, high=mean + bars)
            )
    return found
