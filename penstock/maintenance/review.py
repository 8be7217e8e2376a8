"""What a reliability review asks, answered from data for any period: history, targets, windows, budget, costs. Text, JSON, a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from penstock.config.maintenance import Maintenance, Prices
from penstock.maintenance.incidents import Incident, Incidents
from penstock.maintenance.reliability import Reliability, reliability
from penstock.maintenance.service_level import Burn, Level, Probes, burns, level, probed
from penstock.monitoring.history import WindowRecord
from penstock.monitoring.run import Monitoring

__all__ = ["Costs", "Review", "costs", "lines", "mean_time_to_detect", "page", "review"]


@dataclass(frozen=True)
class Costs:
    """In the currency of the prices.

    Attributes:
        serving: Of the period.
        per_thousand: Predictions; None without any.
        training: Of all retrainings in the period.
        gain: What the promoted ones have brought since, by what a point is worth and how many predictions came.
    """

    currency: str
    serving: float
    per_thousand: float | None
    training: float
    gain: float


@dataclass(frozen=True)
class Review:
    """Of a period.

    Attributes:
        name: Of conf/maintenance/.
        since: Begin of the period.
        until: Its end.
        policy: What is declared, and so what was promised.
        incidents: That touch the period.
        told: By incidents: availability, MTBF, MTTR, budget.
        mttd: Mean time to detect; None without anything to tell it by.
        requests: By the request log, of the period.
        budget: The same of the budget's window, up to the end of the period.
        burns: How fast the budget was used at the end of the period.
        probes: Of whether anybody was there; None where none is declared.
        costs: None without prices.
    """

    name: str
    since: datetime
    until: datetime
    policy: Maintenance
    incidents: Sequence[Incident]
    told: Reliability
    mttd: timedelta | None
    requests: Level
    budget: Level
    burns: Sequence[Burn]
    probes: Probes | None
    costs: Costs | None

    def dump(self) -> dict[str, Any]:
        """As JSON; spans of time in seconds."""

        def plain(value: Any) -> Any:
            if isinstance(value, timedelta):
                return value.total_seconds()
            if isinstance(value, dict):
                return {key: plain(one) for key, one in value.items()}
            return [plain(one) for one in value] if isinstance(value, list | tuple) else value

        return {
            "name": self.name,
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "objective": self.policy.objective.model_dump(mode="json"),
            "incidents": [one.model_dump(mode="json") for one in self.incidents],
            "by_incidents": plain(asdict(self.told)),
            "mean_seconds_to_detect": None if self.mttd is None else self.mttd.total_seconds(),
            "by_requests": asdict(self.requests) | {"share": self.requests.share},
            "budget": asdict(self.budget) | {"left": self.budget.left, "burn": self.budget.burn},
            "burns": [plain(asdict(one)) | {"fires": one.fires} for one in self.burns],
            "probes": None if self.probes is None else asdict(self.probes),
            "costs": None if self.costs is None else asdict(self.costs),
        }


def review(
    name: str,
    policy: Maintenance,
    monitoring: Monitoring,
    since: datetime,
    until: datetime,
    root: Path = Path(),
) -> Review:
    """Count.

    Args:
        name: Of conf/maintenance/.
        policy: What it declares.
        monitoring: The monitor that it names: where the log is, and what it has seen.
        since: Begin of the period.
        until: Its end.
        root: The repository.

    Raises:
        PenstockError: A log cannot be read.
    """
    folder = root / ".penstock/maintenance" / name
    every = Incidents(folder / "incidents.jsonl").all()
    within = [one for one in every if one.opened < until and (one.closed or until) >= since]
    log, model, objective = monitoring.requests, monitoring.view.model, policy.objective
    requests = level(log, model, since, until, objective)

    def predictions(start: datetime) -> int:
        return level(log, model, start, until, objective).requests

    seen = policy.probe
    return Review(
        name=name,
        since=since,
        until=until,
        policy=policy,
        incidents=within,
        told=reliability(every, since, until, objective=objective.availability),
        mttd=mean_time_to_detect(within, monitoring.history.windows()),
        requests=requests,
        budget=level(log, model, until - objective.window, until, objective),
        burns=burns(log, model, until, objective),
        probes=None if seen is None else probed(folder / "probes.jsonl", since, until, seen.every),
        costs=None if policy.prices is None else _costs(policy.prices, within, since, until, predictions),
    )


def _costs(
    prices: Prices, incidents: Sequence[Incident], since: datetime, until: datetime, predictions: Any
) -> Costs:
    counted = {one.id: predictions(_promoted(one) or until) for one in incidents}
    return costs(prices, incidents, until - since, predictions(since), counted)


def costs(
    prices: Prices,
    incidents: Sequence[Incident],
    period: timedelta,
    predictions: int,
    since_promoted: dict[str, int],
) -> Costs:
    """What serving and retraining cost, and what retraining brought.

    Args:
        prices: As declared.
        incidents: Of the period.
        period: Its length.
        predictions: In it.
        since_promoted: Predictions since each incident's challenger took over, by the incident's id.
    """
    serving = prices.serving_hour * (period / timedelta(hours=1))
    entries = [entry for one in incidents for entry in one.entries]
    seconds = sum(entry.figures.get("seconds", 0.0) for entry in entries)
    gain = 0.0
    for one in incidents:
        if _promoted(one) is not None:
            figures = next(entry.figures for entry in one.entries if entry.what == "compared")
            points = figures.get("gain", figures.get("holdout_gain", 0.0)) / 0.01
            gain += points * prices.point * since_promoted.get(one.id, 0) / 1000
    return Costs(
        currency=prices.currency,
        serving=serving,
        per_thousand=serving / (predictions / 1000) if predictions else None,
        training=prices.training_hour * seconds / 3600,
        gain=gain,
    )


def _promoted(incident: Incident) -> datetime | None:
    return next((entry.at for entry in incident.entries if entry.what == "promoted"), None)


def mean_time_to_detect(incidents: Sequence[Incident], windows: Sequence[WindowRecord]) -> timedelta | None:
    """From the begin of the first window of an unbroken row that shows an incident's causes, to when it was opened.

    Args:
        incidents: Those of the calendar have nothing to detect, and are left out.
        windows: That were judged, in the order of time.
    """
    found = []
    for one in incidents:
        began = None
        for window in reversed([window for window in windows if window.end <= one.opened]):
            if not {cause.name for cause in window.causes} & set(one.causes):
                break
            began = window.start
        if one.causes and began is not None:
            found.append(one.opened - began)
    return sum(found, timedelta()) / len(found) if found else None


def lines(one: Review) -> list[tuple[str, str]]:
    """Names and values, for a terminal and for the page."""
    told, share = one.told, one.requests.share
    found = [
        ("promised", f"{one.policy.objective.availability:.3%} over {_span(one.policy.objective.window)}"),
        ("good answers", "nobody asked" if share is None else f"{share:.3%} of {one.requests.requests}"),
        ("without incident", f"{told.availability:.3%} of the time, {_span(told.down)} down"),
    ]
    if one.probes is not None:
        found.append(
            ("probes", f"{one.probes.good} of {one.probes.count} answered; {one.probes.expected} were due")
        )
    found += [
        ("failures", str(told.failures)),
        ("MTBF", _span(told.mtbf)),
        ("MTTD", _span(one.mttd)),
        ("MTTR", _span(told.mttr)),
        ("error budget", f"{one.budget.left:.1%} left of {_span(one.policy.objective.window)}"),
    ]
    found += [
        (
            f"burn {_span(burn.window)}",
            f"{burn.rate:.2f} times as fast as allowed, {burn.recent:.2f} of late; limit {burn.limit:g}"
            + (f": {burn.severity}" if burn.fires else ""),
        )
        for burn in one.burns
    ]
    if one.costs is not None:
        each = one.costs.per_thousand
        unit = one.costs.currency
        found += [
            ("1,000 predictions", "nobody asked" if each is None else f"{each:.4g} {unit}"),
            ("retraining", f"{one.costs.training:.4g} {unit} spent, {one.costs.gain:.4g} {unit} gained"),
        ]
    return found


def _span(span: timedelta | None) -> str:
    if span is None:
        return "–"
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if span.total_seconds() >= unit:
            return f"{span.total_seconds() / unit:.4g} {name}"
    return f"{span.total_seconds():.3g} s"


def page(one: Review) -> str:
    """One HTML page that needs nothing else."""
    from jinja2 import ChoiceLoader, FileSystemLoader

    from penstock.report import page as shared

    environment = shared._environment()
    loader = ChoiceLoader([FileSystemLoader(Path(__file__).parent), environment.loader])  # type: ignore[list-item]
    template = environment.overlay(loader=loader).get_template("review.html")
    sections = [(name, name.capitalize()) for name in ("answer", "history", "targets", "budget", "costs")]
    return template.render(review=one, lines=lines(one), span=_span, sections=sections)
