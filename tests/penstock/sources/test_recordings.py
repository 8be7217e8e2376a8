"""The recordings of the watch, as windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from penstock.config import RecordingsSource
from penstock.errors import PenstockError
from penstock.signals import names, resampled, summarised
from penstock.sources import read
from penstock.sources.recordings import CHANNELS, RATE, recordings

ROOT = Path(__file__).parents[3]
SECOND = 1_000_000_000


def source(**changes) -> RecordingsSource:
    settings = yaml.safe_load((ROOT / "conf/source/recordings.yaml").read_text())
    return RecordingsSource.model_validate(settings | changes)


def test_the_recordings_are_those_of_ten_people_doing_seven_exercises():
    found = recordings(source())
    assert len(found) == 140
    assert {recording.subject for recording in found} == set(range(1, 11))
    assert len({recording.exercise for recording in found}) == 7
    # A watch at rest on an arm feels the earth: about one g, in m/s².
    still = np.concatenate([np.linalg.norm(recording.values[:, :3], axis=1) for recording in found])
    assert np.median(still) == pytest.approx(9.8, abs=1)


def test_a_row_is_what_its_part_of_a_recording_is_like():
    table = read(source()).frame
    assert table.width == 5 + len(names(CHANNELS))
    row = table.filter((pl.col("recording") == 17) & (pl.col("start") == 6.0))
    window = recordings(source())[17].values[300:500]
    np.testing.assert_array_equal(row.select(names(CHANNELS)).to_numpy()[0], summarised(window, RATE))


def test_readings_that_come_in_messages_out_of_order_give_the_row_that_was_trained_on():
    recording = recordings(source())[3]
    start = 1_698_501_144_000_000_000
    time = start + (np.arange(len(recording.values)) * (SECOND / RATE)).astype(np.int64)
    messages = np.array_split(np.arange(len(time)), 40)
    random = np.random.default_rng(5)
    came = np.concatenate([messages[i] for i in random.permutation(40)] + [messages[11]])  # one of them twice
    order = np.argsort(time[came], kind="stable")
    window = resampled(time[came][order], recording.values[came][order], start + 4 * SECOND, 4 * SECOND, 200)
    table = read(source()).frame.filter((pl.col("recording") == 3) & (pl.col("start") == 4.0))
    np.testing.assert_array_equal(summarised(window, RATE), table.select(names(CHANNELS)).to_numpy()[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, r"source\.sha256: .*not 0000"),
        ({"version": "9.9"}, r"source\.version: seglearn 1\.2\.5 is installed, 9\.9 is pinned"),
    ],
)
def test_what_is_not_as_pinned_is_not_opened(changes, message):
    with pytest.raises(PenstockError, match=message):
        read(source(**changes))
