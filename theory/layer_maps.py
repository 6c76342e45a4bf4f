"""One layer as a map of the plane (q, c): correlation maps with cobwebs, and phase portraits.

Both read the numbers off ``predict`` for two layers, so that they say what predictions say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.errors import out_of_domain
from theory.evidence import FixedPoint, assumed_batch
from theory.fixed_points import fixed_points
from theory.forecast import paced
from theory.recursion import predict
from theory.results import Prediction
from theory.specs._arrays import numeric
from theory.specs._check import integer, real, samples
from theory.specs.inputs import exchangeable
from theory.specs.networks import FeedForward, Layer

__all__ = ["CorrelationMap", "PhasePortrait", "correlation_map", "phase_portrait"]

FloatArray = NDArray[np.float64]

# Samples nearer than this are not drawn apart from c = 1, where a pool over samples has no variance.
_CLOSEST = 1e-12
_LESS = "fewer points take proportionally less"


@dataclass(frozen=True, kw_only=True)
class CorrelationMap:
    """c -> c' of pre-activations over one layer at q*, and its fixed points; see ``correlation_map``.

    Parameters
    ----------
    layer, batch, second_moment
        Of which network, with how many samples, at which q.
    gap, image_gap
        1 - c and 1 - c', in full relative precision.
    error
        Absolute numerical error of ``image_gap``.
    points
        Fixed points, from c = 1 downwards.
    """

    layer: Layer
    batch: float
    second_moment: float
    gap: FloatArray = field(repr=False)
    image_gap: FloatArray = field(repr=False)
    error: FloatArray = field(repr=False)
    points: tuple[FixedPoint, ...]

    @property
    def correlation(self) -> FloatArray:
        """c."""
        return 1.0 - self.gap

    @property
    def image(self) -> FloatArray:
        """c'."""
        return 1.0 - self.image_gap

    def trajectory(self, correlation: float, *, steps: int) -> FloatArray:
        """c, c', c'', ...: ``steps`` layers from c, shape (steps + 1,)."""
        steps = integer("steps", steps, low=1, remedy="count the layers")
        gap = 1.0 - real("correlation", correlation, low=-1.0, high=1.0, remedy="a cosine")
        predicted = _two_layers(self.layer, self.batch, self.second_moment, gap, depth=steps + 1)
        return predicted.preactivation_correlation

    def plot(
        self,
        ax: Any = None,
        *,
        start: float | None = None,
        steps: int = 8,
        label: str | None = None,
    ) -> Any:
        """Draw the map, its fixed points and a cobweb; see ``theory.plotting_maps``."""
        from theory.plotting_maps import plot_correlation_map

        return plot_correlation_map(self, ax, start=start, steps=steps, label=label)


def correlation_map(
    network: FeedForward,
    correlations: ArrayLike | None = None,
    *,
    batch: float | None = None,
) -> CorrelationMap:
    """c' = C(c) at the network's own q*, on a grid of correlations.

    The map of gated groups (EvoNorm-S0) is sampled at every point, and takes a minute or more.

    Parameters
    ----------
    network
        Its layer is applied once; its depth does not matter.
    correlations
        c, by default 101 points from 0 to 1.
    batch
        As for ``fixed_point``: by default infinite for normalizers that couple samples.

    Raises
    ------
    SpecificationError
        A correlation that no ``batch`` samples can have.
    HypothesisError
        No route for this layer.
    """
    points = fixed_points(network, batch=batch)
    size = _batch(network, batch)
    grid = np.linspace(0.0, 1.0, 101) if correlations is None else _cosines(correlations)
    gap = np.maximum(1.0 - grid, _CLOSEST)
    q = points[0].second_moment
    # Where q runs away the map does not depend on it.
    q = q if 0.0 < q < math.inf else 1.0
    predicted = [
        _two_layers(network.layer, size, q, value)
        for value in paced(gap.tolist(), what="Correlation map", remedy=_LESS)
    ]
    return CorrelationMap(
        layer=network.layer,
        batch=size,
        second_moment=q,
        gap=gap,
        image_gap=np.array([p.preactivation_gap[1] for p in predicted]),
        error=np.array([p.error["preactivation_gap"][1] for p in predicted]),
        points=points,
    )


@dataclass(frozen=True, kw_only=True)
class PhasePortrait:
    """(q, c) -> (q', c') over one layer on a grid; see ``phase_portrait``.

    Parameters
    ----------
    layer, batch
        Of which network, with how many samples.
    second_moment, correlation
        The grid's axes, shapes (m,) and (n,).
    next_second_moment, next_correlation
        The images, shape (m, n).
    """

    layer: Layer
    batch: float
    second_moment: FloatArray = field(repr=False)
    correlation: FloatArray = field(repr=False)
    next_second_moment: FloatArray = field(repr=False)
    next_correlation: FloatArray = field(repr=False)

    def trajectory(
        self, second_moment: float, correlation: float, *, steps: int
    ) -> tuple[FloatArray, FloatArray]:
        """(q, q', ...), (c, c', ...): ``steps`` layers from one state, shape (steps + 1,) each."""
        steps = integer("steps", steps, low=1, remedy="count the layers")
        gap = 1.0 - real("correlation", correlation, low=-1.0, high=1.0, remedy="a cosine")
        second_moment = _moments(second_moment)[0]
        predicted = _two_layers(self.layer, self.batch, second_moment, gap, depth=steps + 1)
        return predicted.preactivation_second_moment, predicted.preactivation_correlation

    def plot(self, ax: Any = None, *, steps: int = 30) -> Any:
        """Draw arrows and trajectories; see ``theory.plotting_maps``."""
        from theory.plotting_maps import plot_phase_portrait

        return plot_phase_portrait(self, ax, steps=steps)


def phase_portrait(
    network: FeedForward,
    second_moments: ArrayLike,
    correlations: ArrayLike,
    *,
    batch: float | None = None,
) -> PhasePortrait:
    """(q', c') at every (q, c) of a grid, both of pre-activations.

    Parameters
    ----------
    network
        Its layer is applied once; its depth does not matter.
    second_moments, correlations
        The axes of the grid; q > 0 and c < 1.
    batch
        As for ``fixed_point``.

    Raises
    ------
    SpecificationError
        A value outside its domain.
    HypothesisError
        No route for this layer.
    """
    q, c = _moments(second_moments), _cosines(correlations)
    size = _batch(network, batch)
    points = [(x, 1.0 - y) for x in q for y in c]
    images = [
        _two_layers(network.layer, size, *point)
        for point in paced(points, what="Phase portrait", remedy=_LESS)
    ]
    shape = len(q), len(c)
    return PhasePortrait(
        layer=network.layer,
        batch=size,
        second_moment=q,
        correlation=c,
        next_second_moment=np.reshape([p.preactivation_second_moment[1] for p in images], shape),
        next_correlation=np.reshape([p.preactivation_correlation[1] for p in images], shape),
    )


def _batch(network: FeedForward, batch: float | None) -> float:
    if not isinstance(network, FeedForward):
        raise out_of_domain(
            "network", network, "a FeedForward network", "a residual stream has no layer map"
        )
    return assumed_batch(network.layer.norm) if batch is None else samples(batch)


def _cosines(correlations: ArrayLike) -> FloatArray:
    return _axis("correlations", correlations, low=-1.0, high=1.0, remedy="cosines of two samples")


def _moments(second_moments: ArrayLike) -> FloatArray:
    return _axis("second_moments", second_moments, low=1e-300, high=1e300, remedy="use [0.5, 1, 2]")


def _axis(argument: str, values: ArrayLike, *, low: float, high: float, remedy: str) -> FloatArray:
    """The numbers of one axis."""
    axis = np.atleast_1d(numeric(argument, values))
    if axis.ndim != 1 or axis.size == 0 or axis.min() < low or axis.max() > high:
        raise out_of_domain(argument, values, f"numbers in [{low:g}, {high:g}]", remedy)
    return axis


def _two_layers(
    layer: Layer, batch: float, second_moment: float, gap: float, *, depth: int = 2
) -> Prediction:
    """Layers 1 (at q, c) to ``depth``.  A feature mean that centered weights would see is 0."""
    inputs = exchangeable(
        batch=batch, gap=gap, second_moment=second_moment / layer.weights.weight_variance
    )
    return predict(FeedForward(layer, depth=depth), inputs, backward=False)
