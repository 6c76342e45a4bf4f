"""Claims of the paper's first finding: what the variance of activations does with depth."""

from __future__ import annotations

import math

from montecarlo.claim import Claim
from montecarlo.claims_shared import BEFORE, on_batches, residual
from montecarlo.departure import Agrees, Deviation, PutInPlace

__all__ = ["CLAIMS"]

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="i.feedforward",
        statement="Activation-based normalizers set the second moment afresh in every layer.",
        source=BEFORE,
        exact="E[x²] = ½ after relu, at every depth",
        cases=on_batches("BN", "LN", "RMSNorm", "GN(6)"),
        quantities=("second_moment",),
    ),
    Claim(
        id="i.linear",
        statement="With BN, LN or GN in the branch the variance of a residual network grows linearly.",
        source=BEFORE,
        exact="q_l = q₀ + l for every normalizer that sets E[N(h)²] = 1",
        cases=residual(
            "BN, pre-activation",
            "LN, pre-activation",
            "RMSNorm, pre-activation",
            "GN(6), pre-activation",
            "GN(8), pre-activation",
        ),
        quantities=("second_moment",),
    ),
    Claim(
        id="i.linear-positions",
        statement="With InstanceNorm, Filter Response Norm or BN over positions it grows linearly too.",
        source=BEFORE,
        exact="q_l = q₀ + l",
        cases=residual(
            "IN, pre-activation", "FRN, pre-activation", "BN, pre-activation over positions"
        ),
        quantities=("second_moment",),
    ),
    Claim(
        id="i.evonorm",
        statement="EvoNorm-S0 and -B0 keep the growth linear, with slopes of their own.",
        source=BEFORE,
        exact="q_{l+1} = q_l + σ_w² E[N(h)²], where E[N(h)²] depends on q: not scale free",
        cases=residual("EvoNorm-S0, pre-activation", "EvoNorm-B0, pre-activation"),
        quantities=("second_moment",),
    ),
    Claim(
        id="i.variance-norm",
        statement="Variance Normalization grows faster than linearly in fully connected networks.",
        source=BEFORE,
        exact="a branch adds (B q/(q − p) − 2)/(B − 3), more as samples become alike; q/(q − p) at B = ∞",
        cases=residual("VN, pre-activation"),
        quantities=("second_moment",),
        deviation=Deviation(
            paper="Every activation-based normalizer makes the variance grow linearly.",
            why="VN divides by the deviation over the batch without subtracting the mean.  In a residual "
            "stream samples become alike, their deviation falls below their size, and every branch adds "
            "more than the one before.  BN differs from VN in nothing but the centering, and its growth is "
            "linear: the missing mean is the cause.",
            effect=PutInPlace(case="VN, pre-activation/residual", control="BN for VN"),
            change="the mean is subtracted: BN in place of VN",
            intervention=Agrees(case="BN, pre-activation/residual", quantity="second_moment"),
        ),
    ),
    Claim(
        id="i.exponential",
        statement="Without a normalizer, or with WN or SWS, the variance grows exponentially.",
        source=BEFORE,
        exact="bases: plain 2, SWS 2, WN from 2 to 1 + π/(π−1)",
        number=lambda: 1.0 + math.pi / (math.pi - 1.0),
        cases=residual("plain, pre-activation", "WN, pre-activation", "SWS, pre-activation"),
        quantities=("growth",),
    ),
    Claim(
        id="i.remedies",
        statement="Parametric normalizers need a remedy; SkipInit, Fixup and 1/√L bound the variance.",
        source=BEFORE,
        exact="β = 0 and Fixup: q_l = q₀; β = 1/√L: (1 + 1/L)^L → e",
        number=lambda: math.e,
        cases=residual("plain, SkipInit", "plain, Fixup", "plain, 1/√L", "SWS, 1/√L"),
        quantities=("second_moment",),
    ),
    Claim(
        id="i.small-branches",
        statement="A small constant β only delays the exponential; LayerScale delays a power.",
        source="ours, theory notes, section 5",
        exact="plain: base 1 + β²; BN: q_l = q₀ + β² l; base for β = 0.2",
        number=lambda: 1.04,
        cases=residual("plain, ReZero under way", "BN, LayerScale 0.1"),
        quantities=("second_moment", "growth", "gradient", "gradient_total"),
    ),
    Claim(
        id="i.nf-scaling",
        statement="NF scaling makes the variance of unnormalized residual networks grow linearly.",
        source="Brock, De & Smith 2021; theory notes, section 5",
        exact="branches see x/√q_l with the predicted q_l: q_l = q₀ + l",
        cases=residual("plain, NF scaling", "SWS, NF scaling"),
        quantities=("second_moment",),
    ),
)
