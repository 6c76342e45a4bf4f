r"""E[phi(u) phi(v)] of a Gaussian pair at angle theta, from the integral in polar form.

u = r cos t, v = r cos(t - theta) with a uniform angle t and density r e^(-r^2/2) of the radius is a
pair of unit Gaussians with correlation cos theta.  phi(x) = a relu(x) + b relu(-x) is linear in four
sectors of t, so that every dual is a radial moment times four integrals of cosines.
Sources: Cho & Saul 2009; theory notes, section 3.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sympy as sp

from theory.symbolic.expression import Expression, Trail
from theory.symbolic.moments import coordinate
from theory.symbolic.symbols import a, b, c, theta

__all__ = ["kappa0", "kappa1", "ray_dual", "ray_mean", "ray_slope_dual", "ray_square"]

_r = sp.Symbol("r", positive=True)
_t = sp.Symbol("t", real=True)
_half = sp.pi / 2
# (from, to, phi'(u), phi'(v)) by the signs of u = r cos t and v = r cos(t - theta), 0 <= theta <= pi.
_SECTORS = (
    (theta - _half, _half, a, a),
    (_half, theta + _half, -b, a),
    (theta + _half, 3 * _half, -b, -b),
    (-_half, theta - _half, a, -b),
)
_SOURCE = "Cho & Saul 2009; theory notes, section 3"


def _over_sectors(function: Any) -> Any:
    """int function(t) dt / (2 pi), weighted by the slopes of phi at u and at v in each sector."""
    total = sum(
        slope_u * slope_v * sp.integrate(function.expand(trig=True), (_t, low, high))
        for low, high, slope_u, slope_v in _SECTORS
    )
    return sp.expand(sp.simplify(total / (2 * sp.pi)))


@lru_cache(maxsize=1)
def _angular() -> Expression:
    """E[phi(u) phi(v)] in theta, for symbolic slopes a and b."""
    trail = Trail()
    radius = sp.exp(-(_r**2) / 2) * _r
    square = trail.step(
        "radial integral",
        "u = r cos t, v = r cos(t - theta): E[phi phi] separates into radius and angle.",
        lambda: sp.integrate(_r**2 * radius, (_r, 0, sp.oo)),
    )
    pair = sp.cos(_t) * sp.cos(_t - theta)
    dual = trail.step(
        "angular integral",
        "phi is linear in four sectors of t; each is an integral of cos t cos(t - theta).",
        lambda: sp.expand(square * _over_sectors(pair)),
    )
    trail.check(
        "the identity",
        "With a = 1, b = -1 phi(x) = x, and E[u v] - cos theta = 0.",
        lambda: sp.simplify(dual.subs({a: 1, b: -1}) - sp.cos(theta)),
    )
    return trail.conclude(
        r"\mathrm{E}[\phi(u)\phi(v)]", dual, name="dual in the angle", source=_SOURCE
    )


@lru_cache(maxsize=1)
def _angular_slope() -> Expression:
    """E[phi'(u) phi'(v)] in theta: the sectors' angles."""
    trail = Trail()
    dual = trail.step(
        "angles of the sectors",
        "phi' is constant in four sectors of t; their angles are what remains.",
        lambda: _over_sectors(sp.Integer(1)),
    )
    value = trail.use(_angular())
    trail.check(
        "Price's theorem",
        "d E[phi phi]/dc = E[phi' phi'], with dc = -sin(theta) dtheta: the difference is 0.",
        lambda: sp.simplify(sp.diff(value, theta) / -sp.sin(theta) - dual),
    )
    return trail.conclude(
        r"\mathrm{E}[\phi'(u)\phi'(v)]", dual, name="slope dual in the angle", source=_SOURCE
    )


def _in_correlation(
    angular: Expression, slopes: tuple[Any, Any], left: str, name: str
) -> Expression:
    trail = Trail()
    value = trail.use(angular)
    value = trail.step(
        "theta = arccos c",
        "Insert the slopes of the activation and write the angle as the correlation.",
        lambda: sp.expand(value.subs({a: slopes[0], b: slopes[1]}).subs(theta, sp.acos(c))),
    )
    return trail.conclude(left, value, name=name, source=_SOURCE)


@lru_cache(maxsize=64)
def ray_dual(slopes: tuple[Any, Any] = (a, b)) -> Expression:
    """V(c) = E[phi(u) phi(v)] of unit Gaussians at correlation c; slopes (a, b), relu (1, 0)."""
    left = r"\mathrm{E}[\phi(u)\phi(v)]"
    return _in_correlation(_angular(), slopes, left, "Gaussian dual")


@lru_cache(maxsize=64)
def ray_slope_dual(slopes: tuple[Any, Any] = (a, b)) -> Expression:
    """V'(c) = E[phi'(u) phi'(v)] of unit Gaussians at correlation c."""
    left = r"\mathrm{E}[\phi'(u)\phi'(v)]"
    return _in_correlation(_angular_slope(), slopes, left, "Gaussian dual of the slopes")


def ray_square(slopes: tuple[Any, Any]) -> Any:
    """E[phi(z)^2] = E[phi'(z)^2] of a unit Gaussian: the dual at angle 0."""
    return _angular().expression.subs(theta, 0).subs({a: slopes[0], b: slopes[1]})


def ray_mean(slopes: tuple[Any, Any]) -> Any:
    """E[phi(z)] of a unit Gaussian: each half-line brings E[relu(z)]."""
    return (slopes[0] + slopes[1]) * coordinate(1)


def _normalized(dual: Expression, left: str, name: str) -> Expression:
    trail = Trail()
    value = trail.use(dual)
    value = trail.step(
        "divide by the value at c = 1",
        "Cosine similarity: E[phi phi'] over E[phi^2].",
        lambda: sp.expand(value / value.subs(c, 1)),
    )
    return trail.conclude(left, value, name=name, source=_SOURCE)


@lru_cache(maxsize=1)
def kappa1() -> Expression:
    """kappa_1(c): similarity of relu(u) and relu(v)."""
    return _normalized(ray_dual((1, 0)), r"\kappa_1(c)", "arc-cosine kernel of order 1")


@lru_cache(maxsize=1)
def kappa0() -> Expression:
    """kappa_0(c): similarity of relu'(u) and relu'(v), the derivative of kappa_1."""
    return _normalized(ray_slope_dual((1, 0)), r"\kappa_0(c)", "arc-cosine kernel of order 0")
