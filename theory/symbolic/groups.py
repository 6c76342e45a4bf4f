r"""Groups of channels: the angle of two normalized groups, Hotelling's law, lambda_GN, exact values.

A normalized group is a uniform direction in n dimensions (n = G - 1 about the mean, n = G for an rms).
Two groups at channel correlation c have cosine r, the sample correlation of n pairs, and for
phi = a relu(x) + b relu(-x)

    c' = E[V(r)]/V(1),      lambda = sigma_w^2 q E||J_a||^2 / q' = dc'/dc at c = 1.

Everything follows from radial Gaussian integrals.  Sources: Hotelling 1953; theory notes, 3 and 4.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import mpmath  # type: ignore[import-untyped]
import sympy as sp

from theory.symbolic.expression import Expression, Lemma, Trail
from theory.symbolic.kernels import ray_dual, ray_slope_dual
from theory.symbolic.moments import (
    coordinate,
    inverse_square,
    radial,
    reduce_gammas,
    stirling_limit,
)
from theory.symbolic.symbols import c, k, n, r, theta

__all__ = [
    "HOTELLING", "density", "exact_value", "fisher_density", "gradient_growth", "independent_value",
    "independent_limit", "similarity_map", "slope", "slope_at_independence",
]  # fmt: skip

_SOURCE = "Hotelling 1953; theory notes, sections 3 and 4 (GN)"
_size = sp.Symbol("varrho", positive=True)
_x = sp.Symbol("x", positive=True)
_w = sp.Symbol("w", positive=True)
_tau = sp.Symbol("tau", real=True)
_j = sp.Symbol("j", integer=True, nonnegative=True)


def _hotelling_sides() -> tuple[Any, Any]:
    """Our density and Hotelling's at n = 17/3, c = 2/5, r = 3/10."""
    at = {n: sp.Rational(17, 3), c: sp.Rational(2, 5), r: sp.Rational(3, 10)}
    ours = density().expression.subs(at)
    rank, rho, cosine = (mpmath.mpf(at[x].p) / at[x].q for x in (n, c, r))
    published = (
        (rank - 1) * mpmath.gamma(rank)
        / (mpmath.sqrt(2 * mpmath.pi) * mpmath.gamma(rank + 0.5))
        * (1 - rho**2) ** (rank / 2) * (1 - cosine**2) ** ((rank - 3) / 2)
        * (1 - rho * cosine) ** (0.5 - rank)
        * mpmath.hyp2f1(0.5, 0.5, rank + 0.5, (1 + rho * cosine) / 2)
    )  # fmt: skip
    return mpmath.mpmathify(sp.N(ours, mpmath.mp.dps)), published


HOTELLING = Lemma(
    name="Hotelling's form",
    statement="The density derived here is Hotelling's, with one hypergeometric function.",
    source="Hotelling 1953, equation 25",
    sides=_hotelling_sides,
)


def _hypergeometric(term: Any) -> Any:
    """sum_k term(k) as a hypergeometric function, from the ratio of its terms (factored over k)."""
    ratio = reduce_gammas(term.subs(_j, _j + 1) / term)
    top, bottom = sp.fraction(sp.factor(sp.simplify(ratio)))
    roots = [sp.roots(sp.Poly(side, _j)) for side in (top, bottom)]
    leading = sp.simplify(sp.LC(top, _j) / sp.LC(bottom, _j))
    upper, lower = ([-root for root, times in side.items() for _ in range(times)] for side in roots)
    lower.remove(1)  # k! is part of the function's definition
    return term.subs(_j, 0) * sp.hyper(upper, lower, leading)


@lru_cache(maxsize=1)
def density() -> Expression:
    """f(r; c, n) of the sample correlation of n bivariate Gaussian pairs, E = int f dr."""
    trail = Trail()
    flat = trail.step(
        "direction at c = 0",
        "r is a coordinate of a uniform direction: (1 - r^2)^((n-3)/2), normalized in r = cos theta.",
        lambda: (1 - r**2) ** ((n - 3) / 2) * _sphere_norm(n),
    )
    term = trail.step(
        "expand in c",
        "The joint density of lengths and r brings e^(-(s^2 + t^2 - 2 c r s t)/(2 (1 - c^2))) and "
        "(1 - c^2)^(-n/2); the k-th term in s t separates into two radial moments E|z|^k.",
        lambda: (
            (1 - c**2) ** (n / 2) * (c * r) ** k * radial(n, k) ** 2 / sp.factorial(k)
        ),
    )  # fmt: skip
    parts = trail.step(
        "sum over k",
        "Even and odd terms are hypergeometric series: the ratio of successive terms is rational.",
        lambda: sum(_hypergeometric(term.subs(k, 2 * _j + odd)) for odd in (0, 1)),
    )
    value = trail.lemma(HOTELLING, flat * parts)
    return trail.conclude("f(r)", value, name="density of the sample correlation", source=_SOURCE)


def _sphere_norm(dimensions: Any) -> Any:
    """1 / int (1 - r^2)^((n-3)/2) dr = surface of S^(n-2) over surface of S^(n-1), by radial integrals."""
    surface = [
        sp.pi ** (m / sp.Integer(2)) / sp.integrate(
            _size ** (m - 1) * sp.exp(-(_size**2)), (_size, 0, sp.oo), conds="none"
        )
        for m in (dimensions - 1, dimensions)
    ]  # fmt: skip
    return sp.simplify(reduce_gammas(surface[0] / surface[1]))


@lru_cache(maxsize=64)
def fisher_density(rank: int) -> Expression:
    """The same density for an integer n >= 2 in elementary functions (Fisher 1915)."""
    trail = Trail()
    total = trail.step(
        "radius of the two lengths",
        "(s, t) = rho (cos a, sin a): the integral over rho at 1 - x sin 2 a = w, over the norms of "
        "both lengths; x = c r.",
        lambda: (
            sp.integrate(_size ** (2 * rank - 1) * sp.exp(-(_size**2) * _w / 2), (_size, 0, sp.oo))
            / sp.integrate(_size ** (rank - 1) * sp.exp(-(_size**2) / 2), (_size, 0, sp.oo)) ** 2
        ),
    )
    basic = trail.step(
        "angle of the two lengths",
        "int_0^pi db/(1 - x sin b) with b = 2 a, tau = tan(b/2), for 0 < x < 1 and w^2 = 1 - x^2.",
        lambda: _half_line(2 / ((_tau - _x) ** 2 + _w**2)).subs(_w, sp.sqrt(1 - _x**2)),
    )
    value = trail.step(
        "differentiate n - 1 times",
        "int sin^(n-1) b/(1 - x sin b)^n db is the derivative over (n-1)!; (sin 2 a/2)^(n-1) da.",
        lambda: (
            total.subs(_w, 1) * sp.diff(basic, _x, rank - 1).subs(_x, c * r)
            / sp.factorial(rank - 1) / 2**rank
            * (1 - c**2) ** sp.Rational(rank, 2)
            * (1 - r**2) ** sp.Rational(rank - 3, 2)
            * _sphere_norm(sp.Integer(rank))
        ),
    )  # fmt: skip
    return trail.conclude(
        "f(r)", value, name=f"density of the sample correlation, n = {rank}", source="Fisher 1915"
    )


def _half_line(function: Any) -> Any:
    antiderivative = sp.integrate(function, _tau)
    return sp.simplify(sp.limit(antiderivative, _tau, sp.oo) - antiderivative.subs(_tau, 0))


@lru_cache(maxsize=64)
def similarity_map(slopes: tuple[Any, Any], rank: Any) -> Expression:
    """c' = E[V(r)]/V(1), an integral over the angle for -1 < c < 1; n = 1 (r = +-1) is elementary."""
    trail = Trail()
    dual = trail.use(ray_dual(slopes))
    dual = sp.expand(dual / dual.subs(c, 1))
    if rank == 1:
        signs = trail.use(ray_slope_dual((1, 1)))
        value = trail.step(
            "one dimension", "r is the product of two signs, the slopes of |x|.",
            lambda: sp.expand(
                (dual.subs(c, 1) + dual.subs(c, -1)) / 2
                + signs * (dual.subs(c, 1) - dual.subs(c, -1)) / 2
            ),
        )  # fmt: skip
    else:
        law = trail.use(density())
        value = trail.step(
            "average over the angle",
            "r = cos theta; the angle of a uniform pair of directions at r makes phi's dual Gaussian.",
            lambda: sp.Integral(
                sp.powsimp(
                    dual.subs(c, r).subs(
                        {sp.acos(r): theta, sp.sqrt(1 - r**2): sp.sin(theta), r: sp.cos(theta)}
                    )
                )
                * _in_angle(law, rank),
                (theta, 0, sp.pi),
            ),
        )
    return trail.conclude("c'", value, name="GroupNorm similarity map", source=_SOURCE)


def _in_angle(law: Any, rank: Any) -> Any:
    """f(cos theta) sin theta, with sqrt(1 - r^2) = sin theta."""
    height = (law.subs(1 - r**2, _x**2) * _x).subs(n, rank)
    return height.subs({r: sp.cos(theta), _x: sp.sin(theta)})


@lru_cache(maxsize=64)
def slope(slopes: tuple[Any, Any], rank: Any) -> Expression:
    """chi(c) = dc'/dc under the integral."""
    trail = Trail()
    value = trail.use(similarity_map(slopes, rank))
    value = trail.step("derivative", "Differentiate under the integral.", lambda: sp.diff(value, c))
    return trail.conclude(r"\chi(c)", value, name="GroupNorm slope", source=_SOURCE)


@lru_cache(maxsize=64)
def independent_value(slopes: tuple[Any, Any], rank: Any = n) -> Expression:
    """c'(0) = E[base(v_1)]^2/E[base(v_1)^2] of independent directions v."""
    trail = Trail()
    mean = trail.step(
        "E[base(v_1)]", "The Gaussian's mean over E|z|.",
        lambda: (slopes[0] + slopes[1]) * coordinate(1) / radial(n, 1),
    )  # fmt: skip
    square = trail.step(
        "E[base(v_1)^2]", "The Gaussian's second moment over E|z|^2.",
        lambda: (slopes[0] ** 2 + slopes[1] ** 2) * coordinate(2) / radial(n, 2),
    )  # fmt: skip
    value = trail.step(
        "independent groups", "At c = 0 the two directions are independent.",
        lambda: sp.simplify((mean**2 / square).subs(n, rank)),
    )  # fmt: skip
    return trail.conclude("c'(0)", value, name="GroupNorm map at c = 0", source=_SOURCE)


@lru_cache(maxsize=64)
def exact_value(slopes: tuple[Any, Any], rank: int) -> Expression:
    """c'(0) again, by integrating Hotelling's integral at c = 0 for an integer n (<= 8 within seconds)."""
    trail = Trail()
    integral = trail.use(similarity_map(slopes, rank))
    value = trail.step(
        "integrate at c = 0",
        "What remains is a trigonometric polynomial times the angle.",
        lambda: sp.simplify(integral.subs(c, 0).doit()),
    )
    return trail.conclude("c'(0)", value, name="Hotelling's integral at c = 0", source=_SOURCE)


@lru_cache(maxsize=64)
def independent_limit(slopes: tuple[Any, Any]) -> Expression:
    """c'(0) for n -> infinity: LayerNorm's."""
    trail = Trail()
    value = trail.use(independent_value(slopes))
    value = trail.step(
        "large groups", "Stirling's series of log Gamma.", lambda: stirling_limit(value, n)
    )
    return trail.conclude(r"\lim_{n\to\infty} c'(0)", value, name="GroupNorm map at c = 0, G = oo",
                          source=_SOURCE)  # fmt: skip


@lru_cache(maxsize=64)
def slope_at_independence(slopes: tuple[Any, Any], rank: Any = n) -> Expression:
    """chi(0) = sum_i E[u_i base(v_1)]^2/E[base(v_1)^2], the first Hermite coefficient (u = |u| v)."""
    trail = Trail()
    first = trail.step(
        "first Hermite coefficient",
        "Only u_1 contributes: E[|u| v_1 base(v_1)] = E|u| E[v_1 base(v_1)].",
        lambda: (
            radial(n, 1) * (slopes[0] - slopes[1]) * coordinate(2) / radial(n, 2)
        ),
    )  # fmt: skip
    value = trail.step(
        "normalize", "Divide its square by the second moment of base(v_1).",
        lambda: sp.simplify(
            (
                first**2
                / ((slopes[0] ** 2 + slopes[1] ** 2) * coordinate(2) / radial(n, 2))
            ).subs(n, rank)
        ),
    )  # fmt: skip
    return trail.conclude(r"\chi(0)", value, name="GroupNorm slope at c = 0", source=_SOURCE)


@lru_cache(maxsize=64)
def gradient_growth(rank: Any = n) -> Expression:
    """lambda = q E[phi'^2 |P_a - u_a u/|u|^2|^2/R^2] sigma_w^2/q': E[1/R^2] times a projected row."""
    trail = Trail()
    inverse = trail.step(
        "E[1/R^2]", "q E[1/R^2] / (divisor) = E[1/|z|^2] in n > 2 dimensions.",
        lambda: inverse_square(n),
    )  # fmt: skip
    row = trail.step(
        "one row of the Jacobian",
        "In the group's n dimensions the row e_a has squared length |e_a|^2 and loses its part along "
        "the group's direction v: |e_a|^2 (1 - E v_1^2); phi'^2 is independent of v_1^2.",
        lambda: 1 - 2 * coordinate(2) / radial(n, 2),
    )
    size = trail.step(
        "what R^2 makes of the output",
        "E[phi(u)^2]/E[phi'^2] = divisor |e_a|^2 E[v_1^2]: the divisor and |e_a|^2 cancel.",
        lambda: 2 * coordinate(2) / radial(n, 2),
    )
    value = trail.step(
        "ratio",
        "sigma_w^2 E||J_a||^2 at q' = sigma_w^2 E[phi^2]; E[1/R^2] is infinite for n = 2.",
        lambda: sp.oo if rank == 2 else sp.factor((inverse * row / size).subs(n, rank)),
    )
    return trail.conclude(r"\lambda", value, name="GroupNorm gradient growth", source=_SOURCE)
