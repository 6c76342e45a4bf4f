"""Rows of BatchNorm, mean centering, Variance Normalization and InstanceNorm, against ``theory``."""

from __future__ import annotations

import math
from functools import lru_cache

import theory as th
from theory.routes import arccosine, batchnorm
from theory.routes.positions_pairs import position_push
from theory.routes.positions_pull import position_pull_same, spectral_radius
from theory.routes.positions_spectrum import PositionSpectrum
from theory.symbolic import batches, choose, residual, variance
from theory.symbolic.row import ClosedForm, row
from theory.symbolic.symbols import S

__all__ = ["batch_rows"]

_RELU = (1, 0)


def _fixed(layer: th.Layer, batch: float | None = None) -> th.FixedPoint:
    return th.fixed_point(th.FeedForward(layer, depth=1), batch=batch)


def _predicted(layer: th.Layer, depth: int, *, batch: float, correlation: float) -> th.Prediction:
    return th.predict(
        th.FeedForward(layer, depth=depth), th.exchangeable(batch=batch, correlation=correlation)
    )


def _batch_rows(batch: int, activation: th.Activation) -> list[ClosedForm]:
    layer = th.Layer(norm=th.batch_norm(), activation=activation)
    name = f"BN({batch}), {activation.name}"
    return [
        row(f"{name}: s*", lambda: choose.similarity_map(layer), "routes.batchnorm",
            lambda: 1.0 - batchnorm.batch_factors(activation, batch=batch).gap, B=batch),
        row(f"{name}: lambda", lambda: choose.gradient_growth(layer), "fixed_point",
            lambda: _fixed(layer, batch).gradient_growth, B=batch),
    ]  # fmt: skip


def batch_rows() -> list[ClosedForm]:
    """Pools of one channel over samples or positions."""
    bn = th.zoo["BN"]
    return [
        *(
            line
            for batch in (4, 16)
            for activation in (th.relu, th.abs, th.leaky_relu(0.1))
            for line in _batch_rows(batch, activation)
        ),
        row("BN: s*, B = oo", lambda: batches.similarity_limit(_RELU), "fixed_point",
             lambda: _fixed(bn).similarity),
        row("BN: lambda, B = oo", lambda: batches.growth_limit(_RELU), "fixed_point",
             lambda: _fixed(bn).gradient_growth),
        row("BN: lambda in 1/B", lambda: batches.growth_series(_RELU, order=3), "fixed_point",
             lambda: _fixed(bn, 4000).gradient_growth, tolerance=1e-9, B=4000),
        row("BN(16): similarity across batches", lambda: batches.cross_batch_similarity(_RELU),
             "routes.batchnorm", lambda: batchnorm.cross_batch_similarity(th.relu, batch=16)[0],
             B=16),
        row("BN(16): C/(B-1)", lambda: batches.mean_drive(_RELU), "routes.batchnorm",
             lambda: batchnorm.batch_factors(th.relu, batch=16).shared * (16 - 3) / 16, B=16),
        row("MC(16): factor on q gap",
             lambda: choose.variance_recursion(th.mean_centering()), "predict", _centered_factor,
             B=16),
        row("MC(16): lambda", lambda: choose.gradient_growth(th.mean_centering()), "predict",
             lambda: _backward(th.zoo["MC"], batch=16), B=16),
        row("VN(16): q'", lambda: choose.variance_recursion(th.variance_norm()), "predict",
             lambda: _predicted(th.zoo["VN"], 2, batch=16, correlation=0.6)
             .preactivation_second_moment[1], B=16, c=0.6),
        row("VN: E[N^2], B = oo", variance.vn_infinite_batch, "predict",
             lambda: _predicted(th.zoo["VN"], 2, batch=math.inf, correlation=0.6)
             .preactivation_second_moment[1], c=0.6),
        row("VN: lambda, B = oo", variance.vn_gradient_limit, "predict",
             lambda: _backward(th.zoo["VN"], batch=math.inf),
             **dict(zip(("c_{l-1}", "c_l"), _vn_correlations(), strict=True))),
        row("BN(16) stream: contrasts' gradient",
             lambda: residual.batch_gradient_recursion(_RELU, 2), "routes.batchnorm",
             _stream_pull, B=16, d=3.0, pi_c=1.5, pi_m=0.7),
        row("IN(16): similarity of positions",
             lambda: choose.similarity_map(th.batch_norm()).at(B=S), "routes.positions",
             lambda: 1.0 - _positions().gaps()[0], S=16),
        row("IN(16): similarity of samples", lambda: choose.fixed_point(th.instance_norm()),
             "routes.positions", lambda: 1.0 - _positions().gaps()[1], S=16),
        row("IN(16): lambda", lambda: choose.gradient_growth(th.instance_norm()),
             "routes.positions", lambda: 2.0 * spectral_radius(position_pull_same(
                 _positions(), norm=th.instance_norm(), slopes=(1.0, 0.0))[0]), S=16),
        row("VN(16): contraction as c -> 1", variance.vn_collapse, "predict", _vn_contraction,
             tolerance=1e-3, B=16),
    ]  # fmt: skip


def _centered_factor() -> float:
    predicted = _predicted(th.zoo["MC"], 4, batch=16, correlation=0.3)
    spread = predicted.preactivation_second_moment * predicted.preactivation_gap
    return float(spread[3] / spread[2])


def _vn_correlations() -> tuple[float, float]:
    kappa = [0.3]
    for _ in range(2):
        kappa.append(float(1.0 - arccosine.one_minus_kappa1(1.0 - kappa[-1])))
    return kappa[1], kappa[2]


def _backward(layer: th.Layer, *, batch: float) -> float:
    """Factor on the squared gradient norm between layers 2 and 3, correlation 0.3 at layer 0."""
    norms = _predicted(layer, 5, batch=batch, correlation=0.3).gradient_norm
    assert norms is not None
    return float((norms[2] / norms[3]) ** 2)


def _stream_pull() -> float:
    """pi_c + t at pi_c = 1.5, pi_m = 0.7, q gap = 3, B = 16, sigma_w^2 = 2."""
    contrast, mean, size = 1.5, 0.7, 16
    pair = (mean - contrast) / size
    diagonal, _, _ = batchnorm.batch_pullback(
        th.relu, 2.0 * (contrast + pair), 2.0 * pair, batch=size, second_moment=6.0, gap=0.5
    )
    return contrast + diagonal * size / (size - 1.0)


@lru_cache(maxsize=1)
def _positions() -> PositionSpectrum:
    """Two samples over 16 positions a few layers into InstanceNorm."""
    spectrum = PositionSpectrum.from_gaps(1.0, 0.4, 0.6, 0.6, positions=16)
    for _ in range(3):
        pushed = position_push(spectrum, norm=th.instance_norm(), slopes=(1.0, 0.0))
        spectrum = pushed.spectrum.scaled(2.0)
    return spectrum


def _vn_contraction() -> float:
    gap = _predicted(th.zoo["VN"], 2, batch=16, correlation=1 - 1e-8).preactivation_gap
    return float(gap[1] / gap[0])
