"""The program ``normcompass``: Ctrl-C ends in a sentence from the first import to the last line."""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["main"]

_MOMENT = 0.05
_SWALLOWING = (
    "<frozen importlib",
    f"{os.sep}numba{os.sep}",
    f"{os.sep}llvmlite{os.sep}",
    f"{os.sep}weakref.py",
)


class _Interrupt(KeyboardInterrupt):
    """Ctrl-C, with exit status 130 for sure.

    Once KeyboardInterrupt itself has left an exec of text, as of a dataclass in the making, CPython
    ends by the signal, although it was caught.
    """


def _interrupt(_: int, frame: object) -> None:
    """Raise, but not where it may be caught by somebody who goes on: a moment later.

    That is while something is imported, compiled or finalized: libraries catch everything in imports, and
    Python drops what a finalizer or a callback from C raises, with a traceback.
    """
    while frame is not None:
        code = frame.f_code  # type: ignore[attr-defined]
        if code.co_name == "__del__" or any(place in code.co_filename for place in _SWALLOWING):
            from threading import Timer

            later = Timer(_MOMENT, _again)
            later.daemon = True
            later.start()
            return
        frame = frame.f_back  # type: ignore[attr-defined]
    raise _Interrupt


def _again() -> None:
    if hasattr(signal, "pthread_kill"):
        from threading import main_thread

        signal.pthread_kill(main_thread().ident or 0, signal.SIGINT)  # wakes it from waiting, too
    else:  # Windows
        from _thread import interrupt_main

        interrupt_main()


def _reopen() -> None:
    """Streams that the shell closed (>&-) lead nowhere: their numbers must not become those of files."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def main() -> None:
    """Import the command line, which takes a second or two, and run it."""
    _reopen()
    try:
        # Behind nohup Ctrl-C is ignored, and stays so.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupt)
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
    finally:
        # What is done is done: while Python ends, a late Ctrl-C would end it without a word.
        if signal.getsignal(signal.SIGINT) is _interrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
