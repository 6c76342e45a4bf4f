"""Pieces of a report: escaped text, tables and figures in HTML."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

from montecarlo.verdicts import VERDICTS

__all__ = ["escape", "figure", "folded", "table"]

_LONG = 12


def escape(text: str) -> str:
    """Return ``text`` with &, <, > and quotes as entities."""
    return html.escape(text, quote=True)


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    words: tuple[int, ...] = (),
    text: tuple[int, ...] = (),
    linked: bool = False,
) -> str:
    """An HTML table of numbers; columns ``words`` stay on one line, ``text`` wraps, verdicts have colors.

    If ``linked``, the first column has ids of places in the page.
    """

    def cell(tag: str, column: int, value: str) -> str:
        kind = ["text"] if column in text else ["words"] if column in words else []
        kind += [word for word in value.split() if word in VERDICTS][:1]
        attribute = f' class="{" ".join(kind)}"' if kind else ""
        shown = escape(value)
        if linked and tag == "td" and column == 0:
            shown = f'<a href="#{shown}">{shown}</a>'
        return f"<{tag}{attribute}>{shown}</{tag}>"

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


def folded(summary: str, body: str, *, lines: int) -> str:
    """``body`` below a line that opens and closes it; a long one begins closed."""
    state = "" if lines > _LONG else " open"
    return f"<details{state}><summary>{escape(summary)}</summary>{body}</details>"
