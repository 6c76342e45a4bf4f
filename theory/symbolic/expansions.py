r"""GroupNorm near c = 1 and for large groups: series in the gap and in 1/G.

v = c z + sqrt(1 - c^2) z' has a part w along z and a part of length W in n - 1 dimensions across it,
so cot(angle) = (c |z| + sqrt(1 - c^2) w)/(sqrt(1 - c^2) W): expand in the gap and average each
monomial by radial integrals.  For large n the sample moments fluctuate by n^(-1/2): the delta method.
Source: theory notes, section 4 (GN).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sympy as sp

from theory.symbolic import groups
from theory.symbolic.expression import Expression, Trail
from theory.symbolic.kernels import ray_dual
from theory.symbolic.layers import ExactLayer
from theory.symbolic.maps import near_one as gaussian_near_one
from theory.symbolic.moments import radial, reduce_gammas, wick
from theory.symbolic.symbols import G, c, n, u

__all__ = ["fixed_point_gap", "growth_series", "large_group_gap", "large_groups", "near_one"]

_SOURCE = "theory notes, section 4 (GN)"
_e, _length, _across = sp.symbols("epsilon U W", positive=True)
_along = sp.Symbol("w", real=True)


@lru_cache(maxsize=64)
def near_one(slopes: tuple[Any, Any], rank: Any = n) -> Expression:
    """1 - c' = E[1 - r] - const E[(1 - r)^(3/2)] + O(u^2), for n > 3."""
    trail = Trail()
    side = _e * sp.sqrt(2 - _e**2)
    ahead = (1 - _e**2) * _length + side * _along
    gap = trail.step(
        "geometry", "1 - cos of the angle for u = epsilon^2, to order epsilon^3.",
        lambda: sp.expand(
            sp.series(1 - ahead / sp.sqrt(ahead**2 + side**2 * _across**2), _e, 0, 4).removeO()
        ),
    )  # fmt: skip
    layer = ExactLayer(
        slopes=slopes, scale=1, shift=0, weight_variance=1, centered_weights=False, norm=None
    )
    dual = trail.use(gaussian_near_one(layer))
    inner = trail.step(
        "insert into the Gaussian gap",
        "The gap of phi at 1 - r, to the same order.",
        lambda: sp.expand(sp.series(dual.subs(u, gap), _e, 0, 4).removeO()),
    )
    value = trail.step(
        "average",
        "Lengths are independent: E[U^a W^b w^k] = E|z|^a in n dimensions, E|z|^b in n - 1; odd powers "
        "of w vanish.",
        lambda: _average(inner, rank).subs(_e, sp.sqrt(u)),
    )
    return trail.conclude("1 - c'", value, name="GroupNorm series about c = 1", source=_SOURCE)


def _average(polynomial: Any, rank: Any) -> Any:
    total = sp.Integer(0)
    for term in sp.Add.make_args(polynomial):
        powers = term.as_powers_dict()
        along = powers.get(_along, 0)
        if along % 2:
            continue
        rest = term / (_length ** powers.get(_length, 0) * _across ** powers.get(_across, 0))
        moment = radial(n, powers.get(_length, 0)) * radial(n - 1, powers.get(_across, 0))
        total += sp.Mul(rest, sp.factor(reduce_gammas(moment).subs(n, rank)))
    return total


@lru_cache(maxsize=64)
def fixed_point_gap(slopes: tuple[Any, Any] = (1, 0), rank: Any = n) -> Expression:
    """1 - c* where the first two terms of the series balance."""
    trail = Trail()
    series = trail.use(near_one(slopes, rank))
    root = sp.Symbol("x", positive=True)
    value = trail.step(
        "balance", "u = A u - B u^(3/2), for u > 0: solve for sqrt(u).",
        lambda: sp.factor(
            sp.solve(sp.expand((series.subs(u, root**2) - root**2) / root**2), root)[0] ** 2
        ),
    )  # fmt: skip
    return trail.conclude("1 - c^*", value, name="GroupNorm fixed point, large G", source=_SOURCE)


@lru_cache(maxsize=64)
def large_group_gap() -> Expression:
    """lim G^2 (1 - c*) for relu, G -> infinity."""
    trail = Trail()
    gap = trail.use(fixed_point_gap((1, 0), G - 1))
    value = trail.step("leading order", "Multiply by G^2.", lambda: sp.limit(gap * G**2, G, sp.oo))
    return trail.conclude(
        r"\lim_{G\to\infty} G^2 (1 - c^*)", value, name="GroupNorm fixed point, G -> oo",
        source=_SOURCE,
    )  # fmt: skip


@lru_cache(maxsize=64)
def growth_series(*, order: int = 4) -> Expression:
    """lambda_GN in powers of 1/G, below ``order``."""
    trail = Trail()
    value = trail.use(groups.gradient_growth(G - 1))
    x = sp.Symbol("x", positive=True)
    value = trail.step(
        "series in 1/G", "Expand at G = infinity.",
        lambda: sp.series(value.subs(G, 1 / x), x, 0, order).removeO().subs(x, 1 / G),
    )  # fmt: skip
    return trail.conclude(r"\lambda", value, name="GroupNorm gradient growth, large G",
                          source=_SOURCE)  # fmt: skip


@lru_cache(maxsize=64)
def large_groups(slopes: tuple[Any, Any] = (1, 0)) -> Expression:
    """c' = V(c)/V(1) + const(c)/n + O(n^-2): the delta method on the three sample moments."""
    trail = Trail()
    names = sp.symbols("m_uu m_vv m_uv", positive=True)
    pairs = ((0, 0), (1, 1), (0, 1))
    sigma = sp.Matrix([[1, c], [c, 1]])
    covariance = trail.step(
        "fluctuations of the sample moments", "n Cov by Isserlis' pairings.",
        lambda: sp.Matrix(
            3, 3, lambda i, j: wick((*pairs[i], *pairs[j]), sigma) - sigma[pairs[i]] * sigma[pairs[j]]
        ),
    )  # fmt: skip
    dual = trail.use(ray_dual(slopes))
    composed = (dual / dual.subs(c, 1)).subs(c, names[2] / sp.sqrt(names[0] * names[1]))
    at = dict(zip(names, (1, 1, c), strict=True))
    value = trail.step(
        "second order", "E f(m) = f + tr(Hessian Cov)/(2 n).",
        lambda: composed.subs(at) + sp.simplify(
            sum(
                sp.diff(composed, names[i], names[j]).subs(at) * covariance[i, j]
                for i in range(3) for j in range(3)
            )
        ) / (2 * n),
    )  # fmt: skip
    return trail.conclude("c'", value, name="GroupNorm map, large groups", source=_SOURCE)
