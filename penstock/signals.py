"""What a span of a sensor's readings is like, in numbers: one function for training and for the stream.

Both cut readings into windows, bring them onto an even grid and describe each channel. A model that was trained on the
one then sees the same numbers in the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["GRAVITY", "STATISTICS", "names", "resampled", "summarised"]

Array = NDArray[np.float64]

GRAVITY = 9.80665  # m/s², the standard value
STATISTICS = ("mean", "spread", "low", "high", "energy", "change", "frequency", "tone")
QUANTILES = (0.1, 0.9)
# Of a window, the longest part that may be without a reading.
GAP = 0.125
# Decimals: last bits differ between libraries, and nothing is measured as finely.
DECIMALS = 6


def names(channels: Sequence[str]) -> list[str]:
    """What ``summarised`` gives, in its order: all of the first channel, then all of the second."""
    return [f"{channel}_{statistic}" for channel in channels for statistic in STATISTICS]


def resampled(
    time: NDArray[np.int64], values: Array, start: int, width: int, samples: int
) -> NDArray[np.float64] | None:
    """Readings of a window on an even grid, by linear interpolation.

    Args:
        time: Nanoseconds, ascending, shape (n,). Of equal times the last counts. Readings beyond the window's ends are
            welcome: they are what its ends are interpolated from.
        values: Shape (n, channels).
        start: Of the window, nanoseconds.
        width: Of the window, nanoseconds.
        samples: Of the grid: at ``start + i × width / samples``.

    Returns:
        Shape (samples, channels); None if any part of the window longer than ``GAP`` of its width has no reading.
    """
    gap = int(width * GAP)
    first = int(np.searchsorted(time, start - gap, "left"))
    last = int(np.searchsorted(time, start + width + gap, "right"))
    time, values = time[first:last], values[first:last]
    if not len(time):
        return None
    # Relative to the start: nanoseconds since 1970 have more digits than a float.
    at = (time - start).astype(np.float64)
    edges = np.concatenate(([min(0.0, at[0])], at, [max(float(width), at[-1])]))
    inside = (edges[1:] > 0) & (edges[:-1] < width)
    if (np.diff(edges)[inside] > gap).any():
        return None
    keep = np.append(at[1:] != at[:-1], True)
    at, values = at[keep], values[keep]
    grid = np.arange(samples) * (width / samples)
    return np.stack([np.interp(grid, at, channel) for channel in values.T], axis=-1)


def summarised(windows: Array, rate: float) -> Array:
    """Describe each channel of each window.

    mean; spread: the standard deviation; low, high: the 10 % and 90 % quantiles; energy: the mean square without the
    mean; change: the mean absolute difference of neighbours, per second; frequency: the strongest one, Hz (0 for a
    channel that does not move); tone: the share of the energy that it has, with its two neighbours.

    Args:
        windows: In the sensor's units, shape (…, samples, channels).
        rate: Samples per second.

    Returns:
        Shape (…, channels × len(STATISTICS)), as ``names`` has them.
    """
    samples = windows.shape[-2]
    mean = windows.mean(axis=-2)
    moving = windows - mean[..., None, :]
    energy = (moving**2).mean(axis=-2)
    low, high = np.quantile(windows, QUANTILES, axis=-2)
    change = np.abs(np.diff(windows, axis=-2)).mean(axis=-2) * rate
    frequency, tone = _strongest(moving, rate, samples)
    # What is left of a constant after its mean is taken off is rounding.
    still = energy <= (1e-9 * (1 + np.abs(mean))) ** 2
    parts = (mean, np.sqrt(energy), low, high, energy, change, frequency, tone)
    stacked = np.stack([np.where(still & _of_motion(i), 0.0, part) for i, part in enumerate(parts)], axis=-1)
    return np.round(stacked.reshape(*windows.shape[:-2], -1), DECIMALS) + 0.0  # no −0


def _of_motion(statistic: int) -> bool:
    return STATISTICS[statistic] not in {"mean", "low", "high"}


def _strongest(moving: Array, rate: float, samples: int) -> tuple[Array, Array]:
    # A Hann window keeps what does not fit into the span a whole number of times from smearing over all frequencies.
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(samples) / samples)
    power = np.abs(np.fft.rfft(moving * hann[:, None], axis=-2)) ** 2
    power[..., 0, :] = 0.0
    top = power.argmax(axis=-2)
    total = power.sum(axis=-2)
    near = np.zeros_like(total)
    for step in (-1, 0, 1):
        index = np.clip(top + step, 0, power.shape[-2] - 1)
        picked = np.take_along_axis(power, index[..., None, :], axis=-2)[..., 0, :]
        near += np.where(index == top + step, picked, 0.0)
    return top * (rate / samples), np.divide(near, total, out=np.zeros_like(total), where=total > 0)
