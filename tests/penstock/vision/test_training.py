"""Both phases: they learn, they repeat, and what was killed goes on to the same end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from penstock.config import Compute, Extraction, Finetuning
from penstock.errors import PenstockError
from penstock.vision import backbone as backbones
from penstock.vision import training
from penstock.vision.data import read_album, read_split

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Paths:
    folder: Path
    raw: Path
    split: Path

    checkpoints = property(lambda self: self.folder / "checkpoints")
    live = property(lambda self: self.folder / "live")
    weights = property(lambda self: self.folder / "weights.safetensors")
    answers = property(lambda self: self.folder / "answers.parquet")
    curves = property(lambda self: self.folder / "curves.csv")


@pytest.fixture
def learnt(album, backbone, compute, settings, tmp_path):
    """Fine-tune a small network in a folder of its own, and give the paths."""
    raw, split = album()

    def run(name: str, chosen: Finetuning = settings, where: Compute = compute, seed: int = 7) -> Paths:
        paths = Paths(tmp_path / name, raw, split)
        training.prepare_torch(where, seed)
        network = backbones.create(backbone, 3)
        training.learn("finetune", network, chosen, backbone, where, seed=seed, paths=paths, title=name)
        return paths

    return run


def test_it_learns_what_can_be_learnt(learnt):
    paths = learnt(
        "a", Finetuning(epochs=8, batch_size=8, unfreeze="all", learning_rate=3e-3, ema=None, mixup=0.0)
    )
    answers = pl.read_parquet(paths.answers)
    assert dict(answers.group_by("part").len().iter_rows()) == {"validation": 12, "holdout": 12}
    classes = sorted(answers["label"].unique())
    told = np.array(classes)[answers["logits"].to_numpy().argmax(axis=1)]
    assert (told == answers["label"].to_numpy()).mean() > 0.8
    _, stored = backbones.load(
        paths.weights, backbones.Backbone(name="test_efficientnet", weights="random", side=32)
    )
    assert stored == tuple(classes)


def test_the_same_seed_gives_the_same_bytes_on_one_thread_and_another_seed_others(learnt):
    first, second, other = learnt("a"), learnt("b"), learnt("c", seed=8)
    assert first.weights.read_bytes() == second.weights.read_bytes()
    assert first.curves.read_bytes() == second.curves.read_bytes()
    assert first.weights.read_bytes() != other.weights.read_bytes()


def test_two_threads_give_the_same_metrics(learnt, compute):
    two = compute.model_copy(update={"threads": 2, "workers": 1})
    first, second = (pl.read_csv(learnt(name, where=two).curves) for name in "ab")
    for name in first.columns:
        assert first[name].to_numpy() == pytest.approx(second[name].to_numpy(), abs=1e-6)


def test_every_other_way_to_learn_runs_to_its_end(learnt):
    chosen = Finetuning(
        epochs=4,
        batch_size=8,
        unfreeze=("blocks.4", "conv_head"),
        batch_norm="frozen",
        schedule="one_cycle",
        augment="trivial",
        cutmix=1.0,
        ema=None,
        clip=None,
        imbalance="balanced_sampler",
        patience=1,
        keep="best",
    )
    assert pl.read_csv(learnt("a", chosen).curves).height >= 1
    weighted = chosen.model_copy(update={"imbalance": "class_weight", "mixup": 0.0, "cutmix": 0.0})
    assert pl.read_csv(learnt("b", weighted).curves).height >= 1


def test_the_best_epoch_is_kept_where_it_shall_be(learnt, backbone):
    chosen = Finetuning(epochs=6, batch_size=8, unfreeze="all", learning_rate=0.05, ema=None, keep="best")
    paths = learnt("a", chosen)
    album, split = read_album(paths.raw), read_split(paths.split)
    network, _ = backbones.load(paths.weights, backbone)
    rows = split.parts["validation"]
    logits = training.answers(
        network, album, backbone, rows, Compute(accelerator="cpu", devices=1, workers=0), title=""
    )
    loss = float(
        torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(split.codes[rows]))
    )
    losses = pl.read_csv(paths.curves)["validation_loss"]
    assert loss == pytest.approx(losses.min(), rel=1e-3)


def test_a_loss_that_is_no_number_is_named(learnt):
    with pytest.raises(PenstockError, match="training loss is no longer a number"):
        learnt(
            "a", Finetuning(epochs=2, batch_size=8, unfreeze="all", learning_rate=1e30, clip=None, ema=None)
        )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"accelerator": "gpux"}, "compute: .*gpux"),
        ({"strategy": "dpp"}, "compute: .*dpp"),
        ({"precision": "8"}, "compute: .*8"),
    ],
)
def test_a_machine_that_is_not_there_is_named(learnt, compute, changes, says):
    with pytest.raises(PenstockError, match=says):
        learnt("a", where=compute.model_copy(update=changes))


# --- the head ---------------------------------------------------------------------------------------


def features(n: int = 240) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    codes = np.arange(n) % 3
    return (random.normal(size=(n, 16)) + 1.5 * np.eye(3, 16)[codes]).astype(np.float32), codes


def head(folder: Path, settings: Extraction, compute: Compute):
    found, codes = features()
    training.prepare_torch(compute, 1)
    parts = ((found[:180], codes[:180]), (found[180:], codes[180:]))
    return training.fit_head(*parts, settings, compute, classes=3, seed=1, folder=folder)


def test_the_head_does_as_well_as_a_logistic_regression(tmp_path, compute):
    from sklearn.linear_model import LogisticRegression

    found, codes = features()
    linear, epochs = head(tmp_path, Extraction(epochs=60, batch_size=32, learning_rate=0.01), compute)
    theirs = LogisticRegression(C=1.0).fit(found[:180], codes[:180]).score(found[180:], codes[180:])
    ours = float((linear(torch.from_numpy(found[180:])).argmax(1).numpy() == codes[180:]).mean())
    assert ours >= theirs - 0.04
    assert len(epochs) <= 60


def test_the_head_stops_when_the_validation_loss_rises(tmp_path, compute):
    _, epochs = head(tmp_path, Extraction(epochs=500, batch_size=32, learning_rate=0.05, patience=3), compute)
    losses = [epoch["validation_loss"] for epoch in epochs]
    assert len(losses) < 500
    assert min(losses) == min(losses[:-3])


# --- killed -----------------------------------------------------------------------------------------

RUN = """
import sys, os, signal
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
from penstock.config import Backbone, Compute, Extraction, Finetuning
from penstock.vision import backbone as backbones, training, module
from test_training import Paths, head

kill_after = int(os.environ.get("KILL_AFTER", "-1"))
draw = module.Curves._draw
def killing(self, epoch):
    # In the middle of an epoch's end: its checkpoint is not written yet, that of the epoch before is.
    if epoch["epoch"] == kill_after:
        os.kill(os.getpid(), signal.SIGKILL)
    draw(self, epoch)
module.Curves._draw = killing

compute = Compute(accelerator="cpu", devices=1, threads=1, workers=1)
folder = Path({folder!r})
if {phase!r} == "head":
    linear, epochs = head(folder / "checkpoints", Extraction(epochs=6, batch_size=32, patience=None), compute)
    torch.save(linear.state_dict(), folder / "head.pt")
else:
    training.prepare_torch(compute, 7)
    backbone = Backbone(name="test_efficientnet", weights="random", side=32)
    network = backbones.create(backbone, 3)
    settings = Finetuning(epochs=4, batch_size=8, unfreeze=2, ema=0.9, patience=10)
    paths = Paths(folder, Path({raw!r}), Path({split!r}))
    training.learn("finetune", network, settings, backbone, compute, seed=7, paths=paths, title="t")
"""


def started(
    folder: Path, raw: Path, split: Path, phase: str, kill_after: int
) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    script = folder.parent / f"{phase}_{folder.name}.py"
    script.write_text(
        RUN.format(
            tests=str(Path(__file__).parent), folder=str(folder), raw=str(raw), split=str(split), phase=phase
        )
    )
    return subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "KILL_AFTER": str(kill_after)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("phase", ["head", "finetune"])
def test_a_run_that_was_killed_goes_on_to_the_same_end(album, tmp_path, phase):
    raw, split = album()
    whole = started(tmp_path / "whole", raw, split, phase, -1)
    assert whole.returncode == 0, whole.stderr
    killed = started(tmp_path / "killed", raw, split, phase, 2)
    assert killed.returncode == -signal.SIGKILL
    again = started(tmp_path / "killed", raw, split, phase, -1)
    assert again.returncode == 0, again.stderr
    assert "goes on from its last whole epoch" in again.stderr
    result = "head.pt" if phase == "head" else "weights.safetensors"
    assert (tmp_path / "whole" / result).read_bytes() == (tmp_path / "killed" / result).read_bytes()
    if phase == "finetune":
        curves = [pl.read_csv(tmp_path / name / "curves.csv") for name in ("whole", "killed")]
        assert curves[0].equals(curves[1])
        live = [
            pl.read_csv(tmp_path / name / "live/plots/metrics/train_loss.tsv", separator="\t")
            for name in ("whole", "killed")
        ]
        assert live[0].equals(live[1])
        assert live[0].height == 4
        assert not list((tmp_path / "killed/checkpoints").glob("*"))


# --- many processes ---------------------------------------------------------------------------------

TOGETHER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from penstock.config import Backbone, Compute, Finetuning
from penstock.vision import backbone as backbones, training
from test_training import Paths

compute = Compute(accelerator="cpu", devices={devices}, strategy={strategy!r}, threads=1, workers=0)
training.prepare_torch(compute, 7)
backbone = Backbone(name="test_efficientnet", weights="random", side=32)
network = backbones.create(backbone, 3)
# Nothing that a process does by itself: statistics of a batch, mixing and dropout see its half alone.
settings = Finetuning(epochs=3, batch_size={batch}, unfreeze="all", batch_norm="frozen", mixup=0.0, dropout=0.0, ema=0.9)
paths = Paths(Path({folder!r}), Path({raw!r}), Path({split!r}))
training.learn("finetune", network, settings, backbone, compute, seed=7, paths=paths, title="t")
"""


def test_two_processes_learn_as_one_with_the_same_global_batch(album, tmp_path):
    raw, split = album()
    curves = []
    for name, devices, strategy, batch in (("one", 1, "auto", 8), ("two", 2, "ddp", 4)):
        script = tmp_path / f"{name}.py"
        script.write_text(
            TOGETHER.format(
                tests=str(Path(__file__).parent),
                devices=devices,
                strategy=strategy,
                batch=batch,
                folder=str(tmp_path / name),
                raw=str(raw),
                split=str(split),
            )
        )
        done = subprocess.run(
            [sys.executable, str(script)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        curves.append(pl.read_csv(tmp_path / name / "curves.csv"))
    for name in curves[0].columns:
        assert curves[0][name].to_numpy() == pytest.approx(curves[1][name].to_numpy(), rel=2e-4, abs=1e-6), (
            name
        )
    assert curves[0]["train_loss"][-1] < curves[0]["train_loss"][0]


def test_a_checkpoint_belongs_to_all_that_decides_the_result(settings, compute, tmp_path):
    rows = np.arange(4)
    same = [training.checkpoints(tmp_path, settings, compute, rows, "x") for _ in range(2)]
    assert same[0] == same[1]
    others = {
        training.checkpoints(tmp_path, settings.model_copy(update={"epochs": 9}), compute, rows, "x"),
        training.checkpoints(tmp_path, settings, compute, rows + 1, "x"),
        training.checkpoints(tmp_path, settings, compute, rows, "y"),
    }
    assert len(others - set(same)) == 3
    assert json.dumps(str(same[0]))
