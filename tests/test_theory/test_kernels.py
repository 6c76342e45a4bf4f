"""Every kernel of the routes has an oracle in mpmath: the list, a check of the list, and its last gaps.

A kernel is a public function of ``theory.routes`` that computes an expectation.  What samples is compared
with those (``test_sampled.py``), what plans or dispatches has no formula.
"""

from __future__ import annotations

import ast
import json
import math
from functools import cache
from itertools import pairwise
from pathlib import Path

import mpmath as mp
import numpy as np
import pool_oracles
import pytest
from rectangle_oracles import mp_oracle
from two_pools_oracle import floats, similarity

from theory.routes.batchnorm import cross_batch_similarity
from theory.routes.gate_limits import b0_slope
from theory.routes.laplace_fields import forward, pullback
from theory.routes.laplace_pairs import group_eps_gap, group_eps_moments, group_eps_slope
from theory.routes.positions_batch_pools import two_pool_similarity
from theory.routes.positions_limits import (
    position_limit_pull,
    position_limit_pull_same,
    position_limit_push,
)
from theory.routes.positions_pull import position_pull_same
from theory.routes.positions_spectrum import PositionSpectrum
from theory.routes.reflected_walk import added_activations
from theory.routes.scaled_walk import scaled_walk
from theory.routes.scaled_walk_law import scaled_walk_law
from theory.routes.sphere_step_walk import sphere_step_walk
from theory.routes.walk_density import walk_law
from theory.specs.activations import leaky_relu
from theory.specs.normalizers import Normalizer, Pool, batch_norm, group_norm, instance_norm

TESTS = Path(__file__).parent
ROUTES = TESTS.parents[1] / "theory" / "routes"

ORACLES = {
    "arccosine.angle": "test_arccosine.test_kappa0_and_angle",
    "arccosine.angle_scalar": "test_arccosine.test_kappa0_and_angle",
    "arccosine.kappa0": "test_arccosine.test_kappa0_and_angle",
    "arccosine.one_minus_kappa1": "test_arccosine.test_one_minus_kappa1_keeps_relative_precision",
    "arccosine.one_minus_kappa1_scalar": "test_reference_values.test_one_minus_kappa1_near_one",
    "arccosine.ray_gap": "test_arccosine.test_ray_duals",
    "arccosine.ray_gap_scalar": "test_arccosine.test_ray_duals",
    "arccosine.ray_mean": "test_arccosine.test_one_sample_moments_by_quadrature",
    "arccosine.ray_second_moment": "test_arccosine.test_one_sample_moments_by_quadrature",
    "arccosine.ray_slope": "test_arccosine.test_ray_duals",
    "arccosine.ray_slope_scalar": "test_arccosine.test_ray_duals",
    "batchnorm.batch_factors": "test_batchnorm.test_closed_forms_match_mpmath",
    "batchnorm.batch_moments": "test_batchnorm.test_closed_forms_match_mpmath",
    "batchnorm.batch_pullback": "test_batchnorm.test_gradient_growth_is_lambda_b",
    "batchnorm.chi_mean": "test_batchnorm.test_chi_mean_matches_mpmath",
    "batchnorm.cross_batch_similarity": "test_kernels.test_batches_apart",
    "cylinder_nodes.cylinder_nodes": "test_raised_streams.test_moments_of_a_step",
    "cylinder_step.cylinder_step": "test_raised_streams.test_moments_of_a_step",
    "flight_signs.flight_signs": "test_flights.test_signs_after_steps_on_a_circle",
    "fourth_flight.fourth_powers": "test_raised_streams.test_inverse_fourth_powers_of_a_flight",
    "functions.base_function": "test_functions.test_value_and_derivative_match_mpmath",
    "gate_limits.b0_gap": "test_gates.test_b0_gap_against_nested_quadrature",
    "gate_limits.b0_moments": "test_gates.test_b0_moments_against_mpmath",
    "gate_limits.b0_slope": "test_kernels.test_gate_slope",
    "gated_walk.gated_walk": "test_population_gates.test_three_blocks_by_nested_quadrature",
    "gaussian.pair_gap": "test_gaussian.test_nested_quadrature_table",
    "gaussian.second_moment_and_mean": "test_gaussian.test_smooth_moments_by_quadrature",
    "gaussian.slope": "test_gaussian.test_nested_quadrature_table",
    "groupnorm.group_gap": "test_groupnorm.test_relu_map_is_accurate_everywhere",
    "groupnorm.group_moments": "test_groupnorm.test_random_identity_cases",
    "groupnorm.group_slope": "test_groupnorm.test_own_slope",
    "hotelling.expect": "test_hotelling.test_relu_map_against_the_density",
    "hotelling.expect_slope": "test_hotelling.test_relu_slope_against_differences_of_the_density",
    "laplace.exchangeable_forward": "test_laplace.test_variance_norm_against_nested_quadrature",
    "laplace.forward": "test_laplace.test_hard_cases_against_mpmath",
    "laplace_backward.exchangeable_pullback": (
        "test_laplace_backward.test_two_groups_of_modes_are_a_beta_integral"
    ),
    "laplace_backward.pullback": (
        "test_laplace_backward.test_two_groups_of_modes_are_a_beta_integral"
    ),
    "laplace_fields.forward": "test_kernels.test_two_fields_of_three_positions",
    "laplace_fields.pullback": "test_kernels.test_gradient_of_a_field",
    "laplace_pairs.group_eps_gap": "test_kernels.test_groups_of_channels",
    "laplace_pairs.group_eps_moments": "test_kernels.test_groups_of_channels",
    "laplace_pairs.group_eps_slope": "test_kernels.test_groups_of_channels",
    "laplace_pools.two_pool_similarity": "test_two_pools_oracle.test_two_batches_of_three",
    "pair_density.pair_density_law": "test_pair_streams.test_two_blocks_of_a_pair_in_high_precision",
    "positions_batch.forward": "test_positions_batch.test_hard_states_against_mpmath",
    "positions_batch_backward.pullback": "test_positions_batch.test_hard_states_against_mpmath",
    "positions_batch_pools.two_pool_similarity": "test_kernels.test_two_pools_over_positions",
    "positions_lens.lens": "test_positions_pairs.test_lens_and_its_differences",
    "positions_limits.position_limit_pull": "test_kernels.test_layers_over_positions",
    "positions_limits.position_limit_pull_same": "test_kernels.test_layers_over_positions",
    "positions_limits.position_limit_push": "test_kernels.test_layers_over_positions",
    "positions_pairs.position_push": "test_positions_pairs.test_nested_quadrature",
    "positions_pull.position_pull": "test_positions_pairs.test_nested_quadrature",
    "positions_pull.position_pull_same": "test_kernels.test_gradient_within_a_sample",
    "random_flight.random_flight": "test_flights.test_one_step_is_a_noncentral_chi_square",
    "random_flight.sphere_series": "test_shared_flight.test_characteristic_function_of_a_sphere",
    "reflected_walk.added_activations": "test_kernels.test_added_activations",
    "reflected_walk.reflected_walk": "test_reflected_walk.test_spitzer_in_high_precision",
    "scaled_walk.scaled_walk": "test_kernels.test_scaled_walk",
    "scaled_walk_law.scaled_walk_law": "test_kernels.test_three_steps_of_a_scaled_walk",
    "shared_flight.student": "test_shared_flight.test_characteristic_function_of_student",
    "slope_drop.slope_drop": "test_raised_streams.test_drops_of_slopes",
    "sphere_step_walk.sphere_step_walk": "test_kernels.test_three_steps_along_a_sphere",
    "sphere_walk.sphere_step": "test_stream_prediction.test_steps_of_a_sphere_walk_in_high_precision",
    "spherical.sphere_gap_function": "test_spherical.test_gap_function_of_sin",
    "spherical.sphere_moments": "test_spherical.test_moments",
    "spherical.sphere_pair": "test_spherical.test_nested_quadrature_in_five_dimensions",
    "walk_density.walk_law": "test_kernels.test_walk_law",
}

SAMPLERS = {
    "fields", "field_pools", "rqmc", "rqmc_blocks", "rqmc_groups", "rqmc_pool", "sampled",
    "spatial_sampled",
}  # fmt: skip
"""Modules of Sobol' points: their expectations have standard errors, calibrated in test_sampled.py."""

PLANS = {
    "base", "batchnorm.batch_status", "bivariate", "dispatch", "grid", "group_table",
    "laplace.check_exchangeable",
    "laplace.exchangeable_nodes", "laplace.mean_variance", "laplace_core", "laplace_fields.seconds",
    "pools", "positions_batch.geometry", "positions_batch.moment_nodes", "positions_batch.pools",
    "positions_batch.quadrature", "positions_batch.untilted", "positions_core",
    "positions_lens.half_angle", "positions_pairs.pair_tilt", "positions_pairs.sum_error",
    "positions_pull.spectral_radius", "random_flight.flight_fits", "random_flight.radial_nodes",
    "rectangle", "spatial", "sphere_walk.mean_inverse", "sphere_walk.poisson",
}  # fmt: skip
"""Nodes, tilts, conditions and dispatch: parts of the kernels above, or no numbers."""


def public(path: Path) -> set[str]:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    names = [node.name for node in body if isinstance(node, ast.FunctionDef)]
    return {f"{path.stem}.{name}" for name in names if not name.startswith("_")}


@cache
def oracle_tests(name: str) -> frozenset[str]:
    """Tests of a module that use mpmath: by name, through helpers, or from a table computed with it."""
    body = ast.parse((TESTS / f"{name}.py").read_text(encoding="utf-8")).body
    known = {"mp", "mpmath"}
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            source = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            if source is not None and source.endswith(("_oracle", "_oracles")):
                known |= {alias.asname or alias.name for alias in node.names}
    parts: dict[str, ast.AST] = {n.name: n for n in body if isinstance(n, ast.FunctionDef)}
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            parts[node.targets[0].id] = node
            if any(word in ast.unparse(node) for word in ("_truth.json", "reference_values.json")):
                known.add(node.targets[0].id)
    while True:
        more = {key for key, node in parts.items() if _names(node) & known} - known
        if not more:
            return frozenset(key for key in known if key.startswith("test_"))
        known |= more


def _names(node: ast.AST) -> set[str]:
    return {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}


def test_every_kernel_is_on_the_list() -> None:
    found = set().union(*(public(path) for path in ROUTES.glob("*.py")))
    accounted = {
        name for name in found if {name, name.split(".")[0]} & (ORACLES.keys() | PLANS | SAMPLERS)
    }
    assert found == accounted
    assert ORACLES.keys() <= found


@pytest.mark.parametrize("kernel", ORACLES)
def test_its_oracle_uses_mpmath_and_calls_it(kernel: str) -> None:
    module, test = ORACLES[kernel].split(".")
    assert test in oracle_tests(module)
    assert kernel.split(".")[1] in (TESTS / f"{module}.py").read_text(encoding="utf-8")


def test_oracles_import_nothing_of_ours() -> None:
    for path in TESTS.parent.glob("*_oracle*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                source = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                assert (source or "").split(".")[0] not in ("theory", "montecarlo"), path.name


# --- the last gaps -------------------------------------------------------------------------------------

DIGITS = 30
SLOPES = (1.0, -0.2)
LEAKY = leaky_relu(0.2)
TRUTH = json.loads((TESTS.parent / "positions_truth.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("batch", [2, 3, 4, 17])
def test_batches_apart(batch: int) -> None:
    """E[x]^2/E[x^2], d/R = sqrt(B - 1) times a coordinate of the sphere in B - 1 dimensions."""
    with mp.workdps(DIGITS):
        n, (a, b) = mp.mpf(batch - 1), map(mp.mpf, SLOPES)
        # E|e_1| = Gamma(n/2)/(sqrt(pi) Gamma((n+1)/2)), E e_1^2 = 1/n.
        first = mp.gamma(n / 2) / (mp.sqrt(mp.pi) * mp.gamma((n + 1) / 2)) * (a + b) / 2
        exact = first**2 / ((a * a + b * b) / 2 / n)
    value, error = cross_batch_similarity(LEAKY, batch=batch)
    assert value == pytest.approx(float(exact), rel=10.0 * error + 1e-14)


@pytest.mark.parametrize("gate", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("gap", [1e-6, 0.05, 0.8, 1.6])
def test_gate_slope(gap: float, gate: float) -> None:
    """P(v t < 1), t = z/sqrt(gap)."""
    with mp.workdps(DIGITS):
        exact = mp.ncdf(mp.sqrt(mp.mpf(gap)) / mp.mpf(gate))
    assert b0_slope(gap, gate=gate) == pytest.approx(float(exact), rel=1e-14)


@pytest.mark.parametrize("row", [row for row in TRUTH if row["positions"] == 1])
def test_groups_of_channels(row: dict) -> None:
    """One position: the table's K_q, D_m' and T_bb are second moment, gap and slope."""
    if row["group_size"] == 1:
        options = {"group_size": 1, "centered": False}
    else:
        options = {"group_size": row["group_size"], "centered": row["centered"]}
    options |= {"ddof": row["ddof"], "eps": row["eps"], "slopes": tuple(row["slopes"])}
    q, gap = row["mean"], row["mean_distance"] / row["mean"]
    _, k_q, _, distance, mean = map(float, row["values"])
    value, first, error = group_eps_moments(q, **options)
    assert value == pytest.approx(k_q, rel=10.0 * error + 1e-13)
    assert first == pytest.approx(mean, rel=10.0 * error + 1e-13)
    value, error = group_eps_gap(q, q, gap, **options)
    assert value == pytest.approx(distance / k_q, rel=10.0 * error + 1e-13)
    if row["pull"] is not None:
        value, error = group_eps_slope(q, q, gap, **options)
        assert value == pytest.approx(float(row["pull"][0][0]), rel=10.0 * error + 1e-13)


@pytest.mark.parametrize(("size", "ddof"), [(1, 0), (2, 1)])
def test_one_number_per_pool(size: int, ddof: int) -> None:
    """Rank 1 and eps: x = phi(d/sqrt(size d^2/N + eps)) of one Gaussian d; plain quadrature of two."""
    q1, q2, gap, eps = 1.3, 0.7, 0.4, 0.2
    with mp.workdps(DIGITS):
        variances = [mp.mpf(q) / size for q in (q1, q2)]
        c, factor = 1 - mp.mpf(gap), mp.mpf(size) / (size - ddof)
        points, weights = pool_oracles._legendre(20)
        edges = [mp.mpf(x) for x in (0, 0.5, 1, 2, 3.5, 5.5, 8, 11)]
        nodes = [
            (low + (high - low) * (1 + x) / 2, (high - low) / 2 * w)
            for low, high in pairwise(edges)
            for x, w in zip(points, weights, strict=True)
        ]

        def table(variance: mp.mpf) -> list[tuple[mp.mpf, ...]]:
            """z, weight, f(d) and f'(d) for d = sqrt(variance) z > 0, slopes 1."""
            rows = []
            for z, w in nodes:
                d = mp.sqrt(variance) * z
                root = mp.sqrt(factor * d * d + mp.mpf(eps))
                rows.append((z, w, d / root, mp.mpf(eps) / root**3))
            return rows

        one, two = (table(variance) for variance in variances)
        a, b = map(mp.mpf, SLOPES)
        norm = 1 / (2 * mp.pi * mp.sqrt(1 - c * c))
        value = slope = mp.mpf(0)
        for x, w, f, df in one:
            for y, v, g, dg in two:
                near, far = (
                    w * v * norm * mp.exp(-(x * x + y * y - 2 * s * c * x * y) / (2 * (1 - c * c)))
                    for s in (1, -1)
                )
                # phi(d) = a d, phi(-d) = b d for d > 0: both of one sign, or of two.
                value += f * g * ((a * a + b * b) * near + 2 * a * b * far)
                slope += df * dg * ((a * a + b * b) * near - 2 * a * b * far)
        own = [
            (a * a + b * b) * mp.fsum(w * mp.npdf(z) * f * f for z, w, f, _ in rows)
            for rows in (one, two)
        ]
        exact_gap = float(1 - value / mp.sqrt(own[0] * own[1]))
        exact = [float(x) for x in own]
        # dK/dp: Cov(d, d') = p/size.
        exact_slope = float(slope / size)
    options = {
        "group_size": size, "centered": size > 1, "ddof": ddof, "eps": eps, "slopes": SLOPES,
    }  # fmt: skip
    moments, _, error = group_eps_moments(np.array([q1, q2]), **options)
    np.testing.assert_allclose(moments, exact, rtol=10.0 * error + 1e-13)
    found, error = group_eps_gap(q1, q2, gap, **options)
    assert found == pytest.approx(exact_gap, rel=10.0 * error + 1e-13)
    found, error = group_eps_slope(q1, q2, gap, **options)
    assert found == pytest.approx(exact_slope, rel=10.0 * error + 1e-13)


def test_two_fields_of_three_positions() -> None:
    """InstanceNorm of two images whose three positions differ: two angles (two_pools_oracle)."""
    rng = np.random.default_rng(8)
    z = rng.standard_normal((6, 9)) + rng.standard_normal((1, 9))
    with mp.workdps(DIGITS):
        exact = floats(similarity(z, SLOPES, 24))
    q, gap = pool_oracles.inputs(z)
    _, found, _, error = forward(q, gap, norm=instance_norm(), slopes=SLOPES, batch=2)
    assert error < 1e-11
    assert np.abs(1.0 - found[:3, 3:] - exact).max() <= 10.0 * error


def test_two_pools_over_positions() -> None:
    """Two batches of one sample at three exchangeable positions."""
    q, gaps = 1.3, (0.7, 0.4, 0.9)
    same, beside, across, other = (q * (1.0 - gap) for gap in (0.0, *gaps))
    own = (same - beside) * np.eye(3) + beside
    cross = (across - other) * np.eye(3) + other
    z = np.linalg.cholesky(np.block([[own, cross], [cross, own]]))
    with mp.workdps(DIGITS):
        exact = floats(similarity(z, SLOPES, 24))
    here, there, error = two_pool_similarity(
        q, *gaps, batch=1, positions=3, norm=batch_norm(), slopes=SLOPES
    )
    assert error < 1e-10
    assert here == pytest.approx(exact[0, 0], abs=10.0 * error)
    assert there == pytest.approx(exact[0, 1], abs=10.0 * error)


def _channels_as_samples(eps: float, pi_w: float) -> tuple[Normalizer, list[float]]:
    """Two independent channels of one group are two independent samples of one pool."""
    pooled = Normalizer(
        name="pool",
        pool=Pool(samples=True, positions=True, channels=1),
        centered=True,
        denominator="std",
        eps=eps,
    )
    gradient = (1.0, pi_w, 0.0, 0.0)
    exact = mp_oracle(
        1.3, (0.6, 1.0, 1.0), gradient, batch=2, positions=3, norm=pooled, slopes=SLOPES
    )
    return group_norm(2, eps=eps), [float(x) for x in exact[5:7]]


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_gradient_within_a_sample(eps: float) -> None:
    """E[J' Pi J] of a group of two channels over three positions."""
    norm, exact = _channels_as_samples(eps, 0.3)
    spectrum = PositionSpectrum.from_gaps(1.3, 0.6, 0.5, 0.8, positions=3)
    step, error = position_pull_same(spectrum, norm=norm, slopes=SLOPES)
    assert step @ [1.0, 0.3] == pytest.approx(exact, abs=exact[0] * (10.0 * error + 1e-13))


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_gradient_of_a_field(eps: float) -> None:
    """The same numbers from a full covariance of one sample."""
    norm, exact = _channels_as_samples(eps, 0.3)
    off = 1.0 - np.eye(3)
    found, error = pullback(
        np.full(3, 1.3), 0.6 * off, np.eye(3) + 0.3 * off, norm=norm, slopes=SLOPES, batch=1
    )
    wanted = exact[0] * np.eye(3) + exact[1] * off
    assert np.abs(found - wanted).max() <= exact[0] * (10.0 * error + 1e-12)


@pytest.mark.parametrize("s", [2, 4])
@pytest.mark.parametrize("gaps", [(0.6, 0.5, 0.8), (0.3, 1e-9, 0.3), (1.2, 1.0, 1.0)])
def test_layers_over_positions(gaps: tuple[float, float, float], s: int) -> None:
    """G = inf: V(c) pair by pair, in differences of 40 digits."""
    q, eps = 1.7, 0.2
    spectrum = PositionSpectrum.from_gaps(q, *gaps, positions=s)
    norm = Normalizer(
        name="LN",
        pool=Pool(samples=False, positions=True, channels=math.inf),
        centered=True,
        denominator="std",
        eps=eps,
    )
    with mp.workdps(40):
        a, b = map(mp.mpf, SLOPES)
        lp, lm, dp, dm = map(mp.mpf, spectrum[1:])
        total = ((s - 1) * lp + lm) / s
        scale = total + mp.mpf(eps)
        entries = [total, (lm - lp) / s]
        entries += [((s - 1) * (lp - dp) + lm - dm) / s, (lm - dm - lp + dp) / s]
        angles = [mp.acos(min(e / total, mp.mpf(1))) for e in entries]
        bend, straight = (a + b) ** 2 / (2 * mp.pi), (a * a + b * b) / 2
        slopes = [(straight - bend * t) / scale for t in angles]
        k = [
            total / scale * (straight * mp.cos(t) + bend * (mp.sin(t) - t * mp.cos(t)))
            for t in angles
        ]
        exact = [k[0] - k[1], k[0] + (s - 1) * k[1]]
        exact += [exact[0] - k[2] + k[3], exact[1] - k[2] - (s - 1) * k[3]]
        exact += [(a + b) * mp.sqrt(total / scale / (2 * mp.pi))]
        exact, slopes = [float(x) for x in exact], [float(x) for x in slopes]
    pushed = position_limit_push(spectrum, norm=norm, slopes=SLOPES)
    values = [*pushed.spectrum[1:], pushed.activation_mean]
    for value, truth, error in zip(values, exact, pushed.errors, strict=True):
        assert abs(value - truth) <= (10.0 * error + 1e-15) * abs(truth)
    across, error = position_limit_pull(spectrum, norm=norm, slopes=SLOPES)
    within, _ = position_limit_pull_same(spectrum, norm=norm, slopes=SLOPES)
    np.testing.assert_allclose(across, np.diag([slopes[2], slopes[3]]), rtol=10.0 * error + 1e-14)
    np.testing.assert_allclose(within, np.diag(slopes[:2]), rtol=10.0 * error + 1e-14)


def test_added_activations() -> None:
    """x_L = a^L x_0 + b sum_k a^{L-k} y_k: sums of powers instead of the recursion."""
    depth, a, b, mu, v = 12, 0.8, 0.5, 0.4, 0.6
    products = np.linspace(0.2, 0.5, depth)
    found = added_activations(
        depth, mean=mu, second_moment=v, products=products, start=(0.3, 1.1, 0.4), skip=a, branch=b
    )
    with mp.workdps(DIGITS):
        factors = [mp.mpf(b) * mp.mpf(a) ** (depth - k) for k in range(1, depth + 1)]
        start, m = mp.mpf(a) ** depth, mp.mpf(mu)
        mean = start * mp.mpf(0.3) + m * mp.fsum(factors)

        def square(own: float, terms: list[float]) -> mp.mpf:
            """Mean squared plus variances (covariances)."""
            spread = start**2 * (mp.mpf(own) - mp.mpf(0.3) ** 2)
            parts = [f * f * (mp.mpf(x) - m * m) for f, x in zip(factors, terms, strict=True)]
            return mean**2 + spread + mp.fsum(parts)

        exact = [mean, square(1.1, [v] * depth), square(0.4, products.tolist())]
    values = (found.mean[-1], found.second_moment[-1], found.product[-1])
    assert values == pytest.approx([float(x) for x in exact], rel=1e-14)


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_walk_law(depth: int) -> None:
    """Spitzer: E[x_l] = sum_k 1/sqrt(2 pi k), and E[x_l^2], from x_0 = 0."""
    with mp.workdps(DIGITS):
        first = [1 / mp.sqrt(2 * mp.pi * k) for k in range(1, depth + 1)]
        pairs = mp.fsum(x * y for i, x in enumerate(first) for y in first[: depth - 1 - i])
        exact = float(mp.fsum(first)), float(mp.mpf(depth) / 2 + pairs)
        zero = float(mp.binomial(2 * depth, depth) / mp.mpf(4) ** depth)
    law = walk_law(depth)
    assert (law.mean[-1], law.second_moment[-1]) == pytest.approx(exact, rel=1e-12)
    assert law.zero[-1] == pytest.approx(zero, rel=1e-12)


def test_scaled_walk() -> None:
    """For k = a/sqrt(r) given, y' = k relu(y) + s z is linear in its law: no iteration over r."""
    s, k, c = 0.9, 0.6, 0.3
    with mp.workdps(20):
        points, weights = pool_oracles._legendre(20)
        width, panels = mp.mpf(2), 5
        y = [width * (p + (1 + x) / 2) for p in range(panels) for x in points]
        w = [width / 2 * x for _ in range(panels) for x in weights]

        def normal(x: mp.mpf) -> mp.mpf:
            return mp.npdf(x, 0, s)

        kernel = [[normal(u - k * v) for v in y] for u in y]
        start = [normal(u) for u in y]
        law = [x / 2 for x in w]
        for _ in range(60):
            rest = 1 - mp.fsum(law)
            law = [
                weight * (mp.fdot(row, law) + rest * at)
                for weight, row, at in zip(w, kernel, start, strict=True)
            ]
        r = mp.fdot(law, [u * u for u in y])
        a = k * mp.sqrt(r)
        value, growth = [mp.mpf(1)] * len(y), mp.mpf(0)
        columns = list(zip(*kernel, strict=True))
        for _ in range(60):
            shared = mp.mpf(c) * mp.fdot(law, value)
            weighted = [x * v for x, v in zip(w, value, strict=True)]
            value = [a * a * mp.fdot(row, weighted) + shared for row in columns]
            growth = max(value)
            value = [v / growth for v in value]
    found = scaled_walk(s, skip=float(a), branch_gradient=c)
    assert found.second_moment == pytest.approx(float(r), rel=1e-11)
    assert found.gradient == pytest.approx(float(growth), rel=1e-10)


@cache
def rule(order: int, digits: int) -> list[tuple[mp.mpf, mp.mpf]]:
    with mp.workdps(digits):
        return list(zip(*pool_oracles._legendre(order), strict=True))


def nodes_between(*edges: float, order: int = 20) -> list[tuple[mp.mpf, mp.mpf]]:
    """Gauss-Legendre points of each panel: (place, weight)."""
    ends = [mp.mpf(x) for x in edges]
    return [
        (low + (high - low) * (1 + x) / 2, (high - low) / 2 * w)
        for low, high in pairwise(ends)
        if high > low
        for x, w in rule(order, DIGITS)
    ]


@pytest.mark.parametrize(("mean", "centered"), [(0.0, False), (0.4, True)])
def test_three_steps_of_a_scaled_walk(mean: float, centered: bool) -> None:
    """In the stream's own units; the last step of each moment in closed form, atoms by Gaussian tails."""
    size, skip, c = 1.3, 0.8, 0.7

    def step(ratio: float, _: float = 0.0) -> float:
        return size * math.sqrt(1.0 - ratio * ratio) if centered else size

    with mp.workdps(DIGITS):
        a, gain = mp.mpf(skip), mp.mpf(c)

        def deviation(first: mp.mpf, second: mp.mpf) -> mp.mpf:
            """Of the branch: s sqrt(q), or s sqrt(q - m^2) where rows are centered."""
            return mp.mpf(size) * mp.sqrt(second - (first**2 if centered else 0))

        def moments(center: mp.mpf, spread: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
            """E[u+], E[u+^2] of u = center + spread z."""
            u = center / spread
            inside, density = mp.ncdf(u), mp.npdf(u)
            return (
                spread * (u * inside + density),
                spread**2 * ((u * u + 1) * inside + u * density),
            )

        m = mp.mpf(mean)
        start = mp.sqrt(a**2 * (1 - m**2) + deviation(m, mp.mpf(1)) ** 2)
        one, two = moments(a * m, start)
        places = nodes_between(*range(0, 22, 3))
        law = [w * mp.npdf(x, a * m, start) for x, w in places]
        atom, seconds = mp.ncdf(-a * m / start), [two]
        firsts, laws, atoms, spreads = [one], [law], [atom], [deviation(one, two)]
        for _ in range(2):
            spread = spreads[-1]
            after = [moments(a * x, spread) for x, _ in places]
            at_zero = moments(mp.mpf(0), spread)
            for k, found in enumerate((firsts, seconds)):
                found.append(mp.fdot(law, [pair[k] for pair in after]) + atom * at_zero[k])
            dead = [mp.ncdf(-a * x / spread) for x, _ in places]
            density = [
                mp.fdot(law, [mp.npdf(y, a * x, spread) for x, _ in places])
                + atom * mp.npdf(y, 0, spread)
                for y, _ in places
            ]
            atom = mp.fdot(law, dead) + atom / 2
            law = [w * f for (_, w), f in zip(places, density, strict=True)]
            laws.append(law)
            atoms.append(atom)
            spreads.append(deviation(firsts[-1], seconds[-1]))
        # v_3 = 1, v_2, v_1 at the places and at 0; what a branch returns is one number.
        alive = [1 - p for p in atoms]
        shared = [gain * alive[2]]
        last = [a**2 * mp.ncdf(a * x / spreads[1]) + shared[0] for x, _ in places]
        last_at_zero = a**2 / 2 + shared[0]
        gradients = [mp.mpf(1), mp.fdot(laws[1], last) + atoms[1] * last_at_zero]
        shared.append(gain * mp.fdot(laws[1], last))
        weighted = [w * v for (_, w), v in zip(places, last, strict=True)]

        def first_value(x: mp.mpf) -> mp.mpf:
            kept = mp.fdot(weighted, [mp.npdf(y, a * x, spreads[0]) for y, _ in places])
            return a**2 * kept + shared[1]

        values = [first_value(x) for x, _ in places]
        shared.append(gain * mp.fdot(laws[0], values))
        gradients.append(mp.fdot(laws[0], values) + atoms[0] * first_value(mp.mpf(0)))
        exact = [
            [float(mp.log(x)) for x in row] for row in (seconds, gradients[::-1], shared[::-1])
        ]
    found = scaled_walk_law(3, step=step, skip=skip, mean=mean, branch_gradient=c)
    for value, truth in zip(found, exact, strict=True):
        np.testing.assert_allclose(value, truth, rtol=0.0, atol=1e-13)


@pytest.mark.parametrize(
    ("n", "mean", "deviation", "centered"),
    [(7, 0.0, 0.0, False), (3, 0.0, 0.0, True), (5, 0.3, 1.1, True)],
)
def test_three_steps_along_a_sphere(n: int, mean: float, deviation: float, centered: bool) -> None:
    """Odd n: steps have a polynomial density, so panels between multiples of L are exact."""
    length, c = 1.4, 0.7
    with mp.workdps(DIGITS):
        big, m, sd = mp.mpf(length), mp.mpf(mean), mp.mpf(deviation)

        def density(t: mp.mpf, dimensions: int) -> mp.mpf:
            if abs(t) >= 1:
                return mp.mpf(0)
            front = mp.gamma(mp.mpf(dimensions) / 2) / mp.gamma(mp.mpf(dimensions - 1) / 2)
            return front / mp.sqrt(mp.pi) * (1 - t * t) ** ((dimensions - 3) // 2)

        def after(function, x: mp.mpf, dimensions: int) -> mp.mpf:
            """E[function(x + L t); x + L t > 0], functions with a break at L."""
            low, high = max(x - big, mp.mpf(0)), x + big
            middle = min(max(big, low), high)
            return mp.fsum(
                w * density((y - x) / big, dimensions) / big * function(y)
                for y, w in nodes_between(low, middle, high, order=12)
            )

        cache: dict[tuple[int, mp.mpf], mp.mpf] = {}

        def alive(x: mp.mpf, dimensions: int = n) -> mp.mpf:
            if x >= big:
                return mp.mpf(1)
            if (dimensions, x) not in cache:
                cache[dimensions, x] = after(lambda _: mp.mpf(1), x, dimensions)
            return cache[dimensions, x]

        def square(x: mp.mpf) -> mp.mpf:
            if x >= big:
                return x * x + big * big / n
            return after(lambda y: y * y, x, n)

        # x_1: places, what they weigh, and the atom; starts from p_n or, for what branches return, p_{n+2}.
        top = big if sd == 0 else m + big + 12 * sd
        cuts = [0, big, *([2 * big, 2 * big + (top - 2 * big) / 2, top] if sd else [])]
        places = nodes_between(*cuts)

        def begin(dimensions: int) -> list[mp.mpf]:
            if sd == 0:
                return [w * density(x / big, dimensions) / big for x, w in places]
            steps = [
                (m + big * t, w * density(t, dimensions))
                for t, w in nodes_between(-1, -0.5, 0, 0.5, 1)
            ]
            return [w * mp.fsum(u * mp.npdf(x, y, sd) for y, u in steps) for x, w in places]

        law = begin(n)
        atom = 1 - mp.fsum(law)

        def first(function) -> mp.mpf:
            """E[function(x_1)]."""
            return mp.fdot(law, [function(x) for x, _ in places]) + atom * function(mp.mpf(0))

        def second(function) -> mp.mpf:
            """E[function(x_2)]."""
            zero = function(mp.mpf(0))
            return first(lambda x: after(function, x, n) + (1 - alive(x)) * zero)

        means = [first(lambda x: x), second(lambda x: x)]
        seconds = [first(lambda x: x * x), first(square), second(square)]
        zeros = [atom, first(lambda x: 1 - alive(x)), second(lambda x: 1 - alive(x))]
        seen = [s - (f * f if centered else 0) for s, f in zip(seconds, means, strict=False)]
        shared = [mp.mpf(c) / seen[1] * second(lambda x: alive(x, n + 2))]

        def last(x: mp.mpf) -> mp.mpf:
            return alive(x) + shared[0]

        shared.append(mp.mpf(c) / seen[0] * first(lambda x: after(last, x, n + 2)))
        gradients = [mp.mpf(1), second(last), first(lambda x: after(last, x, n)) + shared[1]]
        if sd:
            wide = begin(n + 2)
            into = [after(last, x, n) + shared[1] for x, _ in places]
            at_start = sd**2 + (0 if centered else m**2)
            shared.append(mp.mpf(c) / at_start * mp.fdot(wide, into))
        exact = {
            name: [float(x) for x in row]
            for name, row in (
                ("mean", means),
                ("second_moment", seconds),
                ("zero", zeros),
                ("gradient", gradients[::-1]),
                ("shared", shared[::-1]),
            )
        }
    found = sphere_step_walk(
        3,
        dimensions=n,
        length=length,
        second_moment=deviation**2 + mean**2,
        mean=mean,
        branch_gradient=c,
        centered=centered,
    )
    for name, truth in exact.items():
        value = np.asarray(getattr(found, name))
        value = value[-len(truth) :] if name == "shared" else value[: len(truth)]
        np.testing.assert_allclose(value, truth, rtol=1e-12, err_msg=name)
