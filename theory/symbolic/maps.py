r"""Pools that span the layer, or no pool: K(c) = E[phi phi'] of Gaussians gives every map.

With phi = scale base + shift, m = E[phi] and unit variance V of the base,

    K(c) = scale^2 q V(c) + 2 scale shift sqrt(q) E[base] + shift^2,      q = 1 behind a denominator,
    q' = sigma_w^2 (K(1) - m^2),   q' c' = sigma_w^2 (K(c) - m^2),        m = 0 unless rows are centered.

Sources: Poole et al. 2016, Schoenholz et al. 2017; theory notes, section 4 (plain, LN, SWS, WC, WN).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sympy as sp

from theory.errors import out_of_domain
from theory.symbolic.expression import Expression, Trail
from theory.symbolic.kernels import ray_dual, ray_mean, ray_slope_dual
from theory.symbolic.layers import ExactLayer
from theory.symbolic.symbols import c, layer, q, u

__all__ = [
    "collapse_law", "correlation_map", "fixed_point", "gradient_growth", "near_one",
    "second_moment_map", "similarity_map", "slope", "variance_recursion",
]  # fmt: skip

_SOURCE = "theory notes, section 4; Poole et al. 2016; Schoenholz et al. 2017"
_w = sp.Symbol("w", positive=True)


def _moments(spec: ExactLayer, trail: Trail) -> tuple[Any, Any]:
    """(K(c), E[phi]) behind the normalizer."""
    size = q if spec.kind == "plain" else sp.Integer(1)
    dual = trail.use(ray_dual(spec.slopes))
    mean = sp.sqrt(size) * ray_mean(spec.slopes)
    kernel = trail.step(
        "second moments of phi",
        "Scale to the variance behind the normalizer (q without one) and add phi's affine map.",
        lambda: sp.expand(
            spec.scale**2 * size * dual + 2 * spec.scale * spec.shift * mean + spec.shift**2
        ),
    )
    return kernel, sp.expand(spec.scale * mean + spec.shift)


@lru_cache(maxsize=64)
def similarity_map(spec: ExactLayer) -> Expression:
    """s = K(c)/K(1): cosine similarity of post-activations."""
    trail = Trail()
    kernel, _ = _moments(spec, trail)
    value = trail.step(
        "cosine", "Divide by the same sample's second moment.",
        lambda: sp.expand(sp.simplify(kernel / kernel.subs(c, 1))),
    )  # fmt: skip
    return trail.conclude("s(c)", value, name="similarity map", source=_SOURCE)


@lru_cache(maxsize=64)
def second_moment_map(spec: ExactLayer) -> Expression:
    """E[x^2] = K(1) of the post-activations."""
    trail = Trail()
    kernel, _ = _moments(spec, trail)
    value = sp.simplify(kernel.subs(c, 1))
    return trail.conclude(
        r"\mathrm{E}[x^2]", value, name="second moment of post-activations", source=_SOURCE
    )


def _propagated(spec: ExactLayer, trail: Trail) -> Any:
    """sigma_w^2 (K(c) - m^2): covariance of the next pre-activations."""
    kernel, mean = _moments(spec, trail)
    removed = mean**2 if spec.centered_weights else 0
    reason = (
        "Rows of W that sum to zero do not see the mean: they propagate K - m^2."
        if spec.centered_weights
        else "Independent weights propagate K."
    )
    return trail.step(
        "through the weights", reason, lambda: sp.expand(spec.weight_variance * (kernel - removed))
    )


@lru_cache(maxsize=64)
def correlation_map(spec: ExactLayer) -> Expression:
    """c' = (K(c) - m^2)/(K(1) - m^2) of pre-activations."""
    trail = Trail()
    covariance = _propagated(spec, trail)
    value = trail.step(
        "correlation", "Divide the covariance of two samples by the variance of one.",
        lambda: sp.simplify(covariance / covariance.subs(c, 1)),
    )  # fmt: skip
    return trail.conclude("c'", value, name="correlation map", source=_SOURCE)


@lru_cache(maxsize=64)
def variance_recursion(spec: ExactLayer) -> Expression:
    """q' = sigma_w^2 (K(1) - m^2) in q."""
    trail = Trail()
    covariance = _propagated(spec, trail)
    value = trail.step(
        "same sample", "Set c = 1.", lambda: sp.simplify(sp.expand(covariance.subs(c, 1)))
    )
    return trail.conclude("q'", value, name="variance recursion", source=_SOURCE)


@lru_cache(maxsize=64)
def slope(spec: ExactLayer) -> Expression:
    """chi(c) = dc'/dc."""
    trail = Trail()
    value = trail.use(correlation_map(spec))
    value = trail.step("derivative", "Differentiate.", lambda: sp.simplify(sp.diff(value, c)))
    return trail.conclude(r"\chi(c)", value, name="slope of the correlation map", source=_SOURCE)


@lru_cache(maxsize=64)
def fixed_point(spec: ExactLayer) -> Expression:
    """c*: the smallest root of c' = c, where every start below the largest root ends."""
    trail = Trail()
    mapped = trail.use(correlation_map(spec))
    if mapped.has(q):
        recursion = trail.use(variance_recursion(spec))
        found = trail.step("where q settles", "q' = q.", lambda: sp.solve(sp.Eq(recursion, q), q))
        if not found:
            raise out_of_domain(
                "activation", str(spec.slopes), "one whose second moment settles symbolically",
                "use theory.fixed_point for the number",
            )  # fmt: skip
        mapped = sp.simplify(mapped.subs(q, found[0]))
    excess = trail.step("excess", "c' - c vanishes at a fixed point.", lambda: mapped - c)
    if sp.simplify(excess) == 0:
        raise out_of_domain(
            "activation", "identity", "not linear: c' = c everywhere", "every c is a fixed point"
        )
    bend = trail.step(
        "convex",
        "The second derivative times sqrt(1 - c^2) is a positive constant: the excess is convex.",
        lambda: sp.simplify(sp.diff(excess, c, 2) * sp.sqrt(1 - c**2)),
    )
    roots = trail.step(
        "roots", "Try -1, 0 and 1.",
        lambda: tuple(x for x in (-1, 0, 1) if sp.simplify(excess.subs(c, x)) == 0),
    )  # fmt: skip
    tangent = trail.step(
        "all roots",
        "A convex function has two roots, or one where it is tangent: slopes of the excess at the roots.",
        lambda: tuple(sp.simplify(sp.diff(excess, c).subs(c, x)) for x in roots),
    )
    if bend.is_positive is not True or not (len(roots) == 2 or tangent == (0,)):
        raise out_of_domain(
            "layer", spec, "one whose excess is convex with roots among -1, 0, 1",
            "use theory.fixed_point",
        )  # fmt: skip
    return trail.conclude("c^*", sp.Integer(min(roots)), name="fixed point", source=_SOURCE)


@lru_cache(maxsize=64)
def gradient_growth(spec: ExactLayer) -> Expression:
    """lambda = sigma_w^2 scale^2 E[base'^2] / R^2 at the q where the network settles."""
    trail = Trail()
    dual = trail.use(ray_slope_dual(spec.slopes))
    factor = trail.step(
        "same sample",
        "Backwards W' brings sigma_w^2, phi its squared slope at c = 1.",
        lambda: spec.weight_variance * spec.scale**2 * dual.subs(c, 1),
    )
    if spec.kind == "limit":
        denominator = trail.use(variance_recursion(spec))
        factor = trail.step(
            "denominator", "J = diag(phi')/R and R^2 is the second moment one layer makes.",
            lambda: factor / denominator,
        )  # fmt: skip
    return trail.conclude(r"\lambda", sp.simplify(factor), name="gradient growth", source=_SOURCE)


@lru_cache(maxsize=64)
def near_one(spec: ExactLayer, *, order: int = 4) -> Expression:
    """1 - c' in powers of sqrt(u), u = 1 - c, below u^(order/2)."""
    trail = Trail()
    mapped = trail.use(correlation_map(spec))
    expanded = trail.step(
        "series at c = 1",
        "With u = w^2 the angle is arccos(1 - w^2) = 2 arcsin(w/sqrt 2), analytic in w.",
        lambda: sp.series(
            (1 - mapped).subs(sp.acos(c), 2 * sp.asin(_w / sp.sqrt(2))).subs(
                sp.sqrt(1 - c**2), _w * sp.sqrt(2 - _w**2)
            ).subs(c, 1 - _w**2),
            _w, 0, order,
        ).removeO(),
    )  # fmt: skip
    value = sum(
        sp.simplify(sp.expand(expanded).coeff(_w, power)) * u ** sp.Rational(power, 2)
        for power in range(order)
    )
    return trail.conclude("1 - c'", value, name="series about c = 1", source=_SOURCE)


@lru_cache(maxsize=64)
def collapse_law(spec: ExactLayer) -> Expression:
    """1 - c_l -> const/l^2 where 1 - c' = u - const u^(3/2)."""
    trail = Trail()
    series = trail.use(near_one(spec))
    speed = trail.step(
        "a step of u^(-1/2)",
        "u^(-1/2) grows by a constant per layer in the limit u -> 0.",
        lambda: sp.limit((series ** -sp.Rational(1, 2) - 1 / sp.sqrt(u)).subs(u, _w**2), _w, 0),
    )
    if not speed.is_positive:
        raise out_of_domain(
            "layer", spec, "one whose map is tangent to c' = c at c = 1", "see slope(...)"
        )
    value = trail.step(
        "l steps", "u^(-1/2) = speed l, up to o(l).", lambda: 1 / (speed * layer) ** 2
    )
    return trail.conclude(r"1 - c_l", value, name="collapse with depth", source=_SOURCE)
