"""The README's figure: theory and simulation of the main normalizers, side by side."""

from __future__ import annotations

from pathlib import Path

from montecarlo.ensemble import simulate
from theory.plotting import plot_predictions
from theory.recursion import predict_many
from theory.specs.inputs import exchangeable
from theory.specs.networks import FeedForward
from theory.zoo import zoo

__all__ = ["overview"]

_NAMES = ("plain", "BN", "LN", "GN(8)", "SWS")
_DEPTH, _BATCH, _CORRELATION = 20, 16, 0.5
_WIDTH, _REPLICATES = 1024, 16


def overview(path: str | Path, *, seed: int = 0, workers: int | None = None) -> None:
    """Draw lines for infinite width, points for 16 networks of width 1024 with two standard errors.

    Parameters
    ----------
    path
        PNG file to write; its folder is made.
    seed, workers
        As for ``simulate``.
    """
    import matplotlib.pyplot as plt

    networks = {name: FeedForward(zoo[name], depth=_DEPTH) for name in _NAMES}
    inputs = exchangeable(batch=_BATCH, correlation=_CORRELATION)
    simulations = {
        name: simulate(
            network, inputs, width=_WIDTH, replicates=_REPLICATES, seed=seed, workers=workers
        )
        for name, network in networks.items()
    }
    figure = plot_predictions(predict_many(networks, inputs), simulations)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the date and version the same numbers give the same bytes.
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)
