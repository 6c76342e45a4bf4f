"""What laws are written with: a register, corners, and comparisons within stated errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
from hypothesis.strategies import SearchStrategy
from numpy.typing import NDArray

from theory.results import Prediction
from theory.specs.inputs import exchangeable
from theory.specs.networks import FeedForward, Layer
from theory.specs.normalizers import batch_norm, group_norm
from theory.testing.cases import Case, cases, predictable_layers
from theory.testing.runner import Law

__all__ = [
    "RARE",
    "REGISTER",
    "ROUNDING",
    "SECOND_ORDER",
    "SIGMAS",
    "Layers",
    "agree",
    "close",
    "corner_gaps",
    "corners",
    "law",
    "shallow_corners",
    "stated",
]

Layers = SearchStrategy[Layer]
Check = Callable[[Any], None]

FloatArray = NDArray[np.float64]

# What tests of stated errors allow beside them (tests/test_theory/test_honest_errors.py): 450 units of
# the last place, for the few hundred operations of some layers whose roundings no route adds up.
ROUNDING = 1e-13
# Student's t with 15 degrees of freedom is beyond 8 with probability 8e-7, and RQMC inflates its errors:
# of the 10,000 comparisons of a thorough run one fails by chance with probability below 1 %.
SIGMAS = 8.0
# b in f(n) = f(inf) + a/n + b/n^2 + ..., relative to f: 2 f(2n) - f(n) misses f(inf) by b/(2 n^2).
# (n-1)/(n-2) and n/(n-3), the factors of GN and BN, have b = 3 and 12 at n = G - 1; three layers add theirs.
SECOND_ORDER = 64.0
# Samples more alike than that differ by events (a sign, an R near 0) that few sampled points meet.
RARE = 1e-3
REGISTER: dict[str, Law] = {}


def corner_gaps(count: int) -> tuple[float, ...]:
    """1 - c for c in {-1, 0, 1, 1 - 1e-15}; ``count`` samples are at most -1/(count - 1) correlated."""
    return (1.0 + 1.0 / (count - 1), 1.0, 0.0, 1e-15)


@cache
def corners(depth: int = 2) -> tuple[Case, ...]:
    """c in {-1/(B-1), 0, 1, 1 - 1e-15}, G in {2, 3, 4, 5}, B in {2, 3, 4}: c = -1 for two samples."""
    norms = [None, batch_norm(), *(group_norm(size) for size in (2, 3, 4, 5))]
    return tuple(
        Case(FeedForward(Layer(norm=norm), depth=depth), exchangeable(batch=batch, gap=gap))
        for norm in norms
        for batch in (2, 3, 4)
        for gap in corner_gaps(batch)
    )


def shallow_corners() -> tuple[Case, ...]:
    """One layer, for laws about one."""
    return corners(1)


def law(
    statement: str,
    *,
    layers: Callable[[], Layers] = predictable_layers,
    subjects: Callable[[Layers], SearchStrategy[Any]] = cases,
    corners: Callable[[], Iterable[Any]] = corners,
    found: Callable[[], Iterable[Any]] = tuple,
    into: dict[str, Law] = REGISTER,
) -> Callable[[Check], Check]:
    """Register a check under its own name, by default among the laws of the theory.

    Pinned are the ``corners``, in the form in which the law takes its subjects, and the bugs ``found``.
    """

    def register(check: Check) -> Check:
        name = check.__name__
        into[name] = Law(name, statement, layers, subjects, check, lambda: [*corners(), *found()])
        return check

    return register


def close(what: str, value: Any, other: Any, tolerance: Any) -> None:
    """|value - other| <= tolerance elementwise; infinities must match."""
    a, b = np.asarray(value, dtype=float), np.asarray(other, dtype=float)
    with np.errstate(invalid="ignore"):
        fine = (a == b) | (np.abs(a - b) <= tolerance)
    assert np.all(fine), f"{what}: {a} and {b} differ by more than {tolerance}"


def stated(*preds: Prediction, name: str) -> FloatArray:
    """Sum of the stated errors; those of RQMC are standard errors, so ``SIGMAS`` of them."""
    total = np.zeros(preds[0].depth)
    for pred in preds:
        used = (pred.forward_route, pred.backward_route)
        total += pred.error[name] * (SIGMAS if "RQMC" in used else 1.0)
    return total


def agree(one: Prediction, other: Prediction) -> None:
    """Same second moments, gaps and gradients, within both stated errors."""
    for name in ("log_second_moment", "gap", "preactivation_gap", "log_gradient_norm"):
        a, b = getattr(one, name), getattr(other, name)
        if a is None or b is None:
            continue
        size = np.abs(a) if "gap" in name else 1.0
        close(name, a, b, stated(one, other, name=name) + ROUNDING * size)
