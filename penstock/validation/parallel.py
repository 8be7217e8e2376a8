"""The same work on several processes: what comes back does not depend on how many there are.

The processes are forked from a server that has imported scikit-learn once: that import takes seconds, and
each process of another kind of pool would repeat it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import parent_process
from typing import TypeVar

from penstock.errors import PenstockError

__all__ = ["Map", "workers"]

Task = TypeVar("Task")
Result = TypeVar("Result")

Map = Callable[[Callable[[Task], Result], Sequence[Task], Callable[[float], None]], list[Result]]


def _leave_with_parent() -> None:
    """End this process when the one that gave it work is gone: a killed stage leaves nothing running."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def workers(cores: int, preload: Sequence[str]) -> Iterator[Map]:  # type: ignore[type-arg]
    """Yield ``map(work, tasks, advance)``: results in the order of ``tasks``, ``advance(1)`` after each.

    Args:
        cores: Processes; with 1 the work is done in this one.
        preload: Modules that the server imports before it forks.

    Raises:
        PenstockError: A process was killed from outside, as a system does when memory runs out.
    """
    if cores == 1:
        yield _serially
        return
    from multiprocessing import forkserver, get_context

    # The server starts now and imports by itself, while this process does its own first work.
    forkserver.set_forkserver_preload(list(preload))
    forkserver.ensure_running()
    with ProcessPoolExecutor(
        cores, mp_context=get_context("forkserver"), initializer=_leave_with_parent
    ) as pool:
        try:
            yield lambda work, tasks, advance: _spread(pool, work, tasks, advance)
        except BrokenProcessPool as error:
            raise PenstockError(
                "a worker process was killed while fitting",
                hint="memory ran out? Set PENSTOCK_CORES=1 and try again",
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _serially(
    work: Callable[[Task], Result], tasks: Sequence[Task], advance: Callable[[float], None]
) -> list[Result]:
    results = []
    for task in tasks:
        results.append(work(task))
        advance(1)
    return results


def _spread(
    pool: Executor, work: Callable[[Task], Result], tasks: Sequence[Task], advance: Callable[[float], None]
) -> list[Result]:
    futures = [pool.submit(work, task) for task in tasks]
    for future in as_completed(futures):
        future.result()
        advance(1)
    return [future.result() for future in futures]
