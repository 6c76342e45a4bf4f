r"""Post-norm streams with GN or BN: moments and gradients from the walk on a sphere, without populations.

What ``routes.sphere_walk`` needs of a network: the branch's variance per dimension of the pool, and how
the branch returns gradients.  Through ray activations (relu, ...) a direction uniform on the sphere has
the moments of degree 0 and 2 that a Gaussian of the same covariance has, so the operators of Gaussian
states serve.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.operators import bind_push, pulled_through, pushed_through
from theory.population.masks import tangential_trace
from theory.population.result import averaged
from theory.population.sphere_pairs import lattice, lattice_normals, pair_step, relu_gap
from theory.program import NormAct, branch_operations, first_map
from theory.routes.sphere_walk import SphereStep, sphere_step
from theory.specs.activations import identity
from theory.specs.inputs import ExchangeableInputs, SpatialInputs
from theory.specs.networks import Network
from theory.specs.residual import Residual
from theory.states.base import Gradient
from theory.states.exchangeable import Exchangeable

__all__ = ["SPHERE_WALK", "Sphere", "SphereLaw", "sphere_law", "sphere_refusal", "sphere_states"]

SPHERE_WALK = "sphere walk"

FloatArray = NDArray[np.float64]

# Quadratures of the mean field, and of the first block.
_ROUNDING = 1e-11


class SphereLaw(NamedTuple):
    """log E[g_l^2] at the stream and at h^l, relative to the last stream."""

    log_gradient: FloatArray
    log_branch_gradient: FloatArray


def sphere_refusal(network: Network, *, feature_mean: float = 0.0) -> str | None:
    """None if ``network`` is a walk on a sphere, else why not."""
    if not isinstance(network, Residual) or network.order not in ("post_norm", "deep_norm"):
        return "only post-norm streams end on a sphere"
    norm, activation = network.layer.norm, network.layer.activation
    if norm is None or norm.eps != 0.0 or norm.gate is not None or norm.denominator == "none":
        return "the sum is not brought to a sphere"
    if not norm.centered or norm.denominator != "std" or norm.pool.channels == math.inf:
        return f"{norm.name} does not center and divide by the deviation of a finite pool"
    if norm.pool.samples and norm.pool.channels != 1:
        return "pools over samples and channels are left to simulation"
    if activation.ray_slopes is None or activation.shift != 0.0:
        return f"{activation.name} sees more than the direction"
    if network.maps == 1 and activation.name != "relu":
        return "two samples behind the activation of a sphere are known for relu"
    if network.maps == 1 and network.weights.centered:
        return "the mean of an activation of a sphere is not that of a Gaussian"
    if network.maps == 1 and network.stem is None and feature_mean:
        return "the first activation does not see a Gaussian without mean"
    if network.scales or network.factors[1] == 0.0:
        return "branches that are scaled or 0"
    if not norm.pool.samples and norm.pool.channels == 2:
        return "one dimension is no sphere"
    return None


class Sphere:
    """One block N(a x + b F(x)) on its sphere."""

    def __init__(self, network: Residual, batch: float) -> None:
        norm = network.layer.norm
        assert norm is not None
        self.coupled = norm.pool.samples
        self.samples = batch if self.coupled else 2
        self.pool = batch if self.coupled else norm.pool.channels
        self.dimensions = int(self.pool) - 1
        self.radius2 = norm.divisor(batch=batch, positions=1)
        self.factors = network.factors
        self.one_map = network.maps == 1
        self.activation = network.layer.activation
        self.ops = branch_operations(network)

    @property
    def settled(self) -> Exchangeable:
        """The stream behind a norm: of two samples of GN the gap does not matter here."""
        gap = self.pool / (self.pool - 1.0) if self.coupled else 0.5
        return Exchangeable(self.samples, self.radius2 / self.pool, gap)

    def pushed(self, start: Exchangeable) -> list[Exchangeable]:
        """The stream and what each operation of the branch makes of it."""
        return pushed_through(self.ops, start)

    def mapped(self, gap: float) -> list[Exchangeable]:
        """h and what the branch makes of it, at the gap of what its first map sees."""
        before = first_map(self.ops) - 1
        state = self.pushed(self.settled)[before]._replace(gap=gap)
        return pushed_through(self.ops[before:], state)[1:]

    def variance(self, state: Exchangeable) -> float:
        """Per dimension of the pool: of one sample's channels, or of contrasts of samples."""
        state = state.unscaled()
        return state.second_moment * (state.gap if self.coupled else 1.0)

    def step(self, states: list[Exchangeable]) -> SphereStep:
        """From a point of the sphere."""
        a, b = self.factors
        noise = b * b * self.variance(states[-1])
        return sphere_step(dimensions=self.dimensions, radius2=self.radius2, skip=a, noise=noise)

    def returned(
        self, states: list[Exchangeable], contrast: float, *, on_sphere: bool
    ) -> tuple[float, float, float]:
        """(same sample, tangential, at h) of b^2 T, ``contrast`` being E[g^2] per dimension of the pool."""
        b = self.factors[1]
        n, size = self.dimensions, self.pool
        same, pair = contrast * n / size, 0.0
        if self.coupled:
            pair = -contrast / size
        gradient = Gradient((b * b * same, b * b * pair), 0, 0.0)
        gradients = pulled_through(self.ops, states, gradient)
        gradient, first, mapped = gradients[0], gradients[1], gradients[first_map(self.ops)]
        at_map = mapped.value[0] * 4.0**mapped.exponent
        unit = 4.0**gradient.exponent
        total, between = gradient.value[0] * unit, gradient.value[1] * unit
        if not self.coupled:
            return total, total, at_map
        tangential = total - between
        if self.one_map and on_sphere:
            unit = 4.0**first.exponent
            tangential = tangential_trace(
                self.activation,
                same=first.value[0] * unit,
                pair=first.value[1] * unit,
                size=size,
                coupled=True,
            )
        return total, tangential, at_map

    def factor(self) -> float:
        """alpha/alpha': growth per block of tangential squared gradients."""
        states = self.pushed(self.settled)
        step = self.step(states)
        n = self.dimensions
        contrast = (n - 1.0) / n * step.inverse
        return step.skip + self.returned(states, contrast, on_sphere=True)[1]


def initial(network: Residual, inputs: ExchangeableInputs | SpatialInputs) -> Exchangeable:
    """The stream that enters the first block (at one position)."""
    start = Exchangeable(inputs.batch, inputs.second_moment, inputs.gap, inputs.feature_mean)
    if network.stem is None:
        return start
    return start.linear(network.stem.weight_variance, centered=network.stem.centered)


def sphere_states(
    network: Residual, inputs: ExchangeableInputs, *, populations: int, chains: int, seed: int
) -> tuple[list[Exchangeable], list[Exchangeable]]:
    """States of x^l and of h^l, every l; with GN their gaps are sampled, else exact.

    Parameters
    ----------
    network, inputs
        What ``sphere_refusal`` lets pass.
    populations, chains, seed
        Of the cosines of two samples (GN): see ``sphere_pairs``.
    """
    sphere, start = Sphere(network, inputs.batch), initial(network, inputs)
    at = first_map(sphere.ops)
    if sphere.coupled:
        later = sphere.pushed(sphere.settled)
        maps = [sphere.pushed(start)[at]] + [later[at]] * (network.depth - 1)
        return [sphere.settled] * network.depth, maps
    a, b = sphere.factors
    rng = np.random.default_rng(seed)
    inner = sphere.pushed(start)
    total = inner[-1].unscaled()
    mean2, n = start.mean * start.mean, sphere.dimensions
    own, added = a * a * (start.second_moment - mean2), b * b * total.second_moment
    # A Gaussian sum: pure noise, of one cosine in every population.
    apart = (a * a * start.second_moment * start.gap + added * total.gap) / (own + added)
    far, gaps = np.zeros((populations, chains)), np.full(populations, apart)
    skip, noise, points = 0.0, 1.0, lattice(chains)
    streams, maps = [], [inner[at]]
    norm = NormAct(network.layer.norm, identity)
    first = Exchangeable(2, 1.0, apart)
    first = bind_push(norm, first)[0](first)
    for k in range(network.depth):
        normals = lattice_normals(points, populations, rng)
        far = pair_step(far, dimensions=n, skip=skip, noise=noise, noise_gap=gaps, normals=normals)
        if k == 0 and first.gap > 0.0:
            # The first block's mean is that of a normalized Gaussian.
            far = np.minimum(far * (first.gap / far.mean(axis=1, keepdims=True)), 2.0)
        far.sort(axis=1)
        streams.append(measured(sphere.settled._replace(batch=inputs.batch), far.mean(axis=1)))
        seen = (relu_gap(far) if sphere.one_map else far).mean(axis=1)
        ends = [sphere.mapped(gap) for gap in seen.tolist()]
        gaps = np.array([end[-1].gap for end in ends])
        maps.append(measured(ends[0][0]._replace(batch=inputs.batch), seen))
        skip = a * math.sqrt(sphere.radius2)
        noise = b * math.sqrt(ends[0][-1].unscaled().second_moment)
    return streams, maps[:-1]


def measured(state: Exchangeable, gaps: FloatArray) -> Exchangeable:
    """The state with the mean gap of populations and its relative error."""
    gap, error = averaged(gaps)
    relative = float(error / gap) + _ROUNDING if gap > 0.0 else 0.0
    return state._replace(gap=float(gap), gap_error=relative)


def sphere_law(network: Residual, inputs: ExchangeableInputs) -> SphereLaw:
    """Squared gradients of ``network``, exactly.

    Raises
    ------
    HypothesisError
        A pool of rank below 3.
    """
    sphere = Sphere(network, inputs.batch)
    a, b = sphere.factors
    n, depth = sphere.dimensions, network.depth
    start = initial(network, inputs)._replace(batch=sphere.samples)
    first = sphere.pushed(start)
    later = sphere.pushed(sphere.settled)
    mean2 = 0.0 if sphere.coupled else start.mean * start.mean
    own = start.second_moment * start.gap if sphere.coupled else start.second_moment - mean2
    # Block 1 normalizes a Gaussian.
    variance = a * a * own + b * b * sphere.variance(first[-1])
    step = sphere.step(later)
    # Blocks behind the first multiply alpha by one number; what they read is relative to alpha.
    contrast = (n - 1.0) / n * step.inverse
    total, tangential, at_map = sphere.returned(later, contrast, on_sphere=True)
    _, _, at_first = sphere.returned(
        first, (n - 1.0) / n * sphere.radius2 / ((n - 2.0) * variance), on_sphere=False
    )
    passed = np.arange(depth - 1.0, -1.0, -1.0)
    log_alpha = passed * math.log(step.skip + tangential)
    # At the last stream the cotangent has every direction; before, what the tangents add up to.
    gradient = np.zeros(depth)
    gradient[:-1] = log_alpha[1:] + math.log(a * a * contrast * n / sphere.pool + total)
    branch = log_alpha + math.log(at_map)
    branch[0] = log_alpha[0] + math.log(at_first)
    return SphereLaw(gradient, branch)
