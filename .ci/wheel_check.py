"""A wheel is pure Python, holds both packages and nothing else: ``wheel_check.py WHEEL``."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path


def complaints(wheel: Path) -> list[str]:
    """What is wrong with the contents of a wheel of this checkout."""
    root = Path(__file__).parents[1]
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    found = [] if wheel.name.endswith("-py3-none-any.whl") else [f"{wheel.name} is not pure Python"]
    expected = {
        path.relative_to(root).as_posix()
        for package in ("theory", "montecarlo")
        for path in (root / package).rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and path.suffix not in (".pyc", ".nbi", ".nbc")
    }
    # Moved by the build, see pyproject.toml.
    expected = expected - {"montecarlo/pytest_plugin.py"} | {"normcompass_pytest.py"}
    packed = {name for name in names if ".dist-info/" not in name}
    found += [f"{name} is missing" for name in sorted(expected - packed)]
    found += [f"{name} does not belong there" for name in sorted(packed - expected)]
    for needed in ("theory/py.typed", "montecarlo/py.typed"):
        if needed not in names:
            found.append(f"{needed} is missing")
    for part in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"):
        if not any(name.endswith(f".dist-info/{part}") for name in names):
            found.append(f"{part} is missing")
    return found


if __name__ == "__main__":
    (name,) = sys.argv[1:]
    wrong = complaints(Path(name))
    with zipfile.ZipFile(name) as opened:
        files = opened.infolist()
    sizes = f"{len(files)} files, {sum(f.file_size for f in files) / 1024:.0f} KiB unpacked"
    sys.stdout.write(
        "\n".join(wrong) + "\n" if wrong else f"{Path(name).name}: {sizes}, as expected\n"
    )
    sys.exit(bool(wrong))
