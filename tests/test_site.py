"""The documentation names everything public, and its examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import montecarlo
import theory
from montecarlo.cli import app
from theory import symbolic, testing

PAGES = Path(__file__).parents[1] / "docs" / "pages"
REFERENCE = "\n".join(
    path.read_text("utf-8") for path in sorted((PAGES / "reference").glob("*.md"))
)


def code_blocks(page):
    text = (PAGES / "how-to" / f"{page}.md").read_text("utf-8")
    return re.findall(r"```python\n(.*?)```", text, flags=re.S)


@pytest.mark.parametrize(
    "package", [theory, montecarlo, symbolic, testing], ids=lambda p: p.__name__
)
def test_reference_has_every_public_name(package):
    # `::: package.name` is what mkdocstrings renders; values are listed as `package.name`.
    named = set(re.findall(r"^::: [\w.]+?\.(\w+)$", REFERENCE, flags=re.M))
    named |= set(re.findall(rf"`{package.__name__}\.(\w+)`", REFERENCE))
    assert set(package.__all__) <= named


def test_no_name_is_stale():
    for path in re.findall(r"^::: ([\w.]+)$", REFERENCE, flags=re.M):
        package, _, rest = path.partition(".")
        value = {"theory": theory, "montecarlo": montecarlo}[package]
        if rest.startswith(("plotting", "fixed_points.", "testing.")):
            module, _, name = path.rpartition(".")
            value = getattr(__import__(module, fromlist=[name]), name)
        else:
            for name in rest.split("."):
                value = getattr(value, name)
        assert value is not None


def test_every_command_is_described():
    page = (PAGES / "how-to" / "command_line.md").read_text("utf-8")
    commands = [info.name or info.callback.__name__ for info in app.registered_commands]
    groups = [info.name or info.typer_instance.info.name for info in app.registered_groups]
    for name in (*commands, *groups):
        assert f"`normcompass {name}`" in page


@pytest.mark.parametrize("page", ["predict", "normalizer", "symbolic"])
def test_examples_run(page):
    names = {
        "th": theory,
        "inputs": theory.exchangeable(batch=8, correlation=0.2),
        "print": lambda *_: None,
    }
    for block in code_blocks(page):
        exec(compile(block, page, "exec"), names)


@pytest.mark.parametrize("page", ["simulate", "figures"])
def test_longer_examples_are_python(page):
    for block in code_blocks(page):
        compile(block, page, "exec")


def test_every_page_is_linked():
    menu = (PAGES.parent / "mkdocs.yml").read_text("utf-8")
    pages = [path.relative_to(PAGES) for path in PAGES.rglob("*.md")]
    root = Path(__file__).parents[1]
    pages += [path.relative_to(root) for path in (root / "notebooks").glob("*.ipynb")]
    pages += [path.relative_to(root / "docs") for path in (root / "docs" / "how-to").glob("*.md")]
    for page in pages:
        assert str(page) in menu
