"""What the picture path claims, side by side: kept features, waiting for data, int8, onnxruntime and torch.

    python benchmarks/images.py [--dataset images]

Needs a built graph (`dvc repro`). Each ratio is of medians of interleaved runs in this one process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import lightning  # noqa: E402
import torch  # noqa: E402

import stages  # noqa: E402, F401  (pins threads before NumPy is imported)
from penstock.artifact.picture_model import load  # noqa: E402
from penstock.config import Compute, Extraction, ImageFinetuneView, load_view  # noqa: E402
from penstock.vision import backbone as backbones  # noqa: E402
from penstock.vision import training  # noqa: E402
from penstock.vision.data import Pictures, evaluation_loader, read_album, read_split  # noqa: E402
from stages.layout import ImageLayout  # noqa: E402

ROUNDS = 60


def interleaved(runs: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each, run in turn so that what else the machine does hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 5):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found[5:]) for name, found in times.items()}


def kept_features(dataset: str, view: ImageFinetuneView) -> None:
    """An epoch of phase one on kept features, against one that computes them anew."""
    layout = ImageLayout(dataset)
    album, split = read_album(layout.raw), read_split(layout.split)
    rows = split.parts["train"][:512]
    network = backbones.create(view.backbone, None)
    start = time.perf_counter()
    features = training.extract(network, album, view.backbone, rows, view.compute, mirrored=False)
    anew = time.perf_counter() - start
    codes = split.codes[rows]
    folder = training.checkpoints(layout.checkpoints("benchmark"), view)
    times = []
    for epochs in (5, 5, 55):  # the first for what is imported on the way
        settings = Extraction(epochs=epochs, patience=None)
        start = time.perf_counter()
        training.fit_head(
            (features, codes),
            (features, codes),
            settings,
            view.compute,
            classes=len(split.classes),
            seed=1,
            folder=folder,
        )
        times.append(time.perf_counter() - start)
        training.remove(folder)
    kept = (times[2] - times[1]) / 50
    print(
        f"an epoch of the head on {len(rows)} pictures: features anew {anew:.2f} s, kept {kept:.3f} s "
        f"with validation and checkpoint: {(anew + kept) / kept:.0f} × (aim: 10 ×)"
    )


class Clock(lightning.Callback):
    """Seconds in steps and between them."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.steps: list[float] = []
        self._at: float | None = None

    def on_train_batch_start(self, *_: Any) -> None:
        now = time.perf_counter()
        if self._at is not None:
            self.waits.append(now - self._at)
        self._at = now

    def on_train_batch_end(self, *_: Any) -> None:
        now = time.perf_counter()
        assert self._at is not None
        self.steps.append(now - self._at)
        self._at = now

    def on_train_epoch_start(self, *_: Any) -> None:
        self._at = None


def data_wait(dataset: str, view: ImageFinetuneView) -> None:
    """How long a step of phase two waits for its pictures."""
    layout = ImageLayout(dataset)
    network, _ = backbones.load(layout.weights("head"), view.backbone)
    clock = Clock()
    settings = view.finetuning.model_copy(update={"epochs": 3})
    folder = training.checkpoints(layout.checkpoints("benchmark"), view, "wait")
    training.finetune(
        network,
        read_album(layout.raw),
        read_split(layout.split),
        view.backbone,
        settings,
        view.compute,
        seed=1,
        folder=folder,
        callbacks=[clock],
    )
    training.remove(folder)
    wait, step = sum(clock.waits), sum(clock.steps)
    print(
        f"fine-tuning, {view.compute.workers} worker(s): {step / len(clock.steps) * 1e3:.0f} ms a step of "
        f"{settings.batch_size} pictures, of which waiting for data comes to {wait / (wait + step):.1%} (aim: < 10 %)"
    )


def one_picture(dataset: str, view: ImageFinetuneView) -> None:
    """Batch 1: torch eager, onnxruntime fp32, onnxruntime int8; all from the same pixels."""
    layout = ImageLayout(dataset)
    album, split = read_album(layout.raw), read_split(layout.split)
    network, _ = backbones.load(layout.weights("finetune"), view.backbone)
    preprocess = backbones.preprocess(view.backbone, network)
    pixels = album.pixels(int(split.parts["holdout"][0]))
    threads = view.compute.threads
    models = {name: load(layout.model, name, threads=threads) for name in ("fp32", "int8")}  # type: ignore[arg-type]
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]

    def eager() -> None:
        with torch.inference_mode():
            network(preprocess(batch).contiguous(memory_format=torch.channels_last)).softmax(1)

    runs: dict[str, Callable[[], Any]] = {"torch": eager}
    runs |= {name: lambda model=model: model.predict([pixels]) for name, model in models.items()}
    found = interleaved(runs)
    print(
        f"one picture, {threads} threads: torch eager {found['torch'] * 1e3:.2f} ms, onnxruntime fp32 "
        f"{found['fp32'] * 1e3:.2f} ms ({found['torch'] / found['fp32']:.1f} ×, aim: ≥ 1), int8 "
        f"{found['int8'] * 1e3:.2f} ms ({found['fp32'] / found['int8']:.2f} × fp32, aim: ≥ 1.5)"
    )


def layout_and_memory(dataset: str, view: ImageFinetuneView) -> None:
    """Features of a batch in torch's default layout, and in the one that is used here."""
    layout = ImageLayout(dataset)
    album, split = read_album(layout.raw), read_split(layout.split)
    network = backbones.create(view.backbone, None).eval()
    preprocess = backbones.preprocess(view.backbone, network)
    loader = evaluation_loader(
        Pictures(album, split.parts["train"][:64], split.codes, preprocess), batch=64, workers=0
    )
    prepared = preprocess.normalise(next(iter(loader))[0])
    plain = backbones.create(view.backbone, None).eval().to(memory_format=torch.contiguous_format)
    last = prepared.contiguous(memory_format=torch.channels_last)

    def run(which: Any, batch: torch.Tensor) -> Callable[[], None]:
        def features() -> None:
            with torch.inference_mode():
                backbones.features(which, batch)

        return features

    found = interleaved({"plain": run(plain, prepared), "last": run(network, last)}, rounds=10)
    print(f"features of 64 pictures: channels last {found['plain'] / found['last']:.1f} × the default layout")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="images")
    dataset = parser.parse_args().dataset
    os.chdir(ROOT)
    view = load_view(ImageFinetuneView, dataset)
    compute: Compute = view.compute
    training.prepare_torch(compute, view.seed)
    print(f"{dataset}: {view.backbone.name} at {view.backbone.side} px, {compute.threads} threads")
    layout_and_memory(dataset, view)
    kept_features(dataset, view)
    data_wait(dataset, view)
    one_picture(dataset, view)


if __name__ == "__main__":
    main()
