"""What inputs held as arrays share: equality and hash by content, checks, arrays that stay."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.errors import out_of_domain

__all__ = ["ArrayInputs", "frozen", "numeric", "require_nonzero", "require_unmasked"]

FloatArray = NDArray[np.float64]


class ArrayInputs:
    """What inputs held as arrays share: equality and hash by content, and a short repr."""

    def __repr__(self) -> str:
        """Name and shape: data fill pages, and their key tells them apart."""
        array = getattr(self, dataclasses.fields(self)[0].name)  # type: ignore[arg-type]
        return f"{type(self).__name__}(shape={array.shape})"

    def _content(self) -> tuple[bytes, ...]:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._content() == other._content()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._content()))


def numeric(argument: str, value: Any) -> FloatArray:
    """``value`` as a finite float64 array, else raise SpecificationError."""
    require_unmasked(argument, value)
    try:
        raw = np.asarray(value)
        if raw.dtype.kind not in "biuf":
            raise TypeError
        array = raw.astype(np.float64)
    except (TypeError, ValueError):
        raise out_of_domain(argument, type(value).__name__, "a real array", "convert it") from None
    if not np.isfinite(array).all():
        raise out_of_domain(
            argument, "an array with NaN or inf", "finite", "drop or impute those samples"
        )
    return array


def require_unmasked(argument: str, value: Any) -> None:
    """Raise SpecificationError if entries are masked: np.asarray would take what the mask hides."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise out_of_domain(
            argument, "a masked array", "without masked entries", "drop or impute those samples"
        )


def frozen(array: FloatArray) -> FloatArray:
    """Make ``array`` read-only."""
    array.flags.writeable = False
    return array


def require_nonzero(samples: FloatArray) -> None:
    """Raise SpecificationError if a sample, one along the first axis, is zero: it has no angle."""
    zero = np.flatnonzero(~samples.reshape(len(samples), -1).any(axis=1))
    if zero.size:
        raise out_of_domain(
            "features",
            f"sample {zero[0]} is zero",
            "non-zero samples",
            "drop it: it has no angle",
        )
