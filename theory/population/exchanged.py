r"""A branch's maps on exchangeable moments: eigenvalues on the mean over samples and on contrasts.

mean = E[(1.x)^2]/B and contrast = E|P x|^2/n per channel, n = B - 1, of activations as of gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.program import Linear, NormAct
from theory.routes.slope_drop import slope_drop
from theory.specs.normalizers import Normalizer
from theory.states.exchangeable import Exchangeable

__all__ = [
    "Pulled",
    "StreamLaw",
    "exchanged",
    "mean_of",
    "pulled",
    "raw_refusal",
]

FloatArray = NDArray[np.float64]
Operations = Sequence[Linear | NormAct]


class StreamLaw(NamedTuple):
    """States of x^l and of h^l; log E[g^2] there relative to the last stream, with relative errors."""

    streams: list[Exchangeable]
    maps: list[Exchangeable]
    log_gradient: FloatArray
    log_branch_gradient: FloatArray
    gradient_error: FloatArray


class Pulled(NamedTuple):
    """Eigenvalues of what operations return, E[g^2] at the output of their first map, relative error."""

    mean: float
    contrast: float
    at_map: float
    error: float


def raw_refusal(norm: Normalizer | None, *, batch: float) -> str | None:
    """None if ``norm`` divides samples by their deviation and leaves their mean (VN), else why not."""
    if norm is None or norm.eps != 0.0 or norm.gate is not None or norm.denominator != "std":
        return "the samples' contrasts are not brought to a sphere"
    if norm.centered or not norm.pool.samples or norm.pool.channels != 1:
        return f"{norm.name} centers, or its pools are not over samples alone"
    if not 4 <= batch < float("inf"):
        return "a pool without fluctuations, or an infinite second moment"
    return None


def exchanged(batch: int, mean: float, contrast: float, *, error: float = 0.0) -> Exchangeable:
    """The state of these eigenvalues, ``error`` that of the mean."""
    second = (mean + (batch - 1) * contrast) / batch
    gap = contrast / second
    return Exchangeable(batch, second, gap, second_moment_error=error, gap_error=error)


def mean_of(state: Exchangeable) -> float:
    """q (1 + n (1 - gap)), of a state in units of 1."""
    return state.second_moment * (1.0 + (state.batch - 1) * (1.0 - state.gap))


def pulled(
    operations: Operations, states: Sequence[Exchangeable], *, mean: float, contrast: float
) -> Pulled:
    """What maps and activations, which made ``states``, return of a gradient with these eigenvalues.

    E[phi' phi'] multiplies pairs of samples and E[phi'^2] one: with d their difference, the drop,

        mean -> E[phi' phi'] mean + d E[g^2],    contrast -> E[phi' phi'] contrast + d E[g^2],

    without cancellation where one is far below the other.
    """
    size = states[0].batch
    at_map = error = 0.0
    for op, state in zip(reversed(operations), reversed(states[:-1]), strict=True):
        same = (mean + (size - 1) * contrast) / size
        if isinstance(op, Linear):
            # The first map is the last one met.
            at_map = same
            mean, contrast = (op.weights.weight_variance * part for part in (mean, contrast))
            continue
        assert op.norm is None
        usable = state.unscaled()
        slopes = slope_drop(op.activation, second_moment=usable.second_moment, gap=usable.gap)
        pair, across = slopes.same - slopes.drop, slopes.drop * same
        mean, contrast = pair * mean + across, pair * contrast + across
        error += slopes.error + usable.second_moment_error + usable.gap_error
    return Pulled(mean, contrast, at_map, error)
