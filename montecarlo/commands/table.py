"""``normcompass table``: every normalizer at 1, 16 and 64 positions, theory beside simulation."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from montecarlo.commands.output import one_format, progress_bar, save_figure, screen, write_json
from montecarlo.options import CSV, JSON, PLOT, QUIET, SEED, WORKERS
from theory.errors import out_of_domain

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["table"]

_HEADS = {
    "second_moment": "E[x²]",
    "variance": "Var x",
    "similarity": "s",
    "stable_rank": "stable rank",
    "log_gradient_norm": "ln |g¹/gᴸ|",
    "gradient_growth": "λ",
    "fixed_similarity": "s, L=∞",
    "fixed_growth": "λ, L=∞",
}
_THEORY_ONLY = ("fixed_similarity", "fixed_growth")
# Numbers are written out between these.
_SMALL, _LARGE = 1e-3, 1e5
# Decimals, at most.
_DIGITS = 6


def table(
    depth: Annotated[int, typer.Option("--depth", metavar="L", help="Number of layers.")] = 24,
    batch: Annotated[int, typer.Option("--batch", metavar="B", help="Number of samples.")] = 4,
    simulate: Annotated[
        bool, typer.Option("--simulate/--no-simulate", help="Random networks beside theory.")
    ] = True,
    width: Annotated[
        int,
        typer.Option(
            "--width", metavar="N", help="Channels of a layer; 4 times as many at one position."
        ),
    ] = 512,
    replicates: Annotated[
        int, typer.Option("--replicates", metavar="R", help="Number of random networks.")
    ] = 8,
    seed: SEED = 0,
    workers: WORKERS = None,
    plot: PLOT = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Also write a .csv or .parquet file."),
    ] = None,
    coverage: Annotated[
        bool,
        typer.Option("--coverage", help="Which route takes which expectation; no numbers."),
    ] = False,
    as_json: JSON = False,
    as_csv: CSV = False,
    quiet: QUIET = False,
) -> None:
    """Tabulate every normalizer at 1, 16 and 64 positions, theory beside simulation.

    Convolutions have 3 taps on a ring of 16 positions and 3x3 on a torus of 8x8; inputs have
    correlation 0.5 between samples and between positions.  --plot draws LayerNorm, GroupNorm and
    InstanceNorm as one curve over the group size.  --coverage asks every route of the theory instead.

    Example: normcompass table --no-simulate --plot groups.png
    """
    from montecarlo import group_curve, tables
    from montecarlo.commands.export import write_table

    one_format(as_json, as_csv)
    if coverage:
        from montecarlo.commands.coverage import show_coverage

        show_coverage(as_json=as_json, as_csv=as_csv)
        return
    _require_files(plot, out)
    ensemble = None
    if simulate:
        ensemble = tables.Ensemble(width=width, replicates=replicates, seed=seed)
    cells = len(tables.NORMALIZERS) * len(tables.POSITIONS)
    lines = len(group_curve.LINE) * len(tables.POSITIONS)
    steps = cells * (2 if simulate else 1) + (lines if plot is not None else 0)
    with progress_bar(steps, quiet=quiet) as advance:
        compute = partial(
            tables.zoo_table,
            positions=tables.POSITIONS,
            depth=depth,
            batch=batch,
            workers=workers,
            advance=advance,
        )
        found = compute(normalizers=tables.NORMALIZERS, ensemble=ensemble)
        if plot is not None:
            line = compute(normalizers=group_curve.LINE)
    if out is not None:
        write_table(found, out)
    if plot is not None:
        points = found if simulate else None
        save_figure(plot, lambda: group_curve.draw(line, points, depth=depth), quiet=quiet)
    if as_json:
        write_json(
            {
                "schema": 1,
                "kind": "table",
                "depth": depth,
                "batch": batch,
                "width": width if simulate else None,
                "replicates": replicates if simulate else None,
                "seed": seed if simulate else None,
                "observables": tables.OBSERVABLES,
                "rows": found.to_dict(orient="records"),
            }
        )
    elif as_csv:
        sys.stdout.write(found.to_csv(index=False))
    else:
        _print(found, depth=depth, batch=batch, window=tables.window(depth))


def _require_files(plot: Path | None, out: Path | None) -> None:
    """Raise before minutes are spent on what cannot be written."""
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise out_of_domain("out", str(out), "a .csv or .parquet file", "name it table.csv, say")
    for argument, path in (("plot", plot), ("out", out)):
        if path is not None and not path.absolute().parent.is_dir():
            raise out_of_domain(argument, str(path), "in an existing folder", "make the folder")


def _print(found: pd.DataFrame, *, depth: int, batch: int, window: tuple[int, int]) -> None:
    tables = screen()
    for count, rows in found.groupby("positions", sort=False):
        tables.print(_positions_table(count, rows))
    low, high = window
    tables.print(
        f"Batch {batch}, {depth} layers. s: cosine similarity of two samples; λ: factor per layer "
        f"on |g|², backwards, from layer {high} to {low}; L=∞: theory at infinite depth.",
        style="dim",
        highlight=False,
    )
    if found["networks"].any():
        tables.print(
            "Second lines: random networks, 0.3254(12) is 0.3254 ± 0.0012 (s.e.), of one finite width: "
            "expect a bias, of order 1/width. Gradients: means of logarithms.",
            style="dim",
            highlight=False,
        )
    if (found["regime"] == "heavy_tail").any():
        tables.print(
            "†: the squared gradient has no variance, and finite widths approach theory slowly.",
            style="dim",
            highlight=False,
        )
    tables.print(_notes(found))


def _positions_table(count: Any, rows: pd.DataFrame) -> Table:
    """One block: a line of theory per normalizer, and below it one of its networks."""
    where = {1: "fully connected", 16: "ring, 3 taps", 64: "torus, 3x3 taps"}
    title = f"S = {count} position{'s' if count > 1 else ''}: {where[count]}"
    simulated = rows[rows["networks"] > 0]
    if len(simulated):
        first = simulated.iloc[0]
        title += f"; second lines: {first['networks']} networks of width {first['width']}"
    block = Table(
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    block.add_column("", no_wrap=True)
    for head in _HEADS.values():
        block.add_column(Text(head), justify="right", no_wrap=True)
    for name, group in rows.groupby("normalizer", sort=False):
        cells: dict[str, Any] = {row["observable"]: row for row in group.to_dict(orient="records")}
        heavy = cells["log_gradient_norm"]["regime"] == "heavy_tail"
        block.add_row(Text(f"{name}{'†' if heavy else ''}"), *_line(cells, _theory_cell))
        shown = [cell for key, cell in cells.items() if key not in _THEORY_ONLY]
        same = all(cell["simulation_reason"] == cell["theory_reason"] != "" for cell in shown)
        asked = any(not cell["simulation_reason"].startswith("not asked") for cell in shown)
        if asked and not same:
            block.add_row("", *_line(cells, _simulation_cell), style="cyan")
    return block


def _line(
    cells: Mapping[str, Mapping[str, Any]], show: Callable[[str, Mapping[str, Any]], Text]
) -> Iterator[Text]:
    return (show(name, cells[name]) for name in _HEADS)


def _theory_cell(name: str, cell: Mapping[str, Any]) -> Text:
    if cell["theory_reason"]:
        return _word(cell["theory_reason"])
    value = float(cell["theory"])
    if abs(value) < 1e-12:
        return Text("0")
    if name == "stable_rank" or _SMALL <= abs(value) < _LARGE:
        return Text(f"{value:.5f}" if abs(value) < 10.0 else f"{value:.5g}")
    return Text(f"{value:.4g}")


def _simulation_cell(name: str, cell: Mapping[str, Any]) -> Text:
    if name in _THEORY_ONLY:
        return Text("")
    if cell["simulation_reason"]:
        return _word(cell["simulation_reason"])
    return Text(plus_minus(float(cell["mean"]), float(cell["sem"])))


def _word(reason: str) -> Text:
    return Text(reason.partition(":")[0], style="dim")


def plus_minus(mean: float, sem: float) -> str:
    """0.3254(12) for 0.3254 ± 0.0012; the mean alone where there is no standard error."""
    if not (math.isfinite(sem) and sem > 0.0):
        return f"{mean:.4g}"
    largest = max(abs(mean), sem)
    power = 0 if _SMALL <= largest < _LARGE else math.floor(math.log10(largest))
    mean, sem = mean / 10.0**power, sem / 10.0**power
    digits = max(1 - math.floor(math.log10(float(f"{sem:.1e}"))), 0)
    if digits > _DIGITS:
        return f"{mean:.{_DIGITS - 1}f}(0)" + (f"e{power:+03d}" if power else "")
    suffix = f"e{power:+03d}" if power else ""
    error = f"{sem:.{digits}f}" if sem >= 1.0 else f"{sem * 10.0**digits:.0f}"
    return f"{mean:.{digits}f}({error}){suffix}"


def _notes(found: pd.DataFrame) -> Table:
    """Every word that stands for a number, with where and why."""
    places: dict[tuple[str, str], dict[str, list[int]]] = {}
    for row in found.to_dict(orient="records"):
        seen = {"", "not asked", "finite depth"}
        for column in ("theory_reason", "simulation_reason"):
            word, _, sentence = row[column].partition(": ")
            if word in seen:
                continue
            seen.add(word)
            # What follows a second colon are the refusals of single routes: --json has them.
            why = sentence.split(": ")[0] if word == "no route" else sentence
            counts = places.setdefault((word, why), {}).setdefault(row["normalizer"], [])
            if row["positions"] not in counts:
                counts.append(row["positions"])
    notes = Table.grid(padding=(0, 2))
    notes.add_column(no_wrap=True)
    notes.add_column()
    for (word, why), names in places.items():
        where = "; ".join(
            f"{name}, S = {', '.join(map(str, counts))}" for name, counts in names.items()
        )
        notes.add_row(Text(word), Text(f"{where}: {why}"), style="dim")
    return notes
