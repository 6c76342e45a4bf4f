"""PyTorch's own layers and autograd: the simulation's N and its pull-back, over samples and positions.

Every normalizer that PyTorch has, at one position, on a ring and on a torus, as a module in training mode
without affine parameters.
"""

from __future__ import annotations

import numpy as np
import pytest

from montecarlo.network import normact
from theory.specs import activations as act
from theory.specs import normalizers as nm

torch = pytest.importorskip("torch")

CHANNELS, SAMPLES, EPS = 8, 3, 1e-5
SHAPES = {"one position": (), "ring": (5,), "torus": (2, 3)}
ACTIVATIONS = {
    "identity": (act.identity, torch.nn.Identity()),
    "relu": (act.relu, torch.nn.ReLU()),
    "leaky_relu": (act.leaky_relu(0.2), torch.nn.LeakyReLU(0.2)),
    "gelu": (act.gelu, torch.nn.GELU()),
    "silu": (act.silu, torch.nn.SiLU()),
    "tanh": (act.tanh, torch.nn.Tanh()),
    "elu": (act.elu, torch.nn.ELU()),
    "selu": (act.selu, torch.nn.SELU()),
    "softplus": (act.softplus, torch.nn.Softplus(threshold=1e3)),
}


def batch_norm(shape):
    kind = {0: torch.nn.BatchNorm1d, 1: torch.nn.BatchNorm1d, 2: torch.nn.BatchNorm2d}[len(shape)]
    return kind(CHANNELS, eps=EPS, affine=False, track_running_stats=False)


def instance_norm(shape):
    kind = {1: torch.nn.InstanceNorm1d, 2: torch.nn.InstanceNorm2d}[len(shape)]
    return kind(CHANNELS, eps=EPS, affine=False)


def group_norm(size):
    return lambda shape: torch.nn.GroupNorm(CHANNELS // size, CHANNELS, eps=EPS, affine=False)


def over_channels(module):
    """A module that normalizes the last axis, applied to the channels of each position."""
    return lambda shape: lambda x: module(x.movedim(1, -1)).movedim(-1, 1)


NORMALIZERS = {
    "BN": (nm.batch_norm(eps=EPS), batch_norm),
    "IN": (nm.instance_norm(eps=EPS), instance_norm),
    "GN(1)": (nm.group_norm(1, eps=EPS), group_norm(1)),
    "GN(2)": (nm.group_norm(2, eps=EPS), group_norm(2)),
    "GN(4)": (nm.group_norm(4, eps=EPS), group_norm(4)),
    "GN(8)": (nm.group_norm(8, eps=EPS), group_norm(8)),
    "LN": (
        nm.layer_norm(eps=EPS),
        lambda shape: torch.nn.LayerNorm((CHANNELS, *shape), eps=EPS, elementwise_affine=False),
    ),
    "RMSNorm": (
        nm.rms_norm(eps=EPS),
        lambda shape: torch.nn.RMSNorm((CHANNELS, *shape), eps=EPS, elementwise_affine=False),
    ),
    "RMSNorm, channels": (
        nm.rms_norm(positions=False, eps=EPS),
        over_channels(torch.nn.RMSNorm(CHANNELS, eps=EPS, elementwise_affine=False)),
    ),
    "LN, channels": (
        nm.Normalizer(
            name="LN, channels",
            pool=nm.Pool(samples=False, positions=False, channels=np.inf),
            centered=True,
            denominator="std",
            eps=EPS,
        ),
        over_channels(torch.nn.LayerNorm(CHANNELS, eps=EPS, elementwise_affine=False)),
    ),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("norm", "module"), NORMALIZERS.values(), ids=NORMALIZERS)
def test_normalizers_are_those_of_pytorch(norm, module, shape) -> None:
    positions = int(np.prod(shape))
    if norm.pool.channels == 1 and not norm.pool.samples and positions == 1:
        pytest.skip("one number has no variance")
    rng = np.random.default_rng(5)
    h = 1.5 * rng.standard_normal((CHANNELS, SAMPLES * positions)) + 0.3
    cotangent = rng.standard_normal(h.shape)

    def to_torch(values):
        """(channels, samples * positions) -> (samples, channels, *shape)."""
        array = values.reshape(CHANNELS, SAMPLES, *shape).swapaxes(0, 1)
        return torch.tensor(np.ascontiguousarray(array))

    def from_torch(tensor):
        return tensor.detach().numpy().swapaxes(0, 1).reshape(CHANNELS, -1)

    for activation, phi in ACTIVATIONS.values():
        tensor = to_torch(h).requires_grad_()
        expected = phi(module(shape)(tensor))
        expected.backward(to_torch(cotangent))
        x, step = normact(norm, activation, h, positions=positions)
        np.testing.assert_allclose(x, from_torch(expected), rtol=1e-10, atol=1e-12)
        gradient = from_torch(tensor.grad)
        size = np.abs(gradient).max()
        np.testing.assert_allclose(step.backward(cotangent), gradient, rtol=1e-9, atol=1e-11 * size)
