"""A folder to keep a table in, on this machine or in an object store: the few acts that a redo log needs.

fsspec rather than the clients of polars or DuckDB for stores: one set of options, and writing, copying and listing too.
"""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from penstock.errors import PenstockError
from penstock.sources.secrets import revealed
from penstock.storage import write_bytes

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Place", "place"]

COMPRESSION: Literal["zstd"] = "zstd"
ROW_GROUP = 122_880
# Whose errors are a store's way of saying no, besides OSError.
CLIENTS = {"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google"}


class Place(ABC):
    """Names are relative to the folder, with ``/`` between parts."""

    address: str

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """What a file holds; None if there is none."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Put a file there, whole and durably, in the place of what was there."""

    @abstractmethod
    def move(self, moves: Sequence[tuple[str, str]]) -> None:
        """Give files other names, durably. What is done already is passed over."""

    @abstractmethod
    def remove(self, names: Sequence[str]) -> None:
        """Remove files, if they are there."""

    @abstractmethod
    def remove_folder(self, name: str) -> None:
        """Remove a folder and all in it, if it is there."""

    @abstractmethod
    def settle(self, name: str) -> None:
        """Make durable which files a folder holds."""

    @abstractmethod
    def names(self, folder: str = "") -> list[str]:
        """All files, at any depth."""

    @abstractmethod
    def write_parquet(self, name: str, frame: pl.DataFrame) -> None:
        """Write a table, durably once its folder is settled."""

    @abstractmethod
    def read_parquet(self, name: str, columns: list[str] | None = None) -> pl.DataFrame:
        """Read a table, or some of its columns."""

    @abstractmethod
    def scan(self, names: list[str]) -> pl.LazyFrame:
        """All rows of some files of one schema."""

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Turn what the system or the store says inside into an error for people.

        Raises:
            PenstockError: A disk is full, a folder is not writable, a store cannot be reached or refuses.
        """
        try:
            yield
        except Exception as error:
            if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in CLIENTS:
                raise
            what = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise PenstockError(
                f"{self.address}: {what}",
                hint="is it there, may it be written to, and is there room? What was stored before is as it was",
            ) from error


def place(address: str, options: dict[str, Any]) -> Place:
    """A folder by its path, or by an address that fsspec knows.

    Args:
        address: Such as ``data/lake/orders`` or ``s3://bucket/lake/orders``.
        options: Of fsspec, for an address.
    """
    if "://" in address and not address.startswith("file://"):
        return _Remote(address, options)
    return _Local(address)


class _Local(Place):
    def __init__(self, address: str) -> None:
        self.address = address
        self.root = Path(address.removeprefix("file://"))

    def read(self, name: str) -> bytes | None:
        path = self.root / name
        return path.read_bytes() if path.is_file() else None

    def write(self, name: str, content: bytes) -> None:
        write_bytes(self.root / name, content)
        self.settle(name.rpartition("/")[0])

    def move(self, moves: Sequence[tuple[str, str]]) -> None:
        for name, to in moves:
            source, target = self.root / name, self.root / to
            if source.exists() or not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                source.replace(target)
        for folder in dict.fromkeys(to.rpartition("/")[0] for _, to in moves):
            self.settle(folder)

    def remove(self, names: Sequence[str]) -> None:
        for name in names:
            path = self.root / name
            path.unlink(missing_ok=True)
            # A partition that holds nothing any more is no folder any more.
            for folder in path.parents:
                if folder == self.root or not folder.is_dir() or any(folder.iterdir()):
                    break
                folder.rmdir()

    def remove_folder(self, name: str) -> None:
        shutil.rmtree(self.root / name, ignore_errors=True)

    def settle(self, name: str) -> None:
        # A name is durable once its folder is, and that once its own is.
        inside = [
            self.root.joinpath(*Path(name).parts[:depth]) for depth in range(len(Path(name).parts), -1, -1)
        ]
        for folder in [*inside, self.root.parent]:
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def names(self, folder: str = "") -> list[str]:
        return sorted(
            path.relative_to(self.root).as_posix()
            for path in (self.root / folder).rglob("*")
            if path.is_file()
        )

    def write_parquet(self, name: str, frame: pl.DataFrame) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(path, compression=COMPRESSION, statistics=True, row_group_size=ROW_GROUP)
        with path.open("rb+") as file:
            os.fsync(file.fileno())

    def read_parquet(self, name: str, columns: list[str] | None = None) -> pl.DataFrame:
        import polars as pl

        return pl.read_parquet(self.root / name, columns=columns, glob=False, hive_partitioning=False)

    def scan(self, names: list[str]) -> pl.LazyFrame:
        import polars as pl

        return pl.scan_parquet([self.root / name for name in names], glob=False, hive_partitioning=False)


class _Remote(Place):
    """An object store: a PUT is all or nothing, a move is a copy and a removal."""

    def __init__(self, address: str, options: dict[str, Any]) -> None:
        import fsspec

        self.address = address
        given = {key: revealed(value) if isinstance(value, str) else value for key, value in options.items()}
        try:
            with self.telling():
                self.files, root = fsspec.core.url_to_fs(address, **given)
        except (ImportError, ValueError) as error:
            raise PenstockError(
                f"{address}: {error}", hint="its file system is in the optional group `ingest`"
            ) from error
        self.root = str(root).rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}".rstrip("/")

    def _found(self, folder: str) -> list[str]:
        # What another process put there since must be seen.
        self.files.invalidate_cache()
        try:
            return [str(found) for found in self.files.find(self._path(folder))]
        except FileNotFoundError:
            return []

    def read(self, name: str) -> bytes | None:
        try:
            return bytes(self.files.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        self.files.pipe_file(self._path(name), content)

    def move(self, moves: Sequence[tuple[str, str]]) -> None:
        for name, to in moves:
            self.files.invalidate_cache()
            if self.files.exists(self._path(name)):
                self.files.makedirs(self._path(to).rpartition("/")[0], exist_ok=True)
                self.files.cp_file(self._path(name), self._path(to))
                self.files.rm_file(self._path(name))
            elif not self.files.exists(self._path(to)):
                raise FileNotFoundError(f"{self._path(name)} is not there, nor is {self._path(to)}")

    def remove(self, names: Sequence[str]) -> None:
        for name in names:
            self.files.invalidate_cache()
            if self.files.exists(self._path(name)):
                self.files.rm_file(self._path(name))

    def remove_folder(self, name: str) -> None:
        for found in self._found(name):
            self.files.rm_file(found)

    def settle(self, name: str) -> None:
        """A store tells that an object is written when it is."""

    def names(self, folder: str = "") -> list[str]:
        # Some file systems put a slash before their names.
        root = self.root.lstrip("/")
        return sorted(found.lstrip("/").removeprefix(f"{root}/") for found in self._found(folder))

    def write_parquet(self, name: str, frame: pl.DataFrame) -> None:
        with self.files.open(self._path(name), "wb") as file:
            frame.write_parquet(file, compression=COMPRESSION, statistics=True, row_group_size=ROW_GROUP)

    def read_parquet(self, name: str, columns: list[str] | None = None) -> pl.DataFrame:
        import polars as pl

        with self.files.open(self._path(name), "rb") as file:
            return pl.read_parquet(file, columns=columns, hive_partitioning=False)

    def scan(self, names: list[str]) -> pl.LazyFrame:
        import polars as pl
        import pyarrow.dataset as ds

        # Through Arrow, since polars' own clients take other options than fsspec's.
        return pl.scan_pyarrow_dataset(
            ds.dataset([self._path(name) for name in names], filesystem=self.files, format="parquet")
        )
