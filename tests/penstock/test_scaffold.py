"""A draft for a user's file composes, validates, and lets every row of that file through."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from penstock import config, contract, sources
from penstock.composition import compose
from penstock.config import FileSource
from penstock.errors import PenstockError
from penstock.scaffold import infer, infer_interactions, infer_pictures

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def shop(rows: int = 60) -> pl.DataFrame:
    random = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "customer_id": [f"c{i:04}" for i in range(rows)],
            "age": random.integers(18, 80, rows),
            "spent": random.normal(0, 100, rows).round(2),
            "vip": random.integers(0, 2, rows),
            "since": [dt.date(2020, 1, 1) + dt.timedelta(days=int(i)) for i in random.integers(0, 900, rows)],
            "country": random.choice(["NO", "SE", "DK"], rows),
            "city": [f"town {i % 45}" for i in range(rows)],
            "remark": [f"remark number {i}" for i in range(rows)],
            "left": ["yes"] * 20 + ["no"] * (rows - 20),
        }
    )


def drafted(path: str, target: str | None = None) -> dict:
    return yaml.safe_load(infer(Path(path), "shop", target))


def test_a_csv_becomes_a_data_set():
    shop().write_csv("shop.csv")
    assert drafted("shop.csv", "left") == {
        "defaults": ["/base/binary@_here_", "_self_"],
        "card": {"title": "Shop"},
        "task": {"target": "left", "positive": "yes", "ids": ["customer_id"]},
        "source": {"path": "shop.csv"},
        "contract": {
            "others": "forbid",
            "columns": {
                "customer_id": {"type": "text", "unique": True},
                "age": {"type": "integer", "min": 0, "max": 140},
                "spent": {"type": "number", "min": -650, "max": 630},
                "vip": {"type": "integer", "min": 0, "max": 1},
                "since": {"type": "date"},
                "country": {"type": "category", "values": ["DK", "NO", "SE"]},
                "city": {"type": "category"},
                "remark": {"type": "text"},
                "left": {"type": "category", "values": ["no", "yes"]},
            },
        },
    }


def test_the_draft_composes_and_every_row_keeps_its_contract(tmp_path):
    for name in ("conf", "hydra_plugins"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "data").mkdir()
    shop().write_csv("data/shop.csv", separator=";", null_value="NA")
    (tmp_path / "conf/dataset/shop.yaml").write_text(infer(Path("data/shop.csv"), "shop", "left"))
    (tmp_path / "params.yaml").write_text(compose(tmp_path, ["dataset=shop"]))
    view = config.load_view(config.IngestView, "shop")
    table = sources.read(view.source)
    columns = contract.complete(view.contract, table.frame, source=table.name)
    checked = contract.check(table.frame, columns, source=table.source, position=table.position)
    assert checked.bad["reason"].to_list() == []
    assert checked.good.height == 60


@pytest.mark.parametrize(
    ("target", "base", "positive"),
    [
        ([True] * 40 + [False] * 20, "binary", True),
        ([0] * 40 + [1] * 20, "binary", 1),
        (["stay"] * 40 + ["go"] * 20, "binary", "go"),
        ([0.5] * 40 + [1.5] * 20, "binary", 1.5),
        (["a", "b", "c"] * 20, "multiclass", None),
        ([1, 2, 3, 4] * 15, "multiclass", None),
        (list(range(100, 160)), "regression", None),
        ([i / 7 for i in range(60)], "regression", None),
    ],
)
def test_the_task_follows_from_the_target(target, base, positive):
    shop().with_columns(left=pl.Series(target)).write_parquet("shop.parquet")
    found = drafted("shop.parquet", "left")
    assert found["defaults"][0] == f"/base/{base}@_here_"
    assert found["task"].get("positive") == positive
    assert type(found["task"].get("positive")) is type(positive)


@pytest.mark.parametrize(
    ("target", "wanted", "positive"),
    [
        (["stay"] * 40 + ["go"] * 20, "stay", "stay"),
        ([True] * 40 + [False] * 20, "false", False),
        ([0, 1] * 30, "0", 0),
    ],
)
def test_the_positive_class_can_be_named_in_words(target, wanted, positive):
    shop().with_columns(left=pl.Series(target)).write_parquet("shop.parquet")
    found = yaml.safe_load(infer(Path("shop.parquet"), "shop", "left", wanted))["task"]["positive"]
    assert (found, type(found)) == (positive, type(positive))


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("left", r"'left' has no class 'maybe'\n.*it has 'yes' and 'no'"),
        ("country", r"3 different values; a positive class is one of two"),
    ],
)
def test_a_positive_class_that_is_not_there(target, says):
    shop().write_csv("shop.csv")
    with pytest.raises(PenstockError, match=says):
        infer(Path("shop.csv"), "shop", target, "maybe")


def test_without_a_target_one_is_guessed_and_the_text_says_so():
    shop().write_csv("shop.csv")
    assert "  target: left          # guessed: say which column is to be predicted\n" in infer(
        Path("shop.csv"), "shop"
    )
    shop().rename({"vip": "Churn"}).write_csv("shop.csv")
    assert drafted("shop.csv")["task"]["target"] == "Churn"


def test_separator_missing_words_and_empty_columns_are_found():
    frame = shop().with_columns(
        age=pl.when(pl.int_range(pl.len()) % 5 != 0).then("age"),
        since=pl.when(pl.int_range(pl.len()) % 7 != 0).then("since"),
        nothing=pl.lit(None, pl.String),
        country=pl.when(pl.int_range(pl.len()) == 3).then(pl.lit("-")).otherwise("country"),
    )
    frame.write_csv("shop.csv", separator="\t", null_value="?")
    found = drafted("shop.csv", "left")
    assert found["source"] == {
        "path": "shop.csv",
        "separator": "\t",
        "null_values": ["", "?"],
        "drop": ["nothing"],
    }
    columns = found["contract"]["columns"]
    assert columns["age"] == {"type": "integer", "nullable": True, "min": 0, "max": 140}
    assert columns["since"] == {"type": "date", "nullable": True}
    # A dash is kept where it may be a code.
    assert columns["country"]["values"] == ["-", "DK", "NO", "SE"]


def test_dvc_watches_the_folder_of_a_glob():
    Path("in/x").mkdir(parents=True)
    shop().write_csv("in/x/1.csv")
    assert drafted("in/*/*.csv", "left")["source"] == {"path": "in/*/*.csv", "watch": "in"}


def test_a_counted_column_is_an_id_and_a_price_is_none():
    frame = shop().with_columns(line=pl.int_range(7, 67), price=pl.int_range(60) * 37)
    frame.write_csv("shop.csv")
    assert drafted("shop.csv", "left")["task"]["ids"] == ["customer_id", "line"]


@pytest.mark.parametrize(
    ("values", "bounds"),
    [
        ([2006, 2010], {"min": 2002, "max": 2014}),
        ([0, 1000], {"min": 0, "max": 2000}),
        ([-5, -1], {"min": -9, "max": 0}),
        ([7, 7], {"min": 0, "max": 14}),
        ([0.25, 0.75], {"min": 0, "max": 1.25}),
        ([41.9, 42.1], {"min": 41.7, "max": 42.3}),
        ([1e9, 1.5e9], {"min": 5e8, "max": 2e9}),
    ],
)
def test_bounds_leave_as_much_room_as_the_data_take(values, bounds):
    shop().with_columns(x=pl.Series(values * 30)).write_parquet("shop.parquet")
    entry = drafted("shop.parquet", "left")["contract"]["columns"]["x"]
    entry.pop("type")
    assert entry == bounds


@pytest.mark.parametrize("name", ["All", "all", "my-shop", "1st", "shöp", ""])
def test_a_name_that_will_not_do(name):
    with pytest.raises(PenstockError, match="cannot be the name of a data set"):
        infer(Path("shop.csv"), name)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("lift", r"no column 'lift'.*\n.*did you mean 'left'"),
        ("since", r"'since' is date with \d+ different values: neither classes nor a number"),
        ("remark", r"'remark' is text"),
        ("same", r"'same' has the same value in every row"),
    ],
)
def test_a_target_that_cannot_be_predicted(target, says):
    shop().with_columns(same=pl.lit("x")).write_csv("shop.csv")
    with pytest.raises(PenstockError, match=says):
        infer(Path("shop.csv"), "shop", target)


def test_what_is_wrong_with_the_file_is_said():
    with pytest.raises(PenstockError, match=r"shop\.csv: there is no such file"):
        infer(Path("shop.csv"), "shop")
    Path("shop.csv").write_text("")
    with pytest.raises(PenstockError, match=r"shop\.csv: the file is empty"):
        infer(Path("shop.csv"), "shop")


def test_the_text_is_what_the_source_reads():
    shop().write_csv("shop.csv")
    keys = drafted("shop.csv", "left")["source"]
    source = FileSource.model_validate({"kind": "file", "watch": "x", **keys})
    assert sources.read(source).frame.height == 60


# --- pictures ---------------------------------------------------------------------------------------


def leaves(**counts: int) -> Path:
    folder = Path("data/inbox/leaves")
    for label, count in counts.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            (folder / label / f"{number}.jpg").write_bytes(b"x")
    return folder


@pytest.mark.parametrize(("oaks", "unfrozen"), [(60, 5), (10, 2)])
def test_a_draft_for_a_folder_of_pictures_composes(oaks, unfrozen):
    for name in ("conf", "hydra_plugins"):
        shutil.copytree(ROOT / name, name, ignore=shutil.ignore_patterns("__pycache__"))
    text = infer_pictures(leaves(oak=oaks, birch=70), "leaves")
    Path("conf/dataset/leaves.yaml").write_text(text)
    Path("params.yaml").write_text(compose(Path(), ["dataset=leaves"]))
    found = config.load().datasets["leaves"]
    assert isinstance(found, config.ImageDataset)
    assert found.contract.classes == ("birch", "oak")
    assert (found.source.path, found.source.watch) == ("data/inbox/leaves", "data/inbox/leaves")
    assert found.finetuning.unfreeze == unfrozen
    assert f"oak: {oaks}" in text


def test_a_folder_of_one_class_is_refused():
    with pytest.raises(PenstockError, match=r"data/inbox/leaves: 1 folder\(s\) with files"):
        infer_pictures(leaves(oak=3), "leaves")


def test_interactions_compose_and_every_row_is_one(tmp_path):
    rows = [f"u{n % 7};{n % 5};{1_600_000_000_000 + n};{n % 3 + 1};Film {n % 5}" for n in range(40)]
    Path("taken.csv").write_text("\n".join(["who;what;when;rating;title", *rows]) + "\n")
    text = infer_interactions(Path("taken.csv"), "taken", user="who", item="what", time="when")
    shutil.copytree(ROOT / "conf", "conf")
    shutil.copytree(ROOT / "hydra_plugins", "hydra_plugins")
    Path("conf/dataset/taken.yaml").write_text(text)
    params = yaml.safe_load(compose(tmp_path, ["dataset=taken"]))
    assert params["interactions"] == ["taken"]
    found = config.InteractionDataset.model_validate(params["datasets"]["taken"])
    assert (found.task.user, found.task.time_unit, found.task.rating, found.task.genres) == (
        "who",
        "ms",
        "rating",
        None,
    )
    from penstock.recommend.ingestion import ingest

    done = ingest(sources.read(found.source), found.contract, found.task)
    assert (done.interactions.height, done.bad.height) == (40, 0)
    assert done.interactions["time"].dt.year().unique().to_list() == [2020]


def test_interactions_without_one_of_their_columns_are_refused(tmp_path):
    Path("taken.csv").write_text("who,what,when\na,1,2020-01-01\n")
    with pytest.raises(PenstockError, match="there is no column 'then'"):
        infer_interactions(Path("taken.csv"), "taken", user="who", item="what", time="then")
