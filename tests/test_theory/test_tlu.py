"""max(x, threshold): a kink away from 0, against direct integration and simulated networks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

import montecarlo as mc
import theory as th
from montecarlo.network import normact
from theory.errors import SpecificationError


def test_as_a_value():
    assert th.tlu(0.0) == th.relu
    assert th.from_json(th.to_json(th.tlu(-0.4))) == th.tlu(-0.4)
    assert "threshold" not in th.to_json(th.relu)
    with pytest.raises(SpecificationError, match=r"threshold = 0.5 .*0 for tanh"):
        th.Activation(name="tanh", threshold=0.5)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_simulated_layer_by_numpy(dtype):
    h = np.random.default_rng(0).standard_normal((4, 12)).astype(dtype)
    for threshold in (-0.3, 0.7):
        x, step = normact(None, th.tlu(threshold), h)
        np.testing.assert_allclose(x, np.maximum(h, threshold), rtol=1e-6)
        np.testing.assert_array_equal(step.backward(np.ones_like(h)), h > threshold)


@pytest.mark.parametrize("threshold", [-0.6, 0.4])
@pytest.mark.parametrize("exchangeable", [True, False])
def test_without_a_pool_by_integration(threshold, exchangeable):
    """Second moment and similarity after one layer, within 5 stated errors (false alarm < 1e-5)."""
    weights = th.gaussian(weight_variance=1.5)
    network = th.FeedForward(th.Layer(weights=weights, activation=th.tlu(threshold)), depth=2)
    inputs = th.exchangeable(batch=3, correlation=0.4)
    if not exchangeable:
        inputs = th.from_covariance(0.6 * np.eye(3) + 0.4)
    pred = th.predict(network, inputs)
    assert pred.forward_route == pred.backward_route == "RQMC"
    law = stats.multivariate_normal([0, 0], 1.5 * np.array([[1.0, 0.4], [0.4, 1.0]]))
    points = np.linspace(-9.0, 9.0, 1801)
    u, v = np.meshgrid(points, points, indexing="ij")
    density = law.pdf(np.stack([u, v], -1))

    def mean(values):
        return integrate.trapezoid(integrate.trapezoid(values * density, points), points)

    phi_u, phi_v = np.maximum(u, threshold), np.maximum(v, threshold)
    second, pair = mean(phi_u**2), mean(phi_u * phi_v)
    grid = 1e-4  # of the trapezoidal rule across a kink
    for value, expected, name in (
        (pred.second_moment[0], second, "second_moment"),
        (pred.similarity[0], pair / second, "similarity"),
    ):
        assert abs(value - expected) < 5.0 * pred.error[name][0] + grid
    # The gradient at h^1: sigma_w^2 E phi'(h^2)^2 per feature, times E phi'(h^1)^2, over E phi'(h^2)^2.
    deep = stats.norm.sf(threshold / np.sqrt(1.5))
    assert pred.gradient_norm is not None
    assert pred.gradient_norm[0] ** 2 == pytest.approx(1.5 * deep, rel=5e-3)


def test_filter_response_norm_with_its_own_threshold():
    """FRN and TLU on 16 positions against networks of width 512: five standard errors and 1 % of bias."""
    layer = th.Layer(norm=th.filter_response_norm(), activation=th.tlu(-0.5), kernel=3)
    network = th.FeedForward(layer, depth=3)
    inputs = th.exchangeable(batch=3, correlation=0.3, positions=16, position_correlation=0.5)
    pred = th.predict(network, inputs)
    simulation = mc.simulate(network, inputs, width=256, replicates=12, dtype="float32", workers=1)
    for name in ("second_moment", "similarity", "gradient_norm"):
        estimate, value = getattr(simulation, name), getattr(pred, name)
        error = 5.0 * np.hypot(estimate.sem, pred.error[name]) + 0.01 * np.abs(value)
        assert (np.abs(estimate.mean - value) < error).all(), name
