"""Is an outcome allowed: a finite result, or a documented error with a sentence that helps?"""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import montecarlo as mc
import theory as th
from theory.errors import NormcompassError, RegimeWarning

__all__ = ["complaint_about_error", "complaint_about_result", "documented"]

# Arguments that a sentence may call by another name.
_SYNONYMS = {"store": "path", "start": "correlation", "shape": "positions"}

# Where a NaN is the answer, by the docstring of the class: no positions; no derived constant; a limit that
# depends on the start; no spare widths.
_MAY_BE_NAN = {
    ("FixedPoint", "position_correlation"),
    ("GrowthLaw", "coefficient"),
    ("GrowthLaw", "rate"),
    ("Fit", "lack_of_fit"),
}
_OBSERVED = (
    *th.OBSERVABLES,
    "branch_gradient_norm",
    "gap",
    "preactivation_gap",
    "log_second_moment",
    "log_variance",
)


def documented(call: Callable[..., Any]) -> set[str]:
    """Names of the exceptions in the section Raises of a docstring."""
    _, _, section = (call.__doc__ or "").partition("Raises\n")
    return set(
        re.findall(r"\b([A-Z]\w+(?:Error|Exception|Invalid\w*))\b", section.split("\n\n")[0])
    )


def complaint_about_error(
    error: BaseException, call: Callable[..., Any], junk: str | None
) -> str | None:
    """Why the error is not allowed, if it is not; ``junk`` is the only argument that was wrong."""
    kind = type(error).__name__
    if not isinstance(error, NormcompassError):
        return None if kind in documented(call) else f"undocumented {kind}: {error}"
    text = str(error)
    if len(text) < 30 or " " not in text:
        return f"{kind} says too little: {text!r}"
    if len(text) > 1500:
        return f"{kind} says too much: {len(text)} characters"
    if "nan" in text.lower() and isinstance(error, th.NumericalError) and ";" not in text:
        return f"{kind} without a remedy: {text}"
    if junk is not None and isinstance(error, th.SpecificationError):
        junk = _SYNONYMS.get(junk, junk)
        words = [word.rstrip("s") for word in junk.lower().split("_")]
        if not any(word in text.lower() for word in words):
            return f"{kind} does not name {junk}: {text}"
    return None


def complaint_about_result(result: Any, raised: list[warnings.WarningMessage]) -> str | None:
    """A NaN or an impossible number in a result, if there is one that no warning announced.

    A figure has to be drawn, and a table to be written: what fails only then fails too late.
    """
    repr(result)
    figure = getattr(getattr(result, "ax", result), "figure", None)
    if isinstance(figure, Figure):
        with warnings.catch_warnings():
            # Characters that no font on this machine has are drawn as boxes.
            warnings.filterwarnings("ignore", "Glyph|.*missing from", UserWarning)
            figure.canvas.draw()
    if isinstance(result, pd.DataFrame):
        result.to_csv().encode()
    strange = [w for w in raised if not issubclass(w.category, RegimeWarning)]
    if strange:
        return f"{strange[0].category.__name__}: {strange[0].message}"
    if isinstance(result, th.Prediction):
        return _about_prediction(result)
    # A network that died has no angles: it says so.
    announced = any("NaN" in str(w.message) for w in raised)
    simulations = result.values() if isinstance(result, mc.Grid) else (result,)
    for simulation in simulations:
        if isinstance(simulation, mc.Simulation) and not announced:
            found = _nan_in("samples", dict(simulation.samples))
            if found:
                return found
    judged = isinstance(result, mc.Simulation | mc.Grid)
    return None if judged else _nan_in("result", result)


def _about_prediction(p: th.Prediction) -> str | None:
    text = [repr(p), p.to_latex()]
    for name in _OBSERVED:
        values = getattr(p, name)
        if values is None:
            continue
        if np.isnan(values).any():
            return f"NaN in {name}: {values}"
        if name in p.error and not (p.error[name] >= 0.0).all():
            return f"error of {name} is no number: {p.error[name]}"
        if (
            "log" not in name
            and "correlation" not in name
            and "similarity" not in name
            and (values < 0).any()
        ):
            return f"negative {name}: {values}"
    if (np.abs(p.similarity) > 1.0 + 1e-9).any() or not text:
        return f"similarity beyond 1: {p.similarity}"
    rank = p.stable_rank
    if (rank < 1.0 - 1e-9).any() or (
        rank > p.inputs.batch * p.inputs.positions * (1.0 + 1e-9)
    ).any():
        return f"stable rank outside [1, B]: {rank}"
    return None


def _nan_in(where: str, value: Any, depth: int = 0) -> str | None:
    """Path of the first NaN inside of a result."""
    if depth > 5:
        return None
    if isinstance(value, float | np.floating):
        return f"NaN in {where}" if math.isnan(value) else None
    if isinstance(value, np.ndarray):
        return f"NaN in {where}" if value.dtype.kind == "f" and np.isnan(value).any() else None
    for name, part in _parts(value):
        found = _nan_in(f"{where}.{name}", part, depth + 1)
        if found and (type(value).__name__, name) not in _MAY_BE_NAN:
            return found
    return None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield field.name, getattr(value, field.name)
    elif isinstance(value, dict):
        yield from ((str(name), part) for name, part in value.items())
    elif hasattr(value, "_asdict"):
        yield from value._asdict().items()
    elif isinstance(value, tuple | list):
        yield from ((str(index), part) for index, part in enumerate(value))
