"""A declared policy of maintenance: preventive, condition-based, corrective."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from penstock.config.base import OpenShare, Share, View
from penstock.config.monitoring.spans import Span

__all__ = ["Comparison", "Condition", "Corrective", "Maintenance", "Objective", "Preventive", "Retraining"]

Cause = Literal["inputs", "predictions", "performance", "fairness", "skew", "service", "truth"]
Command = Annotated[tuple[str, ...], Field(min_length=1)]  # a program and its arguments; no shell


class Preventive(View):
    """Retraining by the calendar."""

    every: Span = timedelta(days=30)  # since the last retraining, whatever came of it


class Condition(View):
    """Retraining because of what monitoring finds, before anybody complains."""

    causes: tuple[Cause, ...] = ("performance", "predictions")
    min_estimated_auc: Share | None = None
    rest: Span = timedelta(days=1)  # between two retrainings that a condition asked for


class Corrective(View):
    """Taking a version back because something is broken."""

    causes: tuple[Cause, ...] = ("skew", "service")
    rollback: Command | None = None  # None: a person is told, and does it
    retrain: bool = True  # afterwards


class Retraining(View):
    """How a challenger is made, in a clone of the repository. {name} is replaced by the incident's id."""

    command: Command = ("dvc", "exp", "run", "--name", "{name}")
    artefact: str  # the folder in the clone where the challenger lies then
    fresh: str | None = None  # Parquet in the clone that logged rows with their truth are written to before
    recent: Span = timedelta(days=30)  # how far back such rows go
    held: OpenShare = 0.3  # share of them, the latest, that are kept back for the comparison
    timeout: Span = timedelta(hours=6)


class Comparison(View):
    """When a challenger takes over."""

    holdout: str  # Parquet with the target, that neither has learnt from
    alpha: OpenShare = 0.05  # of the test on recent truth, one-sided
    min_gain: Annotated[float, Field(ge=0.0)] = 0.0  # of the AUC (else of the mean loss), on recent truth
    max_loss: Annotated[float, Field(ge=0.0)] = 0.01  # of the same, on the hold-out
    min_truths: Annotated[int, Field(ge=50)] = 300  # recent rows; with fewer, the hold-out decides


class Objective(View):
    """What is promised."""

    availability: OpenShare = 0.995
    window: Span = timedelta(days=30)


class Maintenance(View):
    """What conf/maintenance/NAME.yaml declares."""

    monitor: str  # conf/monitor/NAME.yaml
    preventive: Preventive | None = Preventive()
    condition: Condition | None = Condition()
    corrective: Corrective | None = Corrective()
    retraining: Retraining
    comparison: Comparison
    promote: Command  # the hook: {artefact} is replaced by the challenger's folder
    objective: Objective = Objective()
