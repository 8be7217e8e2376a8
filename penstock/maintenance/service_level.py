"""Whether what is promised is kept, from what happened: requests of the log, and probes of whether anybody is there.

Burn rates over several windows follow the Site Reliability Workbook (Google, 2018), chapter 5: a long window says that it matters,
a short one that it goes on.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from penstock.config.maintenance import Objective, Probe
from penstock.errors import PenstockError
from penstock.request_reading import files, scan

__all__ = ["BURNS", "Burn", "Level", "Probes", "burns", "level", "probe", "probed"]

HOUR = timedelta(hours=1)
# Long window, short window, how many times as fast as allowed, and what is to be done. Of a budget of 30 days: 2 % of it in an
# hour, 5 % in six hours, 10 % in three days.
BURNS = (
    (HOUR, HOUR / 12, 14.4, "page"),
    (6 * HOUR, HOUR / 2, 6.0, "page"),
    (72 * HOUR, 6 * HOUR, 1.0, "ticket"),
)


@dataclass(frozen=True)
class Level:
    """Of a span of time.

    Attributes:
        requests: Rows that were asked for.
        good: Of them, answered without error, and soon enough.
        objective: Share of them that is promised.
    """

    requests: int
    good: int
    objective: float

    @property
    def share(self) -> float | None:
        """Of good ones; None where nobody has asked."""
        return self.good / self.requests if self.requests else None

    @property
    def burn(self) -> float:
        """How many times as fast as allowed the budget was used."""
        bad = 1 - self.good / self.requests if self.requests else 0.0
        return bad / (1 - self.objective)

    @property
    def left(self) -> float:
        """Share of the budget of these requests that is left; negative when it is overdrawn."""
        return 1 - self.burn


@dataclass(frozen=True)
class Burn:
    """A pair of windows.

    Attributes:
        window: The long one.
        rate: Of the long one.
        recent: Of the short one.
        limit: Both beyond it is an alert.
        severity: Of that: "page" or "ticket".
    """

    window: timedelta
    rate: float
    recent: float
    limit: float
    severity: str

    @property
    def fires(self) -> bool:
        """Whether somebody is to look."""
        return self.rate > self.limit and self.recent > self.limit


def level(folder: Path, model: str, since: datetime, until: datetime, objective: Objective) -> Level:
    """What was answered well, by the request log.

    Args:
        folder: Of the log.
        model: Its name there.
        since: Begin.
        until: End.
        objective: What a good answer is.
    """
    if not files(folder, model, since=since, until=until):
        return Level(0, 0, objective.availability)
    good = pl.col("status") == "ok"
    if objective.latency_ms is not None:
        good &= pl.col("latency_ms") <= objective.latency_ms
    found = (
        scan(folder, model, since=since, until=until)
        .filter(pl.col("role") == "answer")
        .select(pl.len().alias("requests"), good.fill_null(value=False).sum().alias("good"))
        .collect()
    )
    requests, right = found.row(0)
    return Level(requests, right, objective.availability)


def burns(folder: Path, model: str, until: datetime, objective: Objective) -> list[Burn]:
    """How fast the budget is used at a moment, over ``BURNS``."""

    def rate(span: timedelta) -> float:
        return level(folder, model, until - span, until, objective).burn

    return [Burn(long, rate(long), rate(short), limit, severity) for long, short, limit, severity in BURNS]


# --- probes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probes:
    """Of a span of time.

    Attributes:
        count: That were made.
        good: That were answered.
        expected: That should have been made; fewer mean that nobody looked, which is not the same as up.
    """

    count: int
    good: int
    expected: int


def probe(view: Probe, path: Path, now: datetime) -> tuple[bool, str]:
    """Ask once, and append the outcome to a file.

    Args:
        view: What is declared.
        path: JSON lines: at, ok, ms, words.
        now: The time, UTC.

    Returns:
        Whether it was answered with 200, and what was.
    """
    began = time.perf_counter()
    try:
        with urllib.request.urlopen(view.url, timeout=view.timeout.total_seconds()) as answer:  # noqa: S310  (http or https: Probe.url)
            words = str(answer.status)
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        words = str(getattr(error, "reason", error))
    took = (time.perf_counter() - began) * 1000
    line = {"at": now.isoformat(), "ok": words == "200", "ms": round(took, 1), "words": words[:200]}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return words == "200", words


def probed(path: Path, since: datetime, until: datetime, every: timedelta) -> Probes:
    """Probes of a span; a last line that is cut short is left out.

    Raises:
        PenstockError: Another line is none.
    """
    found: list[bool] = []
    lines: Sequence[str] = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            one = json.loads(line)
            at, ok = datetime.fromisoformat(one["at"]), bool(one["ok"])
        except (ValueError, KeyError, TypeError) as error:
            raise PenstockError(f"{path}:{number}: no probe ({error})", hint="remove the line") from error
        if since <= at < until:
            found.append(ok)
    return Probes(len(found), sum(found), max(1, round((until - since) / every)))
