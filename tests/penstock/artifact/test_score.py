"""Scoring files: every row ends up in exactly one of the answers and the quarantine, in order, whatever the format."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from penstock.artifact.score import score_file
from penstock.errors import PenstockError

ROOT = Path(__file__).parents[3]
WRITERS = {
    "csv": lambda frame, path: frame.write_csv(path),
    "tsv": lambda frame, path: frame.write_csv(path, separator="\t"),
    "parquet": lambda frame, path: frame.write_parquet(path),
    "jsonl": lambda frame, path: frame.write_ndjson(path),
}


def scored(model, path: Path, suffix: str = "parquet", **options) -> tuple[pl.DataFrame, pl.DataFrame]:
    out, rejects = path.parent / f"answers.{suffix}", path.parent / "rejects.parquet"
    score_file(model, path, out, rejects, **options)
    read = {"parquet": pl.read_parquet, "csv": pl.read_csv, "jsonl": pl.read_ndjson}[suffix]
    return read(out), pl.read_parquet(rejects)


@pytest.fixture
def batch(raw_table):
    return raw_table(500, seed=8).drop("answer", "note")


@pytest.mark.parametrize("form", WRITERS)
def test_every_format_gives_the_same_answers(make, batch, tmp_path, form):
    model = make(threshold=0.4).load()
    path = tmp_path / f"rows.{form}"
    WRITERS[form](batch, path)
    answers, rejects = scored(model, path)
    wanted = model.predict(batch)
    assert rejects.is_empty()
    assert answers["position"].to_list() == list(range(500))
    assert answers["label"].equals(wanted["label"])
    assert (answers["probability"] - wanted["probability"]).abs().max() < 1e-6


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_small_batches_and_several_workers_give_what_one_batch_gives(make, batch, tmp_path, suffix):
    model = make().load()
    path = tmp_path / "rows.csv"
    batch.write_csv(path)
    one, _ = scored(model, path, suffix)
    many, _ = scored(model, path, suffix, batch_rows=7, workers=4)
    assert many.equals(one)


def test_a_row_that_does_not_fit_is_set_aside_with_its_position_and_reason(make, batch, tmp_path):
    model = make().load()
    path = tmp_path / "rows.csv"
    bad = batch.with_columns(pl.col("age").cast(pl.String)).with_row_index("at")
    bad = bad.with_columns(
        age=pl.when(pl.col("at").is_in([3, 77])).then(pl.lit("old")).otherwise("age")
    ).drop("at")
    bad.write_csv(path)
    answers, rejects = scored(model, path, batch_rows=50, workers=3)
    assert rejects["position"].to_list() == [3, 77]
    assert rejects["source"].unique().to_list() == [path.as_posix()]
    assert "age: expected integer, found 'old'" in rejects["reason"][0]
    assert sorted([*answers["position"], *rejects["position"]]) == list(range(500))


def test_columns_can_be_carried_over(make, batch, tmp_path):
    path = tmp_path / "rows.parquet"
    batch.with_columns(customer=pl.int_range(pl.len())).write_parquet(path)
    answers, _ = scored(make().load(), path, keep=["customer", "plan"])
    assert answers.columns == ["position", "customer", "plan", "label", "probability"]
    assert answers["customer"].to_list() == list(range(500))


def test_a_key_that_some_json_lines_lack_is_missing_there(make, batch, tmp_path):
    path = tmp_path / "rows.jsonl"
    batch.head(4).drop("income").write_ndjson(path)
    model = make().load()
    answers, rejects = scored(model, path)
    assert rejects.is_empty()
    wanted = model.predict(batch.head(4).with_columns(income=pl.lit(None, pl.Float64)))
    assert answers["probability"].equals(wanted["probability"])


def test_a_missing_column_is_named_and_nothing_is_written(make, batch, tmp_path):
    path = tmp_path / "rows.csv"
    batch.rename({"income": "incme"}).write_csv(path)
    with pytest.raises(PenstockError, match=r"missing: income\n.*'income' may be 'incme'"):
        scored(make().load(), path)
    assert not (tmp_path / "answers.parquet").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.csv", b"", "the file is empty"),
        ("rows.csv", b"age,income,vip,plan,town,since\n", "there is no row in it"),
        ("rows.parquet", b"PAR1 and no more", "not readable as parquet"),
        ("rows.csv", "age,income,vip,plan,town,since\n1,2,true,a,Zürich,\n".encode("latin-1"), "UTF-8"),
        ("rows.jsonl", b'{"age": 1', "not readable as jsonl"),
        ("rows.xlsx", b"x", "suffix"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(make, tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PenstockError, match=says) as error:
        scored(make().load(), path)
    assert name in str(error.value)
    assert not (tmp_path / "answers.parquet").exists()


SERVING_ONLY = """
import sys
sys.argv = ["penstock", *sys.argv[1:]]
from penstock.cli import main
main()
training = {"sklearn", "scipy", "lightgbm", "torch", "pandas", "onnx", "skl2onnx", "dvc", "hydra"}
print("loaded:", sorted(training & {name.split(".")[0] for name in sys.modules}))
"""


def test_prediction_needs_nothing_of_what_trained_the_model(make, batch, tmp_path):
    made = make(model="lightgbm")
    batch.write_csv(tmp_path / "rows.csv")
    done = subprocess.run(
        [sys.executable, "-c", SERVING_ONLY, "predict", str(made.folder), "rows.csv", "-o", "out.csv"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "loaded: []"
    assert pl.read_csv(tmp_path / "out.csv").height == 500


def test_a_killed_prediction_leaves_no_half_written_answers(make, batch, tmp_path):
    made = make()
    pl.concat([batch] * 400).write_csv(tmp_path / "rows.csv")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "penstock.cli",
            "predict",
            str(made.folder),
            "rows.csv",
            "-o",
            "out.csv",
            "--batch-rows",
            "50",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    written = 0
    while process.poll() is None and not written:
        written = sum(file.stat().st_size for file in tmp_path.glob(".out.csv.*"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert written
    assert not (tmp_path / "out.csv").exists()


PEAK = """
import resource, sys
from pathlib import Path
from penstock.artifact.model import load
from penstock.artifact.score import score_file
score_file(load(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), batch_rows=4096)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_file(make, batch, tmp_path):
    made = make()
    peaks = []
    for times in (200, 1000):
        path = tmp_path / f"{times}.csv"
        pl.concat([batch] * times).write_csv(path)
        command = [
            sys.executable,
            "-c",
            PEAK,
            str(made.folder),
            str(path),
            str(tmp_path / "o.csv"),
            str(tmp_path / "q.parquet"),
        ]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.5 * peaks[0]
