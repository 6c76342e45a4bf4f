"""1 - cosine of rows and of covariances, to full relative precision however small it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["covariance_gaps", "row_gaps"]

FloatArray = NDArray[np.float64]


def row_gaps(rows: FloatArray) -> FloatArray:
    """1 - <x_a, x_b>/(|x_a| |x_b|) of all pairs of rows, (B, d) -> (B, B); 1 where a row is zero.

    From the part of x_b that is orthogonal to x_a: sin^2/(1 + cos).  Rows that are proportional up
    to rounding differ by the rounding.
    """
    # By powers of two, so that squares neither overflow nor vanish.
    rows = np.ldexp(rows, -np.frexp(np.abs(rows).max(axis=1, keepdims=True))[1])
    square = np.einsum("ai,ai->a", rows, rows)
    some = np.where(square > 0.0, square, 1.0)
    sine, cosine = np.empty((2, len(rows), len(rows)))
    for a, row in enumerate(rows):
        product = rows @ row
        along, rest = _product((product / some[a])[:, None], row)
        apart = rows - along - rest
        apart -= np.outer(apart @ row / some[a], row)
        sine[a] = np.einsum("bi,bi->b", apart, apart) / some
        cosine[a] = product / np.sqrt(some[a] * some)
    gap = np.triu(_gap(sine, cosine), 1)
    gap += gap.T
    none = square == 0.0
    gap[none], gap[:, none] = 1.0, 1.0
    np.fill_diagonal(gap, 0.0)
    return gap


def covariance_gaps(covariance: FloatArray) -> FloatArray:
    """1 - K_ab/sqrt(K_aa K_bb), (B, B) -> (B, B), from K_aa K_bb - K_ab^2 with exact products."""
    exponent = np.frexp(np.diagonal(covariance))[1] // 2
    scaled = np.ldexp(np.ldexp(covariance, -exponent[:, None]), -exponent)
    diagonal = np.diagonal(scaled)
    size, size_rest = _product(diagonal[:, None], diagonal)
    square, square_rest = _product(scaled, scaled)
    sine = np.maximum((size - square) + (size_rest - square_rest), 0.0) / size
    gap = np.minimum(_gap(sine, scaled / np.sqrt(size)), 2.0)
    np.fill_diagonal(gap, 0.0)
    return gap


def _gap(squared_sine: FloatArray, cosine: FloatArray) -> FloatArray:
    return np.where(cosine > 0.0, squared_sine / (1.0 + np.clip(cosine, 0.0, 1.0)), 1.0 - cosine)


def _product(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """a b rounded, and its rounding error (Dekker 1971): their sum is exact."""
    product = a * b
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


def _halves(a: FloatArray) -> tuple[FloatArray, FloatArray]:
    shifted = 134217729.0 * a  # 2^27 + 1
    high = shifted - (shifted - a)
    return high, a - high
