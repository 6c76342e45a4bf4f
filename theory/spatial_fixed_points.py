"""Fixed points over positions: iterate the layer map until its gaps stand still.

Where no pool spans positions, every pair of them obeys the map of one position, solved in
``theory.fixed_points``.  Otherwise the state has three gaps; positions settle first (w*, within a
sample), then pairs of samples (b* = x*).
For normalizers that treat samples apart, the map of (b, x) has the adjoint of the gradient's matrix as
its derivative (theory notes, section 4, "Adjoint rule"), so slope and gradient growth are the spectral
radii of two 2x2 matrices.  Through shared statistics the growth is that of T on (pi_q, pi_w, pi_b, pi_x),
and the slope is the rate at which iteration was seen to settle.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from theory.errors import out_of_domain
from theory.evidence import MARGINAL, FixedPoint, batch_without_inputs, stability
from theory.operators import bind_pull, bind_push
from theory.program import Linear, NormAct
from theory.recursion import initial_state
from theory.regimes import Regime, regime
from theory.routes.base import is_scale_free
from theory.specs._check import integer
from theory.specs.compatibility import check
from theory.specs.inputs import Inputs, exchangeable
from theory.specs.networks import FeedForward, Layer
from theory.specs.spatial import SpatialInputs
from theory.states.base import Gradient
from theory.states.spatial import Spatial

__all__ = ["fixed_point_over_positions"]

FloatArray = NDArray[np.float64]

_STEPS = 2000
# Relative change per layer below which gaps stand still; maps are known to some 1e-14.
_STILL = 1e-14
# Gaps that keep shrinking algebraically end at 0: after this many layers they are this small.
_COLLAPSED = 1e-3
# Samples whose gaps shrink geometrically have collapsed.
_VANISHED = 1e-25
# |log q| beyond which eps and shifts have no say, or all of it.
_FAR = 140.0
# Relative change per layer that still counts as converged.
_CONVERGED = 1e-9
# Changes from which a rate of approach can be read.
_SETTLING, _ROUNDED = 1e-3, 1e-12


def fixed_point_over_positions(
    network: FeedForward, inputs: Inputs | None, batch: float | None, positions: int
) -> FixedPoint:
    """c* over positions; parameters and errors as ``theory.fixed_point``.

    A map whose gaps shrink without end (LayerNorm, plain networks: slope 1) is reported at gap 0.
    """
    count = integer("positions", positions, low=1, remedy="positions per sample")
    note = ""
    if inputs is None:
        batch, note = batch_without_inputs(network, batch)
        inputs = exchangeable(
            batch=batch, correlation=0.0, positions=count, position_correlation=0.0
        )
    elif (batch is not None and batch != inputs.batch) or count not in (1, inputs.positions):
        raise out_of_domain(
            "batch, positions",
            (batch, count),
            f"those of the inputs, {inputs.batch} and {inputs.positions}",
            "give either",
        )
    # Whether a kernel fits on the ring does not matter: it leaves these covariances as they are.
    pointwise = replace(network, layer=replace(network.layer, kernel=1))
    check(pointwise, inputs)
    kind = regime(pointwise, inputs)
    weights = network.layer.weights
    state = initial_state(inputs)
    assert isinstance(inputs, SpatialInputs)
    assert isinstance(state, Spatial)
    start = state.linear(weights.weight_variance, centered=weights.centered)
    norm = network.layer.norm
    if norm is None or not norm.pool.positions or norm.pool.channels == math.inf:
        bind_push(NormAct(norm, network.layer.activation), start)  # as predict, or no route
        return _apart(pointwise, inputs, note)
    return _settle(pointwise, start, kind, note)


def _apart(network: FeedForward, inputs: SpatialInputs, note: str) -> FixedPoint:
    """Pairs of samples and pairs of positions, each from its own gap through the same map."""
    # The solver for one position imports this module.
    from theory.fixed_points import fixed_point

    q, mean = inputs.second_moment, inputs.feature_mean
    samples, places = (
        fixed_point(network, exchangeable(batch=b, gap=gap, second_moment=q, feature_mean=mean))
        for b, gap in ((inputs.batch, inputs.gap), (inputs.positions, inputs.position_gap))
    )
    notes = [text for text in (note, samples.note) if text]
    return replace(samples, note="; ".join(notes), position_correlation=places.correlation)


def _settle(network: FeedForward, start: Spatial, kind: Regime, note: str) -> FixedPoint:
    """Follow the pre-activations of ``start`` until they stand still."""
    layer = network.layer
    linear, normact = Linear(layer.weights), NormAct(layer.norm, layer.activation)
    push, _ = bind_push(normact, start)
    push_linear, _ = bind_push(linear, start)
    scale_free = is_scale_free(normact)
    follow = not scale_free and not _is_homogeneous(layer)
    state, post = start, start
    change = growing = math.inf
    changes: list[float] = []
    for _ in range(_STEPS):
        post = push(state)
        new = push_linear(post)._replace(second_moment_error=0.0, gap_error=0.0)
        if scale_free:
            new = new._replace(exponent=0)
        # log q'/q, which moves gaps as well unless the map is homogeneous.
        growing = math.log(new.second_moment / state.second_moment)
        growing += (new.exponent - state.exponent) * math.log(4.0)
        changes.append(_change(state, new))
        change = max(changes[-1], abs(growing) if follow else 0.0)
        state = new
        far = abs(math.log(state.second_moment) + state.exponent * math.log(4.0)) > _FAR
        if change < _STILL or max(state.spectrum.gaps()) < _VANISHED or (follow and far):
            break
    notes = [note] if note else []
    q, factor = state.second_moment, 1.0
    if not scale_free and abs(growing) > _CONVERGED:
        q, factor = math.inf if growing > 0.0 else 0.0, math.exp(-growing)
        notes.append(f"the second moment changes by {1.0 / factor:.6g} per layer")
        # It moves on; the gaps may stand.
        change = _change(state, push_linear(push(state)))
    # Equal samples stay equal and still have positions that settle.
    position_gap, gap, _ = state.spectrum.gaps()
    largest = max(position_gap, gap)
    coupled = layer.norm is not None and layer.norm.couples_samples
    if largest < _VANISHED or (change >= _STILL and largest < _COLLAPSED):
        gap = position_gap = 0.0
        similarity = 1.0
        slope, growth = 1.0, 1.0
        if coupled:
            q = math.inf
            notes.append("samples collapse, and the second moment grows as their variance vanishes")
            if state.batch != math.inf:
                # Through shared statistics the growth has no limit (theory notes, section 4, "VN").
                slope, growth = 1.0 - changes[-1], math.inf
    else:
        variance = layer.weights.weight_variance
        growth = _growth(normact, state, variance, coupled=coupled, kind=kind)
        similarity = 1.0 - post.gap
        if coupled or kind.status == "degenerate":
            slope = _rate(changes)
        else:
            slope = factor * _cross_slope(normact, state, variance)
        if change > _CONVERGED:
            notes.append("not converged")
    slope, status, scale = stability(slope, MARGINAL)
    error = push_linear(push(state)).gap_error * gap + 1e-16
    bound = error / abs(1.0 - slope) if status != "marginal" else error
    return FixedPoint(
        correlation=1.0 - gap,
        gap=gap,
        similarity=similarity,
        second_moment=q,
        slope=slope,
        depth_scale=scale,
        gradient_growth=growth,
        bound=bound if gap == 0.0 or change <= _CONVERGED else math.inf,
        status=status,
        regime=kind,
        note="; ".join(notes),
        position_correlation=1.0 - position_gap,
    )


def _is_homogeneous(layer: Layer) -> bool:
    """Whether nothing but q sees a change of q."""
    bare = layer.norm is None or layer.norm.denominator == "none"
    return bare and layer.activation.ray_slopes is not None and layer.activation.shift == 0.0


def _change(old: Spatial, new: Spatial) -> float:
    """Largest relative change of a gap."""
    pairs = zip(old.spectrum.gaps(), new.spectrum.gaps(), strict=True)
    return max(abs(b - a) / max(a, b) if max(a, b) > 0.0 else 0.0 for a, b in pairs)


def _cross_slope(normact: NormAct, state: Spatial, variance: float) -> float:
    """Spectral radius of (pi_b, pi_x) -> (pi_b', pi_x'), the adjoint of the map of (b, x)."""
    pull, _ = bind_pull(normact, state)
    columns = [
        pull(state, Gradient((0.0, 0.0, *unit), 0, 0.0)).value[2:]
        for unit in ((variance, 0.0), (0.0, variance))
    ]
    return _radius(columns)


def _growth(
    normact: NormAct, state: Spatial, variance: float, *, coupled: bool, kind: Regime
) -> float:
    """Spectral radius of Pi -> Pi' over the entries that independent cotangents reach."""
    if kind.status in ("infinite", "degenerate"):
        return math.inf if kind.status == "infinite" else 0.0
    pull, _ = bind_pull(normact, state)
    reached = 4 if coupled and state.batch != math.inf else 2
    columns = []
    for entry in range(reached):
        unit = [0.0] * 4
        unit[entry] = variance
        columns.append(pull(state, Gradient(tuple(unit), 0, 0.0)).value[:reached])
    return _radius(columns)


def _radius(columns: list[tuple[float, ...]]) -> float:
    matrix = np.array(columns).T
    if not np.isfinite(matrix).all():
        return math.inf
    return float(np.abs(np.linalg.eigvals(matrix)).max())


def _rate(changes: list[float]) -> float:
    """Factor per layer by which the last changes above rounding shrank; 0 if there were hardly any."""
    seen = [change for change in changes if _ROUNDED < change < _SETTLING]
    return (seen[-1] / seen[0]) ** (1.0 / (len(seen) - 1)) if len(seen) > 1 else 0.0
