"""Pools that span the layer, or no pool at all: the normalizer only rescales a Gaussian.

Over infinitely many channels the denominator is a number, R_a^2 = E[h_a^2] + eps, and the mean is
zero, so N(h) is Gaussian with the same correlations and phi's Gaussian duals are all there is:
plain networks, LayerNorm, RMSNorm and every weight scheme (theory notes, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from theory.errors import NumericalError
from theory.program import NormAct
from theory.routes import arccosine
from theory.routes.base import ROUNDING, SamplewiseRoute, Want, label
from theory.routes.functions import base_function
from theory.states.base import Block, Gradient, make
from theory.states.exchangeable import Exchangeable
from theory.states.full import Full

__all__ = ["ClosedLimit", "QuadratureLimit"]

# Second moments that quadratures take.
_SMALLEST, _LARGEST = 1e-60, 1e30


def _refusal(op: NormAct) -> str | None:
    norm = op.norm
    if norm is None:
        return None
    if norm.pool.samples:
        return f"{norm.name} pools samples"
    if norm.gate is not None:
        return f"{norm.name} has a gate"
    if norm.denominator == "none":
        return None
    if norm.pool.channels != math.inf:
        return f"{norm.name} pools finitely many channels"
    return None


def _scale(op: NormAct, q: Any) -> tuple[Any, float]:
    """(1/R^2, share): N(h)^2 has mean share * q / R^2; share is 1 - 1/G for centered finite groups."""
    norm = op.norm
    if norm is None:
        return 1.0, 1.0
    if norm.denominator == "none":
        channels = norm.pool.channels
        return 1.0, 1.0 - 1.0 / channels if norm.centered and channels != math.inf else 1.0
    return 1.0 / (q + norm.eps), 1.0


def _lifted(q: Any) -> Any:
    """A row of zeros as one of vanishing size, whose slopes are phi'(0): what windows of zeros are."""
    return np.where(q == 0.0, _SMALLEST, q)


def _together(q1: Any, q2: Any, gap: Any) -> Any:
    """Gaps, 0 between two rows of zeros, which are the same."""
    return np.where((q1 == 0.0) & (q2 == 0.0), 0.0, gap)


def _slopes(op: NormAct) -> tuple[float, float]:
    slopes = op.activation.ray_slopes
    assert slopes is not None
    return slopes


class ClosedLimit(SamplewiseRoute):
    """Positively homogeneous activations: arc-cosine kernels."""

    name = "closed form"

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        if op.activation.ray_slopes is None:
            return f"{op.activation.name} is not positively homogeneous"
        return _refusal(op)

    def single(self, op: NormAct, q: Any) -> tuple[Any, Any, float]:
        inverse, share = _scale(op, q)
        slopes = _slopes(op)
        scaled = q * (inverse * share)
        second_moment = arccosine.ray_second_moment(scaled, slopes=slopes)
        return second_moment, arccosine.ray_mean(scaled, slopes=slopes), ROUNDING

    def pair_gap(self, op: NormAct, q1: Any, q2: Any, gap: Any) -> tuple[Any, float]:
        return arccosine.ray_gap(gap, slopes=_slopes(op)), ROUNDING

    def slope(self, op: NormAct, q1: Any, q2: Any, gap: Any) -> tuple[Any, float]:
        inverse1, share = _scale(op, q1)
        inverse2, _ = _scale(op, q2)
        dual = arccosine.ray_slope(gap, slopes=_slopes(op))
        return share * dual * np.sqrt(inverse1 * inverse2), ROUNDING

    def fast_push(self, op: NormAct, *, exchangeable: bool) -> Callable[[Any], Any]:
        a, b = _slopes(op)
        norm = (a * a + b * b) / 2.0
        curved, straight = (a + b) ** 2 / (2.0 * norm), -a * b / norm
        mean_factor = (a + b) / math.sqrt(2.0 * math.pi)
        free = op.norm is None or op.norm.denominator == "none"
        eps = 0.0 if op.norm is None else op.norm.eps
        _, share = _scale(op, 1.0)
        kernel: Any = arccosine.one_minus_kappa1
        root: Any = np.sqrt
        if exchangeable:
            kernel, root = arccosine.one_minus_kappa1_scalar, math.sqrt

        def scaled(q: Any, exponent: int, q_error: float) -> tuple[Any, int, float]:
            if free:
                return q * share, exponent, q_error + ROUNDING
            if eps:
                return q / (q + eps), exponent, q_error + ROUNDING
            return q / q, 0, ROUNDING

        def push_scalars(state: Exchangeable) -> Exchangeable:
            if eps and state.exponent:
                state = state.unscaled()
            batch, q, gap, _, exponent, q_error, gap_error, _ = state
            if free:
                q, q_error = q * share, q_error + ROUNDING
            else:
                q, exponent, q_error = scaled(q, exponent, q_error)
            gap = (curved * kernel(gap) if curved else 0.0) + straight * gap
            gap_error += ROUNDING
            mean = mean_factor * root(q)
            entries = (batch, norm * q, gap, mean, exponent, q_error, gap_error, ROUNDING)
            return make(Exchangeable, entries)

        def push(state: Full) -> Full:
            if eps and state.exponent:
                state = state.unscaled()
            q, exponent, q_error = scaled(
                state.second_moment, state.exponent, state.second_moment_error
            )
            gap: Any = curved * kernel(state.gap) if curved else 0.0
            if straight:
                gap = gap + straight * state.gap
            gap_error = state.gap_error + ROUNDING
            return Full(
                norm * q, gap, mean_factor * root(q), exponent, q_error, gap_error, ROUNDING
            )

        return push_scalars if exchangeable else push

    def fast_pull(
        self, op: NormAct, *, exchangeable: bool
    ) -> Callable[[Any, Gradient], Gradient] | None:
        if not exchangeable:
            return None
        slopes = _slopes(op)
        free = op.norm is None or op.norm.denominator == "none"
        eps = 0.0 if op.norm is None else op.norm.eps
        _, share = _scale(op, 1.0)
        at_same = share * arccosine.ray_slope_scalar(0.0, slopes=slopes)

        def pull(state: Any, gradient: Gradient) -> Gradient:
            if eps and state.exponent:
                state = state.unscaled()
            same, pair = gradient.value
            inverse = 1.0 if free else 1.0 / (state.second_moment + eps)
            exponent = gradient.exponent
            if not free and not eps:
                exponent -= state.exponent
            same *= at_same * inverse
            if pair:
                slope = arccosine.ray_slope_scalar(state.gap, slopes=slopes)
                pair *= share * slope * inverse
            error = gradient.error + ROUNDING + (0.0 if free else state.second_moment_error)
            return make(Gradient, ((same, pair), exponent, error, 0.0))

        return pull


class QuadratureLimit(SamplewiseRoute):
    """Any other activation: quadrature over a bivariate Gaussian (closed for erf and sin)."""

    name = "quadrature"

    def refusal(self, op: NormAct, block: Block, want: Want) -> str | None:
        if op.activation.ray_slopes is not None:
            return f"{label(op)} with {op.activation.name} has a closed form"
        return _refusal(op)

    def single(self, op: NormAct, q: Any) -> tuple[Any, Any, float]:
        from theory.routes import gaussian

        inverse, share = _scale(op, q)
        scaled, base = q * inverse * share, op.activation.base
        zero = scaled == 0.0
        outside = ((scaled < _SMALLEST) & ~zero) | (scaled > _LARGEST)
        if np.any(outside) or np.all(zero):
            worst = np.max(scaled, where=outside, initial=0.0)
            raise NumericalError(
                f"the second moment before {op.activation.name} is {float(worst):.3g}, outside "
                f"[{_SMALLEST:g}, {_LARGEST:g}]: the signal has died or run away; use fewer layers or "
                "weight_variance nearer to the critical one"
            )
        second_moment, mean, error = gaussian.second_moment_and_mean(base, _lifted(scaled))
        if np.any(zero):
            at_zero = float(base_function(base).value(0.0))
            second_moment = np.where(zero, at_zero**2, second_moment)
            mean = np.where(zero, at_zero, mean)
        return second_moment, mean, float(np.max(error))

    def pair_gap(self, op: NormAct, q1: Any, q2: Any, gap: Any) -> tuple[Any, float]:
        from theory.routes import gaussian

        inverse1, share = _scale(op, q1)
        inverse2, _ = _scale(op, q2)
        first, second = q1 * inverse1 * share, q2 * inverse2 * share
        value, error = gaussian.pair_gap(
            op.activation.base, _lifted(first), _lifted(second), _together(first, second, gap)
        )
        return value, float(np.max(error))

    def slope(self, op: NormAct, q1: Any, q2: Any, gap: Any) -> tuple[Any, float]:
        from theory.routes import gaussian

        inverse1, share = _scale(op, q1)
        inverse2, _ = _scale(op, q2)
        first, second = q1 * inverse1 * share, q2 * inverse2 * share
        value, error = gaussian.slope(
            op.activation.base, _lifted(first), _lifted(second), _together(first, second, gap)
        )
        return share * value * np.sqrt(inverse1 * inverse2), float(np.max(error))
