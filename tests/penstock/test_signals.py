"""Windows and what they are like: the same numbers on an even grid, in a batch, and from readings out of order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.signals import GAP, STATISTICS, names, resampled, summarised

SECOND = 1_000_000_000
RATE = 50.0
WIDTH, SAMPLES = 4 * SECOND, 200
START = 1_698_501_144_000_000_000

waves = st.tuples(
    st.floats(-20, 20),  # level
    st.floats(0.1, 20),  # amplitude
    st.integers(1, 60),  # periods in a window
    st.floats(0, 6.28),  # phase
)


def wave(shape, at: np.ndarray) -> np.ndarray:
    level, amplitude, periods, phase = shape
    return level + amplitude * np.sin(2 * np.pi * periods * at / 4 + phase)


def told(window: np.ndarray) -> dict[str, float]:
    return dict(zip(STATISTICS, summarised(window[:, None], RATE), strict=True))


@given(waves)
def test_a_sine_is_told_as_one(shape):
    level, amplitude, periods, _ = shape
    found = told(wave(shape, np.arange(SAMPLES) / RATE))
    assert found["mean"] == pytest.approx(level, abs=1e-5)
    assert found["spread"] == pytest.approx(amplitude / np.sqrt(2), rel=1e-4)
    assert found["energy"] == pytest.approx(amplitude**2 / 2, rel=1e-4)
    assert found["frequency"] == pytest.approx(periods / 4)
    assert found["tone"] == pytest.approx(1, abs=1e-5)
    assert found["low"] < level < found["high"]


def test_the_louder_of_two_tones_is_named():
    at = np.arange(SAMPLES) / RATE
    both = 3 * np.sin(2 * np.pi * 2 * at) + np.sin(2 * np.pi * 7 * at)
    found = told(both)
    assert found["frequency"] == 2
    assert found["tone"] == pytest.approx(0.9, abs=0.01)  # 9 of 10 of the energy


@given(waves, st.floats(-50, 50), st.floats(0.5, 4))
def test_a_level_moves_levels_alone_and_a_scale_scales(shape, shift, scale):
    window = wave(shape, np.arange(SAMPLES) / RATE)
    one, moved = told(window), told(window * scale + shift)
    for name in ("mean", "low", "high"):
        assert moved[name] == pytest.approx(one[name] * scale + shift, abs=1e-4)
    for name in ("spread", "change"):
        assert moved[name] == pytest.approx(one[name] * scale, rel=1e-4, abs=1e-4)
    assert moved["energy"] == pytest.approx(one["energy"] * scale**2, rel=1e-4, abs=1e-4)
    assert moved["frequency"] == one["frequency"]


@given(st.floats(-1e4, 1e4))
def test_what_does_not_move_has_no_frequency(level):
    found = told(np.full(SAMPLES, level))
    assert found["mean"] == pytest.approx(level, abs=1e-6)
    assert [found[name] for name in ("spread", "energy", "change", "frequency", "tone")] == [0] * 5


def test_a_window_is_described_the_same_alone_and_among_others():
    windows = np.random.default_rng(7).normal(size=(40, SAMPLES, 6))
    together = summarised(windows, RATE)
    assert together.shape == (40, len(names("abcdef")))
    np.testing.assert_array_equal(together, np.stack([summarised(window, RATE) for window in windows]))
    # In the order that the names have.
    spread = names("abcdef").index("b_spread")
    np.testing.assert_allclose(together[:, spread], windows[:, :, 1].std(axis=1), atol=1e-6)


@given(waves.filter(lambda shape: shape[2] <= 12), st.integers(0, 2**32 - 1))
def test_uneven_readings_of_something_smooth_are_as_good_as_even_ones(shape, seed):
    random = np.random.default_rng(seed)
    at = np.sort(random.uniform(-0.4, 4.4, 1500))
    time = START + (at * SECOND).astype(np.int64)
    grid = resampled(time, wave(shape, at)[:, None], START, WIDTH, SAMPLES)
    assert grid is not None
    even = wave(shape, np.arange(SAMPLES) / RATE)
    assert np.abs(grid[:, 0] - even).max() < 0.05 * shape[1]


def test_an_even_grid_is_left_as_it_is():
    time = START + np.arange(300) * (SECOND // 50)
    values = np.random.default_rng(0).normal(size=(300, 3))
    grid = resampled(time, values, START + SECOND, WIDTH, SAMPLES)
    np.testing.assert_allclose(grid, values[50:250], atol=1e-12)


@pytest.mark.parametrize(("lost", "enough"), [(0.9, True), (1.1, False)])
def test_a_gap_is_bridged_up_to_a_limit(lost, enough):
    at = np.arange(0, 4, 0.005)
    for middle in (0.0, 2.0, 4.0):
        gap = lost * GAP * 4
        here = at[np.abs(at - middle) > (gap / 2 if middle == 2 else gap)]
        time = START + (here * SECOND).astype(np.int64)
        found = resampled(time, np.zeros((len(here), 1)), START, WIDTH, SAMPLES)
        assert (found is not None) == enough, middle


def test_nothing_gives_nothing():
    assert resampled(np.empty(0, np.int64), np.empty((0, 3)), START, WIDTH, SAMPLES) is None
    far = np.array([START - 9 * SECOND])
    assert resampled(far, np.ones((1, 3)), START, WIDTH, SAMPLES) is None


def test_of_two_readings_of_one_moment_the_last_counts():
    time = START + np.repeat(np.arange(200) * (SECOND // 50), 2)
    values = np.tile([[1.0], [2.0]], (200, 1))
    assert (resampled(time, values, START, WIDTH, SAMPLES) == 2).all()
