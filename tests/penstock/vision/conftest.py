"""A few real pictures as the graph keeps them, small networks, and settings that are done in seconds."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from penstock.config import Backbone, Compute, Finetuning

CLASSES = ("blue", "green", "red")
SIDE = 32


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def backbone() -> Backbone:
    return Backbone(name="test_efficientnet", weights="random", side=SIDE)


@pytest.fixture
def compute() -> Compute:
    return Compute(accelerator="cpu", devices=1, threads=1, workers=0)


@pytest.fixture
def settings() -> Finetuning:
    return Finetuning(epochs=3, batch_size=8, unfreeze=2, ema=0.9)


def picture(code: int, seed: int, side: int = 24) -> bytes:
    """A noisy picture in which one channel is the brightest, as PNG."""
    random = np.random.default_rng([code, seed])
    pixels = random.integers(0, 150, (side, side, 3), dtype=np.uint8)
    pixels[..., 2 - code] += 90
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def album(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Write pictures and their split, and return both paths."""

    def make(per_class: int = 20) -> tuple[Path, Path]:
        raw, split = tmp_path / "raw.parquet", tmp_path / "split.parquet"
        labels = [label for label in CLASSES for _ in range(per_class)]
        content = [picture(code, number) for code in range(len(CLASSES)) for number in range(per_class)]
        pl.DataFrame({"picture": content, "label": labels}).write_parquet(raw)
        parts = np.resize(np.array(["train", "train", "train", "validation", "holdout"]), len(labels))
        rows = pl.Series("row", np.arange(len(labels)), dtype=pl.UInt32)
        pl.DataFrame({"row": rows, "label": labels, "part": parts, "group": rows}).write_parquet(split)
        return raw, split

    return make


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    import torch

    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(deterministic)
