r"""Convolutions, poolings and flattenings as operations on covariances over (sample, position).

A table says which input position every output position sees at every offset o, -1 for a zero beyond
the border.  A linear map with fresh weights averages over offsets, A; a pooling mixes positions, P:

    A[K]_tt' = (1/k^d) sum_o K_{o(t) o(t')},      Pi_in = (1/k^d) sum_o (Pi scattered back along o),
    P K P',                                       P' Pi P.

Gaps are kept, not correlations: with the unit vectors u_t = (sqrt q_{o(t)})_o/|.| the gap of A[K] is
sum_o (u_to - u_t'o)^2/2 + sum_o u_to u_t'o gap_{o(t) o(t')}, positive terms only.  Gradients are those of
all channels together, n Pi, which channel counts leave alone.  Source: theory notes, section 1.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from theory.states.full import squared_distances

__all__ = ["averaged", "pooled", "pooled_back", "pooling", "scattered", "windows"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_EPSILON = float(np.finfo(np.float64).eps)


@lru_cache(maxsize=256)
def windows(shape: tuple[int, ...], *, kernel: int, padding: str, stride: int) -> IntArray:
    """Input position seen by every output, (offsets, outputs), -1 beyond the border.

    Parameters
    ----------
    shape
        Sides of the input.
    kernel, padding, stride
        As in ``Layer``; padding ``"none"``: windows that begin at the output's position and end within
        the sides.
    """
    seen = np.zeros((1, 1), dtype=np.int64)
    first = 0 if padding == "none" else -((kernel - 1) // 2)
    for side in shape:
        outputs = (side - kernel) // stride + 1 if padding == "none" else -(-side // stride)
        line = np.add.outer(np.arange(first, first + kernel), stride * np.arange(outputs))
        line = line % side if padding == "circular" else line
        outside = (line < 0) | (line >= side)
        both = seen[:, None, :, None] * side + line[None, :, None, :]
        beyond = (seen < 0)[:, None, :, None] | outside[None, :, None, :]
        seen = np.where(beyond, -1, both).reshape(len(seen) * kernel, -1)
    seen.flags.writeable = False
    return seen


@lru_cache(maxsize=256)
def pooling(shape: tuple[int, ...], size: int | None) -> FloatArray:
    """P (outputs, positions): means over windows of ``size``; over everything for None."""
    positions = math.prod(shape)
    if size is None:
        return np.full((1, positions), 1.0 / positions)
    table = windows(shape, kernel=size, padding="none", stride=size)
    matrix = np.zeros((table.shape[1], positions))
    matrix[np.arange(table.shape[1]), table] = 1.0 / len(table)
    return matrix


def averaged(
    second_moment: FloatArray, gap: FloatArray, mean: FloatArray, table: IntArray, *, batch: int
) -> tuple[FloatArray, FloatArray, FloatArray, float]:
    """(q, gap, mean, rounding) of A[K] and A m for rows (sample, position), samples outermost.

    A row that sees nothing but zeros has q = 0, and gap 1 by convention.  ``rounding`` is the relative
    error of the gaps, whose squared differences of lengths are known to the rounding of the lengths.
    """
    offsets = len(table)
    rows = _rows(table, batch=batch, positions=second_moment.size // batch)
    extended = np.append(second_moment, 0.0)[rows]
    q = extended.sum(axis=0) / offsets
    unit = np.sqrt(np.divide(extended, offsets * q, out=np.zeros_like(extended), where=q > 0.0))
    result, lost = np.zeros((2, q.size, q.size))
    for place, u in zip(rows, unit, strict=True):
        apart = np.subtract.outer(u, u)
        result += 0.5 * apart**2
        lost += np.abs(apart) * np.maximum.outer(u, u)
        seen = np.flatnonzero(u)
        source = place[seen]
        result[np.ix_(seen, seen)] += np.outer(u[seen], u[seen]) * gap[np.ix_(source, source)]
    some = result > 0.0
    rounding = 4.0 * _EPSILON * float((lost[some] / result[some]).max(initial=0.0))
    return q, _tidied(result, q), np.append(mean, 0.0)[rows].sum(axis=0) / offsets, rounding


def scattered(gradient: FloatArray, table: IntArray, *, batch: int, positions: int) -> FloatArray:
    """Adjoint of A: every offset takes Pi back to what it has seen."""
    result = np.zeros((batch * positions,) * 2)
    for place in _rows(table, batch=batch, positions=positions):
        inside = np.flatnonzero(place < batch * positions)
        # One offset never shows one position to two outputs, so nothing is added twice.
        target = place[inside]
        result[np.ix_(target, target)] += gradient[np.ix_(inside, inside)]
    return result / len(table)


def pooled(
    second_moment: FloatArray, gap: FloatArray, mean: FloatArray, matrix: FloatArray, *, batch: int
) -> tuple[FloatArray, FloatArray, FloatArray, float]:
    """(q, gap, mean, rounding) of P x; ``rounding`` is the relative error of the gaps.

    Rows of P have one sum, so distances come from distances, C = P D P': D'_tt' = C_tt' - (C_tt +
    C_t't')/2, which cancels where samples differ much less than the positions that are pooled.
    """
    every = np.kron(np.eye(batch), matrix)
    root = np.sqrt(second_moment)
    distance = squared_distances(second_moment, gap)
    mixed = every @ distance @ every.T
    own = np.diagonal(mixed)
    q = every**2 @ second_moment  # the diagonal of P K P', its cross terms follow
    cross = np.outer(root, root) * (1.0 - gap)
    np.fill_diagonal(cross, 0.0)
    q = q + np.einsum("ti,ij,tj->t", every, cross, every, optimize=True)
    q = np.maximum(q, 0.0)
    spread = np.maximum(mixed - 0.5 * (own[:, None] + own), 0.0)
    new_root = np.sqrt(q)
    product = np.outer(new_root, new_root)
    excess = spread - np.subtract.outer(new_root, new_root) ** 2
    value = np.divide(0.5 * excess, product, out=np.ones_like(excess), where=product > 0.0)
    # Beside rows of vanishing size others' rounding is no distance.
    apart = spread[spread > 1e-30 * mixed.max()]
    rounding = 8.0 * _EPSILON * float(mixed.max() / apart.min()) if apart.size else 0.0
    return q, _tidied(value, q), every @ mean, rounding


def pooled_back(gradient: FloatArray, matrix: FloatArray, *, batch: int) -> FloatArray:
    """P' Pi P."""
    every = np.kron(np.eye(batch), matrix)
    return np.asarray(every.T @ gradient @ every)


def _rows(table: IntArray, *, batch: int, positions: int) -> IntArray:
    """The table for rows (sample, position); one row beyond the last stands for a zero."""
    start = positions * np.arange(batch)[:, None]
    rows = np.where(table[:, None, :] >= 0, start + table[:, None, :], batch * positions)
    return np.asarray(rows.reshape(len(table), -1))


def _tidied(gap: FloatArray, q: FloatArray) -> FloatArray:
    """Within [0, 2], 1 where a row is zero, 0 on the diagonal."""
    gap = np.clip(gap, 0.0, 2.0)
    none = q == 0.0
    gap[none], gap[:, none] = 1.0, 1.0
    np.fill_diagonal(gap, 0.0)
    return gap
