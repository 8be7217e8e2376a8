"""Writing outputs so that nothing is ever half-written and the same content has the same bytes.

Every writer goes to a temporary name in the same folder, flushes to disk and renames: a process killed
at any moment leaves either the old file or the new one.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.errors import PenstockError

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "read_json",
    "read_parquet",
    "replacing",
    "rounded",
    "write_bytes",
    "write_csv",
    "write_json",
    "write_parquet",
    "write_text",
]

# Enough to tell two models apart and few enough that the last bits, in which two processors may differ
# (fused multiply-add, another order of summation), do not reach a file whose hash is compared.
SIGNIFICANT_DIGITS = 6


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it over ``path`` when the block ends without error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read; an output is for everyone the umask allows.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def rounded(value: Any, digits: int = SIGNIFICANT_DIGITS) -> Any:
    """Round every float inside ``value`` to ``digits`` significant digits; not-a-number becomes None.

    JSON has no NaN or infinity, so both are written as null. NumPy scalars become Python's own.
    """
    if isinstance(value, Mapping):
        return {str(key): rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item, digits) for item in value]
    if hasattr(value, "item") and not isinstance(value, str | bytes):  # a NumPy scalar
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return float(f"{value:.{digits}g}") + 0.0  # the sum turns -0.0 into 0.0
    return value


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, all or nothing."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``, all or nothing."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any, *, digits: int = SIGNIFICANT_DIGITS, sort_keys: bool = True) -> None:
    """Write ``value`` as indented JSON with sorted keys and floats of ``digits`` significant digits."""
    text = json.dumps(rounded(value, digits), indent=2, sort_keys=sort_keys, ensure_ascii=False)
    write_text(path, text + "\n")


def write_csv(path: Path, frame: pl.DataFrame, *, digits: int = SIGNIFICANT_DIGITS) -> None:
    """Write ``frame`` as CSV with floats of ``digits`` significant digits (the form DVC plots read)."""
    import polars as pl
    import polars.selectors as cs

    floats = frame.with_columns(cs.float().cast(pl.Float64).round_sig_figs(digits))
    with replacing(path) as temporary:
        floats.write_csv(temporary)


def write_parquet(path: Path, frame: pl.DataFrame) -> None:
    """Write ``frame`` as zstd-compressed Parquet, all or nothing."""
    with replacing(path) as temporary:
        frame.write_parquet(temporary, compression="zstd", statistics=True)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        PenstockError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PenstockError(f"{path}: there is no such file", hint="run `dvc repro` to make it") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PenstockError(
            f"{path}: not a JSON file ({error})", hint="remove it and run `dvc repro`"
        ) from error


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read a Parquet file, or some of its columns.

    Raises:
        PenstockError: The file is missing, empty, truncated or not Parquet.
    """
    import polars as pl

    if not path.is_file():
        raise PenstockError(f"{path}: there is no such file", hint="run `dvc repro` to make it")
    try:
        return pl.read_parquet(path, columns=None if columns is None else list(columns))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise PenstockError(
            f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})",
            hint="it is empty, truncated or of another format; remove it and run `dvc repro`, or fetch it again",
        ) from error
