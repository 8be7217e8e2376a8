"""A recommender on disk: the graph against its reference, and what its loader refuses."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.artifact import recommender_manifest
from penstock.artifact.model import open_session
from penstock.artifact.recommender_export import to_onnx
from penstock.artifact.recommender_manifest import RecommenderManifest
from penstock.artifact.recommender_model import RecommenderModel, load, read_items
from penstock.errors import PenstockError
from tests.penstock.recommend.toys import recommender, write_artefact

MODEL = recommender()
UNKNOWN = [9_001, 9_002, 2**62, -5]
IDS = st.sampled_from([*MODEL.ids.tolist(), *UNKNOWN, -1])


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> RecommenderModel:
    return load(write_artefact(tmp_path_factory.mktemp("toy"), MODEL))


def agree(artefact: RecommenderModel, history, *, model=MODEL, **asked) -> None:
    expected = model.recommend(history, **asked)
    exclude = asked.pop("exclude", ())
    found = artefact.recommend([history], exclude=[exclude], **asked)
    np.testing.assert_array_equal(found.items, expected.items)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    np.testing.assert_array_equal(found.because, expected.because)


@settings(max_examples=300, deadline=None)
@given(
    history=st.lists(IDS, max_size=30),
    exclude=st.lists(IDS, max_size=40),
    k=st.integers(1, 60),
    diversity=st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]),
)
def test_the_graph_answers_as_the_arrays_do(artefact, history, exclude, k, diversity):
    agree(artefact, history, k=k, exclude=exclude, diversity=diversity)


@settings(max_examples=100, deadline=None)
@given(history=st.lists(IDS, max_size=30), exclude=st.lists(IDS, max_size=30), k=st.integers(1, 60))
def test_nothing_seen_excluded_unknown_or_twice_comes_back(artefact, history, exclude, k):
    found = artefact.recommend([history], exclude=[exclude], k=k)
    items = found.items[0][found.items[0] >= 0].tolist()
    assert not set(items) & {*history, *exclude}
    assert set(items) <= set(MODEL.ids.tolist())
    assert len(set(items)) == len(items)
    assert len(items) == min(k, len(set(MODEL.ids.tolist()) - {*history, *exclude}))
    # What is absent stands at the end, and says nothing.
    assert (found.items[0][len(items) :] == -1).all()
    assert (found.scores[0][len(items) :] == 0).all()
    assert (found.because[0][len(items) :] == -1).all()
    assert set(found.because[0].tolist()) <= {*history, -1}


@pytest.mark.parametrize("half_life", [None, 1.0, 30.0])
def test_the_weights_of_recency_are_those_of_the_arrays(half_life):
    model = recommender(half_life=half_life, seed=3)
    session = open_session(Path("toy"), to_onnx(model, "toy"), 1)
    outputs = ["recommended", "scores", "because"]
    for history in (model.ids[:3], model.ids[:12], model.ids[::-1]):
        one = {"items": history[None], "exclude": np.zeros((1, 0), np.int64)}
        found = session.run(outputs, one | {"k": np.array(9), "diversity": np.array(0.0, np.float32)})
        expected = model.recommend(history, k=9)
        np.testing.assert_array_equal(found[0], expected.items)
        np.testing.assert_allclose(found[1], expected.scores, atol=1e-5)
        np.testing.assert_array_equal(found[2], expected.because)


def test_only_the_last_of_a_history_vote_and_all_are_masked(artefact):
    ids = MODEL.ids.tolist()
    late = ids[:6]
    early = ids[6:20]
    alone = artefact.recommend([late], k=40, exclude=[early])
    both = artefact.recommend([early + late], k=40)
    np.testing.assert_array_equal(alone.items, both.items)
    np.testing.assert_array_equal(alone.scores, both.scores)


def test_a_repeated_item_counts_once_where_it_was_last(artefact):
    first, second, third = MODEL.ids[:3].tolist()
    repeated = artefact.recommend([[first, second, third, first, first]], k=10)
    once = artefact.recommend([[second, third, first]], k=10)
    np.testing.assert_array_equal(repeated.scores, once.scores)
    other = artefact.recommend([[first, second, third]], k=10)
    assert not np.array_equal(other.scores, once.scores)


def test_padding_may_stand_anywhere_and_rows_do_not_touch_each_other(artefact):
    histories = [MODEL.ids[:5].tolist(), [], [9_001], MODEL.ids[10:13].tolist(), [MODEL.ids[0]], [-1, -1]]
    together = artefact.recommend(histories, k=7, diversity=0.4)  # more than one batch of 4
    for at, history in enumerate(histories):
        spaced = [-1, *[part for id_ in history for part in (id_, -1)]]
        alone = artefact.recommend([spaced], k=7, diversity=0.4)
        np.testing.assert_array_equal(alone.items[0], together.items[at])
        np.testing.assert_array_equal(alone.because[0], together.because[at])
    popular = MODEL.ids[:7]
    for at in (1, 2, 5):
        plain = artefact.recommend([histories[at]], k=7)
        np.testing.assert_array_equal(plain.items[0], popular)
        np.testing.assert_array_equal(plain.scores[0], MODEL.popularity[:7])
        assert (plain.because == -1).all()


def test_the_more_diversity_the_less_alike_and_the_lower_the_score(artefact):
    places = {id_: at for at, id_ in enumerate(MODEL.ids.tolist())}
    draws = np.random.default_rng(4)
    histories = [draws.choice(MODEL.ids, 5, replace=False) for _ in range(60)]

    def judged(diversity: float) -> tuple[float, float]:
        found = artefact.recommend(histories, k=5, diversity=diversity)
        alike = []
        for row in found.items:
            vectors = MODEL.vectors[[places[id_] for id_ in row.tolist()]]
            alike.append(np.maximum(vectors @ vectors.T, 0)[np.triu_indices(5, 1)].mean())
        return float(np.mean(alike)), float(found.scores.mean())

    steps = [judged(diversity) for diversity in (0.0, 0.3, 0.6, 1.0)]
    assert all(earlier[0] > later[0] for earlier, later in pairwise(steps))
    assert all(earlier[1] > later[1] for earlier, later in pairwise(steps))


def test_what_is_said_of_the_items_is_read_by_id_and_key(artefact):
    item = artefact.items[int(MODEL.ids[0])]
    assert (item.title, item.popularity) == (f"Film {MODEL.ids[0]}", 40)
    assert artefact.ids_by_key[f"k{MODEL.ids[3]}"] == MODEL.ids[3]
    assert list(artefact.items) == MODEL.ids.tolist()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"k": 0}, "k is 0"),
        ({"k": 101}, "allowed are 1 to 100"),
        ({"diversity": 1.01}, "diversity is 1.01"),
        ({"diversity": float("nan")}, "diversity is nan"),
        ({"exclude": [[1], [2]]}, "exclude has 2 rows for 1 histories"),
        ({"exclude": [list(range(61))]}, "exclude has 61 ids, allowed are 60"),
        ({"histories": [list(range(51))]}, "history has 51 ids, allowed are 50"),
    ],
)
def test_a_request_beyond_the_limits_is_refused(artefact, asked, words):
    with pytest.raises(PenstockError, match=words):
        artefact.recommend(**({"histories": [[1]]} | asked))


def test_a_history_of_any_length_can_be_made_one_that_may_be_asked(artefact):
    long = [*range(10_000, 10_045), *MODEL.ids.tolist()[:30]]
    history, exclude = artefact.within_limits(long)
    assert (len(history), len(exclude)) == (50, 25)
    found = artefact.recommend([history], exclude=[exclude], k=10)
    np.testing.assert_array_equal(found.items, MODEL.recommend(long, k=10).items)
    assert artefact.within_limits([1, 2]) == ([1, 2], [])
    assert len(artefact.within_limits(range(200))[1]) == 60


def test_nobody_asks_and_nothing_comes_back(artefact):
    assert artefact.recommend([], k=3).items.shape == (0, 3)


def test_files_that_are_not_those_of_the_manifest_are_not_opened(tmp_path):
    folder = write_artefact(tmp_path / "toy", MODEL)
    assert recommender_manifest.is_of_interactions(folder)
    (folder / "items.json").write_text("{}")
    with pytest.raises(PenstockError, match=r"items\.json: does not match its manifest"):
        load(folder)
    folder = write_artefact(tmp_path / "toy", MODEL)
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b"\0")
    with pytest.raises(PenstockError, match=r"model\.onnx: does not match its manifest"):
        load(folder)


def test_a_manifest_of_another_kind_is_none(tmp_path):
    folder = write_artefact(tmp_path / "toy", MODEL, kind="images")
    assert not recommender_manifest.is_of_interactions(folder)
    with pytest.raises(PenstockError, match="kind"):
        load(folder)
    assert not recommender_manifest.is_of_interactions(tmp_path)


def test_the_same_model_is_the_same_bytes():
    assert to_onnx(MODEL, "toy") == to_onnx(recommender(), "toy")


def test_items_are_a_file_of_json(tmp_path):
    folder = write_artefact(tmp_path / "toy", MODEL)
    manifest = RecommenderManifest.model_validate(json.loads((folder / "manifest.json").read_text()))
    assert len(read_items(folder, manifest)) == manifest.items == 40
