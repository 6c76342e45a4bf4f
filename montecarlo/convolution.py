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
from theory.specs._check import integer

if TYPE_CHECKING:
    from montecarlo.linear import LinearMap

__all__ = [
    "AverageMap",
    "ConvMap",
    "FlattenMap",
    "Geometry",
    "GlobalAverageMap",
    "conv_columns",
    "conv_columns_transposed",
]

Array = NDArray[Any]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Geometry:
    """Positions on a grid and the k^d of them that every output position sees.

    Output t sees the positions stride t + o, o from -((k - 1) // 2) to k // 2 in every direction:
    centered for odd k; for even k one more to the right, as PyTorch's ``padding="same"``.

    Parameters
    ----------
    shape
        (S,) or (H, W).
    kernel
        k, the same in every direction.
    padding
        ``"circular"``: a ring or torus, k at most its shortest side.  ``"zero"``: nothing beyond the
        border.  ``"none"``: windows of o = 0, ..., k - 1 that lie within the sides.
    stride
        Outputs per direction: ceil(side / stride); with ``"none"`` as many as fit.

    Raises
    ------
    SpecificationError
        A side, kernel or stride below 1, more than two directions, another padding, a kernel that
        is too long.
    """

    shape: tuple[int, ...]
    kernel: int
    padding: str = "circular"
    stride: int = 1

    def __post_init__(self) -> None:
        shape = self.shape
        if not isinstance(shape, tuple) or len(shape) not in (1, 2):
            raise out_of_domain(
                "shape", shape, "(S,) or (H, W), integers >= 1", "give the positions' sides"
            )
        remedy = "give the positions' sides"
        shape = tuple(integer("shape", side, low=1, remedy=remedy) for side in shape)
        object.__setattr__(self, "shape", shape)
        for name in ("kernel", "stride"):
            size = integer(name, getattr(self, name), low=1, remedy="use 3, say")
            object.__setattr__(self, name, size)
        if self.padding not in ("circular", "zero", "none"):
            raise out_of_domain(
                "padding", self.padding, "circular, zero or none", "check the spelling"
            )
        longest, what = min(shape), "the shortest side"
        if self.padding == "zero":
            longest, what = 2 * longest + 1, "beyond which its ends only see zeros, for sides"
        if self.kernel > longest:
            raise out_of_domain(
                "kernel",
                self.kernel,
                f"at most {longest}, {what} of shape {shape}",
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

    @property
    def output(self) -> tuple[int, ...]:
        """Sides of the output."""
        if self.padding == "none":
            return tuple((side - self.kernel) // self.stride + 1 for side in self.shape)
        return tuple(-(-side // self.stride) for side in self.shape)

    @cached_property
    def table(self) -> IntArray:
        """Input position that each output position sees, (offsets, outputs); -1: none, a zero."""
        sides = [self._steps(*sizes) for sizes in zip(self.shape, self.output, strict=True)]
        table = sides[0]
        for side, steps in zip(self.shape[1:], sides[1:], strict=True):
            first, second = table[:, None, :, None], steps[None, :, None, :]
            seen = np.where((first < 0) | (second < 0), -1, first * side + second)
            table = seen.reshape(seen.shape[0] * seen.shape[1], -1)
        return _frozen(table)

    def _steps(self, side: int, outputs: int) -> IntArray:
        """The table of one direction."""
        first = 0 if self.padding == "none" else -((self.kernel - 1) // 2)
        seen = first + np.arange(self.kernel)[:, None] + self.stride * np.arange(outputs)
        if self.padding == "circular":
            return seen % side
        return np.where((seen >= 0) & (seen < side), seen, -1)

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


@dataclass(frozen=True)
class AverageMap:
    """Every output is the mean of the positions that it sees."""

    geometry: Geometry

    def forward(self, x: Array) -> Array:
        """Mean over the offsets, shape (n, batch * outputs)."""
        offsets = self.geometry.offsets
        columns = conv_columns(x, self.geometry)
        return columns.reshape(len(x), offsets, -1).mean(axis=1, dtype=np.float64).astype(x.dtype)

    def backward(self, delta: Array) -> Array:
        """Every position gets its share, 1/offsets, of the outputs that see it."""
        offsets = self.geometry.offsets
        share = delta / delta.dtype.type(offsets)
        return conv_columns_transposed(np.repeat(share, offsets, axis=0), self.geometry)


@dataclass(frozen=True)
class GlobalAverageMap:
    """(n, batch * S) -> (n, batch): the mean over the positions of each sample."""

    positions: int

    def forward(self, x: Array) -> Array:
        """Mean over positions."""
        means = x.reshape(len(x), -1, self.positions).mean(axis=2, dtype=np.float64)
        return np.ascontiguousarray(means, dtype=x.dtype)

    def backward(self, delta: Array) -> Array:
        """delta / S at every position."""
        return np.repeat(delta / delta.dtype.type(self.positions), self.positions, axis=1)


@dataclass(frozen=True)
class FlattenMap:
    """(n, batch * S) -> (n S, batch), features in the order (channel, position) as PyTorch's."""

    positions: int

    def forward(self, x: Array) -> Array:
        """Positions become features."""
        split = x.reshape(len(x), -1, self.positions)
        return np.ascontiguousarray(split.transpose(0, 2, 1)).reshape(-1, split.shape[1])

    def backward(self, delta: Array) -> Array:
        """Features become positions."""
        split = delta.reshape(-1, self.positions, delta.shape[1])
        return np.ascontiguousarray(split.transpose(0, 2, 1)).reshape(len(split), -1)


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
