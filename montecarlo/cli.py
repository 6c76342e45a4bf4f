"""The command line: ``normcompass verify | calibrate | predict | simulate | table | figures | runs``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from montecarlo.commands import runs
from montecarlo.commands.calibrate import calibrate
from montecarlo.commands.claims import claims
from montecarlo.commands.figures import figures
from montecarlo.commands.guard import guarded
from montecarlo.commands.predict import predict
from montecarlo.commands.simulate import simulate
from montecarlo.commands.table import table
from montecarlo.commands.verify import verify
from theory.provenance import version_of

__all__ = ["app", "main"]

app = typer.Typer(
    name="normcompass",
    help="Predict, simulate and verify how normalization layers propagate signals and gradients.",
    epilog="Example: normcompass verify --quick --inputs digits",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for command in (verify, claims, calibrate, predict, simulate, table, figures):
    app.command()(guarded(command))
app.add_typer(runs.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"normcompass {version_of('normcompass')}\n")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: one sentence for what a user can mend, never a traceback."""
    app(args=None if arguments is None else list(arguments))
