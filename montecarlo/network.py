"""Run one random network through its program, forward and backward.

The program is the list that the theory interprets too (``theory.program.lower``).  ``Fork`` keeps x for
``Merge``; backwards, ``Merge`` keeps the gradient that goes over the skip for ``Fork``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from montecarlo import compiled
from montecarlo.activations import ActivationCode, encode_activation
from montecarlo.compiled import NormCode
from montecarlo.convolution import ConvMap, Geometry
from montecarlo.linear import LinearMap, Sampler
from montecarlo.observables import Recorder
from theory.errors import HypothesisError, NumericalError, out_of_domain
from theory.program import Conv, Fork, Linear, Merge, NormAct, Observe, Operation, Scale
from theory.specs.activations import Activation
from theory.specs.normalizers import Normalizer

__all__ = ["NormActStep", "normact", "run"]

Array = NDArray[Any]


class Step(Protocol):
    """Anything on the tape that pulls a gradient back."""

    def backward(self, delta: Array) -> Array:
        """Return J' delta."""
        ...


@dataclass(frozen=True)
class ScaleStep:
    """x -> factor x."""

    factor: float

    def backward(self, delta: Array) -> Array:
        """factor dx."""
        return _times(self.factor, delta)


@dataclass(frozen=True)
class ForkStep:
    """x goes two ways; ``kept`` holds the gradients of skips still open."""

    kept: list[Array]

    def backward(self, delta: Array) -> Array:
        """The sum of both ways' gradients."""
        return self.kept.pop() + delta


@dataclass(frozen=True)
class MergeStep:
    """skip (what was kept) + branch x."""

    skip: float
    branch: float
    kept: list[Array]

    def backward(self, delta: Array) -> Array:
        """skip dx over the skip, branch dx into the branch."""
        self.kept.append(_times(self.skip, delta))
        return _times(self.branch, delta)


@dataclass(frozen=True)
class NormActStep:
    """What the backward pass of x = phi(N(h)) needs."""

    h: Array
    mean: Array
    root: Array
    norm: NormCode
    phi: ActivationCode
    constant: bool

    def backward(self, delta: Array) -> Array:
        """dh = J' dx, the statistics of the pool included."""
        # Two values about their mean normalize to +1 and -1: the Jacobian is exactly zero, and
        # rounding would leave noise where the theory says 0.
        if self.constant:
            return np.zeros_like(self.h)
        gradient = np.empty_like(self.h)
        compiled.normact_backward(
            self.h, delta, gradient, self.mean, self.root, self.norm, self.phi
        )
        return gradient


def normact(
    norm: Normalizer | None, activation: Activation, h: Array, *, positions: int = 1
) -> tuple[Array, NormActStep]:
    """x = phi(N(h)) for h of shape (channels, batch * positions), and the step backwards.

    Raises
    ------
    HypothesisError
        A pool has zero variance while eps = 0: N(h) = 0/0.
    """
    channels, batch = len(h), h.shape[1] // positions
    code = compiled.encode_norm(norm, channels=channels, positions=positions)
    phi = encode_activation(activation)
    blocks = channels // code.group
    x = np.empty_like(h)
    mean, root = np.empty((2, *compiled.statistics_shape(code, channels=channels, batch=batch)))
    failed = compiled.normact_forward(h, x, mean, root, code, phi)
    if failed >= 0:
        assert norm is not None
        raise HypothesisError(
            f"A pool of {norm.name} has zero variance (channel block {failed} of {blocks}, "
            f"{h.dtype}) and eps = 0, so its normalized value is 0/0: the samples have collapsed, "
            "or equal numbers met by rounding.  Use eps > 0 (theory.torch_defaults(network)), "
            'dtype="float64", a smaller depth, or inputs that differ more.'
        )
    return x, NormActStep(h, mean, root, code, phi, _constant(norm, channels, batch, positions))


def run(
    program: tuple[Operation, ...],
    inputs: Array,
    *,
    width: int,
    sampler: Sampler,
    cotangent: Array | None,
    shape: tuple[int, ...] = (1,),
) -> Array:
    """Observables of one network, shape (observables, depth): those of ``observables_of``.

    Parameters
    ----------
    program
        From ``theory.program.lower``.
    inputs
        x^0, shape (n_0, batch * positions).
    width
        Channels of every layer.
    sampler
        Draws the linear maps.
    cotangent
        dloss/dx^L, shape (width, batch * positions); without it, None, gradients are NaN.
    shape
        Positions of a sample: (S,) on a ring, (H, W) on a torus.

    Raises
    ------
    HypothesisError
        A pool has zero variance while eps = 0.
    NumericalError
        The stream left the range of the floating-point format.
    SpecificationError
        The skip of a residual network joins x^0 with other than ``width`` features to a block's output.
    """
    residual = Observe("stream") in program
    read = Observe("stream" if residual else "activation")
    depth = sum(operation == read for operation in program)
    positions = math.prod(shape)
    batch = inputs.shape[1] // positions
    recorder = Recorder(depth=depth, batch=batch, positions=positions, branches=residual)
    # Overflow is looked for at every layer, so NumPy need not warn about it as well.
    with np.errstate(over="ignore", invalid="ignore"):
        tape = _forward(
            program, inputs, width=width, sampler=sampler, recorder=recorder, shape=shape
        )
        if cotangent is not None:
            _backward(list(tape), cotangent, residual=residual, depth=depth, recorder=recorder)
        else:
            deque(tape, maxlen=0)  # run through it, keep nothing
    return recorder.table()


def _forward(
    program: tuple[Operation, ...],
    x: Array,
    *,
    width: int,
    sampler: Sampler,
    recorder: Recorder,
    shape: tuple[int, ...],
) -> Iterator[Step | str]:
    """Interpret the program; yields its steps in order and, where something is read, what."""
    layer, block = 0, 0
    streams: list[Array] = []
    gradients: list[Array] = []
    for operation in program:
        match operation:
            case Linear(weights):
                linear: LinearMap = sampler.draw(weights, fan_in=len(x), fan_out=width, layer=layer)
                x = linear.forward(x)
                yield linear
                layer += 1
            case Conv(weights, kernel):
                geometry = Geometry(shape, kernel)
                fan_in = len(x) * geometry.offsets
                drawn = sampler.draw(weights, fan_in=fan_in, fan_out=width, layer=layer)
                conv = ConvMap(drawn, geometry)
                x = conv.forward(x)
                yield conv
                layer += 1
            case NormAct(norm, activation):
                x, step = normact(norm, activation, x, positions=math.prod(shape))
                yield step
            case Scale(factor):
                x = _times(factor, x)
                yield ScaleStep(factor)
            case Fork():
                streams.append(x)
                yield ForkStep(gradients)
            case Merge(skip, branch):
                x = _merged(streams.pop(), x, skip, branch)
                yield MergeStep(skip, branch, gradients)
            case Observe("preactivation"):
                _require_finite(recorder.preactivation(x), x, block + 1)
                yield "preactivation"
            case Observe(what):
                block += 1
                _require_finite(recorder.activation(x), x, block)
                yield what


def _backward(
    tape: list[Step | str], delta: Array, *, residual: bool, depth: int, recorder: Recorder
) -> None:
    """Pull delta = dloss/dx^L back to the first reading, recording log |g^l|^2.

    It is read at h^l, or ``residual`` at the stream and then at the branch's h^l.  The pull-back is linear,
    so g is brought back to unit size at every reading and the logarithm of its size kept: neither
    growth nor decay leaves the floating-point range.  In a branch the skip is open and g stays.
    """
    log_scale = 0.0
    layer, readings = depth, 2 * depth if residual else depth
    # What lies before the first reading is not observed: it is skipped.
    while readings > 0:
        step = tape.pop()
        if not isinstance(step, str):
            delta = step.backward(delta)
            continue
        if step == "activation":
            continue
        readings -= 1
        in_branch = residual and step == "preactivation"
        layer -= not in_branch
        square = compiled.sum_of_squares(delta)
        if not math.isfinite(square):
            raise NumericalError(
                f"The gradient at layer {layer + 1} is not finite in {delta.dtype}: a pool's "
                'variance is too small for its reciprocal.  Use eps > 0 or dtype="float64".'
            )
        log_square = math.log(square) + 2.0 * log_scale if square > 0.0 else -math.inf
        if in_branch:
            recorder.branch_gradient(layer, log_square)
            continue
        if square == 0.0:
            for below in range(layer + 1):
                recorder.gradient(below, -math.inf)
                recorder.branch_gradient(below, -math.inf)
            return
        recorder.gradient(layer, log_square)
        exponent = math.frexp(math.sqrt(square / delta.size))[1]
        if abs(exponent) > 8:
            delta = _times(math.ldexp(1.0, -exponent), delta)
            log_scale += exponent * math.log(2.0)


def _times(factor: float, x: Array) -> Array:
    """factor x, in the format of x."""
    return x if factor == 1.0 else x.dtype.type(factor) * x


def _merged(stream: Array, x: Array, skip: float, branch: float) -> Array:
    if stream.shape != x.shape:
        raise out_of_domain(
            "width",
            len(x),
            f"{len(stream)}, the features of x^0, which the first skip adds to a block's output",
            "choose that width, or give the network a stem: Residual(..., stem=gaussian())",
        )
    return _times(skip, stream) + _times(branch, x)


def _require_finite(second_moment: float, x: Array, layer: int) -> None:
    if not math.isfinite(second_moment):
        raise NumericalError(
            f"The values of layer {layer} overflow {x.dtype}: the network grows too fast for this "
            'format.  Use dtype="float64", fewer layers, or a smaller weight_variance.'
        )


def _constant(norm: Normalizer | None, channels: int, batch: int, positions: int) -> bool:
    """Whether N(h) can only be +-1: a centered pool of two with its own std (rank 1), eps = 0."""
    if norm is None or norm.eps > 0.0 or not norm.centered or norm.denominator != "std":
        return False
    group = min(norm.pool.channels, channels)
    over_samples = batch if norm.pool.samples else 1
    return group * over_samples * (positions if norm.pool.positions else 1) == 2
