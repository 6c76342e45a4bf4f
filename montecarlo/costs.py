"""What networks cost, estimated beforehand: seconds, bytes, and the method that follows from them."""

from __future__ import annotations

import math
import os
from typing import NamedTuple

import numpy as np

from montecarlo.collapsed import collapses, collapses_backward
from montecarlo.experiment import Experiment, Method
from theory.errors import out_of_domain
from theory.program import Conv, Flatten, GlobalAveragePool, Linear, lower
from theory.specs.grids import channels_of, needs_grid, shape_behind
from theory.specs.images import ImageInputs
from theory.specs.inputs import DataInputs, Inputs, position_shape_of
from theory.specs.networks import AveragePool, Layer, Network

__all__ = ["choose_method", "network_bytes", "network_seconds", "physical_memory"]

# An interpreter with its libraries.
_PROCESS = 200 * 2**20


def choose_method(
    network: Network, inputs: Inputs, *, method: str, width: int, backward: bool
) -> tuple[Method, str]:
    """The method and why, as half a sentence.

    Raises
    ------
    SpecificationError
        ``"collapsed"`` where no layer collapses, or where the law of the backward pass would not be
        exact.
    """
    # Of all schemes the first whose backward pass needs every entry of W, if there is one.
    schemes = [layer.weights for layer in network.layers]
    weights = next((w for w in schemes if not collapses_backward(w)), schemes[0])
    exact = collapses_backward(weights) or not backward
    if method == "direct":
        return "direct", "as asked"
    if not exact:
        reason = f"the backward pass of {weights.name} does not collapse"
        if method == "collapsed":
            raise out_of_domain(
                "method",
                method,
                f'"direct" or "auto" for {weights.name} with gradients',
                f"{reason}: given W x, the rest of each row has a prescribed norm; pass "
                "backward=False for the forward pass alone",
            )
        return "direct", reason
    if needs_grid(network, inputs):
        reason = "positions are not alike, and the collapsed law is not checked there"
        if method == "collapsed":
            raise out_of_domain(
                "method", method, '"direct" or "auto" with images, zero padding or strides', reason
            )
        return "direct", reason
    columns = _columns(inputs)
    widest = max(m.fan_in for m in _maps(network, inputs, width))
    if not collapses(widest, columns):
        if method == "collapsed":
            raise out_of_domain(
                "method",
                method,
                f'"direct" or "auto" at width {width} with {columns} samples times positions',
                f"a layer collapses if its {widest} inputs are more than these + 1",
            )
        return "direct", "the batch spans all inputs of a layer"
    if method == "collapsed":
        return "collapsed", "as asked"
    direct, collapsed = (_seconds(network, inputs, width, m) for m in ("direct", "collapsed"))
    chosen: Method = "collapsed" if collapsed < direct else "direct"
    low, high = sorted((direct, collapsed))
    other = "direct" if chosen == "collapsed" else "collapsed"
    return chosen, f"about {_short(low)} a network instead of {_short(high)} {other}"


def network_seconds(experiment: Experiment) -> float:
    """Estimated time of one network on one core, good to a factor of two or three."""
    return _seconds(experiment.network, experiment.inputs, experiment.width, experiment.method)


def network_bytes(experiment: Experiment, *, keep: bool) -> int:
    """Memory of one network at its peak: what the backward pass needs of every layer, and scratch."""
    maps = _maps(experiment.network, experiment.inputs, experiment.width)
    item = np.dtype(experiment.dtype).itemsize
    # Every layer has h and x (what W acts on, rotated where it collapses), and W or Z.
    drawn = [
        m.fan_out * (m.columns if experiment.method == "collapsed" and m.collapses else m.fan_in)
        for m in maps
    ]
    layers = [(m.fan_out + m.fan_in) * m.columns for m in maps]
    held = sum(layers) if experiment.backward else max(layers)
    held += sum(drawn) if keep and experiment.backward else max(drawn)
    # Scratch: half a dozen of the largest layer; inputs and observables in float64.
    return _PROCESS + item * (held + 6 * max(layers)) + 8 * 4 * max(layers)


def physical_memory() -> float:
    """Bytes of the machine; infinite where the system does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf


class _Map(NamedTuple):
    """One linear map: inputs and outputs of W, and the columns that it acts on."""

    fan_in: int
    fan_out: int
    columns: int

    @property
    def collapses(self) -> bool:
        return collapses(self.fan_in, self.columns)


def _maps(network: Network, inputs: Inputs, width: int) -> list[_Map]:
    """Every linear map; the first one sees the features of the data."""
    shape, batch = position_shape_of(inputs), int(inputs.batch)
    features = max(width, _columns(inputs) + 2)
    if isinstance(inputs, DataInputs):
        features = inputs.features.shape[1]
    elif isinstance(inputs, ImageInputs):
        features = inputs.channels
    maps = []
    for op in lower(network):
        match op:
            case Linear(channels=channels):
                fan_in, features = features, channels_of(width, channels)
                maps.append(_Map(fan_in, features, batch * math.prod(shape)))
            case Conv(_, kernel, padding, stride, channels):
                fan_in, features = features * kernel ** len(shape), channels_of(width, channels)
                layer = Layer(kernel=kernel, padding=padding, stride=stride)
                shape = shape_behind(layer, shape)
                maps.append(_Map(fan_in, features, batch * math.prod(shape)))
            case Flatten():
                features, shape = features * math.prod(shape), (1,)
            case AveragePool() | GlobalAveragePool():
                shape = shape_behind(op, shape)
            case _:
                pass
    return maps


def _columns(inputs: Inputs) -> int:
    """Samples times positions."""
    return int(inputs.batch) * inputs.positions


def _seconds(network: Network, inputs: Inputs, width: int, method: str) -> float:
    """Measured on one core, forward and backward with all observables, widths 64 to 8192."""
    total = 0.0
    for fan_in, fan_out, columns in _maps(network, inputs, width):
        entries = 0.5 * (fan_out + fan_in) * columns
        if method == "direct" or not collapses(fan_in, columns):
            total += 40 + 0.01 * entries + fan_out * fan_in * (0.0023 + 0.00007 * columns)
        else:
            small = 2 * columns + 0.0005 * columns**3
            total += 50 + small + entries * (0.009 + 0.00025 * columns)
    return 1e-6 * total


def _short(seconds: float) -> str:
    """Two digits with a unit."""
    rounded = float(f"{seconds:.2g}")
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if rounded >= size:
            return f"{rounded / size:g} {unit}"
    return f"{rounded / 1e-6:.0f} µs"
