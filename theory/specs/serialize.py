"""Specifications as JSON: {"schema": 1, "kind": ..., fields}, and a key from content alone.

The text is strict JSON (RFC 8259): infinity is the string "inf", NaN does not occur.  Reading
builds every part with its own constructor, so a file is checked as thoroughly as code, and nothing
is executed.  A new specification class is one ``_register`` line at the end of this module.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import numpy as np

from theory.errors import StoreError, out_of_domain
from theory.specs._check import integer
from theory.specs.activations import Activation
from theory.specs.images import ImageInputs
from theory.specs.inputs import (
    CovarianceInputs,
    DataInputs,
    ExchangeableInputs,
    exchangeable,
    from_data,
)
from theory.specs.networks import (
    AveragePool,
    FeedForward,
    Flatten,
    GlobalAveragePool,
    Layer,
    Sequential,
)
from theory.specs.normalizers import Normalizer, Pool
from theory.specs.residual import Residual
from theory.specs.spatial import SpatialInputs
from theory.specs.weights import Weights

__all__ = ["SCHEMA", "from_dict", "from_json", "key", "to_dict", "to_json"]

SCHEMA = 1


@dataclass(frozen=True)
class _Kind:
    name: str
    build: Callable[..., Any]
    fields: tuple[str, ...]
    numbers: frozenset[str]  # the fields in which the string "inf" means infinity
    defaults: Mapping[
        str, Any
    ]  # fields left out at this value: they came later, and keys must not change


_BY_NAME: dict[str, _Kind] = {}
_BY_CLASS: dict[type, _Kind] = {}


def to_dict(spec: Any) -> dict[str, Any]:
    """{"schema": 1, "kind": ..., fields}: ``spec`` as numbers, strings, lists and dictionaries.

    Parameters
    ----------
    spec
        An activation, pool, normalizer, weights, layer, network, or inputs.

    Raises
    ------
    SpecificationError
        ``spec`` is not a specification.
    """
    return {"schema": SCHEMA, **_encode_spec(spec)}


def to_json(spec: Any, *, indent: int | None = None) -> str:
    """Canonical JSON of ``spec``: sorted fields, shortest exact decimals; ``from_json`` inverts it.

    Parameters
    ----------
    spec
        As for ``to_dict``.
    indent
        Spaces per level, for reading by eye; None is the canonical form, without white space.

    Raises
    ------
    SpecificationError
        ``spec`` is not a specification.
    """
    if indent is not None:
        indent = integer("indent", indent, low=0, high=80, remedy="2 is usual")
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(
        to_dict(spec), sort_keys=True, allow_nan=False, indent=indent, separators=separators
    )


def key(spec: Any) -> str:
    """SHA-256 of the canonical JSON, 64 hexadecimal digits: the same in every process and platform.

    Raises
    ------
    SpecificationError
        ``spec`` is not a specification.
    """
    return hashlib.sha256(to_json(spec).encode("ascii")).hexdigest()


def from_dict(document: Any) -> Any:
    """Rebuild the specification that ``to_dict`` described.

    Raises
    ------
    StoreError
        Not a specification, a newer schema, an unknown kind, missing or extra fields.
    SpecificationError
        A field's value is outside its domain.
    """
    if not isinstance(document, dict):
        raise _unreadable(
            "document", type(document).__name__, "a JSON object", "write it with to_json"
        )
    fields = dict(document)
    schema = fields.pop("schema", None)
    if isinstance(schema, bool) or not isinstance(schema, int) or schema < 1:
        raise _unreadable(
            "schema", schema, f"an integer from 1 to {SCHEMA}", "write the file with to_json"
        )
    if schema > SCHEMA:
        raise _unreadable(
            "schema",
            schema,
            f"at most {SCHEMA}",
            "a newer normcompass wrote it: upgrade to read it",
        )
    return _decode_spec(fields)


def from_json(text: str | bytes) -> Any:
    """Rebuild the specification that ``to_json`` wrote.

    Parameters
    ----------
    text
        Strict JSON: NaN, Infinity and repeated names are refused.

    Raises
    ------
    StoreError
        Damaged JSON, or what ``from_dict`` refuses.
    SpecificationError
        ``text`` is not text, or a field's value is outside its domain.
    """
    if not isinstance(text, str | bytes):
        raise out_of_domain("text", type(text).__name__, "a string of JSON", "read the file first")
    try:
        return from_dict(_parse(text))
    except RecursionError:
        raise _unreadable(
            "text", text, "JSON nested a few levels deep", "restore the file from its source"
        ) from None


def _parse(text: str | bytes) -> Any:
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except ValueError as reason:  # damaged JSON, undecodable bytes, an integer of absurd length
        raise _unreadable(
            "text", text, f"valid JSON ({reason})", "restore the file from its source"
        ) from None


def _encode_spec(spec: Any) -> dict[str, Any]:
    kind = _BY_CLASS.get(type(spec))
    if kind is None:
        raise out_of_domain(
            "spec",
            type(spec).__name__,
            f"a specification ({', '.join(sorted(_BY_NAME))})",
            "pass the network, layer or inputs itself",
        )
    values = {name: getattr(spec, name) for name in kind.fields}
    return {
        "kind": kind.name,
        **{
            name: _encode(value)
            for name, value in values.items()
            if not (name in kind.defaults and value == kind.defaults[name])
        },
    }


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    if isinstance(value, float):
        # 0.0 == -0.0, so equal specifications need one spelling of zero.
        return "inf" if value == math.inf else value + 0.0
    if value is None or isinstance(value, bool | int | str):
        return value
    return _encode_spec(value)


def _decode_spec(fields: dict[str, Any]) -> Any:
    fields = dict(fields)
    name = fields.pop("kind", None)
    kind = _BY_NAME.get(name) if isinstance(name, str) else None
    if kind is None:
        raise _unreadable(
            "kind", name, f"one of {', '.join(sorted(_BY_NAME))}", "check the spelling, or upgrade"
        )
    missing = sorted(set(kind.fields) - set(fields) - set(kind.defaults))
    if missing or set(fields) - set(kind.fields):
        extra = sorted(set(fields) - set(kind.fields))
        raise _unreadable(
            f"fields of {kind.name}",
            f"missing {missing}, extra {extra}",
            f"exactly {', '.join(kind.fields)}",
            "complete the file, or write it again with to_json",
        )
    return kind.build(**{name: _decode(kind, name, value) for name, value in fields.items()})


def _decode(kind: _Kind, name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return _decode_spec(value)
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return [_decode_spec(item) for item in value]
    if value == "inf" and name in kind.numbers:
        return math.inf
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise _unreadable("fields", repeated, "named once each", "remove the repetition")
    return fields


def _refuse_constant(name: str) -> Any:
    raise _unreadable("number", name, "finite", 'strict JSON has no such number; infinity is "inf"')


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _unreadable("number", digits, "within double precision", 'infinity is "inf"')
    return number


def _unreadable(argument: str, value: object, domain: str, remedy: str) -> StoreError:
    return StoreError(str(out_of_domain(argument, value, domain, remedy)))


def _register(
    name: str,
    cls: type,
    *,
    build: Callable[..., Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Let ``cls`` be written under ``name`` and rebuilt by ``build``, by default the class."""
    hints = get_type_hints(cls)
    fields = tuple(field.name for field in dataclasses.fields(cls))
    numbers = {name for name in fields if float in (hints[name], *get_args(hints[name]))}
    kind = _Kind(name, build or cls, fields, frozenset(numbers), defaults or {})
    _BY_NAME[name] = _BY_CLASS[cls] = kind


_register("activation", Activation, defaults={"threshold": 0.0})
_register("pool", Pool)
_register("normalizer", Normalizer)
_register("weights", Weights)
_register(
    "layer", Layer, defaults={"kernel": 1, "padding": "circular", "stride": 1, "channels": 1.0}
)
_register("feed_forward", FeedForward)
_register("sequential", Sequential)
_register("average_pool", AveragePool)
_register("global_average_pool", GlobalAveragePool)
_register("flatten", Flatten)
_register("residual", Residual)
_register("exchangeable_inputs", ExchangeableInputs, build=exchangeable)
_register("spatial_inputs", SpatialInputs)
_register("data_inputs", DataInputs, build=from_data)
_register("covariance_inputs", CovarianceInputs, defaults={"shape": (1,)})
_register("image_inputs", ImageInputs)
