"""Where tables come from: each kind of source gives rows that know their file and position."""

from __future__ import annotations

from penstock.config import FileSource, RecordingsSource, Source
from penstock.sources.files import Table, read_files

__all__ = ["Table", "read"]


def read(source: Source) -> Table:
    """Read a whole source.

    Raises:
        PenstockError: It is not there, or not readable as what it claims to be.
    """
    if isinstance(source, FileSource):
        return read_files(source)
    if isinstance(source, RecordingsSource):
        from penstock.sources.recordings import read_recordings

        return read_recordings(source)
    from penstock.sources.package import read_package

    return read_package(source)
