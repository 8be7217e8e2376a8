"""Derived columns give in ONNX exactly what they give in polars, for one row and for many."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime import InferenceSession
from pydantic import TypeAdapter

from penstock.artifact import derived as derivations
from penstock.artifact.graph import Graph
from penstock.artifact.inputs import feeds
from penstock.artifact.manifest import Input, element_type
from penstock.config import Column, Derived, Task
from penstock.features.columns import as_features

ADAPTER = TypeAdapter(Derived)
KINDS = {"a": "number", "b": "number", "c": "category", "e": "category", "day": "date", "moment": "datetime"}
TAKES = [
    Input(name=name, element=element_type(kind), column=Column(type=kind, nullable=True))
    for name, kind in KINDS.items()
]
SCHEMA = {
    "a": pl.Float64,
    "b": pl.Float64,
    "c": pl.String,
    "e": pl.String,
    "day": pl.Date,
    "moment": pl.Datetime("us", "UTC"),
}
DERIVED = [
    ADAPTER.validate_python(item)
    for item in (
        {"op": "ratio", "name": "ratio", "numerator": "a", "denominator": "b"},
        {"op": "difference", "name": "difference", "left": "a", "right": "b"},
        {"op": "sum", "name": "sum", "columns": ["a", "b", "a"]},
        {"op": "product", "name": "product", "columns": ["a", "b"]},
        {"op": "log1p", "name": "log", "column": "a"},
        {"op": "bins", "name": "bins", "column": "a", "edges": [-1.5, 0, 0.1, 1000]},
        {"op": "cross", "name": "cross", "columns": ["c", "e"]},
        *(
            {"op": "date_part", "name": f"day_{part}", "column": "day", "part": part}
            for part in ("year", "month", "day", "weekday")
        ),
        *(
            {"op": "date_part", "name": f"moment_{part}", "column": "moment", "part": part}
            for part in ("year", "month", "day", "weekday", "hour")
        ),
        {"op": "ratio", "name": "chained", "numerator": "ratio", "denominator": "day_year"},
    )
]


def session() -> InferenceSession:
    graph = Graph()
    tensors = {item.name: graph.input(item.name, item.element) for item in TAKES}
    for item in DERIVED:
        tensors[item.name] = derivations.emit(
            graph, item, tensors, is_datetime=lambda name: KINDS[name] == "datetime"
        )
        graph.output(
            tensors[item.name], f"out_{item.name}", "string" if item.op == "cross" else "float", ["rows", 1]
        )
    return InferenceSession(graph.model("test").SerializeToString(), providers=["CPUExecutionProvider"])


SESSION = session()
TASK = Task(kind="regression", target="none")
numbers = st.one_of(
    st.none(), st.sampled_from([0.0, -0.0, -1.0, 0.1, 1e38, -1e38, 1e-30]), st.floats(-1e6, 1e6, width=32)
)
words = st.one_of(st.none(), st.sampled_from(["x", "é × y", "a b"]))
days = st.one_of(st.none(), st.dates(dt.date(1600, 1, 1), dt.date(2400, 12, 31)))
moments = st.one_of(
    st.none(),
    st.datetimes(dt.datetime(1601, 1, 1), dt.datetime(2399, 1, 1)).map(lambda m: m.replace(tzinfo=dt.UTC)),
)


@given(st.lists(st.tuples(numbers, numbers, words, words, days, moments), min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_onnx_and_polars_agree(rows):
    raw = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    wanted = as_features(raw, DERIVED, TASK)
    got = SESSION.run(None, feeds(raw, TAKES))
    for item, tensor in zip(DERIVED, got, strict=True):
        if item.op == "cross":
            assert tensor[:, 0].tolist() == wanted[item.name].to_list()
            continue
        # What is infinite is missing: the encoders see to it in the graph.
        finite = np.where(np.isfinite(tensor[:, 0]), tensor[:, 0], np.nan)
        exact = wanted[item.name].fill_null(float("nan")).to_numpy()
        if item.op == "log1p":
            assert np.allclose(finite, exact, rtol=3e-7, atol=1e-15, equal_nan=True), item.name
        else:
            assert np.array_equal(finite, exact, equal_nan=True), item.name
