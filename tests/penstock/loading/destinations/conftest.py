"""What any kind of table is held to: an oracle of plain dictionaries."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from penstock.loading.destinations import Plan
from penstock.loading.state import State

MOMENT = datetime(2025, 1, 1, tzinfo=UTC)
SCHEMA = {
    "id": pl.Int64(),
    "part": pl.String(),
    "value": pl.Float64(),
    "at": pl.Datetime("us", "UTC"),
    "_source": pl.String(),
    "_position": pl.Int64(),
    "_load": pl.Int64(),
}


def rows_of(values: list[tuple[int | None, str | None, float | None, int]], load: int) -> pl.DataFrame:
    """Rows of (id, part, value, days since MOMENT)."""
    return pl.DataFrame(
        [
            (key, part, value, datetime(2025, 1, 1 + day, tzinfo=UTC), "here", position, load)
            for position, (key, part, value, day) in enumerate(values)
        ],
        schema=SCHEMA,
        orient="row",
    )


@dataclass
class Oracle:
    """What a table must hold after some loads."""

    write: str
    keys: tuple[str, ...]
    order: str | None
    rows: list[dict[str, Any]] = field(default_factory=list)

    def _key(self, row):
        return tuple(row[name] for name in self.keys)

    @staticmethod
    def _values(row):
        return {name: value for name, value in row.items() if not name.startswith("_")}

    def _told(self, row):
        return {name: value for name, value in self._values(row).items() if name != "fresh"}

    def load(self, frames: list[pl.DataFrame], moment: datetime) -> tuple[int, int, int]:
        incoming = [row for frame in frames for row in frame.iter_rows(named=True)]
        if self.write == "replace":
            self.rows = incoming
            return len(incoming), 0, 0
        if self.write == "append":
            return self._append(incoming)
        return self._merge(incoming) if self.write == "merge" else self._turn(incoming, moment)

    def _append(self, incoming):
        if not self.keys:
            self.rows += incoming
            return len(incoming), 0, 0
        added = 0
        known = {self._key(row) for row in self.rows}
        for row in incoming:
            if self._key(row) not in known:
                known.add(self._key(row))
                self.rows.append(row)
                added += 1
        return added, 0, len(incoming) - added

    def _older(self, row, than):
        """By the column that says so; a missing value is the smallest."""
        if self.order is None:
            return False
        one, other = row[self.order], than[self.order]
        return other is not None and (one is None or one < other)

    def _last(self, incoming):
        last: dict[Any, dict[str, Any]] = {}
        for row in incoming:
            before = last.get(self._key(row))
            if before is None or not self._older(row, before):
                last[self._key(row)] = row
        return last

    def _merge(self, incoming):
        there = {self._key(row): row for row in self.rows}
        added = updated = 0
        for key, row in self._last(incoming).items():
            old = there.get(key)
            if old is None:
                added += 1
            elif self._values(old) == self._values(row) or self._older(row, old):
                continue
            else:
                updated += 1
            there[key] = row
        self.rows = list(there.values())
        return added, updated, len(incoming) - added - updated

    def _turn(self, incoming, moment):
        added = closed = 0
        by_key: dict[Any, list[dict[str, Any]]] = {}
        for row in incoming:
            by_key.setdefault(self._key(row), []).append(row)
        for key, rows in by_key.items():
            current = next(
                (row for row in self.rows if self._key(row) == key and row["_valid_to"] is None), None
            )
            if self.order == "at":
                at = {row["at"]: row for row in rows}  # the last of one moment
            else:
                last = self._last(rows)[key]
                begin = moment
                if current is not None and current["_valid_from"] >= moment:
                    begin = current["_valid_from"] + timedelta(microseconds=1)
                at = {} if current is not None and self._older(last, current) else {begin: last}
            for begin, row in sorted(at.items(), key=lambda item: item[0]):
                if current is not None and (
                    begin <= current["_valid_from"] or self._told(current) == self._values(row)
                ):
                    continue
                if current is not None:
                    current["_valid_to"] = begin
                    closed += not current.get("fresh")
                current = {**row, "_valid_from": begin, "_valid_to": None, "fresh": True}
                self.rows.append(current)
                added += 1
        for row in self.rows:
            row.pop("fresh", None)
        return added, closed, len(incoming) - added

    def shown(self) -> list[tuple[Any, ...]]:
        return shown(self.rows)


def shown(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Rows without the number of their load, in an order of their own."""
    names = ["id", "part", "value", "at", "_valid_from", "_valid_to"]
    return sorted((tuple(row.get(name) for name in names) for row in rows), key=repr)


@pytest.fixture(scope="session")
def moment():
    return MOMENT


def state_of(load: int, **others: Any) -> State:
    return State(name="orders", load=load, **others)


def plan_of(write: str, keys: tuple[str, ...], order: str | None, moment: datetime) -> Plan:
    return Plan(write, keys, order, moment)
