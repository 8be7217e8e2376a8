"""A picture classifier on disk: verified, asked, and run over files, by nothing that trains."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import pytest
from PIL import Image

from penstock.artifact import picture_manifest
from penstock.artifact.graph import Graph
from penstock.artifact.picture_model import load
from penstock.artifact.picture_score import score_pictures, wanted
from penstock.contract import QUARANTINE_SCHEMA
from penstock.errors import PenstockError

ROOT = Path(__file__).parents[3]
CLASSES = ("blue", "green", "red")


def brightest(sharpness: float) -> bytes:
    """A graph that says which channel of a picture is the brightest."""
    graph = Graph()
    pictures = graph.input("pictures", "uint8", ("n", "height", "width", 3))
    axes = graph.constant([1, 2], np.int64)
    mean = graph.add("ReduceMean", graph.cast(pictures, onnx.TensorProto.FLOAT), axes, keepdims=0)
    reverse = graph.add("Gather", mean, graph.constant([2, 1, 0], np.int64), axis=1)
    probabilities = graph.add("Softmax", graph.add("Mul", reverse, graph.constant(sharpness)), axis=-1)
    best = graph.add("ArgMax", probabilities, axis=1, keepdims=0)
    label = graph.add("Gather", graph.constant(list(CLASSES), np.str_), best, axis=0)
    graph.output(label, "label", "string", ["n"])
    graph.output(probabilities, "probabilities", "float", ["n", 3])
    return graph.model("toy", {"": 20}).SerializeToString(deterministic=True)


def as_manifest(fp32: bytes, int8: bytes | None, **changes: object) -> dict[str, object]:
    return {
        "format": 1,
        "kind": "images",
        "name": "toy",
        "title": "Toy",
        "task": "images",
        "sha256": hashlib.sha256(fp32).hexdigest(),
        "int8": int8
        and {
            "sha256": hashlib.sha256(int8).hexdigest(),
            "accuracy_drop": 0.0,
            "label_disagreement": 0.0,
        },
        "opset": {"ai.onnx": 20},
        "inputs": [{"name": "pictures", "element": "uint8", "shape": ["n", "height", "width", 3]}],
        "outputs": [
            {"name": "label", "element": "string", "shape": ["n"]},
            {"name": "probabilities", "element": "float", "shape": ["n", 3]},
        ],
        "classes": list(CLASSES),
        "side": 32,
        "temperature": 1.0,
        "contract": {"min_side": 4, "stored_side": 64},
        "metrics": {"top1": 1.0},
        "parameters": {},
        "data_sha256": "",
        "code_sha256": "",
        "versions": {},
    } | changes


@pytest.fixture
def artefact(tmp_path: Path) -> Callable[..., Path]:
    """Write an artefact with two files that differ, and return its folder."""

    def make(*, int8: bool = True, **changes: object) -> Path:
        folder = tmp_path / "model"
        (folder / "int8").mkdir(parents=True)
        contents = (brightest(0.1), brightest(0.05) if int8 else None)
        (folder / "model.onnx").write_bytes(contents[0])
        if contents[1]:
            (folder / "int8/model.onnx").write_bytes(contents[1])
        (folder / "manifest.json").write_text(json.dumps(as_manifest(*contents, **changes)))
        return folder

    return make


def pixels(code: int, height: int = 8, width: int = 8) -> np.ndarray:
    made = np.full((height, width, 3), 100, dtype=np.uint8)
    made[..., 2 - code] = 150
    return made


def encoded(code: int, height: int = 8, width: int = 8, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(code, height, width)).save(buffer, form)
    return buffer.getvalue()


# --- loading ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "name"), [("fp32", "model.onnx"), ("int8", "int8/model.onnx")])
def test_one_flipped_bit_is_refused(artefact, variant, name):
    folder = artefact()
    content = bytearray((folder / name).read_bytes())
    content[100] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(PenstockError, match="does not match its manifest"):
        load(folder, variant)
    other = "int8" if variant == "fp32" else "fp32"
    assert load(folder, other).predict([pixels(1)])[0] == ["green"]


def test_the_variants_are_two_files(artefact):
    folder = artefact()
    fp32, int8 = (load(folder, variant).predict([pixels(2)])[1][0, 2] for variant in ("fp32", "int8"))
    assert fp32 == pytest.approx(1 / (1 + 2 * np.exp(-5)), abs=1e-5)
    assert int8 == pytest.approx(1 / (1 + 2 * np.exp(-2.5)), abs=1e-5)


def test_a_variant_that_is_not_there(artefact):
    with pytest.raises(PenstockError, match="has no int8 variant"):
        load(artefact(int8=False), "int8")


def test_external_data_is_refused_even_if_the_hash_is_right(artefact):
    folder = artefact()
    path = folder / "model.onnx"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    settings = json.loads((folder / "manifest.json").read_text())
    settings["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(settings))
    assert (folder / "weights.bin").is_file()
    with pytest.raises(PenstockError, match="external data are refused"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "found"),
    [({"format": 2}, "format"), ({"task": "binary"}, "task"), ({"colour": 1}, "colour")],
)
def test_another_manifest_is_refused(artefact, changes, found):
    with pytest.raises(PenstockError, match=rf"manifest\.json: {found}"):
        load(artefact(**changes))


def test_kinds_of_artefacts_are_told_apart(artefact, tmp_path):
    assert picture_manifest.is_of_pictures(artefact())
    assert not picture_manifest.is_of_pictures(tmp_path / "nothing")
    (tmp_path / "manifest.json").write_text('{"format": 1, "task": "binary"}')
    assert not picture_manifest.is_of_pictures(tmp_path)


# --- asking -----------------------------------------------------------------------------------------


def test_pictures_of_any_sizes_keep_their_order(artefact):
    model = load(artefact())
    codes = np.random.default_rng(0).integers(0, 3, 70)
    sizes = [(8, 8), (8, 9), (30, 5)]
    labels, probabilities = model.predict(
        [pixels(code, *sizes[place % 3]) for place, code in enumerate(codes)]
    )
    assert labels == [CLASSES[code] for code in codes]
    assert probabilities.shape == (70, 3)
    assert (probabilities.argmax(axis=1) == codes).all()
    assert model.predict([])[1].shape == (0, 3)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_named(artefact, array):
    with pytest.raises(PenstockError, match="picture 1: "):
        load(artefact()).predict([pixels(0), array])


# --- files ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Fifty pictures in folders, one hidden, and three that cannot be used."""
    root = tmp_path / "inbox"
    (root / "b/deep").mkdir(parents=True)
    for number in range(50):
        path = root / ("b/deep" if number % 2 else "") / f"{number:02}.{'jpg' if number % 3 else 'png'}"
        path.write_bytes(encoded(number % 3, 8 + number % 5, form="JPEG" if number % 3 else "PNG"))
    (root / ".thumbs.png").write_bytes(encoded(0))
    (root / "a note.txt.bak").write_text("no picture")
    (root / "b/tiny.png").write_bytes(encoded(0, 2, 2))
    (root / "b/torn.png").write_bytes(encoded(0, 40, 40)[:60])
    return root


def test_a_folder(artefact, folder, tmp_path):
    done: list[float] = []
    out, quarantine = tmp_path / "out.parquet", tmp_path / "bad.parquet"
    scored = score_pictures(load(artefact()), wanted(folder), out, quarantine, workers=3, advance=done.append)
    assert (scored.rows, scored.rejected, sum(done)) == (50, 3, 53)
    assert scored.reasons == {"not_a_picture": 1, "too_small": 1, "truncated": 1}
    found = pl.read_parquet(out)
    assert found.columns == ["path", "label", "probability_blue", "probability_green", "probability_red"]
    assert found["path"].to_list() == sorted(found["path"])
    names = [Path(path) for path in found["path"]]
    assert all(path.is_file() for path in names)
    assert found["label"].to_list() == [CLASSES[int(path.stem) % 3] for path in names]
    bad = pl.read_parquet(quarantine)
    assert bad.schema == QUARANTINE_SCHEMA
    assert [Path(source).name for source in bad["source"]] == ["a note.txt.bak", "tiny.png", "torn.png"]
    for source, position in bad.select("source", "position").iter_rows():
        assert wanted(folder)[position].path == source


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_a_listing(artefact, folder, tmp_path, form):
    rows = pl.DataFrame(
        {"path": ["b/deep/01.jpg", "none.png", None, str(folder / "00.png")], "other": [1, 2, 3, 4]}
    )
    listing = folder / f"all.{form}"
    {"csv": rows.write_csv, "parquet": rows.write_parquet, "jsonl": rows.write_ndjson}[form](listing)
    scored = score_pictures(load(artefact()), wanted(listing), tmp_path / "out.csv", tmp_path / "bad.parquet")
    assert scored.reasons == {"missing": 2}
    found = pl.read_csv(tmp_path / "out.csv")
    assert found["path"].to_list() == ["b/deep/01.jpg", str(folder / "00.png")]
    assert found["label"].to_list() == ["green", "blue"]
    assert pl.read_parquet(tmp_path / "bad.parquet")["position"].to_list() == [1, 2]


def test_a_broken_line_of_a_listing_is_no_picture(artefact, folder, tmp_path):
    (folder / "all.csv").write_text("path,n\n00.png,1\n03.png,1,2,3\n06.png,2\n")
    scored = score_pictures(
        load(artefact()), wanted(folder / "all.csv"), tmp_path / "out.csv", tmp_path / "bad.parquet"
    )
    assert (scored.rows, scored.reasons) == (2, {"not_a_row": 1})


@pytest.mark.parametrize("name", ["00.png", "00.json.png"])
def test_one_picture(artefact, folder, tmp_path, name):
    (folder / name).write_bytes(encoded(0))
    score_pictures(load(artefact()), wanted(folder / name), tmp_path / "out.csv", tmp_path / "bad.parquet")
    assert pl.read_csv(tmp_path / "out.csv")["label"].to_list() == ["blue"]


def test_where_there_is_nothing(tmp_path):
    with pytest.raises(PenstockError, match="no such file or folder"):
        wanted(tmp_path / "nothing")
    with pytest.raises(PenstockError, match="there is no picture in it"):
        wanted(tmp_path)
    (tmp_path / "list.csv").write_text("file\na.png\n")
    with pytest.raises(PenstockError, match="there is no column 'path'"):
        wanted(tmp_path / "list.csv")


def test_a_large_picture_is_scaled_as_the_stored_ones_were(artefact, tmp_path, monkeypatch):
    from penstock.artifact import picture_score

    model = load(artefact())
    sizes = []
    predict = type(model).predict
    monkeypatch.setattr(
        type(model),
        "predict",
        lambda self, found: sizes.extend(item.shape for item in found) or predict(self, found),
    )
    (tmp_path / "large.png").write_bytes(encoded(0, 400, 200))
    picture_score.score_pictures(
        model, wanted(tmp_path / "large.png"), tmp_path / "out.csv", tmp_path / "bad.parquet"
    )
    assert sizes == [(128, 64, 3)]


# --- the command line -------------------------------------------------------------------------------


def penstock(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "penstock.cli", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "PENSTOCK_CORES": "2"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_predict_on_the_command_line(artefact, folder, tmp_path):
    model = artefact()
    done = penstock("predict", model, folder, "-o", tmp_path / "out.parquet", "--variant", "int8")
    assert done.returncode == 0, done.stderr
    assert "50 pictures classified" in done.stderr
    assert "1 × too_small" in done.stderr
    assert pl.read_parquet(tmp_path / "out.quarantine.parquet").height == 3
    assert pl.read_parquet(tmp_path / "out.parquet")["probability_red"].max() == pytest.approx(
        0.859, abs=0.01
    )
    for wrong in (["--keep", "label"], ["--variant", "int4"]):
        assert penstock("predict", model, folder, "-o", tmp_path / "x.csv", *wrong).returncode == 2
    assert penstock("predict", model, tmp_path / "none", "-o", tmp_path / "x.csv").returncode == 2
    assert not (tmp_path / "x.csv").exists()


def test_serving_loads_nothing_that_trains(artefact, folder, tmp_path):
    code = (
        "import sys\nfrom penstock.cli import app\n"
        f"app(['predict', {str(artefact())!r}, {str(folder)!r}, '-o', {str(tmp_path / 'out.csv')!r}],"
        " standalone_mode=False)\n"
        "print(sorted({'torch', 'torchvision', 'timm', 'lightning', 'sklearn', 'scipy', 'onnx', 'pandas'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"
    assert (tmp_path / "out.csv").is_file()
