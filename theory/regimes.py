"""Which moments exist: the tails of 1/R^2 decide (theory notes, section 4, "Heavy tails").

R^2 behaves near zero like a chi-square of the pool's rank r, so E[1/R^2] is finite iff r > 2 and its
variance iff r > 4.  A raw numerator over a std about the mean (VN) multiplies the two: its second
moment needs r > 2, its mean squared gradient r > 4, the variance of that r > 8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from theory.errors import HypothesisError
from theory.numerics import within_range
from theory.specs.compatibility import check
from theory.specs.grids import layers_on, needs_grid
from theory.specs.inputs import ExchangeableInputs, Inputs, position_shape_of
from theory.specs.networks import Network, Sequential
from theory.specs.normalizers import Normalizer
from theory.specs.residual import Residual
from theory.specs.spatial import SpatialInputs
from theory.states.full import squared_distances

__all__ = ["Regime", "pool_rank", "regime"]

Status = Literal["regular", "heavy_tail", "infinite", "degenerate"]


@dataclass(frozen=True, kw_only=True)
class Regime:
    """What kind of number the squared gradient norm is.

    status
        ``"regular"``: mean and variance finite.  ``"heavy_tail"``: mean finite, variance infinite (or
        finite only through eps), so a standard error of the mean says nothing.  ``"infinite"``:
        mean infinite.  ``"degenerate"``: zero almost surely.
    rank
        Rank of the pooled quadratic form; ``math.inf`` without a finite pool.
    reason
        One sentence.
    """

    status: Status
    rank: float
    reason: str


def pool_rank(network: Network, inputs: Inputs) -> float:
    """Rank of the normalizer's quadratic form in a deep layer.

    Samples that are equal stay equal, so they count once.  Data in fewer dimensions do not: after
    one nonlinear layer the covariance has the rank that the distinct samples allow, and only the
    first layer sees less (``predict`` finds that there).
    """
    norm = network.layer.norm
    if norm is None or norm.denominator == "none":
        return math.inf
    positions = _distinct_positions(inputs)
    nominal = norm.rank(batch=inputs.batch, positions=positions)
    if not norm.pool.samples or norm.pool.channels != 1:
        return nominal
    lost = 0 if norm.denominator == "rms" else 1
    if isinstance(inputs, SpatialInputs):
        return nominal if not _identical(inputs) else norm.rank(batch=1, positions=positions)
    if isinstance(inputs, ExchangeableInputs):
        return nominal if inputs.gap > 0.0 else 1 - lost
    equal = squared_distances(inputs.second_moment, inputs.gap) == 0.0
    distinct = int(np.count_nonzero(~np.triu(equal, 1).any(axis=0)))
    return min(nominal, distinct - lost)


def _distinct_positions(inputs: Inputs) -> int:
    """Positions that are equal stay equal, so they count once."""
    if isinstance(inputs, SpatialInputs) and inputs.eigenvalues[0] == 0.0:
        return 1
    return inputs.positions


def _identical(inputs: Inputs) -> bool:
    if isinstance(inputs, ExchangeableInputs):
        return inputs.gap == 0.0
    if isinstance(inputs, SpatialInputs):
        *_, far, mean_far = inputs.eigenvalues
        return far == 0.0 and mean_far == 0.0
    return not squared_distances(inputs.second_moment, inputs.gap).any()


def _closed(network: Network) -> bool:
    """Whether the normalizers are all in branches that are multiplied by 0."""
    if not isinstance(network, Residual) or network.branch != 0.0:
        return False
    return network.order not in ("post_norm", "deep_norm")


@within_range
def regime(network: Network, inputs: Inputs) -> Regime:
    """Classify the squared gradient norm of ``network`` on ``inputs``.

    Raises
    ------
    SpecificationError
        The normalizer is not defined on these inputs.
    HypothesisError
        A pool with zero variance at eps = 0, or a forward second moment that is infinite.
    """
    check(network, inputs)
    if isinstance(network, Sequential) or needs_grid(network, inputs):
        return _on_grid(network, inputs)
    norm = network.layer.norm
    rank = pool_rank(network, inputs)
    alone = inputs.positions == 1 or norm is None or not norm.pool.positions
    if alone and norm is not None and norm.couples_samples and norm.centered and _identical(inputs):
        raise HypothesisError(
            f"{norm.name} over a batch of identical samples centers all of them to zero (and divides "
            "by a pool variance of zero at eps = 0); use distinct samples"
        )
    if norm is None or rank == math.inf:
        return Regime(status="regular", rank=rank, reason="no finite pool: all moments exist")
    if rank == 0 and norm.eps == 0.0:
        raise HypothesisError(
            f"{norm.name} over a batch of identical samples, or positions, divides by a pool variance of "
            "zero at eps = 0; use distinct ones or eps > 0"
        )
    # Gradients at equal positions are not equal: only a pool of rank 1 by its size passes none.
    nominal = norm.rank(batch=inputs.batch, positions=inputs.positions)
    return _classified(norm, rank, nominal, closed=_closed(network))


def _on_grid(network: Network, inputs: Inputs) -> Regime:
    """The worst layer: positions may become fewer."""
    found = [Regime(status="regular", rank=math.inf, reason="no finite pool: all moments exist")]
    for layer, shape in layers_on(network, position_shape_of(inputs)):
        norm = layer.norm
        if norm is None or norm.denominator == "none":
            continue
        rank = norm.rank(batch=inputs.batch, positions=math.prod(shape))
        if rank < math.inf:
            found.append(_classified(norm, rank, rank, closed=_closed(network)))
    order: tuple[Status, ...] = ("regular", "heavy_tail", "infinite", "degenerate")
    return max(found, key=lambda regime: (order.index(regime.status), -regime.rank))


def _classified(norm: Normalizer, rank: float, nominal: float, *, closed: bool) -> Regime:
    raw = not norm.centered and norm.denominator != "rms"
    power = 2 if raw else 1
    if closed and not (raw and rank <= 2):
        reason = "no gradient passes through a branch multiplied by 0"
        return Regime(status="regular", rank=rank, reason=reason)
    what = f"{norm.name} pools a form of rank {rank:g}"
    if norm.eps > 0.0:
        if rank > 4 * power:
            return Regime(status="regular", rank=rank, reason=f"{what}: all moments used exist")
        return Regime(
            status="heavy_tail",
            rank=rank,
            reason=f"{what}: without eps the squared gradient has no variance, so eps dominates it",
        )
    if raw and rank <= 2:
        raise HypothesisError(
            f"{what}, and without centering its second moment is finite only for rank > 2; "
            "enlarge the pool (variance_norm needs 4 samples) or use eps > 0"
        )
    if nominal == 1 and not raw:
        return Regime(
            status="degenerate",
            rank=rank,
            reason=f"{what}: N(h) only takes two values, so the gradient is zero almost surely",
        )
    if rank <= 2 * power:
        return Regime(
            status="infinite",
            rank=rank,
            reason=f"{what}: E[1/R^{2 * power}] is infinite, and with it the mean squared gradient",
        )
    if rank <= 4 * power:
        return Regime(
            status="heavy_tail",
            rank=rank,
            reason=f"{what}: the squared gradient has a mean but no variance; use logarithms",
        )
    return Regime(status="regular", rank=rank, reason=f"{what}: mean and variance are finite")
