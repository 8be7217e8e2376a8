"""An alarm when users are lost, none when they are not, however often one looks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from penstock.errors import PenstockError
from penstock.experiments.mismatch import always_valid_mismatch, sample_ratio

HALVES = {"a": 1.0, "b": 1.0}


def test_p_is_that_of_the_chi_square_test() -> None:
    found = sample_ratio({"a": 4800, "b": 5200, "c": 2500}, {"a": 0.4, "b": 0.4, "c": 0.2})
    assert found.p == pytest.approx(stats.chisquare([4800, 5200, 2500], [5000, 5000, 2500]).pvalue)
    assert found.expected == pytest.approx({"a": 5000, "b": 5000, "c": 2500})


@pytest.mark.parametrize(("lost", "off"), [(0, False), (60, False), (1500, True)])
def test_lost_users_are_noticed(lost: int, off: bool) -> None:
    counts = {"a": 50_000, "b": 50_000 - lost}
    assert sample_ratio(counts, HALVES).off is off
    assert always_valid_mismatch([(counts, HALVES)]).off is off


def test_looking_all_the_time_gives_no_more_false_alarms_than_the_level() -> None:
    draws = np.random.default_rng(3).random((2000, 1000)) < 0.2
    b = draws.cumsum(axis=1)[:, 9::10]
    n = np.arange(10, 1001, 10)
    shares = {"a": 0.8, "b": 0.2}
    # The same counts come again and again: each is tested once.
    p = {
        (units, found): always_valid_mismatch([({"a": units - found, "b": found}, shares)], level=0.05).p
        for column, units in enumerate(n.tolist())
        for found in set(b[:, column].tolist())
    }
    low = np.array(
        [[p[units, found] for units, found in zip(n.tolist(), row, strict=True)] for row in b.tolist()]
    )
    alarms = (low.min(axis=1) <= 0.05).mean()
    assert alarms <= 0.05
    naive = [
        min(sample_ratio({"a": u - f, "b": f}, shares).p for u, f in zip(n.tolist(), row, strict=True))
        for row in b[:200].tolist()
    ]
    assert np.mean(np.array(naive) <= 0.05) > 0.15  # what the test for one look would do


def test_shares_that_changed_are_no_mismatch_when_told() -> None:
    ramp = [({"a": 9_900, "b": 100}, {"a": 0.99, "b": 0.01}), ({"a": 5_000, "b": 5_000}, HALVES)]
    found = always_valid_mismatch(ramp)
    assert not found.off
    assert found.found == {"a": 14_900, "b": 5_100}
    assert found.expected == pytest.approx(found.found)
    assert always_valid_mismatch([(found.found, HALVES)]).off


def test_units_without_a_share_are_an_error() -> None:
    with pytest.raises(PenstockError, match="b has units"):
        sample_ratio({"a": 10, "b": 1}, {"a": 1.0, "b": 0.0})
    assert not sample_ratio({"a": 0, "b": 0}, HALVES).off
