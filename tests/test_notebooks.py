"""Notebooks: a question first, an answer last, no function of their own, outputs that are not stale."""

from __future__ import annotations

import ast
import re
import time
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")

FOLDER = Path(__file__).parents[1] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
SECONDS = 60.0

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def notebook(path):
    return nbformat.read(path, as_version=4)


def code(path):
    return [cell for cell in notebook(path).cells if cell.cell_type == "code"]


def texts(cells):
    """Everything that cells show as text or LaTeX, without addresses and without figures."""
    shown = []
    for cell in cells:
        for output in cell.outputs:
            if output.output_type == "stream":
                shown.append(output.text)
            elif "image/png" not in output.data:
                data = output.data
                shown.append(
                    data.get("text/latex") or data.get("text/markdown") or data["text/plain"]
                )
    # Streams of one cell arrive in one piece or in several.
    return re.sub(r"\s+", " ", re.sub(r"0x[0-9a-f]+", "", "\n".join(shown)))


def same(stored, fresh):
    """Equal words; numbers equal to two units of the last digit shown, or 1e-9."""
    if _NUMBER.sub("#", stored) != _NUMBER.sub("#", fresh):
        return False
    for a, b in zip(_NUMBER.findall(stored), _NUMBER.findall(fresh), strict=True):
        mantissa, _, exponent = a.partition("e")
        unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
        if abs(float(a) - float(b)) > max(2.0 * unit * (1.0 + 1e-9), 1e-9):
            return False
    return True


def test_all_are_there():
    assert [path.stem[:2] for path in PATHS] == [f"{number:02}" for number in range(1, 9)]
    assert sum(path.stat().st_size for path in PATHS) < 3_000_000


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_shape(path):
    cells = notebook(path).cells
    assert "**Question.**" in cells[0].source
    assert "**Answer.**" in cells[-1].source
    assert len(cells[-1].source.partition("**Answer.**")[2]) > 100
    for number, cell in enumerate(code(path), start=1):
        tree = ast.parse(cell.source)
        defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
        assert not [node for node in ast.walk(tree) if isinstance(node, defined)]
        assert cell.execution_count == number, "run from top to bottom and saved"
        assert not [
            o for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"
        ]


def test_comparison_of_outputs():
    assert same("s = 0.5012 ± 0.003", "s = 0.5013 ± 0.003")
    assert not same("s = 0.5012 ± 0.003", "s = 0.5032 ± 0.003")
    assert not same("s = 0.5", "t = 0.5")
    assert same("error 7.76e-16", "error 2.10e-15")


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_runs_afresh_and_shows_the_same(path, monkeypatch):
    # Notebooks choose their own, which shows figures.
    monkeypatch.delenv("MPLBACKEND", raising=False)
    nbclient = pytest.importorskip("nbclient")
    fresh = notebook(path)
    started = time.perf_counter()
    nbclient.NotebookClient(
        fresh, timeout=SECONDS, resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    assert time.perf_counter() - started < SECONDS
    run = [cell for cell in fresh.cells if cell.cell_type == "code"]
    for stored, again in zip(code(path), run, strict=True):
        assert same(texts([stored]), texts([again])), f"stale: {stored.source}"
