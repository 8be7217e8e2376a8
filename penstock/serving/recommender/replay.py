"""The hold-out's users live again, through the server: what it says online is what the artefact says offline."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

import polars as pl

from penstock.artifact.recommender_model import ABSENT, load
from penstock.console import progress
from penstock.errors import PenstockError
from penstock.storage import read_parquet

__all__ = ["Life", "Outcome", "lives", "replayed"]

TOGETHER = 500  # interactions of one request
TIMEOUT = 30.0
PREFIX = "replay-"


@dataclass(frozen=True)
class Life:
    """One user of the hold-out.

    Attributes:
        user: A name.
        past: Item, seconds since 1970 and rating of each interaction before, the oldest first.
        wanted: Items that were taken up afterwards.
    """

    user: str
    past: list[tuple[int, float, float | None]]
    wanted: list[int]


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        users: How many lived.
        k: Length of the lists.
        online: Share of users with a hit in the list of the server.
        offline: In the list of the artefact, asked without a server.
        differing: Users whom the server's model does not recommend what the artefact does, item for item.
        placed: Lists in which an item has a place of its own, new or pinned: the model's stand around it.
    """

    users: int
    k: int
    online: float
    offline: float
    differing: int
    placed: int = 0

    @property
    def same(self) -> bool:
        """Whether online is offline."""
        return self.differing == 0

    def words(self) -> str:
        """For people."""
        lists = "every list is the same" if self.same else f"{self.differing} lists differ"
        placed = f", but for new or pinned items in {self.placed}" if self.placed else ""
        rates = f"HR@{self.k} online {self.online:.4f}, offline {self.offline:.4f}"
        return f"{self.users} users: {rates}; {lists}{placed}"


def lives(frame: pl.DataFrame) -> list[Life]:
    """Users of the hold-out who have a past, by name.

    Args:
        frame: user, item, time, rating and part, in the order of users and time.
    """
    rows = frame.with_columns(
        seconds=pl.col("time").dt.timestamp("ms") / 1000, held=pl.col("part") == "holdout"
    ).select("user", "item", "seconds", "rating", "held")
    found: dict[str, Life] = {}
    for user, item, seconds, rating, held in rows.iter_rows():
        life = found.setdefault(user, Life(user, [], []))
        if held:
            life.wanted.append(item)
        else:
            life.past.append((item, seconds, rating))
    return [life for _, life in sorted(found.items()) if life.past and life.wanted]


def replayed(
    interactions: Path,
    model: Path,
    url: str,
    *,
    users: int | None = None,
    k: int = 10,
    key: str | None = None,
    keep: bool = False,
) -> Outcome:
    """Live the lives of the hold-out's users.

    Args:
        interactions: The graph's split: data/prepared/ratings.parquet.
        model: The artefact, for what it says offline.
        url: Of the server.
        users: The first so many; None: all.
        k: Length of a list.
        key: A client's key.
        keep: Leave them in the store.

    Raises:
        PenstockError: The server does not answer or refuses, or serves another version than ``model``.
    """
    everyone = lives(read_parquet(interactions))[:users]
    if not everyone:
        raise PenstockError(f"{interactions}: nobody is in the hold-out", hint="`dvc repro` makes it")
    offline = load(model)
    server = _Server(url, key)
    version = offline.manifest.sha256[:12]
    served = server.ask("GET", "/v1/model")["version"]
    if served != version:
        raise PenstockError(
            f"{url} serves version {served}, and {model} is {version}",
            hint="compare the same: --model FOLDER",
        )
    hits = {"online": 0, "offline": 0}
    differing = placed = 0
    with progress("replay", len(everyone), unit="users") as advance:
        for life in everyone:
            history, exclude = offline.within_limits([item for item, _, _ in life.past])
            answer = offline.recommend([history], k=k, exclude=[exclude])
            expected = [item for item in answer.items[0].tolist() if item != ABSENT]
            found = _lived(server, life, k, keep=keep)
            of_model = [item["item"] for item in found if item["why"] not in {"new", "pinned"}]
            placed += len(of_model) < len(found)
            differing += of_model != expected[: len(of_model)] or len(found) < len(expected)
            hits["online"] += any(item["item"] in life.wanted for item in found)
            hits["offline"] += bool(set(expected) & set(life.wanted))
            advance(1)
    count = len(everyone)
    return Outcome(count, k, hits["online"] / count, hits["offline"] / count, differing, placed)


def _lived(server: _Server, life: Life, k: int, *, keep: bool) -> list[dict[str, Any]]:
    """The list that a user is given after all that they have done."""
    user = f"{PREFIX}{life.user}"
    path = urllib.parse.quote(user, safe="")
    server.ask("DELETE", f"/v1/users/{path}")
    try:
        # All but the last in large parts, and the last by itself: the next list has to have it.
        for start in range(0, len(life.past) - 1, TOGETHER):
            server.ask(
                "POST",
                "/v1/interactions",
                _sent(user, life.past[start : min(start + TOGETHER, len(life.past) - 1)]),
            )
        server.ask("POST", "/v1/interactions", _sent(user, life.past[-1:])[0])
        told = server.ask("GET", f"/v1/recommendations/{path}?k={k}")
    finally:
        if not keep:
            server.ask("DELETE", f"/v1/users/{path}")
    if told["degraded"] is not None:
        raise PenstockError("replay: the server's store is down", hint="its log says why")
    return list(told["items"])


def _sent(user: str, past: Sequence[tuple[int, float, float | None]]) -> list[dict[str, Any]]:
    return [{"user": user, "item": item, "time": time, "rating": rating} for item, time, rating in past]


class _Server:
    """A connection that is kept."""

    def __init__(self, url: str, key: str | None) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"} or parts.hostname is None:
            raise PenstockError(f"{url}: no address", hint="such as http://127.0.0.1:8700")
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self.url = url
        self._connection = kind(parts.hostname, parts.port, timeout=TIMEOUT)
        self._headers = {} if key is None else {"X-Api-Key": key}

    def ask(self, method: str, path: str, content: Any = None) -> Any:
        """The answer.

        Raises:
            PenstockError: There is none, or it is an error.
        """
        body = None if content is None else json.dumps(content)
        headers = self._headers | ({} if body is None else {"Content-Type": "application/json"})
        try:
            self._connection.request(method, path, body, headers)
            answer = self._connection.getresponse()
            told = json.loads(answer.read())
        except (OSError, HTTPException, ValueError) as error:
            raise PenstockError(
                f"replay: {self.url} does not answer: {error}", hint="start it: penstock recommend up"
            ) from error
        if answer.status != 200:
            raise PenstockError(
                f"replay: {method} {path}: {answer.status}: {told.get('error')}", hint="mend what is named"
            )
        return told
