"""Files of a load, here or in an object store, chunk by chunk: in memory is a chunk or two, however large a file is.

Each format has a module of its own; here is what they have in common: which files are new or have grown, what of them
is asked for, and what is remembered. Small files share a chunk if their columns are the same.

A file that was read to its end and has grown since is read from there on, if it consists of lines. One that has
changed in another way is an error, unless a cursor says which of its rows are new: then it is read again from the
beginning. Rows that ``Window.until`` leaves out are not forgotten: their file counts as not read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import partial
from typing import Any

import polars as pl

from penstock import contract
from penstock.config.loading import FilesSource
from penstock.config.loading.files import FileFormat
from penstock.errors import PenstockError
from penstock.sources.chunks import Chunk, Window
from penstock.sources.secrets import hidden
from penstock.sources.streamed_ahead import ahead
from penstock.sources.streamed_pieces import Piece, Progress, quarantined
from penstock.sources.streamed_places import (
    READ_ERRORS,
    Place,
    first_line,
    listed,
    opened,
    streamed,
    suffix_of,
    unreachable,
)
from penstock.sources.streamed_resume import Memory, Record

__all__ = ["read_files"]

SUFFIXES: dict[str, FileFormat] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
    ".xlsx": "excel",
    ".xlsm": "excel",
    ".xlsb": "excel",
    ".xls": "excel",
    ".ods": "excel",
}
IN_LINES = {"csv", "jsonl"}
WITH_TYPES = {"parquet", "arrow", "excel"}
TOGETHER = 1000  # files in one chunk
# A chunk is ready from the one share of `batch_rows` on, and has at most the other if it is of several pieces.
FULL, FULLEST = 0.75, 1.25
ENDS = 1024  # bytes at either end of a file by which it is known again


def read_files(source: FilesSource, window: Window) -> Iterator[Chunk]:
    """Read what is new in the files of a source.

    A cut is safe after each chunk, but not inside a file while ``window.until`` is set. With a cursor the last chunk is
    one without rows: it says that all files were gone through.

    Args:
        source: Which files, and how to read them.
        window: Which rows; those whose cursor is missing, or cannot be compared with the bounds, are among them.

    Raises:
        PenstockError: A file is not there, cannot be read, is damaged, or has changed other than by growing.
    """
    return ahead(_chunks(source, window))


def _chunks(source: FilesSource, window: Window) -> Iterator[Chunk]:
    places = listed(source)
    memory = Memory.of(window.resume, [place.name for place in places])
    window = _begun(window, memory)
    waiting = _Waiting(memory, window)
    for place in places:
        form = _format(place, source)
        record = memory.files.get(place.name)
        if record is not None and record.done and _same(record, place, form):
            continue
        for piece in _pieces(place, form, source, window, record):
            yield from waiting.add(place, piece)
    yield from waiting.flush()
    if memory.since is not None:
        memory.since = None
        yield Chunk(pl.DataFrame(), source="", boundary=True, resume=memory.resume())


def _begun(window: Window, memory: Memory) -> Window:
    """The bounds with which the pass over all files began: rows of files not yet read may lie below the cursor."""
    if window.cursor is None:
        memory.since = None
        return window
    if memory.since is not None:
        return replace(window, since=_restored(memory.since), exclusive=bool(memory.since["exclusive"]))
    since, moment = window.since, isinstance(window.since, date)
    value = since.isoformat() if isinstance(since, date) else since
    memory.since = {"value": value, "moment": moment, "exclusive": window.exclusive}
    return window


def _restored(since: dict[str, Any]) -> Any:
    value = since["value"]
    return datetime.fromisoformat(value) if since["moment"] else value


def _format(place: Place, source: FilesSource) -> FileFormat:
    if source.format != "auto":
        return source.format
    suffix = suffix_of(place.name)[0]
    if suffix not in SUFFIXES:
        raise PenstockError(
            f"{place.name}: the suffix says no format that is known",
            hint=f"known: {', '.join(SUFFIXES)}, those of text also with .gz, .zst, .bz2, .xz or .zip; or set source.format",
        )
    return SUFFIXES[suffix]


# --- one file ---------------------------------------------------------------------------------------


def _pieces(
    place: Place, form: FileFormat, source: FilesSource, window: Window, record: Record | None
) -> Iterator[Piece]:
    """What is new in a file; the last piece, which may have no rows, says that it is."""
    start = Progress()
    if record is not None:
        if form in IN_LINES or _same(record, place, form):
            start = record.progress
            if -1 < (place.size or 0) < record.size and form in IN_LINES:
                raise PenstockError(
                    f"{place.name}: has shrunk from {record.size} to {place.size} bytes since it was loaded",
                    hint="put new rows into a file of their own; or load it anew with --full",
                )
        elif window.cursor is None:
            raise _changed(place)
    progress = start
    try:
        with ExitStack() as stack:
            for piece in _read(place, form, source, start, window, stack):
                progress = piece.progress
                yield piece
                if piece.last:
                    return
            if form not in IN_LINES:
                progress = replace(progress, digest=_digest(place))
    except READ_ERRORS as error:
        raise PenstockError(
            f"{place.name}: cannot be read to its end: {hidden(first_line(error))}, after row {progress.rows}",
            hint="it is cut short or damaged; fetch it again",
        ) from error
    except PenstockError:
        raise
    except Exception as error:
        if place.is_here:
            raise
        raise unreachable(place.name, error) from error  # each client has its own
    yield Piece(pl.DataFrame(), progress, progress.rows, last=True)


def _changed(place: Place) -> PenstockError:
    return PenstockError(
        f"{place.name}: has changed since it was loaded",
        hint="put new rows into a file of their own; or load it anew with --full",
    )


def _same(record: Record, place: Place, form: FileFormat) -> bool:
    """Whether a file has what it had, though it may have been copied to its place anew."""
    if record.is_of(place):
        return True
    return form not in IN_LINES and place.size == record.size and _digest(place) == record.digest


def _digest(place: Place) -> str:
    """Of either end of a file as it is stored."""
    if place.size is None:
        return ""
    with opened(place) as file:
        head = file.read(ENDS)
        file.seek(max(0, place.size - ENDS))
        return hashlib.sha256(head + file.read(ENDS)).hexdigest()[:16]


def _read(
    place: Place, form: FileFormat, source: FilesSource, start: Progress, window: Window, stack: ExitStack
) -> Iterator[Piece]:
    # Each format when it is met: what reads JSON and sheets is not installed everywhere.
    name, batch_rows = place.name, window.batch_rows
    if form in WITH_TYPES:
        from penstock.sources.streamed_tables import read_arrow, read_excel, read_parquet

        file = stack.enter_context(opened(place))
        if form == "parquet":
            return read_parquet(file, name, start, batch_rows)
        if form == "arrow":
            return read_arrow(file, name, start, batch_rows)
        return read_excel(file, name, source.sheet, start, batch_rows)
    if form == "csv":
        from penstock.sources.streamed_csv import read_csv

        stream = stack.enter_context(streamed(place, source.encoding))
        return read_csv(stream, source, name, start, batch_rows, window.types)
    from penstock.sources.streamed_json import is_lines, read_json, read_json_lines

    if form == "json" and source.format == "auto" and source.select is None:
        with streamed(place, source.encoding) as stream:
            if is_lines(stream, name):
                form = "jsonl"
    stream = stack.enter_context(streamed(place, source.encoding))
    if form == "json":
        return read_json(stream, name, source.encoding, source.select, start, batch_rows)
    return read_json_lines(stream, name, source.encoding, start, batch_rows)


# --- chunks -----------------------------------------------------------------------------------------


@dataclass
class _Waiting:
    """Pieces that will be one chunk, and what is to be remembered of their files."""

    memory: Memory
    window: Window
    pieces: list[tuple[str, Piece]] = field(default_factory=list)
    schema: pl.Schema | None = None  # of those that have rows
    rows: int = 0
    files: int = 0
    left: bool = False  # whether `until` has left out rows of the present file
    inside: bool = False  # whether the present file is not at its end
    news: bool = False  # whether there is anything to remember

    def add(self, place: Place, piece: Piece) -> Iterator[Chunk]:
        """Take a piece; the chunks that are ready."""
        piece, left = _within(piece, self.window, place.name)
        frame = piece.frame
        self.left |= left
        if frame.height:
            full = self.rows + frame.height > FULLEST * self.window.batch_rows
            if self.schema is not None and (full or self.schema != frame.schema):
                yield from self.flush()
            self.schema = frame.schema
        if frame.height or frame.width or piece.broken:
            self.pieces.append((place.name, piece))
            self.rows += frame.height + len(piece.broken)
        if piece.last or self.window.until is None:
            self._remember(place, piece.progress, ended=piece.last)
        self.inside = not piece.last
        self.files += piece.last
        if self.rows >= FULL * self.window.batch_rows or self.files >= TOGETHER:
            yield from self.flush()

    def _remember(self, place: Place, progress: Progress, *, ended: bool) -> None:
        if not self.left:
            self.memory.files[place.name] = Record.of(place, progress, done=ended)
            self.news = True
        if ended:
            self.left = False

    def flush(self) -> Iterator[Chunk]:
        """What is waiting, as a chunk."""
        if self.pieces or self.news:
            yield self._chunk()
        self.pieces, self.schema, self.rows, self.files, self.news = [], None, 0, 0, False

    def _chunk(self) -> Chunk:
        boundary = self.window.until is None or not self.inside
        broken = pl.concat([quarantined(name, piece.broken) for name, piece in self.pieces] or [_NONE])
        reasons: dict[str, int] = {}
        for _, piece in self.pieces:
            for entry in piece.broken:
                reasons[entry.rule] = reasons.get(entry.rule, 0) + 1
        filled = [(name, piece) for name, piece in self.pieces if piece.frame.height] or self.pieces[:1]
        source: str | pl.Series = filled[0][0] if filled else ""
        position: int | pl.Series = filled[0][1].position if filled else 0
        frame = filled[0][1].frame if filled else pl.DataFrame()
        if len(filled) > 1:
            frame = pl.concat([piece.frame for _, piece in filled], rechunk=False)
            if any(name != source for name, _ in filled):
                source = pl.concat(
                    [pl.Series([name]).new_from_index(0, piece.frame.height) for name, piece in filled]
                )
            position = pl.concat([_numbers(piece) for _, piece in filled])
        written = None
        if any(piece.written is not None for _, piece in filled):
            written = partial(_as_text, [piece for _, piece in filled])
        return Chunk(
            frame, source, position, broken, reasons, boundary, self.memory.resume(), written=written
        )


_NONE = pl.DataFrame(schema=contract.QUARANTINE_SCHEMA)


def _as_text(pieces: Sequence[Piece]) -> pl.DataFrame:
    frames = [piece.frame if piece.written is None else piece.written() for piece in pieces]
    return pl.concat(frames, rechunk=False)


def _numbers(piece: Piece) -> pl.Series:
    if isinstance(piece.position, pl.Series):
        return piece.position
    return pl.int_range(piece.position, piece.position + piece.frame.height, eager=True)


# --- bounds -----------------------------------------------------------------------------------------


def _within(piece: Piece, window: Window, name: str) -> tuple[Piece, bool]:
    """The rows that are asked for, and whether ``until`` has left any out."""
    frame = piece.frame
    if window.cursor is None or (window.since is None and window.until is None) or not frame.height:
        return piece, False
    if window.cursor not in frame.columns:
        raise PenstockError(
            f"{name}: incremental.cursor: there is no column {window.cursor!r}",
            hint=f"there are: {', '.join(frame.columns[:12])}",
        )
    below = pl.lit(value=False)
    beyond = pl.lit(value=False)
    if window.since is not None:
        value, bound = _compared(window.cursor, frame, window.since)
        below = (value <= bound) if window.exclusive else (value < bound)
    if window.until is not None:
        value, bound = _compared(window.cursor, frame, window.until)
        beyond = value >= bound
    found = frame.select(
        below.fill_null(value=False).alias("below"), beyond.fill_null(value=False).alias("beyond")
    )
    left = bool(found["beyond"].any())
    keep = frame.select(
        pl.repeat(value=True, n=pl.len()) & ~below.fill_null(value=False) & ~beyond.fill_null(value=False)
    ).to_series()
    if keep.all():
        return piece, left
    whole = piece.written
    written = None if whole is None else (lambda: whole().filter(keep))
    return replace(
        piece, frame=frame.filter(keep), position=_numbers(piece).filter(keep), written=written
    ), left


def _compared(name: str, frame: pl.DataFrame, bound: Any) -> tuple[pl.Expr, Any]:
    """A column as what it is compared with, and that."""
    kind = frame.schema[name]
    if isinstance(bound, str):
        try:
            bound = datetime.fromisoformat(bound)
        except ValueError:
            return pl.col(name).cast(pl.String), bound
    if isinstance(bound, date):
        moment = (
            bound if isinstance(bound, datetime) else datetime(bound.year, bound.month, bound.day, tzinfo=UTC)
        )
        return contract.typed(name, "datetime", kind), moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if isinstance(bound, int):
        whole = contract.typed(name, "integer", kind)
        number = contract.typed(name, "number", kind)
        # As integers where they are: beyond 2^53 a float would round them.
        return pl.coalesce(whole - bound, number - bound), 0
    return contract.typed(name, "number", kind), bound
