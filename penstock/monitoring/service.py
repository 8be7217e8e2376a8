"""Whether answers come, come soon enough, and whether the truth follows them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock.config.monitoring import Service
from penstock.monitoring.findings import Finding

__all__ = ["LATENCIES", "Served", "served", "service_findings"]

# Upper bounds in milliseconds: 10 to a decade, 0.01 ms … 100 s. A percentile is right to 26 %.
LATENCIES = np.logspace(-2, 5, 71)
IMPROBABLE = 1e-5


@dataclass
class Served:
    """What is counted of answers; those of two batches add up.

    Attributes:
        statuses: Rows by status.
        latencies: Rows by latency, shape (len(LATENCIES) + 1,).
        due: Rows so old that their truth should be there.
        known: Of those, rows whose truth is.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    latencies: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(LATENCIES) + 1, dtype=np.int64))
    due: int = 0
    known: int = 0

    def __add__(self, other: Served) -> Served:
        return Served(
            self.statuses + other.statuses,
            self.latencies + other.latencies,
            self.due + other.due,
            self.known + other.known,
        )

    def percentile(self, share: float) -> float | None:
        """Latency that ``share`` of the rows stay below, in milliseconds; None without any."""
        total = int(self.latencies.sum())
        if not total:
            return None
        at = int(np.searchsorted(np.cumsum(self.latencies), share * total))
        return float(LATENCIES[min(at, len(LATENCIES) - 1)])


def served(statuses: Counter[str], latency: NDArray[np.float64], *, due: int = 0, known: int = 0) -> Served:
    """Count a batch.

    Args:
        statuses: Rows by status.
        latency: In milliseconds, shape (rows,); not-a-number where it was not measured.
        due: Rows so old that their truth should be there.
        known: Of those, rows whose truth is.
    """
    at = np.searchsorted(LATENCIES, latency[np.isfinite(latency)])
    return Served(statuses, np.bincount(at, minlength=len(LATENCIES) + 1), due, known)


def service_findings(counts: Served, settings: Service) -> list[Finding]:
    """What is wrong with the service."""
    from scipy.stats import binom

    found = []
    rows = sum(counts.statuses.values())
    errors = rows - counts.statuses["ok"]
    # Beyond chance as well: one error among ten rows is no rate.
    if errors and binom.sf(errors - 1, rows, settings.max_errors) < IMPROBABLE:
        worst = ", ".join(
            f"{count} × {name}" for name, count in counts.statuses.most_common(4) if name != "ok"
        )
        share = errors / rows
        words = f"{share * 100:.1f} % of the rows got an error instead of an answer: {worst}"
        found.append(_finding("errors", share, settings.max_errors, words, grave=share > 0.1))
    slow = counts.percentile(0.95)
    if settings.max_latency_ms is not None and slow is not None and slow > settings.max_latency_ms:
        words = (
            f"5 % of the answers take longer than {slow:.3g} ms; {settings.max_latency_ms:g} ms is the limit"
        )
        found.append(_finding("latency", slow, settings.max_latency_ms, words, grave=False))
    if settings.truth_after != "never" and counts.due:
        share = counts.known / counts.due
        if binom.cdf(counts.known, counts.due, settings.min_truth) < IMPROBABLE:
            words = f"the truth of {share * 100:.0f} % of the rows is known {settings.truth_after:g} hours later; {settings.min_truth * 100:.0f} % is what is expected"
            found.append(
                Finding(
                    family="truth",
                    subject="truth",
                    severity="warning",
                    score=settings.min_truth / max(share, 0.01),
                    words=words,
                    value=share,
                    expected=settings.min_truth,
                )
            )
    return found


def _finding(subject: str, value: float, limit: float, words: str, *, grave: bool) -> Finding:
    return Finding(
        family="service",
        subject=subject,
        severity="critical" if grave else "warning",
        score=value / limit if limit else 10.0,
        words=words,
        value=value,
        expected=limit,
    )
