"""Closed forms of one layer by drawing pools: name of a row -> (draw, function of the mean terms).

Independent Gaussian pools are normalized and activated by their definitions in NumPy, with derivatives
as finite differences along random directions (E|J e|^2 = |J|^2); streams are random walks of one channel.
No formula is known here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import erf

BLOCKS = 50


@dataclass(frozen=True)
class Estimate:
    """Value, standard error, degrees of freedom."""

    value: float
    sem: float
    dof: int


def estimate(draw, function, *, draws, seed):
    """f(mean of terms) with the jackknife's standard error over ``BLOCKS`` blocks.

    ``draw(rng, count)`` returns terms of shape (count, k).
    """
    sums = []
    for rng in np.random.default_rng(seed).spawn(BLOCKS):
        terms = draw(rng, draws // BLOCKS)
        sums.append(terms.mean(axis=0))
    sums = np.array(sums)
    rest = (sums.sum(axis=0) - sums) / (BLOCKS - 1)
    left = np.array([function(*row) for row in rest])
    value = function(*sums.mean(axis=0))
    sem = math.sqrt((BLOCKS - 1) / BLOCKS * float(((left - left.mean()) ** 2).sum()))
    return Estimate(float(value), sem, BLOCKS - 1)


def relu(x):
    return np.maximum(x, 0.0)


def leaky(x):
    return np.where(x > 0.0, x, 0.1 * x)


def pair(rng, count, size, c):
    u = rng.standard_normal((count, size))
    return u, c * u + math.sqrt(1.0 - c * c) * rng.standard_normal((count, size))


def center(z):
    return z - z.mean(axis=1, keepdims=True)


def normalize(z):
    return center(z) / z.std(axis=1, keepdims=True)


# Duals and maps of two samples ---------------------------------------------------------------------


def dual(phi, *, c, q=1.0, relative=True):
    def draw(rng, count):
        u, v = pair(rng, count, 1, c)
        a, b = phi(math.sqrt(q) * u), phi(math.sqrt(q) * v)
        return np.concatenate([a * b, 0.5 * (a * a + b * b)], axis=1)

    return draw, (lambda ab, aa: ab / aa) if relative else (lambda ab, aa: ab)


def group(size, *, c):
    """Cosine of relu of two normalized groups; relu keeps half of the unit second moment."""

    def draw(rng, count):
        u, v = pair(rng, count, size, c)
        return (2.0 * relu(normalize(u)) * relu(normalize(v))).mean(axis=1, keepdims=True)

    return draw, lambda value: value


def group_slope(size, *, c, step=0.04):
    """Derivative in c by Richardson from two central differences, with common random numbers."""

    def draw(rng, count):
        u, w = rng.standard_normal((2, count, size))
        a = relu(normalize(u))
        values = {
            h: (2.0 * a * relu(normalize((c + h) * u + math.sqrt(1.0 - (c + h) ** 2) * w))).mean(
                axis=1
            )
            for h in (step, -step, 0.5 * step, -0.5 * step)
        }
        wide = (values[step] - values[-step]) / (2.0 * step)
        narrow = (values[0.5 * step] - values[-0.5 * step]) / step
        return ((4.0 * narrow - wide) / 3.0)[:, None]

    return draw, lambda value: value


def near_one(size, *, gap):
    """E(a - b)^2/(2 E a^2) of two groups that nearly agree."""

    def draw(rng, count):
        u = rng.standard_normal((count, size))
        c = 1.0 - gap
        v = c * u + math.sqrt(gap * (2.0 - gap)) * rng.standard_normal((count, size))
        a, b = relu(normalize(u)), relu(normalize(v))
        return np.stack([((a - b) ** 2).mean(axis=1), (a * a + b * b).mean(axis=1)], axis=1)

    return draw, lambda difference, square: difference / square


def centered_slope(*, c, step=0.04):
    """Slope of the covariance over the variance of relu: rows of weights are centered."""

    def draw(rng, count):
        u, w = rng.standard_normal((2, count, 1))
        a = relu(u)
        columns = [a, a * a]
        for h in (step, -step):
            b = relu((c + h) * u + math.sqrt(1.0 - (c + h) ** 2) * w)
            columns += [a * b, b]
        return np.concatenate(columns, axis=1)

    def function(a, aa, ab, b, ab_, b_):
        return ((ab - a * b) - (ab_ - a * b_)) / (2.0 * step) / (aa - a * a)

    return draw, function


# Pools over samples or positions -------------------------------------------------------------------


def derivative(function, z, rng, step=1e-6):
    """J e, e standard normal: a central difference."""
    e = rng.standard_normal(z.shape)
    return (function(z + step * e) - function(z - step * e)) / (2.0 * step)


def similarity(phi, size, *, across=False):
    """Mean cosine of two entries of a pool, or of two pools."""

    def draw(rng, count):
        a = phi(normalize(rng.standard_normal((count, size))))
        square, total = (a * a).mean(axis=1), a.sum(axis=1)
        if across:
            b = phi(normalize(rng.standard_normal((count, size))))
            return np.stack([a.mean(axis=1) * b.mean(axis=1), square], axis=1)
        pairs = (total**2 - size * square) / (size * (size - 1.0))
        return np.stack([pairs, square], axis=1)

    return draw, lambda ab, aa: ab / aa


def pooled(phi, size, *, law, function=None):
    """Squares of J e on contrasts and on the mean, with E[x_i x_j] and E[x^2], as terms.

    With ``law`` the radius has its exact chi-square law, E[1/R^2] = size/(size - 3), and directions are
    drawn: where 1/R^2 has no variance.  Else it is drawn with the rest.
    """

    def draw(rng, count):
        z = rng.standard_normal((count, size))
        weight = 1.0
        if law:
            z, weight = normalize(z), size / (size - 3.0)
        a = phi(normalize(z))
        je = derivative(lambda h: phi(normalize(h)), z, rng)
        contrast = weight * (center(je) ** 2).sum(axis=1)
        mean = weight * je.sum(axis=1) ** 2 / size
        square = (a * a).mean(axis=1)
        pairs = (a.sum(axis=1) ** 2 - size * square) / (size * (size - 1.0))
        return np.stack([contrast, mean, pairs, square], axis=1)

    return draw, function


def batch_growth(phi, size, *, law):
    """Gradients are contrasts; pre-activations have the variance E[x^2] (1 - s) among contrasts."""

    def function(contrast, mean, pairs, square):
        return contrast / ((size - 1.0) * (square - pairs))

    return pooled(phi, size, law=law, function=function)


def group_growth(size):
    def draw(rng, count):
        z = rng.standard_normal((count, size))
        je = derivative(lambda h: relu(normalize(h)), z, rng)
        return 2.0 * (je**2).mean(axis=1, keepdims=True)

    return draw, lambda value: value


def large_batch(function):
    """One channel whose mean and variance over the batch are known: B = infinity."""

    def draw(rng, count):
        u = rng.standard_normal((count, 1))
        a = relu(u)
        return np.concatenate([a, a * a, derivative(relu, u, rng) ** 2], axis=1)

    return draw, function


def stream_gradient(size, *, d, pi_c, pi_m):
    def function(contrast, mean, pairs, square):
        return pi_c + 2.0 / (d * (size - 1.0)) * (pi_c * contrast + pi_m * mean)

    return pooled(relu, size, law=False, function=function)


def mean_drive(size):
    """What the gradient's mean drives, C/(B-1), is (B-3)/(B-1) times the square on the mean."""

    def function(contrast, mean, pairs, square):
        return mean * (size - 3.0) / (size - 1.0)

    return pooled(relu, size, law=False, function=function)


def centered_spread(size):
    def draw(rng, count):
        a = relu(center(rng.standard_normal((count, size))))
        square = (a * a).mean(axis=1)
        pairs = (a.sum(axis=1) ** 2 - size * square) / (size * (size - 1.0))
        return 2.0 * (square - pairs)[:, None]

    return draw, lambda value: value


def centered_growth(size):
    def draw(rng, count):
        z = rng.standard_normal((count, size))
        je = derivative(lambda h: relu(center(h)), z, rng)
        return 2.0 * (center(je) ** 2).sum(axis=1, keepdims=True) / (size - 1.0)

    return draw, lambda value: value


def exchangeable(rng, count, size, c):
    common = rng.standard_normal((count, 1))
    return math.sqrt(c) * common + math.sqrt(1.0 - c) * rng.standard_normal((count, size))


def variance_normalized(size, *, c):
    def draw(rng, count):
        h = exchangeable(rng, count, size, c)
        return 2.0 * (relu(h / h.std(axis=1, keepdims=True)) ** 2).mean(axis=1, keepdims=True)

    return draw, lambda value: value


def variance_contraction(size, *, gap):
    def draw(rng, count):
        common = rng.standard_normal((count, 1))
        own = math.sqrt(gap) * rng.standard_normal((count, size))
        h = math.sqrt(1.0 - gap) * common + own
        # Contrasts keep their digits: the common part cancels.
        a = relu(h / own.std(axis=1, keepdims=True))
        spread = a.var(axis=1) * size / (size - 1.0)
        return np.stack([spread, (a * a).mean(axis=1)], axis=1)

    return draw, lambda spread, square: spread / square / gap


def variance_norm_large(*, c):
    """B = infinity: the variance about the mean is 1 - c, and h is one entry."""

    def draw(rng, count):
        return exchangeable(rng, count, 1, c) ** 2 / (1.0 - c)

    return draw, lambda square: square


def variance_norm_growth(*, before, after):
    """B = infinity: 2 |J e|^2 at q = E N^2 of the layer before, whose correlation was ``before``."""

    def draw(rng, count):
        earlier = exchangeable(rng, count, 1, before) ** 2 / (1.0 - before)
        h = exchangeable(rng, count, 1, after)
        return np.concatenate([earlier, derivative(relu, h, rng) ** 2 / (1.0 - after)], axis=1)

    return draw, lambda q, je: 2.0 * je / q


# Streams of one channel ----------------------------------------------------------------------------


def reflected(power, *, steps):
    def draw(rng, count):
        x = np.zeros((count, 1))
        for _ in range(steps):
            x = relu(x + rng.standard_normal((count, 1)))
        return x**power

    return draw, lambda value: value


def added(*, steps, q0):
    def draw(rng, count):
        x = math.sqrt(q0) * rng.standard_normal((count, 1))
        for _ in range(steps):
            x = x + relu(rng.standard_normal((count, 1)))
        return x**2

    return draw, lambda value: value


def fluctuation(*, width, depth):
    """Mean square of ``width`` relu channels, layer by layer: E q^2/(E q)^2."""

    def draw(rng, count):
        q = np.ones(count)
        for _ in range(depth):
            q = q * 2.0 * (relu(rng.standard_normal((count, width))) ** 2).mean(axis=1)
        return np.stack([q * q, q], axis=1)

    return draw, lambda square, mean: square / mean**2


_RELU, _ABS = relu, np.abs

POOLS = {
    "kappa_1": dual(_RELU, c=0.6),
    "kappa_0": dual(lambda x: (x > 0.0).astype(float), c=0.6),
    "E[sin sin]": dual(np.sin, c=0.6, q=0.7, relative=False),
    "E[erf erf]": dual(erf, c=0.6, q=0.7, relative=False),
    "SWS: slope at c*": centered_slope(c=0.0),
    **{f"GN({g}): map": group(g, c=0.6) for g in (2, 3, 4, 8)},
    **{f"GN({g}): map at c = 0": group(g, c=0.0) for g in (3, 4, 8)},
    **{f"GN({g}): slope": group_slope(g, c=0.6) for g in (3, 4, 8)},
    **{f"GN({g}): slope at c = 0": group_slope(g, c=0.0) for g in (3, 4, 8)},
    "GN(8): lambda": group_growth(8),
    "GN: lambda in 1/G": group_growth(400),
    "GN(8): 1 - c' near c = 1": near_one(8, gap=1e-8),
    "GN: map at large G": group(4001, c=0.6),
    "GN: map at c = 0, G -> oo": dual(_RELU, c=0.0),
    **{
        f"BN({b}), {name}: {what}": (
            similarity if what == "s*" else partial(batch_growth, law=b < 6)
        )(phi, b)
        for b in (4, 16)
        for name, phi in (("relu", _RELU), ("abs", _ABS), ("leaky_relu", leaky))
        for what in ("s*", "lambda")
    },
    "BN: s*, B = oo": large_batch(lambda a, aa, je: a * a / aa),
    "BN: lambda, B = oo": large_batch(lambda a, aa, je: je / (aa - a * a)),
    "BN: lambda in 1/B": batch_growth(_RELU, 4000, law=False),
    "BN(16): similarity across batches": similarity(_RELU, 16, across=True),
    "BN(16): C/(B-1)": mean_drive(16),
    "BN(16) stream: contrasts' gradient": stream_gradient(16, d=3.0, pi_c=1.5, pi_m=0.7),
    "MC(16): factor on q gap": centered_spread(16),
    "MC(16): lambda": centered_growth(16),
    "VN(16): q'": variance_normalized(16, c=0.6),
    "VN: E[N^2], B = oo": variance_norm_large(c=0.6),
    "VN: lambda, B = oo": variance_norm_growth(
        before=0.48274428383548773, after=0.5975484851804691
    ),
    "VN(16): contraction as c -> 1": variance_contraction(16, gap=1e-8),
    # One channel over 16 positions is one channel over 16 samples; two samples are two pools.
    "IN(16): similarity of positions": similarity(_RELU, 16),
    "IN(16): similarity of samples": similarity(_RELU, 16, across=True),
    "IN(16): lambda": batch_growth(_RELU, 16, law=False),
    "post-activation stream: mean": reflected(1, steps=2),
    "post-activation stream: second moment": reflected(2, steps=2),
    "activation before addition: second moment": added(steps=12, q0=1.5),
    "finite width: E q^2/(E q)^2": fluctuation(width=64, depth=12),
}
"""(draw, function) for ``estimate``."""
