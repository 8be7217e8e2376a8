"""Every picture is stored or in quarantine, in one order, whatever the number of cores."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from PIL import Image

from penstock.config import PictureContract
from penstock.contract import QUARANTINE_SCHEMA
from penstock.errors import PenstockError
from penstock.pictures import PictureError, decode, difference_hash
from penstock.sources.pictures import Found, Stream
from penstock.vision import ingestion
from penstock.vision.ingestion import RAW_COLUMNS, Ingested, ingest

LAX: dict[str, Any] = {"max_quarantine_share": 1.0}


def picture(seed: int, size: tuple[int, int] = (24, 20), form: str = "PNG", **options: Any) -> bytes:
    cells = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(cells).resize(size).save(file, form, **options)
    return file.getvalue()


def found(*items: tuple[str | None, bytes | PictureError]) -> Stream:
    pictures = [Found(content, label, f"{at}.png", at) for at, (label, content) in enumerate(items)]
    return Stream(len(pictures), iter(pictures))


def sound(labels: str = "aaaabbbb") -> list[tuple[str | None, bytes | PictureError]]:
    return [(label, picture(seed)) for seed, label in enumerate(labels)]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(stream: Stream, **contract: Any) -> Ingested:
    return ingest(
        stream,
        PictureContract.model_validate(LAX | contract),
        raw=Path("raw.parquet"),
        quarantine=Path("bad.parquet"),
    )


def reasons() -> list[tuple[int, str]]:
    bad = pl.read_parquet("bad.parquet")
    assert bad.schema == QUARANTINE_SCHEMA
    return [(row["position"], row["reason"].split(":")[0]) for row in bad.iter_rows(named=True)]


def test_a_good_picture_is_stored_as_it_came() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture(100, (30, 18), "JPEG", exif=exif)
    done = run(found(*sound(), ("a", turned)))
    raw = pl.read_parquet("raw.parquet")
    assert dict(raw.schema) == dict(
        zip(
            RAW_COLUMNS,
            (pl.Binary, pl.String, pl.String, pl.Int64, pl.Int32, pl.Int32, pl.UInt64),
            strict=True,
        )
    )
    assert raw["picture"].to_list() == [*(picture(seed) for seed in range(8)), turned]
    assert raw["label"].to_list() == [*"aaaabbbba"]
    assert raw["position"].to_list() == list(range(9))
    # Sides after the turn, which is how everything downstream sees it.
    assert raw.select("width", "height").rows()[-2:] == [(24, 20), (18, 30)]
    assert raw["hash"].to_list() == [difference_hash(decode(content)) for content in raw["picture"]]
    assert done == Ingested(classes={"a": 5, "b": 4}, rescaled=0, quarantined=0, share=0.0, reasons={})
    assert reasons() == []


def test_what_is_wrong_goes_to_quarantine_with_its_reason() -> None:
    bad: list[tuple[str | None, bytes | PictureError]] = [
        ("a", b""),
        ("a", b"words in a file called .jpg"),
        ("b", picture(50, (400, 300), "JPEG")[:2000]),
        ("b", picture(51, (8, 30))),
        (None, PictureError("no_label", "the row names no class")),
        ("c", picture(52)),
        ("aa", picture(53)),
    ]
    done = run(found(*sound(), *bad), classes=["a", "b"])
    assert reasons() == [
        (8, "empty"),
        (9, "not_a_picture"),
        (10, "truncated"),
        (11, "too_small"),
        (12, "no_label"),
        (13, "unknown_class"),
        (14, "unknown_class"),
    ]
    last = pl.read_parquet("bad.parquet").row(-1, named=True)
    assert last["reason"] == "unknown_class: contract.classes has no 'aa', but 'a'"
    assert json.loads(last["row"]) == {"label": "aa", "bytes": len(picture(53))}
    assert done.share == 7 / 15
    assert done.reasons == {
        "empty": 1,
        "no_label": 1,
        "not_a_picture": 1,
        "too_small": 1,
        "truncated": 1,
        "unknown_class": 2,
    }
    assert pl.read_parquet("raw.parquet").height == 8


def test_repetitions_and_contradictions() -> None:
    pictures = sound("aaaaabbbbb")
    again = [pictures[0], ("a", picture(4)), ("b", picture(4)), pictures[0]]
    done = run(found(*pictures, *again))
    # The same bytes as number 0, twice; and number 4 is an a, an a and a b: none of the three can be believed.
    assert reasons() == [
        (4, "conflicting_labels"),
        (10, "duplicate"),
        (11, "conflicting_labels"),
        (12, "conflicting_labels"),
        (13, "duplicate"),
    ]
    stated = pl.read_parquet("bad.parquet")["reason"].to_list()
    assert stated[0] == "conflicting_labels: the same bytes are labelled a, b"
    assert stated[1] == "duplicate: the same bytes as number 0, 0.png"
    assert pl.read_parquet("raw.parquet")["position"].to_list() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert done.classes == {"a": 4, "b": 5}


def test_repetitions_can_be_kept() -> None:
    run(found(*sound(), ("a", picture(0)), ("b", picture(0))), duplicates="keep")
    assert pl.read_parquet("raw.parquet").height == 10
    assert reasons() == []


def test_a_broken_picture_that_comes_twice_is_broken_twice() -> None:
    run(found(*sound(), ("a", b"x"), ("b", b"x")))
    assert reasons() == [(8, "not_a_picture"), (9, "not_a_picture")]


def test_only_a_larger_picture_is_scaled() -> None:
    sizes = [(64, 48), (200, 64), (65, 300), (1200, 900)]
    contents = [picture(at, size, "JPEG", quality=90) for at, size in enumerate(sizes, 60)]
    done = run(found(*sound(), *(("a", content) for content in contents)), stored_side=64)
    raw = pl.read_parquet("raw.parquet").tail(4)
    assert raw.select("width", "height").rows() == [(64, 48), (200, 64), (64, 295), (85, 64)]
    assert raw["picture"].to_list()[:2] == contents[:2]
    assert done.rescaled == 2
    for content, stored, width, height in zip(
        contents[2:], raw["picture"][2:], [64, 85], [295, 64], strict=True
    ):
        assert stored.startswith(b"\xff\xd8\xff")
        before = Image.fromarray(decode(content)).resize((width, height), Image.Resampling.BICUBIC)
        assert np.abs(decode(stored).astype(int) - np.asarray(before)).mean() < 2.5


def test_nothing_is_scaled_without_a_side() -> None:
    large = picture(70, (900, 700), "JPEG")
    run(found(*sound(), ("a", large)), stored_side=None)
    assert pl.read_parquet("raw.parquet")["picture"][-1] == large


@pytest.mark.parametrize("cores", ["1", "3"])
def test_the_bytes_do_not_depend_on_the_cores(cores: str, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [*sound("ab" * 20), ("a", b"x"), ("b", picture(90, (90, 80))), ("a", picture(1))]
    monkeypatch.setenv("PENSTOCK_CORES", "2")
    run(found(*items), stored_side=64)
    first = [Path(name).read_bytes() for name in ("raw.parquet", "bad.parquet")]
    monkeypatch.setenv("PENSTOCK_CORES", cores)
    run(found(*items), stored_side=64)
    assert [Path(name).read_bytes() for name in ("raw.parquet", "bad.parquet")] == first


def test_no_more_than_a_row_group_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are asked for only as fast as they are written."""
    monkeypatch.setattr(ingestion, "GROUP_ROWS", 10)
    monkeypatch.setenv("PENSTOCK_CORES", "2")
    written = 0
    ahead = []
    real = ingestion._RawWriter.write

    def write(writer: Any, row: dict[str, Any]) -> None:
        nonlocal written
        written += 1
        real(writer, row)

    def pictures() -> Iterator[Found]:
        for at, (label, content) in enumerate(sound("ab" * 20)):
            ahead.append(at - written)
            yield Found(content, label, "x", at)

    monkeypatch.setattr(ingestion._RawWriter, "write", write)
    run(Stream(40, pictures()))
    assert max(ahead) <= 5
    file = pq.ParquetFile("raw.parquet")
    assert [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)] == [10, 10, 10, 10]
    assert file.metadata.row_group(0).column(0).statistics is None


def test_large_pictures_make_small_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingestion, "GROUP_BYTES", 1)
    run(found(*sound("aaaabbbb")))
    assert pq.ParquetFile("raw.parquet").num_row_groups == 8


def test_too_many_bad_pictures_fail_and_are_there_to_look_at() -> None:
    with pytest.raises(PenstockError, match=r"2 of 10 rows \(20\.00%\)(?s:.*)2 × empty(?s:.*)bad\.parquet"):
        run(found(*sound(), ("a", b""), ("b", b"")), max_quarantine_share=0.19)
    assert reasons() == [(8, "empty"), (9, "empty")]
    assert {path.name for path in Path().iterdir()} == {"bad.parquet"}


@pytest.mark.parametrize(
    ("items", "contract", "says"),
    [
        ([], {}, r"there is no picture in the source"),
        (sound("aaaabbb"), {}, r"fewer than 4 good pictures: b \(3\)"),
        (sound("aaaabbbb"), {"classes": ["a", "b", "c"]}, r"fewer than 4 good pictures: c \(0\)"),
        (sound("aaaaaa"), {}, r"all pictures are of one class: a"),
        ([("a", b"")], {}, r"1 of 1 rows"),
    ],
    ids=["none", "few", "absent", "one", "bad"],
)
def test_what_cannot_be_learnt_from_is_refused(items: list[Any], contract: dict[str, Any], says: str) -> None:
    with pytest.raises(PenstockError, match=says):
        run(found(*items), **contract)
    assert not Path("raw.parquet").exists()


def test_a_source_that_breaks_off_leaves_what_was_there() -> None:
    run(found(*sound()))
    before = Path("raw.parquet").read_bytes()

    def pictures() -> Iterator[Found]:
        yield Found(picture(0), "a", "x", 0)
        raise PenstockError("the sheet is gone")

    with pytest.raises(PenstockError, match="the sheet is gone"):
        run(Stream(2, pictures()))
    assert Path("raw.parquet").read_bytes() == before
    assert {path.name for path in Path().iterdir()} == {"raw.parquet", "bad.parquet"}
