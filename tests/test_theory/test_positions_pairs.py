"""Sample-wise pools over positions: mpmath, theory notes, Pearson route, dense matrices, simulation."""

import json
import math

import mpmath as mp
import numpy as np
import positions_oracle
import pytest

from theory.errors import HypothesisError, NumericalError, SpecificationError
from theory.routes import groupnorm, laplace_pairs, positions_core, positions_pull
from theory.routes.positions_lens import AngleStep, half_angle, lens
from theory.routes.positions_limits import (
    position_limit_pull,
    position_limit_pull_same,
    position_limit_push,
)
from theory.routes.positions_pairs import position_push
from theory.routes.positions_pull import position_pull, position_pull_same, spectral_radius
from theory.routes.positions_spectrum import PositionSpectrum
from theory.specs import normalizers
from theory.specs.activations import leaky_relu
from theory.specs.normalizers import Normalizer, Pool

RELU, LEAKY, IDENTITY, ABS = (1.0, 0.0), (1.0, -0.2), (1.0, -1.0), (1.0, 1.0)
TRUTH = json.loads(positions_oracle.TRUTH.read_text(encoding="utf-8"))


def _norm(group_size, *, centered=True, rms=False, eps=0.0, ddof=0):
    pool = Pool(samples=False, positions=True, channels=group_size)
    denominator = "rms" if rms else "std"
    return Normalizer(
        name="pool", pool=pool, centered=centered, denominator=denominator, eps=eps, ddof=ddof
    )


def _spread(positions, gap_w, far, mean_far):
    """q = 1; distances relative to the same-sample eigenvalues."""
    mean = positions - (positions - 1) * gap_w
    return PositionSpectrum(positions, gap_w, mean, far * gap_w, mean_far * mean)


# --- mpmath -------------------------------------------------------------------------------------------


def _case(row):
    spectrum = PositionSpectrum(
        row["positions"], *(row[name] for name in positions_oracle.FIELDS[7:])
    )
    norm = _norm(
        row["group_size"],
        centered=row["centered"],
        rms=row["rms"],
        eps=row["eps"],
        ddof=row["ddof"],
    )
    return spectrum, norm, tuple(row["slopes"])


@pytest.mark.parametrize("row", TRUTH, ids=range(len(TRUTH)))
def test_nested_quadrature(row):
    """Each eigenvalue, distance, gap, mean and derivative: error <= 10 x stated + 1e-13, and <= 1e-10."""
    spectrum, norm, slopes = _case(row)
    pushed = position_push(spectrum, norm=norm, slopes=slopes)
    values = [*pushed.spectrum[1:], pushed.activation_mean]
    exact = [float(x) for x in row["values"]]
    for value, expected, error in zip(values, exact, pushed.errors, strict=True):
        # Some cases have exact zeros: +-1 after normalization, identity, abs.
        assert error < 1e-10 or abs(expected) < 1e-18
        assert abs(value - expected) <= (10.0 * error + 1e-13) * max(abs(expected), abs(value))
    gaps = pushed.spectrum.gaps()
    assert max(pushed.gap_errors()) < 1e-10
    expected = PositionSpectrum(row["positions"], *exact[:4]).gaps()
    np.testing.assert_allclose(gaps, expected, rtol=1e-12, atol=1e-15)
    if row["pull"] is not None:
        step, error = position_pull(spectrum, norm=norm, slopes=slopes)
        expected = np.array([[float(x) for x in line] for line in row["pull"]])
        normal = np.ones((2, 2))
        if spectrum.positions > 1:
            normal[0, 1] = 1.0 / math.sqrt(spectrum.positions - 1)
            normal[1, 0] = 1.0 / normal[0, 1]
        assert error < 1e-10
        off = np.linalg.norm(normal * (step - expected))
        assert off <= (10.0 * error + 1e-13) * np.linalg.norm(normal * expected)


def test_the_file_holds_the_cases():
    held = [[row[name] for name in positions_oracle.FIELDS] for row in TRUTH]
    assert held == json.loads(json.dumps(positions_oracle.cases()))
    sizes = [row["positions"] * row["group_size"] for row in TRUTH]
    assert len(sizes) >= 50
    assert min(sizes) <= 2
    assert max(sizes) == 10**6


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_file_can_be_computed_anew():
    """The quick ones; ``python tests/positions_oracle.py`` computes all of it."""
    for row, case in zip(TRUTH, positions_oracle.cases(), strict=True):
        if case[0] * case[1] >= 256:
            values, pull = positions_oracle.truth(case)
            assert values == row["values"]
            assert pull == row["pull"]


@pytest.mark.parametrize("first", [0.0, 1e-14, 1e-3, 0.5, 1.0, 1.9])
@pytest.mark.parametrize("step", [0.0, 1e-16, 1e-9, 0.05])
def test_lens_and_its_differences(first, step):
    with mp.workdps(60):
        low, high = mp.mpf(first), mp.mpf(first) + mp.mpf(step)

        def exact(gap):
            t = mp.acos(1 - gap)
            return (mp.sin(t) - t * mp.cos(t)) / mp.pi

        gaps = np.array([first]), np.array([float(high)])
        halves = [half_angle(gap) for gap in gaps]
        value = lens(gaps[1], halves[1])[0]
        assert value == pytest.approx(float(exact(mp.mpf(float(high)))), rel=5e-15)
        between = AngleStep.between(*halves, np.array([step]))
        assert between.lens()[0] == pytest.approx(float(exact(high) - exact(low)), rel=5e-15)
        back = AngleStep.between(*halves[::-1], np.array([-step]))
        assert back.lens()[0] == pytest.approx(-between.lens()[0], rel=5e-15)
        turn = float(mp.acos(1 - high) - mp.acos(1 - low))
        assert 2.0 * between.h[0] == pytest.approx(turn, rel=5e-15)


# --- the notes' tables --------------------------------------------------------------------------------


def _fixed_point(norm, positions, *, slopes=RELU, together=False):
    """Spectrum of the pre-activations (weight variance 2) after many layers."""
    spectrum = _spread(positions, 0.5, 0.0 if together else 0.9, 0.0 if together else 0.5)
    for _ in range(400):
        new = position_push(spectrum, norm=norm, slopes=slopes).spectrum.scaled(2.0)
        if np.allclose(new, spectrum, rtol=1e-14, atol=1e-16):
            return new
        spectrum = new
    raise AssertionError("no convergence")


@pytest.mark.parametrize(
    ("group_size", "similarity", "growth"),
    [
        (1, 0.28568417, 1.58995042),
        (2, 0.40570527, 1.42369365),
        (4, 0.54178510, 1.31788903),
        (8, 0.68906636, 1.23005255),
    ],
)
def test_group_norm_over_16_positions(group_size, similarity, growth):
    norm = normalizers.group_norm(group_size)
    spectrum = _fixed_point(norm, 16, together=True)
    step, error = position_pull_same(spectrum, norm=norm, slopes=RELU)
    assert 1.0 - spectrum.gaps()[0] == pytest.approx(similarity, abs=5e-9)
    assert 2.0 * spectral_radius(step) == pytest.approx(growth, abs=5e-9)
    assert error < 1e-12


@pytest.mark.parametrize("positions", [4, 8, 16, 64])
def test_instance_norm_explodes_as_batch_norm_does(positions):
    norm = normalizers.instance_norm()
    spectrum = _fixed_point(norm, positions, together=True)
    step, _ = position_pull_same(spectrum, norm=norm, slopes=RELU)
    growth = {4: 3.0840609480877326875, 8: 1.7881899766587481291}
    growth |= {16: 1.589950416765165454, 64: 1.4930629378035986589}
    similarity = {4: 0.16949658804216626646, 8: 0.25013493286145116225}
    similarity |= {16: 0.28568417048653942302, 64: 0.31041347859622959381}
    assert 2.0 * spectral_radius(step) == pytest.approx(growth[positions], rel=1e-12)
    assert 1.0 - spectrum.gaps()[0] == pytest.approx(similarity[positions], rel=1e-12)
    assert normalizers.group_norm(1).pool == norm.pool


@pytest.mark.parametrize(
    ("positions", "similarity", "growth"),
    [(4, 0.47967, 1.86428), (8, 0.49839, 1.50943), (16, 0.50840, 1.41077), (32, 0.51353, 1.37183)],
)
def test_filter_response_norm(positions, similarity, growth):
    norm = normalizers.filter_response_norm()
    spectrum = _fixed_point(norm, positions, together=True)
    step, _ = position_pull_same(spectrum, norm=norm, slopes=RELU)
    assert 1.0 - spectrum.gaps()[0] == pytest.approx(similarity, abs=5e-6)
    assert 2.0 * spectral_radius(step) == pytest.approx(growth, abs=5e-6)


@pytest.mark.parametrize(
    ("norm", "similarity"),
    [
        (normalizers.instance_norm(), 0.32909),
        (normalizers.group_norm(4), 0.56189),
        (normalizers.filter_response_norm(), 0.53478),
    ],
)
def test_cross_sample_fixed_points(norm, similarity):
    """Two samples end where position no longer matters: b* = x*."""
    _, gap_b, gap_x = _fixed_point(norm, 16).gaps()
    assert 1.0 - gap_b == pytest.approx(similarity, abs=5e-6)
    assert gap_x == pytest.approx(gap_b, rel=1e-12)


def test_instance_norm_is_the_independent_pairs_formula():
    """IN, relu: E kappa_1(r) at c = 0, n = S - 1, as soon as mu_p = 0."""
    for positions in (2, 3, 4, 16, 64):
        pushed = position_push(
            _spread(positions, 0.4, 1.0, 0.3), norm=_norm(1), slopes=RELU
        ).spectrum
        n = positions - 1
        exact = n * math.gamma(n / 2) ** 2 / (2 * math.pi * math.gamma((n + 1) / 2) ** 2)
        assert 1.0 - pushed.gaps()[1] == pytest.approx(exact, rel=1e-12)


# --- other routes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("group_size", [2, 3, 4, 5, 8, 64, 4096])
@pytest.mark.parametrize("gap", [1e-12, 0.01, 1.0, 1.9])
@pytest.mark.parametrize("centered", [True, False])
def test_one_position_is_the_pearson_route(group_size, gap, centered):
    options = {"group_size": group_size, "centered": centered}
    norm = _norm(group_size, centered=centered, rms=not centered)
    spectrum = PositionSpectrum.from_gaps(3.0, 0.0, gap, 0.0, positions=1)
    pushed = position_push(spectrum, norm=norm, slopes=LEAKY)
    expected, _ = groupnorm.group_gap(leaky_relu(0.2), gap, **options)
    assert pushed.spectrum.gaps()[1] == pytest.approx(float(expected), rel=1e-10)
    second, mean, _ = groupnorm.group_moments(leaky_relu(0.2), **options)
    assert pushed.spectrum.second_moment == pytest.approx(second, rel=1e-12)
    assert pushed.activation_mean == pytest.approx(mean, rel=1e-12)
    step, _ = position_pull(spectrum, norm=norm, slopes=LEAKY)
    slope, _ = groupnorm.group_slope(leaky_relu(0.2), gap, **options)
    assert 3.0 * step[0, 0] == pytest.approx(float(slope), rel=1e-10)
    assert not step[0, 1:].any()
    assert not step[1].any()
    step, _ = position_pull_same(spectrum, norm=norm, slopes=LEAKY)
    slope, _ = groupnorm.group_slope(leaky_relu(0.2), 0.0, **options)
    assert 3.0 * step[0, 0] == pytest.approx(float(slope), rel=1e-10)


@pytest.mark.parametrize("eps", [1e-5, 0.1, 3.0])
@pytest.mark.parametrize("gap", [0.0, 1e-10, 0.3, 1.8])
@pytest.mark.parametrize(
    ("group_size", "centered", "ddof"), [(2, True, 1), (8, True, 0), (1, False, 0)]
)
def test_one_position_with_eps(eps, gap, group_size, centered, ddof):
    options = {
        "group_size": group_size,
        "centered": centered,
        "ddof": ddof,
        "eps": eps,
        "slopes": LEAKY,
    }
    norm = _norm(group_size, centered=centered, rms=not centered, eps=eps, ddof=ddof)
    spectrum = PositionSpectrum.from_gaps(2.0, 0.0, gap, 0.0, positions=1)
    pushed = position_push(spectrum, norm=norm, slopes=LEAKY)
    second, mean, _ = laplace_pairs.group_eps_moments(2.0, **options)
    expected, _ = laplace_pairs.group_eps_gap(2.0, 2.0, gap, **options)
    assert pushed.spectrum.second_moment == pytest.approx(float(second), rel=1e-12)
    assert pushed.activation_mean == pytest.approx(float(mean), rel=1e-12)
    assert pushed.spectrum.gaps()[1] == pytest.approx(float(expected), rel=1e-10)
    step, _ = position_pull(spectrum, norm=norm, slopes=LEAKY)
    slope, _ = laplace_pairs.group_eps_slope(2.0, 2.0, gap, **options)
    assert step[0, 0] == pytest.approx(float(slope), rel=1e-10)


@pytest.mark.parametrize(
    "spectrum",
    [_spread(16, 0.3, 0.7, 0.2), _spread(16, 1e-9, 0.9, 1e-9), _spread(4, 0.8, 1e-9, 1.5)],
)
@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_large_groups_tend_to_layer_norm(spectrum, eps):
    """Differences fall off as 1/G, for every number."""
    limit = position_limit_push(spectrum, norm=normalizers.layer_norm(eps=eps), slopes=LEAKY)
    steps = [
        pull(spectrum, norm=normalizers.rms_norm(eps=eps), slopes=LEAKY)[0]
        for pull in (position_limit_pull, position_limit_pull_same)
    ]
    offs = []
    for group_size in (10**4, 10**6):
        norm = _norm(group_size, eps=eps)
        pushed = position_push(spectrum, norm=norm, slopes=LEAKY)
        off = np.abs(np.divide(pushed.spectrum[1:], limit.spectrum[1:]) - 1.0)
        offs.append(max(off.max(), abs(pushed.activation_mean / limit.activation_mean - 1.0)))
        for pull, step in zip((position_pull, position_pull_same), steps, strict=True):
            off = np.abs(pull(spectrum, norm=norm, slopes=LEAKY)[0] - step).max()
            assert off < 10.0 / group_size
    assert offs[1] < 1e-5
    assert offs[1] == pytest.approx(offs[0] / 100.0, rel=0.05)


def test_layer_norm_over_depth():
    """All gaps end at 9 pi^2/(2 l^2) and stay themselves to the last digits: a run in mpmath."""
    spectrum = PositionSpectrum.from_gaps(1.0, 0.5, 1e-10, 0.5 + 1e-11, positions=16)
    exact = [mp.mpf(x) for x in spectrum.gaps()]
    with mp.workdps(40):
        for _ in range(200):
            pushed = position_limit_push(spectrum, norm=normalizers.layer_norm(), slopes=RELU)
            spectrum = pushed.spectrum.scaled(2.0)
            exact = [_mp_relu(gap) for gap in exact]
        for gap, expected in zip(spectrum.gaps(), exact, strict=True):
            assert gap == pytest.approx(float(expected), rel=1e-12)
        far = exact[0] + exact[1] - exact[2]
        assert spectrum.contrast_distance == pytest.approx(float(far), rel=1e-6)
    assert spectrum.second_moment == pytest.approx(1.0, rel=1e-13)


def _mp_relu(gap):
    t = mp.acos(1 - gap)
    return gap - (mp.sin(t) - t * mp.cos(t)) / mp.pi


@pytest.mark.parametrize("centered", [True, False])
def test_dense_matrices(centered):
    """E[phi phi'/(RR')] with explicit determinants and inverses over 2 channels and 3 positions."""
    positions, channels = 3, 2
    q, w, b, x = 1.0, 0.3, 0.5, 0.1
    size = positions * channels
    eye = np.eye(positions)
    own, cross = (np.full((positions, positions), y) + (z - y) * eye for z, y in ((q, w), (b, x)))
    pair = np.block([[own, cross], [cross, own]])
    sigma = np.kron(pair.reshape(2, 3, 2, 3), np.eye(channels)[None, :, None, :])
    sigma = sigma.reshape(2 * size, 2 * size)
    project = np.eye(size) - (1.0 / size if centered else 0.0)
    both = np.kron(np.eye(2), project)
    value, vector = np.linalg.eigh(both @ sigma @ both)
    half = vector * np.sqrt(np.maximum(value, 0.0))
    nodes = np.exp(np.arange(-40.0, 14.0, 0.4))
    total = np.zeros((positions, positions))
    for s in nodes:
        tilt = np.empty((nodes.size, 2 * size, 1))
        tilt[:, :size, 0] = 2.0 * s / size
        tilt[:, size:, 0] = 2.0 * nodes[:, None] / size
        m = np.eye(2 * size) + half.T @ (tilt * half)
        tilted = half @ np.linalg.solve(m, np.broadcast_to(half.T, m.shape))
        weight = 0.16 / math.pi * np.sqrt(s * nodes / np.linalg.det(m))
        # The first channel of either sample.
        k = [channels * p for p in range(positions)]
        v1 = np.array([tilted[:, i, i] for i in k])
        v2 = np.array([tilted[:, size + i, size + i] for i in k])
        c = np.array([[tilted[:, i, size + j] for j in k] for i in k])
        root = np.sqrt(v1[:, None] * v2[None])
        t = np.arccos(np.clip(c / root, -1.0, 1.0))
        total += root * (np.sin(t) + (math.pi - t) * np.cos(t)) / (2.0 * math.pi) @ weight
    norm = _norm(channels, centered=centered, rms=not centered)
    spectrum = PositionSpectrum.from_gaps(q, 1 - w, 1 - b, 1 - x, positions=positions)
    pushed = position_push(spectrum, norm=norm, slopes=RELU).spectrum
    level, gaps = pushed.second_moment, pushed.gaps()
    assert total[0, 0] == pytest.approx(level * (1.0 - gaps[1]), rel=1e-7)
    assert total[0, 1] == pytest.approx(level * (1.0 - gaps[2]), rel=1e-7)


# --- simulation ---------------------------------------------------------------------------------------

SIMULATED = [
    (4, 2, _norm(2), RELU),
    (5, 1, _norm(1, eps=0.2, ddof=1), LEAKY),
    (6, 1, normalizers.filter_response_norm(), RELU),
    (3, 3, _norm(3, centered=False), RELU),
    (3, 3, _norm(3, rms=True), LEAKY),
]


def _draw(rng, spectrum, count, channels):
    """(2, count, channels, positions) from four independent fields."""
    s, contrast, mean, far, mean_far = spectrum
    fields = rng.standard_normal((2, count, channels, s))
    average = fields.mean(axis=-1, keepdims=True)
    rest = fields - average

    def both(part, size, distance):
        c = 1.0 - distance / size
        return math.sqrt(size) * np.stack([part[0], c * part[0] + math.sqrt(1 - c * c) * part[1]])

    return both(rest, contrast, far) + both(average, mean, mean_far)


def _apply(norm, h):
    """(d, y, R): numerator, what the denominator sees, denominator."""
    n = h.shape[-1] * h.shape[-2] - norm.ddof
    centered = h - h.mean(axis=(-2, -1), keepdims=True)
    d = centered if norm.centered else h
    y = h if norm.denominator == "rms" else centered
    return d, y, np.sqrt((y**2).sum(axis=(-2, -1), keepdims=True) / n + norm.eps), n


def _ray(x, slopes):
    return slopes[0] * np.maximum(x, 0.0) + slopes[1] * np.maximum(-x, 0.0)


def _matches(draws, theory, limit=5.0):
    assert abs(draws.mean() - theory) < limit * draws.std() / math.sqrt(draws.size)


@pytest.mark.parametrize(("positions", "channels", "norm", "slopes"), SIMULATED)
def test_moments_agree_with_simulation(positions, channels, norm, slopes):
    """200,000 groups, 5 |z| below 5: false alarm below 3e-6 each."""
    rng = np.random.default_rng(positions)
    spectrum = _spread(positions, 0.6, 1.2, 0.3).scaled(1.5)
    d, _, r, _ = _apply(norm, _draw(rng, spectrum, 200_000, channels))
    x, y = _ray(d / r, slopes)
    pushed = position_push(spectrum, norm=norm, slopes=slopes)
    q, gaps = pushed.spectrum.second_moment, pushed.spectrum.gaps()

    def beside(u, v):
        """Mean over ordered pairs of distinct positions, then channels."""
        pairs = u.sum(axis=-1) * v.sum(axis=-1) - (u * v).sum(axis=-1)
        return pairs.mean(axis=-1) / (positions * (positions - 1))

    _matches((x * x).mean(axis=(1, 2)), q)
    _matches(x.mean(axis=(1, 2)), pushed.activation_mean)
    _matches(beside(x, x), q * (1.0 - gaps[0]))
    _matches((x * y).mean(axis=(1, 2)), q * (1.0 - gaps[1]))
    _matches(beside(x, y), q * (1.0 - gaps[2]))


@pytest.mark.parametrize(
    ("positions", "channels", "norm", "slopes"), [*SIMULATED, (4, 4, _norm(4), RELU)]
)
@pytest.mark.parametrize("pair", [False, True])
def test_gradients_agree_with_simulation(positions, channels, norm, slopes, pair):
    """E[J' Pi J'] naively, pi = (1, 0.4): 150,000 groups, 24 |z| below 5: false alarm below 2e-5 in all."""
    rng = np.random.default_rng(100 + positions + channels)
    spectrum = _spread(positions, 0.6, 1.2, 0.3).scaled(1.5)
    if not pair:
        spectrum = spectrum._replace(contrast_distance=0.0, mean_distance=0.0)
    h = _draw(rng, spectrum, 150_000, channels)
    d, y, r, n = _apply(norm, h)
    # delta and delta' share a covariance over positions: 0.6 I + 0.4.
    count = h.shape[1]
    delta = math.sqrt(0.6) * rng.standard_normal((count, channels, positions))
    delta += math.sqrt(0.4) * rng.standard_normal((count, channels, 1))
    through = delta * np.where(d > 0.0, slopes[0], -slopes[1])
    own = through - through.mean(axis=(-2, -1), keepdims=True) if norm.centered else through
    shared = (through * d).sum(axis=(-2, -1), keepdims=True) / (n * r**3)
    first, second = own / r - shared * y
    step, _ = (position_pull if pair else position_pull_same)(spectrum, norm=norm, slopes=slopes)
    same, other = step @ [1.0, 0.4]
    _matches((first * second).mean(axis=(1, 2)), same)
    pairs = first.sum(axis=-1) * second.sum(axis=-1) - (first * second).sum(axis=-1)
    _matches(pairs.mean(axis=-1) / (positions * (positions - 1)), other)


# --- limits, tails, errors ----------------------------------------------------------------------------


@pytest.mark.parametrize(("positions", "channels"), [(4, 1), (3, 2), (16, 8), (1000, 10)])
@pytest.mark.parametrize("centered", [True, False])
def test_two_dimensions_tend_to_one(positions, channels, centered):
    """The derivative at nearly equal samples, distances 1e-26 of the eigenvalues, is that at equal ones.

    Corrections go as the root of the distance, times its inverse for a rank of 3.
    """
    norm = _norm(channels, centered=centered, rms=not centered)
    spectrum = _spread(positions, 0.3, 1e-26, 1e-26)
    near, _ = position_pull(spectrum, norm=norm, slopes=LEAKY)
    same, _ = position_pull_same(spectrum, norm=norm, slopes=LEAKY)
    if positions * channels > 4:
        np.testing.assert_allclose(near, same, rtol=1e-11)
    pushed = position_push(spectrum, norm=norm, slopes=LEAKY).spectrum
    # dK = T' dC, and the new distances to first order.
    moved = _adjoint(same, positions) @ _in_positions(spectrum)
    tolerance = 1e-11 if positions * channels > 4 else 1e-5
    np.testing.assert_allclose(_in_positions(pushed), moved, rtol=tolerance)


def _in_positions(spectrum):
    """(q - b, w - x)."""
    s, far, mean_far = spectrum.positions, spectrum.contrast_distance, spectrum.mean_distance
    return np.array([((s - 1) * far + mean_far) / s, (mean_far - far) / s])


def _adjoint(step, positions):
    """Adjoint for the weights (S, S(S-1)) of same and other positions."""
    weight = np.array([1.0, positions - 1.0])
    return step.T * weight[None, :] / weight[:, None]


def test_opposite_samples():
    """h' = -h: relu(x) relu(-x) = 0, and rounding beyond it does no harm."""
    for excess in (0.0, 1e-15):
        spectrum = _spread(16, 0.3, 2.0 * (1.0 + excess), 2.0 * (1.0 + excess))
        for norm in (_norm(4), _norm(1, eps=0.1), _norm(1, centered=False, rms=True)):
            pushed = position_push(spectrum, norm=norm, slopes=RELU)
            assert pushed.spectrum.gaps()[1] == pytest.approx(1.0, rel=1e-12)
            step, _ = position_pull(spectrum, norm=norm, slopes=RELU)
            assert np.isfinite(step).all()


def test_equal_samples_and_scale():
    norm = _norm(4)
    same = position_push(_spread(16, 0.3, 0.0, 0.0), norm=norm, slopes=RELU)
    assert same.spectrum[3:] == (0.0, 0.0)
    assert same.spectrum.gaps()[1] == 0.0
    assert same.spectrum.gaps()[2] == pytest.approx(same.spectrum.gaps()[0], rel=1e-15)
    spectrum = _spread(16, 0.3, 0.5, 0.2)
    plain = position_push(spectrum, norm=norm, slopes=RELU).spectrum
    step, _ = position_pull(spectrum, norm=norm, slopes=RELU)
    for factor in (1e-90, 1e90):
        scaled = position_push(spectrum.scaled(factor), norm=norm, slopes=RELU).spectrum
        np.testing.assert_allclose(scaled, plain, rtol=1e-13)
        other, _ = position_pull(spectrum.scaled(factor), norm=norm, slopes=RELU)
        np.testing.assert_allclose(factor * other, step, rtol=1e-13)


def test_spectrum_and_gaps():
    gaps = (0.4, 0.3, 0.6)
    spectrum = PositionSpectrum.from_gaps(2.0, *gaps, positions=5)
    assert spectrum.second_moment == pytest.approx(2.0, rel=1e-15)
    assert spectrum.gaps() == pytest.approx(gaps, rel=1e-14)
    assert spectrum.contrast == pytest.approx(0.8)
    assert spectrum.mean_distance == pytest.approx(2.0 * (0.3 + 4 * 0.2))
    alone = PositionSpectrum.from_gaps(2.0, 0.0, 0.3, 0.0, positions=1)
    assert alone.gaps() == pytest.approx((0.0, 0.3, 0.3))
    for bad in ((-0.1, 0.3, 0.6), (0.4, 0.9, 0.2), (0.1, 1.9, 0.5), (1.4, 0.3, 0.3)):
        with pytest.raises(SpecificationError, match="covariance"):
            PositionSpectrum.from_gaps(2.0, *bad, positions=5)


def test_heavy_tails():
    near = _spread(3, 0.4, 0.5, 0.5)
    step, _ = position_pull_same(near, norm=_norm(1), slopes=RELU)
    assert np.isinf(step).all()
    assert spectral_radius(step) == math.inf
    step, _ = position_pull(near, norm=_norm(1), slopes=RELU)
    assert np.isfinite(step).all()
    two = _spread(2, 0.4, 0.5, 0.5)
    frn = normalizers.filter_response_norm()
    assert np.isinf(position_pull_same(two, norm=frn, slopes=RELU)[0]).all()
    # N(h) = +-1: no gradient.
    assert not position_pull_same(two, norm=_norm(1), slopes=RELU)[0].any()
    assert not position_pull(two, norm=_norm(1), slopes=RELU)[0].any()
    pushed = position_push(two, norm=_norm(1), slopes=RELU).spectrum
    assert pushed.second_moment == pytest.approx(0.5, rel=1e-13)
    assert pushed.gaps()[0] == pytest.approx(1.0, rel=1e-13)
    # A raw numerator brings one more 1/R^2.
    raw = _norm(1, centered=False)
    assert np.isinf(position_pull_same(_spread(5, 0.4, 0, 0), norm=raw, slopes=RELU)[0]).all()
    assert np.isfinite(position_pull_same(_spread(6, 0.4, 0, 0), norm=raw, slopes=RELU)[0]).all()
    with pytest.raises(HypothesisError, match="rank 2"):
        position_push(near, norm=raw, slopes=RELU)
    alone = PositionSpectrum.from_gaps(1.0, 0.0, 0.2, 0.0, positions=1)
    step, _ = position_pull_same(alone, norm=_norm(3), slopes=RELU)
    assert step.tolist() == [[math.inf, 0.0], [0.0, 0.0]]
    # Identical positions leave the channels' rank.
    flat = _spread(4, 0.0, 0.0, 0.0)
    assert np.isinf(position_pull_same(flat, norm=_norm(3), slopes=RELU)[0]).all()
    assert np.isfinite(position_pull_same(flat, norm=_norm(4), slopes=RELU)[0]).all()


def test_what_does_not_apply():
    spectrum = _spread(4, 0.4, 0.5, 0.5)
    for norm in (normalizers.batch_norm(), normalizers.layer_norm(), normalizers.evonorm_s0(4)):
        with pytest.raises(HypothesisError, match="another route"):
            position_push(spectrum, norm=norm, slopes=RELU)
    with pytest.raises(HypothesisError, match="another route"):
        position_limit_push(spectrum, norm=_norm(4), slopes=RELU)
    with pytest.raises(HypothesisError, match="identical"):
        position_push(_spread(4, 0.0, 0.0, 0.2), norm=_norm(1), slopes=RELU)
    with pytest.raises(HypothesisError, match="identical"):
        position_push(_spread(4, 0.0, 0.0, 0.2), norm=_norm(1, eps=0.1), slopes=RELU)
    alone = PositionSpectrum.from_gaps(1.0, 0.0, 0.2, 0.0, positions=1)
    with pytest.raises(HypothesisError, match="positions = 1"):
        position_push(alone, norm=_norm(1), slopes=RELU)
    for push, norm in ((position_push, _norm(2)), (position_limit_push, normalizers.layer_norm())):
        with pytest.raises(NumericalError, match="second_moment"):
            push(PositionSpectrum(4, 0.0, 0.0, 0.0, 0.0), norm=norm, slopes=RELU)


def test_stated_errors_are_honest(monkeypatch):
    """200 random pools: nearly twice as fine and reaching further, nothing moves by 10 x stated + 1e-13."""
    rng = np.random.default_rng(11)
    cases = []
    for _ in range(200):
        positions = int(rng.choice([2, 3, 4, 7, 16, 100, 10_000]))
        rms, centered = rng.random() < 0.4, rng.random() < 0.7
        least = -(-7 // positions)
        norm = _norm(
            least + int(10.0 ** rng.uniform(-1, 2)),
            centered=bool(centered),
            rms=bool(rms),
            eps=float(10.0 ** rng.uniform(-6, 1)) if rng.random() < 0.3 else 0.0,
        )
        gap_w = float(10.0 ** rng.uniform(-12, 0))
        far, mean_far = (float(2.0 * 10.0 ** rng.uniform(-14, 0)) for _ in range(2))
        cases.append(
            (_spread(positions, gap_w, far, mean_far), norm, (1.0, rng.uniform(-0.5, 0.5)))
        )

    def table():
        for spectrum, norm, slopes in cases:
            pushed = position_push(spectrum, norm=norm, slopes=slopes)
            pulled = position_pull(spectrum, norm=norm, slopes=slopes)
            same = position_pull_same(spectrum, norm=norm, slopes=slopes)
            yield (
                np.array([*pushed.spectrum[1:], pushed.activation_mean]),
                pushed.errors,
                pulled,
                same,
            )

    found = list(table())
    monkeypatch.setattr(positions_core, "_SPACING", 1.0 / 11.0)
    monkeypatch.setattr(positions_core, "_DROP", 60.0)
    for (value, errors, *pulls), (finer, _, *finer_pulls) in zip(found, table(), strict=True):
        assert np.all(np.abs(value - finer) <= (10.0 * np.array(errors) + 1e-13) * np.abs(finer))
        for (step, error), (other, _) in zip(pulls, finer_pulls, strict=True):
            off = np.linalg.norm(step - other) / np.linalg.norm(other)
            assert off <= 10.0 * error + 1e-13


def test_the_error_of_a_step_is_relative_to_its_norm():
    """Frobenius norm where (pi_b, sqrt(S-1) pi_x) are the coordinates: by hand for S = 5."""
    norm = _norm(2)
    spectrum = PositionSpectrum.from_gaps(1.0, 0.5, 0.3, 0.6, positions=5)
    pool, unit = positions_core.position_pool(spectrum, norm=norm, slopes=RELU)
    fine = np.array([[[2.0, 3.0], [1.0, 4.0]]])
    coarse = fine.copy()
    coarse[0, 0, 1] *= 1.0 - 1e-4
    coarse[0, 1, 0] *= 1.0 + 4e-4
    _, error = positions_pull._matrix(pool, unit, (fine, coarse, np.zeros_like(fine)))
    # (1e-4)^(3/2) of sqrt(4) 3 and (4e-4)^(3/2) of 1/sqrt(4), beside 2 and 4.
    size = math.sqrt(2.0**2 + 6.0**2 + 0.5**2 + 4.0**2)
    assert error == pytest.approx(math.hypot(1e-6 * 6.0, 8e-6 * 0.5) / size, rel=1e-3)


def test_where_an_integrand_ends():
    """The last place but one of a grid may still be above e^-DROP; the last may not."""
    x, low = np.arange(5.0), -2.0 * positions_core._DROP
    assert positions_core._last_above(x, np.array([0.0, 0.0, 0.0, 0.0, low])) == 4.0
    assert positions_core._last_above(x, np.array([low, 0.0, low, low, low])) == 2.0
    with pytest.raises(NumericalError, match="decays too slowly"):
        positions_core._last_above(x, np.zeros(5))


def test_pools_that_leave_positions_apart_need_a_single_one():
    pool = Pool(samples=False, positions=False, channels=4)
    norm = Normalizer(name="GN", pool=pool, centered=True, denominator="std")
    alone = PositionSpectrum.from_gaps(1.0, 0.0, 0.3, 0.0, positions=1)
    pool, _ = positions_core.position_pool(alone, norm=norm, slopes=RELU)
    assert pool.divisor == 4.0
    for positions in (2, 3):
        several = PositionSpectrum.from_gaps(1.0, 0.5, 0.3, 0.6, positions=positions)
        with pytest.raises(HypothesisError, match="over positions"):
            positions_core.position_pool(several, norm=norm, slopes=RELU)
