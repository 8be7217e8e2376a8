"""A folder to keep a table in, on this machine or in an object store: the few acts that a redo log needs."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from penstock.errors import PenstockError
from penstock.sources.secrets import revealed
from penstock.storage import write_bytes

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Place", "place"]

COMPRESSION: Literal["zstd"] = "zstd"


class Place(ABC):
    """Names are relative to the folder, with ``/`` between parts."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """What a file holds; None if there is none."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Put a file there, whole and durably, in the place of what was there."""

    @abstractmethod
    def move(self, name: str, to: str) -> None:
        """Give a file another name. Done already: nothing happens."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    def remove_folder(self, name: str) -> None:
        """Remove a folder and all in it, if it is there."""

    @abstractmethod
    def names(self) -> list[str]:
        """All files, at any depth."""

    @abstractmethod
    def write_parquet(self, name: str, frame: pl.DataFrame, row_group: int) -> None:
        """Write a table durably."""

    @abstractmethod
    def read_parquet(self, name: str, columns: list[str] | None = None) -> pl.DataFrame:
        """Read a table, or some of its columns."""

    @abstractmethod
    def scan(self, names: list[str]) -> pl.LazyFrame:
        """All rows of some files of one schema."""

    @abstractmethod
    def statistics(self, name: str) -> Any:
        """Parquet metadata of a file (``pyarrow.parquet.FileMetaData``)."""


def place(address: str, options: dict[str, Any], changed: Callable[[str], None] | None = None) -> Place:
    """A folder by its path, or by an address that fsspec knows.

    Args:
        address: Such as ``data/lake/orders`` or ``s3://bucket/lake/orders``.
        options: Of fsspec, for an address.
        changed: Called before each act that changes something, for tests that end the process there.
    """
    if "://" in address and not address.startswith("file://"):
        return _Remote(address, options)
    return _Local(Path(address.removeprefix("file://")), changed)


def _nothing(act: str) -> None:
    pass


class _Local(Place):
    def __init__(self, root: Path, changed: Callable[[str], None] | None) -> None:
        self.root, self.changed = root, changed or _nothing

    def read(self, name: str) -> bytes | None:
        path = self.root / name
        return path.read_bytes() if path.is_file() else None

    def write(self, name: str, content: bytes) -> None:
        self.changed(f"write {name}")
        write_bytes(self.root / name, content)
        _sync_folder((self.root / name).parent)

    def move(self, name: str, to: str) -> None:
        self.changed(f"move {name} {to}")
        source, target = self.root / name, self.root / to
        if not source.exists() and target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
        _sync_folder(target.parent)

    def remove(self, name: str) -> None:
        self.changed(f"remove {name}")
        path = self.root / name
        path.unlink(missing_ok=True)
        # A partition that holds nothing any more is no folder any more.
        for folder in path.parents:
            if folder == self.root or not folder.is_dir() or any(folder.iterdir()):
                break
            folder.rmdir()

    def remove_folder(self, name: str) -> None:
        self.changed(f"remove {name}")
        shutil.rmtree(self.root / name, ignore_errors=True)

    def names(self) -> list[str]:
        return sorted(
            path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file()
        )

    def write_parquet(self, name: str, frame: pl.DataFrame, row_group: int) -> None:
        self.changed(f"parquet {name}")
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(path, compression=COMPRESSION, statistics=True, row_group_size=row_group)
        with path.open("rb+") as file:
            os.fsync(file.fileno())

    def read_parquet(self, name: str, columns: list[str] | None = None) -> pl.DataFrame:
        import polars as pl

        return pl.read_parquet(self.root / name, columns=columns, glob=False, hive_partitioning=False)

    def scan(self, names: list[str]) -> pl.LazyFrame:
        import polars as pl

        return pl.scan_parquet([self.root / name for name in names], glob=False, hive_partitioning=False)

    def statistics(self, name: str) -> Any:
        import pyarrow.parquet as pq

        return pq.read_metadata(self.root / name)


def _sync_folder(folder: Path) -> None:
    # A rename is durable once its folder is.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class _Remote(Place):
    """An object store: a PUT is all or nothing, a move is a copy and a removal."""

    def __init__(self, address: str, options: dict[str, Any]) -> None:
        import fsspec

        given = {key: revealed(value) if isinstance(value, str) else value for key, value in options.items()}
        try:
            self.files, root = fsspec.core.url_to_fs(address, **given)
        except (ImportError, ValueError) as error:
            raise PenstockError(
                f"{address}: {error}", hint="its file system is in the optional group `ingest`"
            ) from error
        self.root = str(root).rstrip("/")
        # What another process put there since must be seen.
        self.files.use_listings_cache = False

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def read(self, name: str) -> bytes | None:
        self.files.invalidate_cache()
        try:
            return bytes(self.files.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        self.files.pipe_file(self._path(name), content)

    def move(self, name: str, to: str) -> None:
        self.files.invalidate_cache()
        if self.files.exists(self._path(name)):
            self.files.copy(self._path(name), self._path(to))
            self.files.rm_file(self._path(name))

    def remove(self, name: str) -> None:
        self.files.invalidate_cache()
        if self.files.exists(self._path(name)):
            self.files.rm_file(self._path(name))

    def remove_folder(self, name: str) -> None:
        self.files.invalidate_cache()
        for found in self.files.find(self._path(name)):
            self.files.rm_file(found)

    def names(self) -> list[str]:
        self.files.invalidate_cache()
        return sorted(str(found).removeprefix(f"{self.root}/") for found in self.files.find(self.root))

    def write_parquet(self, name: str, frame: pl.DataFrame, row_group: int) -> None:
        with self.files.open(self._path(name), "wb") as file:
            frame.write_parquet(file, compression=COMPRESSION, statistics=True, row_group_size=row_group)

    def read_parquet(self, name: str, columns: list[str] | None = None) -> pl.DataFrame:
        import polars as pl

        with self.files.open(self._path(name), "rb") as file:
            return pl.read_parquet(file, columns=columns, hive_partitioning=False)

    def scan(self, names: list[str]) -> pl.LazyFrame:
        import polars as pl

        # polars' own clients take other options than fsspec's; one file at a time is in memory.
        return pl.concat([self.read_parquet(name).lazy() for name in names])

    def statistics(self, name: str) -> Any:
        import pyarrow.parquet as pq

        with self.files.open(self._path(name), "rb") as file:
            return pq.read_metadata(file)
