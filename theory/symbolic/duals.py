r"""E[phi(u) phi(v)] of sin and erf, of Gaussian pairs with variance q and correlation c.

Both follow from one-dimensional Gaussian integrals over the independent sum and difference
w_+- = u +- v of variances 2 q (1 +- c).  Sources: Williams 1997; theory/routes/gaussian.py.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sympy as sp

from theory.symbolic.expression import Expression, Trail
from theory.symbolic.symbols import c, q

__all__ = ["erf_dual", "sin_dual"]

_w = sp.Symbol("w", real=True)
_v = sp.Symbol("v", positive=True)
_p = sp.Symbol("p", real=True)
_SOURCE = "Williams 1997; Gaussian integrals"


def _gaussian_mean(function: Any) -> Any:
    """E[function(w)], w Gaussian of variance v."""
    density = sp.exp(-(_w**2) / (2 * _v)) / sp.sqrt(2 * sp.pi * _v)
    return sp.powsimp(sp.simplify(sp.integrate(function * density, (_w, -sp.oo, sp.oo))))


@lru_cache(maxsize=1)
def sin_dual() -> Expression:
    """E[sin u sin v] = (E cos(u - v) - E cos(u + v))/2."""
    trail = Trail()
    wave = trail.step(
        "characteristic function", "E[cos w] for a Gaussian w of variance v.",
        lambda: _gaussian_mean(sp.cos(_w)),
    )  # fmt: skip
    value = trail.step(
        "difference and sum",
        "sin u sin v = (cos(u - v) - cos(u + v))/2, with variances 2 q (1 - c) and 2 q (1 + c).",
        lambda: sp.expand(
            (wave.subs(_v, 2 * q * (1 - c)) - wave.subs(_v, 2 * q * (1 + c))) / 2, power_exp=False
        ),
    )
    left = r"\mathrm{E}[\sin u\,\sin v]"
    return trail.conclude(left, value, name="Gaussian dual of sin", source=_SOURCE)


@lru_cache(maxsize=1)
def erf_dual() -> Expression:
    """E[erf u erf v]: integrate Price's d/dp E[erf u erf v] = E[erf' u erf' v] from p = 0."""
    trail = Trail()
    decay = trail.step(
        "one Gaussian integral", "E[e^(-w^2/2)] for w of variance v.",
        lambda: _gaussian_mean(sp.exp(-(_w**2) / 2)),
    )  # fmt: skip
    slope = trail.step(
        "Price's theorem",
        "erf' u erf' v = (4/pi) e^(-u^2-v^2) and u^2 + v^2 = (w_+^2 + w_-^2)/2; p = q c.",
        lambda: (
            sp.diff(sp.erf(_w), _w).subs(_w, 0) ** 2
            * decay.subs(_v, 2 * (q + _p))
            * decay.subs(_v, 2 * (q - _p))
        ),
    )
    value = trail.step(
        "integrate over p",
        "E[erf u] E[erf v] = 0 at p = 0; with p = (1 + 2 q)/2 sin(t) the integrand is constant.",
        lambda: _arc(slope),
    )
    left = r"\mathrm{E}[\mathrm{erf}\,u\;\mathrm{erf}\,v]"
    return trail.conclude(left, value, name="Gaussian dual of erf", source=_SOURCE)


def _arc(slope: Any) -> Any:
    t = sp.Symbol("t", real=True)
    path = (1 + 2 * q) / 2 * sp.sin(t)
    # cos t > 0 on the path: write the square root's argument as a square.
    square = sp.simplify((slope.subs(_p, path) * sp.diff(path, t)) ** 2)
    return sp.integrate(sp.sqrt(square), (t, 0, sp.asin(2 * q * c / (1 + 2 * q))))
