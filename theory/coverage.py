"""Which route takes which expectation: normalizer x state x {forward, backward}, asked of the code.

Every route is asked whether it refuses; the first that does not is the one that ``predict`` takes.  A
cell without a route keeps every refusal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from theory.errors import NormcompassError
from theory.program import NormAct
from theory.routes.base import Want
from theory.routes.dispatch import routes, select
from theory.routes.grid import grid_routes, select_grid
from theory.routes.positions_spectrum import PositionSpectrum
from theory.routes.spatial import select_spatial, spatial_routes
from theory.specs.activations import Activation
from theory.specs.networks import Layer
from theory.specs.normalizers import group_norm
from theory.specs.shifts import spread
from theory.states.base import Block
from theory.zoo import zoo

__all__ = ["LAYERS", "STATES", "Cell", "coverage"]

_WANTS: tuple[Want, ...] = ("forward", "backward")
_BATCH, _POSITIONS, _ROWS = 12, 16, 4

LAYERS: dict[str, Layer] = {
    **{name: layer for name, layer in zoo.items() if name != "GN(8)"},
    "GN(8)": Layer(norm=group_norm(8)),
}
"""The zoo, with the activation that each layer brings."""


class State(NamedTuple):
    """A kind of covariance: its name, an example, the routes asked in order, and the choice."""

    name: str
    block: Block
    routes: Callable[[], Sequence[Any]]
    select: Callable[[NormAct, Block, Want], tuple[Any, str]]


def _named(select: Callable[..., Any]) -> Callable[[NormAct, Block, Want], tuple[Any, str]]:
    def chosen(op: NormAct, block: Block, want: Want) -> tuple[Any, str]:
        route = select(op, block, want)
        return route, route.name

    return chosen


def _rows(count: int) -> tuple[Any, Any]:
    """Second moments and gaps that are not alike."""
    q = np.linspace(1.0, 2.0, count)
    place = np.arange(count) / count
    return q, 1.0 - np.exp(-np.abs(np.subtract.outer(place, place)))


def _lags() -> tuple[Any, Any]:
    """The same for circulant blocks."""
    away = np.arange(_POSITIONS)
    beside = np.exp(-np.minimum(away, _POSITIONS - away) / _POSITIONS)
    kept = 0.5 + 0.5 * np.eye(_ROWS)
    rows = (kept[:, :, None] * beside).reshape(_ROWS, -1)
    return np.repeat(np.linspace(1.0, 2.0, _ROWS), _POSITIONS), 1.0 - spread(rows, (_POSITIONS,))


STATES: tuple[State, ...] = (
    State("samples alike", Block(1.0, 0.5, _BATCH, True), routes, _named(select)),
    State("samples", Block(*_rows(_BATCH), _BATCH, False), routes, _named(select)),
    State(
        "positions alike",
        Block(
            1.0,
            0.5,
            _ROWS,
            True,
            PositionSpectrum(_POSITIONS, 0.5, 8.5, 0.25, 4.25),
        ),
        spatial_routes,
        _named(select_spatial),
    ),
    State(
        "by lag",
        Block(*_lags(), _ROWS * _POSITIONS, False, None, _POSITIONS, (_POSITIONS,)),
        grid_routes,
        select_grid,
    ),
    State(
        "(sample, position)",
        Block(*_rows(_ROWS * _POSITIONS), _ROWS * _POSITIONS, False, None, _POSITIONS),
        grid_routes,
        select_grid,
    ),
)
"""Kinds of covariance; a residual stream uses them too, a population of channels needs no route."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One expectation.

    Attributes
    ----------
    normalizer, activation, state, want
        What is asked: phi(N(h)) over covariances of this kind, ``forward`` or ``backward``.
    route
        "closed form", "quadrature" or "RQMC"; None if no route takes it.
    taken_by
        Class of that route.
    refusals
        Class of every other route before it, or of all -> why not.
    """

    normalizer: str
    activation: str
    state: str
    want: str
    route: str | None
    taken_by: str | None
    refusals: dict[str, str]

    @property
    def reason(self) -> str:
        """Why there is no number: the shortest road, the last refusal; empty if there is one."""
        return "" if self.route is not None else list(self.refusals.values())[-1]


def coverage(*, activation: Activation | None = None, eps: float = 0.0) -> tuple[Cell, ...]:
    """Ask every route about every layer of the zoo, every kind of state, forward and backward.

    Parameters
    ----------
    activation
        Instead of the layer's own.
    eps
        Of every normalizer that divides.
    """
    return tuple(_cells(activation, eps))


def _cells(activation: Activation | None, eps: float) -> Iterator[Cell]:
    for name, layer in LAYERS.items():
        norm, phi = layer.norm, activation or layer.activation
        if norm is not None and norm.denominator != "none":
            norm = dataclasses.replace(norm, eps=eps)
        op = NormAct(norm, phi)
        for state in STATES:
            undefined = _undefined(op, state.block)
            for want in _WANTS:
                yield _cell(name, op, state, want, undefined)


def _undefined(op: NormAct, block: Block) -> str:
    """Why this pool is no pool without positions; empty if it is one."""
    positions = block.positions if block.spectrum is None else block.spectrum.positions
    if op.norm is None or op.norm.pool.size(batch=block.batch, positions=positions) >= 2:
        return ""
    return f"{op.norm.name} pools positions, and there is one: the pool is a single activation"


def _cell(name: str, op: NormAct, state: State, want: Want, undefined: str) -> Cell:
    route, taken_by, refusals = None, None, {}
    if undefined:
        refusals = {"specification": undefined}
    else:
        for candidate in state.routes():
            label = type(candidate).__name__
            if label == "SpatialPairwise":
                label += f"({type(candidate.pairs).__name__})"
            reason = candidate.refusal(op, state.block, want)
            if reason is None:
                taken_by = label
                break
            refusals[label] = reason
        try:
            chosen, route = state.select(op, state.block, want)
            assert taken_by is not None
            assert taken_by.startswith(type(chosen).__name__)
        except NormcompassError:
            assert taken_by is None
    return Cell(
        normalizer=name,
        activation=op.activation.name,
        state=state.name,
        want=want,
        route=route,
        taken_by=taken_by,
        refusals=refusals,
    )
