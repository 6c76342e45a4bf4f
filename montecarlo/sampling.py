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
from theory.specs.inputs import CovarianceInputs, DataInputs, ExchangeableInputs, Inputs

__all__ = ["generator", "realize_inputs", "require_finite_batch", "seed_sequence"]

FloatArray = NDArray[np.float64]


def seed_sequence(seed: int, *key: int) -> np.random.SeedSequence:
    """Independent for each key: (width, network, layer) for weights, (width,) for the inputs."""
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


def realize_inputs(inputs: Inputs, *, width: int, seed: int, dtype: str) -> NDArray[Any]:
    """x^0 = sqrt(n) F (K - m m')^(1/2) + 1 m', of shape (n_0, B).

    The columns of F are orthonormal and orthogonal to (1, ..., 1), so x^0' x^0 = n K and the
    feature means are m: neither has a sampling error.  Gaussian, centered and normalized rows are
    invariant under rotations that keep (1, ..., 1), so the choice of F does not change the law of
    the network.  Data are taken as they are, transposed.

    Raises
    ------
    SpecificationError
        An infinite batch; a width that leaves no room for the frame; data beyond float32.
    """
    if isinstance(inputs, DataInputs):
        x = np.ascontiguousarray(inputs.features.T)
    else:
        require_finite_batch(inputs)
        batch = int(inputs.batch)
        if width <= batch + 1:
            raise out_of_domain(
                "width",
                width,
                f"larger than batch + 1 = {batch + 1} for these inputs",
                "widen the network or take fewer samples",
            )
        root, mean = _root_and_mean(inputs)
        directions = generator(seed, width).standard_normal((width, batch))
        directions -= directions.mean(axis=0)
        frame, _ = np.linalg.qr(directions)
        frame -= frame.mean(axis=0)
        x = math.sqrt(width) * (frame @ root) + mean
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(x, dtype=dtype)
    if not np.isfinite(cast).all():
        raise out_of_domain(
            "dtype", dtype, "able to hold the inputs", 'use dtype="float64" or rescale the data'
        )
    return cast


def _root_and_mean(inputs: ExchangeableInputs | CovarianceInputs) -> tuple[FloatArray, FloatArray]:
    """Symmetric root of K - m m', and m."""
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
