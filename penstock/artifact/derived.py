"""Derived columns as ONNX nodes: the same values as ``penstock.features.derive``, for one row or a million.

Every tensor has shape (rows, 1). A missing number is NaN, a missing string is "".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from penstock.artifact.graph import Graph
from penstock.config import Bins, Cross, DatePart, Derived, Difference, Log, Product, Ratio, Sum
from penstock.features.derive import CROSS_SEPARATOR

__all__ = ["Tensors", "emit"]

# Column name → tensor; dates keep the double precision in which they enter.
Tensors = dict[str, str]

SECONDS_A_DAY = 86_400
NAN = float("nan")


def emit(graph: Graph, derived: Derived, tensors: Tensors, *, is_datetime: Callable[[str], bool]) -> str:
    """Add the nodes of one derived column and return its tensor."""
    match derived:
        case Ratio():
            above, below = tensors[derived.numerator], tensors[derived.denominator]
            none = graph.add("Equal", below, graph.constant([[0.0]]))
            return graph.add("Where", none, graph.constant([[NAN]]), graph.add("Div", above, below))
        case Difference():
            return graph.add("Sub", tensors[derived.left], tensors[derived.right])
        case Sum():
            return _folded(graph, "Add", [tensors[name] for name in derived.columns])
        case Product():
            return _folded(graph, "Mul", [tensors[name] for name in derived.columns])
        case Log():
            return _log1p(graph, tensors[derived.column])
        case Bins():
            return _bins(graph, tensors[derived.column], derived.edges)
        case Cross():
            return _cross(graph, [tensors[name] for name in derived.columns])
        case DatePart():
            return _date_part(graph, tensors[derived.column], derived.part, is_datetime(derived.column))


def _folded(graph: Graph, op: str, tensors: list[str]) -> str:
    whole = tensors[0]
    for tensor in tensors[1:]:
        whole = graph.add(op, whole, tensor)
    return whole


def _log1p(graph: Graph, tensor: str) -> str:
    # In double precision: ln(1 + x) of a small x would lose its digits in single.
    double = graph.cast(tensor, TensorProto.DOUBLE)
    defined = graph.add("Greater", double, graph.constant([[-1.0]], np.float64))
    inside = graph.add("Where", defined, double, graph.constant([[0.0]], np.float64))
    log = graph.add("Log", graph.add("Add", inside, graph.constant([[1.0]], np.float64)))
    return graph.add("Where", defined, graph.cast(log, TensorProto.FLOAT), graph.constant([[NAN]]))


def _bins(graph: Graph, tensor: str, edges: tuple[float, ...]) -> str:
    reached = graph.add("GreaterOrEqual", tensor, graph.constant([list(edges)]))
    count = graph.add(
        "ReduceSum", graph.cast(reached, TensorProto.FLOAT), graph.constant([1], np.int64), keepdims=1
    )
    return graph.add("Where", graph.add("IsNaN", tensor), graph.constant([[NAN]]), count)


def _cross(graph: Graph, tensors: list[str]) -> str:
    empty = graph.constant([[""]], object)
    missing = _folded(graph, "Or", [graph.add("Equal", tensor, empty) for tensor in tensors])
    joined = tensors[0]
    for tensor in tensors[1:]:
        joined = graph.add("StringConcat", joined, graph.constant([[CROSS_SEPARATOR]], object))
        joined = graph.add("StringConcat", joined, tensor)
    return graph.add("Where", missing, empty, joined)


def _date_part(graph: Graph, tensor: str, part: str, is_datetime: bool) -> str:
    missing = graph.add("IsNaN", tensor)
    days = _Doubles(graph, graph.add("Where", missing, graph.constant([[0.0]], np.float64), tensor))
    if is_datetime:
        seconds, days = days, days.floor_divided(SECONDS_A_DAY)
        if part == "hour":
            days = (seconds - days * SECONDS_A_DAY).floor_divided(3600)
    if part == "weekday":
        days = _weekday(days)
    elif part != "hour":
        days = _civil(days)[part]
    value = graph.cast(days.tensor, TensorProto.FLOAT)
    return graph.add("Where", missing, graph.constant([[NAN]]), value)


def _weekday(days: _Doubles) -> _Doubles:
    # 1970-01-01 was a Thursday: Monday is 1.
    shifted = days + 3
    return shifted - shifted.floor_divided(7) * 7 + 1


def _civil(days: _Doubles) -> dict[str, _Doubles]:
    """Year, month and day of days since 1970-01-01 in the proleptic Gregorian calendar.

    After H. Hinnant, "chrono-Compatible Low-Level Date Algorithms" (civil_from_days): years begin in March, so
    that the leap day is the last of its year.
    """
    shifted = days + 719_468
    era = shifted.floor_divided(146_097)
    day_of_era = shifted - era * 146_097
    leaps = (
        day_of_era.floor_divided(1_460) - day_of_era.floor_divided(36_524) + day_of_era.floor_divided(146_096)
    )
    year_of_era = (day_of_era - leaps).floor_divided(365)
    day_of_year = day_of_era - (
        year_of_era * 365 + year_of_era.floor_divided(4) - year_of_era.floor_divided(100)
    )
    shifted_month = (day_of_year * 5 + 2).floor_divided(153)
    day = day_of_year - (shifted_month * 153 + 2).floor_divided(5) + 1
    # Months 10 and 11 of a year that begins in March are January and February of the next.
    wraps = (shifted_month + 2).floor_divided(12)
    month = shifted_month + 3 - wraps * 12
    year = year_of_era + era * 400 + wraps
    return {"year": year, "month": month, "day": day}


class _Doubles:
    """Arithmetic on a double-precision tensor, written as one writes it."""

    def __init__(self, graph: Graph, tensor: str) -> None:
        self.graph = graph
        self.tensor = tensor

    def _with(self, op: str, other: _Doubles | float) -> _Doubles:
        right = (
            other.tensor if isinstance(other, _Doubles) else self.graph.constant([[float(other)]], np.float64)
        )
        return _Doubles(self.graph, self.graph.add(op, self.tensor, right))

    def __add__(self, other: _Doubles | float) -> _Doubles:
        return self._with("Add", other)

    def __sub__(self, other: _Doubles | float) -> _Doubles:
        return self._with("Sub", other)

    def __mul__(self, other: _Doubles | float) -> _Doubles:
        return self._with("Mul", other)

    def floor_divided(self, divisor: float) -> _Doubles:
        """The quotient rounded down, also below zero."""
        quotient = self._with("Div", divisor)
        return _Doubles(self.graph, self.graph.add("Floor", quotient.tensor))
