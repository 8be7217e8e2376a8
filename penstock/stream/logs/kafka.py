"""Topics of a Kafka cluster as the log.

The client is confluent-kafka, librdkafka's: its idempotent producer batches and compresses outside of Python, where
aiokafka does so record by record in it.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from penstock.config.streaming import KafkaLog
from penstock.errors import PenstockError
from penstock.sources.secrets import hidden, revealed
from penstock.stream.log import Appended, Consumer, Follower, FullError, Record, Revoked, UnavailableError

__all__ = ["KafkaTopics"]

POLL = 0.05  # seconds
SLICE = 0.02  # seconds; so long a commit may wait for a fetch
SECONDS = 15.0  # until an answer about topics
DELIVERY = 10.0  # until an append has failed
FLUSH = 10.0
MOST_REPLICAS = 3
TYPICAL = 65_536  # bytes of a record, until some were seen


class KafkaTopics:
    """A log of topics."""

    def __init__(self, view: KafkaLog) -> None:
        self.view = view
        self._logger = logging.getLogger("penstock.stream.kafka")
        self._logger.propagate = False  # librdkafka would go to standard error
        self._logger.addHandler(logging.NullHandler())
        self._admin: Any = None
        self._producer: Any = None
        self._ends = threading.Event()
        self._poller: threading.Thread | None = None
        self._done: deque[tuple[asyncio.Future[Appended], Any, Any]] = deque()
        self._woken = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        from confluent_kafka import KafkaException, Producer
        from confluent_kafka.admin import AdminClient

        self._loop = asyncio.get_running_loop()
        settings = _settings(self.view)
        try:
            self._admin = AdminClient(settings, logger=self._logger)
            self._producer = Producer(
                {
                    "enable.idempotence": True,
                    "acks": "all",
                    "partitioner": "murmur2_random",  # as Java's clients do
                    "compression.type": self.view.compression,
                    "linger.ms": self.view.linger.total_seconds() * 1000,
                    "delivery.timeout.ms": int(DELIVERY * 1000),
                    "request.timeout.ms": 5000,
                    "topic.metadata.propagation.max.ms": 2000,  # a topic that is not there is told of sooner
                    "message.max.bytes": self.view.message_bytes + 65_536,
                    "queue.buffering.max.kbytes": 1_048_576,
                    **settings,
                },
                logger=self._logger,
            )
        except KafkaException as error:
            raise PenstockError(
                f"log: Kafka does not take the settings: {hidden(str(error.args[0]))}",
                hint="mend conf/stream/",
            ) from error
        self._poller = threading.Thread(target=self._poll, name="kafka-producer", daemon=True)
        self._poller.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._producer.flush, FLUSH)
        self._ends.set()
        if self._poller is not None:
            await asyncio.to_thread(self._poller.join)

    # --- appending ----------------------------------------------------------------------------------

    def _poll(self) -> None:
        while not self._ends.is_set():
            self._producer.poll(POLL)

    def _delivered(self, future: asyncio.Future[Appended], error: Any, message: Any) -> None:
        # In the poller's thread. One wake-up of the loop serves all that was delivered together.
        self._done.append((future, error, message))
        if not self._woken and self._loop is not None:
            self._woken = True
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        self._woken = False
        while self._done:
            future, error, message = self._done.popleft()
            if future.done():
                continue
            if error is None and message.offset() is not None:
                future.set_result(Appended(message.partition(), message.offset()))
                continue
            # Without an offset the client only infers that the broker has it, from a later message that it has: of a producer that
            # a partition does not know yet, the later one can be taken without the first. Whoever sends it again does no harm.
            why = "it tells no offset" if error is None else hidden(error.str())
            future.set_exception(UnavailableError(f"log: Kafka has not acknowledged: {why}"))

    async def append(self, topic: str, key: bytes, value: bytes, headers: dict[str, bytes]) -> Appended:
        from confluent_kafka import KafkaException

        assert self._loop is not None
        future: asyncio.Future[Appended] = self._loop.create_future()
        try:
            self._producer.produce(
                topic,
                value,
                key,
                headers=list(headers.items()),
                on_delivery=lambda error, message: self._delivered(future, error, message),
            )
        except BufferError as error:
            raise FullError("log: more is on its way to Kafka than its client holds") from error
        except KafkaException as error:
            raise UnavailableError(f"log: Kafka: {hidden(error.args[0].str())}") from error
        return await future

    async def ready(self) -> bool:
        try:
            found = await asyncio.to_thread(self._admin.list_topics, self.view.readings.name, 2.0)
        except Exception:  # each fault has its own class
            return False
        topic = found.topics.get(self.view.readings.name)
        return bool(topic and topic.error is None and all(p.leader >= 0 for p in topic.partitions.values()))

    # --- topics -------------------------------------------------------------------------------------

    async def create(self) -> list[str]:
        return await asyncio.to_thread(self._create)

    def _create(self) -> list[str]:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import (
            AlterConfigOpType,
            ConfigEntry,
            ConfigResource,
            NewPartitions,
            NewTopic,
        )

        done = []
        try:
            cluster = self._admin.list_topics(timeout=SECONDS)
            for topic in (self.view.readings, self.view.dead):
                replicas = topic.replicas or min(MOST_REPLICAS, len(cluster.brokers))
                settings = {
                    "retention.ms": str(int(topic.retention.total_seconds() * 1000)),
                    "retention.bytes": str(topic.retention_bytes or -1),
                    "max.message.bytes": str(self.view.message_bytes + 65_536),
                    # With three replicas one may be away, and still two have what is acknowledged.
                    "min.insync.replicas": str(max(1, replicas - 1)),
                }
                there = cluster.topics.get(topic.name)
                if there is None:
                    new = NewTopic(topic.name, topic.partitions, replicas, config=settings)
                    self._admin.create_topics([new])[topic.name].result(SECONDS)
                    done.append(f"{topic.name}: created, {topic.partitions} partitions, {replicas} replicas")
                    continue
                have = len(there.partitions)
                if have < topic.partitions:
                    more = NewPartitions(topic.name, topic.partitions)
                    self._admin.create_partitions([more])[topic.name].result(SECONDS)
                    done.append(f"{topic.name}: {have} partitions became {topic.partitions}")
                elif have > topic.partitions:
                    done.append(
                        f"{topic.name}: has {have} partitions, {topic.partitions} are declared; none is taken away"
                    )
                entries = [
                    ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
                    for name, value in settings.items()
                ]
                resource = ConfigResource(ConfigResource.Type.TOPIC, topic.name, incremental_configs=entries)
                self._admin.incremental_alter_configs([resource])[resource].result(SECONDS)
                done.append(f"{topic.name}: settings as declared")
        except KafkaException as error:
            raise UnavailableError(
                f"log: Kafka: {hidden(error.args[0].str())}",
                hint=f"are there brokers at {hidden(self.view.brokers)}?",
            ) from error
        return done

    # --- reading ------------------------------------------------------------------------------------

    def consume(self, topic: str, group: str, revoked: Revoked | None = None) -> Consumer:
        return _Member(self.view, topic, group, revoked, self._logger)

    def follow(self, topic: str) -> Follower:
        return _Follower(self.view, topic, self._logger)

    async def tail(self, topic: str, records: int) -> Sequence[Record]:
        return await asyncio.to_thread(self._tail, topic, records)

    def _tail(self, topic: str, records: int) -> list[Record]:
        from confluent_kafka import Consumer as Client
        from confluent_kafka import TopicPartition

        client = Client(
            {**_settings(self.view), "group.id": "penstock-tail", "enable.auto.commit": False},
            logger=self._logger,
        )
        try:
            there = client.list_topics(topic, timeout=SECONDS).topics[topic].partitions
            starts, left = [], 0
            for number in there:
                low, high = client.get_watermark_offsets(TopicPartition(topic, number), timeout=SECONDS)
                start = max(low, high - records)
                left += high - start
                starts.append(TopicPartition(topic, number, start))
            client.assign(starts)
            found: list[Record] = []
            while len(found) < left:
                got = client.consume(left - len(found), timeout=2.0)
                if not got:
                    break
                found += [_record(message) for message in got if message.error() is None]
        finally:
            client.close()
        return sorted(found, key=lambda record: record.time)[-records:]


def _settings(view: KafkaLog) -> dict[str, Any]:
    security = view.security
    named = {
        "security.protocol": security.protocol,
        "sasl.mechanism": security.mechanism,
        "sasl.username": security.user,
        "sasl.password": security.password,
        "ssl.ca.location": security.ca,
        "ssl.certificate.location": security.certificate,
        "ssl.key.location": security.key,
        "ssl.key.password": security.key_password,
    }
    given = {**{name: value for name, value in named.items() if value is not None}, **view.options}
    texts = {name: revealed(value) if isinstance(value, str) else value for name, value in given.items()}
    return {"bootstrap.servers": revealed(view.brokers), **texts}


def _record(message: Any) -> Record:
    return Record(
        message.partition(),
        message.offset(),
        message.key() or b"",
        message.value() or b"",
        {name: value or b"" for name, value in message.headers() or []},
        message.timestamp()[1] * 1_000_000,
    )


class _Follower:
    """What comes from now on."""

    def __init__(self, view: KafkaLog, topic: str, logger: logging.Logger) -> None:
        self.view, self.topic, self._logger = view, topic, logger
        self._client: Any = None

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._open)
        return self

    def _open(self) -> None:
        from confluent_kafka import OFFSET_END, KafkaException, TopicPartition
        from confluent_kafka import Consumer as Client

        self._client = Client(
            {
                "fetch.wait.max.ms": 100,
                "queued.max.messages.kbytes": 16_384,
                **_settings(self.view),
                "group.id": "penstock-follow",  # asked for, and never joined
                "enable.auto.commit": False,
            },
            logger=self._logger,
        )
        try:
            there = self._client.list_topics(self.topic, timeout=SECONDS).topics[self.topic].partitions
        except KafkaException as error:
            raise UnavailableError(f"log: Kafka: {hidden(error.args[0].str())}") from error
        self._client.assign([TopicPartition(self.topic, number, OFFSET_END) for number in there])

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._client.close)

    async def fetch(self, max_records: int, wait: float) -> list[Record]:
        return await asyncio.to_thread(self._fetched, max_records, wait)

    def _fetched(self, count: int, wait: float) -> list[Record]:
        first = self._client.consume(1, wait)
        more = self._client.consume(count - 1, 0) if first and count > 1 else []
        return [_record(message) for message in (*first, *more) if message.error() is None]


class _Member:
    """A member of a group.

    The client belongs to one thread, which does what it is asked to, also while it waits for records and while it waits
    for what is to be finished before a partition goes: librdkafka, asked from elsewhere meanwhile, would not answer.
    """

    def __init__(
        self, view: KafkaLog, topic: str, group: str, revoked: Revoked | None, logger: logging.Logger
    ) -> None:
        self.view, self.topic, self.group, self.revoked = view, topic, group, revoked
        self._logger = logger
        self._inbox: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="kafka-consumer", daemon=True)
        self._assigned: frozenset[int] = frozenset()
        self._paused = False
        self._typical = float(TYPICAL)
        self._client: Any = None
        self._fault: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        from confluent_kafka import Consumer as Client

        self._loop = asyncio.get_running_loop()
        self._client = Client(
            {
                "session.timeout.ms": 10_000,
                "heartbeat.interval.ms": 1_000,
                "fetch.wait.max.ms": 100,
                "fetch.message.max.bytes": 8 << 20,
                "queued.max.messages.kbytes": 65_536,
                **_settings(self.view),
                "group.id": self.group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "partition.assignment.strategy": "cooperative-sticky",
                "error_cb": self._told,
            },
            logger=self._logger,
        )
        self._thread.start()
        await self._ask(
            lambda: self._client.subscribe(
                [self.topic], on_assign=self._given, on_revoke=self._taken, on_lost=self._lost
            )
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._ask(self._client.close)  # leaves the group, which calls back for what it had
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    async def _ask(self, call: Callable[[], Any]) -> Any:
        answer: Future[Any] = Future()
        self._inbox.put((call, answer))
        return await asyncio.wrap_future(answer)

    def _work(self) -> None:
        while (asked := self._inbox.get()) is not None:
            _do(*asked)

    def _serve(self) -> None:
        """Do what was asked for meanwhile."""
        with suppress(queue.Empty):
            while (asked := self._inbox.get_nowait()) is not None:
                _do(*asked)

    # Called back in the thread that fetches, while the loop runs on.

    def _told(self, error: Any) -> None:
        self._fault = error

    def _given(self, _client: Any, partitions: list[Any]) -> None:
        self._assigned |= {part.partition for part in partitions}
        self._client.incremental_assign(partitions)
        if self._paused:
            self._client.pause(partitions)

    def _taken(self, _client: Any, partitions: list[Any]) -> None:
        gone = frozenset(part.partition for part in partitions) & self._assigned
        self._finish(gone)
        self._assigned -= gone
        self._client.incremental_unassign(partitions)

    def _lost(self, _client: Any, partitions: list[Any]) -> None:
        # Somebody else has them already: nothing can be committed.
        gone = frozenset(part.partition for part in partitions)
        self._assigned -= gone
        self._finish(gone)
        self._client.incremental_unassign(partitions)

    def _finish(self, gone: frozenset[int]) -> None:
        """Wait until what is of these partitions is finished, which may want to commit."""
        if self.revoked is None or not gone or self._loop is None:
            return
        finished = asyncio.run_coroutine_threadsafe(_awaited(self.revoked, gone), self._loop)
        finished.add_done_callback(lambda _: self._inbox.put((lambda: None, Future())))  # wakes
        while not finished.done():
            asked = self._inbox.get()
            if asked is not None:
                _do(*asked)
        finished.result()

    async def fetch(self, max_records: int, max_bytes: int, wait: float) -> list[Record]:
        count = max(1, min(max_records, int(max_bytes / self._typical)))
        found: list[Record] = await self._ask(lambda: self._fetched(count, wait))
        if found:
            mean = sum(len(record.value) for record in found) / len(found)
            self._typical = max(1.0, 0.5 * self._typical + 0.5 * mean)
        return found

    def _fetched(self, count: int, wait: float) -> list[Record]:
        from confluent_kafka import KafkaError

        # The call waits until it has as many as were asked for: what is there now is taken with the first.
        ends = time.monotonic() + wait
        while not (first := self._client.consume(1, SLICE)) and time.monotonic() < ends:
            self._serve()
        more = self._client.consume(count - 1, 0) if first and count > 1 else []
        found = []
        for message in (*first, *more):
            error = message.error()
            if error is None:
                if message.partition() in self._assigned:
                    found.append(_record(message))
            elif error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise UnavailableError(
                    f"log: there is no topic {self.topic}", hint="make it: penstock stream create"
                )
            elif error.fatal() or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise UnavailableError(f"log: Kafka: {hidden(error.str())}")
        fault, self._fault = self._fault, None
        if fault is not None and not found and fault.code() == KafkaError._ALL_BROKERS_DOWN:
            raise UnavailableError(f"log: no broker of {hidden(self.view.brokers)} answers")
        return found

    async def commit(self, positions: dict[int, int]) -> None:
        from confluent_kafka import KafkaError, KafkaException, TopicPartition

        ours = [
            TopicPartition(self.topic, number, offset)
            for number, offset in positions.items()
            if number in self._assigned
        ]
        if not ours:
            return
        lost = {
            KafkaError.ILLEGAL_GENERATION,
            KafkaError.UNKNOWN_MEMBER_ID,
            KafkaError.REBALANCE_IN_PROGRESS,
            KafkaError._STATE,
        }
        try:
            await self._ask(lambda: self._client.commit(offsets=ours, asynchronous=False))
        except KafkaException as error:
            if error.args[0].code() not in lost:
                raise UnavailableError(f"log: Kafka: {hidden(error.args[0].str())}") from error

    def pause(self) -> None:
        from confluent_kafka import TopicPartition

        self._paused = True
        self._client.pause([TopicPartition(self.topic, number) for number in self._assigned])

    def resume(self) -> None:
        from confluent_kafka import TopicPartition

        self._paused = False
        self._client.resume([TopicPartition(self.topic, number) for number in self._assigned])

    @property
    def assigned(self) -> frozenset[int]:
        return self._assigned

    async def lag(self) -> dict[int, int]:
        return dict(await self._ask(self._lag))

    def _lag(self) -> dict[int, int]:
        from confluent_kafka import KafkaException, TopicPartition

        parts = [TopicPartition(self.topic, number) for number in sorted(self._assigned)]
        try:
            lag = {}
            for place in self._client.committed(parts, timeout=SECONDS) if parts else []:
                low, high = self._client.get_watermark_offsets(place, timeout=SECONDS)
                lag[place.partition] = high - max(low, place.offset)
        except KafkaException as error:
            raise UnavailableError(f"log: Kafka: {hidden(error.args[0].str())}") from error
        return lag


def _do(call: Callable[[], Any], answer: Future[Any]) -> None:
    if not answer.set_running_or_notify_cancel():
        return
    try:
        answer.set_result(call())
    except BaseException as error:
        answer.set_exception(error)


async def _awaited(revoked: Revoked, partitions: frozenset[int]) -> None:
    await revoked(partitions)
