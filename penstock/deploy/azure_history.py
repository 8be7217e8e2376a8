"""Who did what to a deployment from this machine, and one at a time. Nothing is decided by it: Azure says how things stand."""

from __future__ import annotations

import fcntl
import getpass
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from penstock.errors import PenstockError

__all__ = ["History"]


class History:
    """Of one file under conf/deploy.

    Args:
        root: The repository.
        name: Of the file.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.path = root / ".penstock/deploy" / f"{name}.jsonl"

    @contextmanager
    def run(self, verb: str) -> Iterator[None]:
        """Keep others away while it runs, and write down how it began and ended.

        Raises:
            PenstockError: Another process on this machine is at it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise PenstockError(
                    f"another `penstock deploy` of {self.path.stem} runs here", hint="wait for it to end"
                ) from error
            self._note(verb, "begun")
            try:
                yield
            except BaseException as error:
                self._note(
                    verb, "failed", why=str(error).splitlines()[0] if str(error) else type(error).__name__
                )
                raise
            self._note(verb, "done")

    def _note(self, verb: str, state: str, **more: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"time": now, "who": _who(), "verb": verb, "state": state, **more})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def entries(self) -> list[dict[str, Any]]:
        """The oldest first; a line that a kill cut off is left out."""
        if not self.path.is_file():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return str(os.getuid())
