r"""Layers as exact symbols: slopes of the activation, its affine map, the weights, what is pooled.

Specifications hold floats; a derivation needs numbers.  The constants of the field, the gain and the
shift that give relu zero mean and unit second moment, are solved for here and recognized.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sympy as sp

from theory.errors import out_of_domain
from theory.specs.networks import FeedForward, Layer
from theory.specs.normalizers import Normalizer
from theory.symbolic.kernels import ray_mean, ray_square
from theory.symbolic.symbols import S

__all__ = ["ExactLayer", "as_layer", "exact_layer", "unit_gain"]

# Exact values hold factorials of it: beyond, they take minutes and fill pages.
LARGEST_GROUP = 10_000
# A rational number of hundreds of digits is factored for hours.
LARGEST_NUMBER = 1e60


@lru_cache(maxsize=8)
def unit_gain() -> tuple[Any, Any]:
    """(g, m): g (relu - m) has mean 0 and second moment 1; g^2 also keeps q with centered rows."""
    gain, mean = sp.symbols("g m", positive=True)
    centre = sp.solve(ray_mean((1, 0)) - mean, mean)[0]
    second = gain**2 * (ray_square((1, 0)) - 2 * centre * ray_mean((1, 0)) + centre**2)
    return sp.simplify(sp.solve(second - 1, gain)[0]), centre


def _exact(argument: str, value: float) -> Any:
    if value and not 1.0 / LARGEST_NUMBER <= abs(value) <= LARGEST_NUMBER:
        raise out_of_domain(
            argument, value, f"0 or between {1.0 / LARGEST_NUMBER:g} and {LARGEST_NUMBER:g} in size",
            "exact formulas would factor hundreds of digits; use theory.predict for numbers",
        )  # fmt: skip
    gain, mean = unit_gain()
    for known in (gain, gain**2, gain * mean, gain * mean**2):
        for candidate in (known, -known):
            if math.isclose(value, float(candidate), rel_tol=1e-15):
                return sp.simplify(candidate)
    return sp.nsimplify(repr(value), rational=True)


@dataclass(frozen=True, kw_only=True)
class ExactLayer:
    """A layer with a positively homogeneous base: phi(x) = scale (a relu(x) + b relu(-x)) + shift."""

    slopes: tuple[Any, Any]
    scale: Any
    shift: Any
    weight_variance: Any
    centered_weights: bool
    norm: Normalizer | None

    @property
    def kind(self) -> str:
        """``plain``, ``limit`` (all channels), ``group``, ``instance``, ``batch``, ``vn`` or ``mc``.

        ``plain`` has no denominator, ``mc`` centers a batch and has none.
        """
        norm = self.norm
        if norm is None:
            return "plain"
        if norm.denominator == "none" and (not norm.centered or norm.pool.channels == math.inf):
            return "plain"
        if norm.pool.samples:
            if norm.denominator == "none":
                return "mc"
            return "batch" if norm.centered else "vn"
        if norm.pool.channels == math.inf:
            return "limit"
        return "instance" if norm.pool.channels == 1 else "group"

    @property
    def rank(self) -> Any:
        """Dimensions of a normalized pool of one sample, at one position (``instance``: S of them)."""
        assert self.norm is not None
        if self.kind != "instance" and not self.norm.pool.channels <= LARGEST_GROUP:
            raise out_of_domain(
                "norm",
                self.norm.name,
                f"groups of at most {LARGEST_GROUP} for an exact formula",
                "take layer_norm(), their limit",
            )
        size = S if self.kind == "instance" else sp.Integer(int(self.norm.pool.channels))
        return size - 1 if self.norm.centered else size


Subject = Layer | FeedForward | Normalizer | ExactLayer


def as_layer(subject: Subject) -> Layer:
    """Layer of a network, or a relu layer with Gaussian weights around a normalizer."""
    if isinstance(subject, FeedForward):
        return subject.layer
    if isinstance(subject, Layer):
        return subject
    if isinstance(subject, Normalizer):
        return Layer(norm=subject)
    raise out_of_domain(
        "layer", subject, "a Layer, a FeedForward or a Normalizer", "write Layer(norm=batch_norm())"
    )


def exact_layer(subject: Subject) -> ExactLayer:
    """Read a specification exactly; an ``ExactLayer`` is returned as it is.

    Symbols may stand for its numbers: ``dataclasses.replace(exact_layer(Layer()), weight_variance=
    symbols.weight_variance, slopes=(symbols.a, symbols.b))``.

    Raises
    ------
    SpecificationError
        Not a layer, an activation without closed forms, eps > 0, or a gate.
    """
    if isinstance(subject, ExactLayer):
        return subject
    layer = as_layer(subject)
    activation, norm = layer.activation, layer.norm
    rays = activation.ray_slopes
    if rays is None:
        raise out_of_domain(
            "activation", activation.name, "relu, leaky_relu, identity or abs",
            "closed forms need positive homogeneity; for sin and erf see theory.symbolic.duals",
        )  # fmt: skip
    if norm is not None and (norm.eps != 0.0 or norm.gate is not None):
        raise out_of_domain(
            "norm", norm.name, "without gate and at eps = 0", "use theory.predict for numbers"
        )
    spec = ExactLayer(
        slopes=(_exact("negative_slope", rays[0]), _exact("negative_slope", rays[1])),
        scale=_exact("scale", activation.scale),
        shift=_exact("shift", activation.shift),
        weight_variance=_exact("weight_variance", layer.weights.weight_variance),
        centered_weights=layer.weights.centered,
        norm=norm,
    )
    if spec.kind not in ("plain", "limit"):
        _check_pool(spec)
    return spec


def _check_pool(spec: ExactLayer) -> None:
    """Finite pools: Gaussian weights, a base activation, and a spread that is isotropic in the pool."""
    norm = spec.norm
    assert norm is not None
    if spec.centered_weights or (spec.scale, spec.shift) != (1, 0):
        raise out_of_domain(
            "layer", f"{norm.name} with centered weights or an affine output", "without them",
            "closed forms of finite pools are for Gaussian weights and a base activation",
        )  # fmt: skip
    if spec.kind == "vn" and norm.ddof:
        raise out_of_domain("ddof", norm.ddof, "0 for VN", "VN's second moment depends on it")
    about_mean = norm.centered == (norm.denominator == "std")
    isotropic = {
        "group": about_mean,
        "instance": norm.centered and norm.denominator == "std",
        "batch": norm.denominator == "std" and norm.pool.channels == 1,
        "vn": norm.denominator == "std" and norm.pool.channels == 1,
        "mc": norm.pool.channels == 1,
    }
    if not isotropic[spec.kind]:
        raise out_of_domain(
            "norm", norm.name, "a pool whose spread is isotropic", "use theory.predict for numbers"
        )
