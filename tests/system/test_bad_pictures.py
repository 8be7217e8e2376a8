"""Every mistake a user makes with pictures gives one screen that names it, exit code 2, and no traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[2]
SETTINGS = """
defaults:
  - /base/images@_here_
  - _self_
  - override /backbone@backbone: random
source: {path: data/inbox/leaves}
backbone: {name: test_efficientnet, side: 32}
extraction: {epochs: 2}
finetuning: {epochs: 1, batch_size: 8}
scratch: {epochs: 1, batch_size: 8}
"""
ONE_SCREEN = 24


class Workshop:
    """A folder with conf/ and one set of pictures, in which commands and stages run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("conf", "hydra_plugins"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        for file in (root / "conf/dataset").glob("*.yaml"):
            file.unlink()
        self.inbox = root / "data/inbox/leaves"
        self.settings = root / "conf/dataset/leaves.yaml"
        self.settings.write_text(SETTINGS)
        random = np.random.default_rng(0)
        for code, label in enumerate(("birch", "oak")):
            (self.inbox / label).mkdir(parents=True)
            for number in range(12):
                pixels = random.integers(0, 150, (40, 40, 3), dtype=np.uint8)
                pixels[..., code] += 100
                Image.fromarray(pixels).save(self.inbox / label / f"{number}.png")

    def say(self, old: str, new: str) -> None:
        text = self.settings.read_text()
        assert old in text
        self.settings.write_text(text.replace(old, new))

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
        done = self.run("penstock.cli", "params")
        for stage in (
            "ingest",
            "images_split",
            "images_features",
            "images_head",
            "images_finetune",
            "images_export",
        ):
            if done.returncode:
                return done
            done = self.run(f"stages.{stage}", "leaves")
            if stage == last:
                return done
        raise AssertionError(last)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def assert_clear(done: subprocess.CompletedProcess[str], *says: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= ONE_SCREEN
    for text in says:
        assert text in done.stderr, done.stderr


def test_a_class_with_one_picture(workshop):
    for file in sorted((workshop.inbox / "oak").iterdir())[1:]:
        file.unlink()
    assert_clear(workshop.until("ingest"), "fewer than 4 good pictures", "oak (1)")


def test_an_empty_folder(workshop):
    shutil.rmtree(workshop.inbox)
    workshop.inbox.mkdir()
    assert_clear(workshop.until("ingest"), "data/inbox/leaves")


def test_a_folder_that_is_not_there(workshop):
    shutil.rmtree(workshop.inbox)
    assert_clear(workshop.until("ingest"), "data/inbox/leaves", "no such")


def test_a_picture_of_no_bytes_is_set_aside_and_too_many_of_them_are_an_error(workshop):
    (workshop.inbox / "oak/0.png").write_bytes(b"")
    assert_clear(workshop.until("ingest"), "empty", "data/quarantine/leaves.parquet")
    quarantine = pl.read_parquet(workshop.root / "data/quarantine/leaves.parquet")
    assert "oak/0.png" in quarantine["source"][0]
    workshop.settings.write_text(SETTINGS + "contract: {max_quarantine_share: 0.1}\n")
    assert workshop.until("ingest").returncode == 0


def test_an_unknown_backbone(workshop):
    workshop.say("test_efficientnet", "test_eficientnet")
    assert_clear(workshop.until("images_features"), "backbone.name", "test_eficientnet", "test_efficientnet'")


def test_weights_that_do_not_fit(workshop):
    save_file({"conv_stem.weight": np.zeros((3, 3), np.float32)}, workshop.root / "mine.safetensors")
    workshop.say("override /backbone@backbone: random", "override /backbone@backbone: file")
    workshop.say("backbone: {", "backbone: {path: mine.safetensors, ")
    assert_clear(
        workshop.until("images_features"), "mine.safetensors", "do not fit", "conv_stem.weight is (3, 3)"
    )


def test_weights_in_a_format_that_may_run_code(workshop):
    workshop.say("override /backbone@backbone: random", "override /backbone@backbone: file")
    workshop.say("backbone: {", "backbone: {path: mine.pth, ")
    assert_clear(workshop.until("ingest"), "mine.pth", ".safetensors")


def test_more_blocks_than_there_are(workshop):
    workshop.say("finetuning: {", "finetuning: {unfreeze: 40, ")
    assert_clear(workshop.until("images_finetune"), "unfreeze", "40 blocks")


def test_an_opset_that_cannot_be_written(workshop):
    workshop.settings.write_text(SETTINGS + "export: {opset: 17}\n")
    assert_clear(workshop.until("images_export"), "export.opset", "17", "18")


def test_a_misspelt_key(workshop):
    workshop.say("finetuning: {", "finetuning: {unfreze: 1, ")
    assert_clear(workshop.until("ingest"), "datasets.leaves.finetuning.unfreze", "did you mean 'unfreeze'?")


def test_a_stage_of_tables_is_not_for_pictures(workshop):
    assert workshop.until("ingest").returncode == 0
    assert_clear(workshop.run("stages.validate", "leaves"), "leaves is a set of pictures")
