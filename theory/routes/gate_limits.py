"""EvoNorm in the limits where its denominator is a number, at one position per sample.

S0 over all channels: R^2 = q + eps, and h sigmoid(v h)/R = silu(v h)/(v R), so silu's Gaussian dual is
all there is.  B0 over an infinite batch at eps = 0: with s^2 = q gap the batch variance and t = h/s,

    x = h / max(s, v h) = f(v t)/v,   f(t) = min(t, 1),

f of a Gaussian of variance sigma^2 = v^2/gap.  With k = 1/sigma and theta the angle of two samples
(Price's theorem, Owen's T for P(u < 1, v < 1)),

    E f^2 = sigma^2 (Phi(k) - k phi(k)) + Phi(-k),       E f = Phi(-k) - sigma phi(k),
    E f^2 - E f f' = sigma^2 [gap Phi(k) - 2 int_0^theta T(k, tan(x/2)) sin x dx].

Sources: Liu et al. 2020 (EvoNorm); theory notes, section 4 (the table of both).
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from theory.routes.arccosine import angle_scalar

__all__ = ["b0_gap", "b0_moments", "b0_slope"]

FloatArray = NDArray[np.float64]

_NODES = 48
_ERROR = 2e-14


def b0_moments(gap: float, *, gate: float) -> tuple[float, float, float]:
    """(E[x^2], E[x], relative error) of EvoNorm-B0 over an infinite batch with this pre-activation gap.

    Parameters
    ----------
    gap
        1 - correlation of the pre-activations, in (0, 2].
    gate
        v > 0.
    """
    sigma, k = gate / math.sqrt(gap), math.sqrt(gap) / gate
    below, above = float(special.ndtr(k)), float(special.ndtr(-k))
    density = math.exp(-0.5 * k * k) / math.sqrt(2.0 * math.pi)
    second_moment = sigma * sigma * _lower_square(k, below, density) + above
    return second_moment / gate**2, (above - sigma * density) / gate, _ERROR


def b0_gap(gap: float, *, gate: float) -> tuple[float, float]:
    """(gap of the post-activations, relative error); parameters as ``b0_moments``."""
    sigma, k = gate / math.sqrt(gap), math.sqrt(gap) / gate
    theta = angle_scalar(gap)
    nodes, weights = _legendre()
    x = theta * nodes
    tail = float(weights @ (special.owens_t(k, np.tan(0.5 * x)) * np.sin(x))) * theta
    difference = sigma * sigma * (gap * float(special.ndtr(k)) - 2.0 * tail)
    second_moment, _, error = b0_moments(gap, gate=gate)
    return difference / (second_moment * gate**2), error


def b0_slope(gap: float, *, gate: float) -> float:
    """E[f'(v t)^2] = P(v t < 1): what the squared gradient of one sample is multiplied by, over s^2."""
    return float(special.ndtr(math.sqrt(gap) / gate))


def _lower_square(k: float, below: float, density: float) -> float:
    """E[z^2; z < k] = Phi(k) - k phi(k) of a unit Gaussian."""
    return below - k * density


@cache
def _legendre() -> tuple[FloatArray, FloatArray]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    nodes, weights = special.roots_legendre(_NODES)
    return 0.5 * (nodes + 1.0), 0.5 * weights
