"""From where on something is worth a person's time.

What can be calibrated is: limits of drift and of performance come from resampling the reference, so that a window
in which nothing is wrong is called out with the probability ``alpha``. The floors below are of another kind: they say
which difference is too small to matter, however certain it is.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from penstock.config.base import OpenShare, Share, View

__all__ = ["Limits", "Service", "Trends"]

Positive = Annotated[float, Field(gt=0.0)]


class Limits(View):
    """Of a window against the reference."""

    alpha: OpenShare = 0.01  # probability that anything at all is said of a window in which nothing is wrong
    resamples: Annotated[int, Field(ge=200, le=10_000)] = 1000
    reference_rows: Annotated[int, Field(ge=200)] = (
        10_000  # drawn from a larger reference, for the calibration
    )
    min_psi: Share = 0.02  # of one column, with `min_distance`: below both, drift is not worth a word
    min_distance: Positive = 0.05  # Wasserstein's, in standard deviations of the reference
    q_value: OpenShare = 0.05  # false discoveries among the columns of a window (Benjamini and Hochberg)
    min_missing: Share = 0.01  # share of missing values beyond the reference's
    min_common: Share = 0.05  # share of one value beyond the reference's
    min_loss: Share = 0.05  # of the loss, relative to the reference's
    min_auc: Share = 0.01
    min_slice_rows: Annotated[int, Field(ge=10)] = 50
    max_replay_difference: Positive = 1e-4  # of an answer that the artefact gives once more


class Trends(View):
    """Over windows that were judged before."""

    windows: Annotated[int, Field(ge=8, le=1000)] = 24
    alpha: OpenShare = 0.002  # of all columns together (Bonferroni)
    min_shift: Positive = 0.1  # from end to end of the line, in standard deviations of the reference
    adwin_delta: OpenShare = 1e-4
    cusum_limit: Positive = 9.0  # in standard deviations of a window's mean
    cusum_slack: Positive = 0.75  # as much as a window may be off, in the same


class Service(View):
    """Of the predictor itself."""

    max_latency_ms: Positive | None = None  # the 95th percentile
    max_errors: Share = 0.01
    truth_after: Literal["never"] | Annotated[float, Field(gt=0.0)] = (
        "never"  # hours until truth is to be there
    )
    min_truth: Share = 0.8  # of the rows that are so old
