"""One row, one answer: the ONNX file against the scikit-learn pipeline it was made from, in one process.

Both are given the row in the form that they take (arrays; a frame of feature columns), and take turns. The
second figure for ONNX begins, as a service does, with a row of plain Python values.

    python benchmarks/latency.py [--calls 300]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import stages  # noqa: E402, F401  (pins threads before NumPy is imported)


def microseconds(call: Callable[[], object], calls: int) -> float:
    """Median time of a call."""
    times = []
    for _ in range(calls):
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    return statistics.median(times) / 1000


def measure(dataset: str, calls: int) -> None:
    import numpy as np
    import polars as pl

    from penstock.artifact.inputs import feeds
    from penstock.artifact.model import load
    from penstock.features.columns import read
    from penstock.validation import persistence

    model = load(ROOT / "models" / dataset)
    pipeline = persistence.load(ROOT / "models" / dataset / "pipeline.skops")
    columns = read(ROOT / "data/features" / dataset / "columns.json")
    features = pl.read_parquet(ROOT / "data/features" / dataset / "holdout.parquet").select(columns.features)[
        0
    ]
    raw = pl.read_parquet(ROOT / "data/prepared" / dataset / "holdout.parquet")[0]
    arrays = feeds(raw, model.manifest.inputs)
    kinds = {"float": np.float32, "double": np.float64, "string": object}
    elements = {item.name: kinds[item.element] for item in model.manifest.inputs}
    values = {name: array.item() for name, array in arrays.items()}
    ask = pipeline.predict_proba if columns.classes else pipeline.predict

    def from_values() -> object:
        row = {name: np.array([[value]], dtype=elements[name]) for name, value in values.items()}
        return model.session.run(None, row)

    for call in (lambda: model.session.run(None, arrays), from_values, lambda: ask(features)):
        microseconds(call, 20)
    onnx = microseconds(lambda: model.session.run(None, arrays), calls)
    plain = microseconds(from_values, calls)
    sklearn = microseconds(lambda: ask(features), calls)
    print(
        f"{dataset}: ONNX {onnx:.0f} µs (from plain values {plain:.0f} µs), pipeline {sklearn:.0f} µs, "
        f"ratio {sklearn / onnx:.1f} ({sklearn / plain:.1f})  (aim: at least 20)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=300)
    options = parser.parse_args()
    for folder in sorted((ROOT / "models").glob("*/model.onnx")):
        measure(folder.parent.name, options.calls)


if __name__ == "__main__":
    main()
