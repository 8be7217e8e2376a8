"""Expressions: what they may not do, what they may not get wrong, and that each sees one row."""

from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from polars.testing import assert_series_equal

from penstock.loading.steps_expressions import AGGREGATES, FUNCTIONS, StepError, expression

ROWS = pl.DataFrame(
    {
        "n": [1, 2, None, 4, 5],
        "x": [0.5, -2.5, 3.25, None, 0.0],
        "s": [" a1", "Bb", None, "dd-e", ""],
        "day": [date(2024, 1, 31), None, date(2024, 2, 29), date(2023, 12, 31), date(1999, 1, 1)],
        "at": [datetime(2024, 1, 1, hour, 30, tzinfo=UTC) for hour in (0, 5, 12, 22, 23)],
    },
    schema_overrides={"at": pl.Datetime("us", "UTC")},
)


def value(text: str, frame: pl.DataFrame = ROWS) -> pl.Series:
    return frame.select(expression(text).alias("value"))["value"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("(SELECT 1)", "a query inside is not possible"),
        ("n IN (SELECT a FROM read_csv('/no/such/file'))", "there is no function 'read_csv'|a query inside"),
        ("n IN (FROM read_csv('/no/such/file'))", "a query inside is not possible"),
        ("EXISTS (TABLE t)", "there is no function 'exists'"),
        ("n = ANY (VALUES (1))", "a query inside is not possible"),
        ("read_parquet('/no/such/file')", "there is no function 'read_parquet'"),
        ("\"read_csv\"('/no/such/file')", "is no function"),
        ("'' || E'\\' || (' || 'SELECT 1)'", "e'…' is not possible"),
        ("n /* ' */ IN (1) --'", "comments have no place"),
        ("$$a$$", "there is no \\$ in an expression"),
        ("n; n", "there is no ; in an expression"),
        ("now()", "now is another at every run"),
        ("n > CURRENT_DATE", "current_date is another at every run"),
        ("random() > 0.5", "random is another at every run"),
        ("x - AVG(x)", r"avg\(…\) looks at many rows"),
        ("lag(x) OVER (ORDER BY n)", r"lag\(…\) looks at many rows"),
        ("n + x OVER (PARTITION BY s)", r"over\(…\) looks at many rows"),
        ("COLUMNS('.*')", "there is no function 'columns'"),
        ("UNNEST(s)", "there is no function 'unnest'"),
        ("lenght(s)", "there is no function 'lenght'"),
        ("*", "is no expression"),
        ('1 + "*"', "stands for several columns"),
        ('"^n|x$" + 1', "stands for several columns"),
        ("n +", "is no expression"),
        ("n, x", "is no expression"),
        ("'open", "a ' is not closed"),
        ('"open', 'a " is not closed'),
        ("", "is empty"),
        ("DATE '2024-13-01'", "is no expression"),
    ],
)
def test_what_an_expression_cannot_be_is_told(text, told):
    with pytest.raises(StepError, match=told):
        expression(text)


def test_a_misspelt_function_is_guessed():
    with pytest.raises(StepError) as error:
        expression("lenght(s)")
    assert error.value.hint == "did you mean 'length'?"


@pytest.mark.parametrize("text", ["n", "n + 1", "UPPER(s)", "1"])
def test_an_aggregate_must_be_one(text):
    with pytest.raises(StepError, match="no single value for a group"):
        expression(text, aggregate=True)


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20))
def test_any_text_can_be_said(text):
    quoted = "'" + text.replace("'", "''") + "'"
    assert value(f"{quoted} || ''", ROWS.head(1)).item() == text


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_any_column_can_be_named(name):
    # What polars takes for several columns is refused, not guessed at.
    assume(name != "*" and not (name[0] == "^" and name[-1] == "$"))
    quoted = '"' + name.replace('"', '""') + '"'
    frame = pl.DataFrame({name: [41]})
    assert value(f"1 + {quoted}", frame).item() == 42


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # As polars has them, hours are of 8 bits, lengths of 32 without a sign, and literals of 32.
        ("EXTRACT(hour FROM at) * 100 + EXTRACT(minute FROM at)", [30, 530, 1230, 2230, 2330]),
        ("EXTRACT(hour FROM at) * EXTRACT(minute FROM at)", [0, 150, 360, 660, 690]),
        ("LENGTH(s) - 3", [0, -1, None, 1, -3]),
        ("STRPOS(COALESCE(s, ''), 'z') - 1", [-1] * 5),
        ("CASE WHEN n > 3 THEN 2000000000 ELSE 1 END * 2", [2, 2, 2, 4000000000, 4000000000]),
        ("IF(n > 3, -2000000000, 0) - 2000000000", [-(2 * 10**9)] * 3 + [-4 * 10**9] * 2),
        ("n * 3000000000", [3 * 10**9, 6 * 10**9, None, 12 * 10**9, 15 * 10**9]),
        ("EXTRACT(year FROM day) * 1000000", [2024 * 10**6, None, 2024 * 10**6, 2023 * 10**6, 1999 * 10**6]),
    ],
)
def test_whole_numbers_do_not_overflow(text, expected):
    assert value(text).to_list() == expected


def test_sums_do_not_overflow():
    ones = pl.DataFrame({"n": [1, 2, 3]})
    total = expression("sum(CASE WHEN n > 1 THEN 2000000000 ELSE 0 END)", aggregate=True)
    assert ones.select(total).item() == 4_000_000_000


@pytest.mark.parametrize(
    ("moment", "later"),
    [
        ("2024-01-01 05:30:00", 3),
        ("2024-01-01T05:30:00Z", 3),
        ("2024-01-01 06:30:00+01:00", 3),
        ("2024-01-01", 5),
        ("2024-01-02", 0),
    ],
)
@pytest.mark.parametrize("word", ["TIMESTAMP", "timestamptz"])
def test_a_moment_is_in_utc_unless_it_says_otherwise(word, moment, later):
    assert value(f"at > {word} '{moment}'").sum() == later


def test_the_first_of_a_month_as_the_page_has_it():
    first = value("CAST(STRPTIME(STRFTIME(day, '%Y-%m-01'), '%Y-%m-%d') AS DATE)")
    assert first.to_list()[:3] == [date(2024, 1, 1), None, date(2024, 2, 1)]


CALLS = {
    "atan2": "atan2(x, n)",
    "bit_and": "bit_and(n, 3)",
    "bit_count": "bit_count(n)",
    "bit_length": "bit_length(s)",
    "bit_or": "bit_or(n, 8)",
    "bit_xor": "bit_xor(n, 1)",
    "cast": "cast(n AS DECIMAL(10, 2))",
    "char_length": "char_length(s)",
    "character_length": "character_length(s)",
    "coalesce": "coalesce(x, n, 7)",
    "concat": "concat(s, n)",
    "concat_ws": "concat_ws('-', s, n)",
    "date_part": "date_part('isodow', day)",
    "div": "div(n, 2)",
    "ends_with": "ends_with(s, 'e')",
    "extract": "extract(doy FROM day)",
    "greatest": "greatest(x, n, 1)",
    "if": "if(n > 1, 'a', s)",
    "ifnull": "ifnull(x, 0)",
    "initcap": "initcap(s)",
    "least": "least(x, n)",
    "left": "left(s, 1)",
    "length": "length(s)",
    "log": "log(n, 2)",
    "lower": "lower(s)",
    "lpad": "lpad(s, 3, '0')",
    "ltrim": "ltrim(s)",
    "mod": "mod(n, 2)",
    "normalize": "normalize(s)",
    "nullif": "nullif(n, 2)",
    "octet_length": "octet_length(s)",
    "pi": "pi() * x",
    "position": "position('d' IN s)",
    "pow": "pow(x, 2)",
    "power": "power(x, 3)",
    "regexp_like": "regexp_like(s, '^.d')",
    "regexp_replace": "regexp_replace(s, '[ad]', 'z', 'g')",
    "replace": "replace(s, 'd', 'q')",
    "reverse": "reverse(s)",
    "right": "right(s, 2)",
    "round": "round(x, 1)",
    "rpad": "rpad(s, 3, '0')",
    "rtrim": "rtrim(s)",
    "split_part": "split_part(s, '-', 1)",
    "starts_with": "starts_with(s, 'B')",
    "strftime": "strftime(at, '%H')",
    "strpos": "strpos(s, 'd')",
    "strptime": "strptime(strftime(at, '%Y-%m-%d'), '%Y-%m-%d')",
    "substr": "substr(s, 2, 1)",
    "substring": "substring(s FROM 2 FOR 1)",
    "trim": "trim(BOTH ' ' FROM s)",
    "try_cast": "try_cast(right(s, 1) AS BIGINT)",
    "upper": "upper(s)",
}


@pytest.mark.parametrize("function", sorted(FUNCTIONS))
def test_a_function_sees_one_row(function):
    text = CALLS.get(function, f"{function}(x)")
    whole = value(text)
    assert whole.null_count() < len(whole)
    for size in (1, 2, 3):
        parts = [value(text, ROWS.slice(at, size)) for at in range(0, ROWS.height, size)]
        assert_series_equal(pl.concat(parts), whole)


@pytest.mark.parametrize("function", sorted(AGGREGATES))
def test_an_aggregate_gives_one_value_for_a_group(function):
    text = {
        "corr": "corr(n, x)",
        "covar": "covar(n, x)",
        "covar_pop": "covar_pop(n, x)",
        "covar_samp": "covar_samp(n, x)",
        "filter": "sum(x) FILTER (WHERE n IN (1, 2))",
        "quantile_cont": "quantile_cont(x, 0.25)",
        "quantile_disc": "quantile_disc(x, 0.25)",
    }.get(function, f"{function}(x)")
    made = ROWS.group_by("day").agg(expression(text, aggregate=True).alias("value"))
    assert made.height == 5
    assert not made.schema["value"].is_nested()
