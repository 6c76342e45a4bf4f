"""Fixed points of the layer map: c*, slope, depth scale, gradient growth, each with evidence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from theory.errors import out_of_domain
from theory.evidence import MARGINAL, FixedPoint, batch_without_inputs, stability
from theory.numerics import out_of_range, within_range
from theory.operators import bind_pull, bind_push
from theory.program import Linear, NormAct
from theory.regimes import Regime, regime
from theory.spatial_fixed_points import fixed_point_over_positions
from theory.specs._check import integer, samples
from theory.specs.compatibility import check
from theory.specs.inputs import ExchangeableInputs, Inputs, exchangeable
from theory.specs.networks import FeedForward
from theory.specs.spatial import SpatialInputs
from theory.states.base import Gradient
from theory.states.exchangeable import Exchangeable

__all__ = ["FixedPoint", "fixed_point", "fixed_points"]

_SCAN = 64
_SMALLEST_GAP = 1e-15
_VANISHING_GAP = 1e-28
# An excess this small is rounding: the map is neutral there.
_NEUTRAL = 1e-12
# A route too costly to scan is iterated, until samples have collapsed this far.
_COLLAPSED = 1e-4
_MAX_STEPS = 200
# Factors of e that q may still move before it counts as running away.
_FAR = 30


@within_range
def fixed_point(
    network: FeedForward,
    inputs: Inputs | None = None,
    *,
    batch: float | None = None,
    positions: int = 1,
) -> FixedPoint:
    """c* = lim of the correlation map c' = C(c) reached from ``inputs``, with slope C'(c*) and lambda.

    The map of gated groups (EvoNorm-S0) is sampled at every step, and takes a minute or more.

    Parameters
    ----------
    network
        Its layer is iterated; its depth does not matter.
    inputs
        Where to start; uncorrelated samples of unit second moment if not given.
    batch
        Batch size B; without it (and without inputs) normalizers that couple samples are taken at
        B = infinity, and ``note`` says so.
    positions
        Positions per sample, if inputs are not given; over them the network starts uncorrelated too.

    Raises
    ------
    SpecificationError
        A value outside its domain, or a normalizer that is not defined here.
    HypothesisError
        No route for this layer, or an infinite second moment.
    NumericalError
        A layer's second moment overflows.
    """
    _require_alike(network, inputs)
    positions = integer("positions", positions, low=1, remedy="positions per sample")
    batch = None if batch is None else samples(batch)
    if positions != 1 or isinstance(inputs, SpatialInputs):
        return fixed_point_over_positions(network, inputs, batch, positions)
    layer_map, start = _prepare(network, inputs, batch)
    roots = layer_map.roots(start.gap)
    if layer_map.step(start.gap)[0] <= start.gap:
        reached = max((r for r in roots if r <= start.gap * (1.0 + 1e-12)), default=roots[0])
    else:
        reached = min((r for r in roots if r >= start.gap), default=roots[-1])
    return layer_map.describe(reached)


@within_range
def fixed_points(
    network: FeedForward,
    inputs: Inputs | None = None,
    *,
    batch: float | None = None,
    positions: int = 1,
) -> tuple[FixedPoint, ...]:
    """All roots of C(c) = c, attracting or not, from c = 1 downwards; parameters as ``fixed_point``.

    With positions: the one that iteration reaches.
    """
    _require_alike(network, inputs)
    positions = integer("positions", positions, low=1, remedy="positions per sample")
    batch = None if batch is None else samples(batch)
    if positions != 1 or isinstance(inputs, SpatialInputs):
        return (fixed_point_over_positions(network, inputs, batch, positions),)
    layer_map, start = _prepare(network, inputs, batch)
    return tuple(layer_map.describe(gap) for gap in layer_map.roots(start.gap))


def _require_alike(network: Any, inputs: Inputs | None) -> None:
    """One layer over and over, on positions that stay alike; a residual stream grows instead."""
    if not isinstance(network, FeedForward):
        raise out_of_domain(
            "network",
            network,
            "a FeedForward network",
            "a residual stream grows instead of settling, and layers that differ have no map: use "
            "predict",
        )
    if network.layer.moves_positions:
        layer = network.layer
        raise out_of_domain(
            "padding, stride",
            (layer.padding, layer.stride),
            '"circular" and 1 for a fixed point of positions that are alike',
            "use predict with many layers",
        )
    if inputs is not None:
        check(network, inputs)
    if inputs is not None and not isinstance(inputs, SpatialInputs) and inputs.positions > 1:
        raise out_of_domain(
            "inputs",
            type(inputs).__name__,
            "positions that are alike, or none",
            "use exchangeable_from_data(X), or predict with many layers",
        )


def _prepare(
    network: FeedForward, inputs: Inputs | None, batch: float | None
) -> tuple[_LayerMap, Exchangeable]:
    note = ""
    if inputs is None:
        batch, note = batch_without_inputs(network, batch)
        inputs = exchangeable(batch=batch, correlation=0.0)
    elif batch is not None and batch != inputs.batch:
        raise out_of_domain(
            "batch", batch, f"that of the inputs, {inputs.batch}", "give one of them"
        )
    check(network, inputs)
    if not isinstance(inputs, ExchangeableInputs):
        # Deep in the network only the mean pair matters for where it settles.
        b = inputs.batch
        gap = float(np.sum(inputs.gap)) / max(b * (b - 1), 1)
        inputs = exchangeable(
            batch=b,
            gap=min(gap, 1.0 + 1.0 / max(b - 1, 1)),
            second_moment=float(np.mean(inputs.second_moment)),
        )
        note = "settled for an exchangeable batch with the data's mean correlation"
    weights = network.layer.weights
    state = Exchangeable(inputs.batch, inputs.second_moment, inputs.gap, inputs.feature_mean)
    state = state.linear(weights.weight_variance, centered=weights.centered)
    return _LayerMap(network, state, regime(network, inputs), note), state


class _LayerMap:
    """(q, gap) -> (q', gap') of pre-activations over one layer, at the network's own q*."""

    def __init__(self, network: FeedForward, start: Exchangeable, kind: Regime, note: str) -> None:
        layer = network.layer
        self.norm_act = NormAct(layer.norm, layer.activation)
        self.linear = Linear(layer.weights)
        self.coupled = layer.norm is not None and layer.norm.couples_samples
        self.batch = start.batch
        self.kind = kind
        self.note = note
        self._push, self.route = bind_push(self.norm_act, start)
        self._push_linear, _ = bind_push(self.linear, start)
        self.runaway: float | None = None
        self.converged = True
        self.q = self._settle(start)

    def _apply(self, q: float, gap: float) -> tuple[Exchangeable, Exchangeable]:
        post = self._push(Exchangeable(self.batch, q, gap))
        return post, self._push_linear(post).unscaled()

    def step(self, gap: float) -> tuple[float, float]:
        """(gap', stated relative error) at q*."""
        _, pre = self._apply(self.q, gap)
        return pre.gap, pre.gap_error

    def _settle(self, start: Exchangeable) -> float:
        """q*: by homogeneity, by iteration, or by a root."""
        layer_gap = start.gap
        activation, norm = self.norm_act.activation, self.norm_act.norm
        bare = norm is None or norm.denominator == "none"
        if bare and activation.ray_slopes is not None and activation.shift == 0.0:
            if self.coupled:
                # Centering changes q through the gap, which is the same from the next layer on.
                start = self._apply(start.second_moment, layer_gap)[1]
                layer_gap = start.gap
            ratio = self._apply(1.0, layer_gap)[1].second_moment
            if abs(ratio - 1.0) > 1e-12:
                self.runaway = math.inf if ratio > 1.0 else 0.0
                self._remark(f"the second moment changes by {ratio:.6g} per layer")
            return start.second_moment
        q, gap = start.second_moment, layer_gap
        change = math.inf
        for _ in range(200):
            pre = self._apply(q, gap)[1]
            # Pairs that collapse to one point would end at gap 0, where a pool may have no variance.
            change, q, gap = abs(pre.second_moment / q - 1.0), pre.second_moment, pre.gap
            if self.coupled and gap < 1e-8:
                return q
            if change < 1e-15:
                return q
            if not 1e-12 < q < 1e12:
                break
        return self._polish(q, gap if self.coupled else layer_gap)

    def _polish(self, q: float, gap: float) -> float:
        """A root of log q'(q)/q on the way that q goes: bracketed, tangent (a double root) or none."""
        from scipy.optimize import brentq, minimize_scalar

        def excess(log_q: float) -> float:
            value = math.exp(log_q)
            following = self._apply(value, gap)[1].second_moment
            if not (following > 0.0 and value > 0.0):
                raise out_of_range("the second moment underflows")
            return math.log(following / value)

        if not q > 0.0:
            raise out_of_range("the second moment underflows")
        centre = math.log(q)
        here = excess(centre)
        towards = math.copysign(1.0, here)
        tangent = minimize_scalar(
            lambda x: abs(excess(x)),
            bounds=sorted((centre, centre + towards)),
            method="bounded",
            options={"xatol": 1e-9},
        )
        if tangent.fun < _NEUTRAL and abs(excess(tangent.x + 0.5 * towards)) > 1e-6:
            self._remark("q approaches its fixed point only algebraically")
            return math.exp(tangent.x)
        for width in range(1, _FAR):
            other = centre + towards * width
            there = excess(other)
            if abs(there) < _NEUTRAL:
                break
            if there * here < 0.0:
                root = brentq(excess, *sorted((centre, other)), xtol=1e-14, rtol=1e-15)
                return math.exp(root)
        self.runaway = math.inf if towards > 0.0 else 0.0
        self._remark(
            "the second moment grows without bound"
            if towards > 0.0
            else "the second moment vanishes with depth"
        )
        return math.exp(other)

    def _remark(self, text: str) -> None:
        self.note = f"{self.note}; {text}" if self.note else text

    def roots(self, start: float) -> list[float]:
        """Gaps with gap' = gap, ascending; 0 is one of them unless samples are coupled by a centering."""
        # scipy.optimize takes longer to import than all the rest of this package.
        from scipy.optimize import brentq

        top = 2.0 if self.batch == math.inf or not self.coupled else 1.0 + 1.0 / (self.batch - 1)
        if self.route == "RQMC":
            return [self._iterate(start)]
        if self.coupled:
            first, second = self.step(0.3 * top)[0], self.step(0.6 * top)[0]
            if abs(first / second - 1.0) < 1e-13:
                return [first]

        def excess(log_gap: float) -> float:
            gap = math.exp(log_gap)
            return math.log(max(self.step(gap)[0], 1e-300) / gap)

        grid = np.linspace(math.log(_SMALLEST_GAP), math.log(top), _SCAN)
        values = [excess(x) for x in grid]
        if max(map(abs, values)) < _NEUTRAL:
            self._remark("every correlation is a fixed point")
            return [0.0, start]
        found = [0.0]
        for k in range(_SCAN - 1):
            # Rounding makes the sign of a marginal map's excess random near gap = 0.
            if min(abs(values[k]), abs(values[k + 1])) < _NEUTRAL:
                continue
            if values[k] * values[k + 1] < 0.0:
                root = brentq(excess, grid[k], grid[k + 1], xtol=1e-15, rtol=1e-15)
                found.append(math.exp(root))
        return found

    def _iterate(self, gap: float) -> float:
        """Fixed-point iteration, for a route too costly to scan."""
        for _ in range(_MAX_STEPS):
            new, error = self.step(gap)
            if abs(new / gap - 1.0) < max(error * 1e-2, 1e-12):
                return new
            if new < _COLLAPSED:
                return 0.0
            gap = new
        self._remark(f"not converged after {_MAX_STEPS} layers")
        self.converged = False
        return gap

    def describe(self, gap: float) -> FixedPoint:
        """Everything known at a root."""
        at = max(gap, 0.0)
        evaluation = at if at > 0.0 or not self.coupled else _VANISHING_GAP
        post, pre = self._apply(self.q, evaluation)
        slope = self._slope(at, pre)
        growth = self._growth(pre if self.coupled else Exchangeable(self.batch, self.q, at), at)
        error = pre.gap_error * at + 1e-16
        distance = abs(1.0 - slope)
        bound = error / distance if distance > MARGINAL else (error if at == 0.0 else math.inf)
        q = pre.second_moment if self.runaway is None else self.runaway
        if at == 0.0 and evaluation > 0.0:
            q = math.inf
            self._remark("samples collapse, and the second moment grows as their variance vanishes")
        if not self.converged:
            bound = math.inf
        # Where q runs away the map approaches its limit only as q does.
        slope, status, scale = stability(slope, MARGINAL if self.runaway is None else 1e-6)
        return FixedPoint(
            correlation=1.0 - at,
            gap=at,
            similarity=1.0 - (post.gap if at > 0.0 else 0.0),
            second_moment=q,
            slope=slope,
            depth_scale=scale,
            gradient_growth=growth,
            bound=bound,
            status=status,
            regime=self.kind,
            note=self.note,
        )

    def _slope(self, gap: float, pre: Exchangeable) -> float:
        """dc'/dc = sigma_w^2 dK_ab/dp q/q' (theory notes, section 4); samples coupled: of gap' itself."""
        if self.coupled or self.kind.status == "degenerate":
            # Normalizers that jump (pools of rank 1) have a slope, but Price's theorem does not give it.
            if gap == 0.0 and not self.coupled:
                return math.inf  # 1 - kappa_0 rises as the root of the gap
            return _derivative(lambda g: self.step(g)[0], gap)
        pull, _ = bind_pull(self.norm_act, Exchangeable(self.batch, self.q, gap))
        state = Exchangeable(self.batch, self.q, gap)
        if gap == 0.0:
            same, _ = pull(
                state, Gradient((self.linear.weights.weight_variance, 0.0), 0, 0.0)
            ).value
            factor = same
        else:
            variance = self.linear.weights.weight_variance
            _, factor = pull(state, Gradient((variance, variance), 0, 0.0)).value
        return float(factor * self.q / pre.second_moment)

    def _growth(self, state: Exchangeable, gap: float) -> float:
        """Spectral radius of (Pi_aa, Pi_ab) -> (Pi'_aa, Pi'_ab) over one layer."""
        if self.kind.status == "infinite":
            return math.inf
        if self.kind.status == "degenerate":
            return 0.0
        if self.coupled and self.batch != math.inf and gap == 0.0:
            # Collapsing samples: the factor has no limit (theory notes, section 4, "VN").
            return math.inf
        pull, _ = bind_pull(self.norm_act, state)
        variance = self.linear.weights.weight_variance
        first = pull(state, Gradient((variance, 0.0), 0, 0.0)).value
        if not self.coupled or self.batch == math.inf:
            return float(first[0])
        second = pull(state, Gradient((0.0, variance), 0, 0.0)).value
        return float(np.abs(np.linalg.eigvals(np.array([first, second]).T)).max())


def _derivative(function: Callable[[float], float], gap: float) -> float:
    """d gap'/d gap: exact 0 for constant maps, the ratio at a collapsed point, else Richardson."""
    if gap == 0.0:
        # The next term of the map is of relative order gap^(1/2).
        return function(_VANISHING_GAP) / _VANISHING_GAP
    step = 1e-3 * gap

    def central(h: float) -> float:
        return (function(gap + h) - function(gap - h)) / (2.0 * h)

    value = (4.0 * central(step / 2.0) - central(step)) / 3.0
    return 0.0 if abs(value) < 1e-11 else value
