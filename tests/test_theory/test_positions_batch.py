"""Denominators shared by samples and positions: full matrices, mpmath, laws, closed forms, simulation."""

import math
import time

import numpy as np
import pool_oracles
import pytest
from rectangle_oracles import full, gaps_of, kinds, mp_oracle

from theory.errors import HypothesisError, NumericalError, SpecificationError
from theory.routes import laplace, laplace_backward, laplace_pools
from theory.routes.batchnorm import batch_moments, batch_pullback
from theory.routes.positions_batch import forward
from theory.routes.positions_batch_backward import pullback
from theory.routes.positions_batch_pools import two_pool_similarity
from theory.routes.rectangle import components_of_gaps, rectangle
from theory.specs.activations import relu
from theory.specs.normalizers import (
    Normalizer,
    Pool,
    batch_norm,
    instance_norm,
    mean_centering,
    variance_norm,
)

_POOL = Pool(samples=True, positions=True, channels=1)


def _rms(eps, *, centered=False):
    name = "P h/rms" if centered else "rms"
    return Normalizer(name=name, pool=_POOL, centered=centered, denominator="rms", eps=eps)


KINDS = [
    batch_norm(),
    batch_norm(eps=0.05, ddof=1),
    variance_norm(),
    variance_norm(eps=0.1, ddof=1),
    _rms(0.0),
    _rms(0.2),
    _rms(0.02, centered=True),
]
SIZES = [(1, 2), (1, 5), (2, 1), (4, 1), (2, 2), (2, 3), (3, 2), (2, 4), (3, 3), (4, 3)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_full_covariances(size):
    """Forward and backward of 28 random states; the other route's errors are stated, too."""
    batch, positions = size
    rng = np.random.default_rng(batch + 10 * positions)
    columns, exists = kinds(batch, positions)
    total = batch * positions
    for case in range(28):
        norm = KINDS[case % len(KINDS)]
        slopes, q = (1.0, float(rng.uniform(-1.0, 1.0))), float(rng.exponential() + 0.1)
        gaps = gaps_of(rng.exponential(size=4) ** 2, batch, positions)
        gradient = tuple(rng.standard_normal(4))
        shared = {"norm": norm, "slopes": slopes}
        matrix = full((0.0, *gaps), batch, positions)
        square, gap, mean, error = laplace.forward(np.full(total, q), matrix, **shared)
        exact = np.array([square[0], *gap[0, columns[1:]], mean[0]])
        value = forward(q, *gaps, batch=batch, positions=positions, **shared)
        known = np.append(exists, True)
        bound = 10.0 * (error + value[5]) + 1e-13
        assert np.array(value[:5])[known] == pytest.approx(exact[known], rel=bound), norm.name

        cotangent = full(np.where(exists, gradient, 0.0), batch, positions)
        exact, error = laplace_backward.pullback(np.full(total, q), matrix, cotangent, **shared)
        value, own = pullback(q, *gaps, gradient, batch=batch, positions=positions, **shared)
        bound = (10.0 * (error + own) + 1e-13) * np.abs(exact).max()
        entries = exact[0, columns]
        if np.isinf(entries).any():
            assert np.isinf(np.array(value)[exists]).all()
            continue
        assert np.array(value)[exists] == pytest.approx(entries[exists], abs=bound), norm.name
        assert not np.array(value)[~exists].any()


@pytest.mark.parametrize("batch", [2, 3, 6, 16, 1_000_000, math.inf])
@pytest.mark.parametrize(
    "norm", [batch_norm(), batch_norm(eps=0.1, ddof=1), variance_norm(eps=0.3), variance_norm()]
)
def test_one_position_is_the_exchangeable_batch(norm, batch):
    shared = {"batch": batch, "norm": norm, "slopes": (1.0, -0.2)}
    for gap in (1.0, 0.3, 1e-10):
        exact = laplace.exchangeable_forward(1.3, gap, **shared)
        value = forward(1.3, 0.5, gap, 0.7, positions=1, **shared)
        assert (value[0], value[2], value[4]) == pytest.approx(exact[:3], rel=1e-13)
        assert (value[1], value[3]) == (0.0, value[2])
        same, pair, _ = laplace_backward.exchangeable_pullback(1.3, gap, 1.0, 0.3, **shared)
        gradient, _ = pullback(1.3, 0.5, gap, 0.7, (1.0, 5.0, 0.3, 7.0), positions=1, **shared)
        bound = 1e-12 * abs(same) if math.isfinite(same) else 0.0
        assert gradient == pytest.approx((same, 0.0, pair, 0.0), abs=bound)


def test_samples_and_positions_play_the_same_part():
    rng = np.random.default_rng(1)
    for case in range(70):
        b, s = (int(n) for n in rng.integers(1, 7, size=2))
        w_b_x = gaps_of(rng.exponential(size=4) ** 2, b, s)
        shared = {"norm": KINDS[case % len(KINDS)], "slopes": (1.0, 0.3)}
        if b * s < 2:
            continue
        one = forward(1.0, *w_b_x, batch=b, positions=s, **shared)
        two = forward(1.0, w_b_x[1], w_b_x[0], w_b_x[2], batch=s, positions=b, **shared)
        turned = [two[0], two[2], two[1], two[3], two[4]]
        assert one[:5] == pytest.approx(turned, rel=1e-14)
        pi = rng.standard_normal(4)
        one, _ = pullback(1.0, *w_b_x, tuple(pi), batch=b, positions=s, **shared)
        back = (pi[0], pi[2], pi[1], pi[3])
        two, _ = pullback(1.0, w_b_x[1], w_b_x[0], w_b_x[2], back, batch=s, positions=b, **shared)
        size = max(abs(entry) for entry in one)
        turned = [two[0], two[2], two[1], two[3]]
        assert one == pytest.approx(turned, abs=1e-14 * size if math.isfinite(size) else 0.0)


@pytest.mark.parametrize("size", [(2, 2), (4, 4), (2, 32), (1000, 1000), (10**6, 10**6)], ids=str)
@pytest.mark.parametrize("ddof", [0, 1])
def test_equal_gaps_are_one_large_batch(size, ddof):
    batch, positions = size
    shared = {"batch": batch, "positions": positions, "slopes": (1.0, 0.0)}
    for gap in (1.0, 0.2, 1e-12):
        exact = batch_moments(relu, batch=batch * positions, ddof=ddof)
        value = forward(2.0, gap, gap, gap, norm=batch_norm(ddof=ddof), **shared)
        expected = [exact[0], *[exact[1]] * 3, exact[2]]
        assert value[:5] == pytest.approx(expected, rel=1e-14)
        exact = batch_pullback(
            relu, 1.0, 0.2, batch=batch * positions, ddof=ddof, second_moment=2.0, gap=gap
        )
        entries = (1.0, 0.2, 0.2, 0.2)
        value, _ = pullback(2.0, gap, gap, gap, entries, norm=batch_norm(ddof=ddof), **shared)
        expected = [exact[0], *[exact[1]] * 3]
        assert value == pytest.approx(expected, abs=1e-14 * abs(exact[0]))


def test_one_sample_is_instance_norm():
    """Theory notes, "With positions": w* = .28568417 and lambda = lambda_16 = 1.58995042."""
    shared = {"batch": 1, "positions": 16, "norm": batch_norm(), "slopes": (1.0, 0.0)}
    gap = forward(1.0, 0.4, 0.0, 0.0, **shared)[1]
    assert 1.0 - gap == pytest.approx(0.28568417, abs=5e-9)
    # Contrasts of positions, sigma_w^2 = 2, q = 1 after one layer.
    value, _ = pullback(1.0, gap, 0.0, 0.0, (2.0, -2.0 / 15, 0.0, 0.0), **shared)
    assert (value[0] - value[1]) / (1.0 + 1.0 / 15) == pytest.approx(1.58995042, abs=5e-9)
    assert value[2:] == (0.0, 0.0)


HARD = [
    ((2, 2), (1e-14, 0.5, 0.5), batch_norm(eps=1e-5)),
    ((2, 3), (0.5, 1e-14, 0.5), batch_norm()),
    ((4, 2), (1e-14, 0.5, 0.5), batch_norm()),
    ((3, 2), (1e-14, 3e-14, 3e-14), variance_norm(eps=1e-4)),
    ((2, 16), gaps_of((32.0, 1.0, 1e-3, 1e-6), 2, 16), batch_norm()),
    ((16, 2), gaps_of((1e-3, 1.0, 2.0, 1e-9), 16, 2), batch_norm(eps=0.3, ddof=1)),
    ((16, 16), (1e-7, 2e-7, 2.5e-7), variance_norm()),
    ((4, 5), gaps_of((20.0, 4.0, 1e-8, 1e-4), 4, 5), _rms(0.0)),
    ((2, 3), gaps_of((0.0, 1.0, 3.0, 0.5), 2, 3), _rms(1e-3)),
    ((1000, 3), (1e-14, 0.5, 0.5), _rms(1e-3, centered=True)),
    ((10**6, 10**6), (1e-7, 2e-7, 2.5e-7), variance_norm()),
    ((10**6, 3), gaps_of((1e6, 1e6, 1.0, 1.0), 10**6, 3), batch_norm(eps=1e-5)),
    ((10**6, 10**6), (0.3, 0.2, 0.4), batch_norm()),
]


@pytest.mark.parametrize("case", HARD, ids=lambda c: f"{c[2].name}-{c[0][0]}x{c[0][1]}")
def test_hard_states_against_mpmath(case):
    """*Relative* error of every gap; T relative to its largest entry."""
    (batch, positions), gaps, norm = case
    shared = {"batch": batch, "positions": positions, "norm": norm, "slopes": (1.0, -0.2)}
    gradient = (1.0, 0.5, 0.3 / batch, -0.2 / batch)
    exact = mp_oracle(1.3, gaps, gradient, **shared)
    value = forward(1.3, *gaps, **shared)
    assert value[:5] == pytest.approx(exact[:5], rel=10.0 * value[5] + 1e-13)
    value, error = pullback(1.3, *gaps, gradient, **shared)
    if norm.name != "VN" or norm.eps or batch * positions >= 6:
        size = max(abs(z) for z in exact[5:])
        assert value == pytest.approx(exact[5:], abs=size * (10.0 * error + 1e-13))


def test_a_mode_that_rounding_decides():
    """gap_x = gap_w + gap_b up to the last place: the mode "both" is taken as absent, and says so."""
    shared = {"batch": 2, "positions": 3, "norm": batch_norm(), "slopes": (1.0, 0.0)}
    gradient = (1.0, 0.2, 0.1, 0.0)
    at_end = 0.3 + 0.4
    inside = math.nextafter(math.nextafter(at_end, 0.0), 0.0)
    exact = mp_oracle(1.0, (0.3, 0.4, inside), gradient, **shared)
    value, error = pullback(1.0, 0.3, 0.4, inside, gradient, **shared)
    assert error < 1e-6
    size = max(abs(z) for z in exact[5:])
    assert value == pytest.approx(exact[5:], abs=size * (10.0 * error + 1e-13))
    # Rank 2 without it: infinite.
    small = {**shared, "positions": 2}
    assert pullback(1.0, 0.3, 0.4, inside, gradient, **small)[0][0] == math.inf
    assert math.isfinite(pullback(1.0, 0.3, 0.4, 0.6, gradient, **small)[0][0])


def test_structure_survives():
    """b = x stays b = x bit by bit; so does w = x."""
    for norm in (batch_norm(), variance_norm(eps=0.1), mean_centering()):
        value = forward(
            1.0, 1e-9, 0.37, 0.37, batch=100_000, positions=7, norm=norm, slopes=(1.0, 0.0)
        )
        assert value[2] == value[3]
        value = forward(1.0, 0.37, 1e-9, 0.37, batch=9, positions=7, norm=norm, slopes=(1.0, 0.0))
        assert value[1] == value[3]


@pytest.mark.parametrize(
    "norm",
    [batch_norm(), batch_norm(eps=0.1), variance_norm(), variance_norm(eps=0.3), _rms(0.1)],
)
def test_limits_of_large_batches(norm):
    """Corrections are O(1/B); b > x keeps R random at B = inf."""
    for gaps in ((0.3, 0.6, 0.6), (0.3, 0.6, 0.7), (0.3, 0.6, 0.9)):
        for gradient in ((1.0, 0.0, 0.0, 0.0), (1.0, 0.3, 0.2, 0.1), (0.0, 0.0, 1.0, -0.5)):
            shared = {"positions": 6, "norm": norm, "slopes": (1.0, -0.2)}
            limit = forward(1.3, *gaps, batch=math.inf, **shared)
            near = forward(1.3, *gaps, batch=10**7, **shared)
            assert near[:5] == pytest.approx(limit[:5], rel=1e-5)
            limit, _ = pullback(1.3, *gaps, gradient, batch=math.inf, **shared)
            near, _ = pullback(1.3, *gaps, gradient, batch=10**7, **shared)
            assert near == pytest.approx(limit, abs=1e-5 * max(abs(z) for z in limit))


def test_infinite_batch_with_b_equal_x_has_gaussian_duals():
    """R^2 = q gap_b + eps: BN is N(0, (q gap_b)/R^2), correlation (w - x)/(q - x) within a sample."""
    value = forward(
        2.0, 0.3, 0.6, 0.6, batch=math.inf, positions=5, norm=batch_norm(eps=0.4), slopes=(1.0, 0.0)
    )
    kappa = (math.sqrt(0.75) + 0.5 * (math.pi - math.acos(0.5))) / math.pi
    assert value[0] == pytest.approx(0.5 * 1.2 / 1.6, rel=1e-14)
    assert value[1] == pytest.approx(1.0 - kappa, rel=1e-13)
    assert value[2] == value[3] == pytest.approx(1.0 - 1.0 / math.pi, rel=1e-14)
    assert value[4] == pytest.approx(math.sqrt(1.2 / 1.6 / (2.0 * math.pi)), rel=1e-14)


@pytest.mark.parametrize("size", [(1, 4), (3, 1), (2, 3), (3, 3)], ids=str)
def test_mean_centering_is_the_gaussian_dual_of_the_projected_covariance(size):
    batch, positions = size
    columns, exists = kinds(batch, positions)
    gaps, gradient = gaps_of((1.0, 2.0, 3.0, 0.7), batch, positions), (1.0, 0.4, -0.3, 0.2)
    entries = np.where(exists, [1.3, *(1.3 * (1.0 - np.array(gaps)))], 0.0)
    project = np.eye(batch * positions) - 1.0 / (batch * positions)
    moved = project @ full(entries, batch, positions) @ project
    theta = np.arccos(np.clip(moved / moved[0, 0], -1.0, 1.0))
    np.fill_diagonal(theta, 0.0)
    dual = moved[0, 0] * (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / (2.0 * np.pi)
    shared = {
        "batch": batch,
        "positions": positions,
        "norm": mean_centering(),
        "slopes": (1.0, 0.0),
    }
    value = forward(1.3, *gaps, **shared)
    assert value[0] == pytest.approx(dual[0, 0], rel=1e-13)
    assert np.array(value[1:4])[exists[1:]] == pytest.approx(
        1.0 - dual[0, columns[1:][exists[1:]]] / dual[0, 0], rel=1e-12
    )
    assert value[4] == pytest.approx(math.sqrt(moved[0, 0] / (2.0 * math.pi)), rel=1e-13)
    cotangent = full(np.where(exists, gradient, 0.0), batch, positions)
    exact = project @ (cotangent * (np.pi - theta) / (2.0 * np.pi)) @ project
    value, _ = pullback(1.3, *gaps, gradient, **shared)
    assert np.array(value)[exists] == pytest.approx(exact[0, columns[exists]], abs=1e-14)


@pytest.mark.parametrize("norm", [batch_norm(eps=0.01), variance_norm(), _rms(0.05)])
def test_simulation(norm):
    """40,000 draws of x x' and J' Pi J, B = S = 3, averaged over entries of a kind.

    9 |z| below 5.5 a kind: false alarm below 1e-6.  VN's rank 8 leaves T a fourth moment short of
    finite variance: compared at eps > 0 only.
    """
    gaps = gaps_of((3.0, 0.6, 1.5, 0.9), 3, 3)
    gradient = (1.0, 0.3, -0.2, 0.1)
    slopes = (1.0, -0.2)
    shared = {"batch": 3, "positions": 3, "norm": norm, "slopes": slopes}
    sigma = full((1.0, *(1.0 - np.array(gaps))), 3, 3)
    h = pool_oracles.sample(sigma, 40_000, seed=11)
    project = np.eye(9) - 1.0 / 9.0
    pooled = h if norm.denominator == "rms" else h @ project
    r = np.sqrt((h * pooled).sum(axis=1) / 9.0 + norm.eps)
    x = (h @ project if norm.centered else h) / r[:, None]
    x = np.where(x > 0.0, x, 0.2 * x)
    columns, _ = kinds(3, 3)
    products = x[:, :1] * x[:, columns]
    value = forward(1.0, *gaps, **shared)
    exact = value[0] * (1.0 - np.array([0.0, *value[1:4]]))
    sem = products.std(axis=0) / math.sqrt(len(x))
    assert np.abs((products.mean(axis=0) - exact) / sem).max() < 5.5
    assert abs(x[:, 0].mean() - value[4]) < 5.5 * x[:, 0].std() / math.sqrt(len(x))
    if norm.eps == 0.0:
        return
    mean, sem = pool_oracles.pullback_samples(
        h,
        full(gradient, 3, 3),
        centered=norm.centered,
        pooled_mean=norm.denominator == "rms",
        divisor=9.0,
        eps=norm.eps,
        slopes=slopes,
    )
    value, _ = pullback(1.0, *gaps, gradient, **shared)
    assert np.abs((mean[0, columns] - value) / sem[0, columns]).max() < 5.5


def test_batchnorm_pullback_has_no_mean():
    """J 1 = 0: rows of T sum to zero."""
    value, _ = pullback(
        1.0, 0.2, 0.5, 0.6, (1.0, 0.3, 0.2, 0.1), batch=4, positions=5, norm=batch_norm(eps=0.1),
        slopes=(1.0, 0.0),
    )  # fmt: skip
    assert np.dot(value, [1, 4, 3, 12]) == pytest.approx(0.0, abs=1e-14)


def test_heavy_tails():
    """Theory notes, "Heavy tails", with N = B S."""
    gradient = (1.0, 0.1, 0.2, 0.0)
    gaps = (0.3, 0.4, 0.5)
    for size, norm, forward_inf, backward in (
        ((2, 1), batch_norm(), False, 0.0),
        ((1, 2), batch_norm(), False, 0.0),
        ((3, 1), batch_norm(), False, math.inf),
        ((2, 2), batch_norm(), False, None),
        ((3, 1), variance_norm(), True, math.inf),
        ((1, 3), variance_norm(), True, math.inf),
        ((2, 2), variance_norm(), False, math.inf),
        ((5, 1), variance_norm(), False, math.inf),
        ((3, 2), variance_norm(), False, None),
        ((2, 1), _rms(0.0), False, math.inf),
        ((3, 1), _rms(0.0), False, None),
    ):
        shared = {"batch": size[0], "positions": size[1], "norm": norm, "slopes": (1.0, 0.0)}
        value = forward(1.0, *gaps, **shared)
        assert math.isinf(value[0]) is forward_inf, (size, norm.name)
        assert math.isfinite(value[4])
        value, _ = pullback(1.0, *gaps, gradient, **shared)
        if backward is None:
            assert all(math.isfinite(z) for z in value)
        else:
            assert value[0] == backward, (size, norm.name)
    pair = forward(1.0, *gaps, batch=2, positions=1, norm=variance_norm(), slopes=(1.0, 0.0))
    assert pair == (math.inf, 0.0, 0.0, 0.0, math.inf, pair[5])
    # Positions that are all alike leave rank B - 1.
    value = forward(
        1.0, 0.0, 0.4, 0.4, batch=3, positions=4, norm=variance_norm(), slopes=(1.0, 0.0)
    )
    assert value[0] == math.inf


def test_no_variance_and_no_gradient():
    shared = {"batch": 3, "positions": 4, "slopes": (1.0, 0.0)}
    with pytest.raises(HypothesisError, match="eps > 0"):
        forward(1.0, 0.0, 0.0, 0.0, norm=batch_norm(), **shared)
    with pytest.raises(NumericalError, match="raise eps"):
        forward(1.0, 1e-200, 1e-200, 1e-200, norm=batch_norm(), **shared)
    value = forward(1.0, 0.0, 0.0, 0.0, norm=batch_norm(eps=0.1), **shared)
    assert value[:5] == (0.0, 1.0, 1.0, 1.0, 0.0)
    value = forward(1.0, 0.0, 0.0, 0.0, norm=variance_norm(eps=0.1), **shared)
    assert value[:4] == pytest.approx((5.0, 0.0, 0.0, 0.0), rel=1e-14)
    for norm in (batch_norm(eps=0.1), mean_centering()):
        for batch in (3, math.inf):
            value, _ = pullback(
                1.0, 0.0, 0.0, 0.0, (1.0, 0.2, 0.1, 0.0), **{**shared, "batch": batch}, norm=norm
            )
            assert all(math.isfinite(z) for z in value)
    assert pullback(1.0, 0.3, 0.4, 0.5, (0.0, 0.0, 0.0, 0.0), norm=batch_norm(), **shared) == (
        (0.0, 0.0, 0.0, 0.0),
        0.0,
    )
    infinite, _ = pullback(
        1.0, 0.3, 0.4, 0.5, (math.inf, 0.0, 0.0, 0.0), norm=batch_norm(), **shared
    )
    assert infinite[0] == math.inf


def test_what_is_no_state():
    shared = {"norm": batch_norm(), "slopes": (1.0, 0.0)}
    with pytest.raises(SpecificationError, match=r"gap_x = 1\.5"):
        forward(1.0, 0.3, 0.4, 1.5, batch=3, positions=4, **shared)
    with pytest.raises(SpecificationError, match="negative variance"):
        forward(1.0, 1.8, 1.8, 1.8, batch=3, positions=4, **shared)
    with pytest.raises(SpecificationError, match="gap_w = nan"):
        forward(1.0, math.nan, 0.4, 0.5, batch=3, positions=4, **shared)
    with pytest.raises(SpecificationError, match="two activations"):
        forward(1.0, 0.3, 0.4, 0.5, batch=1, positions=1, **shared)
    with pytest.raises(SpecificationError, match=r"batch = 2\.5"):
        forward(1.0, 0.3, 0.4, 0.5, batch=2.5, positions=4, **shared)
    with pytest.raises(SpecificationError, match="q = 0"):
        forward(0.0, 0.3, 0.4, 0.5, batch=3, positions=4, **shared)
    with pytest.raises(HypothesisError, match="another route"):
        forward(1.0, 0.3, 0.4, 0.5, batch=3, positions=4, norm=instance_norm(), slopes=(1.0, 0.0))


@pytest.mark.parametrize("norm", [batch_norm(), batch_norm(eps=0.1, ddof=1)])
@pytest.mark.parametrize(
    "case",
    [
        ((2, 2), (0.3, 0.2, 0.35)),
        ((2, 3), (0.3, 0.6, 0.9)),
        ((3, 2), (0.5, 0.2, 0.6)),
        ((2, 3), (0.5, 0.6, 0.55)),
        ((1, 4), (0.4, 0.3, 0.6)),
        ((3, 1), (0.4, 0.3, 0.6)),
        ((3, 3), (0.5, 1e-6, 0.5000005)),
    ],
    ids=str,
)
def test_two_mini_batches_against_full_matrices(norm, case):
    (batch, positions), gaps = case
    shared = {"norm": norm, "slopes": (1.0, -0.2)}
    total = batch * positions
    matrix = full((0.0, *gaps), 2 * batch, positions)
    exact, error = laplace_pools.two_pool_similarity(
        np.full(2 * total, 1.3), matrix, first=total, **shared
    )
    same, other, own = two_pool_similarity(1.3, *gaps, batch=batch, positions=positions, **shared)
    assert same == pytest.approx(exact[0, 0], abs=10.0 * (error + own) + 1e-13)
    if positions > 1:
        assert other == pytest.approx(exact[0, 1], abs=10.0 * (error + own) + 1e-13)


def test_two_mini_batches_in_closed_form_and_in_the_limit():
    """b = x: independent.  One sample each: s* = .32909 of the notes' InstanceNorm over S = 16."""
    shared = {"norm": batch_norm(), "slopes": (1.0, 0.0)}
    square, _, _, _, mean, _ = forward(1.0, 0.4, 0.3, 0.3, batch=5, positions=3, **shared)
    value = two_pool_similarity(1.0, 0.4, 0.3, 0.3, batch=5, positions=3, **shared)
    assert value[:2] == pytest.approx([mean**2 / square] * 2, rel=1e-13)
    value = two_pool_similarity(1.0, 0.7, 0.5, 0.5, batch=1, positions=16, **shared)
    assert value[0] == pytest.approx(0.32909, abs=5e-6)
    # S = inf, w = x: R is a number, correlation (b - x)/(q - x) at the same position.
    value = two_pool_similarity(1.0, 0.5, 0.3, 0.5, batch=7, positions=math.inf, **shared)
    assert value[1] == pytest.approx(1.0 / math.pi, rel=1e-13)
    kappa = (math.sqrt(0.84) + 0.4 * (math.pi - math.acos(0.4))) / math.pi
    assert value[0] == pytest.approx(kappa, rel=1e-13)
    near = two_pool_similarity(1.0, 0.5, 0.3, 0.5, batch=7, positions=10**7, **shared)
    assert near[:2] == pytest.approx(value[:2], rel=1e-6)
    with pytest.raises(HypothesisError, match="use batch_norm"):
        two_pool_similarity(
            1.0, 0.4, 0.3, 0.5, batch=7, positions=3, norm=variance_norm(), slopes=(1.0, 0.0)
        )


def test_fifty_layers_are_fast():
    gaps = (0.5, 0.6, 0.7)
    start = time.process_time()
    for _ in range(50):
        shared = {"batch": 16, "positions": 16, "norm": batch_norm(), "slopes": (1.0, 0.0)}
        forward(1.0, *gaps, **shared)
        pullback(1.0, *gaps, (1.0, 0.1, 0.1, 0.01), **shared)
    assert time.process_time() - start < 0.3  # 0.03 s on a quiet machine


@pytest.mark.parametrize(("end", "mode"), [(0.25, 1), (1.0, 3)])
@pytest.mark.parametrize("off", [0.0, 1.0, -1.0])
def test_a_rounding_from_the_end_is_the_end(end, mode, off):
    """B = 3, S = 2, gaps 1/2: the mode "position" vanishes at gap_x = 1/4, "both" at 1."""
    inside = end + off * np.spacing(end)
    plain, exact = components_of_gaps(0.5, 0.5, inside, shape=rectangle(3, 2))
    assert plain.value[mode] == 0.0
    beyond = (off < 0.0) == (end == 0.25)  # projected on the interval
    assert (exact is None) == (off == 0.0 or beyond)
    if exact is not None:
        assert 0.0 < exact.value[mode] < 1e-15
