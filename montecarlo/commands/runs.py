"""``normcompass runs list | show | export``: what a store holds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from montecarlo.commands.export import (
    estimates_table,
    networks_table,
    require_table_file,
    write_table,
)
from montecarlo.commands.guard import guarded
from montecarlo.commands.output import (
    estimate_cells,
    estimate_values,
    estimates,
    print_layers,
    screen,
    write_json,
)
from montecarlo.options import JSON
from theory.errors import StoreError, out_of_domain
from theory.specs.inputs import DataInputs, ExchangeableInputs, Inputs, SpatialInputs
from theory.specs.networks import Network

if TYPE_CHECKING:
    from montecarlo.results import Simulation
    from montecarlo.store import Store, StoredRun

__all__ = ["app"]

# Instead of a specification that this version cannot read; show gives the reason.
_UNREADABLE = "(unreadable)"

app = typer.Typer(
    name="runs",
    help="List, show and export what `simulate --store FILE` has kept.",
    no_args_is_help=True,
)

STORE = Annotated[Path, typer.Argument(metavar="STORE", help="File of `simulate --store`.")]
KEY = Annotated[str, typer.Argument(metavar="KEY", help="First digits of the run's key.")]


@app.command("list")
@guarded
def list_runs(store: STORE, as_json: JSON = False) -> None:
    """List the runs of a store: one network, on one batch, at one width each."""
    with _opened(store) as opened:
        runs = opened.runs()
    if as_json:
        documents = [
            {"network": _network(run), "inputs": _inputs(run)} | _facts(run) for run in runs
        ]
        write_json({"schema": 1, "kind": "runs", "runs": documents})
        return
    table = Table(
        title=f"{len(runs)} runs", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for name in ("key", "network", "inputs", "method"):
        table.add_column(name, no_wrap=name in ("key", "inputs"))
    for name in ("width", "depth", "seed", "networks"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("dtype", "updated (UTC)"):
        table.add_column(name, no_wrap=True)
    for run in runs:
        cells = (
            run.id,
            _network(run),
            _inputs(run),
            run.method if run.backward else f"{run.method}, forward",
            run.width,
            run.depth,
            run.seed,
            run.replicates,
            run.dtype,
            f"{run.updated:%Y-%m-%d %H:%M}",
        )
        table.add_row(*(Text(str(cell)) for cell in cells))
    screen().print(table)


@app.command("show")
@guarded
def show_run(store: STORE, key: KEY, as_json: JSON = False) -> None:
    """Show a run: specification, where it was computed, means and standard errors per layer."""
    with _opened(store) as opened:
        run = opened.find(key)
        found = estimates(_simulation(opened, run))
    if as_json:
        write_json(
            {
                "schema": 1,
                "kind": "run",
                **_facts(run),
                "experiment": run.document,
                "environments": run.environments,
                "values": estimate_values(found),
            }
        )
        return
    lines = {
        "run": run.key,
        "network": _network(run, whole=True),
        "inputs": _inputs(run),
        "simulated": f"{run.method}, {run.dtype}, seed {run.seed}, "
        + ("forward and backward" if run.backward else "forward only"),
        "stored": f"{run.replicates} networks, {run.created:%Y-%m-%d %H:%M} to "
        f"{run.updated:%Y-%m-%d %H:%M} UTC",
    }
    for number, environment in enumerate(run.environments, start=1):
        shown = ", ".join(f"{name} {value}" for name, value in environment.items())
        lines["computed with" if number == 1 else f"and with ({number})"] = shown
    facts = Table.grid(padding=(0, 2))
    for name, text in lines.items():
        facts.add_row(name, Text(text))
    screen().print(facts)
    title = f"{run.replicates} networks of width {run.width}: mean ± s.e."
    print_layers(title, estimate_cells(found))


@app.command("export")
@guarded
def export_run(
    store: STORE,
    key: KEY,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="A .csv or .parquet file (which is replaced); standard output, as CSV, if not given.",
        ),
    ] = None,
    per_network: Annotated[
        bool,
        typer.Option("--per-network", help="One row per network and layer instead of estimates."),
    ] = False,
) -> None:
    """Export a run as a table: layer, observable, mean, sem, replicates.

    With --per-network: network, layer and a column for every observable.
    """
    if out is not None:
        require_table_file(out, store=store)
    with _opened(store) as opened:
        run = opened.find(key)
        simulation = _simulation(opened, run)
        networks = opened.indices(run)
    table = networks_table(simulation, networks) if per_network else estimates_table(simulation)
    if out is None:
        sys.stdout.write(table.to_csv(index=False))
    else:
        write_table(table, out)


def _opened(path: Path) -> Store:
    """The store, which a command that only reads must not create."""
    from montecarlo.store import Store

    if not path.exists():
        raise out_of_domain(
            "store", str(path), "an existing file", "check the path; simulate --store makes one"
        )
    return Store(path, read_only=True)


def _facts(run: StoredRun) -> dict[str, Any]:
    names = ("id", "key", "width", "method", "dtype", "seed", "backward", "depth", "replicates")
    times = {"created": run.created.isoformat(), "updated": run.updated.isoformat()}
    return {name: getattr(run, name) for name in names} | times


def _network(run: StoredRun, *, whole: bool = False) -> str:
    """The layer's name and activation, or the whole specification."""
    try:
        network: Network = run.network
    except StoreError as error:
        return str(error) if whole else _UNREADABLE
    if whole:
        return repr(network)
    layer = network.layer
    parts = [] if layer.norm is None else [layer.norm.name]
    if layer.weights.name != "gaussian" or layer.norm is None:
        parts.append(layer.weights.name)
    return ", ".join([*parts, layer.activation.name])


def _inputs(run: StoredRun) -> str:
    """Kind and size of the inputs."""
    try:
        inputs: Inputs = run.inputs
    except StoreError:
        return _UNREADABLE
    if isinstance(inputs, ExchangeableInputs):
        return f"batch {inputs.batch}, c={inputs.correlation:g}"
    if isinstance(inputs, SpatialInputs):
        sides = "x".join(map(str, inputs.shape))
        return f"batch {inputs.batch}, {sides} positions, c={inputs.correlation:g}"
    return f"batch {inputs.batch}, {'data' if isinstance(inputs, DataInputs) else 'covariance'}"


def _simulation(store: Store, run: StoredRun) -> Simulation:
    """The stored networks as a simulation, without gradients if there were none."""
    from montecarlo.observables import BRANCH_GRADIENT, OBSERVABLES
    from montecarlo.results import Simulation

    names = [name for name in OBSERVABLES if run.backward or "gradient" not in name]
    samples = store.samples(run)
    if not set(names) <= set(samples):
        raise StoreError(
            f"Run {run.id} has other observables than this version reads; use the normcompass that "
            "wrote it."
        )
    # Residual networks have it, except those of early stores.
    if run.backward and BRANCH_GRADIENT in samples:
        names.append(BRANCH_GRADIENT)
    return Simulation({name: samples[name] for name in names}, {"width": run.width})
