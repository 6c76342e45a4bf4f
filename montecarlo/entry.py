"""The program ``normcompass``: Ctrl-C ends in a sentence from the first import to the last line."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Import the command line, which takes a second or two, and run it."""
    try:
        from montecarlo.cli import main as run

        run()
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"Interrupted: {str(stop) or 'nothing was begun.'}\n")
        sys.exit(130)
