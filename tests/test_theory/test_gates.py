"""EvoNorm's limits: the theory notes' table, mpmath, finite batches that approach the infinite one."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

import theory as th
from theory.routes import gate_limits


def layer(norm: th.Normalizer, weight_variance: float = 2.0, depth: int = 1) -> th.FeedForward:
    weights = th.gaussian(weight_variance=weight_variance)
    return th.FeedForward(th.Layer(norm=norm, activation=th.identity, weights=weights), depth=depth)


@pytest.mark.parametrize(
    ("variance", "q", "growth", "correlation"),
    [
        (1, 0.29466, 1.04307, 0.56226),
        (2, 0.66367, 1.06093, 0.61912),
        (3, 1.08194, 1.06734, 0.66702),
    ],
)
def test_s0_table(variance: float, q: float, growth: float, correlation: float) -> None:
    found = th.fixed_point(layer(th.evonorm_s0(), variance))
    assert found.second_moment == pytest.approx(q, abs=6e-6)
    assert found.gradient_growth == pytest.approx(growth, abs=6e-6)
    assert found.correlation == pytest.approx(correlation, abs=6e-6)


def test_b0_table() -> None:
    found = th.fixed_point(layer(th.evonorm_b0()))
    assert found.correlation == pytest.approx(0.19203, abs=6e-6)
    assert found.second_moment == pytest.approx(1.79507, abs=6e-6)


@pytest.mark.parametrize("gate", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("gap", [1e-6, 0.05, 0.8, 1.3])
def test_b0_moments_against_mpmath(gap: float, gate: float) -> None:
    second_moment, mean, _ = gate_limits.b0_moments(gap, gate=gate)
    sigma = gate / math.sqrt(gap)

    def moment(power: int) -> mpmath.mpf:
        def integrand(z: mpmath.mpf) -> mpmath.mpf:
            return min(sigma * z, mpmath.mpf(1)) ** power * mpmath.npdf(z)

        with mpmath.workdps(25):
            return mpmath.quad(integrand, [-14, -4, 0, 1 / sigma, 1 / sigma + 4, 1 / sigma + 14])

    assert second_moment == pytest.approx(float(moment(2)) / gate**2, rel=1e-13)
    assert mean == pytest.approx(float(moment(1)) / gate, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("gap", [1e-8, 1e-3, 0.2, 0.8, 1.0, 1.6])
def test_b0_gap_against_nested_quadrature(gap: float) -> None:
    # 1 - E[f f']/E[f^2] with f' averaged in closed form given f's argument: one integral is left.
    sigma = 1.0 / math.sqrt(gap)
    with mpmath.workdps(40):
        c, own = 1 - mpmath.mpf(gap), mpmath.sqrt(mpmath.mpf(gap) * (2 - mpmath.mpf(gap)))

        def half_distance(z: mpmath.mpf) -> mpmath.mpf:
            # E[(f(u) - f(v))^2 | u]/2 from E[f(v) | u] and E[f(v)^2 | u].
            u, m, s = sigma * z, sigma * c * z, sigma * own
            k = (1 - m) / s
            below, density = mpmath.ncdf(k), mpmath.npdf(k)
            first = m * below - s * density + (1 - below)
            second = (m * m + s * s) * below - (2 * m * s + s * s * k) * density + (1 - below)
            f = min(u, mpmath.mpf(1))
            return (f * f - 2 * f * first + second) / 2 * mpmath.npdf(z)

        edge, width = 1 / mpmath.mpf(sigma), 6 * own
        points = sorted({-12, edge - width, edge, edge + width, 12, -4, 4})
        distance = mpmath.quad(half_distance, points, maxdegree=8)
        second_moment, _, _ = gate_limits.b0_moments(gap, gate=1.0)
        truth = float(distance / second_moment)
    value, error = gate_limits.b0_gap(gap, gate=1.0)
    assert value == pytest.approx(truth, rel=1e-12)
    assert error < 1e-12


def test_finite_batches_approach_the_limit() -> None:
    # The difference is O(1/B): halving 1/B halves it, forward and backward.
    limit = th.predict(
        layer(th.evonorm_b0(), depth=2), th.exchangeable(batch=math.inf, correlation=0.3)
    )
    ratio = {}
    for name in ("second_moment", "similarity", "log_gradient_norm"):
        differences = []
        for batch in (24, 48):
            inputs = th.exchangeable(batch=batch, correlation=0.3)
            pred = th.predict(layer(th.evonorm_b0(), depth=2), inputs)
            index = 0 if "gradient" in name else -1
            differences.append(getattr(pred, name)[index] - getattr(limit, name)[index])
        ratio[name] = differences[1] / differences[0]
    for name, value in ratio.items():
        assert value == pytest.approx(0.5, abs=0.07), name


def test_s0_groups_approach_the_layer() -> None:
    inputs = th.exchangeable(batch=2, correlation=0.3)
    limit = th.predict(layer(th.evonorm_s0(), depth=2), inputs)
    far = th.predict(layer(th.evonorm_s0(12), depth=2), inputs)
    near = th.predict(layer(th.evonorm_s0(48), depth=2), inputs)
    for name in ("second_moment", "similarity"):
        distance = [abs(getattr(p, name)[-1] - getattr(limit, name)[-1]) for p in (far, near)]
        assert distance[1] == pytest.approx(distance[0] / 4.0, rel=0.35)
    assert near.route["similarity"][0] == "RQMC"
    assert (near.error["similarity"] > 0).all()


def test_b0_refuses_a_common_cotangent_only_where_it_matters() -> None:
    pred = th.predict(
        layer(th.evonorm_b0(), depth=4), th.exchangeable(batch=math.inf, correlation=0.3)
    )
    assert pred.gradient_norm is not None
    assert np.isfinite(pred.gradient_norm).all()
