r"""What a derivation returns: an expression, its symbols, and the named steps that led to it.

An ``Expression`` displays itself as LaTeX in a notebook, becomes a NumPy function by ``lambdify``, a
number of any precision by ``value``.  A ``Step`` records what SymPy computed and how long it took;
what SymPy cannot do in seconds enters as a ``Lemma`` whose two sides are compared to 30 digits.
"""

from __future__ import annotations

import numbers
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import mpmath  # type: ignore[import-untyped]
import numpy as np
import sympy as sp
from numpy.typing import NDArray

from theory.errors import HypothesisError, NumericalError, out_of_domain
from theory.specs._check import instance, integer
from theory.symbolic.symbols import MEANINGS

__all__ = ["Expression", "Lemma", "Step", "Trail"]

FloatArray = NDArray[np.float64]

# Digits carried where mpmath evaluates for double precision: quadrature and sums lose a few.
_GUARDED = 20


@dataclass(frozen=True, kw_only=True)
class Lemma:
    """A named identity that is taken from the literature and checked numerically.

    Parameters
    ----------
    name, statement, source
        What it is called, what it says, where it is proved.
    sides
        The two sides as mpmath numbers, at the working precision of mpmath when called.
    """

    name: str
    statement: str
    source: str
    sides: Callable[[], tuple[Any, Any]] = field(repr=False)

    def discrepancy(self, digits: int = 30) -> float:
        """|left - right| / |right|, computed with ``digits`` + 10 digits."""
        digits = _digits(digits)
        with mpmath.workdps(digits + 10):
            left, right = self.sides()
            return float(abs(left - right) / abs(right))

    def holds(self, digits: int = 30) -> bool:
        """Whether both sides agree to ``digits`` digits."""
        digits = _digits(digits)
        return self.discrepancy(digits) < 10.0**-digits


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: its name, why it is taken, what SymPy computed, in how many seconds."""

    name: str
    reason: str
    result: Any
    seconds: float
    lemma: Lemma | None = None

    def _repr_latex_(self) -> str:
        return rf"$\displaystyle {sp.latex(self.result)}$"


class Trail:
    """The steps of a derivation while it is under way."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def step(self, name: str, reason: str, compute: Callable[[], Any]) -> Any:
        """Compute, record the step with its time, and return the result."""
        start = time.perf_counter()
        result = compute()
        seconds = time.perf_counter() - start
        self.steps.append(Step(name=name, reason=reason, result=result, seconds=seconds))
        return result

    def check(self, name: str, reason: str, difference: Callable[[], Any]) -> None:
        """Record a step whose result must simplify to zero.

        Raises
        ------
        NumericalError
            It does not: the derivation is wrong.
        """
        result = self.step(name, reason, difference)
        if result != 0:
            raise NumericalError(f"{name}: {result} should be 0; the derivation is broken")

    def use(self, other: Expression) -> Any:
        """Take over another derivation's steps (those not taken yet) and return its result."""
        self.steps.extend(step for step in other.steps if step not in self.steps)
        return other.expression

    def lemma(self, lemma: Lemma, result: Any) -> Any:
        """Record what a lemma gives, and return it."""
        self.steps.append(
            Step(name=lemma.name, reason=lemma.statement, result=result, seconds=0.0, lemma=lemma)
        )
        return result

    def conclude(self, left: str, result: Any, *, name: str, source: str) -> Expression:
        """Return the Expression left = result with the steps so far."""
        return Expression(
            name=name, left=left, expression=result, steps=tuple(self.steps), source=source
        )


@dataclass(frozen=True, kw_only=True)
class Expression:
    """left = expression, derived in ``steps``.

    Parameters
    ----------
    name
        What it is, in words.
    left
        LaTeX of the left-hand side.
    expression
        The SymPy expression.
    steps
        How it was derived.
    source
        Where the result is used and published.
    """

    name: str
    left: str
    expression: Any
    steps: tuple[Step, ...] = field(repr=False)
    source: str

    @property
    def variables(self) -> tuple[Any, ...]:
        """Free symbols in alphabetical order: the arguments of ``lambdify()``."""
        return tuple(sorted(self.expression.free_symbols, key=lambda symbol: symbol.name))

    @property
    def symbols(self) -> Mapping[str, str]:
        """Name and meaning of every free symbol, with its domain."""
        return {symbol.name: MEANINGS[symbol] for symbol in self.variables}

    @property
    def lemmas(self) -> tuple[Lemma, ...]:
        """What the derivation takes from the literature."""
        return tuple(step.lemma for step in self.steps if step.lemma is not None)

    def latex(self) -> str:
        """Left-hand side = expression, without dollar signs."""
        return f"{self.left} = {sp.latex(self.expression)}"

    def _repr_latex_(self) -> str:
        return rf"$\displaystyle {self.latex()}$"

    def __str__(self) -> str:
        return f"{self.name}: {self.expression}"

    def derivation(self) -> str:
        """Return the steps as Markdown with LaTeX, one numbered paragraph each."""
        lines = []
        for number, step in enumerate(self.steps, start=1):
            kind = "Lemma: " if step.lemma is not None else ""
            source = f" ({step.lemma.source})" if step.lemma is not None else ""
            lines.append(f"{number}. **{kind}{step.name}.** {step.reason}{source}")
            lines.append(f"   $$ {sp.latex(step.result)} $$")
        lines.append(f"**Result.** $$ {self.latex()} $$")
        return "\n\n".join(lines)

    def at(self, **values: Any) -> Expression:
        """Return the expression with symbols replaced, by name: ``expression.at(B=16)``.

        Raises
        ------
        SpecificationError
            A name that is no symbol of the notation; one that does not occur changes nothing.
        """
        by_name = {symbol.name: symbol for symbol in (*MEANINGS, *self.variables)}
        for name in values:
            if name not in by_name:
                known = ", ".join(symbol.name for symbol in self.variables) or "no free symbol"
                raise out_of_domain("symbol", name, f"one of {known}", "see .symbols")
        for name, value in values.items():
            _require_number(name, value)
        replaced = self.expression.subs({by_name[name]: value for name, value in values.items()})
        return Expression(
            name=self.name, left=self.left, expression=replaced, steps=self.steps,
            source=self.source,
        )  # fmt: skip

    def value(self, *, digits: int = 15, **values: Any) -> Any:
        """Return the number at the given symbols, as a SymPy Float of ``digits`` digits.

        Raises
        ------
        SpecificationError
            A symbol has no value.
        HypothesisError
            The formula has a pole there: its moment is infinite or does not exist.
        """
        digits = _digits(digits)
        expression = self.at(**values) if values else self
        if expression.variables:
            missing = ", ".join(symbol.name for symbol in expression.variables)
            raise out_of_domain("values", values, f"given for {missing} too", "see .symbols")
        number = sp.N(expression.expression, digits)
        if number.has(sp.zoo, sp.nan):
            raise HypothesisError(
                f"{self.expression} has a pole at {values}: the moment that it stands for is infinite or "
                "does not exist; see theory.regime"
            )
        return number

    def lambdify(self, *names: str) -> Callable[..., FloatArray]:
        """Return a NumPy function of the named symbols (all free symbols, alphabetically, if none is named).

        Integrals and hypergeometric functions are evaluated by mpmath with guard digits, point by
        point (a tenth of a second each); sums of symbolic length term by term.  A formula as it
        stands loses relative precision where it cancels (1 - c' near c = 1): ``theory`` does not.

        Raises
        ------
        SpecificationError
            A free symbol is not among the names, or a name is no symbol of the notation.
        """
        by_name = {symbol.name: symbol for symbol in (*MEANINGS, *self.variables)}
        free = [symbol.name for symbol in self.variables]
        for name in names:
            instance("name", name, str, "the name of a symbol", "see .symbols")
        if names and not set(free) <= set(names) <= set(by_name):
            raise out_of_domain("names", names, f"the free symbols {free}", "see .symbols")
        arguments = [by_name[name] for name in names or free]
        if self.expression.has(sp.Sum):
            whole = [symbol.is_integer for symbol in arguments]
            terms = sp.lambdify(arguments, self.expression, modules="math")
            return np.vectorize(
                lambda *values: terms(
                    *(int(x) if i else float(x) for x, i in zip(values, whole, strict=True))
                ),
                otypes=[float],
            )
        if not self.expression.has(sp.Integral, sp.hyper):
            plain = sp.lambdify(arguments, self.expression, modules=["scipy", "numpy"])

            def whole_array(*values: Any) -> FloatArray:
                arrays = np.broadcast_arrays(*(np.asarray(value, dtype=float) for value in values))
                shape = arrays[0].shape if arrays else ()
                return np.array(np.broadcast_to(plain(*arrays), shape), dtype=float)

            return whole_array
        exact = sp.lambdify(arguments, self.expression, modules="mpmath")

        def point(*values: float) -> float:
            with mpmath.workdps(_GUARDED):
                return float(mpmath.re(exact(*(mpmath.mpf(float(value)) for value in values))))

        vectorized = np.vectorize(point, otypes=[float])
        return lambda *values: np.asarray(vectorized(*values), dtype=float)


def _digits(digits: int) -> int:
    return integer("digits", digits, low=1, high=10_000, remedy="15 is double precision")


def _require_number(name: str, value: object) -> None:
    """A number or a SymPy expression; NaN and text are neither."""
    number = type(value) is not bool and isinstance(value, numbers.Number) and value == value
    if not (number or isinstance(value, sp.Expr)):
        raise out_of_domain(name, value, "a number or a SymPy expression", "pass B=16, say")
