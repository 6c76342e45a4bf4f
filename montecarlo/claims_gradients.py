"""Claims of the paper's third finding: gradients, and what they are traded against."""

from __future__ import annotations

import math

from montecarlo.claim import Claim
from montecarlo.claims_shared import EXPLODE, NOTES, growth, on_batches, ring
from theory.specs.networks import Layer
from theory.specs.normalizers import group_norm, instance_norm
from theory.zoo import zoo

__all__ = ["CLAIMS"]

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="iii.group-norm",
        statement="Gradients through GroupNorm explode, the faster the smaller the group.",
        source=EXPLODE,
        exact="λ = (G−2)/(G−3); for G = 6",
        number=lambda: growth(Layer(norm=group_norm(6))),
        cases=(*on_batches("GN(6)"), "GN(4)/synthetic"),
        quantities=("gradient",),
    ),
    Claim(
        id="iii.heavy-tail",
        statement="At G = 4 squared gradients have no variance, and yet their mean grows by λ.",
        source=NOTES + "4, heavy tails",
        exact="λ = (G−2)/(G−3), extrapolated with a term n^(−1/2) beside 1/n; for G = 4",
        number=lambda: growth(Layer(norm=group_norm(4))),
        cases=("GN(4)/synthetic",),
        quantities=("gradient",),
    ),
    Claim(
        id="iii.batch-norm",
        statement="Gradients through BatchNorm explode, the faster the smaller the batch.",
        source=EXPLODE,
        exact="λ_B → π/(π−1); for B = 8",
        number=lambda: growth(zoo["BN"], batch=8),
        cases=on_batches("BN"),
        quantities=("gradient",),
    ),
    Claim(
        id="iii.instance-norm",
        statement="InstanceNorm explodes over S positions as BatchNorm does over S samples.",
        source=EXPLODE,
        exact="λ_IN(S) = λ_B at B = S; for S = 16",
        number=lambda: growth(Layer(norm=instance_norm()), positions=16),
        cases=ring("IN"),
        quantities=("gradient",),
    ),
    Claim(
        id="iii.group-size",
        statement="Growing the group tames the gradient.",
        source=EXPLODE,
        exact="λ over 16 positions falls from G = 1 over 2 to 8; for G = 8",
        number=lambda: growth(Layer(norm=group_norm(8)), positions=16),
        cases=ring("IN", "GN(2)", "GN(8)"),
        quantities=("gradient",),
    ),
    Claim(
        id="iii.layer-norm",
        statement="LayerNorm and RMSNorm keep gradients, as He initialization does.",
        source=EXPLODE,
        exact="λ = 1",
        cases=on_batches("LN", "RMSNorm", "plain"),
        quantities=("gradient",),
    ),
    Claim(
        id="iii.trade-off",
        statement="Stable gradients or distinguishable samples: the group size moves along a frontier to LN.",
        source=EXPLODE,
        exact="(s*, λ) from InstanceNorm over GN(2) and GN(8) to (1, 1) at LN; there "
        "λ − 1 → (2√2/3π) √(1 − s*), with and without positions",
        number=lambda: 2.0 * math.sqrt(2.0) / (3.0 * math.pi),
        cases=(*ring("IN", "GN(2)", "GN(8)"), "GN(6)/synthetic", "LN/synthetic"),
        quantities=("similarity", "gradient"),
    ),
)
