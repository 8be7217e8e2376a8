"""JSON, as lines or as one document, with JSON's own types where a column has one.

orjson reads what is strictly JSON. What it refuses, or would round (integers beyond 64 bits), the standard library
reads again with NaN and infinity allowed, as many programs write them; numbers beyond a float's range stay text.
A line is broken that is no object, or gives one name two values: which of them is meant, nobody knows. Blank lines
are not counted. The last line needs no newline if it is an object; otherwise it may be half-written: it is broken
for now, and read again once the file has grown.

A document is read whole: it takes several times its size in memory. What is larger than that belongs into lines.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
import polars as pl

from penstock.errors import PenstockError
from penstock.sources.flattening import fields_of, tabled
from penstock.sources.streamed_buffer import Buffer
from penstock.sources.streamed_pieces import Broken, Piece, Progress, shown_bytes
from penstock.sources.streamed_places import Stream

__all__ = ["exact_json", "is_lines", "json_rows", "read_json", "read_json_lines"]

BOM = b"\xef\xbb\xbf"
SAMPLE = 1 << 16
LARGEST = 32 << 20  # bytes of a block
LONGEST = 256 << 20  # bytes of a line
ROUNDED = 2**53  # from here on a float may stand for an integer that it does not equal
RULE = "line: JSON"


# --- lines ------------------------------------------------------------------------------------------


def read_json_lines(
    stream: Stream, name: str, encoding: str, start: Progress, batch_rows: int
) -> Iterator[Piece]:
    """Read rows from ``start`` to the end, about ``batch_rows`` at a time.

    Raises:
        PenstockError: A line is too long to be one, or the file is not the one that ``start`` is of.
    """
    buffer = Buffer(stream, name)
    buffer.resume(start)
    buffer.fill(SAMPLE)
    if not buffer.offset and buffer.content.startswith(BOM):
        buffer.use(len(BOM))
    target = _target(len(buffer.content), buffer.content.count(b"\n"), batch_rows)
    rows = start.rows
    while True:
        buffer.fill(target)
        if not buffer.content:
            return
        content = buffer.content[:target]
        final = buffer.ended and len(content) == len(buffer.content)
        used = len(content) if final else content.rfind(b"\n") + 1
        if not used:
            if len(content) > LONGEST:
                raise PenstockError(
                    f"{name}: row {rows} is longer than {LONGEST >> 20} MB",
                    hint="is it one document? format: json",
                )
            target = 2 * len(content)
            continue
        block = content[:used]
        numbered = [(rows + n, line) for n, line in enumerate(filter(bytes.strip, block.split(b"\n")))]
        frame, kept, broken = json_rows(numbered, encoding)
        rows += len(numbered)
        held = (
            bool(broken)
            and not block.endswith(b"\n")
            and broken[-1].position == rows - 1
            and numbered[-1][1] == _tail(block)
        )
        place = block.rfind(b"\n") + 1 if held else used
        buffer.use(place)
        progress = Progress(rows - held, buffer.offset, None, buffer.digest)
        buffer.use(used - place)
        position = rows - len(numbered) if not broken else pl.Series(kept, dtype=pl.Int64)
        yield Piece(frame, progress, position, broken, buffer.at_end)
        target = _target(used, len(numbered), batch_rows)


def _tail(block: bytes) -> bytes:
    return block[block.rfind(b"\n") + 1 :]


def _target(size: int, rows: int, batch_rows: int) -> int:
    return max(1, min(LARGEST, batch_rows * max(1, size // max(1, rows))))


def json_rows(
    numbered: Sequence[tuple[int, bytes]], encoding: str
) -> tuple[pl.DataFrame, list[int], list[Broken]]:
    """The rows of some lines, the numbers of the sound ones, and the others."""
    lines = [line for _, line in numbered]
    try:
        records = list(map(orjson.loads, lines))
    except orjson.JSONDecodeError:
        records = []
    if records and all(type(record) is dict for record in records) and _plain(records, b"\n".join(lines)):
        try:
            return tabled(records), [number for number, _ in numbered], []
        except PenstockError:  # two values for one column, in some of them
            pass
    records, kept, broken = [], [], []
    for number, line in numbered:
        value = _quickly(line)
        problem = ""
        if value is None:
            value, problem = _read(line, encoding)
        if problem:
            broken.append(Broken(number, RULE, f"line: expected a JSON object, {problem}", shown_bytes(line)))
        else:
            records.append(value)
            kept.append(number)
    return tabled(records), kept, broken


def _quickly(line: bytes) -> dict[str, Any] | None:
    """The object that a line is, if nothing about it needs care."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return value if type(value) is dict and _plain([value], line) and not _unfit(value) else None


def _plain(records: Sequence[Mapping[str, Any]], text: bytes) -> bool:
    """Whether orjson has kept everything: each name that is written, and each number as it is."""
    count = 0
    for record in records:
        found = _names(record)
        if found < 0:
            return False
        count += found
    return count == _written(text)


def _written(text: bytes) -> int:
    """How many names are written, or more: text inside a value may look like one."""
    if any(space + b":" in text for space in (b" ", b"\t", b"\r", b"\n")):
        return len(re.findall(rb'"\s*:', text))
    return text.count(b'":')


def _names(value: Any) -> int:
    """How many names there are inside; negative if a number may be rounded."""
    count = 0
    inner: Any = value
    if type(value) is dict:
        count, inner = len(value), value.values()
    for item in inner:
        kind = type(item)
        if kind is float:
            if not -ROUNDED < item < ROUNDED:
                return -1
        elif kind is dict or kind is list:
            found = _names(item)
            if found < 0:
                return -1
            count += found
    return count


class _TwiceError(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return found


def _number(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text


def _integer(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:  # thousands of digits
        return text


def exact_json(text: str) -> Any:
    """What a text says, with nothing lost of it; numbers beyond a float's range stay text.

    Raises:
        ValueError: It is not JSON, or gives one name two values.
    """
    return json.loads(text, object_pairs_hook=_once, parse_float=_number, parse_int=_integer)


def _read(line: bytes, encoding: str) -> tuple[Any, str]:
    """The object that a line is, or what it is instead."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return None, f"found a byte that is not {encoding} at character {len(line[: error.start].decode())}"
    try:
        value = exact_json(text)
    except _TwiceError as error:
        return None, f"found {str(error)!r} twice"
    except json.JSONDecodeError as error:
        return None, f"found an error at character {error.pos}: {error.msg}"
    except RecursionError:
        return None, "found too many brackets in brackets"
    if not isinstance(value, dict):
        return None, f"found {text.strip()[:60]}"
    return value, _unfit(value)


def _unfit(value: dict[str, Any]) -> str:
    """Why an object is no row."""
    names = [name for name, _ in fields_of(value)]
    if len(set(names)) < len(names):
        return f"found two values for {next(name for name in names if names.count(name) > 1)!r}"
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "found half of a surrogate pair"
    return ""


# --- documents --------------------------------------------------------------------------------------


def is_lines(stream: Stream, name: str) -> bool:
    """Whether a .json file has an object on each line, rather than being one document."""
    buffer = Buffer(stream, name)
    buffer.fill(SAMPLE)
    content = buffer.content.removeprefix(BOM).lstrip()
    if not content.startswith(b"{"):
        return False
    line, _, rest = content.partition(b"\n")
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return bool(rest.strip())


def read_json(
    stream: Stream, name: str, encoding: str, select: str | None, start: Progress, batch_rows: int
) -> Iterator[Piece]:
    """Read the rows of a document from number ``start.rows`` on.

    Args:
        stream: The file as UTF-8.
        name: Of the file.
        encoding: What it is in.
        select: Names, parted by dots, that lead from the document to its rows.
        start: Where to begin.
        batch_rows: How many rows a piece has.

    Raises:
        PenstockError: It is not JSON, or has nothing where the rows should be.
    """
    parts = []
    while part := stream.read(1 << 20):
        parts.append(part)
    found = _selected(_document(b"".join(parts).removeprefix(BOM), name, encoding), select, name)
    del parts
    rows = found if isinstance(found, list) else [found]
    for at in range(start.rows, len(rows), batch_rows):
        some = rows[at : at + batch_rows]
        broken = []
        for number, row in enumerate(some, at):
            problem = (
                _unfit(row) if isinstance(row, dict) else f"found {json.dumps(row, ensure_ascii=False)[:60]}"
            )
            if problem:
                line = json.dumps(row, ensure_ascii=True)
                broken.append(Broken(number, RULE, f"line: expected a JSON object, {problem}", line))
        wrong = {entry.position for entry in broken}
        kept = [number for number in range(at, at + len(some)) if number not in wrong]
        frame = tabled([rows[number] for number in kept])
        position = pl.Series(kept, dtype=pl.Int64) if broken else at
        yield Piece(frame, Progress(at + len(some)), position, broken)


def _document(content: bytes, name: str, encoding: str) -> Any:
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        pass  # the standard library says where, and knows NaN
    else:
        if isinstance(value, dict | list) and _names(value) == _written(content):
            return value
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise PenstockError(
            f"{name}: not {encoding} at byte {error.start}",
            hint="set source.encoding, such as windows-1252 or utf-16",
        ) from error
    try:
        return exact_json(text)
    except _TwiceError as error:
        raise PenstockError(
            f"{name}: an object has {str(error)!r} twice",
            hint="which of both is meant? Mend it at the source",
        ) from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise PenstockError(
            f"{name}: not readable as json ({error})",
            hint="is it cut short? If it has an object on each line: source.format: jsonl",
        ) from error


def _selected(value: Any, select: str | None, name: str) -> Any:
    done: list[str] = []
    for key in select.split(".") if select else []:
        if not isinstance(value, dict) or key not in value:
            there = list(value) if isinstance(value, dict) else []
            near = difflib.get_close_matches(key, there, n=1)
            where = ".".join(done) or "the document"
            raise PenstockError(
                f"{name}: source.select: {where} has no {key!r}",
                hint=f"did you mean {near[0]!r}?"
                if near
                else f"there are: {', '.join(there[:12]) or 'no names'}",
            )
        value = value[key]
        done.append(key)
    if not isinstance(value, dict | list):
        raise PenstockError(
            f"{name}: expected rows at {select or 'the top'}, found {json.dumps(value)[:60]}",
            hint="name where they are: source.select: data.items",
        )
    return value
