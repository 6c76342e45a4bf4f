"""Pairs of samples: lattices along post-norm chains, and paths of two samples behind BatchNorm.

Random comparisons: fixed seeds and five standard errors; a false alarm of the file has probability below 1 %.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

import theory as th
from theory.population import result
from theory.population.known import known
from theory.population.pair_paths import pair_gradients, pairs_refusal
from theory.population.result import population
from theory.population.sphere_pairs import NORMALS, _chi, lattice, lattice_normals, pair_step
from theory.population.spheres import sphere_states
from theory.specs.networks import Layer
from theory.specs.residual import Residual


def net(norm: th.Normalizer, order: Any, depth: int, **options: Any) -> Residual:
    return Residual(Layer(norm=norm), depth=depth, order=order, **options)


# Lattices


def test_points_are_normal_and_even() -> None:
    points = lattice(1024)
    assert points.shape == (NORMALS, 1024)
    # Every coordinate visits every cell once: no chain is favored.
    for row in points:
        np.testing.assert_allclose(np.sort(row), np.arange(1024) / 1024, atol=1e-12)
    z = lattice_normals(points, 16, np.random.default_rng(0))
    assert np.abs(z.mean(axis=2)).max() < 5e-3
    assert np.abs((z * z).mean(axis=2) - 1.0).max() < 4e-2
    cross = np.einsum("ipm,jpm->ijp", z, z) / 1024 - np.eye(NORMALS)[:, :, None]
    assert np.abs(cross).max() < 0.1
    # Random shifts: one chain's normals are normal over seeds.
    one = np.array(
        [lattice_normals(points, 1, np.random.default_rng(k))[3, 0, 77] for k in range(400)]
    )
    assert stats.kstest(one, "norm").pvalue > 1e-4


@pytest.mark.parametrize("degrees", [1, 2, 5, 60])
def test_chi_by_rank(degrees: int) -> None:
    z = np.array([-8.2, -5.0, -1.0, 0.0, 0.3, 4.0, 8.2])
    exact = stats.chi.isf(stats.norm.sf(z), degrees)
    np.testing.assert_allclose(_chi(z, degrees)[2:], exact[2:], rtol=1e-5)
    exact = stats.chi.ppf(stats.norm.cdf(z), degrees)
    np.testing.assert_allclose(_chi(z, degrees)[:3], exact[:3], rtol=1e-3)


@pytest.mark.parametrize(("order", "maps", "gain"), [("post_norm", 2, 4.0), ("deep_norm", 1, 10.0)])
def test_sorted_lattices_agree_with_independent_draws(
    order: Any, maps: int, gain: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from theory.population import spheres

    network = net(th.group_norm(8), order, 12, maps=maps)
    inputs = th.exchangeable(batch=2, correlation=0.3)

    def gaps(chains: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        found = sphere_states(network, inputs, populations=16, chains=chains, seed=seed)[0]
        return np.array([s.gap for s in found]), np.array([s.gap_error for s in found])

    ours, error = gaps(2048, 0)
    again, other = gaps(2048, 1)
    assert np.all(np.abs(ours / again - 1.0) < 5.0 * np.hypot(error, other))

    def independent(points: Any, populations: int, rng: np.random.Generator) -> Any:
        return rng.standard_normal((len(points), populations, points.shape[1]))

    monkeypatch.setattr(spheres, "lattice_normals", independent)
    drawn, far = gaps(16384, 2)
    assert np.all(np.abs(ours / drawn - 1.0) < 5.0 * np.hypot(error, far))
    # Eight times as many independent chains do worse; gain counts equal numbers.
    assert gain * error[-1] < math.sqrt(8.0) * far[-1]


def test_the_first_block_is_a_normalized_gaussian() -> None:
    """Its mean gap needs no draw: E[r] of Hotelling's law, whatever the chains."""
    network = net(th.group_norm(8), "post_norm", 1, branch=1e-6)
    inputs = th.exchangeable(batch=2, correlation=0.3)
    exact = th.predict(
        th.FeedForward(Layer(norm=th.group_norm(8), activation=th.identity), depth=1), inputs
    )
    found = sphere_states(network, inputs, populations=2, chains=64, seed=0)[0]
    assert found[0].gap == pytest.approx(exact.gap[0], rel=1e-10)


@pytest.mark.parametrize("dimensions", [2, 3, 4])
def test_few_dimensions(dimensions: int) -> None:
    """Pure noise of correlation 0: cosines of independent directions, E r = 0 and E r^2 = 1/n."""
    count = 200_000
    normals = np.random.default_rng(2).standard_normal((NORMALS, 1, count))
    far = pair_step(
        np.zeros((1, count)),
        dimensions=dimensions,
        skip=0.0,
        noise=1.0,
        noise_gap=np.ones(1),
        normals=normals,
    )[0]
    cosine = 1.0 - far
    assert abs(cosine.mean()) < 5.0 / math.sqrt(dimensions * count)
    assert (cosine**2).mean() == pytest.approx(1.0 / dimensions, rel=0.02)


# Paths of two samples behind BatchNorm


@pytest.mark.parametrize(
    ("norm", "batch", "options"),
    [
        (th.batch_norm(), 8, {}),
        (th.batch_norm(ddof=1), 6, {"maps": 2, "branch": 0.7, "stem": th.gaussian()}),
        (th.batch_norm(), 5, {}),
    ],
    ids=["B = 8", "two maps", "odd"],
)
def test_pair_gradients_agree_with_drawn_gradients(
    norm: th.Normalizer, batch: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = net(norm, "post_activation", 12, **options)
    inputs = th.exchangeable(batch=batch, gap=0.5)
    monkeypatch.setattr(result, "_REACH", 8.0)
    exact, found = th.predict(network, inputs), population(network, inputs, seed=5)
    assert found.gradient is not None
    assert found.branch_gradient is not None
    for ours, own, theirs in (
        (exact.log_gradient_norm, exact.gradient_error, found.gradient),
        (exact.log_branch_gradient_norm, exact.branch_gradient_error, found.branch_gradient),
    ):
        assert ours is not None
        assert own is not None
        far = np.abs(ours - 0.5 * theirs.log_second_moment)
        scatter = np.hypot(own, 0.5 * theirs.second_moment_error)
        assert np.all(far < 5.0 * scatter + own)
        # Paths in place of draws: a tenth of the draws' error costs less.
        assert own.max() < 0.4 * theirs.second_moment_error.max()


def test_large_batches_share_little() -> None:
    """B = 64: GN of as many channels has the same grids, without the term of order 1/B."""
    inputs = th.exchangeable(batch=64, correlation=0.0)
    network = net(th.batch_norm(), "post_activation", 3)
    found = population(network, inputs, channels=512, backward=False)
    ours = pair_gradients(network, inputs, found, seed=0)
    alone = net(th.group_norm(64), "post_activation", 3)
    group = known(alone, th.exchangeable(batch=2, gap=1.0), backward=True)
    # c/(q - p) in place of c/q: compare from the last block, whose branch returns alone.
    gap = found.stream.gap[-2]
    assert group.log_branch_gradient is not None
    expected = group.log_branch_gradient[-1] - math.log(gap)
    assert ours.branch[-1] == pytest.approx(expected, abs=0.01)


def test_refusals() -> None:
    inputs = th.exchangeable(batch=8, gap=0.5)
    assert pairs_refusal(net(th.batch_norm(), "post_activation", 3), inputs) is None
    for network in (
        net(th.group_norm(8), "post_activation", 3),
        net(th.batch_norm(eps=0.1), "post_activation", 3),
        net(th.batch_norm(), "sandwich", 3),
        net(th.batch_norm(), "post_activation", 3, skip=0.5),
    ):
        assert pairs_refusal(network, inputs) is not None
