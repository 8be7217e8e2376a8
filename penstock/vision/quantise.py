"""The network in 8-bit integers, between a preprocessing and a softmax that stay in floating point.

What is chosen here was measured on EfficientNet-Lite0: weights with a scale for each channel (one for each
tensor costs 20 points of accuracy), and unsigned activations, for whose product with signed weights
processors have an instruction (signed ones take twice as long). Every operator that has an integer form is
quantised: each that is left out costs a conversion forth and back, and accuracy with it.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from penstock.errors import PenstockError

__all__ = ["BATCH", "quantise"]

Floats = NDArray[np.float32]

# Every activation of so many pictures is in memory at once while the ranges are measured.
BATCH = 8
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
# quantize_static warns of graphs whose batch norms are not folded. Those of a trace are.
PREPARED = {"onnx.quant.pre_process": "traced"}


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    """Batches in portions, as ``quantize_static`` asks for them by ``set_range``."""

    def __init__(self, name: str, batches: Sequence[Floats], advance: Callable[[float], None]) -> None:
        self._name, self._batches, self._advance = name, batches, advance
        self._waiting: list[Floats] = []

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._waiting = list(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, Floats] | None:
        if not self._waiting:
            return None
        batch = self._waiting.pop(0)
        self._advance(len(batch))
        return {self._name: batch}


def quantise(
    network: onnx.ModelProto,
    prepared: Floats,
    method: Literal["minmax", "entropy", "percentile"],
    *,
    advance: Callable[[float], None] = lambda _pictures: None,
) -> onnx.ModelProto:
    """Quantise what ``trace`` gave.

    Args:
        network: The network alone.
        prepared: Its input for pictures that are typical, from the training part, shape (n, 3, side, side).
        method: How the range of an activation follows from its values.
        advance: Told the pictures of every batch that is taken.

    Returns:
        A graph with the same input and output.

    Raises:
        PenstockError: There is no picture to calibrate by.
    """
    if not len(prepared):
        raise PenstockError(
            "export.quantise: there is no picture to calibrate by", hint="set export.quantise.pictures"
        )
    network = _named(network)
    batches = [prepared[start : start + BATCH] for start in range(0, len(prepared), BATCH)]
    # It works by way of files, and tells of its progress on standard output.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        out = Path(folder) / "network.onnx"
        quantize_static(
            network,
            out,
            _Batches(network.graph.input[0].name, batches, advance),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=METHODS[method],
            extra_options={"CalibStridedMinMax": 1},  # batch by batch, whatever the method
        )
        return onnx.load_model(out)


def _named(network: onnx.ModelProto) -> onnx.ModelProto:
    copy: Any = onnx.ModelProto()
    copy.CopyFrom(network)
    onnx.helper.set_model_props(copy, PREPARED)
    return copy
