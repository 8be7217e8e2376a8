"""Counts add up to what one counter would have seen."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import PenstockError
from penstock.experiments.counts import Joint, Moments, Proportion, merged

values = st.lists(st.floats(-1e4, 1e4, width=32), min_size=0, max_size=30)
flags = st.lists(st.booleans(), max_size=30)


def same(one: object, other: object) -> None:
    for found, wanted in zip(vars(one).values(), vars(other).values(), strict=True):
        assert found == pytest.approx(wanted, rel=1e-9, abs=1e-3)


@given(flags, flags, flags)
def test_proportions_merge_exactly_in_any_order(a: list[bool], b: list[bool], c: list[bool]) -> None:
    x, y, z = Proportion.of(a), Proportion.of(b), Proportion.of(c)
    assert (
        (x + y) + z == x + (y + z) == z + y + x == merged(Proportion, [y, z, x]) == Proportion.of(a + b + c)
    )


@given(values, values, values)
def test_moments_merge_in_any_order(a: list[float], b: list[float], c: list[float]) -> None:
    x, y, z = Moments.of(a), Moments.of(b), Moments.of(c)
    assert x + y == y + x
    same((x + y) + z, x + (y + z))
    same(merged(Moments, [z, x, y]), Moments.of(a + b + c))


@given(values, values)
def test_joint_sums_merge_in_any_order(a: list[float], b: list[float]) -> None:
    x, y = Joint.of(a, a[::-1]), Joint.of(b, b[::-1])
    assert x + y == y + x
    same(x + y, Joint.of(a + b, a[::-1] + b[::-1]))


@pytest.mark.parametrize("kept", [Proportion(7, 3), Moments.of([1.5, 2.5]), Joint.of([1.0, 2.0], [0.0, 3.0])])
def test_state_survives_json(kept: Proportion | Moments | Joint) -> None:
    assert type(kept).load(json.loads(json.dumps(kept.dump()))) == kept


def test_moments_are_those_of_numpy() -> None:
    y, x = np.random.default_rng(1).normal(5, 2, (2, 500))
    assert (Moments.of(y).mean, Moments.of(y).variance) == pytest.approx((y.mean(), y.var(ddof=1)))
    covariance = np.cov(y, x)
    assert Joint.of(y, x).covariance == pytest.approx((covariance[0, 0], covariance[1, 1], covariance[0, 1]))
    assert math.isnan(Moments.of([1.0]).variance)
    assert math.isnan(Proportion().mean)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Proportion(3, 4),
        lambda: Proportion(3, -1),
        lambda: Moments.of([1.0, math.nan]),
        lambda: Moments.of([math.inf]),
        lambda: Moments(10, 100.0, 5.0),
        lambda: Moments(-1, 0.0, 0.0),
        lambda: Joint.of([1.0], [1.0, 2.0]),
        lambda: Joint.of([1.0], [math.nan]),
    ],
)
def test_what_no_units_can_have_is_refused(make) -> None:
    with pytest.raises(PenstockError):
        make()
