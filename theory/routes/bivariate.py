"""Nodes and weights for expectations over one or two correlated Gaussians, at any scale.

phi(sqrt(q) z) has its structure at |z| ~ 1/sqrt(q) and is smooth on every larger scale, so both
rules are graded towards u = 0 and v = 0; their size grows with log q, not with sqrt(q).

* smooth phi: trapezoidal rule in t with z = kappa sinh(t), which is analytic in a strip around
  the real axis of t whatever q is; geometric convergence.
* kinked phi (two analytic branches joined at 0): polar coordinates, whose four sectors between
  the lines u = 0 and v = 0 hold one branch each; Gauss-Legendre panels, graded towards the lines.

Pairs are returned as v and the half-difference w = (u - v)/2, each without cancellation for any
gap = 1 - correlation and any ratio of the scales; u, the larger one, is v + 2w.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from theory.routes.functions import BaseFunction

__all__ = ["line_rule", "plane_rule"]

FloatArray = NDArray[np.float64]
# s1, s2, s1 - s2.
Scales = tuple[float, float, float]

# Gaussian tails are cut where the density is 1e-20 of its maximum.
_RANGE = 9.5
# Exponent of the trapezoidal error aimed at (at resolution 1): exp(-40).
_TARGET = 40.0
# Shifts Im t of the contour tried, below pi/4, where a Gaussian of kappa sinh(t) stops decaying.
_SHIFTS = np.linspace(0.02, 0.76, 75)
# Poles of phi(scale kappa sinh(t)) sit at Im t = arcsin(1 / STRETCH) = 0.88, beyond the shifts.
_STRETCH = 1.3
# Entire functions grow off the axis; this half-width is where they are still of order 1.
_ENTIRE_STRIP = 1.6
# A map this wide is straight to all digits that matter.
_STRAIGHT = 1e3
# Step of a plain trapezoidal rule for a Gaussian.
_PLAIN_STEP = 0.55
_PANEL_NODES = 18
_PANEL_RATIO = 4.0
_PANEL_WIDTH = 3.2


def line_rule(
    function: BaseFunction, scale: float, *, resolution: float = 1.0
) -> tuple[FloatArray, FloatArray]:
    """Nodes z and weights with E[f(z)] = sum weight * f(z) for f built from phi(scale * z).

    Scales below ``scale`` are resolved too.
    """
    if function.kinked:
        points, weights = _panels(_RANGE, 2.0 / scale, math.inf, _PANEL_WIDTH, resolution)
        nodes = np.concatenate([-points[::-1], points])
        weights = np.concatenate([weights[::-1], weights])
    else:
        kappa = _kappa(function, scale)
        end = math.asinh(_RANGE / kappa)
        step = float(_step(kappa, np.zeros(1))[0]) / resolution
        t = np.linspace(-end, end, 2 * math.ceil(end / step) + 1)
        nodes = kappa * np.sinh(t)
        weights = kappa * np.cosh(t) * (t[1] - t[0])
    return nodes, weights * np.exp(-0.5 * nodes * nodes) / math.sqrt(2.0 * math.pi)


def _kappa(function: BaseFunction, scale: float) -> float:
    """Where z = kappa sinh(t) turns from straight to exponential; far outside the range, straight."""
    return min(_STRETCH * min(function.strip, _ENTIRE_STRIP) / scale, _STRAIGHT)


def _step(kappa: float, offset: FloatArray) -> FloatArray:
    """Largest step in t with error exp(-TARGET) for a Gaussian of y = kappa sinh(t) - offset.

    On Im t = beta the Gaussian is at most exp(sin(beta)^2 (offset^2 / cos(2 beta) + kappa^2) / 2)
    and the trapezoidal rule gains exp(-2 pi beta / step); the best beta is taken.
    """
    # A wide map is straight where the Gaussian is, and its best beta about sqrt(2 TARGET) / kappa.
    beta = _SHIFTS * min(1.0, 20.0 / kappa)
    widened = offset[:, None] ** 2 / np.cos(2.0 * beta) + kappa * kappa
    growth = 0.5 * np.sin(beta) ** 2 * widened
    result: FloatArray = np.max(2.0 * math.pi * beta / (_TARGET + growth), axis=1)
    return result


def plane_rule(
    function: BaseFunction,
    q1: float,
    q2: float,
    gap: float,
    *,
    resolution: float = 1.0,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """v, (u - v)/2 and weight for (u, v) ~ N(0), E u^2 = q1 >= E v^2 = q2, correlation 1 - gap."""
    first, second = math.sqrt(q1), math.sqrt(q2)
    # The difference of the roots, without cancellation.
    scales = first, second, (q1 - q2) / (first + second)
    if function.kinked:
        return _polar(scales, gap, resolution)
    return _conditional(function, scales, gap, resolution)


def _conditional(
    function: BaseFunction, scales: Scales, gap: float, resolution: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """u = s1 x, v = s2 (c x + sigma y): one graded trapezoidal rule in x, one in y for every x."""
    first, second, apart = scales
    sigma = math.sqrt(gap * (2.0 - gap))
    x, weight_x = line_rule(function, first, resolution=resolution)
    y, weight_y = np.zeros((x.size, 1)), np.ones((x.size, 1))
    if sigma > 0.0:
        y, weight_y = _inner_rule(function, (1.0 - gap) * x / sigma, second * sigma, resolution)
    x = x[:, None]
    half = 0.5 * ((apart + second * gap) * x - second * sigma * y)
    v = second * ((1.0 - gap) * x + sigma * y)
    return v.ravel(), half.ravel(), (weight_x[:, None] * weight_y).ravel()


def _inner_rule(
    function: BaseFunction, offset: FloatArray, scale: float, resolution: float
) -> tuple[FloatArray, FloatArray]:
    """Rows of nodes y and weights for E[f(y)], f built from phi(scale * (y + offset)).

    A row is graded towards the zero of its argument, y = -offset, unless that lies in the tails.
    """
    kappa = _kappa(function, scale)
    graded = np.abs(offset) < _RANGE
    centre = np.where(graded, offset, 0.0)
    low = np.arcsinh((centre - _RANGE) / kappa)
    high = np.arcsinh((centre + _RANGE) / kappa)
    needed = np.max(((high - low) / _step(kappa, centre))[graded], initial=0.0)
    count = math.ceil(resolution * max(2.0 * _RANGE / _PLAIN_STEP, needed))
    unit = np.linspace(0.0, 1.0, count + 1)
    t = low[:, None] + (high - low)[:, None] * unit
    curved = kappa * np.sinh(t) - centre[:, None]
    density = kappa * np.cosh(t) * ((high - low) / count)[:, None]
    straight = _RANGE * (2.0 * unit - 1.0)
    y = np.where(graded[:, None], curved, straight)
    density = np.where(graded[:, None], density, 2.0 * _RANGE / count)
    return y, density * np.exp(-0.5 * y * y) / math.sqrt(2.0 * math.pi)


def _polar(
    scales: Scales, gap: float, resolution: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Sectors of constant signs of u and v; beta is the angle from the line u = 0.

    The lines u = 0 and v = 0 make the angle theta = arccos(1 - gap).
    """
    first, second, _ = scales
    # Each angle from its own small side.
    if gap < 1.0:
        theta = 2.0 * math.asin(math.sqrt(0.5 * gap))
        rest = math.pi - theta
    else:
        rest = 2.0 * math.asin(math.sqrt(1.0 - 0.5 * gap))
        theta = math.pi - rest
    radius, radial = _panels(_RANGE, 2.0 / first, math.inf, _PANEL_WIDTH, resolution)
    radial = radial * radius * np.exp(-0.5 * radius * radius) / (2.0 * math.pi)
    # A line also bounds the opposite sector when theta is near 0 or pi: layers at both ends.
    layers = 2.0 / (_RANGE * first), 2.0 / (_RANGE * second)
    # Both positive: phi is linear and the integrand a polynomial of degree 1 in r^2/2 ~ Exp(1).
    root = math.sqrt(2.0)
    plain = np.sqrt([4.0 - 2.0 * root, 4.0 + 2.0 * root])
    plain_weight = np.array([2.0 + root, 2.0 - root]) / (8.0 * math.pi)
    blocks = [
        _sector(scales, gap, rest, math.inf, resolution, plain, plain_weight, 1),
        _sector(scales, gap, rest, layers[0], resolution, radius, radial, -1),
    ]
    if theta > 0.0:
        for sign, layer in zip((-1, 1), layers, strict=True):
            blocks.append(_crossing(scales, theta, layer, resolution, radius, radial, sign))
    v, half, weight = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return v, half, weight


def _sector(
    scales: Scales,
    gap: float,
    width: float,
    layer: float,
    resolution: float,
    radius: FloatArray,
    radial: FloatArray,
    sign: int,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Equal signs: +/-(u, v) = r (s1 sin(beta), s2 sin(beta + theta)), 0 < beta < pi - theta."""
    first, second, apart = scales
    beta, weight = _panels(width, layer, layer, math.inf, resolution)
    lean, tilt = math.sqrt(0.5 * gap), math.sqrt(1.0 - 0.5 * min(gap, 2.0))
    # sin(beta) and sin(beta + theta) are mean -/+ shift about beta + theta/2.
    turned = beta - 0.5 * width
    mean, shift = np.cos(turned) * tilt, -np.sin(turned) * lean
    half = 0.5 * (apart * mean - (first + second) * shift)
    return (
        np.outer(sign * radius, second * np.sin(width - beta)).ravel(),
        np.outer(sign * radius, half).ravel(),
        np.outer(radial, weight).ravel(),
    )


def _crossing(
    scales: Scales,
    width: float,
    layer: float,
    resolution: float,
    radius: FloatArray,
    radial: FloatArray,
    sign: int,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Opposite signs: +/-(u, v) = r (s1 sin(beta), -s2 sin(theta - beta)), 0 < beta < theta."""
    beta, weight = _panels(width, layer, layer, math.inf, resolution)
    u, v = scales[0] * np.sin(beta), -scales[1] * np.sin(width - beta)
    return (
        np.outer(sign * radius, v).ravel(),
        np.outer(sign * radius, 0.5 * (u - v)).ravel(),
        np.outer(radial, weight).ravel(),
    )


def _panels(
    length: float, left: float, right: float, widest: float, resolution: float
) -> tuple[FloatArray, FloatArray]:
    """Gauss-Legendre panels on [0, length], graded geometrically towards layers at either end.

    ``left`` and ``right`` are the widths of the layers (inf: none); no panel exceeds ``widest``.
    """
    split = 0.5 * length if math.isfinite(right) else length
    edges = _graded(split, left, widest)
    if split < length:
        edges = np.concatenate([edges, length - _graded(length - split, right, widest)[-2::-1]])
    nodes, weights = _legendre(round(_PANEL_NODES * resolution))
    half = 0.5 * np.diff(edges)[:, None]
    points = edges[:-1, None] + half * (1.0 + nodes)
    return points.ravel(), (half * weights).ravel()


def _graded(length: float, layer: float, widest: float) -> FloatArray:
    """Edges from 0 to length: layer, 4 layer, 16 layer, ..., in steps of at most ``widest``."""
    edges = [0.0]
    while length > 0.0:
        panel = min(max((_PANEL_RATIO - 1.0) * edges[-1], layer), widest)
        if edges[-1] + 1.25 * panel >= length:
            edges.append(length)
            break
        edges.append(edges[-1] + panel)
    return np.array(edges)


@lru_cache(maxsize=32)
def _legendre(count: int) -> tuple[FloatArray, FloatArray]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return nodes, weights
