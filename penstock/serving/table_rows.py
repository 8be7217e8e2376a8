"""Rows of JSON to what an ONNX session takes, by the manifest.

Two ways with the same result. The quick one has msgspec check types, ranges and codes while it parses, by a class made of
the manifest. What it does not take goes the careful way, value by value, as ``penstock.contract`` would have it: "3.0" is
an integer, and what is wrong with a row is said in words.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from penstock.artifact.manifest import Input
from penstock.serving.refusals import Fault, Refusal
from penstock.serving.values import EXACT, WHITE, checker

__all__ = ["Rows", "TableDecoder"]

PLAIN = {"integer", "number", "boolean", "category", "text"}  # types that msgspec can check


@dataclass(slots=True)
class Rows:
    """Checked rows, as they enter the graph.

    Attributes:
        numbers: Of each row its numbers, single precision first, then double.
        strings: Of each row its strings.
    """

    numbers: list[tuple[float, ...]]
    strings: list[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.numbers)


class TableDecoder:
    """Decodes rows for one manifest.

    Args:
        inputs: The manifest's.
        most: Rows of one request.
        ignore_others: Take rows with columns that the model does not have.
    """

    def __init__(self, inputs: Sequence[Input], *, most: int, ignore_others: bool = False) -> None:
        order = {"float": 0, "double": 1, "string": 2}
        self.columns = sorted(inputs, key=lambda item: order[item.element])  # stable: else as in the graph
        self.names = [item.name for item in self.columns]
        self.most, self.ignore_others = most, ignore_others
        self._singles = sum(item.element == "float" for item in inputs)
        self._numbers = sum(item.element != "string" for item in inputs)
        self._checks = [checker(item.column) for item in self.columns]
        self._known = frozenset(self.names)
        self._quick = self._decoder()
        # Strings that any value may be: those that are to be looked at for white space, and must not be empty.
        open_ = [item.column for item in self.columns[self._numbers :]]
        self._open = any(column.values is None and column.type == "category" for column in open_)
        self._required = [
            at for at, column in enumerate(open_) if not column.nullable and column.values is None
        ]

    # --- the quick way ------------------------------------------------------------------------------

    def _decoder(self) -> msgspec.json.Decoder[Any] | None:
        if any(item.column.type not in PLAIN for item in self.columns):
            return None
        fields: list[Any] = []
        for at, item in enumerate(self.columns):
            kind, default = _field(item), "" if item.element == "string" else None
            fields.append((f"c{at}", kind | None, default) if item.column.nullable else (f"c{at}", kind))
        # Fields without a default come first in a class that takes them by position; this one takes none so.
        row = msgspec.defstruct(
            "Row",
            fields,
            rename={f"c{at}": name for at, name in enumerate(self.names)},
            forbid_unknown_fields=not self.ignore_others,
            kw_only=True,
            gc=False,
        )
        rows = Annotated[list[row], msgspec.Meta(min_length=1, max_length=self.most)]  # type: ignore[valid-type]
        body = msgspec.defstruct("Body", [("rows", rows)], forbid_unknown_fields=True, gc=False)
        return msgspec.json.Decoder(body)

    def body(self, content: bytes) -> Rows:
        """The rows of ``{"rows": [{column: value, …}, …]}``.

        Raises:
            Refusal: It is not JSON, or not that; there are too many; or a value breaks the contract.
        """
        if self._quick is not None:
            try:
                found = self._quickly(self._quick.decode(content).rows)
            except msgspec.DecodeError:
                found = None
            if found is not None:
                return found
        return self.rows(_rows_of(content))

    def _quickly(self, rows: Sequence[Any]) -> Rows | None:
        whole = [msgspec.structs.astuple(row) for row in rows]
        at = self._numbers
        numbers, strings = [row[:at] for row in whole], [row[at:] for row in whole]
        if self._open:
            strings = [tuple([value and value.strip(WHITE) for value in row]) for row in strings]
        for place in self._required:
            if not all(row[place] for row in strings):
                return None
        strings = [tuple([value or "" for value in row]) if None in row else row for row in strings]
        return Rows(numbers, strings)

    # --- the careful way ----------------------------------------------------------------------------

    def rows(self, found: Sequence[Any]) -> Rows:
        """Rows that are parsed.

        Raises:
            Refusal: There are none or too many, one is no object, or a value breaks the contract.
        """
        self._count(len(found))
        faults: list[Fault] = []
        for at, row in enumerate(found):
            if not isinstance(row, dict):
                raise Refusal(422, "contract", f"row {at}: expected an object of columns and their values")
            if not self.ignore_others and not row.keys() <= self._known:
                faults.extend(Fault(at, name, self._unknown(name)) for name in row.keys() - self._known)
        columns = {name: [row.get(name) for row in found] for name in self.names}
        return self._checked(columns, len(found), faults)

    def tensors(self, columns: Mapping[str, Sequence[Any]], rows: int) -> Rows:
        """Rows given as columns of equal length.

        Args:
            columns: Values by name; columns that are not there are missing.
            rows: How many each has.

        Raises:
            Refusal: As ``rows``, or a column is none of the model's.
        """
        self._count(rows)
        wrong = [name for name in columns if name not in self._known]
        if wrong and not self.ignore_others:
            raise Refusal(400, "content", f"inputs: {wrong[0]!r}: {self._unknown(wrong[0])}")
        none = [None] * rows
        return self._checked({name: columns.get(name, none) for name in self.names}, rows, [])

    def _checked(self, columns: Mapping[str, Sequence[Any]], rows: int, faults: list[Fault]) -> Rows:
        typed: list[list[Any]] = []
        for name, check in zip(self.names, self._checks, strict=True):
            checked = [check(value) for value in columns[name]]
            faults.extend(Fault(at, name, told) for at, (_, told) in enumerate(checked) if told is not None)
            typed.append([value for value, _ in checked])
        if faults:
            raise Refusal.of_faults(sorted(faults, key=lambda fault: fault.row))
        at = self._numbers
        empty: list[tuple[Any, ...]] = [()] * rows
        return Rows(
            list(zip(*typed[:at], strict=True)) if at else empty,
            list(zip(*typed[at:], strict=True)) if at < len(typed) else empty,
        )

    def _count(self, rows: int) -> None:
        if not rows:
            raise Refusal(422, "content", "rows: expected at least one row")
        if rows > self.most:
            raise Refusal(
                413, "rows", f"expected at most {self.most} rows, found {rows}; send them in several requests"
            )

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name, self.names, n=1)
        return "the model has no such column" + (f"; did you mean {near[0]!r}?" if near else "")

    # --- what the session takes ---------------------------------------------------------------------

    def feeds(self, parts: Sequence[Rows]) -> dict[str, NDArray[Any]]:
        """One array of shape (rows, 1) for each input, of all parts one after another."""
        numbers = [row for part in parts for row in part.numbers]
        strings = [row for part in parts for row in part.strings]
        arrays: list[NDArray[Any]] = []
        if self._numbers:
            block = np.array(numbers, dtype=np.float64).T
            with np.errstate(over="ignore"):  # what single precision cannot hold is infinite, as in training
                arrays.extend(block[: self._singles].astype(np.float32, order="C")[:, :, None])
            arrays.extend(np.ascontiguousarray(block[self._singles :])[:, :, None])
        if self._numbers < len(self.names):
            arrays.extend(np.ascontiguousarray(np.array(strings, dtype=object).T)[:, :, None])
        return dict(zip(self.names, arrays, strict=True))

    def records(self, rows: Rows) -> list[dict[str, Any]]:
        """Each row as columns and values; what is missing is None, NaN or "", which all are null in a record."""
        return [
            dict(zip(self.names, (*numbers, *(value or None for value in strings)), strict=True))
            for numbers, strings in zip(rows.numbers, rows.strings, strict=True)
        ]


def _field(item: Input) -> Any:
    """The type of a column for msgspec; what it refuses may still be right, and is looked at again."""
    column = item.column
    bounds: dict[str, Any] = {}
    if column.type in {"integer", "number"}:
        bounds = {
            key: int(bound) if column.type == "integer" and float(bound).is_integer() else float(bound)
            for key, bound in (("ge", column.min), ("le", column.max))
            if bound is not None and abs(float(bound)) < EXACT
        }
    match column.type:
        case "integer":
            whole = all(isinstance(bound, int) for bound in bounds.values())
            limits = {"ge": -EXACT, "le": EXACT} | (bounds if whole else {})
            return Annotated[int, msgspec.Meta(**limits)] if whole else _Never
        case "number":
            return Annotated[float, msgspec.Meta(**bounds)] if bounds else float
        case "boolean":
            return bool
        case _:
            codes = [code for code in column.values or () if code and code == code.strip(WHITE)]
            if column.values is None:
                return str
            return Literal[tuple(codes)] if codes else _Never


class _Never(msgspec.Struct, frozen=True, tag="never", tag_field="\0"):
    """What no JSON is: the column is always looked at carefully."""


def _rows_of(content: bytes) -> list[Any]:
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, "content", f"the body is not JSON: {error}") from None
    rows = body.get("rows") if isinstance(body, dict) else None
    if not isinstance(rows, list):
        raise Refusal(422, "content", 'expected {"rows": [{column: value, …}, …]}')
    other = sorted(body.keys() - {"rows"})
    if other:
        raise Refusal(422, "content", f"{other[0]!r}: no such key beside `rows`")
    return rows
