"""One model that is watched."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from penstock.config.base import View
from penstock.config.monitoring.alerting import Alerting
from penstock.config.monitoring.limits import Limits, Service, Trends
from penstock.config.monitoring.reference import Reference
from penstock.config.monitoring.spans import Span

__all__ = ["Fairness", "Monitor", "Season", "Windows"]

Season = Literal["none", "hour_of_day", "day_of_week", "hour_of_week"]


class Windows(View):
    """How the log is cut. A window with too few rows is joined to the next ones."""

    every: Span = timedelta(hours=1)
    min_rows: Annotated[int, Field(ge=50)] = 200
    grace: Span = timedelta(minutes=5)  # for what is still being written
    keep: Span = timedelta(days=400)  # of history


class Fairness(View):
    """Groups that the model is to treat alike."""

    columns: tuple[str, ...] = ()
    min_ratio: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8  # of selection rates: the four-fifths rule
    max_difference: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1  # of true- and of false-positive rates
    min_rows: Annotated[int, Field(ge=10)] = 50  # of a group


class Monitor(View):
    """What conf/monitor/NAME.yaml declares."""

    model: str  # as the log names it
    artefact: str | None = None  # its folder: contract, task and the replay of answers. None: models/MODEL
    requests: str = "data/requests"
    truths: str = "data/truths"
    arms: tuple[str, ...] = ()  # none: every arm whose role is to answer
    reference: Reference
    season: Season = "none"  # with a reference from the log: rows of the same season only
    windows: Windows = Windows()
    ignore: tuple[str, ...] = ()  # columns that are not compared, such as hashed ones
    slices: tuple[str, ...] = ()  # columns whose values are judged apart; none: all of few values
    limits: Limits = Limits()
    trends: Trends = Trends()
    service: Service = Service()
    fairness: Fairness = Fairness()
    replay_rows: Annotated[int, Field(ge=0, le=100_000)] = 1000  # of a window, answered once more; 0: none
    alerting: Alerting = Alerting()
