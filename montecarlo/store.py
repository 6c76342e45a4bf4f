"""(experiment, replicate) -> observables of that network, in one SQLite file.

Networks are written in transactions: a process that dies leaves whole transactions or nothing.
A stranger's file holds numbers, names and JSON, never code; all of it is checked before anything
is written, and specifications are rebuilt only when they are asked for.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from montecarlo.database import explained, open_database, open_to_read, transaction
from montecarlo.experiment import ENGINE, Experiment
from montecarlo.records import (
    FIELDS,
    NETWORKS,
    Entry,
    canonical,
    check_rows,
    checksum_of,
    digest,
    environment,
    is_environment,
    is_run,
    table_of,
)
from theory.errors import NormcompassError, StoreError, out_of_domain
from theory.specs import serialize
from theory.specs._check import file_path, flag, instance, integer
from theory.specs.inputs import Inputs
from theory.specs.networks import Network

__all__ = ["Store", "StoredRun", "environment"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """All stored networks of one experiment, without their numbers; see ``Store.samples``.

    Parameters
    ----------
    key
        Of the experiment.
    document
        The experiment as JSON values.
    width, seed, dtype, method, backward
        As in the experiment.
    observables
        Names of what was recorded.
    depth
        Layers.
    replicates
        Number of stored networks.
    environments
        Where they were computed, in order of first appearance.
    created, updated
        When the first and the last of them was stored (UTC).
    """

    key: str
    document: dict[str, Any]
    width: int
    seed: int
    dtype: str
    method: str
    backward: bool
    observables: tuple[str, ...]
    depth: int
    replicates: int
    environments: tuple[dict[str, str], ...]
    created: datetime
    updated: datetime

    @property
    def id(self) -> str:
        """Short name: the first 12 digits of the key."""
        return self.key[:12]

    @property
    def network(self) -> Network:
        """Specification of the network; raises like ``experiment``."""
        return self.experiment.network

    @property
    def inputs(self) -> Inputs:
        """Specification of the inputs; raises like ``experiment``."""
        return self.experiment.inputs

    @cached_property
    def experiment(self) -> Experiment:
        """The experiment, rebuilt from its document.

        Raises
        ------
        StoreError
            This version cannot rebuild it, or would compute other numbers for it.
        """
        remedy = "use the normcompass that wrote it, or simulate again"
        if self.document.get("engine") != ENGINE:
            raise StoreError(
                f"Run {self.id} was simulated by engine {self.document.get('engine')!r}, this "
                f"version has engine {ENGINE} and would draw other networks; {remedy}."
            )
        try:
            network = serialize.from_dict(self.document.get("network"))
            inputs = serialize.from_dict(self.document.get("inputs"))
            fields: dict[str, Any] = {name: getattr(self, name) for name in FIELDS}
            experiment = Experiment(network=network, inputs=inputs, **fields)
            same = experiment.key == self.key
        except (NormcompassError, TypeError, ValueError, RecursionError) as error:
            raise StoreError(f"Run {self.id} cannot be rebuilt: {error}; {remedy}.") from error
        if not (same and isinstance(network, Network) and isinstance(inputs, Inputs)):
            raise StoreError(f"Run {self.id} does not describe an experiment; {remedy}.")
        return experiment


class Store:
    """A file of simulated networks; a context manager, used by the thread that opened it.

    Several processes of one machine may use the same file at once.

    Parameters
    ----------
    path
        Created when missing or empty; its folder must exist.
    read_only
        Only read it: then the file and its folder may be read-only, and must not be missing.

    Raises
    ------
    StoreError
        Foreign, damaged, from another schema version, or not writable; the file stays as it was.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        target = Path(os.path.realpath(file_path("path", path)))
        self._name = target.name
        with explained(self._name):
            opener = open_to_read if flag("read_only", read_only) else open_database
            self._connection = opener(target, partial(check_rows, self._name))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; calling it again does nothing."""
        self._connection.close()

    def indices(self, experiment: Experiment | StoredRun) -> list[int]:
        """Replicates that are stored, sorted."""
        with explained(self._name):
            entry = self._entry(experiment)
            if entry is None:
                return []
            rows = self._connection.execute(
                "SELECT replicate FROM networks WHERE experiment = ? ORDER BY replicate",
                (entry.row,),
            )
            return [index for (index,) in rows]

    def add(
        self,
        experiment: Experiment,
        indices: Sequence[int],
        values: FloatArray,
        *,
        computed_in: Mapping[str, str] | None = None,
    ) -> None:
        """Store networks, all or none; replicates that are already there stay as they are.

        Parameters
        ----------
        experiment
            What was simulated.
        indices
            Replicates, >= 0.
        values
            Their observables, shape (len(indices), observables, depth).
        computed_in
            ``environment()`` of the process that computed them; None is this one.

        Raises
        ------
        SpecificationError
            A negative index, or values of another shape.
        StoreError
            The file cannot be written, or holds this experiment with other observables.
        """
        replicates = [_replicate(index) for index in indices]
        shape = (len(replicates), len(experiment.observables), experiment.network.depth)
        if np.shape(values) != shape:
            raise out_of_domain("values", np.shape(values), f"of shape {shape}", "pass all of them")
        machine = dict(environment() if computed_in is None else computed_in)
        if not is_environment(machine):
            raise out_of_domain("computed_in", machine, "printable text", "pass environment()")
        if not replicates:
            return
        now = int(time.time())
        with explained(self._name), transaction(self._connection):
            entry = self._entry(experiment) or self._begin(experiment)
            place, machine_key = self._place(canonical(machine))
            for index, table in zip(replicates, values, strict=True):
                blob = np.asarray(table, dtype="<f8").tobytes()
                checksum = checksum_of(entry, index, machine_key, now, blob)
                self._connection.execute(
                    "INSERT INTO networks VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (entry.row, index, place, now, checksum, blob),
                )

    def read(self, experiment: Experiment | StoredRun, indices: Sequence[int]) -> FloatArray:
        """Observables of the replicates ``indices``, shape (len(indices), observables, depth).

        Raises
        ------
        StoreError
            One of them is missing or damaged.
        """
        with explained(self._name):
            entry = self._entry(experiment)
            if entry is None:
                raise self._missing(experiment, "no networks")
            listed: Any = indices
            if isinstance(listed, np.ndarray):
                listed = listed.tolist()
            instance("indices", listed, Sequence, "a list of replicates", "pass [0, 1], say")
            values = np.empty((len(listed), len(entry.names), entry.depth))
            for table, index in zip(values, map(_replicate, listed), strict=True):
                row = self._connection.execute(
                    f"{NETWORKS} AND replicate = ?", (entry.row, index)
                ).fetchone()
                if row is None:
                    raise self._missing(experiment, f"no network {index}")
                table[...] = table_of(self._name, entry, row)
            return values

    def samples(self, run: StoredRun) -> dict[str, FloatArray]:
        """Observable -> its values in every stored network, (replicates, depth), by replicate."""
        values = self.read(run, self.indices(run))
        return {name: values[:, row] for row, name in enumerate(run.observables)}

    def runs(self) -> list[StoredRun]:
        """All runs, in the order in which they were begun."""
        with explained(self._name):
            return [self._run(key) for key in self._keys()]

    def find(self, prefix: str) -> StoredRun:
        """Return the one run whose key begins with ``prefix``; StoreError if none or several do."""
        instance("prefix", prefix, str, "the first digits of a key", "see runs()")
        with explained(self._name):
            keys = self._keys()
            found = [key for key in keys if key.startswith(prefix)]
            if len(found) == 1:
                return self._run(found[0])
        count = f"{len(found)} runs" if found else "No run"
        shown = prefix if len(prefix) <= 64 else f"{prefix[:61]}..."
        choice = ", ".join(key[:12] for key in (found or keys)[:8]) or "none, it is empty"
        raise StoreError(
            f"{count} in {self._name} with an id that begins with {shown!r}; choose from: {choice}."
        )

    def _keys(self) -> list[str]:
        rows = self._connection.execute(
            "SELECT key FROM experiments WHERE EXISTS "
            "(SELECT 1 FROM networks WHERE experiment = experiments.id) ORDER BY id"
        )
        return [key for (key,) in rows]

    def _entry(self, experiment: Experiment | StoredRun) -> Entry | None:
        """The experiment's row; an experiment, unlike a stored run, must fit this version."""
        domain = "a run of this store or an Experiment"
        instance("run", experiment, Experiment | StoredRun, domain, "take one of runs()")
        row = self._connection.execute(
            "SELECT id, key, observables, depth FROM experiments WHERE key = ?", (experiment.key,)
        ).fetchone()
        if row is None:
            return None
        entry = Entry(*row)
        if isinstance(experiment, Experiment) and (
            (entry.names, entry.depth) != (experiment.observables, experiment.network.depth)
        ):
            raise StoreError(
                f"{self._name} holds run {experiment.key[:12]} with other observables than this "
                f"version records ({', '.join(entry.names)}); simulate into a new file, or use the "
                "normcompass that wrote it."
            )
        return entry

    def _begin(self, experiment: Experiment) -> Entry:
        """Insert an experiment."""
        names, depth = canonical(experiment.observables), experiment.network.depth
        row = self._connection.execute(
            "INSERT INTO experiments (key, document, observables, depth) VALUES (?, ?, ?, ?)",
            (experiment.key, canonical(experiment.document), names, depth),
        ).lastrowid
        entry = Entry(row or 0, experiment.key, names, depth)
        if not is_run(entry, experiment.document):
            # The file would be refused when it is opened next.
            raise out_of_domain(
                "experiment", experiment, "made of valid values", "let simulate() make it"
            )
        return entry

    def _place(self, machine: str) -> tuple[int, str]:
        """Row and key of an environment, inserted when it is new."""
        key = digest(machine)
        self._connection.execute(
            "INSERT INTO environments (key, document) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (key, machine),
        )
        ((row,),) = self._connection.execute("SELECT id FROM environments WHERE key = ?", (key,))
        return row, key

    def _run(self, key: str) -> StoredRun:
        execute = self._connection.execute
        ((row, text, observables, depth),) = execute(
            "SELECT id, document, observables, depth FROM experiments WHERE key = ?", (key,)
        )
        ((count, *times),) = execute(
            "SELECT COUNT(*), MIN(created), MAX(created) FROM networks WHERE experiment = ?", (row,)
        )
        machines = execute(
            "SELECT document FROM environments JOIN (SELECT environment, MIN(rowid) AS first FROM "
            "networks WHERE experiment = ? GROUP BY environment) ON id = environment ORDER BY first",
            (row,),
        )
        document = json.loads(text)
        created, updated = (datetime.fromtimestamp(seconds, UTC) for seconds in times)
        return StoredRun(
            key=key,
            document=document,
            **{name: document[name] for name in FIELDS},
            observables=tuple(json.loads(observables)),
            depth=depth,
            replicates=count,
            environments=tuple(json.loads(machine) for (machine,) in machines),
            created=created,
            updated=updated,
        )

    def _missing(self, experiment: Experiment | StoredRun, what: str) -> StoreError:
        return StoreError(
            f"{self._name} holds {what} of run {experiment.key[:12]}; simulate it first."
        )


def _replicate(index: int) -> int:
    return integer("indices", index, low=0, high=2**63 - 1, remedy="count replicates from 0")
