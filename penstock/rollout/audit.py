"""The audit trail: who changed what, when, from what to what, and why. Each entry's hash covers the one before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from penstock.hash_chain import GENESIS, digest

__all__ = ["Entry", "Intent", "broken", "chained"]


@dataclass(frozen=True)
class Intent:
    """Of a change, what its author says.

    Attributes:
        who: A person, or the part that acts by itself: ``controller``.
        what: The verb: promote, rollback, set, pause, ….
        why: In words.
    """

    who: str
    what: str
    why: str


@dataclass(frozen=True)
class Entry:
    """One change.

    Attributes:
        number: From 1, without gaps.
        time: ISO 8601, UTC, of the clock of whoever made it.
        who: Its author.
        what: The verb.
        why: In words.
        before: What was changed, as it was.
        after: As it is.
        previous: Hash of the entry before.
        hash: SHA-256 of all of that.
    """

    number: int
    time: str
    who: str
    what: str
    why: str
    before: Any
    after: Any
    previous: str
    hash: str

    def dump(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def chained(last: Entry | None, time: str, intent: Intent, before: Any, after: Any) -> Entry:
    """The entry that follows the last one."""
    content = {
        "number": 1 if last is None else last.number + 1,
        "time": time,
        "who": intent.who,
        "what": intent.what,
        "why": intent.why,
        "before": before,
        "after": after,
        "previous": GENESIS if last is None else last.hash,
    }
    return Entry(**content, hash=digest(content))


def broken(entries: Sequence[Entry], *, whole: bool = True) -> int | None:
    """The number of the first entry that is not what was written; None if all are.

    Args:
        entries: In order.
        whole: Whether they are all that there are; else the first one's predecessor is taken on trust.
    """
    first, previous = 1, GENESIS
    if not whole and entries:
        first, previous = entries[0].number, entries[0].previous
    for at, entry in enumerate(entries, first):
        content = entry.dump()
        told = content.pop("hash")
        if entry.number != at or entry.previous != previous or told != digest(content):
            return at
        previous = told
    return None
