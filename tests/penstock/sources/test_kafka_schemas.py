"""Avro and protobuf by a registry and by files: real serialisers on one side, columns on the other."""

from __future__ import annotations

import base64
import io
import json
import uuid
from datetime import UTC, date, datetime, time
from decimal import Decimal

import fastavro
import polars as pl
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2, wrappers_pb2
from hypothesis import given
from hypothesis import strategies as st

from penstock.config.loading import KafkaSource
from penstock.config.loading.kafka import Registry
from penstock.errors import PenstockError
from penstock.sources.chunks import Window
from penstock.sources.kafka import read_kafka
from penstock.sources.kafka_avro import avro_by_file, avro_by_registry
from penstock.sources.kafka_payloads import json_objects, json_values
from penstock.sources.kafka_protobuf import protobuf_by_file, protobuf_by_registry
from penstock.sources.kafka_registry import Schemas
from tests.servers.kafka import kafka
from tests.servers.programs import free_port
from tests.servers.schema_registry import PASSWORD, USER, schema_registry

CONTEXT = SerializationContext("orders", MessageField.VALUE)
MOMENT = datetime(2024, 2, 29, 12, 30, 15, 123000, tzinfo=UTC)


@pytest.fixture
def registry():
    with schema_registry() as server:
        yield server


@pytest.fixture
def client(registry):
    with SchemaRegistryClient({"url": registry.url}) as found:
        yield found


@pytest.fixture
def avro(registry):
    schemas = Schemas(Registry(url=registry.url), 5, serialized=False)
    yield avro_by_registry(schemas)
    schemas.close()


@pytest.fixture
def protobuf(registry):
    schemas = Schemas(Registry(url=registry.url), 5, serialized=True)
    yield protobuf_by_registry(schemas)
    schemas.close()


# --- Avro -------------------------------------------------------------------------------------------


def record(name, /, **fields):
    return {
        "type": "record",
        "name": name,
        "fields": [{"name": key, "type": kind} for key, kind in fields.items()],
    }


def logical(kind, name, **others):
    return {"type": kind, "logicalType": name, **others}


def written(schema, value):
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return out.getvalue()


def marked(number, body):
    return b"\0" + number.to_bytes(4, "big") + body


@pytest.fixture
def plain(tmp_path):
    """Values of a schema, written and read again."""

    def read(schema, *values):
        path = tmp_path / "schema.avsc"
        path.write_text(json.dumps(schema))
        found = avro_by_file(str(path), "value_schema")([written(schema, value) for value in values])
        assert found.problems == {}
        return found.frame

    return read


WIDE = record(
    "Wide",
    flag="boolean",
    small="int",
    large="long",
    single="float",
    double="double",
    word="string",
    raw="bytes",
    code={"type": "fixed", "name": "Code", "size": 2},
    colour={"type": "enum", "name": "Colour", "symbols": ["red", "blue"]},
    day=logical("int", "date"),
    millis=logical("long", "timestamp-millis"),
    micros=logical("long", "timestamp-micros"),
    local=logical("long", "local-timestamp-micros"),
    at=logical("int", "time-millis"),
    price=logical("bytes", "decimal", precision=12, scale=2),
    huge=logical("bytes", "decimal", precision=60, scale=2),
    one=logical("string", "uuid"),
    maybe=["null", "long"],
    several=["null", "long", "string"],
    list={"type": "array", "items": "int"},
    map={"type": "map", "values": "int"},
    inner=["null", record("Inner", a="int", deep=record("Deep", b=["null", "string"]))],
)
ROW = {
    "flag": True,
    "small": -1,
    "large": 2**62 + 1,
    "single": 0.5,
    "double": 0.1,
    "word": "häus",
    "raw": b"\xff\x00",
    "code": b"ab",
    "colour": "blue",
    "day": date(1969, 12, 31),
    "millis": MOMENT,
    "micros": MOMENT.replace(microsecond=123456),
    "local": datetime(2024, 1, 1, 12),
    "at": time(23, 59, 59, 1000),
    "price": Decimal("-12345678.90"),
    "huge": Decimal("1234567890123456789012345678901234567890.12"),
    "one": uuid.UUID(int=5),
    "maybe": None,
    "several": "x",
    "list": [1, 2],
    "map": {"k": 1},
    "inner": {"a": 1, "deep": {"b": "c"}},
}


def test_every_type_of_avro_is_a_column(plain):
    frame = plain(WIDE, ROW, {**ROW, "several": 7, "inner": None, "maybe": 3, "list": []})
    first, second = frame.rows(named=True)
    expected = {
        **ROW,
        "raw": base64.b64encode(b"\xff\x00").decode(),
        "code": base64.b64encode(b"ab").decode(),
        "at": "23:59:59.001000",
        "huge": "1234567890123456789012345678901234567890.12",
        "one": "00000000-0000-0000-0000-000000000005",
        "list": "[1,2]",
        "map": '{"k":1}',
        "inner__a": 1,
        "inner__deep__b": "c",
    }
    del expected["inner"]
    assert first == expected
    assert [second[name] for name in ("several", "inner__a", "inner__deep__b", "maybe", "list")] == [
        "7",
        None,
        None,
        3,
        "[]",
    ]
    kinds = {name: str(kind) for name, kind in frame.schema.items()}
    assert kinds["millis"] == kinds["micros"] == "Datetime(time_unit='us', time_zone='UTC')"
    assert kinds["local"] == "Datetime(time_unit='us', time_zone=None)"
    assert kinds["price"] == "Decimal(precision=38, scale=2)"
    assert kinds["day"] == "Date"


def test_a_column_without_values_has_the_type_of_its_schema(plain):
    schema = record("R", a=["null", "double"], b=["null", logical("int", "date")], c=["null", "string"])
    frame = plain(schema, {"a": None, "b": None, "c": None})
    assert list(frame.schema.values()) == [pl.Float64, pl.Date, pl.String]


def test_a_record_that_contains_itself_is_text_from_there_on(plain):
    schema = record("Tree", name="string", below=["null", "Tree"])
    frame = plain(schema, {"name": "a", "below": {"name": "b", "below": None}}, {"name": "c", "below": None})
    assert frame.rows() == [("a", '{"name":"b","below":null}'), ("c", None)]


def test_values_that_are_no_records_are_one_column(plain):
    assert plain("long", 5, 6).to_dict(as_series=False) == {"value": [5, 6]}
    assert plain(["null", "string"], None, "x").to_dict(as_series=False) == {"value": [None, "x"]}


def test_schemas_change_and_refer_to_others(registry, avro):
    registry.add("money", json.dumps(record("Money", cents="long")))
    refers = [{"name": "Money", "subject": "money", "version": 1}]
    first = registry.add("order", json.dumps(record("Order", id="int", price="Money")), references=refers)
    second = registry.add(
        "order", json.dumps(record("Order", id="long", price="Money", note=["null", "string"])), references=refers
    )  # fmt: skip
    third = registry.add(
        "order", json.dumps(record("Order", id="string", at=logical("long", "timestamp-millis")))
    )
    one = marked(first, written(record("X", id="int", c="long"), {"id": 1, "c": 5}))
    two = marked(
        second, written(record("X", id="long", c="long", n=["null", "string"]), {"id": 2, "c": 6, "n": "x"})
    )
    three = marked(third, written(record("X", id="string", at="long"), {"id": "c", "at": 0}))
    found = avro([two, one, two])
    assert found.problems == {}
    assert found.frame.to_dict(as_series=False) == {
        "id": [2, 1, 2],
        "price__cents": [6, 5, 6],
        "note": ["x", None, "x"],
    }
    assert found.frame.schema["id"] == pl.Int64
    mixed = avro([three, one]).frame
    assert mixed.schema["id"] == pl.String
    assert mixed["id"].to_list() == ["c", "1"]
    assert mixed["at"].to_list() == [datetime(1970, 1, 1, tzinfo=UTC), None]
    # Each schema, and each that it refers to, was asked for once.
    assert len(registry.asked) == 3 + 1


def test_what_a_real_serialiser_writes_is_read(registry, client, avro):
    serialise = AvroSerializer(client, json.dumps(WIDE))
    found = avro([serialise({**ROW, "several": None}, CONTEXT)])
    assert found.problems == {}
    assert found.frame["price"].to_list() == [ROW["price"]]
    assert found.frame["inner__deep__b"].to_list() == ["c"]


def test_payloads_that_are_not_of_their_schema_are_told(registry, avro):
    number = registry.add("x", json.dumps(record("X", id="long", word="string")))
    other = registry.add("y", "{}", "JSON")
    wrong = registry.add("z", '{"type": "nonsense"}')
    circle = [{"name": "C", "subject": "circle", "version": 1}]
    registry.add("circle", '"C"', references=circle)
    round_ = registry.add("round", '"C"', references=circle)
    twice = registry.add("twice", json.dumps(record("T", a=record("A", b="int"), a__b="int")))
    good = marked(number, written(record("X", id="long", word="string"), {"id": 1, "word": "abc"}))
    bad = [
        b"",
        b'{"id": 1}',
        b"\0\0",
        good[:-1],
        good + b"xy",
        good[:-1] + b"\xff",
        marked(99, b"\x02"),
        marked(other, b"{}"),
        marked(wrong, b"\x02"),
        marked(round_, b"\x02"),
        marked(twice, b"\x02\x02"),
    ]
    found = avro([*bad, good])
    assert found.frame.rows() == [(1, "abc")]
    said = [found.problems[number] for number in range(len(bad))]
    for expected, problem in zip(
        [
            "expected a mark of the registry, found nothing",
            "expected a mark of the registry, found 7b 22 69 64 22",
            "expected a mark of the registry, found 00 00",
            "expected Avro, ",
            "expected Avro, found 2 bytes more than it has",
            "expected Avro, 'utf-8' codec can't decode",
            "the registry has no schema 99",
            "expected Avro, found a schema of JSON",
            "its schema is not Avro's",
            "its schema refers to itself",
            "its schema has two fields for the column 'a__b'",
        ],
        said,
        strict=True,
    ):
        assert problem.startswith(expected)
    asked = len(registry.asked)
    assert avro([marked(99, b"\x02")] * 3).problems[2] == said[6]
    assert len(registry.asked) == asked  # that there is none is remembered


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_no_bytes_stop_a_reading(wide_file, orders_file, payloads):
    for decode in (
        json_objects,
        json_values,
        avro_by_file(wide_file, "value_schema"),
        protobuf_by_file(orders_file, "shop.Order", "value_schema"),
    ):
        found = decode(payloads)
        assert found.frame.height + len(found.problems) == len(payloads)


@pytest.fixture(scope="module")
def wide_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("avro") / "wide.avsc"
    path.write_text(json.dumps(WIDE))
    return str(path)


# --- protobuf ---------------------------------------------------------------------------------------

F = descriptor_pb2.FieldDescriptorProto
ONE, MANY = F.LABEL_OPTIONAL, F.LABEL_REPEATED


def money_file():
    file = descriptor_pb2.FileDescriptorProto(name="shop/money.proto", package="shop", syntax="proto3")
    money = file.message_type.add(name="Money")
    money.field.add(name="cents", number=1, type=F.TYPE_INT64, label=ONE)
    return file


def order_file():
    file = descriptor_pb2.FileDescriptorProto(name="shop/order.proto", package="shop", syntax="proto3")
    file.dependency.extend(
        ["shop/money.proto", "google/protobuf/timestamp.proto", "google/protobuf/wrappers.proto"]
    )
    colour = file.enum_type.add(name="Colour")
    colour.value.add(name="RED", number=0)
    colour.value.add(name="BLUE", number=1)
    first = file.message_type.add(name="Other")
    first.field.add(name="word", number=1, type=F.TYPE_STRING, label=ONE)
    inner = first.nested_type.add(name="Inner")
    inner.field.add(name="deep", number=1, type=F.TYPE_INT32, label=ONE)
    order = file.message_type.add(name="Order")
    order.oneof_decl.add(name="_note")
    entry = order.nested_type.add(name="CountsEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=F.TYPE_STRING, label=ONE)
    entry.field.add(name="value", number=2, type=F.TYPE_INT64, label=ONE)
    message = F.TYPE_MESSAGE
    for number, (name, kind, label, of) in enumerate(
        [
            ("id", F.TYPE_INT64, ONE, None),
            ("large", F.TYPE_UINT64, ONE, None),
            ("share", F.TYPE_DOUBLE, ONE, None),
            ("raw", F.TYPE_BYTES, ONE, None),
            ("colour", F.TYPE_ENUM, ONE, ".shop.Colour"),
            ("price", message, ONE, ".shop.Money"),
            ("at", message, ONE, ".google.protobuf.Timestamp"),
            ("limit", message, ONE, ".google.protobuf.Int64Value"),
            ("tags", F.TYPE_STRING, MANY, None),
            ("parts", message, MANY, ".shop.Money"),
            ("counts", message, MANY, ".shop.Order.CountsEntry"),
            ("part_of", message, ONE, ".shop.Order"),
        ],
        1,
    ):
        order.field.add(name=name, number=number, type=kind, label=label, type_name=of)
    order.field.add(
        name="note", number=20, type=F.TYPE_STRING, label=ONE, oneof_index=0, proto3_optional=True
    )
    return file


@pytest.fixture(scope="module")
def pool():
    found = descriptor_pool.DescriptorPool()
    for module in (timestamp_pb2, wrappers_pb2):
        found.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    found.Add(money_file())
    found.Add(order_file())
    return found


@pytest.fixture(scope="module")
def kinds(pool):
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"shop.{name}"))
        for name in ("Order", "Other", "Other.Inner", "Money")
    }


@pytest.fixture(scope="module")
def orders_file(tmp_path_factory):
    files = [descriptor_pb2.FileDescriptorProto() for _ in range(2)]
    for file, module in zip(files, (timestamp_pb2, wrappers_pb2), strict=True):
        module.DESCRIPTOR.CopyToProto(file)
    path = tmp_path_factory.mktemp("protobuf") / "orders.bin"
    path.write_bytes(
        descriptor_pb2.FileDescriptorSet(file=[*files, money_file(), order_file()]).SerializeToString()
    )
    return str(path)


@pytest.fixture
def full(kinds):
    order = kinds["Order"](id=2**62 + 1, large=2**63, share=0.5, raw=b"\xff", colour=1, note="")
    order.price.cents = 5
    order.at.FromDatetime(MOMENT)
    order.limit.value = 0
    order.tags.extend(["a", "ü"])
    order.parts.add(cents=7)
    order.counts["k"] = 3
    order.part_of.id = 9
    return order


def expected_of_full():
    return {
        "id": 2**62 + 1,
        "large": str(2**63),
        "share": 0.5,
        "raw": "/w==",
        "colour": "BLUE",
        "price__cents": 5,
        "at": MOMENT,
        "limit": 0,
        "tags": '["a","ü"]',
        "parts": '[{"cents":"7"}]',
        "counts": '{"k":3}',
        "part_of": '{"id":"9"}',
        "note": "",
    }


def test_what_a_real_serialiser_of_protobuf_writes_is_read(registry, client, protobuf, kinds, full):
    serialise = ProtobufSerializer(kinds["Order"], client)
    found = protobuf([serialise(full, CONTEXT), serialise(kinds["Order"](colour=7), CONTEXT)])
    assert found.problems == {}
    first, second = found.frame.rows(named=True)
    assert first == expected_of_full()
    # What says whether it is set is missing; the others have their defaults.
    assert second == dict.fromkeys(first) | {
        "id": 0,
        "large": "0",
        "share": 0.0,
        "raw": "",
        "colour": "7",
    }
    assert str(found.frame.schema["at"]) == "Datetime(time_unit='us', time_zone='UTC')"


def test_any_message_of_a_schema_is_found(registry, client, protobuf, kinds):
    for name, value, expected in (
        ("Other", kinds["Other"](word="x"), {"word": ["x"]}),
        ("Other.Inner", kinds["Other.Inner"](deep=3), {"deep": [3]}),
    ):
        serialise = ProtobufSerializer(kinds[name], client)
        assert protobuf([serialise(value, CONTEXT)]).frame.to_dict(as_series=False) == expected


def test_payloads_that_are_not_of_their_message_are_told(registry, client, protobuf, kinds, full):
    good = ProtobufSerializer(kinds["Order"], client)(full, CONTEXT)
    body = full.SerializeToString()
    number = int.from_bytes(good[1:5], "big")
    avro = registry.add("avro", '"long"')
    bad = {
        b"\x08\x07": "expected a mark of the registry",
        marked(number, b""): "expected which message it is, found the end",
        marked(number, b"\x80" * 12): "expected which message it is, found the end",
        marked(number, b"\x02\x62" + body): "expected a message of its schema, found the number [49]",
        marked(number, b"\x03" + body): "expected which message it is, found -2 numbers",
        good[:-1]: f"expected protobuf, found {len(body) - 1} bytes that are no shop.Order",
        marked(avro, b"\0"): "expected protobuf, found a schema of AVRO",
        marked(99, b"\0"): "the registry has no schema 99",
    }
    found = protobuf([*bad, good])
    assert found.frame.height == 1
    assert list(found.problems) == list(range(len(bad)))
    for number, expected in enumerate(bad.values()):
        assert found.problems[number].startswith(expected)


def test_a_registry_that_gives_text_is_told(registry, client, protobuf, kinds, full):
    payload = ProtobufSerializer(kinds["Order"], client)(full, CONTEXT)
    registry.as_text = True
    with pytest.raises(PenstockError, match="protobuf schemas as text") as error:
        protobuf([payload])
    assert "source.value_schema" in str(error.value)


def test_a_file_of_descriptors_will_do(orders_file, registry, client, kinds, full):
    decode = protobuf_by_file(orders_file, "shop.Order", "value_schema")
    marked_one = ProtobufSerializer(kinds["Order"], client)(full, CONTEXT)
    found = decode([full.SerializeToString(), marked_one, b""])
    assert found.problems == {}
    assert found.frame.rows(named=True)[:2] == [expected_of_full()] * 2
    assert found.frame["id"][2] == 0


# --- files and settings -----------------------------------------------------------------------------


def test_files_that_are_none_are_told(tmp_path, orders_file):
    with pytest.raises(PenstockError, match=r"source\.key_schema: .*none\.avsc: no Avro schema"):
        avro_by_file(str(tmp_path / "none.avsc"), "key_schema")
    with pytest.raises(PenstockError, match=r"source\.value_schema: .*none\.bin: no set of descriptors"):
        protobuf_by_file(str(tmp_path / "none.bin"), "x", "value_schema")
    with pytest.raises(PenstockError, match=r"no message 'shop\.Nothing'[\s\S]*shop\.Other, shop\.Order"):
        protobuf_by_file(orders_file, "shop.Nothing", "value_schema")
    path = tmp_path / "bad.avsc"
    path.write_text('{"type": "record"}')
    with pytest.raises(PenstockError, match="no Avro schema"):
        avro_by_file(str(path), "value_schema")


def test_a_registry_that_refuses_or_is_not_there_is_told(monkeypatch):
    monkeypatch.setenv("REGISTRY", PASSWORD)
    with schema_registry(guarded=True) as server:
        number = server.add("x", '"long"')
        payload = [marked(number, b"\x02")]
        user = {"user": USER, "password": "${secret:REGISTRY}"}
        schemas = Schemas(Registry(url=server.url, **user), 5, serialized=False)
        assert avro_by_registry(schemas)(payload).frame["value"].to_list() == [1]
        schemas.close()
        monkeypatch.setenv("REGISTRY", "wrong password")
        schemas = Schemas(Registry(url=server.url, **user), 5, serialized=False)
        with pytest.raises(PenstockError, match=r"source\.registry: http.*Unauthorized") as error:
            avro_by_registry(schemas)(payload)
        assert "wrong password" not in str(error.value)
        schemas.close()
        schemas = Schemas(Registry(url=f"{server.url}/elsewhere", **user), 5, serialized=False)
        with pytest.raises(PenstockError, match=r"source\.registry: http.*elsewhere"):
            avro_by_registry(schemas)(payload)
        schemas.close()
    schemas = Schemas(Registry(url=f"http://127.0.0.1:{free_port()}"), 5, serialized=False)
    with pytest.raises(PenstockError, match=r"source\.registry: http.*Connection refused"):
        avro_by_registry(schemas)(payload)
    schemas.close()
    with pytest.raises(PenstockError, match=r"source\.registry"):
        Schemas(Registry(url="localhost:8081"), 5, serialized=False)


def test_json_of_a_registry_is_json(client):
    schema = {"title": "Order", "type": "object", "properties": {"id": {"type": "integer"}}}
    serialise = JSONSerializer(json.dumps(schema), client)
    found = json_objects(
        [serialise({"id": 1}, CONTEXT), b'{"id": 12345678901234567890}', b"\0\0\0\0\x01nonsense"]
    )
    assert found.frame["id"].to_list() == ["1", "12345678901234567890"]
    assert list(found.problems) == [2]


# --- through a broker -------------------------------------------------------------------------------


def test_messages_of_a_topic_name_their_schemas_for_keys_and_values(registry, client, kinds, full):
    with kafka() as brokers:
        admin = AdminClient({"bootstrap.servers": brokers, "log_level": 0})
        for future in admin.create_topics([NewTopic("orders", 2, 1)]).values():
            future.result()
        key = AvroSerializer(client, json.dumps(record("Key", id="long")))
        value = ProtobufSerializer(kinds["Order"], client)
        key_context = SerializationContext("orders", MessageField.KEY)
        producer = Producer({"bootstrap.servers": brokers, "log_level": 0})
        for number in range(20):
            full.id = number
            content = b"\0pois\0n" if number == 13 else value(full, CONTEXT)
            producer.produce("orders", content, key=key({"id": number}, key_context), partition=number % 2)
        assert producer.flush(10) == 0
        source = KafkaSource.model_validate(
            {
                "kind": "kafka",
                "brokers": brokers,
                "topic": "orders",
                "value": "protobuf",
                "key": "avro",
                "registry": {"url": registry.url},
            }
        )
        chunks = list(read_kafka(source, Window(batch_rows=6)))
    assert sorted(i for chunk in chunks for i in chunk.frame["id"]) == [n for n in range(20) if n != 13]
    assert all(chunk.frame["id"].equals(chunk.frame["kafka_key__id"], check_names=False) for chunk in chunks)
    broken = pl.concat([chunk.broken for chunk in chunks])
    assert broken.select("source", "position").rows() == [("orders[1]", 6)]
    assert json.loads(broken["row"][0])["value_base64"] == base64.b64encode(b"\0pois\0n").decode()
    assert broken["reason"].item().startswith("value: the registry has no schema")
