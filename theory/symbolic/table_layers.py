"""Rows of duals, layers that see Gaussians, and groups, against the routes of ``theory``."""

from __future__ import annotations

import theory as th
from theory.routes import arccosine, gaussian, groupnorm
from theory.symbolic import choose, duals, expansions, groups, kernels, maps
from theory.symbolic.layers import exact_layer
from theory.symbolic.row import ClosedForm, row

__all__ = ["group_rows", "kernel_rows", "limit_rows"]

_RELU = (1, 0)


def _fixed(layer: th.Layer, batch: float | None = None) -> th.FixedPoint:
    return th.fixed_point(th.FeedForward(layer, depth=1), batch=batch)


def _predicted(layer: th.Layer, depth: int, *, batch: float, correlation: float) -> th.Prediction:
    return th.predict(
        th.FeedForward(layer, depth=depth), th.exchangeable(batch=batch, correlation=correlation)
    )


def kernel_rows() -> list[ClosedForm]:
    """Gaussian duals."""
    gap = 0.4
    return [
        row("kappa_1", kernels.kappa1, "routes.arccosine.one_minus_kappa1",
             lambda: 1.0 - arccosine.one_minus_kappa1(gap), c=1 - gap),
        row("kappa_0", kernels.kappa0, "routes.arccosine.kappa0",
             lambda: arccosine.kappa0(gap), c=1 - gap),
        row("E[sin sin]", duals.sin_dual, "routes.gaussian",
             lambda: (1.0 - gaussian.pair_gap(th.sin, 0.7, 0.7, gap)[0])
             * gaussian.second_moment_and_mean(th.sin, 0.7)[0], q=0.7, c=1 - gap),
        row("E[erf erf]", duals.erf_dual, "routes.gaussian",
             lambda: (1.0 - gaussian.pair_gap(th.erf, 0.7, 0.7, gap)[0])
             * gaussian.second_moment_and_mean(th.erf, 0.7)[0], q=0.7, c=1 - gap),
    ]  # fmt: skip


def _limit_rows(name: str) -> list[ClosedForm]:
    layer = th.zoo[name]
    return [
        row(f"{name}: correlation map", lambda: choose.correlation_map(layer), "predict",
            lambda: _predicted(layer, 2, batch=2, correlation=0.6).preactivation_correlation[1],
            c=0.6, q=layer.weights.weight_variance),
        row(f"{name}: lambda", lambda: choose.gradient_growth(layer), "fixed_point",
            lambda: _fixed(layer).gradient_growth),
        row(f"{name}: c*", lambda: choose.fixed_point(layer), "fixed_point",
            lambda: _fixed(layer).correlation),
    ]  # fmt: skip


def limit_rows() -> list[ClosedForm]:
    """Plain networks, LayerNorm and weight schemes."""
    return [
        *(line for name in ("plain", "LN", "SWS", "WC", "WN") for line in _limit_rows(name)),
        row("SWS: slope at c*", lambda: choose.slope(th.zoo["SWS"]), "fixed_point",
             lambda: _fixed(th.zoo["SWS"]).slope, tolerance=1e-8, c=0.0),
        row("WN: q'", lambda: choose.variance_recursion(th.zoo["WN"]), "predict",
             lambda: th.predict(th.FeedForward(th.zoo["WN"], depth=2),
                                th.exchangeable(batch=2, correlation=0.0, second_moment=4.0))
             .preactivation_second_moment[1], q=4.0),
        row("plain: 1 - c_l, l -> oo", lambda: maps.collapse_law(exact_layer(th.Layer())),
             "predict", lambda: 1.0 - _predicted(th.Layer(), 10000, batch=2, correlation=0.0)
             .preactivation_correlation[-1], tolerance=5e-3, l=10000),
    ]  # fmt: skip


def _map_gap(gap: float, group_size: int) -> float:
    value, _ = groupnorm.group_gap(th.relu, gap, group_size=group_size, centered=True)
    return float(value)


def _map_slope(gap: float, group_size: int) -> float:
    """sigma_w^2 = 2 times the gradient's factor is the slope of the map."""
    value, _ = groupnorm.group_slope(th.relu, gap, group_size=group_size, centered=True)
    return 2.0 * float(value)


def _group_rows(size: int) -> list[ClosedForm]:
    norm, where = th.group_norm(size), "routes.groupnorm"
    return [
        row(f"GN({size}): map", lambda: choose.correlation_map(norm), where,
            lambda: 1.0 - _map_gap(0.4, size), c=0.6),
        row(f"GN({size}): map at c = 0", lambda: groups.independent_value(_RELU, size - 1), where,
            lambda: 1.0 - _map_gap(1.0, size)),
        row(f"GN({size}): slope", lambda: choose.slope(norm), where,
            lambda: _map_slope(0.4, size), c=0.6),
        row(f"GN({size}): slope at c = 0", lambda: groups.slope_at_independence(_RELU, size - 1),
            where, lambda: _map_slope(1.0, size)),
    ]  # fmt: skip


def group_rows() -> list[ClosedForm]:
    """GroupNorm: Hotelling's integral, exact values, expansions."""
    gn8, where = th.group_norm(8), "routes.groupnorm"
    return [
        *(line for size in (3, 4, 8) for line in _group_rows(size)),
        row("GN(2): map", lambda: choose.correlation_map(th.group_norm(2)), where,
            lambda: 1.0 - _map_gap(0.4, 2), c=0.6),
        row("GN(8): lambda", lambda: choose.gradient_growth(gn8), where,
            lambda: _map_slope(0.0, 8)),
        row("GN: lambda in 1/G", lambda: expansions.growth_series(order=6), where,
            lambda: _map_slope(0.0, 400), G=400),
        row("GN(8): 1 - c' near c = 1", lambda: choose.near_one(gn8), where,
            lambda: _map_gap(1e-8, 8), tolerance=1e-7, u=1e-8),
        row("GN(2000): 1 - c*", expansions.fixed_point_gap, "fixed_point",
            lambda: _fixed(th.Layer(norm=th.group_norm(2000))).gap, tolerance=5e-3, n=1999),
        row("GN: G^2 (1 - c*), G -> oo", expansions.large_group_gap, "fixed_point",
            lambda: _fixed(th.Layer(norm=th.group_norm(4000))).gap * 4000**2, tolerance=5e-3),
        row("GN: map at large G", expansions.large_groups, where,
            lambda: 1.0 - _map_gap(0.4, 4001), tolerance=1e-7, c=0.6, n=4000),
        row("GN: map at c = 0, G -> oo", lambda: groups.independent_limit(_RELU),
            "routes.arccosine", lambda: 1.0 - arccosine.one_minus_kappa1(1.0)),
    ]  # fmt: skip
