"""``normcompass simulate``: random networks of finite width."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from montecarlo.commands.output import (
    estimate_cells,
    estimate_values,
    estimates,
    hushed,
    one_format,
    print_layers,
    save_figure,
    write_json,
)
from montecarlo.networks import build
from montecarlo.options import (
    CSV,
    JSON,
    PLOT,
    QUIET,
    SEED,
    WORKERS,
    DType,
    MethodChoice,
    NetworkOptions,
    byte_count,
    takes_network,
)
from theory.specs.serialize import to_dict

if TYPE_CHECKING:
    from montecarlo.experiment import Experiment

__all__ = ["simulate"]


@takes_network
def simulate(
    options: NetworkOptions,
    width: Annotated[
        int, typer.Option("--width", metavar="N", help="Channels of every layer.")
    ] = 256,
    replicates: Annotated[
        int, typer.Option("--replicates", metavar="R", help="Number of random networks.")
    ] = 32,
    target_sem: Annotated[
        float | None,
        typer.Option(
            "--target-sem", metavar="X", help="Add networks until the standard error is X."
        ),
    ] = None,
    max_replicates: Annotated[
        int | None,
        typer.Option("--max-replicates", metavar="R", help="At most so many, with --target-sem."),
    ] = None,
    method: Annotated[
        MethodChoice,
        typer.Option(
            "--method",
            help="direct: explicit weights; collapsed: equal in law, for wide networks; auto: the "
            "cheaper one.",
        ),
    ] = MethodChoice.auto,
    forward_only: Annotated[
        bool, typer.Option("--forward-only", help="Signals without gradients.")
    ] = False,
    seed: SEED = 0,
    dtype: Annotated[DType, typer.Option("--dtype", help="Arithmetic.")] = DType.float64,
    workers: WORKERS = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler", metavar="ADDRESS", help="Run on this Dask cluster: tcp://host:8786."
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            "--store",
            metavar="FILE",
            help="Keep every network there (SQLite); the same command goes on after an "
            "interruption.",
        ),
    ] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option("--memory-limit", metavar="BYTES", help="Per process: 2GiB, 500MB."),
    ] = None,
    plot: PLOT = None,
    as_json: JSON = False,
    as_csv: CSV = False,
    quiet: QUIET = False,
) -> None:
    """Simulate random networks of finite width, layer by layer: means and standard errors.

    Example: normcompass simulate --norm BN --inputs digits --width 512 --plot bn.png
    """
    from montecarlo.ensemble import plan
    from montecarlo.ensemble import simulate as compute

    one_format(as_json, as_csv)
    network, inputs = build(options)
    limit = None if memory_limit is None else byte_count("memory_limit", memory_limit)
    if plot is not None:
        from theory.plotting import PANELS, plot_comparison
        from theory.recursion import predict

        # Before the simulation: a layer that no route takes is found at once.
        prediction = predict(network, inputs, backward=not forward_only)
    experiment, _ = plan(
        network,
        inputs,
        width=width,
        seed=seed,
        dtype=dtype.value,
        method=method.value,
        backward=not forward_only,
    )
    try:
        with hushed(quiet):
            simulation = compute(
                network,
                inputs,
                width=width,
                replicates=replicates,
                seed=seed,
                dtype=dtype.value,
                method=method.value,
                backward=not forward_only,
                workers=workers,
                client=scheduler,
                store=store,
                target_sem=target_sem,
                max_replicates=max_replicates,
                memory_limit=limit,
                progress=sys.stderr.isatty() and not quiet,
            )
    except KeyboardInterrupt:
        if store is None:
            left = "nothing was written; with --store FILE the finished networks are kept."
        else:
            kept = _stored(store, experiment)
            left = f"{kept} networks are kept in {store}; the same command goes on from there."
        raise KeyboardInterrupt(left) from None
    if plot is not None:
        panels = [name for name in PANELS if not (forward_only and name == "gradient_norm")]
        save_figure(
            plot, lambda: plot_comparison(prediction, simulation, observables=panels), quiet=quiet
        )
    if store is not None and not quiet:
        taken = f"{simulation.provenance['from_store']} of {simulation.replicates}"
        sys.stderr.write(f"From the store: {taken} networks\n")
    found = estimates(simulation)
    if as_json:
        write_json(
            {
                "schema": 1,
                "kind": "simulation",
                "network": to_dict(network),
                "inputs": to_dict(inputs),
                "width": width,
                "replicates": simulation.replicates,
                "seed": seed,
                "dtype": dtype.value,
                "values": estimate_values(found),
                "provenance": simulation.provenance,
            }
        )
    elif as_csv:
        sys.stdout.write(simulation.to_frame().to_csv())
    else:
        what = f"{simulation.replicates} networks of width {width}: mean ± s.e."
        how = "{method}: {method_reason}".format(**simulation.provenance)
        print_layers(f"{what}\n{how}", estimate_cells(found))


def _stored(path: Path, experiment: Experiment) -> int:
    """Number of the experiment's networks in the store, which may not have been made yet."""
    from montecarlo.store import Store

    if not path.exists():
        return 0
    with Store(path) as store:
        return len(store.indices(experiment))
