"""The program ``normcompass``: Ctrl-C ends in a sentence from the first import to the last line."""

from __future__ import annotations

import os
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
    except SystemExit as end:
        # Typer, interrupted before a command guards itself (options, imports), ends without a word.
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):
            sys.stderr.write("Interrupted: nothing was begun.\n")
        raise
    except OSError as error:
        # Help and version, which are written before a command guards itself.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stderr.write(
            f"Error: cannot write the output: {error}; free space or write elsewhere.\n"
        )
        sys.exit(3)
