"""What ``normcompass verify`` checks, as data: cases, controls, budgets; margins are in ``margins``.

Everything here was fixed before the results were looked at, and nothing here computes a verdict.
A *case* is one complete layer of the paper (theory notes, section 2) on one batch; its *controls* are
plausible wrong theories, each the exact prediction for another network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from montecarlo.digits import digits
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
    "FULL",
    "INPUTS",
    "QUICK",
    "Budget",
    "Case",
    "Control",
    "Theory",
    "cases",
    "theory_of",
]

FloatArray = NDArray[np.float64]
InputKind = Literal["synthetic", "digits"]

INPUTS: tuple[InputKind, ...] = ("synthetic", "digits")


@dataclass(frozen=True)
class Control:
    """A plausible mistake: the prediction for ``layer`` put in the place of the true one."""

    name: str
    statement: str
    layer: Layer


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
        ``"synthetic"`` or ``"digits"``.
    batch
        Samples.
    controls
        Wrong theories that the same data must reject.
    effort
        Factor on the number of networks, for quantities that fluctuate more.
    widths
        Factor on the widths, for corrections to 1/n that are larger.
    deepest
        Last layer at which forward quantities are tested.
    """

    name: str
    statement: str
    layer: Layer
    kind: InputKind
    batch: int
    controls: tuple[Control, ...]
    effort: float = 1.0
    widths: float = 1.0
    deepest: float = math.inf

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

    def plan(self, budget: Budget) -> tuple[tuple[int, int], ...]:
        """(width, networks) for each width of ``budget``."""
        return tuple(
            (round(width * self.widths), round(networks * self.effort))
            for width, networks in zip(budget.widths, budget.networks, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Depth, tested layers, widths and networks per width: fixed numbers, so a run is reproducible.

    ``forward`` and ``backward`` are the layers at which quantities are tested (counted from 1).
    Widths in the ratio 1 : 2 : 4 spend a given time best on the intercept (the variance of a network
    falls as 1/n while its cost rises as n^2); the smallest keeps the neglected c/n^2 small.
    """

    name: str
    depth: int
    forward: tuple[int, ...]
    backward: tuple[int, ...]
    widths: tuple[int, ...]
    networks: tuple[int, ...]


QUICK = Budget(
    name="quick",
    depth=6,
    forward=(2, 6),
    backward=(1, 3),
    widths=(96, 192, 384),
    networks=(600, 200, 300),
)
FULL = Budget(
    name="full",
    depth=20,
    forward=(2, 6, 12, 20),
    backward=(1, 8, 14),
    widths=(192, 384, 768),
    networks=(600, 200, 300),
)


def _group_rms(size: int) -> Normalizer:
    """GN that forgets its mean: a pool of rank G instead of G - 1."""
    pool = Pool(samples=False, positions=True, channels=size)
    return Normalizer(
        name=f"rms over {size} channels", pool=pool, centered=False, denominator="rms"
    )


_GN6 = Layer(norm=group_norm(6))
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
# Spread and size of the 1/n correction differ between layers; found in pilot runs of other seeds.
_EFFORT: Mapping[str, float] = {
    "plain": 1.6,
    "BN": 0.8,
    "MC": 0.5,
    "LN": 0.8,
    "RMSNorm": 2.0,
    "GN(6)": 1.9,
    "EvoNorm-S0": 1.5,
    "EvoNorm-B0/synthetic": 2.4,
    "EvoNorm-B0/digits": 1.4,
    "WN/synthetic": 1.3,
    "WN/digits": 3.2,
    "SWS": 0.9,
}
_WIDTHS: Mapping[str, float] = {"VN": 1.5}
# Where numerators keep the batch mean, corrections in 1/n grow with depth: at layer 20 the neglected
# c/n^2 alone could exceed the margin, and deeper layers need wider networks than direct simulation's.
_DEEPEST: Mapping[str, int] = {"VN": 12, "EvoNorm-B0": 12}


def cases(kind: str) -> tuple[Case, ...]:
    """Every normalizer defined at one position on the chosen batches, in the order of the report.

    Parameters
    ----------
    kind
        ``"synthetic"``: an exchangeable batch with correlation 0.3; ``"digits"``: 16 handwritten
        digits with their full covariance; ``"all"``: both.

    Raises
    ------
    SpecificationError
        Another ``kind``.
    """
    if kind not in (*INPUTS, "all"):
        raise out_of_domain("inputs", kind, "synthetic, digits or all", "check the spelling")
    chosen = [inputs for inputs in INPUTS if kind in (inputs, "all")]
    return tuple(
        Case(
            name=name,
            statement=statement,
            layer=layer,
            kind=inputs,
            controls=controls,
            batch=16 if inputs == "digits" else _BATCH.get(name, 8),
            effort=_EFFORT.get(f"{name}/{inputs}", _EFFORT.get(name, 1.0)),
            widths=_WIDTHS.get(name, 1.0),
            deepest=_DEEPEST.get(name, math.inf),
        )
        for inputs in chosen
        for name, statement, layer, controls in _LAYERS
    )


@dataclass(frozen=True, kw_only=True)
class Theory:
    """A prediction on the scales of ``margins.QUANTITIES``: arrays over depth, absolute errors, routes."""

    value: Mapping[str, FloatArray]
    error: Mapping[str, FloatArray]
    route: Mapping[str, str]
    status: str


def theory_of(network: FeedForward, inputs: Inputs) -> Theory:
    """``predict`` on the scales of the comparison: log E[x^2], s, log rank, log(|g^l|^2/|g^L|^2)."""
    prediction: Prediction = predict(network, inputs)
    error = prediction.error
    assert prediction.log_gradient_norm is not None
    rank = prediction.stable_rank
    return Theory(
        value={
            "second_moment": prediction.log_second_moment,
            "similarity": prediction.similarity,
            "stable_rank": np.log(rank),
            "gradient": 2.0 * prediction.log_gradient_norm,
        },
        error={
            "second_moment": error["log_second_moment"],
            "similarity": error["similarity"],
            "stable_rank": error["stable_rank"] / rank,
            "gradient": 2.0 * np.abs(error["log_gradient_norm"]),
        },
        route={
            "second_moment": prediction.route["second_moment"][-1],
            "similarity": prediction.route["similarity"][-1],
            "stable_rank": prediction.route["stable_rank"][-1],
            "gradient": prediction.route["log_gradient_norm"][0],
        },
        status=prediction.regime.status if math.isfinite(prediction.regime.rank) else "regular",
    )
