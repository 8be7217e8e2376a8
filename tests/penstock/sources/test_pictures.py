"""Folders and listings give every file once, in one order, with its class or with what is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.config import FolderSource, ListingSource
from penstock.errors import PenstockError
from penstock.pictures import PictureError
from penstock.sources import pictures
from penstock.sources.pictures import Found, read

Row = tuple[str | None, str, int, bytes | str]


def folder(path: Path) -> FolderSource:
    return FolderSource(kind="folder", path=str(path), watch=str(path))


def listing(path: Path, **columns: str) -> ListingSource:
    return ListingSource(kind="listing", path=str(path), watch=str(path), **columns)


def lay(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def shown(found: Found) -> Row:
    content = found.content if isinstance(found.content, bytes) else found.content.reason
    return found.label, found.source, found.position, content


# --- folders ----------------------------------------------------------------------------------------


def test_the_first_folder_is_the_class_at_any_depth(tmp_path: Path) -> None:
    lay(tmp_path, "dog/b.jpg", "dog/a/z.jpg", "cat/2.png", "cat/10.png", "cat/.hidden", ".git/x", "cat/.k/y")
    stream = read(folder(tmp_path))
    assert stream.total == 4
    assert [shown(found) for found in stream.found] == [
        ("cat", "cat/10.png", 0, b"cat/10.png"),
        ("cat", "cat/2.png", 1, b"cat/2.png"),
        ("dog", "dog/a/z.jpg", 2, b"dog/a/z.jpg"),
        ("dog", "dog/b.jpg", 3, b"dog/b.jpg"),
    ]


def test_a_picture_beside_the_classes_has_none(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.png", "dog/1.png", "loose.png")
    stream = read(folder(tmp_path))
    assert stream.total == 3
    assert shown(next(stream.found)) == (None, "loose.png", 0, "no_label")


def test_what_cannot_be_read_is_one_picture_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, "cat/1.png", "dog/1.png", "dog/large.png")
    os.mkfifo(tmp_path / "cat/pipe.png")
    (tmp_path / "cat/gone.png").symlink_to("nowhere.png")
    (tmp_path / "cat/linked.png").symlink_to("1.png")
    (tmp_path / "dog/large.png").write_bytes(b"x" * 100)
    monkeypatch.setattr(pictures, "MAX_BYTES", 99)
    assert [(source, content) for _, source, _, content in map(shown, read(folder(tmp_path)).found)] == [
        ("cat/1.png", b"cat/1.png"),
        ("cat/gone.png", "missing"),
        ("cat/linked.png", b"cat/1.png"),
        ("cat/pipe.png", "missing"),
        ("dog/1.png", b"dog/1.png"),
        ("dog/large.png", "too_large"),
    ]


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path, "cat/1.png", "dog/1.png")
    real = Path.read_bytes

    def denied(path: Path) -> bytes:
        if path.parent.name == "cat":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", denied)
    first, second = read(folder(tmp_path)).found
    assert isinstance(first.content, PictureError)
    assert str(first.content) == "unreadable: Permission denied"
    assert second.content == b"dog/1.png"


def test_links_to_folders_are_followed_but_not_for_ever(tmp_path: Path) -> None:
    lay(tmp_path, "set/cat/1.png", "set/dog/1.png", "more/2.png")
    (tmp_path / "set/dog/more").symlink_to(tmp_path / "more")
    (tmp_path / "set/cat/round").symlink_to(tmp_path / "set/cat")
    found = [found.source for found in read(folder(tmp_path / "set")).found]
    assert found == ["cat/1.png", "dog/1.png", "dog/more/2.png"]


def test_a_name_that_is_no_text_is_written_as_it_can_be(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.png", "dog/1.png")
    with open(os.fsencode(tmp_path) + b"/dog/\xff.png", "wb") as file:  # noqa: PTH123  (a Path cannot hold it as plainly)
        file.write(b"x")
    assert [found.source for found in read(folder(tmp_path)).found] == [
        "cat/1.png",
        "dog/1.png",
        r"dog/\xff.png",
    ]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ((), r"there is no such folder"),
        ((".keep",), r"found no folder"),
        (("1.png", "2.png"), r"expected a folder for each of two classes or more, found no folder"),
        (("cat/1.png",), r"found one folder only: cat"),
        (("cat/1.png", "dog/.keep"), r"dog: there is no file in the folder of this class"),
    ],
    ids=["missing", "empty", "flat", "single", "hollow"],
)
def test_a_folder_without_classes_is_refused(tmp_path: Path, names: tuple[str, ...], says: str) -> None:
    lay(tmp_path / "set", *names) if names else None
    with pytest.raises(PenstockError, match=says):
        read(folder(tmp_path / "set"))


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    lay(tmp_path, "set")
    with pytest.raises(PenstockError, match=r"set: not a folder"):
        read(folder(tmp_path / "set"))


# --- listings ---------------------------------------------------------------------------------------


def test_a_listing_names_pictures_from_its_own_folder(tmp_path: Path) -> None:
    lay(tmp_path, "photos/1.png", "lists/two.png")
    absolute = tmp_path / "lists/two.png"
    (tmp_path / "lists/all.csv").write_text(
        f'kind,file,note\n" cat ",../photos/1.png,x\ndog,two.png,\ndog,"{absolute}",y\n'
    )
    stream = read(listing(tmp_path / "lists/all.csv", picture="file", label="kind"))
    assert stream.total == 3
    assert [shown(found) for found in stream.found] == [
        ("cat", "../photos/1.png", 0, b"photos/1.png"),
        ("dog", "two.png", 1, b"lists/two.png"),
        ("dog", str(absolute), 2, b"lists/two.png"),
    ]


def test_rows_that_lack_something_are_told_apart(tmp_path: Path) -> None:
    lay(tmp_path, "1.png")
    (tmp_path / "all.csv").write_text(
        "path,label\n1.png,cat\n1.png,\n1.png, \n,cat\ngone.png,cat\n.,cat\n1.png,cat,x\n"
    )
    stream = read(listing(tmp_path / "all.csv"))
    assert stream.total == 7
    found = {row[2]: row for row in map(shown, stream.found)}
    assert [found[at][0] for at in range(7)] == ["cat", None, None, "cat", "cat", "cat", None]
    assert [found[at][3] for at in range(7)] == [
        b"1.png", "no_label", "no_label", "missing", "missing", "missing", "not_a_row"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("path,class\n1.png,cat\n", r"source\.label: .*all\.csv has no column 'label'\n.*path, class"),
        ("file,label\n1.png,cat\n", r"source\.picture: .*all\.csv has no column 'path'\n.*file, label"),
        ("", r"all\.csv: the file is empty"),
        ("path,label\n", r"there is no row in it"),
    ],
    ids=["label", "picture", "empty", "header"],
)
def test_a_listing_without_its_columns_is_refused(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "all.csv").write_text(content)
    with pytest.raises(PenstockError, match=says):
        read(listing(tmp_path / "all.csv"))
