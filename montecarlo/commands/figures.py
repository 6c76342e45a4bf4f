"""``normcompass figures``: the project's figures, simulated afresh."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from montecarlo.commands.output import progress_bar
from montecarlo.options import QUIET, SEED, WORKERS

__all__ = ["figures"]


def figures(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of the PNG files.")
    ] = Path("normcompass-figures"),
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="Only this figure; repeatable."),
    ] = None,
    seed: SEED = 0,
    workers: WORKERS = None,
    quiet: QUIET = False,
) -> None:
    """Draw the figures: overview, maps, width, residual-variance, residual-gradient, padding.

    Example: normcompass figures --out figures --only residual-variance
    """
    import matplotlib

    matplotlib.use("Agg")
    from montecarlo import gallery
    from montecarlo.report import require_folder
    from theory.errors import out_of_domain

    names = list(dict.fromkeys(only)) if only else list(gallery.FIGURES)
    for name in names:
        if name not in gallery.FIGURES:
            choice = f"one of {', '.join(gallery.FIGURES)}"
            raise out_of_domain("only", name, choice, "check the spelling")
    require_folder(out)
    written = []
    with progress_bar(len(names), quiet=quiet) as advance:
        for name in names:
            path = out / f"{name}.png"
            gallery.write(name, path, seed=seed, workers=workers)
            written.append(path)
            advance(name)
    if not quiet:
        sys.stderr.writelines(f"Figure: {path}\n" for path in written)
