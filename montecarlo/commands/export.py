"""Tables of a stored run, and the files they go to: CSV always, Parquet where pyarrow is installed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from theory.errors import SpecificationError, StoreError, out_of_domain

if TYPE_CHECKING:
    import pandas as pd

    from montecarlo.results import Simulation

__all__ = ["estimates_table", "networks_table", "require_table_file", "write_table"]


def estimates_table(simulation: Simulation) -> pd.DataFrame:
    """layer, observable, mean, sem, replicates: one row per observable and layer."""
    import pandas as pd

    tables = [
        pd.DataFrame(
            {
                "layer": range(1, simulation.depth + 1),
                "observable": name,
                "mean": estimate.mean,
                "sem": estimate.sem,
                "replicates": estimate.n,
            }
        )
        for name, estimate in simulation.estimates().items()
    ]
    return pd.concat(tables, ignore_index=True)


def networks_table(simulation: Simulation, networks: Sequence[int]) -> pd.DataFrame:
    """network, layer, observables: one row per network, whose numbers are given, and layer."""
    import numpy as np
    import pandas as pd

    layers = np.arange(1, simulation.depth + 1)
    columns = {
        "network": np.repeat(networks, simulation.depth),
        "layer": np.tile(layers, simulation.replicates),
    }
    values = {name: samples.ravel() for name, samples in simulation.samples.items()}
    return pd.DataFrame(columns | values)


def require_table_file(path: Path, *, store: Path) -> None:
    """Raise unless the name ends in .csv or .parquet, and is not the store's own."""
    if path.exists() and path.samefile(store):
        raise out_of_domain(
            "out", str(path), "another file than the store", "the table would replace it"
        )
    if path.suffix not in (".csv", ".parquet"):
        raise out_of_domain("out", str(path), "a .csv or .parquet file", "name it run.csv, say")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write ``path``, replacing what was there.

    Raises
    ------
    SpecificationError
        Parquet without pyarrow.
    StoreError
        The file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.suffix == ".csv":
            table.to_csv(partial, index=False)
        else:
            table.to_parquet(partial, engine="pyarrow", index=False)
        os.replace(partial, path)  # the old file stays until the new one is whole
    except ImportError:
        raise SpecificationError(
            f"out = {str(path)!r} needs pyarrow, which is not installed: it must be importable; "
            "run `pip install pyarrow`, or export to a .csv file."
        ) from None
    except OSError as error:
        raise StoreError(
            f"out = {str(path)!r} cannot be written ({error}); choose another place with --out."
        ) from None
