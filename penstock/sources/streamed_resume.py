"""What is remembered of files, so that a load goes on where the last one stopped.

``{"files": {name: {"size", "mark", "rows", "done", …}}, "done": {folder: {file: "size mark rows …"}}}``: in full the one
file that is not read to its end, and those that are in some fifty bytes each. What is no longer there is forgotten.
With a cursor, ``since`` is the bound with which the unfinished pass over the files began.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from penstock.sources.streamed_pieces import Progress
from penstock.sources.streamed_places import Place

__all__ = ["Memory", "Record"]


@dataclass(frozen=True)
class Record:
    """One file as it was when it was last read.

    Attributes:
        size: Bytes; -1 if not known.
        mark: A short hash of its ETag or the time of its last change.
        rows: Delivered, or broken.
        done: Whether it was read to its end.
        offset: See ``Progress``.
        open: See ``Progress``.
        digest: See ``Progress``; of formats without a place in bytes, of the file.
    """

    size: int
    mark: str
    rows: int
    done: bool
    offset: int = 0
    open: int | None = None
    digest: str = ""

    @classmethod
    def of(cls, place: Place, progress: Progress, *, done: bool) -> Record:
        """A file now."""
        size = -1 if place.size is None else place.size
        return cls(
            size, short(place.mark), progress.rows, done, progress.offset, progress.open, progress.digest
        )

    @property
    def progress(self) -> Progress:
        """Where to go on."""
        return Progress(self.rows, self.offset, self.open, self.digest)

    def is_of(self, place: Place) -> bool:
        """Whether a file is as it was."""
        return place.size == self.size and short(place.mark) == self.mark

    def compact(self) -> str:
        """As a few words."""
        opened = "-" if self.open is None else str(self.open)
        return f"{self.size} {self.mark or '-'} {self.rows} {self.offset} {opened} {self.digest or '-'}"

    @classmethod
    def expanded(cls, text: str) -> Record:
        """From ``compact``."""
        size, mark, rows, offset, opened, digest = text.split(" ")
        place = None if opened == "-" else int(opened)
        return cls(int(size), mark.strip("-"), int(rows), True, int(offset), place, digest.strip("-"))


def short(text: str) -> str:
    """A hash that is long enough to see that something differs."""
    return hashlib.sha256(text.encode()).hexdigest()[:8] if text else ""


@dataclass
class Memory:
    """All files that were read."""

    files: dict[str, Record] = field(default_factory=dict)
    since: dict[str, Any] | None = None

    @classmethod
    def of(cls, resume: Mapping[str, Any], names: Iterable[str]) -> Memory:
        """From ``Window.resume``, what concerns files that are still there."""
        there = set(names)
        files = {name: Record(**record) for name, record in resume.get("files", {}).items() if name in there}
        for folder, inside in resume.get("done", {}).items():
            for base, text in inside.items():
                if folder + base in there:
                    files[folder + base] = Record.expanded(text)
        return cls(files, resume.get("since"))

    def resume(self) -> dict[str, Any]:
        """As ``Chunk.resume``; later changes here do not change it."""
        files: dict[str, Any] = {}
        done: dict[str, dict[str, str]] = {}
        for name, record in self.files.items():
            if record.done:
                folder, slash, base = name.rpartition("/")
                done.setdefault(folder + slash, {})[base] = record.compact()
            else:
                files[name] = asdict(record)
        found: dict[str, Any] = {"files": files, "done": done}
        return found if self.since is None else {**found, "since": self.since}
