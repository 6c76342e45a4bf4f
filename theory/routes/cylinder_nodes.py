r"""Nodes for the law of s and theta of a walk on a cylinder: a trapezoidal rule in log s^2.

W = s^2 D/(b^2 t) is noncentral chi-square (``cylinder_step``); log W has a smooth density with exponential
tails, for which the rule converges geometrically, inverse powers of s included.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from theory.routes.sphere_walk import poisson

__all__ = ["CylinderNodes", "cylinder_nodes"]

FloatArray = NDArray[np.float64]

# Deviations of sqrt(W) that are kept, and what is left of W^-2 where n is small: exp(-30).
_REACH, _TAIL = 8.0, 30.0
# Where Hankel's expansion of I takes over.
_LARGE = 1e8


class CylinderNodes(NamedTuple):
    """s^2, its probabilities, and E[sin^2 theta | s]."""

    square: FloatArray
    weight: FloatArray
    turned: FloatArray


def cylinder_nodes(*, dimensions: int, radius2: float, skip: float, noise: float) -> CylinderNodes:
    """Nodes for expectations over (s, theta).

    Parameters
    ----------
    dimensions
        n >= 3.
    radius2, skip, noise
        D, a and b^2 t, as for ``cylinder_step``.
    """
    n, nu = dimensions, skip * skip * radius2 / noise
    middle = math.sqrt(nu + n)
    # Near zero the density of log W is as W^(n/2) exp(-W/2), that of W^-2 as W^(n/2 - 2).
    low = math.log(n) - 1.0 - _TAIL / max(0.5 * n - 2.0, 0.5)
    if middle > _REACH:
        low = max(low, 2.0 * math.log(middle - _REACH))
    high = 2.0 * math.log(middle + _REACH)
    step = (1.0 + 0.4 * nu / (nu + n)) / middle
    logs = np.linspace(low, high, math.ceil((high - low) / step) + 1)
    w = np.exp(logs)
    weight, turned = _mixed(w, n, nu) if nu < 4.0 * n else _bessel(w, n, nu)
    return CylinderNodes(noise / radius2 * w, weight / weight.sum(), turned)


def _mixed(w: FloatArray, n: int, nu: float) -> tuple[FloatArray, FloatArray]:
    """Chi-squares of n + 2J degrees of freedom, J ~ Poisson(nu/2)."""
    j, chance = poisson(0.5 * nu) if nu > 0.0 else (np.zeros(1), np.ones(1))
    half = 0.5 * n + j[:, None]
    logs = half * np.log(0.5 * w) - 0.5 * w - special.gammaln(half)
    parts = chance[:, None] * np.exp(logs)
    weight = parts.sum(axis=0)
    turned = (n - 1.0) * (parts / (n + 2.0 * j[:, None])).sum(axis=0)
    return weight, np.divide(turned, weight, out=np.zeros_like(weight), where=weight > 0.0)


def _bessel(w: FloatArray, n: int, nu: float) -> tuple[FloatArray, FloatArray]:
    """W I_{n/2-1}(sqrt(nu W)) ...: the angle given W is von Mises and Fisher's."""
    root = np.sqrt(nu * w)
    lower, upper = (_bessel_scaled(order, root) for order in (0.5 * n - 1.0, 0.5 * n))
    rise = -0.5 * (np.sqrt(w) - math.sqrt(nu)) ** 2 + (0.25 * n + 0.5) * np.log(w / nu)
    weight = np.exp(rise) * lower
    turned = np.divide(upper, root * lower, out=np.zeros_like(w), where=lower > 0.0)
    return weight, (n - 1.0) * turned


def _bessel_scaled(order: float, x: FloatArray) -> FloatArray:
    """exp(-x) I(x); SciPy's ends at 2^31 or so."""
    far = np.maximum(x, _LARGE)
    total, term = np.ones_like(far), np.ones_like(far)
    for k in range(1, 5):
        term = term * ((2.0 * k - 1.0) ** 2 - 4.0 * order * order) / (8.0 * k * far)
        total += term
    near = special.ive(order, np.minimum(x, _LARGE))
    return np.where(x < _LARGE, near, total / np.sqrt(2.0 * math.pi * far))
