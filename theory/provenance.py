"""Where a number comes from: versions, specification keys, machine."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

__all__ = ["provenance", "version_of"]


def version_of(package: str) -> str:
    """Installed version, or ``"unknown"`` for a source tree that is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


@cache
def _environment() -> tuple[tuple[str, str], ...]:
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[index]
    return (
        ("normcompass", version_of("normcompass")),
        ("python", platform.python_version()),
        ("numpy", np.__version__),
        ("scipy", version_of("scipy")),
        ("blas", f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()),
        ("processor", platform.machine()),
        ("system", platform.system()),
    )


def provenance(*, network: Any, inputs: Any, **more: str) -> Mapping[str, str]:
    """Versions, BLAS, processor and the stable keys of both specifications.

    Parameters
    ----------
    network, inputs
        Specifications.
    more
        Further entries: seed, width, method.
    """
    from theory.specs.serialize import key

    entries = {"network_key": key(network), "inputs_key": key(inputs), **more}
    return {**entries, **dict(_environment())}
