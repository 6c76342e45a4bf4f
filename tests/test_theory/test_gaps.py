"""1 - cosine of data and covariances, against 60 digits."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

import theory as th


def exact(x: np.ndarray, y: np.ndarray) -> float:
    with mpmath.workdps(60):
        u, v = ([mpmath.mpf(float(value)) for value in row] for row in (x, y))
        return float(1 - mpmath.fdot(u, v) / mpmath.sqrt(mpmath.fdot(u, u) * mpmath.fdot(v, v)))


@pytest.mark.parametrize("apart", [1.0, 1e-3, 1e-8, 1e-14])
@pytest.mark.parametrize("factor", [1.0, 3.0, 1e-100, 1e100, -1.0])
def test_rows(apart: float, factor: float) -> None:
    generator = np.random.default_rng(0)
    one = generator.normal(size=7)
    other = factor * (one + apart * generator.normal(size=7))
    truth = exact(one, other)
    inputs = th.from_data(np.stack([one, other]))
    # Of what is left after the rows' own rounding, 1e-16/1e-14, squared.
    assert inputs.gap[0, 1] == pytest.approx(truth, rel=1e-14)
    assert inputs.gap[1, 0] == inputs.gap[0, 1]
    image = th.images(np.stack([one, other])[:, :, None])
    assert image.gap[0, 1] == pytest.approx(truth, rel=1e-14)


@pytest.mark.parametrize("gap", [1.7, 0.5, 1e-6, 1e-13, 0.0])
@pytest.mark.parametrize(("q", "other"), [(1.0, 1.0), (0.3, 7.1), (1e-100, 1e90)])
def test_covariances(gap: float, q: float, other: float) -> None:
    cross = np.sqrt(q) * np.sqrt(other) * (1.0 - gap)
    with mpmath.workdps(60):
        size = mpmath.sqrt(mpmath.mpf(q) * mpmath.mpf(other))
        truth = float(1 - mpmath.mpf(float(cross)) / size)
    inputs = th.from_covariance(np.array([[q, cross], [cross, other]]))
    # A rounding can leave a correlation above 1: that is 1.
    assert inputs.gap[0, 1] == pytest.approx(max(truth, 0.0), rel=1e-14)


def test_a_pixel_without_light_is_like_nothing() -> None:
    gap = th.images(np.array([[[1.0, 0.0]], [[2.0, 3.0]]])).gap
    np.testing.assert_array_equal(gap[1], [1.0, 0.0, 1.0, 1.0])
    np.testing.assert_array_equal(gap[0], [0.0, 1.0, 0.0, 0.0])
