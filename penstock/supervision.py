"""Processes that belong together on this machine, each started again when it dies."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.console import say

__all__ = ["Part", "ended", "python", "supervise", "tended"]

FIRST, MOST = 0.5, 30.0  # seconds until a part that has died is started again; doubles
CALM = 60.0  # seconds after which a part that runs is forgiven
LEAVE = 25.0  # seconds that a part has to end in order
PR_SET_PDEATHSIG = 1


@dataclass
class Part:
    """One process.

    Attributes:
        name: For people.
        command: What it runs.
        bound: It ends when the supervisor dies, however that comes about; else it goes on without one.
        starts: How often it was started.
    """

    name: str
    command: Sequence[str]
    bound: bool = False
    starts: int = 0
    process: subprocess.Popen[bytes] | None = None
    group: int | None = None
    wait: float = FIRST
    began: float = 0.0
    due: float = field(default=0.0)

    def start(self) -> None:
        """Start it, once nothing is left of the one before."""
        self.clear(signal.SIGKILL)
        # In a session of its own: Ctrl-C is for the supervisor, which ends the parts in their order.
        self.process = subprocess.Popen(
            self.command,
            start_new_session=True,
            preexec_fn=_dies_with_us if self.bound else None,  # noqa: PLW1509  (supervisors have one thread)
        )
        self.group = self.process.pid
        self.began = time.monotonic()
        self.starts += 1

    def clear(self, number: signal.Signals) -> None:
        """End what a part that is gone has left behind: its workers would go on to listen where the next one is to."""
        if self.group is not None and (self.process is None or self.process.poll() is not None):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.group, number)


def _dies_with_us() -> None:
    """In the new process: SIGTERM when the thread that has started it ends. Linux alone has it."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def supervise(parts: Sequence[Part], look: float = 0.1, each: Callable[[], None] | None = None) -> int:
    """Run the parts until SIGTERM or SIGINT; then end them, the first of them first.

    Args:
        parts: In the order in which they end: what takes from outside before what it hands to. More may be added meanwhile.
        look: Seconds between looks at whether all are alive.
        each: What else is done at each look.

    Returns:
        The exit code: 0, or 1 if one had to be killed.
    """
    stopping = False

    def stop(*_: Any) -> None:
        nonlocal stopping
        stopping = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    code = 0
    try:
        for part in parts:
            part.start()
        while not stopping:
            for part in parts:
                tended(part)
            if each is not None:
                each()
            time.sleep(look)
    finally:
        for part in parts:
            code |= ended(part)
        for number, handler in before.items():
            signal.signal(number, handler)
    return code


def tended(part: Part) -> None:
    """Start a part again if it has died, after a while that doubles each time."""
    now = time.monotonic()
    if part.process is None:
        if now >= part.due:
            part.start()
        return
    status = part.process.poll()
    if status is None:
        if now - part.began > CALM:
            part.wait = FIRST
        return
    part.process = None
    part.clear(signal.SIGTERM)
    part.due = now + part.wait
    why = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
    say(f"{part.name} has ended ({why}); it is started again in {part.wait:.1f} s")
    part.wait = min(MOST, part.wait * 2)


def ended(part: Part, leave: float = LEAVE) -> int:
    """End a part in order, or kill it; 1 if it had to be killed.

    Args:
        part: It.
        leave: Seconds that it has.
    """
    if part.process is None or part.process.poll() is not None:
        part.clear(signal.SIGTERM)
        return 0
    part.process.terminate()
    try:
        part.process.wait(leave)
    except subprocess.TimeoutExpired:
        say(f"{part.name} does not end; it is killed")
        part.process.kill()
        part.process.wait()
        part.clear(signal.SIGKILL)
        return 1
    return 0


def python(*arguments: str) -> list[str]:
    """A command of this very installation."""
    return [sys.executable, "-m", "penstock.cli", *arguments]
