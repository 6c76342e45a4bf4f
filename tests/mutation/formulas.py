"""Modules whose functions are formulas, and the fast tests that must notice a mistake in each.

Theory first; the laws (tests/test_laws.py) run after a module's own tests.
"""

from __future__ import annotations

T, M = "tests/test_theory/", "tests/test_montecarlo/"
LAWS = "tests/test_laws.py"

FORMULAS: dict[str, tuple[str, ...]] = {
    "theory/routes/arccosine.py": (T + "test_arccosine.py",),
    "theory/routes/functions.py": (T + "test_functions.py",),
    "theory/routes/gaussian.py": (T + "test_gaussian.py",),
    "theory/routes/hotelling.py": (T + "test_hotelling.py",),
    "theory/routes/groupnorm.py": (T + "test_groupnorm.py",),
    "theory/routes/batchnorm.py": (T + "test_batchnorm.py",),
    "theory/routes/bivariate.py": (T + "test_gaussian.py",),
    "theory/routes/spherical.py": (T + "test_spherical.py",),
    "theory/routes/centering.py": (T + "test_predict.py",),
    "theory/routes/limit.py": (T + "test_predict.py",),
    "theory/routes/gates.py": (T + "test_gates.py",),
    "theory/routes/gate_limits.py": (T + "test_gates.py", T + "test_kernels.py"),
    "theory/routes/laplace.py": (T + "test_laplace.py",),
    "theory/routes/laplace_backward.py": (T + "test_laplace_backward.py",),
    "theory/routes/laplace_core.py": (T + "test_laplace.py",),
    "theory/routes/laplace_pairs.py": (T + "test_laplace_pairs.py", T + "test_kernels.py"),
    "theory/routes/laplace_pools.py": (T + "test_laplace_pools.py",),
    "theory/routes/positions_batch.py": (T + "test_positions_batch.py",),
    "theory/routes/positions_batch_backward.py": (T + "test_positions_batch.py",),
    "theory/routes/positions_core.py": (T + "test_positions_pairs.py",),
    "theory/routes/positions_lens.py": (T + "test_positions_pairs.py",),
    "theory/routes/positions_limits.py": (T + "test_positions_pairs.py", T + "test_kernels.py"),
    "theory/routes/positions_pairs.py": (T + "test_positions_pairs.py",),
    "theory/routes/positions_pull.py": (T + "test_positions_pairs.py",),
    "theory/routes/positions_spectrum.py": (T + "test_positions_pairs.py",),
    "theory/routes/rectangle.py": (T + "test_positions_batch.py",),
    "theory/routes/reflected_walk.py": (T + "test_reflected_walk.py",),
    "theory/routes/laplace_fields.py": (T + "test_kernels.py", T + "test_grid.py"),
    "theory/routes/random_flight.py": (T + "test_flights.py",),
    "theory/routes/scaled_walk.py": (T + "test_scaled_steps.py", T + "test_kernels.py"),
    "theory/routes/scaled_walk_law.py": (T + "test_scaled_steps.py", T + "test_kernels.py"),
    "theory/routes/sphere_step_walk.py": (T + "test_sphere_steps.py", T + "test_kernels.py"),
    "theory/routes/rqmc_blocks.py": (T + "test_sampled.py",),
    "theory/routes/rqmc_groups.py": (T + "test_sampled.py",),
    "theory/routes/rqmc_pool.py": (T + "test_sampled.py",),
    "theory/states/exchangeable.py": (
        T + "test_predict.py",
        T + "test_residual.py",
        T + "test_honest_errors.py",
    ),
    "theory/states/full.py": (
        T + "test_predict.py",
        T + "test_residual.py",
        T + "test_honest_errors.py",
    ),
    "theory/states/spatial.py": (T + "test_spatial.py",),
    "theory/states/grid.py": (T + "test_grid.py",),
    "theory/streams.py": (T + "test_residual.py",),
    "theory/windows.py": (T + "test_grid.py",),
    "theory/operators.py": (T + "test_predict.py", T + "test_residual.py"),
    "theory/nf_scaling.py": (T + "test_residual.py",),
    "theory/growth.py": (T + "test_growth.py",),
    "theory/residual_growth.py": (T + "test_growth.py",),
    "theory/cross_batch.py": (T + "test_cross_batch.py",),
    "theory/fixed_points.py": (T + "test_fixed_points.py",),
    "theory/specs/residual.py": (T + "test_residual.py",),
    "montecarlo/pools.py": (M + "test_normact.py",),
    "montecarlo/activations.py": (M + "test_normact.py",),
    "montecarlo/linear.py": (M + "test_simulate.py",),
    "montecarlo/collapsed.py": (M + "test_collapsed.py",),
    "montecarlo/convolution.py": (M + "test_convolution.py",),
    "montecarlo/sampling.py": (M + "test_sampling.py",),
    "montecarlo/observables.py": (M + "test_simulate.py",),
    "montecarlo/results.py": (M + "test_results.py", M + "test_simulate.py"),
    "montecarlo/statistics.py": (M + "test_statistics.py",),
}
"""module -> tests."""

PLAIN = {"montecarlo/pools.py", "montecarlo/activations.py", "montecarlo/convolution.py"}
"""Numba would use the machine code of the original: these run as plain Python."""

COMPILED_AFRESH = {"montecarlo/collapsed.py"}
"""These need compiled code: digits cancel as it has them; it is compiled for every mutant."""
