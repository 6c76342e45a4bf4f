"""What the theory promises of every network, as checks of one ``Case`` each.

Tolerances are the stated errors of the predictions, plus a few roundings: a law that needs more is
violated.  The simulation's laws are in ``montecarlo.testing``.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from theory.errors import HypothesisError
from theory.recursion import predict
from theory.regimes import regime
from theory.specs.activations import identity, relu
from theory.specs.inputs import (
    CovarianceInputs,
    DataInputs,
    ExchangeableInputs,
    exchangeable,
    from_covariance,
    from_data,
)
from theory.specs.networks import FeedForward, Layer, Network
from theory.specs.normalizers import evonorm_s0, group_norm, layer_norm
from theory.specs.spatial import SpatialInputs
from theory.specs.weights import centered_weights
from theory.testing import strategies as draw
from theory.testing.cases import Case, cases, predictable_layers
from theory.testing.checks import ROUNDING, Layers, agree, close, corners, law, stated
from theory.testing.runner import NotApplicable

__all__: list[str] = []


@law("K is symmetric, positive semidefinite, and |c| <= 1")
def covariances_are_covariances(case: Case) -> None:
    """Eigenvalues >= 0, cosines in [-1/(B-1), 1]."""
    pred = predict(case.network, case.inputs, backward=False)
    for k, matrix in enumerate(pred.covariance):
        close("K and its transpose", matrix, matrix.T, 1e-15 * matrix.max())
        lowest, trace = np.linalg.eigvalsh(matrix)[0], np.trace(matrix)
        slack = ROUNDING + pred.error["gap"][k] + 3.0 * pred.error["log_second_moment"][k]
        assert lowest >= -slack * trace, f"layer {k + 1}: eigenvalue {lowest}, trace {trace}"
    least = 1.0 + 1.0 / max(case.inputs.batch - 1, 1)
    for gap, error in ((pred.gap, "gap"), (pred.preactivation_gap, "preactivation_gap")):
        assert np.all(gap >= 0.0)
        assert np.all(gap <= least + pred.error[error] + ROUNDING), gap


@law("every number has a stated error, at least 0 and finite where the number is")
def errors_are_stated(case: Case) -> None:
    """No NaN anywhere; forwards and backwards."""
    pred = predict(case.network, case.inputs)
    for name, error in pred.error.items():
        value = getattr(pred, name)
        assert not np.isnan(value).any(), name
        assert np.all(error >= 0.0), f"{name}: error {error}"
        assert np.all(np.isfinite(error) | ~np.isfinite(value)), f"{name}: error {error}"


@law("1 <= stable rank <= B")
def stable_rank_is_between_one_and_batch(case: Case) -> None:
    """tr M / ||M||_2 of a cosine matrix."""
    pred = predict(case.network, case.inputs, backward=False)
    slack = pred.error["stable_rank"] + ROUNDING * case.inputs.batch
    assert np.all(pred.stable_rank >= 1.0 - slack), pred.stable_rank
    assert np.all(pred.stable_rank <= case.inputs.batch + slack), pred.stable_rank


def _sampled_positions() -> list[Case]:
    """Found by the thorough profile: two equal samples whose positions are sampled differed by a rounding."""
    layer = Layer(norm=evonorm_s0(), activation=identity)
    return [
        Case(
            FeedForward(layer, depth=1),
            exchangeable(batch=2, gap=1.0, positions=2, position_gap=1.0),
        )
    ]


@law(
    "equal samples stay equal, or their pool has no variance and the theory says so",
    found=_sampled_positions,
)
def equal_samples_stay_equal(case: Case) -> None:
    """c = 1 is a fixed point; BN of identical samples raises."""
    inputs = case.inputs
    if isinstance(inputs, SpatialInputs):
        same: Any = dataclasses.replace(inputs, gap=0.0, cross_gap=None)
    else:
        same = exchangeable(batch=inputs.batch, gap=0.0, second_moment=case.factor)
    norm = case.layer.norm
    coupled = norm is not None and norm.couples_samples
    alone = isinstance(same, ExchangeableInputs)
    if coupled and norm is not None and alone:
        divides = norm.denominator == "std" and norm.eps == 0.0
        if norm.centered or divides:
            assert "identical" in _refusal(case.network, same)
            return
    pred = predict(case.network, same, backward=False)
    # Sampled points of coupled samples round.
    close("gap", pred.gap, 0.0, 1e-30 if "RQMC" in pred.forward_route else 0.0)
    close("similarity", pred.similarity, 1.0, 0.0)


def _refusal(network: Network, inputs: Any) -> str:
    try:
        predict(network, inputs)
    except HypothesisError as error:
        return str(error)
    return "nothing: a pool without variance was normalized"


def _sample_wise() -> Layers:
    return predictable_layers(coupled=False)


@law("the similarity rises with c, and is convex, on [0, 1]", layers=_sample_wise)
def maps_are_monotone_and_convex(case: Case) -> None:
    """Sum_k ||P_k phi(N)||^2 c^k has no negative coefficient (Hermite; samples treated apart)."""
    norm = case.layer.norm
    if norm is not None and norm.couples_samples:
        raise NotApplicable
    rng = np.random.default_rng(case.seed)
    low, high = np.sort(rng.uniform(0.0, 1.0, 2) ** rng.uniform(1.0, 8.0))
    share = rng.uniform(0.1, 0.9)
    gaps = np.array([low, share * low + (1.0 - share) * high, high])
    one = FeedForward(case.layer, depth=1)
    after, error = np.array([_gap_after(one, case.inputs, gap) for gap in gaps]).T
    slack = error.sum() + 1e-15
    assert np.all(np.diff(after) >= -slack), f"gaps {gaps} -> {after}"
    chord = share * after[0] + (1.0 - share) * after[2]
    assert after[1] >= chord - slack, f"gaps {gaps} -> {after}: not concave in 1 - c"
    ratio, spread = after / gaps, error / gaps + 1e-14 * after / gaps
    assert np.all(np.diff(ratio) <= spread[1:] + spread[:-1]), f"gap'/gap rises: {ratio}"


def _gap_after(network: FeedForward, inputs: Any, gap: float) -> tuple[float, float]:
    if isinstance(inputs, SpatialInputs):
        changed: Any = dataclasses.replace(inputs, batch=2, gap=gap, cross_gap=None)
    else:
        changed = exchangeable(batch=2, gap=gap)
    pred = predict(network, changed, backward=False)
    return float(pred.gap[0]), float(pred.error["gap"][0])


def _dividing() -> Layers:
    return predictable_layers(divides=True)


def _unequal_lengths() -> list[Case]:
    """Found by the thorough profile: means of unlike samples cancel, and lost digits were not stated."""
    layer = Layer(
        weights=centered_weights(weight_variance=1.25),
        norm=dataclasses.replace(layer_norm(), eps=0.75),
    )
    rows = [[0.12572486, -0.13210125, 0.64043569, 0.10490959]]
    rows += [[0.12572318, -0.13211752, 0.64041642, 0.10490053]]
    # Squared differences of second moments that differ by 1e-6 had roundings that were not stated.
    near = [[0.12572969, -0.1321045, 0.64042395, 0.10490106]]
    near += [[0.12572952, -0.13210613, 0.64042203, 0.10490016]]
    group = FeedForward(Layer(norm=group_norm(2, eps=0.1)), depth=1)
    # A shift keeps distances, so that their part that is not a gap has the roundings of the lengths.
    shifted = Layer(
        norm=dataclasses.replace(layer_norm(), eps=0.5), activation=relu.affine(shift=1.0)
    )
    rng = np.random.default_rng(9)
    alike = rng.standard_normal(4) + 1e-7 * rng.standard_normal((2, 4))
    return [
        Case(FeedForward(shifted, depth=1), from_data(alike), factor=0.375),
        Case(FeedForward(layer, depth=2), from_data(np.array(rows)), factor=1.5),
        Case(group, from_data(np.array(near)), factor=3.0),
    ]


@law(
    "N(a h) with eps a^2, and EvoNorm-S0's gate over a, is N(h)",
    layers=_dividing,
    found=_unequal_lengths,
)
def units_do_not_matter(case: Case) -> None:
    """Weights a times as large: the same activations and gradient ratios."""
    norm, a = case.layer.norm, case.factor
    if norm is None or norm.denominator == "none":
        raise NotApplicable
    gate = norm.gate
    if gate is not None and norm.denominator == "std":
        gate = gate / a
    rows = case.layer.weights
    layer = dataclasses.replace(
        case.layer,
        norm=dataclasses.replace(norm, eps=norm.eps * a * a, gate=gate),
        weights=dataclasses.replace(rows, weight_variance=rows.weight_variance * a * a),
    )
    agree(
        predict(case.network, case.inputs),
        predict(dataclasses.replace(case.network, layer=layer), case.inputs),  # type: ignore[type-var]
    )


@st.composite
def array_cases(pick: Any, layers: Layers) -> Case:
    """Networks on batches given as matrices."""
    layer = pick(layers)
    coupled = layer.norm is not None and layer.norm.couples_samples
    inputs = draw.covariances(smallest=5, largest=5, full_rank=True)
    if not coupled:
        inputs = draw.covariances() | draw.nearly_equal()
    network = FeedForward(layer, depth=pick(st.integers(1, 2)))
    return Case(network, pick(inputs), pick(st.sampled_from([2.0, 0.5])), pick(st.integers(0, 99)))


def matrix_corners() -> list[Case]:
    """The corners as covariance matrices, which hold 1 - 1e-15 to one digit."""
    return [
        dataclasses.replace(case, inputs=_matrix(case.inputs), seed=k)
        for k, case in enumerate(corners())
    ]


def _matrix(inputs: Any) -> CovarianceInputs:
    """The covariance of an exchangeable batch."""
    batch = int(inputs.batch)
    return from_covariance(
        inputs.second_moment
        * ((1.0 - inputs.gap) * np.ones((batch, batch)) + inputs.gap * np.eye(batch))
    )


def _without_positions() -> Layers:
    return predictable_layers(arrays=True)


@law(
    "permuted samples give permuted covariances",
    layers=_without_positions,
    subjects=array_cases,
    corners=matrix_corners,
)
def samples_can_be_permuted(case: Case) -> None:
    """K(P Sigma P') = P K(Sigma) P'."""
    inputs = case.inputs
    order = np.random.default_rng(case.seed).permutation(int(inputs.batch))
    if isinstance(inputs, DataInputs):
        permuted: Any = DataInputs(inputs.features[order])
    elif isinstance(inputs, CovarianceInputs):
        permuted = from_covariance(inputs.covariance[np.ix_(order, order)])
    else:
        raise NotApplicable
    one, other = predict(case.network, inputs), predict(case.network, permuted)
    agree(one, other)
    for k, (a, b) in enumerate(zip(one.covariance, other.covariance, strict=True)):
        error = stated(one, other, name="gap")[k] + stated(one, other, name="log_second_moment")[k]
        close("K", a[np.ix_(order, order)], b, (error + ROUNDING) * np.diag(a).max())


@law(
    "an exchangeable batch and its covariance matrix give the same",
    layers=_without_positions,
    subjects=lambda layers: cases(layers, exchangeable_only=True, smallest_gap=1e-3),
)
def states_agree(case: Case) -> None:
    """Two states, and often two routes, for one batch."""
    inputs = case.inputs
    if not isinstance(inputs, ExchangeableInputs):
        raise NotApplicable
    one, other = predict(case.network, inputs), predict(case.network, _matrix(inputs))
    for name in ("log_second_moment", "gap", "log_gradient_norm"):
        a, b = getattr(one, name), getattr(other, name)
        # The matrix holds 1 - gap and q (1 - gap), each rounded by 2^-53, so the gap to 2^-52/gap.
        lost = 2.0**-52 / inputs.gap if inputs.gap else 0.0
        size = np.abs(a) if name == "gap" else 1.0
        close(name, a, b, stated(one, other, name=name) + (ROUNDING + 2.0 * lost) * size)


@law("a pool of rank 1 only keeps signs, rank 2 has no mean squared gradient")
def rank_decides_the_tails(case: Case) -> None:
    """E[1/R^2] is finite iff rank > 2; two values about their mean are +-1."""
    norm = case.layer.norm
    if norm is None or norm.denominator == "none" or norm.eps > 0.0:
        rank = math.inf
    else:
        size = norm.pool.size(batch=case.inputs.batch, positions=case.inputs.positions)
        rank = size - (norm.denominator != "rms")
    kind = regime(case.network, case.inputs)
    raw = norm is not None and not norm.centered and norm.denominator != "rms"
    power = 2 if raw else 1
    pred = predict(case.network, case.inputs)
    log_gradient = pred.log_gradient_norm
    assert log_gradient is not None
    before = log_gradient[:-1]
    if rank == math.inf:
        assert kind.status in ("regular", "heavy_tail")
        return
    assert norm is not None
    if rank == 1 and not raw:
        assert kind.status in ("degenerate", "infinite")
        value = math.sqrt((2.0 - norm.ddof) / 2.0) if norm.centered else None
        if kind.status == "degenerate" and value is not None:
            assert np.all(np.isneginf(before)), before
            if case.layer.activation == relu:
                close("E[relu(+-1)^2]", pred.second_moment, value**2 / 2.0, 1e-14)
    elif rank <= 2 * power:
        assert kind.status == "infinite"
        assert np.all(np.isposinf(before)), before
    elif kind.status == "regular":
        assert rank > 4 * power


@law(
    "m + n layers are n layers after m layers",
    subjects=lambda layers: cases(layers, positions=False, exchangeable_only=True),
)
def depth_is_a_semigroup(case: Case) -> None:
    """Layers of a deeper network agree, and going on from where m layers ended gives the rest."""
    inputs, layer = case.inputs, case.layer
    first, more = case.network.depth, 1 + case.seed % 2
    long = predict(FeedForward(layer, depth=first + more), inputs, backward=False)
    short = predict(FeedForward(layer, depth=first), inputs, backward=False)
    close("prefix", long.log_second_moment[:first], short.log_second_moment, 0.0)
    close("prefix", long.gap[:first], short.gap, 0.0)
    if not isinstance(inputs, ExchangeableInputs):
        raise NotApplicable
    last = short.states[-1].unscaled()
    between = ExchangeableInputs(
        batch=inputs.batch,
        gap=min(last.gap, 1.0 + 1.0 / (inputs.batch - 1)),
        second_moment=last.second_moment,
        feature_mean=last.mean,
    )
    rest = predict(FeedForward(layer, depth=more), between, backward=False)
    for name in ("log_second_moment", "gap"):
        error = stated(long, name=name)[first:] + stated(rest, name=name) + ROUNDING
        close(name, getattr(long, name)[first:], getattr(rest, name), error)
