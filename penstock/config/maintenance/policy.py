"""A declared policy of maintenance: preventive, condition-based, corrective."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from penstock.config.base import OpenShare, Share, View
from penstock.config.monitoring.spans import Span

__all__ = [
    "ByRollout",
    "Comparison",
    "Condition",
    "Corrective",
    "Maintenance",
    "Objective",
    "Preventive",
    "Prices",
    "Probe",
    "Retraining",
]

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
    before: str | None = (
        None  # Parquet with rows that the champion has learnt from; some are written beside `fresh`
    )
    mix: Annotated[float, Field(gt=0.0)] = 1.0  # rows of `before` for each fresh one, at most
    recent: Span = timedelta(days=30)  # how far back such rows go
    held: OpenShare = 0.3  # share of them, the latest, that are kept back for the comparison
    timeout: Span = timedelta(hours=6)
    per_day: Annotated[int, Field(ge=1)] = 2  # retrainings in 24 hours, at most


class ByRollout(View):
    """A challenger becomes a canary of a rollout; the incident stays open until the rollout has taken it, or taken it back."""

    rollout: str  # conf/rollout/NAME.yaml
    steps: Annotated[tuple[Annotated[float, Field(gt=0.0, le=100.0)], ...], Field(min_length=1)] = (
        5,
        25,
        100,
    )
    bake: Annotated[str, Field(pattern=r"^[0-9]+(ms|s|m|h|d)$")] = "1h"  # of each step
    at_least: Annotated[int, Field(ge=1)] = 200  # requests of each step


class Comparison(View):
    """When a challenger takes over."""

    holdout: str  # Parquet with the target, that neither has learnt from
    alpha: OpenShare = 0.05  # of the test on recent truth, one-sided
    min_gain: Annotated[float, Field(ge=0.0)] = 0.0  # of the AUC (else of the mean loss), on recent truth
    max_loss: Annotated[float, Field(ge=0.0)] = 0.01  # of the same, on the hold-out
    min_truths: Annotated[int, Field(ge=50)] = 300  # recent rows; with fewer, the hold-out decides


class Objective(View):
    """What is promised."""

    availability: OpenShare = (
        0.995  # share of requests that are answered well, and of the time without an incident
    )
    latency_ms: Annotated[float, Field(gt=0.0)] | None = None  # an answer that takes longer is none
    window: Span = timedelta(days=30)  # of the error budget


class Probe(View):
    """Where `penstock maintain probe` asks whether anybody is there; a scheduler runs it every `every`."""

    url: Annotated[str, Field(pattern=r"^https?://")]
    every: Span = timedelta(minutes=1)
    timeout: Span = timedelta(seconds=5)


class Prices(View):
    """What things cost; reported, and never decided by."""

    currency: str = "EUR"
    serving_hour: Annotated[float, Field(ge=0.0)] = 0.0  # of everything that answers
    training_hour: Annotated[float, Field(ge=0.0)] = 0.0
    point: Annotated[float, Field(ge=0.0)] = (
        0.0  # what 0.01 of AUC (else of the loss) is worth in 1,000 predictions
    )


class Maintenance(View):
    """What conf/maintenance/NAME.yaml declares."""

    monitor: str  # conf/monitor/NAME.yaml
    preventive: Preventive | None = Preventive()
    condition: Condition | None = Condition()
    corrective: Corrective | None = Corrective()
    retraining: Retraining
    comparison: Comparison
    promote: Command | ByRollout  # a command: {artefact} is replaced by the challenger's folder
    champion: str | None = (
        None  # folder that the version in force is copied to; what conf/monitor/ names as artefact
    )
    enabled: bool = True  # false: nothing is done by itself; what is under way is still followed to its end
    objective: Objective = Objective()
    probe: Probe | None = None
    prices: Prices | None = None
