"""Batches on a ring or torus whose covariance depends on the lag of two positions alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.errors import out_of_domain
from theory.specs._arrays import numeric
from theory.specs.images import ImageInputs
from theory.specs.inputs import CovarianceInputs, from_covariance
from theory.specs.shifts import spread

__all__ = ["stationary", "stationary_from_data"]

FloatArray = NDArray[np.float64]


def stationary(covariance: Any, *, feature_mean: Any = 0.0) -> CovarianceInputs:
    """A batch x^0 with <x_(a,p), x_(b,p+l)>/n = k_ab(l), whatever p: circulant blocks.

    ``predict`` sees this in any covariance that has it exactly, and takes the pairs of position 0 with
    every lag instead of all pairs, as long as convolutions are circular.  Source: theory notes, section 1.

    Parameters
    ----------
    covariance
        k, shape (B, B, S) for a ring, (B, B, H, W) for a torus, lag 0 first; k_ab(l) = k_ba(-l),
        lags modulo the sides.
    feature_mean
        Number, or one per sample.

    Raises
    ------
    SpecificationError
        Another shape, not symmetric, not positive semidefinite, NaN, or a zero sample.
    """
    lags = numeric("covariance", covariance)
    if lags.ndim not in (3, 4) or lags.shape[0] != lags.shape[1] or lags.size == 0:
        raise out_of_domain(
            "covariance",
            lags.shape,
            "an array of shape (B, B, S) or (B, B, H, W)",
            "give k_ab(lag) for every pair of samples, k[None, None] for a single one",
        )
    batch, shape = len(lags), lags.shape[2:]
    mean = numeric("feature_mean", feature_mean)
    if mean.shape not in ((), (batch,)):
        raise out_of_domain(
            "feature_mean", mean.shape, f"a number or shape ({batch},)", "one mean per sample"
        )
    size = math.prod(shape)
    rows = np.repeat(np.broadcast_to(mean, batch), size)
    return from_covariance(
        spread(lags.reshape(batch, batch * size), shape), feature_mean=rows, positions=shape
    )


def stationary_from_data(features: Any) -> CovarianceInputs:
    """The stationary batch nearest to real images: k_ab(l) = mean over p and channels of x_a(p) x_b(p+l).

    All shifts of every image with equal weight, by FFT: k_ab = F^-1[conj(F x_a) F x_b]/S.

    Parameters
    ----------
    features
        Array of shape (B, channels, S) or (B, channels, H, W).

    Raises
    ------
    SpecificationError
        As ``images``.
    """
    data = ImageInputs(features)
    x, axes = data.features, tuple(range(2, 2 + len(data.shape)))
    waves = np.fft.fftn(x, axes=axes)
    power = np.einsum("ac...,bc...->ab...", waves.conj(), waves, optimize=True)
    lags = np.fft.ifftn(power, axes=axes).real / (data.channels * data.positions)
    return stationary(lags, feature_mean=x.reshape(data.batch, -1).mean(axis=1))
