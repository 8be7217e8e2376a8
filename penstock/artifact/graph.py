"""A small writer of ONNX graphs: nodes, constants, and names that are the same on every run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["ML", "ML_OPSET", "OPSET", "Graph"]

# StringConcat needs 20; LightGBM's converter knows version 3 of the machine-learning operators and no later.
OPSET = 20
ML = "ai.onnx.ml"
ML_OPSET = 3

ELEMENTS = {
    "float": TensorProto.FLOAT,
    "double": TensorProto.DOUBLE,
    "string": TensorProto.STRING,
    "uint8": TensorProto.UINT8,
    "int64": TensorProto.INT64,
}


class Graph:
    """Collects nodes; every method returns the name of the tensor that it adds."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._initializers: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._count = 0
        self._inside = 0
        self._prefix = ""

    def input(self, name: str, element: str, shape: Sequence[str | int] = ("rows", 1)) -> str:
        """Declare an input."""
        self._inputs.append(helper.make_tensor_value_info(name, ELEMENTS[element], list(shape)))
        return name

    def output(self, tensor: str, name: str, element: str, shape: Sequence[str | int]) -> None:
        """Declare an output."""
        self._nodes.append(helper.make_node("Identity", [tensor], [name], name=f"output_{name}"))
        self._outputs.append(helper.make_tensor_value_info(name, ELEMENTS[element], list(shape)))

    def inner(self) -> Graph:
        """A graph for a node's attribute: it sees this one's tensors, and its constants are this one's."""
        inside = Graph()
        inside._constants, inside._initializers = self._constants, self._initializers
        self._inside += 1
        inside._prefix = f"{self._prefix}inner_{self._inside}_"
        return inside

    def body(
        self, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.GraphProto:
        """The nodes as an attribute of a node of another graph, which `inner` has given."""
        return helper.make_graph(self._nodes, name, list(inputs), list(outputs))

    def constant(self, array: NDArray[Any] | Sequence[Any] | float, dtype: Any = np.float32) -> str:
        """A constant tensor; equal ones are one."""
        value = np.asarray(array, dtype=dtype)
        content = repr(value.tolist()).encode() if value.dtype.kind in "OU" else value.tobytes()
        key = (value.dtype.str, value.shape, content)
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._constants[key] = name
            if value.dtype.kind in "OU":
                flat = [str(item).encode() for item in value.ravel()]
                self._initializers.append(helper.make_tensor(name, TensorProto.STRING, value.shape, flat))
            else:
                self._initializers.append(numpy_helper.from_array(value.copy(order="C"), name))
        return self._constants[key]

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output."""
        self._count += 1
        name = f"{self._prefix}{op}_{self._count}"
        self._nodes.append(helper.make_node(op, list(inputs), [name], name=name, domain=domain, **attributes))
        return name

    def add_many(self, op: str, *inputs: str, outputs: int, **attributes: Any) -> tuple[str, ...]:
        """Add a node with several outputs. An attribute may be a graph (``body``)."""
        self._count += 1
        name = f"{self._prefix}{op}_{self._count}"
        names = tuple(f"{name}_{number}" for number in range(outputs))
        self._nodes.append(helper.make_node(op, list(inputs), list(names), name=name, **attributes))
        return names

    def cast(self, tensor: str, element: int) -> str:
        """Cast to a TensorProto element type."""
        return self.add("Cast", tensor, to=element)

    def concat(self, tensors: Sequence[str]) -> str:
        """Join columns side by side."""
        return tensors[0] if len(tensors) == 1 else self.add("Concat", *tensors, axis=1)

    def absorb(self, model: onnx.ModelProto, tensor: str, output: str) -> str:
        """Take over another model's graph of one input and return its output ``output``.

        Nodes that only serve its other outputs are left behind.
        """
        prefix = "model_"
        rename = {model.graph.input[0].name: tensor}
        needed = _needed(model.graph, output)
        for constant in model.graph.initializer:
            rename[constant.name] = prefix + constant.name
            if any(constant.name in node.input for node in needed):
                copy = onnx.TensorProto()
                copy.CopyFrom(constant)
                copy.name = prefix + constant.name
                self._initializers.append(copy)
        for number, node in enumerate(needed):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"{prefix}{number}"
            copy.ClearField("input")
            copy.ClearField("output")
            copy.input.extend(rename.get(name, prefix + name) if name else "" for name in node.input)
            copy.output.extend(prefix + name if name else "" for name in node.output)
            self._nodes.append(copy)
        return rename.get(output, prefix + output)

    def model(
        self, name: str, opset: Mapping[str, int] = MappingProxyType({"": OPSET, ML: ML_OPSET})
    ) -> onnx.ModelProto:
        """The finished model, checked.

        It names no producer version: the manifest says what made it.

        Args:
            name: Of the graph.
            opset: The version of each domain's operators.
        """
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, self._used())
        opsets = [helper.make_opsetid(domain, version) for domain, version in opset.items()]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="penstock", ir_version=9)
        onnx.checker.check_model(model, full_check=False)
        return model

    def _used(self) -> list[onnx.TensorProto]:
        used = set(_read(self._nodes))
        return [constant for constant in self._initializers if constant.name in used]


def _read(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Names of the tensors that nodes take, those inside their graphs included."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _read(attribute.g.node)
                yield from (output.name for output in attribute.g.output)


def _needed(graph: onnx.GraphProto, output: str) -> list[onnx.NodeProto]:
    """The nodes that an output depends on, in the graph's order."""
    wanted = {output}
    kept = []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    return kept[::-1]
