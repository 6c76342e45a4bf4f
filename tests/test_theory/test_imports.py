"""Two wings: what may import what, and how long ``import theory`` takes."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = (
    "dask",
    "distributed",
    "hypothesis",
    "joblib",
    "matplotlib",
    "numba",
    "pandas",
    "scipy.stats",
    "sklearn",
    "sympy",
    "torch",
    "typer",
)
# What simulation shares with theory: specifications, the program and the errors.
SHARED = ("theory.specs", "theory.program", "theory.errors")
# The modules of the empirical wing that look at predictions.
MEETING_POINTS = {"claims", "cli", "comparison", "report", "verify"}


def python(code):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout


def imported(path):
    """Absolute names that the file imports, wherever in it."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def within(name, packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def modules(package):
    return sorted((ROOT / package).rglob("*.py"))


def identifier(path):
    return path.relative_to(ROOT).as_posix()


def test_the_rules_see_every_form_of_import(tmp_path):
    source = tmp_path / "theory" / "specs" / "m.py"
    source.parent.mkdir(parents=True)
    source.write_text(
        "import a.b\nfrom c import d\ndef f():\n    from ..e import g\n    from . import h"
    )
    global_root = globals()["ROOT"]
    try:
        globals()["ROOT"] = tmp_path
        assert set(imported(source)) == {"a.b", "c.d", "theory.e.g", "theory.specs.h"}
    finally:
        globals()["ROOT"] = global_root


@pytest.mark.parametrize("path", modules("theory"), ids=identifier)
def test_theory_never_imports_the_simulation(path):
    assert [name for name in imported(path) if within(name, ["montecarlo"])] == []


@pytest.mark.parametrize("path", modules("theory/specs"), ids=identifier)
def test_specifications_import_no_algorithms(path):
    names = [name for name in imported(path) if within(name, ["theory"])]
    assert [name for name in names if not within(name, ("theory.specs", "theory.errors"))] == []


@pytest.mark.parametrize("path", modules("montecarlo"), ids=identifier)
def test_simulation_never_imports_predictions(path):
    names = [name for name in imported(path) if within(name, ["theory"])]
    if path.stem in MEETING_POINTS:
        return
    assert [name for name in names if not within(name, SHARED)] == []


def test_oracles_do_not_import_what_they_check():
    for path in (ROOT / "tests").glob("oracles*.py"):
        names = [name for name in imported(path) if within(name, ["theory", "montecarlo"])]
        assert names == []


def test_import_theory_is_light():
    code = f"import sys, theory; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert python(code).strip() == "[]"


def test_import_theory_is_fast():
    code = "import time; t = time.perf_counter(); import theory; print(time.perf_counter() - t)"
    assert min(float(python(code)) for _ in range(3)) <= 0.5


def test_plotting_and_the_zoo_load_no_figures():
    code = "import sys, theory.plotting, theory.zoo; print('matplotlib' in sys.modules)"
    assert python(code).strip() == "False"
