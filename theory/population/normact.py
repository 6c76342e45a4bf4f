r"""x = phi(N(h)) on a population of channels, and gradients back through it.

With d = A h, R^2 = h'M h/D + eps over one pool (theory notes, section 2), u = d/R and w = M h/R,

    J'g = (A g - w (u . g)/D)/R,      u . g over the pool.

EvoNorm-S0, n(h)/R with n(h) = h sigmoid(v h), has n'(h) in A's place and u = n/R.  EvoNorm-B0,
h/max(R, v h + sqrt(eps)), has A = 1 and u = h/R where R rules, R sqrt(eps)/(v h + sqrt(eps))^2 and u = 0
elsewhere.

Channels come as (P, B, M), over positions as (P, B, S, M); a pool is some of these axes.
Pools that span the layer have no fluctuations: R is a number of its population, and what J' adds
to g/R is of order 1/sqrt(n) per channel because gradients are independent of the stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from theory.errors import HypothesisError, out_of_domain
from theory.program import NormAct
from theory.routes.functions import base_function
from theory.specs.activations import Activation
from theory.specs.normalizers import Normalizer
from theory.states.population import FloatArray, Population, within

__all__ = [
    "Tape",
    "couples_positions",
    "has_finite_pool",
    "normact",
    "pullback",
    "refuse",
    "squared_pullback",
]

Array = NDArray[Any]
Axes = tuple[int, ...]

# Arguments of sigmoid beyond which 1 is 1, and h sigmoid(v h) is 0 beside its largest.
_STEEPEST = 700.0


class Tape(NamedTuple):
    """What ``pullback`` needs of the forward step.

    ``slope`` is phi' or, for rays, the mask of positive arguments; ``inverse`` 1/R; ``numerator`` u
    and ``quadratic`` w where a pool has fluctuations; ``exponent`` of the h that came in; ``gate``
    what EvoNorm has in A's place.
    """

    slope: Array
    inverse: FloatArray | None
    numerator: FloatArray | None
    quadratic: FloatArray | None
    exponent: int
    gate: Array | None = None

    @property
    def nbytes(self) -> int:
        """Memory held."""
        arrays = (self.slope, self.inverse, self.numerator, self.quadratic, self.gate)
        return sum(array.nbytes for array in arrays if array is not None)


def refuse(op: NormAct, *, batch: int, positions: int, channels: int) -> None:
    """Raise unless the operation can be carried out on such populations.

    Raises
    ------
    HypothesisError
        Pools over samples and several channels, batches too small for the pool, EvoNorm-B0 over
        positions.
    SpecificationError
        ``channels`` is not a multiple of twice the group size (draws come mirrored).
    """
    norm = op.norm
    if norm is None:
        return
    pool = norm.pool
    if pool.samples and pool.channels != 1:
        raise HypothesisError(
            f"a population of channels does not carry {norm.name}: its pool spans samples and channels; "
            "pool samples of one channel, channels of one sample, or simulate"
        )
    if norm.denominator == "evonorm_b0" and positions > 1:
        raise HypothesisError(
            f"a population of channels does not carry {norm.name} over positions; use evonorm_s0, a "
            "batch without positions, or simulate"
        )
    alone = pool.size(batch=batch, positions=positions) < 2
    if pool.samples and norm.denominator != "none" and alone:
        raise HypothesisError(f"batch = {batch}: {norm.name} needs two samples; add samples")
    if not pool.samples and pool.channels != math.inf and channels % (2 * int(pool.channels)):
        raise out_of_domain(
            "channels",
            channels,
            f"a multiple of twice the group size {int(pool.channels)}",
            "round it up",
        )
    if norm.denominator == "std" and alone:
        raise HypothesisError(
            f"{norm.name} needs positions, which these inputs do not have; use group_norm(2) or more"
        )


def normact(op: NormAct, state: Population) -> tuple[Population, Tape]:
    """phi(N(h)) and its tape."""
    exponent = state.exponent
    if op.norm is None:
        out, divided = state, _UNDIVIDED
    else:
        out, divided = _normalize(op.norm, state)
    inverse, numerator, quadratic, gate = divided
    if op.activation.ray_slopes is None:
        out = out.unscaled()
        exponent = exponent if inverse is not None else 0
    values, slope = _activate(op.activation, out)
    tape = Tape(slope, inverse, numerator, quadratic, exponent, gate)
    return Population(values, out.exponent), tape


def pullback(op: NormAct, tape: Tape, gradient: Population) -> Population:
    """J'g, with g the gradient at phi(N(h)) and the result the one at h."""
    g = gradient.values * _slope(op.activation, tape.slope)
    norm, exponent = op.norm, gradient.exponent
    if norm is None:
        return Population(g, exponent)
    if tape.inverse is None:
        return Population(_pooled(norm, _project, g) if has_finite_pool(norm) else g, exponent)
    if tape.numerator is not None:
        assert tape.quadratic is not None
        if _two_values(norm, g.shape):
            # Roundings over 1/R would be left.
            return Population(np.zeros_like(g), exponent - tape.exponent)
        pooled_sum = _pooled(norm, _sum, tape.numerator * g)
        divisor = norm.divisor(**_sizes(g.shape))
        if norm.centered:
            g = _pooled(norm, _project, g)
        elif tape.gate is not None:
            g = tape.gate * g
        g = g - tape.quadratic * pooled_sum / divisor
    elif tape.gate is not None:
        g = tape.gate * g
    return Population(g * tape.inverse, exponent - tape.exponent)


def squared_pullback(op: NormAct, tape: Tape, squares: FloatArray) -> tuple[FloatArray, int]:
    """((phi' n')^2 v/R^2, the exponent of R), where no finite pool couples channels or samples."""
    root = _slope(op.activation, tape.slope)
    if tape.inverse is None:
        return root * root * squares, 0
    root = root * tape.inverse
    if tape.gate is not None:
        root = root * tape.gate
    return root * root * squares, tape.exponent


class _Divided(NamedTuple):
    """1/R, u, w and n'; None as in ``Tape``."""

    inverse: FloatArray | None
    numerator: FloatArray | None
    quadratic: FloatArray | None
    gate: Array | None


_UNDIVIDED = _Divided(None, None, None, None)


def _normalize(norm: Normalizer, state: Population) -> tuple[Population, _Divided]:
    """N(h), and what it was divided by."""
    h = state.values
    finite = has_finite_pool(norm)
    every = within(h)
    deviation = _pooled(norm, _project, h) if finite else h - h.mean(axis=every, keepdims=True)
    d = deviation if norm.centered else h
    if norm.denominator == "none":
        return Population(d, state.exponent), _UNDIVIDED
    measured = h if norm.denominator == "rms" else deviation
    eps = math.ldexp(norm.eps, -2 * state.exponent)
    if finite:
        divisor = norm.divisor(**_sizes(h.shape))
        square = _pooled(norm, _sum, measured * measured) / divisor + eps
    else:
        square = (measured * measured).mean(axis=every, keepdims=True) + eps
    if not square.min() > 0.0:
        raise HypothesisError(
            f"a pool of {norm.name} has zero variance at eps = 0; use eps > 0 or inputs that differ"
        )
    inverse = 1.0 / np.sqrt(square)
    if norm.gate is None:
        out = u = d * inverse
        gate = None
    elif norm.denominator == "evonorm_b0":
        out, u, gate = _larger(norm, h, np.sqrt(square), state.exponent)
    else:
        out, gate = _sigmoid(norm.gate, h, inverse, state.exponent)
        u = out
    if not finite:
        return Population(out), _Divided(inverse, None, None, gate)
    w = u if d is measured else measured * inverse
    return Population(out), _Divided(inverse, u, w, gate)


def _sigmoid(
    gate: float, h: FloatArray, inverse: FloatArray, exponent: int
) -> tuple[FloatArray, FloatArray]:
    """(n/R, n'), n = h sigmoid(t), n' = sigmoid(t) (1 + t (1 - sigmoid(t))), t = v h in its own units."""
    with np.errstate(over="ignore"):
        t = np.clip(np.ldexp(gate * h, exponent), -_STEEPEST, _STEEPEST)
    opened = special.expit(t)
    return h * opened * inverse, opened * (1.0 + t * special.expit(-t))


def _larger(
    norm: Normalizer, h: FloatArray, root: FloatArray, exponent: int
) -> tuple[FloatArray, FloatArray, Array]:
    """(h/max(R, v h + s), u, R dN/dh at fixed R), s = sqrt(eps) the deviation over one position."""
    assert norm.gate is not None
    single = math.ldexp(math.sqrt(norm.eps), -exponent)
    linear = norm.gate * h + single
    rules = root >= linear
    divisor = np.where(rules, root, linear)
    out = h / divisor
    u = np.where(rules, out, 0.0)
    return out, u, rules if single == 0.0 else np.where(rules, 1.0, single * root / divisor**2)


def has_finite_pool(norm: Normalizer) -> bool:
    """Whether statistics are those of a few activations, not numbers of the layer."""
    return norm.pool.samples or norm.pool.channels != math.inf


def couples_positions(norm: Normalizer) -> bool:
    """Whether positions of one sample share statistics that fluctuate."""
    return has_finite_pool(norm) and norm.pool.positions


def _two_values(norm: Normalizer, shape: tuple[int, ...]) -> bool:
    """Whether N(h) = +-c, which no small change of h moves: a form of rank 1 at eps = 0."""
    alone = norm.centered or norm.denominator == "rms"
    return alone and norm.eps == 0.0 and norm.rank(**_sizes(shape)) == 1


def _sizes(shape: tuple[int, ...]) -> dict[str, int]:
    """Samples and positions of (P, B, M) or (P, B, S, M)."""
    return {"batch": shape[1], "positions": shape[2] if len(shape) == 4 else 1}


def _pooled(norm: Normalizer, what: Callable[[Array, Axes], Array], values: Array) -> Array:
    """``what`` over the pool's axes, in the shape of ``values``."""
    pool = norm.pool
    over = (2,) if pool.positions and values.ndim == 4 else ()
    if pool.samples:
        return np.broadcast_to(what(values, (1, *over)), values.shape)
    if pool.channels == 1 and over:
        return np.broadcast_to(what(values, over), values.shape)
    grouped = values.reshape(*values.shape[:-1], -1, int(pool.channels))
    return np.broadcast_to(what(grouped, (*over, grouped.ndim - 1)), grouped.shape).reshape(
        values.shape
    )


def _project(values: Array, axes: Axes) -> Array:
    size = math.prod(values.shape[axis] for axis in axes)
    return np.asarray(values - _sum(values, axes) / size)


def _sum(values: Array, axes: Axes) -> Array:
    for axis in axes:
        if axis == values.ndim - 1:
            # A few neighbors each: eight times as fast as a sum over a short axis.
            values = np.asarray((values @ np.ones(values.shape[axis]))[..., None])
        else:
            values = np.asarray(values.sum(axis=axis, keepdims=True))
    return values


def _activate(activation: Activation, state: Population) -> tuple[FloatArray, Array]:
    """scale base(x) + shift in units of 2**exponent, and what its slope needs."""
    x, exponent = state
    slopes = activation.ray_slopes
    slope: Array
    if slopes is None:
        base = base_function(activation.base)
        values, slope = base.value(x), base.derivative(x)
    elif slopes[0] == -slopes[1]:
        values, slope = slopes[0] * x, np.ones(1, dtype=bool)
    else:
        # One byte per channel on the tape instead of eight.
        slope = x > 0.0
        values = np.where(slope, slopes[0], -slopes[1]) * x
    scale, shift = activation.scale, activation.shift
    if scale != 1.0 or shift != 0.0:
        values = scale * values + math.ldexp(shift, -exponent)
    return values, slope


def _slope(activation: Activation, stored: Array) -> Array:
    """scale * base'(x)."""
    slopes = activation.ray_slopes
    if slopes is None:
        return np.asarray(activation.scale * stored)
    return np.where(stored, activation.scale * slopes[0], -activation.scale * slopes[1])
