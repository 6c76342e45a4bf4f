"""x = phi(N(h)) against plain NumPy, its Jacobian against finite differences and autograd."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import special

from montecarlo import compiled
from montecarlo.activations import encode_activation
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

# What only makes sense with positions: 3 samples of 4 in these tests.
SAMPLES, POSITIONS = 3, 4
SPATIAL = NORMALIZERS | {
    "IN": nm.instance_norm(),
    "IN eps ddof": nm.instance_norm(eps=0.1, ddof=1),
    "FRN": nm.filter_response_norm(),
    "FRN eps": nm.filter_response_norm(eps=0.1),
    "RMS channels": nm.rms_norm(positions=False),
    "S0 instance": nm.evonorm_s0(1, gate=-0.8),
    "B0 steep": nm.evonorm_b0(gate=4.0, eps=0.01),
}
for samples, channels, centered, denominator in itertools.product(
    (True, False), (1, 2, math.inf), (True, False), ("std", "rms", "none")
):
    name = f"{'batch' if samples else 'sample'} {channels} {centered} {denominator} apart"
    SPATIAL[name] = nm.Normalizer(
        name=name,
        pool=nm.Pool(samples=samples, positions=False, channels=channels),
        centered=centered,
        denominator=denominator,
        eps=0.0 if denominator == "none" else 0.05,
    )


def reference(norm, activation, h, positions=1):
    """phi(N(h)) pool by pool, as one would write it down."""
    h = h.reshape(len(h), -1, positions)
    y = h.copy()
    if norm is not None:
        group = int(min(norm.pool.channels, len(h)))
        for low, sample, position in itertools.product(
            range(0, len(h), group),
            [slice(None)] if norm.pool.samples else cells(h.shape[1]),
            [slice(None)] if norm.pool.positions else cells(positions),
        ):
            pool = h[low : low + group, sample, position]
            numerator = pool - pool.mean() if norm.centered else pool
            if norm.denominator == "none":
                root = 1.0
            elif norm.denominator == "rms":
                root = np.sqrt(np.mean(pool**2) + norm.eps)
            else:
                root = std(pool, norm)
            if norm.denominator == "evonorm_b0":
                instance = [[[std(one, norm)] for one in channel] for channel in pool]
                root = np.maximum(root, norm.gate * pool + instance)
            elif norm.gate is not None:
                numerator = pool * special.expit(norm.gate * pool)
            y[low : low + group, sample, position] = numerator / root
    base = BASE[activation.name](y, activation.negative_slope)
    return (activation.scale * base + activation.shift).reshape(len(h), -1)


def cells(count):
    return [slice(i, i + 1) for i in range(count)]


def std(pool, norm):
    """sqrt(variance + eps); one number has no variance."""
    divisor = max(pool.size - norm.ddof, 1)
    return np.sqrt(np.sum((pool - pool.mean()) ** 2) / divisor + norm.eps)


class Spatial:
    """x = phi(N(h)) for h of shape (channels, samples * positions)."""

    def __init__(self, norm, activation, h, *, positions=POSITIONS):
        self.norm = compiled.encode_norm(norm, channels=len(h), positions=positions)
        self.phi = encode_activation(activation)
        self.h, self.x = h, np.empty_like(h)
        shape = compiled.statistics_shape(self.norm, channels=len(h), batch=h.shape[1] // positions)
        self.mean, self.root = np.empty((2, *shape))
        self.failed = compiled.normact_forward(h, self.x, self.mean, self.root, self.norm, self.phi)

    def backward(self, delta):
        gradient = np.empty_like(self.h)
        compiled.normact_backward(
            self.h, delta, gradient, self.mean, self.root, self.norm, self.phi
        )
        return gradient


class Single:
    """The same at one position, as the simulation calls it."""

    def __init__(self, norm, activation, h):
        self.x, step = normact(norm, activation, h)
        self.mean, self.root, self.backward = step.mean, step.root, step.backward


def preactivations(seed, dtype=np.float64, columns=BATCH):
    h = 1.5 * np.random.default_rng(seed).standard_normal((CHANNELS, columns)) + 0.3
    return h.astype(dtype)


@pytest.mark.parametrize("norm", NORMALIZERS.values(), ids=NORMALIZERS)
def test_forward_is_the_formula(norm):
    h = preactivations(1)
    for activation in ACTIVATIONS.values():
        step = Single(norm, activation, h)
        np.testing.assert_allclose(
            step.x, reference(norm, activation, h), rtol=1e-13, atol=1e-14, err_msg=str(activation)
        )


@pytest.mark.parametrize("norm", NORMALIZERS.values(), ids=NORMALIZERS)
def test_float32_agrees_with_float64(norm):
    h, cotangent = preactivations(2, np.float32), preactivations(3, np.float32)
    for activation in (act.relu, act.tanh):
        single = Single(norm, activation, h)
        double = Single(norm, activation, h.astype(np.float64))
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
    gradient = Single(norm, activation, h).backward(cotangent)
    numerical = pulled_back(lambda values: Single(norm, activation, values).x, h, cotangent)
    np.testing.assert_allclose(gradient, numerical, rtol=0, atol=1e-7 * np.abs(numerical).max())


def pulled_back(function, h, cotangent):
    """J' cotangent by central differences."""
    numerical = np.empty_like(h)
    step = 2e-6
    for index in np.ndindex(h.shape):
        plus, minus = h.copy(), h.copy()
        plus[index] += step
        minus[index] -= step
        numerical[index] = np.sum(cotangent * (function(plus) - function(minus))) / (2 * step)
    return numerical


def test_smooth_activations_far_out():
    """No overflow, no cancellation where exp() would overflow."""
    h = np.array([[-800.0, -40.0, -1e-9, 1e-9, 40.0, 800.0]])
    for name, activation in ACTIVATIONS.items():
        step = Single(None, activation, h)
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
        Single(norm, act.relu, h)
    Single(nm.layer_norm(eps=1e-5), act.relu, h)


def test_pool_of_two_about_its_mean_has_no_gradient():
    """N(h) = +-1, so the Jacobian vanishes: exactly, not up to rounding."""
    h, cotangent = preactivations(6), preactivations(7)
    assert not Single(nm.group_norm(2), act.identity, h).backward(cotangent).any()
    assert not Single(nm.batch_norm(), act.relu, h[:, :2].copy()).backward(cotangent[:, :2]).any()
    assert Single(nm.group_norm(2, eps=0.1), act.identity, h).backward(cotangent).any()
    assert Single(nm.group_norm(4), act.identity, h).backward(cotangent).any()


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_common_offset_costs_no_digits(offset):
    h = np.round(preactivations(8), 3)
    exact = Single(nm.layer_norm(), act.identity, h).x
    np.testing.assert_allclose(
        Single(nm.layer_norm(), act.identity, h + offset).x, exact, rtol=0, atol=1e-9
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
    step = Single(norm, ACTIVATIONS[activation], h)
    np.testing.assert_allclose(step.x.T, x.detach().numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(
        step.backward(cotangent).T, tensor.grad.numpy(), rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize("norm", SPATIAL.values(), ids=SPATIAL)
def test_positions_forward_is_the_formula(norm):
    h = preactivations(11, columns=SAMPLES * POSITIONS)
    for activation in (act.identity, act.relu, act.tanh):
        np.testing.assert_allclose(
            Spatial(norm, activation, h).x,
            reference(norm, activation, h, POSITIONS),
            rtol=1e-13,
            atol=1e-14,
        )


@pytest.mark.parametrize("activation", [act.identity, act.relu, act.tanh], ids=lambda a: a.name)
@pytest.mark.parametrize("norm", SPATIAL.values(), ids=SPATIAL)
def test_positions_backward_is_the_derivative(norm, activation):
    """Central differences of the formula in every coordinate; 1e-7 of the largest derivative."""
    h, cotangent = (preactivations(seed, columns=SAMPLES * POSITIONS) for seed in (12, 13))
    gradient = Spatial(norm, activation, h).backward(cotangent)
    numerical = pulled_back(lambda v: reference(norm, activation, v, POSITIONS), h, cotangent)
    np.testing.assert_allclose(gradient, numerical, rtol=0, atol=1e-7 * np.abs(numerical).max())


@pytest.mark.parametrize("norm", SPATIAL.values(), ids=SPATIAL)
def test_positions_float32_agrees_with_float64(norm):
    h, delta = (preactivations(seed, np.float32, SAMPLES * POSITIONS) for seed in (14, 15))
    single = Spatial(norm, act.tanh, h)
    double = Spatial(norm, act.tanh, h.astype(np.float64))
    assert single.x.dtype == np.float32
    np.testing.assert_allclose(single.x, double.x, rtol=1e-5, atol=1e-6)
    gradient = double.backward(delta.astype(np.float64))
    np.testing.assert_allclose(
        single.backward(delta), gradient, rtol=1e-5, atol=2e-6 * np.abs(gradient).max()
    )


@pytest.mark.parametrize("norm", NORMALIZERS.values(), ids=NORMALIZERS)
def test_one_position_is_fully_connected(norm):
    """The default of every call is one position: bit for bit the same."""
    h, delta = preactivations(16), preactivations(17)
    step, spatial = Single(norm, act.relu, h), Spatial(norm, act.relu, h, positions=1)
    np.testing.assert_array_equal(step.x, spatial.x)
    np.testing.assert_array_equal(step.backward(delta), spatial.backward(delta))


@pytest.mark.parametrize("norm", [nm.instance_norm(), nm.group_norm(2), nm.batch_norm()])
def test_the_collapsed_pool_is_named(norm):
    """The first block of channels with a pool of equal entries."""
    h = preactivations(18, columns=SAMPLES * POSITIONS)
    bad = slice(None) if norm.pool.samples else slice(POSITIONS, 2 * POSITIONS)
    h[4:6, bad] = 0.1
    assert Spatial(norm, act.relu, h).failed == 4 // norm.pool.channels
    h[4:6] = preactivations(19, columns=SAMPLES * POSITIONS)[4:6]
    assert Spatial(norm, act.relu, h).failed == -1


def test_evonorm_b0_at_an_instance_of_equal_entries():
    """f = std_instance has a kink there; y = h/(v h + f) has the subgradient without f's slope."""
    h = preactivations(20, columns=SAMPLES * POSITIONS)
    h[0, :POSITIONS] = 9.0
    delta = preactivations(21, columns=SAMPLES * POSITIONS)
    gradient = Spatial(nm.evonorm_b0(), act.identity, h).backward(delta)
    assert np.isfinite(gradient).all()
