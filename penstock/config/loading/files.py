"""Files, here or in an object store."""

from __future__ import annotations

import codecs
from typing import Literal, Self

from pydantic import model_validator

from penstock.config.base import View

__all__ = ["FileFormat", "FilesSource"]

FileFormat = Literal["csv", "json", "jsonl", "parquet", "arrow", "excel"]


class FilesSource(View):
    """One file or every file of a glob, in alphabetical order; any address that fsspec knows."""

    kind: Literal["files"]
    path: str  # data/inbox/*.csv, s3://bucket/prefix/**/*.jsonl.gz
    format: Literal["auto"] | FileFormat = "auto"
    separator: str = ","
    null_values: tuple[str, ...] = ("",)
    encoding: str = "utf-8"  # csv, json
    sheet: str | None = None  # excel: its name; the first without one
    select: str | None = None  # json: where the rows are, such as data.items
    options: dict[str, str | int | bool] = {}  # for fsspec, such as endpoint_url; secrets as ${secret:NAME}

    @model_validator(mode="after")
    def _readable(self) -> Self:
        if len(self.separator) != 1 or not self.separator.isascii() or self.separator in '"\r\n':
            raise ValueError(
                f'`separator` is {self.separator!r}; it must be one character such as "," or "\\t"'
            )
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise ValueError(
                f"`encoding` {self.encoding!r} is not known; others are utf-8, utf-16, windows-1252, shift_jis"
            ) from None
        if self.select is not None and self.format not in {"auto", "json"}:
            raise ValueError("`select` goes with `format: json`: the path to the rows of a document")
        if self.sheet is not None and self.format not in {"auto", "excel"}:
            raise ValueError("`sheet` goes with `format: excel`")
        return self
