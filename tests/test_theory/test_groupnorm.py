"""GroupNorm at eps = 0: reference values, fixed points, exact special cases, simulation.

Exact cases used as truth: c = 0 (independent groups), c = -1 (opposite groups), the identity (moments
of the sample correlation), sin (Bessel functions under Hotelling's density), all by mpmath.
"""

import math

import mpmath as mp
import numpy as np
import pytest
from mpmath.calculus.quadrature import GaussLegendre
from scipy.optimize import brentq

import theory as th
from theory.errors import SpecificationError
from theory.routes import arccosine, groupnorm
from theory.routes.group_table import GapTable
from theory.routes.groupnorm import group_gap, group_moments, group_slope
from theory.specs import activations

relu = activations.relu

SIMILARITY = {
    (3, 0.0): "0.40528473456935108578",
    (3, 0.5): "0.6208162126354370245",
    (3, 0.9): "0.8716722938834704562",
    (4, 0.0): "0.375",
    (4, 0.5): "0.61209988370204262446",
    (4, 0.9): "0.88392875538114376382",
    (8, 0.0): "0.341796875",
    (8, 0.5): "0.60777259006358546887",
    (8, 0.9): "0.89955193591436624444",
    (32, 0.0): "0.32348463982976027875",
    (32, 0.5): "0.60838981234781868083",
    (32, 0.9): "0.90752634495302375201",
}
FIXED_POINT = {
    2: ("0.789833", 5e-7),
    3: ("0.777385", 5e-7),
    4: ("0.80396986259337379522", 1e-15),
    5: ("0.83213224283620640156", 1e-15),
    8: ("0.89547043763578193322", 1e-15),
    16: ("0.9627757005212944558", 1e-15),
}
PHI = {
    "tanh": mp.tanh,
    "gelu": lambda x: x * mp.ncdf(x),
    "softplus": lambda x: mp.log1p(mp.exp(x)),
    "sin": mp.sin,
    "elu": lambda x: x if x > 0 else mp.expm1(x),
    "identity": lambda x: x,
    "relu": lambda x: max(x, mp.mpf(0)),
    "abs": abs,
}
SLOPE = {
    "tanh": lambda x: mp.sech(x) ** 2,
    "gelu": lambda x: mp.ncdf(x) + x * mp.npdf(x),
    "softplus": lambda x: 1 / (1 + mp.exp(-x)),
    "sin": mp.cos,
    "elu": lambda x: mp.mpf(1) if x > 0 else mp.exp(x),
    "identity": lambda x: mp.mpf(1),
    "relu": lambda x: mp.mpf(x > 0),
    "abs": lambda x: mp.sign(x),
}


def activation(name):
    return getattr(activations, name)


def one_coordinate(f, rank, radius):
    """E f(radius x), x = sin(delta) a coordinate of a uniform unit vector, by mpmath."""
    if rank == 1:
        return (f(radius) + f(-radius)) / 2
    reach = min(mp.pi / 2, 12 / mp.sqrt(rank))
    cuts = [reach * k / 6 for k in range(7)]
    density = lambda d: mp.cos(d) ** (rank - 2)  # noqa: E731
    both = lambda d: density(d) * (f(radius * mp.sin(d)) + f(-radius * mp.sin(d)))  # noqa: E731
    return mp.quad(both, cuts) / mp.quad(density, cuts) / 2


def random_pools(count, seed):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        centered = bool(rng.random() < 0.7)
        small = int(rng.integers(2, 10))
        size = small if rng.random() < 0.6 else int(rng.integers(10, 4097))
        yield {
            "group_size": size,
            "centered": centered,
            "ddof": int(rng.integers(0, 2)) if centered else 0,
        }


def pool_geometry(group_size, centered, ddof):
    size = mp.mpf(group_size)
    if centered:
        return group_size - 1, mp.sqrt((size - ddof) * (size - 1) / size)
    return group_size, mp.sqrt(size)


def honest(value, error, truth, scale, tolerance=1e-12):
    defect = abs(float((mp.mpf(float(value)) - truth) / scale))
    assert defect <= 10.0 * float(error) + 1e-13
    assert defect <= tolerance
    assert float(error) <= tolerance


def fixed_gap(group_size):
    def growth(gap):
        return float(group_gap(relu, gap, group_size=group_size, centered=True)[0]) / gap - 1.0

    near = 9.0 * math.pi**2 / (8.0 * group_size**2)
    return brentq(growth, 0.05 * near, min(3.0 * near, 1.0), xtol=1e-300, rtol=1e-15)


@pytest.mark.parametrize(("case", "similarity"), SIMILARITY.items())
def test_reference_similarity(case, similarity):
    group_size, c = case
    gap, error = group_gap(relu, 1.0 - c, group_size=group_size, centered=True)
    assert 1.0 - float(gap) == pytest.approx(float(similarity), rel=2e-15)
    assert error < 1e-14


@pytest.mark.parametrize("group_size", FIXED_POINT)
def test_reference_fixed_point(group_size):
    value, digits = FIXED_POINT[group_size]
    assert 1.0 - fixed_gap(group_size) == pytest.approx(float(value), rel=digits)


def hotelling_ratio(f, rank, gap):
    """E f by Hotelling's density without its constant, z = arctanh r, panels around arctanh c."""
    gap, half = mp.mpf(gap), mp.mpf(1) / 2
    zeta = mp.log((2 - gap) / gap) / 2

    def density(z):
        w = 2 / (1 + mp.exp(2 * z))
        one_minus_square = w * 2 / (1 + mp.exp(-2 * z))
        one_minus_cr = gap + (1 - gap) * w
        power = one_minus_square ** (half * (rank - 1)) * (one_minus_cr / gap) ** (half - rank)
        scaled = power / (gap * (2 - gap)) ** (half * (rank - 1))
        return w, scaled * mp.hyp2f1(half, half, rank + half, 1 - one_minus_cr / 2)

    nodes = GaussLegendre(mp.mp).calc_nodes(4, 110)
    reach = 46 / mp.mpf(max(rank - 2, 1)) + 12 / mp.sqrt(rank) + (abs(zeta) if rank == 2 else 0)
    panels = int(2 * reach / min(mp.mpf(2), 6 / mp.sqrt(rank))) + 1
    width, value, mass = reach / panels, mp.mpf(0), mp.mpf(0)
    for i in range(panels):
        for x, weight in nodes:
            w, p = density(zeta - reach + (2 * i + 1 + x) * width)
            value, mass = value + weight * p * f(w), mass + weight * p
    return value / mass


def relu_kernel(w):
    theta = 2 * mp.asin(mp.sqrt(w / 2))
    return w - (mp.sin(theta) - theta * mp.cos(theta)) / mp.pi


@pytest.mark.parametrize("group_size", [4, 8, 64, 512, 4096])
def test_fixed_point_to_eight_digits(group_size):
    # Errors of the map are amplified 2 (G - 3)-fold in 1 - c*: judge the residual of the true map.
    gap = fixed_gap(group_size)
    with mp.workdps(32):
        residual = float(hotelling_ratio(relu_kernel, group_size - 1, gap) / mp.mpf(gap) - 1)
        slope, _ = group_slope(relu, gap, group_size=group_size, centered=True)
        assert abs(residual) / abs(1.0 - 2.0 * float(slope)) < 1e-8 / 100.0


@pytest.mark.parametrize("group_size", [2, 3, 4, 5, 9, 33, 200, 1025, 4096])
def test_relu_map_is_accurate_everywhere(group_size):
    for gap in (1e-12, 3e-6, 0.02, 0.7, 1.6, 2.0):
        value, error = group_gap(relu, gap, group_size=group_size, centered=True)
        with mp.workdps(32):
            if group_size == 2:
                truth = mp.acos(1 - mp.mpf(gap)) / mp.pi
            elif gap == 2.0:
                truth = mp.mpf(1)
            else:
                truth = hotelling_ratio(relu_kernel, group_size - 1, gap)
            honest(value, error, truth, truth)


@pytest.mark.parametrize(("group_size", "gap"), [(3, 1e-6), (4, 0.3), (8, 1e-9), (40, 1.4)])
def test_sin_against_bessel_functions(group_size, gap):
    rank, radius = pool_geometry(group_size, True, 1)
    order = mp.mpf(rank) / 2 - 1

    def cosine(t):
        return mp.gamma(order + 1) * (2 / t) ** order * mp.besselj(order, t) if t else mp.mpf(1)

    with mp.workdps(38):
        rank, radius = pool_geometry(group_size, True, 1)
        kernel = lambda w: (  # noqa: E731
            cosine(radius * mp.sqrt(2 * w)) - cosine(radius * mp.sqrt(4 - 2 * w))
        )
        same = kernel(mp.mpf(0))
        truth = hotelling_ratio(lambda w: 1 - kernel(w) / same, rank, gap)
        value, error = group_gap(activations.sin, gap, group_size=group_size, centered=True, ddof=1)
        honest(value, error, truth, truth)


@pytest.mark.parametrize("name", PHI)
def test_independent_and_opposite_groups(name):
    phi = PHI[name]
    for pool in random_pools(15, seed=11):
        with mp.workdps(20):
            rank, radius = pool_geometry(**pool)
            second = one_coordinate(lambda u: phi(u) ** 2, rank, radius)
            mean = one_coordinate(phi, rank, radius)
            # For n = 1 as for any other, groups at c = 0 are independent.
            independent = 1 - mean**2 / second
            opposite = one_coordinate(lambda u: (phi(u) - phi(-u)) ** 2, rank, radius) / 2 / second
        value, error = group_gap(activation(name), [1.0, 2.0], **pool)
        honest(value[0], error[0], independent, independent)
        honest(value[1], error[1], opposite, 2 if name == "abs" else opposite)
        found = group_moments(activation(name), **pool)
        honest(found[0], found[2], second, second)
        honest(found[1], found[2], mean, mp.sqrt(second))


@pytest.mark.parametrize("name", PHI)
def test_own_slope(name):
    slope = SLOPE[name]
    for pool in random_pools(15, seed=12):
        value, error = group_slope(activation(name), 0.0, **pool)
        with mp.workdps(20):
            rank, radius = pool_geometry(**pool)
            if rank <= 2:
                assert value == (math.inf if rank == 2 else 0.0)
                continue
            tangent = one_coordinate(
                lambda u, t=radius: slope(u) ** 2 * (1 - (u / t) ** 2), rank, radius
            )
            truth = radius**2 / (rank - 2) * tangent
        honest(value, error, truth, truth)
        # The same number is the limit of the pair slope: two derivations, one for each.
        near, error = group_slope(activation(name), 1e-290, **pool)
        honest(near, error, truth, truth)


def test_random_identity_cases():
    # E[1 - r] in closed form, 300 cases.
    rng = np.random.default_rng(5)
    for pool in random_pools(300, seed=13):
        gap = float(10.0 ** rng.uniform(-12, 0) if rng.random() < 0.6 else rng.uniform(0, 2))
        rank, _ = pool_geometry(**pool)
        with mp.workdps(40):
            c, half = 1 - mp.mpf(gap), mp.mpf(rank) / 2
            ratio = mp.gamma(half + mp.mpf(1) / 2) / mp.gamma(half)
            f = mp.hyp2f1(0.5, 0.5, half + 1, c * c)
            truth = 1 - c * ratio**2 / half * f
            value, error = group_gap(activations.identity, gap, **pool)
            honest(value, error, truth, truth)
            if rank == 1:
                continue
            derivative = ratio**2 / half
            derivative *= f + c * c * mp.hyp2f1(1.5, 1.5, half + 2, c * c) / (2 * (half + 1))
            size, spare = pool["group_size"], pool["ddof"]
            derivative *= mp.mpf(size - spare) / size
            value, error = group_slope(activations.identity, gap, **pool)
            honest(value, error, derivative, derivative)


@pytest.mark.parametrize("name", ["relu", "abs", "tanh", "gelu", "elu", "softplus", "sin"])
@pytest.mark.parametrize("group_size", [3, 4, 8, 300])
def test_slope_is_the_derivative_of_the_map(name, group_size):
    phi, pool = activation(name), {"group_size": group_size, "centered": True, "ddof": 1}
    second, _, _ = group_moments(phi, **pool)
    for gap in (0.05, 0.8, 1.5):
        h = 1e-3 * gap
        at, _ = group_gap(phi, gap + h * np.array([-3, -2, -1, 1, 2, 3]), **pool)
        difference = (at @ np.array([-1, 9, -45, 45, -9, 1])) / (60.0 * h)
        value, error = group_slope(phi, gap, **pool)
        assert float(value) == pytest.approx(second * difference, rel=1e-9)
        assert error < 1e-12


@pytest.mark.parametrize("group_size", [4, 5, 8, 32, 4096])
def test_relu_gradient_growth(group_size):
    own, _ = group_slope(relu, 0.0, group_size=group_size, centered=True)
    assert 2.0 * own == pytest.approx((group_size - 2.0) / (group_size - 3.0), rel=1e-14)
    rms, _ = group_slope(relu, 0.0, group_size=group_size, centered=False)
    assert 2.0 * rms == pytest.approx((group_size - 1.0) / (group_size - 2.0), rel=1e-14)


def test_heavy_tails():
    # Rank 1: u = +-1, no gradient; rank 2: infinite mean square.
    for phi in (relu, activations.tanh):
        assert group_slope(phi, 0.0, group_size=2, centered=True)[0] == 0.0
        assert group_slope(phi, 0.5, group_size=2, centered=True)[0] == 0.0
        assert group_slope(phi, 0.0, group_size=3, centered=True)[0] == math.inf
        assert math.isfinite(group_slope(phi, 0.5, group_size=3, centered=True)[0])
        mixed, _ = group_slope(phi, [[0.0, 0.5], [0.5, 0.0]], group_size=3, centered=True)
        assert np.isinf(np.diagonal(mixed)).all()
        assert np.isfinite(mixed[0, 1])


def test_two_channels_are_signs():
    gap = np.array([1e-12, 0.2, 1.0, 1.7])
    value, _ = group_gap(relu, gap, group_size=2, centered=True)
    assert value == pytest.approx(arccosine.angle(gap) / np.pi, rel=1e-14)
    value, _ = group_gap(activations.tanh, gap, group_size=2, centered=True)
    assert value == pytest.approx(2.0 * arccosine.angle(gap) / np.pi, rel=1e-14)


@pytest.mark.parametrize(("name", "centered", "ddof"), [
    ("tanh", True, 0), ("selu", True, 1), ("gelu", False, 0), ("leaky_relu", True, 1),
])  # fmt: skip
def test_simulated_groups(name, centered, ddof):
    # 2e5 pairs of groups of 6, fixed seed; 5 standard errors on 4 statistics of 4 layers: p < 1e-5.
    phi = activations.leaky_relu(0.2) if name == "leaky_relu" else activation(name)
    values = {
        "tanh": (np.tanh, lambda x: 1.0 / np.cosh(x) ** 2),
        "selu": (
            lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
            lambda x: 1.0507009873554805 * np.where(x > 0, 1.0, 1.6732632423543772 * np.exp(x)),
        ),
        "gelu": (None, None),
        "leaky_relu": (
            lambda x: np.where(x > 0, x, 0.2 * x), lambda x: np.where(x > 0, 1.0, 0.2)
        ),
    }  # fmt: skip
    if name == "gelu":
        from scipy.special import ndtr

        density = lambda x: np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)  # noqa: E731
        f, df = (lambda x: x * ndtr(x)), (lambda x: ndtr(x) + x * density(x))
    else:
        f, df = values[name]
    rng, size, gap, q = np.random.default_rng(3), 6, 0.35, 1.7
    g = rng.standard_normal((2, 200_000, size))
    h = math.sqrt(q) * np.stack((g[0], (1 - gap) * g[0] + math.sqrt(gap * (2 - gap)) * g[1]))
    d = h - h.mean(axis=-1, keepdims=True) if centered else h
    radius = np.sqrt((d**2).sum(axis=-1, keepdims=True) / (size - ddof))
    u = d / radius
    x = f(u)
    project = np.eye(size) - (1.0 / size if centered else 0.0)
    # Row of the Jacobian at channel 0.
    row = df(u[..., :1]) * (project[0] - u[..., :1] * u / (size - ddof)) / radius
    pool = {"group_size": size, "centered": centered, "ddof": ddof}
    second, mean, _ = group_moments(phi, **pool)
    post_gap, _ = group_gap(phi, gap, **pool)
    slope, _ = group_slope(phi, gap, **pool)
    own, _ = group_slope(phi, 0.0, **pool)
    for sample, truth in (
        ((x[0] ** 2).mean(axis=-1), second),
        (x[0].mean(axis=-1), mean),
        ((x[0] * x[1]).mean(axis=-1), second * (1.0 - post_gap)),
        (q * (row[0] * row[1]).sum(axis=-1), slope),
        (q * (row[0] ** 2).sum(axis=-1), own),
    ):
        assert abs(sample.mean() - truth) < 5.0 * sample.std() / math.sqrt(len(sample)) + 1e-12


@pytest.mark.parametrize("pool", [
    {"group_size": 1, "centered": True},
    {"group_size": math.inf, "centered": True},
    {"group_size": 4, "centered": True, "ddof": 2},
    {"group_size": 4, "centered": False, "ddof": 1},
])  # fmt: skip
def test_outside_the_domain(pool):
    with pytest.raises(SpecificationError, match="must be"):
        group_gap(relu, 0.5, **pool)


def test_errors_of_slopes_include_those_of_the_dual():
    dual = groupnorm._dual(activations.tanh, 6, True, 0)
    _, error = group_slope(activations.tanh, [1e-3, 0.3, 1.5], group_size=6, centered=True)
    assert dual.gap_error > 0.0
    assert (error >= dual.gap_error + dual.moment_error).all()


@pytest.mark.parametrize("activation", [th.relu, th.leaky_relu(0.3), th.abs, th.tanh])
@pytest.mark.parametrize("group_size", [2, 3, 4, 8, 64])
def test_tables_are_the_integral_to_rounding(activation: th.Activation, group_size: int) -> None:
    table = GapTable(activation.base, group_size, True, 0)
    rng = np.random.default_rng(0)
    gaps = np.concatenate((2.0 * rng.random(30), 10.0 ** (-200.0 * rng.random(30)), [0.0, 2.0]))
    exact, stated = group_gap(activation, gaps, group_size=group_size, centered=True)
    for gap, value, error in zip(gaps.tolist(), exact, stated, strict=True):
        found, own = table(gap)
        assert abs(found - value) <= (own + error) * value
        assert own < 1e-13
