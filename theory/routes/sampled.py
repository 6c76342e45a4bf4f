"""RQMC as a route: what no other route takes, with a standard error over scrambles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from theory.program import NormAct
from theory.routes import rqmc_blocks, rqmc_pool
from theory.routes.base import Want
from theory.states.base import Block, Gradient, Moments

__all__ = ["Sobol"]


class Sobol:
    """Scrambled Sobol' points of one pooled Gaussian vector, several scrambles."""

    name = "RQMC"

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        return rqmc_pool.refusal(op.norm, op.activation, batch=block.batch, want=want)

    def moments(self, op: NormAct, block: Block) -> Moments:
        shared: dict[str, Any] = {"norm": op.norm, "activation": op.activation.base}
        assert op.norm is not None
        if not op.norm.couples_samples:
            return self._pair_moments(block, shared)
        if block.exchangeable:
            q, gap, mean, error = rqmc_blocks.exchangeable_forward(
                block.second_moment, block.gap, batch=int(block.batch), **shared
            )
            return Moments(q, gap, mean, (error, error))
        values, gaps, means, error = rqmc_blocks.batch_forward(
            block.second_moment, block.gap, **shared
        )
        return Moments(values, gaps, means, (error, error))

    def pullback(self, op: NormAct, block: Block, value: Any) -> tuple[Any, float]:
        shared: dict[str, Any] = {"norm": op.norm, "activation": op.activation.base}
        assert op.norm is not None
        if not op.norm.couples_samples:
            return self._pair_pullback(block, value, shared)
        if block.exchangeable:
            same, pair, error = rqmc_blocks.exchangeable_pullback(
                block.second_moment, block.gap, value[0], value[1], batch=int(block.batch), **shared
            )
            return (same, pair), error
        return rqmc_blocks.batch_pullback(block.second_moment, block.gap, value, **shared)

    def fast_push(self, op: NormAct, *, exchangeable: bool) -> Callable[[Any], Any] | None:
        return None

    def fast_pull(
        self, op: NormAct, *, exchangeable: bool
    ) -> Callable[[Any, Gradient], Gradient] | None:
        return None
