"""Laws of the expectations over one pool: derivatives, adjoints, and routes that must agree."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from numpy.typing import NDArray

from theory.operators import bind_pull, bind_push
from theory.program import NormAct
from theory.recursion import initial_state
from theory.regimes import regime
from theory.routes import rqmc_blocks, rqmc_groups
from theory.routes.dispatch import routes
from theory.routes.rqmc import Sampling
from theory.routes.rqmc_pool import normalize
from theory.routes.sampled import SobolBatch, SobolGroup
from theory.specs.compatibility import check
from theory.specs.inputs import ExchangeableInputs
from theory.specs.networks import FeedForward, Layer
from theory.specs.normalizers import Normalizer, Pool, mean_centering
from theory.states.base import Block, Gradient, Moments
from theory.states.exchangeable import Exchangeable
from theory.testing import strategies as draw
from theory.testing.arrays import Pooled, any_norm, pooled, pooled_corners
from theory.testing.cases import Case, predictable_layers
from theory.testing.checks import RARE, ROUNDING, SIGMAS, Layers, close, law
from theory.testing.runner import NotApplicable

__all__: list[str] = []

FloatArray = NDArray[np.float64]

CHEAP = Sampling(log2_points=9, scrambles=16)


@st.composite
def generic_cases(pick: DrawFn, layers: Layers) -> Case:
    """One layer on an exchangeable batch that is neither collapsed nor antipodal."""
    layer = pick(layers)
    coupled = layer.norm is not None and layer.norm.couples_samples
    inputs = pick(draw.batches(smallest=5 if coupled else 2, largest=6, smallest_gap=0.05))
    top = 1.0 + 0.9 / (inputs.batch - 1)
    assert isinstance(inputs, ExchangeableInputs)
    if inputs.gap > top:
        inputs = ExchangeableInputs(batch=inputs.batch, gap=top, second_moment=inputs.second_moment)
    return Case(FeedForward(layer, depth=1), inputs, seed=pick(st.integers(0, 99)))


def _smooth() -> Layers:
    return predictable_layers(coupled=False, arrays=True)


@law("the adjoint's slope is the derivative of the map", layers=_smooth, subjects=generic_cases)
def slope_is_the_derivative(case: Case) -> None:
    """dK_ab/dSigma_ab by Richardson's central differences, and what pulls a pair of gradients back."""
    op = _norm_act(case.layer)
    if op.norm is not None and (op.norm.couples_samples or op.norm.gate is not None):
        raise NotApplicable
    check(case.network, case.inputs)
    state: Any = initial_state(case.inputs)
    push, name = bind_push(op, state)
    if name == "RQMC" or _jumps(op, case):
        raise NotApplicable

    def covariance(gap: float) -> tuple[float, float]:
        new = push(Exchangeable(state.batch, state.second_moment, gap))
        scale = new.second_moment * 4.0**new.exponent
        return -new.gap * scale, new.gap_error * new.gap * scale

    gap, step = state.gap, 0.02 * min(state.gap, 2.0 - state.gap)
    if step == 0.0:
        raise NotApplicable  # c = 1 and c = -1 have a neighbor on one side only

    def central(h: float) -> float:
        return -(covariance(gap + h)[0] - covariance(gap - h)[0]) / (2.0 * h)

    half, quarter = central(step / 2.0), central(step / 4.0)
    value = (4.0 * half - central(step)) / 3.0
    finer = (4.0 * quarter - half) / 3.0
    rounding = 8.0 * (covariance(gap)[1] + 1e-15 * state.second_moment) / step
    pull, _ = bind_pull(op, state)
    pulled = pull(state, Gradient((1.0, 1.0), 0, 0.0))
    slope = pulled.value[1] * 4.0**pulled.exponent * state.second_moment
    error = abs(finer - value) + rounding + (pulled.error + ROUNDING) * abs(slope)
    close("dK/dp q", slope, finer, error)


def _jumps(op: NormAct, case: Case) -> bool:
    """Pools of rank 1 keep a sign, which has no weak derivative."""
    norm = op.norm
    if norm is None or norm.eps > 0.0:
        return False
    return norm.rank(batch=case.inputs.batch, positions=case.inputs.positions) < 2


def _norm_act(layer: Layer) -> NormAct:
    return NormAct(layer.norm, layer.activation)


def _pools() -> Layers:
    groups = draw.ratios(samples=False, channels=draw.GROUPS, equal=True)
    # rms over an exchangeable batch has no other route than RQMC.
    rows = draw.ratios(samples=True, channels=[1]).map(_about_mean)
    homogeneous = draw.activations(names=draw.HOMOGENEOUS)
    free = groups.map(lambda norm: dataclasses.replace(norm, eps=0.0))
    return draw.layers(norms=groups | rows, phis=homogeneous) | draw.layers(norms=free)


@law(
    "every route that takes an expectation gives the same number, RQMC included",
    layers=_pools,
    subjects=generic_cases,
)
def routes_agree(case: Case) -> None:
    """E[phi(N) phi(N)'] and T(Pi) = E[J' Pi J], each by every route that does not refuse."""
    check(case.network, case.inputs)
    op, block = _norm_act(case.layer), initial_state(case.inputs).block()
    forward = [r.moments(op, block) for r in routes() if _takes(r, op, block, "forward")]
    pi = (1.0, 0.25)
    backward = [r.pullback(op, block, pi) for r in routes() if _takes(r, op, block, "backward")]
    if _jumps(op, case):
        backward = []  # where J = 0 almost surely, the map has a slope all the same
    sampled = _sampled(op, block, pi) if block.gap >= RARE else None
    if sampled is not None:
        forward.append(sampled[0])
        if sampled[1] is not None and backward:
            backward.append(sampled[1])
    if len(forward) < 2:
        raise NotApplicable
    for other in forward[1:]:
        q_error, gap_error = (sum(pair) for pair in zip(forward[0].error, other.error, strict=True))
        close(
            "E[x^2]",
            np.log(forward[0].second_moment / other.second_moment),
            0.0,
            q_error,
        )
        size = np.abs(np.asarray(other.gap))
        close("gap", forward[0].gap, other.gap, gap_error * size)
    for value, error in backward[1:]:
        first, known = backward[0]
        tolerance = (error + known) * abs(value[0])
        close("T(Pi)", first, value, tolerance)


def _takes(route: Any, op: NormAct, block: Block, want: Any) -> bool:
    return "Sobol" not in type(route).__name__ and route.refusal(op, block, want) is None


def _sampled(op: NormAct, block: Block, pi: tuple[float, float]) -> Any:
    """What few Sobol' points say, with errors of ``SIGMAS`` standard errors."""
    norm, q, gap = op.norm, float(block.second_moment), float(block.gap)
    if norm is None:
        return None
    parts: Any = {"norm": norm, "activation": op.activation.base, "sampling": CHEAP}
    if norm.couples_samples:
        if SobolBatch().refusal(op, block, "forward") is not None:
            return None
        parts["batch"] = int(block.batch)
        value, new_gap, mean, error = rqmc_blocks.exchangeable_forward(q, gap, **parts)
        moments = Moments(value, new_gap, mean, (SIGMAS * error, SIGMAS * error))
        if SobolBatch().refusal(op, block, "backward") is not None:
            return moments, None
        same, pair, error = rqmc_blocks.exchangeable_pullback(q, gap, *pi, **parts)
        return moments, ((same, pair), SIGMAS * error)
    if norm.pool.channels == math.inf or SobolGroup().refusal(op, block, "forward") is not None:
        return None
    value, mean, error = rqmc_groups.group_moments(q, **parts)
    new_gap, gap_error = rqmc_groups.group_pair_gap(q, q, gap, **parts)
    moments = Moments(value, new_gap, mean, (SIGMAS * error, SIGMAS * gap_error))
    if SobolGroup().refusal(op, block, "backward") is not None:
        return moments, None
    same, error = rqmc_groups.group_slope(q, q, 0.0, **parts)
    pair, other = rqmc_groups.group_slope(q, q, gap, **parts)
    return moments, ((pi[0] * same, pi[1] * pair), SIGMAS * max(error, other))


@law(
    "theory's Jacobian of a pool takes constants to 0 about a mean, and h to 0 if N(a h) = N(h)",
    layers=any_norm,
    subjects=pooled,
    corners=pooled_corners,
)
def jacobians_are_orthogonal(case: Pooled) -> None:
    """J 1 = 0 and J h = 0, so that every gradient g = J'd has 1'g = 0 and h'g = 0."""
    norm = case.layer.norm
    if norm is None or (norm.denominator == "evonorm_b0" and case.positions > 1):
        raise NotApplicable  # EvoNorm-B0's second statistic, over positions, has its own code
    inside = [1, *case.axes[1:]]
    outside = [axis for axis in range(4) if axis not in inside]
    blocks = case.blocks(case.h).transpose(*outside, *inside)
    h = blocks.reshape(-1, math.prod(blocks.shape[len(outside) :]))
    deviation = h - h.mean(axis=1, keepdims=True)
    group, samples, positions = case.pool_shape
    pool = Pool(samples=norm.pool.samples, positions=norm.pool.positions, channels=group)
    sized = dataclasses.replace(norm, pool=pool)
    found = normalize(
        h, deviation, sized, divisor=sized.divisor(batch=samples, positions=positions)
    )

    def jacobian(u: FloatArray) -> FloatArray:
        """dN = diag(local) A u - shared w'u."""
        change = found.local * (u - u.mean(axis=1, keepdims=True) if norm.centered else u)
        if found.shared is None or found.direction is None:
            return change
        return change - found.shared * np.sum(found.direction * u, axis=1, keepdims=True)

    size = 1e-12 * np.abs(found.local).max(axis=1, keepdims=True) * h.shape[1]
    if norm.centered and norm.denominator in ("std", "none"):
        close("J 1", jacobian(np.ones_like(h)), 0.0, size)
    free = norm.denominator != "none" and norm.eps == 0.0
    if free and (norm.gate is None or norm.denominator == "evonorm_b0"):
        close("J h", jacobian(h), 0.0, size * np.abs(h).max())


def _centering() -> Layers:
    rows = st.sampled_from([mean_centering()]) | _std(samples=True) | _std(samples=False)
    return draw.layers(norms=rows, phis=draw.activations(names=draw.HOMOGENEOUS))


def _about_mean(norm: Normalizer) -> Normalizer:
    return dataclasses.replace(norm, denominator="std")


def _std(*, samples: bool) -> SearchStrategy[Normalizer]:
    norms = draw.ratios(samples=samples, channels=[1])
    return norms.map(lambda n: dataclasses.replace(n, centered=True, denominator="std"))


@law("gradients before a pool about its mean sum to zero over it", layers=_centering)
def gradients_sum_to_zero(case: Case) -> None:
    """T(Pi) 1 = 0 for a pool over samples; over positions as well, if it runs over them."""
    norm = case.layer.norm
    if norm is None or not norm.centered or not norm.pool.positions or norm.pool.channels != 1:
        raise NotApplicable
    # What passes through the shared denominator sums to zero only if that too is about the mean.
    if norm.denominator not in ("std", "none"):
        raise NotApplicable
    regime(case.network, case.inputs)  # refuses equal samples
    op, state = _norm_act(case.layer), initial_state(case.inputs)
    pull, _ = bind_pull(op, state)
    gradient = pull(state, state.cotangent())
    b, s = int(case.inputs.batch), case.inputs.positions
    error = gradient.error + ROUNDING
    if not np.isfinite(gradient.value).all():
        raise NotApplicable  # rank 2: the mean squared gradient is infinite
    if isinstance(gradient.value, np.ndarray):
        assert norm.couples_samples
        trace = np.trace(gradient.value)
        close("T(Pi) 1", gradient.value.sum(axis=1), 0.0, b * error * trace)
    elif len(gradient.value) == 2:
        same, pair = gradient.value
        close("T(Pi) 1", same + (b - 1) * pair, 0.0, b * error * abs(same))
    else:
        pi_q, pi_w, pi_b, pi_x = gradient.value
        total = pi_q + (s - 1) * pi_w
        if norm.couples_samples:
            total += (b - 1) * (pi_b + (s - 1) * pi_x)
        close("T(Pi) 1", total, 0.0, b * s * error * abs(pi_q))
