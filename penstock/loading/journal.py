"""What runs did, one line each, in a file that is only added to: the source of status, metrics and alerts.

A line that a killed process did not finish is left out, and the next line begins anew. A run that has begun, and neither
ended nor holds its load's lock, was killed.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from penstock.loading.report import Report
from penstock.storage import write_bytes

__all__ = ["Journal", "journals"]

KEPT = 500  # runs; more than any status or alert looks back
LARGEST = 4 << 20  # bytes, after which older runs go


class Journal:
    """The runs of one load.

    Args:
        folder: The load's own, ``.penstock/loads/NAME``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "runs.jsonl"

    def note(self, report: Report) -> None:
        """Write down how a run stands: at its start, after a commit, at its end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        line = report.model_dump_json().encode() + b"\n"
        with self.path.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":  # a line that was cut off by a kill
                    line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if report.outcome != "running" and self.path.stat().st_size > LARGEST:
            self._shorten()

    def _shorten(self) -> None:
        kept = "".join(report.model_dump_json() + "\n" for report in self.runs()[-KEPT:])
        write_bytes(self.path, kept.encode())

    def runs(self) -> list[Report]:
        """All runs, the oldest first, each as it was last noted. One that was killed has the outcome ``killed``."""
        last: dict[str, Report] = {}
        for report in self._lines():
            last[report.started.isoformat()] = report
        runs = list(last.values())
        if runs and runs[-1].outcome == "running" and not self.is_running():
            runs[-1] = runs[-1].model_copy(update={"outcome": "killed"})
        return [
            run.model_copy(update={"outcome": "killed"})
            if run.outcome == "running" and run is not runs[-1]
            else run
            for run in runs
        ]

    def _lines(self) -> Iterator[Report]:
        if not self.path.is_file():
            return
        for line in self.path.read_bytes().splitlines():
            try:
                yield Report.model_validate_json(line)
            except ValidationError:
                continue  # cut off by a kill, or of a version that noted other things

    def is_running(self) -> bool:
        """Whether a process holds the load's lock."""
        path = self.folder / "lock"
        if not path.is_file():
            return False
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


def journals(root: Path = Path()) -> dict[str, Journal]:
    """Of every load that ever ran here, by name."""
    folder = root / ".penstock/loads"
    return {path.parent.name: Journal(path.parent) for path in sorted(folder.glob("*/runs.jsonl"))}
