r"""phi(a x + b N(F(x))) followed as chains of pairs of samples, forwards and backwards along their paths.

What the branch adds to one channel's samples is drawn independently of the stream, and its law takes second
moments of the stream alone; so do gradients, Gaussian given the path:

    C = E[g_i g_j | path]:   C_l = a^2 phi'(y_i) phi'(y_j) C_{l+1} + E[(W'J'delta)_i (W'J'delta)_j],

y = a x + b F, and V = E[g_i^2 | path] likewise.  What the branch returns is a fresh Gaussian whose covariance
is the mean over all channels of J'Delta J: two numbers for exchangeable samples, Delta what C and V say
behind phi'.  Every chain keeps its own masks, and its steps where J depends on them.

Without a normalizer, behind one that divides by numbers of the layer (LN, RMSNorm) and behind mean centering
F is a pair of Gaussians; behind VN see ``pair_chains``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.errors import HypothesisError
from theory.forecast import Pace
from theory.operators import bind_pull
from theory.population.fields import Field
from theory.population.pair_chains import (
    VarianceSteps,
    gaussian_steps,
    ordered,
    pair_net,
    placed,
    relu_of,
    variance_steps,
)
from theory.population.pair_moments import brought_to, expected_moments
from theory.population.propagate import Record
from theory.population.result import PopulationResult, gathered
from theory.population.spheres import initial
from theory.program import Linear, NormAct, branch_operations, first_map
from theory.routes.functions import base_function
from theory.specs.activations import Activation, relu
from theory.specs.inputs import ExchangeableInputs
from theory.specs.networks import Network
from theory.specs.residual import Residual
from theory.states.base import Gradient
from theory.states.exchangeable import Exchangeable
from theory.states.population import Modes, Population

__all__ = ["follow_pairs", "pair_population", "pair_streams_refusal"]

FloatArray = NDArray[np.float64]

# Chains of a population at few blocks, and steps of one at many.
_MOST, _STEPS, _LEAST = 32_768, 4_200_000, 2048
# Populations followed at a time, or fewer if their tapes, of some bytes per step, do not fit.
_TOGETHER, _TAPE_BYTES, _STEP_BYTES = 4, 300_000_000, 14
# Steps of a tenth of the stream, in variance: shorter ones do not move what relu left at 0 as far as
# scaling might.
_LONG = 0.01
# Gradients beyond change their unit.
_NEAR = 2.0**-200


def pair_streams_refusal(network: Network, inputs: ExchangeableInputs) -> str | None:
    """None if pairs of samples say everything of ``network``, else why not."""
    if not isinstance(network, Residual) or network.order != "post_activation":
        return "only what follows the sum is followed in pairs"
    norm = network.layer.norm
    if network.scales or network.factors[1] == 0.0:
        return "branches that are scaled or 0"
    if inputs.batch == 1:
        return "one sample is no pair"
    if norm is None:
        return None
    if norm.gate is not None:
        return "gates"
    if not norm.pool.samples:
        return None if norm.pool.channels == math.inf else "pools of a few channels"
    if norm.pool.channels != 1 or inputs.batch == math.inf:
        return "pools over samples and channels, or endless ones"
    if norm.denominator == "none":
        return None
    if norm.denominator != "std" or norm.centered or norm.eps != 0.0:
        return f"steps of {norm.name} are not drawn in pairs"
    return None if inputs.batch >= 6 else "a batch with an infinite E[T^2/R^2]"


def pair_population(
    network: Residual,
    inputs: ExchangeableInputs,
    *,
    populations: int,
    seed: int,
    backward: bool,
    refine: int = 1,
    log_second_moment: FloatArray | None = None,
) -> PopulationResult:
    """What P populations of pairs say of ``network``; ``channels`` of the result are chains.

    Parameters
    ----------
    network, inputs, backward, log_second_moment
        As for ``follow_pairs``.
    populations, seed, refine
        As for ``result.population``.
    """
    wanted = refine * min(max(_STEPS / network.depth, _LEAST), _MOST)
    if not backward and not _Branch(network, inputs).homogeneous:
        # Blocks of half the work.
        wanted *= 2.0
    chains = 1 << int(math.log2(wanted))
    fits = _TAPE_BYTES // (_STEP_BYTES * chains * network.depth)
    together = min(max(fits, 1), _TOGETHER) if backward else _TOGETHER
    groups = [
        min(together, refine * populations - k) for k in range(0, refine * populations, together)
    ]
    pace = Pace(
        len(groups) * network.depth * (2 if backward else 1),
        what="Pairs of samples",
        remedy="a smaller refine takes its square less, and fewer layers proportionally less",
    )
    found = [
        follow_pairs(
            network,
            inputs,
            chains=chains,
            populations=count,
            seed=(seed, k),
            backward=backward,
            log_second_moment=log_second_moment,
            pace=pace,
        )
        for k, count in enumerate(groups)
    ]
    return gathered(found, batch=inputs.batch, channels=chains)


def follow_pairs(
    network: Residual,
    inputs: ExchangeableInputs,
    *,
    chains: int,
    populations: int,
    seed: Sequence[int],
    backward: bool,
    log_second_moment: FloatArray | None = None,
    pace: Pace | None = None,
) -> tuple[list[Record], list[Record]]:
    """(records of activations, records of gradients) as ``propagate.follow`` returns them.

    Parameters
    ----------
    network, inputs
        What ``pair_streams_refusal`` lets pass.
    chains, populations, seed
        M, a power of two, P, and what the draws follow from.
    backward
        Whether to go back, from independent standard Gaussian cotangents.
    log_second_moment
        log E[x^2] behind every block where it is known.
    pace
        Told of every block that is done forwards.
    """
    branch = _Branch(network, inputs)
    rng = np.random.default_rng(list(seed))
    x = branch.start(initial(network, inputs), (populations, chains), rng)
    a, b = network.factors
    activation = network.layer.activation
    # Where q is known chains are asked for the gap alone.
    sizes: list[float | None] = [None] * network.depth
    if log_second_moment is not None:
        start = math.log(initial(network, inputs).unscaled().second_moment)
        sizes = [start, *log_second_moment[:-1].tolist()]
    records: list[Record] = []
    tapes: list[tuple[NDArray[Any], VarianceSteps | None, list[Field]]] = []
    for size in sizes:
        fields = branch.fields(_field(x, branch.size, size))
        read = fields[branch.read]
        records.append(Record("preactivation", read.modes, read.mean, read.exponent))
        points = placed(pair_net(chains, branch.coordinates), ordered(x.values), rng)
        added, steps = branch.steps(fields, points)
        before, down = a * x.values, math.ldexp(b, added.exponent - x.exponent)
        drawn = down * added.values
        x, slopes = _activated(activation.base, Population(before + drawn, x.exponent))
        variance = down * down * fields[-1].modes.second_moment
        if branch.homogeneous and variance.min() > _LONG * fields[0].modes.second_moment.max():
            expected = expected_moments(before, drawn, variance=variance, gap=fields[-1].modes.gap)
            x = x._replace(values=brought_to(x.values, expected))
        if activation.base != activation:
            values = activation.scale * x.values
            values[:2] += math.ldexp(activation.shift, -x.exponent)
            x = x._replace(values=values)
        x = x.rescaled()
        found = _field(x, branch.size, None)
        records.append(Record("stream", found.modes, found.mean, found.exponent))
        if backward:
            tapes.append((slopes, None if steps is None else steps.rounded(), fields))
        if pace is not None:
            pace.step()
    back: list[Record] = []
    paths = _Paths(np.ones((2, populations, chains)), np.zeros((populations, chains)), 0)
    for kept, steps, fields in reversed(tapes):
        back.append(paths.average().record("stream", branch.size))
        slopes = _slopes(activation, kept)
        paths = _Paths(slopes**2 * paths.own, slopes[0] * slopes[1] * paths.shared, paths.exponent)
        reached = branch.returned(fields, steps, paths)
        back.append(reached[branch.read].times(b * b).record("preactivation", branch.size))
        paths = paths.plus(reached[0].times(b * b), skip=a * a)
    return records, back[::-1]


def _activated(base: Activation, y: Population) -> tuple[Population, NDArray[Any]]:
    """base(y), and for both samples base'(y) or the signs that it follows from."""
    ends = y.values[:2]
    if base.ray_slopes is None:
        function, ends = base_function(base), Population(ends, y.exponent).unscaled().values
        one, other = function.value(ends)
        values = np.stack((one, other, 0.5 * (one - other)))
        return Population(values), np.asarray(function.derivative(ends), dtype=np.float32)
    up, down = base.ray_slopes
    values = up * relu_of(y.values)
    if down:
        values += down * relu_of(-y.values)
    return Population(values, y.exponent), ends > 0.0


def _slopes(activation: Activation, kept: NDArray[Any]) -> FloatArray:
    """phi' from what ``_activated`` kept."""
    rays = activation.ray_slopes
    if rays is None:
        return np.asarray(activation.scale * kept, dtype=np.float64)
    return activation.scale * np.where(kept, rays[0], -rays[1])


class _Shared(NamedTuple):
    """(E[g_i^2], E[g_i g_j]) * 4**exponent over all channels, one per population."""

    same: FloatArray
    pair: FloatArray
    exponent: int

    def times(self, factor: float) -> _Shared:
        return _Shared(factor * self.same, factor * self.pair, self.exponent)

    def record(self, what: str, size: int) -> Record:
        modes = Modes(self.same + (size - 1) * self.pair, self.same - self.pair, size)
        return Record(what, modes, np.zeros_like(self.same), self.exponent)


class _Paths(NamedTuple):
    """V, shape (2, P, M), and C, shape (P, M), of every path, times 4**exponent."""

    own: FloatArray
    shared: FloatArray
    exponent: int

    def average(self) -> _Shared:
        return _Shared(self.own.mean(axis=(0, 2)), self.shared.mean(axis=1), self.exponent)

    def plus(self, other: _Shared, *, skip: float) -> _Paths:
        """skip * self + other, near 1."""
        top = max(self.exponent, other.exponent)
        mine = skip * 4.0 ** (self.exponent - top)
        theirs = 4.0 ** (other.exponent - top)
        own = mine * self.own + theirs * other.same[:, None]
        shared = mine * self.shared + theirs * other.pair[:, None]
        largest = float(own.max())
        if _NEAR < largest < 1.0 / _NEAR:
            return _Paths(own, shared, top)
        steps = math.frexp(largest)[1] // 2
        down = 4.0**-steps
        return _Paths(down * own, down * shared, top + steps)


class _Branch:
    """b N(F(x)): what its maps see, the steps that it adds, and what it returns."""

    def __init__(self, network: Residual, inputs: ExchangeableInputs) -> None:
        norm = network.layer.norm
        self.ops = branch_operations(network)
        self.read = first_map(self.ops)
        coupled = norm is not None and norm.couples_samples
        self.size = int(inputs.batch) if coupled else 2
        self.radius2 = 0.0
        if norm is not None and coupled and norm.denominator != "none":
            self.radius2 = norm.divisor(batch=self.size, positions=1)
        self.coordinates = 3 if self.radius2 else 2
        # Steps in proportion to the stream, which grows by what relu makes of them.
        free = norm is None or (norm.denominator == "none" and self.size > 2)
        self.homogeneous = free and network.layer.activation.base == relu

    def start(
        self, state: Exchangeable, shape: tuple[int, int], rng: np.random.Generator
    ) -> Population:
        """x^0."""
        q, gap, mean = state.second_moment, state.gap, state.mean
        variance = q - mean * mean
        order = np.broadcast_to(np.arange(shape[1]), shape)
        points = placed(pair_net(shape[1], 2), order, rng)
        ones = np.ones(shape[0])
        apart = q * gap / variance if variance > 0.0 else 0.0
        x = gaussian_steps(points, variance=variance * ones, gap=apart * ones)
        x[:2] += mean
        return Population(x, state.exponent)

    def fields(self, field: Field) -> list[Field]:
        """The stream and what each operation makes of it, up to where steps are drawn."""
        fields = [field]
        for op in self.ops[:-1] if self.radius2 else self.ops:
            field = field.mapped(op.weights) if isinstance(op, Linear) else field.pushed(op)
            fields.append(field)
        return fields

    def steps(
        self, fields: list[Field], points: FloatArray
    ) -> tuple[Population, VarianceSteps | None]:
        """N(F(x)) of every chain."""
        modes, _, exponent = fields[-1]
        if not self.radius2:
            steps = gaussian_steps(points, variance=modes.second_moment, gap=modes.gap)
            return Population(steps, exponent), None
        if not modes.contrast.min() > 0.0:
            raise HypothesisError(
                "a pool of VN has zero variance at eps = 0; use eps > 0 or inputs that differ"
            )
        drawn = variance_steps(
            points,
            mean=modes.mean,
            contrast=modes.contrast,
            size=self.size,
            radius2=self.radius2,
        )
        return Population(drawn.values()), drawn

    def returned(
        self, fields: list[Field], steps: VarianceSteps | None, paths: _Paths
    ) -> list[_Shared]:
        """Moments of the gradient at each of ``fields``."""
        reached = paths.average()
        ops = self.ops
        found: list[_Shared] = []
        if steps is not None:
            same, pair = steps.returned(paths.own, paths.shared)
            reached = _Shared(same, pair, paths.exponent - fields[-1].exponent)
            ops = ops[:-1]
        found.append(reached)
        for op, field in zip(reversed(ops), reversed(fields[:-1]), strict=True):
            if isinstance(op, Linear):
                reached = reached.times(op.weights.weight_variance)
            else:
                reached = _pulled(op, field, reached)
            found.append(reached)
        return found[::-1]


def _pulled(op: NormAct, field: Field, reached: _Shared) -> _Shared:
    """Behind ``op`` of a Gaussian field, population by population."""
    pulled: list[Gradient] = []
    pull = None
    moments = (field.modes.second_moment, field.modes.gap, reached.same, reached.pair)
    for q, gap, same, pair in zip(*(m.tolist() for m in moments), strict=True):
        state = Exchangeable(field.modes.batch, q, gap, 0.0, field.exponent)
        pull = pull or bind_pull(op, state)[0]
        pulled.append(pull(state, Gradient((same, pair), reached.exponent, 0.0)))
    top = max(gradient.exponent for gradient in pulled)
    value = np.array(
        [[v * 4.0 ** (gradient.exponent - top) for v in gradient.value] for gradient in pulled]
    )
    return _Shared(value[:, 0], value[:, 1], top)


def _field(x: Population, size: int, log_second_moment: float | None) -> Field:
    """What ``size`` samples alike in pairs show to a linear map; E[x^2] known or theirs."""
    values, exponent = x
    ends, half = values[:2], values[2]
    chains = half.shape[1]
    contrast = 2.0 * np.einsum("pm,pm->p", half, half) / chains
    q = 0.5 * np.einsum("ipm,ipm->p", ends, ends) / chains
    mean = ends.mean(axis=(0, 2))
    if log_second_moment is not None:
        known = math.exp(log_second_moment - 2.0 * exponent * math.log(2.0))
        contrast, mean = contrast * (known / q), mean * np.sqrt(known / q)
        q = np.full_like(q, known)
    return Field(Modes(size * q - (size - 1) * contrast, contrast, size), mean, exponent)
