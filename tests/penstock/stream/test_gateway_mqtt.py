"""A real gateway that subscribes at a real MQTT broker."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, Self

import aiomqtt
import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from penstock.config.streaming import EmbeddedLog, Mqtt, Stream
from penstock.stream.gateway import Door, Metrics
from penstock.stream.gateway_mqtt import WAITING, _device, _session, _Waiting
from penstock.stream.log import Record, open_log
from tests.penstock.stream.gateways import ROOT, Gateway, body, gateway
from tests.servers.mosquitto import mosquitto
from tests.servers.programs import free_port, until


@pytest.fixture(scope="module")
def broker():
    with mosquitto() as found:
        yield found


@pytest.fixture
def session(request) -> str:
    """Of the gateway: a broker keeps what one that is gone has not acknowledged."""
    return re.sub(r"\W", "-", request.node.name)


@pytest.fixture
def topic(session) -> str:
    return f"{session}/+/readings"


def of(broker, session: str, topic: str) -> list[str]:
    return [f"gateway.mqtt={{host: 127.0.0.1, port: {broker.port}, session: {session}, topic: '{topic}'}}"]


def publish(broker, topic: str, device: str, *bodies: bytes, qos: int = 1) -> None:
    async def published() -> None:
        async with aiomqtt.Client("127.0.0.1", broker.port) as client:
            for payload in bodies:
                await client.publish(topic.replace("+", device), payload, qos=qos)

    asyncio.run(published())


def in_log(running: Gateway, count: int) -> list[Record]:
    """What is in its log, as soon as there is as much."""
    log_view = EmbeddedLog(kind="jetstream", folder=f"{running.folder}/log")
    found: list[Record] = []

    async def read() -> None:
        async with open_log(log_view) as log:
            found[:] = await log.tail("readings", 10_000)

    def there() -> bool:
        asyncio.run(read())
        return len(found) >= count

    until(there, f"{count} records in the log", running.process)
    return found


def connected(running: Gateway) -> bool:
    return running.metric("penstock_gateway_mqtt_connected") == 1


def numbers(records: list[Record]) -> list[int]:
    return sorted(json.loads(record.value)["messageId"] for record in records)


def test_what_is_published_is_in_the_log_as_over_http_and_a_bad_message_stops_nothing(
    broker, session, topic, tmp_path
):
    import httpx

    with gateway(tmp_path, *of(broker, session, topic)) as running:
        until(lambda: connected(running), "the subscription", running.process)
        plain, packed, late = body(number=1), body(number=2), body(number=3)
        bomb = gzip.compress(b" " * (64 << 20))
        bad = [
            b"",
            b"no json",
            b"\x1f\x8bno gzip",
            bomb,
            body(number=4, device="other"),
            gzip.compress(b"{}"),
        ]
        publish(broker, topic, "phone", plain, *bad, gzip.compress(packed), late)
        posted = body(number=5)
        assert httpx.post(f"{running.url}/v1/readings", content=posted).status_code == 200
        records = in_log(running, 4)
        assert {record.value for record in records} == {plain, packed, late, posted}
        assert {record.key for record in records} == {b"phone"}
        told = {json.loads(record.value)["messageId"]: record.headers for record in records}
        assert {number: headers["transport"] for number, headers in told.items()} == {
            1: b"mqtt",
            2: b"mqtt",
            3: b"mqtt",
            5: b"http",
        }
        assert told[1].keys() == told[5].keys()

        def refused() -> dict[str, float]:
            return {
                reason: running.metric("penstock_gateway_refusals_total", reason=reason)
                for reason in ("content", "encoding", "size", "device")
            }

        assert refused() == {"content": 3, "encoding": 1, "size": 1, "device": 1}
        assert running.metric("penstock_gateway_messages_total", transport="mqtt", outcome="refused") == 6
        assert running.metric("penstock_gateway_messages_total", transport="mqtt", outcome="taken") == 3
        assert running.metric("penstock_gateway_readings_total", transport="mqtt") == 6
    # All nine were acknowledged, none comes again: not the bad ones, for they can never be taken.
    with gateway(tmp_path, *of(broker, session, topic)) as running:
        until(lambda: connected(running), "the subscription", running.process)
        publish(broker, topic, "phone", body(number=6))
        assert numbers(in_log(running, 5)) == [1, 2, 3, 5, 6]
        assert running.metric("penstock_gateway_messages_total", transport="mqtt") == 1


def test_a_broker_that_goes_and_comes_back_is_subscribed_to_again(session, topic, tmp_path):
    with mosquitto() as broker, gateway(tmp_path, *of(broker, session, topic)) as running:
        until(lambda: connected(running), "the subscription", running.process)
        publish(broker, topic, "phone", body(number=1))
        in_log(running, 1)
        for number in (2, 3):
            broker.stop()
            until(lambda: not connected(running), "the loss of the broker", running.process)
            assert running.ready()  # over HTTP it goes on
            broker.start()
            # Whether or not it is back: the broker keeps it for the session.
            publish(broker, topic, "phone", body(number=number))
            assert numbers(in_log(running, number)) == list(range(1, number + 1))


def test_what_the_log_does_not_have_is_not_acknowledged_and_comes_again_after_a_kill(
    broker, session, topic, tmp_path
):
    def acknowledged() -> int:
        return broker.said().count(f"Received PUBACK from {session} ")

    running = Gateway(tmp_path, *of(broker, session, topic), "gateway.limits.append=1s")
    running.start()
    try:
        until(lambda: connected(running), "the subscription", running.process)
        publish(broker, topic, "phone", body(number=1))
        until(lambda: acknowledged() == 1, "an acknowledgement", running.process)
        log = json.loads((tmp_path / "log/server.json").read_text())["pid"]
        os.kill(log, signal.SIGSTOP)
        try:
            publish(broker, topic, "phone", *(body(number=n) for n in (2, 3, 4)))
            until(
                lambda: running.metric("penstock_gateway_refusals_total", reason="log") >= 3,
                "the log's silence",
                running.process,
            )
            # It was sent, tried, and tried again, and is the broker's still.
            assert broker.said().count(f"Sending PUBLISH to {session} ") == 4
            assert acknowledged() == 1
            assert running.metric("penstock_gateway_messages_total", transport="mqtt", outcome="taken") == 1
        finally:
            assert running.process is not None
            running.process.kill()
            running.process.wait()
            os.kill(log, signal.SIGCONT)
        running.start()
        # What was tried may be there already: it comes again all the same, and the indexer counts it once.
        until(lambda: acknowledged() == 4, "acknowledgements", running.process)
        assert set(numbers(in_log(running, 4))) == {1, 2, 3, 4}
    finally:
        running.stop()


def test_of_several_processes_one_subscribes(broker, session, topic, tmp_path):
    with gateway(tmp_path, *of(broker, session, topic), "gateway.workers=2") as running:
        until(lambda: connected(running), "the subscription", running.process)
        publish(broker, topic, "phone", *(body(number=n) for n in range(20)))
        assert numbers(in_log(running, 20)) == list(range(20))
        assert (
            broker.said().count(f" as {session} ") == 1
        )  # had two the same session, each would end the other's


def test_gateways_share_a_subscription(broker, session, tmp_path):
    topic = f"$share/penstock/{session}/+/readings"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with (
        gateway(tmp_path / "a", *of(broker, f"{session}-a", topic)) as one,
        gateway(tmp_path / "b", *of(broker, f"{session}-b", topic)) as other,
    ):
        for running in (one, other):
            until(lambda running=running: connected(running), "the subscription", running.process)
        publish(broker, f"{session}/+/readings", "phone", *(body(number=n) for n in range(20)))

        def taken() -> list[float]:
            return [
                running.metric("penstock_gateway_messages_total", transport="mqtt", outcome="taken")
                for running in (one, other)
            ]

        until(lambda: sum(taken()) == 20, "all messages", one.process)
        assert min(taken()) > 0


def test_certificates_that_are_not_there_end_it_with_a_word(tmp_path):
    command = [sys.executable, "-m", "penstock.cli", "stream", "gateway", "embedded"]
    options = [f"gateway.port={free_port()}", f"log.folder={tmp_path}/log", "gateway.mqtt={ca: nowhere.pem}"]
    ended = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert "gateway.mqtt.ca: nowhere.pem: No such file or directory" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("topic", ["devices/readings", "devices/#", "+/+/readings", "devices/+/#"])
def test_a_topic_tells_which_level_is_the_device(topic):
    with pytest.raises(ValidationError, match="expected exactly one level"):
        Mqtt(topic=topic)


@pytest.mark.parametrize(
    ("pattern", "topic"), [("devices/+/readings", "devices/d/readings"), ("$share/g/+/r", "d/r")]
)
def test_the_device_is_what_the_topic_says(pattern, topic):
    assert _device(pattern, topic) == "d"


def door() -> Door:
    view = Stream.model_validate({"log": {"kind": "jetstream"}, "store": {"kind": "duckdb"}})
    return Door(view, None, Metrics(CollectorRegistry()))  # type: ignore[arg-type]  # nothing is appended


def test_messages_of_qos_0_do_not_pile_up_and_those_of_qos_1_are_never_thrown_away():
    found = door()
    waiting = _Waiting()
    waiting.door = found
    for _ in range(WAITING + 5):
        waiting.put_nowait(SimpleNamespace(qos=0))
    for _ in range(5):
        waiting.put_nowait(SimpleNamespace(qos=1))
    assert waiting.qsize() == WAITING + 5
    told = found.metrics.registry.get_sample_value("penstock_gateway_refusals_total", {"reason": "pending"})
    assert told == 5


def test_a_broker_that_refuses_the_subscription_is_told_of_and_not_taken_for_connected():
    class Refusing:
        """A stand-in for the client at a broker whose rules forbid the topic."""

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

        async def subscribe(self, *_: Any, **__: Any) -> tuple[int, ...]:
            return (0x80,)

    found = door()
    with pytest.raises(ExceptionGroup) as several:
        asyncio.run(_session(Refusing(), Mqtt(), found))
    assert several.group_contains(
        aiomqtt.MqttError, match="does not let penstock-gateway subscribe to devices"
    )
    assert found.metrics.registry.get_sample_value("penstock_gateway_mqtt_connected") == 0
