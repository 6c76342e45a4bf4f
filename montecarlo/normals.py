"""Standard normals, fast: NumPy's SFC64 stream through a compiled ziggurat.

The numbers are those of ``Generator(SFC64(...)).standard_normal`` (up to rounding); the loop is
compiled here because drawing the weights is most of a direct simulation's time.  Each number uses
53 random bits in both formats: float32 weights are the float64 weights, rounded.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from montecarlo.jit import jit

__all__ = ["fill_standard_normal"]

# Marsaglia & Tsang 2000, 256 strips of equal area: right edge of the base strip.
_EDGE = 3.6541528853610087963519472518
_BITS = 52


def _tables() -> tuple[NDArray[np.float64], NDArray[np.uint64], NDArray[np.float64]]:
    """Strip i: width per count w_i, acceptance count k_i, density f_i at its right edge."""
    edge = np.longdouble("3.6541528853610087963519472518")
    tail = np.longdouble(math.sqrt(math.pi / 2.0) * math.erfc(_EDGE / math.sqrt(2.0)))
    area = edge * np.exp(-edge * edge / 2) + tail
    edges = np.empty(257, dtype=np.longdouble)
    edges[256] = area / np.exp(-edge * edge / 2)
    edges[255] = edge
    for i in range(254, 0, -1):
        right = edges[i + 1]
        edges[i] = np.sqrt(-2 * np.log(area / right + np.exp(-right * right / 2)))
    edges[0] = 0
    # Strip 0 is the base: a rectangle of width area/f(edge), of which the part right of the edge is
    # the tail.
    width = np.concatenate([edges[256:], edges[1:256]])
    inner = np.concatenate([edges[255:256], edges[:255]])
    count = np.longdouble(2) ** _BITS
    density = np.exp(-(edges[:256] ** 2) / 2)
    return (
        (width / count).astype(np.float64),
        (inner / width * count).astype(np.uint64),
        density.astype(np.float64),
    )


_WIDTH, _INNER, _DENSITY = _tables()
_MANTISSA = (1 << _BITS) - 1


@jit
def _next(state: Any) -> Any:
    """One SFC64 step (Doty-Humphrey): 64 random bits."""
    a, b, c, counter = state[0], state[1], state[2], state[3]
    output = a + b + counter
    state[0] = b ^ (b >> np.uint64(11))
    state[1] = c + (c << np.uint64(3))
    state[2] = ((c << np.uint64(24)) | (c >> np.uint64(40))) + output
    state[3] = counter + np.uint64(1)
    return output


@jit
def _uniform(state: Any) -> float:
    """Uniform on [0, 1), 53 bits."""
    return float(_next(state) >> np.uint64(11)) * 2.0**-53


@jit
def _edge_case(state: Any, strip: Any, bits: Any, x: float) -> float:
    """Outside a strip's inner rectangle (1.5 % of draws): the value, or NaN to draw again."""
    if strip == 0:
        while True:
            beyond = -math.log1p(-_uniform(state)) / _EDGE
            height = -math.log1p(-_uniform(state))
            if 2.0 * height > beyond * beyond:
                negative = (bits >> np.uint64(17)) & np.uint64(1)
                return -(_EDGE + beyond) if negative else _EDGE + beyond
    drop = (_DENSITY[strip - 1] - _DENSITY[strip]) * _uniform(state)
    return x if drop + _DENSITY[strip] < math.exp(-0.5 * x * x) else math.nan


@jit
def _fill(state: Any, out: Any) -> None:
    flat = out.reshape(-1)
    a, b, c, counter = state[0], state[1], state[2], state[3]
    i = 0
    while i < flat.size:
        # _next, written out: the state stays in registers.
        bits = a + b + counter
        a = b ^ (b >> np.uint64(11))
        b = c + (c << np.uint64(3))
        c = ((c << np.uint64(24)) | (c >> np.uint64(40))) + bits
        counter += np.uint64(1)

        strip = bits & np.uint64(0xFF)
        magnitude = (bits >> np.uint64(9)) & np.uint64(_MANTISSA)
        x = float(np.int64(magnitude)) * _WIDTH[strip]
        x = -x if bits & np.uint64(0x100) else x
        if magnitude >= _INNER[strip]:
            state[0], state[1], state[2], state[3] = a, b, c, counter
            x = _edge_case(state, np.int64(strip), bits, x)
            a, b, c, counter = state[0], state[1], state[2], state[3]
            if math.isnan(x):
                continue
        flat[i] = x
        i += 1
    state[0], state[1], state[2], state[3] = a, b, c, counter


def fill_standard_normal(sequence: np.random.SeedSequence, out: NDArray[Any]) -> None:
    """Fill ``out`` (C-contiguous, float32 or float64) with independent N(0, 1) numbers."""
    state: Any = np.random.SFC64(sequence).state["state"]["state"]
    _fill(state.copy(), out)
