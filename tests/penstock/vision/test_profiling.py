"""What is counted of pictures, and what of it is worth a warning."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from penstock.config import ImageProfile, PictureContract
from penstock.sources.pictures import Found, Stream
from penstock.vision.ingestion import ingest
from penstock.vision.profiling import profile

SOUND = {"quarantined": 0, "reasons": {}, "rescaled": 0}


def picture(seed: int, level: float = 128.0, size: tuple[int, int] = (24, 20), spread: float = 30.0) -> bytes:
    draws = np.random.default_rng(seed).normal(level, spread, (size[1], size[0], 3))
    file = io.BytesIO()
    Image.fromarray(draws.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def described(
    folder: Path, pictures: list[tuple[str, bytes]], ingested: dict[str, Any] = SOUND, **settings: int
) -> tuple[dict[str, Any], dict[str, bytes]]:
    found = [Found(content, label, "x", at) for at, (label, content) in enumerate(pictures)]
    ingest(
        Stream(len(found), iter(found)),
        PictureContract(duplicates="keep"),
        raw=folder / "raw.parquet",
        quarantine=folder / "bad.parquet",
    )
    return profile(folder / "raw.parquet", ingested, ImageProfile(**settings))


def test_every_class_is_counted_measured_and_shown(tmp_path: Path) -> None:
    pictures = [("owl" if at % 4 else "cat", picture(at, 80.0)) for at in range(100)]
    found, sheets = described(tmp_path, pictures, pictures_per_class=30, thumbnail=16)
    assert found["pictures"] == 100
    assert {label: (one["count"], one["share"]) for label, one in found["classes"].items()} == {
        "cat": (25, 0.25),
        "owl": (75, 0.75),
    }
    assert found["classes"]["cat"]["brightness"] == pytest.approx(80, abs=1)
    assert found["classes"]["owl"]["contrast"] == pytest.approx(20, abs=2)  # grey is a mean of three channels
    assert found["sizes"]["top"] == [[24, 20, 100]]
    assert found["sizes"]["shorter"] == {"min": 20, "median": 20.0, "max": 20}
    assert found["warnings"] == []
    shapes = {label: Image.open(io.BytesIO(sheet)).size for label, sheet in sheets.items()}
    # 12 to a row: 25 pictures need three rows, and so do 30 of the 75.
    assert shapes == {"cat": (12 * 18 - 2, 3 * 18 - 2), "owl": (12 * 18 - 2, 3 * 18 - 2)}


def test_what_gives_a_class_away_is_a_warning(tmp_path: Path) -> None:
    dark = [("cat", picture(at, 60.0, (24, 20))) for at in range(30)]
    light = [("owl", picture(at, 180.0, (30, 20))) for at in range(30, 60)]
    found, _ = described(tmp_path, dark + light)
    assert found["brightness_explained"] > 0.9
    assert found["by_size"] == pytest.approx(58 / 60)
    size, light_of_it = found["warnings"]
    assert size.startswith(
        "The size of a picture gives its class away in 97% of them, where a guess gets 50%"
    )
    assert light_of_it.startswith("The class explains 100% of the differences in brightness")


def test_sizes_that_occur_once_give_nothing_away(tmp_path: Path) -> None:
    pictures = [("cat" if at % 2 else "owl", picture(at, size=(20 + at, 20))) for at in range(40)]
    found, _ = described(tmp_path, pictures)
    assert found["by_size"] == 0
    assert found["sizes"]["distinct"] == 40
    assert len(found["sizes"]["top"]) == 10


def test_few_uneven_flat_and_quarantined_pictures_are_warnings(tmp_path: Path) -> None:
    pictures = [("cat", picture(at)) for at in range(50)] + [("owl", picture(at)) for at in range(50, 54)]
    pictures.append(("cat", picture(99, spread=0.0)))
    found, _ = described(
        tmp_path, pictures, {"quarantined": 3, "reasons": {"duplicate": 2, "empty": 1}, "rescaled": 0}
    )
    assert found["flat"] == ["x, number 54"]
    assert found["warnings"] == [
        "Classes of fewer than 20 pictures, of which little can be learnt: owl (4).",
        "cat has 51 pictures, owl 4: consider imbalance: class_weight or balanced_sampler.",
        "Of one colour, showing nothing: 1 of 55 pictures (x, number 54).",
        "3 pictures are in quarantine: 2 × duplicate, 1 × empty.",
    ]


def test_pictures_of_another_contract_are_seen_too(tmp_path: Path) -> None:
    tiny = [("cat" if at % 2 else "owl", picture(at, size=(4, 4))) for at in range(8)]
    found = [Found(content, label, "x", at) for at, (label, content) in enumerate(tiny)]
    contract = PictureContract(min_side=2)
    ingest(
        Stream(8, iter(found)), contract, raw=tmp_path / "raw.parquet", quarantine=tmp_path / "bad.parquet"
    )
    assert profile(tmp_path / "raw.parquet", SOUND, ImageProfile())[0]["pictures"] == 8
