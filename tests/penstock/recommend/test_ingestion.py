"""From anybody's table to interactions: types by the part a column plays, and a reason for every row that is none."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest

from penstock.config import Column, Contract, FileSource, InteractionTask
from penstock.errors import PenstockError
from penstock.recommend.ingestion import COLUMNS, ingest, item_of_text
from penstock.sources import read

TASK = InteractionTask(kind="interactions")
CSV = """user,item,time,extra
ann,10,2020-01-01T10:00:00,x
ann,12,2020-01-02,x
bob,10,2020-01-01 09:00:00Z,x
,10,2020-01-03,x
bob,,2020-01-03,x
bob,11,yesterday,x
bob,eleven,2020-01-03,x
bob,-4,2020-01-03,x
ann,10,2020-01-01T10:00:00,again
ann,10,2020-05-01,later
cat,10,2020-01-05,x
cat,11,2020-01-06,x
cat,12,2020-01-07,x
cat,13,2020-01-08,x
dan,10,2020-01-05,x
dan,11,2020-01-06,x
dan,12,2020-01-07,x
dan,13,2020-01-08,x
eve,10,2020-01-05,x
eve,11,2020-01-06,x
eve,12,2020-01-07,x
eve,13,2020-01-08,x
"""


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Read a CSV from text."""
    monkeypatch.chdir(tmp_path)

    def make(text: str):
        (tmp_path / "taken.csv").write_text(text)
        return read(FileSource(kind="file", path="taken.csv", watch="taken.csv"))

    return make


def test_rows_that_are_no_interaction_go_to_quarantine_and_tell_why(table):
    done = ingest(table(CSV), Contract(), TASK)
    assert done.interactions.schema == COLUMNS
    assert done.interactions.height == 22 - 6
    told = dict(zip(done.bad["position"].to_list(), done.bad["reason"].to_list(), strict=True))
    assert len(told) == 6
    words = " | ".join(told.values())
    for part in (
        "user: expected a value",
        "item: expected a value",
        "'yesterday'",
        "'eleven'",
        "'-4'",
        "an earlier row is the same",
    ):
        assert part in words, words
    assert sum(done.reasons.values()) == 6
    ann = done.interactions.filter(user="ann")
    assert ann.select("item", "time").rows() == [
        (10, datetime(2020, 1, 1, 10, tzinfo=UTC)),
        (12, datetime(2020, 1, 2, tzinfo=UTC)),
        (10, datetime(2020, 5, 1, tzinfo=UTC)),
    ]


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_whole_numbers_are_times_in_their_unit(table, unit, factor):
    moment = 1_600_000_000
    text = f"user,item,time\na,1,{moment * factor}\n"
    done = ingest(table(text), Contract(), TASK.model_copy(update={"time_unit": unit}))
    assert done.interactions["time"].to_list() == [datetime.fromtimestamp(moment, UTC)]


def test_items_called_by_a_text_have_an_id_that_is_always_the_same(table):
    text = "user,item,time\na,red shoe,2020-01-01\nb,007,2020-01-01\nb,red shoe,2020-01-02\n"
    found = ingest(table(text), Contract(), TASK).interactions
    ids = dict(found.select("key", "item").rows())
    assert ids == {"red shoe": item_of_text("red shoe"), "007": item_of_text("007")}
    # Exact as a number of JavaScript.
    assert all(0 <= id_ < 2**53 for id_ in ids.values())


def test_titles_genres_years_and_ratings_come_along(table):
    text = "who,what,when,stars,name,kinds,made\na,1,2020-01-01,4.5,Alien,Horror| Sci-Fi |,1979\nb,2,2020-01-01,,,,\n"
    task = InteractionTask(
        kind="interactions",
        user="who",
        item="what",
        time="when",
        rating="stars",
        title="name",
        genres="kinds",
        year="made",
    )
    first, second = ingest(table(text), Contract(), task).interactions.rows(named=True)
    assert (first["title"], first["genres"], first["year"]) == ("Alien", ["Horror", "Sci-Fi"], 1979)
    assert first["rating"] == 4.5
    assert (second["title"], second["genres"], second["year"], second["rating"]) == (None, None, None, None)


@pytest.mark.parametrize(
    ("task", "contract", "words"),
    [
        ({"user": "usr"}, {}, "task.user: there is no column 'usr'"),
        ({"genres": "kinds"}, {}, "task.genres: there is no column 'kinds'"),
        ({}, {"columns": {"time": {"type": "text"}}}, "a time is integer or datetime or date, not text"),
        ({}, {"columns": {"user": {"type": "category", "nullable": True}}}, "without a user a row is no"),
        ({}, {"others": "forbid", "columns": {"user": {"type": "category"}}}, "does not name"),
    ],
)
def test_a_table_that_cannot_be_interactions_is_refused_with_what_to_do(table, task, contract, words):
    source = table("user,item,time\na,1,2020-01-01\nb,2,2020-01-01\n")
    with pytest.raises(PenstockError, match=words):
        ingest(source, Contract.model_validate(contract), TASK.model_copy(update=task))


def test_what_the_contract_says_of_a_column_counts(table):
    text = "user,item,time,rating\na,1,2020-01-01,5\na,2,2020-01-02,9\n"
    contract = Contract(columns={"rating": Column(type="number", min=0, max=5)})
    done = ingest(table(text), contract, TASK.model_copy(update={"rating": "rating"}))
    assert done.interactions["item"].to_list() == [1]
    assert pl.Series(done.bad["reason"]).str.contains("rating").all()
