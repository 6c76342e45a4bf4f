"""Spherical duals against mpmath and against exact special cases.

Oracles: one-dimensional integrals (one coordinate; independent and opposite vectors; the circle n = 2),
closed kernels of the identity and of relu, Bessel functions for sin, and the Gegenbauer expansion.
"""

import math

import mpmath as mp
import numpy as np
import pytest
from scipy import special

from theory.errors import SpecificationError
from theory.routes import arccosine
from theory.routes.functions import base_function
from theory.routes.spherical import sphere_gap_function, sphere_moments, sphere_pair
from theory.specs import activations

SMOOTH = ("tanh", "erf", "gelu", "silu", "softplus", "sin")
CURVED = (*SMOOTH, "elu", "selu")
THETA = np.array([1e-6, 0.01, 0.3, 1.0, 1.7, 2.5, 3.1, math.pi])
W = 2.0 * np.sin(0.5 * THETA) ** 2

SELU_SCALE = mp.mpf("1.0507009873554804934193349852946")
SELU_ALPHA = mp.mpf("1.6732632423543772848170429916717")
PHI = {
    "tanh": mp.tanh,
    "erf": mp.erf,
    "gelu": lambda x: x * mp.ncdf(x),
    "silu": lambda x: x / (1 + mp.exp(-x)),
    "softplus": lambda x: mp.log1p(mp.exp(x)),
    "sin": mp.sin,
    "elu": lambda x: x if x > 0 else mp.expm1(x),
    "selu": lambda x: SELU_SCALE * (x if x > 0 else SELU_ALPHA * mp.expm1(x)),
}
SLOPE = {
    "tanh": lambda x: mp.sech(x) ** 2,
    "erf": lambda x: 2 / mp.sqrt(mp.pi) * mp.exp(-x * x),
    "gelu": lambda x: mp.ncdf(x) + x * mp.npdf(x),
    "silu": lambda x: (1 + mp.exp(-x) + x * mp.exp(-x)) / (1 + mp.exp(-x)) ** 2,
    "softplus": lambda x: 1 / (1 + mp.exp(-x)),
    "sin": mp.cos,
    "elu": lambda x: mp.mpf(1) if x > 0 else mp.exp(x),
    "selu": lambda x: SELU_SCALE * (1 if x > 0 else SELU_ALPHA * mp.exp(x)),
}


def activation(name):
    return getattr(activations, name)


def one_coordinate(f, rank, radius):
    """E f(radius x) by mpmath, x = sin(delta)."""
    if rank == 1:
        return (f(mp.mpf(radius)) + f(-mp.mpf(radius))) / 2
    reach = min(mp.pi / 2, 12 / mp.sqrt(rank))
    # The density is even and phi may have a kink at 0; panels because both may be steep.
    cuts = [reach * k / 6 for k in range(7)]
    density = lambda d: mp.cos(d) ** (rank - 2)  # noqa: E731
    both = lambda d: density(d) * (f(radius * mp.sin(d)) + f(-radius * mp.sin(d)))  # noqa: E731
    return mp.quad(both, cuts) / mp.quad(density, cuts) / 2


def honest(value, error, truth, scale, tolerance=1e-12):
    defect = abs(float(mp.mpf(float(value)) - truth)) / float(scale)
    assert defect <= 10.0 * float(error) + 1e-13
    assert defect <= tolerance
    assert float(error) <= tolerance


@pytest.mark.parametrize("name", CURVED)
@pytest.mark.parametrize("rank", [1, 2, 3, 7, 60, 4095])
def test_moments(name, rank):
    radius = math.sqrt(rank) * (0.9 if rank < 10 else 1.0)
    phi, slope = PHI[name], SLOPE[name]
    with mp.workdps(20):
        second = one_coordinate(lambda u: phi(u) ** 2, rank, radius)
        mean = one_coordinate(phi, rank, radius)
        slope2 = one_coordinate(lambda u: slope(u) ** 2, rank, radius)
        slope2_x2 = one_coordinate(lambda u: (slope(u) * u / radius) ** 2, rank, radius)
    found = sphere_moments(activation(name), rank=rank, radius=radius)
    honest(found.second_moment, found.error, second, second)
    honest(found.mean, found.error, mean, mp.sqrt(second))
    honest(found.slope2, found.error, slope2, slope2)
    honest(found.slope2_x2, found.error, slope2_x2, slope2_x2)


@pytest.mark.parametrize("rank", [2, 3, 7, 200, 4095])
def test_gap_function_of_homogeneous_activations(rank):
    for phi in (activations.identity, activations.relu, activations.leaky_relu(0.3)):
        found = sphere_gap_function(phi, rank=rank, radius=math.sqrt(rank))
        slopes = phi.ray_slopes
        assert found(W, THETA) == pytest.approx(arccosine.ray_gap(W, slopes=slopes), rel=3e-14)
        truth = arccosine.ray_slope(W, slopes=slopes) * 2.0 / (slopes[0] ** 2 + slopes[1] ** 2)
        assert found.derivative(W, THETA) == pytest.approx(truth, abs=3e-14)


def sin_kernel(rank, radius, w):
    """E[sin u sin v] = [f(R sqrt(2w)) - f(R sqrt(4-2w))]/2, f(t) = E cos(t x), a Bessel function."""
    order = mp.mpf(rank) / 2 - 1

    def f(t):
        return mp.gamma(order + 1) * (2 / t) ** order * mp.besselj(order, t) if t else mp.mpf(1)

    w = mp.mpf(w)
    return (f(radius * mp.sqrt(2 * w)) - f(radius * mp.sqrt(4 - 2 * w))) / 2


@pytest.mark.parametrize("rank", [2, 3, 5, 8, 33, 511, 4095])
@pytest.mark.parametrize("size", [0.5, 1.0])
def test_gap_function_of_sin(rank, size):
    radius = size * math.sqrt(rank)
    found = sphere_gap_function(activations.sin, rank=rank, radius=radius)
    with mp.workdps(40):
        for w, theta in zip(W[:-1], THETA[:-1], strict=True):
            same = sin_kernel(rank, mp.mpf(radius), 0)
            truth = 1 - sin_kernel(rank, mp.mpf(radius), w) / same
            value = found(np.array([w]), np.array([theta]))[0]
            honest(value, found.error, truth, truth)


@pytest.mark.parametrize("name", CURVED)
@pytest.mark.parametrize("theta", [0.05, 1.1, 2.9])
def test_circle(name, theta):
    # n = 2: psi uniform, x = cos psi, y = cos(psi - theta).
    radius, phi, slope = 1.3, PHI[name], SLOPE[name]
    w = 2.0 * math.sin(0.5 * theta) ** 2
    kinks = [mp.pi / 2, 3 * mp.pi / 2, mp.pi / 2 + theta, 3 * mp.pi / 2 + theta]
    with mp.workdps(18):
        cuts = [*sorted(kinks), mp.pi / 2 + 2 * mp.pi]

        def circle(f):
            integrand = lambda psi: f(radius * mp.cos(psi), radius * mp.cos(psi - theta))  # noqa: E731
            return mp.quad(integrand, cuts) / (2 * mp.pi)

        second = circle(lambda u, v: phi(u) ** 2)
        gap = circle(lambda u, v: (phi(u) - phi(v)) ** 2) / 2 / second
        slopes = circle(lambda u, v: slope(u) * slope(v))
        slopes_xy = circle(lambda u, v: slope(u) * slope(v) * u * v) / radius**2
    found = sphere_gap_function(activation(name), rank=2, radius=radius)
    honest(found(np.array([w]), np.array([theta]))[0], found.error, gap, gap)
    pair = sphere_pair(activation(name), rank=2, radius=radius, correlation=1.0 - w)
    one = sphere_moments(activation(name), rank=2, radius=radius)
    honest(pair.gap, pair.error, gap, gap, tolerance=1e-12)
    honest(pair.slope, pair.error, slopes, one.slope2)
    honest(pair.slope_xy, pair.error, slopes_xy, one.slope2_x2)


@pytest.mark.parametrize("name", ["tanh", "selu", "softplus"])
def test_nested_quadrature_in_five_dimensions(name):
    # rho^2 has density (n-2)/2 (1-t)^((n-4)/2): n = 5, straight from the theory notes.
    rank, radius, theta = 5, 2.1, 0.9
    phi, slope = PHI[name], SLOPE[name]
    kinks = [mp.pi / 2, 3 * mp.pi / 2, mp.pi / 2 + theta, 3 * mp.pi / 2 + theta]
    with mp.workdps(15):
        cuts = [*sorted(kinks), mp.pi / 2 + 2 * mp.pi]

        def plane(f):
            def inner(rho):
                def point(psi):
                    return f(radius * rho * mp.cos(psi), radius * rho * mp.cos(psi - theta))

                return mp.quad(point, cuts, method="gauss-legendre", maxdegree=4)

            density = lambda s: (rank - 2) * mp.sin(s) * mp.cos(s) ** (rank - 3)  # noqa: E731
            outer = lambda s: density(s) * inner(mp.sin(s))  # noqa: E731
            whole = [0, mp.pi / 2]
            return mp.quad(outer, whole, method="gauss-legendre", maxdegree=4) / (2 * mp.pi)

        second = one_coordinate(lambda u: phi(u) ** 2, rank, radius)
        gap = plane(lambda u, v: (phi(u) - phi(v)) ** 2) / 2 / second
        slopes = plane(lambda u, v: slope(u) * slope(v))
        slopes_xy = plane(lambda u, v: slope(u) * slope(v) * u * v) / radius**2
    pair = sphere_pair(activation(name), rank=rank, radius=radius, correlation=math.cos(theta))
    one = sphere_moments(activation(name), rank=rank, radius=radius)
    honest(pair.gap, pair.error, gap, gap, tolerance=1e-11)
    honest(pair.slope, pair.error, slopes, one.slope2, tolerance=1e-11)
    honest(pair.slope_xy, pair.error, slopes_xy, one.slope2_x2, tolerance=1e-11)


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("rank", [3, 8, 31])
def test_gegenbauer_expansion(name, rank):
    # K(r) = sum a_k^2 lambda/(k+lambda) C_k(r), phi(radius x) = sum a_k C_k(x), lambda = n/2 - 1.
    radius, lam, size = math.sqrt(rank), 0.5 * rank - 1.0, 60
    x, weight = special.roots_jacobi(200, lam - 0.5, lam - 0.5)
    weight = weight / weight.sum()
    phi = base_function(activation(name)).value(radius * x)
    k = np.arange(size)
    basis = special.eval_gegenbauer(k[:, None], lam, x)
    norms = (basis**2) @ weight
    a = (basis * phi) @ weight / norms
    r = np.cos(THETA)
    ratio = lam / (k + lam) * a**2
    kernel = ratio @ special.eval_gegenbauer(k[:, None], lam, r)
    same = ratio @ special.eval_gegenbauer(k, lam, 1.0)
    found = sphere_gap_function(activation(name), rank=rank, radius=radius)
    assert found(W, THETA) == pytest.approx(1.0 - kernel / same, abs=3e-13)


@pytest.mark.parametrize("name", CURVED)
def test_exact_angles_of_random_spheres(name):
    # Opposite vectors have v = -u; in n = 2 (3, ...) orthogonal ones are not independent, c = -1 is.
    rng = np.random.default_rng(7)
    phi = PHI[name]
    for _ in range(8):
        rank = int(2 + rng.integers(0, 2) * rng.integers(0, 3000) + rng.integers(0, 8))
        radius = float(math.sqrt(rank) * rng.uniform(0.6, 1.0))
        with mp.workdps(20):
            second = one_coordinate(lambda u: phi(u) ** 2, rank, radius)
            truth = one_coordinate(lambda u: (phi(u) - phi(-u)) ** 2, rank, radius) / 2 / second
        found = sphere_gap_function(activation(name), rank=rank, radius=radius)
        honest(found(W[-1:], THETA[-1:])[0], found.error, truth, truth)
        pair = sphere_pair(activation(name), rank=rank, radius=radius, correlation=-1.0)
        honest(pair.gap, pair.error, truth, truth)


@pytest.mark.parametrize("name", CURVED)
def test_rank_one(name):
    phi, radius = PHI[name], 0.8
    with mp.workdps(20):
        right, left = phi(mp.mpf(radius)), phi(-mp.mpf(radius))
        truth = (right - left) ** 2 / (right**2 + left**2)
        slopes = SLOPE[name](mp.mpf(radius)) * SLOPE[name](-mp.mpf(radius))
    pair = sphere_pair(activation(name), rank=1, radius=radius, correlation=-1.0)
    honest(pair.gap, pair.error, truth, truth)
    honest(pair.slope, pair.error, slopes, 1)
    honest(pair.slope_xy, pair.error, -slopes, 1)
    found = sphere_gap_function(activation(name), rank=1, radius=radius)
    assert found(np.array([0.0, 2.0]), np.array([0.0, math.pi])) == pytest.approx(
        [0.0, float(truth)]
    )
    same = sphere_pair(activation(name), rank=1, radius=radius, correlation=1.0)
    assert same.gap == 0.0
    assert same.slope == same.slope_xy > 0.0
    with mp.workdps(20):
        squares = [SLOPE[name](sign * mp.mpf(radius)) ** 2 for sign in (1, -1)]
    honest(same.slope, same.error, (squares[0] + squares[1]) / 2, 1)


def test_equal_vectors():
    one = sphere_moments(activations.gelu, rank=9, radius=3.0)
    pair = sphere_pair(activations.gelu, rank=9, radius=3.0, correlation=1.0)
    assert pair.gap == 0.0
    assert pair.slope == pytest.approx(one.slope2, rel=1e-14)
    assert pair.slope_xy == pytest.approx(one.slope2_x2, rel=1e-14)


def test_output_map_is_left_out():
    affine = activations.tanh.affine(scale=3.0, shift=1.0)
    assert sphere_moments(affine, rank=5, radius=2.0) == sphere_moments(
        activations.tanh, rank=5, radius=2.0
    )


@pytest.mark.parametrize("call", [
    lambda: sphere_moments(activations.tanh, rank=0, radius=1.0),
    lambda: sphere_moments(activations.tanh, rank=3, radius=math.nan),
    lambda: sphere_pair(activations.tanh, rank=3, radius=1.0, correlation=1.5),
    lambda: sphere_pair(activations.tanh, rank=1, radius=1.0, correlation=0.5),
])  # fmt: skip
def test_outside_the_domain(call):
    with pytest.raises(SpecificationError, match="must be"):
        call()
