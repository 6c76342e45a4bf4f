"""Plausible mistakes that are no other network's theory: closed forms with a term left out.

Each gives values over depth on the scale of ``margins.QUANTITIES``, for one layer of the paper.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from theory.routes.arccosine import ray_gap

__all__ = ["group_without_outer_product", "independent_denominators", "samples_on_their_own"]

FloatArray = NDArray[np.float64]


def _rate(factor: float, depth: int) -> FloatArray:
    """Log squared gradients at layers 1 ... L that grow by ``factor`` per layer."""
    return math.log(factor) * np.arange(depth - 1.0, -1.0, -1.0)


def group_without_outer_product(group_size: int, *, depth: int) -> FloatArray:
    """lambda = (G-1)/(G-3): J = phi'(N) P/R without the -u u' that R's own derivative brings.

    Right is (G-2)/(G-3) (theory notes, section 4).
    """
    return _rate((group_size - 1.0) / (group_size - 3.0), depth)


def samples_on_their_own(batch: int, *, depth: int) -> FloatArray:
    """lambda = (B-1)/((B-3) a), a = 1 - kappa_1(-1/(B-1)): E[phi'^2] tr P E[1/R^2] for every sample alone.

    What the samples of a batch owe each other through the mean and R is left out; right is lambda_B (theory
    notes, section 4, "BN backward").
    """
    spread = float(ray_gap(1.0 + 1.0 / (batch - 1.0), slopes=(1.0, 0.0)))
    return _rate((batch - 1.0) / ((batch - 3.0) * spread), depth)


def independent_denominators(group_size: int, *, correlation: float, depth: int) -> FloatArray:
    """s_l = kappa_1(s_{l-1}) E[1/R]^2/E[1/R^2]: as if two samples had independent R, and R no angle.

    R^2 is chi^2 with G - 1 degrees of freedom; right is E kappa_1(r), r the sample correlation (theory
    notes, section 3, "Pearson identity").
    """
    n = group_size - 1.0
    first = math.exp(math.lgamma(0.5 * (n - 1.0)) - math.lgamma(0.5 * n)) / math.sqrt(2.0)
    shrink = first**2 * (n - 2.0)
    similarity, found = correlation, []
    for _ in range(depth):
        similarity = shrink * (1.0 - float(ray_gap(1.0 - similarity, slopes=(1.0, 0.0))))
        found.append(similarity)
    return np.array(found)
