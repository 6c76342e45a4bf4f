"""What users install: lower bounds that CI tests, a wheel without a compiler or a platform."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_lower_bounds_are_those_that_ci_tests() -> None:
    """Every bound of the dependencies, and of the extras that users install, is in .ci/oldest.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["data"], *extras["cluster"]]
    bounds = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", line).groups() for line in wanted)  # type: ignore[union-attr]
    tested = dict(
        line.split("==")
        for line in (ROOT / ".ci/oldest.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    )
    for name, bound in bounds.items():
        assert re.fullmatch(re.escape(bound) + r"(\.0)*", tested[name]), name


@pytest.mark.slow
def test_the_wheel_holds_both_packages_and_nothing_else(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    check = [sys.executable, str(ROOT / ".ci/wheel_check.py"), str(wheel)]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
