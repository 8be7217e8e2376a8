"""The next chunk is read while this one is dealt with: reading and writing both leave cores idle by themselves."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

__all__ = ["ahead"]

T = TypeVar("T")
PATIENCE = 0.1  # seconds after which it is looked whether anybody still wants the next


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the same items, the next of which a thread gets ready meanwhile.

    An error in between is raised where the item would have come. Whoever stops early closes ``items`` too.
    """
    waiting: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(maxsize=1)
    unwanted = threading.Event()

    def put(item: tuple[T] | BaseException | None) -> bool:
        while not unwanted.is_set():
            try:
                waiting.put(item, timeout=PATIENCE)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item,)):
                    break
            else:
                put(None)
        except BaseException as error:
            put(error)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
            del item
    finally:
        unwanted.set()
        thread.join()
