"""Arrays of pre-activations for laws of the simulation: h of shape (channels, samples * positions)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from numpy.typing import NDArray

from theory.specs.networks import Layer
from theory.specs.normalizers import batch_norm, group_norm
from theory.specs.weights import gaussian
from theory.testing.checks import Layers
from theory.testing.strategies import layers, normalizers, seeds

__all__ = ["Pooled", "any_norm", "pooled", "pooled_corners"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Pooled:
    """A layer's normalizer and activation, and the h that they act on, by its seed.

    h = spread z + offset, z standard normal.
    """

    layer: Layer
    channels: int
    samples: int
    positions: int
    seed: int = 0
    spread: float = 1.0
    offset: float = 0.0

    @property
    def h(self) -> FloatArray:
        """Pre-activations, shape (channels, samples * positions)."""
        shape = (self.channels, self.samples * self.positions)
        return self.spread * self.rng(0).standard_normal(shape) + self.offset

    def rng(self, stream: int) -> np.random.Generator:
        """Independent random numbers for each ``stream`` >= 1; 0 is h itself."""
        return np.random.default_rng([self.seed, stream])

    @property
    def pool_shape(self) -> tuple[int, int, int]:
        """Channels, samples and positions in one pool."""
        norm = self.layer.norm
        if norm is None:
            return 1, 1, 1
        group = self.channels if norm.pool.channels == math.inf else int(norm.pool.channels)
        return (
            group,
            self.samples if norm.pool.samples else 1,
            self.positions if norm.pool.positions else 1,
        )

    def blocks(self, values: FloatArray) -> FloatArray:
        """(n, B S) -> (n/G, G, B, S): pools are axes 1, and 2 and 3 where the pool runs over them."""
        group = self.pool_shape[0]
        return values.reshape(self.channels // group, group, self.samples, self.positions)

    def condition(self, h: FloatArray | None = None, *, eps: float | None = None) -> float:
        """|h|/R at its largest: what N(h) makes of relative roundings of h, and its gradient squared."""
        norm = self.layer.norm
        values = self.blocks(self.h if h is None else h)
        if norm is None or norm.denominator == "none":
            return 1.0 + float(np.abs(values).max())
        rms = norm.denominator == "rms"
        source = values if rms else values - values.mean(axis=self.axes, keepdims=True)
        square = (source**2).mean(axis=self.axes) + (norm.eps if eps is None else eps)
        return 1.0 + float(np.abs(values).max() / np.sqrt(square.min()))

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes of ``blocks`` over which a pool runs."""
        norm = self.layer.norm
        assert norm is not None
        return (1, *((2,) if norm.pool.samples else ()), *((3,) if norm.pool.positions else ()))


def any_norm() -> Layers:
    """Every normalizer and activation; weights do not matter."""
    return layers(norms=normalizers(), rows=st.just(gaussian()))


@st.composite
def pooled(draw: DrawFn, of: SearchStrategy[Layer]) -> Pooled:
    """Arrays with one to three groups, on which every pool has a variance."""
    layer = draw(of)
    norm = layer.norm
    group = 4 if norm is None or norm.pool.channels == math.inf else int(norm.pool.channels)
    over_samples = norm is not None and norm.pool.samples
    over_positions = norm is not None and norm.pool.positions
    small = norm is not None and group == 1
    return Pooled(
        layer,
        channels=group * draw(st.integers(1, 3)),
        samples=draw(st.integers(2 if over_samples else 1, 5)),
        positions=draw(st.integers(2 if small and over_positions and not over_samples else 1, 4)),
        seed=draw(seeds()),
        spread=draw(st.sampled_from([1.0, 0.1, 10.0])),
        offset=draw(st.sampled_from([0.0, 1.0, -3.0])),
    )


@cache
def pooled_corners() -> tuple[Pooled, ...]:
    """BN, and two groups of 2, 3, 4 and 5 channels, of 2, 3 and 4 samples."""
    return tuple(
        Pooled(Layer(norm=norm), channels=2 * size, samples=batch, positions=1)
        for norm, size in [(batch_norm(), 1), *((group_norm(size), size) for size in (2, 3, 4, 5))]
        for batch in (2, 3, 4)
    )
