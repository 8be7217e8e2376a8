"""A network with all that is around it, from the pixels of a picture to a label, as one ONNX graph.

The network is traced by torch; what comes before and after it is written here by hand, operator by operator.
"""

from __future__ import annotations

import copy
import hashlib
import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, nn
from torch.nn import functional

from penstock.artifact.graph import Graph
from penstock.artifact.manifest import Output
from penstock.artifact.picture_manifest import PictureInput
from penstock.errors import PenstockError
from penstock.vision.data import Album
from penstock.vision.preprocess import Preprocess

__all__ = [
    "MADE_WITH",
    "NEWEST_OPSET",
    "OLDEST_OPSET",
    "calibration",
    "data_sha256",
    "inputs",
    "join",
    "outputs",
    "preprocessing",
    "require_opset",
    "trace",
    "whole",
]

MADE_WITH = (
    "lightning",
    "numpy",
    "onnx",
    "onnxruntime",
    "penstock",
    "pillow",
    "polars",
    "scipy",
    "timm",
    "torch",
    "torchvision",
)

INPUT = "pictures"
OLDEST_OPSET = 18  # Resize with antialiasing
NEWEST_OPSET = 20  # torch's tracing exporter; what lies beyond, it writes without knowing it
IMAGE_AXES = (1, 2)  # height and width of (n, height, width, 3)


def require_opset(opset: int) -> None:
    """Raises: PenstockError: No graph of that opset can be written."""
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise PenstockError(
            f"export.opset: {opset} is not between {OLDEST_OPSET} and {NEWEST_OPSET}",
            hint=f"below {OLDEST_OPSET} Resize does not antialias; torch's exporter knows none above {NEWEST_OPSET}",
        )


# --- the network ------------------------------------------------------------------------------------


def trace(network: nn.Module, side: int, opset: int) -> onnx.ModelProto:
    """The network alone.

    Args:
        network: A timm model. It is not changed.
        side: Of its input, in pixels.
        opset: Of the graph.

    Returns:
        A graph from ``prepared``, float of shape (n, 3, side, side), to ``logits``, float of shape (n, K).

    Raises:
        PenstockError: The opset is not supported, or an operator of the network has no ONNX form.
    """
    require_opset(opset)
    network = copy.deepcopy(network).cpu().eval().requires_grad_(requires_grad=False)
    example = torch.zeros(2, 3, side, side)  # of two: a batch of one may be traced as a constant
    _settle_padding(network, example)
    content = io.BytesIO()
    with warnings.catch_warnings():
        # The tracing exporter is announced to be replaced by one that needs another package; and the values
        # that a trace takes for constants are shapes, which are constants here.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        try:
            torch.onnx.export(
                network,
                (example,),
                content,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=opset,
                input_names=["prepared"],
                output_names=["logits"],
                dynamic_axes={"prepared": {0: "n"}, "logits": {0: "n"}},
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise PenstockError(
                f"{type(network).__name__} cannot be written as ONNX: {str(error).strip().splitlines()[0]}",
                hint="choose another backbone.name",
            ) from error
    model = onnx.load_model_from_string(content.getvalue())
    for node in model.graph.node:
        node.ClearField("doc_string")  # may name files of this machine
    return model


class _Convolve(torch.autograd.Function):
    """A convolution padded differently on each side: torch needs two operators for it, ONNX one."""

    @staticmethod
    def forward(
        _context: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],  # left, right, top, bottom
        dilation: Sequence[int],
        groups: int,
    ) -> Tensor:
        padded = functional.pad(inputs, list(padding))
        return functional.conv2d(padded, weight, bias, tuple(stride), 0, tuple(dilation), groups)

    @staticmethod
    def symbolic(
        graph: Any,
        inputs: Any,
        weight: Any,
        bias: Any,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> Any:
        left, right, top, bottom = padding
        given = (inputs, weight) if bias is None or bias.node().mustBeNone() else (inputs, weight, bias)
        return graph.op(
            "Conv",
            *given,
            strides_i=list(stride),
            pads_i=[top, left, bottom, right],
            dilations_i=list(dilation),
            group_i=groups,
        )


class _Padded(nn.Module):
    """A convolution with padding that is known."""

    def __init__(self, convolution: nn.Conv2d, padding: Sequence[int]) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self.settings = (
            list(convolution.stride),
            list(padding),
            list(convolution.dilation),
            convolution.groups,
        )

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = _Convolve.apply(  # type: ignore[no-untyped-call]
            inputs, self.weight, self.bias, *self.settings
        )
        return found


def _settle_padding(network: nn.Module, example: Tensor) -> None:
    """TensorFlow's "same" padding, computed from the size of the input on every run, replaced by its result.

    Traced as it is, it becomes some thirty nodes for each of these convolutions.
    """
    from timm.layers import Conv2dSame
    from timm.layers.padding import pad_same_arg

    sizes: dict[nn.Module, list[int]] = {}
    found = {name: module for name, module in network.named_modules() if isinstance(module, Conv2dSame)}
    hooks = [
        module.register_forward_pre_hook(
            lambda module, inputs: sizes.update({module: list(inputs[0].shape[-2:])})
        )
        for module in found.values()
    ]
    with torch.no_grad():
        network(example)
    for hook in hooks:
        hook.remove()
    for name, module in found.items():
        settings = (list(module.kernel_size), list(module.stride), list(module.dilation))
        network.set_submodule(name, _Padded(module, pad_same_arg(sizes[module], *settings)))


# --- before and after -------------------------------------------------------------------------------


def preprocessing(graph: Graph, preprocess: Preprocess, pictures: str) -> str:
    """What ``Preprocess`` does, for pictures of any size with the channels last.

    Returns:
        float, shape (n, 3, side, side).
    """
    backbone = preprocess.backbone
    pixels = graph.cast(_crop(graph, preprocess, pictures), TensorProto.FLOAT)
    # Weights that fall outside are left out and the rest made to sum to one, as Pillow and torch do.
    kernel: dict[str, Any] = {"mode": "linear"}
    if backbone.interpolation == "bicubic":
        kernel = {"mode": "cubic", "cubic_coeff_a": -0.5}
    scaled = graph.add(
        "Resize",
        pixels,
        "",
        "",
        graph.constant([backbone.side, backbone.side], np.int64),
        antialias=1,
        axes=IMAGE_AXES,
        coordinate_transformation_mode="half_pixel",
        exclude_outside=1,
        **kernel,
    )
    clipped = graph.add("Clip", scaled, graph.constant(0.0), graph.constant(255.0))
    mean, std = (preprocess.get_buffer(name).double().cpu().numpy().ravel() for name in ("mean", "std"))
    factors = graph.add("Mul", clipped, _of_channels(graph, 1 / (255 * std), backbone.side))
    normalised = graph.add("Add", factors, _of_channels(graph, -mean / std, backbone.side))
    # Transposed only now: the network's square is seldom larger than the picture, and often much smaller.
    return graph.add("Transpose", normalised, perm=[0, 3, 1, 2])


def _of_channels(graph: Graph, values: NDArray[np.float64], side: int) -> str:
    """A value for each channel, spread over all pixels when the graph is loaded.

    Broadcast over the last axis on every run, three numbers cost as much as a convolution.
    """
    if len(set(values.tolist())) == 1:
        return graph.constant(values[0])
    shape = graph.constant([1, side, side, 3], np.int64)
    return graph.add("Expand", graph.constant(values), shape)


def _crop(graph: Graph, preprocess: Preprocess, pictures: str) -> str:
    backbone = preprocess.backbone
    if backbone.fit == "squash" and backbone.crop_share == 1.0:
        return pictures
    size = graph.add("Shape", pictures, start=1, end=3)
    kept = size
    if backbone.fit == "crop":
        shorter = graph.add("ReduceMin", size, keepdims=1)
        kept = graph.add("Concat", shorter, shorter, axis=0)
    if backbone.crop_share != 1.0:
        # In double precision, as Python computes it: a float could come out one pixel off.
        share = graph.constant(backbone.crop_share, np.float64)
        exact = graph.add("Mul", graph.cast(kept, TensorProto.DOUBLE), share)
        kept = graph.add("Max", graph.cast(exact, TensorProto.INT64), graph.constant([1], np.int64))
    start = graph.add("Div", graph.add("Sub", size, kept), graph.constant([2], np.int64))
    axes = graph.constant(IMAGE_AXES, np.int64)
    return graph.add("Slice", pictures, start, graph.add("Add", start, kept), axes)


def join(
    network: onnx.ModelProto,
    preprocess: Preprocess,
    classes: Sequence[str],
    *,
    temperature: float,
    name: str,
) -> onnx.ModelProto:
    """Everything as one graph.

    Args:
        network: What ``trace`` gave, or the same quantised.
        preprocess: What its input was made by.
        classes: In the order of its outputs.
        temperature: What the logits are divided by.
        name: Of the graph.

    Returns:
        A graph from ``pictures``, uint8 of shape (n, height, width, 3) in RGB, to ``label``, string of shape
        (n,), and ``probabilities``, float of shape (n, K).
    """
    graph = Graph()
    pictures = graph.input(INPUT, "uint8", ("n", "height", "width", 3))
    logits = graph.absorb(network, preprocessing(graph, preprocess, pictures), network.graph.output[0].name)
    probabilities = graph.add("Softmax", graph.add("Div", logits, graph.constant(temperature)), axis=-1)
    best = graph.add("ArgMax", probabilities, axis=1, keepdims=0)
    label = graph.add("Gather", graph.constant(list(classes), np.str_), best, axis=0)
    graph.output(label, "label", "string", ["n"])
    graph.output(probabilities, "probabilities", "float", ["n", len(classes)])
    return graph.model(name, {item.domain: item.version for item in network.opset_import})


def whole(
    network: onnx.ModelProto, preprocess: Preprocess, classes: Sequence[str], *, temperature: float, name: str
) -> bytes:
    """``join`` as the content of a file, the same for the same network."""
    model = join(network, preprocess, classes, temperature=temperature, name=name)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


# --- what the manifest says of it -------------------------------------------------------------------


def inputs() -> tuple[PictureInput]:
    """The one input of ``join``, as the manifest describes it."""
    return (PictureInput(name=INPUT, element="uint8", shape=("n", "height", "width", 3)),)


def outputs(classes: Sequence[str]) -> tuple[Output, ...]:
    """The outputs of ``join``, as the manifest describes them."""
    return (
        Output(name="label", element="string", shape=("n",)),
        Output(name="probabilities", element="float", shape=("n", len(classes))),
    )


def data_sha256(album: Album, labels: Sequence[str]) -> str:
    """Hash of the pictures' bytes and their labels, in order: what was learnt from, not how a file is compressed."""
    digest = hashlib.sha256()
    for row, label in enumerate(labels):
        digest.update(hashlib.sha256(album.content(row)).digest())
        digest.update(hashlib.sha256(label.encode()).digest())
    return digest.hexdigest()


def calibration(
    album: Album, rows: NDArray[np.int64], preprocess: Preprocess, pictures: int, seed: int
) -> NDArray[np.float32]:
    """Some of the pictures as the network sees them, shape (n, 3, side, side).

    Args:
        album: All pictures.
        rows: Of which to draw: the training part.
        preprocess: Of the network.
        pictures: How many at most.
        seed: Of the draw.
    """
    drawn = np.random.default_rng(seed).permutation(rows)[:pictures]
    side = preprocess.backbone.side
    prepared = np.empty((len(drawn), 3, side, side), dtype=np.float32)
    with torch.inference_mode():
        for place, row in enumerate(drawn):
            picture = torch.from_numpy(album.pixels(int(row))).permute(2, 0, 1)
            prepared[place] = preprocess(picture[None])[0].numpy()
    return prepared
