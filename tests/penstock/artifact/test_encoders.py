"""The matrix that the graph computes is the one that scikit-learn computes, for every switch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from onnxruntime import InferenceSession

from penstock.artifact import encoders, export
from penstock.artifact.graph import ML, Graph
from penstock.artifact.inputs import feeds
from penstock.config import Features, Task
from penstock.features.columns import as_features, describe, encode_target
from penstock.features.recipe import build

SWITCHES = list(
    itertools.product(
        ["none", "quantile", "iqr"],
        [("median", True), ("constant", False), ("most_frequent", True)],
        ["none", "standard", "minmax", "robust"],
        [("one_hot", 0.05, None), ("one_hot", 0.0, 5), ("ordinal", 0.0, None), ("target", 0.0, None)],
        ["none", "pca", "svd", "select"],
    )
)


def matrices(contract, raw, other, kind: str, features: Features):
    task = Task(kind=kind, target="answer", positive="yes" if kind == "binary" else None)
    frame = as_features(raw, [], task)
    columns = describe(frame, raw["answer"], task, text=frozenset({"note"}))
    transformer = build(features, columns, seed=1)
    transformer.fit(frame.select(columns.features), encode_target(raw, columns))
    graph = Graph()
    takes = export.inputs(columns, [], contract)
    tensors = export._feature_tensors(graph, columns, [], takes)
    graph.output(encoders.emit(graph, transformer, tensors), "matrix", "float", ["rows", "columns"])
    session = InferenceSession(graph.model("test").SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = transformer.transform(as_features(other, [], task).select(columns.features))
    return session.run(None, feeds(other, takes))[0], wanted


@pytest.mark.filterwarnings("ignore:Found unknown categories")
@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("part", range(6))
def test_every_combination_of_switches(raw_table, contract, kind, part):
    raw = raw_table(200, seed=1, kind=kind)
    # Rows to come: other towns, other plans, more missing.
    other = raw_table(100, seed=2, kind=kind)
    other = other.with_columns(
        town=other["town"].str.replace("town 1", "city "), plan=other["plan"].str.replace("b", "z")
    )
    for clip, (impute, indicators), scale, (encode, rare, above), reduce in SWITCHES[part::6]:
        features = Features(
            clip=clip,
            impute=impute,
            impute_value=-7.0,
            indicators=indicators,
            scale=scale,
            encode=encode,
            rare=rare,
            target_above=above,
            reduce=reduce,
            components=4,
        )
        got, wanted = matrices(contract, raw, other, kind, features)
        assert got.shape == wanted.shape, features
        # Without a scale the columns are in thousands, and their sums in components too.
        assert np.abs(got - wanted).max() <= 2e-6 * max(1.0, np.abs(wanted).max()), features


def test_the_graph_has_few_nodes_however_many_columns(make):
    import onnx

    made = make(features=Features(clip="iqr", indicators=True))
    model = onnx.load(made.folder / "model.onnx")
    assert len(model.graph.node) < 45
    assert {entry.domain for entry in model.opset_import} == {"", ML}
