"""One sampled pool: phi(N(h)), its Jacobian, and where its moments are infinite, for RQMC at S = 1.

Every normalizer of theory notes, section 2 (gates included) has the Jacobian

    J_ki = d phi(N_k) / d h_i = a_k A_ki - b_k w_i,      w = M h / (D R),

a diagonal matrix times A plus one rank: with n(h) the numerator (A h, or h sigmoid(v h)),
a = phi'(N) n'(h)/R, b = phi'(N) N/R, D the divisor of the variance.  EvoNorm-B0, h / max(s, v h +
sqrt(eps)), has b = 0 and a = phi'(N) sqrt(eps)/(v h + sqrt(eps))^2 where the second branch rules.  So
E[J' Pi J] and E[J J'] are matrix products over the sample points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from theory.specs.activations import Activation
from theory.specs.normalizers import Normalizer

__all__ = [
    "Pooled",
    "Want",
    "contrasts",
    "infinite_mean",
    "normalize",
    "power",
    "refusal",
]

FloatArray = NDArray[np.float64]
Want = Literal["forward", "backward"]

_LARGEST_BATCH = 256
_LARGEST_GROUP = 256
_BOUNDED = ("tanh", "erf", "sin")
_LOCALIZED = ("tanh", "erf")


def refusal(
    norm: Normalizer | None, activation: Activation, *, batch: float, want: Want
) -> str | None:
    """None if RQMC answers, else the reason (a sentence without a full stop).

    Infinite means are refused at eps = 0: a pool of rank n has E[R^-k] < inf iff n > k, where k = 2
    for the gradient, and 2 more when the numerator keeps the pool mean and phi is not bounded.
    """
    if norm is None:
        return "without a normalizer Gaussian duals answer, with more digits"
    channels = norm.pool.channels
    if norm.couples_samples:
        if channels != 1:
            return f"{norm.name} pools samples and {channels:g} channels together"
        if batch > _LARGEST_BATCH:
            return f"RQMC takes batches up to {_LARGEST_BATCH}, this one has {batch:g}"
    elif channels == math.inf:
        return None
    elif channels > _LARGEST_GROUP:
        return f"RQMC takes groups up to {_LARGEST_GROUP} channels, this one has {channels:g}"
    rank = norm.rank(batch=batch, positions=1)
    if rank < 1:
        return f"{norm.name} over a single activation has no variance to divide by"
    return None if norm.eps > 0.0 else infinite_mean(norm, activation, rank=rank, want=want)


def infinite_mean(
    norm: Normalizer, activation: Activation, *, rank: float, want: Want
) -> str | None:
    """Reason why the mean is infinite at eps = 0, or None."""
    if norm.denominator == "none":
        return None
    shifted = _keeps_mean(norm)
    if want == "forward":
        needed = 2 if shifted and activation.name not in _BOUNDED else 0
        what = "second moment"
    else:
        # phi'(N) of tanh and erf vanishes before N ~ 1/R grows.
        needed = 2 if not shifted else (1 if activation.name in _LOCALIZED else 4)
        what = "mean squared gradient"
    if rank > needed:
        return None
    tail = "its pool has rank"
    return f"the {what} after {norm.name} is infinite or degenerate: {tail} {rank:g} <= {needed}"


def _keeps_mean(norm: Normalizer) -> bool:
    """Whether N(h) is unbounded as R -> 0: the numerator holds a mean that R does not see."""
    return norm.denominator in ("std", "evonorm_b0") and not norm.centered


def power(norm: Normalizer, want: Want) -> float:
    """k with integrand = O(R^-k) as R -> 0, for what is averaged forwards or backwards."""
    if norm.denominator == "none":
        return 0.0
    shifted = 2.0 if _keeps_mean(norm) else 0.0
    return shifted if want == "forward" else 2.0 + shifted


@dataclass(frozen=True)
class Pooled:
    """What sampled pools make; rows are sample points, columns the pool.

    ``normalized`` is N(h); ``local`` = n'(h)/R, ``shared`` = N/R (0 where R is not in force) and
    ``direction`` = w = M h/(D R) make dN = diag(local) A - shared w'; the last two are None without
    a denominator that depends on h.
    """

    normalized: FloatArray
    local: FloatArray
    shared: FloatArray | None
    direction: FloatArray | None


def normalize(h: FloatArray, deviation: FloatArray, norm: Normalizer, *, divisor: float) -> Pooled:
    """N(h) and its Jacobian from h and its deviation from the pool mean, both (P, N_pool)."""
    value = deviation if norm.centered else h
    if norm.denominator == "none":
        return Pooled(value, np.ones_like(value), None, None)
    source = h if norm.denominator == "rms" else deviation
    square = np.einsum("pi,pi->p", source, source)[:, None] / divisor + norm.eps
    root = np.sqrt(square)
    direction = source / (divisor * root)
    if norm.denominator == "evonorm_b0":
        assert norm.gate is not None
        offset = math.sqrt(norm.eps)
        other = norm.gate * value + offset
        statistic = root >= other
        denominator = np.where(statistic, root, other)
        normalized = value / denominator
        local = np.where(statistic, 1.0 / root, offset / denominator**2)
        return Pooled(normalized, local, np.where(statistic, normalized / root, 0.0), direction)
    numerator, slope = _numerator(value, norm)
    normalized = numerator / root
    return Pooled(normalized, slope / root, normalized / root, direction)


def _numerator(value: FloatArray, norm: Normalizer) -> tuple[FloatArray, FloatArray]:
    """n(h) and n'(h): h itself, or h sigmoid(v h)."""
    if norm.gate is None:
        return value, np.ones_like(value)
    gate = special.expit(norm.gate * value)
    return value * gate, gate * (1.0 + norm.gate * value * (1.0 - gate))


def contrasts(size: int) -> FloatArray:
    """Return (size - 1, size) orthonormal rows, each orthogonal to (1, ..., 1) (Helmert)."""
    rows = np.tri(size - 1, size)
    index = np.arange(1, size)
    rows[index - 1, index] = -index
    return np.asarray(rows / np.sqrt(index * (index + 1.0))[:, None])
