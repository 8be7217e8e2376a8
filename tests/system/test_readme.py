"""What the README tells a person to type works as it stands there, on data that the repository does not know."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml

from penstock import composition

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(heading: str, language: str) -> list[str]:
    """The code blocks of a language under a heading."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)


@pytest.fixture
def wine(fresh_clone, tmp_path):
    """A fresh clone, and in the home of its user a table of 178 wines from three growers."""
    from sklearn.datasets import load_wine

    found = load_wine(as_frame=True)
    frame = found.frame.rename(columns={"target": "quality"})
    frame["quality"] = frame["quality"].map({0: "fine", 1: "fair", 2: "poor"})
    home = tmp_path / "home"
    home.mkdir()
    frame.to_csv(home / "wine.csv", index=False)
    return fresh_clone(), home


def test_a_data_set_from_csv_to_metrics_as_the_readme_says(wine):
    clone, home = wine
    commands = blocks("Your own data", "sh")[0]
    assert len(commands.strip().splitlines()) < 15
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=clone.root,
        env={**clone.environment, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((clone.root / "reports/wine/evaluation.json").read_text())
    assert metrics["accuracy"] > 0.9
    assert "evaluation.json" in done.stdout
    assert (clone.root / "reports/wine/report.html").is_file()
    snippet = blocks("The model, from ten lines of plain onnxruntime", "python")[0]
    answer = clone.run(sys.executable, "-c", snippet.replace("models/churn", "models/wine")).stdout.split()
    assert answer[0] in {"fine", "fair", "poor"}
    assert 0 <= float(answer[1]) <= 1


def test_a_folder_of_pictures_to_labels_as_the_readme_says(fresh_clone, tmp_path):
    """Two photographs cut into pieces are two classes that a network tells apart."""
    import skimage.data
    from PIL import Image

    clone, home = fresh_clone(), tmp_path / "home"
    for label, photo in (("cat", skimage.data.cat()), ("coffee", skimage.data.coffee())):
        for number in range(24):
            top, left = 20 * (number // 6), 30 * (number % 6)
            folder = home / ("new_leaves" if number >= 20 else f"leaves/{label}")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo[top : top + 160, left : left + 160]).save(folder / f"{label}{number}.png")
    commands = blocks("Your own data", "sh")[1]
    # A smaller network input, for speed; all else is as a user would have it.
    commands = commands.replace(
        "penstock params", "sed -i 's/side: 224/side: 64/' conf/dataset/leaves.yaml\npenstock params"
    )
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=clone.root,
        env={**clone.environment, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    labels = pl.read_csv(clone.root / "labels.csv")
    assert labels.height == 8
    told = [
        path.rsplit("/")[-1].startswith(label) for path, label in labels.select("path", "label").iter_rows()
    ]
    assert sum(told) >= 7
    assert (clone.root / "reports/leaves/report.html").is_file()
    photo = home / "new_leaves/cat20.png"
    snippet = blocks("The model, from ten lines of plain onnxruntime", "python")[1]
    snippet = snippet.replace("models/images", "models/leaves").replace("photo.jpg", str(photo))
    label, probability = clone.run(sys.executable, "-c", snippet).stdout.split()
    assert label == "cat"
    assert float(probability) > 0.5


def test_the_smallest_data_set_of_the_readme_composes(fresh_clone):
    clone = fresh_clone()
    (clone.root / "conf/dataset/wine.yaml").write_text(blocks("Your own data", "yaml")[0])
    params = yaml.safe_load(composition.compose(clone.root, ["dataset=wine"]))
    assert params["names"] == ["wine"]


def test_the_snippet_has_ten_lines():
    snippet = blocks("The model, from ten lines of plain onnxruntime", "python")[0]
    assert (
        len([line for line in snippet.splitlines() if line and not line.startswith(("import ", " "))]) <= 10
    )


def test_every_sweep_of_the_readme_composes():
    for command in re.findall(r"dvc exp run (.*)", "\n".join(blocks("Sweep and compare", "sh"))):
        overrides = [
            quoted or plain for quoted, plain in re.findall(r"-S (?:'([^']+)'|(\S+))", command.split("#")[0])
        ]
        first = [re.sub(r"^(sampler@[^=]+=)([^,\[]+),.*", r"\1\2", override) for override in overrides]
        assert composition.compose(ROOT, first)


def test_the_loads_of_the_readme_run_and_run_again(fresh_clone):
    clone = fresh_clone()
    commands = blocks("Loading data", "sh")[0]
    for _ in range(2):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=clone.root,
            env=clone.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    # The second time nothing is new.
    assert re.search(r"ratings: \d+ rows read, 0 new, 0 changed", done.stderr)
    assert "flights: 0 rows read" in done.stderr
    rows = pl.scan_parquet(clone.root / "data/lake/ratings/**/*.parquet").collect()
    assert rows.select("user_id", "film_id").is_unique().all()
    assert rows.height == 100_004
    assert clone.run("git", "status", "--porcelain").stdout == ""


def test_the_load_that_the_readme_shows_is_one():
    from penstock.config.loading import Load

    (text,) = blocks("Loading data", "yaml")
    assert Load.model_validate(yaml.safe_load(text)).write == "merge"
