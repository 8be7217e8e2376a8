"""Formats that have types of their own: Parquet, Arrow IPC, Excel.

Parquet and Arrow come row group by row group, or batch by batch. A sheet is read whole: the format knows no other way.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import IO, Any

import polars as pl

from penstock.errors import PenstockError
from penstock.sources.flattening import flat
from penstock.sources.streamed_pieces import Piece, Progress
from penstock.sources.streamed_places import first_line

__all__ = ["read_arrow", "read_excel", "read_parquet"]

ARROW_FILE = b"ARROW1"


def read_parquet(file: IO[bytes], name: str, start: Progress, batch_rows: int) -> Iterator[Piece]:
    """Read the rows of a Parquet file from number ``start.rows`` on.

    Raises:
        PenstockError: It is not one.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Without what it would read ahead, one row group is in memory at a time.
        parquet = pq.ParquetFile(file, pre_buffer=False)
        groups: list[int] = []
        at = 0
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            if groups or at + rows > start.rows:
                groups.append(group)
            else:
                at += rows
        batches = parquet.iter_batches(batch_size=batch_rows, row_groups=groups) if groups else iter(())
        yield from _pieces(batches, parquet.schema_arrow, at, start.rows, batch_rows)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(name, "Parquet", error) from error


def read_arrow(file: IO[bytes], name: str, start: Progress, batch_rows: int) -> Iterator[Piece]:
    """Read the rows of an Arrow IPC file or stream (Feather is one) from number ``start.rows`` on.

    Raises:
        PenstockError: It is neither.
    """
    import pyarrow as pa

    try:
        is_file = file.read(len(ARROW_FILE)) == ARROW_FILE
        file.seek(0)
        if is_file:
            reader = pa.ipc.open_file(pa.PythonFile(file, mode="r"))
            batches: Iterator[Any] = map(reader.get_batch, range(reader.num_record_batches))
        else:
            reader = pa.ipc.open_stream(pa.PythonFile(file, mode="r"))
            batches = iter(reader)
        yield from _pieces(batches, reader.schema, 0, start.rows, batch_rows)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(name, "Arrow", error) from error


def _pieces(batches: Iterator[Any], schema: Any, at: int, begin: int, batch_rows: int) -> Iterator[Piece]:
    """Batches as pieces of ``batch_rows`` rows. Row ``at`` is the first, and ``begin`` the first that is wanted."""
    import pyarrow as pa

    waiting: list[Any] = []
    ready = 0
    for batch in chain(batches, [None]):
        if batch is not None:
            skip = min(max(0, begin - at), batch.num_rows)
            at += batch.num_rows
            waiting.append(batch.slice(skip))
            ready += batch.num_rows - skip
        while ready >= batch_rows or (batch is None and ready):
            table = pa.Table.from_batches(waiting, schema)
            some = table.slice(0, batch_rows)
            rest = table.slice(batch_rows)
            waiting, ready = rest.to_batches(), rest.num_rows
            frame = pl.from_arrow(some)
            assert isinstance(frame, pl.DataFrame)
            yield Piece(flat(frame), Progress(begin + frame.height), begin)
            begin += frame.height


def read_excel(
    file: IO[bytes], name: str, sheet: str | None, start: Progress, batch_rows: int
) -> Iterator[Piece]:
    """Read the rows of a sheet from number ``start.rows`` on.

    A column of cells of several types is text. A cell that shows an error is missing.

    Raises:
        PenstockError: It is no workbook, or has no such sheet; or nothing can read one here.
    """
    try:
        import fastexcel
    except ImportError as error:
        raise PenstockError(
            f"{name}: fastexcel, which reads it, is not installed", hint="pip install 'penstock[ingest]'"
        ) from error
    try:
        book = fastexcel.read_excel(file.read())
        if sheet is not None and sheet not in book.sheet_names:
            raise PenstockError(
                f"{name}: there is no sheet {sheet!r}", hint=f"there are: {', '.join(book.sheet_names)}"
            )
        loaded = book.load_sheet(0 if sheet is None else sheet, schema_sample_rows=None)
        frame = loaded.to_polars()
    except fastexcel.FastExcelError as error:
        raise _damaged(name, "Excel", error) from error
    for at in range(start.rows, frame.height, batch_rows):
        some = frame.slice(at, batch_rows)
        yield Piece(some, Progress(at + some.height), at)


def _damaged(name: str, form: str, error: Exception) -> PenstockError:
    return PenstockError(
        f"{name}: not a readable {form} file ({first_line(error)})",
        hint="it is truncated or of another format; fetch it again",
    )
