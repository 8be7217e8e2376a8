"""When somebody is told, and how."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from penstock.config.base import Share, View
from penstock.config.loading.spans import duration

__all__ = ["Monitor", "Notify", "Severity", "Volume"]

Duration = Annotated[timedelta, BeforeValidator(duration)]
Severity = Literal["info", "warning", "critical"]


class Volume(View):
    """Whether a run brings about as many rows as runs before it did."""

    runs: Annotated[int, Field(ge=5)] = 30  # finished ones that it is compared with
    min_runs: Annotated[int, Field(ge=5)] = 10  # with fewer, nothing is said
    deviations: Annotated[float, Field(gt=0.0)] = 5.0  # from the median, in robust standard deviations
    min_rows: Annotated[int, Field(ge=0)] | None = None  # of any run
    max_rows: Annotated[int, Field(ge=0)] | None = None


class Notify(View):
    """An address that alerts are posted to."""

    url: str  # secrets as ${secret:NAME}
    format: Literal["alertmanager", "slack"] = "alertmanager"


class Monitor(View):
    """Limits whose breach is an alert. What is not set is not watched."""

    freshness: Duration | None = (
        None  # since the newest row (a cursor that is a time), else since the last good run
    )
    max_reject_share: Share | None = None  # of one run
    duration: Duration | None = None  # of one run
    volume: Volume | None = None
    schema_change: Severity | Literal["off"] = "warning"
    consecutive_failures: Annotated[int, Field(ge=1)] = 1
    notify: tuple[Notify, ...] = ()
