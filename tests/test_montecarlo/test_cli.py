"""The command line: output formats, exit statuses, and a sentence for every mistake of a user."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import montecarlo as mc
import theory as th
from montecarlo import (
    cli,
    digits,
    gallery,
    group_curve,
    networks,
    options,
    residual_cases,
    residual_figures,
    tables,
)
from montecarlo import verify as verification
from montecarlo.budgets import BUDGETS, Budget, Grid
from montecarlo.commands.table import plus_minus
from montecarlo.options import NetworkOptions
from montecarlo.store import Store
from theory.errors import SpecificationError
from theory.provenance import version_of
from theory.specs.serialize import to_dict

NETWORK = th.FeedForward(th.Layer(norm=th.batch_norm()), depth=2)
INPUTS = th.exchangeable(batch=4, correlation=0.5)


@pytest.fixture
def run(capsys):
    """Run the command line in this process: (exit status, standard output, standard error)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            cli.main(list(arguments))
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call


class TestPredict:
    def test_json_is_strict_and_alone(self, run):
        status, out, err = run("predict", "--norm", "GN(8)", "--depth", "3", "--json")
        assert (status, err) == (0, "")
        document = json.loads(out, parse_constant=pytest.fail)
        expected = th.predict(
            th.FeedForward(th.Layer(norm=th.group_norm(8)), depth=3),
            th.exchangeable(batch=16, correlation=0.5),
        )
        assert document["values"]["similarity"] == list(expected.similarity)
        assert document["kind"] == "prediction"
        assert document["provenance"]["network_key"] == expected.provenance["network_key"]

    def test_tables_say_where_their_numbers_come_from(self, run):
        options = ("--norm", "GN(8)", "--residual", "sandwich", "--depth", "2", "--batch", "8")
        status, out, _ = run("predict", *options)
        assert status == 0
        said = " ".join(out.split())
        found = re.search(r"By population: .*?similarity \(error ([0-9e.-]+)\)", said)
        net = th.Residual(th.Layer(norm=th.group_norm(8)), depth=2, order="sandwich")
        pred = th.predict(net, th.exchangeable(batch=8, correlation=0.5))
        worst = (pred.error["similarity"] / np.abs(pred.similarity)).max()
        assert float(found[1]) == pytest.approx(worst, rel=0.5)
        assert "By closed form: second moment (error" in said

    def test_infinite_numbers_are_null(self, run):
        status, out, _ = run("predict", "--norm", "GN(3)", "--depth", "2", "--json")
        assert status == 0
        document = json.loads(out, parse_constant=pytest.fail)
        assert document["values"]["gradient_norm"][0] is None
        assert document["regime"]["status"] == "infinite"

    def test_csv(self, run):
        status, out, _ = run("predict", "--norm", "BN", "--depth", "2", "--csv")
        assert status == 0
        rows = list(csv.DictReader(io.StringIO(out)))
        assert {row["observable"] for row in rows} >= {"similarity", "gradient_norm"}

    def test_table_and_plot(self, run, tmp_path):
        picture = tmp_path / "p.png"
        status, out, _ = run("predict", "--norm", "SWS", "--depth", "4", "--plot", str(picture))
        assert status == 0
        assert "similarity" in out
        assert picture.read_bytes().startswith(b"\x89PNG")

    def test_digits(self, run):
        status, out, _ = run(
            "predict", "--norm", "LN", "--inputs", "digits", "--batch", "4", "--json"
        )
        assert status == 0
        assert json.loads(out)["inputs"]["kind"] == "data_inputs"


class TestSimulate:
    ARGUMENTS = (
        "--norm",
        "BN",
        "--width",
        "24",
        "--replicates",
        "4",
        "--depth",
        "2",
        "--workers",
        "1",
    )

    def test_json_is_strict_and_alone(self, run):
        status, out, err = run("simulate", *self.ARGUMENTS, "--json")
        assert (status, err) == (0, "")
        document = json.loads(out, parse_constant=pytest.fail)
        assert len(document["values"]["similarity_sem"]) == 2

    def test_csv_and_seed(self, run):
        first = run("simulate", *self.ARGUMENTS, "--csv", "--seed", "3")
        assert first == run("simulate", *self.ARGUMENTS, "--csv", "--seed", "3")
        assert first != run("simulate", *self.ARGUMENTS, "--csv", "--seed", "4")

    def test_table_and_plot(self, run, tmp_path):
        picture = tmp_path / "s.svg"
        status, out, _ = run("simulate", *self.ARGUMENTS, "--plot", str(picture))
        assert status == 0
        assert "±" in out
        assert "<svg" in picture.read_text(encoding="utf-8")

    def test_the_title_says_which_method_and_why(self, run):
        _, out, _ = run("simulate", *self.ARGUMENTS, "--method", "collapsed")
        assert "4 networks of width 24: mean ± s.e." in out
        assert "collapsed: as asked" in out

    def test_methods_give_other_numbers(self, run):
        def values(method):
            options = (*self.ARGUMENTS, "--batch", "4", "--method", method, "--json")
            _, out, _ = run("simulate", *options)
            document = json.loads(out)
            assert document["provenance"]["method"] == method
            return document["values"]

        assert values("direct") != values("collapsed")

    def test_forward_only_leaves_gradients_out(self, run, tmp_path):
        picture = tmp_path / "forward.png"
        options = (*self.ARGUMENTS, "--forward-only")
        status, table, _ = run("simulate", *options, "--plot", str(picture))
        assert status == 0
        assert picture.read_bytes().startswith(b"\x89PNG")
        texts = (
            table,
            run("simulate", *options, "--json")[1],
            run("simulate", *options, "--csv")[1],
        )
        for text in texts:
            assert "similarity" in text
            assert "gradient" not in text.replace("gradients", "")

    def test_target_sem(self, run):
        options = (*self.ARGUMENTS, "--json", "--target-sem", "0.05", "--max-replicates", "1000")
        status, out, err = run("simulate", *options)
        document = json.loads(out)
        assert (status, err) == (0, "")
        assert 4 < document["replicates"] < 1000
        assert max(document["values"]["similarity_sem"]) <= 0.05

    @pytest.mark.filterwarnings("default::theory.errors.RegimeWarning")
    def test_warnings_are_a_sentence_even_when_quiet(self, run):
        options = (*self.ARGUMENTS, "--target-sem", "1e-9", "--max-replicates", "9", "--quiet")
        status, out, err = run("simulate", *options)
        assert status == 0
        assert "9 networks" in out
        assert err.startswith("Warning: 9 networks do not reach target_sem")
        assert err.count("\n") == 1

    def test_a_store_changes_no_number(self, run, tmp_path):
        plain = run("simulate", *self.ARGUMENTS, "--csv")
        options = (*self.ARGUMENTS, "--csv", "--store", str(tmp_path / "s.sqlite"))
        assert run("simulate", *options, "--replicates", "2")[0] == 0
        for stored in (2, 4):
            status, out, err = run("simulate", *options)
            assert (status, out) == plain[:2]
            assert err == f"From the store: {stored} of 4 networks\n"
        assert run("simulate", *options, "--quiet") == plain

    def test_every_option_reaches_the_simulation(self, run, monkeypatch):
        passed = {}

        def record(*_, **arguments):
            passed.update(arguments)
            raise SpecificationError("recorded")

        monkeypatch.setattr("montecarlo.ensemble.simulate", record)
        words = "--width 7 --replicates 3 --seed 5 --dtype float32 --method direct --workers 2"
        more = "--target-sem 0.5 --max-replicates 9 --memory-limit 2GiB --store s --forward-only"
        run("simulate", *words.split(), *more.split(), "--scheduler", "tcp://127.0.0.1:1")
        assert passed == {
            "width": 7,
            "replicates": 3,
            "seed": 5,
            "dtype": "float32",
            "method": "direct",
            "backward": False,
            "workers": 2,
            "client": "tcp://127.0.0.1:1",
            "store": Path("s"),
            "target_sem": 0.5,
            "max_replicates": 9,
            "memory_limit": 2 * 1024**3,
            "progress": False,
        }

    @pytest.mark.parametrize("options", [("--quiet",), ()])
    def test_quiet_is_about_standard_error(self, run, monkeypatch, tmp_path, options):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        plot = ("--plot", str(tmp_path / "q.png"))
        status, out, err = run("simulate", *self.ARGUMENTS, *plot, *options)
        assert status == 0
        assert "±" in out
        assert (err == "") == (options == ("--quiet",))

    def test_ctrl_c_without_a_store(self, run, monkeypatch):
        monkeypatch.setattr("montecarlo.ensemble.simulate", interrupted)
        status, out, err = run("simulate", *self.ARGUMENTS)
        assert (status, out) == (130, "")
        assert err.startswith("Interrupted: nothing was written; with --store FILE")

    @pytest.mark.parametrize("method", ["auto", "direct"])
    def test_ctrl_c_with_a_store(self, run, monkeypatch, tmp_path, method):
        store = str(tmp_path / "s.sqlite")
        options = (*self.ARGUMENTS, "--store", store, "--method", method)
        assert run("simulate", *options)[0] == 0
        monkeypatch.setattr("montecarlo.ensemble.simulate", interrupted)
        status, _, err = run("simulate", *options)
        assert status == 130
        assert err == (
            f"Interrupted: 4 networks are kept in {store}; the same command goes on from there.\n"
        )

    def test_ctrl_c_before_the_store_is_made(self, run, monkeypatch, tmp_path):
        store = tmp_path / "s.sqlite"
        monkeypatch.setattr("montecarlo.ensemble.simulate", interrupted)
        _, _, err = run("simulate", *self.ARGUMENTS, "--store", str(store))
        assert "0 networks are kept" in err
        assert not store.exists()


def interrupted(*_, **__):
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with two runs: BN with gradients, GN(8) without."""
    path = tmp_path_factory.mktemp("runs") / "s.sqlite"
    with Store(path) as opened:
        simulate = partial(mc.simulate, inputs=INPUTS, width=16, store=opened)
        simulate(NETWORK, replicates=3, method="direct", seed=2)
        other = th.FeedForward(th.Layer(norm=th.group_norm(8)), depth=2)
        simulate(other, replicates=2, method="collapsed", dtype="float32", backward=False)
    return path


@pytest.fixture(scope="module")
def simulation():
    """The first run, simulated anew."""
    return mc.simulate(NETWORK, INPUTS, width=16, replicates=3, method="direct", seed=2)


@pytest.fixture(scope="module")
def keys(store):
    with Store(store) as opened:
        return [stored.key for stored in opened.runs()]


class TestRuns:
    def test_list(self, run, store, keys):
        status, out, err = run("runs", "list", str(store))
        assert (status, err) == (0, "")
        for text in ("2 runs", keys[0][:12], keys[1][:12], "BN, relu", "batch 4", "direct"):
            assert text in out
        assert "forward" in out

    def test_list_as_json(self, run, store, keys):
        status, out, err = run("runs", "list", str(store), "--json")
        assert (status, err) == (0, "")
        found = json.loads(out, parse_constant=pytest.fail)["runs"]
        assert [entry["key"] for entry in found] == keys
        assert [entry["replicates"] for entry in found] == [3, 2]
        assert [entry["backward"] for entry in found] == [True, False]

    def test_show(self, run, store, keys, simulation):
        status, out, err = run("runs", "show", str(store), keys[0][:8])
        assert (status, err) == (0, "")
        for text in (keys[0], repr(NETWORK)[:60], "seed 2", "computed with", np.__version__):
            assert text in out
        assert f"{simulation.similarity.mean[0]:.5g} ± " in out
        assert "gradient norm" in out
        assert "gradient norm" not in run("runs", "show", str(store), keys[1])[1]

    def test_show_as_json(self, run, store, keys, simulation):
        _, out, _ = run("runs", "show", str(store), keys[0], "--json")
        document = json.loads(out, parse_constant=pytest.fail)
        assert document["values"]["gradient_norm_sem"] == list(simulation.gradient_norm.sem)
        assert document["experiment"]["network"] == to_dict(NETWORK)
        assert document["environments"][0]["numpy"] == np.__version__

    def test_export_estimates(self, run, store, keys, simulation):
        status, out, err = run("runs", "export", str(store), keys[0])
        assert (status, err) == (0, "")
        rows = list(csv.DictReader(io.StringIO(out)))
        assert list(rows[0]) == ["layer", "observable", "mean", "sem", "replicates"]
        assert len(rows) == 2 * len({row["observable"] for row in rows})
        found = {(row["observable"], int(row["layer"])): row for row in rows}
        for name in (*simulation.samples, "gradient_norm", "log_gradient_norm"):
            row, estimate = found[name, 2], getattr(simulation, name)
            assert float(row["mean"]) == estimate.mean[1]
            assert float(row["sem"]) == estimate.sem[1]
            assert row["replicates"] == "3"

    def test_export_networks(self, run, store, keys, simulation, tmp_path):
        out = tmp_path / "run.csv"
        out.write_text("what was there is replaced")
        words = ("runs", "export", str(store), keys[0], "--per-network", "--out", str(out))
        assert run(*words) == (0, "", "")
        rows = list(csv.DictReader(io.StringIO(out.read_text())))
        assert [(row["network"], row["layer"]) for row in rows] == [
            (str(r), str(layer)) for r in range(3) for layer in (1, 2)
        ]
        for name, values in simulation.samples.items():
            assert [float(row[name]) for row in rows] == list(values.ravel())

    @pytest.mark.parametrize("words", [(), ("--per-network",)])
    def test_export_without_gradients(self, run, store, keys, words):
        status, out, _ = run("runs", "export", str(store), keys[1], *words)
        assert status == 0
        assert "similarity" in out
        assert "gradient" not in out

    def test_parquet(self, run, store, keys, tmp_path):
        parquet = pytest.importorskip("pyarrow.parquet")
        out = tmp_path / "run.parquet"
        assert run("runs", "export", str(store), keys[0], "--out", str(out)) == (0, "", "")
        text = run("runs", "export", str(store), keys[0])[1]
        assert parquet.read_table(out).to_pandas().to_csv(index=False) == text

    def test_parquet_without_pyarrow(self, run, store, keys, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        out = tmp_path / "run.parquet"
        status, _, err = run("runs", "export", str(store), keys[0], "--out", str(out))
        assert status == 2
        assert "pip install pyarrow" in err
        assert not out.exists()

    def test_a_run_of_another_version_is_shown(self, run, store, keys, monkeypatch):
        monkeypatch.setattr("montecarlo.store.ENGINE", 0)
        status, out, _ = run("runs", "list", str(store))
        assert status == 0
        assert out.count("(unreadable)") == 4
        _, out, _ = run("runs", "show", str(store), keys[0])
        assert "was simulated by engine" in out
        assert "mean ±" in out

    def test_nothing_is_made_by_looking(self, run, tmp_path):
        path = tmp_path / "missing.sqlite"
        status, _, err = run("runs", "list", str(path))
        assert status == 2
        assert "an existing file" in err
        assert not path.exists()

    def test_mistakes(self, run, store, keys, tmp_path):
        status, _, err = run("runs", "show", str(store), "zzz")
        assert status == 3
        assert "with 'zzz'; choose from" in err
        assert run("runs", "export", str(store), keys[0], "--out", "run.txt")[0] == 2
        nowhere = str(tmp_path / "no" / "run.csv")
        status, _, err = run("runs", "export", str(store), keys[0], "--out", nowhere)
        assert status == 3
        assert "another place" in err
        foreign = tmp_path / "foreign.sqlite"
        foreign.write_text("not a store, but more than a header of 16 bytes")
        assert run("runs", "list", str(foreign))[0] == 3


class TestPositions:
    @pytest.mark.parametrize(("norm", "words"), [("IN", "4x4"), ("FRN", "16")])
    def test_predict(self, run, norm, words):
        options = ("--norm", norm, "--positions", words, "--depth", "3", "--batch", "4")
        status, out, err = run("predict", *options, "--kernel", "3", "--json")
        assert (status, err) == (0, "")
        document = json.loads(out, parse_constant=pytest.fail)
        shape = (4, 4) if "x" in words else 16
        inputs = th.exchangeable(
            batch=4, correlation=0.5, positions=shape, position_correlation=0.5
        )
        layer = th.Layer(norm=th.zoo[norm].norm, kernel=3)
        expected = th.predict(th.FeedForward(layer, depth=3), inputs)
        assert document["inputs"] == to_dict(inputs)
        assert document["values"]["similarity"] == list(expected.similarity)
        assert document["values"]["gradient_norm"] == list(expected.gradient_norm)

    def test_simulate(self, run):
        words = (
            "--norm IN --positions 8 --kernel 3 --position-correlation 0.2 --cross-correlation 0.1"
        )
        size = "--correlation 0.4 --batch 3 --depth 2 --width 16 --replicates 2 --workers 1 --json"
        status, out, err = run("simulate", *words.split(), *size.split())
        assert (status, err) == (0, "")
        inputs = th.exchangeable(
            batch=3,
            correlation=0.4,
            positions=8,
            position_correlation=0.2,
            cross_correlation=0.1,
        )
        network = th.FeedForward(th.Layer(norm=th.instance_norm(), kernel=3), depth=2)
        expected = mc.simulate(network, inputs, width=16, replicates=2, workers=1)
        assert json.loads(out)["values"]["similarity"] == list(expected.similarity.mean)

    @pytest.mark.parametrize("kind", ["digits-images", "digits-shifted"])
    def test_images_with_zero_padding_and_a_stride(self, run, kind):
        words = (
            f"--norm BN --inputs {kind} --batch 2 --depth 2 --kernel 3 --padding zero --stride 4"
        )
        status, out, err = run("predict", *words.split(), "--json")
        assert (status, err) == (0, "")
        layer = th.Layer(norm=th.batch_norm(), kernel=3, padding="zero", stride=4)
        pixels = digits.digits(batch=2).reshape(2, 1, 8, 8)
        inputs = th.images(pixels) if "images" in kind else th.stationary_from_data(pixels)
        network = th.Sequential((layer, dataclasses.replace(layer, stride=1)))
        expected = th.predict(network, inputs)
        assert json.loads(out)["values"]["similarity"] == list(expected.similarity)
        words += " --width 8 --replicates 2 --workers 1"
        status, out, _ = run("simulate", *words.split(), "--json")
        assert status == 0
        found = mc.simulate(network, inputs, width=8, replicates=2, workers=1)
        assert json.loads(out)["values"]["similarity"] == list(found.similarity.mean)

    def test_no_route_is_found_before_the_simulation(self, run, monkeypatch, tmp_path):
        monkeypatch.setattr("montecarlo.ensemble.simulate", interrupted)
        words = ("--norm", "GN(512)", "--activation", "tanh", "--positions", "40")
        words += ("--plot", str(tmp_path / "e.png"))
        status, _, err = run("simulate", *words)
        assert status == 3
        assert "no route over positions" in err


class TestResidual:
    OPTIONS = ("--norm", "BN", "--residual", "pre-activation", "--depth", "4", "--batch", "8")

    def test_predict(self, run):
        status, out, err = run(
            "predict", *self.OPTIONS, "--skip", "0.9", "--branch", "0.5", "--maps", "2", "--json"
        )
        assert (status, err) == (0, "")
        document = json.loads(out, parse_constant=pytest.fail)
        network = th.Residual(th.Layer(norm=th.batch_norm()), depth=4, skip=0.9, branch=0.5, maps=2)
        expected = th.predict(network, th.exchangeable(batch=8, correlation=0.5))
        assert document["network"] == to_dict(network)
        for name in ("second_moment", "gradient_norm", "branch_gradient_norm"):
            assert document["values"][name] == list(getattr(expected, name))

    def test_growth_laws_are_printed(self, run):
        status, out, _ = run("predict", *self.OPTIONS)
        assert status == 0
        assert "Growth with depth at batch 8, second moment: 1 l (" in out
        assert "Growth with depth at batch 8, squared gradient: l^1.78819 (" in out
        _, out, _ = run("predict", *self.OPTIONS, "--json")
        growth = json.loads(out)["growth"]
        law = th.growth_law(th.Residual(th.Layer(norm=th.batch_norm()), depth=4), batch=8)
        assert growth["squared gradient"]["rate"] == law.gradient.rate
        assert growth["squared gradient"]["batch"] == law.batch == 8
        assert "growth" not in json.loads(run("predict", "--depth", "2", "--json")[1])

    @pytest.mark.parametrize(
        ("words", "network"),
        [
            (
                ("--residual", "deep_norm", "--norm", "LN"),
                th.Residual(th.Layer(norm=th.layer_norm()), depth=3, order="deep_norm"),
            ),
            (
                ("--residual", "pre-activation", "--branch", "1/sqrt(L)"),
                th.Residual(th.Layer(), depth=3, branch="1/sqrt(L)"),
            ),
            (
                ("--residual", "pre-activation", "--nf-scaling"),
                th.nf_scaled(
                    th.Residual(th.Layer(), depth=3), th.exchangeable(batch=4, correlation=0.5)
                ),
            ),
            (
                ("--residual", "branch-end-norm", "--norm", "LN", "--stem"),
                th.Residual(
                    th.Layer(norm=th.layer_norm()),
                    depth=3,
                    order="branch_end_norm",
                    stem=th.gaussian(weight_variance=1.0),
                ),
            ),
        ],
    )
    def test_simulate(self, run, words, network):
        options = ("--depth", "3", "--batch", "4", "--width", "16", "--replicates", "3")
        status, out, _ = run("simulate", *words, *options, "--json")
        assert status == 0
        document = json.loads(out, parse_constant=pytest.fail)
        inputs = th.exchangeable(batch=4, correlation=0.5)
        found = mc.simulate(network, inputs, width=16, replicates=3, workers=1)
        assert document["network"] == to_dict(network)
        for name in ("second_moment", "branch_gradient_norm"):
            assert document["values"][name] == list(getattr(found, name).mean)

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (
                ("--residual", "v2"),
                "residual = 'v2' is not valid: it must be one of pre-activation,",
            ),
            (("--skip", "0.5"), "skip = 0.5 is not valid: it must be left out without --residual"),
            (("--nf-scaling",), "nf_scaling = True is not valid"),
            (("--residual", "sandwich", "--branch", "x"), "branch = 'x' is not valid"),
            (("--residual", "sandwich", "--maps", "3"), "maps = 3 is not valid"),
            (("--residual", "pre-norm", "--norm", "LN", "--nf-scaling"), "NF scaling stands in"),
        ],
    )
    def test_mistakes(self, run, words, sentence):
        status, out, err = run("predict", *words)
        assert (status, out) == (2, "")
        assert sentence in " ".join(err.split())


class TestFigures:
    def test_every_figure_is_written(self, run, tmp_path, monkeypatch):
        monkeypatch.setattr(residual_figures, "CASES", residual_cases.CASES[:2])
        monkeypatch.setattr(residual_figures, "_REPLICATES", 2)
        names = ["residual-variance", "residual-gradient"]
        only = [word for name in names for word in ("--only", name)]
        status, out, err = run("figures", "--out", str(tmp_path / "new"), *only, "--workers", "1")
        residual_figures.simulated.cache_clear()
        assert (status, out) == (0, "")
        for name in names:
            path = tmp_path / "new" / f"{name}.png"
            assert path.read_bytes().startswith(b"\x89PNG")
            assert str(path) in err
        assert set(names) < set(gallery.FIGURES)

    def test_mistakes(self, run, tmp_path):
        status, _, err = run("figures", "--out", str(tmp_path), "--only", "overvew")
        assert status == 2
        assert "only = 'overvew'" in err
        (tmp_path / "file").write_text("")
        status, _, err = run("figures", "--out", str(tmp_path / "file" / "a"), "--only", "overview")
        assert status == 2
        assert "out = " in err


class TestTable:
    @pytest.fixture(autouse=True)
    def _tiny(self, monkeypatch):
        names = ("WN", "IN", "GN(8)", "LN", "EvoNorm-S0")
        monkeypatch.setattr(
            tables, "NORMALIZERS", {name: tables.NORMALIZERS[name] for name in names}
        )
        monkeypatch.setattr(tables, "POSITIONS", ((1,), (16,)))
        line = {name: tables.NORMALIZERS[name] for name in ("IN", "GN(8)", "LN")}
        monkeypatch.setattr(group_curve, "LINE", line)

    ARGUMENTS = ("table", "--depth", "3", "--workers", "1")
    NETWORKS = ("--width", "32", "--replicates", "2", "--seed", "7")

    def test_table(self, run):
        status, out, err = run(*self.ARGUMENTS, *self.NETWORKS)
        assert (status, err) == (0, "")
        for text in (
            "S = 1 position",
            "S = 16 positions",
            "EvoNorm-S0",
            "λ",
            "undefined",
            "unsought",
        ):
            assert text in out
        assert "2 networks of width 128\n" in re.sub(r" +\n", "\n", out)
        assert "2 networks of width 32\n" in re.sub(r" +\n", "\n", out)
        assert "0.3254(12) is 0.3254 ± 0.0012" in out
        assert "IN, S = 1: at one position the pool would be a single activation" in out
        assert "…" not in out
        assert max(map(len, out.splitlines())) <= 120
        prediction = th.predict(
            th.FeedForward(th.zoo["GN(8)"], depth=3), th.exchangeable(batch=4, correlation=0.5)
        )
        line = next(line for line in out.splitlines() if line.strip().startswith("GN(8)"))
        assert f"{prediction.similarity[-1]:.5f}" in line

    def test_theory_alone(self, run):
        status, out, _ = run(*self.ARGUMENTS, "--no-simulate")
        assert status == 0
        assert "networks" not in out
        assert "(" not in out.split("S = 16")[0].replace("GN(8)", "")

    def test_json(self, run):
        status, out, err = run(*self.ARGUMENTS, *self.NETWORKS, "--json")
        assert (status, err) == (0, "")
        document = json.loads(out, parse_constant=pytest.fail)
        assert (document["kind"], document["depth"], document["width"]) == ("table", 3, 32)
        assert len(document["rows"]) == 5 * 2 * len(document["observables"])
        for row in document["rows"]:
            assert (row["theory"] is None) == (row["theory_reason"] != "")
            assert (row["mean"] is None) == (row["simulation_reason"] != "")

    def test_csv_and_file(self, run, tmp_path):
        out_file = tmp_path / "table.csv"
        words = (*self.ARGUMENTS, "--no-simulate", "--csv", "--out", str(out_file))
        status, out, err = run(*words)
        assert (status, err) == (0, "")
        assert out_file.read_text(encoding="utf-8") == out
        rows = list(csv.DictReader(io.StringIO(out)))
        assert {row["normalizer"] for row in rows} == {"WN", "IN", "GN(8)", "LN", "EvoNorm-S0"}
        assert {row["positions"] for row in rows} == {"1", "16"}

    @pytest.mark.parametrize("options", [("--no-simulate",), NETWORKS])
    def test_plot(self, run, tmp_path, options):
        picture = tmp_path / "groups.png"
        status, out, err = run(*self.ARGUMENTS, *options, "--plot", str(picture), "--json")
        assert (status, err) == (0, f"Figure: {picture}\n")
        json.loads(out)
        assert picture.read_bytes().startswith(b"\x89PNG")

    def test_quiet(self, run, monkeypatch, tmp_path):
        monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes standard error for a terminal
        words = (*self.ARGUMENTS, "--no-simulate", "--plot", str(tmp_path / "q.svg"))
        assert run(*words)[2] != ""
        assert run(*words, "--quiet")[2] == ""


@pytest.mark.parametrize(
    ("mean", "sem", "expected"),
    [
        (0.32541, 0.00123, "0.3254(12)"),
        (12.6955, 0.034, "12.695(34)"),
        (1.0, 0.0997, "1.00(10)"),
        (0.5, 1.23, "0.5(1.2)"),
        (9.2e-5, 3.1e-6, "9.20(31)e-05"),
        (8.3456e10, 2.1e10, "8.3(2.1)e+10"),
        (-0.25, 0.011, "-0.250(11)"),
        (0.0, 0.0, "0"),
        (0.5, float("inf"), "0.5"),
        (0.999999999972, 2e-11, "1.00000(0)"),
    ],
)
def test_uncertain_numbers(mean, sem, expected):
    assert plus_minus(mean, sem) == expected


class TestVerify:
    @pytest.fixture(autouse=True)
    def _tiny(self, monkeypatch):
        grid = Grid(depth=2, forward=(2,), backward=(1,), widths=(24, 48, 96), pilot=30, largest=60)
        budget = Budget(name="quick", first=grid, wide=grid, direct=grid, heavy=None)
        monkeypatch.setitem(BUDGETS, "quick", budget)

    def test_prints_the_table_and_writes_the_report(self, run, tmp_path):
        status, out, _ = run(
            "verify",
            "--quick",
            "--inputs",
            "synthetic",
            "--only",
            "MC",
            "--out",
            str(tmp_path / "r"),
            "--workers",
            "1",
            "--controls",
        )
        assert status in (0, 3)
        for text in ("Margins", "detectable", "plain for MC", "REJECTED", "Claims", "Report:"):
            assert text in out
        assert (tmp_path / "r" / "index.html").exists()

    def test_quiet(self, run, monkeypatch, tmp_path):
        monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes standard error for a terminal
        words = ("verify", "--quick", "--inputs", "synthetic", "--only", "MC", "--workers", "1")
        words = (*words, "--out", str(tmp_path))
        _, out, err = run(*words, "--quiet")
        assert "Report:" in out
        assert err == ""
        assert run(*words)[2] != ""

    @pytest.mark.parametrize("status", [0, 1, 3])
    def test_exit_status_is_the_run_s(self, run, monkeypatch, tmp_path, status):
        monkeypatch.setattr(verification.Run, "exit_status", status)
        found, _, _ = run(
            "verify",
            "--quick",
            "--inputs",
            "synthetic",
            "--only",
            "MC",
            "--out",
            str(tmp_path),
            "--workers",
            "1",
        )
        assert found == status

    def test_ctrl_c(self, run, monkeypatch, tmp_path):
        monkeypatch.setattr(verification, "run", interrupted)
        status, _, err = run("verify", "--quick", "--out", str(tmp_path / "r"))
        assert status == 130
        assert err.startswith("Interrupted: no report was written; with --store FILE")
        assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("predict", "--norm", "BNN"), ("norm = 'BNN'", "perhaps BN is meant")),
        (("predict", "--norm", "whiten"), ("norm = 'whiten'", "check the spelling")),
        (("predict", "--residual", "deepnorm"), ("perhaps deep-norm is meant",)),
        (("predict", "--residual", "Swin"), ("perhaps branch-end-norm is meant",)),
        (("predict", "--activation", "rellu"), ("perhaps relu is meant",)),
        (("predict", "--weights", "WeightNorm"), ("perhaps weight_norm is meant",)),
        (("predict", "--norm", "group_norm"), ("group_size", "GN(8)")),
        (("predict", "--norm", "GN(4)", "--group-size", "8"), ("group_size = 8",)),
        (("predict", "--norm", "BN(4)"), ("without a size",)),
        (("predict", "--norm", "IN"), ("IN with batch",)),
        (("predict", "--correlation", "2"), ("correlation = 2",)),
        (("predict", "--positions", "4x"), ("positions = '4x'", "4x4, say")),
        (("predict", "--positions", "0"), ("positions = '0'", "at least one")),
        (("simulate", "--positions", "4x4x4"), ("positions = '4x4x4'",)),
        (("predict", "--positions", "4x0"), ("positions = '4x0'",)),
        (("predict", "--kernel", "3"), ("kernel = 3", "positions")),
        (("predict", "--positions", "4", "--kernel", "5"), ("kernel = 5",)),
        (("predict", "--position-correlation", "0.1"), ("position_correlation", "give positions")),
        (("predict", "--inputs", "digits", "--positions", "4"), ("positions = '4'", "digits")),
        (("simulate", "--positions", "4", "--cross-correlation", "0.9"), ("cross_gap",)),
        (("table", "--batch", "1"), ("batch = 1",)),
        (("table", "--depth", "0"), ("depth = 0",)),
        (("table", "--width", "100"), ("width = 100", "multiple")),
        (("table", "--replicates", "0"), ("replicates = 0",)),
        (("table", "--json", "--csv"), ("choose one",)),
        (("table", "--out", "t.xlsx"), ("out = 't.xlsx'", ".parquet")),
        (("table", "--plot", "no/such/folder.png"), ("plot =", "folder")),
        (("predict", "--depth", "0"), ("depth = 0",)),
        (("predict", "--activation", "swish"), ("activation = 'swish'",)),
        (("predict", "--activation", "leaky_relu(x)"), ("negative_slope",)),
        (("predict", "--weights", "he"), ("weights = 'he'",)),
        (("predict", "--weights", "WN", "--weight-variance", "3"), ("weight_variance",)),
        (("predict", "--eps", "0.1"), ("eps", "normalizer")),
        (("predict", "--inputs", "mnist"), ("inputs = 'mnist'",)),
        (
            ("predict", "--inputs", "digits", "--correlation", "0.5"),
            ("correlation = 0.5", "digits"),
        ),
        (("predict", "--json", "--csv"), ("choose one",)),
        (("simulate", "--memory-limit", "2 gallons"), ("memory_limit = '2 gallons'", "2GiB")),
        (("predict", "--plot", "x.nothing"), ("plot =", ".png")),
        (("simulate", "--norm", "GN(8)", "--width", "20"), ("width = 20", "multiple")),
        (("simulate", "--replicates", "0"), ("replicates = 0",)),
        (("verify", "--only", "nothing"), ("only = 'nothing'",)),
        (("verify", "--seed", "-1"), ("seed = -1",)),
        (("verify", "--inputs", "mnist"), ("mnist",)),
        (("predict", "--padding", "same"), ("padding = 'same'", "circular")),
        (("predict", "--stride", "0"), ("stride = 0",)),
        (("predict", "--residual", "pre-activation", "--stride", "2"), ("stride = 2", "skip")),
        (("predict", "--nonsense"), ("--nonsense",)),
        (("nonsense",), ("nonsense",)),
    ],
    ids=lambda value: " ".join(value),
)
def test_mistakes_get_a_sentence_and_status_2(run, arguments, words):
    status, out, err = run(*arguments)
    assert status == 2
    assert out == "" or arguments[0] == "verify"
    assert "Traceback" not in err
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4096", 4096),
        ("2e9", 2_000_000_000),
        ("2GiB", 2 * 1024**3),
        ("1.5 kb", 1500),
        ("500MB", 500_000_000),
        ("3TiB", 3 * 1024**4),
        ("7B", 7),
    ],
)
def test_bytes(text, expected):
    assert options.byte_count("memory_limit", text) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1", "2G", "nan", "1e999", "0", "1 2", "2GiBs"])
def test_no_bytes(text):
    with pytest.raises(SpecificationError, match=r"memory_limit = .*2GiB"):
        options.byte_count("memory_limit", text)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_an_interrupted_run_goes_on(run, tmp_path):
    """SIGINT once something is stored; the same command then goes on from there."""
    store = tmp_path / "s.sqlite"
    words = ["simulate", "--norm", "BN", "--width", "512", "--depth", "4", "--method", "direct"]
    words += ["--workers", "1", "--store", str(store), "--replicates"]
    code = f"from montecarlo.cli import main; main({[*words, '2000']!r})"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not stored_networks(store):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    kept = stored_networks(store)
    assert 0 < kept < 2000
    assert err.startswith(f"Interrupted: {kept} networks are kept in {store}; the same command")
    status, _, err = run(*words, str(kept + 2))
    assert (status, err) == (0, f"From the store: {kept} of {kept + 2} networks\n")


def stored_networks(path):
    """Networks of the one run in a store that another process may be about to make."""
    if not path.exists():
        return 0
    with Store(path) as store:
        return sum(stored.replicates for stored in store.runs())


def test_version(run):
    assert run("--version") == (0, f"normcompass {version_of('normcompass')}\n", "")


def test_python_m():
    command = [sys.executable, "-m", "montecarlo", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("normcompass ")


def test_help_is_light():
    heavy = ("numba", "matplotlib", "pandas", "dask", "joblib", "sqlite3", "scipy.stats")
    code = (
        "import sys, montecarlo.cli as cli\n"
        "try: cli.main(['--help'])\n"
        f"except SystemExit: print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_names_every_option(run):
    status, out, _ = run("verify", "--help")
    assert status == 0
    for option in ("--quick", "--inputs", "--out", "--controls", "--seed", "--workers", "--only"):
        assert option in out
    assert "inconclusive" in out
    status, out, _ = run("simulate", "--help")
    assert status == 0
    for name in ("--norm", "--inputs", "--method", "--store", "--scheduler", "--memory-limit"):
        assert name in out


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("GN(4)", th.Layer(norm=th.group_norm(4))),
        ("group_norm(4)", th.Layer(norm=th.group_norm(4))),
        ("BN", th.zoo["BN"]),
        ("batch_norm", th.zoo["BN"]),
        ("WN", th.zoo["WN"]),
        ("EvoNorm-B0", th.zoo["EvoNorm-B0"]),
        ("evonorm_b0", th.zoo["EvoNorm-B0"]),
        ("EvoNorm-S0(4)", th.Layer(norm=th.evonorm_s0(4), activation=th.identity)),
        (None, th.zoo["plain"]),
    ],
)
def test_names_of_layers(name, expected):
    network = networks.build_network(NetworkOptions(norm=name, depth=2))
    assert network == th.FeedForward(expected, depth=2)


@pytest.mark.parametrize(
    ("text", "expected"), [("16", (16,)), ("4x4", (4, 4)), (" 2X8 ", (2, 8)), ("1", (1,))]
)
def test_shapes(text, expected):
    assert options.shape_of(text) == expected


def test_options_replace_parts_of_a_layer():
    network = networks.build_network(
        NetworkOptions(
            kernel=3,
            norm="group_norm",
            group_size=8,
            eps=1e-5,
            activation="leaky_relu(0.1)",
            weights="WC",
            weight_variance=3.0,
            depth=1,
        )
    )
    layer = th.Layer(
        norm=th.group_norm(8, eps=1e-5),
        activation=th.leaky_relu(0.1),
        weights=th.centered_weights(weight_variance=3.0),
        kernel=3,
    )
    assert network == th.FeedForward(layer, depth=1)


def test_digits_are_distinct_and_scaled():
    images = digits.digits(batch=16)
    assert images.shape == (16, 64)
    assert np.mean(images**2) == pytest.approx(1.0)
    assert np.linalg.matrix_rank(images - images.mean(axis=0)) == 15
    with pytest.raises(SpecificationError, match="at most"):
        digits.digits(batch=10_000)


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SpecificationError, match=r"pip install normcompass\[data\]"):
        digits.digits(batch=4)


def test_a_closed_pipe_is_quiet():
    command = [
        sys.executable,
        "-c",
        "from montecarlo.cli import main; main(['predict', '--depth', '3000', '--csv'])",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
