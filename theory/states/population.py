r"""A population of channels: the state of a stream that is not Gaussian.

Channels of an infinitely wide network are independent copies of one random vector over the samples.
Where that vector is not Gaussian (phi(x + N(W x)) and its kin) it is represented by M draws, in P
independent populations.  Each population is its own mean field: what the next linear map needs,
E[x_a x_b] and E[x_a], are averages over its channels, so populations give an error bar and channels
do not.

A covariance of exchangeable samples has two eigenvalues, on the mean over samples and on contrasts:

    mean = q + (B-1) p,   contrast = q - p,   gap = contrast / q.

Over positions that are alike there are four: see ``position_modes``.

Source: theory notes, sections 1 and 5.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.errors import NumericalError
from theory.states.position_modes import PositionModes, position_field, position_modes

__all__ = ["Modes", "Population", "gaussian_field", "modes", "within"]

FloatArray = NDArray[np.float64]

# Powers of two, so that rescaling is exact, far enough from the ends that squares fit.
_STEP = 200
_LARGE = 2.0**_STEP


class Modes(NamedTuple):
    """Eigenvalues of an exchangeable second-moment matrix, one pair per population.

    ``mean`` is q + (B-1) p, ``contrast`` q - p (zero for one sample).
    """

    mean: FloatArray
    contrast: FloatArray
    batch: int

    @property
    def second_moment(self) -> FloatArray:
        """q = (mean + (B-1) contrast)/B."""
        return (self.mean + (self.batch - 1) * self.contrast) / self.batch

    @property
    def gap(self) -> FloatArray:
        """1 - p/q = contrast/q."""
        q = self.second_moment
        return np.divide(self.contrast, q, out=np.zeros_like(q), where=q > 0.0)

    def scaled(self, factor: float) -> Modes:
        """The same of a covariance times ``factor``."""
        return Modes(factor * self.mean, factor * self.contrast, self.batch)


class Population(NamedTuple):
    """Channels of P populations: x = values * 2**exponent, values of shape (P, B, M) or (P, B, S, M)."""

    values: FloatArray
    exponent: int = 0

    def modes(self) -> Modes | PositionModes:
        """Second moments of ``values`` (in units of 4**exponent)."""
        return modes(self.values)

    def mean(self) -> FloatArray:
        """E[x] over all but populations, one each, in units of 2**exponent."""
        return np.asarray(self.values.mean(axis=within(self.values)))

    def covariance(self, *, centered: bool) -> Modes | PositionModes:
        """What a linear map sees: K, or K - m m' with centered rows."""
        if not centered:
            return self.modes()
        return modes(self.values - self.values.mean(axis=within(self.values), keepdims=True))

    def linear(
        self,
        weight_variance: float,
        *,
        centered: bool,
        rng: np.random.Generator,
        beside: FloatArray | None = None,
    ) -> Population:
        """h = W x: Gaussian with covariance sigma_w^2 K of its own population.

        ``beside`` is what h will be added to (see ``gaussian_field``).
        """
        covariance, exponent = self.covariance(centered=centered), self.exponent
        size = float(np.max(covariance.second_moment))
        if not 1.0 / _LARGE < size < _LARGE and 0.0 < size < math.inf:
            steps = math.frexp(size)[1] // 2
            covariance, exponent = covariance.scaled(math.ldexp(1.0, -2 * steps)), exponent + steps
        covariance = covariance.scaled(weight_variance)
        field = gaussian_field(covariance, shape=self.values.shape, rng=rng, beside=beside)
        return Population(field, exponent)

    def plus(self, other: Population, *, own: float, others: float) -> Population:
        """own * self + others * other, in the larger of the two units."""
        exponent = max(self.exponent, other.exponent)
        mine = _shifted(own * self.values, self.exponent - exponent)
        return Population(
            mine + _shifted(others * other.values, other.exponent - exponent), exponent
        )

    def unscaled(self) -> Population:
        """The same with exponent 0; NumericalError if that overflows."""
        if self.exponent == 0:
            return self
        with np.errstate(over="ignore"):
            values = _shifted(self.values, self.exponent)
        if not np.isfinite(values).all():
            raise NumericalError(
                f"the stream reached 2**{self.exponent} and this branch is not scale free; use fewer "
                "blocks, a normalizer in the branch or a smaller branch factor"
            )
        return Population(values, 0)

    def rescaled(self) -> Population:
        """The same with values near 1 where they ran away."""
        size = float(np.abs(self.values).max(initial=0.0))
        if not math.isfinite(size):
            raise NumericalError(
                "the stream left the range of floating-point numbers within one block; use smaller "
                "weight_variance or branch factor"
            )
        if 1.0 / _LARGE < size < _LARGE or size == 0.0:
            return self
        steps = math.frexp(size)[1]
        return Population(np.ldexp(self.values, -steps), self.exponent + steps)


def within(values: FloatArray) -> tuple[int, ...]:
    """Axes of samples, positions and channels: all but the populations'."""
    return tuple(range(1, values.ndim))


def modes(values: FloatArray) -> Modes | PositionModes:
    """(B E[mean over samples ^2], E[sum of squared contrasts]/(B-1)) per population."""
    if values.ndim == 4:
        return position_modes(values)
    batch, channels = values.shape[1:]
    common = values.mean(axis=1)
    mean = batch * np.einsum("pm,pm->p", common, common) / channels
    if batch == 1:
        return Modes(mean, np.zeros_like(mean), 1)
    contrasts = values - common[:, None]
    contrast = np.einsum("pbm,pbm->p", contrasts, contrasts) / (channels * (batch - 1))
    return Modes(mean, contrast, batch)


def gaussian_field(
    covariance: Modes | PositionModes,
    *,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    beside: FloatArray | None = None,
) -> FloatArray:
    """Standard normal draws, half of them mirrored, brought to exactly ``covariance``.

    Moments that theory knows exactly need not fluctuate: a field without odd moments, with both
    eigenvalues and, mode by mode, zero correlation with ``beside`` (the stream that it will be added
    to) leaves a stream's second moment only the noise of its nonlinearity, tens of times less than
    independent draws.  Four sums are fixed out of B M/2 numbers: a bias of O(1/(B M)).

    Parameters
    ----------
    covariance
        Eigenvalues per population.
    shape
        (P, B, M) or (P, B, S, M), M even.
    beside
        Array of that shape, or None.
    """
    if isinstance(covariance, PositionModes):
        return position_field(covariance, shape=shape, rng=rng, beside=beside)
    populations, batch, channels = shape
    half = rng.standard_normal((populations, batch, channels // 2))
    z = np.concatenate((half, -half), axis=2)
    common = z.mean(axis=1)
    common_size = np.einsum("pm,pm->p", common, common)
    size = 2.0 * np.einsum("pbm,pbm->p", half, half) - batch * common_size
    level = drift = None
    if beside is not None:
        base = beside.mean(axis=1)
        level = base - base.mean(axis=1, keepdims=True)
        slope = _share(np.einsum("pm,pm->p", level, common), np.einsum("pm,pm->p", level, level))
        common_size -= slope * np.einsum("pm,pm->p", level, common)
        level *= slope[:, None]
        if batch > 1:
            drift = beside - base[:, None]
            drift -= drift.mean(axis=2, keepdims=True)
            overlap = np.einsum("pbm,pbm->p", drift, z)
            slope = _share(overlap, np.einsum("pbm,pbm->p", drift, drift))
            size -= slope * overlap
            drift *= slope[:, None, None]
    a = np.sqrt(covariance.mean * channels / (batch * common_size))[:, None]
    if batch == 1:
        return (a * (common if level is None else common - level))[:, None]
    b = np.sqrt(covariance.contrast * channels * (batch - 1) / size)[:, None]
    # h = a (common - level) + b (z - common - drift), with as few passes as possible.
    if drift is not None:
        z -= drift
    z *= b[:, :, None]
    common *= a - b
    if level is not None:
        common -= a * level
    z += common[:, None]
    return z


def _share(overlap: FloatArray, size: FloatArray) -> FloatArray:
    """overlap/size, and 0 where the stream has no such mode."""
    return np.divide(overlap, size, out=np.zeros_like(size), where=size > 0.0)


def _shifted(values: FloatArray, steps: int) -> Any:
    return values if steps == 0 else np.ldexp(values, steps)
