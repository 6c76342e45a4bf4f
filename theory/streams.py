r"""Sums of states: the skip of a residual network, forwards and backwards.

    x' = a x + b y:   K' = a^2 K_x + b^2 K_y + a b (m_x m_y' + m_y m_x'),   m' = a m_x + b m_y,
    Pi = a^2 Pi' + b^2 T(Pi'),

where y = F(x).  Beyond the means x and y are uncorrelated: a channel of y sees the same channel of x
through one weight in n alone, the weights being drawn afresh.  So are, backwards, the gradients over the
skip and out of the branch (theory notes, section 5).

A state is one kind of description of a channel; another kind registers its own ``merge`` and ``scale``.
Distances, not covariances, are added, so that nearly equal samples keep full relative precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.errors import HypothesisError, NumericalError
from theory.program import Fork, Merge, Scale
from theory.routes.base import ROUNDING
from theory.states.base import Gradient, make
from theory.states.exchangeable import Exchangeable
from theory.states.full import Full, squared_distances
from theory.states.grid import Grid
from theory.states.spatial import Spatial
from theory.states.units import LARGE, SMALL

__all__ = ["add", "bind_stream_pull", "bind_stream_push", "merge", "scale", "scale_gradient"]

Push = Callable[[Any], Any]
Pull = Callable[[Any, Gradient], Gradient]

FloatArray = NDArray[np.float64]

# (q, m^2, relative error of q, local error) of one of two streams that are added.
_Part = tuple[float, float, float, float]


def bind_stream_push(op: Fork | Merge | Scale, state: Any, kept: list[Any]) -> Push:
    """The forward step of ``op``; ``kept`` holds the streams of open forks, the last one on top."""
    match op:
        case Fork():

            def fork(s: Any) -> Any:
                kept.append(s)
                return s

            return fork
        case Merge(skip, branch):
            merged = merge.dispatch(type(state))
            return lambda s: merged(kept.pop(), s, skip=skip, branch=branch)
        case Scale(factor):
            scaled = scale.dispatch(type(state))
            return lambda s: scaled(s, factor)


def bind_stream_pull(op: Fork | Merge | Scale, kept: list[Gradient]) -> Pull:
    """The backward step of ``op``; ``kept`` holds the gradients that went over skips still open."""
    match op:
        case Fork():
            return lambda _, gradient: add(kept.pop(), gradient)
        case Merge(skip, branch):
            a, b = skip * skip, branch * branch

            def split(_: Any, gradient: Gradient) -> Gradient:
                kept.append(gradient if a == 1.0 else scale_gradient(gradient, a))
                return gradient if b == 1.0 else scale_gradient(gradient, b)

            return split
        case Scale(factor):
            return lambda _, gradient: scale_gradient(gradient, factor * factor)


@singledispatch
def merge(stream: Any, addend: Any, *, skip: float, branch: float) -> Any:
    """State of skip x + branch y, x with the state ``stream`` and y = F(x) with the state ``addend``."""
    raise HypothesisError(
        f"no sum of states of type {type(stream).__name__}; predict another network"
    )


@singledispatch
def scale(state: Any, factor: float) -> Any:
    """State of factor x."""
    raise HypothesisError(f"no multiple of a {type(state).__name__}; predict another network")


@merge.register
def _merge_exchangeable(
    stream: Exchangeable, addend: Exchangeable, *, skip: float, branch: float
) -> Exchangeable:
    batch, q_x, gap_x, m_x, exponent, error_x, gap_error_x, local_x = stream
    _, q_y, gap_y, m_y, exponent_y, error_y, gap_error_y, local_y = addend
    a, b = skip, branch
    if exponent != exponent_y:
        exponent, a, b = _aligned(exponent, exponent_y, a, b)
    from_x, from_y = a * a * q_x, b * b * q_y
    far_x, far_y = from_x * gap_x, from_y * gap_y
    mean, common = a * m_x + b * m_y, 2.0 * a * b * m_x * m_y
    q, distance = from_x + from_y + common, far_x + far_y
    q_error, gap_error = _errors(
        from_x, from_y, common, far_x, far_y, error_x, error_y, gap_error_x, gap_error_y
    )
    gap = distance / q
    local = 0.0
    if mean:
        x = (from_x, (a * m_x) ** 2, error_x, local_x)
        y = (from_y, (b * m_y) ** 2, error_y, local_y)
        local = _local_error(x, y, q, q_error)
    if not SMALL < q < LARGE:
        q, steps = _within_range(q)
        mean, exponent = math.ldexp(mean, -steps), exponent + steps
    return Exchangeable(batch, q, gap, mean, exponent, q_error, gap_error, local)


@merge.register
def _merge_spatial(stream: Spatial, addend: Spatial, *, skip: float, branch: float) -> Spatial:
    """Eigenvalues add; what is common to all samples and positions enters the mode of their mean."""
    exponent, a, b = _aligned(stream.exponent, addend.exponent, skip, branch)
    x, y = stream.spectrum.scaled(a * a), addend.spectrum.scaled(b * b)
    common = 2.0 * a * b * stream.mean * addend.mean
    total = x._replace(
        contrast=x.contrast + y.contrast,
        mean=x.mean + y.mean + x.positions * common,
        contrast_distance=x.contrast_distance + y.contrast_distance,
        mean_distance=x.mean_distance + y.mean_distance,
    )
    q = total.second_moment
    from_x, from_y = x.second_moment, y.second_moment
    errors = (stream.second_moment_error, addend.second_moment_error)
    gap_errors = (stream.gap_error, addend.gap_error)
    q_error, gap_error = ROUNDING, 0.0
    # gap_error bounds all three gaps; taken before scaling, a branch times 0 has gaps as well.
    for gap_x, gap_y in zip(stream.spectrum.gaps(), addend.spectrum.gaps(), strict=True):
        far_x, far_y = from_x * gap_x, from_y * gap_y
        q_error, one = _errors(from_x, from_y, common, far_x, far_y, *errors, *gap_errors)
        gap_error = max(gap_error, one)
    mean, local = a * stream.mean + b * addend.mean, 0.0
    if mean:
        own = (from_x, (a * stream.mean) ** 2, errors[0], stream.local_error)
        other = (from_y, (b * addend.mean) ** 2, errors[1], addend.local_error)
        local = _local_error(own, other, q, q_error)
    if not SMALL < q < LARGE:
        _, steps = _within_range(q)
        total, mean = total.scaled(4.0**-steps), math.ldexp(mean, -steps)
        exponent += steps
    return Spatial(stream.batch, total.tidied(), mean, exponent, q_error, gap_error, local)


@merge.register
def _merge_full(stream: Full, addend: Full, *, skip: float, branch: float) -> Full:
    exponent, a, b = _aligned(stream.exponent, addend.exponent, skip, branch)
    from_x, from_y = a * a * stream.second_moment, b * b * addend.second_moment
    m_x, m_y = a * stream.mean, b * addend.mean
    common = 2.0 * m_x * m_y
    q, mean = from_x + from_y + common, m_x + m_y
    far_x = np.sqrt(np.outer(from_x, from_x)) * stream.gap
    far_y = np.sqrt(np.outer(from_y, from_y)) * addend.gap
    root = np.sqrt(np.outer(q, q))
    if m_x.any() and m_y.any():
        distance = squared_distances(from_x, stream.gap) + squared_distances(from_y, addend.gap)
        distance += 2.0 * np.subtract.outer(m_x, m_x) * np.subtract.outer(m_y, m_y)
        along = np.subtract.outer(np.sqrt(q), np.sqrt(q)) ** 2
        gap = np.clip((distance - along) / (2.0 * root), 0.0, 2.0)
    else:
        # |u||v| - u.v = (u x v)^2 / (|u||v| + u.v), u and v the samples' parts from x and from y.
        u, v = np.sqrt(from_x), np.sqrt(from_y)
        cross = np.outer(u, v) - np.outer(v, u)
        gap = (cross**2 / (root + np.outer(u, u) + np.outer(v, v)) + far_x + far_y) / root
    np.fill_diagonal(gap, 0.0)
    # Relative errors are those of every sample, so sums over samples and pairs bound them as well.
    q_error, gap_error = _errors(
        float(from_x.sum()),
        float(from_y.sum()),
        float(common.sum()),
        float(far_x.sum()),
        float(far_y.sum()),
        stream.second_moment_error,
        addend.second_moment_error,
        stream.gap_error,
        addend.gap_error,
    )
    local = 0.0
    if mean.any():
        rows = zip(
            from_x.tolist(), m_x.tolist(), from_y.tolist(), m_y.tolist(), q.tolist(), strict=True
        )
        local = max(
            _local_error(
                (own, m * m, stream.second_moment_error, stream.local_error),
                (other, k * k, addend.second_moment_error, addend.local_error),
                second,
                q_error,
            )
            for own, m, other, k, second in rows
        )
    largest = float(q.max())
    if not SMALL < largest < LARGE:
        _, steps = _within_range(largest)
        q, mean = np.ldexp(q, -2 * steps), np.ldexp(mean, -steps)
        exponent += steps
    return Full(q, gap, mean, exponent, q_error, gap_error, local)


@merge.register
def _merge_grid(stream: Grid, addend: Grid, *, skip: float, branch: float) -> Grid:
    rows = _merge_full(stream.rows, addend.rows, skip=skip, branch=branch)
    return Grid(rows, stream.shape, chance=max(stream.chance, addend.chance))


@scale.register
def _scale_exchangeable(state: Exchangeable, factor: float) -> Exchangeable:
    q, mean = factor * factor * state.second_moment, factor * state.mean
    return state._replace(second_moment=q, mean=mean)


@scale.register
def _scale_spatial(state: Spatial, factor: float) -> Spatial:
    return state._replace(spectrum=state.spectrum.scaled(factor * factor), mean=factor * state.mean)


@scale.register
def _scale_full(state: Full, factor: float) -> Full:
    return Full(
        factor * factor * state.second_moment,
        state.gap,
        factor * state.mean,
        state.exponent,
        state.second_moment_error,
        state.gap_error,
        state.local_error,
    )


@scale.register
def _scale_grid(state: Grid, factor: float) -> Grid:
    return Grid(_scale_full(state.rows, factor), state.shape, chance=state.chance)


def scale_gradient(gradient: Gradient, square: float) -> Gradient:
    """square * Pi, back in the middle of the floating-point range."""
    value, exponent, error, _ = gradient
    if type(value) is tuple and len(value) == 2:
        # Written out: deep exchangeable networks spend their time here.
        same = square * value[0]
        if SMALL < same < LARGE:
            return make(Gradient, ((same, square * value[1]), exponent, error, 0.0))
    value = _times(value, square)
    largest = value[0] if type(value) is tuple else float(np.abs(value).max())
    if not SMALL < largest < LARGE and 0.0 < largest < math.inf:
        _, steps = _within_range(largest)
        value, exponent = _times(value, math.ldexp(1.0, -2 * steps)), exponent + steps
    return Gradient(value, exponent, error)


def _local_error(x: _Part, y: _Part, q: float, q_error: float) -> float:
    """What centering may inflate of the error of q' = ``q``.

    Variances v = q - m^2 add up, v' = v_x + v_y, and so do their errors: v' is not known less well for
    being the difference of q' and m'^2.  The local error says so: e_v = e_q + (q/v - 1) e_local.
    """
    variance = known = 0.0
    for second, square, error, local in (x, y):
        variance += second - square
        known += (second - square) * error + square * local
    square = q - variance
    if not variance > 0.0 or square < ROUNDING * variance:
        return q_error
    excess = (known / variance - q_error) * variance / square
    return min(max(excess, 0.0) + ROUNDING, q_error)


def _times(value: Any, factor: float) -> Any:
    return tuple([factor * entry for entry in value]) if type(value) is tuple else factor * value


def add(first: Gradient, second: Gradient) -> Gradient:
    """Pi_1 + Pi_2, in the middle of the floating-point range; the error is relative to the trace."""
    x, exponent, error_x, _ = first
    y, exponent_y, error_y, _ = second
    if exponent != exponent_y:
        exponent, a, b = _aligned(exponent, exponent_y, 1.0, 1.0)
        x, y = _times(x, a * a), _times(y, b * b)
    value: Any
    if type(x) is tuple:
        value = tuple([u + v for u, v in zip(x, y, strict=True)])
        own, total = x[0], value[0]
        within = SMALL < total < LARGE
    else:
        value = x + y
        own, total = float(np.trace(x)), float(np.trace(value))
        within = SMALL < float(np.abs(value).max()) < LARGE
    share = own / total if 0.0 < total < math.inf else 0.5
    error = share * error_x + (1.0 - share) * error_y + ROUNDING
    gradient = Gradient(value, exponent, error)
    return gradient if within else scale_gradient(gradient, 1.0)


def _aligned(first: int, second: int, a: float, b: float) -> tuple[int, float, float]:
    """(common exponent, a, b): factors of amplitudes in units of 2**exponent."""
    exponent = max(first, second)
    if first == second:
        return exponent, a, b
    # A factor of 0 does not decide the unit.
    if a == 0.0 or b == 0.0:
        return (second, a, b) if a == 0.0 else (first, a, b)
    return exponent, math.ldexp(a, first - exponent), math.ldexp(b, second - exponent)


def _within_range(q: float) -> tuple[float, int]:
    """(q 4^-steps, steps), the former in the middle of the floating-point range."""
    if not 0.0 < q < math.inf:
        raise NumericalError(
            "the stream left the range of floating-point numbers; use skip and branch factors "
            "nearer to 1"
        )
    steps = math.frexp(q)[1] // 2
    return math.ldexp(q, -2 * steps), steps


def _errors(
    from_x: float,
    from_y: float,
    common: float,
    far_x: float,
    far_y: float,
    error_x: float,
    error_y: float,
    gap_error_x: float,
    gap_error_y: float,
) -> tuple[float, float]:
    """Relative errors of q' = q_x + q_y + common and of gap' = D'/q', D' = D_x + D_y, D = q gap.

    d log gap' = sum_i [w_i d log gap_i + (w_i - v_i) d log q_i] - d common/q', with the shares
    w_i = D_i/D' and v_i = q_i/q'.
    """
    q, far = from_x + from_y + common, far_x + far_y
    v_x, v_y, rounding = from_x / q, from_y / q, ROUNDING
    if common:
        # Relative errors of m^2 are at most q's: those of m_x m_y are at most the larger one.
        rounding += abs(common) / q * max(error_x, error_y)
    q_error = v_x * error_x + v_y * error_y + rounding
    if far <= 0.0:
        return q_error, max(gap_error_x, gap_error_y) + ROUNDING
    w_x, w_y = far_x / far, far_y / far
    moved = abs(w_x - v_x) * error_x + abs(w_y - v_y) * error_y
    return q_error, w_x * gap_error_x + w_y * gap_error_y + moved + rounding
