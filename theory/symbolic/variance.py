r"""Variance Normalization and finite width: what moments of chi-square radii give in closed form.

VN divides h = m 1 + z (m the batch mean, z = P h isotropic in B - 1 contrasts) by R^2 = |z|^2/B and
keeps the mean; as c -> 1 the mean dominates and relu is the identity or zero.  At finite width N a
plain layer multiplies |h|^2 by a sum of N independent squares.
Sources: Daneshmand et al. 2020; Hanin 2018; theory notes, sections 4 (VN) and 6.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sympy as sp

from theory.symbolic.expression import Expression, Trail
from theory.symbolic.kernels import kappa0, ray_square
from theory.symbolic.moments import coordinate, inverse_square, radial
from theory.symbolic.symbols import B, L, c, c_after, c_before, q, u, width

__all__ = [
    "finite_width_moment", "vn_collapse", "vn_gradient_limit", "vn_gradient_matrix", "vn_growth",
    "vn_infinite_batch", "vn_second_moment", "vn_variance_recursion",
]  # fmt: skip

_SOURCE = "Daneshmand et al. 2020; theory notes, section 4 (VN)"


@lru_cache(maxsize=64)
def vn_second_moment() -> Expression:
    """E[N(h)^2] of VN(B), B > 3: the mean's part E[m^2] E[1/R^2] and the contrasts' part 1."""
    trail = Trail()
    mean = trail.step(
        "E[m^2]", "Variance of the batch mean at correlation c.",
        lambda: sp.factor(q * (c + (1 - c) / B)),
    )  # fmt: skip
    inverse = trail.step(
        "E[1/R^2]", "R^2 = q (1 - c) |z|^2/B in B - 1 dimensions, independent of m.",
        lambda: B * inverse_square(B - 1) / (q * (1 - c)),
    )  # fmt: skip
    value = trail.step("sum", "sum_k z_k^2/(B R^2) = 1.", lambda: sp.factor(mean * inverse + 1))
    return trail.conclude(r"\mathrm{E}[N(h)^2]", value, name="VN, second moment", source=_SOURCE)


@lru_cache(maxsize=64)
def vn_variance_recursion(slopes: tuple[Any, Any], weight_variance: Any) -> Expression:
    """q' = sigma_w^2 E[phi(N)^2]: phi's second moment is that of N times E[phi(z)^2], by symmetry."""
    trail = Trail()
    square = trail.use(vn_second_moment())
    value = trail.step(
        "through phi and W",
        "h and -h are equally likely, so that E[phi(N)^2] = E[N^2] (a^2 + b^2)/2.",
        lambda: sp.factor(weight_variance * ray_square(slopes) * square),
    )
    return trail.conclude("q'", value, name="VN variance recursion", source=_SOURCE)


@lru_cache(maxsize=64)
def vn_infinite_batch() -> Expression:
    """E[N(h)^2] for B -> infinity."""
    trail = Trail()
    value = trail.use(vn_second_moment())
    value = trail.step("B -> infinity", "Limit.", lambda: sp.simplify(sp.limit(value, B, sp.oo)))
    return trail.conclude(
        r"\lim_{B\to\infty} \mathrm{E}[N(h)^2]", value, name="VN, second moment, B = oo",
        source=_SOURCE,
    )  # fmt: skip


@lru_cache(maxsize=64)
def vn_gradient_limit() -> Expression:
    """Backward factor sigma_w^2 E[phi'^2]/R_l^2 of B = infinity, in c_{l-1} and c_l."""
    trail = Trail()
    before = trail.use(vn_infinite_batch())
    value = trail.step(
        "one layer",
        "R_l^2 = q_l (1 - c_l), q_l = sigma_w^2 E[phi(N)^2]: sigma_w^2 E[relu'^2] cancels.",
        lambda: sp.simplify(1 / (before.subs(c, c_before) * (1 - c_after))),
    )
    return trail.conclude(r"\lambda_l", value, name="VN gradient factor, B = oo", source=_SOURCE)


@lru_cache(maxsize=64)
def vn_collapse() -> Expression:
    """(1 - c')/(1 - c) as c -> 1: contrasts over E[N^2], with relu the identity where m > 0."""
    trail = Trail()
    square = trail.use(vn_second_moment())
    value = trail.step(
        "c -> 1",
        "E|P N|^2/(B - 1) = B/(B - 1) is what two samples differ by; divide by E[N^2] and by 1 - c.",
        lambda: sp.factor(sp.limit((B / (B - 1) / square / (1 - c)).subs(c, 1 - u), u, 0)),
    )
    return trail.conclude(
        r"\lim_{c\to 1}\frac{1-c'}{1-c}", value, name="VN contraction of the gap", source=_SOURCE
    )


@lru_cache(maxsize=64)
def vn_gradient_matrix() -> Expression:
    """Leading T on gradient modes (per contrast, mean), as u = 1 - c -> 0; lower left for large B.

    J' g = g/R - z (h . g)/(B R^3) where m > 0; sigma_w^2 E[phi'^2] = 1 there, and the stationary
    network has q u = B/(B - 1).
    """
    trail = Trail()
    spread = trail.step(
        "q u", "What one layer makes of the spread: E|P N|^2/(B - 1).", lambda: B / (B - 1)
    )
    inverse = trail.step(
        "E[1/R^2]", "In B - 1 dimensions.",
        lambda: sp.factor(B * inverse_square(B - 1) / spread),
    )  # fmt: skip
    fourth = trail.step(
        "E[1/R^4]", "In B - 1 dimensions.",
        lambda: sp.factor(B**2 * radial(B - 1, -4) / spread**2),
    )  # fmt: skip
    contrast = trail.step(
        "contrasts to contrasts",
        "|P J' g|^2 = |g|^2/R^2 - (z . g)^2/(B R^4): one of B - 1 directions is lost.",
        lambda: sp.factor(inverse * (1 - 1 / (B - 1))),
    )
    driven = trail.step(
        "mean to contrasts", "|z|^2 (h . g)^2/(B^2 R^6) = m^2/R^4 per unit mean mode, E[m^2] = q.",
        lambda: sp.factor(spread / u * fourth / (B - 1)),
    )  # fmt: skip
    angular = trail.use(kappa0())
    leaked = trail.step(
        "contrasts to mean",
        "1' D P D 1/B = p (1 - p), p the share of samples with phi' = 1; for large B its mean is "
        "P(h_k > 0 > h_l) = (1 - kappa_0)/2 to leading order in u; sigma_w^2 E[1/R^2] = 2.",
        lambda: 2 * sp.limit(
            ((1 - angular) / 2 / sp.sqrt(1 - c)).subs(c, 1 - u), u, 0
        ) * sp.sqrt(u),
    )  # fmt: skip
    value = sp.Matrix([[contrast, driven], [leaked, inverse]])
    trail.step("matrix", "Rows: receiving mode.", lambda: value)
    return trail.conclude("T", value, name="VN gradient modes near collapse", source=_SOURCE)


@lru_cache(maxsize=64)
def vn_growth() -> Expression:
    """u^(1/4) (lambda - 1) for large B as samples collapse: the off-diagonal product's square root."""
    trail = Trail()
    matrix = trail.use(vn_gradient_matrix())
    value = trail.step(
        "largest eigenvalue",
        "As u -> 0 the diagonal stays finite, the product of the off-diagonal entries grows.",
        lambda: sp.sqrt(sp.factor(matrix[0, 1] * matrix[1, 0] * sp.sqrt(u))),
    )
    return trail.conclude(
        r"\lim_{u\to 0} u^{1/4}\lambda", value, name="VN gradient growth near collapse",
        source=_SOURCE,
    )  # fmt: skip


@lru_cache(maxsize=64)
def finite_width_moment(slopes: tuple[Any, Any] = (1, 0)) -> Expression:
    """E|x^L|^4/E[|x^L|^2]^2 of a plain network of constant width N, from a fixed input."""
    trail = Trail()
    square = ray_square(slopes)
    quartic = trail.step(
        "fourth moment", "E[phi(z)^4] of one neuron.",
        lambda: (slopes[0] ** 4 + slopes[1] ** 4) * coordinate(4),
    )  # fmt: skip
    factor = trail.step(
        "one layer",
        "Given the layer below, neurons are independent: E[(sum phi^2)^2]/(N E[phi^2])^2.",
        lambda: sp.expand(
            (width * quartic + width * (width - 1) * square**2) / (width * square) ** 2
        ),
    )
    ratio, index = sp.Function("M"), sp.Symbol("l", integer=True)
    value = trail.step(
        "L layers", "The ratio multiplies; rsolve from 1.",
        lambda: sp.rsolve(ratio(index + 1) - factor * ratio(index), ratio(index), {ratio(0): 1}).subs(
            index, L
        ),
    )  # fmt: skip
    return trail.conclude(
        r"\mathrm{E}\|x^L\|^4 / (\mathrm{E}\|x^L\|^2)^2", value,
        name="fluctuation at finite width", source="Hanin 2018; theory notes, section 6",
    )  # fmt: skip
