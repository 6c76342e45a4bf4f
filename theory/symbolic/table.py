"""Every closed form beside a number that does not know it: name, expression, where, numerical value."""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache

from theory.errors import out_of_domain
from theory.symbolic.row import ClosedForm
from theory.symbolic.table_batches import batch_rows
from theory.symbolic.table_depth import depth_rows
from theory.symbolic.table_layers import group_rows, kernel_rows, limit_rows

__all__ = ["closed_forms", "derivation"]


@lru_cache(maxsize=1)
def closed_forms() -> tuple[ClosedForm, ...]:
    """All rows; a row derives its expression, and computes its number, when asked."""
    return (*kernel_rows(), *limit_rows(), *group_rows(), *batch_rows(), *depth_rows())


def derivation(name: str) -> str:
    """Named steps of a row of ``closed_forms()`` as Markdown with LaTeX.

    Raises
    ------
    SpecificationError
        No row has this name.
    """
    rows = {row.name: row for row in closed_forms()}
    if not isinstance(name, str) or name not in rows:
        near = get_close_matches(str(name), rows, n=8, cutoff=0.0)
        remedy = f"such as {'; '.join(near)}; closed_forms() has all {len(rows)}"
        raise out_of_domain("name", name, "the name of a closed form", remedy)
    return rows[name].expression.derivation()
