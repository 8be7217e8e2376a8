"""Where files are, here or in an object store: which there are, and their content as a stream of bytes.

fsspec is what all clients of object stores for Python share. pyarrow unpacks gzip, bzip2 and zstd: it is a
dependency already, and unlike the standard library's it says when the end of a file is missing at any level.
"""

from __future__ import annotations

import codecs
import difflib
import glob
import lzma
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol, cast

from penstock.config.loading import FilesSource
from penstock.errors import PenstockError
from penstock.sources.secrets import hidden, revealed

__all__ = [
    "READ_ERRORS",
    "Place",
    "Stream",
    "first_line",
    "listed",
    "opened",
    "streamed",
    "suffix_of",
    "unreachable",
]

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".zstd": "zstd", ".xz": "xz", ".zip": "zip"}
CHUNK = 1 << 20
BLOCK = 8 << 20  # bytes that are fetched from an object store at a time
MARK = "penstock-mark"
READ_ERRORS: tuple[type[Exception], ...] = (OSError, EOFError, lzma.LZMAError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Place:
    """A file, and what tells one version of it from another.

    Attributes:
        name: For people and for the state: its path, or its address without a secret.
        path: As the file system knows it.
        size: Bytes; None if it is not known.
        mark: Its ETag or the time of its last change.
        system: fsspec's file system.
    """

    name: str
    path: str
    size: int | None
    mark: str
    system: Any

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine."""
        return "file" in _protocols(self.system)


class Stream(Protocol):
    """Bytes in order."""

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; none at the end."""

    def go_to(self, offset: int) -> None:
        """Read on from ``offset``, which lies ahead unless the stream can go back; or from the end, if it is nearer."""


# --- which files there are --------------------------------------------------------------------------


def listed(source: FilesSource) -> list[Place]:
    """The file, or all files of a glob, in alphabetical order.

    Raises:
        PenstockError: There is none, or its store cannot be reached.
    """
    if "://" not in source.path and "::" not in source.path:
        return _local(source.path)
    return _remote(source)


def _local(pattern: str) -> list[Place]:
    import fsspec

    system = fsspec.filesystem("file")
    names = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207  (absolute ones too)
    paths = [Path(name) for name in names]
    files = [path for path in paths if path.is_file()]
    if not files:
        raise _none(pattern, folder=any(path.is_dir() for path in paths))
    places = []
    for path in files:
        stat = path.stat()
        places.append(Place(path.as_posix(), str(path), stat.st_size, str(stat.st_mtime_ns), system))
    return places


def _none(pattern: str, *, folder: bool) -> PenstockError:
    if folder:
        return PenstockError(
            f"{pattern}: a folder, not a file", hint=f"name files: source.path: {pattern.rstrip('/')}/*.csv"
        )
    hint = "check source.path in conf/load/; it is relative to the root of the repository"
    if glob.has_magic(pattern):
        return PenstockError(f"{pattern}: no file matches", hint=hint)
    path = Path(pattern)
    near = difflib.get_close_matches(path.name, sorted(p.name for p in path.parent.glob("*")), n=1)
    return PenstockError(
        f"{pattern}: there is no such file", hint=f"did you mean {path.parent / near[0]}?" if near else hint
    )


def _remote(source: FilesSource) -> list[Place]:
    import fsspec

    address = revealed(source.path, url=True)
    options = {
        key: revealed(value) if isinstance(value, str) else value for key, value in source.options.items()
    }
    shown = hidden(source.path)
    try:
        system, path = fsspec.core.url_to_fs(address, **_nested(options))
        system.invalidate_cache()  # what was listed by an earlier load of this process
        if glob.has_magic(path) and not _is_web(address):
            found = system.glob(path, detail=True)
            entries = [found[key] for key in sorted(found) if found[key].get("type") != "directory"]
        else:
            entries = [{**system.info(path), "name": path}]
    except FileNotFoundError:
        entries = []
    except (ImportError, ValueError) as error:
        raise PenstockError(
            f"{shown}: cannot be opened ({hidden(first_line(error))})",
            hint="known are paths, s3://, gs://, az://, http(s):// and memory://; for stores: pip install 'penstock[ingest]'",
        ) from error
    except Exception as error:  # each client has its own
        raise unreachable(shown, error) from error
    if any(entry.get("type") == "directory" for entry in entries):
        raise _none(shown, folder=True)
    if not entries:
        nothing = "there is no such file, or its server does not answer"
        if not _is_web(address):
            nothing = "no file matches" if glob.has_magic(path) else "there is no such file"
        raise PenstockError(f"{shown}: {nothing}", hint="check source.path in conf/load/")
    return [_place(entry, source.path, system) for entry in entries]


def _nested(options: dict[str, Any]) -> dict[str, Any]:
    """``client_kwargs.verify: false`` as fsspec takes it; ``endpoint_url`` is where s3fs looks for it."""
    nested: dict[str, Any] = {}
    for key, value in options.items():
        *outer, last = key.split(".")
        inner = nested
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return nested


def _is_web(address: str) -> bool:
    # A question mark there begins a query, and a server lists nothing.
    return address.startswith(("http://", "https://"))


def _place(entry: dict[str, Any], pattern: str, system: Any) -> Place:
    path = str(entry["name"])
    protocol = pattern.partition("://")[0]
    name = pattern if _is_web(pattern) else f"{protocol}://{path.lstrip('/')}"
    marks = (
        "ETag",
        "etag",
        "content_md5",
        "md5Hash",
        "mtime",
        "LastModified",
        "last_modified",
        "updated",
        "created",
    )
    mark = next((str(entry[key]) for key in marks if entry.get(key)), "")
    size = entry.get("size")
    return Place(hidden(name), path, None if size is None else int(size), mark.strip('"'), system)


def unreachable(name: str, error: Exception) -> PenstockError:
    """For what a store, or the way to it, answers."""
    return PenstockError(
        f"{name}: cannot be read ({hidden(first_line(error))})",
        hint="check the address, source.options and the credentials, and whether the store answers",
    )


def first_line(error: Exception) -> str:
    """What an error says, in short."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# --- their content ----------------------------------------------------------------------------------


def suffix_of(name: str) -> tuple[str, str | None]:
    """The last suffix but for that of compression, in small letters, and the compression."""
    path = PurePosixPath(name.partition("?")[0] if "://" in name else name)
    compression = COMPRESSIONS.get(path.suffix.lower())
    return (PurePosixPath(path.stem) if compression else path).suffix.lower(), compression


@contextmanager
def opened(place: Place) -> Iterator[IO[bytes]]:
    """The file as it is stored.

    Raises:
        PenstockError: It cannot be read.
    """
    try:
        if place.is_here:
            file: Any = Path(place.path).open("rb", buffering=0)  # noqa: SIM115
        else:
            file = place.system.open(place.path, "rb", block_size=BLOCK)
    except Exception as error:
        raise unreachable(place.name, error) from error
    with file:
        yield cast("IO[bytes]", file)


def _protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


@contextmanager
def streamed(place: Place, encoding: str) -> Iterator[Stream]:
    """The file's content without compression, as UTF-8.

    Bytes that are no characters in ``encoding`` come as what is not UTF-8 either, so that their rows are found.

    Raises:
        PenstockError: It cannot be opened, or is an archive of other than one file.
    """
    compression = suffix_of(place.name)[1]
    plain = codecs.lookup(encoding).name in {"utf-8", "utf-8-sig"}
    with opened(place) as file, _unpacked(file, compression, place.name) as content:
        if not plain:
            yield _Transcoded(content, encoding)
        elif compression:
            yield _Forward(content)
        else:
            yield _Seekable(content)


@contextmanager
def _unpacked(file: IO[bytes], compression: str | None, name: str) -> Iterator[Any]:
    if compression is None:
        yield file
    elif compression == "xz":
        with lzma.open(file) as content:
            yield content
    elif compression == "zip":
        with (
            zipfile.ZipFile(file) as archive,
            archive.open(_member(archive, name)) as content,
        ):
            yield content
    else:
        import pyarrow as pa

        with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), compression) as content:
            yield content


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    members = [
        info for info in archive.infolist() if not info.is_dir() and not info.filename.startswith("__MACOSX/")
    ]
    if len(members) != 1:
        names = ", ".join(info.filename for info in members[:5])
        raise PenstockError(
            f"{name}: an archive of {len(members)} files ({names}), where one is expected",
            hint="unpack it and name its files by a glob",
        )
    if members[0].flag_bits & 1:
        raise PenstockError(f"{name}: is encrypted", hint="unpack it first")
    return members[0]


class _Seekable:
    """A file whose bytes are what is wanted."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def read(self, size: int) -> bytes:
        return cast("bytes", self.file.read(size))

    def go_to(self, offset: int) -> None:
        self.file.seek(offset)


class _Forward:
    """What can only be read in order."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.at = 0

    def read(self, size: int) -> bytes:
        content = bytes(self.file.read(size))
        self.at += len(content)
        return content

    def go_to(self, offset: int) -> None:
        assert offset >= self.at
        while self.at < offset and self.read(min(CHUNK, offset - self.at)):
            pass


def _marked(error: UnicodeError) -> tuple[str, int]:
    """Bytes that are no characters as surrogates, one each, which UTF-8 does not have."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(MARK, _marked)


class _Transcoded(_Forward):
    """Another encoding, as UTF-8."""

    def __init__(self, file: Any, encoding: str) -> None:
        super().__init__(file)
        self.decoder = codecs.getincrementaldecoder(encoding)(MARK)
        self.waiting = b""
        self.ended = False

    def read(self, size: int) -> bytes:
        while not self.waiting and not self.ended:
            raw = bytes(self.file.read(max(size, 4096)))
            self.ended = not raw
            self.waiting = self.decoder.decode(raw, final=self.ended).encode("utf-8", "surrogatepass")
        content, self.waiting = self.waiting[:size], self.waiting[size:]
        self.at += len(content)
        return content
