"""ingest, images_split and images_profile on folders of pictures, through params.yaml."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image

from penstock.contract import QUARANTINE_SCHEMA
from penstock.errors import PenstockError
from stages import images_profile, images_split, ingest

Project = Callable[..., Path]
WORDS = dict.fromkeys(("title", "description", "source", "licence", "intended_use", "caveats"), "toy")
CLASSES = ("cat", "dog", "owl")
OUTPUTS = (
    "data/raw/pets.parquet",
    "data/quarantine/pets.parquet",
    "data/prepared/pets.parquet",
    "reports/pets/contract.json",
    "reports/pets/ingest.json",
    "reports/pets/split.json",
    "reports/pets/profile.json",
    "reports/pets/profile.html",
    "reports/pets/balance.csv",
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Make a project with twelve pictures of each class in folders, and go into it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENSTOCK_CORES", "2")

    def make(**contract: Any) -> Path:
        finetuning = {"unfreeze": "all"}
        dataset = {
            "card": WORDS,
            "task": {"kind": "images"},
            "source": {"kind": "folder", "path": "pets", "watch": "pets"},
            "contract": {"max_quarantine_share": 0.2} | contract,
            "profile": {"pictures_per_class": 4, "thumbnail": 16},
            "prepare": {},
            "backbone": {"name": "toy", "weights": "random", "side": 32},
            "extraction": {},
            "finetuning": finetuning,
            "scratch": finetuning,
            "compute": {},
            "scoring": {},
            "export": {},
        }
        Path("params.yaml").write_text(yaml.safe_dump({"seed": 1, "datasets": {"pets": dataset}}))
        draws = np.random.default_rng(0)
        for label in CLASSES:
            folder = Path("pets") / label
            folder.mkdir(parents=True)
            for at in range(12):
                cells = draws.integers(0, 256, (6, 7, 3), dtype=np.uint8)
                image = Image.fromarray(cells).resize((40 + at, 36), Image.Resampling.BICUBIC)
                image.save(folder / f"{at:02}.{'jpg' if at % 2 else 'png'}")
        return tmp_path

    return make


def run_all() -> None:
    ingest.main("pets")
    images_split.main("pets")
    images_profile.main("pets")


def test_from_folders_to_parts(project: Project) -> None:
    folder = project()
    pets = folder / "pets"
    (pets / "cat/00.png").write_bytes(b"no picture")
    (pets / "dog/03.jpg").write_bytes((pets / "dog/03.jpg").read_bytes()[:400])
    (pets / "owl/12.jpg").write_bytes((pets / "owl/01.jpg").read_bytes())
    Image.open(pets / "owl/05.jpg").resize((90, 72)).save(pets / "owl/13.jpg", quality=60)
    run_all()
    raw = pl.read_parquet(folder / "data/raw/pets.parquet")
    assert raw.group_by("label").len().sort("label").rows() == [("cat", 11), ("dog", 11), ("owl", 13)]
    quarantine = pl.read_parquet(folder / "data/quarantine/pets.parquet")
    assert quarantine.schema == QUARANTINE_SCHEMA
    assert [(row[0], row[2].split(":")[0]) for row in quarantine.iter_rows()] == [
        ("cat/00.png", "not_a_picture"),
        ("dog/03.jpg", "truncated"),
        ("owl/12.jpg", "duplicate"),
    ]
    assert json.loads((folder / "reports/pets/ingest.json").read_text()) == {
        "rows": 35,
        "quarantined": 3,
        "quarantined_share": 0.0789474,
        "reasons": {"duplicate": 1, "not_a_picture": 1, "truncated": 1},
        "rescaled": 0,
    }
    contract = json.loads((folder / "reports/pets/contract.json").read_text())
    assert contract["classes"] == {"cat": 11, "dog": 11, "owl": 13}
    assert contract["contract"]["max_quarantine_share"] == 0.2
    parts = pl.read_parquet(folder / "data/prepared/pets.parquet")
    assert parts["label"].to_list() == raw["label"].to_list()
    summary = json.loads((folder / "reports/pets/split.json").read_text())
    assert summary["pictures"] == {"train": 23, "validation": 3, "holdout": 9}
    assert summary["near_duplicates"] == {"groups": 1, "pictures": 2, "largest": 2, "across_classes": 0}
    alike = raw.with_row_index("row").filter(pl.col("source").is_in(["owl/05.jpg", "owl/13.jpg"]))["row"]
    assert parts.filter(pl.col("row").is_in(alike.implode()))["part"].n_unique() == 1
    balance = (folder / "reports/pets/balance.csv").read_text()
    assert balance == "class,pictures\ncat,11\ndog,11\nowl,13\n"
    assert (folder / "reports/pets/profile.html").read_text().count("data:image/jpeg;base64,") == 3


def test_the_same_pictures_give_the_same_bytes(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = project(stored_side=20)
    run_all()
    first = {name: (folder / name).read_bytes() for name in OUTPUTS}
    monkeypatch.setenv("PENSTOCK_CORES", "1")
    run_all()
    assert {name: (folder / name).read_bytes() for name in OUTPUTS} == first
    assert pl.read_parquet(folder / OUTPUTS[0])["height"].unique().to_list() == [20]


def test_nothing_says_where_it_was_made(project: Project) -> None:
    folder = project()
    run_all()
    for name in OUTPUTS:
        assert str(folder).encode() not in (folder / name).read_bytes()


def test_too_many_bad_pictures_fail_the_stage(project: Project) -> None:
    folder = project()
    for path in sorted((folder / "pets/cat").iterdir())[:8]:
        path.write_bytes(b"")
    with pytest.raises(PenstockError, match=r"8 of 36 rows \(22\.22%\)(?s:.*)8 × empty"):
        ingest.main("pets")
    assert pl.read_parquet(folder / "data/quarantine/pets.parquet").height == 8
    assert not (folder / "data/raw").exists() or not list((folder / "data/raw").iterdir())


@pytest.mark.parametrize("stage", [images_split, images_profile])
def test_a_stage_without_its_input_says_so(project: Project, stage: Any) -> None:
    project()
    with pytest.raises(PenstockError, match=r"there is no such file\n.*dvc repro"):
        stage.main("pets")


def test_neither_kind_imports_what_only_the_other_needs() -> None:
    """Tables stay without Pillow, and none of these stages waits for torch."""
    script = (
        "import sys\n"
        "import stages.ingest\n"
        "assert 'PIL' not in sys.modules\n"
        "import stages.images_split, stages.images_profile, penstock.sources.pictures, penstock.sources.npm\n"
        "print(*sorted({'torch', 'timm', 'pandas', 'sklearn', 'scipy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
