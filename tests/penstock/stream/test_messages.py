"""Messages: what one of the two that check them takes, the other takes too, and every refusal names its field."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from penstock.stream.messages import FIELDS, MOST_ERRORS, MessageError, Push, checked, decoded, identity

NOW = 1_795_000_000_000_000_000
HOUR = 3600 * 10**9


def check(body: bytes, most: int = 100):
    return checked(body, most=most, now=NOW, past=HOUR, future=HOUR)


def reading(**changes) -> dict:
    return {
        "name": "gyroscope",
        "time": NOW,
        "values": {"x": 1.0, "y": 2, "z": -3.5},
        "accuracy": None,
    } | changes


def push(*readings: dict, **changes) -> bytes:
    whole = {"messageId": 0, "sessionId": "s", "deviceId": "d", "payload": list(readings)} | changes
    return json.dumps(whole).encode()


def refused(body: bytes, **keys) -> dict[str, str]:
    with pytest.raises(MessageError) as told:
        check(body, **keys)
    assert 0 < len(told.value.errors) <= MOST_ERRORS
    return dict(told.value.errors)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.floats(),
    st.text(max_size=8),
    st.just([1]),
    st.just({}),
)
names = st.one_of(st.sampled_from(sorted(FIELDS)), st.text(max_size=5), scalars)
keys = st.one_of(st.sampled_from(["x", "y", "z", "qx", "pressure", "steps", "dBFS", ""]), st.text(max_size=4))
readings = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "name": names,
            "time": st.one_of(st.just(NOW), scalars),
            "values": st.one_of(st.dictionaries(keys, scalars, max_size=4), scalars),
            "accuracy": scalars,
            "seconds_elapsed": scalars,
        },
    ),
    st.builds(reading, values=st.dictionaries(keys, scalars, max_size=4).map(lambda d: {"x": 1, "y": 2, "z": 3} | d)),
    st.builds(reading, name=st.sampled_from(["battery", "annotation"]), values=st.dictionaries(keys, scalars, max_size=3)),
    scalars,
)  # fmt: skip
pushes = st.fixed_dictionaries(
    {},
    optional={
        "messageId": st.one_of(st.just(3), scalars),
        "sessionId": st.one_of(st.just("s"), scalars),
        "deviceId": st.one_of(st.just("d"), scalars),
        "payload": st.one_of(st.lists(readings, max_size=4), scalars),
    },
)


def both(body: bytes) -> None:
    try:
        message = check(body)
    except MessageError as error:
        told = error.errors
    else:
        told = []
    if told:
        return
    # What is taken fits what OpenAPI says, and is read by whoever takes it from the log.
    Push.model_validate_json(body)
    assert decoded(body) == message


@settings(max_examples=600)
@example({"messageId": 1.0, "sessionId": "s", "deviceId": "d", "payload": []})
@example({"messageId": True, "sessionId": "s", "deviceId": "d", "payload": []})
@example({"messageId": 1, "sessionId": "\ud800", "deviceId": "d", "payload": []})
@example({"messageId": 1, "sessionId": "s", "deviceId": "d", "payload": [reading(accuracy=True)]})
@example(
    {
        "messageId": 1,
        "sessionId": "s",
        "deviceId": "d",
        "payload": [reading(values={"x": True, "y": 1, "z": 1})],
    }
)
@given(st.one_of(pushes, scalars))
def test_what_is_taken_fits_the_schema(content):
    both(json.dumps(content).encode())


@settings(max_examples=300)
@example(b'{"messageId":1,"messageId":2,"sessionId":"s","deviceId":"d","payload":[]}')
@example(b"\xff" + push())
@example(b"[" * 100_000)
@example(b'{"a":' * 50_000)
@example(push(reading(time=NOW)).replace(b"1.0", b"1e999"))
@example(push(reading(time=NOW)).replace(b"1.0", b"NaN"))
@given(st.one_of(st.binary(max_size=60), st.tuples(st.integers(0, 200), st.binary(max_size=4)).map(
    lambda cut: push(reading())[: cut[0]] + cut[1] + push(reading())[cut[0] + len(cut[1]) :]
)))  # fmt: skip
def test_no_bytes_are_more_than_refused(body):
    both(body)


@settings(max_examples=200)
@given(st.lists(st.builds(
    reading,
    name=st.sampled_from([name for name, fields in FIELDS.items() if fields == ("x", "y", "z")]),
    values=st.fixed_dictionaries({axis: st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63) + 1, 2**63 - 1)) for axis in "xyz"}),
    time=st.integers(NOW - HOUR, NOW + HOUR),
    accuracy=st.one_of(st.none(), st.integers(0, 3), st.floats(0, 50)),
), max_size=5), st.text(min_size=1, max_size=20).filter(str.isprintable))  # fmt: skip
def test_what_a_phone_sends_is_taken(payload, device):
    message = check(push(*payload, deviceId=device))
    assert message.device == device
    assert [r.values for r in message.readings] == [r["values"] for r in payload]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (push(reading(values={"x": 1, "y": 2})), "payload[0].values.z"),
        (push(reading(), reading(values={"x": "1", "y": 2, "z": 3})), "payload[1].values.x"),
        (push(reading(time=2**63)), "payload[0].time"),
        (push(reading(time=-1)), "payload[0].time"),
        (push(reading(time="2024-01-01")), "payload[0].time"),
        (push(reading(name="")), "payload[0].name"),
        (push(reading(name="battery", values={"level": [1]})), "payload[0].values.level"),
        (push(reading(name="battery", values={"level": 2**63})), "payload[0].values.level"),
        (push(reading(name="note", values={"text": "x" * 5000})), "payload[0].values.text"),
        (
            push(reading(values={f"v{i}": 1 for i in range(80)} | {"x": 1, "y": 2, "z": 3})),
            "payload[0].values",
        ),
        (push(messageId=-1), "messageId"),
        (push(sessionId=""), "sessionId"),
        (push(deviceId="a\nb"), "deviceId"),
        (push(deviceId="d" * 201), "deviceId"),
        (push(payload=None), "payload"),
        (push(reading(time=NOW - 3 * 24 * HOUR)), "payload[0].time"),
        (push(reading(), reading(time=NOW + 2 * HOUR)), "payload[1].time"),
        (push(*[reading()] * 101), "payload"),
    ],
)
def test_a_refusal_names_the_field(body, field):
    assert field in refused(body)


def test_a_value_of_no_type_is_told_of_once():
    assert refused(push(reading(name="battery", values={"level": {}}))) == {
        "payload[0].values.level": "expected a number, text, truth or null"
    }


def test_an_identity_is_the_messages_alone():
    assert identity("d", "s", 1) == identity("d", "s", 1)
    others = {
        identity(*of) for of in [("d", "s", 1), ("d", "s", 2), ("d", "s1", 1), ("ds", "", 1), ("", "ds", 1)]
    }
    assert len(others) == 5
    assert len(identity("d", "s", 1)) == 22


def test_the_example_of_the_schema_is_one():
    (example_,) = Push.model_json_schema()["examples"]
    Push.model_validate(example_)
    with pytest.raises(ValidationError):
        Push.model_validate(example_ | {"messageId": "1"})
    assert msgspec.json.encode(decoded(json.dumps(example_).encode()))
