r"""Matrices over samples x positions that no permutation of either changes: four entries, four modes.

h_ap, a = 1..B a sample, p = 1..S a position.  What is invariant under permutations of the samples and
of the positions is spanned by I x I, I x (J-I), (J-I) x I, (J-I) x (J-I), entries

    q  same sample and position,   w  other position,   b  other sample,   x  both other.

Products and Hadamard products stay in this commutative algebra, so the Stein form of
``laplace_backward`` is arithmetic of four numbers, at a cost that does not depend on B and S.  The four
eigenvalues (theory notes, section 3, "Exchangeable states diagonalise") are kept per copy,

    mode      copies  n_k    multiplicity m_k    a_k = n_k lambda_k/(B S)
    mean              1      1                   q/(BS) + (1-1/S) w/B + (1-1/B) b/S + (1-1/B)(1-1/S) x
    position          S      S-1                 (q-w)/B + (1-1/B)(b-x)
    sample            B      B-1                 (q-b)/S + (1-1/S)(w-x)
    both              B S    (B-1)(S-1)          q-w-b+x

because these *components* have limits for B = inf or S = inf, and every distance is a sum of them:

    q = sum_k (m_k/n_k) a_k,   q-w = a_p + (1-1/B) a_ps,   q-b = a_s + (1-1/S) a_ps,
    q-x = a_p + a_s + (1-1/B-1/S) a_ps.

**Which numbers are the primaries.**  A state carries the gaps 1-w/q, 1-b/q, 1-x/q: no gap of a result
is ever a difference.  Components are differences of gaps: they are computed exactly from the given
floating-point numbers and rounded once.  If gap_w is far below gap_b (or the other way round), gap_x
says nothing about how gap_w divides into a_p and a_ps; what depends on that alone is of relative size
gap_w/(S gap_b) unless the large modes have rank three or less (B <= 4: then rounding of gap_x is
seen).
The contrasts b-x and w-x are carried along next to the components, so that b = x and w = x stay exact.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.errors import out_of_domain

__all__ = ["Components", "Rectangle", "components_of_gaps", "exact_components", "rectangle"]

FloatArray = NDArray[np.float64]

_EPSILON = float(np.finfo(np.float64).eps)
# Nearer than this to the end of its interval, gap_x is taken to be at the end: a mode is absent.
_SNAP = 4.0 * _EPSILON
# Farther than this outside of its interval the numbers belong to no covariance.
_OUTSIDE = 1e-9
# A variance of the mean, in units of q, that counts as zero.
_STILL = 4e-15


class Rectangle(NamedTuple):
    """Constants of B samples and S positions; arrays in the order mean, position, sample, both.

    ``copies`` n_k, ``multiplicity`` m_k, ``inward`` m_k/n_k; ``to_components`` (4, 4) maps entries
    (q, w, b, x) to components, ``to_entries`` back.  Row 0 of the former averages over all entries.
    """

    batch: float
    positions: float
    copies: FloatArray
    multiplicity: FloatArray
    inward: FloatArray
    to_components: FloatArray
    to_entries: FloatArray

    @property
    def exists(self) -> tuple[bool, bool, bool, bool]:
        """Whether there are entries q, w, b, x at all: with one sample or one position some are not."""
        return (
            True,
            self.positions > 1,
            self.batch > 1,
            self.batch > 1 and self.positions > 1,
        )


class Components(NamedTuple):
    """a_k in units of q, and the contrasts (b-x)/q and (w-x)/q."""

    value: FloatArray
    by_position: float
    by_sample: float


@lru_cache(maxsize=256)
def rectangle(batch: float, positions: float) -> Rectangle:
    """B samples x S positions, each an integer >= 1 or ``math.inf``, two activations at least."""
    for name, count in (("batch", batch), ("positions", positions)):
        if not count >= 1 or (count != math.inf and count % 1):
            raise out_of_domain(name, count, "an integer >= 1 or inf", "count samples, positions")
    if batch * positions < 2:
        raise out_of_domain(
            "batch, positions",
            (batch, positions),
            "two activations together",
            "one activation is its own mean; add samples or positions",
        )
    i, j = 1.0 / batch, 1.0 / positions
    b, s = 1.0 - i, 1.0 - j
    return Rectangle(
        batch,
        positions,
        np.array([1.0, positions, batch, batch * positions]),
        np.array([1.0, positions - 1.0, batch - 1.0, _product(batch - 1.0, positions - 1.0)]),
        np.array([1.0, s, b, b * s]),
        np.array([[i * j, s * i, b * j, b * s], [i, -i, b, -b], [j, s, -j, -s], [1, -1, -1, 1]]),
        np.array([[1, s, b, b * s], [1, -j, b, -b * j], [1, s, -i, -s * i], [1, -j, -i, i * j]]),
    )


def _product(one: float, other: float) -> float:
    return one * other if one and other else 0.0


def components_of_gaps(
    gap_w: float, gap_b: float, gap_x: float, *, shape: Rectangle
) -> tuple[Components, Components | None]:
    """a_k and contrasts in units of q, each rounded once; and the same without snapping, if that differs.

    The four numbers are a covariance iff gap_x lies in

        [max(gap_b - gap_w/(B-1), gap_w - gap_b/(S-1)), gap_w + gap_b].

    gap_x is projected on it; within a few units of its last place it is taken to be at the end, where
    the mode "position", "sample" or "both" vanishes.  Gaps that do not exist are ignored.

    Raises
    ------
    SpecificationError
        A gap outside [0, 2] or no covariance.
    """
    if shape.positions == 1:
        gap_w, gap_x = 0.0, gap_b
    elif shape.batch == 1:
        gap_b, gap_x = 0.0, gap_w
    for name, gap in (("gap_w", gap_w), ("gap_b", gap_b), ("gap_x", gap_x)):
        if not 0.0 <= gap <= 2.0 * (1.0 + _OUTSIDE):
            raise out_of_domain(name, gap, "in [0, 2]", "pass 1 - correlation")
    w, b, x = Fraction(gap_w), Fraction(gap_b), Fraction(gap_x)
    if 1 in (shape.batch, shape.positions):
        return _components(w, b, x, shape=shape), None
    low = max(b - w * _inverse(shape.batch - 1), w - b * _inverse(shape.positions - 1))
    high = w + b
    slack = Fraction(_OUTSIDE) * high
    if not low - slack <= x <= high + slack:
        raise out_of_domain(
            "gap_x",
            gap_x,
            f"in [{float(low):.17g}, {float(high):.17g}], or the four numbers are no covariance "
            f"(gap_w = {gap_w!r}, gap_b = {gap_b!r})",
            "check which gap belongs to positions and which to samples",
        )
    x = min(max(x, low), high)
    near = Fraction(_SNAP) * high
    snapped = x
    if high - low > 64 * near:
        snapped = low if x - low <= near else high if high - x <= near else x
    plain = _components(w, b, snapped, shape=shape)
    return plain, None if snapped == x else _components(w, b, x, shape=shape)


def _components(w: Fraction, b: Fraction, x: Fraction, *, shape: Rectangle) -> Components:
    """From exact gaps."""
    i, j = _inverse(shape.batch), _inverse(shape.positions)
    mean = 1 - ((1 - j) * (i * w + (1 - i) * x) + (1 - i) * j * b)
    if mean < -_OUTSIDE:
        raise out_of_domain(
            "gap_w, gap_b, gap_x",
            (float(w), float(b), float(x)),
            "the gaps of a covariance: here the mean would have negative variance",
            "check the inputs",
        )
    by_position, by_sample, both = x - b, x - w, w + b - x
    value = np.array(
        [
            float(mean) if mean > _STILL else 0.0,
            float(by_position + i * both),
            float(by_sample + j * both),
            float(both),
        ]
    )
    return Components(value, float(by_position), float(by_sample))


def exact_components(entries: tuple[float, ...], *, shape: Rectangle) -> FloatArray:
    """Components of a matrix with these entries (q, w, b, x), each rounded once."""
    q, w, b, x = (Fraction(entry) for entry in entries)
    i, j = _inverse(shape.batch), _inverse(shape.positions)
    across, within = b - x, q - w
    mean = i * (j * q + (1 - j) * w) + (1 - i) * (j * b + (1 - j) * x)
    position = i * within + (1 - i) * across
    sample = j * (q - b) + (1 - j) * (w - x)
    return np.array([float(mean), float(position), float(sample), float(within - across)])


@lru_cache(maxsize=256)
def _inverse(count: float) -> Fraction:
    return Fraction(0) if count == math.inf else 1 / Fraction(count)
