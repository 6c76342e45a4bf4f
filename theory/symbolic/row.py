"""A row of the table of closed forms: an expression, and a number from elsewhere to compare it with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from theory.symbolic.expression import Expression

__all__ = ["ClosedForm", "row"]


@dataclass(frozen=True, kw_only=True)
class ClosedForm:
    """One row of the table.

    Parameters
    ----------
    name
        What it is.
    derive
        Derives the expression.
    at
        Values of its free symbols for the comparison.
    where
        Where the number comes from: a route of ``theory``, or plain iteration where no route exists.
    number
        The number.
    tolerance
        Relative agreement to ask for; larger than 1e-12 where the expression is a leading order.
    """

    name: str
    derive: Callable[[], Expression] = field(repr=False)
    at: Mapping[str, float]
    where: str
    number: Callable[[], float] = field(repr=False)
    tolerance: float = 1e-12

    @cached_property
    def expression(self) -> Expression:
        """The derived expression."""
        return self.derive()

    def symbolic(self) -> float:
        """Value of the expression at ``at``."""
        names = [symbol.name for symbol in self.expression.variables]
        function = self.expression.lambdify(*names)
        return float(function(*(self.at[name] for name in names)))

    def numerical(self) -> float:
        """Return the number from ``where``."""
        return float(self.number())

    def discrepancy(self) -> float:
        """|symbolic - numerical| relative to the number, absolute where the expression is 0."""
        symbolic, number = self.symbolic(), self.numerical()
        return abs(symbolic - number) / (abs(number) if symbolic else 1.0)


def row(
    name: str,
    derive: Callable[[], Expression],
    where: str,
    number: Callable[[], Any],
    *,
    tolerance: float = 1e-12,
    **at: float,
) -> ClosedForm:
    """ClosedForm with the symbols' values as keywords."""
    return ClosedForm(
        name=name, derive=derive, at=at, where=where, number=number, tolerance=tolerance
    )
