"""Closed duals of homogeneous activations against mpmath, and the float twins against the arrays."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

import theory as th
from theory.routes import arccosine

GAPS = np.concatenate([np.geomspace(1e-15, 2.0, 160), 2.0 - np.geomspace(1e-14, 1e-1, 40)])
ACTIVATIONS = {
    "relu": th.relu,
    "leaky": th.leaky_relu(0.2),
    "leaky, negative": th.leaky_relu(-0.5),
    "identity": th.identity,
    "abs": th.abs,
}


def kappa(gap: float) -> tuple[mpmath.mpf, mpmath.mpf]:
    """(kappa_0, kappa_1) in 40 digits, straight from Cho & Saul's formulas."""
    with mpmath.workdps(40):
        c = 1 - mpmath.mpf(float(gap))
        back = mpmath.pi - mpmath.acos(c)
        return back / mpmath.pi, (mpmath.sqrt(1 - c * c) + c * back) / mpmath.pi


@pytest.mark.parametrize(
    "function", [arccosine.one_minus_kappa1, arccosine.one_minus_kappa1_scalar]
)
def test_one_minus_kappa1_keeps_relative_precision(function: object) -> None:
    for gap in GAPS:
        with mpmath.workdps(40):
            truth = 1 - kappa(gap)[1]
            assert abs(mpmath.mpf(float(function(float(gap)))) / truth - 1) < 1e-15, gap  # type: ignore[operator]


def test_arrays_mix_both_branches() -> None:
    scalar = [arccosine.one_minus_kappa1_scalar(float(gap)) for gap in GAPS]
    np.testing.assert_allclose(arccosine.one_minus_kappa1(GAPS), scalar, rtol=1e-15)


def test_kappa0_and_angle() -> None:
    for gap in GAPS:
        truth = kappa(gap)[0]
        assert float(arccosine.kappa0(gap)) == pytest.approx(float(truth), rel=1e-13, abs=1e-15)
        with mpmath.workdps(40):
            angle = mpmath.acos(1 - mpmath.mpf(float(gap)))
            assert abs(mpmath.mpf(float(arccosine.angle(gap))) / angle - 1) < 1e-15
        assert arccosine.angle_scalar(float(gap)) == pytest.approx(float(angle), rel=1e-15)


def dual(slopes: tuple[float, float], gap: float) -> tuple[mpmath.mpf, mpmath.mpf]:
    """(E phi phi', E phi' phi'') of a relu(x) + b relu(-x), term by term over the quadrants."""
    with mpmath.workdps(40):
        a, b = (mpmath.mpf(v) for v in slopes)
        k0, k1 = kappa(gap)
        c = 1 - mpmath.mpf(float(gap))
        opposite_k0, opposite_k1 = 1 - k0, k1 - c
        value = (a * a + b * b) * k1 / 2 + a * b * opposite_k1
        slope = (a * a + b * b) * k0 / 2 - a * b * opposite_k0
        return value, slope


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_ray_duals(name: str) -> None:
    slopes = ACTIVATIONS[name].ray_slopes
    assert slopes is not None
    for gap in GAPS:
        value, slope = dual(slopes, gap)
        with mpmath.workdps(40):
            at_one = dual(slopes, 0.0)[0]
            truth = float(1 - value / at_one)
        # abs: the map vanishes at c = -1, where 1e-15 absolute is what can be asked.
        got = float(arccosine.ray_gap(gap, slopes=slopes))
        assert got == pytest.approx(truth, rel=1e-13, abs=1e-15 if gap > 1.5 else 0.0)
        scalar = arccosine.ray_gap_scalar(float(gap), slopes=slopes)
        assert scalar == pytest.approx(truth, rel=1e-13, abs=1e-15 if gap > 1.5 else 0.0)
        got = float(arccosine.ray_slope(gap, slopes=slopes))
        assert got == pytest.approx(float(slope), rel=1e-13, abs=1e-15)
        scalar = arccosine.ray_slope_scalar(float(gap), slopes=slopes)
        assert scalar == pytest.approx(float(slope), rel=1e-13, abs=1e-15)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_one_sample_moments_by_quadrature(name: str) -> None:
    slopes = ACTIVATIONS[name].ray_slopes
    assert slopes is not None
    a, b = slopes
    q = 1.7

    def expectation(power: int) -> mpmath.mpf:
        def integrand(z: mpmath.mpf) -> mpmath.mpf:
            x = mpmath.sqrt(q) * z
            return (a * max(x, 0) + b * max(-x, 0)) ** power * mpmath.npdf(z)

        return mpmath.quad(integrand, [-12, 0, 12])

    assert float(arccosine.ray_second_moment(q, slopes=slopes)) == pytest.approx(
        float(expectation(2)), rel=1e-13
    )
    assert float(arccosine.ray_mean(q, slopes=slopes)) == pytest.approx(
        float(expectation(1)), rel=1e-13, abs=1e-15
    )
