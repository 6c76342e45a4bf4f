"""Claims as data: complete, about things that verify tests, and refutable."""

import dataclasses
import json
import shutil
import subprocess
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import image as plt_image

from montecarlo import report, verify
from montecarlo.budgets import DEFAULT, LONG, Budget, Grid
from montecarlo.case import INPUTS
from montecarlo.cases import cases
from montecarlo.claim import ClaimResult
from montecarlo.claims import CLAIMS
from montecarlo.cli import main
from montecarlo.margins import QUANTITIES
from montecarlo.predictions import theory_of
from montecarlo.report_claims import claims_overview, junit_text, value_text
from montecarlo.wrong_laws import (
    group_without_outer_product,
    independent_denominators,
    samples_on_their_own,
)

EVERYTHING = {case.id: case for kind in INPUTS for case in cases(kind)}


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
    assert "samples on their own" in {control.control for control in gradient.controls}
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


def test_text_of_a_claim_is_escaped(run):
    result = run.claims[0]
    evil = dataclasses.replace(result.claim, statement="<script>", deviation="<b>")
    page = claims_overview(
        dataclasses.replace(run, claims=(dataclasses.replace(result, claim=evil),))
    )
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.slow
def test_the_report_is_drawn_by_a_browser(run, tmp_path):
    """Headless Chromium shows a page with figures: a picture of many shades, dark text on white."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no Chromium")
    page = report.write(run, tmp_path)
    picture = tmp_path / "page.png"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1300,2400"]
    command += [f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    pixels = plt_image.imread(picture)[..., :3]
    assert pixels.shape[:2] == (2400, 1300)
    white = (pixels > 0.99).all(axis=-1).mean()
    assert 0.5 < white < 0.995
    # The colors of the figures are there: blue lines, orange verdicts of rejected wrong theories.
    for color in ((0.0, 0.447, 0.698), (0.835, 0.369, 0.0)):
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
    assert value_text(claim) in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["claims", "--only", "iv"])
    assert stop.value.code == 2
    assert "only = 'iv'" in capsys.readouterr().err
