"""How long it will take, said before a long run begins: measured or estimated, never a promise."""

from __future__ import annotations

import dataclasses
import sys
import time

from theory.specs.inputs import Inputs
from theory.specs.networks import Network, Sequential

__all__ = ["in_words", "say_cost", "time_of_prediction"]

_WORTH_SAYING = 60.0
_TRIAL = 4


def say_cost(seconds: float, *, what: str, remedy: str, quiet: bool = False) -> None:
    """A line on standard error for work of more than a minute."""
    if seconds > _WORTH_SAYING and not quiet:
        sys.stderr.write(f"{what}: about {in_words(seconds)}; {remedy}.\n")
        sys.stderr.flush()


def in_words(seconds: float) -> str:
    """``40 min``, ``3 h``, ``2 days``."""
    for unit, size, most in (("s", 1.0, 90.0), ("min", 60.0, 5400.0), ("h", 3600.0, 172_800.0)):
        if seconds < most:
            return f"{round(seconds / size)} {unit}"
    return f"{round(seconds / 86_400)} days"


def time_of_prediction(network: Network, inputs: Inputs) -> float:
    """Seconds of ``predict`` of many layers, from the first four; 0 for few, where no trial pays."""
    from theory.recursion import predict

    if isinstance(network, Sequential) or network.depth < 5 * _TRIAL:
        return 0.0
    changes = {"depth": _TRIAL}
    scales = getattr(network, "scales", ())
    if scales:
        changes["scales"] = scales[:_TRIAL]
    start = time.perf_counter()
    predict(dataclasses.replace(network, **changes), inputs)  # type: ignore[type-var]
    return (time.perf_counter() - start) / _TRIAL * network.depth
