"""The one place with JIT options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

__all__ = ["jit", "jit_strict"]

Function = TypeVar("Function", bound=Callable[..., Any])


def jit(function: Function) -> Function:
    """Compile ``function`` on first use and keep the machine code on disk.

    In compiled code float() keeps float32: write np.float64() where a sum needs it.
    "reassoc" and "contract" let sums vectorize; NaN and inf keep their meaning.
    """
    decorate = numba.njit(
        cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract"}
    )
    return cast(Function, decorate(function))


def jit_strict(function: Function) -> Function:
    """``jit`` with IEEE arithmetic as written: (a - b) - c stays that, for where digits cancel."""
    decorate = numba.njit(cache=True, nogil=True, error_model="numpy")
    return cast(Function, decorate(function))
