"""Pieces of a report: escaped text, tables and figures in HTML."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

from montecarlo.verdicts import VERDICTS

__all__ = ["escape", "figure", "table"]


def escape(text: str) -> str:
    """Return ``text`` with &, <, > and quotes as entities."""
    return html.escape(text, quote=True)


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, text: tuple[int, ...] = ()
) -> str:
    """An HTML table; columns ``text`` are words, and a verdict in a cell colors it."""

    def cell(tag: str, column: int, value: str) -> str:
        kind = ["text"] if column in text else []
        kind += [word for word in value.split() if word in VERDICTS][:1]
        attribute = f' class="{" ".join(kind)}"' if kind else ""
        return f"<{tag}{attribute}>{escape(value)}</{tag}>"

    lines = ["".join(cell("th", column, value) for column, value in enumerate(header))]
    lines += [
        "".join(cell("td", column, value) for column, value in enumerate(row)) for row in rows
    ]
    return "<table>" + "".join(f"<tr>{line}</tr>\n" for line in lines) + "</table>"


def figure(png: bytes, caption: str) -> str:
    """A figure inside the file, with its caption."""
    data = base64.b64encode(png).decode("ascii")
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
