"""Talking to brokers: a question has an answer, or an error that says why not, within a bounded time."""

from __future__ import annotations

import difflib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any

from penstock.config.loading import KafkaSource
from penstock.errors import PenstockError
from penstock.sources.secrets import hidden, revealed

__all__ = ["Brokers"]

POLL = 0.05  # seconds between looks at whether an answer has come, or an error
# librdkafka would wait half a second at a topic's end, and a whole one where it is ahead of its reader.
QUICK = {"fetch.wait.max.ms": 100, "fetch.queue.backoff.ms": 10}
SHOWN = 20  # names of topics


class Brokers:
    """The brokers of a source.

    Errors that librdkafka tells nobody but a call-back are kept: they say why an answer does not come.
    """

    def __init__(self, source: KafkaSource) -> None:
        from confluent_kafka.admin import AdminClient

        self.source = source
        self._logger = logging.getLogger("penstock.sources.kafka.librdkafka")
        self._logger.propagate = False  # it would go to standard error
        self._logger.addHandler(logging.NullHandler())
        self._last: Any = None
        self._fatal: Any = None
        with self._settings_checked():
            self._admin = AdminClient(self._settings(), logger=self._logger)

    @property
    def name(self) -> str:
        """For people."""
        return f"{hidden(self.source.brokers)} {self.source.topic}"

    def consumer(self) -> Any:
        """A consumer that begins where it is told, commits nothing, and sees what is committed."""
        from confluent_kafka import Consumer

        settings = {
            "group.id": "penstock",  # librdkafka wants one; the group is not joined
            **QUICK,
            **self._settings(),
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
        }
        with self._settings_checked():
            return Consumer(settings, logger=self._logger)

    # --- questions ----------------------------------------------------------------------------------

    def topic(self) -> tuple[str | None, list[int]]:
        """The topic's identity, if the brokers know one, and its partitions.

        Raises:
            PenstockError: There is no such topic, or we may not see it.
        """
        from confluent_kafka import KafkaError, TopicCollection

        def ask(seconds: float) -> Iterable[Future[Any]]:
            asked = TopicCollection([self.source.topic])
            return list(self._admin.describe_topics(asked, request_timeout=seconds).values())

        missing = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_EXCEPTION, KafkaError._INVALID_ARG}
        (found,) = self._answered(ask, dict.fromkeys(missing, self._no_such_topic))
        identity = str(found.topic_id)
        known = found.topic_id is not None and (found.topic_id.get_most_significant_bits() != 0)
        return identity if known else None, sorted(part.id for part in found.partitions)

    def _no_such_topic(self, _: Any) -> PenstockError:
        def ask(seconds: float) -> Iterable[Future[Any]]:
            answer: Future[Any] = Future()
            answer.set_result(self._admin.list_topics(timeout=seconds))
            return [answer]

        (found,) = self._answered(ask)
        names = sorted(name for name in found.topics if not name.startswith("__"))
        near = difflib.get_close_matches(self.source.topic, names, n=1)
        return self.error(
            "there is no such topic, or we may not see it",
            f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names[:SHOWN]) or 'none'}",
        )

    def earliest(self, partitions: Sequence[int]) -> dict[int, int]:
        """The first offset of each partition."""
        from confluent_kafka.admin import OffsetSpec

        return self._offsets(partitions, OffsetSpec.earliest())

    def ends(self, partitions: Sequence[int]) -> dict[int, int]:
        """The offset behind the last message of each partition that is committed, or before an open transaction."""
        from confluent_kafka.admin import OffsetSpec

        return self._offsets(partitions, OffsetSpec.latest())

    def at_time(self, partitions: Sequence[int], milliseconds: int) -> dict[int, int]:
        """The offset of the first message of each partition at a time or above; -1 where there is none."""
        from confluent_kafka.admin import OffsetSpec

        return self._offsets(partitions, OffsetSpec.for_timestamp(milliseconds))

    def _offsets(self, partitions: Sequence[int], spec: Any) -> dict[int, int]:
        from confluent_kafka import IsolationLevel, TopicPartition

        if not partitions:
            return {}
        asked = {TopicPartition(self.source.topic, number): spec for number in partitions}

        def ask(seconds: float) -> Iterable[Future[Any]]:
            found = self._admin.list_offsets(
                asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=seconds
            )
            return [found[part] for part in asked]

        answers = self._answered(ask)
        return {number: int(found.offset) for number, found in zip(partitions, answers, strict=True)}

    def _answered(
        self,
        ask: Callable[[float], Iterable[Future[Any]]],
        known: dict[int, Callable[[Any], PenstockError]] | None = None,
    ) -> list[Any]:
        """What brokers say, asked again while they say that it will pass.

        Args:
            ask: Given the seconds left.
            known: What to raise for an error, by its code.
        """
        from confluent_kafka import KafkaException

        patience = self.source.connect.total_seconds()
        ends = time.monotonic() + patience
        while True:
            left = ends - time.monotonic()
            if left <= POLL:
                raise self._silent(f"no answer for {patience:g} s")
            try:
                futures = list(ask(left))
                while wait(futures, POLL).not_done and time.monotonic() < ends:
                    self._admin.poll(0)
                    self.check()
                return [future.result(timeout=POLL) for future in futures]
            except (KafkaException, TimeoutError) as exception:
                self._admin.poll(0)
                self.check()
                error = exception.args[0] if isinstance(exception, KafkaException) else None
                if error is not None and known and error.code() in known:
                    raise known[error.code()](error) from None
                if error is not None and not _passing(error):
                    raise self.of(error) from None
                time.sleep(POLL)

    # --- errors -------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise what no patience mends.

        Raises:
            PenstockError: The brokers refuse us.
        """
        if self._fatal is not None:
            raise self._refused(self._fatal)

    def error(self, message: str, hint: str) -> PenstockError:
        """One that names the topic."""
        return PenstockError(f"{self.name}: {hidden(message)}", hint=hint)

    def of(self, error: Any) -> PenstockError:
        """What a broker says."""
        from confluent_kafka import KafkaError

        if error.code() in {
            KafkaError.TOPIC_AUTHORIZATION_FAILED,
            KafkaError.CLUSTER_AUTHORIZATION_FAILED,
            KafkaError._AUTHENTICATION,
            KafkaError.SASL_AUTHENTICATION_FAILED,
        }:
            return self._refused(error)
        return self.error(error.str(), "check source.brokers, source.security and source.options")

    def stalled(self, message: str) -> PenstockError:
        """Messages that are there do not come."""
        return self._silent(message)

    def _refused(self, error: Any) -> PenstockError:
        return self.error(
            f"the brokers refuse us: {error.str()}",
            "check source.security: protocol, mechanism, user, password and ca; and what that user may read",
        )

    def _silent(self, message: str) -> PenstockError:
        last = "" if self._last is None else f" ({self._last.str()})"
        return self.error(
            f"{message}{last}", "are the brokers up, and source.brokers and source.security.protocol right?"
        )

    def _heard(self, error: Any) -> None:
        from confluent_kafka import KafkaError

        if error.code() in {KafkaError._AUTHENTICATION, KafkaError._SSL} or error.fatal():
            self._fatal = error
        elif error.code() != KafkaError._ALL_BROKERS_DOWN:  # the one before says why
            self._last = error

    # --- settings -----------------------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        source, security = self.source, self.source.security
        given = {
            "bootstrap.servers": source.brokers,
            "security.protocol": security.protocol,
            "sasl.mechanism": security.mechanism,
            "sasl.username": security.user,
            "sasl.password": security.password,
            "ssl.ca.location": security.ca,
            "ssl.certificate.location": security.certificate,
            "ssl.key.location": security.key,
            "ssl.key.password": security.key_password,
            **source.options,
        }
        settings = {
            name: revealed(value) if isinstance(value, str) else value
            for name, value in given.items()
            if value is not None
        }
        return {**settings, "error_cb": self._heard}

    @contextmanager
    def _settings_checked(self) -> Iterator[None]:
        from confluent_kafka import KafkaException

        try:
            yield
        except (KafkaException, ValueError, TypeError) as error:
            said = error.args[0].str() if isinstance(error, KafkaException) else str(error)
            raise PenstockError(
                f"source.options, source.security: {hidden(said)}",
                hint="options are those of librdkafka, such as fetch.max.bytes; security.ca and key are files",
            ) from None


def _passing(error: Any) -> bool:
    """Whether the same question may have an answer soon: a topic just made, a leader just chosen."""
    from confluent_kafka import KafkaError

    passing = {
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
    }
    return error.code() in passing or bool(error.retriable())
