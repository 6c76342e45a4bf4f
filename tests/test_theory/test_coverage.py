"""The matrix of coverage: every cell has a route or a reason, and routes answer where they say so."""

from __future__ import annotations

import json

import numpy as np
import pytest

import theory as th
from montecarlo.cli import main
from theory.coverage import LAYERS, STATES, coverage
from theory.operators import bind_push
from theory.program import NormAct
from theory.states.full import Full
from theory.states.grid import Grid

OWN = coverage()


def test_every_cell_has_a_route_or_a_reason():
    assert len(OWN) == len(LAYERS) * len(STATES) * 2
    for cell in OWN:
        assert (cell.route is None) == (len(cell.reason) > 20)
        assert (cell.route is None) == (cell.taken_by is None)


def test_only_pools_of_one_activation_are_empty():
    """With the activations that the layers bring, nothing that is defined lacks a route."""
    empty = {(cell.normalizer, cell.state) for cell in OWN if cell.route is None}
    single = {(name, state) for name in ("IN", "FRN") for state in ("samples alike", "samples")}
    assert empty == single


def test_full_covariances_are_complete():
    for eps in (0.0, 1e-5):
        for phi in (None, th.tanh, th.gelu, th.sin):
            cells = [c for c in coverage(activation=phi, eps=eps) if c.state == STATES[-1].name]
            assert all(cell.route is not None for cell in cells)


@pytest.mark.parametrize("name", LAYERS)
def test_the_route_that_is_named_is_the_one_taken(name):
    (named,) = (
        c.route
        for c in OWN
        if (c.normalizer, c.state, c.want) == (name, "(sample, position)", "forward")
    )
    layer = LAYERS[name]
    q = np.linspace(1.0, 2.0, 64)
    gap = 1.0 - np.exp(-np.abs(np.subtract.outer(q, q)))
    state = Grid(Full(q, gap, np.zeros(64)), (16,))
    assert bind_push(NormAct(layer.norm, layer.activation), state)[1] == named


def test_the_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["table", "--coverage"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    for text in ("(sample, position)", "EvoNorm-B0", "RQMC | RQMC", "[1] IN pools positions"):
        assert text in out
    with pytest.raises(SystemExit):
        main(["table", "--coverage", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["kind"] == "coverage"
    assert len(document["rows"]) == 4 * len(OWN)
