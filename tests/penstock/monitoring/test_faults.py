"""Faults planted into real rows are found, in the right place, and clean windows are left alone.

A small part of benchmarks/monitoring.py, whose table has every fault over several splits.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
import pytest

from benchmarks.faults import FAULTS, Fault, Stream, World, world
from penstock.config.monitoring import Limits
from penstock.monitoring.estimation import estimate
from penstock.monitoring.judge import observed
from penstock.monitoring.judged import SCORE, TRUTH
from penstock.monitoring.sketch import observe

CLEAN = 25
SLOW = {
    "slow ramp: fibre 5 % more often each window": 20,
    "slow ramp: charges + 0.02 σ a window": 12,
    "slow concept drift: + 0.5 % a window": 20,
}
HERE = {name: fault for name, fault in FAULTS.items() if fault.dataset == "churn"}


@cache
def churn() -> World:
    return world("churn", 1, limits=Limits(resamples=400))


def stream() -> Stream:
    """With a clean history."""
    here, rng = churn(), np.random.default_rng(0)
    judged = Stream(here)
    for _ in range(9):
        judged.judge(Fault("churn", ()).window(here, 0, rng))
    return judged


@cache
def history() -> tuple:
    return tuple(stream().past)


def test_clean_windows_are_left_alone():
    here, rng = churn(), np.random.default_rng(1)
    judged = Stream(here)
    called_out = sum(bool(judged.judge(Fault("churn", ()).window(here, 0, rng))) for _ in range(CLEAN))
    # Of 25 at 5 %, more than 4 come with a probability of less than 1 %.
    assert called_out <= 4


@pytest.mark.parametrize("name", HERE)
def test_a_fault_is_found(name):
    here, rng, fault = churn(), np.random.default_rng(2), HERE[name]
    judged = Stream(here, past=list(history()))
    for step in range(1, SLOW.get(name, 2) + 1):
        causes = judged.judge(fault.window(here, step, rng))
        if any(cause.name in fault.causes for cause in causes):
            return
    pytest.fail(f"not found: {name}")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unit change: charges in cents", "100 times as large"),
        ("swapped columns: partner and dependents", "swapped?"),
        ("mojibake", "wrong encoding"),
        ("a batch sent twice (20 %)", "a batch sent twice?"),
        ("stuck sensor for a fifth of the window", "stuck"),
        ("truncated digits", "rounded, or cut off?"),
        ("correlation break: charges shuffled", "no longer goes with the other columns"),
        ("categories in capitals", "known values written another way"),
    ],
)
def test_what_it_looks_like_is_said(name, words):
    here, rng = churn(), np.random.default_rng(3)
    causes = Stream(here).judge(HERE[name].window(here, 1, rng))
    assert any(words in finding.words for cause in causes for finding in cause.findings)


def test_many_columns_make_one_cause_and_its_effects_none_of_their_own():
    here, rng = churn(), np.random.default_rng(4)
    shuffled = pl.all().exclude(TRUTH, "senior_citizen", "partner").shuffle(5)
    frame = here.window(rng).with_columns(
        shuffled, pl.lit(0).alias("senior_citizen"), pl.lit(1).alias("partner")
    )
    causes = Stream(here).judge(here.answered(frame))
    assert [cause.name for cause in causes] == ["inputs"]
    assert "with it: performance" in causes[0].headline


def test_batches_add_up_to_the_whole():
    here, rng = churn(), np.random.default_rng(5)
    frame = here.answered(here.window(rng))
    whole = observed(frame, here.reference, here.columns)
    parts = observed(frame[:200], here.reference, here.columns) + observed(
        frame[200:], here.reference, here.columns
    )
    for name in ("counts", "sums", "second", "known", "loss", "residual", "squares", "ranking", "scores"):
        expected = getattr(whole.sketch, name)
        assert getattr(parts.sketch, name) == pytest.approx(expected, rel=1e-5, abs=1e-3), name
    assert parts.quality.broken == whole.quality.broken
    assert parts.sketch.sample.height == whole.sketch.sample.height == frame.height


def test_the_auc_is_estimated_under_a_covariate_shift():
    here = churn()
    weights = 0.05 + (here.pool["contract"] == "Month-to-month").to_numpy()
    rng = np.random.default_rng(6)
    frame = here.answered(here.pool[rng.choice(here.pool.height, 2000, p=weights / weights.sum())])
    from sklearn.metrics import roc_auc_score

    def area(rows: pl.DataFrame) -> float:
        return float(roc_auc_score((rows[TRUTH] == "Yes").to_numpy(), rows[SCORE].to_numpy()))

    found = estimate(here.reference, frame.drop(TRUTH))
    assert found is not None
    truth = area(frame)
    assert abs(found.roc_auc - truth) < 0.03
    # The shift matters: what the reference had is no estimate.
    assert abs(area(here.reference.frame) - truth) > 0.05
    sketch = observe(frame, here.reference.coding, here.reference.embedding, here.reference.target)
    assert found.positives == pytest.approx(sketch.ranking[1].sum() / sketch.truths, abs=0.04)
