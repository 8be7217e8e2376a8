"""What is said is what the numbers say, and what makes them worthless is said first."""

from __future__ import annotations

import json

import numpy as np
import pytest

from penstock.experiments.counts import Moments, Proportion
from penstock.experiments.horizon import compare_arms
from penstock.experiments.mismatch import sample_ratio
from penstock.experiments.sequential import always_valid, always_valid_arms
from penstock.experiments.verdict import guardrail, verdict

CONTROL = Proportion(4000, 400)


def _of(planned: int = 8000, better="higher", guardrails=(), **arms: Proportion):
    found = always_valid_arms(CONTROL, arms, planned=planned)
    return verdict(found, planned=planned, better=better, guardrails=guardrails)


def test_better() -> None:
    found = _of(b=Proportion(4000, 520))
    assert (found.decision, found.arm, found.stop) == ("better", "b", True)
    assert found.text == "b is better: +3.0 points (0.8 to 5.2), stop now"
    assert json.loads(json.dumps(found.dump()))["arm"] == "b"


def test_worse_and_which_way_is_good() -> None:
    assert _of(b=Proportion(4000, 280)).text.startswith("b is worse: -3.0 points")
    assert _of(b=Proportion(4000, 280), better="lower").decision == "better"


def test_undecided_and_no_difference() -> None:
    early = _of(planned=20_000, b=Proportion(3900, 400))
    assert (early.decision, early.stop) == ("undecided", False)
    assert early.text.startswith("not decided: 7,900 of 20,000 users so far (b: +0.3 points (")
    late = _of(planned=7_000, b=Proportion(3900, 400))
    assert (late.decision, late.stop) == ("no difference", True)


def test_the_best_of_several_and_units_counted_once() -> None:
    found = _of(planned=50_000, b=Proportion(4000, 520), c=Proportion(4000, 580), d=Proportion(4000, 300))
    assert found.arm == "c"
    assert "12,000 of" in _of(planned=50_000, b=Proportion(4000, 401), c=Proportion(4000, 402)).text


def test_a_test_for_one_look_decides_nothing_before_its_time() -> None:
    found = compare_arms(CONTROL, {"b": Proportion(4000, 520)})
    assert found["b"].significant
    assert verdict(found, planned=10_000, always=False).decision == "undecided"
    assert verdict(found, planned=8_000, always=False).decision == "better"


def test_an_assignment_that_is_off_comes_before_anything_else() -> None:
    found = always_valid_arms(CONTROL, {"b": Proportion(3000, 520)}, planned=8000)
    off = sample_ratio({"a": 4000, "b": 3000}, {"a": 0.5, "b": 0.5})
    said = verdict(found, planned=8000, mismatch=off)
    assert (said.decision, said.stop) == ("invalid", True)
    assert said.text.startswith("do not trust this: assignment is off (SRM p = ")
    assert "b has 3,000 of 3,500" in said.text


def test_harm_to_a_guardrail_beats_a_win_and_doubt_delays_it() -> None:
    better = {"b": Proportion(4000, 520)}
    rng = np.random.default_rng(0)
    before = Moments.of(rng.normal(100, 20, 4000))
    slower = guardrail(
        "latency",
        before,
        Moments.of(rng.normal(110, 20, 4000)),
        arm="b",
        margin=5,
        planned=8000,
        better="lower",
    )
    alike = guardrail(
        "latency",
        before,
        Moments.of(rng.normal(100, 20, 4000)),
        arm="b",
        margin=5,
        planned=8000,
        better="lower",
    )
    tight = guardrail(
        "latency",
        before,
        Moments.of(rng.normal(100, 20, 4000)),
        arm="b",
        margin=0.5,
        planned=8000,
        better="lower",
    )
    assert [item.status for item in (slower, alike, tight)] == ["harmed", "held", "open"]
    assert slower.loss == pytest.approx(10, abs=2)
    assert _of(guardrails=[slower], **better).decision == "harmful"
    assert _of(guardrails=[alike], **better).stop
    waiting = _of(planned=20_000, guardrails=[tight], **better)
    assert (waiting.decision, waiting.stop) == ("better", False)
    assert "latency" in waiting.text


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_a_guardrail_looks_the_way_that_is_good(better) -> None:
    more, less = Proportion(5000, 800), Proportion(5000, 500)
    found = guardrail(
        "orders",
        CONTROL,
        more if better == "lower" else less,
        arm="b",
        margin=0.01,
        planned=9000,
        better=better,
    )
    # 16 % or 10 % beside 10 %.
    assert found.status == ("harmed" if better == "lower" else "open")
    assert found.low < found.loss < found.high


def test_a_loss_at_the_margin_is_rarely_called_held() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(300):
        a, b = rng.normal(0, 1, 2000), rng.normal(-0.2, 1, 2000)
        held += any(
            guardrail("m", Moments.of(a[:n]), Moments.of(b[:n]), arm="b", margin=0.2, planned=4000).status
            == "held"
            for n in range(100, 2001, 100)
        )
    assert held <= 300 * 0.05 + 5


def test_one_side_is_sharper_than_two() -> None:
    two = always_valid(CONTROL, Proportion(4000, 470), planned=8000)
    one = always_valid(CONTROL, Proportion(4000, 470), planned=8000, alternative="greater")
    assert one.p < two.p
    assert one.low > two.low
