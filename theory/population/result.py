"""What populations say of a network: every observable with a standard error over populations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from theory.errors import HypothesisError, out_of_domain
from theory.forecast import Pace
from theory.population.fields import undrawn_maps
from theory.population.normact import couples_positions, has_finite_pool
from theory.population.propagate import Record, Start, follow
from theory.program import Conv, Linear, NormAct, Observe, Operation, lower
from theory.routes.positions_spectrum import PositionSpectrum
from theory.specs.inputs import ExchangeableInputs, SpatialInputs
from theory.specs.networks import Network
from theory.states.base import Observables
from theory.states.position_modes import PositionModes
from theory.states.spatial import Spatial

__all__ = [
    "Averages",
    "PopulationResult",
    "averaged",
    "gathered",
    "population",
    "propagate",
    "relative_error",
]

FloatArray = NDArray[np.float64]

# Of P populations about four carry an average with this relative standard error; it ends at 1 with one.
_CARRIED = 0.5
# Activations followed at a time: arrays stay in the processor's cache, tapes in memory.
_TOGETHER = 120_000
# Activations of one population at 1,000 blocks, and how many times that at few.
_ACTIVATIONS, _REACH = 6144, 28.0
# Samples times positions that are followed: the fewest channels of these still fit.
_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Averages:
    """Second moments at one kind of marker, layer by layer, over P populations.

    ``log_second_moment`` is log E[x^2] (of a gradient: per sample and channel), ``gap`` one minus the
    mean cosine over pairs, ``mean`` E[x] relative to the root of E[x^2].  Errors are standard errors,
    stretched as Student's t asks at three of them: relative for ``second_moment_error`` and
    ``gap_error`` (with what finitely many channels may bias, see ``relative_error``), of ``mean``
    itself for ``mean_error``.  ``gaps`` are the populations' own, shape (layers, P).

    Over positions ``gap`` compares two samples at one position, ``gap_error`` is that of every gap,
    ``spectra`` are those of x over the root of E[x^2], at the positions that were followed, and
    ``position_gaps`` the populations' own of two positions.
    """

    log_second_moment: FloatArray
    second_moment_error: FloatArray
    gap: FloatArray
    gap_error: FloatArray
    mean: FloatArray
    mean_error: FloatArray
    gaps: FloatArray
    spectra: tuple[PositionSpectrum, ...] = ()
    position_gaps: FloatArray | None = None

    @property
    def second_moment(self) -> FloatArray:
        """E[x^2], possibly inf."""
        with np.errstate(over="ignore"):
            return np.exp(self.log_second_moment)

    def observables(self, batch: float) -> Observables:
        """As every state's ``observe`` returns them."""
        with np.errstate(divide="ignore"):
            log_variance = self.log_second_moment + np.log(self.gap * (1.0 - 1.0 / batch))
        return Observables(
            self.log_second_moment,
            log_variance,
            1.0 - self.gap,
            self.gap,
            self.second_moment_error,
            self.gap_error,
        )

    def spatial(self, inputs: SpatialInputs) -> list[Spatial]:
        """As states over the positions of ``inputs``."""
        exponents = np.floor(self.log_second_moment / math.log(4.0))
        second = np.exp(self.log_second_moment - exponents * math.log(4.0))
        columns = (
            second,
            self.mean * np.sqrt(second),
            exponents.astype(int),
            self.second_moment_error,
            self.gap_error,
        )
        rows = zip(*(c.tolist() for c in columns), strict=True)
        return [
            Spatial(inputs.batch, spectrum.over(inputs.positions).scaled(q), *rest)
            for spectrum, (q, *rest) in zip(self.spectra, rows, strict=True)
        ]


@dataclass(frozen=True, eq=False, kw_only=True)
class PopulationResult:
    """Averages at the markers of a network, and gradients there if they were followed.

    ``stream`` and ``gradient`` belong to the blocks' outputs (of feed-forward networks: to the
    post-activations), ``preactivation`` and ``branch_gradient`` to h^l.  Gradients are of the sum over
    independent standard Gaussian cotangents: the mean square per sample and channel is 1 at the end.
    """

    batch: int
    channels: int
    stream: Averages
    preactivation: Averages | None
    gradient: Averages | None
    branch_gradient: Averages | None

    @property
    def log_gradient_norm(self) -> FloatArray | None:
        """log sqrt(E|g^l|^2 / E|g^L|^2) at the stream."""
        if self.gradient is None:
            return None
        log_square = self.gradient.log_second_moment
        return 0.5 * (log_square - log_square[-1])


def population(
    network: Network,
    inputs: ExchangeableInputs | SpatialInputs,
    *,
    channels: int | None = None,
    populations: int = 16,
    seed: int = 0,
    backward: bool = True,
    refine: int = 1,
) -> PopulationResult:
    """Follow ``network`` as P populations of M channels: any stream, Gaussian or not.

    Source: theory notes, section 5 ("Other non-Gaussian streams").  Exact as M grows; the standard
    errors come from populations, which are independent.  x^0 is Gaussian over channels.

    Parameters
    ----------
    network
        Whatever lowers to linear maps, normalizers, activations, Fork and Merge.
    inputs
        Exchangeable, with a finite batch, also over positions.  Samples that no layer couples may be
        two of them, positions as well.
    channels
        M, by default ``default_channels``.
    populations, seed, backward
        As for ``follow``.
    refine
        This many times as many populations, of this many times as many channels.

    Raises
    ------
    HypothesisError, SpecificationError, NumericalError
        As ``follow``.
    """
    if not isinstance(inputs, ExchangeableInputs | SpatialInputs):
        raise out_of_domain("inputs", inputs, "exchangeable samples", "use exchangeable(...)")
    operations, spectrum = lower(network), None
    batch = _samples(operations, inputs.batch)
    if isinstance(inputs, SpatialInputs):
        operations = tuple(_over_equals(op) for op in operations)
        q, positions = inputs.second_moment, inputs.positions
        spectrum = PositionSpectrum(positions, *(q * value for value in inputs.eigenvalues))
        spectrum = spectrum.over(_places(operations, batch, positions))
    start = Start(batch, inputs.second_moment, inputs.gap, inputs.feature_mean, spectrum)
    if channels is None:
        channels = default_channels(operations, start.shape, backward=backward, refine=refine)
    return propagate(
        operations,
        start,
        channels=channels,
        populations=refine * populations,
        seed=seed,
        backward=backward,
        batch=inputs.batch,
    )


def propagate(
    operations: tuple[Operation, ...],
    start: Start,
    *,
    channels: int | None = None,
    populations: int = 16,
    seed: int = 0,
    backward: bool = True,
    batch: float | None = None,
) -> PopulationResult:
    """The same for a list of operations; ``batch`` (default: the start's) is what observables say."""
    size = channels or default_channels(operations, start.shape, backward=backward)
    activations = size * math.prod(start.shape)
    together = max(1, populations // min(8, max(2, _TOGETHER // activations)))
    groups = [populations // together + (k < populations % together) for k in range(together)]
    blocks = sum(isinstance(op, Observe) and op.what != "preactivation" for op in operations)
    pace = Pace(
        len(groups) * blocks * (3 if backward else 1),
        what="Populations",
        remedy="a smaller refine takes its square less, and fewer layers proportionally less",
    )
    found = [
        # Groups of 2^32 seeds: no seed asked for is another one's group.
        follow(
            operations,
            start,
            channels=size,
            populations=count,
            seed=seed + (k << 32),
            backward=backward,
            pace=pace,
        )
        for k, count in enumerate(groups)
    ]
    return gathered(found, batch=start.batch if batch is None else batch, channels=size)


def gathered(
    found: Sequence[tuple[list[Record], list[Record]]], *, batch: float, channels: int
) -> PopulationResult:
    """Averages of what groups of populations read, forwards and backwards."""
    forwards, backwards = (
        [_joined(r) for r in zip(*f, strict=True)] for f in zip(*found, strict=True)
    )
    stream, pre = _split(forwards)
    gradient, branch = _split(backwards)
    assert stream is not None
    return PopulationResult(
        batch=forwards[0].modes.batch if batch == math.inf else int(batch),
        channels=channels,
        stream=stream,
        preactivation=pre,
        gradient=gradient,
        branch_gradient=branch,
    )


def default_channels(
    operations: tuple[Operation, ...], shape: tuple[int, ...], *, backward: bool, refine: int = 1
) -> int:
    """About 6,000 activations per population, (1000/blocks)^(3/2) times that where blocks are fewer.

    At most 28 times, shared by the maps and pools of a block that are drawn (gradients along paths count
    as much again, drawn ones three times as much): 100 blocks take seconds, and 1,000 no more.  The
    result is a multiple of two of every group, times ``refine``; ``shape`` is (B,) or (B, S).
    """
    undrawn = set() if backward else undrawn_maps(operations, shape)
    group, blocks, maps, pools = 2, 0, 0, 0
    drawn = True
    for k, op in enumerate(operations):
        blocks += isinstance(op, Observe) and op.what != "preactivation"
        if isinstance(op, Linear):
            drawn = k not in undrawn
            maps += drawn
        if isinstance(op, NormAct) and op.norm is not None and has_finite_pool(op.norm):
            pools += drawn
            if not op.norm.pool.samples:
                group = math.lcm(group, 2 * int(op.norm.pool.channels))
    # A second pool costs half of what a map does.
    per_block = max(maps, (maps + pools) / 2.0, blocks) / max(blocks, 1)
    if backward:
        per_block *= 4.0 if pools else 2.0
    reach = min(max(1000.0 / max(blocks, 1), 1.0) ** 1.5, max(_REACH / per_block, 1.0))
    wanted = refine * max(256, round(reach * _ACTIVATIONS / math.prod(shape)))
    return -(-wanted // group) * group


def _joined(records: Sequence[Record]) -> Record:
    """One marker's records of all groups, in the largest of their units."""
    exponent = max(r.exponent for r in records)
    down = [r.exponent - exponent for r in records]

    def joined(values: Sequence[FloatArray], power: int) -> FloatArray:
        return np.concatenate([np.ldexp(v, power * d) for v, d in zip(values, down, strict=True)])

    first, counts = records[0], ("batch", "positions")
    eigenvalues: dict[str, Any] = {
        name: joined([getattr(r.modes, name) for r in records], 2)
        for name in first.modes._fields
        if name not in counts
    }
    squares = first.modes._replace(**eigenvalues)
    return Record(first.what, squares, joined([r.mean for r in records], 1), exponent)


def _samples(operations: tuple[Operation, ...], batch: float) -> int:
    """Samples to follow: two of any number if nothing couples them."""
    coupled = any(
        isinstance(op, NormAct) and op.norm is not None and op.norm.couples_samples
        for op in set(operations)
    )
    if coupled or batch == 1:
        if batch == math.inf:
            raise HypothesisError(
                "batch = inf: a population follows every sample of a batch that a normalizer couples; "
                "use a finite batch, 64 say"
            )
        return int(batch)
    return 2


def _places(operations: tuple[Operation, ...], batch: int, positions: int) -> int:
    """Positions to follow: two of any number if nothing couples them."""
    coupled = any(
        isinstance(op, NormAct) and op.norm is not None and couples_positions(op.norm)
        for op in set(operations)
    )
    if not coupled:
        return 2
    if batch * positions > _ROWS:
        raise HypothesisError(
            f"a population follows every position that a normalizer couples, {batch} samples of "
            f"{positions}: beyond {_ROWS} activations of one channel they do not fit; use fewer positions "
            "or samples, or simulate it"
        )
    return positions


def _over_equals(op: Operation) -> Operation:
    """A circular convolution leaves second moments of positions that are alike: a linear map."""
    if isinstance(op, Conv) and op.padding == "circular" and op.stride == 1:
        return Linear(op.weights, op.channels)
    return op


def _split(records: list[Record]) -> tuple[Averages | None, Averages | None]:
    """(at streams and activations, at pre-activations)."""
    outer = [r for r in records if r.what == "stream"]
    outer = outer or [r for r in records if r.what == "activation"]
    return _averages(outer), _averages([r for r in records if r.what == "preactivation"])


def _averages(records: list[Record]) -> Averages | None:
    if not records:
        return None
    second = np.array([r.modes.second_moment for r in records])
    contrast = np.array([r.modes.contrast for r in records])
    exponent, count = np.array([r.exponent for r in records]), second.shape[1]
    q, q_error = averaged(second)
    # A ratio of averages, with the error of its linearization: populations are not many.
    centre = contrast.mean(axis=1) / np.where(q > 0.0, q, 1.0)
    _, gap_error = averaged(contrast - centre[:, None] * second)
    spectra: tuple[PositionSpectrum, ...] = ()
    position_gaps = None
    if isinstance(records[0].modes, PositionModes):
        gap_error, spectra, position_gaps = _over_positions([r.modes for r in records], second)
    else:
        gap_error = relative_error(gap_error, centre * q, count)
    mean, mean_error = averaged(np.array([r.mean for r in records]))
    root = np.sqrt(np.where(q > 0.0, q, 1.0))
    with np.errstate(divide="ignore"):
        log_q = np.log(q) + exponent * math.log(4.0)
    return Averages(
        log_q,
        relative_error(q_error, q, count),
        centre,
        gap_error,
        mean / root,
        mean_error / root,
        np.array([r.modes.gap for r in records]),
        spectra,
        position_gaps,
    )


def _over_positions(
    found: Sequence[Any], second: FloatArray
) -> tuple[FloatArray, tuple[PositionSpectrum, ...], FloatArray]:
    """(largest relative error of the three gaps, spectra per unit of q, 1 - w/q), layer by layer."""
    q = second.mean(axis=1)
    unit = np.where(q > 0.0, q, 1.0)
    error = np.zeros(len(q))
    distances = np.array([modes.distances for modes in found]).swapaxes(0, 1)
    for distance in distances:
        centre = distance.mean(axis=1)
        _, own = averaged(distance - (centre / unit)[:, None] * second)
        error = np.maximum(error, relative_error(own, centre, second.shape[1]))
    numbers = np.array([modes.spectrum.mean(axis=1) for modes in found]) / unit[:, None]
    positions = found[0].positions
    spectra = tuple(PositionSpectrum(positions, *row).tidied() for row in numbers.tolist())
    return error, spectra, distances[0] / np.where(second > 0.0, second, 1.0)


def relative_error(error: FloatArray, size: FloatArray, populations: int) -> FloatArray:
    """r + P r^2/2, r the relative standard error: P r^2 is a population's own relative variance.

    Nonlinear maps of averages over M channels are biased by half their curvature times that variance,
    O(1/M), which a standard error over populations does not see.  Averages that a few populations carry
    say nothing of those that never came: their error is infinite.
    """
    relative = np.divide(error, size, out=np.zeros_like(error), where=size > 0.0)
    stated = relative * (1.0 + 0.5 * populations * relative)
    return np.where(relative < _CARRIED, stated, math.inf)


def averaged(values: Any) -> tuple[FloatArray, FloatArray]:
    """(mean, standard error stretched for few populations) over the last axis."""
    count = values.shape[-1]
    stretch = -float(special.stdtrit(count - 1, special.ndtr(-3.0))) / 3.0
    error = stretch * values.std(axis=-1, ddof=1) / math.sqrt(count)
    return values.mean(axis=-1), error
