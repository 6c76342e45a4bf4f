r"""Fold a network's operations over populations of channels, forwards and backwards.

Forwards, a linear map replaces a channel's law by a fresh Gaussian with the population's covariance;
a residual block adds it to what each channel carries, so that a channel's path is followed exactly:
the law of one channel of an infinitely wide network, whatever the stream (theory notes, section 5).

Backwards, W'd is Gaussian over channels with covariance sigma_w^2 E[d d'] and independent of the
stream, because the cotangent is.  What skips a block keeps the channel's own masks: a gradient and
the path that it runs back along are one draw, so masks are those of the forward pass.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from theory.errors import HypothesisError, out_of_domain
from theory.forecast import Pace
from theory.population.fields import Field, undrawn_maps
from theory.population.gradients import Draws, Squares, cotangent
from theory.population.normact import Tape, normact, refuse
from theory.program import Fork, Linear, Merge, NormAct, Observe, Operation, Scale
from theory.routes.positions_spectrum import PositionSpectrum
from theory.states.population import Modes, Population, gaussian_field
from theory.states.position_modes import PositionModes

__all__ = ["Record", "Start", "follow"]

# Tapes beyond this are forgotten and made again from the state at the start of their section.
_TAPE_BYTES = 400_000_000


class Start(NamedTuple):
    """x^0: Gaussian and exchangeable, E[x^2] = ``second_moment``, cosine 1 - ``gap``, mean ``mean``.

    Over positions ``spectrum`` says what the first two say without.
    """

    batch: int
    second_moment: float = 1.0
    gap: float = 1.0
    mean: float = 0.0
    spectrum: PositionSpectrum | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Activations of one channel: (B,) or (B, S)."""
        return (self.batch,) if self.spectrum is None else (self.batch, self.spectrum.positions)


class Record(NamedTuple):
    """Moments read at one marker, one number per population: value * 2**exponent (4** for squares)."""

    what: str
    modes: Modes | PositionModes
    mean: np.ndarray
    exponent: int


def follow(
    operations: Sequence[Operation],
    start: Start,
    *,
    channels: int,
    populations: int,
    seed: int,
    backward: bool = True,
    pace: Pace | None = None,
) -> tuple[list[Record], list[Record]]:
    """(records of activations, records of gradients) at every ``Observe``, in forward order.

    Parameters
    ----------
    operations
        Of ``theory.program.lower``.
    start
        What enters.
    channels, populations
        M and P.
    seed
        Every operation has its own stream of it: results do not depend on memory.
    backward
        Whether to follow gradients as well, from independent standard Gaussian cotangents at the
        end; the second list is empty otherwise.
    pace
        Told of every block that is done forwards.

    Raises
    ------
    HypothesisError
        An operation that populations do not carry (convolutions, pools over samples and channels):
        ``result.population`` turns convolutions over positions that are alike into linear maps.
    SpecificationError
        ``channels`` or ``populations`` out of range.
    NumericalError
        A stream that runs away although its branch is not scale free.
    """
    _check(operations, start, channels=channels, populations=populations)
    shape = (populations, *start.shape, channels)
    state = _initial(start, shape, seed)
    sections = _sections(operations)
    checkpoints: list[tuple[int, Population]] = []
    tapes: list[dict[int, Tape]] = []
    size, records = 0, list[Record]()
    # Gradients need the fields of every map.
    undrawn = set() if backward else undrawn_maps(operations, start.shape)
    for section in sections:
        if not checkpoints or size > _TAPE_BYTES:
            # Only the newest tapes are kept; those before the checkpoint come again when needed.
            checkpoints.append((section.start, state))
            tapes, size = [], 0
        state, read, tape = _forward(operations, section, state, seed, undrawn)
        records += read
        if pace is not None:
            pace.step()
        if backward:
            tapes.append(tape)
            size += sum(t.nbytes for t in tape.values())
    if not backward:
        return records, []
    gradient = cotangent(operations, shape, key=[seed, 1, len(operations)])
    back: list[Record] = []
    for first, state in reversed(checkpoints):
        mine = [s for s in sections if s.start >= first]
        sections = [s for s in sections if s.start < first]
        if len(tapes) != len(mine):
            tapes = []
            for section in mine:
                state, _, tape = _forward(operations, section, state, seed, undrawn)
                tapes.append(tape)
        for section, tape in zip(reversed(mine), reversed(tapes), strict=True):
            gradient, read = _backward(operations, section, tape, gradient, seed)
            back += read
        tapes = []
    return records, back[::-1]


def _forward(
    operations: Sequence[Operation],
    section: range,
    state: Population,
    seed: int,
    undrawn: set[int],
) -> tuple[Population, list[Record], dict[int, Tape]]:
    """One section forwards: its output, what was read, and its tapes by operation."""
    kept: list[Population] = []
    tapes: dict[int, Tape] = {}
    read: list[Record] = []
    # A Gaussian field of which only the moments are asked.
    field: Field | None = None
    for k in section:
        match operations[k]:
            case Linear(weights) if k in undrawn or field is not None:
                field = (field or Field.of(state)).mapped(weights)
                if k not in undrawn:
                    rng = np.random.default_rng([seed, 0, k])
                    beside = kept[-1].values if kept else None
                    state, field = field.drawn(state.values.shape, rng=rng, beside=beside), None
            case Linear(weights):
                state = state.linear(
                    weights.weight_variance,
                    centered=weights.centered,
                    rng=np.random.default_rng([seed, 0, k]),
                    beside=kept[-1].values if kept else None,
                )
            case NormAct() as op if field is not None:
                field = field.pushed(op)
            case NormAct() as op:
                state, tapes[k] = normact(op, state)
            case Scale(factor):
                state = Population(factor * state.values, state.exponent)
            case Fork():
                kept.append(state)
            case Merge(skip, branch):
                state = kept.pop().plus(state, own=skip, others=branch)
            case Observe(what) if field is not None:
                read.append(Record(what, field.modes, field.mean, field.exponent))
            case Observe(what):
                read.append(Record(what, state.modes(), state.mean(), state.exponent))
    return state.rescaled(), read, tapes


def _backward(
    operations: Sequence[Operation],
    section: range,
    tapes: dict[int, Tape],
    gradient: Draws | Squares,
    seed: int,
) -> tuple[Draws | Squares, list[Record]]:
    """One section backwards: the gradient at its input, and what was read (last first)."""
    kept: list[Any] = []
    read: list[Record] = []
    g: Any = gradient
    for k in reversed(section):
        match operations[k]:
            case Linear(weights):
                beside = kept[-1] if kept else None
                g = g.linear(weights.weight_variance, key=[seed, 1, k], beside=beside)
            case NormAct() as op:
                g = g.pulled(op, tapes[k])
            case Scale(factor):
                g = g.times(factor)
            case Merge(skip, branch):
                kept.append(g.times(skip))
                g = g.times(branch)
            case Fork():
                g = kept.pop().plus(g)
            case Observe(what):
                read.append(Record(what, *g.read()))
    return g.rescaled(), read


def _sections(operations: Sequence[Operation]) -> list[range]:
    """Stretches that begin and end outside of all branches, each with one block."""
    cuts, depth = [0], 0
    for k, op in enumerate(operations):
        depth += isinstance(op, Fork) - isinstance(op, Merge)
        if depth == 0 and isinstance(op, Observe) and op.what != "preactivation":
            cuts.append(k + 1)
    if cuts[-1] != len(operations):
        cuts.append(len(operations))
    return [range(a, b) for a, b in itertools.pairwise(cuts)]


def _initial(start: Start, shape: tuple[int, ...], seed: int) -> Population:
    """Gaussian x^0 with exactly the moments asked for."""
    batch, q, gap, mean, spectrum = start
    ones = np.ones(shape[0])
    variance: Modes | PositionModes
    if spectrum is not None:
        variance = PositionModes.of_spectrum(spectrum, ones, batch=batch, mean=mean)
    else:
        variance = Modes(
            (q * (1.0 + (batch - 1) * (1.0 - gap)) - batch * mean * mean) * ones,
            q * gap * ones,
            batch,
        )
    field = gaussian_field(variance, shape=shape, rng=np.random.default_rng([seed, 0, 2**40]))
    return Population(field + mean)


def _check(
    operations: Sequence[Operation], start: Start, *, channels: int, populations: int
) -> None:
    if not 2 <= populations <= 4096:
        raise out_of_domain("populations", populations, "in [2, 4096]", "use 8: the error bar")
    if not 64 <= channels <= 1 << 22 or channels % 2:
        raise out_of_domain("channels", channels, "even, in [64, 2^22]", "use 4096")
    batch, q, gap, mean, spectrum = start
    if batch < 1 or not q > 0.0 or not 0.0 <= gap <= batch / max(batch - 1, 1):
        raise out_of_domain(
            "start", start, "B >= 1, q > 0, 0 <= gap <= B/(B-1)", "see theory.exchangeable"
        )
    if spectrum is None and q * (1.0 + (batch - 1) * (1.0 - gap)) < batch * mean * mean:
        raise out_of_domain("mean", mean, "at most what the correlation allows", "lower it")
    for op in operations:
        if isinstance(op, NormAct):
            refuse(op, batch=batch, positions=math.prod(start.shape[1:]), channels=channels)
        elif not isinstance(op, Linear | Scale | Fork | Merge | Observe):
            raise HypothesisError(
                f"a population of channels carries circular convolutions without a stride over positions "
                f"that are alike, not {op!r}; use a kernel of 1 or exchangeable(..., positions=...), or "
                "simulate"
            )
