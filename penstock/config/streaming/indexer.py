"""What takes messages from the log to the store."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from penstock.config.base import View
from penstock.config.loading.spans import duration

__all__ = ["Activity", "Batching", "Indexer", "Windows"]

Duration = Annotated[timedelta, BeforeValidator(duration)]
Count = Annotated[int, Field(ge=1)]
# Sensors whose readings are x, y and z.
Axes = Literal[
    "accelerometer",
    "accelerometeruncalibrated",
    "totalacceleration",
    "gravity",
    "gyroscope",
    "gyroscopeuncalibrated",
    "magnetometer",
    "magnetometeruncalibrated",
]


class Batching(View):
    """A bulk is sent when the first of these is reached."""

    bytes: Count = 5_242_880
    count: Count = 10_000  # readings
    time: Duration = timedelta(milliseconds=200)


class Windows(View):
    """Features over spans of event time, for each device and sensor."""

    width: Duration = timedelta(seconds=4)
    step: Duration = timedelta(seconds=2)
    rate: Annotated[float, Field(gt=0, le=1000)] = 50.0  # Hz of the even grid that readings are brought onto
    lateness: Duration = timedelta(seconds=10)  # a window is final when so much later readings have come
    # Or when so long none came: longer than an outage, or the window that it is amid is lost. After a crash as much is read again.
    idle: Duration = timedelta(minutes=2)
    # Of three axes, with eight readings a window at least.
    sensors: tuple[Axes, ...] = ("accelerometer", "totalacceleration", "gyroscope", "gravity", "magnetometer")

    @model_validator(mode="after")
    def _sensible(self) -> Windows:
        if not timedelta(milliseconds=100) <= self.step <= self.width <= timedelta(minutes=10):
            raise ValueError("width, step: expected 100 ms ≤ step ≤ width ≤ 10 minutes")
        return self


class Activity(View):
    """The model that runs on the windows of accelerometer and gyroscope, of its width and rate."""

    model: str = "models/watch"
    accelerometer: Axes = "totalacceleration"  # with gravity, as a watch measures it
    gyroscope: Axes = "gyroscope"


class Indexer(View):
    """One indexer. Any number of them share the partitions as a group."""

    group: str = "indexer"
    batching: Batching = Batching()
    queue_bytes: Count = 67_108_864  # waiting for the store; beyond, partitions are paused
    in_flight: Count = 2  # bulks at once
    backoff: Duration = timedelta(milliseconds=200)  # doubles with each refusal
    backoff_most: Duration = timedelta(seconds=30)
    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 8401
    windows: Windows | None = Windows()
    activity: Activity | None = None

    @model_validator(mode="after")
    def _told_of_windows(self) -> Indexer:
        if self.activity is not None:
            needed = {self.activity.accelerometer, self.activity.gyroscope}
            if self.windows is None or not needed <= set(self.windows.sensors):
                raise ValueError(f"activity: needs windows of the sensors {', '.join(sorted(needed))}")
        return self
