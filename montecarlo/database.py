"""The SQLite file under a store: opened only when it is ours and whole, written in transactions.

Whoever sent the file, opening it runs none of its SQL: before anything is written, its header is
read as plain bytes, and a read-only connection that trusts no schema checks that it holds exactly
our tables and that every page and row is sound.  A file that is refused keeps every byte.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from weakref import WeakSet

from theory.errors import StoreError, brief

__all__ = [
    "LARGEST",
    "RESTORE",
    "SCHEMA",
    "explained",
    "open_database",
    "open_to_read",
    "transaction",
]

SCHEMA = 1
LARGEST = 2**28  # bytes in one document or array
RESTORE = "restore it from a copy, or move it away and simulate again"

_APPLICATION = int.from_bytes(b"norm", "big")
_MAGIC = b"SQLite format 3\0"
_TABLES = (
    "CREATE TABLE environments (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, "
    "document TEXT NOT NULL)",
    "CREATE TABLE experiments (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, "
    "document TEXT NOT NULL, observables TEXT NOT NULL, depth INTEGER NOT NULL)",
    # The array comes last, so that counting and listing do not read it.
    "CREATE TABLE networks (experiment INTEGER NOT NULL REFERENCES experiments, "
    "replicate INTEGER NOT NULL, environment INTEGER NOT NULL REFERENCES environments, "
    "created INTEGER NOT NULL, checksum INTEGER NOT NULL, observations BLOB NOT NULL, "
    "PRIMARY KEY (experiment, replicate))",
)
_PATIENCE = 60.0  # seconds to wait for another process; a commit takes milliseconds
_REMEDIES = {
    "SQLITE_FULL": "free space on its disk and run again: what was committed is kept",
    "SQLITE_BUSY": "wait until the other process is done, or end it, and run again",
    "SQLITE_READONLY": "make the file and its folder writable, or copy it to where you may write",
    "SQLITE_CANTOPEN": "check that you may read and write the file and its folder",
    "SQLITE_IOERR": "check the disk and run again: what was committed is kept",
    "SQLITE_TOOBIG": f"keep every document and array below {LARGEST >> 20} MiB",
    "SQLITE_MISUSE": "open it again, and use it in the thread that opened it",
}


class _Connection(sqlite3.Connection):
    """A connection that says which file this process has in use."""

    file: tuple[int, int]

    def close(self) -> None:
        _in_use.discard(self)
        super().close()


_in_use: WeakSet[_Connection] = WeakSet()


def open_to_read(path: Path, check: Callable[[sqlite3.Connection], None]) -> sqlite3.Connection:
    """Open ``path`` for reading alone, wherever it lies; nothing is written to it.

    Raises
    ------
    StoreError
        Missing, foreign, damaged or from another schema version.
    """
    if _inspect(path, write=False):
        raise StoreError(f"{path.name} is missing, empty or half written; simulate into it first.")
    _verify_unopened(path, check)
    # Beside a file with a log SQLite needs two of its own, unless nobody writes: nobody can here.
    sealed = not os.access(path.parent, os.W_OK)
    return _connect(path, "mode=ro&immutable=1" if sealed else "mode=ro")


def open_database(path: Path, check: Callable[[sqlite3.Connection], None]) -> sqlite3.Connection:
    """Open ``path`` for reading and writing; create it when it is missing or empty.

    Parameters
    ----------
    path
        With links resolved: SQLite names its own files after what a link points to.
    check
        Raises StoreError when the rows are not sound.

    Raises
    ------
    StoreError
        Foreign, damaged, from another schema version, or not writable.
    """
    if path.exists() and _identity(path) in {connection.file for connection in _in_use}:
        # It was verified; and closing it as a plain file would drop this process's locks on it, as
        # POSIX has it.
        unfinished = False
    else:
        unfinished = _inspect(path)
        if not unfinished:
            _verify_unopened(path, check)
    connection = _connect(path, "mode=rwc")
    try:
        # Also without tables to create: a file that cannot be written is refused now, not later.
        with transaction(connection):
            if not _schema(connection):
                _create(connection)
        if unfinished:
            _verify(path.name, connection, check)
        _use_write_ahead_log(connection)
        connection.file = _identity(path)
        _in_use.add(connection)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """BEGIN, the body, COMMIT; any exception rolls back."""
    try:
        # IMMEDIATE waits for other writers here; a later upgrade of the lock would fail at once.
        connection.execute("BEGIN IMMEDIATE")
        yield
        _before_commit()
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _before_commit() -> None:
    """Nothing; tests die here, between the statements of a transaction and its COMMIT."""


@contextmanager
def explained(name: str) -> Iterator[None]:
    """What SQLite and the file system report, as a StoreError with a remedy."""
    try:
        yield
    except sqlite3.Error as error:
        misuse = "SQLITE_MISUSE" if isinstance(error, sqlite3.ProgrammingError) else ""
        code = getattr(error, "sqlite_errorname", misuse)
        remedy = next((_REMEDIES[known] for known in _REMEDIES if code.startswith(known)), RESTORE)
        raise StoreError(f"Cannot use {name}: {brief(error)}; {remedy}.") from error
    except UnicodeDecodeError as error:
        raise StoreError(
            f"{name} is damaged: its text is none ({brief(error)}); {RESTORE}."
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"Cannot use {name}: {reason}; check the path and the disk.") from error


def _inspect(path: Path, *, write: bool = True) -> bool:
    """Whether SQLite must first create the file or undo an interrupted write; header as bytes."""
    name = path.name
    if not path.parent.is_dir():
        raise StoreError(
            f"Cannot create {name}: there is no folder {path.parent.name}; create it first."
        )
    if path.exists() and not path.is_file():
        raise StoreError(f"{name} is not a file that can be a store; name another, runs.db say.")
    if write and path.exists() and not os.access(path, os.W_OK):
        # SQLite would open it for reading without a word.
        raise StoreError(
            f"{name} is read-only; make it writable, or copy it to where you may write."
        )
    header = b""
    if path.exists():
        with path.open("rb") as stream:
            header = stream.read(100)
    if not header:
        if _size(path, "-wal"):
            raise StoreError(
                f"{name} is empty or missing, but {name}-wal holds networks of it; "
                f"restore {name} from a copy, or remove {name}-wal."
            )
        return True
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise StoreError(
            f"{name} is not a store of networks, or its beginning is damaged; choose another name, "
            "or restore it from a copy."
        )
    _require_ours(name, int.from_bytes(header[68:72], "big"), int.from_bytes(header[60:64], "big"))
    # The header came first: if it was read from the midst of another process's creation, then
    # the journal is still there, or that creation is complete by now.
    return _size(path, "-journal") > 0


def _require_ours(name: str, application: int, schema: int) -> None:
    if application != _APPLICATION:
        raise StoreError(
            f"{name} is an SQLite file of another application ({application:#x}); choose another "
            "name for the store."
        )
    if schema != SCHEMA:
        raise StoreError(
            f"{name} has schema version {schema}, this normcompass reads {SCHEMA}; use the "
            "normcompass that wrote it, or simulate into a new file."
        )


def _verify_unopened(path: Path, check: Callable[[sqlite3.Connection], None]) -> None:
    """Verify a file that is at rest, or in use by others, without writing to it."""
    before = path.stat()
    # Even a read-only connection puts SQLite's two files beside a database with a log, except when
    # told that nobody writes.  Without a log nobody does, unless they begin just now: then the
    # file has changed, and only a connection with locks can tell.
    if not path.with_name(f"{path.name}-wal").exists():
        try:
            with closing(_connect(path, "mode=ro&immutable=1")) as connection:
                return _verify(path.name, connection, check)
        except (StoreError, sqlite3.Error):
            after = path.stat()
            if (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size):
                raise
    with closing(_connect(path, "mode=ro")) as connection:
        _verify(path.name, connection, check)


def _verify(
    name: str, connection: sqlite3.Connection, check: Callable[[sqlite3.Connection], None]
) -> None:
    """Our header, exactly our tables, sound pages and indices, rows that refer to rows, ``check``."""
    ((application,),) = connection.execute("PRAGMA application_id")
    ((schema,),) = connection.execute("PRAGMA user_version")
    _require_ours(name, application, schema)
    found, expected = _schema(connection), _expected_schema()
    if found != expected:
        strange = ", ".join(sorted({f"{row[0]} {row[1]!r}" for row in found ^ expected}))
        raise StoreError(
            f"{name} does not hold the tables of a store ({strange[:200]}); do not trust it, ask "
            "whoever made it for a store that normcompass wrote."
        )
    ((problem,),) = connection.execute("PRAGMA integrity_check(1)")
    if problem != "ok" or connection.execute("PRAGMA foreign_key_check").fetchone():
        raise StoreError(f"{name} is damaged ({problem}); {RESTORE}.")
    check(connection)


def _schema(connection: sqlite3.Connection) -> frozenset[tuple[str, str, str, str | None]]:
    """Type, name, table and SQL of everything that the file declares."""
    return frozenset(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"))


@cache
def _expected_schema() -> frozenset[tuple[str, str, str, str | None]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        _create(connection)
        return _schema(connection)


def _create(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA application_id = {_APPLICATION}")
    connection.execute(f"PRAGMA user_version = {SCHEMA}")
    for statement in _TABLES:
        connection.execute(statement)


def _connect(path: Path, query: str) -> _Connection:
    """Connect without implicit transactions; functions and extensions named in a file stay unused."""
    connection = sqlite3.connect(
        f"{path.as_uri()}?{query}",
        uri=True,
        isolation_level=None,
        timeout=_PATIENCE,
        factory=_Connection,
    )
    try:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST)
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Readers and a writer at once; a commit is one append, whole or invisible."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            break
        except sqlite3.OperationalError as error:
            # SQLite itself does not wait when two processes switch a new file at once.
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    # What a killed process wrote is with the operating system: no sync is needed to keep it.  After
    # a power failure the log may lack its last commits, never a part of one: those networks are
    # simulated again.  FULL would sync at each commit to keep them.
    connection.execute("PRAGMA synchronous = NORMAL")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _size(path: Path, suffix: str) -> int:
    beside = path.with_name(path.name + suffix)
    return beside.stat().st_size if beside.exists() else 0
