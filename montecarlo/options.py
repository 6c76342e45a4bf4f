"""Options that several commands share: their words, help, and the words that need parsing."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from theory.errors import out_of_domain

__all__ = [
    "CSV",
    "JSON",
    "PLOT",
    "QUIET",
    "SEED",
    "WORKERS",
    "DType",
    "InputChoice",
    "MethodChoice",
    "NetworkOptions",
    "byte_count",
    "shape_of",
    "takes_network",
]


class InputChoice(StrEnum):
    """Batches of ``verify``."""

    digits = "digits"
    synthetic = "synthetic"
    ring = "ring"
    torus = "torus"
    images = "images"
    padding = "padding"
    residual = "residual"
    all = "all"


class DType(StrEnum):
    """Floating-point formats of a simulation."""

    float32 = "float32"
    float64 = "float64"


class MethodChoice(StrEnum):
    """Ways to simulate a layer; auto is the cheaper one."""

    auto = "auto"
    direct = "direct"
    collapsed = "collapsed"


_option = partial(typer.Option, rich_help_panel="Network and inputs")


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """A network and its inputs in the words of the command line, not yet checked.

    ``takes_network`` makes every field an option; ``networks.build`` makes specifications of them.
    """

    norm: Annotated[
        str | None,
        _option(
            "--norm",
            metavar="NAME",
            help="A layer of the paper, with its own weights and activation: plain, BN, VN, MC, "
            "LN, RMSNorm, GN(8), EvoNorm-S0, EvoNorm-B0, WN, SWS, WC; or a constructor: "
            "batch_norm, group_norm, layer_norm, ...",
        ),
    ] = None
    group_size: Annotated[
        int | None,
        _option("--group-size", metavar="G", help="Channels per group (GN, EvoNorm-S0)."),
    ] = None
    eps: Annotated[float, _option("--eps", help="Added to the pool's variance.")] = 0.0
    activation: Annotated[
        str | None,
        _option(
            "--activation",
            metavar="NAME",
            help="relu, leaky_relu(0.1), identity, abs, tanh, erf, gelu, silu, elu, selu, "
            "softplus, sin or scaled_relu.",
        ),
    ] = None
    weights: Annotated[
        str | None, _option("--weights", metavar="NAME", help="gaussian, WN, SWS or WC.")
    ] = None
    weight_variance: Annotated[
        float | None,
        _option(
            "--weight-variance", metavar="V", help="Var(W) times fan-in (gaussian, WC); 2 is He's."
        ),
    ] = None
    depth: Annotated[
        int, _option("--depth", metavar="L", help="Number of layers, or of residual blocks.")
    ] = 20
    residual: Annotated[
        str | None,
        _option(
            "--residual",
            metavar="ORDER",
            help="A residual network: pre-activation, post-activation, activation-before-addition, "
            "pre-norm, post-norm, branch-end-norm, sandwich or deep-norm (with DeepNorm's constants "
            "for the depth).",
        ),
    ] = None
    skip: Annotated[
        float | None, _option("--skip", metavar="A", help="Factor of the skip; 1 if not given.")
    ] = None
    branch: Annotated[
        str | None,
        _option(
            "--branch",
            metavar="B",
            help='Factor of the branch; 1 if not given, 0 for SkipInit, "1/sqrt(L)" for that.',
        ),
    ] = None
    maps: Annotated[
        int | None,
        _option(
            "--maps",
            metavar="1|2",
            help="Linear maps per branch; 1 if not given, 2 in the orders of Transformers.",
        ),
    ] = None
    stem: Annotated[
        bool,
        _option("--stem", help="A linear map before the first block; digits need one."),
    ] = False
    nf_scaling: Annotated[
        bool,
        _option(
            "--nf-scaling", help="Branches see the stream over its predicted root mean square."
        ),
    ] = False
    batch: Annotated[int, _option("--batch", metavar="B", help="Number of samples.")] = 16
    correlation: Annotated[
        float | None,
        _option(
            "--correlation",
            metavar="C",
            help="Cosine of two samples of synthetic inputs; 0.5 if not given.",
        ),
    ] = None
    positions: Annotated[
        str | None,
        _option(
            "--positions",
            metavar="S|HxW",
            help="Positions per sample: 16 on a ring, 4x4 on a torus; IN and FRN need them.",
        ),
    ] = None
    kernel: Annotated[
        int,
        _option(
            "--kernel",
            metavar="K",
            help="Taps of the convolutions in every direction.",
        ),
    ] = 1
    position_correlation: Annotated[
        float | None,
        _option(
            "--position-correlation",
            metavar="W",
            help="Cosine of two positions of a sample; 0.5 if not given.",
        ),
    ] = None
    cross_correlation: Annotated[
        float | None,
        _option(
            "--cross-correlation",
            metavar="X",
            help="Cosine where sample and position differ; the product C W if not given.",
        ),
    ] = None
    padding: Annotated[
        str,
        _option(
            "--padding", metavar="KIND", help="circular or zero: beyond the border of positions."
        ),
    ] = "circular"
    stride: Annotated[
        int,
        _option("--stride", metavar="K", help="Of the first layer: every K-th position is kept."),
    ] = 1
    inputs: Annotated[
        str,
        _option(
            "--inputs",
            metavar="KIND",
            help="synthetic (exchangeable), digits (real images as vectors), digits-images (8 x 8 "
            "positions) or digits-shifted (their average over shifts).",
        ),
    ] = "synthetic"


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
QUIET = Annotated[
    bool,
    typer.Option("--quiet", help="No progress and no notes: only errors and warnings."),
]


def takes_network(command: Callable[..., None]) -> Callable[..., None]:
    """``command(options, ...)`` with every field of ``NetworkOptions`` as an option of its own.

    Typer makes options of a function's parameters; this gives it the fields first, then the
    command's own parameters, and hands the command one ``NetworkOptions``.
    """
    keyword = inspect.Parameter.KEYWORD_ONLY
    hints = get_type_hints(NetworkOptions, include_extras=True)
    network = [
        inspect.Parameter(field.name, keyword, default=field.default, annotation=hints[field.name])
        for field in fields(NetworkOptions)
    ]
    hints = get_type_hints(command, include_extras=True)
    _, *own = inspect.signature(command).parameters.values()
    own = [parameter.replace(kind=keyword, annotation=hints[parameter.name]) for parameter in own]

    @wraps(command)
    def flat(**arguments: Any) -> None:
        words = {parameter.name: arguments.pop(parameter.name) for parameter in network}
        command(NetworkOptions(**words), **arguments)

    flat.__signature__ = inspect.Signature([*network, *own])  # type: ignore[attr-defined]
    return flat


def shape_of(text: str) -> tuple[int, ...]:
    """Positions on a ring, ``16``, or on a torus, ``4x4``.

    Raises
    ------
    SpecificationError
        Neither, or no position at all.
    """
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip().lower())
    sides = tuple(int(side) for side in match.groups() if side is not None) if match else (0,)
    if 0 in sides:
        domain = "S for a ring or HxW for a torus, of at least one position"
        raise out_of_domain("positions", text, domain, "write 16 or 4x4, say")
    return sides


_UNITS = {"": 1, "b": 1} | {
    f"{prefix}{infix}b": base**power
    for power, prefix in enumerate("kmgt", start=1)
    for infix, base in (("", 1000), ("i", 1024))
}


def byte_count(argument: str, text: str) -> int:
    """Number of bytes in ``2GiB`` (powers of 1024), ``500MB`` (powers of 1000) or ``2e9``.

    Raises
    ------
    SpecificationError
        Not a number with such a unit, or less than one byte.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?(?:e\d+)?)\s*([a-z]*)", text.strip().lower())
    count = float(match[1]) * _UNITS.get(match[2], 0) if match else 0.0
    if not 1 <= count < float("inf"):
        domain = "a number of bytes, with kB, MB, GB, TB, KiB, MiB, ..."
        raise out_of_domain(argument, text, domain, "write 2GiB, say")
    return int(count)
