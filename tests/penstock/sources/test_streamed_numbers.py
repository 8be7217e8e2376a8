"""Numbers that CSV is read as at once: the same as its text, cast with care, and only where every value is one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from penstock import contract
from penstock.config import Column
from penstock.config.loading import FilesSource
from penstock.sources.chunks import Chunk, Window
from penstock.sources.streamed_files import read_files

TYPES = {"whole": "integer", "real": "number", "word": "text", "day": "date"}
COLUMNS = {name: Column.model_validate({"type": kind, "nullable": True}) for name, kind in TYPES.items()}

written = st.one_of(
    st.integers(-(2**63), 2**63 - 1).map(str),
    st.integers(-99, 99).map(str),
    st.floats().map(repr),
    st.decimals(-1000, 1000, places=2).map(str),
    st.from_regex(r"[ +-]?0{0,3}[0-9]{0,4}[.,]?[0-9]{0,3}([eE][+-]?[0-9]{1,3})? ?", fullmatch=True),
    st.sampled_from(["", "NA", "nan", "NaN", "inf", "-inf", "1e400", "0x10", "1_000", "½", "٣", "true", "+", "-", "."]),
    st.integers(2**62, 2**65).map(str),
)  # fmt: skip
plain = st.integers(-99, 99).map(str)


def read(path: Path, types: dict, **keys) -> list[Chunk]:
    return list(read_files(FilesSource(kind="files", path=str(path), **keys), Window(types=types)))


@st.composite
def tables(draw):
    # Mostly of numbers, so that most blocks are read as such.
    cell = draw(st.sampled_from([plain, written]))
    quote = draw(st.sampled_from(["", '"']))
    rows = draw(st.lists(st.tuples(cell, written), min_size=1, max_size=6))
    return [(f"{quote}{whole}{quote}", real) for whole, real in rows]


@settings(max_examples=400)
@example([("007", "+1.50"), ("", "1e3")])
@example([("1", "nan")])
@example([(" 1", "1 ")])
@example([("9223372036854775808", "1")])
@example([('""', '""')])
@given(tables())
def test_a_number_read_at_once_is_the_one_that_its_text_says(rows):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "numbers.csv"
        lines = [f"{whole},{real.replace(',', ';')},w,2024-01-02" for whole, real in rows]
        path.write_text("\n".join(["whole,real,word,day", *lines, ""]))
        (found,) = read(path, TYPES)
        (text,) = read(path, {})
    assert text.written is None
    if found.written is None:
        assert_frame_equal(found.frame, text.frame)
        return
    assert found.frame.schema == {
        "whole": pl.Int64,
        "real": pl.Float64,
        "word": pl.String,
        "day": pl.String,
    }
    assert_frame_equal(found.written(), text.frame)
    careful = text.frame.select(
        contract.typed(name, kind, pl.String()).alias(name) for name, kind in TYPES.items()
    )
    at_once = found.frame.with_columns(contract.typed("day", "date", pl.String()).alias("day"))
    assert_frame_equal(at_once, careful, check_exact=True)
    # What is missing is so for both, so that no rule holds for the one alone.
    with_care = contract.check(text.frame, COLUMNS, source="f")
    assert_frame_equal(contract.check(found.frame, COLUMNS, source="f").good, with_care.good)
    assert not with_care.bad.height


@given(st.lists(st.tuples(plain, plain), min_size=1, max_size=8), st.integers(-99, 99))
def test_what_is_rejected_is_shown_as_it_was_written(rows, least):
    columns = COLUMNS | {"whole": Column(type="integer", min=least)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "numbers.csv"
        lines = [f"0{whole.lstrip('-')},{real}.50,w,2024-01-02" for whole, real in rows]
        path.write_text("\n".join(["whole,real,word,day", *lines, ""]))
        (found,) = read(path, TYPES)
        (text,) = read(path, {})
    by_text = contract.check(text.frame, columns, source="f", position=7)
    by_number = contract.check(found.frame, columns, source="f", position=7, written=found.written)
    assert_frame_equal(by_number.bad, by_text.bad)
    assert_frame_equal(by_number.good, by_text.good)
    assert by_number.reasons == by_text.reasons
    assert by_number.kept.to_list() == by_text.kept.to_list()


@pytest.mark.parametrize("odd", ["3.5", "x", "9223372036854775808", "1e2"])
def test_one_value_that_is_no_number_leaves_its_block_as_text(tmp_path, odd):
    path = tmp_path / "numbers.csv"
    path.write_text("whole\n" + "1\n" * 3000 + f"{odd}\n" + "1\n" * 3000)
    found = list(
        read_files(
            FilesSource(kind="files", path=str(path)), Window(types={"whole": "integer"}, batch_rows=1000)
        )
    )
    kinds = [chunk.frame.schema["whole"] for chunk in found]
    assert kinds.count(pl.String) == 1
    assert kinds.count(pl.Int64) == len(kinds) - 1 >= 5
    assert sum(chunk.frame.height for chunk in found) == 6001


@settings(max_examples=200)
@example(["1.0", "", "9007199254740993"])
@example(["1.0", "9007199254740993.0"])
@example(["1.0", "2.5"])
@example(["1.0", "-0.0"])
@given(
    st.lists(
        st.one_of(
            st.integers(-99, 99).map(lambda n: f"{n}.0"),
            st.integers(-(2**63), 2**63 - 1).map(lambda n: f"{n}.0"),
            written.filter(lambda text: "," not in text),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_integers_that_are_written_as_reals_are_those_that_their_text_says(rest):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "numbers.csv"
        # A block that shows how they are written, and one that may be read so.
        values = ["1.0"] * 500 + rest + ["2.0"] * (500 - len(rest))
        path.write_text("n,t\n" + "".join(f"{value},x\n" for value in values))
        source = FilesSource(kind="files", path=str(path))
        found = list(read_files(source, Window(types={"n": "integer"}, batch_rows=500)))
        text = list(read_files(source, Window(batch_rows=500)))
    assert found[0].frame.schema["n"] == pl.String
    careful = [chunk.frame.select(contract.typed("n", "integer", pl.String())) for chunk in text]
    for chunk, as_text in zip(found, careful, strict=True):
        if chunk.written is not None:
            assert_frame_equal(chunk.frame.select("n"), as_text)
    if all(value == "" or (value.endswith(".0") and abs(float(value)) < 2**53) for value in rest):
        assert found[-1].written is not None


def test_a_column_that_is_never_as_declared_is_not_tried_for_ever(tmp_path, monkeypatch):
    from penstock.sources import streamed_csv

    path = tmp_path / "numbers.csv"
    path.write_text("whole\n" + "x\n" * 9000)
    tried = []
    plainly = streamed_csv._parsed_numbers
    monkeypatch.setattr(
        streamed_csv,
        "_parsed_numbers",
        lambda content, shape: (tried.append(bool(shape.numbers)), plainly(content, shape))[1],
    )
    list(
        read_files(
            FilesSource(kind="files", path=str(path)), Window(types={"whole": "integer"}, batch_rows=500)
        )
    )
    assert tried.count(True) == 3
    assert len(tried) > 10


def test_rows_before_a_bound_are_left_out_of_the_text_too(tmp_path):
    path = tmp_path / "numbers.csv"
    path.write_text("n,t\n01,a\n02,b\n03,c\n")
    window = Window(types={"n": "integer"}, cursor="n", since=2)
    found = next(read_files(FilesSource(kind="files", path=str(path)), window))
    assert found.frame.rows() == [(2, "b"), (3, "c")]
    assert found.written().rows() == [("02", "b"), ("03", "c")]


def test_files_that_share_a_chunk_share_their_text(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.csv").write_text(f"n,t\n0{number},a\n")
    (found,) = read_files(
        FilesSource(kind="files", path=str(tmp_path / "*.csv")), Window(types={"n": "integer"})
    )
    assert found.frame["n"].to_list() == [0, 1, 2]
    assert found.written()["n"].to_list() == ["00", "01", "02"]
