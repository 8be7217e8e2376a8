"""Quantiles within the accuracy promised; histograms add up."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import PenstockError
from penstock.experiments.histogram import Histogram

latencies = st.lists(st.floats(0.01, 1e6), max_size=40)


def _of(values: list[float] | np.ndarray, accuracy: float = 0.01) -> Histogram:
    histogram = Histogram(accuracy)
    for value in values:
        histogram.add(float(value))
    return histogram


@given(latencies.filter(bool), st.floats(0, 1), st.sampled_from([0.005, 0.01, 0.1]))
def test_a_quantile_is_as_accurate_as_promised(values: list[float], share: float, accuracy: float) -> None:
    exact = sorted(values)[math.floor(share * (len(values) - 1))]
    assert _of(values, accuracy).quantile(share) == pytest.approx(exact, rel=accuracy * (1 + 1e-6))


@given(latencies, latencies, latencies)
def test_histograms_merge_in_any_order(a: list[float], b: list[float], c: list[float]) -> None:
    x, y, z = _of(a), _of(b), _of(c)
    assert (x + y) + z == x + (y + z) == z + x + y == _of(a + b + c)
    assert Histogram.load(json.loads(json.dumps((x + y).dump()))) == x + y


def test_what_is_above_a_limit() -> None:
    values = np.random.default_rng(0).lognormal(3, 1, 5000)
    found = _of(values)
    assert found.count == 5000
    for limit in (5.0, 20.0, 100.0):
        assert (values > limit * 1.02).sum() <= found.above(limit) <= (values > limit * 0.98).sum()


def test_the_absurd_is_counted_without_growing_for_it() -> None:
    found = _of([-1.0, 0.0, 1e300, math.inf])
    assert len(found.counts) == 2
    assert math.isnan(Histogram().quantile(0.5))
    with pytest.raises(PenstockError, match="accuracy"):
        _ = Histogram(0.01) + Histogram(0.02)
    with pytest.raises(PenstockError, match="accuracy"):
        Histogram(0.0)
