"""``normcompass predict``: one infinitely wide network."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from montecarlo.commands.output import (
    SHOWN,
    one_format,
    print_layers,
    save_figure,
    screen,
    write_json,
)
from montecarlo.networks import build
from montecarlo.options import CSV, JSON, PLOT, NetworkOptions, takes_network
from theory.specs.inputs import Inputs
from theory.specs.networks import Network
from theory.specs.residual import Residual
from theory.specs.serialize import to_dict

if TYPE_CHECKING:
    from theory.results import Prediction

__all__ = ["predict"]


@takes_network
def predict(
    options: NetworkOptions,
    plot: PLOT = None,
    as_json: JSON = False,
    as_csv: CSV = False,
) -> None:
    """Predict one infinitely wide network, layer by layer.

    Example: normcompass predict --norm "GN(8)" --depth 50 --plot gn.png
    """
    from theory.recursion import predict as compute
    from theory.results import OBSERVABLES

    one_format(as_json, as_csv)
    network, inputs = build(options)
    prediction = compute(network, inputs)
    columns = {
        name: getattr(prediction, name)
        for name in (*OBSERVABLES, "branch_gradient_norm")
        if getattr(prediction, name) is not None
    }
    logarithms = {
        name: getattr(prediction, name) for name in ("log_second_moment", "log_gradient_norm")
    }
    laws = _laws(network, inputs)
    if plot is not None:
        from theory.plotting import plot_predictions

        save_figure(plot, lambda: plot_predictions({prediction.label: prediction}))
    if as_json:
        write_json(
            {
                "schema": 1,
                "kind": "prediction",
                "network": to_dict(network),
                "inputs": to_dict(inputs),
                "regime": {"status": prediction.regime.status, "reason": prediction.regime.reason},
                "values": {name: list(map(float, v)) for name, v in (columns | logarithms).items()},
                "error": {name: list(map(float, prediction.error[name])) for name in columns},
                "route": {name: list(prediction.route[name]) for name in columns},
                "provenance": prediction.provenance,
            }
            | ({"growth": laws} if laws else {})
        )
    elif as_csv:
        sys.stdout.write(prediction.to_frame().to_csv(index=False))
    else:
        cells = {name: [f"{v:.6g}" for v in columns[name]] for name in SHOWN if name in columns}
        print_layers(f"{prediction.label}, predicted", cells)
        screen().print(_evidence(prediction, list(cells)), highlight=False, markup=False)
        screen().print(prediction.regime.reason, style="dim", highlight=False, markup=False)
        for what, law in laws.items():
            at = "" if law["batch"] is None else f" at batch {law['batch']}"
            text = f"Growth with depth{at}, {what}: {law['law']} ({law['route']})"
            screen().print(text, highlight=False, markup=False)


def _evidence(prediction: Prediction, names: list[str]) -> str:
    """``By closed form: second moment (error 1e-15)``, the largest relative errors of all layers."""
    by_route: dict[str, list[str]] = {}
    for name in names:
        value, error = np.abs(getattr(prediction, name)), prediction.error[name]
        known = np.isfinite(error) & (value > 0.0)
        worst = float((error[known] / value[known]).max(initial=0.0))
        routes = " or ".join(dict.fromkeys(prediction.route[name]))
        by_route.setdefault(routes, []).append(f"{name.replace('_', ' ')} (error {worst:.1g})")
    return "; ".join(f"By {route}: {', '.join(found)}" for route, found in by_route.items())


def _laws(network: Network, inputs: Inputs) -> dict[str, dict[str, Any]]:
    """Growth laws of E[x_l^2] in l and of squared gradients in L/l, where they are derived."""
    from theory.residual_growth import growth_law

    if not isinstance(network, Residual) or network.layer.kernel != 1 or inputs.positions != 1:
        return {}
    found = growth_law(network, batch=inputs.batch)
    laws = {"second moment": found.variance, "squared gradient": found.gradient}
    return {
        name: {
            "law": str(law),
            "kind": law.kind,
            "rate": law.rate,
            "route": law.route,
            "batch": found.batch,
        }
        for name, law in laws.items()
        if law is not None
    }
