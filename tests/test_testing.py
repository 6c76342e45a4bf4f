"""theory.testing and the pytest plugin: strategies that shrink, a missing Hypothesis, a user's normalizer."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

import montecarlo.testing
import theory as th
from montecarlo import pytest_plugin
from theory import testing
from theory.testing import check_normalizer
from theory.testing.arrays import any_norm, pooled

ROOT = Path(__file__).parents[1]
QUICK = testing.Profile("quick", examples=2, per_name=1, seconds=5.0)


def minimal(strategy: st.SearchStrategy, condition=lambda _: True):
    settings = hypothesis.settings(
        database=None, max_examples=2000, deadline=None, derandomize=True
    )
    return hypothesis.find(strategy, condition, settings=settings)


def test_strategies_shrink_to_a_plain_relu_network() -> None:
    assert minimal(testing.networks()) == th.FeedForward(th.Layer(), depth=1)
    assert minimal(testing.activations()) == th.relu
    case = minimal(testing.cases())
    assert case.network.depth == 1
    assert (case.layer.activation.scale, case.layer.activation.shift) == (1.0, 0.0)
    array = minimal(pooled(any_norm()))
    assert array.layer.weights == th.gaussian()


def test_random_normalizers_are_ones_that_nobody_named() -> None:
    named = [layer.norm for layer in th.zoo.values()]
    norm = minimal(
        testing.normalizers(),
        lambda n: n.pool.samples and n.pool.channels == 3 and n.centered and n.denominator == "rms",
    )
    assert norm not in named
    assert norm.eps == 0.0
    layer = minimal(testing.layers(), lambda x: x.norm is not None and x.norm.gate is not None)
    assert layer.norm.gate == 1.0


def test_inputs_of_any_rank() -> None:
    def rank(inputs) -> float:
        import numpy as np

        return np.linalg.matrix_rank(inputs.covariance)

    for wanted in (1, 2, 3):
        found = minimal(testing.covariances(smallest=4), lambda x, r=wanted: rank(x) == r)
        assert rank(found) == wanted
    assert minimal(testing.nearly_equal(), lambda x: 0.0 < x.gap.max() < 1e-12).batch == 2
    assert minimal(testing.batches(), lambda x: x.gap == 1e-15).gap == 1e-15


def test_check_normalizer() -> None:
    tallies = check_normalizer(th.group_norm(6), profile=QUICK)
    assert set(tallies) == set(testing.LAWS)
    assert tallies["covariances_are_covariances"].effective == 2
    assert tallies["large_batches_have_a_limit"].effective == 0
    simulated = check_normalizer(
        th.group_norm(6), profile=QUICK, laws=montecarlo.testing.LAWS.values()
    )
    assert simulated["simulation_agrees"].effective == 2
    with pytest.raises(th.SpecificationError, match=r"batch_norm\(\)"):
        check_normalizer("BN")


def test_a_violated_law_says_which_and_shows_the_smallest_example() -> None:
    def check(case) -> None:
        assert case.network.depth < 2

    law = testing.Law("shallow", "networks have one layer", testing.layers, testing.cases, check)
    with pytest.raises(AssertionError) as caught:
        testing.run(law, profile=testing.FAST, named=())
    notes = "\n".join(caught.value.__notes__)
    assert "Law 'shallow': networks have one layer" in notes
    assert "depth=2" in notes


def test_a_missing_hypothesis_is_named() -> None:
    code = "import sys; sys.modules['hypothesis'] = None; import theory; import theory.testing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert "pip install 'normcompass[test]'" in done.stderr.splitlines()[-1]


@pytest.fixture
def plugged(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "import theory as th\nnorm = th.layer_norm(eps=0.01)\nnumber = 3\n"
    )
    (tmp_path / "test_other.py").write_text("def test_other(): pass\n")

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": str(ROOT),
            "PYTEST_ADDOPTS": "",
        }
        command = [sys.executable, "-m", "pytest", "-p", "montecarlo.pytest_plugin", "-q"]
        return subprocess.run(
            [*command, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    return call


def test_plugin_is_off_unless_used(plugged) -> None:
    done = plugged()
    assert "1 passed" in done.stdout


def test_plugin_runs_the_laws(plugged) -> None:
    done = plugged("--normcompass", "mine:norm")
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout
    assert "failed" not in done.stdout


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("theory:inf", "it is a float"),
        ("theory", "MODULE:NAME"),
        ("nobody_has_this:norm", "No module named"),
        ("theory:nothing", "no attribute"),
    ],
)
def test_plugin_refuses_what_is_no_specification(target: str, message: str) -> None:
    with pytest.raises(pytest.UsageError, match=message):
        pytest_plugin.specification(target)


def test_entry_point_is_outside_of_the_packages() -> None:
    """Else an installed copy would be imported before ``pythonpath`` names the checkout."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    module = project["project"]["entry-points"]["pytest11"]["normcompass"]
    forced = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert forced == {"montecarlo/pytest_plugin.py": f"{module}.py"}
