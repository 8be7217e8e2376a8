"""The Open Inference Protocol, version 2, over HTTP: its requests and responses, with the binary tensor data extension.

After https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol: tensors have a name, a datatype, a
shape, and data row by row, in JSON (flat or nested) or little-endian behind the JSON.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from penstock.serving.refusals import Refusal

__all__ = ["EXTENSIONS", "HEADER_LENGTH", "InferRequest", "Tensor", "decoded", "encoded"]

HEADER_LENGTH = b"inference-header-content-length"
EXTENSIONS = ["binary_tensor_data"]
MOST_TENSORS = 4096
MOST_DIMENSIONS = 8
DTYPES = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}


@dataclass(slots=True)
class Tensor:
    """One input.

    Attributes:
        datatype: As the protocol calls it.
        shape: Of the tensor.
        values: Its elements, row by row: a list from JSON, or of strings; an array of what was binary.
    """

    datatype: str
    shape: tuple[int, ...]
    values: Sequence[Any] | NDArray[Any]

    def listed(self) -> Sequence[Any]:
        """The elements as Python's own."""
        values: Any = self.values
        return values.tolist() if isinstance(values, np.ndarray) else values  # type: ignore[no-any-return]


@dataclass(slots=True)
class InferRequest:
    """What is asked.

    Attributes:
        id: To be repeated in the answer.
        inputs: By name.
        outputs: Names wanted, in their order; None: all of them.
        binary: Names of outputs that are wanted as binary data; None in it: all that are not named.
    """

    id: str | None
    inputs: dict[str, Tensor]
    outputs: list[str] | None
    binary: set[str | None] = field(default_factory=set)


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] = {}


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    outputs: list[_Output] | None = None
    parameters: dict[str, Any] = {}


_DECODER = msgspec.json.Decoder(_Request)


def decoded(content: bytes, header_length: int | None) -> InferRequest:
    """Parse a request.

    Args:
        content: The body.
        header_length: Bytes of it that are JSON; None if all are.

    Raises:
        Refusal: It is not one.
    """
    if header_length is not None and not 0 <= header_length <= len(content):
        raise _wrong(f"Inference-Header-Content-Length: {header_length} is not within the body")
    head = content if header_length is None else content[:header_length]
    try:
        request = _DECODER.decode(head)
    except msgspec.ValidationError as error:
        raise _wrong(str(error)) from None
    except msgspec.DecodeError as error:
        raise _wrong(f"the body is not JSON: {error}") from None
    if not 0 < len(request.inputs) <= MOST_TENSORS:
        raise _wrong(f"inputs: expected 1 to {MOST_TENSORS} tensors")
    rest = memoryview(content)[len(head) :]
    inputs: dict[str, Tensor] = {}
    for item in request.inputs:
        if item.name in inputs:
            raise _wrong(f"inputs: {item.name!r} is there twice")
        inputs[item.name], rest = _tensor(item, rest)
    if len(rest):
        raise _wrong(f"{len(rest)} bytes follow the last tensor")
    binary: set[str | None] = {None} if request.parameters.get("binary_data_output") is True else set()
    names = None if not request.outputs else [item.name for item in request.outputs]
    binary |= {item.name for item in request.outputs or () if item.parameters.get("binary_data") is True}
    return InferRequest(request.id, inputs, names, binary)


def _wrong(words: str) -> Refusal:
    return Refusal(400, "content", words)


def _tensor(item: _Input, rest: memoryview) -> tuple[Tensor, memoryview]:
    if item.datatype != "BYTES" and item.datatype not in DTYPES:
        raise _wrong(
            f"inputs: {item.name!r}: no such datatype {item.datatype!r}; there are BYTES, {', '.join(DTYPES)}"
        )
    if not 0 < len(item.shape) <= MOST_DIMENSIONS or min(item.shape) < 0:
        raise _wrong(f"inputs: {item.name!r}: expected a shape of 1 to {MOST_DIMENSIONS} sizes")
    count = math.prod(item.shape)
    size = item.parameters.get("binary_data_size")
    if size is None:
        if item.data is None:
            raise _wrong(f"inputs: {item.name!r}: has no data")
        values: Any = _flat(item.name, item.data, item.shape)
    else:
        if not isinstance(size, int) or not 0 <= size <= len(rest):
            raise _wrong(f"inputs: {item.name!r}: binary_data_size {size!r} is not within the body")
        values, rest = _binary(item, rest[:size]), rest[size:]
    if len(values) != count:
        raise _wrong(f"inputs: {item.name!r}: expected {count} elements by its shape, found {len(values)}")
    return Tensor(item.datatype, tuple(item.shape), values), rest


def _flat(name: str, data: list[Any], shape: Sequence[int]) -> list[Any]:
    """Elements of a list, or of lists in lists as the shape has them."""
    for size in shape[1:]:
        if not data or not isinstance(data[0], list):
            break
        if not all(isinstance(part, list) and len(part) == size for part in data):
            raise _wrong(f"inputs: {name!r}: data are nested otherwise than by the shape")
        data = [value for part in data for value in part]
    return data


def _binary(item: _Input, content: memoryview) -> Any:
    if item.datatype == "BYTES":
        return _strings(item.name, content)
    dtype = DTYPES[item.datatype]
    if len(content) % dtype.itemsize:
        raise _wrong(f"inputs: {item.name!r}: {len(content)} bytes are no whole number of {item.datatype}")
    return np.frombuffer(content, dtype=dtype)


def _strings(name: str, content: memoryview) -> list[str]:
    found, at = [], 0
    while at < len(content):
        end = at + 4
        size = struct.unpack_from("<I", content, at)[0] if end <= len(content) else -1
        if size < 0 or end + size > len(content):
            raise _wrong(f"inputs: {name!r}: a string is cut short")
        try:
            found.append(str(content[end : end + size], "utf-8"))
        except UnicodeDecodeError:
            raise _wrong(f"inputs: {name!r}: a string is not UTF-8") from None
        at = end + size
    return found


def encoded(
    head: dict[str, Any],
    outputs: Sequence[tuple[str, str, NDArray[Any]]],
    request: InferRequest,
) -> tuple[bytes, int | None]:
    """A response.

    Args:
        head: model_name, model_version, id.
        outputs: Name, datatype and values of each tensor that the model gives.
        request: Which of them are wanted, and how.

    Returns:
        The body, and how many bytes of it are JSON if more follows.

    Raises:
        Refusal: One that is wanted does not exist.
    """
    known = {name: (datatype, values) for name, datatype, values in outputs}
    told, tail = [], []
    for name in known if request.outputs is None else request.outputs:
        if name not in known:
            raise _wrong(f"outputs: there is no {name!r}; there are {', '.join(known)}")
        datatype, values = known[name]
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
        if name in request.binary or (None in request.binary and request.outputs is None):
            content = _bytes(datatype, values)
            tensor["parameters"] = {"binary_data_size": len(content)}
            tail.append(content)
        else:
            tensor["data"] = values.ravel().tolist()
        told.append(tensor)
    body = orjson.dumps(head | {"outputs": told})
    return (body + b"".join(tail), len(body)) if tail else (body, None)


def _bytes(datatype: str, values: NDArray[Any]) -> bytes:
    if datatype != "BYTES":
        return np.ascontiguousarray(values, dtype=DTYPES[datatype]).tobytes()
    strings = [str(value).encode() for value in values.ravel()]
    return b"".join(struct.pack("<I", len(value)) + value for value in strings)
