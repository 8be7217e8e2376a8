"""profile: a file to compare, a page to look at, and both say the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from penstock.config import Column
from stages import profile

Project = Callable[..., Path]


@pytest.fixture
def profiled(project: Project) -> Path:
    folder = project(profile={"leak_score": 0.9})
    random = np.random.default_rng(0)
    target = random.choice(["yes", "no"], 100)
    raw = pl.DataFrame(
        {"a": random.normal(size=100), "leak": np.where(target == "yes", "left", "stayed"), "t": target}
    )
    (folder / "data/raw").mkdir(parents=True)
    raw.write_parquet(folder / "data/raw/toy.parquet")
    kinds = {"a": "number", "leak": "category", "t": "category"}
    contract = {name: Column(type=kind).model_dump() for name, kind in kinds.items()}
    (folder / "reports/toy").mkdir(parents=True)
    (folder / "reports/toy/contract.json").write_text(json.dumps(contract))
    profile.main("toy")
    return folder / "reports/toy"


def test_the_file_describes_every_column_and_names_what_is_suspect(profiled: Path) -> None:
    found = json.loads((profiled / "profile.json").read_text())
    assert found["rows"] == 100
    assert list(found["columns"]) == ["a", "leak", "t"]
    assert found["leak_suspects"] == ["leak"]


def test_the_page_shows_the_warnings_and_needs_no_network(profiled: Path) -> None:
    page = (profiled / "profile.html").read_text()
    assert "leak alone foretells t" in page
    assert 'src="http' not in page
    assert 'href="http' not in page


def test_the_same_table_gives_the_same_bytes(profiled: Path) -> None:
    names = ("profile.json", "profile.html")
    first = [(profiled / name).read_bytes() for name in names]
    profile.main("toy")
    assert [(profiled / name).read_bytes() for name in names] == first
