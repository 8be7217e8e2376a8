"""What a device sends: a message of readings, in the format of the phone application Sensor Logger."""

from __future__ import annotations

import base64
import hashlib

import msgspec

__all__ = ["Message", "Reading", "Value", "decoded", "identity"]

Value = bool | int | float | str | None


class Reading(msgspec.Struct, frozen=True, gc=False):
    """One measurement of one sensor.

    Attributes:
        name: Of the sensor.
        time: UTC, nanoseconds since 1970.
        values: In the sensor's units.
        accuracy: As the phone says it, if it does.
    """

    name: str
    time: int
    values: dict[str, Value]
    accuracy: float | None = None


class Message(
    msgspec.Struct,
    frozen=True,
    rename={"message": "messageId", "session": "sessionId", "device": "deviceId", "readings": "payload"},
):
    """What one push carries. ``message`` counts up within a session, but messages come out of order and again."""

    message: int
    session: str
    device: str
    readings: list[Reading]


_decoder = msgspec.json.Decoder(Message)


def decoded(value: bytes) -> Message:
    """A message that the gateway has checked.

    Raises:
        ValueError: It is not one (msgspec names the field).
    """
    return _decoder.decode(value)


def identity(device: str, session: str, message: int) -> str:
    """The same for the same message, however often it comes: 22 characters of base64url; readings add their place in it."""
    digest = hashlib.blake2b(msgspec.json.encode((device, session, message)), digest_size=16)
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
