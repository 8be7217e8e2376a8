"""Classifying picture files, any number of them, with as many in memory as a few batches hold."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from penstock.artifact.picture_model import BATCH, PictureModel
from penstock.artifact.score import Scored, Writer
from penstock.config import FileSource, PictureContract
from penstock.contract import QUARANTINE_SCHEMA
from penstock.errors import PenstockError
from penstock.pictures import PictureError, Pixels, decode, scaled
from penstock.sources.files import SUFFIXES, format_of, read_files
from penstock.sources.pictures import as_text, content_of, files_below

__all__ = ["PATH", "Wanted", "score_pictures", "wanted"]

PATH = "path"  # the column that names a picture, in a listing and in the answers


@dataclass(frozen=True)
class Wanted:
    """A picture to classify.

    Attributes:
        path: As it is called in the answers.
        file: Where it lies; None where a row of a listing names none.
        position: Its number, from 0.
        broken: Why the row of a listing is none, where it is none.
    """

    path: str
    file: Path | None
    position: int
    broken: str | None = None


def wanted(path: Path) -> list[Wanted]:
    """The pictures that ``path`` stands for.

    Args:
        path: A folder, of which all files at any depth count, in order, but those that are hidden; a CSV,
            Parquet or JSON-lines file with a column ``path``, whose relative paths start at its folder; or
            a picture.

    Raises:
        PenstockError: There is nothing at ``path``, no picture in it, or no such column.
    """
    if path.is_dir():
        found = [Wanted(as_text(file.as_posix()), file, at) for at, file in enumerate(files_below(path))]
    elif not path.is_file():
        raise PenstockError(
            f"{path}: there is no such file or folder", hint="name a folder of pictures, or a list of them"
        )
    elif any(suffix.lower() in SUFFIXES for suffix in path.suffixes[-2:]):
        found = _listed(path)
    else:
        found = [Wanted(as_text(path.as_posix()), path, 0)]
    if not found:
        raise PenstockError(f"{path}: there is no picture in it", hint="hidden files do not count")
    return found


def _listed(path: Path) -> list[Wanted]:
    table = read_files(FileSource(kind="file", path=str(path), watch=str(path)))
    if PATH not in table.frame.columns:
        raise PenstockError(
            f"{path}: there is no column {PATH!r}", hint=f"there are: {', '.join(table.frame.columns)}"
        )
    rows = table.frame.select(
        pl.col(PATH).cast(pl.String),
        position=pl.int_range(pl.len()) + table.position
        if isinstance(table.position, int)
        else table.position,
    )
    found = [Wanted(name or "", path.parent / name if name else None, at) for name, at in rows.iter_rows()]
    broken = [Wanted("", None, row["position"], row["reason"]) for row in table.broken.iter_rows(named=True)]
    return sorted([*found, *broken], key=lambda item: item.position)


def score_pictures(
    model: PictureModel,
    pictures: Sequence[Wanted],
    out: Path,
    quarantine: Path,
    *,
    workers: int = 1,
    advance: Callable[[float], None] = lambda _pictures: None,
) -> Scored:
    """Classify pictures.

    Args:
        model: The artefact.
        pictures: Which.
        out: Where the answers go, the format by its suffix: path, label, and one probability_<class> each.
        quarantine: Where pictures go that cannot be used, as Parquet of ``contract.QUARANTINE_SCHEMA``.
        workers: Batches that are read, decoded and classified at the same time.
        advance: Told the pictures of every batch that is done.
    """
    format_of(out)
    total = Scored(0, 0, {})
    with ExitStack() as stack:
        answers = stack.enter_context(Writer(out))
        rejects = stack.enter_context(Writer(quarantine))
        # Last in, first out: the pool ends before the writers rename anything.
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        for number, (answer, bad, reasons) in enumerate(_in_order(pool, workers + 1, model, pictures)):
            answers.write(answer)
            if bad.height or not number:
                rejects.write(bad)
            total += Scored(answer.height, bad.height, reasons)
            advance(answer.height + bad.height)
    return total


_Result = tuple[pl.DataFrame, pl.DataFrame, dict[str, int]]


def _in_order(
    pool: ThreadPoolExecutor, ahead: int, model: PictureModel, pictures: Sequence[Wanted]
) -> Iterator[_Result]:
    """Results in the order of the pictures, with at most ``ahead`` batches begun and not taken."""
    waiting: deque[Future[_Result]] = deque()
    try:
        for start in range(0, len(pictures), BATCH):
            waiting.append(pool.submit(_score, model, pictures[start : start + BATCH]))
            if len(waiting) == ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _score(model: PictureModel, batch: Sequence[Wanted]) -> _Result:
    good: list[tuple[str, Pixels]] = []
    bad: list[tuple[str, int, str, str]] = []
    reasons: Counter[str] = Counter()
    for item in batch:
        try:
            good.append((item.path, _pixels(item, model.manifest.contract)))
        except PictureError as error:
            row = json.dumps({PATH: item.path}, ensure_ascii=False)
            bad.append((item.path, item.position, f"{error.reason}: {error.detail}", row))
            reasons[error.reason] += 1
    labels, probabilities = model.predict([pixels for _, pixels in good])
    answer = pl.DataFrame(
        {
            PATH: pl.Series([path for path, _ in good], dtype=pl.String),
            "label": pl.Series(labels, dtype=pl.String),
            **{
                f"probability_{name}": pl.Series(probabilities[:, code].copy(), dtype=pl.Float32)
                for code, name in enumerate(model.manifest.classes)
            },
        }
    )
    return answer, pl.DataFrame(bad, schema=QUARANTINE_SCHEMA, orient="row"), dict(reasons)


def _pixels(item: Wanted, contract: PictureContract) -> Pixels:
    """A picture as it was when the network learnt: one that is larger than what is stored, scaled to that."""
    if item.broken is not None:
        raise PictureError("not_a_row", item.broken)
    if item.file is None:
        raise PictureError("missing", "the row names no picture")
    content = content_of(item.file)
    if isinstance(content, PictureError):
        raise content
    side = contract.stored_side
    # As in ingestion: a JPEG decoded at a fraction of its size is coarse, and is scaled down once more.
    pixels = decode(content, contract, side=None if side is None else 2 * side)
    return pixels if side is None or min(pixels.shape[:2]) <= side else scaled(pixels, side)
