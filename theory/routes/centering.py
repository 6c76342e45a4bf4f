"""Mean centering over the batch: linear, so Gaussians stay Gaussian.

d = P h with P = I - 11'/B has covariance P Sigma P; phi's Gaussian duals do the rest, and
T(Pi) = P (Pi o E[phi'(d) phi'(d)']) P.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from theory.errors import HypothesisError
from theory.program import NormAct, plain_activation
from theory.routes.base import NoShortCut, SamplewiseRoute, Want
from theory.routes.limit import ClosedLimit, QuadratureLimit
from theory.states.base import Block, Moments
from theory.states.full import squared_distances

__all__ = ["BatchLimit", "CenteringQuadrature", "CenteringRoute"]


class CenteringRoute(NoShortCut):
    """h - mean over the samples, no denominator."""

    name = "closed form"

    def _dual(self, op: NormAct) -> tuple[SamplewiseRoute, NormAct]:
        """The Gaussian dual of the activation alone."""
        free = plain_activation(op.activation)
        homogeneous = op.activation.ray_slopes is not None
        return (ClosedLimit() if homogeneous else QuadratureLimit()), free

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        if op.activation.ray_slopes is None:
            return f"{op.activation.name} is not positively homogeneous"
        return self._pool_refusal(op)

    def _pool_refusal(self, op: NormAct) -> str | None:
        norm = op.norm
        if norm is None or not norm.pool.samples or norm.denominator != "none":
            return "it is not a centering over samples"
        if norm.centered and norm.pool.channels not in (1, math.inf):
            return f"{norm.name} centers over samples and {norm.pool.channels} channels together"
        return None

    def _centered(self, op: NormAct, block: Block) -> Block:
        norm = op.norm
        assert norm is not None
        if not norm.centered or norm.pool.channels == math.inf:
            return block
        q, gap, batch, exchangeable, *_ = block
        if exchangeable:
            # q gap (B-1)/B and correlation -1/(B-1); independent as B -> inf.
            share = 1.0 - 1.0 / batch
            return Block(q * gap * share, 1.0 / share, batch, True)
        distance = squared_distances(q, gap)
        # P Sigma P = -P D P / 2 for squared distances D.
        rows = distance.mean(axis=1)
        centered = rows - distance.mean() / 2.0
        root = np.sqrt(np.maximum(centered, 0.0))
        outer = np.outer(root, root)
        with np.errstate(divide="ignore", invalid="ignore"):
            new_gap = (distance - (root[:, None] - root[None, :]) ** 2) / (2.0 * outer)
        new_gap = np.where(outer > 0.0, np.clip(new_gap, 0.0, 2.0), 1.0)
        np.fill_diagonal(new_gap, 0.0)
        return Block(centered, new_gap, batch, False)

    def moments(self, op: NormAct, block: Block) -> Moments:
        dual, free = self._dual(op)
        return dual.moments(free, self._centered(op, block))

    def pullback(self, op: NormAct, block: Block, value: Any) -> tuple[Any, float]:
        dual, free = self._dual(op)
        value, error = dual.pullback(free, self._centered(op, block), value)
        norm = op.norm
        assert norm is not None
        if not norm.centered or norm.pool.channels == math.inf:
            return value, error
        if block.exchangeable:
            # Pi = (same - pair) I + pair 11'; P kills the second part.
            same, pair = value
            share = 1.0 - 1.0 / block.batch
            spread = same - pair
            return (spread * share, -spread / block.batch), error
        value = value - value.mean(axis=0, keepdims=True)
        return value - value.mean(axis=1, keepdims=True), error


class CenteringQuadrature(CenteringRoute):
    """The same for every other activation."""

    name = "quadrature"

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        return self._pool_refusal(op)


class BatchLimit(NoShortCut):
    """A std over an infinite exchangeable batch: R^2 = q gap + eps is a number, N(h) is Gaussian.

    Centered: variance q gap/R^2, independent samples; raw (VN): variance q/R^2, the same
    correlations.  What passes through R is O(1/B) of the gradient of independent cotangents.
    """

    name = "quadrature"

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        norm = op.norm
        if norm is None or not norm.pool.samples or norm.pool.channels != 1:
            return "it is not a batch normalizer per channel"
        if block.batch != math.inf:
            return "the batch is finite"
        if norm.denominator != "std" or norm.gate is not None:
            return f"{norm.name} has a gate or no std"
        if op.activation.ray_slopes is not None:
            return f"{op.activation.name} is positively homogeneous"
        return None

    def _gaussian(self, op: NormAct, block: Block) -> tuple[Block, float]:
        assert op.norm is not None
        spread = block.second_moment * block.gap
        inverse = 1.0 / (spread + op.norm.eps)
        if op.norm.centered:
            return Block(spread * inverse, 1.0, math.inf, True), inverse
        return Block(block.second_moment * inverse, block.gap, math.inf, True), inverse

    def moments(self, op: NormAct, block: Block) -> Moments:
        scaled, _ = self._gaussian(op, block)
        return QuadratureLimit().moments(plain_activation(op.activation), scaled)

    def pullback(self, op: NormAct, block: Block, value: Any) -> tuple[Any, float]:
        scaled, inverse = self._gaussian(op, block)
        same, pair = value
        if pair:
            raise HypothesisError(
                "an infinite batch is worked out for cotangents that are independent over samples; "
                "use a finite batch"
            )
        (same, _), error = QuadratureLimit().pullback(
            plain_activation(op.activation), scaled, (same, 0.0)
        )
        return (same * inverse, 0.0), error
