"""Convolutions as linear maps: h = W columns(x), delta -> columns'(W' delta).

Activations are C-contiguous (channels, batch * positions), the positions of one sample side by side
in C order.  ``columns`` puts the k^d inputs that each position sees under one another (im2col), so a
convolution is a matrix product with W of shape (n_out, n_in k^d), whose rows read (channel, offset)
as PyTorch's do; ``columns'`` is its transpose (col2im).  A geometry says by a table which position
sees which; padding and strides are other tables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from montecarlo.jit import jit
from theory.errors import out_of_domain

if TYPE_CHECKING:
    from montecarlo.linear import LinearMap

__all__ = ["ConvMap", "Geometry", "conv_columns", "conv_columns_transposed"]

Array = NDArray[Any]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Geometry:
    """Positions on a ring or torus and the k^d of them that a position sees: stride 1, circular.

    Offsets run from -((k - 1) // 2) to k // 2 in every direction: centered for odd k; for even k one
    more to the right, as PyTorch's ``padding="same"``.

    Parameters
    ----------
    shape
        (S,) for a ring, (H, W) for a torus.
    kernel
        k, the same in every direction; at most the shortest side.

    Raises
    ------
    SpecificationError
        A side or kernel below 1, more than two directions, a kernel longer than a side.
    """

    shape: tuple[int, ...]
    kernel: int

    def __post_init__(self) -> None:
        shape = self.shape
        if not isinstance(shape, tuple) or len(shape) not in (1, 2) or not all(map(_count, shape)):
            raise out_of_domain(
                "shape", shape, "(S,) or (H, W), integers >= 1", "give the positions' sides"
            )
        if not _count(self.kernel):
            raise out_of_domain("kernel", self.kernel, "an integer >= 1", "use 3, say")
        if self.kernel > min(shape):
            raise out_of_domain(
                "kernel",
                self.kernel,
                f"at most {min(shape)}, the shortest side of shape {shape}",
                "shorten the kernel or take more positions: a longer one would meet itself",
            )

    @property
    def positions(self) -> int:
        """S: positions of the input."""
        return math.prod(self.shape)

    @property
    def offsets(self) -> int:
        """k^d: positions that one position sees."""
        return int(self.kernel ** len(self.shape))

    @cached_property
    def table(self) -> IntArray:
        """Input position that each output position sees, (offsets, outputs); -1: none, a zero."""
        first = -((self.kernel - 1) // 2)
        sides = [
            (np.arange(first, first + self.kernel)[:, None] + np.arange(side)) % side
            for side in self.shape
        ]
        table = sides[0]
        for side, steps in zip(self.shape[1:], sides[1:], strict=True):
            table = table[:, None, :, None] * side + steps[None, :, None, :]
            table = table.reshape(table.shape[0] * table.shape[1], -1)
        return _frozen(table)

    @cached_property
    def seen_by(self) -> IntArray:
        """Output position that sees each input position, (offsets, positions); -1: none.

        An offset leads to an input position from one output position at most.
        """
        inverse = np.full((self.offsets, self.positions), -1)
        offset, output = np.nonzero(self.table >= 0)
        inverse[offset, self.table[offset, output]] = output
        return _frozen(inverse)


@dataclass(frozen=True)
class ConvMap:
    """h = W columns(x): a convolution with the weights of ``linear``, of fan-in n_in k^d.

    Subtracting a row's mean from W (centered weights) is subtracting from the columns their mean
    over (channel, offset), which ``linear`` does.
    """

    linear: LinearMap
    geometry: Geometry

    def forward(self, x: Array) -> Array:
        """Return W columns(x), shape (n_out, batch * outputs)."""
        return self.linear.forward(conv_columns(x, self.geometry))

    def backward(self, delta: Array) -> Array:
        """Return columns'(W' delta), shape (n_in, batch * positions)."""
        return conv_columns_transposed(self.linear.backward(delta), self.geometry)


def conv_columns(x: Array, geometry: Geometry) -> Array:
    """columns[(c, o), (b, t)] = x[c, (b, table[o, t])], or 0 where the table says -1.

    Parameters
    ----------
    x
        Shape (channels, batch * positions), C-contiguous.
    geometry
        Which position sees which.

    Raises
    ------
    SpecificationError
        A second dimension that is no multiple of the geometry's positions.
    """
    table = geometry.table
    batch = _batch("x", x, geometry.positions, geometry)
    columns = np.empty((len(x) * len(table), batch * table.shape[1]), dtype=x.dtype)
    _gather(x, table, geometry.positions, columns)
    return columns


def conv_columns_transposed(columns: Array, geometry: Geometry) -> Array:
    """x[c, (b, p)] = sum of columns[(c, o), (b, t)] over the (o, t) with table[o, t] = p.

    Parameters
    ----------
    columns
        Shape (channels * offsets, batch * outputs), C-contiguous.
    geometry
        Which position sees which.

    Raises
    ------
    SpecificationError
        A shape that is no multiple of (offsets, outputs).
    """
    offsets, outputs = geometry.table.shape
    batch = _batch("columns", columns, outputs, geometry)
    if len(columns) % offsets:
        raise out_of_domain(
            "columns",
            columns.shape,
            f"of a multiple of {offsets} rows for {geometry}",
            "give a row to each (channel, offset)",
        )
    x = np.empty((len(columns) // offsets, batch * geometry.positions), dtype=columns.dtype)
    _gather_sum(columns, geometry.seen_by, outputs, x)
    return x


@jit
def _gather(x: Any, table: Any, positions: int, columns: Any) -> None:
    offsets, outputs = table.shape
    batch = x.shape[1] // positions
    zero = np.zeros(1, x.dtype)[0]
    for c in range(len(x)):
        for o in range(offsets):
            for b in range(batch):
                source = x[c, b * positions : (b + 1) * positions]
                out = columns[c * offsets + o, b * outputs : (b + 1) * outputs]
                for t in range(outputs):
                    # Unsigned: Numba would wrap a negative index, and the loop not vectorize.
                    p = table[o, t]
                    out[t] = source[np.uint64(p)] if p >= 0 else zero


@jit
def _gather_sum(columns: Any, seen_by: Any, outputs: int, x: Any) -> None:
    offsets, positions = seen_by.shape
    batch = columns.shape[1] // outputs
    zero = np.zeros(1, x.dtype)[0]
    for c in range(len(x)):
        for b in range(batch):
            out = x[c, b * positions : (b + 1) * positions]
            for o in range(offsets):
                source = columns[c * offsets + o, b * outputs : (b + 1) * outputs]
                for p in range(positions):
                    t = seen_by[o, p]
                    value = source[np.uint64(t)] if t >= 0 else zero
                    out[p] = value + (out[p] if o > 0 else zero)


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _frozen(table: IntArray) -> IntArray:
    table = np.ascontiguousarray(table, dtype=np.int64)
    table.flags.writeable = False
    return table


def _batch(name: str, array: Array, per_sample: int, geometry: Geometry) -> int:
    flat = isinstance(array, np.ndarray) and array.ndim == 2
    batch, rest = divmod(array.shape[1], per_sample) if flat else (0, 1)
    if rest:
        raise out_of_domain(
            name,
            np.shape(array),
            f"two axes with a multiple of {per_sample} columns for {geometry}",
            "lay out (channels, batch, positions) and flatten the last two",
        )
    return batch
