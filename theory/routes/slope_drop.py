r"""E[phi'(u)^2] and how far E[phi'(u) phi'(v)] stays below it, of two samples at one second moment.

The drop is (1/2) E[(phi'(u) - phi'(v))^2]: where samples collapse it is what takes gradients of contrasts
over to the mean, which may be smaller by any factor, so it is wanted with relative precision.  For rays
(a relu(x) + b relu(-x)) it is (a + b)^2 theta/(2 pi), theta the angle of u and v.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from theory.routes.arccosine import angle_scalar
from theory.routes.bivariate import line_rule, plane_rule
from theory.routes.functions import BaseFunction, base_function
from theory.specs.activations import Activation

__all__ = ["Slopes", "slope_drop"]

_COARSE = 0.9
_EPSILON = 2.0**-52


class Slopes(NamedTuple):
    """E[phi'(u)^2], E[phi'(u)^2] - E[phi'(u) phi'(v)], and the relative error of either."""

    same: float
    drop: float
    error: float


def slope_drop(activation: Activation, *, second_moment: float, gap: float) -> Slopes:
    """The two numbers behind E u^2 = E v^2 = ``second_moment``, correlation 1 - ``gap``.

    Parameters
    ----------
    activation
        With its scale; a shift does not matter.
    second_moment
        > 0.
    gap
        In [0, 2].
    """
    slope = activation.scale**2
    rays = activation.ray_slopes
    if rays is not None:
        a, b = rays
        drop = (a + b) ** 2 * angle_scalar(gap) / (2.0 * math.pi)
        return Slopes(0.5 * slope * (a * a + b * b), slope * drop, 8.0 * _EPSILON)
    function = base_function(activation)
    (same, drop), coarse = (
        _ruled(function, second_moment, gap, resolution) for resolution in (1.0, _COARSE)
    )
    # Differences of derivatives carry their roundings.
    error = abs(same / coarse[0] - 1.0) + 16.0 * _EPSILON
    if drop > 0.0:
        error += abs(drop - coarse[1]) / drop + _EPSILON * math.sqrt(same / drop)
    return Slopes(slope * same, slope * drop, error)


def _ruled(
    function: BaseFunction, second_moment: float, gap: float, resolution: float
) -> tuple[float, float]:
    scale = math.sqrt(second_moment)
    z, line = line_rule(function, scale, resolution=resolution)
    same = float(line @ function.derivative(scale * z) ** 2)
    v, half, weight = plane_rule(function, second_moment, second_moment, gap, resolution=resolution)
    apart = function.derivative(v + 2.0 * half) - function.derivative(v)
    return same, 0.5 * float(weight @ np.square(apart))
