"""GroupNorm with eps: limits, one-channel pools by nested mpmath, chi-square integrals, simulation."""

import itertools
import math

import mpmath as mp
import numpy as np
import pytest

from theory.errors import HypothesisError
from theory.routes.laplace_pairs import group_eps_gap, group_eps_moments, group_eps_slope

RELU, LEAKY, IDENTITY, ABS = (1.0, 0.0), (1.0, -0.2), (1.0, -1.0), (1.0, 1.0)


def _options(group_size, eps, *, centered=True, ddof=0, slopes=RELU):
    return {
        "group_size": group_size,
        "centered": centered,
        "ddof": ddof,
        "eps": eps,
        "slopes": slopes,
    }


def test_reference_map_at_eps_zero():
    known = {
        (3, 0.5): 0.6208162126354370245,
        (3, 0.9): 0.8716722938834704562,
        (4, 0.0): 0.375,
        (4, 0.5): 0.61209988370204262446,
        (8, 0.0): 0.341796875,
        (8, 0.9): 0.89955193591436624444,
        (32, 0.5): 0.60838981234781868083,
        (32, 0.9): 0.90752634495302375201,
    }
    for (group_size, c), similarity in known.items():
        gap, error = group_eps_gap(1.0, 1.0, 1.0 - c, **_options(group_size, 0.0))
        assert 1.0 - gap == pytest.approx(similarity, rel=1e-14)
        assert error < 1e-12


@pytest.mark.parametrize("group_size", [3, 4, 5, 8, 64, 512])
@pytest.mark.parametrize("gap", [1e-16, 1e-12, 0.1, 1.0, 1.9])
def test_small_eps_is_the_pearson_route(group_size, gap):
    from theory.routes import groupnorm
    from theory.specs.activations import leaky_relu

    options = {"group_size": group_size, "centered": True, "ddof": 0}
    exact, exact_error = groupnorm.group_gap(leaky_relu(0.2), gap, **options)
    value, error = group_eps_gap(1.0, 1.0, gap, **_options(group_size, 0.0, slopes=LEAKY))
    assert value == pytest.approx(exact, rel=10 * (error + float(np.max(exact_error))) + 1e-13)
    slope, slope_error = groupnorm.group_slope(leaky_relu(0.2), gap, **options)
    value, error = group_eps_slope(2.0, 2.0, gap, **_options(group_size, 0.0, slopes=LEAKY))
    bound = 10 * (error + float(np.max(slope_error))) + 1e-13
    assert 2.0 * value == pytest.approx(slope, rel=bound, abs=bound)
    # The tail of three channels, which reaches to 1/gap, must not see eps.
    near, _ = group_eps_gap(1.0, 1.0, gap, **_options(group_size, 1e-7 * gap, slopes=LEAKY))
    assert near == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("group_size", [4, 5, 8, 16, 4096])
def test_slope_at_equal_samples_is_g_minus_2_over_g_minus_3(group_size):
    slope, error = group_eps_slope(2.0, 2.0, 0.0, **_options(group_size, 0.0))
    exact = 0.5 * (group_size - 2.0) / (group_size - 3.0) / 2.0
    assert slope == pytest.approx(exact, rel=1e-13)
    assert error < 1e-12


def test_heavy_tails():
    assert math.isinf(group_eps_slope(1.0, 1.0, 0.0, **_options(3, 0.0))[0])
    assert group_eps_slope(1.0, 1.0, 0.0, **_options(2, 0.0))[0] == 0.0
    small = [float(group_eps_slope(1.0, 1.0, 0.0, **_options(2, e))[0]) for e in (1e-10, 1e-12)]
    assert small[1] / small[0] == pytest.approx(10.0, rel=1e-3)
    with pytest.raises(HypothesisError, match="group_size"):
        group_eps_moments(1.0, **_options(1, 0.1))


CASES = list(
    itertools.product(
        [0.05, 1.0, 30.0], [(1.0, 1.0), (0.3, 2.0)], [1e-3, 0.5, 1.3, 1.999], [RELU, LEAKY]
    )
)


@pytest.mark.parametrize(("eps", "q", "gap", "slopes"), CASES)
def test_one_channel_against_polar_coordinates(eps, q, gap, slopes):
    """G = 1 uncentered, N(h) = h/sqrt(h^2 + eps): 48 hard cases, relative error of the gap."""
    _check_one_channel(eps, q, gap, slopes)


def test_a_thousand_random_channels():
    """True error <= 10 x stated + 1e-13 (of the cross moment)."""
    rng = np.random.default_rng(6)
    for _ in range(1000):
        q = tuple(10.0 ** rng.uniform(-1, 1, 2))
        _check_one_channel(
            float(10.0 ** rng.uniform(-2, 1)),
            q,
            float(rng.uniform(0, 2)),
            (1.0, rng.uniform(-1, 1)),
        )


def _check_one_channel(eps, q, gap, slopes):
    options = _options(1, eps, centered=False, slopes=slopes)
    second, _, moment_error = group_eps_moments(np.array(q), **options)
    value, error = group_eps_gap(*q, gap, **options)
    ours = math.sqrt(second[0] * second[1]) * (1.0 - value)
    exact = _polar(eps, q, gap, slopes)
    bound = 10.0 * (moment_error + error) + 1e-13
    assert abs(ours - exact) <= bound * math.sqrt(second[0] * second[1])


def _polar(eps, q, gap, slopes):
    """E[phi(x/sqrt(x^2+eps)) phi(y/sqrt(y^2+eps))] by Gauss panels in the angle, trapezoid in log r."""
    c, sine = 1.0 - gap, math.sqrt(gap * (2.0 - gap))
    edges = sorted({0.0, math.pi / 2, math.pi, math.atan2(-c, sine) % math.pi})
    points, weights = np.polynomial.legendre.leggauss(20)
    total = 0.0
    t = np.arange(-14.0, 2.6, 0.12)
    r2 = np.exp(2.0 * t)
    radial_weight = 0.12 * r2 * r2 * np.exp(-0.5 * r2)
    for low, high in itertools.pairwise(edges):
        cuts = np.linspace(low, high, 25)
        half, middle = 0.5 * np.diff(cuts)[:, None], 0.5 * (cuts[1:] + cuts[:-1])[:, None]
        angle = (middle + half * points).ravel()
        x = math.sqrt(q[0]) * np.cos(angle)
        y = math.sqrt(q[1]) * (c * np.cos(angle) + sine * np.sin(angle))
        both = _ray(x, slopes) * _ray(y, slopes) + _ray(-x, slopes) * _ray(-y, slopes)
        size = (r2 * x[:, None] ** 2 + eps) * (r2 * y[:, None] ** 2 + eps)
        radial = (radial_weight / np.sqrt(size)).sum(axis=1)
        total += float((half * weights).ravel() @ (both * radial))
    return total / (2.0 * math.pi)


def _ray(x, slopes):
    return slopes[0] * np.maximum(x, 0.0) + slopes[1] * np.maximum(-x, 0.0)


def test_parallel_samples_against_chi_square_integrals():
    """gap = 0: x = sqrt(X/(X + 2 eps_1)), X ~ chi^2_n; 1,000 random cases, 30 of them in mpmath."""
    rng = np.random.default_rng(0)
    nodes = np.exp(np.linspace(-60.0, 7.0, 3001))
    for case in range(1000):
        group_size = int(rng.integers(2, 40))
        rank = group_size - 1
        eps, q1, q2 = (float(10.0 ** rng.uniform(-3, 1)) for _ in range(3))
        log_weight = 0.5 * rank * np.log(nodes) - 0.5 * nodes
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        x, y = (nodes / (nodes + group_size * eps / q) for q in (q1, q2))
        mean = float(weight @ np.sqrt(x * y))
        exact = 1.0 - mean / math.sqrt(float(weight @ x) * float(weight @ y))
        options = _options(group_size, eps, slopes=LEAKY)
        value, error = group_eps_gap(q1, q2, 0.0, **options)
        assert abs(value - exact) <= (10.0 * error + 1e-13) * exact + 1e-14, case
        second, first, moment_error = group_eps_moments(q1, **options)
        bound = 10.0 * moment_error + 2e-13
        assert second == pytest.approx(0.52 * float(weight @ x), rel=bound)
        if case < 30:
            _check_in_mpmath(group_size, eps, q1, q2, float(value), float(second), float(first))


def _check_in_mpmath(group_size, eps, q1, q2, gap, second, first):
    with mp.workdps(25):
        rank = group_size - 1
        e1, e2 = (mp.mpf(group_size) * eps / q for q in (q1, q2))

        def mean(f):
            def inside(t):
                x = mp.exp(t)
                return mp.exp(t * rank / 2 - x / 2) * f(x)

            # Trapezoidal rule in log X: exponentially convergent.
            return mp.fsum(inside(mp.mpf(k) / 12) for k in range(-1500, 90))

        norm = mean(lambda x: 1)
        one, two = mean(lambda x: x / (x + e1)), mean(lambda x: x / (x + e2))
        cross = mean(lambda x: x / mp.sqrt((x + e1) * (x + e2)))
        exact = 1 - cross / mp.sqrt(one * two)
        assert abs(gap - exact) <= 2e-13 * exact
        assert abs(second / (mp.mpf("0.52") * one / norm) - 1) < 1e-12
        # E[x] = (a+b)/sqrt(2 pi) E[sqrt(X/(X + e))]/E[chi_n] sqrt(n) scaled to the coordinate.
        chi = mp.sqrt(2) * mp.gammaprod([mp.mpf(rank + 1) / 2], [mp.mpf(rank) / 2])
        root = mean(lambda x: mp.sqrt(x / (x + e1))) / norm
        exact = mp.mpf("0.8") / mp.sqrt(2 * mp.pi) * mp.sqrt(rank) / chi * root
        assert abs(first / exact - 1) < 1e-12


@pytest.mark.parametrize("slopes", [RELU, LEAKY, ABS, IDENTITY])
@pytest.mark.parametrize(
    ("group_size", "eps", "q1", "q2", "gap"),
    [
        (8, 0.1, 1.0, 1.0, 0.3),
        (8, 1e-3, 1.0, 2.0, 0.3),
        (3, 0.1, 0.5, 2.0, 0.01),
        (2, 0.1, 0.5, 2.0, 1.7),
        (5, 1.0, 0.5, 3.0, 1.2),
        (200, 1e-5, 1.0, 1.1, 0.05),
    ],
)
def test_slope_is_the_derivative_of_the_cross_covariance(group_size, eps, q1, q2, gap, slopes):
    options = _options(group_size, eps, ddof=1, slopes=slopes)
    second, _, _ = group_eps_moments(np.array([q1, q2]), **options)
    level = math.sqrt(second[0] * second[1])

    def cross(at):
        return level * (1.0 - float(group_eps_gap(q1, q2, at, **options)[0]))

    h = 2e-3 * gap
    weights = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}
    slope = -sum(w * (cross(gap + k * h) - cross(gap - k * h)) for k, w in weights.items()) / h
    value, _ = group_eps_slope(q1, q2, gap, **options)
    assert value == pytest.approx(slope / math.sqrt(q1 * q2), rel=2e-9, abs=1e-10 / q1)


def test_gap_keeps_relative_precision():
    for group_size in (4, 8, 64):
        slopes = [
            float(group_eps_gap(1.0, 1.0, gap, **_options(group_size, 0.1))[0]) / gap
            for gap in (1e-13, 1e-15)
        ]
        assert slopes[1] == pytest.approx(slopes[0], rel=1e-6)
        # 1 - c' = chi(1) u to first order.
        second, _, _ = group_eps_moments(1.0, **_options(group_size, 0.1))
        slope, _ = group_eps_slope(1.0, 1.0, 0.0, **_options(group_size, 0.1))
        assert slopes[1] == pytest.approx(float(slope / second), rel=1e-6)


@pytest.mark.parametrize(
    ("group_size", "eps", "q1", "q2", "gap", "centered", "ddof"),
    [
        (8, 0.1, 1.0, 1.0, 0.3, True, 0),
        (4, 0.5, 1.0, 3.0, 0.3, True, 1),
        (3, 0.1, 0.2, 0.3, 0.5, False, 0),
    ],
)
def test_agrees_with_simulation(group_size, eps, q1, q2, gap, centered, ddof):
    """200,000 groups, 3 |z| below 5: false alarm below 2e-6 each."""
    rng = np.random.default_rng(group_size)
    first, second = rng.standard_normal((2, 200_000, group_size))
    pair = (
        math.sqrt(q1) * first,
        math.sqrt(q2) * ((1.0 - gap) * first + math.sqrt(gap * (2.0 - gap)) * second),
    )
    x, y = (_normalized(h, eps, centered, ddof) for h in pair)
    options = _options(group_size, eps, centered=centered, ddof=ddof, slopes=LEAKY)
    moments, mean, _ = group_eps_moments(np.array([q1, q2]), **options)
    value, _ = group_eps_gap(q1, q2, gap, **options)
    _close((x * x).mean(axis=1), moments[0])
    _close(y.mean(axis=1), mean[1])
    _close((x * y).mean(axis=1), math.sqrt(moments[0] * moments[1]) * (1.0 - float(value)))


def _normalized(h, eps, centered, ddof):
    if centered:
        h = h - h.mean(axis=1, keepdims=True)
    x = h / np.sqrt((h**2).sum(axis=1, keepdims=True) / (h.shape[1] - ddof) + eps)
    return np.where(x > 0.0, x, 0.2 * x)


def _close(draws, theory, limit=5.0):
    assert abs(draws.mean() - theory) < limit * draws.std() / math.sqrt(draws.size)


def test_arrays_are_taken_elementwise():
    q = np.array([[1.0, 2.0], [2.0, 1.0]])
    gap = np.array([[0.0, 0.3], [0.3, 0.0]])
    value, _ = group_eps_gap(q, 1.5, gap, **_options(8, 0.1))
    assert value.shape == (2, 2)
    assert value[0, 1] == group_eps_gap(2.0, 1.5, 0.3, **_options(8, 0.1))[0]
    assert group_eps_slope(q, q, gap, **_options(8, 0.1))[0].shape == (2, 2)
    assert group_eps_moments(q, **_options(8, 0.1))[0].shape == (2, 2)


@pytest.mark.parametrize("q", [1e-160, 1e-200, 1e-290])
def test_tiny_second_moments(q):
    """eps dominates: N(h) = h/sqrt(eps), and the gap and slope are those of relu alone."""
    gap, _ = group_eps_gap(q, q, 0.5, **_options(4, 1e-5))
    larger, _ = group_eps_gap(1e-60, 1e-60, 0.5, **_options(4, 1e-5))
    assert gap == pytest.approx(larger, rel=1e-13)
    slope, _ = group_eps_slope(q, q, 0.5, **_options(4, 1e-5))
    larger, _ = group_eps_slope(1e-60, 1e-60, 0.5, **_options(4, 1e-5))
    assert slope == pytest.approx(larger, rel=1e-13)


@pytest.mark.parametrize("group_size", [2, 3, 4, 8])
def test_opposite_samples(group_size):
    """c = -1: relu's outputs are orthogonal, those of |x| equal."""
    gap, _ = group_eps_gap(1.0, 1.0, 2.0, **_options(group_size, 1e-5))
    assert gap == pytest.approx(1.0, rel=1e-13)
    gap, error = group_eps_gap(1.0, 1.0, 2.0, **_options(group_size, 1e-5, slopes=(1.0, 1.0)))
    assert abs(gap) < 1e-13
    assert error < 1e-10
