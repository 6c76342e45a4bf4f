"""Speed of the theory, warm; run with ``python -m pytest benchmarks --benchmark-only``.

Each test asserts its bound on the fastest of many rounds, which a busy machine disturbs least.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import theory as th

MICROSECOND = 1e-6
INPUTS = th.exchangeable(batch=16, correlation=0.5)


def network(depth: int = 50, **layer: Any) -> th.FeedForward:
    return th.FeedForward(th.Layer(**layer), depth=depth)


def fastest(benchmark: Any, function: Callable[[], Any], *, rounds: int = 200) -> float:
    function()
    benchmark.pedantic(function, rounds=rounds, iterations=1, warmup_rounds=3)
    return float(benchmark.stats.stats.min)


@pytest.mark.parametrize(
    ("name", "net"),
    [
        ("plain", network()),
        ("LN", network(norm=th.layer_norm())),
        ("BN", network(norm=th.batch_norm())),
        ("SWS", network(weights=th.scaled_weight_standardization())),
    ],
)
def test_closed_forms_50_layers(benchmark: Any, name: str, net: th.FeedForward) -> None:
    assert fastest(benchmark, lambda: th.predict(net, INPUTS)) <= 200 * MICROSECOND


@pytest.mark.parametrize("name", ["plain", "LN", "BN", "SWS", "GN(8)"])
def test_residual_1000_blocks(benchmark: Any, name: str) -> None:
    net = th.Residual(th.zoo[name], depth=1000)
    assert fastest(benchmark, lambda: th.predict(net, INPUTS), rounds=20) <= 20e-3


def test_group_norm_50_layers(benchmark: Any) -> None:
    net = network(norm=th.group_norm(8))
    assert fastest(benchmark, lambda: th.predict(net, INPUTS), rounds=50) <= 5000 * MICROSECOND


@pytest.mark.parametrize(
    ("norm", "bound"),
    [
        (th.group_norm(8), 1.0),
        (th.instance_norm(), 0.3),
        (th.batch_norm(), 0.3),
        (th.filter_response_norm(), 0.3),
        (th.layer_norm(), 0.3),
    ],
    ids=["GN(8)", "IN", "BN", "FRN", "LN"],
)
def test_16_positions_50_layers(benchmark: Any, norm: th.Normalizer, bound: float) -> None:
    inputs = th.exchangeable(batch=16, correlation=0.5, positions=16, position_correlation=0.5)
    net = network(norm=norm, kernel=3)
    assert fastest(benchmark, lambda: th.predict(net, inputs), rounds=5) <= bound


def test_layer_norm_covariance_16_forward(benchmark: Any) -> None:
    features = np.random.default_rng(0).normal(size=(16, 64))
    inputs, net = th.from_data(features), network(norm=th.layer_norm())
    seconds = fastest(benchmark, lambda: th.predict(net, inputs, backward=False))
    assert seconds <= 1000 * MICROSECOND


def test_batch_norm_32_digits_10_layers_forward(benchmark: Any) -> None:
    from montecarlo.digits import digits

    inputs, net = th.from_data(digits(batch=32)), network(depth=10, norm=th.batch_norm())
    assert fastest(benchmark, lambda: th.predict(net, inputs, backward=False), rounds=10) <= 1.0


def test_import(benchmark: Any) -> None:
    code = "import time; t = time.perf_counter(); import theory; print(time.perf_counter() - t)"

    def seconds() -> float:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        return float(done.stdout)

    best = min(seconds() for _ in range(5))
    benchmark.pedantic(seconds, rounds=1, iterations=1)
    assert best <= 0.5
