"""What MkDocs does besides: the notebooks are pages, and formulas become MathML.

So a reader needs neither a network nor JavaScript, and notebooks exist once, where users run them.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).parents[1]

# \(...\) and \[...\] are arithmatex's; $...$ and $$...$$ stand in notebooks and in their outputs.
_PATTERNS = (
    (re.compile(r"\\\[(.+?)\\\]|\$\$(.+?)\$\$|\$\\displaystyle (.+?)\$", re.S), "block"),
    (re.compile(r"\\\((.+?)\\\)|\$([^\s$](?:[^$\n]*[^\s$])?)\$", re.S), "inline"),
)
# Code keeps its dollars and backslashes.
_CODE = re.compile(r"<(pre|code|script|style)\b.*?</\1>", re.S)


@event_priority(100)  # before the plugin that renders notebooks
def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that live where readers of the checkout look for them."""
    for folder, pattern in ((_ROOT, "notebooks/*.ipynb"), (_ROOT / "docs", "how-to/*.md")):
        for path in sorted(folder.glob(pattern)):
            name = str(path.relative_to(folder))
            files.append(File(name, str(folder), config.site_dir, config.use_directory_urls))
    return files


def on_page_content(content: str, **_: Any) -> str:
    """Replace every formula outside code."""
    parts, end = [], 0
    for match in _CODE.finditer(content):
        parts += [_mathml(content[end : match.start()]), match[0]]
        end = match.end()
    return "".join([*parts, _mathml(content[end:])])


def _mathml(text: str) -> str:
    for pattern, display in _PATTERNS:
        text = pattern.sub(
            lambda match, display=display: convert(
                html.unescape(next(filter(None, match.groups()))), display=display
            ),
            text,
        )
    return text
