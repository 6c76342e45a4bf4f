"""Claims as data: every finding of the paper split into what can be checked, and ours beside it.

A claim names the cases of ``verify`` that bear on it and the quantities that decide it; prediction, margin
and width law are those of the cases (``cases``, ``margins``, ``verdicts``).  ``number`` is a
value of what theory says exactly, evaluated when asked.  Where theory departs from the paper, ``deviation``
says how, and which intervention shows the cause.

The paper: Lubana, Tanaka & Dick 2021, arXiv 2106.05956.
"""

from __future__ import annotations

import math

from montecarlo.claim import Claim
from theory.fixed_points import fixed_point
from theory.routes.arccosine import ray_gap
from theory.specs.networks import FeedForward, Layer
from theory.specs.normalizers import group_norm, instance_norm
from theory.zoo import zoo

__all__ = ["CLAIMS"]


def _on_batches(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}/{kind}" for name in names for kind in ("synthetic", "digits"))


def _residual(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}/residual" for name in names)


def _ring(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}/ring" for name in names)


def _settled(name: str, *, batch: float | None = None) -> float:
    """s* of a layer of the zoo."""
    return fixed_point(FeedForward(zoo[name], depth=1), batch=batch).similarity


def _growth(layer: Layer, *, batch: float | None = None, positions: int = 1) -> float:
    """lambda of a layer."""
    network = FeedForward(layer, depth=1)
    return fixed_point(network, batch=batch, positions=positions).gradient_growth


_VARIANCE = ("second_moment", "growth")
_SIMILAR = ("similarity", "gap")
_BEFORE = "paper, finding (i): stable forward propagation"
_ALIKE = "paper, finding (ii): informative forward propagation"
_EXPLODE = "paper, finding (iii): stable backward propagation"
_NOTES = "ours, theory notes, section "

_VARIANCE_CLAIMS = (
    Claim(
        id="i.feedforward",
        statement="Activation-based normalizers set the second moment afresh in every layer.",
        source=_BEFORE,
        exact="E[x²] = ½ after relu, at every depth",
        number=lambda: 0.5,
        cases=_on_batches("BN", "LN", "RMSNorm", "GN(6)"),
        quantities=("second_moment",),
    ),
    Claim(
        id="i.linear",
        statement="With BN, LN or GN in the branch the variance of a residual network grows linearly.",
        source=_BEFORE,
        exact="q_l = q₀ + l for every normalizer that sets E[N(h)²] = 1",
        cases=_residual(
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
        statement="So it does with InstanceNorm and Filter Response Norm over positions.",
        source=_BEFORE,
        exact="q_l = q₀ + l",
        cases=_residual(
            "IN, pre-activation", "FRN, pre-activation", "BN, pre-activation over positions"
        ),
        quantities=("second_moment",),
    ),
    Claim(
        id="i.evonorm",
        statement="EvoNorm-S0 and -B0 keep the growth linear, with slopes of their own.",
        source=_BEFORE,
        exact="q_{l+1} = q_l + σ_w² E[N(h)²], where E[N(h)²] depends on q: not scale free",
        cases=_residual("EvoNorm-S0, pre-activation", "EvoNorm-B0, pre-activation"),
        quantities=("second_moment",),
    ),
    Claim(
        id="i.variance-norm",
        statement="Variance Normalization grows faster than linearly in fully connected networks.",
        source=_BEFORE,
        exact="a branch adds (B q/(q − p) − 2)/(B − 3), more as samples become alike; q/(q − p) at B = ∞",
        cases=_residual("VN, pre-activation"),
        quantities=("second_moment",),
        deviation=(
            "The paper counts every activation-based normalizer as linear.  VN divides by the deviation "
            "over the batch without subtracting the mean: as samples become alike, branches grow.  The "
            "intervention is centering: BN is linear (i.linear), and 'BN for VN' is rejected."
        ),
    ),
    Claim(
        id="i.exponential",
        statement="Without a normalizer, or with WN or SWS, the variance grows exponentially.",
        source=_BEFORE,
        exact="bases: plain 2, SWS 2, WN from 2 to 1 + π/(π−1)",
        number=lambda: 1.0 + math.pi / (math.pi - 1.0),
        cases=_residual("plain, pre-activation", "WN, pre-activation", "SWS, pre-activation"),
        quantities=("growth",),
    ),
    Claim(
        id="i.remedies",
        statement="Parametric normalizers need a remedy; SkipInit, Fixup and 1/√L bound the variance.",
        source=_BEFORE,
        exact="β = 0 and Fixup: q_l = q₀; β = 1/√L: (1 + 1/L)^L → e",
        number=lambda: math.e,
        cases=_residual("plain, SkipInit", "plain, Fixup", "plain, 1/√L", "SWS, 1/√L"),
        quantities=("second_moment",),
    ),
    Claim(
        id="i.small-branches",
        statement="A small constant β only delays the exponential; LayerScale delays a power.",
        source="ours, theory notes, section 5",
        exact="plain: base 1 + β²; BN: q_l = q₀ + β² l",
        number=lambda: 1.04,
        cases=_residual("plain, ReZero under way", "BN, LayerScale 0.1"),
        quantities=(*_VARIANCE, "gradient", "gradient_total"),
    ),
    Claim(
        id="i.nf-scaling",
        statement="NF scaling makes the variance of unnormalized residual networks grow linearly.",
        source="Brock, De & Smith 2021; theory notes, section 5",
        exact="branches see x/√q_l with the predicted q_l: q_l = q₀ + l",
        cases=_residual("plain, NF scaling", "SWS, NF scaling"),
        quantities=("second_moment",),
    ),
)

_SIMILARITY_CLAIMS = (
    Claim(
        id="ii.group-norm",
        statement="GroupNorm keeps samples dissimilar: its correlation map has a fixed point below 1.",
        source=_ALIKE,
        exact="c' = E κ₁(r), r ~ Hotelling(c, G−1); s* for G = 6",
        number=lambda: fixed_point(FeedForward(Layer(norm=group_norm(6)), depth=1)).similarity,
        cases=(*_on_batches("GN(6)"), "GN(4)/synthetic"),
        quantities=_SIMILAR,
    ),
    Claim(
        id="ii.group-size",
        statement="The larger the group, the more alike samples become, up to LayerNorm.",
        source=_ALIKE,
        exact="s* over 16 positions for G = 1 (IN), 2, 8 rises to 1; s* for G = 1",
        number=lambda: (
            fixed_point(FeedForward(Layer(norm=instance_norm()), depth=1), positions=16).similarity
        ),
        cases=(*_ring("IN", "GN(2)", "GN(8)"), *_on_batches("GN(6)", "LN")),
        quantities=("similarity",),
    ),
    Claim(
        id="ii.layer-norm",
        statement="LayerNorm, RMSNorm and networks without a normalizer make samples collapse.",
        source=_ALIKE,
        exact="c' = κ₁(c), hence 1 − c_l → 9π²/(2 l²) far beyond these depths; limit of l² (1 − c_l)",
        number=lambda: 4.5 * math.pi**2,
        cases=_on_batches("LN", "RMSNorm", "plain"),
        quantities=_SIMILAR,
    ),
    Claim(
        id="ii.batch-norm",
        statement="BatchNorm brings exchangeable batches to one similarity in a single layer.",
        source=_ALIKE,
        exact="s* = κ₁(−1/(B−1)) → 1/π; for B = 8",
        number=lambda: 1.0 - float(ray_gap(1.0 + 1.0 / 7.0, slopes=(1.0, 0.0))),
        cases=_on_batches("BN"),
        quantities=_SIMILAR,
    ),
    Claim(
        id="ii.parametric",
        statement="SWS and WN separate samples as BatchNorm does: correlations tend to 0.",
        source=_ALIKE,
        exact="c' = (κ₁(c) − 1/π)/(1 − 1/π); SWS: s*",
        number=lambda: _settled("SWS"),
        cases=_on_batches("SWS", "WN", "WC"),
        quantities=("similarity",),
    ),
    Claim(
        id="ii.rank",
        statement="The stable rank of activations is high with small groups and falls to 1 with LN.",
        source=_ALIKE,
        exact="B / max(1 + (B−1)s, 1 − s) where pairs are alike; the whole spectrum on real data",
        cases=_on_batches("BN", "GN(6)", "LN", "SWS"),
        quantities=("stable_rank",),
        deviation=(
            "The paper bounds the rank from below by Ω(√(width/group size)).  At fixed batch the exact "
            "value does not depend on the width: it is at most B, and for groups of fixed size tends "
            "to B/(1 + (B−1)s*).  The bound holds while √(width/G) is below that, and says nothing "
            "about what a batch of B samples can show beyond it.  The intervention is the width: "
            "extrapolations over a factor 16 end at the same rank."
        ),
    ),
)

_GRADIENT_CLAIMS = (
    Claim(
        id="iii.group-norm",
        statement="Gradients through GroupNorm explode, the faster the smaller the group.",
        source=_EXPLODE,
        exact="λ = (G−2)/(G−3); for G = 6",
        number=lambda: _growth(Layer(norm=group_norm(6))),
        cases=(*_on_batches("GN(6)"), "GN(4)/synthetic"),
        quantities=("gradient",),
    ),
    Claim(
        id="iii.heavy-tail",
        statement="At G = 4 the squared gradient has a mean, which finite widths approach only as n^(−1/2).",
        source=_NOTES + "4, heavy tails",
        exact="λ = (G−2)/(G−3) for G = 4, approached as n^(−1/2)",
        number=lambda: _growth(Layer(norm=group_norm(4))),
        cases=("GN(4)/synthetic",),
        quantities=("gradient",),
    ),
    Claim(
        id="iii.batch-norm",
        statement="Gradients through BatchNorm explode, the faster the smaller the batch.",
        source=_EXPLODE,
        exact="λ_B → π/(π−1); for B = 8",
        number=lambda: _growth(zoo["BN"], batch=8),
        cases=_on_batches("BN"),
        quantities=("gradient",),
    ),
    Claim(
        id="iii.instance-norm",
        statement="InstanceNorm explodes over S positions as BatchNorm does over S samples.",
        source=_EXPLODE,
        exact="λ_IN(S) = λ_B at B = S; for S = 16",
        number=lambda: _growth(Layer(norm=instance_norm()), positions=16),
        cases=_ring("IN"),
        quantities=("gradient",),
    ),
    Claim(
        id="iii.group-size",
        statement="Growing the group tames the gradient.",
        source=_EXPLODE,
        exact="λ over 16 positions falls from G = 1 over 2 to 8; for G = 8",
        number=lambda: _growth(Layer(norm=group_norm(8)), positions=16),
        cases=_ring("IN", "GN(2)", "GN(8)"),
        quantities=("gradient",),
    ),
    Claim(
        id="iii.layer-norm",
        statement="LayerNorm and RMSNorm keep gradients, as He initialization does.",
        source=_EXPLODE,
        exact="λ = 1",
        number=lambda: _growth(zoo["LN"]),
        cases=_on_batches("LN", "RMSNorm", "plain"),
        quantities=("gradient",),
    ),
    Claim(
        id="iii.trade-off",
        statement="Stable gradients or distinguishable samples: one group size moves along a frontier.",
        source=_EXPLODE,
        exact="(s*, λ) for G = 1, 2, 8 over 16 positions, and (1, 1) for LN",
        cases=_ring("IN", "GN(2)", "GN(8)"),
        quantities=("similarity", "gradient"),
    ),
)

_OUR_CLAIMS = (
    Claim(
        id="ours.sws-is-bn",
        statement="SWS equals BatchNorm with an infinite batch, forward and backward.",
        source=_NOTES + "4",
        exact="s* = 1/π, λ = π/(π−1)",
        number=lambda: _growth(zoo["SWS"]),
        cases=_on_batches("SWS", "WC"),
        quantities=("similarity", "gradient"),
    ),
    Claim(
        id="ours.variance-norm",
        statement="VN is not BatchNorm's equal: samples collapse in fully connected networks.",
        source=_NOTES + "4, VN",
        exact="as c → 1, 1 − c' = (1 − c)(B−3)/(B−1)",
        cases=_on_batches("VN"),
        quantities=_SIMILAR,
        deviation=(
            "The paper remarks that VN behaves like BatchNorm.  Without positions it does not separate "
            "samples.  The intervention: MC, which only centers, does (ours.centering)."
        ),
    ),
    Claim(
        id="ours.centering",
        statement="Centering alone brings exchangeable batches to BatchNorm's similarity.",
        source=_NOTES + "4",
        exact="MC has BN's correlation map, its second moment decays",
        cases=("MC/synthetic",),
        quantities=("similarity", "growth", "gradient"),
    ),
    Claim(
        id="ours.weight-norm-marginal",
        statement="WN's second moment is only marginally stable: above 1 it grows.",
        source=_NOTES + "4",
        exact="q' = q + (√q − 1)²/(π−1): attracting from below, repelling from above",
        cases=_on_batches("WN"),
        quantities=_VARIANCE,
    ),
    Claim(
        id="ours.evonorm",
        statement="EvoNorm's fixed points, forward and backward.",
        source=_NOTES + "4, EvoNorm",
        exact="S0: s*",
        number=lambda: _settled("EvoNorm-S0"),
        cases=_on_batches("EvoNorm-S0", "EvoNorm-B0"),
        quantities=("similarity", "gradient"),
    ),
    Claim(
        id="ours.residual-exponents",
        statement="Gradients of normalized residual networks grow as powers of depth, not as λ^L.",
        source=_NOTES + "5",
        exact="L^λ: GN(6) L^(4/3), LN L, BN L^λ_B; λ_B for B = 8",
        number=lambda: _growth(zoo["BN"], batch=8),
        cases=_residual(
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
        source=_NOTES + "5",
        exact="plain 2; SWS and WN 1 + π/(π−1)",
        number=lambda: 1.0 + _growth(zoo["SWS"]),
        cases=_residual("plain, pre-activation", "SWS, pre-activation", "WN, pre-activation"),
        quantities=("gradient",),
    ),
    Claim(
        id="ours.remedies-gradients",
        statement="Remedies bound gradients, or make them grow as powers of depth.",
        source=_NOTES + "5",
        exact="β = 0 and Fixup: 1; β = 1/√L: e, with SWS e^(π/(π−1)); NF scaling: L, with SWS L^(π/(π−1)); "
        "e^(π/(π−1))",
        number=lambda: math.exp(_growth(zoo["SWS"])),
        cases=_residual(
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
        source=_NOTES + "5",
        exact="pre-norm, branch-end norm and sandwich: linear; DeepNorm: q = 1",
        cases=_residual(
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
        source=_NOTES + "5",
        exact="E[x²] = 1; with relu ½ + ½ per branch, factors above 1 for finite pools",
        cases=_residual("LN, post-norm", "BN, post-norm", "GN(6), post-norm"),
        quantities=("growth", "similarity", "gradient"),
    ),
    Claim(
        id="ours.reflected-walk",
        statement="In a ResNet-v1 every channel is a reflected random walk.",
        source=_NOTES + "5, Spitzer",
        exact="E[x_l] = Σ 1/√(2πk), E[x_l²] = l/2 + Σ_{j+k≤l} a_j a_k → l",
        cases=_residual("LN, post-activation"),
        quantities=("second_moment", "similarity", "gradient_total"),
    ),
    Claim(
        id="ours.means-add-up",
        statement="Activation before addition: means add up, and LayerNorm's samples collapse as l⁻².",
        source=_NOTES + "5",
        exact="q_l ~ l²/2π, 1 − s_l ~ 2π d_∞/l²",
        cases=_residual("LN, activation before addition"),
        quantities=("second_moment", "similarity", "gap"),
    ),
    Claim(
        id="ours.means-add-up-batch",
        statement="With BatchNorm there q − p grows linearly: samples collapse as 1/l, gradients as a power.",
        source=_NOTES + "5",
        exact="q_l as with LayerNorm, gradients L^λ_B; λ_B for B = 8",
        number=lambda: _growth(zoo["BN"], batch=8),
        cases=_residual("BN, activation before addition"),
        quantities=("second_moment", "gap", "gradient_total"),
    ),
)

CLAIMS: tuple[Claim, ...] = (
    *_VARIANCE_CLAIMS,
    *_SIMILARITY_CLAIMS,
    *_GRADIENT_CLAIMS,
    *_OUR_CLAIMS,
)
