r"""Gradients of relu(x + b N(F(x))), N over samples: grids for one sample, drawn paths for what two share.

Behind BN the steps of all samples are b sqrt(D) u, u uniform on the sphere of the n = B - 1 contrasts and
independent of the stream.  gamma_l = M_l g_l (M_l = 1(x_l > 0)) is Gaussian given the path, and N passes

    Y = (E|P gamma|^2 - E(u gamma)^2)/n = E[(1 - t^2) gamma_i^2] - B E[(1/B + u_i u_j) gamma_i gamma_j]

per contrast, t = u_i/sqrt(1 - 1/B).  The first is a number of one sample (``sphere_step_walk``).  What a
block returns has no mean over samples, so that gamma_i gamma_j has given the path the mean

    C_l = 1(x_i > 0) 1(x_j > 0) (C_{l+1} - v_l/n),     v_l what block l + 1 returns to E[g_l^2],

a part of order 1/B of Y: noise of drawn pairs of paths is that much smaller in the gradient.  Derived here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.population.result import PopulationResult, averaged, relative_error
from theory.population.spheres import initial
from theory.population.walks import branch_gradient, sphere_steps_refusal
from theory.routes.sphere_step_walk import Coupling, sphere_step_walk
from theory.specs.inputs import ExchangeableInputs
from theory.specs.networks import Network
from theory.specs.residual import Residual
from theory.states.exchangeable import Exchangeable

__all__ = ["PairGradients", "pair_gradients", "pairs_refusal"]

FloatArray = NDArray[np.float64]

# Pairs of paths of one population: fewer where they are long.
_STEPS, _MOST = 3_000_000, 16_384
# Sums over the grid.
_SMOOTH = 1e-11


class PairGradients(NamedTuple):
    """log E[g_l^2] at the stream and at h^l, relative to the last stream, with relative errors."""

    gradient: FloatArray
    gradient_error: FloatArray
    branch: FloatArray
    branch_error: FloatArray


def pairs_refusal(network: Network, inputs: ExchangeableInputs) -> str | None:
    """None if gradients of ``network`` are those of walks of pairs of samples, else why not."""
    norm = network.layer.norm
    if norm is None or not norm.pool.samples:
        return "samples that are treated apart share no gradient"
    return sphere_steps_refusal(network, inputs)


def pair_gradients(
    network: Residual, inputs: ExchangeableInputs, found: PopulationResult, *, seed: int
) -> PairGradients:
    """Squared gradients of what ``pairs_refusal`` lets pass, one estimate per population of ``found``.

    Raises
    ------
    HypothesisError
        As ``sphere_step_walk``: the walk does not fit on its grid.
    """
    norm, start = network.layer.norm, initial(network, inputs).unscaled()
    assert norm is not None
    size, depth = int(inputs.batch), network.depth
    squared, divisor = network.factors[1] ** 2, norm.divisor(batch=size, positions=1)
    # Second moments are the grid's: what all populations share would be no part of their spread.
    gaps = np.vstack((np.full(found.stream.gaps.shape[1], start.gap), found.stream.gaps[:-1]))
    pairs = min(max(_STEPS // depth, 64), _MOST)
    length = math.sqrt(squared * divisor)
    returned = squared * branch_gradient(network, batch=size)

    def law(paths: _Paths, gap: FloatArray, fine: int) -> FloatArray:
        found = sphere_step_walk(
            depth,
            dimensions=size - 1,
            length=length * math.sqrt(1.0 - 1.0 / size),
            second_moment=start.second_moment,
            mean=start.mean,
            branch_gradient=returned,
            coupling=Coupling(gap, paths.across),
            fine=fine,
        )
        return np.array([found.gradient, found.shared])

    # Odd pools leave half-integer powers on the grid.
    fine, rough = 1 + size % 2, 0.0
    laws = []
    for k, column in enumerate(gaps.T):
        rng = np.random.default_rng([seed, 2, k])
        paths = _Paths(rng, depth, pairs, size=size, length=length, start=start)
        laws.append(law(paths, column, fine))
        if fine > 1 and k == 0:
            rough = float(np.max(np.abs(law(paths, column, 1) / laws[0] - 1.0)))
    mean, error = averaged(np.stack(laws, axis=-1))
    stated = relative_error(error, mean, len(laws)) + rough + _SMOOTH
    mean[1] /= network.weights.weight_variance
    logs = np.log(mean)
    return PairGradients(logs[0], stated[0], logs[1], stated[1])


class _Paths:
    """Pairs of reflected walks, and C along them."""

    def __init__(
        self,
        rng: np.random.Generator,
        depth: int,
        pairs: int,
        *,
        size: int,
        length: float,
        start: Exchangeable,
    ) -> None:
        q, gap, mean = start.second_moment, start.gap, start.mean
        n = self.dimensions = size - 1
        self.size = size
        self.alive = np.empty((depth, pairs), dtype=bool)
        self.weights = np.empty((depth, pairs), dtype=np.float32)
        # Sum and difference of two samples are independent.
        apart = math.sqrt(0.5 * q * gap)
        level = math.sqrt(max(0.5 * q * (2.0 - gap) - mean * mean, 0.0))
        z = rng.standard_normal((2, pairs))
        x = mean + level * z[0] + apart * np.array([[1.0], [-1.0]]) * z[1]
        # Coordinates of a unit contrast of correlation -1/n: (e +- f)/sqrt(2), e and f of these sizes.
        along, across = math.sqrt(0.5 * (1.0 - 2.0 / size)), math.sqrt(0.5)
        for k in range(depth):
            z = rng.standard_normal((2, pairs))
            z /= np.sqrt(z[0] ** 2 + z[1] ** 2 + rng.chisquare(n - 2, pairs))
            u = along * z[0] + across * np.array([[1.0], [-1.0]]) * z[1]
            x = np.maximum(x + length * u, 0.0)
            self.alive[k] = (x > 0.0).all(axis=0)
            self.weights[k] = 1.0 / size + u[0] * u[1]
        self.shared = np.zeros(pairs)

    def across(self, block: int, returned: float) -> float:
        """B n/(n - 1) E[(1/B + u_i u_j) C], blocks from the last to the first."""
        n = self.dimensions
        if block == len(self.alive) - 1:
            self.shared[:] = 0.0
        self.shared = self.alive[block] * (self.shared - returned / n)
        mean = float(self.weights[block] @ self.shared) / len(self.shared)
        return self.size * n / (n - 1.0) * mean
