"""From a layer to its closed form: which derivation applies to which normalizer.

Every function takes a ``Layer``, a ``FeedForward`` or a ``Normalizer`` and returns an ``Expression``;
pools of channels are taken at one position.  All raise SpecificationError where no closed form is
known, and name the module that has numbers.
"""

from __future__ import annotations

from theory.errors import SpecificationError, out_of_domain
from theory.symbolic import batches, expansions, groups, maps, residual, variance
from theory.symbolic.expression import Expression
from theory.symbolic.layers import ExactLayer, Subject, exact_layer
from theory.symbolic.symbols import S

__all__ = [
    "correlation_map",
    "fixed_point",
    "gradient_growth",
    "near_one",
    "residual_gradient",
    "residual_variance",
    "similarity_map",
    "slope",
    "variance_recursion",
]


def _unknown(spec: ExactLayer, remedy: str) -> SpecificationError:
    name = spec.norm.name if spec.norm is not None else "no normalizer"
    return out_of_domain("norm", name, "one with a closed form for this quantity", remedy)


def similarity_map(layer: Subject) -> Expression:
    """s(c): cosine similarity of two samples' post-activations at pre-activation correlation c.

    BN (any B) and mean centering do not depend on c; InstanceNorm takes c between the two samples'
    deviations from their means over S exchangeable positions; VN is taken at B = infinity.
    """
    spec = exact_layer(layer)
    match spec.kind:
        case "batch" | "mc":
            return batches.similarity_map(spec.slopes)
        case "group" | "instance":
            return groups.similarity_map(spec.slopes, spec.rank)
        case _:
            return maps.similarity_map(spec)


def correlation_map(layer: Subject) -> Expression:
    """c'(c) of pre-activations over one layer; that of ``similarity_map`` unless rows are centered."""
    spec = exact_layer(layer)
    if spec.kind in ("plain", "limit", "vn"):
        return maps.correlation_map(spec)
    return similarity_map(layer)


def slope(layer: Subject) -> Expression:
    """chi(c) = dc'/dc."""
    spec = exact_layer(layer)
    match spec.kind:
        case "plain" | "limit" | "vn":
            return maps.slope(spec)
        case "group" | "instance":
            return groups.slope(spec.slopes, spec.rank)
        case _:
            raise _unknown(spec, "its map does not depend on c: the slope is 0")


def fixed_point(layer: Subject) -> Expression:
    """c*, where a deep network settles; for InstanceNorm the similarity of samples at independent positions.

    A group's c* solves an integral equation: ``theory.fixed_point`` has the number,
    ``expansions.fixed_point_gap`` the law for large groups.
    """
    spec = exact_layer(layer)
    match spec.kind:
        case "plain" | "limit":
            return maps.fixed_point(spec)
        case "batch" | "mc":
            return batches.similarity_map(spec.slopes)
        case "instance":
            return groups.independent_value(spec.slopes, spec.rank)
        case _:
            raise _unknown(
                spec, "use theory.fixed_point, or expansions.fixed_point_gap for large G"
            )


def gradient_growth(layer: Subject) -> Expression:
    """lambda: factor per layer on the squared gradient norm, backwards, where the network has settled.

    InstanceNorm over S exchangeable positions is BatchNorm over S samples; VN at B = infinity gives the
    factor between two layers' correlations.
    """
    spec = exact_layer(layer)
    match spec.kind:
        case "batch":
            return batches.gradient_growth(spec.slopes)
        case "instance":
            return batches.gradient_growth(spec.slopes).at(B=S)
        case "mc":
            return batches.mean_centering_growth(spec.slopes, spec.weight_variance)
        case "group":
            return groups.gradient_growth(spec.rank)
        case "vn":
            return variance.vn_gradient_limit()
        case _:
            return maps.gradient_growth(spec)


def near_one(layer: Subject) -> Expression:
    """1 - c' in powers of the gap u = 1 - c, to u^(3/2)."""
    spec = exact_layer(layer)
    match spec.kind:
        case "plain" | "limit" | "vn":
            return maps.near_one(spec)
        case "group" | "instance":
            if spec.rank.is_number and spec.rank <= 3:
                raise _unknown(spec, "the series needs a pool of rank above 3 (groups of 5)")
            return expansions.near_one(spec.slopes, spec.rank)
        case _:
            raise _unknown(spec, "its map does not depend on c")


def variance_recursion(layer: Subject) -> Expression:
    """q'(q): second moment of the next pre-activations; for mean centering the factor on q (1 - c)."""
    spec = exact_layer(layer)
    match spec.kind:
        case "plain" | "limit":
            return maps.variance_recursion(spec)
        case "mc":
            return batches.mean_centering_factor(spec.slopes, spec.weight_variance)
        case "vn":
            return variance.vn_variance_recursion(spec.slopes, spec.weight_variance)
        case "instance":
            raise _unknown(spec, "use theory.predict")
        case _:
            return residual.branch_second_moment(spec)


def residual_variance(layer: Subject) -> Expression:
    """q_l of the stream x_{l+1} = x_l + W phi(N(x_l)), the layer as pre-activation branch."""
    spec = exact_layer(layer)
    if spec.kind in ("mc", "vn", "instance"):
        raise _unknown(spec, "its branch depends on the correlation: use theory.predict")
    return residual.stream_second_moment(spec)


def residual_gradient(layer: Subject) -> Expression:
    """E||g_0||^2/E||g_L||^2 over L pre-activation residual blocks, the layer as branch.

    BatchNorm couples samples: see ``residual.batch_gradient_recursion``.
    """
    spec = exact_layer(layer)
    if spec.kind not in ("plain", "limit", "group"):
        raise _unknown(spec, "see theory.symbolic.residual.batch_gradient_recursion")
    return residual.stream_gradient(spec, gradient_growth(layer))
