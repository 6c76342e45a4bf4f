"""Pytest plugin: ``pytest --normcompass my_module:my_norm`` runs every law on a specification of yours.

The wheel installs this file as the module ``normcompass_pytest``, outside of both packages: pytest imports
its plugins before it looks at ``pythonpath``, and must not fix which ``theory`` the tests see.  So nothing
of ours is imported before the option is used.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["LawItem", "pytest_addoption", "pytest_collection_modifyitems", "pytest_configure"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--normcompass`` and ``--normcompass-profile``."""
    group = parser.getgroup("normcompass", "laws of normalization layers")
    group.addoption(
        "--normcompass",
        action="append",
        default=[],
        metavar="MODULE:NAME",
        help="run the laws of normcompass on this normalizer, layer or network (may be repeated); "
        "without test files on the command line nothing else is run",
    )
    group.addoption(
        "--normcompass-profile",
        choices=("fast", "thorough"),
        default="fast",
        help="how many examples each law tries (default: fast)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Collect no tests of the project unless they were asked for by name."""
    if not config.getoption("--normcompass"):
        return
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = []


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Append one item for each law and specification."""
    for target in config.getoption("--normcompass"):
        items.extend(_items(session, config, target))


class LawItem(pytest.Item):
    """One law on one specification."""

    def __init__(self, *, law: Any, spec: Any, profile: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._law, self._spec, self._profile = law, spec, profile

    def runtest(self) -> None:
        """Check the law; skip where it is silent."""
        from theory.testing import run_on

        tally = run_on(self._law, self._spec, profile=self._profile)
        self.add_report_section("call", "tally", str(tally))
        if tally.effective == 0:
            pytest.skip(f"{self._law.name} says nothing about it, or no route takes it")

    def repr_failure(self, excinfo: Any, style: Any = None) -> str:
        """The violated law and the smallest example; no traceback through Hypothesis."""
        if not isinstance(excinfo.value, AssertionError):
            return str(super().repr_failure(excinfo, style))
        notes = "\n".join(getattr(excinfo.value, "__notes__", []))
        return f"{excinfo.value}\n{notes}"

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Name in reports."""
        return self.path, None, self.name


def _items(session: pytest.Session, config: pytest.Config, target: str) -> Iterator[LawItem]:
    try:
        import montecarlo.testing
        from theory import testing
    except ImportError as missing:
        raise pytest.UsageError(f"--normcompass: {missing}") from None
    profile = {"fast": testing.FAST, "thorough": testing.THOROUGH}
    spec = specification(target)
    for law in (*testing.LAWS.values(), *montecarlo.testing.LAWS.values()):
        yield LawItem.from_parent(
            session,
            name=f"{target}[{law.name}]",
            law=law,
            spec=spec,
            profile=profile[config.getoption("--normcompass-profile")],
        )


def specification(target: str) -> Any:
    """The specification ``NAME`` of ``MODULE``, which may lie in the working directory."""
    from theory import FeedForward, Layer, Normalizer, Residual

    module, _, name = target.partition(":")
    if not module or not name:
        raise pytest.UsageError(f"--normcompass {target}: write MODULE:NAME, my_module:my_norm say")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        spec = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise pytest.UsageError(f"--normcompass {target}: {error}") from None
    if not isinstance(spec, Normalizer | Layer | FeedForward | Residual):
        raise pytest.UsageError(
            f"--normcompass {target}: it is a {type(spec).__name__}, not a normalizer, layer or network"
        )
    return spec
