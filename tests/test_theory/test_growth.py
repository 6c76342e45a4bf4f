"""Growth laws: derived from operators, tested by recursions, predictions, populations and networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath as mp
import numpy as np
import pytest
from scipy import special

import theory as th
from theory.errors import HypothesisError, SpecificationError
from theory.growth import (
    GrowthLaw,
    branch_end_second_moment,
    gradient_growth,
    reflected_exponent,
    stream_growth,
)
from theory.nf_scaling import nf_scaled
from theory.population.result import population
from theory.residual_growth import growth_law
from theory.routes.random_flight import random_flight
from theory.routes.walk_density import walk_law
from theory.specs.networks import Layer
from theory.specs.residual import ORDERS, Residual

PI = math.pi
LN, RMS, GN = Layer(norm=th.layer_norm()), Layer(norm=th.rms_norm()), Layer(norm=th.group_norm(8))
BN, PLAIN = Layer(norm=th.batch_norm()), Layer()
SWS = Layer(weights=th.scaled_weight_standardization())
WN = Layer(weights=th.weight_norm(), activation=th.scaled_relu)
MC, VN = Layer(norm=th.mean_centering()), Layer(norm=th.variance_norm())
BN_LIMIT = PI / (PI - 1.0)


def exponent_of(law: GrowthLaw | None) -> float:
    assert law is not None
    assert law.kind == "polynomial"
    return law.rate


# The classification, against recursions


@pytest.mark.parametrize(
    ("branch", "skip", "factor", "kind", "rate"),
    [
        (lambda q: q, 1.0, 1.0, "exponential", 2.0),
        (lambda q: 0.5 * q, 0.5, 1.0, "bounded", 0.0),
        (lambda q: 1.0, 1.0, 0.5, "linear", 0.25),
        (lambda q: 1.0, 0.5, 1.0, "bounded", 4.0 / 3.0),
        (lambda q: 1.0, 2.0, 1.0, "exponential", 4.0),
        (lambda q: math.sqrt(q) + 3.0, 1.0, 1.0, "polynomial", 2.0),
        (
            lambda q: q + (math.sqrt(q) - 1.0) ** 2 / (PI - 1.0),
            1.0,
            1.0,
            "exponential",
            1.0 + BN_LIMIT,
        ),
    ],
)
def test_stream_laws(
    branch: Callable[[float], float], skip: float, factor: float, kind: str, rate: float
) -> None:
    law = stream_growth(branch, skip=skip, factor=factor)
    assert law.kind == kind
    assert law.rate == pytest.approx(rate, rel=1e-9)
    q, path = 1.0, [1.0]
    # Powers carry corrections log(l)/l; bases none that last.
    steps = 20_000 if kind == "polynomial" else 400
    for _ in range(steps):
        q = skip * skip * q + factor * factor * branch(q)
        path.append(q)
    match kind:
        case "exponential":
            assert path[-1] / path[-2] == pytest.approx(rate, rel=1e-6)
        case "linear":
            assert path[-1] - path[-2] == pytest.approx(rate, rel=1e-9)
        case "bounded":
            assert path[-1] == pytest.approx(rate, abs=1e-9)
        case _:
            assert math.log2(path[-1] / path[steps // 2]) == pytest.approx(rate, abs=0.01)
            assert path[-1] / (law.prefactor * steps**law.power) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("pulled", "branch", "kind", "rate"),
    [
        (lambda q: 1.4, lambda q: q, "exponential", 2.4),
        (lambda q: 1.4 / q, lambda q: 1.0, "polynomial", 1.4),
        (lambda q: 1.4 / q, lambda q: 2.0, "polynomial", 0.7),
        (lambda q: 3.0 / math.sqrt(q), lambda q: math.sqrt(q), "polynomial", 6.0),
        (lambda q: 1.4 / q, lambda q: q, "bounded", math.nan),
        (lambda q: 1.4 / q, lambda q: math.sqrt(q), "bounded", math.nan),
    ],
)
def test_gradient_laws(
    pulled: Callable[[float], float], branch: Callable[[float], float], kind: str, rate: float
) -> None:
    law = gradient_growth(pulled, stream=stream_growth(branch))
    assert law.kind == kind
    assert law.rate == pytest.approx(rate, rel=1e-9, nan_ok=True)
    q, total, path = 1.0, 0.0, [0.0]
    for _ in range(800):
        total += math.log1p(pulled(q))
        q += branch(q)
        path.append(total)
    match kind:
        case "exponential":
            assert path[-1] - path[-2] == pytest.approx(math.log(rate), rel=1e-9)
        case "polynomial":
            assert (path[800] - path[400]) / math.log(2.0) == pytest.approx(rate, rel=0.02)
        case _:
            assert path[800] - path[400] < 0.02


def test_laws_that_are_none_of_the_four() -> None:
    with pytest.raises(HypothesisError, match="q\\^2"):
        stream_growth(lambda q: q * q)
    with pytest.raises(HypothesisError, match="stretched"):
        gradient_growth(lambda q: 1.0 / math.sqrt(q), stream=stream_growth(lambda q: 1.0))


def test_laws_say_what_they_are() -> None:
    assert str(stream_growth(lambda q: q)) == "2^l"
    assert str(stream_growth(lambda q: 1.0)) == "1 l"
    assert str(stream_growth(lambda q: math.sqrt(q))) == "l^2"
    assert str(stream_growth(lambda q: 1.0, skip=0.5)) == "bounded (1.33333)"
    assert str(stream_growth(lambda q: 0.0)) == "bounded by what the start decides"


# The reflected stream


@pytest.mark.parametrize("c", [0.4, 1.0, PI / (PI - 2.0), 5.0])
def test_reflected_exponent_solves_the_survival_equation(c: float) -> None:
    # c int_1^inf r^(-g-1) (2/pi) arcsin(r^-1/2) dr = 1, with r = w^-2; for g > -1/2.
    g = reflected_exponent(c)
    with mp.workdps(20):
        total = mp.quad(lambda w: w ** (2 * g - 1) * mp.asin(w), [0, 1e-6, 1e-3, 0.1, 1])
    assert 4.0 * c / PI * float(total) == pytest.approx(1.0, rel=1e-6)


def test_reflected_exponent_changes_sign() -> None:
    assert reflected_exponent(0.5 / math.log(2.0)) == pytest.approx(0.0, abs=1e-12)
    assert reflected_exponent(1.0) == pytest.approx(0.2089489831330548, rel=1e-12)


@pytest.mark.parametrize(("c", "expected"), [(1.0, 0.20895), (PI / (PI - 2.0), 1.62201)])
def test_reflected_exponent_along_walks(c: float, expected: float) -> None:
    # Local exponents on the grid, freed from what is left at finite depth: l^-1/2 and (l/L)^(g + 1/2).
    depth, g = 2000, reflected_exponent(c)
    gradient = walk_law(depth, branch_gradient=c).gradient
    assert gradient is not None
    at = np.unique(np.geomspace(16, depth / 6, 12).astype(int))
    local = np.log2(gradient[at - 1] / gradient[2 * at - 1])
    columns = [np.ones(len(at)), at**-0.5, 1.0 / at, (at / depth) ** (0.5 + g)]
    fitted = np.linalg.lstsq(np.stack(columns, axis=1), local, rcond=None)[0][0]
    assert g == pytest.approx(expected, abs=1e-5)
    assert fitted == pytest.approx(g, abs=0.03)


# The table of theory notes, section 5


def grown(layer: Layer, order: Any = "pre_activation", batch: Any = None, **more: Any) -> Any:
    return growth_law(Residual(layer, depth=30, order=order, maps=1, **more), batch=batch)


@pytest.mark.parametrize(
    ("layer", "forward", "backward"),
    [(PLAIN, 2.0, 2.0), (SWS, 2.0, 1.0 + BN_LIMIT), (WN, 1.0 + BN_LIMIT, 1.0 + BN_LIMIT)],
    ids=["plain", "SWS", "WN"],
)
def test_bases(layer: Layer, forward: float, backward: float) -> None:
    found = grown(layer)
    assert (found.variance.kind, found.gradient.kind) == ("exponential", "exponential")
    assert found.variance.rate == pytest.approx(forward, rel=1e-12)
    assert found.gradient.rate == pytest.approx(backward, rel=1e-12)


def group_growth(size: int) -> float:
    return (size - 2.0) / (size - 3.0)


@pytest.mark.parametrize(
    ("layer", "order", "batch", "exponent"),
    [
        (LN, "pre_activation", None, 1.0),
        (RMS, "pre_activation", None, 1.0),
        (GN, "pre_activation", None, group_growth(8)),
        (BN, "pre_activation", None, BN_LIMIT),
        (BN, "pre_activation", 16, 1.5899504167651655),
        (BN, "pre_activation", 64, 1.4930629378035986),
        (LN, "branch_end_norm", None, 1.0),
        (GN, "branch_end_norm", None, group_growth(8)),
        (LN, "sandwich", None, 1.0),
        (GN, "sandwich", None, group_growth(8) ** 2),
    ],
)
def test_linear_streams(layer: Layer, order: str, batch: Any, exponent: float) -> None:
    found = grown(layer, order, batch)
    assert found.variance.kind == "linear"
    assert found.variance.rate == pytest.approx(1.0, rel=1e-12)
    assert exponent_of(found.gradient) == pytest.approx(exponent, rel=1e-10)


def test_batch_norm_at_the_branch_end_in_closed_form() -> None:
    # x + BN(W relu(x)): stream at correlation -1/(B-1); J of BN at W relu(x), then relu's masks.
    b = 16
    rho = -1.0 / (b - 1)
    kappa1 = (math.sqrt(1.0 - rho * rho) + rho * (PI - math.acos(rho))) / PI
    both = 0.5 * (PI - math.acos(rho)) / PI
    t = b * (b - 2.0) / ((b - 1.0) * (b - 3.0)) / (0.5 * (1.0 - kappa1))
    expected = t * (0.5 * (1.0 - 1.0 / b) + both / b)
    assert exponent_of(grown(BN, "branch_end_norm", b).gradient) == pytest.approx(
        expected, rel=1e-9
    )


@pytest.mark.parametrize(("maps", "skip", "batch"), [(1, 1.0, 16), (2, 1.0, 16), (2, -0.7, 8)])
def test_post_norm_of_samples_that_become_alike(maps: int, skip: float, batch: int) -> None:
    """Behind VN the second moment grows by one factor per block: predicted steps tend to it."""
    net = Residual(VN, depth=400, order="post_norm", maps=maps, skip=skip)
    law = th.growth_law(net, batch=batch).variance
    assert law is not None
    assert law.kind == "exponential"
    logs = th.predict(
        net, th.exchangeable(batch=batch, correlation=0.3), backward=False
    ).log_second_moment
    assert logs[-1] - logs[-2] == pytest.approx(math.log(law.rate), rel=1e-6)
    # Gradients grow faster than any exponential.
    assert th.growth_law(net, batch=batch).gradient is None


@pytest.mark.parametrize("norm", [th.evonorm_s0(), th.layer_norm(), None])
def test_identity_reflects_nothing(norm: Any) -> None:
    """identity(x + N(W x)) is x + identity(N(W x))."""
    layer = Layer(norm=norm, activation=th.identity)
    found, expected = (
        grown(layer, order) for order in ("post_activation", "activation_before_addition")
    )
    assert str(found.variance) == str(expected.variance) != "None"
    assert str(found.gradient) == str(expected.gradient) != "None"


def test_activation_before_addition() -> None:
    found = grown(LN, "activation_before_addition")
    assert found.variance.rate == 2.0
    assert found.variance.coefficient == pytest.approx(0.5 / PI, rel=1e-12)
    assert found.gradient.kind == "bounded"
    assert exponent_of(grown(BN, "activation_before_addition", 16).gradient) == pytest.approx(
        1.5899504167651655, rel=1e-9
    )


@pytest.mark.parametrize(
    ("layer", "a", "added"),
    [(PLAIN, 1.0 / math.sqrt(PI), 1.0), (WN, 1.0 / math.sqrt(PI - 1.0), PI / (PI - 1.0))],
    ids=["plain", "WN"],
)
def test_activation_before_addition_without_normalizer(
    layer: Layer, a: float, added: float
) -> None:
    # m' = m + a sqrt(q), q' = q + 2 a m sqrt(q) + added q: mu (sqrt(r) - 1) = a, r = 1 + 2 a mu + added.
    r = float(mp.findroot(lambda r: 1 + 2 * a * a / (mp.sqrt(r) - 1) + added - r, 3.2))
    found = grown(layer, "activation_before_addition")
    assert found.variance.kind == "exponential"
    assert found.variance.rate == pytest.approx(r, rel=1e-10)
    assert found.gradient.rate == pytest.approx(1.0 + added, rel=1e-12)


@pytest.mark.parametrize(
    ("layer", "exponent"), [(LN, 0.20895), (BN, 1.62201), (GN, reflected_exponent(1.2))]
)
def test_post_activation(layer: Layer, exponent: float) -> None:
    found = grown(layer, "post_activation", branch=0.5)
    assert found.variance.kind == "linear"
    assert found.variance.rate == pytest.approx(0.25, rel=1e-12)
    assert exponent_of(found.gradient) == pytest.approx(exponent, abs=1e-5)


def test_remedies() -> None:
    zero = grown(PLAIN, branch=0.0)
    assert (zero.variance.kind, zero.gradient.kind) == ("bounded", "bounded")
    root = grown(SWS, branch="1/sqrt(L)")
    assert root.variance.rate == pytest.approx(math.e, rel=1e-9)
    assert root.gradient.rate == pytest.approx(math.exp(BN_LIMIT), rel=1e-9)
    inputs = th.exchangeable(batch=2, correlation=0.5)
    for layer, exponent in ((PLAIN, 1.0), (SWS, BN_LIMIT)):
        scaled = growth_law(nf_scaled(Residual(layer, depth=30), inputs))
        assert scaled.variance is not None
        assert scaled.variance.kind == "linear"
        assert scaled.variance.rate == pytest.approx(1.0, rel=1e-9)
        assert exponent_of(scaled.gradient) == pytest.approx(exponent, rel=1e-9)


@pytest.mark.parametrize("order", ["post_norm", "deep_norm"])
def test_post_norm_is_bounded(order: str) -> None:
    found = grown(LN, order)
    assert found.variance.rate == pytest.approx(1.0, rel=1e-12)
    assert found.gradient.kind == "bounded"
    assert grown(BN, order).gradient.kind == "exponential"


@pytest.mark.parametrize(
    ("layer", "order", "batch", "reason"),
    [
        (VN, "post_norm", 16, "alike"),
        (VN, "pre_activation", 16, "alike"),
        (VN, "branch_end_norm", 16, "alike"),
        (Layer(norm=th.group_norm(8, eps=1e-5)), "post_norm", 2, "not Gaussian"),
        (MC, "post_activation", 16, "no walk"),
        (Layer(activation=th.leaky_relu(0.3)), "post_activation", None, "population"),
        (BN, "post_activation", 16, "batch = inf"),
    ],
)
def test_what_is_not_derived_says_so(layer: Layer, order: str, batch: Any, reason: str) -> None:
    found = grown(layer, order, batch)
    assert found.gradient is None
    assert any(reason in sentence for sentence in found.reasons)


def test_activations_that_are_not_homogeneous() -> None:
    # Saturated on a growing stream: slope E[sigma_w^2 tanh^2] -> 2; T falls as q^(-1/2): no power law.
    plain = grown(Layer(activation=th.tanh))
    assert plain.variance.kind == "linear"
    assert plain.variance.rate == pytest.approx(2.0, rel=1e-9)
    assert plain.gradient is None
    assert "stretched" in plain.reasons[0]
    # Normalized: sigma_w^2 E[tanh^2] and sigma_w^2 E[tanh'^2] at unit Gaussians.
    normalized = grown(Layer(norm=th.layer_norm(), activation=th.tanh))
    square, slope = (
        float(mp.quad(lambda z, f=f: f(mp.tanh(z)) * mp.npdf(z), [-12, 0, 12]))
        for f in (lambda t: t * t, lambda t: (1 - t * t) ** 2)
    )
    assert normalized.variance.rate == pytest.approx(2.0 * square, rel=1e-9)
    assert exponent_of(normalized.gradient) == pytest.approx(slope / square, rel=1e-9)


def test_two_maps_square_the_factor() -> None:
    found = growth_law(Residual(BN, depth=2, maps=2), batch=16)
    assert exponent_of(found.gradient) == pytest.approx(1.5899504167651655**2, rel=1e-9)


def test_arguments() -> None:
    with pytest.raises(SpecificationError, match="residual"):
        growth_law(th.FeedForward(LN, depth=2))  # type: ignore[arg-type]
    with pytest.raises(SpecificationError, match="depth"):
        branch_end_second_moment(-1)


# Fitted slopes are the test


@pytest.mark.parametrize(
    ("layer", "order", "batch"),
    [
        (PLAIN, "pre_activation", 2),
        (SWS, "pre_activation", 2),
        (WN, "pre_activation", 2),
        (LN, "pre_activation", 2),
        (GN, "pre_activation", 2),
        (BN, "pre_activation", 16),
        (BN, "activation_before_addition", 16),
        (LN, "activation_before_addition", 2),
        (LN, "sandwich", 2),
        (WN, "activation_before_addition", 2),
        (MC, "activation_before_addition", 16),
        (MC, "pre_activation", 16),
        (MC, "post_norm", 16),
    ],
)
def test_slopes_of_predictions(layer: Layer, order: Any, batch: int) -> None:
    depth = 800
    net = Residual(layer, depth=depth, order=order, maps=1)
    pred = th.predict(net, th.exchangeable(batch=batch, correlation=0.3))
    assert pred.log_gradient_norm is not None
    law = growth_law(net, batch=batch)
    for found, path, sign in (
        (law.variance, pred.log_second_moment, 1.0),
        (law.gradient, 2.0 * pred.log_gradient_norm, -1.0),
    ):
        assert found is not None
        # Away from the end, where the cotangent is not yet in the slowest mode.
        last = sign * (path[-40] - path[-41])
        doubled = sign * (path[depth // 2] - path[depth // 4]) / math.log(2.0)
        match found.kind:
            case "exponential":
                assert last == pytest.approx(math.log(found.rate), rel=1e-6)
            case "bounded":
                assert abs(doubled) < 0.02
            case _:
                assert doubled == pytest.approx(found.power, rel=0.025)


@pytest.mark.parametrize(
    ("layer", "order", "batch", "maps"),
    [
        (GN, "post_norm", 2, 1),
        (GN, "deep_norm", 2, 2),
        (BN, "post_norm", 16, 2),
        (BN, "deep_norm", 16, 1),
        (MC, "post_norm", 16, 2),
    ],
)
def test_factors_per_block_behind_a_norm(layer: Layer, order: Any, batch: int, maps: int) -> None:
    net = Residual(layer, depth=12, order=order, maps=maps)
    pred, law = (
        th.predict(net, th.exchangeable(batch=batch, correlation=0.3)),
        growth_law(net, batch=batch),
    )
    assert law.variance is not None
    assert law.gradient is not None
    assert pred.log_gradient_norm is not None
    forward = pred.log_second_moment[-1] - pred.log_second_moment[-2]
    expected = math.log(law.variance.rate) if law.variance.kind == "exponential" else 0.0
    assert forward == pytest.approx(expected, abs=1e-9)
    backward = 2.0 * (pred.log_gradient_norm[-4] - pred.log_gradient_norm[-3])
    assert backward == pytest.approx(math.log(law.gradient.rate), abs=1e-9)


@pytest.mark.parametrize("skip", [0.9, -0.5, -1.0])
def test_means_of_branches_enter_with_any_skip(skip: float) -> None:
    """LN, relu, x' = a x + phi(N(W x)): mean 1/sqrt(2 pi), variance 1/2 - 1/(2 pi) per branch."""
    net = Residual(LN, depth=800, order="activation_before_addition", maps=1, skip=skip)
    pred, law = th.predict(net, th.exchangeable(batch=2, correlation=0.3)), growth_law(net)
    assert law.variance is not None
    assert law.gradient is not None
    assert pred.log_gradient_norm is not None
    q, gradient = np.exp(pred.log_second_moment), 2.0 * pred.log_gradient_norm
    spread = 0.5 - 0.5 / PI
    if skip == -1.0:
        assert law.variance.kind == "linear"
        assert law.variance.rate == pytest.approx(spread, rel=1e-12)
        assert (q[799] - q[399]) / 400.0 == pytest.approx(spread, rel=1e-3)
        doubled = (gradient[200] - gradient[400]) / math.log(2.0)
        assert doubled == pytest.approx(exponent_of(law.gradient), rel=0.025)
        return
    assert law.variance.kind == "bounded"
    exact = spread / (1.0 - skip**2) + 0.5 / PI / (1.0 - skip) ** 2
    assert law.variance.rate == pytest.approx(exact, rel=1e-12)
    assert q[-1] == pytest.approx(exact, rel=1e-9)
    assert law.gradient.rate == pytest.approx(skip**2 + 0.5 / exact, rel=1e-9)
    assert gradient[400] - gradient[401] == pytest.approx(math.log(law.gradient.rate), rel=1e-6)


@pytest.mark.parametrize(
    ("order", "maps", "batch", "activation", "branch"),
    [
        ("pre_activation", 1, 4, th.relu, 1.0),
        ("pre_activation", 1, 6, th.leaky_relu(0.2), 0.5),
        ("pre_activation", 2, 6, th.relu, 1.0),
        ("pre_norm", 2, 5, th.relu, 1.0),
        ("branch_end_norm", 2, 5, th.leaky_relu(0.2), 0.5),
    ],
)
def test_powers_of_variance_norm(
    order: Any, maps: int, batch: int, activation: Any, branch: float
) -> None:
    """Slopes freed from what is left at finite depth, a series in l^-((r-1)/2): the root of the gap."""
    layer = Layer(norm=th.variance_norm(), activation=activation)
    net = Residual(layer, depth=8_000, order=order, maps=maps, branch=branch)
    law = growth_law(net, batch=batch)
    power = exponent_of(law.variance)
    norms = maps if order == "pre_activation" else 1
    assert power == pytest.approx(((batch - 1.0) / (batch - 3.0)) ** norms, rel=1e-12)
    assert law.gradient is None
    inputs = th.exchangeable(batch=batch, correlation=0.3)
    log_q = th.predict(net, inputs, backward=False).log_second_moment
    at = np.unique(np.geomspace(20, 4_000, 40).astype(int))
    local = (log_q[2 * at - 1] - log_q[at - 1]) / math.log(2.0)
    columns = [at ** (-0.5 * k * (power - 1.0)) for k in range(5)]
    fitted = np.linalg.lstsq(np.stack(columns, axis=1), local, rcond=None)[0][0]
    assert fitted == pytest.approx(power, rel=2e-3)


def test_power_of_variance_norm_behind_one_map() -> None:
    """N at the branch's end sees phi of the stream itself."""
    net = Residual(VN, depth=800, order="branch_end_norm", maps=1)
    law = growth_law(net, batch=4)
    assert exponent_of(law.variance) == pytest.approx(3.0, rel=1e-12)
    log_q = th.predict(net, th.exchangeable(batch=4, gap=0.5), backward=False).log_second_moment
    assert (log_q[799] - log_q[399]) / math.log(2.0) == pytest.approx(3.0, rel=3e-3)


@pytest.mark.parametrize("batch", [4, 6, 8])
def test_power_of_variance_norm_in_sandwiches(batch: int) -> None:
    """phi = identity: the mean over samples grows by 1 + B n E|y|^-2/(n - 2), y the flight of contrasts."""
    layer = Layer(norm=th.variance_norm(), activation=th.identity)
    net = Residual(layer, depth=4_000, order="sandwich", maps=2)
    power = exponent_of(growth_law(net, batch=batch).variance)
    n = batch - 1
    assert power == pytest.approx((n / (n - 2.0)) ** 2, rel=1e-12)
    flight = random_flight(4_000, dimensions=n, start=0.7, length=math.sqrt(batch))
    level = np.cumsum(np.log1p(batch * n / (n - 2.0) * flight.inverse))
    assert (level[3_999] - level[1_999]) / math.log(2.0) == pytest.approx(power, rel=4e-3)


def simulated_second_moment(branch: Any, *, skip: float, depth: int) -> Any:
    """E[x_l^2] along x' = a x + branch(W x) at finite width; one row per network."""
    width, rows = 2048, []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        # Collapsed: W x has independent channels of variance 2 |x|^2/n.
        x = rng.standard_normal(width)
        row = []
        for _ in range(depth):
            h = math.sqrt(2.0 * np.mean(x**2)) * rng.standard_normal(width)
            x = skip * x + branch(h)
            row.append(np.mean(x**2))
        rows.append(row)
    return np.array(rows)


def test_means_of_branches_in_networks() -> None:
    """Five standard errors of four networks' means, no more than 2 % and 3 %; seeds are fixed."""

    def ln_relu(h: Any) -> Any:
        return np.maximum((h - h.mean()) / h.std(), 0.0)

    def evonorm(h: Any) -> Any:
        groups = h.reshape(-1, 8)
        std = groups.std(axis=1, keepdims=True)
        return np.asarray(groups * special.expit(groups) / std).ravel()

    ln = Residual(LN, depth=4, order="activation_before_addition", maps=1, skip=0.5)
    law = growth_law(ln).variance
    assert law is not None
    found = simulated_second_moment(ln_relu, skip=0.5, depth=40)[:, -1]
    assert abs(found.mean() - law.rate) < min(5.0 * found.std(ddof=1) / 2.0, 0.02 * law.rate)
    layer = Layer(norm=th.evonorm_s0(group_size=8), activation=th.identity)
    law = growth_law(Residual(layer, depth=4, order="branch_end_norm", maps=1)).variance
    assert law is not None
    assert law.power == 2.0
    paths = simulated_second_moment(evonorm, skip=1.0, depth=300)
    # q_l = (b mu l + m_0)^2 + v l: the second difference of q is twice the coefficient.
    second = (paths[:, 299] - 2.0 * paths[:, 199] + paths[:, 99]) / (2.0 * 100.0**2)
    assert abs(second.mean() - law.coefficient) < 0.03 * law.coefficient


@pytest.mark.parametrize("order", ["branch_end_norm", "sandwich"])
def test_means_at_the_branch_end_add_up(order: Any) -> None:
    layer = Layer(norm=th.evonorm_s0(), activation=th.identity)
    law = growth_law(Residual(layer, depth=50, order=order))
    assert exponent_of(law.variance) == 2.0
    assert law.gradient is None
    assert "mean" in law.reasons[0]
    # Where the stream stays bounded it is neither centered nor Gaussian.
    bounded = growth_law(Residual(layer, depth=50, order=order, skip=0.5))
    assert bounded.variance is None
    assert "mean" in bounded.reasons[0]


@pytest.mark.parametrize("layer", [PLAIN, SWS, WN], ids=["plain", "SWS", "WN"])
@pytest.mark.parametrize("branch", [1.0, 0.5])
def test_bases_of_reflected_streams_without_a_normalizer(layer: Layer, branch: float) -> None:
    """phi(x + b W x): slopes of a population; five standard errors at both ends, 1e-5 per figure."""
    net = Residual(layer, depth=60, order="post_activation", branch=branch)
    law = growth_law(net)
    found = population(net, th.exchangeable(batch=2, correlation=0.3), channels=4096)
    assert law.variance is not None
    assert law.gradient is not None
    assert found.gradient is not None
    for sign, values, rate in (
        (1.0, found.stream, law.variance.rate),
        (-1.0, found.gradient, law.gradient.rate),
    ):
        log, error = sign * values.log_second_moment, values.second_moment_error
        slope = (log[45] - log[25]) / 20.0
        assert abs(slope - math.log(rate)) < 5.0 * (error[45] + error[25]) / 20.0 + 1e-6
        assert error.max() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "order", "batch"),
    [
        (BN, "branch_end_norm", 16),
        (BN, "sandwich", 16),
        (GN, "sandwich", 2),
        (BN, "post_activation", 64),
    ],
)
def test_slopes_of_populations(layer: Layer, order: Any, batch: int) -> None:
    net = Residual(layer, depth=256, order=order, maps=1)
    found = population(net, th.exchangeable(batch=batch, correlation=0.3))
    assert found.gradient is not None
    log_square = found.gradient.log_second_moment
    slope = (log_square[63] - log_square[127]) / math.log(2.0)
    limit = growth_law(net, batch=math.inf if order == "post_activation" else batch).gradient
    # O(1/l) corrections, O(1/B) for the infinite batch, and the population's own noise of 1 %.
    assert slope == pytest.approx(exponent_of(limit), rel=0.05)


@pytest.mark.slow
def test_gap_along_reflected_walks() -> None:
    # Nearly equal samples: the adjoint of the gradient's equation, gap ~ l^(g-1).
    net = Residual(LN, depth=2000, order="post_activation")
    inputs = th.exchangeable(batch=2, gap=1e-6)
    found = population(net, inputs, channels=16384, backward=False).stream
    slope = math.log2(found.gap[1999] / found.gap[999])
    error = math.hypot(found.gap_error[1999], found.gap_error[999]) / math.log(2.0)
    assert error < 0.05
    assert abs(slope - (reflected_exponent(1.0) - 1.0)) < 3.0 * error


# OLMo's issue 797


def test_variance_of_norm_at_the_branch_end() -> None:
    """x + rms_norm(W2 relu(W1 x)) in direct networks: 4.5 standard errors, 1e-4 per figure."""
    rng, width, depth, networks = np.random.default_rng(7), 256, 12, 30
    paths = np.empty((networks, depth + 1))
    for k in range(networks):
        x = rng.standard_normal(width) * math.sqrt(0.5)
        paths[k, 0] = np.mean(x * x)
        for block in range(depth):
            first, second = rng.standard_normal((2, width, width)) * math.sqrt(2.0 / width)
            h = second @ np.maximum(first @ x, 0.0)
            x = x + h / np.sqrt(np.mean(h * h))
            paths[k, block + 1] = np.mean(x * x)
    error = paths.std(axis=0, ddof=1) / math.sqrt(networks)
    expected = [branch_end_second_moment(k, second_moment=0.5) for k in range(depth + 1)]
    assert np.all(np.abs(paths.mean(axis=0) - expected) < 4.5 * error)
    assert np.all(error[1:] < 0.06 * np.array(expected[1:]))
    net = Residual(RMS, depth=depth, order="branch_end_norm")
    pred = th.predict(net, th.exchangeable(batch=2, second_moment=0.5, correlation=0.0))
    np.testing.assert_allclose(pred.second_moment, expected[1:], rtol=1e-12)
    assert str(growth_law(net).variance) == "1 l"


def test_an_infinite_gradient_has_no_law_but_a_reason():
    law = th.growth_law(th.Residual(th.Layer(norm=th.group_norm(3)), depth=3))
    assert law.variance is not None
    assert law.gradient is None
    assert "infinite" in law.reasons[0]


def test_factors_that_add_up_to_one_but_for_rounding_do_not_grow() -> None:
    """skip^2 + factor^2 = 1: half of these sums are 1 + 2e-16 or more."""
    angles = np.linspace(0.1, 1.4, 40)
    sums = np.cos(angles) ** 2 + np.sin(angles) ** 2
    assert (sums > 1.0).any()
    for angle in angles:
        law = stream_growth(lambda q: q, skip=math.cos(angle), factor=math.sin(angle))
        assert law.kind == "bounded"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("norm", [None, th.layer_norm(), th.group_norm(8), th.batch_norm()])
@pytest.mark.parametrize("skip", [1.0, 0.8])
def test_laws_of_closed_branches_are_those_of_predictions(
    order: Any, norm: th.Normalizer | None, skip: float
) -> None:
    """SkipInit: every order has a law, and what predict says of six blocks obeys it."""
    network = Residual(Layer(norm=norm), depth=6, order=order, branch=0.0, skip=skip)
    law = growth_law(network, batch=8)
    assert law.reasons == ()
    assert law.variance is not None
    assert law.gradient is not None
    found = th.predict(network, th.exchangeable(batch=8, correlation=0.3))
    for one, logs in ((law.variance, found.log_second_moment[1:]), (law.gradient, None)):
        if logs is None:
            # Behind the first block, and before the last: its own projection acts once.
            assert found.log_gradient_norm is not None
            logs = 2.0 * found.log_gradient_norm[:-1][::-1]
        # A stream that fades has the limit 0 at skip^2 per block.
        per_block = one.rate if one.kind == "exponential" else 1.0
        if one.kind == "bounded" and one.rate == 0.0:
            per_block = network.factors[0] ** 2
        assert np.diff(logs) == pytest.approx(np.full(4, math.log(per_block)), abs=0.02)
        if one.kind == "bounded" and one.rate > 0.0 and one is law.variance:
            assert math.exp(found.log_second_moment[-1]) == pytest.approx(one.rate, rel=1e-6)


def test_closed_branches_behind_activations() -> None:
    """leaky relu keeps x < 0 at 0.3 per block; scaled relu moves every ray; abs folds once."""

    def variance(activation: th.Activation, **options: Any) -> Any:
        layer = Layer(activation=activation)
        network = Residual(layer, depth=5, order="post_activation", branch=0.0, **options)
        return growth_law(network)

    assert variance(th.leaky_relu(0.3), skip=1.5).variance.rate == pytest.approx(2.25)
    assert variance(th.abs).variance.kind == "bounded"
    for activation, options in ((th.scaled_relu, {}), (th.tanh, {}), (th.relu, {"skip": -1.0})):
        refused = variance(activation, **options)
        assert refused.variance is None
        assert "branch = 0" in refused.reasons[0]


@pytest.mark.parametrize(
    ("norm", "rate"),
    [
        (th.batch_norm(ddof=1), 7.0 / 8.0),
        (th.rms_norm(), 1.0),
        (th.layer_norm(eps=0.1), 0.9),
        (th.variance_norm(), math.nan),
        (th.group_norm(8, eps=0.1), None),
        (th.evonorm_s0(8), None),
    ],
)
def test_closed_branches_before_a_norm(norm: th.Normalizer, rate: float | None) -> None:
    """N(N(x)) = N(x) at eps = 0; with eps = 0.1 LN settles where q + eps = 1; gates are refused."""
    network = Residual(Layer(norm=norm), depth=5, order="post_norm", branch=0.0)
    law = growth_law(network, batch=8)
    if rate is None:
        assert law.variance is None
        assert "branch = 0" in law.reasons[0]
        return
    assert law.variance is not None
    assert law.variance.kind == "bounded"
    assert law.variance.rate == pytest.approx(rate, nan_ok=True)


def test_variance_norm_with_the_inverse_root_of_depth_has_no_power() -> None:
    """Samples stay where they are: predictions at 10, 100, 1000 blocks agree; no l^(15/13)."""
    layer = Layer(norm=th.variance_norm())
    law = growth_law(Residual(layer, depth=10, branch="1/sqrt(L)"), batch=16)
    assert law.variance is None
    assert law.reasons


@pytest.mark.parametrize(("ddof", "size"), [(0, 1.0), (1, 7.0 / 8.0)])
def test_streams_on_a_sphere_have_its_size(ddof: int, size: float) -> None:
    # x' = N(x + F(x)) has |x'|^2 = G - ddof in every group.
    net = th.Residual(th.Layer(norm=th.group_norm(8, ddof=ddof)), depth=2, order="post_norm")
    law = th.growth_law(net).variance
    assert (law.kind, law.rate) == ("bounded", pytest.approx(size, rel=1e-13))


def test_laws_say_which_batch() -> None:
    coupled = Residual(BN, depth=4)
    assert growth_law(coupled).batch == math.inf
    assert growth_law(coupled, batch=8).batch == 8
    assert growth_law(Residual(BN, depth=4, branch=0.0), batch=8).batch == 8
    assert growth_law(Residual(LN, depth=4), batch=8).batch is None
