"""What a table remembers of the loads that made it, stored in one act with their rows."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from penstock.config import Column
from penstock.config.base import View

__all__ = ["LINEAGE", "LOAD", "POSITION", "SOURCE", "State"]

# A row's lineage.
SOURCE = "_source"
POSITION = "_position"
LOAD = "_load"
LINEAGE = (SOURCE, POSITION, LOAD)


class State(View):
    """As of the last commit.

    Attributes:
        name: Of the load that writes the table; another is refused.
        load: Number of that commit, from 1; what ``_load`` of its rows says.
        resume: Where the source goes on: ``Chunk.resume`` of the last chunk stored.
        cursor: The largest value of the cursor column so far: a number, or ISO 8601 text.
        columns: What the source's columns are, by the words of a contract.
        absent: Those that the last run did not find.
        finished: Whether the source was read to its end.
    """

    name: str = ""
    load: int = 0
    resume: dict[str, Any] = Field(default_factory=dict)
    cursor: int | float | str | None = None
    columns: dict[str, Column] = Field(default_factory=dict)
    absent: tuple[str, ...] = ()
    finished: bool = False
