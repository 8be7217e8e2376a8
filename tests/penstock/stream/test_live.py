"""What the live page is told."""

from __future__ import annotations

import json

import pytest

from penstock.stream.live import CHART, GONE, LOOKED, SHOWN, Live
from penstock.stream.log import Record

SECOND = 1_000_000_000
WALL = 1_795_000_000 * SECOND


def record(device: str, moment: float, readings: list[dict]) -> Record:
    payload = [
        {"name": "gyroscope", "time": WALL + round((moment + at / 50) * SECOND), "values": values}
        for at, values in enumerate(readings)
    ]
    body = {"messageId": 0, "sessionId": "s", "deviceId": device, "payload": payload}
    return Record(0, 0, device.encode(), json.dumps(body).encode(), {}, WALL)


def moving(count: int) -> list[dict]:
    return [{"x": at % 7, "y": 1.5, "who": "me"} for at in range(count)]


def test_rates_are_of_the_last_seconds_and_settle_at_what_comes():
    live = Live()
    for half in range(40):
        live.take([record("d", half / 2, moving(25)), record("e", half / 2, moving(5))], half / 2)
    told = live.told("d", 19.9, WALL + 20 * SECOND)
    assert told["totals"]["readings"] == pytest.approx(60, rel=0.15)
    assert told["totals"]["messages"] == pytest.approx(4, rel=0.15)
    assert [row["rate"] for row in told["devices"]] == [
        pytest.approx(50, rel=0.15),
        pytest.approx(10, rel=0.15),
    ]
    assert told["totals"]["behind"] == pytest.approx(20 - 19.98, abs=0.011)
    assert live.told("d", 40.0)["totals"]["readings"] == 0


def test_readings_of_the_chosen_device_alone_are_kept_and_only_so_long():
    live = Live()
    live.take([record("d", 0, moving(50)), record("e", 0, moving(50))], 0.0)
    assert live.told("e", 0.5)["sensors"] == []  # nobody looked before
    for second in range(1, CHART + 20):
        live.take([record("d", second, moving(50)), record("e", second, moving(50))], float(second))
        live.look("e", float(second))
        live.tidy(float(second))
    (sensor,) = live.told("e", CHART + 20.0)["sensors"]
    assert -CHART <= sensor["times"][0] < -CHART + 1
    assert sensor["times"][-1] == 0
    assert len(sensor["times"]) <= 400
    assert set(sensor["lines"]) == {"x"}
    assert sensor["still"] == {"y": 1.5, "who": "me"}
    assert set(live._lines) == {"e"}
    live.tidy(CHART + 20 + LOOKED + 1)
    assert not live._lines
    assert live.told("e", CHART + 40.0)["sensors"] == []


def test_readings_that_come_out_of_order_are_drawn_in_order():
    live = Live()
    live.look("d", 0.0)
    live.take([record("d", 2, moving(50)), record("d", 1, moving(50))], 0.0)
    (sensor,) = live.told("d", 0.0)["sensors"]
    assert sensor["times"] == sorted(sensor["times"])


def test_a_device_that_is_gone_is_shown_no_more_and_many_are_not_all_shown():
    live = Live()
    live.take([record(f"d{number:04d}", 0, moving(1)) for number in range(SHOWN + 50)], 0.0)
    told = live.told("d0249", 1.0)
    assert told["totals"]["devices"] == SHOWN + 50
    assert len(told["devices"]) == SHOWN + 1
    assert told["chosen"] == "d0249"
    live.take([record("d0000", 0, moving(1))], GONE)
    live.tidy(GONE + 1)
    told = live.told("d0249", GONE + 1)
    assert [row["name"] for row in told["devices"]] == ["d0000"]
    assert told["chosen"] == "d0000"


def test_what_is_no_message_is_left_out():
    live = Live()
    for value in (b"", b"{", b"[]", b'{"deviceId": 3}', b'{"deviceId":"d","payload":[{}]}'):
        live.take([Record(0, 0, b"d", value, {}, 0)], 0.0)
    assert live.told(None, 1.0)["totals"]["devices"] == 0
