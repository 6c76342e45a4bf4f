"""Specifications are values: repr recreates them, what makes no sense raises a full sentence."""

import dataclasses
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.errors import NormcompassError, SpecificationError
from theory.specs import activations, inputs, networks, normalizers, weights
from theory.specs.activations import Activation, leaky_relu, relu, scaled_relu, tanh
from theory.specs.compatibility import check
from theory.specs.images import images
from theory.specs.inputs import (
    CovarianceInputs,
    DataInputs,
    ExchangeableInputs,
    exchangeable,
    from_covariance,
    from_data,
)
from theory.specs.networks import FeedForward, Layer, torch_defaults
from theory.specs.normalizers import Normalizer, Pool, batch_norm, evonorm_b0, group_norm
from theory.specs.stationary import stationary_from_data
from theory.specs.weights import Weights, gaussian, scaled_weight_standardization
from theory.zoo import zoo

NORMALIZERS = [
    normalizers.batch_norm(),
    normalizers.batch_norm(eps=1e-5, ddof=1),
    normalizers.variance_norm(),
    normalizers.mean_centering(),
    normalizers.layer_norm(),
    normalizers.rms_norm(),
    normalizers.rms_norm(positions=False, eps=1e-6),
    normalizers.group_norm(8),
    normalizers.instance_norm(),
    normalizers.filter_response_norm(),
    normalizers.evonorm_s0(),
    normalizers.evonorm_s0(4, gate=2.0, ddof=1),
    normalizers.evonorm_b0(),
]
VALUES = [
    *(Activation(name=name) for name in activations.ACTIVATION_NAMES if name != "leaky_relu"),
    leaky_relu(0.1),
    scaled_relu,
    tanh.affine(scale=2, shift=-1),
    *NORMALIZERS,
    weights.gaussian(weight_variance=1),
    weights.weight_norm(),
    weights.scaled_weight_standardization(),
    weights.centered_weights(),
    Layer(),
    *zoo.values(),
    FeedForward(zoo["GN(8)"], depth=50),
    exchangeable(batch=16, correlation=0.5),
    exchangeable(batch=math.inf, gap=1e-14, second_moment=2.0, feature_mean=0.5),
]
NAMESPACE = {
    **{cls.__name__: cls for cls in (Activation, FeedForward, Layer, Normalizer, Pool, Weights)},
    "ExchangeableInputs": inputs.ExchangeableInputs,
    "inf": math.inf,
}


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_repr_recreates_an_equal_value(value):
    again = eval(repr(value), dict(NAMESPACE))
    assert again == value
    assert hash(again) == hash(value)
    assert {value: 1}[again] == 1


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_are_frozen(value):
    field = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, None)


def test_data_inputs_compare_by_content():
    array = np.arange(1.0, 7.0).reshape(2, 3)
    first, second = from_data(array), from_data(array.copy())
    assert first == second
    assert hash(first) == hash(second)
    assert first != from_data(2.0 * array)
    assert from_covariance(np.eye(2)) == from_covariance(np.eye(2))
    assert from_covariance(np.eye(2)) != from_covariance(np.eye(3))


def test_data_inputs_do_not_follow_the_callers_array():
    array = np.ones((2, 3))
    data = from_data(array)
    array[0, 0] = 5.0
    assert data.features[0, 0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        data.features[0, 0] = 5.0


@pytest.mark.parametrize(
    ("build", "argument", "value", "remedy"),
    [
        (lambda: Activation(name="reul"), "name", "'reul'", "perhaps relu is meant"),
        (lambda: leaky_relu(2.0), "negative_slope", "2.0", "leaky_relu(0.01)"),
        (lambda: leaky_relu(math.nan), "negative_slope", "nan", "leaky_relu(0.01)"),
        (lambda: Activation(name="relu", negative_slope=0.1), "negative_slope", "0.1", "only"),
        (lambda: Activation(name="relu", scale=0), "scale", "0", "drop the layer"),
        (lambda: relu.affine(shift=math.inf), "shift", "inf", "finite"),
        (lambda: group_norm(0), "group_size", "0", "channels per group"),
        (lambda: group_norm(2.5), "group_size", "2.5", "channels per group"),
        (lambda: group_norm(True), "group_size", "True", "channels per group"),
        (lambda: group_norm(num_groups=32), "num_groups", "32", "channels / num_groups"),
        (lambda: batch_norm(eps=-1e-5), "eps", "-1e-05", "1e-5"),
        (lambda: batch_norm(eps=math.nan), "eps", "nan", "1e-5"),
        (lambda: batch_norm(eps="1e-5"), "eps", "'1e-5'", "1e-5"),
        (lambda: batch_norm(ddof=2), "ddof", "2", "0 or 1"),
        (lambda: evonorm_b0(gate=math.inf), "gate", "inf", "v = 1"),
        # Simulated as EvoNorm-S0 over positions before it was refused.
        (
            lambda: dataclasses.replace(
                evonorm_b0(), pool=Pool(samples=True, positions=False, channels=1)
            ),
            "pool",
            "positions=False",
            "evonorm_b0()",
        ),
        (
            lambda: dataclasses.replace(normalizers.rms_norm(), ddof=1),
            "ddof",
            "1",
            "no mean to subtract",
        ),
        (
            lambda: dataclasses.replace(normalizers.mean_centering(), eps=1.0),
            "eps, ddof",
            "(1.0, 0)",
            "drop them",
        ),
        (
            lambda: dataclasses.replace(normalizers.evonorm_s0(), centered=True),
            "centered",
            "True",
            "EvoNorm keeps the mean",
        ),
        (lambda: Pool(samples=1, positions=True, channels=1), "samples", "1", "bool"),
        (lambda: gaussian(weight_variance=0.0), "weight_variance", "0.0", "2.0"),
        (lambda: gaussian(weight_variance=math.inf), "weight_variance", "inf", "2.0"),
        (lambda: scaled_weight_standardization(gain=-1), "gain", "-1", "sqrt"),
        (lambda: Layer(norm=batch_norm), "norm", "<function", "batch_norm()"),
        (lambda: Layer(weights=2.0), "weights", "2.0", "gaussian()"),
        (lambda: Layer(activation="relu"), "activation", "'relu'", "relu"),
        (lambda: FeedForward(batch_norm(), depth=3), "layer", "Normalizer(", "Layer(norm=...)"),
        (lambda: FeedForward(Layer(), depth=0), "depth", "0", "count"),
        (lambda: FeedForward(Layer(), depth=10.0), "depth", "10.0", "count"),
        (lambda: exchangeable(batch=0, correlation=0.0), "batch", "0", "count"),
        (lambda: exchangeable(batch=2.5, correlation=0.0), "batch", "2.5", "count"),
        (lambda: exchangeable(batch=5, correlation=-0.3), "correlation", "-0.3", "-0.25"),
        (lambda: exchangeable(batch=5, correlation=1.1), "correlation", "1.1", "-0.25"),
        (lambda: exchangeable(batch=5, correlation=math.nan), "correlation", "nan", "-0.25"),
        (lambda: exchangeable(batch=5, gap=1.3), "gap", "1.3", "1 - correlation"),
        (lambda: exchangeable(batch=5), "correlation, gap", "(None, None)", "exactly one"),
        (
            lambda: exchangeable(batch=5, gap=0.5, correlation=0.5),
            "correlation, gap",
            "(0.5, 0.5)",
            "exactly one",
        ),
        (
            lambda: exchangeable(batch=5, gap=0.5, second_moment=0.0),
            "second_moment",
            "0.0",
            "zero sample",
        ),
        (
            lambda: exchangeable(batch=5, gap=1.0, feature_mean=1.0),
            "feature_mean",
            "1.0",
            "raise the correlation",
        ),
        (lambda: from_data([[1.0, math.nan]]), "features", "NaN", "impute"),
        (lambda: from_data([[1.0], [0.0]]), "features", "sample 1", "drop it"),
        (lambda: from_data([1.0, 2.0]), "features", "(2,)", "X[None, :]"),
        (lambda: from_data([["a"]]), "features", "list", "convert it"),
        (lambda: from_data(np.empty((0, 3))), "features", "(0, 3)", "X[None, :]"),
        (lambda: from_data([[1e200]]), "features", "1e+200", "rescale"),
        (lambda: from_covariance(np.ones((2, 3))), "covariance", "(2, 3)", "(B, B)"),
        (lambda: from_covariance([[1.0, 0.5], [0.4, 1.0]]), "covariance", "asym", "K.T"),
        (lambda: from_covariance([[1.0, 2.0], [2.0, 1.0]]), "covariance", "eigenvalue", "check"),
        (lambda: from_covariance([[0.0]]), "covariance", "0.0", "zero samples"),
        (lambda: from_covariance(np.eye(2), feature_mean=[1, 2, 3]), "feature_mean", "3", "one"),
    ],
)
def test_errors_name_argument_value_domain_and_remedy(build, argument, value, remedy):
    with pytest.raises(SpecificationError) as caught:
        build()
    message = str(caught.value)
    sentence = re.fullmatch(
        r"(?P<argument>.+?) = (?P<value>.+) is not valid: "
        r"it must be (?P<domain>.+); (?P<remedy>.+)\.",
        message,
    )
    assert sentence is not None, message
    assert sentence["argument"] == argument
    assert value in sentence["value"]
    assert remedy in sentence["remedy"]
    assert isinstance(caught.value, NormcompassError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("norm", "batch", "what"),
    [
        (normalizers.batch_norm(), 1, "batch"),
        (normalizers.variance_norm(), 1, "batch"),
        (normalizers.instance_norm(), 8, "norm"),
        (normalizers.filter_response_norm(), 8, "norm"),
        (normalizers.group_norm(1), 8, "norm"),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_a_normalizer_without_a_pool_is_refused(norm, batch, what):
    network = FeedForward(Layer(norm=norm), depth=2)
    with pytest.raises(SpecificationError, match=f"^{what} = "):
        check(network, exchangeable(batch=batch, correlation=0.0 if batch > 1 else None))


def test_check_accepts_what_fits_and_refuses_foreign_objects():
    batch = exchangeable(batch=8, correlation=0.0)
    for norm in (None, batch_norm(), group_norm(2), normalizers.layer_norm()):
        check(FeedForward(Layer(norm=norm), depth=2), batch)
    with pytest.raises(SpecificationError, match=r"^network = "):
        check(Layer(), batch)
    with pytest.raises(SpecificationError, match=r"^inputs = "):
        check(FeedForward(Layer(), depth=2), np.ones((2, 2)))


@given(batch=st.integers(2, 10**6))
def test_the_most_dissimilar_batch_is_accepted(batch):
    lowest = exchangeable(batch=batch, correlation=-1.0 / (batch - 1))
    assert lowest.gap <= 1.0 + 1.0 / (batch - 1)
    with pytest.raises(SpecificationError):
        exchangeable(batch=batch, correlation=-1.0 / (batch - 1) - 1e-9)


def test_a_tiny_gap_keeps_its_digits():
    assert exchangeable(batch=4, gap=1e-30).gap == 1e-30
    base = np.random.default_rng(0).standard_normal((1, 40))
    twins = np.concatenate([base, base])
    twins[1, 0] *= 1.0 + 1e-9
    gap = from_data(twins).gap[0, 1]
    # Twice the squared half-angle: the component of the change across the vector.
    change = twins[1] - twins[0]
    across = change - base[0] * (change @ base[0]) / (base[0] @ base[0])
    assert gap == pytest.approx(0.5 * (across @ across) / (base[0] @ base[0]), rel=1e-5)


def test_covariance_and_means_of_data():
    data = np.random.default_rng(1).standard_normal((3, 2, 5))
    flat = data.reshape(3, 10)
    given = from_data(data)
    assert given.batch == 3
    np.testing.assert_allclose(
        given.covariance, np.cov(flat, ddof=0) + np.outer(m := flat.mean(1), m)
    )
    np.testing.assert_allclose(given.feature_mean, m)
    cosine = given.covariance / np.sqrt(np.outer(given.second_moment, given.second_moment))
    np.testing.assert_allclose(1.0 - given.gap, cosine, atol=1e-15)


def test_affine_maps_compose():
    twice = relu.affine(scale=2.0, shift=1.0).affine(scale=-3.0, shift=0.5)
    assert (twice.scale, twice.shift) == (-6.0, -2.5)
    assert twice.base == relu


def test_scaled_relu_has_zero_mean_and_unit_second_moment():
    mean, square = 1.0 / math.sqrt(2.0 * math.pi), 0.5
    scale, shift = scaled_relu.scale, scaled_relu.shift
    assert scale * mean + shift == pytest.approx(0.0, abs=1e-15)
    second_moment = scale**2 * square + 2.0 * scale * shift * mean + shift**2
    assert second_moment == pytest.approx(1.0, rel=1e-15)


def test_torch_defaults_change_eps_and_ddof_only():
    network = FeedForward(Layer(norm=batch_norm(ddof=1)), depth=3)
    assert torch_defaults(network).layer.norm == batch_norm(eps=1e-5)
    for layer in (zoo["plain"], zoo["MC"]):
        unchanged = networks.FeedForward(layer, depth=3)
        assert torch_defaults(unchanged) == unchanged


def test_zoo_is_read_only_and_named_after_its_normalizers():
    with pytest.raises(TypeError):
        zoo["BN"] = Layer()
    for name, layer in zoo.items():
        assert name in {layer.norm.name if layer.norm else "plain", layer.weights.name}
    assert zoo["SWS"].weights.weight_variance == pytest.approx(
        zoo["WC"].weights.weight_variance, rel=1e-15
    )


def test_inputs_are_checked_however_they_are_built():
    with pytest.raises(SpecificationError, match="gap"):
        ExchangeableInputs(batch=8, gap=5)
    with pytest.raises(SpecificationError, match="sample 0 is zero"):
        DataInputs(np.zeros((3, 4)))
    with pytest.raises(SpecificationError, match="positive on the diagonal"):
        CovarianceInputs(np.zeros((2, 2)), 0.0)


def test_inputs_of_arrays_are_named_by_their_shape():
    data = np.random.default_rng(0).standard_normal((3, 2, 8, 8))
    assert repr(images(data)) == "ImageInputs(shape=(3, 2, 8, 8))"
    assert repr(stationary_from_data(data)) == "CovarianceInputs(shape=(192, 192))"
    assert repr(inputs.from_data(data)) == "DataInputs(shape=(3, 128))"
