"""What a device sends: a message of readings, in the format of the phone application Sensor Logger.

The schema is pydantic's: it is what OpenAPI shows and what says which field is wrong. A message that is right is checked
by msgspec and a few comparisons, in a fifth of the time; only what those refuse is looked at by pydantic, and what either
refuses is refused.

Names of sensors, fields and units: the documentation of Sensor Logger (github.com/tszheichoi/awesome-sensor-logger).
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError

from penstock.errors import PenstockError

__all__ = ["FIELDS", "Message", "MessageError", "Push", "Reading", "Value", "checked", "decoded", "identity"]

Value = bool | int | float | str | None

MOST_VALUES = 64
LONGEST_TEXT = 4096
LONGEST_NAME = 200
LARGEST = 2**63 - 1
MOST_ERRORS = 20

AXES = ("x", "y", "z")
# Fields that a reading of a known sensor has at least, all of them numbers. Units: m/s², rad/s, µT, degrees, metres,
# hPa, dBFS, shares of 1.
FIELDS: dict[str, tuple[str, ...]] = {
    "accelerometer": AXES,
    "accelerometeruncalibrated": AXES,
    "totalacceleration": AXES,
    "gravity": AXES,
    "gyroscope": AXES,
    "gyroscopeuncalibrated": AXES,
    "magnetometer": AXES,
    "magnetometeruncalibrated": AXES,
    "orientation": ("qx", "qy", "qz", "qw", "roll", "pitch", "yaw"),
    "location": ("latitude", "longitude"),
    "barometer": ("pressure",),
    "microphone": ("dBFS",),
    "pedometer": ("steps",),
}


class MessageError(PenstockError):
    """A message that is refused.

    Attributes:
        errors: Field and what is wrong with it, at most ``MOST_ERRORS``.
    """

    def __init__(self, errors: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{field}: {words}" for field, words in errors))
        self.errors = list(errors)


# --- as it travels ----------------------------------------------------------------------------------


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


# --- as it is described -----------------------------------------------------------------------------

Finite = Annotated[float, Field(allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
Text = Annotated[str, Field(max_length=LONGEST_TEXT)]
Any1 = bool | Whole | Finite | Text | None
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME, pattern=r"^[^\x00-\x1f\x7f]+$")]
Nanoseconds = Annotated[int, Field(ge=1, le=LARGEST)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Values(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, Any1] = Field(init=False)


class Axes(_Values):
    """Of three axes: m/s² of accelerations, rad/s of a gyroscope, µT of a magnetometer."""

    x: Finite
    y: Finite
    z: Finite


class Orientation(_Values):
    """A quaternion, and angles in radians."""

    qx: Finite
    qy: Finite
    qz: Finite
    qw: Finite
    roll: Finite
    pitch: Finite
    yaw: Finite


class Location(_Values):
    """Degrees; altitude in metres, speed in m/s, bearing in degrees where the phone knows them."""

    latitude: Finite
    longitude: Finite


class Barometer(_Values):
    """hPa; relativeAltitude in metres."""

    pressure: Finite


class Microphone(_Values):
    """Decibels relative to full scale."""

    dBFS: Finite


class Pedometer(_Values):
    """Steps since the recording began."""

    steps: Finite


class _Timed(_Strict):
    time: Nanoseconds
    accuracy: Finite | None = None


class AxesReading(_Timed):
    """Accelerometer, gyroscope, gravity or magnetometer."""

    name: Literal[
        "accelerometer",
        "accelerometeruncalibrated",
        "totalacceleration",
        "gravity",
        "gyroscope",
        "gyroscopeuncalibrated",
        "magnetometer",
        "magnetometeruncalibrated",
    ]
    values: Axes


class OrientationReading(_Timed):
    """How the device is held."""

    name: Literal["orientation"]
    values: Orientation


class LocationReading(_Timed):
    """Where it is."""

    name: Literal["location"]
    values: Location


class BarometerReading(_Timed):
    """Pressure of the air."""

    name: Literal["barometer"]
    values: Barometer


class MicrophoneReading(_Timed):
    """How loud it is."""

    name: Literal["microphone"]
    values: Microphone


class PedometerReading(_Timed):
    """Steps."""

    name: Literal["pedometer"]
    values: Pedometer


class OtherReading(_Timed):
    """Any other sensor: battery, network, annotation, or one that nobody has thought of."""

    name: Name
    values: dict[Name, Any1]


_KINDS = {
    "orientation": "orientation",
    "location": "location",
    "barometer": "barometer",
    "microphone": "microphone",
    "pedometer": "pedometer",
}


def _kind(reading: Any) -> str:
    name = reading.get("name") if isinstance(reading, dict) else getattr(reading, "name", None)
    if not isinstance(name, str) or name not in FIELDS:
        return "other"
    return _KINDS.get(name, "axes")


AnyReading = Annotated[
    Annotated[AxesReading, Tag("axes")]
    | Annotated[OrientationReading, Tag("orientation")]
    | Annotated[LocationReading, Tag("location")]
    | Annotated[BarometerReading, Tag("barometer")]
    | Annotated[MicrophoneReading, Tag("microphone")]
    | Annotated[PedometerReading, Tag("pedometer")]
    | Annotated[OtherReading, Tag("other")],
    Discriminator(_kind),
]


class Push(_Strict):
    """A message of readings, as Sensor Logger pushes it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "messageId": 0,
                    "sessionId": "8b3f6d70",
                    "deviceId": "phone-1",
                    "payload": [
                        {
                            "name": "accelerometer",
                            "time": 1698501144401773000,
                            "values": {"x": 0.1, "y": -0.1, "z": -0.2},
                            "accuracy": 3,
                        }
                    ],
                }
            ]
        }
    )

    messageId: Annotated[int, Field(ge=0, le=LARGEST)]
    sessionId: Name
    deviceId: Name
    payload: list[AnyReading]


@functools.cache
def _adapter() -> TypeAdapter[Push]:
    return TypeAdapter(Push)


# --- checking ---------------------------------------------------------------------------------------


def checked(body: bytes, *, most: int, now: int, past: int, future: int) -> Message:
    """A message from outside.

    Args:
        body: JSON.
        most: Readings that it may have.
        now: Nanoseconds since 1970.
        past: Nanoseconds by which a reading may be older than ``now``.
        future: And younger.

    Raises:
        MessageError: It is not as it should be; each error names its field.
    """
    refusal = ""
    try:
        if not body.isascii():
            body.decode()  # the decoder does not look at what it skips
        message = _decoder.decode(body)
    except (ValueError, RecursionError) as error:  # msgspec's are among them
        message, refusal = None, str(error)
    if message is None or not _plausible(message):
        errors = _errors(body) or (_beyond(message) if message is not None else [])
        raise MessageError(errors or [("message", refusal or "expected a message of readings")])
    if len(message.readings) > most:
        raise MessageError([("payload", f"expected at most {most} readings, found {len(message.readings)}")])
    times = [reading.time for reading in message.readings]
    if times and (min(times) < now - past or max(times) > now + future):
        raise MessageError(_skewed(message, now, past, future))
    return message


def _skewed(message: Message, now: int, past: int, future: int) -> list[tuple[str, str]]:
    errors = []
    for index, reading in enumerate(message.readings):
        ahead = reading.time - now
        if not -past <= ahead <= future:
            words = f"{abs(ahead) / 1e9:.0f} s {'ahead of' if ahead > 0 else 'behind'} the gateway's clock"
            allowed = f"expected at most {past / 1e9:.0f} s behind and {future / 1e9:.0f} s ahead"
            errors.append((f"payload[{index}].time", f"{words}; {allowed}"))
            if len(errors) == MOST_ERRORS:
                break
    return errors


def _plausible(message: Message) -> bool:
    """What pydantic would ask of it besides types, all of it at once."""
    if not (0 <= message.message <= LARGEST and _named(message.session) and _named(message.device)):
        return False
    fields = FIELDS
    for reading in message.readings:
        values = reading.values
        if not 0 < reading.time <= LARGEST or len(values) > MOST_VALUES:
            return False
        needed = fields.get(reading.name)
        if needed is None:
            if not _named(reading.name) or not all(map(_named, values)):
                return False
        else:
            for name in needed:
                kind = type(values.get(name))
                if kind is not float and kind is not int:
                    return False
        for value in values.values():
            kind = type(value)
            if kind is float:
                if value - value != 0.0:  # type: ignore[operator]  # not finite
                    return False
            elif kind is int:
                if not -LARGEST <= value <= LARGEST:  # type: ignore[operator]
                    return False
            elif kind is str and len(value) > LONGEST_TEXT:  # type: ignore[arg-type]
                return False
        accuracy = reading.accuracy
        if accuracy is not None and accuracy - accuracy != 0.0:
            return False
    return True


def _named(text: str) -> bool:
    return 0 < len(text) <= LONGEST_NAME and (
        text.isprintable() or not any(c < " " or c == "\x7f" for c in text)
    )


def _errors(body: bytes) -> list[tuple[str, str]]:
    try:
        _adapter().validate_json(body)
    except ValidationError as refused:
        found = refused.errors(include_url=False, include_context=False, include_input=False)
        told: dict[str, str] = {}
        for error in found:
            field = _field(error["loc"])
            # A value may be of several types, and pydantic tells of each.
            told[field] = "expected a number, text, truth or null" if field in told else error["msg"]
        return list(told.items())[:MOST_ERRORS]
    return []


def _beyond(message: Message) -> list[tuple[str, str]]:
    """What pydantic takes and a store would not: an integer beyond 64 bits passes for a real number."""
    errors = []
    for index, reading in enumerate(message.readings):
        if len(reading.values) > MOST_VALUES:
            errors.append((f"payload[{index}].values", f"expected at most {MOST_VALUES} values"))
        for name, value in reading.values.items():
            if type(value) is int and abs(value) > LARGEST:
                errors.append(
                    (f"payload[{index}].values.{name}", f"expected at most {LARGEST}, found {value}")
                )
    return errors[:MOST_ERRORS]


def _field(place: tuple[int | str, ...]) -> str:
    tags = {
        "axes",
        "other",
        *_KINDS.values(),
        "bool",
        "int",
        "float",
        "str",
        "constrained-int",
        "constrained-str",
    }
    text = ""
    for index, part in enumerate(place):
        if isinstance(part, int):
            text += f"[{part}]"
        elif not (part in tags and index and (isinstance(place[index - 1], int) or index == len(place) - 1)):
            text += f".{part}" if text else part
    return text or "message"
