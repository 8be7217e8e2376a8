"""Whether what a predictor said is an answer: one for each row, each a number or a label, none of them not-a-number."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from penstock.config.rollout import Kpi
from penstock.rollout.upstream import Answer

__all__ = ["InvalidError", "compared", "outputs", "reward_mode", "rows_asked"]

HEAD = b"inference-header-content-length"
FORMATS = {
    "BOOL": "?", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q",
    "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "FP16": "e", "FP32": "f", "FP64": "d",
}  # fmt: skip


class InvalidError(Exception):
    """It is none."""


def rows_asked(told: Any, *, is_plain: bool) -> int | None:
    """How many rows a request has; None if it cannot be told, and the predictor will refuse it.

    Args:
        told: The request, out of JSON.
        is_plain: With ``rows``; else of the Open Inference Protocol.
    """
    try:
        if is_plain:
            return len(told["rows"])
        return int(told["inputs"][0]["shape"][0])
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def outputs(answer: Answer, rows: int | None, *, is_plain: bool) -> list[Any]:
    """Of each row, what the predictor says.

    Args:
        answer: With status 200.
        rows: That were asked.
        is_plain: With ``rows``; else of the Open Inference Protocol.

    Raises:
        InvalidError: It is no answer to that request.
    """
    head = answer.headers.get(HEAD)
    try:
        size = len(answer.body) if head is None else int(head)
        told = orjson.loads(answer.body[:size])  # refuses NaN and Infinity
        found = told["rows"] if is_plain else _tensors(told["outputs"], memoryview(answer.body)[size:])
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, ValueError, struct.error) as error:
        raise InvalidError(f"not an answer: {type(error).__name__}") from error
    if not isinstance(found, list) or (rows is not None and len(found) != rows):
        raise InvalidError(f"an answer of {len(found) if isinstance(found, list) else 0} rows to {rows}")
    for row in found:
        if not isinstance(row, dict) or not row or not all(map(_is_said, row.values())):
            raise InvalidError("a row without an answer")
    return found


def _is_said(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value) and all(map(_is_said, value.values()))
    if isinstance(value, list):
        return all(map(_is_said, value))
    return value is not None and (not isinstance(value, float) or math.isfinite(value))


def _tensors(several: Sequence[Mapping[str, Any]], rest: memoryview) -> list[dict[str, Any]]:
    """Rows out of tensors, the first dimension of each being rows.

    Args:
        several: As the head has them.
        rest: Behind it, the data of those that have theirs there.
    """
    rows = int(several[0]["shape"][0])
    found: list[dict[str, Any]] = [{} for _ in range(rows)]
    for tensor in several:
        shape, data = tensor["shape"], tensor.get("data")
        if data is None:
            length = int(tensor["parameters"]["binary_data_size"])
            data, rest = _binary(tensor["datatype"], rest[:length]), rest[length:]
        width = math.prod(shape[1:])
        if shape[0] != rows:
            raise ValueError("tensors of different lengths")
        if data and isinstance(data[0], list):
            data = [value for row in data for value in row]
        if len(data) != rows * width:
            raise ValueError("a tensor of another shape than it says")
        for at, row in enumerate(found):
            values = data[at * width : (at + 1) * width]
            row[tensor["name"]] = values[0] if width == 1 else values
    return found


def _binary(datatype: str, content: memoryview) -> list[Any]:
    """Elements out of little-endian bytes, as the binary tensor data extension has them."""
    if datatype == "BYTES":
        found, at = [], 0
        while at < len(content):
            (length,) = struct.unpack_from("<I", content, at)
            found.append(bytes(content[at + 4 : at + 4 + length]).decode("utf-8", "replace"))
            at += 4 + length
        return found
    letter = FORMATS[datatype]
    return list(struct.unpack(f"<{len(content) // struct.calcsize(letter)}{letter}", content))


def reward_mode(kpi: Kpi) -> str:
    """How the rewards of one user become one number."""
    if kpi.source != "reward":
        return "mean"
    return "any" if kpi.kind == "proportion" else "sum"


def compared(kpi: Kpi, output: Any, truth: Any, reward: float | None) -> float | None:
    """What an outcome says of an answer; None if nothing.

    Args:
        kpi: What counts.
        output: Of the row.
        truth: What has turned out; None if it was not told.
        reward: What it was worth; None if it was not told.
    """
    if kpi.source == "reward":
        if reward is None:
            return None
        return min(kpi.high, max(kpi.low, float(reward)))
    if truth is None or not isinstance(output, Mapping):
        return None
    if kpi.source == "correct":
        return None if "label" not in output else float(str(output["label"]) == str(truth))
    said = output.get("value", output.get("probability"))
    if isinstance(said, list):
        said = said[0] if len(said) == 1 else None
    if said is None:
        return None
    target = float(str(truth) == kpi.positive) if kpi.positive is not None else float(truth)
    return min(kpi.high, max(kpi.low, (float(said) - target) ** 2))
