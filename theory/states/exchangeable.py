"""Exchangeable over samples: one second moment, one gap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.errors import HypothesisError
from theory.states.base import Block, Gradient, Moments, Observables, make
from theory.states.readings import log_own_variance, stable_rank_of_equals
from theory.states.units import LARGE, SMALL, beyond_range, steps_of

__all__ = ["Exchangeable", "centered_moments"]

FloatArray = NDArray[np.float64]


class Exchangeable(NamedTuple):
    """Every sample has E[x^2] = second_moment * 4**exponent; every pair has cosine 1 - gap."""

    batch: float
    second_moment: float
    gap: float
    mean: float = 0.0
    exponent: int = 0
    second_moment_error: float = 0.0
    gap_error: float = 0.0
    local_error: float = 0.0

    def block(self) -> Block:
        """Scalars q and gap."""
        return Block(self.second_moment, self.gap, self.batch, True)

    def linear(self, weight_variance: float, *, centered: bool) -> Exchangeable:
        """q' = sigma_w^2 q, gap' = gap; centered: q - m^2 for q and q gap/(q - m^2) for gap."""
        b, q, gap, mean, exponent, q_error, gap_error, local = self
        if centered and mean:
            q, gap, inflation = centered_moments(q, gap, mean)
            # q and m^2 inherit the same relative error; only what the last route added is inflated.
            q_error += (inflation - 1.0) * local
            gap_error += (inflation - 1.0) * local
        q *= weight_variance
        if not SMALL < q < LARGE:
            steps = steps_of(q)
            q, exponent = q * 4.0**-steps, exponent + steps
        return make(Exchangeable, (b, q, gap, 0.0, exponent, q_error, gap_error, 0.0))

    def rebuilt(self, moments: Moments, *, exponent: int, local_error: float) -> Exchangeable:
        """Same batch, new moments; errors accumulate (see ``State``)."""
        q_error, gap_error = moments.error
        return Exchangeable(
            self.batch,
            float(moments.second_moment),
            float(moments.gap),
            float(moments.mean),
            exponent,
            q_error,
            self.gap_error + gap_error,
            local_error,
        )

    def unscaled(self) -> Exchangeable:
        """Fold 4**exponent into q and m."""
        if self.exponent == 0:
            return self
        try:
            scale = 4.0**self.exponent
            q, mean = self.second_moment * scale, self.mean * math.sqrt(scale)
        except OverflowError:
            q = mean = math.inf
        if not 0.0 < q < math.inf:
            raise beyond_range(self.exponent)
        return self._replace(second_moment=q, mean=mean, exponent=0)

    @staticmethod
    def observe(states: Sequence[Exchangeable]) -> Observables:
        """Over samples, variance = q gap (B-1)/B with ddof = 0."""
        b = states[0].batch
        # One array of all entries, for which NumPy takes twice the time from tuples.
        table = np.fromiter(chain.from_iterable(states), np.float64, len(states) * len(states[0]))
        _, q, gap, _, exponent, q_error, gap_error, _ = table.reshape(len(states), -1).T
        with np.errstate(divide="ignore"):
            log_q = np.log(q) + exponent * math.log(4.0)
            log_variance = log_q + np.log(gap if b == math.inf else gap * (1.0 - 1.0 / b))
        return Observables(log_q, log_variance, 1.0 - gap, gap, q_error, gap_error)

    @staticmethod
    def stable_rank(states: Sequence[Exchangeable]) -> FloatArray:
        """B / max(1 + (B-1)s, 1 - s)."""
        return stable_rank_of_equals(states[0].batch, np.array([state.gap for state in states]))

    @staticmethod
    def log_squared_norm(gradients: Sequence[Gradient]) -> FloatArray:
        """log Pi_aa."""
        return log_own_variance(gradients)

    def cotangent(self) -> Gradient:
        """Pi_aa = 1, Pi_ab = 0."""
        return Gradient((1.0, 0.0), 0, 0.0)


def centered_moments(q: float, gap: float, mean: float) -> tuple[float, float, float]:
    """(q - m^2, q gap/(q - m^2), q/(q - m^2)): second moment, gap and error inflation about the mean."""
    centered = q - mean * mean
    if centered <= 1e-15 * q:
        raise HypothesisError(
            f"the features have mean square {q:.6g} and mean {mean:.6g}, so nothing is left once the "
            "weights' rows are centered; use inputs or an activation with feature variance"
        )
    inflation = q / centered
    return centered, gap * inflation, inflation
