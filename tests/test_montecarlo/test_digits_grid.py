"""Zero padding and a stride on 8x8 digits: theory within the error of simulated networks, 10 normalizers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import special

import montecarlo as mc
import theory as th
from montecarlo.digits import digits
from montecarlo.statistics import holm

OBSERVABLES = ("second_moment", "similarity", "stable_rank", "gradient_norm")
NAMES = ("BN", "LN", "IN", "GN(4)", "FRN", "VN", "EvoNorm-S0", "EvoNorm-B0", "WN", "SWS")
# Width -> networks: the bias is b/n, the intercept at 1/n = 0 is compared.
WIDTHS = {64: 96, 128: 64, 256: 40}


def network(name, *, stride=2):
    """Six zero-padded 3x3 layers; the third halves the sides."""
    layer = th.Layer(norm=th.group_norm(4)) if name == "GN(4)" else th.zoo[name]
    layer = dataclasses.replace(layer, kernel=3, padding="zero")
    strided = dataclasses.replace(layer, stride=stride)
    return th.Sequential((layer, layer, strided, layer, layer, layer))


def inputs(batch=4):
    return th.images(digits(batch=batch).reshape(batch, 1, 8, 8))


def intercepts(simulations, observable):
    """a and its standard error of a + b/n, weighted least squares with the networks' errors."""
    widths = np.array(list(simulations), dtype=float)
    means = np.array([getattr(s, observable).mean for s in simulations.values()])
    sems = np.array([getattr(s, observable).sem for s in simulations.values()])
    found = []
    for mean, sem in zip(means.T, np.maximum(sems, 1e-9).T, strict=True):
        design = np.stack([np.ones_like(widths), 1.0 / widths], axis=1) / sem[:, None]
        covariance = np.linalg.inv(design.T @ design)
        a = covariance @ design.T @ (mean / sem)
        found.append((a[0], np.sqrt(covariance[0, 0])))
    return np.array(found).T


def scores(name):
    """z of every observable and layer."""
    prediction = th.predict(network(name), inputs())
    simulations = {
        width: mc.simulate(
            network(name), inputs(), width=width, replicates=count, seed=5, dtype="float32"
        )
        for width, count in WIDTHS.items()
    }
    table = []
    for observable in OBSERVABLES:
        mean, sem = intercepts(simulations, observable)
        theory = getattr(prediction, observable)
        rounding = 6 * np.finfo(np.float32).eps * np.abs(theory)
        error = np.sqrt(sem**2 + prediction.error[observable] ** 2 + rounding**2)
        table.append((mean - theory) / error)
    return np.array(table)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_within_error_of_networks(name):
    """24 comparisons each, Holm's family-wise error 0.001 over all ten normalizers."""
    z = scores(name)
    adjusted = holm(2.0 * special.ndtr(-np.abs(z.ravel())))
    worst = int(np.argmin(adjusted))
    observable, layer = np.unravel_index(worst, z.shape)
    place = (OBSERVABLES[observable], layer + 1, z[observable, layer])
    assert adjusted[worst] > 0.001 / len(NAMES), place


def test_two_normalizers_quickly():
    """Plain comparison at one width, forward, with 1 % of the value for its bias: false alarm 1e-4."""
    for name in ("SWS", "LN"):
        prediction = th.predict(network(name), inputs(), backward=False)
        simulation = mc.simulate(
            network(name), inputs(), width=128, replicates=12, dtype="float32", backward=False
        )
        for observable in ("second_moment", "similarity"):
            estimate, value = getattr(simulation, observable), getattr(prediction, observable)
            assert (np.abs(estimate.mean - value) < 5.0 * estimate.sem + 0.01 * value).all()
