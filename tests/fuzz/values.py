"""Hostile values: what somebody could pass by mistake or on purpose, by the kind of argument."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

import theory as th
from theory.errors import NormcompassError

__all__ = ["BENIGN", "hostile"]

TINY = float(np.nextafter(0.0, 1.0))

NUMBERS: tuple[Any, ...] = (
    math.nan, math.inf, -math.inf, 0, -0.0, -1, 1, 2, 3, 5, 1e300, -1e300, 1e308, 1e-300, TINY, -TINY,
    2**31, 2**53 + 1, 2**63, 2**64, 10**400, -(2**63), 0.5, 1.5, -0.5, 1e-16, 1 - 1e-16, 1e-9, 1e10, 1e150,
)  # fmt: skip
SCALARS: tuple[Any, ...] = (
    np.int64(3), np.uint8(2), np.float32(0.5), np.float64(0.25), np.float16(0.5), np.array(3), np.array(0.5),
    np.float64("nan"), np.bool_(True), True, False, np.longdouble(0.5), 1j, np.complex128(1j),
    Fraction(1, 3), Decimal("0.5"), np.datetime64("2020-01-01"), np.str_("a"),
)  # fmt: skip
JUNK: tuple[Any, ...] = (
    None, "", "relu", "nan", "3", "ä☃\udcff", "x" * 2000, b"bytes", [], (), {}, set(), [None], {"a": None}, object(),
    object, len, np, Ellipsis, NotImplemented, range(3), iter([1.0]), slice(None), lambda: None, [[1.0, 2.0], [3.0]],
)  # fmt: skip


def _arrays() -> tuple[Any, ...]:
    holes = np.ones((3, 4))
    holes[1, 2] = math.nan
    return (
        np.array([]), np.empty((0, 3)), np.empty((3, 0)), np.zeros((2, 3)), np.ones((2, 3)), np.ones(3), holes,
        np.full((2, 2), math.inf), np.full((3, 4), 1e300), np.full((2, 3), 1e-300), np.full((2, 3), TINY),
        np.eye(3), np.eye(3)[:, :2], -np.eye(3), np.ones((3, 3)), np.array([[1.0, 2.0], [2.0, 1.0]]),
        np.array([[1.0, 0.2], [0.3, 1.0]]), np.array([[1, None], ["a", 2]], dtype=object), np.array(["a", "b"]),
        np.ones((2, 3), dtype=np.float16), np.ones((2, 3), dtype=complex), np.ones((2, 3), dtype=bool),
        np.ones((1, 1, 1, 1, 1)), np.arange(24.0).reshape(2, 3, 4), np.arange(24.0).reshape(4, 6)[::2, ::3],
        np.array([(1, 2.0)], dtype=[("a", int), ("b", float)]), np.ma.masked_array([[1.0, 2.0]], [[True, False]]),
        np.broadcast_to(1.0, (2, 3)), np.diag([1e-300, 1e300]), np.diag([1.0, TINY]), np.full((2, 2), 1e155),
        np.array([[1.0, 1 - 1e-16], [1 - 1e-16, 1.0]]), np.array([0.0, 0.5, 1.0]), np.array([-2.0, 3.0]),
        np.array([np.timedelta64(1)]), np.array(None),
    )  # fmt: skip


def _layers(rng: Random) -> Any:
    """A layer of extreme, but mostly admitted, parts."""
    number = rng.choice([1e-300, 1e300, TINY, 1.0, 2.0, 1e-8, 1e8, 1e154])
    eps = rng.choice([0.0, 1e-5, 1e300, TINY, 1e308, 1.0])
    size = rng.choice([1, 2, 3, 4, 8, 10**6, 2**62])
    norm = rng.choice(
        [
            None, th.batch_norm(eps=eps), th.batch_norm(ddof=1), th.layer_norm(eps=eps), th.rms_norm(eps=eps),
            th.group_norm(size, eps=eps), th.group_norm(size), th.instance_norm(eps=eps), th.variance_norm(eps=eps),
            th.filter_response_norm(eps=eps), th.mean_centering(), th.evonorm_s0(size, eps=eps),
            th.evonorm_b0(eps=eps),
        ]
    )  # fmt: skip
    activation = rng.choice(
        [
            th.relu, th.identity, th.abs, th.tanh, th.erf, th.scaled_relu, th.leaky_relu(-1.0), th.leaky_relu(TINY),
            th.softplus, th.sin, th.tlu(-1.0), th.relu.affine(scale=number), th.tanh.affine(shift=number),
        ]
    )  # fmt: skip
    weights = rng.choice(
        [
            th.gaussian(), th.gaussian(weight_variance=number), th.weight_norm(), th.scaled_weight_standardization(),
            th.centered_weights(weight_variance=number),
        ]
    )  # fmt: skip
    changes = {"norm": norm, "activation": activation, "weights": weights}
    kept = {name: part for name, part in changes.items() if rng.random() < 0.6}
    if rng.random() < 0.2:
        kept |= {
            "kernel": rng.choice([1, 3, 5, 10**6, 2**62]),
            "padding": rng.choice(["circular", "zero"]),
        }
    if rng.random() < 0.1:
        kept |= {
            "stride": rng.choice([1, 2, 10**6]),
            "channels": rng.choice([1.0, 1e-300, 1e300, 2.0]),
        }
    return th.Layer(**kept)


def _networks(rng: Random) -> Any:
    layer = _layers(rng)
    depth = rng.choice([1, 1, 2, 3, 5])
    match rng.randrange(7):
        case 0 | 1 | 2:
            return th.FeedForward(layer, depth=depth)
        case 3:
            return th.Sequential((layer, _layers(rng)))
        case 4:
            return th.Sequential(
                (
                    layer,
                    rng.choice([th.AveragePool(2), th.Flatten(), th.GlobalAveragePool()]),
                    layer,
                )
            )
        case 5:
            # Simple parts: the streams of others are followed as populations, for seconds each.
            layer = dataclasses.replace(layer, norm=rng.choice([None, th.layer_norm()]), kernel=1)
            return th.Residual(layer, depth=depth, skip=rng.choice([1.0, -1.0, 1e150, 1e-300]))
        case _:
            order = rng.choice(["pre_activation", "pre_norm", "post_norm", "deep_norm"])
            return th.Residual(
                layer, depth=depth, order=order, branch=rng.choice([0.0, 1.0, 1e300, TINY])
            )


def _inputs(rng: Random) -> Any:
    match rng.randrange(9):
        case 0 | 1:
            batch = rng.choice([1, 2, 3, 8, 10**6, 2**62, math.inf])
            gap = rng.choice([0.0, TINY, 1e-300, 1e-16, 1e-8, 0.5, 1.0])
            return th.exchangeable(
                batch=batch, gap=gap, second_moment=rng.choice([1.0, 1e-300, 1e300, TINY])
            )
        case 2:
            batch = rng.choice([2, 3, 16])
            return th.exchangeable(batch=batch, correlation=-1.0 / (batch - 1))
        case 3:
            return th.exchangeable(
                batch=rng.choice([1, 2, 4]), gap=rng.choice([0.0, TINY, 1.0]), positions=rng.choice([2, 5, (2, 3)]),
                position_gap=rng.choice([0.0, TINY, 0.5, 1.0]),
            )  # fmt: skip
        case 4:
            scale = rng.choice([1.0, 1e-139, 1e139])
            return th.from_data(
                scale * np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0 + rng.choice([0.0, 1e-12, 1.0])]])
            )
        case 5:
            return th.from_data(
                rng.choice([np.ones((2, 3)), np.ones((1, 1)), np.array([[1.0, -1.0], [-1.0, 1.0]])])
            )
        case 6:
            return th.from_covariance(
                rng.choice([np.eye(2), np.ones((3, 3)), np.diag([1e-150, 1e150]), np.eye(1)])
            )
        case 7:
            return th.images(
                np.arange(1.0, 25.0).reshape(2, 1, 3, 4) * rng.choice([1.0, 1e-139, 1e139])
            )
        case _:
            return th.from_covariance(np.eye(6), positions=3)


def _mapping(values: Callable[[Random], Any]) -> Callable[[Random], Any]:
    return lambda rng: {rng.choice(["a", "", "ä", 3, None]): values(rng)}


def _texts(rng: Random) -> Any:
    """JSON of a specification, damaged."""
    text = th.to_json(rng.choice([th.FeedForward(_layers(rng), depth=2), th.from_data(np.eye(2))]))
    at = rng.randrange(len(text))
    return rng.choice(
        [
            text[:at], text[at:], text.replace("1", rng.choice(["NaN", "-1", "1e999", '"1"', "null", "[1]"]), 1),
            text[:at] + rng.choice('{}[]",:0a\\ \0é') + text[at + 1 :], text.encode("utf-16"), text.encode()[:at],
            "[" * 100_000, '{"a":' * 100_000, "1" * 100_000, "null", "{}", '{"schema": 1}', '{"schema": 99}',
            '{"schema": 1, "kind": "__import__"}', text.replace(":", ":{", 1), text.replace("kind", "schema"),
            '{"schema": 1, "kind": "flatten", "kind": "flatten"}', text.replace("gaussian", "\\ud800"),
        ]
    )  # fmt: skip


def _words(rng: Random) -> Any:
    return rng.choice(
        [
            "similarity",
            "variance",
            "gradient_norm",
            "log_second_moment",
            "nothing",
            "",
            "__class__",
            "BN",
        ]
    )


def _paths(rng: Random, folder: Path) -> Any:
    """Paths inside of ``folder``, which holds files of every kind (``tests.fuzz.files``)."""
    names = sorted(path.name for path in folder.iterdir())
    return rng.choice(
        [
            folder / rng.choice(names), str(folder / rng.choice(names)), folder, folder / "missing" / "a.json",
            folder / ("l" * 300), folder / "ä☃ö.json", folder / "sealed" / "new.db", "", "a\0b", f"{folder}/\udcff.db",
            folder / "a" / ".." / "b.db", "/dev/full", "/dev/null", folder / "." / "c.db", Path("/proc/x/y"), 7, b"x",
            f"file:{folder}/d.db?mode=memory", f"{folder}/e.db?x#y", folder / ("k" * 250 + ".json"), ":memory:",
        ]
    )  # fmt: skip


SPECIFIC: dict[str, Callable[[Random], Any]] = {
    "layer": _layers, "network": _networks, "inputs": _inputs, "networks": _mapping(_networks), "text": _texts,
    "observable": _words, "label": _words, "name": _words,
    "parts": lambda rng: (_layers(rng), rng.choice([th.Flatten(), th.AveragePool(3), _layers(rng)])),
    "norm": lambda rng: _layers(rng).norm, "activation": lambda rng: _layers(rng).activation,
    "weights": lambda rng: _layers(rng).weights, "spec": lambda rng: rng.choice([_networks, _inputs, _layers])(rng),
}  # fmt: skip
SPECIFIC["stem"] = SPECIFIC["weights"]

BENIGN: tuple[Callable[[Any], Any], ...] = (np.int64, np.int32, np.float64, np.asarray)
"""Other spellings of the same number: refused, or taken for what they are."""


def _admitted(make: Callable[[Random], Any], rng: Random) -> Any:
    """The first specification that is not refused when it is built."""
    while True:
        with suppress(NormcompassError):
            return make(rng)


def hostile(rng: Random, name: str, valid: Any, folder: Path | None) -> Any:
    """A value for the argument ``name`` in place of ``valid``."""
    pools: list[Sequence[Any]] = [NUMBERS, SCALARS, JUNK, _arrays()]
    weights = [4.0, 2.0, 2.0, 1.0]
    if isinstance(valid, np.ndarray | list | tuple):
        weights = [1.0, 1.0, 2.0, 8.0]
    elif isinstance(valid, str):
        weights = [1.0, 1.0, 4.0, 1.0]
    if folder is not None and (isinstance(valid, Path) or name == "store"):
        return _paths(rng, folder) if rng.random() < 0.9 else rng.choice(JUNK)
    if name in SPECIFIC and rng.random() < 0.8:
        return _admitted(SPECIFIC[name], rng)
    if isinstance(valid, int | float) and not isinstance(valid, bool) and rng.random() < 0.1:
        with suppress(OverflowError):  # no integer is infinite
            return rng.choice(BENIGN)(valid)
    return rng.choice(rng.choices(pools, weights)[0])
