"""Exchangeable over samples and over positions: four numbers, kept as eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.errors import HypothesisError
from theory.routes.positions_spectrum import PositionSpectrum
from theory.states.base import Block, Gradient, Observables
from theory.states.readings import log_own_variance, stable_rank_of_equals
from theory.states.units import LARGE, SMALL, beyond_range, steps_of

__all__ = ["Spatial"]

FloatArray = NDArray[np.float64]


class Spatial(NamedTuple):
    """B samples x S positions: q, w, b, x as the eigenvalues of ``spectrum``, times 4**exponent.

    Two samples are compared over all channels and positions, so their cosine is b/q: ``gap`` is
    1 - b/q.  ``gap_error`` bounds the relative error of every gap.
    """

    batch: float
    spectrum: PositionSpectrum
    mean: float = 0.0
    exponent: int = 0
    second_moment_error: float = 0.0
    gap_error: float = 0.0
    local_error: float = 0.0

    @property
    def second_moment(self) -> float:
        """E[x^2], in units of 4**exponent."""
        return self.spectrum.second_moment

    @property
    def gap(self) -> float:
        """1 - b/q: other sample, same position."""
        return self.spectrum.gaps()[1]

    def block(self) -> Block:
        """The spectrum, with q and the gap between samples at the same position."""
        return Block(self.second_moment, self.gap, self.batch, True, self.spectrum)

    def linear(self, weight_variance: float, *, centered: bool) -> Spatial:
        """Sigma' = sigma_w^2 (K - m m' if centered): m^2 leaves the mode of the position means alone."""
        spectrum, q_error, gap_error = self.spectrum, self.second_moment_error, self.gap_error
        if centered and self.mean:
            q, m2 = spectrum.second_moment, self.mean**2
            if q - m2 <= 1e-15 * q:
                raise HypothesisError(
                    f"the features have mean square {q:.6g} and mean {self.mean:.6g}, so nothing is "
                    "left once the weights' rows are centered; use inputs or an activation with "
                    "feature variance"
                )
            spectrum = spectrum._replace(mean=spectrum.mean - spectrum.positions * m2)
            excess = q / (q - m2) - 1.0
            q_error += excess * self.local_error
            gap_error += excess * self.local_error
        spectrum, exponent = spectrum.scaled(weight_variance), self.exponent
        if not SMALL < spectrum.second_moment < LARGE:
            steps = steps_of(spectrum.second_moment)
            spectrum, exponent = spectrum.scaled(4.0**-steps), exponent + steps
        return Spatial(self.batch, spectrum, 0.0, exponent, q_error, gap_error)

    def unscaled(self) -> Spatial:
        """Fold 4**exponent into the spectrum and the mean."""
        if self.exponent == 0:
            return self
        try:
            spectrum = self.spectrum.scaled(4.0**self.exponent)
            mean = self.mean * 2.0**self.exponent
        except OverflowError:
            spectrum, mean = self.spectrum.scaled(math.inf), math.inf
        if not 0.0 < spectrum.second_moment < math.inf:
            raise beyond_range(self.exponent)
        return self._replace(spectrum=spectrum, mean=mean, exponent=0)

    def covariance(self) -> FloatArray:
        """Matrix over (sample, position), samples outermost, in units of 4**exponent."""
        b, s, q = int(self.batch), self.spectrum.positions, self.second_moment
        gap_w, gap_b, gap_x = self.spectrum.gaps()
        same = np.full((s, s), q * (1.0 - gap_w))
        other = np.full((s, s), q * (1.0 - gap_x))
        np.fill_diagonal(same, q)
        np.fill_diagonal(other, q * (1.0 - gap_b))
        return np.kron(np.eye(b), same) + np.kron(1.0 - np.eye(b), other)

    @staticmethod
    def observe(states: Sequence[Spatial]) -> Observables:
        """Variance over (samples, positions), ddof = 0: q - mean of all B^2 S^2 covariances."""
        b, s = states[0].batch, states[0].spectrum.positions
        q = np.array([state.second_moment for state in states])
        gap_w, gap_b, gap_x = np.array([state.spectrum.gaps() for state in states]).T
        own, others = (0.0, 1.0) if b == math.inf else (1.0 / b, 1.0 - 1.0 / b)
        spread = (own * (s - 1) * gap_w + others * (gap_b + (s - 1) * gap_x)) / s
        exponent = np.array([state.exponent for state in states])
        with np.errstate(divide="ignore"):
            log_q = np.log(q) + exponent * math.log(4.0)
            log_variance = log_q + np.log(spread)
        errors = np.array([(state.second_moment_error, state.gap_error) for state in states])
        return Observables(log_q, log_variance, 1.0 - gap_b, gap_b, errors[:, 0], errors[:, 1])

    @staticmethod
    def stable_rank(states: Sequence[Spatial]) -> FloatArray:
        """B / max(1 + (B-1)s, 1 - s), s the cosine of two flattened samples."""
        return stable_rank_of_equals(states[0].batch, np.array([state.gap for state in states]))

    @staticmethod
    def log_squared_norm(gradients: Sequence[Gradient]) -> FloatArray:
        """log of Pi at the same sample and position."""
        return log_own_variance(gradients)

    def cotangent(self) -> Gradient:
        """Pi_q = 1, Pi_w = Pi_b = Pi_x = 0."""
        return Gradient((1.0, 0.0, 0.0, 0.0), 0, 0.0)
