"""Gated normalizers (EvoNorm) as routes: the limits without randomness."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from theory.errors import HypothesisError
from theory.program import NormAct
from theory.routes import gate_limits, gaussian
from theory.routes.base import NoShortCut, SamplewiseRoute, Want, label
from theory.specs.activations import silu
from theory.specs.normalizers import Normalizer
from theory.states.base import Block, Moments

__all__ = ["EvoNormB0Limit", "EvoNormS0Limit"]


def _gated(op: NormAct) -> Normalizer:
    assert op.norm is not None
    assert op.norm.gate is not None
    return op.norm


class EvoNormS0Limit(SamplewiseRoute):
    """S0 over all channels: silu's Gaussian dual over sqrt(q + eps)."""

    name = "quadrature"

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        norm = op.norm
        if norm is None or norm.gate is None or norm.denominator != "std":
            return f"{label(op)} is not EvoNorm-S0"
        if norm.pool.samples or norm.pool.channels != math.inf:
            return f"{norm.name} pools finitely many channels"
        if op.activation.name != "identity":
            return f"{op.activation.name} follows the gate; EvoNorm brings its own nonlinearity"
        return "its gate is 0" if norm.gate == 0.0 else None

    def single(self, op: NormAct, q: Any) -> tuple[Any, Any, float]:
        norm = _gated(op)
        v: Any = norm.gate
        second_moment, mean, error = gaussian.second_moment_and_mean(silu, v * v * q)
        inverse = 1.0 / (q + norm.eps)
        return second_moment * inverse / v**2, mean * np.sqrt(inverse) / v, float(np.max(error))

    def pair_gap(self, op: NormAct, q1: Any, q2: Any, gap: Any) -> tuple[Any, float]:
        v: Any = _gated(op).gate
        value, error = gaussian.pair_gap(silu, v * v * q1, v * v * q2, gap)
        return value, float(np.max(error))

    def slope(self, op: NormAct, q1: Any, q2: Any, gap: Any) -> tuple[Any, float]:
        norm = _gated(op)
        v: Any = norm.gate
        value, error = gaussian.slope(silu, v * v * q1, v * v * q2, gap)
        return value / np.sqrt((q1 + norm.eps) * (q2 + norm.eps)), float(np.max(error))


class EvoNormB0Limit(NoShortCut):
    """B0 over an infinite batch at eps = 0: min(t, 1) of a Gaussian."""

    name = "quadrature"

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        norm = op.norm
        if norm is None or norm.denominator != "evonorm_b0":
            return f"{label(op)} is not EvoNorm-B0"
        if block.batch != math.inf:
            return "the batch is finite"
        if norm.eps != 0.0 or norm.gate is None or norm.gate <= 0.0:
            return "the limit is worked out for eps = 0 and a positive gate"
        if op.activation.name != "identity":
            return f"{op.activation.name} follows the gate; EvoNorm brings its own nonlinearity"
        return None

    def moments(self, op: NormAct, block: Block) -> Moments:
        gate: Any = _gated(op).gate
        second_moment, mean, error = gate_limits.b0_moments(block.gap, gate=gate)
        gap, gap_error = gate_limits.b0_gap(block.gap, gate=gate)
        return Moments(second_moment, gap, mean, (error, gap_error))

    def pullback(self, op: NormAct, block: Block, value: Any) -> tuple[Any, float]:
        """Same-sample covariance only: what passes through the batch's s is O(1/B) of it."""
        same, pair = value
        if pair:
            raise HypothesisError(
                "EvoNorm-B0 over an infinite batch is worked out for cotangents that are independent "
                "over samples; use a finite batch"
            )
        gate: Any = _gated(op).gate
        factor = gate_limits.b0_slope(block.gap, gate=gate) / (block.second_moment * block.gap)
        return (same * factor, 0.0), 1e-15
