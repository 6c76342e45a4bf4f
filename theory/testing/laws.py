"""All laws of the theory by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from theory.testing import identities, integrals, maps  # noqa: F401 (importing registers their laws)
from theory.testing.checks import REGISTER
from theory.testing.runner import Law

__all__ = ["LAWS"]

LAWS: Mapping[str, Law] = MappingProxyType(REGISTER)
