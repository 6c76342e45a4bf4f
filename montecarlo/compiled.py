"""Compiled loops around the matrix products: x = phi(N(h)), its transposed Jacobian, column sums.

Everything acts on C-contiguous arrays of shape (channels, samples), float32 or float64; sums run in
float64.  Normalizers and activations arrive as integers and numbers, never as functions, so that
the machine code is cached on disk and serves every network.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from montecarlo.activations import (
    ActivationCode,
    activate,
    pull_activation,
    sigmoid,
    silu_slope,
)
from montecarlo.jit import jit
from theory.specs.normalizers import Normalizer

__all__ = [
    "NormCode",
    "encode_norm",
    "normact_backward",
    "normact_forward",
    "row_sums",
    "sample_statistics",
    "sum_of_squares",
    "unit_samples",
]

# Denominators (EvoNorm-B0's batch part is a std) and kinds of quotient.
NONE, STD, RMS = range(3)
RATIO, EVONORM_S0, EVONORM_B0 = range(3)
_DENOMINATOR = {"none": NONE, "std": STD, "rms": RMS, "evonorm_b0": STD}


class NormCode(NamedTuple):
    """A normalizer as numbers, which compiled code can take as an argument."""

    group: int
    samples: bool
    centered: bool
    denominator: int
    kind: int
    gate: float
    eps: float
    ddof: int


def encode_norm(norm: Normalizer | None, *, channels: int) -> NormCode:
    """Turn the specification into numbers, for a layer of ``channels`` channels."""
    if norm is None:
        return NormCode(channels, False, False, NONE, RATIO, 0.0, 0.0, 0)
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
    )


# Two layouts of one mathematics.  A pool over the batch is a row of h reshaped to (blocks, pool), with
# one mean and one R; a pool in each sample keeps the samples innermost, so that its loops vectorize.


@jit
def _pool_rows(h: Any, mean: Any, root: Any, norm: NormCode) -> int:
    """Mean and R of each row of ``h``; -1, or the first row with R = 0.

    Deviations are taken from the pool's first entry, then from the mean, so equal entries give
    exactly zero and a large common offset costs no digits.
    """
    blocks, count = h.shape
    for block in range(blocks):
        origin = np.float64(h[block, 0])
        total = 0.0
        for i in range(count):
            total += h[block, i] - origin
        mean[block, 0] = origin + total / count
        root[block, 0] = 1.0
        if norm.denominator != NONE:
            about, shift = (origin, total / count) if norm.denominator == STD else (0.0, 0.0)
            square = 0.0
            for i in range(count):
                deviation = (h[block, i] - about) - shift
                square += deviation * deviation
            root[block, 0] = math.sqrt(square / (count - norm.ddof) + norm.eps)
            if root[block, 0] == 0.0:
                return block
    return -1


@jit
def _pool_samples(h: Any, mean: Any, root: Any, norm: NormCode) -> int:
    """Mean and R of each block of channels in each sample; as ``_pool_rows``."""
    channels, batch = h.shape
    group = norm.group
    about = np.zeros(batch)
    for block in range(channels // group):
        low = block * group
        for b in range(batch):
            mean[block, b] = 0.0
            root[block, b] = 0.0
        for c in range(low, low + group):
            for b in range(batch):
                mean[block, b] += np.float64(h[c, b]) - np.float64(h[low, b])
        for b in range(batch):
            mean[block, b] = h[low, b] + mean[block, b] / group
            if norm.denominator == STD:
                about[b] = mean[block, b]
        if norm.denominator == NONE:
            for b in range(batch):
                root[block, b] = 1.0
            continue
        for c in range(low, low + group):
            for b in range(batch):
                deviation = h[c, b] - about[b]
                root[block, b] += deviation * deviation
        for b in range(batch):
            root[block, b] = math.sqrt(root[block, b] / (group - norm.ddof) + norm.eps)
            if root[block, b] == 0.0:
                return block
    return -1


@jit
def _quotient_rows(h: Any, y: Any, mean: Any, root: Any, norm: NormCode) -> None:
    """y = (h - mean)/R, h sigmoid(v h)/R (EvoNorm-S0) or h/max(R, v h + floor) (EvoNorm-B0)."""
    blocks, count = h.shape
    gate, floor = norm.gate, math.sqrt(norm.eps)
    for block in range(blocks):
        denominator = root[block, 0]
        inverse = 1.0 / denominator
        center = mean[block, 0] if norm.centered else 0.0
        if norm.kind == RATIO:
            for i in range(count):
                y[block, i] = (h[block, i] - center) * inverse
        elif norm.kind == EVONORM_S0:
            for i in range(count):
                y[block, i] = h[block, i] * sigmoid(gate * h[block, i]) * inverse
        else:
            for i in range(count):
                y[block, i] = h[block, i] / max(denominator, gate * h[block, i] + floor)


@jit
def _quotient_samples(h: Any, y: Any, mean: Any, root: Any, norm: NormCode) -> None:
    """y = (h - mean)/R or h sigmoid(v h)/R (EvoNorm-S0)."""
    channels, batch = h.shape
    inverse, center = np.empty(batch), np.zeros(batch)
    for c in range(channels):
        block = c // norm.group
        if c == block * norm.group:
            for b in range(batch):
                inverse[b] = 1.0 / root[block, b]
                if norm.centered:
                    center[b] = mean[block, b]
        if norm.kind == RATIO:
            for b in range(batch):
                y[c, b] = (h[c, b] - center[b]) * inverse[b]
        else:
            for b in range(batch):
                y[c, b] = h[c, b] * sigmoid(norm.gate * h[c, b]) * inverse[b]


@jit
def _pull_rows(h: Any, y: Any, gradient: Any, mean: Any, root: Any, norm: NormCode) -> None:
    """dy -> dh in place, each pool a row."""
    blocks, count = h.shape
    gate, floor = norm.gate, math.sqrt(norm.eps)
    for block in range(blocks):
        denominator = root[block, 0]
        inverse = 1.0 / denominator
        total = 0.0
        along = 0.0
        for i in range(count):
            total += gradient[block, i]
            along += np.float64(gradient[block, i]) * y[block, i]
        if norm.kind == EVONORM_B0:
            for i in range(count):
                if gate * h[block, i] + floor >= denominator:
                    along -= np.float64(gradient[block, i]) * y[block, i]
        average = total / count if norm.centered else 0.0
        along *= 0.0 if norm.denominator == NONE else inverse * inverse / (count - norm.ddof)
        reference = mean[block, 0] if norm.denominator == STD else 0.0
        if norm.kind == RATIO:
            for i in range(count):
                through = (gradient[block, i] - average) * inverse
                gradient[block, i] = through - along * (h[block, i] - reference)
        elif norm.kind == EVONORM_S0:
            for i in range(count):
                through = gradient[block, i] * silu_slope(gate * h[block, i]) * inverse
                gradient[block, i] = through - along * (h[block, i] - reference)
        else:
            for i in range(count):
                linear = gate * h[block, i] + floor
                through = inverse if denominator > linear else floor / linear**2
                through *= gradient[block, i]
                gradient[block, i] = through - along * (h[block, i] - reference)


@jit
def _pull_samples(h: Any, y: Any, gradient: Any, mean: Any, root: Any, norm: NormCode) -> None:
    """dy -> dh in place, one pool for each block of channels and sample."""
    channels, batch = h.shape
    group = norm.group
    inverse, reference = np.empty(batch), np.zeros(batch)
    average, along = np.empty(batch), np.empty(batch)
    for block in range(channels // group):
        low = block * group
        for b in range(batch):
            average[b] = 0.0
            along[b] = 0.0
        for c in range(low, low + group):
            for b in range(batch):
                average[b] += gradient[c, b]
                along[b] += np.float64(gradient[c, b]) * y[c, b]
        for b in range(batch):
            inverse[b] = 1.0 / root[block, b]
            average[b] = average[b] / group if norm.centered else 0.0
            along[b] *= inverse[b] * inverse[b] / (group - norm.ddof)
            if norm.denominator == NONE:
                along[b] = 0.0
            if norm.denominator == STD:
                reference[b] = mean[block, b]
        for c in range(low, low + group):
            if norm.kind == RATIO:
                for b in range(batch):
                    through = (gradient[c, b] - average[b]) * inverse[b]
                    gradient[c, b] = through - along[b] * (h[c, b] - reference[b])
            else:
                for b in range(batch):
                    through = gradient[c, b] * silu_slope(norm.gate * h[c, b]) * inverse[b]
                    gradient[c, b] = through - along[b] * (h[c, b] - reference[b])


@jit
def normact_forward(
    h: Any, x: Any, mean: Any, root: Any, norm: NormCode, phi: ActivationCode
) -> int:
    """x = phi(N(h)) into ``x``; pool statistics into ``mean``, ``root``.

    The statistics have shape (n / group, 1) if pools span the samples, else (n / group, batch).
    Returns -1, or the first channel block whose denominator is zero.
    """
    failed = -1
    if not norm.centered and norm.denominator == NONE:
        x[:] = h
    elif norm.samples:
        shape = (len(mean), h.size // len(mean))
        rows, out = h.reshape(shape), x.reshape(shape)
        failed = _pool_rows(rows, mean, root, norm)
        if failed < 0:
            _quotient_rows(rows, out, mean, root, norm)
    else:
        failed = _pool_samples(h, mean, root, norm)
        if failed < 0:
            _quotient_samples(h, x, mean, root, norm)
    if failed < 0:
        activate(phi, x)
    return failed


@jit
def normact_backward(
    h: Any,
    gradient_x: Any,
    gradient_h: Any,
    mean: Any,
    root: Any,
    norm: NormCode,
    phi: ActivationCode,
) -> None:
    """dh = J' dx with J = d phi(N(h)) / dh, statistics of the pool included.

    With dy = phi'(y) dx, u = h - mean (std) or h (rms) and a the numerator:
    dh_i = (a'(h_i) dy_i - [centered] mean(dy)) / R - u_i sum_j(dy_j y_j) / ((N - ddof) R^2).
    In EvoNorm-B0 only entries with R > v h + floor see the pool.
    """
    if not norm.centered and norm.denominator == NONE:
        pull_activation(phi, h, gradient_x, gradient_h)
        return
    y = np.empty_like(h)
    if norm.samples:
        shape = (len(mean), h.size // len(mean))
        rows = h.reshape(shape)
        _quotient_rows(rows, y.reshape(shape), mean, root, norm)
        pull_activation(phi, y, gradient_x, gradient_h)
        _pull_rows(rows, y.reshape(shape), gradient_h.reshape(shape), mean, root, norm)
    else:
        _quotient_samples(h, y, mean, root, norm)
        pull_activation(phi, y, gradient_x, gradient_h)
        _pull_samples(h, y, gradient_h, mean, root, norm)


@jit
def sum_of_squares(values: Any) -> float:
    """Sum of squares of a two-dimensional array, accumulated in float64."""
    total = 0.0
    for c in range(values.shape[0]):
        row = values[c]
        for b in range(row.size):
            total += np.float64(row[b]) * np.float64(row[b])
    return total


@jit
def sample_statistics(x: Any, squares: Any) -> float:
    """Sum of squares of each sample into ``squares`` (batch,); returns the variance over samples.

    The variance (ddof = 0) is taken over the samples of each channel and averaged over channels.
    """
    channels, batch = x.shape
    squares[:] = 0.0
    total = 0.0
    for c in range(channels):
        row = x[c]
        mean = 0.0
        for b in range(batch):
            mean += np.float64(row[b])
        mean /= batch
        for b in range(batch):
            value = np.float64(row[b])
            squares[b] += value * value
            total += (value - mean) * (value - mean)
    return total / (channels * batch)


@jit
def unit_samples(x: Any, squares: Any, unit: Any) -> float:
    """u_b = x_b/|x_b| into ``unit``; returns the mean of 1 - u_a.u_b over pairs a != b.

    The mean gap is sum_b |u_b - mean(u)|^2 / (B - 1): no cancellation near 0.
    """
    channels, batch = x.shape
    inverse = 1.0 / squares**0.5
    total = 0.0
    for c in range(channels):
        row = x[c]
        out = unit[c]
        mean = 0.0
        for b in range(batch):
            out[b] = row[b] * inverse[b]
            mean += out[b]
        mean /= batch
        for b in range(batch):
            total += (out[b] - mean) ** 2
    return total / (batch - 1) if batch > 1 else 0.0


@jit
def row_sums(values: Any, sums: Any, squares: Any) -> None:
    """Sum and sum of squares of each row, accumulated in float64."""
    for c in range(values.shape[0]):
        row = values[c]
        total = 0.0
        square = 0.0
        for b in range(row.size):
            value = np.float64(row[b])
            total += value
            square += value * value
        sums[c] = total
        squares[c] = square
