"""Claims of the paper's second finding: how alike samples become, and the rank of activations."""

from __future__ import annotations

import math

from montecarlo.claim import Claim
from montecarlo.claims_shared import ALIKE, SIMILAR, on_batches, ring, settled
from montecarlo.departure import Deviation, PowerOfWidth, PutInPlace
from theory.routes.arccosine import ray_gap
from theory.specs.networks import Layer
from theory.specs.normalizers import group_norm, instance_norm
from theory.zoo import zoo

__all__ = ["CLAIMS"]

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="ii.group-norm",
        statement="GroupNorm keeps samples dissimilar: its correlation map has a fixed point below 1.",
        source=ALIKE,
        exact="c' = E κ₁(r), r ~ Hotelling(c, G−1); s* for G = 6",
        number=lambda: settled(Layer(norm=group_norm(6))),
        cases=(*on_batches("GN(6)"), "GN(4)/synthetic"),
        quantities=SIMILAR,
    ),
    Claim(
        id="ii.group-size",
        statement="The larger the group, the more alike samples become, up to LayerNorm.",
        source=ALIKE,
        exact="s* over 16 positions for G = 1 (IN), 2, 8 rises to 1; s* for G = 1",
        number=lambda: settled(Layer(norm=instance_norm()), positions=16),
        cases=(*ring("IN", "GN(2)", "GN(8)"), *on_batches("GN(6)", "LN")),
        quantities=("similarity",),
    ),
    Claim(
        id="ii.layer-norm",
        statement="LayerNorm, RMSNorm and networks without a normalizer make samples collapse.",
        source=ALIKE,
        exact="c' = κ₁(c), hence 1 − c_l → 9π²/(2 l²) far beyond these depths; limit of l² (1 − c_l)",
        number=lambda: 4.5 * math.pi**2,
        cases=on_batches("LN", "RMSNorm", "plain"),
        quantities=SIMILAR,
    ),
    Claim(
        id="ii.batch-norm",
        statement="BatchNorm brings exchangeable batches to one similarity in a single layer.",
        source=ALIKE,
        exact="s* = κ₁(−1/(B−1)) → 1/π; for B = 8",
        number=lambda: 1.0 - float(ray_gap(1.0 + 1.0 / 7.0, slopes=(1.0, 0.0))),
        cases=on_batches("BN"),
        quantities=SIMILAR,
    ),
    Claim(
        id="ii.parametric",
        statement="SWS and WN separate samples as BatchNorm does: correlations tend to 0.",
        source=ALIKE,
        exact="c' = (κ₁(c) − 1/π)/(1 − 1/π); SWS: s*",
        number=lambda: settled(zoo["SWS"]),
        cases=on_batches("SWS", "WN", "WC"),
        quantities=("similarity",),
    ),
    Claim(
        id="ii.rank",
        statement="The stable rank of activations is high with small groups and falls to 1 with LN.",
        source=ALIKE,
        exact="B / max(1 + (B−1)s, 1 − s) where pairs are alike; the whole spectrum on real data",
        cases=on_batches("BN", "GN(6)", "LN", "SWS"),
        quantities=("stable_rank",),
    ),
    Claim(
        id="ii.rank-bound",
        statement="The stable rank does not grow with the width: relu holds it below 1/s*.",
        source=ALIKE,
        exact="B/(1 + (B−1)s) < 1/s for every batch, beside the paper's bound Ω(√(width/group size)); 1/s* "
        "for G = 6",
        number=lambda: 1.0 / settled(Layer(norm=group_norm(6))),
        cases=("GN(6)/synthetic", "GN(4)/synthetic", "LN/synthetic", "GN(6), linear/synthetic"),
        quantities=("stable_rank",),
        deviation=Deviation(
            paper="The stable rank is bounded from below by Ω(√(width/group size)): it grows with the width.",
            why="For a batch of B samples the rank is at most B, and with relu it is B/(1 + (B−1)s) < 1/s, "
            "which depends on the group size through s alone and on the width not at all.  With any constant "
            "the bound fails beyond some width; with the constant 1 it asks for more than 1/s* as soon as "
            "width > G/s*²: from 9 channels on at G = 6.  Bounds of this form come from linear networks, "
            "and there c* = 0: with the identity in place of relu, on the same batch, similarity decays and "
            "the rank rises to B, so that the bound can hold up to width = G B².  What holds the rank down "
            "is relu's mean.",
            effect=PowerOfWidth(
                case="GN(6)/synthetic", quantity="stable_rank", layer=10, power=0.5
            ),
            change="the identity in place of relu, same groups and batch",
            intervention=PutInPlace(case="GN(6), linear/synthetic", control="relu for identity"),
        ),
    ),
)
