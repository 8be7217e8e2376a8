"""What one run of a load did: told to the terminal, kept in the journal, and turned into metrics and alerts."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from penstock.config.base import View

__all__ = ["Change", "Report"]


class Change(View):
    """The shape of the source changed."""

    column: str
    what: Literal["new", "missing", "type", "back"]
    was: str | None = None  # its type before
    found: str | None = None
    policy: str  # what was done about it: evolve, freeze, discard_row, discard_value


class Report(View):
    """One run, from its start to its end or failure. Times are UTC."""

    name: str
    started: datetime
    ended: datetime | None = None
    outcome: Literal["running", "done", "failed", "killed"] = "running"
    error: str | None = None  # without secrets
    read: int = 0  # rows that the source gave, those that could not be read as rows included
    quarantined: int = 0
    filtered: int = 0  # left out by steps
    discarded_values: int = 0
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    rows: int = 0  # in the table afterwards
    bytes: int = 0  # of the rows read, in memory
    commits: int = 0
    load: int = 0  # number of the last commit
    reasons: dict[str, int] = Field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    cursor: int | float | str | None = None
    remaining: int | None = None  # rows that the source is known to have left
