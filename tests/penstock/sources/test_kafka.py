"""Every message of a topic once, from a real broker: however it is cut, whatever a message holds, whoever aborted what."""

from __future__ import annotations

import io
import itertools
import json
from datetime import UTC, datetime

import fastavro
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from google.protobuf import descriptor_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.config.loading import KafkaSource
from penstock.errors import PenstockError
from penstock.sources.chunks import Window
from penstock.sources.kafka import read_kafka
from tests.servers.kafka import kafka
from tests.servers.programs import free_port

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def brokers():
    with kafka() as address:
        yield address


@pytest.fixture
def topic(brokers):
    return new_topic(brokers)


def new_topic(brokers, partitions=3):
    name = f"orders-{next(NUMBERS)}"
    admin = AdminClient({"bootstrap.servers": brokers})
    for future in admin.create_topics([NewTopic(name, partitions, 1)]).values():
        future.result()
    return name


def produce(brokers, topic, values, **others):
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 0})
    for number, value in enumerate(values):
        content = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
        producer.produce(
            topic, content, partition=others.pop("partition", None) or number % others.get("over", 3)
        )
    producer.flush()


def source(brokers, topic, **others):
    return KafkaSource.model_validate({"kind": "kafka", "brokers": brokers, "topic": topic, **others})


def ids(chunks):
    return sorted(value for chunk in chunks if chunk.frame.width for value in chunk.frame["id"].to_list())


def places(chunks):
    return [place for chunk in chunks for place in zip(chunk.source, chunk.position, strict=True)]


def test_a_topic_is_read_to_its_end_and_then_what_is_new(brokers, topic):
    produce(brokers, topic, [{"id": number, "who": {"name": "x"}} for number in range(100)])
    first = list(read_kafka(source(brokers, topic), Window(batch_rows=30)))
    assert ids(first) == list(range(100))
    assert len(set(places(first))) == 100
    assert first[0].frame.columns == ["id", "who__name"]
    assert first[-1].remaining == 0
    assert [chunk.frame.height for chunk in first] == [30, 30, 30, 10]
    produce(brokers, topic, [{"id": number} for number in range(100, 110)])
    second = list(read_kafka(source(brokers, topic), Window(resume=first[-1].resume)))
    assert ids(second) == list(range(100, 110))
    assert ids(read_kafka(source(brokers, topic), Window(resume=second[-1].resume))) == []


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4), cut=st.integers(0, 12))
def test_cut_after_any_chunk_it_goes_on_with_every_message_once(brokers, full_topic, sizes, cut):
    resume, found = {}, []
    for size in itertools.cycle(sizes):
        window = Window(resume=resume, batch_rows=size)
        taken = list(itertools.islice(read_kafka(source(brokers, full_topic), window), cut + 1))
        found += taken
        resume = taken[-1].resume
        if taken[-1].remaining == 0:
            break
    assert ids(found) == list(range(90))
    assert len(set(places(found))) == 90


@pytest.fixture(scope="module")
def full_topic(brokers):
    name = new_topic(brokers)
    produce(brokers, name, [{"id": number} for number in range(90)])
    return name


def test_messages_that_are_none_are_broken_and_stop_nothing(brokers, topic):
    produce(brokers, topic, [{"id": 1}, b"{cut", b"\xff\xfe", None, [1], {"id": 2}], over=1)
    (chunk,) = read_kafka(source(brokers, topic), Window())
    assert ids([chunk]) == [1, 2]
    assert list(chunk.position) == [0, 5]
    assert chunk.broken["position"].to_list() == [1, 2, 3, 4]
    assert chunk.broken["source"].to_list() == [f"{topic}[0]"] * 4
    assert chunk.broken["reason"].to_list()[2:] == [
        "value: expected one, found none (a tombstone)",
        "value: expected an object, found [1]",
    ]
    assert json.loads(chunk.broken["row"][0])["value_base64"] == "e2N1dA=="
    assert chunk.reasons == {"value: decoding": 2, "value: missing": 1, "value: object": 1}
    (chunk,) = read_kafka(source(brokers, topic, tombstones="skip"), Window())
    assert chunk.broken.height == 3


def test_aborted_transactions_are_not_seen_and_their_marks_not_waited_for(brokers, topic):
    producer = Producer({"bootstrap.servers": brokers, "transactional.id": topic})
    producer.init_transactions()
    for number in range(6):
        producer.begin_transaction()
        producer.produce(topic, json.dumps({"id": number}).encode(), partition=0)
        producer.flush()
        (producer.commit_transaction if number % 2 else producer.abort_transaction)()
    chunks = list(read_kafka(source(brokers, topic, patience="9s"), Window()))
    assert ids(chunks) == [1, 3, 5]
    # One that is open is not waited for, and read once it is committed.
    producer.begin_transaction()
    producer.produce(topic, b'{"id": 7}', partition=0)
    producer.flush()
    meanwhile = list(read_kafka(source(brokers, topic), Window(resume=chunks[-1].resume)))
    assert ids(meanwhile) == []
    producer.commit_transaction()
    assert ids(read_kafka(source(brokers, topic), Window(resume=meanwhile[-1].resume))) == [7]


def test_what_retention_removed_is_told_or_gone_past(brokers, topic):
    produce(brokers, topic, [{"id": number} for number in range(9)])
    first = list(read_kafka(source(brokers, topic), Window()))
    produce(brokers, topic, [{"id": number} for number in range(9, 18)])
    admin = AdminClient({"bootstrap.servers": brokers})
    for future in admin.delete_records([TopicPartition(topic, 1, 5)]).values():
        future.result()
    with pytest.raises(PenstockError, match=r"partition 1: offsets 3 to 4 are gone"):
        list(read_kafka(source(brokers, topic), Window(resume=first[-1].resume)))
    on = list(read_kafka(source(brokers, topic, on_gone="earliest"), Window(resume=first[-1].resume)))
    assert ids(on) == [9, 11, 12, 14, 15, 16, 17]
    with pytest.raises(PenstockError, match="ends at 6, but was read up to 99"):
        list(read_kafka(source(brokers, topic), Window(resume={"offsets": {"0": 99}})))


def test_a_partition_that_is_new_is_read_from_its_beginning(brokers, topic):
    produce(brokers, topic, [{"id": 1}])
    first = list(read_kafka(source(brokers, topic, start="latest"), Window()))
    assert ids(first) == []
    admin = AdminClient({"bootstrap.servers": brokers})
    for future in admin.create_partitions([NewPartitions(topic, 4)]).values():
        future.result()
    producer = Producer({"bootstrap.servers": brokers})
    producer.produce(topic, b'{"id": 2}', partition=3)
    producer.flush()
    assert ids(read_kafka(source(brokers, topic, start="latest"), Window(resume=first[-1].resume))) == [2]


def test_a_first_load_may_begin_at_a_time(brokers, topic):
    producer = Producer({"bootstrap.servers": brokers})
    for day in range(1, 6):
        moment = datetime(2024, 1, day, tzinfo=UTC)
        producer.produce(
            topic, json.dumps({"id": day}).encode(), partition=0, timestamp=int(moment.timestamp() * 1000)
        )
    producer.flush()
    window = Window(cursor="at", since=datetime(2024, 1, 3, tzinfo=UTC))
    (chunk,) = read_kafka(source(brokers, topic, metadata=True), window)
    assert ids([chunk]) == [3, 4, 5]
    assert chunk.frame["kafka_timestamp"][0] == int(datetime(2024, 1, 3, tzinfo=UTC).timestamp() * 1000)


MONEY = {"type": "record", "name": "Money", "fields": [{"name": "cents", "type": "long"}]}
ORDER = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "price", "type": "Money"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}
LATER = {**ORDER, "fields": [*ORDER["fields"], {"name": "note", "type": ["null", "string"], "default": None}]}


def test_avro_with_schemas_that_change_and_refer_to_others(brokers, topic):
    with schema_registry() as schemas:
        schemas["add"]("money", MONEY)
        refers = [{"name": "Money", "subject": "money", "version": 1}]
        numbers = [schemas["add"]("order", ORDER, refers), schemas["add"]("order", LATER, refers)]
        moment = datetime(2024, 1, 1, tzinfo=UTC)

        def encoded(number, schema, value):
            named = {}
            fastavro.parse_schema(MONEY, named_schemas=named)
            out = io.BytesIO()
            fastavro.schemaless_writer(out, fastavro.parse_schema(schema, named_schemas=named), value)
            return b"\0" + number.to_bytes(4, "big") + out.getvalue()

        first = encoded(numbers[0], ORDER, {"id": 1, "price": {"cents": 5}, "at": moment})
        second = encoded(numbers[1], LATER, {"id": 2, "price": {"cents": 6}, "at": moment, "note": "x"})
        unknown = b"\0" + (99).to_bytes(4, "big") + b"x"
        produce(brokers, topic, [first, second, b"no mark", first[:-1], first + b"x", unknown], over=1)
        (chunk,) = read_kafka(
            source(brokers, topic, value="avro", registry={"url": schemas["url"]}), Window()
        )
    assert chunk.frame.rows() == [
        (1, 5, "2024-01-01T00:00:00+00:00", None),
        (2, 6, "2024-01-01T00:00:00+00:00", "x"),
    ]
    assert chunk.frame.columns == ["id", "price__cents", "at", "note"]
    reasons = chunk.broken["reason"].to_list()
    assert len(reasons) == 4
    assert "no mark of a schema registry" in reasons[0]
    assert "1 bytes more" in reasons[2]
    assert "no schema 99" in reasons[3]


def test_protobuf_with_the_registrys_mark_and_without(brokers, topic, tmp_path):
    file = descriptor_pb2.FileDescriptorProto(name="order.proto", package="shop", syntax="proto3")
    order = file.message_type.add(name="Order")
    order.field.add(name="id", number=1, type=3, label=1)
    order.field.add(name="note", number=2, type=9, label=1)
    path = tmp_path / "order.bin"
    path.write_bytes(descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString())
    plain = b"\x08\x07\x12\x02hi"
    produce(
        brokers, topic, [plain, b"\0\0\0\0\x01\0" + plain, b"\0\0\0\0\x01\x02\x00" + plain, b"\x08"], over=1
    )
    given = source(brokers, topic, value="protobuf", descriptors=str(path), message="shop.Order")
    (chunk,) = read_kafka(given, Window())
    # protobuf's own JSON writes 64-bit integers as text.
    assert chunk.frame.rows() == [("7", "hi")] * 3
    assert chunk.broken["position"].to_list() == [3]


def test_what_is_wrong_is_said(brokers, topic, tmp_path):
    with pytest.raises(PenstockError, match=f"no such topic[\\s\\S]*did you mean '{topic}'"):
        list(read_kafka(source(brokers, topic.replace("orders", "order")), Window()))
    with pytest.raises(PenstockError, match="cannot be reached"):
        list(read_kafka(source(f"127.0.0.1:{free_port()}", topic, connect="1s"), Window()))
    bad = source(brokers, topic, value="protobuf", descriptors=str(tmp_path / "none"), message="x")
    with pytest.raises(PenstockError, match=r"source\.descriptors"):
        list(read_kafka(bad, Window()))
    produce(brokers, topic, [b"\0\0\0\0\x01x"], over=1)
    down = source(brokers, topic, value="avro", registry={"url": f"http://127.0.0.1:{free_port()}"})
    with pytest.raises(PenstockError, match=r"source\.registry"):
        list(read_kafka(down, Window()))
