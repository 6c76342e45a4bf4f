"""The symbols of the field, one object per quantity, with their assumptions and their meaning."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import sympy as sp

__all__ = [
    "MEANINGS",
    "B",
    "G",
    "L",
    "S",
    "a",
    "alpha",
    "b",
    "beta",
    "c",
    "c_after",
    "c_before",
    "d",
    "d0",
    "growth",
    "k",
    "layer",
    "mean_mode",
    "n",
    "p0",
    "q",
    "q0",
    "r",
    "root_ratio",
    "s",
    "same",
    "settled_gap",
    "theta",
    "u",
    "weight_variance",
    "width",
]

c = sp.Symbol("c", real=True)
c_before = sp.Symbol("c_{l-1}", real=True)
c_after = sp.Symbol("c_l", real=True)
u = sp.Symbol("u", positive=True)
theta = sp.Symbol("theta", positive=True)
q = sp.Symbol("q", positive=True)
r = sp.Symbol("r", real=True)
s = sp.Symbol("s", real=True)
a = sp.Symbol("a", real=True)
b = sp.Symbol("b", real=True)
n = sp.Symbol("n", positive=True)
B = sp.Symbol("B", positive=True)
G = sp.Symbol("G", positive=True)
S = sp.Symbol("S", positive=True)
layer = sp.Symbol("l", integer=True, nonnegative=True)
L = sp.Symbol("L", integer=True, positive=True)
k = sp.Symbol("k", integer=True, nonnegative=True)
width = sp.Symbol("N", positive=True)
weight_variance = sp.Symbol("sigma_w^2", positive=True)
root_ratio = sp.Symbol("R", positive=True)
alpha = sp.Symbol("alpha", real=True)
beta = sp.Symbol("beta", real=True)
q0 = sp.Symbol("q_0", positive=True)
p0 = sp.Symbol("p_0", real=True)
d = sp.Symbol("d", positive=True)
d0 = sp.Symbol("d_0", positive=True)
growth = sp.Symbol("lambda", positive=True)
settled_gap = sp.Symbol("u_*", positive=True)
same = sp.Symbol("pi_c", positive=True)
mean_mode = sp.Symbol("pi_m", positive=True)

MEANINGS: Mapping[Any, str] = MappingProxyType(
    {
        c: "correlation of two samples' pre-activations, -1 <= c <= 1",
        c_before: "correlation of two samples' pre-activations at layer l - 1",
        c_after: "correlation of two samples' pre-activations at layer l",
        u: "gap 1 - c, 0 < u <= 2",
        theta: "angle arccos c, 0 <= theta <= pi",
        q: "second moment E[h^2] of the pre-activations, q > 0",
        r: "sample correlation of two groups: the cosine of their angle, -1 <= r <= 1",
        s: "cosine similarity of post-activations",
        a: "slope of the activation on x > 0",
        b: "slope of the activation of -x on x < 0: phi(x) = a relu(x) + b relu(-x)",
        n: "rank of the pool: dimensions of a normalized group, n > 0",
        B: "samples per batch, B >= 2",
        G: "channels per group, G >= 2",
        S: "positions per sample, S >= 2",
        layer: "layer, an integer >= 0",
        L: "depth, an integer >= 1",
        k: "index of summation, an integer >= 0",
        width: "channels per layer of a finite network, N >= 1",
        weight_variance: "sigma_w^2 = Var(W_ij) fan_in > 0",
        root_ratio: "square root of the factor per layer on E[x^2]",
        alpha: "weight of the skip connection",
        beta: "weight of the residual branch",
        q0: "second moment of the stream before the first block, q_0 > 0",
        p0: "cross moment of two samples' streams before the first block",
        d: "q - p > 0: second moment minus the cross moment of two samples",
        d0: "q_0 - p_0 > 0",
        growth: "factor per layer on the squared gradient norm without skip connection, > 0",
        settled_gap: "1 - s* of post-activations at the fixed point, > 0",
        same: "gradient covariance per contrast over samples",
        mean_mode: "gradient covariance of the mean over samples",
    }
)
