"""Estimates, tables and files."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import montecarlo as mc
from montecarlo.observables import OBSERVABLES
from theory.errors import StoreError
from theory.specs import serialize
from theory.specs.inputs import exchangeable
from theory.specs.networks import FeedForward, Layer
from theory.specs.normalizers import batch_norm

NETWORK = FeedForward(Layer(norm=batch_norm()), depth=3)


@pytest.fixture(scope="module")
def sim():
    return mc.simulate(
        NETWORK, exchangeable(batch=4, correlation=0.5), width=16, replicates=40, seed=3
    )


def test_estimates(sim):
    for name in OBSERVABLES:
        estimate, values = getattr(sim, name), sim.samples[name]
        assert values.shape == (40, 3)
        assert estimate.n == 40
        np.testing.assert_array_equal(estimate.mean, values.mean(axis=0))
        np.testing.assert_allclose(estimate.sem, values.std(axis=0, ddof=1) / math.sqrt(40))
    assert (sim.replicates, sim.depth, sim.width) == (40, 3, 16)
    assert "similarity" in dir(sim)
    with pytest.raises(AttributeError, match="similarty"):
        _ = sim.similarty


def test_gradient_norm_is_a_ratio_of_means(sim):
    squared = sim.samples["squared_gradient"]
    norm = np.sqrt(squared.mean(axis=0) / squared.mean(axis=0)[-1])
    np.testing.assert_allclose(sim.gradient_norm.mean, norm, rtol=1e-12)
    assert sim.gradient_norm.sem[-1] == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(
        sim.log_gradient_norm.mean, 0.5 * np.log(squared / squared[:, -1:]).mean(axis=0), atol=1e-13
    )


def test_gradient_norm_error_is_the_jackknifes(sim):
    """Delta method and jackknife agree to O(1/n)."""
    squared = sim.samples["squared_gradient"]
    n = len(squared)
    left_out = (squared.sum(axis=0) - squared) / (n - 1)
    norms = np.sqrt(left_out / left_out[:, -1:])
    jackknife = np.sqrt((n - 1) * norms.var(axis=0))
    np.testing.assert_allclose(sim.gradient_norm.sem[:-1], jackknife[:-1], rtol=0.1)


def test_one_network_has_no_standard_error():
    single = mc.simulate(NETWORK, exchangeable(batch=4, correlation=0.5), width=16, replicates=1)
    assert np.isinf(single.similarity.sem).all()
    assert np.isinf(single.gradient_norm.sem).all()


def test_frame(sim):
    frame = sim.to_frame()
    assert list(frame.index) == [1, 2, 3]
    np.testing.assert_array_equal(frame["similarity_sem"], sim.similarity.sem)
    np.testing.assert_array_equal(frame["gradient_norm"], sim.gradient_norm.mean)


@pytest.mark.parametrize("name", ["run.json", "run", "run.v2"])
def test_save_and_load(sim, tmp_path, name):
    sim.save(tmp_path / name)
    again = mc.load(tmp_path / name)
    stem = name.removesuffix(".json")
    assert {file.name for file in tmp_path.iterdir()} == {f"{stem}.json", f"{stem}.npz"}
    assert again.provenance == sim.provenance
    for name, values in sim.samples.items():
        np.testing.assert_array_equal(again.samples[name], values)
    assert serialize.from_dict(again.provenance["network_spec"]) == NETWORK
    assert again.provenance["seed"] == 3


@pytest.mark.parametrize("damage", ["missing", "npz", "kind", "schema", "text", "names"])
def test_damaged_files(sim, tmp_path, damage):
    path = tmp_path / "run.json"
    sim.save(path)
    document = json.loads(path.read_text())
    match damage:
        case "missing":
            path.unlink()
        case "npz":
            path.with_suffix(".npz").write_bytes(b"PK nothing")
        case "kind":
            path.write_text(json.dumps(document | {"kind": "prediction"}))
        case "schema":
            path.write_text(json.dumps(document | {"schema": 99}))
        case "text":
            path.write_text("{")
        case _:
            np.savez(path.with_suffix(".npz"), similarity=np.zeros((2, 2)))
    with pytest.raises(StoreError, match=r"run\.json"):
        mc.load(path)
