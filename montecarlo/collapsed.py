"""Collapsed Gaussian layers: W x and W' delta with exactly their law, without W.

Conditionally on x (n x B, rank r), x = Q R, the rows of a Gaussian W meet the batch only through
W Q = sigma_w/sqrt(n) Z, Z (n' x r) standard normal:

    h = W x = sigma_w/sqrt(n) Z R,
    W' delta = sigma_w/sqrt(n) (Q Z' delta + (I - Q Q') N R_delta),   delta = Q_delta R_delta,

with N (n x r_delta) standard normal and independent of everything before (theory notes, section 7).
O(n B^2) operations and O(n B) numbers a layer instead of O(n^2 B) and O(n^2).

Centered rows see C x, C = I - 11'/n; Q then lies in the range of C, and W' delta is centered too.
Normalized rows g/|g|: |g|^2 = |g Q|^2 + chi^2 with n - r (centered: n - 1 - r) degrees of freedom.
Their W' delta does not collapse, because the remainder's rows have prescribed norms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from montecarlo.compiled import row_sums
from montecarlo.jit import jit, jit_strict
from montecarlo.linear import DirectSampler, LinearMap
from montecarlo.normals import fill_standard_normal
from montecarlo.sampling import generator, seed_sequence
from theory.errors import HypothesisError, NumericalError
from theory.specs.weights import Weights

__all__ = [
    "CollapsedMap",
    "CollapsedSampler",
    "Frame",
    "collapses",
    "collapses_backward",
    "factorize",
]

Array = NDArray[Any]

# Squared sine of a sample's angle with the span of the others, below which the Gram matrix has lost
# too many digits for Cholesky (its entries are exact to some 1e-7 in float32, 1e-16 in float64).
_DEPENDENT = {"float32": 1e-2, "float64": 1e-6}

# Squares below have lost digits to underflow.
_SMALLEST = {"float32": 1e-30, "float64": 1e-290}

_DONE, _OUT_OF_RANGE, _DEPENDENT_COLUMNS = range(3)

# Keys of a layer's streams.
_ROWS, _REMAINDER, _NORMS = range(3)


def collapses_backward(weights: Weights) -> bool:
    """Whether W' delta collapses: Gaussian rows, centered or not, but not normalized ones."""
    return not weights.normalized


def collapses(fan_in: int, batch: int) -> bool:
    """Whether the batch, and a mean, leave a direction of the inputs free."""
    return fan_in > batch + 1


class Frame(NamedTuple):
    """x = Q R: Q = basis @ coefficients has orthonormal columns; R (r, B) in float64.

    ``dependent``: some columns vanish beside the others, or are nearly combinations of them.
    """

    basis: Array
    coefficients: Array
    triangle: Array
    dependent: bool = False

    @property
    def rank(self) -> int:
        """Number of orthonormal directions."""
        return len(self.triangle)


@jit_strict
def _contrast(value: Any, first: Any, share: Any) -> Any:
    return (value - first) - share


@jit_strict
def _from_contrast(value: Any, base: Any, share: Any) -> Any:
    return base + (value - share)


@jit
def _rotate(x: Any, out: Any, factors: Any) -> None:
    root, inverse, spread = factors[0], factors[1], factors[2]
    for c in range(x.shape[0]):
        row, new = x[c], out[c]
        first = row[0]
        total = first - first
        for b in range(row.size):
            total += row[b] - first
        share = total * spread
        for b in range(row.size):
            new[b] = _contrast(row[b], first, share)
        new[0] = root * first + total * inverse


@jit
def _rotate_back(x: Any, out: Any, factors: Any) -> None:
    inverse, spread = factors[1], factors[2]
    for c in range(x.shape[0]):
        row, new = x[c], out[c]
        base = row[0] * inverse
        total = row[0] - row[0]
        for b in range(1, row.size):
            total += row[b]
        share = total * spread
        for b in range(row.size):
            new[b] = _from_contrast(row[b], base, share)
        new[0] = base + total * inverse


def _rotated(x: Array) -> Array:
    """x H, H = H' = 1/H orthogonal with first column 1/sqrt(B): mean and contrasts of the samples.

    Nearly equal samples become columns of very different sizes, but well-conditioned directions;
    contrasts are formed from differences, so that they keep their relative precision.
    """
    out = np.empty_like(x)
    _rotate(x, out, _factors(x))
    return out


def _restored(x: Array) -> Array:
    """x H for mean and contrasts: the samples again; equal ones come out equal to the last bit."""
    out = np.empty_like(x)
    _rotate_back(x, out, _factors(x))
    return out


def _factors(x: Array) -> Array:
    root = math.sqrt(x.shape[1])
    spread = 1.0 / (x.shape[1] - root) if root > 1.0 else 0.0
    return np.array([root, 1.0 / root, spread], dtype=x.dtype)


@jit
def _triangulate(gram: Any, smallest: float, dependent: float, triangle: Any, inverse: Any) -> int:
    """Gram matrix -> R and R^-1, R'R = gram, by Cholesky of the unit columns' Gram matrix L L'.

    Compiled, because library calls on matrices this small are mostly overhead.
    """
    batch = len(gram)
    size = np.empty(batch)
    for i in range(batch):
        square = np.float64(gram[i, i])
        if not (square > smallest and square < math.inf):
            return _OUT_OF_RANGE
        size[i] = math.sqrt(square)
    lower = np.zeros((batch, batch))
    for i in range(batch):
        for j in range(i + 1):
            total = gram[i, j] / (size[i] * size[j])
            for k in range(j):
                total -= lower[i, k] * lower[j, k]
            if j < i:
                lower[i, j] = total / lower[j, j]
            elif total < dependent:
                return _DEPENDENT_COLUMNS
            else:
                lower[i, i] = math.sqrt(total)
    # x D^-1 = Q L' with D = diag(size): R = L' D, R^-1 = D^-1 L'^-1.
    for i in range(batch):
        for j in range(i + 1):
            triangle[j, i] = lower[i, j] * size[i]
            total = 1.0 if i == j else 0.0
            for k in range(j, i):
                total -= lower[i, k] * inverse[j, k]
            inverse[j, i] = total / lower[i, i]
    for i in range(batch):
        for j in range(i, batch):
            inverse[i, j] /= size[i]
    return _DONE


def factorize(x: Array) -> Frame:
    """x = Q R for rotated samples x (n x B), n >= B: Cholesky of the Gram matrix, or pivoted QR.

    Columns are brought to unit length first, so only their directions decide: the fast way serves
    unless a column is nearly a combination of the others.  Columns that vanish are left out.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        gram = x.T @ x
    triangle, inverse = np.zeros((2, *gram.shape))
    kind = str(x.dtype)
    outcome = _triangulate(gram, _SMALLEST[kind], _DEPENDENT[kind], triangle, inverse)
    if outcome == _OUT_OF_RANGE:
        return _rescaled(x)
    if outcome == _DEPENDENT_COLUMNS:
        return _pivoted(x, np.sqrt(np.diagonal(gram).astype(np.float64)))
    # What is left of equal or opposite samples may be rounding errors.
    squares = np.diagonal(gram)
    dependent = float(squares.min()) < float(np.finfo(x.dtype).eps) * float(squares.max())
    return Frame(x, inverse.astype(x.dtype), triangle, dependent)


def _rescaled(x: Array) -> Frame:
    """Columns first brought near 1 by powers of two: their squares would leave the format."""
    largest = np.abs(x).max(axis=0, initial=0.0)
    if not np.isfinite(largest).all():
        raise NumericalError(
            f"The samples of a layer overflow {x.dtype}: the network grows too fast for this "
            'format.  Use dtype="float64", fewer layers, or a smaller weight_variance.'
        )
    exponents = np.frexp(largest)[1].astype(np.int32)
    unit = np.ldexp(x, -exponents)
    if not largest.all():
        frame = _pivoted(unit, np.sqrt((unit**2).sum(axis=0, dtype=np.float64)))
    else:
        frame = factorize(unit)
    return frame._replace(triangle=np.ldexp(frame.triangle, exponents))


def _pivoted(x: Array, size: Array) -> Frame:
    """Rank-revealing: Householder QR with column pivoting of the unit columns."""
    batch = x.shape[1]
    present = np.flatnonzero(size)
    scaled = (x[:, present] / size[present]).astype(x.dtype)
    basis, triangle, order = linalg.qr(
        scaled, mode="economic", pivoting=True, overwrite_a=True, check_finite=False
    )
    pivots = np.abs(np.diagonal(triangle))
    smallest = batch * np.finfo(x.dtype).eps
    rank = int(np.count_nonzero(pivots > smallest))
    unpivoted = np.zeros((rank, batch))
    unpivoted[:, present[order]] = triangle[:rank] * size[present[order]]
    identity = np.eye(rank, dtype=x.dtype)
    return Frame(np.ascontiguousarray(basis[:, :rank]), identity, unpivoted, dependent=True)


def _distinct(x: Array) -> tuple[list[int], list[int], Array]:
    """(first, copies, signs): column b of x is signs[b] times column first[copies[b]], bit by bit."""
    places: dict[bytes, int] = {}
    first: list[int] = []
    copies: list[int] = []
    signs = np.ones(x.shape[1], dtype=x.dtype)
    for b, column in enumerate(np.ascontiguousarray(x.T) + 0.0):  # -0.0 + 0.0 is 0.0
        place = places.get(column.tobytes())
        opposite = None if place is not None else places.get((0.0 - column).tobytes())
        if opposite is not None:
            place, signs[b] = opposite, -1
        if place is None:
            place = places[column.tobytes()] = len(first)
            first.append(b)
        copies.append(place)
    return first, copies, signs


@dataclass
class CollapsedMap:
    """One layer's W, known only through what it does to one batch and to its gradients.

    Parameters
    ----------
    weights
        Scheme of the rows.
    fan_in, fan_out
        Shape of W.
    seed, key
        Of the layer's streams.
    keep
        Whether Z stays in memory; otherwise it is drawn again, from the same stream, backwards.
    """

    weights: Weights
    fan_in: int
    fan_out: int
    seed: int
    key: tuple[int, ...]
    keep: bool

    def forward(self, x: Array) -> Array:
        """h = sigma_w/sqrt(n) Z R; normalized rows: sigma_w Z R / |g|."""
        self._frame = frame = self._factorized(x)
        if frame.dependent:
            # Equal samples must stay equal: a network that expands would pull rounding errors apart.
            first, copies, signs = _distinct(x)
            if len(first) < len(copies):
                self._frame = frame = self._factorized(np.ascontiguousarray(x[:, first]))
                return np.ascontiguousarray(self._acted(frame, x.dtype)[:, copies] * signs)
        return self._acted(frame, x.dtype)

    def _factorized(self, x: Array) -> Frame:
        samples = _rotated(x)
        if self.weights.centered:
            samples -= samples.mean(axis=0, dtype=np.float64).astype(x.dtype)
        return factorize(samples)

    def _acted(self, frame: Frame, dtype: Any) -> Array:
        """W on the samples of ``frame``."""
        rows = self._normals(_ROWS, (self.fan_out, frame.rank), dtype)
        self._rows = rows if self.keep else None
        # Z (R H) and (Z R) H are equal, but R H would round the contrasts of nearly equal samples
        # alike in every row.
        h = rows @ (self._scale() * frame.triangle).astype(dtype)
        if self.weights.normalized:
            h /= self._row_norms(rows)
        return _restored(h)

    def backward(self, delta: Array) -> Array:
        """W' delta = sigma_w/sqrt(n) (Q (Z' delta - Q' y) + y), y = N R_delta (centered: C y)."""
        if not collapses_backward(self.weights):
            raise HypothesisError(
                f"W' delta of {self.weights.name} does not collapse: given W x, the rest of each row "
                'has a prescribed norm.  Use method="direct", or backward=False.'
            )
        frame = self._frame
        delta = _rotated(delta)
        rows = self._rows
        if rows is None:
            rows = self._normals(_ROWS, (self.fan_out, frame.rank), delta.dtype)
        triangle = factorize(delta).triangle
        remainder = self._normals(_REMAINDER, (self.fan_in, len(triangle)), delta.dtype)
        y = remainder @ (self._scale() * triangle).astype(delta.dtype)
        if self.weights.centered:
            y -= y.mean(axis=0, dtype=np.float64).astype(y.dtype)
        seen = delta.dtype.type(self._scale()) * (rows.T @ delta)
        seen -= frame.coefficients.T @ (frame.basis.T @ y)
        y += frame.basis @ (frame.coefficients @ seen)
        return _restored(y)

    def _scale(self) -> float:
        sigma = math.sqrt(self.weights.weight_variance)
        return sigma if self.weights.normalized else sigma / math.sqrt(self.fan_in)

    def _normals(self, stream: int, shape: tuple[int, int], dtype: Any) -> Array:
        out = np.empty(shape, dtype=dtype)
        fill_standard_normal(seed_sequence(self.seed, *self.key, stream), out)
        return out

    def _row_norms(self, rows: Array) -> Array:
        """|g| = sqrt(|g Q|^2 + chi^2) of each row, shape (fan_out, 1)."""
        sums, squares = np.empty((2, self.fan_out))
        row_sums(rows, sums, squares)
        unseen = self.fan_in - int(self.weights.centered) - rows.shape[1]
        squares += generator(self.seed, *self.key, _NORMS).chisquare(unseen, size=self.fan_out)
        return np.sqrt(squares)[:, None].astype(rows.dtype)


@dataclass(frozen=True)
class CollapsedSampler:
    """Layers collapse where the batch does not span their inputs; else every entry of W is drawn.

    Parameters
    ----------
    seed, key
        Layer l draws from ``SeedSequence(seed, spawn_key=(*key, l, stream))``.
    dtype
        ``"float64"`` or ``"float32"``.
    batch
        Samples.
    keep
        Whether random factors stay in memory until the backward pass; the numbers do not depend on it.
    """

    seed: int
    key: tuple[int, ...]
    dtype: str
    batch: int
    keep: bool = True

    def draw(self, weights: Weights, *, fan_in: int, fan_out: int, layer: int) -> LinearMap:
        """The map of layer ``layer``; a collapsed one draws when it meets its batch."""
        if not collapses(fan_in, self.batch):
            direct = DirectSampler(self.seed, self.key, self.dtype)
            return direct.draw(weights, fan_in=fan_in, fan_out=fan_out, layer=layer)
        return CollapsedMap(weights, fan_in, fan_out, self.seed, (*self.key, layer), self.keep)
