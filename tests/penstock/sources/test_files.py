"""Files as people have them: read, or refused with the place that is wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.config import FileSource
from penstock.errors import PenstockError
from penstock.sources import Table, read


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name: str, content: str | bytes) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def table(path: str, **keys) -> Table:
    return read(FileSource(kind="file", path=path, watch=path, **keys))


def rows(found: Table) -> list[tuple]:
    return found.frame.rows()


def test_csv_is_read_as_text_with_empty_fields_missing():
    found = table(write("in.csv", 'a,b\n1,"x, y"\n007,\n'))
    assert found.frame.to_dict(as_series=False) == {"a": ["1", "007"], "b": ["x, y", None]}
    assert (found.source, found.position, found.name) == ("in.csv", 0, "in.csv")
    assert found.broken.is_empty()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bom.csv", "\ufeffa,b\n1,2\n"),
        ("windows.csv", "a,b\r\n1,2\r\n"),
        ("no_last_newline.csv", "a,b\n1,2"),
        ("tabs.tsv", "a\tb\n1\t2\n"),
        ("packed.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0)),
        ("UPPER.CSV", "a,b\n1,2\n"),
        ("UPPER.TSV", "a\tb\n1\t2\n"),
        ("packed.tsv.gz", gzip.compress(b"a\tb\n1\t2\n", mtime=0)),
        ("once.tsv.now.csv", "a,b\n1,2\n"),
    ],
)
def test_kinds_of_csv(name, content):
    assert table(write(name, content)).frame.to_dict(as_series=False) == {"a": ["1"], "b": ["2"]}


def test_separator_missing_values_and_format_can_be_said():
    path = write("export.dat", "a;b\n1;NA\n;x\n")
    found = table(path, format="csv", separator=";", null_values=("NA",))
    assert rows(found) == [("1", None), ("", "x")]


def test_parquet_keeps_its_types():
    pl.DataFrame({"n": [1, None], "x": [0.5, 1.0]}).write_parquet("in.parquet")
    assert table("in.parquet").frame.schema == {"n": pl.Int64, "x": pl.Float64}


def test_json_lines_keep_their_types_and_may_leave_keys_out():
    found = table(write("in.jsonl", '{"a": 1, "b": "x"}\n\n{"a": 2}\n'))
    assert found.frame.to_dict(as_series=False) == {"a": [1, 2], "b": ["x", None]}


def test_a_glob_is_read_in_alphabetical_order_and_rows_know_their_file():
    write("in/b.csv", "x,y\n3,4\n")
    write("in/a.csv", "y,x\n2,1\n20,10\n")
    found = table("in/*.csv")
    assert found.frame.to_dict(as_series=False) == {"y": ["2", "20", "4"], "x": ["1", "10", "3"]}
    assert found.source.to_list() == ["in/a.csv", "in/a.csv", "in/b.csv"]
    assert found.position.to_list() == [0, 1, 0]


def test_columns_are_left_out_by_name():
    path = write("in.csv", "a,rownames\n1,2\n")
    assert table(path, drop=("rownames",)).frame.columns == ["a"]
    with pytest.raises(PenstockError, match=r"no column 'rowname'\n.*did you mean 'rownames'"):
        table(path, drop=("rowname",))


# --- lines that are no rows -------------------------------------------------------------------------


def test_ragged_lines_are_set_aside_with_their_place():
    found = table(write("in.csv", "a,b,c\n1,2,3\n4,5\n6,7,\n8,9,10,11\n\n12,13,14\n"))
    assert rows(found) == [("1", "2", "3"), ("6", "7", None), ("12", "13", "14")]
    assert found.position.to_list() == [0, 2, 5]
    assert found.broken.rows() == [
        ("in.csv", 1, "line: expected 3 fields, found 2", '{"line": ["4", "5"]}'),
        ("in.csv", 3, "line: expected 3 fields, found 4", '{"line": ["8", "9", "10", "11"]}'),
    ]
    assert found.reasons == {"line: fields": 2}


def test_a_short_line_is_noticed_though_polars_fills_it_up():
    found = table(write("in.csv", "a,b\n1,2\n3\n4,\n"))
    assert rows(found) == [("1", "2"), ("4", None)]
    assert found.broken["position"].to_list() == [1]


def test_a_short_line_is_noticed_where_empty_text_is_no_missing_value():
    found = table(write("in.csv", "a,b\n1,2\n3\n4,\n"), null_values=("NA",))
    assert rows(found) == [("1", "2"), ("4", "")]


def test_ends_of_lines_from_windows_are_no_part_of_a_ragged_line():
    found = table(write("in.csv", "a,b\r\n1,2\r\n3\r\n4,5,6\r\n\r\n7,\r\n"))
    assert rows(found) == [("1", "2"), ("7", None)]
    assert found.broken["row"].to_list() == ['{"line": ["3"]}', '{"line": ["4", "5", "6"]}']


def test_a_value_over_several_lines_is_one_row():
    found = table(write("in.csv", 'a,"b\nc"\n1,"x\n\ny"\n2,3,4\n5,"z, z"\n6\n'))
    assert rows(found) == [("1", "x\n\ny"), ("5", "z, z")]
    assert found.position.to_list() == [0, 2]
    assert found.broken["position"].to_list() == [1, 3]


def test_a_blank_line_of_a_single_column_is_a_missing_value():
    found = table(write("in.csv", "a\n1\n\n2\n"))
    assert rows(found) == [("1",), (None,), ("2",)]


fields = st.lists(st.text(st.sampled_from('a",\n é;'), max_size=4), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(fields, min_size=1, max_size=8))
def test_no_line_is_lost_and_none_made_up(tmp_path_factory, lines):
    lines = [["sound", "row"], *(line for line in lines if any(line))]
    quoted = [",".join('"' + field.replace('"', '""') + '"' for field in line) for line in lines]
    path = tmp_path_factory.mktemp("csv") / "in.csv"
    path.write_text("a,b\n" + "\n".join(quoted) + "\n", encoding="utf-8", newline="")
    found = table(str(path))
    positions = range(len(lines)) if isinstance(found.position, int) else found.position.to_list()
    sound = {at: list(row) for at, row in zip(positions, rows(found), strict=True)}
    broken = {at: json.loads(row)["line"] for at, row in found.broken.select("position", "row").iter_rows()}
    assert sound | broken == dict(enumerate(lines))
    assert all(len(row) == 2 for row in sound.values())
    assert all(len(row) != 2 for row in broken.values())


def test_a_line_that_is_no_json_object_is_set_aside():
    found = table(write("in.jsonl", '{"a": 1}\n{"a": \n[1]\n\n{"a": true, "b": {"c": 1}}\n'))
    assert found.frame.to_dict(as_series=False) == {"a": ["1", "true"], "b": [None, '{"c": 1}']}
    assert found.position.to_list() == [0, 3]
    assert found.broken["reason"].to_list() == [
        "line: expected a JSON object, found an error at character 6: Expecting value",
        "line: expected a JSON object, found [1]",
    ]
    assert found.broken["row"].to_list() == ['{"line": "{\\"a\\": "}', '{"line": "[1]"}']
    assert found.reasons == {"line: JSON": 2}


# --- files that are refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("in.csv", "", r"in\.csv: the file is empty"),
        ("in.csv", "a,b\n", r"in\.csv: there is no row in it"),
        ("in.csv", "a,b\n1,2,3\n4,5,6\n", r"no row in it\n.*expected 2 fields, found 3"),
        ("in.csv", "a,b,a\n1,2,3\n", r"occur twice: 'a'"),
        ("in.csv", "a;b\n1;2\n", r"one column, 'a;b'.*\n.*source\.separator: \";\""),
        (
            "in.csv",
            "a,b\n1,Zürich\n".encode("latin-1"),
            r"not UTF-8 at byte 7, in line 2\n.*iconv -f WINDOWS-1252",
        ),
        ("in.csv", "größe,b\n1,2\n".encode("latin-1"), r"not UTF-8 at byte 2, in line 1"),
        ("in.csv", "a,b\n1,2\n".encode("utf-16"), r"byte 0, in line 1\n.*iconv -f UTF-16"),
        ("in.csv", 'a,b\n1,"2\n3,4\n', r"not readable as csv .*\n.*quote not closed"),
        ("in.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0)[:-9], r"in\.csv\.gz: not readable as csv"),
        ("in.parquet", b"PAR1 and nothing more", r"not a readable Parquet file .*\n.*truncated"),
        ("in.jsonl", "a,b\n1,2\n", r"no row in it\n.*expected a JSON object"),
        ("in.jsonl", '{"a": "Zürich"}\n'.encode("latin-1"), r"not UTF-8 at byte 8, in line 1"),
        ("in.xlsx", b"PK", r"suffix says no format"),
    ],
)
def test_a_file_that_cannot_be_read_says_where_it_is_wrong(name, content, says):
    write(name, content)
    with pytest.raises(PenstockError, match=says):
        table(name)


def test_a_glob_names_the_file_and_the_row_of_a_broken_line():
    write("in/a.csv", "x,y\n1,2\n")
    write("in/b.csv.gz", gzip.compress(b"x,y\n3,4\n5\n6,7\n"))
    found = table("in/*")
    assert found.source.to_list() == ["in/a.csv", "in/b.csv.gz", "in/b.csv.gz"]
    assert found.position.to_list() == [0, 0, 2]
    assert found.broken.select("source", "position").rows() == [("in/b.csv.gz", 1)]


def test_a_truncated_parquet_file_is_refused():
    pl.DataFrame({"x": range(1000)}).write_parquet("in.parquet")
    Path("in.parquet").write_bytes(Path("in.parquet").read_bytes()[:-30])
    with pytest.raises(PenstockError, match=r"in\.parquet: not a readable Parquet file"):
        table("in.parquet")


def test_bytes_that_are_split_between_reads_are_still_utf8(monkeypatch):
    monkeypatch.setattr("penstock.sources.files.CHUNK", 1)
    with pytest.raises(PenstockError, match="not UTF-8 at byte 9, in line 4"):
        table(write("in.csv", "a\nü\n€\n".encode() + b"\xff\n"))
    with pytest.raises(PenstockError, match="not UTF-8 at byte 4, in line 3"):
        table(write("in.csv", b"a\nx\n\xe2\x82"))


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("in/wnie.csv", r"in/wnie\.csv: there is no such file\n.*did you mean in/wine\.csv"),
        ("nowhere/x.csv", r"there is no such file\n.*relative to the root"),
        ("in/*.parquet", r"in/\*\.parquet: no file matches"),
        ("in", r"in: a folder, not a file\n.*in/\*\.csv"),
    ],
)
def test_a_path_that_leads_nowhere(path, says):
    write("in/wine.csv", "a\n1\n")
    with pytest.raises(PenstockError, match=says):
        table(path)


def test_files_of_a_glob_must_have_the_same_columns():
    write("in/a.csv", "x,y\n1,2\n")
    write("in/b.csv", "x,z\n1,2\n")
    with pytest.raises(PenstockError, match=r"in/b\.csv: other columns than in/a\.csv: y, z"):
        table("in/*.csv")


def test_files_of_a_glob_must_have_types_that_go_together():
    Path("in").mkdir()
    pl.DataFrame({"x": [[1]]}).write_parquet("in/a.parquet")
    pl.DataFrame({"x": [1]}).write_parquet("in/b.parquet")
    with pytest.raises(PenstockError, match=r"types that do not go together"):
        table("in/*.parquet")
