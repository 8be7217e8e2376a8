"""Which function reads which kind of source, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.config.loading import DatabaseSource, FilesSource, LoadSource, RestSource
from penstock.sources.chunks import Chunk, Window

__all__ = ["chunks"]


def chunks(source: LoadSource, window: Window) -> Iterator[Chunk]:
    """Read a source chunk by chunk. Its module, and the client that it needs, is imported here.

    Raises:
        PenstockError: It cannot be reached, or is not what it claims to be.
    """
    if isinstance(source, FilesSource):
        from penstock.sources.streamed_files import read_files

        return read_files(source, window)
    if isinstance(source, DatabaseSource):
        from penstock.sources.database import read_database

        return read_database(source, window)
    if isinstance(source, RestSource):
        from penstock.sources.rest import read_rest

        return read_rest(source, window)
    from penstock.sources.kafka import read_kafka

    return read_kafka(source, window)
