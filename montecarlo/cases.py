"""What ``normcompass verify`` checks, as data: cases and controls; see also ``margins``, ``budgets``.

Everything here was fixed before the results were looked at, and nothing here computes a verdict.
A *case* is one complete layer of the paper (theory notes, section 2) on one batch; its *controls* are
plausible wrong theories, each the exact prediction for another network.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from montecarlo.case import INPUTS, Case, Control, InputKind
from montecarlo.claim import Claim
from montecarlo.claim_cases import LINEAR, PADDED
from montecarlo.padding_cases import CASES as PADDING_CASES
from montecarlo.residual_cases import CASES
from montecarlo.spatial_cases import BATCH, ESSENTIAL, LAYERS, SHAPES
from montecarlo.wrong_laws import (
    group_without_outer_product,
    independent_denominators,
    infinite_batch,
    rank_by_root,
    samples_on_their_own,
)
from theory.errors import out_of_domain
from theory.specs.activations import identity, relu, silu
from theory.specs.networks import Layer
from theory.specs.normalizers import (
    Normalizer,
    Pool,
    group_norm,
    variance_norm,
)
from theory.specs.weights import gaussian, weight_norm
from theory.zoo import zoo

__all__ = ["cases", "wrong_theories"]

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
            Control(
                "samples on their own",
                "leaves out what gradients of a batch owe each other",
                zoo["BN"],
                quantity="gradient",
                law=lambda batch, right: samples_on_their_own(right, batch=batch),
            ),
            Control(
                "infinite batch",
                "λ = π/(π−1): forgets that the batch is finite",
                zoo["BN"],
                quantity="gradient",
                law=lambda batch, right: infinite_batch(right, batch=batch),
            ),
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
            Control(
                "without u uᵀ",
                "λ = (G−1)/(G−3): forgets that R depends on h",
                _GN6,
                quantity="gradient",
                law=lambda _, right: group_without_outer_product(right, group_size=6),
            ),
            Control(
                "independent denominators",
                "takes the R of two samples to be independent",
                _GN6,
                quantity="similarity",
                law=lambda _, right: independent_denominators(right, group_size=6),
            ),
            Control(
                "the bound as a law",
                "rank ∝ √(width/G), from its value at G = 4",
                _GN6,
                quantity="stable_rank",
                law=lambda batch, right: rank_by_root(right, batch=batch, sizes=(4, 6)),
            ),
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
        positions; ``"images"``: 4 digits of 4 x 4 pixels; ``"padding"``: zero padding and a stride
        on 8 x 8 digits; ``"residual"``: residual networks; ``"all"``: everything but the torus,
        padding and most of the ring, whose convolutions take longer than all the rest.

    Raises
    ------
    SpecificationError
        Another ``kind``.
    """
    if kind not in (*INPUTS, "all"):
        names = ", ".join(INPUTS)
        raise out_of_domain("inputs", kind, f"{names} or all", "check the spelling")
    if kind == "all":
        spatial = [case for case in _over_positions("ring") if case.name in ESSENTIAL]
        single = (*cases("synthetic"), *cases("digits"))
        return (*single, *spatial, *PADDED, *CASES)
    for name, chosen in (("images", PADDED), ("padding", PADDING_CASES), ("residual", CASES)):
        if kind == name:
            return chosen
    (inputs,) = (known for known in INPUTS if known == kind)
    if inputs in SHAPES:
        return _over_positions(inputs)
    return (*_at_one_position(inputs), *((LINEAR,) if inputs == "synthetic" else ()))


def wrong_theories(claim: Claim) -> tuple[tuple[str, Control], ...]:
    """(case, control): the wrong theories that may show in the quantities which decide a claim.

    A run shows those whose effect on its tests is two margins or more.
    """
    known = {case.id: case for kind in INPUTS for case in cases(kind)}
    return tuple(
        (name, control)
        for name in claim.cases
        for control in known[name].controls
        if control.quantity is None or control.quantity in claim.quantities
    )


def _over_positions(inputs: InputKind) -> tuple[Case, ...]:
    return tuple(
        Case(
            name=name,
            statement=statement,
            layer=layer,
            kind=inputs,
            controls=tuple(Control(*wrong) for wrong in controls),
            batch=BATCH,
        )
        for name, statement, layer, controls in LAYERS
    )


def _at_one_position(inputs: InputKind) -> tuple[Case, ...]:
    return tuple(
        Case(
            name=name,
            statement=statement,
            layer=layer,
            kind=inputs,
            # A formula with a term left out is about exchangeable samples.
            controls=tuple(c for c in controls if inputs == "synthetic" or c.law is None),
            batch=16 if inputs == "digits" else _BATCH.get(name, 8),
            deepest=_DEEPEST.get(f"{name}/{inputs}"),
        )
        for name, statement, layer, controls in _LAYERS
        if inputs == "synthetic" or name not in _SYNTHETIC_ONLY
    )
