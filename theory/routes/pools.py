"""Routes over finite pools: each class joins one family of integrals to the route protocol."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from theory.program import NormAct
from theory.routes import batchnorm, groupnorm
from theory.routes.base import NoShortCut, SamplewiseRoute, Want, label
from theory.routes.group_table import gap_table
from theory.states.base import Block, Gradient, Moments, make
from theory.states.exchangeable import Exchangeable

__all__ = ["BatchClosed", "BatchSpherical", "GroupLaplace", "GroupPearson", "Laplace"]


class BatchClosed(NoShortCut):
    """BN of an exchangeable batch at eps = 0: nothing depends on the incoming covariance but R."""

    name = "closed form"

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        if op.activation.ray_slopes is None:
            return f"{op.activation.name} is not positively homogeneous"
        return self._pool_refusal(op, block)

    def _pool_refusal(self, op: NormAct, block: Block) -> str | None:
        norm = op.norm
        if norm is None or not norm.pool.samples or norm.pool.channels != 1:
            return "it is not a batch normalizer per channel"
        if not norm.centered or norm.denominator != "std" or norm.eps != 0.0:
            return f"{norm.name} is not (h - mean)/std at eps = 0"
        if not block.exchangeable:
            return "the samples are not exchangeable"
        return None

    def moments(self, op: NormAct, block: Block) -> Moments:
        second_moment, gap, mean, error = batchnorm.batch_moments(
            op.activation.base, batch=block.batch, ddof=_ddof(op)
        )
        return Moments(second_moment, gap, mean, (error, error))

    def pullback(self, op: NormAct, block: Block, value: Any) -> tuple[Any, float]:
        same, pair, error = batchnorm.batch_pullback(
            op.activation.base,
            value[0],
            value[1],
            batch=block.batch,
            ddof=_ddof(op),
            second_moment=block.second_moment,
            gap=block.gap,
        )
        return (same, pair), error

    def fast_push(self, op: NormAct, *, exchangeable: bool) -> Callable[[Any], Any]:
        # This route refuses states that are not exchangeable.
        known: dict[float, batchnorm.BatchFactors] = {}

        def push(state: Exchangeable) -> Exchangeable:
            factors = known.get(state.batch)
            if factors is None:
                factors = known[state.batch] = self._factors(op, state.batch)
            q, gap, mean, _, _, error = factors
            # The output forgets the incoming covariance, and with it the incoming errors.
            return make(Exchangeable, (state.batch, q, gap, mean, 0, error, error, error))

        return push

    def fast_pull(self, op: NormAct, *, exchangeable: bool) -> Callable[[Any, Gradient], Gradient]:
        known: dict[float, batchnorm.BatchFactors] = {}

        def pull(state: Exchangeable, gradient: Gradient) -> Gradient:
            b, q, gap, _, exponent, q_error, gap_error, _ = state
            factors = known.get(b)
            if factors is None:
                factors = known[b] = self._factors(op, b)
            same, pair = gradient.value
            t = (factors.spread * (same - pair) + factors.shared * pair) / (q * gap)
            error = gradient.error + factors.error + q_error + gap_error
            value = (t, 0.0) if b == math.inf else (t * (1.0 - 1.0 / b), -t / b)
            return make(Gradient, (value, gradient.exponent - exponent, error, 0.0))

        return pull

    def _factors(self, op: NormAct, batch: float) -> batchnorm.BatchFactors:
        return batchnorm.batch_factors(op.activation.base, batch=batch, ddof=_ddof(op))


class BatchSpherical(BatchClosed):
    """The same for every other activation: two coordinates of a uniform vector on the sphere."""

    name = "quadrature"

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        return self._pool_refusal(op, block)


class GroupPearson(SamplewiseRoute):
    """Groups of G channels at eps = 0: the sample correlation's law (theory notes, section 3)."""

    name = "quadrature"

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        reason = _group_refusal(op)
        if reason is None and op.norm is not None and op.norm.eps != 0.0:
            return f"{op.norm.name} has eps > 0"
        return reason

    def single(self, op: NormAct, q: Any) -> tuple[Any, Any, float]:
        second_moment, mean, error = groupnorm.group_moments(op.activation.base, **_group(op))
        return second_moment * np.ones_like(q), mean * np.ones_like(q), error

    def pair_gap(self, op: NormAct, q1: Any, q2: Any, gap: Any) -> tuple[Any, float]:
        value, error = groupnorm.group_gap(op.activation.base, gap, **_group(op))
        return value, float(np.max(error))

    def slope(self, op: NormAct, q1: Any, q2: Any, gap: Any) -> tuple[Any, float]:
        value, error = groupnorm.group_slope(op.activation.base, gap, **_group(op))
        return value / (np.sqrt(q1) * np.sqrt(q2)), float(np.max(error))

    def fast_push(self, op: NormAct, *, exchangeable: bool) -> Callable[[Any], Any] | None:
        if not exchangeable:
            return None
        table = gap_table(op.activation.base, **_group(op))
        q, mean, error = groupnorm.group_moments(op.activation.base, **_group(op))

        def push(state: Exchangeable) -> Exchangeable:
            gap, gap_error = table(state.gap)
            gap_error += state.gap_error
            return Exchangeable(state.batch, q, gap, mean, 0, error, gap_error, error)

        return push

    def fast_pull(
        self, op: NormAct, *, exchangeable: bool
    ) -> Callable[[Any, Gradient], Gradient] | None:
        if not exchangeable:
            return None
        slope, slope_error = groupnorm.group_slope(op.activation.base, 0.0, **_group(op))
        own, own_error = float(slope), float(slope_error)

        def pull(state: Exchangeable, gradient: Gradient) -> Gradient:
            q = state.second_moment
            same, pair = gradient.value
            error = own_error
            if pair:
                factor, pair_error = self.slope(op, q, q, state.gap)
                pair, error = pair * float(factor), max(error, pair_error)
            error += gradient.error + state.second_moment_error + state.gap_error
            return Gradient((same * own / q, pair), gradient.exponent - state.exponent, error)

        return pull


class GroupLaplace(SamplewiseRoute):
    """Groups of G channels with eps > 0 and a homogeneous activation: two-dimensional Laplace integral."""

    name = "quadrature"

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        if op.activation.ray_slopes is None:
            return f"{op.activation.name} is not positively homogeneous"
        return _group_refusal(op)

    def single(self, op: NormAct, q: Any) -> tuple[Any, Any, float]:
        from theory.routes import laplace_pairs

        second_moment, mean, error = laplace_pairs.group_eps_moments(q, **self._parameters(op))
        return second_moment, mean, float(np.max(error))

    def pair_gap(self, op: NormAct, q1: Any, q2: Any, gap: Any) -> tuple[Any, float]:
        from theory.routes import laplace_pairs

        value, error = laplace_pairs.group_eps_gap(q1, q2, gap, **self._parameters(op))
        return value, float(np.max(error))

    def slope(self, op: NormAct, q1: Any, q2: Any, gap: Any) -> tuple[Any, float]:
        from theory.routes import laplace_pairs

        value, error = laplace_pairs.group_eps_slope(q1, q2, gap, **self._parameters(op))
        return value, float(np.max(error))

    def _parameters(self, op: NormAct) -> dict[str, Any]:
        assert op.norm is not None
        return {**_group(op), "eps": op.norm.eps, "slopes": op.activation.ray_slopes}


class Laplace(NoShortCut):
    """A denominator over the batch, homogeneous activation, any covariance, any eps."""

    name = "quadrature"

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        norm = op.norm
        if norm is None or not norm.pool.samples or norm.pool.channels != 1:
            return "it is not a batch normalizer per channel"
        if norm.gate is not None or norm.denominator not in ("std", "rms"):
            return f"{norm.name} has a gate or no denominator"
        if op.activation.ray_slopes is None:
            return f"{op.activation.name} is not positively homogeneous"
        if block.exchangeable and norm.denominator == "rms":
            return "an rms over an exchangeable batch needs the full covariance"
        return None

    def moments(self, op: NormAct, block: Block) -> Moments:
        from theory.routes import laplace

        shared: dict[str, Any] = {"norm": op.norm, "slopes": op.activation.ray_slopes}
        if block.exchangeable:
            q, gap, mean, error = laplace.exchangeable_forward(
                block.second_moment, block.gap, batch=block.batch, **shared
            )
            return Moments(q, gap, mean, (error, error))
        values, gaps, means, error = laplace.forward(
            block.second_moment,
            block.gap,
            average=block.positions > 1,
            torus=block.torus,
            **shared,
        )
        return Moments(values, gaps, means, (error, error))

    def pullback(self, op: NormAct, block: Block, value: Any) -> tuple[Any, float]:
        from theory.routes import laplace_backward

        shared: dict[str, Any] = {"norm": op.norm, "slopes": op.activation.ray_slopes}
        if block.exchangeable:
            same, pair, error = laplace_backward.exchangeable_pullback(
                block.second_moment, block.gap, value[0], value[1], batch=block.batch, **shared
            )
            return (same, pair), error
        return laplace_backward.pullback(
            block.second_moment, block.gap, value, torus=block.torus, **shared
        )


def _group(op: NormAct) -> dict[str, Any]:
    assert op.norm is not None
    return {
        "group_size": int(op.norm.pool.channels),
        "centered": op.norm.centered,
        "ddof": op.norm.ddof,
    }


def _group_refusal(op: NormAct) -> str | None:
    norm = op.norm
    if norm is None or norm.pool.samples or norm.pool.channels == math.inf:
        return f"{label(op)} does not pool a group of channels of one sample"
    if (norm.centered, norm.denominator) not in ((True, "std"), (False, "rms")):
        return f"{norm.name} is neither (h - mean)/std nor h/rms"
    return None


def _ddof(op: NormAct) -> int:
    assert op.norm is not None
    return op.norm.ddof
