"""Windows of event time: what comes out depends on which readings came, and on nothing else."""

from __future__ import annotations

import random

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.config import RecordingsSource
from penstock.config.streaming import Windows
from penstock.signals import names, resampled, summarised
from penstock.sources.recordings import CHANNELS, RATE, recordings
from penstock.stream.messages import Message, Reading
from penstock.stream.windows import ACTIVITY, Windowing, window_id
from tests.penstock.stream.gateways import ROOT

SECOND = 1_000_000_000
START = 1_795_000_000 * SECOND + 123_456_789  # not where a window begins
VIEW = Windows(sensors=("totalacceleration", "gyroscope"), idle="PT30S")


@pytest.fixture(scope="module")
def recorded():
    source = RecordingsSource.model_validate(
        yaml.safe_load((ROOT / "conf/source/recordings.yaml").read_text())
    )
    return recordings(source)[0].values


def message(values: np.ndarray, number: int, per: int, device: str = "d") -> Message:
    """Readings number × per and the following ones, as a watch would send them."""
    part = range(number * per, min((number + 1) * per, len(values)))
    readings = []
    for at in part:
        time = START + round(at * SECOND / RATE)
        ax, ay, az, wx, wy, wz = values[at].tolist()
        readings.append(Reading("totalacceleration", time, {"x": ax, "y": ay, "z": az}))
        readings.append(Reading("gyroscope", time, {"x": wx, "y": wy, "z": wz}))
        readings.append(Reading("battery", time, {"level": 0.5}))
    return Message(number, "s", device, readings)


def most(store: dict[str, dict], documents) -> None:
    """What a store does: a window takes the place of one of as many readings or fewer."""
    for document in documents:
        if document.body["readings"] >= store.get(document.id, {"readings": 0})["readings"]:
            store[document.id] = document.body


def told(windowing: Windowing, messages, *, each: int = 1) -> dict[str, dict]:
    store: dict[str, dict] = {}
    for place, each_message in enumerate(messages):
        windowing.take(0, place, each_message, 0.0)
        if place % each == 0:
            most(store, windowing.due({}).documents)
    most(store, windowing.due({}, everything=True).documents)
    return store


def essence(store: dict[str, dict]) -> dict[str, tuple]:
    return {known: (body["readings"], tuple(body["features"].values())) for known, body in store.items()}


def test_the_stream_tells_of_a_window_what_training_was_told(recorded):
    messages = [message(recorded, number, 50) for number in range(len(recorded) // 50)]
    store = told(Windowing(VIEW), messages)
    time = np.array([START + round(at * SECOND / RATE) for at in range(len(messages) * 50)])
    features = names(CHANNELS)
    compared = 0
    for start in range(START // (2 * SECOND) * 2 * SECOND, int(time[-1]), 2 * SECOND):
        grid = resampled(time, recorded[: len(time)], start, 4 * SECOND, 200)
        both = [store.get(window_id("d", name, start)) for name in ("totalacceleration", "gyroscope")]
        assert (grid is None) == (both[0] is None) == (both[1] is None)
        if grid is not None:
            offline = dict(zip(features, summarised(grid, RATE).tolist(), strict=True))
            online = [*both[0]["features"].values(), *both[1]["features"].values()]
            assert online == list(offline.values())
            assert both[0]["end"] - both[0]["start"] == 4 * SECOND
            compared += 1
    assert compared > 10


# Disorder within the lateness of ten seconds: messages of a second, moved by seven at most.
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), twice=st.floats(0, 0.5), each=st.integers(1, 5))
def test_order_and_repetition_change_nothing(recorded, seed, twice, each):
    values = recorded[:1500]
    messages = [message(values, number, 50) for number in range(30)]
    straight = told(Windowing(VIEW), messages)
    chance = random.Random(seed)
    mixed = messages + [m for m in messages if chance.random() < twice]
    mixed.sort(key=lambda m: m.message + chance.uniform(0, 7))
    assert essence(told(Windowing(VIEW), mixed, each=each)) == essence(straight)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), crashes=st.lists(st.integers(1, 58), min_size=1, max_size=4))
def test_what_is_read_again_after_a_crash_ends_in_the_same_windows(recorded, seed, crashes):
    values = recorded[:1500]
    chance = random.Random(seed)
    log = [message(values, number, 50, device) for number in range(30) for device in ("d", "e")]
    log = [log[i] for i in sorted(range(len(log)), key=lambda i: i // 2 + chance.uniform(0, 5))]
    straight = told(Windowing(VIEW), log)
    store: dict[str, dict] = {}
    place, ends = 0, [*sorted(crashes), len(log)]
    for end in ends:
        windowing = Windowing(VIEW)
        for offset in range(place, end):
            windowing.take(0, offset, log[offset], 0.0)
            most(store, windowing.due({}).documents)
            committed = windowing.needed({0: offset + 1})[0]
            assert place <= committed <= offset + 1
            place = committed
    most(store, windowing.due({}, everything=True).documents)
    assert essence(store) == essence(straight)


def test_a_window_is_told_of_once_its_end_is_reached_and_again_when_more_comes(recorded):
    windowing = Windowing(VIEW)
    first = (START // (2 * SECOND) + 1) * 2 * SECOND  # the first window that lies within
    known = window_id("d", "gyroscope", first)
    lost, seen = 2, []
    for number in range(8):
        if number != lost:
            windowing.take(0, number, message(recorded, number, 50), 0.0)
            seen += [d for d in windowing.due({}).documents if d.id == known]
    assert not seen  # a second without readings is more than a window bears
    windowing.take(0, 8, message(recorded, lost, 50), 0.0)
    (now,) = [d for d in windowing.due({}).documents if d.id == known]
    assert (now.body["readings"], now.body["late"], now.time) == (200, False, first)
    # Ten readings of another clock within it: told of again, as late.
    more = [Reading("gyroscope", first + i * SECOND // 7, {"x": 1, "y": 2, "z": 3}) for i in range(10)]
    windowing.take(0, 9, Message(99, "s", "d", more), 0.0)
    (again,) = [d for d in windowing.due({}).documents if d.id == known]
    assert again.body["late"]
    assert again.body["readings"] > 200
    assert not windowing.due({}).documents


def test_what_comes_too_late_is_counted_and_told_of_no_more(recorded):
    windowing = Windowing(VIEW)
    late = message(recorded, 1, 50)
    for number in (0, *range(2, 30)):
        windowing.take(0, number, message(recorded, number, 50), 0.0)
        windowing.due({})
    windowing.take(0, 40, late, 0.0)
    assert windowing.late == 100  # fifty of each of two sensors
    assert not windowing.due({}).documents


def test_a_device_that_has_gone_quiet_is_closed_and_forgotten(recorded):
    windowing = Windowing(VIEW)
    for number in range(6):
        windowing.take(3, number, message(recorded, number, 50), 100.0)
    windowing.take(3, 6, message(recorded, 0, 50, "other"), 120.0)
    before = windowing.due({3: 100.0}).documents
    assert windowing.needed({3: 7}) == {3: 0}
    after = windowing.due({3: 131.0})
    # The last whole window ends within the gap that it bears.
    assert {d.body["start"] for d in after.documents}.isdisjoint({d.body["start"] for d in before})
    assert windowing.devices == 1
    assert windowing.needed({3: 7}) == {3: 6}
    assert not windowing.due({3: 151.0}).documents
    assert windowing.devices == 0
    assert windowing.needed({3: 7}) == {3: 7}


def test_what_is_kept_does_not_grow(recorded):
    windowing = Windowing(VIEW)
    values = np.tile(recorded, (4, 1))
    sizes = []
    for number in range(len(values) // 50):
        windowing.take(0, number, message(values, number, 50), 0.0)
        windowing.due({})
        (device,) = windowing._devices.values()
        sensor = device.sensors["gyroscope"]
        sizes.append((len(sensor.time), len(sensor.written), len(device.needed), len(sensor.dirty)))
    assert max(size[0] for size in sizes) <= 50 * (10 + 4 + 2)
    assert max(size[1] for size in sizes) <= 8
    assert max(size[2] for size in sizes) <= 17
    assert sizes[-1][3] <= 4


def test_partitions_that_go_are_forgotten(recorded):
    windowing = Windowing(VIEW)
    for partition in (0, 1):
        windowing.take(partition, 5, message(recorded, 0, 50, f"d{partition}"), 0.0)
    windowing.drop([0])
    assert windowing.devices == 1
    assert windowing.needed({0: 6, 1: 6}) == {0: 6, 1: 5}


def test_an_activity_is_told_of_both_sensors_and_again_when_either_changes(recorded):
    def counted(accelerometer, gyroscope):
        assert accelerometer.shape == gyroscope.shape == (len(accelerometer), 24)
        # By what it was shown, so that a mix-up of rows or sensors shows.
        return [
            {"label": "moving", "probability": 1.0, "of": [float(a[0]), float(g[0])]}
            for a, g in zip(accelerometer, gyroscope, strict=True)
        ]

    windowing = Windowing(VIEW, counted)
    for number in range(10):
        both = message(recorded, number, 50)
        for sensor in ("totalacceleration", "gyroscope"):
            part = [reading for reading in both.readings if reading.name == sensor]
            windowing.take(0, number, Message(number, "s", "d", part), 0.0)
    found = windowing.due({}).documents
    activities = [d for d in found if d.body["sensor"] == ACTIVITY]
    features = {
        (d.body["sensor"], d.body["start"]): d.body["features"]["x_mean"]
        for d in found
        if d not in activities
    }
    assert len(activities) >= 2
    for activity in activities:
        start = activity.body["start"]
        assert activity.body["of"] == [features["totalacceleration", start], features["gyroscope", start]]
        assert activity.body["readings"] == sum(
            d.body["readings"] for d in found if d.body["start"] == start and d not in activities
        )
        assert not activity.body["late"]
    more = Reading("gyroscope", start + 7, {"x": 1, "y": 2, "z": 3})
    windowing.take(0, 11, Message(99, "s", "d", [more]), 0.0)
    again = [d for d in windowing.due({}).documents if d.body["sensor"] == ACTIVITY]
    assert start in {d.body["start"] for d in again}
    assert all(d.body["late"] for d in again)


def test_no_activity_without_a_model(recorded):
    windowing = Windowing(VIEW, lambda *_: None)
    for number in range(8):
        windowing.take(0, number, message(recorded, number, 50), 0.0)
    found = windowing.due({}).documents
    assert found
    assert all(d.body["sensor"] != ACTIVITY for d in found)
