"""What is published is what is tested: contents of the wheel, lower bounds, supported Pythons."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_oldest_versions_that_ci_tests_are_the_lower_bounds() -> None:
    pins = (ROOT / ".ci" / "oldest.txt").read_text(encoding="utf-8")
    tested = dict(re.findall(r"^([\w-]+)==([\w.]+)$", pins, flags=re.MULTILINE))
    extras = PROJECT["optional-dependencies"]
    needed = [*PROJECT["dependencies"], *extras["data"], *extras["cluster"]]
    assert len(needed) == 13
    for requirement in needed:
        name, bound = re.fullmatch(r"([\w-]+)>=([\w.]+)", requirement).groups()  # type: ignore[union-attr]
        assert Version(tested[name]) == Version(bound), name


@pytest.mark.slow
def test_the_wheel_is_pure_and_holds_the_packages_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path)]
    subprocess.run([*command, str(ROOT)], check=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"normcompass-{PROJECT['version']}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in ("theory", "montecarlo")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"theory/py.typed", "montecarlo/py.typed", "montecarlo/cli.py"} <= sources
    info = f"normcompass-{PROJECT['version']}.dist-info"
    about = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    # The plugin is outside of the packages, under a name of its own.
    sources = sources - {"montecarlo/pytest_plugin.py"} | {"normcompass_pytest.py"}
    assert names == sources | {f"{info}/{name}" for name in about}
