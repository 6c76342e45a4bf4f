r"""Moments of Gaussian vectors by their radial integral, and what follows for uniform directions.

z ~ N(0, I_n) has E|z|^p = int r^(n-1+p) e^(-r^2/2) dr / int r^(n-1) e^(-r^2/2) dr, and |z| is
independent of z/|z|: a moment of the direction is the Gaussian's moment over that of the radius.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sympy as sp

__all__ = ["coordinate", "inverse_square", "radial", "reduce_gammas", "stirling_limit", "wick"]

_r = sp.Symbol("r", positive=True)


@lru_cache(maxsize=256)
def radial(dimensions: Any, power: Any) -> Any:
    """E|z|^power, z ~ N(0, I) in ``dimensions``; needs dimensions + power > 0."""
    weight = sp.exp(-(_r**2) / 2)
    moment, norm = (
        sp.integrate(_r ** (dimensions - 1 + extra) * weight, (_r, 0, sp.oo), conds="none")
        for extra in (power, 0)
    )
    return sp.factor(reduce_gammas(moment / norm))


def inverse_square(rank: Any) -> Any:
    """E[1/|z|^2] in ``rank`` > 2 dimensions: how the mean of 1/R^2 depends on the pool."""
    return radial(rank, -2)


def reduce_gammas(expression: Any) -> Any:
    """Cancel Gamma functions whose arguments differ by integers (gammasimp alone misses half-integers)."""
    return sp.gammasimp(sp.expand_func(expression))


@lru_cache(maxsize=64)
def coordinate(power: Any) -> Any:
    """E[relu(z)^power] of one standard Gaussian coordinate: half the moment of its radius."""
    weight = sp.exp(-(_r**2) / 2) / sp.sqrt(2 * sp.pi)
    return sp.integrate(_r**power * weight, (_r, 0, sp.oo))


def wick(factors: tuple[Any, ...], covariance: Any) -> Any:
    """E[x_1 x_2 ... x_m] of centered Gaussians: pair the first with each other, recursively (Isserlis)."""
    if not factors:
        return sp.Integer(1)
    if len(factors) % 2:
        return sp.Integer(0)
    first, *rest = factors
    return sp.expand(
        sum(
            covariance[first, other] * wick((*rest[:i], *rest[i + 1 :]), covariance)
            for i, other in enumerate(rest)
        )
    )


def stirling_limit(expression: Any, variable: Any) -> Any:
    """Limit at infinity of a positive product of Gamma functions, by SymPy's series of log Gamma."""
    series = sp.loggamma(_r).aseries(_r, 2).removeO()
    asymptotic = expression.replace(
        lambda part: isinstance(part, sp.gamma) and part.has(variable),
        lambda part: sp.exp(series.subs(_r, part.args[0])),
    )
    logarithm = sp.expand_log(sp.log(asymptotic), force=True)
    return sp.simplify(sp.exp(sp.limit(sp.expand(logarithm), variable, sp.oo)))
