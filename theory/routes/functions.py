"""Base activations as functions: value, derivative, and differences without cancellation.

Every quantity near correlation 1 is a mean square of phi(u) - phi(v) with u close to v, so the
primitive here is spread(m, w) = phi(m + w) - phi(m - w): it keeps its relative precision for any
half-difference w, because u - v is known exactly while u and v are rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from theory.specs.activations import Activation

__all__ = ["BaseFunction", "base_function"]

FloatArray = NDArray[np.float64]
Map = Callable[[Any], FloatArray]
PairMap = Callable[[Any, Any], FloatArray]

_SQRT_PI = math.sqrt(math.pi)
_SQRT_2PI = math.sqrt(2.0 * math.pi)
_LOG_MAX = 700.0

# Self-normalizing constants (Klambauer et al. 2017), to double precision.
_SELU_SCALE = 1.0507009873554804934193349852946
_SELU_ALPHA = 1.6732632423543772848170429916717

# e^{-x^2} over |w| <= 1 about any m where it has not underflowed: 24 nodes reach rounding.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


@dataclass(frozen=True)
class BaseFunction:
    """phi, phi' and phi(m + w) - phi(m - w) of a base activation (scale 1, shift 0).

    Parameters
    ----------
    value, derivative
        Vectorized maps, finite and without warnings for |x| up to 1e3 and beyond; at a kink the
        derivative is one of its one-sided values, or 0 (relu, abs).
    spread
        (m, w) -> phi(m + w) - phi(m - w), with a rounding error of a few ulp of |w| max |phi'|.
    kinked
        Whether two analytic branches are joined at 0.
    strip
        Half-width of the strip |Im z| < strip where phi is analytic; inf if phi is entire or if
        its branches are.
    odd
        Whether phi(-x) = -phi(x).
    """

    value: Map
    derivative: Map
    spread: PairMap
    kinked: bool
    strip: float
    odd: bool = False

    def difference(self, first: Any, second: Any) -> FloatArray:
        """phi(first) - phi(second) without cancellation (beyond the rounding of the arguments)."""
        first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
        return self.spread(0.5 * (first + second), 0.5 * (first - second))


def _sigmoid_spread(middle: Any, half: Any) -> FloatArray:
    """sigma(m + w) - sigma(m - w) = sinh(w) / (cosh(m) + cosh(w))."""
    across, along = np.abs(half), np.abs(middle)
    largest = np.maximum(across, along)
    # Numerator and denominator divided by exp(largest) / 2, so that nothing overflows.
    numerator = -np.expm1(-2.0 * across) * np.exp(across - largest)
    denominator = (1.0 + np.exp(-2.0 * across)) * np.exp(across - largest) + (
        1.0 + np.exp(-2.0 * along)
    ) * np.exp(along - largest)
    result: FloatArray = np.sign(half) * numerator / denominator
    return result


def _erf_spread(middle: Any, half: Any) -> FloatArray:
    """erf(m + w) - erf(m - w): Gauss-Legendre on erf' for small w, complements in the tails."""
    middle, half = np.broadcast_arrays(np.abs(np.asarray(middle, float)), np.asarray(half, float))
    # By symmetry m >= 0, so the complements below never both round to 2.
    width = np.abs(half)
    wide = special.erfc(middle - width) - special.erfc(middle + width)
    near = width < 1.0
    points = middle[near][..., None] + width[near][..., None] * _NODES
    result = np.array(wide)
    result[near] = (2.0 / _SQRT_PI) * width[near] * (np.exp(-(points**2)) @ _WEIGHTS)
    return np.sign(half) * result


def _normal_spread(middle: Any, half: Any) -> FloatArray:
    """Phi(m + w) - Phi(m - w)."""
    scale = math.sqrt(0.5)
    return 0.5 * _erf_spread(scale * np.asarray(middle), scale * np.asarray(half))


def _tanh_derivative(x: Any) -> FloatArray:
    """1 / cosh(x)^2, without overflow."""
    decay = np.exp(-2.0 * np.abs(x))
    result: FloatArray = 4.0 * decay / (1.0 + decay) ** 2
    return result


def _tanh_spread(middle: Any, half: Any) -> FloatArray:
    """tanh(x) = 2 sigma(2x) - 1."""
    return 2.0 * _sigmoid_spread(2.0 * np.asarray(middle), 2.0 * np.asarray(half))


def _gelu_derivative(x: Any) -> FloatArray:
    """Phi(x) + x exp(-x^2/2) / sqrt(2 pi)."""
    x = np.asarray(x, dtype=float)
    result: FloatArray = special.ndtr(x) + x * np.exp(-0.5 * x * x) / _SQRT_2PI
    return result


def _gated_spread(middle: Any, half: Any, *, gate: Map, gate_spread: PairMap) -> FloatArray:
    """x g(x): m [g(m+w) - g(m-w)] + w [g(m+w) + g(m-w)]."""
    middle, half = np.asarray(middle, dtype=float), np.asarray(half, dtype=float)
    both = gate(middle + half) + gate(middle - half)
    return middle * gate_spread(middle, half) + half * both


def _silu_derivative(x: Any) -> FloatArray:
    """sigma(x) (1 + x sigma(-x))."""
    x = np.asarray(x, dtype=float)
    result: FloatArray = special.expit(x) * (1.0 + x * special.expit(-x))
    return result


def _softplus_spread(middle: Any, half: Any) -> FloatArray:
    """log(1 + e^a) - log(1 + e^b) = log(1 + (e^{a-b} - 1) sigma(b)),  a = m + |w|, b = m - |w|."""
    middle, half = np.asarray(middle, dtype=float), np.asarray(half, dtype=float)
    width = np.abs(half)
    low = middle - width
    step = np.expm1(np.minimum(2.0 * width, _LOG_MAX))
    small = np.log1p(step * special.expit(low))
    large = np.logaddexp(0.0, middle + width) - np.logaddexp(0.0, low)
    return np.sign(half) * np.where(2.0 * width < _LOG_MAX, small, large)


def _sin_spread(middle: Any, half: Any) -> FloatArray:
    """2 cos(m) sin(w)."""
    result: FloatArray = 2.0 * np.cos(middle) * np.sin(half)
    return result


def _elu_value(x: Any, *, scale: float, alpha: float) -> FloatArray:
    """scale * (x for x > 0, alpha (e^x - 1) otherwise)."""
    x = np.asarray(x, dtype=float)
    result: FloatArray = scale * np.where(x > 0.0, x, alpha * np.expm1(np.minimum(x, 0.0)))
    return result


def _elu_derivative(x: Any, *, scale: float, alpha: float) -> FloatArray:
    """scale * (1 for x > 0, alpha e^x otherwise)."""
    x = np.asarray(x, dtype=float)
    result: FloatArray = scale * np.where(x > 0.0, 1.0, alpha * np.exp(np.minimum(x, 0.0)))
    return result


def _elu_spread(middle: Any, half: Any, *, scale: float, alpha: float) -> FloatArray:
    """Branch by branch: 2w; alpha e^m 2 sinh(w); across 0 the two terms have one sign."""
    middle, half = np.asarray(middle, dtype=float), np.asarray(half, dtype=float)
    width = np.abs(half)
    high, low = middle + width, middle - width
    value = partial(_elu_value, scale=scale, alpha=alpha)
    negative = -scale * alpha * np.exp(np.minimum(high, 0.0)) * np.expm1(-2.0 * width)
    across = value(high) - value(low)
    same = np.where(low >= 0.0, 2.0 * scale * width, negative)
    return np.sign(half) * np.where((low < 0.0) & (high > 0.0), across, same)


def _ray_value(x: Any, *, right: float, left: float) -> FloatArray:
    """right * x for x > 0, -left * x otherwise."""
    x = np.asarray(x, dtype=float)
    result: FloatArray = np.where(x > 0.0, right, -left) * x
    return result


def _tlu(threshold: float) -> BaseFunction:
    """relu(x - threshold): relu's branches, joined elsewhere than at 0."""
    base = _ray(1.0, 0.0)
    return BaseFunction(
        value=lambda x: base.value(np.asarray(x) - threshold),
        derivative=lambda x: base.derivative(np.asarray(x) - threshold),
        spread=lambda middle, half: base.spread(np.asarray(middle) - threshold, half),
        kinked=True,
        strip=math.inf,
    )


def _ray_derivative(x: Any, *, right: float, left: float, at_zero: float) -> FloatArray:
    """right for x > 0, -left for x < 0."""
    x = np.asarray(x, dtype=float)
    return np.where(x > 0.0, right, np.where(x < 0.0, -left, at_zero))


def _ray_spread(middle: Any, half: Any, *, right: float, left: float) -> FloatArray:
    """Branch by branch; across 0 the arguments are as large as their difference."""
    middle, half = np.asarray(middle, dtype=float), np.asarray(half, dtype=float)
    value = partial(_ray_value, right=right, left=left)
    inside = 2.0 * half * np.where(middle > 0.0, right, -left)
    across = value(middle + half) - value(middle - half)
    return np.where(np.abs(half) > np.abs(middle), across, inside)


def _ray(right: float, left: float) -> BaseFunction:
    """right * relu(x) + left * relu(-x)."""
    smooth = right == -left
    return BaseFunction(
        value=partial(_ray_value, right=right, left=left),
        derivative=partial(
            _ray_derivative, right=right, left=left, at_zero=right if smooth else 0.0
        ),
        spread=partial(_ray_spread, right=right, left=left),
        kinked=not smooth,
        strip=math.inf,
        odd=smooth,
    )


def _elu(scale: float, alpha: float) -> BaseFunction:
    return BaseFunction(
        value=partial(_elu_value, scale=scale, alpha=alpha),
        derivative=partial(_elu_derivative, scale=scale, alpha=alpha),
        spread=partial(_elu_spread, scale=scale, alpha=alpha),
        kinked=True,
        strip=math.inf,
    )


_SMOOTH = {
    "tanh": BaseFunction(
        np.tanh, _tanh_derivative, _tanh_spread, kinked=False, strip=0.5 * math.pi, odd=True
    ),
    "erf": BaseFunction(
        special.erf,
        lambda x: (2.0 / _SQRT_PI) * np.exp(-np.square(x)),
        _erf_spread,
        kinked=False,
        strip=math.inf,
        odd=True,
    ),
    "gelu": BaseFunction(
        lambda x: x * special.ndtr(x),
        _gelu_derivative,
        partial(_gated_spread, gate=special.ndtr, gate_spread=_normal_spread),
        kinked=False,
        strip=math.inf,
    ),
    "silu": BaseFunction(
        lambda x: x * special.expit(x),
        _silu_derivative,
        partial(_gated_spread, gate=special.expit, gate_spread=_sigmoid_spread),
        kinked=False,
        strip=math.pi,
    ),
    "softplus": BaseFunction(
        lambda x: np.logaddexp(0.0, x),
        special.expit,
        _softplus_spread,
        kinked=False,
        strip=math.pi,
    ),
    "sin": BaseFunction(np.sin, np.cos, _sin_spread, kinked=False, strip=math.inf, odd=True),
    "elu": _elu(1.0, 1.0),
    "selu": _elu(_SELU_SCALE, _SELU_ALPHA),
}


@lru_cache(maxsize=256)
def base_function(activation: Activation) -> BaseFunction:
    """phi of ``activation.base`` as a BaseFunction; the affine output map is left out.

    Parameters
    ----------
    activation
        Any of the twelve names; ``scale`` and ``shift`` are ignored.
    """
    slopes = activation.ray_slopes
    if slopes is not None:
        return _ray(*slopes)
    if activation.threshold != 0.0:
        return _tlu(activation.threshold)
    return _SMOOTH[activation.name]
