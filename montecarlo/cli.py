"""The command line: ``normcompass verify | predict | simulate``."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer
from rich.console import Console
from rich.table import Table

from montecarlo.networks import build_inputs, build_network
from montecarlo.options import (
    ACTIVATION,
    BATCH,
    CORRELATION,
    CSV,
    DEPTH,
    EPS,
    GROUP,
    JSON,
    NORM,
    PLOT,
    SEED,
    SOURCE,
    VARIANCE,
    WEIGHTS,
    WORKERS,
    DType,
    InputChoice,
)
from theory.errors import NormcompassError, SpecificationError
from theory.specs._check import integer
from theory.specs.inputs import Inputs
from theory.specs.networks import FeedForward

__all__ = ["app", "main"]

USAGE, INTERRUPTED, INCONCLUSIVE = 2, 130, 3

SHOWN = ("second_moment", "variance", "similarity", "stable_rank", "gradient_norm")

app = typer.Typer(
    name="normcompass",
    help="Predict, simulate and verify how normalization layers propagate signals and gradients.",
    epilog="Example: normcompass verify --quick --inputs digits",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


Arguments = ParamSpec("Arguments")


def _guarded(command: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Turn what a user can mend, Ctrl-C and closed pipes into a sentence and an exit status."""

    @wraps(command)
    def guarded(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except KeyboardInterrupt:
            sys.stderr.write("Interrupted: no result was written.\n")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader (head, less) has closed the pipe: it has what it wanted.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except NormcompassError as error:
            notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
            sys.stderr.write(f"Error: {error}{notes}\n")
            status = USAGE if isinstance(error, SpecificationError) else INCONCLUSIVE
            raise typer.Exit(status) from None

    return guarded


@app.command()
@_guarded
def verify(
    quick: Annotated[
        bool, typer.Option("--quick", help="Up to a minute on two cores instead of up to ten.")
    ] = False,
    inputs: Annotated[InputChoice, typer.Option("--inputs", help="Batches.")] = InputChoice.all,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the report.")] = Path(
        "normcompass-report"
    ),
    controls: Annotated[
        bool,
        typer.Option(
            "--controls", help="Also judge wrong theories, all of which must be rejected."
        ),
    ] = False,
    seed: SEED = 0,
    workers: WORKERS = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="Only this case; repeatable.")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option("--skip", metavar="NAME", help="Not this case; repeatable.")
    ] = None,
) -> None:
    """Check theory against simulation for every normalizer, with a known error rate.

    Simulates random networks at several widths, extrapolates to infinite width, and compares with
    the predictions. The report folder holds index.html, verify.json and verify.csv.

    Exit status: 0 all agree (and, with --controls, all wrong theories are rejected); 1 something is
    rejected; 2 bad usage; 3 nothing is rejected but something is inconclusive.
    """
    from montecarlo import console, report
    from montecarlo import verify as verification
    from montecarlo.claims import FULL, QUICK

    started = time.perf_counter()
    chosen = verification.select(inputs.value, only=only or (), skip=skip or ())
    if workers is not None:
        integer("workers", workers, low=1, remedy="leave it out to use all cores")
    report.require_folder(out)
    screen = _screen()
    console.print_margins(screen)
    budget = QUICK if quick else FULL
    total = verification.block_count(chosen, budget=budget, controls=controls)
    with _progress(total) as advance:
        run = verification.run(
            chosen,
            budget=budget,
            inputs=inputs.value,
            controls=controls,
            seed=seed,
            workers=workers,
            advance=advance,
        )
    console.print_run(screen, run)
    simulated = time.perf_counter()
    timings = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(simulated - started, 2),
    }
    path = report.write(run, out, timings=timings)
    console.print_summary(screen, run, path=path, seconds=time.perf_counter() - started)
    raise typer.Exit(run.exit_status)


@app.command()
@_guarded
def predict(
    norm: NORM = None,
    group_size: GROUP = None,
    eps: EPS = 0.0,
    activation: ACTIVATION = None,
    weights: WEIGHTS = None,
    weight_variance: VARIANCE = None,
    depth: DEPTH = 20,
    batch: BATCH = 16,
    correlation: CORRELATION = 0.5,
    inputs: SOURCE = "synthetic",
    plot: PLOT = None,
    as_json: JSON = False,
    as_csv: CSV = False,
) -> None:
    """Predict one infinitely wide network, layer by layer.

    Example: normcompass predict --norm "GN(8)" --depth 50 --plot gn.png
    """
    from theory.recursion import predict as compute
    from theory.results import OBSERVABLES

    _one_format(as_json, as_csv)
    network, batch_of = _specification(
        norm,
        group_size,
        eps,
        activation,
        weights,
        weight_variance,
        depth,
        batch,
        correlation,
        inputs,
    )
    prediction = compute(network, batch_of)
    columns = {
        name: getattr(prediction, name)
        for name in OBSERVABLES
        if getattr(prediction, name) is not None
    }
    logarithms = {
        name: getattr(prediction, name) for name in ("log_second_moment", "log_gradient_norm")
    }
    if plot is not None:
        from theory.plotting import plot_predictions

        _save(plot, lambda: plot_predictions({prediction.label: prediction}))
    if as_json:
        _write_json(
            {
                "schema": 1,
                "kind": "prediction",
                "network": _as_dict(network),
                "inputs": _as_dict(batch_of),
                "regime": {"status": prediction.regime.status, "reason": prediction.regime.reason},
                "values": {name: list(map(float, v)) for name, v in (columns | logarithms).items()},
                "error": {name: list(map(float, prediction.error[name])) for name in columns},
                "route": {name: list(prediction.route[name]) for name in columns},
            }
        )
    elif as_csv:
        sys.stdout.write(prediction.to_frame().to_csv(index=False))
    else:
        cells = {name: [f"{v:.6g}" for v in columns[name]] for name in SHOWN if name in columns}
        _print_columns(f"{prediction.label}, predicted", cells)
        _screen().print(prediction.regime.reason, style="dim", highlight=False, markup=False)


@app.command()
@_guarded
def simulate(
    norm: NORM = None,
    group_size: GROUP = None,
    eps: EPS = 0.0,
    activation: ACTIVATION = None,
    weights: WEIGHTS = None,
    weight_variance: VARIANCE = None,
    depth: DEPTH = 20,
    batch: BATCH = 16,
    correlation: CORRELATION = 0.5,
    inputs: SOURCE = "synthetic",
    width: Annotated[
        int, typer.Option("--width", metavar="N", help="Channels of every layer.")
    ] = 256,
    replicates: Annotated[
        int, typer.Option("--replicates", metavar="R", help="Number of random networks.")
    ] = 32,
    seed: SEED = 0,
    workers: WORKERS = None,
    dtype: Annotated[DType, typer.Option("--dtype", help="Arithmetic.")] = DType.float64,
    plot: PLOT = None,
    as_json: JSON = False,
    as_csv: CSV = False,
) -> None:
    """Simulate random networks of finite width, layer by layer: means and standard errors.

    Example: normcompass simulate --norm BN --inputs digits --width 512 --plot bn.png
    """
    from montecarlo.ensemble import simulate as compute

    _one_format(as_json, as_csv)
    network, batch_of = _specification(
        norm,
        group_size,
        eps,
        activation,
        weights,
        weight_variance,
        depth,
        batch,
        correlation,
        inputs,
    )
    simulation = compute(
        network,
        batch_of,
        width=width,
        replicates=replicates,
        seed=seed,
        dtype=dtype.value,
        workers=workers,
        progress=sys.stderr.isatty(),
    )
    columns = {}
    for name in SHOWN:
        estimate = getattr(simulation, name)
        columns[name], columns[f"{name}_sem"] = estimate.mean, estimate.sem
    if plot is not None:
        from theory.plotting import plot_comparison
        from theory.recursion import predict as theory_of

        prediction = theory_of(network, batch_of)
        _save(plot, lambda: plot_comparison(prediction, simulation))
    if as_json:
        _write_json(
            {
                "schema": 1,
                "kind": "simulation",
                "network": _as_dict(network),
                "inputs": _as_dict(batch_of),
                "width": width,
                "replicates": replicates,
                "seed": seed,
                "dtype": dtype.value,
                "values": {name: list(map(float, v)) for name, v in columns.items()},
            }
        )
    elif as_csv:
        sys.stdout.write(simulation.to_frame().to_csv())
    else:
        cells = {
            name: [
                f"{m:.5g} ± {s:.1g}"
                for m, s in zip(columns[name], columns[f"{name}_sem"], strict=True)
            ]
            for name in SHOWN
        }
        _print_columns(f"{replicates} networks of width {width}: mean ± s.e.", cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: one sentence for what a user can mend, never a traceback."""
    app(args=None if arguments is None else list(arguments))


def _specification(
    norm: str | None,
    group_size: int | None,
    eps: float,
    activation: str | None,
    weights: str | None,
    weight_variance: float | None,
    depth: int,
    batch: int,
    correlation: float,
    inputs: str,
) -> tuple[FeedForward, Inputs]:
    network = build_network(
        norm=norm,
        group_size=group_size,
        eps=eps,
        activation=activation,
        weights=weights,
        weight_variance=weight_variance,
        depth=depth,
    )
    return network, build_inputs(inputs, batch=batch, correlation=correlation)


def _one_format(as_json: bool, as_csv: bool) -> None:
    if as_json and as_csv:
        raise SpecificationError("--json and --csv cannot both have standard output; choose one.")


def _as_dict(specification: Any) -> dict[str, Any]:
    from theory.specs.serialize import to_dict

    return to_dict(specification)


def _write_json(document: dict[str, Any]) -> None:
    from montecarlo.report import finite

    sys.stdout.write(json.dumps(finite(document), indent=1, allow_nan=False) + "\n")


def _screen() -> Console:
    # Tables keep their columns in a pipe and in a narrow terminal.
    width = Console().width if sys.stdout.isatty() else 0
    return Console(width=max(width, 120))


def _print_columns(title: str, columns: Mapping[str, Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("layer", justify="right")
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    for layer, cells in enumerate(zip(*columns.values(), strict=True), start=1):
        table.add_row(str(layer), *cells)
    _screen().print(table)


def _save(path: Path, draw: Callable[[], Any]) -> None:
    """Draw and save, without a display."""
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
    sys.stderr.write(f"Figure: {path}\n")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on standard error; nothing there if it is not a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    screen = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("compiling", total=total)

        def advance(case: str) -> None:
            bar.update(task, advance=1, description=case)

        yield advance


if __name__ == "__main__":
    main()
