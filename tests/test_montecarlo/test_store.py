"""The store: what comes back, what survives a kill, what is refused and left as it was."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from montecarlo import database, records, store
from montecarlo.experiment import Experiment
from montecarlo.observables import OBSERVABLES
from montecarlo.store import Store, environment
from theory.errors import SpecificationError, StoreError
from theory.specs.inputs import exchangeable, from_data
from theory.specs.networks import FeedForward, Layer
from theory.specs.normalizers import batch_norm, layer_norm

ROOT = Path(store.__file__).parents[1]
DEPTH = 3
SHAPE = (len(OBSERVABLES), DEPTH)


def make(**changes):
    fields = {
        "network": FeedForward(Layer(norm=batch_norm()), depth=DEPTH),
        "inputs": exchangeable(batch=4, correlation=0.5),
        "width": 16,
        "seed": 0,
        "dtype": "float64",
        "method": "direct",
    }
    return Experiment(**(fields | changes))


EXPERIMENT = make()


def values(indices):
    """Numbers that a replicate determines, of all sizes; NaN and infinities among them."""
    tables = np.array([np.random.default_rng(int(r)).normal(size=SHAPE) for r in indices])
    tables = tables.reshape(-1, *SHAPE) * 10.0 ** np.arange(-150, 150, 100)
    tables[:, 0, 0], tables[:, 1, 0], tables[:, 2, 0] = np.nan, np.inf, -np.inf
    return tables


def assert_same_bits(found, expected):
    assert found.dtype == np.float64
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


def assert_whole(path):
    """The file opens, and what it holds is right to the last bit; returns the replicates."""
    with Store(path) as opened:
        indices = opened.indices(EXPERIMENT)
        if indices:
            assert_same_bits(opened.read(EXPERIMENT, indices), values(indices))
    return indices


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def edit(path, *statements):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(*((statement,) if isinstance(statement, str) else statement))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def child(code, path, *arguments):
    """A process that runs ``code`` with this module's names and ``path``."""
    prelude = f"""
        import importlib.util, os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(ROOT)!r})
        spec = importlib.util.spec_from_file_location("helpers", {__file__!r})
        helpers = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(helpers)
        from montecarlo import database
        from montecarlo.store import Store
        EXPERIMENT, values, path = helpers.EXPERIMENT, helpers.values, Path(sys.argv[1])
    """
    text = textwrap.dedent(prelude) + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", text, str(path), *map(str, arguments)],
        stdout=subprocess.PIPE,
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs.db"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A closed store of twelve networks in two runs; copy it."""
    path = tmp_path_factory.mktemp("template") / "template.db"
    with Store(path) as opened:
        opened.add(EXPERIMENT, range(8), values(range(8)))
        opened.add(make(seed=1), range(4), values(range(4)))
    return path


@pytest.fixture
def filled(template, path):
    shutil.copy(template, path)
    return path


def test_round_trip_is_bit_identical(path):
    tables = values([5, 0, 9])
    with Store(path) as opened:
        assert opened.indices(EXPERIMENT) == []
        assert opened.runs() == []
        opened.add(EXPERIMENT, [5, 0, 9], tables)
        assert opened.indices(EXPERIMENT) == [0, 5, 9]
        assert_same_bits(opened.read(EXPERIMENT, [5, 0, 9]), tables)
    with Store(str(path)) as opened:
        assert_same_bits(opened.read(EXPERIMENT, np.array([9, 9, 0])), tables[[2, 2, 1]])
        assert opened.read(EXPERIMENT, []).shape == (0, *SHAPE)
        with pytest.raises(StoreError, match=r"runs\.db holds no network 1 of run"):
            opened.read(EXPERIMENT, [0, 1])
        with pytest.raises(StoreError, match="no networks of run"):
            opened.read(make(seed=7), [0])
    assert [file.name for file in path.parent.iterdir()] == ["runs.db"]


def test_adding_again_changes_nothing(filled):
    with Store(filled) as opened:
        opened.add(EXPERIMENT, [7, 8, 8], np.concatenate([values([1]), values([8, 8])]))
        opened.add(EXPERIMENT, [], values([]))
        opened.add(make(seed=9), [], values([]))
        assert [run.replicates for run in opened.runs()] == [9, 4]
    assert assert_whole(filled) == list(range(9))


@pytest.mark.parametrize(
    ("indices", "tables"),
    [
        ([-1], values([0])),
        ([1.0], values([0])),
        ([2**63], values([0])),
        ([0, 1], values([0])),
        ([0], values([0])[:, 1:]),
        ([0], values([0])[0]),
    ],
)
def test_arguments_that_make_no_sense(filled, indices, tables):
    with Store(filled) as opened, pytest.raises(SpecificationError, match="must be"):
        opened.add(make(seed=5), indices, tables)
    assert assert_whole(filled) == list(range(8))


def test_what_could_not_be_opened_again_is_not_written(path):
    with Store(path) as opened:
        for bad in (make(width=16.0), make(dtype="float 64"), make(method="direct\x1b[2J")):
            with pytest.raises(SpecificationError, match="experiment"):
                opened.add(bad, [0], values([0]))
        with pytest.raises(SpecificationError, match="computed_in"):
            opened.add(EXPERIMENT, [0], values([0]), computed_in={"python": "3\n"})
        assert opened.runs() == []


def test_runs(path):
    data = np.random.default_rng(0).normal(size=(3, 5))
    other = make(
        network=FeedForward(Layer(norm=layer_norm()), depth=DEPTH),
        inputs=from_data(data),
        dtype="float32",
        method="collapsed",
        backward=False,
        seed=2**70,
    )
    begun = int(time.time())
    elsewhere = {"python": "3.99", "processor": "abacus"}
    with Store(path) as opened:
        opened.add(other, range(3), values(range(3)), computed_in=elsewhere)
        opened.add(EXPERIMENT, range(2), values(range(2)))
        opened.add(other, [7], values([7]))
    with Store(path) as opened:
        first, second = opened.runs()
        assert (first.key, first.id, first.replicates) == (other.key, other.key[:12], 4)
        assert (first.network, first.inputs, first.experiment) == (
            (other.network, other.inputs, other)
        )
        assert (first.width, first.seed, first.dtype) == (16, 2**70, "float32")
        assert (first.method, first.backward, first.depth) == ("collapsed", False, DEPTH)
        assert first.document == other.document
        assert first.environments == (elsewhere, environment())
        assert begun <= first.created.timestamp() <= first.updated.timestamp() <= time.time()
        assert first.created.utcoffset().total_seconds() == 0
        assert second.environments == (environment(),)
        assert {"python", "numpy", "numba", "normcompass", "blas", "processor"} <= {*environment()}
        samples = opened.samples(first)
        assert tuple(samples) == OBSERVABLES == first.observables
        for row, name in enumerate(OBSERVABLES):
            assert_same_bits(samples[name], values([0, 1, 2, 7])[:, row])
        assert opened.indices(first) == [0, 1, 2, 7]


def test_find(filled):
    with Store(filled) as opened:
        for run in opened.runs():
            assert opened.find(run.id) == opened.find(run.key) == run
        with pytest.raises(StoreError, match=f"2 runs in runs.db .*{EXPERIMENT.key[:12]}"):
            opened.find("")
        with pytest.raises(StoreError, match=f"No run in runs.db .*'x'.*{EXPERIMENT.key[:12]}"):
            opened.find("x")


def test_other_observables(filled, monkeypatch):
    """A run of another version can be listed and exported, not continued."""
    monkeypatch.setattr("montecarlo.experiment.observables_of", lambda _: OBSERVABLES[:-1])
    with Store(filled) as opened:
        for call in (
            lambda: opened.indices(EXPERIMENT),
            lambda: opened.read(EXPERIMENT, [0]),
            lambda: opened.add(EXPERIMENT, [9], values([9])[:, :-1]),
        ):
            with pytest.raises(StoreError, match=r"other observables .*simulate into a new file"):
                call()
        run = opened.find(EXPERIMENT.key)
        assert_same_bits(opened.samples(run)["gap"], values(range(8))[:, OBSERVABLES.index("gap")])


def test_runs_of_other_versions_are_listed_but_not_rebuilt(path, monkeypatch):
    monkeypatch.setattr("montecarlo.experiment.ENGINE", 999)
    with Store(path) as opened:
        old = make(seed=3)
        opened.add(old, [0], values([0]))
    monkeypatch.undo()
    with Store(path) as opened:
        (run,) = opened.runs()
        assert (run.key, run.width) == (old.key, 16)
        with pytest.raises(StoreError, match="engine 999"):
            _ = run.experiment


@pytest.mark.parametrize("part", ["network", "inputs"])
@pytest.mark.parametrize("damage", ["kind", "nonsense", "deep", "swapped"])
def test_documents_that_describe_nothing(filled, part, damage):
    document = EXPERIMENT.document
    other = {"network": "inputs", "inputs": "network"}[part]
    document = document | {
        part: {
            "kind": document[part] | {"kind": "os.system"},
            "nonsense": [1],
            "deep": document[part] | {"kind": {"kind": {"kind": "layer"}}},
            "swapped": document[other],
        }[damage]
    }
    text = records.canonical(document)
    entry = records.Entry(3, records.digest(text), json.dumps(OBSERVABLES), DEPTH)
    machine = records.digest(records.canonical(environment()))
    blob = values([0])[0].tobytes()
    edit(
        filled,
        ("INSERT INTO experiments VALUES (3, ?, ?, ?, ?)", (entry.key, text, *entry[2:])),
        (
            "INSERT INTO networks VALUES (3, 0, 1, 0, ?, ?)",
            (records.checksum_of(entry, 0, machine, 0, blob), blob),
        ),
    )
    with Store(filled) as opened:
        run = opened.find(entry.key)
        with pytest.raises(StoreError, match=f"Run {run.id} "):
            _ = run.experiment


def test_closed_store(filled):
    opened = Store(filled)
    opened.close()
    opened.close()
    with pytest.raises(StoreError, match=r"runs\.db.*open it again"):
        opened.runs()


def test_two_processes_at_once(path):
    """Overlapping replicates, a file that does not exist yet: every network once, and right."""
    code = """
        first = int(sys.argv[2])
        with Store(path) as opened:
            for low in range(first, first + 60, 3):
                opened.add(EXPERIMENT, range(low, low + 3), values(range(low, low + 3)))
                found = opened.indices(EXPERIMENT)
                assert set(range(first, low + 3)) <= set(found)
    """
    processes = [child(code, path, first) for first in (0, 30)]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert assert_whole(path) == list(range(90))
    assert [file.name for file in path.parent.iterdir()] == ["runs.db"]


@pytest.mark.parametrize("commit", [1, 2, 4])
def test_killed_inside_a_commit(path, commit):
    """Commit 1 creates the tables, the others add four networks each: four, or none of them."""
    code = """
        left = [int(sys.argv[2])]
        def die():
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
        database._before_commit = die
        with Store(path) as opened:
            for low in (0, 4, 8):
                opened.add(EXPERIMENT, range(low, low + 4), values(range(low, low + 4)))
    """
    process = child(code, path, commit)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    done = 4 * max(commit - 2, 0)
    assert assert_whole(path) == list(range(done))
    with Store(path) as opened:
        opened.add(EXPERIMENT, range(12), values(range(12)))
    assert assert_whole(path) == list(range(12))


def test_killed_at_any_moment(path):
    """A process that does nothing but create and commit, killed at moments drawn with seed 0."""
    code = """
        print("ready", flush=True)
        with Store(path) as opened:
            low = len(opened.indices(EXPERIMENT))
            while True:
                opened.add(EXPERIMENT, range(low, low + 5), values(range(low, low + 5)))
                low += 5
    """
    generator = random.Random(0)
    before = 0
    for moment in [0.002, *(generator.uniform(0.0, 0.2) for _ in range(3))]:
        process = child(code, path)
        process.stdout.readline()
        time.sleep(moment)
        process.kill()
        process.communicate(timeout=60)
        indices = assert_whole(path)
        assert len(indices) >= before
        assert len(indices) % 5 == 0
        assert indices == list(range(len(indices)))
        before = len(indices)
    assert before > 0


def test_creation_killed_while_pages_were_written(path, template):
    """All pages but no end of the transaction: SQLite's rollback journal says "was empty"."""
    pages = template.read_bytes()[: 4096 * 5]
    journal = bytes.fromhex("d9d505f920a163d7") + bytes(12) + (512).to_bytes(4, "big")
    path.write_bytes(pages)
    path.with_name("runs.db-journal").write_bytes(
        (journal + (4096).to_bytes(4, "big")).ljust(512, b"\0")
    )
    assert assert_whole(path) == []
    assert [file.name for file in path.parent.iterdir()] == ["runs.db"]


def test_a_log_without_its_file(path):
    """SQLite would delete such a log, and with it networks."""
    log = path.with_name("runs.db-wal")
    log.write_bytes(b"networks")
    for create in (False, True):
        if create:
            path.touch()
        with pytest.raises(StoreError, match=r"runs\.db-wal holds networks"):
            Store(path)
        assert log.read_bytes() == b"networks"


def test_committed_networks_in_the_log_are_kept(path, tmp_path):
    """After a kill the newest networks are in the -wal file only; the copy is such a moment."""
    (tmp_path / "killed").mkdir()
    with Store(path) as opened:
        opened.add(EXPERIMENT, range(3), values(range(3)))
        for name, data in content(tmp_path).items():
            (tmp_path / "killed" / name).write_bytes(data)
    assert (tmp_path / "killed" / "runs.db-wal").stat().st_size > 0
    assert assert_whole(tmp_path / "killed" / "runs.db") == [0, 1, 2]


def foreign(path):
    edit(path, "CREATE TABLE addresses (name TEXT)", "PRAGMA journal_mode = WAL")


def replace(path, low, new):
    data = bytearray(path.read_bytes())
    data[low : low + len(new)] = new
    path.write_bytes(data)


DAMAGE = {
    "text": (lambda path: path.write_text("layer,mean\n" * 50), "not a store"),
    "short text": (lambda path: path.write_text("hello"), "not a store"),
    "pickle": (lambda path: path.write_bytes(b"\x80\x04\x95" + bytes(200)), "not a store"),
    "another application": (lambda path: (path.unlink(), foreign(path)), "another application"),
    "newer schema": (lambda path: edit(path, "PRAGMA user_version = 2"), "schema version 2"),
    "older schema": (lambda path: edit(path, "PRAGMA user_version = 0"), "schema version 0"),
    "header only": (lambda path: os.truncate(path, 100), r"runs\.db"),
    "one page": (lambda path: os.truncate(path, 4096), r"runs\.db"),
    "last page lost": (lambda path: os.truncate(path, path.stat().st_size - 4096), r"runs\.db"),
    "half a page lost": (lambda path: os.truncate(path, path.stat().st_size - 2048), r"runs\.db"),
    "zeros": (lambda path: replace(path, 4096, bytes(4096)), r"runs\.db"),
    "trigger": (
        lambda path: edit(
            path,
            "CREATE TRIGGER t AFTER INSERT ON networks BEGIN DELETE FROM networks; END",
        ),
        "tables of a store .*trigger 't'",
    ),
    "view": (
        lambda path: edit(path, "CREATE VIEW v AS SELECT load_extension('x')"),
        "tables of a store .*view 'v'",
    ),
    "virtual table": (
        lambda path: edit(path, "CREATE VIRTUAL TABLE v USING fts5(a)"),
        "tables of a store",
    ),
    "table": (lambda path: edit(path, "CREATE TABLE extra (a)"), "tables of a store"),
    "index": (
        lambda path: edit(path, "CREATE INDEX i ON networks (abs(created))"),
        "tables of a store",
    ),
    "table replaced by a view": (
        lambda path: edit(
            path,
            "ALTER TABLE networks RENAME TO hidden",
            "CREATE VIEW networks AS SELECT * FROM hidden",
        ),
        "tables of a store",
    ),
    "network of nothing": (
        lambda path: edit(path, "UPDATE networks SET environment = 99"),
        "is damaged",
    ),
    "moved to another replicate": (
        lambda path: edit(path, "UPDATE networks SET replicate = 77 WHERE replicate = 7"),
        "damaged network, 77",
    ),
    "moved to another run": (
        lambda path: edit(path, "UPDATE networks SET experiment = 2 WHERE replicate = 7"),
        "damaged network, 7",
    ),
    "short array": (
        lambda path: edit(path, "UPDATE networks SET observations = x'00' WHERE replicate = 3"),
        "damaged network, 3",
    ),
    "text for an array": (
        lambda path: edit(path, "UPDATE networks SET observations = 'abc' WHERE replicate = 3"),
        "damaged network, 3",
    ),
    "huge depth": (lambda path: edit(path, "UPDATE experiments SET depth = 1 << 60"), "damaged"),
    "depth as text": (lambda path: edit(path, "UPDATE experiments SET depth = 'x'"), "damaged run"),
    "observables": (
        lambda path: edit(path, "UPDATE experiments SET observables = '{\"gap\": 1}'"),
        "damaged run",
    ),
    "nested observables": (
        lambda path: edit(path, ("UPDATE experiments SET observables = ?", ("[" * 9**5,))),
        "damaged run",
    ),
    "document": (
        lambda path: edit(path, "UPDATE experiments SET document = '{}'"),
        "damaged run",
    ),
    "environment": (
        lambda path: edit(path, "UPDATE environments SET document = '{}'"),
        "damaged description of a machine",
    ),
    "not UTF-8": (
        lambda path: edit(path, "UPDATE experiments SET document = CAST(x'ff' AS TEXT)"),
        r"Cannot use runs\.db.*simulate again",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_refused_files_keep_every_byte(filled, name):
    damage, message = DAMAGE[name]
    damage(filled)
    before = content(filled.parent)
    with pytest.raises(StoreError, match=message) as caught:
        Store(filled)
    assert "runs.db" in str(caught.value)
    assert content(filled.parent) == before


def test_flipped_bits(filled, template):
    """Any bit (seed 0): refused with every byte in place, or it meant nothing and all is there."""
    whole = template.read_bytes()
    generator = random.Random(0)
    places = [*range(0, 8 * 100, 7), *(generator.randrange(8 * len(whole)) for _ in range(400))]
    refused = 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        filled.write_bytes(damaged)
        try:
            with Store(filled) as opened:
                assert_same_bits(opened.read(EXPERIMENT, range(8)), values(range(8)))
                assert [run.replicates for run in opened.runs()] == [8, 4]
        except StoreError:
            refused += 1
            assert content(filled.parent) == {"runs.db": bytes(damaged)}
    assert refused > 50


def test_damage_that_comes_later_is_seen_on_reading(filled):
    with Store(filled) as opened:
        edit(filled, "UPDATE networks SET created = created + 1 WHERE replicate = 2")
        opened.read(EXPERIMENT, [0, 1])
        with pytest.raises(StoreError, match=r"runs\.db has a damaged network, 2"):
            opened.read(EXPERIMENT, range(8))


def test_places_where_no_file_can_be(tmp_path):
    with pytest.raises(StoreError, match="no folder missing; create it"):
        Store(tmp_path / "missing" / "runs.db")
    with pytest.raises(StoreError, match="is not a file"):
        Store(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(StoreError, match="loop"):
        Store(tmp_path / "loop")
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


def test_links_and_odd_names(tmp_path, filled):
    (tmp_path / "far").mkdir()
    link = tmp_path / "far" / "link.db"
    link.symlink_to(filled)
    assert assert_whole(link) == list(range(8))
    odd = tmp_path / "a b?mode=ro#%41é.db"
    with Store(odd) as opened:
        opened.add(EXPERIMENT, [0], values([0]))
    assert assert_whole(odd) == [0]
    assert odd.is_file()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
@pytest.mark.parametrize("what", ["file", "folder", "unreadable"])
def test_no_permission(filled, what):
    target = filled.parent if what == "folder" else filled
    target.chmod({"file": 0o444, "folder": 0o555, "unreadable": 0o000}[what])
    try:
        with pytest.raises(StoreError, match=r"runs\.db"):
            Store(filled)
    finally:
        target.chmod(0o755)


def test_full_disk(path):
    with Store(path) as opened:
        opened.add(EXPERIMENT, range(3), values(range(3)))
        ((pages,),) = opened._connection.execute("PRAGMA page_count")
        opened._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match=r"runs\.db.*full.*free space"):
            opened.add(EXPERIMENT, range(3, 90), values(range(3, 90)))
        opened._connection.execute(f"PRAGMA max_page_count = {pages + 1000}")
        assert opened.indices(EXPERIMENT) == [0, 1, 2]
        opened.add(EXPERIMENT, [3], values([3]))
    assert assert_whole(path) == [0, 1, 2, 3]


def test_an_interrupt_rolls_back(filled, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    with Store(filled) as opened:
        with monkeypatch.context() as patch:
            patch.setattr(database, "_before_commit", interrupt)
            with pytest.raises(KeyboardInterrupt):
                opened.add(EXPERIMENT, [8], values([8]))
        assert opened.indices(EXPERIMENT) == list(range(8))
        opened.add(EXPERIMENT, [8], values([8]))
    assert assert_whole(filled) == list(range(9))


def test_a_second_store_in_the_same_process_keeps_the_locks(filled):
    """POSIX drops all locks of a process when it closes any of its handles of the file."""
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0)"
    code += ".execute('PRAGMA journal_mode = DELETE')"  # needs the file for itself
    with Store(filled) as opened:
        opened.indices(EXPERIMENT)
        with Store(filled) as second:
            second.add(EXPERIMENT, [8], values([8]))
        done = subprocess.run([sys.executable, "-c", code, str(filled)], capture_output=True)
        assert b"database is locked" in done.stderr
        assert opened.indices(EXPERIMENT) == list(range(9))


def test_a_long_lock_is_an_error(filled, monkeypatch):
    monkeypatch.setattr(database, "_PATIENCE", 0.05)
    with contextlib.closing(sqlite3.connect(filled, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"runs\.db.*locked.*other process"):
            Store(filled)
        other.execute("ROLLBACK")
    assert assert_whole(filled) == list(range(8))


def test_documents_beyond_the_limit(path, monkeypatch):
    monkeypatch.setattr(database, "LARGEST", 20_000)
    large = make(inputs=from_data(np.random.default_rng(0).normal(size=(2, 1000))))
    with Store(path) as opened:
        with pytest.raises(StoreError, match="too big"):
            opened.add(large, [0], values([0]))
        assert opened.runs() == []


def test_nothing_unpickles(filled, monkeypatch):
    import pickle

    def refuse(*_):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    with Store(filled) as opened:
        for run in opened.runs():
            assert run.experiment.seed in (0, 1)
            opened.samples(run)
    forbidden = {"pickle", "marshal", "shelve", "joblib", "dill", "cloudpickle"}
    for module in (store, records, database):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not forbidden & {name.split(".")[0] for name in names}
