"""What ``normcompass verify`` checks, as data: cases and controls; see also ``margins``, ``budgets``.

Everything here was fixed before the results were looked at, and nothing here computes a verdict.
A *case* is one complete layer of the paper (theory notes, section 2) on one batch; its *controls* are
plausible wrong theories, each the exact prediction for another network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from montecarlo import residual_cases, spatial_cases
from montecarlo.case import INPUTS, Case, Control, InputKind
from theory.errors import out_of_domain
from theory.recursion import predict
from theory.results import Prediction
from theory.specs.activations import identity, relu, silu
from theory.specs.inputs import Inputs
from theory.specs.networks import Layer, Network
from theory.specs.normalizers import (
    Normalizer,
    Pool,
    group_norm,
    variance_norm,
)
from theory.specs.weights import gaussian, weight_norm
from theory.zoo import zoo

__all__ = [
    "Case",
    "Control",
    "Theory",
    "cases",
    "theory_of",
]

FloatArray = NDArray[np.float64]


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
        positions; ``"residual"``: residual networks; ``"all"``: all but the ring and the torus, whose
        24 layers of convolutions take longer than everything else.

    Raises
    ------
    SpecificationError
        Another ``kind``.
    """
    if kind not in (*INPUTS, "all"):
        names = ", ".join(INPUTS)
        raise out_of_domain("inputs", kind, f"{names} or all", "check the spelling")
    chosen = [inputs for inputs in INPUTS if kind == inputs]
    if kind == "all":
        chosen = [inputs for inputs in INPUTS if inputs not in spatial_cases.SHAPES]
    residual = residual_cases.CASES if "residual" in chosen else ()
    return _at_one_position(chosen) + _over_positions(chosen) + residual


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
        if inputs in ("synthetic", "digits")
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


def theory_of(network: Network, inputs: Inputs) -> Theory:
    """``predict`` on the scales of the comparison; logarithms of everything but the similarity."""
    prediction: Prediction = predict(network, inputs)
    error = prediction.error
    assert prediction.log_gradient_norm is not None
    rank, gap = prediction.stable_rank, prediction.gap
    moment, moment_error = prediction.log_second_moment, error["log_second_moment"]
    gradient = 2.0 * prediction.log_gradient_norm
    gradient_error = 2.0 * np.abs(error["log_gradient_norm"])
    forward = {name: prediction.route[name][-1] for name in ("second_moment", "similarity")}
    backward = prediction.route["log_gradient_norm"][0]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_gap, gap_error = np.log(gap), error["gap"] / gap
    return Theory(
        value={
            "second_moment": moment,
            "growth": moment,
            "similarity": prediction.similarity,
            "gap": log_gap,
            "stable_rank": np.log(rank),
            "gradient": gradient,
            "gradient_total": gradient,
        },
        error={
            "second_moment": moment_error,
            "growth": moment_error,
            "similarity": error["similarity"],
            "gap": gap_error,
            "stable_rank": error["stable_rank"] / rank,
            "gradient": gradient_error,
            "gradient_total": gradient_error,
        },
        route={
            "second_moment": forward["second_moment"],
            "growth": forward["second_moment"],
            "similarity": forward["similarity"],
            "gap": forward["similarity"],
            "stable_rank": prediction.route["stable_rank"][-1],
            "gradient": backward,
            "gradient_total": backward,
        },
        status=prediction.regime.status if math.isfinite(prediction.regime.rank) else "regular",
    )
