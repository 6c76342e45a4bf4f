"""Activations, compiled: x = scale base(y - threshold) + shift and the pull-back scale base'(y).

Written a second time here on purpose: simulation must not inherit a mistake of the theory.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from montecarlo.jit import jit
from theory.specs.activations import Activation

__all__ = [
    "ActivationCode",
    "activate",
    "encode_activation",
    "pull_activation",
    "sigmoid",
    "silu_slope",
]

# Activations.  The piecewise linear ones share one code: their slopes say the rest.
_RAY, _TANH, _ERF, _GELU, _SILU, _ELU, _SELU, _SOFTPLUS, _SIN = range(9)
_CODES = {
    "relu": _RAY,
    "leaky_relu": _RAY,
    "identity": _RAY,
    "abs": _RAY,
    "tanh": _TANH,
    "erf": _ERF,
    "gelu": _GELU,
    "silu": _SILU,
    "elu": _ELU,
    "selu": _SELU,
    "softplus": _SOFTPLUS,
    "sin": _SIN,
}
# Slope for x < 0 of the piecewise linear ones; for x > 0 it is 1.
_NEGATIVE_SLOPE = {"relu": 0.0, "identity": 1.0, "abs": -1.0}


class ActivationCode(NamedTuple):
    """An activation as numbers, which compiled code can take as an argument."""

    code: int
    negative_slope: float
    scale: float
    shift: float
    threshold: float = 0.0


def encode_activation(activation: Activation) -> ActivationCode:
    """Turn the specification into numbers."""
    slope = activation.negative_slope
    if slope is None:
        slope = _NEGATIVE_SLOPE.get(activation.name, 0.0)
    return ActivationCode(
        _CODES[activation.name], slope, activation.scale, activation.shift, activation.threshold
    )


_SQRT_HALF = math.sqrt(0.5)
_SQRT_2_PI = math.sqrt(2.0 * math.pi)
_TWO_OVER_SQRT_PI = 2.0 / math.sqrt(math.pi)
_SELU_SCALE = 1.0507009873554804934193349852946
_SELU_ALPHA = 1.6732632423543772848170429916717


@jit
def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x))."""
    small = math.exp(-abs(x))  # exp(-x) overflows, which compiled code forgives and Python does not
    return (1.0 if x > 0.0 else small) / (1.0 + small)


@jit
def silu_slope(x: float) -> float:
    """Derivative of x sigmoid(x)."""
    return sigmoid(x) * (1.0 + x * sigmoid(-x))


@jit
def _smooth(code: int, x: float) -> float:
    """phi(x) for the activations that are not piecewise linear."""
    if code == _TANH:
        return math.tanh(x)
    if code == _ERF:
        return math.erf(x)
    if code == _GELU:
        return 0.5 * x * math.erfc(-x * _SQRT_HALF)
    if code == _SILU:
        return x * sigmoid(x)
    if code == _ELU:
        return x if x > 0.0 else math.expm1(x)
    if code == _SELU:
        return _SELU_SCALE * (x if x > 0.0 else _SELU_ALPHA * math.expm1(x))
    if code == _SOFTPLUS:
        return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
    return math.sin(x)


@jit
def _smooth_slope(code: int, x: float) -> float:
    """phi'(x) for the activations that are not piecewise linear."""
    if code == _TANH:
        small = math.exp(-2.0 * abs(x))
        return 4.0 * small / (1.0 + small) ** 2
    if code == _ERF:
        return _TWO_OVER_SQRT_PI * math.exp(-x * x)
    if code == _GELU:
        return 0.5 * math.erfc(-x * _SQRT_HALF) + x * math.exp(-0.5 * x * x) / _SQRT_2_PI
    if code == _SILU:
        return silu_slope(x)
    if code == _ELU:
        return 1.0 if x > 0.0 else math.exp(x)
    if code == _SELU:
        return _SELU_SCALE * (1.0 if x > 0.0 else _SELU_ALPHA * math.exp(x))
    if code == _SOFTPLUS:
        return sigmoid(x)
    return math.cos(x)


@jit
def activate(phi: Any, x: Any) -> None:
    """x <- scale base(x) + shift in place; the branch stays outside the loops so they vectorize."""
    code, slope, scale, shift, threshold = phi
    flat = x.reshape(-1)
    if code == _RAY:
        for i in range(flat.size):
            y = np.float64(flat[i]) - threshold
            flat[i] = scale * max(y, 0.0) + (scale * slope) * min(y, 0.0) + shift
    else:
        for i in range(flat.size):
            flat[i] = scale * _smooth(code, np.float64(flat[i])) + shift


@jit
def pull_activation(phi: Any, y: Any, gradient_x: Any, gradient_y: Any) -> None:
    """dy = scale base'(y) dx."""
    code, slope, scale, _, threshold = phi
    flat_y, flat_x, flat = y.reshape(-1), gradient_x.reshape(-1), gradient_y.reshape(-1)
    if code == _RAY:
        low = scale * slope
        for i in range(flat.size):
            flat[i] = flat_x[i] * (scale if flat_y[i] > threshold else low)
    else:
        for i in range(flat.size):
            flat[i] = flat_x[i] * (scale * _smooth_slope(code, np.float64(flat_y[i])))
