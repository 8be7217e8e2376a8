"""A small model made by hand, and a log of what it was asked, written by the program's own writer."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import onnx
import polars as pl
from onnx import parser

from penstock.config.serving.requests import FileLog
from penstock.requests import RequestsOfOne, open_requests
from penstock.storage import write_json, write_parquet

# The probability of "yes" is logistic in age, and higher where the plan is gold.
GRAPH = """
<ir_version: 8, opset_import: ["" : 19]>
toy (float[rows,1] age, float[rows,1] income, string[rows,1] plan) => (string[rows] label, float[rows,2] probabilities)
<float middle = {50.0}, float slope = {SLOPE}, string[1,1] gold = {"gold"}, float[1,1] much = {1.5}, float[1,1] none = {0.0},
 float one = {1.0}, float half = {0.5}, string[1,1] yes = {"yes"}, string[1,1] no = {"no"}, int64[1] flat = {-1}>
{
    is_gold = Equal(plan, gold)
    extra = Where(is_gold, much, none)
    off = Sub(age, middle)
    steep = Mul(off, slope)
    logit = Add(steep, extra)
    p = Sigmoid(logit)
    q = Sub(one, p)
    probabilities = Concat<axis=1>(q, p)
    sure = GreaterOrEqual(p, half)
    named = Where(sure, yes, no)
    label = Reshape(named, flat)
}
"""
COLUMNS = {
    "age": {"type": "integer", "min": 18, "max": 90},
    "income": {"type": "number", "nullable": True},
    "plan": {"type": "category", "values": ["basic", "gold"]},
}
START = datetime(2026, 3, 2, tzinfo=UTC)
ROWS = 250


def rows(count: int, seed: int) -> pl.DataFrame:
    """Rows with their truth."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 91, count)
    gold = rng.random(count) < 0.3
    chance = 1 / (1 + np.exp(-(0.08 * (age - 50) + 1.5 * gold)))
    return pl.DataFrame(
        {
            "age": age,
            "income": pl.Series(rng.lognormal(8, 0.5, count).round(2)),
            "plan": pl.Series(np.where(gold, "gold", "basic")),
            "answer": pl.Series(np.where(rng.random(count) < chance, "yes", "no")),
        }
    )


def write_artefact(folder: Path, slope: float = 0.08) -> None:
    """The model and its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    content = parser.parse_model(GRAPH.replace("SLOPE", str(slope))).SerializeToString()
    onnx.checker.check_model(onnx.load_from_string(content))
    (folder / "model.onnx").write_bytes(content)
    inputs = [
        {"name": name, "element": "string" if column["type"] == "category" else "float", "column": column}
        for name, column in COLUMNS.items()
    ]
    outputs = [
        {"name": "label", "element": "string", "shape": ["rows"]},
        {"name": "probabilities", "element": "float", "shape": ["rows", 2]},
    ]
    manifest = {
        "format": 1, "name": "toy", "title": "toy", "task": "binary", "target": "answer",
        "sha256": hashlib.sha256(content).hexdigest(), "opset": {"ai.onnx": 19}, "inputs": inputs, "outputs": outputs,
        "classes": ["no", "yes"], "positive": "yes", "threshold": 0.5, "metrics": {}, "parameters": {},
        "data_sha256": "", "code_sha256": "", "versions": {},
    }  # fmt: skip
    write_json(folder / "manifest.json", manifest, sort_keys=False)


def write_repository(root: Path, more: str = "") -> None:
    """What `penstock monitor` needs: a model, its hold-out, conf/monitor/toy.yaml."""
    write_artefact(root / "models/toy")
    write_parquet(root / "data/prepared/toy/holdout.parquet", rows(3000, 99))
    path = root / "conf/monitor/toy.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(
        "model: toy\nreference: {kind: table, path: data/prepared/toy/holdout.parquet}\n"
        f"limits: {{resamples: 200}}\nfairness: {{columns: [plan]}}\n{more}"
    )


class Log:
    """The log of one repository.

    Args:
        root: The repository.
    """

    def __init__(self, root: Path) -> None:
        from penstock.artifact.model import load

        self.root, self.model = root, load(root / "models/toy")

    def hour(
        self, number: int, frame: pl.DataFrame, *, answers: pl.DataFrame | None = None, status: str = "ok"
    ) -> None:
        """One request a row, spread over an hour after START; ids are h<hour>-<row>."""
        log = open_requests(FileLog(kind="files", folder=str(self.root / "data/requests")))
        assert log is not None
        inputs = frame.drop("answer").to_dicts()
        told = (self.model.predict(frame.drop("answer")) if answers is None else answers).to_dicts()
        for at, (given, answer) in enumerate(zip(inputs, told, strict=True)):
            moment = START + timedelta(hours=number, seconds=3600 * at / len(inputs))
            log.put(
                1,
                RequestsOfOne(
                    time=int(moment.timestamp() * 1e9),
                    request=f"h{number}-{at}",
                    model="toy",
                    version=self.model.manifest.sha256[:12],
                    inputs=lambda given=given: [given],
                    outputs=lambda answer=answer: [answer],
                    latency_ms=2.0,
                    status=status,
                ),
            )
        log.close()

    def truths(self, number: int, frame: pl.DataFrame) -> None:
        """What came true of an hour's rows."""
        hour = f"{START + timedelta(hours=number):hour=%Y-%m-%dT%H}"
        moment = int((START + timedelta(hours=number)).timestamp() * 1e9)
        write_parquet(
            self.root / f"data/truths/toy/{hour}/truths-{number}.parquet",
            pl.DataFrame(
                {
                    "request": [f"h{number}-{at}" for at in range(frame.height)],
                    "row": pl.Series([0] * frame.height, dtype=pl.Int32),
                    "time": [moment] * frame.height,
                    "truth": frame["answer"],
                }
            ),
        )
