"""SQL expressions as polars expressions: those that see the columns of a row, and nothing else.

``polars.sql_expr`` is the language; a language of our own would have to be learnt. What it takes is more than what a step
can stand for, so words are looked at first: it reads files (``(SELECT … FROM read_csv(…))``), knows the time of day, and
does not tell a function of one row from one of many (``price - AVG(price)`` would depend on how rows are cut into chunks).
What it gives is less than what a person means, so some words are put in: an integer of 8 or 32 bits, as which polars takes
literals, lengths and parts of dates, overflows without a word, and times of a load are in UTC.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

import polars as pl

__all__ = ["AGGREGATES", "FUNCTIONS", "StepError", "expression", "first_line", "near"]


class StepError(Exception):
    """What is wrong with a step, and what to do about it; becomes an error that names the step."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# DATE(x) and TIMESTAMP(x) are left out: they guess a format from the values that they happen to see.
FUNCTIONS = _words(
    "abs acos asin atan atan2 bit_and bit_count bit_length bit_or bit_xor cast cbrt ceil ceiling char_length "
    "character_length coalesce concat concat_ws cos cot date_part degrees div ends_with exp extract floor greatest if "
    "ifnull initcap least left length ln log log10 log1p log2 lower lpad ltrim mod normalize nullif octet_length pi "
    "position pow power radians regexp_like regexp_replace replace reverse right round rpad rtrim sign sin split_part "
    "sqrt starts_with strftime strpos strptime substr substring tan trim try_cast upper"
)
AGGREGATES = _words(
    "avg corr count covar covar_pop covar_samp filter first last max median min quantile_cont quantile_disc stddev "
    "stddev_samp sum var_samp variance"
)
# Those whose result polars holds in few bits.
NARROW = _words(
    "bit_count bit_length char_length character_length date_part extract length octet_length position strpos"
)
# Those whose arguments are values like any other; elsewhere a number may have to be a literal.
OF_VALUES = _words("abs avg cast coalesce greatest if ifnull least max median min mod nullif sum try_cast")
TYPES = _words("char character dec decimal float numeric string text varchar")
BEFORE_PARENTHESIS = _words(
    "all and any as between by case distinct else escape for from ilike in is like not or regexp rlike then when where "
    "xor"
)
WINDOWS = _words(
    "cume_dist dense_rank first_value lag last_value lead nth_value ntile over percent_rank rank row_number"
)
CLOCKS = _words("current_date current_time current_timestamp localtime localtimestamp now random today uuid")
SUBQUERIES = _words("from select table values with")
TOKEN = re.compile(
    r"""(?P<text>'(?:[^']|'')*')|(?P<quoted>"(?:[^"]|"")*"|`[^`]*`)|(?P<comment>--|/\*)
    |(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|(?P<word>[^\W\d]\w*)|(?P<space>\s+)|(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
ZONE = re.compile(r"([zZ]|[+-]\d\d:?\d\d)$")


def expression(text: str, *, aggregate: bool = False) -> pl.Expr:
    """Parse an expression.

    Args:
        text: ``price * qty``, ``CASE WHEN … END``; of many rows, ``sum(price)``.
        aggregate: Whether it is one of many rows, and must be.

    Raises:
        StepError: It is none, or one that a step does not take.
    """
    try:
        parsed = pl.sql_expr(_Reader(text, aggregate).read())
    except pl.exceptions.PolarsError as error:
        raise StepError(f"{text!r} is no expression: {first_line(error)}") from error
    if parsed.meta.has_multiple_outputs():
        raise StepError(f"{text!r} stands for several columns", "name each")
    return parsed


@dataclass
class _Open:
    """A parenthesis that is not closed yet.

    Attributes:
        values: Whether a number inside may be any value, as opposed to a literal that its function asks for.
        end: What follows the closing one.
    """

    values: bool
    end: str = ""


class _Reader:
    """Goes through the words of an expression once."""

    def __init__(self, text: str, aggregate: bool) -> None:
        self.text, self.aggregate = text, aggregate
        self.out: list[str] = []
        self.open = [_Open(values=True)]
        self.before = ("", "")  # kind and text of the last token that is no white space
        self.at = 0  # where it is in `out`
        self.adjacent = False  # whether nothing lies between
        self.aggregates = False

    def read(self) -> str:
        """The expression as polars is to read it.

        Raises:
            StepError: It is not one for a step.
        """
        if not self.text.strip():
            raise StepError("the expression is empty")
        for match in TOKEN.finditer(self.text):
            kind, token = str(match.lastgroup), match[0]
            if kind == "space":
                self.out.append(token)
                self.adjacent = False
                continue
            self.out.append(self._token(kind, token))
            self.before, self.at, self.adjacent = (kind, token.lower()), len(self.out) - 1, True
        if self.aggregate and not self.aggregates:
            raise StepError(
                f"{self.text!r} has no single value for a group",
                f"say which: sum, max, first …, as in max({self.text})",
            )
        return "".join(self.out)

    def _token(self, kind: str, token: str) -> str:
        match kind:
            case "comment":
                raise self._wrong("comments have no place in it", "put them in the YAML file")
            case "word":
                return self._word(token)
            case "text":
                return self._text(token)
            case "number":
                return self._number(token)
            case "quoted":
                return token
            case _:
                return self._sign(token)

    def _word(self, word: str) -> str:
        low = word.lower()
        if low in CLOCKS - {"now", "random", "today", "uuid"}:
            raise self._clock(low)
        if low == "select" or (low in SUBQUERIES and self.before[1] == "("):
            raise self._wrong("a query inside is not possible", "use the step `sql`, or `join`")
        return word

    def _text(self, token: str) -> str:
        kind, word = self.before
        if kind == "word" and self.adjacent and len(word) == 1:
            raise self._wrong(f"{word}'…' is not possible", "write plain text: 'it''s'")
        if kind == "word" and word in {"timestamp", "timestamptz"}:
            self.out[self.at] = "TIMESTAMPTZ"
            moment = token[1:-1].strip()
            if not ZONE.search(moment[10:]):
                return f"'{moment}{' 00:00:00' if len(moment) == 10 else ''}Z'"
        return token

    def _number(self, token: str) -> str:
        whole = token.isdigit() and int(token) < 2**63
        return f"CAST({token} AS BIGINT)" if whole and self.open[-1].values else token

    def _sign(self, sign: str) -> str:
        if sign in "'\"`":
            raise self._wrong(f"a {sign} is not closed")
        if sign in "$;":
            raise self._wrong(f"there is no {sign} in an expression")
        if sign == "(":
            self.open.append(self._opened())
        elif sign == "[":
            self.open.append(_Open(values=False))
        elif sign in ")]" and len(self.open) > 1:
            return sign + self.open.pop().end
        return sign

    def _opened(self) -> _Open:
        kind, word = self.before
        if kind == "quoted" and self.adjacent:
            raise self._wrong(f"{word} is no function")
        if kind != "word" or word in BEFORE_PARENTHESIS:
            return _Open(values=word != "in")
        if word in TYPES:
            return _Open(values=False)
        if word in AGGREGATES and self.aggregate:
            self.aggregates = True
            return _Open(values=word in OF_VALUES or word == "filter")
        if word in FUNCTIONS:
            if word in NARROW:
                self.out[self.at] = f"CAST({self.out[self.at]}"
                return _Open(values=False, end=" AS BIGINT)")
            return _Open(values=word in OF_VALUES)
        raise self._unknown(word)

    def _unknown(self, word: str) -> StepError:
        if word in CLOCKS:
            return self._clock(word)
        if word in AGGREGATES | WINDOWS:
            return self._wrong(
                f"{word}(…) looks at many rows", "use a step that does: aggregate, window, or sql"
            )
        known = sorted(FUNCTIONS | AGGREGATES if self.aggregate else FUNCTIONS)
        return self._wrong(
            f"there is no function {word!r}",
            near(word, known) or "docs/transformation.md lists them; the step `sql` has all of DuckDB's",
        )

    def _clock(self, word: str) -> StepError:
        return self._wrong(
            f"{word} is another at every run, and so would be what is stored",
            "compare with a column, or write the date: DATE '2024-12-31'",
        )

    def _wrong(self, what: str, hint: str | None = None) -> StepError:
        return StepError(f"{self.text!r}: {what}", hint)


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def near(name: str, there: list[str]) -> str | None:
    """A hint at what a name that does not exist may be meant for."""
    folded = {other.lower(): other for other in reversed(there)}
    found = difflib.get_close_matches(name.lower(), folded, n=1)
    return f"did you mean {folded[found[0]]!r}?" if found else None
