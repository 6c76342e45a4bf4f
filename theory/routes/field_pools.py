r"""Normalizers on sampled fields: N(h) over (channels of a group, samples, positions), and its Jacobian.

    dN = diag(local) A dh - sum_k b_k (w_k . dh),

one rank for every statistic k that depends on h: one for all rows (BN, VN), one for every sample (GN,
IN, FRN), both for EvoNorm-B0, h/max(R, v h + f) with the instance's std f.  A subtracts the mean of the
pool.  Over all channels of the layer R is a number, mean over positions of q, and there is no such rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from theory.specs.normalizers import Normalizer

__all__ = ["FieldPool", "Term", "normalize_field", "project", "projected"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Term:
    """b and w of one statistic, shape (points, channels, rows of ``rows``)."""

    rows: slice
    strength: FloatArray
    direction: FloatArray


@dataclass(frozen=True)
class FieldPool:
    """N(h) and diag(local), shape (points, channels, rows), and the terms of the Jacobian."""

    normalized: FloatArray
    local: FloatArray
    terms: tuple[Term, ...]


def normalize_field(
    h: FloatArray, norm: Normalizer | None, *, batch: int, level: FloatArray | None
) -> FieldPool:
    """Normalize h of shape (points, channels of a group, rows), rows = (sample, position).

    ``level``: R^2 of every row for pools over all channels, whose R is a number; else None.
    """
    points, channels, rows = h.shape
    if norm is None:
        return FieldPool(h, np.ones_like(h), ())
    if level is not None:
        inverse = 1.0 / np.sqrt(level)
        value, slope = _numerator(h, norm)
        return FieldPool(value * inverse, slope * inverse, ())
    shape = (points, channels, batch, rows // batch)
    field = h.reshape(shape)
    axes = _axes(norm)
    deviation = field - field.mean(axis=axes, keepdims=True)
    value = deviation if norm.centered else field
    if norm.denominator == "none":
        return FieldPool(value.reshape(h.shape), np.ones_like(h), ())
    source = field if norm.denominator == "rms" else deviation
    divisor = norm.divisor(batch=batch, positions=shape[3])
    root = np.sqrt((source * source).sum(axis=axes, keepdims=True) / divisor + norm.eps)
    direction = (source / (divisor * root)).reshape(h.shape)
    if norm.denominator == "evonorm_b0":
        return _evonorm_b0(field, root, direction, norm)
    numerator, slope = _numerator(value, norm)
    normalized = numerator / root
    strength = (normalized / root).reshape(h.shape)
    terms = tuple(
        Term(part, strength[:, :, part], direction[:, :, part])
        for part in _parts(norm.pool.samples, batch, rows)
    )
    return FieldPool(normalized.reshape(h.shape), (slope / root).reshape(h.shape), terms)


def _evonorm_b0(
    field: FloatArray, root: FloatArray, direction: FloatArray, norm: Normalizer
) -> FieldPool:
    """h/D, D = max(R, l), l = v h + f: entries with D = R pull on R, the others on f."""
    assert norm.gate is not None
    shape = (*field.shape[:2], field.shape[2] * field.shape[3])
    deviation = field - field.mean(axis=3, keepdims=True)
    divisor = field.shape[3] - norm.ddof
    # One position has no variance: f is sqrt(eps), and nothing pulls on it.
    variance = (deviation * deviation).sum(axis=3, keepdims=True) / max(divisor, 1)
    std = np.sqrt(variance + norm.eps)
    linear = norm.gate * field + std
    batchwise = root >= linear
    denominator = np.where(batchwise, root, linear)
    normalized = field / denominator
    local = np.where(batchwise, 1.0 / root, std / denominator**2).reshape(shape)
    on_root = np.where(batchwise, normalized / root, 0.0).reshape(shape)
    on_std = np.where(batchwise, 0.0, normalized / denominator).reshape(shape)
    inside = np.divide(
        deviation, divisor * std, out=np.zeros_like(deviation), where=(std > 0.0) & (divisor > 0)
    ).reshape(shape)
    terms = [Term(slice(0, shape[2]), on_root, direction)]
    terms += [
        Term(part, on_std[:, :, part], inside[:, :, part])
        for part in _parts(False, field.shape[2], shape[2])
    ]
    return FieldPool(normalized.reshape(shape), local, tuple(terms))


def projected(field: FloatArray, norm: Normalizer | None, *, batch: int) -> FloatArray:
    """A u: the pool's mean subtracted, for finite pools with a centered numerator."""
    if not _centers(norm):
        return field
    assert norm is not None
    split = field.reshape(*field.shape[:2], batch, -1)
    return (split - split.mean(axis=_axes(norm), keepdims=True)).reshape(field.shape)


def project(
    matrix: FloatArray, norm: Normalizer | None, *, batch: int, channels: int
) -> FloatArray:
    """Mean over g of the (g, g) block of A (I_G x X) A: X with the means of each pool's block taken out."""
    if not _centers(norm):
        return matrix
    assert norm is not None
    if norm.pool.samples:
        batch = 1
    size = len(matrix) // batch
    blocks = matrix.reshape(batch, size, batch, size)
    column = blocks.sum(axis=1, keepdims=True) / (channels * size)
    row = blocks.sum(axis=3, keepdims=True) / (channels * size)
    total = blocks.sum(axis=(1, 3), keepdims=True) / (channels * size**2)
    return np.asarray((blocks - column - row + total).reshape(matrix.shape))


def _centers(norm: Normalizer | None) -> bool:
    return norm is not None and norm.centered and norm.pool.channels != math.inf


def _axes(norm: Normalizer) -> tuple[int, ...]:
    """Of (points, channels, samples, positions) those that a pool runs over."""
    return (2, 3) if norm.pool.samples else (1, 3)


def _parts(samples: bool, batch: int, rows: int) -> list[slice]:
    """Rows that share a statistic."""
    if samples:
        return [slice(0, rows)]
    size = rows // batch
    return [slice(low, low + size) for low in range(0, rows, size)]


def _numerator(value: FloatArray, norm: Normalizer) -> tuple[FloatArray, FloatArray]:
    """n(h) and n'(h): h itself, or h sigmoid(v h)."""
    if norm.gate is None:
        return value, np.ones_like(value)
    gate = special.expit(norm.gate * value)
    return value * gate, gate * (1.0 + norm.gate * value * (1.0 - gate))
