"""The README's Python blocks run, and its numbers are what the project computes."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

import theory as th

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # one block writes a store
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    namespace: dict[str, object] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in blocks:
            exec(compile(block, "README.md", "exec"), namespace)
    rows = re.findall(r"([\d.]+) predicted, ([\d.]+) \+- ([\d.]+) simulated", printed.getvalue())
    assert len(rows) == 3
    # Width 256, depth up to 10: the finite-width bias is of the order depth/width.
    for predicted, simulated, sem in (map(float, row) for row in rows):
        assert abs(predicted - simulated) < 5 * sem + 10 / 256
    assert "0.89547" in printed.getvalue()


@pytest.mark.parametrize(
    ("row", "layer", "batch"),
    [
        ("GroupNorm(32)", th.Layer(norm=th.group_norm(32)), None),
        ("GroupNorm(8)", th.Layer(norm=th.group_norm(8)), None),
        ("GroupNorm(4)", th.Layer(norm=th.group_norm(4)), None),
        ("BatchNorm, B = 64", th.Layer(norm=th.batch_norm()), 64),
        ("BatchNorm, B = 16", th.Layer(norm=th.batch_norm()), 16),
        ("Scaled Weight Standardization", th.zoo["SWS"], None),
    ],
)
def test_table(row: str, layer: th.Layer, batch: int | None) -> None:
    cells = re.search(rf"\| {re.escape(row)} \| ([\d.]+) \| ([\d.]+) \|", README)
    assert cells is not None
    found = th.fixed_point(th.FeedForward(layer, depth=1), batch=batch)
    assert f"{found.similarity:.3f}" == cells[1]
    assert f"{found.gradient_growth:.3f}" == cells[2]
