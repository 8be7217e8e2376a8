"""MQTT: the gateway subscribes at a broker, and acknowledges a message there when the log has it.

aiomqtt, paho's client for asyncio. That a message is acknowledged by hand is paho's; aiomqtt hands its client out for that.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Any

from penstock.config.streaming import Mqtt
from penstock.console import say
from penstock.sources.secrets import hidden, revealed
from penstock.stream.gateway import Door, Refusal

__all__ = ["subscribe"]

AGAIN = 1.0  # seconds until the next try to connect
AT_ONCE = 64  # messages that wait for the log together


async def subscribe(view: Mqtt, door: Door) -> None:
    """Take messages until it is cancelled; connect again whenever the connection is lost."""
    import aiomqtt

    while True:
        try:
            await _session(view, door)
        except aiomqtt.MqttError as error:
            say(f"gateway: MQTT: {hidden(str(error))}; again in {AGAIN:.0f} s")
            await asyncio.sleep(AGAIN)


async def _session(view: Mqtt, door: Door) -> None:
    import aiomqtt

    client = aiomqtt.Client(
        view.host,
        view.port,
        username=None if view.user is None else revealed(view.user),
        password=None if view.password is None else revealed(view.password),
        # The broker keeps what comes while we are away.
        identifier=view.session,
        clean_session=False,
        tls_context=None if view.ca is None else ssl.create_default_context(cafile=view.ca),
    )
    client._client.manual_ack_set(True)
    places = asyncio.Semaphore(AT_ONCE)
    async with client, asyncio.TaskGroup() as tasks:
        await client.subscribe(view.topic, qos=1)
        async for message in client.messages:
            await places.acquire()
            task = tasks.create_task(_taken(client._client, message, view, door))
            task.add_done_callback(lambda _: places.release())


async def _taken(client: Any, message: Any, view: Mqtt, door: Door) -> None:
    """Append one message, however often it takes: the broker would not send it again before we connect anew."""
    began = time.perf_counter()
    body = message.payload if isinstance(message.payload, bytes) else b""
    owner = _device(view.topic, str(message.topic))
    while True:
        try:
            await door.take(body, owner, "mqtt", began)
        except Refusal as refusal:
            door.refused(refusal, "mqtt")
            if refusal.status in {429, 503}:
                await asyncio.sleep(refusal.after or AGAIN)
                continue
            # No answer reaches the device; what can never be taken is not to come again and again.
            say(f"gateway: MQTT: {message.topic}: refused: {refusal.detail}: {refusal.errors[:1]}")
        client.ack(message.mid, message.qos)
        return


def _device(pattern: str, topic: str) -> str | None:
    """The level of the topic that stands for the device, which the broker lets nobody else publish to."""
    parts = pattern.split("/")
    if "+" not in parts:
        return None
    return topic.split("/")[parts.index("+")]
