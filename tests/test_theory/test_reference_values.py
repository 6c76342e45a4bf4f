"""Every value of the project's reference table that this version computes, to the digits given."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import theory as th
from theory.routes import arccosine, groupnorm

REFERENCE = json.loads((Path(__file__).parents[1] / "reference_values.json").read_text())


def layer_map(norm: th.Normalizer, correlation: float) -> float:
    """Correlation after one layer of relu."""
    net = th.FeedForward(th.Layer(norm=norm), depth=2)
    return float(
        th.predict(
            net, th.exchangeable(batch=2, correlation=correlation)
        ).preactivation_correlation[1]
    )


@pytest.mark.parametrize(("c", "value"), REFERENCE["kappa1"].items())
def test_kappa1(c: str, value: str) -> None:
    gap = 1e-6 if c == "0.999999" else 1.0 - float(c)
    assert 1.0 - arccosine.one_minus_kappa1(gap) == pytest.approx(float(value), rel=4e-16)


def test_one_minus_kappa1_near_one() -> None:
    expected = float(REFERENCE["one_minus_kappa1_at_one_minus_1e-12"])
    assert float(arccosine.one_minus_kappa1(1e-12)) == pytest.approx(expected, rel=4e-16)
    assert arccosine.one_minus_kappa1_scalar(1e-12) == pytest.approx(expected, rel=4e-16)


@pytest.mark.parametrize(("case", "value"), REFERENCE["groupnorm_similarity_map"].items())
def test_groupnorm_map(case: str, value: str) -> None:
    size, c = case.removeprefix("G=").split(",c=")
    gap, error = groupnorm.group_gap(th.relu, 1.0 - float(c), group_size=int(size), centered=True)
    assert 1.0 - gap == pytest.approx(float(value), rel=1e-13)
    assert error < 1e-12
    assert layer_map(th.group_norm(int(size)), float(c)) == pytest.approx(float(value), rel=1e-13)


@pytest.mark.parametrize(("case", "value"), REFERENCE["groupnorm_fixed_point"].items())
def test_groupnorm_fixed_point(case: str, value: str) -> None:
    size = int(case.removeprefix("G="))
    net = th.FeedForward(th.Layer(norm=th.group_norm(size)), depth=1)
    found = th.fixed_point(net)
    digits = len(value.split(".")[1])
    tolerance = 0.6 * 10.0**-digits if digits < 15 else 5e-15
    assert found.correlation == pytest.approx(float(value), abs=tolerance)
    assert abs(found.correlation - float(value)) <= 10.0 * found.bound + tolerance


@pytest.mark.parametrize(("case", "value"), REFERENCE["batchnorm_gradient_growth"].items())
def test_batchnorm_gradient_growth(case: str, value: str) -> None:
    net = th.FeedForward(th.Layer(norm=th.batch_norm()), depth=4)
    batch = int(case.removeprefix("B="))
    assert th.fixed_point(net, batch=batch).gradient_growth == pytest.approx(
        float(value), rel=1e-13
    )
    pred = th.predict(net, th.exchangeable(batch=batch, correlation=0.3))
    assert pred.log_gradient_norm is not None
    growth = math.exp(2.0 * (pred.log_gradient_norm[1] - pred.log_gradient_norm[2]))
    assert growth == pytest.approx(float(value), rel=1e-12)


@pytest.mark.parametrize(("case", "value"), REFERENCE["batchnorm_similarity"].items())
def test_batchnorm_similarity(case: str, value: str) -> None:
    net = th.FeedForward(th.Layer(norm=th.batch_norm()), depth=2)
    pred = th.predict(net, th.exchangeable(batch=int(case.removeprefix("B=")), gap=1e-9))
    np.testing.assert_allclose(pred.similarity, float(value), rtol=1e-14)


@pytest.mark.parametrize(
    ("gap", "value"), REFERENCE["plain_relu_one_minus_c_after_100_layers"].items()
)
def test_plain_relu_gap_after_100_layers(gap: str, value: str) -> None:
    # The reference starts at the pre-activations of layer 1 and applies the map 100 times.
    net = th.FeedForward(th.Layer(), depth=100)
    pred = th.predict(net, th.exchangeable(batch=2, gap=float(gap)))
    assert pred.gap[-1] == pytest.approx(float(value), rel=1e-13)
