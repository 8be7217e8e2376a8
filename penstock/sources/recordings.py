"""Recordings of a smartwatch inside an installed package, as a table of windows.

As with ``package``: a pickle is opened, hence only at a pinned hash, and found without importing the package.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.config import RecordingsSource
from penstock.contract import QUARANTINE_SCHEMA
from penstock.errors import PenstockError
from penstock.signals import GRAVITY, names, resampled, summarised
from penstock.sources.files import Table

__all__ = ["CHANNELS", "RATE", "Recording", "read_recordings", "recordings"]

FILE = "data/watch_dataset.npy"
RATE = 50.0  # samples per second
CHANNELS = ("ax", "ay", "az", "wx", "wy", "wz")  # m/s² with gravity, rad/s
EXERCISES = {
    "PEN": "pendulum",
    "ABD": "abduction",
    "FEL": "forward elevation",
    "IR": "internal rotation",
    "ER": "external rotation",
    "TRAP": "trapezius extension",
    "ROW": "upright row",
}
SECOND = 1_000_000_000  # nanoseconds


@dataclass(frozen=True)
class Recording:
    """One subject doing one exercise.

    Attributes:
        subject: Their number.
        side: Of the arm that wears the watch: left or right.
        exercise: What it is called.
        values: ``CHANNELS`` at ``RATE``, shape (samples, 6).
    """

    subject: int
    side: str
    exercise: str
    values: NDArray[np.float64]


def recordings(source: RecordingsSource) -> list[Recording]:
    """All recordings, in the package's order.

    Raises:
        PenstockError: The package is not installed, of another version, or its file has another hash.
    """
    content = _content(source)
    found = np.load(io.BytesIO(content), allow_pickle=True).item()  # its hash is pinned
    scale = np.array([GRAVITY] * 3 + [1.0] * 3)  # the package has g
    return [
        Recording(
            int(subject), "right" if side else "left", EXERCISES[found["y_labels"][int(label)]], x * scale
        )
        for x, label, subject, side in zip(
            found["X"], found["y"], found["subject"], found["side"], strict=True
        )
    ]


def _content(source: RecordingsSource) -> bytes:
    try:
        version = importlib.metadata.version(source.package)
    except importlib.metadata.PackageNotFoundError as error:
        raise PenstockError(
            f"source.package: {source.package} is not installed",
            hint="the example data are the optional group `data`: `make env`, or pip install 'penstock[data]'",
        ) from error
    if version != source.version:
        raise PenstockError(
            f"source.version: {source.package} {version} is installed, {source.version} is pinned",
            hint="run `make env`, or pin the installed version and the hash of its file",
        )
    found = importlib.util.find_spec(source.package)
    assert found is not None
    assert found.submodule_search_locations is not None
    content = (Path(found.submodule_search_locations[0]) / FILE).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != source.sha256:
        raise PenstockError(
            f"source.sha256: {FILE} in {source.package} {version} has {digest}, not {source.sha256}",
            hint="it is a pickle and is not opened; install the package anew if the pin is right",
        )
    return content


def read_recordings(source: RecordingsSource) -> Table:
    """A row for each window: recording, subject, side, start (seconds), exercise, and what ``summarised`` says.

    Raises:
        PenstockError: As ``recordings``.
    """
    samples = round(source.width * RATE)
    width = round(source.width * SECOND)
    frames = []
    for number, recording in enumerate(recordings(source)):
        time = (np.arange(len(recording.values)) * (SECOND / RATE)).astype(np.int64)
        starts = np.arange(0, time[-1] - width, round(source.step * SECOND))
        windows = [resampled(time, recording.values, int(start), width, samples) for start in starts]
        kept = [(start, window) for start, window in zip(starts, windows, strict=True) if window is not None]
        if not kept:
            continue
        described = summarised(np.stack([window for _, window in kept]), RATE)
        about = pl.DataFrame(
            {
                "recording": pl.repeat(number, len(kept), dtype=pl.Int64, eager=True),
                "subject": pl.repeat(recording.subject, len(kept), dtype=pl.Int64, eager=True),
                "side": [recording.side] * len(kept),
                "start": [float(start) / SECOND for start, _ in kept],
                "exercise": [recording.exercise] * len(kept),
            }
        )
        frames.append(about.hstack(pl.DataFrame(described, schema=names(CHANNELS))))
    frame = pl.concat(frames)
    return Table(frame, f"{source.package}:{FILE}", 0, pl.DataFrame(schema=QUARANTINE_SCHEMA), {})
