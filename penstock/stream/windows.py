"""Windows of event time: what a sensor's readings of some seconds are like, for each device.

A window is written as soon as readings reach beyond its end, and again, marked late, when more of it come; it is final
when the device's newest reading is ``lateness`` beyond its end. What it says in the end depends on which readings came, not
on their order. The windows of a device move with its own clock: one that sends yesterday's readings has yesterday's.

Nothing here waits, reads or writes: see ``windower``.
"""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.config.streaming import Windows
from penstock.signals import GAP, names, resampled, summarised
from penstock.stream.messages import AXES, Message
from penstock.stream.store import Document

__all__ = ["ACTIVITY", "Due", "Windowing", "window_id"]

SECOND = 1_000_000_000
ACTIVITY = "activity"  # stands where a sensor's name does
FEATURES = tuple(names(AXES))

Array = NDArray[np.float64]
# From features of accelerometer and gyroscope, each of shape (windows, features of three axes), to what is written of
# each window; None while there is no model.
Classify = Callable[[Array, Array], list[dict[str, Any]] | None]


def window_id(device: str, sensor: str, start: int) -> str:
    """The same for the same window, however often it is written."""
    digest = hashlib.blake2b(msgspec.json.encode((device, sensor, start)), digest_size=16)
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()


@dataclass
class _Sensor:
    """Readings of one sensor: sorted ones, and those that came since."""

    time: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    values: Array = field(default_factory=lambda: np.empty((0, len(AXES))))
    new_time: list[int] = field(default_factory=list)
    new_values: list[tuple[float, float, float]] = field(default_factory=list)
    dirty: set[int] = field(default_factory=set)  # windows to be written, by number
    written: dict[int, tuple[int, Array]] = field(
        default_factory=dict
    )  # that are not final: readings, features

    def sort(self) -> None:
        """Take in what came; of readings of the same time the last counts."""
        if not self.new_time:
            return
        time = np.concatenate([self.time, np.array(self.new_time, np.int64)])
        values = np.concatenate([self.values, np.array(self.new_values, np.float64)])
        self.new_time, self.new_values = [], []
        order = np.argsort(time, kind="stable")
        time, values = time[order], values[order]
        keep = np.append(time[1:] != time[:-1], True)
        self.time, self.values = time[keep], values[keep]

    def forget(self, before: int) -> None:
        """Drop readings that no window will need."""
        first = int(np.searchsorted(self.time, before, "left"))
        if first:
            self.time, self.values = self.time[first:].copy(), self.values[first:].copy()


@dataclass
class _Device:
    """One device's readings in one partition.

    Attributes:
        newest: Its newest event time, nanoseconds.
        seen: When its last record came, by the clock of the partition, seconds.
        needed: Offset and newest event time of each record that windows may still need, as they came.
        origin: Of its last record.
    """

    sensors: dict[str, _Sensor] = field(default_factory=dict)
    newest: int = 0
    seen: float = 0.0
    needed: deque[tuple[int, int]] = field(default_factory=deque)
    origin: tuple[int, int] = (0, 0)


@dataclass
class Due:
    """Windows that are to be written.

    Attributes:
        documents: Features, and activities if there is something that tells them.
        incomplete: Windows with too few readings to say anything.
    """

    documents: list[Document] = field(default_factory=list)
    incomplete: int = 0


class Windowing:
    """Readings in, windows out.

    Args:
        view: What is declared.
        classify: Tells activities, if anything does.
        accelerometer: The sensor that it wants, with gravity.
        gyroscope: The other one.
    """

    def __init__(
        self,
        view: Windows,
        classify: Classify | None = None,
        accelerometer: str = "totalacceleration",
        gyroscope: str = "gyroscope",
    ) -> None:
        self.view, self.classify = view, classify
        self.accelerometer, self.gyroscope = accelerometer, gyroscope
        self.width = round(view.width.total_seconds() * SECOND)
        self.step = round(view.step.total_seconds() * SECOND)
        self.lateness = round(view.lateness.total_seconds() * SECOND)
        self.gap = int(self.width * GAP)
        self.samples = round(view.width.total_seconds() * view.rate)
        self.late = 0  # readings that came when all their windows were final
        self._wanted = frozenset(view.sensors)
        self._devices: dict[tuple[int, str], _Device] = {}
        self._touched: set[tuple[int, str]] = set()

    # --- in -----------------------------------------------------------------------------------------

    def take(self, partition: int, offset: int, message: Message, now: float) -> None:
        """Take a message in.

        Args:
            partition: Where it lies in the log.
            offset: The same.
            message: It.
            now: When it came, in seconds, by the clock of its partition.
        """
        place = (partition, message.device)
        device = self._devices.get(place)
        if device is None:
            device = self._devices[place] = _Device()
        device.seen = now
        device.origin = (partition, offset)
        final = device.newest - self.lateness  # a window that ends by then is final
        newest = 0
        came: dict[str, tuple[list[int], list[tuple[float, float, float]]]] = {}
        for reading in message.readings:
            newest = max(newest, reading.time)
            if reading.name in self._wanted:
                values = reading.values
                pair = came.get(reading.name)
                if pair is None:
                    pair = came[reading.name] = ([], [])
                pair[0].append(reading.time)
                pair[1].append((values["x"], values["y"], values["z"]))  # type: ignore[arg-type]
        for name, (times, axes) in came.items():
            self._add(device.sensors.setdefault(name, _Sensor()), times, axes, final)
        if newest:
            device.needed.append((offset, newest))
            device.newest = max(device.newest, newest)
            self._touched.add(place)

    def _add(
        self, sensor: _Sensor, times: list[int], axes: list[tuple[float, float, float]], final: int
    ) -> None:
        sensor.new_time += times
        sensor.new_values += axes
        # A reading tells something of the windows that it lies in, and of those whose ends are interpolated to it.
        at = np.array(times, np.int64)
        first = (at - self.gap - self.width) // self.step + 1
        last = (at + self.gap) // self.step
        if final > 0:
            self.late += int((last * self.step + self.width <= final).sum())
        for begin, end in set(zip(first.tolist(), last.tolist(), strict=True)):
            for number in range(begin, end + 1):
                if number * self.step + self.width > final:
                    sensor.dirty.add(number)

    # --- out ----------------------------------------------------------------------------------------

    def due(self, clocks: Mapping[int, float], *, everything: bool = False) -> Due:
        """Windows that can be told of now; those of devices that send nothing any more are closed.

        Args:
            clocks: For each partition, until when it was read: nothing of before is still to come.
            everything: Close all windows.
        """
        idle = self.view.idle.total_seconds()
        closing = {
            place
            for place, device in self._devices.items()
            if everything or clocks.get(place[0], 0.0) - device.seen > idle
        }
        due = Due()
        ready: list[tuple[_Device, str, str, int, int, bool]] = []
        grids: list[Array] = []
        for place in self._touched | closing:
            device = self._devices[place]
            for name, sensor in device.sensors.items():
                sensor.sort()
                for number in sorted(sensor.dirty):
                    start = number * self.step
                    if place not in closing and start + self.width + self.gap > device.newest:
                        continue
                    sensor.dirty.discard(number)
                    inside = self._inside(sensor, start)
                    before = sensor.written.get(number)
                    grid = (
                        resampled(sensor.time, sensor.values, start, self.width, self.samples)
                        if inside
                        else None
                    )
                    if grid is None:
                        # Readings beyond its ends alone are no window.
                        due.incomplete += inside > 0
                        continue
                    ready.append((device, place[1], name, number, inside, before is not None))
                    grids.append(grid)
        if grids:
            self._tell(ready, summarised(np.stack(grids), self.view.rate), due)
        for place in self._touched - closing:
            self._settle(self._devices[place])
        self._touched = {place for place in self._touched - closing if self._waits(self._devices[place])}
        for place in closing:
            del self._devices[place]
        return due

    def _inside(self, sensor: _Sensor, start: int) -> int:
        first, last = np.searchsorted(sensor.time, (start, start + self.width), "left")
        return int(last - first)

    def _tell(
        self, ready: Sequence[tuple[_Device, str, str, int, int, bool]], features: Array, due: Due
    ) -> None:
        pairs: dict[tuple[str, int], _Device] = {}
        again: set[tuple[str, int]] = set()
        for (device, who, name, number, inside, late), numbers in zip(ready, features, strict=True):
            told = {"readings": inside, "features": dict(zip(FEATURES, numbers.tolist(), strict=True))}
            due.documents.append(self._document(device, who, name, number, late, told))
            device.sensors[name].written[number] = (inside, numbers)
            if self.classify is not None and name in {self.accelerometer, self.gyroscope}:
                pairs[who, number] = device
                if late:
                    again.add((who, number))
        if not pairs or self.classify is None:
            return
        whole = []
        for (who, number), device in pairs.items():
            parts = [
                device.sensors[name].written.get(number) if name in device.sensors else None
                for name in (self.accelerometer, self.gyroscope)
            ]
            if parts[0] is not None and parts[1] is not None:
                whole.append((who, number, device, parts[0], parts[1]))
        if not whole:
            return
        answers = self.classify(np.stack([w[3][1] for w in whole]), np.stack([w[4][1] for w in whole]))
        if answers is None:
            return
        for (who, number, device, one, other), answer in zip(whole, answers, strict=True):
            told = {"readings": one[0] + other[0], **answer}
            late = (who, number) in again
            due.documents.append(self._document(device, who, ACTIVITY, number, late, told))

    def _document(
        self, device: _Device, who: str, name: str, number: int, late: bool, told: dict[str, Any]
    ) -> Document:
        start = number * self.step
        known = window_id(who, name, start)
        body = {
            "device": who,
            "sensor": name,
            "start": start,
            "end": start + self.width,
            "late": late,
            **told,
        }
        return Document(known, start, body, device.origin, known)

    def _settle(self, device: _Device) -> None:
        """Forget what only windows that are final needed."""
        final = device.newest - self.lateness
        begin = final - self.width - self.gap  # of what the earliest window that is not final looks at
        for sensor in device.sensors.values():
            sensor.forget(begin)
            for number in [n for n in sensor.written if n * self.step + self.width <= final]:
                del sensor.written[number]
        while device.needed and device.needed[0][1] < begin:
            device.needed.popleft()

    @staticmethod
    def _waits(device: _Device) -> bool:
        return any(sensor.dirty for sensor in device.sensors.values())

    # --- places -------------------------------------------------------------------------------------

    @property
    def devices(self) -> int:
        """How many have windows that are not final."""
        return len(self._devices)

    def names(self) -> set[str]:
        """Devices with windows that are not final."""
        return {name for _, name in self._devices}

    def needed(self, reached: dict[int, int]) -> dict[int, int]:
        """How far each partition may be committed: what windows still need is read again after a crash.

        Args:
            reached: For each partition, the offset behind the last record taken.
        """
        places = dict(reached)
        for (partition, _), device in self._devices.items():
            if device.needed and partition in places:
                places[partition] = min(places[partition], *(offset for offset, _ in device.needed))
        return places

    def drop(self, partitions: Iterable[int]) -> None:
        """Forget what is of partitions that are another's from now on."""
        gone = set(partitions)
        for place in [place for place in self._devices if place[0] in gone]:
            del self._devices[place]
        self._touched &= set(self._devices)
