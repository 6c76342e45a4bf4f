"""Claims beyond the paper."""

from __future__ import annotations

import math

from montecarlo.claim import Claim
from montecarlo.claim_cases import PADDED
from montecarlo.claims_shared import NOTES, SIMILAR, growth, on_batches, residual, settled
from montecarlo.departure import Agrees, Deviation, PutInPlace
from theory.recursion import predict
from theory.specs.inputs import exchangeable
from theory.zoo import zoo

__all__ = ["CLAIMS"]

_PADDED = tuple(case.id for case in PADDED)


def _border() -> float:
    """Similarity with a border less that without, on images for which no data are needed."""
    inputs = exchangeable(batch=4, correlation=0.3, positions=(4, 4), position_correlation=0.5)
    zero, circular = (
        predict(case.network(4), inputs, backward=False).similarity[-1] for case in PADDED[:2]
    )
    return float(zero - circular)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="ours.sws-is-bn",
        statement="SWS equals BatchNorm with an infinite batch, forward and backward.",
        source=NOTES + "4",
        exact="s* = 1/π, λ = π/(π−1)",
        number=lambda: growth(zoo["SWS"]),
        cases=on_batches("SWS", "WC"),
        quantities=("similarity", "gradient"),
    ),
    Claim(
        id="ours.variance-norm",
        statement="VN is not BatchNorm's equal: samples collapse in fully connected networks.",
        source=NOTES + "4, VN",
        exact="as c → 1, 1 − c' = (1 − c)(B−3)/(B−1)",
        cases=on_batches("VN"),
        quantities=SIMILAR,
        deviation=Deviation(
            paper="VN behaves like BatchNorm.",
            why="Divided by their deviation but not centered, samples keep the mean that relu gives them: it "
            "grows against their differences, and they collapse.  MC only centers, divides by nothing, "
            "and reaches BatchNorm's similarity: what separates samples is the mean that is subtracted, "
            "not the scale.",
            effect=PutInPlace(case="VN/synthetic", control="BN for VN"),
            change="the mean is subtracted, and nothing is divided: MC in place of VN",
            intervention=Agrees(case="MC/synthetic", quantity="similarity"),
        ),
    ),
    Claim(
        id="ours.centering",
        statement="Centering alone brings exchangeable batches to BatchNorm's similarity.",
        source=NOTES + "4",
        exact="MC has BN's correlation map, its second moment decays",
        cases=("MC/synthetic",),
        quantities=("similarity", "growth", "gradient"),
    ),
    Claim(
        id="ours.weight-norm-marginal",
        statement="WN's second moment is only marginally stable: above 1 it grows.",
        source=NOTES + "4",
        exact="q' = q + (√q − 1)²/(π−1): attracting from below, repelling from above",
        cases=on_batches("WN"),
        quantities=("second_moment", "growth"),
    ),
    Claim(
        id="ours.evonorm",
        statement="EvoNorm's fixed points, forward and backward.",
        source=NOTES + "4, EvoNorm",
        exact="S0: s*",
        number=lambda: settled(zoo["EvoNorm-S0"]),
        cases=on_batches("EvoNorm-S0", "EvoNorm-B0"),
        quantities=("similarity", "gradient"),
    ),
    Claim(
        id="ours.residual-exponents",
        statement="Gradients of normalized residual networks grow as powers of depth, not as λ^L.",
        source=NOTES + "5",
        exact="L^λ: GN(6) L^(4/3), LN L, BN L^λ_B; λ_B for B = 8",
        number=lambda: growth(zoo["BN"], batch=8),
        cases=residual(
            "BN, pre-activation",
            "LN, pre-activation",
            "GN(6), pre-activation",
            "GN(8), pre-activation",
            "IN, pre-activation",
            "BN, pre-activation, 2 maps",
        ),
        quantities=("gradient_total",),
    ),
    Claim(
        id="ours.residual-bases",
        statement="Unnormalized residual gradients grow exponentially, with SWS faster than signals.",
        source=NOTES + "5",
        exact="plain 2; SWS and WN 1 + π/(π−1)",
        number=lambda: 1.0 + growth(zoo["SWS"]),
        cases=residual("plain, pre-activation", "SWS, pre-activation", "WN, pre-activation"),
        quantities=("gradient",),
    ),
    Claim(
        id="ours.remedies-gradients",
        statement="Remedies bound gradients, or make them grow as powers of depth.",
        source=NOTES + "5",
        exact="β = 0 and Fixup: 1; β = 1/√L: e, with SWS e^(π/(π−1)); NF scaling: L, with SWS L^(π/(π−1)); "
        "e^(π/(π−1))",
        number=lambda: math.exp(growth(zoo["SWS"])),
        cases=residual(
            "plain, SkipInit",
            "plain, Fixup",
            "plain, 1/√L",
            "SWS, 1/√L",
            "plain, NF scaling",
            "SWS, NF scaling",
        ),
        quantities=("gradient_total",),
    ),
    Claim(
        id="ours.transformers",
        statement="Where Transformers put their norms decides whether the variance grows.",
        source=NOTES + "5",
        exact="pre-norm, branch-end norm and sandwich: linear; DeepNorm: q = 1",
        cases=residual(
            "LN, pre-norm",
            "LN, branch-end norm",
            "BN, branch-end norm",
            "LN, sandwich",
            "LN, DeepNorm",
        ),
        quantities=("second_moment", "similarity", "gradient_total"),
    ),
    Claim(
        id="ours.post-norm",
        statement="Post-norm keeps q = 1; its gradients keep their size with LN and explode with BN and GN.",
        source=NOTES + "5",
        exact="E[x²] = 1; with relu ½ + ½ per branch, factors above 1 for finite pools",
        cases=residual("LN, post-norm", "BN, post-norm", "GN(6), post-norm"),
        quantities=("growth", "similarity", "gradient"),
    ),
    Claim(
        id="ours.reflected-walk",
        statement="In a ResNet-v1 every channel is a reflected random walk.",
        source=NOTES + "5, Spitzer",
        exact="E[x_l] = Σ 1/√(2πk), E[x_l²] = l/2 + Σ_{j+k≤l} a_j a_k → l",
        cases=residual("LN, post-activation"),
        quantities=("second_moment", "similarity", "gradient_total"),
    ),
    Claim(
        id="ours.means-add-up",
        statement="Activation before addition: means add up, and LayerNorm's samples collapse as l⁻².",
        source=NOTES + "5",
        exact="q_l ~ l²/2π, 1 − s_l ~ 2π d_∞/l²",
        cases=residual("LN, activation before addition"),
        quantities=("second_moment", "similarity", "gap"),
    ),
    Claim(
        id="ours.means-add-up-batch",
        statement="Activation before addition, with BN: samples collapse as 1/l, gradients grow as a power.",
        source=NOTES + "5",
        exact="q_l as with LayerNorm, q − p grows linearly, gradients L^λ_B; λ_B for B = 8",
        number=lambda: growth(zoo["BN"], batch=8),
        cases=residual("BN, activation before addition"),
        quantities=("second_moment", "gap", "gradient_total"),
    ),
    Claim(
        id="ours.padding",
        statement="Zero padding makes images alike: a confound of every similarity measured in a CNN.",
        source=NOTES + "1: with circular padding alone the average over offsets is the identity",
        exact="Σ_l is averaged over the offsets inside the image alone; on exchangeable images of 4 x 4 "
        "pixels 4 layers with BN and a border end at a similarity higher by",
        number=_border,
        cases=_PADDED,
        quantities=("similarity", "gap", "gradient"),
        deviation=Deviation(
            paper="Similarities of convolutional networks are those of the theory, which has no positions.",
            why="Zeros beyond the border weaken the activations near it, by the same pattern in every "
            "image.  This frame is a common signal: images grow more alike than the layer alone makes them, "
            "under BN and SWS, which without a border separate images down to about 1/π.  Its gradients grow "
            "more slowly too.  With circular padding, all else kept, the theory without a border holds: zero "
            "padding is the cause.",
            effect=PutInPlace(case=_PADDED[0], control="circular for zero"),
            change="circular in place of zero padding, same layers and images",
            intervention=Agrees(case=_PADDED[1], quantity="similarity"),
        ),
    ),
)
