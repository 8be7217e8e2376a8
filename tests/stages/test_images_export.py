"""images_export: files that are proven before they are in place, or none."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from PIL import Image

from penstock.artifact.picture_model import load
from penstock.config import Backbone, Compute
from penstock.errors import PenstockError
from penstock.vision import backbone as backbones
from penstock.vision import export
from penstock.vision.data import read_album, read_split
from penstock.vision.outputs import write_answers
from penstock.vision.training import answers
from stages import images_export
from stages.layout import ImageLayout

Project = Callable[..., Path]
WORDS = dict.fromkeys(("title", "description", "source", "licence", "intended_use", "caveats"), "toy")
CLASSES = ("blue", "green", "red")
LAYOUT = ImageLayout("toy")
BACKBONE = {"name": "test_efficientnet", "weights": "random", "side": 32}
COMPUTE = {"accelerator": "cpu", "devices": 1, "threads": 1, "workers": 0}
NAMES = ["finetune.safetensors", "int8/model.onnx", "manifest.json", "model.onnx"]


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.set_num_threads(threads)


def picture(code: int, seed: int) -> bytes:
    random = np.random.default_rng([code, seed])
    pixels = random.integers(0, 150, (20 + seed % 3, 24, 3), dtype=np.uint8)
    pixels[..., 2 - code] += 90
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def trained() -> Any:
    """A network with a head that was fitted by least squares, to what its features say of brightness."""
    torch.manual_seed(0)
    backbone = Backbone.model_validate(BACKBONE)
    network = backbones.create(backbone, len(CLASSES)).eval()
    album, split = read_album(LAYOUT.raw), read_split(LAYOUT.split)
    prepare = backbones.preprocess(backbone, network)
    rows = split.parts["train"]
    with torch.no_grad():
        seen = torch.cat(
            [
                backbones.features(
                    network, prepare(torch.from_numpy(album.pixels(int(row))).permute(2, 0, 1)[None])
                )
                for row in rows
            ]
        )
        wanted = torch.eye(len(CLASSES))[torch.from_numpy(split.codes[rows])] * 4
        found = torch.linalg.lstsq(
            torch.cat([seen, torch.ones(len(seen), 1)], 1), wanted, driver="gelsd"
        ).solution
        network.get_classifier().weight.copy_(found[:-1].T)
        network.get_classifier().bias.copy_(found[-1])
    return network


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Make a project as the stages before would have left it, and go into its folder."""
    monkeypatch.chdir(tmp_path)

    def make(**changes: Any) -> Path:
        labels = [label for label in CLASSES for _ in range(30)]
        for path in (LAYOUT.raw, LAYOUT.split, LAYOUT.answers("finetune")):
            path.parent.mkdir(parents=True, exist_ok=True)
        content = [picture(code, number) for code in range(3) for number in range(30)]
        pl.DataFrame({"picture": content, "label": labels}).write_parquet(LAYOUT.raw)
        rows = pl.Series("row", np.arange(90), dtype=pl.UInt32)
        parts = np.resize(["train", "train", "train", "validation", "holdout"], 90)
        pl.DataFrame({"row": rows, "label": labels, "part": parts, "group": rows}).write_parquet(LAYOUT.split)
        finetuning = {"unfreeze": "all"}
        dataset = {
            "card": WORDS,
            "task": {"kind": "images"},
            "source": {"kind": "folder", "path": "toy", "watch": "toy"},
            "contract": {"stored_side": 64},
            "profile": {},
            "prepare": {},
            "backbone": BACKBONE,
            "extraction": {},
            "finetuning": finetuning,
            "scratch": finetuning,
            "compute": COMPUTE,
            "scoring": {},
            "export": {"quantise": {"pictures": 24, "max_accuracy_drop": 0.2}} | changes,
        }
        params = {"seed": 1, "names": [], "pictures": ["toy"], "datasets": {"toy": dataset}}
        Path("params.yaml").write_text(yaml.safe_dump(params))
        network = trained()
        backbones.save(LAYOUT.weights("finetune"), network, CLASSES)
        album, split = read_album(LAYOUT.raw), read_split(LAYOUT.split)
        logits = {
            part: answers(
                network,
                album,
                Backbone.model_validate(BACKBONE),
                split.parts[part],
                Compute.model_validate(COMPUTE),
                title=part,
            )
            for part in ("validation", "holdout")
        }
        write_answers(LAYOUT.answers("finetune"), split, logits)
        return tmp_path

    return make


def files() -> dict[str, bytes]:
    paths = sorted(path for path in LAYOUT.model.rglob("*") if path.is_file())
    return {path.relative_to(LAYOUT.model).as_posix(): path.read_bytes() for path in paths}


def test_files_manifest_and_parity(project):
    folder = project()
    images_export.main("toy")
    made = files()
    assert sorted(made) == NAMES
    manifest = json.loads(made["manifest.json"])
    assert manifest["sha256"] == hashlib.sha256(made["model.onnx"]).hexdigest()
    assert manifest["int8"]["sha256"] == hashlib.sha256(made["int8/model.onnx"]).hexdigest()
    assert manifest["classes"] == list(CLASSES)
    assert manifest["outputs"][1] == {"name": "probabilities", "element": "float", "shape": ["n", 3]}
    assert manifest["contract"]["stored_side"] == 64
    assert manifest["metrics"]["top1"] > 0.5
    assert manifest["parameters"]["backbone"]["name"] == "test_efficientnet"
    assert {"torch", "timm", "onnxruntime"} <= set(manifest["versions"])
    parity = json.loads((LAYOUT.reports / "parity.json").read_text())
    assert parity["pictures"] == 18
    assert max(parity["max_difference"], parity["max_difference_single"]) < 1e-4
    assert parity["label_disagreement"] == 0
    assert 0 < parity["int8"]["max_difference"] < 1
    assert parity["int8"]["accuracy_drop"] == manifest["int8"]["accuracy_drop"]

    # What the file says of the hold-out is what the network said of it, through the temperature.
    frame = pl.read_parquet(LAYOUT.answers("finetune")).filter(pl.col("part") == "holdout")
    wanted = torch.softmax(torch.tensor(frame["logits"].to_list()) / manifest["temperature"], 1).numpy()
    album = read_album(LAYOUT.raw)
    labels, found = load(LAYOUT.model).predict([album.pixels(row) for row in frame["row"]])
    assert np.abs(found - wanted).max() < 1e-4
    assert np.mean(np.array(labels) == frame["label"].to_numpy()) == pytest.approx(parity["top1"])
    assert manifest["temperature"] != 1.0

    images_export.main("toy")
    assert files() == made
    assert not list(folder.rglob("*.tmp"))


def test_without_int8_and_temperature(project):
    project(quantise={"enabled": False}, temperature=False)
    images_export.main("toy")
    assert "int8/model.onnx" not in files()
    assert (LAYOUT.model / "int8").is_dir()  # what the graph expects of the stage
    manifest = json.loads(files()["manifest.json"])
    assert manifest["int8"] is None
    assert manifest["temperature"] == 1.0
    assert json.loads((LAYOUT.reports / "parity.json").read_text())["int8"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"max_difference": 1e-12},
            r"max_difference is .*export\.max_difference allows 1e-12.*worst: row \d+",
        ),
        ({"opset": 17}, r"export\.opset: 17 is not between"),
    ],
)
def test_a_bound_that_is_passed_leaves_no_model(project, changes, message):
    project(**changes)
    with pytest.raises(PenstockError, match=message):
        images_export.main("toy")
    assert list(files()) == ["finetune.safetensors"]


def test_a_graph_that_differs_from_the_network_is_found(project, monkeypatch):
    project(quantise={"enabled": False})
    whole = export.whole

    def scaled(network: Any, preprocess: Any, *rest: Any, **settings: Any) -> bytes:
        preprocess.backbone = preprocess.backbone.model_copy(update={"interpolation": "bilinear"})
        return whole(network, preprocess, *rest, **settings)

    monkeypatch.setattr(export, "whole", scaled)
    with pytest.raises(PenstockError, match="not the trained network"):
        images_export.main("toy")
    assert list(files()) == ["finetune.safetensors"]
    assert json.loads((LAYOUT.reports / "parity.json").read_text())["max_difference"] > 1e-3


def test_an_int8_file_that_is_too_wrong_is_refused(project, monkeypatch):
    project(quantise={"pictures": 24, "max_accuracy_drop": 0.0})
    quantise = images_export.quantise
    # Calibrated on black pictures, the ranges hold no other.
    monkeypatch.setattr(
        images_export,
        "quantise",
        lambda traced, prepared, *rest, **settings: quantise(traced, prepared * 0, *rest, **settings),
    )
    with pytest.raises(PenstockError, match=re.escape("export.quantise.max_accuracy_drop allows 0.00%")):
        images_export.main("toy")
    assert list(files()) == ["finetune.safetensors"]


def test_every_file_that_the_code_names_is_there():
    root = Path(images_export.__file__).parents[1]
    assert [part for part in images_export.CODE if not (root / part).exists()] == []
