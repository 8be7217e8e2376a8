"""images_report: one page out of the files of the other stages, the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from penstock.errors import PenstockError
from penstock.storage import write_json, write_text
from stages import images_report

FIGURES = dict.fromkeys(("top1", "topk", "top1_low", "top1_high", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "log_loss", "brier", "ece"), 0.7654)  # fmt: skip
GROUPS = (
    "card",
    "contract",
    "profile",
    "prepare",
    "extraction",
    "finetuning",
    "scratch",
    "compute",
    "scoring",
    "export",
)


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with what every run leaves behind, and some of what some leave."""
    monkeypatch.chdir(tmp_path)
    params = {
        "task": {"kind": "images"},
        "source": {"kind": "folder", "path": "x", "watch": "x"},
        "backbone": {"name": "resnet10t", "weights": "random", "side": 64},
        **{name: {} for name in GROUPS},
    }
    Path("params.yaml").write_text(
        yaml.safe_dump({"seed": 1, "names": [], "pictures": ["toy"], "datasets": {"toy": params}})
    )
    folder = Path("reports/toy")
    write_json(Path("models/toy/manifest.json"), {"classes": ["a", "b"]})
    write_json(folder / "evaluation.json", {"pictures": 40, "classes": 2, "finetune": FIGURES})
    write_text(folder / "evaluation/confusion.csv", "actual,predicted\na,a\na,b\nb,b\n")
    return folder


def test_page_is_written_and_repeats(reports: Path) -> None:
    before = {path for path in Path().rglob("*") if path.is_file()}
    images_report.main("toy")
    page = reports / "report.html"
    first = page.read_bytes()
    assert b"<title>toy: the model</title>" in first
    assert b"76.5%" in first
    assert b"Confusion matrix" in first
    assert {path for path in Path().rglob("*") if path.is_file()} - before == {page}
    images_report.main("toy")
    assert page.read_bytes() == first
    assert str(Path.cwd()).encode() not in first


def test_missing_evaluation_is_named(reports: Path) -> None:
    (reports / "evaluation.json").unlink()
    with pytest.raises(PenstockError, match=r"reports/toy/evaluation\.json: there is no such file"):
        images_report.main("toy")
    assert not (reports / "report.html").exists()
