"""Claims as data: complete, about things that verify tests, and refutable."""

import dataclasses
import json
import math
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from matplotlib import image as plt_image

from montecarlo import report, verify
from montecarlo.budgets import DEFAULT, LONG, QUICK, Budget, Grid
from montecarlo.case import INPUTS
from montecarlo.cases import cases
from montecarlo.claim import ClaimResult
from montecarlo.claim_figures import panels_of
from montecarlo.claim_pictures import PICTURES
from montecarlo.claims import CLAIMS
from montecarlo.cli import main
from montecarlo.departure import Departure, PutInPlace, departure
from montecarlo.margins import QUANTITIES
from montecarlo.predictions import theory_of
from montecarlo.report_claims import (
    claims_left_out,
    claims_overview,
    claims_sections,
    departures,
    value_text,
)
from montecarlo.report_files import SCHEMA, junit_text
from montecarlo.verdicts import VERDICTS
from montecarlo.wrong_laws import (
    group_without_outer_product,
    independent_denominators,
    infinite_batch,
    samples_on_their_own,
)
from theory.errors import SpecificationError
from theory.frontiers import frontier

EVERYTHING = {case.id: case for kind in INPUTS for case in cases(kind)}
DEVIATING = [claim for claim in CLAIMS if claim.deviation is not None]


def test_ids_are_unique_and_say_the_finding():
    ids = [claim.id for claim in CLAIMS]
    assert len(set(ids)) == len(ids)
    assert {claim.finding for claim in CLAIMS} == {"i", "ii", "iii", "ours"}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_case_of_a_claim_is_tested_in_its_quantities(claim):
    assert set(claim.cases) <= set(EVERYTHING)
    assert set(claim.quantities) <= set(QUANTITIES)
    tested = {name: set() for name in claim.cases}
    for name in claim.cases:
        for part in EVERYTHING[name].parts(LONG):
            tested[name] |= {quantity.name for quantity, _ in part.tests}
        assert tested[name] & set(claim.quantities), name
    assert set(claim.wanted) <= set(EVERYTHING)
    assert set(claim.quantities) <= set().union(*tested.values())


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_claim_has_a_wrong_theory_on_its_own_observable(claim):
    """At least two margins away, in the default budget where the claim is there, else in the long one."""
    largest = 0.0
    # One case is enough to make a claim refutable; the cheapest predictions come first.
    for name in sorted(claim.cases, key=lambda name: ("Evo" in name, "digits" in name)):
        case = EVERYTHING[name]
        budget = DEFAULT if case.parts(DEFAULT) else LONG
        for part in case.parts(budget):
            largest = max(largest, *_effects(case, part, claim), 0.0)
        if largest >= 2.0:
            break
    assert largest >= 2.0


def _effects(case, part, claim):
    depth = part.grid.depth
    tests = [(q, layer) for q, layer in part.tests if q.name in claim.quantities]
    if not tests:
        return
    true = theory_of(case.network(depth), case.inputs).value
    for control in case.controls:
        if control.law is not None:
            if control.quantity not in true:
                continue
            wrong = {control.quantity: control.law(case.batch, true[control.quantity])}
        else:
            wrong = theory_of(control.network(depth, case.inputs), case.inputs).value
        for quantity, layer in tests:
            if control.quantity in (None, quantity.name):
                size = abs(wrong[quantity.name][layer - 1] - true[quantity.name][layer - 1])
                yield size / (quantity.margin * quantity.layers(layer, depth))


def test_wrong_laws_leave_one_term_out():
    """Their ratio to the right theory, layer by layer; and nothing at the layers they are not about."""
    case = EVERYTHING["GN(6)/synthetic"]
    right = theory_of(case.network(5), case.inputs).value
    wrong = group_without_outer_product(right["gradient"], group_size=6)
    assert np.allclose(np.exp(wrong - right["gradient"]), (5 / 4) ** np.arange(4.0, -1.0, -1.0))
    # kappa_1(-1/7) by its formula; lambda_8 of the theory notes.
    angle = np.arccos(-1 / 7)
    kappa = (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / np.pi
    ratio = 7 / 5 / (1 - kappa) / 1.7881899766587481
    assert np.allclose(np.exp(samples_on_their_own(np.zeros(3), batch=8)), [ratio**2, ratio, 1.0])
    ratio = np.pi / (np.pi - 1) / 1.7881899766587481
    assert np.allclose(np.exp(infinite_batch(np.zeros(3), batch=8)), [ratio**2, ratio, 1.0])
    # E[1/R]^2/E[1/R^2] of five degrees of freedom, by simulation: 1 % is more than 4 s.e.
    rng = np.random.default_rng(0)
    inverse = rng.chisquare(5, size=400_000) ** -0.5
    first, second = independent_denominators(np.array([0.3, 0.0]), group_size=6)
    angle = np.arccos(0.3)
    kappa = (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / np.pi
    assert first == 0.3
    assert second == pytest.approx(kappa * inverse.mean() ** 2 / (inverse**2).mean(), rel=0.01)


_GRID = Grid(depth=3, forward=(1, 3), backward=(1,), widths=(60, 120, 240), pilot=40, largest=90)
_TINY = Budget(name="tiny", first=_GRID, wide=_GRID, direct=_GRID, heavy=None)


@pytest.fixture(scope="module")
def run():
    chosen = verify.select("synthetic", only=["iii.batch-norm", "ii.batch-norm"])
    assert [case.id for case in chosen] == ["BN/synthetic"]
    return verify.run(chosen, budget=_TINY, inputs="synthetic", controls=True, workers=1)


def test_claims_gather_their_tests_and_controls(run):
    results = {result.claim.id: result for result in run.claims}
    assert set(results) == {"i.feedforward", "ii.batch-norm", "ii.rank", "iii.batch-norm"}
    gradient = results["iii.batch-norm"]
    assert {row.quantity for row in gradient.rows} == {"gradient"}
    assert {control.quantity for control in gradient.controls} == {"gradient"}
    # The last says that the size of the batch matters.
    named = {control.control for control in gradient.controls}
    assert {"samples on their own", "infinite batch"} <= named
    assert all(control.effect >= 2.0 for result in results.values() for control in result.controls)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (("CONFIRMED", "CONFIRMED"), "CONFIRMED"),
        (("CONFIRMED", "INCONCLUSIVE"), "INCONCLUSIVE"),
        (("INCONCLUSIVE", "REJECTED"), "REJECTED"),
    ],
)
def test_the_worst_test_decides(run, verdicts, expected):
    row = run.rows[0]
    rows = tuple(dataclasses.replace(row, verdict=verdict) for verdict in verdicts)
    result = ClaimResult(claim=CLAIMS[0], rows=rows, controls=())
    assert result.verdict == expected


def test_junit_counts_what_failed(run):
    suite = ElementTree.fromstring(junit_text(run))
    assert int(suite.get("tests")) == len(suite) == len(run.claims) + len(run.controls)
    failed = [case.get("name") for case in suite if case.find("failure") is not None]
    rejected = [r.claim.id for r in run.claims if r.verdict == "REJECTED"]
    standing = [c.control for c in run.controls if not c.rejected]
    assert len(failed) == int(suite.get("failures")) == len(rejected) + len(standing)
    broken = dataclasses.replace(
        run, controls=(dataclasses.replace(run.controls[0], rejected=False),)
    )
    suite = ElementTree.fromstring(junit_text(broken))
    assert int(suite.get("failures")) == len(rejected) + 1


# Attributes and children of Jenkins' junit-10.xsd: (required, optional, children).
_JUNIT = {
    "testsuite": (
        {"name", "tests", "failures", "errors"},
        {"skipped", "time", "timestamp", "hostname", "id", "package", "group"},
        {"testcase", "properties", "system-out", "system-err"},
    ),
    "testcase": (
        {"name"},
        {"classname", "time", "group"},
        {"skipped", "error", "failure", "system-out", "system-err"},
    ),
    "failure": (set(), {"type", "message"}, set()),
    "skipped": (set(), {"type", "message"}, set()),
    "system-out": (set(), set(), set()),
}


def test_junit_has_the_usual_schema(run):
    broken = dataclasses.replace(
        run,
        claims=tuple(
            dataclasses.replace(
                result, rows=(dataclasses.replace(result.rows[0], verdict=verdict),)
            )
            for result, verdict in zip(run.claims, (*VERDICTS, "REJECTED"), strict=True)
        ),
        controls=(dataclasses.replace(run.controls[0], rejected=False),),
    )
    suite = ElementTree.fromstring(junit_text(broken))
    assert {element.tag for element in suite.iter()} == set(_JUNIT)
    for element in suite.iter():
        required, optional, children = _JUNIT[element.tag]
        assert required <= set(element.keys()) <= required | optional
        assert {child.tag for child in element} <= children
    counts = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": 5, "failures": 3, "errors": 0, "skipped": 1}


@pytest.fixture(scope="module")
def index(run, tmp_path_factory):
    """The report of the tiny run."""
    return report.write(run, tmp_path_factory.mktemp("report"))


def test_the_json_has_its_schema(index):
    """The documented schema knows every field, and the output has them all; NaN and inf are null."""
    path = Path(__file__).parents[2] / "docs/pages/reference/verify.schema.json"
    validator = Draft202012Validator(json.loads(path.read_text(encoding="utf-8")))
    document = json.loads(index.with_name("verify.json").read_text(encoding="utf-8"))
    assert list(validator.iter_errors(document)) == []
    assert document["schema"] == SCHEMA == validator.schema["properties"]["schema"]["const"]
    document["claims"][0]["unknown"] = 1
    del document["rows"][0]["verdict"]
    assert len(list(validator.iter_errors(document))) >= 2


def test_every_claim_says_how_to_test_it_again(index):
    claims = json.loads(index.with_name("verify.json").read_text())["claims"]
    page = index.read_text(encoding="utf-8")
    for claim in claims:
        expected = (
            f"normcompass verify --budget tiny --inputs synthetic --seed 0 --only {claim['id']}"
        )
        assert claim["again"] == expected
        assert f"<code>{expected}</code>" in page
    assert "A claim run alone has fewer tests" in page


def test_a_claim_asked_for_is_tested_or_refused():
    """No budget that tests nothing of a claim can end with "all confirmed" of it."""
    for claim in CLAIMS:
        verify.require_tests([claim.id], verify.select("all", only=[claim.id]), LONG)
    chosen = verify.select("all", only=["iii.heavy-tail"])
    assert verify.affordable(chosen, QUICK) == chosen
    with pytest.raises(SpecificationError, match=r"budget = 'quick'.*take --budget default"):
        verify.require_tests(["iii.heavy-tail"], chosen, QUICK)
    names = ["iii.heavy-tail", "BN"]
    verify.require_tests(names, verify.select("digits", only=names), DEFAULT)
    with pytest.raises(SystemExit) as stop:
        main(["verify", "--quick", "--only", "iii.heavy-tail"])
    assert stop.value.code == 2


def test_claims_that_a_run_leaves_out_are_named(run, index):
    page = index.read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith("<p>Without a test"))
    there = {result.claim.id for result in run.claims}
    assert [c.id for c in CLAIMS if c.id not in there] == line.removeprefix(
        "<p>Without a test in this run: "
    ).removesuffix(".</p>").split(", ")
    everything = tuple(dataclasses.replace(run.claims[0], claim=claim) for claim in CLAIMS)
    assert claims_left_out(dataclasses.replace(run, claims=everything)) == ""


@pytest.mark.parametrize("claim", DEVIATING, ids=lambda claim: claim.id)
def test_a_deviation_names_what_a_run_has(claim):
    """Its cases are chosen with the claim, its controls exist, and an intervention is another case."""
    deviation = claim.deviation
    assert deviation.effect.case in claim.cases
    assert deviation.effect.case != deviation.intervention.case in claim.wanted
    assert claim.wanted == tuple(dict.fromkeys(claim.wanted))
    for source in (deviation.effect, deviation.intervention):
        case = EVERYTHING[source.case]
        assert case.parts(DEFAULT)
        if isinstance(source, PutInPlace):
            assert source.control in {control.name for control in case.controls}
        else:
            tested = {(q.name, layer) for part in case.parts(DEFAULT) for q, layer in part.tests}
            assert source.quantity in {name for name, _ in tested}
    chosen = verify.select("all", only=[claim.id])
    assert {case.id for case in chosen} == set(claim.wanted)


def test_departures_are_measured():
    """Of networks too few for verdicts: effects have the sign and size that theory gives them."""
    grid = dataclasses.replace(_GRID, depth=10, forward=(2, 10), widths=(240, 480, 960))
    budget = dataclasses.replace(_TINY, wide=grid, first=dataclasses.replace(grid, depth=2))
    budget = dataclasses.replace(budget, images=dataclasses.replace(_GRID, depth=2, forward=(2,)))
    chosen = verify.select("all", only=["ii.rank-bound", "ours.padding"])
    chosen = tuple(case for case in chosen if case.name not in ("GN(4)", "LN"))
    found = verify.run(chosen, budget=budget, inputs="all", controls=True, workers=1)
    departures = {result.claim.id: result.departure for result in found.claims}
    rank, padding = departures["ii.rank-bound"], departures["ours.padding"]
    assert departures["ii.group-norm"] is None
    # Intervals hold together with probability 1 - ALPHA, 0.001, over seeds; the seed is fixed.
    assert abs(rank.effect.found) < rank.effect.half_width + 0.01 < 0.1
    assert rank.effect.effect == rank.effect.found - 0.5
    assert rank.intervention.effect - rank.intervention.half_width > 1.0
    assert padding.effect.effect - padding.effect.half_width > 0.05
    assert abs(padding.intervention.effect) < padding.intervention.half_width
    page = "".join(claims_sections(found, command="normcompass verify"))
    for number in (rank.effect, rank.intervention, padding.effect, padding.intervention):
        assert f"{number.effect:+.4f} ± {number.half_width:.4f}" in page
    assert "Stable rank of 8 samples against the width" in page


def test_departures_without_their_cases_say_so(run):
    (result,) = (r for r in run.claims if r.claim.id == "ii.batch-norm")
    (claim,) = (c for c in DEVIATING if c.id == "ours.padding")
    missing = departure(claim.deviation, run.rows, run.controls, run.curves, level=run.level)
    assert missing == Departure(effect=None, intervention=None)
    shown = departures([dataclasses.replace(result, claim=claim, departure=missing)])
    assert shown.count("not measured in this run") == 2


def test_panels_show_every_case_before_a_second_quantity(run):
    """The four panels of ii.group-size used to be those of the first cases in the run's order."""
    (claim,) = (claim for claim in CLAIMS if claim.id == "ii.group-size")
    row = dataclasses.replace(run.rows[0], layer=2, layers=1)
    rows = tuple(
        dataclasses.replace(row, case=name, inputs=kind, quantity=quantity)
        for name, kind in (case.split("/") for case in reversed(claim.cases))
        for quantity in ("similarity", "gap")
    )
    shown = panels_of(ClaimResult(claim=claim, rows=rows, controls=()))
    assert tuple(f"{row.case}/{row.inputs}" for row in shown) == claim.cases[:4]
    few = tuple(row for row in rows if row.case == "IN")
    shown = panels_of(ClaimResult(claim=claim, rows=few, controls=()))
    assert [row.quantity for row in shown] == ["similarity", "gap"]


def test_the_frontier_is_drawn_from_pairs_of_tests(run):
    """The picture needs a similarity and a gradient of the same case, beyond the first layer."""
    draw, _ = PICTURES["iii.trade-off"]
    first = tuple(row for row in run.rows if row.quantity in ("similarity", "gradient"))
    rows = tuple(
        dataclasses.replace(row, layer=2, layers=1) if row.quantity == "gradient" else row
        for row in first
    )
    (claim,) = (claim for claim in CLAIMS if claim.id == "iii.trade-off")
    both = ClaimResult(claim=claim, rows=rows, controls=())
    assert draw(run, both).startswith(b"\x89PNG")
    assert draw(run, dataclasses.replace(both, rows=first)) is None
    one = dataclasses.replace(both, rows=tuple(r for r in rows if r.quantity == "gradient"))
    assert draw(run, one) is None


def test_the_frontier_ends_at_layer_norm_with_one_law():
    """lambda - 1 ~ (2 sqrt 2 / 3 pi) sqrt(1 - s*): with every G from the exact fixed points."""
    (claim,) = (claim for claim in CLAIMS if claim.id == "iii.trade-off")
    for positions, size, tolerance in ((1, 1024, 0.004), (16, 64, 0.07)):
        (point,) = frontier(group_sizes=(size,), positions=positions).points
        ratio = (point.gradient_growth - 1.0) / math.sqrt(1.0 - point.similarity)
        assert ratio == pytest.approx(claim.number(), rel=tolerance)


def test_text_of_a_claim_is_escaped(run):
    result = run.claims[0]
    evil = dataclasses.replace(result.claim, statement="<script>", exact="<b>")
    page = claims_overview(
        dataclasses.replace(run, claims=(dataclasses.replace(result, claim=evil),))
    )
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<b>" not in page


_HEADLESS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.mark.slow
def test_the_report_is_drawn_by_a_browser(index, tmp_path):
    """Headless Chromium shows a page with figures: a picture of many shades, dark text on white."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no Chromium")
    picture = tmp_path / "page.png"
    command = [browser, *_HEADLESS, f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1300,2400", f"--screenshot={picture}", index.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    pixels = plt_image.imread(picture)[..., :3]
    assert pixels.shape[:2] == (2400, 1300)
    white = (pixels > 0.99).all(axis=-1).mean()
    assert 0.5 < white < 0.995
    # The colors of the figures are there: blue lines of theory, the grey of what is undecided.
    for color in ((0.0, 0.447, 0.698), (0.533, 0.533, 0.533)):
        assert (np.abs(pixels - np.array(color)).max(axis=-1) < 0.05).sum() > 100


def test_command_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["claims", "--json"])
    assert stop.value.code in (0, None)
    document = json.loads(capsys.readouterr().out)
    assert [claim["id"] for claim in document["claims"]] == [claim.id for claim in CLAIMS]
    with pytest.raises(SystemExit):
        main(["claims", "--only", "iii.batch-norm"])
    (claim,) = (claim for claim in CLAIMS if claim.id == "iii.batch-norm")
    shown = " ".join(capsys.readouterr().out.split())
    assert value_text(claim) in shown
    assert "decided by: log gradient ratio to 1.00 % / layer" in shown
    assert "infinite batch (λ = π/(π−1): forgets that the batch is finite)" in shown
    for known in document["claims"]:
        assert known["controls"]
        assert set(known["margins"]) == set(known["quantities"])
        assert {control["case"] for control in known["controls"]} <= set(known["cases"])
    with pytest.raises(SystemExit) as stop:
        main(["claims", "--only", "iv"])
    assert stop.value.code == 2
    assert "only = 'iv'" in capsys.readouterr().err
