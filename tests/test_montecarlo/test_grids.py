"""Zero padding, strides, poolings, flattening and channel counts: whole networks against PyTorch."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

import montecarlo as mc
import theory as th
from montecarlo import network as interpreter
from montecarlo.convolution import (
    AverageMap,
    ConvMap,
    FlattenMap,
    Geometry,
    GlobalAverageMap,
)
from montecarlo.linear import DirectSampler, direct_map
from montecarlo.observables import OBSERVABLES
from theory.errors import SpecificationError
from theory.program import lower

CHANNELS, OUT, BATCH, WIDTH = 3, 5, 2, 8


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def tensor(torch, values, shape):
    """(channels, samples * positions) as (samples, channels, *shape)."""
    return torch.tensor(np.moveaxis(values.reshape(len(values), -1, *shape), 0, 1).copy())


def flat(value):
    return np.moveaxis(value.detach().numpy(), 1, 0).reshape(value.shape[1], -1)


GEOMETRIES = [
    Geometry((8,), 3, "zero"),
    Geometry((7,), 5, "zero", 2),
    Geometry((5, 4), 3, "zero"),
    Geometry((5, 4), 3, "zero", 2),
    Geometry((2, 2), 3, "zero", 2),
    Geometry((1, 1), 3, "zero"),
    Geometry((6, 5), 3, "circular", 2),
    Geometry((7, 8), 1, "circular", 3),
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_padding_and_stride_are_those_of_pytorch(geometry):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    dimensions, margin = len(geometry.shape), (geometry.kernel - 1) // 2
    convolve = getattr(functional, f"conv{dimensions}d")
    normal = draw(1, OUT, CHANNELS * geometry.offsets)
    ours = ConvMap(direct_map(th.gaussian(), normal), geometry)
    weight = torch.tensor(ours.linear.matrix())
    weight = weight.reshape(OUT, CHANNELS, *(geometry.kernel,) * dimensions)
    values = draw(2, CHANNELS, BATCH * geometry.positions)
    x = tensor(torch, values, geometry.shape).requires_grad_()
    mode = "constant" if geometry.padding == "zero" else "circular"
    padded = functional.pad(x, (margin, margin) * dimensions, mode=mode)
    h = convolve(padded, weight, stride=geometry.stride)
    assert tuple(h.shape[2:]) == geometry.output
    np.testing.assert_allclose(ours.forward(values), flat(h), rtol=0, atol=1e-13)
    delta = draw(3, *flat(h).shape)
    h.backward(tensor(torch, delta, geometry.output))
    np.testing.assert_allclose(ours.backward(delta), flat(x.grad), rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(6,), (5, 4), (7, 9)], ids=str)
@pytest.mark.parametrize("size", [2, 3])
def test_average_pooling_is_that_of_pytorch(shape, size):
    torch = pytest.importorskip("torch")
    pool = getattr(torch.nn.functional, f"avg_pool{len(shape)}d")
    ours = AverageMap(Geometry(shape, size, "none", size))
    values = draw(4, CHANNELS, BATCH * math.prod(shape))
    x = tensor(torch, values, shape).requires_grad_()
    out = pool(x, size)
    np.testing.assert_allclose(ours.forward(values), flat(out), rtol=0, atol=1e-15)
    delta = draw(5, *flat(out).shape)
    out.backward(tensor(torch, delta, out.shape[2:]))
    np.testing.assert_allclose(ours.backward(delta), flat(x.grad), rtol=0, atol=1e-15)


@pytest.mark.parametrize("step", [GlobalAverageMap(6), FlattenMap(6)], ids=repr)
def test_global_pooling_and_flattening_are_those_of_pytorch(step):
    torch = pytest.importorskip("torch")
    values = draw(6, CHANNELS, BATCH * 6)
    x = tensor(torch, values, (6,)).requires_grad_()
    out = x.mean(2) if isinstance(step, GlobalAverageMap) else torch.flatten(x, 1)
    np.testing.assert_allclose(step.forward(values), out.detach().numpy().T, rtol=0, atol=1e-15)
    delta = draw(7, *out.shape)
    out.backward(torch.tensor(delta))
    np.testing.assert_allclose(step.backward(delta.T), flat(x.grad), rtol=0, atol=1e-15)


class Keeping(DirectSampler):
    """A sampler that remembers the matrices, for another implementation to use."""

    matrices: list = []  # noqa: RUF012

    def draw(self, weights, *, fan_in, fan_out, layer):
        drawn = super().draw(weights, fan_in=fan_in, fan_out=fan_out, layer=layer)
        Keeping.matrices.append(drawn.matrix())
        return drawn


def layer(norm=None, *, weights=None, activation=th.relu, **more):
    return th.Layer(norm=norm, weights=weights or th.gaussian(), activation=activation, **more)


def sequence(norm, activation=th.relu, weights=None):
    """Every operation once: zero padding, stride, channel counts, the three ways to fewer positions."""
    same = {"norm": norm, "activation": activation, "weights": weights}
    return th.Sequential(
        (
            layer(kernel=3, padding="zero", **same),
            layer(kernel=3, padding="zero", stride=2, channels=1.5, **same),
            th.AveragePool(2),
            layer(kernel=1, channels=0.5, **same),
            th.Flatten(),
            layer(weights=weights),
        )
    )


def by_pytorch(torch, network, x, matrices, cotangent):
    """Post-activations and gradients at the pre-activations, by autograd."""
    functional = torch.nn.functional
    before, after = [], []
    weights = iter(matrices)
    for part in network.parts:
        if isinstance(part, th.AveragePool):
            x = functional.avg_pool2d(x, part.size)
        elif isinstance(part, th.Flatten):
            x = torch.flatten(x, 1)[:, :, None, None]
        else:
            w = torch.tensor(next(weights))
            w = w.reshape(len(w), x.shape[1], part.kernel, part.kernel)
            h = functional.conv2d(x, w, stride=part.stride, padding=part.kernel // 2)
            h.retain_grad()
            x = torch.relu(normalized(torch, part.norm, h))
            if part.activation != th.relu:
                x = normalized(torch, part.norm, h)
            before.append(h)
            after.append(x)
    x.backward(tensor(torch, cotangent, x.shape[2:]))
    return [a.detach() for a in after], [h.grad for h in before]


def normalized(torch, norm, h):
    functional = torch.nn.functional
    if norm is None:
        return h

    def std(axes):
        return torch.sqrt(h.var(axes, keepdim=True, correction=0) + norm.eps)

    match norm.name:
        case "BN":
            return functional.batch_norm(h, None, None, training=True, eps=norm.eps)
        case "GN(4)":
            return functional.group_norm(h, h.shape[1] // 4, eps=norm.eps)
        case "EvoNorm-B0":
            return h / torch.maximum(std((0, 2, 3)), h + std((2, 3)))
    raise AssertionError(norm.name)


@pytest.mark.parametrize(
    "network",
    [
        sequence(None),
        sequence(th.batch_norm(eps=1e-3)),
        sequence(th.group_norm(4, eps=1e-3)),
        sequence(th.evonorm_b0(eps=1e-3), th.identity),
        sequence(None, weights=th.scaled_weight_standardization()),
        sequence(None, weights=th.weight_norm()),
    ],
    ids=["plain", "BN", "GN(4)", "EvoNorm-B0", "SWS", "WN"],
)
def test_whole_networks_against_autograd(network):
    torch = pytest.importorskip("torch")
    data = draw(8, BATCH, CHANNELS, 6, 8)
    inputs = th.images(data)
    Keeping.matrices.clear()
    table = interpreter.run(
        lower(network),
        np.ascontiguousarray(inputs.points.T),
        width=WIDTH,
        sampler=Keeping(0, (WIDTH, 0), "float64"),
        cotangent=(cotangent := draw(9, WIDTH, BATCH)),
        shape=inputs.shape,
    )
    found = dict(zip(OBSERVABLES, table, strict=True))
    x = torch.tensor(data).requires_grad_()
    after, gradients = by_pytorch(torch, network, x, Keeping.matrices, cotangent)
    np.testing.assert_allclose(
        found["second_moment"], [float((a * a).mean()) for a in after], rtol=1e-12
    )
    squares = [float((g * g).sum()) for g in gradients]
    np.testing.assert_allclose(found["squared_gradient"], squares, rtol=1e-10)
    for seen, a in zip(found["similarity"], after, strict=True):
        u, v = (s / torch.linalg.norm(s) for s in torch.flatten(a, 1))
        assert seen == pytest.approx(float(u @ v), abs=1e-12)


def test_channels_change_the_matrices_alone():
    network = th.Sequential((layer(channels=2.0), layer(channels=0.25)))
    Keeping.matrices.clear()
    interpreter.run(
        lower(network),
        draw(1, 6, 3),
        width=WIDTH,
        sampler=Keeping(0, (WIDTH, 0), "float64"),
        cotangent=None,
    )
    assert [m.shape for m in Keeping.matrices] == [(16, 6), (2, 16)]


def test_what_cannot_be_simulated_says_so():
    inputs = th.images(draw(1, 3, 1, 4, 4))
    network = th.FeedForward(layer(th.batch_norm(), kernel=3, padding="zero"), depth=2)
    with pytest.raises(SpecificationError, match=r'method = \'collapsed\' .*"direct"'):
        mc.simulate(network, inputs, width=4, replicates=1, method="collapsed")
    wide = dataclasses.replace(network, layer=dataclasses.replace(network.layer, kernel=11))
    with pytest.raises(SpecificationError, match=r"kernel = 11 .*at most 9 on positions"):
        mc.simulate(wide, inputs, width=4, replicates=1)
    deep = th.FeedForward(layer(th.instance_norm(), kernel=3, stride=2, padding="zero"), depth=3)
    with pytest.raises(SpecificationError, match=r"norm = 'IN with batch 3, 1 position"):
        mc.simulate(deep, inputs, width=4, replicates=1)
    halves = th.FeedForward(layer(th.group_norm(4), channels=0.5), depth=1)
    with pytest.raises(SpecificationError, match=r"width = 6 .*multiple of the group size 4"):
        mc.simulate(halves, th.exchangeable(batch=2, correlation=0.1), width=12, replicates=1)
