"""Argument checks shared by the specifications: number, integer, flag."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from theory.errors import StoreError, out_of_domain

# Layers or blocks: beyond, not even one number each fits into memory.
DEEPEST = 10**9
# Channels of a pool, samples, positions: exact as floats.
LARGEST = 2**53

__all__ = [
    "DEEPEST",
    "LARGEST",
    "file_path",
    "flag",
    "instance",
    "integer",
    "member",
    "named",
    "nearest",
    "real",
    "samples",
    "text",
    "writable",
]


def real(
    argument: str,
    value: object,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    remedy: str,
) -> float:
    """Return ``value`` as a finite float in [low, high] (or (low, high]), else raise SpecificationError."""
    bracket = "(" if open_low else "["
    domain = f"a finite number in {bracket}{low:g}, {high:g}]"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise out_of_domain(argument, value, domain, remedy)
    try:
        number = float(value)
    except (OverflowError, ValueError):
        raise out_of_domain(argument, value, domain, remedy) from None
    if not math.isfinite(number) or number < low or number > high or (open_low and number == low):
        raise out_of_domain(argument, value, domain, remedy)
    return number


def integer(argument: str, value: object, *, low: int, high: float = math.inf, remedy: str) -> int:
    """Return ``value`` as an int in [low, high], else raise SpecificationError."""
    number = int(value) if isinstance(value, numbers.Integral) else None
    if isinstance(value, bool):
        number = None
    # Limits that nobody should meet are only said to those who do.
    hidden = high >= DEEPEST and (number is None or number <= high)
    domain = f"an integer >= {low}" if hidden else f"an integer in [{low}, {high:g}]"
    if number is None or not low <= number <= high:
        raise out_of_domain(argument, value, domain, remedy)
    return number


def flag(argument: str, value: object) -> bool:
    """Return ``value`` if it is a bool, else raise SpecificationError."""
    if not isinstance(value, bool):
        raise out_of_domain(argument, value, "True or False", "pass a bool")
    return value


def samples(value: object) -> float:
    """Return a batch size: an int >= 1, or ``math.inf``; else raise SpecificationError."""
    if isinstance(value, numbers.Real) and value == math.inf:
        return math.inf
    return integer("batch", value, low=1, high=LARGEST, remedy="count the samples, or use math.inf")


def instance(argument: str, value: object, kinds: Any, domain: str, remedy: str) -> None:
    """Raise SpecificationError unless ``value`` is of one of the classes."""
    if not isinstance(value, kinds):
        raise out_of_domain(argument, value, domain, remedy)


def file_path(argument: str, value: object) -> Path:
    """Return ``value`` as a path, else raise SpecificationError."""
    if not isinstance(value, str | Path) or "\0" in str(value) or not str(value):
        raise out_of_domain(argument, value, "the path of a file", 'pass "runs.db", say')
    path = Path(value)
    try:
        longest = max((len(os.fsencode(part)) for part in path.parts), default=0)  # of "."
    except UnicodeEncodeError:
        remedy = "half of a surrogate pair is no character"
        raise out_of_domain(argument, value, "the path of a file", remedy) from None
    if longest > 255:
        raise out_of_domain(
            argument, value, "the path of a file", "no name is longer than 255 bytes"
        )
    return path


def writable(path: Path) -> Path:
    """Return ``path``, else raise StoreError: to open a pipe would wait until somebody reads it."""
    if path.is_fifo():
        raise StoreError(f"cannot write {path}: it is a pipe; name a file")
    return path


def text(argument: str, value: object) -> str:
    """Return ``value`` if it is a non-empty name that every file can hold, else raise SpecificationError."""
    if not isinstance(value, str) or not value:
        raise out_of_domain(argument, value, "a non-empty string", 'give it a name, "BN" say')
    try:
        value.encode()
    except UnicodeEncodeError:
        remedy = "half of a surrogate pair is no character: decode the bytes that it came from"
        raise out_of_domain(argument, value, "text that can be written as UTF-8", remedy) from None
    return value


def named(argument: str, value: object, of: str) -> Mapping[str, Any]:
    """Return ``value`` if it is a non-empty mapping from names, else raise SpecificationError."""
    if not isinstance(value, Mapping) or not value:
        domain = f"a non-empty mapping from names to {of}"
        raise out_of_domain(argument, value, domain, f'pass {{"BN": ...}}, {of} by name')
    for name in value:
        text(f"name in {argument}", name)
    return value


def member(
    argument: str,
    value: object,
    members: Collection[str],
    *,
    known_as: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Raise SpecificationError unless ``value`` is a member; ``known_as`` are other names of theirs."""
    if not isinstance(value, str) or value not in members:
        remedy = nearest(value, {name: name for name in members} | {**known_as})
        raise out_of_domain(argument, value, f"one of {', '.join(members)}", remedy)


def nearest(value: object, answers: Mapping[str, str]) -> str:
    """``perhaps deep_norm is meant``: the answer of the word nearest to ``value``, if one is near."""
    from difflib import get_close_matches

    plain = {_letters(word): answer for word, answer in answers.items()}
    found = get_close_matches(_letters(str(value)), plain, n=1, cutoff=0.75)
    return f"perhaps {plain[found[0]]} is meant" if found else "check the spelling"


def _letters(word: str) -> str:
    """DeepNorm, deep-norm and deep_norm are one word."""
    return "".join(filter(str.isalnum, word.lower()))
