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

import numpy as np
import pytest

import montecarlo
import theory
from montecarlo import report, verify
from montecarlo.claims import (
    FULL,
    QUICK,
    Budget,
    Control,
    cases,
    theory_of,
)
from montecarlo.margins import ALPHA, QUANTITIES
from montecarlo.verdicts import _verdict
from theory.errors import SpecificationError
from theory.specs.inputs import CovarianceInputs, DataInputs
from theory.specs.networks import FeedForward
from theory.zoo import zoo

TINY = Budget(
    name="tiny",
    depth=3,
    forward=(1, 3),
    backward=(1,),
    widths=(48, 96, 192),
    networks=(160, 60, 80),
)


def chosen(*names, inputs="synthetic"):
    return verify.select(inputs, only=names)


@pytest.fixture(scope="module")
def tiny():
    return verify.run(
        chosen("BN", "LN", "WN"), budget=TINY, inputs="synthetic", controls=True, workers=1
    )


class TestClaims:
    def test_every_normalizer_defined_at_one_position_on_both_batches(self):
        expected = {name for name in zoo if name not in ("IN", "FRN", "GN(8)")} | {"GN(6)"}
        for kind in ("synthetic", "digits"):
            assert {case.name for case in cases(kind)} == expected
        assert len(cases("all")) == 2 * len(expected)
        ids = [case.id for case in cases("all")]
        assert len(set(ids)) == len(ids)

    def test_every_case_has_a_control(self):
        assert all(case.controls for case in cases("all"))

    def test_gradients_have_a_variance(self):
        # Theory notes, "Heavy tails": a standard error needs a pool of rank > 4.
        assert all(case.rank > 4 for case in cases("all"))

    @pytest.mark.parametrize("budget", [QUICK, FULL], ids=lambda b: b.name)
    def test_depths_layers_and_group_sizes_fit(self, budget):
        assert max(budget.forward) <= budget.depth
        assert max(budget.backward) < budget.depth
        assert len(budget.widths) >= 3
        for case in cases("all"):
            for width, networks in case.plan(budget):
                assert width % 6 == 0
                assert networks >= 2

    def test_normalized_rows_get_the_gram_matrix_of_the_digits(self):
        for case in cases("digits"):
            expected = CovarianceInputs if case.name in ("WN", "SWS") else DataInputs
            assert type(case.inputs) is expected

    @pytest.mark.parametrize("case", cases("all"), ids=lambda case: case.id)
    def test_controls_differ_by_twice_the_margin(self, case):
        if case.name.startswith("EvoNorm"):
            pytest.skip("RQMC takes seconds: the slow test of the whole run covers it")
        depth = QUICK.depth
        true = theory_of(case.network(depth), case.inputs)
        for control in case.controls:
            wrong = theory_of(FeedForward(control.layer, depth=depth), case.inputs)
            effects = [
                abs(wrong.value[q.name][layer - 1] - true.value[q.name][layer - 1])
                / (q.margin * q.layers(layer, depth, stationary=case.stationary))
                for q in QUANTITIES.values()
                for layer in (QUICK.backward if q.name == "gradient" else QUICK.forward)
            ]
            assert max(effects) >= 2.0, control.name

    def test_unknown_names_are_refused(self):
        with pytest.raises(SpecificationError, match="inputs"):
            cases("mnist")
        with pytest.raises(SpecificationError, match="only = 'BNN'"):
            chosen("BNN")
        with pytest.raises(SpecificationError, match="choice of cases"):
            verify.select("digits", only=("BN",), skip=("BN/digits",))


class TestVerdict:
    @pytest.mark.parametrize(
        ("difference", "half", "smallest", "p_holm", "verdict", "flags"),
        [
            (0.1, 0.3, 0.8, 0.5, "AGREE", ()),
            (0.5, 0.3, 0.8, 1e-4, "AGREE", ("deviation",)),
            (0.9, 0.3, 0.8, 1e-4, "REJECTED", ()),
            (9.0, 3.0, 5.0, 1e-4, "REJECTED", ()),
            (0.1, 0.9, 1.2, 0.5, "INCONCLUSIVE", ("underpowered",)),
            (math.nan, math.nan, math.nan, math.nan, "INCONCLUSIVE", ("no estimate",)),
        ],
    )
    def test_definition(self, difference, half, smallest, p_holm, verdict, flags):
        found = _verdict(difference, half=half, smallest=smallest, margin=1.0, p_holm=p_holm)
        assert found == (verdict, flags)


class TestRun:
    def test_true_theory_stands_and_wrong_theory_falls(self, tiny):
        # False alarm: at most ALPHA, 0.001, over seeds; the seed is fixed.
        assert tiny.counts["REJECTED"] == 0
        assert all(control.rejected for control in tiny.controls)
        assert all(control.effect >= 2.0 for control in tiny.controls)
        assert tiny.exit_status in (0, 3)
        assert tiny.level == ALPHA / len(tiny.rows)

    def test_rows_are_consistent(self, tiny):
        for row in tiny.rows:
            assert row.difference == row.simulation - row.theory
            assert 0.0 < row.half_width < row.detectable
            assert row.p <= row.p_holm <= 1.0

    def test_same_numbers_for_any_number_of_workers_and_choice_of_cases(self, tiny):
        again = verify.run(chosen("BN"), budget=TINY, inputs="synthetic", workers=2)
        first, second = tiny.curves["BN/synthetic"], again.curves["BN/synthetic"]
        for name in QUANTITIES:
            np.testing.assert_array_equal(first[name].means, second[name].means)
            np.testing.assert_array_equal(first[name].sems, second[name].sems)

    def test_seeds_differ(self, tiny):
        other = verify.run(chosen("LN"), budget=TINY, inputs="synthetic", seed=1, workers=1)
        first, second = tiny.curves["LN/synthetic"], other.curves["LN/synthetic"]
        assert (first["similarity"].means != second["similarity"].means).all()

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

    def test_progress_counts_every_block(self):
        seen = []
        verify.run(
            chosen("MC"),
            budget=TINY,
            inputs="synthetic",
            controls=True,
            workers=1,
            advance=seen.append,
        )
        assert len(seen) == verify.block_count(chosen("MC"), budget=TINY, controls=True)
        assert set(seen) == {"MC/synthetic"}


class TestReport:
    def test_files(self, tiny, tmp_path):
        index = report.write(tiny, tmp_path / "new" / "folder", timings={"seconds": 1.0})
        page = index.read_text(encoding="utf-8")
        assert re.search(r"<h1>.*?</h1>\s*<p><span[^>]*>\d+ AGREE", page, re.DOTALL)
        assert "http://" not in page
        assert "https://" not in page
        assert page.count("data:image/png;base64,") == 3 + 3  # overviews, then one per normalizer
        document = json.loads(
            (index.parent / "verify.json").read_text(), parse_constant=pytest.fail
        )
        assert document["schema"] == 1
        assert document["counts"] == tiny.counts
        assert len(document["rows"]) == len(tiny.rows)
        table = list(csv.DictReader(io.StringIO((index.parent / "verify.csv").read_text())))
        assert [float(line["theory"]) for line in table] == [row.theory for row in tiny.rows]
        assert "seconds" in (index.parent / "timings.json").read_text()

    def test_same_bytes_for_the_same_run(self, tiny, tmp_path):
        first = report.write(tiny, tmp_path / "a")
        second = report.write(tiny, tmp_path / "b")
        for name in ("index.html", "verify.json", "verify.csv"):
            assert first.with_name(name).read_bytes() == second.with_name(name).read_bytes()

    def test_text_is_escaped(self, tiny, tmp_path):
        evil = "<script>alert('x')</script>"
        case = dataclasses.replace(
            tiny.cases[0], statement=evil, controls=(Control(evil, evil, zoo["plain"]),)
        )
        control = dataclasses.replace(tiny.controls[0], control=evil, statement=evil)
        run = dataclasses.replace(
            tiny, cases=(case, *tiny.cases[1:]), controls=(control,), skipped=(evil,)
        )
        page = report.write(run, tmp_path).read_text(encoding="utf-8")
        assert "<script" not in page
        assert page.count("&lt;script&gt;") == 4

    def test_the_command_names_what_was_left_out(self, tiny):
        assert "--only 'BN/synthetic'" in report.command(tiny)
        most = [case for case in cases("synthetic") if case.name != "VN"]
        run = dataclasses.replace(tiny, cases=tuple(most), budget=QUICK, controls=())
        expected = "normcompass verify --quick --inputs synthetic --skip 'VN/synthetic' --seed 0"
        assert report.command(run) == expected

    def test_a_folder_that_cannot_be_written(self, tiny, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(theory.StoreError, match="--out"):
            report.write(tiny, tmp_path / "file" / "folder")


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
            "montecarlo/compiled.py",
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
