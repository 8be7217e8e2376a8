"""What takes messages from the log to the store."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field

from penstock.config.base import View
from penstock.config.loading.spans import duration

__all__ = ["Activity", "Batching", "Indexer", "Windows"]

Duration = Annotated[timedelta, BeforeValidator(duration)]
Count = Annotated[int, Field(ge=1)]


class Batching(View):
    """A bulk is sent when the first of these is reached."""

    bytes: Count = 5_242_880
    count: Count = 10_000  # readings
    time: Duration = timedelta(milliseconds=200)


class Windows(View):
    """Features over spans of event time, for each device and sensor."""

    width: Duration = timedelta(seconds=4)
    step: Duration = timedelta(seconds=2)
    lateness: Duration = timedelta(seconds=10)  # a window is done when so much later readings have come
    idle: Duration = timedelta(seconds=30)  # or when so long none came
    sensors: tuple[str, ...] = ("accelerometer", "gyroscope", "gravity", "magnetometer", "barometer")


class Activity(View):
    """The model that runs on the windows of accelerometer and gyroscope."""

    model: str = "models/watch"
    accelerometer: str = "accelerometer"
    gyroscope: str = "gyroscope"


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
