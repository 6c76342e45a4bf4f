r"""Two mini-batches normalized separately: cosines of phi(N(h)) across them, samples and positions.

    E[phi(d) phi(d')/(R R')] = (1/pi) iint ds dt (st)^{-1/2} e^{-(s+t) eps} det(s, t)^{-1/2} V_phi(s, t),

theory notes, section 3, second Laplace integral, "with two centered blocks".  If samples of different
mini-batches are related like samples of one, centering leaves the position contrasts as the only modes
that both share: variance a_p, covariance u = b - x, S-1 times (``rectangle``).  With r = 2 a_p/S,
k = 2 u/S their determinant is D = 1 + r (s+t) + (r-k)(r+k) s t, and

    a_p(s, t) = [a_p + (2t/S)(a_p-u)(a_p+u)]/D   of the first batch,     covariance u/D,

that of d and d' (1-1/S) u/D at the same position, -u/(S D) at another.  b = x: independent,
cosine E[x]^2/E[x^2].
"""

from __future__ import annotations

import math

import numpy as np

from theory.errors import HypothesisError
from theory.routes import arccosine
from theory.routes.laplace_core import quadrature_error
from theory.routes.positions_batch import FloatArray, Pool, Slopes, moment_nodes, pools
from theory.specs.normalizers import Normalizer

__all__ = ["two_pool_similarity"]

_ROUNDING = 2e-14


def two_pool_similarity(
    q: float,
    gap_w: float,
    gap_b: float,
    gap_x: float,
    *,
    batch: float,
    positions: float,
    norm: Normalizer,
    slopes: Slopes,
) -> tuple[float, float, float]:
    """(cosine at the same position, at another position, error relative to 1) of x = phi(N(h)).

    Parameters
    ----------
    q, gap_w, gap_b, gap_x, batch, positions, norm, slopes
        As in ``positions_batch.forward``; both mini-batches are B x S, and gap_b, gap_x hold across
        them, too (with one sample each they only matter there).

    Raises
    ------
    HypothesisError, SpecificationError
        As ``positions_batch.forward``; and for a normalizer that is not (h - mean)/std.
    """
    if not norm.centered or norm.denominator != "std":
        raise HypothesisError(
            f"{norm.name} is not centered with a standard deviation: two pools are only computed for "
            "BatchNorm; use batch_norm()"
        )
    pool = pools(q, gap_w, gap_b, gap_x, batch=batch, positions=positions, norm=norm)[0]
    shared = gap_x - gap_b if positions > 1 else 0.0
    fine, coarse = _similarities(pool, shared, slopes=slopes)
    error = quadrature_error(fine, coarse, 1.0)
    return float(fine[0]), float(fine[1]), error + _ROUNDING


def _similarities(pool: Pool, shared: float, *, slopes: Slopes) -> tuple[FloatArray, FloatArray]:
    """By the fine and by the coarse rule."""
    shape = pool.shape
    nodes = moment_nodes(pool)
    both = nodes.both()
    _, position, sample, rest = pool.shape.inward[:, None] * nodes.tilted
    square = both @ (position + sample + rest)
    if not square.any():
        return np.zeros(2), np.zeros(2)
    inverse = 1.0 / shape.positions
    level = float(pool.components.value[1])
    s, t = nodes.s[:, None], nodes.s[None, :]
    # (r-k)(r+k) = (2/S)^2 (a_p-u)(a_p+u); a_p >= |u| up to rounding.
    opened = 2.0 * inverse * max(level - shared, 0.0) * max(level + shared, 0.0)
    rate = 2.0 * inverse * level
    determinant = 1.0 + rate * (s + t) + 2.0 * inverse * opened * s * t
    # (1 + r s)(1 + r t) = D + k^2 s t is what the weights of both batches contain.
    contrasts = 0.5 * (shape.positions - 1.0) if shape.positions < math.inf else 0.0
    coupled = np.exp(contrasts * np.log1p((2.0 * inverse * shared) ** 2 * s * t / determinant))
    first = shape.inward[1] * (level + opened * t) / determinant + (sample + rest)[:, None]
    second = first.T
    size = np.sqrt(first * second)
    result = np.empty((2, 2))
    for column, share in enumerate((1.0 - inverse, -inverse)):
        cosine = np.clip(share * shared / (determinant * size), -1.0, 1.0)
        kernel = size * (1.0 - arccosine.ray_gap(1.0 - cosine, slopes=slopes)) * coupled
        kernel /= np.sqrt(s * t)
        for row, weight in enumerate(both):
            result[row, column] = weight @ kernel @ weight / (np.pi * square[row])
    return result[0], result[1]
