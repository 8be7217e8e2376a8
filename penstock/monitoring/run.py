"""`penstock monitor run`: every window that is complete and not judged, or of which more has come true since."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from penstock.composition import composed_file
from penstock.config import validated
from penstock.config.monitoring import Monitor
from penstock.monitoring.alerting import Change, tell
from penstock.monitoring.estimation import estimate
from penstock.monitoring.fairness import fairness_findings, groups
from penstock.monitoring.findings import Finding, ranked
from penstock.monitoring.history import History, WindowRecord
from penstock.monitoring.judge import Judged, Observed, judge, observed
from penstock.monitoring.judged import FLOOR, LABEL, SCORE, TRUTH
from penstock.monitoring.log import LATENCY, STATUS, VERSION, Span, batches, spans, truth_counts, truths
from penstock.monitoring.reference import Reference
from penstock.monitoring.references import References, references, replaying
from penstock.monitoring.service import Served, served, service_findings
from penstock.monitoring.skew import skew_findings
from penstock.monitoring.trends import Past, condensed, trend_findings

if TYPE_CHECKING:
    from penstock.artifact.model import Model

__all__ = ["Monitoring", "Ran", "declared", "folder_of"]

Advance = Callable[[float], None]


def declared(name: str, overrides: list[str] | None = None, root: Path = Path()) -> Monitor:
    """What conf/monitor/NAME.yaml declares.

    Raises:
        PenstockError: There is no such file, conf/ does not compose, or what comes out does not fit.
    """
    found = composed_file("monitor", name, overrides or [], root)
    return validated(Monitor, found, Path(f"conf/monitor/{name}.yaml"), hint="mend it there")


def folder_of(name: str, root: Path = Path()) -> Path:
    """Where a monitor keeps its history and calibrations."""
    return root / ".penstock/monitor" / name


@dataclass(frozen=True)
class Ran:
    """What a run did.

    Attributes:
        judged: Windows, in the order of time.
        change: What was told.
    """

    judged: list[WindowRecord]
    change: Change


@dataclass
class _Seen:
    """A window with everything that was counted of it."""

    observed: Observed
    served: Served
    versions: Counter[str]
    groups: dict[str, pl.DataFrame]


class Monitoring:
    """One monitor.

    Args:
        name: Of conf/monitor/NAME.yaml.
        view: What it declares.
        root: The repository.
    """

    def __init__(self, name: str, view: Monitor, root: Path = Path()) -> None:
        self.name, self.view, self.root = name, view, root
        self.folder = folder_of(name, root)
        self.history = History(self.folder / "history.sqlite")
        self.requests, self.truths = root / view.requests, root / view.truths

    @cached_property
    def model(self) -> Model:
        """The artefact."""
        from penstock.artifact.model import load

        return load(self.root / (self.view.artefact or f"models/{self.view.model}"))

    @cached_property
    def references(self) -> References:
        """What windows are compared with."""
        return references(self.view, self.model, self.root, self.folder)

    def run(
        self,
        now: datetime,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        advance: Advance = lambda _windows: None,
    ) -> Ran:
        """Judge, and tell.

        Args:
            now: The time, UTC.
            since: From where on windows are judged, also those that were; None: what is new.
            until: No window ends later; None: as far as the log is complete.
            advance: Told of every window that is done.

        Raises:
            PenstockError: The reference, the artefact or the log cannot be read, or a receiver cannot be reached.
        """
        todo = self._due(now, since, until)
        judged = []
        if todo:
            known = truths(self.truths, self.view.model, since=todo[0][0])
            for span in todo:
                record = self._judge(span, known, now)
                self.history.put(record)
                judged.append(record)
                advance(1)
        self.history.forget(now - self.view.windows.keep)
        return Ran(judged, tell(self.name, self.history, self.view.alerting, now))

    def latest(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Inputs and answers of the reference and of the latest window (some thousand rows), to look at side by side."""
        last = self.history.windows(last=1)[-1]
        span = (last.start, last.end)
        reference = self.references.of(last.start, self.view.season)
        known = truths(self.truths, self.view.model, since=last.start)
        sketch = self._seen(span, known, last.end, reference).observed.sketch
        names = {name: name for name in reference.inputs} | {SCORE: "score", LABEL: "label"}
        return tuple(
            frame.select(pl.col(name).alias(told) for name, told in names.items() if name in frame.columns)
            for frame in (reference.frame, sketch.sample)
        )  # type: ignore[return-value]

    def _due(self, now: datetime, since: datetime | None, until: datetime | None) -> list[Span]:
        view = self.view
        past = self.history.windows(last=view.trends.windows)
        complete = now - view.windows.grace
        last = complete if until is None else min(until, complete)
        first = since if since is not None else (past[-1].end if past else None)
        new = spans(
            self.requests, view.model, view.windows.every, view.windows.min_rows, since=first, until=last
        )
        if since is not None or not past:
            return new
        # Of what was judged, that of which more has come true.
        open_ones = [(one.start, one.end) for one in past if one.truths < one.rows]
        if not open_ones:
            return new
        known = truths(self.truths, view.model, since=open_ones[0][0])
        counts = truth_counts(self.requests, view.model, open_ones, known)
        before = {one.start: one.truths for one in past}
        again = [span for span, count in zip(open_ones, counts, strict=True) if count > before[span[0]]]
        return again + new

    def _judge(self, span: Span, known: pl.DataFrame, now: datetime) -> WindowRecord:
        reference = self.references.of(span[0], self.view.season)
        seen = self._seen(span, known, now, reference)
        sketch = seen.observed.sketch
        judged = self._judged(reference, seen)
        found = judged.findings
        past = [_past(one) for one in self.history.windows(last=self.view.trends.windows, before=span[0])]
        past.append(
            Past(
                sketch.rows, judged.means, judged.metrics.get("loss"), condensed(sketch.errors), sketch.truths
            )
        )
        found += trend_findings(past, self.view.trends, spread=_spread(reference), scale=_scale(reference))
        found += service_findings(seen.served, self.view.service)
        found += self._fairness(reference, seen)
        found += self._skew(sketch.sample)
        metrics = judged.metrics | self._served(seen.served)
        return WindowRecord(
            start=span[0],
            end=span[1],
            rows=sum(seen.served.statuses.values()),
            truths=sketch.truths,
            versions=tuple(sorted(seen.versions)),
            findings=tuple(ranked(found)),
            metrics=dict(metrics),
            psi=dict(judged.psi),
            means=dict(judged.means),
            errors=condensed(sketch.errors),
        )

    def _judged(self, reference: Reference, seen: _Seen) -> Judged:
        sketch = seen.observed.sketch
        if sketch.rows:
            self.references.calibrated(reference, "inputs", sketch.rows)
        if sketch.truths and reference.sketch.truths:
            self.references.calibrated(reference, "truths", sketch.truths)
        judged = judge(reference, seen.observed)
        expected = estimate(reference, sketch.sample) if reference.sketch.truths else None
        if expected is not None:
            judged.metrics |= {
                "estimated_roc_auc": expected.roc_auc,
                "estimated_positives": expected.positives,
            }
        return judged

    def _seen(self, span: Span, known: pl.DataFrame, now: datetime, reference: Reference) -> _Seen:
        columns = {
            name: column
            for name, column in self.model.manifest.columns.items()
            if name not in self.view.ignore
        }
        empty = pl.DataFrame(
            schema={**dict.fromkeys(reference.inputs, pl.String), SCORE: pl.Float64, LABEL: pl.String}
        )
        seen = _Seen(observed(empty, reference, {}), Served(), Counter(), {})
        for batch in batches(
            self.requests, self.model.manifest, self.view.model, span, known, arms=self.view.arms
        ):
            statuses = Counter(dict(batch[STATUS].fill_null("ok").value_counts().iter_rows()))
            due = self._is_due(span, now)
            answered = batch.filter((pl.col(STATUS).fill_null("ok") == "ok") & pl.col(SCORE).is_not_null())
            seen.served += served(
                statuses,
                batch[LATENCY].cast(pl.Float64).fill_null(float("nan")).to_numpy(),
                due=answered.height if due else 0,
                known=int(answered[TRUTH].is_not_null().sum()) if due else 0,
            )
            seen.versions.update(dict(batch[VERSION].drop_nulls().value_counts().iter_rows()))
            seen.observed += observed(answered.drop(*self.view.ignore, strict=False), reference, columns)
            for name in self.view.fairness.columns:
                if name in answered.columns and LABEL in answered.columns:
                    kept = answered.select(name, LABEL, pl.col(TRUTH).cast(pl.String))
                    seen.groups[name] = pl.concat(
                        [seen.groups.get(name, kept.clear()), kept], how="vertical_relaxed"
                    )
        return seen

    def _is_due(self, span: Span, now: datetime) -> bool:
        hours = self.view.service.truth_after
        return hours != "never" and now - span[1] >= timedelta(hours=hours)

    def _fairness(self, reference: Reference, seen: _Seen) -> list[Finding]:
        positive = self.model.manifest.positive
        if positive is None:
            return []
        return [
            finding
            for name, frame in seen.groups.items()
            if name in reference.frame.columns
            for finding in fairness_findings(
                name,
                groups(reference.frame, name, positive),
                groups(frame, name, positive),
                self.view.fairness,
            )
        ]

    def _skew(self, sample: pl.DataFrame) -> list[Finding]:
        if not self.view.replay_rows or not sample.height or VERSION not in sample.columns:
            return []
        mine = sample.filter(pl.col(VERSION) == self.model.manifest.sha256[:12])
        # A column that is ignored because it is hashed cannot be answered with.
        if any(name in self.view.ignore for name in self.model.manifest.columns):
            return []
        rows = mine.gather_every(max(1, -(-mine.height // self.view.replay_rows))) if mine.height else mine
        return skew_findings(rows, replaying(self.model), self.view.limits.max_replay_difference)

    @staticmethod
    def _served(counts: Served) -> dict[str, float]:
        rows = sum(counts.statuses.values())
        found = {"errors": 1 - counts.statuses["ok"] / rows} if rows else {}
        for share, name in ((0.5, "latency_p50_ms"), (0.95, "latency_p95_ms"), (0.99, "latency_p99_ms")):
            value = counts.percentile(share)
            if value is not None:
                found[name] = value
        return found


def _past(record: WindowRecord) -> Past:
    means = {name: value for name, value in record.means.items() if value is not None}
    return Past(record.rows, means, record.metrics.get("loss"), record.errors, record.truths)


def _spread(reference: Reference) -> float:
    """Standard deviation of the loss of one row."""
    place, sketch = reference.coding.slice(0), reference.sketch
    if not sketch.truths:
        return 1.0
    mean = sketch.loss[place].sum() / sketch.truths
    return float(np.sqrt(max(1e-12, sketch.squares[0, place].sum() / sketch.truths - mean**2)))


def _scale(reference: Reference) -> float:
    """The greatest loss that one row can have."""
    return reference.target.cap if reference.target.task == "regression" else float(-np.log(FLOOR))
