"""What the derivations must arrive at; the expected formulas are written here and nowhere else."""

from __future__ import annotations

import dataclasses

import pytest
import sympy as sp

import theory as th
from theory import symbolic
from theory.errors import HypothesisError, NumericalError, SpecificationError
from theory.symbolic import batches, expansions, groups, kernels, maps, residual, variance, walks
from theory.symbolic.expression import Trail
from theory.symbolic.layers import exact_layer, unit_gain
from theory.symbolic.symbols import (
    B,
    G,
    L,
    S,
    a,
    alpha,
    b,
    beta,
    c,
    c_after,
    c_before,
    d,
    d0,
    growth,
    layer,
    mean_mode,
    n,
    p0,
    q,
    q0,
    r,
    root_ratio,
    s,
    same,
    settled_gap,
    theta,
    u,
    weight_variance,
    width,
)  # fmt: skip

pi = sp.pi
RELU = (1, 0)
KAPPA1 = (sp.sqrt(1 - c**2) + c * (pi - sp.acos(c))) / pi
KAPPA0 = (pi - sp.acos(c)) / pi
RHO = -1 / (B - 1)
KAPPA1_RHO = KAPPA1.subs(c, RHO)
# Theory notes, section 4, "BN backward".
P2 = sp.Rational(1, 4) + sp.asin(RHO) / (2 * pi)
D = B / 2 - (sp.Rational(1, 2) + (B - 1) * P2)
Q = sp.Rational(1, 2) + (B - 1) * KAPPA1_RHO / 2
LAMBDA_B = 2 * B / ((B - 1) * (B - 3) * (1 - KAPPA1_RHO)) * ((B - 2) / 2 - (D - Q) / B)
GAIN = 1 / (1 - 1 / pi)  # pi/(pi - 1)


def same_function(derived, expected, **at):
    """Equal as functions: at the given point to 30 digits, and at a second one."""
    free = derived.free_symbols | sp.sympify(expected).free_symbols
    for shift in (0, sp.Rational(1, 7)):
        point = {x: at.get(x.name, sp.Rational(3, 5)) + shift for x in free}
        left, right = (sp.N(sp.sympify(e).subs(point), 40) for e in (derived, expected))
        assert abs(left - right) <= sp.Float("1e-30") * abs(right), (left, right)


def of(name):
    return th.zoo[name]


DERIVED = {
    "kappa_1": (kernels.kappa1, KAPPA1, {"c": sp.Rational(2, 5)}),
    "kappa_0": (kernels.kappa0, KAPPA0, {"c": sp.Rational(2, 5)}),
    "ray dual": (
        kernels.ray_dual, ((a + b) ** 2 * KAPPA1 - 2 * a * b * c) / 2, {"c": sp.Rational(2, 5)},
    ),
    "ray slope": (
        kernels.ray_slope_dual, (a**2 + b**2) / 2 - (a + b) ** 2 * sp.acos(c) / (2 * pi),
        {"c": sp.Rational(2, 5)},
    ),
    "sin": (symbolic.duals.sin_dual, sp.exp(-q) * sp.sinh(q * c), {}),
    "erf": (symbolic.duals.erf_dual, 2 / pi * sp.asin(2 * q * c / (1 + 2 * q)), {}),
    "plain map": (lambda: symbolic.correlation_map(of("plain")), KAPPA1, {}),
    "LN map": (lambda: symbolic.correlation_map(of("LN")), KAPPA1, {}),
    "VN map, B = oo": (lambda: symbolic.correlation_map(of("VN")), KAPPA1, {}),
    "SWS map": (
        lambda: symbolic.correlation_map(of("SWS")), (KAPPA1 - 1 / pi) / (1 - 1 / pi), {},
    ),
    "WC map": (lambda: symbolic.correlation_map(of("WC")), (KAPPA1 - 1 / pi) / (1 - 1 / pi), {}),
    "WN map": (
        lambda: symbolic.correlation_map(of("WN")).at(q=1), (KAPPA1 - 1 / pi) / (1 - 1 / pi), {},
    ),
    "plain slope": (lambda: symbolic.slope(of("plain")), KAPPA0, {}),
    "SWS slope at 0": (lambda: symbolic.slope(of("SWS")).at(c=0), GAIN / 2, {}),
    "plain c*": (lambda: symbolic.fixed_point(of("plain")), 1, {}),
    "SWS c*": (lambda: symbolic.fixed_point(of("SWS")), 0, {}),
    "WN c*": (lambda: symbolic.fixed_point(of("WN")), 0, {}),
    "plain lambda": (lambda: symbolic.gradient_growth(of("plain")), 1, {}),
    "LN lambda": (lambda: symbolic.gradient_growth(of("LN")), 1, {}),
    "RMS lambda": (lambda: symbolic.gradient_growth(of("RMSNorm")), 1, {}),
    "SWS lambda": (lambda: symbolic.gradient_growth(of("SWS")), GAIN, {}),
    "WN lambda": (lambda: symbolic.gradient_growth(of("WN")), GAIN, {}),
    "WN q'": (
        lambda: symbolic.variance_recursion(of("WN")), q + (sp.sqrt(q) - 1) ** 2 / (pi - 1), {},
    ),
    "near one": (
        lambda: symbolic.near_one(of("plain")),
        u - 2 * sp.sqrt(2) / (3 * pi) * u ** sp.Rational(3, 2), {},
    ),
    "SWS near one": (
        lambda: symbolic.near_one(of("SWS")),
        GAIN * (u - 2 * sp.sqrt(2) / (3 * pi) * u ** sp.Rational(3, 2)), {},
    ),
    "collapse": (
        lambda: maps.collapse_law(exact_layer(of("plain"))), 9 * pi**2 / (2 * layer**2), {},
    ),
    "GN lambda": (lambda: groups.gradient_growth(G - 1), (G - 2) / (G - 3), {"G": 7}),
    "GN lambda, rms": (lambda: groups.gradient_growth(G), (G - 1) / (G - 2), {"G": 7}),
    "GN(8) lambda": (lambda: symbolic.gradient_growth(of("GN(8)")), sp.Rational(6, 5), {}),
    "GN(3) lambda": (lambda: symbolic.gradient_growth(th.group_norm(3)), sp.oo, {}),
    "GN at c = 0": (
        lambda: groups.independent_value(RELU),
        n * sp.gamma(n / 2) ** 2 / (2 * pi * sp.gamma((n + 1) / 2) ** 2), {"n": 5},
    ),
    "GN(3) at c = 0": (lambda: groups.independent_value(RELU, 2), 4 / pi**2, {}),
    "GN(4) at c = 0": (lambda: groups.independent_value(RELU, 3), sp.Rational(3, 8), {}),
    "GN(8) at c = 0": (lambda: groups.independent_value(RELU, 7), sp.Rational(175, 512), {}),
    "GN at c = 0, G = oo": (lambda: groups.independent_limit(RELU), 1 / pi, {}),
    "GN(2) map": (lambda: symbolic.similarity_map(th.group_norm(2)), KAPPA0, {}),
    "Hotelling": (
        groups.density,
        (n - 1) * sp.gamma(n) / (sp.sqrt(2 * pi) * sp.gamma(n + sp.Rational(1, 2)))
        * (1 - c**2) ** (n / 2) * (1 - r**2) ** ((n - 3) / 2)
        * (1 - c * r) ** (sp.Rational(1, 2) - n)
        * sp.hyper([sp.Rational(1, 2)] * 2, [n + sp.Rational(1, 2)], (1 + c * r) / 2),
        {"n": 4, "r": -sp.Rational(1, 3)},
    ),
    "GN near one": (
        lambda: expansions.near_one(RELU),
        (n - 1) / (n - 2) * u
        - 2 * sp.sqrt(2) / (3 * pi) * n / (n - 3) * u ** sp.Rational(3, 2), {"n": 5},
    ),
    "GN c*, large G": (
        expansions.fixed_point_gap, 9 * pi**2 / 8 * ((n - 3) / (n * (n - 2))) ** 2, {"n": 9},
    ),
    "GN c*, G -> oo": (expansions.large_group_gap, 9 * pi**2 / 8, {}),
    "GN lambda in 1/G": (expansions.growth_series, 1 + 1 / G + 3 / G**2 + 9 / G**3, {}),
    "GN map in 1/G": (
        expansions.large_groups,
        KAPPA1 + (-c * (1 - c**2) * KAPPA0 + (1 - c**2) ** 2 / (pi * sp.sqrt(1 - c**2))) / (2 * n),
        {},
    ),
    "BN s*": (lambda: symbolic.similarity_map(of("BN")), KAPPA1_RHO, {"B": 9}),
    "BN s*, B = oo": (lambda: batches.similarity_limit(RELU), 1 / pi, {}),
    "BN lambda": (lambda: symbolic.gradient_growth(of("BN")), LAMBDA_B, {"B": 9}),
    "BN lambda, B = oo": (lambda: batches.growth_limit(RELU), GAIN, {}),
    "BN lambda, identity": (lambda: batches.gradient_growth((1, -1)), (B - 2) / (B - 3), {"B": 9}),
    "BN C/(B-1)": (lambda: batches.mean_drive(RELU), (D - Q) / (B - 1), {"B": 9}),
    "IN lambda": (
        lambda: symbolic.gradient_growth(of("IN")), LAMBDA_B.subs(B, S), {"S": 9},
    ),
    "IN s*": (
        lambda: symbolic.fixed_point(of("IN")),
        (S - 1) * sp.gamma((S - 1) / 2) ** 2 / (2 * pi * sp.gamma(S / 2) ** 2), {"S": 9},
    ),
    "stable rank": (batches.stable_rank, B / sp.Max(1 + (B - 1) * s, 1 - s), {"B": 9}),
    "VN E[N^2]": (variance.vn_second_moment, (B / (1 - c) - 2) / (B - 3), {"B": 9}),
    "VN E[N^2], B = oo": (variance.vn_infinite_batch, 1 / (1 - c), {}),
    "VN lambda, B = oo": (variance.vn_gradient_limit, (1 - c_before) / (1 - c_after), {"c_l": 0}),
    "VN collapse": (variance.vn_collapse, (B - 3) / (B - 1), {"B": 9}),
    "VN growth": (
        variance.vn_growth, sp.sqrt(sp.sqrt(2) * B / (pi * (B - 3) * (B - 5))), {"B": 9},
    ),
    "finite width": (variance.finite_width_moment, (1 + 5 / width) ** L, {"N": 20}),
    "residual plain": (lambda: symbolic.residual_variance(of("plain")), 2**layer * q0, {}),
    "residual SWS": (lambda: symbolic.residual_variance(of("SWS")), 2**layer * q0, {}),
    "residual LN": (lambda: symbolic.residual_variance(of("LN")), q0 + layer, {}),
    "residual BN": (lambda: symbolic.residual_variance(of("BN")), q0 + layer, {}),
    "residual GN, ddof": (
        lambda: symbolic.residual_variance(th.group_norm(8, ddof=1)), q0 + layer * 7 / 8, {},
    ),
    "residual WN": (
        lambda: residual.stream_recursion(exact_layer(of("WN"))).at(alpha=1, beta=1),
        2 * q + (sp.sqrt(q) - 1) ** 2 / (pi - 1), {},
    ),
    "residual WN, q -> oo": (
        lambda: residual.weight_norm_ratio(exact_layer(of("WN"))), 1 + GAIN, {},
    ),
    "residual BN, p_l": (
        lambda: residual.stream_cross_moment(exact_layer(of("BN"))), p0 + layer * KAPPA1_RHO,
        {"B": 9},
    ),
    "BN at the branch's end, p_l": (
        residual.batch_end_cross_moment, p0 - layer / (B - 1), {"B": 9},
    ),
    "residual plain, backward": (lambda: symbolic.residual_gradient(of("plain")), 2**L, {}),
    "residual SWS, backward": (
        lambda: symbolic.residual_gradient(of("SWS")), (1 + GAIN) ** L, {},
    ),
    "residual LN, backward": (lambda: symbolic.residual_gradient(of("LN")), 1 + L / q0, {}),
    "residual GN(8), backward": (
        lambda: symbolic.residual_gradient(of("GN(8)")),
        sp.gamma(q0 + L + sp.Rational(6, 5)) * sp.gamma(q0)
        / (sp.gamma(q0 + sp.Rational(6, 5)) * sp.gamma(q0 + L)), {},
    ),
    "normalizer-free SWS, backward": (
        lambda: symbolic.residual_gradient(
            th.Layer(weights=th.scaled_weight_standardization(), norm=th.rms_norm())
        ),
        sp.gamma(q0 + L + GAIN) * sp.gamma(q0) / (sp.gamma(q0 + GAIN) * sp.gamma(q0 + L)), {},
    ),
    "residual, L -> oo": (
        residual.depth_exponent, sp.gamma(q0) / sp.gamma(q0 + growth), {},
    ),
    "residual BN, contrasts": (
        residual.batch_contrast_growth,
        sp.gamma(d0 / settled_gap + growth + L) * sp.gamma(d0 / settled_gap)
        / (sp.gamma(d0 / settled_gap + growth) * sp.gamma(d0 / settled_gap + L)), {},
    ),
    "residual BN, backward": (
        lambda: residual.batch_gradient_recursion(RELU, 2),
        same * (1 + LAMBDA_B * (1 - KAPPA1_RHO) / d) + mean_mode * 2 * (D - Q) / ((B - 3) * (B - 1) * d),
        {"B": 9},
    ),
    "beta = 1/sqrt(L), forward": (
        lambda: residual.scaled_limit(_ratio("plain")), sp.E, {},
    ),
    "beta = 1/sqrt(L), SWS backward": (
        lambda: residual.scaled_limit(_factor("SWS")), sp.exp(GAIN), {},
    ),
    "beta = 0": (lambda: _factor("plain").at(alpha=1, beta=0), 1, {}),
    "alpha, beta": (lambda: _factor("SWS"), alpha**2 + beta**2 * GAIN, {}),
    "reflected mean, l -> oo": (walks.reflected_mean_limit, sp.sqrt(2 / pi), {}),
    "reflected second moment, l -> oo": (walks.reflected_second_moment_limit, 1, {}),
    "addition mean": (walks.addition_mean, layer / sp.sqrt(2 * pi), {}),
    "addition second moment": (
        walks.addition_second_moment,
        q0 + layer * (sp.Rational(1, 2) - 1 / (2 * pi)) + layer**2 / (2 * pi), {},
    ),
}  # fmt: skip


def _factor(name):
    return residual.gradient_factor(exact_layer(of(name)), symbolic.gradient_growth(of(name)))


def _ratio(name):
    stream = residual.stream_recursion(exact_layer(of(name)))
    return dataclasses.replace(stream, expression=sp.expand(stream.expression / q))


@pytest.mark.parametrize("name", DERIVED)
def test_derivation_arrives(name):
    derive, expected, at = DERIVED[name]
    result = derive()
    if expected in (sp.oo, 0):
        assert result.expression == expected
    else:
        same_function(result.expression, expected, **at)
    # A loaded machine included: no step takes longer than five seconds.
    assert max(step.seconds for step in result.steps) <= 5.0
    assert result.symbols.keys() == {x.name for x in result.expression.free_symbols}
    assert all(result.symbols.values())
    assert result._repr_latex_() == rf"$\displaystyle {result.latex()}$"
    assert result.steps


@pytest.mark.parametrize("rank", [2, 3, 7])
def test_hotelling_integral_at_zero(rank):
    """4/pi^2, 3/8, 175/512 once more, by integrating the density."""
    result = groups.exact_value(RELU, rank)
    assert result.expression == groups.independent_value(RELU, rank).expression
    assert max(step.seconds for step in result.steps) <= 5.0


@pytest.mark.parametrize("rank", [2, 3, 7])
def test_fisher_density(rank):
    """The elementary form of the density, derived by another integral."""
    fisher = groups.fisher_density(rank)
    same_function(
        fisher.expression, groups.density().expression.subs(n, rank),
        c=sp.Rational(1, 4), r=-sp.Rational(2, 3),
    )  # fmt: skip
    assert max(step.seconds for step in fisher.steps) <= 5.0


def test_vn_matrix():
    expected = sp.Matrix(
        [
            [(B - 2) / (B - 3), B / ((B - 3) * (B - 5) * u)],
            [sp.sqrt(2) / pi * sp.sqrt(u), (B - 1) / (B - 3)],
        ]
    )
    result = variance.vn_gradient_matrix()
    assert sp.simplify(result.expression - expected) == sp.zeros(2, 2)
    assert max(step.seconds for step in result.steps) <= 5.0


def test_growth_series_in_batch():
    """lambda_B - pi/(pi - 1) = const/B + O(1/B^2), from the limit of the exact form."""
    series = batches.growth_series(RELU, order=3)
    error = [
        sp.N((LAMBDA_B - series.expression).subs(B, size), 40) * size**3 for size in (10**5, 10**6)
    ]
    assert error[0] == pytest.approx(error[1], rel=1e-3)
    assert max(step.seconds for step in series.steps) <= 5.0


def test_activation_before_addition_without_scale():
    """The cubic's largest root is the ratio that iteration settles at."""
    value = walks.addition_growth().at(**{weight_variance.name: 2}).expression
    ratio = max(sp.Poly(value, root_ratio).nroots()) ** 2
    mean, square = 0.0, 1.0
    for _ in range(200):
        step = float(1 / sp.sqrt(pi))
        mean, square, before = (
            mean + step * square**0.5,
            square + 2 * mean * step * square**0.5 + square,
            square,
        )
        mean, square, settled = mean / square**0.5, 1.0, square / before
    assert settled == pytest.approx(float(ratio), rel=1e-12)


def test_activation_before_addition_cross_moment():
    result = walks.addition_cross_moment()
    steps = [sp.Rational(1, 5), sp.Rational(1, 2), sp.Rational(4, 5)]
    value = result.expression.subs(layer, 3).doit()
    value = value.subs({sp.Function("c")(i): x for i, x in enumerate(steps)})
    expected = p0 + 9 / (2 * pi) + sum(KAPPA1.subs(c, x) / 2 - 1 / (2 * pi) for x in steps)
    assert abs(sp.N((value - expected).subs(p0, 1), 30)) < 1e-28


def test_spitzer_sums():
    """E[x_l] = sum a_k, E[x_l^2] = l/2 + sum_{j+k<=l} a_j a_k, a_k = 1/sqrt(2 pi k)."""

    def weight(i):
        return 1 / sp.sqrt(2 * pi * i)

    mean, square = walks.reflected_mean(), walks.reflected_second_moment()
    at5 = square.lambdify()([5])[0]
    pairs = sum(weight(i) * weight(j) for i in range(1, 5) for j in range(1, 6 - i))
    assert at5 == pytest.approx(float(sp.Rational(5, 2) + pairs), rel=1e-14)
    assert mean.lambdify()([5])[0] == pytest.approx(
        float(sum(weight(i) for i in range(1, 6))), rel=1e-14
    )
    assert square.lambdify()([1, 50]) == pytest.approx([0.5, 43.992016989702230726], rel=1e-14)
    assert mean.lambdify()([1, 50])[1] == pytest.approx(5.0874611420925297534, rel=1e-14)


LEMMAS = (groups.HOTELLING, walks.SPITZER, walks.POLYLOGARITHM)


@pytest.mark.parametrize("lemma", LEMMAS, ids=lambda lemma: lemma.name)
def test_lemmas_hold_to_30_digits(lemma):
    assert lemma.holds(30)
    assert lemma.source
    assert lemma.statement


def test_every_lemma_is_tested():
    used = {
        lemma.name
        for form in symbolic.closed_forms()
        if "stream" in form.name or form.name == "GN(4): map"
        for lemma in form.expression.lemmas
    }
    assert used == {lemma.name for lemma in LEMMAS}


def test_constants_are_solved_for():
    gain, mean = unit_gain()
    assert sp.simplify(gain**2 - 2 * pi / (pi - 1)) == 0
    assert sp.simplify(mean - 1 / sp.sqrt(2 * pi)) == 0
    assert exact_layer(of("WN")).shift == sp.simplify(-gain * mean)
    assert exact_layer(of("WC")).weight_variance == sp.simplify(gain**2)


def test_symbols_in_place_of_numbers():
    general = dataclasses.replace(
        exact_layer(th.Layer()), weight_variance=weight_variance, slopes=(a, b)
    )
    square = weight_variance * (a**2 + b**2) / 2
    assert sp.simplify(symbolic.gradient_growth(general).expression - square) == 0
    assert sp.simplify(symbolic.variance_recursion(general).expression - square * q) == 0


def test_results_are_computed_not_written_down(monkeypatch):
    """Change an ingredient and the result changes with it."""
    groups.gradient_growth.cache_clear()
    monkeypatch.setattr(groups, "inverse_square", lambda rank: 1 / (rank - 5))
    assert groups.gradient_growth(n).expression == (n - 1) / (n - 5)
    groups.gradient_growth.cache_clear()
    monkeypatch.undo()
    assert groups.gradient_growth(n).expression == (n - 1) / (n - 2)


@pytest.fixture
def fresh_kernels():
    """Duals derived anew, before and after."""
    caches = (kernels._angular, kernels._angular_slope)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.usefixtures("fresh_kernels")
@pytest.mark.parametrize(
    ("sector", "message"),
    [
        ((theta - pi / 2, pi / 2 + theta / 2, a, a), "the identity"),
        ((theta - pi / 2, pi / 2, a, b), "the identity"),
    ],
)
def test_a_broken_derivation_says_so(monkeypatch, sector, message):
    """A sector of the wrong width or with the wrong slopes."""
    monkeypatch.setattr(kernels, "_SECTORS", (sector, *kernels._SECTORS[1:]))
    with pytest.raises(NumericalError, match=message):
        kernels._angular_slope()


def test_checks_raise():
    with pytest.raises(NumericalError, match="should be 0"):
        Trail().check("one", "is not zero", lambda: sp.Integer(1))


def test_display():
    growth_of_bn = symbolic.gradient_growth(th.batch_norm())
    assert growth_of_bn.latex().startswith(r"\lambda_B = \frac{")
    text = growth_of_bn.derivation()
    assert "1. **coordinates of a contrast.**" in text
    assert text.count("$$") == 2 * len(growth_of_bn.steps) + 2
    assert all(step._repr_latex_().startswith("$") for step in growth_of_bn.steps)
    assert "Lemma: Spitzer's identity" in symbolic.derivation("post-activation stream: mean")
    assert str(growth_of_bn.value(B=16, digits=19)) == "1.589950416765165454"
    assert str(symbolic.gradient_growth(th.layer_norm())) == "gradient growth: 1"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: symbolic.gradient_growth(3), "layer = 3"),
        (lambda: symbolic.similarity_map(th.Layer(activation=th.tanh)), "positive homogeneity"),
        (lambda: symbolic.similarity_map(th.batch_norm(eps=1e-5)), "eps = 0"),
        (lambda: symbolic.similarity_map(th.filter_response_norm()), "isotropic"),
        (lambda: symbolic.gradient_growth(th.evonorm_s0()), "without gate"),
        (lambda: symbolic.slope(th.batch_norm()), "the slope is 0"),
        (lambda: symbolic.fixed_point(th.group_norm(8)), "theory.fixed_point"),
        (lambda: symbolic.fixed_point(th.Layer(activation=th.identity)), "every c"),
        (lambda: symbolic.residual_variance(th.zoo["WN"]), "linear in q"),
        (lambda: symbolic.residual_gradient(th.batch_norm()), "batch_gradient_recursion"),
        (lambda: symbolic.near_one(th.batch_norm()), "does not depend on c"),
        (lambda: symbolic.residual_variance(th.variance_norm()), "theory.predict"),
        (
            lambda: symbolic.gradient_growth(
                th.Layer(norm=th.batch_norm(), weights=th.centered_weights())
            ),
            "centered weights",
        ),
        (lambda: symbolic.variance_recursion(th.variance_norm(ddof=1)), "ddof = 1"),
        (lambda: maps.collapse_law(exact_layer(th.zoo["SWS"])), "tangent"),
        (lambda: symbolic.gradient_growth(th.batch_norm()).at(x=1), "symbol = 'x'"),
        (lambda: symbolic.gradient_growth(th.batch_norm()).value(), "given for B"),
        (lambda: symbolic.gradient_growth(th.batch_norm()).lambdify("c"), r"\['B'\]"),
        (lambda: symbolic.derivation("nothing"), "name of a closed form"),
    ],
)
def test_errors(call, message):
    with pytest.raises(SpecificationError, match=message):
        call()


def test_poles_are_said_in_words():
    with pytest.raises(HypothesisError, match="pole"):
        symbolic.gradient_growth(th.batch_norm()).value(B=3)
    with pytest.raises(SpecificationError, match="rank above 3"):
        symbolic.near_one(th.group_norm(4))
    assert symbolic.near_one(th.group_norm(5)).expression.is_finite is not False
