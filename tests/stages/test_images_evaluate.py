"""images_evaluate: the figures of answers that are known, in files that repeat to the byte."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image

from penstock.config import Backbone
from penstock.errors import PenstockError
from penstock.storage import read_json, write_parquet
from penstock.vision import backbone as backbones
from penstock.vision.corruptions import KINDS
from stages import images_evaluate

CLASSES = ("blue", "green", "red")
HOLDOUT, VALIDATION, ROWS = 60, 30, 120
TINY = {"name": "test_resnet", "weights": "random", "side": 32}


def _encoded(code: int, draws: np.random.Generator) -> bytes:
    pixels = draws.integers(0, 90, (20, 24, 3), dtype=np.uint8)
    pixels[..., 2 - code] += 120  # blue, green, red
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@dataclass
class ByColour:
    """An artefact that takes the strongest colour for the class, and every seventh picture for the next one."""

    manifest: Any
    wrong_every: int = 7
    seen: int = 0

    def predict(self, pictures: Sequence[Any]) -> tuple[Any, Any]:
        probabilities = []
        for pixels in pictures:
            assert pixels.dtype == np.uint8
            assert pixels.shape[2] == 3
            code = 2 - int(pixels.mean(axis=(0, 1)).argmax())
            wrong = self.wrong_every and self.seen % self.wrong_every == 0
            row = np.full(3, 0.1, dtype=np.float32)
            row[(code + 1) % 3 if wrong else code] = 0.8
            probabilities.append(row)
            self.seen += 1
        found = np.stack(probabilities)
        return [CLASSES[code] for code in found.argmax(axis=1)], found


def _logits(codes: Any, right: float, draws: np.random.Generator) -> Any:
    """Of which a share of ``right`` is right; overconfident."""
    chosen = np.where(draws.uniform(size=len(codes)) < right, codes, (codes + 1) % 3)
    return (9.0 * np.eye(3)[chosen]).astype(np.float32)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make a project of pictures up to the evaluation, and go into its folder."""
    monkeypatch.chdir(tmp_path)

    def made(*, quantise: bool = True, backbone: dict[str, Any] = TINY, **scoring: Any) -> None:
        manifest = SimpleNamespace(classes=CLASSES, temperature=2.5, int8=object() if quantise else None)

        def loaded(folder: Path, variant: str = "fp32") -> ByColour:
            assert folder == Path("models/toy")
            return ByColour(manifest, 7 if variant == "fp32" else 5)

        monkeypatch.setattr(images_evaluate, "load", loaded)
        draws = np.random.default_rng(0)
        codes = np.arange(ROWS) % 3
        labels = [CLASSES[code] for code in codes]
        part = np.array(["train"] * ROWS, dtype=object)
        order = draws.permutation(ROWS)
        part[order[:HOLDOUT]], part[order[HOLDOUT : HOLDOUT + VALIDATION]] = "holdout", "validation"
        raw = pl.DataFrame(
            {
                "picture": [_encoded(code, draws) for code in codes],
                "source": [f"{row}.png" for row in range(ROWS)],
                "label": labels,
            }
        )
        split = pl.DataFrame(
            {"row": pl.Series(range(ROWS), dtype=pl.UInt32), "label": labels, "part": part.tolist()}
        )
        write_parquet(Path("data/raw/toy.parquet"), raw)
        write_parquet(Path("data/prepared/toy.parquet"), split)
        judged = split.filter(pl.col("part") != "train").with_columns(pl.col("row"))
        for phase, right in (("scratch", 0.4), ("head", 0.75), ("finetune", 0.85)):
            logits = _logits(codes[judged["row"]], right, draws)
            answers = judged.with_columns(pl.Series("logits", logits, dtype=pl.Array(pl.Float32, 3)))
            # As the training writes them: the validation part first.
            write_parquet(
                Path(f"data/predictions/toy_{phase}.parquet"), answers.sort("part", descending=True)
            )
        params = {
            "task": {"kind": "images"},
            "card": {},
            "source": {"kind": "folder", "path": "x", "watch": "x"},
            "backbone": backbone,
            "scoring": {"corrupted": 10, "explained": 4, "wrong": 5, "top": 2, **scoring},
            "export": {},
        } | {
            name: {}
            for name in ("contract", "profile", "prepare", "extraction", "finetuning", "scratch", "compute")
        }
        Path("params.yaml").write_text(
            yaml.safe_dump({"seed": 1, "names": [], "pictures": ["toy"], "datasets": {"toy": params}})
        )
        network = backbones.create(Backbone.model_validate(backbone), 3)
        backbones.save(Path("models/toy/finetune.safetensors"), network, CLASSES)

    return made


def _table(name: str) -> pl.DataFrame:
    return pl.read_csv(f"reports/toy/evaluation/{name}.csv")


def test_figures_are_those_of_the_answers(make: Callable[..., None]) -> None:
    make()
    images_evaluate.main("toy")
    found = read_json(Path("reports/toy/evaluation.json"))
    assert (found["pictures"], found["classes"]) == (HOLDOUT, 3)
    wrong = -(-HOLDOUT // 7)
    assert found["finetune"]["top1"] == pytest.approx(1 - wrong / HOLDOUT, abs=1e-6)
    assert found["int8"]["top1"] == pytest.approx(1 - 12 / HOLDOUT, abs=1e-6)
    assert found["scratch"]["top1"] < found["head"]["top1"] < found["finetune"]["top1"]
    assert found["finetune"]["top1_low"] < found["finetune"]["top1"] < found["finetune"]["top1_high"]
    # The artefact says 0.8 of everything, and is right in 51 of 60.
    assert found["finetune"]["ece"] == pytest.approx(abs(0.8 - 51 / 60), abs=1e-6)
    assert found["finetune"]["ece_uncalibrated"] > found["finetune"]["ece"]
    for phase in ("scratch", "head"):
        assert found[phase]["temperature"] > 1.5
    assert found["finetune"]["temperature"] == 2.5
    assert "temperature" not in found["int8"]
    against = found["differences"]["finetune_scratch"]
    assert against["p"] < 0.001
    assert 0 < against["low"] < against["difference"] < against["high"]
    assert set(found["differences"]) == {"finetune_head", "finetune_scratch", "head_scratch", "int8_finetune"}


def test_tables_say_the_same(make: Callable[..., None]) -> None:
    make()
    images_evaluate.main("toy")
    found = read_json(Path("reports/toy/evaluation.json"))
    confusion = _table("confusion")
    assert confusion.height == HOLDOUT
    right = (confusion["actual"] == confusion["predicted"]).mean()
    assert right == pytest.approx(found["finetune"]["top1"], abs=1e-6)
    assert _table("per_class")["support"].sum() == HOLDOUT
    assert _table("phases")["phase"].to_list() == ["scratch", "head", "finetune", "int8"]
    assert set(_table("calibration")["temperature"]) == {"before", "after"}
    corruption = _table("corruption")
    assert corruption.row(0)[:2] == ("none", 0)
    assert corruption.height == 1 + 3 * len(KINDS)
    assert found["corrupted"]["none"] == pytest.approx(corruption["top1"][0])


def test_sheets_show_what_their_tables_list(make: Callable[..., None]) -> None:
    make()
    images_evaluate.main("toy")
    wrong, explained = _table("wrong"), _table("explained")
    assert wrong.height == 5
    assert (wrong["label"] != wrong["predicted"]).all()
    raw = pl.read_parquet("data/raw/toy.parquet")
    for row in wrong.iter_rows(named=True):
        assert raw.row(row["row"], named=True)["source"] == row["source"]
        assert raw.row(row["row"], named=True)["label"] == row["label"]
    assert explained.height == 4
    assert explained["row"].to_list()[:2] == wrong["row"].to_list()[:2]
    with Image.open("reports/toy/wrong.jpg") as sheet:
        assert sheet.size == (5 * 98 - 2, 96)
    with Image.open("reports/toy/explained.jpg") as sheet:
        assert sheet.size == (8 * 130 - 2, 128)


def test_repeats_to_the_byte(make: Callable[..., None]) -> None:
    make()
    images_evaluate.main("toy")
    first = {path: path.read_bytes() for path in Path("reports").rglob("*") if path.is_file()}
    images_evaluate.main("toy")
    assert {path: path.read_bytes() for path in Path("reports").rglob("*") if path.is_file()} == first


def test_without_int8_corruptions_and_explanations(make: Callable[..., None]) -> None:
    make(quantise=False, corrupted=0, explained=0)
    Path("models/toy/finetune.safetensors").unlink()  # not needed
    images_evaluate.main("toy")
    found = read_json(Path("reports/toy/evaluation.json"))
    assert not {"int8", "corrupted"} & set(found)
    assert (_table("corruption").height, _table("explained").height) == (0, 0)
    assert Path("reports/toy/explained.jpg").is_file()


def test_network_of_tokens_has_no_map_and_is_no_error(
    make: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    make(backbone={**TINY, "name": "test_vit"}, corrupted=0)
    images_evaluate.main("toy")
    assert _table("explained").height == 0
    assert "has no map of features" in capsys.readouterr().err


def test_answers_of_another_split_are_refused(make: Callable[..., None]) -> None:
    make()
    path = Path("data/predictions/toy_head.parquet")
    frame = pl.read_parquet(path)
    write_parquet(path, frame.filter(pl.col("row") != frame.filter(pl.col("part") == "holdout")["row"][0]))
    with pytest.raises(PenstockError, match=r"toy_head\.parquet: its hold-out is not that of the split"):
        images_evaluate.main("toy")
    assert not Path("reports/toy/evaluation.json").exists()


def test_answers_of_other_classes_are_refused(make: Callable[..., None]) -> None:
    make()
    path = Path("data/predictions/toy_scratch.parquet")
    frame = pl.read_parquet(path)
    two = pl.Series("logits", frame["logits"].to_numpy()[:, :2], dtype=pl.Array(pl.Float32, 2))
    write_parquet(path, frame.with_columns(two))
    with pytest.raises(PenstockError, match="expected 3 for each picture, found 2"):
        images_evaluate.main("toy")


def test_class_that_the_model_lacks_is_named(make: Callable[..., None]) -> None:
    make()
    path = Path("data/raw/toy.parquet")
    write_parquet(path, pl.read_parquet(path).with_columns(label=pl.col("label").replace("red", "pink")))
    with pytest.raises(PenstockError, match="the class 'pink', which the model lacks"):
        images_evaluate.main("toy")
