"""Seeds, SeedSequence(seed, spawn_key=(width, network, layer)), and x^0 with an exact Gram matrix.

A network's random numbers depend on the seed, the width and its own index alone, so results do not
depend on the number of workers, on their order, or on how many networks are drawn.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.errors import out_of_domain
from theory.specs.images import ImageInputs
from theory.specs.inputs import (
    CovarianceInputs,
    DataInputs,
    ExchangeableInputs,
    Inputs,
)
from theory.specs.spatial import SpatialInputs

__all__ = ["generator", "realize_inputs", "require_finite_batch", "seed_sequence"]

FloatArray = NDArray[np.float64]


def seed_sequence(seed: int, *key: int) -> np.random.SeedSequence:
    """Independent for each key: (width, network, layer) for weights, (width,) for shared inputs."""
    return np.random.SeedSequence(entropy=seed, spawn_key=key)


def generator(seed: int, *key: int) -> np.random.Generator:
    """Generator of the stream ``key``."""
    return np.random.Generator(np.random.SFC64(seed_sequence(seed, *key)))


def require_finite_batch(inputs: Inputs) -> None:
    """Raise SpecificationError for an infinite batch."""
    if inputs.batch == math.inf:
        raise out_of_domain(
            "batch", inputs.batch, "finite in a simulation", "give the number of samples"
        )


def realize_inputs(
    inputs: Inputs, *, width: int, seed: int, dtype: str, key: tuple[int, ...] = ()
) -> NDArray[Any]:
    """x^0 = sqrt(n_0) F (K - m m')^(1/2) + 1 m', of shape (n_0, B), or (n_0, B S) with positions.

    The columns of F are orthonormal and orthogonal to (1, ..., 1), so x^0' x^0 = n K and the
    feature means are m: neither has a sampling error.  Gaussian, centered and normalized rows are
    invariant under rotations that keep (1, ..., 1), so the choice of F does not change the law of
    a network that begins with them; for one that does not, ``key`` draws an F of its own.  n_0 is
    the width, or as much more as the frame needs.  Data are taken as they are, transposed.

    Raises
    ------
    SpecificationError
        An infinite batch; data beyond float32.
    """
    if isinstance(inputs, DataInputs):
        x = np.ascontiguousarray(inputs.features.T)
    elif isinstance(inputs, ImageInputs):
        x = np.ascontiguousarray(inputs.points.T)
    else:
        require_finite_batch(inputs)
        root, mean = _root_and_mean(inputs)
        columns = len(root)
        features = max(width, columns + 2)
        directions = generator(seed, width, *key).standard_normal((features, columns))
        directions -= directions.mean(axis=0)
        frame, _ = np.linalg.qr(directions)
        frame -= frame.mean(axis=0)
        x = math.sqrt(features) * (frame @ root) + mean
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(x, dtype=dtype)
    if not np.isfinite(cast).all():
        raise out_of_domain(
            "dtype", dtype, "able to hold the inputs", 'use dtype="float64" or rescale the data'
        )
    return cast


def _root_and_mean(
    inputs: ExchangeableInputs | SpatialInputs | CovarianceInputs,
) -> tuple[FloatArray, FloatArray]:
    """Symmetric root of K - m m', and m."""
    if isinstance(inputs, SpatialInputs):
        return _spatial_root(inputs), np.full(
            int(inputs.batch) * inputs.positions, inputs.feature_mean
        )
    if isinstance(inputs, CovarianceInputs):
        mean = inputs.feature_mean
        values, vectors = np.linalg.eigh(inputs.covariance - np.outer(mean, mean))
        return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T, mean
    batch, q, m = int(inputs.batch), inputs.second_moment, inputs.feature_mean
    # Written with the gap: samples as close as 1 - c = 1e-14 keep their distance.
    contrast = math.sqrt(q * inputs.gap)
    common = math.sqrt(max(batch * (q * (1.0 - inputs.gap) - m * m) + q * inputs.gap, 0.0))
    average = np.full((batch, batch), 1.0 / batch)
    root = contrast * (np.eye(batch) - average) + common * average
    return root, np.full(batch, m)


def _spatial_root(inputs: SpatialInputs) -> FloatArray:
    """Sum of sqrt(eigenvalue) x projection over contrasts and means of samples and of positions."""
    batch, positions = int(inputs.batch), inputs.positions
    q, m2 = inputs.second_moment, inputs.feature_mean**2 / inputs.second_moment
    contrast, mean, far, mean_far = inputs.eigenvalues
    samples, places = np.full((batch, batch), 1.0 / batch), np.full((positions,) * 2, 1 / positions)
    apart, elsewhere = np.eye(batch) - samples, np.eye(positions) - places
    # Across samples the eigenvalues fall short of lambda by the distance D: D, and B lambda - (B-1) D.
    modes = (
        (far, apart, elsewhere),
        (mean_far, apart, places),
        (batch * contrast - (batch - 1) * far, samples, elsewhere),
        (batch * (mean - positions * m2) - (batch - 1) * mean_far, samples, places),
    )
    root = np.zeros((batch * positions,) * 2)
    for value, over_samples, over_positions in modes:
        root += math.sqrt(max(q * value, 0.0)) * np.kron(over_samples, over_positions)
    return root
