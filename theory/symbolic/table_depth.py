"""Rows of residual streams, random walks and finite width, against plain iteration."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

import theory as th
from theory.symbolic import choose, residual, variance, walks
from theory.symbolic.layers import exact_layer
from theory.symbolic.row import ClosedForm, row

__all__ = ["depth_rows"]

_RELU = (1, 0)


def _iterate(step: Callable[[int, float], float], start: float, depth: int) -> float:
    value = start
    for index in range(depth):
        value = step(index, value)
    return value


def depth_rows() -> list[ClosedForm]:
    """Streams over depth, reflected walks, fluctuations at finite width."""
    plain, ln, sws = (th.zoo[name] for name in ("plain", "LN", "SWS"))
    gn8 = th.zoo["GN(8)"]
    grow = math.pi / (math.pi - 1.0)
    where = "iterated"
    at = {"L": 12, "q_0": 1.5}
    return [
        row("residual plain: q_l", lambda: choose.residual_variance(plain), where,
             lambda: _iterate(lambda _, q: q + q, 1.5, 12), l=12, q_0=1.5),
        row("residual LN: q_l", lambda: choose.residual_variance(ln), where,
             lambda: _iterate(lambda _, q: q + 1.0, 1.5, 12), l=12, q_0=1.5),
        row("residual plain: gradient", lambda: choose.residual_gradient(plain), where,
             lambda: _iterate(lambda _, g: g + g, 1.0, 12), **at),
        row("residual SWS: gradient", lambda: choose.residual_gradient(sws), where,
             lambda: _iterate(lambda _, g: g * (1.0 + grow), 1.0, 12), **at),
        row("residual LN: gradient", lambda: choose.residual_gradient(ln), where,
             lambda: _iterate(lambda i, g: g * (1.0 + 1.0 / (1.5 + i)), 1.0, 12), **at),
        row("residual GN(8): gradient", lambda: choose.residual_gradient(gn8), where,
             lambda: _iterate(lambda i, g: g * (1.0 + 1.2 / (1.5 + i)), 1.0, 12), **at),
        row("residual BN: contrasts' gradient", residual.batch_contrast_growth, where,
             lambda: _iterate(lambda i, g: g * (1.0 + 1.6 * 0.7 / (1.1 + 0.7 * i)), 1.0, 12),
             L=12, d_0=1.1, **{"lambda": 1.6, "u_*": 0.7}),
        row("normalizer-free SWS: gradient", lambda: choose.residual_gradient(
                 th.Layer(weights=sws.weights, norm=th.layer_norm())), where,
             lambda: _iterate(lambda i, g: g * (1.0 + grow / (1.5 + i)), 1.0, 12), **at),
        row("residual gradient / L^lambda, L -> oo", residual.depth_exponent, where,
             lambda: math.exp(float(np.sum(np.log1p(1.2 / (1.5 + np.arange(1e6))))) - 1.2
                              * math.log(1e6)), tolerance=1e-5, q_0=1.5, **{"lambda": 1.2}),
        row("residual BN(16): p_l", lambda: residual.stream_cross_moment(exact_layer(th.zoo["BN"])),
             where, lambda: _iterate(lambda _, p: p + 0.28568417048653942302, 0.2, 12),
             l=12, p_0=0.2, B=16),
        row("BN(16) at the branch's end: p_l", residual.batch_end_cross_moment, where,
             lambda: _iterate(lambda _, p: p - 1.0 / 15.0, 0.2, 12), l=12, p_0=0.2, B=16),
        row("residual SWS: beta = 1/sqrt(L)", lambda: residual.scaled_limit(
                 residual.gradient_factor(exact_layer(sws), choose.gradient_growth(sws))),
             where, lambda: (1.0 + grow / 1e8) ** 1e8, tolerance=1e-6),
        row("residual WN: ratio, q -> oo", lambda: residual.weight_norm_ratio(
                 exact_layer(th.zoo["WN"])), where,
             lambda: (2e16 + (1e8 - 1.0) ** 2 / (math.pi - 1.0)) / 1e16, tolerance=1e-7),
        row("post-activation stream: mean", walks.reflected_mean, "two-step quadrature",
             lambda: _two_steps(1), l=2),
        row("post-activation stream: second moment", walks.reflected_second_moment,
             "two-step quadrature", lambda: _two_steps(2), l=2),
        row("post-activation stream: mean, l -> oo", walks.reflected_mean_limit, where,
             lambda: float(np.sum((2.0 * math.pi * np.arange(1, 10**6)) ** -0.5)) / 1e3,
             tolerance=1e-3),
        row("post-activation stream: second moment, l -> oo", walks.reflected_second_moment_limit,
             where, lambda: _walk(3000) / 3000.0, tolerance=0.03),
        row("activation before addition: second moment", walks.addition_second_moment, where,
             _addition, l=12, q_0=1.5),
        row("finite width: E q^2/(E q)^2", lambda: variance.finite_width_moment(_RELU), where,
             lambda: (1.0 + 5.0 / 64.0) ** 12, N=64, L=12),
    ]  # fmt: skip


def _two_steps(power: int) -> float:
    """E[relu(relu(z) + z')^power] by Gauss-Legendre panels over both half-lines."""
    points, weights = np.polynomial.legendre.leggauss(40)
    x = (np.arange(9)[:, None] + 0.5 * (points + 1.0)).ravel() * 1.5
    density = np.tile(0.75 * weights, 9) / math.sqrt(2.0 * math.pi)
    # Inner integral over y = relu(z) + z' > 0 at z > 0; z <= 0 contributes half of the first step.
    inner = np.exp(-0.5 * (x[None, :] - x[:, None]) ** 2) @ (density * x**power)
    first = (density * np.exp(-0.5 * x**2)) @ x**power
    return float((density * np.exp(-0.5 * x**2)) @ inner + 0.5 * first)


def _walk(depth: int) -> float:
    """E[x_l^2] of the reflected walk, summed directly."""
    weights = (2.0 * math.pi * np.arange(1, depth)) ** -0.5
    return depth / 2.0 + float(weights @ np.cumsum(weights)[::-1])


def _addition() -> float:
    mean, square = 0.0, 1.5
    for _ in range(12):
        square += 2.0 * mean / math.sqrt(2.0 * math.pi) + 0.5
        mean += 1.0 / math.sqrt(2.0 * math.pi)
    return square
