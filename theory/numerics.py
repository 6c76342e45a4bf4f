"""Numbers that leave double precision end in a sentence, not in a NaN or in NumPy's own error."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np

from theory.errors import NumericalError

__all__ = ["within_range"]

P = ParamSpec("P")
R = TypeVar("R")


def within_range(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, in which an overflow, x/0 or 0/0 that no formula foresaw raises NumericalError."""

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with np.errstate(divide="raise", over="raise", invalid="raise"):
                return function(*args, **kwargs)
        except (
            FloatingPointError,
            OverflowError,
            ZeroDivisionError,
            np.linalg.LinAlgError,
        ) as error:
            raise out_of_range(str(error)) from error

    return checked


def out_of_range(what: str) -> NumericalError:
    """Build the sentence for numbers that double precision does not hold."""
    return NumericalError(
        f"the numbers of this network leave the range of double precision ({what}); bring weight_variance, "
        "second_moment, eps, scale and shift nearer to 1, or the group size and batch below 1e15"
    )
