"""Files as bad as they come: every row is delivered right, or is broken with a true reason."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from unittest import mock

import polars as pl
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.config.loading import FilesSource
from penstock.sources import streamed_csv
from penstock.sources.chunks import Chunk, Window
from penstock.sources.streamed_files import read_files

BATCHES = (1, 2, 3, 1000)


def chunks(path: Path, resume: dict | None = None, batch_rows: int = 1000, **keys) -> list[Chunk]:
    source = FilesSource(kind="files", path=str(path), **keys)
    return list(read_files(source, Window(resume=resume or {}, batch_rows=batch_rows)))


def delivered(found: list[Chunk]) -> tuple[dict[int, dict], dict[int, tuple[str, str]]]:
    """Rows and broken rows, by their number; no number twice."""
    rows, broken = {}, {}
    for chunk in found:
        first = chunk.position
        numbers = range(first, first + chunk.frame.height) if isinstance(first, int) else first.to_list()
        for number, row in zip(numbers, chunk.frame.iter_rows(named=True), strict=True):
            assert number not in rows
            rows[number] = row
        for _, number, reason, line in chunk.broken.iter_rows():
            assert number not in broken
            broken[number] = (reason, json.loads(line)["line"])
        assert sum(chunk.reasons.values()) == chunk.broken.height
    assert not set(rows) & set(broken)
    return rows, broken


def however_it_is_read(path: Path, **keys) -> tuple[dict[int, dict], dict[int, tuple[str, str]]]:
    """What is found whatever the size of a chunk, and wherever a load is cut and goes on."""
    whole = delivered(chunks(path, **keys))
    for batch_rows in BATCHES[:-1]:
        parts = chunks(path, batch_rows=batch_rows, **keys)
        assert same(delivered(parts), whole)
        for cut, chunk in enumerate(parts):
            assert chunk.boundary
            resume = json.loads(json.dumps(chunk.resume))
            later = chunks(path, resume, batch_rows=2, **keys)
            assert same(delivered([*parts[: cut + 1], *later]), whole)
    return whole


def same(found: tuple, expected: tuple) -> bool:
    """Types may differ from chunk to chunk; what a row says may not."""
    return plain(found[0]) == plain(expected[0]) and found[1] == expected[1]


def plain(rows: dict[int, dict]) -> dict[int, dict]:
    return {
        number: {name: said(value) for name, value in row.items() if value is not None}
        for number, row in rows.items()
    }


def said(value: object) -> object:
    """A value, be it text because others of its column are, or of its own type."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return repr(value)


# --- CSV --------------------------------------------------------------------------------------------


def reference(data: bytes, width: int) -> tuple[dict[int, list], dict[int, str]]:
    """The rules of CSV one byte at a time: slow, and sharing nothing with the code."""
    rows: dict[int, list] = {}
    broken: dict[int, str] = {}
    number, at = 0, 0
    while at < len(data):
        start, fields, problem = at, [], None
        while True:
            value = bytearray()
            quoted = data[at : at + 1] == b'"'
            if quoted:
                at += 1
                while at < len(data) and (data[at : at + 1] != b'"' or data[at + 1 : at + 2] == b'"'):
                    value += data[at : at + 1]
                    at += 2 if data[at : at + 1] == b'"' else 1
                if at >= len(data):
                    problem, at = "not closed", start
                    break
                at += 1
                after = data[at:]
                if not (after in {b"", b"\r"} or after.startswith((b",", b"\n", b"\r\n"))):
                    problem = "text after"
                    break
            else:
                while at < len(data) and data[at : at + 1] not in {b",", b"\n"}:
                    value += data[at : at + 1]
                    at += 1
                if data[at : at + 1] != b"," and value.endswith(b"\r"):
                    del value[-1]
            fields.append((bytes(value), quoted))
            if data[at : at + 1] == b"\r":
                at += 1
            if data[at : at + 1] == b",":
                at += 1
                continue
            break
        if problem:
            end = data.find(b"\n", at)
            at = len(data) if end == -1 else end
        at += 1
        line = data[start:at].removesuffix(b"\n").removesuffix(b"\r")
        if problem:
            broken[number] = problem
        elif not decodes(data[start:at]):
            broken[number] = "byte"
        elif line or width == 1:
            if len(fields) == width:
                rows[number] = [
                    None if value == b"NA" or (not value and not quoted) else value.decode()
                    for value, quoted in fields
                ]
            else:
                broken[number] = f"found {len(fields)}"
        number += 1
    return rows, broken


def decodes(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


marks = st.sampled_from(
    [b'"', b'""', b",", b"\n", b"\r\n", b"\r", b"a", b"NA", b" ", "é\ufeff".encode(), b"\xe9", b"\x00"]
)
garbage = st.lists(marks, max_size=25).map(b"".join)
cells = st.sampled_from(
    [
        "",
        '""',
        "a",
        "NA",
        '"x,y"',
        '"l1\nl2"',
        '"q""q"',
        '"l1\r\nl2"',
        '5" x',
        "1e5",
        "2024-01-01",
        "01/02/2024",
        "Jan 1 2024",
        "inf",
        "99999999999999999999",
        "é",
        " ",
    ]
)
tidy = st.lists(st.lists(cells, min_size=1, max_size=4).map(",".join), max_size=12).flatmap(
    lambda lines: st.sampled_from(["\n", "\r\n"]).map(lambda end: end.join([*lines, ""]).encode())
)


@given(st.one_of(garbage, tidy), st.integers(1, 3), st.sampled_from([0, 4, 2000]))
@settings(max_examples=150, deadline=None)
@example(b'a,"b\n1,2\n3,4\n', 2, 0)
@example(b'"a"b,c\n"d\n', 2, 0)
@example("\ufeffx,y\n".encode(), 2, 0)
@example(b"x,\r,y\n", 3, 0)
@example(b"a\r\r\n,\r\n\r\n", 1, 0)
def test_any_csv(content, width, short):
    header = ",".join("abc"[:width]).encode() + b"\n"
    rows, broken = reference(content, width)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(
            streamed_csv, "SHORT", short
        ),  # from how many bytes on lines are looked at together
    ):
        path = Path(folder) / "in.csv"
        path.write_bytes(header + content)
        found, wrong = however_it_is_read(path, null_values=["", "NA"])
    assert {number: list(row.values()) for number, row in found.items()} == rows
    assert set(wrong) == set(broken)
    for number, problem in broken.items():
        assert problem in wrong[number][0]


@given(
    st.lists(
        st.lists(
            st.text(st.characters(codec="windows-1252", exclude_characters='"\n\r,\x00'), max_size=3),
            min_size=1,
            max_size=3,
        ),
        max_size=8,
    ),
    st.sampled_from(["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "windows-1252", "gb18030"]),
    st.sampled_from(["", ".gz", ".bz2", ".xz", ".zip"]),
)
@settings(max_examples=40, deadline=None)
def test_any_encoding_and_compression(lines, encoding, compression):
    content = "\n".join(["a,b", *(",".join(line) for line in lines), ""])
    if any("".join(line) == "" and len(line) == 1 for line in lines):
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"in.csv{compression}"
        path.write_bytes(packed(content.encode(encoding), compression))
        rows, broken = however_it_is_read(path, encoding=encoding)
    assert {n: list(row.values()) for n, row in rows.items()} == {
        n: [value or None for value in line] for n, line in enumerate(lines) if len(line) == 2
    }
    assert set(broken) == {n for n, line in enumerate(lines) if len(line) != 2}


def packed(content: bytes, suffix: str) -> bytes:
    import bz2
    import gzip
    import io
    import lzma
    import zipfile

    if suffix == ".zip":
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inner.csv", content)
        return out.getvalue()
    return {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix](content)


# --- JSON -------------------------------------------------------------------------------------------

numbers = (
    st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from([0, 1, 1.0, -0.0, 2**53 + 1, 2**63 - 1, 2**63, 2**64 + 1, 1e300, 1e16])
)
scalars = (
    st.none()
    | st.booleans()
    | numbers
    | st.text(max_size=4)
    | st.sampled_from(["1", "true", 'a":', "2024-01-01"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xy"), inner, max_size=2),
    max_leaves=5,
)
records = st.dictionaries(st.sampled_from("abc"), values, max_size=3)
bad = st.sampled_from(
    [
        "[1]",
        "3",
        '"x"',
        "{",
        '{"a": 1',
        '{"a": 1, "a": 2}',
        '{"a" : 1 , "a": 1}',
        "null",
        '{"a": 1}}',
        '{"a": {"b": 1}, "a__b": 2}',
        '{"a": "\\ud800"}',
    ]
)


def fields(value: object, prefix: tuple[str, ...] = ()) -> dict[str, object]:
    if isinstance(value, dict) and (value or not prefix):
        return {
            name: found
            for key, inner in value.items()
            for name, found in fields(inner, (*prefix, key)).items()
        }
    return {"__".join(prefix): value}


def equal(found: object, expected: object) -> bool:
    if isinstance(expected, list | dict):
        return repr(json.loads(found)) == repr(expected)
    if isinstance(found, str) and not isinstance(expected, str | None):
        found = json.loads(found)
    if isinstance(expected, float) and math.isnan(expected):
        return isinstance(found, float) and math.isnan(found)
    return found == expected and isinstance(found, bool) == isinstance(expected, bool)


@given(st.lists(records | bad, max_size=10), st.sampled_from(["\n", "\r\n", "\n\n"]), st.booleans())
@settings(max_examples=80, deadline=None)
@example([{"a": 2**64 + 1}, {"a": [2**64 + 1]}], "\n", True)
def test_any_json_lines(lines, newline, last):
    text = (
        newline.join(line if isinstance(line, str) else json.dumps(line) for line in lines) + newline * last
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.jsonl"
        path.write_text(text, encoding="utf-8", newline="")
        rows, broken = however_it_is_read(path)
    assert set(broken) == {number for number, line in enumerate(lines) if isinstance(line, str)}
    for number, line in enumerate(lines):
        if not isinstance(line, str):
            expected = fields(line)
            for name, value in rows[number].items():
                assert equal(value, expected.get(name)), (name, value, expected)
            assert {name for name, value in expected.items() if value is not None} <= set(rows[number])
        else:
            assert line in broken[number][1]


@given(st.lists(records, max_size=8))
@settings(max_examples=40, deadline=None)
def test_any_json_document(found):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.json"
        path.write_text(json.dumps({"data": {"items": found}}, indent=1), encoding="utf-8")
        rows, broken = however_it_is_read(path, select="data.items")
    assert not broken
    assert len(rows) == len(found)
    for number, record in enumerate(found):
        expected = fields(record)
        assert all(equal(value, expected.get(name)) for name, value in rows[number].items())


# --- formats with types -----------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 9), st.none() | st.text(max_size=2)), max_size=30), st.integers(1, 7)
)
@settings(max_examples=25, deadline=None)
def test_any_row_groups(rows, size):
    frame = pl.DataFrame(rows, schema={"n": pl.Int64, "s": pl.String}, orient="row")
    expected = dict(enumerate(frame.to_dicts()))
    with tempfile.TemporaryDirectory() as folder:
        for name, write in {
            "in.parquet": lambda path: frame.write_parquet(path, row_group_size=size),
            "in.arrow": lambda path: frame.write_ipc(path, record_batch_size=size),
            "stream.arrows": frame.write_ipc_stream,
        }.items():
            path = Path(folder) / name
            write(path)
            assert however_it_is_read(path)[0] == expected
