"""Loading and asking a recommender: ONNX Runtime, NumPy, and nothing of what trained it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from penstock.artifact import recommender_manifest as manifests
from penstock.artifact.manifest import MODEL
from penstock.artifact.model import open_session, read_verified
from penstock.artifact.recommender_manifest import ITEMS, RecommenderManifest
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["ABSENT", "Item", "Recommendations", "RecommenderModel", "load", "read_items"]

ABSENT = -1
Ids = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True)
class Item:
    """What is known of an item.

    Attributes:
        id: As the model takes and gives it.
        key: As the data call it, where that is no whole number.
        title: For people; the id or the key where the data have none.
        genres: In the order of the data.
        year: Of appearance.
        popularity: Interactions that the model was trained on.
    """

    id: int
    key: str | None
    title: str
    genres: tuple[str, ...]
    year: int | None
    popularity: int


@dataclass(frozen=True)
class Recommendations:
    """The best items of each request, the best first.

    Attributes:
        items: Ids, shape (n, k); -1 where nothing is left.
        scores: What each was chosen by, shape (n, k); 0 where there is no item.
        because: The item of the history that speaks most for it, shape (n, k); -1 if none does.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    because: NDArray[np.int64]


@dataclass(frozen=True)
class RecommenderModel:
    """A loaded artefact. Sessions may be asked by several threads at a time.

    Attributes:
        manifest: What it is.
        session: The ONNX session.
        items: What is known of each item that can be returned, by id, the most popular first.
    """

    manifest: RecommenderManifest
    session: InferenceSession
    items: Mapping[int, Item]

    @cached_property
    def ids_by_key(self) -> dict[str, int]:
        """The ids of items that the data call by a text."""
        return {item.key: item.id for item in self.items.values() if item.key is not None}

    def recommend(
        self,
        histories: Sequence[Ids],
        *,
        k: int = 10,
        exclude: Sequence[Ids] | None = None,
        diversity: float = 0.0,
    ) -> Recommendations:
        """Answer several requests in one run.

        Args:
            histories: The ids of each request, the last one the most recent. Unknown ones count for nothing;
                none that counts gives the popular items.
            k: How many items are wanted.
            exclude: For each request, ids that are not returned. What is in the history never is.
            diversity: From 0, the best scores, to 1, the least alike.

        Raises:
            PenstockError: A request is beyond the manifest's limits, or a number is out of its range.
        """
        limits = self.manifest.limits
        if not len(histories):
            return Recommendations(*(np.empty((0, k), dtype) for dtype in (np.int64, np.float32, np.int64)))
        barred = [()] * len(histories) if exclude is None else exclude
        _require(
            len(barred) == len(histories), f"exclude has {len(barred)} rows for {len(histories)} histories"
        )
        _require(1 <= k <= limits.k, f"k is {k}, allowed are 1 to {limits.k}")
        _require(0.0 <= diversity <= 1.0, f"diversity is {diversity}, allowed are 0 to 1")
        feeds = {
            "items": _padded(histories, limits.history, "history"),
            "exclude": _padded(barred, limits.exclude, "exclude"),
        }
        parts = [
            self.run_arrays(
                {name: rows[start : start + limits.batch] for name, rows in feeds.items()}
                | {"k": np.array(k, np.int64), "diversity": np.array(diversity, np.float32)}
            )
            for start in range(0, len(histories), limits.batch)
        ]
        return Recommendations(*(np.concatenate(each) for each in zip(*parts, strict=True)))

    def within_limits(self, history: Ids) -> tuple[Ids, Ids]:
        """A history of any length as one that may be asked, and what is to be excluded with it.

        More than the last of a history have no vote; all of it is still not to be returned.

        Returns:
            The end of the history, and the ids before it, as many as may be excluded.
        """
        limits = self.manifest.limits
        at = max(0, len(history) - limits.history)
        return history[at:], history[max(0, at - limits.exclude) : at]

    def run_arrays(
        self, arrays: Mapping[str, NDArray[Any]]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Items, scores and reasons for the graph's own inputs, of which nothing is checked."""
        names = [output.name for output in self.manifest.outputs]
        items, scores, because = self.session.run(names, dict(arrays))
        return items, scores, because


def load(folder: Path, *, threads: int = 1) -> RecommenderModel:
    """Load an artefact.

    Args:
        folder: Holds model.onnx, items.json and manifest.json.
        threads: Within one operator. One thread gives the same bits on every run.

    Raises:
        PenstockError: Something is missing, a file's hash is not the manifest's, or the model refers to data
            outside itself.
    """
    manifest = manifests.read(folder)
    path = folder / MODEL
    session = open_session(path, read_verified(path, manifest.sha256), threads)
    return RecommenderModel(manifest, session, read_items(folder, manifest))


def read_items(folder: Path, manifest: RecommenderManifest) -> dict[int, Item]:
    """What is known of each item.

    Raises:
        PenstockError: The file is missing, or its hash is not the manifest's.
    """
    columns = json.loads(read_verified(folder / ITEMS, manifest.items_sha256))
    fields = (columns[name] for name in ("id", "key", "title", "genres", "year", "popularity"))
    return {
        id_: Item(id_, key, title, tuple(genres), year, popularity)
        for id_, key, title, genres, year, popularity in zip(*fields, strict=True)
    }


def _padded(rows: Sequence[Ids], longest: int, what: str) -> NDArray[np.int64]:
    width = max((len(row) for row in rows), default=0)
    _require(width <= longest, f"{what} has {width} ids, allowed are {longest}")
    padded = np.full((len(rows), width), ABSENT, dtype=np.int64)
    for at, row in enumerate(rows):
        padded[at, : len(row)] = row
    return padded


def _require(kept: bool, message: str) -> None:
    if not kept:
        raise PenstockError(
            f"recommend: {message}", hint="the manifest's `limits` say what one request may ask"
        )
