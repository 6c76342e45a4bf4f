"""What the rows of a store mean, and whether they are what they claim to be.

environments  versions and processor, as JSON, under the SHA-256 of that text
experiments   the JSON document, under the experiment's key; names of the observables; depth
networks      one row for each: float64 little-endian, (observables, depth), and a CRC-32 over
              these values and everything that the row refers to
"""

from __future__ import annotations

import hashlib
import json
import platform
import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_info

from montecarlo.database import RESTORE
from theory.errors import StoreError
from theory.provenance import version_of

__all__ = [
    "FIELDS",
    "NETWORKS",
    "Entry",
    "canonical",
    "check_rows",
    "checksum_of",
    "digest",
    "environment",
    "is_environment",
    "is_run",
    "table_of",
]

FloatArray = NDArray[np.float64]

NETWORKS = (
    "SELECT replicate, environments.key, created, checksum, observations FROM networks "
    "LEFT JOIN environments ON environments.id = environment WHERE experiment = ?"
)
FIELDS = {"width": int, "seed": int, "dtype": str, "method": str, "backward": bool}


@cache
def environment() -> Mapping[str, str]:
    """What decides the last bits here: versions, BLAS and its kernel, processor."""
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    # SciPy may bring a library of its own, loaded or not yet; products are computed by NumPy's.
    pools = [pool for pool in pools if "numpy" in pool["filepath"]] or pools
    blas = {
        f"{pool['internal_api']} {pool['version']} ({pool.get('architecture', 'unknown')})"
        for pool in pools
    }
    return {
        "normcompass": version_of("normcompass"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": version_of("numba"),
        "blas": ", ".join(sorted(blas)) or "unknown",
        "processor": platform.machine(),
        "system": platform.system(),
    }


class Entry(NamedTuple):
    """A row of ``experiments``, without its document."""

    row: int
    key: str
    observables: str
    depth: int

    @property
    def names(self) -> tuple[str, ...]:
        """Of the observables."""
        return tuple(json.loads(self.observables))


def check_rows(name: str, connection: sqlite3.Connection) -> None:
    """Every row of every table is what it claims to be."""
    for key, text in connection.execute("SELECT key, document FROM environments"):
        if not (_authentic(key, text) and is_environment(_parsed(text))):
            raise StoreError(f"{name} has a damaged description of a machine; {RESTORE}.")
    for *columns, text in connection.execute(
        "SELECT id, key, observables, depth, document FROM experiments"
    ).fetchall():
        entry = Entry(*columns)
        if not (_authentic(entry.key, text) and is_run(entry, _parsed(text))):
            raise StoreError(f"{name} has a damaged run, {str(entry.key)[:12]!r}; {RESTORE}.")
        for row in connection.execute(NETWORKS, (entry.row,)):
            table_of(name, entry, row)


def is_environment(document: Any) -> bool:
    """Names and values that can be shown on any terminal."""
    return isinstance(document, dict) and all(
        isinstance(text, str) and text.isprintable() for pair in document.items() for text in pair
    )


def is_run(entry: Entry, document: Any) -> bool:
    """Types as an experiment has them; names are words, which can be shown on any terminal."""
    names = _parsed(entry.observables)
    if not (isinstance(document, dict) and isinstance(names, list) and names):
        return False
    words = [*names, document.get("dtype"), document.get("method")]
    return (
        type(entry.depth) is int
        and entry.depth >= 1
        and len(set(map(str, names))) == len(names)
        and all(isinstance(word, str) and word.isidentifier() for word in words)
        and all(type(document.get(name)) is kind for name, kind in FIELDS.items())
    )


def table_of(name: str, entry: Entry, row: Sequence[Any]) -> FloatArray:
    """Values of a row of ``NETWORKS``, shape (observables, depth)."""
    replicate, machine, created, checksum, blob = row
    shape = (len(entry.names), entry.depth)
    if not (
        isinstance(blob, bytes)
        and len(blob) == 8 * shape[0] * shape[1]
        and all(type(number) is int for number in (replicate, created, checksum))
        and min(replicate, created) >= 0
        and created < 2**37
        and checksum == checksum_of(entry, replicate, machine, created, blob)
    ):
        raise StoreError(f"{name} has a damaged network, {replicate!r}; {RESTORE}.")
    return np.frombuffer(blob, dtype="<f8").reshape(shape)


def checksum_of(entry: Entry, replicate: int, machine: str, created: int, blob: bytes) -> int:
    """CRC-32 of a network with its keys: a row that another experiment claims is damaged too."""
    head = f"{entry.key} {entry.observables} {entry.depth} {replicate} {machine} {created} "
    return zlib.crc32(blob, zlib.crc32(head.encode()))


def _authentic(key: Any, text: Any) -> bool:
    return isinstance(text, str) and key == digest(text)


def _parsed(text: Any) -> Any:
    """The JSON value, or None."""
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None


def canonical(document: Any) -> str:
    """The text that keys are made of; ``Experiment.key`` hashes the same one."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(text: str) -> str:
    """SHA-256, 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()
