"""Units of 4**exponent: when a state changes them, and what is said when they cannot be undone."""

from __future__ import annotations

from theory.errors import NumericalError

__all__ = ["LARGE", "SMALL", "STEP", "beyond_range"]

# Powers of four, so that roots and rescaling are exact; far from the ends so that squares fit too.
STEP = 200
LARGE = 4.0**STEP
SMALL = 4.0**-STEP


def beyond_range(exponent: int) -> NumericalError:
    """Build the error of a layer that needs natural units where they overflow."""
    return NumericalError(
        f"second moment 4**{exponent} is outside the range of floating-point numbers and "
        "this layer's normalizer or activation is not scale free; use fewer layers or "
        "weight_variance nearer to the critical one, and eps and shift nearer to 1"
    )
