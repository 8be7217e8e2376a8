"""Whether what was answered is what the artefact answers: the same rows, once more."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from penstock.monitoring.findings import Finding
from penstock.monitoring.judged import SCORE

__all__ = ["Replay", "skew_findings"]

Replay = Callable[[pl.DataFrame], pl.DataFrame]  # inputs as logged → SCORE (null where a row does not fit)
SHARE = 0.001  # of rows that may differ: a row may have been logged while the model was replaced


def skew_findings(sample: pl.DataFrame, replay: Replay, limit: float) -> list[Finding]:
    """Answer logged rows again and compare.

    Args:
        sample: Inputs and SCORE as logged.
        replay: Answers rows.
        limit: Greatest difference; of a regression relative to the answer.
    """
    logged = sample.filter(pl.col(SCORE).is_not_null())
    if not logged.height:
        return []
    inputs = logged.select([name for name in logged.columns if not name.startswith("@")])
    again = replay(inputs)[SCORE].cast(pl.Float64).to_numpy()
    was = logged[SCORE].cast(pl.Float64).to_numpy()
    there = np.isfinite(again)
    if not there.any():
        return []
    off = np.abs(again - was)[there] / np.maximum(1.0, np.abs(again[there]))
    share = float((off > limit).mean())
    if share <= SHARE:
        return []
    words = f"serving is not what was trained: {share * 100:.1f} % of {int(there.sum())} answers differ from what the artefact gives for the logged rows, by up to {off.max():.3g}"
    return [
        Finding(
            family="skew",
            subject="answers",
            severity="critical",
            score=1.0 + share / SHARE / 10,
            words=words,
            value=share,
            expected=0.0,
        )
    ]
