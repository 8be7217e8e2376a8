"""Numbers read as they should, and the metrics are those that are measured."""

from __future__ import annotations

import math
import typing

import pytest

from penstock.config import Scoring
from penstock.report.wording import METRICS, figure, number, share
from penstock.validation import metrics


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (math.nan, "–"), (0, "0"), (7043, "7043"), (1973.4, "1973"), (9999.7, "10,000"), (-3.0, "−3"), (0.847046, "0.847"), (20402.7, "20,403"),
        (1.2e-7, "1.2 × 10⁻⁷"), (-2e-5, "−2 × 10⁻⁵"), (1e18, "1,000,000,000,000,000,000"), (57.6478, "57.65"),
    ],
)  # fmt: skip
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (math.inf, "–"), (1, "1.0000"), (0.847046, "0.8470"), (-0.0108, "−0.0108"), (20402.7, "20,403"), (966.42, "966.42")],
)  # fmt: skip
def test_figure(value: float | None, text: str) -> None:
    assert figure(value) == text
    assert figure(0.0851585, "share") == "8.5%"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0.0%"), (0.0004, "< 0.1%"), (0.26537, "26.5%"), (1, "100.0%")],
)  # fmt: skip
def test_share(value: float | None, text: str) -> None:
    assert share(value) == text


def test_every_measured_metric_has_words_and_the_right_direction() -> None:
    measured = {*metrics.names("binary", tuned=False), *metrics.names("regression", tuned=False)}
    assert set(METRICS) == measured
    assert set(typing.get_args(Scoring.model_fields["metric"].annotation)) <= measured
    for name, about in METRICS.items():
        assert (about.better == "higher") == metrics.greater_is_better(name)
