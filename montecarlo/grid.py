"""Many simulations at once: networks x inputs x widths, one schedule, one tidy table."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np

from montecarlo.collect import Resources, collect, opened
from montecarlo.ensemble import places_of, plan, summarize
from montecarlo.results import Simulation
from theory.errors import NormcompassError, out_of_domain
from theory.specs._check import instance, integer, named
from theory.specs.inputs import Inputs
from theory.specs.networks import Network

if TYPE_CHECKING:
    import pandas as pd

    from montecarlo.store import Store

__all__ = ["Cell", "Grid", "simulate_many"]


class Cell(NamedTuple):
    """Names of a network and of its inputs, and a width."""

    network: str
    inputs: str
    width: int


@dataclass(frozen=True, repr=False)
class Grid(Mapping[Cell, Simulation]):
    """Simulations by (network, inputs, width): ``grid["BN", "digits", 1024].similarity``.

    Cells of one width and seed share their random numbers (network r draws the same Gaussians in
    each), so that differences between cells have smaller errors than their own would suggest: compare
    them network by network, ``a.samples[name] - b.samples[name]``.
    """

    simulations: Mapping[Cell, Simulation]

    def __getitem__(self, cell: tuple[str, str, int]) -> Simulation:
        return self.simulations[cell]  # type: ignore[index]  # a Cell equals its tuple

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.simulations)

    def __len__(self) -> int:
        return len(self.simulations)

    def __repr__(self) -> str:
        """One line: the axes of the grid."""
        axes = [list(dict.fromkeys(axis)) for axis in zip(*self, strict=True)]
        return f"Grid(networks={axes[0]}, inputs={axes[1]}, widths={axes[2]})"

    def to_frame(self) -> pd.DataFrame:
        """Tidy table: network, inputs, width, observable, layer, mean, sem, replicates, method."""
        import pandas as pd

        frames = []
        for cell, simulation in self.items():
            for name, estimate in simulation.estimates().items():
                columns: dict[str, Any] = {
                    **cell._asdict(),
                    "observable": name,
                    "layer": np.arange(1, simulation.depth + 1),
                    "mean": estimate.mean,
                    "sem": estimate.sem,
                    "replicates": estimate.n,
                    "method": simulation.provenance["method"],
                }
                frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)


def simulate_many(
    networks: Mapping[str, Network],
    inputs: Inputs | Mapping[str, Inputs],
    *,
    widths: int | Sequence[int],
    replicates: int,
    seed: int = 0,
    dtype: str = "float64",
    method: str = "auto",
    backward: bool = True,
    workers: int | None = None,
    client: Any = None,
    store: str | Path | Store | None = None,
    memory_limit: int | None = None,
    progress: bool = False,
) -> Grid:
    """``simulate`` for every network, inputs and width; all networks share one schedule and store.

    Parameters
    ----------
    networks
        Name -> network.
    inputs
        Name -> inputs, or one batch for all, which is then called "inputs".
    widths
        Channels of every layer.
    replicates
        Independent networks in each cell.
    seed, dtype, method, backward, workers, client, store, memory_limit, progress
        As in ``simulate``; each cell has exactly the numbers that ``simulate`` gives.

    Returns
    -------
    Grid
        A mapping from (network, inputs, width) to ``Simulation``.

    Raises
    ------
    NormcompassError
        As in ``simulate``; what does not fit is found before anything is computed, and a note says
        in which cell.
    """
    batches = _named_inputs(inputs)
    named("networks", networks, "networks")
    replicates = integer("replicates", replicates, low=1, remedy="count the networks, 64 say")
    given: Any = [widths] if isinstance(widths, numbers.Integral) else widths
    instance("widths", given, Sequence, "a width or a list of them", "pass [256, 1024], say")
    sizes = list(
        dict.fromkeys(integer("widths", n, low=1, remedy="count the channels") for n in given)
    )
    if not sizes:
        raise out_of_domain("widths", widths, "at least one width", "pass [256, 1024], say")
    resources = Resources(
        workers=workers,
        client=client,
        store=store,
        memory_limit=memory_limit,
        progress=progress,
        forecast=True,
    )
    plans = {}
    for name, network in networks.items():
        for label, batch in batches.items():
            for width in sizes:
                cell = Cell(name, label, width)
                try:
                    plans[cell] = plan(
                        network,
                        batch,
                        width=width,
                        seed=seed,
                        dtype=dtype,
                        method=method,
                        backward=backward,
                    )
                except NormcompassError as error:
                    error.add_note(f"in the cell {tuple(cell)}")
                    raise
    # Cells may describe the same network under two names: it is simulated once.
    distinct = {experiment.key: experiment for experiment, _ in plans.values()}
    with opened(store) as kept:
        tables, computed = collect(
            [(experiment, replicates) for experiment in distinct.values()],
            replace(resources, store=kept),
        )
        found = {
            key: (
                table,
                new,
                places_of(distinct[key], kept if new < replicates else None),
            )
            for key, table, new in zip(distinct, tables, computed, strict=True)
        }
    simulations = {}
    for cell, (experiment, reason) in plans.items():
        table, new, origins = found[experiment.key]
        simulations[cell] = summarize(
            experiment, table, reason=reason, computed=new, origins=origins
        )
    return Grid(simulations)


def _named_inputs(inputs: Any) -> Mapping[str, Inputs]:
    if isinstance(inputs, get_args(Inputs)):
        return {"inputs": inputs}
    return named("inputs", inputs, "inputs")
