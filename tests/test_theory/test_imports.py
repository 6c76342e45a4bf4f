"""What imports what: a light theory, two wings that share specifications and nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import montecarlo
import theory

HEAVY = ("sympy", "matplotlib", "pandas", "numba", "dask", "torch", "hypothesis", "scipy.optimize")
# What the simulation may know of the theory package: specifications, the program, errors, versions,
# and how curves are drawn.
SHARED = (
    "theory.specs", "theory.program", "theory.errors", "theory.provenance", "theory.zoo",
    "theory.plotting", "theory.forecast",
)  # fmt: skip
# The modules that compare with predictions, or draw them.
BRIDGES = {
    "agreement", "case", "cases", "claim", "claim_cases", "claim_figures", "claim_pictures",
    "claims", "claims_gradients", "claims_ours", "claims_shared", "claims_similarity",
    "claims_variance", "comparison", "console", "coverage", "departure", "figures", "gallery",
    "gallery_maps", "networks", "padding_figure", "predict", "predictions", "pytest_plugin",
    "report", "report_claims", "report_files", "residual_cases", "residual_figures", "simulate",
    "table", "tables", "testing", "verdicts", "verify", "wrong_laws",
}  # fmt: skip
# Third party first, then our own: the state and route protocols import no montecarlo.
ROOTS = {"theory": Path(theory.__file__).parent, "montecarlo": Path(montecarlo.__file__).parent}


def imported(path: Path) -> set[str]:
    """Modules that a file imports, at any level."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_import_theory_is_light() -> None:
    code = f"import sys, theory; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_predicting_stays_light() -> None:
    code = (
        "import sys, theory as th;"
        "net = th.FeedForward(th.Layer(norm=th.group_norm(8), activation=th.tanh), depth=2);"
        "th.predict(net, th.exchangeable(batch=4, correlation=0.5));"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", sorted(ROOTS["theory"].rglob("*.py")), ids=lambda p: p.name)
def test_theory_never_imports_the_simulation(path: Path) -> None:
    assert not {name for name in imported(path) if name.split(".")[0] == "montecarlo"}


@pytest.mark.parametrize("path", sorted(ROOTS["montecarlo"].rglob("*.py")), ids=lambda p: p.name)
def test_simulation_knows_no_formulas(path: Path) -> None:
    if path.stem in BRIDGES:
        return
    ours = {name for name in imported(path) if name.split(".")[0] == "theory"}
    assert {name for name in ours if not name.startswith(SHARED)} == set()


def test_hypothesis_is_imported_in_one_place() -> None:
    for root in ROOTS.values():
        for path in root.rglob("*.py"):
            if path.parent != ROOTS["theory"] / "testing":
                assert not any(name.startswith("hypothesis") for name in imported(path)), path.name


def test_specifications_import_no_algorithms() -> None:
    for path in (ROOTS["theory"] / "specs").glob("*.py"):
        ours = {name for name in imported(path) if name.startswith("theory")}
        assert all(name.startswith(("theory.specs", "theory.errors")) for name in ours), path.name


def test_modules_stay_short() -> None:
    for root in ROOTS.values():
        for path in root.rglob("*.py"):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            assert lines <= 420, f"{path.name} has {lines} lines"


def test_every_public_name_is_there_and_documented() -> None:
    for package in (theory, montecarlo):
        for name in package.__all__:
            value = getattr(package, name)
            if callable(value):
                assert value.__doc__, name


def test_import_is_fast() -> None:
    """Best of three interpreters: at most 0.5 s of processor time, whatever else the machine does."""
    code = "import time; t = time.process_time(); import theory; print(time.process_time() - t)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(3)
    ]
    assert min(seconds) <= 0.5
