"""push(state) and pull(state, gradient) for each operation.

``bind_push`` and ``bind_pull`` choose the route once; the functions they return do one step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from theory import dark_windows
from theory.affine import affine
from theory.errors import HypothesisError, NumericalError
from theory.laws import only_rescales
from theory.program import (
    AveragePool,
    Computation,
    Conv,
    Flatten,
    Fork,
    GlobalAveragePool,
    Linear,
    Merge,
    NormAct,
    Scale,
)
from theory.routes.base import is_scale_free, label
from theory.routes.dispatch import select
from theory.routes.grid import select_grid
from theory.routes.spatial import SpatialRoute, select_spatial
from theory.states.base import Gradient, Moments, State
from theory.states.grid import Grid
from theory.states.spatial import Spatial
from theory.streams import Pull, Push, bind_stream_pull, bind_stream_push, scale, scale_gradient

__all__ = [
    "LOST_GRADIENT",
    "Pull",
    "Push",
    "bind_pull",
    "bind_push",
    "pulled_through",
    "pushed_through",
]

LOST_GRADIENT = (
    "the gradient left the range of floating-point numbers: samples have collapsed too far for this "
    "normalizer; use fewer layers, or predict(..., backward=False)"
)

_LEFT_RANGE = (
    "the covariance left the range of floating-point numbers: samples have collapsed "
    "(1 - c below 1e-300) or the second moment ran away; use fewer layers, or bring eps nearer to 1"
)


def bind_push(
    op: Computation, state: State | Spatial, kept: list[Any] | None = None
) -> tuple[Push, str]:
    """The forward step of ``op`` on states like ``state``, and the name of its route.

    ``kept`` carries the streams of open forks from ``Fork`` to ``Merge``.
    """
    if isinstance(op, Fork | Merge | Scale):
        return bind_stream_push(op, state, [] if kept is None else kept), "closed form"
    if isinstance(op, AveragePool | GlobalAveragePool | Flatten):
        return _positions_push(op), "closed form"
    if isinstance(op, Linear | Conv):
        if isinstance(state, Grid):
            return (lambda s: s.convolved(op.weights, **_taps(op))), "closed form"
        # Averaged over a kernel's offsets, covariances exchangeable over positions stay as they are.
        variance, centered = op.weights.weight_variance, op.weights.centered
        return (lambda s: s.linear(variance, centered=centered)), "closed form"
    if op.norm is None and only_rescales(op):
        factor = op.activation.scale
        return (lambda s: s if factor == 1.0 else scale(s, factor)), "closed form"
    if only_rescales(op) and np.any(state.mean):  # type: ignore[union-attr]
        centered_push, name = bind_push(op, _about_mean(op, state))
        return (lambda s: centered_push(_about_mean(op, s))), name
    block = state.block()
    if block.spectrum is not None:
        over_positions = select_spatial(op, block, "forward")
        return partial(_spatial_push, op, over_positions), over_positions.name
    if isinstance(state, Grid):
        route, name = select_grid(op, block, "forward")
    else:
        route = select(op, block, "forward")
        name = route.name
    if op.activation.shift == 0.0 and op.activation.scale == 1.0 and not isinstance(state, Grid):
        fast = route.fast_push(op, exchangeable=block.exchangeable)
        if fast is not None:
            return fast, name

    def push(s: State) -> State:
        usable: Any = s if _scales_through(op) else s.unscaled()
        rounds = isinstance(usable, Grid) and not dark_windows.follows_faint_rows(op)
        if rounds:
            usable = dark_windows.without_faint_rows(usable)
        exponent = usable.exponent
        with np.errstate(over="ignore", invalid="ignore"):
            moments = route.moments(op, usable.block())
        if isinstance(usable, Grid):
            moments = _few_directions(op, usable, moments)
        local, gap_error = moments.error
        # What q inherits: nothing through a scale-free normalizer that subtracts the mean; the gap's
        # error where a raw numerator makes q = 1/gap (VN); else q's own.
        inherited = 0.0
        if not is_scale_free(op):
            exponent = 0 if not _scales_through(op) else exponent
            inherited = usable.second_moment_error
            # phi's dual at a perturbed q is another correlation map, off by at most that much.
            gap_error += inherited if op.norm is not None else 0.0
        else:
            exponent = 0
            if op.norm is not None and op.norm.couples_samples and not op.norm.centered:
                inherited = usable.gap_error
        moments = moments._replace(error=(local, gap_error))
        moments, local = affine(moments, op.activation, exponent, inherited)
        _require_finite(moments)
        result = usable.rebuilt(moments, exponent=exponent, local_error=local)
        if rounds:
            result = dark_windows.without_faint_rows(result)
        if isinstance(usable, Grid) and dark_windows.moves_zeros(op):
            result = dark_windows.with_faint_rows(result, usable, op.activation)
        return result  # type: ignore[no-any-return]

    return push, name


def bind_pull(
    op: Computation,
    state: State | Spatial,
    kept: list[Gradient] | None = None,
    gradient: Gradient | None = None,
) -> tuple[Pull, str]:
    """The backward step of ``op`` at states like ``state``, and the name of its route.

    ``kept`` carries the gradients of skips from ``Merge`` back to ``Fork``.  Over positions that differ
    the route may depend on whether the ``gradient`` joins samples.
    """
    if isinstance(op, Fork | Merge | Scale):
        return bind_stream_pull(op, [] if kept is None else kept), "closed form"
    if isinstance(op, AveragePool | GlobalAveragePool | Flatten):
        return _positions_pull(op), "closed form"
    if isinstance(op, Linear | Conv):
        # Centering the rows removes one direction of n: nothing in the limit.
        variance = op.weights.weight_variance
        if isinstance(op, Conv) and isinstance(state, Grid):
            return (
                lambda s, g: scale_gradient(
                    g._replace(value=s.convolved_back(g.value, **_taps(op))), variance
                )
            ), "closed form"
        return (lambda _, g: scale_gradient(g, variance)), "closed form"
    if op.norm is None and only_rescales(op):
        slope = op.activation.scale**2
        return (lambda _, g: g if slope == 1.0 else scale_gradient(g, slope)), "closed form"
    if only_rescales(op) and np.any(state.mean):  # type: ignore[union-attr]
        centered_pull, name = bind_pull(op, _about_mean(op, state), gradient=gradient)
        return (lambda s, g: centered_pull(_about_mean(op, s), g)), name
    block = state.block()
    if block.spectrum is not None:
        over_positions = select_spatial(op, block, "backward")
        return partial(_spatial_pull, op, over_positions), over_positions.name
    if isinstance(state, Grid):
        incoming = None if gradient is None else gradient.value
        route, name = select_grid(op, block, "backward", incoming)
    else:
        route = select(op, block, "backward")
        name = route.name
    if op.activation.scale == 1.0 and not isinstance(state, Grid):
        fast = route.fast_pull(op, exchangeable=block.exchangeable)
        if fast is not None:
            return fast, name
    slope = op.activation.scale**2

    def pull(s: State, gradient: Gradient) -> Gradient:
        usable: Any = s if _scales_through(op) else s.unscaled()
        incoming = gradient.value
        if isinstance(usable, Grid):
            if not (dark_windows.kinked(op.activation) and dark_windows.keeps_zeros(op)):
                usable = dark_windows.without_faint_rows(usable)
            elif dark_windows.moves_zeros(op):
                usable = dark_windows.zeros_at_the_mean(usable)
            usable, incoming = dark_windows.at_zeros(op, usable, incoming)
            incoming = usable.without_shifts(incoming)
        with np.errstate(over="ignore", invalid="ignore"):
            value, error = route.pullback(op, usable.block(), incoming)
            value = tuple(slope * v for v in value) if block.exchangeable else slope * value
        exponent = gradient.exponent - (usable.exponent if is_scale_free(op) else 0)
        error += gradient.error + usable.second_moment_error + usable.gap_error
        size = value[0] if block.exchangeable else np.trace(value)
        before = incoming[0] if block.exchangeable else np.trace(incoming)
        if np.isnan(value).any() or size < 0.0 < before:
            raise NumericalError(LOST_GRADIENT)
        absent = dark_windows.absent_share(op, usable, value) if isinstance(usable, Grid) else 0.0
        return Gradient(value, exponent, error, absent)

    return pull, name


def pushed_through(operations: Sequence[Linear | NormAct], state: Any) -> list[Any]:
    """The state, and what each operation makes of it."""
    states = [state]
    for op in operations:
        states.append(bind_push(op, states[-1])[0](states[-1]))
    return states


def pulled_through(
    operations: Sequence[Linear | NormAct], states: Sequence[Any], gradient: Gradient
) -> list[Gradient]:
    """Gradients at ``states``, those of ``pushed_through``, from that at the last of them."""
    gradients = [gradient]
    for op, state in zip(reversed(operations), reversed(states[:-1]), strict=True):
        gradients.append(bind_pull(op, state)[0](state, gradients[-1]))
    return gradients[::-1]


def _taps(op: Linear | Conv) -> dict[str, Any]:
    if isinstance(op, Linear):
        return {"kernel": 1, "padding": "zero", "stride": 1}
    return {"kernel": op.kernel, "padding": op.padding, "stride": op.stride}


def _few_directions(op: NormAct, state: Grid, moments: Moments) -> Moments:
    """The mean of phi where h is a direction in few dimensions and no pool of its own divides.

    Second moments of a homogeneous phi are those of Gaussians: all have degree two.
    """
    norm = op.norm
    divides = norm is not None and norm.denominator != "none" and norm.pool.channels != math.inf
    if divides or state.directions == math.inf:
        return moments
    return moments._replace(mean=state.mean_factor * moments.mean)


def _positions_push(op: AveragePool | GlobalAveragePool | Flatten) -> Push:
    """Fewer positions: poolings mix them, flattening averages their covariances."""
    match op:
        case AveragePool(size):
            return lambda s: s.average_pooled(size)
        case GlobalAveragePool():
            return lambda s: s.average_pooled(None)
        case Flatten():
            return lambda s: s.flattened()


def _positions_pull(op: AveragePool | GlobalAveragePool | Flatten) -> Pull:
    match op:
        case AveragePool(size):
            return lambda s, g: g._replace(value=s.average_pooled_back(g.value, size))
        case GlobalAveragePool():
            return lambda s, g: g._replace(value=s.average_pooled_back(g.value, None))
        case Flatten():
            return lambda s, g: g._replace(value=s.flattened_back(g.value))


def _about_mean(op: NormAct, state: Any) -> Any:
    """State of x - m, m the mean over the channels, which a norm about it removes."""
    if op.norm is None or not op.norm.centered:
        raise HypothesisError(
            f"{label(op)} keeps the mean over the channels that this stream has, and no route follows "
            "it; use inputs with feature_mean=0, a stem, or layer_norm()"
        )
    return state.linear(1.0, centered=True)


def _spatial_push(op: NormAct, route: SpatialRoute, state: Spatial) -> Spatial:
    """State of x = scale base(N(h)) + shift: the shift adds a constant to every covariance."""
    usable = state if _scales_through(op) else state.unscaled()
    exponent = 0 if is_scale_free(op) else usable.exponent
    with np.errstate(over="ignore", invalid="ignore"):
        pushed = route.push(op, usable.spectrum, usable.batch)
    a, b = op.activation.scale, math.ldexp(op.activation.shift, -exponent)
    spectrum = pushed.spectrum.scaled(a * a)
    common = 2.0 * a * b * pushed.mean + b * b
    spectrum = spectrum._replace(mean=spectrum.mean + spectrum.positions * common)
    if not 0.0 < spectrum.second_moment < math.inf:
        raise NumericalError(_LEFT_RANGE)
    # As for exchangeable samples: what q inherits, and what the shift makes of relative errors.
    inherited = 0.0 if is_scale_free(op) else usable.second_moment_error
    if is_scale_free(op) and op.norm is not None and not op.norm.centered:
        inherited = usable.gap_error if op.norm.couples_samples else 0.0
    inflation = max(a * a * pushed.spectrum.second_moment / spectrum.second_moment, 1.0)
    local = inflation * pushed.second_moment_error
    gap_error = usable.gap_error + pushed.gap_error + (inherited + local if common else 0.0)
    return Spatial(
        usable.batch,
        spectrum,
        a * pushed.mean + b,
        exponent,
        inflation * inherited + local,
        gap_error,
        local,
    )


def _spatial_pull(op: NormAct, route: SpatialRoute, state: Spatial, gradient: Gradient) -> Gradient:
    """Pi = (pi_q, pi_w, pi_b, pi_x) through x = scale base(N(h))."""
    usable = state if _scales_through(op) else state.unscaled()
    with np.errstate(over="ignore", invalid="ignore"):
        value, error = route.pull(op, usable.spectrum, usable.batch, gradient.value)
    slope = op.activation.scale**2
    exponent = gradient.exponent - (usable.exponent if is_scale_free(op) else 0)
    error += gradient.error + usable.second_moment_error + usable.gap_error
    if any(math.isnan(entry) for entry in value) or value[0] < 0.0 < gradient.value[0]:
        raise NumericalError(LOST_GRADIENT)
    return Gradient(tuple(slope * entry for entry in value), exponent, error)


def _scales_through(op: NormAct) -> bool:
    """Whether the operation can work in units of 4**exponent."""
    if is_scale_free(op):
        return True
    bare = op.norm is None or op.norm.denominator == "none"
    return bare and op.activation.ray_slopes is not None


def _require_finite(moments: Moments) -> None:
    """Collapsing samples end where 1 - c underflows; say so instead of carrying NaN on."""
    if not (np.isfinite(moments.second_moment).all() and np.isfinite(moments.gap).all()):
        raise NumericalError(_LEFT_RANGE)
