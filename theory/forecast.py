"""What long work will take, said beforehand or as soon as it can be measured: an estimate, no promise.

Nothing prints: sentences go to the logger ``normcompass``, as a warning beyond a minute, which Python shows
on standard error where logging is not configured, and as information beyond ten seconds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

__all__ = ["Pace", "announce", "in_words", "paced"]

T = TypeVar("T")

_LOGGER = logging.getLogger("normcompass")
_LONG, _NOTABLE = 60.0, 10.0
# A shorter beginning measures too little.
_BEGINNING = 1.0


def announce(seconds: float, *, what: str, remedy: str) -> None:
    """Log ``what: about 40 min; remedy.``, if it is long.

    Parameters
    ----------
    seconds
        Estimated.
    what, remedy
        Halves of the sentence: what takes that long, and what takes less.
    """
    if seconds > _NOTABLE:
        level = logging.WARNING if seconds > _LONG else logging.INFO
        _LOGGER.log(level, "%s: about %s; %s.", what, in_words(seconds), remedy)


def in_words(seconds: float) -> str:
    """``40 min``, ``3 h``, ``2 days``."""
    for unit, size, most in (("s", 1.0, 90.0), ("min", 60.0, 5400.0), ("h", 3600.0, 172_800.0)):
        if seconds < most:
            return f"{round(seconds / size)} {unit}"
    return f"{round(seconds / 86_400)} days"


class Pace:
    """Announce, at steps 2, 4, 8, ... beyond a second, what all will take: the newer half times their number.

    The first step of its kind prepares what later ones share, so that it must not count; clocks at
    every step of a prediction that takes 200 microseconds would be a quarter of it.

    Parameters
    ----------
    steps
        Their number, of much the same cost on average.
    what, remedy
        As for ``announce``, which hears of them once if they are long.
    """

    def __init__(self, steps: int, *, what: str, remedy: str) -> None:
        self._steps, self._what, self._remedy = steps, what, remedy
        self._start = self._last = time.perf_counter()
        self._done, self._announced = 0, False
        self.due = 1

    def step(self) -> None:
        """Say that one more step is done."""
        self._done += 1
        if self._done == self.due:
            self.look(self._done)

    def look(self, done: int) -> None:
        """Look at the clock, ``done`` being ``due``; for loops that count themselves."""
        now = time.perf_counter()
        total = (now - self._last) / (done - done // 2) * self._steps
        if done > 1 and now - self._start > _BEGINNING and not self._announced:
            self._announced = total > _NOTABLE
            announce(total, what=self._what, remedy=self._remedy)
        self._last, self.due = now, 2 * done


def paced(items: Sequence[T], *, what: str, remedy: str) -> Iterator[T]:
    """Yield the items, each of them a step of a ``Pace``."""
    pace = Pace(len(items), what=what, remedy=remedy)
    for item in items:
        yield item
        pace.step()
