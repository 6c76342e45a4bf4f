"""What ``verify`` checks of residual networks: every order, every remedy; the paper's first finding as laws.

Where branches have a fixed size, E[x^2] and gradients grow as powers of depth and are compared as totals;
where nothing normalizes the branch they grow exponentially, and rates are compared.  A stem before the
first block makes x^0 Gaussian.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from montecarlo.case import Architecture, Control, ResidualCase
from theory.nf_scaling import nf_scaled
from theory.specs.activations import identity, silu
from theory.specs.inputs import Inputs, exchangeable
from theory.specs.networks import FeedForward, Layer, Network
from theory.specs.normalizers import (
    filter_response_norm,
    group_norm,
    instance_norm,
    variance_norm,
)
from theory.specs.residual import Order, Residual, fixup
from theory.specs.weights import gaussian
from theory.zoo import zoo

__all__ = ["CASES", "FAMILIES"]

_STEM = gaussian(weight_variance=1.0)


def _blocks(order: Order = "pre_activation", **options: Any) -> Architecture:
    """Residual networks behind a stem."""

    def build(layer: Layer, depth: int, _: Inputs) -> Network:
        return Residual(layer, depth=depth, order=order, stem=_STEM, **options)

    return build


def _nf_scaled(layer: Layer, depth: int, inputs: Inputs) -> Network:
    return nf_scaled(Residual(layer, depth=depth, stem=_STEM), inputs)


def _fixup(layer: Layer, depth: int, _: Inputs) -> Network:
    start = fixup(layer, depth=depth)
    return Residual(start.layer, depth=depth, branch=0.0, maps=start.maps, stem=_STEM)


def _wrong(
    name: str, statement: str, layer: Layer, architecture: Architecture | None = None
) -> Control:
    return Control(name, statement, layer, architecture or _blocks())


def _without_skip(layer: Layer, statement: str, quantity: str) -> Control:
    """The theory of the same layers without skips, where it is about ``quantity``."""

    def build(layer: Layer, depth: int, _: Inputs) -> Network:
        return FeedForward(layer, depth=depth)

    return Control("feed-forward theory", statement, layer, build, quantity)


_SAMPLES = exchangeable(batch=8, correlation=0.3)
# A raw numerator over a std of the batch: its squared gradient has a variance only for B >= 10.
_MORE = exchangeable(batch=16, correlation=0.3)
_POSITIONS = exchangeable(
    batch=4, correlation=0.1, positions=16, position_correlation=0.2
)  # fmt: skip

_PLAIN, _BN, _LN, _VN = zoo["plain"], zoo["BN"], zoo["LN"], zoo["VN"]
_WN, _SWS, _GN6 = zoo["WN"], zoo["SWS"], Layer(norm=group_norm(6))
_IN, _FRN = (Layer(norm=n, kernel=1) for n in (instance_norm(), filter_response_norm()))
_BN_RING, _GN2 = Layer(norm=_BN.norm, kernel=1), Layer(norm=group_norm(2), kernel=1)
_SILU, _LINEAR_VN = Layer(activation=silu), Layer(norm=variance_norm(), activation=identity)


def _case(
    name: str,
    statement: str,
    layer: Layer,
    *controls: Control,
    architecture: Architecture | None = None,
    given: Inputs = _SAMPLES,
    **marks: Any,
) -> ResidualCase:
    return ResidualCase(
        name=name,
        statement=statement,
        layer=layer,
        kind="residual",
        batch=int(given.batch),
        controls=controls,
        architecture=architecture or _blocks(),
        given=given,
        **marks,
    )


_BLIND = "every block would multiply squared gradients by λ"

_NORMALIZERS = (
    _case(
        "BN, pre-activation",
        "q_l = q₀ + l; gradients grow as a power of depth, L^1.788 (B = 8), not as λ^L.",
        _BN,
        _without_skip(_BN, _BLIND, "gradient_total"),
        _wrong("LN for BN", "forgets that the pool is a batch", _LN),
        effort=0,
    ),
    _case(
        "LN, pre-activation",
        "q_l = q₀ + l; a block multiplies squared gradients by 1 + 1/q_l: growth as L.",
        _LN,
        _wrong("plain for LN", "forgets the normalizer: q doubles", _PLAIN),
        _without_skip(_LN, "gradients would keep their size", "gradient_total"),
        effort=0,
    ),
    _case(
        "RMSNorm, pre-activation",
        "As LN.",
        zoo["RMSNorm"],
        _wrong("GN(6) for RMSNorm", "takes the pool to be finite", _GN6),
        effort=2,
    ),
    _case(
        "GN(6), pre-activation",
        "q_l = q₀ + l; a block multiplies squared gradients by 1 + λ/q_l, λ = 4/3: growth as L^λ.",
        _GN6,
        _without_skip(_GN6, _BLIND, "gradient_total"),
        _wrong("LN for GN", "forgets that the group is finite", _LN),
    ),
    _case(
        "GN(8), pre-activation",
        "As GN(6) with λ = 6/5: larger groups, smaller exponents.",
        Layer(norm=group_norm(8)),
        _wrong("GN(6) for GN(8)", "takes a smaller group", _GN6),
    ),
    _case(
        "IN, pre-activation",
        "Over 16 positions; q_l = q₀ + l, and gradients grow as a power set by InstanceNorm's λ.",
        _IN,
        _wrong("GN(2) for IN", "pools a second channel", _GN2),
        _wrong("plain for IN", "forgets the normalizer: q doubles", _PLAIN),
        given=_POSITIONS,
    ),
    _case(
        "FRN, pre-activation",
        "Over 16 positions; q_l = q₀ + l without centering.",
        _FRN,
        _wrong("IN for FRN", "subtracts the mean", _IN),
        given=_POSITIONS,
        effort=2,
    ),
    _case(
        "BN, pre-activation over positions",
        "Over 4 samples and 16 positions; q_l = q₀ + l.",
        _BN_RING,
        _wrong("IN for BN", "pools the positions of one sample only", _IN),
        given=_POSITIONS,
        effort=2,
    ),
    _case(
        "VN, pre-activation",
        "Not linear: samples grow alike, so a branch adds ever more, (B q/(q − p) − 2)/(B − 3).",
        _VN,
        _wrong("BN for VN", "takes VN to add 1 per block as BN does", _BN),
        given=_MORE,
    ),
    _case(
        "EvoNorm-S0, pre-activation",
        "q_l grows linearly, by E[(h·sigmoid(h)/std)²], which depends on q: not scale free.",
        zoo["EvoNorm-S0"],
        _wrong("silu for EvoNorm-S0", "forgets the division by the std", _SILU),
    ),
    _case(
        "EvoNorm-B0, pre-activation",
        "Linear growth from h / max(batch std, h).",
        zoo["EvoNorm-B0"],
        _wrong("VN for EvoNorm-B0", "forgets the maximum in the denominator", _LINEAR_VN),
        given=_MORE,
        deepest=8,
        effort=2,
    ),
)
_UNNORMALIZED = (
    _case(
        "plain, pre-activation",
        "Exponential: q and squared gradients double in every block.",
        _PLAIN,
        _wrong("LN for plain", "takes branches to be normalized", _LN),
        _without_skip(_PLAIN, "q would stay", "growth"),
        exponential=True,
        effort=0,
    ),
    _case(
        "WN, pre-activation",
        "Exponential: q'/q goes from 2 to 1 + π/(π−1) = 2.467, which gradients have from the start.",
        _WN,
        _wrong("plain for WN", "Gaussian rows with relu", _PLAIN),
        exponential=True,
    ),
    _case(
        "SWS, pre-activation",
        "Exponential: q doubles; squared gradients grow by 1 + π/(π−1) = 2.467 per block.",
        _SWS,
        _wrong("plain for SWS", "forgets to center the rows", _PLAIN),
        exponential=True,
    ),
)
_REMEDIES = (
    _case(
        "plain, SkipInit",
        "β = 0: nothing grows.",
        _PLAIN,
        _wrong("β = 1", "forgets SkipInit", _PLAIN),
        architecture=_blocks(branch=0.0),
    ),
    _case(
        "plain, ReZero under way",
        "β = 0.2: exponential all the same, base 1 + β² = 1.04.",
        _PLAIN,
        _wrong("β for β²", "takes a block to add β", _PLAIN, _blocks(branch=0.2**0.5)),
        architecture=_blocks(branch=0.2),
        exponential=True,
    ),
    _case(
        "plain, 1/√L",
        "q and squared gradients are bounded: (1 + 1/L)^L → e.",
        _PLAIN,
        _wrong("β = 1", "forgets β = 1/√L", _PLAIN),
        architecture=_blocks(branch="1/sqrt(L)"),
        effort=0,
    ),
    _case(
        "SWS, 1/√L",
        "q → e; squared gradients → e^(π/(π−1)) = 4.336.",
        _SWS,
        _wrong("plain, 1/√L", "e for both", _PLAIN, _blocks(branch="1/sqrt(L)")),
        architecture=_blocks(branch="1/sqrt(L)"),
    ),
    _case(
        "plain, Fixup",
        "The last map of every branch is zero: nothing grows.",
        _PLAIN,
        _wrong("without Fixup", "two maps as He initializes them", _PLAIN, _blocks(maps=2)),
        architecture=_fixup,
    ),
    _case(
        "BN, LayerScale 0.1",
        "q_l = q₀ + l/100; the power of depth is that of β = 1, reached 100 times later.",
        _BN,
        _wrong("β = 1", "forgets LayerScale", _BN),
        architecture=_blocks(branch=0.1),
    ),
    _case(
        "plain, NF scaling",
        "Branches see x/√q_l with the predicted q_l: linear, and gradients as L.",
        _PLAIN,
        _wrong("no scaling", "the unscaled network: q doubles", _PLAIN),
        architecture=_nf_scaled,
    ),
    _case(
        "SWS, NF scaling",
        "q_l = q₀ + l; squared gradients grow as L^(π/(π−1)) = L^1.467.",
        _SWS,
        _wrong("plain, NF scaling", "forgets to center the rows", _PLAIN, _nf_scaled),
        architecture=_nf_scaled,
    ),
)
_ORDERS = (
    _case(
        "BN, pre-activation, 2 maps",
        "A second map multiplies λ once more: q_l = q₀ + l, gradients as a higher power.",
        _BN,
        _wrong("one map", "forgets the second map of a branch", _BN),
        architecture=_blocks(maps=2),
    ),
    _case(
        "LN, pre-norm",
        "x + W₂ φ(W₁ N(x)): q_l = q₀ + 2 l, gradients as L.",
        _LN,
        _wrong("slope 1", "takes branches to add 1", _LN, _blocks("branch_end_norm")),
        architecture=_blocks("pre_norm"),
        effort=2,
    ),
    _case(
        "LN, branch-end norm",
        "x + N(F(x)): q_l = q₀ + l and gradients as L.  OLMo's question: the variance does keep growing.",
        _LN,
        _wrong("pre-norm", "takes branches to add σ_w² E[φ²] = 2", _LN, _blocks("pre_norm")),
        architecture=_blocks("branch_end_norm"),
        deep=True,
    ),
    _case(
        "BN, branch-end norm",
        "q_l = q₀ + l while p_l = p₀ − l/(B−1): samples become opposed.",
        _BN,
        _wrong("BN, pre-activation", "normalizes the branch's input instead", _BN),
        architecture=_blocks("branch_end_norm"),
        branch=True,
    ),
    _case(
        "BN, branch-end norm, 1 map",
        "x + N(W φ(x)): the branch sees the signs of a random flight over the batch.",
        _BN,
        _wrong("two maps", "lets no sign act on the stream", _BN, _blocks("branch_end_norm")),
        architecture=_blocks("branch_end_norm", maps=1),
        branch=True,
        effort=2,
    ),
    _case(
        "LN, sandwich",
        "x + N(W₂ φ(W₁ N(x))): q_l = q₀ + l and gradients as L.",
        _LN,
        _wrong("post-norm", "takes the sum to be normalized", _LN, _blocks("post_norm")),
        architecture=_blocks("sandwich"),
        deep=True,
    ),
    _case(
        "BN, sandwich",
        "A random flight over the batch: q_l = q₀ + l, p_l = p₀ − l/(B−1), gradients as a power of depth.",
        _BN,
        _wrong("LN for BN", "gradients as L, samples not opposed", _LN, _blocks("sandwich")),
        architecture=_blocks("sandwich"),
        branch=True,
        effort=2,
    ),
    _case(
        "GN(6), sandwich, 1 map",
        "x + N(W φ(N(x))): a random flight over the group, gradients as a power of depth.",
        _GN6,
        _wrong("LN for GN", "forgets that the group is finite", _LN, _blocks("sandwich", maps=1)),
        architecture=_blocks("sandwich", maps=1),
        branch=True,
        effort=2,
    ),
    _case(
        "LN, DeepNorm",
        "N(αx + F(x)): q = 1, gradients keep their size, samples hardly approach each other.",
        _LN,
        _wrong("post-norm", "forgets α and β", _LN, _blocks("post_norm")),
        architecture=_blocks("deep_norm"),
        deep=True,
    ),
    _case(
        "LN, post-norm",
        "N(x + F(x)): q = 1, gradients grow by 1 per block, samples collapse.",
        _LN,
        _wrong("DeepNorm", "with DeepNorm's α and β", _LN, _blocks("deep_norm")),
        architecture=_blocks("post_norm"),
        exponential=True,
        deep=True,
    ),
    _case(
        "BN, post-norm",
        "q = 1 hides an explosion: squared gradients grow by 1.432 per block (B = 8).",
        _BN,
        _wrong("LN for BN", "gradients would keep their size", _LN, _blocks("post_norm")),
        architecture=_blocks("post_norm"),
        exponential=True,
    ),
    _case(
        "GN(6), post-norm",
        "As BN with 1.287 per block.",
        _GN6,
        _wrong("LN for GN", "forgets that the group is finite", _LN, _blocks("post_norm")),
        architecture=_blocks("post_norm"),
        exponential=True,
        effort=2,
    ),
    _case(
        "LN, post-activation",
        "relu(x + N(W x)): every channel is a random walk reflected at 0, by Spitzer's identity E[x²] → l; "
        "gradients grow as L^0.209 only.",
        _LN,
        _wrong("Gaussian stream", "forgets that the sum is reflected", _LN),
        architecture=_blocks("post_activation"),
        deep=True,
    ),
    _case(
        "GN(6), post-activation",
        "A walk reflected at 0 whose steps are a sphere's coordinate: E[x²] → l, gradients as L^0.4665.",
        _GN6,
        _wrong("LN for GN", "takes steps to be Gaussian", _LN, _blocks("post_activation")),
        architecture=_blocks("post_activation"),
        branch=True,
        effort=2,
    ),
    _case(
        "BN, post-activation",
        "As GN in q; samples share gradients, and BN sees q − p: gradients by paths of pairs of samples.",
        _BN,
        _wrong("LN for BN", "gradients as L^0.209", _LN, _blocks("post_activation")),
        architecture=_blocks("post_activation"),
        branch=True,
    ),
    _case(
        "LN, activation before addition",
        "x + φ(N(W x)): means add up, q_l ~ l²/2π, and 1 − s falls as l⁻².",
        _LN,
        _wrong("pre-activation", "takes branches to have mean zero", _LN),
        architecture=_blocks("activation_before_addition"),
    ),
    _case(
        "BN, activation before addition",
        "As LN in q; BN sees q − p, which grows linearly: gradients as L^1.788 (B = 8).",
        _BN,
        _wrong("LN for BN", "bounded gradients", _LN, _blocks("activation_before_addition")),
        architecture=_blocks("activation_before_addition"),
    ),
)

FAMILIES: Mapping[str, tuple[ResidualCase, ...]] = MappingProxyType(
    {
        "pre-activation, branches normalized": _NORMALIZERS,
        "pre-activation, branches not normalized": _UNNORMALIZED,
        "remedies": _REMEDIES,
        "other orders, two maps": _ORDERS,
    }
)
CASES = tuple(case for family in FAMILIES.values() for case in family)
