"""Closed forms by networks: ``montecarlo`` at several widths, extrapolated to infinite width."""

from __future__ import annotations

import math

import numpy as np
from form_pools import Estimate

import montecarlo as mc
import theory as th

WIDTHS = (256, 512, 1024)


def network(net, inputs, read, *, replicates, seed):
    """``read(simulation)``: one number per network; a + b/n over the widths, at n = infinity."""
    widths, means, sems = np.array(WIDTHS, dtype=float), [], []
    for width in WIDTHS:
        values = read(
            mc.simulate(net, inputs, width=width, replicates=replicates, seed=seed, workers=1)
        )
        means.append(values.mean())
        sems.append(values.std(ddof=1) / math.sqrt(len(values)))
    # Variances fall like 1/n.
    root = np.sqrt(widths)
    design = np.stack([np.ones_like(widths), 1.0 / widths], axis=1)
    shares = (np.linalg.pinv(root[:, None] * design) * root)[0]
    sem = float(np.sqrt((shares * np.array(sems)) @ (shares * np.array(sems))))
    return Estimate(float(shares @ np.array(means)), sem, replicates - 1)


def layer_network(name, *, read, c=0.6, q=None, depth=3):
    layer = th.zoo[name]
    q = layer.weights.weight_variance if q is None else q
    inputs = th.exchangeable(
        batch=2, correlation=c, second_moment=q / layer.weights.weight_variance
    )
    return th.FeedForward(layer, depth=depth), inputs, read


def correlation_at_layer_2(sim):
    return sim.samples["preactivation_correlation"][:, 1]


def second_moment_at_layer_2(sim):
    return sim.samples["preactivation_second_moment"][:, 1]


def log_growth(sim):
    """log of the squared gradient's factor between layers 2 and 3."""
    ratio = sim.samples["log_gradient_ratio"]
    return ratio[:, 1] - ratio[:, 2]


def log_stream_gradient(sim):
    return sim.samples["log_gradient_ratio"][:, 0]


def log_stream(sim):
    return np.log(sim.samples["second_moment"][:, -1])


def stream_pairs(sim):
    return sim.samples["second_moment"][:, -1] * sim.samples["similarity"][:, -1]


def residual(
    layer, *, depth, start, batch=2, correlation=0.3, order="pre_activation", scaled=False
):
    net = th.Residual(layer, depth=depth, order=order, maps=1)
    inputs = th.exchangeable(batch=batch, correlation=correlation, second_moment=start)
    return (th.nf_scaled(net, inputs) if scaled else net), inputs


def _gradient(name, *, before, scaled=False):
    """Twelve blocks behind a first one that brings the stream from ``before`` to 1.5."""
    net, inputs = residual(th.zoo[name], depth=13, start=before, scaled=scaled)
    return net, inputs, log_stream_gradient


NETWORKS = {
    **{
        f"{name}: correlation map": layer_network(name, read=correlation_at_layer_2)
        for name in ("plain", "LN", "SWS", "WC", "WN")
    },
    **{
        f"{name}: lambda": layer_network(name, read=log_growth)
        for name in ("plain", "LN", "SWS", "WC", "WN")
    },
    # Started at c*: one layer later it is still there.
    **{
        f"{name}: c*": layer_network(name, read=correlation_at_layer_2, c=c)
        for name, c in (("plain", 1.0), ("LN", 1.0), ("SWS", 0.0), ("WC", 0.0), ("WN", 0.0))
    },
    "WN: q'": layer_network("WN", read=second_moment_at_layer_2, q=4.0),
    "residual plain: q_l": (*residual(th.zoo["plain"], depth=12, start=1.5), log_stream),
    "residual LN: q_l": (*residual(th.zoo["LN"], depth=12, start=1.5), log_stream),
    "residual plain: gradient": _gradient("plain", before=0.75),
    "residual SWS: gradient": _gradient("SWS", before=0.75),
    "residual LN: gradient": _gradient("LN", before=0.5),
    "residual GN(8): gradient": _gradient("GN(8)", before=0.5),
    "normalizer-free SWS: gradient": _gradient("SWS", before=0.5, scaled=True),
    "residual BN(16): p_l": (
        *residual(th.zoo["BN"], depth=12, start=1.0, batch=16, correlation=0.2), stream_pairs,
    ),
    "BN(16) at the branch's end: p_l": (
        *residual(th.zoo["BN"], depth=12, start=1.0, batch=16, correlation=0.2, order="branch_end_norm"),
        stream_pairs,
    ),
    "residual WN: ratio, q -> oo": (*residual(th.zoo["WN"], depth=1, start=1e10), log_stream),
}  # fmt: skip
"""(network, inputs, what is read) for ``network``; logarithms where means are carried by rare networks."""

LOGARITHMS = (log_growth, log_stream, log_stream_gradient)

# What a logarithm is added to: the ratio of WN is to the second moment at the start.
OFFSETS = {"residual WN: ratio, q -> oo": -math.log(1e10)}
