"""Files of a load: every format and place, what is new in them, and what is refused."""

from __future__ import annotations

import gzip
import json
import os
import threading
import zipfile
from datetime import UTC, date, datetime
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest

from penstock.config.loading import FilesSource
from penstock.errors import PenstockError
from penstock.sources.chunks import Chunk, Window
from penstock.sources.streamed_ahead import ahead
from penstock.sources.streamed_files import read_files
from tests.servers.s3 import s3

ALL = Window()


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name: str, content: str | bytes, *, add: bool = False) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab" if add else "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    return name


def chunks(path: str, window: Window = ALL, **keys) -> list[Chunk]:
    return list(read_files(FilesSource(kind="files", path=path, **keys), window))


def rows(found: list[Chunk]) -> list[tuple]:
    return [row for chunk in found for row in chunk.frame.rows()]


def broken(found: list[Chunk]) -> list[tuple]:
    return [row for chunk in found for row in chunk.broken.rows()]


def numbers(found: list[Chunk]) -> list[int]:
    parts = [(chunk.position, chunk.frame.height) for chunk in found]
    return [
        number
        for first, height in parts
        for number in (range(first, first + height) if isinstance(first, int) else first)
    ]


def after(found: list[Chunk], **keys) -> Window:
    """The window of the load that follows."""
    return Window(resume=json.loads(json.dumps(found[-1].resume)), **keys)


def refused(path: str, window: Window = ALL, **keys) -> PenstockError:
    with pytest.raises(PenstockError) as caught:
        chunks(path, window, **keys)
    return caught.value


# --- formats ----------------------------------------------------------------------------------------


def test_small_files_share_a_chunk_and_each_row_knows_where_it_is_from():
    write("in/b.csv", "a,b\n3,4\n5\n6,7\n")
    write("in/a.csv", "a,b\n1,2\n")
    write("in/deep/c.csv", "a,b\n8,9\n")
    [found] = chunks("in/**/*.csv")
    assert found.frame.rows() == [("1", "2"), ("3", "4"), ("6", "7"), ("8", "9")]
    assert found.source.to_list() == ["in/a.csv", "in/b.csv", "in/b.csv", "in/deep/c.csv"]
    assert found.position.to_list() == [0, 0, 2, 0]
    assert found.broken.rows() == [("in/b.csv", 1, "line: expected 2 fields, found 1", '{"line": ["5"]}')]
    assert (found.reasons, found.boundary) == ({"line: fields": 1}, True)


def test_files_of_other_columns_have_chunks_of_their_own():
    write("1.csv", "a\n1\n")
    write("2.csv", "a,b\n2,3\n")
    write("3.jsonl", '{"a": 1}\n')
    assert [chunk.frame.to_dicts() for chunk in chunks("*.*")] == [
        [{"a": "1"}],
        [{"a": "2", "b": "3"}],
        [{"a": 1}],
    ]


def test_a_chunk_holds_about_as_many_rows_as_it_should():
    write("in.csv", "a,b\n" + "".join(f"{n},{n % 7}\n" for n in range(50_000)))
    heights = [chunk.frame.height for chunk in chunks("in.csv", Window(batch_rows=5000))]
    assert sum(heights) == 50_000
    assert max(heights) < 7500
    assert len(heights) < 15


def test_columns_without_a_name_get_one():
    assert chunks(write("in.csv", ",a,\n1,2,3\n"))[0].frame.columns == ["column_1", "a", "column_3"]


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "arrows", "xlsx"])
def test_formats_with_types_keep_them(suffix):
    frame = pl.DataFrame(
        {"n": [1, None, 3], "x": [0.5, 1.5, None], "s": ["a", None, "ü"], "d": [date(2024, 1, 2)] * 3}
    )
    path = f"in.{suffix}"
    {
        "parquet": frame.write_parquet,
        "arrow": frame.write_ipc,
        "arrows": frame.write_ipc_stream,
        "xlsx": frame.write_excel,
    }[suffix](path)
    found = chunks(path, Window(batch_rows=2))
    assert [chunk.position for chunk in found if chunk.frame.height] == [0, 2]
    whole = pl.concat(chunk.frame for chunk in found if chunk.frame.height)
    kinds = {"n": pl.Int64, "x": pl.Float64, "s": pl.String, "d": pl.Date}
    if suffix == "xlsx":  # which knows one kind of number, and one of time
        kinds |= {"n": pl.Float64, "d": pl.Datetime("ms")}
        frame = frame.cast(kinds)
    assert whole.schema == kinds
    assert whole.rows() == frame.rows()


def test_nested_parquet_is_flat():
    pl.DataFrame({"a": [{"b": 1, "c": [1, 2]}]}).write_parquet("in.parquet")
    assert chunks("in.parquet")[0].frame.to_dicts() == [{"a__b": 1, "a__c": "[1,2]"}]


def test_the_sheet_can_be_named():
    with __import__("xlsxwriter").Workbook("in.xlsx") as book:
        pl.DataFrame({"a": [1]}).write_excel(book, "first")
        pl.DataFrame({"a": [2]}).write_excel(book, "second")
    assert rows(chunks("in.xlsx", sheet="second")) == [(2,)]
    assert refused("in.xlsx", sheet="third").hint == "there are: first, second"


def test_json_is_a_document_or_lines_as_it_looks():
    lines = '{"a": 1}\n{"a": 2}\n'
    assert rows(chunks(write("lines.json", lines))) == [(1,), (2,)]
    assert rows(chunks(write("array.json", "[" + lines.replace("}\n{", "},\n{") + "]"))) == [(1,), (2,)]
    assert rows(chunks(write("one.json", '{"a": 1,\n "b": {"c": [true]}}'))) == [(1, "[true]")]
    assert rows(chunks(write("deep.json", '{"d": {"rows": [{"a": NaN}, {"a": "x"}]}}'), select="d.rows")) == [
        ("NaN",),
        ("x",),
    ]


def test_a_document_keeps_what_is_no_object_for_quarantine():
    found = chunks(write("in.json", '[{"a": 1}, 2, {"a": 3}]'))
    assert (rows(found), numbers(found)) == ([(1,), (3,)], [0, 2])
    assert broken(found) == [("in.json", 1, "line: expected a JSON object, found 2", '{"line": "2"}')]


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bz2"])
def test_packed_files_are_unpacked_on_the_way(kind):
    import pyarrow as pa

    suffix = {"gzip": "gz", "zstd": "zst", "bz2": "bz2"}[kind]
    with pa.CompressedOutputStream(f"in.jsonl.{suffix}", kind) as out:
        out.write(b'{"a": 1}\n' * 3)
    assert rows(chunks(f"in.jsonl.{suffix}")) == [(1,)] * 3


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "keys", "words"),
    [
        ("empty.csv", "", {}, "the file is empty"),
        ("twice.csv", "a,b,a\n1,2,3\n", {}, "column names that occur twice: 'a'"),
        ("other.csv", "a;b\n1;2\n", {}, 'set source.separator: ";"'),
        ("header.csv", b"caf\xe9,b\n1,2\n", {}, "the header is not utf-8"),
        ("utf16.csv", "a,b\n1,2\n".encode("utf-16"), {}, "set source.encoding: utf-16"),
        ("quote.csv", '"a,b\n1,2\n', {}, "the header is not readable"),
        ("in.xyz", "a\n", {}, "the suffix says no format that is known"),
        ("in.parquet", b"PAR1 no more", {}, "not a readable Parquet file"),
        ("in.arrow", b"ARROW1 no more", {}, "not a readable Arrow file"),
        ("in.xlsx", b"PK no more", {}, "not a readable Excel file"),
        ("in.json", '{"a": [1, 2', {}, "not readable as json"),
        ("in.json", '{"data": {"item": []}}', {"select": "data.items"}, "did you mean 'item'?"),
        ("in.json", "3", {}, "expected rows at the top, found 3"),
        ("cut.csv.gz", gzip.compress(b"a,b\n" + os.urandom(3000))[:-9], {}, "cut short or damaged"),
        ("bad.csv.gz", b"a,b\n1,2\n", {}, "cut short or damaged"),
        ("bad.csv.xz", b"a,b\n1,2\n", {}, "cut short or damaged"),
        ("bad.csv.zip", b"a,b\n1,2\n", {}, "cut short or damaged"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_name(name, content, keys, words):
    error = refused(write(name, content), **keys)
    assert error.message.startswith(f"{name}: ")
    assert words in str(error)


def test_an_archive_of_several_files_is_refused():
    with zipfile.ZipFile("in.csv.zip", "w") as archive:
        archive.writestr("a.csv", "a\n1\n")
        archive.writestr("b.csv", "a\n1\n")
    assert "an archive of 2 files (a.csv, b.csv)" in str(refused("in.csv.zip"))


def test_a_path_of_nothing_says_what_is_near():
    write("in/orders.csv", "a\n1\n")
    assert refused("in/order.csv").hint == "did you mean in/orders.csv?"
    assert "no file matches" in str(refused("in/*.parquet"))
    assert "name files: source.path: in/*.csv" in str(refused("in"))
    assert "nosuch" in str(refused("nosuch://bucket/a.csv"))


def test_what_cannot_be_chosen_is_refused_at_once():
    for keys in (
        {"separator": "||"},
        {"encoding": "utf-9"},
        {"format": "csv", "select": "a"},
        {"format": "csv", "sheet": "a"},
    ):
        with pytest.raises(ValueError, match=next(reversed(keys))):
            FilesSource(kind="files", path="a.csv", **keys)


# --- what is new ------------------------------------------------------------------------------------


def test_a_later_load_reads_new_files_and_new_rows():
    write("in/a.csv", "a,b\n1,2\n")
    write("in/b.jsonl", '{"a": 1}\n')
    write("in/c.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0))
    first = chunks("in/*")
    assert chunks("in/*", after(first)) == []
    write("in/a.csv", "3,4\n", add=True)
    write("in/b.jsonl", '{"a": 2}', add=True)
    write("in/c.csv.gz", gzip.compress(b"5,6\n", mtime=0), add=True)
    write("in/d.csv", "a,b\n7,8\n")
    second = chunks("in/*", after(first))
    assert rows(second) == [("3", "4"), (2,), ("5", "6"), ("7", "8")]
    assert [row[-1] for row in broken(second)] == []
    assert chunks("in/*", after(second)) == []


def test_numbers_of_rows_go_on():
    write("in.csv", "a,b\n" + "x,y\n" * 100_000)
    first = chunks("in.csv")
    write("in.csv", "1,2\n3\n4,5\n", add=True)
    [second] = chunks("in.csv", after(first))
    assert second.position.to_list() == [100_000, 100_002]
    assert broken([second])[0][1] == 100_001


def test_a_half_written_line_is_broken_until_it_is_whole():
    write("in.csv", "a,b\n1,2\n3")
    first = chunks("in.csv")
    assert (rows(first), broken(first)[0][1:3]) == ([("1", "2")], (1, "line: expected 2 fields, found 1"))
    assert chunks("in.csv", after(first)) == []
    write("in.csv", "0,4\n", add=True)
    second = chunks("in.csv", after(first))
    assert (rows(second), numbers(second)) == ([("30", "4")], [1])


def test_a_line_that_was_whole_may_get_its_newline_but_not_go_on():
    write("in.csv", "a,b\n1,2")
    first = chunks("in.csv")
    assert rows(first) == [("1", "2")]
    write("in.csv", "\r\n3,4", add=True)
    second = chunks("in.csv", after(first))
    assert (rows(second), numbers(second)) == ([("3", "4")], [1])
    write("in.csv", "0\n5,6\n", add=True)
    third = chunks("in.csv", after(second))
    assert (rows(third), numbers(third)) == ([("5", "6")], [2])
    assert broken(third) == [
        ("in.csv", 1, "line: expected a newline after '3,4', which was stored as a row; found that it goes on", '{"line": ["3", "40"]}')
    ]  # fmt: skip


def test_a_half_written_object_is_broken_until_it_is_whole():
    write("in.jsonl", '{"a": 1}\n{"a":')
    first = chunks("in.jsonl")
    assert (rows(first), len(broken(first))) == ([(1,)], 1)
    write("in.jsonl", ' 2}\n{"a": 3}', add=True)
    second = chunks("in.jsonl", after(first))
    assert (rows(second), numbers(second)) == ([(2,), (3,)], [1, 2])


@pytest.mark.parametrize("name", ["in.csv", "in.csv.gz", "in.jsonl"])
def test_lines_that_changed_other_than_by_growing_are_refused(name):
    packed = gzip.compress if name.endswith("gz") else bytes
    row = '{{"a": {}, "b": "long enough"}}\n' if "json" in name else "{},long enough\n"
    lines = [row.format(n) for n in range(1000)]
    head = "" if "json" in name else "a,b\n"

    def put(some: list[str]) -> None:
        write(name, packed((head + "".join(some)).encode()))

    put(lines)
    later = after(chunks(name))
    for changed in (lines[5:] + lines[:50], [*lines[:-1], row.format(7)], lines[:500], ["", *lines[1:], "x"]):
        put(changed)
        error = refused(name, later)
        assert error.message.startswith(f"{name}: has ")
        assert "--full" in str(error)
    put([*lines, row.format(1000)])
    assert len(rows(chunks(name, later))) == 1


def test_other_formats_may_be_copied_anew_but_not_changed():
    pl.DataFrame({"a": [1, 2]}).write_parquet("in.parquet")
    later = after(chunks("in.parquet"))
    os.utime("in.parquet", (1, 1))
    assert chunks("in.parquet", later) == []
    pl.DataFrame({"a": [1, 3]}).write_parquet("in.parquet")
    assert "in.parquet: has changed" in str(refused("in.parquet", later))


def test_with_a_cursor_what_has_changed_is_read_again():
    pl.DataFrame({"id": [1, 2]}).write_parquet("in.parquet")
    first = chunks("in.parquet", Window(cursor="id"))
    pl.DataFrame({"id": [1, 2, 3]}).write_parquet("in.parquet")
    assert rows(chunks("in.parquet", after(first, cursor="id", since=2, exclusive=True))) == [(3,)]


def test_what_is_remembered_of_many_files_is_small_and_what_is_gone_is_forgotten():
    for n in range(50):
        write(f"in/{n:04d}.csv", "a,b\n1,2\n")
    [found] = chunks("in/*.csv")
    assert len(json.dumps(found.resume)) < 50 * 90
    Path("in/0000.csv").unlink()
    write("in/0050.csv", "a,b\n1,2\n")
    [second] = chunks("in/*.csv", after([found]))
    assert len(second.resume["done"]["in/"]) == 50


# --- bounds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "since", "until", "expected"),
    [
        (["9", "10", "11", "x"], 10, None, ["10", "11", "x"]),
        (["9", "10.5", "11", ""], 10, 11, ["10.5", None]),
        (["2024-01-31", "2024-02-01 00:00:00", "2024-02-01T00:00:01Z"], date(2024, 2, 1), None, ["2024-02-01 00:00:00", "2024-02-01T00:00:01Z"]),
        (["2024-01-01T00:00:00+01:00", "2024-01-01"], datetime(2024, 1, 1, tzinfo=UTC), None, ["2024-01-01"]),
        (["2024-01-01", "2024-01-02"], "2024-01-02", None, ["2024-01-02"]),
        (["a", "b", "c"], "b", "c", ["b"]),
        ([str(2**53), str(2**53 + 1)], 2**53 + 1, None, [str(2**53 + 1)]),
    ],
    ids=["text as numbers", "both ends", "dates", "moments", "moments as text", "words", "large"],
)  # fmt: skip
def test_only_rows_within_the_bounds_or_beyond_comparison(values, since, until, expected):
    write("in.csv", "n,c\n" + "".join(f"{n},{value}\n" for n, value in enumerate(values)))
    found = chunks("in.csv", Window(cursor="c", since=since, until=until))
    assert [row[1] for row in rows(found)] == expected
    assert numbers(found) == [int(row[0]) for row in rows(found)]


def test_a_cut_load_keeps_the_bound_it_began_with():
    write("a.csv", "c,d\n1,1\n9,9\n")
    write("b.csv", "c,d\n5,5\n")
    window = Window(cursor="c", since=1, batch_rows=1)
    first = chunks("*.csv", window)
    assert rows(first) == [("1", "1"), ("9", "9"), ("5", "5")]
    cut = 1
    assert rows(first[: cut + 1]) == [("1", "1"), ("9", "9")]
    # By then 9 is the largest cursor, and the row of b.csv lies below it.
    assert rows(chunks("*.csv", after(first[: cut + 1], cursor="c", since=9))) == [("5", "5")]
    write("d.csv", "c,d\n8,8\n10,10\n")
    assert rows(chunks("*.csv", after(first, cursor="c", since=9))) == [("10", "10")]


def test_rows_after_the_upper_bound_are_there_for_the_next_load():
    write("a.csv", "c,d\n1,1\n2,2\n3,3\n")
    first = chunks("a.csv", Window(cursor="c", until=3, batch_rows=1))
    assert rows(first) == [("1", "1"), ("2", "2")]
    later = after(first, cursor="c", since=2, exclusive=True)
    assert rows(chunks("a.csv", later)) == [("3", "3")]


def test_a_cursor_that_is_not_there_is_refused():
    assert "there is no column 'x'" in str(refused(write("a.csv", "a,b\n1,2\n"), Window(cursor="x", since=1)))


# --- places -----------------------------------------------------------------------------------------


def test_an_object_store_is_read_like_a_folder(monkeypatch):
    with s3("inbox") as options:
        monkeypatch.setenv("INBOX_SECRET", options["secret"])
        import s3fs

        store = s3fs.S3FileSystem(**options)
        for n in range(3):
            lines = "a,b\n" + "".join(f"{n},{k}\n" for k in range(1000))
            store.pipe(f"inbox/day={n}/part.csv.gz", gzip.compress(lines.encode()))
        keys = {"options": {**options, "secret": "${secret:INBOX_SECRET}"}}
        found = chunks("s3://inbox/**/*.csv.gz", Window(batch_rows=700), **keys)
        assert rows(found) == [(str(n), str(k)) for n in range(3) for k in range(1000)]
        assert found[0].source == "s3://inbox/day=0/part.csv.gz"
        for cut in (0, 2, 3):
            assert rows(found[: cut + 1]) + rows(
                chunks("s3://inbox/**/*.csv.gz", after(found[: cut + 1]), **keys)
            ) == rows(found)

        store.pipe("inbox/grows.csv", b"a,b\n1,2\n")
        first = chunks("s3://inbox/grows.csv", **keys)
        assert chunks("s3://inbox/grows.csv", after(first), **keys) == []
        store.pipe("inbox/grows.csv", b"a,b\n1,2\n3,4\n")
        assert rows(chunks("s3://inbox/grows.csv", after(first), **keys)) == [("3", "4")]

        pl.DataFrame({"a": range(10)}).write_parquet("in.parquet", row_group_size=3)
        store.put("in.parquet", "inbox/in.parquet")
        assert rows(chunks("s3://inbox/in.parquet", Window(batch_rows=4), **keys)) == [
            (n,) for n in range(10)
        ]
        assert "no file matches" in str(refused("s3://inbox/*.none", **keys))
        error = refused("s3://nobody/a.csv", **keys)
        assert options["secret"] not in str(error)
        store.clear_instance_cache()


def test_any_file_system_of_fsspec_will_do():
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/lake/a.csv", b"a,b\n1,2\n")
    try:
        [found] = chunks("memory://lake/*.csv")
        assert (found.source, found.frame.rows()) == ("memory://lake/a.csv", [("1", "2")])
    finally:
        memory.rm("/lake", recursive=True)


def test_a_web_server_is_read_and_its_query_is_no_suffix():
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    lines = "a,b\n" + "".join(f"{k},x\n" for k in range(50_000))
    write("in.csv", lines)
    write("in.csv.gz", gzip.compress(lines.encode()))
    pl.DataFrame({"a": range(5)}).write_parquet("in.parquet")
    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}"
            for name in ("in.csv?version=1.0", "in.csv.gz"):
                found = chunks(f"{address}/{name}", Window(batch_rows=20_000))
                assert rows(found) == [(str(k), "x") for k in range(50_000)]
                cut = rows(chunks(f"{address}/{name}", after(found[:1])))
                assert rows(found[:1]) + cut == rows(found)
            assert rows(chunks(f"{address}/in.parquet")) == [(k,) for k in range(5)]
            assert "there is no such file" in str(refused(f"{address}/none.csv"))
        finally:
            server.shutdown()
            serving.join()
    assert "its server does not answer" in str(refused(f"{address}/in.csv"))


# --- reading ahead ----------------------------------------------------------------------------------


def test_reading_ahead_keeps_order_and_errors():
    def items():
        yield from range(5)
        raise PenstockError("no more")

    reading = ahead(items())
    assert [next(reading) for _ in range(5)] == list(range(5))
    with pytest.raises(PenstockError, match="no more"):
        next(reading)


def test_who_stops_early_leaves_nothing_open():
    closed = threading.Event()

    def items():
        try:
            yield from range(1000)
        finally:
            closed.set()

    reading = ahead(items())
    assert next(reading) == 0
    reading.close()
    assert closed.is_set()
