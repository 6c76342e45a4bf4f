"""Symbolic = numerical: every closed form at a point, lambdified maps on grids."""

from __future__ import annotations

import subprocess
import sys

import mpmath as mp
import numpy as np
import pytest
import sympy as sp

import theory as th
from theory import symbolic
from theory.operators import bind_pull
from theory.program import NormAct
from theory.routes import arccosine, batchnorm, gaussian, groupnorm
from theory.states.base import Gradient
from theory.states.exchangeable import Exchangeable
from theory.symbolic import batches, groups, kernels, variance

GRID = np.concatenate([np.linspace(-1.0, 1.0, 81), 1.0 - np.logspace(-12, -2, 11)])
INNER = np.array([-0.9, 0.5, 0.999])


@pytest.mark.parametrize("form", symbolic.closed_forms(), ids=lambda form: form.name)
def test_symbolic_equals_numerical(form):
    assert form.discrepancy() <= form.tolerance
    assert form.where
    assert max(step.seconds for step in form.expression.steps) <= 5.0


def test_table():
    forms = symbolic.closed_forms()
    assert len({form.name for form in forms}) == len(forms)
    exact = [form for form in forms if form.tolerance <= 1e-12]
    # The others are leading orders or limits, compared where they are close.
    assert len(exact) >= 0.8 * len(forms)


def test_kernels_on_a_grid():
    """Absolute: 1 - kappa_1 to full relative precision is the numerical route's business."""
    kappa1, kappa0 = kernels.kappa1().lambdify("c"), kernels.kappa0().lambdify("c")
    np.testing.assert_allclose(
        kappa1(GRID), 1.0 - arccosine.one_minus_kappa1(1.0 - GRID), rtol=0, atol=1e-12
    )
    # arccos(c) amplifies the rounding of c = 1 - 1e-12 itself.
    far = GRID[GRID < 0.999]
    np.testing.assert_allclose(kappa0(far), arccosine.kappa0(1.0 - far), rtol=0, atol=1e-12)


@pytest.mark.parametrize("slopes", [(1.0, 0.0), (1.0, -0.1), (1.0, 1.0), (1.0, 0.3)])
def test_ray_duals_on_a_grid(slopes):
    value = kernels.ray_dual().lambdify("a", "b", "c")(*slopes, GRID)
    total = 0.5 * (slopes[0] ** 2 + slopes[1] ** 2)
    expected = total * (1.0 - arccosine.ray_gap(1.0 - GRID, slopes=slopes))
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["sin", "erf"])
def test_gaussian_duals_on_a_grid(name):
    activation = getattr(th, name)
    dual = getattr(symbolic.duals, f"{name}_dual")().lambdify("q", "c")
    for q in (0.1, 1.0, 3.0):
        square, _, _ = gaussian.second_moment_and_mean(activation, q)
        gap, _ = gaussian.pair_gap(activation, np.full(81, q), np.full(81, q), 1.0 - GRID[:81])
        np.testing.assert_allclose(
            dual(q, GRID[:81]), square * (1.0 - np.asarray(gap)), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("size", [3, 8])
def test_group_norm_on_a_grid(size):
    similarity = symbolic.similarity_map(th.group_norm(size)).lambdify("c")
    gap, _ = groupnorm.group_gap(th.relu, 1.0 - INNER, group_size=size, centered=True)
    np.testing.assert_allclose(similarity(INNER), 1.0 - gap, rtol=0, atol=1e-12)
    slope = symbolic.slope(th.group_norm(size)).lambdify("c")
    expected, _ = groupnorm.group_slope(th.relu, 1.0 - INNER, group_size=size, centered=True)
    np.testing.assert_allclose(slope(INNER), 2.0 * expected, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 4, 5, 8, 16, 32])
@pytest.mark.parametrize("activation", [th.relu, th.leaky_relu(0.1), th.abs], ids=lambda x: x.name)
def test_groups_and_activations_on_a_grid(size, activation):
    grid = np.linspace(-0.98, 0.98, 15)
    layer = th.Layer(norm=th.group_norm(size), activation=activation)
    gap, _ = groupnorm.group_gap(activation, 1.0 - grid, group_size=size, centered=True)
    value = symbolic.similarity_map(layer).lambdify("c")(grid)
    np.testing.assert_allclose(value, 1.0 - gap, rtol=0, atol=1e-12)
    slopes = tuple(activation.ray_slopes)
    at_zero = groups.slope_at_independence(slopes, size - 1).value()
    if size > 2:
        expected, _ = groupnorm.group_slope(activation, 1.0, group_size=size, centered=True)
        square = 0.5 * (slopes[0] ** 2 + slopes[1] ** 2)
        assert float(at_zero) == pytest.approx(float(expected) / square, rel=1e-12, abs=1e-13)


def test_instance_norm_keeps_its_symbol():
    value = symbolic.similarity_map(th.instance_norm()).lambdify("c", "S")(0.6, 8.0)
    gap, _ = groupnorm.group_gap(th.relu, 0.4, group_size=8, centered=True)
    assert float(value) == pytest.approx(1.0 - float(gap), abs=1e-12)


@pytest.mark.parametrize("activation", [th.relu, th.leaky_relu(0.1), th.abs], ids=lambda x: x.name)
def test_batch_norm_on_a_grid(activation):
    sizes = np.array([4, 5, 8, 16, 64, 1000, 10**5])
    layer = th.Layer(norm=th.batch_norm(), activation=activation)
    factors = [batchnorm.batch_factors(activation, batch=int(size)) for size in sizes]
    square = sum(x * x for x in activation.ray_slopes) / 2.0
    gap = np.array([factor.gap for factor in factors])
    growth = [
        (factor.spread - factor.shared / size) / square
        for factor, size in zip(factors, sizes, strict=True)
    ]
    np.testing.assert_allclose(
        symbolic.similarity_map(layer).lambdify("B")(sizes), 1.0 - gap, rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(
        symbolic.gradient_growth(layer).lambdify("B")(sizes), np.array(growth) / gap, rtol=1e-12
    )


@pytest.mark.parametrize("name", ["plain", "LN", "SWS", "WC", "WN"])
def test_layer_maps_on_a_grid(name):
    layer = th.zoo[name]
    correlation = symbolic.correlation_map(layer)
    second = symbolic.variance_recursion(layer)
    for q in (0.25, 1.0, 4.0):
        network = th.FeedForward(layer, depth=2)
        start = q / layer.weights.weight_variance
        values, expected = [], []
        for c in (0.0, 0.3, 0.9):
            predicted = th.predict(
                network, th.exchangeable(batch=2, correlation=c, second_moment=start)
            )
            if layer.weights.centered:
                # Where rows are centered the given correlation is that of x^0 about its mean, zero here.
                c = float(predicted.preactivation_correlation[0])
            values += [
                float(correlation.at(c=c, q=q).value()), float(second.at(q=q).value()),
            ]  # fmt: skip
            expected += [
                float(predicted.preactivation_correlation[1]),
                float(predicted.preactivation_second_moment[1]),
            ]
        np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-15)


def test_vn_gradient_modes_near_collapse():
    """Leading order in u, the lower left entry also in 1/B: compared where both are small."""
    size, gap = 2000, 1e-8
    state = Exchangeable(size, size / (size - 1.0) / gap, gap)
    pull, _ = bind_pull(NormAct(th.variance_norm(), th.relu), state)
    columns = []
    for contrast, mean in ((1.0, 0.0), (0.0, 1.0)):
        pair = (mean - contrast) / size
        same, other = pull(state, Gradient((2.0 * (contrast + pair), 2.0 * pair), 0, 0.0)).value
        columns.append((same - other, same + (size - 1.0) * other))
    derived = np.array(variance.vn_gradient_matrix().at(B=size, u=gap).expression.evalf())
    np.testing.assert_allclose(np.array(columns).T, derived.astype(float), rtol=1e-3)


def test_a_constant_fills_the_grid():
    growth = symbolic.gradient_growth(th.zoo["SWS"])
    np.testing.assert_allclose(
        growth.lambdify("B")(GRID), np.full(GRID.shape, float(growth.value()))
    )
    assert growth.lambdify()().shape == ()


def test_arbitrary_precision():
    """30 digits of Hotelling's integral and of lambda_B, against mpmath and the reference table."""
    assert str(batches.gradient_growth((1, 0)).value(B=64, digits=20)) == "1.4930629378035986589"
    with mp.workdps(40):
        r = mp.mpf(1) / 2
        kappa = (mp.sqrt(1 - r * r) + r * (mp.pi - mp.acos(r))) / mp.pi
        assert (
            abs(mp.mpf(str(kernels.kappa1().value(c=sp.Rational(1, 2), digits=35))) - kappa)
            < mp.mpf(10) ** -33
        )


def test_importing_theory_does_not_import_sympy():
    code = "import sys, theory; print('sympy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
