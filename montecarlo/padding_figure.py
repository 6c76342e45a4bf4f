"""Circular against zero padding: similarity over depth on real images, theory and simulation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from montecarlo.digits import digits
from montecarlo.ensemble import simulate
from theory.plotting import style
from theory.recursion import predict
from theory.specs.images import ImageInputs, images
from theory.specs.networks import FeedForward, Layer, Padding
from theory.specs.normalizers import group_norm
from theory.zoo import zoo

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["LAYERS", "digit_images", "draw_padding", "padding_table"]

LAYERS: Mapping[str, Layer] = MappingProxyType(
    {name: zoo[name] for name in ("BN", "SWS", "WN", "LN")} | {"GN(4)": Layer(norm=group_norm(4))}
)
_PADDINGS: tuple[Padding, ...] = ("circular", "zero")
_KERNEL = 3


def digit_images(*, batch: int = 4) -> ImageInputs:
    """The first handwritten digits, 8 x 8 pixels, one channel."""
    return images(digits(batch=batch).reshape(batch, 1, 8, 8))


def padding_table(
    *,
    layers: Mapping[str, Layer] = LAYERS,
    depth: int = 12,
    batch: int = 4,
    width: int = 256,
    replicates: int = 16,
    seed: int = 0,
    workers: int | None = None,
) -> pd.DataFrame:
    """Similarity after every layer: normalizer, padding, layer, theory, error, mean, sem.

    Parameters
    ----------
    layers
        Name -> layer; the kernel becomes 3 x 3.
    depth, batch
        Number of layers, of digits.
    width, replicates, seed, workers
        Of the random networks beside.
    """
    import pandas as pd

    inputs = digit_images(batch=batch)
    rows = []
    for name, layer in layers.items():
        for padding in _PADDINGS:
            padded = dataclasses.replace(layer, kernel=_KERNEL, padding=padding)
            network = FeedForward(padded, depth=depth)
            theory = predict(network, inputs, backward=False)
            networks = simulate(
                network,
                inputs,
                width=width,
                replicates=replicates,
                seed=seed,
                dtype="float32",
                backward=False,
                workers=workers,
            ).similarity
            rows += [
                {
                    "normalizer": name,
                    "padding": padding,
                    "layer": k + 1,
                    "theory": theory.similarity[k],
                    "error": theory.error["similarity"][k],
                    "mean": networks.mean[k],
                    "sem": networks.sem[k],
                }
                for k in range(depth)
            ]
    return pd.DataFrame(rows)


def draw_padding(table: pd.DataFrame) -> Figure:
    """One panel per padding: lines are theory, points networks with two standard errors.

    Parameters
    ----------
    table
        From ``padding_table``.
    """
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.0), sharey=True, layout="constrained")
    for panel, padding in zip(panels, _PADDINGS, strict=True):
        for name, line in table[table["padding"] == padding].groupby("normalizer", sort=False):
            look = style(str(name))
            color = look["color"]
            panel.plot(
                line["layer"], line["theory"], label=name, color=color, linestyle=look["linestyle"]
            )
            panel.errorbar(
                line["layer"],
                line["mean"],
                yerr=2.0 * line["sem"],
                linestyle="none",
                marker=look["marker"],
                markersize=4.0,
                color=color,
            )
        panel.set_title(f"{padding} padding")
        panel.set_xlabel("layer")
        panel.locator_params(axis="x", integer=True)
    panels[0].set_ylabel("similarity of two digits")
    names = table["normalizer"].unique()
    handles = [Line2D([], [], markersize=4.0, **style(str(name))) for name in names]
    figure.legend(
        handles,
        [str(name) for name in names],
        loc="outside right center",
        frameon=False,
        title="lines: theory\npoints: networks",
        title_fontsize="small",
    )
    return figure
