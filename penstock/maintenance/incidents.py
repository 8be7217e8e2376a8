"""Incidents: what went wrong, what was done about it and when, as a log that is only appended to."""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from penstock.config.base import View
from penstock.errors import PenstockError
from penstock.hash_chain import GENESIS, digest

__all__ = ["ITSELF", "OPERATOR", "Entry", "Incident", "Incidents", "incidents_of"]

Kind = Literal["preventive", "condition", "corrective"]
What = Literal[
    "opened", "acknowledged", "rolled_back", "retrained", "compared", "handed_over", "promoted", "kept", "failed",
    "closed",
]  # fmt: skip
ITSELF = "maintenance"  # who, where no person has done it
OPERATOR = "operator"  # cause of an incident that a person has opened


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
        figures: What was measured: ``seconds`` of a retraining; ``gain``, ``holdout_gain`` of a comparison.
        who: Has done it.
    """

    incident: str
    at: datetime
    what: What
    kind: Kind
    causes: tuple[str, ...] = ()
    down: bool = False
    words: str = ""
    figures: dict[str, float] = Field(default_factory=dict)
    who: str = ITSELF


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
        asides = {"closed", "acknowledged"}
        return next((one.what for one in reversed(self.entries) if one.what not in asides), "opened")

    @property
    def is_of_operator(self) -> bool:
        """Whether a person has opened it, who will close it."""
        return self.entries[0].who != ITSELF

    @property
    def acknowledged(self) -> datetime | None:
        """When a person first said that they look after it."""
        return next((one.at for one in self.entries if one.what == "acknowledged"), None)

    @property
    def is_handed_over(self) -> bool:
        """Whether it is open because a rollout is trying the challenger."""
        return self.closed is None and self.outcome == "handed_over"


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
    """The log of one model: JSON lines, each on the disk before it counts, each with the hash of the one before.

    Args:
        path: Of the file; made with the first entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entry: Entry) -> None:
        """Append an entry. What a crash has left of a last line goes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # people write, too
            file.seek(0)
            content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            if len(whole) < len(content):
                file.truncate(len(whole))
            known = {name: value for name, value in entry.figures.items() if math.isfinite(value)}
            line = entry.model_dump(mode="json") | {"figures": known, "previous": _last_hash(whole)}
            line["hash"] = digest(line)
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _lines(self) -> list[tuple[dict[str, Any], Entry]]:
        """All lines, as they are written and what they say. A last one that a crash has cut short is left out.

        Raises:
            PenstockError: Another is none.
        """
        if not self.path.is_file():
            return []
        found = []
        for number, text in enumerate(self.path.read_bytes().split(b"\n")[:-1], 1):
            try:
                line = json.loads(text)
                entry = Entry.model_validate({key: line[key] for key in line.keys() - {"previous", "hash"}})
            except (ValueError, AttributeError, TypeError) as error:
                raise PenstockError(
                    f"{self.path}:{number}: no entry of an incident log",
                    hint="put the line right from a backup: penstock maintain restore",
                ) from error
            found.append((line, entry))
        return found

    def entries(self) -> list[Entry]:
        """All entries. A last line that a crash has cut short is left out.

        Raises:
            PenstockError: Another line is none.
        """
        return [entry for _, entry in self._lines()]

    def broken(self) -> int | None:
        """The number of the first line that is not what was written; None if all are.

        Lines of before there were hashes may stand at the beginning; of them nothing is known.

        Raises:
            PenstockError: A line is no entry.
        """
        previous, is_chained = GENESIS, False
        for number, (line, _) in enumerate(self._lines(), 1):
            is_chained = is_chained or bool({"hash", "previous"} & line.keys())
            if not is_chained:
                continue
            told = line.pop("hash", None)
            if line.get("previous") != previous or told != digest(line):
                return number
            previous = told
        return None

    def all(self) -> list[Incident]:
        """Incidents in the order in which they were opened."""
        return incidents_of(self.entries())

    def open_one(self, name: str | None = None) -> Incident:
        """An incident that is open.

        Args:
            name: Its id, or how that begins; None: the one that is open.

        Raises:
            PenstockError: There is none, or there are several.
        """
        found = [one for one in self.all() if one.closed is None and one.id.startswith(name or "")]
        if len(found) != 1:
            there = ", ".join(one.id for one in found) or "none"
            raise PenstockError(
                f"{self.path}: no incident {name or 'is named'}: open there: {there}",
                hint="penstock maintain incidents NAME lists them",
            )
        return found[0]


def _last_hash(content: bytes) -> str:
    last = content.rstrip(b"\n").rpartition(b"\n")[2]
    return str(json.loads(last).get("hash", GENESIS)) if last else GENESIS
