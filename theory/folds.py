"""Fold the operations over states forwards and over gradient covariances backwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.errors import NumericalError
from theory.forecast import Pace
from theory.operators import LOST_GRADIENT, Pull, bind_pull, bind_push
from theory.program import Computation, NormAct, Observe, lower
from theory.regimes import Regime
from theory.specs.networks import Network
from theory.states.base import Gradient
from theory.states.exchangeable import Exchangeable
from theory.states.spatial import Spatial

__all__ = ["INFINITE_LAYER", "Backward", "Schedule", "fold", "follow_gradient", "schedule"]

FloatArray = NDArray[np.float64]

_LESS = "fewer layers take proportionally less"

# A layer whose inputs span too few directions, although the pool would allow more.
INFINITE_LAYER = (
    "the samples, or positions, of a layer span at most two directions of its pool, so E[1/R^2] and with it "
    "the mean squared gradient there and before is infinite; later layers are finite"
)


class Schedule(NamedTuple):
    """The operations that compute, and after how many of them h^l, x^l and the gradient are read.

    ``bare_rms``: whether one of them divides a pool of single channels by its rms alone.
    """

    ops: tuple[Computation, ...]
    preactivations: tuple[int, ...]
    outputs: tuple[int, ...]
    residual: bool
    bare_rms: bool


class Backward(NamedTuple):
    """log of the gradient's norm at every layer relative to the last, with errors; see ``Prediction``."""

    log_gradient: FloatArray | None
    gradient_error: FloatArray | None
    log_branch_gradient: FloatArray | None
    branch_gradient_error: FloatArray | None


@lru_cache(maxsize=256)
def schedule(network: Network) -> Schedule:
    """Sort the program of ``network`` into operations and places to read."""
    ops: list[Computation] = []
    reads: dict[str, list[int]] = {"preactivation": [], "activation": [], "stream": []}
    for op in lower(network):
        if isinstance(op, Observe):
            reads[op.what].append(len(ops))
        else:
            ops.append(op)
    residual = bool(reads["stream"])
    outputs = reads["stream"] or reads["activation"]
    return Schedule(
        tuple(ops),
        tuple(reads["preactivation"]),
        tuple(outputs),
        residual,
        any(_is_bare_rms(op) for op in ops),
    )


def fold(ops: tuple[Computation, ...], state: Any) -> tuple[list[Any], str]:
    """States before the first and after every operation, and the least direct route among them."""
    states = [state]
    pushes: dict[int, Any] = {}
    kept: list[Any] = []
    route = "closed form"
    pace = Pace(len(ops), what="Prediction, forwards", remedy=_LESS)
    for done, op in enumerate(ops):
        if done == pace.due:
            pace.look(done)
        try:
            push = pushes[id(op)]
        except KeyError:
            push, name = bind_push(op, state, kept)
            pushes[id(op)] = push
            if type(op) is NormAct:
                route = _least_direct(route, name)
        state = push(state)
        states.append(state)
    return states, route


def follow_gradient(program: Schedule, states: list[Any], kind: Regime) -> tuple[Backward, str]:
    """Gradient norms relative to the last reading of h^l, or of the stream, and the route."""
    depth = len(program.outputs)
    still = kind.status == "degenerate" and not program.residual
    if kind.status == "infinite" or still:
        # The ratio to the last layer is taken of numbers that are all infinite, or all zero.
        log_ratio = np.full(depth, -math.inf if still else math.inf)
        log_ratio[-1] = 0.0
        return Backward(log_ratio, np.zeros(depth), None, None), "closed form"
    gradients, route = _pull_back(program, states)
    norm = type(states[-1]).log_squared_norm
    if not program.residual:
        values = _relative(norm, _read(gradients, program, program.preactivations), depth, None)
        return Backward(*values, None, None), route
    streams, branches = (
        _relative(norm, _read(gradients, program, places), depth, gradients[0])
        for places in (program.outputs, program.preactivations)
    )
    return Backward(*streams, *branches), route


def _is_bare_rms(op: Computation) -> bool:
    """A pool of single channels that is divided by its rms, and by nothing beside."""
    if type(op) is not NormAct or (norm := op.norm) is None:
        return False
    return norm.denominator == "rms" and norm.eps == 0.0 and norm.pool.channels == 1


def _sums_to_zero(op: NormAct, state: Any) -> bool:
    """Three samples or positions whose sum vanishes: an rms over them has rank 2, E[1/R^2] = inf."""
    norm = op.norm
    if norm is None or not _is_bare_rms(op):
        return False
    if isinstance(state, Exchangeable):
        return norm.couples_samples and state.batch == 3 and state.gap == 1.5
    if isinstance(state, Spatial):
        alone = not norm.couples_samples
        return alone and state.spectrum.positions == 3 and state.spectrum.mean == 0.0
    return False


def _read(gradients: list[Gradient], program: Schedule, places: Sequence[int]) -> list[Gradient]:
    """Gradients at ``places``, as far back as they are finite."""
    last = len(program.ops)
    return [gradients[last - k] for k in places if last - k < len(gradients)]


def _pull_back(program: Schedule, states: list[Any]) -> tuple[list[Gradient], str]:
    """Gradient covariances, the k-th one at the state k operations before the end, and the route."""
    residual = program.residual
    gradient: Gradient = states[-1].cotangent()
    exchangeable = type(gradient.value) is tuple
    pulls: dict[int, Pull] = {}
    kept: list[Gradient] = []
    route = "closed form"
    gradients = [gradient]
    pace = Pace(len(program.ops), what="Prediction, backwards", remedy=_LESS)
    backwards = zip(reversed(program.ops), reversed(states[:-1]), strict=True)
    for done, (op, state) in enumerate(backwards):
        if done == pace.due:
            pace.look(done)
        try:
            pull = pulls[id(op)]
        except KeyError:
            pull, name = bind_pull(op, state, kept, gradient)
            pulls[id(op)] = pull
            if type(op) is NormAct:
                route = _least_direct(route, name)
        if residual and type(op) is NormAct and _vanishes(gradient):
            # Where E[1/R^2] is infinite, zero times infinity would be NaN.
            gradients.append(gradient)
            continue
        if program.bare_rms and type(op) is NormAct and _sums_to_zero(op, state):
            break
        gradient = pull(state, gradient)
        if exchangeable:
            if not gradient.value[0] < math.inf:
                # The regime says beforehand where moments are infinite: this one overflowed.
                raise NumericalError(LOST_GRADIENT)
        elif type(op) is NormAct and not np.isfinite(gradient.value).all():
            break
        gradients.append(gradient)
    return gradients, route


def _least_direct(one: str, other: str) -> str:
    return max(one, other, key=("closed form", "quadrature", "RQMC").index)


def _vanishes(gradient: Gradient) -> bool:
    value = gradient.value
    return value[0] == 0.0 if type(value) is tuple else not value.any()


def _relative(
    log_squared_norm: Callable[[Sequence[Gradient]], FloatArray],
    gradients: list[Gradient],
    depth: int,
    reference: Gradient | None,
) -> tuple[FloatArray, FloatArray]:
    """log norm at each of the last layers relative to ``reference``, or to the last; infinite before."""
    log_ratio, error = np.full(depth, math.inf), np.zeros(depth)
    if gradients:
        compared = [*gradients, reference or gradients[-1]]
        log_square = log_squared_norm(compared)
        stated = np.array([g.error for g in compared])
        log_ratio[-len(gradients) :] = 0.5 * (log_square[:-1] - log_square[-1])
        error[-len(gradients) :] = 0.5 * (stated[:-1] - stated[-1])
    if reference is None:
        log_ratio[-1] = 0.0
    return log_ratio, error
