"""All parts of a real-time path on this machine, each in a process of its own, started again when it dies."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.console import say

__all__ = ["Part", "python", "supervise"]

FIRST, MOST = 0.5, 30.0  # seconds until a part that has died is started again; doubles
CALM = 60.0  # seconds after which a part that runs is forgiven
LEAVE = 25.0  # seconds that a part has to end in order


@dataclass
class Part:
    """One process.

    Attributes:
        name: For people.
        command: What it runs.
    """

    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    wait: float = FIRST
    began: float = 0.0
    due: float = field(default=0.0)

    def start(self) -> None:
        """Start it."""
        # In a session of its own: Ctrl-C is for the supervisor, which ends the parts in their order.
        self.process = subprocess.Popen(self.command, start_new_session=True)
        self.began = time.monotonic()


def supervise(parts: Sequence[Part], look: float = 0.1) -> int:
    """Run the parts until SIGTERM or SIGINT; then end them, the first of them first.

    Args:
        parts: In the order in which they end: what takes from outside before what it hands to.
        look: Seconds between looks at whether all are alive.

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
                _tended(part)
            time.sleep(look)
    finally:
        for part in parts:
            code |= _ended(part)
        for number, handler in before.items():
            signal.signal(number, handler)
    return code


def _tended(part: Part) -> None:
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
    part.due = now + part.wait
    why = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
    say(f"{part.name} has ended ({why}); it is started again in {part.wait:.1f} s")
    part.wait = min(MOST, part.wait * 2)


def _ended(part: Part) -> int:
    if part.process is None or part.process.poll() is not None:
        return 0
    part.process.terminate()
    try:
        part.process.wait(LEAVE)
    except subprocess.TimeoutExpired:
        say(f"{part.name} does not end; it is killed")
        part.process.kill()
        part.process.wait()
        return 1
    return 0


def python(*arguments: str) -> list[str]:
    """A command of this very installation."""
    return [sys.executable, "-m", "penstock.cli", *arguments]
