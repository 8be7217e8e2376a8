"""Every message of a topic once, from a real broker: however it is cut, whoever aborted what, whatever is gone."""

from __future__ import annotations

import itertools
import json
import logging
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from penstock.config.loading import KafkaSource
from penstock.contract import QUARANTINE_SCHEMA
from penstock.errors import PenstockError
from penstock.sources.chunks import Window
from penstock.sources.kafka import read_kafka
from tests.servers.kafka import PASSWORD, USER, kafka
from tests.servers.programs import free_port, until

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def brokers():
    with kafka() as address:
        yield address


@pytest.fixture(scope="module")
def admin(brokers):
    return AdminClient({"bootstrap.servers": brokers, "log_level": 0})


@pytest.fixture(scope="module")
def producer(brokers):
    # One at a time: what is sent again while a new topic's leader is being found stays in order.
    return Producer({"bootstrap.servers": brokers, "linger.ms": 0, "log_level": 0, "max.in.flight": 1})


@pytest.fixture(scope="module")
def new_topic(admin):
    def make(partitions=3, **config):
        name = f"orders-{next(NUMBERS)}"
        wanted = NewTopic(
            name, partitions, 1, config={key.replace("_", "."): value for key, value in config.items()}
        )
        done(admin.create_topics([wanted]))

        def led() -> bool:
            found = admin.list_topics(name, timeout=10).topics[name].partitions.values()
            return len(found) == partitions and all(one.leader >= 0 for one in found)

        until(led, f"leaders of {name}")
        return name

    return make


@pytest.fixture
def topic(new_topic):
    return new_topic()


def done(futures):
    for future in futures.values():
        future.result()


@pytest.fixture(scope="module")
def produce(producer):
    def send(topic, values, over=3, **others):
        """Objects, bytes or None, to the partitions by turns."""
        failed = []
        for number, value in enumerate(values):
            content = json.dumps(value).encode() if isinstance(value, dict | list) else value
            more = {"partition": number % over, **others}
            producer.produce(
                topic, content, on_delivery=lambda error, _: failed.append(error) if error else None, **more
            )
        assert producer.flush(10) == 0
        assert failed == []

    return send


def source(brokers, topic, **others):
    return KafkaSource.model_validate({"kind": "kafka", "brokers": brokers, "topic": topic, **others})


def ids(chunks):
    return sorted(value for chunk in chunks if chunk.frame.width for value in chunk.frame["id"].to_list())


def places(chunks):
    return [place for chunk in chunks for place in zip(chunk.source, chunk.position, strict=True)]


# --- every message once -----------------------------------------------------------------------------


def test_a_topic_is_read_to_its_end_and_then_what_is_new(brokers, topic, produce):
    produce(topic, [{"id": number, "who": {"name": "x"}} for number in range(100)])
    first = list(read_kafka(source(brokers, topic), Window(batch_rows=30)))
    assert ids(first) == list(range(100))
    assert [chunk.frame.height for chunk in first] == [30, 30, 30, 10]
    assert [chunk.remaining for chunk in first] == [70, 40, 10, 0]
    assert all(chunk.boundary for chunk in first)
    assert first[0].frame.columns == ["id", "who__name"]
    assert len(set(places(first))) == 100
    for chunk in first:
        found = places([chunk])
        assert found == sorted(found)
        for (name, position), number in zip(found, chunk.frame["id"], strict=True):
            assert (name, position) == (f"{topic}[{number % 3}]", number // 3)
    produce(topic, [{"id": number} for number in range(100, 110)])
    second = list(read_kafka(source(brokers, topic), Window(resume=first[-1].resume)))
    assert ids(second) == list(range(100, 110))
    assert list(read_kafka(source(brokers, topic), Window(resume=second[-1].resume))) == []


@pytest.fixture(scope="module")
def full_topic(new_topic, produce):
    """Of 90 messages, some of them broken or without a value."""
    name = new_topic()
    special = {7: b"{cut", 30: None, 31: None, 89: b"[]"}
    produce(name, [special.get(number, {"id": number}) for number in range(90)])
    return name, special


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4), cut=st.integers(1, 12))
def test_cut_after_any_chunk_it_goes_on_with_every_message_once(brokers, full_topic, sizes, cut):
    name, special = full_topic
    resume, found = {}, []
    for size in itertools.cycle(sizes):
        window = Window(resume=json.loads(json.dumps(resume)), batch_rows=size)
        taken = list(itertools.islice(read_kafka(source(brokers, name), window), cut))
        found += taken
        resume = taken[-1].resume
        if taken[-1].remaining == 0:
            break
    assert ids(found) == [number for number in range(90) if number not in special]
    broken = pl.concat([chunk.broken for chunk in found]).select("source", "position").rows()
    assert sorted(places(found) + broken) == sorted((f"{name}[{n % 3}]", n // 3) for n in range(90))


def test_what_arrives_meanwhile_is_left_for_the_next_load(brokers, topic, produce):
    produce(topic, [{"id": number} for number in range(9)])
    reading = read_kafka(source(brokers, topic), Window(batch_rows=3))
    found = [next(reading)]
    produce(topic, [{"id": number} for number in range(9, 18)])
    found += reading
    assert ids(found) == list(range(9))
    assert found[-1].remaining == 0
    assert ids(read_kafka(source(brokers, topic), Window(resume=found[-1].resume))) == list(range(9, 18))


def test_aborted_transactions_are_not_seen_and_their_marks_not_waited_for(brokers, topic):
    producer = Producer({"bootstrap.servers": brokers, "transactional.id": topic, "log_level": 0})
    producer.init_transactions()
    for number in range(6):
        producer.begin_transaction()
        producer.produce(topic, json.dumps({"id": number}).encode(), partition=0)
        producer.flush()
        (producer.abort_transaction if number % 2 else producer.commit_transaction)()
    # Were the marks at the end waited for, this would fail.
    chunks = list(read_kafka(source(brokers, topic, patience="4s"), Window()))
    assert ids(chunks) == [0, 2, 4]
    assert chunks[-1].resume["offsets"] == {"0": 12, "1": 0, "2": 0}
    # One that is open is not waited for, and read once it is committed.
    producer.begin_transaction()
    producer.produce(topic, b'{"id": 7}', partition=0)
    producer.flush()
    assert list(read_kafka(source(brokers, topic), Window(resume=chunks[-1].resume))) == []
    producer.commit_transaction()
    assert ids(read_kafka(source(brokers, topic), Window(resume=chunks[-1].resume))) == [7]


def test_nothing_but_aborted_messages_is_no_row_and_a_new_place(brokers, topic):
    producer = Producer({"bootstrap.servers": brokers, "transactional.id": topic, "log_level": 0})
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(topic, b'{"id": 1}', partition=1)
    producer.flush()
    producer.abort_transaction()
    (chunk,) = read_kafka(source(brokers, topic, patience="4s"), Window())
    assert chunk.frame.height == 0
    assert chunk.resume["offsets"] == {"0": 0, "1": 2, "2": 0}


def test_offsets_that_compaction_took_are_gone_past(brokers, new_topic, produce, admin):
    topic = new_topic(
        1, cleanup_policy="compact", segment_ms="100", min_cleanable_dirty_ratio="0.001", max_compaction_lag_ms="100"
    )  # fmt: skip
    produce(topic, [{"id": number} for number in range(50)], key=b"same", over=1)
    window, given_source = Window(batch_rows=7), source(brokers, topic)

    def compacted():
        # A segment that is written to is not compacted: another message begins the next one.
        produce(topic, [{"id": 99}], key=b"other", over=1)
        return len(ids(read_kafka(given_source, window))) < 40

    until(compacted, "compaction")
    chunks = list(read_kafka(given_source, window))
    assert {49, 99} <= set(ids(chunks))
    assert 0 not in ids(chunks)
    assert chunks[-1].remaining == 0


def test_a_partition_that_is_new_is_read_from_its_beginning(brokers, topic, produce, admin):
    produce(topic, [{"id": 1}])
    first = list(read_kafka(source(brokers, topic, start="latest"), Window()))
    assert ids(first) == []
    done(admin.create_partitions([NewPartitions(topic, 4)]))
    # A client that was there before learns of it later.
    fresh = Producer({"bootstrap.servers": brokers, "log_level": 0})
    until(lambda: 3 in fresh.list_topics(topic, timeout=5).topics[topic].partitions, "the partition")
    fresh.produce(topic, b'{"id": 2}', partition=3)
    assert fresh.flush(10) == 0
    produce(topic, [{"id": 3}], partition=0)
    found = list(read_kafka(source(brokers, topic, start="latest"), Window(resume=first[-1].resume)))
    assert ids(found) == [2, 3]


def test_no_group_remembers_anything(brokers, topic, produce, admin):
    produce(topic, [{"id": 1}])
    assert ids(read_kafka(source(brokers, topic, options={"group.id": "mine"}), Window())) == [1]
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "mine", "log_level": 0})
    committed = consumer.committed([TopicPartition(topic, 0)], 10)
    consumer.close()
    assert committed[0].offset < 0


# --- what is gone -----------------------------------------------------------------------------------


def test_what_retention_removed_is_told_or_gone_past(brokers, topic, produce, admin):
    produce(topic, [{"id": number} for number in range(9)])
    first = list(read_kafka(source(brokers, topic), Window()))
    produce(topic, [{"id": number} for number in range(9, 18)])
    done(admin.delete_records([TopicPartition(topic, 1, 5)]))
    window = Window(resume=first[-1].resume)
    with pytest.raises(PenstockError, match=r"partition 1: offsets 3 to 4 are gone .* is 5") as error:
        list(read_kafka(source(brokers, topic), window))
    assert "on_gone: earliest" in str(error.value)
    on = list(read_kafka(source(brokers, topic, on_gone="earliest"), window))
    assert ids(on) == [9, 11, 12, 14, 15, 16, 17]
    # The gap is told where somebody looks for rows that are missing.
    gap = on[0].broken.row(0, named=True)
    assert (gap["source"], gap["position"]) == (f"{topic}[1]", 3)
    assert gap["reason"] == "offset: expected messages, offsets 3 to 4 are gone"
    assert on[0].reasons == {"offset: gone": 1}
    with pytest.raises(PenstockError, match="partition 0 ends at 6, but was read up to 99"):
        list(read_kafka(source(brokers, topic), Window(resume={"offsets": {"0": 99}})))
    with pytest.raises(PenstockError, match="no partition 8, which was read up to 9"):
        list(read_kafka(source(brokers, topic), Window(resume={"offsets": {"8": 9}})))


@pytest.mark.parametrize("on_gone", ["fail", "earliest"])
def test_what_retention_removes_meanwhile_is_told_or_gone_past(brokers, new_topic, produce, admin, on_gone):
    topic = new_topic(1)
    for number in range(40):  # in as many batches
        produce(topic, [{"id": number, "of": "x" * 2000}], over=1)
    # So few are fetched ahead that what is removed was not.
    options = {"fetch.message.max.bytes": 2000, "queued.min.messages": 1, "queued.max.messages.kbytes": 1}
    given_source = source(brokers, topic, on_gone=on_gone, options=options)
    reading = read_kafka(given_source, Window(batch_rows=1))
    found = [next(reading)]
    done(admin.delete_records([TopicPartition(topic, 0, 30)]))
    if on_gone == "fail":
        with pytest.raises(PenstockError, match=r"partition 0: offsets \d+ to 29 are gone"):
            found += reading
        return
    found += reading
    gap = next(chunk.broken for chunk in found if chunk.broken.height)
    read = ids(found)
    assert read == [*range(gap["position"].item()), *range(30, 40)]
    assert len(read) < 40


def test_another_topic_of_the_same_name_is_told(brokers, topic, produce, admin):
    produce(topic, [{"id": 1}, {"id": 2}, {"id": 3}])
    first = list(read_kafka(source(brokers, topic), Window()))
    done(admin.delete_topics([topic]))
    until(lambda: topic not in admin.list_topics(timeout=5).topics, "deletion")
    done(admin.create_topics([NewTopic(topic, 3, 1)]))
    # It has as many messages as the other: by offsets alone nothing would seem to be new.
    produce(topic, [{"id": 4}, {"id": 5}, {"id": 6}])
    window = Window(resume=first[-1].resume)
    with pytest.raises(PenstockError, match="not the topic that was read before"):
        list(read_kafka(source(brokers, topic), window))
    assert ids(read_kafka(source(brokers, topic, on_gone="earliest"), window)) == [4, 5, 6]


# --- bounds -----------------------------------------------------------------------------------------


def day(number, hour=0):
    return datetime(2024, 1, number, hour, tzinfo=UTC)


@pytest.fixture(scope="module")
def dated(new_topic, produce):
    """Days 1 to 5 by turns in two partitions, and then the 2nd again: it is late."""
    name = new_topic(2)
    for number in (1, 2, 3, 4, 5, 2):
        produce(name, [{"id": number}], partition=number % 2, timestamp=int(day(number).timestamp() * 1000))
    return name


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"since": day(3)}, [3, 4, 5]),
        ({"since": day(3), "exclusive": True}, [4, 5]),
        ({"since": day(2, 1)}, [3, 4, 5]),
        ({"since": "2024-01-05"}, [5]),
        ({"since": day(9)}, []),
        ({"until": day(3)}, [1, 2]),  # the late one is behind the 4th, and left for the next load
        ({"until": day(3, 1)}, [1, 2, 3]),
        ({"until": day(9)}, [1, 2, 2, 3, 4, 5]),
        ({"since": day(2), "until": day(4)}, [2, 3]),
    ],
    ids=str,
)
def test_bounds_are_times_of_messages(brokers, dated, bounds, expected):
    given_source = source(brokers, dated, metadata=True)
    chunks = list(read_kafka(given_source, Window(cursor="kafka_timestamp", **bounds)))
    assert ids(chunks) == expected
    rest = list(read_kafka(given_source, Window(resume=chunks[-1].resume, cursor="kafka_timestamp")))
    if "since" not in bounds:
        assert sorted(ids(chunks) + ids(rest)) == [1, 2, 2, 3, 4, 5]


def test_where_offsets_are_known_the_last_cursor_is_no_bound(brokers, dated, produce):
    given_source = source(brokers, dated, metadata=True)
    first = list(read_kafka(given_source, Window(cursor="kafka_timestamp", until=day(3))))
    window = Window(resume=first[-1].resume, cursor="kafka_timestamp", since=day(2), exclusive=True)
    # The late message is below the bound, and new all the same.
    assert ids(read_kafka(given_source, window)) == [2, 3, 4, 5]


def test_a_first_load_may_begin_at_a_time(brokers, dated):
    found = list(read_kafka(source(brokers, dated, start="2024-01-04T00:00:00Z"), Window()))
    assert ids(found) == [2, 4, 5]
    assert ids(read_kafka(source(brokers, dated, start="2024-02-01T00:00:00"), Window())) == []


def test_other_bounds_are_refused(brokers, dated):
    with pytest.raises(PenstockError, match="by their time, not by 'id'"):
        list(read_kafka(source(brokers, dated, metadata=True), Window(cursor="id", since=3)))
    with pytest.raises(PenstockError, match="is a column with metadata alone"):
        list(read_kafka(source(brokers, dated), Window(cursor="kafka_timestamp")))
    with pytest.raises(PenstockError, match="holds dates or times; 3 is neither"):
        list(read_kafka(source(brokers, dated, metadata=True), Window(cursor="kafka_timestamp", since=3)))
    # With an order of its own, and no bound, nothing is wrong.
    first = list(read_kafka(source(brokers, dated), Window(cursor="id")))
    assert (
        list(read_kafka(source(brokers, dated), Window(cursor="id", since=5, resume=first[-1].resume))) == []
    )


# --- what is in a message ---------------------------------------------------------------------------


def test_messages_that_are_none_are_broken_and_stop_nothing(brokers, topic, produce):
    produce(topic, [{"id": 1}, b"{cut", b"\xff\xfe", None, [1], {"id": 2}, b'{"a": 1, "a": 2}'], over=1)
    (chunk,) = read_kafka(source(brokers, topic), Window())
    assert ids([chunk]) == [1, 2]
    assert list(chunk.position) == [0, 5]
    assert chunk.broken.schema == QUARANTINE_SCHEMA
    assert chunk.broken["position"].to_list() == [1, 2, 3, 4, 6]
    assert chunk.broken["source"].to_list() == [f"{topic}[0]"] * 5
    assert chunk.broken["reason"].to_list() == [
        "value: expected a JSON object, found an error at character 1: Expecting property name enclosed in double quotes",
        "value: expected a JSON object, found a byte that is not UTF-8 at character 0",
        "value: expected one, found none (a tombstone)",
        "value: expected a JSON object, found [1]",
        "value: expected a JSON object, found 'a' twice",
    ]
    assert json.loads(chunk.broken["row"][0]) == {"value_base64": "e2N1dA==", "key_base64": None}
    assert chunk.reasons == {"value: json": 4, "value: missing": 1}


def test_tombstones_are_left_out_or_rows(brokers, topic, produce):
    produce(topic, [{"id": 1}], key=b"a", over=1)
    produce(topic, [None], key=b"a", over=1)
    produce(topic, [{"id": 2}], key=b"b", over=1)
    (chunk,) = read_kafka(source(brokers, topic, tombstones="skip"), Window())
    assert (ids([chunk]), chunk.broken.height) == ([1, 2], 0)
    (chunk,) = read_kafka(source(brokers, topic, tombstones="row", key="text"), Window())
    assert chunk.frame.rows(named=True) == [
        {"id": 1, "kafka_key": "a", "kafka_tombstone": False},
        {"id": None, "kafka_key": "a", "kafka_tombstone": True},
        {"id": 2, "kafka_key": "b", "kafka_tombstone": False},
    ]
    assert list(chunk.position) == [0, 1, 2]


def test_a_topic_of_tombstones_alone_has_rows_too(brokers, topic, produce):
    produce(topic, [None, None], key=b'{"id": 7}', over=1)
    (chunk,) = read_kafka(source(brokers, topic, tombstones="row", key="json"), Window())
    assert chunk.frame.rows(named=True) == [{"kafka_key__id": 7, "kafka_tombstone": True}] * 2


def test_keys_headers_and_metadata_are_columns(brokers, topic, producer):
    moment = datetime(2024, 2, 29, 12, 0, 0, 123000, tzinfo=UTC)
    headers = [("trace", b"1"), ("by", b"\xff"), ("trace", b"2"), ("none", None)]
    for key in (b'{"id": 7, "of": {"shop": "x"}}', b"41", None, b"{cut", b'{"a": {"b": 1}, "a__b": 2}'):
        producer.produce(
            topic, b'{"v": 1.5}', key=key, partition=2, timestamp=int(moment.timestamp() * 1000), headers=headers
        )  # fmt: skip
    producer.produce(topic, b'{"v": 2.5}', partition=2, timestamp=int(moment.timestamp() * 1000))
    producer.flush()
    (chunk,) = read_kafka(source(brokers, topic, key="json", headers=True, metadata=True), Window())
    assert chunk.frame.schema["kafka_timestamp"] == pl.Datetime("us", "UTC")
    first, second, third, fourth = chunk.frame.rows(named=True)
    told = json.loads(first.pop("kafka_headers"))
    assert told == {"trace": ["1", "2"], "by": {"base64": "/w=="}, "none": None}
    assert first == {
        "v": 1.5,
        "kafka_key": None,
        "kafka_key__id": 7,
        "kafka_key__of__shop": "x",
        "kafka_timestamp": moment,
        "kafka_partition": 2,
        "kafka_offset": 0,
    }
    assert (second["kafka_key"], second["kafka_key__id"]) == (41, None)
    assert (third["kafka_key"], third["kafka_key__id"]) == (None, None)
    assert (fourth["v"], fourth["kafka_offset"], fourth["kafka_headers"]) == (2.5, 5, None)
    assert chunk.broken["position"].to_list() == [3, 4]
    assert chunk.reasons == {"key: json": 2}
    assert "key: expected JSON" in chunk.broken["reason"][0]
    assert "two values for one column" in chunk.broken["reason"][1]


def test_names_that_are_needed_are_broken_where_a_message_has_them(brokers, topic, produce):
    produce(
        topic,
        [{"id": 1, "kafka_offset": 5}, {"id": 2, "kafka_offset": None}, {"id": 3}, {"id": 4, "_load": 1}],
        over=1,
    )
    (chunk,) = read_kafka(source(brokers, topic, metadata=True), Window())
    assert chunk.frame.select("id", "kafka_offset").rows() == [(2, 1), (3, 2)]
    assert chunk.broken["position"].to_list() == [0, 3]
    assert "expected no 'kafka_offset'" in chunk.broken["reason"][0]
    assert "expected no '_load'" in chunk.broken["reason"][1]
    (chunk,) = read_kafka(source(brokers, topic), Window())
    assert chunk.frame["kafka_offset"].to_list() == [5, None, None]


@pytest.mark.parametrize(("form", "expected"), [("text", ["häus", ""]), ("bytes", ["aMOkdXM=", "", "/w=="])])
def test_values_of_one_piece(brokers, topic, produce, form, expected):
    produce(topic, ["häus".encode(), b"", b"\xff"], over=1)
    (chunk,) = read_kafka(source(brokers, topic, value=form), Window())
    assert chunk.frame["value"].to_list() == expected
    assert chunk.broken["reason"].to_list() == (
        ["value: expected UTF-8 text, found a byte that is none at 0"] if form == "text" else []
    )


def test_large_messages_make_small_chunks(brokers, topic, produce, monkeypatch):
    monkeypatch.setattr("penstock.sources.kafka.CHUNK_BYTES", 100_000)
    monkeypatch.setattr("penstock.sources.kafka.FIRST", 5)
    produce(topic, [{"id": number, "of": "x" * 20_000} for number in range(30)])
    chunks = list(read_kafka(source(brokers, topic), Window()))
    assert ids(chunks) == list(range(30))
    assert max(chunk.frame.height for chunk in chunks) <= 10


# --- who may, and what is wrong ---------------------------------------------------------------------


def guarded(brokers, topic, **others):
    security = {
        "protocol": "sasl_plaintext",
        "mechanism": "PLAIN",
        "user": USER,
        "password": "${secret:KAFKA}",
    }
    return source(brokers.guarded, topic, **{"security": security, **others})


def test_a_user_with_a_password_may_read(brokers, topic, produce, monkeypatch):
    monkeypatch.setenv("KAFKA", PASSWORD)
    produce(topic, [{"id": 1}])
    assert ids(read_kafka(guarded(brokers, topic), Window())) == [1]


def test_a_wrong_password_is_told_at_once_and_not_shown(brokers, topic, monkeypatch, capfd, caplog):
    monkeypatch.setenv("KAFKA", "wrong password")
    with caplog.at_level(logging.DEBUG), pytest.raises(PenstockError, match="refuse us") as error:
        list(read_kafka(guarded(brokers, topic, connect="9s"), Window()))
    assert "Authentication failed" in str(error.value)
    assert "source.security" in str(error.value)
    captured = capfd.readouterr()
    for said in (str(error.value), captured.out, captured.err, caplog.text):
        assert "wrong password" not in said
    assert captured.err == ""


def test_the_wrong_protocol_is_told(brokers, topic):
    with pytest.raises(PenstockError, match="no answer for 1 s") as error:
        list(read_kafka(source(brokers.guarded, topic, connect="1s"), Window()))
    assert "source.security.protocol" in str(error.value)


def test_a_topic_that_is_not_there_has_neighbours(brokers, topic):
    with pytest.raises(PenstockError, match=f"no such topic[\\s\\S]*did you mean '{topic}'"):
        list(read_kafka(source(brokers, topic.replace("orders", "order")), Window()))
    with pytest.raises(PenstockError, match=r"no such topic[\s\S]*there are: orders-0"):
        list(read_kafka(source(brokers, "zzz"), Window()))
    with pytest.raises(PenstockError, match="no such topic"):
        list(read_kafka(source(brokers, "no topic/has such a name"), Window()))


def test_brokers_that_do_not_answer_are_told_in_time(brokers):
    with pytest.raises(PenstockError, match=r"no answer for 0\.5 s .*Connection refused"):
        list(read_kafka(source(f"127.0.0.1:{free_port()}", "x", connect="PT0.5S"), Window()))


def test_a_broker_that_is_lost_meanwhile_is_told_in_time():
    with kafka() as brokers:
        admin = AdminClient({"bootstrap.servers": brokers, "log_level": 0})
        done(admin.create_topics([NewTopic("t", 1, 1)]))
        producer = Producer({"bootstrap.servers": brokers, "log_level": 0})
        for number in range(50):
            producer.produce("t", b'{"id": %d, "of": "%s"}' % (number, b"x" * 2000))
            producer.flush()
        options = {"fetch.message.max.bytes": 2000, "queued.min.messages": 1, "queued.max.messages.kbytes": 1}
        reading = read_kafka(source(brokers, "t", patience="1s", options=options), Window(batch_rows=1))
        next(reading)
    with pytest.raises(PenstockError, match=r"no message for 1 s \(partitions 0 at \d+ of 50\)"):
        list(reading)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"nonsense.key": 1}, "nonsense.key"), ({"fetch.max.bytes": "many"}, "fetch.max.bytes")],
    ids=["name", "value"],
)
def test_options_that_are_none_are_told(brokers, topic, options, said):
    with pytest.raises(PenstockError, match=said) as error:
        list(read_kafka(source(brokers, topic, options=options), Window()))
    assert "source.options" in str(error.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"value": "avro"}, "`value: avro` needs `registry`"),
        ({"key": "protobuf"}, "`key: protobuf` needs `registry`"),
        ({"value": "json", "value_schema": "x.avsc"}, "`value_schema` goes with"),
        ({"value": "protobuf", "value_schema": "x.bin"}, "`value_message` goes with"),
        ({"tombstones": "row"}, "needs `key`"),
        ({"options": {"isolation.level": "read_uncommitted"}}, "only what is committed"),
        ({"security": {"protocol": "sasl_ssl"}}, "needs a `mechanism`"),
        ({"security": {"user": "me"}}, "need `protocol: sasl_ssl`"),
        ({"security": {"ca": "x.pem"}}, "need `protocol: ssl`"),
        ({"patience": "0s"}, "longer than nothing"),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_are_told(settings, said):
    with pytest.raises(ValidationError, match=said):
        source("x", "y", **settings)


def test_what_is_between_two_loads_is_small(brokers, topic, produce):
    """A place in a topic is a few numbers, whatever was read."""
    produce(topic, [{"id": number} for number in range(300)])
    (chunk,) = read_kafka(source(brokers, topic), Window())
    assert chunk.resume["offsets"] == {"0": 100, "1": 100, "2": 100}
    assert len(json.dumps(chunk.resume)) < 200
    assert source("x", "y").connect == timedelta(seconds=15)
