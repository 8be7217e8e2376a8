"""Again and again: a load at an interval, until somebody says stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

__all__ = ["stopping", "watch"]

BACK_OFF_LIMIT = 3600.0  # seconds


def watch(
    every: timedelta,
    run: Callable[[], bool],
    stop: threading.Event,
    *,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], Any] | None = None,
) -> None:
    """Run at once, and then whenever the interval has passed since the last start; never two at a time.

    After a failure the next try comes sooner or later by turns: the interval doubles with each failure in a row, up to
    an hour (or the interval, if that is longer), so that a source that is down is not hammered.

    Args:
        every: Between starts.
        run: Returns whether it went well.
        stop: Ends it, after the run at hand.
        clock: Seconds, for tests.
        wait: Takes seconds; ``stop.wait`` by default.
    """
    pause = wait or stop.wait
    interval = every.total_seconds()
    failures = 0
    while not stop.is_set():
        began = clock()
        failures = 0 if run() else failures + 1
        if stop.is_set():
            return
        due = interval if not failures else min(interval * 2**failures, max(interval, BACK_OFF_LIMIT))
        pause(max(0.0, began + due - clock()))


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, once; the second one ends the process as ever."""
    stop = threading.Event()
    before: dict[int, Any] = {}

    def said(number: int, _: Any) -> None:
        stop.set()
        signal.signal(number, before[number])

    for number in (int(signal.SIGTERM), int(signal.SIGINT)):
        before[number] = signal.signal(number, said)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
