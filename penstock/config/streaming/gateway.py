"""Where devices push their readings."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from penstock.config.base import View
from penstock.config.loading.spans import duration

__all__ = ["Gateway", "Limits", "Mqtt"]

Duration = Annotated[timedelta, BeforeValidator(duration)]
Count = Annotated[int, Field(ge=1)]


class Limits(View):
    """What is refused, before it costs anything."""

    body_bytes: Count = 2_097_152  # of one message, after it is unpacked
    readings: Count = 20_000  # of one message
    device_bytes_per_second: Count = 1_048_576  # sixteen times what a phone sends
    device_burst_bytes: Count = 8_388_608
    past: Duration = timedelta(days=2)  # older readings are refused
    future: Duration = timedelta(minutes=5)  # clocks differ
    connections: Count = 4096
    body_seconds: Duration = timedelta(seconds=20)  # until a body has come whole
    idle_seconds: Duration = timedelta(seconds=65)  # between two messages of a connection
    pending_bytes: Count = 268_435_456  # sent to the log, not yet acknowledged by it; beyond, 503
    append: Duration = timedelta(seconds=10)  # until the log has acknowledged; beyond, 503


class Mqtt(View):
    """A broker that devices publish to; the gateway subscribes with QoS 1 and acknowledges what is durable."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    # The + is the device. Several gateways share a broker as $share/GROUP/devices/+/readings, each with a session of its own.
    topic: str = "devices/+/readings"
    user: str | None = None
    password: str | None = None  # ${secret:NAME}
    ca: str | None = None  # a file of certificates; with it, TLS
    session: Annotated[str, Field(min_length=1)] = "penstock-gateway"

    @model_validator(mode="after")
    def _tells_the_device(self) -> Mqtt:
        parts = self.topic.split("/")
        if parts.count("+") != 1 or "#" in self.topic:
            raise ValueError(f"topic: {self.topic!r}: expected exactly one level to be +, and none #")
        return self


class Gateway(View):
    """One gateway. Any number of them may stand behind a load balancer."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8400
    workers: Count = 1  # processes
    keys: str | None = None  # a file of devices' keys, hashed: `penstock stream keys`; None on 127.0.0.1 only
    certificate: str | None = None  # files of TLS
    private_key: str | None = None
    limits: Limits = Limits()
    mqtt: Mqtt | None = None
