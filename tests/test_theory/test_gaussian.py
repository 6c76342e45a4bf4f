"""Gaussian duals against mpmath: closed forms, one-dimensional forms, nested quadrature.

Oracles, none of which shares code or coordinates with the route:
* sin, erf, gelu: closed duals at 60 digits (cosines subtracted, so that gaps of 1e-14 stay exact);
* elu, selu: the inner expectation in closed form, the outer one by quadrature at 34 digits;
* tanh, silu, softplus: nested quadrature at 30 digits, kept in gaussian_truth.json because a case
  takes seconds; `python tests/test_theory/test_gaussian.py` writes the file again.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest

from theory.errors import NumericalError, SpecificationError
from theory.routes import gaussian
from theory.specs.activations import Activation

TRUTH = Path(__file__).with_name("gaussian_truth.json")
NAMES = ("tanh", "erf", "gelu", "silu", "elu", "selu", "softplus", "sin")
NESTED = ("tanh", "silu", "softplus")
# The honesty contract: true error <= 10 x stated error + 1e-13.
SLACK = 1e-13


def honest(true: float, stated: float) -> bool:
    return true <= 10.0 * stated + SLACK


def relative(value: float, truth: mp.mpf) -> float:
    return float(abs(mp.mpf(float(value)) - truth) / abs(truth))


# ---------------------------------------------------------------- closed duals, at high precision
def normal_cdf(x: mp.mpf) -> mp.mpf:
    return mp.erfc(-x / mp.sqrt(2)) / 2


def sin_dual(q1: mp.mpf, q2: mp.mpf, p: mp.mpf) -> mp.mpf:
    return mp.exp(-(q1 + q2) / 2) * mp.sinh(p)


def erf_dual(q1: mp.mpf, q2: mp.mpf, p: mp.mpf) -> mp.mpf:
    return 2 / mp.pi * mp.asin(2 * p / mp.sqrt((1 + 2 * q1) * (1 + 2 * q2)))


def gelu_dual(q1: mp.mpf, q2: mp.mpf, p: mp.mpf) -> mp.mpf:
    """E[u v Phi(u) Phi(v)] by Stein's identity and Gaussian tilts."""

    def tilted(qa: mp.mpf, qb: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
        # phi(a) tilts: E[phi(a)] = 1/sqrt(2 pi (1 + qa)), var b and cov (a, b) after it.
        return 1 / mp.sqrt(2 * mp.pi * (1 + qa)), qb - p**2 / (1 + qa)

    both = mp.mpf(1) / 4 + mp.asin(p / mp.sqrt((1 + q1) * (1 + q2))) / (2 * mp.pi)
    weight_u, var_v = tilted(q1, q2)
    weight_v, var_u = tilted(q2, q1)
    first = weight_u * var_v / mp.sqrt(2 * mp.pi * (1 + var_v))
    second = weight_v * p / (1 + q2) / mp.sqrt(2 * mp.pi * (1 + var_u))
    return q1 * first + p * both + p * second


def elu_dual(name: str, *, derivative: bool) -> Callable[[mp.mpf, mp.mpf, mp.mpf], mp.mpf]:
    """E[phi(u) phi(v)] or E[phi'(u) phi'(v)]: inner expectation closed, outer one by panels."""
    scale = mp.mpf(1) if name == "elu" else mp.mpf("1.0507009873554804934193349852946")
    alpha = mp.mpf(1) if name == "elu" else mp.mpf("1.6732632423543772848170429916717")

    def phi(u: mp.mpf) -> mp.mpf:
        if derivative:
            return mp.mpf(1) if u > 0 else alpha * mp.exp(u)
        return u if u > 0 else alpha * mp.expm1(u)

    def mean(mu: mp.mpf, tau: mp.mpf) -> mp.mpf:
        """E phi(v), v ~ N(mu, tau^2)."""
        if tau == 0:
            return phi(mu)
        above, below = normal_cdf(mu / tau), normal_cdf(-mu / tau)
        decay = mp.exp(mu + tau**2 / 2) * normal_cdf(-mu / tau - tau)
        if derivative:
            return above + alpha * decay
        return mu * above + tau * mp.npdf(mu / tau) + alpha * (decay - below)

    def dual(q1: mp.mpf, q2: mp.mpf, p: mp.mpf) -> mp.mpf:
        s1, s2 = mp.sqrt(q1), mp.sqrt(q2)
        c = p / (s1 * s2)
        tau = s2 * mp.sqrt(max(1 - c**2, 0))
        edges, edge = [mp.mpf(0)], min(1 / s1, 1 / s2, tau / s2 if tau > 0 else 1)
        while edge < 12:
            edges.append(edge)
            edge = min(3 * edge, edge + 2)
        edges.append(mp.mpf(12))
        rule = legendre_panels([-x for x in reversed(edges)] + edges[1:], 26)
        return scale**2 * mp.fsum(
            w * mp.npdf(x) * phi(s1 * x) * mean(s2 * c * x, tau) for x, w in rule
        )

    return dual


CLOSED = {"sin": sin_dual, "erf": erf_dual, "gelu": gelu_dual}


def exact_gap(dual: Callable, q1: float, q2: float, gap: float) -> mp.mpf:
    a, b, c = mp.mpf(q1), mp.mpf(q2), 1 - mp.mpf(gap)
    p = mp.sqrt(a) * mp.sqrt(b)
    return 1 - dual(a, b, p * c) / mp.sqrt(dual(a, a, a) * dual(b, b, b))


def exact_slope(dual: Callable, q1: float, q2: float, gap: float) -> tuple[mp.mpf, mp.mpf]:
    """(d dual / dp, the root of its values at the two equal pairs), by Price's theorem."""
    a, b = mp.mpf(q1), mp.mpf(q2)
    p = mp.sqrt(a) * mp.sqrt(b)

    def derivative(x: mp.mpf, y: mp.mpf, at: mp.mpf) -> mp.mpf:
        step = at * mp.mpf(10) ** -25
        return (dual(x, y, at) - dual(x, y, at - step)) / step

    at = p * (1 - mp.mpf(gap))
    scale = mp.sqrt(derivative(a, a, a) * derivative(b, b, b))
    if at == 0:
        at = p * mp.mpf(10) ** -20
    return derivative(a, b, at), scale


# --------------------------------------------------------------------------- nested quadrature
def smooth_function(name: str) -> tuple[Callable, Callable]:
    if name == "tanh":
        return mp.tanh, lambda x: mp.sech(x) ** 2
    if name == "silu":

        def derivative(x: mp.mpf) -> mp.mpf:
            s = 1 / (1 + mp.exp(-x))
            return s + x * s * (1 - s)

        return (lambda x: x / (1 + mp.exp(-x))), derivative
    return (lambda x: mp.log1p(mp.exp(x))), (lambda x: 1 / (1 + mp.exp(-x)))


def legendre_panels(edges: list, nodes: int) -> list[tuple[mp.mpf, mp.mpf]]:
    key = (nodes, mp.mp.dps)
    if key not in _RULES:
        _RULES[key] = legendre(nodes)
    rule = []
    for low, high in itertools.pairwise(edges):
        half, middle = (high - low) / 2, (high + low) / 2
        rule += [(middle + half * x, half * w) for x, w in _RULES[key]]
    return rule


_RULES: dict[tuple[int, int], list[tuple[mp.mpf, mp.mpf]]] = {}


def legendre(nodes: int) -> list[tuple[mp.mpf, mp.mpf]]:
    """Gauss-Legendre by Newton from double-precision roots."""
    result = []
    for start in np.polynomial.legendre.leggauss(nodes)[0]:
        x = mp.mpf(float(start))
        for _ in range(4):
            before, value = mp.mpf(1), x
            for k in range(2, nodes + 1):
                before, value = value, ((2 * k - 1) * x * value - (k - 1) * before) / k
            slope = nodes * (x * value - before) / (x * x - 1)
            x -= value / slope
        result.append((x, 2 / ((1 - x * x) * slope * slope)))
    return result


def layered(centre: mp.mpf, layer: mp.mpf, reach: int = 10) -> list:
    """Panels on [-reach, reach], refined around ``centre`` down to ``layer``, at most 2.5 wide."""
    edges = {mp.mpf(-reach), mp.mpf(reach)} | {mp.mpf(k) * reach / 4 for k in range(-3, 4)}
    if abs(centre) < reach:
        width = layer
        while width < 2:
            edges |= {x for x in (centre - width, centre + width) if abs(x) < reach}
            width *= 4
        edges |= {centre}
    return sorted(edges)


def nested(name: str, q1: float, q2: float, gap: float, nodes: int = 18) -> tuple[str, str, str]:
    """(gap of the dual, slope, scale of the slope) in the coordinates u = s1 x, v = s2(c x + t y)."""
    value, derivative = smooth_function(name)
    g = mp.mpf(gap)
    s1, s2, c, t = mp.sqrt(mp.mpf(q1)), mp.sqrt(mp.mpf(q2)), 1 - g, mp.sqrt(g * (2 - g))

    def mean(f: Callable, s: mp.mpf) -> mp.mpf:
        rule = legendre_panels(layered(mp.mpf(0), 2 / s), nodes)
        return mp.fsum(w * mp.npdf(x) * f(s * x) ** 2 for x, w in rule)

    n1, n2 = mp.sqrt(mean(value, s1)), mp.sqrt(mean(value, s2))
    total, slope = mp.mpf(0), mp.mpf(0)
    layer = max(2 / max(s1, s2), mp.mpf(10) ** -3)
    for x, w in legendre_panels(layered(mp.mpf(0), layer), nodes):
        phi, prime, inner, inner_slope = (
            value(s1 * x) / n1,
            derivative(s1 * x),
            mp.mpf(0),
            mp.mpf(0),
        )
        inner_layer = 2 / (s2 * t)
        edges = layered(-c * x / t, inner_layer) if inner_layer < 2 else layered(mp.mpf(11), 1)
        for y, v in legendre_panels(edges, nodes):
            other = s2 * (c * x + t * y)
            density = v * mp.npdf(y)
            inner += density * (phi - value(other) / n2) ** 2
            inner_slope += density * derivative(other)
        total += w * mp.npdf(x) * inner
        slope += w * mp.npdf(x) * prime * inner_slope
    scale = mp.sqrt(mean(derivative, s1) * mean(derivative, s2))
    return tuple(mp.nstr(x, 22) for x in (total / 2, slope, scale))


def hard_cases() -> list[tuple[str, float, float, float]]:
    rng = np.random.default_rng(11)
    gaps = (1e-12, 1e-9, 1e-6, 1e-3, 0.05, 0.3, 1.0, 1.5, 1.9, 1.999)
    cases = []
    for name in NESTED:
        for index, gap in enumerate((*gaps, *gaps)):
            q1 = float(10.0 ** rng.uniform(-3.0, 3.0))
            q2 = q1 if index < len(gaps) else float(q1 * 10.0 ** rng.uniform(-2.0, 0.0))
            cases.append((name, q1, q2, gap))
    return cases


def table() -> list[tuple[str, float, float, float, mp.mpf, mp.mpf, mp.mpf]]:
    rows = json.loads(TRUTH.read_text())
    return [(n, a, b, g, *map(mp.mpf, strings)) for n, a, b, g, *strings in rows]


# ------------------------------------------------------------------------------------- tests
def check(
    name: str, q1: float, q2: float, gap: float, truth: mp.mpf, slope: mp.mpf, scale: mp.mpf
) -> tuple[float, float]:
    """Assert honesty for one pair and return the true errors (gap, slope)."""
    activation = Activation(name=name)
    value, stated = gaussian.pair_gap(activation, q1, q2, gap)
    error = relative(value, truth)
    assert honest(error, float(stated)), (name, q1, q2, gap, error, float(stated))
    derivative, stated = gaussian.slope(activation, q1, q2, gap)
    slope_error = float(abs(mp.mpf(float(derivative)) - slope) / scale)
    assert honest(slope_error, float(stated)), (name, q1, q2, gap, slope_error, float(stated))
    return error, slope_error


def random_pairs(count: int, *, seed: int, decades: float) -> list[tuple[float, float, float]]:
    rng = np.random.default_rng(seed)
    pairs = []
    for index in range(count):
        q1 = float(10.0 ** rng.uniform(-decades, decades))
        q2 = q1 if index % 2 else float(10.0 ** rng.uniform(-decades, decades))
        gap = float(10.0 ** rng.uniform(-12.0, 0.0)) if index % 4 < 2 else float(rng.uniform(0, 2))
        pairs.append((q1, q2, gap))
    return pairs


@pytest.mark.parametrize("name", ["sin", "erf", "gelu"])
def test_closed_duals_on_random_pairs(name: str) -> None:
    with mp.workdps(80):
        for decades, count, bound in ((2.0, 250, 1e-12), (3.0, 100, 1e-9), (7.0, 100, math.inf)):
            for q1, q2, gap in random_pairs(count, seed=7, decades=decades):
                truth = exact_gap(CLOSED[name], q1, q2, gap)
                slope, scale = exact_slope(CLOSED[name], q1, q2, gap)
                errors = check(name, q1, q2, gap, truth, slope, scale)
                # The dual's own error is the gap's, times gap <= 2.
                assert max(errors[0] * float(truth), errors[1]) < bound


@pytest.mark.parametrize("name", ["elu", "selu"])
def test_kinked_duals_on_random_pairs(name: str) -> None:
    dual, prime = (elu_dual(name, derivative=derivative) for derivative in (False, True))
    with mp.workdps(34):
        for decades, count, bound in ((2.0, 16, 1e-12), (3.0, 8, 1e-9), (7.0, 4, math.inf)):
            for q1, q2, gap in random_pairs(count, seed=9, decades=decades):
                a, b = mp.mpf(q1), mp.mpf(q2)
                slope = prime(a, b, mp.sqrt(a * b) * (1 - mp.mpf(gap)))
                scale = mp.sqrt(prime(a, a, a) * prime(b, b, b))
                truth = exact_gap(dual, q1, q2, gap)
                errors = check(name, q1, q2, gap, truth, slope, scale)
                assert max(errors[0] * float(truth), errors[1]) < bound


def test_nested_quadrature_table() -> None:
    rows = table()
    assert len({row[:4] for row in rows}) >= 50
    for name, q1, q2, gap, truth, slope, scale in rows:
        bound = 1e-12 if min(q1, q2) >= 1e-2 and max(q1, q2) <= 1e2 else 1e-9
        errors = check(name, q1, q2, gap, truth, slope, scale)
        assert max(errors[0] * float(truth), errors[1]) < bound
        if gap <= 1e-12:
            assert errors[0] < 1e-9


def test_table_is_what_the_oracle_gives() -> None:
    with mp.workdps(30):
        rows = {row[:4]: row[4:] for row in table()}
        for case in (hard_cases()[4], hard_cases()[25]):
            again = map(mp.mpf, nested(*case))
            for kept, new in zip(rows[case], again, strict=True):
                assert abs(kept - new) <= mp.mpf(10) ** -18 * abs(kept)


@pytest.mark.slow
def test_whole_table_from_a_finer_rule() -> None:
    with mp.workdps(30):
        rows = {row[:4]: row[4:] for row in table()}
        for case in hard_cases():
            finer = map(mp.mpf, nested(*case, nodes=24))
            for kept, new in zip(rows[case], finer, strict=True):
                assert abs(kept - new) <= mp.mpf(10) ** -14 * abs(kept)


@pytest.mark.parametrize("name", NAMES)
def test_tiny_gaps_keep_relative_precision(name: str) -> None:
    """1 - c_hat = gap q E phi'^2 / E phi^2 (1 + O(sqrt(gap) or q gap)) at equal second moments."""
    activation = Activation(name=name)
    q = np.array([1e-3, 1e-2, 1.0, 1e2, 1e3])
    second_moment, _, _ = gaussian.second_moment_and_mean(activation, q)
    slope, _ = gaussian.slope(activation, q, q, 0.0)
    gap = 1e-20
    value, error = gaussian.pair_gap(activation, q, q, gap)
    # The next term is gap^(1/2) where phi' jumps (selu), gap times powers of q elsewhere.
    np.testing.assert_allclose(
        value, gap * q * slope / second_moment, rtol=2e-9 if name == "selu" else 1e-12
    )
    assert np.all(error < 1e-12)
    _, error = gaussian.pair_gap(activation, q, q, 1e-12)
    assert np.all(error < 1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_independent_pair_is_the_product_of_means(name: str) -> None:
    activation = Activation(name=name)
    q = 10.0 ** np.linspace(-3.0, 3.0, 13)
    second_moment, mean, error = gaussian.second_moment_and_mean(activation, q)
    root = np.sqrt(second_moment)
    value, stated = gaussian.pair_gap(activation, q[:, None], q, 1.0)
    expected = 1.0 - np.outer(mean / root, mean / root)
    assert np.all(np.abs(value - expected) <= 10.0 * (stated + error) + SLACK)


@pytest.mark.parametrize("name", ["elu", "selu"])
def test_kinked_moments_are_closed(name: str) -> None:
    scale, alpha = (1.0, 1.0) if name == "elu" else (1.0507009873554805, 1.6732632423543772)
    q = 10.0 ** np.linspace(-3.0, 3.0, 25)
    second_moment, mean, error = gaussian.second_moment_and_mean(Activation(name=name), q)
    with mp.workdps(60):
        for index, x in enumerate(q):
            s = mp.sqrt(mp.mpf(float(x)))
            one = mp.exp(s**2 / 2) * normal_cdf(-s)
            two = mp.exp(2 * s**2) * normal_cdf(-2 * s)
            square = scale**2 * (s**2 / 2 + mp.mpf(alpha) ** 2 * (two - 2 * one + mp.mpf(1) / 2))
            first = scale * (s / mp.sqrt(2 * mp.pi) + mp.mpf(alpha) * (one - mp.mpf(1) / 2))
            assert honest(relative(second_moment[index], square), float(error[index]))
            away = float(abs(mp.mpf(float(mean[index])) - first) / mp.sqrt(square))
            assert honest(away, float(error[index]))


@pytest.mark.parametrize("name", NESTED)
def test_smooth_moments_by_quadrature(name: str) -> None:
    value, _ = smooth_function(name)
    for q in (1e-3, 1e-2, 0.3, 1.0, 17.0, 1e2, 1e3):
        second_moment, mean, error = gaussian.second_moment_and_mean(Activation(name=name), q)
        with mp.workdps(25):
            s = mp.sqrt(mp.mpf(q))
            edges = sorted(
                {k * x for x in (2 / s, 8 / s, 1, 3, 6, 10) if x <= 10 for k in (-1, 1)} | {0}
            )
            square = mp.quad(lambda x, s=s: mp.npdf(x) * value(s * x) ** 2, edges)
            first = mp.quad(lambda x, s=s: mp.npdf(x) * value(s * x), edges)
        assert honest(relative(second_moment, square), float(error))
        assert (
            float(abs(mp.mpf(float(mean)) - first) / mp.sqrt(square)) < 10.0 * float(error) + SLACK
        )


@pytest.mark.parametrize("name", NAMES)
def test_nearly_equal_second_moments(name: str) -> None:
    """At gap 0 the dual's gap is quadratic in log(q1/q2), down to the last digits of q."""
    activation = Activation(name=name)
    wide, _ = gaussian.pair_gap(activation, 1.0, 1.0 + 2.0**-16, 0.0)
    near, _ = gaussian.pair_gap(activation, 1.0, 1.0 + 2.0**-36, 0.0)
    np.testing.assert_allclose(near * 2.0**40 / wide, 1.0, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_symmetry_and_shapes(name: str) -> None:
    activation = Activation(name=name, scale=-2.0, shift=5.0)
    q = np.array([0.5, 1.0, 2.0])
    gap = np.array([[0.0, 0.1, 1.2], [0.1, 0.0, 0.4], [1.2, 0.4, 0.0]])
    for function in (gaussian.pair_gap, gaussian.slope):
        value, error = function(activation, q[:, None], q, gap)
        assert value.shape == error.shape == (3, 3)
        np.testing.assert_array_equal(value, value.T)
        single, _ = function(activation, 0.5, 2.0, 1.2)
        assert single.shape == ()
        assert single == value[0, 2]
    # An affine output map is the caller's.
    assert (
        gaussian.pair_gap(Activation(name=name), 0.5, 2.0, 1.2)[0]
        == gaussian.pair_gap(activation, 0.5, 2.0, 1.2)[0]
    )
    assert np.all(np.diag(gaussian.pair_gap(activation, q[:, None], q, gap)[0]) == 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_extreme_inputs_are_finite(name: str) -> None:
    activation = Activation(name=name)
    q = np.array([1e-8, 1e-4, 1.0, 1e6])
    for gap in (1e-14, 0.5, 2.0 - 1e-9, 2.0):
        for function in (gaussian.pair_gap, gaussian.slope):
            value, error = function(activation, q[:, None], q, gap)
            assert np.all(np.isfinite(value))
            assert np.all(np.isfinite(error))
            assert np.all(error < 1e-6)
    assert np.all(np.isfinite(gaussian.second_moment_and_mean(activation, q)))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_second_moments_outside_the_domain_raise(value: float) -> None:
    tanh = Activation(name="tanh")
    with pytest.raises(SpecificationError, match="q1"):
        gaussian.pair_gap(tanh, value, 1.0, 0.5)
    with pytest.raises(SpecificationError, match="q "):
        gaussian.second_moment_and_mean(tanh, [1.0, value])


@pytest.mark.parametrize(("q1", "q2", "gap"), [(1.0, 1.0, 1e-300), (1e-40, 2e-40, 0.0)])
def test_no_honest_answer_raises(q1: float, q2: float, gap: float) -> None:
    """Underflow; and tanh so linear that the two directions agree to 1e-80."""
    with pytest.raises(NumericalError, match="lost in rounding"):
        gaussian.pair_gap(Activation(name="tanh"), q1, q2, gap)


@pytest.mark.parametrize("gap", [-0.1, 2.1, math.nan])
def test_gaps_outside_the_domain_raise(gap: float) -> None:
    with pytest.raises(SpecificationError, match="gap"):
        gaussian.slope(Activation(name="elu"), 1.0, 1.0, gap)


@pytest.mark.slow
@pytest.mark.parametrize(("q", "limit"), [(1.0, 0.005), (1e3, 0.05)])
@pytest.mark.parametrize("name", NAMES)
def test_one_pair_is_fast(name: str, q: float, limit: float) -> None:
    activation = Activation(name=name)
    times = []
    for index in range(5):
        start = time.process_time()
        gaussian.pair_gap(activation, q, q, 0.3 + 1e-3 * index)
        times.append(time.process_time() - start)
    assert min(times) < limit


if __name__ == "__main__":
    with mp.workdps(30):
        kept = [[*case, *nested(*case)] for case in hard_cases()]
    TRUTH.write_text("[\n" + ",\n".join(json.dumps(row) for row in kept) + "\n]\n")


def test_errors_of_moments_add_up(monkeypatch):
    """Second moment and mean each as far as the coarse rule is, in units of the second moment."""
    fine, coarse = (1.0, 0.5), (1.01, 0.48)
    monkeypatch.setattr(
        gaussian, "_line_moments", lambda *args: fine if args[-1] == 1.0 else coarse
    )
    value, mean, error = gaussian._moments.__wrapped__(Activation(name="softplus"), 1.0)
    assert (value, mean) == fine
    assert error == pytest.approx(0.03, rel=1e-12)
