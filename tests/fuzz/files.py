"""Files to read and places to write: whole, damaged, foreign, read-only."""

from __future__ import annotations

import ctypes
import shutil
import sqlite3
from pathlib import Path
from random import Random

import montecarlo as mc
from tests.fuzz.targets import BATCH, NET, PREDICTION, SIMULATION

__all__ = ["WHOLE", "as_anybody", "damage", "furnish", "make_whole"]

WHOLE = ("runs.db", "simulation.json", "simulation.npz", "prediction.json", "prediction.npz")


def make_whole(folder: Path) -> None:
    """A store, a simulation and a prediction, whole, to be copied."""
    folder.mkdir()
    mc.simulate(NET, BATCH, width=8, replicates=2, workers=1, store=folder / "runs.db")
    SIMULATION().save(folder / "simulation.json")
    PREDICTION().save(folder / "prediction.json")
    with sqlite3.connect(folder / "foreign.db") as connection:
        connection.execute("CREATE TABLE strange (a)")
    connection.close()


def furnish(rng: Random, whole: Path, folder: Path) -> None:
    """Copies of the whole files, half of the time one damaged, and places where nothing can be written."""
    shutil.copytree(whole, folder)
    folder.chmod(0o755)
    if rng.random() < 0.5:
        damage(rng, folder / rng.choice(WHOLE))
    (folder / "text.json").write_text("[1, 2]", encoding="utf-8")
    (folder / "empty.db").write_bytes(b"")
    shutil.copy(whole / "runs.db", folder / "sealed.db")
    (folder / "sealed.db").chmod(0o444)
    (folder / "full.json").symlink_to("/dev/full")
    (folder / "loop.db").symlink_to(folder / "loop.db")
    (folder / "sealed").mkdir()
    shutil.copy(whole / "runs.db", folder / "sealed")
    (folder / "sealed").chmod(0o555)


def damage(rng: Random, path: Path) -> None:
    """Truncate, overwrite some bytes, flip one bit, append, replace or remove."""
    content = bytearray(path.read_bytes())
    if not content:
        return
    at = rng.randrange(len(content))
    match rng.randrange(7):
        case 4 | 5:
            content[at] ^= 1 << rng.randrange(8)
            path.write_bytes(content)
        case 0:
            path.write_bytes(content[:at])
        case 1:
            content[at : at + 8] = rng.randbytes(8)
            path.write_bytes(content)
        case 2:
            path.write_bytes(bytes(content) + rng.randbytes(100))
        case 3:
            path.write_bytes(rng.randbytes(200))
        case _:
            path.unlink()


def as_anybody() -> None:
    """Let permissions hold for root too: the next program run here does not override them (Linux)."""
    drop_from_bounding_set, override, read_search = 24, 1, 2
    libc = ctypes.CDLL(None)
    for capability in (override, read_search):
        libc.prctl(drop_from_bounding_set, capability, 0, 0, 0)
