r"""E[f(r)] = int f(r) p(r | c, n) dr, r the sample correlation of n-dimensional pairs (Hotelling 1953).

Two centered and normalized groups make an angle theta with cos theta = r, Hotelling-distributed with
n = rank of the pool (theory notes, section 3, Pearson identity).  With r = tanh z, c = tanh zeta and
t = z - zeta the density becomes, up to a constant that depends on n only,

    sech(t)^(n-1/2) sqrt(A) F(y) dt,    A = cosh(z)/cosh(zeta) = [(2 - gap) e^t + gap e^-t] / 2,
    1 - r = gap e^-t / A,               y^2 = (1 - c r)/2 = gap (2 - gap) cosh(t) / (2 A),

F(y) = 2F1(1/2, 1/2; n + 1/2; 1 - y^2).  Only sums of positive terms occur, so nothing cancels as
c -> 1, and t does not move with c, so the derivative in gap is taken under the integral without loss.
Everything is analytic in |Im t| < pi/2: the trapezoidal rule converges geometrically.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.errors import out_of_domain
from theory.routes.arccosine import angle

__all__ = ["expect", "expect_slope"]

FloatArray = NDArray[np.float64]
Function = Callable[[FloatArray, FloatArray], FloatArray]

_LOG_TOLERANCE = 41.0  # e^-41 = 1.6e-18: what the ends and the spacing are designed for
_ROUNDING = 2e-15
_ZETA_STEP = 16.0
_CHUNK = 2048
_FIRST_GAP = 1e-300
_LAST_GAP = 2.0 - 2.0**-52


def expect(function: Function, gap: ArrayLike, *, rank: int) -> tuple[FloatArray, FloatArray]:
    """E[f(1 - r, theta)], r = cos(theta) ~ Hotelling(c = 1 - gap, n = rank).

    Source: theory notes, section 3.  Full relative precision for f >= 0 as gap -> 0.  The error does
    not cover the rounding of f itself.

    Parameters
    ----------
    function
        f(one_minus_r, theta) on arrays, analytic in theta on [0, pi].
    gap
        1 - c in [0, 2], any shape.
    rank
        n >= 1; for n = 1, r = -1 with probability arccos(c)/pi, else +1.

    Returns
    -------
    value, rel_error
        Arrays of the shape of ``gap``; the error is relative to ``value``.

    Raises
    ------
    SpecificationError
        A gap outside [0, 2] or a rank below 1.
    """
    gaps = _checked(gap, rank)
    if rank == 1:
        flip = angle(gaps) / np.pi
        same, opposite = _at_ends(function)
        value = np.asarray(same * (1.0 - flip) + opposite * flip)
        return value, np.full_like(value, _ROUNDING)
    return _by_chunks(lambda part: _expect(function, part, rank), gaps)


def expect_slope(
    function: Function, derivative: Function, gap: ArrayLike, *, rank: int
) -> tuple[FloatArray, FloatArray]:
    """d/dgap E[f(1 - r, theta)], r ~ Hotelling(1 - gap, rank).

    Source: theory notes, section 3; differentiated under the integral in t = arctanh r - arctanh c.

    Parameters
    ----------
    function, derivative
        f(one_minus_r, theta), f(0, 0) = 0, and df/d(one_minus_r), on arrays.
    gap
        1 - c in [0, 2], any shape.
    rank
        n >= 1.  As gap -> 0 the derivative tends to f'(0) (n - 1)/(n - 2): infinite for n = 2
        (logarithmically; also at gap = 2 unless f' vanishes); for n = 1 it diverges as gap^(-1/2).

    Returns
    -------
    value, rel_error
        Arrays of the shape of ``gap``.
    """
    gaps = _checked(gap, rank)
    if rank == 1:
        same, opposite = _at_ends(function)
        with np.errstate(divide="ignore"):
            value = np.asarray((opposite - same) / (np.pi * np.sqrt(gaps * (2.0 - gaps))))
        return value, np.full_like(value, _ROUNDING)
    # For n = 2 the limit at c = -1 is not the value at the limit (finite if f' vanishes there).
    inner = np.clip(gaps, _FIRST_GAP, _LAST_GAP) if rank == 2 else gaps
    value, error = _by_chunks(lambda part: _expect_slope(function, derivative, part, rank), inner)
    if rank == 2:
        for end, at in zip((0.0, 2.0), _at_ends(derivative), strict=True):
            infinite = (gaps == end) & (abs(at) > 1e-12)
            value = np.where(infinite, math.copysign(math.inf, at), value)
            error = np.where(infinite, 0.0, error)
    return value, error


def _checked(gap: ArrayLike, rank: int) -> FloatArray:
    gaps = np.asarray(gap, dtype=np.float64)
    if rank < 1:
        raise out_of_domain("rank", rank, "an integer >= 1", "pool more activations")
    if not np.all((gaps >= 0.0) & (gaps <= 2.0)):
        raise out_of_domain("gap", gap, "1 - correlation in [0, 2]", "clip rounding errors")
    return gaps


def _at_ends(function: Function) -> tuple[float, float]:
    same = function(np.zeros(1), np.zeros(1))
    return float(same[0]), float(function(np.full(1, 2.0), np.full(1, np.pi))[0])


def _by_chunks(
    compute: Callable[[FloatArray], tuple[FloatArray, FloatArray]], gaps: FloatArray
) -> tuple[FloatArray, FloatArray]:
    if gaps.size <= _CHUNK:
        value, error = compute(gaps.reshape(-1))
    else:
        flat = gaps.reshape(-1)
        parts = [compute(flat[i : i + _CHUNK]) for i in range(0, flat.size, _CHUNK)]
        value, error = (np.concatenate(column) for column in zip(*parts, strict=True))
    return value.reshape(gaps.shape), error.reshape(gaps.shape)


def _expect(function: Function, gap: FloatArray, rank: int) -> tuple[FloatArray, FloatArray]:
    grid = _grid_for(rank, gap)
    law = _Law(grid, gap[:, None])
    terms = law.weight * function(law.one_minus_r, law.theta)
    return grid.estimate(terms, law.mass)


def _expect_slope(
    function: Function, derivative: Function, gap: FloatArray, rank: int
) -> tuple[FloatArray, FloatArray]:
    grid = _grid_for(rank, gap)
    law = _Law(grid, gap[:, None])
    # d(1-r)/dgap = 1/A^2; the logarithmic derivative of the weight multiplies f itself.
    inner = derivative(law.one_minus_r, law.theta) / law.a / law.a
    # That derivative has mean 0: subtracting f at the nearer end leaves nothing large to cancel.
    f = function(law.one_minus_r, law.theta)
    if (far := gap > 1.0).any():
        _, opposite = _at_ends(function)
        f = f - np.where(far, opposite, 0.0)[:, None]
    outer = f * law.log_weight_slope()
    return grid.estimate(law.weight * (inner + outer), law.mass)


@dataclass(frozen=True)
class _Grid:
    """Trapezoidal nodes t and what depends on them and on n alone."""

    up: FloatArray  # e^t
    down: FloatArray  # e^-t
    cosh: FloatArray
    sinh: FloatArray
    kernel: FloatArray  # sech(t)^(n - 1/2), scaled so that the density sums to 1
    hypergeometric: FloatArray
    hypergeometric_slope: FloatArray
    log_error: float  # logarithm of the designed relative error with all nodes ...
    log_error_half: float  # ... and with every other node

    def estimate(self, terms: FloatArray, mass: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Sum of the terms over the mass, with the error from every other node and the mass defect."""
        total = terms.sum(axis=-1)
        size = np.abs(terms).sum(axis=-1)
        # The rule with half the nodes is off by about e^log_error_half, ours by the known fraction of it;
        # where it is off by more, f is less smooth than designed for: then errors square only.
        coarse = np.abs(2.0 * terms[..., ::2].sum(axis=-1) - total)
        ratio = coarse / np.maximum(size, _FIRST_GAP)
        designed = 10.0 * ratio * math.exp(self.log_error - self.log_error_half)
        rough = ratio > 100.0 * math.exp(self.log_error_half)
        relative = np.where(rough, np.minimum(ratio, 10.0 * ratio**2), designed)
        relative = relative + np.abs(mass - 1.0) + _ROUNDING
        # Sums that cancel lose what they cancel; a sum of zeros loses nothing.
        loss = np.maximum(size, _FIRST_GAP) / np.maximum(np.abs(total), _FIRST_GAP)
        return total / mass, relative * loss


class _Law:
    """Hotelling's density at the nodes of a grid, for a column of gaps."""

    def __init__(self, grid: _Grid, gap: FloatArray) -> None:
        self.grid = grid
        self.gap = gap
        self.rest = 2.0 - gap
        self.a = 0.5 * (self.rest * grid.up + gap * grid.down)
        self.ratio = grid.cosh / self.a
        self.y = np.sqrt((0.5 * gap * self.rest) * self.ratio)
        self.f = _polynomial(grid.hypergeometric, self.y)
        self.weight = grid.kernel * np.sqrt(self.a) * self.f
        self.mass = self.weight.sum(axis=-1)
        self.one_minus_r = gap * grid.down / self.a
        # tan(theta/2) = e^-z; the angle of 1 - r loses half its digits at r = -1, this one does not.
        tangent = np.sqrt(gap) * grid.down
        self.theta = 2.0 * np.arctan2(tangent, np.sqrt(self.rest))

    def log_weight_slope(self) -> FloatArray:
        """d log[sqrt(A) F(y)] / dgap = -sinh t/(2A) + (F'(y)/y) (dy^2/dgap) / (2F)."""
        grid = self.grid
        lean = grid.sinh / self.a
        square_slope = self.ratio * ((1.0 - self.gap) + 0.5 * (self.gap * self.rest) * lean)
        inner = _polynomial(grid.hypergeometric_slope, self.y)
        slope: FloatArray = 0.5 * (inner * square_slope / self.f - lean)
        return slope


def _grid_for(rank: int, gap: FloatArray) -> _Grid:
    """Rank 2 alone has tails that reach out to r = 0 as |c| -> 1: its grid grows with |zeta|."""
    if rank > 2:
        return _grid(rank, 0)
    distance = np.minimum(gap, 2.0 - gap)
    smallest = max(float(distance.min(initial=1.0, where=distance > 0.0)), _FIRST_GAP)
    return _grid(rank, math.ceil(0.5 * math.log((2.0 - smallest) / smallest) / _ZETA_STEP))


@lru_cache(maxsize=256)
def _grid(rank: int, zeta_steps: int) -> _Grid:
    power = rank - 0.5
    spacing, log_error, log_error_half = _spacing(rank + 1.5)
    # f = O(1 - r), or 1/A^2, brings e^(2|t|) while |t| < |zeta|; beyond, the decay is e^(-(n-1)|t|).
    end = _end(power, 1.5) if rank > 2 else zeta_steps * _ZETA_STEP + _LOG_TOLERANCE + 2.0
    half = math.ceil(end / spacing)
    t = spacing * np.arange(-half, half + 1)
    log_cosh = np.where(
        np.abs(t) < 1.0,
        np.log1p(2.0 * np.sinh(0.5 * np.clip(t, -1.0, 1.0)) ** 2),
        np.abs(t) - math.log(2.0) + np.log1p(np.exp(-2.0 * np.abs(t))),
    )
    kernel = np.exp(-power * log_cosh)
    values, slopes = _hypergeometric(rank)
    grid = _Grid(
        np.exp(t), np.exp(-t), np.cosh(t), np.sinh(t), kernel, values, slopes,
        log_error, log_error_half,
    )  # fmt: skip
    kernel *= 1.0 / _Law(grid, np.ones((1, 1))).mass[0]
    for array in (grid.up, grid.down, grid.cosh, grid.sinh, kernel):
        array.flags.writeable = False
    return grid


def _spacing(power: float) -> tuple[float, float, float]:
    """Spacing h with error max_s e^(-2 pi s/h) cos(s)^-power = e^-41, and log errors for h and 2 h."""
    height = np.linspace(0.0, 0.5 * np.pi, 2001)[1:-1]
    growth = -power * np.log(np.cos(height))
    spacing = float(np.max(2.0 * np.pi * height / (_LOG_TOLERANCE + growth)))
    decay = 2.0 * np.pi * height / spacing
    return spacing, float(np.min(growth - decay)), float(np.min(growth - 0.5 * decay))


def _end(power: float, growth: float) -> float:
    """Return t where sech(t)^power e^(growth t) has fallen to e^-41."""
    low, high = 0.0, 1e3
    for _ in range(60):
        t = 0.5 * (low + high)
        log_cosh = t + math.log1p(math.exp(-2.0 * t)) - math.log(2.0)
        low, high = (t, high) if power * log_cosh - growth * t < _LOG_TOLERANCE else (low, t)
    return high


@lru_cache(maxsize=256)
def _hypergeometric(rank: int) -> tuple[FloatArray, FloatArray]:
    """Polynomials in 2y - 1 for F(y) = 2F1(1/2, 1/2; n+1/2; 1 - y^2) and F'(y)/y on 0 <= y <= 1.

    Euler's integral with sigma = tanh(tau), F ~ int sech(tau)^(2n-1) (1 + y^2 sinh^2 tau)^(-1/2) dtau,
    is again analytic in a strip pi/2; F is analytic in y but for y <= -1.
    """
    spacing, _, _ = _spacing(2.0 * rank + 2.0)
    # F'/y brings sinh^2: at y = 0 the decay is e^(-(2n-3) tau).
    tau = spacing * np.arange(1, math.ceil(_end(2.0 * rank - 1.0, 2.0) / spacing) + 1)
    square = np.sinh(tau) ** 2
    weight = 2.0 * np.exp(-(2.0 * rank - 1.0) * np.log1p(2.0 * np.sinh(0.5 * tau) ** 2))
    norm = 1.0 + float(np.sum(weight / np.cosh(tau)))
    size = 32
    y = 0.5 * (1.0 + np.cos(np.pi / (2 * size) * (2 * np.arange(size) + 1)))
    root = 1.0 / (1.0 + y[:, None] ** 2 * square)
    value = (1.0 + (weight * np.sqrt(root)).sum(axis=1)) / norm
    slope = -(weight * square * root * np.sqrt(root)).sum(axis=1) / norm
    return _fit(value), _fit(slope)


def _fit(value: FloatArray) -> FloatArray:
    """Powers of s, in blocks of four, from values at Chebyshev points; rounding noise is dropped."""
    size = len(value)
    # Reduced as integers: k times a rounded angle would be off by k roundings.
    turns = np.outer(np.arange(size), 2 * np.arange(size) + 1) % (4 * size)
    basis = np.cos(np.pi / (2 * size) * turns)
    chebyshev = 2.0 / size * (basis @ value)
    chebyshev[0] *= 0.5
    kept = np.flatnonzero(np.abs(chebyshev) > 2e-16 * np.abs(chebyshev).max())[-1] + 1
    # Coefficients decay as 3^-k in powers (the singularity is at -3), so powers are stable.
    powers = np.polynomial.chebyshev.cheb2poly(chebyshev[:kept])
    padded = np.zeros(-(-len(powers) // 4) * 4)
    padded[: len(powers)] = powers
    return padded.reshape(-1, 4)


def _polynomial(blocks: FloatArray, y: FloatArray) -> FloatArray:
    """sum_jk blocks[j, k] s^(4j + k), s = 2y - 1: four powers at once, then Horner in s^4."""
    s = 2.0 * y.reshape(-1) - 1.0
    powers = np.empty((4, s.size))
    powers[0], powers[1] = 1.0, s
    square = np.multiply(s, s, out=powers[2])
    np.multiply(square, s, out=powers[3])
    parts: FloatArray = blocks @ powers
    fourth = square * square
    total = parts[-1]
    for part in parts[-2::-1]:
        total *= fourth
        total += part
    return total.reshape(y.shape)
