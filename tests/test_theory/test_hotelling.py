"""Hotelling expectations against closed forms and against mpmath on the textbook density.

Exact moments of the sample correlation of n-dimensional pairs (mpmath, 40 digits):

    E[r]       = c (2/n) [Gamma((n+1)/2)/Gamma(n/2)]^2 2F1(1/2, 1/2; n/2+1; c^2),
    E[1 - r^2] = (n-1)/n (1-c^2) 2F1(1, 1; n/2+1; c^2).
"""

import math

import mpmath as mp
import numpy as np
import pytest
from mpmath.calculus.quadrature import GaussLegendre

from theory.errors import SpecificationError
from theory.routes import arccosine
from theory.routes.hotelling import expect, expect_slope

DIGITS = 40
RELU = (1.0, 0.0)
HARD_RANKS = (1, 2, 3, 4, 7, 15, 31, 255, 1023, 4095)
HARD_GAPS = (1e-12, 1e-8, 1e-3, 0.1, 1.0, 1.9, 2.0 - 1e-9)


def gap_itself(one_minus_r, theta):
    return one_minus_r


def unit_slope(one_minus_r, theta):
    return np.ones_like(one_minus_r)


def one_minus_square(one_minus_r, theta):
    return one_minus_r * (2.0 - one_minus_r)


def relu_gap(one_minus_r, theta):
    return arccosine.ray_gap(one_minus_r, slopes=RELU)


def relu_slope(one_minus_r, theta):
    return 2.0 * arccosine.ray_slope(one_minus_r, slopes=RELU)


def mean_one_minus_r(n, gap):
    c, half = 1 - mp.mpf(gap), mp.mpf(n) / 2
    ratio = mp.gamma(half + mp.mpf(1) / 2) / mp.gamma(half)
    return 1 - c * ratio**2 / half * mp.hyp2f1(0.5, 0.5, half + 1, c * c)


def mean_one_minus_r_slope(n, gap):
    c, half = 1 - mp.mpf(gap), mp.mpf(n) / 2
    ratio = mp.gamma(half + mp.mpf(1) / 2) / mp.gamma(half)
    f = mp.hyp2f1(0.5, 0.5, half + 1, c * c)
    slope = mp.hyp2f1(1.5, 1.5, half + 2, c * c) / (4 * (half + 1))
    return ratio**2 / half * (f + 2 * c * c * slope)


def mean_one_minus_square(n, gap):
    gap, n = mp.mpf(gap), mp.mpf(n)
    return (n - 1) / n * gap * (2 - gap) * mp.hyp2f1(1, 1, n / 2 + 1, (1 - gap) ** 2)


def relu_truth(n, gap, nodes):
    """(1 - E kappa_1(r), defect of the mass) from Hotelling's density as printed, r = tanh z."""
    gap, half = mp.mpf(gap), mp.mpf(1) / 2
    if n == 1:
        return mp.acos(1 - gap) / mp.pi, mp.mpf(0)
    zeta = mp.log((2 - gap) / gap) / 2
    constant = (n - 1) * mp.gamma(n) / (mp.sqrt(2 * mp.pi) * mp.gamma(n + half))
    constant *= (gap * (2 - gap)) ** (half * n)

    def integrand(z):
        w = 2 / (1 + mp.exp(2 * z))
        one_minus_square = w * 2 / (1 + mp.exp(-2 * z))
        one_minus_cr = gap + (1 - gap) * w
        density = constant * one_minus_square ** (half * (n - 3)) * one_minus_cr ** (half - n)
        density *= mp.hyp2f1(half, half, n + half, 1 - one_minus_cr / 2) * one_minus_square
        theta = 2 * mp.atan(mp.exp(-z))
        return density * (w - (mp.sin(theta) - theta * mp.cos(theta)) / mp.pi), density

    reach = 60 / mp.mpf(max(n - 2, 1)) + 14 / mp.sqrt(n) + (abs(zeta) if n == 2 else 0)
    panels = int(2 * reach / min(mp.mpf(2), 6 / mp.sqrt(n))) + 1
    value = mass = mp.mpf(0)
    width = reach / panels
    for i in range(panels):
        middle = zeta - reach + (2 * i + 1) * width
        for x, weight in nodes:
            both = integrand(middle + width * x)
            value, mass = value + weight * width * both[0], mass + weight * width * both[1]
    return value, mass - 1


@pytest.fixture(scope="module", autouse=True)
def _digits():
    with mp.workdps(DIGITS):
        yield


@pytest.fixture(scope="module")
def nodes():
    return GaussLegendre(mp.mp).calc_nodes(4, 120)


def honest(value, error, truth, scale=1e-13):
    defect = abs(float(mp.mpf(float(value)) / truth - 1))
    assert defect <= 10.0 * float(error) + 1e-13
    assert defect <= scale
    assert float(error) <= 1e-13


def random_cases(count, seed):
    rng = np.random.default_rng(seed)
    rank = np.concatenate((rng.integers(2, 9, count // 2), 2 + rng.integers(0, 4095, count // 2)))
    gap = np.where(
        rng.random(count) < 0.5, 10.0 ** rng.uniform(-15.0, 0.0, count), rng.uniform(0, 2, count)
    )
    gap = np.where(rng.random(count) < 0.15, 2.0 - 10.0 ** rng.uniform(-12, 0, count), gap)
    return zip(rank.tolist(), gap.tolist(), strict=True)


def test_first_moment_of_500_random_cases():
    for rank, gap in random_cases(500, seed=1):
        honest(*expect(gap_itself, gap, rank=rank), mean_one_minus_r(rank, gap))


def test_second_moment_of_300_random_cases():
    # Near r = -1 the test function itself, w (2 - w), loses digits: there the first moment tests.
    for rank, gap in random_cases(300, seed=2):
        if gap > 1.9:
            continue
        honest(*expect(one_minus_square, gap, rank=rank), mean_one_minus_square(rank, gap))


def test_slope_of_400_random_cases():
    for rank, gap in random_cases(400, seed=3):
        value, error = expect_slope(gap_itself, unit_slope, gap, rank=rank)
        honest(value, error, mean_one_minus_r_slope(rank, gap))


@pytest.mark.parametrize("rank", HARD_RANKS)
def test_relu_map_against_the_density(rank, nodes):
    for gap in HARD_GAPS:
        truth, mass = relu_truth(rank, gap, nodes)
        assert abs(mass) < 1e-16
        honest(*expect(relu_gap, gap, rank=rank), truth)


@pytest.mark.parametrize("rank", [2, 3, 7, 255, 4095])
def test_relu_slope_against_differences_of_the_density(rank, nodes):
    for gap in (1e-10, 0.2, 1.5):
        h = mp.mpf(gap) / 8192
        at = [relu_truth(rank, mp.mpf(gap) + k * h, nodes)[0] for k in (-2, -1, 1, 2)]
        truth = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * h)
        honest(*expect_slope(relu_gap, relu_slope, gap, rank=rank), truth)


@pytest.mark.parametrize("rank", [2, 3, 4, 7, 16, 255, 4095])
def test_independent_samples(rank):
    half = mp.mpf(rank) / 2
    truth = 1 - rank * mp.gamma(half) ** 2 / (2 * mp.pi * mp.gamma(half + mp.mpf(1) / 2) ** 2)
    if rank <= 7:
        table = {2: 4 / mp.pi**2, 3: mp.mpf(3) / 8, 7: mp.mpf(175) / 512}
        assert abs(1 - truth - table.get(rank, 1 - truth)) < 1e-30
    honest(*expect(relu_gap, 1.0, rank=rank), truth)


@pytest.mark.parametrize("rank", [2, 3, 4, 8, 64, 4095])
def test_ends_are_exact(rank):
    value, error = expect(relu_gap, [0.0, 2.0], rank=rank)
    assert value[0] == 0.0
    assert value[1] == pytest.approx(1.0, rel=1e-14)
    assert np.all(error < 1e-14)
    slope, _ = expect_slope(gap_itself, unit_slope, [0.0, 2.0], rank=rank)
    expected = math.inf if rank == 2 else (rank - 1.0) / (rank - 2.0)
    assert slope == pytest.approx([expected, expected], rel=1e-14)


def test_tiny_gaps_keep_their_digits():
    # 1 - E r = gap (n-1)/(n-2) + O(gap^2): the ratio is exact far below rounding of c.
    for rank in (3, 5, 30, 4000):
        value, _ = expect(gap_itself, [1e-40, 1e-200], rank=rank)
        truth = (rank - 1.0) / (rank - 2.0)
        tolerance = 1e-14 if rank > 3 else 1e-13
        assert value / np.array([1e-40, 1e-200]) == pytest.approx([truth] * 2, rel=tolerance)


def test_rank_two_near_the_end():
    # E kappa_0 slope of relu stays finite at c = -1, where that of the identity diverges.
    at, _ = expect_slope(relu_gap, relu_slope, 2.0, rank=2)
    near, _ = expect_slope(relu_gap, relu_slope, 2.0 - 1e-13, rank=2)
    assert at == pytest.approx(float(near), rel=1e-5)


def test_rank_one_has_atoms():
    gap = np.array([0.0, 1e-12, 0.3, 1.0, 2.0])
    value, _ = expect(relu_gap, gap, rank=1)
    assert value == pytest.approx(arccosine.angle(gap) / np.pi, rel=1e-15)
    slope, _ = expect_slope(relu_gap, relu_slope, gap, rank=1)
    assert slope[0] == math.inf
    assert slope[3] == pytest.approx(1.0 / np.pi, rel=1e-15)


def test_shapes_and_many_gaps():
    gap = np.linspace(0.0, 2.0, 5000).reshape(50, 100)
    value, error = expect(relu_gap, gap, rank=7)
    assert value.shape == error.shape == gap.shape
    assert np.all(np.diff(value.ravel()) > 0.0)
    one, _ = expect(relu_gap, gap[3, 4], rank=7)
    assert one.shape == ()
    assert one == pytest.approx(value[3, 4], rel=1e-14)


@pytest.mark.parametrize(("gap", "rank"), [(-1e-9, 5), (2.1, 5), (math.nan, 5), (0.5, 0)])
def test_outside_the_domain(gap, rank):
    with pytest.raises(SpecificationError, match="must be"):
        expect(relu_gap, gap, rank=rank)
