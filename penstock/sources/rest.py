"""Rows of a REST API, page by page, over whatever the network and the server do meanwhile.

requests with small paginators of our own, rather than dlt's client, which was tried (1.31): its offset paginator goes on by
the limit that was asked for, so that rows are lost where a server gives fewer; its waiting has no jitter; it cuts a
Retry-After down to its own maximum without a word; and it takes a second to import.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

import polars as pl
import requests
from jsonpath_ng import parse as parse_path
from jsonpath_ng.exceptions import JSONPathError

from penstock.config.loading.rest import (
    ApiKey,
    Auth,
    Basic,
    Bearer,
    ClientCredentials,
    CursorPages,
    HeaderCursorPages,
    LinkHeaderPages,
    LinkPages,
    NumberedPages,
    OffsetPages,
    RestSource,
)
from penstock.contract import QUARANTINE_SCHEMA
from penstock.errors import PenstockError
from penstock.sources.chunks import Chunk, Window
from penstock.sources.flattening import as_json_text, tabled
from penstock.sources.secrets import hidden, revealed

__all__ = ["Clock", "read_rest"]

AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MOST_REDIRECTS = 5
EARLY = 30.0  # seconds before its end that a token counts as ended
BLOCK = 1 << 16
SHOWN = 120


@dataclass(frozen=True)
class Clock:
    """Time, for tests to tell."""

    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random


def read_rest(source: RestSource, window: Window, clock: Clock = Clock()) -> Iterator[Chunk]:
    """Read all pages.

    A row that is no object is broken. With ``ordered`` and a cursor a load may be cut after any page, else only at the end.

    Raises:
        PenstockError: The server refuses, does not answer with JSON, or is at fault for longer than ``retries`` bears
            with; a page has no rows where ``select`` looks; or the pages go round in a circle.
    """
    with ExitStack() as stack:
        base = source.url
        if base is None:
            from penstock.examples.api import serving

            base, token = stack.enter_context(serving())
            source = source.model_copy(update={"auth": Bearer(kind="bearer", token=token)})
        session = stack.enter_context(requests.Session())
        # Neither .netrc nor a proxy of the environment may put in or see credentials that conf/ does not name.
        session.trust_env = False
        yield from _Reading(source, revealed(base, url=True), window, session, clock).chunks()


@dataclass
class _Page:
    rows: list[Any]
    answer: Any
    response: requests.Response


@dataclass
class _Reading:
    """One reading of all pages."""

    source: RestSource
    base: str
    window: Window
    session: requests.Session
    clock: Clock
    token: str | None = None
    token_ends: float = 0.0
    allowance: float = field(init=False, default=0.0)
    filled: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        address = urlsplit(self.base)
        self.origin = (address.scheme, address.hostname, address.port)
        # What people are shown: no query, no user.
        self.name = (
            f"{address.scheme}://{address.hostname}{f':{address.port}' if address.port else ''}{address.path}"
        )
        try:
            self.path = parse_path(self.source.select)
        except (JSONPathError, Exception) as error:
            raise PenstockError(
                f"source.select: {self.source.select!r} is no JSONPath ({error})",
                hint="such as data.items, or $ for the whole",
            ) from error
        if self.source.rate:
            self.allowance, self.filled = float(self.source.rate.burst), self.clock.now()

    # --- pages --------------------------------------------------------------------------------------

    def chunks(self) -> Iterator[Chunk]:
        position = 0
        waiting: list[Any] = []
        ordered = self.source.ordered and self.window.cursor is not None
        for page in self._pages():
            waiting += page.rows
            while len(waiting) >= self.window.batch_rows:
                head, waiting = waiting[: self.window.batch_rows], waiting[self.window.batch_rows :]
                # Rows of the cut page remain: its last cursor may stand on both sides, which `since` reads again.
                yield self._chunk(head, position, boundary=ordered)
                position += len(head)
        yield self._chunk(waiting, position, boundary=True)

    def _chunk(self, rows: list[Any], position: int, *, boundary: bool) -> Chunk:
        sound = [at for at, row in enumerate(rows) if isinstance(row, dict)]
        frame = tabled([rows[at] for at in sound])
        wrong = [at for at, row in enumerate(rows) if not isinstance(row, dict)]
        broken = pl.DataFrame(
            [
                (
                    self.name,
                    position + at,
                    f"row: expected a JSON object, found {as_json_text(rows[at])[:SHOWN]}",
                    as_json_text({"row": rows[at]}),
                )
                for at in wrong
            ],
            schema=QUARANTINE_SCHEMA,
            orient="row",
        )
        at = pl.Series([position + at for at in sound], dtype=pl.Int64)
        reasons = {"row: JSON object": len(wrong)} if wrong else {}
        return Chunk(frame, self.name, at, broken, reasons, boundary=boundary)

    def _pages(self) -> Iterator[_Page]:
        url, params = self.base, self._first_params()
        seen: set[str] = set()
        offset = 0
        for number in range(1, self.source.max_pages + 1):
            page = self._page(url, params, number)
            mark = f"{url} {sorted(params.items(), key=str)}"
            if mark in seen:
                raise self._error(
                    f"page {number} is one that was read before",
                    "its mark for the next page does not move on",
                )
            seen.add(mark)
            yield page
            offset += len(page.rows)
            following = self._next(page, url, params, number, offset)
            if following is None:
                return
            url, params = following
        raise self._error(
            f"there are more than {self.source.max_pages} pages", "if that is right: source.max_pages"
        )

    def _first_params(self) -> dict[str, Any]:
        pages = self.source.pages
        params: dict[str, Any] = {
            name: revealed(value) if isinstance(value, str) else value
            for name, value in self.source.params.items()
        }
        for name, bound in (
            (self.source.since_param, self.window.since),
            (self.source.until_param, self.window.until),
        ):
            if name is not None and bound is not None:
                params[name] = self._written(bound)
        if isinstance(pages, NumberedPages):
            params[pages.param] = pages.first
            if pages.size_param:
                params[pages.size_param] = pages.page_rows
        elif isinstance(pages, OffsetPages):
            params |= {pages.param: 0, pages.limit_param: pages.limit}
        return params

    def _written(self, bound: float | str | date) -> Any:
        form = self.source.bounds_as
        if isinstance(bound, date) and form != "as_is":
            moment = (
                bound
                if isinstance(bound, datetime)
                else datetime(bound.year, bound.month, bound.day, tzinfo=UTC)
            )
            if form == "iso":
                return moment.isoformat()
            seconds = moment.timestamp()
            return int(seconds * 1000) if form == "unix_ms" else int(seconds)
        return str(bound) if isinstance(bound, date) else bound

    def _next(
        self, page: _Page, url: str, params: dict[str, Any], number: int, offset: int
    ) -> tuple[str, dict[str, Any]] | None:
        """Where the next page is; None if there is none."""
        pages = self.source.pages
        if isinstance(pages, NumberedPages):
            total = self._number(page, pages.total_pages)
            done = not page.rows if total is None else number >= total
            return None if done else (url, {**params, pages.param: pages.first + number})
        if isinstance(pages, OffsetPages):
            total = self._number(page, pages.total)
            done = not page.rows or (total is not None and offset >= total)
            return None if done else (url, {**params, pages.param: offset})
        if isinstance(pages, CursorPages | HeaderCursorPages):
            if isinstance(pages, CursorPages):
                mark = self._found(page.answer, pages.path)
            else:
                mark = page.response.headers.get(pages.header)
            return (url, {**params, pages.param: mark}) if mark not in {None, "", False} else None
        link = None
        if isinstance(pages, LinkPages):
            link = self._found(page.answer, pages.path)
        elif isinstance(pages, LinkHeaderPages):
            link = page.response.links.get(pages.rel, {}).get("url")
        return (self._same_origin(urljoin(page.response.url, str(link))), {}) if link else None

    def _found(self, answer: Any, path: str) -> Any:
        found = [match.value for match in parse_path(path).find(answer)]
        return found[0] if found else None

    def _number(self, page: _Page, path: str | None) -> int | None:
        if path is None:
            return None
        found = self._found(page.answer, path)
        try:
            return int(found)
        except (TypeError, ValueError):
            raise self._error(f"{path} is {found!r}, not a number", "mend source.pages") from None

    def _same_origin(self, url: str) -> str:
        address = urlsplit(url)
        if (address.scheme, address.hostname, address.port) != self.origin:
            raise self._error(
                f"it sends us on to {address.scheme}://{address.netloc.rpartition('@')[2]}",
                "credentials go to no other server; if that one is right, name it in source.url",
            )
        return url

    # --- one page -----------------------------------------------------------------------------------

    def _page(self, url: str, params: dict[str, Any], number: int) -> _Page:
        rules = self.source.retries
        for attempt in range(1, rules.attempts + 1):
            self._wait_for_our_turn()
            wait: float | None = None
            try:
                response, content = self._asked(url, params)
            except requests.Timeout as error:
                problem = f"no answer in time ({type(error).__name__})"
            except requests.RequestException as error:
                if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidHeader):
                    raise self._error(f"cannot be asked ({hidden(str(error))})", "mend source") from None
                problem = f"the connection failed ({type(error).__name__})"
            else:
                if response.status_code == 401 and self._new_token():
                    continue
                if response.status_code in AGAIN:
                    problem = f"{response.status_code} {response.reason}"
                    wait = self._retry_after(response, number)
                elif response.status_code >= 400:
                    raise self._refused(response, content, number)
                else:
                    parsed = self._parsed(response, content, number)
                    if parsed is not None:
                        return parsed
                    problem = "the answer is cut short"
            if attempt == rules.attempts:
                break
            longest = rules.longest.total_seconds()
            # Full jitter: many clients that failed together do not come back together.
            backed_off = self.clock.jitter() * min(longest, rules.first * 2 ** (attempt - 1))
            self.clock.sleep(backed_off if wait is None else wait)
        raise self._error(
            f"page {number}: {problem}, {rules.attempts} times in a row",
            "is it up? More patience: source.retries",
        )

    def _asked(self, url: str, params: dict[str, Any]) -> tuple[requests.Response, bytes]:
        """Send a request, follow redirects at home, and read the body, as far as we let it grow."""
        headers = {name: revealed(value) for name, value in self.source.headers.items()}
        query = dict(params)
        credentials = self._credentials(headers, query)
        for _ in range(MOST_REDIRECTS + 1):
            response = self.session.request(
                self.source.method,
                url,
                params=query,
                headers={"Accept": "application/json", **headers},
                json=self.source.body,
                auth=credentials,
                timeout=(self.source.connect_seconds, self.source.read_seconds),
                allow_redirects=False,
                stream=True,
            )
            with response:
                if response.status_code in REDIRECTS and "Location" in response.headers:
                    url, query = self._same_origin(urljoin(response.url, response.headers["Location"])), {}
                    continue
                content = bytearray()
                for block in response.iter_content(BLOCK):
                    content += block
                    if len(content) > self.source.max_page_bytes:
                        raise self._error(
                            f"a page has more than {self.source.max_page_bytes} bytes",
                            "ask for smaller ones, or set source.max_page_bytes",
                        )
                return response, bytes(content)
        raise self._error(
            f"it sends us on more than {MOST_REDIRECTS} times", "name the final address in source.url"
        )

    def _parsed(self, response: requests.Response, content: bytes, number: int) -> _Page | None:
        """The rows of a page; None if its JSON ends too early."""
        import json

        try:
            answer = json.loads(content)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            stripped = content.lstrip()
            at_the_end = isinstance(error, json.JSONDecodeError) and (
                error.pos >= len(error.doc.rstrip()) - 1 or "Unterminated" in error.msg
            )
            if stripped[:1] in {b"{", b"["} and at_the_end:
                return None
            kind = response.headers.get("Content-Type", "nothing it names")
            start = hidden(content[:SHOWN].decode(errors="replace").replace("\n", " "))
            raise self._error(
                f"page {number} is {kind}, not JSON: {start!r}", "is the address that of the API?"
            ) from None
        matches = [match.value for match in self.path.find(answer)]
        if not matches:
            known = (
                f"it has: {', '.join(map(str, answer))}"
                if isinstance(answer, dict)
                else f"it is a {type(answer).__name__}"
            )
            raise self._error(
                f"page {number} has nothing at {self.source.select!r}; {hidden(known)[:400]}",
                "mend source.select",
            )
        rows = matches[0] if len(matches) == 1 and isinstance(matches[0], list) else matches
        if rows == [None]:  # many APIs say null for no rows
            rows = []
        return _Page(rows, answer, response)

    # --- waiting ------------------------------------------------------------------------------------

    def _wait_for_our_turn(self) -> None:
        """A bucket that fills at the allowed rate and from which each request takes one."""
        rate = self.source.rate
        if rate is None:
            return
        now = self.clock.now()
        self.allowance = min(float(rate.burst), self.allowance + (now - self.filled) * rate.per_second)
        self.filled = now
        if self.allowance < 1:
            wait = (1 - self.allowance) / rate.per_second
            self.clock.sleep(wait)
            self.allowance, self.filled = 1.0, self.filled + wait
        self.allowance -= 1

    def _retry_after(self, response: requests.Response, number: int) -> float | None:
        said = response.headers.get("Retry-After", "").strip()
        if not said:
            return None
        if said.isdigit():
            wait = float(said)
        else:
            try:
                wait = max(0.0, parsedate_to_datetime(said).timestamp() - self.clock.now())
            except ValueError:
                return None
        longest = self.source.retries.longest.total_seconds()
        if wait > longest:
            raise self._error(
                f"page {number}: {response.status_code}, come back in {wait:.0f} s",
                f"come back then; source.retries.longest is {longest:.0f} s",
            )
        return wait

    # --- who asks -----------------------------------------------------------------------------------

    def _credentials(self, headers: dict[str, str], query: dict[str, Any]) -> Any:
        auth: Auth | None = self.source.auth
        if isinstance(auth, Bearer):
            headers["Authorization"] = f"Bearer {revealed(auth.token)}"
        elif isinstance(auth, ApiKey):
            (headers if auth.where == "header" else query)[auth.name] = revealed(auth.value)
        elif isinstance(auth, Basic):
            return (revealed(auth.user), revealed(auth.password))
        elif isinstance(auth, ClientCredentials):
            if self.token is None or self.clock.now() >= self.token_ends - EARLY:
                self._ask_for_token(auth)
            headers["Authorization"] = f"Bearer {self.token}"
        return None

    def _new_token(self) -> bool:
        """Whether there is a chance with another token: it may have been taken back before its time."""
        auth = self.source.auth
        if not isinstance(auth, ClientCredentials) or self.token is None:
            return False
        before = self.token
        self._ask_for_token(auth)
        return self.token != before

    def _ask_for_token(self, auth: ClientCredentials) -> None:
        data = {"grant_type": "client_credentials"}
        if auth.scopes:
            data["scope"] = " ".join(auth.scopes)
        client, secret = revealed(auth.client_id), revealed(auth.client_secret)
        if auth.in_body:
            data |= {"client_id": client, "client_secret": secret}
        try:
            response = self.session.post(
                revealed(auth.token_url, url=True),
                data=data,
                auth=None if auth.in_body else (client, secret),
                timeout=(self.source.connect_seconds, self.source.read_seconds),
                allow_redirects=False,
            )
            answer = response.json() if response.ok else {}
            token = answer["access_token"]
            lasts = float(answer.get("expires_in", 3600))
        except (requests.RequestException, ValueError, KeyError, TypeError):
            raise self._error(
                "no token is to be had", "check auth.token_url, client_id, client_secret and scopes"
            ) from None
        self.token, self.token_ends = str(token), self.clock.now() + lasts

    # --- errors -------------------------------------------------------------------------------------

    def _refused(self, response: requests.Response, content: bytes, number: int) -> PenstockError:
        hints = {
            401: "check auth, and that the secret is right",
            403: "may these credentials read it?",
            404: "is source.url right?",
        }
        said = hidden(content[:SHOWN].decode(errors="replace").replace("\n", " "))
        return self._error(
            f"page {number}: {response.status_code} {response.reason}: {said}",
            hints.get(response.status_code, "check params, headers and body"),
        )

    def _error(self, message: str, hint: str) -> PenstockError:
        return PenstockError(f"{self.name}: {message}", hint=hint)
