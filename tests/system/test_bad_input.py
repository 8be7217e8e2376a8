"""Every mistake a user makes gives one screen that names it, exit code 2, and no traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = """
defaults: [/base/binary@_here_, _self_]
task: {target: good, positive: "yes"}
source: {path: data/inbox/wine.csv}
splitter: {n_splits: 3, inner_splits: 2}
"""
ONE_SCREEN = 24


def wine(rows: int = 200) -> pl.DataFrame:
    random = np.random.default_rng(0)
    acid = random.normal(7, 1, rows)
    return pl.DataFrame(
        {
            "acid": acid,
            "colour": random.choice(["red", "white"], rows),
            "good": np.where(acid + random.normal(0, 1, rows) > 7, "yes", "no"),
        }
    )


class Workshop:
    """A folder with conf/ and one data set, in which commands and stages run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("conf", "hydra_plugins"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        self.inbox = root / "data/inbox"
        self.inbox.mkdir(parents=True)
        self.settings = root / "conf/dataset/wine.yaml"
        self.settings.write_text(SETTINGS)
        wine().write_csv(self.inbox / "wine.csv")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
            capture_output=True,
            text=True,
            check=False,
        )

    def until(self, last: str) -> subprocess.CompletedProcess[str]:
        """Compose, then run the stages up to ``last``; the first failure ends it."""
        done = self.run("penstock.cli", "params", "dataset=wine")
        for stage in ("ingest", "profile", "prepare", "features", "validate", "train", "export", "evaluate"):
            if done.returncode:
                break
            done = self.run(f"stages.{stage}", "wine")
            if stage == last:
                break
        return done


@pytest.fixture
def workshop(tmp_path):
    return Workshop(tmp_path)


def assert_clear(done: subprocess.CompletedProcess[str], *says: str) -> None:
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) <= ONE_SCREEN, said
    for part in says:
        assert part in said


def replaced(workshop: Workshop, old: str, new: str) -> None:
    text = workshop.settings.read_text()
    assert old in text
    workshop.settings.write_text(text.replace(old, new))


def test_a_misspelt_key(workshop):
    replaced(workshop, "splitter: {n_splits", "splitter: {n_split")
    assert_clear(
        workshop.until("ingest"),
        "datasets.wine.splitter.n_split: no such key",
        "did you mean 'n_splits'?",
        "conf/",
    )


def test_a_misspelt_key_in_params_yaml_itself(workshop):
    workshop.run("penstock.cli", "params", "dataset=wine")
    params = workshop.root / "params.yaml"
    params.write_text(params.read_text().replace("holdout:", "holduot:"))
    done = workshop.run("stages.ingest", "wine")
    assert_clear(done, "params.yaml: datasets.wine.prepare.holduot: no such key, did you mean 'holdout'?")
    assert not (workshop.root / "data/raw").exists()


def test_an_unknown_model(workshop):
    with workshop.settings.open("a") as file:
        file.write("candidates: {mine: {model: xgboost}}\n")
    assert_clear(workshop.until("ingest"), "datasets.wine.candidates.mine.model", "'xgboost'", "lightgbm")


def test_an_unknown_parameter_of_a_model(workshop):
    with workshop.settings.open("a") as file:
        file.write("candidates: {logistic: {params: {max_itre: 5}}}\n")
    assert_clear(workshop.until("validate"), "max_itre", "max_iter")


def test_an_unknown_data_set(workshop):
    workshop.run("penstock.cli", "params", "dataset=wine")
    assert_clear(workshop.run("stages.ingest", "wien"), "params.yaml: no data set 'wien'", "known: wine")


def test_a_missing_file(workshop):
    (workshop.inbox / "wine.csv").unlink()
    assert_clear(workshop.until("ingest"), "data/inbox/wine.csv")


def test_a_column_of_the_wrong_type(workshop):
    with workshop.settings.open("a") as file:
        file.write("contract: {max_quarantine_share: 0.5, columns: {colour: {type: number}}}\n")
    assert_clear(workshop.until("ingest"), "colour", "number", "'red'")


def test_too_many_rows_that_break_the_contract(workshop):
    frame = wine().with_columns(
        acid=pl.when(pl.int_range(200) < 10).then(pl.lit("sour")).otherwise(pl.col("acid").cast(pl.String))
    )
    frame.write_csv(workshop.inbox / "wine.csv")
    with workshop.settings.open("a") as file:
        file.write("contract: {columns: {acid: {type: number}}}\n")
    assert_clear(
        workshop.until("ingest"), "acid", "'sour'", "data/quarantine/wine.parquet", "max_quarantine_share"
    )
    quarantine = pl.read_parquet(workshop.root / "data/quarantine/wine.parquet")
    assert quarantine["position"].to_list() == list(range(10))


def test_the_target_is_absent(workshop):
    wine().rename({"good": "goood"}).write_csv(workshop.inbox / "wine.csv")
    assert_clear(workshop.until("ingest"), "'good'", "goood")


def test_one_class_only(workshop):
    wine().with_columns(good=pl.lit("yes")).write_csv(workshop.inbox / "wine.csv")
    assert_clear(workshop.until("features"), "good", "one class")


def test_the_positive_class_does_not_occur(workshop):
    replaced(workshop, 'positive: "yes"', 'positive: "Yes"')
    assert_clear(workshop.until("features"), "task.positive", "'Yes'", "yes")


def test_fewer_rows_than_folds(workshop):
    frame = wine()
    pl.concat(
        [frame.filter(pl.col("good") == "yes").head(9), frame.filter(pl.col("good") == "no").head(9)]
    ).write_csv(workshop.inbox / "wine.csv")
    replaced(workshop, "n_splits: 3", "n_splits: 12")
    assert_clear(workshop.until("validate"), "12", "7")


def test_a_column_of_all_nulls(workshop):
    wine().with_columns(empty=pl.lit(None, pl.String)).write_csv(workshop.inbox / "wine.csv")
    assert_clear(workshop.until("ingest"), "empty", "no value")


def test_a_csv_that_is_not_utf8(workshop):
    text = wine().write_csv().replace("red", "rosé")
    (workshop.inbox / "wine.csv").write_bytes(text.encode("latin-1"))
    assert_clear(workshop.until("ingest"), "data/inbox/wine.csv", "UTF-8", "line")


@pytest.mark.parametrize("content", ["", "acid,colour,good\n"], ids=["no bytes", "a header alone"])
def test_an_empty_file(workshop, content):
    (workshop.inbox / "wine.csv").write_text(content)
    assert_clear(workshop.until("ingest"), "data/inbox/wine.csv", "empty" if not content else "no row")


def test_a_truncated_parquet_file(workshop):
    replaced(workshop, "wine.csv", "wine.parquet")
    path = workshop.inbox / "wine.parquet"
    wine().write_parquet(path)
    path.write_bytes(path.read_bytes()[:-30])
    assert_clear(workshop.until("ingest"), "data/inbox/wine.parquet", "truncated")


def test_a_model_file_that_does_not_match_its_manifest(workshop):
    assert workshop.until("export").returncode == 0
    model = workshop.root / "models/wine/model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    assert_clear(
        workshop.run("stages.evaluate", "wine"), "models/wine/model.onnx", "does not match its manifest"
    )
    done = workshop.run("penstock.cli", "predict", "models/wine", "data/inbox/wine.csv", "-o", "out.parquet")
    assert_clear(done, "models/wine/model.onnx", "does not match its manifest")
    assert not (workshop.root / "out.parquet").exists()
