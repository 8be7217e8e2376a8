"""The same work on the machines of a Ray cluster: as ``parallel``, results do not depend on where they were computed.

For searches that are too large for one machine; on one, processes are several times faster. What a task needs besides its own few
numbers, the table above all, goes to each machine once.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from penstock.errors import PenstockError
from penstock.reproducible import KERNELS, THREADS
from penstock.validation.parallel import Map, Result, Task

__all__ = ["ray_workers"]


@contextmanager
def ray_workers(cores: int) -> Iterator[Map]:  # type: ignore[type-arg]
    """Yield ``map(work, tasks, advance)`` as ``parallel.workers`` does.

    RAY_ADDRESS, Ray's own variable, says which cluster; Penstock is installed on its machines, of the same version. Without
    it a cluster of this machine alone is started, with a token of its own, and ended afterwards.

    Args:
        cores: Processes on this machine, where there is no cluster.

    Raises:
        PenstockError: Ray is not installed, its cluster cannot be reached, or its workers were killed again and again.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        # Its ports are open to the network, and who reaches them runs what they like: not without a token. It stays the
        # same for this process, as Ray reads it once.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError as error:
        raise PenstockError(
            "search.backend: ray is not installed",
            hint="install it: pip install 'penstock[ray]', or set search.backend to processes",
        ) from error
    if address:
        # Sums in the order, and by the kernels, that they have here; processes of this machine inherit them.
        pinned = dict.fromkeys(THREADS, "1") | KERNELS
        given: dict[str, Any] = {"address": address, "runtime_env": {"env_vars": pinned}}
    else:
        given = {"num_cpus": cores, "include_dashboard": False}
    try:
        ray.init(**given, log_to_driver=False, logging_level="error")
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise PenstockError(
            f"search.backend: no Ray cluster at {address or 'this machine'}: {str(error).splitlines()[0]}",
            hint="RAY_ADDRESS is such as host:6379; without it one is started here",
        ) from error
    try:
        yield lambda work, tasks, advance: _spread(ray, work, tasks, advance)
    finally:
        ray.shutdown()


def _spread(
    ray: Any, work: Callable[[Task], Result], tasks: Sequence[Task], advance: Callable[[float], None]
) -> list[Result]:
    shared = ray.put(work)
    run = ray.remote(_run)
    waiting = places = [run.remote(shared, task) for task in tasks]
    try:
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1)
            ray.get(done)
            advance(1)
        found: list[Result] = ray.get(places)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise PenstockError(
            f"a Ray worker was killed while fitting: {str(error).splitlines()[0]}",
            hint="memory ran out? Give each task more, or use fewer at a time",
        ) from error
    return found


def _run(work: Callable[[Task], Result], task: Task) -> Result:
    return work(task)
