"""Every normalizer at one, 16 and 64 positions: predictions beside one ensemble, in a tidy table.

What is tabulated is data: ``NORMALIZERS``, ``POSITIONS`` and ``OBSERVABLES``.  A cell without a number
says why: a word, a colon and a sentence.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from montecarlo.execution import execute, worker_count
from theory.errors import HypothesisError, NormcompassError, NumericalError, RegimeWarning
from theory.fixed_points import fixed_point
from theory.recursion import predict
from theory.specs._check import integer
from theory.specs.compatibility import check
from theory.specs.inputs import Inputs, exchangeable
from theory.specs.networks import FeedForward, Layer
from theory.specs.normalizers import group_norm
from theory.zoo import zoo

if TYPE_CHECKING:
    import pandas as pd

    from montecarlo.results import Simulation
    from theory.results import Prediction

__all__ = [
    "KERNEL",
    "NORMALIZERS",
    "OBSERVABLES",
    "POSITIONS",
    "Ensemble",
    "window",
    "zoo_table",
]

KERNEL = 3
"""Taps in every direction wherever there are positions."""

POSITIONS: tuple[tuple[int, ...], ...] = ((1,), (16,), (8, 8))
"""One position, a ring of 16, a torus of 64."""

NORMALIZERS: Mapping[str, Layer] = MappingProxyType(
    {name: zoo[name] for name in ("plain", "WN", "SWS", "WC", "BN", "VN", "MC", "IN")}
    | {f"GN({size})": Layer(norm=group_norm(size)) for size in (2, 4, 8, 16, 32, 64)}
    | {name: zoo[name] for name in ("LN", "RMSNorm", "FRN", "EvoNorm-S0", "EvoNorm-B0")}
)
"""The paper's layers by name, without kernel."""

OBSERVABLES: Mapping[str, str] = MappingProxyType(
    {
        "second_moment": "E[x^2] of the last layer",
        "variance": "variance over samples and positions of a channel, last layer",
        "similarity": "mean cosine similarity of two samples, last layer",
        "stable_rank": "stable rank of the samples' cosine matrix, last layer",
        "log_gradient_norm": "ln |g^1|/|g^L|, over the whole depth",
        "gradient_growth": "factor per layer on |g|^2, backwards, over the middle third of the layers",
        "fixed_similarity": "similarity s* at infinite depth",
        "fixed_growth": "factor per layer on |g|^2 at infinite depth, lambda",
    }
)
"""Name -> what it is; the last two are theory's alone."""

# Times as wide at one position.
_WIDER = 4

# So many cells are predicted sooner than processes start.
_FEW = 20

_FORWARD = ("second_moment", "variance", "similarity", "stable_rank")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ensemble:
    """The networks that stand beside theory: ``replicates`` of ``width`` channels, in float32.

    All cells have the same seed: normalizers are compared on the same random numbers.
    """

    width: int = 512
    replicates: int = 8
    seed: int = 0

    def width_at(self, positions: int) -> int:
        """Wider where a layer costs little: without positions to average over, it fluctuates more."""
        return self.width if positions > 1 else _WIDER * self.width

    def draws(self, positions: int) -> dict[str, Any]:
        """What decides the numbers of a network."""
        return {"width": self.width_at(positions), "seed": self.seed, "dtype": "float32"}


class _Cell(NamedTuple):
    """A normalizer over some positions, or the reason why there is no such thing."""

    normalizer: str
    network: FeedForward
    inputs: Inputs
    undefined: str

    @property
    def name(self) -> str:
        """For progress."""
        return f"{self.normalizer}, S = {self.inputs.positions}"


class _Reading(NamedTuple):
    """A number with its error, or why there is none."""

    value: float = math.nan
    error: float = math.nan
    reason: str = ""


class _Theory(NamedTuple):
    """Observable -> reading; the regime's status and the route forwards, "" without a prediction."""

    readings: dict[str, _Reading]
    regime: str = ""
    route: str = ""


def zoo_table(
    *,
    normalizers: Mapping[str, Layer] = NORMALIZERS,
    positions: Sequence[tuple[int, ...]] = POSITIONS,
    depth: int = 24,
    batch: int = 4,
    correlation: float = 0.5,
    position_correlation: float = 0.5,
    ensemble: Ensemble | None = None,
    workers: int | None = None,
    advance: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Theory and simulation of every observable, normalizer and number of positions: one row each.

    Parameters
    ----------
    normalizers
        Name -> layer; the kernel is replaced by ``KERNEL`` over positions, by 1 without.
    positions
        (S,) for a ring, (H, W) for a torus.
    depth
        Number of layers L >= 1.
    batch
        Samples B >= 2.
    correlation, position_correlation
        Of x^0: cosine of two samples, and of two positions of a sample; where both differ, their
        product.
    ensemble
        Networks to simulate; None leaves the simulation out.
    workers
        Processes; None uses all cores, but only this process for a few predictions.
    advance
        Called with a cell's name when it is predicted, and again when it is simulated.

    Returns
    -------
    DataFrame
        normalizer, positions, observable, theory, error (NaN where none is stated), theory_reason,
        mean, sem, networks, width, simulation_reason, regime (theory.regimes), route, method.  A reason is
        "" beside a number, and ``word: sentence`` where there is none.

    Raises
    ------
    SpecificationError
        A value outside its domain, or a width that some group size does not divide: before anything
        is computed.  What a single cell lacks is a reason, not an error.
    """
    import pandas as pd

    integer("batch", batch, low=2, remedy="similarity needs two samples")
    cells = [
        _cell(name, layer, depth, _inputs(batch, shape, correlation, position_correlation))
        for shape in positions
        for name, layer in normalizers.items()
    ]
    # Backwards, so that a width is found wrong as it was given, not where it is multiplied.
    for cell in reversed(cells):
        _require_sense(cell, ensemble)
    predicted: dict[int, _Theory] = {}
    processes = 1 if workers is None and len(cells) < _FEW else worker_count(workers)
    for index, theory in execute(_predicted, cells, workers=processes):
        predicted[index] = theory
        if advance is not None:
            advance(f"{cells[index].name}, theory")
    rows: list[dict[str, Any]] = []
    for index, cell in enumerate(cells):
        rows += _rows(cell, predicted[index], ensemble, workers)
        if ensemble is not None and advance is not None:
            advance(f"{cell.name}, networks")
    return pd.DataFrame(rows)


def window(depth: int) -> tuple[int, int]:
    """Layers, counted from 1, between which the growth per layer is read: the middle third.

    The first layers remember the inputs, the last ones the cotangent.
    """
    first = depth // 3 + 1
    return first, min(first + max(depth // 3, 1), depth)


def _inputs(batch: int, shape: tuple[int, ...], correlation: float, beside: float) -> Inputs:
    if math.prod(shape) == 1:
        return exchangeable(batch=batch, correlation=correlation)
    return exchangeable(
        batch=batch, correlation=correlation, positions=shape, position_correlation=beside
    )


def _cell(name: str, layer: Layer, depth: int, inputs: Inputs) -> _Cell:
    kernel = KERNEL if inputs.positions > 1 else 1
    network = FeedForward(dataclasses.replace(layer, kernel=kernel), depth=depth)
    norm = layer.norm
    undefined = ""
    if norm is not None and norm.pool.size(batch=inputs.batch, positions=inputs.positions) < 2:
        undefined = "undefined: at one position the pool would be a single activation"
    return _Cell(name, network, inputs, undefined)


def _require_sense(cell: _Cell, ensemble: Ensemble | None) -> None:
    if cell.undefined:
        return
    check(cell.network, cell.inputs)
    if ensemble is not None:
        from montecarlo.ensemble import plan

        integer("replicates", ensemble.replicates, low=1, remedy="count the networks, 8 say")
        draws = ensemble.draws(cell.inputs.positions)
        plan(cell.network, cell.inputs, method="auto", backward=True, **draws)


def _rows(
    cell: _Cell, theory: _Theory, ensemble: Ensemble | None, workers: int | None
) -> Iterator[dict[str, Any]]:
    simulated, method = _simulated(cell, ensemble, workers)
    for name in OBSERVABLES:
        predicted, found = theory.readings[name], simulated[name]
        counted = None if found.reason else ensemble
        yield {
            "normalizer": cell.normalizer,
            "positions": cell.inputs.positions,
            "observable": name,
            "theory": predicted.value,
            "error": predicted.error,
            "theory_reason": predicted.reason,
            "mean": found.value,
            "sem": found.error,
            "networks": counted.replicates if counted else 0,
            "width": counted.width_at(cell.inputs.positions) if counted else 0,
            "simulation_reason": found.reason,
            "regime": theory.regime,
            "route": theory.route,
            "method": method,
        }


def _predicted(cell: _Cell) -> _Theory:
    if cell.undefined:
        return _Theory(_nothing(cell.undefined))
    try:
        prediction = predict(cell.network, cell.inputs)
    except (HypothesisError, NumericalError) as error:
        return _Theory(_nothing(_why(error)))
    readings = {
        name: _number(
            float(getattr(prediction, name)[-1]),
            float(prediction.error[name][-1]),
            "overflow: beyond the range of floating-point numbers",
        )
        for name in _FORWARD
    }
    readings |= _gradients(prediction)
    readings |= _limits(cell, prediction)
    return _Theory(readings, prediction.regime.status, prediction.forward_route)


def _gradients(prediction: Prediction) -> dict[str, _Reading]:
    """Over the whole depth, and per layer over the middle third."""
    logs, errors = prediction.log_gradient_norm, prediction.error["log_gradient_norm"]
    assert logs is not None
    why = _no_gradient(prediction)
    low, high = (layer - 1 for layer in window(prediction.depth))
    if low == high:
        growth = _Reading(reason="one layer: growth needs at least two layers")
    elif math.isfinite(logs[low]) and math.isfinite(logs[high]):
        value = math.exp(2.0 * float(logs[low] - logs[high]) / (high - low))
        bound = 2.0 * value * float(errors[low] + errors[high]) / (high - low)
        growth = _Reading(value, bound)
    else:
        growth = _Reading(reason=why)
    whole = _number(float(logs[0]), float(errors[0]), why)
    return {"log_gradient_norm": whole, "gradient_growth": growth}


def _no_gradient(prediction: Prediction) -> str:
    """Why the mean squared gradient is no positive number, in this prediction's regime."""
    regime = prediction.regime
    word = "zero" if regime.status == "degenerate" else "inf. mean"
    return f"{word}: {regime.reason}"


def _limits(cell: _Cell, prediction: Prediction) -> dict[str, _Reading]:
    """Similarity and growth at infinite depth."""
    names = ("fixed_similarity", "fixed_growth")
    if prediction.forward_route == "RQMC":
        reason = "unsought: RQMC is too slow to iterate a layer until it stands still"
        return dict.fromkeys(names, _Reading(reason=reason))
    try:
        point = fixed_point(cell.network, cell.inputs)
    except NormcompassError as error:
        return dict.fromkeys(names, _Reading(reason=_why(error)))
    if "not converged" in point.note:
        reason = "slow: the fixed point is approached too slowly to be reached by iteration"
        return dict.fromkeys(names, _Reading(reason=reason))
    why = "no limit: samples collapse, and the growth rises without end as they do"
    if point.regime.status in ("infinite", "degenerate"):
        why = _no_gradient(prediction)
    zero = point.regime.status == "degenerate"
    growth = math.nan if zero else point.gradient_growth
    return {
        "fixed_similarity": _Reading(point.similarity),
        "fixed_growth": _number(growth, math.nan, why),
    }


def _simulated(
    cell: _Cell, ensemble: Ensemble | None, workers: int | None
) -> tuple[dict[str, _Reading], str]:
    """Observable -> mean and standard error; the method."""
    if cell.undefined:
        return _nothing(cell.undefined), ""
    if ensemble is None:
        return _nothing("not asked: only theory was wanted"), ""
    from montecarlo.ensemble import simulate

    try:
        with warnings.catch_warnings():
            # What a regime or a dead network would warn of, the table's reasons say.
            warnings.simplefilter("ignore", RegimeWarning)
            draws = ensemble.draws(cell.inputs.positions) | {"replicates": ensemble.replicates}
            simulation = simulate(cell.network, cell.inputs, workers=workers, **draws)
    except (HypothesisError, NumericalError) as error:
        return _nothing(_why(error)), ""
    limit = _Reading(reason="finite depth: a simulation has no infinite depth")
    readings = _measured(simulation) | {"fixed_similarity": limit, "fixed_growth": limit}
    return readings, str(simulation.provenance["method"])


def _measured(simulation: Simulation) -> dict[str, _Reading]:
    readings = {}
    for name in _FORWARD:
        estimate = getattr(simulation, name)
        why = "dead: all activations of a network are zero"
        readings[name] = _number(float(estimate.mean[-1]), float(estimate.sem[-1]), why)
    # Of logarithms the mean always has a standard error, whatever the tails.
    whole = simulation.log_gradient_norm
    why = "zero: every gradient is exactly zero"
    readings["log_gradient_norm"] = _number(float(whole.mean[0]), float(whole.sem[0]), why)
    low, high = (layer - 1 for layer in window(simulation.depth))
    if low == high:
        readings["gradient_growth"] = _Reading(reason="one layer: growth needs at least two layers")
        return readings
    with np.errstate(invalid="ignore"):
        logs = simulation.samples["log_gradient_ratio"]
        slopes = (logs[:, low] - logs[:, high]) / (high - low)
        value = float(np.exp(slopes.mean()))
        sem = math.inf
        if len(slopes) > 1:
            sem = value * float(slopes.std(ddof=1)) / math.sqrt(len(slopes))
    readings["gradient_growth"] = _number(value, sem, why)
    return readings


def _number(value: float, error: float, why: str) -> _Reading:
    return _Reading(value, error) if math.isfinite(value) else _Reading(reason=why)


def _nothing(reason: str) -> dict[str, _Reading]:
    return dict.fromkeys(OBSERVABLES, _Reading(reason=reason))


def _why(error: NormcompassError) -> str:
    """A word and the error's sentence."""
    text = str(error)
    word = "no route" if "no route" in text else "failed"
    return f"{word}: {text}"
