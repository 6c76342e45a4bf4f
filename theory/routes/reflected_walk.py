r"""x_{l+1} = relu(x_l + z_l), z_l standard normal: ResNet-v1's stream, exactly at every depth.

With N(W x) exactly unit Gaussian (LN, RMSNorm; BN as B -> inf) every channel of the post-activation
stream is a random walk reflected at 0 (Lindley's recursion).  From x_0 = 0 it has the law of the
maximum of a walk, and Spitzer's identity gives all moments: with a_k = E[relu(S_k)]/k = 1/sqrt(2 pi k),

    E[x_l] = sum_{k<=l} a_k,      E[x_l^2] = l/2 + sum_{j+k<=l} a_j a_k,      P(x_l = 0) = C(2l, l)/4^l.

Activation before addition, x_{l+1} = x_l + phi(z_l), has independent increments: moments add up.

Sources: Spitzer 1956; Sparre Andersen 1954 (the last one); theory notes, section 5.  Starts other than
x_0 = 0, and gradients, are in ``walk_density``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.errors import out_of_domain
from theory.specs._check import integer, real

__all__ = [
    "AddedMoments",
    "WalkMoments",
    "added_activations",
    "reflected_walk",
]

FloatArray = NDArray[np.float64]

# Beyond this many terms the sums over pairs go through Fourier transforms (error a few roundings).
_DIRECT = 4096


class WalkMoments(NamedTuple):
    """E[x_l], E[x_l^2] and P(x_l = 0) for l = 0 ... depth."""

    mean: FloatArray
    second_moment: FloatArray
    zero: FloatArray


class AddedMoments(NamedTuple):
    """E[x_l], E[x_l^2] and E[x_l x'_l] for l = 0 ... depth, of a stream that adds phi(z_l)."""

    mean: FloatArray
    second_moment: FloatArray
    product: FloatArray


def reflected_walk(depth: int, *, scale: float = 1.0) -> WalkMoments:
    """E[x_l] = s sum a_k, E[x_l^2] = s^2 (l/2 + sum_{j+k<=l} a_j a_k), P(x_l = 0) = C(2l, l)/4^l.

    For x_{l+1} = relu(x_l + s z_l) from x_0 = 0.  E[x_l] ~ s sqrt(2l/pi), E[x_l^2] ~ s^2 l.

    Parameters
    ----------
    depth
        L >= 0: arrays have length L + 1.
    scale
        s = beta > 0, the branch factor.  A skip factor other than 1 breaks the identity: see
        ``walk_density``.

    Raises
    ------
    SpecificationError
        Out of range.
    """
    count = integer("depth", depth, low=0, remedy="count the blocks")
    s = real("scale", scale, low=0.0, open_low=True, remedy="pass the branch factor")
    steps = np.arange(1, count + 1, dtype=np.float64)
    a = 1.0 / np.sqrt(2.0 * np.pi * steps)
    pairs = np.zeros(count + 1)
    if count > 1:
        pairs[2:] = _self_convolution(a)[: count - 1]
    mean = np.concatenate(([0.0], np.cumsum(a)))
    second = 0.5 * np.arange(count + 1, dtype=np.float64) + np.cumsum(pairs)
    zero = np.concatenate(([1.0], np.cumprod(1.0 - 0.5 / steps)))
    return WalkMoments(s * mean, s * s * second, zero)


def added_activations(
    depth: int,
    *,
    mean: float,
    second_moment: float,
    products: ArrayLike,
    start: tuple[float, float, float] = (0.0, 0.0, 0.0),
    skip: float = 1.0,
    branch: float = 1.0,
) -> AddedMoments:
    r"""m' = a m + b mu, q' = a^2 q + 2ab m mu + b^2 v, p' = a^2 p + 2ab m mu + b^2 c_l.

    The stream x_{l+1} = a x_l + b y_l with y_l independent of x_l: activation before addition with
    N(W x) of a law that does not depend on the scale of x.  With a = b = 1, relu and unit Gaussians
    (mu = 1/sqrt(2 pi), v = 1/2, c_l = kappa_1(c)/2): E[x_l] = l/sqrt(2 pi),
    E[x_l^2] = q_0 + l (1/2 - 1/2 pi) + l^2/2 pi.

    Source: theory notes, section 5; other normalizers enter through mu, v and c_l.

    Parameters
    ----------
    depth
        L.
    mean, second_moment
        mu = E[y], v = E[y^2].
    products
        c_l = E[y_l y'_l] of two samples, shape (L,) or one number.
    start
        (m_0, q_0, p_0) of x_0.
    skip, branch
        a and b.
    """
    count = integer("depth", depth, low=0, remedy="count the blocks")
    between = np.broadcast_to(np.asarray(products, dtype=np.float64), (count,))
    if not second_moment >= mean * mean:
        raise out_of_domain("second_moment", second_moment, "at least mean^2", "check both")
    a, b = skip, branch
    m, q, p = start
    rows = [(m, q, p)]
    for c in between.tolist():
        cross = 2.0 * a * b * m * mean
        m, q, p = (
            a * m + b * mean,
            a * a * q + cross + b * b * second_moment,
            a * a * p + cross + b * b * c,
        )
        rows.append((m, q, p))
    table = np.array(rows).T
    return AddedMoments(table[0], table[1], table[2])


def _self_convolution(a: FloatArray) -> FloatArray:
    """sum_{j+k=n} a_j a_k for n = 2, 3, ..."""
    if len(a) <= _DIRECT:
        return np.convolve(a, a)
    size = 2 ** math.ceil(math.log2(2 * len(a)))
    return np.fft.irfft(np.fft.rfft(a, size) ** 2, size)
