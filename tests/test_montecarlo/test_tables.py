"""The table of every normalizer: its numbers are predict's and simulate's, its gaps have reasons."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

import montecarlo as mc
import theory as th
from montecarlo import group_curve, tables
from montecarlo.tables import Ensemble, zoo_table
from theory.errors import SpecificationError

DEPTH, BATCH = 6, 4
LAYERS = {
    **{name: tables.NORMALIZERS[name] for name in ("plain", "WN", "BN", "VN", "IN", "GN(8)", "LN")},
    "GN(2)": th.Layer(norm=th.group_norm(2)),
    "GN(3)": th.Layer(norm=th.group_norm(3)),
    "EvoNorm-S0": tables.NORMALIZERS["EvoNorm-S0"],
}
SHAPES = ((1,), (4, 4))
ENSEMBLE = Ensemble(width=48, replicates=3, seed=5)
INPUTS = {
    1: th.exchangeable(batch=BATCH, correlation=0.5),
    16: th.exchangeable(batch=BATCH, correlation=0.5, positions=(4, 4), position_correlation=0.5),
}
FORWARD = ("second_moment", "variance", "similarity", "stable_rank")


@pytest.fixture(scope="module")
def steps():
    return []


@pytest.fixture(scope="module")
def table(steps):
    return zoo_table(
        normalizers=LAYERS,
        positions=SHAPES,
        depth=DEPTH,
        batch=BATCH,
        ensemble=ENSEMBLE,
        workers=1,
        advance=steps.append,
    )


def network(name: str, positions: int) -> th.FeedForward:
    """The network of a cell, built anew."""
    layer = LAYERS[name]
    kernel = 3 if positions > 1 else 1
    layer = th.Layer(
        norm=layer.norm, weights=layer.weights, activation=layer.activation, kernel=kernel
    )
    return th.FeedForward(layer, depth=DEPTH)


def cell(table, name: str, positions: int):
    """Observable -> row."""
    chosen = table[(table["normalizer"] == name) & (table["positions"] == positions)]
    return {row["observable"]: row for row in chosen.to_dict(orient="records")}


def test_one_row_for_each_cell_and_observable(table, steps):
    assert len(table) == len(LAYERS) * len(SHAPES) * len(tables.OBSERVABLES)
    assert not table.duplicated(["normalizer", "positions", "observable"]).any()
    assert len(steps) == 2 * len(LAYERS) * len(SHAPES)
    assert set(table["positions"]) == {1, 16}


def test_it_has_every_normalizer_of_the_paper():
    assert set(th.zoo) <= set(tables.NORMALIZERS)
    assert {"GN(2)", "GN(4)", "GN(16)", "GN(64)"} <= set(tables.NORMALIZERS)
    assert [math.prod(shape) for shape in tables.POSITIONS] == [1, 16, 64]


@pytest.mark.parametrize("positions", [1, 16])
@pytest.mark.parametrize("name", ["plain", "WN", "BN", "GN(8)", "LN"])
def test_theory_is_predict_and_fixed_point(table, name, positions):
    net = network(name, positions)
    prediction = th.predict(net, INPUTS[positions])
    point = th.fixed_point(net, INPUTS[positions])
    logs = prediction.log_gradient_norm
    assert logs is not None
    low, high = tables.window(DEPTH)
    expected = {observable: getattr(prediction, observable)[-1] for observable in FORWARD}
    expected["log_gradient_norm"] = logs[0]
    expected["gradient_growth"] = np.exp(2.0 * (logs[low - 1] - logs[high - 1]) / (high - low))
    expected["fixed_similarity"] = point.similarity
    expected["fixed_growth"] = point.gradient_growth
    found = cell(table, name, positions)
    for observable, value in expected.items():
        assert found[observable]["theory"] == pytest.approx(value, rel=1e-12, abs=1e-14)
        assert found[observable]["theory_reason"] == ""
    assert found["similarity"]["error"] == prediction.error["similarity"][-1]


@pytest.mark.parametrize(("name", "positions"), [("BN", 1), ("IN", 16), ("EvoNorm-S0", 16)])
def test_the_simulation_is_simulate(table, name, positions):
    simulation = mc.simulate(
        network(name, positions),
        INPUTS[positions],
        width=48 if positions > 1 else 192,
        replicates=3,
        seed=5,
        dtype="float32",
        workers=1,
    )
    found = cell(table, name, positions)
    for observable in FORWARD:
        estimate = getattr(simulation, observable)
        assert found[observable]["mean"] == estimate.mean[-1]
        assert found[observable]["sem"] == estimate.sem[-1]
    whole = simulation.log_gradient_norm
    assert found["log_gradient_norm"]["mean"] == whole.mean[0]
    low, high = tables.window(DEPTH)
    ratio = simulation.samples["log_gradient_ratio"]
    growth = np.exp((ratio[:, low - 1] - ratio[:, high - 1]).mean() / (high - low))
    assert found["gradient_growth"]["mean"] == pytest.approx(growth, rel=1e-12)
    assert found["gradient_growth"]["networks"] == 3


def test_a_cell_has_a_number_or_a_reason(table):
    for value, reason in (("theory", "theory_reason"), ("mean", "simulation_reason")):
        assert (np.isfinite(table[value]) == (table[reason] == "")).all()
        assert table[reason].str.fullmatch(r"|[\w .]{4,12}: .{20,}").all()


@pytest.mark.parametrize(
    ("name", "positions", "observable", "word"),
    [
        ("IN", 1, "similarity", "undefined"),
        ("EvoNorm-S0", 16, "fixed_growth", "unsought"),
        ("GN(2)", 1, "log_gradient_norm", "zero"),
        ("GN(3)", 1, "gradient_growth", "inf. mean"),
        ("GN(3)", 1, "fixed_growth", "inf. mean"),
        ("VN", 1, "log_gradient_norm", "inf. mean"),
        ("VN", 16, "fixed_growth", "no limit"),
    ],
)
def test_reasons(table, name, positions, observable, word):
    row = cell(table, name, positions)[observable]
    assert row["theory_reason"].startswith(f"{word}: ")
    assert math.isnan(row["theory"])


def test_infinite_means_still_have_a_simulation(table):
    row = cell(table, "GN(3)", 1)["log_gradient_norm"]
    assert row["regime"] == "infinite"
    assert row["mean"] > 0.0


def test_gradients_that_are_zero(table):
    row = cell(table, "GN(2)", 1)["log_gradient_norm"]
    assert row["simulation_reason"].startswith("zero: ")


def test_theory_alone():
    found = zoo_table(normalizers={"BN": th.zoo["BN"]}, positions=((1,),), depth=2, workers=1)
    assert found["simulation_reason"].str.startswith("not asked: ").all()
    assert (found["networks"] == 0).all()
    assert found["theory_reason"].eq("").all()


def test_one_layer_has_no_growth():
    found = zoo_table(
        normalizers={"LN": th.zoo["LN"]},
        positions=((1,),),
        depth=1,
        ensemble=Ensemble(width=16, replicates=2),
        workers=1,
    )
    row = cell(found, "LN", 1)["gradient_growth"]
    assert row["theory_reason"].startswith("one layer: ")
    assert row["simulation_reason"] == row["theory_reason"]


def test_one_network_has_no_standard_error():
    found = zoo_table(
        normalizers={"LN": th.zoo["LN"]},
        positions=((1,),),
        depth=3,
        ensemble=Ensemble(width=16, replicates=1),
        workers=1,
    )
    row = cell(found, "LN", 1)["gradient_growth"]
    assert math.isfinite(row["mean"])
    assert row["sem"] == math.inf


def test_workers_do_not_matter():
    layers = {name: LAYERS[name] for name in ("BN", "GN(8)")}
    one, two = (
        zoo_table(normalizers=layers, positions=((16,),), depth=2, workers=workers)
        for workers in (1, 2)
    )
    numbers = one.select_dtypes("number").columns
    np.testing.assert_allclose(one[numbers], two[numbers], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch": 1}, "batch = 1"),
        ({"depth": 0}, "depth = 0"),
        ({"correlation": 2.0}, "correlation = 2"),
        ({"positions": ((0,),)}, "positions = 0"),
        ({"positions": ((2, 2),)}, "kernel = 3"),
        ({"ensemble": Ensemble(width=20)}, "width = 20"),
        ({"ensemble": Ensemble(replicates=0)}, "replicates = 0"),
    ],
    ids=str,
)
def test_mistakes_are_found_before_anything_is_computed(arguments, words):
    steps: list[str] = []
    with pytest.raises(SpecificationError, match=re.escape(words)):
        zoo_table(**{"normalizers": LAYERS, "advance": steps.append, **arguments})
    assert steps == []


@pytest.mark.parametrize(
    ("depth", "layers"), [(1, (1, 1)), (2, (1, 2)), (3, (2, 3)), (6, (3, 5)), (24, (9, 17))]
)
def test_growth_is_read_in_the_middle(depth, layers):
    assert tables.window(depth) == layers


@pytest.fixture(scope="module")
def line():
    layers = {name: group_curve.LINE[name] for name in ("GN(4)", "IN", "LN", "GN(8)")}
    return zoo_table(normalizers=layers, positions=SHAPES, depth=3, workers=1)


class TestGroupCurve:
    def test_sizes(self):
        sizes = [group_curve.group_size(name) for name in group_curve.LINE]
        assert sizes == sorted(sizes)
        assert (sizes[0], sizes[-1]) == (1.0, math.inf)
        assert math.isnan(group_curve.group_size("FRN"))

    def test_panels(self, line, table):
        figure = group_curve.draw(line, table, depth=3)
        similarity, growth, frontier = figure.axes
        # Solid and dashed for each number of positions; by ascending group size, LN last.
        curve = next(drawn for drawn in similarity.lines if len(drawn.get_xdata()) == 4)
        assert list(curve.get_xdata()) == [1.0, 4.0, 8.0, 256.0]
        expected = [
            cell(line, name, 1)["similarity"]["theory"] for name in ("IN", "GN(4)", "GN(8)", "LN")
        ]
        np.testing.assert_array_equal(curve.get_ydata(), expected)
        for ax in (similarity, growth, frontier):
            assert len(ax.containers) == len(SHAPES)
            assert ax.get_xlabel()
            assert ax.get_ylabel()
        assert len(figure.legends[0].get_texts()) == len(SHAPES) + 3

    def test_theory_alone_has_no_points(self, line):
        figure = group_curve.draw(line, None, depth=3)
        assert not any(ax.containers for ax in figure.axes)
        assert "simulation" not in " ".join(t.get_text() for t in figure.legends[0].get_texts())
