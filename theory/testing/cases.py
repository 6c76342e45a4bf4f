"""Strategies of whole cases: layers, and batches on which their pools have a variance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from theory.specs._check import flag, instance
from theory.specs.activations import ACTIVATION_NAMES
from theory.specs.inputs import Inputs
from theory.specs.networks import FeedForward, Layer, Network
from theory.specs.normalizers import Normalizer, Pool, mean_centering
from theory.specs.residual import Order, Residual
from theory.specs.weights import gaussian
from theory.testing.strategies import (
    GROUPS,
    HOMOGENEOUS,
    activations,
    batches,
    covariances,
    nearly_equal,
    over_positions,
    ratios,
    weights,
)

__all__ = ["Case", "cases", "inputs_for", "predictable_layers", "simulated_cases"]

# Orders whose stream is Gaussian whatever the normalizer is.
_GAUSSIAN: tuple[Order, ...] = ("pre_activation", "pre_norm")


@dataclass(frozen=True)
class Case:
    """One network on one batch, and two numbers of which a law may make use."""

    network: Network
    inputs: Inputs
    factor: float = 2.0
    seed: int = 0

    @property
    def layer(self) -> Layer:
        """The layer that the network repeats."""
        return self.network.layer


@st.composite
def predictable_layers(
    draw: DrawFn, *, coupled: bool | None = None, divides: bool = False, arrays: bool = False
) -> Layer:
    """Layers whose expectations have a closed form or a quadrature, for some kind of input.

    Parameters
    ----------
    coupled
        Whether pools run over samples; None for either.
    divides
        Only normalizers with a denominator.
    arrays
        Only what has a route for one position and a covariance matrix.
    """
    samples = draw(st.booleans()) if coupled is None else coupled
    if not divides and draw(st.booleans()):
        norm = mean_centering() if samples else draw(st.none() | _group_centering())
    else:
        sizes = [1] if samples else [math.inf, *GROUPS, *([] if arrays else [1])]
        norm = draw(ratios(samples=samples, channels=sizes, equal=not samples))
    if norm is not None and samples and arrays:
        norm = dataclasses.replace(norm, denominator="std")
    names = _names(norm)
    if samples and arrays:
        names = HOMOGENEOUS
    return Layer(weights=draw(weights()), norm=norm, activation=draw(activations(names=names)))


def _group_centering() -> SearchStrategy[Normalizer]:
    """h minus the mean of its group, no denominator: rows of W that are centered group by group."""
    return st.sampled_from([*GROUPS, math.inf]).map(
        lambda size: Normalizer(
            name="group centering",
            pool=Pool(samples=False, positions=False, channels=size),
            centered=True,
            denominator="none",
        )
    )


def _names(norm: Normalizer | None) -> Sequence[str]:
    """Activations for which the normalizer's expectations need no sampling."""
    if norm is None or norm.denominator == "none":
        return ACTIVATION_NAMES
    if not norm.pool.samples and norm.pool.channels == math.inf:
        return ACTIVATION_NAMES
    if norm.pool.channels == 1 and not norm.pool.samples:
        return HOMOGENEOUS
    plain = (norm.centered and norm.denominator == "std") or not norm.pool.samples
    return ACTIVATION_NAMES if norm.eps == 0.0 and plain else HOMOGENEOUS


def inputs_for(layer: Layer, *, positions: bool = True) -> SearchStrategy[Inputs]:
    """Batches on which the layer's pools have a variance, and its expectations a route."""
    instance("layer", layer, Layer, "a Layer", "use Layer(norm=...)")
    flag("positions", positions)
    norm = layer.norm
    if norm is None:
        return batches() | covariances() | nearly_equal() | over_positions()
    coupled = norm.pool.samples
    # A raw numerator over its std has a second moment beyond rank 2 only.
    raw = not norm.centered and norm.denominator == "std"
    smallest = (5 if raw else 3 if norm.centered else 2) if coupled else 2
    apart = 1e-3 if coupled else 0.0
    homogeneous = layer.activation.ray_slopes is not None
    kinds: list[SearchStrategy[Inputs]] = []
    if coupled or norm.pool.channels > 1:
        if not (coupled and norm.denominator == "rms"):
            kinds.append(batches(smallest=smallest, smallest_gap=apart))
        if homogeneous or not coupled:
            kinds.append(
                covariances(smallest=smallest, largest=max(5, smallest), full_rank=coupled)
            )
        if not coupled and not raw:
            kinds.append(nearly_equal())
    limit = not coupled and norm.pool.channels == math.inf and norm.denominator != "none"
    spatial = homogeneous and norm.gate is None and (norm.pool.positions or not coupled)
    if positions and (limit or (spatial and norm.denominator != "none") or not kinds):
        small = 2 if norm.pool.channels > 1 or coupled else (4 if raw else 3)
        kinds.append(over_positions(positions=range(small, 6), smallest_gap=apart))
    return st.one_of(kinds)


@st.composite
def cases(
    draw: DrawFn,
    of: SearchStrategy[Layer] | None = None,
    *,
    largest_depth: int = 3,
    positions: bool = True,
    exchangeable_only: bool = False,
    smallest_gap: float = 0.0,
) -> Case:
    """A feed-forward network of one of these layers on a batch that fits it.

    Parameters
    ----------
    of
        Layers; by default such that the theory needs no sampling.
    largest_depth
        Of the network.
    positions, exchangeable_only
        Whether some inputs have positions; whether all are exchangeable and have none.
    smallest_gap
        Of exchangeable inputs.
    """
    layer = draw(predictable_layers() if of is None else of)
    kinds = inputs_for(layer, positions=positions)
    if exchangeable_only:
        coupled = layer.norm is not None and layer.norm.couples_samples
        least = max(1e-3, smallest_gap) if coupled else smallest_gap
        kinds = batches(smallest=5 if coupled else 2, smallest_gap=least)
    depth = draw(st.integers(1, largest_depth))
    factor = draw(st.sampled_from([2.0, 0.5]) | st.floats(0.3, 3.0))
    return Case(FeedForward(layer, depth=depth), draw(kinds), factor, draw(st.integers(0, 99)))


@st.composite
def simulated_cases(draw: DrawFn, of: SearchStrategy[Layer]) -> Case:
    """Networks that a few samples of finite width say something about.

    Feed-forward, or residual with a Gaussian stream; not collapsing, and of moderate depth.
    """
    layer = draw(of)
    coupled = layer.norm is not None and layer.norm.couples_samples
    least = 5 if coupled else 2
    kinds = batches(smallest=least, largest=6, smallest_gap=0.01)
    if layer.norm is not None and _pools_positions_only(layer.norm):
        kinds = over_positions(positions=[4, 5], smallest_gap=0.01)
    elif layer.activation.ray_slopes is not None or not coupled:
        kinds = kinds | covariances(smallest=least, full_rank=coupled)
    inputs, depth, seed = draw(kinds), draw(st.integers(1, 3)), draw(st.integers(0, 99))
    if draw(st.sampled_from([False, False, True])):
        residual = Residual(
            layer, depth=depth, order=draw(st.sampled_from(_GAUSSIAN)), maps=1, stem=gaussian()
        )
        return Case(residual, inputs, seed=seed)
    return Case(FeedForward(layer, depth=depth), inputs, seed=seed)


def _pools_positions_only(norm: Normalizer) -> bool:
    return norm.pool.channels == 1 and not norm.pool.samples
