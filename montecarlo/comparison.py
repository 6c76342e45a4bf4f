"""z = (simulation - theory) / sqrt(s.e.^2 + error^2), entry by entry, Holm over all entries.

One entry is one observable at one layer.  A finite network's mean differs from the infinite-width
limit by a + b/n + ... (theory notes, section 6); at a single width that bias is part of the
difference and is not removed here.  ``normcompass verify`` extrapolates over several widths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from montecarlo.results import Simulation
from montecarlo.statistics import holm
from theory.errors import out_of_domain
from theory.results import Prediction
from theory.specs import serialize
from theory.specs._check import real

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["COMPARED", "Comparison", "Entry", "compare"]

FloatArray = NDArray[np.float64]

COMPARED = (
    "second_moment",
    "variance",
    "similarity",
    "stable_rank",
    "preactivation_second_moment",
    "preactivation_correlation",
    "gradient_norm",
    "branch_gradient_norm",
)
"""Observables that predictions and simulations share, each on the scale of its comparison."""

_BIAS = (
    "One width: its bias b/n is part of the difference; "
    "`normcompass verify` extrapolates over widths."
)


@dataclass(frozen=True)
class Entry:
    """One observable at one layer.

    Attributes
    ----------
    observable, layer
        What is compared; layers count from 1.
    theory, theory_error
        Prediction and its stated absolute error.
    simulation, sem, n
        Mean over ``n`` independent networks and its standard error.
    z
        (simulation - theory) / sqrt(sem^2 + theory_error^2 + rounding^2).
    p
        Two-sided, Student's t with n - 1 degrees of freedom.
    p_holm
        ``p`` adjusted for all compared entries (Holm 1979).

    An entry that cannot be compared (a moment without a variance, fewer than two networks) has NaN
    in the last three.
    """

    observable: str
    layer: int
    theory: float
    theory_error: float
    simulation: float
    sem: float
    n: int
    z: float
    p: float
    p_holm: float


@dataclass(frozen=True, repr=False)
class Comparison:
    """Theory beside simulation; see ``compare``."""

    prediction: Any
    simulation: Any
    entries: tuple[Entry, ...]

    def rejected(self, *, level: float = 0.01) -> tuple[Entry, ...]:
        """Entries whose Holm-adjusted p-value is at most ``level``, the family-wise error."""
        level = real("level", level, low=0.0, high=1.0, remedy="0.01 is usual")
        return tuple(entry for entry in self.entries if entry.p_holm <= level)

    def to_frame(self) -> pd.DataFrame:
        """One row per entry, with the fields of ``Entry`` as columns."""
        import pandas as pd

        return pd.DataFrame([vars(entry) for entry in self.entries])

    def plot(self) -> Figure:
        """Four panels over depth: theory as lines, simulation as points with bars of two s.e."""
        from theory.plotting import plot_comparison

        return plot_comparison(self.prediction, self.simulation)

    def __repr__(self) -> str:
        header = ("observable", "layer", "theory", "simulation", "s.e.", "z", "p (Holm)")
        rows = [header] + [_row(self._worst(name)) for name in self._observables()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        lines = [
            "  ".join(
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        compared = sum(not math.isnan(entry.z) for entry in self.entries)
        title = f"Comparison of {compared} entries; per observable the one that differs most:"
        notes = [_BIAS]
        if _without_variance(self.prediction):
            notes.append(f"Not compared where z is nan: {self.prediction.regime.reason}.")
        return "\n".join([title, *lines, *notes])

    def _observables(self) -> list[str]:
        return list(dict.fromkeys(entry.observable for entry in self.entries))

    def _worst(self, observable: str) -> Entry:
        entries = [entry for entry in self.entries if entry.observable == observable]
        return max(entries, key=lambda entry: -1.0 if math.isnan(entry.z) else abs(entry.z))


def compare(prediction: Any, simulation: Any) -> Comparison:
    """z = (simulation - theory) / sqrt(s.e.^2 + error^2) for every observable and layer.

    Parameters
    ----------
    prediction, simulation
        What ``predict`` and ``simulate`` returned for the same network and inputs.

    Returns
    -------
    Comparison
        Entries with p-values, Holm over all of them.  Rounding counts as an error of depth times
        the precision of the simulation, so that quantities without randomness compare as well.

    Raises
    ------
    SpecificationError
        The two are not of the same network and inputs.
    """
    if not isinstance(prediction, Prediction) or not isinstance(simulation, Simulation):
        raise out_of_domain(
            "prediction, simulation",
            (type(prediction).__name__, type(simulation).__name__),
            "a Prediction and a Simulation",
            "pass what predict() and simulate() returned, in this order",
        )
    depth = simulation.depth
    if prediction.depth != depth:
        raise out_of_domain(
            "simulation",
            f"one of {depth} layers",
            f"of the prediction's depth, {prediction.depth}",
            "predict and simulate the same network",
        )
    for part in ("network", "inputs"):
        if serialize.key(getattr(prediction, part)) != simulation.provenance[f"{part}_key"]:
            raise out_of_domain(
                "simulation",
                simulation.provenance[part],
                f"of the prediction's {part}",
                "predict and simulate the same network on the same inputs",
            )
    skipped = _without_variance(prediction)
    columns = {
        name: _scores(prediction, simulation, name, comparable=name not in skipped)
        for name in COMPARED
        # Either may be without the gradient.
        if getattr(prediction, name) is not None and hasattr(simulation, name)
    }
    adjusted = iter(holm(np.concatenate([scores["p"] for scores in columns.values()])))
    entries = tuple(
        Entry(
            observable=name,
            layer=layer + 1,
            n=int(getattr(simulation, name).n),
            p_holm=float(next(adjusted)),
            **{field: float(values[layer]) for field, values in scores.items()},
        )
        for name, scores in columns.items()
        for layer in range(depth)
    )
    return Comparison(prediction, simulation, entries)


def _without_variance(prediction: Any) -> frozenset[str]:
    """Observables whose mean has no standard error (theory notes, section 4, heavy tails)."""
    status = prediction.regime.status
    norms = [layer.norm for layer in prediction.network.layers if layer.norm is not None]
    raw = any(norm.denominator == "std" and not norm.centered for norm in norms)
    if status == "regular":
        return frozenset()
    if status == "infinite" and raw:
        # A raw numerator over a small std: the activations themselves have heavy tails.
        moments = ("second_moment", "variance", "preactivation_second_moment")
        return frozenset({"gradient_norm", "branch_gradient_norm", *moments})
    return frozenset({"gradient_norm", "branch_gradient_norm"})


def _scores(
    prediction: Any, simulation: Any, observable: str, *, comparable: bool
) -> dict[str, FloatArray]:
    estimate = getattr(simulation, observable)
    theory = np.asarray(getattr(prediction, observable), dtype=np.float64)
    mean = np.asarray(estimate.mean, dtype=np.float64)
    sem = np.asarray(estimate.sem, dtype=np.float64)
    error = _stated_error(prediction, observable, theory)
    rounding = simulation.depth * float(np.finfo(simulation.provenance["dtype"]).eps)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        scale = np.sqrt(sem**2 + error**2 + (rounding * theory) ** 2)
        z = np.where(mean == theory, 0.0, (mean - theory) / scale)
    known = np.isfinite(theory) & np.isfinite(mean) & np.isfinite(scale)
    z[~known | (not comparable) | (estimate.n < 2)] = math.nan
    return {
        "theory": theory,
        "theory_error": error,
        "simulation": mean,
        "sem": sem,
        "z": z,
        "p": 2.0 * special.stdtr(max(estimate.n - 1, 1), -np.abs(z)),
    }


def _stated_error(prediction: Any, observable: str, theory: FloatArray) -> FloatArray:
    """Absolute error; that of a logarithm is the relative error of the value."""
    if observable in prediction.error:
        return np.asarray(prediction.error[observable], dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.abs(theory) * np.asarray(prediction.error[f"log_{observable}"])


def _row(entry: Entry) -> tuple[str, ...]:
    return (
        entry.observable,
        str(entry.layer),
        f"{entry.theory:.6g}",
        f"{entry.simulation:.6g}",
        f"{entry.sem:.2g}",
        f"{entry.z:+.2f}",
        f"{entry.p_holm:.3g}",
    )
