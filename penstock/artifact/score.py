"""Scoring files of any size: read, check, score and write in batches, with as much in memory as a few of them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import polars as pl

from penstock import contract
from penstock.artifact.model import Model
from penstock.errors import PenstockError
from penstock.sources.files import Format, format_of
from penstock.storage import replacing

__all__ = ["POSITION", "Scored", "Writer", "count_rows", "reasons_in_words", "score_file", "score_frame"]

POSITION = "position"
# Large enough that a call's fixed cost vanishes, small enough that a few are nothing to hold.
BATCH_ROWS = 65_536
BLOCK = 1 << 24


@dataclass(frozen=True)
class Scored:
    """What became of a file.

    Attributes:
        rows: Rows scored.
        rejected: Rows that broke the manifest's contract.
        reasons: How many broke each "column: rule".
    """

    rows: int
    rejected: int
    reasons: dict[str, int]

    def __add__(self, other: Scored) -> Scored:
        names = sorted({*self.reasons, *other.reasons})
        reasons = {name: self.reasons.get(name, 0) + other.reasons.get(name, 0) for name in names}
        return Scored(self.rows + other.rows, self.rejected + other.rejected, reasons)


def score_frame(
    model: Model, frame: pl.DataFrame, *, source: str, position: int = 0, keep: Sequence[str] = ()
) -> tuple[pl.DataFrame, contract.Checked]:
    """Check and score rows as they were read.

    Args:
        model: The artefact.
        frame: Its columns, in any type that can be cast; others are ignored.
        source: Name of where they come from, for the quarantine.
        position: Number of the first row there.
        keep: Columns of ``frame`` to carry into the answer.

    Returns:
        The answer, one row per good row: position, what is kept, and what ``Model.predict`` gives; and the
        table divided by the contract.

    Raises:
        PenstockError: A column is missing.
    """
    columns = model.manifest.columns
    _require(frame.columns, [*columns, *keep], source)
    checked = contract.check(frame, columns, source=source, position=position)
    where = (checked.kept.cast(pl.Int64) + position).alias(POSITION)
    kept = frame.select(keep)[checked.kept] if keep else pl.DataFrame()
    answers = model.predict(checked.good) if checked.good.height else _no_answers(model)
    return pl.concat([where.to_frame(), *([kept] if keep else []), answers], how="horizontal"), checked


def _no_answers(model: Model) -> pl.DataFrame:
    task, classes = model.manifest.task, model.manifest.classes or ()
    if task == "regression":
        return pl.DataFrame(schema={"value": pl.Float32})
    names = ["probability"] if task == "binary" else [f"probability_{name}" for name in classes]
    return pl.DataFrame(schema={"label": pl.String, **dict.fromkeys(names, pl.Float32)})


def _require(present: Sequence[str], needed: Sequence[str], source: str) -> None:
    missing = [name for name in needed if name not in present]
    if missing:
        import difflib

        guesses = [(name, difflib.get_close_matches(name, present, n=1)) for name in missing]
        hints = [f"{name!r} may be {near[0]!r}" for name, near in guesses if near]
        raise PenstockError(
            f"{source}: columns that the model needs are missing: {', '.join(missing)}",
            hint="; ".join(hints) or f"there are: {', '.join(present)}",
        )


def score_file(
    model: Model,
    path: Path,
    out: Path,
    quarantine: Path,
    *,
    keep: Sequence[str] = (),
    batch_rows: int = BATCH_ROWS,
    workers: int = 1,
    advance: Callable[[float], None] = lambda _rows: None,
) -> Scored:
    """Score a CSV, Parquet or JSON-lines file, bigger than memory if need be.

    Args:
        model: The artefact.
        path: What to score.
        out: Where the answers go; the format by its suffix.
        quarantine: Where rows go that do not fit, as Parquet of ``contract.QUARANTINE_SCHEMA``.
        keep: Columns of the input to carry into the output.
        batch_rows: Rows to a batch.
        workers: Batches that are scored at the same time.
        advance: Told the rows of every batch that is done.

    Raises:
        PenstockError: The file is missing or not readable, or lacks a column. Nothing is written then.
    """
    _check_files(model, path, out, keep)
    total = Scored(0, 0, {})
    with ExitStack() as stack:
        answers = stack.enter_context(Writer(out))
        rejects = stack.enter_context(Writer(quarantine))
        # Last in, first out: the pool ends before the writers rename anything.
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        columns = list(dict.fromkeys([*model.manifest.columns, *keep]))

        def scored(position: int, frame: pl.DataFrame) -> tuple[pl.DataFrame, contract.Checked]:
            return score_frame(model, frame, source=path.as_posix(), position=position, keep=keep)

        for answer, checked in _in_order(
            pool, workers + 1, scored, _numbered(_batches(path, columns, batch_rows))
        ):
            answers.write(answer)
            if checked.bad.height or total.rows + total.rejected == 0:
                rejects.write(checked.bad)
            total += Scored(answer.height, checked.bad.height, checked.reasons)
            advance(answer.height + checked.bad.height)
        if total.rows + total.rejected == 0:
            raise PenstockError(
                f"{path}: there is no row in it", hint="was its export filtered, or cut short?"
            )
    return total


def _check_files(model: Model, path: Path, out: Path, keep: Sequence[str]) -> None:
    if not path.is_file():
        raise PenstockError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise PenstockError(f"{path}: the file is empty", hint="was its download or export cut short?")
    format_of(path), format_of(out)
    taken = {POSITION, *_no_answers(model).columns} & set(keep)
    if taken:
        raise PenstockError(
            f"--keep {', '.join(sorted(taken))}: the output has a column of that name already"
        )


_Job = tuple[int, pl.DataFrame]
_Result = tuple[pl.DataFrame, contract.Checked]


def _in_order(
    pool: ThreadPoolExecutor, ahead: int, work: Callable[[int, pl.DataFrame], _Result], jobs: Iterator[_Job]
) -> Iterator[_Result]:
    """Results in the order of the jobs, with at most ``ahead`` of them begun and not taken."""
    waiting: list[Future[_Result]] = [pool.submit(work, *job) for job in islice(jobs, ahead)]
    while waiting:
        result = waiting.pop(0).result()
        waiting.extend(pool.submit(work, *job) for job in islice(jobs, 1))
        yield result


def _numbered(frames: Iterator[pl.DataFrame]) -> Iterator[_Job]:
    position = 0
    for frame in frames:
        yield position, frame
        position += frame.height


def _batches(path: Path, columns: Sequence[str], rows: int) -> Iterator[pl.DataFrame]:
    """The file's rows in order, with those of ``columns`` that it has."""
    form = format_of(path)
    try:
        if form == "jsonl":
            yield from _json_batches(path, columns, rows)
            return
        lazy = _scan(path, form)
        there = lazy.collect_schema().names()
        _require(there, columns, path.as_posix())
        yield from lazy.select(columns).collect_batches(chunk_size=rows, maintain_order=True)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PenstockError(
            f"{path}: not readable as {form} ({reason})",
            hint="is it truncated, or not UTF-8? Fetch or convert it anew",
        ) from error


def _scan(path: Path, form: Format) -> pl.LazyFrame:
    if form == "parquet":
        return pl.scan_parquet(path)
    separator = "\t" if ".tsv" in path.suffixes else ","
    return pl.scan_csv(path, infer_schema=False, null_values=[""], separator=separator)


def _json_batches(path: Path, columns: Sequence[str], rows: int) -> Iterator[pl.DataFrame]:
    """A batch at a time, since JSON lines have no types that the first ones could settle for the rest."""
    with path.open("rb") as file:
        while lines := list(islice(file, rows)):
            frame = pl.read_ndjson(io.BytesIO(b"".join(lines)), infer_schema_length=None)
            absent = [name for name in columns if name not in frame.columns]
            # A key that no row of this batch has may be in others: missing values, for the contract to judge.
            yield frame.with_columns(pl.lit(None, pl.String).alias(name) for name in absent).select(columns)


def count_rows(path: Path) -> int | None:
    """Rows of a file, for a progress bar: exact for Parquet, lines for text, None where it is compressed."""
    if format_of(path) == "parquet":
        try:
            return int(pl.scan_parquet(path).select(pl.len()).collect().item())
        except (pl.exceptions.PolarsError, OSError):
            return None
    if path.suffix in {".gz", ".zst"}:
        return None
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(BLOCK), b""))


class _Sink(Protocol):
    def write(self, frame: pl.DataFrame) -> None: ...

    def close(self) -> None: ...


class _Text:
    """CSV or JSON lines, one frame after another."""

    def __init__(self, path: Path, form: Format) -> None:
        self._file: IO[bytes] = path.open("wb")
        self._form = form
        self._header = True

    def write(self, frame: pl.DataFrame) -> None:
        if self._form == "csv":
            frame.write_csv(self._file, include_header=self._header)
            self._header = False
        else:
            frame.write_ndjson(self._file)

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """One row group a frame."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None

    def write(self, frame: pl.DataFrame) -> None:
        import pyarrow.parquet as pq

        table = frame.to_arrow()
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Writer:
    """Writes frames to a temporary name and renames it when all went well."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _Sink:
        self._stack = ExitStack()
        temporary = self._stack.enter_context(replacing(self._path))
        form = format_of(self._path)
        sink: _Sink = _Parquet(temporary) if form == "parquet" else _Text(temporary, form)
        self._stack.callback(sink.close)
        return sink

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)


def reasons_in_words(reasons: Mapping[str, int], most: int = 5) -> str:
    """The most frequent reasons, one a line."""
    worst = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"    {count} × {reason}" for reason, count in worst[:most]]
    return "\n".join([*lines, *([f"    … and {len(worst) - most} more"] if len(worst) > most else [])])
