"""Base activations against mpmath: values, derivatives, differences of nearby arguments."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest

from theory.routes.functions import base_function
from theory.specs.activations import ACTIVATION_NAMES, Activation, tlu

SELU_SCALE = "1.0507009873554804934193349852946"
SELU_ALPHA = "1.6732632423543772848170429916717"
EXACT = {
    "relu": lambda x: mp.mpf(max(x, 0)),
    "leaky_relu": lambda x: x if x > 0 else x * mp.mpf(0.1),
    "identity": lambda x: x,
    "abs": abs,
    "tanh": mp.tanh,
    "erf": mp.erf,
    "gelu": lambda x: x * mp.erfc(-x / mp.sqrt(2)) / 2,
    "silu": lambda x: x / (1 + mp.exp(-x)),
    "elu": lambda x: x if x > 0 else mp.expm1(x),
    "selu": lambda x: mp.mpf(SELU_SCALE) * (x if x > 0 else mp.mpf(SELU_ALPHA) * mp.expm1(x)),
    "softplus": lambda x: mp.log1p(mp.exp(x)),
    "sin": mp.sin,
}
# Enough digits for 1 - tanh(300) and for differences of 1e-12.
DIGITS = 320


def specification(name: str) -> Activation:
    slope = 0.1 if name == "leaky_relu" else None
    return Activation(name=name, negative_slope=slope, scale=3.0, shift=1.0)


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_value_and_derivative_match_mpmath(name: str) -> None:
    function = base_function(specification(name))
    rng = np.random.default_rng(3)
    points = rng.normal(size=40) * 10.0 ** rng.uniform(-3.0, 1.3, size=40)
    with mp.workdps(DIGITS):
        value = np.array([float(EXACT[name](mp.mpf(x))) for x in points])
        step = mp.mpf(10) ** -60
        derivative = np.array(
            [
                float((EXACT[name](x + step) - EXACT[name](x - step)) / (2 * step))
                for x in map(mp.mpf, points)
            ]
        )
    np.testing.assert_allclose(function.value(points), value, rtol=1e-14 * 40, atol=0.0)
    # silu' and gelu' vanish near -1: absolute there, relative in the tails (condition |x|^2).
    np.testing.assert_allclose(function.derivative(points), derivative, rtol=2e-13, atol=3e-16)


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_spread_keeps_relative_precision(name: str) -> None:
    function = base_function(specification(name))
    rng = np.random.default_rng(4)
    middle = rng.normal(size=150) * 10.0 ** rng.uniform(-3.0, 1.3, size=150)
    half = rng.normal(size=150) * 10.0 ** rng.uniform(-12.0, 1.3, size=150)
    with mp.workdps(DIGITS):
        truth = np.array(
            [
                float(EXACT[name](mp.mpf(m) + mp.mpf(w)) - EXACT[name](mp.mpf(m) - mp.mpf(w)))
                for m, w in zip(middle, half, strict=True)
            ]
        )
    between = middle + np.linspace(-1.0, 1.0, 41)[:, None] * half
    size = np.abs(half) * np.max(np.abs(function.derivative(between)), axis=0)
    # An ulp in m costs |m phi''/phi'| ulp: |m| for exponential tails, m^2 for Gaussian ones.
    condition = 1.0 + np.abs(middle) ** (2 if name in ("erf", "gelu") else 1)
    size = np.where(size > 1e-290, size, math.inf)
    error = np.abs(function.spread(middle, half) - truth) / (size * condition)
    assert np.max(error) < 2e-14


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_large_arguments_are_finite_and_silent(name: str) -> None:
    function = base_function(specification(name))
    points = np.array([-1e6, -1e3, -40.0, 0.0, 40.0, 1e3, 1e6])
    assert np.all(np.isfinite(function.value(points)))
    assert np.all(np.isfinite(function.derivative(points)))
    assert np.all(np.isfinite(function.spread(points[:, None], points)))
    assert np.all(function.spread(points, 0.0) == 0.0)


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_difference_is_antisymmetric_and_agrees_with_values(name: str) -> None:
    function = base_function(specification(name))
    a, b = np.random.default_rng(5).normal(size=(2, 30))
    np.testing.assert_allclose(
        function.difference(a, b), function.value(a) - function.value(b), rtol=0.0, atol=2e-15
    )
    np.testing.assert_array_equal(function.difference(a, b), -function.difference(b, a))


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_flags_hold(name: str) -> None:
    function = base_function(specification(name))
    points = np.linspace(0.1, 5.0, 20)
    odd = bool(np.allclose(function.value(-points), -function.value(points), rtol=1e-12))
    assert function.odd == odd
    jump = abs(function.derivative(1e-9) - function.derivative(-1e-9)) > 1e-3
    assert jump == (name in ("relu", "leaky_relu", "abs", "selu"))
    assert function.kinked == (name in ("relu", "leaky_relu", "abs", "elu", "selu"))
    poles = {"tanh": math.pi / 2, "silu": math.pi, "softplus": math.pi}
    assert function.strip == poles.get(name, math.inf)


def test_derivative_at_the_kink() -> None:
    for name in ("relu", "abs"):
        assert base_function(specification(name)).derivative(0.0) == 0.0
    assert base_function(specification("identity")).derivative(0.0) == 1.0


def test_affine_output_map_is_left_out_and_instances_are_cached() -> None:
    function = base_function(specification("tanh"))
    assert function.value(0.3) == math.tanh(0.3)
    assert base_function(specification("tanh")) is function


@pytest.mark.parametrize("threshold", [-0.4, 0.7])
def test_thresholds_move_the_kink(threshold: float) -> None:
    base = base_function(tlu(threshold))
    x = np.array([threshold - 1.0, threshold - 1e-3, threshold + 1e-3, threshold + 1.0])
    np.testing.assert_array_equal(base.derivative(x), [0.0, 0.0, 1.0, 1.0])
    np.testing.assert_allclose(base.value(x), np.maximum(x - threshold, 0.0), rtol=1e-12)
