"""From an item-item model to one ONNX file: item ids in, the best item ids out, with everything between them."""

from __future__ import annotations

import json

import numpy as np
import onnx
import polars as pl
from numpy.typing import NDArray
from onnx import TensorProto, helper

from penstock.artifact.graph import ML, ML_OPSET, OPSET, Graph
from penstock.artifact.recommender_manifest import Tensor
from penstock.recommend.model import ABSENT, BECAUSE_UNIT, Recommender

__all__ = ["INPUTS", "OUTPUTS", "items_json", "to_onnx"]

INPUTS = (
    Tensor(name="items", element="int64", shape=("batch", "history")),
    Tensor(name="exclude", element="int64", shape=("batch", "excluded")),
    Tensor(name="k", element="int64", shape=()),
    Tensor(name="diversity", element="float", shape=()),
)
# An output may not have the name of an input.
OUTPUTS = (
    Tensor(name="recommended", element="int64", shape=("batch", "k")),
    Tensor(name="scores", element="float", shape=("batch", "k")),
    Tensor(name="because", element="int64", shape=("batch", "k")),
)

UNAVAILABLE = -1e9  # of a candidate without a score, in the re-ranking: behind all others, before those taken


def to_onnx(model: Recommender, name: str) -> bytes:
    """Write the graph.

    It takes ``INPUTS`` and gives ``OUTPUTS``.

    Args:
        model: What is written.
        name: Of the graph.
    """
    graph = Graph()
    items, exclude, wanted, diversity = (graph.input(one.name, one.element, one.shape) for one in INPUTS)
    writer = _Writer(graph, model)
    places, valid, latest = writer.history(items)
    voters, votes = writer.voters(places, valid)
    scores, voices = writer.scores(voters, votes)
    masked = writer.masked(scores, latest, exclude)
    count = graph.add("Min", wanted, writer.whole(len(model.ids)))
    chosen, best = writer.chosen(masked, wanted, count, diversity)
    for tensor, output in zip(writer.answers(chosen, best, voices, voters, wanted), OUTPUTS, strict=True):
        graph.output(tensor, output.name, output.element, output.shape)
    written: bytes = graph.model(name, {"": OPSET, ML: ML_OPSET}).SerializeToString(deterministic=True)
    return written


def items_json(weights: pl.DataFrame, interactions: pl.DataFrame) -> bytes:
    """What is known of each item, column by column.

    Args:
        weights: Columns id and count, in the order of the model.
        interactions: Of which the first row of an item that has a title, genres or a year tells it.
    """
    told = (
        interactions.group_by("item", maintain_order=True)
        .agg(pl.col(name).drop_nulls().first() for name in ("key", "title", "genres", "year"))
        .rename({"item": "id"})
    )
    known = weights.join(told, on="id", how="left", maintain_order="left").with_columns(
        title=pl.coalesce("title", "key", pl.col("id").cast(pl.String)),
        genres=pl.col("genres").fill_null([]),
    )
    columns = {name: known[name].to_list() for name in ("id", "key", "title", "genres", "year")}
    columns["popularity"] = known["count"].to_list()
    return (json.dumps(columns, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


class _Writer:
    """The parts of the graph. B requests, H items of history, L of them voting, N items, M neighbours, C candidates."""

    def __init__(self, graph: Graph, model: Recommender) -> None:
        self.graph = graph
        self.model = model
        self.items = len(model.ids)

    def whole(self, *values: int) -> str:
        """One int64, or a vector of several."""
        return self.graph.constant(values[0] if len(values) == 1 else values, np.int64)

    def vector(self, *values: int) -> str:
        """A vector of int64."""
        return self.graph.constant(values, np.int64)

    def real(self, value: float) -> str:
        return self.graph.constant(value, np.float32)

    def where(self, condition: str, this: str, that: str) -> str:
        return self.graph.add("Where", condition, this, that)

    def encoded(self, ids: str) -> str:
        """Places of ids, N for an unknown one. A column of padding is put before them: then there is one at least."""
        graph = self.graph
        batch = graph.add("Slice", graph.add("Shape", ids), self.vector(0), self.vector(1))
        shape = graph.add("Concat", batch, self.vector(1), axis=0)
        padded = graph.add("Concat", graph.add("Expand", self.vector(ABSENT), shape), ids, axis=1)
        return graph.add(
            "LabelEncoder",
            padded,
            domain=ML,
            keys_int64s=self.model.ids.tolist(),
            values_int64s=list(range(self.items)),
            default_int64=self.items,
        )

    def blank(self, like: str, value: NDArray[np.generic]) -> str:
        """A row of N + 1 equal values for each request."""
        graph = self.graph
        batch = graph.add("Slice", graph.add("Shape", like), self.vector(0), self.vector(1))
        shape = graph.add("Concat", batch, self.vector(self.items + 1), axis=0)
        return graph.add("Expand", graph.constant(value, value.dtype), shape)

    def history(self, items: str) -> tuple[str, str, str]:
        """The history as places, whether each of them votes, and when each item of the catalogue was last seen.

        Returns:
            Places (B, H), N if unknown; whether it is known and not repeated later, (B, H); the last number in the
            history under which an item occurs, from 1 on, 0 if it never does, (B, N + 1).
        """
        graph = self.graph
        places = self.encoded(items)
        length = graph.add("Gather", graph.add("Shape", places), self.whole(1))
        numbers = graph.add("Range", self.whole(1), graph.add("Add", length, self.whole(1)), self.whole(1))
        numbers = graph.add("Expand", numbers, graph.add("Shape", places))
        latest = graph.add(
            "ScatterElements",
            self.blank(places, np.zeros(1, np.int64)),
            places,
            numbers,
            axis=1,
            reduction="max",
        )
        last = graph.add("Equal", graph.add("GatherElements", latest, places, axis=1), numbers)
        valid = graph.add("And", last, graph.add("Less", places, self.whole(self.items)))
        return places, valid, latest

    def voters(self, history: str, valid: str) -> tuple[str, str]:
        """Places of the last known items, newest first, and the weight of each, both (B, L)."""
        graph, model = self.graph, self.model
        ones = graph.cast(valid, TensorProto.INT64)
        # How many come after each, and with it: a rank from the end.
        rank = graph.add("CumSum", ones, self.whole(1), reverse=1, exclusive=1)
        length = graph.add("Gather", graph.add("Shape", valid), self.whole(1))
        order = self.where(valid, graph.add("Sub", length, rank), self.whole(0))
        count = graph.add("Min", length, self.whole(model.max_history))
        top, slots = graph.add_many(
            "TopK", order, graph.add("Unsqueeze", count, self.vector(0)), outputs=2, axis=1
        )
        places = graph.add("GatherElements", history, slots, axis=1)
        votes = graph.add("Greater", top, self.whole(0))
        # Newest first: the slot is the rank.
        ranks = graph.cast(graph.add("Range", self.whole(0), count, self.whole(1)), TensorProto.FLOAT)
        if model.half_life is None:
            decay = graph.add("Add", graph.add("Mul", ranks, self.real(0.0)), self.real(1.0))
        else:
            exponent = graph.add("Div", graph.add("Neg", ranks), self.real(model.half_life))
            decay = graph.add("Add", graph.add("Pow", self.real(2.0), exponent), self.real(model.floor))
        weight = graph.add("Mul", graph.cast(votes, TensorProto.FLOAT), decay)
        return self.where(votes, places, self.whole(self.items)), weight

    def scores(self, voters: str, votes: str) -> tuple[str, str]:
        """The sum of votes for each item, and who votes most for it packed with how much, both (B, N + 1)."""
        graph, model = self.graph, self.model
        # One more row, of nobody's votes, for padding.
        neighbours = np.pad(model.neighbours, ((0, 1), (0, 0)), constant_values=self.items)
        weights = np.pad(model.weights, ((0, 1), (0, 0))).astype(np.float16)
        flat = graph.add("Slice", graph.add("Shape", voters), self.vector(0), self.vector(1))
        flat = graph.add("Concat", flat, self.vector(-1), axis=0)
        at = graph.add("Gather", graph.constant(neighbours, np.int32), voters)
        given = graph.cast(
            graph.add("Gather", graph.constant(weights, np.float16), voters), TensorProto.FLOAT
        )
        each = graph.add("Mul", given, graph.add("Unsqueeze", votes, self.vector(2)))
        at_flat = graph.add("Reshape", at, flat)
        sums = graph.add(
            "ScatterElements",
            self.blank(voters, np.zeros(1, np.float32)),
            at_flat,
            graph.add("Reshape", each, flat),
            axis=1,
            reduction="add",
        )
        size = graph.add("Floor", graph.add("Div", each, self.real(BECAUSE_UNIT)))
        slots = graph.add("Sub", self.whole(model.max_history - 1), self._slots(voters))
        packed = graph.add("Mul", graph.cast(size, TensorProto.INT64), self.whole(model.max_history))
        packed = graph.add("Add", packed, graph.add("Unsqueeze", slots, self.vector(1)))
        voices = graph.add(
            "ScatterElements",
            self.blank(voters, np.zeros(1, np.int64)),
            at_flat,
            graph.add("Reshape", packed, flat),
            axis=1,
            reduction="max",
        )
        nobody = graph.add("Equal", graph.add("ReduceMin", voters, self.vector(1)), self.whole(self.items))
        popular = np.append(model.popularity, np.float32(0))[None]
        return self.where(nobody, graph.constant(popular, np.float32), sums), voices

    def _slots(self, voters: str) -> str:
        graph = self.graph
        length = graph.add("Gather", graph.add("Shape", voters), self.whole(1))
        return graph.add("Range", self.whole(0), length, self.whole(1))

    def masked(self, scores: str, latest: str, exclude: str) -> str:
        """Scores (B, N), −∞ for what has been seen or is excluded."""
        graph = self.graph
        places = self.encoded(exclude)
        ones = graph.add("Expand", self.vector(1), graph.add("Shape", places))
        barred = graph.add("ScatterElements", latest, places, ones, axis=1, reduction="max")
        barred = graph.add("Greater", barred, self.whole(0))
        whole = self.where(barred, self.real(-np.inf), scores)
        return graph.add("Slice", whole, self.vector(0), self.vector(self.items), self.vector(1))

    def chosen(self, masked: str, wanted: str, count: str, diversity: str) -> tuple[str, str]:
        """Places and scores of what is returned, both (B, min(k, N)); re-ranked if diversity is asked for."""
        graph = self.graph
        plain = graph.add("LessOrEqual", diversity, self.real(0.0))
        pool = graph.add("Max", wanted, self.whole(self.model.pool))
        pool = graph.add("Min", pool, self.whole(self.items))
        candidates = self.where(plain, count, pool)
        best, places = graph.add_many(
            "TopK", masked, graph.add("Unsqueeze", candidates, self.vector(0)), outputs=2, axis=1
        )
        straight, diverse = graph.inner(), graph.inner()
        branches = {
            straight: straight.add("Identity", places),
            diverse: _Writer(diverse, self.model).diverse(best, places, count, diversity),
        }
        then, otherwise = (
            inside.body(
                "picks", [], [helper.make_tensor_value_info(picks, TensorProto.INT64, ["batch", "picks"])]
            )
            for inside, picks in branches.items()
        )
        (picked,) = graph.add_many("If", plain, outputs=1, then_branch=then, else_branch=otherwise)
        return picked, graph.add("GatherElements", masked, picked, axis=1)

    def diverse(self, best: str, places: str, count: str, diversity: str) -> str:
        """Greedy choice by maximal marginal relevance: (1 − d) · relevance − d · likeness to what is chosen already."""
        graph = self.graph
        there = graph.add("Greater", best, self.real(-np.inf))
        large = float(np.finfo(np.float32).max)
        axis = self.vector(1)
        low = graph.add("ReduceMin", self.where(there, best, self.real(large)), axis)
        high = graph.add("ReduceMax", self.where(there, best, self.real(-large)), axis)
        spread = graph.add("Max", graph.add("Sub", high, low), self.real(1e-12))
        relevance = self.where(there, graph.add("Div", graph.add("Sub", best, low), spread), self.real(0.0))
        wanted = graph.add("Mul", graph.add("Sub", self.real(1.0), diversity), relevance)
        vectors = graph.constant(self.model.vectors.astype(np.float16), np.float16)
        rows = graph.cast(graph.add("Gather", vectors, places), TensorProto.FLOAT)
        alike = graph.add("MatMul", rows, graph.add("Transpose", rows, perm=[0, 2, 1]))
        nearest = graph.add("Mul", best, self.real(0.0))
        nearest = self.where(there, nearest, self.real(0.0))
        blocked = self.where(there, self.real(0.0), self.real(UNAVAILABLE))
        body = self._step(wanted, alike, diversity)
        *_, picks = graph.add_many("Loop", count, "", nearest, blocked, outputs=3, body=body)
        order = graph.add("Transpose", picks, perm=[1, 0])
        return graph.add("GatherElements", places, order, axis=1)

    def _step(self, wanted: str, alike: str, diversity: str) -> onnx.GraphProto:
        """One choice: takes and gives how near each candidate is to what is chosen, and what may not be chosen."""
        step = self.graph.inner()
        inside = _Writer(step, self.model)
        value = step.add("Sub", wanted, step.add("Mul", diversity, "nearest"))
        pick = step.add("ArgMax", step.add("Add", value, "blocked"), axis=1, keepdims=1)
        shape = step.add("Concat", step.add("Shape", pick), inside._width("nearest"), axis=0)
        row = step.add("Expand", step.add("Unsqueeze", pick, inside.vector(2)), shape)
        row = step.add("Squeeze", step.add("GatherElements", alike, row, axis=1), inside.vector(1))
        nearer = step.add("Max", "nearest", row)
        taken = step.add("Expand", inside.real(-np.inf), step.add("Shape", pick))
        barred = step.add("ScatterElements", "blocked", pick, taken, axis=1)
        picked = step.add("Squeeze", pick, inside.vector(1))
        going = step.add("Identity", "going")
        value_info = helper.make_tensor_value_info
        wide = ["batch", "candidates"]
        return step.body(
            "choose",
            [
                value_info("number", TensorProto.INT64, []),
                value_info("going", TensorProto.BOOL, []),
                value_info("nearest", TensorProto.FLOAT, wide),
                value_info("blocked", TensorProto.FLOAT, wide),
            ],
            [
                value_info(going, TensorProto.BOOL, []),
                value_info(nearer, TensorProto.FLOAT, wide),
                value_info(barred, TensorProto.FLOAT, wide),
                value_info(picked, TensorProto.INT64, ["batch"]),
            ],
        )

    def _width(self, tensor: str) -> str:
        return self.graph.add("Slice", self.graph.add("Shape", tensor), self.vector(1), self.vector(2))

    def answers(self, places: str, best: str, voices: str, voters: str, wanted: str) -> tuple[str, str, str]:
        """Ids, scores and reasons, each (B, k)."""
        graph, model = self.graph, self.model
        there = graph.add("Greater", best, self.real(-np.inf))
        ids = graph.constant(np.append(model.ids, ABSENT), np.int64)
        items = self.where(there, graph.add("Gather", ids, places), self.whole(ABSENT))
        scores = self.where(there, best, self.real(0.0))
        voice = graph.add("GatherElements", voices, places, axis=1)
        slot = graph.add(
            "Sub",
            self.whole(model.max_history - 1),
            graph.add("Mod", voice, self.whole(model.max_history)),
        )
        heard = graph.add("GreaterOrEqual", voice, self.whole(model.max_history))
        heard = graph.add("And", heard, there)
        voter = graph.add("GatherElements", voters, self.where(heard, slot, self.whole(0)), axis=1)
        because = self.where(heard, graph.add("Gather", ids, voter), self.whole(ABSENT))
        missing = graph.add("Sub", graph.add("Unsqueeze", wanted, self.vector(0)), self._width(places))
        pads = graph.add("Concat", self.vector(0, 0, 0), missing, axis=0)
        absent = self.whole(ABSENT)
        return (
            graph.add("Pad", items, pads, absent),
            graph.add("Pad", scores, pads, self.real(0.0)),
            graph.add("Pad", because, pads, absent),
        )
