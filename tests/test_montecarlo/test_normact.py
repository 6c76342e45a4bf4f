"""x = phi(N(h)) against plain NumPy, its Jacobian against finite differences and autograd."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import special

from montecarlo.network import normact
from theory.errors import HypothesisError
from theory.specs import activations as act
from theory.specs import normalizers as nm

CHANNELS, BATCH = 8, 5

BASE = {
    "relu": lambda y, a: np.maximum(y, 0.0),
    "leaky_relu": lambda y, a: np.where(y > 0, y, a * y),
    "identity": lambda y, a: y,
    "abs": lambda y, a: np.abs(y),
    "tanh": lambda y, a: np.tanh(y),
    "erf": lambda y, a: special.erf(y),
    "gelu": lambda y, a: y * special.ndtr(y),
    "silu": lambda y, a: y * special.expit(y),
    "elu": lambda y, a: np.where(y > 0, y, np.expm1(np.minimum(y, 0))),
    "selu": lambda y, a: (
        1.0507009873554805 * np.where(y > 0, y, 1.6732632423543772 * np.expm1(np.minimum(y, 0)))
    ),
    "softplus": lambda y, a: np.logaddexp(0.0, y),
    "sin": lambda y, a: np.sin(y),
}

ACTIVATIONS = {
    name: act.leaky_relu(0.3) if name == "leaky_relu" else act.Activation(name=name)
    for name in act.ACTIVATION_NAMES
}
ACTIVATIONS["affine"] = act.scaled_relu
ACTIVATIONS["affine tanh"] = act.tanh.affine(scale=-1.7, shift=0.4)

NORMALIZERS = {
    "plain": None,
    "BN": nm.batch_norm(),
    "BN eps ddof": nm.batch_norm(eps=0.1, ddof=1),
    "VN": nm.variance_norm(),
    "VN eps": nm.variance_norm(eps=0.1),
    "MC": nm.mean_centering(),
    "LN": nm.layer_norm(),
    "LN eps": nm.layer_norm(eps=0.1),
    "RMS": nm.rms_norm(),
    "RMS eps": nm.rms_norm(eps=0.1),
    "GN": nm.group_norm(4),
    "GN eps ddof": nm.group_norm(4, eps=0.1, ddof=1),
    "GN(2) eps": nm.group_norm(2, eps=0.1),
    "S0": nm.evonorm_s0(),
    "S0 group": nm.evonorm_s0(4, gate=0.7, eps=0.1, ddof=1),
    "B0": nm.evonorm_b0(),
    "B0 eps": nm.evonorm_b0(gate=1.3, eps=0.1, ddof=1),
}
for samples, channels, centered, denominator in itertools.product(
    (True, False), (1, 2, math.inf), (True, False), ("std", "rms", "none")
):
    if not samples and channels == 1:
        continue
    name = f"{'batch' if samples else 'sample'} {channels} {centered} {denominator}"
    NORMALIZERS[name] = nm.Normalizer(
        name=name,
        pool=nm.Pool(samples=samples, positions=True, channels=channels),
        centered=centered,
        denominator=denominator,
        eps=0.0 if denominator == "none" else 0.05,
    )


def reference(norm, activation, h):
    """phi(N(h)) pool by pool, as one would write it down."""
    y = h.copy()
    if norm is not None:
        group = int(min(norm.pool.channels, len(h)))
        columns = (
            [slice(None)] if norm.pool.samples else [slice(b, b + 1) for b in range(h.shape[1])]
        )
        for low, column in itertools.product(range(0, len(h), group), columns):
            pool = h[low : low + group, column]
            numerator = pool - pool.mean() if norm.centered else pool
            if norm.denominator == "none":
                root = 1.0
            elif norm.denominator == "rms":
                root = np.sqrt(np.mean(pool**2) + norm.eps)
            else:
                root = np.sqrt(
                    np.sum((pool - pool.mean()) ** 2) / (pool.size - norm.ddof) + norm.eps
                )
            if norm.denominator == "evonorm_b0":
                root = np.maximum(root, norm.gate * pool + np.sqrt(norm.eps))
            elif norm.gate is not None:
                numerator = pool * special.expit(norm.gate * pool)
            y[low : low + group, column] = numerator / root
    base = BASE[activation.name](y, activation.negative_slope)
    return activation.scale * base + activation.shift


def preactivations(seed, dtype=np.float64):
    h = 1.5 * np.random.default_rng(seed).standard_normal((CHANNELS, BATCH)) + 0.3
    return h.astype(dtype)


@pytest.mark.parametrize("norm", NORMALIZERS.values(), ids=NORMALIZERS)
def test_forward_is_the_formula(norm):
    h = preactivations(1)
    for activation in ACTIVATIONS.values():
        step = normact(norm, activation, h)
        np.testing.assert_allclose(
            step.x, reference(norm, activation, h), rtol=1e-13, atol=1e-14, err_msg=str(activation)
        )


@pytest.mark.parametrize("norm", NORMALIZERS.values(), ids=NORMALIZERS)
def test_float32_agrees_with_float64(norm):
    h, cotangent = preactivations(2, np.float32), preactivations(3, np.float32)
    for activation in (act.relu, act.tanh):
        single = normact(norm, activation, h)
        double = normact(norm, activation, h.astype(np.float64))
        assert single.x.dtype == np.float32
        np.testing.assert_allclose(single.x, double.x, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            single.backward(cotangent),
            double.backward(cotangent.astype(np.float64)),
            rtol=1e-5,
            atol=2e-6 * np.abs(double.backward(cotangent.astype(np.float64))).max(),
        )


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
@pytest.mark.parametrize("norm", NORMALIZERS.values(), ids=NORMALIZERS)
def test_backward_is_the_derivative(norm, activation):
    """Central differences in every coordinate; 1e-7 of the largest derivative."""
    h, cotangent = preactivations(4), preactivations(5)
    gradient = normact(norm, activation, h).backward(cotangent)
    numerical = np.empty_like(h)
    step = 2e-6
    for index in np.ndindex(h.shape):
        plus, minus = h.copy(), h.copy()
        plus[index] += step
        minus[index] -= step
        difference = normact(norm, activation, plus).x - normact(norm, activation, minus).x
        numerical[index] = np.sum(cotangent * difference) / (2 * step)
    np.testing.assert_allclose(gradient, numerical, rtol=0, atol=1e-7 * np.abs(numerical).max())


def test_smooth_activations_far_out():
    """No overflow, no cancellation where exp() would overflow."""
    h = np.array([[-800.0, -40.0, -1e-9, 1e-9, 40.0, 800.0]])
    for name, activation in ACTIVATIONS.items():
        step = normact(None, activation, h)
        np.testing.assert_allclose(step.x, reference(None, activation, h), rtol=1e-12, err_msg=name)
        assert np.isfinite(step.backward(np.ones_like(h))).all(), name


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "norm", [nm.batch_norm(), nm.variance_norm(), nm.layer_norm(), nm.group_norm(2), nm.rms_norm()]
)
def test_zero_variance_raises(norm, dtype):
    h = np.full((CHANNELS, BATCH), 0.1, dtype=dtype)
    if norm.denominator == "rms":
        h[:] = 0.0
    with pytest.raises(HypothesisError, match=r"zero variance.*eps > 0"):
        normact(norm, act.relu, h)
    normact(nm.layer_norm(eps=1e-5), act.relu, h)


def test_pool_of_two_about_its_mean_has_no_gradient():
    """N(h) = +-1, so the Jacobian vanishes: exactly, not up to rounding."""
    h, cotangent = preactivations(6), preactivations(7)
    assert not normact(nm.group_norm(2), act.identity, h).backward(cotangent).any()
    assert not normact(nm.batch_norm(), act.relu, h[:, :2].copy()).backward(cotangent[:, :2]).any()
    assert normact(nm.group_norm(2, eps=0.1), act.identity, h).backward(cotangent).any()
    assert normact(nm.group_norm(4), act.identity, h).backward(cotangent).any()


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_common_offset_costs_no_digits(offset):
    h = np.round(preactivations(8), 3)
    exact = normact(nm.layer_norm(), act.identity, h).x
    np.testing.assert_allclose(
        normact(nm.layer_norm(), act.identity, h + offset).x, exact, rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh", "elu", "selu", "softplus"])
@pytest.mark.parametrize("kind", ["BN", "LN", "GN"])
def test_against_autograd(kind, activation):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    h, cotangent = preactivations(9), preactivations(10)
    eps = 1e-5
    tensor = torch.tensor(h.T.copy(), requires_grad=True)
    match kind:
        case "BN":
            norm = nm.batch_norm(eps=eps)
            y = functional.batch_norm(tensor, None, None, training=True, eps=eps)
        case "LN":
            norm = nm.layer_norm(eps=eps)
            y = functional.layer_norm(tensor, (CHANNELS,), eps=eps)
        case _:
            norm = nm.group_norm(4, eps=eps)
            y = functional.group_norm(tensor, CHANNELS // 4, eps=eps)
    x = getattr(torch if activation == "tanh" else functional, activation)(y)
    x.backward(torch.tensor(cotangent.T.copy()))
    step = normact(norm, ACTIVATIONS[activation], h)
    np.testing.assert_allclose(step.x.T, x.detach().numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(
        step.backward(cotangent).T, tensor.grad.numpy(), rtol=1e-9, atol=1e-11
    )
