"""A real MQTT broker: one mosquitto on loopback, which can be stopped and started again on what it had stored."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.servers.programs import as_user, folder_for, free_port, program, until

__all__ = ["Mosquitto", "mosquitto"]

OWNER = "nobody"


class Mosquitto:
    """A broker.

    Attributes:
        port: Where it listens, the same after it was started again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        config = self.folder / "mosquitto.conf"
        lines = [
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous true",  # who may publish is the business of who runs one
            "persistence true",
            f"persistence_location {self.folder}/",
            "autosave_interval 1",
            "autosave_on_changes true",  # every change is kept over a kill
            "log_dest stderr",  # as it is said, without a buffer
            "log_type all",
        ]
        config.write_text("\n".join(lines) + "\n")
        config.chmod(0o644)
        command = [*as_user(OWNER), program("mosquitto", "/usr/sbin", package="mosquitto"), "-c", str(config)]
        with (self.folder / "out").open("ab") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out)
        until(self._answers, "mosquitto", self._process)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def stop(self) -> None:
        """End it in order: what it has queued is on the disk."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(20)

    def said(self) -> str:
        """What it wrote: every packet that came and went."""
        return (self.folder / "out").read_text(errors="replace")


@contextmanager
def mosquitto() -> Iterator[Mosquitto]:
    """A broker for the time of the block."""
    with folder_for(OWNER) as folder:
        folder.chmod(0o755)
        broker = Mosquitto(folder)
        broker.start()
        try:
            yield broker
        finally:
            broker.stop()
