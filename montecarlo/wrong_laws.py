"""Plausible mistakes that are no other network's theory: closed forms with a term left out.

Each takes the right values over depth, on the scale of ``margins.QUANTITIES``, and puts the mistake into
every layer that the formula is about.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from theory.fixed_points import fixed_point
from theory.recursion import predict
from theory.routes.arccosine import ray_gap
from theory.specs.inputs import exchangeable
from theory.specs.networks import FeedForward, Layer
from theory.specs.normalizers import group_norm
from theory.zoo import zoo

__all__ = [
    "group_without_outer_product",
    "independent_denominators",
    "infinite_batch",
    "rank_by_root",
    "samples_on_their_own",
]

FloatArray = NDArray[np.float64]


def _faster(right: FloatArray, ratio: float) -> FloatArray:
    """Log squared gradients over layer L's whose factor per layer is ``ratio`` times the right one."""
    return right + math.log(ratio) * np.arange(len(right) - 1.0, -1.0, -1.0)


def group_without_outer_product(right: FloatArray, *, group_size: int) -> FloatArray:
    """lambda = (G-1)/(G-3): J = phi'(N) P/R without the -u u' that R's own derivative brings.

    Right is (G-2)/(G-3) (theory notes, section 4).
    """
    return _faster(right, (group_size - 1.0) / (group_size - 2.0))


def samples_on_their_own(right: FloatArray, *, batch: int) -> FloatArray:
    """lambda = (B-1)/((B-3) a), a = 1 - kappa_1(-1/(B-1)): E[phi'^2] tr P E[1/R^2] for every sample alone.

    What the samples of a batch owe each other through the mean and R is left out; right is lambda_B (theory
    notes, section 4, "BN backward").
    """
    spread = float(ray_gap(1.0 + 1.0 / (batch - 1.0), slopes=(1.0, 0.0)))
    growth = fixed_point(FeedForward(zoo["BN"], depth=1), batch=batch).gradient_growth
    return _faster(right, (batch - 1.0) / ((batch - 3.0) * spread) / growth)


def infinite_batch(right: FloatArray, *, batch: int) -> FloatArray:
    """lambda = pi/(pi-1), the limit of large batches, for lambda_B (theory notes, section 4)."""
    growth = fixed_point(FeedForward(zoo["BN"], depth=1), batch=batch).gradient_growth
    return _faster(right, math.pi / (math.pi - 1.0) / growth)


def independent_denominators(right: FloatArray, *, group_size: int) -> FloatArray:
    """s_l = kappa_1(s_{l-1}) E[1/R]^2/E[1/R^2] from the second layer on: as if two samples had independent R.

    R^2 is chi^2 with G - 1 degrees of freedom; right is E kappa_1(r), r the sample correlation (theory
    notes, section 3, "Pearson identity").
    """
    n = group_size - 1.0
    first = math.exp(math.lgamma(0.5 * (n - 1.0)) - math.lgamma(0.5 * n)) / math.sqrt(2.0)
    shrink = first**2 * (n - 2.0)
    found = [float(right[0])]
    while len(found) < len(right):
        found.append(shrink * (1.0 - float(ray_gap(1.0 - found[-1], slopes=(1.0, 0.0)))))
    return np.array(found)


def rank_by_root(right: FloatArray, *, batch: int, sizes: tuple[int, int]) -> FloatArray:
    """log rank = log rank at the first group size - log(G/G_0)/2: the bound sqrt(width/G) taken for a law.

    On the synthetic batch; right is B/(1 + (B-1) s) with the s of each group size.
    """
    known, size = sizes
    network = FeedForward(Layer(norm=group_norm(known)), depth=len(right))
    rank = predict(network, exchangeable(batch=batch, correlation=0.3), backward=False).stable_rank
    return np.log(rank) - 0.5 * math.log(size / known)
