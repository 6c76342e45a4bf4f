"""Figures of a calibration: p-values against the uniform law, and power against its formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from numpy.typing import NDArray

from montecarlo.calibration import RATES, Power, Synthetic, binomial_interval
from montecarlo.figures import LOOK, figure_of, png

__all__ = ["p_value_figure", "power_figure"]

FloatArray = NDArray[np.float64]
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
_BINS = 40


def p_value_figure(found: Sequence[Synthetic], real: FloatArray | None) -> bytes:
    """Left: histogram of p-values.  Right: measured over nominal rate down to 1e-4, with 95 % intervals."""
    samples = {result.scenario.name: result.p.ravel() for result in found}
    if real is not None:
        samples["real runs, without bounds (dependent)"] = real.ravel()
    with matplotlib.rc_context({**LOOK, "font.size": 9.0, "axes.titlesize": 10.0}):
        figure = figure_of(10.0, 4.2)
        left, right = figure.subplots(1, 2)
        edges = np.linspace(0.0, 1.0, _BINS + 1)
        for (name, p), color in zip(samples.items(), _COLORS, strict=False):
            counts, _ = np.histogram(p, edges)
            left.stairs(counts * _BINS / p.size, edges, color=color, label=name)
            rates = np.geomspace(1e-4, 0.5, 12)
            hits = [int(np.count_nonzero(p <= rate)) for rate in rates]
            bars = np.array([binomial_interval(hit, p.size) for hit in hits])
            measured = np.array(hits) / p.size
            right.errorbar(
                rates,
                measured / rates,
                yerr=np.abs(bars.T - measured) / rates,
                color=color,
                marker="o",
                markersize=3.0,
                elinewidth=0.8,
                linewidth=0.8,
                label=name,
            )
        left.axhline(1.0, color="0.5", linewidth=0.8, linestyle=":")
        left.set_ylim(0.0, 1.5)
        left.set_xlabel("p-value of an exact prediction")
        left.set_ylabel("density")
        left.set_title("p-values should be uniform")
        right.axhline(1.0, color="0.5", linewidth=0.8, linestyle=":")
        for rate in RATES:
            right.axvline(rate, color="0.9", linewidth=0.8, zorder=0)
        right.set_xscale("log")
        right.set_ylim(0.0, 2.5)
        right.set_xlabel("nominal level of one test")
        right.set_ylabel("measured / nominal false alarms")
        right.set_title("False alarms, 95 % binomial intervals")
        right.legend(frameon=False)
        return png(figure)


def power_figure(found: Mapping[str, Power], margins: Mapping[str, float]) -> bytes:
    """Detected share of wrong predictions over their error, one line per budget; dashed: the formula."""
    with matplotlib.rc_context({**LOOK, "font.size": 9.0, "axes.titlesize": 10.0}):
        figure = figure_of(6.8, 4.4)
        ax = figure.subplots()
        for (name, power), color in zip(found.items(), _COLORS, strict=False):
            scale = 100.0 * margins[name]
            bars = np.array([binomial_interval(int(hit), power.runs) for hit in power.found])
            share = power.found / power.runs
            ax.errorbar(
                scale * power.errors,
                share,
                yerr=np.abs(bars.T - share),
                color=color,
                marker="o",
                markersize=3.0,
                elinewidth=0.8,
                linewidth=0.8,
                label=f"{name}: {power.networks:.0f} networks of each width",
            )
            ax.axvline(scale * power.formula, color=color, linestyle="--", linewidth=0.8)
        ax.axhline(0.95, color="0.5", linewidth=0.8, linestyle=":")
        ax.set_xlabel("error of the prediction, % of the gradient's factor per layer")
        ax.set_ylabel("share of runs that detect it (95 % intervals)")
        ax.set_title("Power; dashed: `detectable`, where 95 % is promised")
        ax.set_ylim(0.0, 1.02)
        ax.legend(frameon=False, loc="lower right")
        return png(figure)
