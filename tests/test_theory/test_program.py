"""The program is what both wings interpret, so it is checked against forward passes by hand."""

import math

import numpy as np
import pytest

from theory.program import Linear, NormAct, Observe, lower
from theory.specs.networks import FeedForward, Layer
from theory.specs.normalizers import batch_norm, group_norm, layer_norm
from theory.zoo import zoo


def run(program, x, matrices):
    """Interpret a program in a few lines of NumPy; ``x`` has shape (channels, samples)."""
    matrices, seen = iter(matrices), []
    for operation in program:
        match operation:
            case Linear():
                x = next(matrices) @ x
            case NormAct(norm=norm, activation=activation):
                assert activation.name in ("relu", "identity")
                x = normalized(x, norm)
                x = np.maximum(x, 0.0) if activation.name == "relu" else x
                x = activation.scale * x + activation.shift
            case Observe(what=what):
                seen.append((what, x.copy()))
    return x, seen


def normalized(h, norm):
    if norm is None:
        return h
    channels, samples = h.shape
    group = channels if norm.pool.channels == math.inf else norm.pool.channels
    pooled = h.reshape(channels // group, group, samples)
    axes = (1, 2) if norm.pool.samples else 1
    mean = pooled.mean(axis=axes, keepdims=True)
    return ((pooled - mean) / pooled.std(axis=axes, keepdims=True)).reshape(h.shape)


def batch_norm_by_hand(h):
    return np.stack([(row - row.mean()) / row.std() for row in h])


def layer_norm_by_hand(h):
    return np.stack([(column - column.mean()) / column.std() for column in h.T]).T


def group_norm_by_hand(h):
    return np.concatenate([layer_norm_by_hand(h[i : i + 4]) for i in range(0, len(h), 4)])


@pytest.mark.parametrize(
    ("norm", "by_hand"),
    [
        (None, lambda h: h),
        (batch_norm(), batch_norm_by_hand),
        (layer_norm(), layer_norm_by_hand),
        (group_norm(4), group_norm_by_hand),
    ],
    ids=["plain", "BN", "LN", "GN(4)"],
)
def test_program_is_the_forward_pass_by_hand(norm, by_hand):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 5))
    first, second, third = rng.standard_normal((3, 8, 8))
    result, seen = run(
        lower(FeedForward(Layer(norm=norm), depth=3)), x.copy(), [first, second, third]
    )

    h1 = first @ x
    x1 = np.maximum(by_hand(h1), 0.0)
    h2 = second @ x1
    x2 = np.maximum(by_hand(h2), 0.0)
    h3 = third @ x2
    x3 = np.maximum(by_hand(h3), 0.0)

    np.testing.assert_allclose(result, x3, rtol=1e-12, atol=1e-12)
    assert [what for what, _ in seen] == ["preactivation", "activation"] * 3
    for (_, value), expected in zip(seen, (h1, x1, h2, x2, h3, x3), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", zoo)
def test_one_layer_lowers_to_its_own_parts(name):
    layer = zoo[name]
    assert lower(FeedForward(layer, depth=1)) == (
        Linear(layer.weights),
        Observe("preactivation"),
        NormAct(layer.norm, layer.activation),
        Observe("activation"),
    )


def test_depth_repeats_the_layer():
    one = lower(FeedForward(zoo["BN"], depth=1))
    assert lower(FeedForward(zoo["BN"], depth=7)) == one * 7


def test_lowering_is_cached_by_value():
    assert lower(FeedForward(Layer(), depth=4)) is lower(FeedForward(Layer(), depth=4))
