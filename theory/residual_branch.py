"""The branch of a residual network as operators on exchangeable states, far out or anywhere."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from theory.errors import HypothesisError
from theory.growth import FAR
from theory.operators import pulled_through, pushed_through
from theory.program import Fork, Linear, Merge, NormAct, branch_operations, lower
from theory.specs.residual import Residual
from theory.states.base import Gradient
from theory.states.exchangeable import Exchangeable

__all__ = ["ADDITIVE", "Branch", "couples", "has_mean", "spectral_radius"]

# Orders whose branches end in a linear map, or in a norm behind one: nothing correlates with x.
ADDITIVE = ("pre_activation", "pre_norm", "branch_end_norm", "sandwich")


class Branch:
    """F and what follows the sum, as operators on exchangeable states."""

    def __init__(self, network: Residual, batch: float) -> None:
        one = dataclasses.replace(network, depth=1, scales=(), stem=None)
        # DeepNorm's constants belong to the true depth.
        lowered = network if network.order == "deep_norm" else one
        ops = lower(lowered)
        end = next(k for k, op in enumerate(ops) if isinstance(op, Merge))
        rest = next((k for k, op in enumerate(ops[end:]) if isinstance(op, Fork)), len(ops) - end)
        self.ops = branch_operations(lowered)
        self.after = [op for op in ops[end : end + rest] if isinstance(op, NormAct)]
        self.batch = batch
        self.scale = _feedback(network)

    def states(
        self, q: float, gap: float, ops: list[Linear | NormAct], mean: float = 0.0
    ) -> list[Exchangeable]:
        """The stream and what every operation makes of it."""
        return pushed_through(ops, Exchangeable(self.batch, q, gap, mean))

    def output(self, q: float, gap: float, mean: float = 0.0) -> Exchangeable:
        """y = F(x), in units of 1."""
        if self.scale is not None:
            return self.states(self.scale, gap, self.ops)[-1].unscaled()
        return self.states(q, gap, self.ops, mean)[-1].unscaled()

    def added(self, q: float, gap: float) -> float:
        """F(q) = E[y^2]."""
        return self.output(q, gap).second_moment

    def pulled(self, q: float, gap: float) -> float:
        """T(q): spectral radius on (same, pair)."""
        if self.scale is not None:
            return (
                self.scale
                / q
                * spectral_radius(self.transfer(self.states(self.scale, gap, self.ops)))
            )
        return spectral_radius(self.transfer(self.states(q, gap, self.ops)))

    def transfer(
        self, states: list[Exchangeable], ops: list[Linear | NormAct] | None = None
    ) -> np.ndarray:
        """(same', pair') as a matrix times (same, pair)."""
        columns = []
        for value in ((1.0, 0.0), (1.0, 1.0)):
            behind = Gradient(value, 0, 0.0)
            gradient = pulled_through(self.ops if ops is None else ops, states, behind)[0]
            columns.append(np.array(gradient.value) * 4.0**gradient.exponent)
        if not np.isfinite(columns).all():
            raise HypothesisError(
                "the mean squared gradient of a branch is infinite; pool more activations"
            )
        # (0, 1) = (1, 1) - (1, 0): operators take covariances.
        return np.stack([columns[0], columns[1] - columns[0]], axis=1)

    def settled_gap(self) -> float:
        """Gap of a sum of branches, where the branch at that gap has the same one."""
        gap = 0.5
        for step in range(200):
            state = self.output(FAR, gap)
            # Relative: a gap that vanishes has no limit.
            if abs(state.gap - gap) <= max(1e-12, state.gap_error) * gap:
                return state.gap
            gap = state.gap
            # A sampled branch takes a third of a second, and ten steps would settle to its error.
            if step >= 10 and state.gap_error > 1e-9:
                break
        raise HypothesisError(
            "samples collapse without a limit that a normalizer over samples needs"
        )


def couples(network: Residual) -> bool:
    """Whether a branch normalizes over samples."""
    norm = network.layer.norm
    return norm is not None and norm.couples_samples


def _feedback(network: Residual) -> float | None:
    """E[(scale_l x_l)^2] if the scales keep it fixed (NF scaling), None without scales."""
    if not network.scales:
        return None
    bare = Branch(dataclasses.replace(network, scales=()), 2)
    skip, factor = network.factors
    s = np.array(network.scales)
    # NF scaling keeps s_l^2 q_l = k, hence q' = a^2 q + b^2 F(k) along 1/s_l^2.
    k = 1.0
    expected = skip * skip / s[:-1] ** 2 + factor * factor * bare.added(k, 0.5)
    if not np.allclose(expected * s[1:] ** 2, 1.0, rtol=1e-6, atol=0.0):
        raise HypothesisError(
            "scales that do not follow the stream's predicted root mean square have no law of growth; "
            "let nf_scaled compute them"
        )
    return k


def spectral_radius(matrix: np.ndarray) -> float:
    """max |lambda|."""
    return float(np.max(np.abs(np.linalg.eigvals(matrix))))


def has_mean(state: Exchangeable) -> bool:
    """E[y] != 0, beyond rounding and quadrature."""
    return abs(state.mean) > 1e-9 * math.sqrt(state.second_moment)
