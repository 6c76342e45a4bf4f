r"""Streams behind relu: reflected random walks (Spitzer's identity) and activation before addition.

Post-activation x_{l+1} = relu(x_l + z_l), x_0 = 0, z_l standard Gaussian: the maximum of a random walk.
Activation before addition: x_{l+1} = x_l + relu(z_l).
Sources: Spitzer 1956; theory notes, section 5.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import mpmath  # type: ignore[import-untyped]
import sympy as sp

from theory.symbolic.expression import Expression, Lemma, Trail
from theory.symbolic.kernels import ray_dual
from theory.symbolic.moments import coordinate
from theory.symbolic.symbols import c, k, layer, p0, q0, root_ratio, weight_variance

__all__ = [
    "POLYLOGARITHM", "SPITZER", "addition_cross_moment", "addition_growth", "addition_mean",
    "addition_second_moment", "reflected_mean", "reflected_mean_limit", "reflected_second_moment",
    "reflected_second_moment_limit",
]  # fmt: skip

_SOURCE = "Spitzer 1956; theory notes, section 5"
_s, _t, _x = sp.symbols("s t x", positive=True)
_first, _second = sp.symbols("A_1 A_2")
_j = sp.Symbol("j", integer=True, positive=True)


def _second_step() -> tuple[Any, Any]:
    """E[x_2^2]: integrated over x_1, and by the identity, a_1 = 1/sqrt(2 pi)."""
    density = lambda x: mpmath.exp(-x * x / 2) / mpmath.sqrt(2 * mpmath.pi)  # noqa: E731
    # E[relu(x + z)^2] = (1 + x^2) Phi(x) + x density(x); x_1 = 0 with probability 1/2.
    after = lambda x: (1 + x * x) * mpmath.ncdf(x) + x * density(x)  # noqa: E731
    walked = after(mpmath.mpf(0)) / 2 + mpmath.quad(
        lambda x: density(x) * after(x), [0, 1, 2, 4, 8, 16, 32]
    )
    return walked, mpmath.mpmathify(sp.N(_written_out(reflected_second_moment().expression, 2), 50))


SPITZER = Lemma(
    name="Spitzer's identity",
    statement="sum_l t^l E[e^(-s x_l)] = exp(sum_k t^k E[e^(-s max(S_k, 0))]/k), S_k a sum of k steps.",
    source="Spitzer 1956, theorem 3.1",
    sides=_second_step,
)


def _polylogarithm() -> tuple[Any, Any]:
    x = mpmath.mpf(1) / 10
    series = mpmath.nsum(
        lambda i: mpmath.zeta(mpmath.mpf(1) / 2 - i) * (-x) ** i / mpmath.factorial(i), [0, 60]
    )
    return (
        mpmath.polylog(mpmath.mpf(1) / 2, mpmath.exp(-x)),
        mpmath.sqrt(mpmath.pi / x) + series,
    )


POLYLOGARITHM = Lemma(
    name="polylogarithm at 1",
    statement="sum_k e^(-k x)/sqrt(k) = sqrt(pi/x) + zeta(1/2) + O(x); by Karamata's Tauberian theorem "
    "coefficients of monotone sequences follow the generating function.",
    source="DLMF 25.12.12; Feller II, XIII.5",
    sides=_polylogarithm,
)


@lru_cache(maxsize=1)
def _generating() -> tuple[Trail, Any, Any, Any, Any]:
    """Trail, weights of A_1 and A_2, and the coefficients of s and s^2/2 of Spitzer's exponential."""
    trail = Trail()
    partial = sp.symbols("m_1 m_2")
    trail.lemma(
        SPITZER,
        sp.exp(sp.Sum(_t**k / k * (1 - _s * partial[0] + _s**2 * partial[1] / 2), (k, 1, sp.oo))),
    )
    first = trail.step(
        "E[max(S_k, 0)]/k", "S_k is Gaussian of variance k: weights of A_1(t).",
        lambda: sp.simplify(sp.sqrt(k) * coordinate(1) / k),
    )  # fmt: skip
    second = trail.step(
        "E[max(S_k, 0)^2]/k", "Weights of A_2(t).", lambda: sp.simplify(k * coordinate(2) / k)
    )
    expanded = trail.step(
        "expand in s",
        "The exponent is -log(1 - t) - s A_1 + s^2 A_2/2: compare powers of s.",
        lambda: sp.series(
            sp.exp(sp.summation(_t**k / k, (k, 1, sp.oo)).args[0][0] - _s * _first + _s**2 * _second / 2),
            _s, 0, 3,
        ).removeO(),
    )  # fmt: skip
    return (
        trail,
        first,
        second,
        sp.simplify(-expanded.coeff(_s, 1)),
        sp.simplify(2 * expanded.coeff(_s, 2)),
    )


def _trail() -> Trail:
    trail = Trail()
    trail.steps.extend(_generating()[0].steps)
    return trail


def _written_out(expression: Any, depth: int) -> Any:
    """Return the expression at l = depth with its sums as finite sums, outermost index first."""

    def terms(function: Any, *limits: Any) -> Any:
        if not limits:
            return function
        *inner, (index, low, high) = limits
        return sum(
            terms(*(part.subs(index, value) for part in (function, *inner)))
            for value in range(low, high + 1)
        )

    return expression.subs(layer, depth).replace(sp.Sum, terms)


@lru_cache(maxsize=64)
def reflected_mean() -> Expression:
    """E[x_l]: the l-th coefficient of A_1(t)/(1 - t), a partial sum."""
    trail, (_, first, _, in_s, _) = _trail(), _generating()
    value = trail.step(
        "coefficient of t^l", "Dividing by 1 - t sums the weights up to l.",
        lambda: sp.simplify(in_s * (1 - _t) / _first) * sp.Sum(first, (k, 1, layer)),
    )  # fmt: skip
    return trail.conclude(
        r"\mathrm{E}[x_l]", value, name="post-activation stream, mean", source=_SOURCE
    )


@lru_cache(maxsize=64)
def reflected_second_moment() -> Expression:
    """E[x_l^2]: the l-th coefficient of (A_2 + A_1^2)/(1 - t)."""
    trail, (_, first, second, _, in_ss) = _trail(), _generating()
    weights = sp.Poly(sp.expand(in_ss * (1 - _t)), _first, _second)
    value = trail.step(
        "coefficient of t^l",
        "A_2/(1 - t) sums its weights up to l; A_1^2/(1 - t) sums products over j + k <= l.",
        lambda: (
            weights.coeff_monomial(_second) * sp.summation(second, (k, 1, layer))
            + weights.coeff_monomial(_first**2)
            * sp.Sum(first.subs(k, _j) * first, (k, 1, layer - _j), (_j, 1, layer - 1))
        ),
    )
    trail.check(
        "the polynomials of order 3",
        "The same coefficient read off the truncated generating function: the difference at l = 3.",
        lambda: sp.simplify(
            _written_out(value, 3)
            - sp.series(
                in_ss.subs(
                    {
                        weight: sum(_t**i * a.subs(k, i) for i in (1, 2, 3))
                        for weight, a in ((_first, first), (_second, second))
                    }
                ),
                _t, 0, 4,
            ).removeO().coeff(_t, 3)
        ),
    )  # fmt: skip
    return trail.conclude(
        r"\mathrm{E}[x_l^2]", value, name="post-activation stream, second moment", source=_SOURCE
    )


def _abel(weights: Any, power: Any, trail: Trail) -> Any:
    """lim x^power times the generating function at t = e^-x, x -> 0."""
    near = trail.lemma(POLYLOGARITHM, sp.sqrt(sp.pi / _x) + sp.zeta(sp.Rational(1, 2)))
    _, first, second, _, _ = _generating()
    scale = sp.simplify(first * sp.sqrt(k))
    at = {
        _first: scale * near,
        _second: second / (sp.exp(_x) - 1),
    }
    return trail.step(
        "generating function at t = e^-x", "Leading order as x -> 0, where 1 - t is x.",
        lambda: sum(
            sp.limit(term.subs(at) * _x ** (power - 1), _x, 0)
            for term in sp.Add.make_args(sp.expand(sp.simplify(weights * (1 - _t))))
        ),
    )  # fmt: skip


@lru_cache(maxsize=64)
def reflected_mean_limit() -> Expression:
    """lim E[x_l]/sqrt(l), l -> infinity."""
    trail = _trail()
    size = _abel(_generating()[3], sp.Rational(3, 2), trail)
    value = trail.step(
        "coefficients", "x^(-3/2) belongs to sqrt(l)/Gamma(3/2).",
        lambda: size / sp.gamma(sp.Rational(3, 2)),
    )  # fmt: skip
    return trail.conclude(
        r"\lim_{l\to\infty} \mathrm{E}[x_l]/\sqrt{l}", value,
        name="post-activation stream, mean, l -> oo", source=_SOURCE,
    )  # fmt: skip


@lru_cache(maxsize=64)
def reflected_second_moment_limit() -> Expression:
    """lim E[x_l^2]/l, l -> infinity."""
    trail = _trail()
    size = _abel(_generating()[4], 2, trail)
    value = trail.step("coefficients", "x^-2 belongs to l/Gamma(2).", lambda: size / sp.gamma(2))
    return trail.conclude(
        r"\lim_{l\to\infty} \mathrm{E}[x_l^2]/l", value,
        name="post-activation stream, second moment, l -> oo", source=_SOURCE,
    )  # fmt: skip


_mean, _square = sp.Function("m"), sp.Function("v")


@lru_cache(maxsize=64)
def addition_mean() -> Expression:
    """E[x_l] of activation before addition, m_{l+1} = m_l + E[relu(z)]."""
    trail = Trail()
    value = trail.step(
        "rsolve", "m_0 = 0.",
        lambda: sp.rsolve(
            _mean(layer + 1) - _mean(layer) - coordinate(1), _mean(layer), {_mean(0): 0}
        ),
    )  # fmt: skip
    return trail.conclude(
        r"\mathrm{E}[x_l]", value, name="activation before addition, mean", source=_SOURCE
    )


@lru_cache(maxsize=64)
def addition_second_moment() -> Expression:
    """E[x_l^2], v_{l+1} = v_l + 2 m_l E[relu] + E[relu^2]."""
    trail = Trail()
    mean = trail.use(addition_mean())
    value = trail.step(
        "rsolve", "v_0 = q_0; the branch is independent of the stream.",
        lambda: sp.expand(
            sp.rsolve(
                _square(layer + 1) - _square(layer) - 2 * mean * coordinate(1) - coordinate(2),
                _square(layer), {_square(0): q0},
            )
        ),
    )  # fmt: skip
    return trail.conclude(
        r"\mathrm{E}[x_l^2]", value, name="activation before addition, second moment",
        source=_SOURCE,
    )  # fmt: skip


@lru_cache(maxsize=64)
def addition_cross_moment() -> Expression:
    """E[x_l x'_l] of two samples with correlations c(0), ..., c(l-1) of their branches."""
    trail = Trail()
    mean = trail.use(addition_mean())
    dual = trail.use(ray_dual((1, 0)))
    value = trail.step(
        "sum the increments", "p_{l+1} - p_l = 2 m_l E[relu] + E[relu relu'] at the correlation c(l).",
        lambda: p0
        + sp.expand(sp.summation(2 * mean.subs(layer, k) * coordinate(1), (k, 0, layer - 1)))
        + sp.Sum(dual.subs(c, sp.Function("c")(k)), (k, 0, layer - 1)),
    )  # fmt: skip
    return trail.conclude(
        r"\mathrm{E}[x_l x_l']", value, name="activation before addition, cross moment",
        source=_SOURCE,
    )  # fmt: skip


@lru_cache(maxsize=64)
def addition_growth() -> Expression:
    """Factor r per layer on E[x^2] without a unit scale: relu branches of h ~ N(0, sigma_w^2 E[x^2]).

    With mean mu sqrt(E[x^2]) and a = sigma_w E[relu(z)]: mu sqrt(r) = mu + a, r = 1 + 2 a mu + sigma_w^2/2.
    """
    trail = Trail()
    root = root_ratio
    step = sp.sqrt(weight_variance) * coordinate(1)
    value = trail.step(
        "eliminate the mean", "mu = a/(R - 1) with R = sqrt(r): a cubic in R.",
        lambda: sp.expand(
            (root**2 - 1 - weight_variance * coordinate(2)) * (root - 1) - 2 * step**2
        ),
    )  # fmt: skip
    return trail.conclude("0", value, name="activation before addition, cubic for sqrt(r)",
                          source=_SOURCE)  # fmt: skip
