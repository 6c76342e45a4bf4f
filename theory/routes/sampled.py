"""RQMC as a route: what no other route takes, with a standard error over scrambles."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from theory.program import NormAct
from theory.routes import fields, rqmc_blocks, rqmc_groups, rqmc_pool
from theory.routes.base import NoShortCut, SamplewiseRoute, Want
from theory.states.base import Block, Moments

__all__ = ["SobolBatch", "SobolGroup", "SobolLayer"]


class SobolBatch(NoShortCut):
    """Scrambled Sobol' points of one channel over the batch, several scrambles."""

    name = "RQMC"

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        if op.norm is not None and not op.norm.couples_samples:
            return f"{op.norm.name} treats samples apart"
        return rqmc_pool.refusal(op.norm, op.activation, batch=block.batch, want=want)

    def moments(self, op: NormAct, block: Block) -> Moments:
        shared: dict[str, Any] = {"norm": op.norm, "activation": op.activation.base}
        if block.exchangeable:
            q, gap, mean, error = rqmc_blocks.exchangeable_forward(
                block.second_moment, block.gap, batch=int(block.batch), **shared
            )
            return Moments(q, gap, mean, (error, error))
        values, gaps, means, _, error = rqmc_blocks.batch_forward(
            block.second_moment, block.gap, **shared
        )
        return Moments(values, gaps, means, (error, error))

    def pullback(self, op: NormAct, block: Block, value: Any) -> tuple[Any, float]:
        shared: dict[str, Any] = {"norm": op.norm, "activation": op.activation.base}
        if block.exchangeable:
            same, pair, error = rqmc_blocks.exchangeable_pullback(
                block.second_moment, block.gap, value[0], value[1], batch=int(block.batch), **shared
            )
            return (same, pair), error
        matrix, _, error = rqmc_blocks.batch_pullback(
            block.second_moment, block.gap, value, **shared
        )
        return matrix, error


class SobolGroup(SamplewiseRoute):
    """Scrambled Sobol' points of a group of channels of one or two samples."""

    name = "RQMC"

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        if op.norm is None or op.norm.couples_samples:
            return "it does not treat samples apart"
        if op.norm.pool.channels == math.inf:
            return f"{op.norm.name} pools the whole layer"
        return rqmc_pool.refusal(op.norm, op.activation, batch=block.batch, want=want)

    def single(self, op: NormAct, q: Any) -> tuple[Any, Any, float]:
        def one(value: float) -> tuple[float, ...]:
            return rqmc_groups.group_moments(value, **_parts(op))

        second_moment, mean, error = _each(one, q)
        return second_moment, mean, float(np.max(error))

    def pair_gap(self, op: NormAct, q1: Any, q2: Any, gap: Any) -> tuple[Any, float]:
        def one(*pair: float) -> tuple[float, ...]:
            return rqmc_groups.group_pair_gap(*pair, **_parts(op))

        value, error = _each(one, q1, q2, gap)
        return value, float(np.max(error))

    def slope(self, op: NormAct, q1: Any, q2: Any, gap: Any) -> tuple[Any, float]:
        def one(*pair: float) -> tuple[float, ...]:
            return rqmc_groups.group_slope(*pair, **_parts(op))

        value, error = _each(one, q1, q2, gap)
        return value, float(np.max(error))


class SobolLayer(NoShortCut):
    """No pool, or one over all channels, of what quadratures refuse: N(h) is Gaussian, or gated."""

    name = "RQMC"

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        norm = op.norm
        if norm is not None and (norm.couples_samples or norm.pool.channels != math.inf):
            return f"{norm.name} pools samples or finitely many channels"
        if norm is not None and norm.denominator == "none":
            return f"{norm.name} has no denominator"
        return None

    def moments(self, op: NormAct, block: Block) -> Moments:
        q, gap = _rows(block)
        values, gaps, means, error = fields.field_forward(q, gap, _field(op, q))
        if not block.exchangeable:
            return Moments(values, gaps, means, error)
        apart = float(gaps[0, -1]) if len(q) > 1 else 0.0
        return Moments(float(values.mean()), apart, float(means.mean()), error)

    def pullback(self, op: NormAct, block: Block, value: Any) -> tuple[Any, float]:
        q, gap = _rows(block)
        if not block.exchangeable:
            return fields.field_pullback(q, gap, value, _field(op, q))
        same, pair = value
        gradient = same * np.eye(len(q)) + pair * (1.0 - np.eye(len(q)))
        found, error = fields.field_pullback(q, gap, gradient, _field(op, q))
        return (float(np.diagonal(found).mean()), float(found[0, -1]) if len(q) > 1 else 0.0), error


def _rows(block: Block) -> tuple[Any, Any]:
    """Second moments and gaps; of samples that are alike two stand for all."""
    if not block.exchangeable:
        return block.second_moment, block.gap
    count = int(min(block.batch, 2))
    return np.full(count, block.second_moment), block.gap * (1.0 - np.eye(count))


def _field(op: NormAct, q: Any) -> fields.Field:
    return fields.Field(norm=op.norm, activation=op.activation, batch=len(q))


def _parts(op: NormAct) -> dict[str, Any]:
    return {"norm": op.norm, "activation": op.activation.base}


def _each(function: Callable[..., tuple[float, ...]], *arguments: Any) -> tuple[Any, ...]:
    """``function`` over broadcast arrays, once per distinct argument (pairs come in both orders)."""
    arrays = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in arguments))
    known: dict[tuple[float, ...], tuple[float, ...]] = {}
    rows = []
    for values in zip(*(a.ravel().tolist() for a in arrays), strict=True):
        key = (*sorted(values[:2]), *values[2:]) if len(values) == 3 else values
        if key not in known:
            known[key] = function(*key)
        rows.append(known[key])
    return tuple(np.array(column).reshape(arrays[0].shape) for column in zip(*rows, strict=True))
