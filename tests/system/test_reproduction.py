"""Two fresh clones and the committed lock agree, hash for hash; nothing is built twice."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from penstock.reproduction import TOLERANCE, Difference, arrived, exact, first_difference

ROOT = Path(__file__).parents[2]
LOCK = yaml.safe_load((ROOT / "dvc.lock").read_text())
DATASET = "churn_calls"


def test_two_fresh_clones_give_the_committed_lock_and_the_same_model(fresh_clone):
    clones = [fresh_clone("one"), fresh_clone("another")]
    models = []
    for clone in clones:
        clone.run(sys.executable, "-m", "dvc", "repro", "--glob", f"*@{DATASET}")
        made = yaml.safe_load((clone.root / "dvc.lock").read_text())
        stages = [name for name in LOCK["stages"] if name.endswith(f"@{DATASET}")]
        assert first_difference(LOCK, made, stages) is None
        models.append((clone.root / "models" / DATASET / "model.onnx").read_bytes())
        again = clone.run(sys.executable, "-m", "dvc", "repro", "--glob", f"*@{DATASET}")
        assert "Running stage" not in again.stdout
    assert models[0] == models[1]


def test_one_parameter_of_one_data_set_reruns_what_depends_on_it(fresh_clone):
    clone = fresh_clone("clone")
    params = clone.root / "params.yaml"
    values = yaml.safe_load(params.read_text())
    values["datasets"]["housing"]["train"]["importance_repeats"] = 7
    params.write_text(yaml.safe_dump(values, sort_keys=False))
    status = clone.run(sys.executable, "-m", "dvc", "status", "--json").stdout
    changed = {
        name
        for name, entries in yaml.safe_load(status).items()
        for entry in entries
        if isinstance(entry, dict) and "params.yaml" in entry.get("changed deps", {})
    }
    assert changed == {"train@housing"}


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("cmd", lambda stage: stage.update(cmd="other")),
        ("params", lambda stage: stage["params"]["params.yaml"].update(seed=1)),
        (f"outs: models/{DATASET}/pipeline.skops", lambda stage: stage["outs"][0].update(md5="0" * 32)),
    ],
)
def test_the_first_difference_is_named(where, change):
    other = copy.deepcopy(LOCK)
    change(other["stages"][f"train@{DATASET}"])
    difference = first_difference(LOCK, other)
    assert isinstance(difference, Difference)
    assert (difference.stage, difference.what) == (f"train@{DATASET}", where)


def test_a_stage_that_is_missing_is_a_difference():
    other = copy.deepcopy(LOCK)
    del other["stages"][f"report@{DATASET}"]
    assert str(first_difference(LOCK, other)) == f"report@{DATASET}: stage: is there here, is missing there"


def test_no_output_in_git_holds_a_time_a_commit_or_a_path_of_a_machine():
    commit = re.compile(r"\b[0-9a-f]{40}\b")
    moment = re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d")
    for file in sorted((ROOT / "reports").rglob("*")):
        if file.suffix in {".json", ".csv"}:
            text = file.read_text()
            assert not moment.search(text), file
            assert not commit.search(text), file
            assert str(ROOT) not in text, file
            assert str(Path.home()) not in text, file


def test_of_networks_figures_are_compared_and_of_all_else_hashes():
    held = set(exact(LOCK["stages"]))
    assert {"train@churn", "ingest@images", "images_split@images"} <= held
    assert not held & {"images_finetune@images", "images_export@images", "images_report@images"}


@pytest.fixture
def built(tmp_path):
    """A committed repository of nothing but what a comparison reads, and what was built in it since."""
    for path in ("dvc.lock", "reports/images/evaluation.json"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=x", "-c", "user.email=x@localhost", "commit", "-qm", "built"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def _top1(root, phase, change):
    path = root / "reports/images/evaluation.json"
    figures = json.loads(path.read_text())
    figures[phase]["top1"] += change
    path.write_text(json.dumps(figures))


def test_another_machine_arrives_if_its_networks_are_as_good(built):
    made = copy.deepcopy(LOCK)
    made["stages"]["images_finetune@images"]["outs"][0]["md5"] = "0" * 32
    (built / "dvc.lock").write_text(yaml.safe_dump(made))
    _top1(built, "finetune", 0.9 * TOLERANCE)
    assert arrived(built) is None


@pytest.mark.parametrize("phase", ["head", "finetune", "scratch"])
def test_another_machine_does_not_arrive_if_a_network_is_worse(built, phase):
    _top1(built, phase, -1.1 * TOLERANCE)
    difference = arrived(built)
    assert difference is not None
    assert difference.what == f"reports/images/evaluation.json: {phase}.top1"


def test_no_machine_arrives_with_another_table(built):
    made = copy.deepcopy(LOCK)
    made["stages"]["train@churn"]["outs"][0]["md5"] = "0" * 32
    (built / "dvc.lock").write_text(yaml.safe_dump(made))
    difference = arrived(built)
    assert difference is not None
    assert difference.stage == "train@churn"
