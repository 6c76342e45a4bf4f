"""Argument checks shared by the specifications: number, integer, flag."""

from __future__ import annotations

import math
import numbers

from theory.errors import out_of_domain

__all__ = ["flag", "integer", "real"]


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
    domain = f"an integer >= {low}" if high == math.inf else f"an integer in [{low}, {high:g}]"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise out_of_domain(argument, value, domain, remedy)
    if not low <= int(value) <= high:
        raise out_of_domain(argument, value, domain, remedy)
    return int(value)


def flag(argument: str, value: object) -> bool:
    """Return ``value`` if it is a bool, else raise SpecificationError."""
    if not isinstance(value, bool):
        raise out_of_domain(argument, value, "True or False", "pass a bool")
    return value
