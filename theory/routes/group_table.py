r"""gap -> gap' of GroupNorm, tabulated: deep networks ask for thousands of integrals at nearby gaps.

gap'/gap is analytic in the half angle h = arcsin sqrt(gap/2) between its ends 0 and pi/2 (small pools have
powers and logarithms of h at 0), so that 21 Chebyshev points on [2^(e-1), 2^e] reach rounding: their
ellipse ends at 0, where terms fall by 3 + sqrt(8) = 5.8 each.  Panels are made when asked for.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev

from theory.routes.groupnorm import group_gap
from theory.specs.activations import Activation

__all__ = ["GapTable", "gap_table"]

_NODES = 21
# A sum of 21 terms.
_ROUNDING = 5e-15


class GapTable:
    """gap' and its relative error at one gap: quadrature through a table below gap = 1.4."""

    def __init__(self, activation: Activation, group_size: int, centered: bool, ddof: int) -> None:
        self._arguments = (activation, group_size, centered, ddof)
        # Coefficients from the highest, and the error, by exponent of the half angle.
        self._panels: dict[int, tuple[list[float], float]] = {}

    def __call__(self, gap: float) -> tuple[float, float]:
        """(gap', relative error) at a gap in [0, 2]."""
        half = math.asin(math.sqrt(min(0.5 * gap, 1.0)))
        place, exponent = math.frexp(half)
        if exponent > 0 or half == 0.0:
            # Opposite samples, and equal ones.
            value, error = self._integrated(np.array([gap]))
            return float(value[0]), error
        coefficients, error = self._panels.get(exponent) or self._panel(exponent)
        # Clenshaw at x = 4 place - 3, place in [1/2, 1).
        double = 2.0 * (4.0 * place - 3.0)
        one = two = 0.0
        for coefficient in coefficients:
            one, two = coefficient + double * one - two, one
        return gap * (one - 0.5 * double * two), error

    def _panel(self, exponent: int) -> tuple[list[float], float]:
        x = np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)
        gaps = 2.0 * np.sin(np.ldexp(0.25 * (x + 3.0), exponent)) ** 2
        values, error = self._integrated(gaps)
        ratios = values / gaps
        coefficients = chebyshev.chebfit(x, ratios, _NODES - 1)
        # Two terms of either parity bound what a geometric series leaves.
        left = float(np.abs(coefficients[-2:]).sum() / max(np.abs(ratios).min(), 1e-300))
        self._panels[exponent] = coefficients[::-1].tolist(), error + left + _ROUNDING
        return self._panels[exponent]

    def _integrated(self, gaps: np.ndarray) -> tuple[np.ndarray, float]:
        activation, group_size, centered, ddof = self._arguments
        value, error = group_gap(
            activation, gaps, group_size=group_size, centered=centered, ddof=ddof
        )
        return value, float(np.max(error))


@lru_cache(maxsize=256)
def gap_table(activation: Activation, *, group_size: int, centered: bool, ddof: int) -> GapTable:
    """The table of a layer; parameters as for ``group_gap``."""
    return GapTable(activation, group_size, centered, ddof)
