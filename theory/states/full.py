"""Full covariance over samples: a second moment per sample and a gap per pair."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.errors import HypothesisError
from theory.states.base import Block, Gradient, Moments, Observables
from theory.states.units import LARGE, SMALL, beyond_range, steps_of

__all__ = ["DISTANCE_FLOOR", "Full", "centered_rows", "squared_distances"]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_EPSILON = float(np.finfo(np.float64).eps)
# (sqrt q_a - sqrt q_b)^2 relative to q, for q's that are equal up to rounding.
DISTANCE_FLOOR = 1e-31


def squared_distances(second_moment: FloatArray, gap: FloatArray) -> FloatArray:
    """E[(x_a - x_b)^2] = (sqrt q_a - sqrt q_b)^2 + 2 sqrt(q_a q_b) gap_ab, all terms >= 0.

    The first term as ((q_a - q_b)/(sqrt q_a + sqrt q_b))^2: the difference of the q is exact.
    """
    root = np.sqrt(second_moment)
    total = root[:, None] + root[None, :]
    difference = np.divide(
        second_moment[:, None] - second_moment[None, :],
        total,
        out=np.zeros_like(total),
        where=total > 0.0,
    )
    distance = difference**2 + 2.0 * np.outer(root, root) * gap
    np.fill_diagonal(distance, 0.0)
    return distance


@dataclass(frozen=True, eq=False, slots=True)
class Full:
    """K_ab = sqrt(q_a q_b) (1 - gap_ab) * 4**exponent, mean m_a * 2**exponent."""

    second_moment: FloatArray
    gap: FloatArray
    mean: FloatArray
    exponent: int = 0
    second_moment_error: float = 0.0
    gap_error: float = 0.0
    local_error: float = 0.0

    @property
    def batch(self) -> int:
        """Number of samples."""
        return len(self.second_moment)

    def covariance(self) -> FloatArray:
        """K, shape (B, B), in units of 4**exponent."""
        root = np.sqrt(self.second_moment)
        return np.outer(root, root) * (1.0 - self.gap)

    def block(self) -> Block:
        """Arrays q (B,) and gap (B, B)."""
        return Block(self.second_moment, self.gap, self.batch, False)

    def linear(self, weight_variance: float, *, centered: bool) -> Full:
        """sigma_w^2 K or sigma_w^2 (K - m m')."""
        q, gap, exponent = self.second_moment, self.gap, self.exponent
        q_error, gap_error = self.second_moment_error, self.gap_error
        if centered and self.mean.any():
            q, gap, inflation, lost = _centered(q, gap, self.mean)
            # q and m^2 inherit the same relative error; only what the last route added is inflated.
            q_error += (inflation - 1.0) * self.local_error
            gap_error += (inflation - 1.0) * self.local_error + lost
        q = q * weight_variance
        largest = max(q.tolist())
        if not SMALL < largest < LARGE:
            steps = steps_of(largest)
            q, exponent = q * 4.0**-steps, exponent + steps
        return Full(q, gap, np.zeros_like(q), exponent, q_error, gap_error)

    def rebuilt(self, moments: Moments, *, exponent: int, local_error: float) -> Full:
        """Same samples, new moments; errors accumulate (see ``State``)."""
        q_error, gap_error = moments.error
        # Distances are known to the squared rounding of the sqrt(q): a floor for collapsing samples.
        off = moments.gap[moments.gap > 0.0]
        floor = DISTANCE_FLOOR / float(off.min()) if off.size else 0.0
        return Full(
            _per_sample(moments.second_moment, self.batch),
            moments.gap,
            _per_sample(moments.mean, self.batch),
            exponent,
            q_error,
            self.gap_error + gap_error + floor,
            local_error,
        )

    def unscaled(self) -> Full:
        """Fold 4**exponent into q and m."""
        if self.exponent == 0:
            return self
        with np.errstate(over="ignore"):
            q = np.ldexp(self.second_moment, 2 * self.exponent)
            mean = np.ldexp(self.mean, self.exponent)
        if not (np.isfinite(q).all() and (q > 0).all()):
            raise beyond_range(self.exponent)
        return replace(self, second_moment=q, mean=mean, exponent=0)

    @staticmethod
    def observe(states: Sequence[Full]) -> Observables:
        """Means over samples and over pairs of samples."""
        b = states[0].batch
        q = np.array([state.second_moment for state in states])
        gap = np.array([state.gap for state in states])
        shift = np.array([state.exponent for state in states]) * math.log(4.0)
        # Variance over samples = mean squared distance / 2, which needs no subtraction.
        root = np.sqrt(q)
        spread = ((root - root.mean(axis=1, keepdims=True)) ** 2).mean(axis=1)
        variance = spread + np.einsum("la,lab,lb->l", root, gap, root, optimize=True) / b**2
        mean_gap = gap.sum(axis=(1, 2)) / (b * (b - 1)) if b > 1 else np.zeros(len(states))
        with np.errstate(divide="ignore"):
            log_variance = np.log(variance) + shift
        return Observables(
            np.log(q.mean(axis=1)) + shift,
            log_variance,
            1.0 - mean_gap,
            mean_gap,
            np.array([state.second_moment_error for state in states]),
            np.array([state.gap_error for state in states]),
        )

    @staticmethod
    def stable_rank(states: Sequence[Full]) -> FloatArray:
        """B / largest eigenvalue of the cosine matrix."""
        gap = np.array([state.gap for state in states])
        return np.asarray(states[0].batch / np.linalg.eigvalsh(1.0 - gap)[:, -1])

    @staticmethod
    def log_squared_norm(gradients: Sequence[Gradient]) -> FloatArray:
        """log tr Pi / B."""
        trace = np.array([np.trace(g.value) / len(g.value) for g in gradients])
        exponent = np.array([g.exponent for g in gradients])
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(trace) + exponent * math.log(4.0))

    def cotangent(self) -> Gradient:
        """Pi = I."""
        return Gradient(np.eye(self.batch), 0, 0.0)


def _centered(
    q: FloatArray, gap: FloatArray, mean: FloatArray
) -> tuple[FloatArray, FloatArray, float, float]:
    """q - m^2 and gap' = sqrt(q_a q_b) (gap - 1 + cos(theta_a - theta_b)) / sqrt(q'_a q'_b).

    With m = sqrt(q) sin(theta): proportional rows have equal angles, so that gap 0 stays 0 to squared
    rounding however different the q are.  Then the error's inflation, and digits lost.
    """
    centered = q - mean**2
    if (centered <= 1e-15 * q).any():
        worst = int(np.argmin(centered / q))
        raise HypothesisError(
            f"sample {worst} has the same value in every feature, so nothing is left once the "
            "weights' rows are centered; drop it, or use inputs with feature variance"
        )
    root, size = np.sqrt(centered), np.sqrt(q)
    outer, norms = np.outer(root, root), np.outer(size, size)
    products = np.outer(mean, root)
    sine = (products - products.T) / norms
    cosine = (np.outer(mean, mean) + outer) / norms
    # 1 - cos = sin^2/(1 + cos) where angles are close.
    turn = np.where(cosine > 0.0, sine**2 / (1.0 + np.maximum(cosine, 0.0)), 1.0 - cosine)
    new_gap = norms * (gap - turn) / outer
    np.fill_diagonal(new_gap, 0.0)
    # Roundings of the turn, and of the sine in it: means are known to the rounding of the features.
    slip = turn + 4.0 * np.abs(sine)
    apart = new_gap > 0.0
    lost = _EPSILON * ((norms * slip)[apart] / (outer * new_gap)[apart]).max(initial=0.0)
    return centered, np.clip(new_gap, 0.0, 2.0), float((q / centered).max()), float(lost)


def centered_rows(state: Full, *, constant: Callable[[BoolArray], None]) -> Full:
    """K - m m' where rows may be left without variance: those get q = 0 and gap 1.

    ``constant`` is told which, and raises if that is an error.
    """
    q, mean = state.second_moment, state.mean
    still = q - mean**2 <= 1e-15 * q
    constant(still)
    kept = np.flatnonzero(~still)
    new_q, new_gap = np.zeros_like(q), np.ones_like(state.gap)
    np.fill_diagonal(new_gap, 0.0)
    both = np.ix_(kept, kept)
    parts = _centered(q[kept], state.gap[both], mean[kept])
    new_q[kept], new_gap[both], inflation, lost = parts
    excess = (inflation - 1.0) * state.local_error
    return Full(
        new_q,
        new_gap,
        np.zeros_like(q),
        state.exponent,
        state.second_moment_error + excess,
        state.gap_error + excess + lost,
    )


def _per_sample(value: Any, batch: int) -> FloatArray:
    return value if np.shape(value) == (batch,) else np.full(batch, value)
