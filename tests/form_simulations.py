"""Every row of ``symbolic.closed_forms()`` by simulation, or the reason why not."""

from __future__ import annotations

import math

from form_networks import LOGARITHMS, NETWORKS, OFFSETS, network
from form_pools import BLOCKS, POOLS, Estimate, estimate

_EXPENSIVE = {"GN: lambda in 1/G", "GN: map at large G", "BN: lambda in 1/B"}

NOT_SIMULATED = {
    "plain: 1 - c_l, l -> oo": "10^4 layers need widths beyond 10^6 for a sharp mean",
    "GN(2000): 1 - c*": "the map is marginal: one layer moves c by less than the standard error",
    "GN: G^2 (1 - c*), G -> oo": "the same at infinite G",
    "residual BN: contrasts' gradient": "at parameters that no batch has; BN(16)'s own are simulated",
    "residual gradient / L^lambda, L -> oo": "a limit of L -> oo of a product that is simulated at 12",
    "residual SWS: beta = 1/sqrt(L)": "a limit of L -> oo",
    "post-activation stream: mean, l -> oo": "a limit approached as l^(-1/2)",
    "post-activation stream: second moment, l -> oo": "a limit approached as l^(-1/2)",
}


def simulated(name, *, draws=400_000, replicates=100):
    """Estimate of a row, on the scale of ``transformed``."""
    seed = sum(name.encode())
    if name in POOLS:
        draw, function = POOLS[name]
        few = draws // 100 if name in _EXPENSIVE else draws
        return estimate(draw, function, draws=max(few, 10 * BLOCKS), seed=seed)
    net, inputs, read = NETWORKS[name]
    found = network(net, inputs, read, replicates=replicates, seed=seed)
    return Estimate(found.value + OFFSETS.get(name, 0.0), found.sem, found.dof)


def transformed(name, value):
    """The closed form's value on the scale of its simulation."""
    return math.log(value) if name in NETWORKS and NETWORKS[name][2] in LOGARITHMS else value
