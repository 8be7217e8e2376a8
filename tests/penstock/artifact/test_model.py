"""An artefact is run only if it is the file that its manifest speaks of."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from penstock.artifact import export, manifest, parity
from penstock.artifact.model import load
from penstock.config import Export
from penstock.errors import PenstockError

ROOT = Path(__file__).parents[3]


def test_one_flipped_bit_is_refused(make):
    made = make()
    path = made.folder / "model.onnx"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(PenstockError, match=r"model\.onnx: does not match its manifest"):
        made.load()


def test_external_data_is_refused_even_if_the_hash_is_right(make):
    made = make()
    path = made.folder / "model.onnx"
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    settings = json.loads((made.folder / "manifest.json").read_text())
    settings["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (made.folder / "manifest.json").write_text(json.dumps(settings))
    assert (made.folder / "weights.bin").is_file()
    with pytest.raises(PenstockError, match="external data are refused"):
        made.load()


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_a_missing_part_is_named(make, name):
    made = make()
    (made.folder / name).unlink()
    with pytest.raises(PenstockError, match=name.replace(".", r"\.")):
        made.load()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(PenstockError, match="there is no such folder"):
        load(tmp_path / "nothing")


def test_a_manifest_of_another_version_is_named(make):
    made = make()
    path = made.folder / "manifest.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(PenstockError, match=r"manifest\.json: format"):
        made.load()


def test_the_inputs_are_the_raw_columns_that_count(make):
    made = make()
    model = made.load()
    assert [item.name for item in model.manifest.inputs] == ["age", "income", "vip", "plan", "town", "since"]
    assert [entry.name for entry in model.session.get_inputs()] == [
        item.name for item in model.manifest.inputs
    ]


def test_a_column_that_only_a_derived_one_needs_is_an_input(make, contract):
    made = make()
    columns = made.columns.model_copy(update={"numeric": ("gap",), "categorical": (), "cardinality": {}})
    from penstock.config import Difference

    gap = Difference(op="difference", name="gap", left="income", right="age")
    assert [item.name for item in export.inputs(columns, [gap], contract)] == ["age", "income"]


def test_answers_as_a_table(make, raw_table):
    raw = raw_table(20, seed=3)
    answers = make(threshold=0.4).load().predict(raw)
    assert answers.columns == ["label", "probability"]
    assert (answers["label"] == "yes").to_list() == (answers["probability"] >= np.float32(0.4)).to_list()
    several = make(kind="multiclass").load().predict(raw)
    assert several.columns == ["label", "probability_low", "probability_mid", "probability_top"]
    assert make(kind="regression", model="ridge").load().predict(raw).columns == ["value"]


def compared(made, raw):
    reference = made.reference(raw)
    return parity.compare(
        made.load(),
        raw,
        reference,
        spread=1.0,
        threshold=None,
        metric=lambda answers: float(answers[:, 1].mean()),
    )


def test_parity_looks_at_every_row_alone_and_together(make, raw_table):
    found = compared(make(), raw_table(50, seed=4))
    assert found.rows == 50
    assert max(found.max_difference, found.max_difference_single) < 1e-6
    parity.require(found, Export())


def test_another_model_is_caught(make, raw_table):
    made = make()
    weights = made.pipeline.named_steps["model"].coef_
    weights[0, 0] += 0.01
    found = compared(made, raw_table(50, seed=4))
    with pytest.raises(
        PenstockError, match=r"max_difference is .* export.max_difference allows 1e-05 .*row \d+"
    ):
        parity.require(found, Export())


def test_a_label_that_differs_is_caught(make, raw_table):
    found = parity.Parity(10, 0.0, 0.0, 0, 0.1, 0.0)
    with pytest.raises(PenstockError, match=r"max_label_disagreement is 0\.1"):
        parity.require(found, Export())


def test_not_a_number_is_no_parity():
    with pytest.raises(PenstockError, match="max_difference is nan"):
        parity.require(parity.Parity(10, float("nan"), 0.0, 0, 0.0, 0.0), Export())


SAME_BYTES = """
import sys, hashlib
sys.path.insert(0, sys.argv[1])
import importlib.util
spec = importlib.util.spec_from_file_location("made", sys.argv[1] + "/tests/penstock/artifact/conftest.py")
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)
from pathlib import Path
import tempfile
with tempfile.TemporaryDirectory() as folder:
    for model in ("lightgbm", "logistic"):
        artefact = made.make.__wrapped__(Path(folder))(model=model)
        print(hashlib.sha256(made.write_artefact(Path(folder), artefact)).hexdigest())
"""


def test_two_processes_write_the_same_bytes():
    said = [
        subprocess.run(
            [sys.executable, "-c", SAME_BYTES, str(ROOT)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert len(set(said[0].split())) == 2


def test_a_manifest_names_no_time_path_or_commit(make):
    text = (make().folder / manifest.MANIFEST).read_text()
    assert str(Path.home()) not in text
    assert "/tmp" not in text
    assert not re.search(r"\d{4}-\d\d-\d\d", text)
    assert not re.search(r"\b[0-9a-f]{40}\b", text)


def test_the_data_hash_is_of_what_the_table_says(raw_table):
    raw = raw_table(30, seed=1)
    same = export.data_sha256(raw)
    assert export.data_sha256(raw.clone()) == same
    assert export.data_sha256(raw.with_columns(town=raw["town"].str.to_uppercase())) != same
    assert export.data_sha256(raw.rename({"town": "city"})) != same
    assert export.data_sha256(raw.reverse()) != same


def test_the_code_hash_is_of_paths_and_contents(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.py").write_text("1")
    (tmp_path / "b.py").write_text("2")
    first = export.code_sha256(tmp_path, ["a", "b.py"])
    assert export.code_sha256(tmp_path, ["b.py", "a"]) == first
    (tmp_path / "a/x.py").rename(tmp_path / "a/y.py")
    assert export.code_sha256(tmp_path, ["a", "b.py"]) != first
