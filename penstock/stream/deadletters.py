"""Dead letters: what can never be stored as it is, with the reason, where it came from, and a way back.

A record that is no message is kept as it was. A document that the store refuses is kept as a message of that one reading,
which replayed would be stored under another place in its message; so its id travels with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from penstock.config.streaming import Stream
from penstock.errors import PenstockError
from penstock.stream.log import Log, Record
from penstock.stream.store import Document, Store

__all__ = ["Letter", "letter", "listed", "replayed"]

LONGEST = 500  # characters of a reason


@dataclass(frozen=True)
class Letter:
    """A dead letter.

    Attributes:
        kind: record (no message) or document (refused by the store).
        reason: In the words of whoever refused it.
        origin: Partition and offset in the topic of readings.
        value: The record's value, or the document as JSON.
        key: The device's id.
        place: Partition and offset of the letter itself.
    """

    kind: str
    reason: str
    origin: tuple[int, int]
    value: bytes
    key: bytes
    place: tuple[int, int]


def letter(of: Record | Document, reason: str) -> tuple[bytes, dict[str, bytes], bytes]:
    """Value, headers and key of a dead letter."""
    if isinstance(of, Record):
        partition, offset = of.partition, of.offset
        value, key, kind = of.value, of.key, b"record"
        extra = {name: content for name, content in of.headers.items() if name in {"received", "transport"}}
    else:
        partition, offset = of.origin
        value = orjson.dumps({"id": of.id, "time": of.time, "message": of.message, "body": of.body})
        key, kind, extra = str(of.body.get("device", "")).encode("utf-8", "surrogatepass"), b"document", {}
    headers = {
        **extra,
        "kind": kind,
        # Latin-1 at most: what a header may hold.
        "reason": reason[:LONGEST].encode("ascii", "backslashreplace"),
        "partition": b"%d" % partition,
        "offset": b"%d" % offset,
    }
    return value, headers, key


def _letter(record: Record) -> Letter:
    named = {name: content.decode("latin-1") for name, content in record.headers.items()}
    origin = (int(named.get("partition", -1)), int(named.get("offset", -1)))
    return Letter(
        named.get("kind", "record"),
        named.get("reason", ""),
        origin,
        record.value,
        record.key,
        (record.partition, record.offset),
    )


async def listed(view: Stream, log: Log, count: int) -> list[Letter]:
    """The newest dead letters."""
    return [_letter(record) for record in await log.tail(view.log.dead.name, count)]


async def replayed(view: Stream, log: Log, store: Store | None) -> tuple[int, int]:
    """Try all dead letters again: a record goes to the log, a document to the store.

    Args:
        view: What is declared.
        log: An open log.
        store: An open store; None leaves documents where they are.

    Returns:
        How many were taken, and how many are still refused (and lie there anew).

    Raises:
        PenstockError: The log or the store does not take anything now; what was not tried stays.
    """
    taken = refused = 0
    topic = view.log.dead.name
    newest = await log.tail(topic, 1)
    # What is refused once more lies behind this, and is for the next time.
    last = max((record.offset for record in newest), default=-1)
    async with log.consume(topic, "dead-letters") as member:
        while records := await member.fetch(100, 4 << 20, 3.0):
            for record in records:
                if record.offset > last:
                    return taken, refused
                found = _letter(record)
                if found.kind == "record":
                    kept = {
                        name: content
                        for name, content in record.headers.items()
                        if name in {"received", "transport"}
                    }
                    await log.append(view.log.readings.name, found.key, found.value, kept)
                    taken += 1
                elif store is None:
                    raise PenstockError(
                        f"{topic}: a document that the store refused is among them, and no store is open",
                        hint="replay where the store can be written",
                    )
                else:
                    again = _document(found)
                    written = await store.write("windows" if "start" in again.body else "readings", [again])
                    for entry in written.refused:
                        value, headers, key = letter(again, entry.reason)
                        await log.append(topic, key, value, headers)
                        refused += 1
                    taken += written.new + written.known
                await member.commit({record.partition: record.offset + 1})
    return taken, refused


def _document(found: Letter) -> Document:
    content = orjson.loads(found.value)
    return Document(content["id"], content["time"], content["body"], found.origin, content["message"])
