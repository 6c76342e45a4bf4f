"""What a call must leave as it was: settings of NumPy, BLAS, Matplotlib, warnings, mpmath, files, threads."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import threading
import warnings
from typing import Any

import matplotlib
import mpmath
import numpy as np
from threadpoolctl import ThreadpoolController

__all__ = ["snapshot"]

# Kept for the next call, by design of their libraries: loky's for its idle workers, Dask's pool of
# one thread.  Anything else that outlives a call, an event loop say, is a finding.
_KEPT = ("ExecutorManagerThread", "QueueFeederThread", "QueueManagerThread", "Dask-Offload")

_CONTROLLER: list[ThreadpoolController] = []


def snapshot() -> dict[str, Any]:
    """Everything global that a library might change, comparable."""
    if not _CONTROLLER:
        _CONTROLLER.append(ThreadpoolController())
    pools = _CONTROLLER[0].info()
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "np.geterr": np.geterr(),
        "np.get_printoptions": {
            k: v for k, v in np.get_printoptions().items() if k != "override_repr"
        },
        "np.random": (kind, keys.tobytes(), *rest),  # type: ignore[union-attr]
        "random": hash(random.getstate()),
        "rcParams": {k: v for k, v in matplotlib.rcParams.items() if k != "backend"},
        "warnings.filters": list(warnings.filters),
        "warnings.showwarning": warnings.showwarning,
        "mpmath": (mpmath.mp.prec, mpmath.iv.prec),
        "BLAS threads": [(pool["filepath"], pool["num_threads"]) for pool in pools],
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "recursion limit": sys.getrecursionlimit(),
        "integer digits": sys.get_int_max_str_digits(),
        "log handlers": list(logging.getLogger().handlers),
        "threads": sorted(
            thread.name for thread in threading.enumerate() if not thread.name.startswith(_KEPT)
        ),
        "hooks": (sys.excepthook, sys.displayhook, sys.stdout, sys.stderr),
    }
