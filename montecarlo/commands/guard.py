"""Exit statuses: what a user can mend, Ctrl-C and closed pipes end in a sentence, not a traceback."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import typer

from theory.errors import NormcompassError, SpecificationError

__all__ = ["INCONCLUSIVE", "INTERRUPTED", "USAGE", "guarded"]

USAGE, INCONCLUSIVE, INTERRUPTED = 2, 3, 130

Arguments = ParamSpec("Arguments")


def guarded(command: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """``command``, whose errors become a sentence on standard error and an exit status.

    Warnings become sentences too.  A ``KeyboardInterrupt`` with a message says itself what is left
    of the run.
    """

    @wraps(command)
    def guarded(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                command(*args, **kwargs)
            sys.stdout.flush()
        except KeyboardInterrupt as stop:
            sys.stderr.write(f"Interrupted: {str(stop) or 'no result was written.'}\n")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader (head, less) has closed the pipe: it has what it wanted.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except OSError as error:
            # A full disk behind standard output; whatever is left in its buffer cannot be written either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.stderr.write(
                f"Error: cannot write the output: {error}; free space or write elsewhere.\n"
            )
            raise typer.Exit(INCONCLUSIVE) from None
        except NormcompassError as error:
            notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
            sys.stderr.write(f"Error: {error}{notes}\n")
            status = USAGE if isinstance(error, SpecificationError) else INCONCLUSIVE
            raise typer.Exit(status) from None

    return guarded


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    sys.stderr.write(f"Warning: {message}\n")
