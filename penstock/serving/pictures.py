"""Artefacts of pictures: a label for each."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from penstock.artifact.picture_manifest import Variant
from penstock.artifact.picture_model import load
from penstock.serving.artefacts import VERSION_LENGTH, Artefact, Outputs, Rules, TensorInfo, Work
from penstock.serving.open_inference import InferRequest
from penstock.serving.refusals import Fault, Refusal

__all__ = ["PictureArtefact"]

FIELD = "picture"


@dataclass(slots=True)
class _PictureWork(Work):
    pictures: list[NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.pictures)


class PictureArtefact(Artefact):
    """A classifier of pictures.

    Raises:
        PenstockError: As ``penstock.artifact.picture_model.load``.
    """

    kind = "images"
    heavy = True

    def __init__(self, folder: Path, variant: Variant, rules: Rules) -> None:
        self.model = load(folder, variant)
        manifest = self.manifest = self.model.manifest
        int8 = manifest.int8
        self.sha256 = manifest.sha256 if variant == "fp32" or int8 is None else int8.sha256
        self.version, self.title = self.sha256[:VERSION_LENGTH], manifest.title or manifest.name
        self.limits = rules.limits
        self.inputs = (TensorInfo(manifest.inputs[0].name, "UINT8", (-1, -1, -1, 3)),)
        self.outputs = (
            TensorInfo("label", "BYTES", (-1,)),
            TensorInfo("probabilities", "FP32", (-1, len(manifest.classes))),
        )

    def plain(self, content: bytes) -> Work:
        try:
            body = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise Refusal(400, "content", f"the body is not JSON: {error}") from None
        rows = body.get("rows") if isinstance(body, dict) and len(body) == 1 else None
        if not isinstance(rows, list):
            raise Refusal(422, "content", f'expected {{"rows": [{{"{FIELD}": base64 of a file}}, …]}}')
        self._count(len(rows))
        pictures, faults = [], []
        for at, row in enumerate(rows):
            try:
                pictures.append(self._picture(row))
            except _UnfitError as error:
                faults.append(Fault(at, FIELD, str(error)))
        if faults:
            raise Refusal.of_faults(faults)
        return self._work(pictures)

    def _picture(self, row: Any) -> NDArray[np.uint8]:
        """A picture as it was when the network learnt: one that is larger than what is stored, scaled to that."""
        try:
            from penstock.pictures import PictureError, decode, scaled
        except ModuleNotFoundError:
            raise Refusal(
                501, "decoder", "Pillow is not installed here, so no files are taken; send pixels to /v2"
            ) from None
        if not isinstance(row, dict) or row.keys() != {FIELD} or not isinstance(row[FIELD], str):
            raise _UnfitError("expected an object with this key alone, and base64 of a picture's file in it")
        contract = self.manifest.contract
        side = contract.stored_side
        try:
            content = base64.b64decode(row[FIELD], validate=True)
            # As in ingestion: a JPEG decoded at a fraction of its size is coarse, and is scaled down once more.
            pixels = decode(content, contract, side=None if side is None else 2 * side)
        except binascii.Error as error:
            raise _UnfitError(f"not base64: {error}") from None
        except PictureError as error:
            raise _UnfitError(error.message) from None
        return pixels if side is None or min(pixels.shape[:2]) <= side else scaled(pixels, side)

    def tensors(self, request: InferRequest) -> Work:
        name = self.inputs[0].name
        if request.inputs.keys() != {name}:
            raise Refusal(400, "content", f"inputs: expected {name!r}, found {', '.join(request.inputs)}")
        tensor = request.inputs[name]
        if tensor.datatype != "UINT8" or len(tensor.shape) != 4 or tensor.shape[3] != 3:
            raise Refusal(
                400,
                "shape",
                f"inputs: {name!r}: expected UINT8 of shape [n, height, width, 3], "
                f"found {tensor.datatype} of {list(tensor.shape)}",
            )
        self._count(tensor.shape[0])
        values: Any = tensor.values
        if not isinstance(values, np.ndarray):
            try:
                values = np.array(bytearray(values), dtype=np.uint8)
            except (TypeError, ValueError):
                raise Refusal(400, "content", f"inputs: {name!r}: expected integers from 0 to 255") from None
        if not values.size:
            raise Refusal(400, "shape", f"inputs: {name!r}: a picture without pixels")
        return self._work(list(values.reshape(tensor.shape)))

    def _count(self, pictures: int) -> None:
        if not pictures:
            raise Refusal(422, "content", "expected at least one picture")
        if pictures > self.limits.rows:
            raise Refusal(413, "rows", f"expected at most {self.limits.rows} pictures, found {pictures}")

    def _work(self, pictures: list[NDArray[np.uint8]]) -> Work:
        pixels = sum(picture.shape[0] * picture.shape[1] for picture in pictures)
        if pixels > self.limits.pixels:
            raise Refusal(413, "pixels", f"expected at most {self.limits.pixels} pixels, found {pixels}")
        return _PictureWork(pictures)

    def run(self, works: Sequence[Work]) -> Outputs:
        pictures = [picture for work in cast(Sequence[_PictureWork], works) for picture in work.pictures]
        labels, probabilities = self.model.predict(pictures)
        return {"label": np.array(labels, dtype=object), "probabilities": probabilities}

    def answers(self, outputs: Outputs) -> list[dict[str, Any]]:
        return [
            {"label": label, "probabilities": dict(zip(self.manifest.classes, each, strict=True))}
            for label, each in zip(outputs["label"].tolist(), outputs["probabilities"].tolist(), strict=True)
        ]

    def records(self, work: Work) -> list[dict[str, Any]]:
        return [
            {
                "sha256": hashlib.sha256(picture.tobytes()).hexdigest(),
                "height": picture.shape[0],
                "width": picture.shape[1],
            }
            for picture in cast(_PictureWork, work).pictures
        ]

    def row_schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {
                FIELD: {"type": "string", "format": "byte", "description": "A picture's file in base64."}
            },
            "required": [FIELD],
            "additionalProperties": False,
        }

    def answer_schema(self) -> dict[str, Any]:
        share = {"type": "number", "minimum": 0, "maximum": 1}
        classes = list(self.manifest.classes)
        return {
            "type": "object",
            "properties": {
                "label": {"type": "string", "enum": classes},
                "probabilities": {
                    "type": "object",
                    "properties": dict.fromkeys(classes, share),
                    "required": classes,
                },
            },
            "required": ["label", "probabilities"],
        }

    def example(self, rows: int) -> Work:
        side = self.manifest.side
        return _PictureWork([np.zeros((side, side, 3), dtype=np.uint8)] * rows)


class _UnfitError(Exception):
    """What is wrong with a row's picture."""
