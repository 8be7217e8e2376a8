"""Streams of a NATS server as the log: what a machine without Kafka has.

A topic is a stream with a subject for each partition. Who reads which partition is settled by locks on files, which a
killed process leaves at once; a group's place is a value in a bucket that the same server keeps. Members of a group are
therefore of one machine; for several there is Kafka.
"""

from __future__ import annotations

import asyncio
import fcntl
import time
import uuid
import zlib
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from penstock.config.streaming import EmbeddedLog
from penstock.config.streaming.log import Topic
from penstock.errors import PenstockError
from penstock.sources.secrets import hidden, revealed
from penstock.stream.log import Appended, Consumer, Follower, FullError, Record, Revoked, UnavailableError
from penstock.stream.logs.nats_server import USER, NatsServer

__all__ = ["JetStream"]

ACK = 5.0  # seconds until an append has failed
ASK = 5.0
PENDING = 512 << 20  # bytes on their way
OFFSETS = "penstock-offsets"
TIME = "Nats-Time-Stamp"
REBALANCE = 0.5  # seconds between looks at who else is there
AHEAD = 256  # records that are asked for at once


class JetStream:
    """A log of streams."""

    def __init__(self, view: EmbeddedLog) -> None:
        self.view = view
        self.folder = Path(view.folder)
        self.server = (
            None if view.servers else NatsServer(self.folder, view.port, view.message_bytes + 65_536)
        )
        self._pending = 0
        self._partitions: dict[str, int] = {}
        self._nats: Any = None
        self._streams: Any = None
        self._tending: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()

    async def __aenter__(self) -> Self:
        import nats

        if self.server is not None:
            await asyncio.to_thread(self.server.up)
            login = {"user": USER, "password": self.server.password}
            servers = [self.server.address]
        else:
            login, servers = {}, [revealed(address, url=True) for address in self.view.servers]
        try:
            self._nats = await nats.connect(
                servers=servers,
                **login,
                connect_timeout=ASK,
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.1,
                pending_size=PENDING,
                error_cb=_ignored,
                disconnected_cb=self._disconnected,
            )
        except Exception as error:  # of many classes, most of them without a word
            raise UnavailableError(
                f"log: no NATS server answers at {hidden(', '.join(servers))}: {hidden(repr(error))}"
            ) from error
        self._streams = self._nats.jetstream(timeout=ACK, publish_async_max_pending=65_536)
        if self.server is not None:
            self._tending = asyncio.create_task(self._tend(self.server))
            await self.create()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tending is not None:
            self._tending.cancel()
            with suppress(asyncio.CancelledError):
                await self._tending
        with suppress(Exception):  # it may be gone
            await asyncio.wait_for(self._nats.close(), ASK)
        if self.server is not None:
            await asyncio.to_thread(self.server.down)

    async def _disconnected(self) -> None:
        self._gone.set()

    async def _tend(self, server: NatsServer) -> None:
        """Start the server again when it has gone: all who notice try, and one does."""
        while True:
            await self._gone.wait()
            self._gone.clear()
            while not self._nats.is_connected and not self._nats.is_closed:
                with suppress(PenstockError):
                    await asyncio.to_thread(server.up)
                await asyncio.sleep(0.1)

    # --- appending ----------------------------------------------------------------------------------

    async def append(self, topic: str, key: bytes, value: bytes, headers: dict[str, bytes]) -> Appended:
        if self._pending + len(value) > PENDING:
            raise FullError("log: more is on its way to NATS than may be")
        partition = zlib.crc32(key) % await self._partitions_of(topic)
        named = {name: content.decode("latin-1") for name, content in headers.items()}
        named["key"] = key.decode("utf-8", "surrogateescape").encode("unicode_escape").decode("ascii")
        self._pending += len(value)
        try:
            ack = await self._streams.publish(f"{topic}.{partition}", value, timeout=ACK, headers=named)
        except Exception as error:  # time-out, no stream, no connection: of the client's many classes
            raise UnavailableError(
                f"log: NATS has not acknowledged: {hidden(repr(error))}",
                hint="are the streams there? penstock stream create",
            ) from error
        finally:
            self._pending -= len(value)
        return Appended(partition, ack.seq)

    async def _partitions_of(self, topic: str) -> int:
        if topic not in self._partitions:
            self._partitions[topic] = len(await self._subjects(topic))
        return self._partitions[topic]

    async def _subjects(self, topic: str) -> list[str]:
        try:
            about = await self._streams.stream_info(topic)
        except Exception as error:
            raise UnavailableError(
                f"log: there is no stream {topic!r}, or no server: {hidden(repr(error))}",
                hint="make it: penstock stream create",
            ) from error
        return list(about.config.subjects)

    async def ready(self) -> bool:
        if not self._nats.is_connected:
            return False
        try:
            await asyncio.wait_for(self._streams.stream_info(self.view.readings.name), ASK)
        except Exception:  # each fault has its own class
            return False
        return True

    # --- streams ------------------------------------------------------------------------------------

    async def create(self) -> list[str]:
        done = []
        for topic in (self.view.readings, self.view.dead):
            done += await self._created(topic)
        with suppress(Exception):  # is there
            await self._streams.create_key_value(bucket=OFFSETS, history=1)
        return done

    async def _created(self, topic: Topic) -> list[str]:
        from nats.js.api import DiscardPolicy, StorageType, StreamConfig
        from nats.js.errors import NotFoundError

        try:
            there = len((await self._streams.stream_info(topic.name)).config.subjects)
        except NotFoundError:
            there = 0
        partitions = max(there, topic.partitions)
        config = StreamConfig(
            name=topic.name,
            subjects=[f"{topic.name}.{number}" for number in range(partitions)],
            storage=StorageType.FILE,
            max_age=topic.retention.total_seconds(),
            max_bytes=-1 if topic.retention_bytes is None else topic.retention_bytes * partitions,
            discard=DiscardPolicy.OLD,
            max_msg_size=self.view.message_bytes + 65_536,
            num_replicas=topic.replicas or 1,
            allow_direct=True,
        )
        self._partitions.pop(topic.name, None)
        if not there:
            await self._streams.add_stream(config)
            return [f"{topic.name}: created, {partitions} partitions"]
        await self._streams.update_stream(config)
        if there > topic.partitions:
            return [
                f"{topic.name}: has {there} partitions, {topic.partitions} are declared; none is taken away"
            ]
        if there < partitions:
            return [
                f"{topic.name}: {there} partitions became {partitions}",
                f"{topic.name}: settings as declared",
            ]
        return [f"{topic.name}: settings as declared"]

    # --- reading ------------------------------------------------------------------------------------

    def consume(self, topic: str, group: str, revoked: Revoked | None = None) -> Consumer:
        return _Member(self, topic, group, revoked)

    def follow(self, topic: str) -> Follower:
        return _Follower(self, topic)

    async def tail(self, topic: str, records: int) -> Sequence[Record]:
        found: deque[Record] = deque(maxlen=records)
        about = await self._streams.stream_info(topic)
        last = about.state.last_seq
        start = max(about.state.first_seq, last - records + 1)
        for sequence in range(start, last + 1):
            with suppress(Exception):  # it may just have expired
                message = await self._streams.get_msg(topic, sequence, direct=True)
                found.append(_record(message.subject, sequence, message.data, message.headers, 0))
        return list(found)


async def _ignored(_error: Exception) -> None:
    """The client tells of every lost connection; who waits for an answer is told by that."""


def _record(subject: str, sequence: int, data: bytes | None, headers: Any, moment: int) -> Record:
    named = dict(headers or {})
    key = named.pop("key", "").encode("ascii").decode("unicode_escape").encode("utf-8", "surrogateescape")
    named = {name: value for name, value in named.items() if not name.startswith("Nats-")}
    return Record(
        int(subject.rpartition(".")[2]),
        sequence,
        key,
        data or b"",
        {name: value.encode("latin-1") for name, value in named.items()},
        moment,
    )


class _Follower:
    """What comes from now on."""

    def __init__(self, log: JetStream, topic: str) -> None:
        self.log, self.topic = log, topic
        self._subscription: Any = None

    async def __aenter__(self) -> Self:
        await self._subscribe()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._subscription is not None:
            with suppress(Exception):  # it may be gone with its server
                await asyncio.wait_for(self._subscription.unsubscribe(), ASK)

    async def _subscribe(self) -> None:
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

        try:
            self._subscription = await self.log._streams.pull_subscribe(
                f"{self.topic}.*",
                stream=self.topic,
                pending_bytes_limit=PENDING,
                config=ConsumerConfig(
                    deliver_policy=DeliverPolicy.NEW,
                    ack_policy=AckPolicy.NONE,
                    inactive_threshold=60.0,
                    mem_storage=True,
                ),
            )
        except Exception as error:
            raise UnavailableError(
                f"log: there is no stream {self.topic!r}, or no server: {hidden(repr(error))}",
                hint="make it: penstock stream create",
            ) from error

    async def fetch(self, max_records: int, wait: float) -> list[Record]:
        from nats.errors import TimeoutError as NatsTimeoutError

        if self._subscription is None:
            await self._subscribe()
        try:
            messages = await self._subscription.fetch(max_records, timeout=wait)
        except NatsTimeoutError:
            return []
        except Exception as error:
            self._subscription = None
            raise UnavailableError(f"log: NATS does not answer: {hidden(repr(error))}") from error
        return [
            _record(
                message.subject,
                message.metadata.sequence.stream,
                message.data,
                message.headers,
                int(message.metadata.timestamp.timestamp() * 1e6) * 1000,
            )
            for message in messages
        ]


class _Partition:
    """One that is a member's: its lock, what was asked for, and where the next read begins."""

    def __init__(self, number: int, lock: IO[str], next_sequence: int) -> None:
        self.number, self.lock, self.next = number, lock, next_sequence
        self.subscription: Any = None
        self.asking: asyncio.Task[list[Any]] | None = None
        self.open: deque[int] = deque()  # sequences that have come and are not committed


class _Member:
    """A member of a group."""

    def __init__(self, log: JetStream, topic: str, group: str, revoked: Revoked | None) -> None:
        self.log, self.topic, self.group, self.revoked = log, topic, group, revoked
        self.folder = log.folder / "groups" / topic / group
        self._mine: dict[int, _Partition] = {}
        self._paused = False
        self._presence: IO[str] | None = None
        self._offsets: Any = None
        self._balanced = 0.0
        self._waiting: deque[Record] = deque()

    async def __aenter__(self) -> Self:
        members = self.folder / "members"
        members.mkdir(parents=True, exist_ok=True)
        self._presence = (members / uuid.uuid4().hex).open("a")
        fcntl.flock(self._presence, fcntl.LOCK_EX)
        self._partitions = await self.log._partitions_of(self.topic)
        self._offsets = await self.log._streams.key_value(OFFSETS)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave(frozenset(self._mine))
        if self._presence is not None:
            await asyncio.to_thread(Path(self._presence.name).unlink, missing_ok=True)
            self._presence.close()

    # --- whose partition it is ----------------------------------------------------------------------

    async def _balance(self) -> None:
        """Take what nobody has, and leave what is more than a fair share."""
        now = time.monotonic()
        if now - self._balanced < REBALANCE and self._mine:
            return
        self._balanced = now
        members = await asyncio.to_thread(self._members)
        place = members.index(Path(self._presence.name).name) if self._presence is not None else 0
        share, rest = divmod(self._partitions, len(members))
        fair = share + (place < rest)
        if len(self._mine) > fair:
            surplus = sorted(self._mine)[fair:]
            await self._leave(frozenset(surplus))
        for number in range(self._partitions):
            if len(self._mine) >= fair:
                break
            if number not in self._mine:
                await self._take(number)

    def _members(self) -> list[str]:
        """Who is there, in one order for all; what the killed left behind is removed."""
        there = []
        own = Path(self._presence.name).name if self._presence is not None else ""
        for path in sorted((self.folder / "members").iterdir()):
            if path.name == own:
                there.append(own)
                continue
            with suppress(FileNotFoundError), path.open("a") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    there.append(path.name)
                else:
                    path.unlink(missing_ok=True)
        return there

    async def _take(self, number: int) -> None:
        lock = (self.folder / f"{number}.lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return
        self._mine[number] = _Partition(number, lock, await self._committed(number) + 1)

    async def _leave(self, numbers: frozenset[int]) -> None:
        if not numbers:
            return
        if self.revoked is not None:
            await self.revoked(numbers)
        self._waiting = deque(record for record in self._waiting if record.partition not in numbers)
        for number in numbers:
            part = self._mine.pop(number)
            await self._forget(part)
            part.lock.close()

    async def _forget(self, part: _Partition) -> None:
        if part.asking is not None:
            part.asking.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await part.asking
            part.asking = None
        if part.subscription is not None:
            with suppress(Exception):  # it may be gone with its server
                await asyncio.wait_for(part.subscription.unsubscribe(), ASK)
            part.subscription = None

    def _key(self, number: int) -> str:
        return f"{self.topic}.{self.group}.{number}"

    async def _committed(self, number: int) -> int:
        """The last sequence that is done with; 0 for none."""
        from nats.js.errors import KeyNotFoundError

        try:
            entry = await self._offsets.get(self._key(number))
        except KeyNotFoundError:
            return 0
        except Exception as error:
            raise UnavailableError(f"log: NATS does not answer: {hidden(repr(error))}") from error
        return int(entry.value)

    # --- records ------------------------------------------------------------------------------------

    async def fetch(self, max_records: int, max_bytes: int, wait: float) -> list[Record]:
        await self._balance()
        if self._paused or not self._mine:
            await asyncio.sleep(min(wait, 0.05))
            return []
        if not self._waiting:
            await self._wait(wait)
        found: list[Record] = []
        size = 0
        while self._waiting and len(found) < max_records and size < max_bytes:
            record = self._waiting.popleft()
            size += len(record.value)
            found.append(record)
        return found

    async def _wait(self, wait: float) -> None:
        """Let every partition that has none ask for more, until one has it."""
        for part in self._mine.values():
            if part.asking is None:
                part.asking = asyncio.create_task(self._asked(part))
        tasks = [part.asking for part in self._mine.values() if part.asking is not None]
        await asyncio.wait(tasks, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
        for part in self._mine.values():
            if part.asking is None or not part.asking.done():
                continue
            task, part.asking = part.asking, None
            try:
                messages = task.result()
            except Exception:  # the server has gone, or the consumer with it
                await self._forget(part)
                await asyncio.sleep(0.1)
                continue
            for message in messages:
                about = message.metadata
                sequence = about.sequence.stream
                if sequence < part.next:
                    continue
                part.next = sequence + 1
                part.open.append(sequence)
                moment = int(about.timestamp.timestamp() * 1e6) * 1000
                self._waiting.append(
                    _record(message.subject, sequence, message.data, message.headers, moment)
                )

    async def _asked(self, part: _Partition) -> list[Any]:
        from nats.errors import TimeoutError as NatsTimeoutError
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

        if part.subscription is None:
            part.subscription = await self.log._streams.pull_subscribe(
                f"{self.topic}.{part.number}",
                stream=self.topic,
                pending_bytes_limit=PENDING,
                config=ConsumerConfig(
                    deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                    opt_start_seq=part.next,
                    ack_policy=AckPolicy.NONE,
                    inactive_threshold=60.0,
                    mem_storage=True,
                ),
            )
        try:
            return list(await part.subscription.fetch(AHEAD, timeout=2.0))
        except NatsTimeoutError:
            return []

    async def commit(self, positions: dict[int, int]) -> None:
        for number, offset in positions.items():
            part = self._mine.get(number)
            if part is None:
                continue
            while part.open and part.open[0] < offset:
                part.open.popleft()
            try:
                await self._offsets.put(self._key(number), str(offset - 1).encode())
            except Exception as error:
                raise UnavailableError(f"log: NATS has not taken a commit: {hidden(repr(error))}") from error

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    @property
    def assigned(self) -> frozenset[int]:
        return frozenset(self._mine)

    async def lag(self) -> dict[int, int]:
        lag = {}
        for part in list(self._mine.values()):
            if part.subscription is None:
                continue  # not asked for anything yet, so not known
            try:
                undelivered = (await part.subscription.consumer_info()).num_pending or 0
            except Exception as error:
                raise UnavailableError(f"log: NATS does not answer: {hidden(repr(error))}") from error
            lag[part.number] = undelivered + len(part.open)
        return lag
