"""The project's figures by name: theory as lines, simulation as points, each drawn from a seed alone.

A new figure is a function of (seed, workers) and a line in ``FIGURES``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from montecarlo import gallery_maps, padding_figure, residual_figures
from montecarlo.ensemble import simulate
from theory.errors import StoreError, out_of_domain
from theory.plotting import plot_predictions
from theory.recursion import predict_many
from theory.specs.inputs import exchangeable
from theory.specs.networks import FeedForward
from theory.zoo import zoo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "overview", "write"]

_NAMES = ("plain", "BN", "LN", "GN(8)", "SWS")
_DEPTH, _BATCH, _CORRELATION = 20, 16, 0.5
_WIDTH, _REPLICATES = 1024, 16


def _overview(seed: int, workers: int | None) -> Figure:
    """The main normalizers side by side: lines for infinite width, 16 networks of width 1024."""
    networks = {name: FeedForward(zoo[name], depth=_DEPTH) for name in _NAMES}
    inputs = exchangeable(batch=_BATCH, correlation=_CORRELATION)
    simulations = {
        name: simulate(
            network, inputs, width=_WIDTH, replicates=_REPLICATES, seed=seed, workers=workers
        )
        for name, network in networks.items()
    }
    return plot_predictions(predict_many(networks, inputs), simulations)


def _residual_variance(seed: int, workers: int | None) -> Figure:
    """Second moments of residual streams over 32 blocks: every order, every remedy."""
    found = residual_figures.simulated(seed=seed, workers=workers)
    return residual_figures.draw(found["variance"], "variance")


def _residual_gradient(seed: int, workers: int | None) -> Figure:
    """Squared gradients at the streams of the same networks."""
    found = residual_figures.simulated(seed=seed, workers=workers)
    return residual_figures.draw(found["gradient"], "gradient")


def _padding(seed: int, workers: int | None) -> Figure:
    """Circular against zero padding on digits, 12 layers; 16 networks of width 256."""
    return padding_figure.draw_padding(padding_figure.padding_table(seed=seed, workers=workers))


FIGURES: Mapping[str, Callable[[int, int | None], Figure]] = MappingProxyType(
    {
        "overview": _overview,
        "maps": gallery_maps.maps,
        "width": gallery_maps.width,
        "residual-variance": _residual_variance,
        "residual-gradient": _residual_gradient,
        "padding": _padding,
    }
)


def write(name: str, path: str | Path, *, seed: int = 0, workers: int | None = None) -> None:
    """Draw one figure of ``FIGURES`` into a PNG file.

    Parameters
    ----------
    name
        Key of ``FIGURES``.
    path
        File to write; its folder is made.
    seed, workers
        As for ``simulate``; the same seed gives the same bytes.

    Raises
    ------
    SpecificationError
        No such figure.
    StoreError
        The file cannot be written.
    """
    import matplotlib.pyplot as plt

    if name not in FIGURES:
        raise out_of_domain("name", name, f"one of {', '.join(FIGURES)}", "check the spelling")
    figure = FIGURES[name](seed, workers)
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without the date and version the same numbers give the same bytes.
        figure.savefig(path, dpi=130, format="png", metadata={"Software": None})
    except OSError as error:
        raise StoreError(
            f"{path.name} cannot be written ({error.strerror}); choose another folder with --out."
        ) from error
    finally:
        plt.close(figure)


def overview(path: str | Path, *, seed: int = 0, workers: int | None = None) -> None:
    """``write("overview", path)``: the README's figure.

    Parameters
    ----------
    path
        PNG file to write; its folder is made.
    seed, workers
        As for ``simulate``.
    """
    write("overview", path, seed=seed, workers=workers)
