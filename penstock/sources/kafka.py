"""Messages of a Kafka topic: from where the last load ended to the end as it is when this one begins.

Where a load has come to is stored with its rows, not in a consumer group: partitions are assigned, no offset is ever
committed, and so no message is lost or doubled between the topic and the table. Transactions that were aborted are not
seen, those that are open not waited for. Offsets that nobody has (compaction, marks of transactions) are gone past.

The offsets say what is new, so a window's bounds are needed only where there are none: in a first load, or where somebody
asks for a time. They go by the messages' own times, the column TIME. ``until`` ends each partition before its first message
at that time or above: what comes late behind it is left for the next load, so that no message is read twice.

confluent-kafka (librdkafka): it reads many times faster than clients in Python, and knows every way to log in.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import polars as pl

from penstock.config.loading import KafkaSource
from penstock.contract import QUARANTINE_SCHEMA
from penstock.errors import PenstockError
from penstock.loading.state import LINEAGE
from penstock.sources.chunks import Chunk, Window
from penstock.sources.database_interface import moment
from penstock.sources.flattening import SEPARATOR, as_json_text
from penstock.sources.kafka_client import Brokers
from penstock.sources.kafka_payloads import (
    Decode,
    Decoded,
    as_base64,
    base64_texts,
    json_objects,
    json_values,
    texts,
)
from penstock.sources.secrets import hiding

__all__ = ["read_kafka"]

KEY = "kafka_key"
HEADERS = "kafka_headers"
TOMBSTONE = "kafka_tombstone"
TIME = "kafka_timestamp"
METADATA = (TIME, "kafka_partition", "kafka_offset")
NOT_A_TIME = 0  # Message.timestamp: its kind

FETCH = 5_000  # messages asked of librdkafka at a time
FIRST = 200  # before it is known how large they are
WAIT = 0.1  # seconds for those
CHUNK_BYTES = 64 << 20  # of values in memory, however many rows they are

Problem = tuple[str, str]  # rule, reason
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read_kafka(source: KafkaSource, window: Window) -> Iterator[Chunk]:
    """Read what is new in every partition.

    Each chunk is a boundary. Its rows are in the order of partition and offset; the source of each is ``topic[partition]``,
    its position the offset. A message that cannot be decoded is a broken row, with its bytes as base64.

    Args:
        source: Where it is.
        window: ``resume`` is ``{"topic": identity, "offsets": {partition: next offset}}``. Without one, ``since`` says
            where to begin, else ``source.start``. Bounds are times, and go with the cursor ``kafka_timestamp``.

    Raises:
        PenstockError: The brokers or the registry cannot be reached or refuse us, there is no such topic, it is not the
            one that was read before, or offsets that were to be read are gone.
    """
    try:
        import confluent_kafka  # noqa: F401
    except ImportError as error:
        raise PenstockError(
            "confluent-kafka, which reads topics, is not installed", hint="pip install 'penstock[ingest]'"
        ) from error
    with hiding(), ExitStack() as stack:
        since, until = _bounds(source, window)
        decoders = _Decoders.of(source, stack)
        brokers = Brokers(source)
        plan = _planned(brokers, source, window, since, until)
        yield from _Reading(source, window, brokers, decoders, plan).chunks()


def _bounds(source: KafkaSource, window: Window) -> tuple[datetime | None, datetime | None]:
    """Which messages are asked for, by their times, where offsets do not say it."""
    since = None if window.resume.get("offsets") else window.since
    if window.cursor == TIME and not source.metadata:
        raise PenstockError(
            f"incremental.cursor: {TIME} is a column with metadata alone", hint="source.metadata: true"
        )
    if since is None and window.until is None:
        return None, None
    if window.cursor != TIME:
        raise PenstockError(
            f"incremental.cursor: a topic can be asked for its messages by their time, not by {window.cursor!r}",
            hint=f"source.metadata: true, incremental.cursor: {TIME}; later loads go by offsets, and need no bound",
        )
    what = f"incremental.cursor: the column {TIME!r}"
    return (
        None if since is None else moment(since, what),
        None if window.until is None else moment(window.until, what),
    )


# --- where to read ----------------------------------------------------------------------------------


@dataclass
class _Plan:
    """What is to be read, and how far that is done.

    Attributes:
        identity: The topic's own; another of its name has another.
        at: The next offset of each partition.
        ends: Where each is read to, exclusive.
        since: Messages before this time are left out.
        gone: Rows that tell of offsets that are gone.
    """

    identity: str | None
    at: dict[int, int]
    ends: dict[int, int]
    since: datetime | None = None
    gone: list[tuple[str, int, str, str]] = field(default_factory=list)

    @property
    def open(self) -> set[int]:
        """Partitions that are not at their end."""
        return {number for number, offset in self.at.items() if offset < self.ends[number]}

    @property
    def remaining(self) -> int:
        """Offsets to go; of some there may be no message."""
        return sum(max(0, self.ends[number] - offset) for number, offset in self.at.items())

    def resume(self) -> dict[str, Any]:
        """As ``Chunk.resume``."""
        offsets = {str(number): offset for number, offset in sorted(self.at.items())}
        return {"topic": self.identity, "offsets": offsets}


def _planned(
    brokers: Brokers, source: KafkaSource, window: Window, since: datetime | None, until: datetime | None
) -> _Plan:
    identity, partitions = brokers.topic()
    lows = brokers.earliest(partitions)
    ends = brokers.ends(partitions)
    known = {int(number): int(offset) for number, offset in window.resume.get("offsets", {}).items()}
    resumed = bool(known)
    before = window.resume.get("topic")
    if before is not None and identity is not None and before != identity:
        if source.on_gone == "fail":
            raise brokers.error(
                "is not the topic that was read before, though it has its name",
                "it was made anew, or these are other brokers; on_gone: earliest reads it from its beginning, "
                "--full loads everything that is there",
            )
        known = {}
    plan = _Plan(identity, {}, dict(ends), since)
    for number in set(known) - set(partitions):
        raise brokers.error(
            f"there is no partition {number}, which was read up to {known[number]}",
            "was the topic deleted and made anew? --full loads everything that is there",
        )
    plan.at = {
        number: _still_there(brokers, source, plan, number, offset, lows[number], ends[number])
        for number, offset in known.items()
    }
    new = [number for number in partitions if number not in known]
    if resumed:
        # Messages of a partition that is new since the last load are new, too.
        plan.at |= {number: lows[number] for number in new}
    else:
        plan.at |= _begin(brokers, source.start if since is None else since, new, lows, ends)
    if until is not None:
        for number, offset in brokers.at_time(partitions, _milliseconds(until)).items():
            if offset >= 0:
                plan.ends[number] = min(plan.ends[number], offset)
    return plan


def _begin(
    brokers: Brokers,
    start: Literal["earliest", "latest"] | datetime,
    partitions: Sequence[int],
    lows: dict[int, int],
    ends: dict[int, int],
) -> dict[int, int]:
    if isinstance(start, datetime):
        found = brokers.at_time(partitions, _milliseconds(moment(start, "source.start")))
        return {number: ends[number] if found[number] < 0 else found[number] for number in partitions}
    chosen = lows if start == "earliest" else ends
    return {number: chosen[number] for number in partitions}


def _milliseconds(at: datetime) -> int:
    """Of the first message time at or above."""
    return -((EPOCH - at) // timedelta(milliseconds=1))


def _still_there(
    brokers: Brokers, source: KafkaSource, plan: _Plan, number: int, offset: int, low: int, end: int
) -> int:
    """Where to read on; notes what is gone.

    Raises:
        PenstockError: Something is, and may not.
    """
    if offset > end:
        raise brokers.error(
            f"partition {number} ends at {end}, but was read up to {offset}",
            "was the topic deleted and made anew, or has a broker lost data? --full loads everything that is there",
        )
    if offset >= low:
        return offset
    gone = f"offsets {offset} to {low - 1} are gone"
    if source.on_gone == "fail":
        raise brokers.error(
            f"partition {number}: {gone} before they were read; the first that is there is {low}",
            "retention has removed them; on_gone: earliest goes on with what is there",
        )
    row = as_json_text({"expected": offset, "earliest": low})
    plan.gone.append((_name(source.topic, number), offset, f"offset: expected messages, {gone}", row))
    return low


def _name(topic: str, number: int) -> str:
    return f"{topic}[{number}]"


# --- what messages hold -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Decoders:
    """How values are to be read, and keys; None leaves them out."""

    value: Decode
    key: Decode | None

    @classmethod
    def of(cls, source: KafkaSource, stack: ExitStack) -> _Decoders:
        """Those that a source names.

        Raises:
            PenstockError: A schema's file is not there or is none.
        """
        value = _decode(source, "value", source.value, source.value_schema, source.value_message, stack)
        if source.key == "none":
            return cls(value, None)
        return cls(value, _decode(source, "key", source.key, source.key_schema, source.key_message, stack))


def _decode(
    source: KafkaSource, what: str, form: str, schema: str | None, message: str | None, stack: ExitStack
) -> Decode:
    if form == "avro":
        from penstock.sources.kafka_avro import avro_by_file, avro_by_registry

        if schema is not None:
            return avro_by_file(schema, f"{what}_schema")
        return avro_by_registry(_schemas(source, stack, serialized=False))
    if form == "protobuf":
        from penstock.sources.kafka_protobuf import protobuf_by_file, protobuf_by_registry

        if schema is not None:
            return protobuf_by_file(schema, str(message), f"{what}_schema")
        return protobuf_by_registry(_schemas(source, stack, serialized=True))
    if form == "json":
        return json_objects if what == "value" else json_values
    return texts if form == "text" else base64_texts


def _schemas(source: KafkaSource, stack: ExitStack, *, serialized: bool) -> Any:
    from penstock.sources.kafka_registry import Schemas

    assert source.registry is not None
    schemas = Schemas(source.registry, source.connect.total_seconds(), serialized=serialized)
    return stack.enter_context(closing(schemas))


# --- reading ----------------------------------------------------------------------------------------


@dataclass
class _Reading:
    source: KafkaSource
    window: Window
    brokers: Brokers
    decoders: _Decoders
    plan: _Plan
    waiting: list[Any] = field(default_factory=list)  # messages of the next chunk
    size: int = 0  # bytes of their values
    seen: tuple[int, int] = (0, 0)  # messages, and bytes of their values

    def chunks(self) -> Iterator[Chunk]:
        """What is to be read. The last chunk may be without rows: the place that it has is news."""
        told: dict[str, Any] = self.window.resume
        if self.plan.open:
            with closing(self.brokers.consumer()) as consumer:
                for _ in self._filled(consumer):
                    chunk = self._chunk()
                    told = chunk.resume
                    yield chunk
        if self.plan.gone or self.plan.resume() != told:
            yield self._chunk()

    def _filled(self, consumer: Any) -> Iterator[None]:
        """Collect messages; stops whenever there are enough for a chunk, and at the end if there are any."""
        plan = self.plan
        consumer.incremental_assign([self._part(number, plan.at[number]) for number in sorted(plan.open)])
        rows = max(1, self.window.batch_rows)
        running = plan.open
        heard = time.monotonic()
        while running:
            got = consumer.consume(self._at_a_time(rows), WAIT)
            self.brokers.check()
            if got:
                heard = time.monotonic()
            elif time.monotonic() - heard > self.source.patience.total_seconds():
                raise self._stalled(running)
            for message in got:
                if message.error() is None:
                    self._take(message, running)
                else:
                    self._event(message, running, consumer)
            done = running - plan.open
            if done:
                # What comes after the end is not even fetched.
                consumer.incremental_unassign([self._part(number) for number in sorted(done)])
                running -= done
            if len(self.waiting) >= rows or self.size >= CHUNK_BYTES:
                yield
                heard = time.monotonic()
        if self.waiting:
            yield

    def _at_a_time(self, rows: int) -> int:
        """How many messages to ask for: consuming waits for all of them."""
        count, size = self.seen
        fitting = CHUNK_BYTES * count // max(1, size) if count else FIRST
        return max(1, min(FETCH, fitting, rows - len(self.waiting), self.plan.remaining))

    def _take(self, message: Any, running: set[int]) -> None:
        number, offset = message.partition(), message.offset()
        plan = self.plan
        if number not in running or offset < plan.at[number]:
            return
        if offset >= plan.ends[number]:
            plan.at[number] = plan.ends[number]
            return
        plan.at[number] = offset + 1
        if plan.since is None or self._wanted(message, plan.since):
            self.waiting.append(message)
            count, size = self.seen
            length = len(message)
            self.size += length
            self.seen = count + 1, size + length

    def _wanted(self, message: Any, since: datetime) -> bool:
        kind, milliseconds = message.timestamp()
        if kind == NOT_A_TIME:
            return False
        at = EPOCH + timedelta(milliseconds=milliseconds)
        return at > since if self.window.exclusive else at >= since

    def _event(self, message: Any, running: set[int], consumer: Any) -> None:
        """What is told in the place of a message."""
        from confluent_kafka import KafkaError

        error, number = message.error(), message.partition()
        plan = self.plan
        if error.code() == KafkaError._PARTITION_EOF:
            # The offsets up to here have no messages left: marks of transactions, or what was aborted or compacted.
            if number in running and message.offset() >= plan.ends[number]:
                plan.at[number] = plan.ends[number]
        elif error.code() == KafkaError._AUTO_OFFSET_RESET and number in running:
            low = self.brokers.earliest([number])[number]
            at = _still_there(
                self.brokers, self.source, plan, number, plan.at[number], low, plan.ends[number]
            )
            if at == plan.at[number]:
                raise self.brokers.of(error)
            plan.at[number] = min(at, plan.ends[number])
            consumer.incremental_unassign([self._part(number)])
            consumer.incremental_assign([self._part(number, at)])
        elif number in running and not error.retriable():
            raise self.brokers.of(error)

    def _stalled(self, running: set[int]) -> PenstockError:
        plan = self.plan
        left = ", ".join(
            f"{number} at {plan.at[number]} of {plan.ends[number]}" for number in sorted(running)
        )
        patience = self.source.patience.total_seconds()
        return self.brokers.stalled(f"no message for {patience:g} s (partitions {left})")

    def _part(self, number: int, offset: int | None = None) -> Any:
        from confluent_kafka import TopicPartition

        if offset is None:
            return TopicPartition(self.source.topic, number)
        return TopicPartition(self.source.topic, number, offset)

    # --- chunks -------------------------------------------------------------------------------------

    def _chunk(self) -> Chunk:
        """What is waiting, as a chunk."""
        messages = sorted(self.waiting, key=lambda message: message.partition())  # offsets are in order
        gone = self.plan.gone
        self.waiting, self.size, self.plan.gone = [], 0, []
        frame, rows, problems = self._rows(messages)
        names = {number: _name(self.source.topic, number) for number in self.plan.at}
        wrong = [
            (names[messages[at].partition()], messages[at].offset(), reason, _raw(messages[at]))
            for at, (_, reason) in sorted(problems.items())
        ]
        rules = Counter(rule for rule, _ in problems.values())
        if gone:
            rules["offset: gone"] = len(gone)
        kept = [messages[at] for at in rows]
        return Chunk(
            frame if rows else pl.DataFrame(),
            pl.Series([names[message.partition()] for message in kept], dtype=pl.String),
            pl.Series([message.offset() for message in kept], dtype=pl.Int64),
            pl.DataFrame([*gone, *wrong], schema=QUARANTINE_SCHEMA, orient="row"),
            dict(rules),
            boundary=True,
            resume=self.plan.resume(),
            remaining=self.plan.remaining,
        )

    def _rows(self, messages: Sequence[Any]) -> tuple[pl.DataFrame, Sequence[int], dict[int, Problem]]:
        """The rows of some messages, the numbers of the messages that they are, and what is wrong with others."""
        source = self.source
        values = [message.value() for message in messages]
        full, problems, decoded = _decoded("value", source.value, self.decoders.value, values)
        frame, full = self._not_ours(decoded.frame, full, problems)
        rows = full
        empty = [at for at, value in enumerate(values) if value is None]
        if source.tombstones == "row":
            rows = sorted([*full, *empty])
        elif source.tombstones == "quarantine":
            found = ("value: missing", "value: expected one, found none (a tombstone)")
            problems |= dict.fromkeys(empty, found)
        more: list[pl.Series] = []
        if self.decoders.key is not None:
            keys = [messages[at].key() for at in rows]
            having, wrong, read = _decoded("key", source.key, self.decoders.key, keys)
            problems |= {rows[at]: problem for at, problem in wrong.items()}
            sound = [at for at in range(len(rows)) if at not in wrong]
            more += _gathered(_key_columns(read), having, sound).get_columns()
            rows = [rows[at] for at in sound]
        frame = _gathered(frame, full, rows)
        kept = [messages[at] for at in rows]
        if source.metadata:
            more += _metadata(kept)
        if source.headers:
            more.append(pl.Series(HEADERS, [_headers(message) for message in kept], dtype=pl.String))
        if source.tombstones == "row":
            more.append(pl.Series(TOMBSTONE, [values[at] is None for at in rows], dtype=pl.Boolean))
        return frame.hstack(more) if more else frame, rows, problems

    def _not_ours(
        self, frame: pl.DataFrame, rows: Sequence[int], problems: dict[int, Problem]
    ) -> tuple[pl.DataFrame, Sequence[int]]:
        """Leave out columns whose names are needed for what else is known of a message, and the rows that have them."""
        source = self.source
        ours = {*LINEAGE, *(METADATA if source.metadata else ())}
        ours |= {HEADERS} if source.headers else set()
        ours |= {TOMBSTONE} if source.tombstones == "row" else set()
        prefix = None if self.decoders.key is None else KEY + SEPARATOR
        taken = [
            name
            for name in frame.columns
            if name in ours or (prefix is not None and (name == KEY or name.startswith(prefix)))
        ]
        for name in taken:
            for at in frame[name].is_not_null().arg_true():
                problem = f"value: expected no {name!r}, which is what a load notes about each message"
                problems.setdefault(rows[at], ("value: names", problem))
        if not taken:
            return frame, rows
        kept = [at for at in rows if at not in problems]
        return _gathered(frame.drop(taken), rows, kept), kept


def _decoded(
    what: str, form: str, decode: Decode, payloads: Sequence[bytes | None]
) -> tuple[Sequence[int], dict[int, Problem], Decoded]:
    """The numbers of the payloads that are there and sound, what is wrong with others, and the rows of the former."""
    there = [at for at, payload in enumerate(payloads) if payload is not None]
    found = decode([payload for payload in payloads if payload is not None])
    rule = f"{what}: {form}"
    problems = {there[at]: (rule, f"{what}: {problem}") for at, problem in found.problems.items()}
    return [at for at in there if at not in problems] if problems else there, problems, found


def _gathered(frame: pl.DataFrame, has: Sequence[int], wants: Sequence[int]) -> pl.DataFrame:
    """Rows by their numbers; one that ``has`` lacks is without values."""
    if len(has) == len(wants) and list(has) == list(wants):
        return frame
    if not frame.width:
        return pl.DataFrame(height=len(wants))
    place = {number: at for at, number in enumerate(has)}
    return frame.select(pl.all().gather(pl.Series([place.get(number) for number in wants], dtype=pl.UInt32)))


def _key_columns(decoded: Decoded) -> pl.DataFrame:
    def name(column: str) -> str:
        if decoded.alone and column == "value":
            return KEY
        inner = column.removeprefix(f"value{SEPARATOR}") if decoded.alone else column
        return f"{KEY}{SEPARATOR}{inner}"

    return decoded.frame.rename({column: name(column) for column in decoded.frame.columns})


def _metadata(messages: Sequence[Any]) -> list[pl.Series]:
    times = [found[1] if found[0] != NOT_A_TIME else None for found in (m.timestamp() for m in messages)]
    moments = (
        pl.Series(TIME, times, dtype=pl.Int64).cast(pl.Datetime("ms", "UTC")).cast(pl.Datetime("us", "UTC"))
    )
    return [
        moments,
        pl.Series(METADATA[1], [message.partition() for message in messages], dtype=pl.Int64),
        pl.Series(METADATA[2], [message.offset() for message in messages], dtype=pl.Int64),
    ]


def _headers(message: Any) -> str | None:
    """As JSON: a list for a name that comes again; bytes that are no text as an object with their base64."""
    found: dict[str, list[Any]] = {}
    for name, value in message.headers() or []:
        found.setdefault(name, []).append(None if value is None else _as_text(value))
    return as_json_text({name: v[0] if len(v) == 1 else v for name, v in found.items()}) if found else None


def _as_text(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": as_base64(value)}


def _raw(message: Any) -> str:
    """A message as it is, so that it can be mended and sent again."""
    value, key = message.value(), message.key()
    return as_json_text(
        {
            "value_base64": None if value is None else as_base64(value),
            "key_base64": None if key is None else as_base64(key),
        }
    )
