"""Two mini-batches of three samples under BatchNorm against two angles in 30 digits."""

import mpmath as mp
import numpy as np
import pool_oracles as oracle
from two_pools_oracle import floats, similarity

from theory.routes.laplace_pools import two_pool_similarity
from theory.specs.normalizers import batch_norm


def test_two_batches_of_three() -> None:
    rng = np.random.default_rng(3)
    common = rng.standard_normal((1, 16))
    z = rng.standard_normal((6, 16)) + common
    slopes = (1.0, -0.2)
    with mp.workdps(30):
        exact = similarity(z, slopes, 18)
        coarse = similarity(z, slopes, 13)
    assert np.abs(floats(exact) - floats(coarse)).max() < 1e-10
    value, error = two_pool_similarity(*oracle.inputs(z), first=3, norm=batch_norm(), slopes=slopes)
    difference = np.abs(value - floats(exact)).max()
    assert difference <= 10.0 * error + 1e-12
    assert error < 1e-11
