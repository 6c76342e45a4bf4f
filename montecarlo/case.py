"""One thing that ``normcompass verify`` checks, as data: a network on a batch, and what its networks cost.

Nothing here computes a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from montecarlo import spatial_cases
from montecarlo.budgets import Budget, Grid
from montecarlo.digits import digits
from montecarlo.margins import QUANTITIES, Quantity
from theory.regimes import pool_rank
from theory.specs.inputs import Inputs, exchangeable, from_covariance, from_data
from theory.specs.networks import FeedForward, Layer, Network

__all__ = ["INPUTS", "Architecture", "Case", "Control", "InputKind", "Part", "ResidualCase"]

InputKind = Literal["synthetic", "digits", "ring", "torus", "images", "padding", "residual"]
INPUTS: tuple[InputKind, ...] = (
    "synthetic",
    "digits",
    "ring",
    "torus",
    "images",
    "padding",
    "residual",
)

FloatArray = NDArray[np.float64]
Architecture = Callable[[Layer, int, Inputs], Network]
"""(layer, depth, inputs) -> network; inputs because NF scaling carries what theory predicts for them."""


def _feed_forward(layer: Layer, depth: int, _: Inputs) -> Network:
    return FeedForward(layer, depth=depth)


@dataclass(frozen=True)
class Control:
    """A plausible mistake: the prediction for another network put in the place of the true one.

    It is judged where it differs most from the true one, or in the ``quantity`` that it is about.  A
    mistake in a formula instead of a network is a ``law``: (batch, right values of that quantity over
    depth) -> wrong ones.
    """

    name: str
    statement: str
    layer: Layer
    architecture: Architecture = _feed_forward
    quantity: str | None = None
    law: Callable[[int, FloatArray], FloatArray] | None = None

    def network(self, depth: int, inputs: Inputs) -> Network:
        """The wrong network of this depth."""
        return self.architecture(self.layer, depth, inputs)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some quantities of a case, from networks of one depth at several widths.

    ``tests`` are the pairs of a quantity and a layer that are compared.
    """

    name: str
    grid: Grid
    quantities: tuple[str, ...]
    backward: bool
    tests: tuple[tuple[Quantity, int], ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One layer on one batch.

    Attributes
    ----------
    name, statement
        The layer's name and what theory says about it, in words.
    layer
        Weights, normalizer, activation.
    kind
        ``"synthetic"`` or ``"digits"``; with positions ``"ring"``, ``"torus"``, ``"images"`` (zero
        or circular padding) or ``"padding"`` (zero padding and a stride); ``"residual"`` for
        residual networks.
    batch
        Samples.
    controls
        Wrong theories that the same data must reject.
    deepest
        Largest depth, where the prediction's stated error would exceed the margins beyond it.
    """

    name: str
    statement: str
    layer: Layer
    kind: InputKind
    batch: int
    controls: tuple[Control, ...]
    deepest: int | None = None

    @property
    def id(self) -> str:
        """Name and input, unique in a run."""
        return f"{self.name}/{self.kind}"

    @property
    def inputs(self) -> Inputs:
        """The batch.

        A normalized row sees its fan-in: over 64 pixels it is not at infinite width, whatever the
        width of the network.  WN and SWS therefore get the digits' Gram matrix and feature means,
        exactly, at input dimension = width.
        """
        if self.kind in spatial_cases.SHAPES:
            return spatial_cases.inputs_of(self.kind)
        if self.kind == "synthetic":
            return exchangeable(batch=self.batch, correlation=0.3)
        data = from_data(digits(batch=self.batch))
        if self.layer.weights.normalized:
            return from_covariance(data.covariance, feature_mean=data.feature_mean)
        return data

    def network(self, depth: int) -> Network:
        """The network of this depth."""
        return FeedForward(self.layer, depth=depth)

    @property
    def rank(self) -> float:
        """Rank of the pool that decides which moments exist, halved for a raw numerator (VN)."""
        norm = self.layer.norm
        rank = pool_rank(self.network(1), self.inputs)
        raw = norm is not None and not norm.centered and norm.denominator == "std"
        return rank / 2.0 if raw else rank

    @property
    def stationary(self) -> bool:
        """Whether the normalizer sets E[N(h)^2] afresh: (h - mean)/std or h/rms."""
        norm = self.layer.norm
        return norm is not None and (norm.centered, norm.denominator) in (
            (True, "std"),
            (False, "rms"),
        )

    def parts(self, budget: Budget) -> tuple[Part, ...]:
        """What is simulated: signals and gradients together, unless some need other networks.

        Where no normalizer sets the scale afresh, log E[x^2] is a total of a rate per layer whose
        spread grows with depth: in the first layers it is compared itself, beyond as a growth.
        Gradients through normalized rows do not collapse; those of a pool of rank 3 or 4 have
        corrections that vanish too slowly for ordinary widths.
        """
        scale = "second_moment" if self.stationary else "growth"
        signals = (scale, "similarity", "gap", "stable_rank")
        if self.kind in spatial_cases.SHAPES:
            return self._over_positions(budget, signals)
        parts = []
        if not self.stationary:
            parts.append(self._part("first layers", budget.first, ("second_moment",)))
        beyond = 0 if self.stationary else parts[0].grid.depth
        heavy = self.rank <= 4.0
        if not (heavy or self.layer.weights.normalized):
            parts.append(self._part("network", budget.wide, (*signals, "gradient"), beyond=beyond))
            return tuple(parts)
        parts.append(self._part("signals", budget.wide, signals, beyond=beyond))
        grid = budget.heavy if heavy else budget.direct
        if grid is not None:
            parts.append(self._part("gradients", grid, ("gradient",)))
        return tuple(parts)

    def _over_positions(self, budget: Budget, signals: tuple[str, ...]) -> tuple[Part, ...]:
        ring = self.kind == "ring"
        over = budget.ring if ring else budget.torus
        rows = budget.ring_rows if ring else budget.torus_rows
        if over is None:
            return ()
        beyond = 0 if self.stationary else spatial_cases.ACCUMULATED
        settled = spatial_cases.SETTLED
        if not self.layer.weights.normalized:
            names = (*signals, "gradient")
            return (self._part("network", over, names, beyond=beyond, settled=settled),)
        parts = (self._part("signals", over, signals, beyond=beyond, settled=settled),)
        return (*parts, self._part("gradients", rows, ("gradient",))) if rows else parts

    def _part(
        self,
        name: str,
        grid: Grid,
        names: tuple[str, ...],
        *,
        beyond: int = 0,
        settled: float = math.inf,
    ) -> Part:
        """``beyond``: growth is compared only after it; ``settled``: E[x^2] itself only before."""
        grid = grid.shallower(self.deepest)
        tests = tuple(
            (quantity, layer)
            for quantity in map(QUANTITIES.__getitem__, names)
            for layer in (grid.backward if quantity.backward else grid.forward)
            if layer <= quantity.deepest
            and not (quantity.name == "growth" and layer <= beyond)
            and not (quantity.name == "second_moment" and layer > settled)
        )
        backward = any(QUANTITIES[name].backward for name in names)
        return Part(name=name, grid=grid, quantities=names, backward=backward, tests=tests)


@dataclass(frozen=True, kw_only=True)
class ResidualCase(Case):
    """One residual network.

    Attributes
    ----------
    architecture
        Makes the network of a depth.
    given
        Its inputs.
    exponential
        Whether rates per block are compared instead of totals.
    deep
        Whether its order is meant for great depth, where the budget has networks for that.
    branch
        Whether gradients at the first map of a branch are compared as well.
    effort
        The least effort of a budget that simulates it: 0, 1 or 2.
    """

    architecture: Architecture
    given: Inputs
    exponential: bool = False
    deep: bool = False
    branch: bool = False
    effort: int = 1

    @property
    def inputs(self) -> Inputs:
        """The batch."""
        return self.given

    def network(self, depth: int) -> Network:
        """The network of this depth."""
        return self.architecture(self.layer, depth, self.given)

    @property
    def stationary(self) -> bool:
        """Whether E[x^2] is compared itself, at any block."""
        return not self.exponential

    def parts(self, budget: Budget) -> tuple[Part, ...]:
        """Signals and gradients together, unless gradients need explicit weights."""
        grids = budget.residual
        if grids is None or self.effort > grids.effort:
            return ()
        scale, gradient = "second_moment", "gradient_total"
        if self.exponential:
            scale, gradient = "growth", "gradient"
        signals: tuple[str, ...] = (scale, "similarity", "gap")
        # Of an exchangeable batch the similarity decides the stable rank, which asks for more
        # networks: it is compared in a few cases.
        if self.effort == 0 < grids.effort:
            signals = (*signals, "stable_rank")
        gradients = (gradient, "branch_gradient") if self.branch else (gradient,)
        if self.given.positions > 1:
            grid = grids.positions
            return (self._part("network", grid, (*signals, *gradients)),) if grid else ()
        grid = grids.deep if self.deep and grids.deep else grids.blocks
        if not self.layer.weights.normalized:
            return (self._part("network", grid, (*signals, *gradients)),)
        parts = [self._part("signals", grid, signals)]
        if grids.rows is not None:
            parts.append(self._part("gradients", grids.rows, gradients))
        return tuple(parts)
