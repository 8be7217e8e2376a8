"""What readers of single files have in common: what they yield, how far they are, and what a broken row is."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from penstock.contract import QUARANTINE_SCHEMA

__all__ = ["Broken", "Piece", "Progress", "quarantined", "shown_bytes"]

SHOWN = 10_000  # characters of a line in quarantine


@dataclass(frozen=True)
class Progress:
    """How far a file has been read.

    Attributes:
        rows: Rows before this place, broken ones and, in CSV, blank lines included.
        offset: Bytes before it, as UTF-8 without compression; 0 where a format has no such place.
        open: Where the last row begins, if it had no newline: what is appended may belong to it.
        digest: By which what lies before is known again.
    """

    rows: int = 0
    offset: int = 0
    open: int | None = None
    digest: str = ""

    @property
    def place(self) -> int:
        """Where to read on from."""
        return self.offset if self.open is None else self.open


@dataclass(frozen=True)
class Broken:
    """A row that could not be read as one."""

    position: int
    rule: str  # "line: fields"
    reason: str
    line: str | list[str]


@dataclass(frozen=True)
class Piece:
    """Some consecutive rows of one file, and how far it has then been read.

    Attributes:
        frame: The sound ones.
        progress: After them.
        position: Number of the first, or of each.
        broken: The others.
        last: Whether the file is known to end here.
        written: Gives the same rows as text, if they were read as numbers.
    """

    frame: pl.DataFrame
    progress: Progress
    position: int | pl.Series = 0
    broken: Sequence[Broken] = field(default_factory=tuple)
    last: bool = False
    written: Callable[[], pl.DataFrame] | None = None


def quarantined(name: str, broken: Sequence[Broken]) -> pl.DataFrame:
    """The broken rows of a file, as ``QUARANTINE_SCHEMA``."""
    rows = [
        (name, entry.position, entry.reason, json.dumps({"line": _cut(entry.line)}, ensure_ascii=False))
        for entry in broken
    ]
    return pl.DataFrame(rows, schema=QUARANTINE_SCHEMA, orient="row")


def _cut(line: Any) -> Any:
    # A quote that is never closed may make a row of a whole file.
    if isinstance(line, str):
        return line if len(line) <= SHOWN else f"{line[:SHOWN]}… ({len(line)} characters)"
    return line if sum(map(len, line)) <= SHOWN else _cut(json.dumps(line, ensure_ascii=False))


def shown_bytes(raw: bytes) -> str:
    r"""A line for people: bytes that are no characters as ``\xNN``."""
    # Transcoding marks them as surrogates, which no well-formed text has.
    text = raw.decode("utf-8", "surrogateescape") if b"\xed" not in raw else _unmarked(raw)
    return "".join(f"\\x{ord(c) & 0xFF:02x}" if "\udc00" <= c <= "\udcff" else c for c in text)


def _unmarked(raw: bytes) -> str:
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return raw.decode("utf-8", "surrogateescape")
