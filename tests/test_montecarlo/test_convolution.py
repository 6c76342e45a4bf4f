"""Convolutions against loops and PyTorch, whole layers against autograd, observables with positions."""

from __future__ import annotations

import itertools
import math
from functools import cached_property

import numpy as np
import pytest

from montecarlo import compiled
from montecarlo.activations import encode_activation
from montecarlo.convolution import ConvMap, Geometry, conv_columns, conv_columns_transposed
from montecarlo.linear import direct_map
from theory.errors import SpecificationError
from theory.specs import activations as act
from theory.specs import normalizers as nm
from theory.specs import weights as wt

CHANNELS, OUT, BATCH = 4, 6, 3
GEOMETRIES = [
    Geometry((7,), 3),
    Geometry((5,), 5),
    Geometry((6,), 2),
    Geometry((6,), 4),
    Geometry((1,), 1),
    Geometry((4, 5), 3),
    Geometry((3, 3), 3),
    Geometry((4, 6), 2),
    Geometry((2, 3), 1),
]
WEIGHTS = [
    wt.gaussian(),
    wt.gaussian(weight_variance=1.3),
    wt.centered_weights(),
    wt.weight_norm(),
    wt.scaled_weight_standardization(),
]


def draw(seed, *shape, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def by_loops(weight, x, geometry):
    """h[n, b, p] = sum over c and o of W[n, c, o] x[c, b, p + o - (k - 1)//2], modulo each side."""
    h = np.zeros((len(weight), *x.shape[1:]))
    steps = list(itertools.product(range(geometry.kernel), repeat=len(geometry.shape)))
    for b in range(x.shape[1]):
        for place in np.ndindex(geometry.shape):
            for step in steps:
                seen = tuple(
                    (p + o - (geometry.kernel - 1) // 2) % side
                    for p, o, side in zip(place, step, geometry.shape, strict=True)
                )
                h[(slice(None), b, *place)] += weight[(..., *step)] @ x[(slice(None), b, *seen)]
    return h


def explicit(weights, normal):
    """W from the definition: rows centered, brought to norm sigma_w or scaled by sigma_w/sqrt(n)."""
    rows = normal - normal.mean(axis=1, keepdims=True) if weights.centered else normal
    size = math.sqrt(normal.shape[1])
    if weights.normalized:
        size = np.linalg.norm(rows, axis=1, keepdims=True)
    return math.sqrt(weights.weight_variance) * rows / size


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda w: w.name)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_forward_is_the_sum_over_offsets(geometry, weights):
    normal = draw(1, OUT, CHANNELS * geometry.offsets)
    x = draw(2, CHANNELS, BATCH * geometry.positions) + 0.3
    kernel = (geometry.kernel,) * len(geometry.shape)
    expected = by_loops(
        explicit(weights, normal).reshape(OUT, CHANNELS, *kernel),
        x.reshape(CHANNELS, BATCH, *geometry.shape),
        geometry,
    ).reshape(OUT, -1)
    h = ConvMap(direct_map(weights, normal), geometry).forward(x)
    np.testing.assert_allclose(h, expected, rtol=0, atol=1e-13 * np.abs(expected).max())
    single = ConvMap(direct_map(weights, normal.astype(np.float32)), geometry)
    h = single.forward(x.astype(np.float32))
    assert h.dtype == np.float32
    np.testing.assert_allclose(h, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda w: w.name)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_backward_is_the_transpose(geometry, weights, dtype):
    """Column by column: the matrix of backward is the transposed matrix of forward."""
    normal = draw(3, OUT, CHANNELS * geometry.offsets, dtype=dtype)
    convolution = ConvMap(direct_map(weights, normal), geometry)
    positions = geometry.positions
    # Every unit vector is a sample of its own.
    inputs, outputs = (
        np.eye(n * positions, dtype=dtype).reshape(-1, n, positions).transpose(1, 0, 2)
        for n in (CHANNELS, OUT)
    )
    forward = convolution.forward(inputs.reshape(CHANNELS, -1))
    backward = convolution.backward(outputs.reshape(OUT, -1))
    assert forward.dtype == backward.dtype == dtype
    forward = forward.reshape(OUT, -1, positions).transpose(0, 2, 1)
    backward = backward.reshape(CHANNELS, -1, positions).transpose(1, 0, 2)
    np.testing.assert_allclose(
        forward.reshape(OUT * positions, -1),
        backward.reshape(OUT * positions, -1),
        rtol=0,
        atol=(1e-14 if dtype == np.float64 else 1e-6) * np.abs(forward).max(),
    )


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda w: w.name)
def test_kernel_of_one_is_the_dense_map_at_every_position(weights):
    dense = direct_map(weights, draw(4, OUT, CHANNELS))
    convolution = ConvMap(dense, Geometry((2, 4), 1))
    x, delta = draw(5, CHANNELS, BATCH * 8), draw(6, OUT, BATCH * 8)
    np.testing.assert_array_equal(convolution.forward(x), dense.forward(x))
    np.testing.assert_array_equal(convolution.backward(delta), dense.backward(delta))


class Strided(Geometry):
    """Zero padding of k // 2 and stride 2 on a ring: another table, nothing else."""

    @cached_property
    def table(self):
        first = np.arange(0, self.shape[0], 2)
        table = first + np.arange(self.kernel)[:, None] - self.kernel // 2
        return np.where((table >= 0) & (table < self.shape[0]), table, -1)


def images(torch, values, shape):
    """(channels, samples * positions) as a tensor (samples, channels, *shape)."""
    return torch.tensor(np.moveaxis(values.reshape(len(values), -1, *shape), 0, 1).copy())


def flat(tensor):
    return np.moveaxis(tensor.detach().numpy(), 1, 0).reshape(tensor.shape[1], -1)


@pytest.mark.parametrize("geometry", [*GEOMETRIES, Strided((7,), 3), Strided((8,), 5)], ids=str)
def test_against_pytorch(geometry):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    dimensions = len(geometry.shape)
    convolve = getattr(functional, f"conv{dimensions}d")
    normal = draw(7, OUT, CHANNELS * geometry.offsets)
    convolution = ConvMap(direct_map(wt.gaussian(weight_variance=2.0), normal), geometry)
    weight = torch.tensor(convolution.linear.matrix())
    weight = weight.reshape(OUT, CHANNELS, *(geometry.kernel,) * dimensions)
    values = draw(8, CHANNELS, BATCH * geometry.positions)
    x = images(torch, values, geometry.shape).requires_grad_()
    if isinstance(geometry, Strided):
        h = convolve(x, weight, padding=geometry.kernel // 2, stride=2)
    else:
        padding = ((geometry.kernel - 1) // 2, geometry.kernel // 2) * dimensions
        h = convolve(functional.pad(x, padding, mode="circular"), weight)
    np.testing.assert_allclose(convolution.forward(values), flat(h), rtol=0, atol=1e-13)
    delta = draw(9, *flat(h).shape)
    h.backward(images(torch, delta, h.shape[2:]))
    np.testing.assert_allclose(convolution.backward(delta), flat(x.grad), rtol=0, atol=1e-13)


def torch_normalizer(torch, norm, h):
    """N(h), h of shape (samples, channels, *positions), for autograd to differentiate."""
    functional = torch.nn.functional
    space = tuple(range(2, h.ndim))

    def std(axes):
        return torch.sqrt(h.var(axes, keepdim=True, correction=norm.ddof) + norm.eps)

    def rms(axes):
        return torch.sqrt((h * h).mean(axes, keepdim=True) + norm.eps)

    match norm.name:
        case "BN":
            return functional.batch_norm(h, None, None, training=True, eps=norm.eps)
        case "VN":
            return h / std((0, *space))
        case "MC":
            return h - h.mean((0, *space), keepdim=True)
        case "LN":
            return functional.layer_norm(h, h.shape[1:], eps=norm.eps)
        case "GN(2)":
            return functional.group_norm(h, h.shape[1] // 2, eps=norm.eps)
        case "IN":
            return functional.instance_norm(h, eps=norm.eps)
        case "FRN":
            return h / rms(space)
        case "RMSNorm":
            return h / rms((1, *space) if norm.pool.positions else (1,))
        case "EvoNorm-S0":
            return h * torch.sigmoid(norm.gate * h) / std((1, *space))
        case _:
            return h / torch.maximum(std((0, *space)), norm.gate * h + std(space))


LAYERS = [
    nm.batch_norm(eps=1e-5),
    nm.variance_norm(),
    nm.mean_centering(),
    nm.layer_norm(eps=1e-5),
    nm.group_norm(2, eps=1e-5),
    nm.instance_norm(eps=1e-5),
    nm.filter_response_norm(),
    nm.rms_norm(),
    nm.rms_norm(positions=False),
    nm.evonorm_s0(),
    nm.evonorm_b0(),
    nm.evonorm_b0(gate=2.5, eps=1e-3, ddof=1),
]


@pytest.mark.parametrize("geometry", [Geometry((6,), 3), Geometry((3, 4), 3)], ids=["1-D", "2-D"])
@pytest.mark.parametrize("norm", LAYERS, ids=lambda norm: norm.name)
def test_layer_against_autograd(norm, geometry):
    """relu(N(W x)) and its gradient at x, for circular convolutions."""
    torch = pytest.importorskip("torch")
    dimensions, positions = len(geometry.shape), geometry.positions
    convolution = ConvMap(
        direct_map(wt.gaussian(), draw(10, OUT, CHANNELS * geometry.offsets)), geometry
    )
    values = draw(11, CHANNELS, BATCH * positions)
    cotangent = draw(12, OUT, BATCH * positions)

    h = convolution.forward(values)
    code = compiled.encode_norm(norm, channels=OUT, positions=positions)
    phi = encode_activation(act.relu)
    mean, root = np.empty((2, *compiled.statistics_shape(code, channels=OUT, batch=BATCH)))
    x, gradient = np.empty_like(h), np.empty_like(h)
    assert compiled.normact_forward(h, x, mean, root, code, phi) == -1
    compiled.normact_backward(h, cotangent, gradient, mean, root, code, phi)

    tensor = images(torch, values, geometry.shape).requires_grad_()
    weight = torch.tensor(convolution.linear.matrix())
    weight = weight.reshape(OUT, CHANNELS, *(geometry.kernel,) * dimensions)
    padded = torch.nn.functional.pad(tensor, (1, 1) * dimensions, mode="circular")
    convolve = getattr(torch.nn.functional, f"conv{dimensions}d")
    expected = torch.relu(torch_normalizer(torch, norm, convolve(padded, weight)))
    expected.backward(images(torch, cotangent, geometry.shape))
    np.testing.assert_allclose(x, flat(expected), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(
        convolution.backward(gradient), flat(tensor.grad), rtol=1e-9, atol=1e-11
    )


def test_every_input_is_seen_once_by_each_offset():
    """columns'(columns(x)) = k^d x for circular padding."""
    geometry = Geometry((4, 5), 3)
    x = draw(13, CHANNELS, BATCH * 20)
    np.testing.assert_allclose(
        conv_columns_transposed(conv_columns(x, geometry), geometry), 9 * x, rtol=1e-14
    )


@pytest.mark.parametrize(
    ("shape", "kernel", "message"),
    [
        ((4,), 5, r"kernel = 5 .*at most 4, the shortest side.*shorten the kernel"),
        ((8, 2), 3, r"kernel = 3 .*at most 2"),
        ((8,), 0, r"kernel = 0 .*integer >= 1"),
        ((8,), 3.0, r"kernel = 3\.0 .*integer >= 1"),
        ((8,), True, r"kernel = True"),
        ((0,), 1, "shape = 0"),
        ((2, 2, 2), 1, r"shape = \(2, 2, 2\) .*\(S,\) or \(H, W\)"),
        (8, 3, r"shape = 8 "),
        ((), 1, r"shape = \(\)"),
    ],
)
def test_impossible_geometries(shape, kernel, message):
    with pytest.raises(SpecificationError, match=message):
        Geometry(shape, kernel)


def test_shapes_that_do_not_match():
    geometry = Geometry((5,), 3)
    with pytest.raises(SpecificationError, match=r"x = \(4, 12\) .*multiple of 5 columns"):
        conv_columns(np.zeros((4, 12)), geometry)
    with pytest.raises(SpecificationError, match=r"columns = \(12, 12\) .*multiple of 5 columns"):
        conv_columns_transposed(np.zeros((12, 12)), geometry)
    with pytest.raises(SpecificationError, match=r"columns = \(4, 10\) .*multiple of 3 rows"):
        conv_columns_transposed(np.zeros((4, 10)), geometry)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("batch", "positions"), [(4, 1), (3, 5), (1, 6), (2, 16)])
def test_observables_flatten_channels_and_positions(batch, positions, dtype):
    x = draw(14, 8, batch * positions, dtype=dtype) + dtype(0.5)
    squares, unit = np.empty(batch), np.empty((8 * positions, batch))
    variance = compiled.sample_statistics(x, squares, positions)
    gap = compiled.unit_samples(x, squares, unit, positions)

    samples = x.astype(np.float64).reshape(8, batch, positions).transpose(1, 0, 2)
    vectors = samples.reshape(batch, -1)
    np.testing.assert_allclose(squares, np.sum(vectors**2, axis=1), rtol=1e-13)
    expected = np.mean([samples[:, c].var() for c in range(8)])
    np.testing.assert_allclose(variance, expected, rtol=1e-13)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    gram = vectors @ vectors.T
    np.testing.assert_allclose(unit.T @ unit, gram, rtol=1e-12)
    pairs = [1 - gram[a, b] for a, b in itertools.permutations(range(batch), 2)]
    np.testing.assert_allclose(gap, np.mean(pairs) if pairs else 0.0, rtol=1e-12)


def test_gap_keeps_relative_precision_near_equal_samples():
    """Two samples at an angle of 1e-9: the gap is 5e-19."""
    x, y = draw(15, 6, 10), draw(16, 6, 10)
    x /= np.linalg.norm(x)
    y -= np.sum(x * y) * x
    pair = np.concatenate([x, x + 1e-9 * y / np.linalg.norm(y)], axis=1)
    squares, unit = np.empty(2), np.empty((60, 2))
    compiled.sample_statistics(pair, squares, 10)
    gap = compiled.unit_samples(pair, squares, unit, 10)
    assert gap == pytest.approx(5e-19, rel=1e-5)


def test_the_longest_kernel_with_zero_padding():
    """2 S + 1 taps reach past both ends from every position; one more tap would see zeros alone."""
    assert Geometry((3, 4), kernel=7, padding="zero").kernel == 7
    with pytest.raises(SpecificationError, match="at most 7"):
        Geometry((3, 4), kernel=8, padding="zero")
    assert Geometry((3, 4), kernel=3).kernel == 3
    with pytest.raises(SpecificationError, match="at most 3"):
        Geometry((3, 4), kernel=4)


def test_windows_within_the_sides() -> None:
    geometry = Geometry((5, 4), 2, "none", 2)
    assert geometry.output == (2, 2)
    # Rows are offsets; positions are numbered row by row.
    np.testing.assert_array_equal(geometry.table[0], [0, 2, 8, 10])
    np.testing.assert_array_equal(geometry.table[-1], [5, 7, 13, 15])


@pytest.mark.parametrize("integer", [np.int64, np.int32, np.uint8])
def test_sizes_may_be_numbers_of_numpy(integer):
    """The same value, hash and table as of Python's integers."""
    for geometry in GEOMETRIES:
        other = Geometry(
            tuple(map(integer, geometry.shape)),
            integer(geometry.kernel),
            geometry.padding,
            integer(geometry.stride),
        )
        assert other == geometry
        assert hash(other) == hash(geometry)
        assert (other.positions, other.offsets, other.output) == (
            geometry.positions,
            geometry.offsets,
            geometry.output,
        )
        assert np.array_equal(other.table, geometry.table)
