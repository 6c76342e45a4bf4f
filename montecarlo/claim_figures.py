"""The evidence for a claim as a picture: means over 1/width, the fit, theory, and wrong theories."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from montecarlo.claim import ClaimResult
from montecarlo.figures import legend_below, png, row_of, styled
from montecarlo.margins import QUANTITIES
from montecarlo.verdicts import Curve, Row
from montecarlo.verify import Run

__all__ = ["evidence", "panels_of"]

_PANELS, _SIZE = 4, 2.9
_THEORY, _SIMULATION, _WRONG = "#0072B2", "#222222", "#D55E00"


@styled
def evidence(run: Run, result: ClaimResult) -> bytes:
    """Up to four of the claim's tests, each extrapolated to infinite width, as PNG bytes."""
    rows = panels_of(result)
    drawing, panels = row_of(len(rows), size=_SIZE)
    for ax, row in zip(panels, rows, strict=True):
        _extrapolation(ax, run.curves[f"{row.case}/{row.inputs}", row.quantity], row)
        wrong = [
            control
            for control in result.controls
            if (control.case, control.inputs, control.quantity, control.layer)
            == (row.case, row.inputs, row.quantity, row.layer)
        ]
        low, high = ax.get_ylim()
        for control in wrong:
            # A wrong theory far outside would squeeze the data into a line.
            if abs(control.wrong - row.theory) < 8.0 * (high - low):
                ax.axhline(control.wrong, color=_WRONG, linestyle=":", linewidth=1.0)
                ax.annotate(
                    control.control,
                    (0.98, control.wrong),
                    xycoords=("axes fraction", "data"),
                    ha="right",
                    va="bottom",
                    color=_WRONG,
                    fontsize=6.5,
                )
    # Two rows under a single panel, which is as wide as one of four.
    legend_below(drawing, panels[0], columns=4 if len(rows) > 1 else 2)
    return png(drawing)


def panels_of(result: ClaimResult) -> list[Row]:
    """For every case and quantity the test with the largest number of layers; then a few of them.

    First one of every case, in the claim's order, then a second quantity of each.
    """
    furthest: dict[tuple[str, str, str], Row] = {}
    for row in result.rows:
        key = (row.case, row.inputs, row.quantity)
        if key not in furthest or row.layers > furthest[key].layers or row.layers == 1:
            furthest[key] = row
    turns = Counter[str]()
    order: list[tuple[int, int, Row]] = []
    for row in furthest.values():
        case = f"{row.case}/{row.inputs}"
        order.append((turns[case], result.claim.cases.index(case), row))
        turns[case] += 1
    return [row for *_, row in sorted(order, key=lambda item: item[:2])][:_PANELS]


def _extrapolation(ax: Any, curve: Curve, row: Row) -> None:
    index = row.layer - 1
    widths = np.asarray(curve.widths, dtype=np.float64)
    fine = np.geomspace(0.95 * widths.min(), 200.0 * widths.max(), 300)
    fitted = curve.fitted(fine, layer=row.layer)
    ax.axhline(row.theory, color=_THEORY, linewidth=1.0, label="theory")
    ax.plot(1000.0 / fine, fitted, color=_SIMULATION, linewidth=0.8, label="fit")
    ax.errorbar(
        1000.0 / widths,
        curve.means[:, index],
        yerr=2.0 * curve.sems[:, index],
        color=_SIMULATION,
        marker="o",
        markersize=3.0,
        linestyle="none",
        elinewidth=0.8,
        label="simulation (2 s.e.)",
    )
    ax.errorbar(
        0.0,
        row.simulation,
        yerr=row.half_width,
        color=_SIMULATION,
        marker="D",
        markersize=3.5,
        markerfacecolor="white",
        elinewidth=1.2,
        label="infinite width (interval)",
    )
    what = f"{QUANTITIES[row.quantity].label}, layer {row.layer}"
    ax.set_title(f"{row.case}, {row.inputs}\n{what}: {row.verdict}", fontsize=7.5)
    ax.set_xlabel("1000 / width")
    ax.locator_params(axis="x", nbins=5)
