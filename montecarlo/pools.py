"""Normalizers, compiled: statistics of each pool, y = N(h), and the pull-back dy -> dh.

A layer's activations h are C-contiguous (channels, batch * positions), float32 or float64, the
positions of one sample side by side; sums run in float64.  A pool takes G channels, all samples or
one, all positions or one (theory notes, section 2), so the statistics have shape
(channels / G, columns) with columns = [batch, if samples are apart] * [positions, if apart].

Normalizers arrive as integers and numbers, never as functions, so that the machine code is cached
on disk and serves every network.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from montecarlo.activations import sigmoid, silu_slope
from montecarlo.jit import jit
from theory.specs.normalizers import Normalizer

__all__ = [
    "NormCode",
    "encode_norm",
    "gather_pools",
    "is_identity",
    "pool_columns",
    "pool_layout",
    "pool_rows",
    "pull_columns",
    "pull_rows",
    "quotient_columns",
    "quotient_rows",
    "scatter_pools",
    "statistics_shape",
]

# Denominators (EvoNorm-B0's batch part is a std), kinds of quotient, and how pools lie in memory.
NONE, STD, RMS = range(3)
RATIO, EVONORM_S0, EVONORM_B0 = range(3)
ROWS, COLUMNS, SCATTERED = range(3)
_DENOMINATOR = {"none": NONE, "std": STD, "rms": RMS, "evonorm_b0": STD}


class NormCode(NamedTuple):
    """A normalizer as numbers, which compiled code can take as an argument.

    ``samples``, ``across``: whether a pool spans the samples, the positions; ``positions``: how many
    positions a sample has.
    """

    group: int
    samples: bool
    centered: bool
    denominator: int
    kind: int
    gate: float
    eps: float
    ddof: int
    across: bool = True
    positions: int = 1


def encode_norm(norm: Normalizer | None, *, channels: int, positions: int = 1) -> NormCode:
    """Turn the specification into numbers, for a layer of ``channels`` channels at ``positions``."""
    if norm is None:
        return NormCode(channels, False, False, NONE, RATIO, 0.0, 0.0, 0, True, positions)
    group = channels if norm.pool.channels == math.inf else int(norm.pool.channels)
    kind = RATIO
    if norm.gate is not None:
        kind = EVONORM_B0 if norm.denominator == "evonorm_b0" else EVONORM_S0
    return NormCode(
        group=group,
        samples=norm.pool.samples,
        centered=norm.centered,
        denominator=_DENOMINATOR[norm.denominator],
        kind=kind,
        gate=norm.gate or 0.0,
        eps=norm.eps,
        ddof=norm.ddof,
        across=norm.pool.positions,
        positions=positions,
    )


def statistics_shape(norm: NormCode, *, channels: int, batch: int) -> tuple[int, int]:
    """Shape (channel blocks, columns) of the arrays of pool means and denominators."""
    columns = (1 if norm.samples else batch) * (1 if norm.across else norm.positions)
    return channels // norm.group, columns


@jit
def is_identity(norm: NormCode) -> bool:
    """Whether N(h) = h."""
    return not norm.centered and norm.denominator == NONE


# Two layouts of one mathematics.  Where pools are contiguous, each is a row of h reshaped to
# (pools, entries), with one mean and one R; where a pool takes one entry of each column, the columns
# stay innermost, so that the loops vectorize.  Blocks of channels in one sample with several
# positions are neither: they are copied into rows.


@jit
def pool_layout(columns: int, norm: NormCode) -> int:
    """ROWS, COLUMNS or SCATTERED, for statistics of that many columns."""
    if columns == 1 or (norm.across and norm.group == 1):
        return ROWS
    return SCATTERED if norm.across and norm.positions > 1 else COLUMNS


@jit
def gather_pools(values: Any, norm: NormCode) -> Any:
    """Copy (n, B S) to (n/G, B, G S): each block of channels in one sample becomes a row."""
    channels, width = values.shape
    group, positions = norm.group, norm.positions
    rows = np.empty((channels // group, width // positions, group * positions), values.dtype)
    for c in range(channels):
        block = c // group
        low = (c - block * group) * positions
        for b in range(rows.shape[1]):
            # Slices, so that no index is checked for counting from the end and the loop vectorizes.
            row = rows[block, b, low : low + positions]
            instance = values[c, b * positions : (b + 1) * positions]
            for s in range(positions):
                row[s] = instance[s]
    return rows.reshape(-1, group * positions)


@jit
def scatter_pools(rows: Any, values: Any, norm: NormCode) -> None:
    """Copy back what ``gather_pools`` gathered."""
    channels, width = values.shape
    group, positions = norm.group, norm.positions
    batch = width // positions
    for c in range(channels):
        block = c // group
        low = (c - block * group) * positions
        for b in range(batch):
            row = rows[block * batch + b, low : low + positions]
            instance = values[c, b * positions : (b + 1) * positions]
            for s in range(positions):
                instance[s] = row[s]


@jit
def pool_rows(h: Any, mean: Any, root: Any, norm: NormCode) -> int:
    """Mean and R of each row of ``h``; -1, or the first row with R = 0.

    Deviations are taken from the pool's first entry, then from the mean, so equal entries give
    exactly zero and a large common offset costs no digits.
    """
    pools, count = h.shape
    for pool in range(pools):
        origin = np.float64(h[pool, 0])
        total = 0.0
        for i in range(count):
            total += h[pool, i] - origin
        mean[pool] = origin + total / count
        root[pool] = 1.0
        if norm.denominator != NONE:
            about, shift = (origin, total / count) if norm.denominator == STD else (0.0, 0.0)
            square = 0.0
            for i in range(count):
                deviation = (h[pool, i] - about) - shift
                square += deviation * deviation
            root[pool] = math.sqrt(square / (count - norm.ddof) + norm.eps)
            if root[pool] == 0.0:
                return pool
    return -1


@jit
def pool_columns(h: Any, mean: Any, root: Any, norm: NormCode) -> int:
    """Mean and R of each block of rows in each column; -1, or the first block with R = 0."""
    blocks, columns = mean.shape
    count = len(h) // blocks
    about = np.zeros(columns)
    for block in range(blocks):
        low = block * count
        for b in range(columns):
            mean[block, b] = 0.0
            root[block, b] = 0.0
        for c in range(low, low + count):
            for b in range(columns):
                mean[block, b] += np.float64(h[c, b]) - np.float64(h[low, b])
        for b in range(columns):
            mean[block, b] = h[low, b] + mean[block, b] / count
            if norm.denominator == STD:
                about[b] = mean[block, b]
        if norm.denominator == NONE:
            for b in range(columns):
                root[block, b] = 1.0
            continue
        for c in range(low, low + count):
            for b in range(columns):
                deviation = h[c, b] - about[b]
                root[block, b] += deviation * deviation
        for b in range(columns):
            root[block, b] = math.sqrt(root[block, b] / (count - norm.ddof) + norm.eps)
            if root[block, b] == 0.0:
                return block
    return -1


@jit
def _instance_means(row: Any, norm: NormCode, means: Any, stds: Any) -> None:
    """Mean and sqrt(variance + eps) over the positions of each sample, repeated at each position."""
    positions = norm.positions
    for low in range(0, row.size, positions):
        instance = row[low : low + positions]
        origin = np.float64(instance[0])
        total = 0.0
        for s in range(positions):
            total += instance[s] - origin
        shift = total / positions
        square = 0.0
        for s in range(positions):
            deviation = (instance[s] - origin) - shift
            square += deviation * deviation
        means[low : low + positions] = origin + shift
        stds[low : low + positions] = math.sqrt(square / (positions - norm.ddof) + norm.eps)


@jit
def quotient_rows(h: Any, y: Any, mean: Any, root: Any, norm: NormCode) -> None:
    """y = (h - mean)/R, h sigmoid(v h)/R (EvoNorm-S0) or h/max(R, v h + std) (EvoNorm-B0)."""
    pools, count = h.shape
    gate = norm.gate
    # One position has no variance: the instance std is sqrt(eps).
    means, stds = np.empty((2, count if norm.kind == EVONORM_B0 else 0))
    stds[:] = math.sqrt(norm.eps)
    for pool in range(pools):
        denominator = root[pool]
        inverse = 1.0 / denominator
        center = mean[pool] if norm.centered else 0.0
        if norm.kind == RATIO:
            for i in range(count):
                y[pool, i] = (h[pool, i] - center) * inverse
        elif norm.kind == EVONORM_S0:
            for i in range(count):
                y[pool, i] = h[pool, i] * sigmoid(gate * h[pool, i]) * inverse
        else:
            if norm.positions > 1:
                _instance_means(h[pool], norm, means, stds)
            for i in range(count):
                y[pool, i] = h[pool, i] / max(denominator, gate * h[pool, i] + stds[i])


@jit
def quotient_columns(h: Any, y: Any, mean: Any, root: Any, norm: NormCode) -> None:
    """y = (h - mean)/R or h sigmoid(v h)/R (EvoNorm-S0)."""
    rows, columns = h.shape
    count = rows // len(mean)
    inverse, center = np.empty(columns), np.zeros(columns)
    for c in range(rows):
        block = c // count
        if c == block * count:
            for b in range(columns):
                inverse[b] = 1.0 / root[block, b]
                if norm.centered:
                    center[b] = mean[block, b]
        if norm.kind == RATIO:
            for b in range(columns):
                y[c, b] = (h[c, b] - center[b]) * inverse[b]
        else:
            for b in range(columns):
                y[c, b] = h[c, b] * sigmoid(norm.gate * h[c, b]) * inverse[b]


@jit
def _pull_evonorm_b0(h: Any, y: Any, gradient: Any, mean: Any, root: Any, norm: NormCode) -> None:
    """dy -> dh in place for y = h/D, D = max(R, l), l = v h + f, f the instance std.

    Entries with R > l have dy/dh = 1/R and pull on R; the others f/l^2, and pull on f.
    """
    pools, count = h.shape
    gate, positions = norm.gate, norm.positions
    means, stds = np.empty((2, count))
    stds[:] = math.sqrt(norm.eps)
    for pool in range(pools):
        denominator = root[pool]
        inverse = 1.0 / denominator
        if positions > 1:
            _instance_means(h[pool], norm, means, stds)
        along = 0.0
        for i in range(count):
            if denominator > gate * h[pool, i] + stds[i]:
                along += np.float64(gradient[pool, i]) * y[pool, i]
        along *= inverse * inverse / (count - norm.ddof)
        if positions == 1:
            for i in range(count):
                linear = gate * h[pool, i] + stds[i]
                through = inverse if denominator > linear else stds[i] / linear**2
                through *= gradient[pool, i]
                gradient[pool, i] = through - along * (h[pool, i] - mean[pool])
            continue
        for low in range(0, count, positions):
            instance, std, center = h[pool, low : low + positions], stds[low], means[low]
            out, delta = y[pool, low : low + positions], gradient[pool, low : low + positions]
            inside = 0.0
            for s in range(positions):
                linear = gate * instance[s] + std
                pull = np.float64(delta[s]) * out[s] / linear
                inside += pull if denominator <= linear else 0.0
            # Equal entries (f = 0) are a kink; the slope 0 is one of its subgradients.
            inside *= 0.0 if std == 0.0 else 1.0 / (std * (positions - norm.ddof))
            for s in range(positions):
                linear = gate * instance[s] + std
                through = inverse if denominator > linear else std / linear**2
                through = through * delta[s] - inside * (instance[s] - center)
                delta[s] = through - along * (instance[s] - mean[pool])


@jit
def pull_rows(h: Any, y: Any, gradient: Any, mean: Any, root: Any, norm: NormCode) -> None:
    """dy -> dh in place, each pool a row."""
    if norm.kind == EVONORM_B0:
        _pull_evonorm_b0(h, y, gradient, mean, root, norm)
        return
    pools, count = h.shape
    gate = norm.gate
    for pool in range(pools):
        inverse = 1.0 / root[pool]
        total = 0.0
        along = 0.0
        for i in range(count):
            total += gradient[pool, i]
            along += np.float64(gradient[pool, i]) * y[pool, i]
        average = total / count if norm.centered else 0.0
        along *= 0.0 if norm.denominator == NONE else inverse * inverse / (count - norm.ddof)
        reference = mean[pool] if norm.denominator == STD else 0.0
        if norm.kind == RATIO:
            for i in range(count):
                through = (gradient[pool, i] - average) * inverse
                gradient[pool, i] = through - along * (h[pool, i] - reference)
        else:
            for i in range(count):
                through = gradient[pool, i] * silu_slope(gate * h[pool, i]) * inverse
                gradient[pool, i] = through - along * (h[pool, i] - reference)


@jit
def pull_columns(h: Any, y: Any, gradient: Any, mean: Any, root: Any, norm: NormCode) -> None:
    """dy -> dh in place, one pool for each block of rows and column."""
    blocks, columns = mean.shape
    count = len(h) // blocks
    inverse, reference = np.empty(columns), np.zeros(columns)
    average, along = np.empty(columns), np.empty(columns)
    for block in range(blocks):
        low = block * count
        for b in range(columns):
            average[b] = 0.0
            along[b] = 0.0
        for c in range(low, low + count):
            for b in range(columns):
                average[b] += gradient[c, b]
                along[b] += np.float64(gradient[c, b]) * y[c, b]
        for b in range(columns):
            inverse[b] = 1.0 / root[block, b]
            average[b] = average[b] / count if norm.centered else 0.0
            along[b] *= inverse[b] * inverse[b] / (count - norm.ddof)
            if norm.denominator == NONE:
                along[b] = 0.0
            if norm.denominator == STD:
                reference[b] = mean[block, b]
        for c in range(low, low + count):
            if norm.kind == RATIO:
                for b in range(columns):
                    through = (gradient[c, b] - average[b]) * inverse[b]
                    gradient[c, b] = through - along[b] * (h[c, b] - reference[b])
            else:
                for b in range(columns):
                    through = gradient[c, b] * silu_slope(norm.gate * h[c, b]) * inverse[b]
                    gradient[c, b] = through - along[b] * (h[c, b] - reference[b])
