"""MQTT: the gateway subscribes at a broker, and acknowledges a message there when the log has it.

aiomqtt, paho's client for asyncio. That a message is acknowledged by hand is paho's; aiomqtt hands its client out for that.
A message that is not acknowledged stays with the broker, which sends it again when the session comes back: over a crash of
either side nothing is lost that was published with QoS 1 or 2.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Any

from penstock.config.streaming import Mqtt
from penstock.console import say
from penstock.errors import PenstockError
from penstock.sources.secrets import hidden, revealed
from penstock.stream.gateway import Door, Refusal, unpacked

__all__ = ["subscribe"]

AGAIN = 1.0  # seconds until the next try to connect
AT_ONCE = 64  # messages that wait for the log together
# Messages of QoS 0 that may wait for a place: nobody holds them back. Those of QoS 1 the broker does, by its own window.
WAITING = 1000
GZIP = b"\x1f\x8b"  # no JSON begins so
REFUSED = 0x80  # in place of a granted QoS


async def subscribe(view: Mqtt, door: Door) -> None:
    """Take messages until it is cancelled; connect again whenever the connection is lost.

    Raises:
        PenstockError: What is declared cannot be used: no file of certificates, no secret.
    """
    import aiomqtt

    login = None if view.user is None else revealed(view.user)
    password = None if view.password is None else revealed(view.password)
    try:
        tls = None if view.ca is None else ssl.create_default_context(cafile=view.ca)
    except OSError as error:
        raise PenstockError(
            f"gateway.mqtt.ca: {view.ca}: {error.strerror or error}", hint="name a file of certificates, PEM"
        ) from error
    told = ""
    while True:
        client = aiomqtt.Client(
            view.host,
            view.port,
            username=login,
            password=password,
            # The broker keeps what comes while we are away.
            identifier=view.session,
            clean_session=False,
            queue_type=_Waiting,
            tls_context=tls,
        )
        client._client.manual_ack_set(True)
        client._queue.door = door  # type: ignore[attr-defined]
        try:
            await _session(client, view, door)
        # What ends a session within its group of tasks comes in a group.
        except* aiomqtt.MqttError as several:
            words = hidden(str(several.exceptions[0]))
            if words != told:
                say(f"gateway: MQTT: {view.host}:{view.port}: {words}; again every {AGAIN:.0f} s")
            told = words
        finally:
            door.metrics.mqtt.set(0)
        await asyncio.sleep(AGAIN)


class _Waiting(asyncio.Queue[Any]):
    """Messages that came and have no place yet."""

    door: Door

    def put_nowait(self, item: Any) -> None:
        if item.qos == 0 and self.qsize() >= WAITING:
            self.door.refused(Refusal(503, "pending", "too many messages of QoS 0 wait"), "mqtt")
            return
        super().put_nowait(item)


async def _session(client: Any, view: Mqtt, door: Door) -> None:
    import aiomqtt

    places = asyncio.Semaphore(AT_ONCE)
    async with client, asyncio.TaskGroup() as tasks:
        granted = [int(getattr(code, "value", code)) for code in await client.subscribe(view.topic, qos=1)]
        if granted[0] >= REFUSED:
            raise aiomqtt.MqttError(f"the broker does not let {view.session} subscribe to {view.topic}")
        door.metrics.mqtt.set(1)
        say(f"gateway: MQTT: {view.host}:{view.port}, {view.topic}")
        async for message in client.messages:
            await places.acquire()
            task = tasks.create_task(_taken(client._client, message, view, door))
            task.add_done_callback(lambda _: places.release())


async def _taken(client: Any, message: Any, view: Mqtt, door: Door) -> None:
    """Append one message, however often it takes: the broker would not send it again before we connect anew."""
    began = time.perf_counter()
    owner = _device(view.topic, str(message.topic))
    waits = False
    while True:
        try:
            await door.take(_body(message.payload, door), owner, "mqtt", began)
        except Refusal as refusal:
            later = refusal.status in {429, 503}
            if not (later and waits):
                door.refused(refusal, "mqtt")
            if later:
                waits = True  # refused once, however often it is tried
                await asyncio.sleep(refusal.after or AGAIN)
                continue
            # No answer reaches the device; what can never be taken is not to come again and again.
            say(f"gateway: MQTT: {message.topic}: refused: {refusal.detail}: {refusal.errors[:1]}")
        client.ack(message.mid, message.qos)
        return


def _body(payload: Any, door: Door) -> bytes:
    """A message as JSON: no header tells of its packing, its first bytes do."""
    body = payload if isinstance(payload, bytes) else b""
    if not body.startswith(GZIP):
        return body
    return unpacked(body, b"gzip", door.view.gateway.limits.body_bytes)


def _device(pattern: str, topic: str) -> str:
    """The level of the topic that stands for the device, which the broker lets nobody else publish to."""
    parts = pattern.split("/")
    if parts[0] == "$share":
        parts = parts[2:]
    return topic.split("/")[parts.index("+")]
