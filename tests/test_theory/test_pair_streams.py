"""Post-activation streams of two samples: chains on sorted nets, and densities on a grid.

Random comparisons: fixed seeds and five standard errors; a false alarm of the file has probability below 1 %.
"""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

import theory as th
from theory.errors import HypothesisError
from theory.population.known import known
from theory.population.pair_chains import (
    gaussian_steps,
    ordered,
    pair_net,
    placed,
    relu_of,
    variance_steps,
)
from theory.population.pair_laws import pair_law, pair_law_refusal
from theory.population.pair_moments import _contrast, expected_moments
from theory.population.pair_streams import follow_pairs, pair_streams_refusal
from theory.population.result import (
    PopulationResult,
    averaged,
    gathered,
    population,
    relative_error,
)
from theory.population.walks import scaled
from theory.routes.pair_density import pair_density_law
from theory.specs.networks import Layer
from theory.specs.residual import Residual

SWS = th.zoo["SWS"].weights


def net(layer: Layer, depth: int, **options: Any) -> Residual:
    return Residual(layer, depth=depth, order="post_activation", **options)


# Nets and steps


def test_a_net_gives_every_chain_its_own_point() -> None:
    rng = np.random.default_rng(0)
    found = pair_net(1024, 3)
    for row in found:
        assert_allclose(np.sort(row), np.arange(1024) / 1024)
    pairs = rng.standard_normal((3, 3, 1024))
    order = ordered(pairs)
    assert np.all(np.sort(order, axis=1) == np.arange(1024))
    # Stretches of 32 chains by the mean, each by the difference.
    total = np.take_along_axis(pairs[0] + pairs[1], order, axis=1).reshape(3, 32, 32)
    assert np.all(total[:, :-1].max(axis=2) <= total[:, 1:].min(axis=2))
    apart = np.take_along_axis(pairs[2], order, axis=1).reshape(3, 32, 32)
    assert np.all(np.diff(apart, axis=2) >= 0.0)
    # One chain's point is uniform over shifts.
    one = [placed(found, order, np.random.default_rng(k))[1, 2, 77] for k in range(400)]
    assert stats.kstest(one, "uniform").pvalue > 1e-4


def test_moments_of_steps() -> None:
    """Gaussians of a given covariance; T + sqrt(D) u with T Student's and u a coordinate of a contrast."""
    rng = np.random.default_rng(1)
    order = np.broadcast_to(np.arange(2**14), (8, 2**14))
    f = gaussian_steps(
        placed(pair_net(2**14, 2), order, rng),
        variance=np.full(8, 3.0),
        gap=np.full(8, 1.4),
    )
    assert_allclose((f[:2] * f[:2]).mean(axis=(0, 2)), 3.0, rtol=1e-3)
    assert_allclose((f[0] * f[1]).mean(), -1.2, rtol=3e-3)
    assert_allclose(2.0 * f[2], f[0] - f[1], rtol=0.0, atol=1e-12)
    for size in (3, 4, 6, 16):
        steps = variance_steps(
            placed(pair_net(2**14, 3), order, rng),
            mean=np.full(8, 2.0),
            contrast=np.full(8, 0.3),
            size=size,
            radius2=float(size),
        )
        u, n = steps.u, size - 1
        assert_allclose((u * u).mean(axis=(1, 2)), 1.0 / size, rtol=2e-3)
        assert_allclose((u[0] * u[1]).mean(), -1.0 / (size * n), rtol=2e-2)
        # E[u^4] = 3 (n/B)^2/(n (n + 2)) of a contrast's coordinate.
        assert_allclose((u**4).mean(), 3.0 * n / (size * size * (n + 2.0)), rtol=5e-3)
        assert stats.kstest(steps.tau[0] * math.sqrt(n), stats.t(n).cdf).statistic < 1e-3


@pytest.mark.parametrize("size", [8, 12])
def test_what_variance_normalization_returns_is_that_of_channels(size: int) -> None:
    """J'delta of drawn channels, delta masked by signs of the steps and correlated between samples."""
    rng = np.random.default_rng(2)
    mean, contrast, draws, shift, shared = 3.0, 0.4, 200_000, 0.5, 0.3
    d = rng.standard_normal((draws, size))
    d = math.sqrt(contrast) * (d - d.mean(axis=1, keepdims=True))
    h = math.sqrt(mean / size) * rng.standard_normal((draws, 1)) + d
    s = np.sqrt((d * d).mean(axis=1, keepdims=True))
    delta = math.sqrt(shared) * rng.standard_normal((draws, 1))
    delta = delta + math.sqrt(1.0 - shared) * rng.standard_normal((draws, size))
    delta *= h / s + shift > 0.0
    back = delta / s - d * (h * delta).sum(axis=1, keepdims=True) / (size * s**3)
    own = (back * back).mean(axis=1)
    pair = (back.sum(axis=1) ** 2 - size * own) / (size * (size - 1.0))
    order = np.broadcast_to(np.arange(2**14), (16, 2**14))
    steps = variance_steps(
        placed(pair_net(2**14, 3), order, rng),
        mean=np.full(16, mean),
        contrast=np.full(16, contrast),
        size=size,
        radius2=float(size),
    )
    alive = (steps.values()[:2] + shift > 0.0).astype(float)
    for ours, theirs in zip(
        steps.returned(alive, shared * alive[0] * alive[1]), (own, pair), strict=True
    ):
        error = math.hypot(ours.std() / 4.0, theirs.std() / math.sqrt(draws))
        assert abs(ours.mean() - theirs.mean()) < 5.0 * error


@pytest.mark.parametrize("deviation", [0.1, 1.0, 30.0])
def test_moments_expected_of_a_block(deviation: float) -> None:
    """Against draws over all populations, and quadrature over the common Gaussian of single pairs."""
    rng = np.random.default_rng(4)
    order = np.broadcast_to(np.arange(2**12), (64, 2**12))
    start = placed(pair_net(2**12, 2), order, rng)
    x = relu_of(gaussian_steps(start, variance=np.ones(64), gap=np.full(64, 0.4)))
    variance, gap = np.full(64, deviation**2), np.full(64, 0.7)
    f = gaussian_steps(placed(pair_net(2**12, 2), ordered(x), rng), variance=variance, gap=gap)
    found = expected_moments(x, f, variance=variance, gap=gap)
    y = relu_of(x + f)
    for ours, values in (
        (found.second_moment, (y[:2] ** 2).mean(axis=0)),
        (found.contrast, 2.0 * y[2] ** 2),
    ):
        far = values.mean(axis=1) - ours
        assert abs(far.mean()) < 5.0 * far.std() / 8.0
    scale = np.array([[deviation]])
    mu, height = rng.standard_normal((1, 50)), np.abs(rng.standard_normal((1, 50)))
    # Where one sample is alive, (mu + S + h)^2/2; where both are, 2 h^2.
    z, weight = np.polynomial.legendre.leggauss(60)
    at = height[..., None] * z
    density = stats.norm.pdf(at, mu[..., None], deviation) * weight * height[..., None]
    exact = (0.5 * (at + height[..., None]) ** 2 * density).sum(axis=-1)
    exact += 2.0 * height**2 * stats.norm.sf(height, mu, deviation)
    assert_allclose(_contrast(mu, height, scale), exact, rtol=1e-6, atol=1e-7)


def test_samples_that_become_alike_keep_the_digits_of_their_difference() -> None:
    """1 - c = 1e-60 behaves as 1e-20 does."""
    found = []
    for half in (1e-10, 1e-30):
        middle = np.linspace(-1.0, 1.0, 4096)
        pairs = np.stack((middle + half, middle - half, np.full(4096, half)))[:, None]
        found.append((relu_of(pairs)[2] ** 2).mean() / half**2)
    assert_allclose(found, 0.5, rtol=1e-3)


def test_steps_far_below_the_stream_still_turn_what_relu_left_at_zero() -> None:
    """x = relu(1e50 z) and unit steps: from 0 a walk is above it once with 1/2, twice in turn with 3/8."""
    network = net(Layer(norm=th.layer_norm()), 3)
    found = th.predict(network, th.exchangeable(batch=2, correlation=0.3, second_moment=1e100))
    exact = 0.5 * np.log([0.5 + 0.5 * 0.375, 0.5 + 0.5 * (0.375 + 0.25), 1.0])
    assert np.all(np.abs(found.log_gradient_norm - exact) < 5.0 * found.gradient_error + 1e-12)
    assert found.gradient_error.max() < 4e-3


# Chains


def drawn(
    network: Residual, inputs: Any, *, chains: int, seed: int, **options: Any
) -> PopulationResult:
    """Sixteen populations, forwards and backwards."""
    groups = [
        follow_pairs(
            network,
            inputs,
            chains=chains,
            populations=4,
            seed=(seed, k),
            backward=True,
            **options,
        )
        for k in range(4)
    ]
    return gathered(groups, batch=inputs.batch, channels=chains)


def compared(ours: PopulationResult, theirs: PopulationResult) -> None:
    """Five joint standard errors at every block, of everything that is read."""
    for name in ("stream", "preactivation", "gradient", "branch_gradient"):
        one, other = getattr(ours, name), getattr(theirs, name)
        error = np.hypot(one.second_moment_error, other.second_moment_error) + 1e-12
        assert np.all(np.abs(one.log_second_moment - other.log_second_moment) < 5.0 * error)
        if "gradient" not in name:
            error = np.hypot(one.gap_error, other.gap_error)
            assert np.all(np.abs(one.gap / other.gap - 1.0) < 5.0 * error)


@pytest.mark.parametrize(
    ("layer", "batch", "options"),
    [
        (th.zoo["VN"], 16, {}),
        (th.zoo["VN"], 12, {"maps": 2, "skip": 0.9, "branch": 0.8}),
        (Layer(norm=th.variance_norm(ddof=1), activation=th.tanh), 12, {"skip": 1.5}),
        (th.zoo["WN"], 2, {"maps": 2}),
        (Layer(norm=th.rms_norm(eps=0.1), activation=th.gelu), 4, {}),
        (Layer(norm=th.mean_centering(), activation=th.leaky_relu(0.2)), 5, {"skip": -0.7}),
    ],
    ids=["VN", "VN, two maps", "VN, tanh", "WN, two maps", "RMSNorm, gelu", "MC, leaky"],
)
def test_chains_agree_with_populations(layer: Layer, batch: int, options: dict[str, Any]) -> None:
    network = net(layer, 6, **options)
    inputs = th.exchangeable(batch=batch, correlation=0.3, second_moment=1.3, feature_mean=0.4)
    assert pair_streams_refusal(network, inputs) is None
    ours = drawn(network, inputs, chains=2048, seed=3)
    compared(ours, population(network, inputs, channels=4096))


@pytest.mark.parametrize("name", ["plain", "WN"])
def test_chains_agree_with_exact_walks(name: str) -> None:
    """Moments and gradients of one sample over 30 blocks, and the same gap with and without known moments."""
    network, inputs = net(th.zoo[name], 30), th.exchangeable(batch=2, correlation=0.5)
    exact = scaled(network, inputs, backward=True)
    assert exact.log_gradient is not None
    found = drawn(network, inputs, chains=4096, seed=0)
    assert found.gradient is not None
    far = np.abs(found.stream.log_second_moment - exact.log_second_moment)
    assert np.all(far < 5.0 * found.stream.second_moment_error)
    far = np.abs(found.gradient.log_second_moment - exact.log_gradient)
    assert np.all(far < 5.0 * found.gradient.second_moment_error + 1e-12)
    known_moments = drawn(
        network, inputs, chains=4096, seed=1, log_second_moment=exact.log_second_moment
    )
    error = np.hypot(found.stream.gap_error, known_moments.stream.gap_error)
    assert np.all(np.abs(found.stream.gap / known_moments.stream.gap - 1.0) < 5.0 * error)
    assert found.stream.gap_error.max() < 1.5e-2


def test_stated_errors_are_honest() -> None:
    """Variance over eight seeds within the stated one's chi-square bounds: 1e-4 per figure and end.

    VN's squared gradients have heavy tails: chains whose errors hid them would fail the upper bound.
    """
    network, inputs = net(th.zoo["VN"], 20), th.exchangeable(batch=16, correlation=0.3)
    values, stated = [], []
    for seed in range(8):
        found = drawn(network, inputs, chains=512, seed=seed)
        assert found.gradient is not None
        parts = (found.stream.log_second_moment[-1], found.gradient.log_second_moment[0])
        errors = (found.stream.second_moment_error[-1], found.gradient.second_moment_error[0])
        values.append([*parts, math.log(found.stream.gap[-1])])
        stated.append([*errors, found.stream.gap_error[-1]])
    ratio = 7.0 * np.var(values, axis=0, ddof=1) / np.mean(np.square(stated), axis=0)
    low, high = stats.chi2.ppf(1e-4, 7), stats.chi2.isf(1e-4, 7)
    # Stated errors are stretched for few populations and bias: by less than 2.
    assert np.all(ratio < high)
    assert np.all(4.0 * ratio > low)


def test_an_average_that_few_populations_carry_has_no_error_bar() -> None:
    """Fifteen populations of 1 and one of 1e6: its like may be missing a thousandfold."""
    values = np.ones((2, 16))
    values[1, 0] = 1e6
    mean, error = averaged(values)
    found = relative_error(error, mean, 16)
    assert found[0] == 0.0
    assert found[1] == math.inf


def test_predictions_by_chains() -> None:
    inputs = th.exchangeable(batch=16, correlation=0.3)
    found = th.predict(net(th.zoo["VN"], 4), inputs)
    assert set(found.route["second_moment"]) == {"sampled pairs"}
    assert found.settings["chains"] == "32768"
    assert found.error["gradient_norm"].max() < 2e-3
    again = th.predict(net(th.zoo["VN"], 4), inputs)
    assert_allclose(again.log_gradient_norm, found.log_gradient_norm, rtol=0.0)
    # Gradients of fewer samples have no finite mean square: left to populations.
    few = th.predict(net(th.zoo["VN"], 2), th.exchangeable(batch=5, correlation=0.3))
    assert set(few.route["second_moment"]) == {"population"}
    alike = th.exchangeable(batch=16, correlation=1.0)
    with pytest.raises(HypothesisError, match="zero variance"):
        follow_pairs(
            net(th.zoo["VN"], 2), alike, chains=64, populations=2, seed=(0,), backward=False
        )


# Densities


@pytest.mark.parametrize(
    ("options", "mean"),
    [({}, 0.0), ({"maps": 2, "branch": 1.5}, 0.5), ({"skip": 0.6, "stem": th.gaussian()}, 0.5)],
)
def test_one_sample_of_a_pair_is_the_walk(options: dict[str, Any], mean: float) -> None:
    """Scaled Weight Standardization by the walk of one sample on panels of its own, to 1e-10."""
    network = net(Layer(weights=SWS), 40, **options)
    inputs = th.exchangeable(batch=3, correlation=0.2, second_moment=2.0, feature_mean=mean)
    ours, walk = (f(network, inputs, backward=True) for f in (pair_law, scaled))
    for one, other in (
        (ours.log_second_moment, walk.log_second_moment),
        (ours.log_gradient, walk.log_gradient),
    ):
        assert one is not None
        assert other is not None
        assert_allclose(one, other, rtol=0.0, atol=1e-10)
    assert ours.error < 1e-9


@pytest.mark.parametrize(
    ("layer", "batch", "options"),
    [
        (th.zoo["MC"], 4, {}),
        (th.zoo["MC"], 16, {"maps": 2, "skip": 0.8}),
        (Layer(norm=th.mean_centering(), weights=SWS), 3, {"branch": -1.2, "stem": th.gaussian()}),
        (th.zoo["WC"], 2, {"maps": 2, "branch": 0.7}),
    ],
    ids=["MC", "MC, two maps", "MC, SWS", "WC, two maps"],
)
def test_densities_agree_with_populations(
    layer: Layer, batch: int, options: dict[str, Any]
) -> None:
    network = net(layer, 10, **options)
    inputs = th.exchangeable(batch=batch, correlation=0.3, feature_mean=0.4)
    exact = known(network, inputs, backward=True)
    assert exact.route == "pair density"
    assert exact.log_second_moment is not None
    assert exact.gap is not None
    assert exact.mean is not None
    found = population(network, inputs, channels=8192)
    stream, read = found.stream, found.preactivation
    assert found.gradient is not None
    assert found.branch_gradient is not None
    assert read is not None
    for ours, theirs in (
        (exact.log_second_moment, stream),
        (exact.log_map_second_moment, read),
        (exact.log_gradient, found.gradient),
        (exact.log_branch_gradient, found.branch_gradient),
    ):
        assert ours is not None
        far = np.abs(ours - theirs.log_second_moment)
        assert np.all(far < 5.0 * theirs.second_moment_error + 1e-10)
    assert np.all(np.abs(exact.gap / stream.gap - 1.0) < 5.0 * stream.gap_error)
    assert np.all(np.abs(exact.mean - stream.mean) < 5.0 * stream.mean_error)
    assert exact.map_gap is not None
    assert np.all(np.abs(exact.map_gap / read.gap - 1.0) < 5.0 * read.gap_error + 1e-10)


def test_one_block_of_a_pair_is_arc_cosine() -> None:
    """relu of a Gaussian pair: E[x x'] = q kappa_1(c)/2, and no gradient that is shared at the end."""
    found = pair_density_law(1, step=lambda gap, _: (2.0, 0.8), gap=0.7)
    c = (0.3 + 0.8) / 3.0
    kappa = (math.sqrt(1.0 - c * c) + (math.pi - math.acos(c)) * c) / math.pi
    assert_allclose(found.gap, 1.0 - kappa, rtol=1e-12)
    assert_allclose(np.exp(found.log_second_moment), 1.5, rtol=1e-12)
    assert_allclose(found.mean, math.sqrt(1.0 / math.pi), rtol=1e-12)


def test_three_blocks_of_a_pair() -> None:
    """Moments, and gradients that masks of two samples share, by nested quadrature over their Gaussians."""
    a, v, c, gap = 0.9, 1.3, -0.4, 0.7
    found = pair_density_law(
        3,
        step=lambda *_: (v, c),
        gap=gap,
        skip=a,
        returned=lambda _, __, own, shared: (own - 0.9 * shared, 0.4 * own + 0.2 * shared, own),
    )
    z, weight = np.polynomial.legendre.leggauss(300)
    z, weight = 9.0 * z, 9.0 * weight
    normal = weight * stats.norm.pdf(z)
    half, half_weight = 4.5 * (z / 9.0 + 1.0), 4.5 * weight / 9.0
    # Block 1: y Gaussian; x = relu(y) on the quadrant, on both axes and at 0.
    variance, cosine = a * a + v, (a * a * (1.0 - gap) + c) / (a * a + v)
    y = math.sqrt(variance) * half
    rest = math.sqrt(1.0 - cosine * cosine)
    both = np.exp(-0.5 * ((half - cosine * half[:, None]) / rest) ** 2) / rest
    both *= np.outer(half_weight * stats.norm.pdf(half), half_weight) / math.sqrt(2.0 * math.pi)
    axis = half_weight * stats.norm.pdf(half) * stats.norm.cdf(-cosine * half / rest)
    none = 1.0 - both.sum() - 2.0 * axis.sum()
    q = 0.5 * variance
    # Block 2: masks given x_i, x_j and the common Gaussian, which has opposite signs.
    own, common = math.sqrt(q * (v + c)), math.sqrt(-q * c)

    def alive(x: Any, sign: float) -> Any:
        return stats.norm.cdf((a * np.asarray(x)[..., None] + sign * common * z) / own)

    up, down, zero_up, zero_down = alive(y, 1.0), alive(y, -1.0), alive(0.0, 1.0), alive(0.0, -1.0)
    together = np.einsum("ij,iz,jz,z->", both, up, down, normal)
    together += 2.0 * np.einsum("i,iz,z,z->", axis, up, zero_down, normal)
    together += none * np.einsum("z,z,z->", zero_up, zero_down, normal)
    spread = math.sqrt(q * v)
    law = half_weight * stats.norm.pdf(half)
    far = 12.0 * half / 9.0 * math.sqrt(variance)
    density = 0.5 * stats.norm.pdf(far, 0.0, spread)
    density += stats.norm.pdf(far[:, None], a * y, spread) @ law
    mass = density * half_weight * 12.0 / 9.0 * math.sqrt(variance)
    q2 = float(mass @ far**2)
    later = stats.norm.cdf(a * far / math.sqrt(q2 * v))
    kept = float(mass @ later)
    third = kept + 0.5 * (1.0 - float(mass.sum()))
    passed = a * a * kept + third * float(mass.sum())
    exact = [a * a * passed + passed - 0.9 * 0.4 * third * together, (a * a + 1.0) * third, 1.0]
    assert found.log_gradient is not None
    assert_allclose(np.exp(found.log_gradient), exact, rtol=1e-9)
    assert_allclose(np.exp(found.log_second_moment[:2]), [q, q2], rtol=1e-10)
    assert_allclose(found.gap[0], 1.0 - np.einsum("ij,i,j->", both, y, y) / q, rtol=1e-10)


def test_two_blocks_of_a_pair_in_high_precision() -> None:
    """Block 1 is the arc-cosine kernel; q of block 2 is an integral over what relu left of a Gaussian."""
    a, v, c, gap = 0.9, 1.3, -0.4, 0.7
    found = pair_density_law(2, step=lambda *_: (v, c), gap=gap, skip=a)
    with mpmath.workdps(30):
        variance = mpmath.mpf(a) ** 2 + v
        angle = mpmath.acos((mpmath.mpf(a) ** 2 * (1 - mpmath.mpf(gap)) + c) / variance)
        q = variance / 2
        kernel = (mpmath.sin(angle) + (mpmath.pi - angle) * mpmath.cos(angle)) / mpmath.pi
        spread = mpmath.sqrt(q * v)

        def squared(x: Any) -> Any:
            """E[relu(x + g)^2], g of variance q v."""
            t = x / spread
            return spread**2 * ((1 + t * t) * mpmath.ncdf(t) + t * mpmath.npdf(t))

        above = mpmath.quad(
            lambda z: mpmath.npdf(z) * squared(a * mpmath.sqrt(variance) * z), [0, 2, 5, 12]
        )
        q2 = above + squared(mpmath.mpf(0)) / 2
        expected = [mpmath.log(q), mpmath.log(q2)]
        assert_allclose(found.log_second_moment, [float(e) for e in expected], rtol=1e-11)
        assert_allclose(found.gap[0], float(1 - kernel), rtol=1e-11)
        assert_allclose(found.mean[0], float(1 / mpmath.sqrt(mpmath.pi)), rtol=1e-11)


def test_densities_of_many_blocks_stay_in_range() -> None:
    """Growth per block settles; what does not fit on the nodes is left to chains."""
    network, inputs = net(th.zoo["MC"], 60), th.exchangeable(batch=8, correlation=0.3)
    found = pair_law(network, inputs, backward=True)
    assert found.log_gradient is not None
    steps = np.diff(found.log_second_moment)[20:]
    assert_allclose(steps, steps[0], rtol=1e-9)
    assert found.error < 1e-10
    alike = th.exchangeable(batch=8, correlation=0.999)
    assert pair_law_refusal(network, alike) is None
    with pytest.raises(HypothesisError, match="too small"):
        pair_law(network, alike, backward=True)
    left = th.predict(net(th.zoo["MC"], 2), alike)
    assert set(left.route["second_moment"]) == {"sampled pairs"}
    assert pair_law_refusal(network, th.exchangeable(batch=2, correlation=0.3)) is not None
    assert pair_law_refusal(net(th.zoo["plain"], 2), inputs) is not None
