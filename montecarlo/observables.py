"""The paper's observables of one network, per layer (theory notes, section 1).

    second_moment   mean over samples and channels of (x^l)^2
    variance        variance over samples (ddof = 0) of each channel, averaged over channels
    gap             mean over pairs of 1 - cosine of two samples' post-activations
    similarity      1 - gap
    stable_rank     tr M / |M|_2, M the Gram matrix of the normalized samples
    squared_gradient    |g^l|^2 over the whole batch, g^l = dloss/dh^l
    log_gradient_ratio  log(|g^l|^2 / |g^L|^2)

``preactivation_...``: the same of h^l.  In a residual network x^l is the stream that block l puts out,
g^l the gradient there, and h^l the output of the first linear map in its branch; there is one more,

    log_branch_gradient_ratio  log(|dloss/dh^l|^2 / |g^L|^2)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from montecarlo.compiled import sample_statistics, unit_samples
from theory.specs.networks import Network
from theory.specs.residual import Residual

__all__ = ["BRANCH_GRADIENT", "OBSERVABLES", "Recorder", "observables_of"]

Array = NDArray[Any]
FloatArray = NDArray[np.float64]

OBSERVABLES = (
    "second_moment",
    "log_second_moment",
    "variance",
    "gap",
    "similarity",
    "stable_rank",
    "preactivation_second_moment",
    "preactivation_gap",
    "preactivation_correlation",
    "squared_gradient",
    "log_gradient_ratio",
)
BRANCH_GRADIENT = "log_branch_gradient_ratio"


def observables_of(network: Network) -> tuple[str, ...]:
    """What is recorded of ``network``; a stored run carries these names with its numbers."""
    return (*OBSERVABLES, BRANCH_GRADIENT) if isinstance(network, Residual) else OBSERVABLES


class Recorder:
    """Collects the observables of one network while it runs; of a residual one with ``branches``."""

    def __init__(
        self, *, depth: int, batch: int, positions: int = 1, branches: bool = False
    ) -> None:
        self._positions = positions
        self._names = (*OBSERVABLES, BRANCH_GRADIENT) if branches else OBSERVABLES
        self._values: dict[str, list[float]] = {}
        self._gram: FloatArray = np.empty((depth, batch, batch))
        self._log_squared_gradient: FloatArray = np.full(depth, np.nan)
        self._log_squared_branch_gradient: FloatArray = np.full(depth, np.nan)
        self._squares: FloatArray = np.empty(batch)
        self._unit: FloatArray = np.empty((0, batch))

    def preactivation(self, h: Array) -> float:
        """Record h^l, shape (channels, batch * positions), in forward order; returns its second moment."""
        second_moment, _, gap = self._moments(h)
        self._append("preactivation_second_moment", second_moment)
        self._append("preactivation_gap", gap)
        return second_moment

    def activation(self, x: Array) -> float:
        """Record x^l, shape (channels, batch * positions), in forward order; returns its second moment."""
        layer = len(self._values.get("second_moment", ()))
        second_moment, variance, gap = self._moments(x)
        self._append("second_moment", second_moment)
        self._append("variance", variance)
        self._append("gap", gap)
        self._gram[layer] = self._unit.T @ self._unit
        return second_moment

    def gradient(self, layer: int, log_square: float) -> None:
        """Record log |g^l|^2."""
        self._log_squared_gradient[layer] = log_square

    def branch_gradient(self, layer: int, log_square: float) -> None:
        """Record log |dloss/dh^l|^2 in the branch of a block."""
        self._log_squared_branch_gradient[layer] = log_square

    def table(self) -> FloatArray:
        """All observables, shape (observables, depth), in the order of ``observables_of``."""
        values: dict[str, Any] = {name: np.array(column) for name, column in self._values.items()}
        logs = self._log_squared_gradient
        # A network can die (all units off): its logarithms are -inf and its angles NaN.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            values["log_second_moment"] = np.log(values["second_moment"])
            values["similarity"] = 1.0 - values["gap"]
            values["preactivation_correlation"] = 1.0 - values["preactivation_gap"]
            values["stable_rank"] = _stable_rank(self._gram)
            values["squared_gradient"] = np.exp(logs)
            values["log_gradient_ratio"] = logs - logs[-1]
            values[BRANCH_GRADIENT] = self._log_squared_branch_gradient - logs[-1]
        return np.array([values[name] for name in self._names])

    def _append(self, name: str, value: float) -> None:
        self._values.setdefault(name, []).append(value)

    def _moments(self, x: Array) -> tuple[float, float, float]:
        """(second moment, variance over samples, mean gap); normalized samples into ``_unit``."""
        variance = sample_statistics(x, self._squares, self._positions)
        # Samples flattened over channels and positions, one to a column.
        flattened = (len(x) * self._positions, len(self._squares))
        if self._unit.shape != flattened:
            self._unit = np.empty(flattened)
        gap = unit_samples(x, self._squares, self._unit, self._positions)
        return float(self._squares.sum()) / x.size, variance, gap


def _stable_rank(gram: FloatArray) -> FloatArray:
    """tr M / |M|_2 for a stack of Gram matrices; NaN where a sample was zero."""
    valid = np.isfinite(gram).all(axis=(1, 2))
    rank = np.full(len(gram), np.nan)
    largest = np.linalg.eigvalsh(gram[valid])[:, -1]
    rank[valid] = np.trace(gram[valid], axis1=1, axis2=2) / largest
    return rank
