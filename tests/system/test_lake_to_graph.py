"""What a load brings, the graph picks up: a table that grows becomes other data, other metrics, and a difference to see."""

from __future__ import annotations

import json
import sys

import polars as pl

LOAD = """
source: {kind: files, path: data/inbox/wine/*.csv}
keys: [sample]
destination: {kind: parquet, path: data/lake/wine}
"""


def test_rows_that_a_load_brings_reach_the_graph_and_dvc_tells(fresh_clone, tmp_path):
    from sklearn.datasets import load_wine

    frame = load_wine(as_frame=True).frame.rename(columns={"target": "grower"})
    rows = (
        pl.from_pandas(frame)
        .with_row_index("sample")
        .with_columns(grower=pl.lit("g") + pl.col("grower").cast(pl.String))
    )
    rows = rows.sample(fraction=1, shuffle=True, seed=1)
    clone = fresh_clone()
    inbox = clone.root / "data/inbox/wine"
    inbox.mkdir(parents=True)
    (clone.root / "conf/load/wine.yaml").write_text(LOAD)
    penstock = (sys.executable, "-m", "penstock.cli")
    dvc = (sys.executable, "-m", "dvc")

    rows.head(100).write_csv(inbox / "1.csv")
    clone.run(*penstock, "ingest", "wine")
    clone.run(*penstock, "dataset", "wine", "data/lake/wine", "--target", "grower")
    clone.run(*penstock, "params")
    clone.run(*dvc, "add", "--quiet", "data/lake/wine")
    clone.run(*dvc, "repro", "--quiet", "ingest@wine")
    contract = json.loads((clone.root / "reports/wine/contract.json").read_text())
    assert not {"_source", "_position", "_load"} & set(contract)
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "a hundred wines")

    # A load that brings nothing gives the graph nothing to do, though the table's log says that it ran.
    clone.run(*penstock, "ingest", "wine")
    assert "Running stage" not in clone.run(*dvc, "repro", "ingest@wine").stdout

    rows.tail(78).write_csv(inbox / "2.csv")
    clone.run(*penstock, "ingest", "wine")
    clone.run(*dvc, "add", "--quiet", "data/lake/wine")
    assert "Running stage 'ingest@wine'" in clone.run(*dvc, "repro", "ingest@wine").stdout
    assert pl.read_parquet(clone.root / "data/raw/wine.parquet").height == 178
    changed = clone.run(*dvc, "diff", "--targets", "data/lake/wine", "data/raw/wine.parquet").stdout
    assert "data/lake/wine/part-00000002-" in changed
    assert "data/raw/wine.parquet" in changed
    metrics = json.loads(clone.run(*dvc, "metrics", "diff", "--json").stdout)
    assert metrics["reports/wine/ingest.json"]["rows"]["diff"] == 78
