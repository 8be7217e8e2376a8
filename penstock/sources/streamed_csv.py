r"""CSV, block by block, as text.

polars reads blocks of whole lines on all cores; what it would alter without a word (a row with fewer fields), or
refuse as a whole (one with more, a byte that is no character, a quote in the middle of a word), is found by
counting, and only then is a block gone through row by row. Columns that are known to be numbers are read as such at
once, if all of a block are; its text stays at hand for whoever has to show a row. A row is read as RFC 4180 has it:

- A field that begins with a quote ends at the next quote that is not doubled; a separator or the end of the line
  must follow. Elsewhere in a field a quote is a character like any other.
- Lines end with \\n or \\r\\n. Blank lines are no rows, but are numbered (one column: a missing value).
- Where a quote is not closed before the end of the file, or within ``LONGEST`` bytes, its line is broken, and the
  next one is read as if nothing had happened: one stray quote does not swallow what follows.
- The last line needs no newline if it has all fields. Otherwise it may be half-written: it is broken for now, and
  read again once the file has grown. One that was whole and is then continued is broken too: its row was stored as
  it was.
"""

from __future__ import annotations

import bisect
import codecs
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
from numpy.typing import NDArray

from penstock.config import ColumnType
from penstock.config.loading import FilesSource
from penstock.errors import PenstockError
from penstock.sources.streamed_buffer import Buffer
from penstock.sources.streamed_pieces import Broken, Piece, Progress, shown_bytes
from penstock.sources.streamed_places import Stream, suffix_of

__all__ = ["read_csv"]

OTHER_SEPARATORS = ";\t|,"
BOM = codecs.BOM_UTF8
SAMPLE = 1 << 16  # bytes by which the length of a row is estimated
LARGEST = 32 << 20  # bytes of a block
LONGEST = 16 << 20  # bytes of a row
SHORT = 2000  # bytes without a quote that are not worth NumPy's while
QUOTE, NEWLINE, RETURN = b'"\n\r'
WHERE = "penstock-where"
# Only what polars reads from CSV as ``contract.typed`` would from text; of times it takes forms that no contract does.
NUMBERS: dict[ColumnType, type[pl.DataType]] = {"integer": pl.Int64, "number": pl.Float64}
EXACT = 2**53  # below it a float is the integer that it was written as
TRIES = 3  # blocks whose numbers are none, until they are all read as text


@dataclass(frozen=True)
class _Shape:
    """What every row should be like."""

    names: list[str]
    separator: bytes
    settings: dict[str, Any]
    unquoted: re.Pattern[bytes]
    encoding: str
    numbers: dict[str, type[pl.DataType]] = field(default_factory=dict)
    wholes: frozenset[str] = frozenset()  # of the numbers, integers that are written as 3.0

    @property
    def width(self) -> int:
        return len(self.names)


def read_csv(
    stream: Stream,
    source: FilesSource,
    name: str,
    start: Progress,
    batch_rows: int,
    types: Mapping[str, ColumnType],
) -> Iterator[Piece]:
    """Read rows from ``start`` to the end.

    Args:
        stream: The file as UTF-8.
        source: For the separator, and which values are missing.
        name: Of the file.
        start: Where to begin.
        batch_rows: About how many rows a piece should have.
        types: What columns are known to be, looked up for each piece; the others are text.

    Raises:
        PenstockError: There is no header, or one that cannot be.
    """
    buffer = Buffer(stream, name)
    separator = "\t" if suffix_of(name)[0] == ".tsv" and source.separator == "," else source.separator
    shape = _header(buffer, source, separator, name)
    tries, wholes = TRIES, frozenset[str]()
    rows, was = start.rows, None
    buffer.resume(start)
    if start.open is not None:
        was = _continued(buffer, start.offset - start.open)
        rows -= was is not None
    buffer.fill(SAMPLE)
    target = _target(len(buffer.content), buffer.content.count(b"\n"), batch_rows)
    while True:
        buffer.fill(target)
        if not buffer.content:
            return
        content = buffer.content[:target]
        final = buffer.ended and len(content) == len(buffer.content)
        numbers = _numbers(shape, types) if tries else {}
        numbers |= dict.fromkeys(wholes & set(numbers), pl.Float64)
        numbered = replace(shape, numbers=numbers, wholes=wholes & set(numbers))
        block = _fast(content, numbered) or _exact(content, shape, final=final)
        if not block.used:
            if len(content) > 2 * LONGEST:
                raise PenstockError(
                    f"{name}: row {rows} is longer than {LONGEST >> 20} MB",
                    hint="is it a CSV file, and source.separator the right one?",
                )
            target = 2 * len(content)
            continue
        if numbers:
            tries = TRIES if block.written is not None else tries - 1
            if block.written is None:
                wholes = _wholes(block.frame, types)
        if was is not None:
            block, was = _changed(block, was), None
        piece, rows = _piece(block, buffer, rows)
        yield piece
        target = _target(block.used, block.rows, batch_rows)


def _numbers(shape: _Shape, types: Mapping[str, ColumnType]) -> dict[str, type[pl.DataType]]:
    known = {name: types.get(name, "text") for name in shape.names}
    return {name: NUMBERS[kind] for name, kind in known.items() if kind in NUMBERS}


def _wholes(frame: pl.DataFrame, types: Mapping[str, ColumnType]) -> frozenset[str]:
    """Integers that are written as 3.0, as other tools do when one of a column is missing."""
    firsts = {name: frame[name].first(ignore_nulls=True) for name in frame.columns}
    return frozenset(
        name
        for name, first in firsts.items()
        if types.get(name) == "integer" and re.fullmatch(r"[+-]?\d+\.0*", str(first))
    )


def _target(size: int, rows: int, batch_rows: int) -> int:
    return max(1, min(LARGEST, batch_rows * max(1, size // max(1, rows))))


# --- a last line that has been continued ------------------------------------------------------------


def _continued(buffer: Buffer, length: int) -> bytes | None:
    """Go on after a last line without a newline; the line as it was, if it has been continued."""
    buffer.fill(length + 2)
    was, after = buffer.content[:length], buffer.content[length : length + 2]
    if after.startswith((b"\n", b"\r\n")):
        buffer.use(length + after.index(b"\n") + 1)
        return None
    if after in {b"", b"\r"}:  # nothing new yet
        buffer.use(len(buffer.content))
        return None
    return was


def _changed(block: _Block, was: bytes) -> _Block:
    """The first row of a block was stored already, as it was before it was continued: it is not stored again."""
    if block.broken and block.broken[0].position == 0:
        return block
    frame = block.frame if block.written is None else block.written()
    row = frame.row(0)
    told = Broken(
        0,
        "line: continued",
        f"line: expected a newline after {shown_bytes(was)[:60]!r}, which was stored as a row; found that it goes on",
        ["" if value is None else value for value in row],
    )
    kept = np.arange(block.rows) if block.kept is None else block.kept
    return _Block(frame[1:], block.rows, block.used, kept[1:], [told, *block.broken], block.held, block.tail)


# --- the header -------------------------------------------------------------------------------------


def _header(buffer: Buffer, source: FilesSource, separator: str, name: str) -> _Shape:
    mark = separator.encode()
    unquoted = re.compile(b"[^" + re.escape(mark) + b"\n]*")
    settings = {
        "separator": separator,
        # polars has this one null as a flag, which is quicker than as a value.
        "null_values": [value for value in source.null_values if value] or None,
        "empty_string_is_null": "" in source.null_values,
    }
    shape = _Shape([], mark, settings, unquoted, source.encoding)
    buffer.fill(SAMPLE)
    if not buffer.content:
        raise PenstockError(f"{name}: the file is empty", hint="was its download or export cut short?")
    _check_marks(buffer.content, source, name)
    if buffer.content.startswith(BOM):
        buffer.use(len(BOM))
    while True:
        buffer.fill(SAMPLE)
        blank = re.match(rb"\r?\n", buffer.content)
        if blank is None:
            break
        buffer.use(blank.end())
    row = _row(buffer.content, 0, shape, final=buffer.ended)
    while row is None:
        buffer.fill(2 * len(buffer.content))
        row = _row(buffer.content, 0, shape, final=buffer.ended)
    raw = buffer.content[: row.end]
    buffer.use(row.end)
    if row.problem:
        raise PenstockError(f"{name}: the header is not readable: {row.problem}", hint="mend its first line")
    return replace(shape, names=_names(row, raw, source, separator, name))


def _check_marks(content: bytes, source: FilesSource, name: str) -> None:
    """A file that says itself that it is UTF-16 is not read as UTF-8."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise PenstockError(
            f"{name}: begins as UTF-16 does, and source.encoding is {source.encoding}",
            hint="set source.encoding: utf-16",
        )


def _names(row: _Row, raw: bytes, source: FilesSource, separator: str, name: str) -> list[str]:
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raise PenstockError(
            f"{name}: the header is not {source.encoding}: {shown_bytes(raw.strip())[:60]!r}, byte {error.start}",
            hint="set source.encoding, such as windows-1252",
        ) from error
    names = [field or f"column_{number}" for number, field in enumerate(row.values, 1)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise PenstockError(
            f"{name}: column names that occur twice: {', '.join(map(repr, repeated))}",
            hint="rename them; each column needs a name of its own",
        )
    other = [mark for mark in OTHER_SEPARATORS if mark != separator and mark in names[0]]
    if len(names) == 1 and other:
        raise PenstockError(
            f"{name}: the header is one column, {names[0]!r}, when divided at {separator!r}",
            hint=f"set source.separator: {json.dumps(other[0])}",
        )
    return names


# --- blocks -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Block:
    """Rows at the beginning of the buffer.

    Attributes:
        frame: Those that are sound.
        rows: How many there are, broken ones and blank lines included.
        used: Bytes that they take.
        kept: Numbers of the sound ones, counted from 0; None if all are.
        broken: The others.
        held: Whether the last one may be half-written, and is to be read again.
        tail: Where the last row begins, if it has no newline.
        written: Gives the sound rows as text, if some columns were read as numbers.
    """

    frame: pl.DataFrame
    rows: int
    used: int
    kept: NDArray[np.int64] | None = None
    broken: list[Broken] = field(default_factory=list)
    held: int | None = None
    tail: int | None = None
    written: Callable[[], pl.DataFrame] | None = None


def _piece(block: _Block, buffer: Buffer, rows: int) -> tuple[Piece, int]:
    """A block with its rows numbered as in the file, and the number of the next row."""
    end = buffer.offset + block.used
    tail = None if block.tail is None else buffer.offset + block.tail
    place = next(at for at in (block.held, block.tail, block.used) if at is not None)
    buffer.use(place)
    digest = buffer.digest
    buffer.use(block.used - place)
    if block.held is not None:
        progress = Progress(rows + block.rows - 1, end - block.used + block.held, None, digest)
    else:
        progress = Progress(rows + block.rows, end, tail, digest)
    broken = [Broken(rows + b.position, b.rule, b.reason, b.line) for b in block.broken]
    position = rows if block.kept is None else pl.Series(rows + block.kept, dtype=pl.Int64)
    piece = Piece(block.frame, progress, position, broken, buffer.at_end, block.written)
    return piece, rows + block.rows


def _parsed(content: bytes, shape: _Shape) -> pl.DataFrame:
    if content.startswith(BOM):
        # At the beginning of a file it would be a mark; here it belongs to a value.
        whole = _parsed(b"x" + shape.separator * (shape.width - 1) + b"\n" + content, shape)
        return whole[1:]
    return pl.read_csv(
        content,
        has_header=False,
        schema={name: shape.numbers.get(name, pl.String) for name in shape.names},
        **shape.settings,
    )


def _parsed_numbers(content: bytes, shape: _Shape) -> pl.DataFrame | None:
    """All columns, some of them as numbers; None if any value is not one, or is not finite."""
    if not shape.numbers or content.startswith(BOM):
        return None
    try:
        frame = _parsed(content, shape)
    except pl.exceptions.PolarsError:
        return None
    finite = frame.select(cs.float().is_finite().all())
    if finite.width and not all(finite.row(0)):
        return None
    if shape.wholes:
        real = pl.col(*shape.wholes)
        if not all(frame.select(((real.abs() < EXACT) & (real == real.floor())).all()).row(0)):
            return None
        frame = frame.with_columns(real.cast(pl.Int64))
    return frame


def _fast(content: bytes, shape: _Shape) -> _Block | None:
    """All whole lines, if they are as they should be; None if that is not sure."""
    cut = content.rfind(b"\n") + 1
    quoted = content.find(b'"') != -1
    bounds = None
    if quoted:
        found = np.flatnonzero(np.frombuffer(content, np.uint8) == QUOTE)
        cut = _outside(content, found, cut)
        bounds = found[: np.searchsorted(found, cut)]
        if not _regular(content, bounds, cut, shape):
            return None
    if not cut:
        return None
    block = content[:cut]
    if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
        return None
    data = np.frombuffer(block, np.uint8)
    rows = int(np.count_nonzero(data == NEWLINE))
    if bounds is not None and len(bounds):
        newlines = np.flatnonzero(data == NEWLINE)
        rows = int(np.count_nonzero(np.searchsorted(bounds, newlines) % 2 == 0))
    text = replace(shape, numbers={})
    written = None
    frame = _parsed_numbers(block, shape)
    if frame is not None:
        written = partial(_parsed, block, text)
    else:
        try:
            frame = _parsed(block, text)
        except pl.exceptions.PolarsError:
            return None
    # With too many fields in a row polars gives up; with too few in any, there are too few in all.
    if frame.height != rows or not _none_short(frame, data, bounds, rows, shape):
        return None
    return _Block(frame, rows, cut, written=written)


def _none_short(
    frame: pl.DataFrame, data: NDArray[np.uint8], bounds: NDArray[np.int64] | None, rows: int, shape: _Shape
) -> bool:
    if shape.width == 1:
        return True
    marks = data == shape.separator[0]
    if bounds is not None and len(bounds):
        last = frame[shape.names[-1]]
        if not last.null_count() and not (last.dtype == pl.String and (last == "").any()):
            return True  # a missing field is read as one of these
        inside = np.zeros(len(data), np.uint8)
        inside[bounds] = 1
        marks &= np.bitwise_xor.accumulate(inside) == 0
    return int(np.count_nonzero(marks)) == rows * (shape.width - 1)


def _outside(content: bytes, quotes: NDArray[np.int64], cut: int) -> int:
    """The end of the last line that no quote is open at, at or before ``cut``."""
    while cut:
        before = int(np.searchsorted(quotes, cut))
        if before % 2 == 0:
            return cut
        cut = content.rfind(b"\n", 0, int(quotes[before - 1])) + 1
    return 0


def _regular(content: bytes, quotes: NDArray[np.int64], cut: int, shape: _Shape) -> bool:
    """Whether every quote is at either end of a field, or doubled inside one."""
    if not len(quotes):
        return True
    data = np.frombuffer(content, np.uint8)
    opening, closing = quotes[0::2], quotes[1::2]
    mark = shape.separator[0]
    before = data[opening - 1]
    starts = (opening == 0) | (before == mark) | (before == NEWLINE)
    starts[1:] |= opening[1:] == closing[:-1] + 1
    after = data[closing + 1]  # a newline comes before the cut
    ends = (after == mark) | (after == NEWLINE)
    ends |= (after == RETURN) & (data[np.minimum(closing + 2, cut - 1)] == NEWLINE)
    ends[:-1] |= opening[1:] == closing[:-1] + 1
    return bool(starts.all() and ends.all())


# --- row by row -------------------------------------------------------------------------------------


QUOTED = re.compile(rb'"[^"]*+(?:""[^"]*+)*+"')


@dataclass(frozen=True)
class _Row:
    """One row: its fields as they are written, where it ends with its newline, and what is wrong with it."""

    fields: list[bytes]
    end: int
    problem: str = ""
    whole: bool = True  # ends with a newline

    @property
    def values(self) -> list[str]:
        return [
            shown_bytes(f[1:-1].replace(b'""', b'"') if f.startswith(b'"') and len(f) > 1 else f)
            for f in self.fields
        ]


def _row(content: bytes, at: int, shape: _Shape, *, final: bool) -> _Row | None:
    """The row that begins at ``at``; None if its end is not there yet."""
    start, size, fields = at, len(content), []
    while True:
        if content.startswith(b'"', at):
            match = QUOTED.match(content, at)
            if match is None:
                if not final and size - start < LONGEST:
                    return None
                return _malformed(content, start, start, "a quote that is not closed", final=final)
            end = match.end()
            if end - start > LONGEST:
                return _malformed(content, start, start, "a quote that is not closed", final=final)
            if end + 1 >= size and not final:
                return None
            if not (end == size or content.startswith((shape.separator, b"\n", b"\r\n"), end)) and not (
                final and content[end:] == b"\r"
            ):
                return _malformed(content, start, end, "text after a closing quote", final=final)
        else:
            match = shape.unquoted.match(content, at)
            assert match is not None
            end = match.end()
        fields.append(content[at:end])
        if content.startswith(shape.separator, end):
            at = end + 1
            continue
        newline = content.find(b"\n", end, end + 2)
        if newline == -1 and not final:
            return None
        if fields[-1].endswith(b"\r") and not fields[-1].startswith(b'"'):
            fields[-1] = fields[-1][:-1]
        return _Row(fields, size if newline == -1 else newline + 1, whole=newline != -1)


def _malformed(content: bytes, start: int, after: int, problem: str, *, final: bool) -> _Row | None:
    """A row that no rule can divide: it ends with the line in which that shows."""
    newline = content.find(b"\n", after)
    if newline == -1 and not final:
        return None
    end = len(content) if newline == -1 else newline + 1
    return _Row([], end, f"line: expected fields, found {problem}", newline != -1)


@dataclass
class _Sorted:
    """What goes through row by row, as it grows: sound rows as CSV that polars reads as they are meant."""

    shape: _Shape
    clean: bytearray = field(default_factory=bytearray)
    kept: list[NDArray[np.int64]] = field(default_factory=list)
    nothing: list[int] = field(default_factory=list)  # which sound rows are blank lines of a single column
    broken: list[Broken] = field(default_factory=list)
    rows: int = 0

    def lines(self, content: bytes, start: int, end: int) -> None:
        """Whole lines of several columns, without a quote, all of characters."""
        data = np.frombuffer(content, np.uint8)[start:end]
        ends = np.flatnonzero(data == NEWLINE)
        begins = np.concatenate(([0], ends[:-1] + 1))
        marks = np.searchsorted(np.flatnonzero(data == self.shape.separator[0]), ends)
        length = ends - begins
        blank = (length == 0) | ((length == 1) & (data[begins] == RETURN))
        sound = np.diff(marks, prepend=0) + 1 == self.shape.width
        self.clean += data[np.repeat(sound, length + 1)].tobytes()
        self.kept.append(self.rows + np.flatnonzero(sound))
        for row in np.flatnonzero(~sound & ~blank):
            line = content[start + begins[row] : start + ends[row]].removesuffix(b"\r")
            self._ragged(self.rows + int(row), line.split(self.shape.separator))
        self.rows += len(ends)

    def row(self, raw: bytes, row: _Row) -> None:
        """Any row, as it was divided."""
        line = raw.removesuffix(b"\n").removesuffix(b"\r")
        if row.problem:
            self.broken.append(Broken(self.rows, "line: quotes", row.problem, shown_bytes(line)))
        elif problem := _undecodable(raw, self.shape.encoding):
            self.broken.append(Broken(self.rows, "line: encoding", problem, shown_bytes(line)))
        elif not line and self.shape.width == 1:
            self.nothing.append(sum(map(len, self.kept)))
            self._sound(b'""')
        elif line and len(row.fields) != self.shape.width:
            self._ragged(self.rows, row.fields)
        elif line:
            self._sound(self.shape.separator.join(map(_regularly, row.fields)))
        self.rows += 1

    def _sound(self, line: bytes) -> None:
        self.clean += line + b"\n"
        self.kept.append(np.array([self.rows]))

    def _ragged(self, at: int, fields: list[bytes]) -> None:
        reason = f"line: expected {self.shape.width} fields, found {len(fields)}"
        self.broken.append(Broken(at, "line: fields", reason, _Row(fields, 0).values))

    def frame(self) -> pl.DataFrame:
        if not self.clean:
            return pl.DataFrame(schema=dict.fromkeys(self.shape.names, pl.String))
        frame = _parsed(bytes(self.clean), self.shape)
        assert frame.height == sum(map(len, self.kept))
        if self.nothing and self.shape.settings["empty_string_is_null"]:
            blank = pl.int_range(frame.height, eager=True).is_in(pl.Series(self.nothing).implode())
            frame = frame.with_columns(pl.when(~blank).then(pl.all()))
        return frame


def _regularly(written: bytes) -> bytes:
    """A field with its quotes where polars expects them."""
    # polars would take a \r at the end of a field for one before a newline.
    if written.startswith(b'"') or not (b'"' in written or written.endswith(b"\r")):
        return written
    return b'"' + written.replace(b'"', b'""') + b'"'


def _exact(content: bytes, shape: _Shape, *, final: bool) -> _Block:
    """All rows whose end is there, each looked at for itself where its line has a quote or is not of characters."""
    found = _Sorted(shape)
    data = np.frombuffer(content, np.uint8)
    odd = np.append(data[1:], 0) != NEWLINE
    odd &= data == RETURN
    odd |= data == QUOTE
    odd[_bad_bytes(content)] = True
    trouble = np.flatnonzero(odd).tolist()
    at = next_trouble = 0
    held = tail = None
    while at < len(content):
        next_trouble = bisect.bisect_left(trouble, at, lo=next_trouble)
        until = trouble[next_trouble] if next_trouble < len(trouble) else len(content)
        line = max(at, content.rfind(b"\n", at, until) + 1)
        if line - at > SHORT and shape.width > 1:
            found.lines(content, at, line)
            at = line
            continue
        row = _row(content, at, shape, final=final)
        if row is None:
            break
        broken = len(found.broken)
        found.row(content[at : row.end], row)
        if not row.whole:
            held, tail = (at, None) if len(found.broken) > broken else (None, at)
        at = row.end
    kept = np.concatenate(found.kept) if found.kept else np.empty(0, np.int64)
    return _Block(found.frame(), found.rows, at, kept, found.broken, held, tail)


def _undecodable(raw: bytes, encoding: str) -> str | None:
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        before = len(raw[: error.start].decode())
        byte = shown_bytes(raw[error.start :])[:4].replace("\\", "0")
        return f"line: expected {encoding}, found the byte {byte} at character {before}"
    return None


_bad = threading.local()


def _noted(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    _bad.found.append(error.start)
    return "", error.end


codecs.register_error(WHERE, _noted)


def _bad_bytes(content: bytes) -> list[int]:
    """Where bytes are that are no characters, found in one go."""
    found: list[int] = []
    _bad.found = found
    content.decode("utf-8", WHERE)
    return found
