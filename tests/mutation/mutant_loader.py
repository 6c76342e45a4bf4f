"""Pytest plugin of ``python -m tests.mutation``: import one module from another source."""

from __future__ import annotations

import importlib.machinery
import os
import sys
from pathlib import Path


class _Loader(importlib.machinery.SourceFileLoader):
    """Compile the mutant in place of the file; write no byte code."""

    def get_code(self, fullname: str):
        text = Path(os.environ["MUTANT_SOURCE"]).read_text(encoding="utf-8")
        return compile(text, self.path, "exec")


class _Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname != os.environ["MUTANT_MODULE"]:
            return None
        spec = super().find_spec(fullname, path, target)
        if spec is not None:
            spec.loader = _Loader(fullname, spec.origin)
        return spec


if "MUTANT_MODULE" in os.environ:
    sys.meta_path.insert(0, _Finder)
