"""Predictions on disk: JSON (specifications, routes, provenance) beside npz (arrays), never pickle."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from theory.errors import StoreError, brief, out_of_domain
from theory.regimes import Regime
from theory.results import Prediction
from theory.routes.positions_spectrum import PositionSpectrum
from theory.specs import serialize
from theory.specs._check import file_path, writable
from theory.states.base import Observables
from theory.states.exchangeable import Exchangeable
from theory.states.full import Full
from theory.states.grid import Grid
from theory.states.spatial import Spatial

__all__ = ["load_prediction", "save_prediction"]

_SCHEMA = 1
_FULL = (
    "second_moment",
    "gap",
    "mean",
    "exponent",
    "second_moment_error",
    "gap_error",
    "local_error",
)


def save_prediction(prediction: Prediction, path: str | Path) -> None:
    """Write ``path`` (JSON) and, with the suffix ``.npz``, its arrays.

    Parameters
    ----------
    prediction
        What to keep.
    path
        Name of the JSON file; its folder must exist.
    """
    path = file_path("path", path)
    if path.suffix == ".npz":
        raise out_of_domain(
            "path",
            str(path),
            "the name of the JSON file",
            'give it the suffix ".json": arrays go beside it',
        )
    path = writable(path)
    writable(path.with_suffix(".npz"))
    regime = dataclasses.asdict(prediction.regime)
    regime["rank"] = repr(float(regime["rank"]))
    document = {
        "schema": _SCHEMA,
        "kind": "prediction",
        "network": serialize.to_dict(prediction.network),
        "inputs": serialize.to_dict(prediction.inputs),
        "regime": regime,
        "forward_route": prediction.forward_route,
        "backward_route": prediction.backward_route,
        "routes": dict(prediction.routes),
        "settings": dict(prediction.settings),
        "provenance": dict(prediction.provenance),
    }
    arrays: dict[str, Any] = {}
    for name in ("activation", "preactivation"):
        for field, values in getattr(prediction, name)._asdict().items():
            arrays[f"{name}.{field}"] = values
    if prediction.log_gradient_norm is not None:
        arrays["log_gradient_norm"] = prediction.log_gradient_norm
        arrays["gradient_error"] = prediction.gradient_error
    if prediction.log_branch_gradient_norm is not None:
        arrays["log_branch_gradient_norm"] = prediction.log_branch_gradient_norm
        arrays["branch_gradient_error"] = prediction.branch_gradient_error
    if isinstance(prediction.states[0], Spatial):
        rows = [(s.batch, *s.spectrum, *s[2:]) for s in prediction.states]
        arrays["spatial"] = np.array(rows, dtype=np.float64)
    elif isinstance(prediction.states[0], Grid):
        # Layer by layer: positions may become fewer.
        for k, state in enumerate(prediction.states):
            arrays[f"grid.{k}.shape"] = np.array(state.shape)
            for field in _FULL:
                arrays[f"grid.{k}.{field}"] = np.array(getattr(state.rows, field))
    elif isinstance(prediction.states[0], Full):
        for field in _FULL:
            arrays[f"full.{field}"] = np.array([getattr(s, field) for s in prediction.states])
    else:
        arrays["exchangeable"] = np.array(prediction.states, dtype=np.float64)
    try:
        path.write_text(json.dumps(document, indent=1), encoding="utf-8")
        with path.with_suffix(".npz").open("wb") as stream:
            np.savez_compressed(stream, **arrays)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error}; choose another folder") from error


def load_prediction(path: str | Path) -> Prediction:
    """Read what ``save_prediction`` wrote.

    Raises
    ------
    StoreError
        A file is missing, damaged, of another kind or from a newer schema.
    """
    path = file_path("path", path)
    try:
        _require_file(path)
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.get("kind") != "prediction":
            raise StoreError(f"{path} does not hold a prediction; pass the JSON that save() wrote")
        if document.get("schema") != _SCHEMA:
            raise StoreError(
                f"{path} has schema {document.get('schema')!r}, this version reads {_SCHEMA}; "
                "install a newer normcompass or predict again"
            )
        # Opened here: of a damaged file np.load would leave it open.
        with (
            path.with_suffix(".npz").open("rb") as stream,
            np.load(stream, allow_pickle=False) as stored,
        ):
            arrays = {name: stored[name] for name in stored.files}
        return _build(document, arrays)
    except StoreError:
        raise
    except Exception as error:  # zipfile, zlib, json, OS: a file can be damaged in many ways
        raise StoreError(f"cannot read {path}: {brief(error)}; predict again") from error


def _require_file(path: Path) -> None:
    """A device or pipe would be read for ever."""
    if not path.is_file():
        raise StoreError(f"{path.name} is not a file; pass the JSON that save() wrote")


def _build(document: dict[str, Any], arrays: dict[str, Any]) -> Prediction:
    observed = {
        name: Observables(**{f: arrays[f"{name}.{f}"] for f in Observables._fields})
        for name in ("activation", "preactivation")
    }
    states: list[Any]
    if "exchangeable" in arrays:
        states = [
            Exchangeable(*row)._replace(
                exponent=int(row[4]), batch=row[0] if np.isinf(row[0]) else int(row[0])
            )
            for row in arrays["exchangeable"].tolist()
        ]
    elif "spatial" in arrays:
        states = [_spatial(row) for row in arrays["spatial"].tolist()]
    elif "grid.0.shape" in arrays:
        depth = len(observed["activation"].similarity)
        states = [_grid(arrays, f"grid.{k}.") for k in range(depth)]
    else:
        columns = [arrays[f"full.{field}"] for field in _FULL]
        states = [_full(*row) for row in zip(*columns, strict=True)]
    regime = document["regime"]
    rank = float(regime["rank"])
    return Prediction(
        network=serialize.from_dict(document["network"]),
        inputs=serialize.from_dict(document["inputs"]),
        regime=Regime(status=regime["status"], rank=rank, reason=regime["reason"]),
        activation=observed["activation"],
        preactivation=observed["preactivation"],
        log_gradient_norm=arrays.get("log_gradient_norm"),
        gradient_error=arrays.get("gradient_error"),
        forward_route=document["forward_route"],
        backward_route=document["backward_route"],
        states=states,
        log_branch_gradient_norm=arrays.get("log_branch_gradient_norm"),
        branch_gradient_error=arrays.get("branch_gradient_error"),
        # Absent from files that older versions wrote.
        routes=document.get("routes", {}),
        settings=document.get("settings", {}),
    )


def _full(q: Any, gap: Any, mean: Any, exponent: Any, *errors: Any) -> Full:
    return Full(q, gap, mean, int(exponent), *(float(error) for error in errors))


def _grid(arrays: dict[str, Any], prefix: str) -> Grid:
    shape = tuple(int(side) for side in arrays[prefix + "shape"])
    return Grid(_full(*(arrays[prefix + field] for field in _FULL)), shape)


def _spatial(row: list[float]) -> Spatial:
    batch, positions, *eigenvalues = row[:6]
    mean, exponent, *errors = row[6:]
    spectrum = PositionSpectrum(int(positions), *eigenvalues)
    return Spatial(batch if np.isinf(batch) else int(batch), spectrum, mean, int(exponent), *errors)
