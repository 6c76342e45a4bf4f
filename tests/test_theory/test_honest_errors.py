"""True error against stated error, one table over the routes.

The rule for every route: true error <= 10 x stated error + 1e-13, on 1,000 random cases whose answer
is known exactly.  Truths come from closed forms in 30 or more digits, or from a special case that the
route does not know to be special; never from the route itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import mpmath
import numpy as np
import pytest

import theory as th
from theory.routes import arccosine, batchnorm, gaussian, groupnorm, laplace, laplace_backward
from theory.routes.base import ROUNDING
from theory.states.full import Full, centered_rows

CASES = 1000
SEED = 20211


class Check(NamedTuple):
    """``error`` and ``stated`` in the units that the route states: relative to ``scale``."""

    value: float
    truth: float
    stated: float
    scale: float


def random_gap(generator: np.random.Generator) -> float:
    """Half of the cases near c = 1, down to 1e-14; the rest anywhere."""
    if generator.random() < 0.5:
        return float(10.0 ** generator.uniform(-14, -1))
    return float(generator.uniform(0.1, 1.99))


def mp_kappa(gap: float) -> tuple[mpmath.mpf, mpmath.mpf]:
    c = 1 - mpmath.mpf(gap)
    back = mpmath.pi - mpmath.acos(c)
    return back / mpmath.pi, (mpmath.sqrt(1 - c * c) + c * back) / mpmath.pi


def closed(generator: np.random.Generator) -> Iterator[Check]:
    """Arc-cosine kernels of leaky relus, in 40 digits."""
    with mpmath.workdps(40):
        for _ in range(CASES):
            slope, gap = float(generator.uniform(-0.9, 0.9)), random_gap(generator)
            a, b = mpmath.mpf(1), -mpmath.mpf(slope)
            _, k1 = mp_kappa(gap)
            dual = (a * a + b * b) * k1 / 2 + a * b * (k1 - (1 - mpmath.mpf(gap)))
            truth = float(1 - dual / ((a * a + b * b) / 2))
            value = float(arccosine.ray_gap(gap, slopes=(1.0, -slope)))
            yield Check(value, truth, ROUNDING, truth)


def mp_gelu_dual(a: mpmath.mpf, b: mpmath.mpf, p: mpmath.mpf) -> mpmath.mpf:
    """E[u Phi(u) v Phi(v)] by Stein's lemma from E[Phi Phi] = 1/4 + asin(p/..)/(2 pi)."""
    root = mpmath.sqrt((1 + a) * (1 + b) - p * p)
    share = mpmath.mpf(1) / 4 + mpmath.asin(p / mpmath.sqrt((1 + a) * (1 + b))) / (2 * mpmath.pi)
    mixed = 1 / (2 * mpmath.pi * root)
    first, second = (-p / (2 * mpmath.pi * (1 + v) * root) for v in (a, b))
    return p * share + a * (p * first + b * mixed) + p * (p * mixed + b * second)


def quadrature(generator: np.random.Generator) -> Iterator[Check]:
    """gelu's Gaussian dual, which the route integrates and mpmath has in closed form."""
    with mpmath.workdps(50):
        for _ in range(CASES):
            q1 = float(10.0 ** generator.uniform(-2, 2))
            q2 = q1 if generator.random() < 0.7 else q1 * float(generator.uniform(0.5, 2.0))
            gap = random_gap(generator)
            a, b = mpmath.mpf(q1), mpmath.mpf(q2)
            p = mpmath.sqrt(a * b) * (1 - mpmath.mpf(gap))
            scale = mpmath.sqrt(mp_gelu_dual(a, a, a) * mp_gelu_dual(b, b, b))
            truth = float(1 - mp_gelu_dual(a, b, p) / scale)
            value, stated = gaussian.pair_gap(th.gelu, q1, q2, gap)
            yield Check(float(value), truth, float(np.max(stated)), truth)


def pearson(generator: np.random.Generator) -> Iterator[Check]:
    """E[r] of Hotelling's law, what GroupNorm makes of the identity activation."""
    with mpmath.workdps(40):
        for _ in range(CASES):
            size, gap = int(generator.integers(3, 200)), random_gap(generator)
            n, c = mpmath.mpf(size - 1), 1 - mpmath.mpf(gap)
            ratio = mpmath.gammaprod([(n + 1) / 2, (n + 1) / 2], [n / 2, n / 2])
            mean = 2 / n * ratio * c * mpmath.hyp2f1(0.5, 0.5, (n + 2) / 2, c * c)
            value, stated = groupnorm.group_gap(th.identity, gap, group_size=size, centered=True)
            truth = float(1 - mean)
            yield Check(float(value), truth, float(np.max(stated)), truth)


def batch_closed(generator: np.random.Generator) -> Iterator[Check]:
    """BN of an exchangeable batch: kappa_1 at -1/(B-1), in 40 digits."""
    with mpmath.workdps(40):
        for _ in range(CASES):
            batch = int(10.0 ** generator.uniform(0.5, 6))
            slope = float(generator.uniform(-0.9, 0.9))
            gap = mpmath.mpf(batch) / (batch - 1)
            theta = mpmath.acos(1 - gap)
            k1 = (mpmath.sin(theta) + (1 - gap) * (mpmath.pi - theta)) / mpmath.pi
            a, b = mpmath.mpf(1), -mpmath.mpf(slope)
            dual = (a * a + b * b) * k1 / 2 + a * b * (k1 - (1 - gap))
            truth = float(1 - dual / ((a * a + b * b) / 2))
            _, value, _, stated = batchnorm.batch_moments(th.leaky_relu(slope), batch=batch)
            yield Check(value, truth, stated, truth)


def shifted_batch(
    generator: np.random.Generator, batch: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """A covariance s I + u 1' + 1 u' that BN cannot tell from s I, as (q, gap, s)."""
    spread = float(10.0 ** generator.uniform(-3, 1))
    u = generator.uniform(0.5, 1.0) + 0.1 * generator.normal(size=batch)
    covariance = spread * np.eye(batch) + u[:, None] + u[None, :]
    # A common term keeps the covariance positive semidefinite and is centered away as well.
    covariance += 2.0 * batch * u.var() / spread + 1.0
    root = np.sqrt(np.diag(covariance))
    distance = 2.0 * spread * (1.0 - np.eye(batch))
    gap = (distance - (root[:, None] - root[None, :]) ** 2) / (2.0 * np.outer(root, root))
    return root**2, gap, spread


def laplace_forward(generator: np.random.Generator) -> Iterator[Check]:
    """BN by the Laplace integral at covariances that centering makes isotropic."""
    for _ in range(CASES):
        batch = int(generator.integers(3, 13))
        slope = float(generator.uniform(-0.9, 0.9))
        q, gap, _ = shifted_batch(generator, batch)
        _, value, _, stated = laplace.forward(q, gap, norm=th.batch_norm(), slopes=(1.0, -slope))
        _, truth, _, _ = batchnorm.batch_moments(th.leaky_relu(slope), batch=batch)
        yield Check(float(value[0, 1]), truth, stated, truth)


def laplace_pullback(generator: np.random.Generator) -> Iterator[Check]:
    """BN's E[J' Pi J] by the Laplace integral, against lambda_B's closed form."""
    for _ in range(CASES):
        batch = int(generator.integers(5, 11))
        q, gap, spread = shifted_batch(generator, batch)
        pair = float(generator.uniform(-0.05, 0.5))
        gradient = (1.0 - pair) * np.eye(batch) + pair
        value, stated = laplace_backward.pullback(
            q, gap, gradient, norm=th.batch_norm(), slopes=(1.0, 0.0)
        )
        rho = mpmath.mpf(-1) / (batch - 1)
        k1 = (mpmath.sqrt(1 - rho**2) + rho * (mpmath.pi - mpmath.acos(rho))) / mpmath.pi
        p2 = mpmath.mpf(1) / 4 + mpmath.asin(rho) / (2 * mpmath.pi)
        shared = mpmath.mpf(batch) / 2 - (mpmath.mpf(1) / 2 + (batch - 1) * p2)
        shared -= mpmath.mpf(1) / 2 + (batch - 1) * k1 / 2
        trace = batch / (spread * (batch - 3)) * ((1 - pair) * (batch - 2) / 2 + pair * shared)
        truth = float(trace / batch)
        yield Check(float(value[0, 0]), truth, stated, truth)


def variance_norm(generator: np.random.Generator) -> Iterator[Check]:
    """VN's second moment (B/(1-c) - 2)/(B - 3), by the Laplace integral over the full covariance."""
    for _ in range(CASES // 5):
        batch = int(generator.integers(5, 13))
        c = float(generator.uniform(-0.05, 0.9))
        gap = (1.0 - c) * (1.0 - np.eye(batch))
        value, _, _, stated = laplace.forward(
            np.ones(batch), gap, norm=th.variance_norm(), slopes=(1.0, -1.0)
        )
        truth = (batch / (1.0 - c) - 2.0) / (batch - 3.0)
        yield Check(float(value[0]), truth, stated, truth)


ROUTES: dict[str, Callable[[np.random.Generator], Iterator[Check]]] = {
    "closed form": closed,
    "quadrature: Gaussian": quadrature,
    "quadrature: Pearson": pearson,
    "closed form: BatchNorm": batch_closed,
    "quadrature: Laplace, forward": laplace_forward,
    "quadrature: Laplace, backward": laplace_pullback,
    "quadrature: Laplace, VN": variance_norm,
}


@pytest.mark.parametrize("route", ROUTES)
def test_stated_errors_are_honest(route: str, capsys: pytest.CaptureFixture[str]) -> None:
    checks = list(ROUTES[route](np.random.default_rng(SEED)))
    true = np.array([abs(c.value - c.truth) / abs(c.scale) for c in checks])
    stated = np.array([c.stated for c in checks])
    allowed = 10.0 * stated + 1e-13
    with capsys.disabled():
        print(
            f"\n{route}: {len(checks)} cases, true error at most {true.max():.1e}, "
            f"stated {np.median(stated):.1e} (median), largest true/allowed {np.max(true / allowed):.2f}"
        )
    worst = int(np.argmax(true / allowed))
    assert (true <= allowed).all(), checks[worst]
    assert math.isfinite(stated.max())


def test_both_states_state_the_same_errors() -> None:
    """Centered rows inflate what the last map added, by q/(q - m^2) - 1."""
    phi = th.tanh.affine(shift=0.5)
    net = th.FeedForward(th.Layer(weights=th.centered_weights(), activation=phi), depth=4)
    inputs = th.exchangeable(batch=4, correlation=0.3, feature_mean=0.4)
    matrix = np.full((4, 4), 0.3) + 0.7 * np.eye(4)
    one = th.predict(net, inputs, backward=False)
    other = th.predict(net, th.from_covariance(matrix, feature_mean=0.4), backward=False)
    for name in (
        "log_second_moment",
        "log_preactivation_second_moment",
        "gap",
        "preactivation_gap",
    ):
        np.testing.assert_allclose(one.error[name], other.error[name], rtol=0.02, err_msg=name)


ALIKE = [
    [0.12572486, -0.13210125, 0.64043569, 0.10490953],
    [0.12572318, -0.13211752, 0.64041642, 0.10490053],
]
OPPOSITE = [[1.0, 1.2, 0.9, 1.5], [-1.1, -0.8, -1.3, -0.9]]


@pytest.mark.parametrize(("values", "most"), [(ALIKE, 1e-6), (OPPOSITE, 1e-12)])
def test_centering_states_the_digits_that_it_loses(values: list[list[float]], most: float) -> None:
    """Nearly proportional rows of different means, whose gap is 1e-9; and rows of opposite means."""
    inputs = th.from_data(np.array(values))
    state = Full(inputs.second_moment, inputs.gap, inputs.feature_mean)
    found = centered_rows(state, constant=lambda _: None)
    with mpmath.workdps(40):
        exact = [[mpmath.mpf(x) for x in row] for row in values]
        first, second = ([x - mpmath.fsum(row) / 4 for x in row] for row in exact)
        size = mpmath.sqrt(mpmath.fdot(first, first) * mpmath.fdot(second, second))
        truth = float(1 - mpmath.fdot(first, second) / size)
    assert abs(found.gap[0, 1] - truth) <= found.gap_error * truth
    assert 1e-16 < found.gap_error < most
