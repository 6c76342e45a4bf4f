"""Direct simulation, float32, width 1024, batch 16, depth 30, forward + backward, one thread.

The targets, against PyTorch on one thread: at most its time with weights drawn beforehand, at most
1.3 times its time with the drawing.  Ours includes every observable; PyTorch's is the bare pass.

    pytest benchmarks/test_simulation.py                  # timings
    pytest benchmarks/test_simulation.py -k target        # the two targets, pass or fail
"""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import montecarlo as mc
from benchmarks.rivals import Torchs, alternate
from montecarlo.linear import DirectSampler
from montecarlo.network import normact, run
from montecarlo.sampling import generator, realize_inputs
from theory.program import lower
from theory.specs.activations import relu
from theory.specs.inputs import exchangeable
from theory.specs.networks import FeedForward, Layer
from theory.specs.normalizers import batch_norm, evonorm_b0, group_norm, layer_norm

WIDTH, BATCH, DEPTH = 1024, 16, 30
INPUTS = exchangeable(batch=BATCH, correlation=0.5)
NORMALIZERS = {
    "plain": None,
    "BN": batch_norm(),
    "LN": layer_norm(),
    "GN(8)": group_norm(8),
    "B0": evonorm_b0(),
}


@pytest.fixture(autouse=True)
def one_thread():
    with threadpool_limits(limits=1):
        yield


class Ours:
    """One network; ``redraw`` decides whether each call draws its weights."""

    def __init__(self, norm, *, redraw):
        layer = Layer(norm=norm)
        self.program = lower(FeedForward(layer, depth=DEPTH))
        self.inputs = realize_inputs(INPUTS, width=WIDTH, seed=0, dtype="float32")
        self.cotangent = generator(1).standard_normal((WIDTH, BATCH), dtype=np.float32)
        self.sampler = DirectSampler(0, (WIDTH, 0), "float32")
        if not redraw:
            maps = [
                self.sampler.draw(layer.weights, fan_in=WIDTH, fan_out=WIDTH, layer=index)
                for index in range(DEPTH)
            ]
            self.sampler = Predrawn(maps)

    def __call__(self):
        return run(
            self.program,
            self.inputs,
            width=WIDTH,
            sampler=self.sampler,
            cotangent=self.cotangent,
        )


class Predrawn:
    def __init__(self, maps):
        self.maps = maps

    def draw(self, weights, *, fan_in, fan_out, layer):
        return self.maps[layer]


@pytest.mark.parametrize("redraw", [False, True], ids=["predrawn", "drawing"])
@pytest.mark.parametrize("norm", ["plain", "BN", "LN", "GN(8)"])
def test_network(benchmark, norm, redraw):
    benchmark(Ours(NORMALIZERS[norm], redraw=redraw))


@pytest.mark.parametrize("redraw", [False, True], ids=["predrawn", "drawing"])
@pytest.mark.parametrize("norm", ["plain", "BN"])
def test_pytorch(benchmark, norm, redraw):
    benchmark(Torchs(NORMALIZERS[norm], width=WIDTH, batch=BATCH, depth=DEPTH, redraw=redraw))


@pytest.mark.parametrize(
    ("redraw", "limit"), [(False, 1.0), (True, 1.3)], ids=["predrawn", "drawing"]
)
@pytest.mark.parametrize("norm", ["plain", "BN", "LN", "GN(8)"])
def test_target(norm, redraw, limit):
    ours = Ours(NORMALIZERS[norm], redraw=redraw)
    torchs = Torchs(NORMALIZERS[norm], width=WIDTH, batch=BATCH, depth=DEPTH, redraw=redraw)
    alternate(ours, torchs, rounds=2)
    time_ours, time_torch = alternate(ours, torchs, rounds=7 if redraw else 25)
    print(f"\n{norm}: {1e3 * time_ours:.1f} ms, PyTorch {1e3 * time_torch:.1f} ms, ", end="")
    print(f"ratio {time_ours / time_torch:.2f}")
    assert time_ours <= limit * time_torch


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("norm", NORMALIZERS)
def test_normact(benchmark, norm, dtype):
    h = generator(0).standard_normal((WIDTH, BATCH)).astype(dtype)
    cotangent = generator(1).standard_normal((WIDTH, BATCH)).astype(dtype)
    benchmark(lambda: normact(NORMALIZERS[norm], relu, h)[1].backward(cotangent))


def test_small_networks(benchmark):
    """What a test or a quick look costs: 64 networks of width 128."""
    network = FeedForward(Layer(norm=batch_norm()), depth=10)
    benchmark(lambda: mc.simulate(network, INPUTS, width=128, replicates=64))
