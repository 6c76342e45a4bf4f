"""The trade-off of group sizes: lambda falls to 1 and c* rises to 1 as the groups grow."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from theory.errors import out_of_domain
from theory.evidence import FixedPoint
from theory.fixed_points import fixed_point
from theory.specs._check import instance, integer
from theory.specs.networks import FeedForward, Layer
from theory.specs.normalizers import group_norm

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["GROUP_SIZES", "Frontier", "frontier"]

FloatArray = NDArray[np.float64]

GROUP_SIZES = (4, 5, 6, 8, 12, 16, 32, 64)
"""At one position: smaller groups have an infinite mean squared gradient."""


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """Fixed points of GroupNorm over its group size; see ``frontier``."""

    layer: Layer
    positions: int
    group_size: tuple[int, ...]
    points: tuple[FixedPoint, ...] = field(repr=False)

    @property
    def gap(self) -> FloatArray:
        """1 - c* of two samples' pre-activations, in full relative precision."""
        return np.array([point.gap for point in self.points])

    @property
    def correlation(self) -> FloatArray:
        """c*: 1 where a deep network cannot tell samples apart."""
        return np.array([point.correlation for point in self.points])

    @property
    def gradient_growth(self) -> FloatArray:
        """lambda, factor per layer on the squared gradient norm."""
        return np.array([point.gradient_growth for point in self.points])

    @property
    def depth_scale(self) -> FloatArray:
        """Layers per factor e of the distance to c*."""
        return np.array([point.depth_scale for point in self.points])

    def to_frame(self) -> pd.DataFrame:
        """One row per group size: correlation, gap, similarity, gradient_growth, depth_scale."""
        import pandas as pd

        names = ("correlation", "gap", "similarity", "gradient_growth", "depth_scale")
        columns = {name: [getattr(point, name) for point in self.points] for name in names}
        return pd.DataFrame({"group_size": self.group_size, **columns})

    def plot(self, ax: Any = None, *, label: str | None = None) -> Any:
        """Draw lambda against c*; see ``theory.plotting_maps``."""
        from theory.plotting_maps import plot_frontier

        return plot_frontier(self, ax, label=label)


def frontier(
    layer: Layer | None = None,
    *,
    group_sizes: Sequence[int] = GROUP_SIZES,
    positions: int = 1,
) -> Frontier:
    """(c*, lambda) of GroupNorm for every group size.

    Parameters
    ----------
    layer
        Weights and activation; its normalizer is replaced.  By default Gaussian weights and relu.
    group_sizes
        G, channels per group.
    positions
        S, positions per sample.

    Raises
    ------
    SpecificationError
        A group size or number of positions below 1.
    HypothesisError
        No route for this activation.

    Notes
    -----
    At one position lambda = (G - 2)/(G - 3), and 1 - c* is about 9 pi^2/(8 G^2) for large G.
    Source: theory notes, section 4.
    """
    base = Layer() if layer is None else layer
    instance("layer", base, Layer, "a Layer or None", "Layer() is the default")
    instance("group_sizes", group_sizes, Sequence, "a list of sizes", "pass (4, 8), say")
    sizes = tuple(
        integer("group_sizes", size, low=1, remedy="count the channels of a group")
        for size in group_sizes
    )
    if not sizes:
        raise out_of_domain("group_sizes", group_sizes, "at least one size", "pass (4, 8), say")
    points = []
    for size in sizes:
        network = FeedForward(dataclasses.replace(base, norm=group_norm(size)), depth=1)
        points.append(fixed_point(network, positions=positions))
    return Frontier(layer=base, positions=positions, group_size=sizes, points=tuple(points))
