"""The ONNX graph is the network and its preprocessing, to the last few bits, and the same bytes every time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import Conv2dSame

from penstock.artifact.graph import Graph
from penstock.config import Backbone
from penstock.errors import PenstockError
from penstock.vision import backbone as backbones
from penstock.vision import export
from penstock.vision.data import read_album
from penstock.vision.preprocess import Preprocess
from penstock.vision.quantise import quantise

ROOT = Path(__file__).parents[3]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = ("ant", "bee", "çedilla")


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def prepared_by_graph(preprocess: Preprocess, pixels: np.ndarray, opset: int = 20) -> np.ndarray:
    graph = Graph()
    pictures = graph.input("pictures", "uint8", ("n", "height", "width", 3))
    graph.output(export.preprocessing(graph, preprocess, pictures), "prepared", "float", ["n", 3, "h", "w"])
    return session(graph.model("preprocessing", {"": opset})).run(None, {"pictures": pixels})[0]


def settings_of(name: str = "test_efficientnet", side: int = 32, **changes: object) -> Backbone:
    return Backbone.model_validate({"name": name, "weights": "random", "side": side} | changes)


def randomised(backbone: Backbone, classes: int = 3) -> torch.nn.Module:
    """A network whose norms have seen something and whose answers differ."""
    torch.manual_seed(0)
    network = backbones.create(backbone, classes)
    with torch.no_grad():
        network.get_classifier().weight.normal_(std=0.3)
        network.train()
        for _ in range(3):
            network(torch.randn(8, 3, backbone.side, backbone.side))
    return network.eval()


@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    side=st.integers(32, 70),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    fit=st.sampled_from(["crop", "squash"]),
    share=st.sampled_from([1.0, 0.875, 0.7, 0.01]),
    alike=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=150, deadline=None)
def test_preprocessing_is_torchs_for_any_size(height, width, side, interpolation, fit, share, alike, seed):
    backbone = settings_of(side=side, interpolation=interpolation, fit=fit, crop_share=share)
    preprocess = Preprocess(backbone, *((0.5,) * 3, (0.5,) * 3) if alike else (MEAN, STD))
    pixels = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    wanted = preprocess(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()
    found = prepared_by_graph(preprocess, pixels)
    # Of [0, 255], 0.01 of a step: the last bits of the weights' sums.
    assert np.abs(found - wanted).max() < 0.01 / 255 / min(STD)


@pytest.mark.parametrize("size", [(1200, 900), (700, 33), (2, 1500)])
def test_preprocessing_of_large_pictures(size):
    preprocess = Preprocess(settings_of(side=96), MEAN, STD)
    pixels = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    wanted = preprocess(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()
    assert np.abs(prepared_by_graph(preprocess, pixels) - wanted).max() < 0.01 / 255 / min(STD)


def test_a_crop_is_cut_where_python_cuts_it():
    # In single precision 0.29 × 100 is 29, in double 28.999999999999996: one pixel's difference.
    backbone = settings_of(crop_share=0.29, interpolation="bilinear")
    preprocess = Preprocess(backbone, (0.0,) * 3, (1.0,) * 3)
    pixels = np.zeros((1, 100, 100, 3), dtype=np.uint8)
    pixels[:, 35] = pixels[:, 63] = pixels[:, 64] = 255
    wanted = preprocess(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()
    assert np.abs(prepared_by_graph(preprocess, pixels) - wanted).max() < 1e-5


@pytest.mark.parametrize(
    ("name", "side", "opset"),
    [
        ("tf_efficientnet_lite0", 64, 20),
        ("tf_efficientnet_lite0", 75, 18),  # odd sizes on the way: padding that differs from layer to layer
        ("test_efficientnet", 48, 19),
        ("test_resnet", 64, 20),
        ("test_vit", 160, 20),
    ],
)
def test_the_whole_graph_is_the_network(name, side, opset):
    backbone = settings_of(name, side)
    network = randomised(backbone)
    preprocess = backbones.preprocess(backbone, network)
    traced = export.trace(network, side, opset)
    model = export.join(traced, preprocess, CLASSES, temperature=1.7, name="toy")
    assert {item.domain: item.version for item in model.opset_import} == {"": opset}
    asked = session(model)
    pixels = np.random.default_rng(1).integers(0, 256, (5, 40, 70, 3), dtype=np.uint8)
    with torch.inference_mode():
        logits = network(preprocess(torch.from_numpy(pixels).permute(0, 3, 1, 2)))
    wanted = (logits / 1.7).softmax(1).numpy()
    assert np.ptp(wanted, axis=1).min() > 1e-3
    label, whole = asked.run(["label", "probabilities"], {"pictures": pixels})
    single = np.concatenate([asked.run(["probabilities"], {"pictures": one[None]})[0] for one in pixels])
    assert np.abs(whole - wanted).max() < 1e-5
    assert np.abs(single - wanted).max() < 1e-5
    assert label.tolist() == [CLASSES[code] for code in wanted.argmax(1)]


def test_padding_is_settled_in_the_trace_and_left_alone_in_the_network():
    backbone = settings_of("tf_efficientnet_lite0", 64)
    network = randomised(backbone)
    traced = export.trace(network, 64, 20)
    operators = {node.op_type for node in traced.graph.node}
    assert not operators & {"Pad", "Shape", "BatchNormalization"}
    assert sum(isinstance(module, Conv2dSame) for module in network.modules()) == 5


@pytest.mark.parametrize("opset", [11, 17, 21, 99])
def test_another_opset_is_refused(opset):
    with pytest.raises(PenstockError, match=rf"export\.opset: {opset} is not between 18 and 20"):
        export.trace(torch.nn.Identity(), 32, opset)


def test_a_network_without_an_onnx_form_is_named():
    class Odd(torch.nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvalsh(inputs[:, 0])

    with pytest.raises(PenstockError, match="Odd cannot be written as ONNX"):
        export.trace(Odd(), 32, 20)


def exported() -> list[str]:
    """Hashes of a network's two files."""
    torch.set_num_threads(1)
    backbone = settings_of()
    network = randomised(backbone)
    traced = export.trace(network, 32, 20)
    prepared = np.random.default_rng(0).normal(size=(10, 3, 32, 32)).astype(np.float32)
    preprocess = backbones.preprocess(backbone, network)
    hashes = []
    for graph in (traced, quantise(traced, prepared, "minmax")):
        content = export.whole(graph, preprocess, CLASSES, temperature=2.0, name="toy")
        assert not [word for word in (b"/penstock", b"/tmp", b"site-packages", b".py") if word in content]
        hashes.append(hashlib.sha256(content).hexdigest())
    return hashes


def test_the_bytes_are_the_same_in_another_process():
    here = exported()
    code = "import runpy, sys; print(*runpy.run_path(sys.argv[1])['exported']())"
    done = subprocess.run(
        [sys.executable, "-c", code, __file__],
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == here
    assert here[0] != here[1]


def test_equal_constants_are_not_copied():
    # Norms that have seen nothing have equal biases, which the exporter writes once.
    traced = export.trace(backbones.create(settings_of(), 3), 32, 20)
    constants = {constant.name for constant in traced.graph.initializer}
    assert not [
        node for node in traced.graph.node if set(node.input) & constants and node.op_type == "Identity"
    ]
    convolutions = [node for node in traced.graph.node if node.op_type == "Conv"]
    assert all(set(node.input[1:]) <= constants for node in convolutions)


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_int8_is_a_quarter_of_the_size_and_nearly_the_network(method, capfd, caplog):
    backbone = settings_of("tf_efficientnet_lite0", 32)
    network = randomised(backbone)
    traced = export.trace(network, 32, 20)
    draws = np.random.default_rng(0).normal(size=(24, 3, 32, 32)).astype(np.float32)
    taken: list[float] = []
    quantised = quantise(traced, draws[:12], method, advance=taken.append)
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""
    assert sum(taken) == 12
    assert quantised.ByteSize() < 0.3 * traced.ByteSize()
    wanted = session(traced).run(None, {"prepared": draws[12:]})[0]
    found = session(quantised).run(None, {"prepared": draws[12:]})[0]
    spread = wanted.std()
    assert 0 < np.abs(found - wanted).mean() < 0.3 * spread
    assert [item.domain for item in quantised.opset_import if item.domain] == []


def test_int8_without_a_picture_is_refused():
    traced = export.trace(randomised(settings_of()), 32, 20)
    with pytest.raises(PenstockError, match="no picture to calibrate by"):
        quantise(traced, np.empty((0, 3, 32, 32), dtype=np.float32), "minmax")


def test_calibration_draws_from_the_rows_it_is_given(album):
    raw, _ = album()
    pictures = read_album(raw)
    preprocess = Preprocess(settings_of(), MEAN, STD)
    rows = np.arange(40, 60)
    some = export.calibration(pictures, rows, preprocess, 5, seed=1)
    assert some.shape == (5, 3, 32, 32)
    everything = export.calibration(pictures, rows, preprocess, 500, seed=1)
    assert len(everything) == 20
    assert np.array_equal(everything[:5], some)
    # Of the class whose red is brightest, all of them.
    assert (everything.mean(axis=(2, 3)).argmax(axis=1) == 0).all()


def test_the_hash_of_the_data_is_of_pictures_and_labels(album):
    raw, _ = album()
    pictures = read_album(raw)
    labels = ["a"] * len(pictures)
    first = export.data_sha256(pictures, labels)
    assert export.data_sha256(read_album(raw), labels) == first
    assert export.data_sha256(pictures, [*labels[:-1], "b"]) != first
