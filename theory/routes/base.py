"""The route protocol, and the part that all sample-wise routes share."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np

from theory.program import NormAct
from theory.states.base import Block, Gradient, Moments

__all__ = ["ROUNDING", "NoShortCut", "Route", "SamplewiseRoute", "Want", "is_scale_free", "label"]

Want = Literal["forward", "backward"]

# Stated relative error of a closed form: a few roundings.
ROUNDING = 4e-16


class Route(Protocol):
    """One way to take E[phi(N(h)) phi(N(h))'] and E[J' Pi J] over a pool."""

    name: str

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        """None if this route applies, else the reason why not, as a sentence without a full stop."""
        ...

    def moments(self, op: NormAct, block: Block) -> Moments:
        """Moments of the *base* activation (scale 1, shift 0) after the normalizer."""
        ...

    def pullback(self, op: NormAct, block: Block, value: Any) -> tuple[Any, float]:
        """E[J' Pi J] with J = d base(N(h))/dh, shaped as ``value``, and its relative error."""
        ...

    def fast_push(self, op: NormAct, *, exchangeable: bool) -> Callable[[Any], Any] | None:
        """The whole forward step on a state of that kind, if the route has a short cut for it."""
        ...

    def fast_pull(
        self, op: NormAct, *, exchangeable: bool
    ) -> Callable[[Any, Gradient], Gradient] | None:
        """The whole backward step on a state of that kind, if the route has a short cut for it."""
        ...


class NoShortCut:
    """A route without short cuts: every step goes through ``moments`` and ``pullback``."""

    def fast_push(self, op: NormAct, *, exchangeable: bool) -> Callable[[Any], Any] | None:
        return None

    def fast_pull(
        self, op: NormAct, *, exchangeable: bool
    ) -> Callable[[Any, Gradient], Gradient] | None:
        return None


class SamplewiseRoute(NoShortCut, abc.ABC):
    """Samples treated apart: moments pair by pair, gradients by the adjoint rule.

    Pi_ab <- Pi_ab dK_ab/dSigma_ab with same-sample covariances held fixed (Price; theory notes,
    section 4, "Adjoint rule"); on the diagonal the derivative is taken at gap = 0.
    """

    name: str

    @abc.abstractmethod
    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None: ...

    @abc.abstractmethod
    def single(self, op: NormAct, q: Any) -> tuple[Any, Any, float]:
        """(second moment, mean, relative error) of one sample, elementwise in q."""

    @abc.abstractmethod
    def pair_gap(self, op: NormAct, q1: Any, q2: Any, gap: Any) -> tuple[Any, float]:
        """(gap of the post-activations, relative error), elementwise over pairs."""

    @abc.abstractmethod
    def slope(self, op: NormAct, q1: Any, q2: Any, gap: Any) -> tuple[Any, float]:
        """(dK_ab/dSigma_ab, relative error), elementwise over pairs."""

    def moments(self, op: NormAct, block: Block) -> Moments:
        second_moment, mean, q_error = self.single(op, block.second_moment)
        q1, q2, gap = block.pairs()
        new_gap, gap_error = self.pair_gap(op, q1, q2, gap)
        return Moments(second_moment, new_gap, mean, (q_error, gap_error))

    def pullback(self, op: NormAct, block: Block, value: Any) -> tuple[Any, float]:
        q = block.second_moment
        same_slope, error = self.slope(
            op, q, q, np.zeros_like(q) if not block.exchangeable else 0.0
        )
        q1, q2, gap = block.pairs()
        if block.exchangeable:
            same, pair = value
            if pair:
                pair_slope, pair_error = self.slope(op, q1, q2, gap)
                pair, error = pair * float(pair_slope), max(error, pair_error)
            return (same * float(same_slope), pair), error
        diagonal = np.diagonal(value) * same_slope
        if np.count_nonzero(value) == np.count_nonzero(np.diagonal(value)):
            return np.diag(diagonal), error
        pair_slope, pair_error = self.slope(op, q1, q2, gap)
        result = value * pair_slope
        np.fill_diagonal(result, diagonal)
        return result, max(error, pair_error)


def is_scale_free(op: NormAct) -> bool:
    """Whether N(a h) = N(h) for a > 0: a denominator, no eps, no gate in the numerator."""
    norm = op.norm
    if norm is None or norm.denominator == "none" or norm.eps != 0.0:
        return False
    # EvoNorm-B0's gate compares v h with the batch's std, which scales as h does.
    return norm.gate is None or norm.denominator == "evonorm_b0"


def label(op: NormAct) -> str:
    """Name of the normalizer for messages."""
    return "no normalizer" if op.norm is None else op.norm.name
