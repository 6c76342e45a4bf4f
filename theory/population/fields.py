"""Gaussian fields inside a branch, as moments alone: what another linear map follows is not drawn.

W2 phi(N(W1 x)) asks of h = W1 x only the moments of phi(N(h)), and h is exactly Gaussian given its
population: the operators of Gaussian states give them without draws, and without their noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.operators import bind_push
from theory.program import Linear, NormAct, Observe, Operation
from theory.specs.weights import Weights
from theory.states.exchangeable import Exchangeable
from theory.states.population import Modes, Population, gaussian_field

__all__ = ["Field", "undrawn_maps"]

FloatArray = NDArray[np.float64]


class Field(NamedTuple):
    """Second moments and mean of one field per population, in units of 2**exponent."""

    modes: Modes
    mean: FloatArray
    exponent: int

    @classmethod
    def of(cls, state: Population) -> Field:
        """What a linear map sees of drawn channels."""
        modes = state.modes()
        assert isinstance(modes, Modes)
        return cls(modes, state.mean(), state.exponent)

    def mapped(self, weights: Weights) -> Field:
        """W x."""
        modes = self.modes
        if weights.centered:
            modes = modes._replace(mean=modes.mean - modes.batch * self.mean**2)
        return Field(modes.scaled(weights.weight_variance), np.zeros_like(self.mean), self.exponent)

    def pushed(self, op: NormAct) -> Field:
        """phi(N(h)) of a Gaussian h."""
        batch, pushed = self.modes.batch, []
        push = None
        for q, gap in zip(self.modes.second_moment.tolist(), self.modes.gap.tolist(), strict=True):
            state = Exchangeable(batch, q, gap, 0.0, self.exponent)
            push = push or bind_push(op, state)[0]
            pushed.append(push(state))
        exponent = max(state.exponent for state in pushed)
        unit = np.ldexp(1.0, [state.exponent - exponent for state in pushed])
        q = np.array([state.second_moment for state in pushed]) * unit**2
        contrast = q * np.array([state.gap for state in pushed])
        mean = np.array([state.mean for state in pushed]) * unit
        return Field(Modes(batch * q - (batch - 1) * contrast, contrast, batch), mean, exponent)

    def drawn(
        self, shape: tuple[int, ...], *, rng: np.random.Generator, beside: FloatArray | None
    ) -> Population:
        """Channels of that covariance."""
        field = gaussian_field(self.modes, shape=shape, rng=rng, beside=beside)
        return Population(field, self.exponent)


def undrawn_maps(operations: Sequence[Operation], shape: tuple[int, ...]) -> set[int]:
    """Places of linear maps whose output only another one follows, behind one operation.

    ``shape`` is (B,); over positions, (B, S), everything is drawn.
    """
    if len(shape) > 1:
        return set()
    batch = shape[0]
    places = [k for k, op in enumerate(operations) if not isinstance(op, Observe)]
    found = set()
    known: dict[NormAct, bool] = {}
    for one, two, three in zip(places, places[1:], places[2:], strict=False):
        op = operations[two]
        if not isinstance(operations[one], Linear) or not isinstance(operations[three], Linear):
            continue
        if isinstance(op, NormAct):
            if op not in known:
                # What operators sample is better drawn here.
                known[op] = bind_push(op, Exchangeable(batch, 1.0, 0.5))[1] != "RQMC"
            if known[op]:
                found.add(one)
    return found
