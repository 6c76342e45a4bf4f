"""What ``verify`` checks of residual networks: every order, every remedy; the paper's first finding as laws.

Where branches have a fixed size, E[x^2] and gradients grow as powers of depth and are compared as totals;
where nothing normalizes the branch they grow exponentially, and rates are compared.  A stem before the
first block makes x^0 Gaussian.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from montecarlo.case import ResidualCase
from montecarlo.residual_orders import ORDERS
from montecarlo.residual_parts import BN, GN6, LN, PLAIN, STEM, blocks, case, without_skip, wrong
from theory.nf_scaling import nf_scaled
from theory.specs.activations import identity, silu
from theory.specs.inputs import Inputs, exchangeable
from theory.specs.networks import Layer, Network
from theory.specs.normalizers import (
    filter_response_norm,
    group_norm,
    instance_norm,
    variance_norm,
)
from theory.specs.residual import Residual, fixup
from theory.zoo import zoo

__all__ = ["CASES", "FAMILIES"]

# A raw numerator over a std of the batch: its squared gradient has a variance only for B >= 10.
_MORE = exchangeable(batch=16, correlation=0.3)
_POSITIONS = exchangeable(batch=4, correlation=0.1, positions=16, position_correlation=0.2)

_VN, _WN, _SWS = zoo["VN"], zoo["WN"], zoo["SWS"]
_IN, _FRN = (Layer(norm=n, kernel=1) for n in (instance_norm(), filter_response_norm()))
_BN_RING, _GN2 = Layer(norm=BN.norm, kernel=1), Layer(norm=group_norm(2), kernel=1)
_SILU, _LINEAR_VN = Layer(activation=silu), Layer(norm=variance_norm(), activation=identity)


def _nf_scaled(layer: Layer, depth: int, inputs: Inputs) -> Network:
    return nf_scaled(Residual(layer, depth=depth, stem=STEM), inputs)


def _fixup(layer: Layer, depth: int, _: Inputs) -> Network:
    start = fixup(layer, depth=depth)
    return Residual(start.layer, depth=depth, branch=0.0, maps=start.maps, stem=STEM)


_BLIND = "every block would multiply squared gradients by λ"

_NORMALIZERS = (
    case(
        "BN, pre-activation",
        "q_l = q₀ + l; gradients grow as a power of depth, L^1.788 (B = 8), not as λ^L.",
        BN,
        without_skip(BN, _BLIND, "gradient_total"),
        wrong("LN for BN", "forgets that the pool is a batch", LN),
        effort=0,
    ),
    case(
        "LN, pre-activation",
        "q_l = q₀ + l; a block multiplies squared gradients by 1 + 1/q_l: growth as L.",
        LN,
        wrong("plain for LN", "forgets the normalizer: q doubles", PLAIN),
        without_skip(LN, "gradients would keep their size", "gradient_total"),
        effort=0,
    ),
    case(
        "RMSNorm, pre-activation",
        "As LN.",
        zoo["RMSNorm"],
        wrong("GN(6) for RMSNorm", "takes the pool to be finite", GN6),
        effort=2,
    ),
    case(
        "GN(6), pre-activation",
        "q_l = q₀ + l; a block multiplies squared gradients by 1 + λ/q_l, λ = 4/3: growth as L^λ.",
        GN6,
        without_skip(GN6, _BLIND, "gradient_total"),
        wrong("LN for GN", "forgets that the group is finite", LN),
    ),
    case(
        "GN(8), pre-activation",
        "As GN(6) with λ = 6/5: larger groups, smaller exponents.",
        Layer(norm=group_norm(8)),
        wrong("GN(6) for GN(8)", "takes a smaller group", GN6),
    ),
    case(
        "IN, pre-activation",
        "Over 16 positions; q_l = q₀ + l, and gradients grow as a power set by InstanceNorm's λ.",
        _IN,
        wrong("GN(2) for IN", "pools a second channel", _GN2),
        wrong("plain for IN", "forgets the normalizer: q doubles", PLAIN),
        given=_POSITIONS,
    ),
    case(
        "FRN, pre-activation",
        "Over 16 positions; q_l = q₀ + l without centering.",
        _FRN,
        wrong("IN for FRN", "subtracts the mean", _IN),
        given=_POSITIONS,
        effort=2,
    ),
    case(
        "BN, pre-activation over positions",
        "Over 4 samples and 16 positions; q_l = q₀ + l.",
        _BN_RING,
        wrong("IN for BN", "pools the positions of one sample only", _IN),
        given=_POSITIONS,
        effort=2,
    ),
    case(
        "VN, pre-activation",
        "Not linear: samples grow alike, so a branch adds ever more, (B q/(q − p) − 2)/(B − 3).",
        _VN,
        wrong("BN for VN", "takes VN to add 1 per block as BN does", BN),
        given=_MORE,
    ),
    case(
        "EvoNorm-S0, pre-activation",
        "q_l grows linearly, by E[(h·sigmoid(h)/std)²], which depends on q: not scale free.",
        zoo["EvoNorm-S0"],
        wrong("silu for EvoNorm-S0", "forgets the division by the std", _SILU),
    ),
    case(
        "EvoNorm-B0, pre-activation",
        "Linear growth from h / max(batch std, h).",
        zoo["EvoNorm-B0"],
        wrong("VN for EvoNorm-B0", "forgets the maximum in the denominator", _LINEAR_VN),
        given=_MORE,
        deepest=8,
        effort=2,
    ),
)
_UNNORMALIZED = (
    case(
        "plain, pre-activation",
        "Exponential: q and squared gradients double in every block.",
        PLAIN,
        wrong("LN for plain", "takes branches to be normalized", LN),
        without_skip(PLAIN, "q would stay", "growth"),
        exponential=True,
        effort=0,
    ),
    case(
        "WN, pre-activation",
        "Exponential: q'/q goes from 2 to 1 + π/(π−1) = 2.467, which gradients have from the start.",
        _WN,
        wrong("plain for WN", "Gaussian rows with relu", PLAIN),
        exponential=True,
    ),
    case(
        "SWS, pre-activation",
        "Exponential: q doubles; squared gradients grow by 1 + π/(π−1) = 2.467 per block.",
        _SWS,
        wrong("plain for SWS", "forgets to center the rows", PLAIN),
        exponential=True,
    ),
)
_REMEDIES = (
    case(
        "plain, SkipInit",
        "β = 0: nothing grows.",
        PLAIN,
        wrong("β = 1", "forgets SkipInit", PLAIN),
        architecture=blocks(branch=0.0),
    ),
    case(
        "plain, ReZero under way",
        "β = 0.2: exponential all the same, base 1 + β² = 1.04.",
        PLAIN,
        wrong("β for β²", "takes a block to add β", PLAIN, blocks(branch=0.2**0.5)),
        architecture=blocks(branch=0.2),
        exponential=True,
    ),
    case(
        "plain, 1/√L",
        "q and squared gradients are bounded: (1 + 1/L)^L → e.",
        PLAIN,
        wrong("β = 1", "forgets β = 1/√L", PLAIN),
        architecture=blocks(branch="1/sqrt(L)"),
        effort=0,
    ),
    case(
        "SWS, 1/√L",
        "q → e; squared gradients → e^(π/(π−1)) = 4.336.",
        _SWS,
        wrong("plain, 1/√L", "e for both", PLAIN, blocks(branch="1/sqrt(L)")),
        architecture=blocks(branch="1/sqrt(L)"),
    ),
    case(
        "plain, Fixup",
        "The last map of every branch is zero: nothing grows.",
        PLAIN,
        wrong("without Fixup", "two maps as He initializes them", PLAIN, blocks(maps=2)),
        architecture=_fixup,
    ),
    case(
        "BN, LayerScale 0.1",
        "q_l = q₀ + l/100; the power of depth is that of β = 1, reached 100 times later.",
        BN,
        wrong("β = 1", "forgets LayerScale", BN),
        architecture=blocks(branch=0.1),
    ),
    case(
        "plain, NF scaling",
        "Branches see x/√q_l with the predicted q_l: linear, and gradients as L.",
        PLAIN,
        wrong("no scaling", "the unscaled network: q doubles", PLAIN),
        architecture=_nf_scaled,
    ),
    case(
        "SWS, NF scaling",
        "q_l = q₀ + l; squared gradients grow as L^(π/(π−1)) = L^1.467.",
        _SWS,
        wrong("plain, NF scaling", "forgets to center the rows", PLAIN, _nf_scaled),
        architecture=_nf_scaled,
    ),
)
FAMILIES: Mapping[str, tuple[ResidualCase, ...]] = MappingProxyType(
    {
        "pre-activation, branches normalized": _NORMALIZERS,
        "pre-activation, branches not normalized": _UNNORMALIZED,
        "remedies": _REMEDIES,
        "other orders, two maps": ORDERS,
    }
)
CASES = tuple(case for family in FAMILIES.values() for case in family)
