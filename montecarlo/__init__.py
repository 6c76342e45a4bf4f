"""Finite random networks, simulated: the empirical wing of normcompass.

>>> import montecarlo as mc                                                    # doctest: +SKIP
>>> sim = mc.simulate(network, inputs, width=1024, replicates=64, seed=0)      # doctest: +SKIP
>>> sim.similarity.mean, sim.similarity.sem     # arrays over depth            # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module

# Not from typing: what is imported before the program's first line is deaf to Ctrl-C.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from montecarlo.comparison import Comparison, compare
    from montecarlo.ensemble import simulate
    from montecarlo.extrapolation import Extrapolation, extrapolate
    from montecarlo.grid import Grid, simulate_many
    from montecarlo.results import Estimate, Simulation, load
    from montecarlo.store import Store

__all__ = [
    "Comparison",
    "Estimate",
    "Extrapolation",
    "Grid",
    "Simulation",
    "Store",
    "compare",
    "extrapolate",
    "load",
    "simulate",
    "simulate_many",
]

# Numba and SQLite are imported with the first simulation, not with `normcompass --help`.
_HOMES = {
    "Comparison": "comparison",
    "compare": "comparison",
    "simulate": "ensemble",
    "Extrapolation": "extrapolation",
    "extrapolate": "extrapolation",
    "Grid": "grid",
    "simulate_many": "grid",
    "Estimate": "results",
    "Simulation": "results",
    "load": "results",
    "Store": "store",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
