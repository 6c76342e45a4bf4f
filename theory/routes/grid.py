"""Routes over a full covariance of (sample, position); ``auto``: the first that does not refuse.

Where pools take all rows together, or every row apart, rows are samples and the routes without
positions serve.  A pool over the positions of all channels divides each sample by a number.  Everything
else, and what those would take too long for, is sampled.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from theory.errors import HypothesisError
from theory.program import NormAct
from theory.routes import laplace_fields, rqmc_pool
from theory.routes.base import NoShortCut, Route, Want, label
from theory.routes.dispatch import select
from theory.routes.fields import Field, block_diagonal, field_forward, field_pullback
from theory.states.base import Block, Moments

__all__ = ["grid_routes", "select_grid"]

# Quadratures pair by pair take about a millisecond each.
_PAIRS = 3000
# Rows of the Laplace integrals, which cost rows^3: beyond, RQMC gives its 3 digits sooner.
_LAPLACE_ROWS = {"forward": 640, "backward": 640}
# By lag one spectrum is most of it.
_LAPLACE_ROWS_BY_LAG = 1280
_SOBOL_DIMENSIONS = 21201
# Seconds per layer that Laplace integrals may take where sampling has three digits in a few.
_PATIENCE = 6.0


class GridLimit(NoShortCut):
    """Pools over positions and all channels: h/R, R^2 the mean of q over positions, plus eps."""

    name = "closed form"

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        norm = op.norm
        if norm is None or norm.pool.samples or norm.pool.channels != math.inf:
            return "it does not pool all channels of one sample"
        if norm.gate is not None or norm.denominator == "none":
            return f"{norm.name} has a gate or no denominator"
        return self._rows(op, block, want)

    def moments(self, op: NormAct, block: Block) -> Moments:
        inner, divided, _ = _divided(op, block)
        return select(inner, divided, "forward").moments(inner, divided)

    def pullback(self, op: NormAct, block: Block, value: Any) -> tuple[Any, float]:
        inner, divided, inverse = _divided(op, block)
        result, error = select(inner, divided, "backward").pullback(inner, divided, value)
        return result * np.outer(inverse, inverse), error

    def _rows(self, op: NormAct, block: Block, want: Want) -> str | None:
        inner, divided, _ = _divided(op, block)
        return _slow(inner, divided, want)


class GridRows(NoShortCut):
    """Rows as samples: pools over all of them, or none."""

    name = "quadrature"

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        norm = op.norm
        if norm is not None and norm.pool.positions != norm.pool.samples and norm.pool.positions:
            if block.positions > 1 and norm.denominator != "none":
                return f"{norm.name} pools the positions of one sample"
            if block.positions > 1 and norm.centered:
                return f"{norm.name} pools the positions of one sample"
        if norm is not None and norm.pool.samples and not norm.pool.positions:
            return f"{norm.name} pools samples at one position"
        if norm is not None and norm.denominator == "evonorm_b0" and block.positions > 1:
            return f"{norm.name} pools the positions of one sample"
        return _slow(op, block, want)

    def moments(self, op: NormAct, block: Block) -> Moments:
        return select(op, block, "forward").moments(op, block)

    def pullback(self, op: NormAct, block: Block, value: Any) -> tuple[Any, float]:
        return select(op, block, "backward").pullback(op, block, value)


class GridPairs(NoShortCut):
    """GN, IN, FRN with a homogeneous activation: one sample as a batch of rows, two by two variables."""

    name = "quadrature"

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        norm = op.norm
        if norm is None or norm.pool.samples or norm.pool.channels == math.inf:
            return "it does not pool finitely many channels of one sample"
        if not norm.pool.positions or norm.gate is not None:
            return f"{norm.name} treats positions apart or has a gate"
        if (norm.centered, norm.denominator) not in ((True, "std"), (False, "rms")):
            return f"{norm.name} is neither (h - mean)/std nor h/rms"
        if op.activation.ray_slopes is None:
            return f"{op.activation.name} is not positively homogeneous"
        time = laplace_fields.seconds(
            int(block.batch),
            batch=int(block.batch) // block.positions,
            channels=int(norm.pool.channels),
            backward=want == "backward",
            by_lag=block.torus is not None,
        )
        if time > _PATIENCE:
            return f"the Laplace integrals would take about {time:.0f} s, sampling a few"
        return None

    def moments(self, op: NormAct, block: Block) -> Moments:
        q, gap, mean, error = laplace_fields.forward(
            block.second_moment, block.gap, **_homogeneous(op, block)
        )
        return Moments(q, gap, mean, (error, error))

    def pullback(self, op: NormAct, block: Block, value: Any) -> tuple[Any, float]:
        if self.samples(block, value):
            return SobolField().pullback(op, block, value)
        return laplace_fields.pullback(
            block.second_moment, block.gap, value, **_homogeneous(op, block)
        )

    @staticmethod
    def samples(block: Block, value: Any) -> bool:
        """Whether Pi has been joined across samples by a pool above, which only sampling follows."""
        return not block_diagonal(value, int(block.batch) // block.positions)


class SobolField(NoShortCut):
    """Scrambled Sobol' points of a group of channels at every sample and position."""

    name = "RQMC"

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        norm = op.norm
        if norm is None:
            return None
        if not norm.pool.positions and block.positions > 1 and norm.pool.channels != math.inf:
            return f"{norm.name} treats positions apart"
        if norm.pool.samples and norm.pool.channels != 1:
            return f"{norm.name} pools samples and {norm.pool.channels:g} channels together"
        if norm.pool.channels == math.inf:
            return None
        if norm.pool.channels * (block.batch + 1) > _SOBOL_DIMENSIONS:
            return (
                f"{norm.pool.channels:g} channels of {block.batch:g} rows are more than the "
                f"{_SOBOL_DIMENSIONS} dimensions of a Sobol' sequence"
            )
        if norm.eps > 0.0 or norm.denominator == "none":
            return None
        rank = norm.rank(batch=block.batch // block.positions, positions=block.positions)
        return rqmc_pool.infinite_mean(norm, op.activation, rank=rank, want=want)

    def moments(self, op: NormAct, block: Block) -> Moments:
        q, gap, mean, error = field_forward(block.second_moment, block.gap, _field(op, block))
        return Moments(q, gap, mean, error)

    def pullback(self, op: NormAct, block: Block, value: Any) -> tuple[Any, float]:
        return field_pullback(block.second_moment, block.gap, value, _field(op, block))


def _homogeneous(op: NormAct, block: Block) -> dict[str, Any]:
    slopes, batch = op.activation.ray_slopes, int(block.batch) // block.positions
    return {"norm": op.norm, "slopes": slopes, "batch": batch, "torus": block.torus}


def _field(op: NormAct, block: Block) -> Field:
    batch = int(block.batch) // block.positions
    return Field(norm=op.norm, activation=op.activation, batch=batch)


def _divided(op: NormAct, block: Block) -> tuple[NormAct, Block, Any]:
    """(phi alone, the rows divided by R, 1/R)."""
    assert op.norm is not None
    q = block.second_moment.reshape(-1, block.positions)
    square = q.mean(axis=1, keepdims=True) if op.norm.pool.positions else q
    level = np.broadcast_to(square, q.shape).ravel() + op.norm.eps
    if (level <= 1e-30 * level.max()).any():
        raise HypothesisError(
            f"{op.norm.name} divides every position by its own rms, and a window that only sees zeros has "
            "none; use eps > 0, or rms_norm(), which pools positions"
        )
    inverse = 1.0 / np.sqrt(level)
    scaled = block._replace(second_moment=block.second_moment * inverse**2)
    return NormAct(None, op.activation), scaled, inverse


def _slow(op: NormAct, rows: Block, want: Want) -> str | None:
    """Refusal of the routes for rows, or that they take too long."""
    try:
        route = select(op, rows, want)
    except HypothesisError as reason:
        return str(reason)
    count, kind = int(rows.batch), type(route).__name__
    limit = _LAPLACE_ROWS[want] if rows.torus is None else _LAPLACE_ROWS_BY_LAG
    if kind == "Laplace" and count > limit:
        return f"the Laplace integrals of {count} rows take longer than sampling"
    if kind in ("SobolBatch", "SobolGroup", "SobolLayer"):
        return "it would be sampled row by row"
    if op.activation.ray_slopes is None and op.activation.name != "sin":
        pairs = count * (count - 1) // 2
        if pairs > _PAIRS and kind != "CenteringRoute":
            return f"{pairs} pairs take longer by quadrature than by sampling"
    return None


def _name(route: Route, op: NormAct, block: Block, want: Want) -> str:
    """What a route hands its rows to decides."""
    if isinstance(route, GridLimit):
        inner, rows, _ = _divided(op, block)
        return select(inner, rows, want).name
    if isinstance(route, GridRows):
        return select(op, block, want).name
    return route.name


@cache
def grid_routes() -> tuple[Route, ...]:
    """All routes over full covariances, cheapest and most accurate first."""
    return (GridLimit(), GridRows(), GridPairs(), SobolField())


def select_grid(op: NormAct, block: Block, want: Want, value: Any = None) -> tuple[Route, str]:
    """The first route that applies, and what it names its numbers; ``value``: Pi, if it is known.

    Raises
    ------
    HypothesisError
        No route applies; the message lists every refusal.
    """
    refusals = []
    for route in grid_routes():
        reason = route.refusal(op, block, want)
        if reason is None:
            if isinstance(route, GridPairs) and value is not None and route.samples(block, value):
                route = SobolField()
            return route, _name(route, op, block, want)
        refusals.append(f"{type(route).__name__}: {reason}")
    raise HypothesisError(
        f"no route over positions that differ takes the {want} expectation of {label(op)} followed by "
        f"{op.activation.name}: {'; '.join(refusals)}; change the normalizer, the activation or the "
        "inputs"
    )
