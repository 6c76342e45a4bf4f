"""What the commands write: tables, JSON and CSV on standard output, figures, a progress bar."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from theory.errors import SpecificationError

if TYPE_CHECKING:
    from montecarlo.results import Estimate, Simulation

__all__ = [
    "SHOWN",
    "estimate_cells",
    "estimate_values",
    "estimates",
    "hushed",
    "one_format",
    "print_layers",
    "progress_bar",
    "save_figure",
    "screen",
    "write_json",
]

SHOWN = (
    "second_moment",
    "variance",
    "similarity",
    "stable_rank",
    "gradient_norm",
    "branch_gradient_norm",
)


@contextmanager
def hushed(quiet: bool) -> Iterator[None]:
    """Keep what the packages log, costs above all, to themselves if ``quiet``."""
    logger = logging.getLogger("normcompass")
    before = logger.disabled
    logger.disabled = before or quiet
    try:
        yield
    finally:
        logger.disabled = before


def one_format(as_json: bool, as_csv: bool) -> None:
    """Raise if both would write to standard output."""
    if as_json and as_csv:
        raise SpecificationError("--json and --csv cannot both have standard output; choose one.")


def write_json(document: dict[str, Any]) -> None:
    """Strict JSON on standard output; NaN and infinity are null."""
    from montecarlo.report_files import finite

    sys.stdout.write(json.dumps(finite(document), indent=1, allow_nan=False) + "\n")


def screen() -> Console:
    """Standard output for tables, which keep their columns in a pipe and in a narrow terminal."""
    width = Console().width if sys.stdout.isatty() else 0
    return Console(width=max(width, 120))


def print_layers(title: str, columns: Mapping[str, Sequence[str]]) -> None:
    """A table with one row per layer."""
    table = Table(title=escape(title), title_justify="left")
    table.add_column("layer", justify="right")
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    for layer, cells in enumerate(zip(*columns.values(), strict=True), start=1):
        table.add_row(str(layer), *cells)
    screen().print(table)


def estimates(simulation: Simulation) -> dict[str, Estimate]:
    """The observables that tables show, gradients only if they were simulated."""
    found = simulation.estimates()
    return {name: found[name] for name in SHOWN if name in found}


def estimate_cells(found: Mapping[str, Estimate]) -> dict[str, list[str]]:
    """Name -> "mean ± s.e." of every layer."""
    return {
        name: [
            f"{mean:.5g} ± {sem:.1g}" for mean, sem in zip(estimate.mean, estimate.sem, strict=True)
        ]
        for name, estimate in found.items()
    }


def estimate_values(found: Mapping[str, Estimate]) -> dict[str, list[float]]:
    """``name`` and ``name_sem`` -> one number per layer."""
    means = {name: estimate.mean.tolist() for name, estimate in found.items()}
    return means | {f"{name}_sem": estimate.sem.tolist() for name, estimate in found.items()}


def save_figure(path: Path, draw: Callable[[], Any], *, quiet: bool = False) -> None:
    """Draw and save, without a display; a note on standard error says where.

    Raises
    ------
    SpecificationError
        The file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    figure = draw()
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise SpecificationError(
            f"plot = {str(path)!r} cannot be written ({error}); use a file ending in .png, .pdf or "
            ".svg in an existing folder."
        ) from None
    if not quiet:
        sys.stderr.write(f"Figure: {path}\n")


@contextmanager
def progress_bar(total: int, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """A bar on standard error, moved by calling with what is done; none if it is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    # Some versions of rich end even a bar that is not shown with a line.
    if quiet or not console.is_terminal:
        yield lambda case: None
        return
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("compiling", total=total)

        def advance(case: str) -> None:
            bar.update(task, advance=1, description=case)

        yield advance
