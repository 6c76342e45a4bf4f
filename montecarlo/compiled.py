"""Compiled loops around the matrix products: x = phi(N(h)), its transposed Jacobian, column sums.

Everything acts on C-contiguous arrays of shape (channels, batch * positions), float32 or float64,
the positions of one sample side by side; sums run in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from montecarlo.activations import ActivationCode, activate, pull_activation
from montecarlo.jit import jit
from montecarlo.pools import (
    COLUMNS,
    SCATTERED,
    NormCode,
    encode_norm,
    gather_pools,
    is_identity,
    pool_columns,
    pool_layout,
    pool_rows,
    pull_columns,
    pull_rows,
    quotient_columns,
    quotient_rows,
    scatter_pools,
    statistics_shape,
)

__all__ = [
    "NormCode",
    "encode_norm",
    "normact_backward",
    "normact_forward",
    "row_sums",
    "sample_statistics",
    "statistics_shape",
    "sum_of_squares",
    "unit_samples",
]


@jit
def _forward_rows(h: Any, y: Any, mean: Any, root: Any, norm: NormCode) -> int:
    failed = pool_rows(h, mean, root, norm)
    if failed < 0:
        quotient_rows(h, y, mean, root, norm)
    return failed


@jit
def _backward_rows(
    h: Any, gradient_x: Any, gradient_h: Any, mean: Any, root: Any, norm: NormCode, phi: Any
) -> None:
    y = np.empty_like(h)
    quotient_rows(h, y, mean, root, norm)
    pull_activation(phi, y, gradient_x, gradient_h)
    pull_rows(h, y, gradient_h, mean, root, norm)


@jit
def normact_forward(
    h: Any, x: Any, mean: Any, root: Any, norm: NormCode, phi: ActivationCode
) -> int:
    """x = phi(N(h)) into ``x``; pool statistics into ``mean``, ``root``.

    The statistics have the shape that ``statistics_shape`` says.
    Returns -1, or the first channel block with a denominator that is zero.
    """
    failed = -1
    columns = mean.shape[1]
    layout = pool_layout(columns, norm)
    if is_identity(norm):
        x[:] = h
    elif layout == COLUMNS:
        shape = (h.size // columns, columns)
        failed = pool_columns(h.reshape(shape), mean, root, norm)
        if failed < 0:
            quotient_columns(h.reshape(shape), x.reshape(shape), mean, root, norm)
    elif layout == SCATTERED:
        # Not in place: loops over one array as input and output would not vectorize.
        rows = gather_pools(h, norm)
        y = np.empty_like(rows)
        failed = _forward_rows(rows, y, mean.reshape(-1), root.reshape(-1), norm) // columns
        scatter_pools(y, x, norm)
    else:
        shape = (mean.size, h.size // mean.size)
        rows, y = h.reshape(shape), x.reshape(shape)
        failed = _forward_rows(rows, y, mean.reshape(-1), root.reshape(-1), norm) // columns
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
    In EvoNorm-B0 only entries with R > v h + instance std see the pool; the others see the instance.
    """
    columns = mean.shape[1]
    layout = pool_layout(columns, norm)
    if is_identity(norm):
        pull_activation(phi, h, gradient_x, gradient_h)
    elif layout == COLUMNS:
        shape = (h.size // columns, columns)
        rows, y, gradient = h.reshape(shape), np.empty(shape, h.dtype), gradient_h.reshape(shape)
        quotient_columns(rows, y, mean, root, norm)
        pull_activation(phi, y, gradient_x, gradient)
        pull_columns(rows, y, gradient, mean, root, norm)
    elif layout == SCATTERED:
        rows, delta = gather_pools(h, norm), gather_pools(gradient_x, norm)
        gradient = np.empty_like(rows)
        _backward_rows(rows, delta, gradient, mean.reshape(-1), root.reshape(-1), norm, phi)
        scatter_pools(gradient, gradient_h, norm)
    else:
        shape = (mean.size, h.size // mean.size)
        rows, gradient = h.reshape(shape), gradient_h.reshape(shape)
        _backward_rows(rows, gradient_x, gradient, mean.reshape(-1), root.reshape(-1), norm, phi)


@jit
def sum_of_squares(values: Any) -> float:
    """Sum of squares of a two-dimensional array, accumulated in float64."""
    total = 0.0
    flat = values.reshape(-1)
    for i in range(flat.size):
        total += np.float64(flat[i]) * np.float64(flat[i])
    return total


@jit
def sample_statistics(x: Any, squares: Any, positions: int = 1) -> float:
    """Sum of squares of each sample into ``squares`` (batch,); returns the activation variance.

    The variance (ddof = 0) is taken over samples and positions of each channel and averaged over
    channels.
    """
    channels, columns = x.shape
    column_squares = np.zeros(columns)
    total = 0.0
    for c in range(channels):
        row = x[c]
        mean = 0.0
        for b in range(columns):
            mean += np.float64(row[b])
        mean /= columns
        for b in range(columns):
            value = np.float64(row[b])
            column_squares[b] += value * value
            total += (value - mean) * (value - mean)
    for b in range(squares.size):
        squares[b] = column_squares[b * positions : (b + 1) * positions].sum()
    return total / (channels * columns)


@jit
def unit_samples(x: Any, squares: Any, unit: Any, positions: int = 1) -> float:
    """u_b = x_b/|x_b| into ``unit``; returns the mean of 1 - u_a.u_b over pairs a != b.

    A sample is one vector over channels and positions: ``unit`` has shape
    (channels * positions, batch), so that the Gram matrix is unit' unit.
    The mean gap is sum_b |u_b - mean(u)|^2 / (B - 1): no cancellation near 0.
    """
    batch = squares.size
    inverse = 1.0 / squares**0.5
    total = 0.0
    for c in range(len(x)):
        row = x[c]
        for s in range(positions):
            out = unit[c * positions + s]
            mean = 0.0
            for b in range(batch):
                out[b] = row[b * positions + s] * inverse[b]
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
