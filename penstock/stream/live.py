"""What the live page shows: devices and rates of the last seconds, and the readings of those that somebody looks at."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from penstock.stream.log import Record
from penstock.stream.messages import Message, decoded

__all__ = ["CHART", "Live"]

CHART = 30  # seconds of readings
BUCKET = 0.5  # seconds
BUCKETS = 10  # rates are of the last five seconds
LOOKED = 10.0  # seconds that a device's readings are kept after anybody looked
GONE = 120.0  # seconds without a message after which a device is no longer shown
MOST_DEVICES = 5_000
SHOWN = 200  # devices
SENSORS = 12  # of a device
POINTS = 400  # of a line, about as many as a chart has columns of pixels
SECOND = 1_000_000_000
UNITS = {
    "accelerometer": "m/s²",
    "accelerometeruncalibrated": "m/s²",
    "totalacceleration": "m/s²",
    "gravity": "m/s²",
    "gyroscope": "rad/s",
    "gyroscopeuncalibrated": "rad/s",
    "magnetometer": "µT",
    "magnetometeruncalibrated": "µT",
    "microphone": "dBFS",
}


class _Brief(msgspec.Struct, rename={"device": "deviceId", "readings": "payload"}):
    """As much of a message as its rate needs."""

    device: str
    readings: list[msgspec.Raw]


class _Moment(msgspec.Struct):
    time: int


_brief = msgspec.json.Decoder(_Brief)
_moment = msgspec.json.Decoder(_Moment)


@dataclass
class _Rate:
    """What came in the last buckets."""

    counts: deque[tuple[int, float]] = field(default_factory=deque)

    def add(self, bucket: int, amount: float) -> None:
        if self.counts and self.counts[-1][0] == bucket:
            self.counts[-1] = (bucket, self.counts[-1][1] + amount)
        else:
            self.counts.append((bucket, amount))
        self._forget(bucket)

    def _forget(self, bucket: int) -> None:
        while self.counts and self.counts[0][0] <= bucket - BUCKETS - 1:
            self.counts.popleft()

    def per_second(self, bucket: int) -> float:
        """Of whole buckets: the one that is under way would always be too little."""
        self._forget(bucket)
        return sum(amount for of, amount in self.counts if of != bucket) / (BUCKETS * BUCKET)


@dataclass
class _Device:
    messages: int = 0
    readings: _Rate = field(default_factory=_Rate)
    seen: float = 0.0
    newest: int = 0
    received: int = 0


@dataclass
class _Lines:
    """A sensor's readings: event times, and values by name."""

    rows: deque[tuple[int, dict[str, Any]]] = field(default_factory=deque)


class Live:
    """What has come lately."""

    def __init__(self) -> None:
        self.devices: dict[str, _Device] = {}
        self._messages, self._readings, self._bytes = _Rate(), _Rate(), _Rate()
        self._looked: dict[str, float] = {}
        self._lines: dict[str, dict[str, _Lines]] = {}

    def take(self, records: Iterable[Record], now: float) -> None:
        """Take records.

        Args:
            records: As they come.
            now: Seconds of a clock that goes on.
        """
        bucket = int(now / BUCKET)
        for record in records:
            try:
                brief = _brief.decode(record.value)
                last = _moment.decode(brief.readings[-1]).time if brief.readings else 0
            except (ValueError, RecursionError):
                continue  # a dead letter
            if brief.device not in self.devices and len(self.devices) >= MOST_DEVICES:
                continue
            device = self.devices.setdefault(brief.device, _Device())
            device.messages += 1
            device.seen = now
            device.newest = max(device.newest, last)
            device.received = int(record.headers.get("received") or record.time)
            device.readings.add(bucket, len(brief.readings))
            self._messages.add(bucket, 1)
            self._readings.add(bucket, len(brief.readings))
            self._bytes.add(bucket, len(record.value))
            if brief.device in self._looked:
                self._keep(decoded(record.value))

    def _keep(self, message: Message) -> None:
        lines = self._lines.setdefault(message.device, {})
        for reading in message.readings:
            line = lines.get(reading.name)
            if line is None:
                if len(lines) >= SENSORS:
                    continue
                line = lines[reading.name] = _Lines()
            line.rows.append((reading.time, reading.values))
        newest = max((line.rows[-1][0] for line in lines.values() if line.rows), default=0)
        for line in lines.values():
            # In the order in which they came: one that is late keeps its elders for a moment.
            while line.rows and line.rows[0][0] < newest - CHART * SECOND:
                line.rows.popleft()

    def look(self, device: str, now: float) -> None:
        """Somebody looks at a device: keep its readings from now on."""
        self._looked[device] = now

    def tidy(self, now: float) -> None:
        """Forget what nobody looks at, and devices that are gone."""
        for device in [d for d, looked in self._looked.items() if now - looked > LOOKED]:
            del self._looked[device]
            self._lines.pop(device, None)
        for name in [name for name, device in self.devices.items() if now - device.seen > GONE]:
            del self.devices[name]

    def told(self, chosen: str | None, now: float, wall: int | None = None) -> dict[str, Any]:
        """All that the page shows of it.

        Args:
            chosen: The device whose readings are wanted; None: the first.
            now: Of the same clock as ``take``.
            wall: Nanoseconds since 1970.
        """
        wall = time.time_ns() if wall is None else wall
        bucket = int(now / BUCKET)
        names = sorted(self.devices)
        if chosen not in self.devices:
            chosen = names[0] if names else None
        if chosen is not None:
            self.look(chosen, now)
        shown = names[:SHOWN]
        if chosen is not None and chosen not in shown:
            shown.append(chosen)
        newest = max((device.newest for device in self.devices.values()), default=0)
        return {
            "totals": {
                "devices": len(self.devices),
                "messages": round(self._messages.per_second(bucket), 1),
                "readings": round(self._readings.per_second(bucket), 1),
                "bytes": round(self._bytes.per_second(bucket)),
                "behind": None if not newest else round((wall - newest) / SECOND, 2),
            },
            "devices": [self._row(name, now, wall, bucket) for name in shown],
            "chosen": chosen,
            "sensors": [] if chosen is None else self._sensors(chosen),
        }

    def _row(self, name: str, now: float, wall: int, bucket: int) -> dict[str, Any]:
        device = self.devices[name]
        return {
            "name": name,
            "rate": round(device.readings.per_second(bucket), 1),
            "seen": round(now - device.seen, 1),
            "behind": round((wall - device.newest) / SECOND, 1) if device.newest else None,
        }

    def _sensors(self, device: str) -> list[dict[str, Any]]:
        told = []
        for name, line in sorted(self._lines.get(device, {}).items()):
            rows = sorted(line.rows, key=lambda row: row[0])
            if not rows:
                continue
            end = rows[-1][0]
            step = -(-len(rows) // POINTS)
            kept = rows[(len(rows) - 1) % step :: step]  # the newest among them
            last = rows[-1][1]
            lines, still = {}, {}
            for key, value in last.items():
                numbers = [values.get(key) for _, values in kept]
                real = [n for n in numbers if isinstance(n, (int, float)) and not isinstance(n, bool)]
                if len(real) > 1 and min(real) < max(real):
                    lines[key] = [n if isinstance(n, (int, float)) else None for n in numbers]
                else:
                    still[key] = value
            told.append(
                {
                    "name": name,
                    "unit": UNITS.get(name, ""),
                    "times": [round((moment - end) / SECOND, 3) for moment, _ in kept],
                    "lines": lines,
                    "still": still,
                }
            )
        return told
