"""What ``normcompass verify`` checks, as data: cases and controls; see also ``margins``, ``budgets``.

Everything here was fixed before the results were looked at, and nothing here computes a verdict.
A *case* is one complete layer of the paper (theory notes, section 2) on one batch; its *controls* are
plausible wrong theories, each the exact prediction for another network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from montecarlo import spatial_cases
from montecarlo.budgets import Budget, Grid
from montecarlo.digits import digits
from montecarlo.margins import QUANTITIES, Quantity
from theory.errors import out_of_domain
from theory.recursion import predict
from theory.regimes import pool_rank
from theory.results import Prediction
from theory.specs.activations import identity, relu, silu
from theory.specs.inputs import Inputs, exchangeable, from_covariance, from_data
from theory.specs.networks import FeedForward, Layer
from theory.specs.normalizers import (
    Normalizer,
    Pool,
    group_norm,
    variance_norm,
)
from theory.specs.weights import gaussian, weight_norm
from theory.zoo import zoo

__all__ = [
    "INPUTS",
    "Case",
    "Control",
    "Part",
    "Theory",
    "cases",
    "theory_of",
]

FloatArray = NDArray[np.float64]
InputKind = Literal["synthetic", "digits", "ring", "torus"]

INPUTS: tuple[InputKind, ...] = ("synthetic", "digits", "ring", "torus")


@dataclass(frozen=True)
class Control:
    """A plausible mistake: the prediction for ``layer`` put in the place of the true one."""

    name: str
    statement: str
    layer: Layer


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
        ``"synthetic"`` or ``"digits"``; with positions ``"ring"`` or ``"torus"``.
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

    def network(self, depth: int) -> FeedForward:
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
        # As at one position; the first layers themselves are compared there.
        beyond = 0 if self.stationary else budget.first.depth
        if not self.layer.weights.normalized:
            return (self._part("network", over, (*signals, "gradient"), beyond=beyond),)
        parts = (self._part("signals", over, signals, beyond=beyond),)
        return (*parts, self._part("gradients", rows, ("gradient",))) if rows else parts

    def _part(self, name: str, grid: Grid, names: tuple[str, ...], *, beyond: int = 0) -> Part:
        """``beyond``: the last layer whose second moment is compared itself."""
        grid = grid.shallower(self.deepest)
        tests = tuple(
            (quantity, layer)
            for quantity in map(QUANTITIES.__getitem__, names)
            for layer in (grid.backward if quantity.backward else grid.forward)
            if layer <= quantity.deepest and not (quantity.name == "growth" and layer <= beyond)
        )
        return Part(
            name=name, grid=grid, quantities=names, backward="gradient" in names, tests=tests
        )


def _group_rms(size: int) -> Normalizer:
    """GN that forgets its mean: a pool of rank G instead of G - 1."""
    pool = Pool(samples=False, positions=True, channels=size)
    return Normalizer(
        name=f"rms over {size} channels", pool=pool, centered=False, denominator="rms"
    )


_GN4, _GN6 = Layer(norm=group_norm(4)), Layer(norm=group_norm(6))
# The wrong theories.
_RMS6 = Layer(norm=_group_rms(6))
_UNIT = Layer(weights=gaussian(weight_variance=1.0))
_LINEAR = Layer(weights=gaussian(weight_variance=1.0), activation=identity)
_SILU = Layer(activation=silu)
_LINEAR_VN = Layer(norm=variance_norm(), activation=identity)
_BARE_WN = Layer(weights=weight_norm(), activation=relu)
_UNCENTERED = Layer(weights=gaussian(weight_variance=zoo["SWS"].weights.weight_variance))

_LAYERS: tuple[tuple[str, str, Layer, tuple[Control, ...]], ...] = (
    (
        "plain",
        "He initialization keeps E[x²]; samples collapse by κ₁; λ = 1.",
        zoo["plain"],
        (
            Control("weight variance 1", "forgets that relu halves the second moment", _UNIT),
            Control("angles are kept", "takes the layers to be linear", _LINEAR),
        ),
    ),
    (
        "BN",
        "Centering brings any exchangeable batch to s* = κ₁(−1/(B−1)); gradients grow by λ_B.",
        zoo["BN"],
        (
            Control("BN without centering", "divides by the batch std only", zoo["VN"]),
            Control("MC for BN", "centers but leaves the scale alone", zoo["MC"]),
        ),
    ),
    (
        "VN",
        "Without centering samples collapse: VN is not BatchNorm's equal.",
        zoo["VN"],
        (Control("BN for VN", "takes VN to separate samples as BN does", zoo["BN"]),),
    ),
    (
        "MC",
        "Centering alone separates samples as BN does; the scale is not kept.",
        zoo["MC"],
        (Control("plain for MC", "ignores the centering", zoo["plain"]),),
    ),
    (
        "LN",
        "q = 1 after one layer, c' = κ₁(c), λ = 1.",
        zoo["LN"],
        (
            Control("GN(6) for LN", "takes the pool to be finite", _GN6),
            Control("BN for LN", "pools over samples, not channels", zoo["BN"]),
        ),
    ),
    (
        "RMSNorm",
        "As LN: with infinitely many channels the mean is zero.",
        zoo["RMSNorm"],
        (Control("pool of 6 channels", "takes the pool to be finite", _RMS6),),
    ),
    (
        "GN(6)",
        "The Pearson identity with n = G − 1 degrees of freedom; λ = (G−2)/(G−3).",
        _GN6,
        (
            Control("G for G − 1", "forgets that the mean costs a degree of freedom", _RMS6),
            Control("LN for GN", "forgets that the group is finite", zoo["LN"]),
        ),
    ),
    (
        "GN(4)",
        "As GN(6) with a heavy tail: the squared gradient has a mean, λ = 2, but no variance.",
        _GN4,
        (Control("LN for GN", "forgets that the group is finite", zoo["LN"]),),
    ),
    (
        "EvoNorm-S0",
        "h·sigmoid(h)/std over all channels: not scale free.",
        zoo["EvoNorm-S0"],
        (Control("silu for EvoNorm-S0", "forgets the division by the std", _SILU),),
    ),
    (
        "EvoNorm-B0",
        "h / max(batch std, h): a cut from above at 1.",
        zoo["EvoNorm-B0"],
        (Control("VN for EvoNorm-B0", "forgets the maximum in the denominator", _LINEAR_VN),),
    ),
    (
        "WN",
        "Unit rows with the scaled relu: c* = 0 while q stays near 1.",
        zoo["WN"],
        (Control("WN without shift and scale", "relu in place of the scaled relu", _BARE_WN),),
    ),
    (
        "SWS",
        "Centered rows remove the mean of relu: s* = 1/π as for BN, λ = π/(π−1).",
        zoo["SWS"],
        (Control("SWS without centering", "plain weights of the same variance", _UNCENTERED),),
    ),
    (
        "WC",
        "Centered Gaussian rows of SWS's variance: the same theory.",
        zoo["WC"],
        (Control("WC without centering", "plain weights of the same variance", _UNCENTERED),),
    ),
)

# A raw numerator over a std of the batch: its squared gradient has a variance only for B >= 10.
_BATCH: Mapping[str, int] = {"VN": 16, "EvoNorm-B0": 16}
# The stated error of this prediction (RQMC over 16 unequal samples, summed over the layers as if every
# layer erred the same way) reaches the margin of a gradient at about 10 layers.
_DEEPEST: Mapping[str, int] = {"EvoNorm-B0/digits": 6}
# Very wide networks are dear, and one batch shows the law of the tail.
_SYNTHETIC_ONLY = ("GN(4)",)


def cases(kind: str) -> tuple[Case, ...]:
    """Every normalizer on the chosen batches, in the order of the report.

    Parameters
    ----------
    kind
        ``"synthetic"``: an exchangeable batch with correlation 0.3; ``"digits"``: 16 handwritten
        digits with their full covariance; ``"ring"``, ``"torus"``: 4 samples on 16 and on 8 x 8
        positions; ``"all"``: all of them.

    Raises
    ------
    SpecificationError
        Another ``kind``.
    """
    if kind not in (*INPUTS, "all"):
        names = ", ".join(INPUTS)
        raise out_of_domain("inputs", kind, f"{names} or all", "check the spelling")
    chosen = [inputs for inputs in INPUTS if kind in (inputs, "all")]
    return _at_one_position(chosen) + _over_positions(chosen)


def _over_positions(chosen: Sequence[InputKind]) -> tuple[Case, ...]:
    return tuple(
        Case(
            name=name,
            statement=statement,
            layer=layer,
            kind=inputs,
            controls=tuple(Control(*wrong) for wrong in controls),
            batch=spatial_cases.BATCH,
        )
        for inputs in chosen
        if inputs in spatial_cases.SHAPES
        for name, statement, layer, controls in spatial_cases.LAYERS
    )


def _at_one_position(chosen: Sequence[InputKind]) -> tuple[Case, ...]:
    return tuple(
        Case(
            name=name,
            statement=statement,
            layer=layer,
            kind=inputs,
            controls=controls,
            batch=16 if inputs == "digits" else _BATCH.get(name, 8),
            deepest=_DEEPEST.get(f"{name}/{inputs}"),
        )
        for inputs in chosen
        if inputs not in spatial_cases.SHAPES
        for name, statement, layer, controls in _LAYERS
        if inputs == "synthetic" or name not in _SYNTHETIC_ONLY
    )


@dataclass(frozen=True, kw_only=True)
class Theory:
    """A prediction on the scales of ``margins.QUANTITIES``: arrays over depth, absolute errors, routes."""

    value: Mapping[str, FloatArray]
    error: Mapping[str, FloatArray]
    route: Mapping[str, str]
    status: str


def theory_of(network: FeedForward, inputs: Inputs) -> Theory:
    """``predict`` on the scales of the comparison; logarithms of everything but the similarity."""
    prediction: Prediction = predict(network, inputs)
    error = prediction.error
    assert prediction.log_gradient_norm is not None
    rank, gap = prediction.stable_rank, prediction.gap
    moment, moment_error = prediction.log_second_moment, error["log_second_moment"]
    forward = {name: prediction.route[name][-1] for name in ("second_moment", "similarity")}
    with np.errstate(divide="ignore", invalid="ignore"):
        log_gap, gap_error = np.log(gap), error["gap"] / gap
    return Theory(
        value={
            "second_moment": moment,
            "growth": moment,
            "similarity": prediction.similarity,
            "gap": log_gap,
            "stable_rank": np.log(rank),
            "gradient": 2.0 * prediction.log_gradient_norm,
        },
        error={
            "second_moment": moment_error,
            "growth": moment_error,
            "similarity": error["similarity"],
            "gap": gap_error,
            "stable_rank": error["stable_rank"] / rank,
            "gradient": 2.0 * np.abs(error["log_gradient_norm"]),
        },
        route={
            "second_moment": forward["second_moment"],
            "growth": forward["second_moment"],
            "similarity": forward["similarity"],
            "gap": forward["similarity"],
            "stable_rank": prediction.route["stable_rank"][-1],
            "gradient": prediction.route["log_gradient_norm"][0],
        },
        status=prediction.regime.status if math.isfinite(prediction.regime.rank) else "regular",
    )
