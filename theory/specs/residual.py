"""Residual networks as values: the orders of practice, skip and branch factors, the remedies.

N is the layer's normalizer, phi its activation; every W is drawn afresh.  With one map F(x) = W phi(x),
with two F(x) = W2 phi(W1 x), a Transformer's block without attention.

=========================  ==========================  =======================================
order                      one map                     two maps
=========================  ==========================  =======================================
pre_activation (v2)        x + W phi(N(x))             x + W2 phi(N(W1 phi(N(x))))
post_activation (v1)       phi(x + N(W x))             phi(x + N(W2 phi(N(W1 x))))
activation_before_addition x + phi(N(W x))             x + phi(N(W2 phi(N(W1 x))))
pre_norm                   x + W phi(N(x))             x + W2 phi(W1 N(x))
post_norm                  N(x + F(x))                 N(x + F(x))
branch_end_norm            x + N(F(x))                 x + N(F(x))
sandwich                   x + N(W phi(N(x)))          x + N(W2 phi(W1 N(x)))
deep_norm                  N(a x + F(x))               N(a x + F(x)), W's deviations times b
=========================  ==========================  =======================================

Everywhere "x +" means ``skip`` x + ``branch`` (...).  Sources: He et al. 2016 (1512.03385, 1603.05027:
v1, v2, activation before addition); Xiong et al. 2020 (2002.04745: pre- and post-norm); Liu et al. 2022
(2111.09883, Swin v2) and OLMo et al. 2024 (2501.00656): the norm at the branch's end; Kim et al. 2025
(2502.02732, Peri-LN) and Gemma 2: both ends; Wang et al. 2022 (2203.00555): DeepNorm.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from theory.errors import out_of_domain
from theory.specs._check import DEEPEST, integer, member, real
from theory.specs.networks import Layer, Network
from theory.specs.weights import Weights

__all__ = ["KNOWN_AS", "ORDERS", "Order", "Residual", "deep_norm_constants", "fixup"]

Order = Literal[
    "pre_activation",
    "post_activation",
    "activation_before_addition",
    "pre_norm",
    "post_norm",
    "branch_end_norm",
    "sandwich",
    "deep_norm",
]
ORDERS: tuple[Order, ...] = get_args(Order)

KNOWN_AS: Mapping[str, Order] = {
    "v1": "post_activation",
    "v2": "pre_activation",
    "swin v2": "branch_end_norm",
    "swin": "branch_end_norm",
    "OLMo 2": "branch_end_norm",
    "OLMo": "branch_end_norm",
    "Peri-LN": "sandwich",
    "Gemma 2": "sandwich",
    "Gemma": "sandwich",
    "DeepNet": "deep_norm",
}
"""Names of networks for their orders, to suggest one."""

# The orders of Transformers, whose branch is W2 phi(W1 x) unless one map is asked for.
_TRANSFORMER = ORDERS[3:]
_INVERSE_ROOT = "1/sqrt(L)"


@dataclass(frozen=True)
class Residual(Network):
    """x^l = skip x^{l-1} + branch F(x^{l-1}), ``depth`` times; see the module for every order.

    Observables of block l: ``second_moment``, ... and ``gradient_norm`` of the stream x^l that it puts
    out; ``preactivation_...`` and ``branch_gradient_norm`` of h^l, the output of the first linear map
    in its branch.

    Parameters
    ----------
    layer
        Weights, normalizer, activation and kernel of every map; without a normalizer N is left out.
    depth
        Number of blocks L.
    order
        One of ``ORDERS``.
    skip
        alpha, not 0.
    branch
        beta.  The remedies: SkipInit and ReZero start at 0 (De & Smith 2020; Bachlechner et al. 2021);
        LayerScale at 0.1, or 1e-5 beyond 18 and 1e-6 beyond 24 blocks (Touvron et al. 2021);
        ``"1/sqrt(L)"`` keeps the stream bounded.  ``fixup`` and ``nf_scaled`` build the others.
    maps
        Linear maps per branch, 1 or 2; by default 1, and 2 in the orders of Transformers.
    stem
        Weights of a linear map before the first block, x^0 -> W x^0; without it x^0 is the stream.
    scales
        A factor for the input of each branch, F(scale_l x), as ``nf_scaled`` computes them.

    Raises
    ------
    SpecificationError
        A parameter outside its domain.
    """

    layer: Layer
    _: dataclasses.KW_ONLY
    depth: int
    order: Order = "pre_activation"
    skip: float = 1.0
    branch: float | str = 1.0
    maps: int | None = None
    stem: Weights | None = None
    scales: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.layer, Layer):
            raise out_of_domain("layer", self.layer, "a Layer", "wrap it: Layer(norm=...)")
        depth = integer("depth", self.depth, low=1, high=DEEPEST, remedy="count the blocks")
        member("order", self.order, ORDERS, known_as=KNOWN_AS)
        skip = real("skip", self.skip, remedy="1 is the usual choice")
        if skip == 0.0:
            raise out_of_domain(
                "skip", skip, "a number other than 0", "without a skip use FeedForward"
            )
        branch = self.branch
        if isinstance(branch, str) and branch == _INVERSE_ROOT:
            branch = 1.0 / math.sqrt(depth)
        branch = real("branch", branch, remedy='pass a number, or "1/sqrt(L)"')
        maps = self.maps
        if maps is None:
            maps = 2 if self.order in _TRANSFORMER else 1
        maps = integer("maps", maps, low=1, high=2, remedy="count the linear maps of a branch")
        if self.stem is not None and not isinstance(self.stem, Weights):
            raise out_of_domain("stem", self.stem, "Weights or None", "use gaussian(), say")
        for name, value in (
            ("depth", depth),
            ("skip", skip),
            ("branch", branch),
            ("maps", maps),
            ("scales", self._checked_scales(depth)),
        ):
            object.__setattr__(self, name, value)

    def _checked_scales(self, depth: int) -> tuple[float, ...]:
        if not isinstance(self.scales, tuple | list) or len(self.scales) not in (0, depth):
            raise out_of_domain(
                "scales", self.scales, f"empty or {depth} numbers", "let nf_scaled compute them"
            )
        remedy = "let nf_scaled compute them"
        return tuple(
            real("scales", value, low=0.0, open_low=True, remedy=remedy) for value in self.scales
        )

    @property
    def factors(self) -> tuple[float, float]:
        """(skip, branch) as the addition uses them: DeepNorm's own constant included."""
        assert isinstance(self.branch, float)
        own = deep_norm_constants(self.depth)[0] if self.order == "deep_norm" else 1.0
        return self.skip * own, self.branch

    @property
    def weights(self) -> Weights:
        """Weights of the maps: DeepNorm's gain included."""
        if self.order != "deep_norm":
            return self.layer.weights
        return _scaled(self.layer.weights, deep_norm_constants(self.depth)[1])


def deep_norm_constants(blocks: int) -> tuple[float, float]:
    """(a, b) = (L^(1/4), (4 L)^(-1/4)): factor of the skip, gain of the branch's weights.

    Wang et al. 2022, table "encoder-only" or "decoder-only": a = (2N)^(1/4) and b = (8N)^(-1/4) for N
    layers of two residual blocks each (attention and feed-forward), L = 2N.
    """
    blocks = integer("blocks", blocks, low=1, high=DEEPEST, remedy="count them")
    return blocks**0.25, (4.0 * blocks) ** -0.25


def fixup(layer: Layer, *, depth: int, maps: int = 2) -> Residual:
    """Fixup's start: W's deviations times L^(-1/(2m-2)), and the last of the m maps at zero.

    The last map at zero is ``branch = 0``: the stream is constant at initialization.
    Source: Zhang, Dauphin & Ma 2019 (1901.09321), without its scalar biases, which start at 0.

    Parameters
    ----------
    layer
        Normalizer None.
    depth, maps
        As in ``Residual``.
    """
    start = Residual(layer, depth=depth, branch=0.0, maps=maps)
    if layer.norm is not None:
        raise out_of_domain(
            "layer", layer.norm.name, "a layer without normalizer", "Fixup replaces it"
        )
    gain = 1.0 if start.maps == 1 else 1.0 / math.sqrt(start.depth)
    scaled = dataclasses.replace(layer, weights=_scaled(layer.weights, gain))
    return dataclasses.replace(start, layer=scaled)


def _scaled(weights: Weights, gain: float) -> Weights:
    return dataclasses.replace(weights, weight_variance=gain * gain * weights.weight_variance)
