"""Pictures of two claims as a whole: the frontier of group sizes, and the stable rank over the width."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from montecarlo.claim import ClaimResult
from montecarlo.figures import figure_of, png, styled
from montecarlo.verdicts import Row
from montecarlo.verify import Run
from theory.frontiers import frontier
from theory.plotting import style

__all__ = ["PICTURES", "Picture"]

Picture = Callable[[Run, ClaimResult], bytes | None]

_POSITIONS = 16
# lambda does not exist below G = 4 without positions; the integrals of large groups take a second.
_SIZES: Mapping[int, tuple[int, ...]] = MappingProxyType(
    {1: (4, 5, 6, 8, 12, 16, 32, 64, 128), _POSITIONS: (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)}
)
_LINES: Mapping[int, tuple[str, str]] = MappingProxyType(
    {1: ("#E69F00", "--"), _POSITIONS: ("#0072B2", "-")}
)
_NAMED = (4, 16, 32)
_LIMIT, _LAW = 2.0 * math.sqrt(2.0) / (3.0 * math.pi), "(2√2/3π) √(1 − s)"
_LAYER = 10


@styled
def trade_off(run: Run, result: ClaimResult) -> bytes | None:
    """Gradient growth against similarity: theory at infinite depth, simulation at the deepest layers."""
    points = _points(result.rows)
    if not points:
        return None
    drawing = figure_of(11.0, 3.6)
    left, right = drawing.subplots(1, 2)
    # The line over positions costs seconds: only beside points that lie on it.
    for positions in (1, _POSITIONS) if any("ring" in name for name, *_ in points) else (1,):
        _draw_line(left, right, positions)
    gaps = np.geomspace(1e-4, 0.7, 50)
    right.loglog(gaps, _LIMIT * np.sqrt(gaps), color="0.5", linestyle=":", label=_LAW)
    for point in points:
        _draw_point(left, right, *point, labeled=point is points[0])
    left.set_xlim(0.28, 1.06)
    left.set_ylim(0.92, 2.08)
    right.set_xlim(5e-5, 4.0)
    left.set_xlabel("similarity s of two samples")
    left.set_ylabel("growth λ of ‖g‖² per layer")
    left.set_title("the frontier of group sizes")
    left.legend(frameon=False, fontsize=7.0)
    right.set_xlabel("1 − s")
    right.set_ylabel("λ − 1")
    right.set_title("towards LayerNorm (left): one law for both")
    right.legend(frameon=False, fontsize=7.0)
    return png(drawing)


def _draw_line(left: Any, right: Any, positions: int) -> None:
    line = frontier(group_sizes=_SIZES[positions], positions=positions)
    s = np.array([point.similarity for point in line.points])
    growth = np.array([point.gradient_growth for point in line.points])
    color, dashes = _LINES[positions]
    label = f"theory, depth → ∞, {positions} position{'s' * (positions > 1)}"
    look: dict[str, Any] = {"color": color, "linestyle": dashes, "linewidth": 1.1}
    left.plot([*s, 1.0], [*growth, 1.0], label=label, **look)
    right.loglog(1.0 - s, growth - 1.0, **look)
    for size, x, y in zip(line.group_size, s, growth, strict=True):
        if positions > 1 and size in _NAMED:
            _name(left, f"GN({size})", x, y, (-10, -11))


def _draw_point(
    left: Any, right: Any, name: str, similarity: Row, gradient: Row, *, labeled: bool
) -> None:
    """Growth is the factor per layer; its interval that of the logarithm."""
    x, y = similarity.simulation, math.exp(gradient.simulation / gradient.layers)
    bars: dict[str, Any] = {
        "xerr": similarity.half_width,
        "yerr": y * math.expm1(gradient.half_width / gradient.layers),
        "color": "#222222",
        "marker": "o",
        "markersize": 3.5,
        "elinewidth": 1.0,
        "linestyle": "none",
    }
    labels = ("simulation, infinite width (intervals)", "theory at the same layers")
    measured, predicted = labels if labeled else (None, None)
    left.errorbar(x, y, label=measured, **bars)
    at = (similarity.theory, math.exp(gradient.theory / gradient.layers))
    left.plot(*at, "x", color="#D55E00", markersize=6.0, label=predicted)
    _name(left, name, x, y, (5, 4) if y - bars["yerr"] > 1.0 else (-22, -11))
    if y - bars["yerr"] > 1.0:
        right.errorbar(1.0 - x, y - 1.0, **bars)
        _name(right, name, 1.0 - x, y - 1.0, (6, -8))


def _name(ax: Any, text: str, x: float, y: float, offset: tuple[int, int]) -> None:
    ax.annotate(text, (x, y), offset, textcoords="offset points", fontsize=7.0, color="0.3")


def _points(rows: Iterable[Row]) -> list[tuple[str, Row, Row]]:
    """(case, its similarity in the last layer, its gradient over the fewest last layers).

    A factor that counts the first layer, which sees the inputs' scale, is not near the line.
    """
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.quantity == "gradient" and row.layer == 1:
            continue
        mine = found.setdefault(f"{row.case}, {row.inputs}", {})
        if row.quantity not in mine or row.layer > mine[row.quantity].layer:
            mine[row.quantity] = row
    return [
        (name, mine["similarity"], mine["gradient"])
        for name, mine in found.items()
        if len(mine) == 2
    ]


@styled
def rank_over_width(run: Run, result: ClaimResult) -> bytes | None:
    """Stable rank in layer 10 against the width: exact values, the paper's bound, simulation."""
    curves = {
        case: curve
        for case in result.claim.cases
        if (curve := run.curves.get((case, "stable_rank"))) is not None
        and len(curve.theory) >= _LAYER
    }
    if not curves:
        return None
    drawing = figure_of(7.4, 3.6)
    ax = drawing.subplots()
    index = _LAYER - 1
    for case, curve in curves.items():
        name = case.partition("/")[0]
        look = style(name.partition(",")[0])
        color = "#CC79A7" if "linear" in name else look["color"]
        widths = np.asarray(curve.widths, dtype=np.float64)
        rank = np.exp(curve.means[:, index])
        ax.axhline(math.exp(curve.theory[index]), color=color, linewidth=1.0)
        ax.errorbar(
            widths, rank, yerr=2.0 * rank * curve.sems[:, index], color=color, linestyle="none",
            marker=look["marker"], markersize=4.0, label=f"{name} (line: exact)",
        )  # fmt: skip
    batch = next(case.batch for case in run.cases if case.id in curves)
    ax.axhline(batch, color="0.6", linestyle=":", linewidth=1.0, label=f"B = {batch}")
    group = curves.get("GN(6)/synthetic")
    if group is not None:
        widths = np.geomspace(min(group.widths), max(group.widths), 50)
        start = math.exp(float(group.means[0, index]))
        for factor, dashes, label in (
            (1.0, "--", "√(width/6)"),
            (
                start / math.sqrt(widths[0] / 6.0),
                "-.",
                "const · √(width/6), through the first point",
            ),
        ):
            bound = factor * np.sqrt(widths / 6.0)
            ax.plot(widths, bound, color="#D55E00", linestyle=dashes, linewidth=1.0, label=label)
    ax.set_xscale("log")
    ax.set_yscale("log")
    seen = sorted({width for curve in curves.values() for width in curve.widths})
    ax.set_xticks(seen, [str(width) for width in seen])
    ax.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    ax.minorticks_off()
    ax.set_xlabel("width")
    ax.set_ylabel(f"stable rank in layer {_LAYER}")
    ax.legend(frameon=False, fontsize=7.0, bbox_to_anchor=(1.01, 1.0), loc="upper left")
    return png(drawing)


PICTURES: Mapping[str, tuple[Picture, str]] = MappingProxyType(
    {
        "iii.trade-off": (
            trade_off,
            "Gradient growth against similarity: the group size moves along the line, from InstanceNorm or "
            "GN(4) to LayerNorm at (1, 1). Simulated: similarity in the last layer, growth over the last "
            "ones. LayerNorm's samples are still on their way to 1, which they approach as l⁻².",
        ),
        "ii.rank-bound": (
            rank_over_width,
            "Stable rank of 8 samples against the width: exact values do not depend on it, and finite widths "
            "scatter about them by O(1/width). The paper's bound grows as a root, with the constant 1 and "
            "with the smallest that the first width leaves.",
        ),
    }
)
"""Claim -> (picture, caption)."""
