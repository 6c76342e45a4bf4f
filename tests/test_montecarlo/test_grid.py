"""simulate_many: every cell is what simulate gives; bad cells are found before any work."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import montecarlo as mc
from montecarlo import collect
from theory.errors import SpecificationError
from theory.specs.inputs import exchangeable, from_data
from theory.specs.networks import FeedForward, Layer
from theory.specs.normalizers import batch_norm, group_norm
from theory.specs.weights import weight_norm

NETWORKS = {
    "BN": FeedForward(Layer(norm=batch_norm()), depth=3),
    "GN": FeedForward(Layer(norm=group_norm(4)), depth=4),
    "WN": FeedForward(Layer(weights=weight_norm()), depth=2),
}
BATCHES = {
    "alike": exchangeable(batch=4, correlation=0.9),
    "data": from_data(np.random.default_rng(0).standard_normal((3, 7))),
}
WIDTHS = [16, 24]


@pytest.fixture(scope="module")
def grid():
    return mc.simulate_many(NETWORKS, BATCHES, widths=WIDTHS, replicates=5, seed=4)


def test_each_cell_is_a_simulation(grid):
    assert len(grid) == len(NETWORKS) * len(BATCHES) * len(WIDTHS)
    for network, inputs, width in grid:
        alone = mc.simulate(
            NETWORKS[network], BATCHES[inputs], width=width, replicates=5, seed=4, workers=1
        )
        cell = grid[network, inputs, width]
        assert cell.provenance == alone.provenance
        for name, values in alone.samples.items():
            np.testing.assert_array_equal(cell.samples[name], values)


def test_tidy_table(grid):
    table = grid.to_frame()
    assert list(table.columns[:5]) == ["network", "inputs", "width", "observable", "layer"]
    keys = ["network", "inputs", "width", "observable", "layer"]
    assert not table.duplicated(keys).any()
    row = table.set_index(keys).loc[("GN", "data", 24, "similarity", 4)]
    similarity = grid["GN", "data", 24].similarity
    assert (row["mean"], row["sem"], row["replicates"]) == (
        similarity.mean[3],
        similarity.sem[3],
        5,
    )
    assert set(table["network"]) == set(NETWORKS)


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_and_store_change_nothing(grid, workers, tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "_JOB_SECONDS", 1e-4)  # many small jobs
    arguments = {"widths": WIDTHS, "seed": 4, "store": tmp_path / "runs.db"}
    mc.simulate_many(NETWORKS, BATCHES, replicates=2, workers=workers, **arguments)
    rest = mc.simulate_many(NETWORKS, BATCHES, replicates=5, workers=1, **arguments)
    assert all(cell.provenance["from_store"] == 2 for cell in rest.values())
    for cell, simulation in grid.items():
        for name, values in simulation.samples.items():
            np.testing.assert_array_equal(rest[cell].samples[name], values)


def test_one_batch_for_all():
    single = mc.simulate_many(
        {"BN": NETWORKS["BN"]}, BATCHES["alike"], widths=16, replicates=1, backward=False
    )
    assert list(single) == [("BN", "inputs", 16)]
    assert "log_gradient_norm" not in set(single.to_frame()["observable"])


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"widths": []}, "widths"),
        ({"widths": [16, 18]}, "width = 18"),  # no multiple of 4
        ({"widths": [16, 2.5]}, "width"),
        ({"replicates": 0}, "replicates"),
        ({"networks": {}}, "networks"),
        ({"networks": NETWORKS["BN"]}, "networks"),
        ({"networks": {"BN": 3}}, "network = 3"),
        ({"inputs": {}}, "inputs"),
        ({"inputs": 7}, "inputs"),
        ({"inputs": {"one": exchangeable(batch=1)}}, "batch"),
        ({"method": "collapsed"}, "method"),  # Weight Norm with gradients
        ({"store": 3}, "store"),
    ],
)
def test_bad_cells_are_found_before_any_work(change, argument, monkeypatch):
    monkeypatch.setattr(collect, "execute", lambda *_, **__: pytest.fail("started to compute"))
    arguments = {
        "networks": NETWORKS,
        "inputs": BATCHES,
        "widths": WIDTHS,
        "replicates": 2,
    } | change
    with pytest.raises(SpecificationError, match=argument):
        mc.simulate_many(arguments.pop("networks"), arguments.pop("inputs"), **arguments)


def test_one_network_under_two_names_is_simulated_once(monkeypatch):
    asked = []
    original = collect.run_job
    monkeypatch.setattr(collect, "run_job", lambda job: asked.extend(job.indices) or original(job))
    twins = mc.simulate_many(
        {"a": NETWORKS["BN"], "b": NETWORKS["BN"]}, BATCHES["alike"], widths=[16], replicates=4
    )
    assert sorted(asked) == [0, 1, 2, 3]
    first, second = twins.values()
    np.testing.assert_array_equal(first.samples["gap"], second.samples["gap"])


def test_bits_do_not_depend_on_blas_threads():
    """Inputs are realized by products that BLAS may share among threads, if it is let."""
    network, wide = {"BN": NETWORKS["BN"]}, exchangeable(batch=32, correlation=0.5)
    found = []
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            grid = mc.simulate_many(network, wide, widths=[1500], replicates=2, workers=1)
        found.append(grid["BN", "inputs", 1500].samples["log_gradient_ratio"])
    np.testing.assert_array_equal(*found)


@pytest.mark.timeout(120)
def test_dask_cluster_loses_a_worker(tmp_path, monkeypatch):
    """The same table from a cluster with two processes, one of them killed in the middle."""
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(collect, "_JOB_SECONDS", 5e-3)
    networks = {"BN": FeedForward(Layer(norm=batch_norm()), depth=10)}
    arguments = {"widths": [128], "replicates": 300, "seed": 2}
    expected = mc.simulate_many(networks, BATCHES["alike"], workers=1, **arguments)
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    )
    with cluster, distributed.Client(cluster, set_as_default=False) as client:
        processes = client.run(os.getpid)
        victim = next(iter(processes.values()))
        store = mc.Store(tmp_path / "runs.db")
        killed = []
        add = store.add

        def kill_once(*args, **kwargs):
            add(*args, **kwargs)
            if not killed:
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)

        monkeypatch.setattr(store, "add", kill_once)
        with store:
            found = mc.simulate_many(
                networks, BATCHES["alike"], client=client, store=store, **arguments
            )
    assert killed
    for name, values in expected["BN", "inputs", 128].samples.items():
        np.testing.assert_array_equal(found["BN", "inputs", 128].samples[name], values)
