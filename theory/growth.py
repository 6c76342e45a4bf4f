r"""Laws of growth in depth, derived from what one block does at large second moment.

Variance.  q' = a^2 q + b^2 F(q) along a residual stream, F(q) the second moment of a branch.  With
F(q) ~ f q^e as q -> inf,

    e = 1:          exponential, base a^2 + b^2 f
    a = 1, e = 0:   linear, slope b^2 f
    a = 1, e < 1:   polynomial, q_l ~ ((1 - e) b^2 f l)^(1/(1-e))
    a < 1, e < 1:   bounded, at the fixed point.

Gradient.  E|g_l|^2 = (a^2 + b^2 T(q_l)) E|g_{l+1}|^2 with T ~ t q^-k and q_l ~ s l^p,

    k = 0:          exponential, base a^2 + b^2 t
    a = 1, k p = 1: polynomial, exponent b^2 t/s^k
    a = 1, k p > 1: bounded (the sum over blocks converges).

Reflected streams.  In phi(x + N(W x)) with relu a gradient dies where its channel meets 0.  Channels are
Brownian motions reflected at 0; from l to L a path misses 0 with probability (2/pi) arcsin sqrt(l/L), so
with branches that add c/l per block

    G(l) = (2/pi) arcsin sqrt(l/L) + c int_l^L G(s) (2/pi) arcsin sqrt(l/s) ds/s,

solved by l^-g with  g = c (1 - Gamma(g + 1/2)/(sqrt(pi) Gamma(g + 1))).  The gap of two samples
obeys the adjoint equation and falls as l^(g-1), g at c = 1 (a visit to 0 makes them meet).

Source: theory notes, section 5; the reflected stream is derived here.  ``residual_growth`` supplies F and T
from the operators of a network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from theory.errors import HypothesisError
from theory.specs._check import DEEPEST, integer, real

__all__ = [
    "FAR",
    "GrowthLaw",
    "branch_end_second_moment",
    "gradient_growth",
    "reflected_exponent",
    "stream_growth",
]

Kind = Literal["exponential", "polynomial", "linear", "bounded"]

# Far out, where corrections of relative size q^(-1/2) are 1e-13; quadrature takes q up to 1e30.
FAR = 4.0**44
_SAME = 1e-9


@dataclass(frozen=True, kw_only=True)
class GrowthLaw:
    """How a quantity grows with depth, and where that comes from.

    kind
        ``"exponential"``, ``"polynomial"``, ``"linear"`` or ``"bounded"``.
    rate
        Base per block, exponent, slope per block, or the limit: of q_L/q_0 with a branch of 1/sqrt(L), and
        nan where the start decides (what blocks add fades, or is nothing), which ``predict`` follows.
    coefficient
        s in s l^exponent where the law fixes it, else nan.
    route
        One sentence: the limits that decide.

    Of a gradient, growth is that of E|g_l|^2 / E|g_L|^2 in L/l or L - l.
    """

    kind: Kind
    rate: float
    route: str
    coefficient: float = math.nan

    @property
    def power(self) -> float:
        """p in l^p: 1 if linear, 0 if bounded, inf if exponential."""
        powers = {"linear": 1.0, "bounded": 0.0, "exponential": math.inf}
        return self.rate if self.kind == "polynomial" else powers[self.kind]

    @property
    def prefactor(self) -> float:
        """s in s l^p."""
        return self.rate if self.kind == "linear" else self.coefficient

    def __str__(self) -> str:
        """The law in a few characters."""
        match self.kind:
            case "exponential":
                return f"{self.rate:.6g}^l"
            case "polynomial":
                return f"l^{self.rate:.6g}"
            case "linear":
                return f"{self.rate:.6g} l"
            case _:
                limit = (
                    "by what the start decides" if math.isnan(self.rate) else f"({self.rate:.6g})"
                )
                return f"bounded {limit}"


def stream_growth(
    branch: Callable[[float], float], *, skip: float = 1.0, factor: float = 1.0
) -> GrowthLaw:
    """Law of q' = skip^2 q + factor^2 F(q), from F far out.

    Parameters
    ----------
    branch
        F: second moment that a branch adds, uncorrelated with the stream, as a function of q.
    skip, factor
        a and b.

    Raises
    ------
    HypothesisError
        F grows faster than q.
    """
    a2, b2 = skip * skip, factor * factor
    far = b2 * branch(FAR)
    elasticity = 0.0 if far == 0.0 else _elasticity(branch)
    if elasticity > 1.0 + _SAME:
        raise HypothesisError(
            f"the branch's second moment grows as q^{elasticity:.3g}: no law of the four; normalize it"
        )
    if elasticity > 1.0 - _SAME:
        base = a2 + far / FAR
        if base > 1.0 + _SAME:
            return GrowthLaw(kind="exponential", rate=base, route=f"q'/q -> {base:.6g} as q -> inf")
        return _bounded_stream(branch, a2, b2)
    if a2 > 1.0:
        return GrowthLaw(kind="exponential", rate=a2, route="F(q)/q -> 0, so q'/q -> skip^2")
    if a2 < 1.0 or far == 0.0:
        return _bounded_stream(branch, a2, b2)
    if elasticity < _SAME:
        return GrowthLaw(kind="linear", rate=far, route=f"q' - q -> {far:.6g} as q -> inf")
    power = 1.0 / (1.0 - elasticity)
    f = far / FAR**elasticity
    return GrowthLaw(
        kind="polynomial",
        rate=power,
        coefficient=(f / power) ** power,
        route=f"q' - q ~ {f:.6g} q^{elasticity:.4g} as q -> inf",
    )


def gradient_growth(
    branch_gradient: Callable[[float], float],
    *,
    stream: GrowthLaw,
    skip: float = 1.0,
    factor: float = 1.0,
) -> GrowthLaw:
    """Law of E|g_l|^2 = (skip^2 + factor^2 T(q_l)) E|g_{l+1}|^2, from T along ``stream``.

    Parameters
    ----------
    branch_gradient
        T: factor on squared gradients through a branch at second moment q.  Of a matrix over gradient
        modes, its spectral radius.
    stream
        Law of q.
    skip, factor
        a and b.

    Raises
    ------
    HypothesisError
        T falls so slowly that the law is none of the four.
    """
    a2, b2 = skip * skip, factor * factor
    if stream.kind == "bounded":
        if b2 == 0.0:
            return _per_block(a2, "the branch is 0")
        if math.isnan(stream.rate):
            raise HypothesisError("the stream's limit is not known, nor is T there; give its rate")
        return _per_block(a2 + b2 * branch_gradient(stream.rate), "skip^2 + factor^2 T(q*)")
    far = branch_gradient(FAR)
    fall = 0.0 if far == 0.0 else -_elasticity(branch_gradient)
    if far == 0.0 or fall > _SAME:
        if a2 != 1.0:
            return _per_block(a2, "T(q_l) -> 0")
        order = fall * stream.power
        if far == 0.0 or order > 1.0 + _SAME:
            return GrowthLaw(
                kind="bounded", rate=math.nan, route="the sum of T(q_l) over blocks converges"
            )
        if order < 1.0 - _SAME:
            raise HypothesisError(
                f"T(q_l) falls as l^-{order:.3g}: growth is a stretched exponential, none of the four"
            )
        exponent = b2 * far * (FAR / stream.prefactor) ** fall
        return GrowthLaw(
            kind="polynomial",
            rate=exponent,
            coefficient=math.nan,
            route=f"T(q_l) ~ {exponent:.6g}/l with q_l ~ {stream.prefactor:.6g} l^{stream.power:.4g}",
        )
    base = a2 + b2 * far
    return _per_block(base, f"skip^2 + factor^2 T -> {base:.6g}")


def reflected_exponent(branch: float = 1.0) -> float:
    r"""g > -1/2 solving g = c (1 - Gamma(g + 1/2)/(sqrt(pi) Gamma(g + 1))), other than g = 0.

    Squared gradients of relu(x + N(W x)) grow as L^g; c = 1 (LN, RMSNorm) gives 0.20895, BN as
    B -> inf has c = pi/(pi - 2) and 1.62201.  At c = 1/(2 log 2) both roots meet and g = 0; below that
    gradients fall towards the input.

    Parameters
    ----------
    branch
        c > 0: a branch adds c/l of the squared gradient per block.
    """
    from scipy import optimize

    c = real("branch", branch, low=0.0, open_low=True, remedy="LN has 1")

    def equation(g: float) -> float:
        # Divided by g, so that only the other root is left.
        if abs(g) < 1e-5:
            # log of the Gamma ratio: -2 log 2 g + (pi^2/6) g^2.
            log_ratio = -2.0 * math.log(2.0) * g + math.pi**2 / 6.0 * g * g
        else:
            log_ratio = math.lgamma(g + 0.5) - math.lgamma(g + 1.0) - 0.5 * math.log(math.pi)
        if g == 0.0:
            return 2.0 * math.log(2.0) * c - 1.0
        return -c * math.expm1(log_ratio) / g - 1.0

    low = -0.5 + 1e-12
    return float(optimize.brentq(equation, low, c + 1.0, xtol=1e-15, rtol=1e-14))


def branch_end_second_moment(
    depth: int, *, second_moment: float = 1.0, branch: float = 1.0, added: float = 1.0
) -> float:
    r"""q_l = q_0 + b^2 l: how the variance of x + norm(f(x)) grows with depth.

    OLMo's issue 797 asks whether the variance of ``x + norm(f(x))`` keeps growing.  It does, linearly
    and with slope 1 (b^2 with a factor b on the branch), whatever f is: at initialization norm(f(x))
    has second moment exactly 1 (LN, RMSNorm, GN, BN at eps = 0, ddof = 0, unit gain), and its channels
    are uncorrelated with the stream because f ends in a linear map with fresh weights of mean zero.  The
    standard deviation after l blocks is sqrt(q_0 + l), block l changes the stream by a share 1/(q_0 + l),
    and squared gradients grow as L (factor 1 + 1/q_l per block with LN or RMSNorm): neither explodes.
    A pre-norm stream x + f(norm(x)) differs only in the slope, sigma_w^2 E[phi^2].

    Parameters
    ----------
    depth
        Number of branches l (a Transformer's layer has two).
    second_moment
        q_0 of the embedding.
    branch
        b, the norm's gain or a LayerScale.
    added
        E[N^2]: 1, or (n - 1)/n for a std with ddof = 1 over a pool of n.
    """
    blocks = integer("depth", depth, low=0, high=DEEPEST, remedy="count the branches")
    start = real("second_moment", second_moment, low=0.0, remedy="1 is usual")
    remedy = "1 for every normalizer with ddof = 0"
    added = real("added", added, low=0.0, open_low=True, remedy=remedy)
    branch = real("branch", branch, low=-1e150, high=1e150, remedy="1 is usual")
    return start + branch * branch * added * float(blocks)


def _elasticity(function: Callable[[float], float]) -> float:
    """d log F/d log q far out, over two powers of four."""
    return math.log(function(16.0 * FAR) / function(FAR)) / math.log(16.0)


def _per_block(base: float, route: str) -> GrowthLaw:
    if abs(base - 1.0) < _SAME:
        return GrowthLaw(kind="bounded", rate=1.0, route=f"{route}: 1 per block")
    return GrowthLaw(kind="exponential", rate=base, route=route)


def _bounded_stream(branch: Callable[[float], float], a2: float, b2: float) -> GrowthLaw:
    """Fixed point of q' = a^2 q + b^2 F(q) by iteration; nan where every q is one."""
    if a2 == 1.0 and (b2 == 0.0 or branch(1.0) == 0.0):
        return GrowthLaw(kind="bounded", rate=math.nan, route="q' = q")
    q = 1.0
    for _ in range(100_000):
        new = a2 * q + b2 * branch(q)
        if abs(new - q) <= 1e-15 * q or new < 1e-200:
            return GrowthLaw(
                kind="bounded", rate=0.0 if new < 1e-200 else new, route="fixed point of q'"
            )
        q = new
    raise HypothesisError("q' has no fixed point within reach; is skip this near to 1?")
