"""Options that the commands share, with their help."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "ACTIVATION",
    "BATCH",
    "CORRELATION",
    "CSV",
    "DEPTH",
    "EPS",
    "GROUP",
    "JSON",
    "NORM",
    "PLOT",
    "SEED",
    "SOURCE",
    "VARIANCE",
    "WEIGHTS",
    "WORKERS",
    "DType",
    "InputChoice",
]


class InputChoice(StrEnum):
    """Batches of ``verify``."""

    digits = "digits"
    synthetic = "synthetic"
    all = "all"


class DType(StrEnum):
    """Floating-point formats of a simulation."""

    float32 = "float32"
    float64 = "float64"


NORM = Annotated[
    str | None,
    typer.Option(
        "--norm",
        metavar="NAME",
        help="A layer of the paper, with its own weights and activation: plain, BN, VN, MC, LN, "
        "RMSNorm, GN(8), EvoNorm-S0, EvoNorm-B0, WN, SWS, WC; or a constructor: batch_norm, "
        "group_norm, layer_norm, ...",
    ),
]
GROUP = Annotated[
    int | None,
    typer.Option("--group-size", metavar="G", help="Channels per group (GN, EvoNorm-S0)."),
]
EPS = Annotated[float, typer.Option("--eps", help="Added to the pool's variance.")]
ACTIVATION = Annotated[
    str | None,
    typer.Option(
        "--activation",
        metavar="NAME",
        help="relu, leaky_relu(0.1), identity, abs, tanh, erf, gelu, silu, elu, selu, softplus, sin "
        "or scaled_relu.",
    ),
]
WEIGHTS = Annotated[
    str | None,
    typer.Option("--weights", metavar="NAME", help="gaussian, WN, SWS or WC."),
]
VARIANCE = Annotated[
    float | None,
    typer.Option(
        "--weight-variance", metavar="V", help="Var(W) times fan-in (gaussian, WC); 2 is He's."
    ),
]
DEPTH = Annotated[int, typer.Option("--depth", metavar="L", help="Number of layers.")]
BATCH = Annotated[int, typer.Option("--batch", metavar="B", help="Number of samples.")]
CORRELATION = Annotated[
    float,
    typer.Option("--correlation", metavar="C", help="Cosine of two input samples (synthetic)."),
]
SOURCE = Annotated[
    str,
    typer.Option(
        "--inputs", metavar="KIND", help="synthetic (exchangeable) or digits (real images)."
    ),
]
PLOT = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Draw it: .png, .pdf or .svg.")
]
JSON = Annotated[bool, typer.Option("--json", help="Strict JSON on standard output, nothing else.")]
CSV = Annotated[bool, typer.Option("--csv", help="CSV on standard output, nothing else.")]
SEED = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the random networks.")]
WORKERS = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        help="Processes; all cores by default. Results do not depend on it.",
    ),
]
