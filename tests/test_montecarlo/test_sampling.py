"""Random numbers, inputs with an exact Gram matrix, and drawn weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from montecarlo.linear import DirectSampler, direct_map
from montecarlo.normals import fill_standard_normal
from montecarlo.sampling import realize_inputs, seed_sequence
from theory.errors import SpecificationError
from theory.specs.inputs import exchangeable, from_covariance, from_data
from theory.specs.weights import (
    centered_weights,
    gaussian,
    scaled_weight_standardization,
    weight_norm,
)

WEIGHTS = {
    "gaussian": gaussian(),
    "WC": centered_weights(weight_variance=3.0),
    "WN": weight_norm(),
    "SWS": scaled_weight_standardization(),
}


def test_normals_are_numpys():
    """The ziggurat reproduces Generator(SFC64).standard_normal, tails included."""
    ours = np.empty(2_000_000)
    fill_standard_normal(seed_sequence(7, 1, 2), ours)
    numpys = np.random.Generator(np.random.SFC64(seed_sequence(7, 1, 2))).standard_normal(ours.size)
    assert np.abs(ours).max() > 4.5
    np.testing.assert_allclose(ours, numpys, rtol=1e-13)


def test_normals_are_normal():
    """Kolmogorov-Smirnov, false alarm 1e-6, independent of NumPy's ziggurat."""
    values = np.empty(500_000)
    fill_standard_normal(seed_sequence(11), values)
    assert stats.kstest(values, "norm").pvalue > 1e-6


def test_float32_normals_are_rounded_float64():
    single, double = np.empty(1000, np.float32), np.empty(1000)
    fill_standard_normal(seed_sequence(3), single)
    fill_standard_normal(seed_sequence(3), double)
    np.testing.assert_array_equal(single, double.astype(np.float32))


def test_fill_continues_over_rows():
    flat, matrix = np.empty(30), np.empty((5, 6))
    fill_standard_normal(seed_sequence(3), flat)
    fill_standard_normal(seed_sequence(3), matrix)
    np.testing.assert_array_equal(matrix.ravel(), flat)


@pytest.mark.parametrize(
    "inputs",
    [
        exchangeable(batch=6, correlation=0.5),
        exchangeable(batch=6, correlation=0.5, second_moment=2.5, feature_mean=0.7),
        exchangeable(batch=6, correlation=-0.2),
        exchangeable(batch=1),
    ],
)
@pytest.mark.parametrize("width", [16, 100])
def test_exchangeable_gram_is_exact(inputs, width):
    x = realize_inputs(inputs, width=width, seed=0, dtype="float64")
    q, batch = inputs.second_moment, inputs.batch
    gram = q * ((1 - inputs.gap) * np.ones((batch, batch)) + inputs.gap * np.eye(batch))
    np.testing.assert_allclose(x.T @ x / width, gram, rtol=0, atol=1e-13 * q)
    np.testing.assert_allclose(x.mean(axis=0), inputs.feature_mean, rtol=0, atol=1e-14)


def test_gram_over_positions_is_exact():
    """Product covariances with a mean in common."""
    inputs = exchangeable(
        batch=3, gap=0.4, positions=4, position_gap=0.7, second_moment=2.5, feature_mean=0.6
    )
    x = realize_inputs(inputs, width=64, seed=0, dtype="float64")
    own, other = np.eye(3) + 0.6 * (1.0 - np.eye(3)), np.eye(4) + 0.3 * (1.0 - np.eye(4))
    np.testing.assert_allclose(x.T @ x / 64, 2.5 * np.kron(own, other), rtol=0, atol=1e-12)
    np.testing.assert_allclose(x.mean(axis=0), 0.6, rtol=0, atol=1e-13)


def test_tiny_gap_is_realised_to_relative_precision():
    inputs = exchangeable(batch=4, gap=1e-14)
    x = realize_inputs(inputs, width=64, seed=0, dtype="float64")
    difference = np.mean((x[:, 0] - x[:, 1]) ** 2) / 2
    assert difference == pytest.approx(1e-14, rel=1e-6)


def test_covariance_gram_is_exact():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((5, 5))
    mean = 0.1 * rng.standard_normal(5)
    covariance = root @ root.T + np.outer(mean, mean)
    x = realize_inputs(
        from_covariance(covariance, feature_mean=mean), width=32, seed=0, dtype="float64"
    )
    np.testing.assert_allclose(x.T @ x / 32, covariance, rtol=0, atol=1e-12)
    np.testing.assert_allclose(x.mean(axis=0), mean, rtol=0, atol=1e-14)


def test_data_are_taken_as_they_are():
    features = np.random.default_rng(0).standard_normal((3, 7))
    x = realize_inputs(from_data(features), width=5, seed=0, dtype="float32")
    np.testing.assert_array_equal(x, features.T.astype(np.float32))
    assert x.flags.c_contiguous


def test_unrealisable_inputs():
    with pytest.raises(SpecificationError, match="batch"):
        realize_inputs(
            exchangeable(batch=math.inf, correlation=0.5), width=64, seed=0, dtype="float64"
        )
    with pytest.raises(SpecificationError, match="float64"):
        realize_inputs(from_data([[1e60, 1.0]]), width=64, seed=0, dtype="float32")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_maps_act_as_their_matrix(weights, dtype):
    rng = np.random.default_rng(1)
    drawn = DirectSampler(0, (9,), dtype).draw(weights, fan_in=7, fan_out=9, layer=0)
    x, delta = rng.standard_normal((7, 3)).astype(dtype), rng.standard_normal((9, 3)).astype(dtype)
    tolerance = 1e-13 if dtype == "float64" else 1e-5
    matrix = drawn.matrix().astype(np.float64)
    np.testing.assert_allclose(drawn.forward(x), matrix @ x, rtol=0, atol=10 * tolerance)
    np.testing.assert_allclose(drawn.backward(delta), matrix.T @ delta, rtol=0, atol=10 * tolerance)
    assert drawn.forward(x).dtype == drawn.backward(delta).dtype == np.dtype(dtype)


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_rows_are_what_the_weights_say(weights):
    """Hand-written: scale, center, normalize the same Gaussians."""
    normal = np.random.default_rng(2).standard_normal((6, 11))
    expected = math.sqrt(weights.weight_variance / 11) * normal
    if weights.centered:
        expected = expected - expected.mean(axis=1, keepdims=True)
    if weights.normalized:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        expected *= math.sqrt(weights.weight_variance)
    np.testing.assert_allclose(direct_map(weights, normal).matrix(), expected, rtol=1e-12)


def test_shared_buffers_do_not_change_the_draw():
    buffers = {}
    first = DirectSampler(0, (8, 0), "float64", buffers).draw(
        gaussian(), fan_in=8, fan_out=8, layer=0
    )
    kept = first.normal.copy()
    DirectSampler(0, (8, 1), "float64", buffers).draw(gaussian(), fan_in=8, fan_out=8, layer=0)
    again = DirectSampler(0, (8, 0), "float64", buffers).draw(
        gaussian(), fan_in=8, fan_out=8, layer=0
    )
    np.testing.assert_array_equal(again.normal, kept)
