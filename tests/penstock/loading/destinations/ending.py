"""Loads in a process that is killed before its n-th change of a file, for every n there is.

The C library's calls are counted, so that what Rust writes counts too. A process that has imported everything forks for
each n: to start anew would take a hundred times as long. It has no threads before it forks.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from penstock.config.loading import Destination
from penstock.loading.destinations import open_table
from tests.penstock.loading.destinations.conftest import MOMENT, plan_of, rows_of, state_of
from tests.servers.programs import program

FIRST = [(number, "ab"[number % 2], float(number), 0) for number in range(9)]
SECOND = [(number, "ab"[number % 2], number + 0.5, 1) for number in range(6, 11)]


def act(table, what: str, load: int) -> None:
    """Bring about the table of load 1 or 2; ``what``: a mode of writing, or what else can be done."""
    if what == "compact":
        table.compact()
        return
    if what == "open":
        return
    write, keys, order = json.loads(what)
    rows = [FIRST, SECOND][load - 1]
    table.stage(rows_of(rows[:3], load))
    table.stage(rows_of(rows[3:], load))
    plan = plan_of(write, tuple(keys), order, MOMENT.replace(day=10 * load))
    table.commit(state_of(load, resume={"at": load}), plan)


def opened(destination: dict[str, Any]):
    return open_table(TypeAdapter(Destination).validate_python(destination))


class Mortal:
    """A process whose children act and are killed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def killed(self, destination: dict[str, Any], what: str, load: int, before: int) -> bool:
        """Act, and be killed before a change; False: the act was over by then."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([destination, what, load, before]) + "\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        assert status in {0, signal.SIGKILL}
        return status == signal.SIGKILL


@contextmanager
def mortal(folder: Path) -> Iterator[Mortal]:
    """Such a process, for the time of the block; what it needs is compiled in ``folder``."""
    library = folder / "ending.so"
    compiler = program("cc", package="gcc")
    source = Path(__file__).with_suffix(".c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    root = str(Path(__file__).parents[4])
    process = subprocess.Popen(
        [sys.executable, "-c", "from tests.penstock.loading.destinations.ending import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": root},
    )
    with process:
        try:
            yield Mortal(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


def serve() -> None:
    """What the process does."""
    import penstock.loading.destinations.delta
    import penstock.loading.destinations.parquet  # noqa: F401

    ending = ctypes.CDLL(None)
    for line in sys.stdin:
        destination, what, load, before = json.loads(line)
        child = os.fork()
        if child == 0:
            os.dup2(2, 1)
            status = 1
            try:
                ending.end_before(destination["path"].encode(), ctypes.c_long(before))
                with opened(destination) as table:
                    act(table, what, load)
                status = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            os._exit(status)
        print(os.waitpid(child, 0)[1], flush=True)
