"""Files, here or in an object store."""

from __future__ import annotations

from typing import Literal

from penstock.config.base import View

__all__ = ["FilesSource"]


class FilesSource(View):
    """One file or every file of a glob, in alphabetical order; any address that fsspec knows."""

    kind: Literal["files"]
    path: str  # data/inbox/*.csv, s3://bucket/prefix/*.jsonl.gz
    format: Literal["auto", "csv", "json", "jsonl", "parquet", "arrow", "excel"] = "auto"
    separator: str = ","
    null_values: tuple[str, ...] = ("",)
    encoding: str = "utf-8"  # csv, json
    sheet: str | None = None  # excel: its name; the first without one
    select: str | None = None  # json: where the rows are, such as data.items
    options: dict[str, str | int | bool] = {}  # for fsspec, such as endpoint_url; secrets as ${secret:NAME}
