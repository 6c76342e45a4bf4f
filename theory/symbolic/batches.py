r"""BatchNorm of an exchangeable batch: lambda_B assembled from E[J' Pi J], and what B -> infinity leaves.

h minus its mean is isotropic in the B - 1 contrasts: N(h) = sqrt(B) v with v a uniform direction there,
independent of R, and for phi = a relu(x) + b relu(-x), D = diag(phi'(v)),

    J = D (P - v v')/R,    E[J' Pi J] = t P,    (B - 1) t = E[1/R^2] ((same - pair) A + pair C),
    A = E tr D^2 (P - v v'),    C = E 1' D (P - v v') D 1.

Sources: Yang et al. 2019; theory notes, section 4 (BN backward).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sympy as sp

from theory.symbolic.expression import Expression, Trail
from theory.symbolic.kernels import ray_dual, ray_mean, ray_slope_dual, ray_square
from theory.symbolic.moments import inverse_square, radial
from theory.symbolic.symbols import B, c, s

__all__ = [
    "contrast_correlation", "cross_batch_similarity", "gradient_growth", "growth_limit",
    "growth_series", "mean_centering_factor", "mean_centering_growth", "mean_drive",
    "similarity_limit", "similarity_map", "stable_rank",
]  # fmt: skip

_SOURCE = "Yang et al. 2019; theory notes, section 4 (BN)"
_x = sp.Symbol("x", positive=True)


def contrast_correlation(trail: Trail) -> tuple[Any, Any]:
    """(variance, correlation) of the coordinates of P z, P = I - 11'/B."""
    variance = 1 - 1 / B
    rho = trail.step(
        "coordinates of a contrast",
        "P = I - 11'/B is the covariance of P z: -1/B off its diagonal over 1 - 1/B on it.",
        lambda: sp.factor(-1 / B / variance),
    )
    return variance, rho


@lru_cache(maxsize=64)
def similarity_map(slopes: tuple[Any, Any]) -> Expression:
    """s = V(rho)/V(1) at the correlation rho of two contrasts, whatever the input's c."""
    trail = Trail()
    _, rho = contrast_correlation(trail)
    dual = trail.use(ray_dual(slopes))
    value = trail.step(
        "BN has forgotten c",
        "Homogeneous phi does not see R: the duals are those of P z.",
        lambda: sp.expand(dual / dual.subs(c, 1)).subs(c, rho),
    )
    return trail.conclude("s(c)", value, name="BatchNorm similarity map", source=_SOURCE)


@lru_cache(maxsize=64)
def similarity_limit(slopes: tuple[Any, Any]) -> Expression:
    """s for B -> infinity."""
    trail = Trail()
    value = trail.use(similarity_map(slopes))
    value = trail.step("B -> infinity", "Limit.", lambda: sp.limit(value, B, sp.oo))
    return trail.conclude(r"\lim_{B\to\infty} s", value, name="BatchNorm similarity, B = oo",
                          source=_SOURCE)  # fmt: skip


@lru_cache(maxsize=64)
def cross_batch_similarity(slopes: tuple[Any, Any]) -> Expression:
    """E[x]^2/E[x^2]: two samples in independent batches."""
    trail = Trail()
    value = trail.step(
        "direction of one batch",
        "E[phi(v_k)] and E[phi(v_k)^2] of a direction in B - 1 dimensions: the Gaussian's over those "
        "of |z|.",
        lambda: sp.simplify(
            ray_mean(slopes) ** 2 / radial(B - 1, 1) ** 2
            / (ray_square(slopes) / radial(B - 1, 2))
        ),
    )  # fmt: skip
    return trail.conclude(
        r"\mathrm{E}[x]^2/\mathrm{E}[x^2]", value, name="BatchNorm similarity across batches",
        source=_SOURCE,
    )  # fmt: skip


def _drives(slopes: tuple[Any, Any], trail: Trail) -> tuple[Any, Any]:
    """(A, C)."""
    variance, rho = contrast_correlation(trail)
    square = ray_square(slopes)
    slope_dual = trail.use(ray_slope_dual(slopes))
    dual = trail.use(ray_dual(slopes))
    spread = trail.step(
        "A",
        "sum_k E[phi'^2] ((1 - 1/B) - E v_k^2), with E v_k^2 = (1 - 1/B)/(B - 1).",
        lambda: sp.factor(B * square * (variance - variance / radial(B - 1, 2))),
    )
    shared = trail.step(
        "C",
        "sum_kl E[phi'_k phi'_l] (delta_kl - 1/B) - E[(sum_k phi(v_k))^2], duals at rho over E|z|^2.",
        lambda: (
            B * square * variance
            - (B - 1) * slope_dual.subs(c, rho)
            - B * variance * (square + (B - 1) * dual.subs(c, rho)) / radial(B - 1, 2)
        ),
    )  # fmt: skip
    return spread, shared


def _one_fraction(expression: Any) -> Any:
    """Collect over a common denominator: in m = B - 1 > 0 the roots are sqrt(m^2 - 1)/m."""
    contrasts = sp.Symbol("m", positive=True)
    top, bottom = sp.fraction(sp.factor(sp.simplify(expression.subs(B, contrasts + 1))))
    roots = [sp.acos(-1 / contrasts), sp.sqrt(contrasts**2 - 1)]
    collected = sp.collect(sp.expand(top), roots, sp.factor) / sp.factor(bottom)
    return collected.subs(contrasts, B - 1)


@lru_cache(maxsize=64)
def mean_drive(slopes: tuple[Any, Any]) -> Expression:
    """C/(B - 1): what a cotangent shared by all samples leaves per contrast."""
    trail = Trail()
    _, shared = _drives(slopes, trail)
    value = trail.step("one fraction", "Collect.", lambda: _one_fraction(shared / (B - 1)))
    return trail.conclude("C/(B-1)", value, name="shared cotangent through BN", source=_SOURCE)


@lru_cache(maxsize=64)
def gradient_growth(slopes: tuple[Any, Any]) -> Expression:
    """lambda_B: factor on the contrasts' gradient covariance at the stationary q and gap."""
    trail = Trail()
    spread, shared = _drives(slopes, trail)
    inverse = trail.step(
        "E[1/R^2]", "R^2 = q gap |z|^2/B in B - 1 dimensions: q gap E[1/R^2].",
        lambda: B * inverse_square(B - 1),
    )  # fmt: skip
    similarity = trail.use(similarity_map(slopes))
    ratio = trail.step(
        "per layer, per contrast",
        "A gradient P through W has same - pair = sigma_w^2 and pair = -sigma_w^2/B; q = sigma_w^2 "
        "E[phi^2] and gap = 1 - s one layer earlier: sigma_w^2 cancels.",
        lambda: (
            inverse * (spread - shared / B) / (B - 1) / (ray_square(slopes) * (1 - similarity))
        ),
    )  # fmt: skip
    value = trail.step("one fraction", "Collect.", lambda: _one_fraction(ratio))
    return trail.conclude(r"\lambda_B", value, name="BatchNorm gradient growth", source=_SOURCE)


@lru_cache(maxsize=64)
def growth_limit(slopes: tuple[Any, Any]) -> Expression:
    """lambda for B -> infinity."""
    trail = Trail()
    value = trail.use(gradient_growth(slopes))
    value = trail.step(
        "B -> infinity", "With x = 1/B the growth is analytic at x = 0.",
        lambda: sp.simplify(sp.limit(value.subs(B, 1 / _x), _x, 0)),
    )  # fmt: skip
    return trail.conclude(r"\lambda_\infty", value, name="BatchNorm gradient growth, B = oo",
                          source=_SOURCE)  # fmt: skip


@lru_cache(maxsize=64)
def growth_series(slopes: tuple[Any, Any], *, order: int = 2) -> Expression:
    """lambda_B in powers of 1/B, below ``order``."""
    trail = Trail()
    value = trail.use(gradient_growth(slopes))
    series = trail.step(
        "series in 1/B", "Expand at B = infinity.",
        lambda: sp.series(value.subs(B, 1 / _x), _x, 0, order).removeO(),
    )  # fmt: skip
    value = sum(
        sp.simplify(sp.expand(series).coeff(_x, power)) / B**power for power in range(order)
    )
    return trail.conclude(r"\lambda_B", value, name="BatchNorm gradient growth, large B",
                          source=_SOURCE)  # fmt: skip


@lru_cache(maxsize=64)
def mean_centering_factor(slopes: tuple[Any, Any], weight_variance: Any) -> Expression:
    """Factor on q gap per layer of mean centering: (1 - 1/B) sigma_w^2 E[base^2] (1 - s)."""
    trail = Trail()
    variance, _ = contrast_correlation(trail)
    similarity = trail.use(similarity_map(slopes))
    value = trail.step(
        "spread of one layer", "q gap -> (1 - 1/B) q gap -> sigma_w^2 E[phi^2] (1 - s).",
        lambda: sp.simplify(weight_variance * variance * ray_square(slopes) * (1 - similarity)),
    )  # fmt: skip
    return trail.conclude("q'", value, name="mean centering, factor on q gap", source=_SOURCE)


@lru_cache(maxsize=64)
def mean_centering_growth(slopes: tuple[Any, Any], weight_variance: Any) -> Expression:
    """lambda of mean centering: E tr(P D P D)/(B - 1)."""
    trail = Trail()
    variance, rho = contrast_correlation(trail)
    dual = trail.use(ray_slope_dual(slopes))
    value = trail.step(
        "E tr(P D P D)/(B - 1)", "sum_kl P_kl^2 E[phi'_k phi'_l].",
        lambda: sp.simplify(
            weight_variance * (
                B * variance**2 * ray_square(slopes) + B * (B - 1) / B**2 * dual.subs(c, rho)
            ) / (B - 1)
        ),
    )  # fmt: skip
    return trail.conclude(r"\lambda", value, name="mean centering gradient growth",
                          source=_SOURCE)  # fmt: skip


@lru_cache(maxsize=64)
def stable_rank() -> Expression:
    """tr M/||M||_2 of the cosine matrix M = (1 - s) I + s 11' of B samples."""
    trail = Trail()
    together = trail.step("M 1", "Each row of M sums to this eigenvalue.", lambda: 1 + (B - 1) * s)
    apart = trail.step("M (e_1 - e_2)", "The other eigenvalue, B - 1 times.", lambda: 1 - s)
    trail.check(
        "trace", "The eigenvalues add up to the trace B.",
        lambda: sp.expand(together + (B - 1) * apart - B),
    )  # fmt: skip
    return trail.conclude(
        r"\mathrm{tr} M/\|M\|_2",
        B / sp.Max(together, apart),
        name="stable rank of exchangeable samples",
        source="theory notes, section 1",
    )
