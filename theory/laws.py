"""Which pre-activations are Gaussian: the hypothesis behind every Gaussian route, as data.

A linear map with fresh weights makes Gaussian channels of anything; sums of Gaussian streams and
multiples by numbers stay Gaussian; an activation or a finite pool does not.  Second moments alone decide
what comes out of linear maps, sums, and normalizers that divide by one number, whatever the law.
"""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache

from theory.program import Conv, Fork, Linear, Merge, NormAct, Scale, lower
from theory.specs.images import ImageInputs
from theory.specs.inputs import DataInputs, Inputs
from theory.specs.networks import Network
from theory.specs.residual import Residual

__all__ = ["non_gaussian", "only_rescales"]


def non_gaussian(network: Network, inputs: Inputs) -> str | None:
    """None if every pool and activation of ``network`` acts on Gaussians, else what does not, and why."""
    if not isinstance(network, Residual):
        return None
    gaussian = not isinstance(inputs, DataInputs | ImageInputs) and not _has_mean(inputs)
    # The law after two blocks is that after any number: it can only cease to be Gaussian.
    short = min(network.depth, 2)
    start = dataclasses.replace(network, depth=short, scales=network.scales[:short])
    return _first_departure(start, gaussian, inputs.batch == math.inf)


def only_rescales(op: NormAct) -> bool:
    """Whether phi(N(x)) is (x - mean over all channels)/number: second moments alone decide it."""
    norm = op.norm
    if op.activation.name != "identity" or op.activation.shift != 0.0:
        return False
    if norm is None:
        return True
    alone = not norm.pool.samples and norm.gate is None
    return alone and norm.denominator != "none" and norm.pool.channels == math.inf


def _has_mean(inputs: Inputs) -> bool:
    mean = inputs.feature_mean
    return bool(mean) if isinstance(mean, float) else bool(mean.any())


@lru_cache(maxsize=256)
def _first_departure(network: Residual, gaussian: bool, infinite_batch: bool) -> str | None:
    acts_on = "x^0, which is data or has a mean over its features (give the network a stem)"
    kept: list[bool] = []
    for op in lower(network):
        match op:
            case Linear() | Conv():
                gaussian, acts_on = True, "a stream that is not Gaussian"
            case Fork():
                kept.append(gaussian)
            case Merge():
                stream = kept.pop()
                # A branch of 0 adds nothing, whatever it ends in.
                gaussian = stream and (gaussian or op.branch == 0.0)
                acts_on = "a stream that is not Gaussian" if not gaussian else acts_on
            case NormAct() if not gaussian and not only_rescales(op):
                what = op.activation.name if op.norm is None else op.norm.name
                return f"{what} acts on {acts_on}"
            case NormAct():
                gaussian = gaussian and _stays_gaussian(op, infinite_batch)
            case Scale():
                pass
    return None


def _stays_gaussian(op: NormAct, infinite_batch: bool) -> bool:
    norm, plain = op.norm, op.activation.name == "identity" and op.activation.shift == 0.0
    if not plain or (norm is not None and norm.gate is not None):
        return False
    if norm is None or norm.denominator == "none" or norm.pool.channels == math.inf:
        return True
    return norm.pool.samples and infinite_batch
