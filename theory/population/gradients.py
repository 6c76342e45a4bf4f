r"""Gradients along a population's paths: as draws, or as mean squares given the path.

``Draws`` carries one gradient per channel and sample, whatever couples them.  Where no finite pool does
(normalizers that divide by one number, or none) cotangents of different samples and channels stay
uncorrelated given the forward path, and ``Squares`` carries v = E[g^2 | path] instead, without noise
of its own:

    v -> phi'^2 v/R^2,     W':  v -> sigma_w^2 E[v],     Fork:  v_skip + v_branch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from theory.errors import NumericalError
from theory.population.normact import Tape, has_finite_pool, pullback, squared_pullback
from theory.program import NormAct, Operation
from theory.states.population import FloatArray, Modes, Population, gaussian_field, within
from theory.states.position_modes import PositionModes

__all__ = ["Draws", "Squares", "cotangent"]


class Draws(NamedTuple):
    """g = values * 2**exponent."""

    field: Population

    def linear(self, weight_variance: float, *, key: list[int], beside: Self | None) -> Self:
        """W'g: Gaussian, with covariance sigma_w^2 E[g g'] of its own population."""
        return self._replace(
            field=self.field.linear(
                weight_variance,
                # Centering the rows removes one direction of n: nothing in the limit.
                centered=False,
                rng=np.random.default_rng(key),
                beside=None if beside is None else beside.field.values,
            )
        )

    def pulled(self, op: NormAct, tape: Tape) -> Self:
        """J'g."""
        return self._replace(field=pullback(op, tape, self.field))

    def times(self, factor: float) -> Self:
        """factor * g."""
        return self._replace(field=Population(factor * self.field.values, self.field.exponent))

    def plus(self, other: Self) -> Self:
        """g + g'."""
        return self._replace(field=self.field.plus(other.field, own=1.0, others=1.0))

    def rescaled(self) -> Self:
        """The same, near 1."""
        return self._replace(field=self.field.rescaled())

    def read(self) -> tuple[Modes | PositionModes, FloatArray, int]:
        """(second moments, mean, exponent)."""
        return self.field.modes(), self.field.mean(), self.field.exponent


class Squares(NamedTuple):
    """E[g^2 | path] = values * 4**exponent."""

    values: FloatArray
    exponent: int = 0

    def linear(self, weight_variance: float, *, key: list[int], beside: Self | None) -> Self:
        """sigma_w^2 E[v] in every channel."""
        mean = weight_variance * self.values.mean(axis=within(self.values), keepdims=True)
        return self._replace(values=np.broadcast_to(mean, self.values.shape))

    def pulled(self, op: NormAct, tape: Tape) -> Self:
        """phi'^2 v/R^2."""
        values, down = squared_pullback(op, tape, self.values)
        return self._replace(values=values, exponent=self.exponent - down)

    def times(self, factor: float) -> Self:
        """factor^2 v."""
        return self._replace(values=factor * factor * self.values)

    def plus(self, other: Self) -> Self:
        """v + v', in the larger of the two units."""
        exponent = max(self.exponent, other.exponent)
        values = [v if exponent == e else np.ldexp(v, 2 * (e - exponent)) for v, e in (self, other)]
        return self._replace(values=values[0] + values[1], exponent=exponent)

    def rescaled(self) -> Self:
        """The same, near 1."""
        size = float(self.values.max())
        if not math.isfinite(size):
            raise NumericalError(
                "the gradient left the range of floating-point numbers in one block"
            )
        if 2.0**-200 < size < 2.0**200 or size == 0.0:
            return self
        steps = math.frexp(size)[1] // 2
        return self._replace(
            values=np.ldexp(self.values, -2 * steps), exponent=self.exponent + steps
        )

    def read(self) -> tuple[Modes | PositionModes, FloatArray, int]:
        """(second moments, mean, exponent): samples and positions are uncorrelated."""
        mean = self.values.mean(axis=within(self.values))
        return _uncorrelated(mean, self.values.shape), np.zeros_like(mean), self.exponent


def cotangent(
    operations: Sequence[Operation], shape: tuple[int, ...], *, key: list[int]
) -> Draws | Squares:
    """Independent standard Gaussian cotangents, Pi = I, as mean squares where they suffice."""
    if any(
        isinstance(op, NormAct) and op.norm is not None and has_finite_pool(op.norm)
        for op in operations
    ):
        modes = _uncorrelated(np.ones(shape[0]), shape)
        return Draws(Population(gaussian_field(modes, shape=shape, rng=np.random.default_rng(key))))
    return Squares(np.ones(shape))


def _uncorrelated(q: FloatArray, shape: tuple[int, ...]) -> Modes | PositionModes:
    """Second moments q times the identity over samples and positions."""
    if len(shape) == 4:
        _, batch, positions, _ = shape
        apart = q if batch > 1 else np.zeros_like(q)
        return PositionModes(q, q, apart, apart, batch, positions)
    return Modes(q, q if shape[1] > 1 else np.zeros_like(q), shape[1])
