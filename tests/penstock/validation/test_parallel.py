"""More processes change the time, not the result."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from penstock.errors import PenstockError
from penstock.validation import estimators
from penstock.validation.parallel import workers


@pytest.mark.parametrize("cores", [1, 2])
def test_results_come_in_the_order_of_the_tasks(cores: int) -> None:
    told: list[float] = []
    with workers(cores, []) as spread:
        assert spread(partial(pow, 2), list(range(10)), told.append) == [2**x for x in range(10)]
    assert told == [1] * 10


def test_work_is_done_elsewhere_unless_there_is_one_core() -> None:
    places = {}
    for cores in (1, 2):
        with workers(cores, []) as spread:
            places[cores] = spread(os.path.realpath, ["/proc/self"], lambda _: None)
    here = [os.path.realpath("/proc/self")]
    assert (places[1] == here, places[2] == here) == (True, False)


@pytest.mark.parametrize("cores", [1, 2])
def test_a_mistake_of_the_user_comes_back_with_its_hint(cores: int) -> None:
    with pytest.raises(PenstockError) as caught, workers(cores, []) as spread:
        spread(partial(estimators.modules, kind="binary"), [["knm"]], lambda _: None)
    assert str(caught.value) == "no model 'knm'\n  → did you mean 'knn'?"


def test_a_killed_worker_is_an_error_that_says_so() -> None:
    with pytest.raises(PenstockError, match="a worker process was killed"), workers(2, []) as spread:
        spread(os._exit, [1], lambda _: None)


KILLED = """
import os, signal, sys
from functools import partial
from pathlib import Path
from penstock.validation.parallel import workers
with workers(2, []) as spread:
    print(spread(os.path.realpath, ["/proc/self"], lambda _: None)[0], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_leave_with_a_killed_parent() -> None:
    process = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False)
    worker = int(Path(process.stdout.strip()).name)
    ended = True  # a process that is not even found has ended, and an ended one's descriptor is readable
    with suppress(ProcessLookupError):
        ended = bool(select.select([os.pidfd_open(worker)], [], [], 5.0)[0])
    assert process.returncode == -signal.SIGKILL
    assert ended
