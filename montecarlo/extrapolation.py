"""From several widths to infinite width, and back: which width is as good as infinite.

A finite network's mean is a + sum_j b_j f_j(n) (theory notes, section 6).  ``extrapolate`` fits a and
b over simulations of several widths; ``width_for`` says from which width on the corrections are below
a tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from montecarlo.results import Simulation
from montecarlo.statistics import Fit, Term, variance_decay, weighted_fit, width_terms
from theory.errors import out_of_domain
from theory.specs._arrays import numeric
from theory.specs._check import flag, instance, integer, member, real

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Extrapolation", "extrapolate"]

FloatArray = NDArray[np.float64]

# Matplotlib's margins around larger numbers overflow.
_DRAWN = 1e300


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """a + sum_j b_j f_j(n) fitted to the means of several widths; see ``extrapolate``.

    Parameters
    ----------
    observable, layer
        What was fitted; layers count from 1.
    widths, means, sems
        n_k, means over the networks of that width, their standard errors; shape (widths,).
    terms
        (p, q) of every correction f(n) = n^-p log(n)^q.
    fit
        Coefficients with their standard errors.
    """

    observable: str
    layer: int
    widths: FloatArray
    means: FloatArray = field(repr=False)
    sems: FloatArray = field(repr=False)
    terms: tuple[Term, ...] = field(repr=False)
    fit: Fit = field(repr=False)

    @property
    def intercept(self) -> float:
        """a, the value at infinite width."""
        return float(self.fit.intercept)

    @property
    def sem(self) -> float:
        """Standard error of the intercept."""
        return float(self.fit.sem)

    def at(self, width: float | FloatArray) -> FloatArray:
        """a + sum_j b_j f_j(n) at any width."""
        return np.asarray(
            self.fit.intercept + np.tensordot(self.fit.slopes, self._corrections(width), 1)
        )

    def width_for(self, tolerance: float) -> float:
        """Smallest n with sum_j |b_j| f_j(n) <= tolerance; below e there is no answer but e.

        The estimate has the relative error of the fitted slopes.

        Raises
        ------
        SpecificationError
            A tolerance that is not positive.
        """
        tolerance = real("tolerance", tolerance, low=1e-100, remedy="use 0.01, say")
        from scipy.optimize import brentq

        def excess(log_width: float) -> float:
            size = np.abs(self.fit.slopes) @ self._corrections(math.exp(log_width))
            return float(size) - tolerance

        # Every f_j falls beyond n = e.
        if excess(1.0) <= 0.0:
            return math.e
        return math.exp(brentq(excess, 1.0, 600.0))

    def _corrections(self, width: float | FloatArray) -> FloatArray:
        n = numeric("width", width)
        if not (n >= 1.0).all():
            raise out_of_domain("width", width, "at least 1", "count the channels")
        return np.array([n**-power * np.log(n) ** logs for power, logs in self.terms])

    def plot(
        self, ax: Axes | None = None, *, theory: float | None = None, label: str = "simulation"
    ) -> Any:
        """Draw means over n^-p, the fit, its intercept with two standard errors, and theory at 0.

        p is the power of the slowest correction, 1 for large pools.

        Parameters
        ----------
        ax
            Axes to draw into; new ones if None.
        theory
            The infinite-width prediction; None draws none.
        label
            Name for the color and the legend.

        Returns
        -------
        Drawn
            ``points``, ``curve``, ``intercept``, and ``theory`` where drawn.
        """
        from theory.plotting import Drawn, new_axes, style

        if theory is not None:
            theory = real(
                "theory", theory, low=-_DRAWN, high=_DRAWN, remedy="pass a prediction, or None"
            )
        ax = new_axes(ax)
        look = style(label)
        color, marker = look["color"], look["marker"]
        bars: dict[str, Any] = {"color": color, "linestyle": "none", "elinewidth": 0.9}
        # Straight at 0 for the slowest correction, apart from its logarithm.
        power = min(term[0] for term in self.terms)
        x = self.widths**-power
        artists: dict[str, Any] = {
            "points": ax.errorbar(
                x,
                self.means,
                yerr=2.0 * self.sems,
                marker=marker,
                markersize=4.5,
                label=label,
                **bars,
            )
        }
        fine = np.linspace(1e-3, 1.0, 200) * x.max()
        (artists["curve"],) = ax.plot(fine, self.at(fine ** (-1.0 / power)), color=color, lw=0.9)
        artists["intercept"] = ax.errorbar(
            0.0, self.intercept, yerr=2.0 * self.sem, marker=marker, markersize=5.5,
            markerfacecolor="white", **bars,
        )  # fmt: skip
        if theory is not None:
            known = "theory" in ax.get_legend_handles_labels()[1]
            (artists["theory"],) = ax.plot(
                0.0, theory, color="black", marker="x", markersize=8, linestyle="none", zorder=4,
                label="_theory" if known else "theory",
            )  # fmt: skip
        ticks, places = ["∞"], [0.0]
        for place, n in sorted(zip(x, self.widths, strict=True)):
            if place - places[-1] > 0.06 * x.max():
                places.append(float(place))
                ticks.append(f"{n:g}")
        ax.set_xticks(places, ticks)
        ax.set_xlabel(f"width $n$ (axis in {'$1/n$' if power == 1.0 else f'$n^{{-{power:g}}}$'})")
        ax.set_ylabel(f"{self.observable.replace('_', ' ')}, layer {self.layer}")
        return Drawn(ax, artists)


def extrapolate(
    simulations: Iterable[Simulation],
    *,
    observable: str,
    layer: int,
    rank: float = math.inf,
    curved: bool = False,
) -> Extrapolation:
    """Weighted fit of a + b_1 f_1(n) + ... to one observable at one layer.

    Parameters
    ----------
    simulations
        Of one network at several widths, two networks each or more.
    observable
        Name of an ``Estimate`` of the simulations; ``log_gradient_norm`` rather than gradient_norm,
        whose mean has heavier tails.
    layer
        Counted from 1.
    rank
        Rank of the normalizer's pool, ``prediction.regime.rank``: at most 4 slows convergence down.
    curved
        Add c/n^2: where depth/width exceeds 0.05.

    Raises
    ------
    SpecificationError
        Too few widths, a layer that is not there, a rank at most 2.
    """
    domain, remedy = "simulations of several widths", "pass a list of what simulate() returned"
    try:
        sims = list(simulations)
    except TypeError:
        raise out_of_domain("simulations", simulations, domain, remedy) from None
    for sim in sims:
        instance("simulations", sim, Simulation, domain, remedy)
    flag("curved", curved)
    if not (isinstance(rank, float) and rank == math.inf):
        rank = real("rank", rank, low=2.0, open_low=True, remedy="take prediction.regime.rank")
    if not sims:
        raise out_of_domain("simulations", sims, "at least two widths", "use simulate_many")
    layer = integer(
        "layer", layer, low=1, high=sims[0].depth, remedy=f"there are {sims[0].depth} layers"
    )
    member("observable", observable, tuple(sims[0].estimates()))
    estimates = [getattr(sim, observable) for sim in sims]
    widths = np.array([sim.width for sim in sims], dtype=np.float64)
    means = np.array([estimate.mean[layer - 1] for estimate in estimates])
    sems = np.array([estimate.sem[layer - 1] for estimate in estimates])
    terms = width_terms(rank, curved=curved)
    fit = weighted_fit(
        widths, means, sems, [e.n for e in estimates], terms=terms, decay=variance_decay(rank)
    )
    return Extrapolation(
        observable=observable, layer=layer, widths=widths, means=means, sems=sems,
        terms=terms, fit=fit,
    )  # fmt: skip
