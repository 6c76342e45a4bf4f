"""The command line: output formats, exit statuses, and a sentence for every mistake of a user."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest

import theory as th
from montecarlo import cli, digits, networks
from montecarlo import verify as verification
from montecarlo.claims import Budget
from theory.errors import SpecificationError


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


class TestVerify:
    @pytest.fixture(autouse=True)
    def _tiny(self, monkeypatch):
        budget = Budget(
            name="quick",
            depth=2,
            forward=(2,),
            backward=(1,),
            widths=(24, 48, 96),
            networks=(60, 30, 40),
        )
        monkeypatch.setattr("montecarlo.claims.QUICK", budget)

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
        for text in ("Margins", "detectable", "plain for MC", "REJECTED", "Report:"):
            assert text in out
        assert (tmp_path / "r" / "index.html").exists()

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
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(verification, "run", interrupted)
        status, _, err = run("verify", "--quick", "--out", str(tmp_path / "r"))
        assert status == 130
        assert err == "Interrupted: no result was written.\n"
        assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("predict", "--norm", "BNN"), ("norm = 'BNN'", "check the spelling")),
        (("predict", "--norm", "group_norm"), ("group_size", "GN(8)")),
        (("predict", "--norm", "GN(4)", "--group-size", "8"), ("group_size = 8",)),
        (("predict", "--norm", "BN(4)"), ("without a size",)),
        (("predict", "--norm", "IN"), ("IN with batch",)),
        (("predict", "--correlation", "2"), ("correlation = 2",)),
        (("predict", "--depth", "0"), ("depth = 0",)),
        (("predict", "--activation", "swish"), ("activation = 'swish'",)),
        (("predict", "--activation", "leaky_relu(x)"), ("negative_slope",)),
        (("predict", "--weights", "he"), ("weights = 'he'",)),
        (("predict", "--weights", "WN", "--weight-variance", "3"), ("weight_variance",)),
        (("predict", "--eps", "0.1"), ("eps", "normalizer")),
        (("predict", "--inputs", "mnist"), ("inputs = 'mnist'",)),
        (("predict", "--json", "--csv"), ("choose one",)),
        (("predict", "--plot", "x.nothing"), ("plot =", ".png")),
        (("simulate", "--norm", "GN(8)", "--width", "20"), ("width = 20", "multiple")),
        (("simulate", "--replicates", "0"), ("replicates = 0",)),
        (("verify", "--only", "nothing"), ("only = 'nothing'",)),
        (("verify", "--seed", "-1"), ("seed = -1",)),
        (("verify", "--inputs", "mnist"), ("mnist",)),
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


def test_help_names_every_option(run):
    status, out, _ = run("verify", "--help")
    assert status == 0
    for option in ("--quick", "--inputs", "--out", "--controls", "--seed", "--workers", "--only"):
        assert option in out
    assert "inconclusive" in out


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
    network = networks.build_network(
        norm=name,
        group_size=None,
        eps=0.0,
        activation=None,
        weights=None,
        weight_variance=None,
        depth=2,
    )
    assert network == th.FeedForward(expected, depth=2)


def test_options_replace_parts_of_a_layer():
    network = networks.build_network(
        norm="group_norm",
        group_size=8,
        eps=1e-5,
        activation="leaky_relu(0.1)",
        weights="WC",
        weight_variance=3.0,
        depth=1,
    )
    layer = th.Layer(
        norm=th.group_norm(8, eps=1e-5),
        activation=th.leaky_relu(0.1),
        weights=th.centered_weights(weight_variance=3.0),
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
