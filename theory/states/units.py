"""Units of 4**exponent: when a state changes them, and what is said when they cannot be undone."""

from __future__ import annotations

import math

from theory.errors import NumericalError

__all__ = ["LARGE", "SMALL", "STEP", "beyond_range", "steps_of"]

# Powers of four, so that roots and rescaling are exact; far from the ends so that squares fit too.
STEP = 200
LARGE = 4.0**STEP
SMALL = 4.0**-STEP


def steps_of(second_moment: float) -> int:
    """By how many powers of 4 the unit of a q outside of (SMALL, LARGE) changes.

    Raises
    ------
    NumericalError
        A weight variance so large that one layer takes q to infinity.
    """
    if second_moment == math.inf:
        raise NumericalError(
            "one layer multiplies the second moment by more than 1e180; use a weight_variance nearer to "
            "the critical one"
        )
    return STEP if second_moment >= LARGE else -STEP


def beyond_range(exponent: int) -> NumericalError:
    """Build the error of a layer that needs natural units where they overflow."""
    return NumericalError(
        f"second moment 4**{exponent} is outside the range of floating-point numbers and "
        "this layer's normalizer or activation is not scale free; use fewer layers or "
        "weight_variance nearer to the critical one, and eps and shift nearer to 1"
    )
