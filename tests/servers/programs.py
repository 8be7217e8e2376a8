"""Finding a server's program, a free port and a user to run it as; waiting until it answers; ending it."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["as_user", "folder_for", "free_port", "program", "running", "until"]

PATIENCE = 60.0  # seconds until a server that has not answered is taken for broken


def program(name: str, *places: str, package: str) -> str:
    """The path of a program, looked for on the PATH and in ``places`` (globs).

    Raises:
        RuntimeError: It is not installed; the message says which package has it.
    """
    for place in places:
        found = sorted(Path("/").glob(f"{place.lstrip('/')}/{name}"))
        if found:
            return str(found[-1])
    found_on_path = shutil.which(name)
    if found_on_path is None:
        raise RuntimeError(f"{name} is not here; it is needed as a real server: apt-get install {package}")
    return found_on_path


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def as_user(user: str) -> list[str]:
    """What to put before a command so that it does not run as root; nothing, if nobody is root."""
    if os.geteuid() != 0:
        return []
    # By number: a user's group need not have the user's name.
    return ["setpriv", f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--init-groups"]


@contextmanager
def folder_for(user: str) -> Iterator[Path]:
    """A new folder that ``user`` owns, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=f"penstock-{user}-"))
    try:
        if os.geteuid() == 0:
            entry = pwd.getpwnam(user)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def until(answers: Callable[[], bool], what: str, process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until ``answers`` gives true.

    Raises:
        RuntimeError: The process has ended, or ``PATIENCE`` has.
    """
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{what} ended with {process.returncode} before it answered")
        if answers():
            return
        time.sleep(0.05)
    raise RuntimeError(f"{what} has not answered for {PATIENCE:.0f} s")


@contextmanager
def running(
    command: Sequence[str], answers: Callable[[], bool], *, log: Path, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server, wait until it answers, and end it.

    Raises:
        RuntimeError: It does not come up; the end of its log is in the message.
    """
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env)
    try:
        try:
            until(answers, command[0], process)
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{log.read_text(errors='replace')[-3000:]}") from error
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
