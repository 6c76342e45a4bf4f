"""verify: the claims as data, the verdicts, the run, the report; and that broken theory is noticed."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import montecarlo
import theory
from montecarlo import collect, report, verify
from montecarlo.budgets import BUDGETS, DEFAULT, LONG, QUICK, Budget, Grid
from montecarlo.case import INPUTS, Control
from montecarlo.cases import cases
from montecarlo.cli import main
from montecarlo.departure import Agrees, Departure, Deviation, Measured
from montecarlo.margins import ALPHA, QUANTITIES
from montecarlo.predictions import theory_of
from montecarlo.store import Store
from montecarlo.verdicts import _verdict, checks_of, networks_wanted
from theory.errors import SpecificationError
from theory.specs.inputs import CovarianceInputs, DataInputs
from theory.specs.networks import FeedForward
from theory.zoo import zoo

GRID = Grid(
    depth=3,
    forward=(1, 3),
    backward=(1,),
    widths=(60, 120, 240),
    pilot=40,
    largest=90,
)
FIRST = dataclasses.replace(GRID, depth=2, forward=(1,), backward=())
DIRECT = dataclasses.replace(GRID, forward=(), widths=(60, 84, 120))
TINY = Budget(name="tiny", first=FIRST, wide=GRID, direct=DIRECT, heavy=None)


def chosen(*names, inputs="synthetic"):
    return verify.select(inputs, only=names)


@pytest.fixture(scope="module")
def tiny():
    return verify.run(
        chosen("BN", "LN", "WN"), budget=TINY, inputs="synthetic", controls=True, workers=1
    )


@pytest.fixture(scope="module")
def single(tiny):
    """One case of the tiny run: a short report."""
    case, *_ = tiny.cases
    return dataclasses.replace(
        tiny,
        cases=(case,),
        rows=tuple(row for row in tiny.rows if row.case == case.name),
        controls=tuple(control for control in tiny.controls if control.case == case.name),
        claims=tuple(r for r in tiny.claims if {row.case for row in r.rows} == {case.name}),
        curves={place: curve for place, curve in tiny.curves.items() if place[0] == case.id},
    )


EVERYTHING = tuple(case for kind in INPUTS for case in cases(kind))
ONE_POSITION = (*cases("synthetic"), *cases("digits"))


class TestClaims:
    def test_every_normalizer_defined_at_one_position_on_both_batches(self):
        expected = {name for name in zoo if name not in ("IN", "FRN", "GN(8)")} | {"GN(6)"}
        assert {case.name for case in cases("digits")} == expected
        assert {case.name for case in cases("synthetic")} == expected | {"GN(4)", "GN(6), linear"}
        assert len(ONE_POSITION) == 2 * len(expected) + 2
        ids = [case.id for case in ONE_POSITION]
        assert len(set(ids)) == len(ids)

    def test_every_case_has_a_control(self):
        assert all(case.controls for case in EVERYTHING)

    def test_gradients_without_a_variance_get_networks_of_their_own(self):
        # Theory notes, "Heavy tails": a squared gradient has a variance only for a pool of rank > 4.
        heavy = [case for case in EVERYTHING if case.rank <= 4]
        assert [case.name for case in heavy] == ["GN(4)"]
        _, gradients = heavy[0].parts(DEFAULT)
        assert gradients.grid == DEFAULT.heavy
        assert max(gradients.grid.widths) >= 2**15
        assert [part.name for part in heavy[0].parts(QUICK)] == ["signals"]

    def test_explicit_weights_only_for_gradients_of_normalized_rows(self):
        for case in ONE_POSITION:
            backward = {part.name: part.backward for part in case.parts(DEFAULT)}
            first = {} if case.stationary else {"first layers": False}
            if case.name in ("WN", "SWS", "GN(4)"):
                assert backward == first | {"signals": False, "gradients": True}
            else:
                assert backward == first | {"network": True}

    @pytest.mark.parametrize("budget", BUDGETS.values(), ids=lambda b: b.name)
    def test_depths_layers_and_group_sizes_fit(self, budget):
        for case in EVERYTHING:
            for part in case.parts(budget):
                grid = part.grid
                assert max(grid.forward, default=0) <= grid.depth
                assert max(grid.backward, default=0) < grid.depth
                assert grid.depth <= 0.05 * min(grid.widths)
                assert len(grid.widths) >= 3
                group = case.layer.norm.pool.channels if case.layer.norm else 1
                assert math.isinf(group) or all(width % group == 0 for width in grid.widths)
                assert part.tests

    def test_margins_are_those_agreed(self):
        margins = {q.name: (q.margin, q.per_layer, q.deepest) for q in QUANTITIES.values()}
        assert margins == {
            "second_moment": (0.01, False, math.inf),
            "growth": (0.01, True, math.inf),
            "similarity": (0.01, False, math.inf),
            "gap": (0.05, False, 10),
            "stable_rank": (0.01, False, math.inf),
            "gradient": (0.01, True, math.inf),
            "gradient_total": (0.05, False, math.inf),
            "branch_gradient": (0.05, False, math.inf),
        }
        assert QUICK.tightening == DEFAULT.tightening == 1.0 > LONG.tightening

    def test_totals_have_the_margin_of_their_layers(self):
        (case,) = chosen("plain")
        theories = {
            (case.id, "", depth): theory_of(case.network(depth), case.inputs) for depth in (5, 20)
        }
        tests, _ = checks_of([case], DEFAULT, theories)
        margins = {(test.quantity.name, test.layer): test.margin for test in tests}
        assert margins["gradient", 1] == pytest.approx(0.19)
        assert margins["growth", 20] == pytest.approx(0.20)
        assert margins["second_moment", 5] == 0.01
        assert ("second_moment", 10) not in margins
        assert ("growth", 5) not in margins
        assert ("gap", 10) in margins
        assert ("gap", 20) not in margins

    def test_normalized_rows_get_the_gram_matrix_of_the_digits(self):
        for case in cases("digits"):
            expected = CovarianceInputs if case.name in ("WN", "SWS") else DataInputs
            assert type(case.inputs) is expected

    @pytest.mark.parametrize("case", EVERYTHING, ids=lambda case: case.id)
    def test_controls_differ_by_twice_the_margin(self, case):
        if case.name.startswith("EvoNorm") or case.id == "GN(4)/padding":
            pytest.skip("this theory takes seconds: a whole run covers it")
        effects = dict.fromkeys((control.name for control in case.controls), 0.0)
        budget = QUICK if case.kind in ("synthetic", "digits") and case.parts(QUICK) else LONG
        for part in case.parts(budget):
            depth = part.grid.depth
            true = theory_of(case.network(depth), case.inputs)
            for control in case.controls:
                if control.law is not None:
                    wrong = {
                        control.quantity: control.law(case.batch, true.value[control.quantity])
                    }
                else:
                    wrong = theory_of(control.network(depth, case.inputs), case.inputs).value
                for quantity, layer in part.tests:
                    name = quantity.name
                    if control.quantity not in (None, name):
                        continue
                    size = abs(wrong[name][layer - 1] - true.value[name][layer - 1])
                    margin = quantity.margin * quantity.layers(layer, depth)
                    effects[control.name] = max(effects[control.name], size / margin)
        assert min(effects.values()) >= 2.0, effects

    @pytest.mark.parametrize("kind", ["ring", "torus"])
    def test_positions(self, kind):
        """Every pool over positions, with the paper's kernels and depth; only asked for by name."""
        spatial = cases(kind)
        assert {"BN", "IN", "FRN", "LN", "GN(2)", "GN(8)", "VN", "MC", "WN", "SWS", "plain"} <= {
            case.name for case in spatial
        }
        for case in spatial:
            assert case.layer.kernel == 3
            assert case.inputs.positions == {"ring": 16, "torus": 64}[kind]
            assert not case.parts(QUICK)
            for budget in (DEFAULT, LONG):
                parts = case.parts(budget)
                # Gradients through normalized rows need explicit weights, and so narrower networks.
                assert len(parts) == 1 + case.layer.weights.normalized
                assert [part.backward for part in parts][-1]
                for part in parts:
                    assert part.grid.depth == 24
                    assert part.grid.depth <= 0.05 * min(part.grid.widths)
                layers = {}
                for quantity, layer in (test for part in parts for test in part.tests):
                    layers.setdefault(quantity.name, set()).add(layer)
                assert layers["similarity"] == {2, 6, 12, 24}
                assert layers["gradient"] == {1, 8, 16}
                assert layers.get("second_moment", {2}) == {2}
                assert layers.get("growth", {24}) == {24}
        shared = {case.id for case in cases("all")} & {case.id for case in spatial}
        assert shared == ({"GN(2)/ring", "GN(8)/ring", "IN/ring"} if kind == "ring" else set())
        with pytest.raises(SpecificationError, match="budget = 'quick'"):
            verify.affordable(spatial, QUICK)
        single = tuple(case for case in cases("synthetic") if case.parts(QUICK))
        assert verify.affordable((*spatial, *cases("synthetic")), QUICK) == single
        assert [case.name for case in cases("synthetic") if case not in single] == ["GN(6), linear"]

    def test_padding(self):
        """Real images with zero padding; asked for by name, the wrong theory is circular padding."""
        padded = cases("padding")
        assert {"BN", "LN", "GN(4)", "WN", "SWS"} == {case.name for case in padded}
        assert not {case.id for case in cases("all")} & {case.id for case in padded}
        for case in padded:
            true, wrong = case.network(4), case.controls[0].network(4, case.inputs)
            assert {layer.padding for layer in true.layers} == {"zero"}
            assert {layer.padding for layer in wrong.layers} == {"circular"}
            for network in (true, wrong):
                assert [layer.stride for layer in network.layers] == [1, 2, 1, 1]
            assert case.inputs.positions == 64
            assert not case.parts(QUICK)
            (part,) = case.parts(DEFAULT)
            assert part.backward
            assert not part.grid.curved

    def test_residual_networks(self):
        """Every order and remedy; 32 blocks and more in the long budget only; few cases in the quick one."""
        residual = cases("residual")
        orders = {case.network(2).order for case in residual}
        assert orders == set(theory.ORDERS)
        assert {
            "plain",
            "BN",
            "LN",
            "VN",
            "IN",
            "FRN",
            "GN(6)",
            "GN(8)",
            "RMSNorm",
            "WN",
            "SWS",
        } < {case.name.split(",")[0] for case in residual}
        assert all(case.network(2).stem is not None for case in residual)
        ids = [case.id for case in EVERYTHING]
        assert len(set(ids)) == len(ids)
        assert len(verify.affordable(residual, QUICK)) == 4
        assert len(verify.affordable(residual, LONG)) == len(residual)
        for case in residual:
            depths = {part.grid.depth for part in case.parts(LONG)}
            assert max(depths) == case.deepest or max(depths) >= (
                100 if case.deep else 16 if case.inputs.positions > 1 else 32
            )
            for part in case.parts(LONG):
                names = (
                    {"growth", "gradient"}
                    if case.exponential
                    else {"second_moment", "gradient_total"}
                )
                assert set(part.quantities) & {*names} == set(part.quantities) & {
                    "growth", "gradient", "second_moment", "gradient_total"
                }  # fmt: skip
        with pytest.raises(SpecificationError, match="budget = 'tiny'"):
            verify.affordable(residual, TINY)

    def test_statements_of_residual_networks_are_the_derived_laws(self):
        """What the report says in words is what ``growth_law`` derives."""
        residual = {case.name: case for case in cases("residual")}

        def law_of(case):
            return theory.growth_law(case.network(16), batch=case.inputs.batch)

        def said(name, kind, **numbers):
            law = law_of(residual[name])
            assert (law.variance.kind, law.gradient.kind) == kind, (name, law)
            for part, (number, words) in numbers.items():
                assert getattr(law, part).rate == pytest.approx(number, rel=5e-4)
                assert words in residual[name].statement

        line, power, growth, steady = "linear", "polynomial", "exponential", "bounded"
        said(
            "BN, pre-activation", (line, power), variance=(1, "q₀ + l"), gradient=(1.788, "L^1.788")
        )
        said(
            "LN, pre-activation", (line, power), variance=(1, "q₀ + l"), gradient=(1, "growth as L")
        )
        said("GN(6), pre-activation", (line, power), gradient=(4 / 3, "λ = 4/3"))
        said("GN(8), pre-activation", (line, power), gradient=(6 / 5, "λ = 6/5"))
        said(
            "plain, pre-activation",
            (growth, growth),
            variance=(2, "double"),
            gradient=(2, "double"),
        )
        ratio = 1 + math.pi / (math.pi - 1)
        said(
            "WN, pre-activation",
            (growth, growth),
            variance=(ratio, "2.467"),
            gradient=(ratio, "2.467"),
        )
        said(
            "SWS, pre-activation",
            (growth, growth),
            variance=(2, "doubles"),
            gradient=(ratio, "2.467"),
        )
        said("plain, ReZero under way", (growth, growth), variance=(1.04, "1.04"))
        said("SWS, 1/√L", (steady, steady), gradient=(4.336, "4.336"))
        said("BN, LayerScale 0.1", (line, power), variance=(0.01, "l/100"))
        said("SWS, NF scaling", (line, power), variance=(1, "q₀ + l"), gradient=(1.467, "L^1.467"))
        said("LN, pre-norm", (line, power), variance=(2, "2 l"), gradient=(1, "as L"))
        said("LN, branch-end norm", (line, power), variance=(1, "q₀ + l"), gradient=(1, "as L"))
        said("BN, post-norm", (steady, growth), gradient=(1.432, "1.432"))
        said("GN(6), post-norm", (steady, growth), gradient=(1.287, "1.287"))
        said("LN, post-activation", (line, power), variance=(1, "→ l"), gradient=(0.209, "L^0.209"))
        said(
            "GN(6), post-activation",
            (line, power),
            variance=(1, "→ l"),
            gradient=(0.4665, "L^0.4665"),
        )
        said("LN, activation before addition", (power, steady), variance=(2, "l²/2π"))
        said("BN, activation before addition", (power, power), gradient=(1.788, "L^1.788"))
        # Samples grow alike: B = 16 has (B - 1)/(B - 3), and its gradient none of the four.
        alike = law_of(residual["VN, pre-activation"])
        assert alike.variance.rate == pytest.approx(15 / 13, rel=1e-12)
        assert alike.gradient is None

    def test_cases_that_a_budget_leaves_out_are_not_named_in_its_command(self, tiny):
        chosen = verify.affordable(cases("all"), QUICK)
        whole = dataclasses.replace(tiny, budget=QUICK, inputs="all", cases=chosen)
        assert report.command(whole) == (
            f"normcompass verify --budget quick --inputs all --seed {tiny.seed}"
        )

    def test_unknown_names_are_refused(self):
        with pytest.raises(SpecificationError, match="inputs"):
            cases("mnist")
        with pytest.raises(SpecificationError, match="only = 'BNN'"):
            chosen("BNN")
        with pytest.raises(SpecificationError, match="has cases among the inputs"):
            verify.select("digits", only=("BN",), skip=("BN/digits",))


class TestVerdict:
    @pytest.mark.parametrize(
        ("difference", "half", "excluded", "verdict", "flags"),
        [
            (0.1, 0.3, False, "CONFIRMED", ()),
            (0.5, 0.3, True, "CONFIRMED", ("deviation",)),
            (0.9, 0.3, True, "REJECTED", ()),
            (9.0, 3.0, True, "REJECTED", ()),
            (0.9, 0.3, False, "INCONCLUSIVE", ("underpowered",)),
            (0.1, 1.2, False, "INCONCLUSIVE", ("underpowered",)),
        ],
    )
    def test_definition(self, difference, half, excluded, verdict, flags):
        found = _verdict(
            difference, half=half, margin=1.0, bound=0.2, excluded=excluded, curved=False
        )
        assert found == (verdict, flags)

    def test_without_room_or_without_a_fit(self):
        def verdict(**change):
            given = {"half": 1.5, "margin": 1.0, "bound": 1.1, "excluded": False, "curved": False}
            return _verdict(0.0, **(given | change))

        assert verdict() == ("INCONCLUSIVE", ("bound exceeds margin",))
        assert verdict(half=math.nan, dead=2)[1] == (
            "no estimate: 2 networks have no finite value",
        )
        assert verdict(half=0.1, bound=0.0, curved=True) == ("INCONCLUSIVE", ("curvature",))


class TestRun:
    def test_true_theory_stands_and_wrong_theory_falls(self, tiny):
        # False alarm: at most ALPHA, 0.001, over seeds; the seed is fixed.
        assert tiny.counts["REJECTED"] == 0
        # So few networks see an effect of five margins, not always one of two.
        large = [control for control in tiny.controls if control.effect >= 5.0]
        assert len(large) >= 5
        assert all(control.rejected for control in large)
        assert all(control.effect >= 2.0 for control in tiny.controls)
        standing = any(not control.rejected for control in tiny.controls)
        assert tiny.exit_status in ((1,) if standing else (0, 3))
        assert tiny.level == ALPHA / len(tiny.rows)
        assert tiny.counts["CONFIRMED"] > 0

    def test_what_is_inconclusive_says_how_many_networks_it_needs(self, tiny):
        undecided = [row for row in tiny.rows if row.verdict == "INCONCLUSIVE"]
        assert undecided
        for row in undecided:
            assert row.flags == ("underpowered",)
            assert row.networks == GRID.largest < row.networks_needed < math.inf

    def test_no_mean_decides_how_many_networks(self, tiny):
        # Stein's two stages are valid because only standard deviations are looked at.
        (case,) = chosen("BN")
        (part,) = case.parts(TINY)
        theory = theory_of(case.network(3), case.inputs)
        tests, _ = checks_of([case], TINY, {(case.id, "", 3): theory})
        pilot = {
            name: dataclasses.replace(tiny.curves[case.id, name], networks=40)
            for name in part.quantities
        }
        shifted = {
            name: dataclasses.replace(
                curve,
                fit=curve.fit._replace(
                    intercept=curve.fit.intercept + 7.0, slopes=curve.fit.slopes + 1e6
                ),
                means=curve.means + 7.0,
                bound=curve.bound * np.array([1.0, 1e6, 1.0])[:, None],
            )
            for name, curve in pilot.items()
        }
        wanted = networks_wanted(tests, pilot, part, level=1e-4)
        assert wanted == networks_wanted(tests, shifted, part, level=1e-4)

    def test_rows_are_consistent(self, tiny):
        for row in tiny.rows:
            assert row.difference == row.simulation - row.theory
            assert 0.0 < row.half_width < row.detectable
            assert GRID.pilot <= row.networks <= GRID.largest
            assert row.p <= row.p_holm <= 1.0

    def test_same_bits_for_any_number_of_workers(self, tiny):
        again = verify.run(
            chosen("BN", "LN", "WN"), budget=TINY, inputs="synthetic", controls=True, workers=2
        )
        assert again.rows == tiny.rows
        assert again.controls == tiny.controls

    def test_a_second_run_computes_nothing(self, tmp_path, monkeypatch):
        case, store = chosen("BN"), tmp_path / "networks.db"
        first = verify.run(case, budget=TINY, inputs="synthetic", workers=1, store=store)
        monkeypatch.setattr("montecarlo.collect.run_job", None)
        second = verify.run(case, budget=TINY, inputs="synthetic", workers=1, store=store)
        assert second.rows == first.rows

    def test_networks_do_not_depend_on_the_choice_of_cases(self, tiny):
        everything = dataclasses.replace(GRID, pilot=90)
        budget = dataclasses.replace(TINY, wide=everything)
        alone = verify.run(chosen("LN"), budget=budget, inputs="synthetic", workers=1)
        for name in QUANTITIES:
            if (("LN/synthetic", name)) in alone.curves:
                curve = tiny.curves["LN/synthetic", name]
                assert curve.networks == 90
                np.testing.assert_array_equal(curve.means, alone.curves["LN/synthetic", name].means)

    def test_seeds_differ(self, tiny):
        other = verify.run(chosen("LN"), budget=TINY, inputs="synthetic", seed=1, workers=1)
        place = ("LN/synthetic", "similarity")
        assert (tiny.curves[place].means != other.curves[place].means).all()

    def test_a_wrong_prediction_is_rejected(self, monkeypatch):
        def without_centering(network, inputs):
            return theory_of(FeedForward(zoo["VN"], depth=network.depth), inputs)

        monkeypatch.setattr(verify, "theory_of", without_centering)
        run = verify.run(chosen("BN", inputs="digits"), budget=TINY, inputs="digits", workers=1)
        assert run.counts["REJECTED"] > 0
        assert run.exit_status == 1

    def test_a_surviving_control_fails_the_run(self, tiny):
        survivor = dataclasses.replace(tiny.controls[0], rejected=False)
        assert dataclasses.replace(tiny, controls=(survivor,)).exit_status == 1

    def test_progress_counts_every_step(self):
        seen = []
        verify.run(
            chosen("MC"),
            budget=TINY,
            inputs="synthetic",
            controls=True,
            workers=1,
            advance=seen.append,
        )
        assert len(seen) == verify.step_count(chosen("MC"), budget=TINY, controls=True)
        assert set(seen) == {"MC/synthetic"}


class TestReport:
    def test_files(self, tiny, tmp_path):
        index = report.write(tiny, tmp_path / "new" / "folder", timings={"seconds": 1.0})
        page = index.read_text(encoding="utf-8")
        assert re.search(r"<h1>.*?</h1>\s*<p><span[^>]*>\d+ CONFIRMED", page, re.DOTALL)
        # Figures come first, and not many of them: then the claims.
        assert 1 <= page.partition("<h2>Claims</h2>")[0].count("<figure>") <= 4
        assert "http://" not in page
        assert "https://" not in page
        assert "networks needed" in page
        # Overviews, then one per claim and one per normalizer; gradients at the first layer have no frontier.
        assert tiny.claims
        assert page.count("data:image/png;base64,") == 3 + len(tiny.claims) + 3
        document = json.loads(
            (index.parent / "verify.json").read_text(), parse_constant=pytest.fail
        )
        assert document["schema"] == 3
        assert document["counts"] == tiny.counts
        assert len(document["rows"]) == len(tiny.rows)
        table = list(csv.DictReader(io.StringIO((index.parent / "verify.csv").read_text())))
        assert [float(line["theory"]) for line in table] == [row.theory for row in tiny.rows]
        assert "seconds" in (index.parent / "timings.json").read_text()

    def test_same_bytes_for_the_same_run(self, single, tmp_path):
        first = report.write(single, tmp_path / "a")
        second = report.write(single, tmp_path / "b")
        for name in ("index.html", "verify.json", "verify.csv", "junit.xml"):
            assert first.with_name(name).read_bytes() == second.with_name(name).read_bytes()

    def test_text_is_escaped(self, single, tmp_path):
        evil = "<script>alert('x')</script>"
        case = dataclasses.replace(
            single.cases[0], statement=evil, controls=(Control(evil, evil, zoo["plain"]),)
        )
        control = dataclasses.replace(single.controls[0], control=evil, statement=evil)
        measured = Measured(what=evil, reference=1.0, found=2.0, half_width=0.5)
        source = Agrees(case=evil, quantity="gap")
        deviation = Deviation(paper=evil, why=evil, change=evil, effect=source, intervention=source)
        results = tuple(
            dataclasses.replace(
                result,
                claim=dataclasses.replace(
                    result.claim, statement=evil, source=evil, exact=evil, deviation=deviation
                ),
                controls=(control,),
                departure=Departure(effect=measured, intervention=measured),
            )
            for result in single.claims
        )
        run = dataclasses.replace(
            single, cases=(case,), controls=(control,), claims=results, skipped=(evil,)
        )
        index = report.write(run, tmp_path)
        page = index.read_text(encoding="utf-8")
        assert "<script" not in page
        # In the statement of the case, its wrong theory (2), what was skipped; for every claim twice in the
        # overview and twice among departures here and below, (4) in the section, and in its wrong theory.
        assert page.count("&lt;script&gt;") >= 4 + 10 * len(results)
        assert evil in ElementTree.parse(index.with_name("junit.xml")).getroot()[0][-1].text

    def test_the_command_names_what_was_left_out(self, tiny):
        assert "--only 'BN/synthetic'" in report.command(tiny)
        most = [case for case in cases("synthetic") if case.name != "VN"]
        run = dataclasses.replace(tiny, cases=tuple(most), budget=QUICK, controls=())
        expected = (
            "normcompass verify --budget quick --inputs synthetic --no-controls --skip 'VN/synthetic' "
            "--seed 0"
        )
        assert report.command(run) == expected

    def test_a_folder_that_cannot_be_written(self, tiny, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(theory.StoreError, match="--out"):
            report.write(tiny, tmp_path / "file" / "folder")


def test_quick_and_another_budget_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as end:
        main(["verify", "--quick", "--budget", "long"])
    assert end.value.code == 2
    assert "exclude each other" in capsys.readouterr().err


def test_options_work_together_with_resume(tmp_path, monkeypatch, capsys):
    """--only, --skip, --budget, --seed, --workers, --store; interrupted, resumed, repeated: same bytes."""
    monkeypatch.setitem(BUDGETS, "quick", dataclasses.replace(TINY, name="quick"))
    store = tmp_path / "networks.db"

    def verified(name, *options):
        words = ["--only", "iii.batch-norm", "--only", "ours.centering", "--skip", "MC/synthetic"]
        words += ["--budget", "quick", "--inputs", "synthetic", "--seed", "3", "--out"]
        with pytest.raises(SystemExit) as end:
            main(["verify", *words, str(tmp_path / name), *options, "--quiet"])
        return end.value.code

    def bytes_of(name):
        files = ("index.html", "verify.json", "verify.csv", "junit.xml")
        return [(tmp_path / name / file).read_bytes() for file in files]

    status = verified("whole", "--workers", "1")
    assert status in (0, 1, 3)

    computed = []

    def interrupted(job):
        if computed:
            raise KeyboardInterrupt
        computed.append(job)
        return original(job)

    original = collect.run_job
    monkeypatch.setattr(collect, "run_job", interrupted)
    assert verified("broken", "--workers", "1", "--store", str(store)) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "broken").exists()
    with Store(store) as opened:
        kept = sum(stored.replicates for stored in opened.runs())
    assert kept > 0

    monkeypatch.setattr(collect, "run_job", original)
    assert verified("resumed", "--workers", "2", "--store", str(store)) == status
    monkeypatch.setattr(collect, "run_job", None)
    assert verified("again", "--workers", "1", "--store", str(store)) == status
    assert bytes_of("whole") == bytes_of("resumed") == bytes_of("again")
    cases_run = {row["case"] for row in json.loads(bytes_of("whole")[1])["rows"]}
    assert cases_run == {"BN"}


def quick_run(root: Path, out: Path, *options: str) -> int:
    """Exit status of ``normcompass verify --quick --inputs digits`` on the source tree at ``root``."""
    command = [
        sys.executable,
        "-c",
        "from montecarlo.cli import main; main()",
        "verify",
        "--quick",
        "--inputs",
        "digits",
        "--out",
        str(out),
        *options,
    ]
    environment = {**os.environ, "PYTHONPATH": str(root), "NUMBA_CACHE_DIR": str(root / "cache")}
    return subprocess.run(
        command, check=False, capture_output=True, cwd=out.parent, env=environment
    ).returncode


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_quick_run_with_controls(tmp_path):
    assert quick_run(Path(theory.__file__).parents[1], tmp_path / "out", "--controls") == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("path", "before", "after", "case"),
    [
        # GN's G - 1 in theory: the pool of a centered group keeps rank G.
        ("theory/routes/groupnorm.py", "    return size - 1, ", "    return size, ", "GN(6)"),
        # BN's centering in theory: the numerator keeps its mean.
        (
            "theory/routes/laplace_core.py",
            "if not pools_mean and not norm.centered:",
            "if not pools_mean:",
            "BN",
        ),
        # BN's centering in the simulation.
        (
            "montecarlo/pools.py",
            "        centered=norm.centered,\n",
            "        centered=False,\n",
            "BN",
        ),
    ],
)
def test_a_mutation_of_the_source_is_rejected(tmp_path, path, before, after, case):
    root = tmp_path / "source"
    for package in (theory, montecarlo):
        folder = Path(package.__file__).parent
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(folder, root / folder.name, ignore=ignored)
    assert quick_run(root, tmp_path / "true", "--only", case) == 0
    source = (root / path).read_text(encoding="utf-8")
    assert source.count(before) == 1
    (root / path).write_text(source.replace(before, after), encoding="utf-8")
    assert quick_run(root, tmp_path / "broken", "--only", case) == 1
