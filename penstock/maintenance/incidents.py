"""Incidents: what went wrong, what was done about it and when, as a log that is only appended to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from penstock.config.base import View
from penstock.errors import PenstockError

__all__ = ["Entry", "Incident", "Incidents", "incidents_of"]

Kind = Literal["preventive", "condition", "corrective"]
What = Literal["opened", "rolled_back", "retrained", "compared", "promoted", "kept", "failed", "closed"]


class Entry(View):
    """One line of the log.

    Attributes:
        incident: Its id: when it was opened, and why.
        at: When this happened, UTC.
        what: Happened.
        kind: Of maintenance.
        causes: Of the monitor, when it was opened.
        down: Whether users had no good answers meanwhile; what availability is counted by.
        words: For people.
    """

    incident: str
    at: datetime
    what: What
    kind: Kind
    causes: tuple[str, ...] = ()
    down: bool = False
    words: str = ""


class Incident(View):
    """An incident as its entries tell it.

    Attributes:
        id: Of it.
        kind: Of maintenance.
        causes: Why it was opened.
        opened: When, UTC.
        closed: When; None while it is open.
        down: Whether users had no good answers meanwhile.
        entries: In the order of time.
    """

    id: str
    kind: Kind
    causes: tuple[str, ...]
    opened: datetime
    closed: datetime | None
    down: bool
    entries: tuple[Entry, ...]

    @property
    def outcome(self) -> What:
        """The last thing that happened before it was closed."""
        return next((one.what for one in reversed(self.entries) if one.what != "closed"), "opened")


def incidents_of(entries: Iterable[Entry]) -> list[Incident]:
    """Incidents in the order in which they were opened."""
    told: dict[str, list[Entry]] = {}
    for entry in entries:
        told.setdefault(entry.incident, []).append(entry)
    return [
        Incident(
            id=name,
            kind=found[0].kind,
            causes=found[0].causes,
            opened=found[0].at,
            closed=next((one.at for one in found if one.what == "closed"), None),
            down=any(one.down for one in found),
            entries=tuple(found),
        )
        for name, found in told.items()
    ]


class Incidents:
    """The log of one model: JSON lines, each on the disk before it counts.

    Args:
        path: Of the file; made with the first entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entry: Entry) -> None:
        """Append an entry."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry.model_dump(mode="json"), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def entries(self) -> list[Entry]:
        """All entries. A last line that a crash has cut short is left out.

        Raises:
            PenstockError: Another line is none.
        """
        if not self.path.is_file():
            return []
        lines = self.path.read_text(encoding="utf-8").split("\n")
        found = []
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                found.append(Entry.model_validate_json(line))
            except ValidationError as error:
                if number == len(lines):
                    break
                raise PenstockError(
                    f"{self.path}:{number}: no entry of an incident log",
                    hint="put the line right; it is JSON",
                ) from error
        return found

    def all(self) -> list[Incident]:
        """Incidents in the order in which they were opened."""
        return incidents_of(self.entries())
