"""CSV, Parquet and JSON-lines files, one or a glob of them.

CSV is read as text: the contract then casts it, so that one wrong value puts one row into quarantine in
place of failing the file. A line that has too many fields or too few goes there too, as does a line of
JSON that is none: polars drops the former's last values and fills the latter's with nulls without a word.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import glob
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from penstock.config import FileSource
from penstock.contract import QUARANTINE_SCHEMA
from penstock.errors import PenstockError

__all__ = ["Format", "Table", "format_of", "read_files", "without"]

Format = Literal["csv", "parquet", "jsonl"]
SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
COMPRESSED = {".gz", ".zst"}
OTHER_SEPARATORS = ";\t|,"
CHUNK = 1 << 20
HEADER = -1  # number of the header's line, where rows count from 0


@dataclass(frozen=True)
class Table:
    """Rows as they were found.

    Attributes:
        frame: The columns; text where the format has no types.
        source: The file that all rows come from, or one name per row.
        position: Number of the first row in its file, counted from 0 without the header, or of each row.
        broken: Rows that could not be read as rows at all, as ``contract.QUARANTINE_SCHEMA``.
        reasons: How many of those there are for each reason.
    """

    frame: pl.DataFrame
    source: str | pl.Series
    position: int | pl.Series
    broken: pl.DataFrame
    reasons: dict[str, int]

    @property
    def name(self) -> str:
        """What to call it in an error: the source, or the first of several."""
        return self.source if isinstance(self.source, str) else str(self.source[0])


@dataclass(frozen=True)
class _Rows:
    """One file: its sound rows, their numbers where some are left out, and the lines that are no rows."""

    frame: pl.DataFrame
    position: pl.Series | None = None
    broken: tuple[_Broken, ...] = ()


@dataclass(frozen=True)
class _Broken:
    position: int
    rule: str
    reason: str
    content: dict[str, Any]


def format_of(path: Path) -> Format:
    """The format that a file's name promises.

    Raises:
        PenstockError: The suffix is not known.
    """
    suffix = _suffix(path)
    if suffix not in SUFFIXES:
        raise PenstockError(
            f"{path}: the suffix says no format that is known",
            hint=f"known: {', '.join(SUFFIXES)}, also with .gz or .zst; or set source.format",
        )
    return SUFFIXES[suffix]


def _suffix(path: Path) -> str:
    """The last one but for that of compression, in small letters."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in COMPRESSED]
    return suffixes[-1] if suffixes else ""


def read_files(source: FileSource) -> Table:
    """Read one file, or all that a glob matches, in alphabetical order.

    Raises:
        PenstockError: No file matches; one is empty, truncated, not UTF-8, or has other columns.
    """
    paths = _matching(source.path)
    parts = [_read(path, source) for path in paths]
    first = parts[0].frame.columns
    for path, part in zip(paths, parts, strict=True):
        differ = sorted(set(part.frame.columns) ^ set(first))
        if differ:
            raise PenstockError(
                f"{path}: other columns than {paths[0]}: {', '.join(differ)}",
                hint="files of one glob must have the same columns; make the others a data set of their own",
            )
    names = [path.as_posix() for path in paths]
    broken = [(name, entry) for name, part in zip(names, parts, strict=True) for entry in part.broken]
    reasons: dict[str, int] = {}
    for _, entry in broken:
        reasons[entry.rule] = reasons.get(entry.rule, 0) + 1
    return Table(*_joined(names, parts, source), _quarantined(broken), reasons)


def _matching(pattern: str) -> list[Path]:
    paths = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207  (absolute ones too)
    files = [path for path in paths if path.is_file()]
    if files:
        return files
    if paths:
        hint = f"name files: source.path: {pattern.rstrip('/')}/*.csv"
        raise PenstockError(f"{pattern}: a folder, not a file", hint=hint)
    hint = "check source.path in conf/dataset/; it is relative to the root of the repository"
    folder = Path(pattern).parent
    if glob.has_magic(pattern):
        raise PenstockError(f"{pattern}: no file matches", hint=hint)
    near = difflib.get_close_matches(Path(pattern).name, sorted(p.name for p in folder.glob("*")), n=1)
    raise PenstockError(
        f"{pattern}: there is no such file", hint=f"did you mean {folder / near[0]}?" if near else hint
    )


def _joined(
    names: Sequence[str], parts: Sequence[_Rows], source: FileSource
) -> tuple[pl.DataFrame, str | pl.Series, int | pl.Series]:
    if len(parts) == 1:
        position = 0 if parts[0].position is None else parts[0].position
        return without(parts[0].frame, source.drop, names[0]), names[0], position
    columns = parts[0].frame.columns
    try:
        whole = pl.concat([part.frame.select(columns) for part in parts], how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise PenstockError(
            f"{source.path}: the files have columns of types that do not go together ({_first_line(error)})",
            hint="write them anew with one type per column",
        ) from error
    sources = [
        pl.Series([name]).new_from_index(0, part.frame.height)
        for name, part in zip(names, parts, strict=True)
    ]
    positions = [
        pl.int_range(part.frame.height, eager=True) if part.position is None else part.position
        for part in parts
    ]
    return without(whole, source.drop, source.path), pl.concat(sources), pl.concat(positions)


def without(frame: pl.DataFrame, drop: Sequence[str], name: str) -> pl.DataFrame:
    """Leave columns out.

    Raises:
        PenstockError: One of them is not there.
    """
    for column in drop:
        if column not in frame.columns:
            near = difflib.get_close_matches(column, frame.columns, n=1)
            raise PenstockError(
                f"source.drop: {name} has no column {column!r}",
                hint=f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(frame.columns)}",
            )
    return frame.drop(drop)


def _quarantined(broken: Sequence[tuple[str, _Broken]]) -> pl.DataFrame:
    rows = [
        (name, entry.position, entry.reason, json.dumps(entry.content, ensure_ascii=False))
        for name, entry in broken
    ]
    return pl.DataFrame(rows, schema=QUARANTINE_SCHEMA, orient="row")


def _read(path: Path, source: FileSource) -> _Rows:
    form = format_of(path) if source.format == "auto" else source.format
    if path.stat().st_size == 0:
        raise PenstockError(f"{path}: the file is empty", hint="was its download or export cut short?")
    try:
        if form == "parquet":
            rows = _Rows(pl.read_parquet(path, glob=False))
        elif form == "jsonl":
            rows = _read_jsonl(path)
        else:
            rows = _read_csv(path, source)
    except (pl.exceptions.PolarsError, OSError, csv.Error) as error:
        raise _explained(path, form, error) from error
    if rows.frame.is_empty():
        raise PenstockError(
            f"{path}: there is no row in it",
            hint=f"its first line that is no row: {rows.broken[0].reason}"
            if rows.broken
            else "was its export cut short?",
        )
    return rows


# --- CSV --------------------------------------------------------------------------------------------


def _read_csv(path: Path, source: FileSource) -> _Rows:
    separator = "\t" if _suffix(path) == ".tsv" and source.separator == "," else source.separator
    _check_header(path, separator)
    settings: dict[str, Any] = {
        "separator": separator,
        "infer_schema": False,
        # polars has this one null as a flag, which is quicker than as a value.
        "null_values": [value for value in source.null_values if value] or None,
        "empty_string_is_null": "" in source.null_values,
        "glob": False,
    }
    try:
        frame = pl.read_csv(path, **settings)
    except pl.exceptions.ComputeError as error:
        if "more fields" not in str(error):
            raise
        return _without_ragged(path, pl.read_csv(path, truncate_ragged_lines=True, **settings), separator)
    # Missing fields are read as nulls, or as empty text: only where the last one is such can a line be short.
    last = frame.select((pl.last().is_null() | (pl.last() == "")).arg_true()).to_series()
    return _without_ragged(path, frame, separator, suspects=last) if len(last) else _Rows(frame)


def _check_header(path: Path, separator: str) -> None:
    header = pl.read_csv(
        path,
        has_header=False,
        n_rows=1,
        infer_schema=False,
        separator=separator,
        truncate_ragged_lines=True,
        glob=False,
    )
    names = [str(name) if name is not None else "" for name in header.row(0)]
    if any("\ufffd" in name for name in names):
        raise pl.exceptions.ComputeError("the header is not UTF-8")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise PenstockError(
            f"{path}: column names that occur twice: {', '.join(map(repr, repeated))}",
            hint="rename them; each column needs a name of its own",
        )
    other = [mark for mark in OTHER_SEPARATORS if mark != separator and mark in names[0]]
    if len(names) == 1 and other:
        raise PenstockError(
            f"{path}: the header is one column, {names[0]!r}, when divided at {separator!r}",
            hint=f"set source.separator: {json.dumps(other[0])}",
        )


def _without_ragged(
    path: Path, frame: pl.DataFrame, separator: str, suspects: pl.Series | None = None
) -> _Rows:
    """Take lines with other than the header's number of fields out, and blank lines, which are no rows.

    Args:
        path: The file.
        frame: The rows, ragged ones cut or filled up.
        separator: Between fields.
        suspects: Numbers of the rows that may be ragged; None for all.
    """
    lines = pl.read_lines(path, glob=False).to_series()
    # As many rows as lines below the header: none spans several, so a row is found by its number.
    aligned = len(lines) == frame.height + 1
    rows = suspects if suspects is not None and aligned else pl.int_range(HEADER, len(lines) - 1, eager=True)
    ragged = _ragged(lines.gather(rows + 1), rows, separator, frame.width, aligned=aligned)
    ragged.pop(HEADER, None)
    if not ragged:
        return _Rows(frame)
    if max(ragged) >= frame.height:
        at = min(ragged)
        raise PenstockError(
            f"{path}: row {at} has {len(ragged[at])} fields where the header has {frame.width}",
            hint="is there a quote that is not closed, or a separator inside a value without quotes?",
        )
    broken = tuple(
        _Broken(
            at, "line: fields", f"line: expected {frame.width} fields, found {len(fields)}", {"line": fields}
        )
        for at, fields in sorted(ragged.items())
        if any(fields)
    )
    numbers = pl.int_range(frame.height, eager=True)
    sound = numbers.filter(~numbers.is_in(pl.Series(sorted(ragged)).implode()))
    return _Rows(frame[sound], sound, broken)


def _ragged(
    lines: pl.Series, rows: pl.Series, separator: str, width: int, *, aligned: bool
) -> dict[int, list[str]]:
    """The fields of each ragged row, by its number. A blank line of a single column is a missing value."""
    if lines.str.contains('"', literal=True).any():
        # Without the ends of lines, a row in quotes that spans several would still be counted as one.
        read = csv.reader((f"{line}\n" for line in lines), delimiter=separator)
        numbers = iter(rows.to_list()) if aligned else itertools.count(HEADER)
        return {
            row: fields
            for row, fields in zip(numbers, read, strict=False)
            if len(fields) != width and (fields or width > 1)
        }
    counts = lines.str.count_matches(separator, literal=True)
    at = (counts != width - 1).arg_true().to_list()
    return {rows[i]: lines[i].split(separator) if lines[i] else [] for i in at}


# --- JSON lines -------------------------------------------------------------------------------------


def _read_jsonl(path: Path) -> _Rows:
    try:
        return _Rows(pl.read_ndjson(path, infer_schema_length=None))
    except pl.exceptions.PolarsError:
        # Read line by line, a wrong one is one row in quarantine. Values become text, as those of a CSV are.
        return _by_line(pl.read_lines(path, glob=False).to_series())


def _by_line(lines: pl.Series) -> _Rows:
    rows: list[dict[str, Any]] = []
    positions: list[int] = []
    broken: list[_Broken] = []
    for at, value in enumerate(_objects(line for line in lines if line and not line.isspace())):
        if isinstance(value, dict):
            rows.append(value)
            positions.append(at)
        else:
            broken.append(
                _Broken(at, "line: JSON", f"line: expected a JSON object, {value[1]}", {"line": value[0]})
            )
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {
        name: pl.Series(name, [_as_text(row.get(name)) for row in rows], dtype=pl.String) for name in names
    }
    return _Rows(pl.DataFrame(columns), pl.Series(positions, dtype=pl.Int64), tuple(broken))


def _objects(lines: Iterator[str]) -> Iterator[dict[str, Any] | tuple[str, str]]:
    for line in lines:
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            yield line, f"found an error at character {error.pos}: {error.msg}"
        else:
            yield value if isinstance(value, dict) else (line, f"found {line[:60]}")


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


# --- errors -----------------------------------------------------------------------------------------


def _explained(path: Path, form: Format, error: Exception) -> PenstockError:
    if form == "parquet":
        return PenstockError(
            f"{path}: not a readable Parquet file ({_first_line(error)})",
            hint="it is truncated or of another format; fetch it again",
        )
    offset = None if path.suffix.lower() in COMPRESSED else _first_byte_that_is_not_utf8(path)
    if offset is not None:
        content = path.read_bytes()
        line = content.count(b"\n", 0, offset) + 1
        marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        encoding = "UTF-16" if marked else "WINDOWS-1252"
        return PenstockError(
            f"{path}: not UTF-8 at byte {offset}, in line {line}",
            hint=f"convert it; if it is {encoding}: iconv -f {encoding} -t UTF-8 {path.name} > utf8-{path.name}",
        )
    return PenstockError(
        f"{path}: not readable as {form} ({_first_line(error)})",
        hint="is a quote not closed, or the file cut short? Another format: source.format",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _first_byte_that_is_not_utf8(path: Path) -> int | None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            waiting = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                return done - waiting + error.start
            done += len(chunk)
    waiting = len(decoder.getstate()[0])
    return done - waiting if waiting else None
