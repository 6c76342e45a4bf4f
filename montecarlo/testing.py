"""Laws of the simulation, for ``theory.testing.run`` and ``check_normalizer``: N(h) and its pull-back.

Each is about one array of pre-activations; ``agreement`` holds the law about whole networks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from montecarlo import agreement
from montecarlo.network import NormActStep, normact
from theory.errors import HypothesisError
from theory.specs.activations import identity
from theory.specs.normalizers import Normalizer
from theory.testing.arrays import Pooled, any_norm, pooled, pooled_corners
from theory.testing.cases import Case, predictable_layers, simulated_cases
from theory.testing.checks import close, law
from theory.testing.runner import Law, NotApplicable

__all__ = ["LAWS"]

FloatArray = NDArray[np.float64]

_REGISTER: dict[str, Law] = {}
LAWS: Mapping[str, Law] = MappingProxyType(_REGISTER)

_law = partial(law, layers=any_norm, subjects=pooled, corners=pooled_corners, into=_REGISTER)
# Roundings of the sums over a pool, in units of the result times the condition |h|/R of the division.
_ROUNDING = 256.0 * float(np.finfo(np.float64).eps)


def _apply(case: Pooled, h: FloatArray, norm: Normalizer | None = None) -> FloatArray:
    """x = phi(N(h))."""
    return _step(case, h, norm)[0]


def _step(
    case: Pooled, h: FloatArray, norm: Normalizer | None = None
) -> tuple[FloatArray, NormActStep]:
    norm = case.layer.norm if norm is None else norm
    return normact(norm, case.layer.activation, np.ascontiguousarray(h), positions=case.positions)


def _norm(case: Pooled) -> Normalizer:
    if case.layer.norm is None:
        raise NotApplicable
    return case.layer.norm


def _near(what: str, one: FloatArray, other: FloatArray, condition: float) -> None:
    close(what, one, other, _ROUNDING * condition * (1.0 + np.abs(one).max()))


@_law("N(a h + b) with eps a^2 is N(h) for every b that a pool shares, if its mean is subtracted")
def normalizers_ignore_units(case: Pooled) -> None:
    """Without centering for b = 0; mean centering alone gives a N(h)."""
    norm, h = _norm(case), case.h
    rng = case.rng(1)
    a = float(np.exp(rng.uniform(-2.0, 2.0)))
    shift = np.zeros_like(h)
    about_mean = norm.centered and norm.denominator in ("std", "none")
    if about_mean:
        blocks = case.blocks(shift)
        blocks += rng.standard_normal(
            [1 if i in case.axes else n for i, n in enumerate(blocks.shape)]
        )
    scaled = norm
    if norm.denominator != "none":
        gate = norm.gate
        if gate is not None and norm.denominator == "std":
            gate = gate / a
        scaled = dataclasses.replace(norm, eps=norm.eps * a * a, gate=gate)
    linear = dataclasses.replace(case, layer=dataclasses.replace(case.layer, activation=identity))
    factor = a if norm.denominator == "none" else 1.0
    moved = a * h + shift
    condition = case.condition(moved, eps=scaled.eps) * max(a, 1.0)
    _near("N(a h + b)", factor * _apply(linear, h), _apply(linear, moved, scaled), condition)


@_law("permuted samples, positions, channels or groups give permuted activations and gradients")
def normalizers_are_equivariant(case: Pooled) -> None:
    """Channels within their group, and whole groups."""
    h, delta = case.h, case.rng(1).standard_normal(case.h.shape)
    rng = case.rng(2)
    order = [rng.permutation(n) for n in case.blocks(h).shape]

    def permuted(values: FloatArray) -> FloatArray:
        return case.blocks(values)[np.ix_(*order)].reshape(values.shape)

    x, step = _step(case, h)
    y, other = _step(case, permuted(h))
    condition = case.condition()
    _near("x", permuted(x), y, condition)
    pulled = other.backward(permuted(delta))
    _near("gradient", permuted(step.backward(delta)), pulled, condition**2)


@_law("the gradient of a pool sums to zero about a mean, and is orthogonal to h if N(a h) = N(h)")
def gradients_are_orthogonal(case: Pooled) -> None:
    """1'g = 0 and h'g = 0 over every pool."""
    norm = _norm(case)
    h, delta = case.h, case.rng(1).standard_normal(case.h.shape)
    g = case.blocks(_step(case, h)[1].backward(delta))
    size = _ROUNDING * case.condition() ** 2 * np.abs(g).max() * g.size
    if norm.centered and norm.denominator in ("std", "none"):
        close("1'g", g.sum(axis=case.axes), 0.0, size)
    free = norm.denominator != "none" and norm.eps == 0.0
    if free and (norm.gate is None or norm.denominator == "evonorm_b0"):
        close("h'g", (case.blocks(h) * g).sum(axis=case.axes), 0.0, size * np.abs(h).max())


@_law("the backward pass is the derivative")
def backward_is_the_derivative(case: Pooled) -> None:
    """delta'J u by central differences of two steps, away from kinks."""
    h, delta = case.h, case.rng(1).standard_normal(case.h.shape)
    u = case.rng(2).standard_normal(h.shape) * case.spread
    step = 1e-5
    linear = dataclasses.replace(case, layer=dataclasses.replace(case.layer, activation=identity))
    signs = {np.sign(_apply(linear, h + t * u)).tobytes() for t in (-step, 0.0, step)}
    norm = case.layer.norm
    if norm is not None and norm.denominator == "evonorm_b0":
        raise NotApplicable  # its maximum has kinks that no sign shows; tests/ pins them
    if len(signs) > 1:
        raise NotApplicable
    pulled = float(np.sum(_step(case, h)[1].backward(delta) * u))

    def central(t: float) -> float:
        return float(np.sum(delta * (_apply(case, h + t * u) - _apply(case, h - t * u)))) / (2 * t)

    fine, coarse = central(step / 2.0), central(step)
    # Halving the step takes three quarters of an error of second order away, and doubles the rounding.
    size = _ROUNDING * case.condition() * np.abs(_apply(case, h)).max() * h.size / step
    close("delta'J u", pulled, fine, 10.0 * abs(fine - coarse) + size)


@_law("a pool without variance is refused at eps = 0, and only there")
def zero_variance_is_refused(case: Pooled) -> None:
    """0/0 raises; BN of identical samples is such a pool."""
    norm = _norm(case)
    if norm.denominator == "evonorm_b0":
        raise NotApplicable  # it divides by v h where its statistics vanish
    h = np.full_like(case.h, 0.0 if norm.denominator == "rms" else 0.1)
    try:
        x = _apply(case, h)
    except HypothesisError:
        assert norm.eps == 0.0
        assert norm.denominator != "none"
        return
    assert norm.eps > 0.0 or norm.denominator == "none"
    assert np.isfinite(x).all()


@_law("a pool of two values about their mean is +-1 and passes no gradient")
def rank_one_keeps_signs(case: Pooled) -> None:
    """N(h) = +- sqrt((2 - ddof)/2)."""
    norm = _norm(case)
    two = dataclasses.replace(
        norm,
        pool=dataclasses.replace(norm.pool, samples=False, positions=False, channels=2),
        centered=True,
        denominator="std",
        gate=None,
        eps=0.0,
    )
    h = case.rng(3).standard_normal((2 * case.channels, case.samples * case.positions))
    x, step = normact(two, identity, h, positions=case.positions)
    # What h_1 - h_2 loses of h.
    pairs = np.abs(h).max() / np.abs(h[::2] - h[1::2]).min()
    close("|N(h)|", np.abs(x), math.sqrt((2.0 - two.ddof) / 2.0), _ROUNDING * pairs)
    close("gradient", step.backward(np.ones_like(h)), 0.0, 0.0)


@_law("equal pools normalize equally, whatever they are called")
def equal_pools_are_equal(case: Pooled) -> None:
    """GN(n) = LN, IN of one sample = BN, no positions = one position, LN = RMSNorm if h has no mean."""
    norm, h = _norm(case), case.h
    x = _apply(case, h)

    def with_pool(**changes: Any) -> Normalizer:
        return dataclasses.replace(norm, pool=dataclasses.replace(norm.pool, **changes))

    single = norm.denominator != "evonorm_b0"
    if single and case.pool_shape[0] == case.channels:
        for channels in (math.inf, case.channels):
            close("GN(n) and LN", _apply(case, h, with_pool(channels=channels)), x, 0.0)
    if single and case.samples == 1:
        for samples in (True, False):
            _near("one sample", x, _apply(case, h, with_pool(samples=samples)), case.condition())
    if case.positions == 1:
        for positions in (True, False):
            close("one position", _apply(case, h, with_pool(positions=positions)), x, 0.0)
    if norm.gate is None and norm.denominator != "none":
        blocks = case.blocks(h)
        flat = (blocks - blocks.mean(axis=case.axes, keepdims=True)).reshape(h.shape)
        plain = dataclasses.replace(norm, ddof=0, denominator="rms")
        one = _apply(case, flat, plain)
        about_mean = dataclasses.replace(plain, denominator="std")
        for other in (plain, about_mean):
            for centered in (True, False):
                _near(
                    "no mean",
                    one,
                    _apply(case, flat, dataclasses.replace(other, centered=centered)),
                    case.condition(),
                )


@law(
    "a few simulated networks agree with the prediction",
    layers=predictable_layers,
    subjects=simulated_cases,
    into=_REGISTER,
)
def simulation_agrees(case: Case) -> None:
    """See ``montecarlo.agreement``."""
    agreement.check_agreement(case.network, case.inputs, seed=case.seed)
