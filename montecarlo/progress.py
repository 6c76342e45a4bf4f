"""A bar on standard error: networks done, their rate, the time that remains."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator

__all__ = ["progress_bar"]

Advance = Callable[[int, float], None]


@contextlib.contextmanager
def progress_bar(*, networks: int, seconds: float, shown: bool) -> Iterator[Advance]:
    """Yield a function to call with (networks, their estimated seconds) that have just finished.

    The bar runs over estimated seconds, not networks: in a grid of widths a wide network counts for
    more, and the remaining time stays right.
    """
    if not shown or networks == 0:
        yield lambda count, cost: None
        return
    # The first import of Rich draws a number from the user's generator.
    state = random.getstate()
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    random.setstate(state)
    columns = (
        TextColumn("networks"),
        BarColumn(),
        TextColumn("{task.fields[done]}/{task.fields[networks]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=seconds, done=0, networks=networks, rate="compiling")
        done = 0

        def advance(count: int, cost: float) -> None:
            nonlocal done
            done += count
            elapsed = bar.tasks[0].elapsed or 0.0
            rate = f"{done / elapsed:.3g}/s" if elapsed > 0.0 else ""
            bar.update(task, advance=cost, done=done, rate=rate)

        yield advance
