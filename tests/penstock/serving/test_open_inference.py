"""Requests and responses of the Open Inference Protocol, in JSON and in bytes."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.serving.open_inference import DTYPES, decoded, encoded
from penstock.serving.refusals import Refusal

PLAIN = {"inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [1, 2.5]}]}


def asked(*inputs, **more):
    return json.dumps({"inputs": list(inputs)} | more).encode()


def test_data_may_be_flat_or_nested():
    flat = decoded(asked({"name": "x", "shape": [2, 2], "datatype": "INT64", "data": [1, 2, 3, 4]}), None)
    nested = decoded(
        asked({"name": "x", "shape": [2, 2], "datatype": "INT64", "data": [[1, 2], [3, 4]]}), None
    )
    assert flat.inputs["x"].values == nested.inputs["x"].values == [1, 2, 3, 4]


@settings(max_examples=60, deadline=None)
@given(
    datatype=st.sampled_from([*DTYPES, "BYTES"]),
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    data=st.data(),
)
def test_what_is_sent_as_bytes_comes_back_as_bytes(datatype, shape, data):
    count = int(np.prod(shape))
    if datatype == "BYTES":
        strings = data.draw(st.lists(st.text(max_size=4), min_size=count, max_size=count))
        values = np.array(strings, dtype=object).reshape(shape)
    else:
        raw = data.draw(st.binary(min_size=count * 8, max_size=count * 8))
        size = DTYPES[datatype].itemsize
        if datatype == "BOOL":
            raw = bytes(byte % 2 for byte in raw)
        values = np.frombuffer(raw[: count * size], dtype=DTYPES[datatype]).reshape(shape)
    nothing = decoded(orjson.dumps(PLAIN | {"parameters": {"binary_data_output": True}}), None)
    body, length = encoded({}, [("x", datatype, values)], nothing)
    assert length is not None
    told = orjson.loads(body[:length])["outputs"][0]
    request = asked(told)
    back = decoded(request + body[length:], len(request)).inputs["x"]
    assert back.shape == tuple(shape)
    expected = values.ravel().tolist() if datatype == "BYTES" else values.tobytes()
    assert (list(back.values) if datatype == "BYTES" else np.asarray(back.values).tobytes()) == expected


WRONG = {
    "no JSON": (b"{", None, "not JSON"),
    "no inputs": (b"{}", None, "inputs"),
    "none of them": (asked(), None, "1 to"),
    "twice": (asked(*[PLAIN["inputs"][0]] * 2), None, "twice"),
    "a datatype unheard of": (asked(PLAIN["inputs"][0] | {"datatype": "FP8"}), None, "FP8"),
    "too few": (asked(PLAIN["inputs"][0] | {"data": [1]}), None, "expected 2 elements"),
    "nested otherwise": (asked(PLAIN["inputs"][0] | {"data": [[1, 2]]}), None, "nested"),
    "no data": (asked({"name": "x", "shape": [1], "datatype": "FP32"}), None, "no data"),
    "a negative size": (asked(PLAIN["inputs"][0] | {"shape": [-2, 1]}), None, "shape"),
    "no size": (asked(PLAIN["inputs"][0] | {"shape": []}), None, "shape"),
    "a header that is too long": (asked(), 999, "within the body"),
    "bytes behind it": (asked(PLAIN["inputs"][0]) + b"more", len(asked(PLAIN["inputs"][0])), "follow"),
    "more bytes than there are": (
        asked({"name": "x", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}),
        None,
        "binary_data_size",
    ),
}


@pytest.mark.parametrize("what", sorted(WRONG))
def test_what_is_no_request_is_refused_in_words(what):
    content, length, words = WRONG[what]
    with pytest.raises(Refusal, match=words) as caught:
        decoded(content, length)
    assert caught.value.status == 400


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=60), length=st.none() | st.integers(-5, 80), prefix=st.booleans())
def test_no_bytes_are_more_than_refused(content, length, prefix):
    head = asked({"name": "x", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 9}})
    with contextlib.suppress(Refusal):
        decoded(head + content if prefix else content, len(head) if prefix else length)


def test_outputs_are_those_that_are_wanted():
    values = [("a", "FP32", np.ones((1, 1), np.float32)), ("b", "BYTES", np.array(["x"], object))]
    wanted = decoded(orjson.dumps(PLAIN | {"outputs": [{"name": "b"}]}), None)
    body, length = encoded({"id": "7"}, values, wanted)
    assert length is None
    assert orjson.loads(body) == {
        "id": "7",
        "outputs": [{"name": "b", "datatype": "BYTES", "shape": [1], "data": ["x"]}],
    }
    with pytest.raises(Refusal, match="there is no 'c'"):
        encoded({}, values, decoded(orjson.dumps(PLAIN | {"outputs": [{"name": "c"}]}), None))
