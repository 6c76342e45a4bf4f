r"""Pre-activation residual streams x_{l+1} = alpha x_l + beta W phi(N(x_l)): recursions solved.

Forward  q_{l+1} = alpha^2 q_l + beta^2 q'(q_l), q' the layer's own variance recursion;
backward Pi_l = Pi_{l+1} (alpha^2 + beta^2 lambda v/q_l) with the layer's lambda where its second moment
v is that of its own output (a denominator makes the Jacobian scale as 1/sqrt(q)), lambda without one.
Dividing the branch's input by the predicted sqrt(q) (normalizer-free networks) does what an rms over
all channels does: take the layer with ``layer_norm()``.
Sources: De & Smith 2020; Brock, De & Smith 2021; theory notes, section 5.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sympy as sp

from theory.errors import out_of_domain
from theory.symbolic import batches, maps
from theory.symbolic.expression import Expression, Trail
from theory.symbolic.kernels import ray_square
from theory.symbolic.layers import ExactLayer
from theory.symbolic.moments import stirling_limit
from theory.symbolic.symbols import (
    B,
    L,
    alpha,
    beta,
    d,
    d0,
    growth,
    k,
    layer,
    mean_mode,
    p0,
    q,
    q0,
    same,
    settled_gap,
)  # fmt: skip

__all__ = [
    "batch_contrast_growth", "batch_end_cross_moment", "batch_gradient_recursion",
    "branch_second_moment", "depth_exponent", "gradient_factor", "scaled_limit", "stream_cross_moment",
    "stream_gradient", "stream_recursion", "stream_second_moment", "weight_norm_ratio",
]  # fmt: skip

_SOURCE = "De & Smith 2020; theory notes, section 5"
_q, _p = sp.Function("q"), sp.Function("p")


@lru_cache(maxsize=64)
def branch_second_moment(spec: ExactLayer) -> Expression:
    """Second moment that one branch adds: q' in q, a constant behind a denominator."""
    if spec.kind in ("plain", "limit"):
        return maps.variance_recursion(spec)
    trail = Trail()
    share = _ddof_share(spec)
    value = trail.step(
        "unit variance", "E[N(h)^2] = (pool - ddof)/pool; phi and W as in a layer.",
        lambda: spec.weight_variance * share * ray_square(spec.slopes),
    )  # fmt: skip
    return trail.conclude("v", value, name="second moment of a branch", source=_SOURCE)


def _ddof_share(spec: ExactLayer) -> Any:
    norm = spec.norm
    assert norm is not None
    size = B if norm.pool.samples else sp.Integer(int(norm.pool.channels))
    return 1 - sp.Integer(norm.ddof) / size


@lru_cache(maxsize=64)
def stream_recursion(spec: ExactLayer) -> Expression:
    """q' = alpha^2 q + beta^2 v(q)."""
    trail = Trail()
    branch = trail.use(branch_second_moment(spec))
    value = alpha**2 * q + beta**2 * branch
    return trail.conclude("q'", value, name="residual variance recursion", source=_SOURCE)


@lru_cache(maxsize=64)
def stream_second_moment(spec: ExactLayer) -> Expression:
    """q_l with alpha = beta = 1, by rsolve; the recursion must be linear in q."""
    trail = Trail()
    mapped = trail.use(stream_recursion(spec)).subs({alpha: 1, beta: 1})
    if sp.diff(mapped, q, 2) != 0:
        raise out_of_domain(
            "layer", "a shifted activation without normalizer", "one whose recursion is linear in q",
            "see weight_norm_ratio, or iterate stream_recursion",
        )  # fmt: skip
    value = trail.step(
        "rsolve", "q_{l+1} = q'(q_l), alpha = beta = 1.",
        lambda: sp.rsolve(_q(layer + 1) - mapped.subs(q, _q(layer)), _q(layer), {_q(0): q0}),
    )  # fmt: skip
    return trail.conclude("q_l", value, name="residual second moment", source=_SOURCE)


@lru_cache(maxsize=64)
def stream_cross_moment(spec: ExactLayer) -> Expression:
    """p_l of a BatchNorm branch: every layer adds v s*, s* whatever the correlation."""
    trail = Trail()
    branch = trail.use(branch_second_moment(spec))
    similarity = trail.use(batches.similarity_map(spec.slopes))
    value = trail.step(
        "rsolve", "p_{l+1} = p_l + v s*.",
        lambda: sp.rsolve(
            _p(layer + 1) - _p(layer) - branch * similarity, _p(layer), {_p(0): p0}
        ),
    )  # fmt: skip
    return trail.conclude("p_l", value, name="BatchNorm stream, cross moment", source=_SOURCE)


@lru_cache(maxsize=64)
def batch_end_cross_moment() -> Expression:
    """p_l of x + BN(W relu(x)): every layer adds the correlation of two contrasts."""
    trail = Trail()
    _, rho = batches.contrast_correlation(trail)
    value = trail.step(
        "rsolve", "p_{l+1} = p_l + rho.",
        lambda: sp.rsolve(_p(layer + 1) - _p(layer) - rho, _p(layer), {_p(0): p0}),
    )  # fmt: skip
    return trail.conclude("p_l", value, name="BatchNorm at the branch's end, cross moment",
                          source=_SOURCE)  # fmt: skip


@lru_cache(maxsize=64)
def gradient_factor(spec: ExactLayer, own: Expression) -> Expression:
    """alpha^2 + beta^2 lambda v/q (v/q only behind a denominator); ``own`` is the layer's lambda."""
    trail = Trail()
    value = trail.use(own)
    if spec.kind != "plain":
        value = value * trail.use(branch_second_moment(spec)) / q
    return trail.conclude(
        r"\mathrm{E}\|g_l\|^2/\mathrm{E}\|g_{l+1}\|^2", alpha**2 + beta**2 * value,
        name="residual gradient factor", source=_SOURCE,
    )  # fmt: skip


@lru_cache(maxsize=64)
def stream_gradient(spec: ExactLayer, own: Expression) -> Expression:
    """prod_{l<L} of the factors at q_l, alpha = beta = 1: a power, or Gamma functions."""
    trail = Trail()
    factor = trail.use(gradient_factor(spec, own)).subs({alpha: 1, beta: 1})
    second_moment = trail.use(stream_second_moment(spec))
    value = trail.step(
        "product over the layers", "Linear factors give Gamma functions.",
        lambda: _product(factor.subs(q, second_moment.subs(layer, k))),
    )  # fmt: skip
    return trail.conclude(
        r"\mathrm{E}\|g_0\|^2/\mathrm{E}\|g_L\|^2", value, name="residual gradient over depth",
        source=_SOURCE,
    )  # fmt: skip


def _product(factor: Any) -> Any:
    product = sp.product(sp.together(factor), (k, 0, L - 1)).rewrite(sp.gamma)
    return sp.factor(sp.gammasimp(sp.expand_func(product)))


@lru_cache(maxsize=64)
def depth_exponent() -> Expression:
    """lim L^-lambda prod_{l<L} (1 + lambda/(q_0 + l)): the gradient grows as L^lambda."""
    trail = Trail()
    product = trail.step(
        "product", "Gamma functions for any lambda.", lambda: _product(1 + growth / (q0 + k))
    )
    depth = sp.Symbol("x", positive=True)
    value = trail.step(
        "L -> infinity", "Stirling's series of log Gamma.",
        lambda: stirling_limit(product.subs(L, depth) * depth**-growth, depth),
    )  # fmt: skip
    return trail.conclude(
        r"\lim_{L\to\infty} L^{-\lambda}\,\mathrm{E}\|g_0\|^2/\mathrm{E}\|g_L\|^2", value,
        name="residual gradient, L -> oo", source=_SOURCE,
    )  # fmt: skip


@lru_cache(maxsize=64)
def scaled_limit(factor: Expression) -> Expression:
    """lim of factor^L at alpha = 1, beta = 1/sqrt(L), for a factor that does not depend on q."""
    trail = Trail()
    value = trail.use(factor)
    depth = sp.Symbol("x", positive=True)
    value = trail.step(
        "L -> infinity", "Insert beta = 1/sqrt(L), take the L-th power.",
        lambda: sp.limit(value.subs({alpha: 1, beta: 1 / sp.sqrt(depth)}) ** depth, depth, sp.oo),
    )  # fmt: skip
    return trail.conclude(
        r"\lim_{L\to\infty} (\cdot)^L", value, name=f"{factor.name}, beta = 1/sqrt(L)",
        source=_SOURCE,
    )  # fmt: skip


@lru_cache(maxsize=64)
def weight_norm_ratio(spec: ExactLayer) -> Expression:
    """lim q'/q as q -> infinity, alpha = beta = 1: what Weight Norm tends to without a remedy."""
    trail = Trail()
    value = trail.use(stream_recursion(spec)).subs({alpha: 1, beta: 1})
    value = trail.step(
        "q -> infinity", "The shift of the activation no longer matters.",
        lambda: sp.simplify(sp.limit(sp.expand(value / q), q, sp.oo)),
    )  # fmt: skip
    return trail.conclude(
        r"\lim_{q\to\infty} q'/q", value, name="residual variance ratio, q -> oo", source=_SOURCE
    )


@lru_cache(maxsize=64)
def batch_gradient_recursion(slopes: tuple[Any, Any], weight_variance: Any) -> Expression:
    """pi_c <- pi_c + t for Pi = pi_c P + pi_m 11'/B, with d = q - p: T of batches, unscaled."""
    trail = Trail()
    own = trail.use(batches.gradient_growth(slopes))
    similarity = trail.use(batches.similarity_map(slopes))
    drive = trail.use(batches.mean_drive(slopes))
    value = trail.step(
        "contrasts and mean",
        "lambda was taken where q gap = sigma_w^2 E[phi^2] (1 - s*); a cotangent pi_m 11'/B has "
        "pair = pi_m/B and reaches the contrasts through C.",
        lambda: (
            same * (1 + own * weight_variance * ray_square(slopes) * (1 - similarity) / d)
            + mean_mode * weight_variance * drive / ((B - 3) * d)
        ),
    )
    return trail.conclude(
        r"\pi_c'", value, name="BatchNorm stream, gradient recursion", source=_SOURCE
    )


@lru_cache(maxsize=64)
def batch_contrast_growth() -> Expression:
    """prod_{l<L} (1 + lambda_B u_*/(d_0 + l u_*)): Gamma functions, grows as L^lambda_B."""
    trail = Trail()
    spread = trail.step(
        "q_l - p_l", "Each layer (unit second moment) adds u_* = 1 - s*; solve from d_0.",
        lambda: sp.rsolve(
            _p(layer + 1) - _p(layer) - settled_gap, _p(layer), {_p(0): d0}
        ),
    )  # fmt: skip
    offset = sp.Symbol("x", positive=True)
    value = trail.step(
        "product over the layers",
        "Linear factors 1 + lambda/(x + l), x = d_0/u_*, give Gamma functions.",
        lambda: _product(1 + growth / (offset + k)).subs(
            offset, sp.expand(spread / settled_gap).subs(layer, 0)
        ),
    )
    return trail.conclude(
        r"\pi_c(0)/\pi_c(L)", value, name="BatchNorm stream, contrasts over depth", source=_SOURCE
    )
