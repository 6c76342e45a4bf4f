"""Circular convolutions, float32, 384 channels, 16 positions, batch 4, kernel 3, one thread.

The target, against PyTorch on one thread with weights drawn beforehand and gradients with respect to
the activations only: at most its time, forward and backward.

    pytest benchmarks/test_convolution.py                  # timings
    pytest benchmarks/test_convolution.py -k target        # the target, pass or fail
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from benchmarks.rivals import alternate
from montecarlo.convolution import ConvMap, Geometry
from montecarlo.linear import direct_map
from montecarlo.sampling import generator
from theory.specs.weights import gaussian

CHANNELS, BATCH = 384, 4
GEOMETRIES = {"ring": Geometry((16,), 3), "torus": Geometry((4, 4), 3)}


@pytest.fixture(autouse=True)
def one_thread():
    with threadpool_limits(limits=1):
        yield


class Ours:
    def __init__(self, geometry):
        fan_in = CHANNELS * geometry.offsets
        normal = generator(0).standard_normal((CHANNELS, fan_in), dtype=np.float32)
        self.map = ConvMap(direct_map(gaussian(), normal), geometry)
        shape = (CHANNELS, BATCH * geometry.positions)
        self.x = generator(1).standard_normal(shape, dtype=np.float32)
        self.delta = generator(2).standard_normal(shape, dtype=np.float32)

    def __call__(self):
        return self.map.forward(self.x), self.map.backward(self.delta)


class Torchs:
    def __init__(self, geometry):
        self.torch = pytest.importorskip("torch")
        self.torch.set_num_threads(1)
        self.pad = self.torch.nn.functional.pad
        dimensions = len(geometry.shape)
        self.conv = getattr(self.torch.nn.functional, f"conv{dimensions}d")
        self.padding = (geometry.kernel // 2,) * (2 * dimensions)
        scale = math.sqrt(2 / (CHANNELS * geometry.offsets))
        kernel = (geometry.kernel,) * dimensions
        self.weight = self.torch.randn(CHANNELS, CHANNELS, *kernel).mul_(scale)
        self.x = self.torch.randn(BATCH, CHANNELS, *geometry.shape)
        self.delta = self.torch.randn(BATCH, CHANNELS, *geometry.shape)

    def __call__(self):
        x = self.x.detach().requires_grad_()
        h = self.conv(self.pad(x, self.padding, mode="circular"), self.weight)
        h.backward(self.delta)
        return h, x.grad


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_convolution(benchmark, geometry):
    benchmark(Ours(geometry))


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_pytorch(benchmark, geometry):
    benchmark(Torchs(geometry))


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_target(geometry):
    ours, torchs = Ours(geometry), Torchs(geometry)
    alternate(ours, torchs, rounds=5)
    time_ours, time_torch = alternate(ours, torchs, rounds=200)
    print(f"\n{geometry}: {1e6 * time_ours:.0f} us, PyTorch {1e6 * time_torch:.0f} us, ", end="")
    print(f"ratio {time_ours / time_torch:.2f}")
    assert time_ours <= time_torch
