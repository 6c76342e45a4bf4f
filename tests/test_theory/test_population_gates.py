"""EvoNorm in populations: against Gaussian routes, simulated networks, and what its definition implies.

Random comparisons: five stretched standard errors (``test_population``) are exceeded with probability
below 1e-4, and the figures of a network are nearly one; simulated networks have a family-wise error of
2e-4 each: false alarm of the file below 1 %.  Seeds are fixed.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from mpmath import mp
from numpy.testing import assert_allclose
from scipy import special

import montecarlo as mc
import theory as th
from theory.population.gated import gated_law, gated_states
from theory.population.normact import normact, pullback, squared_pullback
from theory.population.result import Averages, population
from theory.program import NormAct
from theory.routes.gated_walk import GatedWalk, gated_walk
from theory.states.population import Population

S0 = th.zoo["EvoNorm-S0"]
B0 = th.zoo["EvoNorm-B0"]
GROUPS = th.Layer(norm=th.evonorm_s0(16), activation=th.identity)
# Other gates, eps and ddof, and an activation behind the gate.
STEEP = th.Layer(norm=th.evonorm_s0(gate=2.0, eps=0.3), activation=th.relu)
FLAT = th.Layer(norm=th.evonorm_b0(gate=0.7, eps=0.3, ddof=1), activation=th.identity)


def far(found: Averages, reference: int | None, log_exact: Any, error: Any) -> float:
    """Largest distance of log second moments in standard errors, relative to layer ``reference``."""
    log = found.log_second_moment
    log = log if reference is None else log - log[reference]
    stated = np.hypot(found.second_moment_error, error) + 1e-12
    return float(np.max(np.abs(log - log_exact) / stated))


@pytest.mark.parametrize(
    ("layer", "batch", "order", "maps"),
    [
        (S0, 2, "pre_activation", 1),
        (S0, 2, "pre_activation", 2),
        (STEEP, 2, "pre_norm", 2),
        (B0, 10, "pre_activation", 1),
        (FLAT, 8, "pre_norm", 2),
    ],
    ids=["S0", "S0 two maps", "S0 relu", "B0", "B0 eps"],
)
def test_gaussian_streams(layer: th.Layer, batch: int, order: Any, maps: int) -> None:
    network = th.Residual(layer, depth=3, order=order, maps=maps)
    inputs = th.exchangeable(batch=batch, correlation=0.3)
    exact = th.predict(network, inputs)
    assert exact.forward_route in ("quadrature", "RQMC")
    found = population(network, inputs, channels=4096, seed=5)
    assert found.gradient is not None
    assert found.branch_gradient is not None
    assert exact.log_gradient_norm is not None
    assert exact.log_branch_gradient_norm is not None
    assert (
        far(
            found.stream,
            None,
            exact.log_second_moment,
            exact.activation.second_moment_error,
        )
        < 5.0
    )
    gap_error = np.hypot(found.stream.gap_error, exact.activation.gap_error)
    assert np.all(np.abs(found.stream.gap / exact.gap - 1.0) < 5.0 * gap_error + 1e-12)
    assert far(found.gradient, -1, 2.0 * exact.log_gradient_norm, 2.0 * exact.gradient_error) < 5.0
    # At the branch relative to the last stream, whose gradient is 1.
    branch = 2.0 * exact.log_branch_gradient_norm + found.gradient.log_second_moment[-1]
    assert far(found.branch_gradient, None, branch, 2.0 * exact.branch_gradient_error) < 5.0
    assert max(found.stream.second_moment_error.max(), found.stream.gap_error.max()) < 0.01
    assert found.gradient.second_moment_error.max() < 0.02


CASES = {
    "S0": (S0, 2), "S0 relu": (STEEP, 2), "S0(16)": (GROUPS, 2), "B0": (B0, 10), "B0 eps": (FLAT, 8),
}  # fmt: skip
FAST = {("S0 relu", "post_norm", 1), ("S0(16)", "sandwich", 1), ("S0(16)", "post_norm", 2)}
FAST |= {("B0 eps", "deep_norm", 1), ("B0 eps", "sandwich", 2)}


def cases() -> Iterator[Any]:
    """Every layer, order and number of maps; most with options only when there is time."""
    for name, order, maps in itertools.product(
        CASES, ("sandwich", "post_norm", "deep_norm"), (1, 2)
    ):
        marks = () if name in ("S0", "B0") or (name, order, maps) in FAST else pytest.mark.slow
        yield pytest.param(*CASES[name], order, maps, id=f"{name} {order} {maps}", marks=marks)


@pytest.mark.parametrize(("layer", "batch", "order", "maps"), list(cases()))
def test_simulated_networks(layer: th.Layer, batch: int, order: Any, maps: int) -> None:
    assert layer.norm is not None
    network = th.Residual(layer, depth=5, order=order, maps=maps)
    inputs = th.exchangeable(batch=batch, correlation=0.3)
    predicted = th.predict(network, inputs)
    assert predicted.forward_route == predicted.backward_route
    alone = order != "sandwich" and layer.norm.pool.channels == math.inf
    bends = maps == 1 and layer.activation.name != "identity"
    assert predicted.forward_route == ("walk density" if alone and not bends else "population")
    simulated = mc.simulate(network, inputs, width=2048, replicates=64, seed=11, workers=1)
    comparison = mc.compare(predicted, simulated)
    compared = {entry.observable for entry in comparison.entries if not math.isnan(entry.z)}
    assert compared >= {"second_moment", "similarity", "preactivation_second_moment"}
    # The variance that eps lends a gradient is no variance.
    assert ("gradient_norm" in compared) == (predicted.regime.status == "regular")
    assert not comparison.rejected(level=2e-4)


@pytest.mark.parametrize("layer", [S0, B0], ids=["S0", "B0"])
@pytest.mark.parametrize("order", ["branch_end_norm", "post_activation"])
def test_branches_that_begin_with_the_identity(layer: th.Layer, order: Any) -> None:
    """x + N(W x): Gaussian routes follow the mean that x has, which the identity keeps."""
    batch = 10 if layer is B0 else 2
    doubled = dataclasses.replace(layer.activation, scale=2.0)
    layer = dataclasses.replace(layer, activation=doubled)
    network = th.Residual(layer, depth=2, order=order, maps=1)
    inputs = th.exchangeable(batch=batch, correlation=0.3)
    predicted = th.predict(network, inputs)
    simulated = mc.simulate(network, inputs, width=4096, replicates=64, seed=8, workers=1)
    assert not mc.compare(predicted, simulated).rejected(level=2e-4)


def test_layers_divide_by_a_number() -> None:
    """Along directions that leave the deviation over channels alone, J is n'/R on the diagonal."""
    rng = np.random.default_rng(3)
    norm = th.evonorm_s0(gate=1.3, eps=0.1)
    x, direction = 2.0 * rng.standard_normal((2, 1, 3, 64)) + 0.4
    deviation = x - x.mean()
    direction -= deviation * np.sum(direction * deviation) / np.sum(deviation**2)
    op = NormAct(norm, th.identity)
    out, tape = normact(op, Population(x))
    root = math.sqrt(float(np.mean(deviation**2)) + 0.1)
    assert_allclose(out.values, x / (1.0 + np.exp(-1.3 * x)) / root, rtol=1e-13)
    step = 1e-6
    ends = [normact(op, Population(x + s * step * direction))[0].values for s in (1.0, -1.0)]
    slope = (ends[0] - ends[1]) / (2.0 * step)
    drawn = pullback(op, tape, Population(direction)).values
    assert_allclose(drawn, slope, rtol=1e-6, atol=1e-8)
    squares, down = squared_pullback(op, tape, direction * direction)
    assert down == 0
    assert_allclose(squares, slope * slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("norm", [th.evonorm_s0(), th.evonorm_s0(4), th.evonorm_b0()])
@pytest.mark.parametrize("steps", [-2000, -3, 5, 2000])
def test_gates_in_other_units(norm: th.Normalizer, steps: int) -> None:
    """N(a h) at gate v is N(h) at gate a v (S0), or N(h) itself (B0), however large a is."""
    rng = np.random.default_rng(6)
    h, g = rng.standard_normal((2, 1, 4, 8))
    assert norm.gate is not None
    op = NormAct(norm, th.identity)
    out, tape = normact(op, Population(h, steps))
    back = pullback(op, tape, Population(g))
    other = norm
    if norm.denominator == "std":
        # Gates of 2^60 are steps, of 2^-60 halves.
        other = dataclasses.replace(norm, gate=2.0 ** max(-60, min(60, steps)))
    same = NormAct(other, th.identity)
    expected, again = normact(same, Population(h))
    assert out.exponent == expected.exponent == 0
    assert_allclose(out.values, expected.values, rtol=1e-13, atol=1e-15)
    assert back.exponent == -steps
    assert_allclose(
        back.values, pullback(same, again, Population(g)).values, rtol=1e-12, atol=1e-14
    )


def test_streams_beyond_floating_point_numbers() -> None:
    """2 x + N(W N(x)), 1,100 blocks: behind 2^1100 the gate is relu, and the stream doubles."""
    network = th.Residual(S0, depth=1100, order="sandwich", skip=2.0, maps=1)
    found = population(network, th.exchangeable(batch=2, correlation=0.5), channels=64)
    assert_allclose(np.diff(found.stream.log_second_moment)[30:], math.log(4.0), rtol=1e-9)
    assert found.branch_gradient is not None
    assert np.isfinite(found.branch_gradient.log_second_moment).all()


# Post-norm with S0 over all channels: one channel's density, pairs as chains

WALKS = {
    "post-norm": th.Residual(S0, depth=8, order="post_norm", maps=1),
    "two maps, relu, gate, eps": th.Residual(STEEP, depth=4, order="post_norm", maps=2),
    "DeepNorm": th.Residual(S0, depth=12, order="deep_norm", maps=2),
    "v < 0": th.Residual(
        th.Layer(norm=th.evonorm_s0(gate=-0.5), activation=th.identity),
        depth=5, order="post_norm", maps=1, skip=0.8, branch=1.3,
    ),
    "centered rows": th.Residual(
        th.Layer(
            norm=th.evonorm_s0(), activation=th.identity, weights=th.centered_weights()
        ),
        depth=5, order="post_norm", maps=2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("network", WALKS.values(), ids=WALKS)
def test_densities_against_populations(network: th.Residual) -> None:
    inputs = th.exchangeable(batch=2, correlation=0.3, feature_mean=0.4)
    exact = th.predict(network, inputs)
    assert exact.route["second_moment"][0] == exact.backward_route == "walk density"
    assert exact.route["similarity"][0] == "sampled walk"
    assert exact.log_gradient_norm is not None
    assert exact.log_branch_gradient_norm is not None
    found = population(network, inputs, channels=8192, seed=2)
    assert found.preactivation is not None
    assert found.gradient is not None
    assert found.branch_gradient is not None
    assert far(found.stream, None, exact.log_second_moment, 0.0) < 5.0
    log_map = np.log(exact.preactivation_second_moment)
    assert far(found.preactivation, None, log_map, 0.0) < 5.0
    # Relative to E[g^2] = 1 behind the last block, which the draws do not deviate from.
    assert far(found.gradient, None, 2.0 * exact.log_gradient_norm, 0.0) < 5.0
    assert far(found.branch_gradient, None, 2.0 * exact.log_branch_gradient_norm, 0.0) < 5.0
    means = np.array([state.mean for state in exact.states]) / np.sqrt(exact.second_moment)
    assert np.all(np.abs(found.stream.mean - means) < 5.0 * found.stream.mean_error + 1e-12)
    for ours, theirs in (
        (exact.activation, found.stream),
        (exact.preactivation, found.preactivation),
    ):
        error = np.hypot(ours.gap_error, theirs.gap_error)
        assert np.all(np.abs(ours.gap / theirs.gap - 1.0) < 5.0 * error + 1e-12)
    assert found.stream.second_moment_error.max() < 5e-3


def test_three_blocks_by_nested_quadrature() -> None:
    """Gauss-Hermite rules over three steps, each with its own R; the first also by mpmath."""
    q, mean, a, v, eps, s, k = 1.3, 0.5, 1.2, 0.8, 0.1, 0.6, 0.3
    walk = gated_walk(
        3, second_moment=q, mean=mean, skip=a, gate=v, eps=eps, branch=lambda q, m: (s, k)
    )
    spread = math.sqrt(a * a * (q - mean * mean) + s * s)

    def first(h: Any) -> Any:
        return (h / (1 + mp.exp(-v * h))) ** 2 * mp.npdf(h, a * mean, spread)

    whole = mp.quad(first, np.linspace(-12.0, 13.0, 11).tolist()) / (spread * spread + eps)
    assert walk.second_moment[0] == pytest.approx(float(whole), rel=1e-11)
    z, w = np.polynomial.hermite_e.hermegauss(70)
    w = w / w.sum()
    laws = (w[:, None, None], w[:, None, None] * w[:, None], w[:, None, None] * w[:, None] * w)
    steps = (z[:, None, None], z[:, None], z)
    h = a * mean + spread * steps[0]
    slopes = []
    for block, law in enumerate(laws):
        centre = float(np.sum(law * h))
        root = math.sqrt(float(np.sum(law * (h - centre) ** 2)) + eps)
        opened = 1.0 / (1.0 + np.exp(-v * h))
        x = h * opened / root
        slopes.append((opened * (1.0 + v * h * (1.0 - opened)) / root) ** 2)
        assert walk.second_moment[block] == pytest.approx(float(np.sum(law * x * x)), rel=1e-10)
        assert walk.mean[block] == pytest.approx(float(np.sum(law * x)), rel=1e-10)
        if block < 2:
            h = a * x + s * steps[block + 1]
    gradient = np.ones(())
    for block in (2, 1, 0):
        stream = float(np.sum(laws[block] * gradient))
        passed = slopes[block] * gradient
        total = float(np.sum(laws[block] * passed))
        assert walk.log_gradient[block] == pytest.approx(math.log(stream), rel=1e-10, abs=1e-12)
        assert walk.log_sum_gradient[block] == pytest.approx(math.log(total), rel=1e-10)
        # Given the path so far: the mean over the step that led here.
        if block:
            along = w if block == 2 else w[:, None]
            gradient = a * a * np.sum(passed * along, axis=block, keepdims=True) + k * total


@pytest.mark.parametrize("skip", [1.0, 3.0])
def test_nodes_of_densities_suffice(skip: float) -> None:
    def walk(fine: float) -> GatedWalk:
        return gated_walk(
            30, second_moment=1.3, mean=0.5, skip=skip, gate=1.4, eps=0.1, fine=fine,
            branch=lambda q, m: (0.3 * math.sqrt(q - 0.5 * m * m), 0.2),
        )  # fmt: skip

    for coarse, fine in zip(walk(1.0), walk(1.7), strict=True):
        assert_allclose(coarse, fine, rtol=1e-10, atol=1e-10)


def test_gates_of_zero_only_rescale() -> None:
    """h/2 over the deviation: a Gaussian stays one, with q = 1/4 + its squared mean."""
    walk = gated_walk(
        4, second_moment=1.0, mean=0.0, skip=1.0, gate=0.0, eps=0.0,
        branch=lambda q, m: (math.sqrt(2.0 * q), 2.0),
    )  # fmt: skip
    assert_allclose(walk.second_moment, 0.25, rtol=1e-12)
    # Each block: (1 + 2)/(4 R^2), R^2 = 3/4, and 3 of the first.
    assert_allclose(walk.log_gradient, 0.0, atol=1e-12)
    assert_allclose(walk.log_sum_gradient[1:], -math.log(3.0), rtol=1e-12)


def test_errors_of_sampled_pairs_are_honest() -> None:
    """Spread of 24 seeds over the stated errors, chi-square: a false alarm in 1,000 at either end."""
    network = WALKS["DeepNorm"]
    inputs = th.exchangeable(batch=2, correlation=0.3)
    law = gated_law(network, inputs)
    found = [
        gated_states(network, inputs, law, populations=16, chains=256, seed=seed)[0][-1]
        for seed in range(24)
    ]
    gaps = np.array([state.gap for state in found])
    stated = np.array([state.gap * state.gap_error for state in found])
    # Errors are stretched for three of them: by 1.3.
    stretch = -float(special.stdtrit(15, special.ndtr(-3.0))) / 3.0
    ratio = float(np.sum((gaps - gaps.mean()) ** 2) / np.mean((stated / stretch) ** 2))
    assert special.chdtri(23, 1.0 - 1e-3) < ratio < special.chdtri(23, 1e-3)
    # What few chains bias is no part of a spread.
    wide = gated_states(network, inputs, law, populations=16, chains=8192, seed=1)[0][-1]
    error = math.hypot(wide.gap * wide.gap_error, float(stated.mean()) / math.sqrt(24.0))
    assert abs(gaps.mean() - wide.gap) < 4.0 * error


def test_steps_too_small_for_a_grid_are_left_to_populations() -> None:
    network = th.Residual(S0, depth=2, order="post_norm", branch=1e-9, maps=1)
    found = th.predict(network, th.exchangeable(batch=2, correlation=0.5))
    assert found.forward_route == "population"


def test_growth_behind_gates() -> None:
    """The law is that of the simulated stream, no Gaussian: as if it were, q = .40 and base 1.07."""
    network = th.Residual(S0, depth=40, order="post_norm", maps=2)
    law = th.growth_law(network)
    assert law.variance is not None
    assert law.gradient is not None
    assert (law.variance.kind, law.gradient.kind) == ("bounded", "exponential")
    inputs = th.exchangeable(batch=2, correlation=0.3)
    simulated = mc.simulate(network, inputs, width=4096, replicates=48, workers=1)
    found, norms = simulated.second_moment, simulated.log_gradient_norm
    assert abs(found.mean[-1] - law.variance.rate) < 4.5 * found.sem[-1]
    # Settled between blocks 16 and 31.
    step = 2.0 * (norms.mean[15] - norms.mean[30]) / 15.0
    error = 2.0 * math.hypot(norms.sem[15], norms.sem[30]) / 15.0
    assert abs(step - math.log(law.gradient.rate)) < 4.5 * error < 0.015


@pytest.mark.parametrize("layer", [GROUPS, STEEP], ids=["groups", "relu"])
def test_growth_that_no_density_gives(layer: th.Layer) -> None:
    law = th.growth_law(th.Residual(layer, depth=10, order="post_norm", maps=1))
    assert law.variance is law.gradient is None
    assert "follow it as a population" in law.reasons[0]
